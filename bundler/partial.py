"""A file that grows: bytes are hashed and written once as they arrive, and enter the store only whole and right.

Rules: an unfinished file stands in ``.partial/`` under a name that says what it will be; whoever holds its lock is the
only writer, and others wait; its length is always the count of bytes that are written, all of which are hashed or being
hashed; what a dead process left is hashed, not fetched again; a finished file is synced and then renamed.

Whole blocks go to the disk past the page cache where the file system can do that: a bundle is larger than what a machine
should forget for it, the copy is saved, and the sync at the end finds nothing left to write.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from airgap_images.layout import PARTIAL, Layout
from airgap_images.oci import Digest
from bundler.hasher import Hasher
from manifests.errors import SiteError

BLOCK = 4 << 20  # bytes gathered before they are written and hashed, unless the caller says otherwise; a power of two
WRITE_BEHIND = 32 << 20  # bytes after which the disk is told to begin writing, so that the sync at the end finds little left
LINGER = 0.2  # seconds after which bytes of a slow server are written, however few

NOT_DIRECT = frozenset({errno.EINVAL, errno.EOPNOTSUPP})  # what a file system says that has no direct writes

Wait = Callable[[], None]


class GrowingFile:
    """The open file ``path`` of ``layout``, its ``length`` in bytes so far, and the running sha256 of them, with ``twice`` the sha512 too.

    Two blocks take turns: while one is filled and written, the other is hashed.
    """

    def __init__(self, layout: Layout, fd: int, path: Path, block: int, *, twice: bool = False) -> None:
        self.length = 0
        self._layout = layout
        self._fd = fd
        self._path = path
        self._size = block
        self._hash = Hasher(twice=twice)
        self._block, self._other = (memoryview(mmap.mmap(-1, block)) for _ in range(2))  # aligned as direct writes want
        self._pending = 0
        self._written_at = time.monotonic()
        self._behind = 0
        self._direct, self._can_be_direct = False, True

    @property
    def arrived(self) -> int:
        """Bytes taken so far, those not written yet included."""
        return self.length + self._pending

    @property
    def digest(self) -> Digest:
        """Return the sha256 of the ``length`` bytes."""
        return self._hash.digest()

    @property
    def sha512(self) -> str | None:
        """Return the sha512 (hex) of the ``length`` bytes, None where it is not computed."""
        return self._hash.sha512()

    def on_disk(self) -> int:
        """Return how many bytes an earlier writer left."""
        return os.fstat(self._fd).st_size

    def rehash(self, wait: Wait) -> None:
        """Hash what an earlier writer left and go on after it; ``wait`` is called now and then and may raise."""
        self._forget()
        while count := os.preadv(self._fd, [self._block], self.length):
            self._hashed(count)
            wait()
        self._behind = self.length

    def write(self, chunk: bytes) -> int:
        """Take the next bytes; return how many were written now, of these and of earlier ones."""
        moved, rest = 0, memoryview(chunk)
        while rest:
            room = self.room()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            moved += self.took(count)
            rest = rest[count:]
        return moved

    def room(self) -> memoryview:
        """Return where the next bytes may be put; ``took`` is then told how many were."""
        return self._block[self._pending : self._size - self.length % self._size]

    def took(self, count: int) -> int:
        """Take note of bytes put into ``room``; return how many were written now, of these and of earlier ones."""
        self._pending += count
        late = time.monotonic() - self._written_at > LINGER
        return self.flush() if late or not self.room() else 0

    def flush(self) -> int:
        """Write what is gathered and have it hashed; return how many bytes that was."""
        count, self._pending, self._written_at = self._pending, 0, time.monotonic()
        if count:
            self._store(self._block[:count])
            self._hashed(count)
        return count

    def _hashed(self, count: int) -> None:
        """Have the block hashed, and go on with the other one."""
        self._hash.update(self._block[:count])
        self._block, self._other = self._other, self._block
        self.length += count

    def _store(self, data: memoryview) -> None:
        written = 0
        if self._can_be_direct and len(data) == self._size:
            written = self._store_directly(data)
        if written < len(data):
            self._set_direct(on=False)
            _write_all(self._fd, data[written:], self.length + written)
            self._begin_writing(self.length + len(data))

    def _store_directly(self, data: memoryview) -> int:
        """Write a whole block past the page cache; return how much of it was, which is nothing where that cannot be done."""
        try:
            self._set_direct(on=True)
            return os.pwrite(self._fd, data, self.length)
        except OSError as error:
            if error.errno not in NOT_DIRECT:
                raise
            self._can_be_direct = False
            return 0

    def _set_direct(self, *, on: bool) -> None:
        if on != self._direct:
            flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
            fcntl.fcntl(self._fd, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
            self._direct = on

    def _begin_writing(self, end: int) -> None:
        if end - self._behind >= WRITE_BEHIND:
            # Linux begins to write dirty pages when told that they will not be needed; those being written stay cached.
            os.posix_fadvise(self._fd, self._behind, end - self._behind, os.POSIX_FADV_DONTNEED)
            self._behind = end

    def restart(self) -> None:
        """Forget every byte."""
        os.ftruncate(self._fd, 0)
        self._forget()

    def _forget(self) -> None:
        self._hash.restart()
        self.length = self._pending = self._behind = 0

    def close(self) -> None:
        """End the hashing; what is gathered and not written is lost."""
        self._hash.close()

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
def hold(layout: Layout, name: str, wait: Wait, block: int = BLOCK, *, twice: bool = False) -> Iterator[GrowingFile]:
    """Give the unfinished file ``name`` to this caller alone, empty if there is none; no empty one stays.

    With ``twice`` its sha512 is computed too. While another one has the file, ``wait`` is called before each further look; it
    sleeps, and may raise.
    """
    path = layout.root / PARTIAL / name
    fd = _locked(path, wait)
    growing = GrowingFile(layout, fd, path, block, twice=twice)
    try:
        yield growing
    finally:
        growing.close()
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


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
