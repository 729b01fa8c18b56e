"""Compare what a ``model.sig`` lists with the model that is carried, from the digests that are known already where it can be done.

Rules: every carried file must be listed with the digest it has, ``model.sig`` itself excepted; whatever the signature says is left out
(``ignore_paths``, everything of git) is a file like others. What is listed and not carried was not selected, and is counted. Only where
files are listed in ranges, or by another hash than SHA-256, the weights are read, each byte once: the ranges of a file must make it up.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from airgap_images.bundle import TreeFile
from airgap_images.layout import CHUNK, Layout, disk
from audit.verify.oms import DIGESTS, FILE, Listing, Model, Resource
from audit.verify.verdict import MAX_NAMED, several
from manifests.errors import IntegrityError
from manifests.paths import printable


@dataclass(frozen=True, slots=True)
class Content:
    """How a model compares: ``contradicted`` are sentences, ``unsigned`` and ``absent`` paths, ``unread`` why it cannot be compared."""

    contradicted: tuple[str, ...] = ()
    unsigned: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    unread: str = ""


def compare(layout: Layout, model: Model, listing: Listing) -> Content:
    """Return how the carried model compares with ``listing``; raises IntegrityError if a blob is not there to be read."""
    carried = {file.path: file for file in model.files if file.path != FILE}
    listed: dict[str, list[Resource]] = {}
    for entry in listing.resources:
        listed.setdefault(entry.path, []).append(entry)
    unsigned = (*(path for path in carried if path not in listed), *model.others)
    absent = tuple(path for path in listed if path not in carried and path != FILE)
    sums = () if listing.sound else ("its sum over the files it lists is not the one it states",)
    if listing.algorithm not in DIGESTS:
        why = f"its files are hashed with {printable(listing.algorithm, 40)}, which this version cannot recompute"
        return Content(sums, unsigned, absent, why)
    pairs = [(file, listed[path]) for path, file in carried.items() if path in listed]
    known = listing.algorithm == "sha256" and not listing.sharded
    wrong = [_stated(file, entries[0].digest) for file, entries in pairs] if known else _recomputed(layout, pairs, listing.algorithm)
    return Content((*sums, *filter(None, wrong)), unsigned, absent)


def unsigned(content: Content) -> str:
    """Say which carried files are not signed, and how to leave them out."""
    patterns = ", ".join(f'"{printable(path)}"' for path in content.unsigned[:MAX_NAMED])
    more = ", ..." if len(content.unsigned) > MAX_NAMED else ""
    names = several(printable(path) for path in content.unsigned)
    return f"carried and not signed: {names}; `exclude: [{patterns}{more}]` leaves that out"


def _stated(file: TreeFile, digest: str) -> str:
    same = file.digest.hex == digest
    return "" if same else f"{printable(file.path)}: is sha256 {file.digest.hex}, signed was {digest}"


def _recomputed(layout: Layout, pairs: Iterable[tuple[TreeFile, list[Resource]]], algorithm: str) -> list[str]:
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return list(pool.map(lambda pair: _file(layout, pair[0], pair[1], algorithm), sorted(pairs, key=lambda pair: -pair[0].size)))


def _file(layout: Layout, file: TreeFile, entries: list[Resource], algorithm: str) -> str:
    """Return what is wrong with a file whose bytes must be read; empty if nothing is."""
    ranges = [(entry.start, file.size if entry.end is None else entry.end) for entry in entries]
    ordered = sorted(zip(ranges, entries, strict=True), key=lambda pair: pair[0])
    ends = [0, *(end for (_, end), _ in ordered)]
    if [start for (start, _), _ in ordered] != ends[:-1] or ends[-1] != file.size:
        return f"{printable(file.path)}: the signed ranges do not make up its {file.size} bytes"
    fd = layout.open(file.digest, file.size)
    try:
        with disk(f"blobs/sha256/{file.digest.hex}"):
            for (start, end), entry in ordered:
                if (got := _digest(fd, start, end, algorithm)) != entry.digest:
                    return f"{printable(file.path)}: bytes {start} to {end} are {algorithm} {got}, signed was {entry.digest}"
    finally:
        os.close(fd)
    return ""


def _digest(fd: int, start: int, end: int, algorithm: str) -> str:
    digest, buffer = hashlib.new(algorithm), memoryview(bytearray(min(CHUNK, max(1, end - start))))
    while start < end:
        count = os.preadv(fd, [buffer[: end - start]], start)
        if not count:
            raise IntegrityError("a file became shorter while it was read", hint="copy the bundle again")
        digest.update(buffer[:count])
        start += count
    return digest.hexdigest()
