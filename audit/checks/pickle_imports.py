"""Where a policy lets pickles in, they import nothing but what rebuilding tensors needs.

The check ``pickles`` refuses every pickle and can be opened; this one cannot. Its list has exact names; anything else - a call that looks
harmless, a class of an application - is refused, because a gadget needs only one name. Every member of a zip is followed, whatever it is
called.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from airgap_images.bundle import Component, TreeFile
from airgap_images.layout import Layout
from audit.checks import Examined, Finding, Note, Subject, is_model
from audit.checks._containers import DAMAGE, Found, named_like_pickle, search
from audit.checks._imports import ALLOWED, UnfollowedError, imports
from audit.checks._programs import follow
from manifests.paths import printable

ID = "pickle-imports"
TITLE = "Pickles import only what rebuilding tensors needs"
GATE: str | None = None
LIMITS = ("What the allowed names do with hostile arguments is up to the loader; keep it current, and load with `weights_only`.",)
DOC = "docs/checks.md#pickle-imports"
REMEDY = "do not load it; take the model as safetensors or GGUF"
MAX_MEMBERS = 20_000
MAX_NAMED = 5
CONTAINERS = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"\x93NUMPY", b"ZF0x")
SCRIPTS = ("/code/", "constants.pkl")  # of TorchScript archives, which hold a program beside the weights


def run(subject: Subject) -> Iterator[Note]:
    """Follow every pickle in every model."""
    for component, files in subject.trees():
        if is_model(component, files):
            for file in files:
                yield from _file(subject.layout, component, file)


def _file(layout: Layout, component: Component, file: TreeFile) -> Iterator[Note]:
    with os.fdopen(layout.open(file.digest, file.size), "rb") as opened:
        if not any(isinstance(sight, Found) for sight in search(opened)) and not named_like_pickle(file.path):
            return
        try:
            opened.seek(0)
            names = _imports(opened)
        except UnfollowedError as error:
            yield _finding(component, file, f"its imports cannot all be told: {error}", "unfollowed")
            return
    strange = sorted(f"{module}.{name}" for module, name in names - ALLOWED)
    for name in strange[:MAX_NAMED]:
        yield _finding(component, file, f"imports {printable(name, 120)}, which rebuilding tensors does not need", printable(name, 120))
    if len(strange) > MAX_NAMED:
        yield _finding(component, file, f"imports {len(strange) - MAX_NAMED} more names that rebuilding tensors does not need", "more")
    yield Examined(component.name, file.path)


def _imports(file: BinaryIO) -> frozenset[tuple[str, str]]:
    head = file.read(8)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        return _members(file)
    if head.startswith(CONTAINERS):
        raise UnfollowedError("it is compressed, or in a form that is not followed here")
    return imports(file)


def _members(file: BinaryIO) -> frozenset[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if len(members) > MAX_MEMBERS or len(set(names)) != len(names):
                raise UnfollowedError("its zip has too many members, or two of one name")
            if any(mark in f"/{name}" for name in names for mark in SCRIPTS):
                raise UnfollowedError("it is a TorchScript archive, which holds a program")
            for member in members:
                found |= _member(archive, member)
    except DAMAGE as error:
        raise UnfollowedError(f"its zip cannot be read: {printable(str(error), 80)}") from None
    return frozenset(found)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> frozenset[tuple[str, str]]:
    with archive.open(member) as opened:
        head = opened.read(8)
        if head.startswith(CONTAINERS):
            raise UnfollowedError(f"{printable(member.filename, 80)} is a container in a container")
        opened.seek(0)
        if not member.filename.endswith((".pkl", ".pickle")) and follow(opened) != "pickle":
            return frozenset()
        opened.seek(0)
        return imports(opened)  # type: ignore[arg-type]


def _finding(component: Component, file: TreeFile, message: str, about: str) -> Finding:
    return Finding(ID, "critical", component.name, file.path, message, REMEDY, DOC, waivable=False, about=about)
