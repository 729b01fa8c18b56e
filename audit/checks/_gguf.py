"""Read the header of a GGUF file: metadata, the list of tensors, and whether they fill the file exactly.

Format: "GGUF" in the documentation of ggml, versions 2 and 3, little endian. Rules: every count and length is held against a limit and
against the bytes that are left before it is believed (llama.cpp CVE-2025-53630 and CVE-2026-27940, Ollama CVE-2026-7482 believed them);
tensors follow each other from the first byte of the data to the last, padded to the alignment, as loaders assume; weights are not read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ARRAY, STRING = 9, 8
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
MAX_KEYS = 65_536
MAX_TENSORS = 200_000
MAX_KEY = 65_535  # bytes, the format's own limit
MAX_STRING = 16 << 20  # bytes
MAX_ARRAY = 8 << 20  # elements; the largest vocabularies have about 300,000
MAX_HEADER = 1 << 30  # bytes
MAX_DIMENSIONS = 4
MAX_NAME = 64  # bytes of a tensor's name, ggml's own limit
MAX_ALIGNMENT = 1 << 20
MAX_DEPTH = 2  # arrays in arrays
DEFAULT_ALIGNMENT = 32
KEPT = frozenset({"general.architecture", "general.license", "general.name", "general.alignment"})  # values that are kept
TEMPLATE = "tokenizer.chat_template"  # and what stands below it
SIZES = {  # of a type: elements of a block, bytes of a block
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip


class BadFileError(Exception):
    """Why a file is no well-formed GGUF file."""


class UnknownFormError(Exception):
    """Why a file cannot be judged: a form of GGUF that is not known here."""


class Reader(Protocol):
    """What is read."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes."""


@dataclass(slots=True)
class Header:
    """What a header says.

    ``kept`` are the values of the keys in ``KEPT`` and of chat templates; ``unknown`` are tensor types without a size here.
    """

    version: int
    keys: int = 0
    kept: dict[str, Any] = field(default_factory=dict)
    tensors: tuple[tuple[str, int, int], ...] = ()  # name, offset, bytes
    unknown: tuple[int, ...] = ()


@dataclass(slots=True)
class _Input:
    """Bytes with a position, so that no length is believed that goes past the end."""

    file: Reader
    size: int
    at: int = 0

    def take(self, count: int) -> bytes:
        if count > self.size - self.at or self.at + count > MAX_HEADER:
            raise BadFileError(f"{count} bytes are announced at {self.at}, {self.size - self.at} are left")
        raw = self.file.read(count)
        if len(raw) != count:
            raise BadFileError(f"ends at {self.at + len(raw)}, in the middle of its header")
        self.at += count
        return raw

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def text(self, limit: int, what: str) -> str:
        length = self.number("Q")
        if length > limit:
            raise BadFileError(f"{what} of {length} bytes, at most {limit} allowed")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise BadFileError(f"{what} is no UTF-8") from None


def read(file: Reader, size: int) -> Header:
    """Read the header of ``file`` (``size`` bytes); raises BadFileError, or UnknownFormError where it cannot be judged."""
    source = _Input(file, size)
    if source.take(len(MAGIC)) != MAGIC:
        raise BadFileError("does not begin with GGUF")
    version = source.number("I")
    if version not in VERSIONS:
        if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
            raise UnknownFormError("is big endian")
        raise BadFileError(f"version {version}, expected 2 or 3")
    header = Header(version)
    count, keys = source.number("Q"), source.number("Q")
    if count > MAX_TENSORS or keys > MAX_KEYS:
        raise BadFileError(f"{count} tensors and {keys} keys are announced, at most {MAX_TENSORS} and {MAX_KEYS} allowed")
    _metadata(source, header, keys)
    infos = list(_infos(source, count))
    _check_extents(header, infos, source, _alignment(header))
    return header


def _metadata(source: _Input, header: Header, count: int) -> None:
    seen: set[str] = set()
    for _ in range(count):
        key = source.text(MAX_KEY, "a key")
        if key in seen:
            raise BadFileError(f"key {key[:80]!r} stands twice")
        seen.add(key)
        value = _value(source, source.number("I"), 0)
        if key in KEPT or key.startswith(TEMPLATE):
            header.kept[key] = value
    header.keys = count


def _value(source: _Input, kind: int, depth: int) -> Any:
    if kind in SCALARS:
        return source.number(SCALARS[kind])
    if kind == STRING:
        return source.text(MAX_STRING, "a text")
    if kind != ARRAY:
        raise BadFileError(f"a value of type {kind}, which there is not")
    if depth == MAX_DEPTH:
        raise BadFileError(f"arrays nested deeper than {MAX_DEPTH}")
    inner, length = source.number("I"), source.number("Q")
    if length > MAX_ARRAY:
        raise BadFileError(f"an array of {length} elements, at most {MAX_ARRAY} allowed")
    if inner in SCALARS:
        source.take(length * struct.calcsize(f"<{SCALARS[inner]}"))
        return None
    for _ in range(length):
        _value(source, inner, depth + 1)
    return None


def _alignment(header: Header) -> int:
    found = header.kept.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 < found <= MAX_ALIGNMENT or found & (found - 1):
        raise BadFileError(f"alignment {found!r}, which is no power of two up to {MAX_ALIGNMENT}")
    return found


def _infos(source: _Input, count: int) -> Iterator[tuple[str, int, int, int]]:
    """Yield name, number of elements, type and offset of each tensor."""
    seen: set[str] = set()
    for _ in range(count):
        name = source.text(MAX_NAME, "the name of a tensor")
        if name in seen:
            raise BadFileError(f"tensor {name!r} stands twice")
        seen.add(name)
        dimensions = source.number("I")
        if dimensions > MAX_DIMENSIONS:
            raise BadFileError(f"tensor {name!r}: {dimensions} dimensions, at most {MAX_DIMENSIONS} allowed")
        elements = 1
        for _ in range(dimensions):
            elements *= source.number("Q")
        if elements >= 1 << 63:
            raise BadFileError(f"tensor {name!r}: more elements than a loader can count")
        yield name, elements, source.number("I"), source.number("Q")


def _check_extents(header: Header, infos: list[tuple[str, int, int, int]], source: _Input, alignment: int) -> None:
    """Raise BadFileError unless the tensors follow each other and fill the file; where a type is unknown, only as far as that goes."""
    start = _padded(source.at, alignment)
    expected: int | None = 0
    placed: list[tuple[str, int, int]] = []
    unknown: set[int] = set()
    for name, elements, kind, offset in infos:
        if offset % alignment or start + offset > source.size:
            raise BadFileError(f"tensor {name!r}: offset {offset} is not aligned to {alignment}, or beyond the end")
        if expected is not None and offset != expected:
            word = "overlaps the one before it" if offset < expected else f"leaves {offset - expected} bytes before it to nobody"
            raise BadFileError(f"tensor {name!r} {word}")
        block = SIZES.get(kind)
        if block is None:
            unknown.add(kind)
            expected = None
            continue
        if elements % block[0]:
            raise BadFileError(f"tensor {name!r}: {elements} elements are no whole number of blocks of {block[0]}")
        length = elements // block[0] * block[1]
        if start + offset + length > source.size:
            raise BadFileError(f"tensor {name!r}: {length} bytes from {offset}, beyond the end")
        placed.append((name, offset, length))
        expected = _padded(offset + length, alignment)
    if expected is not None and source.size > start + expected:
        raise BadFileError(f"{source.size - start - expected} bytes after the last tensor belong to nobody")
    header.tensors, header.unknown = tuple(placed), tuple(sorted(unknown))


def _padded(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
