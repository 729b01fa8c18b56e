"""Against the real cosign: what it signs in a real registry is judged here as cosign judges it, and the other way round."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from parts import images
from parts.cosign import IGNORE_LOG, Cosign, cosign
from parts.registry import Registry, registry
from parts.upstream import BUNDLE, KEYS, PROVENANCE, Carried, Key, policy, simple, site_policy

from airgap_images.evidence import TAGS, Found
from airgap_images.oci import IMAGE_INDEX, IMAGE_MANIFEST, Descriptor, Digest
from audit.verify.claims import SIMPLE
from manifests.policy import Policy
from manifests.upstream import key_entry

pytestmark = [pytest.mark.parts, pytest.mark.network]
RULE = {"match": "**", "signed_by": ["vendor"]}
STATED = {"buildDefinition": {"buildType": "https://example.org/b", "externalParameters": {}}, "runDetails": {"builder": {"id": "https://b"}}}


@dataclass(frozen=True)
class World:
    """A registry with an image, cosign with a key, and the public key."""

    registry: Registry
    repository: str
    cosign: Cosign
    key: str

    @property
    def image(self) -> str:
        return f"{self.registry.host}/{self.repository}@{self.digest}"

    @property
    def digest(self) -> Digest:
        return Digest.of(self.get("manifests/1.0"))

    def get(self, path: str) -> bytes:
        accept = {"Accept": f"{IMAGE_MANIFEST}, {IMAGE_INDEX}"}
        with urllib.request.urlopen(urllib.request.Request(f"http://{self.registry.host}/v2/{self.repository}/{path}", headers=accept)) as answer:
            return answer.read()

    def tags(self) -> list[str]:
        return json.loads(self.get("tags/list"))["tags"]

    def collect(self, folder: Path) -> Carried:
        """Take the image's manifest and everything said of it, by cosign's tags and by the referrers' tag."""
        raw = self.get("manifests/1.0")
        carried = Carried(folder, ref=f"{self.registry.host}/{self.repository}:1.0")
        carried.manifests = (Descriptor(IMAGE_MANIFEST, carried.layout.put(raw), len(raw), platform=(("architecture", "amd64"), ("os", "linux"))),)
        tag = f"sha256-{self.digest.hex}"
        for suffix in TAGS:
            if f"{tag}.{suffix}" in self.tags():
                kind = {"sig": "signature", "att": "attestation", "sbom": "sbom"}[suffix]
                self._take(carried, kind, "tag", f"{tag}.{suffix}", self.get(f"manifests/{tag}.{suffix}"))
        for entry in json.loads(self.get(f"manifests/{tag}"))["manifests"] if tag in self.tags() else ():
            self._take(carried, "attestation", "referrer", None, self.get(f"manifests/{entry['digest']}"))
        return carried

    def _take(self, carried: Carried, kind: str, shape: str, tag: str | None, raw: bytes) -> None:
        value, digest = json.loads(raw), Digest.of(raw)
        carried.files[f"manifests/{digest.hex}"] = raw
        for part in (value["config"], *value["layers"]):
            name = part["digest"].removeprefix("sha256:")
            carried.files[f"blobs/{name}"] = self.get(f"blobs/{part['digest']}")
        descriptor = Descriptor(IMAGE_MANIFEST, digest, len(raw), artifact_type=value.get("artifactType"))
        carried.found.append(Found(kind, shape, tag, carried.only, descriptor))


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as upstream:
        yield upstream


@pytest.fixture
def world(tmp_path, running) -> World:
    tool, repository = cosign(tmp_path / "cosign"), f"team/{tmp_path.name.lower().replace('_', '-').rstrip('-')}"
    images.busybox().push(running.host, f"{repository}:1.0")
    return World(running, repository, tool, tool.key("vendor"))


def believes(pem: str, **rule) -> Policy:
    return site_policy({"identities": {"vendor": key_entry(pem)}, "images": [RULE | rule]})


def test_what_cosign_signs_with_a_key_is_good_and_with_another_key_wrong(world, tmp_path):
    world.cosign.sign("vendor", world.image)
    assert world.cosign.accepts("vendor", world.image)
    carried = world.collect(tmp_path / "bundle")
    found = carried.verdict(believes(world.key))
    assert (found.result, found.name) == ("good", f"{world.registry.host}/{world.repository}")
    other = world.cosign.key("other")
    assert not world.cosign.accepts("other", world.image)
    assert carried.verdict(believes(other)).result == "wrong"


def test_several_signatures_in_one_manifest(world, tmp_path):
    other = world.cosign.key("other")
    world.cosign.sign("other", world.image)
    world.cosign.sign("vendor", world.image)
    found = world.collect(tmp_path / "bundle").verdict(believes(world.key))
    assert (found.result, sorted(seen.result for seen in found.seen)) == ("good", ["good", "wrong"])
    assert world.collect(tmp_path / "again").verdict(believes(other)).result == "good"


