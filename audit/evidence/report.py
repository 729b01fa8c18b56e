"""The report for people: one HTML file that needs nothing else, on screen, in the dark and on paper.

Rules: the verdict first, then what was not checked, then the tables; no script, no outside resource (the file forbids itself both);
every text is escaped by the template engine and loses control characters, among them those that reverse the direction
of writing; addresses are text, never links; colour only repeats what a word says.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from audit.evidence import replay
from audit.evidence.assessment import Assessment, Proof
from audit.evidence.item import File, Item
from audit.evidence.verification import verification_json
from audit.verify.verdict import Sort, Verdict
from manifests import canonical
from manifests.paths import printable

MAX_ROWS = 5000  # packages of one component in the report; all are in verification.json
MAX_FILES = 200  # files of one component in the report
MAX_TEXT = 4000  # characters of one cell

Mood = Literal["good", "bad", "warn", "unknown"]
WORDS: dict[int, tuple[Mood, str, str]] = {
    0: ("good", "Proved", "Every byte of this bundle is what its signers signed, and the policy of this site accepts them."),
    3: ("bad", "Refused", "Do not install this bundle. It is not proved, so nothing is said about what is in it."),
    4: ("warn", "Proved, with findings", "The bytes are what the signers signed. What was found in them or at the site needs a decision."),
    5: ("warn", "Proved, partly not assessed", "The bytes are what the signers signed. Not all could be assessed that should have been."),
}

UPSTREAM_MOODS: dict[str, Mood] = {  # the worst first
    "wrong": "bad",
    "missing": "bad",
    "unverifiable": "unknown",
    "nobody named": "unknown",
    "good": "good",
}
SEEN_MOODS: dict[str, Mood | Literal["neutral"]] = {
    "wrong": "bad", "unverifiable": "unknown", "good": "good", "not asked for": "neutral", "unsigned": "neutral"
}  # fmt: skip
STEP_MOODS: dict[str, Mood] = {"passed": "good", "refused": "bad", "findings": "bad", "not begun": "unknown", "not judged": "unknown"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the summary: what was asked, how it ended, and the facts behind it."""

    topic: str
    mood: Mood
    outcome: str
    detail: str


@dataclass(frozen=True, slots=True)
class Group:
    """A component with what is listed of it; the ``more`` numbers say what the report leaves to ``verification.json``."""

    whole: Item
    packages: tuple[Item, ...]
    more_packages: int
    files: tuple[File, ...]
    more_files: int


def html(assessment: Assessment) -> bytes:
    """Return the report; the same assessment is always the same bytes."""
    mood, verdict, meaning = WORDS[4 if assessment.proof and assessment.exit_code == 3 else assessment.exit_code]  # noqa: PLR2004 - drift
    proof = assessment.proof
    text = _environment().get_template("report.html.j2").render(
        assessment=assessment,
        proof=proof,
        bundle=proof.bundle if proof else None,
        mood=mood,
        verdict=verdict,
        meaning=meaning,
        summary=tuple(_summary(assessment, proof)) if proof else (),
        not_checked=_by_topic(assessment),
        groups=tuple(_groups(proof)) if proof else (),
        judged=tuple(verdict for verdict in proof.upstream if _has_something(verdict)) if proof else (),
        unattested=Counter(verdict.component for verdict in proof.upstream if not _has_something(verdict)) if proof else {},
        upstream_moods=UPSTREAM_MOODS,
        seen_moods=SEEN_MOODS,
        step_moods=STEP_MOODS,
        steps=replay.steps(proof.bundle) if proof else (),
        canonical_sha256=hashlib.sha256(verification_json(assessment)).hexdigest(),
    )
    return text.encode("utf-8", "backslashreplace")


