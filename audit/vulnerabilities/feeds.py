"""Where vulnerability data lies, and how it is read: components of kind ``osv``, in a bundle or imported at the site.

Such a component is a tree: ``osv/<ecosystem>/all.zip`` as OSV publishes it (one JSON file for each record), ``kev/*.json`` (CISA, Known
Exploited Vulnerabilities), ``epss/*.csv.gz`` (FIRST, Exploit Prediction Scoring System), ``vex/*.json`` (OpenVEX or CycloneDX), all bytes
as they were published, and ``feeds.json`` (``airgap.advisories/v1``), in which the connected side says how old each is. Rules: hostile and
bounded; a record that cannot be read is counted, never taken for absent; only records about what is asked for are kept in memory.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from airgap_images.bundle import Component, TreeFile, tree_files
from airgap_images.layout import Layout
from audit.vulnerabilities import exploited, records, vex
from audit.vulnerabilities.records import Affected, BadRecordError, Record
from audit.vulnerabilities.result import Feed, Source
from audit.vulnerabilities.vex import Stated
from manifests import canonical
from manifests.errors import AirgapError, InvalidFileError
from manifests.paths import printable

KIND = "osv"
FORMAT = "airgap.advisories/v1"
FEEDS_FILE = "feeds.json"
MAX_FEEDS = 1 << 20  # bytes of feeds.json
MAX_DOCUMENT = exploited.MAX_DOCUMENT  # bytes of a KEV, EPSS or VEX document
MAX_RECORDS = 1_000_000  # of one archive; npm's has about 250,000
MAX_UNPACKED = 16 << 30  # bytes of one archive
MAX_DIRECTORY = 128 << 20  # bytes in which an archive lists its records
MAX_PROBLEMS = 3  # named of one source
BROKEN = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, EOFError, OSError)
Names = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Data:
    """One component that carries vulnerability data, where its bytes lie, and the digest of the signed bundle that brought it.

    ``bundle`` is empty while a bundle is being built.
    """

    layout: Layout
    component: Component
    bundle: str


@dataclass(slots=True)
class Loaded:
    """What was read: the sources, and what they say. ``records`` are by (ecosystem, name); ``ecosystems`` are those any record is about.

    ``unread`` are the packages asked for of which a record cannot be read.
    """

    sources: list[Source] = field(default_factory=list)
    records: dict[tuple[str, str], list[tuple[Record, Affected, str]]] = field(default_factory=dict)
    unread: set[tuple[str, str]] = field(default_factory=set)
    ecosystems: set[str] = field(default_factory=set)
    kev: dict[str, date] = field(default_factory=dict)
    epss: dict[str, float] = field(default_factory=dict)
    vex: list[Stated] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Listed:
    """One feed of a component as the connected side described it: what it is, and how old (None where nothing says)."""

    feed: Feed
    name: str
    as_of: datetime | None


@dataclass(frozen=True, slots=True)
class _File:
    data: Data
    file: TreeFile
    feed: Feed
    name: str
    as_of: datetime | None


def carried(layout: Layout, components: Iterable[Component], bundle: str) -> tuple[Data, ...]:
    """Return the vulnerability data among ``components``."""
    return tuple(Data(layout, component, bundle) for component in components if component.kind == KIND)


def listed(data: Data) -> tuple[Listed, ...]:
    """Return which feeds a component carries, without reading them; raises AirgapError if not even its list can be read."""
    return tuple(Listed(found.feed, printable(found.name, 200), found.as_of) for found in _files(data))


def load(data: Iterable[Data], wanted: Names) -> Loaded:
    """Read what the data says of the packages in ``wanted`` (ecosystem -> names); of two copies of one feed the newer one is read.

    What cannot be read at all is a source with no records and the reason.
    """
    loaded = Loaded()
    newest: dict[tuple[str, str, str], _File] = {}
    for found in (file for each in data for file in _files(each)):
        key = (found.feed, found.name, found.data.bundle if found.feed == "vex" else "")
        before = newest.get(key)
        if before is None or _age(before) < _age(found):
            newest[key] = found
    readers = {"osv": _osv, "kev": _kev, "epss": _epss, "vex": _vex}
    for _, found in sorted(newest.items()):
        readers[found.feed](found, loaded, wanted)
    loaded.sources.sort(key=lambda source: (source.feed, source.name, source.bundle))
    return loaded


def feed_of(path: str) -> tuple[Feed, str] | None:
    """Return which feed a file of such a component is, and what it is called; None if it is none."""
    folder, _, name = path.partition("/")
    if folder == "osv" and name.endswith("/all.zip"):
        return "osv", name.removesuffix("/all.zip")
    for feed, suffix in (("kev", ".json"), ("epss", ".csv.gz"), ("vex", ".json")):
        if folder == feed and name.endswith(suffix):
            return feed, name if feed == "vex" else feed.upper()  # type: ignore[return-value]
    return None


@contextmanager
def archive(fd: int) -> Iterator[zipfile.ZipFile]:
    """Open an archive of records, and take ``fd`` over; raises one of ``BROKEN`` for what is none or lists too much."""
    with _Bounded(io.FileIO(fd)) as file, zipfile.ZipFile(file) as opened:
        yield opened


def members(archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes | None]]:
    """Yield the records of an archive with their names; None for one that is larger than a record may be, or cannot be unpacked."""
    infos = archive.infolist()
    if len(infos) > MAX_RECORDS or sum(info.file_size for info in infos) > MAX_UNPACKED:
        raise zipfile.BadZipFile(f"more than {MAX_RECORDS} records, or {MAX_UNPACKED} bytes of them")
    for info in infos:
        if info.is_dir() or not info.filename.endswith(".json"):
            continue
        if info.file_size > records.MAX_RECORD:
            yield info.filename, None
            continue
        try:
            with archive.open(info) as member:
                raw = member.read(records.MAX_RECORD + 1)
        except BROKEN:
            yield info.filename, None
            continue
        yield info.filename, raw if len(raw) <= records.MAX_RECORD else None


def _files(data: Data) -> Iterator[_File]:
    files = tuple(tree_files(data.layout, data.component.root))
    stated = _stated(data, files)
    for file in files:
        known = feed_of(file.path)
        if known:
            yield _File(data, file, *known, stated.get(file.path))


def _stated(data: Data, files: tuple[TreeFile, ...]) -> dict[str, datetime]:
    """Return how old each file is, as the connected side recorded it; nothing where it cannot be read."""
    file = next((file for file in files if file.path == FEEDS_FILE), None)
    if file is None:
        return {}
    try:
        value = canonical.parse(_read(data.layout, file, MAX_FEEDS), FEEDS_FILE, limit=MAX_FEEDS)
        entries = value["files"] if isinstance(value, dict) and value.get("format") == FORMAT else []
        return {entry["path"]: canonical.moment(entry["asOf"]) for entry in entries if entry.get("asOf")}
    except (AirgapError, KeyError, TypeError, ValueError, AttributeError):
        return {}


def _age(found: _File) -> tuple[datetime, str]:
    return found.as_of or datetime.min.replace(tzinfo=UTC), found.file.digest.hex


def _osv(found: _File, loaded: Loaded, wanted: Names) -> None:
    count, skipped, problems, newest = 0, 0, list[str](), None
    try:
        with archive(found.data.layout.open(found.file.digest, found.file.size)) as opened:
            for name, text in members(opened):
                try:
                    newest = max(filter(None, (newest, _keep(text, found, loaded, wanted))), default=None)
                    count += 1
                except BadRecordError as error:
                    skipped += 1
                    problems += [f"{printable(name, 80)}: {error}"] if skipped <= MAX_PROBLEMS else []
    except (*BROKEN, AirgapError) as error:
        count, skipped, problems = 0, skipped + 1, [f"cannot be read: {printable(str(error), 200)}"]
    loaded.sources.append(_source(found, count, skipped, problems, found.as_of or newest))


def _keep(text: bytes | None, found: _File, loaded: Loaded, wanted: Names) -> datetime | None:
    """Keep a record if it is about something asked for; return when it was changed. Raises BadRecordError."""
    if text is None:
        raise BadRecordError("is too large, or cannot be unpacked")
    about, modified = records.peek(text)
    loaded.ecosystems.update(ecosystem for ecosystem, _ in about)
    asked = {(ecosystem, name) for ecosystem, name in about if name in wanted.get(ecosystem, ())}
    if asked:
        try:
            record = records.parse(text)
        except BadRecordError:
            loaded.unread |= asked
            raise
        for affected in record.affected:
            if affected.name in wanted.get(affected.ecosystem, ()):
                loaded.records.setdefault((affected.ecosystem, affected.name), []).append((record, affected, found.name))
    return modified


def _kev(found: _File, loaded: Loaded, _wanted: Names) -> None:
    def read() -> tuple[int, datetime | None]:
        listed, released = exploited.kev(_read(found.data.layout, found.file, MAX_DOCUMENT))
        loaded.kev |= listed
        return len(listed), released

    _document(found, loaded, read)


def _epss(found: _File, loaded: Loaded, _wanted: Names) -> None:
    def read() -> tuple[int, datetime | None]:
        scores, day = exploited.epss(_read(found.data.layout, found.file, MAX_DOCUMENT))
        loaded.epss |= scores
        return len(scores), day

    _document(found, loaded, read)


def _vex(found: _File, loaded: Loaded, _wanted: Names) -> None:
    def read() -> tuple[int, datetime | None]:
        stated = vex.read(_read(found.data.layout, found.file, MAX_DOCUMENT), found.name)
        loaded.vex += stated
        return len(stated), max((entry.decision.time for entry in stated if entry.decision.time), default=None)

    _document(found, loaded, read)


def _document(found: _File, loaded: Loaded, read: Callable[[], tuple[int, datetime | None]]) -> None:
    try:
        count, as_of = read()
        problems: list[str] = []
    except (ValueError, OSError, AirgapError) as error:
        count, as_of, problems = 0, None, [f"cannot be read: {printable(str(error), 200)}"]
    loaded.sources.append(_source(found, count, len(problems), problems, found.as_of or as_of))


def _source(found: _File, count: int, skipped: int, problems: list[str], as_of: datetime | None) -> Source:
    return Source(
        feed=found.feed,
        name=printable(found.name, 200),
        component=found.data.component.name,
        path=found.file.path,
        sha256=found.file.digest.hex,
        records=count,
        skipped=skipped,
        as_of=as_of,
        bundle=found.data.bundle,
        problems=tuple(problems),
    )


def _read(layout: Layout, file: TreeFile, limit: int) -> bytes:
    if file.size > limit:
        raise InvalidFileError(f"{printable(file.path)}: {file.size} bytes, at most {limit} allowed", hint="distrust this data")
    with os.fdopen(layout.open(file.digest, file.size), "rb") as raw:
        return raw.read(limit)


class _Bounded(io.BufferedReader):
    """A file of which never more is read at once than an archive's list of records may have: ``zipfile`` reads that list whole."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read; raises BadZipFile if that is too much."""
        whole = size is None or size < 0
        found = super().read(MAX_DIRECTORY + 1 if whole or size > MAX_DIRECTORY else size)  # type: ignore[operator]
        if len(found) > MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"its list of records has more than {MAX_DIRECTORY} bytes")
        return found
