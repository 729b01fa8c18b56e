"""The whole promise about images: signed for several platforms upstream, the same in every place inside, proven there with no network.

Signed by the real `cosign` in both shapes, attested, with an SBOM; from a real registry through the two commands into a bundle; from
there, in a network namespace where only loopback is up or no network at all, into a real registry, Docker, Podman, containerd.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from parts import containerd as containerds
from parts import cosign as cosigns
from parts import engine as engines
from parts import images
from parts import podman as podmans
from parts import registry as registries
from parts.cli import Desk
from parts.images import tool
from parts.signed import Pushed, Repository
from parts.upstream import VENDOR as PRESS

pytestmark = [pytest.mark.parts, pytest.mark.network]

SLSA = "https://slsa.dev/provenance/v1"
PROVENANCE = {"buildDefinition": {"buildType": "x", "externalParameters": {}}, "runDetails": {"builder": {"id": "b"}}}


@dataclass(frozen=True)
class Upstream:
    """What upstream published: the index, its two manifests, and everything beside them, by tag or digest as the registry has it."""

    name: str  # host/repository:tag
    index: bytes
    cosign: cosigns.Cosign

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.index).hexdigest()}"

    def platform(self, architecture: str) -> dict:
        return next(entry for entry in json.loads(self.index)["manifests"] if entry["platform"]["architecture"] == architecture)


@dataclass(frozen=True)
class Carried:
    """A signed bundle and the policy it is judged by; its upstream registry is gone."""

    desk: Desk
    upstream: Upstream
    kept: dict[str, bytes]  # what upstream's registry had, by tag


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Carried:
    folder = tmp_path_factory.mktemp("accepted")
    desk = Desk(folder)
    (folder / "home").mkdir()
    with registries.registry(folder / "upstream") as running:
        upstream = publish(running, folder)
        policy(desk, upstream)
        desk.write_intent(f"name: server, kind: image, ref: {json.dumps(upstream.name)}, platforms: all", "name: notes, kind: path, path: notes")
        (folder / "notes").mkdir()
        (folder / "notes/operator.md").write_text("read me\n")
        desk.bundle("lock", "bundle.yaml")
        desk.bundle("build", "bundle.lock.json", "--out", "bundle", "--policy", "policy.json")
        kept = {tag: raw(f"{upstream.name.rsplit(':', 1)[0]}:{tag}") for tag in tags(running, "team/server")}
    desk.sign("bundle")
    return Carried(desk, upstream, kept)


def publish(running: registries.Registry, folder: Path) -> Upstream:
    """Push an index of two platforms and let cosign sign, attest and describe it."""
    for architecture in ("amd64", "arm64"):
        images.busybox(architecture).push(running.host, f"team/server:{architecture}")
    entries = []
    for architecture in ("amd64", "arm64"):
        manifest = raw(f"{running.host}/team/server:{architecture}")
        listed = Pushed(manifest, json.loads(manifest).get("mediaType", "application/vnd.oci.image.manifest.v1+json"), f"linux/{architecture}")
        entries.append(listed.entry)
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
    repository = Repository(running, "team/server")
    pushed = repository.push(index, "1.0")
    name = f"{running.host}/team/server@{pushed.name}"
    cosign = cosigns.cosign(folder / "cosign")
    cosign.key("vendor")
    cosign.sign("vendor", name)  # the older shape: a tag .sig
    repository.listed |= {pushed.name: []}
    repository.signature(pushed, PRESS)  # the newer shape: a referrer; cosign 2.5 signs in the older one only
    cosign.attest("vendor", name, "slsaprovenance1", PROVENANCE)
    cosign.attest("vendor", name, "slsaprovenance1", PROVENANCE, "--new-bundle-format")
    repository.listed[pushed.name] = json.loads(raw(f"{running.host}/team/server:sha256-{pushed.digest.hex}"))["manifests"]
    repository.sbom(pushed)
    return Upstream(f"{running.host}/team/server:1.0", pushed.raw, cosign)


def policy(desk: Desk, upstream: Upstream) -> None:
    desk.trust()
    repository = upstream.name.rsplit(":", 1)[0]
    desk.bundle("policy", "upstream-key", "policy.json", "--identity", f"vendor={upstream.cosign.folder / 'vendor.pub'}")
    (desk.folder / "press.pub").write_text(PRESS.pem)
    desk.bundle("policy", "upstream-key", "policy.json", "--identity", "press=press.pub")
    signed_by = ("--signed-by", "vendor", "--signed-by", "press")
    desk.bundle("policy", "upstream-image", "policy.json", "--match", repository, *signed_by, "--attestation", f"{SLSA}=vendor")


def raw(name: str) -> bytes:
    return tool("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}").encode()


def tags(running: registries.Registry, repository: str) -> list[str]:
    return json.loads(tool("skopeo", "list-tags", "--tls-verify=false", f"docker://{running.host}/{repository}"))["Tags"]


def site(carried: Carried, name: str, text: str) -> Path:
    path = carried.desk.folder / f"{name}.yaml"
    path.write_text(f"store: ./{name}\n{text}")
    return path


def install(carried: Carried, where: Path) -> dict:
    return carried.desk.audit("install", "bundle", "--policy", "policy.json", "--site", where, "--json", code=5).json


@pytest.fixture
def far(tmp_path: Path) -> Iterator[registries.Registry]:
    with registries.registry(tmp_path / "far") as running:
        yield running


def test_signatures_are_proven_inside_with_no_network(carried: Carried) -> None:
    done = carried.desk.audit("verify", "bundle", "--policy", "policy.json", "--json", isolated=True)
    (verdict,) = done.json["upstream"]
    assert verdict["result"] == "good"
    assert {entry["shape"] for entry in verdict["seen"] if entry["result"] == "good"} >= {"tag", "referrer"}


def test_a_far_registry_has_every_digest_and_cosign_accepts_it(carried: Carried, far: registries.Registry) -> None:
    where = site(carried, "far", f"registry: {{host: {json.dumps(far.host)}, prefix: site, trees: true}}\n")
    install(carried, where)
    placed = f"{far.host}/site/team/server"
    assert raw(f"{placed}:1.0") == carried.upstream.index
    for entry in json.loads(carried.upstream.index)["manifests"]:
        assert hashlib.sha256(raw(f"{placed}@{entry['digest']}")).hexdigest() == entry["digest"][7:]
    there = tags(far, "site/team/server")
    for tag, was in carried.kept.items():
        if tag.endswith((".sig", ".att", ".sbom")):
            assert raw(f"{placed}:{tag}") == was, tag
    assert f"sha256-{carried.upstream.digest[7:]}" in there  # the list of referrers, as there is no API for them here
    assert carried.upstream.cosign.accepts("vendor", f"{placed}@{carried.upstream.digest}")
    said = carried.desk.audit("images", "--site", where, "--json").json["images"]
    assert said == {carried.upstream.name: f"{placed}:1.0"}
    for form, part in {
        "table": f'"{carried.upstream.name}": "{placed}:1.0"',
        "values": "repository: site/team/server\n    tag: '1.0'",
        "registries.conf": f'location = "{far.host}/site"',
        "hosts.toml": f'server = "http://{far.host}/v2/site"',
    }.items():
        assert part in carried.desk.audit("images", "--site", where, "--as", form).out, form
    assert "cannot stand for" in carried.desk.audit("images", "--site", where, "--as", "daemon.json", code=2).err
    other = carried.desk.audit("images", "--site", where, "--registry", "127.0.0.1:5000", "--json").json["images"]
    assert other == {carried.upstream.name: "127.0.0.1:5000/team/server:1.0"}
    assert "the site has no registry" in carried.desk.audit("images", "--store", "far", code=2).err
    carried.desk.audit("check", "--site", where, code=5)
    carried.desk.audit("uninstall", "--site", where)
    assert tool("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{far.host}/v2/site/team/server/manifests/1.0") == "404"


def test_docker_runs_it(carried: Carried) -> None:
    config = json.loads(tool_manifest(carried))["config"]["digest"]
    with engines.engine() as running:
        where = site(carried, "docker", f"engine: docker\ndocker_socket: {running.host.removeprefix('unix://')}\n")
        install(carried, where)
        assert running.images() == {config}
        assert running.run(carried.upstream.name) == f"{images.GREETING}\n"
        carried.desk.audit("check", "--site", where, code=5)
        carried.desk.audit("uninstall", "--site", where)
        assert running.images() == set()


def test_podman_runs_it(carried: Carried) -> None:
    with podmans.podman() as running:
        storage = running.storage
        where = site(
            carried, "podman", f"engine: podman\npodman: {{root: {storage.root}, runroot: {storage.runroot}, storage_driver: {storage.driver}}}\n"
        )
        install(carried, where)
        found = json.loads(running.podman("image", "inspect", carried.upstream.name).stdout)[0]
        assert found["Digest"] == carried.upstream.platform("amd64")["digest"]
        assert running.run(carried.upstream.name) == f"{images.GREETING}\n"
        carried.desk.audit("uninstall", "--site", where)
        assert running.images() == set()


def test_containerd_runs_it(carried: Carried) -> None:
    with containerds.containerd() as running:
        place = running.place
        where = site(
            carried, "containerd",
            f"engine: containerd\ncontainerd: {{address: {place.address}, namespace: {place.namespace}, snapshotter: {place.snapshotter}}}\n",
        )  # fmt: skip
        install(carried, where)
        assert running.names()[carried.upstream.name] == carried.upstream.digest
        assert running.run(carried.upstream.name) == f"{images.GREETING}\n"
        carried.desk.audit("uninstall", "--site", where)
        assert running.names() == {}


def test_the_bundle_itself_is_read_by_others(carried: Carried) -> None:
    assert tool("skopeo", "inspect", "--raw", f"oci:{carried.desk.folder / 'bundle'}:server").encode() == carried.upstream.index


def test_a_signature_changed_on_the_way_is_found(carried: Carried, tmp_path: Path) -> None:
    """Even if the builders themselves sign the changed bundle: what upstream said does not verify any more."""
    other = carried.desk.folder / "other.pub"
    carried.upstream.cosign.key("other")
    other.write_text((carried.upstream.cosign.folder / "other.pub").read_text())
    repository = carried.upstream.name.rsplit(":", 1)[0]
    policy_file = carried.desk.folder / "stranger.json"
    carried.desk.bundle(
        "policy", "init", policy_file, "--stream", "s", "--signer", "alice=keys/alice.pub", "--signer", "bob=keys/bob.pub", "--threshold", "2"
    )
    carried.desk.bundle("policy", "upstream-key", policy_file, "--identity", f"stranger={other}")
    carried.desk.bundle("policy", "upstream-image", policy_file, "--match", repository, "--signed-by", "stranger")
    done = carried.desk.audit("verify", "bundle", "--policy", policy_file, "--json", code=4, isolated=True)
    assert done.json["upstream"][0]["result"] == "wrong"


def tool_manifest(carried: Carried) -> str:
    digest = carried.upstream.platform("amd64")["digest"]
    return (carried.desk.folder / "bundle/blobs/sha256" / digest[7:]).read_text()