def size(count: int) -> str:
    """Write a number of bytes with a binary unit."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:  # noqa: PLR2004 - binary units
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("audit.evidence"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"size": size, "stamp": canonical.stamp, "number": "{:,}".format}
    made.filters["inside_type"] = lambda facts: dict(facts).get("type", "")
    return made


def _clean(value: Any) -> Any:
    """Drop control characters from every text that is put into the page; markup of the template itself stays."""
    return printable(value, MAX_TEXT) if isinstance(value, str) and not isinstance(value, Markup) else value


def _by_topic(assessment: Assessment) -> tuple[tuple[str, tuple[str, ...]], ...]:
    ordered = groupby(assessment.not_checked, key=lambda entry: entry.topic)
    return tuple((topic, tuple(entry.text for entry in entries)) for topic, entries in ordered)


def _groups(proof: Proof) -> Iterator[Group]:
    for _, members in groupby(proof.inventory.items, key=lambda item: item.component):
        whole, *packages = members
        yield Group(
            whole,
            tuple(packages[:MAX_ROWS]),
            max(0, len(packages) - MAX_ROWS),
            whole.files[:MAX_FILES],
            max(0, len(whole.files) - MAX_FILES),
        )


def _summary(assessment: Assessment, proof: Proof) -> Iterator[Line]:
    bundle, statement = proof.bundle, proof.bundle.statement
    signers = f"{_count(len(bundle.signatures), 'signer')} of policy version {bundle.policy_version}"
    total = size(sum(count for _, count in bundle.blobs))
    yield Line("Signatures", "good", "accepted", f"{signers}: {', '.join(entry.signer for entry in bundle.signatures)}")
    yield Line("Bytes", "good", "all as signed", f"{_count(len(bundle.blobs), 'blob')}, {total}, each of them hashed")
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
    yield from _contents(proof)
    yield _installed(proof)


def _agreement(proof: Proof) -> Line:
    if proof.inventory.disagreements:
        count = _count(len(proof.inventory.disagreements), "disagreement")
        return Line("Lock and content", "bad", "disagree", f"{count} between the signed lock and the signed index, named below")
    if proof.inventory.lock_sha256 is None:
        return Line("Lock and content", "unknown", "not assessed", "the signed lock could not be read")
    return Line("Lock and content", "good", "agree", "every component is exactly what the signed lock pins")


def _upstream(proof: Proof) -> Iterator[Line]:
    """Tell how what upstream signed ended, the worst first."""
    if not proof.upstream:
        return
    counts = Counter((verdict.result, verdict.sort) for verdict in proof.upstream)
    order = list(UPSTREAM_MOODS)
    ended = sorted(counts, key=lambda end: (order.index(end[0]), get_args(Sort).index(end[1])))
    said = ", ".join(f"{_count(counts[result, sort], sort)} {result}" for result, sort in ended)
    worst = next(result for result in UPSTREAM_MOODS if any(verdict.fate == result for verdict in proof.upstream))
    outcome = {"good": "signed", "nobody named": "not assessed"}.get(worst, worst)
    yield Line("Upstream signatures", UPSTREAM_MOODS[worst], outcome, said)


def _has_something(verdict: Verdict) -> bool:
    """Say whether there is more to tell than that a wheel has no attestation and nobody asks for one."""
    return verdict.sort != "wheel" or verdict.rule is not None or bool(verdict.seen)


def _checks(proof: Proof) -> Line:
    gate, examined = proof.gate, sum(result.examined for result in proof.results)
    unread = f", {len(gate.not_assessed)} not assessed" if gate.not_assessed else ""
    ran = f"{_count(len(proof.results), 'check')}, {_count(examined, 'file')} examined{unread}"
    if gate.refused:
        return Line("Checks", "bad", "findings", f"{_count(len(gate.refused), 'finding')} at or above the gate; {ran}")
    if gate.not_assessed:
        return Line("Checks", "unknown", "partly not assessed", ran)
    if gate.warned:
        return Line("Checks", "warn", "warnings", f"{_count(len(gate.warned), 'finding')} below the gate or accepted by it; {ran}")
    return Line("Checks", "good", "nothing found", ran) if examined else Line("Checks", "unknown", "nothing to examine", ran)


def _contents(proof: Proof) -> Iterator[Line]:
    items = [item for item in proof.inventory.items if item.what in {"model", "package", "image"}]
    stated = sum(bool(item.licences) for item in items)
    yield Line("Vulnerabilities", "unknown", "not assessed", "no vulnerability data was consulted")
    yield Line("Licences", "unknown", "recorded, not judged", f"stated for {stated} of {len(items)} packages, models and images")
    yield from _images(proof)
    if proof.inventory.unreadable:
        yield Line("Inventory", "unknown", "partly not assessed", f"{_count(len(proof.inventory.unreadable), 'item')} could not be read")


def _images(proof: Proof) -> Iterator[Line]:
    images = [item for item in proof.inventory.items if item.what == "image" and item.path is None]
    inside = sum(item.what == "package" and item.sha256 is None for item in proof.inventory.items)
    opened = sum(item.coverage.reading == "read" for item in images)
    if images and opened == len(images):
        said = f"{_count(inside, 'package')} inside {_count(opened, 'image')}; what no package owns is counted, not judged"
        yield Line("Image contents", "unknown", "listed, not judged", said)
    elif images:
        said = f"{opened} of {_count(len(images), 'image')} read as a whole; {_count(inside, 'package')} found inside"
        yield Line("Image contents", "unknown", "partly not assessed", said)


def _installed(proof: Proof) -> Line:
    if proof.drift is None:
        return Line("What is installed", "unknown", "not compared", "this report is about the bundle only")
    mood: Mood = {0: "good", 3: "bad", 4: "bad"}.get(proof.drift.exit_code, "unknown")  # type: ignore[assignment]
    return Line("What is installed", mood, proof.drift.outcome, _count(len(proof.drift.notes), "difference"))


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
