"""Relative paths that are safe to create on the isolated side, and names that are safe in a terminal and a URL."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from manifests.errors import InvalidFileError

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
MAX_PATH = 1024  # bytes of UTF-8
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # Unicode categories: controls, invisible format marks, halves, line ends
MAX_SEGMENT = 255  # bytes, the limit of ext4, xfs and exFAT names


def check_relative(path: str, what: str) -> str:
    """Return ``path`` if it is a normalised relative POSIX path that stays below its root.

    Refuses absolute paths, ``..``, empty segments, backslashes, control characters and over-long names.
    """
    reason = _unsafe(path)
    if reason:
        raise InvalidFileError(f"{what}: path {printable(path)!r} {reason}", hint="use a plain relative path with forward slashes")
    return path


def _unsafe(path: str) -> str | None:
    if not path or len(path.encode("utf-8", "surrogatepass")) > MAX_PATH:
        return f"is empty or longer than {MAX_PATH} bytes"
    if "\\" in path or any(unicodedata.category(c) in HIDDEN for c in path):
        return "contains a backslash or a control character"
    for segment in path.split("/"):
        if segment in {"", ".", ".."}:
            return "is absolute or has an empty, '.' or '..' segment"
        if len(segment.encode()) > MAX_SEGMENT:
            return f"has a segment longer than {MAX_SEGMENT} bytes"
    return None


def check_disjoint(paths: tuple[str, ...], what: str) -> None:
    """Refuse a list in which a path stands twice, twice but for case or accent encoding, or as a file and a folder at once."""
    folded: dict[str, str] = {}
    for path in paths:
        key = _folded(path)
        if key in folded:
            raise InvalidFileError(
                f"{what}: {printable(path)!r} and {printable(folded[key])!r} are one path on some systems", hint="rename one of them"
            )
        folded[key] = path
    for path in paths:
        parent = path
        while "/" in parent:
            parent = parent.rsplit("/", 1)[0]
            if _folded(parent) in folded:
                raise InvalidFileError(f"{what}: {printable(parent)!r} is a file and a folder at once", hint="rename one of them")


def _folded(path: str) -> str:
    return path.lower() if path.isascii() else unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def some(texts: Iterable[str], most: int = 5, limit: int = 80) -> str:
    """Return the first ``most`` of ``texts``, printable, each cut to ``limit`` characters, and how many more there are."""
    found = list(texts)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f"{', '.join(printable(text, limit) for text in found[:most])}{more}"


def printable(text: str, limit: int = 200) -> str:
    """Return ``text`` without control characters and cut to ``limit``, for messages about hostile names."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: 4 * limit])
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
