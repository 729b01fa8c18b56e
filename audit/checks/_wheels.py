"""Verdicts over wheels as notes of the check ``upstream``: a component may hold hundreds, so what is unknown is told once for all alike.

Rules: a wheel that nobody is named for and nobody attested has nothing to be judged, like most; one that somebody attested is not
assessed, and so is one whose publisher the policy names and that carries no attestation: absence is unknown. Where the policy itself
says ``upstream: refuse`` in its ``gates``, that absence is a finding. Every verdict stays in ``verification.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from audit.checks import Examined, Finding, NotAssessed, Note
from audit.verify.verdict import Verdict
from manifests.paths import printable, some

MAX_NAMED = 3  # files named in one note; all are in the verdicts


def notes(verdicts: Iterable[Verdict], *, identity: str, doc: str, remedies: dict[str, str], strict: bool = False) -> Iterator[Note]:
    """Yield what each verdict is to the gate; with ``strict`` a missing attestation is a finding."""
    unknown: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts:
        name = verdict.file.rsplit("/", 1)[-1]
        if verdict.result == "good":
            yield Examined(verdict.component, verdict.file)
        elif verdict.result == "missing" and not strict:
            unknown.setdefault((verdict.component, f"the policy names who publishes it, and {verdict.reason}"), []).append(name)
        elif verdict.result != "nobody named":
            message, remedy = f"{printable(verdict.name)}: {verdict.reason}", remedies[verdict.result].format("wheel")
            kind, waivable = f"{identity}.{verdict.result}", verdict.result != "wrong"
            yield Finding(kind, "high", verdict.component, verdict.file, message, remedy, doc, waivable=waivable)
        elif verdict.seen:
            unknown.setdefault((verdict.component, "attested, and the policy names nobody for them"), []).append(name)
    for (component, why), names in unknown.items():
        yield NotAssessed(identity, component, "", f"{some(names, MAX_NAMED, 120)}: {why}")


def unjudged(verdicts: Iterable[Verdict], reason: str, *, identity: str) -> Iterator[Note]:
    """Yield one note for each component with files that somebody attested and that were not judged for ``reason``."""
    attested: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.seen:
            attested.setdefault(verdict.component, []).append(verdict.file.rsplit("/", 1)[-1])
    for component, names in attested.items():
        yield NotAssessed(identity, component, "", f"{some(names, MAX_NAMED, 120)}: attested, and {reason}")
