"""The logins this host has for registries: docker's ``config.json``, ``containers-auth.json(5)``, and credential helpers.

Rules: files are read, and helpers run, when a registry first asks who we are; a key may name a host or a part of it
(``host/namespace/repository``), and the most specific one wins; no message shows a secret.
"""

from __future__ import annotations

import base64
import binascii
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from airgap_images.reference import DOCKER_HUB, canonical_registry
from airgap_images.remote import credential_helper
from manifests import canonical
from manifests.errors import InvalidFileError
from manifests.lock import read_bounded
from manifests.paths import printable

MAX_CONFIG_FILE = 4 << 20  # bytes of a configuration file
HUB_KEY = "https://index.docker.io/v1/"  # what docker calls Docker Hub in its files and to its helpers
API_VERSIONS = frozenset({"v1", "v2"})  # the path of an old key, which means the whole registry


@dataclass(frozen=True, slots=True)
class Login:
    """As whom to ask a registry: user and password, or an identity token; ``why_not`` says why there is neither."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    why_not: str = ""

    @property
    def usable(self) -> bool:
        """Say whether there is anything to log in with."""
        return bool(self.user or self.identity_token)

    @property
    def basic(self) -> tuple[str, ...]:
        """Return the Authorization line of basic authentication, none without a password."""
        if not self.user or self.identity_token:
            return ()
        return (f"Authorization: Basic {base64.b64encode(f'{self.user}:{self.password}'.encode()).decode()}",)

    @property
    def words(self) -> str:
        """Say in words who asks."""
        if self.identity_token:
            return f"as {printable(self.user)!r} with an identity token" if self.user else "with an identity token"
        return f"as {printable(self.user)!r}" if self.user else f"without a login ({self.why_not})"


class Logins:
    """Finds the login for a repository in ``files``, the first that has one. Safe to use from several threads."""

    def __init__(self, files: tuple[Path, ...] = (), environment: Mapping[str, str] | None = None) -> None:
        self._files = files
        self._environment = environment or {}
        self._lock = threading.Lock()
        self._read: dict[Path, dict[str, Any]] = {}
        self._told: dict[tuple[str, str], credential_helper.Told] = {}

    @classmethod
    def load(cls, environment: Mapping[str, str], home: Path | None = None) -> Self:
        """Return the logins of this host, looked for where podman, skopeo and docker do.

        ``REGISTRY_AUTH_FILE`` stands for all others; then come the runtime directory's ``containers/auth.json``, the
        configuration directory's, and docker's ``config.json``.
        """
        named = environment.get("REGISTRY_AUTH_FILE")
        if named:
            return cls((Path(named),), environment)
        home = home or Path(environment.get("HOME") or Path.home())
        runtime = Path(environment["XDG_RUNTIME_DIR"]) if environment.get("XDG_RUNTIME_DIR") else Path(f"/run/containers/{os.getuid()}")
        folder = runtime / "containers" if environment.get("XDG_RUNTIME_DIR") else runtime
        settings = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
        docker = Path(environment.get("DOCKER_CONFIG") or home / ".docker")
        return cls((folder / "auth.json", settings / "containers" / "auth.json", docker / "config.json"), environment)

    def find(self, registry: str, repository: str = "") -> Login:
        """Return the login for a repository of ``registry`` (``host[:port]``); raises InvalidFileError if a file cannot be read."""
        wanted = canonical_registry(registry)
        with self._lock:
            reasons: list[str] = []
            for path in self._files:
                for login in self._logins(path, wanted, repository):
                    if login.usable:
                        return login
                    reasons.append(login.why_not)
            there = [str(path) for path in self._files if os.path.isfile(path)]
        none = f"{', '.join(there)} holds no login for it" if there else "there is no configuration file with one"
        return Login(why_not="; ".join(dict.fromkeys(reasons)) or none)

    def _logins(self, path: Path, registry: str, repository: str) -> Iterator[Login]:
        """Yield what a file says of a repository, the first usable one to be taken."""
        config = self._settings(path)
        helpers = {_place(key)[0]: name for key, name in _section(config, "credHelpers").items()}
        if registry in helpers:
            yield self._asked(str(helpers[registry]), registry)
        found = [
            (len(namespace), _login(entry, f"{path}: auths.{printable(key)}"))
            for key, entry in _section(config, "auths").items()
            for host, namespace in (_place(key),)
            if host == registry and isinstance(entry, dict) and entry and _within(repository, namespace)
        ]
        yield from (login for _, login in sorted(found, key=lambda pair: -pair[0]))
        store = config.get("credsStore")
        if isinstance(store, str) and store:
            yield self._asked(store, registry)

    def _asked(self, name: str, registry: str) -> Login:
        """Ask a helper once for each registry; Docker Hub has a name of its own there."""
        told = credential_helper.Told()
        for server in (HUB_KEY, DOCKER_HUB) if registry == DOCKER_HUB else (registry,):
            if (name, server) not in self._told:
                self._told[name, server] = credential_helper.ask(name, server, self._environment)
            told = self._told[name, server]
            if told.user == credential_helper.TOKEN_USER:
                return Login(identity_token=told.secret)
            if told.user:
                return Login(told.user, told.secret)
        return Login(why_not=told.why_not)

    def _settings(self, path: Path) -> dict[str, Any]:
        if path not in self._read:
            found: Any = {}
            if os.path.isfile(path):
                found = canonical.parse(read_bounded(path, MAX_CONFIG_FILE), str(path), limit=MAX_CONFIG_FILE)
            if not isinstance(found, dict):
                raise InvalidFileError(f"{path}: not a file of logins", hint="`docker login` or `podman login` writes one")
            self._read[path] = found
        return self._read[path]


def _place(key: str) -> tuple[str, str]:
    """Return the registry and the part of it that a key means: ``host``, ``https://host/v2/``, ``host/namespace/repository``."""
    host, _, rest = (key.partition("://")[2] if "://" in key else key).partition("/")
    namespace = rest.strip("/")
    return canonical_registry(host), "" if "://" in key or namespace in API_VERSIONS else namespace


def _within(repository: str, namespace: str) -> bool:
    return not namespace or f"{repository}/".startswith(f"{namespace}/")


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _login(entry: dict[str, Any], what: str) -> Login:
    user, password = entry.get("username"), entry.get("password")
    if entry.get("auth"):
        try:
            user, _, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise InvalidFileError(f"{what}: `auth` is not base64 of user:password", hint="log in again, which writes it anew") from None
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Login(user if isinstance(user, str) and user != credential_helper.TOKEN_USER else "", identity_token=token)
    if not isinstance(user, str) or not user or not isinstance(password, str):
        return Login(why_not=f"{what} holds no user and password")
    return Login(user, password.rstrip("\0"))
