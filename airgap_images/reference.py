"""References to images in registries as values: short names expanded the way every container tool does. No I/O.

Rules: a value of this type is well formed; a registry on the loopback network speaks http, every other https.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Self

from airgap_images.oci import Digest
from manifests.errors import IntegrityError, InvalidFileError
from manifests.paths import printable

DOCKER_HUB = "docker.io"
DOCKER_HUB_HOST = "registry-1.docker.io"
DOCKER_HUB_NAMES = frozenset({DOCKER_HUB, DOCKER_HUB_HOST, "index.docker.io"})
LATEST = "latest"
MAX_REPOSITORY = 255  # characters, of registry and repository together (distribution's reference grammar)

_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:]+\])(?::[0-9]{1,5})?")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Reference:
    """An image by its registry (``host[:port]``), repository, and tag or digest or both; the digest then decides."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``[registry/]repository[:tag][@sha256:<hex>]``; raises InvalidFileError on anything else.

        ``busybox`` is ``docker.io/library/busybox``; a first part is a registry if it holds a dot or a colon or is
        ``localhost``.
        """
        name, at, claimed = text.partition("@")
        try:
            digest = Digest.parse(claimed) if at else None
        except IntegrityError as error:
            raise _invalid(text, error.message) from None
        head, slash, last = name.rpartition("/")
        last, colon, tag = last.partition(":")
        if colon and not _TAG.fullmatch(tag):
            raise _invalid(text, f"tag {printable(tag)!r} is not one")
        registry, repository = _split(f"{head}{slash}{last}")
        if not _HOST.fullmatch(registry):
            raise _invalid(text, f"registry {printable(registry)!r} is not host[:port]")
        if not _REPOSITORY.fullmatch(repository) or len(registry) + len(repository) >= MAX_REPOSITORY:
            raise _invalid(text, f"repository {printable(repository)!r} is not one, or too long (it is lower case)")
        return cls(registry, repository, tag if colon else None, digest)

    def at(self, digest: Digest) -> Self:
        """Return the reference to ``digest`` in the same repository."""
        return replace(self, digest=digest)

    @property
    def floating(self) -> bool:
        """Say whether neither tag nor digest was given, so that ``latest`` is meant."""
        return self.tag is None and self.digest is None

    @property
    def selector(self) -> str:
        """Return what to ask the registry for: the digest, else the tag."""
        return str(self.digest) if self.digest else self.tag or LATEST

    @property
    def name(self) -> str:
        """Return the canonical name and tag; with a digest and no tag, the digest stands for it."""
        name = f"{self.registry}/{self.repository}"
        return f"{name}@{self.digest}" if self.digest and not self.tag else f"{name}:{self.tag or LATEST}"

    @property
    def local(self) -> str:
        """Return the ``name:tag`` an engine can hold; a digest without a tag becomes the tag ``sha256-<12 hex>``."""
        if self.digest and not self.tag:
            return f"{self.registry}/{self.repository}:sha256-{self.digest.hex[:12]}"
        return self.name

    @property
    def base(self) -> str:
        """Return the address of the repository in the registry's API, up to the repository's name."""
        host = DOCKER_HUB_HOST if self.registry == DOCKER_HUB else self.registry
        return f"{'http' if is_loopback(host) else 'https'}://{host}/v2/{self.repository}"

    def __str__(self) -> str:
        return self.name if self.digest is None or self.tag is None else f"{self.name}@{self.digest}"


def is_loopback(host: str) -> bool:
    """Say whether ``host[:port]`` is this machine itself, by its form; no name is looked up."""
    bare = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return bare == "localhost"


def canonical_registry(host: str) -> str:
    """Return the one name of a registry; Docker Hub has several."""
    return DOCKER_HUB if host.lower() in DOCKER_HUB_NAMES else host.lower()


def _split(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and (first.lower() == "localhost" or "." in first or ":" in first):
        registry, repository = canonical_registry(first), rest
    else:
        registry, repository = DOCKER_HUB, name
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository


def _invalid(text: str, why: str) -> InvalidFileError:
    hint = "write it as registry/repository:tag or registry/repository@sha256:<64 hex digits>"
    return InvalidFileError(f"{printable(text)!r} is not an image reference: {why}", hint=hint)
