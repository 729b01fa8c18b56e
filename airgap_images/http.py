"""HTTP for the connected side, by libcurl: one client for all threads, with one reusable handle in each.

Rules: http and https only, TLS 1.2 or newer. Redirects are followed here, hop by hop, so that credentials are asked
anew for every URL, nothing secret reaches another origin (scheme, host and port), and https never becomes http.
Headers and bodies are bounded, bytes are taken as they are stored (nothing is decompressed), and messages show neither
query nor user name. libcurl reads the proxy variables of the environment itself.
"""

from __future__ import annotations

import importlib.metadata
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urljoin

import pycurl

from airgap_images.web import (
    RETRIED,
    Address,
    Credentials,
    HostToken,
    HttpError,
    NoCredentials,
    Response,
    Retry,
    TransferError,
    redacted,
)
from manifests.errors import InvalidFileError, UsageError
from manifests.paths import printable

__all__ = [
    "Address",
    "Client",
    "Credentials",
    "HostToken",
    "HttpError",
    "NoCredentials",
    "Response",
    "Retry",
    "TransferError",
    "redacted",
]

MAX_REDIRECTS = 10
MAX_CHALLENGES = 2  # rounds of 401 and new credentials in one request
MAX_HEADERS = 256  # lines
MAX_HEADER_BYTES = 128 << 10  # bytes of all header lines of one answer, interim answers included
MAX_ERROR_BODY = 64 << 10  # bytes kept of an answer that is no success
BUFFER = 512 << 10  # bytes libcurl hands over at once; the socket decides how full they are
SLOWEST = 64  # bytes/s below which a transfer counts as stalled

