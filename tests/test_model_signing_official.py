"""The OpenSSF's own tool on both ends: what it signs is believed as the policy says, what we sign it accepts; and all that by command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from parts import bundles, hub, model_signing, models, omssig, stamping
from parts.cli import Desk
from parts.omssig import Shipped, policy
from parts.sigstore import ISSUER, PrivateSigstore, private_sigstore
from parts.upstream import OTHER, Key, Person, site_policy

from airgap_images.remote.http import Client
from audit.signers import LocalSigner
from audit.signers import file as key_files
from audit.verify import oms
from audit.verify.trust import Memory
from audit.verify.walk import Place, verify
from bundler import model_signatures as signing
from bundler import sign
from bundler.keyless import open_signer
from bundler.timestamp import Stamped
from manifests.statement import MODEL_SUFFIX

pytestmark = [pytest.mark.network, pytest.mark.parts]
WORKFLOW = "https://git.example.test/acme/models/.ci/release.yml@refs/heads/main"
FILES = models.llama()
FLIP = "model-00001-of-00003.safetensors"


def shipped(folder: Path, how: str, *options: str | Path, files: dict[str, bytes] = FILES) -> Shipped:
    """Sign a model with the official tool and carry it."""
    model = models.write(folder / "model", files)
    model_signing.sign(model, model / oms.FILE, how, *options)
    return Shipped(folder / "layout", {str(path.relative_to(model)): path.read_bytes() for path in model.rglob("*") if path.is_file()})


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


# What it signs


@pytest.mark.parametrize("curve", ["p256", "p384"])
def test_what_it_signs_with_a_key_is_believed_by_key(tmp_path, curve):
    key_files.make("vendor", tmp_path, kind=curve, passphrase=None)
    private = key_files.load(tmp_path / "vendor.key", lambda _: "")
    vendor = Key("vendor", private, "ecdsa-p256-sha256" if curve == "p256" else "ecdsa-p384-sha384")
    model = shipped(tmp_path, "key", "--private_key", tmp_path / "vendor.key", files=FILES | {"a.b/x": b"1", "a/x": b"2"})
    assert model.verdict(policy(vendor)).result == "good"
    assert model.verdict(policy(OTHER)).result == "wrong"
    model.files[FLIP] = flipped(model.files[FLIP])
    assert model.verdict(policy(vendor)).result == "wrong"


def authority(name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None, *, leaf: bool = False):
    """Make a certificate: of an authority, or of somebody who signs code."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    off = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(not leaf, None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=leaf, key_cert_sign=not leaf, crl_sign=not leaf, **off), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key((issuer[1] if issuer else key).public_key()), critical=False)
    )
    if leaf:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    return made.sign(issuer[1] if issuer else key, hashes.SHA256()), key


class Chain:
    """A root, an intermediate and a signer, with their files."""

    def __init__(self, folder: Path) -> None:
        self.root = authority("Acme Root", None)
        self.middle = authority("Acme Signing", self.root)
        self.leaf = authority("Acme Models", self.middle, leaf=True)
        self.folder = folder
        for name, (certificate, _) in {"root": self.root, "middle": self.middle, "leaf": self.leaf}.items():
            (folder / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))

    @property
    def key(self) -> Path:
        from cryptography.hazmat.primitives import serialization

        path = self.folder / "leaf.key"
        form = serialization.PrivateFormat.PKCS8
        path.write_bytes(self.leaf[1].private_bytes(Encoding.PEM, form, serialization.NoEncryption()))
        path.chmod(0o600)
        return path

    @property
    def revoked(self) -> str:
        """The list of the intermediate, with the signer's certificate on it as of now: after it was used."""
        issuer, key = self.middle
        now = datetime.now(UTC)
        entry = x509.RevokedCertificateBuilder().serial_number(self.leaf[0].serial_number).revocation_date(now).build()
        made = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject).last_update(now).next_update(now + timedelta(days=1))
        made = made.add_revoked_certificate(entry).add_extension(x509.CRLNumber(1), critical=False)
        return made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    @property
    def entry(self) -> dict[str, object]:
        root = (self.folder / "root.pem").read_text()
        return {"type": "x509", "alg": "ecdsa-p256-sha256", "roots": [root], "subject": "CN=Acme Models"}


