"""Sources: one file per kind of component, found by being in this folder.

A source turns what the user asked for into pins and fetches nothing else than what it must read to pin. Its module has

- ``Options``: a ``Frozen`` model of the fields a component of this kind takes beside ``name``, ``kind`` and ``role``;
- ``resolve(name, role, options, context) -> LockedComponent``;
- ``credentials(client, registries) -> Credentials``: how to authenticate to the hosts its pins name;
- optionally ``addresses(url, registries)``: every address of a pin's bytes, in the order to try; else the pin's own;
- optionally ``companions(locked, options, context)``: further components that belong to one, named ``<its name>.<word>``.

Adding a kind is adding a file. A module whose name starts with ``_`` is no kind, but what kinds share.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol, cast

from airgap_images.layout import Layout
from airgap_images.remote.http import Client, Credentials
from airgap_images.remote.registries import Registries
from manifests.errors import InvalidFileError
from manifests.lock import Frozen, LockedComponent, Target


@dataclass(frozen=True, slots=True)
class Context:
    """What every source may use while resolving.

    ``folder`` is where the intent stands (local paths are relative to it); ``cache`` keeps bytes that had to be read
    to pin them, so that the build need not fetch them again; ``previous`` is what the old lock says of this
    component, ``beside`` of those its source put beside it; ``uploaded_before`` is the quarantine limit for sources that
    know upload times; ``registries`` is what this host says of registries; ``environment`` says where its engine listens.
    """

    folder: Path
    target: Target
    previous: LockedComponent | None
    cache: Layout
    client: Client
    uploaded_before: datetime | None
    warn: Callable[[str], None]
    registries: Registries = field(default_factory=Registries)
    beside: tuple[LockedComponent, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


class Source(Protocol):
    """The shape of a source module."""

    Options: type[Frozen]

    def resolve(self, name: str, role: str | None, options: Frozen, context: Context) -> LockedComponent:
        """Return the component with every byte pinned."""

    def credentials(self, client: Client, registries: Registries) -> Credentials:
        """Return how to authenticate to the hosts this kind's pins name."""


def kinds() -> tuple[str, ...]:
    """Return every kind there is a source for, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")))


def load(kind: str) -> Source:
    """Return the source module of ``kind``; raises InvalidFileError naming the kinds there are."""
    if kind not in kinds():
        raise InvalidFileError(f"kind {kind!r} has no source in this version", hint=f"kinds: {', '.join(kinds())}")
    return cast("Source", importlib.import_module(f"{__name__}.{kind}"))


def addresses(kind: str, url: str, registries: Registries) -> tuple[str, ...]:
    """Return every address of a pin of this kind, in the order to try."""
    found: Callable[[str, Registries], tuple[str, ...]] | None = getattr(load(kind), "addresses", None)
    return found(url, registries) if found else (url,)


def companions(locked: LockedComponent, options: Frozen, context: Context) -> tuple[LockedComponent, ...]:
    """Return what the source of a resolved component puts beside it."""
    make = getattr(load(locked.kind), "companions", None)
    return cast("tuple[LockedComponent, ...]", make(locked, options, context)) if make else ()
