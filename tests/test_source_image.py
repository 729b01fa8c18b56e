"""Kind `image`: from a registry into the lock and into the bundle; platforms, and images that cannot or must not be carried."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from parts import httpd, images
from parts import registry as registries
from parts.expect import refused
from parts.imagebench import CONFIG, LAYER, Bench, Fake, entry, index

from airgap_images.oci import DOCKER_LIST, DOCKER_MANIFEST, IMAGE_INDEX, IMAGE_MANIFEST, Digest
from bundler.sources import image
from bundler.sources._carry import MAX_CONFIG
from manifests.errors import IntegrityError, InvalidFileError


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("HOME", str(tmp_path))  # no login of whoever runs the tests
    return Bench(tmp_path)


# --- from a real registry


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A registry with one image in both formats, and an index of two platforms and BuildKit's attestation."""
    with registries.registry(tmp_path_factory.mktemp("registry")) as running:
        found: dict[str, tuple[bytes, str]] = {}
        for tag, options in (("amd64", ()), ("arm64", ()), ("docker", ("--format", "v2s2"))):
            images.busybox("arm64" if tag == "arm64" else "amd64").push(running.host, f"team/busybox:{tag}", *options)
            raw = images.tool("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{running.host}/team/busybox:{tag}").encode()
            found[tag] = (raw, f"sha256:{hashlib.sha256(raw).hexdigest()}")
        entries = [
            entry(*found["amd64"], "linux/amd64"),
            entry(*found["arm64"], "linux/arm64/v8"),
            entry(*found["amd64"], "unknown/unknown"),
        ]
        entries[2]["annotations"] = {"vnd.docker.reference.type": "attestation-manifest"}
        raw = index(*entries)
        running.put_manifest("team/busybox", "1.0", raw, IMAGE_INDEX)
        found["1.0"] = (raw, f"sha256:{hashlib.sha256(raw).hexdigest()}")
        yield SimpleNamespace(host=running.host, ref=f"{running.host}/team/busybox", found=found, running=running)


@pytest.mark.parts
def test_a_tag_becomes_pins_of_every_byte(bench: Bench, upstream: SimpleNamespace) -> None:
    raw, digest = upstream.found["amd64"]
    locked = bench.resolve(f"{upstream.ref}:amd64")
    assert locked.identity == {
        "ref": f"{upstream.ref}:amd64", "reference": f"{upstream.ref}:amd64", "digest": digest, "platform": "linux/amd64",
    }  # fmt: skip
    assert (locked.form, locked.role, f"sha256:{locked.root}") == ("image", "inference", digest)
    manifest = json.loads(raw)
    assert [(f"sha256:{pin.sha256}", pin.size, pin.media_type, pin.path) for pin in locked.files] == [
        (digest, len(raw), IMAGE_MANIFEST, "manifest.json"),
        (manifest["config"]["digest"], manifest["config"]["size"], CONFIG, "config.json"),
        *((layer["digest"], layer["size"], LAYER, f"blobs/{layer['digest'][7:]}") for layer in manifest["layers"]),
    ]
    assert [pin.url for pin in locked.files] == [
        f"http://{upstream.host}/v2/team/busybox/manifests/{digest}",
        *(f"http://{upstream.host}/v2/team/busybox/blobs/sha256:{pin.sha256}" for pin in locked.files[1:]),
    ]
    assert locked.files[0].evidence == {"tag": "amd64"}
    assert locked.facts == {
        "layers": "2", "bytes": str(locked.size), "user": "65534", "version": "1.0",
    }  # fmt: skip
    assert bench.warnings == []
    assert all(bench.cache.has(Digest(pin.sha256), pin.size) for pin in locked.files[:2]), "what was read need not be fetched again"
    assert bench.lock(bench.resolve(f"{upstream.ref}:amd64")).to_bytes() == bench.lock(locked).to_bytes()


