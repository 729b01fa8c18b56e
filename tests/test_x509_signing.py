"""Signing with a certificate: `x509:CHAIN.pem?key=URI`, in the library and by the two commands as users run them."""

from __future__ import annotations

import base64
import json
import subprocess
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509 as certificates
from parts import authority, softhsm, stamping
from parts.authority import DAY, NOW, SERVER, Party, known, named, usage
from parts.cli import Desk
from parts.images import need

from audit import signers
from audit.signers import file as key_files
from audit.verify import x509
from manifests import canonical
from manifests.errors import UsageError
from manifests.publickey import load_public_key
from manifests.statement import Envelope

KINDS = ("p256", "p384", "ml-dsa-87")


@pytest.fixture(scope="module")
def root() -> Party:
    return authority.root()


@pytest.fixture(scope="module")
def office(root) -> Party:
    return root.below("Office")


def nothing(what: str) -> str:
    pytest.fail(f"asked for {what}")


def refused(rest: str, ask=nothing) -> str:
    with pytest.raises(UsageError) as caught:
        signers.signer(f"x509:{rest}", ask)
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("kind", KINDS)
def test_who_signs_with_a_certificate(kind, tmp_path):
    root = authority.root(kind)
    office = root.below("Office", kind)
    bob = office.signer("Bob Example", kind)
    chain, key = bob.write(tmp_path, "bob", office)
    signer = signers.signer(f"x509:{chain}?key=file:{key}", nothing)
    assert (signer.name, signer.kind) == ("bob-example", "x509")
    envelope = signer.envelope(b"{}")
    assert envelope.chain == (bob.der, office.der)
    assert Envelope.parse(envelope.to_bytes(), "x") == envelope
    assert signer.made(envelope)
    assert not signer.made(office.signer("Bob Example", kind).envelope(b"{}", office))
    assert x509.leaf(known(root, bob), envelope.chain, NOW)
    assert signer.named("robert").envelope(b"{}").chain == envelope.chain


def test_a_root_in_the_file_is_left_out(root, office, tmp_path):
    bob = office.signer("bob")
    chain, key = bob.write(tmp_path, "bob", office, root)
    assert signers.signer(f"x509:{chain}?key=file:{key}", nothing).chain == (bob.der, office.der)
    direct = root.signer("bob")
    chain, key = direct.write(tmp_path, "direct", root)
    assert signers.signer(f"x509:{chain}?key=file:{key}", nothing).chain == (direct.der,)


@pytest.mark.parametrize("written", [lambda uri: uri, quote, lambda uri: quote(uri, safe="")])
def test_the_key_may_be_percent_encoded(root, tmp_path, written):
    folder = tmp_path / "a folder"
    folder.mkdir()
    chain, key = root.signer("bob").write(folder, "bob")
    assert signers.signer(f"x509:{chain}?key={written(f'file:{key}')}", nothing).name == "bob"


def test_a_key_with_a_passphrase(root, tmp_path):
    private, public = key_files.make("bob", tmp_path, kind="p384", passphrase="correct horse")
    bob = root.issue(named("bob"), load_public_key(public.read_text()))
    (tmp_path / "bob.pem").write_text(Party(bob, None).pem)
    asked: list[str] = []

    def ask(what: str) -> str:
        asked.append(what)
        return "correct horse"

    assert signers.signer(f"x509:{tmp_path / 'bob.pem'}?key=file:{private}", ask).envelope(b"{}")
    assert asked == [f"passphrase of {private}"]


@pytest.mark.parts
def test_a_key_in_a_token(root, tmp_path):
    """The URI of a token has a `?` and percent-encoding of its own; it is taken as it is."""
    token = softhsm.token(tmp_path / "hsm")
    token.make("p384", "sign bundles", "01")
    uri = token.uri(object="sign bundles")
    with token.here():
        own = signers.signer(uri, lambda _: softhsm.PIN)
        bob = Party(root.issue(named("bob"), own.public_key), None)
        (tmp_path / "bob.pem").write_text(bob.pem)
        for written in (uri, quote(uri, safe="")):
            signer = signers.signer(f"x509:{tmp_path / 'bob.pem'}?key={written}", lambda _: softhsm.PIN)
            assert signer.envelope(b"{}").chain == (bob.der,)
            assert signer.name == "bob"


