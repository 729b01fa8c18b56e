"""Two people sign, one with a key in a file, one with a key in a token; a policy that wants two of three accepts, and nothing less does.

Everything here is done with the two commands, as users do it; only what an attacker writes is written by hand.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from parts import certified, softhsm
from parts.cli import BIN, Desk, Done
from parts.images import find

from manifests import canonical
from manifests.statement import pae

pytestmark = pytest.mark.parts
PASSPHRASE = "correct horse battery staple"
ALICE, BOB, CAROL = (f"signatures/{name}.sigstore.json" for name in ("alice", "bob", "carol"))


@dataclass(frozen=True)
class Office:
    """A desk with the keys of alice (file), bob (token) and carol (file, ML-DSA-87), their policy and two bundles."""

    desk: Desk
    token: softhsm.Token

    @property
    def folder(self) -> Path:
        return self.desk.folder

    def sign(self, bundle: str | Path, who: str, *more: str) -> Done:
        uri = self.token.uri(object="bundles") if who == "bob" else f"file:keys/{who}.key"
        return self.desk.bundle("sign", bundle, "--key", uri, "--name", who, "--passphrase-file", f"{who}.secret", *more)


@pytest.fixture(scope="module")
def office(tmp_path_factory) -> Iterator[Office]:
    folder = tmp_path_factory.mktemp("office")
    token = softhsm.token(folder / "hsm")
    token.make("p384", "bundles", "01")
    desk = Desk(folder, tuple(token.environment.items()))
    office = Office(desk, token)
    for name, secret in {"alice": PASSPHRASE, "carol": PASSPHRASE, "bob": softhsm.PIN}.items():
        (folder / f"{name}.secret").write_text(f"{secret}\n")
    desk.bundle("keygen", "alice", "--out", "keys", "--passphrase-file", "alice.secret")
    desk.bundle("keygen", "carol", "--out", "keys", "--algorithm", "ml-dsa-87", "--passphrase-file", "carol.secret")
    desk.bundle("public-key", token.uri(object="bundles"), "--out", "keys/bob.pub", "--passphrase-file", "bob.secret")
    names = [part for name in ("alice", "bob", "carol") for part in ("--signer", f"{name}=keys/{name}.pub")]
    desk.bundle("policy", "init", "policy.json", "--stream", "s", *names, "--threshold", "2")
    for at, bundle in enumerate(("first", "second"), start=1):
        (folder / "docs").mkdir(exist_ok=True)
        (folder / "docs" / "note.txt").write_text(bundle)
        desk.write_intent("name: docs, kind: path, path: ./docs")
        desk.bundle("lock", "bundle.yaml")
        desk.bundle("build", "bundle.lock.json", "--out", bundle)
        office.sign(bundle, "alice", "--serial", str(at))
    office.sign("first", "bob", "--policy", "policy.json")
    office.sign("second", "bob")
    return office


@pytest.fixture
def bundle(office, tmp_path) -> Path:
    """Give a copy of the first bundle to do harm to, signed by alice and bob."""
    return shutil.copytree(office.folder / "first", tmp_path / "bundle")


def verify(office: Office, bundle: Path, policy: str | Path = "policy.json", code: int = 0) -> Done:
    return office.desk.audit("verify", bundle, "--policy", policy, "--json", code=code)


def refused(office: Office, bundle: Path, rule: str, sentence: str, policy: str | Path = "policy.json") -> None:
    """See that a bundle is refused with exactly one reason: this rule, and these words in it."""
    done = verify(office, bundle, policy, code=3)
    (reason,) = done.json["error"]
    assert (reason["rule"], done.json["exitCode"]) == (rule, 3), reason
    assert sentence in reason["message"], reason
    assert reason["hint"]
    assert f"{reason['message']} [rule {rule}]" in done.err


# --- accepted ---------------------------------------------------------------------------------------------------------


def test_two_of_three_are_enough(office, bundle):
    said = verify(office, bundle).json
    assert [(found["signer"], found["algorithm"]) for found in said["signatures"]] == [
        ("alice", "ecdsa-p256-sha256"),
        ("bob", "ecdsa-p384-sha384"),
    ]
    shown = office.desk.audit("verify", bundle, "--policy", "policy.json").out
    assert "alice" in shown
    assert "bob" in shown


@pytest.mark.parametrize("left", [ALICE, BOB])
def test_carol_can_stand_in_for_either(office, bundle, left):
    office.sign(bundle, "carol")
    (bundle / (BOB if left == ALICE else ALICE)).unlink()
    assert len(verify(office, bundle).json["signatures"]) == 2


def test_signing_again_changes_nothing(office, bundle):
    before = sorted((path.name, path.read_bytes()) for path in (bundle / "signatures").iterdir())
    for who in ("alice", "bob"):
        office.sign(bundle, who)
    assert sorted((path.name, path.read_bytes()) for path in (bundle / "signatures").iterdir()) == before


def test_no_secret_is_in_what_was_written(office):
    for path in (office.folder / "first").rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            assert PASSPHRASE.encode() not in raw
            assert softhsm.PIN.encode() not in raw


# --- removed, doubled, of another bundle ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("gone", "left"), [(ALICE, "bob"), (BOB, "alice")])
def test_with_either_signature_removed_it_is_refused(office, bundle, gone, left):
    (bundle / gone).unlink()
    refused(office, bundle, "4.threshold", f"1 of 2 needed signers (signed by {left})")


@pytest.mark.parametrize(("kept", "lost", "who"), [(ALICE, BOB, "alice"), (BOB, ALICE, "bob")])
def test_one_signature_in_two_files_counts_once(office, bundle, kept, lost, who):
    shutil.copy(bundle / kept, bundle / lost)
    sentence = f"1 of 2 needed signers (signed by {who}; {BOB}: signer {who} counts once, by {ALICE})"
    refused(office, bundle, "4.threshold", sentence)


def test_two_signatures_by_one_key_count_once(office, bundle):
    """Whoever signs ECDSA with random numbers gets another signature every time: these are two different files by one person."""
    made = json.loads((bundle / ALICE).read_bytes())
    key = serialization.load_pem_private_key((office.folder / "keys/alice.key").read_bytes(), PASSPHRASE.encode())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signature = key.sign(pae(base64.b64decode(made["dsseEnvelope"]["payload"])), ec.ECDSA(hashes.SHA256()))
    made["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    (bundle / BOB).write_bytes(canonical.compact(made))
    assert (bundle / BOB).read_bytes() != (bundle / ALICE).read_bytes()
    refused(office, bundle, "4.threshold", f"{BOB}: signer alice counts once")


def test_a_signature_of_another_bundle_is_refused(office, bundle):
    shutil.copy(office.folder / "second" / BOB, bundle / BOB)
    refused(office, bundle, "4.one-statement", "alice, bob signed different statements")


def test_both_signatures_of_another_bundle_are_refused(office, bundle):
    for path in (ALICE, BOB):
        shutil.copy(office.folder / "second" / path, bundle / path)
    done = verify(office, bundle, code=3)
    assert {reason["rule"] for reason in done.json["error"]} == {"4.subjects"}
    assert {reason["message"].partition(":")[0] for reason in done.json["error"]} == {"index.json", "SHA256SUMS"}


def test_a_statement_put_under_a_good_signature_is_refused(office, bundle):
    other = json.loads((office.folder / "second" / BOB).read_bytes())
    value = json.loads((bundle / BOB).read_bytes())
    value["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"]
    write(bundle / BOB, value)
    refused(office, bundle, "3.signature", f"{BOB}: claims to be by bob and does not verify")


# --- revoked --------------------------------------------------------------------------------------------------------------


def test_a_revoked_signer_counts_no_longer(office, bundle, tmp_path):
    shutil.copy(office.folder / "policy.json", tmp_path / "policy.json")
    office.desk.bundle("policy", "revoke", tmp_path / "policy.json", "bob")
    refused(office, bundle, "4.threshold", f"{BOB}: signer bob is revoked by the policy", tmp_path / "policy.json")
    office.sign(bundle, "carol")
    assert [found["signer"] for found in verify(office, bundle, tmp_path / "policy.json").json["signatures"]] == ["alice", "carol"]


# --- another kind of signer than the policy's -----------------------------------------------------------------------------------


def write(path: Path, value: object) -> None:
    path.write_bytes(json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode())


def another_kind(office: Office, folder: Path, name: str, entry: dict[str, object]) -> Path:
    """Write the policy with ``name`` known in another way than by their key."""
    value = json.loads((office.folder / "policy.json").read_bytes())
    value["signers"][name] = entry
    if entry["type"] == "sigstore":
        value["trusted_roots"] = {"instance": {"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}}
    (folder / "policy.json").write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    office.desk.bundle("policy", "show", folder / "policy.json")
    return folder / "policy.json"


def known_by_certificate(root: certified.Authority, name: str) -> dict[str, object]:
    return {"type": "x509", "alg": "ecdsa-p384-sha384", "roots": [certified.pem(root.own)], "subject": f"CN={name},O=Example"}


SIGSTORE = {"type": "sigstore", "identity": "bob@example.test", "issuer": "https://issuer.example.test", "trusted_root": "instance"}


def test_a_bare_key_does_not_count_where_the_policy_wants_a_certificate(office, bundle, tmp_path):
    entry = known_by_certificate(certified.root(), "bob")
    policy = another_kind(office, tmp_path, "bob", entry)
    refused(office, bundle, "4.threshold", f"1 of 2 needed signers (signed by alice; {BOB}: made with no key of this policy)", policy)


def test_a_bare_key_does_not_count_where_the_policy_wants_a_sigstore_identity(office, bundle, tmp_path):
    policy = another_kind(office, tmp_path, "bob", SIGSTORE)
    refused(office, bundle, "4.threshold", f"1 of 2 needed signers (signed by alice; {BOB}: made with no key of this policy)", policy)


def test_a_certificate_of_the_right_key_does_not_count_where_the_policy_wants_the_key(office, bundle):
    """Bob's own key, in a certificate that any authority wrote: nobody pinned that authority."""
    public = serialization.load_pem_public_key((office.folder / "keys" / "bob.pub").read_bytes())
    value = json.loads((bundle / BOB).read_bytes())
    chain = [{"rawBytes": base64.b64encode(certified.der(certified.root().certificate("bob", public))).decode()}]
    value["verificationMaterial"] = {"tlogEntries": [], "x509CertificateChain": {"certificates": chain}}
    write(bundle / BOB, value)
    refused(office, bundle, "4.threshold", f"1 of 2 needed signers (signed by alice; {BOB}: made with no certificate of this policy)")


