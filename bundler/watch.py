"""Who is told how a fetch goes: the terminal's bars, a test, or nobody."""

from __future__ import annotations

from typing import Protocol


class Watch(Protocol):
    """Is told how a fetch goes, from several threads at once; labels are distinct."""

    def begin(self, total: int, files: int) -> None:
        """Take note of the bytes and files that are not here yet; again, with no files, of bytes that are here and are to be read."""

    def started(self, label: str, size: int, have: int) -> None:
        """Take note that a file of ``size`` bytes (0 when unknown) is begun, of which ``have`` are on disk."""

    def moved(self, label: str, count: int) -> None:
        """Take note of ``count`` more bytes; it is negative when bytes turn out useless."""

    def retrying(self, label: str, reason: str, seconds: float) -> None:
        """Take note that a transfer stopped for ``reason`` and goes on after a pause."""

    def finished(self, label: str) -> None:
        """Take note that a file is no longer under way: complete, or given up."""


class Silent:
    """Watches nothing."""

    def begin(self, total: int, files: int) -> None:
        """Ignore it."""

    def started(self, label: str, size: int, have: int) -> None:
        """Ignore it."""

    def moved(self, label: str, count: int) -> None:
        """Ignore it."""

    def retrying(self, label: str, reason: str, seconds: float) -> None:
        """Ignore it."""

    def finished(self, label: str) -> None:
        """Ignore it."""


class Meter:
    """Counts one file's bytes for a watch, so that they can be taken back when another way to the file is tried."""

    def __init__(self, watch: Watch, label: str, size: int) -> None:
        self._watch = watch
        self._label = label
        self._size = size
        self._counted = 0

    def start(self, have: int) -> None:
        """Begin with ``have`` bytes on disk."""
        self._counted = have
        self._watch.started(self._label, self._size, have)

    def moved(self, count: int) -> None:
        """Count bytes, or take some back."""
        if count:
            self._counted += count
            self._watch.moved(self._label, count)

    def retrying(self, reason: str, seconds: float) -> None:
        """Tell of a pause."""
        self._watch.retrying(self._label, reason, seconds)

    def finish(self) -> None:
        """Tell that the file is complete."""
        self._watch.finished(self._label)

    def give_up(self) -> None:
        """Take back what was counted; the file is no longer under way."""
        self.moved(-self._counted)
        self._watch.finished(self._label)
