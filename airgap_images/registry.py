"""Pulling from registries (OCI distribution-spec 1.1): manifests and small blobs, addresses of large ones, credentials.

Rules: nothing a registry says is believed: bytes asked for by digest must have it, every answer is bounded, a media type
must be the one inside the document. A password goes to the registry it is for, or to the https token server that this
registry names, and nowhere else; only loopback registries may name one by http, on the loopback network too.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from airgap_images.http import Client, Response
from airgap_images.oci import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    MAX_MANIFEST,
    Descriptor,
    Digest,
    Index,
    Manifest,
)
from airgap_images.reference import Reference, canonical_registry, is_loopback
from airgap_images.web import Address, Credentials, HttpError
from manifests import canonical
from manifests.errors import IntegrityError, InvalidFileError, NetworkError
from manifests.lock import read_bounded
from manifests.paths import printable

MAX_CONFIG_FILE = 4 << 20  # bytes of ~/.docker/config.json
MAX_TOKEN = 1 << 20  # bytes of a token server's answer; tokens with many scopes are a few KiB
MAX_CHALLENGE = 16 << 10  # bytes of WWW-Authenticate
ACCEPT = f"Accept: {IMAGE_INDEX}, {IMAGE_MANIFEST}, {DOCKER_LIST}, {DOCKER_MANIFEST}"
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"
UNTYPED = frozenset({"", "application/json", "application/octet-stream", "text/plain"})  # say nothing of what a manifest is

_REPOSITORY = re.compile(r"/v2/(.+?)/(?:manifests|blobs|tags|referrers)/")
_SCHEME = re.compile(r"[\s,]*(basic|bearer)\s+", re.IGNORECASE)
_OTHER_SCHEME = re.compile(r"[\s,]*[A-Za-z][A-Za-z0-9-]*(?=\s|,|$)")
_PARAMETER = re.compile(r'[\s,]*([A-Za-z][A-Za-z0-9_-]*)\s*=\s*(?:"([^"\\]*)"|([^\s,"]*))')
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 b64token: nothing that could end a header line


@dataclass(frozen=True, slots=True)
class Login:
    """What a docker configuration file holds for one registry; ``why_not`` says why it holds nothing usable."""

    user: str = ""
    password: str = field(default="", repr=False)
    why_not: str = ""

    @property
    def usable(self) -> bool:
        """Say whether there is a user to log in as."""
        return bool(self.user)

    @property
    def header(self) -> str:
        """Return the Authorization line of basic authentication."""
        return f"Authorization: Basic {base64.b64encode(f'{self.user}:{self.password}'.encode()).decode()}"


class RegistryCredentials:
    """Authenticate to any registry: anonymous, basic, or by a bearer token, with the logins of a docker ``config.json``.

    Safe to use from several threads; a token is asked for once per repository and again when the registry refuses it.
    """

    def __init__(self, client: Client, config: Path | None = None) -> None:
        self._client = client
        self._config = config
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], str] = {}  # (origin, repository) → header line
        self._used = threading.local()  # the header line each thread sent last
        self._file: dict[str, Any] | None = None

    def headers(self, url: str) -> tuple[str, ...]:
        """Return the Authorization line for this URL's registry and repository once that has asked for one."""
        line = self._known.get(_place(url), "")
        self._used.line = line
        return (line,) if line else ()

    def answer(self, url: str, challenge: str) -> bool:
        """Get what the challenge asks for; say whether there is now something else to send than before."""
        place = _place(url)
        origin, repository = place
        if not repository:
            return False  # not a registry's address: a redirect led here, and nothing of ours belongs here
        sent = getattr(self._used, "line", "")
        with self._lock:
            if self._known.get(place, "") != sent:
                return True  # another thread was refused too and has asked already
            line = self._line(origin, repository, challenge)
            if line == sent:
                return False
            self._known[place] = line
        return bool(line)

    def login(self, registry: str) -> Login:
        """Return what the configuration file holds for ``registry`` (``host[:port]``)."""
        wanted = canonical_registry(registry)
        config = self._settings()
        for key, entry in _section(config, "auths").items():
            if _registry_of(key) == wanted and isinstance(entry, dict) and entry:
                return _login(entry, f"{self._config}: auths.{printable(key)}")
        helpers = {_registry_of(key): value for key, value in _section(config, "credHelpers").items()}
        helper = helpers.get(wanted) or config.get("credsStore")
        if helper:
            return Login(why_not=f"only the credential helper {printable(str(helper))!r} could answer; helpers are not run by this version")
        return Login(why_not=f"{self._config or 'no configuration file'} holds no login for it")

    def explain(self, registry: str) -> str:
        """Say in words as whom ``registry`` was asked."""
        login = self.login(registry)
        return f"as {printable(login.user)!r}" if login.usable else f"without a login ({login.why_not})"

    def _settings(self) -> dict[str, Any]:
        if self._file is None:
            found: Any = {}
            if self._config and self._config.is_file():
                found = canonical.parse(read_bounded(self._config, MAX_CONFIG_FILE), str(self._config), limit=MAX_CONFIG_FILE)
            if not isinstance(found, dict):
                raise InvalidFileError(f"{self._config}: not a docker configuration", hint="`docker login` writes one")
            self._file = found
        return self._file

    def _line(self, origin: str, repository: str, challenge: str) -> str:
        login = self.login(origin.partition("://")[2])
        asked = parse_challenge(challenge)
        if "bearer" in asked:
            return self._bearer(origin, repository, asked["bearer"], login)
        return login.header if "basic" in asked and login.usable else ""

    def _bearer(self, origin: str, repository: str, asked: dict[str, str], login: Login) -> str:
        realm = _checked_realm(origin, asked.get("realm", ""))
        # Our own scope: a registry may not make us ask for more than reading this one repository.
        query = {"service": asked["service"]} if asked.get("service") else {}
        query["scope"] = f"repository:{repository}:pull"
        url = realm.url + ("&" if "?" in realm.target else "?") + urlencode(query)
        try:
            response = self._client.get(url, limit=MAX_TOKEN, credentials=_Basic(realm.origin, login))
        except HttpError as error:
            if error.status not in {400, 401, 403, 404}:
                raise
            host = canonical_registry(origin.partition("://")[2])
            message = f"{host}/{repository}: the registry's token server answered {error.status}, asked {self.explain(host)}"
            raise NetworkError(message, hint=f"`docker login {host}`, or ask its owner for access") from None
        return f"Authorization: Bearer {_token(response, realm)}"


