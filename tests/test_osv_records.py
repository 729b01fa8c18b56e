"""Records in the OSV format, read from hostile bytes: every record of ours, every odd form, and any bytes at all."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import advisories
from parts.advisories import made

from audit.vulnerabilities import records
from audit.vulnerabilities.cvss import base_score, severity
from audit.vulnerabilities.records import MAX_RECORD, MAX_TEXT, BadRecordError, parse, peek

HIGH = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"


def raw(**changed: Any) -> bytes:
    return json.dumps(made(("introduced", "0")) | changed).encode()


@pytest.mark.parametrize("name", sorted(advisories.records()))
def test_every_recorded_record_is_read_and_says_what_it_is_about(name: str) -> None:
    text = advisories.records()[name]
    record = parse(text)
    about, modified = peek(text)
    assert record.id == name
    assert about == {(entry.ecosystem, entry.name) for entry in record.affected}
    assert record.modified == modified == datetime(2026, 11, 20, 8, tzinfo=UTC)
    assert all(entry.ranges or entry.versions for entry in record.affected)
    assert record.malicious == name.startswith("MAL-")
    assert record.withdrawn == (name == "GHSA-w596-4wvx-j9j6")
    assert record.disputed == (name == "PYSEC-2022-42969")


def test_names_of_one_vulnerability_are_told_from_those_of_several() -> None:
    found = {name: parse(text) for name, text in advisories.records().items()}
    assert found["DEBIAN-CVE-2023-0286"].names == {"DEBIAN-CVE-2023-0286", "CVE-2023-0286"}
    assert found["DSA-5343-1"].names == {"DSA-5343-1"}
    assert len(found["DSA-5343-1"].covers) == 5  # named as `related`
    assert len(found["DSA-5417-1"].covers) == 4  # named as `upstream`
    assert found["GHSA-x84v-xcm2-53pg"].aliases == ("CVE-2018-18074", "PYSEC-2018-28")
    similar = parse(raw(id="GHSA-1", related=["CVE-2020-1"]))
    assert (similar.names, similar.covers) == ({"GHSA-1"}, ())  # related is not the same, but in advisories of distributions


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"severity": [{"type": "CVSS_V3", "score": HIGH}]}, ("critical", 9.8, HIGH)),
        ({"severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:L/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N"}, {"score": HIGH}]}, ("critical", 9.8, HIGH)),
        ({"severity": [{"type": "CVSS_V4", "score": "CVSS:4.0/AV:N"}], "database_specific": {"severity": "HIGH"}}, ("high", None, "CVSS:4.0/AV:N")),
        ({"severity": [{"type": "Ubuntu", "score": "negligible"}]}, ("low", None, "")),
        ({"database_specific": {"severity": "MODERATE"}}, ("medium", None, "")),
        ({"database_specific": {"severity": "Important"}}, ("high", None, "")),
        ({"database_specific": {"severity": 7}}, ("unknown", None, "")),
        ({"database_specific": [], "severity": []}, ("unknown", None, "")),
        ({"severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N"}]}, ("unknown", None, "CVSS:3.1/AV:N")),
        ({"severity": [{"type": "CVSS_V3"}]}, ("unknown", None, "")),
        ({"severity": None, "aliases": None, "affected": made(("introduced", "0"))["affected"]}, ("unknown", None, "")),
    ],
)
def test_severity_is_the_highest_score_else_the_word(changed: dict[str, Any], expected: tuple[Any, ...]) -> None:
    (affected,) = parse(raw(**changed)).affected
    assert affected.severity == expected


def test_what_is_said_of_one_package_counts_before_what_is_said_of_all() -> None:
    value = made(("introduced", "0"), severity=[{"type": "CVSS_V3", "score": HIGH}])
    value["affected"][0]["ecosystem_specific"] = {"urgency": "unimportant"}
    assert parse(json.dumps(value).encode()).affected[0].severity[0] == "low"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "is no JSON"),
        (b"\xff", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[]", "has no id"),
        (b"{}", "has no id"),
        (b'{"id": 1}', "has no id"),
        (b'{"id": ""}', "has no id"),
        (b" " * (MAX_RECORD + 1), "bytes, at most"),
        (raw(affected={}), "has affected in no known form"),
        (raw(affected=[1]), "has affected in no known form"),
        (raw(affected=[{"package": "app"}]), "names a package in no known form"),
        (raw(affected=[{"versions": "1.0"}]), "has versions in no known form"),
        (raw(affected=[{"versions": [1.0]}]), "has versions in no known form"),
        (raw(affected=[{"ranges": {}}]), "has ranges in no known form"),
        (raw(affected=[{"ranges": [{"type": "ECOSYSTEM", "events": "0"}]}]), "has events in no known form"),
        (raw(affected=[{"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": 0}]}]}]), "an event that names no version"),
        (raw(affected=[{"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": ""}]}]}]), "an event that names no version"),
        (raw(affected=[{"ranges": [{"type": "ECOSYSTEM", "events": [{"fixed": "1"}]}]}]), "begins nowhere"),
        (raw(affected=[{"ranges": [{"type": "ECOSYSTEM"}]}]), "begins nowhere"),
        (raw(aliases="CVE-1"), "has aliases in no known form"),
        (raw(aliases=[1]), "has aliases in no known form"),
        (raw(severity=["high"]), "has severity in no known form"),
        (raw(upstream="CVE-1"), "has upstream in no known form"),
    ],
)
def test_a_record_of_another_form_is_refused_with_the_reason(value: bytes, reason: str) -> None:
    with pytest.raises(BadRecordError, match=reason):
        parse(value)


@pytest.mark.parametrize(
    ("changed", "disputed"),
    [
        ({"details": "** DISPUTED ** It may be none."}, True),
        ({"summary": "DISPUTED: it may be none"}, True),
        ({"database_specific": {"disputed": True}}, True),
        ({"database_specific": {"isDisputed": True}}, True),
        ({"database_specific": {"disputed": "no"}}, False),
        ({"details": "The fix was disputed."}, False),
        ({"details": "Disputedly"}, False),
    ],
)
def test_a_dispute_is_seen_where_databases_say_it(changed: dict[str, Any], disputed: bool) -> None:
    assert parse(raw(**changed)).disputed is disputed


def test_hostile_texts_are_cut_and_hold_no_controls() -> None:
    text = "\x1b[2J\N{RIGHT-TO-LEFT OVERRIDE}" + "x" * 10_000
    record = parse(raw(id=text, aliases=[text], summary=text, upstream=["CVE-\n1"]))
    for said in (record.id, record.summary, *record.aliases):
        assert len(said) <= MAX_TEXT
        assert said.isprintable()


@pytest.mark.parametrize("text", ["2026-11-20", "2026-11-20T00:00:00+01:00", "soon", "2026-13-01T00:00:00Z", "9999999Z", 5, None, ["Z"]])
def test_a_time_that_is_none_is_unknown(text: Any) -> None:
    assert parse(raw(modified=text)).modified is None
    assert peek(raw(modified=text))[1] is None


def test_a_time_may_have_fractions() -> None:
    assert parse(raw(modified="2026-11-20T08:00:00.123456789Z")).modified == datetime(2026, 11, 20, 8, tzinfo=UTC)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["package", "ranges", "events", "introduced", "versions", "name"]), inner),
    max_leaves=8,
)
FIELDS = ["aliases", "affected", "severity", "modified", "summary", "details", "database_specific", "upstream", "related", "withdrawn"]


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_json_is_a_record_or_refused_and_peek_agrees_with_parse(value: dict[str, Any]) -> None:
    text = json.dumps({"id": "X"} | value).encode()
    try:
        record = parse(text)
    except BadRecordError as error:
        assert str(error)
        return
    assert peek(text)[0] == {(entry.ecosystem, entry.name) for entry in record.affected}
    assert asdict(record)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_refused(text: bytes) -> None:
    for read in (peek, parse):
        with pytest.raises(BadRecordError):
            read(text)


# FIRST, "CVSS v3.1 Specification" and its examples
@pytest.mark.parametrize(
    ("vector", "score", "word"),
    [
        (HIGH, 9.8, "critical"),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", 10.0, "critical"),
        ("CVSS:3.0/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:N", 7.5, "high"),
        ("CVSS:3.1/AV:N/AC:H/PR:N/UI:R/S:C/C:H/I:N/A:N", 6.1, "medium"),
        ("CVSS:3.1/AV:L/AC:H/PR:H/UI:R/S:U/C:H/I:H/A:N", 5.6, "medium"),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", 6.1, "medium"),
        ("CVSS:3.1/AV:N/AC:L/PR:H/UI:N/S:U/C:H/I:H/A:H", 7.2, "high"),
        ("CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:U/C:N/I:N/A:L", 3.7, "low"),
        ("CVSS:3.1/AV:P/AC:H/PR:H/UI:R/S:U/C:N/I:N/A:N", 0.0, "none"),
        ("CVSS:3.0/S:C/AV:L/UI:N/PR:L/AC:H/A:H/I:H/C:H/E:P/RL:O/RC:C", 7.8, "high"),
    ],
)
def test_scores_are_those_of_the_specification(vector: str, score: float, word: str) -> None:
    assert base_score(vector) == score
    assert severity(score) == word


@pytest.mark.parametrize(
    "vector", ["", "9.8", "CVSS:2.0/AV:N", "CVSS:4.0/AV:N/AC:L", f"{HIGH[:-1]}X", HIGH.replace("/S:U", ""), f"{HIGH}/{'x' * 600}", HIGH.lower()]
)
def test_what_is_no_whole_vector_has_no_score(vector: str) -> None:
    assert base_score(vector) is None


def test_names_are_sorted_with_cves_first() -> None:
    assert records.ordered(["PYSEC-1", "CVE-2", "A-1", "CVE-1", "A-1"]) == ("CVE-1", "CVE-2", "A-1", "PYSEC-1")
