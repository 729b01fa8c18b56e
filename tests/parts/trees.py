"""Subjects for checks: trees and models of real files in a real store."""

from __future__ import annotations

from pathlib import Path

from airgap_images.bundle import Component, TreeFile, component_descriptor, write_tree
from airgap_images.layout import Layout
from audit.checks import Check, CheckResult, Subject, load, run_one


def subject(folder: Path, files: dict[str, bytes], *, kind: str = "model", model: bool = True, name: str = "m") -> Subject:
    """Store ``files`` as one tree and return it as what a check looks at."""
    layout = Layout.create(folder)
    listed = [TreeFile(path, layout.put(data), len(data)) for path, data in files.items()]
    root = component_descriptor(write_tree(layout, listed, model={"name": name} if model else None), name=name, kind=kind, form="tree")
    return Subject(layout, (Component(name, kind, "tree", None, root),))


def run(check: Check | str, folder: Path, files: dict[str, bytes], **options: object) -> CheckResult:
    return run_one(load(check) if isinstance(check, str) else check, subject(folder, files, **options))  # type: ignore[arg-type]


def said(result: CheckResult) -> list[tuple[str, str, str]]:
    """Severity, path and message of every finding."""
    return [(finding.severity, finding.path, finding.message) for finding in result.findings]
