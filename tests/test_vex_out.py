"""VEX out: a statement for every match that says no more than what was found, valid in both formats, and no empty document."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from parts import advisories, evidence
from parts.advisories import REQUESTS_PURL as REQUESTS
from parts.advisories import assessment, statement, waiver
from parts.advisories import openvex as stated
from parts.cli import Desk

import manifests
from audit.evidence import vex as out
from audit.evidence.assessment import Assessment
from audit.evidence.vex import cyclonedx_vex, openvex
from audit.evidence.write import OPENVEX, VEX, write
from audit.vulnerabilities import vex
from audit.vulnerabilities.result import Decision, Match, Vulnerabilities

SHA = "a" * 64
SUBJECT = "gateway/requests-2.19.0-py3-none-any.whl"
REASON = "vulnerable_code_not_in_execute_path"
SCHEMAS = Path(manifests.__file__).parent / "schemas" / "cyclonedx"
# What the specification of OpenVEX 0.2.0 demands of a document, in our words.
RULES: dict[str, Any] = {
    "type": "object",
    "required": ["@context", "@id", "author", "timestamp", "version", "statements"],
    "additionalProperties": False,
    "properties": {
        "@context": {"const": "https://openvex.dev/ns/v0.2.0"},
        "@id": {"type": "string", "format": "uri"},
        "author": {"type": "string", "minLength": 1},
        "role": {"type": "string"},
        "timestamp": {"type": "string", "format": "date-time"},
        "version": {"type": "integer", "minimum": 1},
        "tooling": {"type": "string"},
        "statements": {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"$ref": "#/$defs/statement"}},
    },
    "$defs": {
        "statement": {
            "type": "object",
            "required": ["vulnerability", "products", "status"],
            "additionalProperties": False,
            "properties": {
                "vulnerability": {
                    "type": "object",
                    "required": ["name"],
                    "additionalProperties": False,
                    "properties": {
                        "name": {"type": "string", "minLength": 1},
                        "description": {"type": "string", "minLength": 1},
                        "aliases": {"type": "array", "uniqueItems": True, "items": {"type": "string"}},
                    },
                },
                "timestamp": {"type": "string", "format": "date-time"},
                "products": {
                    "type": "array",
                    "minItems": 1,
                    "uniqueItems": True,
                    "items": {
                        "type": "object",
                        "required": ["@id"],
                        "additionalProperties": False,
                        "properties": {"@id": {"type": "string", "format": "uri"}, "identifiers": {"properties": {"purl": {"type": "string"}}}},
                    },
                },
                "status": {"enum": ["affected", "fixed", "not_affected", "under_investigation"]},
                "status_notes": {"type": "string", "minLength": 1},
                "justification": {
                    "enum": [
                        "component_not_present",
                        "vulnerable_code_not_present",
                        "vulnerable_code_not_in_execute_path",
                        "vulnerable_code_cannot_be_controlled_by_adversary",
                        "inline_mitigations_already_exist",
                    ]
                },
                "impact_statement": {"type": "string", "minLength": 1},
                "action_statement": {"type": "string", "minLength": 1},
            },
            "allOf": [
                {
                    "if": {"properties": {"status": {"const": "not_affected"}}},
                    "then": {"oneOf": [{"required": ["justification"]}, {"required": ["impact_statement"]}]},
                    "else": {"not": {"anyOf": [{"required": ["justification"]}, {"required": ["impact_statement"]}]}},
                },
                {
                    "if": {"properties": {"status": {"const": "affected"}}},
                    "then": {"required": ["action_statement"]},
                    "else": {"not": {"required": ["action_statement"]}},
                },
            ],
        }
    },
}


@pytest.fixture(scope="module")
def openvex_validator() -> Any:
    return jsonschema_rs.Draft202012Validator(RULES, validate_formats=True)


@pytest.fixture(scope="module")
def cyclonedx_validator() -> Any:
    def local(address: str) -> Any:
        return json.loads((SCHEMAS / address.rsplit("/", 1)[-1]).read_bytes())

    return jsonschema_rs.Draft7Validator(local("bom-1.6.SNAPSHOT.schema.json"), retriever=local, validate_formats=True)


ALL = ("requests==2.19.0", "pillow==10.0.0", "litellm==1.82.7", "py==1.11.0", "torch==2.5.1", "foo==1", "nvidia-nccl-cu12==2.21.5")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Assessment:
    """One match of every sort: decided away, waived, exploited, hostile, disputed, plain."""
    folder = tmp_path_factory.mktemp("vex")
    decided = stated(
        statement("CVE-2018-18074", impact_statement="http is never asked"),
        statement("CVE-2024-35195", status="fixed", status_notes="patched by us"),
        statement("CVE-2025-32434", "pkg:pypi/torch", "under_investigation"),
    )
    data = advisories.known(folder / "data", acme=decided)
    return assessment(folder / "bundle", ALL, (data,), waiver("CVE-2023-32681", SUBJECT))


def told(raw: bytes | None) -> dict[str, Any]:
    assert raw
    return {entry["vulnerability"]["name"]: entry for entry in json.loads(raw)["statements"]}


def test_every_match_has_a_statement_of_its_own(found: Assessment, openvex_validator: Any) -> None:
    raw = openvex(found, SHA)
    openvex_validator.validate(json.loads(raw or b""))
    said = told(raw)
    assert {name: entry["status"] for name, entry in said.items()} == {
        "CVE-2018-18074": "not_affected",
        "CVE-2022-42969": "under_investigation",
        "CVE-2023-32681": "affected",
        "CVE-2023-4863": "affected",
        "CVE-2024-35195": "fixed",
        "CVE-2025-32434": "under_investigation",
        "MAL-2026-0": "affected",
    }
    assert said["CVE-2018-18074"]["products"] == [{"@id": REQUESTS, "identifiers": {"purl": REQUESTS}}]
    assert said["CVE-2018-18074"]["vulnerability"]["aliases"] == ["GHSA-x84v-xcm2-53pg", "PYSEC-2018-28"]
    assert said["CVE-2018-18074"]["justification"] == REASON
    assert said["CVE-2018-18074"]["timestamp"] == "2026-11-01T00:00:00Z"
    assert said["CVE-2018-18074"]["status_notes"] == "Decided by Acme Security in acme.json: http is never asked"
    action = said["CVE-2023-32681"]["action_statement"]
    assert action.startswith("Accepted until 2026-12-24T12:00:00Z by Ada: Not reached: no redirects.")
    assert "2.31.0" in action
    assert "since 2023-09-13" in said["CVE-2023-4863"]["status_notes"]
    assert "disputed" in said["CVE-2022-42969"]["status_notes"]
    assert "hostile" in said["MAL-2026-0"]["action_statement"]


def test_the_document_says_who_made_it_of_what_and_is_the_same_twice(found: Assessment) -> None:
    value = json.loads(openvex(found, SHA) or b"")
    assert value["author"] == "airgap-audit 1.2.3"
    assert "does not judge" in value["role"]
    assert value["timestamp"] == "2026-11-24T12:00:00Z"
    assert SHA in value["tooling"]
    for make in (openvex, cyclonedx_vex):
        assert make(found, SHA) == make(found, SHA) != make(found, "b" * 64)
    ids = {json.loads(openvex(found, sha256) or b"")["@id"] for sha256 in (SHA, "b" * 64)}
    ids |= {json.loads(cyclonedx_vex(found, sha256) or b"")["serialNumber"] for sha256 in (SHA, "b" * 64)}
    assert len(ids) == 4


def test_cyclonedx_is_valid_and_resolves_to_the_sbom(found: Assessment, cyclonedx_validator: Any) -> None:
    raw = cyclonedx_vex(found, SHA) or b""
    value = json.loads(raw)
    cyclonedx_validator.validate(value)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(raw.decode()) is None
    read = Bom.from_json(value)  # type: ignore[attr-defined]
    assert {entry.id: entry.analysis.state.value for entry in read.vulnerabilities} == {
        "CVE-2018-18074": "not_affected",
        "CVE-2022-42969": "in_triage",
        "CVE-2023-32681": "exploitable",
        "CVE-2023-4863": "exploitable",
        "CVE-2024-35195": "resolved",
        "CVE-2025-32434": "in_triage",
        "MAL-2026-0": "exploitable",
    }
    assert found.proof
    refs = {item.ref for item in found.proof.inventory.items}
    assert {affected["ref"] for entry in value["vulnerabilities"] for affected in entry["affects"]} <= refs
    assert {entry["bom-ref"] for entry in value["components"]} <= refs
    reached = next(entry for entry in value["vulnerabilities"] if entry["id"] == "CVE-2018-18074")
    assert reached["analysis"]["justification"] == "code_not_reachable"
    assert reached["ratings"] == [
        {"method": "CVSSv3", "score": 7.5, "severity": "high", "vector": "CVSS:3.0/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:N"}
    ]
    exploited = next(entry for entry in value["vulnerabilities"] if entry["id"] == "CVE-2023-4863")
    assert {"name": "airgap:kev:since", "value": "2023-09-13"} in exploited["properties"]


def test_what_was_not_assessed_is_counted_with_what_was_consulted(found: Assessment) -> None:
    said = {entry["name"]: entry["value"] for entry in json.loads(cyclonedx_vex(found, SHA) or b"")["metadata"]["properties"]}
    assert said["airgap:items:not-assessed"] == "1"  # NVIDIA's
    assert said["airgap:items:none-known"] == "1"
    assert said["airgap:items:affected"] == "5"
    assert said["airgap:osv:PyPI"] == "17 records, as of 2026-11-23T06:00:00Z"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (("vulnerable_code_not_present", ""), {"justification": "vulnerable_code_not_present"}),
        (("component_not_present", ""), {"justification": "component_not_present"}),
        (("vulnerable_code_cannot_be_controlled_by_adversary", ""), {"justification": "vulnerable_code_cannot_be_controlled_by_adversary"}),
        (("code_not_reachable", ""), {"justification": REASON}),
        (("protected_at_perimeter", ""), {"justification": "inline_mitigations_already_exist"}),
        (("requires_environment", ""), {"impact_statement": "requires_environment: Decided by A in s."}),
        (("", "never"), {"impact_statement": "Decided by A in s: never"}),
    ],
)
def test_a_reason_of_either_format_is_said_in_both(
    found: Assessment, openvex_validator: Any, cyclonedx_validator: Any, said: tuple[str, str], expected: dict[str, str]
) -> None:
    decided = with_decision(found, Decision("not_affected", *said, "A", "s", None))
    raw = openvex(decided, SHA)
    openvex_validator.validate(json.loads(raw or b""))
    entry = told(raw)["CVE-2023-4863"]
    assert {key: entry[key] for key in ("justification", "impact_statement") if key in entry} == expected
    cyclonedx_validator.validate(json.loads(cyclonedx_vex(decided, SHA) or b""))


def with_decision(found: Assessment, decision: Decision) -> Assessment:
    assert found.proof
    known = found.proof.vulnerabilities

    def changed(match: Match) -> Match:
        return replace(match, decision=decision) if match.name == "CVE-2023-4863" else match

    return replace(found, proof=replace(found.proof, vulnerabilities=replace(known, matches=tuple(map(changed, known.matches)))))


def test_what_we_write_is_read_back_as_the_same_decisions(found: Assessment, tmp_path: Path) -> None:
    for at, make in enumerate((openvex, cyclonedx_vex)):
        again = assessment(tmp_path / f"b{at}", ALL, (advisories.known(tmp_path / f"d{at}", ours=make(found, SHA) or b""),))
        assert again.proof
        assert found.proof
        said = {entry.name: entry.decision.status for entry in again.proof.vulnerabilities.matches if entry.decision}
        assert said == {name: entry["status"] for name, entry in told(openvex(found, SHA)).items()}
        assert {entry.name for entry in again.proof.vulnerabilities.standing} == {entry.name for entry in found.proof.vulnerabilities.standing}


@pytest.mark.parametrize("names", [("foo==1",), ("requests==2.19.0",)])
def test_where_nothing_matched_or_nothing_was_compared_there_is_no_document(tmp_path: Path, names: tuple[str, ...]) -> None:
    """An empty VEX would be taken for "nothing is vulnerable"."""
    data = (advisories.known(tmp_path / "data"),) if names == ("foo==1",) else ()
    none = assessment(tmp_path / "bundle", names, data)
    assert openvex(none, SHA) is None
    assert cyclonedx_vex(none, SHA) is None
    assert {path.name for path in write(tmp_path / "out", none)}.isdisjoint({OPENVEX, VEX})
    if not data:
        assert any(entry.topic == "Vulnerabilities" and "Not assessed" in entry.text for entry in none.not_checked)


def test_documents_are_among_the_evidence_and_go_when_they_hold_no_more(found: Assessment, tmp_path: Path) -> None:
    place = tmp_path / "out"
    write(place, found)
    sums = (place / "SHA256SUMS").read_text()
    assert OPENVEX in sums
    assert VEX in sums
    write(place, evidence.refusing())
    assert not (place / OPENVEX).exists()
    assert not (place / VEX).exists()


def test_a_refused_bundle_has_none() -> None:
    assert openvex(evidence.refusing(), SHA) is None
    assert cyclonedx_vex(evidence.refusing(), SHA) is None


def test_an_advisory_about_several_keeps_its_own_name(found: Assessment) -> None:
    assert found.proof
    several = Match(found.proof.inventory.items[0].ref, "DSA-1-1", (), "", "unknown", None, "", (), "Debian:11", covers=("CVE-1", "CVE-2"))
    item = next(item for item in found.proof.inventory.items if item.purl)
    one = Vulnerabilities(found.proof.vulnerabilities.sources, (), (replace(several, ref=item.ref),))
    said = told(openvex(replace(found, proof=replace(found.proof, vulnerabilities=one)), SHA))
    assert list(said) == ["DSA-1-1"]
    assert said["DSA-1-1"]["status_notes"].endswith("It is about CVE-1, CVE-2.")
    assert said["DSA-1-1"]["action_statement"].startswith("No correction is known")


def test_names_of_reasons_are_those_of_the_formats() -> None:
    assert out.OPENVEX_REASONS | out.CYCLONEDX_REASONS == vex.JUSTIFICATIONS


def test_a_site_without_network_writes_them_from_what_the_bundle_carries(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.trust()
    (tmp_path / "wheels").mkdir()
    for name, raw in advisories.wheels("requests==2.20.0", "idna==3.10").items():
        (tmp_path / "wheels" / name).write_bytes(raw)
    (tmp_path / "acme.json").write_bytes(stated(statement("CVE-2024-35195", "pkg:pypi/requests")))
    with advisories.site() as site:
        data = f"name: data, kind: osv, ecosystems: [PyPI], vex: [acme.json], {site.options}"
        desk.bundle("lock", desk.write_intent("name: app, kind: path, path: ./wheels", data))
        desk.bundle("build", "bundle.lock.json", "--out", "out")
    desk.sign("out")
    done = desk.audit("evidence", "out", "--policy", "policy.json", "--out", "evidence", code=None, isolated=True)
    assert done.code in {0, 4, 5}, done.err  # what other checks say of these wheels is theirs to say
    said = told((tmp_path / "evidence" / OPENVEX).read_bytes())
    assert {name: entry["status"] for name, entry in said.items()} == {"CVE-2023-32681": "affected", "CVE-2024-35195": "not_affected"}
    assert json.loads((tmp_path / "evidence" / VEX).read_bytes())["vulnerabilities"]
    found = json.loads((tmp_path / "evidence" / "verification.json").read_bytes())["vulnerabilities"]
    assert found["counts"] == {"affected": 1, "noneKnown": 1, "notAssessed": 0}
