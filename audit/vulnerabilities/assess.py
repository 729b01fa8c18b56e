"""Compare an inventory with the vulnerability data there is.

Rules: an item is "none known" only if the data of its ecosystem was read and its version could be compared with all that is said of
its name; everything else that was not found affected is "not assessed", with the reason. One vulnerability of one item is one match,
whatever its names and however many records are about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from packageurl import PackageURL

from audit.evidence.item import Item
from audit.vulnerabilities import feeds, match, records, versions
from audit.vulnerabilities.feeds import Data, Loaded
from audit.vulnerabilities.match import Asked
from audit.vulnerabilities.records import Affected, Record
from audit.vulnerabilities.result import Assessed, Decision, Match, Source, Vulnerabilities

NO_DATA = "no vulnerability data was given"
UNORDERED = "versions that have no order among those of an advisory"
UNREAD = "packages of which a record cannot be read"
Hit = tuple[Record, Affected, str]


def assess(items: Iterable[Item], data: Iterable[Data]) -> Vulnerabilities:
    """Return what became of every package, model and image among ``items``, compared with all of ``data``."""
    known = {item.ref: (item, match.asked(item)) for item in items if item.what in {"package", "model", "image"}}
    wanted: dict[str, set[str]] = {}
    for _, asked in known.values():
        if isinstance(asked, Asked):
            wanted.setdefault(asked.ecosystem, set()).add(asked.name)
    loaded = feeds.load(data, {ecosystem: frozenset(names) for ecosystem, names in wanted.items()})
    assessed: list[Assessed] = []
    matches: list[Match] = []
    for item, asked in known.values():
        found, ended = _compared(item, asked, loaded)
        matches += found
        assessed.append(ended)
    return Vulnerabilities(tuple(loaded.sources), tuple(assessed), tuple(matches))


def _compared(item: Item, asked: Asked | str, loaded: Loaded) -> tuple[list[Match], Assessed]:
    if not any(source.feed == "osv" for source in loaded.sources):
        return [], Assessed(item.ref, "not assessed", NO_DATA)
    if isinstance(asked, str):
        return [], Assessed(item.ref, "not assessed", asked)
    hits, doubt = _hits(asked, loaded)
    if hits:
        return [_match(item, asked.version, group, loaded) for group in _grouped(hits)], Assessed(item.ref, "affected", hits[0][2])
    source = _covering(asked, loaded)
    if isinstance(source, str):
        return [], Assessed(item.ref, "not assessed", asked.doubt or source)
    if doubt or asked.doubt:
        return [], Assessed(item.ref, "not assessed", asked.doubt or f"{asked.ecosystem}: {doubt}")
    return [], Assessed(item.ref, "none known", source.name)


def _covering(asked: Asked, loaded: Loaded) -> Source | str:
    """Return the source that covers an ecosystem, or why none does."""
    names = {asked.ecosystem, asked.ecosystem.split(":", 1)[0]}
    there = [source for source in loaded.sources if source.feed == "osv" and source.name in names]
    found = [source for source in there if source.records and asked.ecosystem in loaded.ecosystems]
    if found:
        return found[0]
    empty = next((source for source in there if not source.records), None)
    if empty:
        return f"{asked.ecosystem}: its data {empty.problems[0] if empty.problems else 'holds no records'}"
    return f"{asked.ecosystem}: no data of it was given"


def _hits(asked: Asked, loaded: Loaded) -> tuple[list[Hit], str]:
    """Return the records that apply, and why not all that is said of this name could be compared."""
    doubt = UNREAD if (asked.ecosystem, asked.name) in loaded.unread else ""
    found: list[Hit] = []
    for record, affected, source in loaded.records.get((asked.ecosystem, asked.name), ()):
        if record.withdrawn:
            continue
        try:
            if match.affects(affected, asked.version):
                found.append((record, affected, source))
        except versions.NoVersionError:
            doubt = doubt or UNORDERED
    return found, doubt


def _grouped(hits: list[Hit]) -> Iterator[list[Hit]]:
    """Yield the records of each vulnerability, the best first: records that share a name are about one.

    A distribution's advisory about several is one of its own, unless each of them has a record.
    """
    groups: list[tuple[set[str], list[Hit]]] = []
    for hit in sorted(hits, key=lambda hit: (hit[1].severity[1] is None, hit[0].id)):
        names, joined = set(hit[0].names), [hit]
        for other in [group for group in groups if group[0] & names]:
            groups.remove(other)
            names |= other[0]
            joined = other[1] + joined
        groups.append((names, joined))
    single = {name for names, group in groups if not group[0][0].covers for name in names}
    for _, group in sorted(groups, key=lambda entry: entry[1][0][0].id):
        covers = group[0][0].covers
        if not covers or not single.issuperset(covers):
            yield sorted(group, key=lambda hit: (hit[1].severity[1] is None, hit[0].id))


def _match(item: Item, version: str, group: list[Hit], loaded: Loaded) -> Match:
    record, affected, source = group[0]
    word, score, vector = next((hit[1].severity for hit in group if hit[1].severity[0] != "unknown"), affected.severity)
    names = frozenset(name for hit in group for name in hit[0].names)
    covers = records.ordered(name for hit in group for name in hit[0].covers)
    cves = sorted(name for name in names.union(covers) if name.startswith("CVE-"))
    return Match(
        ref=item.ref,
        id=record.id,
        aliases=records.ordered(names - {record.id}),
        summary=next((hit[0].summary for hit in group if hit[0].summary), ""),
        severity=word,
        score=score,
        vector=vector,
        fixed=tuple(dict.fromkeys(text for hit in group for text in match.fixed_in(hit[1], version))),
        source=source,
        published=min((hit[0].published for hit in group if hit[0].published), default=None),
        modified=max((hit[0].modified for hit in group if hit[0].modified), default=None),
        kev=min((loaded.kev[cve] for cve in cves if cve in loaded.kev), default=None),
        epss=max((loaded.epss[cve] for cve in cves if cve in loaded.epss), default=None),
        malicious=any(hit[0].malicious for hit in group),
        decision=_decision(item, names, loaded),
        disputed=all(hit[0].disputed for hit in group),
        covers=covers,
    )


def _decision(item: Item, names: frozenset[str], loaded: Loaded) -> Decision | None:
    """Return the newest decision about a vulnerability of an item; of two of one time the one that lets it stand."""
    if not loaded.vex or item.purl is None:
        return None
    purl = PackageURL.from_string(item.purl)
    found = [stated.decision for stated in loaded.vex if stated.about(names, purl)]
    stands = {"affected", "under_investigation"}
    return max(found, key=lambda said: (said.time is not None, said.time, said.status in stands, said.source, said.status), default=None)
