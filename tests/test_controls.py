"""Which controls an assessment supports: the data names only what exists, nothing is mapped to nothing, and unknown is never support."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from parts import evidence, grc

from audit import checks
from audit.evidence import controls
from audit.evidence.agreement import Disagreement
from audit.evidence.controls import frameworks, parse, references, supported
from audit.verify import steps
from audit.verify.trust import Memory
from manifests.errors import InvalidFileError

# What is evidence for no control of any framework, and why.
UNMAPPED: dict[str, str] = {}
FACTS = {f"fact:{name}" for name in controls.FACTS}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return evidence.verified(evidence.rich(tmp_path_factory.mktemp("bundle")))


def states(assessment, framework: str = "nist-800-53r5") -> dict[str, str]:
    return {entry.control.id: entry.state for entry in supported(assessment) if entry.framework.framework == framework}


def named() -> set[str]:
    return {reference for framework in frameworks() for control in framework.controls for reference in (*control.needs, *control.also)}


def data(**changes) -> bytes:
    control = {"id": "SI-7", "token": "si-7", "title": "Integrity", "strength": "direct", "needs": ["step:6"]}
    control |= {"shows": "It shows something.", "gap": "It does not show all."}
    framework = {"framework": "x", "title": "X", "release": "1", "source": "https://example.org/x", "note": "A note of it."}
    return json.dumps(framework | {"controls": [control | changes]}).encode()


# --- the data ---------------------------------------------------------------------------------------------------------


def test_every_framework_is_there():
    names = {framework.framework for framework in frameworks()}
    assert names == {"nist-800-53r5", "nist-800-171r3", "ssdf", "slsa", "eu-ai-act-annex-iv", "dora", "cra"}


def test_every_check_and_every_step_is_mapped_or_said_to_map_to_nothing():
    everything = {f"check:{checks.load(name).ID}" for name in checks.names()}
    everything |= {f"step:{number}" for number in range(1, len(steps.STEPS) + 1)} | FACTS
    assert everything - named() - set(UNMAPPED) == set(), "map it in manifests/data/controls, or say why not in UNMAPPED"
    assert set(UNMAPPED) <= everything - named(), "it is mapped now"
    assert references() == everything


def test_the_ids_of_oscal_are_those_of_the_catalogues():
    for framework in frameworks():
        for control in framework.controls:
            if framework.framework == "nist-800-53r5":
                assert re.fullmatch(r"[A-Z]{2}-\d{1,2}(\(\d{1,2}\))?", control.id)
                assert control.token == control.id.lower().replace("(", ".").replace(")", "")
            if framework.framework == "nist-800-171r3":
                assert control.token == f"SP_800_171_{control.id}"
            if framework.framework == "ssdf":
                assert control.token == control.id
                assert re.fullmatch(r"[A-Z]{2}\.\d\.\d", control.id)


def test_nothing_says_that_a_control_is_met():
    for framework in frameworks():
        for control in framework.controls:
            words = f"{control.shows} {control.gap} {framework.note}".lower()
            assert not re.search(r"satisf|complian|fulfil|certif", words), f"{control.id}: {words}"


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"needs": ["step:9"]}, "step:9"),
        ({"needs": ["check:nosuch"]}, "check:nosuch"),
        ({"also": ["fact:nosuch"]}, "fact:nosuch"),
        ({"needs": []}, "needs"),
        ({"strength": "full"}, "strength"),
        ({"token": "1 2"}, "token"),
        ({"gap": "no full stop"}, "gap"),
        ({"more": 1}, "more"),
    ],
)
def test_data_that_names_what_is_not_there_is_refused(changes, wrong):
    parse(data(), "x.json")
    with pytest.raises(InvalidFileError, match=re.escape(wrong)):
        parse(data(**changes), "x.json")


def test_a_control_that_stands_twice_is_refused():
    value = json.loads(data())
    value["controls"] *= 2
    with pytest.raises(InvalidFileError, match="twice"):
        parse(json.dumps(value).encode(), "x.json")


# --- the states -------------------------------------------------------------------------------------------------------


def test_what_was_proved_supports_and_what_was_not_looked_at_is_not_assessed(bundle):
    found = states(evidence.assessed(bundle))
    assert {found[name] for name in ("SI-7", "SI-7(12)", "CM-2", "CM-8", "SR-4")} == {"supported"}
    assert {found[name] for name in ("RA-5", "SI-2", "AU-2", "CM-8(3)", "SR-11")} == {"not assessed"}


def test_a_refusal_speaks_against_its_step_and_what_comes_after_is_not_assessed():
    found = states(evidence.refusing())
    assert found["CM-5"] == "not supported"  # step 4 refused
    assert found["SI-7"] == "not assessed"  # step 6 was not begun
    assert found["SC-12"] == "supported"  # step 1 passed
    assert found["CM-8"] == "not assessed"


def test_a_refusal_that_names_no_step_supports_nothing():
    failures = tuple(replace(failure, rule=None) for failure in evidence.refusing().failures)
    assert "supported" not in set(states(replace(evidence.refusing(), failures=failures)).values())


def test_findings_that_the_gate_refuses_speak_against_and_waived_ones_are_told(bundle):
    one = grc.results()[0]
    ran = (one, replace(grc.results()[1], examined=1, not_assessed=()))
    refused = grc.with_results(evidence.assessed(bundle), ran)
    assert states(refused)["SI-3"] == "not supported"
    waivers = (grc.waiver(subject="mini/a.bin", about=None), grc.waiver())
    allowed = grc.with_results(evidence.assessed(bundle), ran, *(entry for entry in waivers))
    assert states(allowed)["SI-3"] == "supported"
    assert "let through by the gate or a waiver" in next(entry for entry in supported(allowed) if entry.control.id == "SI-3").why


def test_a_check_that_could_not_read_all_or_had_nothing_to_read_is_not_assessed(bundle):
    for ran in (grc.results()[1], replace(grc.results()[1], examined=0, not_assessed=())):
        quiet = replace(grc.results()[0], findings=())
        assert states(grc.with_results(evidence.assessed(bundle), (quiet, ran)))["SI-3"] == "not assessed"


def test_a_check_named_also_counts_only_against(bundle):
    quiet, named_code = replace(grc.results()[0], findings=()), replace(grc.results()[1], not_assessed=())
    unread = checks.CheckResult("upstream", "All is signed", None, (), 0, (), (checks.NotAssessed("upstream", "a", "", "no key"),))
    assert states(grc.with_results(evidence.assessed(bundle), (quiet, named_code, unread)))["CM-14"] == "supported"
    bad = replace(unread, examined=1, findings=(grc.finding("upstream", "high", ""),))
    assert states(grc.with_results(evidence.assessed(bundle), (quiet, named_code, bad)))["CM-14"] == "not supported"


@pytest.mark.parametrize(("code", "state"), [(0, "supported"), (3, "not supported"), (5, "not assessed")])
def test_what_is_installed_counts_as_it_was_compared(bundle, code, state):
    assessment = evidence.assessed(bundle, drift=evidence.Drift("ended", code))
    assert states(assessment)["CM-8(3)"] == state
    assert states(assessment)["SI-7(12)"] == ("not supported" if code == 3 else "supported")


def test_a_disagreement_speaks_against_the_inventory_and_a_gap_leaves_it_open(bundle):
    assessment = evidence.assessed(bundle)

    def changed(**fields):
        return replace(assessment, proof=replace(assessment.proof, inventory=replace(assessment.proof.inventory, **fields)))

    assert states(changed(disagreements=(Disagreement("docs", "differs"),)))["CM-8"] == "not supported"
    assert states(changed(gaps=("the lock",)))["CM-8"] == "not assessed"
    assert states(changed(lock_sha256=None))["CM-8"] == "not assessed"
    assert states(grc.everything(assessment.proof.bundle))["CM-8"] == "not supported"


def test_going_back_and_licences_need_what_they_are_known_from(bundle):
    known = evidence.assessed(bundle, memory=Memory(6, "0" * 64, evidence.NOW, 1))
    why = {entry.control.id: entry.why for entry in supported(known) if entry.framework.framework == "nist-800-53r5"}
    assert "this one is not older" in why["SA-10(6)"]
    assert states(known)["CM-10"] == "not assessed"  # some packages state no licence


def test_no_slsa_level_is_supported_where_the_policy_believes_no_platform(bundle):
    assert set(states(evidence.assessed(bundle), "slsa").values()) == {"not assessed", "supported"}
    assert states(evidence.assessed(bundle), "slsa")["Build L1"] == "not assessed"


def test_every_support_has_reasons_and_says_what_it_does_not_show(bundle):
    for assessment in (evidence.assessed(bundle), grc.everything(bundle), evidence.refusing()):
        for entry in supported(assessment):
            assert entry.reasons
            assert entry.why
            assert entry.control.gap
