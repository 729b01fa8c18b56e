"""A policy's life, by the commands as people use them: made, changed, signed, followed by the next; and what a site makes of it."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from parts import bundles, installs
from parts.cli import Desk

from audit.verify.pinned import read
from audit.verify.succession import succeed
from bundler.policies import edit
from manifests import canonical
from manifests.policy import Policy
from manifests.upstream import Upstream

FIRST = "first.json"  # alice, bob and carol, one of whom is enough
PEOPLE = ("alice", "bob", "carol", "dave")
ROOT = {"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "tlogs": []}


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    desk = Desk(tmp_path_factory.mktemp("keys"))
    for name in PEOPLE:
        desk.bundle("keygen", name, "--no-passphrase")
    for name, algorithm in (("p384", "p384"), ("other", "p384"), ("quantum", "ml-dsa-87")):
        desk.bundle("keygen", name, "--no-passphrase", "--algorithm", algorithm)
    signers = [text for name in PEOPLE[:3] for text in ("--signer", f"{name}={name}.pub")]
    desk.bundle("policy", "init", FIRST, "--stream", bundles.STREAM, *signers)
    return desk.folder


@pytest.fixture
def desk(tmp_path: Path, keys: Path) -> Desk:
    shutil.copytree(keys, tmp_path / "keys")
    return Desk(tmp_path)


def people(*names: str) -> list[str]:
    return [text for name in names for text in ("--signer", f"{name}=keys/{name}.pub")]


def init(desk: Desk, *more: str, path: str = "p1.json", names: tuple[str, ...] = PEOPLE[:3], code: int = 0):
    return desk.bundle("policy", "init", path, "--stream", bundles.STREAM, *people(*names), *more, code=code)


def start(desk: Desk, *more: str) -> None:
    """Begin with a policy of alice, bob and carol, without a run of the program where it is the usual one."""
    if more:
        init(desk, *more)
    else:
        shutil.copy(desk.folder / "keys" / FIRST, desk.folder / "p1.json")


def policy(desk: Desk, *arguments: str, code: int = 0):
    return desk.bundle("policy", *arguments, code=code)


def loaded(desk: Desk, path: str = "p1.json") -> Policy:
    return Policy.load(desk.folder / path)


def sign(desk: Desk, path: str, *names: str, previous: str | None = None):
    done = None
    for name in names:
        done = policy(desk, "sign", path, "--key", f"file:keys/{name}.key", *(("--previous", previous) if previous else ()), "--json")
    return done.json if done else None


class TestMade:
    def test_with_a_threshold_and_required_people(self, desk):
        shown = init(desk, "--threshold", "2", "--require-any-of", "alice,carol", "--expires-in", "30").out
        made = loaded(desk)
        assert (made.version, made.previous, made.profile) == (1, None, "default")
        assert made.roles.bundle == made.roles.policy
        assert made.roles.bundle.require_any_of == (("alice", "carol"),)
        assert "accepted when 2 of alice, bob, carol, among them alice or carol, signed it" in shown
        assert "30 days from now" in shown
        assert "must be compared there" in shown

    def test_one_of_many_is_said_to_be_enough(self, desk):
        assert "One of them alone is enough" in init(desk).out
        assert "One of them alone" not in policy(desk, "set-threshold", "p1.json", "2").out

    def test_nothing_is_overwritten(self, desk):
        init(desk)
        assert "exists already" in init(desk, code=2).err
        (desk.folder / "p3.json.signatures").mkdir()
        assert "p3.json.signatures: exists already" in init(desk, path="p3.json", code=2).err

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            (("--threshold", "4"), "threshold 4 can never be met by 3 signers"),
            (("--require-any-of", "mallory"), "require_any_of names 'mallory'"),
            (("--require-any-of", ","), "names nobody"),
            (("--signer", "dave"), "not of the form alice=keys/alice.pub"),
            (("--signer", "alice=keys/dave.pub"), "each name once"),
            (("--signer", "dave=keys/alice.pub"), "have the same key"),
            (("--signer", "Dave=keys/dave.pub"), "signers"),
        ],
    )
    def test_what_can_never_work_is_refused_and_nothing_is_written(self, desk, more, words):
        said = init(desk, *more, code=2).err
        assert words in said
        assert "hint: " in said
        assert not (desk.folder / "p1.json").exists()

    def test_profile_cnsa_wants_two_of_both_algorithms(self, desk):
        assert "ml-dsa-87" in init(desk, "--profile", "cnsa", names=("p384", "other"), code=2).err
        assert "uses ecdsa-p256-sha256; profile cnsa takes" in init(desk, "--profile", "cnsa", names=("p384", "quantum", "alice"), code=2).err
        said = init(desk, "--profile", "cnsa", "--threshold", "1", names=("p384", "quantum"), code=2).err
        assert "threshold 1 is less than profile cnsa asks" in said
        assert "keygen NAME --algorithm" in init(desk, "--profile", "cnsa", names=("p384",), code=2).err
        shown = init(desk, "--profile", "cnsa", names=("p384", "quantum", "other")).out
        assert loaded(desk).roles.bundle.threshold == 2
        assert "one with ecdsa-p384-sha384 and one with ml-dsa-87" in shown


class TestChanged:
    def test_every_change_is_in_place_and_counts_nothing_up(self, desk):
        init(desk, "--threshold", "2")
        policy(desk, "add-signer", "p1.json", "--signer", "dave=keys/dave.pub", "--role", "policy", "--threshold", "3")
        policy(desk, "set-threshold", "p1.json", "1", "--role", "bundle", "--require-any-of", "alice,bob")
        policy(desk, "set", "p1.json", "--min-serial", "7", "--expires-in", "10", "--gate", "pickle=warn")
        policy(desk, "revoke", "p1.json", "carol", "--bundle", "sha256:" + "A" * 64, "--blob", "b" * 64)
        made = loaded(desk)
        assert (made.version, made.min_serial, made.gates) == (1, 7, {"pickle": "warn"})
        assert (made.roles.bundle.signers, made.roles.bundle.threshold) == (("alice", "bob", "carol"), 1)
        assert (made.roles.policy.signers, made.roles.policy.threshold) == (("alice", "bob", "carol", "dave"), 3)
        assert (made.revoked.signers, made.revoked.roots, made.revoked.blobs) == (("carol",), ("a" * 64,), ("b" * 64,))
        assert canonical.moment(made.expires) < dt.datetime.now(dt.UTC) + dt.timedelta(days=11)
        policy(desk, "set-threshold", "p1.json", "2", "--require-nobody")
        assert loaded(desk).roles.bundle.require_any_of == ()

    def test_a_revocation_that_locks_everybody_out_is_refused_with_what_to_do(self, desk):
        init(desk, "--threshold", "3")
        before = (desk.folder / "p1.json").read_bytes()
        said = policy(desk, "revoke", "p1.json", "carol", code=2).err
        assert "can never be met: 2 of 3 needed signers" in said
        assert "add-signer" in said
        assert "--threshold" in said
        assert (desk.folder / "p1.json").read_bytes() == before
        shown = policy(desk, "revoke", "p1.json", "carol", "--threshold", "2").out
        assert "REVOKED: counts no longer" in shown
        assert "A bundle is accepted when 2 of alice, bob signed it" in shown
        assert "The next version is accepted when 2 of alice, bob signed it" in shown
        assert policy(desk, "revoke", "p1.json", "carol").code == 0
        assert loaded(desk).revoked.signers == ("carol",)

    def test_whoever_is_required_cannot_be_revoked_before_somebody_else_may_stand_for_them(self, desk):
        init(desk, "--require-any-of", "alice")
        assert "none of alice" in policy(desk, "revoke", "p1.json", "alice", code=2).err
        policy(desk, "set-threshold", "p1.json", "1", "--require-any-of", "alice,bob")
        assert "among them bob, signed it" in policy(desk, "revoke", "p1.json", "alice").out

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("revoke", "p1.json"), "nothing to revoke"),
            (("revoke", "p1.json", "mallory"), "'mallory' is no signer of this policy"),
            (("revoke", "p1.json", "--bundle", "abc"), "no sha256"),
            (("set-threshold", "p1.json", "4"), "threshold 4 can never be met"),
            (("set-threshold", "p1.json", "1", "--require-any-of", "dave"), "who is not in the role"),
            (("set-threshold", "p1.json", "1", "--require-any-of", "bob", "--require-nobody"), "exclude each other"),
            (("set", "p1.json"), "nothing to change"),
            (("set", "p1.json", "--gate", "pickles=warn"), "gates"),
            (("set", "p1.json", "--gate", "pickle=ignore"), "gates"),
            (("set", "p1.json", "--profile", "cnsa"), "profile cnsa"),
            (("set", "p1.json", "--trusted-root", "public=root.json"), "no trusted root 'public'"),
            (("set", "p1.json", "--crl", "alice=root.json"), "nobody this policy knows by certificate"),
            (("add-signer", "p1.json"), "exactly one way"),
            (("add-signer", "p1.json", "--signer", "alice=keys/dave.pub"), "in the policy already"),
            (("add-signer", "p1.json", "--name", "dave"), "exactly one way"),
            (("add-signer", "p1.json", "--signer", "dave=keys/dave.pub", "--name", "dave"), "exactly one way"),
            (("add-signer", "p1.json", "--signer", "dave=root.json"), "not a PEM public key"),
            (("add-signer", "p1.json", "--name", "ci", "--trusted-root", "root.json", "--issuer", "https://i"), "exactly one of --identity"),
            (("add-signer", "p1.json", "--name", "ci", "--trusted-root", "root.json", "--identity", "x"), "whose word counts"),
            (("add-signer", "p1.json", "--name", "dave", "--certificate-root", "keys/dave.pub"), "an algorithm and a name"),
            (("upstream-model", "p1.json", "--match", "**", "--signed-by", "nobody"), "not among the identities"),
            (("remove", "p1.json", "identity", "nobody"), "no identity 'nobody'"),
            (("add-authority", "p1.json", "--name", "tsa", "--root", "keys/dave.pub"), "no PEM certificate"),
        ],
    )
    def test_what_is_refused_leaves_the_file(self, desk, arguments, words):
        start(desk)
        (desk.folder / "root.json").write_text(json.dumps(ROOT))
        before = (desk.folder / "p1.json").read_bytes()
        said = policy(desk, *arguments, code=2).err
        assert words in said
        assert "hint: " in said
        assert (desk.folder / "p1.json").read_bytes() == before

    def test_a_signer_known_by_sigstore_and_a_newer_root_for_them(self, desk):
        start(desk)
        (desk.folder / "root.json").write_text(json.dumps(ROOT))
        way = ("--issuer", "https://idp.example.test", "--trusted-root", "root.json", "--role", "bundle")
        policy(desk, "add-signer", "p1.json", "--name", "ci", "--repository", "https://git.example.test/o/r", *way)
        policy(desk, "add-signer", "p1.json", "--name", "release", "--identity", "https://git.example.test/o/r/x.yml@refs/heads/main", *way)
        made = loaded(desk)
        assert (made.signers["ci"].trusted_root, made.signers["release"].trusted_root) == ("ci", "ci")
        assert "ci" not in made.roles.policy.signers
        (desk.folder / "newer.json").write_text(json.dumps(ROOT | {"tlogs": [{}]}))
        shown = policy(desk, "set", "p1.json", "--trusted-root", "ci=newer.json").out
        assert loaded(desk).trusted_roots == {"ci": ROOT | {"tlogs": [{}]}}
        assert "by Sigstore identity, any workflow of https://git.example.test/o/r as stated by https://idp.example.test" in shown
        said = policy(desk, "remove", "p1.json", "root", "ci", code=2).err
        assert "names the trusted root 'ci', which is not there" in said

    def test_a_signer_known_by_certificate_is_read_from_it(self, desk):
        start(desk)
        certificates(desk.folder)
        way = ("--name", "erin", "--certificate-root", "root.pem")
        shown = policy(desk, "add-signer", "p1.json", *way, "--certificate", "leaf.pem").out
        made = loaded(desk).signers["erin"]
        assert (made.type, made.alg, made.subject, made.san, len(made.roots)) == ("x509", "ecdsa-p384-sha384", "CN=Erin,O=Example", None, 1)
        assert "leaf.pem: ecdsa-p384-sha384, subject CN=Erin,O=Example, also named erin@example.test" in shown
        assert "No timestamp authority is named" in shown
        said = ("--name", "by-mail", "--certificate-root", "root.pem", "--san", "other@example.test", "--algorithm", "ecdsa-p256-sha256")
        policy(desk, "add-signer", "p1.json", *said)
        assert loaded(desk).signers["by-mail"].san == "other@example.test"
        for wrong, words in (
            (("--subject", "CN=Eve"), "its subject is"),
            (("--san", "eve@example.test"), "does not bear the name"),
            (("--algorithm", "ml-dsa-87"), "its key is for ecdsa-p384-sha384"),
        ):
            assert words in policy(desk, "add-signer", "p1.json", *way, "--certificate", "leaf.pem", *wrong, code=2).err
        policy(desk, "add-authority", "p1.json", "--name", "tsa", "--root", "root.pem")
        policy(desk, "upstream-certificate", "p1.json", "--identity", "vendor", "--certificate-root", "root.pem", "--certificate", "leaf.pem")
        policy(desk, "upstream-model", "p1.json", "--match", "huggingface.co/org/*", "--signed-by", "vendor")
        said = policy(desk, "upstream-wheel", "p1.json", "--match", "**", "--signed-by", "vendor", code=2).err
        assert "attestations of wheels (PEP 740) are keyless only" in said
        (desk.folder / "root.json").write_text(json.dumps(ROOT))
        where = ("--issuer", "https://idp.example.test", "--trusted-root", "root.json")
        policy(desk, "upstream-sigstore", "p1.json", "--identity", "press", "--repository", "https://git.example.test/o/r", *where)
        policy(desk, "upstream-wheel", "p1.json", "--match", "**", "--signed-by", "press")
        policy(desk, "set", "p1.json", "--crl", "erin=crl.pem", "--crl", "vendor=crl.pem")
        policy(desk, "add-builder", "p1.json", "--id", "https://ci.example.test/runner", "--level", "2", "--signed-by", "alice")
        shown = policy(desk, "show", "p1.json").out
        for words in (
            "  huggingface.co/org/*: a signature by vendor", "Wheels are judged by the first", "  tsa: below CN=Root",
            "believed up to SLSA build level 2", "1 revocation lists pinned",
        ):  # fmt: skip
            assert words in shown
        assert "names 'vendor', who is not among the identities" in policy(desk, "remove", "p1.json", "identity", "vendor", code=2).err
        for what, name in (
            ("model", "huggingface.co/org/*"), ("wheel", "**"), ("identity", "vendor"), ("identity", "press"), ("root", "press"), ("authority", "tsa"),
            ("builder", "https://ci.example.test/runner"),
        ):  # fmt: skip
            policy(desk, "remove", "p1.json", what, name)
        made = loaded(desk)
        assert (made.upstream, made.timestamp_authorities, made.slsa) == (Upstream(), {}, ())

    def test_two_who_change_it_at_once_do_not_lose_a_change(self, desk):
        start(desk)
        tries = [("add-signer", "p1.json", "--signer", "dave=keys/dave.pub"), ("set", "p1.json", "--min-serial", "5")] * 2
        running = [desk.start("bundle", "policy", *arguments) for arguments in tries]
        codes = [process.wait(60) for process in running]
        for arguments, code in zip(tries, codes, strict=True):
            if code:
                policy(desk, *arguments, code=None)
        assert (loaded(desk).min_serial, "dave" in loaded(desk).signers) == (5, True)


class TestSigned:
    def test_everybody_signs_the_same_bytes_and_is_told_who_is_missing(self, desk):
        init(desk, "--threshold", "2")
        policy(desk, "rotate", "p1.json", "--out", "p2.json", "--expires-in", "700")
        policy(desk, "add-signer", "p2.json", "--signer", "dave=keys/dave.pub", "--threshold", "3")
        assert (loaded(desk, "p2.json").version, loaded(desk, "p2.json").previous) == (2, read(desk.folder / "p1.json").sha256)
        first = sign(desk, "p2.json", "alice", previous="p1.json")
        assert (first["old"]["missing"], first["new"]["missing"], first["ready"]) == ("1 of 2 needed signers", "1 of 3 needed signers", False)
        second = sign(desk, "p2.json", "bob", previous="p1.json")
        assert (second["old"]["missing"], second["new"]["missing"]) == (None, "2 of 3 needed signers")
        assert second["new"]["waiting"] == ["carol", "dave"]
        third = sign(desk, "p2.json", "dave", previous="p1.json")
        assert third["ready"]
        assert third["old"]["signed"] == ["alice", "bob"]
        payloads = {json.loads(raw)["dsseEnvelope"]["payload"] for _, raw in read(desk.folder / "p2.json").files}
        assert len(payloads) == 1
        new = read(desk.folder / "p2.json")
        assert succeed((desk.folder / "p1.json").read_bytes(), new.raw, new.files, dt.datetime.now(dt.UTC))
        again = sign(desk, "p2.json", "dave", previous="p1.json")
        assert (again["added"], len(again["signatures"])) == (False, 3)

    def test_the_first_version_may_be_signed_by_its_own(self, desk):
        init(desk, "--threshold", "2")
        assert sign(desk, "p1.json", "alice")["ready"] is False
        done = sign(desk, "p1.json", "bob")
        assert (done["ready"], done["old"]) == (True, None)

    def test_without_the_version_before_it_says_that_half_is_not_known(self, desk):
        start(desk)
        policy(desk, "rotate", "p1.json", "--out", "p2.json")
        assert sign(desk, "p2.json", "alice")["ready"] is False
        assert "not known; name its file with --previous" in policy(desk, "sign", "p2.json", "--key", "file:keys/bob.key").out

    def test_what_is_signed_is_final(self, desk):
        start(desk)
        sign(desk, "p1.json", "alice")
        before = (desk.folder / "p1.json").read_bytes()
        for arguments in (("add-signer", "p1.json", "--signer", "dave=keys/dave.pub"), ("set", "p1.json", "--min-serial", "1"), ("revoke", "p1.json", "bob")):
            said = policy(desk, *arguments, code=2).err
            assert "so it is final" in said
            assert "airgap-bundle policy rotate" in said
        assert (desk.folder / "p1.json").read_bytes() == before
        assert "it is final" in policy(desk, "show", "p1.json").out
        policy(desk, "rotate", "p1.json", "--out", "p2.json")
        policy(desk, "set", "p2.json", "--min-serial", "1")

    def test_one_that_was_changed_by_hand_after_it_was_signed_is_not_signed_again(self, desk):
        start(desk)
        sign(desk, "p1.json", "alice")
        changed = loaded(desk).changed(min_serial=1)
        (desk.folder / "p1.json").write_bytes(changed.to_bytes())
        assert "changed after it was signed" in policy(desk, "sign", "p1.json", "--key", "file:keys/bob.key", code=3).err

    def test_one_made_from_another_file_is_not_signed(self, desk):
        start(desk)
        init(desk, "--threshold", "2", path="other.json")
        policy(desk, "rotate", "p1.json", "--out", "p2.json")
        said = policy(desk, "sign", "p2.json", "--key", "file:keys/alice.key", "--previous", "other.json", code=2).err
        assert "does not follow other.json" in said
        assert not (desk.folder / "p2.json.signatures").exists()

    def test_a_signature_that_would_count_for_nothing_is_not_written(self, desk):
        start(desk)
        said = policy(desk, "sign", "p1.json", "--key", "file:keys/dave.key", code=2).err
        assert "would count for nothing" in said
        assert not (desk.folder / "p1.json.signatures").exists()
        policy(desk, "add-signer", "p1.json", "--signer", "dave=keys/dave.pub", "--role", "bundle")
        assert "dave may not sign policies" in policy(desk, "sign", "p1.json", "--key", "file:keys/dave.key", code=2).err

    def test_another_key_does_not_take_a_name_that_has_signed(self, desk):
        start(desk)
        sign(desk, "p1.json", "alice")
        said = policy(desk, "sign", "p1.json", "--key", "file:keys/bob.key", "--name", "alice", code=2).err
        assert "another key has signed under this name" in said

    def test_what_a_killed_signing_left_is_cleaned(self, desk):
        start(desk)
        folder = desk.folder / "p1.json.signatures"
        folder.mkdir()
        (folder / ".alice.sigstore.json.0123456789abcdef").write_bytes(b"{")
        assert sign(desk, "p1.json", "alice")["added"]
        assert [path.name for path in folder.iterdir()] == ["alice.sigstore.json"]

    def test_killed_anywhere_a_change_leaves_the_old_or_the_new(self, tmp_path, keys):
        desk = Desk(tmp_path)
        shutil.copytree(keys, tmp_path / "keys")
        start(desk)
        path, old = tmp_path / "p1.json", loaded(desk)
        for at in range(1, 20):
            killed = installs.run_and_kill(lambda: edit.change(path, lambda found: found.changed(min_serial=9)), at)
            assert Policy.load(path).min_serial in {0, 9}
            if not killed:
                break
            path.write_bytes(old.to_bytes())
        assert at > 1
        assert [name.name for name in tmp_path.glob(".p1*")] == []

    def test_its_hash_is_printed_to_copy_and_to_read_aloud(self, desk):
        start(desk)
        sha256 = read(desk.folder / "p1.json").sha256
        first, second = policy(desk, "hash", "p1.json").out.splitlines()
        assert (first, second.replace(" ", "")) == (sha256, sha256)
        assert {len(group) for group in second.split()} == {4}
        (desk.folder / "no.json").write_text("{}")
        policy(desk, "hash", "no.json", code=2)


def certificates(folder: Path) -> None:
    """Write root.pem, crl.pem and leaf.pem: an authority and somebody it knows."""
    now = dt.datetime.now(dt.UTC)
    root, leaf = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Root")])
    erin = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"), x509.NameAttribute(NameOID.COMMON_NAME, "Erin")])

    def certificate(subject: x509.Name, key, extension: x509.ExtensionType) -> bytes:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + dt.timedelta(days=9))
        return builder.add_extension(extension, critical=False).sign(root, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)

    (folder / "root.pem").write_bytes(certificate(name, root, x509.BasicConstraints(ca=True, path_length=None)))
    (folder / "leaf.pem").write_bytes(certificate(erin, leaf, x509.SubjectAlternativeName([x509.RFC822Name("erin@example.test")])))
    crl = x509.CertificateRevocationListBuilder().issuer_name(name).last_update(now).next_update(now + dt.timedelta(days=9))
    (folder / "crl.pem").write_bytes(crl.sign(root, hashes.SHA384()).public_bytes(serialization.Encoding.PEM))
