"""Install a bundle: prove it, gate it, put it in place as a new generation, switch to it.

The order is what makes a kill harmless, at any point:

1. prove every byte, into the store; run the checks; a refusal ends here with nothing installed;
2. if a generation of exactly this bundle stands whole, use it; else make one, under a temporary name;
3. remember the serial *before* anything takes effect, so that no older bundle is accepted once a newer one had any;
4. give images (and trees, where they take them) to the targets, noting each as ours first;
5. the generation appears with its receipt in one rename; ``current`` switches in another; the journal says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from airgap_images.bundle import tree_files
from airgap_images.layout import PlaceMode
from airgap_images.oci import Digest
from airgap_images.targets import Target
from audit import journal
from audit.checks import Check, CheckResult, Gate, Subject, gate, run_all, told
from audit.evidence import inventory
from audit.install import feed, generations, images, memory, receipts, space
from audit.install.receipts import Receipt
from audit.install.store import POLICY, Store, locked, refusing, remove
from audit.install.trees import Hashes, inode_of
from audit.journal import Head
from audit.verify import state
from audit.verify.pinned import Presented
from audit.verify.result import VerifiedBundle
from audit.verify.succession import Succession
from audit.verify.walk import Place, Silent, Watch, verify
from audit.vulnerabilities import feeds
from audit.vulnerabilities.assess import assess as compared
from manifests.errors import AirgapError, FindingsError, IntegrityError, RefusedError, SiteError
from manifests.policy import Policy
from manifests.site import Site

MAX_REASONS = 8  # of a refusal, in the journal and in the message of what a gate refuses


class GateError(FindingsError):
    """The checks found what the policy does not let through; ``gate`` has all of it."""

    def __init__(self, decided: Gate) -> None:
        lines = _lines(decided)
        more = f"; and {len(lines) - MAX_REASONS} more findings" if len(lines) > MAX_REASONS else ""
        super().__init__(f"{'; '.join(lines[:MAX_REASONS])}{more}", hint=decided.refused[0].remedy)
        self.gate = decided


@dataclass(frozen=True, slots=True)
class Installed:
    """What an install did. ``changed`` is False if exactly this stood there whole already.

    ``fresh`` says that the site remembered nothing of the stream: no older bundle could have been refused.
    ``journal`` is the head of the journal now, to be noted elsewhere; ``notes`` is what targets say of what they got.
    """

    store: Path
    changed: bool
    generation: int
    previous: int | None
    receipt: Receipt
    bundle: VerifiedBundle
    checks: tuple[CheckResult, ...]
    gate: Gate
    fresh: bool
    journal: Head
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """Return 5 if a check could not assess something, else 0."""
        return self.gate.exit_code


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be installed, how and where."""

    store: Store
    place: Place
    policy: Presented
    targets: tuple[Target, ...]
    mode: PlaceMode
    checks: tuple[Check, ...] | None
    watch: Watch
    state_folder: Path
    now: datetime


@dataclass(frozen=True, slots=True)
class _Accepted:
    """A proven bundle that passed the gate, and the files that are kept of it beside its blobs."""

    bundle: VerifiedBundle
    files: tuple[tuple[str, bytes], ...]
    checks: tuple[CheckResult, ...]
    gate: Gate
    fresh: bool
    succession: Succession | None


def install(
    place: Place,
    policy_raw: bytes,
    site: Site,
    *,
    now: datetime,
    copy: bool | None = None,
    targets: Iterable[Target] = (),
    watch: Watch | None = None,
    state_folder: Path | None = None,
    checks: Iterable[Check] | None = None,
    policy_files: Iterable[tuple[str, bytes]] = (),
) -> Installed:
    """Prove the bundle at ``place`` and make it the current generation of the site's store.

    ``copy`` (default: as the site says) gives files bytes of their own; ``state_folder`` is where the site remembers serials
    (default: the store); ``policy_files`` are the signatures of a policy that is to follow the one in force. Raises RefusedError if
    policy or bundle is not proven, GateError if a finding is refused, SiteError if this machine cannot; then nothing is installed
    and the journal says why.
    """
    store = Store.create(site.store)
    mode: PlaceMode = "copy" if (site.copy_files if copy is None else copy) else "link"
    chosen = None if checks is None else tuple(checks)
    policy = Presented(policy_raw, tuple(policy_files))
    order = _Order(store, place, policy, tuple(targets), mode, chosen, watch or Silent(), state_folder or store.root, now)
    with locked(store):
        try:
            with refusing(store):
                receipts.complete(store, now)
                return _install(order, site)
        except AirgapError as error:
            with contextlib.suppress(AirgapError), refusing(store):  # the reason matters more than that it could not be noted
                remove(store.new_generation)
                journal.append(store.root, "install", "refused" if error.exit_code > 2 else "failed", _reasons(order, error), now=now)  # noqa: PLR2004
            raise


