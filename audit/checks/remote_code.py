"""No model brings or names code that a loader would run: Python files, and configuration keys that make loaders import.

The keys work although nobody asked for remote code: CVE-2025-66448, CVE-2026-22807, CVE-2026-27893 and CVE-2026-4944 (vLLM),
CVE-2026-4372 and CVE-2026-5241 (transformers) and CVE-2026-5843 (mlx-lm) each made a loader follow one. So they are refused
wherever they stand in any JSON file of a model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from airgap_images.bundle import Component, TreeFile
from airgap_images.layout import Layout
from audit.checks import Examined, Finding, NotAssessed, Note, Severity, Subject, is_model
from manifests import canonical
from manifests.errors import InvalidFileError
from manifests.paths import printable

ID = "remote-code"
TITLE = "No model brings or names code that a loader runs"
GATE: str | None = "remote_code"
LIMITS = (
    "Only JSON files of models are read; YAML, TOML and templates are not.",
    "Only keys that are known to make loaders run code are looked for; a loader may know others.",
)
DOC = "docs/checks.md#remote-code"
MAX_JSON = 64 << 20  # bytes; the largest tokenizer.json in use have about 35 MB
CODE_FILES = (".py", ".pyc", ".pyw", ".so", ".pyd", ".dll", ".dylib")
CODE_KEYS = frozenset({"auto_map", "trust_remote_code", "custom_pipelines", "model_file"})
ATTENTION = "attn_implementation"
BUILT_IN_ATTENTION = frozenset({"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention"})
OWN_MODULES = "sentence_transformers."
VOCABULARY = 256  # entries from which a map of text to numbers is a vocabulary, whose keys are tokens

Sign = tuple[str, Severity, str]  # where in the document, how grave, what


def run(subject: Subject) -> Iterator[Note]:
    """Examine the names of all files, and the content of every ``*.json``, of every model."""
    for component, files in subject.trees():
        if not is_model(component, files):
            continue
        for file in files:
            name = file.path.lower()
            if name.endswith(".json"):
                yield from _configuration(subject.layout, component, file)
                continue
            if name.endswith(CODE_FILES):
                yield _finding(component, file, "high", "is code; loaders run what a model's configuration names")
            yield Examined(component.name, file.path)


def signs(document: Any, name: str) -> Iterator[Sign]:
    """Yield what in a parsed configuration makes a loader run code; ``name`` is the file's own name."""
    yield from _walk(document, "")
    if name == "modules.json":
        yield from _modules(document)


def _configuration(layout: Layout, component: Component, file: TreeFile) -> Iterator[Note]:
    if file.size > MAX_JSON:
        yield NotAssessed(ID, component.name, file.path, f"{file.size} bytes, at most {MAX_JSON} are read")
        return
    with os.fdopen(layout.open(file.digest, file.size), "rb") as opened:
        raw = opened.read(MAX_JSON + 1)
    try:
        document = canonical.parse(raw, file.path, limit=MAX_JSON, constants=True)
    except InvalidFileError as error:
        yield NotAssessed(ID, component.name, file.path, printable(error.message))
        return
    for where, severity, what in signs(document, file.path.rsplit("/", 1)[-1].lower()):
        yield _finding(component, file, severity, f"{printable(where, 100)} {what}")
    yield Examined(component.name, file.path)


def _walk(node: Any, where: str) -> Iterator[Sign]:
    if isinstance(node, list):
        for number, child in enumerate(node):
            yield from _walk(child, f"{where}[{number}]")
    elif isinstance(node, dict) and not _is_vocabulary(node):
        for key, child in node.items():
            at = f"{where}.{key}" if where else key
            yield from _key(key, child, at)
            yield from _walk(child, at)


def _is_vocabulary(node: dict[str, Any]) -> bool:
    return len(node) >= VOCABULARY and all(type(value) in {int, float} for value in node.values())


def _key(key: str, value: Any, where: str) -> Iterator[Sign]:
    if not value:  # absent by another word: null, false, empty
        return
    if key == "model_file":
        code = isinstance(value, str) and value.lower().endswith(CODE_FILES)
        yield where, "high" if code else "medium", f"names a file of code to load: {_text(value)}"
    elif key in CODE_KEYS:
        yield where, "high", f"names code to run: {_text(value)}"
    elif ATTENTION in key and not key.endswith("_autoset"):
        internal = key.endswith("_internal")
        for text in _texts(value):
            if text not in BUILT_IN_ATTENTION and (internal or "/" in text):
                yield where, "high", f"names a kernel to fetch and run: {_text(text)}"


def _modules(document: Any) -> Iterator[Sign]:
    # Classes outside the library's own are imported from the model or the environment (sentence-transformers issue 3801).
    for at, module in enumerate(document if isinstance(document, list) else ()):
        kind = module.get("type") if isinstance(module, dict) else None
        if kind is not None and not (isinstance(kind, str) and kind.startswith(OWN_MODULES)):
            yield f"[{at}].type", "high", f"names a class from elsewhere: {_text(kind)}"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _texts(child)


def _text(value: Any) -> str:
    return repr(printable(value if isinstance(value, str) else str(value), 80))


def _finding(component: Component, file: TreeFile, severity: Severity, message: str) -> Finding:
    remedy = "use a model that needs no code of its own; or read that code, then `checks: {remote_code: warn}` accepts it"
    return Finding(ID, severity, component.name, file.path, message, remedy, DOC)
