"""An OCI layout folder as a target: read by skopeo, podman and containerd; links, merges, kills, and what is taken away again."""

from __future__ import annotations

import dataclasses
import json
import os
import tarfile
from pathlib import Path

import pytest
from parts import cargo, images
from parts import containerd as containerds
from parts import installs as installing
from parts import podman as podmans

from airgap_images.layout import Layout, alone
from airgap_images.oci import IMAGE_INDEX, Digest
from airgap_images.placing.export import LayoutTarget
from airgap_images.targets import Cargo, Placed
from manifests import canonical
from manifests.errors import IntegrityError, SiteError

REFERENCE = "docker.io/library/busybox:1.36"


def store(folder: Path) -> Layout:
    return Layout.create(folder / "store")


def entries(folder: Path) -> list[dict]:
    return json.loads((folder / "index.json").read_bytes())["manifests"]


def names(folder: Path) -> set[str | None]:
    return {entry.get("annotations", {}).get("org.opencontainers.image.ref.name") for entry in entries(folder)}


def blobs(folder: Path) -> set[str]:
    return {path.name for path in (folder / "blobs/sha256").iterdir()}


def ours(placed: Placed) -> Placed:
    return dataclasses.replace(placed, before=False)


@pytest.mark.parts
@pytest.mark.parametrize("docker", [False, True], ids=["oci", "schema2"])
def test_skopeo_reads_it_by_the_images_name(tmp_path, docker):
    layout, out = store(tmp_path), tmp_path / "out"
    root = cargo.busybox(layout, docker=docker)
    target = LayoutTarget(out)
    placed = target.load(layout, Cargo("busybox", "image", cargo.wrap(layout, root), (REFERENCE,)))
    assert placed.tags == (REFERENCE,)
    assert (placed.id == str(root.digest)) is not docker
    source = f"oci:{out}:{REFERENCE}"
    assert json.loads(images.tool("skopeo", "inspect", source))["Architecture"] == "amd64"
    if not docker:
        assert images.tool("skopeo", "inspect", "--raw", source).encode() == layout.path(root.digest).read_bytes()
        images.tool("skopeo", "copy", "--quiet", "--preserve-digests", source, f"dir:{tmp_path / 'dir'}")
    assert all(os.path.samefile(layout.path(Digest(name)), out / "blobs/sha256" / name) for name in blobs(out))
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert {path.name for path in out.iterdir()} == {"oci-layout", "index.json", "blobs"}
    assert target.name == f"layout {out}"


@pytest.mark.parts
def test_podman_and_containerd_take_it_from_there(tmp_path):
    layout, out = store(tmp_path), tmp_path / "out"
    root = cargo.busybox(layout)
    LayoutTarget(out).load(layout, Cargo("busybox", "image", root, (REFERENCE,)))
    with podmans.podman() as podman:
        done = podman.podman("pull", f"oci:{out}:{REFERENCE}")
        assert done.returncode == 0, done.stderr
        assert podman.run(done.stdout.strip().splitlines()[-1]) == f"{images.GREETING}\n"
    with tarfile.open(tmp_path / "out.tar", "w") as archive:
        archive.add(out, arcname=".")
    with containerds.containerd() as containerd:
        done = containerd.ctr("images", "import", f"--snapshotter={containerd.place.snapshotter}", str(tmp_path / "out.tar"))
        assert done.returncode == 0, done.stderr
        assert containerd.names()[REFERENCE] == str(root.digest)


def test_several_platforms_evidence_and_trees(tmp_path):
    out = tmp_path / "out"
    layout, signed = cargo.signed(tmp_path / "store")
    target, tree, several = LayoutTarget(out), cargo.tree(layout), dataclasses.replace(cargo.several(layout), references=("quay.io/a/b:2",))
    placed = target.load(layout, signed.cargo)
    hex_ = signed.root.digest.hex
    assert placed == Placed(str(signed.root.digest), (
        f"@{signed.referrer.digest}" if str(signed.referrer.digest) < str(signed.provenance.digest) else f"@{signed.provenance.digest}",
        f"@{max(str(signed.referrer.digest), str(signed.provenance.digest))}",
        "docker.io/team/tool:1.0",
        f"docker.io/team/tool:sha256-{hex_}.sig@{signed.signature.digest}",
    ), before=False)  # fmt: skip
    assert "some of its platforms" in target.notes[0]
    assert target.load(layout, tree).tags == (f"trees/docs:sha256-{tree.root.digest.hex[:12]}",)
    assert target.load(layout, several).id == str(several.root.digest)
    assert names(out) == {"docker.io/team/tool:1.0", f"docker.io/team/tool:sha256-{hex_}.sig", "quay.io/a/b:2", None,
                          f"trees/docs:sha256-{tree.root.digest.hex[:12]}"}  # fmt: skip
    (referrer,) = [entry for entry in entries(out) if entry["digest"] == str(signed.referrer.digest)]
    assert referrer["artifactType"] == cargo.BUNDLE_TYPE
    for entry in entries(out):
        assert Digest.of((out / "blobs/sha256" / entry["digest"][7:]).read_bytes()) == Digest.parse(entry["digest"])
        assert not any(key.startswith("airgap.") for key in entry.get("annotations", {}))


