"""Signed images in a real registry, in every shape tools leave them in: pushed over its API, signed with plain keys.

    with registries.registry(folder) as running:
        repository = signed.Repository(running, "team/tool")
        image = repository.image()
        repository.tag_signature(image, VENDOR)

Debian's registry (2.8, in Debian 13 too) has no referrers API: `Repository` keeps the list under the fallback tag, as clients
must, and `front()` is a small server before the registry that adds the API, computed from what the registry has stored.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from parts.registry import Registry
from parts.upstream import BUNDLE, Key, bundle, envelope, simple, statement, text

from airgap_images.oci import DOCKER_LIST, EMPTY_JSON, IMAGE_INDEX, IMAGE_MANIFEST, Digest
from audit.verify.claims import DSSE, IN_TOTO, NOTATION, SIMPLE

CONFIG, LAYER = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"
SPDX = "application/spdx+json"
PROVENANCE = "https://slsa.dev/provenance/v1"
REFERENCE = "vnd.docker.reference"  # BuildKit's annotations


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def digest_of(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


@dataclass(frozen=True)
class Pushed:
    """A manifest or an index in the registry."""

    raw: bytes
    media_type: str
    platform: str = ""

    @property
    def name(self) -> str:
        return digest_of(self.raw)

    @property
    def digest(self) -> Digest:
        return Digest.parse(self.name)

    @property
    def entry(self) -> dict:
        listed: dict = {"mediaType": self.media_type, "digest": self.name, "size": len(self.raw)}
        if self.platform:
            listed["platform"] = dict(zip(("os", "architecture", "variant"), self.platform.split("/"), strict=False))
        return listed


@dataclass
class Repository:
    """A repository to push to; `api` says that whoever pulls asks a registry with the referrers API, so that no list is kept."""

    registry: Registry
    name: str
    api: bool = False
    wrong_type: bool = False  # list a wrong artifactType, as cosign 2.5 does
    listed: dict[str, list[dict]] = field(default_factory=dict)

    # Pushing

    def blob(self, data: bytes, media_type: str = "application/octet-stream", **annotations: str) -> dict:
        """Push a blob and return its descriptor."""
        base = f"http://{self.registry.host}/v2/{self.name}/blobs"
        with urllib.request.urlopen(urllib.request.Request(f"{base}/uploads/", method="POST")) as begun:
            location = begun.headers["Location"]
        mark = "&" if "?" in location else "?"
        put = urllib.request.Request(f"{location}{mark}digest={digest_of(data)}", data=data, method="PUT")
        put.add_header("Content-Type", "application/octet-stream")
        with urllib.request.urlopen(put) as answer:
            assert answer.status == 201
        described: dict = {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}
        return described | ({"annotations": annotations} if annotations else {})

    def push(self, value: dict, *tags: str, platform: str = "") -> Pushed:
        """Push a manifest or index by digest, and by tags."""
        pushed = Pushed(compact(value), value["mediaType"], platform)
        for selector in (pushed.name, *tags):
            self.registry.put_manifest(self.name, selector, pushed.raw, pushed.media_type)
        return pushed

    def delete_blob(self, digest: str) -> None:
        """Lose a blob."""
        self.registry.blob_file(digest).unlink()

    # Images

    def image(self, *tags: str, platform: str = "linux/amd64", note: str = "") -> Pushed:
        """Push a small image."""
        layer = gzip.compress(_tar(f"hello for {platform} {note}".encode()), mtime=0)
        system, architecture = platform.split("/")[:2]
        rootfs = {"type": "layers", "diff_ids": [digest_of(gzip.decompress(layer))]}
        config = {"os": system, "architecture": architecture, "rootfs": rootfs, "config": {"User": "65534"}}
        body = {"config": self.blob(compact(config), CONFIG), "layers": [self.blob(layer, LAYER)]}
        return self.push({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST} | body, *tags, platform=platform)

    def index(self, *images: Pushed, tags: tuple[str, ...] = (), statements: bool = False, docker: bool = False) -> Pushed:
        """Push an index, with BuildKit's statements about each image where `statements` asks for them."""
        entries = [image.entry for image in images]
        if statements:
            entries += [self._statement(image) for image in images]
        kind = DOCKER_LIST if docker else IMAGE_INDEX
        return self.push({"schemaVersion": 2, "mediaType": kind, "manifests": entries}, *tags)

    def _statement(self, image: Pushed) -> dict:
        parts = [
            self.blob(statement(image.digest, predicate=predicate), IN_TOTO, **{"in-toto.io/predicate-type": predicate})
            for predicate in ("https://slsa.dev/provenance/v0.2", "https://spdx.dev/Document")
        ]
        config = {"os": "unknown", "architecture": "unknown", "config": {}, "rootfs": {"type": "layers", "diff_ids": [p["digest"] for p in parts]}}
        body = {"config": self.blob(compact(config), CONFIG), "layers": parts}
        pushed = self.push({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST} | body, platform="unknown/unknown")
        return pushed.entry | {"annotations": {f"{REFERENCE}.type": "attestation-manifest", f"{REFERENCE}.digest": image.name}}

    # What is said of them

    def tagged(self, subject: Pushed, suffix: str, *layers: dict) -> Pushed:
        """Push a manifest under cosign's tag for `subject`."""
        body = {"config": self.blob(b"{}", CONFIG), "layers": list(layers)}
        return self.push({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST} | body, f"sha256-{subject.digest.hex}.{suffix}")

    def referrer(self, subject: Pushed, artifact: str, *layers: dict, config: dict | None = None) -> Pushed:
        """Push a manifest whose subject is `subject`, and list it."""
        about = {"mediaType": subject.media_type, "digest": subject.name, "size": len(subject.raw)}
        body = {"config": config or self.blob(b"{}", EMPTY_JSON), "layers": list(layers), "subject": about}
        typed = {} if config else {"artifactType": artifact}
        pushed = self.push({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST} | typed | body)
        if not self.api:
            self.list_as_referrer(subject, pushed.entry | {"artifactType": EMPTY_JSON if self.wrong_type else artifact})
        return pushed

    def list_as_referrer(self, subject: Pushed, *entries: dict) -> None:
        """Add to the list under the fallback tag."""
        listed = self.listed.setdefault(subject.name, [])
        listed += entries
        self.push({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": listed}, f"sha256-{subject.digest.hex}")

    def signature_layer(self, subject: Pushed, key: Key, **annotations: str) -> dict:
        payload = simple(subject.digest)
        return self.blob(payload, SIMPLE, **{"dev.cosignproject.cosign/signature": text(key.sign(payload))}, **annotations)

    def tag_signature(self, subject: Pushed, *keys: Key) -> Pushed:
        return self.tagged(subject, "sig", *(self.signature_layer(subject, key) for key in keys))

    def tag_attestation(self, subject: Pushed, key: Key, predicate: str = "https://example.test/scan/v1") -> Pushed:
        raw = compact(envelope(statement(subject.digest, predicate=predicate, version="v0.1"), key))
        return self.tagged(subject, "att", self.blob(raw, DSSE, predicateType=predicate))

    def tag_sbom(self, subject: Pushed) -> Pushed:
        return self.tagged(subject, "sbom", self.blob(b'{"spdxVersion":"SPDX-2.3"}', "text/spdx+json"))

    def signature(self, subject: Pushed, key: Key) -> Pushed:
        return self.bundle(subject, bundle({"dsseEnvelope": envelope(statement(subject.digest), key)}))

    def attestation(self, subject: Pushed, key: Key, predicate: str = PROVENANCE) -> Pushed:
        return self.bundle(subject, bundle({"dsseEnvelope": envelope(statement(subject.digest, predicate=predicate), key)}))

    def bundle(self, subject: Pushed, raw: bytes) -> Pushed:
        return self.referrer(subject, BUNDLE, self.blob(raw, BUNDLE))

    def sbom(self, subject: Pushed, note: str = "") -> Pushed:
        return self.referrer(subject, SPDX, self.blob(compact({"spdxVersion": "SPDX-2.3", "comment": note}), SPDX))

    def notation(self, subject: Pushed) -> Pushed:
        """Push a signature as notation does: its type is the config's."""
        return self.referrer(subject, NOTATION, self.blob(b"a COSE envelope", "application/cose"), config=self.blob(b"{}", NOTATION))


def _tar(data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("greeting")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


@dataclass
class Front:
    """A server before a registry that adds the referrers API; `page` is how many it lists at once."""

    host: str
    page: int = 100
    asked: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _FrontServer

    def do_GET(self) -> None:
        self.server.front.asked.append(self.path)
        path = urlsplit(self.path).path
        if "/referrers/" in path:
            self._referrers(path)
        else:
            self._passed_on()

    do_HEAD = do_GET  # noqa: N815 - the name the base class calls

    def _referrers(self, path: str) -> None:
        name, _, subject = path.removeprefix("/v2/").partition("/referrers/")
        start, page = int(parse_qs(urlsplit(self.path).query).get("from", ["0"])[0]), self.server.front.page
        found = _stored(self.server.behind, name, subject)
        headers = {"Content-Type": IMAGE_INDEX}
        if start + page < len(found):
            headers["Link"] = f'<{path}?from={start + page}>; rel="next"'
        self._answer(200, headers, compact({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": found[start : start + page]}))

    def _passed_on(self) -> None:
        asked = urllib.request.Request(f"http://{self.server.behind.host}{self.path}", method=self.command)
        for key in ("Accept", "Range", "Authorization"):
            if self.headers[key]:
                asked.add_header(key, self.headers[key])
        try:
            with urllib.request.urlopen(asked) as answer:
                self._answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            self._answer(error.code, {"Content-Type": "application/json"}, error.read())

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for key, value in headers.items():
            if key.lower() not in {"content-length", "connection", "date"}:
                self.send_header(key, value)
        self.send_header("Content-Length", headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _FrontServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, behind: Registry, page: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.front = Front(f"127.0.0.1:{self.server_port}", page)


@contextlib.contextmanager
def front(behind: Registry, *, page: int = 100) -> Iterator[Front]:
    """Run the server; everything but the API is passed on to the registry."""
    server = _FrontServer(behind, page)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.front
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _stored(behind: Registry, name: str, subject: str) -> list[dict]:
    """Return descriptors of the manifests of a repository whose subject is `subject`, as distribution-spec 1.1 has them."""
    revisions = behind.data / "docker/registry/v2/repositories" / name / "_manifests/revisions/sha256"
    found = []
    for revision in sorted(revisions.iterdir()) if revisions.is_dir() else ():
        raw = behind.blob_file(f"sha256:{revision.name}").read_bytes()
        value = json.loads(raw)
        if value.get("subject", {}).get("digest") == subject:
            artifact = value.get("artifactType") or value["config"]["mediaType"]
            found.append({"mediaType": value["mediaType"], "digest": digest_of(raw), "size": len(raw), "artifactType": artifact})
    return found
