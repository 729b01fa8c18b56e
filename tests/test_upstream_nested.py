"""Indexes in an index: a signature over the outermost one is about the platforms it leads to, and about nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from parts import registry as registries
from parts import signed
from parts.collecting import Desk, listing
from parts.upstream import VENDOR, Carried, policy, site_policy

from airgap_images.bundle import components, parse_index
from airgap_images.evidence import Evidence, Subject
from airgap_images.layout import Layout
from airgap_images.oci import DOCKER_LIST, IMAGE_INDEX, Descriptor, Digest
from airgap_images.shipment import shipment
from airgap_images.targets import Cargo
from audit.verify.images import MAX_INDEXES
from audit.verify.upstream import assess
from audit.verify.verdict import Verdict
from manifests import canonical

HERE = policy(VENDOR, match="127.0.0.1:*/team/*")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[registries.Registry]:
    with registries.registry(tmp_path_factory.mktemp("registry")) as started:
        yield started


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("HOME", str(tmp_path))  # no login of whoever runs the tests
    return Desk(tmp_path)


class Nested:
    """An index with amd64, an index of the two for ARM, and an index of s390x."""

    def __init__(self, running: registries.Registry, name: str) -> None:
        self.repository = signed.Repository(running, f"team/{name}")
        self.amd64, self.arm64, self.arm, self.s390x = (
            self.repository.image(platform=platform) for platform in ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/s390x")
        )
        self.inner = self.repository.index(self.arm64, self.arm, statements=True)
        self.aside = self.repository.index(self.s390x)
        self.root = self.repository.index(self.amd64, self.inner, self.aside, tags=("1",))
        self.ref = f"{running.host}/team/{name}:1"


def verdict(layout: Layout) -> Verdict:
    (found,) = assess(layout, components(parse_index((layout.root / "index.json").read_bytes())), HERE)
    return found


@pytest.mark.parts
@pytest.mark.parametrize("platforms", [("linux/arm64",), ("linux/amd64", "linux/arm64"), "all"])
@pytest.mark.parametrize("over", ["root", "inner"])
def test_a_signature_over_an_index_counts_for_what_it_leads_to(running: registries.Registry, desk: Desk, platforms: object, over: str) -> None:
    upstream = Nested(running, f"{over}-{'all' if platforms == 'all' else len(platforms)}")
    upstream.repository.tag_signature(getattr(upstream, over), VENDOR)
    lock = desk.lock(upstream.ref, platforms=platforms)
    tree = desk.build(lock)
    indexes = [subject.digest for subject in listing(lock).subjects if subject.role == "index"]
    known = [upstream.root, upstream.inner] if platforms != "all" else [upstream.root, upstream.inner, upstream.aside]
    assert indexes == [one.digest for one in known], "the outermost first, and none that leads to nothing here"
    assert [tree.manifest(one.digest) for one in known] == [one.raw for one in known]
    assert "provenance" in {found.kind for found in listing(lock).found}, "statements of the inner index travel"
    found = verdict(tree.layout)
    if over == "root" or platforms == ("linux/arm64",):
        assert found.result == "good"
        assert "linux/arm64: signature by vendor" in found.reason
    else:
        assert (found.result, "linux/amd64: signature: none" in found.reason, "arm64" in found.reason) == ("missing", True, False)


@pytest.mark.parts
def test_of_a_whole_index_each_platform_can_have_a_signature_of_its_own(running: registries.Registry, desk: Desk) -> None:
    upstream = Nested(running, "own")
    several = (upstream.amd64, upstream.arm64, upstream.arm, upstream.s390x)
    for image in several[:-1]:
        upstream.repository.tag_signature(image, VENDOR)
    missing = verdict(desk.build(desk.lock(upstream.ref, platforms="all")).layout)
    assert (missing.result, missing.reason) == ("missing", "linux/s390x: signature: none is carried")
    upstream.repository.tag_signature(several[-1], VENDOR)
    assert verdict(desk.build(desk.lock(upstream.ref, platforms="all"), "second").layout).result == "good"


@pytest.mark.parts
def test_two_locks_are_the_same_bytes_and_a_served_store_has_the_inner_index(running: registries.Registry, desk: Desk) -> None:
    upstream = Nested(running, "served")
    lock = desk.lock(upstream.ref, platforms=("linux/arm64",))
    assert desk.lock(upstream.ref, cache=Layout.create(desk.folder / "other"), platforms=("linux/arm64",)).to_bytes() == lock.to_bytes()
    layout = desk.build(lock).layout
    image, beside = (part.root for part in components(parse_index((layout.root / "index.json").read_bytes())) if part.name.startswith("tool"))
    found = shipment(layout, Cargo("tool", "image", image, (upstream.ref,), beside))
    assert found.partial is not None
    assert (found.partial.digest, [one.digest for one in found.between]) == (upstream.root.digest, [upstream.inner.digest])


# --- a listing that claims what the bytes do not say


@dataclass
class Claimed(Carried):
    """Indexes beside an image, each listing what it is given; the listing calls all of them subjects."""

    made: list[tuple[Digest, bytes]] = field(default_factory=list)

    def over(self, *entries: Descriptor, media_type: str = IMAGE_INDEX) -> Descriptor:
        raw = canonical.compact({"schemaVersion": 2, "mediaType": media_type, "manifests": [entry.to_dict() for entry in entries]})
        self.made.append((Digest.of(raw), raw))
        return Descriptor(media_type, Digest.of(raw), len(raw))

    def raw(self, digest: Digest) -> bytes:
        return dict(self.made).get(digest) or super().raw(digest)

    def listing(self) -> Evidence:
        known = super().listing()
        more = tuple(Subject(digest, IMAGE_INDEX, len(raw), "index", "") for digest, raw in self.made)
        return Evidence(known.repository, (), known.subjects + more, known.found, known.completed, ())

    def result(self, subject: Descriptor) -> str:
        self.tag_signature(subject.digest, VENDOR)
        return self.verdict(site_policy({"identities": {"vendor": VENDOR.entry}, "images": [{"match": "**", "signed_by": ["vendor"]}]})).result


@pytest.fixture
def claimed(tmp_path: Path) -> Claimed:
    return Claimed(tmp_path)


@pytest.mark.parametrize("levels", range(1, MAX_INDEXES + 2))
def test_the_chain_is_as_long_as_images_have_it_and_no_longer(claimed: Claimed, levels: int) -> None:
    outermost = claimed.manifests[0]
    for _ in range(levels):
        outermost = claimed.over(outermost)
    assert claimed.result(outermost) == ("good" if levels <= MAX_INDEXES else "missing")


def test_an_index_that_does_not_list_the_inner_one_leads_nowhere(claimed: Claimed) -> None:
    claimed.over(claimed.manifests[0])
    other = claimed.over(claimed.over(claimed.elsewhere))
    assert claimed.result(other) == "missing"


@pytest.mark.parametrize("lie", ["type", "size"])
def test_an_inner_index_is_listed_as_what_it_is(claimed: Claimed, lie: str) -> None:
    inner = claimed.over(claimed.manifests[0])
    said = Descriptor(DOCKER_LIST if lie == "type" else IMAGE_INDEX, inner.digest, inner.size + (lie == "size"))
    assert claimed.result(claimed.over(said)) == "missing"
    assert claimed.result(claimed.over(inner)) == "good"


def test_a_link_that_is_not_carried_breaks_the_chain(claimed: Claimed) -> None:
    outermost = claimed.over(claimed.over(claimed.manifests[0]))
    assert claimed.made.pop(0)[0] != outermost.digest
    assert claimed.result(outermost) == "missing"
