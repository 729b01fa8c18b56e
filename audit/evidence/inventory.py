"""What is in a bundle: one item for each thing an auditor would ask about, read from signed and verified bytes only.

Sources are the index, the manifests, the lock that the signers signed (component ``airgap-lock``), what wheels say of
themselves and what is inside images. Rules: what is unknown stays unknown; every item says what was read of it; the lock and
the index must agree, and where they do not the component is named; addresses lose user names, passwords and queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from airgap_images.bundle import Component, TreeFile, closure, tree_files
from airgap_images.layout import Layout
from airgap_images.oci import IMAGE_INDEX, Descriptor, Digest, Index
from audit.evidence import describe
from audit.evidence.agreement import Disagreement, compare
from audit.evidence.item import Content, Item
from audit.verify.result import VerifiedBundle
from audit.verify.walk import Watch
from manifests.errors import AirgapError, InvalidFileError
from manifests.lock import MAX_LOCK, Lock, LockedComponent

LOCK_COMPONENT = "airgap-lock"
LOCK_FILE = "bundle.lock.json"
NOT_BUILT = "the bundle was not made by `airgap-bundle build`"


@dataclass(frozen=True, slots=True)
class Inventory:
    """All items, by component, each component as a whole before what lies in it.

    ``gaps`` says what of the bundle as a whole could not be read; ``lock_sha256`` (hex) is that of the signed lock.
    """

    name: str
    platform: str | None
    items: tuple[Item, ...]
    disagreements: tuple[Disagreement, ...]
    gaps: tuple[str, ...]
    lock_sha256: str | None
    locked: Mapping[str, LockedComponent] = field(default_factory=dict)

    @property
    def components(self) -> tuple[Item, ...]:
        """Return the items that are whole components."""
        return tuple(item for item in self.items if item.path is None)

    @property
    def unreadable(self) -> tuple[Item, ...]:
        """Return the items that should have been read and could not be."""
        return tuple(item for item in self.items if item.coverage.reading == "unreadable")


def take(bundle: VerifiedBundle, watch: Watch | None = None) -> Inventory:
    """Take the inventory of a verified bundle; what cannot be read becomes a gap or a coverage, never an error.

    ``watch`` is told how the reading of images goes.
    """
    gaps: tuple[str, ...] = ()
    lock, sha256 = None, None
    try:
        lock, sha256 = _lock(bundle)
    except AirgapError as error:
        gaps = (f"The lock in the bundle could not be read, so origins are unknown and nothing was compared with it: {error.message}",)
    locked = {component.name: component for component in lock.components} if lock else {}
    contents = [_content(bundle.layout, component, locked.get(component.name), bundle.sha512) for component in bundle.components]
    said = dict(bundle.index.annotations)
    return Inventory(
        name=said.get("airgap.bundle", ""),
        platform=said.get("airgap.target.platform"),
        items=tuple(item for content in contents for item in describe.items(bundle.layout, content, watch)),
        disagreements=compare(bundle, lock, contents) if lock else (),
        gaps=gaps,
        lock_sha256=sha256,
        locked=locked,
    )


def of_components(
    layout: Layout, components: Iterable[Component], locked: Mapping[str, LockedComponent], watch: Watch | None = None
) -> tuple[Item, ...]:
    """Return the items of components that are not in a bundle yet; ``locked`` is what the lock says of each."""
    contents = (_content(layout, component, locked.get(component.name)) for component in components)
    return tuple(item for content in contents for item in describe.items(layout, content, watch))


def _lock(bundle: VerifiedBundle) -> tuple[Lock, str]:
    component = next((component for component in bundle.components if component.name == LOCK_COMPONENT), None)
    if component is None:
        raise InvalidFileError(f"component {LOCK_COMPONENT}: missing", hint=NOT_BUILT)
    file = next((file for file in tree_files(bundle.layout, component.root) if file.path == LOCK_FILE), None)
    if file is None:
        raise InvalidFileError(f"component {LOCK_COMPONENT}: has no file {LOCK_FILE}", hint=NOT_BUILT)
    raw = bundle.layout.read(Descriptor("application/json", file.digest, file.size), MAX_LOCK)
    return Lock.parse(raw, f"{LOCK_COMPONENT}/{LOCK_FILE}"), file.digest.hex


def _content(
    layout: Layout, component: Component, locked: LockedComponent | None, sha512: Mapping[Digest, str] | None = None
) -> Content:
    try:
        files = tuple(tree_files(layout, component.root)) if component.form == "tree" else ()
        blobs = _distinct(files) if component.form == "tree" else closure(layout, Index(b"", IMAGE_INDEX, (component.root,)))
    except AirgapError as error:
        return Content(component, (), (), error.message, locked)
    return Content(component, files, tuple(sorted((digest.hex, size) for digest, size in blobs.items())), "", locked, sha512 or {})


def _distinct(files: tuple[TreeFile, ...]) -> dict[Digest, int]:
    return {file.digest: file.size for file in files}
