"""No file runs code when it is loaded as a model: pickles are found by content and by name.

Python's pickle is a program, and loading it runs it (docs.python.org, "pickle", warning; CVE-2025-32434 shows that a safe mode
does not hold). So the rule is none at all, not a list of bad names. Nothing is ever unpickled: opcodes are followed with the
depth of the unpickler's stack, through archives and compression, within bounds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from airgap_images.bundle import Component, TreeFile
from airgap_images.layout import Layout
from audit.checks import Examined, Finding, NotAssessed, Note, Severity, Subject, is_model
from audit.checks._containers import Found, Known, Unread, named_like_pickle, search
from manifests.paths import printable

ID = "pickles"
TITLE = "No model file runs code when it is loaded (pickle)"
GATE: str | None = "pickle"
LIMITS = (
    "Only models are searched: trees that are no model (wheels, packages, documents) and images are not opened by this check.",
    "What a pickle would do is not judged; it is reported for being one.",
    "Other formats that can carry code (Keras HDF5, SavedModel, TorchScript sources, engine plans) are not looked into.",
)
DOC = "docs/checks.md#pickles"
DOUBTFUL_NAMES = (".bin", ".npy")  # raw numbers as often as pickles


def run(subject: Subject) -> Iterator[Note]:
    """Search every file of every model."""
    for component, files in subject.trees():
        if is_model(component, files):
            for file in files:
                yield from _file(subject.layout, component, file)


def _file(layout: Layout, component: Component, file: TreeFile) -> Iterator[Note]:
    with os.fdopen(layout.open(file.digest, file.size), "rb") as opened:
        seen = tuple(search(opened))
    found = next((sight for sight in seen if isinstance(sight, Found)), None)
    unread = [sight for sight in seen if isinstance(sight, Unread)]
    if found:
        inside = f", inside it at {found.where}" if found.where else ""
        yield _finding(component, file, "high", f"holds {found.what}{inside}" if inside else f"is {found.what}")
    elif named_like_pickle(file.path):
        yield _finding(component, file, "high", "is named like a pickle, so loaders unpickle it")
    elif file.path.lower().endswith(DOUBTFUL_NAMES) and not any(isinstance(sight, Known) for sight in seen):
        yield _finding(component, file, "medium", "has a name that loaders unpickle; its content is no pickle and no form known here")
    for sight in unread:
        where = f"{sight.where}: " if sight.where else ""
        yield NotAssessed(ID, component.name, file.path, f"{where}{sight.reason}")
    if found or not unread:
        yield Examined(component.name, file.path)


def _finding(component: Component, file: TreeFile, severity: Severity, message: str) -> Finding:
    remedy = "take the model as safetensors or GGUF; or leave the file out with `exclude`; `checks: {pickle: warn}` accepts it"
    return Finding(ID, severity, component.name, file.path, printable(message, 400), remedy, DOC)