@dataclass(frozen=True, slots=True)
class _Basic:
    """A registry's login for the token server it named, and for no host that server redirects to."""

    origin: str
    login: Login

    def headers(self, url: str) -> tuple[str, ...]:
        return (self.login.header,) if self.login.usable and Address.parse(url).origin == self.origin else ()

    def answer(self, _url: str, _challenge: str) -> bool:
        return False


def manifest(client: Client, credentials: Credentials, ref: Reference) -> tuple[Descriptor, bytes]:
    """Return the manifest or index ``ref`` names, as descriptor and raw bytes.

    Raises IntegrityError if the bytes are not what was asked for or what they are said to be.
    """
    what = f"{ref}"
    try:
        response = client.get(manifest_url(ref), limit=MAX_MANIFEST, headers=(ACCEPT,), credentials=credentials)
    except HttpError as error:
        raise _refused(error, ref, credentials) from None
    digest = Digest.of(response.body)
    if ref.digest is not None and digest != ref.digest:
        raise _lie(f"{what}: the registry sent other bytes, {digest}")
    claimed = response.header("docker-content-digest")
    if claimed and claimed.startswith("sha256:") and claimed != str(digest):
        raise _lie(f"{what}: the registry sent {digest} and says that is {printable(claimed)}")
    return Descriptor(_media_type(response, what), digest, len(response.body)), response.body


def blob(client: Client, credentials: Credentials, ref: Reference, descriptor: Descriptor, limit: int) -> bytes:
    """Return a small blob, verified; raises IntegrityError if it is larger than ``limit`` or not what ``descriptor`` says."""
    what = f"{ref}: blob {descriptor.digest}"
    if descriptor.size > limit:
        raise _lie(f"{what}: {descriptor.size} bytes, at most {limit} allowed here")
    try:
        raw = client.get(blob_url(ref, descriptor.digest), limit=descriptor.size, credentials=credentials).body
    except HttpError as error:
        raise _refused(error, ref, credentials) from None
    if len(raw) != descriptor.size:
        raise _lie(f"{what}: the registry sent {len(raw)} bytes, expected {descriptor.size}")
    if Digest.of(raw) != descriptor.digest:
        raise _lie(f"{what}: the registry sent other bytes, {Digest.of(raw)}")
    return raw


def manifest_url(ref: Reference) -> str:
    """Return where the registry offers the manifest ``ref`` names."""
    return f"{ref.base}/manifests/{ref.selector}"


def blob_url(ref: Reference, digest: Digest) -> str:
    """Return where the registry offers the blob ``digest`` of this repository."""
    return f"{ref.base}/blobs/{digest}"


