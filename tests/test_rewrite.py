"""The retag map and what others read of it: golden texts, and the real podman, skopeo, containerd and Docker pulling by them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml
from parts import cargo, images
from parts import containerd as containerds
from parts import engine as engines
from parts import podman as podmans
from parts import registry as registries

from airgap_images.layout import Layout
from airgap_images.oci import Digest
from airgap_images.placing.push import RegistryTarget
from airgap_images.reference import Reference
from airgap_images.remote.http import Client
from airgap_images.remote.web import NoCredentials
from airgap_images.targets import Cargo
from manifests import projections
from manifests.errors import InvalidFileError
from manifests.rewrite import Name, Rewrite, as_path

DIGEST = "sha256:" + "a1" * 32
VLLM = "docker.io/vllm/vllm-openai:v0.32.0"
SITE = Rewrite("registry.site:5000", "mirror/llm")
KEEPING = Rewrite("registry.site:5000", "mirror", keep_registry=True)


@pytest.mark.parametrize(
    ("rewrite", "original", "site"),
    [
        (SITE, VLLM, "registry.site:5000/mirror/llm/vllm/vllm-openai:v0.32.0"),
        (KEEPING, VLLM, "registry.site:5000/mirror/docker.io/vllm/vllm-openai:v0.32.0"),
        (Rewrite("registry.site"), VLLM, "registry.site/vllm/vllm-openai:v0.32.0"),
        (Rewrite("localhost"), "busybox", "localhost/library/busybox:latest"),
        (Rewrite("[::1]:5000"), "index.docker.io/busybox:1", "[::1]:5000/library/busybox:1"),
        (SITE, f"quay.io/team/tool@{DIGEST}", f"registry.site:5000/mirror/llm/team/tool@{DIGEST}"),
        (SITE, f"quay.io/team/tool:1@{DIGEST}", f"registry.site:5000/mirror/llm/team/tool:1@{DIGEST}"),
        (KEEPING, "localhost:5000/tool:1", "registry.site:5000/mirror/localhost-5000/tool:1"),
        (KEEPING, "[fd00::1]:443/tool:1", "registry.site:5000/mirror/fd00-1-443/tool:1"),
    ],
)
def test_only_the_place_changes(rewrite, original, site):
    assert rewrite.site(original) == site
    assert str(Reference.parse(site)) in {site, Reference.parse(site).name}  # a name everybody understands


@pytest.mark.parametrize("text", ["busybox", "team/tool", "team/tool:1", "quay.io/a/b", f"quay.io/a/b:1@{DIGEST}", f"a/b@{DIGEST}", "localhost/x:1",
                                  "registry-1.docker.io/x:1", "Quay.IO/a/b:1"])  # fmt: skip
def test_names_are_written_out_as_the_puller_does(text):
    assert str(Name.parse(text)) == str(Reference.parse(text.lower()))


@pytest.mark.parametrize("text", ["", "UPPER/x", "a b", "quay.io/", "quay.io/a:", "x@sha256:12", f"x@{DIGEST}0", "x:1:2", "../x", "a//b", "x:-1", "http://quay.io/x"])
def test_what_is_no_name(text):
    with pytest.raises(InvalidFileError, match="not an image reference"):
        SITE.site(text)


@pytest.mark.parametrize(("host", "prefix"), [("registry", ""), ("", ""), ("https://registry.site", ""), ("registry.site/x", ""), ("registry.site:", ""),
                                              ("registry.site", "/x"), ("registry.site", "x/"), ("registry.site", "X"), ("registry.site", "a..b")])  # fmt: skip
def test_what_is_no_place(host, prefix):
    with pytest.raises(InvalidFileError, match="registry"):
        Rewrite(host, prefix)


def test_two_originals_never_become_one():
    with pytest.raises(InvalidFileError, match=r"docker\.io/team/tool:1 and quay\.io/team/tool:1 would both be registry\.site:5000/mirror/llm/team/tool:1") as caught:
        SITE.mapping(["quay.io/team/tool:1", "docker.io/team/tool:1"])
    assert "keep_registry" in caught.value.hint
    with pytest.raises(InvalidFileError, match="would both be"):
        SITE.mapping([f"quay.io/team/tool:1@{DIGEST}", "docker.io/team/tool:1"])
    with pytest.raises(InvalidFileError, match="would both be"):
        KEEPING.mapping(["a.b:5000/x:1", "a.b-5000/x:1"])
    assert len(KEEPING.mapping(["quay.io/team/tool:1", "docker.io/team/tool:1"])) == 2
    same = SITE.mapping(["busybox", "docker.io/library/busybox:latest", "index.docker.io/library/busybox"])
    assert same == (("docker.io/library/busybox:latest", "registry.site:5000/mirror/llm/library/busybox:latest"),)
    both = SITE.mapping(["quay.io/a/b:1", f"quay.io/a/b:1@{DIGEST}", f"quay.io/a/b@{DIGEST}"])
    assert [site.partition("/mirror/llm")[2] for _, site in both] == ["/a/b:1", f"/a/b:1@{DIGEST}", f"/a/b@{DIGEST}"]


def test_as_path():
    assert [as_path(text) for text in ("quay.io", "localhost:5000", "[::1]:5000")] == ["quay.io", "localhost-5000", "1-5000"]


MAP = SITE.mapping([VLLM, f"quay.io/team/tool@{DIGEST}"])


def test_the_table():
    assert projections.table(MAP) == f"""{{
 "docker.io/vllm/vllm-openai:v0.32.0": "registry.site:5000/mirror/llm/vllm/vllm-openai:v0.32.0",
 "quay.io/team/tool@{DIGEST}": "registry.site:5000/mirror/llm/team/tool@{DIGEST}"
}}
"""
    assert projections.registries(MAP) == ("docker.io", "quay.io")


def test_the_values():
    text = projections.values(MAP)
    assert text == f"""images:
  docker.io/vllm/vllm-openai:v0.32.0:
    digest: ''
    image: registry.site:5000/mirror/llm/vllm/vllm-openai:v0.32.0
    registry: registry.site:5000
    repository: mirror/llm/vllm/vllm-openai
    tag: v0.32.0
  quay.io/team/tool@{DIGEST}:
    digest: {DIGEST}
    image: registry.site:5000/mirror/llm/team/tool@{DIGEST}
    registry: registry.site:5000
    repository: mirror/llm/team/tool
    tag: ''
