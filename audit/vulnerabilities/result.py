"""The values of a comparison with vulnerability data. Rule: "not assessed" is a status of its own, with a reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

Status = Literal["affected", "none known", "not assessed"]
Severity = Literal["none", "low", "medium", "high", "critical", "unknown"]
VexStatus = Literal["not_affected", "affected", "fixed", "under_investigation"]
Feed = Literal["osv", "kev", "epss", "vex"]


@dataclass(frozen=True, slots=True)
class Source:
    """One set of data that was consulted.

    ``name`` is what it covers (``PyPI``, ``Debian:12``; the name of the file for VEX); ``as_of`` is when the data was published, by its
    publisher or by its newest record, not when it was fetched; ``records`` were read and ``skipped`` could not be, ``problems`` says why,
    some of it. ``component`` is where it lies, ``bundle`` the digest of the signed bundle that brought it (``sha256:...``), ``sha256``
    that of the file.
    """

    feed: Feed
    name: str
    component: str
    path: str
    sha256: str
    records: int
    skipped: int
    as_of: datetime | None
    bundle: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody said in a VEX document about one vulnerability of one product, and where."""

    status: VexStatus
    justification: str
    statement: str
    author: str
    source: str
    time: datetime | None


@dataclass(frozen=True, slots=True)
class Match:
    """One advisory that applies to one item.

    ``ref`` is the item's; ``id`` the record's own and ``aliases`` its other names, CVE first; ``score`` is the CVSS base score; ``kev``
    says that it is known to be exploited and since when that is listed; ``epss`` is the probability (0..1) of exploitation within 30 days;
    ``fixed`` are later versions that have the correction, the nearest first. ``malicious``: the package as such is hostile (``MAL-``
    records). ``disputed``: whether it is a vulnerability is disputed. ``covers`` are the CVEs of an advisory that is about several.
    """

    ref: str
    id: str
    aliases: tuple[str, ...]
    summary: str
    severity: Severity
    score: float | None
    vector: str
    fixed: tuple[str, ...]
    source: str
    published: datetime | None = None
    modified: datetime | None = None
    kev: date | None = None
    epss: float | None = None
    malicious: bool = False
    decision: Decision | None = None
    disputed: bool = False
    covers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the CVE if there is one, else the record's own name."""
        return next((alias for alias in (self.id, *self.aliases) if alias.startswith("CVE-")), self.id)

    @property
    def stands(self) -> bool:
        """Say whether nobody has decided that it does not apply; nobody can about a package that is hostile as such."""
        return self.malicious or self.decision is None or self.decision.status in {"affected", "under_investigation"}


@dataclass(frozen=True, slots=True)
class Assessed:
    """What became of one item: ``reason`` says why it was not assessed, or what it was compared with."""

    ref: str
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class Vulnerabilities:
    """The whole comparison: an entry in ``items`` for every item one would ask about, in the order of the inventory."""

    sources: tuple[Source, ...]
    items: tuple[Assessed, ...]
    matches: tuple[Match, ...]

    @property
    def consulted(self) -> bool:
        """Say whether any advisories were consulted at all."""
        return any(source.feed == "osv" for source in self.sources)

    @property
    def counts(self) -> dict[Status, int]:
        """Return how many items ended with each status."""
        found = Counter(item.status for item in self.items)
        return {status: found[status] for status in ("affected", "none known", "not assessed")}

    @property
    def standing(self) -> tuple[Match, ...]:
        """Return the matches nobody has decided away, the gravest first."""
        order = ("critical", "high", "medium", "unknown", "low", "none")
        kept = [match for match in self.matches if match.stands]
        return tuple(sorted(kept, key=lambda m: (m.kev is None, not m.malicious, order.index(m.severity), m.ref, m.id)))


NONE = Vulnerabilities((), (), ())
