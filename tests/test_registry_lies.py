"""Registries that lie: each lie ends in one line that says what was got for what, and nothing is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from parts import httpd
from parts.expect import refused

from airgap_images.http import Client, Retry
from airgap_images.oci import DOCKER_MANIFEST, IMAGE_INDEX, IMAGE_MANIFEST, Descriptor, Digest
from airgap_images.reference import Reference
from airgap_images.registry import MAX_MANIFEST, blob, blob_url, manifest
from airgap_images.web import NoCredentials
from manifests.errors import AirgapError, IntegrityError, NetworkError

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
