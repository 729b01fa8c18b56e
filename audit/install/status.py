"""What a store holds: which generation is current, which others stand there, and whether something was interrupted. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from audit import journal
from audit.install import receipts
from audit.install.receipts import Receipt
from audit.install.store import Store
from audit.journal import Entry, Head
from manifests.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation; ``receipt`` is None if it is missing or damaged."""

    number: int
    current: bool
    receipt: Receipt | None


@dataclass(frozen=True, slots=True)
class Status:
    """``interrupted`` is the operation that was begun last, if nothing says that it ended: killed, or still running."""

    store: Path
    current: int | None
    generations: tuple[Generation, ...]
    bundles: tuple[str, ...]
    interrupted: Entry | None
    journal: Head

    @property
    def receipt(self) -> Receipt | None:
        """Return the receipt of the current generation."""
        return next((generation.receipt for generation in self.generations if generation.current), None)


def status(folder: Path) -> Status:
    """Return what the store at ``folder`` holds; raises SiteError if there is none, IntegrityError if its journal is damaged."""
    store = Store.existing(folder)
    current = store.current()
    last = _last(store)
    head = Head(last.sequence, last.sha256) if last else Head(0, journal.GENESIS)
    found = tuple(Generation(number, number == current, _receipt(store, number)) for number in store.generations())
    return Status(store.root, current, found, tuple(digest.hex for digest in store.bundles()), interrupted(store), head)


def interrupted(store: Store) -> Entry | None:
    """Return the operation that was begun last if nothing says that it ended; raises IntegrityError if the journal is damaged."""
    last = _last(store)
    return last if last and last.outcome == "begun" else None


def _last(store: Store) -> Entry | None:
    last: Entry | None = None
    for entry in journal.entries(store.root):
        last = entry
    return last


def _receipt(store: Store, number: int) -> Receipt | None:
    try:
        return receipts.read(store, number)
    except IntegrityError:
        return None
