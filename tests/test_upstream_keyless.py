"""Older keyless signatures: completed with the log's proof while there is a network, and then good without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from parts import collecting, signed
from parts import registry as registries
from parts.collecting import Desk, beside, listing
from parts.rekor1 import Rekor1, rekor1
from parts.sigstore import ISSUER, PrivateSigstore, private_sigstore
from parts.upstream import VENDOR, Person, policy

from airgap_images.bundle import components, parse_index
from airgap_images.evidence import EvidenceTree
from airgap_images.oci import Descriptor, Digest
from audit.verify.claims import DSSE, SIMPLE
from audit.verify.upstream import assess
from audit.verify.verdict import Verdict
from bundler import resolve
from bundler.upstream import transparency
from manifests import intent as intents
from manifests.diff import diff
from manifests.lock import Lock

WORKFLOW = "https://git.example.test/org/repo/.ci/release.yml@refs/heads/main"
NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
SCAN = "https://example.test/scan/v1"
pytestmark = pytest.mark.parts


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[registries.Registry]:
    with registries.registry(tmp_path_factory.mktemp("registry")) as started:
        yield started


@pytest.fixture(scope="module")
def private() -> Iterator[PrivateSigstore]:
    with private_sigstore() as started:
        yield started


@pytest.fixture
def log(private: PrivateSigstore) -> Iterator[Rekor1]:
    with rekor1(private) as started:
        yield started


class Signed:
    """An image signed as cosign did it before it wrote bundles, and the desk that locks it."""

    def __init__(self, folder: Path, running: registries.Registry, log: Rekor1, name: str) -> None:
        self.desk = Desk(folder)
        self.log = log
        self.repository = signed.Repository(running, f"team/{name}")
        self.image = self.repository.image("1", note=folder.name)
        self.ref = f"{running.host}/{self.repository.name}:1"

    def sign(self, *others: dict, identity: str = WORKFLOW, **changes: str) -> None:
        data, annotations = self.log.signature(self.image.digest, identity)
        self.repository.tagged(self.image, "sig", *others, self.repository.blob(data, SIMPLE, **(annotations | changes)))

    def lock(self, previous: Lock | None = None) -> Lock:
        return self.desk.lock(self.ref, previous, rekor=self.log.url)

    def whys(self, lock: Lock) -> list[str]:
        return [why for _, why in listing(lock).not_collected]

    def verdict(self, tree: EvidenceTree, *, attestations: tuple[tuple[str, tuple[str, ...]], ...] = ()) -> Verdict:
        person = Person("vendor", WORKFLOW, ISSUER, self.log.trusted_root())
        found = components(parse_index((tree.layout.root / "index.json").read_bytes()))
        (verdict,) = assess(tree.layout, found, policy(person, match="127.0.0.1:*/team/*", attestations=attestations))
        return verdict


@pytest.fixture
def upstream(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: registries.Registry, log: Rekor1
) -> Signed:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Signed(tmp_path, running, log, request.node.name.removeprefix("test_")[:60].strip("_"))


def test_a_signature_with_a_mere_promise_is_completed_and_good_offline(upstream: Signed) -> None:
    upstream.sign()
    lock = upstream.lock()
    (made,) = listing(lock).completed
    (found,) = listing(lock).found
    assert made.manifest == found.manifest.digest
    assert made.file == f"completed/{made.layer.hex}-0.sigstore.json"
    assert upstream.desk.warnings == []
    assert upstream.log.asked == 1
    assert beside(lock).facts == {"upstream-signatures": "1 by tag", "upstream-completed": "1"}
    tree = upstream.desk.build(lock)
    document = json.loads(tree.completed(made.file))
    assert document["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert document["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]["checkpoint"]["envelope"]
    verdict = upstream.verdict(tree)
    assert (verdict.result, verdict.seen[0].by) == ("good", "vendor")


def test_another_identity_does_not_become_good_by_being_completed(upstream: Signed) -> None:
    upstream.sign(identity="https://git.example.test/org/fork/.ci/release.yml@refs/heads/main")
    assert upstream.verdict(upstream.desk.build(upstream.lock())).result == "wrong"


def test_an_attestation_too(upstream: Signed) -> None:
    upstream.sign()
    data, annotations = upstream.log.attestation(upstream.image.digest, WORKFLOW, SCAN)
    upstream.repository.tagged(upstream.image, "att", upstream.repository.blob(data, DSSE, **annotations))
    lock = upstream.lock()
    assert len(listing(lock).completed) == 2
    assert upstream.desk.warnings == []
    assert upstream.verdict(upstream.desk.build(lock), attestations=((SCAN, ("vendor",)),)).result == "good"


def test_the_proof_of_the_old_lock_stays_though_the_log_grows(upstream: Signed) -> None:
    upstream.sign()
    first = upstream.lock()
    upstream.log.grow(3)
    again = upstream.lock(first)
    assert again.to_bytes() == first.to_bytes()
    assert upstream.log.asked == 1
    assert upstream.lock().to_bytes() != first.to_bytes(), "asked anew, the log gives another proof: that is why the old one is kept"
    upstream.sign()
    resigned = upstream.lock(first)
    assert upstream.log.asked == 3
    assert any("completed/" in str(change) for change in diff(first, resigned))
    assert upstream.verdict(upstream.desk.build(resigned)).result == "good"


def test_also_from_the_users_file(upstream: Signed) -> None:
    upstream.sign()
    path = upstream.desk.folder / "bundle.yaml"
    entry = f"{{name: tool, kind: image, ref: '{upstream.ref}', rekor: '{upstream.log.url}/'}}"
    path.write_text(f"apiVersion: airgap/v1\nname: x\nstream: s\ncomponents:\n  - {entry}\n")
    intent, document = intents.load(path)
    desk = upstream.desk
    around = resolve.Surroundings(desk.folder, desk.cache, desk.client, NOW, desk.warnings.append, lambda _: None)
    first = resolve.resolve(intent, document, None, around)
    assert resolve.resolve(intent, document, first, around).to_bytes() == first.to_bytes()
    assert upstream.log.asked == 1


def test_beside_a_plain_signature_over_the_same_bytes_the_right_one_is_completed(upstream: Signed) -> None:
    upstream.sign(upstream.repository.signature_layer(upstream.image, VENDOR))
    lock = upstream.lock()
    (made,) = listing(lock).completed
    raw = next(text.text for text in beside(lock).inline if text.path == made.file)
    layers = json.loads(upstream.desk.build(lock).manifest(made.manifest))["layers"]
    assert [layer["digest"] for layer in layers] == [str(made.layer)] * 2
    assert json.loads(raw)["messageSignature"]["signature"] == layers[1]["annotations"]["dev.cosignproject.cosign/signature"]


def test_a_log_that_does_not_answer_is_said_and_the_signature_kept(upstream: Signed) -> None:
    upstream.sign()
    lock = upstream.desk.lock(upstream.ref, rekor="http://127.0.0.1:9")
    assert listing(lock).completed == ()
    assert len(listing(lock).found) == 1
    assert upstream.whys(lock) == ["the transparency log: no whole answer arrived"]
    assert len(upstream.desk.warnings) == 1
    verdict = upstream.verdict(upstream.desk.build(lock))
    assert verdict.result == "unverifiable"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"body": "e30="}, "body differs"),
        ({"logID": "00" * 32}, "logID differs"),
        ({"integratedTime": 1}, "integratedTime differs"),
        ({"logIndex": 5}, "logIndex differs"),
        ({"verification": {}}, "gives no proof"),
        ({"verification": {"inclusionProof": {"hashes": ["0"] * 65}}}, "gives no proof"),
        ({"verification": {"inclusionProof": {"hashes": []}}}, "incomplete"),
        ({"verification": {"inclusionProof": {"hashes": ["zz"], "checkpoint": "x", "logIndex": 1, "treeSize": 2, "rootHash": "00"}}}, "not hexadecimal"),
        ({"verification": {"inclusionProof": {"hashes": [], "checkpoint": "x", "logIndex": -1, "treeSize": 2, "rootHash": "00"}}}, "do not make a bundle"),
    ],
)
def test_an_entry_that_is_not_the_promised_one_is_not_taken(
    tmp_path: Path, running: registries.Registry, log: Rekor1, changes: dict, words: str
) -> None:
    upstream = Signed(tmp_path, running, log, "lies")
    upstream.sign()
    log.changes = changes
    lock = upstream.lock()
    assert listing(lock).completed == ()
    (why,) = upstream.whys(lock)
    assert words in why
    assert len(upstream.desk.warnings) == 1


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({"dev.sigstore.cosign/bundle": "{}"}, "promise in it is not one"),
        ({"dev.sigstore.cosign/bundle": "nonsense"}, "not valid JSON"),
        ({"dev.sigstore.cosign/bundle": '{"SignedEntryTimestamp":1,"Payload":{"body":"","logID":"","integratedTime":1,"logIndex":1}}'}, "promise in it"),
        ({"dev.sigstore.cosign/bundle": '{"SignedEntryTimestamp":"","Payload":{"body":"","logID":"","integratedTime":1,"logIndex":-1}}'}, "promise in it"),
        ({"dev.sigstore.cosign/bundle": '{"SignedEntryTimestamp":"","Payload":{"body":"","logID":"","integratedTime":1,"logIndex":1}}'}, "answered 404"),
        ({"dev.sigstore.cosign/certificate": "-----BEGIN CERTIFICATE-----"}, "certificate in it is not one"),
    ],
)
def test_a_signature_that_makes_no_sense_costs_one_question_at_most(
    tmp_path: Path, running: registries.Registry, log: Rekor1, annotations: dict[str, str], words: str
) -> None:
    upstream = Signed(tmp_path, running, log, "senseless")
    upstream.sign(**annotations)
    lock = upstream.lock()
    assert listing(lock).completed == ()
    (why,) = upstream.whys(lock)
    assert words in why
    assert log.asked <= 1


def test_an_entry_of_a_kind_that_no_verifier_here_knows_is_said(upstream: Signed) -> None:
    data, annotations = upstream.log.attestation(upstream.image.digest, WORKFLOW, SCAN, kind="intoto")
    upstream.repository.tagged(upstream.image, "att", upstream.repository.blob(data, DSSE, **annotations))
    (why,) = upstream.whys(upstream.lock())
    assert "kind 'intoto/0.0.1', which cannot be verified offline" in why


def test_an_old_lock_that_was_tampered_with_is_not_taken_from(upstream: Signed) -> None:
    upstream.sign()
    first = upstream.lock()
    tree = beside(first)
    changed = tuple(text.model_copy(update={"text": text.text.replace('"signature":"M', '"signature":"N')}) for text in tree.inline)
    forged = collecting.of(first.components[0], tree.model_copy(update={"inline": changed}))
    assert changed != tree.inline
    again = upstream.lock(forged)
    assert upstream.log.asked == 2
    assert upstream.verdict(upstream.desk.build(again)).result == "good"


def test_what_a_bundle_belongs_to() -> None:
    layer = Descriptor(SIMPLE, Digest("0" * 64), 1)
    for raw in (b"", b"{}", b"[]", b'{"verificationMaterial":{}}', b'{"verificationMaterial":{"tlogEntries":[]}}'):
        assert not transparency.belongs(raw, layer)
