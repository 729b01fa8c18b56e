"""What goes along when a component is put into a registry or a folder, or served from a store: documents, blobs, evidence.

Rules: every document is verified as it is read, and no other bytes are; children come before what names them; evidence
stands beside an image in the shape upstream gave it. An upstream index of which only some platforms are carried is never
part of it: it would have holes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from airgap_images import evidence
from airgap_images.bundle import MAX_BLOBS, MAX_LEVELS, unwrap
from airgap_images.layout import Layout
from airgap_images.oci import IMAGE_INDEX, INDEXES, MANIFESTS, MAX_MANIFEST, Descriptor, Digest, Manifest, parse_document
from airgap_images.targets import Cargo
from manifests import canonical
from manifests.errors import IntegrityError, InvalidFileError

SHORT = 12  # hex digits of a digest in a tag
MAX_FALLBACK = MAX_MANIFEST  # bytes of an index that lists referrers


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything a root leads to: documents, children first and the root last, and the blobs with their sizes."""

    documents: tuple[Descriptor, ...]
    blobs: tuple[tuple[Digest, int], ...]


@dataclass(frozen=True, slots=True)
class Extra:
    """One manifest of upstream's evidence: under ``tag`` if it has one, else by digest; ``listed`` if referrers must list it.

    ``manifest`` has the artifact type and the annotations by which a list of referrers shows it.
    """

    manifest: Descriptor
    subject: Digest
    tag: str | None
    listed: bool
    blobs: tuple[tuple[Digest, int], ...]


@dataclass(frozen=True, slots=True)
class Shipment:
    """A cargo unpacked. ``partial`` is the upstream index of which only some platforms are carried, if there is one.

    ``between`` are the indexes in it by which it leads to them.
    """

    root: Descriptor
    contents: Contents
    extras: tuple[Extra, ...] = ()
    partial: Descriptor | None = None
    between: tuple[Descriptor, ...] = ()

    @property
    def blobs(self) -> dict[Digest, int]:
        """Return every blob, those of the evidence included, with its size."""
        return dict(self.contents.blobs) | {digest: size for extra in self.extras for digest, size in extra.blobs}


def shipment(layout: Layout, cargo: Cargo) -> Shipment:
    """Read what travels for ``cargo``; raises IntegrityError on anything that is not what its digest or its form says."""
    root = unwrap(layout, cargo.root) if cargo.form == "image" else cargo.root
    contents = walk(layout, root)
    if cargo.upstream is None:
        return Shipment(root, contents)
    tree = evidence.load(layout, cargo.upstream)
    known = {document.digest for document in contents.documents}
    indexes = [subject for subject in tree.evidence.subjects if subject.role == "index" and subject.digest not in known]
    partial = tuple(Descriptor(index.media_type, index.digest, index.size) for index in indexes)
    return Shipment(root, contents, tuple(_extras(tree, known)), partial[0] if partial else None, partial[1:])


def walk(layout: Layout, root: Descriptor) -> Contents:
    """Return everything ``root`` leads to; raises IntegrityError if a document is damaged, nested too deep or leads to too much."""
    documents: dict[Digest, Descriptor] = {}
    blobs: dict[Digest, int] = {}
    level: tuple[Descriptor, ...] = (root,)
    for _ in range(MAX_LEVELS):
        following: list[Descriptor] = []
        for descriptor in level:
            if descriptor.media_type not in MANIFESTS | INDEXES:
                blobs[descriptor.digest] = descriptor.size
            else:
                documents.pop(descriptor.digest, None)  # a deeper place counts
                documents[descriptor.digest] = descriptor
                document = parse_document(descriptor, layout.read(descriptor, MAX_MANIFEST))
                following += document.children if document else ()
            if len(documents) + len(blobs) > MAX_BLOBS:
                raise IntegrityError(f"blobs/sha256/{root.digest.hex}: leads to more than {MAX_BLOBS} blobs", hint="distrust this bundle")
        level = tuple({descriptor.digest: descriptor for descriptor in following}.values())
        if not level:
            return Contents(tuple(reversed(documents.values())), tuple(blobs.items()))
    raise IntegrityError(f"blobs/sha256/{root.digest.hex}: nested deeper than {MAX_LEVELS} levels", hint="distrust this bundle")


def short_tag(digest: Digest) -> str:
    """Return the tag of what has no tag of its own."""
    return f"sha256-{digest.hex[:SHORT]}"


def fallback_tag(subject: Digest) -> str:
    """Return the tag under which referrers are listed where a registry does not do that (distribution-spec, "referrers tag schema")."""
    return f"sha256-{subject.hex}"


def referrer(manifest: Manifest, descriptor: Descriptor) -> Descriptor:
    """Return ``descriptor`` as a list of referrers shows it: with the manifest's own artifact type and annotations."""
    artifact = manifest.artifact_type or manifest.config.media_type
    return Descriptor(descriptor.media_type, descriptor.digest, descriptor.size, manifest.annotations, artifact)


def listing(entries: tuple[dict[str, object], ...]) -> bytes:
    """Return an index that lists referrers; raises InvalidFileError if it would be too large for any registry."""
    raw = canonical.compact({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": list(entries)})
    if len(raw) > MAX_FALLBACK:
        message = f"a list of {len(entries)} referrers has {len(raw)} bytes, at most {MAX_FALLBACK} fit"
        raise InvalidFileError(message, hint="remove old ones from the registry")
    return raw


def _extras(tree: evidence.EvidenceTree, known: set[Digest]) -> Iterator[Extra]:
    for found in tree.evidence.found:
        if found.shape == "index" and found.manifest.digest in known:
            continue
        manifest = Manifest.parse(tree.manifest(found.manifest.digest), str(found.manifest.digest))
        shown = referrer(manifest, found.manifest)
        # What a registry lists is what the manifest itself says of its subject, however it was found.
        listed = found.shape == "referrer" and manifest.subject is not None and manifest.subject.digest == found.subject
        blobs = tuple((part.digest, part.size) for part in evidence.children(manifest))
        yield Extra(shown, found.subject, found.tag, listed, blobs)
