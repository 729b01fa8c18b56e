"""Generations: make one from a proven bundle, compare one with what it must be, take one away.

A generation is made under a name that shows it as none, with its receipt in it, and appears in one rename.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from airgap_images.bundle import Component, components, parse_index
from airgap_images.layout import Layout, PlaceMode, Progress, read_regular, sync_directory, write_atomic
from airgap_images.oci import Digest
from audit.install import trees
from audit.install.receipts import MAX_RECEIPT, OWN_RECEIPT, Receipt, TreeReceipt
from audit.install.store import Store, holds, is_folder, make_folder, remove, remove_empty
from audit.install.trees import Damage, Hashes, Standing, Wanted
from audit.verify.walk import MAX_INDEX
from manifests.errors import AirgapError, IntegrityError


def components_of(store: Store, digest: Digest) -> tuple[Component, ...]:
    """Return the components of a bundle that is kept in ``store``; raises IntegrityError unless its index is what ``digest`` says."""
    what = f"bundles/{digest.hex}/index.json"
    raw = read_regular(store.bundle(digest) / "index.json", what, MAX_INDEX)
    if Digest.of(raw) != digest:
        raise IntegrityError(f"{what}: content is sha256 {Digest.of(raw).hex}", hint="install the bundle again from its source")
    return components(parse_index(raw))


def build(store: Store, parts: Iterable[Component], mode: PlaceMode, progress: Progress) -> tuple[TreeReceipt, ...]:
    """Make the trees of a generation under its temporary name and say how each was placed."""
    make_folder(store.new_generation)
    done: list[TreeReceipt] = []
    for part in parts:
        if part.form != "tree":
            continue
        placed = trees.place(store.layout, part, store.new_generation / part.name, mode, progress)
        count = placed.linked + placed.copied
        manifest = part.root.digest.hex
        done.append(
            TreeReceipt(
                name=part.name, kind=part.kind, role=part.role, manifest=manifest, mode=placed.mode, files=count, bytes=placed.bytes
            )
        )
    return tuple(done)


def publish(store: Store, receipt: Receipt) -> None:
    """Put the receipt into the generation that was made, and let it appear under its number."""
    write_atomic(store.new_generation / OWN_RECEIPT, receipt.to_bytes(), mode=trees.READ_ONLY)
    os.rename(store.new_generation, store.generation(receipt.generation))
    sync_directory(store.root / "generations")


def sync_blobs(layout: Layout, digests: Iterable[Digest]) -> None:
    """Make blobs durable whose bytes somebody else wrote (a link shares a file that may be in memory only yet)."""
    for digest in digests:
        trees.sync_file(layout.path(digest))
    sync_directory(layout.root / "blobs" / "sha256")


def survey(store: Store, receipt: Receipt, parts: Iterable[Component]) -> tuple[list[Damage], list[Standing], list[str]]:
    """Compare a generation with its receipt at sight.

    Returns what is wrong, the files whose content is to be compared, and in sentences what could not be compared.
    """
    folder = store.generation(receipt.generation)
    if not folder.is_dir() or folder.is_symlink():
        return [Damage("missing", f"generations/{receipt.generation}", "was installed and is no folder now")], [], []
    damage: list[Damage] = []
    unknown: list[str] = []
    modes = {tree.name: tree.mode for tree in receipt.trees}
    wanted: dict[str, tuple[Wanted, ...] | None] = {}
    for part in parts:
        if part.form == "tree":
            try:
                wanted[part.name] = trees.wanted(store.layout, part, modes.get(part.name) == "link")
            except AirgapError as error:
                wanted[part.name] = None
                unknown.append(f"The files of {part.name}: the list of them is damaged ({error.message}).")
    found, standing = trees.survey(folder, wanted, store.layout)
    damage += found
    if not holds(folder / OWN_RECEIPT, receipt.to_bytes()):
        damage.append(Damage("receipt", f"generations/{receipt.generation}/{OWN_RECEIPT}", "is not the receipt of this generation"))
    return damage, standing, unknown


def whole(store: Store, receipt: Receipt, parts: Iterable[Component], hashes: Hashes) -> tuple[Damage, ...]:
    """Return all that is wrong with the trees of a generation, content included."""
    damage, standing, unknown = survey(store, receipt, parts)
    return (*damage, *(Damage("missing", f"receipts/{receipt.generation}.json", why) for why in unknown), *hashes.compare(standing))


def take_away(store: Store, number: int) -> tuple[str, ...]:
    """Remove what was installed as generation ``number``; return the files in it that are not ours, which stay.

    Ours is what the bundle lists and what is a link to a blob; where the bundle can no longer be read, links only.
    """
    folder = store.generation(number)
    ours = {OWN_RECEIPT, *_listed(store, folder)}
    blobs = {(info.st_dev, info.st_ino) for _, info in store.layout.blobs()}
    left: list[str] = []
    for parent, folders, files in os.walk(folder, topdown=False, followlinks=False):
        for name in files:
            path = Path(parent, name)
            if str(path.relative_to(folder)) in ours or trees.inode_of(path) in blobs:
                remove(path)
        for name in folders:
            remove_empty(Path(parent, name))
        left += [str(path.relative_to(store.root)) for path in sorted(Path(parent).iterdir()) if not is_folder(path)]
    remove_empty(folder)
    return tuple(left)


def _listed(store: Store, folder: Path) -> set[str]:
    try:
        own = Receipt.parse(read_regular(folder / OWN_RECEIPT, OWN_RECEIPT, MAX_RECEIPT), OWN_RECEIPT)
        parts = components_of(store, own.digest)
        return {file.place for part in parts if part.form == "tree" for file in trees.wanted(store.layout, part, shared=False)}
    except AirgapError:
        return set()