@pytest.mark.parametrize("more", [(), ("--new-bundle-format",)])
def test_what_cosign_attests_is_good_in_both_shapes(world, tmp_path, more):
    world.cosign.sign("vendor", world.image)
    world.cosign.attest("vendor", world.image, "slsaprovenance1", STATED, *more)
    carried = world.collect(tmp_path / "bundle")
    wanted = {"attestations": [{"predicate": PROVENANCE, "by": ["vendor"]}]}
    found = carried.verdict(believes(world.key, **wanted))
    assert found.result == "good"
    assert {(seen.kind, seen.shape, seen.predicate) for seen in found.seen} == {
        ("signature", "tag", None), ("attestation", "referrer" if more else "tag", PROVENANCE),
    }  # fmt: skip
    assert carried.verdict(believes(world.cosign.key("other"), **wanted)).result == "wrong"
    assert carried.verdict(believes(world.key, attestations=[{"predicate": "https://spdx.dev/Document", "by": ["vendor"]}])).result == "missing"


def test_the_newer_shape_is_what_this_suite_thinks_it_is(world):
    world.cosign.attest("vendor", world.image, "slsaprovenance1", STATED, "--new-bundle-format")
    (entry,) = json.loads(world.get(f"manifests/sha256-{world.digest.hex}"))["manifests"]
    manifest = json.loads(world.get(f"manifests/{entry['digest']}"))
    assert (manifest["artifactType"], manifest["layers"][0]["mediaType"]) == (BUNDLE, BUNDLE)
    assert manifest["subject"]["digest"] == str(world.digest)


def test_an_attached_sbom_is_unsigned_and_counts_for_nothing(world, tmp_path):
    (world.cosign.folder / "sbom.json").write_text('{"spdxVersion":"SPDX-2.3"}')
    world.cosign.run("attach", "sbom", "--sbom", "sbom.json", "--allow-http-registry", world.image)
    found = world.collect(tmp_path / "bundle").verdict(believes(world.key))
    assert (found.result, [(seen.kind, seen.result) for seen in found.seen]) == ("missing", [("sbom", "unsigned")])


def test_a_signature_of_another_image_is_refused_here_and_by_cosign(world, tmp_path):
    images.busybox("arm64").push(world.registry.host, f"{world.repository}:other")
    other = Digest.of(world.get("manifests/other"))
    world.cosign.sign("vendor", f"{world.registry.host}/{world.repository}@{other}")
    moved = world.get(f"manifests/sha256-{other.hex}.sig")
    world.registry.put_manifest(world.repository, f"sha256-{world.digest.hex}.sig", moved, IMAGE_MANIFEST)
    assert not world.cosign.accepts("vendor", world.image)
    found = world.collect(tmp_path / "bundle").verdict(believes(world.key))
    assert (found.result, f"about {other}, not" in found.reason) == ("wrong", True)


@pytest.mark.parametrize("algorithm", ["ecdsa-p256-sha256", "ecdsa-p384-sha256", "ed25519", "rsa-pkcs1v15-sha256"])
def test_keys_of_every_kind_mean_the_same_to_cosign(world, tmp_path, algorithm):
    """The signature is made here, by the algorithm the policy would name; cosign judges it as this product does."""
    key: Key = KEYS[algorithm]
    payload = simple(world.digest, name=f"{world.registry.host}/{world.repository}")
    (world.cosign.folder / "payload").write_bytes(payload)
    (world.cosign.folder / "signature").write_text(base64.b64encode(key.sign(payload)).decode())
    (world.cosign.folder / "made.pub").write_text(key.pem)
    world.cosign.run("attach", "signature", "--payload", "payload", "--signature", "signature", "--allow-http-registry", world.image)
    assert world.cosign.accepts("made", world.image)
    carried = world.collect(tmp_path / "bundle")
    assert carried.verdict(policy(key, match="**")).result == "good"
    assert {part["mediaType"] for part in json.loads(world.get(f"manifests/sha256-{world.digest.hex}.sig"))["layers"]} == {SIMPLE}


def test_cosign_accepts_the_bundles_this_suite_makes(world, tmp_path):
    """`verify-blob-attestation` reads a bundle from a file: the same form that referrers carry."""
    key = KEYS["ecdsa-p256-sha256"]
    (world.cosign.folder / "made.pub").write_text(key.pem)
    carried = Carried(tmp_path / "bundle")
    carried.attestation(carried.only, key)
    (raw,) = (data for path, data in carried.files.items() if b"dsseEnvelope" in data and path.startswith("blobs/"))
    (world.cosign.folder / "bundle.json").write_bytes(raw)
    (world.cosign.folder / "manifest").write_bytes(carried.raw(carried.only))
    (world.cosign.folder / "root.json").write_text('{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}')
    arguments = ("verify-blob-attestation", "--new-bundle-format", "--key", "made.pub", "--bundle", "bundle.json", "--trusted-root", "root.json")
    world.cosign.run(*arguments, "--type", "slsaprovenance1", IGNORE_LOG[0], "--offline", "manifest")
