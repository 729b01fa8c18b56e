"""Tokenizers say what they seem to say: no token stands for two things, nothing is hidden, and no pattern can stall the server.

A tokenizer decides what a model reads. Formats: ``tokenizer.json`` of the tokenizers library, ``tokenizer_config.json`` of transformers,
SentencePiece models. Files are parsed, within bounds; no tokenizer is built.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from airgap_images.bundle import Component, TreeFile
from airgap_images.layout import Layout
from audit.checks import Examined, Finding, NotAssessed, Note, Severity, Subject, is_model
from audit.checks._hidden import hidden
from manifests import canonical
from manifests.errors import AirgapError
from manifests.paths import printable

ID = "tokenizer"
TITLE = "Tokenizers are well formed, and no token or rule hides another meaning"
GATE: str | None = "model_files"
LIMITS = (
    "Whether the vocabulary is that of the model is not judged.",
    "Patterns are judged by their form: one that is slow in a way not known here passes.",
)
DOC = "docs/checks.md#tokenizer"
MAX_JSON = 128 << 20  # bytes; the largest in use have about 35 MB
MODELS = frozenset({"BPE", "WordPiece", "WordLevel", "Unigram"})
USUAL = frozenset({" ", "▁", "", "``", "''", '"'})  # texts that tokenizers replace each other by
MAX_DEPTH = 32  # of rules in rules
_STALLS = re.compile(r"\((?:\?:)?[^()]*[+*][^()]*\)[+*]")  # a repetition of what repeats itself


def run(subject: Subject) -> Iterator[Note]:
    """Examine the tokenizer files of every model."""
    for component, files in subject.trees():
        if not is_model(component, files):
            continue
        tokens: dict[str, dict[str, int]] = {}
        for file in files:
            name = file.path.rsplit("/", 1)[-1].lower()
            if name == "tokenizer.json":
                yield from _tokenizer(subject.layout, component, file, tokens)
            elif name == "tokenizer_config.json":
                yield from _configuration(subject.layout, component, file, tokens)
            elif name in {"tokenizer.model", "spiece.model", "sentencepiece.bpe.model"}:
                yield from _sentencepiece(subject.layout, component, file)


def _tokenizer(layout: Layout, component: Component, file: TreeFile, tokens: dict[str, dict[str, int]]) -> Iterator[Note]:
    document = _json(layout, component, file)
    if isinstance(document, NotAssessed):
        yield document
        return
    yield Examined(component.name, file.path)
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        yield _finding(component, file, "high", "is no tokenizer: it has no `model`", "structure")
        return
    kind = document["model"].get("type")
    if kind is not None and kind not in MODELS:
        yield NotAssessed(ID, component.name, file.path, f"model of type {printable(str(kind), 40)}, which is not known here")
    vocabulary = _vocabulary(document["model"].get("vocab"))
    yield from _vocabulary_notes(component, file, vocabulary)
    added = document.get("added_tokens") or []
    found = {entry["content"]: entry["id"] for entry in added if _is_token(entry)} if isinstance(added, list) else {}
    if not isinstance(added, list) or len(found) != len(added):
        yield _finding(component, file, "high", "has added tokens that stand twice, or have no `id` and `content`", "structure")
    tokens[os.path.dirname(file.path)] = found
    yield from _added(component, file, found, vocabulary)
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        yield from _rules(component, file, part, document.get(part), 0)


def _vocabulary(stated: Any) -> dict[str, int]:
    if isinstance(stated, dict):
        return {token: number for token, number in stated.items() if isinstance(number, int)}
    if isinstance(stated, list):  # Unigram: pairs of token and score; the number is the place
        return {entry[0]: at for at, entry in enumerate(stated) if isinstance(entry, list) and entry and isinstance(entry[0], str)}
    return {}


def _vocabulary_notes(component: Component, file: TreeFile, vocabulary: dict[str, int]) -> Iterator[Note]:
    if len(set(vocabulary.values())) != len(vocabulary):
        yield _finding(component, file, "medium", "gives two tokens of its vocabulary one number", "numbers")
    if any(number < 0 for number in vocabulary.values()):
        yield _finding(component, file, "high", "gives tokens numbers below zero", "numbers")


def _added(component: Component, file: TreeFile, found: dict[str, int], vocabulary: dict[str, int]) -> Iterator[Note]:
    """Find added tokens with a meaning that a reader does not expect of them."""
    numbers = {number: token for token, number in vocabulary.items()}
    for token, number in found.items():
        told = repr(printable(token, 60))
        if vocabulary.get(token, number) != number:
            message = f"added token {told} is {number}, the vocabulary says {vocabulary[token]}"
            yield _finding(component, file, "high", message, "numbers")
        elif numbers.get(number, token) != token:
            message = f"added token {told} has the number of {printable(numbers[number], 60)!r}: text can be read as a control token"
            yield _finding(component, file, "high", message, "numbers")
        if names := hidden(token):
            yield _finding(component, file, "medium", f"added token {told} holds hidden characters: {', '.join(names[:3])}", "hidden")
    if len(set(found.values())) != len(found):
        yield _finding(component, file, "high", "gives two added tokens one number", "numbers")


def _rules(component: Component, file: TreeFile, where: str, rule: Any, depth: int) -> Iterator[Note]:
    """Look at the rules by which text is rewritten or cut."""
    if depth > MAX_DEPTH:
        yield _finding(component, file, "high", f"{where}: rules nested deeper than {MAX_DEPTH}", "structure")
        return
    for child in rule if isinstance(rule, list) else ():
        yield from _rules(component, file, where, child, depth + 1)
    if not isinstance(rule, dict):
        return
    pattern = rule.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    if isinstance(regex, str) and _STALLS.search(regex):
        message = f"{where}: the pattern {printable(regex, 80)!r} repeats what repeats itself, and can take forever"
        yield _finding(component, file, "medium", message, "pattern")
    if rule.get("type") == "Replace" and isinstance(pattern, dict):
        old, new = pattern.get("String"), rule.get("content")
        if isinstance(old, str) and isinstance(new, str) and not {old, new} <= USUAL:
            message = f"{where}: every {printable(old, 60)!r} is read as {printable(new, 60)!r}"
            yield _finding(component, file, "medium", message, "replace")
    for child in rule.values():
        if isinstance(child, (dict, list)):
            yield from _rules(component, file, where, child, depth + 1)


def _configuration(layout: Layout, component: Component, file: TreeFile, tokens: dict[str, dict[str, int]]) -> Iterator[Note]:
    document = _json(layout, component, file)
    if isinstance(document, NotAssessed):
        yield document
        return
    yield Examined(component.name, file.path)
    stated = document.get("added_tokens_decoder") if isinstance(document, dict) else None
    known = tokens.get(os.path.dirname(file.path))
    if not isinstance(stated, dict) or known is None:
        return
    for number, entry in stated.items():
        content = entry.get("content") if isinstance(entry, dict) else entry
        if isinstance(content, str) and str(known.get(content, number)) != number:
            message = f"token {printable(content, 60)!r} is {number} here and {known[content]} in tokenizer.json"
            yield _finding(component, file, "high", message, "numbers")


def _sentencepiece(layout: Layout, component: Component, file: TreeFile) -> Iterator[Note]:
    with os.fdopen(layout.open(file.digest, file.size), "rb") as opened:
        first = opened.read(1)
    if first != b"\x0a":  # field 1 of a protobuf message: the pieces
        yield _finding(component, file, "medium", "does not begin as a SentencePiece model does", "structure")
    yield Examined(component.name, file.path)


def _json(layout: Layout, component: Component, file: TreeFile) -> Any:
    if file.size > MAX_JSON:
        return NotAssessed(ID, component.name, file.path, f"{file.size} bytes, at most {MAX_JSON} are read")
    with os.fdopen(layout.open(file.digest, file.size), "rb") as opened:
        raw = opened.read(MAX_JSON + 1)
    try:
        return canonical.parse(raw, file.path, limit=MAX_JSON, constants=True)
    except AirgapError as error:
        return NotAssessed(ID, component.name, file.path, printable(error.message, 300))


def _is_token(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("content"), str) and type(entry.get("id")) is int


def _finding(component: Component, file: TreeFile, severity: Severity, message: str, about: str) -> Finding:
    remedy = "compare it with the publisher's revision; use the tokenizer of a revision that people have read"
    return Finding(ID, severity, component.name, file.path, printable(message, 400), remedy, DOC, about=about)
