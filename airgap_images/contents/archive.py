"""Tar archives of images, read once from a stream: every file in one becomes a blob of a layout, nothing becomes a path.

Rules: no name in an archive is ever a place on this machine, and no link is followed outside the archive; headers and names
are bounded before memory is taken for them, files by the space on the disk; a name stands once; an archive cut short, or
with anything in it that is no plain file, folder or link, is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from airgap_images.contents.tar import FILE, FOLDER, HARD, LINK, Entry, Tar
from airgap_images.contents.unpack import Budget, pieces
from airgap_images.layout import PARTIAL, Layout, disk, mismatch
from airgap_images.oci import MAX_BLOB, Descriptor, Digest
from manifests.errors import IntegrityError, InvalidFileError, SiteError
from manifests.paths import check_relative, printable

MAX_MEMBERS = 100_000  # an engine writes four for each layer
MAX_LINKS = 8  # from one name to the next
MARGIN = 64 << 20  # bytes of disk left free
ANOTHER = "save it again, and distrust whoever gave you this one if that ends the same"

_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}  # by their first bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """A file of an archive as a blob: digest and size in bytes."""

    digest: Digest
    size: int


class Unpacked:
    """The files of an archive, by name, as blobs of a layout."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._files: dict[str, Stored] = {}
        self._links: dict[str, str] = {}

    def find(self, name: str) -> Stored | None:
        """Return the file ``name``, links within the archive followed; None if there is none."""
        for _ in range(MAX_LINKS):
            if name in self._files or name not in self._links:
                return self._files.get(name)
            name = self._links[name]
        raise self._wrong(f"{printable(name)!r} is a link to a link, without end")

    def read(self, layout: Layout, name: str, limit: int) -> bytes:
        """Return a small file; raises InvalidFileError if the archive has none of that name."""
        stored = self.find(name)
        if stored is None:
            raise InvalidFileError(f"{self._what}: the archive has no {printable(name)!r}", hint=ANOTHER)
        return layout.read(Descriptor("application/octet-stream", stored.digest, stored.size), limit)

    def name(self, entry: Entry) -> str:
        """Return the checked name of an entry that stands for the first time; raises if it stands already."""
        name = check_relative(entry.name.removeprefix("./"), self._what)
        if name in self._files or name in self._links:
            raise self._wrong(f"{printable(name)!r} stands twice in the archive")
        if len(self._files) + len(self._links) >= MAX_MEMBERS:
            raise self._wrong(f"more than {MAX_MEMBERS} files in the archive")
        return name

    def add(self, name: str, stored: Stored) -> None:
        """Take in a file."""
        self._files[name] = stored

    def link(self, name: str, entry: Entry) -> None:
        """Take in a link; raises IntegrityError if it leads out of the archive."""
        base = "" if entry.kind == HARD else posixpath.dirname(name)
        target = posixpath.normpath(posixpath.join(base, entry.target))
        if target.startswith(("/", "../")) or target in {".", ".."}:
            raise self._wrong(f"{printable(name)!r} is a link out of the archive, to {printable(entry.target)!r}")
        self._links[name] = target

    def _wrong(self, why: str) -> IntegrityError:
        return IntegrityError(f"{self._what}: {why}", hint=ANOTHER)


def unpack(stream: Iterator[bytes], layout: Layout, what: str) -> Unpacked:
    """Store every file of a tar archive as a blob of ``layout`` and return them by name; ``what`` names it in errors.

    A file named ``blobs/sha256/<hex>`` must have that digest. Raises IntegrityError for an archive that is not whole or
    plays tricks, SiteError if the disk is too small for the next file in it.
    """
    found = Unpacked(what)
    with _archive(what):
        tar = Tar(stream)
        for entry in tar:
            if entry.kind == FOLDER or not entry.name:  # headers of other entries have no name
                continue
            name = found.name(entry)
            if entry.kind in {LINK, HARD}:
                found.link(name, entry)
            elif entry.kind == FILE and entry.holes is None:
                found.add(name, _store(layout, tar, name, entry.size, what))
            else:
                raise IntegrityError(f"{what}: {printable(name)!r} is no plain file, folder or link", hint=ANOTHER)
        tar.drain()  # so that a compressed stream proves its end, and an engine's answer is read to its own
    return found


def contents(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the bytes of an archive of ``size`` bytes, unpacked if it is compressed by gzip or zstd; bounded."""
    return pieces(file, size, Budget(MAX_BLOB))


def diff_id(layout: Layout, stored: Stored, what: str) -> tuple[Digest, str]:
    """Return the sha256 of a layer's tar, and by what the blob is compressed: ``gzip``, ``zstd`` or nothing."""
    with os.fdopen(layout.open(stored.digest, stored.size), "rb") as file:
        head = file.read(4)
        packed = next((name for magic, name in _PACKED.items() if head.startswith(magic)), "")
        if not packed:
            return stored.digest, ""
        file.seek(0)
        digest = hashlib.sha256()
        with _archive(what):
            for piece in contents(file, stored.size):
                digest.update(piece)
    return Digest(digest.hexdigest()), packed


def _store(layout: Layout, tar: Tar, name: str, size: int, what: str) -> Stored:
    """Store the current file of ``tar``; one that is there already is hashed and not written again."""
    claimed = _BLOB.fullmatch(name)
    digest = hashlib.sha256()
    if claimed and layout.has(Digest(claimed[1]), size):
        for piece in tar.body():
            digest.update(piece)
        return Stored(_claimed(digest.hexdigest(), claimed, what), size)
    _require_space(layout, size)
    folder = layout.root / PARTIAL
    path = folder / f"member-{secrets.token_hex(8)}"
    with disk(str(folder)):
        folder.mkdir(exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for piece in tar.body():
            digest.update(piece)
            _write(fd, piece, what)
        found = _claimed(digest.hexdigest(), claimed, what)
        layout.adopt(fd, path, found)
    finally:
        os.close(fd)
        path.unlink(missing_ok=True)
    return Stored(found, size)


def _claimed(got: str, claimed: re.Match[str] | None, what: str) -> Digest:
    if claimed and claimed[1] != got:
        raise mismatch(f"{what}: {claimed[0]}", Digest(claimed[1]), Digest(got))
    return Digest(got)


def _write(fd: int, view: memoryview, what: str) -> None:
    with disk(what):
        while view:
            view = view[os.write(fd, view) :]


def _require_space(layout: Layout, need: int) -> None:
    there = os.statvfs(layout.root)
    free = there.f_bavail * there.f_frsize
    if need + MARGIN > free:
        message = f"{layout.root}: {need} bytes to store and {MARGIN} to spare, but {free} are free"
        raise SiteError(message, hint="free some, or lock in a folder on a larger disk")


@contextlib.contextmanager
def _archive(what: str) -> Iterator[None]:
    """Name the archive in errors of the readers, which call whatever they read a layer."""
    try:
        yield
    except IntegrityError as error:
        if error.message.startswith("the layer "):
            raise IntegrityError(f"{what}: {error.message.replace('the layer', 'the archive', 1)}", hint=ANOTHER) from None
        raise
    except OSError as error:
        raise SiteError(f"{what}: cannot be read: {error.strerror}", hint="check the file and its disk, then run again") from None
