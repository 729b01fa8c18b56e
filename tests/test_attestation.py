"""What the tool states in the form policy engines read: provenance of the build, and the verifier's own result, signed by the site."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess

import pytest
from parts import intoto
from parts.cli import Desk
from parts.evidence import SIGNERS, Drift, assessed, policy, refusing, rich, verified

from audit.evidence import attestation, write
from audit.evidence.verification import verification_json
from audit.verify import slsa
from audit.verify.trust import Memory
from audit.verify.walk import Place, verify
from bundler import provenance
from manifests.lock import Lock
from manifests.policy import Policy
from manifests.statement import Envelope, pae

BUILDER = "https://ci.example.org/airgap"
STATEMENT = "https://in-toto.io/Statement/v1"


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Desk:
    made = Desk(tmp_path_factory.mktemp("desk"))
    (made.folder / "docs").mkdir()
    (made.folder / "docs" / "a.txt").write_text("a\n")
    (made.folder / "docs" / "b.txt").write_text("b\n")
    made.write_intent("name: docs, kind: path, path: ./docs", extra=f"builder: {BUILDER}")
    made.trust()
    made.bundle("lock", "bundle.yaml")
    made.bundle("build", "bundle.lock.json", "--out", "bundle")
    made.sign("bundle")
    return made


def carried(desk: Desk) -> dict:
    """Return the provenance statement as a reader of the OCI layout finds it, without this product's code."""
    index = json.loads((desk.folder / "bundle/index.json").read_bytes())
    root = next(entry for entry in index["manifests"] if entry["annotations"]["airgap.name"] == "airgap-provenance")
    blobs = desk.folder / "bundle/blobs/sha256"
    manifest = json.loads((blobs / root["digest"][7:]).read_bytes())
    (layer,) = manifest["layers"]
    assert layer["annotations"]["org.opencontainers.image.title"] == "provenance.json"
    return {"index": index, "statement": json.loads((blobs / layer["digest"][7:]).read_bytes())}


def test_provenance_names_the_builder_the_lock_and_every_pin(desk):
    found = carried(desk)
    said, lock = found["statement"], Lock.load(desk.folder / "bundle.lock.json")
    assert (said["_type"], said["predicateType"]) == (STATEMENT, "https://slsa.dev/provenance/v1")
    roots = {entry["annotations"]["airgap.name"]: entry["digest"] for entry in found["index"]["manifests"]}
    assert {s["name"]: f"sha256:{s['digest']['sha256']}" for s in said["subject"]} == {name: roots[name] for name in ("docs", "airgap-lock")}
    definition, run = said["predicate"]["buildDefinition"], said["predicate"]["runDetails"]
    assert definition["buildType"].startswith("https://")
    sums = subprocess.run(["sha256sum", "bundle.lock.json"], cwd=desk.folder, capture_output=True, text=True, check=True).stdout
    assert definition["externalParameters"]["lock"]["digest"]["sha256"] == sums.split()[0]
    pins = {f"{c.name}/{pin.path}": pin.sha256 for c in lock.components for pin in c.files}
    assert {d["name"]: d["digest"]["sha256"] for d in definition["resolvedDependencies"]} == pins
    assert len(pins) == 2
    assert run["builder"]["id"] == BUILDER
    assert set(run["builder"]["version"]) == {"airgap-bundler"}
    assert "metadata" not in run  # no clock: one lock is one bundle


@pytest.mark.network
def test_the_projects_own_message_reads_our_provenance(desk):
    said = carried(desk)["statement"]["predicate"]
    assert intoto.predicate("provenance.v1.provenance_pb2.Provenance", said) == said  # its message for a VSA has one level, not a list


def test_a_builder_nobody_named_is_said_to_be_unnamed(desk):
    lock = Lock.load(desk.folder / "bundle.lock.json").model_copy(update={"builder": None})
    said = json.loads(provenance.provenance(lock, (), "1"))
    assert said["predicate"]["runDetails"]["builder"]["id"] == provenance.NOBODY


