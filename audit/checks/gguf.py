"""GGUF files have exactly the structure they claim; only the header is read.

Loaders in C believed the numbers in it: llama.cpp CVE-2025-53630 and CVE-2026-27940, Ollama CVE-2026-7482. Files are found by name and by
content, so that a renamed one is read too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from airgap_images.bundle import Component, TreeFile
from airgap_images.layout import Layout
from audit.checks import Examined, Finding, NotAssessed, Note, Severity, Subject
from audit.checks._gguf import MAGIC, BadFileError, UnknownFormError, read
from manifests.paths import printable

ID = "gguf"
TITLE = "GGUF weights are well formed and complete"
GATE: str | None = "model_files"
LIMITS = ("The values of weights are not judged: a well-formed file can hold a manipulated model.",)
DOC = "docs/checks.md#gguf"
REMEDY = "fetch the file again; if it is the same at its publisher, do not use it"


def run(subject: Subject) -> Iterator[Note]:
    """Examine every file of every tree that is named like GGUF or begins like it."""
    for component, files in subject.trees():
        for file in files:
            named = file.path.lower().endswith(".gguf")
            if named or (file.size > len(MAGIC) and begins(subject.layout, file)):
                yield from _file(subject.layout, component, file, named=named)


def begins(layout: Layout, file: TreeFile) -> bool:
    """Say whether a file begins as GGUF does."""
    with os.fdopen(layout.open(file.digest, file.size), "rb") as opened:
        return opened.read(len(MAGIC)) == MAGIC


def _file(layout: Layout, component: Component, file: TreeFile, *, named: bool) -> Iterator[Note]:
    with os.fdopen(layout.open(file.digest, file.size), "rb") as opened:
        try:
            header = read(opened, file.size)
        except BadFileError as error:
            yield Examined(component.name, file.path)
            yield _finding(component, file, "high", f"not a well-formed GGUF file: {error}", "structure")
            return
        except UnknownFormError as error:
            yield NotAssessed(ID, component.name, file.path, str(error))
            return
    if header.unknown:
        kinds = ", ".join(map(str, header.unknown))
        yield NotAssessed(ID, component.name, file.path, f"tensors of type {kinds}, of which no size is known here")
    if not named:
        yield _finding(component, file, "medium", "is GGUF under another name", "name")
    yield Examined(component.name, file.path)


def _finding(component: Component, file: TreeFile, severity: Severity, message: str, about: str) -> Finding:
    return Finding(ID, severity, component.name, file.path, printable(message, 400), REMEDY, DOC, about=about)
