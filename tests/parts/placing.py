"""What a locked component becomes on the isolated side: built into a bundle, its tree put into a folder."""

from __future__ import annotations

from pathlib import Path

from airgap_images.bundle import tree_files
from airgap_images.layout import Layout
from airgap_images.remote.http import Client
from bundler import build
from manifests.lock import Lock, LockedComponent


def placed(component: LockedComponent, folder: Path, client: Client, cache: Layout) -> Path:
    """Build a bundle of ``component`` alone in ``folder`` and return the folder its files stand in."""
    lock = Lock(name="t", stream="s", intentSha256="0" * 64, components=(component,))
    made = build.build(lock, folder / "bundle", client, build.Options(folder, caches=(cache,)))
    layout, target = Layout(folder / "bundle"), folder / "placed"
    root = next(part.root for part in made.components if part.name == component.name)
    for file in tree_files(layout, root):
        (target / file.path).parent.mkdir(parents=True, exist_ok=True)
        layout.place(file.digest, file.size, target / file.path, "copy")
    return target
