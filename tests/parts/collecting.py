"""What locking an image with its upstream evidence needs, for tests: a cache, a client that asks once, and what was warned of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from airgap_images.bundle import components, parse_index
from airgap_images.evidence import LISTING, SUFFIX, Evidence, EvidenceTree, load
from airgap_images.layout import Layout
from airgap_images.remote.http import Client, Retry
from bundler import build, sources
from bundler.sources import Context, image
from manifests.lock import Lock, LockedComponent, Target


class Desk:
    """Locks the image ``tool`` and builds bundles of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client = Client(retry=Retry(attempts=1))
        self.cache = Layout.create(folder / "cache")
        self.warnings: list[str] = []

    def lock(self, ref: str, previous: Lock | None = None, *, cache: Layout | None = None, **options: object) -> Lock:
        """Resolve the image and what is put beside it, as `airgap-bundle lock` does."""
        beside = tuple(part for part in (previous.components if previous else ()) if part.name != "tool")
        context = Context(self.folder, Target(), None, cache or self.cache, self.client, None, self.warnings.append)
        context = replace(context, beside=beside)
        asked = image.Options.model_validate({"ref": ref} | options)
        locked = image.resolve("tool", None, asked, context)
        return of(locked, *sources.companions(locked, asked, context))

    def build(self, lock: Lock, out: str = "bundle") -> EvidenceTree:
        """Build the bundle with nothing but what the lock says, and read the evidence in it."""
        build.build(lock, self.folder / out, self.client, build.Options(self.folder, (self.cache,)))
        layout = Layout(self.folder / out)
        found = components(parse_index((layout.root / "index.json").read_bytes()))
        return load(layout, next(part.root for part in found if part.name == f"tool{SUFFIX}"))


def of(*components: LockedComponent) -> Lock:
    return Lock(name="test", stream="test-stream", intentSha256="0" * 64, components=components)


def beside(lock: Lock) -> LockedComponent:
    """Return the component of what upstream says."""
    return next(part for part in lock.components if part.name == f"tool{SUFFIX}")


def listing(lock: Lock) -> Evidence:
    """Return what its listing says."""
    text = next(text.text for text in beside(lock).inline if text.path == LISTING)
    return Evidence.parse(text.encode(), LISTING)


def kinds(lock: Lock) -> list[tuple[str, str, str]]:
    """Return kind, shape and manifest (12 hex digits) of everything found, sorted."""
    return sorted((found.kind, found.shape, found.manifest.digest.hex[:12]) for found in listing(lock).found)