def test_names_are_known_before_and_again_is_no_harm(tmp_path):
    out = tmp_path / "out"
    layout, signed = cargo.signed(tmp_path / "store")
    target = LayoutTarget(out)
    before = target.named(layout, signed.cargo)
    assert {leads for _, leads in before} == {None}
    assert target.present(layout, signed.cargo) is None
    assert not out.exists()
    placed = target.load(layout, signed.cargo)
    assert target.named(layout, signed.cargo) == tuple((name, placed.id) for name, _ in before)
    assert tuple(name for name, _ in before) == placed.tags
    raw = (out / "index.json").read_bytes()
    sent: list[int] = []
    again = target.load(layout, signed.cargo, sent.append)
    assert again == dataclasses.replace(placed, before=True)
    assert (out / "index.json").read_bytes() == raw
    assert sum(sent) == sum(path.stat().st_size for path in (out / "blobs/sha256").iterdir())


def test_everything_placed_goes_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    layout, signed = cargo.signed(tmp_path / "store")
    target = LayoutTarget(out)
    other = Cargo("other", "image", cargo.image(layout, "s390x"), ("docker.io/team/other:1",))  # shares layers
    theirs = target.load(layout, other)
    left, raw = blobs(out), (out / "index.json").read_bytes()
    placed = target.load(layout, signed.cargo)
    (out / "blobs/sha256" / ("f" * 64)).write_bytes(b"somebody's own, not named yet")
    target.remove(ours(placed))
    assert blobs(out) == left | {"f" * 64}
    assert (out / "index.json").read_bytes() == raw
    assert target.present(layout, other) == dataclasses.replace(theirs, before=True)
    target.remove(ours(placed))
    target.remove(ours(theirs))
    assert blobs(out) == {"f" * 64}
    assert entries(out) == []
    assert layout.path(signed.root.digest).is_file()  # the store has its own name of it
    LayoutTarget(tmp_path / "none").remove(ours(placed))


def test_entries_of_others_stay_as_they_are(tmp_path):
    out = tmp_path / "out"
    layout, signed = cargo.signed(tmp_path / "store")
    there = Layout.create(out)
    foreign = cargo.image(there, "riscv64").to_dict() | {"annotations": {"org.opencontainers.image.ref.name": "own", "x": "y"}, "urls": ["https://a"]}
    hollow = cargo.index(there, cargo.of(signed.root, "amd64"), cargo.of(cargo.image(layout, "never"), "never")).to_dict()
    (out / "index.json").write_bytes(canonical.compact({"schemaVersion": 2, "annotations": {"a": "b"}, "manifests": [foreign, hollow]}))
    target = LayoutTarget(out)
    target.load(layout, signed.cargo)
    assert entries(out)[:2] == [foreign, hollow]
    target.remove(ours(target.present(layout, signed.cargo)))
    assert json.loads((out / "index.json").read_bytes()) == {"schemaVersion": 2, "annotations": {"a": "b"}, "manifests": [foreign, hollow]}
    assert there.has(signed.root.digest, signed.root.size)  # the index of others needs it


def test_a_name_that_led_elsewhere_moves(tmp_path):
    layout, out = store(tmp_path), tmp_path / "out"
    old, new = (Cargo("a", "image", cargo.image(layout, kind), (REFERENCE,)) for kind in ("amd64", "arm64"))
    target = LayoutTarget(out)
    first = target.load(layout, old)
    second = target.load(layout, new)
    assert [entry["digest"] for entry in entries(out)] == [second.id]
    assert target.present(layout, old) is None
    target.remove(ours(first))
    assert target.present(layout, new).tags == (REFERENCE,)


def test_evidence_with_signatures_of_somebody_else_is_left(tmp_path):
    out = tmp_path / "out"
    layout, signed = cargo.signed(tmp_path / "store")
    name = f"docker.io/team/tool:sha256-{signed.root.digest.hex}.sig"
    more = cargo.manifest(layout, cargo.blob(layout, b'{"x":2}', cargo.CONFIG), cargo.blob(layout, b"payload", cargo.COSIGN_LAYER),
                          cargo.blob(layout, b"own", cargo.COSIGN_LAYER))  # fmt: skip
    target = LayoutTarget(out)
    target.load(layout, Cargo("own", "image", more, (name,)))
    placed = target.load(layout, signed.cargo)
    assert not any(".sig" in tag for tag in placed.tags)
    assert any("stays as it is" in note for note in target.notes)
    assert [entry["digest"] for entry in entries(out) if name in str(entry)] == [str(more.digest)]


