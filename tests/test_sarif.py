"""SARIF: valid by the schema and by Microsoft's Multitool; findings are results, waivers suppress, what is unknown is told."""

from __future__ import annotations

import json
import re
from urllib.parse import unquote

import pytest
from hypothesis import given, strategies
from parts import evidence, grc, heimdall

from audit.evidence.outcomes import limits, line, outcomes
from audit.evidence.sarif import text

NAMES = ("clean", "everything", "hostile", "refused")
# What the Multitool asks and cannot be had: findings are about whole files of any kind, and there is no address of this tool.
UNAVAILABLE = {("warning", "SARIF2017"), ("warning", "SARIF2005")}


@pytest.fixture(scope="module")
def assessments(tmp_path_factory):
    bundle = evidence.verified(evidence.rich(tmp_path_factory.mktemp("bundle")))
    return {"clean": grc.clean(bundle), "everything": grc.everything(bundle), "hostile": grc.hostile(bundle), "refused": evidence.refusing()}


def run(assessment):
    (found,) = grc.made("sarif", assessment)["runs"]
    return found


def notifications(found):
    return found["invocations"][0]["toolExecutionNotifications"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_valid(assessments, name):
    assert grc.errors("sarif", grc.made("sarif", assessments[name])) == []


def test_the_schema_bites(assessments):
    document = grc.made("sarif", assessments["everything"])
    document["runs"][0]["results"][0]["level"] = "high"
    assert grc.errors("sarif", document)


def test_it_names_what_it_is_made_from_and_is_the_same_every_time(assessments):
    make = grc.MAKERS["sarif"][1]
    assert make(assessments["everything"], grc.SHA256) == make(assessments["everything"], grc.SHA256)
    assert run(assessments["clean"])["properties"]["verification"]["sha256"] == grc.SHA256


@pytest.mark.parametrize("name", NAMES)
def test_results_point_to_their_rules(assessments, name):
    found = run(assessments[name])
    rules = [rule["id"] for rule in found["tool"]["driver"]["rules"]]
    assert len(set(rules)) == len(rules)
    for result in found["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
    for note in notifications(found):
        if "associatedRule" in note:
            assert rules[note["associatedRule"]["index"]] == note["associatedRule"]["id"]


def test_findings_are_results_and_the_unknown_is_told_in_the_invocation(assessments):
    found = run(assessments["everything"])
    expected = outcomes(assessments["everything"])
    assert len(found["results"]) == sum(entry.severity is not None for entry in expected)
    told = [note["message"]["text"] for note in notifications(found)]
    assert len(told) == sum(entry.severity is None for entry in expected) + len(limits(assessments["everything"]))
    assert any("mini/auto.json: is no JSON" in words for words in told)
    assert {note["level"] for note in notifications(found)} == {"warning", "note"}
    assert found["invocations"][0]["exitCode"] == assessments["everything"].exit_code
    levels = {result["properties"]["severity"]: result["level"] for result in found["results"]}
    assert levels == {"critical": "error", "high": "error", "low": "note"}


def test_an_accepted_risk_is_suppressed_with_who_and_why_and_no_other_is(assessments):
    found = run(assessments["everything"])["results"]
    assert all("suppressions" in result for result in found)  # one that has none says so, or nobody knows
    (accepted,) = [result for result in found if result["suppressions"]]
    assert accepted["properties"]["decision"] == "waived"
    (why,) = accepted["suppressions"]
    assert why["kind"] == "external"
    assert why["justification"] == f"weights are trusted (accepted by CISO until {grc.UNTIL})"


def test_a_refused_bundle_has_its_reasons_as_results(assessments):
    found = run(assessments["refused"])
    assert {result["ruleId"] for result in found["results"]} == {"verification"}
    assert {result["level"] for result in found["results"]} == {"error"}
    assert any("1 of 2 needed signers" in result["message"]["text"] for result in found["results"])
    assert any("A refused bundle is not opened" in note["message"]["text"] for note in notifications(found))


def test_places_are_relative_to_the_bundle_and_encoded(assessments):
    found = run(assessments["everything"])["results"]
    uris = {result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in found}
    assert {"mini/a.bin", "mini/config.json", "docs"} <= uris
    for result in run(assessments["hostile"])["results"]:
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert re.fullmatch(r"[A-Za-z0-9/.~_+@,=%-]+", uri)
        assert not uri.startswith("/")
        assert "<script>" in unquote(uri)


def test_findings_that_are_alike_have_fingerprints_of_their_own(assessments):
    for name in NAMES:
        marks = [result["partialFingerprints"]["airgap/v1"] for result in run(assessments[name])["results"]]
        assert len(set(marks)) == len(marks)


def test_a_finding_keeps_its_fingerprint_when_its_words_change(assessments):
    def mark(words):
        one = grc.finding("pickles", "high", "b.bin", "torch", words)
        ran = (grc.checks.CheckResult("pickles", "x", None, (), 1, (one,), ()),)
        return run(grc.with_results(assessments["clean"], ran))["results"][0]["partialFingerprints"]

    assert mark("3 days old") == mark("4 days old")


@pytest.mark.parametrize(
    ("words", "shown"),
    [("[a](b)", "\\[a\\](b)"), ("{0}", "{{0}}"), ("a\\b", "a\\\\b"), ("", "unknown"), ("a\nb", "a�b")],
)
def test_texts_of_others_are_no_links_and_no_placeholders(words, shown):
    assert text(words) == shown


@given(words=strategies.text(max_size=60))
def test_any_text_reads_back_as_it_was(words):
    shown = text(words)
    back = re.sub(r"\\([\\\[\]])", r"\1", shown.replace("{{", "{").replace("}}", "}"))
    assert back == (line(words) or "unknown")
    assert not re.search(r"(?<!\\)(\\\\)*[\[\]]", shown)


@pytest.mark.network
@pytest.mark.parts
@pytest.mark.parametrize("name", NAMES)
def test_the_multitool_has_nothing_against_it(assessments, name, tmp_path):
    path = tmp_path / "results.sarif"
    path.write_text(json.dumps(grc.made("sarif", assessments[name])))
    assert heimdall.complaints(path) <= UNAVAILABLE


@pytest.mark.network
@pytest.mark.parts
def test_the_multitool_bites(assessments, tmp_path):
    document = grc.made("sarif", assessments["everything"])
    document["runs"][0]["results"][0]["ruleIndex"] = 99
    path = tmp_path / "results.sarif"
    path.write_text(json.dumps(document))
    assert heimdall.complaints(path) - UNAVAILABLE
