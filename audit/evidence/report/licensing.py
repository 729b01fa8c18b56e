"""Licences as the report shows them: what is declared, what was concluded from licence texts, and of what nothing is known."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from audit.evidence.assessment import Proof
from audit.evidence.item import Item
from audit.evidence.redistribution import ORDER, Judgement, as_of, judge

MAX_LICENCES = 1000  # rows of the table
MAX_UNKNOWN = 500  # items named of those whose licence is unknown
JUDGED = frozenset({"model", "package", "image"})  # of the things in a bundle, those that have a licence of their own


@dataclass(frozen=True, slots=True)
class Term:
    """One licence as it is written: how many items declare it, and of how many it was concluded."""

    text: str
    declared: int
    concluded: int


@dataclass(frozen=True, slots=True)
class Licences:
    """All terms, the most frequent first, and what nobody states a licence of; ``asked`` items have one of their own.

    ``verdicts`` are those of the table of licences of the day ``as_of``: verdict, how many items, what they ask for.
    """

    terms: tuple[Term, ...]
    more: int
    asked: int
    declared: int
    concluded: int
    unknown: tuple[Item, ...]
    unknown_count: int
    verdicts: tuple[tuple[str, int, str], ...] = ()
    as_of: str = ""


def licences(proof: Proof) -> Licences:
    """Return the licences of every package, model and image of ``proof``."""
    items = [item for item in proof.inventory.items if item.what in JUDGED]
    declared = Counter(text for item in items for text in {licence.text for licence in item.licences})
    concluded = Counter(text for item in items for text in {licence.text for licence in item.concluded})
    texts = sorted({*declared, *concluded}, key=lambda text: (-declared[text] - concluded[text], text))
    unknown = [item for item in items if not item.licences and not item.concluded]
    return Licences(
        terms=tuple(Term(text, declared[text], concluded[text]) for text in texts[:MAX_LICENCES]),
        more=max(0, len(texts) - MAX_LICENCES),
        asked=len(items),
        declared=sum(bool(item.licences) for item in items),
        concluded=sum(bool(item.concluded) for item in items),
        unknown=tuple(unknown[:MAX_UNKNOWN]),
        unknown_count=len(unknown),
        verdicts=_verdicts(proof),
        as_of=as_of(),
    )


def _verdicts(proof: Proof) -> tuple[tuple[str, int, str], ...]:
    """Return each verdict of the table with how many it is about and what they ask for, the hardest first."""
    found: dict[str, list[Judgement]] = {}
    for entry in judge(proof.inventory.items):
        found.setdefault(entry.verdict, []).append(entry)
    told = []
    for verdict in reversed(ORDER):
        entries = found.get(verdict, [])
        conditions = Counter(condition for entry in entries for condition in entry.conditions)
        words = "; ".join(f"{condition} ({count})" for condition, count in sorted(conditions.items()))
        told.append((str(verdict), len(entries), words))
    return tuple(entry for entry in told if entry[1])