def test_what_it_signs_with_a_certificate_is_believed_below_the_root(tmp_path):
    chain, other = Chain(tmp_path), authority("Acme Root", None)
    options = ("--private_key", chain.key, "--signing_certificate", tmp_path / "leaf.pem", "--certificate_chain", tmp_path / "middle.pem")
    model = shipped(tmp_path, "certificate", *options)
    rule = {"match": "hub.example.org/acme/*", "signed_by": ["acme"]}
    found = model.verdict(site_policy({"identities": {"acme": chain.entry}, "models": [rule]}))
    assert found.result == "good", found.reason
    assert "the certificate was judged as of its start" in found.reason
    wrong = chain.entry | {"roots": [other[0].public_bytes(Encoding.PEM).decode()]}
    assert model.verdict(site_policy({"identities": {"acme": wrong}, "models": [rule]})).result == "wrong"
    renamed = chain.entry | {"subject": "CN=Acme Others"}
    assert "bears another name" in model.verdict(site_policy({"identities": {"acme": renamed}, "models": [rule]})).reason
    revoked = chain.entry | {"crls": [chain.revoked]}
    assert "revoked" in model.verdict(site_policy({"identities": {"acme": revoked}, "models": [rule]})).reason
    model.files[FLIP] = flipped(model.files[FLIP])
    assert model.verdict(site_policy({"identities": {"acme": chain.entry}, "models": [rule]})).result == "wrong"


@pytest.fixture(scope="module")
def private() -> Iterator[PrivateSigstore]:
    with private_sigstore() as started:
        yield started


def test_what_it_signs_with_an_identity_is_believed_by_that_identity(tmp_path, private):
    (tmp_path / "trust.json").write_text(json.dumps(private.trust_config()))
    token = private.token(WORKFLOW)
    model = shipped(tmp_path, "sigstore", "--trust_config", tmp_path / "trust.json", "--identity_token", token)
    ci = Person("ci", WORKFLOW, ISSUER, private.trusted_root())
    found = model.verdict(policy(ci))
    assert (found.result, found.reason) == ("good", "signed as ci; every carried file is as signed")
    fork = Person("ci", WORKFLOW.replace("acme", "fork"), ISSUER, private.trusted_root())
    assert model.verdict(policy(fork)).result == "wrong"
    model.files[FLIP] = flipped(model.files[FLIP])
    assert model.verdict(policy(ci)).result == "wrong"


# What we sign


def installed(folder: Path, signer: LocalSigner) -> tuple[Path, Path]:
    """Sign the models of a bundle; return the model's files as they stand after an install, and our signature over them."""
    made = omssig.bundle(folder / "b", {"local": ("model", FILES)})
    sign.sign(made, bundles.site(folder / "keys").key("alice"), bundles.terms(1))
    (name,) = signing.sign(made, signer).made
    return models.write(folder / "stands", FILES), made / name


def test_it_accepts_what_we_sign_with_a_chain_of_certificates(tmp_path):
    chain = Chain(tmp_path)
    key = key_files.open_signer(str(chain.key), lambda _: "")
    ders = tuple(certificate.public_bytes(Encoding.DER) for certificate, _ in (chain.leaf, chain.middle))
    model, signature = installed(tmp_path, LocalSigner("acme", key.public_key, key.sign, ders))
    accepted, said = model_signing.verified(model, signature, "certificate", "--certificate_chain", tmp_path / "root.pem")
    assert accepted, said
    (model / FLIP).write_bytes(flipped(FILES[FLIP]))
    assert not model_signing.verified(model, signature, "certificate", "--certificate_chain", tmp_path / "root.pem")[0]


def test_it_accepts_what_we_sign_with_a_timestamp(tmp_path):
    chain = Chain(tmp_path)
    key = key_files.open_signer(str(chain.key), lambda _: "")
    ders = tuple(certificate.public_bytes(Encoding.DER) for certificate, _ in (chain.leaf, chain.middle))
    with stamping.authority(tmp_path / "tsa") as tsa:
        signer = Stamped(LocalSigner("acme", key.public_key, key.sign, ders), (tsa.url,), Client())
        model, signature = installed(tmp_path, signer)
    assert json.loads(signature.read_bytes())["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"]
    accepted, said = model_signing.verified(model, signature, "certificate", "--certificate_chain", tmp_path / "root.pem")
    assert accepted, said


