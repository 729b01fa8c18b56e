"""The sheet to sign before a transfer: one page, printed, with what is to be approved and room for names and signatures.

Rules: it says what ``verification.json`` says, in numbers, and names that file by its digest; what was not assessed stands where it
cannot be overlooked; nothing on it says that somebody approved: only ink does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from audit.evidence.assessment import Assessment, Proof
from audit.evidence.report.licensing import licences
from audit.evidence.report.page import counted, render, size
from audit.evidence.report.summary import unchecked
from audit.evidence.report.words import verdict
from manifests.errors import UsageError

ROLES = ("Prepared by", "Approved for transfer by", "Received by")
MEDIA = 3  # media that can be written down; who has more adds a sheet
MAX_SIGNERS = 6  # signers that are named; the rest is counted


def approval(assessment: Assessment, sha256: str) -> bytes:
    """Return the sheet; ``sha256`` (hex) is that of ``verification.json``. The same assessment is always the same bytes.

    Raises UsageError for a refused bundle: there is nothing to approve.
    """
    mood, name, meaning = verdict(assessment)
    proof = assessment.proof
    if proof is None:
        raise UsageError("a refused bundle has no sheet to approve it", hint="the report says why it is refused")
    return render(
        "approval.html.j2",
        "approval.css.j2",
        assessment=assessment,
        proof=proof,
        mood=mood,
        verdict=name,
        meaning=meaning,
        unchecked=unchecked(assessment),
        sha256=sha256,
        counts=tuple(_counts(proof)),
        content=_content(proof),
        signers=proof.bundle.signatures[:MAX_SIGNERS],
        unnamed=max(0, len(proof.bundle.signatures) - MAX_SIGNERS),
        roles=ROLES,
        media=range(1, MEDIA + 1),
    )


def _counts(proof: Proof) -> Iterator[tuple[str, str]]:
    """Yield what was found in numbers, each with its name; "not assessed" where there is no number."""
    gate, found = proof.gate, proof.vulnerabilities
    severities = Counter(finding.severity for finding in (*gate.refused, *gate.warned))
    shared = ", ".join(f"{severities[name]} {name}" for name in ("critical", "high", "medium", "low", "info") if severities[name])
    yield "Findings at or above the gate", f"{len(gate.refused):,}"
    yield "Findings below the gate", f"{len(gate.warned):,}{f' (of all: {shared})' if shared else ''}"
    yield "Findings waived", f"{len(gate.waived):,}{_deciders(proof)}"
    yield "Files not assessed by a check", f"{len(gate.not_assessed):,}"
    yield "Parts of the inventory not read", f"{len(proof.inventory.unreadable) + len(proof.inventory.gaps):,}"
    yield "Known vulnerabilities", f"{len(found.standing):,} that nobody decided away" if found.consulted else "not assessed"
    unknown = licences(proof)
    yield "Licence unknown", f"{unknown.unknown_count:,} of {unknown.asked:,} packages, models and images"


def _deciders(proof: Proof) -> str:
    names = sorted({waiver.by for _, waiver in proof.gate.waived})
    return f" (decided by {', '.join(names)})" if names else ""


def _content(proof: Proof) -> str:
    blobs = proof.bundle.blobs
    total = sum(count for _, count in blobs)
    parts = counted(len(proof.inventory.components), "component")
    return f"{size(total)} ({total:,} bytes) in {counted(len(blobs), 'blob')}, {parts}"
