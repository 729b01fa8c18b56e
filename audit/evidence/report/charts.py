"""Bars: how parts of one whole are shared out, as widths of an inline SVG and as words that say the same.

Rules: every part stands in the words too, with its number; a part that is there is seen, however small; colour repeats what the words
and the pattern say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

WIDTH = 1000  # units of the drawing
SMALLEST = 8  # units that a part which is there has at least
FILLS = {  # as attributes, since not every program that makes PDFs heeds the style here
    "severity-critical": "#8a0f1c",
    "severity-high": "#c8372d",
    "severity-medium": "#b57a12",
    "severity-low": "#5478ab",
    "severity-info": "#75838f",
    "severity-none": "#75838f",
    "severity-unknown": "#edf0f4",
    "is-affected": "#c8372d",
    "is-none-known": "#2e8555",
    "is-not-assessed": "#edf0f4",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a bar: what it is called, how it is drawn (a class of the style), how many, and where it stands."""

    label: str
    look: str
    count: int
    at: int
    width: int

    @property
    def fill(self) -> str:
        """Return its colour."""
        return FILLS[self.look]


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar with its title; ``parts`` has every part, ``drawn`` those that are there."""

    title: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> int:
        """Return how many there are of all parts."""
        return sum(part.count for part in self.parts)

    @property
    def drawn(self) -> tuple[Part, ...]:
        """Return the parts that are there."""
        return tuple(part for part in self.parts if part.count)

    @property
    def words(self) -> str:
        """Say the same in words."""
        return f"{self.title}: {', '.join(f'{part.count:,} {part.label}' for part in self.parts)}"


def bar(title: str, parts: Iterable[tuple[str, str, int]]) -> Bar:
    """Return the bar of ``parts``, each ``(label, look, count)``, in their order."""
    given = tuple(parts)
    total = sum(count for *_, count in given)
    least = sum(1 for *_, count in given if count) * SMALLEST
    made, at = [], 0
    for label, look, count in given:
        width = SMALLEST + (WIDTH - least) * count // total if count else 0
        made.append(Part(label, look, count, at, width))
        at += width
    return Bar(title, tuple(made))