def test_it_accepts_what_we_sign_with_an_identity(tmp_path, private):
    (tmp_path / "trust.json").write_text(json.dumps(private.trust_config()))
    signer = open_signer(str(tmp_path / "trust.json"), lambda _: private.token(WORKFLOW))
    model, signature = installed(tmp_path, signer.named("ci"))
    how = (model, signature, "sigstore", "--trust_config", tmp_path / "trust.json", "--identity_provider", ISSUER, "--identity")
    accepted, said = model_signing.verified(*how, WORKFLOW)
    assert accepted, said
    assert not model_signing.verified(*how, WORKFLOW.replace("acme", "fork"))[0]
    (model / FLIP).write_bytes(flipped(FILES[FLIP]))
    assert not model_signing.verified(*how, WORKFLOW)[0]


def test_a_keyless_model_signature_counts_by_the_policy_s_identity(tmp_path, private):
    (tmp_path / "trust.json").write_text(json.dumps(private.trust_config()))
    signer = open_signer(str(tmp_path / "trust.json"), lambda _: private.token(WORKFLOW))
    _, signature = installed(tmp_path, signer.named("ci"))
    site = bundles.site(tmp_path / "more", threshold=1)
    folder = signature.parents[1]
    entries = site.policy.model_dump(mode="json", exclude_none=True)
    alice = {"alice": bundles.signer_entry((tmp_path / "keys" / "alice.pub").read_text())}
    ci = {"type": "sigstore", "identity": WORKFLOW, "issuer": ISSUER, "trusted_root": "ours"}
    role = {"threshold": 1, "signers": ["alice", "ci"]}
    believed = site.policy.changed(
        signers=alice | {"ci": ci}, roles=entries["roles"] | {"bundle": role, "policy": role}, trusted_roots={"ours": private.trusted_root()}
    )
    found = verify(Place.of(folder), believed.to_bytes(), memory=Memory(), now=bundles.NOW)
    assert [(entry.model, entry.signer) for entry in found.models] == [("local", "ci")]
    fork = believed.changed(signers=alice | {"ci": ci | {"identity": WORKFLOW.replace("acme", "fork")}})
    found = verify(Place.of(folder), fork.to_bytes(), memory=Memory(), now=bundles.NOW)
    assert (found.models, [entry.file for entry in found.ignored]) == ((), [f"signatures/local.ci{MODEL_SUFFIX}"])