@pytest.mark.parts
def test_a_digest_is_enough_and_needs_no_tag(bench: Bench, upstream: SimpleNamespace) -> None:
    digest = upstream.found["docker"][1]
    locked = bench.resolve(f"{upstream.ref}@{digest}")
    assert locked.identity["ref"] == f"{upstream.ref}@{digest}"
    assert locked.identity["reference"] == f"{upstream.ref}:sha256-{digest[7:19]}"
    assert locked.files[0].media_type == DOCKER_MANIFEST
    assert locked.files[0].evidence == {}


@pytest.mark.parts
@pytest.mark.parametrize(
    ("target", "platform", "tag"),
    [
        ("linux/amd64", None, "amd64"),
        ("linux/arm64", None, "arm64"),
        ("linux/amd64", "linux/arm64/v8", "arm64"),
        ("linux/arm64", "linux/amd64", "amd64"),
    ],
)
def test_of_an_index_the_targets_image_is_pinned_itself(
    bench: Bench, upstream: SimpleNamespace, target: str, platform: str | None, tag: str
) -> None:
    locked = bench.resolve(f"{upstream.ref}:1.0", target=target, platform=platform)
    assert f"sha256:{locked.root}" == upstream.found[tag][1] == locked.identity["digest"]
    assert locked.identity["index"] == upstream.found["1.0"][1]
    assert locked.identity["platform"] == f"linux/{tag}"
    assert locked.files[0].evidence == {"index": upstream.found["1.0"][1], "tag": "1.0"}
    assert upstream.found["1.0"][1][7:] not in {pin.sha256 for pin in locked.files}, "an index with holes must not travel"


@pytest.mark.parts
def test_platforms_there_are_not_are_answered_with_those_there_are(bench: Bench, upstream: SimpleNamespace) -> None:
    with pytest.raises(InvalidFileError, match=r"no image for linux/s390x; it has: linux/amd64, linux/arm64$"):
        bench.resolve(f"{upstream.ref}:1.0", platform="linux/s390x")
    with refused(InvalidFileError, "the image is for linux/arm64, wanted linux/amd64"):
        bench.resolve(f"{upstream.ref}:arm64")


@pytest.mark.parts
def test_neither_tag_nor_digest_is_said_to_move(bench: Bench, upstream: SimpleNamespace) -> None:
    upstream.running.put_manifest("team/busybox", "latest", upstream.found["amd64"][0], IMAGE_MANIFEST)
    locked = bench.resolve(upstream.ref)
    assert locked.identity["ref"] == f"{upstream.ref}:latest"
    assert any("neither tag nor digest" in line and f"{upstream.ref}:latest" in line for line in bench.warnings)


@pytest.mark.parts
@pytest.mark.parametrize("tag", ["amd64", "1.0"])
def test_the_bundle_holds_the_registrys_bytes_and_other_tools_read_it(bench: Bench, upstream: SimpleNamespace, tag: str) -> None:
    locked = bench.resolve(f"{upstream.ref}:{tag}")
    built = bench.build(locked)
    assert built.fetched.local == 2, "manifest and config came from the cache"
    layout = f"oci:{bench.folder / 'bundle'}:server"  # the component's name is what other tools select it by
    raw = images.tool("skopeo", "inspect", "--raw", layout).encode()
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == locked.identity["digest"]
    said = json.loads(images.tool("skopeo", "inspect", layout))
    assert (said["Os"], said["Architecture"], len(said["Layers"])) == ("linux", "amd64", 2)
    images.tool("skopeo", "copy", "--preserve-digests", layout, f"dir:{bench.folder / 'copied'}")
    assert (bench.folder / "copied" / "manifest.json").read_bytes() == raw
    again = bench.build(locked, out="again")
    assert again.digest == built.digest
    assert not bench.build(locked).changed


