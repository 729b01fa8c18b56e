"""Kind ``osv``: vulnerability data to cross the gap - OSV by ecosystem, CISA's KEV, FIRST's EPSS, VEX documents.

All bytes are carried as they were published; ``feeds.json`` beside them says how many records each file has and how old it is. That is what
KEV and EPSS state in themselves, of OSV's archives what the server says (``Last-Modified``), or else the newest record, never the clock:
while nothing changes upstream, a lock stays the same. What is no such data, or empty, is refused while locking. Data changes daily at the
same address, so a lock that is older than the data can only be built where its bytes are still in the cache: else lock again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath
from typing import Annotated
from urllib.parse import quote

from pydantic import Field

from airgap_images.layout import read_regular
from airgap_images.oci import Digest
from airgap_images.remote.http import Client, Credentials, NoCredentials
from airgap_images.remote.registries import Registries
from audit.vulnerabilities import exploited, feeds, records, versions, vex
from audit.vulnerabilities.records import BadRecordError
from bundler.fetch import Silent, fetch_unpinned
from bundler.folder import Selection, locate, pin_path
from bundler.sources import Context
from manifests import canonical
from manifests.errors import InvalidFileError, NetworkError
from manifests.lock import Frozen, Inline, LockedComponent, Pin
from manifests.paths import check_disjoint, printable

OSV = "https://osv-vulnerabilities.storage.googleapis.com"
KEV = "https://www.cisa.gov/sites/default/files/feeds/known_exploited_vulnerabilities.json"
EPSS = "https://epss.empiricalsecurity.com/epss_scores-current.csv.gz"
KEV_PATH, EPSS_PATH = "kev/known_exploited_vulnerabilities.json", "epss/epss_scores-current.csv.gz"
MAX_ARCHIVE = 4 << 30  # bytes of an ecosystem's records, packed; the largest has about 0.5 GB
Url = Annotated[str, Field(min_length=8, max_length=2048, pattern=r"^https?://")]
Ecosystem = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z .]{0,30}(:[A-Za-z0-9._:-]{1,40})?$")]


class Options(Frozen):
    """Which data, and from where."""

    ecosystems: tuple[Ecosystem, ...] = Field(
        min_length=1,
        max_length=64,
        strict=False,
        description="as OSV names them: PyPI, npm, Go, `Debian:12`, `Ubuntu:24.04:LTS`, `Alpine:v3.20`",
    )
    base: Url = Field(default=OSV, description="where `<ecosystem>/all.zip` lies: OSV's bucket, or a mirror of it")
    kev: Url | bool = Field(default=True, description="CISA's list of vulnerabilities known to be exploited: true, false, or its address")
    epss: Url | bool = Field(default=True, description="FIRST's scores of how likely exploitation is: true, false, or their address")
    vex: tuple[str, ...] = Field(default=(), max_length=256, strict=False, description="VEX documents, as local files")


@dataclass(frozen=True, slots=True)
class _Read:
    """What was found in a file: how many records, how many not readable, and how old what it says itself is."""

    records: int
    skipped: int
    as_of: datetime | None


def resolve(name: str, role: str | None, options: Options, context: Context) -> LockedComponent:
    """Return a tree of the data with what it says of itself; raises InvalidFileError for data that is empty or no such data."""
    unknown = [ecosystem for ecosystem in options.ecosystems if not versions.known(ecosystem)]
    if unknown:
        there = ", ".join(versions.ORDERS)
        raise InvalidFileError(f"{name}: ecosystem {unknown[0]!r} has versions this tool cannot order", hint=f"it can order: {there}")
    found = [_fetched(name, path, url, context) for path, url in _wanted(options)]
    found += [_document(name, text, context) for text in options.vex]
    check_disjoint(tuple(pin.path for pin, _ in found), name)
    entries = [entry for _, entry in sorted(found, key=lambda pair: pair[0].path)]
    text = canonical.readable({"format": feeds.FORMAT, "files": entries}).decode()
    dated = [str(entry["asOf"]) for entry in entries if entry["asOf"] and entry["feed"] != "vex"]
    return LockedComponent(
        name=name,
        kind="osv",
        form="tree",
        role=role,
        identity={"ecosystems": ", ".join(dict.fromkeys(options.ecosystems)), "asOf": min(dated, default="unknown")},
        facts={"records": str(sum(int(str(entry["records"])) for entry in entries if entry["feed"] == "osv"))},
        files=tuple(sorted((pin for pin, _ in found), key=lambda pin: pin.path)),
        inline=(Inline(path=feeds.FEEDS_FILE, text=text),),
    )


def credentials(_client: Client, _registries: Registries) -> Credentials:
    """Return no credentials beyond what the client itself takes from the host's own files."""
    return NoCredentials()


