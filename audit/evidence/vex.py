"""What stands of each vulnerability that was found, for other tools: OpenVEX 0.2.0, and CycloneDX 1.6 with ``analysis`` ("VEX").

Rules: a statement for every match, none for what matched nothing: "not assessed" has no word in VEX, so where nothing matched, or nothing
was compared, there is no document, and the report says why. Statements are as good as what they come from: "affected" says that an
advisory names this version, not that it can be exploited here; "not affected" is only passed on from a carried VEX document, with its
author; what the policy waives stays affected, with its reason and its end as the action. Times come from the assessment.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from audit.evidence.assessment import Assessment, Proof
from audit.evidence.cyclonedx import NAMESPACE, TYPES
from audit.evidence.item import Item
from audit.vulnerabilities.result import Match, VexStatus
from manifests import canonical
from manifests.policy import Waiver

CHECK = "vulnerabilities"
CONTEXT = "https://openvex.dev/ns/v0.2.0"
ROLE = "Tool that compares versions with advisories and passes on the decisions it was given; it does not judge what can be exploited"
MAX_FIXED = 4  # versions named in an action
STATES = {"affected": "exploitable", "not_affected": "not_affected", "fixed": "resolved", "under_investigation": "in_triage"}
REASONS = (  # (OpenVEX, CycloneDX): the same reason, where both have it
    ("vulnerable_code_not_present", "code_not_present"),
    ("vulnerable_code_not_in_execute_path", "code_not_reachable"),
    ("inline_mitigations_already_exist", "protected_by_mitigating_control"),
    ("component_not_present", "code_not_present"),
    ("inline_mitigations_already_exist", "protected_by_compiler"),
    ("inline_mitigations_already_exist", "protected_at_runtime"),
    ("inline_mitigations_already_exist", "protected_at_perimeter"),
)
OPENVEX_REASONS = frozenset({*(ours for ours, _ in REASONS), "vulnerable_code_cannot_be_controlled_by_adversary"})
CYCLONEDX_REASONS = frozenset({*(ours for _, ours in REASONS), "requires_configuration", "requires_dependency", "requires_environment"})
METHODS = {"CVSS:3.0/": "CVSSv3", "CVSS:3.1/": "CVSSv31", "CVSS:4.0/": "CVSSv4"}


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of a match: ``reason`` is a word of either format, ``text`` says more, ``action`` what is to be done."""

    status: VexStatus
    reason: str = ""
    text: str = ""
    action: str = ""
    time: datetime | None = None


def openvex(assessment: Assessment, sha256: str) -> bytes | None:
    """Return the OpenVEX document, None if there is nothing to state; ``sha256`` (hex) is that of ``verification.json``."""
    proof = assessment.proof
    if proof is None or not proof.vulnerabilities.matches:
        return None
    name, version = assessment.tool
    return canonical.readable(
        {
            "@context": CONTEXT,
            "@id": _id(proof, "openvex", sha256),
            "author": f"{name} {version}",
            "role": ROLE,
            "timestamp": canonical.stamp(assessment.time),
            "version": 1,
            "tooling": f"{name} {version}, of bundle {proof.bundle.digest} and verification.json sha256:{sha256}",
            "statements": [_statement(match, said, items) for match, said, items in _grouped(proof)],
        }
    )


def cyclonedx_vex(assessment: Assessment, sha256: str) -> bytes | None:
    """Return the CycloneDX document, None if there is nothing to state; its references are those of the bundle's SBOM."""
    proof = assessment.proof
    if proof is None or not proof.vulnerabilities.matches:
        return None
    stated = list(_grouped(proof))
    items = {item.ref: item for _, _, found in stated for item in found}
    return canonical.readable(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": _id(proof, "cyclonedx-vex", sha256),
            "version": 1,
            "metadata": _metadata(assessment, proof, sha256),
            "components": [_component(item) for _, item in sorted(items.items())],
            "vulnerabilities": [_vulnerability(match, said, found) for match, said, found in stated],
        }
    )


def _id(proof: Proof, form: str, sha256: str) -> str:
    return uuid.uuid5(NAMESPACE, f"{form} {proof.bundle.digest} {sha256}").urn


def _grouped(proof: Proof) -> Iterator[tuple[Match, Said, list[Item]]]:
    """Yield what is said of each vulnerability, once for all packages it is said of."""
    items = {item.ref: item for item in proof.inventory.items}
    waivers = {(finding.component, finding.path, finding.about): waiver for finding, waiver in proof.gate.waived if finding.id == CHECK}
    groups: dict[tuple[str, Said], list[tuple[Match, Item]]] = {}
    for match in proof.vulnerabilities.matches:
        item = items[match.ref]
        said = _said(match, waivers.get((item.component, item.path or "", match.name)))
        groups.setdefault((match.name, said), []).append((match, item))
    for key in sorted(groups, key=lambda key: (key[0], key[1].status, key[1].reason, key[1].text, key[1].action)):
        found = sorted(groups[key], key=lambda pair: pair[1].ref)
        yield found[0][0], key[1], [item for _, item in found]


def _said(match: Match, waiver: Waiver | None) -> Said:
    decision = match.decision
    if match.malicious:
        return Said("affected", action="Take this package out: it is hostile as such. Find out where it ran already.")
    if waiver:
        accepted = f"Accepted until {waiver.expires} by {waiver.by}: {waiver.reason}"
        return Said("affected", text="A waiver of the policy", action=f"{accepted} Then: {_remedy(match)}")
    if decision is None and match.disputed:
        return Said("under_investigation", text="An advisory names this version; whether it is a vulnerability is disputed.")
    if decision is None:
        text = "An advisory names this version; whether it can be exploited here was not judged."
        return Said("affected", text=text, action=_remedy(match))
    by = f"Decided by {decision.author or 'an author who is not named'} in {decision.source}"
    text = f"{by}: {decision.statement}" if decision.statement else f"{by}."
    action = (decision.statement or _remedy(match)) if decision.status == "affected" else ""
    return Said(decision.status, decision.justification, text, action, decision.time)


