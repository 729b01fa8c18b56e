"""Taking out of a registry what a store put there, and nothing else.

Rules: many registries delete by digest only, which takes every tag of it; so nothing is deleted by digest before every tag
of the repository was looked at, and what has another name stays, with the reason. Blobs are the registry's own to collect.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from airgap_images.bundle import MAX_LEVELS
from airgap_images.oci import Digest, Index, parse_document
from airgap_images.placing.siblings import Siblings, names
from airgap_images.placing.upload import Writer
from airgap_images.reference import Reference
from airgap_images.remote.registry import manifest as pulled
from airgap_images.targets import Placed
from manifests.errors import IntegrityError, SiteError

MOST_TAGS = 1000  # of one repository that are looked at
DENIED = "have the registry's owner allow deleting, or remove it there by hand"


def withdraw(writer: Writer, siblings: Siblings, placed: Placed) -> None:
    """Take away the names of ``placed`` and what only they named; raises SiteError for what stays."""
    root = Digest.parse(placed.id)
    given = tuple(names(placed.tags))
    for registry, repository in sorted({(name.registry, name.repository) for name in given}):
        here = tuple(name for name in given if (name.registry, name.repository) == (registry, repository))
        _Repository(writer, Reference(registry, repository)).withdraw(siblings, root, here, keep=placed.before)


@dataclass(frozen=True, slots=True)
class _Repository:
    """One repository that something is taken out of."""

    writer: Writer
    at: Reference

    def withdraw(self, siblings: Siblings, root: Digest, given: tuple[Reference, ...], *, keep: bool) -> None:
        """Take away ``root`` under the given tags, then the evidence given by digest, then what an index of it led to."""
        evidence = [name for name in given if name.digest]
        view, inside = self._view(), self._inside(root)
        gone = self._take(view, root, {name.tag for name in given if name.digest is None}, keep=keep)
        if evidence and not gone and not keep:
            raise SiteError(f"evidence of {self.at.at(root)} stays: the image has other names there", hint="nothing is wrong")
        siblings.unlist(name for name in evidence if name.tag is None)
        view = self._view()
        for name in evidence:
            if name.digest:
                self._take(view, name.digest, {name.tag}, keep=False)
        for child in inside if gone else ():
            self._take(view, child, set(), keep=False)

    def _take(self, view: dict[str, frozenset[Digest]], digest: Digest, ours: Iterable[str | None], *, keep: bool) -> bool:
        """Take ``digest`` away if nothing but ``ours`` leads to it, else just those names; say whether it is gone.

        Raises SiteError for a name that stays.
        """
        leading = {tag for tag, there in view.items() if digest in there}
        own = sorted(tag for tag in leading & set(ours) if self.writer.digest(self._tag(tag)) == digest)
        others = sorted(leading - set(own))
        if not others and not keep:
            self._delete(self.at.at(digest))
        for tag in own:
            view.pop(tag)
            if self.writer.digest(self._tag(tag)) == digest and (reason := self.writer.delete(self._tag(tag))):
                why = f"{digest} is needed by {others[0]}, too" if others else "the registry had the image before"
                raise SiteError(f"{self._tag(tag)} stays: {reason}, and {why}", hint=DENIED)
        return not others and not keep

    def _delete(self, ref: Reference) -> None:
        if self.writer.digest(ref) is not None and (reason := self.writer.delete(ref)):
            raise SiteError(f"{ref} stays: {reason}", hint=DENIED)

    def _inside(self, root: Digest) -> tuple[Digest, ...]:
        """Return the documents an index leads to, outer ones first; nothing for anything else."""
        found: list[Digest] = []
        level = [root]
        for _ in range(MAX_LEVELS):
            level = [child for digest in level for child in self._children(self.at.at(digest))]
            found += level
        return tuple(dict.fromkeys(found))

    def _view(self) -> dict[str, frozenset[Digest]]:
        """Return every tag with all documents it leads to; raises SiteError if there are too many to look at."""
        tags = self.writer.tags(self.at, MOST_TAGS)
        if tags is None:
            where = f"{self.at.registry}/{self.at.repository}"
            message = f"{where} has more than {MOST_TAGS} tags: whether others need the same image cannot be told"
            raise SiteError(message, hint="remove ours by hand: the receipt names them")
        led = {tag: self.writer.digest(self._tag(tag)) for tag in tags}
        return {tag: frozenset({digest, *self._inside(digest)}) for tag, digest in led.items() if digest}

    def _children(self, at: Reference) -> tuple[Digest, ...]:
        if self.writer.digest(at) is None:
            return ()
        try:
            descriptor, raw = pulled(self.writer.client, self.writer.credentials, at)
        except IntegrityError:
            return ()  # no document of a kind that could name one of ours
        document = parse_document(descriptor, raw)
        return tuple(child.digest for child in document.manifests) if isinstance(document, Index) else ()

    def _tag(self, tag: str) -> Reference:
        return Reference(self.at.registry, self.at.repository, tag)
