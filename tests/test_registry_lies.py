"""Registries that lie: each lie ends in one line that says what was got for what, and nothing is taken."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from parts import httpd
from parts import registry as registries
from parts.expect import refused

from airgap_images.layout import Layout
from airgap_images.oci import DOCKER_MANIFEST, IMAGE_INDEX, IMAGE_MANIFEST, Descriptor, Digest
from airgap_images.reference import Reference
from airgap_images.remote.authentication import RegistryCredentials
from airgap_images.remote.http import Client, Retry
from airgap_images.remote.logins import Logins
from airgap_images.remote.registry import MAX_MANIFEST, blob, blob_url, manifest
from airgap_images.remote.web import NoCredentials
from bundler import build
from bundler.sources import Context, image
from manifests.errors import AirgapError, IntegrityError, NetworkError, SiteError, UsageError
from manifests.lock import Lock, Target

HEX = "a" * 64
EMPTY = Descriptor("application/vnd.oci.image.config.v1+json", Digest.of(b"{}"), 2)
MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": EMPTY.to_dict(), "layers": []}).encode()


def client(ca_file: Path | None = None) -> Client:
    return Client(ca_file=ca_file, retry=Retry(attempts=1))


@pytest.fixture
def liar():
    with httpd.Server() as server:
        yield server


def named(server: httpd.Server, selector: str = "1") -> Reference:
    return Reference.parse(f"127.0.0.1:{server.port}/team/x{'@' if selector.startswith('sha256:') else ':'}{selector}")


def serve(server: httpd.Server, raw: bytes, media_type: str = IMAGE_MANIFEST, selector: str = "1", **faults) -> Reference:
    headers = {"Content-Type": media_type} | faults.pop("headers", {})
    server.serve(f"/v2/team/x/manifests/{selector}", raw, headers=headers, **faults)
    return named(server, selector)


def test_other_bytes_than_the_digest_asked_for(liar: httpd.Server) -> None:
    ref = serve(liar, MANIFEST, selector=f"sha256:{HEX}", headers={"Docker-Content-Digest": f"sha256:{HEX}"})
    with refused(IntegrityError, "the registry sent other bytes", str(Digest.of(MANIFEST)), HEX):
        manifest(client(), NoCredentials(), ref)


def test_another_digest_in_the_header_than_the_bytes_have(liar: httpd.Server) -> None:
    with refused(IntegrityError, "says that is", HEX):
        manifest(client(), NoCredentials(), serve(liar, MANIFEST, headers={"Docker-Content-Digest": f"sha256:{HEX}"}))


def test_a_manifest_without_end(liar: httpd.Server) -> None:
    ref = serve(liar, MANIFEST, endless=True)
    with refused(NetworkError, "larger than", str(MAX_MANIFEST)):
        manifest(client(), NoCredentials(), ref)
    assert liar.sent("/v2/team/x/manifests/1") < 4 * MAX_MANIFEST


def test_a_manifest_shorter_than_announced(liar: httpd.Server) -> None:
    ref = serve(liar, MANIFEST, length=len(MANIFEST) + 100, headers={"Connection": "close"})
    with refused(NetworkError, "/v2/team/x/manifests/1"):
        manifest(client(), NoCredentials(), ref)


@pytest.mark.parametrize(
    ("raw", "media_type", "words"),
    [
        (b"<html>log in</html>", "text/html", ["not valid JSON"]),
        (b"[]", IMAGE_MANIFEST, ["schemaVersion"]),
        (MANIFEST, IMAGE_INDEX, ["the registry says", "the document"]),
        (MANIFEST, DOCKER_MANIFEST, ["the registry says", "the document"]),
        (b'{"schemaVersion":2,"manifests":[]}', IMAGE_MANIFEST, ["the registry says", "the document"]),
        (b'{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}', IMAGE_INDEX, ["both at once"]),
        (b'{"schemaVersion":2,"mediaType":"application/x","manifests":[]}', "application/x", ["is not accepted"]),
        (b'{"schemaVersion":2,"mediaType":7,"manifests":[]}', IMAGE_INDEX, ["is not accepted"]),
        (MANIFEST.replace(b'"layers"', b'"layers": [], "layers"'), IMAGE_MANIFEST, ["duplicate key"]),
        (MANIFEST.replace(b'"size": 2', b'"size": -2'), IMAGE_MANIFEST, ["bad size"]),
        (MANIFEST.replace(b"sha256:4", b"md5:4"), IMAGE_MANIFEST, ["not a sha256 digest"]),
        (b"[" * 100_000, IMAGE_MANIFEST, ["nested too deeply"]),
    ],
)
def test_what_is_no_manifest(liar: httpd.Server, raw: bytes, media_type: str, words: list[str]) -> None:
    with refused(IntegrityError, *words):
        manifest(client(), NoCredentials(), serve(liar, raw, media_type))


def test_a_manifest_of_the_first_schema_is_named(liar: httpd.Server) -> None:
    ref = serve(liar, b'{"schemaVersion":1}', "application/vnd.docker.distribution.manifest.v1+prettyjws")
    with refused(NetworkError, "schema 1"):
        manifest(client(), NoCredentials(), ref)


def test_a_type_that_says_nothing_is_no_lie(liar: httpd.Server) -> None:
    for media_type in ("application/json; charset=utf-8", "application/octet-stream", IMAGE_MANIFEST.upper()):
        assert manifest(client(), NoCredentials(), serve(liar, MANIFEST, media_type))[0].media_type == IMAGE_MANIFEST


@pytest.mark.parametrize(
    ("body", "faults", "kind", "words"),
    [
        (b"[]", {}, IntegrityError, ["the registry sent other bytes"]),
        (b"{", {}, IntegrityError, ["sent 1 bytes, expected 2"]),
        (b"{} ", {}, NetworkError, ["larger than 2 bytes"]),
        (b"{}", {"endless": True}, NetworkError, ["larger than 2 bytes"]),
    ],
)
def test_blobs_that_are_not_what_they_should_be(
    liar: httpd.Server, body: bytes, faults: dict, kind: type[AirgapError], words: list[str]
) -> None:
    liar.serve(f"/v2/team/x/blobs/{EMPTY.digest}", body, **faults)
    with refused(kind, *words):
        blob(client(), NoCredentials(), named(liar), EMPTY, 100)


def test_a_blob_too_large_to_read_is_not_asked_for(liar: httpd.Server) -> None:
    large = Descriptor(EMPTY.media_type, EMPTY.digest, 101)
    with refused(IntegrityError, "101 bytes, at most 100"):
        blob(client(), NoCredentials(), named(liar), large, 100)
    assert not liar.requests


def test_the_address_of_a_blob() -> None:
    assert blob_url(Reference.parse("busybox"), Digest(HEX)) == f"https://registry-1.docker.io/v2/library/busybox/blobs/sha256:{HEX}"


# --- one refusal, and nothing half written


LAYER = b"a layer" * 1000
CONFIG = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + HEX]}}).encode()
TYPES = ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar")


def described(media_type: str, raw: bytes, **more) -> dict:
    return {"mediaType": media_type, "digest": str(Digest.of(raw)), "size": len(raw)} | more


def image_of(**layer) -> bytes:
    layers = [described(TYPES[1], LAYER, **layer)]
    return json.dumps({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": described(TYPES[0], CONFIG), "layers": layers}).encode()


@dataclass
class Bench:
    """What is needed to lock and to build an image of the liar's."""

    folder: Path
    liar: httpd.Server
    client: Client

    def offer(self, raw: bytes, **layer_faults) -> None:
        """Serve an honest image, but for its layer."""
        for selector in ("1", str(Digest.of(raw))):
            serve(self.liar, raw, selector=selector)
        self.liar.serve(f"/v2/team/x/blobs/{Digest.of(CONFIG)}", CONFIG)
        body = layer_faults.pop("body", LAYER)
        self.liar.serve(f"/v2/team/x/blobs/{Digest.of(LAYER)}", body, **layer_faults)

    @property
    def cache(self) -> Layout:
        return Layout.create(self.folder / "cache")

    def lock(self) -> Lock:
        context = Context(self.folder, Target(), None, self.cache, self.client, None, lambda _: None)
        component = image.resolve("server", None, image.Options(ref=str(named(self.liar))), context)
        return Lock(name="test", stream="test", intentSha256="0" * 64, components=(component,))

    def build(self) -> build.Built:
        return build.build(self.lock(), self.folder / "bundle", self.client, build.Options(self.folder, (self.cache,)))

    def kept(self, folder: str) -> set[str]:
        """Every file below the folder that has the name it will keep."""
        root = self.folder / folder
        found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        return {name for name in found if not name.startswith(".") and name != "oci-layout"}


