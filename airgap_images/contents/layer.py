"""Read one layer in one pass: what it adds, what it hides, and what was looked for in its files.

Rules: nothing is unpacked to disk and no link is followed; the bytes must be those the image's configuration names by
their digest (``diff_ids``); how many entries and how much text one image may bring is bounded; an entry whose name no engine
would unpack as it stands is left out and counted.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from airgap_images.contents.tar import FILE, HARD, LINK, Entry, Tar
from airgap_images.contents.unpack import Budget, pieces, refused
from airgap_images.layout import Layout, Progress
from airgap_images.oci import Descriptor, Digest

MAX_ENTRIES = 1_000_000  # of one image, folders that are only implied included
MAX_NAMES = 128 << 20  # characters of names and link targets of one image
MAX_NAME = 4096  # bytes; PATH_MAX of Linux
MAX_DEPTH = 256  # folders
HEAD = 64  # bytes of a file that a search may look at before it decides
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
OUTSIDE, TOO_LONG, TOO_DEEP = "a name that leads out of the image", "a name longer than Linux allows", f"more than {MAX_DEPTH} folders deep"


class Taker(Protocol):
    """What looks at the bytes of one file."""

    def take(self, piece: memoryview) -> bool:
        """Look at the next bytes; False when no more are wanted."""

    def hole(self, count: int) -> bool:
        """Take note of ``count`` zero bytes; False when no more are wanted."""

    def found(self) -> object | None:
        """Return what was found, or None."""


Search = Callable[[str, int, bytes], Taker | None]  # by path, size and first bytes: what wants to look at a file


class Added(NamedTuple):
    """One thing a layer adds; ``found`` is what the search found in a file of ``size`` bytes."""

    kind: str
    path: str
    target: str
    size: int
    found: object | None


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer does: ``hidden`` are paths it removes, ``emptied`` folders whose earlier content it removes."""

    digest: str
    added: tuple[Added, ...]
    hidden: tuple[str, ...]
    emptied: tuple[str, ...]
    left_out: tuple[str, ...]
    size: int


class Bounds:
    """What one image may still bring in entries and names; shared by the threads that read its layers."""

    def __init__(self) -> None:
        self.budget = Budget()
        self._entries, self._names = MAX_ENTRIES, MAX_NAMES
        self._lock = threading.Lock()

    def entry(self, length: int = 0) -> None:
        """Count one entry with ``length`` characters of names; raises IntegrityError when there are too many."""
        with self._lock:
            self._entries -= 1
            self._names -= length
        if self._entries < 0:
            raise refused(f"the image has more than {MAX_ENTRIES} files and folders")
        if self._names < 0:
            raise refused(f"the image has more than {MAX_NAMES} characters of names")


def read(
    layout: Layout, layer: Descriptor, diff_id: Digest, search: Search, bounds: Bounds, *, progress: Progress | None = None
) -> Layer:
    """Read a layer from the store; raises IntegrityError on damage, on a bound, and unless its content has ``diff_id``.

    ``progress`` is told of its bytes as they are read, packed as they are.
    """
    content = hashlib.sha256()
    size = 0

    def hashed(source: Iterator[bytes]) -> Iterator[bytes]:
        nonlocal size
        for piece in source:
            content.update(piece)
            size += len(piece)
            yield piece

    with _Counted(layout.open(layer.digest, layer.size), progress) as raw:
        tar = Tar(hashed(pieces(raw, layer.size, bounds.budget)))
        found = _Reading(search, bounds)
        found.read(tar)
        tar.drain()
    if content.hexdigest() != diff_id.hex:
        raise refused(f"the layer unpacks to sha256 {content.hexdigest()}, its image's configuration says {diff_id.hex}")
    return Layer(layer.digest.hex, tuple(found.added), tuple(found.hidden), tuple(found.emptied), tuple(found.left_out), size)


def clean(name: str) -> str | None:
    """Return a name as a relative path without ``.`` and ``..``; None if it leads out of the image, empty for its root."""
    path = name.removeprefix("./").strip("/")
    if "//" in path or "/." in path or path.startswith("."):
        path = posixpath.normpath(path)
        if path == ".":
            return ""
        return None if path == ".." or path.startswith("../") else path
    return path


class _Counted(io.FileIO):
    """An open file that tells how much of it was read."""

    def __init__(self, fd: int, progress: Progress | None) -> None:
        super().__init__(fd, "rb")
        self._progress = progress

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self._progress and data:
            self._progress(len(data))
        return data


class _Reading:
    def __init__(self, search: Search, bounds: Bounds) -> None:
        self._search, self._bounds = search, bounds
        self.added: list[Added] = []
        self.hidden: list[str] = []
        self.emptied: list[str] = []
        self.left_out: list[str] = []

    def read(self, tar: Tar) -> None:
        for entry in tar:
            self._bounds.entry(len(entry.name) + len(entry.target))
            path, why = self._path(entry)
            if why:
                self.left_out.append(why)
            elif path:
                self._entry(tar, entry, path)

    @staticmethod
    def _path(entry: Entry) -> tuple[str, str]:
        path = clean(entry.name)
        if path is None:
            return "", OUTSIDE
        if len(path) > MAX_NAME or len(entry.target) > MAX_NAME:
            return "", TOO_LONG
        return path, TOO_DEEP if path.count("/") >= MAX_DEPTH else ""

    def _entry(self, tar: Tar, entry: Entry, path: str) -> None:
        folder, _, name = path.rpartition("/")
        if name.startswith(WHITEOUT):
            if name == OPAQUE:
                self.emptied.append(folder)
            else:  # other files of aufs itself begin with the mark twice, and nothing that is there has such a name
                self.hidden.append(posixpath.join(folder, name[len(WHITEOUT) :]))
            return
        found = self._look(tar, entry, path) if entry.kind == FILE else None
        target = entry.target if entry.kind in {LINK, HARD} else ""
        self.added.append(Added(entry.kind, path, target, entry.size, found))

    def _look(self, tar: Tar, entry: Entry, path: str) -> object | None:
        taker = self._search(path, entry.size, b"" if entry.holes else tar.head(HEAD))
        if taker is None:
            return None
        runs = entry.holes.runs if entry.holes else ((0, entry.size),)
        _feed(taker, tar.body(), runs, entry.size)
        return taker.found()


def _feed(taker: Taker, body: Iterator[memoryview], runs: tuple[tuple[int, int], ...], size: int) -> None:
    """Give the whole file to ``taker``: stored runs from ``body``, zeros between them."""
    at, piece = 0, memoryview(b"")
    for offset, length in (*runs, (size, 0)):
        if offset > at and not taker.hole(offset - at):
            return
        at = offset + length
        while length:
            piece = piece or next(body)
            if not taker.take(piece[:length]):
                return
            length, piece = max(0, length - len(piece)), piece[length:]  # noqa: PLW2901