def parse_challenge(text: str) -> dict[str, dict[str, str]]:
    """Return the basic and bearer challenges in a WWW-Authenticate value, each with its parameters (RFC 9110 §11.6.1).

    Raises NetworkError if it is too long; what cannot be read is left out.
    """
    if len(text) > MAX_CHALLENGE:
        raise NetworkError(f"a registry's WWW-Authenticate is longer than {MAX_CHALLENGE} bytes", hint="check the address of the registry")
    found: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    at = 0
    while at < len(text):
        if scheme := _SCHEME.match(text, at):
            current = found.setdefault(scheme[1].lower(), {})
            at = scheme.end()
        elif parameter := _PARAMETER.match(text, at):
            current.setdefault(parameter[1].lower(), parameter[2] if parameter[2] is not None else parameter[3])
            at = parameter.end()
        elif other := _OTHER_SCHEME.match(text, at):
            current, at = {}, other.end()
        else:
            break
    return found


def _media_type(response: Response, what: str) -> str:
    """Return the media type of a manifest; header, document and structure must agree (CVE-2021-41190)."""
    said = (response.header("content-type") or "").partition(";")[0].strip().lower()
    if said.startswith(SCHEMA_1):
        raise NetworkError(f"{what}: an image of Docker's schema 1, which cannot be verified", hint="push it again with a current tool")
    value = _document(response.body, what)
    media_type = value.get("mediaType", IMAGE_INDEX if "manifests" in value else IMAGE_MANIFEST)
    if said not in {media_type, *UNTYPED}:
        raise _lie(f"{what}: the registry says media type {printable(said)!r}, the document {media_type!r}")
    return str(media_type)


def _document(raw: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object a registry sent, checked as a manifest or an index; raises IntegrityError if it is neither."""
    try:
        value = canonical.parse(raw, what, limit=MAX_MANIFEST)
        if isinstance(value, dict) and "manifests" in value:
            Index.parse(raw, what)
        else:
            Manifest.parse(raw, what)
    except InvalidFileError as error:
        raise _lie(error.message) from None
    return dict(value)


def _token(response: Response, realm: Address) -> str:
    """Return the token in a token server's answer; ``token`` and ``access_token`` are one (distribution's token spec)."""
    try:
        value = canonical.parse(response.body, realm.origin, limit=MAX_TOKEN)
    except InvalidFileError as error:
        raise NetworkError(error.message, hint="the token server is broken or is none") from None
    token = (value.get("token") or value.get("access_token")) if isinstance(value, dict) else None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise NetworkError(f"{realm.origin}: the token server's answer holds no token", hint="the token server is broken or is none")
    return token


def _checked_realm(origin: str, realm: str) -> Address:
    try:
        address = Address.parse(realm)
    except InvalidFileError:
        message = f"{origin}: names no usable token server: {printable(realm)!r}"
        raise NetworkError(message, hint="check the address of the registry") from None
    near = origin.startswith("http://") and is_loopback(origin.partition("://")[2]) and is_loopback(address.host)
    if address.user is not None or (address.scheme != "https" and not near):
        raise NetworkError(
            f"{origin}: names the token server {printable(address.origin)}, which is not https; nothing is sent there",
            hint="ask the registry's owner to set an https realm",
        )
    return address


def _refused(error: HttpError, ref: Reference, credentials: Credentials) -> NetworkError:
    """Say what a registry's refusal means, and as whom it was asked."""
    if error.status not in {401, 403, 404}:
        return error
    whom = f", asked {credentials.explain(ref.registry)}" if isinstance(credentials, RegistryCredentials) else ""
    if error.status == 404:  # noqa: PLR2004
        hint = "check the name and the tag; some registries say this, too, where there is no access"
        return NetworkError(f"{ref}: the registry has no such image{whom}", hint=hint)
    hint = f"`docker login {ref.registry}`, or ask its owner for access"
    return NetworkError(f"{ref}: the registry answered {error.status}{whom}", hint=hint)


def _place(url: str) -> tuple[str, str]:
    address = Address.parse(url)
    found = _REPOSITORY.match(address.target)
    return address.origin, found[1] if found else ""


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _registry_of(key: str) -> str:
    """Return the registry a key of the file means: ``host``, ``https://host/v2/`` and the like."""
    return canonical_registry(key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0])


def _login(entry: dict[str, Any], what: str) -> Login:
    if entry.get("identitytoken"):
        return Login(why_not=f"{what} holds an identity token; this version logs in by user and password only")
    user, password = entry.get("username"), entry.get("password")
    if entry.get("auth"):
        try:
            user, _, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise InvalidFileError(f"{what}: `auth` is not base64 of user:password", hint="`docker login` writes it anew") from None
    if not isinstance(user, str) or not user or not isinstance(password, str):
        return Login(why_not=f"{what} holds no user and password")
    return Login(user, password.rstrip("\0"))


def _lie(message: str) -> IntegrityError:
    return IntegrityError(message, hint="distrust this registry, or what stands between it and you; then run again")