def test_across_file_systems_it_copies_and_proves(tmp_path):
    with installing.in_memory(tmp_path) as folder:
        if os.stat(folder).st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("there is one file system only")
        layout = store(tmp_path)
        data = cargo.large(3 << 20)
        load = Cargo("a", "image", cargo.image(layout, layers=(data,)), (REFERENCE,))
        sent: list[int] = []
        LayoutTarget(folder / "out").load(layout, load, sent.append)
        copied = folder / "out/blobs/sha256" / Digest.of(data).hex
        assert copied.read_bytes() == data
        assert sum(sent) >= len(data)
        path = layout.path(Digest.of(data))
        path.chmod(0o644)
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(IntegrityError, match=Digest.of(data).hex):
            LayoutTarget(folder / "damaged").load(layout, load)
        assert Digest.of(data).hex not in blobs(folder / "damaged")
        assert not (folder / "damaged/index.json").exists()


def test_a_blob_that_lies_there_damaged_is_not_named(tmp_path):
    layout, out = store(tmp_path), tmp_path / "out"
    load = Cargo("a", "image", cargo.image(layout), (REFERENCE,))
    Layout.create(out)
    (out / "blobs/sha256" / Digest.of(b"one").hex).write_bytes(b"two")
    with pytest.raises(IntegrityError, match=Digest.of(b"one").hex):
        LayoutTarget(out).load(layout, load)
    assert not (out / "index.json").exists()


def test_a_missing_blob_shows(tmp_path):
    layout, out = store(tmp_path), tmp_path / "out"
    load, target = Cargo("a", "image", cargo.image(layout), (REFERENCE,)), LayoutTarget(out)
    placed = target.load(layout, load)
    (out / "blobs/sha256" / Digest.of(b"one").hex).unlink()
    assert target.present(layout, load) == Placed(placed.id, ())
    assert target.load(layout, load).tags == placed.tags


def test_killed_anywhere_and_run_again_it_is_the_same(tmp_path):
    with installing.in_memory(tmp_path) as folder:
        layout, signed = cargo.signed(folder / "store")
        tree = cargo.tree(layout)

        def put(out: Path) -> None:
            for item in (tree, signed.cargo):
                LayoutTarget(out).load(layout, item)

        def take(out: Path) -> None:
            found = LayoutTarget(out).present(layout, signed.cargo)
            if found:
                LayoutTarget(out).remove(dataclasses.replace(found, tags=placed.tags, before=False))

        put(folder / "whole")
        placed = LayoutTarget(folder / "whole").present(layout, signed.cargo)
        LayoutTarget(folder / "tree").load(layout, tree)
        whole, without = installing.look(folder / "whole"), installing.look(folder / "tree")
        at, killed = 0, {True}
        while True in killed:
            at += 1
            out = folder / f"kill-{at}"
            killed = {installing.run_and_kill(lambda out=out: put(out), at)}
            put(out)
            assert installing.look(out) == whole, at
            killed.add(installing.run_and_kill(lambda out=out: take(out), at))
            take(out)
            assert installing.look(out) == without, at
        assert at > 20


def test_only_one_writes_at_a_time(tmp_path):
    layout, out = store(tmp_path), tmp_path / "out"
    load = Cargo("a", "image", cargo.image(layout), (REFERENCE,))
    out.mkdir()
    with alone(out, "something is written"), pytest.raises(SiteError, match="images are being written there already"):
        LayoutTarget(out).load(layout, load)


def test_folders_that_are_something_else(tmp_path):
    layout = store(tmp_path)
    load = Cargo("a", "image", cargo.image(layout), (REFERENCE,))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    (tmp_path / "receipts").mkdir()
    bundle = tmp_path / "bundle"
    Layout.create(bundle)
    (bundle / "index.json").write_bytes(
        canonical.compact({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "artifactType": "application/vnd.airgap.bundle.v1+json", "manifests": []})
    )
    (tmp_path / "odd/receipts").mkdir(parents=True)
    (tmp_path / "odd/oci-layout").write_text("{}")
    for folder, why in (("full", "not empty"), ("store", "is a store"), ("odd", "is a store"), ("bundle", "is a bundle")):
        with pytest.raises(SiteError, match=why):
            LayoutTarget(tmp_path / folder).load(layout, load)
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["file"]
    for text in ("[]", "{", '{"manifests":[1]}'):
        (tmp_path / "broken").mkdir(exist_ok=True)
        (tmp_path / "broken/oci-layout").write_text("{}")
        (tmp_path / "broken/index.json").write_text(text)
        with pytest.raises(SiteError):
            LayoutTarget(tmp_path / "broken").load(layout, load)
        assert (tmp_path / "broken/index.json").read_text() == text


def test_a_damaged_document_of_others_stops_a_removal_before_it_begins(tmp_path):
    layout, out = store(tmp_path), tmp_path / "out"
    load, target = Cargo("a", "image", cargo.image(layout), (REFERENCE,)), LayoutTarget(out)
    foreign = Cargo("b", "image", cargo.image(layout, "arm64"), ("quay.io/x/y:1",))
    target.load(layout, foreign)
    placed = target.load(layout, load)
    path = out / "blobs/sha256" / foreign.root.digest.hex
    raw = path.read_bytes()
    path.unlink()
    path.write_bytes(raw.replace(b"linux", b"Linux") + b" ")
    before = blobs(out)
    with pytest.raises(IntegrityError):
        target.remove(ours(placed))
    assert blobs(out) == before
