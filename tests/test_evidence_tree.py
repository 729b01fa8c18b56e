"""The tree that carries upstream evidence: its listing has one form, and the tree is whole or it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from parts.expect import refused
from parts.upstream import VENDOR, Carried, Part, bundle, envelope, statement

from airgap_images import evidence
from airgap_images.bundle import TreeFile, write_tree
from airgap_images.evidence import LISTING, Completed, Evidence, EvidenceTree, Found, Subject, completed_path, load, tag
from airgap_images.layout import Layout
from airgap_images.oci import DOCKER_LIST, IMAGE_INDEX, IMAGE_MANIFEST, Descriptor, Digest
from manifests import canonical
from manifests.errors import IntegrityError, InvalidFileError

IMAGE, INDEX, SIGNATURE, LAYER = (Digest(letter * 64) for letter in "abcd")


def whole() -> Evidence:
    """Return a listing with one of everything."""
    return Evidence(
        "ghcr.io/team/tool",
        (f"tag {tag(IMAGE, 'sig')}", f"referrers {IMAGE}"),
        (Subject(INDEX, IMAGE_INDEX, 10, "index", ""), Subject(IMAGE, IMAGE_MANIFEST, 20, "image", "linux/arm/v7")),
        (
            Found("signature", "tag", tag(IMAGE, "sig"), IMAGE, Descriptor(IMAGE_MANIFEST, SIGNATURE, 30)),
            Found("sbom", "referrer", None, IMAGE, Descriptor(IMAGE_MANIFEST, LAYER, 40, artifact_type="application/spdx+json")),
        ),
        (Completed(SIGNATURE, LAYER, completed_path(LAYER, 0)),),
        (("tag x", "the server answered 403"),),
    )


def test_a_listing_is_what_is_parsed_back_and_the_same_bytes() -> None:
    text = whole().to_text()
    assert Evidence.parse(text.encode(), LISTING) == whole()
    assert Evidence.parse(text.encode(), LISTING).to_text() == text
    value = json.loads(text)
    assert set(value) == {"format", "repository", "asked", "subjects", "found", "completed", "notCollected"}
    assert value["format"] == "airgap.upstream/v1"
    assert value["found"][0] == {
        "kind": "signature", "shape": "tag", "tag": f"sha256-{'a' * 64}.sig", "subject": str(IMAGE), "manifest": str(SIGNATURE),
        "mediaType": IMAGE_MANIFEST, "size": 30, "artifactType": None,
    }  # fmt: skip


def change(path: str, value: Any) -> Callable[[dict], None]:
    """Return what puts `value` at a dotted path; DELETE takes it away."""

    def apply(document: dict) -> None:
        *before, last = path.split(".")
        at: Any = document
        for part in before:
            at = at[int(part)] if part.isdigit() else at[part]
        at[int(last) if last.isdigit() else last] = value

    return apply


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", "airgap.upstream/v2"),
        ("extra", 1),
        ("repository", "ghcr.io/team/tool\n"),
        ("repository", "GHCR.io/x"),
        ("asked", [""]),
        ("asked", ["x" * 513]),
        ("asked", ["x"] * (evidence.MAX_NOTES + 1)),
        ("subjects", []),
        ("subjects.0.digest", "sha512:" + "a" * 128),
        ("subjects.0.digest", str(IMAGE)),
        ("subjects.0.size", -1),
        ("subjects.0.size", True),
        ("subjects.0.role", "image"),
        ("subjects.1.role", "index"),
        ("subjects.1.mediaType", "text/plain"),
        ("subjects.1.platform", "linux/arm\x1b"),
        ("subjects.1.platform", "Linux/arm"),
        ("found.0.kind", "signed"),
        ("found.0.shape", "elsewhere"),
        ("found.0.tag", None),
        ("found.0.tag", f"sha256-{'b' * 64}.sig"),
        ("found.0.tag", f"sha256-{'a' * 64}.exe"),
        ("found.1.tag", f"sha256-{'a' * 64}.sig"),
        ("found.0.subject", "sha256:" + "e" * 64),
        ("found.1.subject", "sha256:" + "e" * 64),
        ("found.0.manifest", str(IMAGE)),
        ("found.1.manifest", str(INDEX)),
        ("found.0.mediaType", IMAGE_INDEX),
        ("found.0.size", (4 << 20) + 1),
        ("found.1.artifactType", "x" * 256),
        ("found.1", json.loads(whole().to_text())["found"][0]),
        ("completed.0.manifest", "sha256:" + "e" * 64),
        ("completed.0.file", "completed/../upstream.json"),
        ("completed.0.file", f"completed/{'a' * 64}-0.sigstore.json"),
        ("completed.0.file", f"/etc/{'d' * 64}-0.sigstore.json"),
        ("completed", [json.loads(whole().to_text())["completed"][0]] * 2),
        ("notCollected.0.why", ""),
        ("notCollected.0", ["tag x", "why"]),
    ],
)
def test_a_listing_that_is_off_anywhere_is_refused(path: str, value: Any) -> None:
    document = json.loads(whole().to_text())
    change(path, value)(document)
    with refused(InvalidFileError, "upstream.json: "):
        Evidence.parse(canonical.compact(document), LISTING)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"format":1,"format":2}', b"[" * 100_000, b"\xff", b" " * (evidence.MAX_LISTING + 1)])
def test_what_is_no_listing_is_refused(raw: bytes) -> None:
    with refused(InvalidFileError, "upstream.json"):
        Evidence.parse(raw, LISTING)


def test_an_index_of_dockers_own_type_is_a_subject_too() -> None:
    made = replace(whole(), subjects=(Subject(INDEX, DOCKER_LIST, 1, "index", ""), *whole().subjects[1:]))
    assert Evidence.parse(made.to_text().encode(), LISTING) == made


# --- the tree


class Tree:
    """A tree of an image's evidence, to be changed before it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.carried = Carried(folder, indexed=True)
        content = {"dsseEnvelope": envelope(statement(self.carried.only), VENDOR)}
        self.signature = self.carried.tag_signature(self.carried.only, VENDOR)
        self.bundle = self.carried.referrer(self.carried.only, bundle(content))
        self.rebuilt = self.carried.add("signature", "tag", self.carried.index, Part("text/plain", b"payload", completed=b'{"rebuilt":1}'))
        self.layout: Layout = self.carried.layout
        listing = self.carried.listing()
        self.listing = listing.to_text().encode()
        self.files = {f"manifests/{s.digest.hex}": self.carried.raw(s.digest) for s in listing.subjects} | self.carried.files

    def load(self, **changed: Descriptor) -> EvidenceTree:
        held = {LISTING: self.listing} | self.files if self.listing else self.files
        files = [TreeFile(path, self.layout.put(data), len(data)) for path, data in held.items()]
        return load(self.layout, changed.get("root") or write_tree(self.layout, files))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_everything_can_be_read_back(tree: Tree) -> None:
    loaded = tree.load()
    assert loaded.evidence == tree.carried.listing()
    assert loaded.manifest(tree.carried.index) == tree.carried.index_raw
    layer = Digest.parse(json.loads(loaded.manifest(tree.signature))["layers"][0]["digest"])
    assert b"cosign container image signature" in loaded.blob(layer, 1000)
    assert loaded.completed(loaded.evidence.completed[0].file) == b'{"rebuilt":1}'
    file = loaded.file(layer)
    assert (file.path, file.digest) == (f"blobs/{layer.hex}", layer)
    assert loaded.file(tree.bundle).path == f"manifests/{tree.bundle.hex}"
    assert loaded.layout.has(file.digest, file.size)


