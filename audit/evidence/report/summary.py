"""The first screen: how each question ended, what was not checked, and the numbers behind it. "Not assessed" is an outcome of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from audit.evidence.assessment import Assessment, NotChecked, Proof
from audit.evidence.report.licensing import JUDGED
from audit.evidence.report.page import counted, size
from audit.evidence.report.words import DRIFT, UPSTREAM, Mood
from audit.verify.verdict import Sort, Verdict
from manifests import canonical

CHECK = "Check “"  # how topics begin that are about one check
FIRST = 4  # sentences about what was not checked that stand on the first screen


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the summary: what was asked, how it ended, and the facts behind it."""

    topic: str
    mood: Mood
    outcome: str
    detail: str


@dataclass(frozen=True, slots=True)
class Tile:
    """One number of the first screen, in which mood, of what; ``number`` is "not assessed" where there is none."""

    number: str
    what: str
    mood: Mood


@dataclass(frozen=True, slots=True)
class Unchecked:
    """The most urgent sentences about what was not checked, ``(topic, text)``, and the topics of all the others."""

    told: tuple[tuple[str, str], ...]
    topics: tuple[str, ...]


def unchecked(assessment: Assessment) -> Unchecked:
    """Return what the first screen says of what was not checked: what should have been first, then the rest by topic."""
    ordered: dict[str, NotChecked] = {}
    for entry in sorted(assessment.not_checked, key=_urgency):
        ordered.setdefault(entry.text.rpartition(": ")[2], entry)  # one reason is told once, under its first topic
    told = tuple((entry.topic, entry.text) for entry in list(ordered.values())[:FIRST])
    rest = dict.fromkeys(entry.topic for entry in assessment.not_checked if (entry.topic, entry.text) not in told)
    checks = [topic for topic in rest if topic.startswith(CHECK)]
    topics = [topic for topic in rest if topic not in checks]
    return Unchecked(told, (*topics, *([f"what each of {len(checks)} checks cannot see"] if len(checks) > 1 else checks)))


def _urgency(entry: NotChecked) -> tuple[bool, bool]:
    return entry.topic != "Vulnerabilities", not entry.text.startswith("Not ")


def tiles(proof: Proof) -> Iterator[Tile]:
    """Yield the numbers of the first screen."""
    gate, found = proof.gate, proof.vulnerabilities
    yield Tile(f"{len(proof.inventory.components):,}", "components", "neutral")
    yield Tile(f"{sum(item.what == 'package' for item in proof.inventory.items):,}", "packages", "neutral")
    yield Tile(f"{len(gate.refused):,}", "findings at or above the gate", "bad" if gate.refused else "neutral")
    yield Tile(f"{len(gate.warned):,}", "findings below it", "warn" if gate.warned else "neutral")
    yield Tile(f"{len(gate.waived):,}", "findings waived", "warn" if gate.waived else "neutral")
    if found.consulted:
        yield Tile(f"{len(found.standing):,}", "known vulnerabilities", "bad" if found.standing else "neutral")
    else:
        yield Tile("not assessed", "vulnerabilities", "unknown")
    missing = len(gate.not_assessed) + len(proof.inventory.unreadable) + len(proof.inventory.gaps)
    yield Tile(f"{missing:,}", "files or parts not assessed", "unknown" if missing else "neutral")


def lines(assessment: Assessment, proof: Proof) -> Iterator[Line]:
    """Yield the summary of a proved bundle."""
    bundle, statement = proof.bundle, proof.bundle.statement
    signers = f"{counted(len(bundle.signatures), 'signer')} of policy version {bundle.policy_version}"
    total = size(sum(count for _, count in bundle.blobs))
    yield Line("Signatures", "good", "accepted", f"{signers}: {', '.join(entry.signer for entry in bundle.signatures)}")
    yield Line("Bytes", "good", "all as signed", f"{counted(len(bundle.blobs), 'blob')}, {total}, each of them hashed")
    times = f"made {canonical.stamp(statement.created)}, valid until {canonical.stamp(statement.expires)}"
    yield Line("Validity", "good", "in time", times)
    serial = f"serial {statement.serial} of stream {statement.stream}"
    if any(entry.topic == "Rollback" for entry in assessment.not_checked):
        yield Line("Rollback", "unknown", "not assessed", f"{serial}; whether it is older than one accepted before was not checked")
    else:
        yield Line("Rollback", "good", "not older", f"{serial}; this site has accepted none that is newer")
    yield _agreement(proof)
    yield from _upstream(proof)
    yield _checks(proof)
    yield vulnerabilities(assessment, proof)
    yield from _contents(proof)
    yield _installed(proof)


def has_something(verdict: Verdict) -> bool:
    """Say whether there is more to tell than that a wheel has no attestation and nobody asks for one."""
    return verdict.sort != "wheel" or verdict.rule is not None or bool(verdict.seen)


