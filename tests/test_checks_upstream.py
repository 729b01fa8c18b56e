"""Verdicts as findings: what the gate lets through, what it never does, and what is not assessed."""

from __future__ import annotations

import pytest
from parts.upstream import NAME, OTHER, PROVENANCE, VENDOR, Carried, policy, site_policy

from airgap_images.oci import Digest
from audit import checks, render
from audit.checks import CheckResult, Finding, NotAssessed, Subject, gate, load, run_one, upstream
from audit.checks.upstream import NO_POLICY
from audit.verify.verdict import Seen, Verdict
from manifests.policy import Policy

CHECK = load("upstream")


@pytest.fixture
def carried(tmp_path) -> Carried:
    return Carried(tmp_path)


def ran(carried: Carried, believed: Policy | None, *, evidence: bool = True) -> CheckResult:
    return run_one(CHECK, Subject(carried.layout, carried.components(evidence=evidence), believed))


def test_a_good_image_is_examined_and_nothing_else_is_said(carried):
    carried.signature(carried.only, VENDOR)
    found = ran(carried, policy(VENDOR))
    assert (found.outcome, found.examined, found.findings, found.not_assessed) == ("nothing found", 1, (), ())


@pytest.mark.parametrize(
    ("signer", "evidence", "result", "waived"),
    [(None, True, "missing", 0), (None, False, "unverifiable", 0), (OTHER, True, "wrong", 4)],
)
def test_what_is_not_good_is_a_grave_finding_and_wrong_is_never_waived(carried, signer, evidence, result, waived):
    if signer:
        carried.signature(carried.only, signer)
    found = ran(carried, policy(VENDOR), evidence=evidence)
    (finding,) = found.findings
    assert (finding.id, finding.severity, finding.component, finding.waivable) == (f"upstream.{result}", "high", "tool", result != "wrong")
    assert finding.message.startswith(f"{NAME}: linux/amd64: signature")
    assert finding.remedy
    assert found.examined == 0
    assert gate([found], {}).exit_code == 4
    assert gate([found], {"upstream": "refuse"}).exit_code == 4
    assert gate([found], {"pickle": "warn"}).exit_code == 4
    decided = gate([found], {"upstream": "warn"})
    assert decided.exit_code == waived
    assert bool(decided.warned) is (waived == 0)


def test_an_image_nobody_is_named_for_is_not_assessed(carried):
    carried.signature(carried.only, VENDOR)
    found = ran(carried, site_policy())
    assert [(note.component, note.reason) for note in found.not_assessed] == [("tool", f"the policy names nobody for {NAME}")]
    assert (found.examined, gate([found], {"upstream": "warn"}).exit_code) == (0, 5)


def test_without_a_policy_every_image_is_not_assessed_and_a_bundle_without_images_has_nothing_to_examine(carried):
    found = ran(carried, None)
    assert [note.reason for note in found.not_assessed] == [NO_POLICY]
    assert gate([found], {}).exit_code == 5
    trees = Subject(carried.layout, carried.components()[1:], None)
    assert run_one(CHECK, trees).outcome == "nothing to examine"
    assert run_one(CHECK, Subject(carried.layout, carried.components()[1:], policy(VENDOR))).outcome == "nothing to examine"


def test_verdicts_that_are_there_are_not_made_again(carried):
    given = (Verdict("tool", NAME, "**", "good", "signed", ()),)
    subject = Subject(carried.layout, carried.components(), policy(VENDOR), given)
    assert run_one(CHECK, subject).outcome == "nothing found"


TODAY = {"upstream", "vulnerabilities", "end_of_life", "fresh_releases"}  # whose answer depends on policy or day


def test_no_bundle_holds_what_depends_on_the_policy(carried):
    assert ran(carried, None).by_policy
    assert not any(run_one(load(name), Subject(carried.layout, ())).by_policy for name in checks.names() if name not in TODAY)