@pytest.mark.parts
def test_an_image_of_dockers_own_format_is_carried_as_it_is(bench: Bench, upstream: SimpleNamespace) -> None:
    raw, digest = upstream.found["docker"]
    bench.build(bench.resolve(f"{upstream.ref}:docker"))
    listed = {
        entry["annotations"]["airgap.name"]: entry
        for entry in json.loads((bench.folder / "bundle" / "index.json").read_bytes())["manifests"]
    }
    assert listed["server"]["mediaType"] == IMAGE_INDEX  # stock tools look up names among OCI types only
    (image,) = json.loads((bench.folder / "bundle" / "blobs" / "sha256" / listed["server"]["digest"][7:]).read_bytes())["manifests"]
    assert (image["mediaType"], image["digest"]) == (DOCKER_MANIFEST, digest)
    assert (bench.folder / "bundle" / "blobs" / "sha256" / digest[7:]).read_bytes() == raw


@pytest.mark.parts
def test_a_layer_the_registry_lost_or_damaged_is_refused(bench: Bench, tmp_path: Path) -> None:
    with registries.registry(tmp_path / "registry") as running:
        images.busybox().push(running.host, "team/busybox:1")
        locked = bench.resolve(f"{running.host}/team/busybox:1")
        layer = running.blob_file(f"sha256:{locked.files[-1].sha256}")
        good = layer.read_bytes()
        layer.write_bytes(bytes([good[0], *(byte ^ 1 for byte in good[1:])]))
        with refused(IntegrityError, f"blobs/sha256:{locked.files[-1].sha256}", f"expected {locked.files[-1].sha256}"):
            bench.build(locked)
        assert not (bench.folder / "bundle" / "index.json").exists()
        layer.write_bytes(good)
        assert bench.build(locked).digest


# --- from registries that lie, and images that cannot be carried


@pytest.fixture
def fake() -> Iterator[Fake]:
    with httpd.Server() as server:
        yield Fake(server)


def test_an_index_that_leads_to_itself(bench: Bench, fake: Fake) -> None:
    claimed = "sha256:" + "b" * 64
    looped = index({"mediaType": IMAGE_MANIFEST, "digest": claimed, "size": 400, "platform": {"os": "linux", "architecture": "amd64"}})
    fake.put(looped, "1")
    fake.put(looped, claimed)
    with refused(IntegrityError, claimed, "the registry sent other bytes"):
        bench.resolve(fake.ref)


def test_an_index_that_leads_to_something_else_for_a_platform(bench: Bench, fake: Fake) -> None:
    fake.put(index(entry(b"{}", fake.blob(b"{}")["digest"], "linux/amd64", "application/vnd.oci.image.config.v1+json")), "1")
    with refused(InvalidFileError, "the index leads to", "image.config", "not to an image"):
        bench.resolve(fake.ref)


def test_an_index_that_says_another_size_or_type_than_the_manifest_has(bench: Bench, fake: Fake) -> None:
    raw = fake.image()
    described = entry(raw, fake.put(raw), "linux/amd64")
    for wrong in ({"size": len(raw) + 1}, {"mediaType": DOCKER_MANIFEST}):
        fake.put(index(described | wrong), "1")
        with refused(IntegrityError, "not of the type and size its index says"):
            bench.resolve(fake.ref)


def test_an_index_that_says_another_platform_than_the_image(bench: Bench, fake: Fake) -> None:
    for config in ({"architecture": "arm64"}, {"os": "windows"}, {"variant": "v3"}, {"architecture": None}):
        raw = fake.image(config=config)
        fake.put(index(entry(raw, fake.put(raw), "linux/amd64")), "1")
        with refused(IntegrityError, "the index says linux/amd64, the image itself says"):
            bench.resolve(fake.ref)


def test_two_images_for_one_platform(bench: Bench, fake: Fake) -> None:
    one, two = fake.image(), fake.image(config={"author": "another"})
    entries = [entry(raw, fake.put(raw), "linux/amd64") for raw in (one, two)]
    fake.put(index(*entries, media_type=DOCKER_LIST), "1")
    with refused(InvalidFileError, "2 images for linux/amd64", "it has: linux/amd64"):
        bench.resolve(fake.ref)
    fake.put(index(entries[0], entries[0]), "1")
    assert bench.resolve(fake.ref).identity["digest"] == entries[0]["digest"], "the same one twice is one"


