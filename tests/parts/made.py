"""Signed bundles of whatever components a test puts into the layout itself.

    made(folder, who, lambda layout: [image(stored(layout)), tree(layout, "docs")])
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from parts import bundles
from parts.stored import NAME

from airgap_images.bundle import Component, TreeFile, component_descriptor, write_index, write_tree
from airgap_images.layout import Layout
from airgap_images.oci import Descriptor
from bundler import sign


def made(folder: Path, who: bundles.Site, roots: Callable[[Layout], list[Component]], serial: int = 1) -> Path:
    """Write and sign a bundle of the components that `roots` puts into its layout."""
    layout = Layout.create(folder)
    write_index(layout, roots(layout), {sign.STREAM: bundles.STREAM, "airgap.bundle": "test"})
    for at, name in enumerate(("alice", "bob")):
        sign.sign(folder, who.key(name), bundles.terms(serial if at == 0 else None))
    return folder


def image(root: Descriptor, name: str = "server", reference: str = NAME) -> Component:
    described = component_descriptor(root, name=name, kind="image", form="image", facts={"reference": reference})
    return Component(name, "image", "image", None, described)


def tree(layout: Layout, name: str, kind: str = "path") -> Component:
    root = write_tree(layout, [TreeFile("a.txt", layout.put(name.encode()), len(name))])
    return Component(name, kind, "tree", None, component_descriptor(root, name=name, kind=kind, form="tree"))
