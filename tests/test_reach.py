"""From a site's file to its targets: each as the site says, none that it does not name, and all let go of."""

from __future__ import annotations

import importlib
import json
import sys
import urllib.request
from pathlib import Path

import pytest
from parts import bundles, images
from parts import cli as commands
from parts import containerd as containers
from parts import podman as podmen
from parts import registry as registries
from parts.expect import refused
from parts.stored import NAME, cargo, indexed, stored

from airgap_images.bundle import Component, TreeFile, component_descriptor, write_index, write_tree
from airgap_images.layout import Layout
from airgap_images.oci import Digest
from audit import reach
from bundler import sign
from manifests import canonical, site
from manifests.errors import SiteError
from manifests.site import Site


def loaded(folder: Path, text: str) -> Site:
    (folder / "site.yaml").write_text(text)
    return site.load(folder / "site.yaml")


def test_a_site_without_targets_has_none() -> None:
    with reach.targets(Site(), {}, "x86_64") as found:
        assert found == ()


def test_each_is_made_as_the_site_says_and_connects_to_nothing_yet(tmp_path: Path) -> None:
    cases = {
        "engine: docker\ndocker_socket: none.sock\n": ("docker", {"image"}),
        "engine: podman\npodman: {root: p}\n": ("podman", {"image"}),
        "engine: containerd\ncontainerd: {address: none.sock, namespace: k8s.io}\n": ("containerd", {"image"}),
        'registry: {host: "registry.site:5000", prefix: mirror}\n': ("registry registry.site:5000/mirror", {"image"}),
        'registry: {host: "registry.site:5000", trees: true}\n': ("registry registry.site:5000", {"image", "tree"}),
        "layout: out\n": (f"layout {tmp_path}/out", {"image", "tree"}),
    }
    for text, (name, forms) in cases.items():
        here = loaded(tmp_path, text)
        with reach.targets(here, {"HOME": str(tmp_path)}, "x86_64") as (target,):
            assert (target.name, set(target.forms)) == (name, forms)
            assert target.name.partition(" ")[0] in here.targets
            assert target.notes == ()


def test_an_engine_and_a_registry_at_once(tmp_path: Path) -> None:
    here = loaded(tmp_path, 'engine: podman\nregistry: {host: "registry.site:5000"}\n')
    with reach.targets(here, {"HOME": str(tmp_path)}, "aarch64") as found:
        assert [target.name for target in found] == ["podman", "registry registry.site:5000"]