def _install(order: _Order, site: Site) -> Installed:
    accepted = _accept(order)
    _check_reached(order, accepted.bundle, site)
    previous = order.store.current()
    standing = _standing(order, accepted, previous)
    if standing is None:
        return _make(order, accepted, previous)
    _remember(order, accepted)
    parts = accepted.bundle.components
    lost = any(images.missing(order.store, parts, standing, target) for target in order.targets)
    changed = lost or standing.generation != previous
    if changed:
        _begin(order, accepted, standing.generation)
        images.place(order.store, parts, order.targets, order.watch)
    return _finish(order, accepted, standing, previous, changed=changed)


def _check_reached(order: _Order, bundle: VerifiedBundle, site: Site) -> None:
    """Raise SiteError if the site names a target that was not passed in, and the bundle has something for it."""
    reached = {target.name.partition(" ")[0] for target in order.targets}
    forms = {cargo.form for cargo in images.cargoes(bundle.components)}
    trees = {"layout", *(("registry",) if site.registry and site.registry.trees else ())}
    for kind in site.targets:
        if kind not in reached and ("image" in forms or (kind in trees and forms)):
            message = f"the site's {'engine' if kind == site.engine else 'target'} is {kind}, and none was reached"
            raise SiteError(message, hint="start it, or take it out of the site's file to go without")


def _accept(order: _Order) -> _Accepted:
    raw, policy = order.policy.raw, order.policy.policy
    known, succession = memory.remembered(order.policy, order.now, order.state_folder, (order.store.root,))
    layout, link = order.store.layout, order.mode == "link"
    watch = space.Roomy(order.watch, order.place, layout, link)
    bundle = verify(order.place, raw, memory=known, now=order.now, into=layout, link=link, watch=watch)
    results = run_all(_subject(order.store, bundle, policy, order.now), order.checks)
    decided = gate(results, policy.gates, policy.waivers, order.now)
    if decided.refused:
        raise GateError(decided)
    return _Accepted(bundle, (*bundle.files, (POLICY, raw)), results, decided, known.fresh, succession)


def _subject(store: Store, bundle: VerifiedBundle, policy: Policy, now: datetime) -> Subject:
    """Return what the checks look at; images are opened only if there is vulnerability data, carried or imported, to compare them with."""
    data = (*feeds.carried(bundle.layout, bundle.components, str(bundle.digest)), *feed.held(store))
    opened = tuple(part for part in bundle.components if data or part.form == "tree")
    items = inventory.of_components(bundle.layout, opened, {})
    platform = dict(bundle.index.annotations).get("airgap.target.platform")
    return Subject(
        bundle.layout, bundle.components, policy, items=items, vulnerabilities=compared(items, data), now=now, platform=platform
    )


def _remember(order: _Order, accepted: _Accepted) -> None:
    state.record(order.state_folder, accepted.bundle, order.now)
    if accepted.succession:
        memory.note_succession(order.store, order.policy, accepted.succession, order.now)


