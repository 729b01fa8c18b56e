"""No configuration carries a secret: keys and tokens of known form, private keys, passwords in addresses.

A bundle is copied, archived and read by auditors; a secret in it is a secret no more. What is found is never shown: the message has its
first characters, its length, and the beginning of its sha256, by which its owner recognises it.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterator

from airgap_images.bundle import Component, TreeFile
from airgap_images.layout import Layout
from audit.checks import Examined, Finding, NotAssessed, Note, Severity, Subject
from manifests.paths import printable

ID = "secrets"
TITLE = "No configuration or text carries a secret"
GATE: str | None = "secrets"
LIMITS = (
    "Only text files of trees are read; wheels, archives, weights and images are not opened by this check.",
    "Only secrets of a known form are found: a password in a sentence is not.",
)
DOC = "docs/checks.md#secrets"
MAX_FILE = 16 << 20  # bytes of a text file
MAX_FOUND = 20  # in one file
BINARY = (
    ".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".npy", ".npz", ".h5", ".whl", ".deb", ".rpm", ".zip", ".gz", ".xz",
    ".zst", ".bz2", ".tar", ".tgz", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".pdf", ".so", ".model", ".parquet", ".run", ".jar",
    ".msgpack",
)  # fmt: skip
UNREAD_NAMES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt")  # lists of tokens: everything looks like something there
KINDS: tuple[tuple[str, Severity, re.Pattern[bytes]], ...] = (
    ("private key", "critical", re.compile(rb"-----BEGIN (?:[A-Z0-9 ]{0,20})PRIVATE KEY-----\s*[A-Za-z0-9+/=]{16}")),
    ("Hugging Face token", "critical", re.compile(rb"\bhf_[A-Za-z0-9]{30,60}\b")),
    ("GitHub token", "critical", re.compile(rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{60,255})\b")),
    ("GitLab token", "critical", re.compile(rb"\bglpat-[A-Za-z0-9_-]{20,40}\b")),
    ("AWS access key", "critical", re.compile(rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")),
    ("Google API key", "critical", re.compile(rb"\bAIza[A-Za-z0-9_-]{35}\b")),
    ("Slack token", "critical", re.compile(rb"\bxox[abeoprs]-[A-Za-z0-9-]{10,200}\b")),
    ("API key (sk-)", "critical", re.compile(rb"\bsk-(?:ant-|proj-|svcacct-)?[A-Za-z0-9_-]{20,200}\b")),
    ("NVIDIA NGC key", "critical", re.compile(rb"\bnvapi-[A-Za-z0-9_-]{40,100}\b")),
    ("PyPI token", "critical", re.compile(rb"\bpypi-AgE[A-Za-z0-9_-]{50,250}\b")),
    ("npm token", "critical", re.compile(rb"\bnpm_[A-Za-z0-9]{36}\b")),
    ("Azure storage key", "critical", re.compile(rb"\bAccountKey=[A-Za-z0-9+/]{86}==")),
    ("JSON web token", "high", re.compile(rb"\beyJ[A-Za-z0-9_-]{10,500}\.eyJ[A-Za-z0-9_-]{10,2000}\.[A-Za-z0-9_-]{10,700}")),
    ("password in an address", "high", re.compile(rb"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@\"'<>{}$]{1,100}:([^\s:/@\"'<>{}$]{3,200})@[A-Za-z0-9.-]+")),
)
_NAMED = re.compile(
    rb"(?i)\b([a-z0-9_.-]{0,40}(?:password|passwd|secret|api[_-]?key|access[_-]?token|auth[_-]?token|private[_-]?key|master[_-]?key))"
    rb"[\"']?\s{0,3}[:=]\s{0,3}[\"']?([A-Za-z0-9+/_=.!@#%^&*~-]{8,200})"
)
_PLACEHOLDER = re.compile(
    rb"(?i)os\.environ|example|changeme|change-me|placeholder|your[-_]|xxx|dummy|<|\$|\{|^(?:none|null|true|false)|(.)\1{5}|^/"
    rb"|\.(?:txt|pem|key)$"
)
ENOUGH = 3.0  # bits of entropy per character from which a value named like a secret is taken for one
LONG = 16  # characters


def run(subject: Subject) -> Iterator[Note]:
    """Examine every text file of every tree."""
    for component, files in subject.trees():
        for file in files:
            name = file.path.lower()
            if name.endswith(BINARY) or name.rsplit("/", 1)[-1] in UNREAD_NAMES:
                continue
            if file.size > MAX_FILE:
                if _is_text(subject.layout, file):
                    yield NotAssessed(ID, component.name, file.path, f"{file.size} bytes of text, at most {MAX_FILE} are read")
                continue
            yield from _file(subject.layout, component, file)


def _file(layout: Layout, component: Component, file: TreeFile) -> Iterator[Note]:
    with os.fdopen(layout.open(file.digest, file.size), "rb") as opened:
        raw = opened.read(MAX_FILE + 1)
    if b"\0" in raw[:8192]:
        return
    yield Examined(component.name, file.path)
    for at, (kind, severity, line, value) in enumerate(found(raw)):
        if at == MAX_FOUND:
            yield _finding(component, file, "high", f"holds more than {MAX_FOUND} secrets", "many")
            return
        digest = hashlib.sha256(value).hexdigest()[:16]
        shown = printable(value[:4].decode("ascii", "replace"), 8)
        yield _finding(component, file, severity, f"line {line}: {kind} {shown}... of {len(value)} characters, sha256 {digest}...", digest)


def found(raw: bytes) -> Iterator[tuple[str, Severity, int, bytes]]:
    """Yield what looks like a secret in ``raw``: its kind, how grave, its line, and the bytes themselves."""
    seen: set[bytes] = set()
    for kind, severity, pattern in KINDS:
        for match in pattern.finditer(raw):
            value = match[1] if pattern.groups else match[0]
            if value not in seen and not (pattern.groups and _PLACEHOLDER.search(value)):
                seen.add(value)
                yield kind, severity, raw.count(b"\n", 0, match.start()) + 1, value
    for match in _NAMED.finditer(raw):
        value = match[2]
        if value not in seen and not any(value in known for known in seen) and _is_random(value):
            seen.add(value)
            yield f"value of {match[1].decode('ascii', 'replace')[-40:]}", "medium", raw.count(b"\n", 0, match.start()) + 1, value


def _is_random(value: bytes) -> bool:
    if len(value) < LONG or _PLACEHOLDER.search(value) or not (re.search(rb"\d", value) and re.search(rb"[A-Za-z]", value)):
        return False
    counts = Counter(value)
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values()) >= ENOUGH


def _is_text(layout: Layout, file: TreeFile) -> bool:
    with os.fdopen(layout.open(file.digest, file.size), "rb") as opened:
        return b"\0" not in opened.read(8192)


def _finding(component: Component, file: TreeFile, severity: Severity, message: str, about: str) -> Finding:
    remedy = "take it out and replace it where it is valid: it must be taken for known; at the site give secrets as files"
    return Finding(ID, severity, component.name, file.path, message, remedy, DOC, about=about)