@pytest.mark.parametrize(
    ("name", "used"),
    [("Bob Müller (QA)", "bob-m-ller-qa"), ("../../etc/passwd", "etc-passwd"), ("\u4e2d\u6587", "key"), ("", "key"), ("B" * 64, "b" * 64)],
)
def test_what_the_signature_file_is_called(root, tmp_path, name, used):
    if name:
        bob = root.signer(name)
    else:
        bob = Party(root.issue(certificates.Name([]), (key := authority.KEYS["p384"]()).public_key(), san=authority.mail("b@example.org")), key)
    chain, key = bob.write(tmp_path, "key")
    assert signers.signer(f"x509:{chain}?key=file:{key}", nothing).name == used


def test_a_uri_that_names_no_chain_or_no_key_at_hand(root, tmp_path):
    chain, key = root.signer("bob").write(tmp_path, "bob")
    for rest in (
        f"{chain}", f"?key=file:{key}", f"{chain}?key=", f"{chain}?key={key}", f"{chain}?key=sigstore:", f"{chain}?key=http://example.org/",
        f"{chain}?key=x509:{chain}?key=file:{key}", f"{chain}&key=file:{key}", f"{chain}?key=file%253A{key}",
    ):  # fmt: skip
        assert refused(rest) == "key x509: names no file of certificates, or no key at hand"
    assert str(tmp_path / "none.pem") in refused(f"{tmp_path / 'none.pem'}?key=file:{key}")
    assert str(tmp_path / "none.key") in refused(f"{chain}?key=file:{tmp_path / 'none.key'}")


def test_a_key_of_somebody_else(root, office, tmp_path):
    chain, _ = office.signer("bob").write(tmp_path, "bob", office)
    _, other = office.signer("carol").write(tmp_path, "carol")
    assert "the key is not that of the first certificate, CN=bob,O=Example" in refused(f"{chain}?key=file:{other}")
    _, upper = office.write(tmp_path, "office")
    assert "the key is not that of the first certificate" in refused(f"{chain}?key=file:{upper}")


def test_certificates_in_another_order(root, office, tmp_path):
    bob = office.signer("bob")
    _, key = bob.write(tmp_path, "bob")
    for above in ((root, office), (root,), (office, office), (authority.root(name="Office"),)):
        chain, _ = bob.write(tmp_path, "bob", *above)
        assert "was not issued by the certificate after it" in refused(f"{chain}?key=file:{key}")
    chain = tmp_path / "turned.pem"
    chain.write_text(office.pem + bob.pem)
    assert "it is the certificate of an authority, not of a signer" in refused(f"{chain}?key=file:{key}")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"purposes": None}, "it is not for signing code"),
        ({"purposes": [SERVER]}, "it is not for signing code"),
        ({"usage": None}, "it is not for signatures"),
        ({"usage": usage("key_encipherment")}, "it is not for signatures"),
        ({"ca": True, "purposes": [authority.CODE]}, "it is the certificate of an authority"),
    ],
)
def test_a_certificate_that_no_site_would_accept(root, tmp_path, fields, words):
    chain, key = root.signer("bob", **fields).write(tmp_path, "bob")
    assert f"the first certificate: {words}" in refused(f"{chain}?key=file:{key}")


def test_a_chain_that_no_site_would_accept(root, tmp_path):
    above = [root]
    for at in range(x509.MAX_BETWEEN + 1):
        above.insert(0, above[0].below(f"Office {at}"))
    chain, key = above[0].signer("bob").write(tmp_path, "bob", *above)
    assert "4 authorities between signer and root; at most 3 are accepted" in refused(f"{chain}?key=file:{key}")


