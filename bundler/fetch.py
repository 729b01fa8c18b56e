"""The fetch engine: every pinned byte of every kind, several files at once, each hashed while it arrives and written once.

Rules: what is here costs a stat, what is in a cache or a local file is taken from there and hashed on the way; one digest
is fetched once, whoever wants it, from the first of its addresses that has it; disk space is checked before the first
byte; a failing file does not undo others; an interrupted fetch keeps what arrived and the next one goes on after it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

from airgap_images.layout import PARTIAL, Layout, disk, open_regular
from airgap_images.oci import MAX_BLOB, Digest
from airgap_images.remote.http import Client, Credentials, HttpError, NoCredentials, TransferError, redacted
from airgap_images.sha512 import Second
from bundler.partial import BLOCK, hold
from bundler.strong import StrongSums
from bundler.transfer import Hooks, Pinned, Unpinned, WrongBytesError
from bundler.watch import Meter, Silent, Watch
from manifests.errors import AirgapError, IntegrityError, NetworkError, SiteError, UsageError
from manifests.paths import printable

__all__ = ["Fetched", "Silent", "Want", "Watch", "fetch", "fetch_unpinned"]

BUFFERS = 64 << 20  # bytes of memory for all files under way
SMALLEST_BLOCK = 256 << 10  # bytes
MARGIN = 64 << 20  # bytes of disk left free
ROOM_STEP = 64 << 20  # bytes between two looks at the disk when the size of a file is not known
LOOK_AGAIN = 0.2  # seconds between two looks at a file that another process is fetching
LOCAL = "file:"
CHANGED = "put back the file that was locked, or lock again"


@dataclass(frozen=True, slots=True)
class Want:
    """One file to have: ``url`` is http, https, or ``file:`` with a path relative to the lock's folder.

    ``accept`` is the media type to ask for: a registry gives a manifest only to who names its type.
    """

    url: str
    digest: Digest
    size: int
    label: str
    credentials: Credentials = field(default_factory=NoCredentials)
    accept: str = "*/*"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch did, in distinct files and in bytes.

    Of the ``files``, ``present`` were in the layout and ``local`` came from local files or caches. ``bytes`` crossed the
    network; ``resumed`` bytes of earlier runs did not have to.
    """

    files: int = 0
    bytes: int = 0
    present: int = 0
    local: int = 0
    resumed: int = 0

    def __add__(self, other: Fetched) -> Fetched:
        """Add up two results."""
        return Fetched(*(getattr(self, name) + getattr(other, name) for name in ("files", "bytes", "present", "local", "resumed")))


@dataclass(frozen=True, slots=True)
class _File:
    """One distinct digest with everything that was said about where it is."""

    digest: Digest
    size: int
    label: str
    wants: tuple[Want, ...]

    @property
    def remote(self) -> tuple[Want, ...]:
        return tuple(want for want in self.wants if not want.url.startswith(LOCAL))


def fetch(
    wants: Iterable[Want],
    layout: Layout,
    client: Client,
    *,
    folder: Path,
    caches: tuple[Layout, ...] = (),
    link: bool = False,
    jobs: int = 4,
    watch: Watch | None = None,
    strong: StrongSums | None = None,
) -> Fetched:
    """Bring every wanted file into ``layout``, ``jobs`` at once; ``link`` shares local files with it where it can.

    The sha512 of what comes is noted in ``strong``.

    Raises IntegrityError for wrong bytes, NetworkError if they cannot be had, SiteError if the disk is too small; files
    under way are finished first, and the error counts the others that failed.
    """
    files = _distinct(wants)
    missing = [file for file in files if not layout.has(file.digest, file.size)]
    run = _Run(layout, client, folder, caches, link, watch or Silent(), _block(jobs), strong)
    run.watch.begin(sum(file.size for file in missing), len(missing))
    run.check_space(missing)
    return Fetched(files=len(files), present=len(files) - len(missing)) + _each(run, missing, jobs)


def fetch_unpinned(
    client: Client, url: str, cache: Layout, *, credentials: Credentials, label: str, watch: Watch, limit: int = MAX_BLOB
) -> tuple[Digest, int]:
    """Fetch ``url`` into ``cache`` for its digest and size to be recorded; it is at most ``limit`` bytes."""
    run = _Run(cache, client, Path(), (), False, watch)
    name = f"url-{hashlib.sha256(url.encode()).hexdigest()}"
    meter = Meter(watch, label, 0)
    meter.start(0)
    try:
        with disk(printable(label)), hold(cache, name, run.look_again) as growing:
            Unpinned(client, url, growing, run.room(url, limit), run.hooks(meter)).fetch(credentials)
            digest, size = growing.digest, growing.length
            growing.keep(digest)
    finally:
        meter.finish()
    return digest, size


