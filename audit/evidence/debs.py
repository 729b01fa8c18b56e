"""Read what a Debian package says of itself: the control file in its control archive (deb(5), deb-control(5)).

Rules: the archive is hostile; of it only the headers and the control archive are read, bounded before and after unpacking; its files are
not looked into.
"""

from __future__ import annotations

import io
import lzma
import os
import posixpath
from collections.abc import Iterator
from typing import BinaryIO

from airgap_images.bundle import TreeFile
from airgap_images.contents.packages import dpkg
from airgap_images.contents.packages.package import Package, Release, Text
from airgap_images.contents.tar import FILE, Tar
from airgap_images.contents.unpack import Budget, pieces
from airgap_images.layout import Layout
from manifests.errors import AirgapError
from manifests.paths import printable

MAGIC = b"!<arch>\n"
HEADER = 60  # bytes
MAX_PACKED = 16 << 20  # bytes of a control archive
MAX_UNPACKED = 64 << 20
MAX_CONTROL = 1 << 20  # bytes of the control file
MAX_MEMORY = 128 << 20  # bytes for xz
MAX_ENTRIES = 1000
XZ = b"\xfd7zXZ\0"
CONTROL = "control"


class UnreadableError(Exception):
    """Why a Debian package could not be read."""


def read(layout: Layout, file: TreeFile, release: Release | None = None) -> Package:
    """Return what a package states; ``release`` is the system it is of. Raises UnreadableError, or IntegrityError if the blob is gone."""
    with os.fdopen(layout.open(file.digest, file.size), "rb") as raw:
        packed = _member(raw)
    try:
        text = _control(_unpacked(packed))
    except (AirgapError, lzma.LZMAError) as error:
        raise UnreadableError(f"its control archive cannot be read: {printable(str(error), 120)}") from None
    found = dpkg.control(Text(f"{file.path}/control", text, file.digest.hex), release or Release())
    if found is None:
        raise UnreadableError("its control file has no Package or no Version")
    return found


def _member(raw: BinaryIO) -> bytes:
    """Return the control archive, which is the second member."""
    if raw.read(len(MAGIC)) != MAGIC:
        raise UnreadableError("not a Debian package")
    for _ in range(3):
        header = raw.read(HEADER)
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), header[48:58].strip()
        if len(header) != HEADER or not size.isdigit():
            break
        if name.startswith("control.tar"):
            if int(size) > MAX_PACKED:
                raise UnreadableError(f"its control archive has {int(size)} bytes, at most {MAX_PACKED} are read")
            return raw.read(int(size))
        raw.seek(int(size) + int(size) % 2, os.SEEK_CUR)
    raise UnreadableError("it has no control archive")


def _unpacked(packed: bytes) -> Iterator[bytes]:
    if not packed.startswith(XZ):
        yield from pieces(io.BytesIO(packed), len(packed), Budget(MAX_UNPACKED))
        return
    state = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_MEMORY)
    data, total = packed, 0
    while not state.eof:
        piece = state.decompress(data, 1 << 20)
        total += len(piece)
        if total > MAX_UNPACKED:
            raise UnreadableError(f"its control archive unpacks to more than {MAX_UNPACKED} bytes")
        if not piece and state.needs_input:
            raise UnreadableError("its control archive ends early")
        data = b""
        yield piece


def _control(stream: Iterator[bytes]) -> bytes:
    tar = Tar(stream)
    for at, entry in enumerate(tar):
        if at > MAX_ENTRIES:
            break
        if entry.kind == FILE and posixpath.normpath(entry.name) == CONTROL:
            if entry.stored > MAX_CONTROL:
                raise UnreadableError(f"its control file has {entry.stored} bytes, at most {MAX_CONTROL} are read")
            return b"".join(tar.body())
        for _ in tar.body():
            pass
    raise UnreadableError("its control archive has no control file")
