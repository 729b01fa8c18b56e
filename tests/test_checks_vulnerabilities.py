"""What the comparison with advisories does to a bundle: refused, warned of, waived for a time, or not assessed, through the real gate."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from parts import advisories, evidence
from parts.advisories import NOW, PUBLISHED, item, made, said, waiver
from parts.cli import Desk

from audit import checks
from audit.checks import Gate, NotAssessed, Subject
from audit.checks import vulnerabilities as check
from audit.evidence.item import Item
from audit.vulnerabilities.assess import assess
from audit.vulnerabilities.feeds import Data
from audit.vulnerabilities.match import UNCOVERED
from audit.vulnerabilities.result import NONE
from manifests import canonical
from manifests.policy import Freshness, Policy, Waiver

CRITICAL, HIGH = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:H"
MEDIUM, LOW = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:L/I:N/A:N", "CVSS:3.1/AV:N/AC:H/PR:N/UI:R/S:U/C:L/I:N/A:N"
WARN = {"vulnerabilities": "warn"}


def subject(purls: tuple[str, ...], data: tuple[Data, ...], *, building: bool = False, policy: Policy | None = None) -> Subject:
    items = tuple(map(item, purls))
    return Subject(
        None,  # type: ignore[arg-type] - this check reads no file
        (),
        policy,
        items=items,
        vulnerabilities=assess(items, data),
        now=NOW,
        building=building,
    )


def decide(found: Subject, gates: dict[str, str] | None = None, *waivers: Waiver, now: datetime = NOW) -> Gate:
    return checks.gate([checks.run_one(checks.load("vulnerabilities"), found)], gates or {}, waivers, now)


def messages(gate: Gate) -> list[str]:
    return [entry.message for entry in (*gate.refused, *gate.warned)]


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return advisories.known(tmp_path)


def test_it_is_one_of_the_checks_there_are() -> None:
    assert "vulnerabilities" in checks.names()
    assert check.GATE == "vulnerabilities"


def test_a_high_one_is_refused_and_the_rest_warned_of(data: Data) -> None:
    gate = decide(subject(("pkg:pypi/requests@2.19.0",), (data,)))
    assert gate.exit_code == 4
    (refused,) = gate.refused
    assert refused.message == (
        "requests 2.19.0 is affected: CVSS 7.5, EPSS 0.012, CVE-2018-18074 (GHSA-x84v-xcm2-53pg): "
        "Credentials are sent on after a redirect from https to http"
    )
    assert refused.remedy == "use a version that has the correction: 2.20.0"
    assert (refused.component, refused.severity, refused.about) == ("app", "high", "CVE-2018-18074")
    assert {(entry.about, entry.severity) for entry in gate.warned} == {("CVE-2023-32681", "medium"), ("CVE-2024-35195", "medium")}


def test_the_corrected_version_passes(data: Data) -> None:
    gate = decide(subject(("pkg:pypi/requests@2.32.0", "pkg:pypi/idna@3.10"), (data,)))
    assert gate == Gate((), (), (), ())
    result = checks.run_one(checks.load("vulnerabilities"), subject(("pkg:pypi/requests@2.32.0", "pkg:pypi/idna@3.10"), (data,)))
    assert (result.outcome, result.examined) == ("nothing found", 2)


@pytest.mark.parametrize(
    ("more", "severity", "code"),
    [
        ({"severity": [{"type": "CVSS_V3", "score": CRITICAL}]}, "critical", 4),
        ({"severity": [{"type": "CVSS_V3", "score": HIGH}]}, "high", 4),
        ({"severity": [{"type": "CVSS_V3", "score": MEDIUM}]}, "medium", 0),
        ({"severity": [{"type": "CVSS_V3", "score": LOW}]}, "low", 0),
        ({"database_specific": {"severity": "HIGH"}}, "high", 4),
        ({}, "medium", 0),  # nobody says how grave: seen, and not a reason to refuse
        ({"aliases": ["CVE-2023-4863"], "severity": [{"type": "CVSS_V3", "score": LOW}]}, "critical", 4),  # exploited
    ],
)
def test_what_is_refused_hangs_on_how_grave_it_is(tmp_path: Path, more: dict[str, object], severity: str, code: int) -> None:
    record = made(("introduced", "0"), **more)
    raw = advisories.archive({"a.json": advisories.json.dumps(record).encode()})
    stamp = dict.fromkeys(("osv/PyPI/all.zip", advisories.KEV_PATH), canonical.stamp(PUBLISHED))
    data = advisories.data(tmp_path, {"osv/PyPI/all.zip": raw, advisories.KEV_PATH: advisories.kev()}, as_of=stamp)
    gate = decide(subject(("pkg:pypi/app@1",), (data,)))
    (finding,) = (*gate.refused, *gate.warned)
    assert (finding.severity, gate.exit_code) == (severity, code)


def test_what_is_exploited_is_said_so(data: Data) -> None:
    (finding,) = decide(subject(("pkg:pypi/pillow@10.0.0",), (data,))).refused
    assert finding.severity == "critical"  # by its score it is high
    assert "known to be exploited since 2023-09-13" in finding.message


def test_a_gate_lets_findings_pass_but_no_hostile_package(data: Data) -> None:
    lenient = decide(subject(("pkg:pypi/pillow@10.0.0", "pkg:pypi/requests@2.19.0"), (data,)), WARN)
    assert (lenient.exit_code, len(lenient.warned)) == (0, 4)
    hostile = subject(("pkg:pypi/litellm@1.82.7",), (data,))
    waivers = (waiver("MAL-2026-0", "app"), waiver(None, "app"))
    (finding,) = decide(hostile, WARN, *waivers).refused
    assert "is a malicious package, MAL-2026-0" in finding.message
    assert finding.remedy.startswith("take this package out")


def test_a_disputed_one_is_found_and_said_to_be_disputed(data: Data) -> None:
    (finding,) = decide(subject(("pkg:pypi/py@1.11.0",), (data,))).refused
    assert ", disputed, " in finding.message
    assert finding.remedy == "no correction is known: replace it, or let the policy waive it"


def test_a_waiver_is_for_one_finding_and_ends(data: Data) -> None:
    found = subject(("pkg:pypi/requests@2.19.0", "pkg:pypi/pyyaml@5.3"), (data,))
    assert {entry.about for entry in decide(found).refused} == {"CVE-2018-18074", "CVE-2020-1747", "CVE-2020-14343"}
    one = waiver("CVE-2018-18074", "app")
    gate = decide(found, None, one)
    assert {entry.about for entry in gate.refused} == {"CVE-2020-1747", "CVE-2020-14343"}
    assert [(entry.about, by.by) for entry, by in gate.waived] == [("CVE-2018-18074", "Ada")]
    assert len(decide(found, None, one, now=NOW + timedelta(days=30)).refused) == 3  # it has ended
    for other in (waiver("CVE-2018-18074", "other"), waiver("CVE-2018-1807", "app"), waiver("CVE-2018-18074", "app", check="wheels")):
        assert len(decide(found, None, other).refused) == 3
    everything = decide(found, None, waiver(None, "app"))
    assert (everything.exit_code, len(everything.waived)) == (0, 5)


def test_a_decision_that_came_with_the_data_is_not_found_again(tmp_path: Path) -> None:
    statement = {
        "vulnerability": {"name": "CVE-2018-18074"},
        "products": ["pkg:pypi/requests"],
        "status": "not_affected",
        "justification": "component_not_present",
    }
    raw = advisories.json.dumps({"@context": "https://openvex.dev/ns/v0.2.0", "author": "Acme", "statements": [statement]}).encode()
    gate = decide(subject(("pkg:pypi/requests@2.19.0",), (advisories.known(tmp_path, acme=raw),)))
    assert (gate.exit_code, len(gate.warned)) == (0, 2)


def test_without_data_nothing_is_found_and_nothing_is_free(data: Data) -> None:
    without = subject(("pkg:pypi/requests@2.32.0",), ())
    assert decide(without).exit_code == 5
    assert [note.reason for note in decide(without).not_assessed] == [check.NO_DATA]
    assert decide(subject(("pkg:pypi/requests@2.32.0",), (), building=True)).exit_code == 0  # the site may have some
    assert decide(subject((), ())).exit_code == 0
    assert decide(replace(without, items=(), vulnerabilities=NONE)).exit_code == 0
    assert decide(subject((), (data,))).exit_code == 0


def test_what_no_data_covers_is_said_once_for_each_reason_with_how_many(data: Data) -> None:
    purls = (*(f"pkg:npm/p{at}@1.0" for at in range(8)), "pkg:pypi/nvidia-nccl-cu12@2.21.5", "pkg:pypi/idna@3.10")
    gate = decide(subject(purls, (data,)))
    assert gate.exit_code == 5
    assert [note.reason for note in gate.not_assessed] == [
        "npm: no data of it was given (8: p0 1.0, p1 1.0, p2 1.0, p3 1.0, p4 1.0 and 3 more)",
        f"{UNCOVERED} (1: nvidia-nccl-cu12 2.21.5)",
    ]


def test_records_that_cannot_be_read_are_not_assessed(tmp_path: Path) -> None:
    broken = made()
    broken["id"] = None
    found = said(tmp_path, [broken, made(("introduced", "5"))], "pkg:pypi/app@1")
    reasons = [note.reason for note in decide(replace(subject((), ()), items=(item("pkg:pypi/app@1"),), vulnerabilities=found)).not_assessed]
    assert "osv PyPI: 1 of its records could not be read: 0.json: has no id" in reasons


@pytest.mark.parametrize(
    ("days", "site", "build"),
    [
        (0, None, None),
        (7, None, None),
        (8, "low", "low"),
        (30, "low", "low"),
        (31, "low", "high"),
        (4000, "low", "high"),
    ],
)
def test_old_data_is_warned_of_and_only_a_build_refuses_it(tmp_path: Path, days: int, site: str | None, build: str | None) -> None:
    stamp = canonical.stamp(NOW - timedelta(days=days, hours=1))
    path = "osv/PyPI/all.zip"
    data = advisories.data(tmp_path, {path: advisories.ecosystem("PyPI")}, as_of={path: stamp})
    for building, expected in ((False, site), (True, build)):
        gate = decide(subject(("pkg:pypi/idna@3.10",), (data,), building=building))
        findings = [(entry.severity, entry.about, entry.component, entry.path) for entry in (*gate.refused, *gate.warned)]
        assert findings == ([(expected, "age", "data", path)] if expected else [])
        assert gate.exit_code == (4 if expected == "high" else 0)
        if expected:
            assert messages(gate) == [f"osv PyPI is {days} days old ({stamp[:10]})"]


def test_how_old_is_too_old_is_the_policys_to_say(data: Data) -> None:
    strict = evidence.policy().model_copy(update={"freshness": Freshness(warn=0, refuse=0)})
    late = replace(subject(("pkg:pypi/idna@3.10",), (data,), building=True, policy=strict), now=PUBLISHED + timedelta(days=1))
    assert {entry.path for entry in decide(late).refused} == {"osv/PyPI/all.zip", advisories.KEV_PATH, advisories.EPSS_PATH}
    lax = evidence.policy().model_copy(update={"freshness": Freshness(warn=3000, refuse=3000)})
    assert decide(replace(late, policy=lax, now=PUBLISHED + timedelta(days=2000))).exit_code == 0


@pytest.mark.parametrize(
    ("as_of", "reason"),
    [
        (None, "osv PyPI: nothing says how old it is"),
        (datetime(2027, 1, 1, tzinfo=UTC), "osv PyPI: says it is of 2027-01-01, which is to come"),
    ],
)
def test_data_of_no_age_or_from_the_future_is_not_assessed(tmp_path: Path, as_of: datetime | None, reason: str) -> None:
    path = "osv/PyPI/all.zip"
    undated = advisories.archive({"a.json": advisories.json.dumps(made(("introduced", "5"), modified=None)).encode()})
    data = advisories.data(tmp_path, {path: undated}, as_of={path: canonical.stamp(as_of)} if as_of else {})
    gate = decide(subject(("pkg:pypi/app@1",), (data,)))
    assert gate.not_assessed == (NotAssessed("vulnerabilities", "data", path, reason),)
    assert gate.exit_code == 5


def test_a_model_is_not_asked_for_one_by_one(data: Data) -> None:
    model: Item = item("pkg:huggingface/acme/tiny@1", what="model")
    found = replace(subject((), (data,)), items=(model,), vulnerabilities=assess([model], [data]))
    assert decide(found).exit_code == 0
    assert any("by model" in text for text in check.LIMITS)


def wheel(desk: Desk, *names: str) -> str:
    (desk.folder / "wheels").mkdir()
    for name, raw in advisories.wheels(*names).items():
        (desk.folder / "wheels" / name).write_bytes(raw)
    return "name: app, kind: path, path: ./wheels"


def test_a_build_with_data_refuses_what_is_vulnerable_and_a_gate_lets_it_pass(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    app = wheel(desk, "pillow==10.0.0", "idna==3.10")
    with advisories.site() as site:
        data = f"name: data, kind: osv, ecosystems: [PyPI], {site.options}"
        desk.bundle("lock", desk.write_intent(app, data))
        refused = desk.bundle("build", "bundle.lock.json", "--out", "out", code=4)
        assert "CVE-2023-4863" in refused.err
        desk.bundle("lock", desk.write_intent(app, data, extra="checks: {vulnerabilities: warn}"))
        warned = desk.bundle("build", "bundle.lock.json", "--out", "out")
        assert "CVE-2023-4863" in warned.err + warned.out
