"""The words and moods of the report: how a verdict, a step, a signature and a severity are called, and which colour repeats it."""

from __future__ import annotations

from typing import Literal

from audit.evidence.assessment import Assessment

Mood = Literal["good", "bad", "warn", "unknown", "neutral"]
WORDS: dict[int, tuple[Mood, str, str]] = {
    0: ("good", "Proved", "Every byte of this bundle is what its signers signed, and the policy of this site accepts them."),
    3: ("bad", "Refused", "Do not install this bundle. It is not proved, so nothing is said about what is in it."),
    4: ("warn", "Proved, with findings", "The bytes are what the signers signed. What was found in them or at the site needs a decision."),
    5: ("warn", "Proved, partly not assessed", "The bytes are what the signers signed. Not all could be assessed that should have been."),
}
UPSTREAM: dict[str, Mood] = {  # the worst first
    "wrong": "bad",
    "missing": "bad",
    "unverifiable": "unknown",
    "nobody named": "unknown",
    "good": "good",
}
SEEN: dict[str, Mood] = {"wrong": "bad", "unverifiable": "unknown", "good": "good", "not asked for": "neutral", "unsigned": "neutral"}
STEPS: dict[str, Mood] = {"passed": "good", "refused": "bad", "findings": "bad", "not begun": "unknown", "not judged": "unknown"}
CHECKS: dict[str, Mood] = {"findings": "warn", "not assessed": "unknown", "nothing found": "good", "nothing to examine": "unknown"}
READING: dict[str, Mood] = {"read": "good", "listed": "neutral", "unreadable": "warn"}
SEVERITY: dict[str, Mood] = {  # the gravest first; also the order of bars and tables
    "critical": "bad",
    "high": "bad",
    "medium": "warn",
    "low": "neutral",
    "info": "neutral",
    "none": "neutral",
    "unknown": "unknown",
}
DRIFT: dict[int, Mood] = {0: "good", 3: "bad", 4: "bad"}
MOODS = {"upstream": UPSTREAM, "seen": SEEN, "step": STEPS, "check": CHECKS, "reading": READING, "severity": SEVERITY, "drift": DRIFT}


def verdict(assessment: Assessment) -> tuple[Mood, str, str]:
    """Return mood, name and meaning of the verdict; what was proved and has drifted since is proved, with findings."""
    return WORDS[4 if assessment.proof and assessment.exit_code == 3 else assessment.exit_code]  # noqa: PLR2004 - drift
