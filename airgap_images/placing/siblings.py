"""Upstream's evidence beside an image in a registry: under its tags, as referrers, and in the list of referrers where one is kept by hand.

Rules: every manifest stays byte for byte in the shape upstream gave it. A tag that holds signatures of somebody else is not
replaced; entries of others in a list of referrers stay as they are; an entry's artifact type is the manifest's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from airgap_images.layout import Layout
from airgap_images.oci import IMAGE_INDEX, INDEXES, MAX_MANIFEST, Descriptor, Digest, Manifest
from airgap_images.placing.upload import Writer
from airgap_images.reference import Reference
from airgap_images.remote.registry import manifest as pulled
from airgap_images.shipment import Extra, fallback_tag, listing
from manifests import canonical
from manifests.errors import AirgapError, SiteError

ROUNDS = 3  # of reading, changing and writing a list that somebody else writes, too


@dataclass(frozen=True, slots=True)
class Siblings:
    """The evidence in repositories of one registry."""

    writer: Writer

    def add(self, layout: Layout, place: Reference, extras: Iterable[Extra]) -> list[str]:
        """Put evidence whose blobs are there into the repository of ``place``; return what was left out, and why."""
        notes: list[str] = []
        unlisted: dict[Digest, list[Descriptor]] = {}
        for extra in extras:
            raw = layout.read(_plain(extra.manifest), MAX_MANIFEST)
            if extra.tag:
                notes += self._tag(Reference(place.registry, place.repository, extra.tag), extra, raw)
                continue
            answer = self.writer.put(place.at(extra.manifest.digest), raw, extra.manifest.media_type)
            if extra.listed and answer.header("oci-subject") != str(extra.subject):
                unlisted.setdefault(extra.subject, []).append(extra.manifest)
        for subject, manifests in unlisted.items():
            self._list(place, subject, manifests)
        return notes

    def unlist(self, places: Iterable[Reference]) -> None:
        """Take manifests, each named by digest, out of the lists of referrers that are kept by hand; an empty list goes."""
        gone: dict[Reference, set[str]] = {}
        for place in places:
            if place.digest is None or self.writer.digest(place) is None:
                continue
            _, raw = pulled(self.writer.client, self.writer.credentials, place)
            subject = Manifest.parse(raw, str(place)).subject
            if subject:
                at = Reference(place.registry, place.repository, fallback_tag(subject.digest))
                gone.setdefault(at, set()).add(str(place.digest))
        for at, digests in gone.items():
            entries = self._entries(at)
            rest = tuple(entry for entry in entries if entry.get("digest") not in digests)
            list_digest = self.writer.digest(at)
            if list_digest and not rest and self.writer.delete(at.at(list_digest)) is None and self.writer.digest(at) is None:
                continue
            if rest != entries:
                self.writer.put(at, listing(rest), IMAGE_INDEX)

    def _tag(self, at: Reference, extra: Extra, raw: bytes) -> list[str]:
        """Put evidence under its tag unless that would lose what somebody else put there."""
        there = self.writer.digest(at)
        if there not in {None, extra.manifest.digest} and self._would_lose(at, extra):
            return [f"{at} stays as it is: it holds {there}, which has more than upstream's {extra.manifest.digest}"]
        self.writer.put(at, raw, extra.manifest.media_type)
        return []

    def _would_lose(self, at: Reference, extra: Extra) -> bool:
        try:
            descriptor, raw = pulled(self.writer.client, self.writer.credentials, at)
            layers = Manifest.parse(raw, str(descriptor.digest)).layers
        except AirgapError:
            return True  # whatever it is, it is not ours
        return bool({layer.digest for layer in layers} - {digest for digest, _ in extra.blobs})

    def _list(self, place: Reference, subject: Digest, manifests: list[Descriptor]) -> None:
        """Add to the list under the fallback tag; raises SiteError if somebody else keeps writing it."""
        at = Reference(place.registry, place.repository, fallback_tag(subject))
        wanted = tuple(descriptor.to_dict() for descriptor in manifests)
        ours = {entry["digest"] for entry in wanted}
        for _ in range(ROUNDS):
            entries = self._entries(at)
            if all(entry in entries for entry in wanted):
                return
            rest = tuple(entry for entry in entries if entry.get("digest") not in ours)
            self.writer.put(at, listing((*rest, *wanted)), IMAGE_INDEX)
        if not all(entry in self._entries(at) for entry in wanted):
            raise SiteError(f"{at}: somebody else writes this list of referrers, too", hint="run again when they are done")

    def _entries(self, at: Reference) -> tuple[dict[str, Any], ...]:
        """Return a list of referrers as it stands, fields unknown to us included; raises SiteError if something else has its tag."""
        if self.writer.digest(at) is None:
            return ()
        descriptor, raw = pulled(self.writer.client, self.writer.credentials, at)
        if descriptor.media_type not in INDEXES:
            raise SiteError(f"{at}: is no list of referrers", hint="somebody took this tag for something else: move it, then run again")
        return tuple(canonical.parse(raw, str(at), limit=MAX_MANIFEST)["manifests"])


def names(text: Iterable[str]) -> Iterator[Reference]:
    """Yield full names as references."""
    return (Reference.parse(name) for name in text)


def _plain(descriptor: Descriptor) -> Descriptor:
    return Descriptor(descriptor.media_type, descriptor.digest, descriptor.size)
