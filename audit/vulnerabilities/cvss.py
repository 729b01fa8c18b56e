"""The base score of a CVSS v3.0 or v3.1 vector (FIRST, "CVSS v3.1 Specification", section 7.1) and the word for it (section 5).

Version 4.0 is a table of 270 scores, not a formula: of its vectors the record's own word for the severity is taken.
"""

from __future__ import annotations

from audit.vulnerabilities.result import Severity

MAX_VECTOR = 512  # characters
_WEIGHTS: dict[str, dict[str, float]] = {
    "AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
    "AC": {"L": 0.77, "H": 0.44},
    "UI": {"N": 0.85, "R": 0.62},
    "C": {"H": 0.56, "L": 0.22, "N": 0.0},
    "I": {"H": 0.56, "L": 0.22, "N": 0.0},
    "A": {"H": 0.56, "L": 0.22, "N": 0.0},
}
_PRIVILEGES = {"U": {"N": 0.85, "L": 0.62, "H": 0.27}, "C": {"N": 0.85, "L": 0.68, "H": 0.5}}


def base_score(vector: str) -> float | None:
    """Return the base score, 0.0 to 10.0, or None if this is no whole vector of version 3."""
    if len(vector) > MAX_VECTOR or not vector.startswith(("CVSS:3.0/", "CVSS:3.1/")):
        return None
    said = dict(part.partition(":")[::2] for part in vector.split("/")[1:])
    try:
        scope = said["S"]
        weights = {metric: choices[said[metric]] for metric, choices in _WEIGHTS.items()}
        privileges = _PRIVILEGES[scope][said["PR"]]
    except KeyError:
        return None
    iss = 1 - (1 - weights["C"]) * (1 - weights["I"]) * (1 - weights["A"])
    changed = scope == "C"
    impact = 7.52 * (iss - 0.029) - 3.25 * (iss - 0.02) ** 15 if changed else 6.42 * iss
    if impact <= 0:
        return 0.0
    exploitability = 8.22 * weights["AV"] * weights["AC"] * privileges * weights["UI"]
    return _round_up(min((1.08 if changed else 1.0) * (impact + exploitability), 10.0))


def severity(score: float) -> Severity:
    """Return the word for a score."""
    if score <= 0:
        return "none"
    return "low" if score < 4 else "medium" if score < 7 else "high" if score < 9 else "critical"  # noqa: PLR2004 - the specification's table


def _round_up(value: float) -> float:
    """Round up to one decimal as appendix A of the specification does, so that no computer differs from another."""
    whole = round(value * 100_000)
    return whole / 100_000 if whole % 10_000 == 0 else (whole // 10_000 + 1) / 10.0
