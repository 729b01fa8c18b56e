"""The chain of custody: from the address it was fetched from, over the signed lock and the signed bundle, to where it is installed.

Rules: each link is stated by a signed or a compared file, and named with its digest; a link that is not there is said to be unknown
or not compared; addresses lose user names, passwords and queries.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from audit.evidence.addresses import origin
from audit.evidence.assessment import Drift, Proof
from audit.evidence.item import LOCAL, Item
from manifests.lock import LockedComponent, Pin

MAX_PINS = 1000  # pinned files of one component in the report; all are in bundle.lock.json
_REVISION = ("commit", "revision", "digest", "version", "resolved")  # of an identity or the facts, the most exact first


@runtime_checkable
class Placed(Protocol):
    """A comparison with what is installed that knows where that is."""

    @property
    def store(self) -> Path:
        """The store that was compared."""

    @property
    def generation(self) -> int | None:
        """The generation in use, None if there is none."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """One file that the lock pins: ``below`` is what its address adds to the common one, ``carried`` whether the bundle has these bytes."""

    path: str
    below: str
    sha256: str
    size: int
    carried: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """One component from its source to its place.

    ``source`` is the address common to its files, None if unknown; ``revision`` what was resolved; ``stated`` what the lock says it
    is; ``pins`` the files, of ``count`` in the lock; ``lost`` of them are not in the bundle under their digest; ``place`` is the
    folder or the name in its target, None if nothing was compared.
    """

    whole: Item
    source: str | None
    revision: str | None
    stated: tuple[tuple[str, str], ...]
    pins: tuple[Pinned, ...]
    count: int
    lost: int
    place: str | None


def chains(proof: Proof) -> Iterator[Chain]:
    """Yield the chain of every component, in the order of the inventory."""
    carried = frozenset(digest.hex for digest, _ in proof.bundle.blobs)
    for whole in proof.inventory.components:
        locked = proof.inventory.locked.get(whole.component)
        yield _chain(whole, locked, carried, _place(proof.drift, whole.component))


def _chain(whole: Item, locked: LockedComponent | None, carried: frozenset[str], place: str | None) -> Chain:
    if locked is None:
        return Chain(whole, whole.origin, whole.revision, (), (), 0, 0, place)
    addresses = [origin(pin.url) or "" for pin in locked.files]
    common = _common(addresses)
    named = {**locked.facts, **locked.identity}
    revision = whole.revision or next((named[key] for key in _REVISION if named.get(key)), None)
    pins = tuple(
        _pinned(pin, address.removeprefix(common), carried)
        for pin, address in zip(locked.files[:MAX_PINS], addresses[:MAX_PINS], strict=True)
    )
    lost = sum(pin.sha256 not in carried for pin in locked.files)
    source = common or whole.origin
    return Chain(whole, source, revision, _stated(locked.identity), pins, len(locked.files), lost, place)


def _pinned(pin: Pin, below: str, carried: frozenset[str]) -> Pinned:
    return Pinned(pin.path, below, pin.sha256, pin.size, pin.sha256 in carried)


def _stated(identity: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return what the lock calls it, addresses without what does not belong into a document."""
    return tuple((key, (origin(text) or "unknown") if "://" in text else text) for key, text in sorted(identity.items()))


def _common(addresses: list[str]) -> str:
    if not addresses or LOCAL in addresses:
        return LOCAL if addresses and set(addresses) == {LOCAL} else ""
    first, last = (address.split("/")[:-1] for address in (min(addresses), max(addresses)))
    shared = [one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
    return "/".join(shared) + "/" if len(shared) >= 3 else ""  # noqa: PLR2004 - https://host/


def _place(drift: Drift | None, component: str) -> str | None:
    if not isinstance(drift, Placed) or drift.generation is None:
        return None
    receipt = getattr(drift, "receipt", None)
    for entry in receipt.items if receipt else ():
        if entry.name == component:
            given = [f"{put.target}: {', '.join(put.tags) or put.id}" for put in entry.placements]
            tree = [str(drift.store / "generations" / str(drift.generation) / component)] if hasattr(entry, "files") else []
            return "; ".join(tree + given) or f"in no target: {getattr(entry, 'reason', None) or 'for no stated reason'}"
    return None
