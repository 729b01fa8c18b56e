"""Timestamps by a real authority (`openssl ts`): what they prove, what they do not, and how a signature gets them."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import authority, bundles, stamping
from parts.authority import DAY, SERVER, STAMPING, entry
from parts.sigstore import Der
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

from airgap_images.remote.http import Client, Retry
from audit.signers.file import from_private
from audit.verify import timestamps
from audit.verify.recognise import recognise
from audit.verify.trust import Memory, judge
from bundler import model_signatures, sign, timestamp
from bundler.timestamp import Stamped
from manifests import statement
from manifests.errors import InvalidFileError, NetworkError, RefusedError, TrustError, UsageError
from manifests.identities import TimestampAuthority
from manifests.policy import Policy, first_policy, signer_entry
from manifests.publickey import canonical_pem
from manifests.statement import MAX_TIMESTAMPS, Envelope

SIGNATURE = b"the bytes of a signature"
STREAM = "s"
SUBJECTS = {"index.json": {"sha256": "a" * 64}, "SHA256SUMS": {"sha256": "b" * 64}}
FOREIGN = ("carries a timestamp that no timestamp authority of the policy made",)
UNREADABLE = ("carries a timestamp that cannot be read",)


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def tsa(tmp_path_factory):
    return stamping.offline(tmp_path_factory.mktemp("tsa"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return stamping.offline(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def token(tsa):
    return tsa.stamp(SIGNATURE)


def believed(*authorities: stamping.Authority, **fields) -> dict[str, TimestampAuthority]:
    return {f"tsa{at or ''}": TimestampAuthority.model_validate(made.entry(**fields)) for at, made in enumerate(authorities)}


def seen(*tokens: bytes, by, signature: bytes = SIGNATURE, at: datetime | None = None):
    return timestamps.earliest(by, tokens, signature, at)


# --- what counts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", list(HashAlgorithm))
def test_the_time_that_an_authority_states(tsa, algorithm):
    before = now().replace(microsecond=0)
    time, notes = seen(tsa.stamp(SIGNATURE, algorithm), by=believed(tsa), at=now())
    assert notes == ()
    assert before <= time <= now()


def test_hashes_of_every_length_that_counts(tmp_path):
    """openssl asks with SHA-384, which the client library cannot."""
    made = stamping.offline(tmp_path / "tsa")
    (tmp_path / "signature").write_bytes(SIGNATURE)
    for algorithm in ("sha256", "sha384", "sha512"):
        made.digest = algorithm
        command = ["openssl", "ts", "-query", "-data", tmp_path / "signature", f"-{algorithm}", "-cert", "-out", tmp_path / "question"]
        subprocess.run(command, check=True, capture_output=True)
        assert seen(made.reply((tmp_path / "question").read_bytes()), by=believed(made))[0]


def test_one_of_several_authorities_is_enough_and_the_earliest_time_counts(tsa, other, token, monkeypatch):
    late = other.stamp(SIGNATURE)
    assert seen(late, token, by=believed(tsa, other))[0] == seen(token, by=believed(tsa))[0]
    assert seen(late, token, by=believed(tsa)) == (seen(token, by=believed(tsa))[0], FOREIGN)


def chained(made: stamping.Authority) -> None:
    """Let an authority answer with a certificate below another, which it carries in openssl's order: its own first."""
    between = made.root.below("Between", "p256", until=now() + 30 * DAY)
    made.own, made.above = between.signer("Time", "p256", purposes=[STAMPING], since=now() - DAY, until=now() + 9 * DAY), (between,)


def test_an_authority_below_another(tmp_path):
    made = stamping.offline(tmp_path)
    chained(made)
    raw = made.stamp(SIGNATURE)
    assert len(made.own.der) > len(made.above[0].der)
    assert seen(raw, by=believed(made)) == (None, UNREADABLE)  # the order of DER is the other one, and what is read here is strict
    assert seen(timestamp._ordered(raw), by=believed(made))[0]
    made.above = ()
    assert seen(made.stamp(SIGNATURE), by=believed(made)) == (None, FOREIGN)


def test_an_authority_whose_certificate_the_policy_has(tsa, other):
    """Then its answers need not carry it, and no other of the same root counts."""
    bare = tsa.stamp(SIGNATURE, certificates=False)
    assert seen(bare, by=believed(tsa)) == (None, FOREIGN)
    assert seen(bare, by=believed(tsa, certificate=tsa.own.pem))[0]
    assert seen(tsa.stamp(SIGNATURE), by=believed(tsa, certificate=tsa.own.pem))[0]
    sister = tsa.root.signer("Sister", "p256", purposes=[STAMPING], since=now() - DAY, until=now() + DAY)
    for token in (bare, tsa.stamp(SIGNATURE)):
        assert seen(token, by=believed(tsa, certificate=sister.pem)) == (None, FOREIGN)