def bare(office: Office, who: str) -> str:
    """Give the DER of someone's public key, as it is put where a certificate belongs."""
    public = serialization.load_pem_public_key((office.folder / "keys" / f"{who}.pub").read_bytes())
    return base64.b64encode(public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)).decode()


def test_a_bare_key_in_place_of_a_certificate_chain_is_refused(office, bundle, tmp_path):
    entry = known_by_certificate(certified.root(), "bob")
    policy = another_kind(office, tmp_path, "bob", entry)
    value = json.loads((bundle / BOB).read_bytes())
    value["verificationMaterial"] = {"tlogEntries": [], "x509CertificateChain": {"certificates": [{"rawBytes": bare(office, "bob")}]}}
    write(bundle / BOB, value)
    done = verify(office, bundle, policy, code=3)
    assert {reason["rule"] for reason in done.json["error"]} <= {"3.certificate", "4.threshold"}
    assert BOB in done.err


def logged() -> dict[str, object]:
    """Give an entry of a transparency log in the right form; there is no such log."""
    key, root = (hashlib.sha256(text).digest() for text in (b"log", b"root"))
    signature = base64.b64encode(key[:4] + bytes(64)).decode()
    note = f"log.example.test\n1\n{base64.b64encode(root).decode()}\n\n\N{EM DASH} log.example.test {signature}\n"
    proof = {"logIndex": "0", "rootHash": base64.b64encode(root).decode(), "treeSize": "1", "hashes": [], "checkpoint": {"envelope": note}}
    kind = {"kind": "dsse", "version": "0.0.1"}
    promise = {"integratedTime": "1764000000", "inclusionPromise": {"signedEntryTimestamp": base64.b64encode(bytes(64)).decode()}}
    said = {"logIndex": "0", "logId": {"keyId": base64.b64encode(key).decode()}, "canonicalizedBody": "e30=", "kindVersion": kind}
    return said | promise | {"inclusionProof": proof}