def _standing(order: _Order, accepted: _Accepted, current: int | None) -> Receipt | None:
    """Return the receipt of a generation that is exactly what would be made now and stands whole, the current one first."""
    bundle = accepted.bundle
    files = {name: Digest.of(raw).hex for name, raw in accepted.files}
    hashes = Hashes(order.watch)  # what `verify` has just hashed need not be hashed again
    hashes.known.update((inode, digest) for digest, _ in bundle.blobs if (inode := inode_of(bundle.layout.path(digest))))
    for number in sorted(order.store.generations(), key=lambda number: (number != current, -number)):
        try:
            receipt = receipts.read(order.store, number)
        except IntegrityError:
            continue  # `check` tells of it; here it only means that this generation is not one to rely on
        if receipt.digest != bundle.digest or receipt.files != files:
            continue
        if order.mode == "copy" and any(tree.mode != "copy" for tree in receipt.trees):
            continue
        if not images.complete(receipt, bundle.components, order.targets):
            continue
        if not generations.whole(order.store, receipt, bundle.components, hashes):
            order.store.keep(bundle.digest, accepted.files)
            return receipt
    return None


def _make(order: _Order, accepted: _Accepted, previous: int | None) -> Installed:
    store, bundle = order.store, accepted.bundle
    number = max((0, *store.generations(), *store.receipts())) + 1
    _begin(order, accepted, number)
    _require_room(order, bundle)
    generations.sync_blobs(store.layout, (digest for digest, _ in bundle.blobs))
    store.keep(bundle.digest, accepted.files)
    trees = generations.build(store, bundle.components, order.mode, order.watch.moved)
    _remember(order, accepted)
    placed = images.place(store, bundle.components, order.targets, order.watch)
    trees = tuple(tree.model_copy(update={"placements": placed.get(tree.name, ())}) for tree in trees)
    receipt = receipts.make(bundle, number, accepted.files, (trees, images.receipts_of(bundle.components, placed)), accepted.checks)
    generations.publish(store, receipt)
    return _finish(order, accepted, receipt, previous, changed=True)


def _require_room(order: _Order, bundle: VerifiedBundle) -> None:
    layout = bundle.layout
    files = {file.digest: file.size for part in bundle.components if part.form == "tree" for file in tree_files(layout, part.root)}
    total = sum(file.size for part in bundle.components if part.form == "tree" for file in tree_files(layout, part.root))
    largest = max(files, key=lambda digest: files[digest], default=None)
    shared = largest is None or space.shares(layout, largest, files[largest], layout, link=order.mode == "link")
    space.require(layout, 0 if shared else total, "the generation")
    if order.mode == "copy":
        order.watch.begin(total)


def _begin(order: _Order, accepted: _Accepted, number: int) -> None:
    journal.append(order.store.root, "install", "begun", _facts(accepted.bundle, number), now=order.now)


def _finish(order: _Order, accepted: _Accepted, receipt: Receipt, previous: int | None, *, changed: bool) -> Installed:
    store, number, raw = order.store, receipt.generation, receipt.to_bytes()
    receipts.keep(store, number, raw)
    if store.current() != number:
        store.switch(number)
    said = {**_facts(accepted.bundle, number), "receipt": Digest.of(raw).hex, "mode": order.mode}
    head = journal.append(store.root, "install", "done" if changed else "unchanged", said, now=order.now)
    notes = images.notes(order.targets)
    done = (accepted.bundle, accepted.checks, accepted.gate, accepted.fresh)
    return Installed(store.root, changed, number, previous, receipt, *done, head, notes)


def _facts(bundle: VerifiedBundle, number: int) -> dict[str, str]:
    return {
        "bundle": str(bundle.digest),
        "stream": bundle.statement.stream,
        "serial": str(bundle.statement.serial),
        "generation": str(number),
        "policy": f"sha256:{bundle.policy_sha256}",
        "policyVersion": str(bundle.policy_version),
        "signers": ", ".join(signature.signer for signature in bundle.signatures),
    }


def _reasons(order: _Order, error: AirgapError) -> dict[str, str]:
    failures = error.failures if isinstance(error, RefusedError) else (error,)
    lines = _lines(error.gate) if isinstance(error, GateError) else [failure.message for failure in failures]
    said = {f"reason{at}": line for at, line in enumerate(lines[:MAX_REASONS], start=1)}
    return {"from": str(order.place.files), "reasons": str(len(lines)), **said}


def _lines(decided: Gate) -> list[str]:
    return [f"{finding.id}: {told(finding)}" for finding in decided.refused]
