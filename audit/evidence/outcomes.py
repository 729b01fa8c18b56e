"""All that somebody has to act on or know of, as one list: what is refused, warned of, waived, or was not assessed.

The formats that list findings (OSCAL, HDF, SARIF, tables) are made from this list, so that none of them can leave a kind out. Rules:
everything that is not assessed and should have been is in it; what this tool does not look at is a list of its own, ``limits``; texts are
cleaned of what cannot be printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from audit.checks import Finding, Severity
from audit.evidence.assessment import Assessment, Proof
from manifests.paths import printable
from manifests.policy import Waiver

Decision = Literal["refused", "warned", "waived", "not assessed", "not checked"]
DECISIONS: tuple[Decision, ...] = ("refused", "warned", "waived", "not assessed", "not checked")
VERIFICATION, INVENTORY, INSTALLED, LIMITS = "verification", "inventory", "installed", "not-checked"  # what is said by no check
RULES = {
    VERIFICATION: "The bundle is what the signers of the policy signed",
    INVENTORY: "The inventory is whole, and the signed lock and the index agree",
    INSTALLED: "What is installed is as it was installed",
    LIMITS: "What nobody should believe was checked",
}
NOT_COMPARED = "not compared"  # the kind of a note of `audit.drift` about something that could not be compared
COMPARE = "find out which of the two is wrong before using it"
MAX_TEXT = 4000  # characters of one text


@dataclass(frozen=True, slots=True)
class Outcome:
    """One entry: ``rule`` is the id of the check or a key of ``RULES``, ``doc`` says where it is explained.

    ``severity`` is None for what was not assessed. ``number`` counts entries that are alike, so that each can be named.
    """

    rule: str
    decision: Decision
    severity: Severity | None
    component: str
    path: str
    about: str
    message: str
    remedy: str
    doc: str = ""
    waiver: Waiver | None = None
    number: int = 0

    @property
    def key(self) -> str:
        """Return what names this entry in the assessment; the message counts only where nothing shorter says what was found."""
        return "\0".join((self.rule, self.component, self.path, self.about or self.message, str(self.number)))

    @property
    def where(self) -> str:
        """Return what it is about, for people; empty where it is about the whole."""
        return "/".join(filter(None, (self.component, self.path)))

    @property
    def told(self) -> str:
        """Return it in one line."""
        return ": ".join(filter(None, (self.where, self.message)))


def outcomes(assessment: Assessment) -> tuple[Outcome, ...]:
    """Return every outcome: what stopped the bundle first, then findings by decision, then what was not assessed."""
    proof = assessment.proof
    found = _of_proof(proof) if proof else _of_refusal(assessment)
    return _numbered(sorted(found, key=lambda entry: DECISIONS.index(entry.decision)))


def limits(assessment: Assessment) -> tuple[Outcome, ...]:
    """Return what nobody should believe was checked of a proved bundle; of a refused one that is among the outcomes, still to be done."""
    said = assessment.not_checked if assessment.proof else ()
    return _numbered(_entry(LIMITS, "not checked", None, about=entry.topic, message=entry.text) for entry in said)


def _numbered(entries: Iterable[Outcome]) -> tuple[Outcome, ...]:
    """Give those that are alike a number, so that each has a name of its own."""
    seen: Counter[str] = Counter()
    found = []
    for entry in entries:
        key = entry.key
        found.append(replace(entry, number=seen[key]) if seen[key] else entry)
        seen[key] += 1
    return tuple(found)


def _of_refusal(assessment: Assessment) -> Iterator[Outcome]:
    for failure in assessment.failures:
        yield _entry(VERIFICATION, "refused", "critical", about=failure.rule or "", message=failure.message, remedy=failure.hint)
    for entry in assessment.not_checked:
        yield _entry(VERIFICATION, "not assessed", None, about=entry.topic, message=entry.text)


def _of_proof(proof: Proof) -> Iterator[Outcome]:
    for entry in proof.inventory.disagreements:
        yield _entry(INVENTORY, "refused", "high", entry.component, message=entry.message, remedy=COMPARE)
    yield from _drift(proof)
    gate = proof.gate
    yield from (_finding(finding, "refused") for finding in gate.refused)
    yield from (_finding(finding, "warned") for finding in gate.warned)
    yield from (_finding(finding, "waived", waiver) for finding, waiver in gate.waived)
    for note in gate.not_assessed:
        yield _entry(note.id, "not assessed", None, note.component, note.path, message=note.reason)
    for text in proof.inventory.gaps:
        yield _entry(INVENTORY, "not assessed", None, message=text)
    for item in proof.inventory.unreadable:
        yield _entry(INVENTORY, "not assessed", None, item.component, item.path or "", message=item.coverage.reason)


def _drift(proof: Proof) -> Iterator[Outcome]:
    if proof.drift is None:
        return
    unknown = proof.drift.exit_code == 5  # noqa: PLR2004 - the exit codes of docs/commands.md
    for kind, subject, message in proof.drift.notes:
        if unknown or kind == NOT_COMPARED:
            yield _entry(INSTALLED, "not assessed", None, subject, about=kind, message=message)
        elif proof.drift.exit_code:
            yield _entry(INSTALLED, "refused", "high", subject, about=kind, message=message, remedy="install it again, or roll back")
    if proof.drift.exit_code and not proof.drift.notes:
        yield _entry(INSTALLED, "not assessed" if unknown else "refused", None if unknown else "high", message=proof.drift.outcome)


def _finding(finding: Finding, decision: Decision, waiver: Waiver | None = None) -> Outcome:
    return _entry(
        finding.id,
        decision,
        finding.severity,
        finding.component,
        finding.path,
        about=finding.about,
        message=finding.message,
        remedy=finding.remedy,
        doc=finding.doc,
        waiver=waiver,
    )


def _entry(
    rule: str,
    decision: Decision,
    severity: Severity | None,
    component: str = "",
    path: str = "",
    *,
    about: str = "",
    message: str,
    remedy: str = "",
    doc: str = "",
    waiver: Waiver | None = None,
) -> Outcome:
    where, inside, what = line(component), line(path), line(about)
    return Outcome(rule, decision, severity, where, inside, what, line(message), line(remedy), line(doc), waiver)


def line(text: str) -> str:
    """Return ``text`` as one printable line without blanks around it; cut if it is very long."""
    return printable(text, MAX_TEXT).strip()


def rules(assessment: Assessment) -> dict[str, str]:
    """Return what can be named by an outcome: the id and the title of every check that was run, and of ``RULES``."""
    proof = assessment.proof
    if proof is None:
        return dict(RULES)
    gate = proof.gate
    found = (*gate.refused, *gate.warned, *(finding for finding, _ in gate.waived))
    named = {finding.id: finding.id for finding in found} | {note.id: note.id for note in gate.not_assessed}
    return RULES | named | {result.id: line(result.title) for result in proof.results}
