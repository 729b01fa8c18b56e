"""Pulling from registries: real ones, and ones that want to know who asks."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import httpd, images
from parts import registry as registries
from parts.expect import refused

from airgap_images.oci import DOCKER_MANIFEST, IMAGE_MANIFEST, Descriptor, Digest
from airgap_images.reference import Reference
from airgap_images.remote.authentication import RegistryCredentials, parse_challenge
from airgap_images.remote.http import Client, Retry
from airgap_images.remote.logins import Logins
from airgap_images.remote.registry import blob, manifest
from airgap_images.remote.web import NoCredentials
from manifests.errors import NetworkError

HEX = "a" * 64
EMPTY = Descriptor("application/vnd.oci.image.config.v1+json", Digest.of(b"{}"), 2)
MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": EMPTY.to_dict(), "layers": []}).encode()


def client(ca_file: Path | None = None) -> Client:
    return Client(ca_file=ca_file, retry=Retry(attempts=1))


def logins(path: Path, host: str, password: str = registries.PASSWORD) -> Logins:
    """What `docker login` leaves, as the only file."""
    return Logins((registries.login(path, host, password=password),))


# --- challenges


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("Basic", {}),
        ('Basic realm="a, b"', {"basic": {"realm": "a, b"}}),
        (
            'Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"',
            {"bearer": {"realm": "https://a/t", "service": "s", "scope": "repository:x:pull,push"}},
        ),
        ('bearer  Realm = "x" , service=s', {"bearer": {"realm": "x", "service": "s"}}),
        ('Negotiate, Basic realm="r", Bearer realm="b"', {"basic": {"realm": "r"}, "bearer": {"realm": "b"}}),
        ('Negotiate abc==, Bearer realm="b"', {"bearer": {"realm": "b"}}),
        ('Digest realm="Bearer realm=evil", qop="auth", Basic realm="r"', {"basic": {"realm": "r"}}),
        ('Bearer realm="first",realm="second"', {"bearer": {"realm": "first"}}),
        ('Bearer realm="unfinished', {"bearer": {"realm": ""}}),
    ],
)
def test_challenges_are_read(text: str, expected: dict) -> None:
    assert parse_challenge(text) == expected


@given(st.text(alphabet='Bearbsic realm="\\,; \t', max_size=200))
def test_reading_any_challenge_ends(text: str) -> None:
    assert set(parse_challenge(text)) <= {"basic", "bearer"}


def test_an_over_long_challenge_is_refused() -> None:
    with refused(NetworkError, "WWW-Authenticate is longer"):
        parse_challenge('Bearer realm="' + "x" * 20_000)


# --- real registries


@pytest.mark.parts
def test_by_tag_and_by_digest_the_bytes_are_the_registrys(tmp_path: Path) -> None:
    with registries.registry(tmp_path) as upstream:
        images.busybox().push(upstream.host, "team/busybox:oci")
        images.busybox().push(upstream.host, "team/busybox:docker", "--format", "v2s2")
        for tag, media_type in (("oci", IMAGE_MANIFEST), ("docker", DOCKER_MANIFEST)):
            ref = Reference.parse(f"{upstream.host}/team/busybox:{tag}")
            descriptor, raw = manifest(client(), NoCredentials(), ref)
            assert raw.decode() == images.tool("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{ref.name}")
            assert (descriptor.media_type, descriptor.digest, descriptor.size) == (media_type, Digest.of(raw), len(raw))
            assert manifest(client(), NoCredentials(), ref.at(descriptor.digest)) == (descriptor, raw)
            config = Descriptor.from_dict(json.loads(raw)["config"], "test")
            assert json.loads(blob(client(), NoCredentials(), ref, config, 10_000))["os"] == "linux"
        with refused(NetworkError, "team/busybox:absent", "no such image"):
            manifest(client(), NoCredentials(), Reference.parse(f"{upstream.host}/team/busybox:absent"))


@pytest.mark.parts
def test_a_registry_with_a_private_certificate_authority(tmp_path: Path) -> None:
    ca, pair = httpd.authority(tmp_path / "ca", names=("127.0.0.1", "0.0.0.0"))
    with registries.registry(tmp_path, tls=pair) as upstream:
        images.busybox().push(upstream.tls_host, "team/busybox:1")
        ref = Reference.parse(f"{upstream.tls_host}/team/busybox:1")
        assert ref.base.startswith("https://")
        assert manifest(client(ca), NoCredentials(), ref)[0].media_type == IMAGE_MANIFEST
        with refused(NetworkError, "certificate"):
            manifest(client(), NoCredentials(), ref)


@pytest.mark.parts
def test_a_registry_with_passwords(tmp_path: Path) -> None:
    with registries.registry(tmp_path, htpasswd=True) as upstream:
        images.busybox().push(upstream.host, "team/busybox:1", f"--dest-creds={registries.USER}:{registries.PASSWORD}")
        ref = Reference.parse(f"{upstream.host}/team/busybox:1")
        for key in (upstream.host, f"http://{upstream.host}", f"https://{upstream.host}/v2/"):
            access = RegistryCredentials(client(), logins(tmp_path / "config.json", key))
            assert manifest(client(), access, ref)[0].media_type == IMAGE_MANIFEST
        wrong = RegistryCredentials(client(), logins(tmp_path / "config.json", upstream.host, password="wrong"))
        with refused(NetworkError, "team/busybox:1", "401", "asked as 'alice'"):
            manifest(client(), wrong, ref)
        with refused(NetworkError, "401", "without a login", "holds no login for it"):
            manifest(client(), RegistryCredentials(client(), logins(tmp_path / "config.json", "other.example.org")), ref)
        with refused(NetworkError, "401", "without a login", "no configuration file"):
            manifest(client(), RegistryCredentials(client()), ref)


@pytest.mark.parts
def test_a_registry_behind_a_token_server(tmp_path: Path) -> None:
    with registries.token_registry(tmp_path) as (upstream, tokens):
        creds = f"--dest-creds={registries.USER}:{registries.PASSWORD}"
        images.busybox().push(upstream.host, "public/busybox:1", creds)
        images.busybox().push(upstream.host, "team/busybox:1", creds)
        public, private = (Reference.parse(f"{upstream.host}/{folder}/busybox:1") for folder in ("public", "team"))
        tokens.asked.clear()

        assert manifest(client(), RegistryCredentials(client()), public)[0].media_type == IMAGE_MANIFEST
        with refused(NetworkError, "team/busybox:1", "401", "without a login"):
            manifest(client(), RegistryCredentials(client()), private)

        access = RegistryCredentials(client(), logins(tmp_path / "config.json", upstream.host))
        before = len(tokens.asked)
        _, raw = manifest(client(), access, private)
        config = Descriptor.from_dict(json.loads(raw)["config"], "test")
        for _ in range(3):
            assert blob(client(), access, private, config, 10_000)
        assert len(tokens.asked) == before + 1, "one token serves one repository"
        assert "scope=repository%3Ateam%2Fbusybox%3Apull" in tokens.asked[-1].path
        assert "push" not in tokens.asked[-1].path

        wrong = RegistryCredentials(client(), logins(tmp_path / "config.json", upstream.host, password="wrong"))
        with refused(NetworkError, "team/busybox", "token server answered 401", "as 'alice'"):
            manifest(client(), wrong, private)


@pytest.mark.parts
def test_an_expired_token_is_asked_for_again_and_by_one_thread_only(tmp_path: Path) -> None:
    with registries.token_registry(tmp_path) as (upstream, tokens):
        images.busybox().push(upstream.host, "public/busybox:1", f"--dest-creds={registries.USER}:{registries.PASSWORD}")
        ref = Reference.parse(f"{upstream.host}/public/busybox:1")
        asking, access = client(), RegistryCredentials(client())
        before = len(tokens.asked)
        tokens.stale = 1
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: manifest(asking, access, ref)[0], range(32)))
        assert len(set(found)) == 1
        assert len(tokens.asked) == before + 2, "one token that had expired, and one more for all threads"


# --- who is told the password


def test_nothing_is_sent_before_it_is_asked_for_nor_to_another_host(tmp_path: Path) -> None:
    with httpd.Server() as upstream, httpd.Server() as storage:
        host = upstream.origin.partition("://")[2]
        ref = Reference.parse(f"{host}/team/x:1")
        access = RegistryCredentials(client(), logins(tmp_path / "config.json", host))
        wanted = registries.basic(registries.USER, registries.PASSWORD)
        mine = {"authorization": wanted, "challenge": 'Basic realm="r"'}
        upstream.serve("/v2/team/x/manifests/1", MANIFEST, headers={"Content-Type": IMAGE_MANIFEST}, **mine)
        assert manifest(client(), access, ref)[1] == MANIFEST
        first, second = upstream.requests
        assert "authorization" not in first.headers
        assert second.headers["authorization"] == wanted

        # The blob lies elsewhere, and elsewhere wants to know who asks, in both ways there are.
        for path in ("/v2/team/x/blobs/y", "/bucket/y"):
            for challenge in ('Basic realm="r"', f'Bearer realm="{storage.origin}/token"'):
                target = storage.serve(path, b"{}", authorization="nobody has it", challenge=challenge)
                upstream.serve(f"/v2/team/x/blobs/{EMPTY.digest}", first=[(307, {"Location": target})])
                with refused(NetworkError, "127.0.0.1"):
                    blob(client(), access, ref, EMPTY, 100)
        assert len(storage.seen("/bucket/y")) == 2
        assert len(storage.seen("/token")) == 1, "only what looks like a registry may send to a token server"
        assert all("authorization" not in request.headers for request in storage.requests)


def test_a_password_that_is_refused_is_not_sent_again(tmp_path: Path) -> None:
    with httpd.Server() as upstream:
        host = upstream.origin.partition("://")[2]
        upstream.serve("/v2/team/x/manifests/1", MANIFEST, authorization="another", challenge='Basic realm="r"')
        with refused(NetworkError, "401", "asked as 'alice'"):
            manifest(
                client(), RegistryCredentials(client(), logins(tmp_path / "c.json", host)), Reference.parse(f"{host}/team/x:1")
            )
        assert len(upstream.requests) == 2


@pytest.mark.parametrize(
    "realm", ["http://192.0.2.1/token", "http://auth.example.org/token", "ftp://127.0.0.1/x", "", "https://u:p@127.0.0.1/"]
)
def test_a_token_server_that_is_not_to_be_trusted_is_told_nothing(tmp_path: Path, realm: str) -> None:
    with httpd.Server() as upstream:
        host = upstream.origin.partition("://")[2]
        access = RegistryCredentials(client(), logins(tmp_path / "config.json", host))
        upstream.serve("/v2/team/x/manifests/1", MANIFEST, authorization="x", challenge=f'Bearer realm="{realm}",service="s"')
        with refused(NetworkError, "token server"):
            manifest(client(), access, Reference.parse(f"{host}/team/x:1"))
        assert len(upstream.requests) == 1


def test_a_registry_with_tls_may_not_name_a_token_server_without(tmp_path: Path) -> None:
    ca, pair = httpd.authority(tmp_path / "ca", names=("127.0.0.1", "0.0.0.0"))
    with httpd.Server(pair) as upstream, httpd.Server() as tokens:
        host = f"0.0.0.0:{upstream.port}"
        access = RegistryCredentials(client(ca), logins(tmp_path / "config.json", host))
        realm = tokens.serve("/token", b'{"token":"x"}')
        upstream.serve("/v2/team/x/manifests/1", MANIFEST, authorization="x", challenge=f'Bearer realm="{realm}"')
        with refused(NetworkError, "names the token server", "not https"):
            manifest(client(ca), access, Reference.parse(f"{host}/team/x:1"))
        assert not tokens.requests


def test_a_token_server_gets_the_password_of_the_registry_that_named_it_and_does_not_pass_it_on(tmp_path: Path) -> None:
    with httpd.Server() as upstream, httpd.Server() as tokens, httpd.Server() as elsewhere:
        host = upstream.origin.partition("://")[2]
        config = tmp_path / "config.json"
        secret = registries.basic("mallory", "of the token server")
        config.write_text(json.dumps({"auths": {tokens.origin: {"auth": secret.split()[1]}}}))  # a login, but for another registry
        moved = elsewhere.serve("/token", b'{"token":"good"}')
        realm = tokens.serve("/token", first=[(307, {"Location": moved})] * 2)
        upstream.serve(
            "/v2/team/x/manifests/1", MANIFEST, authorization="Bearer good", challenge=f'Bearer realm="{realm}?a=b",service="s t"'
        )
        ref = Reference.parse(f"{host}/team/x:1")
        assert manifest(client(), RegistryCredentials(client(), Logins((config,))), ref)[1] == MANIFEST
        assert manifest(client(), RegistryCredentials(client(), logins(config, host)), ref)[1] == MANIFEST
        assert [request.headers.get("authorization") for request in tokens.requests] == [
            None,
            registries.basic(registries.USER, registries.PASSWORD),
        ]
        assert all("authorization" not in request.headers for request in elsewhere.requests)
        assert tokens.requests[0].path == "/token?a=b&service=s+t&scope=repository%3Ateam%2Fx%3Apull"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"token":7}', b'{"token":"a\\r\\nX-Evil: 1"}', b'{"token":""}', b"<html>"])
def test_a_token_servers_answer_without_a_usable_token(body: bytes) -> None:
    with httpd.Server() as upstream:
        realm = upstream.serve("/token", body)
        upstream.serve("/v2/team/x/manifests/1", MANIFEST, authorization="x", challenge=f'Bearer realm="{realm}"')
        with refused(NetworkError, upstream.origin):
            manifest(client(), RegistryCredentials(client()), Reference.parse(f"127.0.0.1:{upstream.port}/team/x:1"))


def test_either_name_of_a_token_will_do() -> None:
    with httpd.Server() as upstream:
        realm = upstream.serve("/token", b'{"access_token":"ey.J-_~+/="}')
        upstream.serve("/v2/team/x/manifests/1", MANIFEST, authorization="Bearer ey.J-_~+/=", challenge=f'Bearer realm="{realm}"')
        assert manifest(client(), RegistryCredentials(client()), Reference.parse(f"127.0.0.1:{upstream.port}/team/x:1"))[1] == MANIFEST
