"""Sending bodies, and each host's own certificates: against a real server, real TLS, and a real registry that knows its clients."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field

import pytest
from parts import httpd
from parts.expect import refused

from airgap_images.remote.http import Client, HostToken, HttpError, Retry, TransferError, Upload
from manifests.errors import UsageError

QUICK = Retry(attempts=3, first=0.01, ceiling=0.05)
LARGE = 48 << 20  # bytes: more than all buffers together


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with httpd.Server() as made:
        yield made


@pytest.fixture
def other():
    with httpd.Server() as made:
        yield made


@pytest.fixture
def client() -> Client:
    return Client(retry=QUICK, connect_timeout=5, stall_timeout=2)


@dataclass
class Source:
    """A body that counts how often it is opened, read and closed; ``lacks`` bytes at its end are not there."""

    body: httpd.Pattern | bytes
    lacks: int = 0
    opened: int = 0
    closed: int = 0
    largest: int = 0
    fails: list[Exception] = field(default_factory=list)

    @property
    def upload(self) -> Upload:
        return Upload(len(self.body), self.open)

    def open(self) -> Reader:
        self.opened += 1
        return Reader(self)


class Reader:
    def __init__(self, source: Source) -> None:
        self.source, self.at = source, 0

    def read(self, size: int) -> bytes:
        if self.source.fails:
            raise self.source.fails.pop(0)
        self.source.largest = max(self.source.largest, size)
        piece = self.source.body[self.at : min(self.at + size, len(self.source.body) - self.source.lacks)]
        self.at += len(piece)
        return piece

    def close(self) -> None:
        self.source.closed += 1


# --- methods and bodies


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("body", [b"", b"hello"])
def test_method_and_body_arrive_and_the_answer_comes_back(server, client, method, body) -> None:
    url = server.serve("/a", b"done", headers={"Location": "/made"})
    answer = client.send(method, url, body=body, limit=4, headers=("Content-Type: text/plain",))
    assert (answer.status, answer.body, answer.header("location")) == (200, b"done", "/made")
    (sent,) = server.requests
    assert (sent.method, sent.body) == (method, body)
    assert sent.headers["content-length"] == str(len(body))
    assert sent.headers["content-type"] == "text/plain"
    assert "expect" not in sent.headers
    assert "transfer-encoding" not in sent.headers


def test_an_answer_above_the_limit_is_refused(server, client) -> None:
    with refused(TransferError, "larger than 3 bytes"):
        client.send("POST", server.serve("/a", b"done"), limit=3)


def test_a_large_body_is_streamed_and_closed(server, client) -> None:
    source = Source(httpd.Pattern(LARGE))
    seen: list[str] = []

    def taken(request: httpd.Request):
        seen.append(hashlib.sha256(request.body).hexdigest())
        request.body = b""
        return 201, {}, b""

    server.routes["/a"] = httpd.Route(answer=taken)
    client.send("PUT", f"{server.origin}/a", body=source.upload, limit=0)
    assert seen == [hashlib.sha256(source.body[:]).hexdigest()]
    assert (source.opened, source.closed) == (1, 1)
    assert source.largest <= 2 << 20


def test_a_body_that_ends_early_is_an_error_and_no_request_hangs(server, client) -> None:
    source = Source(b"x" * 100, lacks=1)
    with refused(TransferError, "/a", "ended 1 bytes before its size"):
        client.send("PUT", server.serve("/a"), body=source.upload, limit=0)
    assert source.opened == source.closed == 1


def test_no_more_than_the_size_is_sent(server, client) -> None:
    client.send("PUT", server.serve("/a"), body=Upload(3, lambda: io.BytesIO(b"abcdef")), limit=0)
    assert server.requests[0].body == b"abc"


def test_what_reading_raises_comes_out(server, client) -> None:
    source = Source(b"x" * 100, fails=[ZeroDivisionError("in the file")])
    with pytest.raises(ZeroDivisionError):
        client.send("PUT", server.serve("/a"), body=source.upload, limit=0)
    assert source.closed == 1
    assert client.get(server.serve("/b", b"y"), limit=1).body == b"y", "the handle is still good"


# --- again and elsewhere


def test_each_attempt_sends_the_whole_body(server, client) -> None:
    source = Source(b"hello")
    url = server.serve("/a", b"", first=[(503, {}), (429, {"Retry-After": "0"})])
    client.send("PUT", url, body=source.upload, limit=0)
    assert [request.body for request in server.requests] == [b"hello"] * 3
    assert source.opened == source.closed == 3


def test_a_refusal_is_not_tried_again(server, client) -> None:
    with pytest.raises(HttpError, match="403"):
        client.send("POST", server.serve("/a", first=[(403, {})]), body=b"x", limit=0)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [307, 308])
def test_redirects_that_keep_the_request_are_followed(server, other, client, status) -> None:
    end = other.serve("/end", b"ok")
    url = server.serve("/a", first=[(status, {"Location": end})])
    source = Source(b"hello")
    token = HostToken(server.origin, "secret")
    assert client.send("PUT", url, body=source.upload, limit=2, credentials=token).url == end
    assert [(request.method, request.body) for request in (*server.requests, *other.requests)] == [("PUT", b"hello")] * 2
    assert server.requests[0].headers["authorization"] == "Bearer secret"
    assert "authorization" not in other.requests[0].headers
    assert source.opened == source.closed == 2


@pytest.mark.parametrize("status", [301, 302, 303])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_redirects_that_would_make_another_request_are_refused(server, client, status, method) -> None:
    url = server.serve("/a", first=[(status, {"Location": "/b"})])
    server.serve("/b")
    with refused(TransferError, f"a {method} with redirect {status}", "not followed"):
        client.send(method, url, body=b"x", limit=0)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 307, 308])
def test_a_body_that_is_for_one_server_only_is_not_sent_on(server, other, client, status) -> None:
    url = server.serve("/a", first=[(status, {"Location": other.serve("/b")})])
    with refused(TransferError, f"redirect {status}"):
        client.send("POST", url, body=b"secret", limit=0, redirects=False)
    assert not other.requests


def test_a_loop_of_redirects_ends(server, client) -> None:
    url = server.serve("/a", first=[(307, {"Location": "/a"})] * 50)
    with refused(TransferError, "more than 10 redirects"):
        client.send("POST", url, body=b"x", limit=0)
    assert len(server.requests) == 11


def test_a_challenge_is_answered_and_the_body_sent_again(server, client) -> None:
    source = Source(b"hello")

    class Learns:
        line = ()

        def headers(self, _url: str) -> tuple[str, ...]:
            return self.line

        def answer(self, _url: str, _challenge: str) -> bool:
            self.line = ("Authorization: Bearer t",)
            return True

    client.send("PUT", server.serve("/a", authorization="Bearer t"), body=source.upload, limit=0, credentials=Learns())
    assert [request.body for request in server.requests] == [b"hello"] * 2


@pytest.mark.parametrize("large", [False, True])
def test_a_connection_that_was_closed_meanwhile_is_no_failure(server, large) -> None:
    """libcurl finds out while it sends, begins anew, and needs the body from its beginning."""
    once = Client(retry=Retry(attempts=1), stall_timeout=2)
    source = Source(httpd.Pattern(4 << 20) if large else b"hello")
    once.send("POST", server.serve("/first", hang_up=True), limit=0)
    once.send("PUT", server.serve("/a"), body=source.upload, limit=0)
    assert server.seen("/a")[-1].body == source.body[:]


@pytest.mark.parametrize("status", [401, 403, 413])
def test_a_server_that_answers_before_it_has_read_is_heard(server, status) -> None:
    """It says no at once and closes: the reason must arrive, not a broken pipe."""
    source = Source(httpd.Pattern(LARGE))
    server.routes["/a"] = httpd.Route(answer=lambda _: (status, {"Connection": "close"}, b"no"), unread=True)
    with pytest.raises(HttpError, match=str(status)):
        Client(retry=Retry(attempts=1), stall_timeout=5).send("PUT", f"{server.origin}/a", body=source.upload, limit=0)
    assert source.closed == source.opened


def test_a_server_that_knows_no_expectations_gets_the_body_without(server, client) -> None:
    source = Source(httpd.Pattern(3 << 20))
    server.expectations = False
    answer = client.send("PUT", server.serve("/a", b"ok"), body=source.upload, limit=2)
    assert answer.body == b"ok"
    assert server.seen("/a")[-1].body == source.body[:]


def test_a_header_with_a_line_break_is_refused(server, client) -> None:
    with pytest.raises(UsageError, match="control character"):
        client.send("POST", server.serve("/a"), limit=0, headers=("X: a\r\nY: b",))
    assert not server.requests
