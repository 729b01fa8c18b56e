"""The content-addressed store: an OCI image layout whose blobs are written once, atomically, and re-hashed on read.

Rules: a name under ``blobs/sha256/`` appears only complete, verified and synced (temp file, fsync, rename);
reading follows no link, accepts only regular files of the expected size, and fails at the end unless the hash matches;
two processes may write the same blob at once. Unfinished downloads live under ``.partial/`` and are named by digest.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from airgap_images.oci import Descriptor, Digest
from airgap_images.sha512 import Second
from manifests.errors import IntegrityError, InvalidFileError, SiteError

OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
PARTIAL = ".partial"
CHUNK = 1 << 20  # bytes; large enough that hashing, not Python, is the cost
FICLONE = 0x40049409  # ioctl_ficlone(2)
NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOENT, errno.EACCES})

Progress = Callable[[int], None]
PlaceMode = Literal["link", "copy"]


@dataclass(frozen=True, slots=True)
class Layout:
    """A store rooted at ``root``. Opening checks nothing; every read checks what it returns."""

    root: Path

    @classmethod
    def create(cls, root: Path) -> Layout:
        """Make ``root`` a layout if it is not one yet; an existing layout is left as it is."""
        try:
            (root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SiteError(f"{root}: cannot create: {error.strerror}", hint="choose a folder this user may write") from None
        if not (root / "oci-layout").exists():
            write_atomic(root / "oci-layout", OCI_LAYOUT)
        return cls(root)

    def path(self, digest: Digest) -> Path:
        """Return where the blob ``digest`` stands or would stand."""
        return self.root / "blobs" / "sha256" / digest.hex

    def has(self, digest: Digest, size: int) -> bool:
        """Say whether a regular file of that name and size is here, by stat only."""
        try:
            info = os.lstat(self.path(digest))
        except OSError:
            return False
        return stat.S_ISREG(info.st_mode) and info.st_size == size

    def open(self, digest: Digest, size: int) -> int:
        """Open a blob without following links and return the descriptor; raises IntegrityError on a wrong type or size."""
        return open_regular(self.path(digest), f"blobs/sha256/{digest.hex}", size)

    def read(self, descriptor: Descriptor, limit: int) -> bytes:
        """Return the verified bytes of a small blob (at most ``limit`` bytes)."""
        what = f"blobs/sha256/{descriptor.digest.hex}"
        if descriptor.size > limit:
            raise IntegrityError(f"{what}: {descriptor.size} bytes, at most {limit} allowed here", hint="distrust this bundle")
        fd = self.open(descriptor.digest, descriptor.size)
        with os.fdopen(fd, "rb") as file:
            raw = file.read(limit + 1)
        if len(raw) != descriptor.size or Digest.of(raw) != descriptor.digest:
            raise mismatch(what, descriptor.digest, Digest.of(raw))
        return raw

    def check(self, digest: Digest, size: int, progress: Progress | None = None, second: Second | None = None) -> None:
        """Re-hash a blob of any size in constant memory; raises IntegrityError unless it is what its name, and ``second``, says."""
        what = f"blobs/sha256/{digest.hex}"
        fd = self.open(digest, size)
        try:
            with disk(what):
                got = hash_descriptor(fd, progress, second)
        finally:
            os.close(fd)
        _compare(what, digest, got, second)

    def put(self, data: bytes) -> Digest:
        """Store small bytes and return their digest."""
        digest = Digest.of(data)
        if not self.has(digest, len(data)):
            with self._temporary() as temporary, disk(f"blobs/sha256/{digest.hex}"):
                with _new_file(temporary, 0o444) as fd:
                    _write_all(fd, data)
                self._name(temporary, digest)
        return digest

    def take(
        self, source: int, digest: Digest, size: int, *, link: bool = False, progress: Progress | None = None, second: Second | None = None
    ) -> None:
        """Store what the open file ``source`` holds, hashed on the way in, each byte read once.

        With ``link`` the blob becomes a hard link to that very file if the file system allows; otherwise it is
        reflinked or copied, and it is the copy that is hashed, whatever becomes of ``source`` by then. Raises IntegrityError, and
        stores nothing, unless size, digest and ``second`` match.
        """
        what = f"blobs/sha256/{digest.hex}"
        if os.fstat(source).st_size != size:
            found = os.fstat(source).st_size
            raise IntegrityError(f"{what}: {found} bytes, expected {size}", hint="the file changed since it was pinned; lock again")
        with self._temporary() as temporary, disk(what):
            if link and _hard_link(source, temporary):
                got = hash_descriptor(source, progress, second)
                os.fsync(source)
            else:
                with _new_file(temporary, 0o444) as out:
                    cloned = _clone(source, out)
                    got = hash_descriptor(out, progress, second) if cloned else copy_hashed(source, out, progress, second)
                    os.fsync(out)
            _compare(what, digest, got, second)
            os.chmod(temporary, 0o444)
            self._name(temporary, digest)

    def _name(self, temporary: Path, digest: Digest) -> None:
        os.rename(temporary, self.path(digest))
        sync_directory(self.path(digest).parent)

    def adopt(self, fd: int, path: Path, digest: Digest) -> None:
        """Store the finished file ``path`` of this file system, open as ``fd``, by renaming it; the caller has hashed all of it."""
        with disk(f"blobs/sha256/{digest.hex}"):
            os.fchmod(fd, 0o444)
            os.fsync(fd)
            self._name(path, digest)

    def shares(self, source: int, *, link: bool) -> bool:
        """Say, by trying, whether ``take`` of the open file ``source`` would store it without using more disk."""
        if os.fstat(source).st_dev != os.stat(self.root).st_dev:
            return False
        with self._temporary() as temporary:
            if link and _hard_link(source, temporary):
                return True
            with _new_file(temporary, 0o600) as out:
                return _clone(source, out)

    def place(self, digest: Digest, size: int, destination: Path, mode: PlaceMode, progress: Progress | None = None) -> PlaceMode:
        """Put a blob at ``destination`` (which must not exist) and return how: ``link`` or ``copy``.

        A link shares the bytes with the store, so both are read-only; it is made from the open, checked file.
        A copy is reflinked where possible and hashed while it is written; a wrong or unfinished one is removed.
        """
        what = f"blobs/sha256/{digest.hex}"
        fd = self.open(digest, size)
        try:
            if mode == "link" and _hard_link(fd, destination):
                return "link"
            with disk(str(destination)), _new_file(destination, 0o444) as out, _removed_on_failure(destination):
                got = hash_descriptor(out, progress) if _clone(fd, out) else copy_hashed(fd, out, progress)
                if got != digest:
                    raise mismatch(what, digest, got)
            return "copy"
        finally:
            os.close(fd)

    def blobs(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield every name under ``blobs/sha256`` with its lstat, whatever it is; the caller judges."""
        with os.scandir(self.root / "blobs" / "sha256") as entries:
            for entry in entries:
                yield entry.name, entry.stat(follow_symlinks=False)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        folder = self.root / PARTIAL
        folder.mkdir(exist_ok=True)
        path = folder / f"take-{secrets.token_hex(8)}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold an advisory lock on ``path`` while the block runs; raises SiteError if another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with _held(fd, f"{what} is in use by another process", "wait for it to finish, then run again"):
        yield


