"""OCI digests, descriptors, manifests and indexes as values (image-spec v1.1).

Only valid digests exist. Documents we did not write are kept as the raw bytes received; documents we write
have one encoding. Reading is bounded: a manifest or index is at most ``MAX_MANIFEST`` bytes.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Self

from manifests import canonical
from manifests.errors import IntegrityError, InvalidFileError
from manifests.paths import printable

IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
EMPTY_JSON = "application/vnd.oci.empty.v1+json"
MANIFESTS = frozenset({IMAGE_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({IMAGE_INDEX, DOCKER_LIST})

TITLE = "org.opencontainers.image.title"
MAX_MANIFEST = 4 << 20  # bytes; the cap of common registries (distribution-spec, "pushing manifests")
MAX_BLOB = 1 << 42  # bytes; 4 TiB, above any single weight file in use

_HEX = re.compile(r"[0-9a-f]{64}")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A sha256 digest; a value of this type is always well formed. ``str()`` gives ``sha256:<hex>``."""

    hex: str

    def __post_init__(self) -> None:
        if not _HEX.fullmatch(self.hex):
            raise IntegrityError(f"not a sha256 digest: {printable(self.hex)!r}", hint="only lower-case sha256 is accepted")

    @classmethod
    def parse(cls, text: object) -> Self:
        """Parse ``sha256:<64 hex>``; raises IntegrityError on any other algorithm or form."""
        if not isinstance(text, str) or not text.startswith("sha256:"):
            raise IntegrityError(f"not a sha256 digest: {printable(str(text))!r}", hint="only sha256 is accepted")
        return cls(text[7:])

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Return the digest of ``data``."""
        return cls(hashlib.sha256(data).hexdigest())

    def __str__(self) -> str:
        return f"sha256:{self.hex}"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A typed, sized reference to a blob (image-spec, "content descriptors"). ``size`` in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: Pairs = ()
    artifact_type: str | None = None
    platform: Pairs = ()

    def annotation(self, key: str) -> str | None:
        """Return the annotation ``key`` or None."""
        return dict(self.annotations).get(key)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        out: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.annotations:
            out["annotations"] = dict(self.annotations)
        if self.artifact_type:
            out["artifactType"] = self.artifact_type
        if self.platform:
            out["platform"] = dict(self.platform)
        return out

    @classmethod
    def from_dict(cls, value: Any, what: str) -> Self:
        """Parse a descriptor out of hostile JSON; ``what`` names the document in errors."""
        if not isinstance(value, dict):
            raise _invalid(what, "a descriptor is not an object")
        media_type, size = value.get("mediaType"), value.get("size")
        if not isinstance(media_type, str) or not _MEDIA_TYPE.fullmatch(media_type):
            raise _invalid(what, f"bad mediaType {printable(str(media_type))!r}")
        if type(size) is not int or not 0 <= size <= MAX_BLOB:
            raise _invalid(what, f"bad size {printable(str(size))!r}")
        artifact = value.get("artifactType")
        if artifact is not None and not isinstance(artifact, str):
            raise _invalid(what, "artifactType is not a string")
        platform = value.get("platform") or {}
        if not isinstance(platform, dict):
            raise _invalid(what, "platform is not an object")
        texts = {k: v for k, v in platform.items() if isinstance(v, str)}
        annotations = _pairs(value.get("annotations"), what)
        return cls(media_type, Digest.parse(value.get("digest")), size, annotations, artifact, tuple(sorted(texts.items())))


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest: config and layers, with the raw bytes it was parsed from."""

    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Pairs = ()
    artifact_type: str | None = None
    subject: Descriptor | None = None

    @property
    def children(self) -> tuple[Descriptor, ...]:
        """Every blob this manifest needs; a ``subject`` is a back reference, not a child."""
        return (self.config, *self.layers)

    @classmethod
    def parse(cls, raw: bytes, what: str) -> Self:
        """Parse hostile bytes; ``mediaType`` is optional in the image-spec, a docker one is accepted."""
        value = _document(raw, what, MANIFESTS, IMAGE_MANIFEST)
        layers = value.get("layers")
        if not isinstance(layers, list):
            raise _invalid(what, "layers is not a list")
        subject = value.get("subject")
        return cls(
            raw,
            value.get("mediaType", IMAGE_MANIFEST),
            Descriptor.from_dict(value.get("config"), what),
            tuple(Descriptor.from_dict(layer, what) for layer in layers),
            _pairs(value.get("annotations"), what),
            value.get("artifactType"),
            None if subject is None else Descriptor.from_dict(subject, what),
        )


@dataclass(frozen=True, slots=True)
class Index:
    """An image index: manifests, with the raw bytes it was parsed from."""

    raw: bytes
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Pairs = ()
    artifact_type: str | None = None

    @property
    def children(self) -> tuple[Descriptor, ...]:
        """Every manifest or index this index needs."""
        return self.manifests

    @classmethod
    def parse(cls, raw: bytes, what: str) -> Self:
        """Parse hostile bytes of an OCI index or a docker manifest list."""
        value = _document(raw, what, INDEXES, IMAGE_INDEX)
        manifests = value.get("manifests")
        if not isinstance(manifests, list):
            raise _invalid(what, "manifests is not a list")
        return cls(
            raw,
            value.get("mediaType", IMAGE_INDEX),
            tuple(Descriptor.from_dict(entry, what) for entry in manifests),
            _pairs(value.get("annotations"), what),
            value.get("artifactType"),
        )


def parse_document(descriptor: Descriptor, raw: bytes) -> Manifest | Index | None:
    """Parse the blob behind ``descriptor`` if its media type says it has children, else None."""
    what = f"blobs/sha256/{descriptor.digest.hex}"
    if descriptor.media_type in INDEXES:
        return Index.parse(raw, what)
    if descriptor.media_type in MANIFESTS:
        return Manifest.parse(raw, what)
    return None


def _document(raw: bytes, what: str, accepted: frozenset[str], default: str) -> dict[str, Any]:
    value = canonical.parse(raw, what, limit=MAX_MANIFEST)
    if not isinstance(value, dict) or value.get("schemaVersion") != 2:  # noqa: PLR2004 - the spec's constant
        raise _invalid(what, "schemaVersion is not 2")
    # An ambiguous document (both forms at once) is how CVE-2021-41190 confused digests: refuse it.
    if ("manifests" in value) == ("layers" in value or "config" in value):
        raise _invalid(what, "is neither a manifest nor an index, or both at once")
    media_type = value.get("mediaType", default)
    if not isinstance(media_type, str) or media_type not in accepted:
        raise _invalid(what, f"mediaType {printable(str(media_type))!r} is not accepted here")
    artifact = value.get("artifactType")
    if artifact is not None and not isinstance(artifact, str):
        raise _invalid(what, "artifactType is not a string")
    return value


def _pairs(value: Any, what: str) -> Pairs:
    if value is None:
        return ()
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise _invalid(what, "annotations are not strings")
    return tuple(sorted(value.items()))


def _invalid(what: str, why: str) -> InvalidFileError:
    return InvalidFileError(f"{what}: {why}", hint="the document is damaged or was not made by an OCI tool")
