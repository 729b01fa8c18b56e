"""The ways back: to an earlier generation, to fewer generations, to nothing installed.

Rules: what the site remembers of serials never changes here; receipts, journal and state are kept; only what this program
put there is removed, and what is left behind is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from airgap_images.bundle import Component, closure, parse_index
from airgap_images.layout import PARTIAL, read_regular, sync_directory
from airgap_images.oci import Digest
from airgap_images.targets import Cargo, Target
from audit import journal
from audit.install import generations, images, memory, receipts
from audit.install.images import Left
from audit.install.receipts import ImageReceipt, Receipt
from audit.install.store import CURRENT, KEPT, POLICY, Store, locked, names, refusing, remove, remove_empty
from audit.install.trees import Damage, Hashes
from audit.journal import Head
from audit.verify.walk import MAX_INDEX, ROOTS, STRONG, Silent, Watch
from manifests.errors import AirgapError, IntegrityError, TrustError, UsageError
from manifests.policy import MAX_POLICY, Policy
from manifests.statement import MODEL_SUFFIX, SUFFIX

_OTHER = "choose another with `--to`, or install a newer bundle"


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What a rollback did: ``images`` as they are in the targets now; ``skipped`` are generations that are damaged, and how."""

    store: Path
    generation: int
    previous: int
    receipt: Receipt
    images: tuple[ImageReceipt, ...]
    skipped: tuple[tuple[int, tuple[Damage, ...]], ...]
    journal: Head


@dataclass(frozen=True, slots=True)
class Removed:
    """What was taken away: ``left`` are files that are not ours, ``images_left`` images that stay; ``kept`` stays on purpose."""

    store: Path
    generations: tuple[int, ...]
    bundles: tuple[str, ...]
    blobs: int
    bytes: int
    images: tuple[str, ...]
    images_left: tuple[Left, ...]
    left: tuple[str, ...]
    kept: tuple[str, ...]
    journal: Head


def rollback(
    folder: Path,
    *,
    now: datetime,
    to: int | None = None,
    targets: Iterable[Target] = (),
    watch: Watch | None = None,
    state_folder: Path | None = None,
) -> RolledBack:
    """Switch the store at ``folder`` back to generation ``to``, or to the latest one before the current that stands whole.

    Every file of it is hashed first. Images go to ``targets`` again, so that references point to that generation's. Raises
    UsageError if there is no such generation, IntegrityError if it is damaged, TrustError if the policy in force revokes its bundle.
    """
    store, watch = Store.writable(folder), watch or Silent()
    with locked(store), refusing(store):
        receipts.complete(store, now)
        previous = store.current()
        if previous is None:
            raise UsageError(f"{folder}: nothing is installed", hint="`airgap-audit install` a bundle")
        receipt, parts, skipped = _choose(store, _candidates(store, previous, to), Hashes(watch))
        _refuse_revoked(store, receipt, state_folder or store.root)
        said = {"from": str(previous), "to": str(receipt.generation), "bundle": str(receipt.digest)}
        journal.append(store.root, "rollback", "begun", said, now=now)
        placed = images.receipts_of(parts, images.place(store, parts, targets, watch))
        store.switch(receipt.generation)
        head = journal.append(store.root, "rollback", "done", said, now=now)
        return RolledBack(store.root, receipt.generation, previous, receipt, placed, skipped, head)


def uninstall(folder: Path, *, now: datetime, targets: Iterable[Target] = ()) -> Removed:
    """Take everything away that was installed into the store at ``folder``: generations, images, bundles, blobs.

    Receipts, journal and state are kept: an older bundle stays refused.
    """
    store = Store.writable(folder)
    with locked(store), refusing(store):
        receipts.complete(store, now)
        return _take_away(store, _Cut("uninstall", store.generations(), store.bundles()), targets, now)


