"""Decide which files of an image are looked at, and keep what is needed of them while a layer streams by.

Rules: one file is kept up to the limit its reader names, all of an image up to ``MAX_KEPT``; what is larger is named with the reason, never
dropped in silence. ELF files are told by their first bytes, everything else by its name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from airgap_images.contents.layer import Taker

MAX_KEPT = 512 << 20  # bytes kept of one image at once


class Reader(Protocol):
    """What reads the files of one kind; ``kind`` names it."""

    @property
    def KIND(self) -> str:  # noqa: N802 - modules implement this
        """Name it."""

    def limit(self, path: str, name: str) -> int:
        """Return how many bytes of the file at ``path``, named ``name``, may be kept; 0 if it is not wanted."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The bytes of a file that the reader ``kind`` wants."""

    kind: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Unkept:
    """Why a file that the reader ``kind`` wants was not kept."""

    kind: str
    why: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A file that tells of packages which this version does not read; ``what`` names them."""

    what: str


class Room:
    """Bytes of one image that may be kept at once; shared by the threads that read its layers."""

    def __init__(self, limit: int = MAX_KEPT) -> None:
        self._left = limit
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Take room for ``count`` bytes and say whether there was."""
        with self._lock:
            if count > self._left:
                return False
            self._left -= count
            return True

    def give(self, count: int) -> None:
        """Give room back."""
        with self._lock:
            self._left += count


class Keep:
    """Keeps a whole file and hands it to ``done``; else says why not."""

    def __init__(self, size: int, limit: int, room: Room, done: Callable[[bytes | None, str], object]) -> None:
        self._data, self._room, self._done = bytearray(), room, done
        self._why = f"has {size} bytes, at most {limit} are read" if size > limit else ""
        if not self._why and not room.take(size):
            self._why = f"the image has more than {MAX_KEPT} bytes of such files"

    def take(self, piece: memoryview) -> bool:
        """Keep the bytes, if there is room."""
        if not self._why:
            self._data += piece
        return not self._why

    def hole(self, count: int) -> bool:
        """Keep zeros."""
        if not self._why:
            self._data += bytes(count)
        return not self._why

    def found(self) -> object | None:
        """Hand over what was kept."""
        return self._done(None if self._why else bytes(self._data), self._why)


class See:
    """Looks at nothing: the name says enough."""

    def __init__(self, found: object) -> None:
        self._found = found

    def take(self, piece: memoryview) -> bool:  # noqa: ARG002
        """Want nothing."""
        return False

    def hole(self, count: int) -> bool:  # noqa: ARG002
        """Want nothing."""
        return False

    def found(self) -> object | None:
        """Return what the name says."""
        return self._found


class Sieve:
    """The search of one image: by name for ``readers``, by name for what ``seen`` knows, by first bytes for ELF files."""

    def __init__(
        self,
        readers: Iterable[Reader],
        *,
        archive: Callable[[str, str, int, Room], Taker | None],
        seen: Callable[[str, str], Seen | None],
        program: Callable[[int, bytes], Taker | None],
    ) -> None:
        self._readers, self._archive, self._seen, self._program = tuple(readers), archive, seen, program
        self._room = Room()

    def __call__(self, path: str, size: int, head: bytes) -> Taker | None:
        """Return what wants to look at a file, or None."""
        name = path.rpartition("/")[2]
        for reader in self._readers:
            if limit := reader.limit(path, name):
                return self._keep(reader.KIND, size, limit)
        archive = self._archive(path, name, size, self._room)
        if archive is not None:
            return archive
        told = self._seen(path, name)
        return See(told) if told is not None else self._program(size, head)

    def _keep(self, kind: str, size: int, limit: int) -> Keep:
        return Keep(size, limit, self._room, lambda data, why: Unkept(kind, why) if data is None else Kept(kind, data))
