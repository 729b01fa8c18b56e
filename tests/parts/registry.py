"""A real registry: Debian's `docker-registry` (CNCF distribution 2.8) on a free port of 127.0.0.1, one per `with` block.

    with registry(folder) as upstream:
        images.busybox().push(upstream.host, "team/busybox:1.0")

It is open to all, or wants a user by htpasswd, or a token of the `TokenServer` here, whose tokens it verifies itself.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from parts import httpd
from parts.images import find, need

# The bcrypt form of PASSWORD, made once with `htpasswd -nbB`; the registry accepts no other.
USER, PASSWORD = "alice", "correct horse"
REFRESH = "refresh/token+of=alice"
HTPASSWD = f"{USER}:$2b$04$3rHTkNaFwD8n8iLF4uIi.uFnRRRRW652he/Y/PhrOELVuDRB./E2e\n"
STARTUP = 20  # seconds


@dataclass(frozen=True)
class Registry:
    """A running registry. `host` is `127.0.0.1:PORT`; `data` is where its blobs lie."""

    host: str
    data: Path

    @property
    def tls_host(self) -> str:
        """The same registry by an address that is not of the loopback network, so that clients insist on TLS."""
        return f"0.0.0.0:{self.host.rsplit(':', 1)[1]}"

    def put_manifest(self, repository: str, tag: str, raw: bytes, media_type: str) -> None:
        request = urllib.request.Request(
            f"http://{self.host}/v2/{repository}/manifests/{tag}", data=raw, method="PUT", headers={"Content-Type": media_type}
        )
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 201

    def blob_file(self, digest: str) -> Path:
        """Where the registry keeps the blob `sha256:<hex>`."""
        value = digest.removeprefix("sha256:")
        return self.data / "docker/registry/v2/blobs/sha256" / value[:2] / value / "data"


@contextlib.contextmanager
def registry(
    folder: Path,
    *,
    htpasswd: bool = False,
    token: dict[str, str] | None = None,
    tls: tuple[Path, Path] | None = None,
    client_ca: Path | None = None,
) -> Iterator[Registry]:
    """Run a registry below `folder`; `token` is its `auth.token`, `tls` certificate and key as `httpd.authority` makes them.

    With `client_ca` it talks to those only who have a certificate of that CA.
    """
    need("docker-registry")
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "version": 0.1,
        "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": False}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": {"addr": "127.0.0.1:0"},
    }
    if tls:
        config["http"]["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
        if client_ca:
            config["http"]["tls"]["clientcas"] = [str(client_ca)]
    if htpasswd:
        (folder / "htpasswd").write_text(HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    if token:
        config["auth"] = {"token": token}
    (folder / "config.json").write_text(json.dumps(config))  # YAML is a superset
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([find("docker-registry"), "serve", folder / "config.json"], stdout=out, stderr=out)
    try:
        host = _listening(log, process)
        yield Registry(host, folder / "data")
    finally:
        process.terminate()
        process.wait(10)


class TokenServer:
    """Hands out signed tokens (distribution's token specification) for the registry that `registry(token=...)` runs.

    Everyone may read `public/...`, `USER` everything, by password or, in a form, by the token `REFRESH`; `stale` counts tokens still to be given that expired long ago.
    """

    def __init__(self, folder: Path, server: httpd.Server) -> None:
        self._server = server
        self.stale = 0
        ca, (certificate, key) = httpd.authority(folder)
        self._key = serialization.load_pem_private_key(key.read_bytes(), password=None)
        pem = certificate.read_text()
        self._chain = ["".join(pem.splitlines()[1:-1])]
        self.realm = server.serve("/token", answer=self._answer)
        self.settings = {"realm": self.realm, "service": "test-registry", "issuer": "test-issuer", "rootcertbundle": str(ca)}

    @property
    def asked(self) -> list[httpd.Request]:
        return self._server.seen("/token")

    def _answer(self, request: httpd.Request) -> tuple[int, dict[str, str], bytes]:
        form = parse_qs(request.body.decode() if request.method == "POST" else urlsplit(request.path).query)
        sent = request.headers.get("authorization")
        if request.method == "POST":
            if (form["grant_type"], form["refresh_token"]) != (["refresh_token"], [REFRESH]) or not form["client_id"]:
                return 401, {}, b'{"error":"invalid_grant"}'
        elif sent not in {None, basic(USER, PASSWORD)}:
            return 401, {}, b'{"details":"incorrect username or password"}'
        known = bool(sent) or request.method == "POST"
        access = []
        for scope in (part for value in form["scope"] for part in value.split(" ")):
            kind, name, actions = scope.split(":")
            if known or name.startswith("public/"):
                access.append({"type": kind, "name": name, "actions": actions.split(",")})
        key = "access_token" if request.method == "POST" else "token"
        return 200, {"Content-Type": "application/json"}, json.dumps({key: self._token(access)}).encode()

    def _token(self, access: list[dict]) -> str:
        now = int(time.time())
        if self.stale:
            self.stale -= 1
            now -= 3600
        claims = {"iss": "test-issuer", "sub": "", "aud": "test-registry", "iat": now, "nbf": now - 5, "exp": now + 300, "jti": str(now)}
        claims["access"] = access
        header = {"typ": "JWT", "alg": "ES256", "x5c": self._chain}
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


@contextlib.contextmanager
def token_registry(folder: Path) -> Iterator[tuple[Registry, TokenServer]]:
    """Run a registry that takes only the tokens of the token server given with it."""
    with httpd.Server() as server:
        tokens = TokenServer(folder / "tokens", server)
        with registry(folder, token=tokens.settings) as running:
            yield running, tokens


def basic(user: str, password: str) -> str:
    """Give the Authorization of basic authentication."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def login(path: Path, host: str, user: str = USER, password: str = PASSWORD) -> Path:
    """Write what `docker login` writes."""
    path.write_text(json.dumps({"auths": {host: {"auth": basic(user, password).removeprefix("Basic ")}}}))
    return path


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _listening(log: Path, process: subprocess.Popen) -> str:
    deadline = time.monotonic() + STARTUP
    while time.monotonic() < deadline:
        found = re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())
        if found:
            return found[1]
        assert process.poll() is None, f"docker-registry ended: {log.read_text()[-2000:]}"
        time.sleep(0.02)
    raise AssertionError(f"docker-registry does not listen: {log.read_text()[-2000:]}")
