"""Licences let the bundle be passed on, and their texts are carried; a table says which do, people decide.

One finding for each component and verdict, with the licences behind it: hundreds of packages say the same. Gated models: somebody accepted
terms, and an auditor asks who.
"""

from __future__ import annotations

from collections.abc import Iterator

from audit.checks import Examined, Finding, Note, Severity, Subject
from audit.evidence.redistribution import LICENCE_TEXT, Judgement, as_of, judge
from manifests.paths import printable, some

ID = "licences"
TITLE = "Licences are known, and let the bundle be passed on"
GATE: str | None = "licences"
LIMITS = (
    "A table of licences is applied to what packages and models declare; nobody read their sources, and it is no legal advice.",
    "Of packages inside images only what databases and files there state is known; while a bundle is built images may not be opened.",
)
DOC = "docs/checks.md#licences"
SEVERITIES: dict[str, Severity] = {"internal use only": "medium", "needs legal advice": "medium", "unknown": "low"}
REMEDIES = {
    "internal use only": "do not give the bundle to third parties with it; inside your organisation keep to its terms",
    "needs legal advice": "ask whoever decides on licences at your site, then waive it in the policy with their name",
    "unknown": "find out: the publisher's page, or the licence texts it carries",
    "texts": "carry the texts: as a component of kind `path`, or take a release that has them",
    "gated": "state who accepted the terms, and when: `accepted` of the component in bundle.yaml",
}


def run(subject: Subject) -> Iterator[Note]:
    """Judge every package, model and image by the table."""
    found = judge(subject.items)
    yield from (Examined(entry.component, entry.name) for entry in found)
    groups: dict[tuple[str, str], list[Judgement]] = {}
    for entry in found:
        if entry.verdict in SEVERITIES:
            groups.setdefault((entry.component, entry.verdict), []).append(entry)
        if LICENCE_TEXT in entry.conditions and entry.texts == "not carried":
            groups.setdefault((entry.component, "texts"), []).append(entry)
    for (component, kind), entries in sorted(groups.items()):
        yield _finding(component, kind, entries)
    yield from _gated(subject)


def _finding(component: str, kind: str, entries: list[Judgement]) -> Finding:
    names = some((entry.name for entry in entries), limit=60)
    if kind == "texts":
        message = f"{len(entries)} without the licence text that their licence asks for: {names}"
        return Finding(ID, "low", component, "", message, REMEDIES[kind], DOC, about=kind)
    licences = some(dict.fromkeys(entry.licence for entry in entries), limit=60)
    said = f"{len(entries)} of unknown licence, or one not in the table" if kind == "unknown" else f"{len(entries)} {kind}"
    message = f"{said}: {names} ({licences}), by the table of {as_of()}"
    return Finding(ID, SEVERITIES[kind], component, "", message, REMEDIES[kind], DOC, about=kind.replace(" ", "-"))


def _gated(subject: Subject) -> Iterator[Finding]:
    for component in subject.components:
        facts = component.facts
        if facts.get("gated"):
            who = facts.get("accepted")
            accepted = f"its terms were accepted by {printable(who, 200)}" if who else "nothing says who accepted its terms"
            message = f"gated by its publisher, and {accepted}"
            yield Finding(ID, "info" if who else "medium", component.name, "", message, REMEDIES["gated"], DOC, about="gated")
