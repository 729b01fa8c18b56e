"""What the comparison with vulnerability data yielded, made ready for tables: who is affected, by what, and what was not compared.

Rules: "not assessed" is never "none known"; every date is that of the data; a decision that it does not apply is shown with who decided.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from audit.evidence.assessment import Proof
from audit.evidence.item import Item
from audit.evidence.report.charts import Bar, bar
from audit.evidence.report.words import SEVERITY
from audit.vulnerabilities.result import Match, Source, Vulnerabilities

MAX_MATCHES = 5000  # rows of one table in the report
MAX_EXAMPLES = 5  # items named of those that were not assessed for one reason


@dataclass(frozen=True, slots=True)
class Hit:
    """One advisory and the item it applies to."""

    match: Match
    item: Item | None


@dataclass(frozen=True, slots=True)
class Aged:
    """A source with its age in days at the time of the report; ``old`` if the policy warns of data of that age."""

    source: Source
    days: int | None
    old: bool


@dataclass(frozen=True, slots=True)
class Unassessed:
    """Items that were not assessed for one reason: how many, and some of them by name."""

    reason: str
    count: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """Everything the section shows."""

    found: Vulnerabilities
    standing: tuple[Hit, ...]
    decided: tuple[Hit, ...]
    more: int
    sources: tuple[Aged, ...]
    unassessed: tuple[Unassessed, ...]
    severities: Bar
    coverage: Bar


def known(proof: Proof, now: datetime) -> Known:
    """Return the comparison of ``proof`` as the report shows it."""
    found = proof.vulnerabilities
    items = {item.ref: item for item in proof.inventory.items}
    standing = tuple(Hit(match, items.get(match.ref)) for match in found.standing)
    decided = tuple(Hit(match, items.get(match.ref)) for match in found.matches if not match.stands)
    warn = proof.policy.freshness.warn if proof.policy else None
    return Known(
        found=found,
        standing=standing[:MAX_MATCHES],
        decided=decided[:MAX_MATCHES],
        more=max(0, len(standing) - MAX_MATCHES) + max(0, len(decided) - MAX_MATCHES),
        sources=tuple(_aged(source, now, warn) for source in found.sources),
        unassessed=tuple(_unassessed(found, items)),
        severities=_severities(standing),
        coverage=_coverage(found),
    )


def _aged(source: Source, now: datetime, warn: int | None) -> Aged:
    days = (now - source.as_of).days if source.as_of else None
    return Aged(source, days, days is not None and warn is not None and days > warn)


def _unassessed(found: Vulnerabilities, items: dict[str, Item]) -> Iterator[Unassessed]:
    reasons: dict[str, list[str]] = {}
    for entry in found.items:
        if entry.status == "not assessed":
            item = items.get(entry.ref)
            reasons.setdefault(entry.reason, []).append(f"{item.name} {item.version or ''}".strip() if item else entry.ref)
    for reason, names in sorted(reasons.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        yield Unassessed(reason, len(names), tuple(names[:MAX_EXAMPLES]))


def _severities(standing: tuple[Hit, ...]) -> Bar:
    counts = {severity: 0 for severity in SEVERITY if severity != "info"}
    for hit in standing:
        counts[hit.match.severity] += 1
    return bar("Severity of what was found", ((severity, f"severity-{severity}", count) for severity, count in counts.items()))


def _coverage(found: Vulnerabilities) -> Bar:
    counts = found.counts
    looks = {"affected": "is-affected", "none known": "is-none-known", "not assessed": "is-not-assessed"}
    return bar("Packages, models and images", ((status, look, counts[status]) for status, look in looks.items()))  # type: ignore[index]
