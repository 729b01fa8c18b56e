"""Components on their way to a target, made by hand: images of one or several platforms, their evidence, trees."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from parts import images

from airgap_images.bundle import IMAGE, TreeFile, wrap, write_tree
from airgap_images.evidence import Evidence, Found, Subject
from airgap_images.layout import Layout
from airgap_images.oci import DOCKER_MANIFEST, EMPTY_JSON, IMAGE_INDEX, IMAGE_MANIFEST, Descriptor, Digest
from airgap_images.targets import Cargo
from manifests import canonical

REFERENCE = "docker.io/team/tool:1.0"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
COSIGN_LAYER = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


__all__ = ["IMAGE_MANIFEST", "wrap"]


def put(layout: Layout, value: object, media_type: str) -> Descriptor:
    raw = canonical.compact(value)
    return Descriptor(media_type, layout.put(raw), len(raw))


def blob(layout: Layout, data: bytes, media_type: str) -> Descriptor:
    return Descriptor(media_type, layout.put(data), len(data))


def manifest(
    layout: Layout, config: Descriptor, *layers: Descriptor, media_type: str = IMAGE_MANIFEST, **more: object
) -> Descriptor:
    body = {"schemaVersion": 2, "mediaType": media_type, "config": config.to_dict(), "layers": [layer.to_dict() for layer in layers]}
    return put(layout, body | more, media_type)


def image(layout: Layout, architecture: str = "amd64", *, layers: tuple[bytes, ...] = (b"one", b""), docker: bool = False) -> Descriptor:
    """Make an image whose layers are of these bytes; an empty one is an empty blob."""
    config = put(layout, {"os": "linux", "architecture": architecture, "made": "by hand"}, DOCKER_CONFIG if docker else CONFIG)
    listed = [blob(layout, data, DOCKER_LAYER if docker else LAYER) for data in layers]
    return manifest(layout, config, *listed, media_type=DOCKER_MANIFEST if docker else IMAGE_MANIFEST)


def of(descriptor: Descriptor, architecture: str) -> dict:
    return descriptor.to_dict() | {"platform": {"os": "linux", "architecture": architecture}}


def index(layout: Layout, *entries: dict, artifact: str | None = None) -> Descriptor:
    body = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": list(entries)}
    made = put(layout, body | ({"artifactType": artifact} if artifact else {}), IMAGE_INDEX)
    return Descriptor(made.media_type, made.digest, made.size, artifact_type=artifact)


def tree(layout: Layout, files: dict[str, bytes] | None = None, name: str = "docs") -> Cargo:
    listed = [TreeFile(path, layout.put(data), len(data)) for path, data in (files or {"README.md": b"# hello\n", "a/empty": b""}).items()]
    return Cargo(name, "tree", write_tree(layout, listed))


def busybox(layout: Layout, *, docker: bool = False) -> Descriptor:
    """Copy the real image into ``layout``; with ``docker`` as schema 2, which changes its digest."""
    source = images.busybox()
    if docker:
        folder = layout.root.parent / "schema2"
        images.tool("skopeo", "copy", "--quiet", "--format", "v2s2", source.name, f"dir:{folder}")
        for path in folder.iterdir():
            if path.name not in {"manifest.json", "version"}:
                layout.put(path.read_bytes())
        raw = (folder / "manifest.json").read_bytes()
        return Descriptor(DOCKER_MANIFEST, layout.put(raw), len(raw))
    for path in (source.layout / "blobs/sha256").iterdir():
        layout.put(path.read_bytes())
    (entry,) = json.loads((source.layout / "index.json").read_bytes())["manifests"]
    return Descriptor(entry["mediaType"], Digest.parse(entry["digest"]), entry["size"])


@dataclass(frozen=True)
class Signed:
    """An image with an upstream index, of which only ``root`` is carried, and evidence in every shape."""

    cargo: Cargo
    root: Descriptor
    index: Descriptor
    signature: Descriptor  # by tag
    referrer: Descriptor
    provenance: Descriptor  # in the index


def signed(folder: Path, *, root: Descriptor | None = None, reference: str = REFERENCE, signature: bytes = b"payload") -> tuple[Layout, Signed]:
    layout = Layout.create(folder)
    root = root or image(layout)
    empty = blob(layout, b"{}", EMPTY_JSON)
    provenance = manifest(layout, blob(layout, b'{"a":1}', CONFIG), blob(layout, b'{"_type":"x"}', "application/vnd.in-toto+json"))
    noted = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": str(root.digest)}
    upstream = index(layout, of(root, "amd64"), of(image(layout, "arm64"), "arm64"),
                     of(provenance, "unknown") | {"annotations": noted})  # fmt: skip
    by_tag = manifest(layout, blob(layout, b'{"x":2}', CONFIG), blob(layout, signature, COSIGN_LAYER))
    by_subject = manifest(
        layout, empty, blob(layout, b'{"bundle":1}', BUNDLE_TYPE), artifactType=BUNDLE_TYPE,
        subject=root.to_dict(), annotations={"dev.sigstore.bundle.content": "dsse-envelope"},
    )  # fmt: skip
    subjects = (
        Subject(upstream.digest, upstream.media_type, upstream.size, "index", ""),
        Subject(root.digest, root.media_type, root.size, "image", "linux/amd64"),
    )
    found = (
        Found("signature", "tag", f"sha256-{root.digest.hex}.sig", root.digest, by_tag),
        Found("attestation", "referrer", None, root.digest, by_subject),
        Found("provenance", "index", None, root.digest, provenance),
    )
    listing = Evidence("docker.io/team/tool", (), subjects, found, (), ())
    cargo = Cargo("tool", "image", wrap(layout, root), (reference,), evidence_tree(layout, listing))
    return layout, Signed(cargo, root, upstream, by_tag, by_subject, provenance)


def evidence_tree(layout: Layout, listing: Evidence) -> Descriptor:
    """Write a ``NAME.upstream`` tree of what ``listing`` names; its bytes are in ``layout`` already."""
    files = {"upstream.json": listing.to_text().encode()}
    for document in (*listing.subjects, *(found.manifest for found in listing.found)):
        files[f"manifests/{document.digest.hex}"] = layout.path(document.digest).read_bytes()
    for found in listing.found:
        body = json.loads(layout.path(found.manifest.digest).read_bytes())
        for part in (body["config"], *body["layers"]):
            files[f"blobs/{part['digest'][7:]}"] = layout.path(Digest.parse(part["digest"])).read_bytes()
    return write_tree(layout, [TreeFile(path, layout.put(data), len(data)) for path, data in files.items()])


def several(layout: Layout) -> Cargo:
    """Make an image of two platforms of a larger index: an index of ours around them."""
    entries = [of(image(layout, architecture), architecture) for architecture in ("amd64", "arm64")]
    return Cargo("tool", "image", index(layout, *entries, artifact=IMAGE), (REFERENCE,))


def large(size: int) -> bytes:
    return os.urandom(size)

