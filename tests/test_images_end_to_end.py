"""An image all the way: from a registry through lock, bundle, signatures and proof into an engine, and it runs there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from parts import bundles, images
from parts import containerd as containers
from parts import engine as engines
from parts import podman as podmen
from parts import registry as registries
from parts.stored import AMD64, cargo

from airgap_images.bundle import unwrap
from airgap_images.layout import Layout
from airgap_images.placing.containerd import Containerd
from airgap_images.placing.docker_engine import DockerEngine, docker_client
from airgap_images.placing.podman import Podman
from airgap_images.placing.stream import Image
from airgap_images.remote.http import Client, Retry
from airgap_images.targets import Target
from audit.verify.result import VerifiedBundle
from audit.verify.trust import Memory
from audit.verify.walk import Place, verify
from bundler import build, sign
from bundler.sources import Context, image
from manifests.errors import IntegrityError, RefusedError
from manifests.lock import Lock
from manifests.lock import Target as Machines

pytestmark = pytest.mark.parts


@dataclass(frozen=True)
class Engine:
    """A real engine as a target; how to run an image in it, what it calls an image, and everything it has."""

    target: Target
    run: Callable[[str], str]
    id_of: Callable[[Image], str]
    there: Callable[[], object]


@pytest.fixture(scope="module", params=["docker", "podman", "containerd"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "docker":
        with engines.engine() as docker:
            target = DockerEngine(docker_client(docker.environment), AMD64)
            yield Engine(target, docker.run, lambda image: str(image.config), docker.images)
            target.close()
    elif request.param == "podman":
        with podmen.podman() as podman:
            yield Engine(Podman(podman.environment, AMD64, podman.storage), podman.run, lambda image: str(image.config), podman.images)
    else:
        with containers.containerd() as containerd:
            target = Containerd(containerd.environment, AMD64, containerd.place)
            yield Engine(target, containerd.run, lambda image: str(image.root.digest), containerd.names)


@dataclass(frozen=True)
class Carried:
    """A signed bundle of an image from a registry that is gone by now, and who signed it."""

    folder: Path
    digest: str
    config: str
    who: bundles.Site

    @property
    def store(self) -> Layout:
        return Layout.create(self.folder.parent / "store")

    def proven(self) -> VerifiedBundle:
        return verify(Place.of(self.folder), self.who.policy_raw, memory=Memory(), now=bundles.NOW, into=self.store)


@pytest.fixture(params=[(), ("--format", "v2s2")], ids=["oci", "schema2"])
def carried(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Carried:
    monkeypatch.setenv("HOME", str(tmp_path))  # no login of whoever runs the tests
    client, cache, who = Client(retry=Retry(attempts=1)), Layout.create(tmp_path / "cache"), bundles.site(tmp_path / "keys")
    with registries.registry(tmp_path / "registry") as upstream:
        images.busybox().push(upstream.host, "team/busybox:1.0", *request.param)
        said = json.loads(images.tool("skopeo", "inspect", "--tls-verify=false", f"docker://{upstream.host}/team/busybox:1.0"))
        context = Context(tmp_path, Machines(), None, cache, client, None, lambda _: None)
        locked = image.resolve("server", None, image.Options(ref=f"{upstream.host}/team/busybox:1.0"), context)
        lock = Lock(name="test", stream=bundles.STREAM, intentSha256="0" * 64, components=(locked,))
        build.build(lock, tmp_path / "bundle", client, build.Options(tmp_path, (cache,)))
    for at, name in enumerate(("alice", "bob")):
        sign.sign(tmp_path / "bundle", who.key(name), bundles.terms(1 if at == 0 else None))
    return Carried(tmp_path / "bundle", said["Digest"], f"sha256:{locked.files[1].sha256}", who)


def test_what_the_registry_served_is_what_runs(engine: Engine, carried: Carried) -> None:
    bundle = carried.proven()
    component = next(component for component in bundle.components if component.name == "server")
    assert str(unwrap(bundle.layout, component.root).digest) == carried.digest == component.facts["digest"]
    found = json.loads(images.tool("skopeo", "inspect", f"oci:{carried.folder}:server"))
    assert found["Architecture"] == "amd64"
    images.tool("skopeo", "copy", "--preserve-digests", f"oci:{carried.folder}:server", f"dir:{carried.folder.parent / 'dir'}")
    reference = component.facts["reference"]
    placed = engine.target.load(bundle.layout, cargo(component.root, reference))
    image = Image.read(bundle.layout, component.root, AMD64)
    assert (str(image.root.digest), str(image.config)) == (carried.digest, carried.config)
    assert placed.id == engine.id_of(image)
    assert engine.run(reference) == f"{images.GREETING}\n"
    engine.target.remove(placed)
    assert not engine.there()


def test_a_byte_changed_on_the_way_is_refused_and_one_changed_in_the_store_too(engine: Engine, carried: Carried) -> None:
    bundle = carried.proven()
    root = next(component.root for component in bundle.components if component.name == "server")
    layer = Image.read(bundle.layout, root, AMD64).manifest.layers[0].digest
    for layout in (bundle.layout, Layout(carried.folder)):
        path = layout.path(layer)
        raw = bytearray(path.read_bytes())
        raw[1000] ^= 1
        path.chmod(0o644)
        path.write_bytes(raw)
    with pytest.raises(IntegrityError, match=layer.hex):
        engine.target.load(bundle.layout, cargo(root, "server:1"))
    assert not engine.there()
    with pytest.raises(RefusedError, match=layer.hex):
        carried.proven()
