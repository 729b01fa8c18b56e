"""Safetensors files have exactly the structure they claim; only the header is read.

Stricter than the common loader on purpose: a key that stands twice is read differently by different readers, and bytes
outside any tensor (hole, overlap, tail) can hide a second file. Format: safetensors, "Format" section of its README.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from typing import Any

from airgap_images.bundle import Component, TreeFile
from airgap_images.layout import Layout
from audit.checks import Examined, Finding, NotAssessed, Note, Severity, Subject
from manifests import canonical
from manifests.errors import InvalidFileError
from manifests.paths import printable

ID = "safetensors"
TITLE = "Safetensors weights are well formed and complete"
GATE: str | None = None
LIMITS = ("The values of weights are not judged: a well-formed file can hold a manipulated model.",)

MAX_HEADER = 100_000_000  # bytes; the limit of the reference implementation
MAX_DIMENSIONS = 64
MAX_INDEX = 64 << 20  # bytes of a shard index
DOC = "docs/checks.md#safetensors"
FIELDS = {"dtype", "shape", "data_offsets"}
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class _BadFileError(Exception):
    """Why a file is no valid safetensors file."""


def run(subject: Subject) -> Iterator[Note]:
    """Examine every ``*.safetensors`` file and every shard index of every tree."""
    for component, files in subject.trees():
        tensors: dict[str, frozenset[str] | None] = {}
        for file in files:
            if file.path.lower().endswith(".safetensors"):
                yield Examined(component.name, file.path)
                try:
                    tensors[file.path] = frozenset(_tensors(subject.layout, file))
                except _BadFileError as error:
                    tensors[file.path] = None
                    yield _finding(component, file.path, "high", f"not a well-formed safetensors file: {error}")
        for file in files:
            if file.path.lower().endswith(".safetensors.index.json"):
                yield Examined(component.name, file.path)
                yield from _index(subject.layout, component, file, tensors)


def header_names(raw: bytes, data_size: int) -> Iterator[str]:
    """Yield the tensor names of a header (``raw``, without its length) followed by ``data_size`` bytes of data.

    Raises ValueError with the first reason why it is not well formed.
    """
    try:
        yield from _names(raw, data_size)
    except _BadFileError as error:
        raise ValueError(str(error)) from None


def _tensors(layout: Layout, file: TreeFile) -> Iterator[str]:
    fd = layout.open(file.digest, file.size)
    try:
        prefix = os.pread(fd, 8, 0)
        if len(prefix) < 8:  # noqa: PLR2004 - the length field of the format
            raise _BadFileError("shorter than its 8-byte header length")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER:
            raise _BadFileError(f"header of {length} bytes, at most {MAX_HEADER} allowed")
        if 8 + length > file.size:
            raise _BadFileError(f"header of {length} bytes does not fit into {file.size} bytes")
        raw = os.pread(fd, length, 8)
    finally:
        os.close(fd)
    yield from _names(raw, file.size - 8 - length)


def _names(raw: bytes, data_size: int) -> Iterator[str]:
    header = _header(raw)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _BadFileError("__metadata__ is not a map of text to text")
    spans = sorted(_span(name, tensor) for name, tensor in header.items())
    position = 0
    for start, end, name in spans:
        if start != position:
            kind = "overlaps the tensor before it" if start < position else f"leaves {start - position} bytes unused before it"
            raise _BadFileError(f"tensor {printable(name, 80)!r} at {start} {kind}")
        position = end
    if position != data_size:
        what = "bytes follow the last tensor" if data_size > position else "bytes are missing at the end"
        raise _BadFileError(f"{abs(data_size - position)} {what}")
    yield from header


def _header(raw: bytes) -> dict[str, Any]:
    if raw[:1] != b"{":
        raise _BadFileError("header does not start with '{'")
    try:
        # A flat table of up to millions of entries: the strict reader's depth walk would cost more than the parse.
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_int=_natural)
        if b"\\u" in raw:
            json.dumps(header, ensure_ascii=False).encode()  # half a surrogate pair: the reference implementation refuses it
    except RecursionError:
        raise _BadFileError("header is nested too deeply") from None
    except ValueError as error:
        raise _BadFileError(f"header: {printable(str(error), 120)}") from None
    if not isinstance(header, dict):
        raise _BadFileError("header is not an object")
    return header


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice")
    return result


def _natural(text: str) -> int:
    if text.startswith("-"):  # "-0" is an integer here and none in the reference implementation
        raise ValueError("a negative number")
    return int(text)


def _span(name: str, tensor: Any) -> tuple[int, int, str]:
    label = repr(printable(name, 80))
    if not isinstance(tensor, dict) or set(tensor) != FIELDS:
        raise _BadFileError(f"tensor {label} does not have exactly dtype, shape and data_offsets")
    bits = BITS.get(tensor["dtype"]) if isinstance(tensor["dtype"], str) else None
    if bits is None:
        raise _BadFileError(f"tensor {label} has unknown dtype {printable(str(tensor['dtype']), 40)!r}")
    start, end = _offsets(label, tensor["data_offsets"])
    expected = _count(label, tensor["shape"]) * bits
    if expected != (end - start) * 8:
        raise _BadFileError(f"tensor {label} has {end - start} bytes, its shape and dtype need {-(-expected // 8)}")
    return start, end, name


def _offsets(label: str, value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or any(type(n) is not int for n in value):  # noqa: PLR2004 - a pair
        raise _BadFileError(f"tensor {label} has data_offsets that are not two integers")
    start, end = value
    if not 0 <= start <= end <= 1 << 63:
        raise _BadFileError(f"tensor {label} has data_offsets out of range")
    return start, end


def _count(label: str, shape: Any) -> int:
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or any(type(n) is not int or not 0 <= n < 1 << 63 for n in shape):
        raise _BadFileError(f"tensor {label} has a shape that is not a short list of sizes")
    count = 1
    for size in shape:
        count *= size
        if count >= 1 << 64:  # a zero later on does not help: the reference implementation multiplies in this order, too
            raise _BadFileError(f"tensor {label} has a shape that is too large")
    return count


def _index(layout: Layout, component: Component, file: TreeFile, tensors: dict[str, frozenset[str] | None]) -> Iterator[Note]:
    if file.size > MAX_INDEX:
        yield NotAssessed(ID, component.name, file.path, f"{file.size} bytes, at most {MAX_INDEX} are read")
        return
    weights = _weight_map(layout, file)
    if weights is None:
        yield _finding(component, file.path, "high", "not a shard index: weight_map from tensor to file is missing or malformed")
        return
    folder = file.path.rpartition("/")[0]
    listed: dict[str, set[str]] = {}
    for tensor, shard in weights.items():
        listed.setdefault(f"{folder}/{shard}" if folder else shard, set()).add(tensor)
    for shard, names in sorted(listed.items()):
        if shard not in tensors:
            yield _finding(component, file.path, "high", f"names shard {printable(shard)!r}, which is not in this component")
            continue
        found = tensors[shard]
        if found is not None and found != names:
            first = min(found ^ names)
            message = f"and {printable(shard)!r} disagree on {len(found ^ names)} tensors, first {printable(first, 80)!r}"
            yield _finding(component, file.path, "high", message)
    base = file.path[: -len(".safetensors.index.json")].rpartition("/")[2]
    for path in sorted(set(tensors) - set(listed)):
        if path.startswith(f"{folder}/{base}-" if folder else f"{base}-"):
            yield _finding(component, path, "medium", f"a shard that {printable(file.path)!r} does not name")


def _weight_map(layout: Layout, file: TreeFile) -> dict[str, str] | None:
    fd = layout.open(file.digest, file.size)
    with os.fdopen(fd, "rb") as opened:
        raw = opened.read(MAX_INDEX + 1)
    try:
        document = canonical.parse(raw, file.path, limit=MAX_INDEX)
    except InvalidFileError:
        return None
    weights = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(shard, str) for shard in weights.values()):
        return None
    return weights


def _finding(component: Component, path: str, severity: Severity, message: str) -> Finding:
    remedy = "fetch the file again from its publisher; if it is the same there, do not use it"
    return Finding(ID, severity, component.name, path, message, remedy, DOC)
