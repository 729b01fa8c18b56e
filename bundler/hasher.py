"""A running sha256, on request a sha512 too, computed in a thread of its own: one file is received, hashed and written at once."""

from __future__ import annotations

import hashlib
import threading
from queue import SimpleQueue

from airgap_images.oci import Digest
from airgap_images.sha512 import Second

WORTHWHILE = 256 << 10  # bytes; fewer are hashed sooner than another thread wakes up


class Hasher:
    """Takes data block by block; a block must stay as it is until the next call returns. With ``twice`` it computes the sha512 too."""

    def __init__(self, *, twice: bool = False) -> None:
        self._hash = hashlib.sha256()
        self._second = Second() if twice else None
        self._busy = False
        self._todo: SimpleQueue[memoryview | None] = SimpleQueue()
        self._done: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def update(self, data: memoryview) -> None:
        """Hash the next block after those before it, which are hashed when this returns."""
        self._settle()
        if len(data) < WORTHWHILE:
            self._take(data)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="hasher", daemon=True)
            self._thread.start()
        self._busy = True
        self._todo.put(data)

    def digest(self) -> Digest:
        """Return the sha256 of all blocks so far."""
        self._settle()
        return Digest(self._hash.hexdigest())

    def sha512(self) -> str | None:
        """Return the sha512 (hex) of all blocks so far, None where it is not computed."""
        self._settle()
        return self._second.hex if self._second else None

    def restart(self) -> None:
        """Forget every block."""
        self._settle()
        self._hash = hashlib.sha256()
        self._second = Second() if self._second else None

    def close(self) -> None:
        """End the thread."""
        if self._thread:
            self._todo.put(None)
            self._thread.join()
            self._thread = None

    def _settle(self) -> None:
        if self._busy:
            self._done.get()
            self._busy = False

    def _work(self) -> None:
        while (data := self._todo.get()) is not None:
            self._take(data)
            self._done.put(None)

    def _take(self, data: memoryview) -> None:
        self._hash.update(data)
        if self._second:
            self._second.update(data)