def test_a_bare_key_in_place_of_a_sigstore_certificate_is_refused(office, bundle, tmp_path):
    """As in GHSA-fx35-mq7g-6g98: the key stands where the certificate belongs, and the file has a log entry."""
    policy = another_kind(office, tmp_path, "bob", SIGSTORE)
    value = json.loads((bundle / BOB).read_bytes())
    value["verificationMaterial"] = {"certificate": {"rawBytes": bare(office, "bob")}, "tlogEntries": [logged()]}
    value["dsseEnvelope"]["signatures"] = [{"sig": value["dsseEnvelope"]["signatures"][0]["sig"]}]
    write(bundle / BOB, value)
    done = verify(office, bundle, policy, code=3)
    (reason,) = done.json["error"]
    assert reason["rule"] in {"3.signature", "4.threshold"}, reason
    assert BOB in reason["message"]


def test_a_certificate_signer_counts_beside_a_token(office, tmp_path):
    """The same office with carol known by a certificate for code signing instead of a key."""
    root = certified.root()
    office.desk.bundle("keygen", "carol-c", "--out", tmp_path, "--no-passphrase", "--algorithm", "p384")
    public = serialization.load_pem_public_key((tmp_path / "carol-c.pub").read_bytes())
    (tmp_path / "chain.pem").write_text(certified.pem(root.certificate("carol", public)))
    policy = another_kind(office, tmp_path, "carol", known_by_certificate(root, "carol"))
    bundle = shutil.copytree(office.folder / "first", tmp_path / "bundle")
    (bundle / ALICE).unlink()
    uri = f"x509:{tmp_path / 'chain.pem'}?key=file:{tmp_path / 'carol-c.key'}"
    office.desk.bundle("sign", bundle, "--key", uri, "--name", "carol")
    assert [found["signer"] for found in verify(office, bundle, policy).json["signatures"]] == ["bob", "carol"]
    shutil.copy(bundle / CAROL, tmp_path / "kept")
    (bundle / CAROL).unlink()
    office.desk.bundle("sign", bundle, "--key", f"file:{tmp_path / 'carol-c.key'}", "--name", "carol")
    sentence = f"1 of 2 needed signers (signed by bob; {CAROL}: made with no key of this policy)"
    refused(office, bundle, "4.threshold", sentence, policy)


