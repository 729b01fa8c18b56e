"""Mirrors: the files podman and docker are configured by, and real registries asked in their order; what is pinned stays upstream's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from parts import httpd
from parts import registry as registries
from parts.expect import refused

from airgap_images.oci import IMAGE_MANIFEST, Descriptor, Digest
from airgap_images.reference import Reference
from airgap_images.remote.authentication import RegistryCredentials
from airgap_images.remote.http import Client, Retry
from airgap_images.remote.logins import Logins
from airgap_images.remote.mirrors import Mirrors
from airgap_images.remote.registries import Registries
from airgap_images.remote.registry import blob, find, manifest
from airgap_images.remote.web import NoCredentials
from manifests.errors import IntegrityError, InvalidFileError, NetworkError, UsageError

HEX = "a" * 64
EMPTY = Descriptor("application/vnd.oci.image.config.v1+json", Digest.of(b"{}"), 2)
MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": EMPTY.to_dict(), "layers": []}).encode()


def client() -> Client:
    return Client(retry=Retry(attempts=3, first=0.01, ceiling=0.02))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def load(folder: Path, text: str, **environment: str) -> Mirrors:
    write(folder / "home/.config/containers/registries.conf", text)
    return Mirrors.load(environment, folder / "home", folder / "etc")


def bases(mirrors: Mirrors, text: str) -> list[str]:
    return [base.removeprefix("https://") for base in mirrors.bases(Reference.parse(text))]


def entry(prefix: str, *mirrors: str, **more: str) -> str:
    """An entry whose mirrors may be asked by http, as they are on this machine."""
    lines = ["[[registry]]", f'prefix = "{prefix}"', f'location = "{prefix}"', *(f"{key} = {value}" for key, value in more.items())]
    for mirror in mirrors:
        location, _, pull = mirror.partition(" ")
        lines += ["[[registry.mirror]]", f'location = "{location}"', "insecure = true", *([f'pull-from-mirror = "{pull}"'] if pull else [])]
    return "\n".join(lines) + "\n"


# --- what the files say


def test_without_files_a_registry_is_itself(tmp_path: Path) -> None:
    mirrors = Mirrors.load({}, tmp_path / "home", tmp_path / "etc")
    assert mirrors == Mirrors()
    assert bases(mirrors, "busybox") == ["registry-1.docker.io/v2/library/busybox"]
    assert mirrors.bases(Reference.parse("127.0.0.1:5000/a/b:1")) == ("http://127.0.0.1:5000/v2/a/b",)


CONFIG = """
unqualified-search-registries = ["other.example"]
short-name-mode = "enforcing"
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "one.example"
[[registry.mirror]]
location = "two.example:5000/proxy/hub/"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "three.example"
pull-from-mirror = "tag-only"
[[registry]]
prefix = "docker.io/team"
location = "moved.example/hub-team"
[[registry]]
prefix = "*.corp.example"
[[registry.mirror]]
location = "corp-mirror.example/all"
[[registry]]
prefix = "quay.io/closed"
location = "quay.io/closed"
blocked = true
[[registry]]
location = "gcr.io"
blocked = true
mirror-by-digest-only = true
[[registry.mirror]]
location = "gcr-mirror.example"
"""


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("busybox:1", ["one.example/v2/library/busybox", "three.example/v2/library/busybox", "registry-1.docker.io/v2/library/busybox"]),
        (f"busybox@sha256:{HEX}", ["one.example/v2/library/busybox", "two.example:5000/v2/proxy/hub/library/busybox",
                                   "registry-1.docker.io/v2/library/busybox"]),
        ("index.docker.io/team/app:1", ["moved.example/v2/hub-team/app"]),
        ("teams/app:1", ["one.example/v2/teams/app", "three.example/v2/teams/app", "registry-1.docker.io/v2/teams/app"]),
        ("a.b.corp.example/x/y:1", ["corp-mirror.example/v2/all/x/y", "a.b.corp.example/v2/x/y"]),
        ("corp.example/x:1", ["corp.example/v2/x"]),
        ("notcorp.example/x:1", ["notcorp.example/v2/x"]),
        ("quay.io/open/x:1", ["quay.io/v2/open/x"]),
        ("quay.io/closedx/x:1", ["quay.io/v2/closedx/x"]),
        (f"gcr.io/x/y@sha256:{HEX}", ["gcr-mirror.example/v2/x/y"]),
        ("ghcr.io/x:1", ["ghcr.io/v2/x"]),
    ],
)  # fmt: skip
def test_an_entry_gives_the_order_of_registries(tmp_path: Path, ref: str, expected: list[str]) -> None:
    assert bases(load(tmp_path, CONFIG), ref) == expected


@pytest.mark.parametrize("ref", ["quay.io/closed:1", "quay.io/closed/x:1", "gcr.io/x/y:1"])
def test_a_blocked_registry_without_a_mirror_is_not_asked(tmp_path: Path, ref: str) -> None:
    with refused(UsageError, ref, "registries.conf: registry[", "blocks this registry"):
        load(tmp_path, CONFIG).bases(Reference.parse(ref))


def test_files_are_read_where_podman_reads_them(tmp_path: Path) -> None:
    home, etc = tmp_path / "home", tmp_path / "etc"
    system, own = etc / "containers", home / ".config/containers"

    def one(folder: Path, name: str, mirror: str) -> None:
        write(folder / name, entry("r.example", f"{mirror}.example").replace("insecure = true", ""))

    def first(**environment: str) -> str:
        return bases(Mirrors.load(environment, home, etc), "r.example/x:1")[0].partition(".")[0]

    one(system, "registries.conf", "system")
    assert first() == "system"
    one(system, "registries.conf.d/10-a.conf", "drop-in")
    one(system, "registries.conf.d/20-b.conf", "later")
    write(system / "registries.conf.d/30-c.txt", "not read")
    assert first() == "later"
    one(own, "registries.conf.d/a.conf", "own-drop-in")
    assert first() == "own-drop-in"
    one(own, "registries.conf", "own")
    assert first() == "own-drop-in"
    (own / "registries.conf.d/a.conf").unlink()
    assert first() == "own", "a user's own file stands for the system's folder, too"
    one(tmp_path, "named.conf", "named")
    assert first(CONTAINERS_REGISTRIES_CONF=str(tmp_path / "named.conf")) == "later"
    shutil.rmtree(system / "registries.conf.d")
    assert first(CONTAINERS_REGISTRIES_CONF=str(tmp_path / "named.conf")) == "named"
    with refused(InvalidFileError, "absent.conf", "cannot read"):
        first(CONTAINERS_REGISTRIES_CONF=str(tmp_path / "absent.conf"))


def test_dockers_own_mirrors_are_for_docker_hub_where_nothing_else_is_said(tmp_path: Path) -> None:
    write(tmp_path / "etc/docker/daemon.json", '{"registry-mirrors": ["https://a.example/", "https://b.example:5000"], "debug": true}')
    mirrors = Mirrors.load({}, tmp_path / "home", tmp_path / "etc")
    assert bases(mirrors, "busybox:1") == [f"{host}/v2/library/busybox" for host in ("a.example", "b.example:5000", "registry-1.docker.io")]
    assert bases(mirrors, "ghcr.io/x:1") == ["ghcr.io/v2/x"]
    write(tmp_path / "home/.config/containers/registries.conf", '[[registry]]\nlocation = "docker.io"\n')
    assert bases(Mirrors.load({}, tmp_path / "home", tmp_path / "etc"), "busybox:1") == ["registry-1.docker.io/v2/library/busybox"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[registry]", ["registries.conf", "not TOML"]),
        ("a = " + "[" * 100_000, ["registries.conf", "not TOML"]),
        ("[registries.search]\nregistries = ['x']", ["`registries`", "version 1"]),
        ("registry = 7", ["registry: not a list of tables"]),
        ("[registry]\nlocation = 'x.example'", ["registry: not a list of tables"]),
        ("[[registry]]\nblocked = true", ["registry[0]", "neither `location`"]),
        ("[[registry]]\nprefix = 'x.example'", ["registry[0]", "neither `location`"]),
        ("[[registry]]\nlocation = 7", ["registry[0].location: not a text"]),
        ("[[registry]]\nlocation = 'x.example'\nblocked = 'yes'", ["registry[0].blocked: neither true nor false"]),
        ("[[registry]]\nlocation = 'x.example'\n[[registry.mirror]]\ninsecure = true", ["registry[0].mirror[0].location: is missing"]),
        ("[[registry]]\nlocation = 'x.example'\n[[registry.mirror]]\nlocation = 'y.example'\npull-from-mirror = 'never'",
         ["registry[0].mirror[0].pull-from-mirror", "'never' is not one of"]),
        ("[[registry]]\nlocation = 'x.example'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'y.example'\npull-from-mirror = 'all'",
         ["registry[0].mirror[0].pull-from-mirror", "exclude each other"]),
        ("#" * (1 << 20) + "##", ["larger than 1048576 bytes"]),
    ],
)  # fmt: skip
def test_a_broken_file_is_named_with_its_key(tmp_path: Path, text: str, words: list[str]) -> None:
    with refused(InvalidFileError, str(tmp_path / "home"), *words):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("mirror", "words"),
    [
        ("location = 'mirror/hub'", ["mirror[0]", "'mirror/hub' does not begin with host[:port]"]),
        ("location = 'https://m.example'", ["mirror[0]", "'https://m.example'"]),
        ("location = 'm.example/../x'", ["mirror[0]", "which is no repository"]),
        ("location = 'm.example/UPPER'", ["mirror[0]", "which is no repository"]),
        ("location = 'm.example'\ninsecure = true", ["mirror[0]", "m.example is `insecure`"]),
        ("location = 'm.example:80'\ninsecure = true", ["m.example:80 is `insecure`"]),
    ],
)
def test_a_mirror_that_may_not_be_asked_is_an_error_where_it_is_wanted(tmp_path: Path, mirror: str, words: list[str]) -> None:
    mirrors = load(tmp_path, f"[[registry]]\nlocation = 'r.example'\n[[registry.mirror]]\n{mirror}")
    assert bases(mirrors, "other.example/x:1") == ["other.example/v2/x"]
    with refused(InvalidFileError, *words):
        mirrors.bases(Reference.parse("r.example/x:1"))


def test_a_registry_without_certificate_checks_is_refused_unless_it_is_this_machine(tmp_path: Path) -> None:
    text = "".join(f"[[registry]]\nlocation = '{host}'\ninsecure = true\n" for host in ("r.example", "127.0.0.1:5000"))
    mirrors = load(tmp_path, text)
    assert mirrors.bases(Reference.parse("127.0.0.1:5000/x:1")) == ("http://127.0.0.1:5000/v2/x",)
    with refused(InvalidFileError, "registry[0]", "r.example is `insecure`") as caught:
        mirrors.bases(Reference.parse("r.example/x:1"))
    assert "certs.d/r.example/ca.crt" in caught.value.hint


@pytest.mark.parametrize(
    "value", ['{"registry-mirrors": 7}', '{"registry-mirrors": ["m.example"]}', '{"registry-mirrors": ["https://m.example/x"]}', "{",
              '{"registry-mirrors": ["https://u:p@m.example"]}', '{"registry-mirrors": [7]}'],
)  # fmt: skip
def test_a_broken_daemon_file_is_named(tmp_path: Path, value: str) -> None:
    path = write(tmp_path / "etc/docker/daemon.json", value)
    with refused(InvalidFileError, str(path)):
        Mirrors.load({}, tmp_path / "home", tmp_path / "etc")
    write(path, '{"registry-mirrors": ["http://m.example"]}')
    with refused(InvalidFileError, str(path), "registry-mirrors[0]", "m.example is `insecure`"):
        Mirrors.load({}, tmp_path / "home", tmp_path / "etc").bases(Reference.parse("busybox:1"))


def test_addresses_are_of_what_is_asked_for_by_digest(tmp_path: Path) -> None:
    mirrors = load(tmp_path, CONFIG)
    upstream = "https://registry-1.docker.io/v2/library/busybox"
    for kind in ("blobs", "manifests"):
        url = f"{upstream}/{kind}/sha256:{HEX}"
        assert mirrors.addresses(url) == (
            f"https://one.example/v2/library/busybox/{kind}/sha256:{HEX}", f"https://two.example:5000/v2/proxy/hub/library/busybox/{kind}/sha256:{HEX}", url,
        )  # fmt: skip
    for url in (f"{upstream}/manifests/1", "https://docker.io/file", f"{upstream}/blobs/sha256:{HEX}/x", f"{upstream}/blobs/sha256:{HEX}?x=1"):
        assert mirrors.addresses(url) == (url,)
    assert mirrors.addresses(f"https://gcr.io/v2/x/blobs/sha256:{HEX}") == (f"https://gcr-mirror.example/v2/x/blobs/sha256:{HEX}",)


def test_the_files_are_read_when_an_image_is_asked_for_and_once(tmp_path: Path) -> None:
    path = write(tmp_path / ".config/containers/registries.conf", "[")
    broken = Registries.load({}, tmp_path, tmp_path / "etc")
    with refused(InvalidFileError, str(path)):
        _ = broken.mirrors
    write(path, "")
    known = Registries.load({}, tmp_path, tmp_path / "etc")
    assert known.mirrors is known.mirrors
    assert Registries().mirrors == Mirrors()


# --- who is asked


@pytest.fixture
def upstream():
    with httpd.Server() as server:
        yield server


@pytest.fixture
def mirror():
    with httpd.Server() as server:
        yield server


def host(server: httpd.Server) -> str:
    return f"127.0.0.1:{server.port}"


def serve(server: httpd.Server, raw: bytes = MANIFEST, selector: str = "1", repository: str = "team/x", **faults) -> None:
    server.serve(f"/v2/{repository}/manifests/{selector}", raw, headers={"Content-Type": IMAGE_MANIFEST}, **faults)


def test_a_mirrors_answer_counts_and_upstream_is_not_asked(tmp_path: Path, upstream, mirror) -> None:
    mirrors = load(tmp_path, entry(host(upstream), f"{host(mirror)}/proxy"))
    serve(mirror, repository="proxy/team/x")
    mirror.serve(f"/v2/proxy/team/x/blobs/{EMPTY.digest}", b"{}")
    ref = Reference.parse(f"{host(upstream)}/team/x:1")
    assert manifest(client(), NoCredentials(), ref, mirrors=mirrors)[1] == MANIFEST
    assert find(client(), NoCredentials(), ref, mirrors=mirrors) == manifest(client(), NoCredentials(), ref, mirrors=mirrors)
    assert blob(client(), NoCredentials(), ref, EMPTY, 100, mirrors=mirrors) == b"{}"
    assert not upstream.requests


@pytest.mark.parametrize(
    "faults", [{"first": [(404, {})]}, {"first": [(503, {})]}, {"first": [(401, {})]}, {"drop_after": 3}, {"endless": True}, {"stall_after": 3}, None]
)
def test_a_mirror_that_has_nothing_or_fails_is_asked_once_and_passed_over(tmp_path: Path, upstream, mirror, faults) -> None:
    mirrors = load(tmp_path, entry(host(upstream), host(mirror)))
    if faults is not None:
        serve(mirror, **faults)
    serve(upstream)
    asking = Client(retry=Retry(attempts=3, first=0.01, ceiling=0.02), stall_timeout=1)
    assert manifest(asking, NoCredentials(), Reference.parse(f"{host(upstream)}/team/x:1"), mirrors=mirrors)[1] == MANIFEST
    assert (len(mirror.requests), len(upstream.requests)) == (1, 1)


def test_a_mirror_that_is_not_there_is_passed_over_and_named_if_all_fails(tmp_path: Path, upstream) -> None:
    mirrors = load(tmp_path, entry(host(upstream), "127.0.0.1:1"))
    ref = Reference.parse(f"{host(upstream)}/team/x:1")
    with refused(NetworkError, str(ref), "no such image", "mirrors before it", "127.0.0.1:1"):
        manifest(client(), NoCredentials(), ref, mirrors=mirrors)
    assert find(client(), NoCredentials(), ref, mirrors=mirrors) is None
    serve(upstream, first=[(503, {}), (503, {})])
    assert manifest(client(), NoCredentials(), ref, mirrors=mirrors)[1] == MANIFEST, "the last one is asked again"


def test_a_mirror_that_lies_ends_it_by_its_name(tmp_path: Path, upstream, mirror) -> None:
    mirrors = load(tmp_path, entry(host(upstream), host(mirror)))
    digest = str(Digest.of(MANIFEST))
    ref = Reference.parse(f"{host(upstream)}/team/x@{digest}")
    serve(mirror, MANIFEST + b" ", digest)
    mirror.serve(f"/v2/team/x/blobs/{EMPTY.digest}", b"[]")
    for server in (upstream,):
        serve(server, MANIFEST, digest)
    with refused(IntegrityError, str(ref), f"at {mirror.origin}", "other bytes"):
        manifest(client(), NoCredentials(), ref, mirrors=mirrors)
    with refused(IntegrityError, f"at {mirror.origin}", "other bytes"):
        blob(client(), NoCredentials(), ref, EMPTY, 100, mirrors=mirrors)
    assert not upstream.requests


def test_what_is_asked_for_by_digest_goes_to_the_mirrors_of_digests(tmp_path: Path, upstream, mirror) -> None:
    mirrors = load(tmp_path, entry(host(upstream), f"{host(mirror)}/tags tag-only", f"{host(mirror)}/digests digest-only"))
    ref = Reference.parse(f"{host(upstream)}/team/x:1")
    serve(mirror, repository="tags/team/x")
    mirror.serve(f"/v2/digests/team/x/blobs/{EMPTY.digest}", b"{}")
    assert manifest(client(), NoCredentials(), ref, mirrors=mirrors)[1] == MANIFEST
    assert blob(client(), NoCredentials(), ref, EMPTY, 100, mirrors=mirrors) == b"{}"
    assert [request.path.split("/")[2] for request in mirror.requests] == ["tags", "digests"]
    assert not upstream.requests


def test_each_registry_gets_its_own_login(tmp_path: Path, upstream, mirror) -> None:
    mirrors = load(tmp_path, entry(host(upstream), f"{host(mirror)}/proxy"))
    config = {host(upstream): ("up", "1"), f"{host(mirror)}/proxy/team": ("mirror", "2")}
    auths = {key: {"username": user, "password": password} for key, (user, password) in config.items()}
    logins = Logins((write(tmp_path / "auth.json", json.dumps({"auths": auths})),))
    challenge = 'Basic realm="r"'
    serve(mirror, repository="proxy/team/x", authorization="nobody", challenge=challenge)
    serve(upstream, authorization=registries.basic("up", "1"), challenge=challenge)
    ref = Reference.parse(f"{host(upstream)}/team/x:1")
    assert manifest(client(), RegistryCredentials(client(), logins), ref, mirrors=mirrors)[1] == MANIFEST
    assert [request.headers.get("authorization") for request in mirror.requests] == [None, registries.basic("mirror", "2")]
    moved = load(tmp_path, entry(host(upstream)).replace(f'location = "{host(upstream)}"', f'location = "{host(mirror)}/proxy"'))
    with refused(NetworkError, "401", "asked as 'mirror'") as caught:
        manifest(client(), RegistryCredentials(client(), logins), ref, mirrors=moved)
    assert f"docker login {host(mirror)}" in caught.value.hint
