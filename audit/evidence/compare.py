"""What moved between two bundles, or between a bundle and what is installed: for those who review an update before it goes in.

Rules: pure; the same two sides always give the same list, sorted; packages are matched by component and name, so that a new version is one
change and not two; vulnerabilities of both sides are compared with the same data, and without any they are *not compared*, never "none".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from packageurl import PackageURL

from airgap_images.bundle import Component
from audit.evidence.item import Item
from audit.vulnerabilities.result import NONE, Match, Vulnerabilities

Section = Literal["bundle", "policy", "signers", "components", "packages", "licences", "files", "vulnerabilities"]
Change = Literal["added", "removed", "changed"]
SECTIONS: tuple[Section, ...] = ("bundle", "policy", "signers", "components", "packages", "licences", "files", "vulnerabilities")
SAME_VERSION = "same version, other bytes"
GONE = "the package is gone"
NO_DATA = "Vulnerabilities: not compared, neither side nor this site has vulnerability data."
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that moved; ``old`` and ``new`` are texts, empty where there is nothing; ``note`` says what to look at."""

    section: Section
    change: Change
    subject: str
    what: str
    old: str = ""
    new: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: ``label`` as the user named it, ``proof`` says whether it is proven and how, ``said`` what its signers stated.

    ``signers`` are names with what they sign with, ``policy`` what is known of the policy it was installed by; ``unread`` says in
    sentences what could not be read.
    """

    label: str
    digest: str
    proven: bool
    proof: str
    said: Mapping[str, str]
    signers: Mapping[str, str]
    policy: Mapping[str, str]
    components: tuple[Component, ...]
    items: tuple[Item, ...]
    vulnerabilities: Vulnerabilities = NONE
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides and what moved from the one to the other; ``not_compared`` says in sentences what nobody should believe was."""

    old: Side
    new: Side
    differences: tuple[Difference, ...]
    not_compared: tuple[str, ...] = field(default=())

    @property
    def exit_code(self) -> Literal[0, 5]:
        """Return 5 if something could not be compared, else 0: that things moved is no failure."""
        return 5 if self.not_compared else 0

    def of(self, section: Section) -> tuple[Difference, ...]:
        """Return what moved in one section."""
        return tuple(entry for entry in self.differences if entry.section == section)


def compare(old: Side, new: Side) -> Comparison:
    """Return everything that moved from ``old`` to ``new``."""
    found = [
        *_texts("bundle", "", old.said, new.said),
        *_texts("policy", "", old.policy, new.policy),
        *_texts("signers", "", old.signers, new.signers),
        *_components(old, new),
        *_packages(old, new),
        *_texts("licences", "licence", _by_key(old.items, _licences), _by_key(new.items, _licences), both=True),
        *_files(old, new),
        *_vulnerabilities(old, new),
    ]
    place = {section: at for at, section in enumerate(SECTIONS)}
    found.sort(key=lambda entry: (place[entry.section], entry.subject, entry.what, entry.change, entry.old, entry.new))
    return Comparison(old, new, tuple(found), tuple(_not_compared(old, new)))


def _not_compared(old: Side, new: Side) -> Iterator[str]:
    for side in (old, new):
        yield from (f"{side.label}: {text}" for text in side.unread)
    if not (old.vulnerabilities.consulted and new.vulnerabilities.consulted):
        yield NO_DATA
        return
    for side in (old, new):
        count = side.vulnerabilities.counts["not assessed"]
        if count:
            total = len(side.vulnerabilities.items)
            yield f"{side.label}: {count} of {total} packages, models and images have no vulnerability data to be compared with."


def _texts(
    section: Section, what: str, old: Mapping[str, str], new: Mapping[str, str], *, both: bool = False
) -> Iterator[Difference]:
    """Yield how texts by name differ; with ``both`` only of names that both sides have."""
    for name in sorted(old.keys() & new.keys() if both else old.keys() | new.keys()):
        before, after = old.get(name, ""), new.get(name, "")
        if before != after:
            change: Change = "changed" if name in old and name in new else "added" if name in new else "removed"
            yield Difference(section, change, name, what, before, after)


def _components(old: Side, new: Side) -> Iterator[Difference]:
    before, after = ({part.name: part for part in side.components} for side in (old, new))
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name), after.get(name)
        if was is None or now is None:
            one = was or now
            assert one is not None  # noqa: S101 - the name is one of either side
            told = f"{one.kind}, {one.form}"
            yield Difference("components", "removed" if now is None else "added", name, "", told if was else "", told if now else "")
            continue
        fields = (("kind", was.kind, now.kind), ("role", was.role or "", now.role or ""))
        yield from (Difference("components", "changed", name, what, a, b) for what, a, b in fields if a != b)
        facts = sorted(was.facts.keys() | now.facts.keys())
        moved = [(key, was.facts.get(key, ""), now.facts.get(key, "")) for key in facts]
        yield from (Difference("components", "changed", name, key, a, b) for key, a, b in moved if a != b)


