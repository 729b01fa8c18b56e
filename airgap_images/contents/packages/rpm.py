"""RPM packages: ``rpmdb.sqlite``, read from memory (rpm.org, "package format", "header structure").

Rules: the database is hostile; it is opened read-only, answers one fixed question and is stopped after ``MAX_STEPS`` of work; each
header is checked before anything in it is believed. The older formats, Berkeley DB and NDB, are named and not read.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from airgap_images.contents.packages.package import Gap, Package, Release, Text, make_purl, party
from manifests.paths import printable

KIND = "rpm"
MAX_FILE = 256 << 20  # bytes
MAX_PACKAGES = 50_000
MAX_OWNED = 2_000_000  # paths of one database
MAX_STEPS = 200  # times a million instructions of SQLite's machine
FOLDERS = frozenset({"var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"})
OTHER = {"Packages": "Berkeley DB", "Packages.db": "NDB"}
NAMESPACES = {"rhel": "redhat"}

NAME, VERSION, RELEASE, EPOCH, LICENCE, ARCH, SOURCE = 1000, 1001, 1002, 1003, 1014, 1022, 1044
DIRINDEXES, BASENAMES, DIRNAMES = 1116, 1117, 1118
VENDOR, PACKAGER, URL, PROVIDES, REQUIRES = 1011, 1015, 1020, 1047, 1049
_INT32, _STRING, _STRINGS, _I18N = 4, 6, 8, 9
_ENTRY = struct.Struct(">IIiI")
_WANTED = frozenset(
    {NAME, VERSION, RELEASE, EPOCH, LICENCE, ARCH, SOURCE, DIRINDEXES, BASENAMES, DIRNAMES, VENDOR, PACKAGER, URL, PROVIDES, REQUIRES}
)
Values = dict[int, list[Any]]


def limit(path: str, name: str) -> int:
    """Return how many bytes of a file may be kept."""
    return MAX_FILE if name == "rpmdb.sqlite" and path.rpartition("/")[0] in FOLDERS else 0


def old_format(path: str, name: str) -> str:
    """Return the name of the format of a database that is not read, or nothing."""
    return OTHER.get(name, "") if path.rpartition("/")[0] in FOLDERS else ""


def packages(files: Mapping[str, Text], release: Release) -> Iterator[Package | Gap]:
    """Yield the installed packages; keys that were imported are none."""
    for file in files.values():
        try:
            yield from _database(file, release)
        except (sqlite3.Error, struct.error, ValueError, LookupError, OverflowError, MemoryError) as error:
            yield Gap(file.path, f"is no readable rpm database: {printable(str(error), 80)}")


def _database(file: Text, release: Release) -> Iterator[Package]:
    data = bytearray(file.data)
    data[18:20] = b"\1\1"  # a database with a write-ahead log cannot be opened from memory; its log does not travel in a layer
    steps = 0

    def spend() -> bool:
        nonlocal steps
        steps += 1
        return steps > MAX_STEPS

    opened = sqlite3.connect(":memory:")
    try:
        opened.deserialize(bytes(data))
        opened.execute("PRAGMA query_only = 1")
        opened.execute("PRAGMA trusted_schema = 0")
        opened.set_progress_handler(spend, 1_000_000)
        opened.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_FILE)
        owned = 0
        for at, (blob,) in enumerate(opened.execute("SELECT blob FROM Packages ORDER BY hnum")):
            found = header(blob)
            owned += len(found.get(BASENAMES, ()))
            if at >= MAX_PACKAGES or owned > MAX_OWNED:
                raise ValueError("more packages or files than a system has")
            if found.get(NAME, [""])[0] not in {"", "gpg-pubkey"}:
                yield _package(found, file, release)
    finally:
        opened.close()


def _package(found: Values, file: Text, release: Release) -> Package:
    name, version, build, licence, arch, source = (str(found.get(tag, [""])[0]) for tag in (NAME, VERSION, RELEASE, LICENCE, ARCH, SOURCE))
    vendor, packager, url = (str(found.get(tag, [""])[0]) for tag in (VENDOR, PACKAGER, URL))
    producer, mail = party(vendor or packager)
    epoch = str(found[EPOCH][0]) if found.get(EPOCH) else ""
    namespace = NAMESPACES.get(release.id, "opensuse" if release.id.startswith("opensuse") else release.id)
    qualifiers = {"arch": arch, "distro": release.distro, "epoch": epoch, "upstream": source}
    return Package(
        type=KIND,
        name=name,
        version=f"{version}-{build}",
        purl=make_purl(KIND, namespace, name, f"{version}-{build}", qualifiers=qualifiers),
        path=file.path,
        layer=file.layer,
        arch=arch,
        source=source,
        licences=(licence,) if licence else (),
        files=tuple(_owned(found)),
        producer=producer,
        contact=url or mail,
        needs=tuple((name,) for name in map(str, found.get(REQUIRES, ())) if name and not name.startswith("rpmlib(")),
        provides=tuple(map(str, found.get(PROVIDES, ()))),
    )


def _owned(found: Values) -> Iterator[str]:
    folders = found.get(DIRNAMES, [])
    for at, base in zip(found.get(DIRINDEXES, []), found.get(BASENAMES, []), strict=False):
        yield f"{folders[at]}{base}".strip("/")


def header(blob: Any) -> Values:
    """Return the wanted values of a header by tag; raises ValueError on what is none."""
    if not isinstance(blob, bytes) or len(blob) < 8:  # noqa: PLR2004
        raise ValueError("a header that is none")
    count, size = struct.unpack_from(">II", blob)
    start = 8 + count * _ENTRY.size
    if start + size != len(blob):
        raise ValueError("a header of a wrong length")
    store = memoryview(blob)[start:]
    found: Values = {}
    for at in range(8, start, _ENTRY.size):
        tag, kind, offset, number = _ENTRY.unpack_from(blob, at)
        if tag in _WANTED and tag not in found and 0 <= offset < size:
            found[tag] = _values(store, kind, offset, number)
    return found


def _values(store: memoryview, kind: int, offset: int, number: int) -> list[Any]:
    if kind == _INT32:
        if offset + 4 * number > len(store):
            raise ValueError("a value beyond the end of its header")
        return list(struct.unpack_from(f">{number}I", store, offset))
    if kind not in {_STRING, _STRINGS, _I18N}:
        return [""]
    if number > len(store):
        raise ValueError("more texts than fit into a header")
    texts = bytes(store[offset:]).split(b"\0", number if kind != _STRING else 1)[: number if kind != _STRING else 1]
    return [text.decode("utf-8", "backslashreplace") for text in texts] or [""]