# By command line: the whole way


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A hub that publishes a model its makers signed, a local model somebody signed, and the policy that names both."""
    folder = tmp_path_factory.mktemp("models")
    key_files.make("maker", folder, passphrase=None)
    key_files.make("other", folder, passphrase=None)
    for name in ("mini", "published"):
        model = models.write(folder / name, FILES | {".gitattributes": b"*.safetensors filter=lfs\n"})
        model_signing.sign(model, model / oms.FILE, "key", "--private_key", folder / "maker.key")
    with hub.Hub() as server:
        desk = Desk(folder, (("HF_ENDPOINT", server.endpoint), ("HF_HUB_DISABLE_TELEMETRY", "1")))
        held = {str(path.relative_to(folder / "published")): path.read_bytes() for path in (folder / "published").rglob("*") if path.is_file()}
        server.publish("Acme/Tiny", held)
        desk.trust()
        desk.bundle("policy", "upstream-key", "policy.json", "--identity", "maker=maker.pub")
        for match in ("127.0.0.1:*/acme/*", "mini"):
            desk.bundle("policy", "upstream-model", "policy.json", "--match", match, "--signed-by", "maker")
        yield desk


def intent(desk: Desk, *, leave: str = 'exclude: [".gitattributes"], ') -> None:
    desk.write_intent(f"name: tiny, kind: huggingface, {leave}repo: Acme/Tiny", f"name: mini, kind: model, {leave}path: ./mini")
    desk.bundle("lock", "bundle.yaml")


def built(desk: Desk, out: str, *options: str, code: int = 0) -> str:
    done = desk.bundle("build", "bundle.lock.json", "--out", out, *options, code=code)
    return done.out + done.err


def test_the_whole_way_by_command_line(desk):
    intent(desk)
    built(desk, "bundle", "--policy", "policy.json")
    built(desk, "unjudged", code=5)
    for name in ("index.json", "SHA256SUMS"):
        assert (desk.folder / "bundle" / name).read_bytes() == (desk.folder / "unjudged" / name).read_bytes()
    desk.sign("bundle")
    assert sorted(path.name for path in (desk.folder / "bundle" / "signatures").glob(f"*{MODEL_SUFFIX}")) == [
        f"{model}.{who}{MODEL_SUFFIX}" for model in ("mini", "tiny") for who in ("alice", "bob")
    ]
    said = desk.audit("verify", "bundle", "--policy", "policy.json", isolated=True).out
    assert "model tiny signed by alice: ecdsa-p256-sha256" in said
    assert "model tiny: upstream signatures good: signed by maker; every carried file is as signed" in said
    desk.audit("install", "bundle", "--policy", "policy.json", "--store", "store", "--copy", isolated=True, code=5)
    (kept,) = (desk.folder / "store" / "bundles").iterdir()
    (snapshot,) = (desk.folder / "store" / "current" / "tiny").glob("models--*/snapshots/*")
    for model, signature in ((snapshot, "tiny.alice"), (desk.folder / "store" / "current" / "mini", "mini.bob")):
        public = desk.folder / "keys" / f"{signature.partition('.')[2]}.pub"
        accepted, text = model_signing.verified(model, kept / "signatures" / f"{signature}{MODEL_SUFFIX}", "key", "--public_key", public)
        assert accepted, text
    desk.audit("check", "--store", "store", isolated=True, code=5)
    found = desk.audit("evidence", "--store", "store", "--out", "evidence", isolated=True, code=None)
    assert found.code == 5, found.err


def test_no_models_signs_none(desk):
    intent(desk)
    built(desk, "plain", "--policy", "policy.json")
    said = desk.bundle("sign", "plain", "--key", "file:keys/alice.key", "--serial", "2", "--no-models", "--json").json
    assert said["models"] is None
    assert not list((desk.folder / "plain" / "signatures").glob(f"*{MODEL_SUFFIX}"))


def test_a_model_whose_files_were_changed_is_refused_at_build_with_a_policy_and_without_one(desk):
    path = desk.folder / "mini" / FLIP
    data = path.read_bytes()
    path.write_bytes(flipped(data))
    try:
        intent(desk)
        for options in (("--policy", "policy.json"), ()):
            said = built(desk, f"flipped-{len(options)}", *options, code=4)
            assert f"{FLIP}: is sha256" in said
            assert "[upstream.wrong]" in said
            assert not (desk.folder / f"flipped-{len(options)}" / "index.json").exists()
    finally:
        path.write_bytes(data)


def test_a_model_signed_by_somebody_else_or_not_wholly_is_refused_under_the_policy_only(desk):
    signature = desk.folder / "mini" / oms.FILE
    kept = signature.read_bytes()
    model_signing.sign(desk.folder / "mini", signature, "key", "--private_key", desk.folder / "other.key")
    try:
        intent(desk)
        assert "mini: no valid signature with the key of maker" in built(desk, "other", "--policy", "policy.json", code=4)
        built(desk, "other", code=5)
    finally:
        signature.write_bytes(kept)
    intent(desk, leave="")
    said = built(desk, "whole", "--policy", "policy.json", code=4)
    assert '`exclude: [".gitattributes"]` leaves that out' in said
    assert said.count("carried and not signed") == 2


def test_a_bundle_that_was_signed_nevertheless_is_refused_inside(desk):
    """The builder had no policy; the site has one."""
    signature = desk.folder / "mini" / oms.FILE
    kept = signature.read_bytes()
    model_signing.sign(desk.folder / "mini", signature, "key", "--private_key", desk.folder / "other.key")
    try:
        intent(desk)
        built(desk, "unasked", code=5)
    finally:
        signature.write_bytes(kept)
    desk.sign("unasked", serial=9)
    assert "upstream.wrong" in desk.audit("verify", "unasked", "--policy", "policy.json", code=4).out
    desk.audit("install", "unasked", "--policy", "policy.json", "--store", "never", code=4)
    shutil.rmtree(desk.folder / "never", ignore_errors=True)
