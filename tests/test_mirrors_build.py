"""Mirrors, logins and certificates of this host in `lock` and `build`: real registries, and the same bundle wherever its bytes come from."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
from pathlib import Path

import pytest
from parts import cli, httpd, images
from parts import registry as registries

from airgap_images.layout import Layout
from airgap_images.remote.http import Client, Retry
from airgap_images.remote.mirrors import Mirrors
from airgap_images.remote.registries import Registries
from bundler import build
from bundler.sources import Context, image
from manifests.lock import Lock, Target


def client() -> Client:
    return Client(retry=Retry(attempts=3, first=0.01, ceiling=0.02))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def entry(host: str, *mirrors: str, blocked: str = "false") -> str:
    lines = ["[[registry]]", f'location = "{host}"', f"blocked = {blocked}"]
    return "\n".join([*lines, *(f'[[registry.mirror]]\nlocation = "{mirror}"' for mirror in mirrors)]) + "\n"


@pytest.mark.parts
def test_a_lock_names_upstream_and_the_bundle_is_the_same_wherever_its_bytes_come_from(tmp_path: Path) -> None:
    bundles = []
    with registries.registry(tmp_path / "mirror") as mirror, httpd.Server() as dead:
        nowhere = f"127.0.0.1:{dead.port}"
        with registries.registry(tmp_path / "upstream") as upstream:
            images.busybox().push(upstream.host, "team/busybox:1")
            images.busybox().push(mirror.host, "proxy/team/busybox:1")
            for name, lines in (("direct", ""), ("mirrored", entry(upstream.host, nowhere, f"{mirror.host}/proxy", blocked="true"))):
                bundles.append(_bundle(tmp_path / name, upstream.host, lines))
    (direct, direct_lock), (mirrored, mirrored_lock) = bundles
    assert direct_lock == mirrored_lock
    assert mirror.host.encode() not in mirrored_lock
    assert direct == mirrored
    asked = (tmp_path / "mirror/log").read_text()
    assert "/v2/proxy/team/busybox/manifests/1" in asked
    assert "/v2/proxy/team/busybox/blobs/sha256:" in asked
    assert not any(line for line in asked.splitlines() if "/v2/team/" in line)
    blobs = [request for request in dead.requests if "/blobs/" in request.path]
    assert len({request.path for request in blobs}) == len(blobs), "each file is asked for there once"


def _bundle(folder: Path, upstream: str, registries_conf: str) -> tuple[bytes, bytes]:
    write(folder / "home/.config/containers/registries.conf", registries_conf)
    desk = cli.Desk(folder, (("XDG_RUNTIME_DIR", str(folder)),))
    desk.write_intent(f"name: box, kind: image, ref: '{upstream}/team/busybox:1', upstream: skip")
    desk.bundle("lock", "bundle.yaml")
    desk.bundle("build", "bundle.lock.json", "--out", "bundle", code=None)  # 0, or 5: no policy was given
    return (folder / "bundle/index.json").read_bytes(), (folder / "bundle.lock.json").read_bytes()


@pytest.mark.parts
def test_the_command_line_reads_logins_and_certificates_of_this_host(tmp_path: Path) -> None:
    httpd.authority(tmp_path / "pki", names=("127.0.0.1", "0.0.0.0"))
    pki = tmp_path / "pki"
    home = tmp_path / "home"
    with registries.registry(
        tmp_path / "registry", htpasswd=True, tls=(pki / "server.pem", pki / "server.key"), client_ca=pki / "ca.pem"
    ) as upstream:
        folder = home / ".config/containers/certs.d" / upstream.tls_host
        folder.mkdir(parents=True)
        for source, name in (("ca.pem", "ca.crt"), ("client.pem", "me.cert"), ("client.key", "me.key")):
            shutil.copy(pki / source, folder / name)
        creds = f"--dest-creds={registries.USER}:{registries.PASSWORD}"
        images.busybox().push(upstream.tls_host, "team/busybox:1", creds, f"--dest-cert-dir={folder}")
        desk = cli.Desk(tmp_path, (("XDG_RUNTIME_DIR", str(tmp_path)),))
        desk.write_intent(f"name: box, kind: image, ref: '{upstream.tls_host}/team/busybox:1'")
        assert "without a login" in desk.bundle("lock", "bundle.yaml", code=1).err
        (home / ".config/containers/auth.json").write_text(
            json.dumps({"auths": {f"{upstream.tls_host}/team": {"username": registries.USER, "password": registries.PASSWORD}}})
        )
        desk.bundle("lock", "bundle.yaml")
        shutil.rmtree(tmp_path / "cache")
        desk.bundle("build", "bundle.lock.json", "--out", "bundle", code=None)  # 0, or 5: no policy was given
        (folder / "me.key").unlink()
        assert "no me.key beside it" in desk.bundle("lock", "bundle.yaml", code=2).err


class Silent:
    """A server that takes connections, says nothing and hangs up; it counts them."""

    def __init__(self) -> None:
        self.count = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.count += 1
                connection.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.mark.parts
def test_a_dead_mirror_costs_a_build_one_attempt(tmp_path: Path) -> None:
    dead = Silent()
    with registries.registry(tmp_path / "upstream") as upstream:
        images.busybox().push(upstream.host, "team/busybox:1")
        write(tmp_path / "home/.config/containers/registries.conf", entry(upstream.host, dead.host))
        mirrors = Mirrors.load({}, tmp_path / "home", tmp_path / "etc")
        context = Context(
            tmp_path, Target(), None, Layout.create(tmp_path / "cache"), client(), None, lambda _: None, Registries(read_mirrors=lambda: mirrors)
        )
        locked = image.resolve("box", None, image.Options(ref=f"{upstream.host}/team/busybox:1"), context)
        assert dead.count == 2, "once for the manifest, once for the config"
        lock = Lock(name="test", stream="test", intentSha256="0" * 64, components=(locked,))
        built = build.build(lock, tmp_path / "bundle", client(), build.Options(tmp_path, registries=context.registries))
    dead.close()
    assert built.fetched.files == 4
    assert dead.count == 3
