"""Kind ``image``: a container image from a registry, pulled without an engine, every byte as the registry serves it.

Of an image for several platforms one is taken and its own manifest pinned, so that nothing the bundle names is missing
from it. Manifest and config are read and proven while locking; layers are pinned by what the manifest says of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from airgap_images.http import Client, Credentials
from airgap_images.oci import DOCKER_MANIFEST, IMAGE_MANIFEST, INDEXES, Descriptor, Digest, Index, Manifest
from airgap_images.platform import Platform, is_attestation
from airgap_images.reference import Reference
from airgap_images.registry import RegistryCredentials, blob, blob_url, manifest, manifest_url
from bundler.sources import Context
from manifests import canonical
from manifests.errors import IntegrityError, InvalidFileError
from manifests.lock import Frozen, LockedComponent, Pin
from manifests.paths import printable

MAX_CONFIG = 8 << 20  # bytes of an image's config; those in use are below 100 KB
CONFIGS = frozenset({"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"})
LAYERS = frozenset(
    {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
)
FOREIGN = ("application/vnd.oci.image.layer.nondistributable.", "application/vnd.docker.image.rootfs.foreign.")
LABELS = ("source", "revision", "version", "licenses")  # of org.opencontainers.image.*
NOT_COLLECTED = "not collected by this version"


class Options(Frozen):
    """Which image, and for which machines."""

    ref: str = Field(min_length=1, max_length=512, description="registry/repository:tag or registry/repository@sha256:...")
    platform: str | None = Field(
        default=None, pattern=r"^[a-z0-9]+/[a-z0-9_]+(/v[0-9]+)?$", description="os/architecture[/variant]; the target's when absent"
    )


@dataclass(frozen=True, slots=True)
class Found:
    """An image as its registry has it: the manifest of one platform, and the index it was chosen from."""

    descriptor: Descriptor
    manifest: Manifest
    index: Digest | None
    config: bytes


def resolve(name: str, role: str | None, options: Options, context: Context) -> LockedComponent:
    """Return the image with manifest, config and layers pinned.

    Raises InvalidFileError if there is not exactly one image for the platform, or if it cannot be carried.
    """
    ref = Reference.parse(options.ref)
    if ref.floating:
        context.warn(f"{name}: {printable(options.ref)!r} has neither tag nor digest; took {ref.name}, which moves")
    wanted = Platform.parse(options.platform or context.target.platform)
    found = _find(name, ref, wanted, context)
    facts = _facts(name, found, wanted, context)
    context.warn(f"{name}: upstream signatures of the image are {NOT_COLLECTED}")
    identity = {"ref": ref.name, "reference": ref.local, "digest": str(found.descriptor.digest), "platform": str(wanted)}
    if found.index:
        identity["index"] = str(found.index)
    return LockedComponent(
        name=name,
        kind="image",
        form="image",
        role=role,
        identity=identity,
        facts=facts,
        root=found.descriptor.digest.hex,
        files=_pins(ref, found),
    )


def credentials(client: Client, docker_config: Path | None = None) -> Credentials:
    """Return the logins of the docker configuration file, this user's own unless another is named."""
    return RegistryCredentials(client, docker_config or Path.home() / ".docker" / "config.json")


def _find(name: str, ref: Reference, wanted: Platform, context: Context) -> Found:
    access = credentials(context.client)
    descriptor, raw = manifest(context.client, access, ref)
    index = None
    if descriptor.media_type in INDEXES:
        index = descriptor.digest
        chosen = select(Index.parse(raw, str(ref)), wanted, name)
        ref = ref.at(chosen.digest)
        descriptor, raw = manifest(context.client, access, ref)
        if (descriptor.media_type, descriptor.size) != (chosen.media_type, chosen.size):
            raise IntegrityError(f"{ref}: not of the type and size its index says", hint="distrust this registry or this image")
    found = Manifest.parse(raw, str(ref))
    _check_carried(name, found)
    config = blob(context.client, access, ref, found.config, MAX_CONFIG)
    for data in (raw, config):  # proven already: the build takes them from here
        context.cache.put(data)
    return Found(descriptor, found, index, config)


