"""Every row of the threat table that applies to key signers, against real keys and real signatures.

The judge takes bytes and values only, so most cases need no bundle: a statement is signed here by the product's own
signers, or by hand where the product refuses to sign such a thing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import bundles
from parts.bundles import NOW, STREAM

from audit.signers import LocalSigner
from audit.signers import file as key_files
from audit.verify.trust import CLOCK_SKEW, Judgement, Memory, judge
from manifests import canonical, statement
from manifests.errors import AirgapError, InvalidFileError, RefusedError
from manifests.policy import Policy, signer_entry
from manifests.statement import Envelope, hint

ROOT, SUMS = "a" * 64, "b" * 64
SUBJECTS = {"index.json": {"sha256": ROOT}, "SHA256SUMS": {"sha256": SUMS}}


@pytest.fixture(scope="module")
def who(tmp_path_factory):
    return bundles.site(tmp_path_factory.mktemp("keys"), curves={"bob": "p384", "carol": "ed25519"})


def says(*, root: str = ROOT, sums: str = SUMS, **changes: object) -> bytes:
    terms = {
        "stream": STREAM, "serial": 5, "created": NOW, "expires": NOW + timedelta(days=90),
        "previous": None, "policy_version": 1, "tool": ("airgap-bundler", "test"),
    }  # fmt: skip
    return statement.payload({"index.json": {"sha256": root}, "SHA256SUMS": {"sha256": sums}}, **(terms | changes))


def by(signer: LocalSigner, payload: bytes, *, name: str | None = None, **changes: object) -> tuple[str, bytes]:
    envelope = Envelope("key", payload, signer.sign(statement.pae(payload)), hint(signer.key_id))
    return f"signatures/{name or signer.name}.sigstore.json", replace(envelope, **changes).to_bytes()


def both(who, payload: bytes) -> list[tuple[str, bytes]]:
    return [by(who.key("alice"), payload), by(who.key("bob"), payload)]


def policy(who, **changes: object) -> Policy:
    value = json.loads(who.policy.to_bytes())
    for path, new in changes.items():
        *parents, last = path.split("__")
        node = value
        for parent in parents:
            node = node[parent]
        node[last] = new
    return Policy.parse(canonical.compact(value))


def judged(who, files, *, memory: Memory | None = None, now: datetime = NOW, subjects=SUBJECTS, policy_sha256=None, **changes: object) -> Judgement:
    return judge(policy(who, **changes), subjects, files, memory or Memory(), now, policy_sha256=policy_sha256)


def refused(who, files, **more) -> str:
    with pytest.raises(RefusedError) as caught:
        judged(who, files, **more)
    assert caught.value.exit_code == 3
    for failure in caught.value.failures:
        assert failure.hint
        assert failure.rule
        assert failure.message.isprintable()
    return " | ".join(failure.message for failure in caught.value.failures)


def test_two_signers_of_two_are_accepted_and_told(who):
    found = judged(who, both(who, says()))
    assert [(s.signer, s.algorithm, s.file) for s in found.signatures] == [
        ("alice", "ecdsa-p256-sha256", "signatures/alice.sigstore.json"), ("bob", "ecdsa-p384-sha384", "signatures/bob.sigstore.json"),
    ]  # fmt: skip
    assert [s.key_id for s in found.signatures] == [who.key(name).key_id for name in ("alice", "bob")]
    assert (found.statement.stream, found.statement.serial, found.statement.created) == (STREAM, 5, NOW)
    assert (found.ignored, found.now) == ((), NOW)


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_any_algorithm_alone_is_accepted_where_one_signer_is_enough(who, name):
    assert judged(who, [by(who.key(name), says())], roles__bundle__threshold=1).signatures[0].signer == name


# One stolen key, a lone insider


def test_one_signer_of_two_is_refused(who):
    assert "1 of 2 needed signers (signed by alice)" in refused(who, [by(who.key("alice"), says())])


def test_nobody_is_refused(who):
    assert "0 of 2 needed signers (signed by nobody this policy names)" in refused(who, [])


def test_the_same_signer_twice_counts_once_and_the_second_is_told(who):
    files = [by(who.key("alice"), says(), name=name) for name in ("a", "b", "c")]
    assert "1 of 2 needed signers" in refused(who, files)
    found = judged(who, files, roles__bundle__threshold=1)
    assert [(entry.file, entry.reason) for entry in found.ignored] == [
        (f"signatures/{name}.sigstore.json", "signer alice counts once, by signatures/a.sigstore.json") for name in ("b", "c")
    ]


def test_one_key_under_two_names_is_no_policy(who):
    with pytest.raises(InvalidFileError, match="'alice' and 'bob' have the same key"):
        policy(who, signers__bob=json.loads(who.policy.to_bytes())["signers"]["alice"])


def test_a_stranger_counts_for_nothing_and_is_told(who):
    files = [by(who.key("alice"), says()), by(who.key("carol"), says())]
    assert "signatures/carol.sigstore.json: made with no key of this policy" in refused(who, files)
    found = judged(who, [*files, by(who.key("bob"), says())])
    assert [(entry.file, entry.reason) for entry in found.ignored] == [("signatures/carol.sigstore.json", "made with no key of this policy")]


def test_a_signer_who_may_only_sign_policies_counts_for_nothing(who):
    assert "signer bob may not sign bundles" in refused(who, [by(who.key("bob"), says())], roles__bundle={"threshold": 1, "signers": ["alice"]})
    found = judged(who, both(who, says()), roles__bundle={"threshold": 1, "signers": ["alice"]})
    assert [entry.reason for entry in found.ignored] == ["signer bob may not sign bundles"]


def test_a_required_signer_must_be_among_them(who):
    role = {"threshold": 1, "signers": ["alice", "bob"], "require_any_of": [["bob"]]}
    assert "none of bob, one of whom is required" in refused(who, [by(who.key("alice"), says())], roles__bundle=role)
    assert judged(who, [by(who.key("bob"), says())], roles__bundle=role)


# Signatures of two bundles mixed, replaced files


def test_signers_of_two_statements_are_never_added_up(who):
    files = [by(who.key("alice"), says()), by(who.key("bob"), says(serial=6))]
    assert "alice, bob signed different statements" in refused(who, files)
    assert "signed different statements" in refused(who, files, roles__bundle__threshold=1)


def test_payloads_that_mean_the_same_but_are_other_bytes_are_not_added_up(who):
    spaced = json.dumps(json.loads(says())).encode()
    assert "signed different statements" in refused(who, [by(who.key("alice"), says()), by(who.key("bob"), spaced)])


@pytest.mark.parametrize(("name", "was"), [("index.json", ROOT), ("SHA256SUMS", SUMS)])
def test_a_file_other_than_the_signed_one_is_refused_by_name(who, name, was):
    subjects = SUBJECTS | {name: {"sha256": "c" * 64}}
    assert refused(who, both(who, says()), subjects=subjects) == f"{name}: is sha256 {'c' * 64}, signed was {was}"


def test_both_files_swapped_are_both_named(who):
    message = refused(who, both(who, says(root=SUMS, sums=ROOT)))
    assert "index.json: is" in message
    assert "SHA256SUMS: is" in message


def with_subjects(subjects: list) -> bytes:
    value = json.loads(says())
    value["subject"] = subjects
    return canonical.compact(value)


@pytest.mark.parametrize("names", [["index.json"], ["SHA256SUMS"], ["SHA256SUMS", "index.json"], ["index.json", "SHA256SUMS", "x"], ["index.json"] * 2])
def test_other_subjects_are_refused(who, names):
    subjects = [{"name": name, "digest": SUBJECTS.get(name, {"sha256": ROOT})} for name in names]
    assert "its subjects are not index.json, SHA256SUMS" in refused(who, both(who, with_subjects(subjects)))


# Algorithm, signer-kind and key confusion


def test_a_signature_made_with_another_hash_is_refused(who):
    alice = who.key("alice")
    private = key_files.load(who.folder / "alice.key", lambda _: "")
    wrong = private.sign(statement.pae(says()), ec.ECDSA(hashes.SHA384()))
    message = refused(who, [by(alice, says(), signature=wrong), by(who.key("bob"), says())])
    assert message == "signatures/alice.sigstore.json: claims to be by alice and does not verify"


def test_a_signature_over_the_payload_without_its_type_is_refused(who):
    alice = who.key("alice")
    assert "does not verify" in refused(who, [by(alice, says(), signature=alice.sign(says())), by(who.key("bob"), says())])


def test_a_signature_of_another_kind_of_key_under_a_signers_name_is_refused(who):
    carol = who.key("carol")
    forged = by(carol, says(), name="bob", hint=hint(who.key("bob").key_id))
    assert "signatures/bob.sigstore.json: claims to be by bob and does not verify" in refused(who, [by(who.key("alice"), says()), forged])


def test_a_signature_that_names_another_key_is_refused(who):
    moved = by(who.key("alice"), says(), hint=hint(who.key("bob").key_id))
    assert "alice.sigstore.json: names another key than the one that signed" in refused(who, [moved, by(who.key("bob"), says())])
    unnamed = by(who.key("alice"), says(), hint="")
    assert "names another key" in refused(who, [unnamed, by(who.key("bob"), says())])


def test_a_file_name_claims_nothing(who):
    files = [by(who.key("alice"), says(), name="bob"), by(who.key("bob"), says(), name="alice")]
    assert [(s.signer, s.file) for s in judged(who, files).signatures] == [
        ("alice", "signatures/bob.sigstore.json"), ("bob", "signatures/alice.sigstore.json"),
    ]  # fmt: skip


def test_a_bare_key_in_the_place_of_another_signer_kind_is_refused_before_anything_is_counted(who):
    name, raw = by(who.key("alice"), says())
    value = json.loads(raw)
    value["verificationMaterial"] = {"certificate": {"rawBytes": "AAAA"}, "tlogEntries": []}
    message = refused(who, [(name, canonical.compact(value)), *both(who, says())[1:]])
    assert message.startswith("signatures/alice.sigstore.json: not a Sigstore bundle v0.3 of a kind that is known")


def test_one_bad_file_refuses_even_when_the_others_are_enough(who):
    files = [*both(who, says()), ("signatures/x.sigstore.json", b"{}"), ("signatures/y.sigstore.json", b"")]
    message = refused(who, files)
    assert "signatures/x.sigstore.json" in message
    assert "signatures/y.sigstore.json" in message


# A signature made for something else


@pytest.mark.parametrize("predicate", ["https://model_signing/signature/v1.0", "https://slsa.dev/provenance/v1", "https://airgap-bundler.dev/bundle/v2", ""])
def test_a_statement_of_another_kind_is_refused(who, predicate):
    value = json.loads(says()) | {"predicateType": predicate}
    assert "predicateType is not" in refused(who, both(who, canonical.compact(value)))


def test_another_stream_is_refused(who):
    assert "stream: bundle is for 'other', policy for 'test-stream'" in refused(who, both(who, says(stream="other")))


TRICKS = {
    "duplicate key": says().replace(b'"serial":5', b'"serial":5,"serial":9'),
    "unknown field": canonical.compact(json.loads(says()) | {"also": 1}),
    "statement v0.1": canonical.compact(json.loads(says()) | {"_type": "https://in-toto.io/Statement/v0.1"}),
    "not JSON": b"\xff",
    "nothing": b"",
    "deeply nested": b"[" * 100_000,
    "a number": b"1",
    "infinite serial": says().replace(b'"serial":5', b'"serial":1e999'),
    "fractional serial": says().replace(b'"serial":5', b'"serial":5.0'),
    "half a character": says().replace(b'"test"', b'"\\ud800"'),
}


@pytest.mark.parametrize("name", TRICKS)
def test_a_signed_payload_is_still_read_strictly(who, name):
    assert refused(who, both(who, TRICKS[name])).startswith("signed statement: ")


# Rollback and equivocation


def test_serials_only_go_up(who):
    remembered = Memory(serial=5, root=ROOT, last_seen=NOW, policy_version=1)
    assert judged(who, both(who, says(serial=5)), memory=remembered)
    assert judged(who, both(who, says(serial=6)), memory=remembered)
    assert refused(who, both(who, says(serial=4)), memory=remembered) == "serial: 4, this site has already accepted 5"


def test_one_serial_means_one_bundle(who):
    remembered = Memory(serial=5, root="c" * 64, last_seen=NOW, policy_version=1)
    assert refused(who, both(who, says(serial=5)), memory=remembered) == "serial: 5 was accepted before with another content"
    assert judged(who, both(who, says(serial=6)), memory=remembered)


def test_the_floor_of_the_policy_holds_without_any_memory(who):
    assert refused(who, both(who, says(serial=5)), min_serial=6) == "serial: 5 is below the policy's floor 6"
    assert judged(who, both(who, says(serial=5)), min_serial=5)


# Freeze and clocks


def test_an_expired_bundle_is_refused_to_the_second(who):
    files = both(who, says())
    end = NOW + timedelta(days=90)
    assert judged(who, files, now=end - timedelta(seconds=1))
    assert "expires: 2027-02-22T12:00:00Z has passed, it is 2027-02-22T12:00:00Z" in refused(who, files, now=end)


def test_a_bundle_from_the_future_is_refused_beyond_a_day(who):
    files = both(who, says(created=NOW + CLOCK_SKEW))
    assert judged(who, files)
    assert "created: " in refused(who, both(who, says(created=NOW + CLOCK_SKEW + timedelta(seconds=1))))


def test_a_clock_turned_back_does_not_revive_an_expired_bundle(who):
    seen = Memory(last_seen=NOW + timedelta(days=100))
    message = refused(who, both(who, says()), memory=seen, now=NOW + timedelta(days=99))
    assert message == "expires: 2027-02-22T12:00:00Z has passed, it is 2027-03-04T12:00:00Z"
    assert judged(who, both(who, says()), memory=Memory(last_seen=NOW + timedelta(days=1)), now=NOW).now == NOW + timedelta(days=1)


def test_a_clock_more_than_a_day_behind_what_was_seen_is_refused(who):
    seen = Memory(last_seen=NOW + CLOCK_SKEW)
    assert judged(who, both(who, says()), memory=seen)
    message = refused(who, both(who, says()), memory=seen, now=NOW - timedelta(seconds=1))
    assert message == "clock: this machine says 2026-11-24T11:59:59Z, this site has seen 2026-11-25T12:00:00Z"


def test_times_of_another_zone_are_the_same_moment(who):
    elsewhere = NOW.astimezone(tz=None)
    assert judged(who, both(who, says()), now=elsewhere).now == NOW.astimezone(UTC)


# Revocation


def three_signers(who) -> dict[str, object]:
    """Return the changes by which two of alice, bob and carol must sign."""
    signers = json.loads(who.policy.to_bytes())["signers"] | {"carol": signer_entry((who.folder / "carol.pub").read_text())}
    role = {"threshold": 2, "signers": sorted(signers)}
    return {"signers": signers, "roles": {"bundle": role, "policy": role}}


def test_a_revoked_signer_counts_for_nothing(who):
    three = three_signers(who)
    message = refused(who, both(who, says()), **three, revoked__signers=["bob"])
    assert "1 of 2 needed signers" in message
    assert "signatures/bob.sigstore.json: signer bob is revoked by the policy" in message
    found = judged(who, [*both(who, says()), by(who.key("carol"), says())], **three, revoked__signers=["bob"])
    assert [signature.signer for signature in found.signatures] == ["alice", "carol"]
    assert [entry.reason for entry in found.ignored] == ["signer bob is revoked by the policy"]


def test_a_revoked_signer_cannot_spoil_a_bundle_with_another_statement(who):
    files = [by(who.key("alice"), says()), by(who.key("bob"), says(serial=9))]
    found = judged(who, [*files, by(who.key("carol"), says())], **three_signers(who), revoked__signers=["bob"])
    assert found.statement.serial == 5


def test_a_revoked_root_is_refused(who):
    assert refused(who, both(who, says()), revoked__roots=[ROOT]) == f"index.json: bundle sha256:{ROOT} is revoked by the policy"


# The policy itself


def test_an_expired_policy_is_refused_to_the_second(who):
    end = NOW + timedelta(days=365)
    files = both(who, says(expires=end + timedelta(days=10)))
    assert judged(who, files, now=end - timedelta(seconds=1))
    assert "policy: expired on 2027-11-24T12:00:00Z" in refused(who, files, now=end)
    assert "policy: expired" in refused(who, files, memory=Memory(last_seen=end), now=NOW)


def test_an_older_policy_than_one_used_before_is_refused(who):
    assert refused(who, both(who, says()), memory=Memory(policy_version=2)) == "policy: version 1, this site has used version 2"
    assert judged(who, both(who, says()), memory=Memory(policy_version=2), version=2, previous="c" * 64)


def test_a_newer_policy_is_refused_until_its_succession_is_proven(who):
    message = refused(who, both(who, says()), memory=Memory(policy_version=2), version=3, previous="c" * 64)
    assert message == "policy: version 3, this site has used version 2, and that it follows is not proven"


def test_another_content_under_the_version_used_before_is_refused(who):
    used = Memory(policy_version=1, policy_sha256="c" * 64)
    message = refused(who, both(who, says()), memory=used, policy_sha256="d" * 64)
    assert message == f"policy: version 1 has sha256 {'d' * 64}, this site has used one with sha256 {'c' * 64}"
    assert judged(who, both(who, says()), memory=used, policy_sha256="c" * 64)


def test_everything_wrong_is_told_at_once(who):
    message = refused(
        who, both(who, says(stream="other", serial=1, expires=NOW)), memory=Memory(serial=3, root=ROOT), min_serial=2, revoked__roots=[ROOT],
        subjects={"index.json": {"sha256": ROOT}, "SHA256SUMS": {"sha256": ROOT}},
    )  # fmt: skip
    for part in ("stream: ", "expires: ", "serial: 1 is below", "already accepted 3", "is revoked", "SHA256SUMS: is"):
        assert part in message


@pytest.mark.parametrize("at", [0, 1])
def test_no_changed_byte_of_a_signature_file_is_accepted(who, at):
    files = both(who, says())
    name, whole = files[at]
    for place in range(len(whole)):
        raw = bytearray(whole)
        raw[place] ^= 1 << place % 8
        files[at] = (name, bytes(raw))
        with pytest.raises(RefusedError, match=name):
            judged(who, files)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["alice", "bob", "carol"]), max_size=4), st.sampled_from([1, 2]), st.sampled_from([[], ["alice"], ["bob"]]))
def test_enough_distinct_unrevoked_signers_of_the_policy_or_a_refusal(who, names, threshold, revoked):
    files = [by(who.key(name), says(), name=f"{at}-{name}") for at, name in enumerate(names)]
    usable = {"alice", "bob"} - set(revoked)
    counted = set(names) & usable
    changes = {"roles__bundle__threshold": threshold, "roles__policy__threshold": 1, "revoked__signers": revoked}
    if len(usable) < threshold:
        with pytest.raises(InvalidFileError, match="role bundle can never be met"):
            policy(who, **changes)
    elif len(counted) >= threshold:
        found = judged(who, files, **changes)
        assert {signature.signer for signature in found.signatures} == counted
        assert len(found.signatures) + len(found.ignored) == len(names)
    else:
        refused(who, files, **changes)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_as_signature_file_or_payload_end_in_a_refusal(who, raw):
    assert "signatures/x" in refused(who, [*both(who, says()), ("signatures/x", raw)])
    with pytest.raises(AirgapError):
        judged(who, both(who, raw))