def _packages(old: Side, new: Side) -> Iterator[Difference]:
    before, after = _versions(old.items), _versions(new.items)
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key, {}), after.get(key, {})
        gone, come = sorted(was.keys() - now.keys()), sorted(now.keys() - was.keys())
        if len(gone) == 1 and len(come) == 1:
            yield Difference("packages", "changed", _subject(key), "version", gone[0], come[0])
            gone, come = [], []
        yield from (Difference("packages", "removed", _subject(key), "version", old=version) for version in gone)
        yield from (Difference("packages", "added", _subject(key), "version", new=version) for version in come)
        for version in sorted(was.keys() & now.keys()):
            a, b = was[version], now[version]
            if a and b and a != b:
                yield Difference("packages", "changed", _subject(key), f"content of {version}", _short(a), _short(b), SAME_VERSION)


def _versions(items: Iterable[Item]) -> dict[Key, dict[str, frozenset[str]]]:
    """Return the digests of each version of each package, model and image."""
    found: dict[Key, dict[str, set[str]]] = {}
    for item in items:
        if item.what in {"package", "model", "image"}:
            digests = found.setdefault(_key(item), {}).setdefault(item.version or "no version", set())
            digests.update([item.sha256] if item.sha256 else [])
    return {key: {version: frozenset(digests) for version, digests in versions.items()} for key, versions in found.items()}


def _files(old: Side, new: Side) -> Iterator[Difference]:
    before, after = _listed(old.items), _listed(new.items)
    for place in sorted(before.keys() | after.keys()):
        was, now = before.get(place), after.get(place)
        if was != now:
            change: Change = "added" if was is None else "removed" if now is None else "changed"
            yield Difference("files", change, "/".join(place), "", _file(was), _file(now))


def _listed(items: Iterable[Item]) -> dict[Key, tuple[str, int]]:
    """Return sha256 and size of the files of components that are there in both, and are no packages."""
    return {(item.component, file.path): (file.sha256, file.size) for item in items for file in item.files}


def _file(found: tuple[str, int] | None) -> str:
    return f"{found[1]} bytes, sha256 {found[0]}" if found else ""


def _vulnerabilities(old: Side, new: Side) -> Iterator[Difference]:
    if not (old.vulnerabilities.consulted and new.vulnerabilities.consulted):
        return
    before, after = _known(old), _known(new)
    there = {_key(item) for item in new.items}
    for place in sorted(before.keys() - after.keys()):
        key, name = place
        note = "" if key in there else GONE
        yield Difference("vulnerabilities", "removed", _subject(key), name, _grade(before[place]), note=note)
    for place in sorted(after.keys() - before.keys()):
        key, name = place
        yield Difference("vulnerabilities", "added", _subject(key), name, new=_grade(after[place]))


def _known(side: Side) -> dict[tuple[Key, str], Match]:
    items = {item.ref: item for item in side.items}
    return {(_key(items[match.ref]), match.name): match for match in side.vulnerabilities.standing}


def _grade(match: Match) -> str:
    score = f"CVSS {match.score}" if match.score is not None else f"severity {match.severity}"
    return f"{score}, known to be exploited" if match.kev else score


def _key(item: Item) -> Key:
    """Return by what an item is the same thing in another bundle: its component, and its name with what sort of package it is."""
    try:
        purl = PackageURL.from_string(item.purl or "")
    except ValueError:
        return item.component, f"{item.what} {item.name}"
    if purl.type in {"oci", "docker"}:
        return item.component, f"image {item.name}"
    return item.component, PackageURL(purl.type, purl.namespace, purl.name).to_string()


def _by_key(items: Iterable[Item], told: Callable[[Item], str]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for item in items:
        if item.what in {"package", "model", "image"}:
            found.setdefault(_subject(_key(item)), set()).add(told(item))
    return {key: "; ".join(sorted(texts)) for key, texts in found.items()}


def _licences(item: Item) -> str:
    return ", ".join(sorted({licence.text for licence in item.licences})) or "none stated"


def _subject(key: Key) -> str:
    return " ".join(key)


def _short(digests: frozenset[str]) -> str:
    return ", ".join(f"sha256 {digest}" for digest in sorted(digests))