def select(index: Index, wanted: Platform, name: str) -> Descriptor:
    """Return the one image of ``index`` for the platform; raises InvalidFileError listing what there is otherwise."""
    offers = [(Platform.said(entry), entry) for entry in index.manifests if not is_attestation(entry)]
    matching = {entry.digest: entry for platform, entry in offers if platform == wanted}
    if len(matching) != 1:
        count = f"{len(matching)} images" if matching else "no image"
        listed = ", ".join(sorted({printable(str(platform)) or "no platform stated" for platform, _ in offers})) or "nothing"
        hint = "name one by `platform:`, or the manifest itself by its digest in `ref:`"
        raise InvalidFileError(f"{name}: the index holds {count} for {wanted}; it has: {listed}", hint=hint)
    (chosen,) = matching.values()
    if chosen.media_type not in {IMAGE_MANIFEST, DOCKER_MANIFEST}:
        raise InvalidFileError(
            f"{name}: the index leads to {printable(chosen.media_type)!r}, not to an image",
            hint="name the image itself by its digest in `ref:`",
        )
    return chosen


def _check_carried(name: str, found: Manifest) -> None:
    """Refuse what is no container image, and layers that may not be passed on or that nothing here can read."""
    if found.config.media_type not in CONFIGS:
        kind = printable(found.artifact_type or found.config.media_type)
        raise InvalidFileError(f"{name}: not a container image but {kind!r}", hint="this kind carries container images only")
    for layer in found.layers:
        if layer.media_type.startswith(FOREIGN):
            raise InvalidFileError(
                f"{name}: layer {layer.digest} may not be distributed: its registry does not hold it",
                hint="build the image on a base whose layers may be passed on",
            )
        if layer.media_type not in LAYERS:
            raise InvalidFileError(
                f"{name}: layer {layer.digest} is of the unknown type {printable(layer.media_type)!r}",
                hint="push the image again with gzip or zstd layers, not encrypted",
            )


def _facts(name: str, found: Found, wanted: Platform, context: Context) -> dict[str, str]:
    """Return what the config says of the image, after holding it against manifest and platform."""
    config = _config(name, found)
    own = Platform.of(*(str(config.get(key) or "") for key in ("os", "architecture", "variant")))
    if (own.os, own.architecture) != (wanted.os, wanted.architecture) or (own.variant and own.variant != wanted.variant):
        if found.index:
            hint = "the index is wrong, or lies: ask who published it"
            raise IntegrityError(f"{name}: the index says {wanted}, the image itself says {printable(str(own))}", hint=hint)
        message = f"{name}: the image is for {printable(str(own)) or 'no platform it states'}, wanted {wanted}"
        raise InvalidFileError(message, hint="name an image for the target, or set `platform:`")
    settings = config.get("config")
    settings = settings if isinstance(settings, dict) else {}
    facts = {
        "layers": str(len(found.manifest.layers)),
        "bytes": str(sum({part.digest: part.size for part in (found.descriptor, *found.manifest.children)}.values())),
        "user": _text(settings.get("User")) or "root",
        "upstream-signatures": NOT_COLLECTED,
    }
    if facts["user"].partition(":")[0] in {"root", "0"}:
        context.warn(f"{name}: the image runs as root unless the site says otherwise")
    labels = settings.get("Labels")
    labels = labels if isinstance(labels, dict) else {}
    return facts | {label: text for label in LABELS if (text := _text(labels.get(f"org.opencontainers.image.{label}")))}


def _config(name: str, found: Found) -> dict[str, Any]:
    what = f"{name}: config {found.manifest.config.digest}"
    try:
        config = canonical.parse(found.config, what, limit=MAX_CONFIG)
    except InvalidFileError as error:
        raise IntegrityError(error.message, hint="the image is broken: ask who published it") from None
    rootfs = config.get("rootfs") if isinstance(config, dict) else None
    listed = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(listed, list) or len(listed) != len(found.manifest.layers):
        raise IntegrityError(f"{what}: does not list the manifest's layers", hint="the image is broken: ask who published it")
    return dict(config)


def _pins(ref: Reference, found: Found) -> tuple[Pin, ...]:
    evidence = {"index": str(found.index)} if found.index else {}
    if ref.digest is None:
        evidence["tag"] = ref.selector
    root, config = found.descriptor, found.manifest.config
    own = ref.at(root.digest)
    pins = {root.digest: _pin("manifest.json", manifest_url(own), root, evidence)}
    pins[config.digest] = _pin("config.json", blob_url(ref, config.digest), config)
    for layer in found.manifest.layers:
        pins.setdefault(layer.digest, _pin(f"blobs/{layer.digest.hex}", blob_url(ref, layer.digest), layer))
    return tuple(pins.values())


def _pin(path: str, url: str, part: Descriptor, evidence: dict[str, str] | None = None) -> Pin:
    return Pin(path=path, url=url, size=part.size, sha256=part.digest.hex, media_type=part.media_type, evidence=evidence or {})


def _text(value: Any) -> str:
    return printable(value) if isinstance(value, str) else ""
