"""Podman: images go from a store into a real podman, with their digests, or not at all, and out again; nothing foreign is touched."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from parts import images
from parts import podman as podmen
from parts.expect import refused
from parts.stored import AMD64, ARM64, CONFIG, NAME, cargo, damage, indexed, put_manifest, stored

from airgap_images.layout import Layout
from airgap_images.oci import Descriptor, Digest
from airgap_images.placing.podman import Podman, Storage
from airgap_images.placing.stream import Image
from airgap_images.targets import Placed
from manifests import canonical
from manifests.errors import IntegrityError, SiteError


@pytest.fixture(scope="module")
def running() -> Iterator[podmen.Running]:
    with podmen.podman() as started:
        yield started


@pytest.fixture
def podman(running: podmen.Running) -> Iterator[Podman]:
    yield Podman(running.environment, AMD64, running.storage)
    running.podman("rm", "--all", "--force", "--time", "0")
    running.podman("rmi", "--all", "--force")
    assert running.images() == set()
    assert list(running.spool.iterdir()) == [], "podman leaves nothing in its temporary folder"


@pytest.fixture
def store(tmp_path: Path) -> Layout:
    return Layout.create(tmp_path / "store")


def digests(running: podmen.Running, name: str) -> set[str]:
    said = running.podman("image", "inspect", "--format", "{{.Digest}} {{range .RepoDigests}}{{.}} {{end}}", name).stdout
    return {word.rpartition("@")[2] for word in said.split()}


@pytest.mark.parts
class TestIn:
    @pytest.mark.parametrize("dockers", [False, True], ids=["oci", "schema2"])
    def test_an_image_goes_in_unchanged_and_runs(self, running: podmen.Running, podman: Podman, store: Layout, dockers: bool) -> None:
        wanted = cargo(stored(store, dockers=dockers), NAME)
        seen: list[int] = []
        assert podman.present(store, wanted) is None
        assert podman.named(store, wanted) == ((NAME, None),)
        placed = podman.load(store, wanted, seen.append)
        image = Image.read(store, wanted.root, AMD64)
        assert placed == Placed(str(image.config), (NAME,), before=False)
        assert sum(seen) == sum(size for _, size in image.blobs)
        assert running.run(NAME) == f"{images.GREETING}\n"
        assert running.run(f"{NAME.rpartition(':')[0]}@{wanted.root.digest}") == f"{images.GREETING}\n", "it is found by upstream's digest"
        assert digests(running, NAME) == {str(wanted.root.digest)}
        assert podman.present(store, wanted) == Placed(placed.id, (NAME,))
        assert podman.named(store, wanted) == ((NAME, placed.id),)

    def test_what_is_there_is_not_sent_again(self, podman: Podman, store: Layout) -> None:
        root = stored(store)
        podman.load(store, cargo(root, NAME))
        for layer in Image.read(store, root, AMD64).manifest.layers:
            store.path(layer.digest).unlink()  # so that sending would fail
        again = podman.load(store, cargo(root, NAME, "busybox"))
        assert (again.before, again.tags) == (True, ("docker.io/library/busybox:latest", NAME))
        assert podman.present(store, cargo(root)) == again

    def test_the_same_content_by_another_manifest_is_sent_for_its_digest(self, running: podmen.Running, podman: Podman, store: Layout) -> None:
        first, second = stored(store), stored(store, dockers=True)
        podman.load(store, cargo(first, "first:1"))
        placed = podman.load(store, cargo(second, NAME))
        assert (placed.before, digests(running, NAME)) == (True, {str(first.digest), str(second.digest)})
        assert podman.load(store, cargo(second)).tags == ()

    @pytest.mark.parametrize("ours", [False, True], ids=["upstream's index", "ours"])
    def test_of_several_platforms_it_gets_its_own(self, running: podmen.Running, podman: Podman, store: Layout, ours: bool) -> None:
        root, both = indexed(store, ours=ours)
        placed = podman.load(store, cargo(root, NAME))
        assert placed.id == str(Image.read(store, both["amd64"], AMD64).config)
        assert digests(running, NAME) == {str(both["amd64"].digest)}
        assert running.run(NAME) == f"{images.GREETING}\n"
        other = Podman(running.environment, ARM64, running.storage).load(store, cargo(root, "other:1"))
        assert digests(running, "docker.io/library/other:1") == {str(both["arm64"].digest)}
        assert running.images() == {placed.id, other.id}

    def test_a_name_moves_to_the_image_that_is_placed_last(self, podman: Podman, store: Layout) -> None:
        old, new = cargo(stored(store), NAME), cargo(stored(store, mark=" "), NAME)
        before = podman.load(store, old)
        assert podman.named(store, new) == ((NAME, before.id),)
        podman.load(store, new)
        assert podman.present(store, old) == Placed(before.id, ())
        assert podman.load(store, old).before
        assert podman.present(store, old) == Placed(before.id, (NAME,))


@pytest.mark.parts
class TestNotAtAll:
    @pytest.mark.parametrize("which", ["layer", "config", "manifest"])
    def test_a_byte_changed_in_the_store_keeps_the_image_out(
        self, running: podmen.Running, podman: Podman, store: Layout, which: str
    ) -> None:
        root = stored(store)
        manifest = Image.read(store, root, AMD64).manifest
        part = {"layer": manifest.layers[0], "config": manifest.config, "manifest": root}[which]
        damage(store, part, -1)
        with refused(IntegrityError, f"blobs/sha256/{part.digest.hex}", "expected"):
            podman.load(store, cargo(root, NAME))
        assert running.images() == set()

    def test_an_image_podman_cannot_read_is_its_refusal_not_ours(self, running: podmen.Running, podman: Podman, store: Layout) -> None:
        image = Image.read(store, stored(store), AMD64)
        noise = Descriptor(image.manifest.layers[0].media_type, store.put(b"no tar"), 6)
        root = put_manifest(store, image.manifest.config, [noise, image.manifest.layers[1]])
        with refused(SiteError, "podman does not take the image") as caught:
            podman.load(store, cargo(root, NAME))
        assert "/var/tmp" in caught.value.hint
        assert running.images() == set()


@pytest.mark.parts
class TestOut:
    def test_what_was_placed_is_removed_and_nothing_else(self, running: podmen.Running, podman: Podman, store: Layout) -> None:
        other = podman.load(store, cargo(stored(store, mark=" "), "other:1"))
        wanted = cargo(stored(store), NAME, "second:1")
        placed = podman.load(store, wanted)
        for _ in range(2):
            podman.remove(placed)
            assert running.images() == {other.id}
        placed = podman.load(store, wanted)
        running.podman("tag", NAME, "somebody:else")
        podman.remove(placed)
        assert podman.present(store, wanted) == Placed(placed.id, ("localhost/somebody:else",))
        running.podman("tag", "docker.io/library/other:1", NAME)
        podman.remove(placed)
        assert running.podman("image", "exists", NAME).returncode == 0, "the name is another image's by now"

    def test_an_image_that_was_there_before_loses_our_name_only(self, running: podmen.Running, podman: Podman, store: Layout) -> None:
        wanted = cargo(stored(store), NAME)
        podman.load(store, cargo(wanted.root))
        placed = podman.load(store, wanted)
        assert placed.before
        podman.remove(placed)
        assert podman.present(store, wanted) == Placed(placed.id, ()), "as it was: there, without a name"

    def test_an_image_in_use_stays_with_its_name_and_is_said_to_be(self, running: podmen.Running, podman: Podman, store: Layout) -> None:
        wanted = cargo(stored(store), NAME, "second:1")
        placed = podman.load(store, wanted)
        container = running.podman("create", "--network", "none", "--pull", "never", *podmen.OPTIONS[2:], NAME).stdout.strip()
        with refused(SiteError, "podman rmi fails", "in use by a container") as caught:
            podman.remove(placed)
        assert "stop and remove the containers" in caught.value.hint
        assert podman.present(store, wanted).tags, "it keeps a name"
        running.podman("rm", container)
        podman.remove(placed)
        assert running.images() == set()


@pytest.mark.parts
def test_what_podman_itself_writes_while_it_loads_is_no_more_than_we_say(running: podmen.Running, podman: Podman, store: Layout) -> None:
    """The docs say three times the image; measured here, so that the sentence stays true."""
    layer, diff = random_layer(48 << 20)
    config = canonical.compact({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff]}})
    described = Descriptor("application/vnd.oci.image.layer.v1.tar", store.put(layer), len(layer))
    root = put_manifest(store, Descriptor(CONFIG, store.put(config), len(config)), [described])
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, used(running.spool))
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    podman.load(store, cargo(root, NAME))
    done.set()
    thread.join()
    assert len(layer) < most < 3.1 * len(layer)


def random_layer(size: int) -> tuple[bytes, str]:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        entry = tarfile.TarInfo("noise")
        entry.size = size
        tar.addfile(entry, io.BytesIO(os.urandom(size)))
    return file.getvalue(), str(Digest.of(file.getvalue()))


def used(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(Path(parent, name)).st_size
    return total


# --- no podman, and one that is not to be trusted


def test_no_podman_is_said_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Layout) -> None:
    monkeypatch.setattr("airgap_images.placing.program.USUAL_PATH", str(tmp_path))
    with refused(SiteError, "podman is not installed") as caught:
        Podman({"PATH": str(tmp_path)}, AMD64).present(store, cargo(stored(store)))
    assert "install podman" in caught.value.hint


def test_only_what_the_site_says_is_said_to_podman() -> None:
    assert Storage().options == ()
    assert Storage(Path("/a b"), Path("/r"), "vfs").options == ("--root=/a b", "--runroot=/r", "--storage-driver=vfs")


def lying(folder: Path, *, after: str, output: str = "", words: str = "", code: int = 0, listing: str | None = None) -> Podman:
    """A program in podman's place: it takes the archive, says `output`, and then lists `after`."""
    script = f"""#!/bin/sh
case "$1" in
  load) cat >/dev/null; touch {folder}/loaded; printf '%s' '{output}'; printf '%b' '{words}' >&2; exit {code};;
  images) if [ -e {folder}/loaded ]; then printf '%s' '{after}'; else printf '%s' '{listing or "[]"}'; fi;;
  *) echo "$@" >>{folder}/called;;
esac
"""
    path = folder / "podman"
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return Podman({"PATH": str(folder)}, AMD64)


