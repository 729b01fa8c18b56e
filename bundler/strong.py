"""The sha512 of every blob of a bundle of profile cnsa: computed while the bytes arrive, so that none is read again for it.

Rules: what is known survives a kill (a line for each blob, in a file under ``.partial/``) and the build (``SHA512SUMS`` itself); a
torn line is as if it had not been written; what is not known is read once, on all cores, with its sha256. A wrong value that
somebody wrote into these files is found by every verification, and by ``build --paranoid``, which reads every blob again.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from airgap_images import sha512
from airgap_images.layout import PARTIAL, Layout, read_regular
from airgap_images.oci import Digest
from airgap_images.sha512 import SHA512SUMS, Second
from bundler.watch import Meter, Watch
from manifests.errors import IntegrityError

REMEMBERED = "sha512"  # under .partial/
MAX_REMEMBERED = 1 << 30  # bytes; a line has 195
DAMAGED = "`airgap-bundle build --paranoid` fetches it again"

_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_LINE = re.compile(rb"^([0-9a-f]{64}) ([0-9a-f]{128})$", re.MULTILINE)


class StrongSums:
    """What is known of the blobs of ``layout``."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._path = layout.root / PARTIAL / REMEMBERED
        self._lock = threading.Lock()
        self._known = {**_stated(layout.root), **_remembered(self._path)}

    def remember(self, digest: Digest, value: str) -> None:
        """Take note of the sha512 (hex) of a blob."""
        line = f"\n{digest.hex} {value}\n".encode()  # the first newline ends a line that a killed process left half written
        with self._lock:
            self._known[digest] = value
            self._path.parent.mkdir(exist_ok=True)
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, line)
            finally:
                os.close(fd)

    def of(self, blobs: Mapping[Digest, int], watch: Watch) -> dict[Digest, str]:
        """Return the sha512 (hex) of every one of ``blobs``, sizes given; raises IntegrityError if one that must be read is damaged."""
        unknown = {digest: size for digest, size in blobs.items() if digest not in self._known}
        watch.begin(sum(unknown.values()), 0)
        largest_first = sorted(unknown.items(), key=lambda entry: -entry[1])
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            for future in [pool.submit(self._read, digest, size, watch) for digest, size in largest_first]:
                future.result()
        return {digest: self._known[digest] for digest in blobs}

    def check(self, digest: Digest, size: int) -> None:
        """Read a blob and take note of its sha512; raises IntegrityError if it is damaged."""
        second = Second()
        self._layout.check(digest, size, second=second)
        self.remember(digest, second.hex)

    def _read(self, digest: Digest, size: int, watch: Watch) -> None:
        second, meter = Second(), Meter(watch, f"sha512 of {digest.hex}", size)
        meter.start(0)
        try:
            self._layout.check(digest, size, meter.moved, second)
        except IntegrityError as error:
            raise IntegrityError(error.message, hint=DAMAGED) from None
        finally:
            meter.finish()
        self.remember(digest, second.hex)


def _stated(root: Path) -> dict[Digest, str]:
    """Return what the ``SHA512SUMS`` of an earlier build states; nothing where it is not in its form."""
    with contextlib.suppress(IntegrityError):
        found = sha512.decode(read_regular(root / SHA512SUMS, SHA512SUMS, MAX_REMEMBERED))
        return {Digest(match[1]): value for name, value in found.items() if (match := _BLOB.fullmatch(name))}
    return {}


def _remembered(path: Path) -> dict[Digest, str]:
    with contextlib.suppress(IntegrityError):
        return {Digest(line[1].decode()): line[2].decode() for line in _LINE.finditer(read_regular(path, str(path), MAX_REMEMBERED))}
    return {}
