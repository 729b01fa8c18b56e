"""A file that grows: bytes are hashed and written once as they arrive, and enter the store only whole and right.

Rules: an unfinished file stands in ``.partial/`` under a name that says what it will be; whoever holds its lock is the
only writer, and others wait; its length is always the count of bytes that are hashed; what a dead process left is hashed,
not fetched again; a finished file is synced and then renamed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from airgap_images.layout import CHUNK, PARTIAL, Layout
from airgap_images.oci import Digest
from manifests.errors import SiteError

GATHER = 512 << 10  # bytes gathered before they are hashed and written
MAX_GATHERED = 512  # chunks in one write; the kernel takes 1024 (IOV_MAX)
WRITE_BEHIND = 32 << 20  # bytes after which the disk is told to begin writing, so that the sync at the end finds little left
LINGER = 0.5  # seconds after which bytes of a slow server are written, however few

Wait = Callable[[], None]


class GrowingFile:
    """The open file ``path`` of ``layout``, its ``length`` in bytes so far, and the running sha256 of them."""

    def __init__(self, layout: Layout, fd: int, path: Path) -> None:
        self.length = 0
        self._layout = layout
        self._fd = fd
        self._path = path
        self._hash = hashlib.sha256()
        self._gathered: list[bytes] = []
        self._pending = 0
        self._written_at = time.monotonic()
        self._behind = 0

    @property
    def arrived(self) -> int:
        """Bytes taken so far, those not written yet included."""
        return self.length + self._pending

    @property
    def digest(self) -> Digest:
        """Return the sha256 of the ``length`` bytes."""
        return Digest(self._hash.hexdigest())

    def on_disk(self) -> int:
        """Return how many bytes an earlier writer left."""
        return os.fstat(self._fd).st_size

    def rehash(self, wait: Wait) -> None:
        """Hash what an earlier writer left and go on after it; ``wait`` is called now and then and may raise."""
        self._hash, self.length = hashlib.sha256(), 0
        buffer = memoryview(bytearray(CHUNK))
        while count := os.preadv(self._fd, [buffer], self.length):
            self._hash.update(buffer[:count])
            self.length += count
            wait()
        self._behind = self.length

    def write(self, chunk: bytes) -> int:
        """Take the next bytes; return how many were hashed and written now, of these and of earlier ones."""
        self._gathered.append(chunk)
        self._pending += len(chunk)
        late = time.monotonic() - self._written_at > LINGER
        return self.flush() if self._pending >= GATHER or late or len(self._gathered) >= MAX_GATHERED else 0

    def flush(self) -> int:
        """Hash and write what is gathered; return how many bytes that was."""
        chunks, count = self._gathered, self._pending
        self._gathered, self._pending, self._written_at = [], 0, time.monotonic()
        if count:
            _write_all(self._fd, chunks, self.length, count)
            for chunk in chunks:
                self._hash.update(chunk)
            self.length += count
            self._begin_writing()
        return count

    def _begin_writing(self) -> None:
        if self.length - self._behind >= WRITE_BEHIND:
            # Linux begins to write dirty pages when told that they will not be needed; those being written stay cached.
            os.posix_fadvise(self._fd, self._behind, self.length - self._behind, os.POSIX_FADV_DONTNEED)
            self._behind = self.length

    def restart(self) -> None:
        """Forget every byte."""
        self._gathered, self._pending = [], 0
        os.ftruncate(self._fd, 0)
        self._hash, self.length, self._behind = hashlib.sha256(), 0, 0

    def discard(self) -> None:
        """Remove the file; nothing in it is of use."""
        self._path.unlink(missing_ok=True)

    def keep(self, digest: Digest) -> None:
        """Store the file as the blob ``digest``, which it must be."""
        self._layout.adopt(self._fd, self._path, digest)

    def set_aside(self, name: str, sample: bytes | None = None) -> Path:
        """Move the file, or write ``sample`` in its stead, to ``name`` beside it for inspection; return where that is."""
        path = self._path.with_name(name)
        if sample is not None:
            path.unlink(missing_ok=True)
            path.write_bytes(sample)
            return path
        os.rename(self._path, path)
        return path


@contextlib.contextmanager
def hold(layout: Layout, name: str, wait: Wait) -> Iterator[GrowingFile]:
    """Give the unfinished file ``name`` to this caller alone, empty if there is none; no empty one stays.

    While another one has it, ``wait`` is called before each further look; it sleeps, and may raise.
    """
    path = layout.root / PARTIAL / name
    fd = _locked(path, wait)
    try:
        yield GrowingFile(layout, fd, path)
    finally:
        if not os.fstat(fd).st_size and _is_at(fd, path):
            path.unlink()
        os.close(fd)


def _locked(path: Path, wait: Wait) -> int:
    while True:
        fd = _open(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            wait()
        except OSError as error:
            os.close(fd)
            raise SiteError(f"{path}: cannot be locked: {error.strerror}", hint="choose a disk whose file system has locks") from None
        else:
            if _is_at(fd, path):
                return fd
            os.close(fd)  # the other one finished and renamed it between our open and our lock


def _open(path: Path) -> int:
    path.parent.mkdir(exist_ok=True)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SiteError(f"{path}: cannot open: {error.strerror}", hint="remove it, check permissions, then run again") from None


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _write_all(fd: int, chunks: list[bytes], offset: int, count: int) -> None:
    written = os.pwritev(fd, chunks, offset)
    if written < count:
        rest = memoryview(b"".join(chunks))[written:]
        while rest:
            rest = rest[os.pwrite(fd, rest, offset + count - len(rest)) :]
