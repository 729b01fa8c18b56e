"""Which controls the assessment supports, by framework, as the report shows them. Rule: never more than "supports"."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import groupby

from audit.evidence.assessment import Assessment
from audit.evidence.controls import Framework, State, Support, supported
from audit.evidence.report.charts import Bar, bar

LOOKS: dict[State, str] = {"supported": "is-none-known", "not supported": "is-affected", "not assessed": "is-not-assessed"}


@dataclass(frozen=True, slots=True)
class Standard:
    """One framework with what the assessment says for each of its controls; ``counts`` has every state, in words."""

    framework: Framework
    supports: tuple[Support, ...]
    chart: Bar

    @property
    def counts(self) -> str:
        """Say how many controls ended how."""
        return ", ".join(f"{part.count} {part.label}" for part in self.chart.parts)


def standards(assessment: Assessment) -> tuple[Standard, ...]:
    """Return every framework of the data, in its order."""
    found = groupby(supported(assessment), key=lambda support: support.framework.framework)
    return tuple(_standard(tuple(supports)) for _, supports in found)


def _standard(supports: tuple[Support, ...]) -> Standard:
    framework = supports[0].framework
    counts = Counter(support.state for support in supports)
    return Standard(framework, supports, bar(framework.title, ((state, look, counts[state]) for state, look in LOOKS.items())))
