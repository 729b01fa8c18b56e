"""Large bodies over plain TCP, received past libcurl: never a byte lost or doubled, and only where that is certain."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, field

import pytest
from parts import httpd

from airgap_images.remote import tap
from airgap_images.remote.http import Client, Response, Retry, TransferError

MB = 1_000_000
BODY = httpd.Pattern(20 * MB)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with httpd.Server() as made:
        yield made


@pytest.fixture
def client() -> Client:
    return Client(retry=Retry(attempts=1), connect_timeout=5, stall_timeout=1)


@dataclass
class Place:
    """Takes a body of ``size`` bytes both ways and counts what came past libcurl."""

    size: int
    start: int = 0
    data: bytearray = field(default_factory=bytearray)
    past: int = 0
    refuses: bool = False
    fails: BaseException | None = None
    block: bytearray = field(default_factory=lambda: bytearray(300_001))

    def sink(self, chunk: bytes) -> None:
        self.data += chunk

    def expects(self, count: int) -> bool:
        return not self.refuses and count == self.size - self.start - len(self.data)

    def room(self) -> memoryview:
        return memoryview(self.block)

    def took(self, count: int) -> None:
        if self.fails:
            raise self.fails
        self.data += self.block[:count]
        self.past += count

    def download(self, client: Client, url: str, **more: object) -> Response:
        return client.download(url, self.sink, start=self.start, receiver=self, **more)


def test_a_large_body_comes_past_libcurl(server, client) -> None:
    place = Place(len(BODY))
    response = place.download(client, server.serve("/a", BODY))
    assert (response.status, response.body) == (200, b"")
    assert bytes(place.data) == BODY[:]
    assert place.past > 0.9 * len(BODY)
    assert server.sent("/a") == len(BODY)


def test_the_rest_of_a_file_comes_past_libcurl(server, client) -> None:
    place = Place(len(BODY), start=3 * MB + 17)
    assert place.download(client, server.serve("/a", BODY)).status == 206
    assert bytes(place.data) == BODY[3 * MB + 17 :]
    assert place.past > 0.9 * len(place.data)


def test_a_kept_connection_is_not_taken_and_the_next_request_works(server, client) -> None:
    client.get(server.serve("/small", b"small"), limit=10)
    place = Place(len(BODY))
    place.download(client, server.serve("/a", BODY))
    assert bytes(place.data) == BODY[:]
    assert place.past
    assert server.connections == 2
    for _ in range(3):
        assert client.get(f"{server.origin}/small", limit=10).body == b"small"
    assert server.connections == 2


def test_a_redirect_comes_before_it(server, client) -> None:
    server.serve("/from", first=[(302, {"Location": "/a"})])
    place = Place(len(BODY))
    assert place.download(client, f"{server.serve('/a', BODY).rsplit('/', 1)[0]}/from").url == f"{server.origin}/a"
    assert bytes(place.data) == BODY[:]
    assert place.past


def test_a_name_with_several_addresses_is_no_obstacle(server, client) -> None:
    place = Place(len(BODY))
    place.download(client, server.serve("/a", BODY).replace("127.0.0.1", "localhost"))
    assert bytes(place.data) == BODY[:]


def test_a_forward_proxy_is_no_obstacle(server, client, monkeypatch) -> None:
    with httpd.Proxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        place = Place(len(BODY))
        place.download(client, server.serve("/a", BODY))
        assert len(proxy.asked) == 1
    assert bytes(place.data) == BODY[:]


@pytest.mark.parametrize("faults", [{"framing": "chunked"}, {"framing": "close"}])
def test_a_body_of_unknown_length_goes_through_libcurl(server, client, faults) -> None:
    place = Place(len(BODY))
    place.download(client, server.serve("/a", BODY, **faults))
    assert bytes(place.data) == BODY[:]
    assert not place.past


def test_over_tls_it_goes_through_libcurl(tmp_path, client) -> None:
    ca, pair = httpd.authority(tmp_path)
    with httpd.Server(tls=pair) as server:
        place = Place(len(BODY))
        place.download(Client(ca_file=ca), server.serve("/a", BODY))
    assert bytes(place.data) == BODY[:]
    assert not place.past


def test_what_the_receiver_does_not_want_goes_through_libcurl(server, client) -> None:
    place = Place(len(BODY), refuses=True)
    place.download(client, server.serve("/a", BODY))
    assert bytes(place.data) == BODY[:]
    assert not place.past


@pytest.mark.parametrize("off", [-1, 1])
def test_unless_the_kernel_confirms_it_nothing_is_taken(server, client, monkeypatch, off) -> None:
    read, looks = tap._read, []
    monkeypatch.setattr(tap, "_read", lambda connection: looks.append(1) or read(connection) + off)
    place = Place(len(BODY))
    place.download(client, server.serve("/a", BODY))
    assert bytes(place.data) == BODY[:]
    assert not place.past
    assert len(looks) == tap.MAX_LOOKS


def test_bytes_that_wait_or_were_read_ahead_are_counted_exactly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = socket.create_connection(listening.getsockname())
        other, _ = listening.accept()
    with one, other:
        assert tap._read(other) == 0
        one.sendall(b"x" * 1000)
        assert other.recv(1000, socket.MSG_PEEK | socket.MSG_WAITALL)
        assert tap._read(other) == 0
        other.recv(400)
        assert tap._read(other) == 400
        one.close()
        other.recv(600)
        assert tap._read(other) >= 1000  # the end of the connection may count as a byte, never as less than none


def test_a_kernel_that_does_not_tell_is_understood(monkeypatch) -> None:
    class Old:
        def fileno(self) -> int:
            return one.fileno()

        def getsockopt(self, *_: int) -> bytes:
            return bytes(104)

    one, other = socket.socketpair()
    with one, other:
        assert tap._read(Old()) == -1


def test_a_connection_that_ends_early_is_said_and_may_be_tried_again(server, client) -> None:
    place = Place(len(BODY))
    with pytest.raises(TransferError, match="the connection was closed, 10000000 bytes missing") as caught:
        place.download(client, server.serve("/a", BODY, drop_after=10 * MB))
    assert caught.value.retryable
    assert bytes(place.data) == BODY[: 10 * MB]
    assert place.past


def test_a_stall_ends_after_its_timeout(server, client) -> None:
    place, begun = Place(len(BODY)), time.monotonic()
    with pytest.raises(TransferError, match=r"less than 64 bytes/s for 1 seconds") as caught:
        place.download(client, server.serve("/a", BODY, stall_after=5 * MB))
    assert caught.value.retryable
    assert 1 <= time.monotonic() - begun < 4
    assert bytes(place.data) == BODY[: 5 * MB]


def test_a_slow_server_is_no_stall(server, client) -> None:
    size = 3 * MB
    place, begun = Place(size), time.monotonic()
    place.download(client, server.serve("/a", httpd.Pattern(size), rate=MB))
    assert time.monotonic() - begun > 2  # longer than the timeout
    assert bytes(place.data) == BODY[:size]
    assert place.past


def test_it_can_be_cancelled_while_nothing_arrives(server) -> None:
    ended = threading.Event()
    threading.Timer(0.5, ended.set).start()
    place, begun = Place(len(BODY)), time.monotonic()
    with pytest.raises(TransferError, match="cancelled"):
        place.download(Client(stall_timeout=30), server.serve("/a", BODY, stall_after=5 * MB), cancelled=ended.is_set)
    assert time.monotonic() - begun < 3
    assert place.past


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_the_receiver_raises_comes_out(server, client, error) -> None:
    place = Place(len(BODY), fails=error)
    with pytest.raises(type(error)):
        place.download(client, server.serve("/a", BODY))
    assert client.get(server.serve("/small", b"small"), limit=10).body == b"small"


def test_an_address_family_that_is_missing_is_passed_over(monkeypatch) -> None:
    def missing(*_: object) -> socket.socket:
        raise OSError(97, "Address family not supported by protocol")

    one = tap.Tap("name", 1, lambda: None)
    monkeypatch.setattr(tap.socket, "socket", missing)
    assert one._open(0, (socket.AF_INET6, socket.SOCK_STREAM, 6, ())) == tap.pycurl.SOCKET_BAD
    assert not one.in_step(0)
    with pytest.raises(TransferError, match="closed"):
        one.receive(1, Place(1))
