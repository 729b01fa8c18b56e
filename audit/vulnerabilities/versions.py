"""Which of two versions is older, as each ecosystem orders them.

Sources: PEP 440 (`packaging`), Debian policy 5.6.12, RPM's `rpmvercmp` and Maven's rules (`univers`), Alpine's (apk-package(5)),
Semantic Versioning 2.0.0 with Go's `v` before it and `+incompatible` behind. Rule: a version that is none in its ecosystem is never
compared: the caller says "not assessed".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from packaging.version import InvalidVersion
from packaging.version import Version as Pep440
from univers.versions import DebianVersion, MavenVersion, RpmVersion
from univers.versions import InvalidVersion as InvalidUnivers

MAX_VERSION = 256  # characters
_SEMVER = re.compile(r"v?(0|[1-9]\d{0,17})(?:\.(\d{1,18}))?(?:\.(\d{1,18}))?(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?", re.ASCII)
_DEBIAN = re.compile(r"(?:\d+:)?[0-9A-Za-z.+~:-]+", re.ASCII)


_ALPINE = re.compile(r"(\d{1,18}(?:\.\d{1,18})*)([a-z]?)((?:_[a-z]{1,5}\d{0,18})*)(?:~[0-9a-f]+)?(?:-r(\d{1,18}))?", re.ASCII)
_SUFFIX = re.compile(r"_([a-z]+)(\d*)", re.ASCII)
_SUFFIXES = {"alpha": -4, "beta": -3, "pre": -2, "rc": -1, "cvs": 1, "svn": 2, "git": 3, "hg": 4, "p": 5}  # 0 is none


class NoVersionError(ValueError):
    """A text that is no version in its ecosystem."""


def _semver(text: str) -> Any:
    found = _SEMVER.fullmatch(text)
    if not found:
        raise NoVersionError(text)
    numbers = tuple(int(part or 0) for part in found.groups()[:3])
    if found[4] is None:
        return numbers, (1,)
    parts = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in found[4].split("."))
    return numbers, (0, parts)


def _debian(text: str) -> Any:
    if not _DEBIAN.fullmatch(text):
        raise NoVersionError(text)
    return DebianVersion(text)


def _alpine(text: str) -> Any:
    found = _ALPINE.fullmatch(text)
    suffixes = _SUFFIX.findall(found[3]) if found else []
    if not found or any(word not in _SUFFIXES for word, _ in suffixes):
        raise NoVersionError(text)
    first, *others = found[1].split(".")
    # with a zero before it a number is a fraction, and before every other
    numbers = tuple((0, part.rstrip("0"), 0) if part.startswith("0") else (1, "", int(part)) for part in others)
    ranked = tuple((_SUFFIXES[word], int(number or 0)) for word, number in suffixes)
    return int(first), numbers, found[2], (*ranked, (0, 0)), int(found[4] or 0)


def _rpm(text: str) -> Any:
    return RpmVersion(text)


ORDERS: dict[str, Callable[[str], Any]] = {
    "PyPI": Pep440,
    "npm": _semver,
    "Go": _semver,
    "crates.io": _semver,
    "Debian": _debian,
    "Ubuntu": _debian,
    "Alpine": _alpine,
    "Maven": MavenVersion,
    "Rocky Linux": _rpm,
    "AlmaLinux": _rpm,
}


def published(ecosystem: str, text: str) -> str:
    """Return a version as it was published: a local build (``2.1.0+cu121``, PEP 440) has the vulnerabilities of what it was built from."""
    return text.partition("+")[0] if ecosystem == "PyPI" else text


def known(ecosystem: str) -> bool:
    """Say whether versions of an ecosystem (``Debian:12`` is ``Debian``) can be ordered here."""
    return ecosystem.split(":", 1)[0] in ORDERS


@functools.lru_cache(maxsize=65536)
def key(ecosystem: str, text: str) -> Any:
    """Return a value that compares as the version does among those of its ecosystem; raises NoVersionError.

    The version ``0`` of an OSV range is before every other and is not asked for here.
    """
    order = ORDERS.get(ecosystem.split(":", 1)[0])
    if order is None or not text or len(text) > MAX_VERSION:
        raise NoVersionError(text)
    try:
        return order(text)
    except (InvalidVersion, InvalidUnivers, ValueError, TypeError, AttributeError, IndexError) as error:
        raise NoVersionError(text) from error
