"""The report for people: one HTML file that needs nothing else, on screen, in the dark and on paper.

Rules: the verdict first, and beside it what was not checked and who signed, then the tables; no outside resource; a few lines of
script only filter what is there already; addresses are text, never links; colour only repeats what a word says; what is
not assessed is called that, in every section.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from audit.checks import SEVERITIES
from audit.evidence import replay
from audit.evidence.assessment import Assessment, Proof
from audit.evidence.item import File, Item
from audit.evidence.quality.document import quality
from audit.evidence.report.charts import bar
from audit.evidence.report.custody import chains
from audit.evidence.report.known import known
from audit.evidence.report.licensing import licences
from audit.evidence.report.page import render
from audit.evidence.report.standards import standards
from audit.evidence.report.summary import has_something, lines, tiles, unchecked
from audit.evidence.report.words import MOODS, verdict
from audit.evidence.verification import verification_json
from manifests import canonical
from manifests.policy import Policy

MAX_ROWS = 50_000  # packages of one component in the report; all are in verification.json
MAX_FILES = 1000  # files of one component in the report
PAGE_ROWS = 500  # rows that are opened at once
MAX_GAPS = 20  # of one field of a score named in the report; all are in sbom-quality.json
OPEN_ROWS = 60  # rows up to which a table is open from the start


@dataclass(frozen=True, slots=True)
class Rows:
    """Some packages of a component, between the first and the last name, opened at once."""

    packages: tuple[Item, ...]

    @property
    def title(self) -> str:
        """Say from which name to which."""
        return f"{self.packages[0].name} to {self.packages[-1].name}"


@dataclass(frozen=True, slots=True)
class Group:
    """A component with what is listed of it; the ``more`` numbers say what the report leaves to ``verification.json``."""

    whole: Item
    packages: tuple[Rows, ...]
    count: int
    more_packages: int
    files: tuple[File, ...]
    more_files: int


def html(assessment: Assessment, author: str | None = None, sha256: str | None = None) -> bytes:
    """Return the report; the same assessment is always the same bytes.

    ``author`` is the URI of who signs the SBOM, if anybody does; ``sha256`` (hex) is that of ``verification.json``, if it is known already.
    """
    mood, name, meaning = verdict(assessment)
    return render(
        "report.html.j2",
        "report.css.j2",
        "report.js.j2",
        assessment=assessment,
        proof=assessment.proof,
        mood=mood,
        verdict=name,
        meaning=meaning,
        unchecked=unchecked(assessment),
        not_checked=_by_topic(assessment),
        moods=MOODS,
        canonical_sha256=sha256 or hashlib.sha256(verification_json(assessment)).hexdigest(),
        **(_proved(assessment, assessment.proof, author) if assessment.proof else {}),
    )


def _proved(assessment: Assessment, proof: Proof, author: str | None) -> dict[str, Any]:
    return {
        "bundle": proof.bundle,
        "rule": _rule(proof),
        "summary": tuple(lines(assessment, proof)),
        "tiles": tuple(tiles(proof)),
        "groups": tuple(_groups(proof)),
        "open_rows": OPEN_ROWS,
        "judged": tuple(verdict for verdict in proof.upstream if has_something(verdict)),
        "unattested": Counter(verdict.component for verdict in proof.upstream if not has_something(verdict)),
        "severities": _severities(proof),
        "unused": _unused(proof, assessment),
        "chains": tuple(chains(proof)),
        "known": known(proof, assessment.time),
        "licences_of": licences(proof),
        "standards": standards(assessment),
        "scores": quality(assessment, author),
        "max_gaps": MAX_GAPS,
        "steps": replay.steps(proof.bundle),
    }


def _rule(proof: Proof) -> str:
    """Say how many of whom the policy asks for."""
    policy = proof.policy or Policy.parse(proof.bundle.policy_raw)
    role = policy.roles.bundle
    groups = "".join(f", and one of {', '.join(group)}" for group in role.require_any_of)
    both = ", with P-384 and ML-DSA-87 both" if policy.profile == "cnsa" else ""
    return f"Policy version {policy.version} asks for {role.threshold} of {', '.join(role.signers)}{groups}{both}."


def _by_topic(assessment: Assessment) -> tuple[tuple[str, tuple[str, ...]], ...]:
    ordered = groupby(assessment.not_checked, key=lambda entry: entry.topic)
    return tuple((topic, tuple(entry.text for entry in entries)) for topic, entries in ordered)


def _groups(proof: Proof) -> Iterator[Group]:
    for _, members in groupby(proof.inventory.items, key=lambda item: item.component):
        whole, *packages = members
        yield Group(
            whole,
            tuple(_pages(packages[:MAX_ROWS])),
            len(packages),
            max(0, len(packages) - MAX_ROWS),
            whole.files[:MAX_FILES],
            max(0, len(whole.files) - MAX_FILES),
        )


def _pages(packages: Sequence[Item]) -> Iterator[Rows]:
    for at in range(0, len(packages), PAGE_ROWS):
        yield Rows(tuple(packages[at : at + PAGE_ROWS]))


def _severities(proof: Proof) -> Any:
    counts = Counter(finding.severity for finding in (*proof.gate.refused, *proof.gate.warned))
    return bar("Findings that are not waived", ((name, f"severity-{name}", counts[name]) for name in reversed(SEVERITIES)))


def _unused(proof: Proof, assessment: Assessment) -> tuple[tuple[Any, str], ...]:
    """Return the waivers of the policy that waive nothing here, and why."""
    used = {waiver.means for _, waiver in proof.gate.waived}
    rest = [waiver for waiver in (proof.policy.waivers if proof.policy else ()) if waiver.means not in used]
    over = {waiver.means for waiver in rest if assessment.time >= canonical.moment(waiver.expires)}
    return tuple((waiver, "expired" if waiver.means in over else "means nothing that was found here") for waiver in rest)
