"""What METADATA or PKG-INFO of a Python distribution states (Python packaging specifications, "core metadata")."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from manifests.paths import printable

MAX_LICENCE = 100  # characters; longer values of ``License`` are licence texts, not names
MAX_REQUIRES = 2_000  # lines of Requires-Dist
MAX_REQUIRE = 1_000  # characters of one
HOMES = ("homepage", "home", "home-page", "repository", "source", "source code", "github", "documentation", "docs")
_ADDRESS = re.compile(r"<([^<>\s]+@[^<>\s]+)>")
_MAIL = re.compile(r"\s*<[^<>]*>")
_UNKNOWN = frozenset({"", "unknown", "none", "other", "n/a"})

Licences = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Metadata:
    """What it states; ``name`` as it is written, ``licences`` as (text, field it stood in).

    ``contact`` is an address of the web or of mail; ``requires`` are the lines of ``Requires-Dist`` (PEP 508).
    """

    name: str
    version: str
    licences: Licences
    author: str | None
    contact: str | None = None
    requires: tuple[str, ...] = ()


def parse(text: str) -> Metadata | None:
    """Return what the headers state, or None where name or version are missing."""
    fields: dict[str, list[str]] = {}
    for key, value in _headers(text):
        fields.setdefault(key, []).append(value)
    name, version = (fields.get(key, [""])[0] for key in ("name", "version"))
    if not name or not version:
        return None
    requires = tuple(line for line in fields.get("requires-dist", [])[:MAX_REQUIRES] if len(line) <= MAX_REQUIRE)
    return Metadata(name, version, _licences(fields), _author(fields), _contact(fields), requires)


def normalised(name: str) -> str:
    """Return a distribution's name in its one form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _headers(text: str) -> Iterator[tuple[str, str]]:
    key, value = "", ""
    for line in (*(line.rstrip("\r") for line in text.split("\n")), ""):
        if line[:1] in {" ", "\t"} and key:
            value += "\n" + line.strip()
            continue
        if key:
            yield key, value.strip()
        if not line:
            return
        key, _, value = line.partition(":")
        key = key.strip().lower()


def _licences(fields: dict[str, list[str]]) -> Licences:
    if stated := _known(fields.get("license-expression", [])):
        return ((stated[0], "License-Expression"),)
    classes = [value.rsplit("::", 1)[-1].strip() for value in fields.get("classifier", []) if value.startswith("License ::")]
    stated = _known(fields.get("license", []))
    if stated and len(stated[0]) <= MAX_LICENCE and "\n" not in stated[0]:
        return ((stated[0], "License"),)
    named = tuple((text, "Classifier") for text in _known(classes) if text != "OSI Approved")
    if named or not stated:
        return named
    return ((printable(stated[0].splitlines()[0], MAX_LICENCE), "License, first line of a text"),)


def _author(fields: dict[str, list[str]]) -> str | None:
    for key in ("author", "maintainer", "author-email", "maintainer-email"):
        for value in _known(fields.get(key, [])):
            first = value.splitlines()[0]
            return printable(_MAIL.sub("", first).strip() or first)  # names are enough; addresses of persons need not travel on
    return None


def _contact(fields: dict[str, list[str]]) -> str | None:
    """Return the home page, or else the first address of mail."""
    pages = {label.strip().lower(): url.strip() for label, _, url in (value.partition(",") for value in fields.get("project-url", []))}
    home = next((pages[label] for label in HOMES if pages.get(label)), None) or next(iter(_known(fields.get("home-page", []))), None)
    if home:
        return home.splitlines()[0]
    mails = (found for key in ("author-email", "maintainer-email") for value in fields.get(key, []) for found in _ADDRESS.findall(value))
    return next(mails, None)


def _known(values: list[str]) -> list[str]:
    return [value for value in values if value.strip().lower() not in _UNKNOWN]
