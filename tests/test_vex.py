"""VEX in: a decision silences only what it names and only where it says why; anything wrong in a document silences nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packageurl import PackageURL
from parts import advisories
from parts.advisories import REQUESTS_PURL as REQUESTS
from parts.advisories import compared, statement
from parts.advisories import openvex as stated

from audit.vulnerabilities import vex
from audit.vulnerabilities.result import Decision, Vulnerabilities

REASON = "vulnerable_code_not_in_execute_path"


def cyclonedx(*vulnerabilities: dict[str, Any], **more: Any) -> bytes:
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "metadata": {"authors": [{"name": "Acme"}], "timestamp": "2026-11-01T00:00:00Z"}}
    return json.dumps(head | {"vulnerabilities": list(vulnerabilities)} | more).encode()


def analysed(ref: str = REQUESTS, **analysis: Any) -> dict[str, Any]:
    said = {"state": "not_affected", "justification": "code_not_reachable"} | analysis
    return {"id": "CVE-2018-18074", "affects": [{"ref": ref}], "analysis": said}


def left(found: Vulnerabilities) -> set[str]:
    return {entry.name for entry in found.standing}


@pytest.mark.parametrize(
    "document",
    [
        stated(statement()),
        stated(statement(purl="pkg:pypi/requests")),
        stated(statement(purl="urn:whatever", products=[{"@id": "urn:x", "identifiers": {"purl": REQUESTS}}])),
        stated(statement(products=[REQUESTS])),
        stated(statement(name="GHSA-x84v-xcm2-53pg")),
        stated(statement(name="X-1", vulnerability={"name": "X-1", "aliases": ["PYSEC-2018-28"]})),
        stated(statement(vulnerability="CVE-2018-18074")),
        stated(statement(status="fixed")),
        stated(statement(justification=None, impact_statement="never called")),
        cyclonedx(analysed()),
        cyclonedx(analysed("ref-1"), components=[{"bom-ref": "ref-1", "purl": REQUESTS}]),
        cyclonedx(analysed(state="false_positive", justification=None, detail="another package")),
        cyclonedx(analysed(state="resolved")),
    ],
)
def test_a_decision_about_this_package_silences_this_vulnerability_and_stays_beside_it(tmp_path: Path, document: bytes) -> None:
    found = compared(tmp_path, REQUESTS, acme=document)
    assert left(found) == advisories.REQUESTS - {"CVE-2018-18074"}
    assert {entry.name for entry in found.matches} == advisories.REQUESTS
    (decided,) = (entry.decision for entry in found.matches if entry.decision)
    assert decided.author in {"Acme Security", "Acme"}
    assert (decided.source, decided.time) == ("acme.json", datetime(2026, 11, 1, tzinfo=UTC))
    assert {entry.status for entry in found.items} == {"affected"}


@pytest.mark.parametrize(
    "document",
    [
        stated(statement(purl="pkg:pypi/requests@2.18.0")),
        stated(statement(purl="pkg:pypi/request@2.19.0")),
        stated(statement(purl="pkg:npm/requests@2.19.0")),
        stated(statement(purl="pkg:pypi/acme/requests@2.19.0")),
        stated(statement(purl="pkg:pypi/requests@2.19.0?arch=arm64")),
        stated(statement(purl="pkg:pypi/requests@2.19.0#sub/path")),
        stated(statement(purl="pkg:oci/server@sha256%3A00")),
        stated(statement(purl="*")),
        stated(statement(purl="")),
        stated(statement(purl="requests")),
        stated(statement(purl="pkg:pypi/")),
        stated(statement(products=[])),
        stated(statement(products=[{"@id": REQUESTS, "subcomponents": [{"@id": "pkg:pypi/idna"}]}])),
        stated(statement(products=[{}])),
        stated({"vulnerability": {"name": "CVE-2018-18074"}, "status": "not_affected", "justification": REASON}),
        stated(statement(name="CVE-2018-1807")),
        stated(statement(name="")),
        stated(statement(status="affected")),
        stated(statement(status="under_investigation")),
        cyclonedx(analysed("requests")),
        cyclonedx(analysed("ref-2"), components=[{"bom-ref": "ref-1", "purl": REQUESTS}]),
        cyclonedx(analysed(state="exploitable")),
        cyclonedx(analysed(state="in_triage")),
        cyclonedx({"id": "CVE-2018-18074", "affects": [{"ref": REQUESTS}]}),
    ],
)
def test_nothing_else_silences_anything(tmp_path: Path, document: bytes) -> None:
    assert left(compared(tmp_path, REQUESTS, acme=document)) == advisories.REQUESTS


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b"{}",
        stated(),
        stated(statement(), statement(justification=None)),
        stated(statement(), statement(justification="")),
        stated(statement(), statement(justification="trust_me")),
        stated(statement(), statement(justification=["x"])),
        stated(statement(), statement(status="ignored")),
        stated(statement(), statement(status=["fixed"])),
        stated(statement(), {"status": "fixed"}),
        stated(statement(), statement(products="x", vulnerability=7)),
        stated(statement(), statement(products=[7])),
        cyclonedx(analysed(), analysed(justification=None)),
        cyclonedx(analysed(), analysed(state="gone")),
        cyclonedx(analysed(), analysed(), components=[7]),
        cyclonedx(analysed(), metadata=[]),
    ],
)
def test_a_document_with_anything_wrong_in_it_silences_nothing_and_is_counted(tmp_path: Path, document: bytes) -> None:
    found = compared(tmp_path, REQUESTS, acme=document)
    assert left(found) == advisories.REQUESTS
    (source,) = (source for source in found.sources if source.feed == "vex")
    assert source.records == 0
    assert bool(source.problems) == (document != stated())


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(["statements", "products", "@id", "status", "vulnerability", "vulnerabilities", "analysis", "affects", "metadata"]), inner)))
def test_any_json_is_read_or_refused_with_a_reason(value: Any) -> None:
    for head in ({"@context": "openvex"}, {"bomFormat": "CycloneDX"}):
        document = (value if isinstance(value, dict) else {"statements": value, "vulnerabilities": value}) | head
        try:
            vex.read(json.dumps(document).encode(), "x")
        except ValueError as error:
            assert str(error)


def test_the_newest_decision_counts_and_of_one_time_the_one_that_lets_it_stand(tmp_path: Path) -> None:
    older, newer = statement(), statement(status="affected", timestamp="2026-11-02T00:00:00Z")
    assert "CVE-2018-18074" in left(compared(tmp_path / "newer", REQUESTS, a=stated(older), b=stated(newer)))
    back = statement(timestamp="2026-11-03T00:00:00.123456789+01:00")
    assert "CVE-2018-18074" not in left(compared(tmp_path / "newest", REQUESTS, a=stated(back, newer)))
    for status in ("affected", "under_investigation"):
        stands, not_so = stated(statement(status=status)), stated(statement())
        for at, (one, two) in enumerate(((stands, not_so), (not_so, stands))):
            assert "CVE-2018-18074" in left(compared(tmp_path / f"{status}{at}", REQUESTS, a=one, b=two))
    undated = stated(older, timestamp=None)
    assert "CVE-2018-18074" in left(compared(tmp_path / "undated", REQUESTS, a=undated, b=stated(statement(status="affected"))))


def test_nobody_decides_a_hostile_package_away(tmp_path: Path) -> None:
    found = compared(tmp_path, "pkg:pypi/litellm@1.82.7", acme=stated(statement("MAL-2026-0", "pkg:pypi/litellm")))
    assert left(found) == {"MAL-2026-0"}
    assert found.matches[0].decision


def test_a_qualifier_that_is_named_must_be_the_packages() -> None:
    debian = PackageURL.from_string("pkg:deb/debian/libssl3@3.0.8-1?arch=amd64&distro=debian-12")
    decision = Decision("fixed", "", "", "", "", None)
    for text, expected in (
        ("pkg:deb/debian/libssl3", True),
        ("pkg:deb/debian/libssl3@3.0.8-1?distro=debian-12", True),
        ("pkg:deb/debian/libssl3?distro=debian-11", False),
        ("pkg:deb/ubuntu/libssl3", False),
    ):
        told = vex.Stated(frozenset({"CVE-1"}), (PackageURL.from_string(text),), decision)
        assert told.about(frozenset({"CVE-1", "X"}), debian) is expected
