"""OSCAL assessment results: what was done, what was observed, the risks, and for which controls nothing, or the opposite, was shown.

Rules: OSCAL's ``findings`` can only say that an objective is met or not. Meeting a control is never said here: a control that the
assessment supports has an observation that says so and no finding; one that it speaks against, or that was not assessed, has a finding
with the reason ``fail`` or ``other``. A refused bundle has results too: the step that refused it, and everything else as not assessed.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from audit.checks import CheckResult
from audit.evidence import controls
from audit.evidence.assessment import Assessment
from audit.evidence.controls import Support
from audit.evidence.item import Item
from audit.evidence.oscal import common
from audit.evidence.oscal.common import Names, markup, prop, title
from audit.evidence.outcomes import RULES, Outcome, limits, outcomes
from audit.verify import steps
from audit.verify.steps import Step
from manifests import canonical

REMARKS = (
    "Evidence that supports controls, not a judgement that they are met. A control without a finding is supported by the observations "
    "that name it; what they do not show stands beside it. What was not assessed is not free of findings."
)


def assessment_results(assessment: Assessment, sha256: str) -> bytes:
    """Return the assessment results; ``sha256`` (hex) is that of ``verification.json``."""
    names = Names(sha256)
    plan = names("resource", "plan")
    document = {
        "uuid": names("assessment-results"),
        "metadata": common.metadata(assessment, names, "Assessment results"),
        "import-ap": {"href": f"#{plan}"},
        "local-definitions": {"activities": list(_activities(assessment, names))},
        "results": [_result(assessment, names)],
        "back-matter": {"resources": [common.evidence(names), _plan(assessment, names, plan)]},
    }
    return canonical.readable({"assessment-results": document})


def _result(assessment: Assessment, names: Names) -> dict[str, Any]:
    supports = common.nist(controls.supported(assessment))
    found = outcomes(assessment)
    risks = [common.risk(names, entry) for entry in found if entry.severity]
    time = canonical.stamp(assessment.time)
    value: dict[str, Any] = {
        "uuid": names("result"),
        "title": title(f"{assessment.verdict}: {assessment.place}"),
        "description": "One run of verification and checks over one bundle, and over what is installed where that was asked for.",
        "start": time,
        "end": time,
        "props": [prop("verdict", assessment.verdict), prop("verification-sha256", names.sha256)],
        "local-definitions": _local(assessment, names),
        "reviewed-controls": _reviewed(supports),
        "observations": list(_observations(assessment, names, supports, found)),
        "remarks": REMARKS,
    }
    if risks:
        value["risks"] = risks
    findings = list(_findings(names, supports, found))
    if findings:
        value["findings"] = findings
    return value


def _reviewed(supports: Iterable[Support]) -> dict[str, Any]:
    listed = [{"control-id": support.control.token} for support in supports]
    description = "Controls of NIST SP 800-53 Revision 5 for which this tool has evidence. Others were not looked at."
    return {"control-selections": [{"description": description, "include-controls": listed}]}


def _local(assessment: Assessment, names: Names) -> dict[str, Any]:
    platform = {"uuid": names("platform"), "title": "The machine that the tool ran on, without a network"}
    assets = {
        "components": [common.tool(assessment, names)],
        "assessment-platforms": [platform | {"uses-components": [{"component-uuid": names("tool")}]}],
    }
    value: dict[str, Any] = {"components": [_bundle(assessment, names)], "assessment-assets": assets}
    if assessment.proof:
        value["inventory-items"] = [_inventory(names, item) for item in assessment.proof.inventory.components]
        if not value["inventory-items"]:
            del value["inventory-items"]
    return value


def _bundle(assessment: Assessment, names: Names) -> dict[str, Any]:
    props = [prop("assessed", assessment.place)]
    if assessment.proof:
        statement = assessment.proof.bundle.statement
        props += [prop("digest", str(assessment.proof.bundle.digest))]
        props += [prop("stream", statement.stream), prop("serial", str(statement.serial))]
    return {
        "uuid": names("bundle"),
        "type": "software",
        "title": title(f"Bundle {assessment.place}"),
        "description": "The bundle that was assessed.",
        "props": props,
        "status": {"state": "other", "remarks": f"{assessment.verdict} when this was made"},
    }


def _inventory(names: Names, item: Item) -> dict[str, Any]:
    said = {"component": item.component, "kind": item.kind, "version": item.version or "", "sha256": item.sha256 or ""}
    said |= {"purl": item.purl or "", "origin": item.origin or "", "coverage": item.coverage.reading}
    return {
        "uuid": names("item", item.ref),
        "description": markup(" ".join(filter(None, (item.name, item.version)))),
        "props": [prop(name, value) for name, value in said.items() if value],
        "implemented-components": [{"component-uuid": names("bundle")}],
    }


def _activities(assessment: Assessment, names: Names) -> Iterator[dict[str, Any]]:
    method = [{"name": "method", "value": "TEST"}]
    for number, what in enumerate(steps.STEPS, 1):
        said = {"title": f"Step {number} of verification", "description": f"It is asked whether: {what}.", "props": method}
        yield {"uuid": names("activity", f"step:{number}"), **said}
    for result in _results(assessment):
        limits = " ".join(result.limits)
        described = markup(f"{result.title}. What it cannot see: {limits}" if limits else result.title)
        yield {"uuid": names("activity", result.id), "title": title(f"Check {result.id}"), "description": described, "props": method}


def _results(assessment: Assessment) -> tuple[CheckResult, ...]:
    return assessment.proof.results if assessment.proof else ()


def _observations(
    assessment: Assessment, names: Names, supports: tuple[Support, ...], found: tuple[Outcome, ...]
) -> Iterator[dict[str, Any]]:
    named = _supporting(supports)
    time = canonical.stamp(assessment.time)
    for step in assessment.steps:
        yield _step(names, step, named[f"step:{step.number}"], time)
    for result in _results(assessment):
        yield _check(names, result, named[f"check:{result.id}"], time)
    for support in supports:
        yield _support(names, support, time)
    yield from (common.observation(names, assessment, entry) for entry in (*found, *limits(assessment)))


def _supporting(supports: Iterable[Support]) -> defaultdict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for support in supports:
        for reason in support.reasons:
            found[reason.reference].append(support.control.token)
    return found


def _observed(names: Names, key: str, method: str, time: str) -> dict[str, Any]:
    return {
        "uuid": names("observation", key),
        "methods": [method],
        "origins": common.origins(names),
        "collected": time,
        "relevant-evidence": [{"href": f"#{names('resource', common.VERIFICATION)}", "description": "verification.json"}],
    }


def _step(names: Names, step: Step, tokens: list[str], time: str) -> dict[str, Any]:
    made = step.outcome in {"passed", "refused", "findings"}
    return _observed(names, f"step:{step.number}", "TEST" if made else "UNKNOWN", time) | {
        "title": f"Step {step.number}: {step.outcome}",
        "description": f"{step.what}: {step.outcome}",
        "props": [prop("outcome", step.outcome), *(prop("evidence-for", token) for token in tokens)],
        "types": ["control-objective"],
    }


def _check(names: Names, result: CheckResult, tokens: list[str], time: str) -> dict[str, Any]:
    counts = f"{result.examined} examined, {len(result.findings)} findings, {len(result.not_assessed)} not assessed"
    return _observed(names, f"check:{result.id}", "TEST" if result.examined or result.findings else "UNKNOWN", time) | {
        "title": title(f"Check {result.id}: {result.outcome}"),
        "description": markup(f"{result.title}: {result.outcome}; {counts}"),
        "props": [prop("outcome", result.outcome), *(prop("evidence-for", token) for token in tokens)],
        "types": ["control-objective"],
    }


def _support(names: Names, support: Support, time: str) -> dict[str, Any]:
    control = support.control
    said = f"{control.id} {control.title}: {support.state} ({control.strength})"
    return _observed(names, f"control:{control.token}", "UNKNOWN" if support.state == "not assessed" else "EXAMINE", time) | {
        "title": title(f"{control.id}: {support.state}"),
        "description": markup(f"{said}. {control.shows} {control.gap} {support.why}"),
        "props": [prop("control", control.token), prop("state", support.state), prop("strength", control.strength)],
        "types": ["control-objective"],
    }


def _findings(names: Names, supports: Iterable[Support], found: tuple[Outcome, ...]) -> Iterator[dict[str, Any]]:
    by_rule: defaultdict[str, list[Outcome]] = defaultdict(list)
    for entry in found:
        by_rule[entry.rule].append(entry)
    for support in supports:
        if support.state != "supported":
            yield _finding(names, support, by_rule)


def _finding(names: Names, support: Support, by_rule: defaultdict[str, list[Outcome]]) -> dict[str, Any]:
    control = support.control
    against = [reason.reference for reason in support.reasons if reason.state == support.state]
    risks = [entry for reference in against for entry in _behind(reference, by_rule) if entry.decision == "refused"]
    status = {"state": "not-satisfied", "reason": "fail" if support.state == "not supported" else "other"}
    value: dict[str, Any] = {
        "uuid": names("finding", control.token),
        "title": title(f"{control.id} {control.title}: {support.state}"),
        "description": markup(support.why),
        "props": [prop("state", support.state), prop("strength", control.strength)],
        "origins": common.origins(names),
        "target": {
            "type": "objective-id",
            "target-id": f"{control.token}_obj",
            "description": markup(control.gap),
            "status": status | {"remarks": f"{support.state}; nothing is said of the control as a whole"},
        },
        "related-observations": [{"observation-uuid": names("observation", f"control:{control.token}")}],
    }
    if risks:
        value["related-risks"] = [{"risk-uuid": names("risk", entry.key)} for entry in risks]
    return value


def _behind(reference: str, by_rule: defaultdict[str, list[Outcome]]) -> list[Outcome]:
    """Return the outcomes that a step, check or fact is about; those of a refusal belong to the step that their rule names."""
    sort, _, name = reference.partition(":")
    if sort == "step":
        return [entry for entry in by_rule["verification"] if entry.about.partition(".")[0] == name]
    return by_rule[name] if sort == "check" or name in RULES else []


def _plan(assessment: Assessment, names: Names, uuid: str) -> dict[str, Any]:
    """Return the assessment plan that was followed, as a document of its own inside this one."""
    system = names("resource", "system")
    supports = common.nist(controls.supported(assessment))
    plan = {
        "uuid": names("assessment-plan"),
        "metadata": common.metadata(assessment, names, "Assessment plan"),
        "import-ssp": {"href": f"#{system}"},
        "local-definitions": {"activities": list(_activities(assessment, names))},
        "reviewed-controls": _reviewed(supports),
        "back-matter": {
            "resources": [
                {
                    "uuid": system,
                    "title": "System security plan",
                    "description": "The site's own plan, which this tool does not have. Put a link to it here.",
                }
            ]
        },
    }
    raw = canonical.readable({"assessment-plan": plan})
    return {
        "uuid": uuid,
        "title": "Assessment plan",
        "description": "What every run does: eight steps of verification, then every check. It is carried in this document.",
        "base64": {"filename": "oscal-assessment-plan.json", "media-type": "application/json", "value": base64.b64encode(raw).decode()},
    }
