"""One policy follows another only by the thresholds of both, over exactly these bytes, one version at a time."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from hypothesis import given
from hypothesis import strategies as st

from airgap_images.oci import Digest
from audit.signers.file import from_private
from audit.verify.pinned import Presented, admitted
from audit.verify.succession import backing, payload, succeed
from audit.verify.trust import Memory, check_policy
from manifests.errors import RefusedError
from manifests.policy import Policy, first_policy, signer_entry
from manifests.statement import SUFFIX, Envelope, hint

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
NAMES = ("alice", "bob", "carol", "dave", "erin")
PRIVATE = {name: ec.generate_private_key(ec.SECP256R1()) for name in NAMES}
SIGNERS = {name: from_private(name, key) for name, key in PRIVATE.items()}


def entry(name: str) -> dict[str, str]:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return signer_entry(PRIVATE[name].public_key().public_bytes(serialization.Encoding.PEM, form).decode())


def first(*names: str, threshold: int = 2, days: int = 300) -> Policy:
    return first_policy("prod", {name: entry(name) for name in names}, threshold=threshold, expires=NOW + timedelta(days=days))


OLD = first("alice", "bob", "carol")


def follower(old: Policy = OLD, *names: str, **fields: object) -> Policy:
    """The next version, with these signers instead; by carol, dave and erin, so that one person is in both."""
    people = names or ("carol", "dave", "erin")
    role = {"threshold": 2, "signers": list(people)}
    said: dict[str, object] = {"version": old.version + 1, "previous": Digest.of(old.to_bytes()).hex}
    return old.changed(**(said | {"signers": {n: entry(n) for n in people}, "roles": {"bundle": role, "policy": role}} | fields))


NEW = follower()


def files(policy: Policy, *names: str, over: bytes | None = None) -> list[tuple[str, bytes]]:
    signed = over or payload(policy.to_bytes(), policy)
    return [(f"{name}{SUFFIX}", SIGNERS[name].envelope(signed).to_bytes()) for name in names]


def rules(old: Policy, new: Policy, signed, now: datetime = NOW) -> list[str | None]:
    """Return by which rules the next is refused, none if it is accepted."""
    try:
        succeed(old.to_bytes(), new.to_bytes(), signed, now)
    except RefusedError as error:
        return [failure.rule for failure in error.failures]
    return []


def test_both_thresholds_let_it_follow():
    done = succeed(OLD.to_bytes(), NEW.to_bytes(), files(NEW, "alice", "carol", "dave"), NOW)
    assert [s.signer for s in done.old.signatures] == ["alice", "carol"]
    assert [s.signer for s in done.new.signatures] == ["carol", "dave"]
    assert (done.old.waiting, done.new.waiting) == (("bob",), ("erin",))
    assert (done.old.missing, done.new.missing) == (None, None)


@given(st.sets(st.sampled_from(NAMES)))
def test_nothing_less_than_both_thresholds_does(names):
    old, new = len(names & {"alice", "bob", "carol"}) >= 2, len(names & {"carol", "dave", "erin"}) >= 2
    wanted = [f"1.succession-{which}-threshold" for which, met in (("old", old), ("new", new)) if not met]
    assert rules(OLD, NEW, files(NEW, *names)) == wanted


def test_the_refusal_says_which_of_the_two_lacks_whom():
    with pytest.raises(RefusedError) as caught:
        succeed(OLD.to_bytes(), NEW.to_bytes(), files(NEW, "dave", "erin"), NOW)
    (failure,) = caught.value.failures
    assert "is not signed as version 1, the policy in force, asks: 0 of 2 needed signers" in failure.message
    assert "not by alice, bob, carol" in failure.message
    with pytest.raises(RefusedError) as caught:
        succeed(OLD.to_bytes(), NEW.to_bytes(), files(NEW, "alice", "bob"), NOW)
    assert "as version 2, the next policy itself, asks" in caught.value.message
    assert "not by carol, dave, erin" in caught.value.message


BOTH = ("alice", "carol", "dave")
LINKS = {
    "a version is skipped": (follower(version=3), "1.succession-version"),
    "the same version again": (follower(follower()).changed(version=2), "1.succession-previous"),
    "another one before": (follower(previous="0" * 64), "1.succession-previous"),
    "another stream": (follower(stream="other"), "1.succession-stream"),
    "expired": (follower(expires="2026-11-24T12:00:00Z"), "1.policy-expired"),
}


@pytest.mark.parametrize("name", LINKS)
def test_a_policy_that_does_not_follow_is_refused_whoever_signed(name):
    new, rule = LINKS[name]
    assert rules(OLD, new, files(new, *BOTH)) == [rule]


def test_going_back_is_refused():
    third = follower(NEW)
    assert rules(third, NEW, files(NEW, *BOTH)) == ["1.succession-version"]
    assert rules(NEW, NEW, files(NEW, *BOTH)) == ["1.succession-version"]
    assert rules(NEW, OLD, files(OLD, *NAMES)) == ["1.succession-version"]


def test_the_one_before_may_have_expired():
    old = first("alice", "bob", "carol", days=-1)
    new = follower(old, expires="2027-11-24T12:00:00Z")
    assert rules(old, new, files(new, *BOTH)) == []


def test_whom_a_version_revokes_does_not_count_under_it():
    old = first("alice", "bob", "carol", "dave").changed(revoked={"signers": ["alice"], "roots": [], "blobs": []})
    new = follower(old, revoked={"signers": [], "roots": [], "blobs": []})
    assert rules(old, new, files(new, "alice", "carol", "dave")) == []  # carol and dave are enough
    assert rules(old, new, files(new, "alice", "carol", "erin")) == ["1.succession-old-threshold"]
    leaving = follower(OLD, "alice", "carol", "dave", revoked={"signers": ["alice"], "roots": [], "blobs": []})
    assert rules(OLD, leaving, files(leaving, "alice", "bob", "carol")) == ["1.succession-new-threshold"]
    assert rules(OLD, leaving, files(leaving, "alice", "carol", "dave")) == []  # who goes may still sign for the version that trusts her


def test_one_signer_and_one_key_count_once():
    twice = [*files(NEW, "alice", "dave", "erin"), ("again.sigstore.json", files(NEW, "alice")[0][1])]
    assert rules(OLD, NEW, twice) == ["1.succession-old-threshold"]


def test_only_these_very_bytes_count():
    other = follower(min_serial=5)
    assert rules(OLD, NEW, files(other, *BOTH)) == ["1.succession-old-threshold", "1.succession-new-threshold"]
    assert rules(OLD, NEW, [*files(NEW, "alice", "dave"), *files(other, "carol")]) == [
        "1.succession-old-threshold", "1.succession-new-threshold",
    ]  # fmt: skip
    respelled = NEW.to_bytes().replace(b'"version": 2', b'"version":  2')
    assert Policy.parse(respelled) == NEW
    with pytest.raises(RefusedError, match="0 of 2"):
        succeed(OLD.to_bytes(), respelled, files(NEW, *BOTH), NOW)


def test_a_bundles_statement_is_none_of_a_policys():
    claims = payload(NEW.to_bytes(), NEW).replace(b"/policy/v1", b"/bundle/v1")
    assert rules(OLD, NEW, files(NEW, *BOTH, over=claims)) == ["1.succession-old-threshold", "1.succession-new-threshold"]


def test_a_file_that_claims_a_signer_and_is_not_theirs_is_refused_however_many_others_signed():
    good = files(NEW, *BOTH)
    envelope = Envelope.parse(files(NEW, "erin")[0][1], "x")
    forged = replace(envelope, hint=hint(SIGNERS["bob"].key_id))
    assert set(rules(OLD, NEW, [*good, ("forged.sigstore.json", forged.to_bytes())])) == {"1.succession-signature"}
    torn = bytearray(good[0][1])
    torn[-20] ^= 1
    assert rules(OLD, NEW, [*good[1:], ("torn.sigstore.json", bytes(torn))])[0] == "1.succession-signature"
    assert rules(OLD, NEW, [*good, ("empty.sigstore.json", b"{}")]) == ["1.succession-signature"]


def test_a_signature_by_a_stranger_is_passed_over():
    stranger = from_private("mallory", ec.generate_private_key(ec.SECP256R1()))
    signed = stranger.envelope(payload(NEW.to_bytes(), NEW)).to_bytes()
    assert rules(OLD, NEW, [*files(NEW, *BOTH), ("mallory.sigstore.json", signed)]) == []


def test_who_may_sign_bundles_only_does_not_decide_who_is_trusted():
    roles = {"bundle": {"threshold": 1, "signers": ["alice", "bob", "carol"]}, "policy": {"threshold": 1, "signers": ["carol"]}}
    old = OLD.changed(roles=roles)
    new = follower(old)
    assert rules(old, new, files(new, "alice", "bob", "dave", "erin")) == ["1.succession-old-threshold"]
    done = succeed(old.to_bytes(), new.to_bytes(), files(new, "alice", "carol", "dave"), NOW)
    assert [s.signer for s in done.old.signatures] == ["carol"]
    assert "signer alice may not sign policies under version 1" in [entry.reason for entry in done.old.ignored]


def test_required_groups_hold_for_policies_too():
    role = {"threshold": 2, "signers": ["alice", "bob", "carol"], "require_any_of": [["alice"]]}
    old = OLD.changed(roles={"bundle": role, "policy": role})
    new = follower(old)
    assert rules(old, new, files(new, "bob", "carol", "dave")) == ["1.succession-old-threshold"]
    assert rules(old, new, files(new, "alice", "carol", "dave")) == []


def test_profile_cnsa_asks_both_algorithms_of_who_signs_a_policy():
    private = {"p384": ec.generate_private_key(ec.SECP384R1()), "quantum": mldsa.MLDSA87PrivateKey.generate(), "other": ec.generate_private_key(ec.SECP384R1())}
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    people = {n: signer_entry(k.public_key().public_bytes(serialization.Encoding.PEM, form).decode()) for n, k in private.items()}
    old = first_policy("prod", people, threshold=2, expires=NOW + timedelta(days=9), profile="cnsa")
    new = old.changed(version=2, previous=Digest.of(old.to_bytes()).hex)
    signed = {n: (f"{n}{SUFFIX}", from_private(n, k).envelope(payload(new.to_bytes(), new)).to_bytes()) for n, k in private.items()}
    assert rules(old, new, [signed["p384"], signed["quantum"]]) == []
    assert rules(old, new, [signed["p384"], signed["other"]]) == ["1.succession-old-threshold", "1.succession-new-threshold"]


def test_the_order_of_files_does_not_matter():
    for order in itertools.permutations(files(NEW, *BOTH)):
        assert rules(OLD, NEW, order) == []


def test_what_everybody_signs_has_no_clock_in_it_and_names_both_hashes():
    raw = NEW.to_bytes()
    assert payload(raw, NEW) == payload(raw, Policy.parse(raw))
    assert Digest.of(raw).hex.encode() in payload(raw, NEW)
    assert Digest.of(OLD.to_bytes()).hex.encode() in payload(raw, NEW)


def test_the_first_version_has_its_own_threshold_only():
    found = backing(OLD, payload(OLD.to_bytes(), OLD), files(OLD, "alice"), NOW)
    assert (found.missing, found.waiting) == ("1 of 2 needed signers", ("bob", "carol"))
    assert backing(OLD, payload(OLD.to_bytes(), OLD), files(OLD, "alice", "bob"), NOW).missing is None


# What a site lets through


def presented(policy: Policy, *names: str) -> Presented:
    return Presented(policy.to_bytes(), tuple(files(policy, *names)))


def knows(policy: Policy) -> Memory:
    return Memory(policy_version=policy.version, policy_sha256=Digest.of(policy.to_bytes()).hex)


def test_where_nothing_is_remembered_the_policy_is_taken_as_given():
    assert admitted(Memory(), None, presented(NEW), NOW) == (Memory(), None)


def test_a_proven_successor_is_in_the_memory_to_judge_by_and_nothing_else_passes():
    memory, proven = admitted(knows(OLD), OLD.to_bytes(), presented(NEW, *BOTH), NOW)
    assert (memory, proven.old.version) == (knows(NEW), 1)
    assert check_policy(NEW, Digest.of(NEW.to_bytes()).hex, memory, NOW) == NOW
    with pytest.raises(RefusedError) as caught:
        check_policy(NEW, Digest.of(NEW.to_bytes()).hex, knows(OLD), NOW)
    assert caught.value.rule == "1.succession-unproven"


@pytest.mark.parametrize(
    ("policy", "kept", "signed", "rule"),
    [
        (NEW, OLD.to_bytes(), ("dave", "erin"), "1.succession-old-threshold"),
        (NEW, None, BOTH, "1.succession-unknown"),
        (NEW, first("alice", "bob", "carol", days=301).to_bytes(), BOTH, "1.succession-previous"),
        (follower(NEW), OLD.to_bytes(), NAMES, "1.succession-version"),
    ],
)
def test_what_a_site_does_not_let_through(policy, kept, signed, rule):
    with pytest.raises(RefusedError) as caught:
        admitted(knows(OLD), kept, presented(policy, *signed), NOW)
    assert caught.value.rule == rule


def test_a_version_more_than_one_ahead_is_refused_with_the_way_to_go():
    with pytest.raises(RefusedError) as caught:
        admitted(knows(OLD), OLD.to_bytes(), presented(follower(follower(NEW)), *NAMES), NOW)
    assert "2 between are missing" in caught.value.message
    assert "in their order" in caught.value.hint


def test_the_time_that_counts_is_the_later_one():
    seen = replace(knows(OLD), last_seen=NOW + timedelta(days=400))
    with pytest.raises(RefusedError) as caught:
        admitted(seen, OLD.to_bytes(), presented(NEW, *BOTH), NOW)
    assert caught.value.rule == "1.policy-expired"
