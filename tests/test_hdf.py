"""HDF: valid by the schema, read by Heimdall's own library, and what was not assessed never counts as passed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
from parts import evidence, grc, heimdall

from audit.evidence.controls import supported
from audit.evidence.hdf import IMPACT, REVISION

NAMES = ("clean", "everything", "hostile", "refused", "loose")


@pytest.fixture(scope="module")
def assessments(tmp_path_factory):
    bundle = evidence.verified(evidence.rich(tmp_path_factory.mktemp("bundle")))
    loose = evidence.refusing(evidence.IntegrityError("unreadable", hint="try again"))
    ran = {"clean": grc.clean(bundle), "everything": grc.everything(bundle), "hostile": grc.hostile(bundle)}
    return ran | {"refused": evidence.refusing(), "loose": loose}


def controls(assessment) -> dict[str, dict]:
    return {entry["id"]: entry for entry in grc.made("hdf", assessment)["profiles"][0]["controls"]}


def status(control) -> set[str]:
    return {entry["status"] for entry in control["results"]}


@pytest.mark.parametrize("name", NAMES)
def test_it_is_valid(assessments, name):
    assert grc.errors("hdf", grc.made("hdf", assessments[name])) == []


def test_the_schema_bites(assessments):
    document = grc.made("hdf", assessments["clean"])
    document["profiles"][0]["controls"][0]["results"][0]["status"] = "waived"
    assert grc.errors("hdf", document)


def test_it_names_what_it_is_made_from_and_is_the_same_every_time(assessments):
    make = grc.MAKERS["hdf"][1]
    assert make(assessments["everything"], grc.SHA256) == make(assessments["everything"], grc.SHA256)
    assert grc.made("hdf", assessments["clean"])["passthrough"]["verification"]["sha256"] == grc.SHA256


def test_every_kind_of_outcome_has_its_status(assessments):
    made = controls(assessments["everything"])
    assert [entry["status"] for entry in made["check-pickles"]["results"]] == ["failed", "failed", "skipped"]
    assert "risk accepted by CISO until" in made["check-pickles"]["results"][2]["skip_message"]
    assert made["check-pickles"]["waiver_data"]["expiration_date"] == grc.UNTIL
    assert made["check-pickles"]["impact"] == 0.9
    assert made["check-remote-code"]["results"][0]["skip_message"].startswith("not assessed: mini/auto.json: is no JSON")
    assert status(made["check-safetensors"]) == {"passed"}
    assert status(made["check-upstream"]) == {"skipped"}
    assert status(made["installed"]) == {"failed", "skipped"}
    assert status(made["inventory"]) == {"failed", "skipped"}
    assert status(made["not-checked"]) == {"skipped"}


def test_what_was_not_assessed_stands_beside_nothing_that_passed(assessments):
    for assessment in assessments.values():
        for control in controls(assessment).values():
            assert not {"passed", "skipped"} <= status(control), control["id"]
            assert not {"passed", "failed"} <= status(control), control["id"]
            assert 0 < control["impact"] <= 1  # 0 would be "not applicable"


def test_the_least_finding_still_has_an_impact(assessments):
    assert min(IMPACT.values()) > 0
    ran = (replace(grc.results()[0], findings=(grc.finding("pickles", "info", "a.bin"),)),)
    assert controls(grc.with_results(assessments["clean"], ran))["check-pickles"]["impact"] == IMPACT["info"]


def test_a_refused_bundle_has_the_step_that_refused_it_and_nothing_after_it_passed(assessments):
    made = controls(assessments["refused"])
    assert [status(made[f"step-{number}"]) for number in range(1, 9)] == [
        {"passed"}, {"passed"}, {"passed"}, {"failed"}, {"skipped"}, {"skipped"}, {"skipped"}, {"skipped"},
    ]  # fmt: skip
    assert "1 of 2 needed signers" in made["step-4"]["results"][0]["message"]
    loose = controls(assessments["loose"])
    assert {tuple(status(loose[f"step-{number}"])) for number in range(1, 9)} == {("skipped",)}
    assert "failed" in status(loose["verification"])


def test_tags_are_the_controls_it_is_evidence_for(assessments):
    made = controls(assessments["clean"])
    expected = {entry.control.id.replace("(", " (") for entry in supported(assessments["clean"]) if "step:6" in entry.control.needs and entry.framework.framework == "nist-800-53r5"}
    assert set(made["step-6"]["tags"]["nist"]) == expected | {REVISION}


def test_statistics_count_what_is_there(assessments):
    document = grc.made("hdf", assessments["everything"])
    counted = {name: entry["total"] for name, entry in document["statistics"]["controls"].items()}
    assert sum(counted.values()) == len(document["profiles"][0]["controls"])
    assert counted["failed"] == sum("failed" in status(control) for control in controls(assessments["everything"]).values())


@pytest.mark.network
@pytest.mark.parts
def test_heimdall_reads_it_and_takes_nothing_unknown_for_passed(assessments):
    for name in NAMES:
        raw = json.dumps(grc.made("hdf", assessments[name])).encode()
        read = heimdall.statuses(raw)
        made = controls(assessments[name])
        assert set(read) == set(made)
        for key, (word, tags) in read.items():
            found = status(made[key])
            assert word == ("Failed" if "failed" in found else "Not Reviewed" if "skipped" in found else "Passed"), key
            assert tags
            assert "UM-1" not in tags, f"{key}: Heimdall knows none of its controls"
        assert "Profile Error" not in Counter(word for word, _ in read.values())
