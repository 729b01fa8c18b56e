"""Kind `image` from this machine: layouts where they stand, archives and engines streamed once into a layout beside the lock."""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from parts import cli, images
from parts import engine as engines
from parts.expect import refused
from parts.imagebench import CONFIG, Bench, entry, index

from airgap_images.bundle import components, parse_index
from airgap_images.layout import Layout
from airgap_images.oci import IMAGE_INDEX, IMAGE_MANIFEST, Descriptor, Digest
from airgap_images.placing.docker_engine import DockerEngine, DockerSource, docker_client
from airgap_images.placing.stream import Image, hybrid
from airgap_images.platform import Platform
from airgap_images.targets import Cargo
from bundler.sources._archive import CONTAINERD_NAME
from bundler.sources._local import FOLDER, Local
from manifests.errors import IntegrityError, InvalidFileError, SiteError, UsageError
from manifests.lock import Lock, LockedComponent

AMD64 = Platform.parse("linux/amd64")
TAR = "application/vnd.oci.image.layer.v1.tar"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("HOME", str(tmp_path))  # no login of whoever runs the tests
    return Bench(tmp_path)


def skopeo(*arguments: str | Path) -> None:
    images.tool("skopeo", "copy", "--quiet", *arguments)


def handmade(folder: Path, name: str | None = "team/app:1", *, config: dict | None = None, **annotations: str) -> tuple[Layout, Descriptor]:
    """Write a layout of one image with one layer, without any tool."""
    layout = Layout.create(folder)
    layer = tarball({"greeting": b"hello"})
    said = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer))]}} | (config or {})
    parts = [
        {"mediaType": kind, "digest": str(layout.put(raw)), "size": len(raw)} for kind, raw in ((CONFIG, json.dumps(said).encode()), (TAR, layer))
    ]
    raw = json.dumps({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": parts[0], "layers": parts[1:]}).encode()
    root = Descriptor(IMAGE_MANIFEST, layout.put(raw), len(raw))
    named = annotations | ({"org.opencontainers.image.ref.name": name} if name else {})
    write_index(layout, root.to_dict() | ({"annotations": named} if named else {}))
    return layout, root


def write_index(layout: Layout, *entries: dict) -> None:
    (layout.root / "index.json").write_bytes(index(*entries))


def tarball(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            made.addfile(info)
    return out.getvalue()


def packed(layout: Layout) -> dict[str, bytes]:
    """The files of a layout, to be put into an archive."""
    return {str(path.relative_to(layout.root)): path.read_bytes() for path in sorted(layout.root.rglob("*")) if path.is_file()}


def identity(locked: LockedComponent) -> tuple[str, str, str]:
    return locked.identity["ref"], locked.identity["reference"], locked.identity["digest"]


# --- what a ref means


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("docker.io/library/oci:1", None), ("registry.example/oci:1", None), ("busybox", None), ("oci", None),
        ("oci:a", Local("oci", "a", None)), ("oci:a/b:docker.io/x:1", Local("oci", "a/b", "docker.io/x:1")),
        ("oci-archive:a.tar:1.0", Local("oci-archive", "a.tar", "1.0")), ("docker-archive:/a.tar", Local("docker-archive", "/a.tar", None)),
        ("docker-daemon:app:1", Local("docker-daemon", "app:1", None)), ("docker-daemon:sha256:ab", Local("docker-daemon", "sha256:ab", None)),
    ],
)  # fmt: skip
def test_a_transport_says_where(text: str, parsed: Local | None) -> None:
    assert Local.parse(text) == parsed


@pytest.mark.parametrize("text", ["oci:", "oci::x", "oci:a:", "docker-daemon:"])
def test_a_transport_without_an_image(text: str) -> None:
    with refused(InvalidFileError, "names no image"):
        Local.parse(text)


# --- OCI layouts


def test_a_layout_is_pinned_where_it_stands(bench: Bench) -> None:
    layout, root = handmade(bench.folder / "images" / "app")
    locked = bench.resolve("oci:./images/app")
    assert identity(locked) == ("oci:./images/app", "docker.io/team/app:1", str(root.digest))
    assert locked.facts["transport"] == "oci"
    assert "server: taken from oci: no registry vouches for it" in bench.warnings
    assert {pin.url for pin in locked.files} == {f"file:images/app/blobs/sha256/{pin.sha256}" for pin in locked.files}
    bench.build(locked)
    assert (bench.folder / "bundle" / "blobs" / "sha256" / root.digest.hex).read_bytes() == layout.path(root.digest).read_bytes()
    assert bench.lock(bench.resolve("oci:./images/app")).to_bytes() == bench.lock(locked).to_bytes()
    assert not (bench.folder / FOLDER).exists(), "nothing is copied"


@pytest.mark.parts
def test_a_layout_of_other_tools(bench: Bench) -> None:
    made = images.busybox()
    shutil.copytree(made.layout, bench.folder / "umoci")
    skopeo(made.name, f"oci:{bench.folder / 'skopeo'}:team/busybox:1.0")
    with refused(InvalidFileError, "nothing says what to call the image"):
        bench.resolve(f"oci:umoci:{made.tag}")
    one = bench.resolve(f"oci:umoci:{made.tag}", reference="registry.example/team/busybox:1.0")
    two = bench.resolve("oci:skopeo:team/busybox:1.0")
    assert one.identity["digest"] == two.identity["digest"]
    assert (one.identity["reference"], two.identity["reference"]) == ("registry.example/team/busybox:1.0", "docker.io/team/busybox:1.0")
    bench.build(two)
    raw = images.tool("skopeo", "inspect", "--raw", f"oci:{bench.folder / 'bundle'}:server").encode()
    assert str(Digest.of(raw)) == one.identity["digest"]


def test_a_name_selects_and_leads_to_one(bench: Bench) -> None:
    layout, one = handmade(bench.folder / "app", "a/b:1")
    _, two = handmade(bench.folder / "app", "a/b:2", config={"author": "x"})

    def named(root: Descriptor, name: str, key: str = "org.opencontainers.image.ref.name") -> dict:
        return root.to_dict() | {"annotations": {key: name}}

    write_index(layout, named(one, "a/b:1"), named(one, "latest"), named(two, "a/b:2"), named(two, "docker.io/a/b:3", CONTAINERD_NAME))
    assert bench.resolve("oci:app:a/b:1").identity["digest"] == str(one.digest)
    assert identity(bench.resolve("oci:app:docker.io/a/b:3"))[1:] == ("docker.io/a/b:3", str(two.digest))
    with refused(InvalidFileError, "2 images; it has: a/b:1, a/b:2, docker.io/a/b:3, latest"):
        bench.resolve("oci:app")
    with refused(InvalidFileError, "no image of the name 'a/b:9'"):
        bench.resolve("oci:app:a/b:9")
    with refused(InvalidFileError, "nothing says what to call the image"):
        bench.resolve("oci:app:latest")
    write_index(layout, named(one, "a/b:1"), named(two, "a/b:1"))
    with refused(InvalidFileError, "2 images of the name 'a/b:1'"):
        bench.resolve("oci:app:a/b:1")
    write_index(layout)
    with refused(InvalidFileError, "no image; it has: 0 without a name"):
        bench.resolve("oci:app")


def test_platforms_of_a_layout(bench: Bench) -> None:
    layout, amd64 = handmade(bench.folder / "app")
    _, arm64 = handmade(bench.folder / "app", config={"architecture": "arm64"})
    raw = index(*(entry(layout.path(root.digest).read_bytes(), str(root.digest), f"linux/{arch}") for root, arch in ((amd64, "amd64"), (arm64, "arm64"))))
    whole = Descriptor(IMAGE_INDEX, layout.put(raw), len(raw))
    write_index(layout, whole.to_dict() | {"annotations": {CONTAINERD_NAME: "docker.io/team/app:1"}})
    assert bench.resolve("oci:app", platforms="all").identity["digest"] == str(whole.digest)
    assert bench.resolve("oci:app", target="linux/arm64").identity["digest"] == str(arm64.digest)
    several = bench.resolve("oci:app", platforms=["linux/amd64", "linux/arm64"])
    assert (several.identity["platform"], several.identity["index"]) == ("linux/amd64,linux/arm64", str(whole.digest))
    bench.build(several)
    with refused(InvalidFileError, "no image for linux/s390x; it has: linux/amd64, linux/arm64"):
        bench.resolve("oci:app", platform="linux/s390x")


def test_a_path_stays_in_the_folder_unless_it_is_absolute(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    handmade(outside / "app")
    written = os.path.relpath(outside / "app", bench.folder)
    with refused(InvalidFileError, "leads out of the folder of the intent"):
        bench.resolve(f"oci:{written}")
    locked = bench.resolve(f"oci:{outside / 'app'}")
    assert locked.files[0].url.startswith(f"file:{outside}/app/blobs/")
    bench.build(locked)
    (bench.folder / "link").symlink_to(outside / "app")
    with refused(InvalidFileError, "is a symbolic link"):
        bench.resolve("oci:link")
    with refused(InvalidFileError, "No such file"):
        bench.resolve("oci:nowhere")


def test_a_layout_changed_after_it_was_locked_is_not_built(bench: Bench) -> None:
    layout, _ = handmade(bench.folder / "app")
    locked = bench.resolve("oci:app")
    layer = layout.path(Digest(locked.files[-1].sha256))
    good = layer.read_bytes()
    layer.chmod(0o644)
    layer.write_bytes(bytes([good[0] ^ 1, *good[1:]]))
    with refused(IntegrityError, "is not what was pinned", locked.files[-1].sha256):
        bench.build(locked)
    assert not (bench.folder / "bundle" / "index.json").exists()
    layer.write_bytes(good)
    assert bench.build(locked).digest


def broken(change: Callable[[Layout, Path], Any]) -> Callable[[Layout, Descriptor], None]:
    """Do something to the one layer of a layout."""

    def apply(layout: Layout, root: Descriptor) -> None:
        layer = layout.path(Digest.parse(json.loads(layout.path(root.digest).read_bytes())["layers"][0]["digest"]))
        change(layout, layer)

    return apply


def linked(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


HOSTILE: dict[str, tuple[Callable[[Layout, Descriptor], Any], str]] = {
    "layer is a link": (broken(lambda _, layer: linked(layer)), "a symbolic link"),
    "layer is missing": (broken(lambda _, layer: layer.unlink()), "missing"),
    "layer has another size": (broken(lambda _, layer: (layer.chmod(0o644), layer.write_bytes(b"x"))), "1 bytes, expected"),
    "layer is a pipe": (broken(lambda _, layer: (layer.unlink(), os.mkfifo(layer))), "not a regular file"),
    "manifest is a link": (lambda layout, root: linked(layout.path(root.digest)), "a symbolic link"),
    "manifest is another": (lambda layout, root: (layout.path(root.digest).chmod(0o644), layout.path(root.digest).write_bytes(bytes(root.size))), "content is"),
    "index is a link": (lambda layout, _: linked(layout.root / "index.json"), "a symbolic link"),
    "blobs is a link": (lambda layout, _: linked(layout.root / "blobs"), "blobs is not a folder"),
    "sha256 is a link": (lambda layout, _: linked(layout.root / "blobs" / "sha256"), "sha256 is not a folder"),
    "index is too large": (lambda layout, _: (layout.root / "index.json").write_bytes(b" " * (5 << 20)), "larger than"),
    "index is not JSON": (lambda layout, _: (layout.root / "index.json").write_bytes(b"{"), "not valid JSON"),
    "index names a link's size": (lambda layout, root: write_index(layout, root.to_dict() | {"size": root.size + 1}), "expected"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_layout_that_plays_tricks_is_refused(bench: Bench, what: str) -> None:
    layout, root = handmade(bench.folder / "app")
    change, words = HOSTILE[what]
    change(layout, root)
    with refused(IntegrityError, "server: oci:app", words):
        bench.resolve("oci:app", reference="team/app:1")


def test_a_folder_that_is_no_layout(bench: Bench) -> None:
    (bench.folder / "app").mkdir()
    with refused(InvalidFileError, "server: oci:app", "No such file"):
        bench.resolve("oci:app")
    layout, _ = handmade(bench.folder / "app")
    for text in ('{"imageLayoutVersion":"2.0.0"}', "[]"):
        (layout.root / "oci-layout").write_text(text)
        with refused(InvalidFileError, "not an OCI layout of version 1.0.0"):
            bench.resolve("oci:app")


# --- archives


def kept(bench: Bench) -> Layout:
    return Layout(bench.folder / FOLDER / "server")


def blobs(layout: Layout) -> set[str]:
    return {name for name, _ in layout.blobs()}


@pytest.mark.parts
def test_an_archive_of_a_layout_keeps_its_digest(bench: Bench) -> None:
    made = images.busybox()
    skopeo(made.name, f"oci-archive:{bench.folder / 'app.tar'}:team/busybox:1.0")
    digest = str(Digest.of(images.tool("skopeo", "inspect", "--raw", made.name).encode()))
    locked = bench.resolve("oci-archive:app.tar:team/busybox:1.0")
    assert identity(locked) == ("oci-archive:app.tar:team/busybox:1.0", "docker.io/team/busybox:1.0", digest)
    assert {pin.url for pin in locked.files} == {f"file:{FOLDER}/server/blobs/sha256/{pin.sha256}" for pin in locked.files}
    assert blobs(kept(bench)) == {pin.sha256 for pin in locked.files}
    assert bench.resolve("oci-archive:app.tar").identity["digest"] == digest, "the only one needs no name"
    (bench.folder / "app.tar").unlink()
    bench.build(locked)
    assert (bench.folder / FOLDER / ".gitignore").read_text() == "*\n"


@pytest.mark.parts
@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
def test_an_archive_that_skopeo_writes_for_docker(bench: Bench, zipped: bool) -> None:
    path = bench.folder / "app.tar"
    skopeo(images.busybox().name, f"docker-archive:{path}:team/busybox:1.0")
    if zipped:
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    locked = bench.resolve("docker-archive:app.tar:team/busybox:1.0")
    config = json.loads(images.tool("skopeo", "inspect", "--raw", f"docker-archive:{path}" if not zipped else images.busybox().name))["config"]
    if not zipped:
        assert f"sha256:{locked.files[1].sha256}" == config["digest"]
    assert locked.files[1].path == "config.json"
    assert locked.identity["reference"] == "docker.io/team/busybox:1.0"
    assert [pin.media_type for pin in locked.files] == [IMAGE_MANIFEST, CONFIG, TAR, TAR]
    assert bench.lock(bench.resolve("docker-archive:app.tar:team/busybox:1.0")).to_bytes() == bench.lock(locked).to_bytes()
    bench.build(locked)
    said = json.loads(images.tool("skopeo", "inspect", f"oci:{bench.folder / 'bundle'}:server"))
    assert (said["Architecture"], len(said["Layers"])) == ("amd64", 2)
    skopeo("--preserve-digests", f"oci:{bench.folder / 'bundle'}:server", f"dir:{bench.folder / 'copied'}")


def saved(*, tags: list[str] | None = None, layers: int = 2, change: Callable[[dict], Any] | None = None, **more: bytes) -> dict[str, bytes]:
    """The files of an archive as `docker save` of old engines writes it."""
    made = [tarball({f"file{at}": b"x" * at}) for at in range(layers)]
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer)) for layer in made]}}
    raw = json.dumps(config).encode()
    said = {"Config": f"{Digest.of(raw).hex}.json", "RepoTags": tags, "Layers": [f"{at}/layer.tar" for at in range(layers)]}
    files = {f"{at}/layer.tar": layer for at, layer in enumerate(made)} | {said["Config"]: raw}
    value: Any = [said]
    if change:
        value = change(said) or value
    return files | {"manifest.json": json.dumps(value).encode()} | {name.replace("__", "/").replace("_", "."): data for name, data in more.items()}