def prune(folder: Path, *, keep: int, now: datetime, targets: Iterable[Target] = ()) -> Removed:
    """Take all generations away but the current one and the latest ``keep`` others, and what only they needed."""
    if keep < 0:
        raise UsageError(f"keep {keep}: not a number of generations", hint="0 keeps the current one only")
    store = Store.writable(folder)
    with locked(store), refusing(store):
        receipts.complete(store, now)
        current = store.current()
        others = [number for number in store.generations() if number != current]
        gone = tuple(others[: max(0, len(others) - keep)])
        needed = {receipts.read(store, number).digest for number in store.generations() if number not in gone}
        known = {receipts.read(store, number).digest for number in store.receipts()}
        unneeded = tuple(digest for digest in store.bundles() if digest in known - needed)
        return _take_away(store, _Cut("prune", gone, unneeded), targets, now)


def take_bundles(store: Store, bundles: tuple[Digest, ...]) -> None:
    """Take bundles away that no generation is of, and the blobs only they needed; for the holder of the lock, who tells the journal."""
    remaining = set(store.bundles()) - set(bundles)
    needed = {digest for bundle in remaining for digest in _closure(store, bundle)}
    for digest in bundles:
        _remove_bundle(store, digest)
    if bundles:
        _sweep(store, needed)


def _candidates(store: Store, current: int, to: int | None) -> tuple[int, ...]:
    there = store.generations()
    shown = ", ".join(map(str, there)) or "none"
    if to is not None:
        if to not in there:
            raise UsageError(f"{store.root}: no generation {to}", hint=f"there are: {shown}")
        return (to,)
    earlier = tuple(number for number in reversed(there) if number < current)
    if not earlier:
        raise UsageError(f"{store.root}: no generation before {current}", hint=f"there are: {shown}")
    return earlier


def _choose(
    store: Store, candidates: tuple[int, ...], hashes: Hashes
) -> tuple[Receipt, tuple[Component, ...], tuple[tuple[int, tuple[Damage, ...]], ...]]:
    skipped: list[tuple[int, tuple[Damage, ...]]] = []
    for number in candidates:
        try:
            receipt = receipts.read(store, number)
            parts = generations.components_of(store, receipt.digest)
        except AirgapError as error:
            skipped.append((number, (Damage("receipt", f"generations/{number}", error.message),)))
            continue
        damage = generations.whole(store, receipt, parts, hashes)
        if not damage:
            return receipt, parts, tuple(skipped)
        skipped.append((number, damage))
    number, damage = skipped[0]
    more = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
    raise IntegrityError(
        f"generation {number} is damaged: {damage[0]}{more}", hint="choose another with `--to`, or install the bundle again from its source"
    )


def _refuse_revoked(store: Store, receipt: Receipt, folder: Path) -> None:
    """Raise TrustError if the policy that this site accepted last revokes the bundle of a generation, a blob of it, or who signed it."""
    used = memory.revoking(store, folder, receipt.stream)
    if used is None:
        return
    revoked = used.revoked
    blobs = {digest.hex for digest in _closure(store, receipt.digest)} & set(revoked.blobs)
    what = f"bundle {receipt.digest}" if receipt.bundle in revoked.roots else "".join(f"blob sha256:{blob}" for blob in sorted(blobs)[:1])
    if what:
        message = f"generation {receipt.generation}: {what} is revoked by the policy in force, version {used.version}"
        raise TrustError(message, hint=_OTHER, rule="5.revoked")
    gone = sorted({signer.name for signer in receipt.signers} & set(revoked.signers))
    if gone and (missing := _without(store, receipt, frozenset(gone))):
        message = f"generation {receipt.generation}: {', '.join(gone)} is revoked by the policy in force, version {used.version}"
        raise TrustError(f"{message}: {missing}", hint=_OTHER, rule="4.threshold")


