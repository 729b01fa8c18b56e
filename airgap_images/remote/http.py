"""HTTP for the connected side, by libcurl: one client for all threads, with one reusable handle in each.

Rules: http and https only, TLS 1.2 or newer. Redirects are followed here, hop by hop, so that credentials are asked
anew for every URL, nothing secret reaches another origin (scheme, host and port), and https never becomes http; a
request with a body stays what it is or ends. A host's own certificates are asked for by its name, at every hop.
Headers and bodies are bounded, bytes are taken as they are stored (nothing is decompressed), and messages show neither
query nor user name. libcurl reads the proxy variables of the environment itself.
"""

from __future__ import annotations

import copy
import importlib.metadata
import threading
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from urllib.parse import urljoin

import pycurl

from airgap_images.remote.exchange import Exchange, Request, Sink, never
from airgap_images.remote.tap import SLOWEST
from airgap_images.remote.web import (
    Address,
    Credentials,
    HostToken,
    HttpError,
    NoCredentials,
    Readable,
    Receiver,
    Response,
    Retry,
    Tls,
    TransferError,
    Upload,
    redacted,
)
from manifests.errors import InvalidFileError, UsageError
from manifests.lock import read_bounded

__all__ = [
    "Address",
    "Client",
    "Credentials",
    "HostToken",
    "HttpError",
    "NoCredentials",
    "Readable",
    "Receiver",
    "Response",
    "Retry",
    "Tls",
    "TransferError",
    "Upload",
    "redacted",
]

MAX_REDIRECTS = 10
MAX_CA_FILE = 4 << 20  # bytes of a file of certificates; the system's is about 220 KB
MAX_CHALLENGES = 2  # rounds of 401 and new credentials in one request
BUFFER = 512 << 10  # bytes libcurl hands over at once; the socket decides how full they are

