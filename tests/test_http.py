"""The HTTP client against a real server, a real proxy and real TLS: limits, redirects, credentials, retries."""

from __future__ import annotations

import base64
import os
import signal
import ssl
import threading
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from parts import httpd

from airgap_images.remote.http import Address, Client, HostToken, HttpError, NoCredentials, Response, Retry, TransferError, redacted
from manifests.errors import InvalidFileError, UsageError

QUICK = Retry(attempts=3, first=0.01, ceiling=0.05)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
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
    return Client(retry=QUICK, connect_timeout=5, stall_timeout=1)


@dataclass
class Offered:
    """Credentials that offer a header to whatever URL they are asked about, and learn one from a challenge."""

    lines: tuple[str, ...] = ()
    learns: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    challenges: list[tuple[str, str]] = field(default_factory=list)

    def headers(self, url: str) -> tuple[str, ...]:
        self.asked.append(url)
        return self.lines

    def answer(self, url: str, challenge: str) -> bool:
        self.challenges.append((url, challenge))
        if not self.learns:
            return False
        self.lines = (f"Authorization: {self.learns.pop(0)}",)
        return True


# --- answers and limits


def test_get_returns_status_headers_and_body(server, client) -> None:
    url = server.serve("/a", b"hello", headers={"X-One": "1", "x-one": "2"})
    answer = client.get(url, limit=5, headers=("X-Asked: yes",))
    assert (answer.status, answer.url, answer.body) == (200, url, b"hello")
    assert answer.header("X-ONE") == "1"
    assert answer.header("absent") is None
    sent = server.requests[0].headers
    assert sent["x-asked"] == "yes"
    assert sent["accept-encoding"] == "identity"
    assert sent["user-agent"].startswith("airgap-bundler/")


@pytest.mark.parametrize("faults", [{}, {"framing": "chunked"}, {"framing": "close"}, {"endless": True}])
def test_a_body_above_the_limit_is_refused_without_being_read(server, client, faults) -> None:
    url = server.serve("/big", httpd.Pattern(20_000_000), **faults)
    with pytest.raises(TransferError, match="larger than 1000 bytes"):
        client.get(url, limit=1000)
    assert len(server.requests) == 1
    assert server.sent("/big") < 15_000_000


def test_head_has_no_body_and_no_limit_on_what_is_announced(server, client) -> None:
    answer = client.head(server.serve("/big", httpd.Pattern(1 << 32)))
    assert (answer.body, answer.number("content-length")) == (b"", 1 << 32)
    assert server.requests[0].method == "HEAD"


@pytest.mark.parametrize("lines", [{f"X-{at}": "v" for at in range(300)}, {"X-Long": "v" * 60_000, "X-Longer": "v" * 90_000}])
def test_an_endless_header_is_refused(server, client, lines) -> None:
    with pytest.raises(TransferError, match="header is too long"):
        client.get(server.serve("/a", b"x", headers=lines), limit=10)