def test_the_pin_and_passphrase_can_come_from_the_environment(office, bundle):
    for path in (ALICE, BOB):
        (bundle / path).unlink()
    given = (*office.desk.environment, ("AIRGAP_PASSPHRASE", PASSPHRASE), ("AIRGAP_PIN", softhsm.PIN))
    desk = Desk(office.folder, given)
    desk.bundle("sign", bundle, "--key", "file:keys/alice.key", "--serial", "9")
    desk.bundle("sign", bundle, "--key", office.token.uri(object="bundles"))
    assert sorted(os.listdir(bundle / "signatures")) == ["alice.sigstore.json", "bundles.sigstore.json"]
    assert verify(office, bundle).json["serial"] == 9


def test_the_recipe_for_a_token_in_the_document_works(office, tmp_path):
    """``docs/trust.md``, "Signing with a token", as it is written; the PINs that the tools would ask for come from wrappers."""
    section = (Path(__file__).resolve().parents[1] / "docs" / "trust.md").read_text().partition("## Signing with a token (PKCS#11)")[2]
    recipe = section.partition("```sh\n")[2].partition("```")[0]
    for name, given in {"softhsm2-util": f"--pin {softhsm.PIN} --so-pin {softhsm.SO_PIN}", "pkcs11-tool": f"--pin {softhsm.PIN}"}.items():
        wrapper = tmp_path / "bin" / name
        wrapper.parent.mkdir(exist_ok=True)
        wrapper.write_text(f'#!/bin/sh\nexec {find(name)} "$@" {given}\n')
        wrapper.chmod(0o755)
    shutil.copytree(office.folder / "first", tmp_path / "bundle")
    (tmp_path / "bundle" / BOB).unlink()
    names = ("--signer", f"alice={office.folder / 'keys' / 'alice.pub'}")
    office.desk.bundle("policy", "init", tmp_path / "policy.json", "--stream", "s", *names)
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    given = {"SOFTHSM2_CONF": str(tmp_path / "softhsm2.conf"), "AIRGAP_PIN": softhsm.PIN, "PATH": f"{tmp_path / 'bin'}:{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", recipe], cwd=tmp_path, env=office.desk.env() | given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {found["signer"] for found in verify(office, tmp_path / "bundle", tmp_path / "policy.json").json["signatures"]} == {"alice", "bob"}