def test_what_a_second_implementation_says(tsa, token, tmp_path):
    (tmp_path / "signature").write_bytes(SIGNATURE)
    (tmp_path / "token").write_bytes(token)
    (tmp_path / "root.pem").write_text(tsa.root.pem)
    command = ["openssl", "ts", "-verify", "-data", "signature", "-in", "token", "-CAfile", "root.pem"]
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode == 0
    (tmp_path / "signature").write_bytes(SIGNATURE + b"!")
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode != 0


# --- what does not ------------------------------------------------------------------------------------------------------


def test_over_something_else(tsa, token):
    assert seen(token, by=believed(tsa), signature=b"another") == (None, ("carries a timestamp by tsa that is over something else",))


def test_by_an_authority_that_the_policy_does_not_name(other, token):
    assert seen(token, by=believed(other)) == (None, FOREIGN)
    assert seen(token, by={}) == (None, FOREIGN)


def test_by_an_authority_of_the_same_name(tsa, tmp_path):
    imitated = stamping.offline(tmp_path)
    assert imitated.root.own.subject == tsa.root.own.subject
    assert seen(imitated.stamp(SIGNATURE), by=believed(tsa)) == (None, FOREIGN)


def test_garbage(tsa, token):
    for raw in (b"", b"\0", b"0\x03\x02\x01\x00", b"garbage", token[:-1], token + b"\0", tsa.own.der):
        assert seen(raw, by=believed(tsa)) == (None, UNREADABLE)


def test_a_refusal_is_no_timestamp(tsa):
    refusal = Der.sequence(Der.sequence(Der.integer(2)))
    assert seen(refusal, by=believed(tsa)) == (None, UNREADABLE)


def test_a_timestamp_with_a_status_that_is_not_granted(tsa, token):
    assert token[4:9] == bytes.fromhex("3003020100")  # PKIStatusInfo: granted
    for status in (1, 2, 5, 9):
        assert seen(token[:8] + bytes([status]) + token[9:], by=believed(tsa)) == (None, FOREIGN)


def test_a_certificate_that_had_expired(tmp_path):
    made = stamping.offline(tmp_path, since=now() - 9 * DAY, until=now() - DAY)
    assert seen(made.stamp(SIGNATURE), by=believed(made)) == (None, FOREIGN)


def test_a_certificate_issued_by_somebody_who_certifies_nobody(tmp_path):
    made = stamping.offline(tmp_path)
    signer = made.root.signer("Signer", "p256", purposes=[STAMPING], until=now() + DAY)
    made.own, made.above = signer.signer("Time", "p256", purposes=[STAMPING], until=now() + DAY), (signer,)
    assert seen(made.stamp(SIGNATURE), by=believed(made)) == (None, FOREIGN)


def test_hashed_with_sha1(tmp_path):
    """The library takes it for the authority's own signature; collisions of it can be made."""
    made = stamping.offline(tmp_path)
    made.digest = "sha1"
    assert seen(made.stamp(SIGNATURE), by=believed(made)) == (None, FOREIGN)


@pytest.mark.parametrize("purposes", [None, [SERVER], [authority.CODE]])
def test_a_certificate_that_is_not_for_time_stamping(tmp_path, purposes):
    """`openssl ts` would not use one: it is put into the policy instead, which leaves the token without any to look at."""
    made = stamping.offline(tmp_path)
    bare = made.stamp(SIGNATURE, certificates=False)
    assert seen(bare, by=believed(made, certificate=made.own.pem))[0]
    serial = made.own.own.serial_number
    twin = made.root.signer("Time", key=made.own.key, purposes=purposes, serial=serial, until=now() + DAY)
    assert seen(bare, by=believed(made, certificate=twin.pem)) == (None, FOREIGN)


def test_a_time_in_the_future_proves_nothing(tsa, token):
    time, _ = seen(token, by=believed(tsa))
    assert seen(token, by=believed(tsa), at=time - DAY) == (time, ())
    said = f"carries a timestamp from the future ({time:%Y-%m-%dT%H:%M:%SZ}), which proves nothing"
    assert seen(token, by=believed(tsa), at=time - DAY - timedelta(seconds=1)) == (None, (said,))