def test_reads_are_bounded_and_never_of_something_else(tree: Tree) -> None:
    loaded = tree.load()
    layer = Digest.parse(json.loads(loaded.manifest(tree.signature))["layers"][0]["digest"])
    with refused(IntegrityError, layer.hex, "at most 10 allowed"):
        loaded.blob(layer, 10)
    for read in (lambda: loaded.manifest(LAYER), lambda: loaded.blob(LAYER, 10), lambda: loaded.completed("completed/x"), lambda: loaded.file(LAYER)):
        with refused(IntegrityError, "upstream evidence", "missing"):
            read()
    path = tree.layout.path(layer)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[::-1])
    with refused(IntegrityError, layer.hex, "content is"):
        loaded.blob(layer, 1000)


def test_each_file_that_is_missing_is_named(tree: Tree) -> None:
    for path in list(tree.files):
        data = tree.files.pop(path)
        with refused(IntegrityError, path, "missing"):
            tree.load()
        tree.files[path] = data
    tree.load()


def test_without_a_listing_it_is_no_evidence(tree: Tree) -> None:
    tree.listing = b""
    with refused(IntegrityError, "upstream.json is missing"):
        tree.load()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("manifests/" + "e" * 64, "holds sha256"),
        ("blobs/" + "e" * 64, "holds sha256"),
        ("blobs/x", "holds sha256"),
        ("completed/" + "e" * 64 + "-0.sigstore.json", "is not listed"),
        ("completed/x/y", "does not belong here"),
        ("other/file", "does not belong here"),
        ("readme", "is not listed"),
    ],
)
def test_a_file_that_does_not_belong_is_refused(tree: Tree, path: str, words: str) -> None:
    tree.files[path] = b"smuggled"
    with refused(IntegrityError, path, words):
        tree.load()


def test_a_true_name_alone_does_not_make_a_file_belong(tree: Tree) -> None:
    for folder in ("manifests", "blobs"):
        digest = Digest.of(b"smuggled")
        tree.files[f"{folder}/{digest.hex}"] = b"smuggled"
        with refused(IntegrityError, f"{folder}/{digest.hex}", "is not listed"):
            tree.load()
        del tree.files[f"{folder}/{digest.hex}"]


def test_sizes_and_types_must_be_those_listed(tree: Tree) -> None:
    for path, value in (("subjects.0.size", 1), ("found.0.size", 1)):
        document = json.loads(tree.listing)
        change(path, value)(document)
        kept, tree.listing = tree.listing, canonical.compact(document)
        with refused(IntegrityError, "bytes, expected 1"):
            tree.load()
        tree.listing = kept
    document = json.loads(tree.listing)
    change("found.0.mediaType", "application/vnd.docker.distribution.manifest.v2+json")(document)
    tree.listing = canonical.compact(document)
    with refused(IntegrityError, "is of media type", "listed as"):
        tree.load()


def test_a_listing_that_is_off_is_the_bundles_fault(tree: Tree) -> None:
    tree.listing = b'{"format":"other"}'
    with refused(IntegrityError, "upstream.json: "):
        tree.load()


def test_a_found_manifest_that_is_none(tree: Tree) -> None:
    for raw in (b"not JSON", b'{"schemaVersion":2,"manifests":[]}'):
        digest = Digest.of(raw)
        found = Found("other", "referrer", None, tree.carried.only, Descriptor(IMAGE_MANIFEST, digest, len(raw)))
        made = replace(tree.carried.listing(), found=(*tree.carried.listing().found, found))
        tree.listing = made.to_text().encode()
        tree.files[f"manifests/{digest.hex}"] = raw
        with refused(IntegrityError, str(digest)):
            tree.load()
        del tree.files[f"manifests/{digest.hex}"]


def test_limits_hold_before_anything_large_is_read(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = max(len(data) for path, data in tree.files.items() if path.startswith("blobs/"))
    for name, limit, words in (
        ("MAX_BLOB", largest - 1, "at most"),
        ("MAX_TOTAL", 1000, "at most 1000 allowed"),
        ("MAX_FILES", 3, "more than 3 files"),
        ("MAX_BLOBS", 1, "at most 1 allowed"),
        ("MAX_COMPLETED", 3, "at most 3 allowed"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(evidence, name, limit)
            with refused(IntegrityError, "upstream evidence", words):
                tree.load()


def test_a_root_that_is_no_tree(tree: Tree) -> None:
    root = Descriptor("text/plain", tree.layout.put(b"x"), 1)
    with refused(IntegrityError, "upstream.json is missing"):
        tree.load(root=root)