@contextlib.contextmanager
def alone(folder: Path, doing: str) -> Iterator[None]:
    """Hold a folder itself while the block runs, so that no lock file stands in it; ``doing`` says what for."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SiteError(f"{folder}: cannot be used: {error.strerror}", hint="choose a folder this user may write") from None
    with _held(fd, f"{folder}: {doing} there already", "wait for it, or name another folder"):
        yield


@contextlib.contextmanager
def _held(fd: int, busy: str, hint: str) -> Iterator[None]:
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SiteError(busy, hint=hint) from None
        yield
    finally:
        os.close(fd)


def open_regular(path: Path, what: str, size: int | None = None) -> int:
    """Open a regular file, no links followed, and return the descriptor; raises IntegrityError otherwise."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise IntegrityError(f"{what}: missing", hint="the bundle is incomplete; copy it again from its source") from None
    except OSError as error:
        reason = "a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise IntegrityError(f"{what}: not a readable regular file ({reason})", hint="distrust this copy") from None
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or (size is not None and info.st_size != size):
        os.close(fd)
        got = f"{info.st_size} bytes, expected {size}" if stat.S_ISREG(info.st_mode) else "not a regular file"
        raise IntegrityError(f"{what}: {got}", hint="the copy is damaged or was changed; copy it again")
    return fd