def test_a_file_that_holds_no_certificate(root, tmp_path):
    chain, key = root.signer("bob").write(tmp_path, "bob")
    for text in ("", "x", key.read_text(), chain.read_text().replace("MII", "AAA"), chain.read_text() + root.pem[:200], chain.read_text() + key.read_text()):
        chain.write_text(text)
        assert str(chain) in refused(f"{chain}?key=file:{key}")
    ed25519 = key_files._generate("ed25519")
    made = Party(root.issue(named("bob"), ed25519.public_key()), ed25519)
    chain, key = made.write(tmp_path, "bob")
    assert "Ed25519" in refused(f"{chain}?key=file:{key}")


# --- by the two commands ------------------------------------------------------------------------------------------------


class Office:
    """A desk, an authority of certificates and one of times, alice with a key, bob with a certificate, a policy that wants both."""

    def __init__(self, folder: Path, tsa: stamping.Authority) -> None:
        self.desk, self.folder, self.tsa = Desk(folder), folder, tsa
        self.root = authority.root()
        self.middle = self.root.below("Office")
        self.bob = self.middle.signer("bob", until=NOW + timedelta(hours=12))
        self.chain, self.key = self.bob.write(folder, "bob", self.middle)
        for name, party in {"root": self.root, "middle": self.middle}.items():
            (folder / f"{name}.pem").write_text(party.pem)
        for name, text in {"middle": self.middle.crl(), "root": self.root.crl()}.items():
            (folder / f"{name}.crl").write_text(text)
        self.desk.bundle("keygen", "alice", "--out", "keys", "--no-passphrase")
        self.desk.bundle("policy", "init", "policy.json", "--stream", "s", "--signer", "alice=keys/alice.pub")
        known = ("--certificate-root", "root.pem", "--certificate", "bob.pem", "--crl", "middle.crl", "--crl", "root.crl")
        self.desk.bundle("policy", "add-signer", "policy.json", "--name", "bob", *known, "--threshold", "2")
        self.desk.bundle("policy", "add-authority", "policy.json", "--name", "clock", "--root", stamping.written(tsa))
        (folder / "docs").mkdir()
        (folder / "docs" / "a.txt").write_text("a")
        self.desk.write_intent("name: docs, kind: path, path: ./docs")
        self.desk.bundle("lock", "bundle.yaml")

    @property
    def uri(self) -> str:
        return f"x509:{self.chain}?key=file:{self.key}"

    def bundle(self, name: str, *more: str) -> Path:
        """Build a bundle and have alice and bob sign it."""
        self.desk.bundle("build", "bundle.lock.json", "--out", name)
        self.desk.bundle("sign", name, "--key", "file:keys/alice.key", "--serial", "1")
        self.desk.bundle("sign", name, "--key", self.uri, "--policy", "policy.json", *more)
        return self.folder / name

    def verify(self, name: str, *, after: timedelta = timedelta(), code: int = 0):
        now = canonical.stamp(NOW + after)
        return self.desk.audit("verify", name, "--policy", "policy.json", "--now", now, "--json", code=code).json


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("office")
    with stamping.authority(folder / "tsa") as tsa:
        yield Office(folder, tsa)


def test_signed_with_a_certificate_verified_and_told(running):
    folder = running.bundle("plain")
    assert (folder / "signatures" / "bob.sigstore.json").is_file()
    shown = running.verify("plain")
    bob = next(entry for entry in shown["signatures"] if entry["signer"] == "bob")
    assert (bob["kind"], bob["algorithm"], bob["time"], bob["notes"]) == ("x509", "ecdsa-p384-sha384", None, [])
    assert bob["trustedBy"].startswith("the certificate of CN=bob,O=Example below root CN=Root,O=Example (sha256 ")
    text = running.desk.audit("verify", "plain", "--policy", "policy.json").out
    assert "CN=bob,O=Example" in text
    again = running.desk.bundle("sign", "plain", "--key", running.uri, "--json").json
    assert again["added"] is False
    (reason,) = running.verify("plain", after=DAY, code=3)["error"]
    assert (reason["rule"], "bob.sigstore.json: claims to be by bob: CN=bob,O=Example is valid from" in reason["message"]) == ("3.certificate", True)


