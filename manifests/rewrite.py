"""What upstream's names of images become at a site: the retag map as a value. Pure text, no I/O.

Rules: only the place changes, never tag, digest or the repository's own name; two originals never become one name; what
others read (``manifests.projections``) is made from this map and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from manifests.errors import InvalidFileError
from manifests.paths import printable

DOCKER_HUB = "docker.io"
LATEST = "latest"

_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:]+\])(?::[0-9]{1,5})?")
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NO_PATH = re.compile(r"[^a-z0-9.]+")  # what a registry's name may hold and a part of a repository's may not

Mapping = tuple[tuple[str, str], ...]  # (original, at the site), sorted


@dataclass(frozen=True, slots=True)
class Name:
    """An image's name in its parts, short names written out: ``busybox`` is ``docker.io/library/busybox:latest``."""

    registry: str
    repository: str
    tag: str
    digest: str

    @classmethod
    def parse(cls, text: str) -> Name:
        """Take a name apart; raises InvalidFileError if it is none."""
        name, at, digest = text.partition("@")
        head, slash, last = name.rpartition("/")
        last, colon, tag = last.partition(":")
        registry, repository = _split(f"{head}{slash}{last}")
        well_formed = (not at or _DIGEST.fullmatch(digest)) and (not colon or _TAG.fullmatch(tag))
        if not (well_formed and _HOST.fullmatch(registry) and _PATH.fullmatch(repository)):
            hint = "write it as registry/repository:tag or registry/repository@sha256:<64 hex digits>"
            raise InvalidFileError(f"{printable(text)!r} is not an image reference", hint=hint)
        return cls(registry, repository, tag or ("" if digest else LATEST), digest)

    @property
    def selected(self) -> str:
        """Return what a name stands for in its repository: the tag, or without one the digest."""
        return f":{self.tag}" if self.tag else f"@{self.digest}"

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}{self.selected}" + (f"@{self.digest}" if self.tag and self.digest else "")


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Where a site's registry keeps what came from elsewhere.

    ``host`` is ``name[:port]``, ``prefix`` a path below which all of it stands. ``keep_registry`` puts the upstream
    registry's name into the path, so that repositories of one name from two registries stay apart.
    """

    host: str
    prefix: str = ""
    keep_registry: bool = False

    def __post_init__(self) -> None:
        named = "." in self.host or ":" in self.host or self.host == "localhost"
        if not named or not _HOST.fullmatch(self.host):
            message = f"registry {printable(self.host)!r} is not host[:port] with a dot or a port in it"
            raise InvalidFileError(message, hint="for example registry.site:5000; without either, tools take it for a part of Docker Hub")
        if self.prefix and not _PATH.fullmatch(self.prefix):
            raise InvalidFileError(
                f"registry prefix {printable(self.prefix)!r} is not a path of repositories", hint="lower case, for example mirror/llm"
            )

    def site(self, reference_name: str) -> str:
        """Return the name an image has at the site: ``docker.io/vllm/vllm-openai:v1`` is ``HOST/PREFIX/vllm/vllm-openai:v1``."""
        name = Name.parse(reference_name)
        return str(Name(self.host, self._below(name.registry, name.repository), name.tag, name.digest))

    def base(self, registry: str) -> str:
        """Return what stands at the site for an upstream registry, up to the repository's name: ``HOST/PREFIX``."""
        return "/".join((self.host, *self._parts(registry)))

    def place(self, *parts: str) -> str:
        """Return a repository of the site's own below the prefix, such as ``HOST/PREFIX/trees/NAME``."""
        return "/".join(part for part in (self.host, self.prefix, *parts) if part)

    def mapping(self, references: Iterable[str]) -> Mapping:
        """Return every reference, written out, with its name at the site; raises InvalidFileError if two become one name."""
        found: dict[str, str] = {}
        taken: dict[str, str] = {}  # name at the site without a digest beside a tag → original without it
        for name in sorted({str(Name.parse(reference)) for reference in references}):
            original, site = Name.parse(name), Name.parse(self.site(name))
            key = f"{site.repository}{site.selected}"
            first = taken.setdefault(key, f"{original.registry}/{original.repository}{original.selected}")
            if first != f"{original.registry}/{original.repository}{original.selected}":
                raise InvalidFileError(
                    f"{first} and {name} would both be {self.host}/{key} at the site",
                    hint="write `keep_registry: true` for the site's registry, so that the upstream registry is part of the name",
                )
            found[name] = str(site)
        return tuple(found.items())

    def _below(self, registry: str, repository: str) -> str:
        return "/".join((*self._parts(registry), repository))

    def _parts(self, registry: str) -> tuple[str, ...]:
        return tuple(part for part in (self.prefix, as_path(registry) if self.keep_registry else "") if part)


def as_path(registry: str) -> str:
    """Return a registry's name as a part of a repository's: ``quay.io`` as it is, ``localhost:5000`` as ``localhost-5000``."""
    return _NO_PATH.sub("-", registry).strip("-")


def _split(name: str) -> tuple[str, str]:
    """Split registry and repository as every container tool does: a registry holds a dot or a colon or is ``localhost``."""
    first, slash, rest = name.partition("/")
    if slash and (first.lower() == "localhost" or "." in first or ":" in first):
        registry, repository = first.lower(), rest
    else:
        registry, repository = DOCKER_HUB, name
    if registry in {"index.docker.io", "registry-1.docker.io"}:
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository
