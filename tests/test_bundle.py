"""Bundles: the same components give the same bytes, large trees are split, strays are named, closures are bounded."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts import bundles

from airgap_images import bundle as module
from airgap_images.bundle import (
    BUNDLE,
    MAX_LAYERS,
    MODEL,
    MODEL_CONFIG,
    MODEL_FILEPATH,
    TREE,
    Component,
    TreeFile,
    closure,
    component_descriptor,
    components,
    parse_index,
    strays,
    sums,
    tree_files,
    write_index,
    write_tree,
)  # fmt: skip
from airgap_images.layout import OCI_LAYOUT, Layout
from airgap_images.oci import IMAGE_INDEX, IMAGE_MANIFEST, MAX_MANIFEST, TITLE, Descriptor, Digest, Index, Manifest
from manifests import canonical
from manifests.errors import IntegrityError, InvalidFileError

HEX = "a" * 64
GOLDEN = "71d08808c6c4880ac563e8424a503b2623b98d5eb6ebd96697b57b84cd96dd11"
reuse = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def stored(layout: Layout, files: dict[str, bytes]) -> list[TreeFile]:
    return [TreeFile(path, layout.put(data), len(data)) for path, data in files.items()]


def component(layout: Layout, name: str, files: dict[str, bytes], **more: object) -> Component:
    root = component_descriptor(write_tree(layout, stored(layout, files)), name=name, kind="path", form="tree", **more)
    return Component(name, "path", "tree", more.get("role"), root)


@reuse
@given(st.dictionaries(st.sampled_from(["a", "b/c", "b/d/e", "ä.txt", "z z"]), st.binary(max_size=20), max_size=5), st.booleans(), st.randoms())
def test_a_tree_reads_back_as_it_was_whatever_the_order(tmp_path, files, model, random):
    layout = Layout.create(tmp_path)
    listed = stored(layout, files)
    said = {"name": "m"} if model else None
    root = write_tree(layout, listed, model=said)
    random.shuffle(listed)
    assert write_tree(layout, listed, model=said) == root
    assert list(tree_files(layout, root)) == sorted(listed, key=lambda file: file.path)
    assert root.artifact_type == (MODEL if model else TREE)


def test_a_tree_is_a_manifest_of_raw_titled_files(tmp_path):
    layout = Layout.create(tmp_path)
    root = write_tree(layout, stored(layout, {"b/c.txt": b"x", "a": b""}))
    assert root.media_type == IMAGE_MANIFEST
    manifest = json.loads(layout.read(root, MAX_MANIFEST))
    assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    assert [layer["annotations"] for layer in manifest["layers"]] == [{TITLE: "a"}, {TITLE: "b/c.txt"}]
    assert {layer["mediaType"] for layer in manifest["layers"]} == {"application/octet-stream"}


def test_a_model_carries_both_annotations_and_says_what_it_is(tmp_path):
    layout = Layout.create(tmp_path)
    files = {"model.safetensors": b"w", "config.json": b"{}", "README.md": b"r", "LICENSE": b"l", "modeling.py": b"p", "q/x.GGUF": b"g"}
    said = {"name": "m", "license": "apache-2.0", "revision": "abc", "architecture": "X", "precision": "bfloat16", "ignored": "y"}
    root = write_tree(layout, stored(layout, files), model=said)
    manifest = Manifest.parse(layout.read(root, MAX_MANIFEST), "x")
    assert manifest.artifact_type == MODEL
    kinds = {}
    for layer in manifest.layers:
        assert layer.annotation(TITLE) == layer.annotation(MODEL_FILEPATH)
        kinds[layer.annotation(TITLE)] = layer.media_type.removeprefix("application/vnd.cncf.model.").removesuffix(".v1.raw")
    assert kinds == {
        "model.safetensors": "weight", "q/x.GGUF": "weight", "config.json": "weight.config", "README.md": "doc", "LICENSE": "doc", "modeling.py": "code",
    }  # fmt: skip
    assert manifest.config.media_type == MODEL_CONFIG
    config = json.loads(layout.read(manifest.config, MAX_MANIFEST))
    assert config["descriptor"] == {"name": "m", "licenses": ["apache-2.0"], "revision": "abc"}
    assert config["config"] == {"architecture": "X", "precision": "bfloat16"}
    assert config["modelfs"] == {"type": "layers", "diffIds": [str(layer.digest) for layer in manifest.layers]}


@pytest.mark.parametrize("model", [None, {"name": "m"}])
def test_above_ten_thousand_files_a_tree_is_several_manifests_under_an_index(tmp_path, model):
    layout = Layout.create(tmp_path)
    digest = layout.put(b"x")
    listed = [TreeFile(f"d{number // 100}/f{number:05}", digest, 1) for number in range(MAX_LAYERS + 1)]
    root = write_tree(layout, listed[:-1], model=model)
    assert root.media_type == IMAGE_MANIFEST
    root = write_tree(layout, reversed(listed), model=model)
    assert (root.media_type, root.artifact_type) == (IMAGE_INDEX, TREE)
    index = Index.parse(layout.read(root, MAX_MANIFEST), "x")
    assert [child.artifact_type for child in index.manifests] == [MODEL if model else TREE] * 2
    assert list(tree_files(layout, root)) == sorted(listed, key=lambda file: file.path)


def test_long_paths_never_make_a_manifest_that_registries_and_verifiers_refuse(tmp_path):
    layout = Layout.create(tmp_path)
    digest = layout.put(b"x")
    listed = [TreeFile("/".join([f"{number:05}", "p" * 250, "q" * 250, "ä" * 120]), digest, 1) for number in range(6000)]
    root = write_tree(layout, listed, model={"name": "m"})
    index = Index.parse(layout.read(root, MAX_MANIFEST), "x")
    assert len(index.manifests) == 3
    assert all(child.size <= MAX_MANIFEST for child in index.manifests)
    assert list(tree_files(layout, root)) == listed


@pytest.mark.parametrize(
    "paths", [("a", "a"), ("a", "A"), ("a", "a/b"), ("caf\u00e9", "cafe\u0301")]
)  # fmt: skip
def test_a_tree_whose_paths_clash_is_not_written(tmp_path, paths):
    layout = Layout.create(tmp_path)
    with pytest.raises(InvalidFileError, match="tree: "):
        write_tree(layout, [TreeFile(path, Digest(HEX), 1) for path in paths])


def handmade(layout: Layout, layers: list[dict]) -> Descriptor:
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": str(layout.put(b"{}")), "size": 2}
    raw = canonical.compact({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "artifactType": TREE, "config": empty, "layers": layers})
    return Descriptor(IMAGE_MANIFEST, layout.put(raw), len(raw), artifact_type=TREE)


def layer(layout: Layout, path: str | None) -> dict:
    annotations = {} if path is None else {"annotations": {TITLE: path}}
    return {"mediaType": "application/octet-stream", "digest": str(layout.put(b"x")), "size": 1, **annotations}


@pytest.mark.parametrize("paths", [["../x"], ["/etc/passwd"], [None], [""], ["a\\b"], ["a\nb"], ["a", "a"], ["a", "A"], ["a", "a/b"], ["x/../../y"]])
def test_a_tree_made_by_others_with_unsafe_paths_is_not_read(tmp_path, paths):
    layout = Layout.create(tmp_path)
    root = handmade(layout, [layer(layout, path) for path in paths])
    with pytest.raises(InvalidFileError, match="tree: "):
        list(tree_files(layout, root))


def test_a_tree_of_something_else_is_not_read(tmp_path):
    layout = Layout.create(tmp_path)
    inner = handmade(layout, [])
    nested = canonical.compact({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [inner.to_dict()]})
    deep = Descriptor(IMAGE_INDEX, layout.put(nested), len(nested))
    raw = canonical.compact({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [deep.to_dict()]})
    with pytest.raises(IntegrityError, match="not a manifest of a tree"):
        list(tree_files(layout, Descriptor(IMAGE_INDEX, layout.put(raw), len(raw))))
    assert list(tree_files(layout, Descriptor("a/b", layout.put(b"x"), 1))) == []


def two(layout: Layout) -> list[Component]:
    return [component(layout, "b", {"x": b"1"}, role="gateway", facts={"version": "1"}), component(layout, "a", {"y": b"2"})]


def test_the_same_components_give_the_same_bytes_in_every_folder_and_order(tmp_path):
    written = []
    for name in ("one", "two"):
        layout = Layout.create(tmp_path / name)
        made = two(layout)
        written.append(write_index(layout, made if name == "one" else made[::-1], {"airgap.stream": "s"}))
    assert written[0] == written[1]
    for name in ("index.json", "SHA256SUMS", "oci-layout"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    blobs = [{entry for entry, _ in Layout(tmp_path / name).blobs()} for name in ("one", "two")]
    assert blobs[0] == blobs[1]
    digest = hashlib.sha256(written[0]).hexdigest()
    assert digest == GOLDEN, "the bytes of a bundle are a promise: another digest here is another format"


def test_the_index_reads_back(tmp_path):
    layout = Layout.create(tmp_path)
    raw = write_index(layout, two(layout), {"airgap.stream": "s"})
    index = parse_index(raw)
    assert (index.raw, index.artifact_type, dict(index.annotations)) == (raw, BUNDLE, {"airgap.stream": "s"})
    found = components(index)
    assert [(c.name, c.kind, c.form, c.role, c.facts) for c in found] == [
        ("a", "path", "tree", None, {}), ("b", "path", "tree", "gateway", {"version": "1"}),
    ]  # fmt: skip


def test_nothing_is_written_again_when_nothing_moved(tmp_path):
    layout = Layout.create(tmp_path)
    write_index(layout, two(layout), {})
    before = [(tmp_path / name).stat().st_ino for name in ("index.json", "SHA256SUMS")]
    write_index(layout, two(layout), {})
    assert [(tmp_path / name).stat().st_ino for name in ("index.json", "SHA256SUMS")] == before
    assert not (tmp_path / ".partial").exists()


def test_sha256sum_accepts_the_sums_and_they_list_every_file(tmp_path):
    layout = Layout.create(tmp_path)
    write_index(layout, two(layout), {})
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)
    listed = [line.split("  ")[1] for line in (tmp_path / "SHA256SUMS").read_text().splitlines()]
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    assert listed == found == sorted(listed)


def test_sums_need_no_blob_to_be_there():
    text = sums(b"{}", {Digest(HEX): 5}).decode()
    assert text == (
        f"{HEX}  blobs/sha256/{HEX}\n{hashlib.sha256(b'{}').hexdigest()}  index.json\n{hashlib.sha256(OCI_LAYOUT).hexdigest()}  oci-layout\n"
    )


def test_the_closure_is_everything_the_index_reaches(tmp_path):
    layout = Layout.create(tmp_path)
    index = parse_index(write_index(layout, two(layout), {}))
    assert {digest.hex for digest in closure(layout, index)} == {name for name, _ in layout.blobs()}
    layout.put(b"unreferenced")
    assert len(closure(layout, index)) == len(list(layout.blobs())) - 1


def described(layout: Layout, *children: Descriptor) -> Descriptor:
    raw = canonical.compact({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [child.to_dict() for child in children]})
    return Descriptor(IMAGE_INDEX, layout.put(raw), len(raw))


def index_of(*children: Descriptor) -> Index:
    return Index(b"", IMAGE_INDEX, children, (), BUNDLE)


def test_a_closure_is_bounded_in_depth_size_and_number(tmp_path, monkeypatch):
    layout = Layout.create(tmp_path)
    leaf = Descriptor("a/b", layout.put(b"x"), 1)
    chain = [leaf]
    for _ in range(4):
        chain.append(described(layout, chain[-1]))
    assert len(closure(layout, index_of(chain[3]))) == 4
    with pytest.raises(IntegrityError, match="nested deeper than 4 levels"):
        closure(layout, index_of(chain[4]))
    with pytest.raises(IntegrityError, match="described with two sizes"):
        closure(layout, index_of(leaf, Descriptor("a/b", leaf.digest, 2)))
    large = Descriptor(IMAGE_MANIFEST, Digest(HEX), MAX_MANIFEST + 1)
    with pytest.raises(IntegrityError, match="at most"):
        closure(layout, index_of(large))
    monkeypatch.setattr(module, "MAX_BLOBS", 2)
    with pytest.raises(IntegrityError, match="more than 2 blobs"):
        closure(layout, index_of(chain[3]))


def test_a_few_bytes_that_name_one_index_over_and_over_do_not_become_billions(tmp_path):
    layout = Layout.create(tmp_path)
    leaf = Descriptor("a/b", layout.put(b"x"), 1)
    many = described(layout, *[leaf] * 5000)
    more = described(layout, *[many] * 5000)
    assert len(closure(layout, index_of(*[more] * 100))) == 3


def test_a_blob_named_once_as_bytes_and_once_as_an_index_is_followed(tmp_path):
    layout = Layout.create(tmp_path)
    leaf = Descriptor("a/b", layout.put(b"x"), 1)
    inner = described(layout, leaf)
    assert leaf.digest in closure(layout, index_of(Descriptor("a/b", inner.digest, inner.size), inner))


def test_a_damaged_manifest_stops_the_closure_by_name(tmp_path):
    layout = Layout.create(tmp_path)
    index = parse_index(write_index(layout, two(layout), {}))
    path = layout.path(index.manifests[0].digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"octet", b"octat"))
    with pytest.raises(IntegrityError, match=index.manifests[0].digest.hex):
        closure(layout, index)


def altered(raw: bytes, change) -> bytes:
    value = json.loads(raw)
    change(value)
    return canonical.compact(value)


INDEXES = {
    "other artifact": lambda v: v.update(artifactType="a/b"),
    "no artifact": lambda v: v.pop("artifactType"),
    "docker list": lambda v: v.update(mediaType="application/vnd.docker.distribution.manifest.list.v2+json"),
    "unsorted": lambda v: v["manifests"].reverse(),
    "name twice": lambda v: v["manifests"].append(v["manifests"][-1]),
    "no name": lambda v: v["manifests"][0]["annotations"].pop("airgap.name"),
    "unsafe name": lambda v: v["manifests"][0]["annotations"].update({"airgap.name": "../a"}),
    "no kind": lambda v: v["manifests"][0]["annotations"].pop("airgap.kind"),
    "other form": lambda v: v["manifests"][0]["annotations"].update({"airgap.form": "script"}),
    "no annotations": lambda v: v["manifests"][0].pop("annotations"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_of_something_else_is_refused(tmp_path, name):
    layout = Layout.create(tmp_path)
    raw = altered(write_index(layout, two(layout), {}), INDEXES[name])
    with pytest.raises(IntegrityError, match=r"^index\.json: "):
        components(parse_index(raw))


def test_too_many_components_are_refused(tmp_path, monkeypatch):
    layout = Layout.create(tmp_path)
    monkeypatch.setattr(module, "MAX_COMPONENTS", 1)
    with pytest.raises(IntegrityError, match="more than 1 components"):
        write_index(layout, two(layout), {})
    assert not (tmp_path / "index.json").exists()


STRAYS = ["stray", ".hidden", "verify.sh", "blobs/x", "blobs/sha512", f"blobs/sha256/{HEX}", "blobs/sha256/x", "blobs/sha256/.tmp", ".partial/x"]


@pytest.mark.parametrize("place", STRAYS)
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_whatever_does_not_belong_is_named(tmp_path, place, kind):
    layout = bundles.layout(tmp_path / "b", {"docs": {"a": b"1"}})
    blobs = closure(layout, parse_index((tmp_path / "b" / "index.json").read_bytes()))
    assert strays(layout.root, blobs) == []
    path = layout.root / place
    path.parent.mkdir(exist_ok=True)
    {"file": lambda: path.write_bytes(b""), "folder": path.mkdir, "link": lambda: path.symlink_to("/nowhere")}[kind]()
    assert strays(layout.root, blobs) == [".partial" if place.startswith(".partial") else place]


def test_skopeo_reads_the_layout(tmp_path):
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed")
    bundles.layout(tmp_path / "b", {"docs": {"a": b"1"}})
    out = subprocess.run(["skopeo", "inspect", "--raw", f"oci:{tmp_path / 'b'}:docs"], check=True, capture_output=True).stdout
    assert json.loads(out)["artifactType"] == TREE
