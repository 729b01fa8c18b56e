"""Where evidence of an image is asked for: the registry the image came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from airgap_images.oci import Descriptor, Digest
from airgap_images.reference import Reference
from airgap_images.remote import registry
from airgap_images.remote.http import Client, Credentials
from airgap_images.remote.mirrors import Mirrors
from airgap_images.remote.referrers import Answer, ask
from airgap_images.remote.registry import NO_MIRRORS


class Origin(Protocol):
    """One repository, asked by tag and by digest; what it gives by digest is proven to have it."""

    @property
    def repository(self) -> str:
        """Return ``registry/repository``, empty if it is no registry."""

    def tagged(self, tag: str) -> tuple[Descriptor, bytes] | None:
        """Return the manifest or index of a tag, None if there is none."""

    def manifest(self, digest: Digest) -> tuple[Descriptor, bytes]:
        """Return a manifest or index."""

    def listed(self, subject: Digest) -> Answer:
        """Return what is listed as speaking of ``subject``."""

    def blob(self, part: Descriptor) -> bytes:
        """Return a small blob."""

    def url(self, part: Descriptor, *, manifest: bool) -> str:
        """Return what a pin says of where ``part`` is."""


@dataclass(frozen=True, slots=True)
class Registry:
    """A repository of a registry; the tag of ``ref`` is not asked."""

    client: Client
    access: Credentials
    ref: Reference
    mirrors: Mirrors = NO_MIRRORS

    @property
    def repository(self) -> str:
        """Return ``registry/repository``."""
        return f"{self.ref.registry}/{self.ref.repository}"

    def tagged(self, tag: str) -> tuple[Descriptor, bytes] | None:
        """Ask for a tag."""
        return registry.find(self.client, self.access, replace(self.ref, tag=tag, digest=None), mirrors=self.mirrors)

    def manifest(self, digest: Digest) -> tuple[Descriptor, bytes]:
        """Ask for a manifest."""
        return registry.manifest(self.client, self.access, self.ref.at(digest), mirrors=self.mirrors)

    def listed(self, subject: Digest) -> Answer:
        """Ask the referrers API, or the fallback tag."""
        return ask(self.client, self.access, self.ref, subject, mirrors=self.mirrors)

    def blob(self, part: Descriptor) -> bytes:
        """Ask for a blob."""
        return registry.blob(self.client, self.access, self.ref, part, part.size, mirrors=self.mirrors)

    def url(self, part: Descriptor, *, manifest: bool) -> str:
        """Return the address of ``part``."""
        return registry.manifest_url(self.ref.at(part.digest)) if manifest else registry.blob_url(self.ref, part.digest)
