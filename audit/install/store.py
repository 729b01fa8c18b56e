"""The store of a site: where things stand in it, who may write it, and how ``current`` is switched.

Rules: only one process writes a store at a time, and only the user who owns it; no part of it is a symbolic link but
``current``; a name shows the old or the whole new thing. What a killed process left behind is cleaned by the next writer,
under the lock. Files that are not ours are never touched.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from airgap_images.layout import PARTIAL, Layout, exclusive, sync_directory, write_atomic
from airgap_images.oci import Digest
from airgap_images.sha512 import SHA512SUMS
from audit import journal, sealed
from audit.verify import state
from audit.verify.walk import Place, read_signatures
from manifests import statement
from manifests.errors import AirgapError, IntegrityError, SiteError, UsageError
from manifests.paths import printable

CURRENT = "current"
LOCK = ".lock"
NEW = ".new"  # a generation or a bundle that is being made; its name never shows it as one
POLICY = "policy.json"
LEDGER = "images.json"  # what this store put into targets
FOLDERS = ("blobs", "blobs/sha256", "bundles", "generations", "receipts", PARTIAL)
FILES = ("oci-layout", journal.FILE, state.FILE, LEDGER, LOCK)
KEPT = ("receipts", journal.FILE, state.FILE, state.POLICIES)  # what stays after everything was uninstalled
OPEN = 0o755
REPLACED = "somebody changed it: look at it, remove it, then install again"

_HEX = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_TAKE = re.compile(r"take-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Store:
    """A store at ``root``, an absolute path without links."""

    root: Path

    @classmethod
    def existing(cls, folder: Path) -> Store:
        """Return the store at ``folder`` for reading; raises SiteError if there is none."""
        store = cls(Path(os.path.realpath(folder)))
        if not os.path.isdir(store.root / "receipts"):
            raise SiteError(f"{folder}: no store here", hint="name the site's store, or `airgap-audit install` a bundle into it first")
        return store

    @classmethod
    def create(cls, folder: Path) -> Store:
        """Return the store at ``folder``, made if need be; raises SiteError if this user may not or should not write it."""
        store = cls(Path(os.path.realpath(folder)))
        if os.path.lexists(store.root / "index.json"):
            raise SiteError(f"{folder}: is a bundle, not a store", hint="choose another folder as `store`, e.g. /srv/airgap")
        try:
            store.root.parent.mkdir(parents=True, exist_ok=True)
            for part in (store.root, *(store.root / part for part in FOLDERS)):
                if not os.path.lexists(part):
                    make_folder(part)
        except OSError as error:
            raise SiteError(f"{store.root}: cannot create: {error.strerror}", hint="choose a folder this user may write") from None
        store.check_ours()
        Layout.create(store.root)
        return store

    @classmethod
    def writable(cls, folder: Path) -> Store:
        """Return the store at ``folder`` for writing; raises SiteError if there is none, or as ``create`` does."""
        cls.existing(folder)
        return cls.create(folder)

    @property
    def layout(self) -> Layout:
        """Return the blobs."""
        return Layout(self.root)

    @property
    def new_generation(self) -> Path:
        """Return where a generation is made before it has a number."""
        return self.root / "generations" / NEW

    def generation(self, number: int) -> Path:
        """Return where generation ``number`` stands or would stand."""
        return self.root / "generations" / str(number)

    def generations(self) -> tuple[int, ...]:
        """Return the numbers of all generations there are, ascending."""
        return _numbers(names(self.root / "generations"))

    def receipt(self, number: int) -> Path:
        """Return where the receipt of generation ``number`` stands or would stand."""
        return self.root / "receipts" / f"{number}.json"

    def receipts(self) -> tuple[int, ...]:
        """Return the numbers of all receipts there are, ascending; receipts outlive their generations."""
        return _numbers(name.removesuffix(".json") for name in names(self.root / "receipts") if name.endswith(".json"))

    def bundle(self, digest: Digest) -> Path:
        """Return where the root files of a bundle stand or would stand."""
        return self.root / "bundles" / digest.hex

    def bundles(self) -> tuple[Digest, ...]:
        """Return the digests of all bundles there are, sorted."""
        return tuple(Digest(name) for name in names(self.root / "bundles") if _HEX.fullmatch(name))

    def streams(self, digest: Digest) -> frozenset[str]:
        """Return the streams that the signatures kept of a bundle name; one, unless somebody changed them."""
        return frozenset(stream for stream, _ in _claims(self, digest))

    def place(self, digest: Digest) -> Place:
        """Return the place of a bundle in this store, for ``verify``."""
        return Place(self.bundle(digest), self.layout, whole=False)

    def current(self) -> int | None:
        """Return the number of the current generation; raises IntegrityError if ``current`` is not what this program makes."""
        link = self.root / CURRENT
        try:
            target = os.readlink(link)
        except FileNotFoundError:
            return None
        except OSError:
            raise IntegrityError(f"{link}: not a symbolic link", hint=REPLACED) from None
        number = target.removeprefix("generations/")
        if target == number or not _NUMBER.fullmatch(number):
            raise IntegrityError(f"{link}: points to {printable(target)!r}, not to a generation", hint=REPLACED)
        return int(number)

    def switch(self, number: int) -> None:
        """Make generation ``number`` the current one, in one rename, durably."""
        temporary = self.root / f".{CURRENT}.{secrets.token_hex(8)}"
        os.symlink(f"generations/{number}", temporary)
        os.rename(temporary, self.root / CURRENT)
        sync_directory(self.root)

    def keep(self, digest: Digest, files: tuple[tuple[str, bytes], ...]) -> None:
        """Keep exactly ``files`` - the signed files, signatures and policy of a proven bundle - under its digest."""
        folder = self.bundle(digest)
        if folder.is_dir():
            for name, raw in files:
                if not holds(folder / name, raw):
                    make_folder(folder / "signatures")
                    write_atomic(folder / name, raw)
            for name in set(names(folder / "signatures")) - {name.removeprefix("signatures/") for name, _ in files}:
                remove(folder / "signatures" / name)
            if SHA512SUMS not in dict(files):  # signed anew without it
                remove(folder / SHA512SUMS)
            return
        new = self.root / "bundles" / NEW
        make_folder(new)
        make_folder(new / "signatures")
        for name, raw in files:
            write_atomic(new / name, raw)
        os.rename(new, folder)
        sync_directory(folder.parent)

    def check_ours(self) -> None:
        """Raise SiteError unless every part belongs to this user, is writable by no other, and is no link."""
        for name in ("", *FOLDERS):
            _check_ours(self.root / name, stat.S_ISDIR, "a folder")
        if os.path.lexists(self.root / state.POLICIES):
            _check_ours(self.root / state.POLICIES, stat.S_ISDIR, "a folder")
        for name in FILES:
            if os.path.lexists(self.root / name):
                _check_ours(self.root / name, stat.S_ISREG, "a regular file")

    def clean(self) -> None:
        """Remove what killed processes left behind; only for the holder of the lock."""
        for half in (self.new_generation, self.root / "bundles" / NEW):
            remove(half)
        for name in names(self.root / PARTIAL):
            if _TAKE.fullmatch(name):
                remove(self.root / PARTIAL / name)
        for part in ("", "receipts", "blobs/sha256"):
            sealed.clean(self.root / part)
        for digest in self.bundles():
            sealed.clean(self.bundle(digest))
            sealed.clean(self.bundle(digest) / "signatures")


@contextlib.contextmanager
def locked(store: Store) -> Iterator[Store]:
    """Hold the store for writing while the block runs, cleaned; raises SiteError if another process holds it."""
    store.check_ours()
    with exclusive(store.root / LOCK, f"store {store.root}"):
        with refusing(store):
            store.clean()
        yield store


@contextlib.contextmanager
def refusing(store: Store) -> Iterator[None]:
    """Turn what the operating system refuses while the block runs (space, permission, a bad disk) into a SiteError."""
    try:
        yield
    except OSError as error:
        where = printable(str(error.filename or store.root))
        raise SiteError(f"{where}: {error.strerror or error}", hint="check space, permissions and the disk, then run again") from error


def locate(folder: Path, *, stream: str | None = None, digest: Digest | None = None) -> Place:
    """Return the bundle that stands at ``folder``: a bundle folder, or a store.

    Of a store it is ``digest`` or else the highest serial of ``stream`` (of any when None); which that is, is read before anything is
    proven: it only chooses what ``verify`` then proves. Raises UsageError if there is none.
    """
    if os.path.lexists(folder / "index.json") or not (folder / "bundles").is_dir():
        return Place.of(folder)
    store = Store(Path(os.path.realpath(folder)))
    if digest is not None and digest not in store.bundles():
        raise UsageError(f"{folder}: holds no bundle {digest}", hint=f"it holds: {', '.join(map(str, store.bundles())) or 'none'}")
    known = [] if digest else [(name, serial, found) for found in store.bundles() for name, serial in _claims(store, found)]
    claimed = [(serial, found) for name, serial, found in known if stream in {None, name}]
    if not digest and not claimed:
        raise UsageError(f"{folder}: holds no bundle of stream {stream!r}", hint="name a bundle folder, or one of the store by its digest")
    return store.place(digest or max(claimed)[1])


def make_folder(path: Path) -> None:
    """Make one folder that all may read and only its owner may write, whatever the umask; it may exist."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, OPEN)
        os.chmod(path, OPEN)


