"""Trees on disk: put the files of a component under a generation, and find what is no longer as it was put there.

Rules: a file is a hard link to its proven blob where the file system allows, else a reflink or a copy hashed while it is
written; folders are 0755, files 0444, all synced before anybody can see them. Comparing follows no link, and hashes each
inode once on all cores.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from airgap_images.bundle import Component, TreeFile, tree_files
from airgap_images.layout import Layout, PlaceMode, Progress, hash_descriptor, open_regular, sync_directory
from airgap_images.oci import Digest
from airgap_images.sha512 import Second
from audit.install.receipts import OWN_RECEIPT
from audit.install.store import OPEN, make_folder
from audit.verify.walk import Watch
from manifests.errors import AirgapError
from manifests.paths import printable

READ_ONLY = 0o444
Kind = Literal[
    "changed", "missing", "extra", "wrong type", "mode", "owner", "not shared", "bundle", "receipt", "journal", "state", "image", "current"
]
Inode = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is not as it was installed; ``place`` is a path in the store or the name of a component."""

    kind: Kind
    place: str
    detail: str

    def __str__(self) -> str:
        return f"{printable(self.place)}: {self.kind}: {self.detail}"


@dataclass(frozen=True, slots=True)
class PlacedTree:
    """How a tree was put in place: files that share the store's bytes, files with bytes of their own, bytes in total."""

    linked: int
    copied: int
    bytes: int

    @property
    def mode(self) -> Literal["link", "copy", "mixed"]:
        """Say in one word how; ``mixed`` happens where a file system allows no further link to one file."""
        if self.linked and self.copied:
            return "mixed"
        return "copy" if self.copied else "link"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file as it must be: ``place`` relative to its generation; ``shared`` if it must be a link to its blob."""

    place: str
    digest: Digest
    size: int
    shared: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """A regular file of the right size, whose content is still to be compared with ``digest``."""

    place: str
    path: Path
    digest: Digest
    size: int
    inode: Inode


@dataclass(slots=True)
class Hashes:
    """The sha256 of every inode read so far; each is read once, and ``watch`` is told how it goes.

    Of digests in ``strong`` the sha512 (hex) is compared too, from the same read.
    """

    watch: Watch
    known: dict[Inode, Digest] = field(default_factory=dict)
    strong: Mapping[Digest, str] = field(default_factory=dict)
    _second: dict[Inode, str] = field(default_factory=dict)

    def compare(self, files: Iterable[Standing]) -> Iterator[Damage]:
        """Yield the files whose content is not what it must be, or that can no longer be read."""
        ordered = sorted(files, key=lambda file: -file.size)
        unread = {file.inode: file for file in ordered if file.inode not in self.known}
        failed: dict[Inode, str] = {}
        if unread:
            self.watch.begin(sum(file.size for file in unread.values()))
        guard = threading.Lock()

        def one(file: Standing) -> None:
            second = Second() if file.digest in self.strong else None
            try:
                digest = _hash(file, self.watch.moved, second)
            except (AirgapError, OSError) as error:
                with guard:
                    failed[file.inode] = f"cannot be read: {error}"
                return
            with guard:
                self.known[file.inode] = digest
                if second:
                    self._second[file.inode] = second.hex

        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            list(pool.map(one, unread.values()))
        for file in sorted(ordered, key=lambda file: file.place):
            got = self.known.get(file.inode)
            if got is None:
                yield Damage("changed", file.place, failed[file.inode])
            elif got != file.digest:
                yield Damage("changed", file.place, f"content is sha256 {got.hex}, expected {file.digest.hex}")
            elif file.inode in self._second and self._second[file.inode] != self.strong[file.digest]:
                yield Damage("changed", file.place, f"content is sha512 {self._second[file.inode]}, expected {self.strong[file.digest]}")


def place(layout: Layout, component: Component, folder: Path, mode: PlaceMode, progress: Progress) -> PlacedTree:
    """Put every file of ``component`` under ``folder``, which must not exist, synced."""
    files = tuple(tree_files(layout, component.root))
    folders = {folder, *(parent for file in files for parent in _parents(folder, file.path))}
    for path in sorted(folders):
        make_folder(path)

    def one(file: TreeFile) -> PlaceMode:
        target = folder / file.path
        done = layout.place(file.digest, file.size, target, mode, progress if mode == "copy" else None)
        sync_file(target)
        return done

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        modes = list(pool.map(one, files))
    for path in sorted(folders, reverse=True):
        sync_directory(path)
    return PlacedTree(modes.count("link"), modes.count("copy"), sum(file.size for file in files))


def wanted(layout: Layout, component: Component, shared: bool) -> tuple[Wanted, ...]:
    """Return every file a generation must have of ``component``; raises IntegrityError if its manifests are damaged."""
    files = tree_files(layout, component.root)
    return tuple(Wanted(f"{component.name}/{file.path}", file.digest, file.size, shared) for file in files)


def survey(generation: Path, trees: Mapping[str, tuple[Wanted, ...] | None], layout: Layout) -> tuple[list[Damage], list[Standing]]:
    """Compare a generation with what it must have, by component, without reading content.

    Returns what is wrong at sight, and the files whose content is to be compared. Into a component that is None - nobody
    knows what it must have - it does not look.
    """
    expected: dict[str, Wanted | None] = {file.place: file for files in trees.values() for file in files or ()}
    expected |= dict.fromkeys({"", *trees, *(parent for place in expected for parent in _above(place))})  # None is a folder
    prefix, owner = f"generations/{generation.name}/", os.lstat(layout.root).st_uid
    damage: list[Damage] = []
    standing: list[Standing] = []
    missing = set(expected)
    for name, info in _walk(generation, {name for name, file in expected.items() if file is None and trees.get(name, ()) is not None}):
        missing.discard(name)
        if name == OWN_RECEIPT:
            continue
        if name not in expected:
            damage.append(Damage("extra", prefix + name, f"{type_name(info.st_mode)} that was not installed"))
            continue
        file = expected[name]
        damage += _at_sight(prefix + name, info, owner, file)
        if file is None or not stat.S_ISREG(info.st_mode) or info.st_size != file.size:
            continue
        inode = (info.st_dev, info.st_ino)
        standing.append(Standing(prefix + name, generation / name, file.digest, file.size, inode))
        if file.shared and inode_of(layout.path(file.digest)) not in {None, inode}:
            damage.append(Damage("not shared", prefix + name, "was a link to its blob in the store and is a file of its own now"))
    damage += [Damage("missing", prefix + name, "was installed and is gone") for name in sorted(missing)]
    return damage, standing


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def type_name(mode: int) -> str:
    """Say what a file is."""
    names = ((stat.S_ISREG, "a regular file"), (stat.S_ISDIR, "a folder"), (stat.S_ISLNK, "a symbolic link"))
    return next((name for test, name in names if test(mode)), "a device, pipe or socket")


def access(place: str, info: os.stat_result, owner: int, mode: int) -> Iterator[Damage]:
    """Yield what is wrong with who owns a file and who may do what with it."""
    if stat.S_IMODE(info.st_mode) != mode:
        yield Damage("mode", place, f"mode is {stat.S_IMODE(info.st_mode):04o}, expected {mode:04o}")
    if info.st_uid != owner:
        yield Damage("owner", place, f"belongs to user {info.st_uid}, the store to {owner}")


def inode_of(path: Path) -> Inode | None:
    """Return device and inode of what stands at ``path``, no link followed, or None."""
    try:
        info = os.lstat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino


def _at_sight(place: str, info: os.stat_result, owner: int, file: Wanted | None) -> Iterator[Damage]:
    is_type, kind, mode = (stat.S_ISDIR, "a folder", OPEN) if file is None else (stat.S_ISREG, "a regular file", READ_ONLY)
    if not is_type(info.st_mode):
        yield Damage("wrong type", place, f"{type_name(info.st_mode)}, expected {kind}")
        return
    yield from access(place, info, owner, mode)
    if file is not None and info.st_size != file.size:
        yield Damage("changed", place, f"{info.st_size} bytes, expected {file.size}")


def _walk(root: Path, open_folders: set[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield ``root`` as the empty name and every entry below; of a folder that is not among ``open_folders`` only its own name."""
    yield "", os.lstat(root)
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                info = entry.stat(follow_symlinks=False)
                yield name, info
                if name in open_folders and stat.S_ISDIR(info.st_mode):
                    pending.append(name)


def _above(place: str) -> Iterator[str]:
    while "/" in place:
        place = place.rpartition("/")[0]
        yield place


def _parents(folder: Path, path: str) -> Iterator[Path]:
    yield from (folder / parent for parent in _above(path))


def _hash(file: Standing, progress: Progress, second: Second | None) -> Digest:
    fd = open_regular(file.path, printable(file.place), file.size)
    try:
        return hash_descriptor(fd, progress, second)
    finally:
        os.close(fd)
