"""Look for pickles in a file by its content, and in what it contains: zip, tar, compressed streams, numpy arrays.

Rules: nothing is unpickled or written to disk; what one file may cost is bounded (bytes unpacked, members, levels), and
where a bound or damage ends the search it says so. The search of a file ends at the first pickle.
"""

from __future__ import annotations

import ast
import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from audit.checks._programs import follow
from manifests.paths import printable

MAX_UNPACKED = 64 << 20  # bytes unpacked from one file
MAX_NESTED = 16 << 20  # bytes kept of one member or compressed stream
MAX_MEMBERS = 20_000
MAX_LEVELS = 4
MAX_DIRECTORY = 8 << 20  # bytes of a zip's central directory
MAX_NPY_HEADER = 1 << 16  # bytes; numpy itself stops at 10,000
STEP = 4096  # bytes unpacked at a time
TAIL = 65_557  # bytes; the end of a zip: its record and the longest comment
BLOCK = 512  # bytes of a tar header

PICKLE_NAMES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill")
OLD_TORCH = frozenset({"pickle", "sys_info", "storages", "tensors"})  # members of the tar that torch wrote before 0.1.10
SAFE_STARTS = (b"GGUF",)
DEFLATE = 0x08  # RFC 1950: the method, in a window of at most 32 KiB
CLOSED = {b"\x04\x22\x4d\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd"}
# What the readers of the standard library raise on damaged or hostile input.
DAMAGE = (
    OSError, EOFError, ValueError, LookupError, OverflowError, NotImplementedError, RuntimeError, struct.error,
    zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """A pickle; ``where`` is the path of members that leads to it, empty for the file itself."""

    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Unread:
    """What could not be searched, and why."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class Known:
    """The file is of a form that holds no pickle."""


Sight = Found | Unread | Known


class _LimitError(Exception):
    """A bound on one member was reached; the search goes on beside it."""


class _SpentError(Exception):
    """What one file may cost is spent; the search of it ends."""


class Budget:
    """What may still be unpacked and opened for one file."""

    def __init__(self) -> None:
        self.unpacked = MAX_UNPACKED
        self.members = MAX_MEMBERS

    def unpack(self, count: int) -> None:
        """Take ``count`` bytes; raises when too many were."""
        self.unpacked -= count
        if self.unpacked < 0:
            raise _SpentError(f"more than {MAX_UNPACKED} bytes to unpack; the rest was not searched")

    def member(self) -> None:
        """Take one member; raises when too many were."""
        self.members -= 1
        if self.members < 0:
            raise _SpentError(f"more than {MAX_MEMBERS} members; the rest was not searched")


class _Spool(io.RawIOBase):
    """A stream that can be read again: what was unpacked is kept, a step at a time, up to a bound."""

    def __init__(self, more: Callable[[int], bytes], budget: Budget) -> None:
        super().__init__()
        self._more, self._budget = more, budget
        self._kept, self._at, self._ended = bytearray(), 0, False

    def _fill(self, end: int) -> None:
        while not self._ended and len(self._kept) < end:
            if len(self._kept) >= MAX_NESTED:
                raise _LimitError(f"more than {MAX_NESTED} bytes in one member")
            chunk = self._more(STEP)
            self._budget.unpack(len(chunk))
            self._kept += chunk
            self._ended = not chunk

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            self._fill(MAX_NESTED + 1)
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._kept)}[whence]
        if start + offset < 0:
            raise ValueError("seek before the start")
        self._at = start + offset
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        end = MAX_NESTED + 1 if size is None or size < 0 else self._at + size
        self._fill(min(end, MAX_NESTED + 1))
        data = bytes(self._kept[self._at : end])
        self._at += len(data)
        return data


class _Window(io.RawIOBase):
    """A file of which no single read may be large: keeps a lying zip from asking for all memory."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            at = self._file.tell()
            size = self._file.seek(0, os.SEEK_END) - at
            self._file.seek(at)
        if size > MAX_DIRECTORY:
            raise _LimitError(f"a directory of more than {MAX_DIRECTORY} bytes")
        return self._file.read(size)


def search(file: BinaryIO) -> Iterator[Sight]:
    """Yield what an open file holds: a pickle, what could not be read, or that it is of a form without pickles."""
    try:
        for sight in _inside(file, "", Budget(), 0):
            yield sight
            if isinstance(sight, Found):
                return
    except _SpentError as error:
        yield Unread("", str(error))


def named_like_pickle(path: str) -> bool:
    """Say whether loaders unpickle a file because of its name."""
    name = path.lower()
    for suffix in (".gz", ".bz2", ".xz", ".lzma", ".z", ".zst", ".lz4"):
        name = name.removesuffix(suffix)
    return name.endswith(PICKLE_NAMES)


def _inside(file: Any, where: str, budget: Budget, level: int) -> Iterator[Sight]:
    if level > MAX_LEVELS:
        yield Unread(where, f"nested deeper than {MAX_LEVELS} levels")
        return
    try:
        yield from _forms(file, where, budget, level)
    except _LimitError as error:
        yield Unread(where, str(error))


def _forms(file: Any, where: str, budget: Budget, level: int) -> Iterator[Sight]:
    head = file.read(BLOCK)
    if head.startswith(b"\x93NUMPY"):
        yield _array(file, where)
        return
    if head.startswith(b"ZF0x"):
        yield Found(where, "an old joblib file, which holds a pickle")
        return
    if (closed := next((name for magic, name in CLOSED.items() if head.startswith(magic)), None)) is not None:
        yield Unread(where, f"compressed with {closed}, which is not opened here")
        return
    known = head.startswith(SAFE_STARTS) or _is_safetensors(head)
    if known:
        yield Known()
    file.seek(0, os.SEEK_SET)
    verdict = follow(file, doubtful=known)
    if verdict == "pickle":
        yield Found(where, "a pickle")
        return
    if verdict == "undecided":
        yield Unread(where, "neither a pickle nor anything else after millions of opcodes")
    yield from _compressed(file, head, where, budget, level)
    if head.startswith(b"PK\x03\x04") or (level == 0 and _ends_like_zip(file)):
        yield from _zip(file, head, where, budget, level)
    elif _is_tar(head):
        yield from _tar(file, where, budget, level)


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and head[5:8] == b"\0\0\0"


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _ends_like_zip(file: Any) -> bool:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL), os.SEEK_SET)
    return b"PK\x05\x06" in file.read(TAIL)


