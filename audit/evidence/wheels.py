"""Read what a wheel says of itself: name and version from its file name, licence and author from its METADATA.

Formats: binary distribution format (file name), core metadata, name normalisation, all of the Python packaging
specifications. Rules: the archive is hostile; no read asks for more than ``MAX_DIRECTORY`` bytes, one member is unpacked and
at most ``MAX_METADATA`` bytes of it; what cannot be read is said, and nothing is unpacked to disk.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from airgap_images.bundle import TreeFile
from airgap_images.layout import Layout
from manifests.paths import printable

MAX_DIRECTORY = 8 << 20  # bytes of a zip's directory; a wheel of 12,000 files has 1.5 MB
MAX_METADATA = 1 << 20  # bytes
MAX_LICENCE = 100  # characters; longer values of ``License`` are licence texts, not names
_PARTS = (5, 6)  # name-version[-build]-python-abi-platform
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!]*")
_INFO = re.compile(r"[^/]+\.dist-info/METADATA")
_MAIL = re.compile(r"\s*<[^<>]*>")
_PLAIN = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_UNKNOWN = frozenset({"", "unknown", "none", "other", "n/a"})
BROKEN = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, EOFError, OSError)

Licences = tuple[tuple[str, str], ...]


class UnreadableError(Exception):
    """Why the METADATA of a wheel could not be read."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What METADATA states; ``licences`` are (text, field it stood in)."""

    name: str
    version: str
    licences: Licences
    author: str | None


def from_filename(path: str) -> tuple[str, str] | None:
    """Return (normalised name, version) of a wheel's file name, or None if it is not one."""
    parts = path.rsplit("/", 1)[-1].removesuffix(".whl").split("-")
    if not path.endswith(".whl") or len(parts) not in _PARTS or not _NAME.fullmatch(parts[0]) or not _VERSION.fullmatch(parts[1]):
        return None
    return normalised(parts[0]), parts[1]


def normalised(name: str) -> str:
    """Return a distribution's name in its one form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def metadata(layout: Layout, file: TreeFile) -> Metadata:
    """Return what the wheel's METADATA states; raises UnreadableError, or IntegrityError if the blob is gone."""
    fd = layout.open(file.digest, file.size)
    with os.fdopen(fd, "rb") as raw:
        try:
            with zipfile.ZipFile(_Bounded(raw)) as archive:
                text = _member(archive)
        except BROKEN as error:
            raise UnreadableError(f"not a readable zip: {printable(str(error), 80)}") from None
    return _parse(text.decode("utf-8", "replace"))


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
    fields: dict[str, list[str]] = {}
    for key, value in _headers(text):
        fields.setdefault(key, []).append(value)
    name, version = (fields.get(key, [""])[0] for key in ("name", "version"))
    if not name or not version:
        raise UnreadableError("METADATA has no Name or no Version")
    return Metadata(normalised(name), version, _licences(fields), _author(fields))


def _headers(text: str) -> Iterator[tuple[str, str]]:
    key, value = "", ""
    for line in (*(line.rstrip("\r") for line in text.split("\n")), ""):
        if line[:1] in {" ", "\t"} and key:
            value += "\n" + line.strip()
            continue
        if key:
            yield key, value.strip()
        if not line:
            return
        key, _, value = line.partition(":")
        key = key.strip().lower()


def _licences(fields: dict[str, list[str]]) -> Licences:
    if stated := _known(fields.get("license-expression", [])):
        return ((stated[0], "License-Expression"),)
    classes = [value.rsplit("::", 1)[-1].strip() for value in fields.get("classifier", []) if value.startswith("License ::")]
    stated = _known(fields.get("license", []))
    if stated and len(stated[0]) <= MAX_LICENCE and "\n" not in stated[0]:
        return ((stated[0], "License"),)
    named = tuple((text, "Classifier") for text in _known(classes) if text != "OSI Approved")
    if named or not stated:
        return named
    return ((printable(stated[0].splitlines()[0], MAX_LICENCE), "License, first line of a text"),)


def _author(fields: dict[str, list[str]]) -> str | None:
    for key in ("author", "maintainer", "author-email", "maintainer-email"):
        for value in _known(fields.get(key, [])):
            first = value.splitlines()[0]
            return printable(_MAIL.sub("", first).strip() or first)  # names are enough; addresses of persons need not travel on
    return None


def _known(values: list[str]) -> list[str]:
    return [value for value in values if value.strip().lower() not in _UNKNOWN]
