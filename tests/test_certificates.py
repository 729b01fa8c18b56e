"""Certificates of one host: where they are looked for, and that a real registry and real TLS take them, at that host only."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from parts import httpd, images
from parts import registry as registries
from parts.expect import refused

from airgap_images.oci import IMAGE_MANIFEST
from airgap_images.reference import Reference
from airgap_images.remote.authentication import RegistryCredentials
from airgap_images.remote.certificates import Certificates
from airgap_images.remote.http import Client, HttpError, Retry, Tls, TransferError
from airgap_images.remote.logins import Logins
from airgap_images.remote.registry import manifest
from manifests.errors import InvalidFileError, NetworkError

NAMES = ("127.0.0.1", "0.0.0.0", "localhost")
QUICK = Retry(attempts=3, first=0.01, ceiling=0.05)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    httpd.authority(folder, names=NAMES)
    return folder


def pair(pki: Path) -> tuple[Path, Path]:
    return pki / "server.pem", pki / "server.key"


def client(tls: Callable[[str], Tls | None], **options) -> Client:
    return Client(tls=tls, retry=QUICK, connect_timeout=5, stall_timeout=2, **options)


def put(folder: Path, pki: Path, **files: str) -> Path:
    """Copy files of the authority into a folder of certs.d: `put(folder, pki, ca_crt="ca.pem")`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in files.items():
        shutil.copy(pki / source, folder / name.replace("_", "."))
    return folder


# --- where


def test_folders_are_read_in_containers_order_and_the_first_counts(tmp_path: Path, pki: Path) -> None:
    places = [tmp_path / "home/.config/containers/certs.d", tmp_path / "etc/containers/certs.d", tmp_path / "etc/docker/certs.d"]
    for place in places:
        put(place / "r.example:5000", pki, ca_crt="ca.pem")
    for place in places:
        found = Certificates.load(tmp_path / "home", tmp_path / "etc")("r.example:5000")
        assert found == Tls(ca_file=place / "r.example:5000/ca.crt")
        shutil.rmtree(place)
    assert Certificates.load(tmp_path / "home", tmp_path / "etc")("r.example:5000") is None


def test_only_the_hosts_own_folder_is_read_and_its_usual_port_may_be_named(tmp_path: Path, pki: Path) -> None:
    for host in ("a.example", "b.example:443", "[::1]:5000", "c.example:5000"):
        put(tmp_path / host, pki, ca_crt="ca.pem")
    found = Certificates((tmp_path,))
    assert all(found(host) for host in ("a.example", "b.example", "[::1]:5000", "c.example:5000"))
    assert not any(found(host) for host in ("a.example:5000", "c.example", "[::1]", "sub.a.example", "example"))


def test_every_authority_and_the_one_pair_are_taken(tmp_path: Path, pki: Path) -> None:
    folder = put(tmp_path / "r.example", pki, b_crt="ca.pem", a_crt="ca.pem", me_cert="client.pem", me_key="client.key", notes_txt="ca.pem")
    found = Certificates((tmp_path,))("r.example")
    assert found is not None
    assert found.ca_files == (folder / "a.crt", folder / "b.crt")
    assert (found.certificate, found.key) == (folder / "me.cert", folder / "me.key")
    (tmp_path / "empty.example").mkdir()
    assert Certificates((tmp_path,))("empty.example") is None


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"me_cert": "client.pem"}, ["me.cert", "no me.key beside it"]),
        ({"me_key": "client.key"}, ["me.key", "no me.cert beside it"]),
        ({"me_cert": "client.pem", "you_key": "client.key"}, ["me.cert", "no me.key beside it"]),
        ({"a_cert": "client.pem", "a_key": "client.key", "b_cert": "client.pem", "b_key": "client.key"}, ["holds 2 client certificates"]),
    ],
)
def test_half_a_pair_and_two_pairs_are_refused(tmp_path: Path, pki: Path, files: dict[str, str], words: list[str]) -> None:
    put(tmp_path / "r.example", pki, **files)
    with refused(InvalidFileError, "r.example", *words):
        Certificates((tmp_path,))("r.example")


# --- TLS


def test_an_authority_is_trusted_at_its_host_and_beside_the_others(tmp_path: Path, pki: Path) -> None:
    httpd.authority(tmp_path / "other", names=NAMES)
    asked: list[str] = []
    with httpd.Server(pair(pki)) as server, httpd.Server(pair(tmp_path / "other")) as other:
        mine, theirs = f"127.0.0.1:{server.port}", f"127.0.0.1:{other.port}"

        def tls(host: str) -> Tls | None:
            asked.append(host)
            return Tls(ca_file=pki / "ca.pem") if host == mine else None

        url, elsewhere = server.serve("/a", b"x"), other.serve("/b", b"y")
        system = client(tls, ca_file=tmp_path / "other" / "ca.pem")
        assert system.get(url, limit=1).body == b"x"
        assert system.get(elsewhere, limit=1).body == b"y"
        assert asked == [mine, theirs]
        assert client(lambda _: Tls(ca_file=pki / "ca.pem"), ca_file=tmp_path / "other" / "ca.pem").get(elsewhere, limit=1).body == b"y"
        server.serve("/b", b"", first=[(307, {"Location": elsewhere})])
        assert system.get(f"{server.origin}/b", limit=1).body == b"y", "asked anew for the host a redirect leads to"
        assert asked[2:] == [mine, theirs]
        with refused(TransferError, mine, "certificate"):
            client(lambda host: Tls(ca_file=pki / "ca.pem") if host == theirs else None).get(url, limit=1)
        both = client(lambda _: Tls(ca_file=pki / "ca.pem", more_ca_files=(tmp_path / "other" / "ca.pem",)))
        assert both.get(url, limit=1).body + both.get(elsewhere, limit=1).body == b"xy"