@settings(max_examples=400, deadline=None, database=None)
@given(data=st.data())
def test_a_tampered_timestamp_proves_no_other_time(data, tsa, token):
    """What nobody signs in it (a status text, for one) may change; the time and what it is over may not."""
    changed = bytearray(token)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        if data.draw(st.booleans()):
            changed[at] ^= data.draw(st.integers(1, 255))
        else:
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=5))
    time, notes = seen(bytes(changed), by=believed(tsa))
    assert time in {None, seen(token, by=believed(tsa))[0]}
    assert (time is None) == bool(notes)


def test_every_byte_of_what_is_signed_counts(tsa, token):
    (_, _, content), *_ = [part for part in _octets(token) if b"\x18\x0f20" in part[2]]
    at = token.index(content)
    for offset in range(len(content)):
        changed = bytearray(token)
        changed[at + offset] ^= 0x01
        assert seen(bytes(changed), by=believed(tsa))[0] is None, offset


def _octets(token: bytes) -> list[tuple[int, int, bytes]]:
    """Give every run of bytes in the token that begins as the signed part of a timestamp does, smallest first."""
    found = [(len(token), at, token[at : at + 2 + token[at + 1]]) for at in range(len(token) - 2) if token[at] == 0x30 and token[at + 1] < 0x80]
    found += [(0, at, token[at : at + 3 + token[at + 2]]) for at in range(len(token) - 3) if token[at : at + 2] == b"\x30\x81"]
    return sorted(found, key=lambda part: len(part[2]))


# --- what a timestamp does for a signature --------------------------------------------------------------------------------


def payload(expires: datetime) -> bytes:
    terms = {"serial": 1, "created": now(), "previous": None, "policy_version": 1, "tool": ("airgap-bundler", "test")}
    return statement.payload(SUBJECTS, stream=STREAM, expires=expires, **terms)


def site(*authorities: stamping.Authority, **signers: dict) -> Policy:
    made = first_policy(STREAM, signers, threshold=len(signers), expires=now() + 900 * DAY)
    return made.changed(timestamp_authorities={f"tsa{at or ''}": one.entry() for at, one in enumerate(authorities)})


def stamped(envelope: Envelope, *tokens: bytes) -> tuple[str, bytes]:
    return "signatures/bob.sigstore.json", replace(envelope, timestamps=tokens).to_bytes()


@pytest.fixture(scope="module")
def bob():
    """Give somebody whose certificate is for today only, and the authority above it."""
    root = authority.root(until=now() + 900 * DAY)
    return root, root.signer("bob", until=now() + DAY)


def test_an_expired_certificate_counts_for_what_was_signed_while_it_was_valid(tsa, other, bob):
    root, person = bob
    made, later = person.envelope(payload(now() + 300 * DAY)), now() + 90 * DAY
    policy, token = site(tsa, bob=entry(root, person)), tsa.stamp(made.signature)
    (found,) = judge(policy, SUBJECTS, [stamped(made, token)], Memory(), later).signatures
    assert abs(found.time - now()) < timedelta(minutes=5)
    assert found.when.startswith("made 2")
    for refused, files in (
        (policy, [stamped(made)]),  # without
        (policy, [stamped(made, other.stamp(made.signature))]),  # by another authority
        (policy, [stamped(made, tsa.stamp(b"something else"))]),
        (policy, [stamped(made, token[:-1])]),
        (site(other, bob=entry(root, person)), [stamped(made, token)]),  # the policy believes another
        (site(bob=entry(root, person)), [stamped(made, token)]),  # or none
    ):
        with pytest.raises(RefusedError) as caught:
            judge(refused, SUBJECTS, files, Memory(), later)
        (reason,) = caught.value.failures
        assert (reason.rule, "valid from" in reason.message) == ("3.certificate", True)


def test_a_timestamp_after_the_certificate_expired_does_not_help(tsa):
    root = authority.root()
    person = root.signer("bob", since=now() - 9 * DAY, until=now() - DAY)
    made = person.envelope(payload(now() + 300 * DAY))
    found = recognise(site(tsa, bob=entry(root, person)), [stamped(made, tsa.stamp(made.signature))], now())
    assert [failure.rule for failure in found.failures] == ["3.certificate"]


def test_a_timestamp_does_not_bring_back_who_was_revoked(tsa, bob):
    root, person = bob
    made = person.envelope(payload(now() + 300 * DAY))
    policy = site(tsa, bob=entry(root, person, crls=[root.crl(revoked=[person], since=now() + DAY)]))
    found = recognise(policy, [stamped(made, tsa.stamp(made.signature))], now() + 30 * DAY)
    assert "was revoked" in found.failures[0].message