@pytest.fixture
def bench(tmp_path: Path, liar: httpd.Server, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return Bench(tmp_path, liar, Client(retry=Retry(attempts=2, first=0.01, ceiling=0.02), stall_timeout=1))


@pytest.mark.parametrize(
    ("faults", "kind", "words"),
    [
        ({"headers": {"Docker-Content-Digest": f"sha256:{HEX}"}}, IntegrityError, ["says that is", HEX]),
        ({"length": 100_000, "headers": {"Connection": "close"}}, NetworkError, ["/manifests/1"]),
        ({"length": 100}, IntegrityError, ["not valid JSON"]),
        ({"endless": True}, NetworkError, ["larger than 4194304 bytes"]),
        ({"endless": True, "framing": "chunked"}, NetworkError, ["larger than 4194304 bytes"]),
        ({"headers": {"Content-Encoding": "gzip"}}, NetworkError, ["compressed, which was not asked for"]),
        ({"first": [(307, {"Location": "/v2/team/x/manifests/1"})] * 50}, NetworkError, ["more than 10 redirects"]),
        ({"first": [(307, {"Location": "file:///etc/passwd"})] * 5}, NetworkError, ["no http address"]),
        ({"first": [(301, {})] * 5}, NetworkError, ["301"]),
        ({"stall_after": 10}, NetworkError, ["/manifests/1"]),
        ({"drop_after": 10}, NetworkError, ["/manifests/1"]),
    ],
)
def test_a_lie_about_a_manifest_leaves_nothing(bench: Bench, faults: dict, kind: type[AirgapError], words: list[str]) -> None:
    bench.offer(image_of())
    serve(bench.liar, image_of(), **faults)
    with refused(kind, *words) as caught:
        bench.lock()
    assert caught.value.hint
    assert bench.kept("cache") == set()
    assert bench.liar.sent("/v2/team/x/manifests/1") < 4 * MAX_MANIFEST


@pytest.mark.parametrize(
    ("body", "faults", "words"),
    [
        (CONFIG[:-1] + b" ", {}, ["the registry sent other bytes"]),
        (CONFIG[:-1], {}, [f"sent {len(CONFIG) - 1} bytes, expected {len(CONFIG)}"]),
        (CONFIG + b" ", {}, [f"larger than {len(CONFIG)} bytes"]),
        (CONFIG, {"endless": True, "framing": "chunked"}, [f"larger than {len(CONFIG)} bytes"]),
        (CONFIG, {"headers": {"Content-Encoding": "gzip"}}, ["compressed, which was not asked for"]),
        (CONFIG, {"first": [(404, {})]}, ["no such image"]),
    ],
)
def test_a_lie_about_a_config_leaves_nothing(bench: Bench, body: bytes, faults: dict, words: list[str]) -> None:
    bench.offer(image_of())
    bench.liar.serve(f"/v2/team/x/blobs/{Digest.of(CONFIG)}", body, **faults)
    with refused(AirgapError, *words):
        bench.lock()
    assert bench.kept("cache") <= {f"blobs/sha256/{Digest.of(image_of()).hex}"}, "but what is proven"


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ({"body": LAYER[:-1] + b"x"}, ["content is sha256", Digest.of(LAYER).hex]),
        ({"body": LAYER[:-1]}, [Digest.of(LAYER).hex]),
        ({"body": LAYER + b"x"}, [Digest.of(LAYER).hex]),
        ({"endless": True}, [Digest.of(LAYER).hex]),
        ({"endless": True, "framing": "chunked"}, [Digest.of(LAYER).hex]),
        ({"first": [(307, {"Location": f"/v2/team/x/blobs/{Digest.of(LAYER)}"})] * 50}, ["more than 10 redirects"]),
        ({"first": [(404, {})] * 5}, ["404"]),
    ],
)
def test_a_lie_about_a_layer_leaves_no_bundle(bench: Bench, faults: dict, words: list[str]) -> None:
    bench.offer(image_of(), **faults)
    with refused(AirgapError, *words) as caught:
        bench.build()
    assert caught.value.hint
    assert bench.kept("bundle") <= {f"blobs/sha256/{Digest.of(raw).hex}" for raw in (image_of(), CONFIG)}
    assert bench.liar.sent(f"/v2/team/x/blobs/{Digest.of(LAYER)}") < 4 * MAX_MANIFEST
    bench.offer(image_of())
    assert bench.build().changed, "with an honest registry the same command goes on"