UNAUTHORIZED = 401
REDIRECTS = frozenset({301, 302, 303, 307, 308})
SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie"})
CA_STORES = (  # where distributions keep the certificates they trust
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

class Client:
    """Asks HTTP servers. ``netrc`` is a file of passwords, ``ca_file`` of certificates (the system's when None); timeouts in seconds.

    ``tls`` gives the certificates of one host, asked as ``host[:port]``, without the port if it is https's own.
    """

    def __init__(
        self,
        *,
        user_agent: str | None = None,
        ca_file: Path | None = None,
        netrc: Path | None = None,
        retry: Retry | None = None,
        connect_timeout: float = 30,
        stall_timeout: float = 60,
        tls: Callable[[str], Tls | None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.retry = retry or Retry()
        self._user_agent = user_agent or f"airgap-bundler/{importlib.metadata.version('airgap-bundler')}"
        self._ca_file = ca_file or next((Path(store) for store in CA_STORES if Path(store).is_file()), None)
        self._netrc = netrc
        self._connect_timeout = connect_timeout
        self._stall_timeout = stall_timeout
        self._tls = tls
        self._sleep = sleep
        self._local = threading.local()

    def get(self, url: str, *, limit: int, headers: tuple[str, ...] = (), credentials: Credentials | None = None) -> Response:
        """Return the whole answer, its body at most ``limit`` bytes; failures that may pass are tried again.

        Raises HttpError for an answer that is no success, TransferError when no whole answer arrives.
        """
        return self._retried(Request(Address.parse(url), headers, credentials or NoCredentials(), limit))

    def head(self, url: str, *, limit: int = 0, headers: tuple[str, ...] = (), credentials: Credentials | None = None) -> Response:
        """Return the answer to a HEAD request, like ``get``."""
        return self._retried(Request(Address.parse(url), headers, credentials or NoCredentials(), limit, method="HEAD"))

    def send(
        self,
        method: str,
        url: str,
        *,
        body: bytes | Upload = b"",
        limit: int,
        headers: tuple[str, ...] = (),
        credentials: Credentials | None = None,
        redirects: bool = True,
        again: bool = True,
    ) -> Response:
        """Send ``body`` by POST, PUT, PATCH or DELETE and return the whole answer, like ``get``.

        The body is read piece by piece, from its beginning for every attempt; without ``again`` there is one, for requests
        that must not be repeated blindly. A redirect that keeps method and body is followed unless ``redirects`` is False;
        one that would turn the request into another is an error.
        """
        upload = Upload(len(body), lambda: BytesIO(body)) if isinstance(body, bytes) else body
        asked = Request(Address.parse(url), headers, credentials or NoCredentials(), limit, method, upload, redirects)
        return self._retried(asked) if again else self._follow(asked)

    def download(
        self,
        url: str,
        sink: Sink,
        *,
        start: int = 0,
        headers: tuple[str, ...] = (),
        credentials: Credentials | None = None,
        on_answer: Callable[[Response], None] | None = None,
        receiver: Receiver | None = None,
        cancelled: Callable[[], bool] = never,
    ) -> Response:
        """Stream the body from byte ``start`` on to ``sink`` in one attempt and return the answer without its body.

        ``on_answer`` is told the final answer before the first byte: status 206 means the body starts where the server
        says in Content-Range, 200 that it starts at zero whatever was asked. What ``on_answer`` and ``sink`` raise ends
        the transfer and is raised here. Where bytes can be put into place without a copy, ``receiver`` is asked for that
        and gets what ``sink`` then does not. ``cancelled`` is asked about once a second and whenever bytes arrive.
        """

        def stream(response: Response) -> Sink:
            if on_answer:
                on_answer(response)
            return sink

        asked = (*headers, f"Range: bytes={start}-") if start else headers
        request = Request(
            Address.parse(url), asked, credentials or NoCredentials(), stream=stream, receiver=receiver, cancelled=cancelled
        )
        return self._follow(request)

    def answers(self, url: str) -> bool:
        """Say whether there is a server at ``url`` that answers, whatever it answers."""
        try:
            self.head(url)
        except HttpError:
            return True
        except TransferError:
            return False
        return True

    def hasty(self) -> Client:
        """Return this client, asking once and not again: for who has others to ask."""
        other = copy.copy(self)
        other.retry = Retry(attempts=1)
        return other

    def _retried(self, request: Request) -> Response:
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

    def _follow(self, request: Request) -> Response:
        """Send ``request``, follow its redirects, answer its challenges; raises HttpError unless it succeeds."""
        address, hops, challenges = request.address, 0, 0
        while True:
            response = self._once(request, address)
            location = response.header("location")
            if request.wants(response.status):
                return response
            if response.status in REDIRECTS and location:
                hops += 1
                _check_hop(request, response, hops)
                address = _next_hop(address, location)
            elif response.status == UNAUTHORIZED and challenges < MAX_CHALLENGES and _answered(request, response):
                challenges += 1
            else:
                raise HttpError(response)

    def _once(self, request: Request, address: Address) -> Response:
        """Send one request to ``address``."""
        exchange = Exchange(request, address, self._stall_timeout)
        curl = self._handle()
        try:
            for option, value in (self._options(request, address) | exchange.callbacks()).items():
                curl.setopt(option, value)
            curl.perform()
        except pycurl.error as error:
            exchange.failed(error, curl.getinfo(pycurl.HTTP_CONNECTCODE))
        finally:
            exchange.close()
            curl.reset()  # keeps the connection; drops callbacks and credentials
        return exchange.finished()

    def _handle(self) -> pycurl.Curl:
        handle: pycurl.Curl | None = getattr(self._local, "handle", None)
        if handle is None:
            handle = self._local.handle = pycurl.Curl()
        return handle

    def _options(self, request: Request, address: Address) -> dict[int, object]:
        own = address.origin == request.address.origin
        lines = [line for line in request.headers if own or line.split(":", 1)[0].strip().lower() not in SECRET_HEADERS]
        lines += request.credentials.headers(address.url)
        if any(not line.isprintable() for line in lines):
            raise UsageError(f"{redacted(address.url)}: a header holds a control character", hint="check the token for line breaks")
        options: dict[int, object] = {
            pycurl.URL: address.url.encode(),
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
        options |= self._certificates(address)
        if own and request.address.user is not None:
            options |= {pycurl.USERNAME: request.address.user, pycurl.PASSWORD: request.address.password}
        elif own and self._netrc:  # a file of passwords knows no ports, and may hold a default for every host
            options |= {pycurl.NETRC: pycurl.NETRC_OPTIONAL, pycurl.NETRC_FILE: str(self._netrc)}
        return options

    def _certificates(self, address: Address) -> dict[int, object]:
        """Return whose certificates are trusted at ``address``, and which is shown there."""
        options: dict[int, object] = {}
        if self._ca_file:
            options |= {pycurl.CAINFO: str(self._ca_file), pycurl.PROXY_CAINFO: str(self._ca_file)}
        own = self._tls(address.origin.partition("://")[2]) if self._tls and address.scheme == "https" else None
        if own is None:
            return options
        if own.ca_files:
            trusted = (*((self._ca_file,) if self._ca_file else ()), *own.ca_files)
            options[pycurl.CAINFO_BLOB] = b"\n".join(read_bounded(path, MAX_CA_FILE) for path in trusted)
            options.pop(pycurl.CAINFO, None)
        if own.certificate and own.key:  # an empty passphrase, or else OpenSSL would ask the terminal for one
            options |= {pycurl.SSLCERT: str(own.certificate), pycurl.SSLKEY: str(own.key), pycurl.KEYPASSWD: ""}
        return options


def _check_hop(request: Request, response: Response, hops: int) -> None:
    """Refuse a redirect that is one too many, or that would make another request of this one."""
    name = redacted(response.url)
    if hops > MAX_REDIRECTS:
        raise TransferError(f"{redacted(request.address.url)}: more than {MAX_REDIRECTS} redirects", hint="check the address")
    if not request.follows(response.status):
        message = f"{name}: the server answered a {request.method} with redirect {response.status}, which is not followed"
        raise TransferError(message, hint="name the address it leads to, or ask the server's owner")


def _next_hop(address: Address, location: str) -> Address:
    """Return where ``location`` leads; a user name in it is dropped, the one of the request is kept for its own origin."""
    try:
        target = Address.parse(urljoin(address.url, location))
    except (InvalidFileError, ValueError):
        raise TransferError(f"{redacted(address.url)}: redirects to something that is no http address", hint="check the address") from None
    if address.scheme == "https" and target.scheme != "https":
        raise TransferError(f"{redacted(address.url)}: redirects from https to http, which is refused", hint="name an https address")
    return target


def _answered(request: Request, response: Response) -> bool:
    challenge = ", ".join(value for name, value in response.headers if name == "www-authenticate")
    return request.credentials.answer(response.url, challenge)