def _array(file: Any, where: str) -> Sight:
    file.seek(6, os.SEEK_SET)
    version = file.read(2)
    width = 2 if version[:1] == b"\x01" else 4
    raw = file.read(width)
    size = int.from_bytes(raw, "little")
    if len(version) + len(raw) < 2 + width or size > MAX_NPY_HEADER:
        return Unread(where, "a numpy array whose header cannot be read")
    try:
        with warnings.catch_warnings(action="ignore"):  # of the parser, about text that is not ours
            header = ast.literal_eval(file.read(size).decode("latin-1").strip())
        holds = _has_objects(header["descr"])
    except (ValueError, SyntaxError, TypeError, LookupError, MemoryError, RecursionError):
        return Unread(where, "a numpy array whose header cannot be read")
    return Found(where, "a numpy array of objects, which holds a pickle") if holds else Known()


def _has_objects(kind: Any) -> bool:
    """Say whether a numpy type description has Python objects in it; raises ValueError on what is none."""
    if isinstance(kind, str):
        return "O" in kind or "object" in kind
    if isinstance(kind, list):
        return any(_has_objects(field[1]) for field in kind)
    if isinstance(kind, tuple):
        return _has_objects(kind[0])
    raise ValueError("not a numpy type description")


def _compressed(file: Any, head: bytes, where: str, budget: Budget, level: int) -> Iterator[Sight]:
    unpacker = _unpacker(head)
    if unpacker is None:
        return
    opened, certain = unpacker
    file.seek(0, os.SEEK_SET)
    inside = f"{where}/unpacked" if where else "unpacked"
    try:
        spool = _Spool(opened(file), budget)
        spool.read(1)
        spool.seek(0, os.SEEK_SET)
        certain = True
        yield from _inside(spool, inside, budget, level + 1)
    except DAMAGE as error:
        if certain:
            yield Unread(where, f"compressed data that cannot be read: {printable(str(error), 80)}")


def _unpacker(head: bytes) -> tuple[Callable[[Any], Callable[[int], bytes]], bool] | None:
    """Return how to unpack, and whether the first bytes leave no doubt; the two short ones also begin other files."""
    if head.startswith(b"\x1f\x8b"):
        return lambda file: gzip.GzipFile(fileobj=file).read, True
    if head.startswith(b"BZh"):
        return lambda file: bz2.BZ2File(file).read, True
    if head.startswith(b"\xfd7zXZ\0"):
        return lambda file: lzma.LZMAFile(file).read, True
    if head.startswith(b"\x5d\0"):
        return lambda file: lzma.LZMAFile(file).read, False
    if len(head) > 1 and head[0] & 0x8F == DEFLATE and int.from_bytes(head[:2]) % 31 == 0:  # RFC 1950, CMF and FLG
        return _zlib, False
    return None


def _zlib(file: Any) -> Callable[[int], bytes]:
    state = zlib.decompressobj()

    def more(size: int) -> bytes:
        nonlocal state
        while True:
            raw = state.unconsumed_tail or file.read(STEP)
            if state.eof:
                raw = state.unused_data + raw
                state = zlib.decompressobj()
            if not raw:
                return b""
            if data := state.decompress(raw, size):
                return data

    return more


def _zip(file: Any, head: bytes, where: str, budget: Budget, level: int) -> Iterator[Sight]:
    try:
        archive = zipfile.ZipFile(_Window(file))
        members = archive.infolist()
    except DAMAGE as error:
        if head.startswith(b"PK\x03\x04"):  # else the end of some other file only looked like one
            yield Unread(where, f"a zip that cannot be read: {printable(str(error), 80)}")
        return
    for member in members:
        if named_like_pickle(member.filename):
            yield Found(_below(where, member.filename), "a file named like a pickle")
            return
    for member in members:
        budget.member()
        if member.filename.endswith("/") and not member.file_size:
            continue
        inside = _below(where, member.filename)
        try:
            with archive.open(member) as opened:
                yield from _inside(_Spool(opened.read, budget), inside, budget, level + 1)
        except DAMAGE as error:
            yield Unread(inside, f"cannot be read: {printable(str(error), 80)}")


def _tar(file: Any, where: str, budget: Budget, level: int) -> Iterator[Sight]:
    file.seek(0, os.SEEK_SET)
    try:
        with tarfile.open(fileobj=_Window(file), mode="r:") as archive:
            for member in archive:
                budget.member()
                inside = _below(where, member.name)
                if member.isreg() and (named_like_pickle(member.name) or member.name in OLD_TORCH):
                    yield Found(inside, "a file named like a pickle")
                    return
                opened = archive.extractfile(member) if member.isreg() else None
                if opened:
                    yield from _inside(_Spool(opened.read, budget), inside, budget, level + 1)
    except DAMAGE as error:
        yield Unread(where, f"a tar that cannot be read: {printable(str(error), 80)}")


def _below(where: str, name: str) -> str:
    return printable(f"{where}/{name}" if where else name)
