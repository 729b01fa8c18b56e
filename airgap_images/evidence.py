"""What upstream itself says of an image (signatures, attestations, SBOMs, provenance) as the tree that carries it.

Beside an image component ``NAME`` a tree ``NAME.upstream`` holds ``upstream.json``, which lists what was asked for, what
was found and what could not be had; ``manifests/<hex>`` and ``blobs/<hex>``, the registry's bytes; and ``completed/``, Sigstore
bundles rebuilt from older keyless signatures. Nothing in it is believed before a signature is checked against a policy;
what this module proves is that the tree is whole, bounded and what its names say. No network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from airgap_images.bundle import FILE, TreeFile, tree_files
from airgap_images.layout import Layout
from airgap_images.oci import INDEXES, MANIFESTS, MAX_MANIFEST, Descriptor, Digest, Manifest
from manifests import canonical
from manifests.errors import AirgapError, IntegrityError, InvalidFileError
from manifests.lock import Frozen, parse_model
from manifests.paths import printable

FORMAT = "airgap.upstream/v1"
LISTING = "upstream.json"
SUFFIX = ".upstream"  # of the component's name, after the image's own
TAGS = ("sig", "att", "sbom")  # cosign's: sha256-<hex>.sig and so on
KINDS = ("signature", "attestation", "sbom", "provenance", "other")

MAX_LISTING = 4 << 20  # bytes of upstream.json, as any inline file of a lock
MAX_SUBJECTS = 640  # indexes and the platforms of them that are carried; of one image at most 513 (`choose.MAX_CHILDREN`)
MAX_FOUND = 256  # manifests of evidence for one image
MAX_BLOB = 64 << 20  # bytes of one blob; the SBOM of a large image is some 20 MB
MAX_TOTAL = 512 << 20  # bytes of all manifests and blobs of one tree
MAX_BLOBS = 256  # distinct blobs of one manifest of evidence
MAX_REBUILT = 256  # rebuilt bundles
MAX_COMPLETED = 1 << 20  # bytes of one; a rebuilt attestation holds its statement, a signature is below 20 KB
MAX_NOTES = 4096  # things that were asked or not collected, each
MAX_FILES = MAX_SUBJECTS + MAX_FOUND * (MAX_BLOBS + 1) + MAX_REBUILT + 1
MAX_NOTE = 512  # characters of one

_HEX = "[0-9a-f]{64}"
_Sha256 = Annotated[str, Field(pattern=rf"^sha256:{_HEX}$")]
_Note = Annotated[str, Field(min_length=1, max_length=MAX_NOTE)]
_MediaType = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$")]
_Kind = Literal["signature", "attestation", "sbom", "provenance", "other"]
_HINT = "the bundle was not made by this tool, or was damaged: distrust it"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is signed: the upstream index (``role`` index) or a carried platform's manifest (image); ``size`` in bytes."""

    digest: Digest
    media_type: str
    size: int
    role: str
    platform: str


@dataclass(frozen=True, slots=True)
class Found:
    """One manifest of evidence and how it was found: by ``tag``, as a ``referrer``, or in the image's own ``index``.

    ``subject`` is what it speaks of: a subject, or another found manifest (a signature on an SBOM).
    """

    kind: str
    shape: str
    tag: str | None
    subject: Digest
    manifest: Descriptor