# --- bombs and names


def test_a_manifest_may_have_the_size_registries_allow_and_not_a_byte_more(bench: Bench) -> None:
    whole = image_of()
    bench.offer(whole + b" " * (MAX_MANIFEST - len(whole)))
    assert bench.lock().components[0].files[0].size == MAX_MANIFEST
    bench.offer(whole + b" " * (MAX_MANIFEST + 1 - len(whole)))
    with refused(NetworkError, f"larger than {MAX_MANIFEST} bytes"):
        bench.lock()


def test_a_million_layers_are_not_read(bench: Bench) -> None:
    one = json.dumps(described(TYPES[1], LAYER)).encode()
    head, tail = image_of().split(b'"layers": [', 1)[0] + b'"layers": [', b"]}"
    bench.offer(head + b",".join([one] * 1_000_000) + tail)
    with refused(NetworkError, f"larger than {MAX_MANIFEST} bytes"):
        bench.lock()
    assert bench.liar.sent("/v2/team/x/manifests/1") < 4 * MAX_MANIFEST


def test_a_config_and_a_layer_of_any_size_are_not_asked_for(bench: Bench) -> None:
    value = json.loads(image_of())
    value["config"]["size"] = 1 << 40
    bench.offer(json.dumps(value).encode())
    with refused(IntegrityError, f"{1 << 40} bytes, at most"):
        bench.lock()
    value = json.loads(image_of())
    value["layers"][0]["size"] = 1 << 41
    bench.offer(json.dumps(value).encode())
    with refused(SiteError, "bytes are missing"):
        bench.build()
    assert not bench.liar.seen(f"/v2/team/x/blobs/{Digest.of(LAYER)}")
    value["layers"][0]["size"] = 1 << 43
    bench.offer(json.dumps(value).encode())
    with refused(IntegrityError, "bad size"):
        bench.lock()


