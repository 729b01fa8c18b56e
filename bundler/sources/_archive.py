"""An archive of an image becomes an OCI layout: one that holds a layout keeps its bytes, one of Docker's own form gets a manifest.

Docker's form (`docker save`) has a config and layers but no manifest. The one made here is always the same for the same
image; config and layers stay byte for byte, so the image keeps its ID. Rules: a config is what its name says and lists
exactly the layers there are; ``index.json`` is written last, so that an interrupted run leaves what was there before.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from airgap_images.bundle import REF_NAME
from airgap_images.contents.archive import ANOTHER, Stored, Unpacked, diff_id, unpack
from airgap_images.layout import PARTIAL, Layout, remove_torn, write_atomic
from airgap_images.oci import (
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    INDEXES,
    MANIFESTS,
    MAX_MANIFEST,
    Descriptor,
    Digest,
    Index,
    Manifest,
    parse_document,
)
from airgap_images.reference import Reference
from manifests import canonical
from manifests.errors import AirgapError, IntegrityError, InvalidFileError
from manifests.paths import printable

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
CONTAINERD_NAME = "io.containerd.image.name"
SOURCE_ID = "airgap.source.id"  # the engine's ID of what was taken in last
MAX_CONFIG = 8 << 20  # bytes
MAX_LEVELS = 4  # index → index → manifest → blob
MAX_NAMED = 10  # images of an archive named in one message

_CONFIG_NAME = re.compile(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?")


@dataclass(frozen=True, slots=True)
class Asked:
    """What to take of an archive: ``name`` selects an image; ``kept`` are digests (hex) that must stay in the layout."""

    what: str
    transport: str
    name: str | None
    kept: frozenset[str]

    @property
    def names(self) -> set[str]:
        """Return what the image may be called: engines write a name in full."""
        return {self.name, _in_full(self.name)} if self.name else set()


def take(stream: Iterator[bytes], layout: Layout, asked: Asked, engine_id: str | None) -> None:
    """Make ``layout`` hold the image of an archive; ``engine_id`` is what the engine it comes from calls it.

    Raises InvalidFileError if there is not exactly one such image, IntegrityError if it is not what it is said to be.
    """
    _remove_torn(layout)
    found = unpack(stream, layout, asked.what)
    is_layout = found.find("oci-layout") is not None and found.find("index.json") is not None
    if asked.transport == "oci-archive" and not is_layout:
        raise InvalidFileError(f"{asked.what}: holds no OCI layout", hint="name it by `docker-archive:` if `docker save` wrote it")
    entry = _listed(found, layout, asked) if is_layout else _made(found, layout, asked)
    if engine_id and engine_id not in _ids(layout, entry):
        message = f"{asked.what}: the engine calls the image {printable(engine_id)}, what it sent is {', '.join(_ids(layout, entry))}"
        raise IntegrityError(message, hint="distrust this engine, or run again if somebody worked with it just now")
    body: dict[str, Any] = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [entry.to_dict()]}
    if engine_id:
        body["annotations"] = {SOURCE_ID: engine_id}
    write_atomic(layout.root / "index.json", canonical.compact(body))
    _remove_others(layout, {part.digest.hex for part in _reached(layout, entry)} | asked.kept)


def is_whole(layout: Layout, engine_id: str) -> bool:
    """Say whether what was taken in last is the image an engine calls by this ID, and is all here."""
    try:
        index = Index.parse((layout.root / "index.json").read_bytes(), "index.json")
        if dict(index.annotations).get(SOURCE_ID) != engine_id:
            return False
        for part in _reached(layout, index.manifests[0]):
            if part.media_type in MANIFESTS:
                manifest = Manifest.parse(layout.read(part, MAX_MANIFEST), str(part.digest))
                if not all(layout.has(child.digest, child.size) for child in manifest.children):
                    return False
        return layout.has(index.manifests[0].digest, index.manifests[0].size)
    except (OSError, AirgapError, IndexError):
        return False  # then it is taken in again


def _listed(found: Unpacked, layout: Layout, asked: Asked) -> Descriptor:
    """Return the entry of the layout in an archive; newer engines name it by the image's full name."""
    index = Index.parse(found.read(layout, "index.json", MAX_MANIFEST), f"{asked.what}: index.json")
    entries = [entry for entry in index.manifests if entry.media_type in MANIFESTS | INDEXES]
    called = [(_entry_names(entry), entry) for entry in entries]
    matching = {entry.digest: entry for names, entry in reversed(called) if asked.name is None or names & asked.names}
    if len(matching) != 1:
        raise _not_one(asked, len(matching), [name for names, _ in called for name in names])
    (entry,) = matching.values()
    kept = tuple((key, text) for key, text in entry.annotations if key in {REF_NAME, CONTAINERD_NAME})
    return Descriptor(entry.media_type, entry.digest, entry.size, kept)


