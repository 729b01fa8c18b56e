"""Platforms: one of an index, some of it under an index of ours, all of it as upstream has it; and the one for a machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from parts import cli, httpd, images, signed
from parts import registry as registries
from parts.expect import refused
from parts.imagebench import Bench, Fake, entry, index
from parts.upstream import VENDOR

from airgap_images import choose
from airgap_images.bundle import IMAGE, components, parse_index, unwrap, wrap
from airgap_images.choose import MAX_CHILDREN, index_of, offers, pick, platform_manifest
from airgap_images.layout import Layout
from airgap_images.oci import DOCKER_LIST, DOCKER_MANIFEST, IMAGE_INDEX, IMAGE_MANIFEST, MAX_MANIFEST, Descriptor, Digest
from airgap_images.platform import Platform
from audit.evidence import agreement, inventory
from audit.verify.result import VerifiedBundle
from audit.verify.trust import Memory
from audit.verify.walk import Place, verify
from bundler import resolve
from bundler.sources import image
from manifests.errors import IntegrityError, InvalidFileError, SiteError
from manifests.lock import INDEX_FILE, Lock, LockedComponent
from manifests.yamlfile import Document

ATTESTS = {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("HOME", str(tmp_path))  # no login of whoever runs the tests
    return Bench(tmp_path)


@pytest.fixture
def fake() -> Iterator[Fake]:
    with httpd.Server() as server:
        yield Fake(server)


# --- what an index offers


def stored(layout: Layout, raw: bytes, media_type: str = IMAGE_INDEX, **more: str) -> Descriptor:
    return Descriptor(media_type, layout.put(raw), len(raw), **more)


def found(layout: Layout, *entries: dict, **more: str) -> choose.Offers:
    return offers(stored(layout, index(*entries), **more), lambda part: layout.read(part, MAX_MANIFEST), "x")


def one(platform: str, number: int = 1, **more: object) -> dict:
    return entry(b"", f"sha256:{number:064x}", platform) | more


def version(number: int, **platform: object) -> dict:
    return one("windows/amd64", number) | {"platform": {"os": "windows", "architecture": "amd64"} | platform}


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("linux/arm64", ["linux/arm64/v8", "linux/arm/v7"], 0),
        ("linux/arm64/v8", ["linux/arm64"], 0),
        ("linux/arm/v7", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/arm/v6", ["linux/arm/v6", "linux/arm/v7"], 0),
        ("linux/arm/v7", ["linux/arm/v6"], None),
        ("linux/arm", ["linux/arm/v7"], None),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64"], 1),
        ("linux/amd64", ["linux/amd64/v1"], 0),
        ("linux/amd64", ["linux/amd64/v3"], None),
        ("linux/amd64/v3", ["linux/amd64/v3", "linux/amd64"], 0),
        ("linux/arm64/v9", ["linux/arm64/v8"], None),
        ("linux/amd64", ["windows/amd64", "linux/amd64"], 1),
    ],
)
def test_variants(tmp_path: Path, wanted: str, offered: list[str], chosen: int | None) -> None:
    layout = Layout.create(tmp_path)
    listed = found(layout, *(one(platform, at) for at, platform in enumerate(offered)))
    if chosen is None:
        with refused(InvalidFileError, f"no image for {wanted}", f"it has: {Platform.parse(offered[0])}"):
            pick(listed, Platform.parse(wanted), "x")
    else:
        assert pick(listed, Platform.parse(wanted), "x").entry.digest == Digest(f"{chosen:064x}")


def test_two_images_for_one_platform_are_named_and_the_same_one_twice_is_one(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path)
    both = found(layout, one("linux/arm64", 1), one("linux/arm64/v8", 2))
    with refused(InvalidFileError, f"2 images for linux/arm64 (sha256:{1:064x}, sha256:{2:064x})"):
        pick(both, Platform.parse("linux/arm64"), "x")
    with refused(InvalidFileError, "two images for linux/arm64", f"sha256:{1:064x} and sha256:{2:064x}"):
        choose.check_distinct(both, "x")
    same = found(layout, one("linux/arm64", 1), one("linux/arm64/v8", 1))
    choose.check_distinct(same, "x")
    assert pick(same, Platform.parse("linux/arm64"), "x").entry.digest == Digest(f"{1:064x}")


def test_versions_of_an_operating_system_are_not_the_same_platform_for_all_and_ambiguous_for_one(tmp_path: Path) -> None:
    listed = found(Layout.create(tmp_path), version(1, **{"os.version": "10.0.1"}), version(2, **{"os.version": "10.0.2"}))
    choose.check_distinct(listed, "x")
    with refused(InvalidFileError, "2 images for windows/amd64"):
        pick(listed, Platform.parse("windows/amd64"), "x")


def test_entries_of_nested_indexes_are_found_and_inherit_what_they_do_not_say(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path)
    silent = one("linux/arm64", 2)
    del silent["platform"]
    inner = stored(layout, index(one("linux/s390x", 1), silent))
    said = {"platform": {"os": "linux", "architecture": "riscv64"}}
    listed = found(layout, inner.to_dict() | said, one("linux/amd64", 3), one("unknown/unknown", 4, **ATTESTS))
    assert [(str(offer.platform), offer.attests) for offer in listed.entries] == [
        ("linux/amd64", False), ("unknown/unknown", True), ("linux/s390x", False), ("linux/riscv64", False),
    ]  # fmt: skip
    assert listed.levels == 2
    assert pick(listed, Platform.parse("linux/riscv64"), "x").entry.digest == Digest(f"{2:064x}")
    assert listed.listed == "linux/amd64, linux/riscv64, linux/s390x"


def test_an_index_of_statements_is_of_statements_all_the_way_down(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path)
    inner = stored(layout, index(one("linux/amd64", 1)))
    listed = found(layout, inner.to_dict() | ATTESTS, one("linux/amd64", 2))
    assert [offer.entry.digest.hex[-1] for offer in listed.images] == ["2"]


def test_nesting_and_number_are_bounded(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path)
    inner = stored(layout, index(one("linux/amd64")))
    middle = stored(layout, index(inner.to_dict()))
    with refused(InvalidFileError, "nested deeper than 2 levels"):
        found(layout, middle.to_dict())
    assert len(found(layout, *(one("linux/amd64", at) for at in range(MAX_CHILDREN - 1))).entries) == MAX_CHILDREN - 1
    with refused(InvalidFileError, f"more than {MAX_CHILDREN}"):
        found(layout, *(one("linux/amd64", at) for at in range(MAX_CHILDREN)))


# --- an index of ours


def test_an_index_of_ours_keeps_what_upstream_says_of_a_platform_and_is_always_the_same(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path)
    stated = {"os.version": "10.0.20348.1", "os.features": ["win32k"]}
    windows = version(1, **stated, x="dropped") | {"annotations": {"org.opencontainers.image.ref.name": "evil"}}
    arm = one("linux/arm64/v8", 2)
    texts = {index_of(found(layout, *entries).images) for entries in ((windows, arm), (arm, windows))}
    (text,) = texts
    made = json.loads(text)
    assert (made["mediaType"], made["artifactType"]) == (IMAGE_INDEX, IMAGE)
    assert [(item["digest"][-1], item["platform"]) for item in made["manifests"]] == [
        ("2", {"os": "linux", "architecture": "arm64", "variant": "v8"}), ("1", {"os": "windows", "architecture": "amd64"} | stated),
    ]  # fmt: skip
    assert all(item.keys() == {"mediaType", "digest", "size", "platform"} for item in made["manifests"])


def test_unwrap_gives_the_one_inside_or_the_index_of_several(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path)
    docker = stored(layout, b"{}", DOCKER_MANIFEST)
    assert unwrap(layout, wrap(layout, docker)) == docker
    several = stored(layout, index_of(found(layout, one("linux/amd64", 1), one("linux/arm64", 2)).images).encode(), artifact_type=IMAGE)
    assert unwrap(layout, several) == several
    with refused(IntegrityError, "not an index of images"):
        unwrap(layout, stored(layout, index(), artifact_type=IMAGE))


# --- the one for a machine

AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


def test_the_manifest_for_a_machine(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path)
    alone = stored(layout, b"{}", IMAGE_MANIFEST)
    assert platform_manifest(layout, alone, ARM64) == alone
    docker = stored(layout, b"{}", DOCKER_MANIFEST, platform=(("architecture", "amd64"), ("os", "linux")))
    assert platform_manifest(layout, wrap(layout, docker), ARM64) == docker, "it was locked for that one"
    both = one("linux/amd64", 1), one("linux/arm64/v8", 2), one("unknown/unknown", 3, **ATTESTS)
    upstream = stored(layout, index(*both))
    ours = stored(layout, index_of(found(layout, *both).images).encode(), artifact_type=IMAGE)
    dockers = wrap(layout, stored(layout, index(*both, media_type=DOCKER_LIST), DOCKER_LIST))
    nested = stored(layout, index(upstream.to_dict()))
    for root in (upstream, ours, dockers, nested):
        assert platform_manifest(layout, root, AMD64).digest == Digest(f"{1:064x}")
        assert platform_manifest(layout, root, ARM64).digest == Digest(f"{2:064x}")
        with refused(SiteError, "no image for linux/s390x", "it has: linux/amd64, linux/arm64"):
            platform_manifest(layout, root, Platform.parse("linux/s390x"))


def test_an_upstream_index_of_one_other_platform_is_not_for_this_machine(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path)
    with refused(SiteError, "no image for linux/amd64", "it has: linux/arm64"):
        platform_manifest(layout, stored(layout, index(one("linux/arm64"))), AMD64)


def test_two_manifests_for_a_machine_or_something_else_is_refused(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path)
    for entries in ((one("linux/amd64", 1), one("linux/amd64", 2)), (one("linux/amd64", mediaType="text/plain"),)):
        with refused(IntegrityError, "does not lead to one image for linux/amd64"):
            platform_manifest(layout, stored(layout, index(*entries)), AMD64)


# --- locking


def pushed(fake: Fake, platform: str, **config: object) -> dict:
    raw = fake.image(config=dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False)) | config)
    return entry(raw, fake.put(raw), platform)


def statement(fake: Fake, **more: object) -> dict:
    raw = json.dumps(json.loads(fake.image(layers=[fake.blob(b"{}") | {"mediaType": "application/vnd.in-toto+json"} | more]))).encode()
    return entry(raw, fake.put(raw), "unknown/unknown") | ATTESTS


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("platforms: everything", "field platforms.word: input should be 'all'"),
        ("platforms: [linux]", "field platforms.list.0: string should match pattern"),
        ("platforms: []", "field platforms.list: tuple should have at least 1 item"),
        ("platforms: all, platform: linux/amd64", "`platform` and `platforms` do not go together"),
        ("reference: team/x:1", "`reference` is for images on this machine"),
        ("reference: 'Team:x'", "is not an image reference"),
    ],
)
def test_options_that_are_refused(written: str, words: str) -> None:
    with refused(InvalidFileError, "bundle.yaml:1: ", words):
        Document(f"{{ref: busybox, {written}}}".encode(), "bundle.yaml").validate(image.Options)


def test_an_editor_is_told_of_every_option() -> None:
    variants = resolve.schema()["properties"]["components"]["items"]["oneOf"]
    fields = next(variant for variant in variants if variant["title"] == "image")["properties"]
    assert fields.keys() >= {"ref", "platform", "platforms", "reference", "upstream"}
    assert all(fields[name]["description"] for name in fields.keys() - {"name", "kind", "role"})
    for transport in ("docker-daemon:", "docker-archive:", "oci:", "oci-archive:"):
        assert transport in fields["ref"]["description"]


def test_some_platforms_are_an_index_in_the_lock(bench: Bench, fake: Fake) -> None:
    parts = [pushed(fake, platform) for platform in ("linux/amd64", "linux/arm64/v8", "linux/arm/v6", "linux/arm/v7")]
    upstream = fake.put(index(*parts, statement(fake)), "1")
    locked = bench.resolve(fake.ref, platforms=["linux/arm/v7", "linux/arm64"])
    (text,) = locked.inline
    assert (text.path, hashlib.sha256(text.text.encode()).hexdigest()) == (INDEX_FILE, locked.root)
    assert [(item["digest"], item["platform"].get("variant")) for item in json.loads(text.text)["manifests"]] == [
        (parts[3]["digest"], "v7"), (parts[1]["digest"], "v8"),
    ]  # fmt: skip
    assert locked.identity == {
        "ref": fake.ref, "reference": fake.ref, "digest": f"sha256:{locked.root}", "platform": "linux/arm/v7,linux/arm64", "index": upstream,
    }  # fmt: skip
    assert locked.facts["images"] == "2"
    assert {pin.sha256 for pin in locked.files} >= {parts[1]["digest"][7:], parts[3]["digest"][7:]}
    assert not {pin.sha256 for pin in locked.files} & {upstream[7:], parts[0]["digest"][7:], locked.root}
    again = bench.resolve(fake.ref, platforms=["linux/arm64/v8", "linux/arm/v7", "linux/arm64"])
    assert bench.lock(again).to_bytes() == bench.lock(locked).to_bytes()
    assert Lock.parse(bench.lock(locked).to_bytes(), "lock").components == (locked,)


def test_one_platform_named_twice_is_one_and_pinned_itself(bench: Bench, fake: Fake) -> None:
    arm = pushed(fake, "linux/arm64")
    fake.put(index(arm, pushed(fake, "linux/amd64")), "1")
    locked = bench.resolve(fake.ref, platforms=["linux/arm64", "linux/arm64/v8"])
    assert (f"sha256:{locked.root}", locked.inline) == (arm["digest"], ())


def test_the_upstream_index_is_kept_for_who_asks_what_was_signed(bench: Bench, fake: Fake) -> None:
    raw = index(pushed(fake, "linux/amd64"), pushed(fake, "linux/arm64"))
    fake.put(raw, "1")
    for options in ({}, {"platforms": ["linux/amd64", "linux/arm64"]}, {"platforms": "all"}):
        locked = Bench(bench.folder / str(len(options.get("platforms", ""))))
        found = locked.resolve(fake.ref, **options)
        assert found.identity["index"] == f"sha256:{Digest.of(raw).hex}"
        assert locked.cache.has(Digest.of(raw), len(raw))


def test_an_operating_systems_version_is_kept_with_one_and_with_several(bench: Bench, fake: Fake) -> None:
    windows = pushed(fake, "windows/amd64")
    windows["platform"]["os.version"] = "10.0.20348.1"
    fake.put(index(windows, pushed(fake, "linux/amd64")), "1")
    one = bench.resolve(fake.ref, platform="windows/amd64")
    assert one.facts["os-version"] == "10.0.20348.1"
    bench.build(one)
    assert dict(listed(bench)["server"].platform)["os.version"] == "10.0.20348.1"
    several = bench.resolve(fake.ref, platforms=["windows/amd64", "linux/amd64"])
    assert json.loads(several.inline[0].text)["manifests"][1]["platform"]["os.version"] == "10.0.20348.1"


def listed(bench: Bench, out: str = "bundle") -> dict[str, Descriptor]:
    raw = (bench.folder / out / "index.json").read_bytes()
    return {component.name: component.root for component in components(parse_index(raw))}


def test_all_is_upstreams_index_with_everything_it_leads_to(bench: Bench, fake: Fake) -> None:
    artifact = fake.image(config_type="application/vnd.example+json")
    inner = index(pushed(fake, "linux/arm/v7"), pushed(fake, "linux/arm/v6"))
    raw = index(
        pushed(fake, "linux/amd64"),
        statement(fake),
        entry(artifact, fake.put(artifact), "unknown/unknown"),
        entry(inner, fake.put(inner), "linux/arm", IMAGE_INDEX),
    )
    digest = fake.put(raw, "1")
    locked = bench.resolve(fake.ref, platforms="all")
    assert (f"sha256:{locked.root}", locked.inline) == (digest, ())
    assert locked.identity["digest"] == locked.identity["index"] == digest
    assert locked.identity["platform"] == "linux/amd64,linux/arm/v6,linux/arm/v7"
    assert (locked.facts["images"], locked.facts["attestations"]) == ("3", "2")
    assert locked.files[0].path == INDEX_FILE
    assert locked.files[0].evidence == {"tag": "1"}
    assert locked.facts["bytes"] == str(locked.size)
    bench.build(locked)
    layout = Layout(bench.folder / "bundle")
    assert layout.path(Digest.parse(digest)).read_bytes() == raw
    assert listed(bench)["server"].platform == ()
    assert platform_manifest(layout, listed(bench)["server"], Platform.parse("linux/arm/v6")).digest.hex in {pin.sha256 for pin in locked.files}


def test_all_of_dockers_own_list(bench: Bench, fake: Fake) -> None:
    parts = pushed(fake, "linux/amd64"), pushed(fake, "linux/arm64")
    digest = fake.put(index(*parts, media_type=DOCKER_LIST), "1")
    locked = bench.resolve(fake.ref, platforms="all")
    bench.build(locked)
    root = listed(bench)["server"]
    layout = Layout(bench.folder / "bundle")
    assert (root.artifact_type, str(unwrap(layout, root).digest)) == (IMAGE, digest)
    assert str(platform_manifest(layout, root, ARM64).digest) == parts[1]["digest"]
    inner = index(*parts)
    fake.put(index(entry(inner, fake.put(inner), "linux/arm", IMAGE_INDEX), media_type=DOCKER_LIST), "1")
    with refused(InvalidFileError, "nested too deeply"):
        bench.resolve(fake.ref, platforms="all")
    assert bench.resolve(fake.ref).identity["digest"] == parts[0]["digest"]


def test_all_of_an_image_without_an_index_is_that_image(bench: Bench, fake: Fake) -> None:
    digest = fake.put(fake.image(config={"architecture": "s390x"}), "1")
    locked = bench.resolve(fake.ref, platforms="all")
    assert locked.identity["platform"] == "linux/s390x"
    assert f"sha256:{locked.root}" == digest
    with refused(InvalidFileError, "one image and no index, wanted linux/amd64, linux/s390x"):
        bench.resolve(fake.ref, platforms=["linux/amd64", "linux/s390x"])
    with refused(InvalidFileError, "the image is for linux/s390x, wanted linux/amd64"):
        bench.resolve(fake.ref, platforms=["linux/amd64"])


def test_what_cannot_be_carried_with_all(bench: Bench, fake: Fake) -> None:
    amd64 = pushed(fake, "linux/amd64")
    foreign = fake.image(layers=[fake.blob(b"x") | {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}])
    for entries, words in (
        ([amd64, amd64 | {"mediaType": "text/plain", "platform": {"os": "linux", "architecture": "arm"}}], "'text/plain', which cannot be carried"),
        ([amd64, statement(fake, mediaType=IMAGE_MANIFEST)], "is a manifest where a layer should be"),
        ([statement(fake)], "holds no container image"),
        ([amd64, entry(foreign, fake.put(foreign), "linux/arm64")], "may not be distributed"),
        ([amd64, pushed(fake, "linux/amd64", author="another")], "two images for linux/amd64"),
    ):
        fake.put(index(*entries), "1")
        with refused(InvalidFileError, words):
            bench.resolve(fake.ref, platforms="all")
    fake.put(index(amd64, pushed(fake, "linux/s390x") | {"platform": {"os": "linux", "architecture": "arm64"}}), "1")
    with refused(IntegrityError, "the index says linux/arm64, the image itself says linux/s390x"):
        bench.resolve(fake.ref, platforms="all")


def test_a_lock_whose_index_was_edited_is_not_built(bench: Bench, fake: Fake) -> None:
    fake.put(index(pushed(fake, "linux/amd64"), pushed(fake, "linux/arm64")), "1")
    locked = bench.resolve(fake.ref, platforms=["linux/amd64", "linux/arm64"])
    made = json.loads(locked.inline[0].text)

    def edited(value: dict) -> LockedComponent:
        text = json.dumps(value)
        inline = [{"path": INDEX_FILE, "text": text}]
        return LockedComponent.model_validate(locked.model_dump() | {"root": hashlib.sha256(text.encode()).hexdigest(), "inline": inline})

    for wrong in (
        made | {"manifests": made["manifests"][:1]},
        made | {"artifactType": "text/plain"},
        made | {"manifests": [made["manifests"][0], made["manifests"][1] | {"digest": "sha256:" + "0" * 64}]},
        made | {"manifests": [made["manifests"][0], made["manifests"][1] | {"size": 1}]},
    ):
        with refused(IntegrityError, "not an index of several pinned manifests"):
            bench.build(edited(wrong))
    with pytest.raises(ValueError, match="no inline files but `index.json`"):
        LockedComponent.model_validate(locked.model_dump() | {"root": locked.files[0].sha256})


# --- the whole way, with a real registry


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    with registries.registry(tmp_path_factory.mktemp("registry")) as running:
        repository = signed.Repository(running, "team/tool")
        amd64, arm64 = (repository.image(platform=platform) for platform in ("linux/amd64", "linux/arm64/v8"))
        arm = [repository.image(platform=f"linux/arm/{variant}") for variant in ("v6", "v7")]
        flat = repository.index(amd64, arm64, *arm, tags=("1", "one", "two"), statements=True)
        inner = repository.index(*arm)
        nested = repository.index(amd64, inner, tags=("nested",))
        dockers = repository.index(amd64, arm64, tags=("list",), docker=True)
        found = {"1": flat, "nested": nested, "list": dockers}
        for pushed in found.values():
            repository.tag_signature(pushed, VENDOR)
        yield SimpleNamespace(ref=f"{running.host}/team/tool", host=running.host, found=found, v6=arm[0], v7=arm[1], arm64=arm64)


@dataclass(frozen=True)
class Journey:
    """A signed bundle of one platform, of two, and of everything in three kinds of index, locked and built twice."""

    desk: cli.Desk
    upstream: SimpleNamespace

    @property
    def layout(self) -> Layout:
        return Layout(self.desk.folder / "bundle")

    def root(self, name: str) -> Descriptor:
        raw = (self.layout.root / "index.json").read_bytes()
        return next(component.root for component in components(parse_index(raw)) if component.name == name)

    def raw(self, name: str) -> bytes:
        return images.tool("skopeo", "inspect", "--raw", f"oci:{self.layout.root}:{name}").encode()


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory, upstream: SimpleNamespace) -> Journey:
    desk = cli.Desk(tmp_path_factory.mktemp("journey"))
    tags = {"all": "1", "nested": "nested", "dockers": "list"}
    components = [f"name: {name}, kind: image, ref: '{upstream.ref}:{tag}', platforms: all" for name, tag in tags.items()]
    components.append(f"name: one, kind: image, ref: '{upstream.ref}:one', platform: linux/arm/v6")
    components.append(f"name: two, kind: image, ref: '{upstream.ref}:two', platforms: [linux/arm/v7, linux/arm64]")
    desk.write_intent(*components)
    desk.trust()
    (desk.folder / "vendor.pub").write_text(VENDOR.pem)
    desk.bundle("policy", "upstream-key", "policy.json", "--identity", "vendor=vendor.pub")
    desk.bundle("policy", "upstream-image", "policy.json", "--match", "127.0.0.1:*/team/*", "--signed-by", "vendor")
    desk.bundle("lock", "bundle.yaml")
    first = (desk.folder / "bundle.lock.json").read_bytes()
    desk.bundle("lock", "bundle.yaml", "--check")
    (desk.folder / "bundle.lock.json").unlink()
    desk.bundle("lock", "bundle.yaml", "--cache", "another")
    assert (desk.folder / "bundle.lock.json").read_bytes() == first
    desk.bundle("build", "bundle.lock.json", "--out", "bundle", "--policy", "policy.json")
    desk.bundle("build", "bundle.lock.json", "--out", "again", "--policy", "policy.json", "--cache", "empty")
    assert (desk.folder / "again" / "index.json").read_bytes() == (desk.folder / "bundle" / "index.json").read_bytes()
    desk.sign("bundle")
    return Journey(desk, upstream)


@pytest.mark.parts
def test_all_platforms_arrive_as_upstream_has_them(journey: Journey) -> None:
    assert journey.raw("all") == journey.upstream.found["1"].raw
    assert journey.raw("nested") == journey.upstream.found["nested"].raw
    (inside,) = json.loads(journey.raw("dockers"))["manifests"]
    assert journey.layout.path(Digest.parse(inside["digest"])).read_bytes() == journey.upstream.found["list"].raw


@pytest.mark.parts
def test_one_and_two_platforms_arrive_as_they_were_locked(journey: Journey) -> None:
    assert journey.raw("one") == journey.upstream.v6.raw
    assert [entry["digest"] for entry in json.loads(journey.raw("two"))["manifests"]] == [journey.upstream.v7.name, journey.upstream.arm64.name]
    for name, options, expected in (
        ("all", ("--override-arch", "arm64"), journey.upstream.arm64),
        ("two", ("--override-arch", "arm", "--override-variant", "v7"), journey.upstream.v7),
    ):
        out = journey.desk.folder / f"{name}-copied"
        images.tool("skopeo", *options, "copy", "--quiet", "--preserve-digests", f"oci:{journey.layout.root}:{name}", f"dir:{out}")
        assert (out / "manifest.json").read_bytes() == expected.raw


@pytest.mark.parts
def test_every_machine_finds_its_own(journey: Journey) -> None:
    for name in ("all", "nested"):
        for variant, expected in (("v6", journey.upstream.v6), ("v7", journey.upstream.v7)):
            assert str(platform_manifest(journey.layout, journey.root(name), Platform.parse(f"linux/arm/{variant}")).digest) == expected.name
    assert str(platform_manifest(journey.layout, journey.root("two"), ARM64).digest) == journey.upstream.arm64.name
    with refused(SiteError, "no image for linux/amd64", "it has: linux/arm/v7, linux/arm64"):
        platform_manifest(journey.layout, journey.root("two"), AMD64)


@pytest.mark.parts
def test_it_is_proved_without_a_network_and_lock_and_index_agree(journey: Journey) -> None:
    desk = journey.desk
    shown = desk.audit("verify", "bundle", "--policy", "policy.json", "--json", isolated=True).json
    assert shown["verdict"] == "proved"
    assert {image["component"]: image["result"] for image in shown["upstream"]} == dict.fromkeys(["all", "dockers", "nested", "one", "two"], "good")
    assert inventory.take(proven(journey)).disagreements == ()


def proven(journey: Journey) -> VerifiedBundle:
    policy = (journey.desk.folder / "policy.json").read_bytes()
    return verify(Place.of(journey.layout.root), policy, memory=Memory(), now=datetime.now(UTC))


@pytest.mark.parts
def test_a_lock_and_an_index_that_differ_in_an_index_of_ours_are_told_apart(journey: Journey) -> None:
    bundle = proven(journey)
    lock = Lock.load(journey.desk.folder / "bundle.lock.json")
    at = next(at for at, component in enumerate(lock.components) if component.name == "two")
    text = lock.components[at].inline[0].text.replace('"v7"', '"v5"')
    other = lock.components[at].model_dump() | {"root": hashlib.sha256(text.encode()).hexdigest(), "inline": [{"path": INDEX_FILE, "text": text}]}
    changed = lock.model_copy(update={"components": (*lock.components[:at], LockedComponent.model_validate(other), *lock.components[at + 1 :])})
    contents = [inventory._content(bundle.layout, component, None) for component in bundle.components]
    assert agreement.compare(bundle, lock, contents) == ()
    found = [difference for difference in agreement.compare(bundle, changed, contents) if difference.component == "two"]
    assert any("starts from manifest" in difference.message for difference in found)
