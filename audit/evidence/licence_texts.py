"""Tell which licence a text is, by its words alone: the texts that most packages carry, and nothing by resemblance.

Rules: case, punctuation and lines do not count, names of holders do not count; between its first and its last words a text must be the
licence word for word; a file in which much else stands, or more than one licence, is nothing known. The texts are data
(``manifests/data/licences/texts.json``: first words, last words, sha256 of all words between), made from the licences themselves.
Source: SPDX License List matching guidelines (SPDX 2.3 annex B), of which this keeps the part that needs no templates.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from audit.evidence.item import Licence
from manifests.paths import printable

DATA = "data/licences/texts.json"
TEXTS = "licence:texts"  # the fact of an item that names the licence texts it carries
NONE = "none"
MAX_NAMED = 5
MAX_TEXT = 1 << 20  # bytes of a licence text
MAX_MORE = 1_500  # characters of words beside the licence: titles, holders, how to apply it; GNU's have more, as their entry says
TEXT = re.compile(r"(?:un)?licen[sc]e|copying", re.IGNORECASE)  # how the name of a file with a licence text begins
_WORDS = re.compile(r"[^a-z0-9]+")
_HOLDERS = (
    (re.compile(r"neither the names? (?:of )?.{1,160}? nor the names of .{1,24}? may be used"), "neither x nor the names may be used"),
    (re.compile(r"software is provided by .{1,120}? as is"), "software is provided by x as is"),
    (re.compile(r"in no event shall .{1,160}? be liable"), "in no event shall x be liable"),
    (re.compile(r"is provided as is and .{1,80}? disclaims? all"), "is provided as is and x disclaims all"),
)


def words(raw: bytes) -> str:
    """Return the words of a text in one line, holders made alike."""
    text = _WORDS.sub(" ", raw.decode("utf-8", "replace").lower()).strip()
    for pattern, alike in _HOLDERS:
        text = pattern.sub(alike, text)
    return text


def identify(raw: bytes) -> str | None:
    """Return the SPDX identifier of a licence text, or None if it is not known beyond doubt."""
    if len(raw) > MAX_TEXT:
        return None
    text = words(raw)
    found = set(_stretches(text))
    if len(found) != 1:
        return None
    ((identifier, length, more),) = found
    return identifier if len(text) - length <= more else None


def is_text(name: str) -> bool:
    """Say whether a file of this name (without folders) is a licence text."""
    return bool(TEXT.match(name))


def conclude(texts: Sequence[tuple[str, bytes]]) -> tuple[Licence, ...]:
    """Return the licences of texts by their names, all of which apply; nothing if one of them is not known."""
    found = [(identify(raw), name) for name, raw in texts]
    if not all(identifier for identifier, _ in found):
        return ()
    first = {identifier: name for identifier, name in reversed(found) if identifier}
    return tuple(Licence(identifier, f"licence text {printable(name, 200)}") for identifier, name in sorted(first.items()))


def fact(texts: Sequence[tuple[str, bytes]]) -> tuple[str, str]:
    """Return the fact that names the licence texts which something carries."""
    names = [printable(name, 200) for name, _ in texts[:MAX_NAMED]]
    more = [f"and {len(texts) - MAX_NAMED} more"] if len(texts) > MAX_NAMED else []
    return TEXTS, ", ".join(names + more) or NONE


def _stretches(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield what stands between first and last words that the data knows: identifier, its length, and how much more may stand there."""
    for entry in _known():
        start = text.find(entry["first"])
        end = text.find(entry["last"], start)
        if start >= 0 and end >= 0:
            stretch = text[start : end + len(entry["last"])]
            identifier = entry["sha256"].get(hashlib.sha256(stretch.encode()).hexdigest())
            if identifier:
                yield identifier, len(stretch), entry.get("more", MAX_MORE)


@functools.cache
def _known() -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(resources.files("manifests").joinpath(DATA).read_bytes())["texts"])
