"""Who asks a registry: its challenges read (RFC 9110), tokens got (distribution's token and OAuth2 specifications), logins sent.

Rules: a secret goes to the registry it is for, or to the https token server that this registry names, and nowhere else;
only loopback registries may name one by http, on the loopback network too. The scope is ours, not the one a registry names.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from urllib.parse import urlencode

from airgap_images.reference import Reference, canonical_registry, is_loopback
from airgap_images.remote.http import Client, Response
from airgap_images.remote.logins import Login, Logins
from airgap_images.remote.web import Address, HttpError
from manifests import canonical
from manifests.errors import InvalidFileError, NetworkError
from manifests.paths import printable

MAX_TOKEN = 1 << 20  # bytes of a token server's answer; tokens with many scopes are a few KiB
MAX_CHALLENGE = 16 << 10  # bytes of WWW-Authenticate
CLIENT_ID = "airgap-bundler"
REFUSALS = frozenset({400, 401, 403, 404, 405})  # of a token server, in which who asked matters
FORM = "Content-Type: application/x-www-form-urlencoded"

_REPOSITORY = re.compile(r"/v2/(.+?)/(?:manifests|blobs|tags|referrers)/")
_SCHEME = re.compile(r"[\s,]*(basic|bearer)\s+", re.IGNORECASE)
_OTHER_SCHEME = re.compile(r"[\s,]*[A-Za-z][A-Za-z0-9-]*(?=\s|,|$)")
_PARAMETER = re.compile(r'[\s,]*([A-Za-z][A-Za-z0-9_-]*)\s*=\s*(?:"([^"\\]*)"|([^\s,"]*))')
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 b64token: nothing that could end a header line


class RegistryCredentials:
    """Authenticate to any registry: anonymous, basic, or by a bearer token for ``actions`` (``pull`` or ``pull,push``), with ``logins``.

    ``sources`` are repositories to be read as well while one is written to, each asked for at its own registry only: blobs
    are mounted from there, see ``mounting``. Safe to use from several threads; a token is asked for once per repository and
    again when the registry refuses it.
    """

    def __init__(
        self, client: Client, logins: Logins | None = None, *, actions: str = "pull", sources: tuple[Reference, ...] = ()
    ) -> None:
        self._client = client
        self._logins = logins or Logins()
        self._actions = actions
        self._sources = sources
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], str] = {}  # (origin, repository) → header line
        self._used = threading.local()  # the header line each thread sent last
        self._mounting: dict[tuple[str, str], RegistryCredentials] = {}  # (registry, repository) of a source

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

    def mounting(self, source: Reference) -> RegistryCredentials:
        """Return credentials that ask to read ``source`` as well: its own registry only, for requests that mount from there."""
        place = source.registry, source.repository
        with self._lock:
            if place not in self._mounting:
                self._mounting[place] = RegistryCredentials(self._client, self._logins, actions=self._actions, sources=(source,))
            return self._mounting[place]

    def explain(self, registry: str, repository: str = "") -> str:
        """Say in words as whom ``registry`` was asked."""
        return self._logins.find(registry, repository).words

    def _line(self, origin: str, repository: str, challenge: str) -> str:
        login = self._logins.find(origin.partition("://")[2], repository)
        asked = parse_challenge(challenge)
        if "bearer" in asked:
            return self._bearer(origin, repository, asked["bearer"], login)
        return next(iter(login.basic), "") if "basic" in asked else ""

    def _bearer(self, origin: str, repository: str, asked: dict[str, str], login: Login) -> str:
        realm = _checked_realm(origin, asked.get("realm", ""))
        service = (("service", asked["service"]),) if asked.get("service") else ()
        host = canonical_registry(origin.partition("://")[2])
        try:
            response = self._asked(realm, service, self._scopes(host, repository), login)
        except HttpError as error:
            if error.status not in REFUSALS:
                raise
            message = f"{host}/{repository}: the registry's token server answered {error.status}, asked {login.words}"
            raise NetworkError(message, hint=f"`docker login {host}`, or ask its owner for access") from None
        return f"Authorization: Bearer {_token(response, realm)}"

    def _scopes(self, host: str, repository: str) -> tuple[str, ...]:
        """Return what to ask for, our own: a registry may not make us ask for more than this repository, and what we mount from."""
        mounted = {ref.repository for ref in self._sources if ref.registry == host} - {repository}
        return (f"repository:{repository}:{self._actions}", *(f"repository:{name}:pull" for name in sorted(mounted)))

    def _asked(self, realm: Address, service: tuple[tuple[str, str], ...], scopes: tuple[str, ...], login: Login) -> Response:
        """Ask a token server: by a form with the refresh token where there is one, which is sent nowhere else, or by a query."""
        if login.identity_token:
            grant = (("grant_type", "refresh_token"), ("client_id", CLIENT_ID), ("refresh_token", login.identity_token))
            form = urlencode((*grant, *service, ("scope", " ".join(scopes)))).encode()
            return self._client.send("POST", realm.url, body=form, limit=MAX_TOKEN, headers=(FORM,), redirects=False)
        query = urlencode((*service, *(("scope", scope) for scope in scopes)))
        url = realm.url + ("&" if "?" in realm.target else "?") + query
        return self._client.get(url, limit=MAX_TOKEN, credentials=_Basic(realm.origin, login))


@dataclass(frozen=True, slots=True)
class _Basic:
    """A registry's login for the token server it named, and for no host that server redirects to."""

    origin: str
    login: Login

    def headers(self, url: str) -> tuple[str, ...]:
        return self.login.basic if Address.parse(url).origin == self.origin else ()

    def answer(self, _url: str, _challenge: str) -> bool:
        return False


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


def _place(url: str) -> tuple[str, str]:
    address = Address.parse(url)
    found = _REPOSITORY.match(address.target)
    return address.origin, found[1] if found else ""
