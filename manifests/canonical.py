"""One encoding for what we write, one strict reader for what we are given.

Written JSON has sorted keys and no clock in it: the same value is always the same bytes.
Read JSON is bounded, has no duplicate keys, no NaN, no number beyond a float, no half character, and a bounded depth.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

from manifests.errors import InvalidFileError

MAX_DEPTH = 64  # levels of nesting; the deepest document we write has 9
_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def compact(value: Any) -> bytes:
    """Encode for machines: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def readable(value: Any) -> bytes:
    """Encode for people and line-based diffs: sorted keys, one value a line, final newline."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def parse(raw: bytes, what: str, *, limit: int, constants: bool = False) -> Any:
    """Parse hostile JSON of at most ``limit`` bytes; ``what`` names it in the error.

    Raises InvalidFileError on anything but one strict UTF-8 JSON document. With ``constants`` the words NaN and Infinity,
    which JSON does not have and model configurations do, are read as numbers.
    """
    if len(raw) > limit:
        raise InvalidFileError(f"{what}: {len(raw)} bytes, at most {limit} allowed", hint="this is not a file this tool wrote")
    try:
        text = raw.decode("utf-8")
        constant, number = (float, float) if constants else (_no_constant, _finite)
        value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=constant, parse_float=number)
        _check_characters(text, value)
    except RecursionError:
        raise InvalidFileError(f"{what}: nested too deeply", hint="this is not a file this tool wrote") from None
    except ValueError as error:
        raise InvalidFileError(f"{what}: not valid JSON: {error}", hint="restore the file from where it came") from None
    _check_depth(value, what)
    return value


def stamp(moment: datetime) -> str:
    """Write a moment as RFC 3339 in UTC with whole seconds: ``2026-11-24T17:00:00Z``."""
    return moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def moment(text: str) -> datetime:
    """Read what ``stamp`` writes; raises ValueError on any other form."""
    if not _STAMP.fullmatch(text):
        raise ValueError("not a time in the form 2026-11-24T17:00:00Z")
    return datetime.fromisoformat(text)


def _check_depth(value: Any, what: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return
    raise InvalidFileError(f"{what}: nested deeper than {MAX_DEPTH} levels", hint="this is not a file this tool wrote")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {twice!r}")
    return result


def _check_characters(text: str, value: Any) -> None:
    # An escaped half of a surrogate pair is text that no file, terminal or signature can hold.
    if _HALF.search(text):
        json.dumps(value, ensure_ascii=False).encode()


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"number {text[:20]} is too large")
    return number


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