"""
    assert yaml.safe_load(projections.values(SITE.mapping(["x/y:1.10", "x/y:010", "x/y:true"])))["images"]["docker.io/x/y:1.10"]["tag"] == "1.10"


def test_registries_conf():
    text = projections.registries_conf(SITE, ["quay.io", "docker.io"])
    assert text == """# What these registries are asked for comes from the site's own.
[[registry]]
prefix = "docker.io"
location = "registry.site:5000/mirror/llm"

[[registry]]
prefix = "quay.io"
location = "registry.site:5000/mirror/llm"
"""
    plain = tomllib.loads(projections.registries_conf(KEEPING, ["docker.io"], plain=True))
    assert plain == {"registry": [{"prefix": "docker.io", "location": "registry.site:5000/mirror/docker.io", "insecure": True}]}


def test_hosts_toml():
    files = dict(projections.hosts_toml(SITE, ["quay.io", "docker.io"], ca_file="/etc/site/ca.pem"))
    assert sorted(files) == ["docker.io/hosts.toml", "quay.io/hosts.toml"]
    assert files["docker.io/hosts.toml"] == """server = "https://registry.site:5000/v2/mirror/llm"
capabilities = ["pull", "resolve"]
override_path = true
ca = "/etc/site/ca.pem"

[host."https://registry.site:5000/v2/mirror/llm"]
  capabilities = ["pull", "resolve"]
  override_path = true
  ca = "/etc/site/ca.pem"