@dataclass(frozen=True, slots=True)
class Completed:
    """A Sigstore bundle rebuilt from the older keyless signature that is ``layer`` of ``manifest``; ``file`` is its path."""

    manifest: Digest
    layer: Digest
    file: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What ``upstream.json`` says; ``not_collected`` holds (what, why). A value from ``parse`` is consistent in itself."""

    repository: str
    asked: tuple[str, ...]
    subjects: tuple[Subject, ...]
    found: tuple[Found, ...]
    completed: tuple[Completed, ...]
    not_collected: tuple[tuple[str, str], ...]

    def to_text(self) -> str:
        """Return the one encoding."""
        return canonical.readable(
            {
                "format": FORMAT,
                "repository": self.repository,
                "asked": list(self.asked),
                "subjects": [_subject_dict(subject) for subject in self.subjects],
                "found": [_found_dict(found) for found in self.found],
                "completed": [{"manifest": str(c.manifest), "layer": str(c.layer), "file": c.file} for c in self.completed],
                "notCollected": [{"what": what, "why": why} for what, why in self.not_collected],
            }
        ).decode()

    @classmethod
    def parse(cls, raw: bytes, what: str) -> Self:
        """Parse hostile bytes; raises InvalidFileError on anything off."""
        wire = parse_model(_Wire, canonical.parse(raw, what, limit=MAX_LISTING), what, _HINT)
        return cls(
            wire.repository,
            wire.asked,
            tuple(Subject(Digest.parse(s.digest), s.mediaType, s.size, s.role, s.platform) for s in wire.subjects),
            tuple(Found(f.kind, f.shape, f.tag, Digest.parse(f.subject), f.descriptor) for f in wire.found),
            tuple(Completed(Digest.parse(c.manifest), Digest.parse(c.layer), c.file) for c in wire.completed),
            tuple((note.what, note.why) for note in wire.notCollected),
        )


@dataclass(frozen=True, slots=True)
class EvidenceTree:
    """The listing and the bytes behind it; every read is bounded and re-hashed."""

    evidence: Evidence
    layout: Layout
    files: tuple[tuple[str, TreeFile], ...]  # path → file, sorted

    def manifest(self, digest: Digest) -> bytes:
        """Return the bytes of a subject or of a found manifest."""
        return self._read(f"manifests/{digest.hex}", MAX_MANIFEST)

    def blob(self, digest: Digest, limit: int) -> bytes:
        """Return a config or layer blob of a found manifest, at most ``limit`` bytes."""
        return self._read(f"blobs/{digest.hex}", limit)

    def completed(self, file: str) -> bytes:
        """Return a rebuilt bundle by its path in the tree."""
        return self._read(file, MAX_COMPLETED)

    def file(self, digest: Digest) -> TreeFile:
        """Return where a manifest or blob lies, to stream it from the layout; raises IntegrityError if it is not here."""
        held = dict(self.files)
        found = held.get(f"blobs/{digest.hex}") or held.get(f"manifests/{digest.hex}")
        if found is None:
            raise _distrust(f"{digest} is missing")
        return found

    def _read(self, path: str, limit: int) -> bytes:
        found = dict(self.files).get(path)
        if found is None:
            raise _distrust(f"{printable(path)} is missing")
        return self.layout.read(Descriptor(FILE, found.digest, found.size), limit)


def load(layout: Layout, root: Descriptor) -> EvidenceTree:
    """Return the evidence below ``root``, the root of a ``NAME.upstream`` tree.

    Raises IntegrityError unless every file is there, is what it is named, and is listed or needed by one that is.
    """
    try:
        files = {file.path: file for file in tree_files(layout, root)}
        listing = files.get(LISTING)
        if listing is None:
            raise _distrust(f"{LISTING} is missing")
        evidence = Evidence.parse(layout.read(Descriptor(FILE, listing.digest, listing.size), MAX_LISTING), LISTING)
        tree = EvidenceTree(evidence, layout, tuple(sorted(files.items())))
        _check_named(files.values())
        _check_listed(tree, files)
    except InvalidFileError as error:
        raise IntegrityError(error.message, hint=_HINT) from None
    return tree


def tag(subject: Digest, suffix: str) -> str:
    """Return the tag by which cosign stores what it says of ``subject``; ``suffix`` is one of ``TAGS``."""
    return f"sha256-{subject.hex}.{suffix}"


def completed_path(layer: Digest, at: int) -> str:
    """Return the path of a rebuilt bundle; ``at`` counts signatures over the same payload."""
    return f"completed/{layer.hex}-{at}.sigstore.json"


def children(manifest: Manifest) -> tuple[Descriptor, ...]:
    """Return what must travel with a manifest of evidence: every distinct blob of it."""
    return tuple({part.digest: part for part in manifest.children}.values())


def _check_named(files: Iterable[TreeFile]) -> None:
    """Refuse names that are not of their bytes, and a tree beyond the limits."""
    total = 0
    for at, file in enumerate(files):
        if at > MAX_FILES:
            raise _distrust(f"more than {MAX_FILES} files")
        folder, _, name = file.path.rpartition("/")
        if folder in {"manifests", "blobs"} and name != file.digest.hex:
            raise _distrust(f"{printable(file.path)} holds sha256 {file.digest.hex}")
        limit = {"manifests": MAX_MANIFEST, "blobs": MAX_BLOB, "completed": MAX_COMPLETED, "": MAX_LISTING}.get(folder, -1)
        if file.size > limit:
            why = f"has {file.size} bytes, at most {limit} allowed" if limit >= 0 else "does not belong here"
            raise _distrust(f"{printable(file.path)} {why}")
        total += file.size if folder in {"manifests", "blobs"} else 0
    if total > MAX_TOTAL:
        raise _distrust(f"{total} bytes, at most {MAX_TOTAL} allowed")


def _check_listed(tree: EvidenceTree, files: dict[str, TreeFile]) -> None:
    """Refuse a listed file that is missing or of another size, and a file that nothing leads to."""
    needed = {LISTING: files[LISTING].size} | dict(_listed(tree.evidence))
    _check_present(needed, files)
    for digest, media_type in {(found.manifest.digest, found.manifest.media_type) for found in tree.evidence.found}:
        manifest = Manifest.parse(tree.manifest(digest), f"{LISTING}: {digest}")
        if manifest.media_type != media_type:
            raise _distrust(f"{digest} is of media type {manifest.media_type}, listed as {media_type}")
        blobs = children(manifest)
        if len(blobs) > MAX_BLOBS:
            raise _distrust(f"{digest} has {len(blobs)} blobs, at most {MAX_BLOBS} allowed")
        paths = {f"blobs/{part.digest.hex}": part.size for part in blobs}
        _check_present(paths, files)
        needed |= paths
    strays = sorted(files.keys() - needed.keys() - {completed.file for completed in tree.evidence.completed})
    if strays:
        raise _distrust(f"{printable(strays[0])} is not listed")
    for completed in tree.evidence.completed:
        if completed.file not in files:
            raise _distrust(f"{completed.file} is missing")


def _listed(evidence: Evidence) -> Iterator[tuple[str, int]]:
    for subject in evidence.subjects:
        yield f"manifests/{subject.digest.hex}", subject.size
    for found in evidence.found:
        yield f"manifests/{found.manifest.digest.hex}", found.manifest.size


def _check_present(needed: dict[str, int], files: dict[str, TreeFile]) -> None:
    for path, size in needed.items():
        if path not in files:
            raise _distrust(f"{path} is missing")
        if files[path].size != size:
            raise _distrust(f"{path} has {files[path].size} bytes, expected {size}")


def _distrust(why: str) -> AirgapError:
    return IntegrityError(f"upstream evidence: {why}", hint=_HINT)


def _subject_dict(subject: Subject) -> dict[str, str | int]:
    return {
        "digest": str(subject.digest),
        "mediaType": subject.media_type,
        "size": subject.size,
        "role": subject.role,
        "platform": subject.platform,
    }


def _found_dict(found: Found) -> dict[str, str | int | None]:
    return {
        "kind": found.kind,
        "shape": found.shape,
        "tag": found.tag,
        "subject": str(found.subject),
        "manifest": str(found.manifest.digest),
        "mediaType": found.manifest.media_type,
        "size": found.manifest.size,
        "artifactType": found.manifest.artifact_type,
    }


class _Subject(Frozen):
    digest: _Sha256
    mediaType: _MediaType  # noqa: N815 - JSON field
    size: int = Field(ge=0, le=MAX_MANIFEST)
    role: Literal["index", "image"]
    platform: str = Field(max_length=64, pattern=r"^([a-z0-9]+/[a-z0-9_]+(/[a-z0-9.]+)?)?$")

    @model_validator(mode="after")
    def _typed(self) -> Self:
        if self.mediaType not in (INDEXES if self.role == "index" else MANIFESTS):
            raise ValueError(f"an {self.role} is not of media type {self.mediaType}")
        return self


class _Found(Frozen):
    kind: _Kind
    shape: Literal["tag", "referrer", "index"]
    tag: str | None
    subject: _Sha256
    manifest: _Sha256
    mediaType: _MediaType  # noqa: N815
    size: int = Field(ge=0, le=MAX_MANIFEST)
    artifactType: str | None = Field(max_length=255)  # noqa: N815

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.mediaType, Digest.parse(self.manifest), self.size, artifact_type=self.artifactType)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.mediaType not in MANIFESTS:
            raise ValueError(f"a manifest is not of media type {self.mediaType}")
        allowed = [f"{self.subject.replace(':', '-')}.{suffix}" for suffix in TAGS] if self.shape == "tag" else [None]
        if self.tag not in allowed:
            raise ValueError(f"tag {printable(str(self.tag))!r} does not fit shape {self.shape} and the subject")
        return self


class _Completed(Frozen):
    manifest: _Sha256
    layer: _Sha256
    file: str = Field(pattern=rf"^completed/{_HEX}-[0-9]{{1,4}}\.sigstore\.json$")

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.file[len("completed/") :][:64] != self.layer[len("sha256:") :]:
            raise ValueError("the file is not named by its layer")
        return self


class _NotCollected(Frozen):
    what: _Note
    why: _Note


class _Wire(Frozen):
    format: Literal["airgap.upstream/v1"]
    repository: str = Field(max_length=512, pattern=r"^[a-z0-9.:_/\[\]-]*$")  # empty: from a folder, not from a registry
    asked: tuple[_Note, ...] = Field(max_length=MAX_NOTES, strict=False)
    subjects: tuple[_Subject, ...] = Field(min_length=1, max_length=MAX_SUBJECTS, strict=False)
    found: tuple[_Found, ...] = Field(max_length=MAX_FOUND, strict=False)
    completed: tuple[_Completed, ...] = Field(max_length=MAX_REBUILT, strict=False)
    notCollected: tuple[_NotCollected, ...] = Field(max_length=MAX_NOTES, strict=False)  # noqa: N815

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        subjects = {subject.digest for subject in self.subjects}
        if len(subjects) != len(self.subjects):
            raise ValueError("a subject stands twice")
        found = {entry.manifest for entry in self.found}
        ways = {(entry.manifest, entry.shape, entry.tag, entry.subject) for entry in self.found}
        if len(ways) != len(self.found) or found & subjects:
            raise ValueError("a found manifest stands twice, or is a subject too")
        for entry in self.found:
            if entry.subject not in subjects | found or entry.subject == entry.manifest:
                raise ValueError(f"{entry.manifest} speaks of {entry.subject}, which is not here")
        return self._checked_completed(found)

    def _checked_completed(self, found: set[str]) -> Self:
        files = {entry.file for entry in self.completed}
        if len(files) != len(self.completed) or any(entry.manifest not in found for entry in self.completed):
            raise ValueError("a completed signature stands twice, or belongs to no found manifest")
        return self
