"""Which other registries to ask first: ``containers-registries.conf(5)``, version 2, and docker's ``registry-mirrors``.

Rules: a mirror changes where bytes come from, never which; a registry that may not be asked (``blocked``) is not asked; one
whose certificate would not be checked (``insecure``) is refused unless it is this machine. Of these files nothing else is
taken: short names are never looked up in a list of registries.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from airgap_images.oci import Digest
from airgap_images.reference import DOCKER_HUB, Reference, canonical_registry, is_loopback
from airgap_images.remote.web import Address
from manifests import canonical
from manifests.errors import AirgapError, InvalidFileError, UsageError
from manifests.lock import read_bounded
from manifests.paths import printable

MAX_FILE = 1 << 20  # bytes of one configuration file
MAX_FILES = 256  # drop-in files read of one folder
ALL, BY_DIGEST, BY_TAG = "all", "digest-only", "tag-only"
PULLS = (ALL, BY_DIGEST, BY_TAG)
EDIT = "see containers-registries.conf(5)"

_API = re.compile(r"/v2/(.+)(/(?:manifests|blobs)/(sha256:[0-9a-f]{64}))")


@dataclass(frozen=True, slots=True)
class Place:
    """A registry, or a part of one, to ask instead: ``location`` is ``host[:port][/namespace]``; ``what`` says where it is written."""

    location: str
    what: str
    pull: str = ALL
    insecure: bool = False

    def base(self, rest: str) -> str:
        """Return the address in the registry's API of what is called ``rest`` here; raises InvalidFileError if it may not be asked."""
        name = f"{self.location}{rest}"
        host = name.partition("/")[0]
        if not (host == "localhost" or "." in host or ":" in host):
            raise InvalidFileError(f"{self.what}: {printable(self.location)!r} does not begin with host[:port]", hint=EDIT)
        try:
            ref = Reference.parse(name)
        except InvalidFileError:
            message = f"{self.what}: {printable(self.location)!r} leads to {printable(name)!r}, which is no repository"
            raise InvalidFileError(message, hint=EDIT) from None
        if self.insecure and not is_loopback(ref.registry):
            raise InvalidFileError(
                f"{self.what}: {printable(ref.registry)} is `insecure`, and a registry whose certificate is not checked is not asked",
                hint=f"put its CA certificate into /etc/containers/certs.d/{ref.registry}/ca.crt and remove `insecure`",
            )
        return ref.base


@dataclass(frozen=True, slots=True)
class Entry:
    """What is written of the repositories that begin with ``prefix``; ``place`` is where they are."""

    prefix: str
    place: Place
    mirrors: tuple[Place, ...] = ()
    blocked: bool = False

    def rest(self, name: str) -> str | None:
        """Return what follows the prefix in ``registry/repository``, None if it does not begin with it."""
        if self.prefix.startswith("*."):
            host, slash, path = name.partition("/")
            return f"{slash}{path}" if host.endswith(self.prefix[1:]) else None
        return name[len(self.prefix) :] if f"{name}/".startswith(f"{self.prefix}/") else None


@dataclass(frozen=True, slots=True)
class Mirrors:
    """The entries of this host's configuration, and docker's own mirrors of Docker Hub."""

    entries: tuple[Entry, ...] = ()
    hub: tuple[Place, ...] = ()

    @classmethod
    def load(cls, environment: Mapping[str, str], home: Path, etc: Path = Path("/etc")) -> Self:
        """Return what the files of this host say; raises InvalidFileError naming file and key that are wrong.

        ``CONTAINERS_REGISTRIES_CONF`` names the file; else it is the user's own, with the drop-in files beside it alone,
        or the system's. A later file's entry stands for an earlier one of the same prefix.
        """
        entries = {entry.prefix: entry for path in _files(environment, home, etc) for entry in _entries(path)}
        return cls(tuple(entries.values()), _docker(etc / "docker" / "daemon.json"))

    def bases(self, ref: Reference) -> tuple[str, ...]:
        """Return the addresses in registries' APIs at which to ask for ``ref``, in order.

        The registry's own comes last, and is missing where it is blocked; raises UsageError if nothing is left.
        """
        name = f"{ref.registry}/{ref.repository}"
        matching = [(entry, rest) for entry in self.entries if (rest := entry.rest(name)) is not None]
        if not matching:
            hub = self.hub if ref.registry == DOCKER_HUB else ()
            return tuple(dict.fromkeys((*(place.base(f"/{ref.repository}") for place in hub), ref.base)))
        entry, rest = max(matching, key=lambda found: len(found[0].prefix))
        unused = BY_TAG if ref.digest else BY_DIGEST
        found = [place.base(rest) for place in entry.mirrors if place.pull != unused]
        if not entry.blocked:
            found.append(entry.place.base(rest if entry.place.location else name))
        if not found:
            raise UsageError(f"{ref}: {entry.place.what} blocks this registry", hint="name an image of another, or ask who wrote that")
        return tuple(dict.fromkeys(found))

    def addresses(self, url: str) -> tuple[str, ...]:
        """Return every address of what a registry has by digest at ``url``, in order; just ``url`` if it is no such address."""
        address = Address.parse(url)
        found = _API.fullmatch(address.target)
        if found is None:
            return (url,)
        ref = Reference(canonical_registry(address.origin.partition("://")[2]), found[1], digest=Digest.parse(found[3]))
        return tuple(f"{base}{found[2]}" if base != ref.base else url for base in self.bases(ref))