def _made(found: Unpacked, layout: Layout, asked: Asked) -> Descriptor:
    """Make the manifest of an image in Docker's own form and return its descriptor, named if it has one name."""
    listed = canonical.parse(found.read(layout, "manifest.json", MAX_MANIFEST), f"{asked.what}: manifest.json", limit=MAX_MANIFEST)
    images = [_Saved.of(entry, asked.what) for entry in listed] if isinstance(listed, list) else []
    matching = [image for image in images if asked.name is None or asked.names & set(image.tags)]
    if len(matching) != 1:
        raise _not_one(asked, len(matching), [tag for image in images for tag in image.tags])
    image = matching[0]
    config, raw = _config(found, layout, image, asked.what)
    layers = [_layer(found, layout, name, asked.what) for name in image.layers]
    said = canonical.parse(raw, f"{asked.what}: {image.config}", limit=MAX_CONFIG)
    rootfs = said.get("rootfs") if isinstance(said, dict) else None
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if diff_ids != [str(content) for content, _ in layers]:
        raise IntegrityError(f"{asked.what}: the layers are not those the image's config lists", hint=ANOTHER)
    body = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "config": Descriptor(CONFIG, config.digest, config.size).to_dict(),
        "layers": [layer.to_dict() for _, layer in layers],
    }
    document = canonical.compact(body)
    names = image.tags if len(image.tags) == 1 else ()
    return Descriptor(IMAGE_MANIFEST, layout.put(document), len(document), tuple((REF_NAME, name) for name in names))


@dataclass(frozen=True, slots=True)
class _Saved:
    """One image in ``manifest.json``, with its names in full."""

    config: str
    tags: tuple[str, ...]
    layers: tuple[str, ...]

    @classmethod
    def of(cls, value: Any, what: str) -> _Saved:
        config, tags, layers = (value.get(key) for key in ("Config", "RepoTags", "Layers")) if isinstance(value, dict) else (None,) * 3
        if not isinstance(config, str) or not _texts(tags or []) or not _texts(layers or []):
            raise InvalidFileError(f"{what}: manifest.json is not that of `docker save`", hint=ANOTHER)
        return cls(config, tuple(sorted({_full(tag) for tag in tags or ()})), tuple(layers or ()))


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _config(found: Unpacked, layout: Layout, image: _Saved, what: str) -> tuple[Stored, bytes]:
    """Return the config; its digest is the image's ID, and its name in the archive says so."""
    raw = found.read(layout, image.config, MAX_CONFIG)
    stored = Stored(Digest.of(raw), len(raw))
    named = _CONFIG_NAME.fullmatch(image.config)
    if named and named[1] != stored.digest.hex:
        raise IntegrityError(f"{what}: the config named {image.config} is sha256 {stored.digest.hex}", hint=ANOTHER)
    return stored, raw


def _layer(found: Unpacked, layout: Layout, name: str, what: str) -> tuple[Digest, Descriptor]:
    """Return a layer's diff ID and its descriptor."""
    stored = found.find(name)
    if stored is None:
        raise InvalidFileError(f"{what}: the archive has no layer {printable(name)!r}", hint=ANOTHER)
    content, packed = diff_id(layout, stored, f"{what}: {printable(name)}")
    return content, Descriptor(f"{LAYER}+{packed}" if packed else LAYER, stored.digest, stored.size)


def _not_one(asked: Asked, count: int, names: list[str]) -> InvalidFileError:
    listed = sorted({printable(name) for name in names})
    more = f" and {len(listed) - MAX_NAMED} more" if len(listed) > MAX_NAMED else ""
    said = (", ".join(listed[:MAX_NAMED]) + more) or "images without a name, or none"
    called = f" of the name {printable(asked.name)!r}" if asked.name else ""
    images = f"{count} images" if count else "no image"
    return InvalidFileError(
        f"{asked.what}: {images}{called} in the archive; it has: {said}", hint="write `:NAME` behind the path, one of those there are"
    )


def _entry_names(entry: Descriptor) -> set[str]:
    return {_full(name) for name in (entry.annotation(REF_NAME), entry.annotation(CONTAINERD_NAME)) if name}


def _full(name: str) -> str:
    """Return a name as engines hold it; a bare word, which may be a tag, stays as it is."""
    return _in_full(name) if ":" in name or "/" in name else name


def _in_full(name: str) -> str:
    try:
        return Reference.parse(name).local
    except InvalidFileError:
        return name


def _ids(layout: Layout, root: Descriptor) -> tuple[str, ...]:
    """Return what an engine may call the image: its config's digest, or its own."""
    document = parse_document(root, layout.read(root, MAX_MANIFEST))
    return (str(document.config.digest), str(root.digest)) if isinstance(document, Manifest) else (str(root.digest),)


def _reached(layout: Layout, root: Descriptor) -> list[Descriptor]:
    """Return everything the image leads to that is here; of some platforms an engine may hold nothing."""
    reached: dict[Digest, Descriptor] = {}
    level = [root]
    for _ in range(MAX_LEVELS):
        here = [part for part in level if part.digest not in reached and layout.has(part.digest, part.size)]
        reached |= {part.digest: part for part in here}
        documents = [parse_document(part, layout.read(part, MAX_MANIFEST)) for part in here if part.media_type in MANIFESTS | INDEXES]
        level = [child for document in documents if document for child in document.children]
    return list(reached.values())


def _remove_others(layout: Layout, kept: frozenset[str] | set[str]) -> None:
    for name, _ in list(layout.blobs()):
        if name not in kept:
            (layout.root / "blobs" / "sha256" / name).unlink(missing_ok=True)
    _remove_torn(layout)


def _remove_torn(layout: Layout) -> None:
    """Remove what a killed process left half made; only for the holder of the layout."""
    shutil.rmtree(layout.root / PARTIAL, ignore_errors=True)
    for name in ("index.json", "oci-layout"):
        remove_torn(layout.root / name)
