"""Which controls of which frameworks an assessment supports, by data: ``manifests/data/controls/*.json``, one file for a framework.

A control names what it rests on: a step of verification (``step:6``), a check (``check:pickles``) or a fact about the whole
(``fact:inventory``). All that it ``needs`` must hold; what it names ``also`` counts only where it speaks against it.

Rules: never more than "supports" - whether a control is met is for people who see the rest of the system; each control says what the
evidence does not show; a step that was not begun, a check that could not read all, or data that is missing, is "not assessed".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from audit import checks
from audit.checks import CheckResult
from audit.evidence.assessment import Assessment, Proof
from audit.verify import steps
from audit.verify.slsa import claim
from manifests import canonical
from manifests.errors import InvalidFileError
from manifests.lock import Frozen, parse_model
from manifests.policy import Policy

State = Literal["supported", "not supported", "not assessed"]
Strength = Literal["direct", "partial", "context"]
Answer = tuple[State, str]
FOLDER = "data/controls"
NIST = "nist-800-53r5"
MAX_DATA = 1 << 20  # bytes of one framework
NOT_OPENED = "a refused bundle is not opened"

Reference = Annotated[str, Field(pattern=r"^(step:[1-8]|check:[a-z][a-z0-9-]*|fact:[a-z][a-z0-9-]*)$")]
Sentence = Annotated[str, Field(min_length=10, max_length=300, pattern=r"^[^\x00-\x1f]*\.$")]


class Control(Frozen):
    """One control: its official ``id``, that id as OSCAL writes it, and what of ours supports it.

    ``shows`` says what the evidence is, ``gap`` what it does not show.
    """

    id: str = Field(min_length=1, max_length=60)
    token: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9._-]*$")
    title: str = Field(min_length=1, max_length=160)
    strength: Strength
    needs: tuple[Reference, ...] = Field(min_length=1, strict=False)
    also: tuple[Reference, ...] = Field(default=(), strict=False)
    shows: Sentence
    gap: Sentence


class Framework(Frozen):
    """A framework with those of its controls for which this tool has evidence; ``release`` is the one its ids were taken from."""

    framework: str = Field(pattern=r"^[a-z0-9-]+$")
    title: str = Field(min_length=1)
    release: str = Field(min_length=1)
    source: str = Field(pattern=r"^https://")
    note: Sentence
    controls: tuple[Control, ...] = Field(min_length=1, strict=False)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for names in ([control.id for control in self.controls], [control.token for control in self.controls]):
            if len(set(names)) != len(names):
                raise ValueError("a control stands twice")
        return self


@dataclass(frozen=True, slots=True)
class Reason:
    """What became of one thing a control rests on, in a sentence."""

    reference: str
    state: State
    text: str


@dataclass(frozen=True, slots=True)
class Support:
    """What an assessment says for one control."""

    framework: Framework
    control: Control
    state: State
    reasons: tuple[Reason, ...]

    @property
    def why(self) -> str:
        """Return the reasons for the state in one text; where it is supported, all of them."""
        return "; ".join(reason.text for reason in self.reasons if reason.state == self.state)


def supported(assessment: Assessment) -> tuple[Support, ...]:
    """Return what the assessment says for every control of every framework, in the order of the data."""
    known: dict[str, Answer] = {}

    def answer(reference: str) -> Answer:
        if reference not in known:
            known[reference] = _answer(reference, assessment)
        return known[reference]

    return tuple(_support(framework, control, answer) for framework in frameworks() for control in framework.controls)


@functools.cache
def frameworks() -> tuple[Framework, ...]:
    """Return all frameworks, sorted by name; raises InvalidFileError where one names a step, check or fact that does not exist."""
    folder = resources.files("manifests").joinpath(FOLDER)
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda file: file.name)
    return tuple(parse(file.read_bytes(), file.name) for file in files)


def parse(raw: bytes, what: str) -> Framework:
    """Read the data of one framework; raises InvalidFileError."""
    found = parse_model(Framework, canonical.parse(raw, what, limit=MAX_DATA), what, "correct the data of the framework")
    there = references()
    for control in found.controls:
        for reference in (*control.needs, *control.also):
            if reference not in there:
                raise InvalidFileError(f"{what}: {control.id} names {reference!r}, which does not exist", hint="correct the data")
    return found


@functools.cache
def references() -> frozenset[str]:
    """Return everything that a control can rest on."""
    ids = (checks.load(name).ID for name in checks.names())
    return frozenset((
        *(f"step:{number}" for number in range(1, len(steps.STEPS) + 1)),
        *(f"check:{name}" for name in ids),
        *(f"fact:{name}" for name in FACTS),
    ))


def _support(framework: Framework, control: Control, answer: Callable[[str], Answer]) -> Support:
    needed = [Reason(reference, *answer(reference)) for reference in control.needs]
    other = [Reason(reference, *answer(reference)) for reference in control.also]
    reasons = (*needed, *(reason for reason in other if reason.state != "not assessed"))
    return Support(framework, control, _worst(reason.state for reason in reasons), reasons)


def _worst(states: Iterable[State]) -> State:
    found = set(states)
    if "not supported" in found:
        return "not supported"
    return "not assessed" if "not assessed" in found or not found else "supported"


def _answer(reference: str, assessment: Assessment) -> Answer:
    sort, _, name = reference.partition(":")
    if sort == "step":
        return _step(int(name), assessment)
    if assessment.proof is None:
        return "not assessed", f"{name}: {NOT_OPENED}"
    return _check(name, assessment.proof) if sort == "check" else FACTS[name](assessment.proof)


def _step(number: int, assessment: Assessment) -> Answer:
    drift = assessment.proof.drift if assessment.proof else None
    if number == steps.USE and drift is not None and drift.exit_code:
        return _installed(drift.outcome, drift.exit_code)
    step = next((step for step in assessment.steps if step.number == number), None)
    if step is None:
        return "not assessed", f"step {number}: refused for a reason that belongs to no step"
    text = f"step {number}, {step.what}: {step.outcome}"
    if step.outcome == "passed":
        return "supported", text
    return ("not supported" if step.outcome in {"refused", "findings"} else "not assessed"), text


def _check(name: str, proof: Proof) -> Answer:
    result = next((result for result in proof.results if result.id == name), None)
    if result is None:
        return "not assessed", f"check {name}: was not run"
    refused = sum(finding.id == name for finding in proof.gate.refused)
    if refused:
        return "not supported", f"check {name}: {refused} findings that the gate refuses"
    if result.not_assessed:
        return "not assessed", f"check {name}: {len(result.not_assessed)} not assessed"
    if not result.examined and not result.findings:
        return "not assessed", f"check {name}: there was nothing to examine"
    return "supported", _examined(result)


def _examined(result: CheckResult) -> str:
    let_through = f", {len(result.findings)} findings let through by the gate or a waiver" if result.findings else ", nothing found"
    return f"check {result.id}: {result.examined} examined{let_through}"


def _inventory(proof: Proof) -> Answer:
    found = proof.inventory
    if found.disagreements:
        return "not supported", f"inventory: the signed lock and the index disagree on {len(found.disagreements)}"
    if found.gaps or found.lock_sha256 is None:
        return "not assessed", "inventory: the signed lock could not be read"
    if found.unreadable:
        return "not assessed", f"inventory: {len(found.unreadable)} of {len(found.items)} items could not be read"
    return "supported", f"inventory: {len(found.items)} items in {len(found.components)} components, as the signed lock says"


def _drift(proof: Proof) -> Answer:
    if proof.drift is None:
        return "not assessed", "what is installed was not compared"
    return _installed(proof.drift.outcome, proof.drift.exit_code)


def _installed(outcome: str, code: int) -> Answer:
    state: State = {0: "supported", 5: "not assessed"}.get(code, "not supported")  # type: ignore[assignment]
    return state, f"what is installed: {outcome}"


def _rollback(proof: Proof) -> Answer:
    if proof.remembered:
        return "supported", "rollback: this site remembers an earlier bundle of the stream, and this one is not older"
    return "not assessed", "rollback: no earlier bundle of the stream is remembered here"


def _origins(proof: Proof) -> Answer:
    wholes = proof.inventory.components
    stated = sum(item.origin is not None for item in wholes)
    if proof.inventory.disagreements:
        return "not supported", "origins: the signed lock, which states them, disagrees with the index"
    text = f"origins: stated for {stated} of {len(wholes)} components"
    return ("supported" if wholes and stated == len(wholes) else "not assessed"), text


def _licences(proof: Proof) -> Answer:
    asked = [item for item in proof.inventory.items if item.what in {"model", "package", "image"}]
    stated = sum(bool(item.licences or item.concluded) for item in asked)
    return ("supported" if asked and stated == len(asked) else "not assessed"), f"licences: recorded for {stated} of {len(asked)} items"


def _results(proof: Proof) -> Answer:
    if not proof.results:
        return "not assessed", "results: no check was run"
    return "supported", f"results: {len(steps.STEPS)} steps and {len(proof.results)} checks state what became of them"


def _journal(_proof: Proof) -> Answer:
    return "not assessed", "journal: not part of an assessment; `airgap-audit journal verify` proves it"


def _slsa(level: int) -> Callable[[Proof], Answer]:
    def judged(proof: Proof) -> Answer:
        policy = Policy.parse(proof.bundle.policy_raw)
        if not policy.slsa:
            return "not assessed", "SLSA: the policy believes no build platform"
        found = claim(proof.bundle, policy)
        return ("supported" if found.level >= level else "not supported"), f"SLSA: {found.reason}"

    return judged


FACTS: dict[str, Callable[[Proof], Answer]] = {
    "inventory": _inventory,
    "installed": _drift,
    "rollback": _rollback,
    "origins": _origins,
    "licences": _licences,
    "results": _results,
    "journal": _journal,
    "slsa-build-1": _slsa(1),
    "slsa-build-2": _slsa(2),
    "slsa-build-3": _slsa(3),
}