def vulnerabilities(assessment: Assessment, proof: Proof) -> Line:
    """Return the line on vulnerabilities, in the words in which the assessment says what was not compared."""
    found, counts = proof.vulnerabilities, proof.vulnerabilities.counts
    if not found.consulted:
        reasons = [entry.text.removeprefix("Not assessed: ") for entry in assessment.not_checked if entry.topic == "Vulnerabilities"]
        return Line("Vulnerabilities", "unknown", "not assessed", " ".join(reasons) or "why is not stated")
    stood = f"{counts['affected']:,} affected, {counts['none known']:,} none known, {counts['not assessed']:,} not assessed"
    word = "advisory stands" if len(found.standing) == 1 else "advisories stand"
    rest = f"{len(found.standing):,} {word}; of {len(found.items):,} items: {stood}"
    if found.standing:
        return Line("Vulnerabilities", "bad", "found", rest)
    if counts["not assessed"]:
        return Line("Vulnerabilities", "unknown", "partly not assessed", rest)
    if not found.items:
        return Line("Vulnerabilities", "unknown", "nothing to examine", rest)
    return Line("Vulnerabilities", "good", "none known", rest)


def _agreement(proof: Proof) -> Line:
    if proof.inventory.disagreements:
        count = counted(len(proof.inventory.disagreements), "disagreement")
        return Line("Lock and content", "bad", "disagree", f"{count} between the signed lock and the signed index, named below")
    if proof.inventory.lock_sha256 is None:
        return Line("Lock and content", "unknown", "not assessed", "the signed lock could not be read")
    return Line("Lock and content", "good", "agree", "every component is exactly what the signed lock pins")


def _upstream(proof: Proof) -> Iterator[Line]:
    """Tell how what upstream signed ended, the worst first."""
    if not proof.upstream:
        return
    counts = Counter((verdict.result, verdict.sort) for verdict in proof.upstream)
    order = list(UPSTREAM)
    ended = sorted(counts, key=lambda end: (order.index(end[0]), get_args(Sort).index(end[1])))
    said = ", ".join(f"{counted(counts[result, sort], sort)} {result}" for result, sort in ended)
    worst = next(result for result in UPSTREAM if any(verdict.fate == result for verdict in proof.upstream))
    outcome = {"good": "signed", "nobody named": "not assessed"}.get(worst, worst)
    yield Line("Upstream signatures", UPSTREAM[worst], outcome, said)


def _checks(proof: Proof) -> Line:
    gate, examined = proof.gate, sum(result.examined for result in proof.results)
    unread = f", {len(gate.not_assessed)} not assessed" if gate.not_assessed else ""
    waived = f", {counted(len(gate.waived), 'finding')} waived" if gate.waived else ""
    ran = f"{counted(len(proof.results), 'check')}, {counted(examined, 'file')} examined{unread}{waived}"
    if gate.refused:
        return Line("Checks", "bad", "findings", f"{counted(len(gate.refused), 'finding')} at or above the gate; {ran}")
    if gate.not_assessed:
        return Line("Checks", "unknown", "partly not assessed", ran)
    if gate.warned:
        return Line("Checks", "warn", "warnings", f"{counted(len(gate.warned), 'finding')} below the gate or accepted by it; {ran}")
    if gate.waived:
        return Line("Checks", "warn", "waived", ran)
    return Line("Checks", "good", "nothing found", ran) if examined else Line("Checks", "unknown", "nothing to examine", ran)


def _contents(proof: Proof) -> Iterator[Line]:
    items = [item for item in proof.inventory.items if item.what in JUDGED]
    stated = sum(bool(item.licences) for item in items)
    yield Line("Licences", "unknown", "recorded, not judged", f"stated for {stated:,} of {len(items):,} packages, models and images")
    yield from _images(proof)
    if proof.inventory.unreadable:
        yield Line("Inventory", "unknown", "partly not assessed", f"{counted(len(proof.inventory.unreadable), 'item')} could not be read")


def _images(proof: Proof) -> Iterator[Line]:
    images = [item for item in proof.inventory.items if item.what == "image" and item.path is None]
    inside = sum(item.what == "package" and item.sha256 is None for item in proof.inventory.items)
    opened = sum(item.coverage.reading == "read" for item in images)
    if images and opened == len(images):
        said = f"{counted(inside, 'package')} inside {counted(opened, 'image')}; what no package owns is counted, not judged"
        yield Line("Image contents", "unknown", "listed, not judged", said)
    elif images:
        said = f"{opened} of {counted(len(images), 'image')} read as a whole; {counted(inside, 'package')} found inside"
        yield Line("Image contents", "unknown", "partly not assessed", said)


def _installed(proof: Proof) -> Line:
    if proof.drift is None:
        return Line("What is installed", "unknown", "not compared", "this report is about the bundle only")
    mood = DRIFT.get(proof.drift.exit_code, "unknown")
    return Line("What is installed", mood, proof.drift.outcome, counted(len(proof.drift.notes), "difference"))
