"""Signing: the first states, the others sign the same bytes; nothing is signed that is not there or does not belong."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from parts import bundles
from parts.bundles import NOW, terms

from audit import signers
from audit.signers import file as key_files
from bundler import sign
from manifests import canonical
from manifests.errors import IntegrityError, InvalidFileError, TrustError, UsageError
from manifests.statement import Envelope, Statement


@pytest.fixture
def who(tmp_path):
    return bundles.site(tmp_path / "keys", curves={"bob": "p384", "carol": "ed25519"})


@pytest.fixture
def folder(tmp_path):
    bundles.layout(tmp_path / "bundle", {"docs": {"a.txt": b"hello"}})
    return tmp_path / "bundle"


def test_every_signer_signs_the_same_bytes(who, folder):
    first = sign.sign(folder, who.key("alice"), terms(7))
    assert (first.added, first.file, first.predicate.serial) == (True, folder / "signatures/alice.sigstore.json", 7)
    second = sign.sign(folder, who.key("bob"), terms(None, created=NOW + timedelta(days=3)))
    third = sign.sign(folder, who.key("carol"), terms(7))
    assert third.signatures == tuple(f"signatures/{name}.sigstore.json" for name in ("alice", "bob", "carol"))
    payloads = {Envelope.parse(path.read_bytes(), "x").payload for path in (folder / "signatures").iterdir()}
    assert len(payloads) == 1
    assert first.predicate == second.predicate == third.predicate
    assert first.digest == second.digest


def test_the_statement_names_the_files_that_lie_there_and_the_stream_of_the_index(who, folder):
    made = sign.sign(folder, who.key("alice"), replace(terms(3), previous="b" * 64, policy_version=4))
    statement = Statement.parse(Envelope.parse(made.file.read_bytes(), "x").payload, "x")
    assert [(s.name, s.digest.sha256) for s in statement.subject] == [
        (name, sign.Digest.of((folder / name).read_bytes()).hex) for name in ("index.json", "SHA256SUMS")
    ]
    predicate = statement.bundle("x")
    assert (predicate.stream, predicate.previous.sha256, predicate.policyVersion) == (bundles.STREAM, "b" * 64, 4)


def test_signing_twice_changes_nothing(who, folder):
    first = sign.sign(folder, who.key("alice"), terms(1))
    before = first.file.read_bytes()
    again = sign.sign(folder, who.key("alice"), terms(1))
    assert (again.added, again.file, again.signatures) == (False, first.file, ("signatures/alice.sigstore.json",))
    assert first.file.read_bytes() == before


def test_the_first_needs_a_serial_and_the_next_must_not_say_another(who, folder):
    with pytest.raises(UsageError, match="the first signature needs a serial"):
        sign.sign(folder, who.key("alice"), terms(None))
    assert not (folder / "signatures").exists()
    sign.sign(folder, who.key("alice"), terms(1))
    with pytest.raises(UsageError, match="signed with serial 1, not 2"):
        sign.sign(folder, who.key("bob"), terms(2))


def test_two_keys_of_one_name_do_not_overwrite_each_other(who, folder, tmp_path):
    sign.sign(folder, who.key("alice"), terms(1))
    key_files.make("alice", tmp_path / "other", passphrase=None)
    with pytest.raises(UsageError, match="another key has signed under this name"):
        sign.sign(folder, signers.signer(f"file:{tmp_path / 'other' / 'alice.key'}", lambda _: ""), terms(None))


def blob(folder):
    return max((folder / "blobs" / "sha256").iterdir(), key=lambda path: path.read_bytes() == b"hello")


BROKEN = {
    "blob missing": (lambda f: blob(f).unlink(), "missing or of another size"),
    "blob cut": (lambda f: (blob(f).chmod(0o644), blob(f).write_bytes(b"hell")), "missing or of another size"),
    "blob is a link": (lambda f: (blob(f).rename(f.parent / "x"), (f / "blobs/sha256" / sign.Digest.of(b"hello").hex).symlink_to(f.parent / "x")), "missing"),
    "stray file": (lambda f: (f / "verify.sh").write_text("#!/bin/sh"), "verify.sh: does not belong"),
    "stray blob": (lambda f: (f / "blobs/sha256" / ("a" * 64)).write_text("x"), "does not belong"),
    "sums edited": (lambda f: (f / "SHA256SUMS").write_bytes((f / "SHA256SUMS").read_bytes() + b"\n"), "does not list exactly"),
    "sums missing": (lambda f: (f / "SHA256SUMS").unlink(), "SHA256SUMS: missing"),
    "no index": (lambda f: (f / "index.json").unlink(), "index.json: missing"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bundle_that_is_not_whole_is_not_signed(who, folder, name):
    change, message = BROKEN[name]
    change(folder)
    with pytest.raises(IntegrityError, match=message):
        sign.sign(folder, who.key("alice"), terms(1))
    assert not (folder / "signatures").exists()


def test_an_index_of_something_else_is_not_signed(who, folder):
    with pytest.raises(InvalidFileError, match="not a bundle"):
        sign.sign(folder.parent, who.key("alice"), terms(1))
    value = json.loads((folder / "index.json").read_bytes())
    (folder / "index.json").write_text(json.dumps(value | {"artifactType": "a/b"}))
    with pytest.raises(IntegrityError, match="not a bundle index"):
        sign.sign(folder, who.key("alice"), terms(1))


@pytest.mark.parametrize("stream", ["", "a b", "\x1b[2J"])
def test_an_index_without_a_stream_is_not_signed(who, tmp_path, stream):
    bundles.layout(tmp_path / "b", {"docs": {"a": b"1"}}, stream=stream)
    with pytest.raises(IntegrityError, match="is not a name"):
        sign.sign(tmp_path / "b", who.key("alice"), terms(1))


def test_a_bundle_that_changed_after_the_first_signature_is_not_signed_again(who, folder):
    sign.sign(folder, who.key("alice"), terms(1))
    kept = (folder / "signatures/alice.sigstore.json").read_bytes()
    bundles.layout(folder.parent / "two", {"docs": {"a.txt": b"other"}})
    (folder.parent / "two" / "signatures").mkdir()
    (folder.parent / "two" / "signatures" / "alice.sigstore.json").write_bytes(kept)
    with pytest.raises(TrustError, match="the bundle changed after it was signed"):
        sign.sign(folder.parent / "two", who.key("bob"), terms(None))


def test_signers_before_who_disagree_are_not_joined(who, folder):
    sign.sign(folder, who.key("alice"), terms(1))
    (folder / "signatures").rename(folder.parent / "kept")
    sign.sign(folder, who.key("bob"), terms(2))
    (folder.parent / "kept" / "alice.sigstore.json").rename(folder / "signatures" / "alice.sigstore.json")
    with pytest.raises(TrustError, match="signed different statements"):
        sign.sign(folder, who.key("carol"), terms(None))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff"])
def test_a_malformed_signature_is_named(who, folder, content):
    sign.sign(folder, who.key("alice"), terms(1))
    (folder / "signatures" / "x.sigstore.json").write_bytes(content)
    with pytest.raises(InvalidFileError, match=r"signatures/x\.sigstore\.json"):
        sign.sign(folder, who.key("bob"), terms(None))


def test_what_a_token_returns_is_checked_before_it_is_written(who, folder):
    broken = replace(who.key("alice"), sign=lambda _: b"not a signature")
    with pytest.raises(TrustError, match="does not verify"):
        sign.sign(folder, broken, terms(1))
    assert not (folder / "signatures").exists()


def test_signing_goes_on_after_an_interruption(who, folder):
    (folder / "signatures").mkdir()
    (folder / "signatures" / ".alice.sigstore.json.0123456789abcdef").write_bytes(b'{"half')
    made = sign.sign(folder, who.key("alice"), terms(1))
    assert made.added
    assert [path.name for path in (folder / "signatures").iterdir()] == ["alice.sigstore.json"]


def test_who_signed_is_told_by_the_keys_of_the_policy(who, folder):
    before = sign.standing(folder, who.policy, NOW)
    assert (before.signed, before.waiting) == ((), who.policy.roles.bundle.signers)
    sign.sign(folder, who.key("alice"), terms(1))
    sign.sign(folder, who.key("carol"), terms(None))
    found = sign.standing(folder, who.policy, NOW)
    assert found.signed == ("alice",)
    assert [entry.reason for entry in found.ignored] == ["made with no key of this policy"]
    assert (found.missing, found.failures) == ("1 of 2 needed signers", ())
    path = folder / "signatures/alice.sigstore.json"
    value = json.loads(path.read_bytes())
    value["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(who.key("alice").sign(b"else")).decode()
    path.write_bytes(canonical.compact(value))
    (failure,) = sign.standing(folder, who.policy, NOW).failures
    assert "claims to be by alice and does not verify" in failure


def test_a_revoked_signer_and_a_second_file_of_one_signer_are_told_not_to_count(who, folder):
    sign.sign(folder, who.key("alice"), terms(1))
    sign.sign(folder, who.key("bob"), terms(None))
    (folder / "signatures/again.sigstore.json").write_bytes((folder / "signatures/alice.sigstore.json").read_bytes())
    roles = {"bundle": {"threshold": 1, "signers": ["alice", "bob"]}, "policy": {"threshold": 1, "signers": ["alice", "bob"]}}
    policy = who.policy.changed(roles=roles, revoked={"signers": ["bob"]})
    found = sign.standing(folder, policy, NOW)
    assert (found.signed, found.waiting, found.missing) == (("alice",), (), None)
    assert {entry.reason for entry in found.ignored} == {
        "signer alice counts once, by signatures/again.sigstore.json", "signer bob is revoked by the policy",
    }  # fmt: skip

