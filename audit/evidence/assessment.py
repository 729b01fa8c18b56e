"""The one value that all evidence is a projection of: what was proved, what was found, and what was not checked.

Rules: a refused bundle has no proof, hence no inventory and no claim; "not assessed" is kept apart from "nothing found";
time, tool and everything that was read come in as arguments, so that one assessment always gives the same files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from airgap_images.oci import Digest
from audit.checks import CheckResult, Gate, told
from audit.evidence.images import NOT_READ
from audit.evidence.inventory import Inventory
from audit.verify import steps
from audit.verify.result import VerifiedBundle
from audit.verify.steps import Step
from audit.verify.trust import Memory
from audit.verify.verdict import Verdict as ImageVerdict
from audit.vulnerabilities.result import NONE, Vulnerabilities
from manifests.errors import AirgapError, RefusedError
from manifests.paths import printable
from manifests.policy import Policy

Verdict = Literal["proved", "refused"]
NO_DATA = "no vulnerability data came with this bundle or was imported at this site, so nothing was compared with any."
MAX_NAMED = 20  # things of one topic named one by one in ``not_checked``; the tables name all


class Drift(Protocol):
    """What is installed, compared with the receipt of its installation."""

    @property
    def outcome(self) -> str:
        """In a word or two: how it ended."""

    @property
    def exit_code(self) -> int:
        """0 if it is as installed, 3 if it differs, 5 if something could not be compared."""

    @property
    def notes(self) -> tuple[tuple[str, str, str], ...]:
        """Each difference, or thing that could not be compared, as (kind, subject, message)."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One reason why a bundle is refused, what to do about it, and the rule of ``docs/trust.md`` it is by."""

    message: str
    hint: str
    rule: str | None = None


@dataclass(frozen=True, slots=True)
class NotChecked:
    """One thing nobody should believe was checked."""

    topic: str
    text: str