def _files(environment: Mapping[str, str], home: Path, etc: Path) -> Iterator[Path]:
    """Yield the files there are, in the order in which podman and skopeo read them."""
    system, own = etc / "containers", home / ".config" / "containers"
    named = environment.get("CONTAINERS_REGISTRIES_CONF")
    users = not named and os.path.isfile(own / "registries.conf")
    first = Path(named) if named else (own if users else system) / "registries.conf"
    if named or first.is_file():
        yield first
    for folder in (own,) if users else (system, own):
        found = sorted((folder / "registries.conf.d").glob("*.conf"))
        if len(found) > MAX_FILES:
            raise InvalidFileError(f"{folder / 'registries.conf.d'}: more than {MAX_FILES} files", hint=EDIT)
        yield from found


def _entries(path: Path) -> Iterator[Entry]:
    try:
        document = tomllib.loads(read_bounded(path, MAX_FILE).decode())
    except (ValueError, RecursionError) as error:
        raise InvalidFileError(f"{path}: not TOML: {printable(str(error))}", hint=EDIT) from None
    if "registries" in document:
        raise InvalidFileError(f"{path}: `registries`: the old version 1 of this format", hint=f"write it as [[registry]]; {EDIT}")
    for at, table in enumerate(_tables(document, "registry", str(path))):
        yield _entry(table, f"{path}: registry[{at}]")


def _entry(table: dict[str, Any], what: str) -> Entry:
    location = _text(table, "location", what)
    prefix = _text(table, "prefix", what) or location
    if not prefix or (not location and not prefix.startswith("*.")):
        raise InvalidFileError(f"{what}: has neither `location` nor a `prefix` of the form *.host", hint=EDIT)
    by_digest = _flag(table, "mirror-by-digest-only", what)
    mirrors = tuple(
        _mirror(each, f"{what}.mirror[{at}]", BY_DIGEST if by_digest else "") for at, each in enumerate(_tables(table, "mirror", what))
    )
    place = Place(_canonical(location), what, insecure=_flag(table, "insecure", what))
    return Entry(_canonical(prefix), place, mirrors, _flag(table, "blocked", what))


def _mirror(table: dict[str, Any], what: str, common: str) -> Place:
    location, pull = _text(table, "location", what), _text(table, "pull-from-mirror", what)
    if not location:
        raise InvalidFileError(f"{what}.location: is missing", hint=EDIT)
    if pull and (common or pull not in PULLS):
        why = "and `mirror-by-digest-only` exclude each other" if common else f"is not one of {', '.join(PULLS)}"
        raise InvalidFileError(f"{what}.pull-from-mirror: {printable(pull)!r} {why}", hint=EDIT)
    return Place(_canonical(location), what, pull or common or ALL, _flag(table, "insecure", what))


def _docker(path: Path) -> tuple[Place, ...]:
    """Return the mirrors of Docker Hub that docker's daemon is told to use."""
    if not os.path.isfile(path):
        return ()
    value = canonical.parse(read_bounded(path, MAX_FILE), str(path), limit=MAX_FILE)
    urls = value.get("registry-mirrors", []) if isinstance(value, dict) else []
    if not isinstance(urls, list):
        raise InvalidFileError(f"{path}: registry-mirrors: not a list", hint="docker takes a list of addresses")
    return tuple(_docker_mirror(url, f"{path}: registry-mirrors[{at}]") for at, url in enumerate(urls))


def _docker_mirror(url: Any, what: str) -> Place:
    try:
        address = Address.parse(url if isinstance(url, str) else "")
    except AirgapError:
        raise InvalidFileError(f"{what}: {printable(str(url))!r} is no address", hint="write it as https://host[:port]") from None
    if address.target != "/" or address.user is not None:
        raise InvalidFileError(f"{what}: more than https://host[:port]", hint="docker takes no path and no user there")
    return Place(address.origin.partition("://")[2], what, insecure=address.scheme != "https")


def _canonical(name: str) -> str:
    host, slash, rest = name.rstrip("/").partition("/")
    return f"{canonical_registry(host)}{slash}{rest}"


def _tables(table: dict[str, Any], key: str, what: str) -> list[dict[str, Any]]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise InvalidFileError(f"{what}: {key}: not a list of tables, [[{key}]]", hint=EDIT)
    return value


def _text(table: dict[str, Any], key: str, what: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise InvalidFileError(f"{what}.{key}: not a text", hint=EDIT)
    return value


def _flag(table: dict[str, Any], key: str, what: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise InvalidFileError(f"{what}.{key}: neither true nor false", hint=EDIT)
    return value
