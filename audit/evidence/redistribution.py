"""May it be passed on? A table of licences, applied to what the items of a bundle declare; never a legal opinion.

Rules: the table is data (``manifests/data/licences``) with its own date; of alternatives (OR) the easiest counts, of parts (AND) the
hardest; what is not in the table is *unknown*, and unknown parts make the whole unknown unless a harder verdict is known.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from license_expression import ExpressionError, LicenseWithExceptionSymbol, Licensing

from audit.evidence.item import Item, Licence
from audit.evidence.licence_texts import NONE, TEXTS
from manifests.lock import LockedComponent

Verdict = Literal["may be passed on", "with conditions", "internal use only", "needs legal advice", "unknown"]
Texts = Literal["carried", "not carried", "not looked for"]
ORDER: tuple[Verdict, ...] = ("may be passed on", "with conditions", "unknown", "internal use only", "needs legal advice")
DATA = "data/licences/redistribution.json"
LICENCE_TEXT = "carry the licence text"
MAX_EXPRESSION = 2000  # characters; the parser is not linear
ASKED = frozenset({"model", "package", "image"})
_PARSER = Licensing()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the table says of one item: ``licence`` as declared, ``conditions`` in words, and whether it carries its licence texts."""

    ref: str
    component: str
    name: str
    licence: str
    verdict: Verdict
    conditions: tuple[str, ...]
    texts: Texts


def judge(items: Iterable[Item], locked: Mapping[str, LockedComponent] | None = None) -> tuple[Judgement, ...]:  # noqa: ARG001
    """Return a judgement for every package, model and image, in their order."""
    return tuple(_judgement(item) for item in items if item.what in ASKED)


def as_of() -> str:
    """Return the day of the table: ``2026-11-25``."""
    return str(_table()["asOf"])


def _judgement(item: Item) -> Judgement:
    stated = tuple(licence.text for licence in item.licences or item.concluded)
    verdict, conditions = _of(item.licences)
    if verdict == "unknown" and item.concluded:
        verdict, conditions = _of(item.concluded)  # "BSD License" says less than the text beside it
    return Judgement(item.ref, item.component, item.name, ", ".join(stated) or "unknown", verdict, conditions, _texts(item))


def _of(licences: tuple[Licence, ...]) -> Told:
    return _hardest([_expression(licence.text) for licence in licences]) if licences else ("unknown", ())


def _texts(item: Item) -> Texts:
    said = dict(item.facts).get(TEXTS)
    if said is None:
        return "not looked for"
    return "not carried" if said == NONE else "carried"


Told = tuple[Verdict, tuple[str, ...]]


@functools.lru_cache(maxsize=16384)
def _expression(text: str) -> Told:
    known = _named(text)
    if known is not None:
        return known
    if len(text) > MAX_EXPRESSION:
        return "unknown", ()
    try:
        parsed = _PARSER.parse(text)
    except (ExpressionError, AttributeError, TypeError, ValueError, RecursionError):
        return "unknown", ()
    return _node(parsed) if parsed is not None else ("unknown", ())


def _node(node: Any) -> Told:
    if isinstance(node, (_PARSER.AND, _PARSER.OR)):
        parts = [_node(part) for part in node.args]
        return _hardest(parts) if isinstance(node, _PARSER.AND) else min(parts, key=lambda part: ORDER.index(part[0]))
    symbol = node.license_symbol if isinstance(node, LicenseWithExceptionSymbol) else node
    return _named(str(symbol.key)) or ("unknown", ())


def _hardest(parts: list[Told]) -> Told:
    verdict = max((part[0] for part in parts), key=ORDER.index)
    return verdict, tuple(dict.fromkeys(condition for part in parts for condition in part[1]))


def _named(text: str) -> Told | None:
    table, word = _table(), text.strip().lower()
    name = table["names"].get(word, word).lower()
    return _known().get(name)


@functools.cache
def _known() -> dict[str, Told]:
    return {entry["id"].lower(): (entry["verdict"], tuple(entry["conditions"])) for entry in _table()["licences"]}


@functools.cache
def _table() -> dict[str, Any]:
    return dict(json.loads(resources.files("manifests").joinpath(DATA).read_bytes()))