@dataclass(frozen=True, slots=True)
class _Run:
    """What all files of one fetch share; ``failed`` is set when no other is to begin, ``stop`` when all are to end."""

    layout: Layout
    client: Client
    folder: Path
    caches: tuple[Layout, ...]
    link: bool
    watch: Watch
    block: int = BLOCK
    strong: StrongSums | None = None
    failed: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)

    def obtain(self, file: _File) -> Fetched | None:
        """Bring one file into the layout by the cheapest way there is; None if another has failed before it was begun."""
        if self.failed.is_set():
            return None
        try:
            with disk(printable(file.label)):
                return self._copied(file) or self._downloaded(file)
        except BaseException:
            self.failed.set()
            raise

    def hooks(self, meter: Meter) -> Hooks:
        """Return the hooks by which the transfer of one file is watched and ended."""
        return Hooks(meter.moved, meter.retrying, self.sleep, self.stop.is_set)

    def room(self, url: str, limit: int) -> Callable[[int], None]:
        """Return what refuses a growing file above ``limit`` or too large for the disk, which it looks at every ``ROOM_STEP`` bytes."""
        checked = -1

        def room(length: int) -> None:
            nonlocal checked
            if length > limit:
                raise IntegrityError(f"{redacted(url)}: larger than {limit} bytes, the most allowed here", hint="check the address")
            if length > checked:
                _require_space(self.layout.root, length if checked < 0 else ROOM_STEP)
                checked = length + ROOM_STEP

        return room

    def sleep(self, seconds: float) -> None:
        """Wait, but not beyond the end of this run."""
        if self.stop.wait(seconds):
            raise NetworkError("stopped", hint="run again to go on")

    def look_again(self) -> None:
        """Wait a little for another process."""
        self.sleep(LOOK_AGAIN)

    def check_space(self, files: list[_File]) -> None:
        """Raise SiteError unless the disk has space for what ``files`` will add to it."""
        sharing: dict[tuple[int, bool], bool] = {}
        need = sum(self._adds(file, sharing) for file in files)
        if need:
            _require_space(self.layout.root, need)

    def _adds(self, file: _File, sharing: dict[tuple[int, bool], bool]) -> int:
        """Return the bytes of disk a file will take; whether a device's files can be shared is tried once."""
        for path, link in self._copies(file):
            with contextlib.suppress(OSError):
                key = (os.lstat(path).st_dev, link)
                if key not in sharing:
                    sharing[key] = self._shares(path, link)
                return 0 if sharing[key] else file.size
        try:
            return max(0, file.size - os.lstat(self.layout.root / PARTIAL / file.digest.hex).st_size)
        except OSError:
            return file.size

    def _shares(self, path: Path, link: bool) -> bool:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return self.layout.shares(fd, link=link)
        finally:
            os.close(fd)

    def _copies(self, file: _File) -> Iterator[tuple[Path, bool]]:
        """Yield where the file may stand on this machine, and whether it may be linked from there."""
        for cache in self.caches:
            if cache.has(file.digest, file.size):
                yield cache.path(file.digest), True
        for want in file.wants:
            if want.url.startswith(LOCAL):
                yield self.folder / want.url.removeprefix(LOCAL), self.link

    def _copied(self, file: _File) -> Fetched | None:
        failure: AirgapError | None = None
        for path, link in self._copies(file):
            meter = Meter(self.watch, file.label, file.size)
            try:
                self._take(path, link, file, meter)
            except (IntegrityError, UsageError) as error:
                meter.give_up()
                failure = error
            else:
                meter.finish()
                return Fetched(local=1)
        if failure and not file.remote:
            raise failure
        return None

    def _take(self, path: Path, link: bool, file: _File, meter: Meter) -> None:
        name = f"{printable(file.label)}: {printable(str(path))}"
        if not os.path.lexists(path):
            raise UsageError(f"{name}: missing", hint=CHANGED)

        def progress(count: int) -> None:
            self.sleep(0)
            meter.moved(count)

        try:
            fd = open_regular(path, name, file.size)
        except IntegrityError as error:
            raise IntegrityError(error.message, hint=CHANGED) from None
        meter.start(0)
        try:
            second = Second() if self.strong else None
            self.layout.take(fd, file.digest, file.size, link=link, progress=progress, second=second)
            self._remember(file, second.hex if second else None)
        except IntegrityError:
            raise IntegrityError(f"{name}: is not what was pinned, sha256 {file.digest.hex}", hint=CHANGED) from None
        finally:
            os.close(fd)

    def _remember(self, file: _File, sha512: str | None) -> None:
        if self.strong and sha512:
            self.strong.remember(file.digest, sha512)

    def _downloaded(self, file: _File) -> Fetched:
        failures: list[AirgapError] = []
        for want in file.remote:
            try:
                return self._from(want, file)
            except (HttpError, TransferError, IntegrityError, UsageError) as error:
                failures.append(error)
        raise _summary(failures, 0)

    def _from(self, want: Want, file: _File) -> Fetched:
        """Fetch from one address; if it was begun by another run and is wrong, once more from its start."""
        with hold(self.layout, file.digest.hex, self.look_again, self.block, twice=self.strong is not None) as growing:
            if self.layout.has(file.digest, file.size):  # another process was faster
                growing.discard()
                return Fetched(present=1)
            have = growing.on_disk()
            meter = Meter(self.watch, file.label, file.size)
            meter.start(have)
            try:
                growing.rehash(lambda: self.sleep(0))
                pinned = Pinned(self.client, growing, file.digest, file.size, self.hooks(meter))
                pinned.fetch(want.url, want.credentials, want.accept)
                self._remember(file, growing.sha512)
            except WrongBytesError:
                meter.give_up()
                if not have:
                    raise
            except BaseException:
                meter.give_up()
                raise
            else:
                meter.finish()
                return Fetched(bytes=pinned.received, resumed=have)
        return self._from(want, file)  # the bytes of the other run may have been at fault; they are out of the way now


