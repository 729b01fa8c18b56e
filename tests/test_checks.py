"""Discovery, results and the gate: what a check could not see is never read as a pass."""

from __future__ import annotations

import itertools
import json
import re
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts import trees

from audit import checks
from audit.checks import CheckResult, Examined, Finding, NotAssessed, as_json, gate, load, names, run_all, run_one
from manifests import canonical
from manifests.errors import IntegrityError
from manifests.intent import Checks

DOCS = (Path(__file__).parents[1] / "docs" / "checks.md").read_text()


def finding(severity: str, *, of: str = "c", path: str = "p") -> Finding:
    return Finding(of, severity, "comp", path, "message", "remedy", "docs/checks.md#x")


def result(*notes: object, gate_key: str | None = "pickle", examined: int = 1) -> CheckResult:
    findings = tuple(note for note in notes if isinstance(note, Finding))
    unknown = tuple(note for note in notes if isinstance(note, NotAssessed))
    return CheckResult("c", "title", gate_key, (), examined, findings, unknown)


def check(*notes: object, fails: Exception | None = None) -> types.SimpleNamespace:
    def run(_subject: object) -> Iterator[object]:
        yield from notes
        if fails:
            raise fails

    return types.SimpleNamespace(ID="c", TITLE="title", GATE=None, LIMITS=("limit",), run=run)


def test_every_module_of_the_folder_is_a_check_but_those_with_an_underscore():
    folder = Path(checks.__file__).parent
    assert set(names()) == {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    assert {"pickles", "remote_code", "safetensors"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_a_check_has_the_shape_and_the_document_it_must_have(name):
    module = load(name)
    assert name.replace("_", "-") == module.ID
    assert module.TITLE
    assert module.LIMITS
    assert all(limit.endswith(".") for limit in module.LIMITS)
    assert module.GATE is None or module.GATE in Checks.model_fields
    assert re.search(rf"^## {module.ID}$", DOCS, re.MULTILINE)
    assert f"docs/checks.md#{module.ID}" == module.DOC


def test_ids_are_distinct():
    ids = [load(name).ID for name in names()]
    assert len(ids) == len(set(ids))


def test_everything_runs_over_an_empty_subject_and_says_that_nothing_was_there(tmp_path):
    subject = checks.Subject(trees.Layout.create(tmp_path), ())
    assert {one.outcome for one in run_all(subject)} == {"nothing to examine"}


def test_outcomes():
    unknown = NotAssessed("c", "comp", "p", "why")
    assert result(examined=0).outcome == "nothing to examine"
    assert result().outcome == "nothing found"
    assert result(unknown).outcome == "not assessed"
    assert result(unknown, finding("low")).outcome == "findings"


def test_a_refusal_while_reading_ends_the_check_as_not_assessed_and_keeps_what_was_found(tmp_path):
    error = IntegrityError("blob is gone", hint="copy it again")
    ran = run_one(check(Examined("a", "b"), finding("high"), fails=error), trees.subject(tmp_path, {}))
    assert [note.reason for note in ran.not_assessed] == ["the check stopped: blob is gone"]
    assert (ran.examined, len(ran.findings)) == (1, 1)
    with pytest.raises(ZeroDivisionError):  # a bug is a bug, not a "not assessed"
        run_one(check(fails=ZeroDivisionError()), trees.subject(tmp_path, {}))


def test_findings_are_ordered_by_severity_then_place(tmp_path):
    notes = [finding(severity, path=path) for severity, path in itertools.product(("low", "critical", "medium"), "ba")]
    ran = run_one(check(*notes), trees.subject(tmp_path, {}))
    assert [(f.severity, f.path) for f in ran.findings] == [
        ("critical", "a"), ("critical", "b"), ("medium", "a"), ("medium", "b"), ("low", "a"), ("low", "b"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("severity", "said", "refused"),
    [
        ("critical", {}, True), ("high", {}, True), ("medium", {}, False), ("low", {}, False), ("info", {}, False),
        ("high", {"pickle": "refuse"}, True), ("high", {"pickle": "warn"}, False), ("critical", {"pickle": "warn"}, False),
        ("high", {"pickle": "WARN"}, True), ("high", {"pickle": "ignore"}, True), ("high", {"pickle": 0}, True),
        ("high", {"remote_code": "warn"}, True),
    ],
)  # fmt: skip
def test_the_gate_refuses_grave_findings_unless_their_own_key_says_warn(severity, said, refused):
    decided = gate([result(finding(severity))], said)
    assert bool(decided.refused) == refused
    assert bool(decided.warned) != refused
    assert decided.exit_code == (4 if refused else 0)


def test_a_check_without_a_key_cannot_be_waived():
    assert gate([result(finding("high"), gate_key=None)], {"pickle": "warn", "None": "warn"}).exit_code == 4


def test_not_assessed_stays_whatever_the_intent_says():
    unknown = NotAssessed("c", "comp", "p", "why")
    assert gate([result(unknown)], {"pickle": "warn"}).exit_code == 5
    assert gate([result(unknown, finding("high"))], {"pickle": "warn"}).exit_code == 5
    assert gate([result(unknown), result(finding("high"))], {}).exit_code == 4
    assert gate([], {}).exit_code == 0


def test_the_json_form_is_complete_and_does_not_depend_on_the_order_of_runs(tmp_path):
    subject = trees.subject(tmp_path, {"a.pkl": b"x", "b.gz": b"\x1f\x8b\x08\x00", "m.py": b"", "config.json": b"{"})
    results = run_all(subject)
    value = as_json(results, gate(results, {}))
    assert canonical.readable(value) == canonical.readable(as_json(results[::-1], gate(results[::-1], {})))
    assert json.loads(canonical.readable(value)) == value
    assert value["gate"]["exitCode"] == 4
    assert {entry["id"] for entry in value["checks"]} == {load(name).ID for name in names()}
    pickles = next(entry for entry in value["checks"] if entry["id"] == "pickles")
    assert [entry["path"] for entry in pickles["findings"]] == ["a.pkl"]
    assert [entry["path"] for entry in pickles["notAssessed"]] == ["b.gz"]
    assert pickles["limits"]


def test_the_document_shows_how_to_open_each_gate():
    for name in names():
        if key := load(name).GATE:
            section = DOCS.split(f"\n## {load(name).ID}\n")[1].split("\n## ")[0]
            assert re.search(rf"checks: \{{{key}: warn\}}", section)
