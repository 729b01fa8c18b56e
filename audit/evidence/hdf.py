"""HDF, the results of a run as MITRE Heimdall reads them (``exec-json``), for what is made from it: checklists, XCCDF, eMASS forms.

Each step of verification and each check is a control of one profile; tags name the controls of NIST SP 800-53 it is evidence for.

Rules: Heimdall takes a control for passed if one of its results passed and none failed, so where something was not assessed nothing
says passed; an accepted risk is skipped with its reason, and not counted as passed; the impact is never 0, which would mean "not
applicable".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from airgap_images.oci import Digest
from audit.checks import CheckResult, Severity
from audit.evidence import controls
from audit.evidence.assessment import Assessment
from audit.evidence.controls import NIST
from audit.evidence.outcomes import INSTALLED, INVENTORY, LIMITS, RULES, VERIFICATION, Outcome, limits, line, outcomes
from audit.verify import steps
from audit.verify.steps import Step
from manifests import canonical

Status = Literal["passed", "failed", "skipped"]
IMPACT: dict[Severity, float] = {"info": 0.1, "low": 0.3, "medium": 0.5, "high": 0.7, "critical": 0.9}
REVISION = "Rev_5"
PROFILE = "airgap-bundle"
NO_STEP = "the bundle was refused for a reason that belongs to no step"


@dataclass(frozen=True, slots=True)
class _Test:
    """One control of the profile: what was tested, when, and the controls of NIST SP 800-53 it is evidence for."""

    name: str
    title: str
    tags: tuple[str, ...]
    time: str


def hdf(assessment: Assessment, sha256: str) -> bytes:
    """Return the results; ``sha256`` (hex) is that of ``verification.json``."""
    made = list(_controls(assessment))
    name, version = assessment.tool
    profile = {
        "name": PROFILE,
        "version": version,
        "title": "What a bundle for an isolated network proves",
        "summary": f"{assessment.verdict}: {line(assessment.place)}",
        "sha256": Digest.of(canonical.compact([[control["id"], control["title"]] for control in made])).hex,
        "status": "loaded",
        "supports": [],
        "attributes": [],
        "groups": [],
        "depends": [],
        "controls": made,
    }
    digest = str(assessment.proof.bundle.digest) if assessment.proof else None
    document = {
        "platform": {"name": name, "release": version, "target_id": digest},
        "version": version,
        "statistics": {"controls": _statistics(made)},
        "profiles": [profile],
        "passthrough": {
            "verification": {"file": "verification.json", "sha256": sha256, "verdict": assessment.verdict, "exitCode": assessment.exit_code}
        },
    }
    return canonical.readable(document)


def _controls(assessment: Assessment) -> Iterator[dict[str, Any]]:
    tags = _tags(assessment)
    found: defaultdict[str, list[Outcome]] = defaultdict(list)
    for entry in outcomes(assessment):
        found[entry.rule].append(entry)
    time = canonical.stamp(assessment.time)
    for step in _steps(assessment):
        of_step = [entry for entry in found[VERIFICATION] if entry.severity and entry.about.partition(".")[0] == str(step.number)]
        yield _of_step(step, of_step, _Test(f"step-{step.number}", step.what, tags[f"step:{step.number}"], time))
    if assessment.proof is None:
        loose = [entry for entry in found[VERIFICATION] if not entry.severity or not entry.about]
        yield _control(_Test(VERIFICATION, RULES[VERIFICATION], (), time), loose, "", NO_STEP)
        return
    listed = f"{len(assessment.proof.inventory.items)} items, as the signed lock says"
    yield _control(_Test(INVENTORY, RULES[INVENTORY], tags["fact:inventory"], time), found[INVENTORY], listed, "")
    installed = assessment.proof.drift.outcome if assessment.proof.drift else ""
    yield _control(_Test(INSTALLED, RULES[INSTALLED], tags["fact:installed"], time), found[INSTALLED], installed, "not compared")
    general = _Test(LIMITS, RULES[LIMITS], ("CA-2",), time)
    yield _control(general, limits(assessment), "", "")
    for result in assessment.proof.results:
        yield _of_check(result, found[result.id], _Test(f"check-{result.id}", result.title, tags[f"check:{result.id}"], time))


def _steps(assessment: Assessment) -> tuple[Step, ...]:
    return assessment.steps or tuple(Step(number, what, "not begun") for number, what in enumerate(steps.STEPS, 1))


def _of_step(step: Step, found: list[Outcome], test: _Test) -> dict[str, Any]:
    if found or step.outcome == "passed":
        return _control(test, found, step.outcome, "")
    status: Status = "failed" if step.outcome in {"refused", "findings"} else "skipped"
    return _made(test, IMPACT["critical"], "", [_result(status, step.what, f"{step.what}: {step.outcome}", test.time)])


def _of_check(result: CheckResult, found: list[Outcome], test: _Test) -> dict[str, Any]:
    passed = f"{result.examined} examined, nothing found" if result.examined else ""
    made = _control(test, found, passed, "there was nothing to examine")
    limits = [{"label": "limits", "data": line(" ".join(result.limits))}] if result.limits else []
    return made | {"descriptions": [*made["descriptions"], *limits]}


def _control(test: _Test, found: Iterable[Outcome], passed: str, otherwise: str) -> dict[str, Any]:
    """Return a control with a result for each outcome; without any it ``passed``, or was not assessed for the reason ``otherwise``."""
    entries = list(found)
    results = [_of(entry, test.time) for entry in entries]
    if not results:
        results = [_result("passed" if passed else "skipped", test.title, passed or otherwise, test.time)]
    impact = max((IMPACT[entry.severity] for entry in entries if entry.severity), default=IMPACT["high"])
    fix = "; ".join(dict.fromkeys(entry.remedy for entry in entries if entry.remedy))
    made = _made(test, impact, fix, results)
    waivers = [entry.waiver for entry in entries if entry.waiver]
    if waivers:
        made["waiver_data"] = {
            "expiration_date": min(waiver.expires for waiver in waivers),
            "justification": line("; ".join(f"{waiver.subject}: {waiver.reason} ({waiver.by})" for waiver in waivers)),
            "run": True,
            "skipped_due_to_waiver": False,
        }
    return made


def _made(test: _Test, impact: float, fix: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    descriptions = [{"label": "check", "data": line(test.title)}]
    if fix:
        descriptions.append({"label": "fix", "data": line(fix)})
    return {
        "id": test.name,
        "title": line(test.title),
        "desc": line(test.title),
        "descriptions": descriptions,
        "impact": impact,
        "refs": [],
        "tags": {"nist": [*(test.tags or ("SI-7",)), REVISION], "severity": _word(impact)},
        "code": "",
        "source_location": {},
        "results": results,
    }


def _word(impact: float) -> str:
    worst = next(severity for severity, value in IMPACT.items() if value == impact)
    return "low" if worst == "info" else worst


def _of(entry: Outcome, time: str) -> dict[str, Any]:
    if entry.waiver:
        accepted = f"risk accepted by {entry.waiver.by} until {entry.waiver.expires}: {entry.waiver.reason}"
        return _said("skipped", entry.told, time) | {"skip_message": line(accepted)}
    return _result("failed" if entry.severity else "skipped", entry.told, entry.told, time)


def _result(status: Status, what: str, text: str, time: str) -> dict[str, Any]:
    said = _said(status, what, time)
    return said | ({"skip_message": line(f"not assessed: {text}")} if status == "skipped" else {"message": line(text)})


def _said(status: Status, what: str, time: str) -> dict[str, Any]:
    return {"status": status, "code_desc": line(what) or "unknown", "start_time": time}


def _statistics(made: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    counts: dict[str, int] = dict.fromkeys(("failed", "passed", "skipped"), 0)
    for control in made:
        found = {result["status"] for result in control["results"]}
        counts["failed" if "failed" in found else "skipped" if "skipped" in found else "passed"] += 1
    return {status: {"total": count} for status, count in counts.items()}


def _tags(assessment: Assessment) -> defaultdict[str, tuple[str, ...]]:
    """Return the NIST controls by what they rest on, as Heimdall writes them: ``SI-7 (1)``."""
    found: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    for support in controls.supported(assessment):
        if support.framework.framework == NIST:
            for reference in (*support.control.needs, *support.control.also):
                found[reference] += (support.control.id.replace("(", " ("),)
    return found