"""
    ((_, root),) = projections.hosts_toml(Rewrite("registry.site:5000"), ["docker.io"], plain=True)
    assert tomllib.loads(root) == {
        "server": "http://registry.site:5000", "capabilities": ["pull", "resolve"],
        "host": {"http://registry.site:5000": {"capabilities": ["pull", "resolve"]}},
    }  # fmt: skip


def test_daemon_json_says_what_it_can_and_refuses_the_rest():
    text = projections.daemon_json(Rewrite("registry.site:5000"), ["docker.io"])
    assert json.loads(text) == {"registry-mirrors": ["https://registry.site:5000"]}
    assert json.loads(projections.daemon_json(Rewrite("10.0.0.1:5000"), ["docker.io"], plain=True))["insecure-registries"] == ["10.0.0.1:5000"]
    for rewrite, upstream, message in (
        (SITE, ["docker.io"], "must be a registry's root, not registry.site:5000/mirror/llm"),
        (Rewrite("registry.site", keep_registry=True), ["docker.io"], "root"),
        (Rewrite("registry.site"), ["docker.io", "quay.io"], "cannot stand for quay.io"),
    ):
        with pytest.raises(InvalidFileError, match=message):
            projections.daemon_json(rewrite, upstream)


# By the texts themselves, with no way out to the upstream registry.


@dataclass(frozen=True)
class Far:
    """A registry that has busybox as docker.io's, below three places."""

    host: str
    digest: str

    def rewrite(self, prefix: str, *, keep: bool = False) -> Rewrite:
        return Rewrite(self.host, prefix, keep)


UPSTREAM = "docker.io/library/busybox:1.36"
PLACES = [("", False), ("mirror/llm", False), ("mirror", True)]


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    folder = tmp_path_factory.mktemp("far")
    layout = Layout.create(folder / "store")
    root = cargo.busybox(layout)
    with registries.registry(folder / "registry") as running:
        for prefix, keep in PLACES:
            target = RegistryTarget(Client(), NoCredentials(), Rewrite(running.host, prefix, keep))
            target.load(layout, Cargo("busybox", "image", root, (UPSTREAM,)))
        yield Far(running.host, str(root.digest))


@pytest.mark.parts
@pytest.mark.parametrize(("prefix", "keep"), PLACES)
def test_skopeo_copies_by_registries_conf(far, tmp_path, prefix, keep):
    conf = tmp_path / "registries.conf"
    conf.write_text(projections.registries_conf(far.rewrite(prefix, keep=keep), ["docker.io"], plain=True))
    images.tool("skopeo", f"--registries-conf={conf}", "copy", "--quiet", "--preserve-digests", f"docker://{UPSTREAM}", f"dir:{tmp_path / 'd'}")
    assert str(Digest.of((tmp_path / "d" / "manifest.json").read_bytes())) == far.digest


@pytest.mark.parts
def test_podman_pulls_by_registries_conf(far, tmp_path, monkeypatch):
    conf = tmp_path / "registries.conf"
    conf.write_text(projections.registries_conf(far.rewrite("mirror", keep=True), ["docker.io"], plain=True))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    with podmans.podman() as podman:
        done = podman.podman("pull", UPSTREAM)
        assert done.returncode == 0, done.stderr
        assert podman.run(UPSTREAM) == f"{images.GREETING}\n"
        assert podman.podman("pull", f"docker.io/library/busybox@{far.digest}").returncode == 0


@pytest.mark.parts
def test_containerd_pulls_by_hosts_toml(far, tmp_path):
    with containerds.containerd() as containerd:
        for at, (prefix, keep) in enumerate(PLACES):
            folder = tmp_path / str(at)
            for path, text in projections.hosts_toml(far.rewrite(prefix, keep=keep), ["docker.io"], plain=True):
                (folder / path).parent.mkdir(parents=True)
                (folder / path).write_text(text)
            options = ("--hosts-dir", str(folder), f"--snapshotter={containerd.place.snapshotter}")
            done = containerd.ctr("images", "pull", *options, UPSTREAM)
            assert done.returncode == 0, (prefix, done.stderr)
            assert containerd.names() == {UPSTREAM: far.digest}
            assert containerd.ctr("images", "rm", "--sync", UPSTREAM).returncode == 0


@pytest.mark.parts
def test_docker_pulls_by_daemon_json(far):
    with engines.engine(projections.daemon_json(far.rewrite(""), ["docker.io"], plain=True)) as docker:
        done = docker.docker("pull", "busybox:1.36")
        assert done.returncode == 0, done.stderr
        assert docker.run("busybox:1.36") == f"{images.GREETING}\n"
        assert f"busybox@{far.digest}" in docker.docker("image", "inspect", "busybox:1.36").stdout
