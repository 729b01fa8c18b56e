"""Logins: the files of docker and podman, real credential helpers, and real registries that take them."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path

import pytest
from parts import httpd, images
from parts import registry as registries
from parts.expect import refused

from airgap_images.oci import IMAGE_MANIFEST
from airgap_images.reference import Reference
from airgap_images.remote import credential_helper
from airgap_images.remote.authentication import RegistryCredentials
from airgap_images.remote.http import Client, Retry
from airgap_images.remote.logins import Login, Logins
from airgap_images.remote.registry import manifest
from manifests.errors import InvalidFileError, NetworkError


def client() -> Client:
    return Client(retry=Retry(attempts=1))


def auth(user: str, password: str = "p") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def written(path: Path, config: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))
    return path


def of(path: Path, config: object, environment: dict[str, str] | None = None) -> Logins:
    return Logins((written(path, config),), environment)


def helper(folder: Path, name: str, script: str) -> dict[str, str]:
    """Put a credential helper into a folder of its own and return an environment that finds it."""
    folder.mkdir(exist_ok=True)
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "SEEN": str(folder / "seen")}


ANSWERS = 'read -r server; echo "$@ $server" >>"$SEEN"; echo \'{"ServerURL":"x","Username":"alice","Secret":"correct horse"}\''


# --- where


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in (".docker/config.json", "dockers/config.json", ".config/containers/auth.json", "set/containers/auth.json",
                 "run/containers/auth.json", "named.json"):  # fmt: skip
        written(tmp_path / name, {"auths": {"r.example": auth(name)}})
    return tmp_path


def test_files_are_read_where_podman_and_docker_keep_them_in_podmans_order(home: Path) -> None:
    everything = {
        "REGISTRY_AUTH_FILE": f"{home}/named.json", "XDG_RUNTIME_DIR": f"{home}/run", "XDG_CONFIG_HOME": f"{home}/set",
        "DOCKER_CONFIG": f"{home}/dockers",
    }  # fmt: skip
    steps = [
        ("REGISTRY_AUTH_FILE", "named.json"),
        ("XDG_RUNTIME_DIR", "run/containers/auth.json"),
        ("XDG_CONFIG_HOME", "set/containers/auth.json"),
        ("DOCKER_CONFIG", ".config/containers/auth.json"),
    ]
    environment = dict(everything)
    for variable, expected in steps:
        assert Logins.load(environment, home).find("r.example").user == expected
        (home / expected).unlink() if variable == "DOCKER_CONFIG" else environment.pop(variable)
    assert Logins.load({"XDG_RUNTIME_DIR": f"{home}/none", "DOCKER_CONFIG": f"{home}/dockers"}, home).find("r.example").user == "dockers/config.json"
    assert Logins.load({"XDG_RUNTIME_DIR": f"{home}/none"}, home).find("r.example").user == ".docker/config.json"
    assert Logins.load({"XDG_RUNTIME_DIR": f"{home}/none", "HOME": str(home)}).find("r.example").user == ".docker/config.json"


def test_a_file_without_the_registry_leaves_it_to_the_next(home: Path) -> None:
    written(home / "run/containers/auth.json", {"auths": {"other.example": auth("x")}})
    environment = {"XDG_RUNTIME_DIR": f"{home}/run"}
    assert Logins.load(environment, home).find("r.example").user == ".config/containers/auth.json"
    assert Logins.load({**environment, "REGISTRY_AUTH_FILE": f"{home}/absent.json"}, home).find("r.example").words == (
        "without a login (there is no configuration file with one)"
    )
    none = Logins.load(environment, home).find("q.example")
    assert not none.usable
    assert all(str(home / name) in none.why_not for name in ("run/containers/auth.json", ".docker/config.json"))


# --- which key


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        ("team/app/web", "repository"),
        ("team/app", "namespace"),
        ("team/other", "namespace"),
        ("teams/app", "host"),
        ("other", "host"),
        ("", "host"),
    ],
)
def test_the_most_specific_key_wins(tmp_path: Path, repository: str, expected: str) -> None:
    keys = {"r.example:5000/team": "namespace", "r.example:5000": "host", "r.example:5000/team/app/web": "repository", "r.example": "none"}
    logins = of(tmp_path / "auth.json", {"auths": {key: auth(user) for key, user in keys.items()}})
    assert logins.find("r.example:5000", repository).user == expected


def test_logins_are_found_under_every_name_of_docker_hub(tmp_path: Path) -> None:
    for key in ("https://index.docker.io/v1/", "index.docker.io/v1/", "docker.io", "registry-1.docker.io", "https://docker.io"):
        logins = of(tmp_path / "config.json", {"auths": {key: auth("me")}})
        assert logins.find("docker.io", "library/busybox").user == "me"
        assert logins.find("registry-1.docker.io").user == "me"
        assert not logins.find("ghcr.io").usable
    hub = of(tmp_path / "config.json", {"auths": {"docker.io/mine": auth("part")}})
    assert hub.find("docker.io", "mine/app").usable
    assert not hub.find("docker.io", "library/busybox").usable


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"credsStore": "absent"}, "credential helper 'absent' is not a program in PATH"),
        ({"credsStore": "../bin/sh"}, "'../bin/sh' is not a program"),
        ({"credsStore": "a b"}, "'a b' is not a program"),
        ({"credHelpers": {"ghcr.io": "absent"}}, "'absent' is not a program"),
        ({"credHelpers": {"ghcr.io": 7}}, "'7' is not a program"),
        ({"credHelpers": {"other.io": "absent"}}, "holds no login for it"),
        ({"credsStore": "absent", "auths": {"ghcr.io": auth("u")}}, None),
        ({"auths": {"ghcr.io": {"identitytoken": "x", "auth": "eDo="}}}, None),
        ({"auths": {"ghcr.io": {"auth": "bm9jb2xvbg=="}}, "HttpHeaders": {}}, None),
        ({"auths": {"ghcr.io": {"username": "u", "password": "p"}}}, None),
        ({"auths": {"ghcr.io": {"username": "u"}}}, "holds no user and password"),
        ({"auths": {"ghcr.io": {}}}, "holds no login for it"),
        ({"auths": []}, "holds no login for it"),
    ],
)
def test_what_a_configuration_file_holds(tmp_path: Path, config: dict, why: str | None) -> None:
    login = of(tmp_path / "config.json", config, {"PATH": "/usr/bin:/bin"}).find("ghcr.io")
    assert login.usable is (why is None)
    assert (why or "") in login.why_not


@pytest.mark.parametrize("text", ["", "[]", "{", '{"auths":{"ghcr.io":{"auth":"%%%"}}}', '{"auths":{"ghcr.io":{"auth":"/w=="}}}'])
def test_a_broken_configuration_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with refused(InvalidFileError, str(path)):
        Logins((path,)).find("ghcr.io")


def test_secrets_are_not_shown() -> None:
    for login in (Login("user", "secret"), Login("user", identity_token="secret"), credential_helper.Told("user", "secret")):
        assert "secret" not in repr(login)
    assert Login("user", "secret").words == "as 'user'"
    assert "secret" not in Login("user", identity_token="secret").words


# --- helpers


def test_a_helper_is_asked_once_and_by_the_registrys_name(tmp_path: Path) -> None:
    environment = helper(tmp_path / "bin", "keys", ANSWERS)
    logins = of(tmp_path / "config.json", {"credHelpers": {"r.example:5000": "keys"}, "credsStore": "absent"}, environment)
    for _ in range(3):
        login = logins.find("r.example:5000", "team/app")
        assert (login.user, login.password) == ("alice", "correct horse")
    assert Path(environment["SEEN"]).read_text() == "get r.example:5000\n"
    assert not logins.find("r.example").usable


def test_a_store_is_asked_for_all_and_for_docker_hub_by_its_old_name(tmp_path: Path) -> None:
    environment = helper(tmp_path / "bin", "all", ANSWERS)
    logins = of(tmp_path / "config.json", {"credsStore": "all", "auths": {"https://index.docker.io/v1/": {}}}, environment)
    assert logins.find("docker.io", "library/busybox").usable
    assert logins.find("ghcr.io").usable
    assert Path(environment["SEEN"]).read_text() == "get https://index.docker.io/v1/\nget ghcr.io\n"


def test_docker_hub_may_have_its_new_name_in_a_helper(tmp_path: Path) -> None:
    script = 'read -r s; case $s in docker.io) echo \'{"Username":"new","Secret":"s"}\';; *) echo credentials not found in native keychain; exit 1;; esac'
    logins = of(tmp_path / "config.json", {"credHelpers": {"docker.io": "new"}}, helper(tmp_path / "bin", "new", script))
    assert logins.find("docker.io").user == "new"


def test_a_helper_that_holds_none_leaves_it_to_the_file(tmp_path: Path) -> None:
    environment = helper(tmp_path / "bin", "empty", "cat >/dev/null; echo credentials not found in native keychain; exit 1")
    config = {"credHelpers": {"r.example": "empty"}, "auths": {"r.example": auth("file")}}
    assert of(tmp_path / "config.json", config, environment).find("r.example").user == "file"
    config = {"credsStore": "empty"}
    assert of(tmp_path / "config.json", config, environment).find("r.example").why_not == "credential helper 'empty' holds no login for it"


def test_a_helper_that_is_named_by_a_path_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = helper(tmp_path / "bin", "x", ANSWERS)
    (tmp_path / "evil").write_text(f"#!/bin/sh\n{ANSWERS}\n")
    (tmp_path / "evil").chmod(0o755)
    (tmp_path / "docker-credential-x").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("x/../evil", "x ", "x\n", "x" * 65):
        assert "is not a program" in of(tmp_path / "c.json", {"credsStore": name}, environment).find("r.example").why_not
    assert not (tmp_path / "bin/seen").exists()


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo oh '\033[31m' no >&2; echo topsecret; exit 3", "ended with 3: oh \N{REPLACEMENT CHARACTER}[31m no"),
        ("exit 1", "ended with 1"),
        ("echo '{}'", "something else than a user and a secret"),
        ("echo '{\"Username\":\"topsecret\"'", "something else"),
        ('echo \'{"Username":"u","Secret":7}\'', "something else"),
        ('echo \'{"Username":"u","Secret":""}\'', "something else"),
        ("head -c 200000 /dev/zero", "did not end within"),
        ("head -c 200000 /dev/zero >&2", "did not end within"),
        ("kill -9 $$", "ended with -9"),
    ],
)
def test_a_helper_that_fails_is_a_reason_and_its_output_a_secret(tmp_path: Path, script: str, why: str) -> None:
    environment = helper(tmp_path / "bin", "bad", script)
    login = of(tmp_path / "config.json", {"credsStore": "bad"}, environment).find("r.example")
    assert not login.usable
    assert why in login.words
    assert "topsecret" not in login.words


def test_a_helper_that_hangs_is_given_up_also_when_what_it_left_behind_holds_the_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credential_helper, "TIMEOUT", 0.3)
    for script in ("sleep 60", "sleep 60 & echo x; exit 0", "exec >/dev/null 2>/dev/null; exec sleep 60"):
        begun = time.monotonic()
        environment = helper(tmp_path / "bin", "slow", script)
        assert "did not end within 0.3 s" in of(tmp_path / "c.json", {"credsStore": "slow"}, environment).find("r.example").why_not
        assert time.monotonic() - begun < 5


def test_a_helper_that_cannot_be_run(tmp_path: Path) -> None:
    environment = helper(tmp_path / "bin", "odd", "")
    (tmp_path / "bin/docker-credential-odd").write_bytes(b"#!/nonexistent/interpreter\n")
    assert "cannot be run" in of(tmp_path / "c.json", {"credsStore": "odd"}, environment).find("r.example").why_not


def test_the_password_is_in_no_argument(tmp_path: Path) -> None:
    environment = helper(tmp_path / "bin", "args", 'cat /proc/$$/cmdline >"$SEEN"; cat /proc/$$/environ >>"$SEEN"; ' + ANSWERS)
    assert of(tmp_path / "c.json", {"credsStore": "args", "auths": {"q.example": auth("u", "hunter2")}}, environment).find("r.example").usable
    assert "hunter2" not in Path(environment["SEEN"]).read_text()


# --- real registries


@pytest.mark.parts
def test_a_registry_takes_what_a_helper_and_a_namespaced_key_hold(tmp_path: Path) -> None:
    with registries.registry(tmp_path, htpasswd=True) as upstream:
        images.busybox().push(upstream.host, "team/busybox:1", f"--dest-creds={registries.USER}:{registries.PASSWORD}")
        ref = Reference.parse(f"{upstream.host}/team/busybox:1")
        environment = helper(tmp_path / "bin", "keys", ANSWERS)
        right, wrong = auth(registries.USER, registries.PASSWORD), auth("wrong")
        for config in (
            {"credHelpers": {upstream.host: "keys"}},
            {"auths": {f"{upstream.host}/team": right, upstream.host: wrong}},
            {"auths": {f"{upstream.host}/team/busybox": right, f"{upstream.host}/team": wrong}},
        ):
            access = RegistryCredentials(client(), of(tmp_path / "auth.json", config, environment))
            assert manifest(client(), access, ref)[0].media_type == IMAGE_MANIFEST
        access = RegistryCredentials(client(), of(tmp_path / "auth.json", {"auths": {f"{upstream.host}/teams": right}}))
        with refused(NetworkError, "401", "without a login"):
            manifest(client(), access, ref)
        broken = helper(tmp_path / "bin", "broken", "echo the vault is locked >&2; exit 1")
        access = RegistryCredentials(client(), of(tmp_path / "auth.json", {"credsStore": "broken"}, broken))
        with refused(NetworkError, "401", "credential helper 'broken' ended with 1: the vault is locked"):
            manifest(client(), access, ref)


@pytest.mark.parts
def test_a_registry_takes_an_identity_token_from_a_file_and_from_a_helper(tmp_path: Path) -> None:
    with registries.token_registry(tmp_path) as (upstream, tokens):
        images.busybox().push(upstream.host, "team/busybox:1", f"--dest-creds={registries.USER}:{registries.PASSWORD}")
        ref = Reference.parse(f"{upstream.host}/team/busybox:1")
        told = json.dumps({"Username": "<token>", "Secret": registries.REFRESH})
        environment = helper(tmp_path / "bin", "token", f"cat >/dev/null; echo '{told}'")
        for config in (
            {"auths": {upstream.host: {"identitytoken": registries.REFRESH}}},
            {"auths": {upstream.host: {"identitytoken": registries.REFRESH, **auth("00000000-0000-0000-0000-000000000000", "")}}},
            {"credsStore": "token"},
        ):
            tokens.asked.clear()
            access = RegistryCredentials(client(), of(tmp_path / "config.json", config, environment))
            assert manifest(client(), access, ref)[0].media_type == IMAGE_MANIFEST
            asked = tokens.asked[-1]
            assert (asked.method, asked.path) == ("POST", "/token")
            assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
            assert "authorization" not in asked.headers
            assert b"scope=repository%3Ateam%2Fbusybox%3Apull&" in asked.body + b"&"
        stale = RegistryCredentials(client(), of(tmp_path / "config.json", {"auths": {upstream.host: {"identitytoken": "topsecret"}}}))
        with refused(NetworkError, "token server answered 401", "with an identity token") as caught:
            manifest(client(), stale, ref)
        assert "topsecret" not in caught.value.message + caught.value.hint


def test_an_identity_token_is_sent_to_the_token_server_and_not_where_that_sends_us(tmp_path: Path) -> None:
    with httpd.Server() as upstream, httpd.Server() as elsewhere:
        host = upstream.origin.partition("://")[2]
        access = RegistryCredentials(client(), of(tmp_path / "c.json", {"auths": {host: {"identitytoken": "topsecret"}}}))
        realm = upstream.serve("/token", first=[(307, {"Location": elsewhere.serve("/token", b'{"token":"x"}')})])
        upstream.serve("/v2/team/x/manifests/1", authorization="x", challenge=f'Bearer realm="{realm}"')
        with refused(NetworkError, "/token", "redirect 307"):
            manifest(client(), access, Reference.parse(f"{host}/team/x:1"))
        assert not elsewhere.requests
        upstream.serve("/v2/team/x/manifests/1", authorization="x", challenge='Basic realm="r"')
        with refused(NetworkError, "401"):
            manifest(client(), access, Reference.parse(f"{host}/team/x:1"))
        assert all("authorization" not in request.headers for request in upstream.requests)


@pytest.mark.parts
def test_pushing_asks_for_both_actions_and_for_the_sources_of_this_registry_only(tmp_path: Path) -> None:
    with registries.token_registry(tmp_path) as (upstream, tokens):
        access = RegistryCredentials(
            client(),
            Logins((registries.login(tmp_path / "c.json", upstream.host),)),
            actions="pull,push",
            sources=tuple(map(Reference.parse, (f"{upstream.host}/team/base", "other.example/secret", f"{upstream.host}/team/app"))),
        )
        answer = client().send("POST", f"http://{upstream.host}/v2/team/app/blobs/uploads/", limit=1000, credentials=access)
        assert answer.status == 202
        assert tokens.asked[-1].path.endswith("scope=repository%3Ateam%2Fapp%3Apull%2Cpush&scope=repository%3Ateam%2Fbase%3Apull")
        refresh = RegistryCredentials(
            client(), of(tmp_path / "c.json", {"auths": {upstream.host: {"identitytoken": registries.REFRESH}}}), actions="pull,push",
            sources=(Reference.parse(f"{upstream.host}/team/base"),),
        )  # fmt: skip
        answer = client().send("POST", f"http://{upstream.host}/v2/team/app/blobs/uploads/", limit=1000, credentials=refresh)
        assert answer.status == 202
        assert b"scope=repository%3Ateam%2Fapp%3Apull%2Cpush+repository%3Ateam%2Fbase%3Apull" in tokens.asked[-1].body