def test_a_timestamp_from_the_future_does_not_make_a_certificate_valid(tsa):
    """It is of next week for a machine whose clock says last week: a certificate of this week is not valid there yet."""
    root = authority.root(since=now() - 60 * DAY)
    person = root.signer("bob", since=now() - DAY)
    made = person.envelope(payload(now() + 300 * DAY))
    found = recognise(site(tsa, bob=entry(root, person)), [stamped(made, tsa.stamp(made.signature))], now() - 7 * DAY)
    assert [failure.rule for failure in found.failures] == ["3.certificate"]


def test_a_key_signature_tells_its_time_too(tsa):
    who = from_private("alice", authority.KEYS["p256"]())
    made = who.envelope(payload(now() + 9 * DAY))
    policy = site(tsa, alice=signer_entry(canonical_pem(who.public_key)))
    (found,) = judge(policy, SUBJECTS, [stamped(made, b"garbage", tsa.stamp(made.signature))], Memory(), now()).signatures
    assert (found.time is not None, found.notes) == (True, UNREADABLE)
    (found,) = judge(policy, SUBJECTS, [stamped(made, b"garbage")], Memory(), now()).signatures
    assert (found.time, found.notes) == (None, UNREADABLE)


# --- how a signature gets them --------------------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path):
    with stamping.authority(tmp_path / "tsa") as made:
        yield made


@pytest.fixture
def alice():
    return from_private("alice", authority.KEYS["p256"]())


def client() -> Client:
    return Client(retry=Retry(attempts=1), connect_timeout=5, stall_timeout=5)


def test_a_signer_with_an_authority(desk, alice):
    envelope = Stamped(alice, (desk.url, desk.url), client()).envelope(b"{}")
    assert Envelope.parse(envelope.to_bytes(), "x") == envelope
    assert len(envelope.timestamps) == 2
    assert seen(*envelope.timestamps, by=believed(desk), signature=envelope.signature)[1] == ()
    assert {request.headers["content-type"] for request in desk.asked} == {"application/timestamp-query"}
    assert all(envelope.signature not in request.body for request in desk.asked)


def test_the_certificates_in_an_answer_are_put_into_the_order_of_der(desk, alice, tmp_path):
    chained(desk)
    envelope = Stamped(alice, (desk.url,), client()).envelope(b"{}")
    (token,) = envelope.timestamps
    assert seen(token, by=believed(desk), signature=envelope.signature)[0]
    (tmp_path / "signature").write_bytes(envelope.signature)
    (tmp_path / "token").write_bytes(token)
    command = ["openssl", "ts", "-verify", "-data", "signature", "-in", "token", "-CAfile", stamping.written(desk)]
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode == 0


@settings(max_examples=300, deadline=None, database=None)
@given(data=st.data())
def test_ordering_leaves_what_is_no_answer(data, token):
    assert timestamp._ordered(token) == token
    at = data.draw(st.integers(0, len(token)))
    raw = token[:at] + data.draw(st.binary(max_size=6)) + token[at + data.draw(st.integers(0, 6)) :]
    assert isinstance(timestamp._ordered(raw), bytes)


def test_it_is_the_signer_still(desk, alice):
    made = Stamped(alice, (desk.url,), client())
    assert (made.name, made.kind, made.named("bob").name) == ("alice", "key", "bob")
    own = made.envelope(b"{}")
    assert made.made(own)
    assert not made.made(from_private("x", authority.KEYS["p256"]()).envelope(b"{}"))
    with pytest.raises(UsageError, match="alice has signed already, without a timestamp"):
        made.made(alice.envelope(b"{}"))


def earlier(desk: stamping.Authority):
    """Answer with the timestamp of an earlier question about the same."""
    kept: list[bytes] = []

    def change(asked: bytes, answer: bytes) -> bytes:
        kept.append(answer)
        return kept[0]

    return change


REFUSED = Der.sequence(Der.sequence(Der.integer(2), Der.sequence(Der.of(0x0C, b"not\x1b today"))))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _, answer: b"<html>sign in</html>", "answered with something that is no timestamp"),
        (lambda _, answer: answer[:-1], "answered with something that is no timestamp"),
        (lambda _, answer: b"", "answered with something that is no timestamp"),
        (lambda _, answer: REFUSED, "the authority states no time: rejection not\N{REPLACEMENT CHARACTER} today"),
        (lambda _, answer: Der.sequence(Der.sequence(Der.integer(77))), "the authority states no time: an unknown status"),
        (lambda _, answer: answer[:8] + b"\1" + answer[9:], "the authority states no time: granted with mods"),
        (lambda _, answer: answer + b"\0" * (70 << 10), "answer larger than"),
    ],
)
def test_an_answer_that_is_none(desk, alice, change, words):
    desk.change = change
    with pytest.raises(NetworkError) as caught:
        Stamped(alice, (desk.url,), client()).envelope(b"{}")
    assert words in caught.value.message
    assert caught.value.message.startswith(desk.url)