def test_compressed_answers_are_refused_where_they_would_be_read(server, client) -> None:
    url = server.serve("/a", b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    with pytest.raises(TransferError, match="compressed"):
        client.get(url, limit=10)
    got: list[bytes] = []
    client.download(url, got.append)
    assert b"".join(got) == b"\x1f\x8b"


@pytest.mark.parametrize(
    "url",
    ["ftp://127.0.0.1/a", "file:///etc/passwd", "gopher://h/", "http://", "http://a b/", "http://h:0/", "http://h:99999/", "//h/a", "http://h\r\nx/"],
)
def test_only_http_addresses_are_accepted(client, url) -> None:
    with pytest.raises(InvalidFileError, match="not an http"):
        client.get(url, limit=1)


def test_one_thread_reuses_its_connection_and_threads_do_not_share(server, client) -> None:
    url = server.serve("/a", b"x")
    for _ in range(5):
        client.get(url, limit=1)
    assert server.connections == 1
    threads = [threading.Thread(target=client.get, args=(url,), kwargs={"limit": 1}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 8
    assert server.connections == 4


def test_libcurl_is_told_the_very_host_that_was_judged() -> None:
    assert Address.parse("http://a.example\\@B.example:80/x y?q=\u00e9#f").url == "http://b.example/x%20y?q=%C3%A9"
    assert Address.parse("HTTPS://[::1]:8443").url == "https://[::1]:8443/"
    assert Address.parse("http://b\u00fccher.example/").origin == "http://xn--bcher-kva.example"
    assert Address.parse("http://h/a%2Fb?c=%26").target == "/a%2Fb?c=%26"


# --- downloads


def test_download_streams_and_tells_the_answer_first(server, client) -> None:
    body = httpd.Pattern(3_000_000)
    url = server.serve("/a", body)
    told: list[object] = []
    answer = client.download(url, lambda chunk: told.append(len(chunk)), on_answer=told.append)
    assert isinstance(told[0], Response)
    assert (told[0].status, sum(told[1:])) == (200, 3_000_000)
    assert answer.body == b""


def test_download_from_a_byte_asks_for_a_range(server, client) -> None:
    url = server.serve("/a", b"0123456789")
    got: list[bytes] = []
    answer = client.download(url, got.append, start=4)
    assert (answer.status, b"".join(got), answer.header("content-range")) == (206, b"456789", "bytes 4-9/10")
    assert server.requests[0].headers["range"] == "bytes=4-"


def test_download_of_an_empty_body_still_tells_the_answer(server, client) -> None:
    told: list[Response] = []
    client.download(server.serve("/a", b""), lambda _: None, on_answer=told.append)
    assert [answer.status for answer in told] == [200]


def test_error_bodies_never_reach_the_sink_and_are_kept_short(server, client) -> None:
    server.routes["/a"] = httpd.Route(answer=lambda _: (404, {}, b"e" * 1_000_000))
    got: list[bytes] = []
    with pytest.raises(HttpError, match="404 Not Found") as caught:
        client.download(f"{server.origin}/a", got.append)
    assert got == []
    assert caught.value.body == b"e" * (64 << 10)
    assert not caught.value.retryable


def test_what_a_sink_raises_comes_out(server, client) -> None:
    class Full(Exception):  # noqa: N818
        pass

    def sink(_: bytes) -> None:
        raise Full

    url = server.serve("/a", httpd.Pattern(1_000_000))
    with pytest.raises(Full):
        client.download(url, sink)
    assert client.get(server.serve("/b", b"x"), limit=1).body == b"x"  # the handle is fit for use


def test_a_sink_that_does_not_take_all_ends_the_transfer(server, client) -> None:
    with pytest.raises(TransferError, match="took 1 of 5 bytes"):
        client.download(server.serve("/a", b"12345"), lambda _: 1)


def test_a_download_is_one_attempt(server, client) -> None:
    url = server.serve("/a", httpd.Pattern(1_000_000), drop_after=300_000)
    with pytest.raises(TransferError) as caught:
        client.download(url, lambda _: None)
    assert caught.value.retryable
    assert len(server.requests) == 1


def test_a_download_can_be_cancelled_while_nothing_arrives(server) -> None:
    url = server.serve("/a", httpd.Pattern(1_000_000), stall_after=1000)
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    begun = time.monotonic()
    with pytest.raises(TransferError, match="cancelled"):
        Client(stall_timeout=60).download(url, lambda _: None, cancelled=stop.is_set)
    assert time.monotonic() - begun < 5


def test_ctrl_c_ends_a_stalled_request(server) -> None:
    url = server.serve("/a", httpd.Pattern(1_000_000), stall_after=0)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Client(stall_timeout=60).get(url, limit=10)
    assert time.monotonic() - begun < 5


# --- retries


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(server, status) -> None:
    pauses: list[float] = []
    url = server.serve("/a", b"x", first=[(status, {}), (status, {})])
    assert Client(retry=QUICK, sleep=pauses.append).get(url, limit=1).body == b"x"
    assert len(pauses) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
def test_what_will_not_pass_is_not_tried_again(server, client, status) -> None:
    url = server.serve("/a", b"x", first=[(status, {})])
    with pytest.raises(HttpError, match=str(status)) as caught:
        client.get(url, limit=1)
    assert caught.value.status == status
    assert caught.value.hint
    assert len(server.requests) == 1


def test_retries_end(server) -> None:
    url = server.serve("/a", b"x", first=[(503, {})] * 9)
    pauses: list[float] = []
    with pytest.raises(HttpError, match="503"):
        Client(retry=Retry(attempts=4, first=1, ceiling=3), sleep=pauses.append).get(url, limit=1)
    assert len(server.requests) == 4
    assert all(pause <= most for pause, most in zip(pauses, (1, 2, 3), strict=True))


def test_refused_and_dropped_connections_are_tried_again(server) -> None:
    url = server.serve("/a", b"whole", drop_after=2, drops=2)
    assert Client(retry=QUICK).get(url, limit=5).body == b"whole"
    pauses: list[float] = []
    with pytest.raises(TransferError, match=r"127\.0\.0\.1"):
        Client(retry=QUICK, sleep=pauses.append).get("http://127.0.0.1:1/", limit=5)
    assert len(pauses) == 2


def test_a_stall_ends_after_its_timeout(server) -> None:
    url = server.serve("/a", b"whole", stall_after=2)
    begun = time.monotonic()
    with pytest.raises(TransferError) as caught:
        Client(retry=Retry(attempts=1), stall_timeout=1).get(url, limit=5)
    assert caught.value.retryable
    assert time.monotonic() - begun < 5


def test_retry_after_is_obeyed_up_to_a_cap(server) -> None:
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    first = [
        (429, {"Retry-After": "7"}),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:09 GMT", "Date": date}),
        (503, {"Retry-After": "9999999"}),
        (503, {"Retry-After": "rubbish"}),
        (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    ]
    pauses: list[float] = []
    Client(retry=Retry(first=0.5, ceiling=0.5, patience=60), sleep=pauses.append).get(server.serve("/a", b"x", first=first), limit=1)
    for pause, least in zip(pauses, (7, 9, 60, 0, 0), strict=True):
        assert least <= pause <= least + 0.5


def test_jitter_is_full_by_default_and_can_be_none() -> None:
    error = TransferError("x", retryable=True)
    pauses = {Retry(first=8).pause(1, error) for _ in range(40)}
    assert len(pauses) > 30
    assert min(pauses) < 3
    assert max(pauses) > 5
    assert [Retry(first=1, ceiling=5, jitter=0).pause(n, error) for n in (1, 2, 3, 4)] == [1, 2, 4, 5]
    assert Retry(attempts=4).pause(4, error) is None
    assert Retry().pause(1, TransferError("x")) is None


# --- redirects


def test_redirects_are_followed_relative_and_absolute(server, other, client) -> None:
    end = other.serve("/end", b"x")
    server.serve("/two", first=[(307, {"Location": end})])
    answer = client.get(server.serve("/one", first=[(302, {"Location": "two"})]), limit=1)
    assert (answer.body, answer.url) == (b"x", end)


def test_redirect_loops_end(server, client) -> None:
    url = server.serve("/a", first=[(302, {"Location": "/a"})] * 50)
    with pytest.raises(TransferError, match="more than 10 redirects"):
        client.get(url, limit=1)
    assert len(server.requests) == 11


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/", "http://[", "http://h:x/", "javascript:1"])
def test_redirects_out_of_http_are_refused(server, client, location) -> None:
    with pytest.raises(TransferError, match="no http address"):
        client.get(server.serve("/a", first=[(302, {"Location": location})]), limit=1)


def test_redirects_with_spaces_and_other_letters_work(server, client) -> None:
    server.serve("/a%20b%C3%A9", b"x")
    assert client.get(server.serve("/a", first=[(302, {"Location": "/a b\u00e9".encode().decode("latin-1")})]), limit=1).body == b"x"


def test_a_redirect_without_a_location_is_an_error(server, client) -> None:
    with pytest.raises(HttpError, match="302"):
        client.get(server.serve("/a", first=[(302, {})]), limit=1)


# --- credentials


def test_credentials_are_asked_again_for_every_hop(server, other, client) -> None:
    end = other.serve("/end", b"x")
    begin = server.serve("/a", first=[(302, {"Location": end})])
    offered = Offered()
    client.get(begin, limit=1, credentials=offered)
    assert offered.asked == [begin, end]


def test_a_token_stays_with_its_origin(server, other, client) -> None:
    end = other.serve("/end", b"x")
    begin = server.serve("/a", first=[(302, {"Location": end})])
    lines = ("Authorization: Basic c2VjcmV0", "Cookie: s=1", "X-Kept: 1")
    client.get(begin, limit=1, credentials=HostToken(server.origin, "secret"), headers=lines)
    assert server.requests[0].headers["authorization"]
    assert server.requests[0].headers["cookie"] == "s=1"
    assert not {"authorization", "cookie"} & set(other.requests[0].headers)
    assert other.requests[0].headers["x-kept"] == "1"


def test_host_tokens_know_scheme_host_and_port() -> None:
    token = HostToken("https://hub.example", "t")
    assert token.headers("https://hub.example:443/x?y") == ("Authorization: Bearer t",)
    assert token.headers("https://HUB.example/") == ("Authorization: Bearer t",)
    for url in ("http://hub.example/", "https://hub.example:444/", "https://a.hub.example/", "https://hub.example.evil/", "https://hub.example@evil/"):
        assert token.headers(url) == ()
    assert "t" not in repr(token).replace("token", "").replace("Host", "").replace("https", "").replace("origin", "")
    assert (NoCredentials().headers("https://h/"), NoCredentials().answer("https://h/", "Basic")) == ((), False)


def test_a_netrc_entry_is_used_and_never_sent_on(server, other, tmp_path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    wanted = "Basic " + base64.b64encode(b"me:secret").decode()
    end = other.serve("/end", b"x")  # the same host on another port, which a netrc file cannot tell apart
    server.serve("/b", first=[(302, {"Location": end})], authorization=wanted)
    begin = server.serve("/a", first=[(302, {"Location": "/b"})], authorization=wanted)
    client = Client(netrc=netrc, retry=QUICK)
    assert client.get(begin, limit=1).body == b"x"
    assert [request.headers["authorization"] for request in server.requests] == [wanted, wanted]
    assert "authorization" not in other.requests[0].headers
    client.download(end, lambda _: None)
    assert other.requests[1].headers["authorization"] == wanted  # asked for by name it is sent
    Client(retry=QUICK).get(end, limit=1)
    assert "authorization" not in other.requests[2].headers


def test_a_netrc_default_is_not_sent_on(server, other, tmp_path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    begin = server.serve("/a", first=[(302, {"Location": other.serve("/end", b"x")})])
    Client(netrc=netrc, retry=QUICK).get(begin, limit=1)
    assert "authorization" in server.requests[0].headers
    assert "authorization" not in other.requests[0].headers


def test_a_token_goes_before_a_netrc_entry(server, tmp_path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    Client(netrc=netrc).get(server.serve("/a", b"x"), limit=1, credentials=HostToken(server.origin, "t"))
    assert server.requests[0].headers["authorization"] == "Bearer t"


def test_a_missing_netrc_is_no_error(server, tmp_path) -> None:
    assert Client(netrc=tmp_path / "absent").get(server.serve("/a", b"x"), limit=1).body == b"x"


def test_a_user_name_in_the_address_is_used_and_never_sent_on_or_shown(server, other, client) -> None:
    end = other.serve("/end", first=[(404, {})])
    server.serve("/b", first=[(302, {"Location": end.replace("//", "//you:too@")})])
    begin = server.serve("/a", first=[(302, {"Location": f"{server.origin}/b"})]).replace("//", "//me:s%40cret@")
    with pytest.raises(HttpError) as caught:
        client.get(f"{begin}?token=abc", limit=1)
    wanted = "Basic " + base64.b64encode(b"me:s@cret").decode()
    assert [request.headers["authorization"] for request in server.requests] == [wanted, wanted]
    assert "authorization" not in other.requests[0].headers
    assert not any(secret in f"{caught.value} {caught.value.hint} {caught.value.url}" for secret in ("cret", "too@", "abc"))


def test_messages_show_no_secret() -> None:
    assert redacted("https://me:secret@h/p?token=abc#f") == "https://h/p"
    assert redacted("https://me:secret@h:bad/p?token=abc") == "h:bad/p"
    assert "\x1b" not in redacted("https://h/\x1b[2J")
    assert "secret" not in repr(Address.parse("https://me:secret@h/"))


def test_challenges_are_answered_twice_at_most(server, client) -> None:
    url = server.serve("/a", b"x", authorization="Bearer 2")
    offered = Offered(learns=["Bearer 1", "Bearer 2", "Bearer 3"])
    assert client.get(url, limit=1, credentials=offered).body == b"x"
    assert offered.challenges == [(url, 'Bearer realm="test"')] * 2
    stubborn = Offered(learns=["Bearer wrong"] * 9)
    with pytest.raises(HttpError, match="401"):
        client.get(url, limit=1, credentials=stubborn)
    assert len(stubborn.challenges) == 2


def test_a_download_answers_challenges_too(server, client) -> None:
    url = server.serve("/a", b"whole", authorization="Bearer 1")
    got: list[bytes] = []
    client.download(url, got.append, credentials=Offered(learns=["Bearer 1"]))
    assert got == [b"whole"]


def test_a_token_with_a_line_break_is_refused(server, client) -> None:
    with pytest.raises(UsageError, match="control character"):
        client.get(server.serve("/a", b"x"), limit=1, credentials=HostToken(server.origin, "t\r\nX-Injected: 1"))
    assert server.requests == []


# --- TLS and proxies


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return httpd.authority(tmp_path_factory.mktemp("pki"))


def test_a_private_ca_is_trusted_only_when_named(pki) -> None:
    ca, identity = pki
    with httpd.Server(identity) as server:
        url = server.serve("/a", b"x")
        assert Client(ca_file=ca).get(url, limit=1).body == b"x"
        with pytest.raises(TransferError, match="certificate") as caught:
            Client(retry=QUICK).get(url, limit=1)
        assert not caught.value.retryable
        assert "SSL_CERT_FILE" in caught.value.hint
        with pytest.raises(TransferError, match="nonexistent"):
            Client(ca_file=Path("/nonexistent.pem"), retry=QUICK).get(url, limit=1)


def test_a_certificate_for_another_host_is_refused(tmp_path) -> None:
    ca, identity = httpd.authority(tmp_path, names=("other.example",))
    with httpd.Server(identity) as server, pytest.raises(TransferError):
        Client(ca_file=ca, retry=QUICK).get(server.serve("/a", b"x"), limit=1)


def test_old_tls_is_refused(pki) -> None:
    ca, identity = pki
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old = httpd.Server(identity, versions=(ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1))
    with old as server:
        with pytest.raises(TransferError):
            Client(ca_file=ca, retry=Retry(attempts=1)).get(server.serve("/a", b"x"), limit=1)
        assert server.requests == []


def test_https_never_becomes_http(pki, server) -> None:
    ca, identity = pki
    with httpd.Server(identity) as secure:
        url = secure.serve("/a", first=[(302, {"Location": server.serve("/b", b"x")})])
        with pytest.raises(TransferError, match="https to http"):
            Client(ca_file=ca, retry=QUICK).get(url, limit=1)
    assert server.requests == []


def test_a_proxy_of_the_environment_is_used_and_gets_no_token(pki, server, monkeypatch) -> None:
    ca, identity = pki
    with httpd.Proxy() as proxy, httpd.Server(identity) as secure:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//user:pass@"))
        assert Client(ca_file=ca).get(server.serve("/a", b"x"), limit=1).body == b"x"
        assert proxy.asked == [f"GET {server.origin}/a"]
        url = secure.serve("/b", b"y")
        assert Client(ca_file=ca).get(url, limit=1, credentials=HostToken(secure.origin, "secret")).body == b"y"
        assert proxy.asked[1:] == [f"CONNECT 127.0.0.1:{secure.port}"]
        assert "authorization" not in proxy.headers[1]
        assert proxy.headers[1]["proxy-authorization"] == "Basic " + base64.b64encode(b"user:pass").decode()
        assert secure.requests[0].headers["authorization"] == "Bearer secret"
        assert "proxy-authorization" not in secure.requests[0].headers
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        Client(ca_file=ca).get(url, limit=1)
        assert len(proxy.asked) == 2


def test_a_proxy_that_refuses_is_said_and_not_asked_again(pki, monkeypatch) -> None:
    ca, identity = pki
    with httpd.Proxy(status=403) as proxy, httpd.Server(identity) as secure:
        monkeypatch.setenv("https_proxy", proxy.url)
        with pytest.raises(TransferError, match="proxy answered 403"):
            Client(ca_file=ca, retry=QUICK).get(secure.serve("/a", b"x"), limit=1)
        assert len(proxy.asked) == 1