def test_an_image_podman_changed_is_removed_again_and_gets_no_name(tmp_path: Path, store: Layout) -> None:
    wanted = cargo(stored(store), NAME)
    other = "e" * 64
    liar = lying(tmp_path, after=f'[{{"Id":"{other}","Digest":"sha256:{other}"}}]', output=f"Loaded image: sha256:{other}")
    with refused(IntegrityError, f"podman made sha256:{other}", str(Image.read(store, wanted.root, AMD64).config)):
        liar.load(store, wanted)
    assert (tmp_path / "called").read_text() == f"rmi --no-prune sha256:{other}\n"


def test_a_manifest_podman_changed_is_an_error(tmp_path: Path, store: Layout) -> None:
    wanted = cargo(stored(store), NAME)
    config, other = Image.read(store, wanted.root, AMD64).config.hex, "sha256:" + "e" * 64
    liar = lying(tmp_path, after=f'[{{"Id":"{config}","Digest":"{other}","Names":["{NAME}"]}}]')
    with refused(IntegrityError, f"podman knows the image by {other}", f"expected {wanted.root.digest}"):
        liar.load(store, wanted)


def test_what_podman_says_of_its_failure_is_shown_bounded_and_harmless(tmp_path: Path, store: Layout) -> None:
    liar = lying(tmp_path, after="[]", words="\\033[31mno space\\nleft" + "x" * 5000 + " on device", code=125)
    with refused(SiteError, "podman does not take the image", "on device") as caught:
        liar.load(store, cargo(stored(store), NAME))
    assert len(caught.value.message) < 500
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize("listing", ["{", '{"a":1}', "[1]", '[{"Names":[]}]'])
def test_a_list_that_cannot_be_read_is_an_error_and_not_an_empty_one(tmp_path: Path, store: Layout, listing: str) -> None:
    with refused(SiteError, "lists its images in a form that is not known"):
        lying(tmp_path, after="", listing=listing).present(store, cargo(stored(store)))


def test_removing_takes_only_names_that_podman_says_lead_to_the_image(tmp_path: Path) -> None:
    one, two = "a" * 64, "b" * 64
    listing = f'[{{"Id":"{one}","Names":["x.example/a:1"]}},{{"Id":"{two}","Names":["x.example/b:1"]}}]'
    placed = Placed(f"sha256:{one}", ("x.example/a:1", "x.example/b:1"), before=False)
    lying(tmp_path, after="", listing=listing).remove(placed)
    lying(tmp_path, after="", listing=listing).remove(replace(placed, before=True))
    assert (tmp_path / "called").read_text().splitlines() == [f"rmi --no-prune sha256:{one}", f"untag sha256:{one} x.example/a:1"]
