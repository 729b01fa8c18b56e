"""Unpack the bytes of a layer as a stream of pieces: plain, gzip of any number of members, zstd of any number of frames.

Rules: the form is told by the first bytes, as engines tell it, not by the media type; no piece is larger than ``PIECE``; what
one image may unpack to is bounded in bytes and in its ratio to what was packed; what does not unpack to its end is refused.
"""

from __future__ import annotations

import sys
import threading
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from manifests.errors import IntegrityError
from manifests.paths import printable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STEP = 1 << 16  # bytes read at a time
PIECE = 1 << 20  # bytes unpacked at a time
MAX_UNPACKED = 1 << 38  # bytes of one image; 256 GiB
MAX_RATIO = 250  # unpacked bytes for one packed, of a layer; 1,032 is the most that deflate can do
FREE = 256 << 20  # bytes a layer may unpack to whatever its ratio
MAX_MEMBERS = 500_000  # gzip members or zstd frames of a layer; eStargz has one for each file
WINDOW_LOG = 27  # 128 MiB of memory, the most that zstd itself accepts unasked
HINT = "distrust this image, or have its maker build it again"

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_SKIPPABLE = (0x184D2A50, 0x184D2A5F)  # RFC 8878, 3.1.2
_CLOSED = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}


class Budget:
    """What one image may still unpack to; shared by the threads that read its layers."""

    def __init__(self, limit: int = MAX_UNPACKED) -> None:
        self._limit, self._left = limit, limit
        self._lock = threading.Lock()

    def spend(self, count: int) -> None:
        """Take ``count`` bytes; raises IntegrityError when there are no more."""
        with self._lock:
            self._left -= count
            if self._left < 0:
                raise refused(f"the image unpacks to more than {self._limit} bytes")

    def stop(self) -> None:
        """Leave nothing: whoever still reads, ends."""
        with self._lock:
            self._left = -1


def refused(why: str) -> IntegrityError:
    """Return the error for a layer that cannot be read, or is not read because it asks too much."""
    return IntegrityError(why, hint=HINT)


def pieces(file: BinaryIO, packed: int, budget: Budget) -> Iterator[bytes]:
    """Yield what ``file`` of ``packed`` bytes unpacks to; raises IntegrityError on damage and beyond a bound."""
    total, allowed = 0, max(FREE, packed * MAX_RATIO)
    try:
        for piece in _unpacker(file):
            total += len(piece)
            if total > allowed:
                raise refused(f"the layer unpacks to more than {MAX_RATIO} times its size")
            budget.spend(len(piece))
            yield piece
    except (zlib.error, zstd.ZstdError) as error:
        raise refused(f"the layer is damaged: {printable(str(error), 80)}") from None


def _unpacker(file: BinaryIO) -> Iterator[bytes]:
    first = file.read(STEP)
    if first.startswith(_GZIP):
        return _gzip(file, first)
    if first.startswith(_ZSTD) or (len(first) > 3 and _SKIPPABLE[0] <= int.from_bytes(first[:4], "little") <= _SKIPPABLE[1]):  # noqa: PLR2004
        return _zstd(file, first)
    closed = next((name for magic, name in _CLOSED.items() if first.startswith(magic)), None)
    if closed:
        raise refused(f"the layer is compressed with {closed}, which is not read here")
    return _plain(file, first)


def _plain(file: BinaryIO, data: bytes) -> Iterator[bytes]:
    while data:
        yield data
        data = file.read(PIECE)


def _gzip(file: BinaryIO, data: bytes) -> Iterator[bytes]:
    """Each member is a stream of its own (RFC 1952, 2.2)."""
    for _ in range(MAX_MEMBERS):
        state = zlib.decompressobj(31)  # a gzip header, a window of at most 32 KiB
        while not state.eof:
            data = data or file.read(STEP)
            piece = state.decompress(data, PIECE)
            if piece:
                yield piece
            elif not data:
                raise refused("the layer is damaged: its gzip stream ends early")
            data = state.unconsumed_tail
        data = state.unused_data or file.read(STEP)
        if not data:
            return
    raise refused(f"the layer has more than {MAX_MEMBERS} gzip members")


def _zstd(file: BinaryIO, data: bytes) -> Iterator[bytes]:
    """Each frame is a stream of its own; skippable frames unpack to nothing (RFC 8878, 3.1)."""
    for _ in range(MAX_MEMBERS):
        state = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})
        while not state.eof:
            if state.needs_input and not data:
                data = file.read(STEP)
                if not data:
                    raise refused("the layer is damaged: its zstd stream ends early")
            piece = state.decompress(data, PIECE)
            data = b""
            if piece:
                yield piece
        data = state.unused_data or file.read(STEP)
        if not data:
            return
    raise refused(f"the layer has more than {MAX_MEMBERS} zstd frames")
