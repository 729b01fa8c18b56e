"""What all OSCAL documents share: identifiers, metadata, properties, and texts that stay texts.

Rules: every UUID is made from the sha256 of ``verification.json`` and a name, so that the same assessment always has the same; texts of
others lose what Markdown, HTML or a parameter of OSCAL would be made of; an empty list is left out, as the schema asks.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from typing import Any

from audit.evidence.assessment import Assessment
from audit.evidence.controls import NIST, Support
from audit.evidence.outcomes import Outcome, line
from manifests import canonical

VERSION = "1.2.1"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://airgap-bundler.dev/ns/oscal")
NS = "https://airgap-bundler.dev/ns/oscal"
VERIFICATION = "verification.json"
MAX_LINE = 200  # characters of a title
_MARKUP = re.compile(r"[\\`*\[\]<>&{}~^|]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LEADING = re.compile(r"^(?=[#+\-=])|^(\d+)(?=[.)])")


class Names:
    """Makes the identifiers of one assessment's documents."""

    def __init__(self, sha256: str) -> None:
        self.sha256 = sha256

    def __call__(self, *parts: str) -> str:
        """Return the UUID of the thing that ``parts`` name."""
        return str(uuid.uuid5(NAMESPACE, "\0".join((self.sha256, *parts))))


def markup(text: str, limit: int = 4000) -> str:
    """Return ``text`` as a line of OSCAL's Markdown that shows exactly this text; never empty."""
    clean = line(text)
    cut = clean if len(clean) <= limit else f"{clean[: limit - 1]}…"
    return _LEADING.sub(lambda found: f"{found[1] or ''}\\", _MARKUP.sub(r"\\\g<0>", cut)) or "unknown"


def title(text: str) -> str:
    """Return ``text`` as a title."""
    return markup(text, MAX_LINE)


def prop(name: str, value: str) -> dict[str, str]:
    """Return a property of this tool's own namespace; values are plain text."""
    return {"name": name, "ns": NS, "value": line(value) or "unknown"}


def metadata(assessment: Assessment, names: Names, what: str) -> dict[str, Any]:
    """Return the head of a document, which names what it is a projection of."""
    return {
        "title": title(f"{what}: {assessment.place}"),
        "last-modified": canonical.stamp(assessment.time),
        "version": names.sha256[:12],
        "oscal-version": VERSION,
        "props": [
            prop("verification-sha256", names.sha256),
            prop("verdict", assessment.verdict),
            prop("exit-code", str(assessment.exit_code)),
            prop("tool", " ".join(assessment.tool)),
        ],
    }


def evidence(names: Names) -> dict[str, Any]:
    """Return the back matter's entry for the file that all this is a projection of."""
    return {
        "uuid": names("resource", VERIFICATION),
        "title": VERIFICATION,
        "description": "The whole result, of which this document is a projection.",
        "rlinks": [
            {"href": VERIFICATION, "media-type": "application/json", "hashes": [{"algorithm": "SHA-256", "value": names.sha256}]}
        ],
    }


def tool(assessment: Assessment, names: Names) -> dict[str, Any]:
    """Return this tool as a component of the assessment."""
    name, version = assessment.tool
    return {
        "uuid": names("tool"),
        "type": "software",
        "title": title(f"{name} {version}"),
        "description": "The tool that verified the bundle and made this assessment, without a network.",
        "props": [{"name": "version", "value": line(version) or "unknown"}],
        "status": {"state": "operational"},
    }


def origins(names: Names) -> list[dict[str, Any]]:
    """Return the origin of everything that this tool says."""
    return [{"actors": [{"type": "tool", "actor-uuid": names("tool")}]}]


def nist(supports: Iterable[Support]) -> tuple[Support, ...]:
    """Return what is said of controls of NIST SP 800-53, the catalogue that assessment results refer to."""
    return tuple(support for support in supports if support.framework.framework == NIST)


def observation(names: Names, assessment: Assessment, entry: Outcome) -> dict[str, Any]:
    """Return the observation of one outcome."""
    return {
        "uuid": names("observation", entry.key),
        "title": title(f"{entry.rule}: {entry.decision}"),
        "description": markup(entry.told),
        "methods": ["TEST" if entry.severity else "UNKNOWN"],
        "types": ["finding" if entry.severity else entry.decision.replace(" ", "-")],
        "props": facts(entry),
        "origins": origins(names),
        "relevant-evidence": [{"href": f"#{names('resource', VERIFICATION)}", "description": "verification.json"}],
        "collected": canonical.stamp(assessment.time),
    }


def facts(entry: Outcome) -> list[dict[str, str]]:
    """Return what is known of an outcome as properties."""
    said = {"rule": entry.rule, "decision": entry.decision.replace(" ", "-"), "severity": entry.severity or "", "about": entry.about}
    said |= {"component": entry.component, "path": entry.path, "explained": entry.doc}
    return [prop(name, value) for name, value in said.items() if value]


def what_to_do(entry: Outcome) -> str:
    """Return what an outcome says and, where it is known, what to do about it."""
    return f"{entry.told}. What to do: {entry.remedy}" if entry.remedy else entry.told


def risk(names: Names, entry: Outcome) -> dict[str, Any]:
    """Return the risk that a finding is; one that is waived is a deviation approved until its deadline."""
    found: dict[str, Any] = {
        "uuid": names("risk", entry.key),
        "title": title(entry.told),
        "description": markup(entry.told),
        "statement": markup(what_to_do(entry)),
        "props": facts(entry),
        "status": "deviation-approved" if entry.waiver else "open",
        "origins": origins(names),
        "related-observations": [{"observation-uuid": names("observation", entry.key)}],
    }
    if entry.severity:
        facets = [{"name": "severity", "system": NS, "value": entry.severity}]
        found["characterizations"] = [{"origin": origins(names)[0], "facets": facets}]
    if entry.waiver:
        found["deadline"] = entry.waiver.expires
    remediations = list(_responses(names, entry))
    if remediations:
        found["remediations"] = remediations
    return found


def _responses(names: Names, entry: Outcome) -> Iterable[dict[str, Any]]:
    if entry.remedy:
        yield {
            "uuid": names("remedy", entry.key),
            "lifecycle": "recommendation",
            "title": title(entry.remedy),
            "description": markup(entry.remedy),
            "origins": origins(names),
        }
    if entry.waiver:
        waiver = entry.waiver
        said = f"Risk accepted by {waiver.by} until {waiver.expires}, in the policy of the site: {waiver.reason}"
        yield {
            "uuid": names("waiver", entry.key),
            "lifecycle": "planned",
            "title": title(f"Risk accepted until {waiver.expires}"),
            "description": markup(said),
            "props": [{"name": "type", "value": "accept"}, prop("accepted-by", waiver.by), prop("accepted-until", waiver.expires)],
        }
