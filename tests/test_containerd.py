"""containerd: images go from a store into a real containerd by their digests, whole indexes too, or not at all, and out again."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts import containerd as containers
from parts import images
from parts.expect import refused
from parts.stored import AMD64, ARM64, NAME, REPOSITORY, cargo, damage, indexed, put_manifest, stored

from airgap_images.bundle import closure
from airgap_images.layout import Layout
from airgap_images.oci import IMAGE_INDEX, Descriptor, Index
from airgap_images.placing.containerd import Containerd, Place
from airgap_images.placing.stream import Image
from airgap_images.targets import Placed
from manifests.errors import IntegrityError, SiteError

HEADER = "REF TYPE DIGEST SIZE PLATFORMS LABELS"


@pytest.fixture(scope="module")
def running() -> Iterator[containers.Running]:
    with containers.containerd() as started:
        yield started


@pytest.fixture
def containerd(running: containers.Running) -> Iterator[Containerd]:
    yield Containerd(running.environment, AMD64, running.place)
    for row in running.ctr("containers", "ls", "--quiet").stdout.split():
        running.ctr("containers", "rm", row)
    if names := running.names():
        running.ctr("images", "rm", "--sync", *names)
    assert running.names() == {}


@pytest.fixture
def store(tmp_path: Path) -> Layout:
    return Layout.create(tmp_path / "store")


def reached(store: Layout, root: Descriptor) -> set[str]:
    """Everything an image is made of."""
    return {str(digest) for digest in closure(store, Index(b"", IMAGE_INDEX, (root,)))}


def collected(running: containers.Running, gone: set[str] | None = None) -> bool:
    """Wait until `gone`, or everything, is collected: containerd does that some time after a name was taken away."""
    deadline = time.monotonic() + 60
    while running.blobs() & gone if gone else running.blobs():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def pinned(root: Descriptor, repository: str = REPOSITORY) -> str:
    return f"{repository}@{root.digest}"


@pytest.mark.parts
class TestIn:
    @pytest.mark.parametrize("dockers", [False, True], ids=["oci", "schema2"])
    def test_an_image_goes_in_unchanged_and_runs(
        self, running: containers.Running, containerd: Containerd, store: Layout, dockers: bool
    ) -> None:
        root = stored(store, dockers=dockers)
        wanted, own = cargo(root, NAME), str(root.digest)
        seen: list[int] = []
        assert containerd.present(store, wanted) is None
        assert containerd.named(store, wanted) == ((NAME, None), (pinned(root), None))
        placed = containerd.load(store, wanted, seen.append)
        assert placed == Placed(own, (NAME, pinned(root)), before=False)
        assert sum(seen) == sum(size for _, size in Image.read(store, root, AMD64).blobs)
        assert running.names() == {NAME: own, pinned(root): own}, "exactly these names, by upstream's digest"
        for name in running.names():
            assert running.run(name) == f"{images.GREETING}\n"
        assert containerd.present(store, wanted) == Placed(own, placed.tags)
        assert containerd.named(store, wanted) == ((NAME, own), (pinned(root), own))

    def test_an_index_with_all_its_platforms_goes_in_whole(self, running: containers.Running, containerd: Containerd, store: Layout) -> None:
        root, both = indexed(store)
        placed = containerd.load(store, cargo(root, NAME))
        assert placed.id == str(root.digest)
        assert running.names() == dict.fromkeys((NAME, pinned(root)), str(root.digest)), "its digest is that of upstream's index"
        assert running.run(NAME) == f"{images.GREETING}\n"
        every = {part for one in both.values() for part, _ in Image.read(store, one, AMD64).blobs} | {root.digest}
        assert {str(digest) for digest in every} <= running.blobs()

    def test_an_index_of_ours_is_not_kept_but_the_machines_manifest_is(
        self, running: containers.Running, containerd: Containerd, store: Layout
    ) -> None:
        root, both = indexed(store, ours=True)
        assert containerd.load(store, cargo(root, NAME)).id == str(both["amd64"].digest)
        other = Containerd(running.environment, ARM64, running.place)
        assert other.load(store, cargo(root, "other:1")).id == str(both["arm64"].digest)
        assert set(running.names().values()) == {str(one.digest) for one in both.values()}

    def test_what_is_there_is_not_sent_again(self, containerd: Containerd, store: Layout) -> None:
        root = stored(store)
        containerd.load(store, cargo(root, NAME))
        for layer in Image.read(store, root, AMD64).manifest.layers:
            store.path(layer.digest).unlink()  # so that sending would fail
        again = containerd.load(store, cargo(root, NAME, "busybox"))
        assert again.before
        assert again.tags == tuple(sorted((NAME, pinned(root), "docker.io/library/busybox:latest", pinned(root, "docker.io/library/busybox"))))

    def test_an_image_without_a_name_gets_one_of_this_machine(
        self, running: containers.Running, containerd: Containerd, store: Layout
    ) -> None:
        root = stored(store)
        placed = containerd.load(store, cargo(root))
        assert placed.tags == (pinned(root, "localhost/server"),)
        containerd.remove(placed)
        assert running.names() == {}

    def test_a_name_moves_to_the_image_that_is_placed_last_and_the_other_stays_by_its_digest(
        self, running: containers.Running, containerd: Containerd, store: Layout
    ) -> None:
        old, new = stored(store), stored(store, mark=" ")
        containerd.load(store, cargo(old, NAME))
        assert dict(containerd.named(store, cargo(new, NAME)))[NAME] == str(old.digest)
        containerd.load(store, cargo(new, NAME))
        assert running.names() == {NAME: str(new.digest), pinned(old): str(old.digest), pinned(new): str(new.digest)}
        for layer in Image.read(store, old, AMD64).manifest.layers:
            store.path(layer.digest).unlink()
        assert containerd.load(store, cargo(old, NAME)).before, "so that going back sends nothing"
        assert running.run(NAME) == f"{images.GREETING}\n"

    def test_the_namespace_and_the_snapshotter_are_the_sites(self, running: containers.Running, containerd: Containerd, store: Layout) -> None:
        root = stored(store)
        place = Place(running.place.address, "other", "native")
        other = Containerd(running.environment, AMD64, place)
        placed = other.load(store, cargo(root, NAME))
        assert running.names() == {}
        assert running.ctr("--namespace=other", "snapshots", "--snapshotter=native", "ls").stdout.count("Committed") == 2
        assert containers.Running(running.folder, place).run(NAME) == f"{images.GREETING}\n"
        other.remove(placed)


@pytest.mark.parts
class TestNotAtAll:
    @pytest.mark.parametrize("which", ["layer", "config", "manifest", "index"])
    def test_a_byte_changed_in_the_store_keeps_the_image_out(
        self, running: containers.Running, containerd: Containerd, store: Layout, which: str
    ) -> None:
        root, both = indexed(store)
        manifest = Image.read(store, root, AMD64).manifest
        part = {"layer": manifest.layers[0], "config": manifest.config, "manifest": both["amd64"], "index": root}[which]
        damage(store, part, -1)
        with refused(IntegrityError, f"blobs/sha256/{part.digest.hex}", "expected"):
            containerd.load(store, cargo(root, NAME))
        assert running.names() == {}

    def test_an_image_containerd_cannot_read_gets_no_name_of_upstreams(
        self, running: containers.Running, containerd: Containerd, store: Layout
    ) -> None:
        image = Image.read(store, stored(store), AMD64)
        swapped = put_manifest(store, image.manifest.config, list(reversed(image.manifest.layers)))
        with refused(SiteError, "containerd does not take the image"):
            containerd.load(store, cargo(swapped, NAME))
        assert NAME not in running.names()


@pytest.mark.parts
class TestOut:
    def test_what_was_placed_is_removed_and_nothing_else(self, running: containers.Running, containerd: Containerd, store: Layout) -> None:
        other, root = stored(store, mark=" "), stored(store)
        containerd.load(store, cargo(other, "other:1"))
        theirs, ours = reached(store, other), reached(store, root)
        wanted = cargo(root, NAME, "second:1")
        placed = containerd.load(store, wanted)
        for _ in range(2):
            containerd.remove(placed)
            assert set(running.names().values()) == {str(other.digest)}
            assert collected(running, ours - theirs), "the content goes with the last name"
            assert theirs <= running.blobs(), "what others share stays"
        placed = containerd.load(store, wanted)
        running.ctr("images", "tag", NAME, "somebody.example/else:1")
        containerd.remove(placed)
        assert containerd.present(store, wanted) == Placed(placed.id, ("somebody.example/else:1",))
        running.ctr("images", "tag", "docker.io/library/other:1", NAME)
        containerd.remove(placed)
        assert running.names()[NAME] == str(other.digest), "the name is another image's by now"

    def test_an_image_that_was_there_before_loses_our_names_only(
        self, running: containers.Running, containerd: Containerd, store: Layout
    ) -> None:
        root = stored(store)
        containerd.load(store, cargo(root, "theirs:1"))
        theirs = running.names()
        placed = containerd.load(store, cargo(root, NAME))
        assert placed.before
        containerd.remove(placed)
        assert running.names() == theirs
        placed = containerd.load(store, cargo(root, NAME))
        running.ctr("images", "rm", *theirs)
        with refused(SiteError, NAME, "the last name of an image that was in containerd before"):
            containerd.remove(placed)
        assert set(running.names()) == set(placed.tags), "taking it away would remove their image"

    def test_an_image_in_use_stays_and_is_said_to_be(self, running: containers.Running, containerd: Containerd, store: Layout) -> None:
        placed = containerd.load(store, cargo(stored(store), NAME))
        running.ctr("containers", "create", f"--snapshotter={running.place.snapshotter}", NAME, "user1")
        with refused(SiteError, "in use by container user1") as caught:
            containerd.remove(placed)
        assert "stop and remove the containers" in caught.value.hint
        assert set(running.names()) == set(placed.tags)
        running.ctr("containers", "rm", "user1")
        containerd.remove(placed)
        assert running.names() == {}
        assert collected(running)


@pytest.mark.parts
def test_with_kubernetes_the_name_it_adds_goes_with_the_image_but_not_from_an_image_it_had(store: Layout) -> None:
    """Kubernetes' interface names each image by its id, too; that name would keep an uninstalled image for ever."""
    root, _ = indexed(store)
    alias = str(Image.whole(store, root, AMD64).config)
    with containers.containerd("k8s.io", kubernetes=True) as running:
        containerd = Containerd(running.environment, AMD64, running.place)
        placed = containerd.load(store, cargo(root, NAME))
        appears(running, alias)
        containerd.remove(placed)
        assert running.names() == {}
        assert collected(running)

        containerd.load(store, cargo(root, "theirs:1"))
        appears(running, alias)
        theirs = running.names()
        placed = containerd.load(store, cargo(root, NAME))
        assert placed.before
        containerd.remove(placed)
        assert running.names() == theirs

        placed = containerd.load(store, cargo(root, NAME))
        running.ctr("images", "rm", *(name for name in theirs if name != alias))
        containerd.remove(placed)
        assert set(running.names()) == {alias}, "of an image it had, that name is one of its own"


