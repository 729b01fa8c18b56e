"""Images in the inventory and in the evidence: packages inside them, platforms, and what could not be read, truthfully."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from parts import evidence, layers
from parts.evidence import contents, lock, locked, pins
from test_cyclonedx import every, facts, validator  # noqa: F401 - a fixture

from airgap_images.bundle import IMAGE, Component, component_descriptor
from airgap_images.layout import Layout
from airgap_images.oci import DOCKER_MANIFEST, IMAGE_INDEX, IMAGE_MANIFEST, Descriptor, Digest
from audit.assess import assess
from audit.evidence import describe, images
from audit.evidence.cyclonedx import cyclonedx
from audit.evidence.item import Content, Item
from audit.evidence.report import html
from audit.evidence.verification import verification_json
from audit.verify.walk import Place, Silent
from manifests import canonical

STATUS = "Package: {name}\nStatus: install ok installed\nVersion: 1\nArchitecture: {arch}\n"
ATTESTATION = (("vnd.docker.reference.digest", "sha256:" + "0" * 64), ("vnd.docker.reference.type", "attestation-manifest"))


def put(layout: Layout, media_type: str, raw: bytes, **said) -> Descriptor:
    return Descriptor(media_type, layout.put(raw), len(raw), **said)


def manifest(folder: Path, files: dict[str, bytes], media_type: str = IMAGE_MANIFEST, **said) -> Descriptor:
    layout, made = layers.image(folder, layers.of(files))
    raw = made.raw if media_type == IMAGE_MANIFEST else made.raw.replace(IMAGE_MANIFEST.encode(), media_type.encode())
    return put(layout, media_type, raw, **said)


def index(folder: Path, *entries: Descriptor, artifact: str | None = None) -> Descriptor:
    value = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [entry.to_dict() for entry in entries]}
    value |= {"artifactType": artifact} if artifact else {}
    return put(Layout.create(folder), IMAGE_INDEX, canonical.compact(value), artifact_type=artifact)


def system(arch: str, name: str = "tool") -> dict[str, bytes]:
    return {"etc/os-release": b"ID=debian\nVERSION_ID=12\n", "var/lib/dpkg/status": STATUS.format(name=name, arch=arch).encode()}


def listed(folder: Path, root: Descriptor, problem: str = "") -> list[Item]:
    root = component_descriptor(root, name="server", kind="image", form="image", facts={"ref": "r.example.org/team/server:1"})
    content = Content(Component("server", "image", "image", None, root), (), ((root.digest.hex, root.size),), problem, None)
    return list(describe.items(Layout(folder), content))


# --- platforms and wrappers -----------------------------------------------------------------------------------------


def test_each_platform_is_an_item_with_its_packages(tmp_path):
    entries = [manifest(tmp_path, system(arch), platform=(("architecture", arch), ("os", "linux"))) for arch in ("amd64", "arm64")]
    note = manifest(tmp_path, {"x": b"no image"}, platform=(("architecture", "unknown"), ("os", "unknown")), annotations=ATTESTATION)
    whole, first, package, second, other = listed(tmp_path, index(tmp_path, *entries, note))
    assert (whole.what, whole.path, whole.coverage.reading, whole.inside) == ("image", None, "read", None)
    assert "linux/amd64: " in whole.coverage.reason
    assert "linux/arm64: " in whole.coverage.reason
    assert [(item.what, item.path, item.inside, item.sha256) for item in (first, second)] == [
        ("image", "linux/amd64", whole.ref, entries[0].digest.hex),
        ("image", "linux/arm64", whole.ref, entries[1].digest.hex),
    ]
    assert [(item.purl, item.inside, item.path) for item in (package, other)] == [
        ("pkg:deb/debian/tool@1?arch=amd64&distro=debian-12", first.ref, "linux/amd64/var/lib/dpkg/status"),
        ("pkg:deb/debian/tool@1?arch=arm64&distro=debian-12", second.ref, "linux/arm64/var/lib/dpkg/status"),
    ]
    assert (package.sha256, package.size) == (None, None)  # the digest of its layer is a fact, and not its own
    assert dict(package.facts)["layer"].startswith("sha256:")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_docker_manifest_is_read_wrapped_or_not(tmp_path, wrapped):
    root = manifest(tmp_path, system("amd64"), DOCKER_MANIFEST)
    found = listed(tmp_path, index(tmp_path, root, artifact=IMAGE) if wrapped else root)
    assert [item.name for item in found] == ["r.example.org/team/server", "tool"]
    assert found[0].coverage.reading == "read"


def test_an_index_of_ours_around_some_platforms(tmp_path):
    entries = [manifest(tmp_path, system(arch), platform=(("architecture", arch), ("os", "linux"))) for arch in ("amd64", "arm64")]
    found = listed(tmp_path, index(tmp_path, *entries, artifact=IMAGE))
    assert Counter(item.what for item in found) == {"image": 3, "package": 2}


def test_an_index_in_an_index(tmp_path):
    inner = index(tmp_path, manifest(tmp_path, system("amd64")))
    assert [item.name for item in listed(tmp_path, index(tmp_path, inner))] == ["r.example.org/team/server", "tool"]


def test_indexes_that_never_end_or_are_too_wide_are_not_read(tmp_path):
    root = manifest(tmp_path, system("amd64"))
    deep = root
    for _ in range(images.MAX_LEVELS + 1):
        deep = index(tmp_path, deep)
    wide = index(tmp_path, *[root] * (images.MAX_PLATFORMS + 1))
    for made in (deep, wide):
        (only,) = listed(tmp_path, made)
        assert only.coverage.reading == "unreadable"
        assert "too many" in only.coverage.reason


def test_one_platform_that_cannot_be_read_makes_the_image_unreadable_and_keeps_the_other(tmp_path):
    good = manifest(tmp_path, system("amd64"), platform=(("architecture", "amd64"), ("os", "linux")))
    bad = manifest(tmp_path, system("arm64"), platform=(("architecture", "arm64"), ("os", "linux")))
    layer = json.loads(Layout(tmp_path).path(bad.digest).read_bytes())["layers"][0]["digest"]
    Layout(tmp_path).path(Digest.parse(layer)).unlink()
    found = listed(tmp_path, index(tmp_path, good, bad))
    assert (found[0].coverage.reading, [item.name for item in found if item.what == "package"]) == ("unreadable", ["tool"])
    assert "linux/arm64: blobs/sha256/" in found[0].coverage.reason
    assert "missing" in found[0].coverage.reason


# --- what is said of it -----------------------------------------------------------------------------------------------


def test_what_was_read_is_said_with_counts_and_shares(tmp_path):
    files = {**system("amd64"), "bin/x": b"\x7fELF", "a/package.json": b'{"name":"n","version":"1"}', "conda-meta/a-1-0.json": b"{}"}
    whole, *rest = listed(tmp_path, manifest(tmp_path, files))
    assert whole.coverage.reason == "debian-12: 1 deb, 1 npm; 0 of 1 ELF files belong to a package; seen and not read: 1 conda packages"
    said = dict(whole.facts)
    assert said["inside:programs:largestUnowned"] == "bin/x (4 bytes)"
    assert (said["inside:files"], said[images.NOT_READ]) == ("5", "1 conda packages")
    assert len(rest) == 2


def test_a_package_database_that_is_not_read_is_never_fine(tmp_path):
    whole, *_ = listed(tmp_path, manifest(tmp_path, {**system("amd64"), "var/lib/rpm/Packages": b"x"}))
    assert whole.coverage.reading == "unreadable"
    assert "var/lib/rpm/Packages is an rpm database in the format Berkeley DB, which is not read" in whole.coverage.reason
    assert "Read: debian-12: 1 deb" in whole.coverage.reason


def test_what_is_no_container_image_is_only_listed(tmp_path):
    layout, made = layers.image(tmp_path, layers.of({"x": b"1"}), config={"model": "yes"})
    (only,) = listed(tmp_path, put(layout, IMAGE_MANIFEST, made.raw))
    assert (only.coverage.reading, only.coverage.reason) == ("listed", images.NO_IMAGE)


def test_an_image_whose_manifests_could_not_be_listed_is_not_opened(tmp_path):
    (only,) = listed(tmp_path, manifest(tmp_path, system("amd64")), "why")
    assert (only.coverage.reading, only.coverage.reason) == ("unreadable", "why")


def test_the_same_package_twice_is_one_item_and_hostile_names_are_made_plain(tmp_path):
    status = (STATUS.format(name="a", arch="all") + "\n") * 2 + STATUS.format(name="b\N{RIGHT-TO-LEFT OVERRIDE}\udc80", arch="all")
    status += "\n" + STATUS.format(name="b\N{LEFT-TO-RIGHT OVERRIDE}\udc80", arch="all")
    found = listed(tmp_path, manifest(tmp_path, {"var/lib/dpkg/status": status.encode("utf-8", "surrogateescape")}))
    assert len({item.ref for item in found}) == len(found) == 4
    assert all(character.isprintable() for item in found for character in item.name + item.ref)


# --- in the evidence ------------------------------------------------------------------------------------------------


def bundle(folder: Path, blobs: dict[str, bytes]):
    server = next(component for component in locked() if component.form == "image")
    update = {"files": pins(blobs, "https://r.example.org/"), "root": hashlib.sha256(blobs["manifest"]).hexdigest()}
    stated = lock(*locked()[:-1], server.model_copy(update=update))
    return evidence.verified(evidence.signed(evidence.build(folder, stated, {**contents(), "server": blobs})))


def blobs_of(layer: bytes, diff_id: bytes) -> dict[str, bytes]:
    config = canonical.compact({"rootfs": {"type": "layers", "diff_ids": [str(Digest.of(diff_id))]}})
    parts = {"config": Descriptor(layers.CONFIG, Digest.of(config), len(config)), "layer": Descriptor(layers.LAYER, Digest.of(layer), len(layer))}
    value = {"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": parts["config"].to_dict(), "layers": [parts["layer"].to_dict()]}
    return {"config": config, "layer": layer, "manifest": canonical.compact(value)}


def test_an_image_that_cannot_be_read_is_not_assessed_and_the_exit_code_says_so(tmp_path):
    assessment = evidence.assessed(bundle(tmp_path, blobs_of(gzip.compress(b"x" * 512), b"x" * 512)))
    assert assessment.exit_code == 5
    (said,) = [entry.text for entry in assessment.not_checked if entry.topic == "Inventory"]
    assert "server: the layer is no tar archive" in said
    assert "0 of 1 image read as a whole" in html(assessment).decode()


def test_twenty_thousand_packages_stay_fast_and_the_sbom_valid(tmp_path, validator):  # noqa: F811
    status = "\n".join(STATUS.format(name=f"package-{at}", arch="amd64") for at in range(20_000)).encode()
    data = layers.of({"var/lib/dpkg/status": status, "etc/os-release": b"ID=debian\nVERSION_ID=12\n"})
    proved = bundle(tmp_path, blobs_of(gzip.compress(data, 1), data))
    assessment = evidence.assessed(proved)
    raw = cyclonedx(assessment)
    page = html(assessment).decode()
    stated = json.loads(verification_json(assessment))
    bom = json.loads(raw)
    assert [str(error)[:300] for error in validator.iter_errors(bom)] == []
    refs = Counter(component["bom-ref"] for component in every(bom))
    assert max(refs.values()) == 1
    assert len(next(edge for edge in bom["dependencies"] if edge["ref"] == "component:server")["dependsOn"]) == 20_000
    assert sum(item["inside"] == "component:server" for item in stated["inventory"]["items"]) == 20_000
    assert page.count(">package-") >= 20_000  # in the list, and in tables that name some
    assert len(page) < 4 << 20


def test_the_sbom_says_what_is_inside_and_never_calls_an_image_complete(tmp_path):
    assessment = evidence.assessed(evidence.verified(evidence.rich(tmp_path)))
    bom = json.loads(cyclonedx(assessment))
    image = next(component for component in bom["components"] if component["type"] == "container")
    assert facts(image)["fact:inside:programs"] == "1 of 2 ELF files belong to a package"
    assert facts(image)["coverage"] == "read"
    complete, incomplete, *_ = bom["compositions"]
    assert image["bom-ref"] in incomplete["assemblies"]
    assert image["bom-ref"] not in complete["assemblies"]
    package = next(component for component in bom["components"] if component["name"] == "libz")
    assert package["purl"].startswith("pkg:deb/debian/libz@1:1.3-1%2Bb2?")
    assert facts(package)["fact:source"] == "zlib@1:1.3"
    assert "bytes" not in facts(package)


def test_in_the_sbom_packages_hang_below_their_platform(tmp_path):
    entries = [manifest(tmp_path, system(arch), platform=(("architecture", arch), ("os", "linux"))) for arch in ("amd64", "arm64")]
    items = tuple(listed(tmp_path, index(tmp_path, *entries)))
    assessment = evidence.assessed(evidence.verified(evidence.rich(tmp_path / "rich")))
    proof = replace(assessment.proof, inventory=replace(assessment.proof.inventory, items=items))
    bom = json.loads(cyclonedx(replace(assessment, proof=proof)))
    whole, first, package, second, other = (item.ref for item in items)
    edges = {edge["ref"]: edge["dependsOn"] for edge in bom["dependencies"]}
    assert edges == {"bundle": [whole], whole: [first, second], first: [package], second: [other], package: [], other: []}


def test_the_report_tells_packages_of_images_from_wheels(tmp_path):
    assessment = evidence.assessed(evidence.verified(evidence.rich(tmp_path)))
    page = html(assessment).decode()
    assert "3 packages inside server, as its own databases and programs name them" in page
    assert "5 packages of gateway" in page
    assert "3 packages inside 1 image; what no package owns is counted, not judged" in page
    item = next(item for item in assessment.proof.inventory.items if item.name == "libz")
    items = tuple(replace(one, version=None) if one is item else one for one in assessment.proof.inventory.items)
    proof = replace(assessment.proof, inventory=replace(assessment.proof.inventory, items=items))
    assert html(replace(assessment, proof=proof)).decode() != page


# --- how it goes ----------------------------------------------------------------------------------------------------


class Watch(Silent):
    def __init__(self) -> None:
        self.total = 0
        self.steps: list[int] = []
        self.guard = threading.Lock()

    def begin(self, total: int) -> None:
        self.total += total

    def moved(self, count: int) -> None:
        with self.guard:
            self.steps.append(count)


@pytest.mark.parametrize("pack", [bytes, lambda data: gzip.compress(data, 1)], ids=["plain", "gzip"])
def test_how_the_reading_of_images_goes_is_told_to_the_watch(tmp_path, pack):
    data = layers.of({"opt/large": random.Random(1).randbytes(3 << 20)})
    proved, layer = bundle(tmp_path, blobs_of(pack(data), data)), len(pack(data))
    watch = Watch()
    policy = proved.policy_raw
    assess(
        Place.of(tmp_path), policy, named="x", memory=None, store=None, state_folder=None, targets=(), watch=watch, tool=evidence.TOOL, now=evidence.NOW
    )
    assert watch.total == sum(size for _, size in proved.blobs) + layer, "each blob to prove it, the layer once more to look into it"
    assert sum(watch.steps) == watch.total
    assert max(watch.steps) <= 1 << 20, "as it goes, not at the end"


def read(folder: Path, entry: Descriptor) -> dict:
    return json.loads(Layout(folder).path(entry.digest).read_bytes())


def test_layers_of_every_platform_are_announced(tmp_path):
    entries = [manifest(tmp_path, system(arch), platform=(("architecture", arch), ("os", "linux"))) for arch in ("amd64", "arm64")]
    root = component_descriptor(index(tmp_path, *entries), name="server", kind="image", form="image")
    watch, content = Watch(), Content(Component("server", "image", "image", None, root), (), (), "", None)
    assert len(list(describe.items(Layout(tmp_path), content, watch))) == 5
    assert sum(watch.steps) == watch.total == sum(layer["size"] for entry in entries for layer in read(tmp_path, entry)["layers"])