def _each(run: _Run, files: list[_File], jobs: int) -> Fetched:
    """Obtain all files, the largest first; after a failure those under way are finished and no other is begun."""
    pool = ThreadPoolExecutor(max_workers=jobs)
    done, failures, unbegun = Fetched(), list[AirgapError](), 0
    try:
        for future in as_completed([pool.submit(run.obtain, file) for file in sorted(files, key=lambda file: -file.size)]):
            try:
                part = future.result()
            except AirgapError as error:
                failures.append(error)
            else:
                done += part or Fetched()
                unbegun += part is None
    except BaseException:
        run.stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if failures:
        raise _summary(failures, unbegun)
    return done


def _block(jobs: int) -> int:
    """Return how large a block may be so that two for each of ``jobs`` files fit the memory for them."""
    return max(SMALLEST_BLOCK, min(BLOCK, 1 << (BUFFERS // (2 * jobs)).bit_length() - 1))


def _distinct(wants: Iterable[Want]) -> list[_File]:
    """Return each digest once with all its addresses, under a label of its own; raises IntegrityError for two sizes."""
    files: dict[Digest, _File] = {}
    labels: Counter[str] = Counter()
    for want in wants:
        known = files.get(want.digest)
        if known is None:
            labels[want.label] += 1
            label = want.label if labels[want.label] == 1 else f"{want.label} ({labels[want.label]})"
            files[want.digest] = _File(want.digest, want.size, label, (want,))
        elif known.size != want.size:
            raise IntegrityError(f"{printable(want.label)}: pinned with two sizes, {known.size} and {want.size}", hint="lock again")
        elif want.url not in {other.url for other in known.wants}:
            files[want.digest] = replace(known, wants=(*known.wants, want))
    return list(files.values())


def _summary(failures: list[AirgapError], unbegun: int) -> AirgapError:
    """Return the failure to raise for all of them: distrust before trouble, then the first."""
    worst = next((error for error in failures if isinstance(error, IntegrityError)), failures[0])
    rest = [f"{len(failures) - 1} more failed"] if len(failures) > 1 else []
    rest += [f"{unbegun} not begun"] if unbegun else []
    if rest:
        worst.message += f" ({', '.join(rest)})"
    return worst


def _require_space(root: Path, need: int) -> None:
    there = os.statvfs(root)
    free = there.f_bavail * there.f_frsize
    if need + MARGIN > free:
        missing = need + MARGIN - free
        message = f"{root}: {need} bytes to store and {MARGIN} to spare, but {free} are free: {missing} bytes are missing"
        raise SiteError(message, hint="free that much, or choose a folder on a larger disk")
