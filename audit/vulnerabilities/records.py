"""Advisories in the OSV format (OpenSSF "Open Source Vulnerability format", 1.7), read from hostile bytes.

Rules: bounded; what a record says of packages and versions must have the types of the format, else the record is counted as not
readable; anything else that is odd is left out of the texts, never of the comparison. Version ranges of type ``GIT`` name commits
and are of no use here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from packaging.utils import canonicalize_name

from audit.vulnerabilities import cvss
from audit.vulnerabilities.result import Severity
from manifests import canonical
from manifests.paths import printable

MAX_RECORD = 8 << 20  # bytes; the largest in use have about 2 MB
MAX_TEXT = 500  # characters of a summary
EVENTS = ("introduced", "fixed", "last_affected", "limit")
ADVISORIES = ("DSA-", "DLA-", "USN-", "LSN-", "ALSA-", "RLSA-", "RXSA-")  # of distributions: what they are about may stand in ``related``
DISPUTED = re.compile(r"\s*\**\s*disputed\b", re.IGNORECASE)  # how such a text begins: "** DISPUTED **"
Event = tuple[Literal["introduced", "fixed", "last_affected", "limit"], str]
_WORDS: dict[str, Severity] = {
    "critical": "critical", "high": "high", "important": "high", "moderate": "medium", "medium": "medium", "low": "low",
    "negligible": "low", "unimportant": "low",
}  # fmt: skip


class BadRecordError(ValueError):
    """Why a record cannot be used."""


@dataclass(frozen=True, slots=True)
class Affected:
    """One package a record is about: ``ecosystem`` as written, ``name`` in its one form; ``ranges`` are the ordered ranges' events.

    ``by_commit`` says that only commits tell which versions are affected, so that none can be compared here.
    """

    ecosystem: str
    name: str
    versions: frozenset[str]
    ranges: tuple[tuple[Event, ...], ...]
    severity: tuple[Severity, float | None, str]
    by_commit: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One advisory. ``aliases`` are other names of the same vulnerability; a distribution's advisory about several ``covers`` them.

    ``disputed``: whether it is a vulnerability at all is disputed.
    """

    id: str
    aliases: tuple[str, ...]
    covers: tuple[str, ...]
    summary: str
    published: datetime | None
    modified: datetime | None
    withdrawn: bool
    disputed: bool
    affected: tuple[Affected, ...]

    @property
    def names(self) -> frozenset[str]:
        """Return every name of the vulnerability, its own first name among them."""
        return frozenset((self.id, *self.aliases))

    @property
    def malicious(self) -> bool:
        """Say whether it is about a package that is hostile as such (OpenSSF malicious-packages)."""
        return self.id.startswith("MAL-") or any(alias.startswith("MAL-") for alias in self.aliases)


def peek(raw: bytes) -> tuple[frozenset[tuple[str, str]], datetime | None]:
    """Return which packages a record is about, as (ecosystem, name in its one form), and when it was changed; raises BadRecordError."""
    value = _value(raw)
    packages = [entry.get("package") or {} for entry in _list(value, "affected", dict)]
    if not all(isinstance(package, dict) for package in packages):
        raise BadRecordError("names a package in no known form")
    named = ((_text(package.get("ecosystem")), _text(package.get("name"))) for package in packages)
    return frozenset((ecosystem, normal_name(ecosystem, name)) for ecosystem, name in named), _time(value.get("modified"))


def parse(raw: bytes) -> Record:
    """Return a record; raises BadRecordError."""
    value = _value(raw)
    general = _severity(value, value.get("database_specific"))
    affected = tuple(_affected(entry, general) for entry in _list(value, "affected", dict))
    cves = _upstream(value)
    aliases = {*_list(value, "aliases", str), *(cves if len(cves) == 1 else ())} - {value["id"]}
    return Record(
        id=printable(value["id"], MAX_TEXT),
        aliases=ordered(printable(alias, MAX_TEXT) for alias in aliases),
        covers=tuple(printable(cve, MAX_TEXT) for cve in cves) if len(cves) > 1 else (),
        summary=printable(_text(value.get("summary")) or _text(value.get("details")).split("\n", 1)[0], MAX_TEXT),
        published=_time(value.get("published")),
        modified=_time(value.get("modified")),
        withdrawn=value.get("withdrawn") is not None,
        disputed=_disputed(value),
        affected=affected,
    )


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Return names once each and sorted, CVE first."""
    return tuple(sorted(set(names), key=lambda name: (not name.startswith("CVE-"), name)))


def normal_name(ecosystem: str, name: str) -> str:
    """Return a package's name in the one form its ecosystem compares by (PyPI: PEP 503)."""
    return str(canonicalize_name(name)) if ecosystem == "PyPI" else name