def read_regular(path: Path, what: str, limit: int) -> bytes:
    """Read a small regular file, no links followed, at most ``limit`` bytes."""
    with os.fdopen(open_regular(path, what), "rb") as file:
        large = os.fstat(file.fileno()).st_size > limit
        raw = b"" if large else file.read(limit + 1)
    if large or len(raw) > limit:
        raise IntegrityError(f"{what}: larger than {limit} bytes", hint="distrust this copy")
    return raw


def hash_descriptor(fd: int, progress: Progress | None = None, second: Second | None = None) -> Digest:
    """Return the sha256 of an open file from its start, in constant memory; ``second`` is given the same bytes."""
    digest, buffer, offset = hashlib.sha256(), memoryview(bytearray(CHUNK)), 0
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    while count := os.preadv(fd, [buffer], offset):
        digest.update(buffer[:count])
        if second:
            second.update(buffer[:count])
        offset += count
        if progress:
            progress(count)
    return Digest(digest.hexdigest())


def copy_hashed(source: int, out: int, progress: Progress | None = None, second: Second | None = None) -> Digest:
    """Copy an open file to another and return the sha256 of what was copied; each byte is read once, for ``second`` too."""
    digest, buffer, offset = hashlib.sha256(), memoryview(bytearray(CHUNK)), 0
    while count := os.preadv(source, [buffer], offset):
        digest.update(buffer[:count])
        if second:
            second.update(buffer[:count])
        written = 0
        while written < count:
            written += os.pwrite(out, buffer[written:count], offset + written)
        offset += count
        if progress:
            progress(count)
    return Digest(digest.hexdigest())


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a small file so that its name only ever shows the old or the whole new content, synced to disk."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with _new_file(temporary, mode) as fd:
            _write_all(fd, data)
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise SiteError(f"{path}: cannot write: {error.strerror}", hint="check space and permissions, then run again") from None
    finally:
        temporary.unlink(missing_ok=True)


def remove_torn(path: Path) -> None:
    """Remove what ``write_atomic`` of ``path`` leaves beside it when the process is killed; for whoever is the only one to write it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 16}"):
        left.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make renames and links in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def mismatch(what: str, expected: Digest, got: Digest) -> IntegrityError:
    """Return the error for bytes that are not what their name says."""
    hint = "the copy is damaged or was changed; copy it again"
    return IntegrityError(f"{what}: content is sha256 {got.hex}, expected {expected.hex}", hint=hint)


def _compare(what: str, expected: Digest, got: Digest, second: Second | None) -> None:
    if got != expected:
        raise mismatch(what, expected, got)
    if second:
        second.check(what)


@contextlib.contextmanager
def disk(what: str) -> Iterator[None]:
    """Turn what the operating system refuses while the block runs into a SiteError that names ``what``."""
    try:
        yield
    except OSError as error:
        hint = "check the disk, its space and the permissions, then run again"
        raise SiteError(f"{what}: cannot be read or written: {error.strerror}", hint=hint) from None


@contextlib.contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.fsync(fd)


@contextlib.contextmanager
def _new_file(path: Path, mode: int) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise SiteError(f"{path}: exists already", hint="remove it, then run again") from None
    try:
        yield fd
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def _hard_link(source: int, destination: Path) -> bool:
    # Through /proc so that the link names the very file that is open, whatever its old name points to now.
    try:
        # src_dir_fd is ignored for an absolute path, but makes CPython call linkat(2), which can follow /proc links.
        os.link(f"/proc/self/fd/{source}", destination, src_dir_fd=source, follow_symlinks=True)
    except OSError as error:
        if error.errno in NO_LINK:
            return False
        raise SiteError(f"{destination}: cannot link: {error.strerror}", hint="check space and permissions") from None
    return True


def _clone(source: int, out: int) -> bool:
    try:
        fcntl.ioctl(out, FICLONE, source)
    except OSError:
        return False
    return True


def require_layout(root: Path) -> Layout:
    """Open an existing layout; raises InvalidFileError if ``root`` is not one."""
    if not (root / "oci-layout").is_file() or not (root / "blobs" / "sha256").is_dir():
        raise InvalidFileError(f"{root}: not a bundle (no oci-layout and blobs/sha256)", hint="name the folder that holds index.json")
    return Layout(root)