def test_signed_with_a_certificate_and_a_timestamp(running):
    running.bundle("stamped", "--timestamp", running.tsa.url)
    for after in (timedelta(), 20 * DAY):
        bob = next(entry for entry in running.verify("stamped", after=after)["signatures"] if entry["signer"] == "bob")
        assert abs(canonical.moment(bob["time"]) - NOW) < timedelta(minutes=30)
    now = canonical.stamp(NOW + 20 * DAY)
    text = running.desk.audit("verify", "stamped", "--policy", "policy.json", "--now", now).out
    assert f"made {bob['time']}, as a log or timestamp authority of the policy states" in " ".join(text.split())
    assert any("was due to be replaced" in note for note in bob["notes"])


def test_openssl_accepts_what_was_made(running, tmp_path):
    """The signature, the chain and the timestamp, each as openssl checks it; the recipe for people is in docs/verify-by-hand.md."""
    need("openssl")
    made = json.loads((running.bundle("seconded", "--timestamp", running.tsa.url) / "signatures" / "bob.sigstore.json").read_bytes())
    material, envelope = made["verificationMaterial"], made["dsseEnvelope"]
    own, above = (base64.b64decode(part["rawBytes"]) for part in material["x509CertificateChain"]["certificates"])
    (stamp,) = material["timestampVerificationData"]["rfc3161Timestamps"]
    payload, signature = base64.b64decode(envelope["payload"]), base64.b64decode(envelope["signatures"][0]["sig"])
    pae = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
    files = {"own.der": own, "above.der": above, "sig": signature, "pae": pae, "stamp": base64.b64decode(stamp["signedTimestamp"])}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    def openssl(*arguments: str | Path) -> str:
        return subprocess.run(["openssl", *map(str, arguments)], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    openssl("x509", "-inform", "DER", "-in", "above.der", "-out", "above.pem")
    openssl("x509", "-inform", "DER", "-in", "own.der", "-out", "own.pem")
    assert "OK" in openssl("verify", "-CAfile", running.folder / "root.pem", "-untrusted", "above.pem", "-purpose", "any", "-x509_strict", "own.pem")
    assert "Code Signing" in openssl("x509", "-in", "own.pem", "-noout", "-ext", "extendedKeyUsage")
    (tmp_path / "own.pub").write_text(openssl("x509", "-in", "own.pem", "-noout", "-pubkey"))
    assert "Verified OK" in openssl("dgst", "-sha384", "-verify", "own.pub", "-signature", "sig", "pae")
    openssl("ts", "-verify", "-data", "sig", "-in", "stamp", "-CAfile", running.folder / "tsa" / "time-root.pem")


def test_an_authority_of_times_that_does_not_answer(running):
    desk = running.desk
    desk.bundle("build", "bundle.lock.json", "--out", "silent")
    gone = running.tsa.url.replace("/tsa", "/gone")
    options = ("--key", running.uri, "--serial", "1", "--timestamp", gone)
    said = desk.bundle("sign", "silent", *options, "--json", code=1).json["error"][0]
    assert "404" in said["message"]
    assert not list((running.folder / "silent" / "signatures").glob("*"))
    desk.bundle("sign", "silent", "--key", running.uri, "--serial", "1")
    said = desk.bundle("sign", "silent", "--key", running.uri, "--timestamp", running.tsa.url, "--json", code=2).json["error"][0]
    assert "has signed already, without a timestamp" in said["message"]


def test_a_policy_that_names_no_such_authority(running, tmp_path):
    desk = running.desk
    desk.bundle("build", "bundle.lock.json", "--out", "unnamed")
    raw = json.loads((running.folder / "policy.json").read_bytes())
    del raw["timestamp_authorities"]
    (tmp_path / "policy.json").write_text(json.dumps(raw))
    options = ("--key", running.uri, "--serial", "1", "--timestamp", running.tsa.url, "--policy", tmp_path / "policy.json")
    said = desk.bundle("sign", "unnamed", *options, "--json", code=3).json["error"][0]
    assert "no timestamp authority of the policy made" in said["message"]
    assert not list((running.folder / "unnamed" / "signatures").glob("*"))


def test_a_policy_is_signed_with_a_certificate_too(running):
    running.desk.bundle("policy", "sign", "policy.json", "--key", running.uri)
    assert (running.folder / "policy.json.signatures" / "bob.sigstore.json").is_file()
