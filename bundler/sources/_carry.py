"""What of an image is carried, wherever its bytes are: one platform, an index of ours of some, or upstream's own of all.

Rules: nothing the bundle names is missing from it; manifests and configs are read and proven while locking, layers are
pinned by what the manifests say of them; what an index says of a platform must be what the image itself says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from airgap_images import choose
from airgap_images.choose import Offer, Offers, index_of, named
from airgap_images.oci import DOCKER_LIST, INDEXES, MANIFESTS, MAX_MANIFEST, Descriptor, Digest, Manifest
from airgap_images.platform import Platform
from bundler.sources import Context
from manifests import canonical
from manifests.errors import IntegrityError, InvalidFileError
from manifests.lock import INDEX_FILE, Inline, Pin
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
LABELS = ("source", "revision", "version", "licenses", "vendor", "url")  # of org.opencontainers.image.*
SOME = "name platforms instead of all"
LIES = "the index is wrong, or lies: ask who published it"


class Origin(Protocol):
    """Where an image's bytes are: a registry, or a layout on this machine."""

    def read(self, part: Descriptor, limit: int) -> bytes:
        """Return the bytes of a manifest, an index or a config, proven to be what ``part`` says."""

    def url(self, part: Descriptor) -> str:
        """Return what a pin says of where ``part`` is."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image and what its config says; ``platform`` is what it is carried as."""

    root: Descriptor
    platform: Platform
    parts: tuple[Descriptor, ...]
    layers: int
    user: str
    labels: tuple[tuple[str, str], ...]
    os_version: str


@dataclass(frozen=True, slots=True)
class Carried:
    """What is carried: all but name, kind and origin of a locked component."""

    root: Digest
    index: Digest | None
    images: tuple[Image, ...]
    files: tuple[Pin, ...]
    inline: tuple[Inline, ...]
    facts: tuple[tuple[str, str], ...]

    @property
    def platform(self) -> str:
        """Return the platforms, sorted and joined by commas."""
        return ",".join(sorted({str(image.platform) for image in self.images}))


@dataclass(frozen=True, slots=True)
class Desk:
    """One component's reading: every document is proven, and kept for the build."""

    name: str
    origin: Origin
    context: Context

    def document(self, part: Descriptor) -> bytes:
        """Read a manifest or an index."""
        raw = self.origin.read(part, MAX_MANIFEST)
        self.context.cache.put(raw)
        return raw

    def manifest(self, part: Descriptor) -> Manifest:
        """Read a manifest and parse it."""
        return Manifest.parse(self.document(part), f"{self.name}: manifest {part.digest}")

    def image(self, offer: Offer, manifest: Manifest, *, listed: bool = True) -> Image:
        """Return the image of an index's entry, or with ``listed`` unset one that stands for itself."""
        _check_carried(self.name, manifest)
        raw = self.origin.read(manifest.config, MAX_CONFIG)
        self.context.cache.put(raw)
        config = _config(self.name, manifest, raw)
        stated = canonical.parse(offer.stated, self.name, limit=MAX_MANIFEST)
        settings = _object(config.get("config"))
        labels = _object(settings.get("Labels"))
        return Image(
            root=offer.entry,
            platform=_agreed(self.name, offer.platform, _own(config), listed=listed),
            parts=(offer.entry, *manifest.children),
            layers=len(manifest.layers),
            user=_text(settings.get("User")) or "root",
            labels=tuple((label, text) for label in LABELS if (text := _text(labels.get(f"org.opencontainers.image.{label}")))),
            os_version=_text(stated.get("os.version") or config.get("os.version")),
        )

    def pins(self, parts: Iterable[Descriptor], names: dict[Digest, tuple[str, dict[str, str]]]) -> tuple[Pin, ...]:
        """Pin every part once; ``names`` gives the paths and the evidence of those that have any of their own."""
        pins: dict[Digest, Pin] = {}
        for part in parts:
            path, evidence = names.get(part.digest, (f"blobs/{part.digest.hex}", {}))
            pins.setdefault(
                part.digest,
                Pin(
                    path=path,
                    url=self.origin.url(part),
                    size=part.size,
                    sha256=part.digest.hex,
                    media_type=part.media_type,
                    evidence=evidence,
                ),
            )
        return tuple(pins.values())


def carry(desk: Desk, root: Descriptor, wanted: tuple[Platform, ...] | None, tag: dict[str, str]) -> Carried:
    """Return what is carried of the image ``root`` for the ``wanted`` platforms, or all of it; ``tag`` says what led to it.

    Raises InvalidFileError if there is not exactly one image for a platform, or one that cannot be carried.
    """
    if root.media_type not in INDEXES:
        alone = Offer(_only(desk.name, wanted), root)
        return _single(desk, desk.image(alone, desk.manifest(root), listed=False), None, tag)
    found = choose.offers(root, desk.document, desk.name)
    if wanted is None:
        return _everything(desk, root, found, tag)
    chosen = tuple(choose.pick(found, platform, desk.name) for platform in wanted)
    images = tuple(desk.image(offer, desk.manifest(offer.entry)) for offer in chosen)
    if len(images) == 1:
        return _single(desk, images[0], root.digest, {"index": str(root.digest), **tag})
    text = index_of(chosen)
    pins = desk.pins([part for image in images for part in image.parts], {})
    made = Digest.of(text.encode())
    return Carried(made, root.digest, images, pins, (Inline(path=INDEX_FILE, text=text),), _facts(desk, images))


