"""Licences by the table, through the real gate: what is unknown, what asks for advice, which texts are missing, who accepted terms."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from license_expression import get_spdx_licensing
from parts import advisories, trees

from airgap_images.bundle import Component, component_descriptor
from audit.checks import CheckResult, Subject, gate, load, run_one
from audit.evidence import redistribution
from audit.evidence.item import Item, Licence
from audit.evidence.redistribution import LICENCE_TEXT, TEXTS, judge
from manifests.policy import Waiver

CHECK = load("licences")
TABLE = json.loads(resources.files("manifests").joinpath(redistribution.DATA).read_bytes())
NOW = datetime(2026, 11, 24, tzinfo=UTC)


def item(*licences: str, name: str = "app", texts: str | None = None, what: str = "package") -> Item:
    made = advisories.item(f"pkg:pypi/{name}@1", what=what)
    stated = tuple(Licence(text, "declared") for text in licences)
    return replace(made, licences=stated, facts=((TEXTS, texts),) if texts else ())


def check(*items: Item, components: tuple[Component, ...] = ()) -> CheckResult:
    return run_one(CHECK, Subject(None, components, items=items))  # type: ignore[arg-type] - this check reads no file


def verdict(*licences: str) -> str:
    (found,) = judge([item(*licences)])
    return found.verdict


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (("MIT",), "may be passed on"),
        (("mit",), "may be passed on"),
        (("Apache License 2.0",), "may be passed on"),
        (("Apache-2.0 OR GPL-3.0-only",), "may be passed on"),
        (("Apache-2.0 AND GPL-3.0-only",), "with conditions"),
        (("MIT", "AGPL-3.0-only"), "needs legal advice"),
        (("(MIT OR AGPL-3.0-only) AND BSD-3-Clause",), "may be passed on"),
        (("GPL-2.0-only WITH Classpath-exception-2.0",), "with conditions"),
        (("MIT AND Our-Own-1.0",), "unknown"),
        (("Our-Own-1.0 AND AGPL-3.0-only",), "needs legal advice"),
        (("MIT OR Our-Own-1.0",), "may be passed on"),
        (("Proprietary",), "unknown"),
        (("BSD License",), "unknown"),
        (("CC-BY-NC-4.0",), "needs legal advice"),
        ((), "unknown"),
        (("MIT AND (",), "unknown"),
        (("(" * 900 + "MIT" + ")" * 900,), "may be passed on"),
        (("MIT AND " * 500 + "MIT",), "unknown"),
        (("\x00\n\u202e",), "unknown"),
    ],
)
def test_the_table_decides(licences, expected):
    assert verdict(*licences) == expected


@given(st.text(max_size=60))
def test_no_text_stops_it(text):
    (found,) = judge([item(text)])
    assert found.verdict in redistribution.ORDER


def test_the_table_names_licences_that_spdx_knows():
    known = get_spdx_licensing().known_symbols
    ids = [entry["id"] for entry in TABLE["licences"]]
    assert len(ids) == len({name.lower() for name in ids})
    assert [name for name in ids if name not in known and not name.startswith("LicenseRef-")] == []
    assert {entry["verdict"] for entry in TABLE["licences"]} <= set(redistribution.ORDER)
    assert [name for name, target in TABLE["names"].items() if target not in ids or name != name.lower()] == []


def test_the_lists_day_is_a_day():
    assert datetime.fromisoformat(redistribution.as_of())


def test_it_says_one_thing_for_each_component_and_verdict():
    many = [item("AGPL-3.0-only", name=f"p{at}") for at in range(200)]
    (finding,) = check(*many, item("MIT")).findings
    assert (finding.severity, finding.about, finding.component) == ("medium", "needs-legal-advice", "app")
    assert finding.message.startswith("200 needs legal advice: p0, p1, p2, p3, p4 and 195 more (AGPL-3.0-only)")
    assert check(*many, item("MIT")).examined == 201


def test_what_nobody_states_is_told_of_and_refuses_nothing():
    found = check(item(), item("Our-Own-1.0", name="b"))
    (finding,) = found.findings
    assert (finding.severity, finding.about) == ("low", "unknown")
    assert "2 of unknown licence, or one not in the table: app, b (unknown, Our-Own-1.0)" in finding.message
    assert gate([found], {}).exit_code == 0


def test_files_are_not_asked_for_a_licence():
    assert check(item(what="file")).examined == 0


@pytest.mark.parametrize(("texts", "told"), [("none", 1), ("LICENSE", 0), (None, 0)])
def test_a_text_that_is_asked_for_and_not_carried_is_told_of(texts, told):
    found = [finding for finding in check(item("Apache-2.0", texts=texts)).findings if finding.about == "texts"]
    assert len(found) == told
    (judged,) = judge([item("Apache-2.0", texts=texts)])
    assert LICENCE_TEXT in judged.conditions
    assert judged.texts == {"none": "not carried", "LICENSE": "carried", None: "not looked for"}[texts]


def test_a_licence_that_asks_for_no_text_needs_none():
    assert check(item("0BSD", texts="none")).findings == ()


@pytest.mark.parametrize(("accepted", "severity"), [(None, "medium"), ("A. Person on 2026-11-01, as ticket 4711", "info")])
def test_gated_models_say_who_accepted_their_terms(tmp_path: Path, accepted, severity):
    made = trees.subject(tmp_path, {"config.json": b"{}"}).components[0]
    facts = {"gated": "auto"} | ({"accepted": accepted} if accepted else {})
    root = component_descriptor(made.root, name="m", kind="model", form="tree", facts=facts)
    (finding,) = check(components=(replace(made, root=root),)).findings
    assert (finding.severity, finding.about) == (severity, "gated")
    assert (accepted or "nothing says who accepted") in finding.message


def test_a_waiver_by_name_lets_one_pass():
    found = check(item("AGPL-3.0-only"), item("Our-Own-1.0", name="b"))
    waiver = Waiver(
        check="licences", subject="app", about="needs-legal-advice", by="L. Egal", reason="used inside only", expires="2026-12-24T00:00:00Z"
    )
    decided = gate([found], {}, [waiver], NOW)
    assert [finding.about for finding, _ in decided.waived] == ["needs-legal-advice"]
    assert [finding.about for finding in decided.warned] == ["unknown"]
