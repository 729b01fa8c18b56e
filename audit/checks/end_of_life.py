"""Nothing that is carried has lost its support: systems inside images, Python, Node, by a list of dates.

The list is data with a day of its own; it is held against the time of the assessment, so the answer changes while nothing is touched.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from datetime import date, timedelta
from importlib import resources
from typing import Any

from packageurl import PackageURL

from audit.checks import Examined, Finding, NotAssessed, Note, Subject
from audit.evidence.item import Item

ID = "end-of-life"
TITLE = "Nothing that is carried has lost its support"
GATE: str | None = "end_of_life"
BY_POLICY = True  # the answer depends on the day
LIMITS = (
    "Systems, Python and Node are looked for by the packages inside images; other products, and what was built from source, are not.",
    "Support that somebody pays for beyond the published date is not known here.",
)
DOC = "docs/checks.md#end-of-life"
DATA = "data/end_of_life.json"
SOON = timedelta(days=90)
WHOLE = frozenset({"rhel", "centos", "rocky", "almalinux", "debian", "nodejs"})  # released by whole numbers
_PYTHON = re.compile(r"python(\d\.\d+)(?:-minimal)?|libpython(\d\.\d+)-stdlib")
_NUMBER = re.compile(r"v?(\d+)(?:\.(\d+))?")


def run(subject: Subject) -> Iterator[Note]:
    """Judge every system and runtime that the packages of the inventory tell of."""
    if subject.now is None:
        return
    today = subject.now.date()
    for component, product, release in sorted(set(_products(subject.items))):
        listed = _list()["products"].get(product)
        if listed is None:
            yield NotAssessed(ID, component, "", f"{product} {release}: is not in the list of {_list()['asOf']}")
            continue
        ends = listed["releases"].get(release)
        if ends is None:
            yield NotAssessed(ID, component, "", f"{listed['title']} {release}: the list of {_list()['asOf']} has no such release")
            continue
        yield Examined(component, f"{product} {release}")
        yield from _judged(component, f"{listed['title']} {release}", date.fromisoformat(ends), today)


def _judged(component: str, name: str, ends: date, today: date) -> Iterator[Finding]:
    remedy = "take a release that is supported, or waive it in the policy until you can"
    if ends < today:
        message = f"{name} has had no security support since {ends}, by the list of {_list()['asOf']}"
        yield Finding(ID, "medium", component, "", message, remedy, DOC, about=name)
    elif ends - today <= SOON:
        message = f"{name} loses its security support on {ends}, by the list of {_list()['asOf']}"
        yield Finding(ID, "low", component, "", message, remedy, DOC, about=name)


def _products(items: tuple[Item, ...]) -> Iterator[tuple[str, str, str]]:
    """Yield component, product and release of everything the items tell of."""
    for item in items:
        if item.what != "package" or item.inside is None or not item.purl:
            continue
        system = _system(item.purl)
        if system:
            yield (item.component, *system)
        python = _PYTHON.fullmatch(item.name)
        if python:
            yield item.component, "python", python[1] or python[2]
        if item.name == "nodejs" and (number := _NUMBER.match((item.version or "").partition(":")[2] or item.version or "")):
            yield item.component, "nodejs", number[1]


@functools.lru_cache(maxsize=65536)
def _system(purl: str) -> tuple[str, str] | None:
    """Return system and release that a package of a system names in its qualifier ``distro``."""
    try:
        qualifiers = dict(PackageURL.from_string(purl).qualifiers)
    except ValueError:
        return None
    name, _, release = str(qualifiers.get("distro", "")).partition("-")
    number = _NUMBER.match(release)
    if not name or not number:
        return None
    return name, number[1] if name in WHOLE or not number[2] else f"{number[1]}.{number[2]}"


@functools.cache
def _list() -> dict[str, Any]:
    return dict(json.loads(resources.files("manifests").joinpath(DATA).read_bytes()))
