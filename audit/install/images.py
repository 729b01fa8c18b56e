"""Targets: give images (and trees, where a target takes them) to container engines, registries and folders, and take them out again.

The ledger is written before anything is put into a target, so that after a kill the store still knows what is its own: only
that is removed again. Nothing here knows an engine; the caller passes targets in.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from airgap_images.bundle import Component, unwrap
from airgap_images.oci import INDEXES, MANIFESTS, MAX_MANIFEST, Descriptor, Digest, parse_document
from airgap_images.targets import Cargo, Form, Placed, Target
from audit.install import ledger
from audit.install.ledger import Own
from audit.install.receipts import ImageReceipt, Placement, Receipt
from audit.install.store import Store
from audit.install.trees import Damage
from audit.verify.walk import Watch
from manifests.errors import AirgapError

UPSTREAM = ".upstream"  # the end of the name of the tree with an image's signatures and attestations
NO_ENGINE = "engine none: the image is in the store, no container engine was given it"
FORMS: Mapping[str, Form] = {"image": "image", "tree": "tree"}

Placements = dict[str, tuple[Placement, ...]]  # by component


@dataclass(frozen=True, slots=True)
class Left:
    """Something that stays where it is, and why."""

    component: str
    reason: str


def place(store: Store, components: Iterable[Component], targets: Iterable[Target], watch: Watch) -> Placements:
    """Give every component to every target that takes its form; return where each then is."""
    parts, targets = tuple(components), tuple(targets)
    placed: Placements = {}
    for cargo in cargoes(parts):
        placed[cargo.name] = tuple(_place(store, cargo, target, watch) for target in targets if cargo.form in target.forms)
    return placed


def receipts_of(components: Iterable[Component], placed: Placements) -> tuple[ImageReceipt, ...]:
    """Return what the receipt says of the images, those no target took included."""
    return tuple(
        ImageReceipt(
            name=part.name,
            kind=part.kind,
            role=part.role,
            manifest=part.root.digest.hex,
            placements=placed.get(part.name, ()),
            reason=None if placed.get(part.name) else NO_ENGINE,
        )
        for part in components
        if part.form == "image"
    )


def cargoes(components: Iterable[Component]) -> tuple[Cargo, ...]:
    """Return what targets may get: images with their upstream evidence, and the trees that are no such evidence."""
    parts = {part.name: part for part in components}
    return tuple(_cargo(part, parts) for part in parts.values() if not _is_evidence(part, parts))


def complete(receipt: Receipt, components: Iterable[Component], targets: Iterable[Target]) -> bool:
    """Say whether, by its receipt, every component was given to every target that takes its form."""
    there = {(item.name, placement.target) for item in receipt.items for placement in item.placements}
    wanted = {(cargo.name, target.name) for cargo in cargoes(components) for target in targets if cargo.form in target.forms}
    return wanted <= there


def notes(targets: Iterable[Target]) -> tuple[str, ...]:
    """Return what somebody should know of what was put into targets, where one has something to say."""
    return tuple(f"{target.name}: {text}" for target in targets for text in target.notes)


def missing(store: Store, components: Iterable[Component], receipt: Receipt, target: Target) -> list[Damage]:
    """Compare a target with a receipt; raises SiteError if it cannot be asked."""
    known = {cargo.name: cargo for cargo in cargoes(components)}
    damage: list[Damage] = []
    for item in receipt.items:
        for was in item.placements:
            if was.target == target.name and item.name in known:
                damage += _compare(store, known[item.name], was, target)
    return damage


def withdraw(store: Store, gone: Iterable[Cargo], targets: Iterable[Target]) -> tuple[tuple[str, ...], tuple[Left, ...]]:
    """Take out of targets what this store put there of ``gone``; return the components done, and what stays and why."""
    by_name = {target.name: target for target in targets}
    by_root = {cargo.root.digest.hex: cargo for cargo in gone}
    done: dict[tuple[str, str], None] = {}
    left: list[Left] = []
    for own in ledger.read(store):
        if own.manifest not in by_root:
            continue
        reason = _withdraw(store, by_root[own.manifest], own, by_name.get(own.target))
        if reason is None:
            ledger.forget(store, own)
            done[own.component, own.manifest] = None
        else:
            left.append(Left(own.component, reason))
    return tuple(name for name, _ in done), tuple(left)


def _place(store: Store, cargo: Cargo, target: Target, watch: Watch) -> Placement:
    found = target.present(store.layout, cargo)
    own = _claim(store, cargo, target, None if found is None else found.id)
    is_ours = bool(own.tags) or not own.before
    if is_ours:
        ledger.note(store, own)
    ahead = 0 if found else _size(store, cargo.root)
    if ahead:
        watch.begin(ahead)

    guard = threading.Lock()

    def moved(count: int) -> None:
        nonlocal ahead
        with guard:  # a registry is sent several blobs at once
            ahead -= count
        watch.moved(count)

    placed = target.load(store.layout, cargo, moved)
    if ahead:
        watch.begin(-ahead)  # what the target did not need: other platforms, blobs it had
    if is_ours:
        ledger.note(store, own.model_copy(update={"id": placed.id}))
    return Placement(target=target.name, id=placed.id, tags=placed.tags, before=own.before, displaced=own.displaced)


def _claim(store: Store, cargo: Cargo, target: Target, found: str | None) -> Own:
    """Return what will be ours once ``cargo`` is in ``target``, where it is known as ``found`` now if it is there."""
    entries = [own for own in ledger.read(store) if own.target == target.name]
    own = Own(target=target.name, component=cargo.name, manifest=cargo.root.digest.hex)
    right = {found, str(cargo.root.digest), str(unwrap(store.layout, cargo.root).digest)}  # where a name leads to this very thing
    same = [entry for entry in entries if entry.manifest == own.manifest or (found and entry.id == found)]  # by another root, too
    known = next((entry for entry in same if entry.key == own.key), None)
    ours = {tag for entry in same for tag in entry.tags}
    names = target.named(store.layout, cargo)
    tags = {name for name, leads in names if leads is None or leads not in right or name in ours}
    ids = {entry.id for entry in entries}
    displaced = {name: leads for name, leads in names if leads is not None and leads not in right | ids}
    return own.model_copy(
        update={
            "id": known.id if known else "",
            "tags": tuple(sorted(tags | set(known.tags if known else ()))),
            "before": found is not None and (same[0].before if same else True),
            "displaced": displaced | (known.displaced if known else {}),
        }
    )


def _compare(store: Store, cargo: Cargo, was: Placement, target: Target) -> list[Damage]:
    found = target.present(store.layout, cargo)
    if found is None:
        return [Damage("image", cargo.name, f"was placed in {was.target} and is not there now")]
    if found.id != was.id:
        return [Damage("image", cargo.name, f"is {found.id} in {was.target}, was placed as {was.id}")]
    if gone := sorted(set(was.tags) - set(found.tags)):
        return [Damage("image", cargo.name, f"no longer answers to {', '.join(gone)} in {was.target}")]
    return []


def _withdraw(store: Store, cargo: Cargo, own: Own, target: Target | None) -> str | None:
    if target is None:
        return f"it was placed in {own.target}, which was not given now"
    try:
        found = target.present(store.layout, cargo)
        if found is not None:
            target.remove(Placed(found.id, own.tags, own.before))
    except AirgapError as error:
        return error.message
    return None


def _cargo(part: Component, parts: Mapping[str, Component]) -> Cargo:
    upstream = parts.get(f"{part.name}{UPSTREAM}") if part.form == "image" else None
    reference = part.facts.get("reference") if part.form == "image" else None
    root = upstream.root if upstream is not None and _is_evidence(upstream, parts) else None
    return Cargo(part.name, FORMS[part.form], part.root, (reference,) if reference else (), root)


def _is_evidence(part: Component, parts: Mapping[str, Component]) -> bool:
    of = parts.get(part.name.removesuffix(UPSTREAM))
    return part.name.endswith(UPSTREAM) and part.form == "tree" and part.kind == "image" and of is not None and of.form == "image"


def _size(store: Store, root: Descriptor) -> int:
    """Return the bytes of everything a component's root leads to; what cannot be read is found by whoever needs it."""
    sizes: dict[Digest, int] = {}
    pending = [root]
    while pending:
        descriptor = pending.pop()
        if descriptor.digest in sizes:
            continue
        sizes[descriptor.digest] = descriptor.size
        if descriptor.media_type in MANIFESTS | INDEXES:
            document = parse_document(descriptor, store.layout.read(descriptor, MAX_MANIFEST))
            pending += document.children if document else ()
    return sum(sizes.values())
