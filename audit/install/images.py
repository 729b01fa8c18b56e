"""Images: hand them to the site's container engine, and remember which of them it has because of us.

``images.json`` is written before an image is loaded, so that after a kill the store still knows what is its own: only that
is removed again. Nothing here knows an engine; the caller passes one in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from pydantic import Field

from airgap_images.bundle import Component
from airgap_images.layout import Layout
from airgap_images.oci import Descriptor
from audit import sealed
from audit.install.receipts import ImageReceipt, Receipt
from audit.install.store import LEDGER, Store, remove
from audit.install.trees import Damage
from manifests.errors import AirgapError
from manifests.lock import Name, Sha256

MAX_LEDGER = 4 << 20  # bytes
NO_ENGINE = "engine none: the image is in the store, no container engine was given it"
DAMAGED = "restore it from a backup; if it is removed, images placed until now stay in the engine when the store is uninstalled"


class Placed(Protocol):
    """An image as an engine has it: the engine's own id, and the references it answers to."""

    @property
    def id(self) -> str:
        """Return the engine's id of the image."""

    @property
    def tags(self) -> tuple[str, ...]:
        """Return the references, sorted."""


class Engine(Protocol):
    """A container engine on this machine. Every method raises SiteError if it cannot be reached or refuses."""

    @property
    def name(self) -> str:
        """Return what receipts call the engine, e.g. ``docker``."""

    def load(self, layout: Layout, root: Descriptor, tags: tuple[str, ...]) -> Placed:
        """Give the engine the image ``root`` under ``tags``, with its upstream digest, and return it; again is no harm."""

    def present(self, layout: Layout, root: Descriptor) -> Placed | None:
        """Return the image ``root`` as the engine has it, or None; changes nothing."""

    def remove(self, image: Placed) -> None:
        """Take the references ``image`` has away, and the image unless it has others; one that is not there is fine."""


@dataclass(frozen=True, slots=True)
class Ours:
    """An image as this store placed it: only the references it gave are its own."""

    id: str
    tags: tuple[str, ...]


class Own(sealed.Written):
    """One image this store put into ``engine`` under ``tags``."""

    engine: str
    component: Name
    tags: tuple[str, ...] = Field(strict=False)


class Ledger(sealed.Written):
    """The whole file: by sha256 of the image's root manifest or index."""

    images: dict[Sha256, Own] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Left:
    """An image that stays where it is, and why."""

    component: str
    reason: str


def place(store: Store, components: Iterable[Component], engine: Engine | None) -> tuple[ImageReceipt, ...]:
    """Give every image of ``components`` to ``engine``, or say of each that there was none."""
    return tuple(_place(store, component, engine) for component in components if component.form == "image")


def tags(component: Component) -> tuple[str, ...]:
    """Return the references under which an image is known upstream and will be asked for here."""
    reference = component.facts.get("reference")
    return (reference,) if reference else ()


def missing(store: Store, components: Iterable[Component], receipt: Receipt, engine: Engine) -> list[Damage]:
    """Compare the engine with a receipt; raises SiteError if the engine cannot be asked."""
    roots = {component.name: component.root for component in components if component.form == "image"}
    damage: list[Damage] = []
    for image in receipt.images:
        if image.placed and image.name in roots:
            found = engine.present(store.layout, roots[image.name])
            if found is None:
                damage.append(Damage("image", image.name, f"was placed in {image.engine} and is not there now"))
            elif found.id != image.id:
                damage.append(Damage("image", image.name, f"is {found.id} in {engine.name}, was placed as {image.id}"))
            elif set(image.tags) - set(found.tags):
                gone = ", ".join(sorted(set(image.tags) - set(found.tags)))
                damage.append(Damage("image", image.name, f"no longer answers to {gone} in {engine.name}"))
    return damage


def withdraw(store: Store, roots: Iterable[tuple[str, Descriptor]], engine: Engine | None) -> tuple[tuple[str, ...], tuple[Left, ...]]:
    """Take images out of the engine that this store put there; return the components done, and what stays and why."""
    done: list[str] = []
    left: list[Left] = []
    for name, root in roots:
        own = _ledger(store).images.get(root.digest.hex)
        if own is None:
            continue
        reason = _withdraw(store, root, own, engine)
        if reason is None:
            _note(store, root, None)
            done.append(name)
        else:
            left.append(Left(name, reason))
    return tuple(done), tuple(left)


def owned(store: Store) -> frozenset[str]:
    """Return the sha256 (hex) of the roots of all images this store put into an engine."""
    return frozenset(_ledger(store).images)


def _place(store: Store, component: Component, engine: Engine | None) -> ImageReceipt:
    manifest = component.root.digest.hex
    said = {"name": component.name, "kind": component.kind, "role": component.role, "manifest": manifest}
    unplaced = ImageReceipt.model_validate({**said, "placed": False, "reason": NO_ENGINE})
    if engine is None:
        return unplaced
    before = engine.present(store.layout, component.root) is not None and manifest not in owned(store)
    if not before:
        _note(store, component.root, Own(engine=engine.name, component=component.name, tags=tags(component)))
    placed = engine.load(store.layout, component.root, tags(component))
    facts = {"placed": True, "engine": engine.name, "id": placed.id, "tags": placed.tags, "before": before, "reason": None}
    return unplaced.model_copy(update=facts)


def _withdraw(store: Store, root: Descriptor, own: Own, engine: Engine | None) -> str | None:
    if engine is None or engine.name != own.engine:
        return f"it was placed in {own.engine}, which was not given now"
    try:
        found = engine.present(store.layout, root)
        if found is not None:
            engine.remove(Ours(found.id, own.tags))
    except AirgapError as error:
        return error.message
    return None


def _ledger(store: Store) -> Ledger:
    return sealed.read(store.root / LEDGER, Ledger, limit=MAX_LEDGER, hint=DAMAGED) or Ledger()


def _note(store: Store, root: Descriptor, own: Own | None) -> None:
    images = {digest: known for digest, known in _ledger(store).images.items() if digest != root.digest.hex}
    if own is not None:
        images[root.digest.hex] = own
    if not images:
        remove(store.root / LEDGER)
    elif images != _ledger(store).images:
        sealed.write(store.root / LEDGER, Ledger(images=images))


