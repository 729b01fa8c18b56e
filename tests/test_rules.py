"""Every rule that a refusal can name stands in ``docs/trust.md`` with what it means and what to do, and every one there is in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.verify import steps
from manifests.errors import IntegrityError, RefusedError, SiteError, TrustError, by_rule

ROOT = Path(__file__).parents[1]
PACKAGES = ("manifests", "airgap_images", "audit", "bundler")
RULE = re.compile(r"[1-8]\.[a-z][a-z0-9]*(-[a-z0-9]+)*")
ROW = re.compile(r"\| `([1-8]\.[a-z0-9-]+)` \| ([^|]+) \| ([^|]+) \|")


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path, ast.parse(path.read_text())


def in_code() -> set[str]:
    constants = (node for _, tree in sources() for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {node.value for node in constants if isinstance(node.value, str) and RULE.fullmatch(node.value)}


def documented() -> dict[str, tuple[str, str]]:
    rows = [match.groups() for match in ROW.finditer((ROOT / "docs/trust.md").read_text())]
    assert len({rule for rule, _, _ in rows}) == len(rows), "a rule stands twice in the table"
    assert [rule.partition(".")[0] for rule, _, _ in rows] == sorted(rule.partition(".")[0] for rule, _, _ in rows)
    return {rule: (meaning.strip(), remedy.strip()) for rule, meaning, remedy in rows}


def test_the_table_lists_exactly_the_rules_in_the_code():
    assert in_code() - documented().keys() == set(), "rules that the table in docs/trust.md lacks"
    assert documented().keys() - in_code() == set(), "rules of the table that no code names"


def test_every_rule_says_what_it_means_and_what_to_do():
    for rule, (meaning, remedy) in documented().items():
        assert len(meaning) > 20, rule
        assert meaning[0].isupper(), rule
        assert meaning.endswith("."), rule
        assert len(remedy) > 10, rule
        assert remedy.endswith("."), rule


def test_a_rule_is_always_written_out_so_that_it_can_be_found():
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "rule":
                made = [part for part in ast.walk(node.value) if isinstance(part, (ast.JoinedStr, ast.BinOp, ast.Call))]
                assert not made, f"{path}:{node.value.lineno}: a rule is put together"


def test_every_trust_error_of_the_verifier_names_its_rule():
    for path, tree in sources():
        if not path.is_relative_to(ROOT / "audit" / "verify"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "TrustError":
                assert any(keyword.arg == "rule" for keyword in node.keywords), f"{path}:{node.lineno}: TrustError without a rule"


def test_the_steps_are_named_as_in_the_page():
    page = (ROOT / "docs/trust.md").read_text()
    for number, what in enumerate(steps.STEPS, 1):
        assert f"| {number} | {what} |" in page


def test_a_refusal_gets_the_rule_of_where_it_happened_and_keeps_its_own():
    own, none = TrustError("a", hint="h", rule="3.signature"), IntegrityError("b", hint="h")
    with pytest.raises(RefusedError) as caught, by_rule("6.blob"):
        raise RefusedError((none, own))
    assert [reason.rule for reason in caught.value.failures] == ["6.blob", "3.signature"]
    assert caught.value.rule == "6.blob"


def test_a_failure_of_this_machine_is_by_no_rule():
    with pytest.raises(SiteError) as caught, by_rule("6.blob"):
        raise SiteError("disk", hint="h")
    assert caught.value.rule is None


def test_steps_before_what_was_refused_passed_and_those_after_were_not_begun():
    found = steps.of_refusal(["4.subjects", "5.expired", "4.subjects"])
    assert [step.outcome for step in found] == ["passed"] * 3 + ["refused"] * 2 + ["not begun"] * 3
    assert [step.number for step in found] == list(range(1, 9))
    assert steps.of_refusal([None]) == ()
    assert steps.of_refusal([]) == ()


def test_steps_of_a_proven_bundle():
    assert [step.outcome for step in steps.of_proof(())] == ["passed"] * 6 + ["not judged", "not begun"]
    assert [step.outcome for step in steps.of_proof((), used=True)][-1] == "passed"