def test_where_something_is_downloaded_from_is_a_download_location(desk):
    lock = Lock.load(desk.folder / "bundle.lock.json")
    pin = lock.components[0].files[0].model_copy(update={"url": "https://example.org/x", "media_type": "text/plain"})
    part = lock.components[0].model_copy(update={"files": (pin,)})
    (entry,) = json.loads(provenance.provenance(lock.model_copy(update={"components": (part,)}), (), "1"))["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert (entry["uri"], entry["downloadLocation"], entry["mediaType"]) == ("https://example.org/x", "https://example.org/x", "text/plain")


# SLSA levels


def claimed(desk: Desk, *builders: dict) -> slsa.Claim:
    from datetime import UTC, datetime

    raw = (desk.folder / "policy.json").read_bytes()
    bundle = verify(Place.of(desk.folder / "bundle"), raw, memory=Memory(), now=datetime.now(UTC))
    return slsa.claim(bundle, Policy.parse(raw).changed(slsa=list(builders)))


def test_a_level_is_claimed_for_a_known_builder_whose_signer_signed(desk):
    found = claimed(desk, {"id": "https://other", "level": 3, "signed_by": ["bob"]}, {"id": BUILDER, "level": 2, "signed_by": ["bob"]})
    assert (found.level, found.builder) == (2, BUILDER)
    assert found.digest


def test_no_level_is_claimed_for_an_unknown_builder(desk):
    found = claimed(desk, {"id": BUILDER + "/", "level": 2, "signed_by": ["bob"]})
    assert found.level == 0
    assert "does not know the builder" in found.reason


def test_no_level_is_claimed_where_the_platforms_signer_did_not_sign(tmp_path):
    found = verified(rich(tmp_path / "b", "alice", "bob"), "alice", "bob")
    assert slsa.claim(found, policy("alice", "bob")).reason == "the bundle carries no provenance"


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["subject"].pop(),
        lambda value: value["subject"][0]["digest"].update(sha256="0" * 64),
        lambda value: value.update(predicateType="https://slsa.dev/provenance/v0.2"),
        lambda value: value["predicate"].pop("runDetails"),
        lambda value: value.update(subject="x"),
    ],
)
def test_provenance_of_something_else_allows_no_claim(desk, change, tmp_path):
    from audit.verify.slsa import _builder

    value = carried(desk)["statement"]
    change(value)
    from datetime import UTC, datetime

    bundle = verify(Place.of(desk.folder / "bundle"), (desk.folder / "policy.json").read_bytes(), memory=Memory(), now=datetime.now(UTC))
    with pytest.raises((KeyError, ValueError, TypeError)):
        _builder(value, bundle)


# The verifier's own result


def statement(raw: bytes) -> dict:
    return json.loads(raw)


def test_an_svr_lists_what_passed_and_nothing_else(tmp_path):
    bundle = verified(rich(tmp_path / "b"))
    found = assessed(bundle)
    said = statement(attestation.svr(found, "https://site.example/verifier/1", verification_json(found)))
    assert (said["_type"], said["predicateType"]) == (STATEMENT, "https://in-toto.io/attestation/svr/v0.2")
    assert [subject["name"] for subject in said["subject"]] == ["index.json", "SHA256SUMS", "verification.json"]
    assert said["subject"][0]["digest"]["sha256"] == bundle.digest.hex
    predicate = said["predicate"]
    assert predicate["verifier"]["id"] == "https://site.example/verifier/1"
    assert predicate["verifier"]["policies"][0]["digest"] == {"sha256": bundle.policy_sha256}
    assert predicate["timeCreated"] == "2026-11-24T12:00:00Z"
    assert predicate["properties"] == [
        "AIRGAP_CHECK_SAFETENSORS", "AIRGAP_EVERY_BYTE_MATCHES_SIGNED_SUMS", "AIRGAP_SIGNED_BY_POLICY_THRESHOLD", "AIRGAP_WITHIN_VALIDITY",
    ]  # fmt: skip


def test_what_was_consulted_adds_to_it(tmp_path):
    bundle = verified(rich(tmp_path / "b"))
    known = Memory(serial=6, root="0" * 64)
    found = assessed(bundle, memory=known, drift=Drift())
    said = statement(attestation.svr(found, "x:y", b"{}"))["predicate"]["properties"]
    assert {"AIRGAP_NO_ROLLBACK", "AIRGAP_INSTALLED_AS_SIGNED"} <= set(said)
    drifted = assessed(bundle, memory=Memory(), drift=Drift("differs", 3))
    assert not {"AIRGAP_NO_ROLLBACK", "AIRGAP_INSTALLED_AS_SIGNED"} & set(statement(attestation.svr(drifted, "x:y", b"{}"))["predicate"]["properties"])


def test_a_refused_bundle_gets_no_statement():
    from parts.evidence import refusal

    from audit.evidence.assessment import refused

    found = refused(refusal(), place="x", policy_raw=b"{}", tool=("t", "1"), now=__import__("parts.bundles", fromlist=["NOW"]).NOW)
    assert attestation.svr(found, "x:y", b"{}") is None
    assert attestation.vsa(found, "x:y") is None


def test_no_vsa_where_the_policy_believes_no_platform(tmp_path):
    assert attestation.vsa(assessed(verified(rich(tmp_path / "b"))), "x:y") is None


