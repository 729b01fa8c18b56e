"""OSCAL plan of action and milestones: one item for each finding that stands, each thing not assessed, and each accepted risk.

Rules: an accepted risk is an item too, with its deadline; what was not assessed is work to be done, not a pass; an item says what to do
where that is known. Owners and dates are the site's. Where there is nothing, one item says until when the bundle is valid, for the
format knows no empty plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from audit.evidence.assessment import Assessment
from audit.evidence.oscal import common
from audit.evidence.oscal.common import NS, Names, markup, prop, title
from audit.evidence.outcomes import Outcome, outcomes
from manifests import canonical


def poam(assessment: Assessment, sha256: str) -> bytes:
    """Return the plan; ``sha256`` (hex) is that of ``verification.json``."""
    names = Names(sha256)
    found = outcomes(assessment)
    document: dict[str, Any] = {
        "uuid": names("poam"),
        "metadata": common.metadata(assessment, names, "Plan of action and milestones"),
        "system-id": {"identifier-type": f"{NS}/stream", "id": _system(assessment)},
        "local-definitions": {"components": [common.tool(assessment, names)]},
        "poam-items": list(_items(assessment, names, found)),
        "back-matter": {"resources": [common.evidence(names)]},
    }
    if found:
        document["observations"] = [common.observation(names, assessment, entry) for entry in found]
        document["risks"] = [common.risk(names, entry) for entry in found]
    return canonical.readable({"plan-of-action-and-milestones": document})


def _system(assessment: Assessment) -> str:
    return assessment.proof.bundle.statement.stream if assessment.proof else "unknown, the bundle was refused"


def _items(assessment: Assessment, names: Names, found: tuple[Outcome, ...]) -> Iterator[dict[str, Any]]:
    for entry in found:
        yield _item(names, entry)
    if not found:
        until = canonical.stamp(assessment.proof.bundle.statement.expires) if assessment.proof else canonical.stamp(assessment.time)
        yield {
            "uuid": names("poam-item", "again"),
            "title": "Assess again",
            "description": f"Nothing was found and nothing that should have been assessed was not. The bundle is valid until {until}.",
            "props": [prop("assess-again-before", until)],
        }


def _item(names: Names, entry: Outcome) -> dict[str, Any]:
    verb = {"refused": "Correct", "warned": "Decide on", "waived": "Risk accepted", "not assessed": "Assess"}[entry.decision]
    value: dict[str, Any] = {
        "uuid": names("poam-item", entry.key),
        "title": title(f"{verb}: {entry.told}"),
        "description": markup(common.what_to_do(entry)),
        "props": common.facts(entry),
        "related-observations": [{"observation-uuid": names("observation", entry.key)}],
        "related-risks": [{"risk-uuid": names("risk", entry.key)}],
    }
    if entry.waiver:
        value["remarks"] = markup(f"Accepted by {entry.waiver.by} until {entry.waiver.expires}: {entry.waiver.reason}")
    return value
