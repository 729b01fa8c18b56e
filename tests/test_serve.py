"""`serve`: the store itself as a read-only registry, asked by hand, by skopeo, dockerd, podman and containerd."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from parts import cargo, httpd, images, serving
from parts import containerd as containerds
from parts import engine as engines
from parts import podman as podmans

from airgap_images.layout import Layout
from airgap_images.oci import IMAGE_INDEX, Descriptor, Digest
from airgap_images.serving import listener as listeners
from airgap_images.serving.catalog import Catalog
from airgap_images.serving.distribution import Answer, Asked, Guard, Part, answer
from airgap_images.serving.listener import Listener
from airgap_images.targets import Cargo
from audit.install.store import Store
from audit.serve import Options, serve
from manifests.errors import IntegrityError, SiteError, UsageError

TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> serving.Served:
    return serving.desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def running(served: serving.Served) -> Iterator[serving.Running]:
    with serving.serving(served.store) as started:
        yield started


@pytest.fixture(scope="module")
def catalog(served: serving.Served) -> Catalog:
    return Catalog(served.layout, [[served.signed.cargo, served.tree]])


def ask(catalog: Catalog, target: str, *headers: tuple[str, str], method: str = "GET"):
    return answer(catalog, Asked(method, target, headers))


def headers_of(found) -> dict[str, str]:
    return dict(found.headers)


def codes(found) -> list[str]:
    return [entry["code"] for entry in json.loads(found.body)["errors"]]


# What is answered, as a function.


def test_the_base_the_lists_and_what_there_is_not(catalog):
    assert ask(catalog, "/v2/").status == ask(catalog, "/v2").status == 200
    assert headers_of(ask(catalog, "/v2/"))["Docker-Distribution-API-Version"] == "registry/2.0"
    names = json.loads(ask(catalog, "/v2/_catalog").body)["repositories"]
    assert names == ["docker.io/library/busybox", "library/busybox", "trees/docs"]
    for target, code in {
        "/": "UNSUPPORTED", "/v1/": "UNSUPPORTED", "/v2/x": "UNSUPPORTED", "/v2/none/manifests/1": "NAME_UNKNOWN",
        "/v2/library/busybox/manifests/none": "MANIFEST_UNKNOWN", f"/v2/library/busybox/manifests/sha256:{'0' * 64}": "MANIFEST_UNKNOWN",
        f"/v2/library/busybox/blobs/sha256:{'0' * 64}": "BLOB_UNKNOWN", "/v2/library/busybox/blobs/../../x": "UNSUPPORTED",
        "/v2/..%2f..%2fetc/passwd": "UNSUPPORTED", "/v2/Library/busybox/tags/list": "UNSUPPORTED",
        f"/v2/library/busybox/blobs/sha512:{'0' * 128}": "UNSUPPORTED",
    }.items():  # fmt: skip
        found = ask(catalog, target)
        assert (found.status, codes(found)) == (404, [code]), target
    assert ask(catalog, f"/v2/{'a' * 3000}/tags/list").status == 414


def test_manifests_by_every_name_and_digest(catalog, served):
    root = served.signed.root
    raw = served.layout.path(root.digest).read_bytes()
    for target in ("library/busybox/manifests/1.36", "docker.io/library/busybox/manifests/1.36", f"library/busybox/manifests/{root.digest}",
                   f"library/busybox/manifests/sha256%3A{root.digest.hex}"):  # fmt: skip
        found = ask(catalog, f"/v2/{target}")
        assert (found.status, found.body) == (200, raw)
        said = headers_of(found)
        assert (said["Content-Type"], said["Docker-Content-Digest"]) == (root.media_type, str(root.digest))
        assert ask(catalog, f"/v2/{target}", ("if-none-match", said["ETag"])).status == 304
        assert ask(catalog, f"/v2/{target}", ("if-none-match", '"other"')).status == 200
    index = ask(catalog, f"/v2/library/busybox/manifests/{served.signed.index.digest}")
    assert Digest.of(index.body) == served.signed.index.digest  # the whole upstream index, for signatures over it
    assert ask(catalog, f"/v2/trees/docs/manifests/sha256-{served.tree.root.digest.hex[:12]}").status == 200


def test_the_name_of_a_mirrored_registry_is_honoured(catalog):
    assert ask(catalog, "/v2/library/busybox/manifests/1.36?ns=docker.io").status == 200
    assert ask(catalog, "/v2/library/busybox/manifests/1.36?ns=registry-1.docker.io").status == 200
    assert ask(catalog, "/v2/docker.io/library/busybox/manifests/1.36?ns=docker.io").status == 200
    assert codes(ask(catalog, "/v2/library/busybox/manifests/1.36?ns=quay.io")) == ["NAME_UNKNOWN"]


def test_a_short_name_of_two_images_leads_to_none_of_them(tmp_path):
    layout = Layout.create(tmp_path)
    loads = [Cargo(kind, "image", cargo.image(layout, kind), (f"{kind}.io/team/tool:1",)) for kind in ("quay", "ghcr")]
    same = Cargo("same", "image", loads[0].root, ("other.io/team/same:1", ))
    again = Cargo("again", "image", loads[0].root, ("third.io/team/same:1",))
    made = Catalog(layout, [[*loads, same, again]])
    found = ask(made, "/v2/team/tool/manifests/1")
    assert codes(found) == ["MANIFEST_UNKNOWN"]
    assert "more than one registry" in json.loads(found.body)["errors"][0]["message"]
    assert json.loads(ask(made, "/v2/team/tool/tags/list").body)["tags"] == []
    for load in loads:
        assert Digest.of(ask(made, f"/v2/{load.references[0][:-2]}/manifests/1").body) == load.root.digest
        assert ask(made, f"/v2/team/tool/manifests/{load.root.digest}").status == 200
    assert ask(made, "/v2/team/same/manifests/1").status == 200  # one image, two registries
    newer = Cargo("quay", "image", cargo.image(layout, "newer"), ("quay.io/team/tool:1",))
    both = Catalog(layout, [[newer], loads])
    assert Digest.of(ask(both, "/v2/quay.io/team/tool/manifests/1").body) == newer.root.digest
    assert ask(both, f"/v2/quay.io/team/tool/manifests/{loads[0].root.digest}").status == 200


def test_evidence_is_there_as_tags_and_as_referrers(catalog, served):
    root, base = served.signed.root.digest, "/v2/library/busybox"
    tags = json.loads(ask(catalog, f"{base}/tags/list").body)
    assert tags == {"name": "library/busybox", "tags": ["1.36", f"sha256-{root.hex}.sig"]}
    assert Digest.of(ask(catalog, f"{base}/manifests/sha256-{root.hex}.sig").body) == served.signed.signature.digest
    found = ask(catalog, f"{base}/referrers/{root}")
    assert headers_of(found)["Content-Type"] == IMAGE_INDEX
    (entry,) = json.loads(found.body)["manifests"]
    assert (entry["digest"], entry["artifactType"]) == (str(served.signed.referrer.digest), cargo.BUNDLE_TYPE)
    assert entry["annotations"] == {"dev.sigstore.bundle.content": "dsse-envelope"}
    assert ask(catalog, f"{base}/manifests/{entry['digest']}").status == 200
    chosen = ask(catalog, f"{base}/referrers/{root}?artifactType=application/other")
    assert json.loads(chosen.body)["manifests"] == []
    assert headers_of(chosen)["OCI-Filters-Applied"] == "artifactType"
    encoded = cargo.BUNDLE_TYPE.replace("+", "%2B")
    assert len(json.loads(ask(catalog, f"{base}/referrers/{root}?artifactType={encoded}").body)["manifests"]) == 1
    nothing = ask(catalog, f"{base}/referrers/sha256:{'0' * 64}")
    assert (nothing.status, json.loads(nothing.body)["manifests"]) == (200, [])


def test_lists_come_in_pages(catalog, served):
    first = ask(catalog, "/v2/library/busybox/tags/list?n=1")
    assert json.loads(first.body)["tags"] == ["1.36"]
    assert headers_of(first)["Link"] == '</v2/library/busybox/tags/list?n=1&last=1.36>; rel="next"'
    second = ask(catalog, "/v2/library/busybox/tags/list?n=1&last=1.36")
    assert json.loads(second.body)["tags"] == [f"sha256-{served.signed.root.digest.hex}.sig"]
    assert "Link" not in headers_of(second)
    assert json.loads(ask(catalog, "/v2/library/busybox/tags/list?n=x").body)["tags"]
    assert json.loads(ask(catalog, "/v2/library/busybox/tags/list?n=0").body)["tags"] == []
    assert json.loads(ask(catalog, "/v2/_catalog?n=2&last=docker.io/library/busybox").body)["repositories"] == ["library/busybox", "trees/docs"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-9", (206, 0, 10)), ("bytes=10-", (206, 10, None)), ("bytes=-5", (206, -5, None)), ("bytes=0-99999999999", (206, 0, None)),
        ("bytes=-99999999999", (206, 0, None)), ("", (200, 0, None)), ("bytes=-", (200, 0, None)), ("bytes=0-1,5-6", (200, 0, None)),
        ("lines=0-9", (200, 0, None)), ("bytes=9-5", (416, 0, 0)), ("bytes=99999999-", (416, 0, 0)), ("bytes=-0", (416, 0, 0)),
    ],
)  # fmt: skip
def test_ranges(catalog, served, asked, expected):
    layer = json.loads(served.layout.path(served.signed.root.digest).read_bytes())["layers"][0]
    size, target = layer["size"], f"/v2/library/busybox/blobs/{layer['digest']}"
    status, start, stop = expected
    found = ask(catalog, target, *((("range", asked),) if asked else ()))
    assert found.status == status
    if status == 416:
        assert headers_of(found)["Content-Range"] == f"bytes */{size}"
        return
    start, stop = start % size, size if stop is None else stop
    assert found.body == Part(Digest.parse(layer["digest"]), size, start, stop)
    assert headers_of(found).get("Content-Range") == (f"bytes {start}-{stop - 1}/{size}" if status == 206 else None)


def test_a_range_of_something_else_is_the_whole(catalog, served):
    layer = json.loads(served.layout.path(served.signed.root.digest).read_bytes())["layers"][0]
    target = f"/v2/library/busybox/blobs/{layer['digest']}"
    assert ask(catalog, target, ("range", "bytes=5-"), ("if-range", f'"{layer["digest"]}"')).status == 206
    assert ask(catalog, target, ("range", "bytes=5-"), ("if-range", '"sha256:other"')).status == 200
    assert ask(catalog, target, ("if-none-match", f'"x", "{layer["digest"]}"')).status == 304


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_nothing_is_written(catalog, method):
    found = ask(catalog, "/v2/library/busybox/blobs/uploads/", method=method)
    assert (found.status, codes(found), headers_of(found)["Allow"]) == (405, ["UNSUPPORTED"], "GET, HEAD")


def test_the_token_as_password_or_bearer_and_nothing_less(catalog):
    def status(authorization: str | None) -> int:
        headers = (("authorization", authorization),) if authorization is not None else ()
        return answer(catalog, Asked("GET", "/v2/", headers), Guard(TOKEN)).status

    def basic(text: str) -> str:
        return f"Basic {base64.b64encode(text.encode()).decode()}"

    assert [status(good) for good in (f"Bearer {TOKEN}", f"bearer {TOKEN}", basic(f"anyone:{TOKEN}"), basic(f":{TOKEN}"))] == [200] * 4
    bad = (None, "", "Bearer", "Bearer ", f"Bearer {TOKEN}x", TOKEN, basic(f"{TOKEN}:"), basic("a:"), basic(TOKEN), "Basic !!", "Basic /w==", f"Digest {TOKEN}")
    assert [status(text) for text in bad] == [401] * len(bad)
    refused = answer(catalog, Asked("DELETE", "/v2/library/busybox/manifests/1.36"), Guard(TOKEN))
    assert refused.status == 401
    assert headers_of(refused)["WWW-Authenticate"].startswith("Basic ")
    assert TOKEN not in repr(Guard(TOKEN))
    assert answer(catalog, Asked("GET", "/v2/"), Guard("")).status == 401


def test_a_manifest_damaged_in_the_store_is_not_served(tmp_path):
    layout = Layout.create(tmp_path)
    load = Cargo("a", "image", cargo.image(layout), ("docker.io/team/tool:1",))
    made = Catalog(layout, [[load]])
    path = layout.path(load.root.digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"linux", b"Linux").replace(b"sha256", b"sha257", 1))
    with pytest.raises(IntegrityError):
        ask(made, "/v2/team/tool/manifests/1")


# Where it listens, and for whom.


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:5000", "registry.example.org:5000", "127.0.0.1.example.org:5000"])
def test_it_is_not_open_to_a_network(served, tmp_path, listen):
    (tmp_path / "token").write_text(TOKEN)
    _, (certificate, key) = httpd.authority(tmp_path / "tls")
    store = Store.existing(served.store)
    for options, lacking in (
        (Options(listen), "--tls-cert with --tls-key and --token-file needed"),
        (Options(listen, certificate, key), "reached by others: --token-file needed"),
        (Options(listen, token_file=tmp_path / "token"), "reached by others: --tls-cert with --tls-key needed"),
    ):
        with pytest.raises(UsageError, match=lacking):
            serve(store, options, pytest.fail)


def test_a_name_that_leads_to_another_machine_is_no_loopback(served, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("0.0.0.0", 0))])
    with pytest.raises(UsageError, match=r"0\.0\.0\.0 can be reached by others"):
        serve(Store.existing(served.store), Options("localhost:0"), pytest.fail)


@pytest.mark.parametrize("listen", ["", "127.0.0.1", "127.0.0.1:65536", "::1:5000", "127.0.0.1:port", "127.0.0.1:5000/x"])
def test_what_is_no_address(served, listen):
    with pytest.raises(UsageError, match="not HOST:PORT"):
        serve(Store.existing(served.store), Options(listen), pytest.fail)


def test_files_that_are_of_no_use(served, tmp_path):
    store = Store.existing(served.store)
    _, (certificate, key) = httpd.authority(tmp_path / "tls")
    for text in ("", "short", "has a blank in it here", "two\nlines-of-sixteen"):
        (tmp_path / "token").write_text(text)
        with pytest.raises(UsageError, match="at least 16 characters"):
            serve(store, Options("127.0.0.1:0", token_file=tmp_path / "token"), pytest.fail)
    with pytest.raises(UsageError, match="go together"):
        serve(store, Options("127.0.0.1:0", certificate), pytest.fail)
    with pytest.raises(UsageError, match="no certificate with its key"):
        serve(store, Options("127.0.0.1:0", key, certificate), pytest.fail)
    with pytest.raises(UsageError, match="no certificate with its key"):
        serve(store, Options("127.0.0.1:0", certificate, tmp_path / "none"), pytest.fail)


def test_a_port_that_is_taken_and_a_store_with_nothing_in_it(served, running, tmp_path):
    with pytest.raises(SiteError, match="cannot listen there"):
        serve(Store.existing(served.store), Options(running.host), pytest.fail)
    with pytest.raises(SiteError, match="nothing is installed"):
        serve(Store.create(tmp_path / "store"), Options("127.0.0.1:0"), pytest.fail)


def test_it_says_when_it_is_ready_and_ends_when_it_is_told(served):
    with serving.serving(served.store, listen="[::1]:0") as running:
        assert running.host.startswith("[::1]:")
        assert running.said[0].startswith(f"serving 1 images and 1 trees of {served.store} at http://[::1]:")
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(10) == 0
    refused = serving.start(served.store, "0.0.0.0:0", "", "", "", "")
    _, said = refused.communicate(timeout=30)
    assert (refused.returncode, said.count("\n")) == (2, 1)
    assert "can be reached by others" in said


# Over the wire.


def fetch(running: serving.Running, path: str, method: str = "GET", **headers: str):
    request = urllib.request.Request(f"http://{running.host}/v2/{path}", headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=10) as got:
        return got.status, dict(got.headers), got.read()


def test_blobs_whole_in_part_and_their_heads(running, served):
    layer = json.loads(served.layout.path(served.signed.root.digest).read_bytes())["layers"][0]
    raw = served.layout.path(Digest.parse(layer["digest"])).read_bytes()
    path = f"library/busybox/blobs/{layer['digest']}"
    assert fetch(running, path)[2] == raw
    status, headers, body = fetch(running, path, Range="bytes=1000-1999")
    assert (status, body, headers["Content-Range"]) == (206, raw[1000:2000], f"bytes 1000-1999/{len(raw)}")
    status, headers, body = fetch(running, path, "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(raw)))
    empty = f"sha256:{Digest.of(b'').hex}"
    assert fetch(running, f"trees/docs/blobs/{empty}")[2] == b""
    assert refused(running, "library/busybox/blobs/uploads/", "POST") == 405


def refusal(url: str | urllib.request.Request, **more: object) -> int:
    """Return with which status a request is refused."""
    with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(url, **more):
        pass
    with caught.value:
        return caught.value.code


def refused(running: serving.Running, path: str, method: str = "GET") -> int:
    return refusal(urllib.request.Request(f"http://{running.host}/v2/{path}", method=method))


def exchange(running: serving.Running, data: bytes, timeout: float = 10) -> bytes:
    host, port = running.host.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        got = b""
        while piece := connection.recv(65536):
            got += piece
    return got


def test_who_is_still_sending_when_refused_gets_the_answer(running):
    host, port = running.host.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET /v2/ HTTP/1.1\r\nX: " + b"y" * (60 << 10))
        time.sleep(0.3)  # the refusal is under way by now, and not all was read before it
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(65536).startswith(b"HTTP/1.1 431")


def test_requests_on_one_connection_and_requests_that_are_none(running):
    twice = exchange(running, b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
    assert twice.count(b"HTTP/1.1 200 OK") == 2
    pushed = exchange(running, b"PUT /v2/a/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloGET /v2/ HTTP/1.1\r\n\r\n")
    assert (pushed.count(b"HTTP/1.1 "), b"405" in pushed) == (1, True)  # what follows an unwanted body is no request
    waits = exchange(running, b"PUT /v2/a/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert waits.startswith(b"HTTP/1.1 405")
    assert exchange(running, b"GET /v2/ HTTP/1.1\r\nX: " + b"y" * (40 << 10)).startswith(b"HTTP/1.1 431")
    assert exchange(running, b"GET /v2/ HTTP/1.1\r\n" + b"X: y\r\n" * 150 + b"\r\n").startswith(b"HTTP/1.1 431")
    assert exchange(running, b"GET /v2/\r\n\r\n") == b""
    started = time.monotonic()
    with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", int(running.host.rsplit(":", 1)[1]))) as plain:
        ssl.create_default_context().wrap_socket(plain, server_hostname="127.0.0.1")  # told at once that this is no TLS
    assert time.monotonic() - started < 5
    assert fetch(running, "")[0] == 200
    assert not [line for line in running.said if "failed" in line]


@contextlib.contextmanager
def listening(layout: Layout, respond) -> Iterator[Listener]:
    failed: list[str] = []
    made = Listener(("127.0.0.1", 0), respond, layout, tls=None, failed=failed.append)
    stop = threading.Event()
    thread = threading.Thread(target=made.run, args=(stop,))
    thread.start()
    try:
        yield made
    finally:
        stop.set()
        thread.join()
    assert failed == []


def test_there_are_so_many_connections_and_slow_ones_end(catalog, served, monkeypatch):
    monkeypatch.setattr(listeners, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(listeners, "FULL_TIME", 0.1)
    monkeypatch.setattr(listeners, "HEAD_TIME", 1.5)
    with listening(served.layout, lambda asked: answer(catalog, asked)) as made, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(made.bound, timeout=10)) for _ in range(2)]
        for connection in slow:
            connection.sendall(b"GET /v2/ HTTP/1.1\r\n")
        time.sleep(0.2)
        third = stack.enter_context(socket.create_connection(made.bound, timeout=10))
        assert third.recv(1000).startswith(b"HTTP/1.1 503")
        started = time.monotonic()
        for _ in range(6):  # a byte now and then does not keep the place
            with contextlib.suppress(OSError):
                slow[0].sendall(b"X")
            time.sleep(0.3)
        slow[0].settimeout(0.7)
        with contextlib.suppress(ConnectionResetError):
            assert slow[0].recv(1000) == b""
        assert slow[1].recv(1000) == b""
        assert time.monotonic() - started < 4
        fourth = stack.enter_context(socket.create_connection(made.bound, timeout=10))
        fourth.sendall(b"GET /v2/ HTTP/1.1\r\n\r\n")
        assert fourth.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_client_that_takes_nothing_is_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(listeners, "SEND_TIME", 0.5)
    layout = Layout.create(tmp_path)
    size = 64 << 20
    digest = layout.put(bytes(size))

    def respond(_asked: Asked) -> Answer:
        return Answer(200, (), Part(digest, size, 0, size))

    with listening(layout, respond) as made, socket.create_connection(made.bound) as connection:
        connection.sendall(b"GET /x HTTP/1.1\r\n\r\n")
        until = time.monotonic() + 10
        while time.monotonic() < until and not made._open:
            time.sleep(0.01)
        while time.monotonic() < until and made._open:
            time.sleep(0.05)
        assert not made._open


def test_a_blob_that_is_gone_is_an_error_and_no_half_answer(tmp_path):
    layout = Layout.create(tmp_path)
    load = Cargo("a", "image", cargo.image(layout), ("docker.io/team/tool:1",))
    made = Catalog(layout, [[load]])
    gone = Digest.of(b"one")
    layout.path(gone).unlink()
    failed: list[str] = []
    listener = Listener(("127.0.0.1", 0), lambda asked: answer(made, asked), layout, tls=None, failed=failed.append)
    stop = threading.Event()
    thread = threading.Thread(target=listener.run, args=(stop,))
    thread.start()
    status = refusal(f"http://127.0.0.1:{listener.bound[1]}/v2/team/tool/blobs/{gone}")
    stop.set()
    thread.join()
    assert status == 500
    assert gone.hex in failed[0]


def test_what_is_under_way_is_finished_before_it_stops(tmp_path):
    here = serving.desk(tmp_path)
    size = 96 << 20
    with (tmp_path / "large").open("w+b") as file:
        file.truncate(size)
        digest = Digest(subprocess.run(["sha256sum", file.name], check=True, capture_output=True, text=True).stdout.split()[0])
        folder = Layout.create(tmp_path / "bundle-2")
        folder.take(file.fileno(), digest, size)
    config = cargo.put(folder, {"os": "linux"}, cargo.CONFIG)
    root = cargo.manifest(folder, config, Descriptor(cargo.LAYER, digest, size))
    second = serving.ship(tmp_path / "bundle-2", here.desk.who, Cargo("big", "image", root, ("quay.io/team/big:1",)), serial=2)
    with serving.serving(here.store) as running:
        assert refused(running, "team/big/manifests/1") == 404
        here.desk.install(second, checks=())
        assert Digest.of(fetch(running, "team/big/manifests/1")[2]) == root.digest  # it follows the store
        running.wait("now serving 1 images and 0 trees")
        assert refused(running, "library/busybox/manifests/1.36") == 404
        base = running.peak
        host, port = running.host.rsplit(":", 1)
        idle = socket.create_connection((host, int(port)), timeout=30)
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(f"GET /v2/team/big/blobs/{digest} HTTP/1.1\r\n\r\n".encode())
            got = len(connection.recv(65536))
            running.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            while piece := connection.recv(1 << 20):
                got += len(piece)
        assert running.process.wait(10) == 0
        idle.close()
        assert got > size
    with serving.serving(here.store, every=True) as running:
        assert fetch(running, "library/busybox/manifests/1.36")[0] == fetch(running, "team/big/manifests/1")[0] == 200
        assert len(fetch(running, f"team/big/blobs/{digest}")[2]) == size
        assert running.peak - base < 16 << 10


def test_tls_and_a_token_for_everybody_else(served, tmp_path):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    ca, pair = httpd.authority(tmp_path / "tls", names=("127.0.0.1",))
    with serving.serving(served.store, listen="0.0.0.0:0", tls=pair, token=tmp_path / "token") as running:
        assert running.scheme == "https"
        base = f"https://127.0.0.1:{running.host.rsplit(':', 1)[1]}/v2/"
        context = ssl.create_default_context(cafile=str(ca))
        assert refusal(base, context=context) == 401
        layer = json.loads(served.layout.path(served.signed.root.digest).read_bytes())["layers"][0]
        request = urllib.request.Request(f"{base}library/busybox/blobs/{layer['digest']}", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, context=context) as got:
            assert Digest.of(got.read()) == Digest.parse(layer["digest"])
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        port = int(running.host.rsplit(":", 1)[1])
        with pytest.raises(OSError, match="(?i)ssl|tls"), socket.create_connection(("127.0.0.1", port)) as plain:
            old.wrap_socket(plain)
        images.tool("skopeo", "inspect", "--tls-verify=false", f"--creds=anyone:{TOKEN}", f"docker://{base[8:-4]}/library/busybox:1.36")
        assert not [line for line in running.said if "failed" in line]


# Real clients.


@pytest.mark.parts
def test_skopeo_by_tag_and_by_digest(running, served, tmp_path):
    root = served.signed.root
    name = f"docker://{running.host}/library/busybox"
    for selector in (":1.36", f"@{root.digest}"):
        assert json.loads(images.tool("skopeo", "inspect", "--tls-verify=false", f"{name}{selector}"))["Digest"] == str(root.digest)
    images.tool("skopeo", "copy", "--quiet", "--src-tls-verify=false", "--preserve-digests", f"{name}@{root.digest}", f"dir:{tmp_path / 'd'}")
    assert Digest.of((tmp_path / "d" / "manifest.json").read_bytes()) == root.digest
    copied = images.tool("skopeo", "copy", "--quiet", "--src-tls-verify=false", f"{name}@{served.signed.index.digest}", f"dir:{tmp_path / 'e'}")
    assert copied == ""  # by upstream's own index: the platform that is carried is found in it


@pytest.mark.parts
def test_docker_by_digest_by_upstreams_index_and_after_a_login(running, served, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "token").write_text(TOKEN)
    _, pair = httpd.authority(tmp_path / "tls")
    with engines.engine() as docker:
        by_digest = f"{running.host}/library/busybox@{served.signed.root.digest}"
        done = docker.docker("pull", by_digest)
        assert done.returncode == 0, done.stderr
        assert docker.run(by_digest) == f"{images.GREETING}\n"
        said = json.loads(docker.docker("image", "inspect", by_digest).stdout)[0]["RepoDigests"]
        assert said == [by_digest]
        whole = f"{running.host}/docker.io/library/busybox@{served.signed.index.digest}"
        assert docker.docker("pull", whole).returncode == 0
        assert docker.docker("push", f"{running.host}/library/busybox").returncode != 0
        with serving.serving(served.store, tls=pair, token=tmp_path / "token") as closed:
            assert docker.docker("pull", f"{closed.host}/library/busybox:1.36").returncode != 0
            assert docker.docker("login", "-u", "me", "-p", "wrong-wrong-wrong-wrong", closed.host).returncode != 0
            done = docker.docker("login", "-u", "me", "-p", TOKEN, closed.host)
            assert done.returncode == 0, done.stderr
            done = docker.docker("pull", f"{closed.host}/library/busybox:1.36")
            assert done.returncode == 0, done.stderr


@pytest.mark.parts
def test_podman_by_digest_and_after_a_login(running, served, tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    _, pair = httpd.authority(tmp_path / "tls")
    with podmans.podman() as podman:
        by_digest = f"{running.host}/library/busybox@{served.signed.root.digest}"
        done = podman.podman("pull", "--tls-verify=false", by_digest)
        assert done.returncode == 0, done.stderr
        assert podman.run(by_digest) == f"{images.GREETING}\n"
        with serving.serving(served.store, tls=pair, token=tmp_path / "token") as closed:
            done = podman.podman("login", "--tls-verify=false", "--authfile", str(tmp_path / "auth.json"), "-u", "me", "-p", TOKEN, closed.host)
            assert done.returncode == 0, done.stderr
            pulled = ("pull", "--tls-verify=false", f"{closed.host}/docker.io/library/busybox:1.36")
            assert podman.podman(*pulled).returncode != 0
            assert podman.podman(pulled[0], "--authfile", str(tmp_path / "auth.json"), *pulled[1:]).returncode == 0


@pytest.mark.parts
def test_containerd_as_a_mirror_of_docker_hub(running, served, tmp_path):
    folder = tmp_path / "certs.d" / "docker.io"
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text(f'server = "http://{running.host}"\n[host."http://{running.host}"]\n  capabilities = ["pull", "resolve"]\n')
    with containerds.containerd() as containerd:
        options = ("--hosts-dir", str(folder.parent), f"--snapshotter={containerd.place.snapshotter}")
        done = containerd.ctr("images", "pull", *options, serving.REFERENCE)
        assert done.returncode == 0, done.stderr
        assert containerd.names()[serving.REFERENCE] == str(served.signed.root.digest)
        assert containerd.run(serving.REFERENCE) == f"{images.GREETING}\n"
