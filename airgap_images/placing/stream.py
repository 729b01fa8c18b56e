"""An image of a store as one tar stream that every container engine reads, made while it is sent.

Rules: no temporary copy and flat memory; each blob is hashed as it passes, and its last bytes and the documents that name it
follow only once they are known to be right, so an engine never has a whole archive with a wrong byte in it. Nothing is
converted, and the image in the archive has no name: it gets one after the engine's id of it has been compared.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import RawIOBase
from typing import Self

from airgap_images.bundle import IMAGE
from airgap_images.choose import MAX_INDEX_LEVELS, platform_manifest
from airgap_images.layout import CHUNK, OCI_LAYOUT, Layout, Progress, mismatch
from airgap_images.oci import IMAGE_INDEX, INDEXES, MANIFESTS, MAX_MANIFEST, Descriptor, Digest, Manifest, parse_document
from airgap_images.platform import Platform
from manifests import canonical
from manifests.errors import IntegrityError, SiteError


@dataclass(frozen=True, slots=True)
class Image:
    """An image in a store, for one machine: what is sent of it, and the manifest the machine runs.

    ``root`` is the manifest's descriptor, or that of the whole upstream index (``Image.whole``). ``blobs`` is everything
    ``root`` leads to and itself, with sizes, each after what it names.
    """

    root: Descriptor
    manifest: Manifest
    blobs: tuple[tuple[Digest, int], ...]

    @classmethod
    def read(cls, layout: Layout, root: Descriptor, platform: Platform) -> Self:
        """Read the manifest that ``root`` has for ``platform``; raises SiteError if it has none, IntegrityError if it is no image."""
        chosen = platform_manifest(layout, root, platform)
        manifest = parse_document(chosen, layout.read(chosen, MAX_MANIFEST))
        if not isinstance(manifest, Manifest):
            raise IntegrityError(f"{_path(chosen.digest)}: not an image for one platform", hint="build the bundle again")
        return cls(chosen, manifest, _under(layout, chosen))

    @classmethod
    def whole(cls, layout: Layout, root: Descriptor, platform: Platform) -> Self:
        """Read an image with all its platforms where ``root`` is an index as upstream signed it, else as ``read`` does."""
        image = cls.read(layout, root, platform)
        if root.media_type not in INDEXES or root.artifact_type == IMAGE:
            return image
        return cls(root, image.manifest, _under(layout, root))

    @property
    def config(self) -> Digest:
        """Return the digest of the configuration for the machine, which engines call the image's id."""
        return self.manifest.config.digest


def hybrid(layout: Layout, image: Image, progress: Progress | None = None) -> Iterator[bytes]:
    """Yield a tar archive that is an OCI layout and a `docker load` archive at once; the image in it has no name.

    Engines too old for layouts read ``manifest.json``. The documents come last: a stream cut short holds no image.
    Raises IntegrityError, ending the stream, when a blob is not what its digest says.
    """
    # An empty part would be the last chunk of a chunked request.
    return filter(None, _parts(layout, image, progress))


def _parts(layout: Layout, image: Image, progress: Progress | None) -> Iterator[bytes]:
    yield from _entry("oci-layout", OCI_LAYOUT)
    for digest, size in image.blobs:
        yield _header(_path(digest), size)
        yield from _blob(layout, digest, size, progress)
        yield bytes(-size % tarfile.BLOCKSIZE)
    yield from _entry("index.json", _index(image.root))
    layers = [_path(layer.digest) for layer in image.manifest.layers]
    yield from _entry("manifest.json", canonical.compact([{"Config": _path(image.config), "RepoTags": None, "Layers": layers}]))
    yield bytes(2 * tarfile.BLOCKSIZE)


def _entry(name: str, data: bytes) -> Iterator[bytes]:
    yield _header(name, len(data))
    yield data
    yield bytes(-len(data) % tarfile.BLOCKSIZE)


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o444
    return entry.tobuf(tarfile.GNU_FORMAT)  # which has room for sizes above 8 GiB


def _blob(layout: Layout, digest: Digest, size: int, progress: Progress | None) -> Iterator[bytes]:
    """Yield a blob's bytes, the last of them only when all are known to be right."""
    hasher, held, left = hashlib.sha256(), b"", size
    with os.fdopen(layout.open(digest, size), "rb", buffering=0) as file:
        while left and (chunk := _read(file, min(CHUNK, left), digest)):
            hasher.update(chunk)
            yield held
            held = chunk
            left -= len(chunk)
            if progress:
                progress(len(chunk))
    got = Digest(hasher.hexdigest())
    if left or got != digest:
        raise mismatch(_path(digest), digest, got)
    yield held


def _read(file: RawIOBase, count: int, digest: Digest) -> bytes:
    try:
        return file.read(count) or b""
    except OSError as error:  # an OSError of our own disk must not look like one of the engine's socket
        raise SiteError(f"{_path(digest)}: cannot read: {error.strerror}", hint="check the disk of the store") from None


def _index(root: Descriptor) -> bytes:
    plain = Descriptor(root.media_type, root.digest, root.size)
    return canonical.compact({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [plain.to_dict()]})


def _under(layout: Layout, root: Descriptor) -> tuple[tuple[Digest, int], ...]:
    found: dict[Digest, int] = {}
    _collect(layout, root, found, MAX_INDEX_LEVELS + 1)
    return tuple(found.items())


def _collect(layout: Layout, descriptor: Descriptor, found: dict[Digest, int], levels: int) -> None:
    """Add what ``descriptor`` leads to, then itself, each once; at most ``levels`` documents stand above a blob."""
    if descriptor.digest in found:
        return
    is_document = levels and descriptor.media_type in MANIFESTS | INDEXES
    document = parse_document(descriptor, layout.read(descriptor, MAX_MANIFEST)) if is_document else None
    if isinstance(document, Manifest):
        for part in (*document.layers, document.config):
            found.setdefault(part.digest, part.size)
    elif document is not None:
        for child in document.manifests:
            _collect(layout, child, found, levels - 1)
    found[descriptor.digest] = descriptor.size


def _path(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"
