"""Is there room? Asked before the first byte is copied, and only where bytes will really be copied."""

from __future__ import annotations

import os
from dataclasses import dataclass

from airgap_images.layout import Layout, read_regular
from airgap_images.oci import Digest
from audit.verify.walk import MAX_SUMS, Place, Watch, listed_blobs, ours_alone
from manifests.errors import AirgapError, SiteError

RESERVE = 16 << 20  # bytes; for manifests, receipts, the journal


@dataclass(frozen=True, slots=True)
class Roomy:
    """A watch that checks the space for the blobs of ``place`` when their reading is about to begin, then tells ``inner``.

    By then the signatures are accepted and every blob's size is known.
    """

    inner: Watch
    place: Place
    store: Layout
    link: bool

    def begin(self, total: int) -> None:
        """Raise SiteError if the blobs the store lacks do not fit; else pass on."""
        if self.place.layout.root.resolve() != self.store.root:
            require(self.store, self._lacking(), "the bundle")
        self.inner.begin(total)

    def moved(self, count: int) -> None:
        """Pass on."""
        self.inner.moved(count)

    def failed(self, error: AirgapError) -> None:
        """Pass on."""
        self.inner.failed(error)

    def _lacking(self) -> int:
        raw = read_regular(self.place.files / "SHA256SUMS", "SHA256SUMS", MAX_SUMS)
        sizes = {digest: _size(self.place.layout, digest) for digest in listed_blobs(raw)}
        lacking = {digest: size for digest, size in sizes.items() if not self.store.has(digest, size)}
        if not lacking:
            return 0
        largest = max(lacking, key=lambda digest: lacking[digest])
        return 0 if shares(self.place.layout, largest, lacking[largest], self.store, link=self.link) else sum(lacking.values())


def shares(source: Layout, digest: Digest, size: int, store: Layout, *, link: bool) -> bool:
    """Say, by trying with one blob, whether blobs of ``source`` take no disk in ``store``; the largest one decides for all."""
    fd = source.open(digest, size)
    try:
        return store.shares(fd, link=link and ours_alone(fd))
    finally:
        os.close(fd)


def require(store: Layout, needed: int, what: str) -> None:
    """Raise SiteError unless ``needed`` bytes and a reserve are free where ``store`` stands."""
    if not needed:
        return
    free = os.statvfs(store.root)
    available = free.f_bavail * free.f_frsize
    if needed + RESERVE > available:
        message = f"{store.root}: {what} needs {_mib(needed + RESERVE)} here, {_mib(available)} are free"
        raise SiteError(message, hint="free space; or put the bundle on the store's file system, where its bytes are shared, not copied")


def _size(layout: Layout, digest: Digest) -> int:
    try:
        return os.lstat(layout.path(digest)).st_size
    except OSError:
        return 0  # missing: `verify` has told already


def _mib(count: int) -> str:
    return f"{-(-count >> 20)} MiB"