def test_only_a_finding_that_may_be_waived_is():
    findings = [Finding("x", "high", "c", "p", "m", "r", "d", waivable=waivable) for waivable in (True, False)]
    result = CheckResult("x", "t", "upstream", (), 1, tuple(findings), ())
    decided = gate([result], {"upstream": "warn"})
    assert ([f.waivable for f in decided.refused], [f.waivable for f in decided.warned]) == ([False], [True])
    assert [entry["waivable"] for entry in checks.as_json([result], decided)["gate"]["refused"]] == [False]


def test_the_verdict_is_told_as_data_and_in_lines(carried):
    carried.signature(carried.only, VENDOR)
    carried.tag_signature(carried.only, OTHER)
    verdict = carried.verdict(policy(VENDOR))
    data, lines = render.upstream([verdict])
    assert lines == [
        "image tool: upstream signatures good: linux/amd64: signature by vendor",
        f"  beside it, signature in {verdict.seen[1].manifest}: wrong: no valid signature with the key of vendor",
    ]
    (entry,) = data
    assert {key: entry[key] for key in ("component", "name", "rule", "result")} == {
        "component": "tool", "name": NAME, "rule": "docker.io/vllm/*", "result": "good",
    }  # fmt: skip
    assert [(seen["by"], seen["result"], seen["subject"]) for seen in entry["seen"]] == [
        ("vendor", "good", str(carried.only)), (None, "wrong", str(carried.only)),
    ]  # fmt: skip


def test_hostile_words_do_not_reach_a_terminal(carried):
    seen = Seen("signature", "tag", None, Digest.of(b""), Digest.of(b""), (), None, "wrong", "\x1b[31mred\u202e")
    _, lines = render.upstream([Verdict("tool", NAME, "**", "good", "\x1b]0;x\x07", (seen,))])
    assert all(text.isprintable() for text in lines)
    carried.attestation(carried.only, VENDOR, predicate=f"{PROVENANCE}\x1b[31m")
    found = ran(carried, policy(VENDOR))
    assert all(isinstance(note, NotAssessed) or note.message.isprintable() for note in (*found.findings, *found.not_assessed))


def test_a_note_is_told_in_one_line_and_not_twice(carried):
    assert checks.told(NotAssessed("x", "tool", "", "why")) == "tool: why"
    assert checks.told(NotAssessed("x", "tool", "a/b", "why")) == "tool/a/b: why"
    assert checks.told(NotAssessed("x", "", "", "the check stopped")) == "the check stopped"
    carried.signature(carried.only, OTHER)
    found = ran(carried, policy(VENDOR))
    decided = gate([found], {})
    (line,) = render._gate(decided)
    assert line == f"finding (refused): tool: {found.findings[0].message} [upstream.wrong, high]"
    assert render._gate(decided, frozenset({"tool"})) == ["finding (refused): tool [upstream.wrong, high]"]


@pytest.mark.parametrize(("name", "told"), [("tiny", "tiny: no model.sig"), ("hub.example/org/tiny", "tiny: hub.example/org/tiny: no model.sig")])
def test_a_name_that_is_the_components_is_told_once(name, told):
    (note,) = upstream.notes([Verdict("tiny", name, name, "missing", "no model.sig", (), "model")])
    assert checks.told(note) == told


def test_a_model_nobody_is_named_for_is_told_as_not_judged():
    _, lines = render.upstream([Verdict("tiny", "tiny", None, "nobody named", "the policy names nobody for tiny", (), "model")])
    assert lines == ["model tiny: upstream signatures not judged: the policy names nobody for tiny"]


def test_names_by_digest_are_counted_where_there_are_others():
    assert render._names(("a:1", "a:sha256-0.sig@sha256:0", "b:1")) == "a:1, b:1, and 1 more by digest"
    assert render._names(("a@sha256:0",)) == "a@sha256:0"
    assert render._names(()) == ""
