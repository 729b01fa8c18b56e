"""SARIF 2.1.0, for tools that collect findings: a rule for each check, a result for each finding, a notification for what was not assessed.

Rules: what a waiver of the policy accepts stands there as a suppressed result with its justification; what was not assessed is no
result, so that nobody counts it as found or as fixed, and is told in the invocation; texts of others are escaped as the standard asks
(section 3.11), so that they become no link and no placeholder; places are relative to the bundle.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from typing import Any, Literal
from urllib.parse import quote

from airgap_images.oci import Digest
from audit.checks import CheckResult, Severity
from audit.evidence import controls
from audit.evidence.assessment import Assessment
from audit.evidence.controls import NIST
from audit.evidence.outcomes import VERIFICATION, Outcome, limits, line, outcomes, rules
from manifests import canonical

Level = Literal["error", "warning", "note"]
SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://airgap-bundler.dev/ns/sarif")
LEVELS: dict[Severity, Level] = {"info": "note", "low": "note", "medium": "warning", "high": "error", "critical": "error"}
# What code scanning sorts by, in the middle of the ranges of CVSS 3.1 for each word.
SCORES: dict[Severity, str] = {"info": "0.0", "low": "2.0", "medium": "5.5", "high": "8.0", "critical": "9.5"}
BASE = "BUNDLE"
NOT_ASSESSED = "not-assessed"
_SPECIAL = re.compile(r"[\\\[\]]")
_BRACE = re.compile(r"[{}]")


def sarif(assessment: Assessment, sha256: str) -> bytes:
    """Return the log; ``sha256`` (hex) is that of ``verification.json``."""
    found = outcomes(assessment)
    index = {name: at for at, name in enumerate(rules(assessment))}
    run = {
        "tool": {"driver": _driver(assessment)},
        "automationDetails": {
            "id": f"airgap-bundle/{_stream(assessment)}/",
            "guid": str(uuid.uuid5(NAMESPACE, sha256)),
            "description": {"text": f"Assessment of {text(assessment.place)}: {assessment.verdict}"},
        },
        "originalUriBaseIds": {BASE: {"description": {"text": "The bundle: the name of a component, then the path of a file in it."}}},
        "invocations": [_invocation(assessment, found, index)],
        "results": [_result(entry, index) for entry in found if entry.severity],
        "columnKind": "unicodeCodePoints",
        "properties": {
            "verification": {"file": "verification.json", "sha256": sha256, "verdict": assessment.verdict, "exitCode": assessment.exit_code}
        },
    }
    return canonical.readable({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]})


def text(words: str) -> str:
    """Return a text of others as a plain text message that shows exactly this text: no link, no placeholder; never empty."""
    return _BRACE.sub(r"\g<0>\g<0>", _SPECIAL.sub(r"\\\g<0>", line(words))) or "unknown"


def _stream(assessment: Assessment) -> str:
    return assessment.proof.bundle.statement.stream if assessment.proof else "refused"


def _driver(assessment: Assessment) -> dict[str, Any]:
    name, version = assessment.tool
    results = {result.id: result for result in assessment.proof.results} if assessment.proof else {}
    tags = _tags(assessment)
    return {
        "name": name,
        "version": version,
        "rules": [_rule(key, title, results.get(key), tags.get(f"check:{key}", [])) for key, title in rules(assessment).items()],
        "notifications": [{"id": NOT_ASSESSED, "shortDescription": {"text": "Something that nobody should believe was checked."}}],
    }


def _rule(name: str, title: str, result: CheckResult | None, nist: list[str]) -> dict[str, Any]:
    limits = " ".join(result.limits) if result else ""
    found: dict[str, Any] = {
        "id": name,
        "shortDescription": {"text": f"{text(title)}."},
        "fullDescription": {"text": f"{text(title)}. {text(limits)}" if limits else f"{text(title)}."},
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["security", "supply-chain"], "nist-800-53": nist},
    }
    if result:
        outcome = {"outcome": result.outcome, "examined": result.examined, "notAssessed": len(result.not_assessed)}
        found["properties"] |= outcome
    return found


def _tags(assessment: Assessment) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for support in controls.supported(assessment):
        if support.framework.framework == NIST:
            for reference in (*support.control.needs, *support.control.also):
                found.setdefault(reference, []).append(support.control.id)
    return found


def _result(entry: Outcome, index: dict[str, int]) -> dict[str, Any]:
    severity: Severity = entry.severity or "info"
    said = f"{text(entry.message)}. What to do: {text(entry.remedy)}" if entry.remedy else text(entry.message)
    found: dict[str, Any] = {
        "ruleId": entry.rule,
        "ruleIndex": index[entry.rule],
        "kind": "fail",
        "level": LEVELS[severity],
        "message": {"text": said},
        "locations": [_location(entry)],
        "partialFingerprints": {"airgap/v1": Digest.of(entry.key.encode()).hex},
        "suppressions": [],
        "properties": {"severity": severity, "decision": entry.decision, "security-severity": SCORES[severity]},
    }
    if entry.about:
        found["properties"]["about"] = entry.about
    if entry.waiver:
        waiver = entry.waiver
        found["suppressions"] = [
            {
                "kind": "external",
                "status": "accepted",
                "justification": text(f"{waiver.reason} (accepted by {waiver.by} until {waiver.expires})"),
                "properties": {"by": line(waiver.by), "expires": waiver.expires},
            }
        ]
    return found


def _location(entry: Outcome) -> dict[str, Any]:
    name = entry.where or "."
    found: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": _uri(name), "uriBaseId": BASE}}}
    if entry.component:
        found["logicalLocations"] = [{"name": entry.component, "fullyQualifiedName": name, "kind": "module"}]
    return found


def _uri(path: str) -> str:
    """Return a path as a relative reference below the bundle."""
    return quote(path.strip("/"), safe="/-._~+@,=") or "."


def _invocation(assessment: Assessment, found: Iterable[Outcome], index: dict[str, int]) -> dict[str, Any]:
    time = canonical.stamp(assessment.time)
    notes = [_notification(entry, index) for entry in found if not entry.severity]
    notes += [_limit(entry) for entry in limits(assessment)]
    return {
        "executionSuccessful": True,
        "exitCode": assessment.exit_code,
        "exitCodeDescription": "0 fine, 3 refused or drifted, 4 findings, 5 not all assessed",
        "startTimeUtc": time,
        "endTimeUtc": time,
        "toolExecutionNotifications": notes,
    }


def _notification(entry: Outcome, index: dict[str, int]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "descriptor": {"id": NOT_ASSESSED, "index": 0},
        "level": "warning",
        "message": {"text": f"Not assessed: {text(entry.told)}"},
        "associatedRule": {"id": entry.rule, "index": index[entry.rule]},
    }
    if entry.component and entry.rule != VERIFICATION:
        found["locations"] = [_location(entry)]
    return found


def _limit(entry: Outcome) -> dict[str, Any]:
    said = f"Not checked: {text(entry.about)}: {text(entry.message)}"
    return {"descriptor": {"id": NOT_ASSESSED, "index": 0}, "level": "note", "message": {"text": said}}