def _without(store: Store, receipt: Receipt, gone: frozenset[str]) -> str | None:
    """Say what the signatures of a generation's bundle lack without those of ``gone``, by the policy it was accepted by."""
    path = store.bundle(receipt.digest) / POLICY
    used = Policy.parse(read_regular(path, str(path), MAX_POLICY))
    return used.missing(used.roles.bundle, {signer.name for signer in receipt.signers} - gone)


@dataclass(frozen=True, slots=True)
class _Cut:
    """What is to go."""

    operation: str
    generations: tuple[int, ...]
    bundles: tuple[Digest, ...]


def _take_away(store: Store, cut: _Cut, targets: Iterable[Target], now: datetime) -> Removed:
    remaining = set(store.bundles()) - set(cut.bundles)
    needed = {digest for bundle in remaining for digest in _closure(store, bundle)}  # read first: damage stops this before anything is gone
    said = {"generations": " ".join(map(str, cut.generations)), "bundles": str(len(cut.bundles))}
    journal.append(store.root, cut.operation, "begun", said, now=now)
    if not set(store.generations()) - set(cut.generations):
        remove(store.root / CURRENT)
        sync_directory(store.root)
    gone = [cargo for cargo in _cargoes(store, cut.bundles) if cargo.root.digest not in needed]
    withdrawn, images_left = images.withdraw(store, gone, targets)
    left = [name for number in cut.generations for name in generations.take_away(store, number)]
    for digest in cut.bundles:
        left += _remove_bundle(store, digest)
    blobs, size = _sweep(store, needed)
    if not remaining:
        left += _remove_folders(store)
    said |= {"blobs": str(blobs), "bytes": str(size), "left": str(len(left))}
    said |= {"images": " ".join(withdrawn), "imagesLeft": " ".join(image.component for image in images_left)}
    head = journal.append(store.root, cut.operation, "done", said, now=now)
    bundles = tuple(digest.hex for digest in cut.bundles)
    return Removed(store.root, cut.generations, bundles, blobs, size, withdrawn, images_left, tuple(sorted(set(left))), KEPT, head)


def _closure(store: Store, digest: Digest) -> Iterable[Digest]:
    generations.components_of(store, digest)  # proves the index
    return closure(store.layout, parse_index(read_regular(store.bundle(digest) / "index.json", "index.json", MAX_INDEX)))


def _cargoes(store: Store, bundles: tuple[Digest, ...]) -> Iterator[Cargo]:
    for digest in bundles:
        try:
            parts = generations.components_of(store, digest)
        except AirgapError:
            continue  # what was placed of it stays in its targets; the ledger still names it
        yield from images.cargoes(parts)


def _remove_bundle(store: Store, digest: Digest) -> list[str]:
    folder = store.bundle(digest)
    for name in (*(name for name, _ in (*ROOTS, STRONG)), POLICY):
        remove(folder / name)
    for name in names(folder / "signatures"):
        if name.endswith((SUFFIX, MODEL_SUFFIX)):
            remove(folder / "signatures" / name)
    remove_empty(folder / "signatures")
    left = [f"bundles/{digest.hex}/{name}" for name in names(folder)]
    remove_empty(folder)
    return left


def _sweep(store: Store, needed: set[Digest]) -> tuple[int, int]:
    known = {digest.hex for digest in needed}
    count = size = 0
    for name, info in list(store.layout.blobs()):
        if _is_digest(name) and name not in known:
            remove(store.root / "blobs" / "sha256" / name)
            count, size = count + 1, size + info.st_size
    sync_directory(store.root / "blobs" / "sha256")
    return count, size


def _remove_folders(store: Store) -> list[str]:
    remove(store.root / "oci-layout")
    left: list[str] = []
    for name in ("blobs/sha256", "blobs", "bundles", "generations", PARTIAL):
        remove_empty(store.root / name)
        left += [f"{name}/{entry}" for entry in names(store.root / name) if (name, entry) != ("blobs", "sha256")]
    return left


def _is_digest(name: str) -> bool:
    try:
        return bool(Digest(name))
    except IntegrityError:
        return False