@pytest.mark.parametrize("title", ["../../etc/passwd", "/etc/passwd", "a\x00b", ".", "index.json", "\x1b[2J"])
def test_names_in_annotations_name_no_file(bench: Bench, title: str) -> None:
    bench.offer(image_of(annotations={"org.opencontainers.image.title": title, "io.deis.oras.content.unpack": "true"}))
    pins = bench.lock().components[0].files
    assert [pin.path for pin in pins] == ["manifest.json", "config.json", f"blobs/{Digest.of(LAYER).hex}"]
    bench.build()
    assert not [name for name in bench.kept("bundle") if name.split("/")[0] not in {"blobs", "index.json", "SHA256SUMS"}]


@pytest.mark.parametrize("digest", ["sha256:../../../../etc/passwd", "sha256:" + "A" * 64, "sha256:" + "a" * 63, f"sha256:{HEX}/../x", ""])
def test_a_digest_that_is_a_path_is_none(bench: Bench, digest: str) -> None:
    value = json.loads(image_of())
    value["layers"][0]["digest"] = digest
    bench.offer(json.dumps(value).encode())
    with refused(IntegrityError, "not a sha256 digest"):
        bench.lock()


@pytest.mark.parametrize("name", ["x:../../y", "x:a/b", "x:" + "a" * 129, "../x:1", "x/../y:1", "x:1?n=1", "x:1#", "x:a%2fb", "x:\n", "x@sha256:../.."])
def test_a_name_that_is_a_path_is_no_reference(name: str) -> None:
    with pytest.raises(UsageError):
        Reference.parse(f"127.0.0.1:5000/team/{name}")


# --- who is told what