def test_dockers_own_form_gets_a_manifest_that_is_always_the_same(bench: Bench) -> None:
    files = saved(tags=["team/app:1"])
    (bench.folder / "app.tar").write_bytes(tarball(files))
    locked = bench.resolve("docker-archive:app.tar")
    manifest = json.loads(kept(bench).path(Digest(str(locked.root))).read_bytes())
    assert manifest.keys() == {"schemaVersion", "mediaType", "config", "layers"}
    assert [layer["digest"] for layer in manifest["layers"]] == [str(Digest.of(files[f"{at}/layer.tar"])) for at in range(2)]
    assert f"{manifest['config']['digest'][7:]}.json" in files, "the config is the image's ID, and stays as it is"
    (bench.folder / "other.tar").write_bytes(tarball(dict(reversed(files.items())) | {"manifest.json": saved(tags=["other:2"])["manifest.json"]}))
    other = bench.resolve("docker-archive:other.tar:other:2")
    assert (other.identity["digest"], other.identity["reference"]) == (locked.identity["digest"], "docker.io/library/other:2")


def test_names_in_dockers_own_form(bench: Bench) -> None:
    path = bench.folder / "app.tar"
    path.write_bytes(tarball(saved(tags=["team/app:1", "team/app:2"])))
    with refused(InvalidFileError, "nothing says what to call the image"):
        bench.resolve("docker-archive:app.tar")
    assert bench.resolve("docker-archive:app.tar:docker.io/team/app:2").identity["reference"] == "docker.io/team/app:2"
    assert bench.resolve("docker-archive:app.tar", reference="x/y:3").identity["reference"] == "docker.io/x/y:3"
    with refused(InvalidFileError, "no image of the name 'library/team/app:1'", "docker.io/team/app:1, docker.io/team/app:2"):
        bench.resolve("docker-archive:app.tar:library/team/app:1")
    path.write_bytes(tarball(saved(tags=["app:latest"])))
    assert bench.resolve("docker-archive:app.tar:app").identity["reference"] == "docker.io/library/app:latest"
    path.write_bytes(tarball(saved(tags=None)))
    assert bench.resolve("docker-archive:app.tar", reference="app:1").identity["reference"] == "docker.io/library/app:1"
    one, two = saved(tags=["a:1"]), saved(tags=["b:1"], layers=3)
    both = [json.loads(files["manifest.json"])[0] for files in (one, two)]
    path.write_bytes(tarball(one | two | {"manifest.json": json.dumps(both).encode()}))
    with refused(InvalidFileError, "2 images in the archive; it has: docker.io/library/a:1, docker.io/library/b:1"):
        bench.resolve("docker-archive:app.tar")
    assert bench.resolve("docker-archive:app.tar:b:1").facts["layers"] == "3"


