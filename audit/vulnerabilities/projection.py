"""The comparison with vulnerability data as plain JSON values, for ``verification.json`` and ``--json``."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from audit.vulnerabilities.result import Decision, Match, Source, Vulnerabilities
from manifests import canonical


def as_json(found: Vulnerabilities) -> dict[str, Any]:
    """Return all of a comparison; ``assessed`` is False where no advisories were consulted, and then nothing is known of any item."""
    counts = found.counts
    return {
        "assessed": found.consulted,
        "counts": {"affected": counts["affected"], "noneKnown": counts["none known"], "notAssessed": counts["not assessed"]},
        "items": [{"reason": item.reason, "ref": item.ref, "status": item.status} for item in found.items],
        "matches": [_match(match) for match in found.matches],
        "sources": [_source(source) for source in found.sources],
    }


def _source(source: Source) -> dict[str, Any]:
    return {
        "asOf": _time(source.as_of),
        "bundle": source.bundle,
        "component": source.component,
        "feed": source.feed,
        "name": source.name,
        "path": source.path,
        "problems": list(source.problems),
        "records": source.records,
        "sha256": source.sha256,
        "skipped": source.skipped,
    }


def _match(match: Match) -> dict[str, Any]:
    return {
        "aliases": list(match.aliases),
        "covers": list(match.covers),
        "decision": _decision(match.decision) if match.decision else None,
        "disputed": match.disputed,
        "epss": match.epss,
        "fixed": list(match.fixed),
        "id": match.id,
        "kev": _time(match.kev),
        "malicious": match.malicious,
        "modified": _time(match.modified),
        "name": match.name,
        "published": _time(match.published),
        "ref": match.ref,
        "score": match.score,
        "severity": match.severity,
        "source": match.source,
        "summary": match.summary,
        "vector": match.vector,
    }


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "author": decision.author,
        "justification": decision.justification,
        "source": decision.source,
        "statement": decision.statement,
        "status": decision.status,
        "time": _time(decision.time),
    }


def _time(moment: date | datetime | None) -> str | None:
    """Return a time as all others are written, a day as ``2026-11-24``."""
    if moment is None:
        return None
    return canonical.stamp(moment) if isinstance(moment, datetime) else moment.isoformat()