def _wanted(options: Options) -> Iterator[tuple[str, str]]:
    for ecosystem in dict.fromkeys(options.ecosystems):
        yield f"osv/{ecosystem}/all.zip", f"{options.base.rstrip('/')}/{quote(ecosystem)}/all.zip"
    for wanted, path, default in ((options.kev, KEV_PATH, KEV), (options.epss, EPSS_PATH, EPSS)):
        if wanted:
            yield path, default if wanted is True else wanted


def _fetched(name: str, path: str, url: str, context: Context) -> tuple[Pin, dict[str, object]]:
    known = feeds.feed_of(path)
    assert known is not None  # noqa: S101 - the paths are our own
    limit = MAX_ARCHIVE if known[0] == "osv" else exploited.MAX_DOCUMENT
    published = _published(url, context)  # asked before: it may be older than what comes then, never newer
    label = f"{name}/{path}"
    digest, size = fetch_unpinned(
        context.client, url, context.cache, credentials=NoCredentials(), label=label, watch=Silent(), limit=limit
    )
    found = _READERS[known[0]](context, digest, size, f"{name}: {printable(url)}")
    if found.skipped:
        context.warn(f"{name}: {found.skipped} of {found.records + found.skipped} records of {known[1]} cannot be read")
    as_of = (published or found.as_of) if known[0] == "osv" else (found.as_of or published)
    if as_of is None:
        context.warn(f"{name}: nothing says how old {known[1]} is")
    pin = Pin(path=path, url=url, size=size, sha256=digest.hex, evidence={"asOf": canonical.stamp(as_of)} if as_of else {})
    return pin, _entry(pin, known, found.records, as_of)


def _entry(pin: Pin, known: tuple[str, str], count: int, as_of: datetime | None) -> dict[str, object]:
    stamp = canonical.stamp(as_of) if as_of else None
    return {"path": pin.path, "feed": known[0], "name": known[1], "sha256": pin.sha256, "records": count, "asOf": stamp}


def _published(url: str, context: Context) -> datetime | None:
    """Return when its publisher last changed what is at an address, if the server says so."""
    try:
        text = context.client.head(url, limit=0).header("last-modified")
        found = parsedate_to_datetime(text) if text else None
    except (NetworkError, ValueError, TypeError, OverflowError):
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)) if found else None


def _records(context: Context, digest: Digest, size: int, what: str) -> _Read:
    count = skipped = 0
    newest: datetime | None = None
    try:
        with feeds.archive(context.cache.open(digest, size)) as archive:
            for _, text in feeds.members(archive):
                try:
                    changed = records.peek(text or b"")[1]
                except BadRecordError:
                    skipped += 1
                    continue
                count += 1
                newest = max(filter(None, (newest, changed)), default=None)
    except feeds.BROKEN as error:
        raise InvalidFileError(f"{what}: is no archive of records: {printable(str(error), 100)}", hint="check `base`") from None
    if not count:
        raise InvalidFileError(f"{what}: holds no record that can be read", hint="check the name of the ecosystem; OSV lists them")
    return _Read(count, skipped, newest)


def _scores(read: Callable[[bytes], tuple[Mapping[str, object], datetime | None]]) -> Callable[[Context, Digest, int, str], _Read]:
    def counted(context: Context, digest: Digest, size: int, what: str) -> _Read:
        with os.fdopen(context.cache.open(digest, size), "rb") as file:
            raw = file.read(exploited.MAX_DOCUMENT)
        try:
            listed, as_of = read(raw)
        except ValueError as error:
            raise InvalidFileError(f"{what}: {printable(str(error))}", hint="check its address, or set it to false") from None
        if not listed:
            raise InvalidFileError(f"{what}: is empty", hint="check its address, or set it to false")
        return _Read(len(listed), 0, as_of)

    return counted


_READERS: dict[str, Callable[[Context, Digest, int, str], _Read]] = {
    "osv": _records,
    "kev": _scores(exploited.kev),
    "epss": _scores(exploited.epss),
}


def _document(name: str, written: str, context: Context) -> tuple[Pin, dict[str, object]]:
    """Return a local VEX document, read once so that nobody carries one that will be refused."""
    what = f"{name}: {printable(written)}"
    path = f"vex/{PurePosixPath(written).name}"
    known = feeds.feed_of(path)
    place = locate(context.folder, written, name)
    if known is None or not place.is_file():
        raise InvalidFileError(f"{what}: is no file whose name ends in .json", hint="name OpenVEX or CycloneDX documents")
    (pin,) = pin_path(context.folder, written, Selection(), name)
    try:
        stated = vex.read(read_regular(place, what, exploited.MAX_DOCUMENT), known[1])
    except ValueError as error:
        raise InvalidFileError(f"{what}: {printable(str(error))}", hint="correct the document, or leave it out") from None
    newest = max((entry.decision.time for entry in stated if entry.decision.time), default=None)
    pin = pin.model_copy(update={"path": path})
    return pin, _entry(pin, known, len(stated), newest)
