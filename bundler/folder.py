"""Pin what stands in a local folder: every regular file once, hashed in parallel, in one order.

Rules: a path in the intent is relative and stays inside the intent's folder, or absolute and then meant so; symbolic
links, devices, sockets and pipes are refused by name unless a pattern leaves them out; names must be safe to create on
the isolated side. Empty folders, owners and modes are not carried.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from airgap_images.layout import hash_descriptor, open_regular
from manifests.errors import InvalidFileError, SiteError, UsageError
from manifests.lock import Pin
from manifests.paths import check_relative, printable

MAX_FILES = 100_000
MAX_LEVELS = 64


@dataclass(frozen=True, slots=True)
class Selection:
    """Which files to take: glob patterns on the whole relative path, ``*`` also matching ``/``; ``name/`` means a whole folder."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def wants(self, path: str) -> bool:
        """Say whether the entry at relative ``path`` is selected."""
        return (not self.include or _matches(path, self.include)) and not _matches(path, self.exclude)

    def skips_folder(self, path: str) -> bool:
        """Say whether nothing below the folder at ``path`` can be selected."""
        return any(pattern.endswith("/*") and fnmatch.fnmatchcase(f"{path}/", pattern[:-1]) for pattern in map(_whole, self.exclude))


def pin_path(folder: Path, written: str, selection: Selection, what: str) -> tuple[Pin, ...]:
    """Return a ``file:`` pin for each selected file at ``written``, sorted by path; ``what`` names the component in errors.

    Raises UsageError if there is nothing to take, InvalidFileError for a path or an entry that is refused.
    """
    root = locate(folder, written, what)
    found = sorted(_entries(root, selection, what))
    if not found:
        raise UsageError(f"{what}: no file to take at {printable(written)!r}", hint="check `path`, `include` and `exclude`")
    base = os.path.normpath(written)
    single = stat.S_ISREG(os.lstat(root).st_mode)

    def pin(entry: tuple[str, int]) -> Pin:
        path, size = entry
        digest = _hash(root if single else root / path, size)
        return Pin(path=path, url=f"file:{base}" if single else f"file:{base}/{path}", size=size, sha256=digest)

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return tuple(pool.map(pin, found))


def locate(folder: Path, written: str, what: str) -> Path:
    """Return where ``written`` stands; raises InvalidFileError if it is missing, a link, or relative and outside ``folder``."""
    path = folder / written
    try:
        info = os.lstat(os.path.normpath(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise InvalidFileError(f"{what}: path {printable(written)!r}: {reason}", hint="name a file or folder that exists") from None
    if stat.S_ISLNK(info.st_mode):
        raise _refused(what, written, "a symbolic link")
    inside = os.path.realpath(folder)
    if not os.path.isabs(written) and os.path.commonpath([inside, os.path.realpath(path)]) != inside:
        raise InvalidFileError(
            f"{what}: path {printable(written)!r} leads out of the folder of the intent",
            hint="move it beside the intent, or write the absolute path to say that you mean it",
        )
    return Path(os.path.normpath(path))


def tree_digest(pins: Iterable[Pin]) -> str:
    """Return the sha256 of the ``sha256sum`` listing of ``pins`` sorted by path: one value for the whole tree."""
    listing = "".join(f"{pin.sha256}  {pin.path}\n" for pin in sorted(pins, key=lambda pin: pin.path))
    return f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"



def _entries(root: Path, selection: Selection, what: str) -> Iterator[tuple[str, int]]:
    info = os.lstat(root)
    if stat.S_ISREG(info.st_mode):
        yield check_relative(root.name, what), info.st_size
        return
    if not stat.S_ISDIR(info.st_mode):
        raise _refused(what, root.name, _type(info.st_mode))
    for count, (path, size) in enumerate(_walk(root, "", selection, what), start=1):
        if count > MAX_FILES:
            raise UsageError(f"{what}: more than {MAX_FILES} files", hint="narrow it with `include` or `exclude`, or split it")
        yield path, size


def _walk(folder: Path, prefix: str, selection: Selection, what: str) -> Iterator[tuple[str, int]]:
    if prefix.count("/") > MAX_LEVELS:
        raise UsageError(f"{what}: folders nested deeper than {MAX_LEVELS} levels", hint="exclude them")
    for name, info in _listing(folder, what):
        path = f"{prefix}{name}"
        if stat.S_ISDIR(info.st_mode):
            if not selection.skips_folder(path):
                yield from _walk(folder / name, f"{path}/", selection, what)
        elif selection.wants(path):
            if not stat.S_ISREG(info.st_mode):
                raise _refused(what, path, _type(info.st_mode))
            yield check_relative(path, what), info.st_size


def _listing(folder: Path, what: str) -> list[tuple[str, os.stat_result]]:
    try:
        with os.scandir(folder) as entries:
            return [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    except OSError as error:
        raise SiteError(f"{what}: {printable(str(folder))}: cannot read: {error.strerror}", hint="check its permissions") from None


def _hash(path: Path, size: int) -> str:
    fd = open_regular(path, printable(str(path)), size)
    try:
        return hash_descriptor(fd).hex
    finally:
        os.close(fd)


def _whole(pattern: str) -> str:
    return f"{pattern}*" if pattern.endswith("/") else pattern


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, _whole(pattern)) for pattern in patterns)


def _type(mode: int) -> str:
    names = ((stat.S_ISLNK, "a symbolic link"), (stat.S_ISSOCK, "a socket"), (stat.S_ISFIFO, "a pipe"))
    return next((name for test, name in names if test(mode)), "a device")


def _refused(what: str, path: str, kind: str) -> InvalidFileError:
    hint = "copy the real file in its place (`cp -rL` follows links), or leave it out with `exclude`"
    return InvalidFileError(f"{what}: {printable(path)!r} is {kind}; only regular files can be carried", hint=hint)
