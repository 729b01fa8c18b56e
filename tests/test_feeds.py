"""Where vulnerability data lies: the newest of each feed is read, what is hostile is bounded, and what cannot be read is said to be so."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from parts import advisories
from parts.advisories import EPSS_PATH, KEV_PATH, archive, data, item, made

from airgap_images.bundle import Component
from audit.vulnerabilities import exploited, feeds
from audit.vulnerabilities.assess import assess
from audit.vulnerabilities.feeds import Loaded, carried, feed_of, listed, load, members
from audit.vulnerabilities.records import MAX_RECORD

PYPI = "osv/PyPI/all.zip"
APP = {"PyPI": frozenset({"app"})}


def one(**more: Any) -> bytes:
    return json.dumps(made(("introduced", "0"), **more)).encode()


def loaded(folder: Path, files: dict[str, bytes], **more: Any) -> Loaded:
    return load([data(folder, files, **more)], APP)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (PYPI, ("osv", "PyPI")),
        ("osv/Ubuntu:22.04:LTS/all.zip", ("osv", "Ubuntu:22.04:LTS")),
        (KEV_PATH, ("kev", "KEV")),
        (EPSS_PATH, ("epss", "EPSS")),
        ("vex/acme.json", ("vex", "acme.json")),
        ("osv/PyPI/some.zip", None),
        ("osv/all.zip", None),
        ("feeds.json", None),
        ("vex/acme.txt", None),
        ("other/PyPI/all.zip", None),
        ("kev", None),
    ],
)
def test_a_feed_is_known_by_where_it_lies(path: str, expected: tuple[str, str] | None) -> None:
    assert feed_of(path) == expected


def test_only_components_of_the_kind_carry_data(tmp_path: Path) -> None:
    found = data(tmp_path, {PYPI: archive({})})
    other = Component("docs", "path", "tree", None, found.component.root)
    assert [entry.component.name for entry in carried(found.layout, (other, found.component), "sha256:0")] == ["data"]
    assert carried(found.layout, (found.component,), "sha256:0")[0].bundle == "sha256:0"


def test_what_each_source_is_and_where_it_came_from_is_kept(tmp_path: Path) -> None:
    found = data(tmp_path, {PYPI: archive({"a.json": one()}), KEV_PATH: advisories.kev(), EPSS_PATH: advisories.epss()}, bundle="sha256:1")
    read = load([found], APP)
    assert [(source.feed, source.name, source.component, source.path, source.records, source.skipped, source.bundle) for source in read.sources] == [
        ("epss", "EPSS", "data", EPSS_PATH, 1, 0, "sha256:1"),
        ("kev", "KEV", "data", KEV_PATH, 1, 0, "sha256:1"),
        ("osv", "PyPI", "data", PYPI, 1, 0, "sha256:1"),
    ]
    assert (read.kev, read.epss) == ({"CVE-2023-4863": date(2023, 9, 13)}, {"CVE-2018-18074": 0.0123})


def test_only_records_that_are_asked_for_are_kept(tmp_path: Path) -> None:
    text = archive({f"{at}.json": one(id=f"X-{at}", name="app" if at == 3 else f"other-{at}") for at in range(9)})
    read = loaded(tmp_path, {PYPI: text})
    assert {key: [record.id for record, _, _ in found] for key, found in read.records.items()} == {("PyPI", "app"): ["X-3"]}
    assert read.sources[0].records == 9


def test_how_old_data_is_is_what_was_recorded_else_what_it_says_itself(tmp_path: Path) -> None:
    files = {PYPI: archive({"a.json": one()}), KEV_PATH: advisories.kev(), EPSS_PATH: advisories.epss()}
    own = {source.path: source.as_of for source in loaded(tmp_path / "own", files).sources}
    assert own == {
        PYPI: datetime(2026, 11, 20, tzinfo=UTC),
        KEV_PATH: datetime(2026, 11, 22, tzinfo=UTC),
        EPSS_PATH: datetime(2026, 11, 23, tzinfo=UTC),
    }
    recorded = dict.fromkeys(files, "2026-01-01T00:00:00Z")
    stated = loaded(tmp_path / "stated", files, as_of=recorded).sources
    assert {source.as_of for source in stated} == {datetime(2026, 1, 1, tzinfo=UTC)}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{",
        b'{"format": "airgap.advisories/v2", "files": [{"path": "osv/PyPI/all.zip", "asOf": "2030-01-01T00:00:00Z"}]}',
        b'{"format": "airgap.advisories/v1", "files": {}}',
        b'{"format": "airgap.advisories/v1", "files": [7]}',
        b'{"format": "airgap.advisories/v1", "files": [{"path": "osv/PyPI/all.zip", "asOf": 2030}]}',
        b'{"format": "airgap.advisories/v1", "files": [{"path": "osv/PyPI/all.zip", "asOf": "2030"}]}',
        b'{"format": "airgap.advisories/v1", "files": [{"asOf": "2030-01-01T00:00:00Z"}]}',
        b" " * ((1 << 20) + 1),
    ],
)
def test_a_list_that_cannot_be_read_makes_nothing_newer(tmp_path: Path, raw: bytes) -> None:
    read = loaded(tmp_path, {PYPI: archive({"a.json": one()}), feeds.FEEDS_FILE: raw})
    assert read.sources[0].as_of == datetime(2026, 11, 20, tzinfo=UTC)


def test_of_two_copies_of_a_feed_the_newer_one_is_read(tmp_path: Path) -> None:
    """A bundle brought some, a feed newer ones; whichever comes first, an advisory of the old one that was taken back is gone."""
    old = data(tmp_path / "a", {PYPI: archive({"a.json": one(id="OLD-1")})}, bundle="sha256:1", as_of={PYPI: "2026-11-01T00:00:00Z"})
    new = data(tmp_path / "b", {PYPI: archive({"a.json": one(id="NEW-1")})}, bundle="sha256:2", as_of={PYPI: "2026-11-02T00:00:00Z"})
    undated = data(tmp_path / "c", {PYPI: archive({"a.json": one(id="X-1")})}, bundle="sha256:3")
    for order in ((old, new, undated), (undated, new, old)):
        found = assess([item("pkg:pypi/app@1")], order)
        assert [entry.id for entry in found.matches] == ["NEW-1"]
        assert [source.bundle for source in found.sources] == ["sha256:2"]


def test_feeds_of_other_names_stand_beside_each_other(tmp_path: Path) -> None:
    one_, two = data(tmp_path / "a", {PYPI: archive({"a.json": one()})}), data(tmp_path / "b", {KEV_PATH: advisories.kev(), "osv/npm/all.zip": b""})
    assert [source.name for source in load([one_, two], APP).sources] == ["KEV", "PyPI", "npm"]


def test_documents_of_one_name_are_of_whom_brought_them(tmp_path: Path) -> None:
    raw = json.dumps({"@context": "openvex", "statements": []}).encode()
    found = [data(tmp_path / name, {"vex/a.json": raw}, bundle=f"sha256:{name}") for name in ("1", "2")]
    assert [source.bundle for source in load(found, APP).sources] == ["sha256:1", "sha256:2"]


def test_what_is_carried_can_be_listed_without_reading_it(tmp_path: Path) -> None:
    found = data(tmp_path, {PYPI: b"no archive", KEV_PATH: b""}, as_of={PYPI: "2026-11-01T00:00:00Z"})
    assert [(entry.feed, entry.name, entry.as_of) for entry in listed(found)] == [
        ("kev", "KEV", None),
        ("osv", "PyPI", datetime(2026, 11, 1, tzinfo=UTC)),
    ]


@pytest.mark.parametrize("path", [PYPI, KEV_PATH, EPSS_PATH, "vex/a.json"])
@pytest.mark.parametrize("raw", [b"", b"\x00" * 100, b"PK\x03\x04", b"\x1f\x8b", b"{}", b"[" * 100_000, b"\xff\xfe{"])
def test_what_cannot_be_read_is_a_source_of_nothing_with_the_reason(tmp_path: Path, path: str, raw: bytes) -> None:
    (source,) = loaded(tmp_path, {path: raw}).sources
    assert (source.path, source.records) == (path, 0)
    assert source.skipped == 1
    assert source.problems[0].isprintable()


def test_bytes_that_are_not_there_any_more_are_said_to_be_so(tmp_path: Path) -> None:
    found = data(tmp_path, {PYPI: archive({"a.json": one()})})
    (file,) = (file for file in feeds.tree_files(found.layout, found.component.root) if file.path == PYPI)
    found.layout.path(file.digest).unlink()
    (source,) = load([found], APP).sources
    assert (source.records, source.skipped) == (0, 1)


def test_problems_are_counted_and_some_are_named(tmp_path: Path) -> None:
    text = {f"{at}\x1b[2J.json": b"{" for at in range(50)} | {"good.json": one()}
    (source,) = loaded(tmp_path, {PYPI: archive(text)}).sources
    assert (source.records, source.skipped, len(source.problems)) == (1, 50, feeds.MAX_PROBLEMS)
    assert all(problem.isprintable() for problem in source.problems)


def members_of(raw: bytes) -> dict[str, int | None]:
    with zipfile.ZipFile(io.BytesIO(raw)) as opened:
        return {name: None if text is None else len(text) for name, text in members(opened)}


def test_a_record_has_a_limit_whatever_its_archive_says() -> None:
    large = archive({"a.json": b" " * (MAX_RECORD + 1), "b.json": b"{}"})
    assert members_of(large) == {"a.json": None, "b.json": 2}
    lying = bytearray(large)
    struct.pack_into("<L", lying, lying.index(b"PK\x01\x02") + 24, 100)
    assert (members_of(bytes(lying))["a.json"] or 0) <= 100


def test_what_is_no_record_is_passed_over_and_what_is_damaged_or_locked_is_none() -> None:
    raw = archive({"folder/": b"", "a.txt": b"x", "a.json": b"{}", "b.json": b'{"id": "X"}'})
    assert members_of(raw) == {"a.json": 2, "b.json": 11}
    damaged = bytearray(raw)
    damaged[raw.index(b"b.json") + 8] ^= 0xFF
    assert members_of(bytes(damaged)) == {"a.json": 2, "b.json": None}
    locked = bytearray(raw)
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.rindex(mark) + at] |= 1
    assert members_of(bytes(locked)) == {"a.json": 2, "b.json": None}
    unknown = bytearray(raw)
    for mark, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        unknown[unknown.rindex(mark) + at] = 99
    assert members_of(bytes(unknown)) == {"a.json": 2, "b.json": None}


def test_an_archive_of_too_much_is_not_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = archive({f"{at}.json": one(id=f"X-{at}") for at in range(5)})
    for name, limit in (("MAX_RECORDS", 4), ("MAX_UNPACKED", 100), ("MAX_DIRECTORY", 50)):
        with monkeypatch.context() as patched:
            patched.setattr(feeds, name, limit)
            (source,) = loaded(tmp_path / name, {PYPI: text}).sources
            assert source.records == 0
            assert "more than" in source.problems[0]
    assert loaded(tmp_path / "free", {PYPI: text}).sources[0].records == 5


@pytest.mark.parametrize("path", [KEV_PATH, EPSS_PATH, "vex/a.json"])
def test_a_document_has_a_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str) -> None:
    monkeypatch.setattr(feeds, "MAX_DOCUMENT", 10)
    (source,) = loaded(tmp_path, {path: b" " * 11}).sources
    assert "at most 10 allowed" in source.problems[0]


def test_scores_that_are_packed_too_well_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploited, "MAX_DOCUMENT", 1000)
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        exploited.epss(gzip.compress(bytes(1001)))
    with pytest.raises(ValueError, match="at most 1000"):
        exploited.kev(bytes(1001))


@pytest.mark.parametrize(("score", "kept"), [("0", True), ("1", True), ("0.5", True), ("-0.1", False), ("1.1", False), ("nan", False), ("inf", False)])
def test_a_score_that_is_no_probability_is_left_out(score: str, kept: bool) -> None:
    found, day = exploited.epss(gzip.compress(f"cve,epss,percentile\nCVE-2023-4863,{score},0.1\n".encode()))
    assert (("CVE-2023-4863" in found), day) == (kept, None)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (gzip.compress(b"cve,epss\nCVE-1,0.5\n"), "names what is no CVE"),
        (gzip.compress(b"cve,epss\nCVE-2023-4863\n"), "is no table of scores"),
        (gzip.compress("cve,epss\nCVE-2023-4863,\N{FULLWIDTH DIGIT ONE}\n".encode()), "ascii"),
        (gzip.compress(b"a\n\x00,b\n"), "is no table of scores|line contains NUL|names what is no CVE"),
    ],
)
def test_a_table_of_another_form_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        exploited.epss(raw)


@pytest.mark.parametrize("entry", [{}, {"cveID": "CVE-1", "dateAdded": "2023-09-13"}, {"cveID": 7, "dateAdded": "2023-09-13"}, "CVE-2023-4863", None])
def test_a_list_of_another_form_is_refused(entry: Any) -> None:
    with pytest.raises(ValueError, match="is no list of exploited vulnerabilities"):
        exploited.kev(json.dumps({"vulnerabilities": [entry]}).encode())


def test_a_feed_that_is_broken_does_not_hide_another(tmp_path: Path) -> None:
    read = loaded(tmp_path, {PYPI: archive({"a.json": one()}), KEV_PATH: b"<html>", EPSS_PATH: advisories.epss()})
    assert {source.feed: source.records for source in read.sources} == {"epss": 1, "kev": 0, "osv": 1}
    assert read.records


def test_the_age_of_a_list_is_never_the_clocks(tmp_path: Path) -> None:
    raw = json.dumps({"vulnerabilities": [], "dateReleased": 7}).encode()
    (source,) = loaded(tmp_path, {KEV_PATH: raw}).sources
    assert source.as_of is None
