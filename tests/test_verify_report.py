"""What verification tells: who signed, with what, when, by which rule they are trusted, what was ignored, and what became of each step."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import timedelta

import pytest
from parts import bundles
from parts import evidence as made
from parts.bundles import NOW
from parts.cli import Desk

from audit import render
from audit.evidence.assessment import proved
from audit.evidence.report import html
from audit.evidence.verification import verification_json
from audit.verify.result import Ignored
from audit.verify.steps import STEPS
from audit.verify.trust import Memory
from audit.verify.walk import Place, verify
from manifests import canonical

STEP_1_TO_6 = [f"step {number} passed: {STEPS[number - 1]}" for number in range(1, 7)]


@pytest.fixture(scope="module")
def who(tmp_path_factory):
    return bundles.site(tmp_path_factory.mktemp("keys"), curves={"bob": "ed25519"})


@pytest.fixture
def desk(tmp_path, who):
    bundles.signed(tmp_path / "bundle", who, size=100, signers=("alice", "bob", "carol"))
    (tmp_path / "policy.json").write_bytes(who.policy_raw)
    return Desk(tmp_path)


def audit(desk, *more, command: str = "verify", code: int | None = 0):
    return desk.audit(command, "bundle", "--policy", "policy.json", "--now", canonical.stamp(NOW), *more, code=code)


def test_people_are_told_who_signed_with_what_when_and_why_they_are_trusted(desk, who):
    lines = audit(desk).out.splitlines()
    for name, algorithm in (("alice", "ecdsa-p256-sha256"), ("bob", "ed25519")):
        at = lines.index(f"signed by {name}: key, {algorithm}, key id {who.key(name).key_id}, signatures/{name}.sigstore.json")
        assert lines[at + 1] == f"  trusted as the key of {name}; when it was made is not proven: no log or timestamp authority of the policy states it"
    assert "stream test-stream, serial 1, expires 2027-02-22T12:00:00Z" in lines
    assert "created 2026-11-24T12:00:00Z with airgap-bundler test, as the signers say" in lines
    assert "ignored signatures/carol.sigstore.json: made with no key of this policy" in lines
    assert [line for line in lines if line.startswith("step ")] == [*STEP_1_TO_6, f"step 7 not judged: {STEPS[6]}", f"step 8 not begun: {STEPS[7]}"]


def test_programs_are_told_the_same(desk, who):
    said = audit(desk, "--json").json
    assert said["signatures"] == [
        {
            "signer": name, "kind": "key", "algorithm": algorithm, "keyId": who.key(name).key_id, "file": f"signatures/{name}.sigstore.json",
            "trustedBy": f"the key of {name}", "time": None, "notes": [],
        }
        for name, algorithm in (("alice", "ecdsa-p256-sha256"), ("bob", "ed25519"))
    ]  # fmt: skip
    assert said["ignored"] == [{"file": "signatures/carol.sigstore.json", "reason": "made with no key of this policy"}]
    assert said["statement"] == {"created": "2026-11-24T12:00:00Z", "previous": None, "tool": "airgap-bundler test"}
    assert [(step["step"], step["outcome"]) for step in said["steps"]] == [*((number, "passed") for number in range(1, 7)), (7, "not judged"), (8, "not begun")]


def test_a_time_that_somebody_of_the_policy_states_and_what_could_not_be_judged_are_told(tmp_path, who):
    bundle = verify(Place.of(bundles.signed(tmp_path / "b", who, size=10)), who.policy_raw, memory=Memory(), now=NOW)
    stamped = replace(bundle.signatures[0], time=NOW - timedelta(hours=1), notes=("carries a timestamp that was not judged",))
    found = replace(bundle, signatures=(stamped, bundle.signatures[1]), ignored=(Ignored("signatures/x.sigstore.json", "made with no key"),))
    report = render.verified(found, Memory())
    assert "  trusted as the key of alice; made 2026-11-24T11:00:00Z, as a log or timestamp authority of the policy states" in report.text
    assert "  note: carries a timestamp that was not judged" in report.text
    assert [entry["time"] for entry in report.data["signatures"]] == ["2026-11-24T11:00:00Z", None]


def test_each_reason_of_a_refusal_is_printed_once_with_its_rule_and_remedy(desk):
    (desk.folder / "bundle/stray").write_text("x")
    (desk.folder / "bundle/other").write_text("x")
    for command, more in (("verify", ()), ("install", ("--store", "store"))):
        done = audit(desk, *more, command=command, code=3)
        assert done.out == ""
        assert done.err.splitlines() == [
            "error: other: does not belong to the bundle [rule 6.stray]", "hint: nothing unsigned may travel with it",
            "error: stray: does not belong to the bundle [rule 6.stray]", "hint: nothing unsigned may travel with it",
            "refused for 2 reasons",
        ]  # fmt: skip


def test_a_refusal_as_json_has_the_rule_of_each_reason(desk):
    shutil.rmtree(desk.folder / "bundle/signatures")
    said = audit(desk, "--json", code=3).json
    assert said["exitCode"] == 3
    assert said["error"] == [
        {"kind": "IntegrityError", "message": "signatures: the bundle is not signed", "hint": "`airgap-bundle sign` on the connected side", "rule": "3.unsigned"}
    ]


def test_of_very_many_reasons_the_first_are_printed_and_the_rest_counted(desk):
    for number in range(60):
        (desk.folder / f"bundle/stray{number}").write_text("x")
    lines = audit(desk, code=3).err.splitlines()
    assert sum(line.startswith("error: stray") for line in lines) == 50
    assert lines[-2:] == ["error: and 10 more reasons; --json lists all", "refused for 60 reasons"]
    assert len(audit(desk, "--json", code=3).json["error"]) == 60


def test_a_policy_that_is_none_is_named_by_its_rule(desk):
    (desk.folder / "policy.json").write_text("{}")
    said = audit(desk, "--json", code=None)
    assert said.code == 2
    assert [entry["rule"] for entry in said.json["error"]] == ["1.policy"]


def test_the_evidence_has_the_same_facts(tmp_path):
    bundle = made.verified(made.rich(tmp_path / "b"))
    stamped = replace(bundle.signatures[0], time=NOW, notes=("a note on it",))
    found = replace(bundle, signatures=(stamped, *bundle.signatures[1:]))
    proof = made.assessed(bundle).proof
    assessment = proved(found, (), proof.gate, inventory=proof.inventory, memory=None, drift=None, place="x", tool=("t", "1"), now=NOW)
    value, page = json.loads(verification_json(assessment)), html(assessment).decode()
    assert value["signatures"] == [signature.as_json for signature in found.signatures]
    assert [(step["step"], step["outcome"]) for step in value["steps"]] == [*((number, "passed") for number in range(1, 7)), (7, "not judged"), (8, "not begun")]
    for text in ("trusted as the key of alice", '2026-11-24T12:00:00Z<span class="sub">a note on it', "<td>not proven", *STEPS):
        assert (text if "<" in text else text.replace("'", "&#39;")) in page, text


def test_the_evidence_of_a_refusal_has_rules_and_steps():
    assessment = made.refusing()
    value, page = json.loads(verification_json(assessment)), html(assessment).decode()
    assert [failure["rule"] for failure in value["failures"]] == ["4.threshold", None, None]
    assert [step["outcome"] for step in value["steps"]] == ["passed"] * 3 + ["refused"] + ["not begun"] * 4
    assert '<td class="plain">4.threshold</td>' in page