def _value(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_RECORD:
        raise BadRecordError(f"{len(raw)} bytes, at most {MAX_RECORD} allowed")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadRecordError("is no JSON") from None
    if not isinstance(value, dict) or not _text(value.get("id")):
        raise BadRecordError("has no id")
    return value


def _affected(value: dict[str, Any], general: tuple[Severity, float | None, str]) -> Affected:
    package = value.get("package") or {}
    if not isinstance(package, dict):
        raise BadRecordError("names a package in no known form")
    ecosystem, name = _text(package.get("ecosystem")), _text(package.get("name"))
    own = _severity(value, value.get("ecosystem_specific"), value.get("database_specific"))
    listed, stated = frozenset(_list(value, "versions", str)), _list(value, "ranges", dict)
    ranges = tuple(_range(entry) for entry in stated if entry.get("type") in {"ECOSYSTEM", "SEMVER"})
    return Affected(
        ecosystem,
        normal_name(ecosystem, name),
        listed,
        ranges,
        own if own[0] != "unknown" else general,
        by_commit=bool(stated) and not ranges and not listed,
    )


def _range(value: dict[str, Any]) -> tuple[Event, ...]:
    events = [(kind, entry[kind]) for entry in _list(value, "events", dict) for kind in EVENTS if kind in entry]
    if not all(isinstance(version, str) and version for _, version in events):
        raise BadRecordError("has a range with an event that names no version")
    if not any(kind == "introduced" for kind, _ in events):
        raise BadRecordError("has a range that begins nowhere")
    return tuple(cast("list[Event]", events))


def _severity(value: dict[str, Any], *own: Any) -> tuple[Severity, float | None, str]:
    """Return (word, score, vector): the highest score of version 3, else the word the database gives."""
    vectors = [_text(entry.get("score")) for entry in _list(value, "severity", dict)]
    scored = [(score, vector) for vector in vectors if (score := cvss.base_score(vector)) is not None]
    if scored:
        score, vector = max(scored)
        return cvss.severity(score), score, vector
    vector = next((vector for vector in vectors if vector.startswith("CVSS:")), "")
    words = [_text(part.get(key)).lower() for part in own if isinstance(part, dict) for key in ("severity", "urgency")]
    words += [vector.lower() for vector in vectors]
    return next((_WORDS[word] for word in words if word in _WORDS), "unknown"), None, printable(vector, MAX_TEXT)


def _upstream(value: dict[str, Any]) -> tuple[str, ...]:
    """Return the CVEs a distribution's record is about, which newer records name ``upstream`` and older advisories ``related``."""
    keys = ("upstream", "related") if value["id"].startswith(ADVISORIES) else ("upstream",)
    return tuple(sorted({name for key in keys for name in _list(value, key, str) if name.startswith("CVE-")}))


def _disputed(value: dict[str, Any]) -> bool:
    own = value.get("database_specific")
    flagged = isinstance(own, dict) and any(own.get(key) is True for key in ("disputed", "isDisputed"))
    return flagged or any(DISPUTED.match(_text(value.get(key))) for key in ("summary", "details"))


def _list(value: dict[str, Any], key: str, of: type) -> list[Any]:
    found = value.get(key)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(entry, of) for entry in found):
        raise BadRecordError(f"has {printable(key)} in no known form")
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _time(value: Any) -> datetime | None:
    try:
        return canonical.moment(f"{_text(value)[:19]}Z") if _text(value).endswith("Z") else None
    except ValueError:
        return None