def test_a_registry_without_pycurl_is_said_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = loaded(tmp_path, 'registry: {host: "registry.site:5000"}\n')
    for name in [name for name in sys.modules if name.startswith("airgap_images.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pycurl", None)
    with refused(SiteError, "pycurl package for Python is not installed") as caught, reach.targets(here, {}, "x86_64"):
        pass
    assert "airgap-bundler[registry]" in caught.value.hint


def test_the_sites_certificate_is_for_its_registry_only(tmp_path: Path) -> None:
    here = loaded(tmp_path, 'registry: {host: "registry.site:443", ca_file: ca.pem}\n')
    tls = reach._tls(here.registry, {"HOME": str(tmp_path)})
    web = importlib.import_module("airgap_images.remote.web")
    assert tls("registry.site") == web.Tls(ca_file=tmp_path / "ca.pem")
    assert tls("elsewhere.example") is None


@pytest.mark.parts
def test_a_machine_gets_its_own_platform(tmp_path: Path) -> None:
    store = Layout.create(tmp_path / "store")
    root, both = indexed(store, ours=True)
    with containers.containerd() as running:
        here = loaded(tmp_path, f"engine: containerd\ncontainerd: {{address: {running.place.address}}}\n")
        for machine, architecture in (("aarch64", "arm64"), ("x86_64", "amd64")):
            with reach.targets(here, {}, machine) as (target,):
                assert target.load(store, cargo(root, f"{architecture}:1")).id == str(both[architecture].digest)


@pytest.mark.parts
@pytest.mark.parametrize("kind", ["podman", "containerd"])
def test_by_the_commands_from_a_site_file_to_a_running_container_and_back(tmp_path: Path, kind: str) -> None:
    who = bundles.site(tmp_path / "keys")
    layout = Layout.create(tmp_path / "bundle")
    described = component_descriptor(stored(layout), name="server", kind="image", form="image", facts={"reference": NAME})
    write_index(layout, [Component("server", "image", "image", None, described)], {sign.STREAM: bundles.STREAM, "airgap.bundle": "test"})
    for at, name in enumerate(("alice", "bob")):
        sign.sign(tmp_path / "bundle", who.key(name), bundles.terms(1 if at == 0 else None))
    (tmp_path / "policy.json").write_bytes(who.policy_raw)
    with (podmen.podman if kind == "podman" else containers.containerd)() as running:
        options = {
            "podman": f"podman: {{root: {running.folder}/root, runroot: {running.folder}/run, storage_driver: vfs}}",
            "containerd": f"containerd: {{address: {running.folder}/c.sock}}",
        }
        (tmp_path / "site.yaml").write_text(f"store: store\nengine: {kind}\n{options[kind]}\n")
        desk, here = commands.Desk(tmp_path), ("--site", "site.yaml")
        now = ("--now", canonical.stamp(bundles.NOW))
        done = desk.audit("install", "bundle", "--policy", "policy.json", *here, *now, "--json", code=None, isolated=True)
        assert done.code in {0, 5}, "what other checks cannot assess is not this test's"
        (place,) = done.json["receipt"]["images"][0]["placements"]
        assert (place["target"], NAME in place["tags"]) == (kind, True)
        assert running.run(NAME) == f"{images.GREETING}\n"
        desk.audit("check", *here, isolated=True, code=5)
        assert "server taken out of its targets" in desk.audit("uninstall", *here, isolated=True).out
        assert not (running.images() if kind == "podman" else running.names())


@pytest.mark.parts
def test_by_the_commands_into_a_registry_and_a_folder_at_once_and_out_of_both(tmp_path: Path) -> None:
    who = bundles.site(tmp_path / "keys")
    layout = Layout.create(tmp_path / "bundle")
    root, _ = indexed(layout)
    server = component_descriptor(root, name="server", kind="image", form="image", facts={"reference": NAME})
    files = write_tree(layout, [TreeFile("a.txt", layout.put(b"a"), 1)])
    docs = component_descriptor(files, name="docs", kind="path", form="tree")
    parts = [Component("server", "image", "image", None, server), Component("docs", "path", "tree", None, docs)]
    write_index(layout, parts, {sign.STREAM: bundles.STREAM, "airgap.bundle": "test"})
    for at, name in enumerate(("alice", "bob")):
        sign.sign(tmp_path / "bundle", who.key(name), bundles.terms(1 if at == 0 else None))
    (tmp_path / "policy.json").write_bytes(who.policy_raw)
    with registries.registry(tmp_path / "registry") as running:
        (tmp_path / "site.yaml").write_text(f"store: store\nregistry: {{host: '{running.host}', prefix: site, trees: true}}\nlayout: out\n")
        desk, here = commands.Desk(tmp_path), ("--site", "site.yaml")
        done = desk.audit("install", "bundle", "--policy", "policy.json", *here, "--now", canonical.stamp(bundles.NOW), "--json", code=None)
        assert done.code in {0, 5}, done.err
        receipt = done.json["receipt"]
        assert {place["target"]: place["id"] for place in receipt["images"][0]["placements"]} == {
            f"registry {running.host}/site": str(root.digest),
            f"layout {tmp_path}/out": str(root.digest),
        }
        assert len(receipt["trees"][0]["placements"]) == 2
        raw = images.tool("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{running.host}/site/team/busybox:1.0")
        assert Digest.of(raw.encode()) == root.digest
        desk.audit("check", *here, code=5)
        out = desk.audit("uninstall", *here).out
        assert "server taken out of its targets" in out
        assert "docs taken out of its targets" in out
        tags = json.loads(urllib.request.urlopen(f"http://{running.host}/v2/site/team/busybox/tags/list").read())
        assert not tags["tags"]
    assert list((tmp_path / "out/blobs/sha256").glob("*")) == []
