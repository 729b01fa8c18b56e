"""What a read-only registry over a store has: names, tags, documents, blobs, referrers. Reads documents, opens no connection.

Rules: a repository answers to upstream's name with and without the registry; a tag that would lead to two images in that
shorter form leads to none. Of several bundles the first that has a name decides. Every document was hashed to get in here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from airgap_images.layout import Layout
from airgap_images.oci import Descriptor, Digest
from airgap_images.reference import Reference, canonical_registry
from airgap_images.shipment import Shipment, shipment, short_tag
from airgap_images.targets import Cargo
from manifests.rewrite import as_path

TREES = "trees"
IMAGES = "images"

Tags = dict[str, Digest | None]  # None: leads to more than one


class Catalog:
    """Everything there is to serve from ``layout``; nothing in it changes once it is made."""

    def __init__(self, layout: Layout, bundles: Iterable[Iterable[Cargo]]) -> None:
        self.layout = layout
        self.images = self.trees = 0
        self._repositories: dict[str, Tags] = {}
        self._documents: dict[Digest, Descriptor] = {}
        self._blobs: dict[Digest, int] = {}
        self._referrers: dict[Digest, dict[Digest, Descriptor]] = {}
        for cargoes in bundles:
            named: dict[str, Tags] = {}
            for cargo in cargoes:
                self._add(cargo, named)
            for repository, tags in named.items():
                self._repositories[repository] = tags | self._repositories.get(repository, {})

    @property
    def repositories(self) -> tuple[str, ...]:
        """Return the names of all repositories, sorted."""
        return tuple(sorted(self._repositories))

    def repository(self, path: str, upstream: str | None) -> str | None:
        """Return the repository a path means; ``upstream`` is the registry whose mirror this is asked as, if it is asked as one."""
        if upstream:
            registry = as_path(canonical_registry(upstream))
            path = path if path.startswith(f"{registry}/") else f"{registry}/{path}"
        return path if path in self._repositories else None

    def tags(self, repository: str) -> Mapping[str, Digest | None]:
        """Return the tags of a repository and where they lead, None for one that leads to more than one image."""
        return self._repositories[repository]

    def document(self, digest: Digest) -> Descriptor | None:
        """Return a manifest or index that is served."""
        return self._documents.get(digest)

    def size(self, digest: Digest) -> int | None:
        """Return the size of a blob that is served; documents are blobs, too."""
        document = self._documents.get(digest)
        return document.size if document else self._blobs.get(digest)

    def referrers(self, subject: Digest) -> tuple[Descriptor, ...]:
        """Return what refers to ``subject``."""
        return tuple(self._referrers.get(subject, {}).values())

    def _add(self, cargo: Cargo, named: dict[str, Tags]) -> None:
        found = shipment(self.layout, cargo)
        self._documents |= {document.digest: document for document in found.contents.documents}
        self._blobs |= found.blobs
        if found.partial:  # for signatures over it, and for pulls of a platform that is carried by the whole index's digest
            self._documents |= {index.digest: index for index in (found.partial, *found.between)}
        for extra in found.extras:
            self._documents[extra.manifest.digest] = extra.manifest
            if extra.listed:
                self._referrers.setdefault(extra.subject, {})[extra.manifest.digest] = extra.manifest
        for repository, tag in _names(cargo, found.root.digest):
            for name, digest in ((tag, found.root.digest), *_evidence(found)):
                tags = named.setdefault(repository, {})
                tags[name] = digest if tags.get(name, digest) == digest else None
        self.images += cargo.form == "image"
        self.trees += cargo.form == "tree"


def _names(cargo: Cargo, root: Digest) -> set[tuple[str, str]]:
    """Return the repositories a cargo is in, and its tag there."""
    if cargo.form == "tree" or not cargo.references:
        return {(f"{TREES if cargo.form == 'tree' else IMAGES}/{cargo.name}", short_tag(root))}
    found = [Reference.parse(Reference.parse(reference).local) for reference in cargo.references]
    bare = {(ref.repository, str(ref.tag)) for ref in found}
    return bare | {(f"{as_path(ref.registry)}/{ref.repository}", str(ref.tag)) for ref in found}


def _evidence(found: Shipment) -> tuple[tuple[str, Digest], ...]:
    return tuple((extra.tag, extra.manifest.digest) for extra in found.extras if extra.tag)
