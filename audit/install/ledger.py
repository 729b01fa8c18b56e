"""``images.json``: what this store put into targets. Written before anything is put there: after a kill it is known what is ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import Field, model_validator

from audit import sealed
from audit.install.store import LEDGER, Store, remove
from manifests.lock import Name, Sha256

MAX_LEDGER = 64 << 20  # bytes; 4096 components in many targets take about 10 MB
DAMAGED = "restore it from a backup; if it is removed, what was placed until now stays in its targets when the store is uninstalled"


class Own(sealed.Written):
    """One component this store put into ``target``; ``manifest`` is the sha256 (hex) of its root manifest or index.

    ``tags`` are the names it got because of this store: only they are taken away again. ``id`` is the target's, empty until
    it is known. ``before``: the target had it already, so only those names are ours. ``displaced`` is what names led to before
    that was not of this store; they are not given back.
    """

    target: str
    component: Name
    manifest: Sha256
    id: str = ""
    tags: tuple[str, ...] = Field(default=(), strict=False)
    before: bool = False
    displaced: dict[str, str] = Field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """Return what there is one entry for."""
        return self.target, self.component, self.manifest


class Ledger(sealed.Written):
    """The whole file, sorted."""

    placed: tuple[Own, ...] = Field(default=(), strict=False)

    @model_validator(mode="before")
    @classmethod
    def _first_form(cls, value: Any) -> Any:
        """Read the first form, too: one engine, by the sha256 of the image's root."""
        if not isinstance(value, dict) or set(value) != {"images"} or not isinstance(value["images"], dict):
            return value
        return {"placed": [_moved(manifest, own) for manifest, own in sorted(value["images"].items())]}


def read(store: Store) -> tuple[Own, ...]:
    """Return everything this store put into targets; raises IntegrityError if the file is damaged."""
    found = sealed.read(store.root / LEDGER, Ledger, limit=MAX_LEDGER, hint=DAMAGED)
    return found.placed if found else ()


def note(store: Store, own: Own) -> None:
    """Take note of something that is about to be put into a target, or of what is known of it by now."""
    _write(store, (*(entry for entry in read(store) if entry.key != own.key), own))


def forget(store: Store, own: Own) -> None:
    """Take note that something is no longer in its target because of this store."""
    _write(store, (entry for entry in read(store) if entry.key != own.key))


def _write(store: Store, entries: Iterable[Own]) -> None:
    placed = tuple(sorted(entries, key=lambda entry: entry.key))
    if not placed:
        remove(store.root / LEDGER)
    elif placed != read(store):
        sealed.write(store.root / LEDGER, Ledger(placed=placed))


def _moved(manifest: str, own: Any) -> Any:
    if not isinstance(own, dict) or set(own) != {"engine", "component", "tags"}:
        return own
    return {"target": own["engine"], "component": own["component"], "manifest": manifest, "tags": own["tags"]}
