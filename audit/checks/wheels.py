"""Wheels hold what their RECORD says, and nothing in them runs without being imported.

A file ``*.pth`` with an import line runs at every start of Python: it is how LiteLLM 1.82.7 stole secrets from machines that had only
installed it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from airgap_images.bundle import Component, TreeFile
from airgap_images.layout import Layout
from audit.checks import Examined, Finding, NotAssessed, Note, Subject
from audit.checks._record import Sign, UnreadableError, examine
from manifests.errors import AirgapError
from manifests.paths import printable

ID = "wheels"
TITLE = "Wheels hold what their RECORD says, and run nothing by being installed"
GATE: str | None = "wheels"
LIMITS = (
    "Digests in RECORD are compared while a bundle is built; on the isolated side only names and sizes, for the wheel's sha256 is proven.",
    "What code does when it is imported is not judged.",
    "Releases that are yanked when a bundle is locked are not chosen; nothing here tells of those that are yanked later.",
)
DOC = "docs/checks.md#wheels"
REMEDIES = {
    "pth": "read these lines; take a release without them, or leave the package out",
    "customize": "take a release without it: a package has no business there",
    "sdist": "take a wheel; a source distribution runs its own code where it is installed",
}
DAMAGED = "fetch it again; if it is the same at the index, do not use this release"
SOURCES = (".tar.gz", ".tar.bz2", ".tgz", ".zip")


def run(subject: Subject) -> Iterator[Note]:
    """Examine every wheel of every tree, and find source distributions among Python packages."""
    for component, files in subject.trees():
        if component.kind == "python":
            yield from (_source(component, file) for file in files if file.path.lower().endswith(SOURCES))
        wheels = [file for file in files if file.path.endswith(".whl")]
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            for file, notes in zip(wheels, pool.map(lambda file: _signs(subject.layout, file, subject.building), wheels), strict=True):
                yield from _notes(component, file, notes)


def _signs(layout: Layout, file: TreeFile, deep: bool) -> tuple[Sign, ...] | str:
    try:
        with os.fdopen(layout.open(file.digest, file.size), "rb") as opened:
            return tuple(examine(opened, deep=deep))
    except (UnreadableError, AirgapError) as error:
        return str(error)


def _notes(component: Component, file: TreeFile, signs: tuple[Sign, ...] | str) -> Iterator[Note]:
    if isinstance(signs, str):
        yield NotAssessed(ID, component.name, file.path, signs)
        return
    yield Examined(component.name, file.path)
    for sign in signs:
        remedy = REMEDIES.get(sign.word, DAMAGED)
        yield Finding(ID, sign.grade, component.name, file.path, printable(sign.message, 600), remedy, DOC, about=sign.word)


def _source(component: Component, file: TreeFile) -> Finding:
    return Finding(ID, "high", component.name, file.path, "is a source distribution", REMEDIES["sdist"], DOC, about="sdist")
