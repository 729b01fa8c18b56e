"""Answering over HTTP: a server in threads for a pure function, with limits on everything a client can make it wait for or keep.

Rules: a request head is bounded in bytes and in time as a whole, bodies are not read; a connection that idles or stops
reading is closed; there are so many connections and no more. Blobs go out by sendfile(2), without a copy; with TLS in
pieces. Stopping lets answers under way finish for a while. This module opens a port: nothing that verifies imports it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path

from airgap_images.layout import Layout
from airgap_images.serving.distribution import Answer, Asked, Part, damaged
from manifests.errors import IntegrityError, SiteError, UsageError

MAX_HEAD = 16 << 10  # bytes of a request's line and headers
MAX_CONNECTIONS = 256
HEAD_TIME = 30  # seconds for a whole head, waiting for its first byte included
HANDSHAKE_TIME = 10  # seconds
SEND_TIME = 60  # seconds in which a client takes nothing
FULL_TIME = 1  # seconds a new connection waits for a free place
GRACE = 10  # seconds for answers under way when the server stops
LINGER = 64 << 10  # bytes of an unwanted body that are read, so that its sender sees the answer
PIECE = 256 << 10  # bytes sent at once over TLS
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
END = b"\r\n\r\n"

Respond = Callable[[Asked], Answer]


class Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Listens on ``address``, host and port (0 takes a free one), and answers by ``respond``; blobs come from ``layout``.

    Raises SiteError if it cannot listen there, UsageError if certificate or key are of no use.
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        respond: Respond,
        layout: Layout,
        *,
        tls: tuple[Path, Path] | None,
        failed: Callable[[str], None],
    ) -> None:
        self.respond, self.layout, self.failed = respond, layout, failed
        self._context = _context(*tls) if tls else None
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        self.stopping = False
        try:
            self.address_family, _, _, _, found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
            super().__init__((str(found[0]), int(found[1])), _Handler)
        except OSError as error:
            message = f"{address[0]}:{address[1]}: cannot listen there: {error.strerror or error}"
            raise SiteError(message, hint="choose another address or port, or stop what listens there") from None

    @property
    def bound(self) -> tuple[str, int]:
        """Return the address it listens on, as a number, and the port."""
        host, port = self.socket.getsockname()[:2]
        return str(host), int(port)

    @property
    def secure(self) -> bool:
        """Say whether it speaks TLS."""
        return self._context is not None

    def run(self, stop: threading.Event) -> None:
        """Answer until ``stop`` is set; then let what is under way finish, for ``GRACE`` seconds at most."""
        accepting = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
        accepting.start()
        try:
            stop.wait()
        finally:
            self.shutdown()
            accepting.join()
            self.server_close()
            self._finish()

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a connection; its handshake comes later, in its own thread."""
        connection, address = self.socket.accept()
        if self._context:
            connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Give a connection a thread of its own, if there is a place for one more."""
        connection = _connection(request)
        if not self._slots.acquire(timeout=FULL_TIME):
            with contextlib.suppress(OSError):
                if not self.secure:
                    connection.settimeout(FULL_TIME)
                    connection.sendall(BUSY)
            self.shutdown_request(connection)
            return
        with self._changed:
            self._open.add(connection)
        super().process_request(connection, client_address)

    def process_request_thread(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Serve a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._changed:
                self._open.discard(_connection(request))
                self._changed.notify_all()
            self._slots.release()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - the base class's signature
        """Say nothing of clients that go away or speak no HTTP; anything else is a bug to be told of."""
        error = sys.exception()
        if not isinstance(error, OSError):
            self.failed(f"answering failed: {type(error).__name__}: {error}")

    def _finish(self) -> None:
        """End connections that wait for a request, and after a while all."""
        self.stopping = True
        with self._changed:
            for connection in self._open:
                _half_close(connection, socket.SHUT_RD)
            self._changed.wait_for(lambda: not self._open, GRACE)
            for connection in self._open:
                _half_close(connection, socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection: requests one after another."""

    server: Listener
    connection: socket.socket
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        self.connection = self.request
        self.connection.settimeout(HANDSHAKE_TIME)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        if isinstance(self.connection, ssl.SSLSocket):
            self.connection.do_handshake()
        self._rest = b""
        super().setup()

    def version_string(self) -> str:
        return "airgap-audit"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's signature
        """Log no requests."""

    def handle_expect_100(self) -> bool:
        return True  # the answer comes at once, whatever the body

    def handle_one_request(self) -> None:
        self.close_connection = True
        head = self._head()
        self.connection.settimeout(SEND_TIME)
        if head is None:
            return
        line, _, rest = head.partition(b"\r\n")
        self.raw_requestline, self.rfile = line, BytesIO(rest)
        if not self.parse_request() or not self.request_version.startswith("HTTP/1"):
            return
        unwanted = "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"
        self.close_connection |= unwanted or self.server.stopping
        headers = tuple((key.lower(), value) for key, value in self.headers.items())
        try:
            self._reply(self.server.respond(Asked(self.command, self.path, headers)))
        except IntegrityError as error:  # before anything was sent
            self.server.failed(error.message)
            self._reply(damaged(error))
        if unwanted:
            self._linger()

    def _head(self) -> bytes | None:
        """Return the next request's line and headers, None if none comes in time."""
        until = time.monotonic() + HEAD_TIME
        while END not in self._rest:
            # Clients try TLS first, also here: told at once that this is plain HTTP, they go on without waiting.
            status = 431 if len(self._rest) > MAX_HEAD else 400 if self._rest and not self._rest[:1].isalpha() else 0
            if status:
                self.requestline, self.request_version, self.command = "", "HTTP/1.1", "GET"
                self.send_error(status)
                _half_close(self.connection, socket.SHUT_WR)  # a client that speaks no HTTP waits for the end
                self._linger()
                return None
            self.connection.settimeout(max(0.001, until - time.monotonic()))
            piece = self.connection.recv(MAX_HEAD)
            if not piece:
                return None
            self._rest += piece
        head, _, self._rest = self._rest.partition(END)
        return head + END

    def _reply(self, answer: Answer) -> None:
        length = len(answer.body)
        with self._opened(answer.body) as file:
            self.send_response_only(answer.status)
            for key, value in answer.headers:
                self.send_header(key, value)
            if answer.status != 304:  # noqa: PLR2004
                self.send_header("Content-Length", str(length))
            self.send_header("Date", self.date_time_string())
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command == "HEAD" or not length:
                return
            if file is None:
                self.connection.sendall(bytes(answer.body) if isinstance(answer.body, bytes) else b"")
            elif isinstance(answer.body, Part):
                self._send(file, answer.body)

    @contextlib.contextmanager
    def _opened(self, body: bytes | Part) -> Iterator[int | None]:
        """Open a blob before anything is said of it, so that one that is gone is an error and no half answer."""
        if isinstance(body, bytes) or self.command == "HEAD":
            yield None
            return
        fd = self.server.layout.open(body.digest, body.size)
        try:
            yield fd
        finally:
            os.close(fd)

    def _send(self, fd: int, part: Part) -> None:
        if not isinstance(self.connection, ssl.SSLSocket):
            with os.fdopen(os.dup(fd), "rb", buffering=0) as file:
                sent = self.connection.sendfile(file, part.start, len(part))
            self.close_connection |= sent != len(part)
            return
        at = part.start
        while at < part.stop and (piece := os.pread(fd, min(PIECE, part.stop - at), at)):
            self.connection.sendall(piece)
            at += len(piece)
        self.close_connection |= at != part.stop

    def _linger(self) -> None:
        """Read some of what nobody wanted, a body or a head too long: closing on unread bytes would throw the answer away."""
        self.connection.settimeout(FULL_TIME)
        left = LINGER - len(self._rest)
        while left > 0 and (piece := self.connection.recv(min(left, PIECE))):
            left -= len(piece)


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        message = f"{certificate} and {key} are no certificate with its key: {getattr(error, 'strerror', None) or error}"
        raise UsageError(message, hint="name PEM files; the key must not have a passphrase") from None
    return context


def _connection(request: socket.socket | tuple[bytes, socket.socket]) -> socket.socket:
    return request if isinstance(request, socket.socket) else request[1]


def _half_close(connection: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):
        # The plain socket's: that of a TLS socket forgets its keys, and what it still has to send would go out in clear.
        socket.socket.shutdown(connection, how)
