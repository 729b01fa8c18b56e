"""Installing into real engines, all at once: what is there runs, what is foreign stays, and a killed process changes no end."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from parts import bundles, images, podman
from parts import containerd as containers
from parts import engine as engines
from parts.expect import refused
from parts.installs import NOW, Desk
from parts.made import image, made, tree
from parts.stored import AMD64, NAME, cargo, indexed, stored

from airgap_images.bundle import Component
from airgap_images.layout import Layout
from airgap_images.placing.containerd import Containerd
from airgap_images.placing.docker_engine import DockerEngine, docker_client
from airgap_images.placing.podman import Podman
from airgap_images.placing.stream import Image
from airgap_images.targets import Cargo, Only, Placed, Progress, Target
from audit import drift
from audit.install import generations, receipts, undo
from audit.install.store import Store
from manifests.errors import IntegrityError


@pytest.fixture(scope="module")
def who(tmp_path_factory) -> bundles.Site:
    return bundles.site(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def desk(tmp_path: Path, who: bundles.Site) -> Desk:
    return Desk(tmp_path, who)


@dataclass(frozen=True)
class Engine:
    """A real engine: how to make it as a target, how to run an image in it, and every name in it with what it leads to."""

    target: Callable[[], Target]
    run: Callable[[str], str]
    names: Callable[[], dict[str, str]]


@pytest.fixture(scope="module")
def real() -> Iterator[dict[str, Engine]]:
    with engines.engine() as docker, podman.podman() as podmen, containers.containerd() as containerd:
        yield {
            "docker": Engine(lambda: DockerEngine(docker_client(docker.environment), AMD64), docker.run, lambda: docker_names(docker)),
            "podman": Engine(lambda: Podman(podmen.environment, AMD64, podmen.storage), podmen.run, lambda: podman_names(podmen)),
            "containerd": Engine(lambda: Containerd(containerd.environment, AMD64, containerd.place), containerd.run, containerd.names),
        }


def docker_names(running: engines.Running) -> dict[str, str]:
    rows = running.docker("images", "--all", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").stdout.splitlines()
    return dict(row.split() for row in rows)


def podman_names(running: podman.Running) -> dict[str, str]:
    rows = running.podman("images", "--all", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").stdout.splitlines()
    return dict(row.split() for row in rows)


@pytest.mark.parts
class TestReal:
    @pytest.fixture(params=["one platform", "all platforms"])
    def bundle(self, request: pytest.FixtureRequest, desk: Desk, who: bundles.Site) -> Path:
        one = request.param == "one platform"
        return made(desk.folder / "real", who, lambda layout: [image(stored(layout) if one else indexed(layout)[0])])

    def test_all_three_get_it_run_it_and_give_it_back(self, desk, real, bundle):
        before = {name: engine.names() for name, engine in real.items()}
        targets = tuple(engine.target() for engine in real.values())
        try:
            result = desk.install(bundle, targets=targets)
            (item,) = result.receipt.images
            layout = Store.existing(desk.store).layout
            root = next(part.root for part in result.bundle.components)
            config, whole = str(Image.read(layout, root, AMD64).config), str(Image.whole(layout, root, AMD64).root.digest)
            assert {place.target: place.id for place in item.placements} == {"docker": config, "podman": config, "containerd": whole}
            for engine in real.values():
                assert engine.run(NAME) == f"{images.GREETING}\n"
            assert drift.check(desk.store, targets=targets).exit_code == 0
            assert not desk.install(bundle, targets=targets).changed
            removed = undo.uninstall(desk.store, now=NOW, targets=targets)
            assert (removed.images, removed.images_left) == (("server",), ())
        finally:
            for target in targets:
                target.close()
        assert {name: engine.names() for name, engine in real.items()} == before

    @pytest.mark.parametrize("kind", ["docker", "podman", "containerd"])
    def test_what_is_foreign_stays(self, desk, who, real, kind, tmp_path):
        engine, target = real[kind], real[kind].target()
        aside = Layout.create(tmp_path / "aside")
        theirs = target.load(aside, cargo(stored(aside), "theirs.example/same:1"))
        other = target.load(aside, cargo(stored(aside, mark=" "), NAME))
        before = engine.names()
        result = desk.install(made(desk.folder / "real", who, lambda layout: [image(stored(layout))]), targets=(target,))
        (place,) = result.receipt.images[0].placements
        assert (place.before, place.displaced) == (True, {NAME: other.id})
        removed = undo.uninstall(desk.store, now=NOW, targets=(target,))
        assert removed.images_left == ()
        after = engine.names()
        assert NAME not in after, "the name is not given back, as documented"
        assert after.items() >= {name: leads for name, leads in before.items() if name != NAME}.items()
        target.remove(replace(theirs, before=False))
        target.remove(replace(other, before=False))
        target.close()

    @pytest.mark.parametrize("when", ["while it is sent", "when it is there"])
    @pytest.mark.parametrize("kind", ["docker", "podman", "containerd"])
    @pytest.mark.parametrize("then", ["install", "uninstall"])
    def test_killed_and_run_again_it_ends_the_same(self, desk, who, real, kind, when, then):  # noqa: PLR0917
        engine, before = real[kind], real[kind].names()
        bundle = made(desk.folder / "real", who, lambda layout: [image(stored(layout))])
        assert killed(lambda: desk.install(bundle, targets=(Killing(engine.target(), when),)))
        if when == "while it is sent":
            assert engine.names() == before, "half an image is none"
        target = engine.target()
        if then == "install":
            desk.install(bundle, targets=(target,))
            (place,) = receipts.read(Store.existing(desk.store), 1).images[0].placements
            assert (place.before, place.displaced) == (False, {})
            assert engine.run(NAME) == f"{images.GREETING}\n"
            assert drift.check(desk.store, targets=(target,)).exit_code == 0
        assert undo.uninstall(desk.store, now=NOW, targets=(target,)).images_left == ()
        target.close()
        assert engine.names() == before

    @pytest.mark.parametrize("kind", ["docker", "podman", "containerd"])
    def test_a_byte_that_went_bad_in_the_store_keeps_the_image_out_when_going_back(self, desk, who, real, kind):
        engine, target = real[kind], real[kind].target()
        before = engine.names()
        first = made(desk.folder / "one", who, lambda layout: [image(stored(layout))])
        desk.install(first)
        desk.install(made(desk.folder / "two", who, lambda layout: [tree(layout, "docs")], 2))
        store = Store.existing(desk.store)
        root = next(part.root for part in placing_parts(store))
        path = store.layout.path(Image.read(store.layout, root, AMD64).manifest.layers[0].digest)
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.chmod(0o644)
        path.write_bytes(raw)
        with refused(IntegrityError, path.name):
            undo.rollback(desk.store, now=NOW, targets=(target,))
        assert engine.names() == before
        assert store.current() == 2
        target.close()


def placing_parts(store: Store) -> Iterator[Component]:
    for digest in store.bundles():
        yield from (part for part in generations.components_of(store, digest) if part.form == "image")


class Killing(Only):
    """A target whose process is killed while it is given something, or right after."""

    def __init__(self, target: Target, when: str) -> None:
        super().__init__(target, target.forms)
        object.__setattr__(self, "when", when)

    __slots__ = ("when",)

    def load(self, layout: Layout, cargo: Cargo, progress: Progress | None = None) -> Placed:
        def die(_count: int) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        self.target.load(layout, cargo, die if self.when == "while it is sent" else progress)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def killed(action: Callable[[], object]) -> bool:
    """Run `action` in a process of its own; say whether it was killed."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            action()
        os._exit(1)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