def test_the_sites_key_signs_and_openssl_accepts(tmp_path):
    found = assessed(verified(rich(tmp_path / "b")))
    files = write.write(tmp_path / "out", found, write.Verifier("https://site.example/v1", SIGNERS["alice"]))
    assert {"verification.json", "report.html", "sbom.cdx.json"} < {path.name for path in files}
    assert [path.name for path in files][-3:] == ["svr.sigstore.json", "evidence.sigstore.json", "SHA256SUMS"]
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=tmp_path / "out", check=True)
    raw = (tmp_path / "out/svr.sigstore.json").read_bytes()
    envelope = Envelope.parse(raw, "svr")
    said = statement(envelope.payload)
    ours = subprocess.run(["sha256sum", tmp_path / "out/verification.json"], capture_output=True, text=True, check=True).stdout.split()[0]
    assert said["subject"][-1] == {"name": "verification.json", "digest": {"sha256": ours}}
    from parts.evidence import pem

    (tmp_path / "pub").write_text(pem("alice"))
    (tmp_path / "sig").write_bytes(base64.b64decode(json.loads(raw)["dsseEnvelope"]["signatures"][0]["sig"]))
    (tmp_path / "pae").write_bytes(pae(envelope.payload))
    subprocess.run(["openssl", "dgst", "-sha256", "-verify", "pub", "-signature", "sig", "pae"], cwd=tmp_path, check=True, capture_output=True)


def test_one_statement_names_every_file_of_the_evidence(tmp_path):
    """It is the detached signature over the SBOMs that CISA's minimum elements ask for."""
    found = assessed(verified(rich(tmp_path / "b")))
    files = write.write(tmp_path / "out", found, write.Verifier("https://site.example/v1", SIGNERS["alice"]))
    said = statement(Envelope.parse((tmp_path / "out/evidence.sigstore.json").read_bytes(), "evidence").payload)
    assert said["predicateType"] == "https://in-toto.io/attestation/reference/v0.1"
    assert said["predicate"]["attester"] == {"id": "https://site.example/v1"}
    named = {entry["name"]: entry["digest"]["sha256"] for entry in said["predicate"]["references"]}
    written = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert named == {name: digest for name, digest in written.items() if name not in {"evidence.sigstore.json", "SHA256SUMS"} and "sigstore" not in name}
    quality = json.loads((tmp_path / "out/sbom-quality.json").read_text())["ruleSets"][0]
    assert [field["answer"] for field in quality["fields"][:2]] == ["present", "present"], "author and signature"
    assert attestation.reference(refusing(), "x:y", {}) is None


# By command line


def signed_by_the_site(desk: Desk, out: str, *more: str) -> dict[str, dict]:
    desk.audit("evidence", "bundle", "--policy", "policy.json", "--out", out, *more, code=None)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=desk.folder / out, check=True)
    found = {}
    for path in (desk.folder / out).glob("*.sigstore.json"):
        envelope = Envelope.parse(path.read_bytes(), path.name)
        found[path.name.split(".")[0]] = json.loads(envelope.payload)
    return found


def test_evidence_with_the_sites_key_is_signed(desk):
    desk.bundle("keygen", "site", "--out", "keys", "--algorithm", "ed25519", "--no-passphrase")
    (desk.folder / "site.yaml").write_text("verifier: {id: 'https://site.example/verifier/1', key: 'file:keys/site.key'}\n")
    found = signed_by_the_site(desk, "evidence", "--site", "site.yaml")
    assert set(found) == {"svr", "evidence"}
    assert found["svr"]["predicate"]["verifier"]["id"] == "https://site.example/verifier/1"
    assert "AIRGAP_EVERY_BYTE_MATCHES_SIGNED_SUMS" in found["svr"]["predicate"]["properties"]
    assert signed_by_the_site(desk, "evidence2", "--key", "file:keys/site.key")["svr"]["predicate"]["verifier"]["id"].startswith("https://airgap-bundler.dev/")
    assert signed_by_the_site(desk, "evidence2") == {}  # what an earlier run signed does not stay beside another result


def test_a_vsa_says_which_level_and_by_what(desk):
    policy_file = desk.folder / "policy.json"
    before = policy_file.read_bytes()
    try:
        for level, signers, result, levels in ((2, ["bob"], "PASSED", ["SLSA_BUILD_LEVEL_2"]), (3, ["bob"], "PASSED", ["SLSA_BUILD_LEVEL_3"])):
            changed = Policy.parse(before).changed(slsa=[{"id": BUILDER, "level": level, "signed_by": signers}])
            policy_file.write_bytes(changed.to_bytes())
            vsa = signed_by_the_site(desk, "evidence3", "--key", "file:keys/bob.key")["vsa"]
            assert vsa["predicateType"] == "https://slsa.dev/verification_summary/v1"
            assert (vsa["predicate"]["verificationResult"], vsa["predicate"]["verifiedLevels"]) == (result, levels)
            assert vsa["predicate"]["resourceUri"] == "airgap:s/1"
            assert vsa["predicate"]["policy"]["digest"]["sha256"] == __import__("hashlib").sha256(changed.to_bytes()).hexdigest()
        policy_file.write_bytes(Policy.parse(before).changed(slsa=[{"id": "https://other", "level": 2, "signed_by": ["bob"]}]).to_bytes())
        found = signed_by_the_site(desk, "evidence3", "--key", "file:keys/bob.key")
        assert (found["vsa"]["predicate"]["verificationResult"], found["vsa"]["predicate"]["verifiedLevels"]) == ("FAILED", ["FAILED"])
        assert not [text for text in found["svr"]["predicate"]["properties"] if "SLSA" in text]
    finally:
        policy_file.write_bytes(before)
