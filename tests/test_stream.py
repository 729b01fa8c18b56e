"""The archive an engine is sent: two formats at once, every blob proven before the archive can be whole, flat memory."""

from __future__ import annotations

import io
import json
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from parts import images
from parts.expect import refused
from parts.stored import AMD64, ARM64, ARTIFACT, CONFIG, damage, indexed, put_index, put_manifest, stored

from airgap_images.layout import Layout
from airgap_images.oci import IMAGE_INDEX, Descriptor, Digest
from airgap_images.placing.stream import Image, _header, hybrid
from airgap_images.platform import Platform
from manifests.errors import IntegrityError, InvalidFileError, SiteError

LAYER = "application/vnd.oci.image.layer.v1.tar"


@pytest.fixture
def store(tmp_path: Path) -> Layout:
    return Layout.create(tmp_path / "store")


@pytest.mark.parametrize("dockers", [False, True], ids=["oci", "schema2"])
def test_the_archive_is_two_formats_at_once_and_the_same_each_time(tmp_path: Path, store: Layout, dockers: bool) -> None:
    image, archive = Image.read(store, stored(store, dockers=dockers), AMD64), tmp_path / "image.tar"
    archive.write_bytes(b"".join(hybrid(store, image)))
    assert archive.read_bytes() == b"".join(hybrid(store, image))
    assert all(hybrid(store, image)), "an empty part would end a chunked request"
    with tarfile.open(archive, "r:") as tar:
        names = tar.getnames()
        assert names[-2:] == ["index.json", "manifest.json"], "a stream cut short names no image"
        assert names[-3] == f"blobs/sha256/{image.root.digest.hex}", "the documents come after what they name"
        assert set(names[1:-2]) == {f"blobs/sha256/{part.digest.hex}" for part in (image.root, *image.manifest.children)}
    said = json.loads(images.tool("skopeo", "inspect", f"docker-archive:{archive}"))
    assert (said["Os"], len(said["Layers"])) == ("linux", 2)
    if not dockers:  # skopeo 1.9 looks for nothing but OCI manifests in an OCI layout
        raw = images.tool("skopeo", "inspect", "--raw", f"oci-archive:{archive}").encode()
        assert Digest.of(raw) == image.root.digest


def test_a_whole_index_is_sent_with_all_it_leads_to(tmp_path: Path, store: Layout) -> None:
    root, both = indexed(store)
    image, archive = Image.whole(store, root, ARM64), tmp_path / "image.tar"
    assert (image.root, image.config) == (root, Image.read(store, both["arm64"], AMD64).config)
    archive.write_bytes(b"".join(hybrid(store, image)))
    with tarfile.open(archive, "r:") as tar:
        (entry,) = json.load(tar.extractfile("index.json"))["manifests"]
        (legacy,) = json.load(tar.extractfile("manifest.json"))
        names = tar.getnames()
    assert entry["digest"] == str(root.digest)
    assert legacy["Config"] == f"blobs/sha256/{image.config.hex}", "an engine without indexes gets the machine's"
    parts = {part.digest for one in both.values() for part in (one, *Image.read(store, one, AMD64).manifest.children)}
    assert set(names[1:-2]) == {f"blobs/sha256/{digest.hex}" for digest in parts | {root.digest}}
    assert len(names) == len(set(names))


def test_of_several_platforms_the_machine_gets_its_own(store: Layout) -> None:
    for ours in (False, True):
        root, both = indexed(store, ours=ours)
        for platform in (AMD64, ARM64):
            assert Image.read(store, root, platform).root.digest == both[platform.architecture].digest
        with refused(SiteError, "linux/riscv64", "linux/amd64, linux/arm64"):
            Image.read(store, root, Platform("linux", "riscv64"))
    assert Image.whole(store, root, AMD64).root.digest == both["amd64"].digest, "an index of ours is not upstream's to keep"


def test_what_was_locked_alone_is_for_any_machine(store: Layout) -> None:
    root = stored(store, architecture="arm64")
    wrapped = put_index(store, [root.to_dict()], ours=True)
    assert wrapped.artifact_type == ARTIFACT
    assert Image.read(store, root, AMD64) == Image.read(store, wrapped, AMD64) == Image.whole(store, wrapped, AMD64)


def test_what_is_no_image(store: Layout) -> None:
    text = Descriptor("text/plain", store.put(b"text"), 4)
    root = put_manifest(store, Descriptor(CONFIG, store.put(b"{}"), 2), [])
    here = {"platform": {"os": "linux", "architecture": "amd64"}}
    for listed in ([root.to_dict() | here, text.to_dict() | here], [text.to_dict() | here]):
        wrong = put_index(store, listed)
        with refused(IntegrityError, wrong.digest.hex, "does not lead to one image for linux/amd64"):
            Image.read(store, wrong, AMD64)
    with refused(InvalidFileError, text.digest.hex, "not valid JSON"):
        Image.read(store, Descriptor(IMAGE_INDEX, text.digest, 4), AMD64)


def test_a_layer_above_8_gib_has_room_in_the_archive() -> None:
    assert tarfile.TarInfo.frombuf(_header("x", 20 << 30), "utf-8", "strict").size == 20 << 30


@pytest.mark.parametrize("which", ["layer", "config", "manifest", "index"])
@pytest.mark.parametrize("where", [0, -1])
def test_a_wrong_byte_ends_the_stream_before_anything_that_names_an_image(store: Layout, which: str, where: int) -> None:
    root, both = indexed(store)
    image = Image.whole(store, root, AMD64)
    manifest = image.manifest
    damage(store, {"layer": manifest.layers[0], "config": manifest.config, "manifest": both["amd64"], "index": root}[which], where)
    sent = bytearray()
    with refused(IntegrityError, "blobs/sha256/", "expected"):
        for part in hybrid(store, image):
            sent += part
    assert b"index.json" not in sent
    assert b"manifest.json" not in sent
    with pytest.raises(tarfile.ReadError), tarfile.open(fileobj=io.BytesIO(bytes(sent)), mode="r:") as tar:
        tar.getmembers()


def test_a_large_layer_takes_no_more_memory_than_a_small_one(store: Layout) -> None:
    large = b"\0" * (64 << 20)
    layer = Descriptor(LAYER, store.put(large), len(large))
    root = put_manifest(store, Descriptor(CONFIG, store.put(b"{}"), 2), [layer])
    del large
    tracemalloc.start()
    seen: list[int] = []
    total = sum(map(len, hybrid(store, Image.read(store, root, AMD64), seen.append)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 64 << 20
    assert sum(seen) == (64 << 20) + 2 + root.size
    assert peak < 8 << 20
