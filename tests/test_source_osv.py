"""Kind ``osv``: real archives from a real server become a tree with what it says of itself; what is no such data is refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from parts import advisories
from parts.advisories import Served
from parts.cli import Desk

from airgap_images.layout import Layout
from airgap_images.remote.http import Client, Retry
from audit.vulnerabilities import feeds
from bundler.sources import Context, kinds, osv
from manifests.errors import AirgapError, IntegrityError, InvalidFileError, NetworkError
from manifests.lock import LockedComponent, Target

NOT_AFFECTED = {
    "@context": "https://openvex.dev/ns/v0.2.0",
    "@id": "urn:example:1",
    "author": "Acme",
    "timestamp": "2026-11-01T00:00:00Z",
    "version": 1,
    "statements": [
        {
            "vulnerability": {"name": "CVE-2018-18074"},
            "products": [{"@id": "pkg:pypi/requests"}],
            "status": "not_affected",
            "justification": "vulnerable_code_not_in_execute_path",
        }
    ],
}


@dataclass
class Place:
    """A connected machine beside the publishers."""

    folder: Path
    site: Served
    warnings: list[str] = field(default_factory=list)

    def lock(self, *ecosystems: str, **options: Any) -> LockedComponent:
        origin = self.site.server.origin
        there = {"base": f"{origin}/osv", "kev": f"{origin}/kev.json", "epss": f"{origin}/epss.csv.gz"}
        context = Context(
            folder=self.folder,
            target=Target(),
            previous=None,
            cache=Layout.create(self.folder / "cache"),
            client=Client(retry=Retry(attempts=1, first=0)),
            uploaded_before=None,
            warn=self.warnings.append,
        )
        return osv.resolve("data", None, osv.Options(**{"ecosystems": ecosystems or ("PyPI",), **there, **options}), context)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with advisories.site("PyPI", "Debian:12", "Rocky Linux:9") as site:
        yield Place(tmp_path, site)


def stated(locked: LockedComponent) -> dict[str, Any]:
    (inline,) = locked.inline
    assert inline.path == feeds.FEEDS_FILE
    value = json.loads(inline.text)
    assert value["format"] == feeds.FORMAT
    return {entry["path"]: entry for entry in value["files"]}


def test_the_kind_is_found() -> None:
    assert "osv" in kinds()


def test_bytes_are_carried_as_published_with_how_many_records_and_how_old(place: Place) -> None:
    (place.folder / "acme.json").write_text(json.dumps(NOT_AFFECTED))
    locked = place.lock("PyPI", "Debian:12", "Rocky Linux:9", "PyPI", vex=("acme.json",))
    assert [pin.path for pin in locked.files] == [
        "epss/epss_scores-current.csv.gz",
        "kev/known_exploited_vulnerabilities.json",
        "osv/Debian:12/all.zip",
        "osv/PyPI/all.zip",
        "osv/Rocky Linux:9/all.zip",
        "vex/acme.json",
    ]
    origin = place.site.server.origin
    assert [pin.url for pin in locked.files][2:] == [
        f"{origin}/osv/Debian%3A12/all.zip",
        f"{origin}/osv/PyPI/all.zip",
        f"{origin}/osv/Rocky%20Linux%3A9/all.zip",
        "file:acme.json",
    ]
    said = stated(locked)
    assert {path: (entry["feed"], entry["name"], entry["records"], entry["asOf"]) for path, entry in said.items()} == {
        "epss/epss_scores-current.csv.gz": ("epss", "EPSS", 1, "2026-11-23T00:00:00Z"),
        "kev/known_exploited_vulnerabilities.json": ("kev", "KEV", 1, "2026-11-22T00:00:00Z"),
        "osv/Debian:12/all.zip": ("osv", "Debian:12", 5, "2026-11-23T06:00:00Z"),
        "osv/PyPI/all.zip": ("osv", "PyPI", 17, "2026-11-23T06:00:00Z"),
        "osv/Rocky Linux:9/all.zip": ("osv", "Rocky Linux:9", 1, "2026-11-23T06:00:00Z"),
        "vex/acme.json": ("vex", "acme.json", 1, "2026-11-01T00:00:00Z"),
    }
    assert {path: entry["sha256"] for path, entry in said.items()} == {pin.path: pin.sha256 for pin in locked.files}
    assert locked.identity == {"ecosystems": "PyPI, Debian:12, Rocky Linux:9", "asOf": "2026-11-22T00:00:00Z"}
    assert place.warnings == []


def test_what_is_switched_off_is_not_asked_for(place: Place) -> None:
    locked = place.lock(kev=False, epss=False)
    assert [pin.path for pin in locked.files] == ["osv/PyPI/all.zip"]
    assert {request.path for request in place.site.server.requests} == {"/osv/PyPI/all.zip"}


def test_without_a_date_of_the_server_the_newest_record_is_how_old_it_is(place: Place) -> None:
    place.site.put("PyPI", advisories.ecosystem("PyPI"), published=None)
    assert stated(place.lock())["osv/PyPI/all.zip"]["asOf"] == "2026-11-20T08:00:00Z"
    undated = {"a.json": json.dumps({"id": "X-1", "affected": []}).encode()}
    place.site.put("PyPI", advisories.archive(undated), published=None)
    assert stated(place.lock())["osv/PyPI/all.zip"]["asOf"] is None
    assert place.warnings == ["data: nothing says how old PyPI is"]


@pytest.mark.parametrize("text", ["yesterday", "Mon, 99 Nov 2026 06:00:00 GMT", "", "0"])
def test_a_date_that_is_none_is_not_believed(place: Place, text: str) -> None:
    place.site.server.serve("/osv/PyPI/all.zip", advisories.ecosystem("PyPI"), headers={"Last-Modified": text})
    assert stated(place.lock())["osv/PyPI/all.zip"]["asOf"] == "2026-11-20T08:00:00Z"


def test_records_that_cannot_be_read_are_warned_of(place: Place) -> None:
    good = advisories.records()["PYSEC-2018-28"]
    place.site.put("PyPI", advisories.archive({"a.json": good, "b.json": b"[]", "c.json": b"{", "README.md": b"no record"}))
    assert stated(place.lock())["osv/PyPI/all.zip"]["records"] == 1
    assert place.warnings == ["data: 2 of 3 records of PyPI cannot be read"]


def test_names_in_an_archive_are_names_and_nothing_is_written_by_them(place: Place) -> None:
    good = advisories.records()["PYSEC-2018-28"]
    before = sorted(os.listdir(place.folder.parent))
    members = {"../../out.json": good, "/etc/out.json": good, "C:\\out.json": good, "a\x1b[2J.json": b"{"}
    place.site.put("PyPI", advisories.archive(members))
    assert stated(place.lock())["osv/PyPI/all.zip"]["records"] == 3
    assert sorted(os.listdir(place.folder.parent)) == before
    assert not Path("/etc/out.json").exists()


def bomb() -> bytes:
    """Return an archive with a record of 64 MiB of blanks, which says that it has 64 bytes."""
    raw = bytearray(advisories.archive({"a.json": b" " * (64 << 20)}))
    at = raw.rindex(b"PK\x01\x02")
    struct.pack_into("<L", raw, at + 24, 64)
    return bytes(raw)


def many() -> bytes:
    """Return the end of an archive that says its list of records has 200 MiB."""
    size = 200 << 20
    return bytes(size) + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, size, 0, 0)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is no archive of records"),
        (b"<html>not found</html>", "is no archive of records"),
        (advisories.archive({}), "holds no record that can be read"),
        (advisories.archive({"a.json": b"no JSON"}), "holds no record that can be read"),
        (advisories.archive({"a.json": b'{"id": 5}', "b.json": b'{"id": "X", "affected": {}}'}), "holds no record that can be read"),
        (advisories.archive({"a.json": b"[" * 100_000}), "holds no record that can be read"),
        (advisories.archive({"a.json": b'{"id": "X", "a": "%b"}' % (b"x" * (9 << 20))}), "holds no record that can be read"),
        (bomb(), "holds no record that can be read"),
        (advisories.ecosystem("PyPI")[:-30], "is no archive of records"),
    ],
    ids=["empty", "html", "no records", "no json", "wrong types", "deep", "huge", "bomb", "cut"],
)
def test_what_is_no_such_data_is_refused(place: Place, raw: bytes, message: str) -> None:
    place.site.put("PyPI", raw)
    with pytest.raises(InvalidFileError, match=message) as caught:
        place.lock()
    assert "PyPI/all.zip" in caught.value.message
    assert caught.value.hint


def test_an_archive_that_lists_too_much_is_not_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MAX_RECORDS", 3)
    place.site.put("PyPI", advisories.archive({f"{at}.json": b"{}" for at in range(4)}))
    with pytest.raises(InvalidFileError, match="more than 3 records"):
        place.lock()
    place.site.put("PyPI", many())
    with pytest.raises(InvalidFileError, match="its list of records has more than"):
        place.lock()


@pytest.mark.parametrize(
    ("path", "raw", "message"),
    [
        ("/kev.json", b"<html>", "is no list of exploited"),
        ("/kev.json", b"[]", "is no list of exploited"),
        ("/kev.json", b'{"vulnerabilities": [{"cveID": "CVE-2023-4863"}]}', "is no list of exploited"),
        ("/kev.json", b'{"vulnerabilities": [{"cveID": "CVE-2023-4863", "dateAdded": "soon"}]}', "is no list of exploited"),
        ("/kev.json", b'{"vulnerabilities": []}', "is empty"),
        ("/kev.json", b"[" * 100_000, "is no list of exploited"),
        ("/epss.csv.gz", b"cve,epss", "is not packed with gzip"),
        ("/epss.csv.gz", gzip.compress(b"name,score\na,1\n"), "is no table of scores"),
        ("/epss.csv.gz", gzip.compress(b"cve,epss\nCVE-2023-4863,high\n"), "could not convert"),
        ("/epss.csv.gz", gzip.compress(b"cve,epss\nCVE-2023-4863,7\n"), "is empty"),
        ("/epss.csv.gz", gzip.compress(b"cve,epss\n")[:-9], "is not packed with gzip"),
        ("/epss.csv.gz", gzip.compress(bytes(300 << 20), 1), "bytes unpacked"),
    ],
)
def test_scores_that_are_none_are_refused(place: Place, path: str, raw: bytes, message: str) -> None:
    place.site.raw(path, raw)
    with pytest.raises(InvalidFileError, match=message):
        place.lock()


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.json", b"{}", "neither OpenVEX nor CycloneDX"),
        ("a.json", b"{", "Expecting"),
        ("a.txt", b"{}", "is no file whose name ends in .json"),
        ("a.json", json.dumps(NOT_AFFECTED | {"statements": [{"status": "fixed"}]}).encode(), "has not the form of VEX"),
        ("a.json", json.dumps(NOT_AFFECTED).replace("justification", "status_notes").encode(), "and not why"),
    ],
)
def test_a_document_that_is_no_vex_is_refused_before_it_is_carried(place: Place, name: str, raw: bytes, message: str) -> None:
    (place.folder / name).write_bytes(raw)
    with pytest.raises(InvalidFileError, match=message):
        place.lock(vex=(name,))


def test_documents_are_taken_from_where_the_intent_may_reach(place: Place) -> None:
    (place.folder / "in").mkdir()
    (place.folder / "in" / "a.json").write_text(json.dumps(NOT_AFFECTED))
    (place.folder / "a.json").symlink_to("in/a.json")
    (place.folder / "b.json").mkdir()
    for text, message in (
        ("../a.json", "No such file|leads out"),
        ("none.json", "No such file"),
        ("a.json", "a symbolic link"),
        ("b.json", "is no file"),
    ):
        with pytest.raises(InvalidFileError, match=message):
            place.lock(vex=(text,))
    (pin,) = (pin for pin in place.lock(vex=("in/a.json",)).files if pin.path.startswith("vex/"))
    assert pin.url == "file:in/a.json"
    (place.folder / "A.json").write_text(json.dumps(NOT_AFFECTED))
    with pytest.raises(InvalidFileError, match="are one path on some systems"):
        place.lock(vex=("in/a.json", "A.json"))


def test_an_ecosystem_that_nothing_can_order_or_nobody_serves_is_said(place: Place) -> None:
    with pytest.raises(InvalidFileError, match="versions this tool cannot order") as caught:
        place.lock("PyPI", "Hackage")
    assert "Debian" in caught.value.hint
    with pytest.raises(NetworkError, match="404"):
        place.lock("npm")


@pytest.mark.parametrize("name", ["../PyPI", "a/b", "Debian:../x", "", "PyPI\n", "PyPI?x", ".."])
def test_an_ecosystem_is_no_path(name: str) -> None:
    with pytest.raises(ValueError, match="ecosystems"):
        osv.Options(ecosystems=(name,))


def test_a_download_is_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(osv, "MAX_ARCHIVE", 1000)
    with pytest.raises(IntegrityError, match="larger than 1000 bytes"):
        place.lock()


def test_a_bundle_with_data_is_the_same_twice_and_proven_on_the_other_side(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.trust()
    (tmp_path / "acme.json").write_text(json.dumps(NOT_AFFECTED))
    with advisories.site("PyPI", "Debian:12") as site:
        path = desk.write_intent(f"name: data, kind: osv, ecosystems: ['PyPI', 'Debian:12'], vex: [acme.json], {site.options}")
        desk.bundle("lock", path)
        lock = (tmp_path / "bundle.lock.json").read_bytes()
        assert desk.bundle("lock", path, "--json").json["state"] == "unchanged"
        assert (tmp_path / "bundle.lock.json").read_bytes() == lock
    for out in ("one", "two"):  # the publishers are gone: all bytes are in the cache
        desk.bundle("build", "bundle.lock.json", "--out", out)
    for name in ("index.json", "SHA256SUMS"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    desk.sign("one")
    desk.audit("verify", "one", "--policy", "policy.json", isolated=True)


def test_data_that_changed_after_locking_cannot_get_in(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with advisories.site() as site:
        path = desk.write_intent(f"name: data, kind: osv, ecosystems: [PyPI], {site.options}")
        desk.bundle("lock", path)
        site.put("PyPI", advisories.archive({"a.json": advisories.records()["PYSEC-2018-28"]}), datetime(2026, 11, 24, tzinfo=UTC))
        other = Desk(tmp_path, (("AIRGAP_CACHE", str(tmp_path / "empty")),))
        refused = other.bundle("build", "bundle.lock.json", "--out", "out", code=3)
        assert "PyPI/all.zip" in refused.err
        assert not (tmp_path / "out" / "index.json").exists()
        desk.bundle("lock", path)
        other.bundle("build", "bundle.lock.json", "--out", "out")


def test_members_never_unpack_more_than_a_record_may_have() -> None:
    """The limit holds whatever an archive says of its members."""
    with zipfile.ZipFile(io.BytesIO(bomb())) as opened:
        assert list(feeds.members(opened)) == [("a.json", None)] or [len(raw or b"") <= 64 for _, raw in feeds.members(opened)] == [True]


def test_errors_of_this_kind_are_typed(place: Place) -> None:
    place.site.server.routes.clear()
    with pytest.raises(AirgapError):
        place.lock()