def test_layers_by_link_and_compressed_layers_of_dockers_own_form(bench: Bench) -> None:
    files = saved(tags=["app:1"])
    layer = files.pop("1/layer.tar")
    (bench.folder / "app.tar").write_bytes(tarball(files | {"store/one.tar": layer}, {"1/layer.tar": "../store/one.tar"}))
    plain = bench.resolve("docker-archive:app.tar")
    (bench.folder / "app.tar").write_bytes(tarball(files | {"1/layer.tar": gzip.compress(layer, mtime=0)}))
    zipped = bench.resolve("docker-archive:app.tar")
    assert [pin.media_type for pin in zipped.files[2:]] == [TAR, f"{TAR}+gzip"]
    assert plain.files[1] == zipped.files[1], "the same config, so the same ID"


WRONG: dict[str, tuple[dict[str, bytes], type[Exception], str]] = {
    "another layer": (saved(**{"1__layer_tar": tarball({"x": b"evil"})}), IntegrityError, "the layers are not those the image's config lists"),
    "another config": (
        saved(change=lambda said: [said | {"Config": "0" * 64 + ".json"}]) | {"0" * 64 + ".json": b"{}"}, IntegrityError, "the config named 000",
    ),
    "a layer less": (saved(change=lambda said: [said | {"Layers": said["Layers"][:1]}]), IntegrityError, "the layers are not those"),
    "a layer twice": (saved(change=lambda said: [said | {"Layers": said["Layers"] * 2}]), IntegrityError, "the layers are not those"),
    "no such layer": (saved(change=lambda said: [said | {"Layers": ["a", "b"]}]), InvalidFileError, "the archive has no layer 'a'"),
    "no such config": (saved(change=lambda said: [said | {"Config": "../../etc/passwd"}]), InvalidFileError, "the archive has no '../../etc/passwd'"),
    "config is no text": (saved(change=lambda said: [said | {"Config": 1}]), InvalidFileError, "manifest.json is not that of `docker save`"),
    "layers are no list": (saved(change=lambda said: [said | {"Layers": {"a": 1}}]), InvalidFileError, "manifest.json is not that of `docker save`"),
    "tags are no texts": (saved(change=lambda said: [said | {"RepoTags": [1]}]), InvalidFileError, "manifest.json is not that of `docker save`"),
    "no list": (saved(change=lambda said: said), InvalidFileError, "no image in the archive"),
    "nothing": ({"x": b""}, InvalidFileError, "the archive has no 'manifest.json'"),
    "no JSON": (saved(manifest_json=b"{"), InvalidFileError, "not valid JSON"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_an_archive_that_is_not_what_it_says(bench: Bench, what: str) -> None:
    files, kind, words = WRONG[what]
    (bench.folder / "app.tar").write_bytes(tarball(files))
    with refused(kind, "server: app.tar", words):
        bench.resolve("docker-archive:app.tar", reference="app:1")
    assert not (kept(bench).root / "index.json").exists()


def test_an_archive_that_is_both_keeps_the_bytes_of_its_layout(bench: Bench) -> None:
    layout, root = handmade(bench.folder / "app")
    (bench.folder / "ours.tar").write_bytes(b"".join(hybrid(layout, Image.read(layout, root, AMD64))))
    locked = bench.resolve("docker-archive:ours.tar", reference="team/app:1")
    assert locked.identity["digest"] == str(root.digest)
    names = {CONTAINERD_NAME: "docker.io/team/app:1", "org.opencontainers.image.ref.name": "1"}  # as newer engines write it
    write_index(layout, root.to_dict() | {"annotations": names})
    legacy = [{"Config": "blobs/sha256/x", "RepoTags": ["team/app:1"], "Layers": []}]
    (bench.folder / "newer.tar").write_bytes(tarball(packed(layout) | {"manifest.json": json.dumps(legacy).encode()}))
    newer = bench.resolve("docker-archive:newer.tar:team/app:1")
    assert (newer.identity["digest"], newer.identity["reference"]) == (str(root.digest), "docker.io/team/app:1")
    assert bench.resolve("docker-archive:newer.tar").identity["reference"] == "docker.io/team/app:1"
    with refused(InvalidFileError, "no image of the name 'team/other:1'"):
        bench.resolve("docker-archive:newer.tar:team/other:1")


def test_an_archive_of_some_platforms_of_an_index_gives_those(bench: Bench) -> None:
    layout, root = handmade(bench.folder / "app")
    raw = index(
        entry(layout.path(root.digest).read_bytes(), str(root.digest), "linux/amd64"), entry(b"x" * 500, "sha256:" + "e" * 64, "linux/arm64")
    )
    whole = Descriptor(IMAGE_INDEX, layout.put(raw), len(raw))
    write_index(layout, whole.to_dict() | {"annotations": {CONTAINERD_NAME: "docker.io/team/app:1"}})
    (bench.folder / "app.tar").write_bytes(tarball(packed(layout)))
    assert bench.resolve("oci-archive:app.tar").identity["digest"] == str(root.digest)
    with refused(IntegrityError, "server: oci-archive:app.tar", "e" * 64, "missing"):
        bench.resolve("oci-archive:app.tar", platforms="all")


def test_an_archive_without_a_layout_is_no_oci_archive(bench: Bench) -> None:
    (bench.folder / "app.tar").write_bytes(tarball(saved(tags=["app:1"])))
    with refused(InvalidFileError, "server: app.tar: holds no OCI layout"):
        bench.resolve("oci-archive:app.tar")
    with refused(InvalidFileError, "server: path 'none.tar'"):
        bench.resolve("oci-archive:none.tar")
    with refused(IntegrityError, "not a regular file"):
        bench.resolve(f"oci-archive:{FOLDER}")


def test_what_an_old_lock_pins_stays_until_the_new_one_is_written(bench: Bench) -> None:
    path = bench.folder / "app.tar"
    path.write_bytes(tarball(saved(tags=["app:1"])))
    first = bench.resolve("docker-archive:app.tar")
    path.write_bytes(tarball(saved(tags=["app:1"], layers=3)))
    second = bench.resolve("docker-archive:app.tar", previous=first)
    assert blobs(kept(bench)) == {pin.sha256 for pin in (*first.files, *second.files)}
    bench.build(first)
    third = bench.resolve("docker-archive:app.tar", previous=second)
    assert blobs(kept(bench)) == {pin.sha256 for pin in second.files}
    assert third == second


def test_an_archive_cut_short_leaves_what_was_there(bench: Bench) -> None:
    path = bench.folder / "app.tar"
    path.write_bytes(tarball(saved(tags=["app:1"])))
    first = bench.resolve("docker-archive:app.tar")
    raw = tarball(saved(tags=["app:1"], layers=9))
    path.write_bytes(raw[: len(raw) // 2])
    with refused(IntegrityError, "server: app.tar", "archive"):
        bench.resolve("docker-archive:app.tar", previous=first)
    bench.build(first)
    (kept(bench).root / ".partial").mkdir(exist_ok=True)
    (kept(bench).root / ".partial" / "member-1").write_bytes(b"left by a run that was killed")
    path.write_bytes(raw)
    assert bench.resolve("docker-archive:app.tar", previous=first).facts["layers"] == "9"
    assert not (kept(bench).root / ".partial").exists()


# --- a container engine


@pytest.fixture(scope="module")
def running() -> Iterator[engines.Running]:
    with engines.engine() as started:
        yield started


@pytest.fixture(scope="module")
def named(running: engines.Running, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The ID of an image the engine has as `team/busybox:1.0`."""
    archive = tmp_path_factory.mktemp("archive") / "app.tar"
    skopeo(images.busybox().name, f"docker-archive:{archive}:team/busybox:1.0")
    done = running.docker("load", "--input", str(archive))
    assert done.returncode == 0, done.stderr
    (found,) = running.images()
    return found


@pytest.mark.parts
def test_from_an_engine_by_the_commands_and_back_into_one(tmp_path: Path, running: engines.Running, named: str) -> None:
    desk = cli.Desk(tmp_path, tuple(running.environment.items()))
    desk.write_intent("name: app, kind: image, ref: 'docker-daemon:team/busybox:1.0', reference: 'registry.example/team/busybox:1.0'")
    desk.trust()
    desk.bundle("lock", "bundle.yaml")
    first = (tmp_path / "bundle.lock.json").read_bytes()
    desk.bundle("lock", "bundle.yaml", "--check")
    shutil.rmtree(tmp_path / FOLDER)
    (tmp_path / "bundle.lock.json").unlink()
    desk.bundle("lock", "bundle.yaml", "--cache", "another")
    assert (tmp_path / "bundle.lock.json").read_bytes() == first
    locked = next(component for component in Lock.parse(first, "lock").components if component.name == "app")
    assert f"sha256:{next(pin.sha256 for pin in locked.files if pin.path == 'config.json')}" == named
    assert (locked.identity["reference"], locked.facts["transport"]) == ("registry.example/team/busybox:1.0", "docker-daemon")
    away = cli.Desk(tmp_path, (("DOCKER_HOST", f"unix://{tmp_path}/none"),))
    away.bundle("build", "bundle.lock.json", "--out", "bundle", "--cache", "empty", code=None)
    desk.sign("bundle")
    assert desk.audit("verify", "bundle", "--policy", "policy.json", "--json", code=None).json["verdict"] == "proved"
    raw = images.tool("skopeo", "inspect", "--raw", f"oci:{tmp_path / 'bundle'}:app").encode()
    assert str(Digest.of(raw)) == locked.identity["digest"]
    layout = Layout(tmp_path / "bundle")
    root = next(part.root for part in components(parse_index((layout.root / "index.json").read_bytes())) if part.name == "app")
    engine = DockerEngine(docker_client(running.environment), AMD64)
    placed = engine.load(layout, Cargo("app", "image", root, ("registry.example/team/busybox:1.0",)))
    assert (placed.id, placed.before) == (named, True)
    assert running.run("registry.example/team/busybox:1.0") == f"{images.GREETING}\n"
    engine.close()


@pytest.mark.parts
def test_docker_save_is_the_same_image_as_the_engine(bench: Bench, running: engines.Running, named: str) -> None:
    direct = bench.resolve("docker-daemon:team/busybox:1.0", environment=running.environment)
    assert direct.identity["reference"] == "docker.io/team/busybox:1.0"
    running.docker("save", "--output", str(bench.folder / "app.tar"), "team/busybox:1.0")
    archive = bench.resolve("docker-archive:app.tar:team/busybox:1.0")
    assert archive.files == direct.files
    by_id = bench.resolve(f"docker-daemon:{named}", environment=running.environment, reference="x:1")
    assert (by_id.files, by_id.identity["reference"]) == (direct.files, "docker.io/library/x:1")
    with refused(InvalidFileError, "nothing says what to call the image"):
        bench.resolve(f"docker-daemon:{named}", environment=running.environment)


@pytest.mark.parts
def test_an_image_that_was_taken_in_is_not_exported_again(
    bench: Bench, running: engines.Running, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[str] = []
    archive = DockerSource.archive
    monkeypatch.setattr(DockerSource, "archive", lambda self, image: (exported.append(image), archive(self, image))[1])

    def resolve() -> LockedComponent:
        return bench.resolve("docker-daemon:team/busybox:1.0", environment=running.environment)

    first = resolve()
    assert resolve() == first
    assert exported == [named]
    kept(bench).path(Digest(first.files[-1].sha256)).unlink()
    assert resolve() == first
    assert exported == [named, named], "what is not whole is taken in again"
    (kept(bench).root / "index.json").write_bytes(b"{")
    assert resolve() == first
    assert len(exported) == 3


@pytest.mark.parts
def test_an_engine_that_sends_another_image_than_it_names(bench: Bench, running: engines.Running, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DockerSource, "id", lambda *_: "sha256:" + "0" * 64)
    monkeypatch.setattr(DockerSource, "archive", lambda self, _: self._client.api.get_image(named))
    with refused(IntegrityError, "the engine calls the image sha256:000", named):
        bench.resolve("docker-daemon:team/busybox:1.0", environment=running.environment)
    assert not (kept(bench).root / "index.json").exists()


@pytest.mark.parts
def test_an_engine_without_the_image(bench: Bench, running: engines.Running) -> None:
    with refused(UsageError, "the engine has no image 'team/none:1'"):
        bench.resolve("docker-daemon:team/none:1", environment=running.environment)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the SDK drops a socket that did not connect
def test_no_engine(bench: Bench) -> None:
    with refused(SiteError, "no engine answers"):
        bench.resolve("docker-daemon:team/busybox:1.0", environment={"DOCKER_HOST": f"unix://{bench.folder}/none"})
    gc.collect()


@pytest.mark.parts
def test_an_image_of_another_platform_than_wanted(bench: Bench, running: engines.Running, named: str) -> None:
    with refused(InvalidFileError, "the image is for linux/amd64, wanted linux/arm64"):
        bench.resolve("docker-daemon:team/busybox:1.0", environment=running.environment, target="linux/arm64")
    whole = bench.resolve("docker-daemon:team/busybox:1.0", environment=running.environment, target="linux/arm64", platforms="all")
    assert whole.identity["platform"] == "linux/amd64"
