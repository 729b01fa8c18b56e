"""Read what a wheel says of itself: name and version from its file name, licence and author from its METADATA, its licence texts.

Formats: binary distribution format (file name), core metadata, name normalisation, all of the Python packaging
specifications. Rules: the archive is hostile; no read asks for more than ``MAX_DIRECTORY`` bytes, only METADATA and licence
texts are unpacked, and at most ``MAX_METADATA`` bytes of each; what cannot be read is said, and nothing is unpacked to disk.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from airgap_images.bundle import TreeFile
from airgap_images.contents.packages import core_metadata
from airgap_images.contents.packages.core_metadata import Metadata, normalised
from airgap_images.layout import Layout
from audit.evidence import licence_texts
from manifests.paths import printable

MAX_DIRECTORY = 8 << 20  # bytes of a zip's directory; a wheel of 12,000 files has 1.5 MB
MAX_METADATA = 1 << 20  # bytes
_PARTS = (5, 6)  # name-version[-build]-python-abi-platform
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!]*")
_BESIDE = re.compile(r"[^/]+\.dist-info/")
_INFO = re.compile(r"[^/]+\.dist-info/METADATA")
_PLAIN = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
BROKEN = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, EOFError, OSError)


class UnreadableError(Exception):
    """Why the METADATA of a wheel could not be read."""


def from_filename(path: str) -> tuple[str, str] | None:
    """Return (normalised name, version) of a wheel's file name, or None if it is not one."""
    parts = path.rsplit("/", 1)[-1].removesuffix(".whl").split("-")
    if not path.endswith(".whl") or len(parts) not in _PARTS or not _NAME.fullmatch(parts[0]) or not _VERSION.fullmatch(parts[1]):
        return None
    return normalised(parts[0]), parts[1]


@dataclass(frozen=True, slots=True)
class Wheel:
    """What a wheel states, and the licence texts it carries: (path in it, bytes)."""

    metadata: Metadata
    texts: tuple[tuple[str, bytes], ...]


def read(layout: Layout, file: TreeFile) -> Wheel:
    """Return what the wheel states; raises UnreadableError, or IntegrityError if the blob is gone."""
    fd = layout.open(file.digest, file.size)
    with os.fdopen(fd, "rb") as raw:
        try:
            with zipfile.ZipFile(_Bounded(raw)) as archive:
                text = _member(archive)
                texts = tuple(_texts(archive))
        except BROKEN as error:
            raise UnreadableError(f"not a readable zip: {printable(str(error), 80)}") from None
    return Wheel(_parse(text.decode("utf-8", "replace")), texts)


def _texts(archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    for info in archive.infolist():
        if _BESIDE.match(info.filename) and licence_texts.is_text(info.filename.rsplit("/", 1)[-1]) and not info.is_dir():
            plain = info.compress_type in _PLAIN and not info.flag_bits & 1
            with archive.open(info) if plain else io.BytesIO() as member:
                yield info.filename, member.read(licence_texts.MAX_TEXT + 1)


class _Bounded(io.BufferedIOBase):
    """A file that never gives more than ``MAX_DIRECTORY`` bytes at once, whatever a zip's directory claims."""

    def __init__(self, raw: io.BufferedReader) -> None:
        self._raw = raw

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = MAX_DIRECTORY + 1 if size is None or size < 0 else size
        if wanted > MAX_DIRECTORY + 1:
            raise zipfile.BadZipFile(f"its directory claims {wanted} bytes, at most {MAX_DIRECTORY} allowed")
        return self._raw.read(wanted)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def seekable(self) -> bool:
        return True


def _member(archive: zipfile.ZipFile) -> bytes:
    found = [info for info in archive.infolist() if _INFO.fullmatch(info.filename)]
    if len(found) != 1:
        raise UnreadableError(f"{len(found)} files named *.dist-info/METADATA, expected 1")
    if found[0].compress_type not in _PLAIN or found[0].flag_bits & 1:
        raise UnreadableError("METADATA is encrypted or packed in an unusual way")
    with archive.open(found[0]) as member:
        text = member.read(MAX_METADATA + 1)
    if len(text) > MAX_METADATA:
        raise UnreadableError(f"METADATA is larger than {MAX_METADATA} bytes")
    return text


def _parse(text: str) -> Metadata:
    found = core_metadata.parse(text)
    if found is None:
        raise UnreadableError("METADATA has no Name or no Version")
    return replace(found, name=normalised(found.name))