def _remedy(match: Match) -> str:
    fixed = ", ".join(match.fixed[:MAX_FIXED])
    if not fixed:
        return "No correction is known: replace it, or keep it from being reached."
    return f"Use a version that has the correction: {fixed}."


def _statement(match: Match, said: Said, items: list[Item]) -> dict[str, Any]:
    purls = sorted({item.purl for item in items if item.purl})
    found: dict[str, Any] = {
        "vulnerability": {"name": match.name, "description": match.summary, "aliases": _aliases(match)},
        "products": [{"@id": purl, "identifiers": {"purl": purl}} for purl in purls],
        "status": said.status,
    }
    if not match.summary:
        del found["vulnerability"]["description"]
    if said.time:
        found["timestamp"] = canonical.stamp(said.time)
    if said.status == "affected":
        found["action_statement"] = said.action
    reason = next((ours for ours, theirs in REASONS if said.reason in {ours, theirs}), said.reason)
    if said.status != "not_affected":
        found["status_notes"] = _noted(match, said)
    elif reason in OPENVEX_REASONS:
        found |= {"justification": said.reason if said.reason in OPENVEX_REASONS else reason, "status_notes": said.text}
    else:
        found["impact_statement"] = ": ".join(filter(None, (said.reason, said.text)))
    return found


def _aliases(match: Match) -> list[str]:
    return sorted({match.id, *match.aliases} - {match.name})


def _noted(match: Match, said: Said) -> str:
    more = f" It is about {', '.join(match.covers)}." if match.covers else ""
    more += f" Known to be exploited since {match.kev}." if match.kev else ""
    return f"{said.text}{more}".strip() or "A hostile package."


def _metadata(assessment: Assessment, proof: Proof, sha256: str) -> dict[str, Any]:
    found = proof.vulnerabilities
    name, version = assessment.tool
    facts = {f"{source.feed}:{source.name}": _source(source.as_of, source.records) for source in found.sources}
    facts |= {f"items:{status.replace(' ', '-')}": str(count) for status, count in found.counts.items()}
    facts |= {"verification:sha256": sha256, "role": ROLE}
    serial = str(proof.bundle.statement.serial)
    hashes = [{"alg": "SHA-256", "content": proof.bundle.digest.hex}]
    return {
        "timestamp": canonical.stamp(assessment.time),
        "tools": {"components": [{"type": "application", "name": name, "version": version}]},
        "component": {"type": "application", "name": proof.inventory.name or "unknown", "version": serial, "hashes": hashes},
        "properties": _properties(facts),
    }


def _source(as_of: datetime | None, records: int) -> str:
    return f"{records} records, as of {canonical.stamp(as_of) if as_of else 'unknown'}"


def _component(item: Item) -> dict[str, Any]:
    found = {"bom-ref": item.ref, "type": TYPES[item.what], "name": item.name, "version": item.version, "purl": item.purl}
    return {key: value for key, value in found.items() if value}


def _vulnerability(match: Match, said: Said, items: list[Item]) -> dict[str, Any]:
    source = {"name": f"OSV {match.source}"}
    status = {"affected": "affected", "under_investigation": "unknown"}.get(said.status, "unaffected")
    found: dict[str, Any] = {
        "id": match.name,
        "source": source,
        "references": [{"id": alias, "source": source} for alias in _aliases(match)],
        "ratings": [_rating(match)],
        "description": match.summary,
        "recommendation": said.action,
        "published": canonical.stamp(match.published) if match.published else "",
        "updated": canonical.stamp(match.modified) if match.modified else "",
        "analysis": _analysis(match, said),
        "affects": [{"ref": item.ref, "versions": [{"version": item.version, "status": status}]} for item in items],
        "properties": _properties(_facts(match)),
    }
    return {key: value for key, value in found.items() if value}


def _rating(match: Match) -> dict[str, Any]:
    found: dict[str, Any] = {"severity": match.severity, "method": METHODS.get(match.vector[:9], "other")}
    if match.score is not None:
        found["score"] = match.score
    if match.vector:
        found["vector"] = match.vector
    return found


def _analysis(match: Match, said: Said) -> dict[str, Any]:
    found: dict[str, Any] = {"state": STATES[said.status], "detail": _noted(match, said)}
    reason = next((theirs for ours, theirs in REASONS if said.reason in {ours, theirs}), said.reason)
    if said.reason:
        if reason in CYCLONEDX_REASONS:
            found["justification"] = said.reason if said.reason in CYCLONEDX_REASONS else reason
        else:
            found["detail"] = f"{said.reason}: {found['detail']}"
    if said.status == "affected" and match.fixed:
        found["response"] = ["update"]
    if said.time:
        found["lastUpdated"] = canonical.stamp(said.time)
    return found


def _facts(match: Match) -> dict[str, str]:
    return {
        "kev:since": str(match.kev or ""),
        "epss": "" if match.epss is None else str(match.epss),
        "malicious": "true" if match.malicious else "",
        "disputed": "true" if match.disputed else "",
        "covers": ", ".join(match.covers),
        "fixed": ", ".join(match.fixed),
    }


def _properties(facts: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": f"airgap:{key}", "value": text} for key, text in sorted(facts.items()) if text]