@pytest.mark.parametrize("changed", ["nonce", "no nonce", "signature", "hash"])
def test_an_answer_to_another_question(desk, alice, changed):
    def change(asked: bytes, answer: bytes) -> bytes:
        digest = b"\x04\x40"
        imprint = asked[asked.index(digest) + 2 :][:64]
        if changed in {"nonce", "no nonce"}:
            ((_, inside, _),) = Der.parts(asked)
            parts = [whole for _, _, whole in Der.parts(inside)]
            number = [] if changed == "no nonce" else [Der.integer(7)]
            return desk.reply(Der.sequence(*parts[:2], *number, Der.of(0x01, b"\xff")))
        if changed == "signature":
            return desk.reply(asked.replace(imprint, bytes(64)))
        return desk.reply(TimestampRequestBuilder(b"x", HashAlgorithm.SHA256).build().as_bytes())

    desk.change = change
    with pytest.raises(NetworkError, match="answered with a timestamp of something else, or of an earlier question"):
        Stamped(alice, (desk.url,), client()).envelope(b"{}")


def test_an_old_answer_is_not_taken_for_a_new_one(desk):
    """ML-DSA could sign the same twice over: it is the nonce that tells the answers apart."""

    class Same:
        name, kind = "same", "key"

        def envelope(self, payload, hint=None):
            return Envelope("key", payload, SIGNATURE, "x")

    desk.change = earlier(desk)
    made = Stamped(Same(), (desk.url,), client())
    assert made.envelope(b"{}").timestamps
    with pytest.raises(NetworkError, match="of an earlier question"):
        made.envelope(b"{}")


def test_an_authority_that_is_not_there(desk, alice):
    gone = desk.url.replace("/tsa", "/none")
    with pytest.raises(NetworkError, match="404"):
        Stamped(alice, (desk.url, gone), client()).envelope(b"{}")
    with pytest.raises(NetworkError):
        Stamped(alice, ("http://127.0.0.1:1/",), client()).envelope(b"{}")
    for wrong in ("ftp://example.org/", "tsa.example.org", "file:///etc/passwd"):
        with pytest.raises(InvalidFileError):
            Stamped(alice, (wrong,), client()).envelope(b"{}")


def test_with_a_policy_it_must_count_under_it(desk, other, alice):
    pem = canonical_pem(alice.public_key)
    assert Stamped(alice, (desk.url,), client(), site(desk, alice=signer_entry(pem))).envelope(b"{}").timestamps
    for policy in (site(other, alice=signer_entry(pem)), site(alice=signer_entry(pem))):
        with pytest.raises(TrustError, match="carries a timestamp that no timestamp authority of the policy made"):
            Stamped(alice, (desk.url,), client(), policy).envelope(b"{}")


def test_who_may_have_timestamps(alice):
    class Keyless:
        kind = "sigstore"

    with pytest.raises(UsageError, match="a keyless signature has the timestamps of its instance"):
        timestamp.stamped(Keyless(), ("http://127.0.0.1:1/",), client())
    with pytest.raises(UsageError, match="at most 8"):
        timestamp.stamped(alice, ("http://127.0.0.1:1/",) * (MAX_TIMESTAMPS + 1), client())


def test_nothing_is_written_where_an_authority_fails(desk, alice, tmp_path):
    folder = tmp_path / "bundle"
    bundles.layout(folder, {"docs": {"a.txt": b"a"}})
    desk.change = lambda _, answer: b""
    with pytest.raises(NetworkError):
        sign.sign(folder, Stamped(alice, (desk.url,), client()), bundles.terms())
    assert not list(folder.glob("signatures/*"))
    desk.change = None
    signed = sign.sign(folder, Stamped(alice, (desk.url,), client()), bundles.terms())
    assert json.loads(signed.file.read_bytes())["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"]
    assert not sign.sign(folder, Stamped(alice, (desk.url,), client()), bundles.terms()).added


def test_a_signer_who_signs_no_models_signs_none_with_timestamps_either(desk):
    post = from_private("post", authority.KEYS["ml-dsa-87"]())
    assert model_signatures.unable(Stamped(post, (desk.url,), client())) == model_signatures.unable(post) != ""
