"""Signing keys: made once, private, found by a URI, and refused with the next step when they are not what they should be."""

from __future__ import annotations

import os
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from audit import signers
from audit.signers import file as keys
from manifests.errors import InvalidFileError, UsageError
from manifests.publickey import algorithm_of, key_id, load_public_key, verifies

SECRET = "correct horse"


def ask(answer: str = SECRET):
    def answered(_name: str) -> str:
        ask.asked.append(_name)
        return answer

    ask.asked = []
    return answered


@pytest.mark.parametrize(("curve", "algorithm"), [("p256", "ecdsa-p256-sha256"), ("p384", "ecdsa-p384-sha384"), ("ed25519", "ed25519")])
@pytest.mark.parametrize("passphrase", [None, SECRET])
def test_a_key_pair_is_made_kept_and_used(tmp_path, curve, algorithm, passphrase):
    private, public = keys.make("alice", tmp_path / "keys", kind=curve, passphrase=passphrase)
    assert (private.name, public.name) == ("alice.key", "alice.pub")
    assert private.stat().st_mode & 0o777 == 0o600
    assert private.parent.stat().st_mode & 0o777 == 0o700
    assert (b"ENCRYPTED" in private.read_bytes()) == (passphrase is not None)
    signer = signers.signer(f"file:{private}", ask())
    assert bool(ask.asked) == (passphrase is not None)
    assert (signer.name, algorithm_of(signer.public_key)) == ("alice", algorithm)
    known = load_public_key(public.read_text())
    assert signer.key_id == key_id(known)
    signature = signer.sign(b"message")
    assert verifies(known, algorithm, signature, b"message")
    assert not verifies(known, algorithm, signature, b"another")


@pytest.mark.parametrize("curve", ["p256", "p384", "ed25519"])
def test_openssl_reads_the_keys(tmp_path, curve):
    private, public = keys.make("a", tmp_path, kind=curve, passphrase=SECRET)
    made = subprocess.run(["openssl", "pkey", "-in", private, "-passin", f"pass:{SECRET}", "-pubout"], check=True, capture_output=True).stdout
    assert made == public.read_bytes()


def test_keys_are_never_overwritten(tmp_path):
    keys.make("alice", tmp_path, passphrase=None)
    before = (tmp_path / "alice.key").read_bytes()
    with pytest.raises(UsageError, match=r"alice\.key: exists already"):
        keys.make("alice", tmp_path, passphrase=None)
    (tmp_path / "alice.key").rename(tmp_path / "other")
    with pytest.raises(UsageError, match=r"alice\.pub: exists already"):
        keys.make("alice", tmp_path, passphrase=None)
    assert (tmp_path / "other").read_bytes() == before
    assert not (tmp_path / "alice.key").exists()


@pytest.mark.parametrize("name", ["", "Alice", "../alice", "a/b", "a\nb", "-a"])
def test_unusable_names_are_refused(tmp_path, name):
    with pytest.raises(UsageError, match="is not a usable name"):
        keys.make(name, tmp_path, passphrase=None)
    assert not list(tmp_path.iterdir())


def test_short_passphrases_are_refused(tmp_path):
    for passphrase in ("", "seven77"):
        with pytest.raises(UsageError, match="shorter than 8"):
            keys.make("a", tmp_path, passphrase=passphrase)
    assert not list(tmp_path.iterdir())


def test_a_wrong_passphrase_is_told_and_never_shown(tmp_path):
    private, _ = keys.make("a", tmp_path, passphrase=SECRET)
    for wrong in ("incorrect donkey", ""):
        with pytest.raises(UsageError, match="wrong passphrase") as caught:
            signers.signer(f"file:{private}", ask(wrong))
        assert wrong == "" or wrong not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o610])
def test_a_private_key_that_others_may_read_is_refused(tmp_path, mode):
    private, _ = keys.make("a", tmp_path, passphrase=None)
    private.chmod(mode)
    with pytest.raises(UsageError, match="other users may read") as caught:
        signers.signer(f"file:{private}", ask())
    assert caught.value.hint == f"chmod 600 {private}"


@pytest.mark.parametrize("uri", ["", "alice.key", "file:", "sigstore:", "https://x/y", "/etc/passwd", "FILE:x"])
def test_other_uris_are_refused(uri):
    with pytest.raises(UsageError, match="is not a key this command can use"):
        signers.signer(uri, ask())


def foreign(path, key) -> str:
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    path.chmod(0o600)
    return f"file:{path}"


def test_keys_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(UsageError, match="the key is of a kind that is not accepted"):
        signers.signer(foreign(tmp_path / "rsa.key", rsa.generate_private_key(65537, 2048)), ask())
    with pytest.raises(UsageError, match="curve secp521r1 is not accepted"):
        signers.signer(foreign(tmp_path / "big.key", ec.generate_private_key(ec.SECP521R1())), ask())


def test_files_that_are_no_private_key_are_refused(tmp_path):
    _, public = keys.make("a", tmp_path, passphrase=None)
    public.chmod(0o600)
    for content in (public.read_bytes(), b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        path = tmp_path / "x.key"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(UsageError, match="not a PEM private key"):
            signers.signer(f"file:{path}", ask())
    with pytest.raises(InvalidFileError, match="cannot read"):
        signers.signer(f"file:{tmp_path / 'none'}", ask())
    path.write_bytes(b"x" * (keys.MAX_KEY + 1))
    with pytest.raises(InvalidFileError, match="larger than"):
        signers.signer(f"file:{path}", ask())


def test_the_signers_name_comes_from_the_file(tmp_path):
    private, _ = keys.make("alice", tmp_path, passphrase=None)
    private.rename(tmp_path / "Bob.Key.key")
    assert signers.signer(f"file:{tmp_path / 'Bob.Key.key'}", ask()).name == "bob.key"
    (tmp_path / "Bob.Key.key").rename(tmp_path / "_.key")
    with pytest.raises(UsageError, match="no usable signer name"):
        signers.signer(f"file:{tmp_path / '_.key'}", ask())


def test_a_passphrase_file_gives_its_first_line(tmp_path):
    path = tmp_path / "p"
    for content in (b"correct horse", b"correct horse\n", b"correct horse\r\nmore\n"):
        path.write_bytes(content)
        assert keys.passphrase_from(path) == SECRET
    assert keys.passphrase_from(None) is None
    with pytest.raises(InvalidFileError):
        keys.passphrase_from(tmp_path / "none")


def test_a_passphrase_of_other_scripts_works(tmp_path):
    private, _ = keys.make("a", tmp_path, passphrase="пароль-пароль")
    assert signers.signer(f"file:{private}", ask("пароль-пароль")).name == "a"
    assert os.listdir(tmp_path).count("a.key") == 1