SUCCESS = range(200, 300)
STREAMED = frozenset({200, 206})
UNAUTHORIZED = 401
CLIENT_ERRORS = range(400, 500)
REDIRECTS = frozenset({301, 302, 303, 307, 308})
SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie"})
CA_STORES = (  # where distributions keep the certificates they trust
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

MAY_PASS = frozenset(
    {
        pycurl.E_COULDNT_RESOLVE_PROXY,
        pycurl.E_COULDNT_RESOLVE_HOST,
        pycurl.E_COULDNT_CONNECT,
        pycurl.E_PARTIAL_FILE,
        pycurl.E_OPERATION_TIMEDOUT,
        pycurl.E_SSL_CONNECT_ERROR,
        pycurl.E_GOT_NOTHING,
        pycurl.E_SEND_ERROR,
        pycurl.E_RECV_ERROR,
    }
)
BAD_CERTIFICATE = frozenset({pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CACERT_BADFILE})
BY_CALLBACK = frozenset({pycurl.E_ABORTED_BY_CALLBACK, pycurl.E_WRITE_ERROR})

Sink = Callable[[bytes], int | None]


def never() -> bool:
    """Say no: the default of ``cancelled``."""
    return False


@dataclass(frozen=True, slots=True)
class _Request:
    """What to ask; ``limit`` bounds a body that is kept, ``stream`` gives the sink for one that is not."""

    address: Address
    headers: tuple[str, ...]
    credentials: Credentials
    limit: int = 0
    head: bool = False
    stream: Callable[[Response], Sink] | None = None
    cancelled: Callable[[], bool] = never

    def wants(self, status: int) -> bool:
        """Say whether an answer of this status is the one asked for."""
        return status in STREAMED if self.stream else status in SUCCESS


class Client:
    """Asks HTTP servers. ``netrc`` is a file of passwords, ``ca_file`` of certificates (the system's when None); timeouts in seconds."""

    def __init__(
        self,
        *,
        user_agent: str | None = None,
        ca_file: Path | None = None,
        netrc: Path | None = None,
        retry: Retry | None = None,
        connect_timeout: float = 30,
        stall_timeout: float = 60,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.retry = retry or Retry()
        self._user_agent = user_agent or f"airgap-bundler/{importlib.metadata.version('airgap-bundler')}"
        self._ca_file = ca_file or next((Path(store) for store in CA_STORES if Path(store).is_file()), None)
        self._netrc = netrc
        self._connect_timeout = connect_timeout
        self._stall_timeout = stall_timeout
        self._sleep = sleep
        self._local = threading.local()

    def get(self, url: str, *, limit: int, headers: tuple[str, ...] = (), credentials: Credentials | None = None) -> Response:
        """Return the whole answer, its body at most ``limit`` bytes; failures that may pass are tried again.

        Raises HttpError for an answer that is no success, TransferError when no whole answer arrives.
        """
        return self._retried(_Request(Address.parse(url), headers, credentials or NoCredentials(), limit))

    def head(self, url: str, *, limit: int = 0, headers: tuple[str, ...] = (), credentials: Credentials | None = None) -> Response:
        """Return the answer to a HEAD request, like ``get``."""
        return self._retried(_Request(Address.parse(url), headers, credentials or NoCredentials(), limit, head=True))

    def download(
        self,
        url: str,
        sink: Sink,
        *,
        start: int = 0,
        headers: tuple[str, ...] = (),
        credentials: Credentials | None = None,
        on_answer: Callable[[Response], None] | None = None,
        cancelled: Callable[[], bool] = never,
    ) -> Response:
        """Stream the body from byte ``start`` on to ``sink`` in one attempt and return the answer without its body.

        ``on_answer`` is told the final answer before the first byte: status 206 means the body starts where the server
        says in Content-Range, 200 that it starts at zero whatever was asked. What ``on_answer`` and ``sink`` raise ends
        the transfer and is raised here. ``cancelled`` is asked about once a second and whenever bytes arrive.
        """

        def stream(response: Response) -> Sink:
            if on_answer:
                on_answer(response)
            return sink

        asked = (*headers, f"Range: bytes={start}-") if start else headers
        return self._follow(
            _Request(Address.parse(url), asked, credentials or NoCredentials(), stream=stream, cancelled=cancelled)
        )

    def _retried(self, request: _Request) -> Response:
        failures = 0
        while True:
            try:
                return self._follow(request)
            except (HttpError, TransferError) as error:
                failures += 1
                pause = self.retry.pause(failures, error)
                if pause is None:
                    raise
            self._sleep(pause)

    def _follow(self, request: _Request) -> Response:
        """Send ``request``, follow its redirects, answer its challenges; raises HttpError unless it succeeds."""
        address, hops, challenges = request.address, 0, 0
        while True:
            response = self._once(request, address)
            location = response.header("location")
            if request.wants(response.status):
                return response
            if response.status in REDIRECTS and location:
                hops += 1
                if hops > MAX_REDIRECTS:
                    raise TransferError(f"{redacted(request.address.url)}: more than {MAX_REDIRECTS} redirects", hint="check the address")
                address = _next_hop(address, location)
            elif response.status == UNAUTHORIZED and challenges < MAX_CHALLENGES and _answered(request, response):
                challenges += 1
            else:
                raise HttpError(response)

    def _once(self, request: _Request, address: Address) -> Response:
        """Send one request to ``address``."""
        exchange = _Exchange(request, address)
        curl = self._handle()
        try:
            for option, value in (self._options(request, address) | exchange.callbacks()).items():
                curl.setopt(option, value)
            curl.perform()
        except pycurl.error as error:
            exchange.failed(error, curl.getinfo(pycurl.HTTP_CONNECTCODE))
        finally:
            curl.reset()  # keeps the connection; drops callbacks and credentials
        return exchange.finished()

    def _handle(self) -> pycurl.Curl:
        handle: pycurl.Curl | None = getattr(self._local, "handle", None)
        if handle is None:
            handle = self._local.handle = pycurl.Curl()
        return handle

    def _options(self, request: _Request, address: Address) -> dict[int, object]:
        own = address.origin == request.address.origin
        lines = [line for line in request.headers if own or line.split(":", 1)[0].strip().lower() not in SECRET_HEADERS]
        lines += request.credentials.headers(address.url)
        if any(not line.isprintable() for line in lines):
            raise UsageError(f"{redacted(address.url)}: a header holds a control character", hint="check the token for line breaks")
        options: dict[int, object] = {
            pycurl.URL: address.url.encode(),
            pycurl.NOBODY: request.head,
            pycurl.HTTPHEADER: [line.encode() for line in ("Accept-Encoding: identity", *lines)],
            pycurl.USERAGENT: self._user_agent,
            pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
            pycurl.FOLLOWLOCATION: False,
            pycurl.HEADEROPT: pycurl.HEADER_SEPARATE,  # a proxy is not sent what is meant for the server
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,  # one stream per connection: no window to tune, no shared reset
            pycurl.HTTP09_ALLOWED: False,
            pycurl.HTTPAUTH: pycurl.HTTPAUTH_BASIC,
            pycurl.SSLVERSION: pycurl.SSLVERSION_TLSv1_2,  # or newer
            pycurl.CONNECTTIMEOUT_MS: max(1, round(self._connect_timeout * 1000)),
            pycurl.LOW_SPEED_LIMIT: SLOWEST,
            pycurl.LOW_SPEED_TIME: max(1, round(self._stall_timeout)),
            pycurl.BUFFERSIZE: BUFFER,
            pycurl.TCP_KEEPALIVE: True,
            pycurl.NOSIGNAL: True,
        }
        if self._ca_file:
            options |= {pycurl.CAINFO: str(self._ca_file), pycurl.PROXY_CAINFO: str(self._ca_file)}
        if own and request.address.user is not None:
            options |= {pycurl.USERNAME: request.address.user, pycurl.PASSWORD: request.address.password}
        elif own and self._netrc:  # a file of passwords knows no ports, and may hold a default for every host
            options |= {pycurl.NETRC: pycurl.NETRC_OPTIONAL, pycurl.NETRC_FILE: str(self._netrc)}
        return options


class _Exchange:
    """One request and its answer, as libcurl's callbacks see it; what they raise is kept and raised after the transfer."""

    def __init__(self, request: _Request, address: Address) -> None:
        self._request = request
        self._address = address
        self._status = 0
        self._headers: list[tuple[str, str]] = []
        self._lines = self._bytes = 0
        self._sink: Sink | None = None
        self._kept: list[bytes] = []
        self._room = 0
        self._enough = False
        self._error: BaseException | None = None

    def callbacks(self) -> dict[int, object]:
        """Return the options that make libcurl call this object."""
        return {
            pycurl.HEADERFUNCTION: self._header,
            pycurl.WRITEFUNCTION: self._body,
            pycurl.NOPROGRESS: False,
            pycurl.XFERINFOFUNCTION: self._moment,
        }

    def finished(self) -> Response:
        """Return the answer with the kept part of its body, or raise what a callback raised."""
        if self._error is None and self._sink is None:
            self._sink = self._opened()  # an answer without a body
        if self._error is not None:
            raise self._error
        return replace(self._response(), body=b"".join(self._kept))

    def failed(self, error: pycurl.error, connect_status: int) -> None:
        """Raise what the failure of a transfer means, unless a callback ended it on purpose."""
        if self._error is not None or self._enough:
            return
        code, text = _reason(error)
        if code in BY_CALLBACK:  # a signal came before the callback could catch it; older pycurl prints it and goes on
            raise KeyboardInterrupt from None
        name, said = redacted(self._address.url), printable(text) or f"libcurl error {code}"
        if code in BAD_CERTIFICATE:
            raise TransferError(f"{name}: {said}", hint="name a file with the certificate of the issuing CA in SSL_CERT_FILE") from None
        if connect_status in CLIENT_ERRORS and connect_status not in RETRIED:
            raise TransferError(f"{name}: the proxy answered {connect_status}", hint="check HTTPS_PROXY and what it lets through") from None
        raise TransferError(f"{name}: {said}", retryable=code in MAY_PASS) from None

    def _response(self) -> Response:
        return Response(self._status, self._address.url, tuple(self._headers))

    def _header(self, line: bytes) -> int | None:
        self._lines += 1
        self._bytes += len(line)
        if self._lines > MAX_HEADERS or self._bytes > MAX_HEADER_BYTES:
            self._error = TransferError(f"{redacted(self._address.url)}: the answer's header is too long", hint="check the address")
            return -1
        if line.startswith(b"HTTP/"):  # the final answer's, or an interim one's or the proxy's, each replacing the one before
            self._status, self._headers = int(line.split()[1]), []
        elif self._sink is None:
            name, _, value = line.partition(b":")
            if value:
                self._headers.append((_text(name).lower(), _text(value)))
        return None

    def _body(self, chunk: bytes) -> int | None:
        try:
            if self._sink is None:
                self._sink = self._opened()
            return self._taken(chunk, self._sink(chunk))
        except BaseException as error:  # noqa: BLE001 - a callback cannot raise through libcurl; `finished` raises it
            self._error = error
            return -1

    def _taken(self, chunk: bytes, count: int | None) -> int | None:
        if count not in {None, len(chunk)} and not self._enough:
            raise TransferError(f"{redacted(self._address.url)}: the receiver took {count} of {len(chunk)} bytes", hint="report this")
        return count

    def _moment(self, *_counts: int) -> int:
        if self._request.cancelled() and self._error is None:
            self._error = TransferError(f"{redacted(self._address.url)}: cancelled", hint="run again to go on")
        return int(self._error is not None)

    def _opened(self) -> Sink:
        """Judge the header of the final answer and return where its body goes."""
        if not self._request.wants(self._status):
            self._room = MAX_ERROR_BODY
            return self._keep_some
        if self._request.stream:
            return self._request.stream(self._response())
        self._room = self._request.limit
        coding = self._response().header("content-encoding") or "identity"
        if not self._request.head and coding.lower() != "identity":
            raise TransferError(f"{redacted(self._address.url)}: the answer is compressed, which was not asked for", hint="check the proxy")
        return self._keep_all

    def _keep_all(self, chunk: bytes) -> None:
        self._room -= len(chunk)
        if self._room < 0:
            raise TransferError(f"{redacted(self._address.url)}: answer larger than {self._request.limit} bytes", hint="check the address")
        self._kept.append(chunk)

    def _keep_some(self, chunk: bytes) -> int | None:
        self._kept.append(chunk[: self._room])
        self._room -= len(chunk)
        self._enough = self._room < 0
        return -1 if self._enough else None


def _next_hop(address: Address, location: str) -> Address:
    """Return where ``location`` leads; a user name in it is dropped, the one of the request is kept for its own origin."""
    try:
        target = Address.parse(urljoin(address.url, location))
    except (InvalidFileError, ValueError):
        raise TransferError(f"{redacted(address.url)}: redirects to something that is no http address", hint="check the address") from None
    if address.scheme == "https" and target.scheme != "https":
        raise TransferError(f"{redacted(address.url)}: redirects from https to http, which is refused", hint="name an https address")
    return target


def _reason(error: pycurl.error) -> tuple[int, str]:
    code, text = (*error.args, 0, "")[:2]
    return int(code), str(text)


def _answered(request: _Request, response: Response) -> bool:
    challenge = ", ".join(value for name, value in response.headers if name == "www-authenticate")
    return request.credentials.answer(response.url, challenge)


def _text(raw: bytes) -> str:
    try:
        return raw.decode().strip()
    except UnicodeDecodeError:
        return raw.decode("latin-1").strip()