def test_http_has_no_certificates() -> None:
    def never(host: str) -> Tls | None:
        raise AssertionError(host)

    with httpd.Server() as server:
        assert client(never).get(server.serve("/a", b"x"), limit=1).body == b"x"


def test_a_certificate_of_ours_is_shown_at_its_host_only(tmp_path: Path, pki: Path) -> None:
    me = Tls(pki / "ca.pem", pki / "client.pem", pki / "client.key")
    with httpd.Server(pair(pki), client_ca=pki / "ca.pem") as server, httpd.Server(pair(pki), client_ca=pki / "ca.pem") as other:
        mine = f"127.0.0.1:{server.port}"
        url = server.serve("/a", b"x")
        assert client(lambda _: me).get(url, limit=1).body == b"x"
        assert client(lambda _: me).send("POST", url, body=b"y", limit=1).body == b"x"
        stranger = client(lambda _: Tls(pki / "ca.pem"), sleep=lambda _: None)
        with refused(TransferError, f"127.0.0.1:{server.port}"):
            stranger.get(url, limit=1)
        target = other.serve("/b", b"z")
        server.serve("/to", first=[(307, {"Location": target})] * 9)
        with refused(TransferError, f"127.0.0.1:{other.port}"):
            client(lambda host: me if host == mine else Tls(pki / "ca.pem")).get(f"{server.origin}/to", limit=1)
        assert not other.requests


def test_that_a_certificate_is_wanted_is_said_and_asking_again_does_not_help(pki: Path) -> None:
    """The alert comes after the handshake, and is lost where the server's reset overtakes it: one of many will do."""
    said = set()
    with httpd.Server(pair(pki), client_ca=pki / "ca.pem") as server:
        once = Client(tls=lambda _: Tls(pki / "ca.pem"), retry=Retry(attempts=1))
        for _ in range(50):
            with pytest.raises(TransferError) as caught:
                once.get(server.serve("/a", b"x"), limit=1)
            if "certificate required" in caught.value.message:
                said.add((caught.value.retryable, "certs.d" in caught.value.hint))
                break
    assert said == {(False, True)}


@pytest.mark.parametrize(("certificate", "key"), [("client.pem", "locked.key"), ("client.pem", "server.key"), ("client.pem", "absent")])
def test_a_key_that_cannot_be_used_is_an_error_and_nobody_is_asked_for_its_passphrase(pki: Path, certificate: str, key: str) -> None:
    with httpd.Server(pair(pki), client_ca=pki / "ca.pem") as server:
        with pytest.raises(TransferError) as caught:
            client(lambda _: Tls(pki / "ca.pem", pki / certificate, pki / key)).get(server.serve("/a", b"x"), limit=1)
        assert not caught.value.retryable
        assert "certs.d" in caught.value.hint


def test_an_authority_file_that_is_none_or_absent_is_named(tmp_path: Path, pki: Path) -> None:
    with httpd.Server(pair(pki)) as server:
        url = server.serve("/a", b"x")
        with refused(InvalidFileError, str(tmp_path / "absent.crt")):
            client(lambda _: Tls(tmp_path / "absent.crt")).get(url, limit=1)
        (tmp_path / "bad.crt").write_text("no certificate")
        with pytest.raises(TransferError):
            client(lambda _: Tls(tmp_path / "bad.crt"), ca_file=tmp_path / "bad.crt").get(url, limit=1)


@pytest.mark.parts
def test_a_real_registry_that_wants_password_and_certificate(tmp_path: Path, pki: Path) -> None:
    with registries.registry(tmp_path / "registry", htpasswd=True, tls=pair(pki), client_ca=pki / "ca.pem") as upstream:
        host = upstream.tls_host
        folder = put(tmp_path / "certs.d" / host, pki, ca_crt="ca.pem", me_cert="client.pem", me_key="client.key")
        images.busybox().push(host, "team/busybox:1", f"--dest-creds={registries.USER}:{registries.PASSWORD}", f"--dest-cert-dir={folder}")
        ref = Reference.parse(f"{host}/team/busybox:1")
        logins = Logins((registries.login(tmp_path / "config.json", host),))
        known = client(Certificates((tmp_path / "certs.d",)))
        assert manifest(known, RegistryCredentials(known, logins), ref)[0].media_type == IMAGE_MANIFEST
        with refused(NetworkError, "401", "without a login"):
            manifest(known, RegistryCredentials(known), ref)
        for name in ("me.cert", "me.key"):
            (folder / name).unlink()
        stranger = client(Certificates((tmp_path / "certs.d",)))
        with refused(TransferError, host, "certificate"):
            manifest(stranger, RegistryCredentials(stranger, logins), ref)
        shutil.rmtree(folder)
        nobody = client(Certificates((tmp_path / "certs.d",)))
        with refused(TransferError, host, "certificate"):
            manifest(nobody, RegistryCredentials(nobody, logins), ref)
        assert issubclass(HttpError, NetworkError)
