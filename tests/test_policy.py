"""The policy: one canonical form, keys by their own algorithm, and rules that can be met."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import InvalidFileError
from manifests.policy import MAX_POLICY, Policy, Role, first_policy, signer_entry
from manifests.publickey import key_id, load_public_key

EXPIRES = datetime(2027, 11, 24, tzinfo=UTC)


def pem(key) -> str:
    public = key.public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


P256, P384, ED = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()
ENTRIES = {name: signer_entry(pem(key)) for name, key in (("alice", P256), ("bob", P384), ("carol", ED))}
WHOLE = first_policy("prod", ENTRIES, threshold=2, expires=EXPIRES)


def test_a_first_policy_and_its_one_encoding():
    assert (WHOLE.version, WHOLE.stream, WHOLE.expires, WHOLE.expires_at) == (1, "prod", "2027-11-24T00:00:00Z", EXPIRES)
    assert {name: signer.alg for name, signer in WHOLE.signers.items()} == {
        "alice": "ecdsa-p256-sha256", "bob": "ecdsa-p384-sha384", "carol": "ed25519",
    }  # fmt: skip
    raw = WHOLE.to_bytes()
    assert Policy.parse(raw) == WHOLE
    assert Policy.parse(raw).to_bytes() == raw
    assert WHOLE.signers["alice"].key_id == key_id(P256.public_key())


def test_the_order_in_which_signers_are_named_does_not_matter():
    one = first_policy("s", ENTRIES, threshold=1, expires=EXPIRES)
    assert first_policy("s", dict(reversed(ENTRIES.items())), threshold=1, expires=EXPIRES).to_bytes() == one.to_bytes()


def test_one_key_has_one_text_and_one_id_however_it_was_written():
    compressed = P256.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    again = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), compressed)
    text = again.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    assert signer_entry(text) == signer_entry(f"some words before\n{pem(P256)}\n\n") == signer_entry(pem(P256).replace("\n", "\r\n"))


OTHER_KEYS = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "dsa": dsa.generate_private_key(2048),
    "ed448": ed448.Ed448PrivateKey.generate(),
    "x25519": x25519.X25519PrivateKey.generate(),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "k256": ec.generate_private_key(ec.SECP256K1()),
}


@pytest.mark.parametrize("name", OTHER_KEYS)
def test_other_keys_are_refused_and_say_what_is_accepted(name):
    with pytest.raises(ValueError, match="use P-256, P-384, Ed25519 or ML-DSA-87"):
        load_public_key(pem(OTHER_KEYS[name]))


@pytest.mark.parametrize("text", ["", "not pem", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", pem(P256)[:60]])
def test_what_is_no_public_key_is_refused(text):
    with pytest.raises(ValueError, match="not a PEM public key"):
        load_public_key(text)


def test_a_private_key_in_the_place_of_a_public_one_is_refused():
    private = P256.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    with pytest.raises(ValueError, match="not a PEM public key"):
        signer_entry(private)


def changed(**parts: object) -> bytes:
    value = json.loads(WHOLE.to_bytes())
    for path, new in parts.items():
        node = value
        *parents, last = path.split("__")
        for parent in parents:
            node = node[parent]
        node[last] = new
    return json.dumps(value).encode()


FAULTS = {
    "format version": ({"policyVersion": 2}, "policyVersion"),
    "version zero": ({"version": 0}, "version"),
    "version as text": ({"version": "1"}, "version"),
    "version as truth": ({"version": True}, "version"),
    "expires": ({"expires": "2027-11-24"}, "expires"),
    "stream": ({"stream": "a b"}, "stream"),
    "floor": ({"min_serial": -1}, "min_serial"),
    "unknown field": ({"roles__bundle__extra": 1}, "roles.bundle.extra"),
    "no signers": ({"signers": {}}, "signers"),
    "signer name": ({"signers": {"A": signer_entry(pem(P256))}}, "signers"),
    "signer type": ({"signers__alice__type": "pgp"}, "signers.alice: Input tag 'pgp'"),
    "algorithm of another curve": ({"signers__alice__alg": "ecdsa-p384-sha384"}, "the key is for ecdsa-p256-sha256"),
    "algorithm of another kind": ({"signers__alice__alg": "ed25519"}, "the key is for ecdsa-p256-sha256"),
    "algorithm unknown": ({"signers__alice__alg": "none"}, "signers.alice.key.alg"),
    "key of another kind": ({"signers__alice__key": pem(OTHER_KEYS["rsa"])}, "of a kind that is not accepted"),
    "no key": ({"signers__alice__key": "x"}, "not a PEM public key"),
    "one key under two names": ({"signers__bob": signer_entry(pem(P256))}, "'alice' and 'bob' have the same key"),
    "threshold zero": ({"roles__bundle__threshold": 0}, "roles.bundle.threshold"),
    "threshold out of reach": ({"roles__bundle__threshold": 4}, "threshold 4 can never be met by 3 signers"),
    "signer twice in a role": ({"roles__bundle__signers": ["alice", "alice", "bob"]}, "a signer stands twice"),
    "stranger in a role": ({"roles__policy__signers": ["alice", "mallory"]}, "a role names 'mallory'"),
    "nobody in a role": ({"roles__bundle__signers": []}, "roles.bundle.signers"),
    "required stranger": ({"roles__bundle__require_any_of": [["mallory"]]}, "require_any_of names 'mallory'"),
    "required nobody": ({"roles__bundle__require_any_of": [[]]}, "require_any_of"),
    "revoked root": ({"revoked__roots": ["abc"]}, "revoked.roots.0"),
    "gate": ({"gates": {"pickles": "ignore"}}, "gates.pickles"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_policy_that_is_not_one_is_refused_with_the_field(name):
    parts, message = FAULTS[name]
    with pytest.raises(InvalidFileError) as caught:
        Policy.parse(changed(**parts))
    assert caught.value.message.startswith("policy.json: ")
    assert message in caught.value.message


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b'{"version": 1, "version": 1}', b" " * (MAX_POLICY + 1), WHOLE.to_bytes()[:-3]])
def test_what_is_no_policy_is_refused(raw):
    with pytest.raises(InvalidFileError, match=r"^policy\.json: "):
        Policy.parse(raw)


def test_loading_names_the_file(tmp_path):
    path = tmp_path / "p.json"
    path.write_bytes(changed(version=0))
    with pytest.raises(InvalidFileError, match=str(path)):
        Policy.load(path)
    path.write_bytes(WHOLE.to_bytes())
    assert Policy.load(path) == WHOLE


@given(st.sets(st.sampled_from("abcdx")), st.integers(1, 4), st.lists(st.sets(st.sampled_from("abcd"), min_size=1), max_size=2))
def test_a_role_is_satisfied_by_enough_of_its_own_and_one_of_each_group(names, threshold, groups):
    role = Role(threshold=threshold, signers=tuple("abcd"), require_any_of=tuple(tuple(sorted(group)) for group in groups))
    counted = names & set("abcd")
    assert (role.missing(frozenset(names)) is None) == (len(counted) >= threshold and all(counted & group for group in groups))


def test_what_is_missing_is_said():
    role = Role(threshold=2, signers=("a", "b", "pq"), require_any_of=(("pq",),))
    assert role.missing(frozenset("a")) == "1 of 2 needed signers"
    assert role.missing(frozenset("ab")) == "none of pq, one of whom is required"
    assert role.missing(frozenset(["a", "pq"])) is None


def test_expiry_of_a_first_policy_is_written_in_utc():
    when = EXPIRES.astimezone(tz=None) + timedelta(microseconds=5)
    assert first_policy("s", {"a": signer_entry(pem(P256))}, threshold=1, expires=when).expires_at == EXPIRES
