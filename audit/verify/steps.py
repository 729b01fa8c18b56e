"""The eight steps of verification as ``docs/trust.md`` numbers them, and what became of each. Values in, values out.

Rules: a step begins when those before it found nothing; so where something was refused, the steps before the first rule that was
broken passed, and those after the last one were not begun.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from audit.verify.verdict import Verdict

Outcome = Literal["passed", "refused", "not begun", "not judged", "findings"]
STEPS = (
    "the policy is valid and may be used here",
    "the root files are regular files and were hashed",
    "every signature file is one signature",
    "enough signers of the policy signed exactly these root files",
    "stream, serial, times and revocation allow this bundle now",
    "structure and content: every byte is what was signed",
    "upstream evidence of what other people made",
    "use: installed from the very bytes that were proven",
)
PROVEN = 6  # steps that a bundle has passed when it is proven
UPSTREAM, USE = 7, 8


@dataclass(frozen=True, slots=True)
class Step:
    """One step, by its number in ``docs/trust.md``, and what became of it."""

    number: int
    what: str
    outcome: Outcome


def of_proof(verdicts: Iterable[Verdict], *, used: bool = False) -> tuple[Step, ...]:
    """Return the steps of a proven bundle; ``verdicts`` are those over what is signed upstream, ``used`` says that it was installed."""
    ends: dict[int, Outcome] = dict.fromkeys(range(1, PROVEN + 1), "passed")
    ends |= {UPSTREAM: _upstream({verdict.fate for verdict in verdicts}), USE: "passed" if used else "not begun"}
    return tuple(Step(number, what, ends[number]) for number, what in enumerate(STEPS, 1))


def of_refusal(rules: Iterable[str | None]) -> tuple[Step, ...]:
    """Return the steps of a refusal by ``rules``; none if no rule is named, because then nothing is known of any."""
    broken = {int(rule.partition(".")[0]) for rule in rules if rule}
    if not broken:
        return ()
    return tuple(Step(number, what, _refused(number, broken)) for number, what in enumerate(STEPS, 1))


def as_json(step: Step) -> dict[str, Any]:
    """Return a step as plain JSON values."""
    return {"step": step.number, "what": step.what, "outcome": step.outcome}


def _upstream(results: set[str]) -> Outcome:
    judged = results - {"nobody named"}
    if not judged:
        return "not judged"
    return "passed" if judged == {"good"} else "findings"


def _refused(number: int, broken: set[int]) -> Outcome:
    if number in broken:
        return "refused"
    return "passed" if number < min(broken) else "not begun"
