"""The values of an inventory. Rules: ``None`` and ``()`` mean unknown, never "none"; every item says what was read of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from airgap_images.bundle import Component, TreeFile
from airgap_images.oci import Digest, Pairs
from manifests.lock import LockedComponent

LOCAL = "local"  # the origin of what was not fetched from anywhere

What = Literal["model", "package", "image", "file", "files"]
Reading = Literal["read", "listed", "unreadable"]


@dataclass(frozen=True, slots=True)
class Licence:
    """A licence as somebody stated it, and where; nobody has judged it here."""

    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of an item was looked into.

    ``read``: it was asked what it is; ``listed``: its files are listed with their digests, not interpreted;
    ``unreadable``: it should have been read and could not be, or not all of it.
    """

    reading: Reading
    reason: str = ""


@dataclass(frozen=True, slots=True)
class File:
    """One file of an item: relative path in the component, sha256 (hex), size in bytes, sha512 (hex) where it was computed."""

    path: str
    sha256: str
    size: int
    sha512: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in the bundle.

    ``ref`` is unique in the bundle; an item without ``path`` is a component as a whole, one with ``path`` lies inside it, and
    ``inside`` is the ``ref`` of the part it lies in if it is not the component. ``sha256`` is that of the file; of a model, an image
    or several files it is that of the OCI manifest which lists them; a package inside an image has none, and no size. ``files`` are
    those that are no items of their own. ``origin`` is an address without user name, password and query, the hosts when there are
    several files, or ``local``. ``facts`` are further statements of the lock, or of what was read. ``sha512`` (hex) is of the same bytes as
    ``sha256``, where they were read for it. ``contact`` is a URL or e-mail of ``producer``; ``revision`` the commit or source
    package it was made from. ``licences`` are declared; ``concluded`` are read from licence texts that lie in the item. ``requires``
    are the ``ref`` of items it needs, () if it states that it needs none here, None if that is unknown.
    """

    ref: str
    component: str
    kind: str
    role: str | None
    what: What
    name: str
    version: str | None
    sha256: str | None
    size: int | None
    coverage: Coverage
    path: str | None = None
    purl: str | None = None
    licences: tuple[Licence, ...] = ()
    producer: str | None = None
    origin: str | None = None
    files: tuple[File, ...] = ()
    facts: Pairs = ()
    inside: str | None = None
    sha512: str | None = None
    contact: str | None = None
    revision: str | None = None
    concluded: tuple[Licence, ...] = ()
    requires: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """A component with what its verified manifests list; ``problem`` says why they could not be read.

    For a tree ``files`` are its files; for an image ``blobs`` are all its manifests, configurations and layers. ``sha512`` (hex) is
    that of each blob of the bundle, where it was computed.
    """

    component: Component
    files: tuple[TreeFile, ...]
    blobs: tuple[tuple[str, int], ...]
    problem: str
    locked: LockedComponent | None
    sha512: Mapping[Digest, str] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, str]:
        """What upstream calls it and what was recorded when it was locked, as the signed index says."""
        return self.component.facts

    @property
    def size(self) -> int:
        """Bytes of its distinct blobs."""
        return sum(dict(self.blobs).values())
