"""A real HTTP server in threads that misbehaves on order, a proxy, and a certificate authority. Standard library and cryptography only.

    with httpd.Server() as server:
        url = server.serve("/file", data, httpd.Route(drop_after=3_000_000))
        ...
        assert server.sent("/file") == len(data)
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PIECE = 64 << 10  # bytes in one send
BLOCK = bytes(range(251)) * 4177  # about 1 MiB; 251 is prime, so that no power of two repeats it


class Body(Protocol):
    """What a route can serve: bytes, or a ``Pattern``."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice) -> bytes: ...


@dataclass(frozen=True)
class Pattern:
    """A body of any size that takes no memory."""

    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self.size)
        shift = start % len(BLOCK)
        count = max(0, stop - start)
        return (BLOCK[shift:] + BLOCK * (count // len(BLOCK) + 1))[:count]


@dataclass
class Route:
    """How one path is served. Counters in it go down as they are used up."""

    body: Body = b""
    first: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # answers given before the real one, one request each
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True  # False: Range is ignored
    content_range: str | None = None  # sent instead of the true one
    length: int | None = None  # announced instead of the true one
    framing: str = "length"  # or "chunked", or "close": the end of the connection is the end of the body
    drop_after: int | None = None  # bytes of body after which each connection is cut
    drops: int = 1 << 30  # connections to cut
    stall_after: int | None = None  # bytes after which nothing more comes
    endless: bool = False  # the body starts again at its end, for ever
    rate: float | None = None  # bytes per second
    authorization: str | None = None  # the Authorization that is wanted
    challenge: str = 'Bearer realm="test"'
    answer: Callable[[Request], tuple[int, dict[str, str], bytes]] | None = None  # decides all by itself
    unread: bool = False  # what is sent is not read before the answer
    hang_up: bool = False  # the connection is closed after the answer, without a word


@dataclass
class Request:
    """One request as it came; ``sent`` counts the bytes of body that went out."""

    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0
    body: bytes = b""


class Server:
    """Serves routes on an ephemeral port of 127.0.0.1 and remembers every request."""

    def __init__(
        self,
        tls: tuple[Path, Path] | None = None,
        *,
        versions: tuple[ssl.TLSVersion, ssl.TLSVersion] | None = None,
        client_ca: Path | None = None,
    ) -> None:
        self.routes: dict[str, Route] = {}
        self.requests: list[Request] = []
        self.connections = 0
        self.expectations = True  # False: `Expect: 100-continue` is answered by 417
        self.closing = threading.Event()
        self._http = _http(self)
        self._scheme = "http"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            if client_ca:
                context.load_verify_locations(client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
            if versions:
                context.set_ciphers("ALL:@SECLEVEL=0")
                context.minimum_version, context.maximum_version = versions
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
            self._scheme = "https"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def port(self) -> int:
        return self._http.server_address[1]

    @property
    def origin(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def serve(self, path: str, body: Body = b"", route: Route | None = None, **faults: Any) -> str:
        """Serve ``body`` at ``path`` and return the URL; ``faults`` are fields of ``Route``."""
        self.routes[path] = dataclasses.replace(route or Route(), body=body, **faults)
        return f"{self.origin}{path}"

    def seen(self, path: str) -> list[Request]:
        """Return the requests for ``path``, whatever their query."""
        return [request for request in self.requests if urlsplit(request.path).path == path]

    def sent(self, path: str) -> int:
        """Return the bytes of body sent for ``path`` in all requests."""
        return sum(request.sent for request in self.seen(path))


def _http(server: Server) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            server.connections += 1

        def do_GET(self) -> None:
            _answer(server, self)

        def handle_expect_100(self) -> bool:
            if not server.expectations:
                _short(self, 417, {}, b"no expectations here")
                return False
            return _waits(server, self) or super().handle_expect_100()

        do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names the base class calls

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            """Clients that go away are what is tested."""

    return Quiet(("127.0.0.1", 0), Handler)


def _answer(server: Server, handler: BaseHTTPRequestHandler) -> None:
    request = Request(handler.command, handler.path, {key.lower(): value for key, value in handler.headers.items()})
    server.requests.append(request)
    route = server.routes.get(urlsplit(handler.path).path)
    if not (route and route.unread):
        request.body = handler.rfile.read(int(request.headers.get("content-length", 0)))
    if route is None:
        _short(handler, 404, {}, b"no such route")
    elif route.answer:
        _short(handler, *route.answer(request))
    elif route.authorization is not None and request.headers.get("authorization") != route.authorization:
        _short(handler, 401, {"WWW-Authenticate": route.challenge}, b"who are you?")
    elif route.first:
        status, headers = route.first.pop(0)
        _short(handler, status, headers, b"not now")
    else:
        _serve(server, handler, route, request)
    if route and route.hang_up:
        handler.close_connection = True


def _waits(server: Server, handler: BaseHTTPRequestHandler) -> bool:
    """Say whether the path is one that answers without having read, so that nobody is told to go on."""
    route = server.routes.get(urlsplit(handler.path).path)
    return bool(route and route.unread)


def _short(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    handler.send_response_only(status)
    for key, value in ({"Content-Length": str(len(body)), "Date": handler.date_time_string()} | headers).items():
        handler.send_header(key, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def _serve(server: Server, handler: BaseHTTPRequestHandler, route: Route, request: Request) -> None:
    size, start = len(route.body), 0
    end = size
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    tag = request.headers.get("if-range")
    ranged = bool(asked) and route.ranges and (tag is None or tag == route.headers.get("ETag"))
    if asked and ranged:
        start, end = int(asked[1]), min(size, int(asked[2]) + 1) if asked[2] else size
        if start >= size:
            _short(handler, 416, {"Content-Range": f"bytes */{size}"}, b"")
            return
    handler.send_response(206 if ranged else 200)
    if ranged:
        handler.send_header("Content-Range", route.content_range or f"bytes {start}-{end - 1}/{size}")
    if route.framing == "chunked":
        handler.send_header("Transfer-Encoding", "chunked")
    elif route.framing == "length" and not route.endless:
        handler.send_header("Content-Length", str(end - start if route.length is None else route.length))
    else:
        handler.close_connection = True
        handler.send_header("Connection", "close")
    for key, value in route.headers.items():
        handler.send_header(key, value)
    handler.end_headers()
    if handler.command != "HEAD":
        _body(server, handler, route, request, range(start, end))


def _body(server: Server, handler: BaseHTTPRequestHandler, route: Route, request: Request, part: range) -> None:
    at, size = part.start, part.stop
    cut = route.drop_after if route.drops > 0 else None
    while at < size or route.endless:
        left = size - at % size if route.endless else size - at
        limits = [limit - request.sent for limit in (cut, route.stall_after) if limit is not None]
        count = min(PIECE, left, *limits)
        if count > 0:
            piece = route.body[at % size : at % size + count]
            handler.wfile.write(b"%x\r\n%b\r\n" % (count, piece) if route.framing == "chunked" else piece)
            request.sent += count
            at += count
        if cut is not None and request.sent >= cut and (at < size or route.endless):
            route.drops -= 1
            _cut(handler)
            return
        if route.stall_after is not None and request.sent >= route.stall_after:
            server.closing.wait()
            _cut(handler)
            return
        if route.rate:
            server.closing.wait(count / route.rate)
    if route.framing == "chunked":
        handler.wfile.write(b"0\r\n\r\n")


def _cut(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.connection.shutdown(socket.SHUT_RDWR)


class Proxy:
    """A forward and CONNECT proxy on 127.0.0.1; ``asked`` lists what it was asked for, ``headers`` with which headers."""

    def __init__(self, status: int = 200) -> None:
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.status = status
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_CONNECT(self) -> None:
                proxy.note(f"CONNECT {self.path}", self)
                self.close_connection = True
                if proxy.status != 200:
                    _short(self, proxy.status, {}, b"")
                    return
                host, port = self.path.rsplit(":", 1)
                with socket.create_connection((host, int(port)), timeout=10) as upstream:
                    self.send_response(200, "Connection established")
                    self.end_headers()
                    _pipe(self.connection, upstream)

            def do_GET(self) -> None:
                proxy.note(f"GET {self.path}", self)
                self.close_connection = True
                target = urlsplit(self.path)
                with socket.create_connection((target.hostname or "", target.port or 80), timeout=10) as upstream:
                    lines = [f"{self.command} {target.path}?{target.query} HTTP/1.1".replace("? ", " "), f"Host: {target.netloc}"]
                    hop = {"host", "connection", "proxy-connection"}
                    kept = [f"{key}: {value}" for key, value in self.headers.items() if key.lower() not in hop]
                    upstream.sendall("\r\n".join([*lines, *kept, "Connection: close", "", ""]).encode())
                    _pipe(self.connection, upstream)

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                pass

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def note(self, what: str, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(what)
        self.headers.append({key.lower(): value for key, value in handler.headers.items()})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def _pipe(one: socket.socket, other: socket.socket) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        ready, _, _ = select.select([one, other], [], [], 1)
        for source in ready:
            data = source.recv(PIECE)
            if not data:
                return
            (other if source is one else one).sendall(data)


def authority(folder: Path, *, names: tuple[str, ...] = ("127.0.0.1", "localhost")) -> tuple[Path, tuple[Path, Path]]:
    """Make a private CA and a server certificate for ``names``; return the CA's file, and certificate and key for ``Server``.

    ``client.pem`` and ``client.key`` beside them are somebody this CA knows; the key of ``locked.key`` wants the word ``word``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(public)
        made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=2))
        return made.serial_number(x509.random_serial_number())

    ca = builder(ca_name, ca_key.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.KeyUsage(*(name in {"sign", "crl", "digital"} for name in ("digital", "", "", "", "", "sign", "crl", "", "")))
    ca = ca.add_extension(usage, critical=True)
    ca = ca.add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
    alternatives = x509.SubjectAlternativeName(
        [x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names]
    )
    leaf = builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]), key.public_key())
    leaf = leaf.add_extension(alternatives, critical=False)
    leaf = leaf.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    client_key = ec.generate_private_key(ec.SECP256R1())
    client = builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")]), client_key.public_key())
    pem, form, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files = {
        "client.pem": client.sign(ca_key, hashes.SHA256()).public_bytes(pem),
        "client.key": client_key.private_bytes(pem, form, plain),
        "locked.key": client_key.private_bytes(pem, form, serialization.BestAvailableEncryption(b"word")),
        "ca.pem": ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        "server.pem": leaf.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        "server.key": key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder / "ca.pem", (folder / "server.pem", folder / "server.key")
