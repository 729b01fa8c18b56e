"""site.yaml: where things go, or an error that says on which line what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from parts.expect import refused
from pydantic import ValidationError

from manifests import site
from manifests.errors import InvalidFileError
from manifests.site import ContainerdPlace, PodmanStorage, Site, SiteRegistry


def written(folder: Path, text: str) -> Path:
    path = folder / "site.yaml"
    path.write_text(text)
    return path


def test_a_site_nobody_wrote_about_shares_bytes_and_has_no_engine():
    here = Site()
    assert (str(here.store), here.engine, here.docker_socket, here.copy_files) == ("/srv/airgap", "none", None, False)


def test_every_field_is_read(tmp_path):
    here = site.load(written(tmp_path, "store: /data/store\nengine: docker\ndocker_socket: /run/user/1/docker.sock\ncopy: true\n"))
    assert here == Site(store=Path("/data/store"), engine="docker", docker_socket=Path("/run/user/1/docker.sock"), copy=True)


def test_every_target_is_read_and_its_paths_are_relative_to_the_file(tmp_path):
    text = """
store: s
engine: containerd
containerd: {address: c.sock, namespace: k8s.io, snapshotter: native}
registry: {host: "registry.site:5000", prefix: mirror/llm, keep_registry: true, ca_file: ca.pem, trees: true}
layout: out
"""
    here = site.load(written(tmp_path, text))
    assert here == Site(
        store=tmp_path / "s",
        engine="containerd",
        containerd=ContainerdPlace(address=tmp_path / "c.sock", namespace="k8s.io", snapshotter="native"),
        registry=SiteRegistry(host="registry.site:5000", prefix="mirror/llm", keep_registry=True, ca_file=tmp_path / "ca.pem", trees=True),
        layout=tmp_path / "out",
    )
    assert here.targets == ("containerd", "registry", "layout")
    here = site.load(written(tmp_path, "engine: podman\npodman: {root: p, runroot: /r, storage_driver: vfs}\n"))
    assert here.podman == PodmanStorage(root=tmp_path / "p", runroot=Path("/r"), storage_driver="vfs")
    assert (here.targets, Site().targets) == (("podman",), ())


def test_a_relative_store_is_relative_to_the_file_and_not_to_the_caller(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    written(tmp_path / "deep", "store: ./store\n")
    monkeypatch.chdir(tmp_path)
    assert site.load(Path("deep/site.yaml")).store == tmp_path / "deep" / "store"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("store: /s\nengine: crio\n", ("site.yaml:2", "engine", "'none', 'docker', 'podman' or 'containerd'", "'crio'")),
        ("engine: docker\npodman: {root: /p}\n", ("site.yaml:1", "podman: options for it, but the engine is docker")),
        ("containerd: {namespace: k8s.io}\n", ("site.yaml:1", "containerd: options for it, but the engine is none")),
        ("engine: podman\npodman: {storage_driver: --root=/}\n", ("site.yaml:2", "storage_driver")),
        ("engine: containerd\ncontainerd: {namespace: a b}\n", ("site.yaml:2", "namespace")),
        ("engine: containerd\ncontainerd: {adress: /x}\n", ("site.yaml:2", "adress", "not permitted")),
        ("registry: {prefix: x}\n", ("site.yaml:1", "registry.host", "nothing")),
        ("registry: {host: 'https://x.y'}\n", ("site.yaml:1", "registry.host")),
        ("registry: {host: 'x.y:5000', prefix: /x}\n", ("site.yaml:1", "registry.prefix")),
        ("stroe: /s\n", ("site.yaml:1", "stroe", "not permitted")),
        ("store: 3\n", ("site.yaml:1", "store", "3")),
        ("copy: 'yes'\n", ("site.yaml:1", "copy", "boolean")),
        ("store: [/s]\n", ("site.yaml:1", "store")),
    ],
)
def test_what_is_not_a_site_is_refused_with_line_field_and_what_was_got(tmp_path, text, words):
    with refused(InvalidFileError, *words):
        site.load(written(tmp_path, text))


def test_the_hint_names_the_fields_as_they_are_written(tmp_path):
    with pytest.raises(InvalidFileError) as caught:
        site.load(written(tmp_path, "stroe: /s\n"))
    assert caught.value.hint == "fields here: store, engine, docker_socket, podman, containerd, registry, layout, verifier, copy"


def test_a_site_never_changes():
    with pytest.raises(ValidationError):
        Site().store = Path("/elsewhere")  # type: ignore[misc]
