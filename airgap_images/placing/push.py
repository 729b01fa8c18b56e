"""A site's registry as a target: images with their evidence under the site's names, trees as artifacts.

Rules: every digest stays; the order is blobs, documents by digest, evidence, tags last, so that a name never leads to
something unfinished; a tag that led elsewhere moves, as in any upgrade, but evidence somebody added at the site is never
lost. Removing (``airgap_images.placing.withdraw``) takes what this store placed and leaves what has another name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from airgap_images.layout import Layout
from airgap_images.oci import MAX_MANIFEST, Descriptor, Digest
from airgap_images.placing.siblings import Siblings
from airgap_images.placing.upload import Blob, StoppedError, Writer
from airgap_images.placing.withdraw import withdraw
from airgap_images.reference import Reference
from airgap_images.remote.http import Client
from airgap_images.remote.registry import manifest as pulled
from airgap_images.remote.web import Credentials
from airgap_images.shipment import Extra, Shipment, shipment, short_tag
from airgap_images.targets import Cargo, Form, Placed, Progress
from manifests.errors import IntegrityError
from manifests.rewrite import Rewrite

TRANSFERS = 4  # at once, in one load
MOUNTS = 3  # refused in a row before no more are asked for
TREES = "trees"  # below the site's prefix
IMAGES = "images"  # below it, for images without a name of upstream's

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Plan:
    """A cargo and where it goes: the names it gets, and the evidence beside each repository of them."""

    shipment: Shipment
    names: tuple[Reference, ...]

    @property
    def repositories(self) -> tuple[Reference, ...]:
        """Return every repository, each as a reference to the root in it."""
        root = self.shipment.root.digest
        return tuple({name.repository: Reference(name.registry, name.repository, None, root) for name in self.names}.values())

    @property
    def extras(self) -> tuple[tuple[Reference, Extra], ...]:
        """Return the evidence of every repository under its full name: ``REPOSITORY[:TAG]@DIGEST``."""
        return tuple(
            (Reference(place.registry, place.repository, extra.tag, extra.manifest.digest), extra)
            for place in self.repositories
            for extra in self.shipment.extras
        )


class RegistryTarget:
    """An isolated registry. ``notes`` says what could not be put there as it was, and why."""

    forms: frozenset[Form] = frozenset({"image", "tree"})

    def __init__(self, client: Client, credentials: Credentials, rewrite: Rewrite) -> None:
        self._writer = Writer(client, credentials)
        self._siblings = Siblings(self._writer)
        self._rewrite = rewrite
        self._seen: set[str] = set()  # references of everything put there, to notice two that become one
        self._known: dict[Digest, str] = {}  # blobs and a repository that has them
        self._lock = threading.Lock()
        self._refused = 0  # mounts in a row
        self._notes: list[str] = []

    @property
    def name(self) -> str:
        """Return ``registry HOST/PREFIX``."""
        return f"registry {self._rewrite.place()}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what somebody should know of what was put there."""
        return tuple(dict.fromkeys(self._notes))

    def named(self, layout: Layout, cargo: Cargo) -> tuple[tuple[str, str | None], ...]:
        """Return every full name and the id it leads to; evidence is ``NAME@DIGEST``, and leads to the image while it is there."""
        plan = self._plan(layout, cargo)
        root = plan.shipment.root.digest
        led = [(name.name, self._writer.digest(name)) for name in plan.names]
        there = [(str(place), root if self._holds(place) else None) for place, _ in plan.extras]
        return tuple(sorted((name, str(digest) if digest else None) for name, digest in (*led, *there)))

    def load(self, layout: Layout, cargo: Cargo, progress: Progress | None = None) -> Placed:
        """Send what the registry lacks and name it; raises IntegrityError if the registry then gives out anything else."""
        plan = self._plan(layout, cargo)
        root = plan.shipment.root
        self._seen |= set(cargo.references)
        before = all(self._writer.digest(place) == root.digest for place in plan.repositories)
        for place in plan.repositories:
            self._send_blobs(layout, place, plan.shipment.blobs, progress)
            for document in plan.shipment.contents.documents:
                self._writer.put(place.at(document.digest), layout.read(document, MAX_MANIFEST), document.media_type)
            self._notes += self._siblings.add(layout, place, plan.shipment.extras)
        for name in plan.names:
            self._writer.put(name, layout.read(root, MAX_MANIFEST), root.media_type)
            self._check(name, root)
        if plan.shipment.partial:
            self._notes.append(
                f"{cargo.name}: upstream's index {plan.shipment.partial.digest} is not in the registry, as only some of its platforms are"
                " carried; signatures over it can be verified from the bundle, and by `airgap-audit serve`"
            )
        return Placed(str(root.digest), self._there(plan), before)

    def present(self, layout: Layout, cargo: Cargo) -> Placed | None:
        """Return it with the names that lead to exactly its digest, None if no repository it belongs to has that."""
        plan = self._plan(layout, cargo)
        root = plan.shipment.root.digest
        if all(self._writer.digest(place) != root for place in plan.repositories):
            return None
        return Placed(str(root), self._there(plan))

    def remove(self, placed: Placed) -> None:
        """Take the names away, evidence included; raises SiteError for what stays: it has other names, or nothing may be deleted."""
        withdraw(self._writer, self._siblings, placed)

    def close(self) -> None:
        """Let go of nothing: connections belong to the client."""

    def _plan(self, layout: Layout, cargo: Cargo) -> _Plan:
        found = shipment(layout, cargo)
        tag = short_tag(found.root.digest)
        if cargo.form == "tree" or not cargo.references:
            own = self._rewrite.place(TREES if cargo.form == "tree" else IMAGES, cargo.name)
            return _Plan(found, (Reference.parse(f"{own}:{tag}"),))
        self._rewrite.mapping({*self._seen, *cargo.references})
        names = {Reference.parse(Reference.parse(self._rewrite.site(reference)).local) for reference in cargo.references}
        return _Plan(found, tuple(sorted(names, key=str)))

    def _there(self, plan: _Plan) -> tuple[str, ...]:
        """Return the full names that lead to what they should."""
        root = plan.shipment.root.digest
        names = [name.name for name in plan.names if self._writer.digest(name) == root]
        return tuple(sorted((*names, *(str(place) for place, _ in plan.extras if self._holds(place)))))

    def _holds(self, place: Reference) -> bool:
        """Say whether evidence is there: under its tag, or without one by digest."""
        by_name = Reference(place.registry, place.repository, place.tag) if place.tag else place
        return self._writer.digest(by_name) == place.digest

    def _check(self, name: Reference, root: Descriptor) -> None:
        found, _ = pulled(self._writer.client, self._writer.credentials, name)
        if found.digest != root.digest or found.media_type != root.media_type:
            raise IntegrityError(
                f"{name} is {found.digest} right after {root.digest} was put there",
                hint="does something else write to this registry, or does it change what it takes? look, then run again",
            )

    def _send_blobs(self, layout: Layout, place: Reference, blobs: dict[Digest, int], progress: Progress | None) -> None:
        stop, sent = threading.Event(), progress or _ignore

        def send(item: tuple[Digest, int]) -> None:
            digest, size = item
            if not self._writer.has(place, digest, size) and not self._mounted(place, digest):
                self._writer.upload(place, Blob(layout, digest, size, sent, stop))
            else:
                sent(size)
            with self._lock:
                self._known[digest] = place.repository

        each(blobs.items(), send, stop)

    def _mounted(self, place: Reference, digest: Digest) -> bool:
        """Have the registry take a blob over from another of its repositories, where it can."""
        with self._lock:
            source = self._known.get(digest)
            if source in {None, place.repository} or self._refused >= MOUNTS:
                return False
        done = self._writer.mount(place, digest, str(source))
        with self._lock:
            self._refused = 0 if done else self._refused + 1
        return done


def each(items: Iterable[T], work: Callable[[T], None], stop: threading.Event) -> None:
    """Do ``work`` for every item, ``TRANSFERS`` at once; the first failure stops all and is raised when all have stopped."""
    source, lock = iter(items), threading.Lock()

    def drain() -> None:
        while not stop.is_set():
            with lock:
                item = next(source, None)
            if item is None:
                return
            try:
                work(item)
            except BaseException:
                stop.set()
                raise

    with ThreadPoolExecutor(TRANSFERS) as pool:
        running = [pool.submit(drain) for _ in range(TRANSFERS)]
        try:
            failures = [error for future in running if (error := future.exception())]
        finally:
            stop.set()
    if failures:
        raise next((error for error in failures if not isinstance(error, StoppedError)), failures[0])


def _ignore(_count: int) -> None:
    """Nobody watches."""
