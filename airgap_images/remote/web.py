"""What is said over HTTP, as values: addresses, answers, credentials, failures, and when to ask again. No I/O.

Rules: an address is taken apart once and put together again, so that libcurl connects to the very host that was judged;
an origin is scheme, host and port; no message shows a query or a user name.
"""

from __future__ import annotations

import email.utils
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import quote, unquote, urlsplit

from manifests.errors import InvalidFileError, NetworkError
from manifests.paths import printable

TOO_MANY = 429
RETRIED = frozenset({408, 425, TOO_MANY})
SERVER_ERRORS = range(500, 600)
NEVER_BETTER = frozenset({501, 505})  # server errors that stay
PHRASES = {status.value: status.phrase for status in HTTPStatus}
PORTS = {"http": 80, "https": 443}

_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9._-]{0,252})|[0-9a-f:.]*:[0-9a-f:.]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # urlsplit drops some of these in silence
_KEPT = "!#$%&'()*+,/:;=?@[]~"  # what stays as it is in a path and a query


@dataclass(frozen=True, slots=True)
class Address:
    """An http or https URL in its parts; ``target`` is path and query. A value of this type is well formed."""

    scheme: str
    host: str
    port: int
    target: str
    user: str | None = field(default=None, repr=False)
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Take ``url`` apart, without its fragment; raises InvalidFileError if it is no http or https address."""
        try:
            parts = urlsplit(url)
            port = parts.port
            host = (parts.hostname or "").encode("idna").decode() if not (parts.hostname or "").isascii() else parts.hostname or ""
        except ValueError:  # UnicodeError included
            raise _unusable(url) from None
        if parts.scheme not in PORTS or not _HOST.fullmatch(host) or port == 0 or _CONTROL.search(url):
            raise _unusable(url)
        target = quote(parts.path or "/", safe=_KEPT) + (f"?{quote(parts.query, safe=_KEPT)}" if parts.query else "")
        user = None if parts.username is None else unquote(parts.username)
        return cls(parts.scheme, host, port or PORTS[parts.scheme], target, user, unquote(parts.password or ""))

    @property
    def origin(self) -> str:
        """Return scheme, host and, unless it is the usual one, port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == PORTS[self.scheme] else f":{self.port}")

    @property
    def url(self) -> str:
        """Return the URL without user name and password."""
        return f"{self.origin}{self.target}"


class Receiver(Protocol):
    """Takes the bytes of a body where they belong, without a copy in between."""

    def expects(self, count: int) -> bool:
        """Say whether ``count`` more bytes, and they only, may be put into ``room``."""

    def room(self) -> memoryview:
        """Return where the next bytes go; it is not empty."""

    def took(self, count: int) -> None:
        """Take note that ``count`` bytes were put there."""


class Credentials(Protocol):
    """How to authenticate; asked anew for every URL of a request, redirects included."""

    def headers(self, url: str) -> tuple[str, ...]:
        """Return header lines for exactly this URL's origin, none for any other."""

    def answer(self, url: str, challenge: str) -> bool:
        """Take the WWW-Authenticate of a 401 for ``url``; say whether asking again may work now."""


@dataclass(frozen=True, slots=True)
class NoCredentials:
    """No credentials for anyone."""

    def headers(self, _url: str) -> tuple[str, ...]:
        """Return nothing."""
        return ()

    def answer(self, _url: str, _challenge: str) -> bool:
        """Say that nothing will help."""
        return False


@dataclass(frozen=True, slots=True)
class HostToken:
    """A bearer token for one origin, ``scheme://host[:port]``."""

    origin: str
    token: str = field(repr=False)

    def headers(self, url: str) -> tuple[str, ...]:
        """Return the Authorization line for the token's own origin."""
        own = Address.parse(url).origin == Address.parse(self.origin).origin
        return (f"Authorization: Bearer {self.token}",) if own else ()

    def answer(self, _url: str, _challenge: str) -> bool:
        """Say that this token is all there is."""
        return False