def test_a_redirect_to_another_host_takes_nothing_along(bench: Bench, tmp_path: Path) -> None:
    with httpd.Server() as elsewhere:
        host = f"127.0.0.1:{bench.liar.port}"
        access = RegistryCredentials(client(), Logins((registries.login(tmp_path / "config.json", host),)))
        end = elsewhere.serve("/v2/team/x/manifests/1", image_of(), headers={"Content-Type": IMAGE_MANIFEST})
        mine = {"authorization": registries.basic(registries.USER, registries.PASSWORD), "challenge": 'Basic realm="r"'}
        serve(bench.liar, image_of(), first=[(307, {"Location": f"{end}?secret=1", "Set-Cookie": "id=1; Domain=127.0.0.1"})], **mine)
        assert manifest(client(), access, named(bench.liar))[1] == image_of()
        (asked,) = elsewhere.requests
        assert not {"authorization", "cookie", "referer"} & set(asked.headers)


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ({"first": [(307, {"Location": "/token"})] * 50}, ["more than 10 redirects"]),
        ({"first": [(302, {"Location": "file:///etc/passwd"})] * 9}, ["no http address"]),
        ({"authorization": "more", "challenge": 'Basic realm="again"'}, ["token server answered 401", "asked as 'alice'"]),
        ({"authorization": "more", "challenge": 'Bearer realm="http://127.0.0.1:1/"'}, ["token server answered 401"]),
        ({"endless": True}, ["larger than 1048576 bytes"]),
        ({"headers": {"Content-Encoding": "gzip"}}, ["compressed, which was not asked for"]),
        ({"first": [(500, {})] * 9}, ["500"]),
    ],
)
def test_a_token_server_that_plays_tricks(bench: Bench, tmp_path: Path, faults: dict, words: list[str]) -> None:
    access = RegistryCredentials(client(), Logins((registries.login(tmp_path / "c.json", f"127.0.0.1:{bench.liar.port}"),)))
    realm = bench.liar.serve("/token", b'{"token":"x"}', **faults)
    serve(bench.liar, image_of(), authorization="Bearer never", challenge=f'Bearer realm="{realm}"')
    with refused(NetworkError, *words) as caught:
        manifest(client(), access, named(bench.liar))
    assert registries.PASSWORD not in caught.value.message + caught.value.hint
    sent = {request.headers.get("authorization") for request in bench.liar.seen("/token")}
    assert sent <= {None, registries.basic(registries.USER, registries.PASSWORD)}


def test_a_registry_that_is_never_content_is_left(bench: Bench, tmp_path: Path) -> None:
    access = RegistryCredentials(client(), Logins((registries.login(tmp_path / "c.json", f"127.0.0.1:{bench.liar.port}"),)))
    realm = bench.liar.serve("/token", b'{"token":"x"}')
    serve(bench.liar, image_of(), authorization="Bearer never", challenge=f'Bearer realm="{realm}"')
    with refused(NetworkError, "401", "asked as 'alice'"):
        manifest(client(), access, named(bench.liar))
    assert len(bench.liar.seen("/v2/team/x/manifests/1")) <= 3


# --- busy registries


def test_a_registry_that_asks_to_wait_is_waited_for(bench: Bench) -> None:
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    first = [(429, {"Retry-After": "3"}), (429, {"Retry-After": "Wed, 21 Oct 2026 07:28:11 GMT", "Date": date}), (429, {})]
    pauses: list[float] = []
    waiting = Client(retry=Retry(attempts=5, first=0.1, ceiling=0.1), sleep=pauses.append)
    serve(bench.liar, MANIFEST, first=first)
    assert manifest(waiting, NoCredentials(), named(bench.liar))[1] == MANIFEST
    bench.liar.serve(f"/v2/team/x/blobs/{EMPTY.digest}", b"{}", first=[(429, {"Retry-After": "2"})])
    assert blob(waiting, NoCredentials(), named(bench.liar), EMPTY, 100) == b"{}"
    for pause, least in zip(pauses, (3, 11, 0, 2), strict=True):
        assert least <= pause <= least + 0.1


def test_a_limit_that_is_used_up_says_that_a_login_may_help(bench: Bench) -> None:
    used_up = (429, {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "0;w=21600", "Retry-After": "0"})
    serve(bench.liar, MANIFEST, first=[used_up] * 3)
    with refused(NetworkError, "429") as caught:
        manifest(client(), NoCredentials(), named(bench.liar))
    assert "docker login" in caught.value.hint
    serve(bench.liar, MANIFEST, first=[(429, {"ratelimit-remaining": "7;w=21600"})] * 3)
    with refused(NetworkError, "429") as caught:
        manifest(client(), NoCredentials(), named(bench.liar))
    assert "docker login" not in caught.value.hint