def _only(name: str, wanted: tuple[Platform, ...] | None) -> Platform:
    """Return the platform an image that stands for itself must be for; an empty one if any is right."""
    if wanted is None:
        return Platform("", "")
    if len(wanted) > 1:
        platforms = ", ".join(map(str, wanted))
        raise InvalidFileError(f"{name}: one image and no index, wanted {platforms}", hint="name an index, or one of the platforms")
    return wanted[0]


def _single(desk: Desk, image: Image, index: Digest | None, evidence: dict[str, str]) -> Carried:
    names = {image.parts[1].digest: ("config.json", dict[str, str]()), image.root.digest: ("manifest.json", evidence)}
    pins = desk.pins(image.parts, names)
    return Carried(image.root.digest, index, (image,), pins, (), _facts(desk, (image,)))


def _everything(desk: Desk, root: Descriptor, found: Offers, tag: dict[str, str]) -> Carried:
    """Carry an index as it is, with all it leads to."""
    choose.check_distinct(found, desk.name)
    if found.levels + (root.media_type == DOCKER_LIST) > choose.MAX_INDEX_LEVELS:  # which gets an index of ours around it
        raise InvalidFileError(f"{desk.name}: indexes nested too deeply in a list of Docker's own type", hint=choose.BY_DIGEST)
    images: list[Image] = []
    parts = list(found.indexes)
    others = 0
    for offer in found.entries:
        if offer.entry.media_type not in MANIFESTS:
            kind = printable(offer.entry.media_type)
            raise InvalidFileError(f"{desk.name}: the index leads to {kind!r}, which cannot be carried", hint=SOME)
        manifest = desk.manifest(offer.entry)
        if offer.attests or manifest.config.media_type not in CONFIGS:
            others += 1
            _check_simple(desk.name, manifest)
        else:
            images.append(desk.image(offer, manifest))
        parts += (offer.entry, *manifest.children)
    if not images:
        raise InvalidFileError(f"{desk.name}: the index holds no container image", hint="this kind carries container images only")
    pins = desk.pins(parts, {root.digest: (INDEX_FILE, tag)})
    size = sum(pin.size for pin in pins)
    facts = dict(_facts(desk, tuple(images))) | {"bytes": str(size)}
    if others:
        facts["attestations"] = str(others)
    return Carried(root.digest, root.digest, tuple(images), pins, (), tuple(facts.items()))


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


def _check_simple(name: str, found: Manifest) -> None:
    """Refuse a statement whose parts lead further: only one level of it is pinned."""
    for part in found.children:
        if part.media_type in MANIFESTS | INDEXES:
            raise InvalidFileError(f"{name}: {part.digest} is a manifest where a layer should be", hint=SOME)


def _agreed(name: str, said: Platform, own: Platform, *, listed: bool) -> Platform:
    """Return the platform an image is for, where its index, or who wants it, and its own config agree."""
    if said == Platform("", ""):
        return own
    if (own.os, own.architecture) == (said.os, said.architecture) and own.variant in {"", said.variant}:
        return said
    if listed:
        raise IntegrityError(f"{name}: the index says {named(said)}, the image itself says {printable(str(own))}", hint=LIES)
    message = f"{name}: the image is for {printable(str(own)) or 'no platform it states'}, wanted {said}"
    raise InvalidFileError(message, hint="name an image for the target, or set `platform:`")


def _own(config: dict[str, Any]) -> Platform:
    return Platform.of(*(str(config.get(key) or "") for key in ("os", "architecture", "variant")))


def _config(name: str, manifest: Manifest, raw: bytes) -> dict[str, Any]:
    what = f"{name}: config {manifest.config.digest}"
    try:
        config = canonical.parse(raw, what, limit=MAX_CONFIG)
    except InvalidFileError as error:
        raise IntegrityError(error.message, hint="the image is broken: ask who published it") from None
    rootfs = config.get("rootfs") if isinstance(config, dict) else None
    listed = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(listed, list) or len(listed) != len(manifest.layers):
        raise IntegrityError(f"{what}: does not list the manifest's layers", hint="the image is broken: ask who published it")
    return dict(config)


def _facts(desk: Desk, images: tuple[Image, ...]) -> tuple[tuple[str, str], ...]:
    """Return what the configs say of the images; where several platforms differ, each of what they say."""
    users = sorted({image.user for image in images})
    facts = {
        "layers": str(sum(image.layers for image in images)),
        "bytes": str(sum({part.digest: part.size for image in images for part in image.parts}.values())),
        "user": ", ".join(users),
    }
    if any(user.partition(":")[0] in {"root", "0"} for user in users):
        desk.context.warn(f"{desk.name}: the image runs as root unless the site says otherwise")
    if len(images) > 1:
        facts["images"] = str(len(images))
    elif images[0].os_version:
        facts["os-version"] = images[0].os_version
    for label in LABELS:
        said = sorted({text for image in images for key, text in image.labels if key == label})
        if said:
            facts[label] = ", ".join(said)
    return tuple(facts.items())


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return printable(value) if isinstance(value, str) else ""