def test_an_index_of_nothing_for_no_platform(bench: Bench, fake: Fake) -> None:
    fake.put(index(), "1")
    with refused(InvalidFileError, "no image for linux/amd64; it has: nothing"):
        bench.resolve(fake.ref)
    raw = fake.image()
    fake.put(index({"mediaType": IMAGE_MANIFEST, "digest": fake.put(raw), "size": len(raw)}), "1")
    with refused(InvalidFileError, "it has: no platform stated"):
        bench.resolve(fake.ref)


@pytest.mark.parametrize(
    ("media_type", "words"),
    [
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", ["may not be distributed"]),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", ["may not be distributed"]),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", ["unknown type", "encrypted"]),
        ("text/plain", ["unknown type"]),
    ],
)
def test_layers_that_cannot_be_carried(bench: Bench, fake: Fake, media_type: str, words: list[str]) -> None:
    fake.put(fake.image(layers=[fake.blob(b"x") | {"mediaType": media_type}]), "1")
    with refused(InvalidFileError, "server: layer sha256:", *words):
        bench.resolve(fake.ref)


def test_what_is_no_container_image(bench: Bench, fake: Fake) -> None:
    fake.put(fake.image(config_type="application/vnd.cncf.helm.config.v1+json"), "1")
    with refused(InvalidFileError, "not a container image but 'application/vnd.cncf.helm.config.v1+json'"):
        bench.resolve(fake.ref)


@pytest.mark.parametrize(
    "config", [b"", b"[]", b"{}", b'{"rootfs":[]}', b'{"rootfs":{"diff_ids":[]}}', b'{"rootfs":{"diff_ids":["a","b"]}}']
)
def test_a_config_that_does_not_fit_its_manifest(bench: Bench, fake: Fake, config: bytes) -> None:
    fake.put(fake.image(config=config), "1")
    with refused(IntegrityError, "server: config sha256:"):
        bench.resolve(fake.ref)


def test_a_config_of_any_size_is_not_read(bench: Bench, fake: Fake) -> None:
    raw = json.loads(fake.image())
    raw["config"]["size"] = MAX_CONFIG + 1
    fake.put(json.dumps(raw).encode(), "1")
    with refused(IntegrityError, f"at most {MAX_CONFIG} allowed"):
        bench.resolve(fake.ref)


def test_a_layer_used_twice_is_pinned_once_and_an_image_without_layers_is_one(bench: Bench, fake: Fake) -> None:
    layer = fake.blob(b"same")
    fake.put(fake.image(layers=[layer, layer]), "1")
    locked = bench.resolve(fake.ref)
    assert [pin.path.partition("/")[0] for pin in locked.files] == ["manifest.json", "config.json", "blobs"]
    assert locked.facts["layers"] == "2"
    fake.put(fake.image(layers=[]), "1")
    assert bench.resolve(fake.ref).facts["layers"] == "0"


@pytest.mark.parametrize(
    ("user", "said"),
    [(None, "root"), ("", "root"), ("0:0", "0:0"), ("root", "root"), ("1000", "1000"), (7, "root"), ("a\x1b[2J", "a\ufffd[2J")],
)
def test_who_runs_in_it_is_said(bench: Bench, fake: Fake, user: object, said: str) -> None:
    fake.put(
        fake.image(
            config={"config": {"User": user, "Labels": {"org.opencontainers.image.licenses": "MIT", "org.opencontainers.image.source": 7}}}
        ),
        "1",
    )
    locked = bench.resolve(fake.ref)
    assert locked.facts["user"] == said
    assert locked.facts["licenses"] == "MIT"
    assert "source" not in locked.facts
    assert any("runs as root" in line for line in bench.warnings) is (said.partition(":")[0] in {"root", "0"})


@pytest.mark.parametrize(
    ("field", "value"), [("ref", ""), ("platform", "linux"), ("platform", "linux/amd64/v8/x"), ("platform", "Linux/amd64"), ("tag", "x")]
)
def test_options_that_are_refused(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=field):
        image.Options.model_validate({"ref": "busybox"} | {field: value})
