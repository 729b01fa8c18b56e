"""The values of what is inside an image. Rule: every text is as a database in the image states it; nobody has judged it here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from packageurl import PackageURL

MAX_FIELD = 1024  # characters of a name or version; more is no name
_PARTY = re.compile(r"([^<>]*)<([^<>\s]+@[^<>\s]+)>.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Package:
    """One package inside an image.

    ``path`` is the file that states it and ``layer`` the digest (hex) of the layer that brought that file. ``source`` is
    what upstream calls the package it was built from. ``files`` are the paths it owns; one that ends in ``/`` stands for all below it.
    ``producer`` is who maintains or sells it, ``contact`` an address of theirs. ``needs`` are the names it depends on, each with its
    alternatives, () if it states that it needs nothing, None where nothing states it; ``provides`` are further names it answers to.
    """

    type: str
    name: str
    version: str
    purl: str | None
    path: str
    layer: str
    arch: str = ""
    source: str = ""
    licences: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    producer: str = ""
    contact: str = ""
    needs: tuple[tuple[str, ...], ...] | None = None
    provides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gap:
    """What should have been read in an image and could not be, and why."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Release:
    """What ``os-release`` says of the system; empty where it says nothing."""

    id: str = ""
    version: str = ""
    name: str = ""

    @property
    def distro(self) -> str:
        """The qualifier ``distro`` of a purl."""
        return f"{self.id}-{self.version}" if self.id and self.version else self.id


class Text(NamedTuple):
    """A small file of the image: its path, its bytes, and the digest of its layer (hex)."""

    path: str
    data: bytes
    layer: str

    def lines(self) -> Iterator[str]:
        """Yield its lines; what is not UTF-8 stays recognisable."""
        return iter(self.data.decode("utf-8", "backslashreplace").split("\n"))


def make_purl(
    kind: str, namespace: str, name: str, version: str, *, qualifiers: Mapping[str, str] | None = None, subpath: str = ""
) -> str | None:
    """Return a package URL without empty qualifiers, or None where the texts make none."""
    if max(len(namespace), len(name), len(version), len(subpath)) > MAX_FIELD:
        return None
    stated = {key: text for key, text in (qualifiers or {}).items() if text}
    try:
        return PackageURL(kind, namespace or None, name, version or None, stated, subpath or None).to_string()
    except (ValueError, TypeError):  # TypeError: the library's own, for a name of which nothing is left, such as "/"
        return None


def party(text: str) -> tuple[str, str]:
    """Split ``Name <mail@host>`` into name and address; either may be empty."""
    found = _PARTY.fullmatch(text[: 2 * MAX_FIELD].strip())
    return (found[1].strip(" \"'"), found[2].strip()) if found else (text[:MAX_FIELD].strip(), "")
