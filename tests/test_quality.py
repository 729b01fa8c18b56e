"""The score of an SBOM: every field is present, declared unknown, or missing, and nothing passes by not being looked at."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
from parts import evidence

from audit.evidence.cyclonedx import document
from audit.evidence.item import Licence
from audit.evidence.quality import scores
from audit.evidence.quality.document import quality, quality_json
from audit.evidence.quality.rules import BSI, CISA, G7

AUTHOR = "https://site.example/verifier"


@pytest.fixture(scope="module")
def assessment(tmp_path_factory):
    return evidence.assessed(evidence.verified(evidence.rich(tmp_path_factory.mktemp("bundle"))))


@pytest.fixture
def bom(assessment):
    return document(assessment.proof, assessment.tool, author=AUTHOR)


def field(found, rules, name):
    score = next(score for score in found if score.id == rules)
    return next(entry for entry in score.fields if entry.id == name)


def answers(bom, name, rules="cisa-2026", *, signed=True):
    entry = field(scores(bom, signed=signed), rules, name)
    return entry.present, entry.unknown, entry.missing


def test_the_rule_sets_have_the_fields_of_their_publications():
    assert len(CISA) == 17
    assert len({entry.id for entry in CISA}) == 17
    assert len(BSI) == 14
    assert {entry.title.partition(":")[0] for entry in G7} >= {"Metadata", "System", "Models", "Infrastructure", "Security", "Dataset properties"}
    assert any("performance" in entry.title for entry in G7)


def test_of_what_this_program_writes_nothing_is_missing_by_cisa(bom):
    found = {score.id: score for score in scores(bom, signed=True)}
    assert (found["cisa-2026"].met, len(found["cisa-2026"].fields)) == (17, 17)
    assert (found["g7-sbom-for-ai"].met, len(found["g7-sbom-for-ai"].fields)) == (len(G7), len(G7))
    assert all(entry.total for score in found.values() for entry in score.fields), "a field that nothing is asked for says nothing"


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("sbom-author", lambda bom: bom["metadata"].pop("manufacturer")),
        ("data-format-name", lambda bom: bom.pop("bomFormat")),
        ("data-format-version", lambda bom: bom.pop("specVersion")),
        ("generation-context", lambda bom: bom["metadata"].pop("lifecycles")),
        ("timestamp", lambda bom: bom["metadata"].pop("timestamp")),
        ("tool-name", lambda bom: bom["metadata"]["tools"]["components"][0].pop("name")),
        ("tool-version", lambda bom: bom["metadata"]["tools"]["components"].append({"name": "other"})),
        ("sbom-version", lambda bom: bom.pop("serialNumber")),
        ("component-name", lambda bom: bom["components"][0].pop("name")),
        ("dependency-relationship", lambda bom: bom.update(dependencies=[], compositions=[])),
    ],
)
def test_what_is_taken_away_is_missing(bom, name, harm):
    harm(bom)
    assert answers(bom, name)[2] >= 1
    assert field(scores(bom, signed=True), "cisa-2026", name).answer == "missing"


@pytest.mark.parametrize(
    ("name", "key", "fact"),
    [
        ("component-producer", "manufacturer", "producer"),
        ("component-version", "version", "version"),
        ("component-identifiers", "purl", "purl"),
        ("component-hash-value", "hashes", "hash"),
        ("component-hash-algorithm", "hashes", "hash"),
        ("component-licence", "licenses", "licence"),
    ],
)
def test_between_present_and_missing_there_is_declared_unknown(bom, name, key, fact):
    part = next(part for part in bom["components"] if key in part)
    before = answers(bom, name)
    gone = part.pop(key)
    assert answers(bom, name) == (before[0] - 1, before[1], before[2] + 1)
    part["properties"] = [*part["properties"], {"name": f"airgap:{fact}", "value": "unknown"}, {"name": f"airgap:{fact}:reason", "value": "because"}]
    assert answers(bom, name) == (before[0] - 1, before[1] + 1, before[2])
    gap = next(gap for gap in field(scores(bom, signed=True), "cisa-2026", name).gaps if gap.ref == part["bom-ref"])
    assert (gap.declared, gap.reason) == (True, "because")
    part[key] = gone


def test_a_purl_that_is_none_identifies_nothing(bom):
    part = next(part for part in bom["components"] if "purl" in part)
    part["purl"] = "pkg:"
    assert answers(bom, "component-identifiers")[2] == 1


def test_a_signature_counts_only_if_there_is_one(bom):
    assert answers(bom, "sbom-author-signature", signed=True) == (1, 0, 0)
    assert answers(bom, "sbom-author-signature", signed=False) == (0, 1, 0)


def test_bsi_wants_more_than_a_name_and_no_words_for_a_licence(bom):
    part = next(part for part in bom["components"] if part.get("manufacturer"))
    part["manufacturer"] = {"name": "Ada"}
    part["properties"] = [entry for entry in part["properties"] if not entry["name"].startswith("airgap:contact")]
    gaps = field(scores(bom, signed=True), "bsi-tr-03183-2", "component-creator").gaps
    assert [gap.declared for gap in gaps if gap.ref == part["bom-ref"]] == [False]
    part["licenses"] = [{"license": {"name": "do what you like"}}]
    gaps = field(scores(bom, signed=True), "bsi-tr-03183-2", "licence").gaps
    assert [gap.declared for gap in gaps if gap.ref == part["bom-ref"]] == [False]
    part["licenses"] = [{"expression": "MIT AND LicenseRef-scancode-x"}]
    assert part["bom-ref"] not in {gap.ref for gap in field(scores(bom, signed=True), "bsi-tr-03183-2", "licence").gaps}


def test_sha256_is_not_enough_for_bsi(bom):
    for part in bom["components"]:
        part["hashes"] = [{"alg": "SHA-256", "content": "0" * 64}]
        part["properties"] = []
    assert answers(bom, "sha512", "bsi-tr-03183-2")[0] == 0
    bom["components"][0]["externalReferences"] = [{"type": "distribution", "url": "https://x", "hashes": [{"alg": "SHA-512", "content": "0" * 128}]}]
    assert answers(bom, "sha512", "bsi-tr-03183-2")[0] == 1


def test_the_document_of_somebody_else_is_scored_too():
    bare = {"bomFormat": "CycloneDX", "specVersion": "1.5", "components": [{"type": "library", "name": "x"}]}
    cisa = scores(bare, signed=False)[0]
    assert cisa.met == 4, "two of the format, the name, and a signature that is declared not to be there"
    assert scores({"bomFormat": "CycloneDX"}, signed=False)[0].met


def test_what_is_written_lists_every_gap_with_its_reason(assessment):
    value = json.loads(quality_json(assessment, None))
    assert quality_json(assessment, None) == quality_json(assessment, None)
    for rules in value["ruleSets"]:
        for entry in rules["fields"]:
            assert len(entry["gaps"]) == entry["unknown"] + entry["missing"]
            assert all(gap["reason"] for gap in entry["gaps"])
    assert quality(evidence.refusing(), None) == ()


def test_a_licence_that_is_concluded_counts(assessment):
    items = tuple(replace(item, licences=(), concluded=(Licence("MIT", "LICENSE"),)) for item in assessment.proof.inventory.items)
    proof = replace(assessment.proof, inventory=replace(assessment.proof.inventory, items=items))
    bom = document(proof, assessment.tool)
    assert answers(bom, "component-licence")[0] == len(bom["components"])
    assert bom["components"][0]["licenses"] == [{"license": {"acknowledgement": "concluded", "id": "MIT"}}]


def test_scoring_changes_nothing(bom):
    before = copy.deepcopy(bom)
    scores(bom, signed=True)
    assert bom == before