def names(folder: Path) -> list[str]:
    """Return the names in a folder, sorted; none if there is no such folder."""
    return sorted(os.listdir(folder)) if is_folder(folder) else []


def holds(path: Path, raw: bytes) -> bool:
    """Say whether ``path`` is a regular file with exactly the content ``raw``."""
    try:
        info = os.lstat(path)
        return stat.S_ISREG(info.st_mode) and info.st_size == len(raw) and path.read_bytes() == raw
    except OSError:
        return False


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder of ours; nothing there is fine."""
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(info.st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def remove_empty(path: Path) -> None:
    """Remove a folder if nothing is in it."""
    if is_folder(path) and not os.listdir(path):
        os.rmdir(path)


def is_folder(path: Path) -> bool:
    """Say whether ``path`` is a folder and no link to one."""
    return path.is_dir() and not path.is_symlink()


def _claims(store: Store, digest: Digest) -> Iterator[tuple[str, int]]:
    try:
        for name, raw in read_signatures(store.bundle(digest)):
            envelope = statement.Envelope.parse(raw, name)
            predicate = statement.Statement.parse(envelope.payload, name).bundle(name)
            yield predicate.stream, predicate.serial
    except AirgapError:
        return  # what cannot be read cannot be chosen; `verify` says why when it is named


def _numbers(found: Iterable[str]) -> tuple[int, ...]:
    return tuple(sorted(int(name) for name in found if _NUMBER.fullmatch(name)))


def _check_ours(path: Path, is_type: Callable[[int], bool], wanted: str) -> None:
    info = os.lstat(path)
    if stat.S_ISLNK(info.st_mode):
        raise SiteError(f"{path}: a symbolic link inside the store", hint="put the real folder there, or name its target as the store")
    if not is_type(info.st_mode):
        raise SiteError(f"{path}: not {wanted}", hint="it is not of this store: move it away")
    if info.st_uid != os.geteuid():
        message = f"{path}: belongs to user {info.st_uid}, this is user {os.geteuid()}"
        raise SiteError(message, hint="run as the user who owns the store")
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SiteError(f"{path}: others may write it", hint=f"whoever can write the store can change what runs: chmod go-w {path}")