@dataclass(frozen=True, slots=True)
class Response:
    """One answer; ``url`` is where it came from after redirects; header names are in lower case."""

    status: int
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """Return the first header ``name``, whatever its letter case, or None."""
        return next((value for key, value in self.headers if key == name.lower()), None)

    def number(self, name: str) -> int | None:
        """Return the header ``name`` as a number of bytes or seconds, None if it is absent or no such number."""
        text = self.header(name) or ""
        return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None

    @property
    def retry_after(self) -> float:
        """Seconds the server asks to wait, 0 if it does not; a date is taken against the answer's own Date."""
        seconds = self.number("retry-after")
        if seconds is not None:
            return seconds
        then, now = (_instant(self.header(name)) for name in ("retry-after", "date"))
        return max(0.0, then - now) if then is not None and now is not None else 0.0


class Readable(Protocol):
    """What is sent, read piece by piece: an open file is one."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, none at the end."""

    def close(self) -> None:
        """Let go of it."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A body of ``size`` bytes to send; ``open`` gives it from its beginning, once for every attempt."""

    size: int
    open: Callable[[], Readable]


@dataclass(frozen=True, slots=True)
class Tls:
    """What one host has of its own: files of CA certificates, trusted beside the system's, and a client certificate with its key."""

    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    more_ca_files: tuple[Path, ...] = ()

    @property
    def ca_files(self) -> tuple[Path, ...]:
        """Return every file of CA certificates."""
        return (*((self.ca_file,) if self.ca_file else ()), *self.more_ca_files)


class HttpError(NetworkError):
    """A server answered something else than success."""

    def __init__(self, response: Response) -> None:
        phrase = PHRASES.get(response.status, "(unknown)")
        super().__init__(f"{redacted(response.url)}: the server answered {response.status} {phrase}", hint=_hint(response))
        self.status = response.status
        self.url = response.url
        self.headers = response.headers
        self.body = response.body
        self.retry_after = response.retry_after

    @property
    def retryable(self) -> bool:
        """Say whether the same request may succeed later."""
        return self.status in RETRIED or (self.status in SERVER_ERRORS and self.status not in NEVER_BETTER)


class TransferError(NetworkError):
    """No whole answer arrived: name, connection, TLS, stall, or a limit."""

    retry_after = 0.0

    def __init__(self, message: str, *, hint: str = "check the network and the proxy, then run again", retryable: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class Retry:
    """When to ask again: exponential backoff with jitter, and what the server asks for; all times in seconds."""

    attempts: int = 6
    first: float = 0.5
    ceiling: float = 60
    jitter: float = 1  # the part of a pause that is random
    patience: float = 300  # the longest Retry-After obeyed

    def pause(self, failures: int, error: HttpError | TransferError) -> float | None:
        """Return how long to wait after so many failures in a row, None if asking again is of no use."""
        if not error.retryable or failures >= self.attempts:
            return None
        backoff = min(self.ceiling, self.first * 2.0 ** min(failures - 1, 32))
        random = secrets.SystemRandom().random()
        return min(error.retry_after, self.patience) + backoff * (1 - self.jitter * random)


def redacted(url: str) -> str:
    """Return ``url`` fit for a message: no user name, no query, no control characters."""
    try:
        address = Address.parse(url)
    except InvalidFileError:
        return printable(url.split("?", 1)[0].rsplit("@", 1)[-1])
    return printable(f"{address.origin}{address.target.split('?', 1)[0]}")


def _unusable(url: str) -> InvalidFileError:
    shown = printable(url.split("?", 1)[0].rsplit("@", 1)[-1])
    return InvalidFileError(f"{shown!r} is not an http or https address", hint="write it as https://host/path")


def _instant(date: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date or "").timestamp()
    except (ValueError, OverflowError):
        return None


def _hint(response: Response) -> str:
    status = response.status
    if status == TOO_MANY and (response.header("ratelimit-remaining") or "").partition(";")[0].strip() == "0":
        return "this login, or this network without one, has used up its pulls: log in there (`docker login`), or run again later"
    if status in {401, 403, 407}:
        return "check the token or the ~/.netrc entry for this host, and that it grants access"
    if status in {404, 410}:
        return "check the address; if the lock names it, the file is gone upstream: lock again"
    if status in RETRIED or status in SERVER_ERRORS:
        return "the server is busy or broken; run again later, what arrived is kept"
    return "check the address and what the server wants"
