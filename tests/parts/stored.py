"""Real images in a store, as a proven bundle leaves them there: one platform, Docker's own format, or an index of two."""

from __future__ import annotations

from parts import images

from airgap_images.layout import Layout
from airgap_images.oci import DOCKER_MANIFEST, IMAGE_INDEX, IMAGE_MANIFEST, Descriptor
from airgap_images.platform import Platform
from airgap_images.targets import Cargo
from manifests import canonical

NAME = "registry.example.org/team/busybox:1.0"
REPOSITORY = NAME.rpartition(":")[0]
CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")
ARTIFACT = "application/vnd.airgap.image.v1+json"


def cargo(root: Descriptor, *names: str, name: str = "server") -> Cargo:
    return Cargo(name, "image", root, names)


def stored(store: Layout, *, dockers: bool = False, mark: str = "", architecture: str = "amd64") -> Descriptor:
    """Put the busybox image into the store, in Docker's own format on demand, or with another config; return its root."""
    image = images.busybox(architecture)
    manifest = image.manifest
    parts = {
        part["digest"]: (image.layout / "blobs" / "sha256" / part["digest"][7:]).read_bytes()
        for part in (manifest["config"], *manifest["layers"])
    }
    config = parts[manifest["config"]["digest"]] + mark.encode()  # white space: another digest, the same image
    layers = [Descriptor(layer["mediaType"], store.put(parts[layer["digest"]]), layer["size"]) for layer in manifest["layers"]]
    if dockers:
        layers = [Descriptor(DOCKER_LAYER, layer.digest, layer.size) for layer in layers]
    described = Descriptor(DOCKER_CONFIG if dockers else CONFIG, store.put(config), len(config))
    return put_manifest(store, described, layers, DOCKER_MANIFEST if dockers else IMAGE_MANIFEST)


def put_manifest(store: Layout, config: Descriptor, layers: list[Descriptor], media_type: str = IMAGE_MANIFEST) -> Descriptor:
    body = {"schemaVersion": 2, "mediaType": media_type, "config": config.to_dict(), "layers": [layer.to_dict() for layer in layers]}
    raw = canonical.compact(body)
    return Descriptor(media_type, store.put(raw), len(raw))


def indexed(store: Layout, *, ours: bool = False) -> tuple[Descriptor, dict[str, Descriptor]]:
    """Put an index of two platforms into the store, as upstream has it or as one of `ours`; return its root and the manifests."""
    both = {architecture: stored(store, architecture=architecture) for architecture in ("amd64", "arm64")}
    listed = [root.to_dict() | {"platform": {"os": "linux", "architecture": architecture}} for architecture, root in both.items()]
    return put_index(store, listed, ours=ours), both


def put_index(store: Layout, listed: list[dict], *, ours: bool = False) -> Descriptor:
    raw = canonical.compact({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": listed} | ({"artifactType": ARTIFACT} if ours else {}))
    return Descriptor(IMAGE_INDEX, store.put(raw), len(raw), artifact_type=ARTIFACT if ours else None)


def damage(store: Layout, root: Descriptor, where: int) -> None:
    """Change one byte of a blob in the store."""
    path = store.path(root.digest)
    raw = bytearray(path.read_bytes())
    raw[where] ^= 1
    path.chmod(0o644)
    path.write_bytes(raw)
