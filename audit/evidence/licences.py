"""Which licence texts are SPDX identifiers or expressions; everything else stays the text it was.

Rules: an identifier counts only if it stands in the list of the vendored CycloneDX schema; case is that of the list
(SPDX 2.3, annex D.2, matches without regard to case); nothing is guessed from a family name such as ``bsd``.
"""

from __future__ import annotations

import functools
import json
import re
from importlib import resources

MAX_EXPRESSION = 1000  # characters
SPDX = "schemas/cyclonedx/spdx.SNAPSHOT.schema.json"
_WORD = re.compile(r"\s*([()]|[A-Za-z0-9.+:-]+)")
_REFERENCE = re.compile(r"(?:DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+")
_OPERATORS = {"and": "AND", "or": "OR", "with": "WITH"}


def identifier(text: str) -> str | None:
    """Return ``text`` as the SPDX list writes it, or None if it is not in the list."""
    return _listed().get(text.strip().lower())


def expression(text: str) -> str | None:
    """Return ``text`` in canonical form if it is a compound SPDX expression of listed identifiers, else None."""
    found = _words(text)
    if found is None or not any(word in _OPERATORS.values() for word in found):
        return None
    depth, operand_due = 0, True
    for word in found:
        if word in {"(", ")"}:
            depth += 1 if word == "(" else -1
            wrong = operand_due is (word == ")")
        else:
            wrong = operand_due is (word in _OPERATORS.values())
            operand_due = not operand_due
        if wrong or depth < 0:
            return None
    return None if depth or operand_due else " ".join(found).replace("( ", "(").replace(" )", ")")


def _words(text: str) -> tuple[str, ...] | None:
    found: list[str] = []
    at = 0
    text = text.strip()
    if len(text) > MAX_EXPRESSION:
        return None
    while at < len(text):
        match = _WORD.match(text, at)
        known = _known(match[1]) if match else None
        if match is None or known is None:
            return None
        found.append(known)
        at = match.end()
    return tuple(found)


def _known(word: str) -> str | None:
    if word in {"(", ")"} or _REFERENCE.fullmatch(word):
        return word
    return _OPERATORS.get(word.lower()) or identifier(word)


@functools.cache
def _listed() -> dict[str, str]:
    schema = json.loads(resources.files("manifests").joinpath(SPDX).read_bytes())
    return {text.lower(): text for text in schema["enum"]}
