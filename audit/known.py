"""What is known today about what was installed earlier: its packages, compared with the data that came with bundles or as feeds.

Rules: what is installed is not proven again here (``drift`` compares it), it is only read; the checks are those whose result changes while
nothing is touched; what cannot be read is not assessed. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from airgap_images.bundle import Component
from audit.checks import CheckResult, Gate, NotAssessed, Subject, gate, load, names, run_all
from audit.evidence import inventory
from audit.install import feed, generations, memory, receipts
from audit.install.store import POLICY, Store
from audit.verify import pinned
from audit.verify.walk import Watch
from audit.vulnerabilities.assess import assess as compared
from audit.vulnerabilities.result import NONE, Vulnerabilities
from manifests.errors import AirgapError
from manifests.policy import Policy

AGEING = tuple(name for name in ("end_of_life", "vulnerabilities") if name in names())  # the checks whose result changes with time


@dataclass(frozen=True, slots=True)
class Known:
    """What the checks found, decided by the policy in force, and the comparison behind it."""

    results: tuple[CheckResult, ...]
    gate: Gate
    vulnerabilities: Vulnerabilities

    @property
    def exit_code(self) -> int:
        """Return 4 for findings the policy does not let through, else 5 if anything was not assessed, else 0."""
        return self.gate.exit_code


def known(folder: Path, state_folder: Path | None, now: datetime, watch: Watch) -> Known:
    """Compare what is installed in the store at ``folder`` with all data it holds; raises SiteError if there is no such store.

    Where the receipt, the bundle's index or the policy is damaged, nothing is assessed, and that is the result.
    """
    store = Store.existing(folder)
    try:
        number = store.current()
        receipt = receipts.read(store, number or 0)
        parts = generations.components_of(store, receipt.digest)
        policy = _policy(store, state_folder or store.root, receipt)
    except AirgapError as error:
        note = NotAssessed("vulnerabilities", "", "", f"what is installed cannot be read: {error.message}")
        return Known((), Gate((), (), (note,)), NONE)
    return judged(store, parts, policy, now, watch)


def judged(store: Store, parts: Iterable[Component], policy: Policy, now: datetime, watch: Watch) -> Known:
    """Return what is known about the components ``parts`` of a bundle in a store."""
    chosen = tuple(parts)
    data = feed.held(store)
    opened = tuple(part for part in chosen if data or part.form == "tree")
    items = inventory.of_components(store.layout, opened, {}, watch)
    found = compared(items, data)
    results = run_all(Subject(store.layout, chosen, policy, items=items, vulnerabilities=found, now=now), map(load, AGEING))
    return Known(results, gate(results, policy.gates, policy.waivers, now), found)


def _policy(store: Store, folder: Path, receipt: receipts.Receipt) -> Policy:
    """Return the policy in force for what is installed, else the one it was installed by."""
    used = memory.in_force(store, folder, receipt.stream) or pinned.read(store.bundle(receipt.digest) / POLICY)
    return used.policy