@dataclass(frozen=True, slots=True)
class Proof:
    """A proved bundle with everything that was found in it; ``upstream`` is the verdict over each image, model and wheel.

    ``remembered`` says that an earlier bundle of the stream was known, so that going back would have been noticed.
    """

    bundle: VerifiedBundle
    results: tuple[CheckResult, ...]
    gate: Gate
    inventory: Inventory
    drift: Drift | None
    upstream: tuple[ImageVerdict, ...] = ()
    remembered: bool = False
    vulnerabilities: Vulnerabilities = NONE
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class Assessment:
    """The result. ``place`` is what was assessed as the user named it; ``tool`` is (name, version); made by the functions below."""

    place: str
    proof: Proof | None
    failures: tuple[Failure, ...]
    not_checked: tuple[NotChecked, ...]
    policy_sha256: str | None
    tool: tuple[str, str]
    time: datetime

    @property
    def verdict(self) -> Verdict:
        """Say whether the signers' bytes were proved; findings and drift are further results, see ``exit_code``."""
        return "proved" if self.proof else "refused"

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return what became of each step of verification; the last one passed if what is installed is as it was installed."""
        if self.proof is None:
            return steps.of_refusal(failure.rule for failure in self.failures)
        return steps.of_proof(self.proof.upstream, used=self.proof.drift is not None and self.proof.drift.exit_code == 0)

    @property
    def exit_code(self) -> Literal[0, 3, 4, 5]:
        """Return 3 if refused or drifted, else 4 for findings or disagreement, else 5 if something could not be assessed, else 0."""
        if self.proof is None:
            return 3
        codes = {self.proof.gate.exit_code, self.proof.drift.exit_code if self.proof.drift else 0}
        if 3 in codes:  # noqa: PLR2004 - the exit codes of docs/commands.md
            return 3
        if 4 in codes or self.proof.inventory.disagreements:  # noqa: PLR2004
            return 4
        return 5 if codes - {0} or self.proof.inventory.gaps or self.proof.inventory.unreadable else 0


def proved(
    bundle: VerifiedBundle,
    results: Iterable[CheckResult],
    gate: Gate,
    *,
    inventory: Inventory,
    vulnerabilities: Vulnerabilities = NONE,
    policy: Policy | None = None,
    memory: Memory | None,
    drift: Drift | None,
    upstream: tuple[ImageVerdict, ...] = (),
    place: str,
    tool: tuple[str, str],
    now: datetime,
) -> Assessment:
    """Return the assessment of a proved bundle; ``memory`` is what it was verified against, None if no state was consulted."""
    known = memory is not None and memory.serial is not None
    proof = Proof(bundle, tuple(results), gate, inventory, drift, upstream, known, vulnerabilities, policy)
    return Assessment(place, proof, (), tuple(_not_checked(proof, memory)), bundle.policy_sha256, tool, now)


def refused(error: AirgapError, *, place: str, policy_raw: bytes | None, tool: tuple[str, str], now: datetime) -> Assessment:
    """Return the assessment of a bundle that ``verify`` refused with ``error``."""
    reasons = error.failures if isinstance(error, RefusedError) else (error,)
    failures = tuple(Failure(reason.message, reason.hint, reason.rule) for reason in reasons)
    unknown = (
        NotChecked("Everything else", "A refused bundle is not opened: no component, check, licence or inventory was assessed."),
        NotChecked("Further reasons", "The reasons are those that could be found; one that stops verification early can hide others."),
    )
    return Assessment(place, None, failures, unknown, Digest.of(policy_raw).hex if policy_raw is not None else None, tool, now)


def _not_checked(proof: Proof, memory: Memory | None) -> Iterator[NotChecked]:
    yield from _vulnerabilities(proof.vulnerabilities)
    yield NotChecked(
        "Licences",
        "Held against a table as somebody declared them. Nobody read sources or terms: whether this use, or passing the bundle on, is "
        "allowed is for people to decide.",
    )
    yield from _images(proof.inventory)
    yield from _going_back(proof, memory)
    if proof.drift is None:
        yield NotChecked("What is installed", "Not compared: this report is about the bundle, not about what runs at the site.")
    yield from (NotChecked("Verification", text) for text in proof.bundle.not_checked)
    yield from (NotChecked(f"Check “{result.title}”", text) for result in proof.results for text in result.limits)
    yield from _unread(proof)


def _vulnerabilities(found: Vulnerabilities) -> Iterator[NotChecked]:
    if not found.consulted:
        yield NotChecked("Vulnerabilities", f"Not assessed: {NO_DATA}")
        return
    counts = Counter(item.reason for item in found.items if item.status == "not assessed")
    for reason, count in counts.most_common():
        yield NotChecked("Vulnerabilities", f"Not assessed, {count} of {len(found.items)}: {reason}.")


def _images(inventory: Inventory) -> Iterator[NotChecked]:
    images = [item for item in inventory.items if item.what == "image"]
    if images:
        yield NotChecked(
            "Container images",
            "Of what is inside, only packages that a database or the program itself names are listed. Files that no package lists, "
            "and whether files are as their package made them, were not judged.",
        )
    unread = [f"{item.component}: {dict(item.facts)[NOT_READ]}" for item in images if NOT_READ in dict(item.facts)]
    if unread:
        yield NotChecked("Container images", f"Seen inside and not read by this version: {_named(unread, '; ')}.")
    closed = [item.component for item in images if item.path is None and item.coverage.reading == "listed"]
    if closed:
        yield NotChecked("Container images", f"No container images, so nothing inside was looked for: {_named(closed)}.")


def _going_back(proof: Proof, memory: Memory | None) -> Iterator[NotChecked]:
    statement = proof.bundle.statement
    if memory is None:
        yield NotChecked("Rollback", "The site's memory was not consulted: an older bundle than one accepted before would not be noticed.")
    elif memory.serial is None:
        yield NotChecked(
            "Rollback",
            f"This site remembers no earlier bundle of stream {statement.stream}: whether serial {statement.serial} is older than one "
            "accepted elsewhere or before was not checked.",
        )
    if memory is None or memory.last_seen is None:
        yield NotChecked("Time", "The clock of this machine was believed: a clock set back would let an expired bundle pass.")


def _unread(proof: Proof) -> Iterator[NotChecked]:
    for result in proof.results:
        if result.not_assessed:
            reasons = [told(note) for note in result.not_assessed]
            yield NotChecked(f"Check “{result.title}”", f"Not assessed, although it should have been: {_named(reasons, '; ')}.")
    yield from (NotChecked("Inventory", text) for text in proof.inventory.gaps)
    unreadable = proof.inventory.unreadable
    failed = [f"{item.component}{f'/{printable(item.path)}' if item.path else ''}: {item.coverage.reason}" for item in unreadable]
    if failed:
        yield NotChecked("Inventory", f"Not read, although it should have been: {_named(failed, '; ')}.")


def _named(texts: Iterable[str], between: str = ", ") -> str:
    found = tuple(texts)
    more = f" and {len(found) - MAX_NAMED} more, named in the tables" if len(found) > MAX_NAMED else ""
    return between.join(found[:MAX_NAMED]) + more
