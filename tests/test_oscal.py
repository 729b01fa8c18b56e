"""OSCAL: valid by NIST's schemas and by compliance-trestle, deterministic, never "satisfied", and open about what is open."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, strategies
from parts import evidence, grc
from trestle.core.validator_factory import validator_factory
from trestle.oscal.assessment_plan import AssessmentPlan
from trestle.oscal.assessment_results import AssessmentResults
from trestle.oscal.component import ComponentDefinition
from trestle.oscal.poam import PlanOfActionAndMilestones

from audit.evidence.oscal.common import markup, prop, title
from audit.evidence.outcomes import limits, line, outcomes

KINDS = ("assessment-results", "component-definition", "poam")
MODELS = {"assessment-results": AssessmentResults, "component-definition": ComponentDefinition, "poam": PlanOfActionAndMilestones}
GOLDEN = Path(__file__).parent / "golden" / "grc"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return evidence.verified(evidence.rich(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def assessments(bundle):
    ran = {"clean": grc.clean(bundle), "plain": evidence.assessed(bundle), "everything": grc.everything(bundle), "hostile": grc.hostile(bundle)}
    return ran | {"refused": evidence.refusing()}


NAMES = ("clean", "plain", "everything", "hostile", "refused")


def inside(document):
    (value,) = document.values()
    return value


def every(value):
    yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from every(child)


def plan_in(results):
    (resource,) = [entry for entry in results["back-matter"]["resources"] if "base64" in entry]
    assert results["import-ap"]["href"] == f"#{resource['uuid']}"
    return json.loads(base64.b64decode(resource["base64"]["value"], validate=True))


def props(entry) -> dict[str, str]:
    return {one["name"]: one["value"] for one in entry["props"]}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_valid(assessments, name, kind):
    assert grc.errors(kind, grc.made(kind, assessments[name])) == []


@pytest.mark.parametrize("name", NAMES)
def test_trestle_reads_it_and_finds_nothing_wrong(assessments, name, tmp_path):
    read = [MODELS[kind].model_validate(inside(grc.made(kind, assessments[name]))) for kind in KINDS]
    plan = plan_in(inside(grc.made("assessment-results", assessments[name])))
    for model in (*read, AssessmentPlan.model_validate(inside(plan))):
        for check in validator_factory.get_all():
            assert check.model_is_valid(model, True, tmp_path), f"{type(model).__name__}: {check.error_msg()}"


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_in_it_is_valid_too(assessments, name):
    plan = plan_in(inside(grc.made("assessment-results", assessments[name])))
    schema = grc.validator("oscal/oscal_assessment-plan_schema.json")
    assert [error.message for error in schema.iter_errors(plan)] == []


def test_the_schema_bites(assessments):
    document = grc.made("poam", assessments["everything"])
    inside(document)["poam-items"] = []
    assert grc.errors("poam", document)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_identifier_is_there_once_and_every_reference_leads_somewhere(assessments, name, kind):
    document = grc.made(kind, assessments[name])
    nodes = [node for node in every(document) if isinstance(node, dict)]
    known = [node["uuid"] for node in nodes if "uuid" in node]
    assert len(set(known)) == len(known)
    named = {value for node in nodes for key, value in node.items() if key.endswith("-uuid")}
    named |= {node["href"][1:] for node in nodes if node.get("href", "").startswith("#")}
    assert named <= set(known)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_assessment_is_the_same_bytes_and_names_what_it_is_made_from(bundle, kind):
    make = grc.MAKERS[kind][1]
    first = make(grc.everything(bundle), grc.SHA256)
    assert first == make(grc.everything(bundle), grc.SHA256)
    assert props(inside(json.loads(first))["metadata"])["verification-sha256"] == grc.SHA256
    assert first != make(grc.everything(bundle), "5b" * 32)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_says_that_a_control_is_met(assessments, name, kind):
    raw = json.dumps(grc.made(kind, assessments[name])).lower()
    assert re.findall(r"(?<!not-)satisf\w+|compliant", raw) == []


def test_a_supported_control_has_an_observation_and_no_finding(assessments):
    result = inside(grc.made("assessment-results", assessments["plain"]))["results"][0]
    findings = {entry["target"]["target-id"]: entry for entry in result["findings"]}
    observed = {props(entry)["control"]: props(entry) for entry in result["observations"] if "control" in props(entry)}
    assert observed["si-7"]["state"] == "supported"
    assert "si-7_obj" not in findings
    assert observed["ra-5"]["state"] == "not assessed"
    assert findings["ra-5_obj"]["target"]["status"]["reason"] == "other"
    assert set(observed) == {entry["control-id"] for entry in result["reviewed-controls"]["control-selections"][0]["include-controls"]}


def test_a_refused_bundle_has_the_step_that_refused_it(assessments):
    result = inside(grc.made("assessment-results", assessments["refused"]))["results"][0]
    steps = {props(entry)["outcome"] for entry in result["observations"] if entry["title"].startswith("Step 4")}
    assert steps == {"refused"}
    finding = next(entry for entry in result["findings"] if entry["target"]["target-id"] == "cm-5_obj")
    assert finding["target"]["status"] == finding["target"]["status"] | {"state": "not-satisfied", "reason": "fail"}
    risks = {entry["uuid"]: entry["title"] for entry in result["risks"]}
    assert any("1 of 2 needed signers" in risks[entry["risk-uuid"]] for entry in finding["related-risks"])


def test_every_outcome_and_limit_is_an_observation(assessments):
    assessment = assessments["everything"]
    result = inside(grc.made("assessment-results", assessment))["results"][0]
    found = [props(entry)["decision"] for entry in result["observations"] if "decision" in props(entry)]
    expected = [entry.decision.replace(" ", "-") for entry in (*outcomes(assessment), *limits(assessment))]
    assert sorted(found) == sorted(expected)
    assert set(found) == {"refused", "warned", "waived", "not-assessed", "not-checked"}


def test_the_plan_has_an_item_for_whatever_is_open_and_for_each_accepted_risk(assessments):
    plan = inside(grc.made("poam", assessments["everything"]))
    items = [(props(entry)["decision"], props(entry)["rule"]) for entry in plan["poam-items"]]
    assert sorted(items) == sorted((entry.decision.replace(" ", "-"), entry.rule) for entry in outcomes(assessments["everything"]))
    assert ("not-assessed", "remote-code") in items
    assert ("not-assessed", "installed") in items
    (accepted,) = [entry for entry in plan["risks"] if entry["status"] == "deviation-approved"]
    assert accepted["deadline"] == grc.UNTIL
    assert "CISO" in json.dumps(accepted)
    assert "weights are trusted" in json.dumps(accepted)
    assert "deadline" not in next(entry for entry in plan["risks"] if entry["status"] == "open")


def test_a_plan_with_nothing_to_do_says_until_when(assessments):
    plan = inside(grc.made("poam", assessments["clean"]))
    assert [entry["title"] for entry in plan["poam-items"]] == ["Assess again"]
    assert outcomes(assessments["clean"]) == ()


def test_the_component_supports_controls_of_every_framework(assessments):
    (component,) = inside(grc.made("component-definition", assessments["plain"]))["components"]
    made = component["control-implementations"]
    assert len(made) == 7
    assert all(one["description"].startswith("Supports ") for entry in made for one in entry["implemented-requirements"])


def test_hostile_texts_are_no_markup(assessments):
    for kind in KINDS:
        raw = json.dumps(grc.made(kind, assessments["hostile"]), ensure_ascii=False)
        assert "\\\\<script\\\\>" in raw
        for node in every(grc.made(kind, assessments["hostile"])):
            for key in {"title", "description", "statement", "remarks"} & (set(node) if isinstance(node, dict) else set()):
                assert not re.search(r"(?<!\\)(<|\[x|\{\{|`)", node[key]), node[key]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("model_weights.bin", "model_weights.bin"),
        ("_a_", "\\_a\\_"),
        ("1. x", "1\\. x"),
        ("# x", "\\# x"),
        ("- x", "\\- x"),
        ("<b>", "\\<b\\>"),
        ("{{ insert: param, a }}", "\\{\\{ insert: param, a \\}\\}"),
        ("  a\n", "a�"),
        (" ", "unknown"),
    ],
)
def test_markup(text, shown):
    assert markup(text) == shown


@given(words=strategies.text(max_size=60))
def test_any_text_is_one_line_of_markup_and_reads_back_as_it_was(words):
    shown = markup(words)
    assert re.fullmatch(r"[^\n]+", shown)
    assert shown == "unknown" or re.sub(r"\\([\\`*\[\]<>&{}~^|_#+\-=.)])", r"\1", shown) == line(words)
    assert re.fullmatch(r"\S(.*\S)?", prop("name", words)["value"])


def test_a_title_is_cut_before_it_is_escaped():
    assert title("[" * 500).endswith("…")
    assert len(title("a" * 500)) == 200


def test_it_is_the_golden_plan(bundle):
    assert grc.MAKERS["poam"][1](grc.everything(bundle), grc.SHA256).decode().splitlines() == (GOLDEN / "oscal-poam.json").read_text().splitlines()