def appears(running: containers.Running, name: str) -> None:
    deadline = time.monotonic() + 10
    while name not in running.names():
        assert time.monotonic() < deadline, f"{name} does not appear"
        time.sleep(0.02)


# --- no containerd, and one that is not to be trusted


def test_no_containerd_and_no_ctr_are_said_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Layout) -> None:
    wanted = cargo(stored(store), NAME)
    monkeypatch.setattr("airgap_images.placing.containerd.CONNECT", "100ms")
    with refused(SiteError, "ctr images ls fails", f"{tmp_path}/none.sock") as caught:
        Containerd({}, AMD64, Place(tmp_path / "none.sock")).present(store, wanted)
    assert "containerd: {address" in caught.value.hint
    monkeypatch.setattr("airgap_images.placing.program.USUAL_PATH", str(tmp_path))
    with refused(SiteError, "ctr is not installed"):
        Containerd({"PATH": str(tmp_path)}, AMD64).present(store, wanted)


def lying(folder: Path, *, listing: str, after: str | None = None) -> Containerd:
    """A program in ctr's place: it takes the archive and lists what it is told to."""
    path = folder / "ctr"
    path.write_text(f"""#!/bin/sh
shift 3
case "$1 $2" in
  "images import") cat >/dev/null; touch {folder}/loaded;;
  "images ls") echo '{HEADER}'; if [ -e {folder}/loaded ]; then echo '{after}'; else echo '{listing}'; fi;;
  *) echo "$@" >>{folder}/called;;
esac
""")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return Containerd({"PATH": str(folder)}, AMD64)


def test_an_image_containerd_changed_gets_no_name_of_upstreams(tmp_path: Path, store: Layout) -> None:
    root, other = stored(store), "sha256:" + "e" * 64
    with refused(IntegrityError, f"containerd made {other}", f"expected {root.digest}"):
        lying(tmp_path, listing="", after=f"{pinned(root)} type {other}").load(store, cargo(root, NAME))
    assert not (tmp_path / "called").exists(), "no name was given"


def test_a_list_that_cannot_be_read_is_an_error_and_not_an_empty_one(tmp_path: Path, store: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "HEADER", "NAME WHATEVER")
    with refused(SiteError, "ctr lists images in a form that is not known"):
        lying(tmp_path, listing="").present(store, cargo(stored(store)))


def test_a_name_that_is_not_what_was_asked_for_is_not_believed(tmp_path: Path, store: Layout) -> None:
    """What the filter should have left out is left out here, too."""
    root = stored(store)
    listing = f"{NAME} type sha256:{'e' * 64}"
    assert lying(tmp_path, listing=listing).present(store, cargo(root, NAME)) is None
    assert lying(tmp_path, listing=f"other:1 type {root.digest}").named(store, cargo(root)) == ((pinned(root, "localhost/server"), None),)
