"""No package is known to be vulnerable: the comparison of the inventory with the advisories that came with a bundle or a feed.

A package that is hostile as such (``MAL-`` records, as for LiteLLM 1.82.7) is refused whatever a gate says; a vulnerability known to be
exploited (CISA KEV) is critical whatever its score. What no data covers is not assessed, said once for each reason with how many.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from audit.checks import Examined, Finding, NotAssessed, Note, Severity, Subject
from audit.evidence.item import Item
from audit.vulnerabilities.result import Match, Source
from manifests.policy import Freshness

ID = "vulnerabilities"
TITLE = "No package is known to be vulnerable"
GATE: str | None = "vulnerabilities"
BY_POLICY = True  # what is known changes, and how old data may be is the site's to say
LIMITS = (
    "Nobody keeps advisories by model, and an image is compared package by package: what is in neither list is not compared.",
    "Only packages that a database or the program itself names are compared, by name and version; code copied into another package is not.",
    "A package from elsewhere than the system it is installed on is compared as if it were that system's.",
    "An advisory tells what was known when the data was published; its date stands beside it.",
    "Whether vulnerable code can be reached here is not judged; a VEX document or a waiver of the policy says so.",
)
DOC = "docs/checks.md#vulnerabilities"
NO_DATA = "no vulnerability data came with this bundle or was imported at this site, so nothing was compared with any"
MAX_NAMED = 5  # packages named of one reason
MAX_FIXED = 4  # versions named in a remedy
FUTURE = timedelta(days=1)  # by which clocks may differ
_WORDS: dict[str, Severity] = {
    "none": "info", "low": "low", "medium": "medium", "unknown": "medium", "high": "high", "critical": "critical",
}  # fmt: skip


def run(subject: Subject) -> Iterator[Note]:
    """Turn the comparison into findings; while a bundle is built, one without data is not judged: the site may have some."""
    found = subject.vulnerabilities
    if not found.consulted:
        if not subject.building and (found.items or any(part.form == "image" for part in subject.components)):
            yield NotAssessed(ID, "", "", NO_DATA)
        return
    items = {item.ref: item for item in subject.items}
    yield from (_finding(match, items[match.ref]) for match in found.standing)
    yield from (_unread(source) for source in found.sources if source.skipped or not source.records)
    reasons: dict[str, list[str]] = {}
    for entry in found.items:
        if entry.status == "not assessed" and items[entry.ref].what != "package":
            continue  # said once for all in LIMITS
        if entry.status == "not assessed":
            reasons.setdefault(entry.reason, []).append(_name(items[entry.ref]))
        else:
            yield Examined(items[entry.ref].component, items[entry.ref].path or "")
    for reason, names in reasons.items():
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        yield NotAssessed(ID, "", "", f"{reason} ({len(names)}: {', '.join(names[:MAX_NAMED])}{more})")
    yield from _old(subject)


def _finding(match: Match, item: Item) -> Finding:
    said = match.name if match.name == match.id else f"{match.name} ({match.id})"
    score = f"CVSS {match.score}" if match.score is not None else f"severity {match.severity}"
    more = f", known to be exploited since {match.kev}" if match.kev else ""
    more += f", EPSS {match.epss:.3f}" if match.epss is not None else ""
    more += f", about {', '.join(match.covers)}" if match.covers else ""
    more += ", disputed" if match.disputed else ""
    kind = "is a malicious package" if match.malicious else f"is affected: {score}{more}"
    summary = f": {match.summary}" if match.summary else ""
    fixed = ", ".join(match.fixed[:MAX_FIXED])
    return Finding(
        ID,
        "critical" if match.kev or match.malicious else _WORDS[match.severity],
        item.component,
        item.path or "",
        f"{_name(item)} {kind}, {said}{summary}",
        _remedy(match, fixed),
        DOC,
        waivable=not match.malicious,
        about=match.name,
    )


def _remedy(match: Match, fixed: str) -> str:
    if match.malicious:
        return "take this package out; find out where it ran already"
    return f"use a version that has the correction: {fixed}" if fixed else "no correction is known: replace it, or let the policy waive it"


def _unread(source: Source) -> NotAssessed:
    why = f": {source.problems[0]}" if source.problems else ""
    what = f"{source.skipped} of its records could not be read" if source.records else "nothing of it could be read, or it is empty"
    return NotAssessed(ID, source.component, source.path, f"{source.feed} {source.name}: {what}{why}")


def _old(subject: Subject) -> Iterator[Note]:
    """Say which data is older than the policy wants; only a build refuses it, at the site nobody can do better."""
    allowed = subject.policy.freshness if subject.policy else Freshness()
    for source in subject.vulnerabilities.sources:
        if source.feed == "vex" or subject.now is None:
            continue
        if source.as_of is None or source.as_of > subject.now + FUTURE:
            why = f"says it is of {source.as_of.date()}, which is to come" if source.as_of else "nothing says how old it is"
            yield NotAssessed(ID, source.component, source.path, f"{source.feed} {source.name}: {why}")
            continue
        age = (subject.now - source.as_of) // timedelta(days=1)
        if age > allowed.warn:
            grave = subject.building and age > allowed.refuse
            message = f"{source.feed} {source.name} is {age} days old ({source.as_of.date()})"
            remedy = "lock again to take newer data" if subject.building else "import a newer feed: `airgap-audit feed import`"
            yield Finding(ID, "high" if grave else "low", source.component, source.path, message, remedy, DOC, about="age")


def _name(item: Item) -> str:
    return f"{item.name} {item.version}" if item.version else item.name
