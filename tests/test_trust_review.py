"""What somebody tried who wanted a bad bundle, signer or policy accepted, the verifier to fall over, or a secret to leave: refused for good."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from parts import bundles, installs
from parts.authority import DAY, NOW, Party, entry, known, mail, root, uri
from parts.bundles import STREAM

from audit.install import history, memory, receipts, undo
from audit.install.store import Store
from audit.signers.file import from_private
from audit.verify import images, keyless, model_signatures, slsa, state, x509
from audit.verify.claims import Claim, Keyless
from audit.verify.recognise import Recognised, recognise
from audit.verify.result import Signature
from audit.verify.succession import backing, payload
from audit.verify.trust import Memory, judge
from audit.verify.walk import Place, verify
from bundler import sign, uvtool
from manifests import canonical, statement
from manifests.errors import AirgapError, InvalidFileError, RefusedError, TrustError
from manifests.policy import Policy, first_policy, signer_entry
from manifests.statement import SUFFIX, Envelope
from manifests.upstream import Upstream

SUBJECTS = {"index.json": {"sha256": "a" * 64}, "SHA256SUMS": {"sha256": "b" * 64}}
EARLY, LATE = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.fixture(scope="module")
def top() -> Party:
    return root()


@pytest.fixture(scope="module")
def who(tmp_path_factory) -> bundles.Site:
    return bundles.site(tmp_path_factory.mktemp("keys"))


def says(created: datetime = NOW, expires: datetime = NOW + 9 * DAY) -> bytes:
    terms = {"stream": STREAM, "serial": 5, "previous": None, "policy_version": 1, "tool": ("airgap-bundler", "test")}
    return statement.payload(SUBJECTS, created=created, expires=expires, **terms)


def policy(signers: dict, *, threshold: int = 1, **more: object) -> Policy:
    return first_policy(STREAM, signers, threshold=threshold, expires=NOW + timedelta(days=300)).changed(**more)


def refusal(error: AirgapError) -> tuple[str, list[str | None]]:
    reasons = error.failures if isinstance(error, RefusedError) else (error,)
    return " | ".join(reason.message for reason in reasons), [reason.rule for reason in reasons]


# A key that was revoked comes back under another name


@pytest.fixture(scope="module")
def stolen(top) -> tuple[Party, Policy]:
    """The key of `old`, who is revoked, in a certificate of `bob`, who is not."""
    key = ec.generate_private_key(ec.SECP384R1())
    bob, carol = top.signer("bob", key=key), top.signer("carol")
    signers = {"old": signer_entry(pem(key)), "bob": entry(top, bob), "carol": entry(top, carol)}
    return bob, policy(signers, revoked={"signers": ["old"], "roots": [], "blobs": []})


def pem(key: ec.EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_a_revoked_key_does_not_count_in_somebodys_certificate_either(stolen):
    bob, rules = stolen
    with pytest.raises(RefusedError) as caught:
        judge(rules, SUBJECTS, [("signatures/bob.sigstore.json", bob.envelope(says()).to_bytes())], Memory(), NOW)
    said, names = refusal(caught.value)
    assert "made with the key of old, who is revoked by the policy" in said
    assert names == ["4.threshold"]


def test_a_revoked_key_signs_no_policy_under_another_name(stolen):
    bob, rules = stolen
    signed = payload(rules.to_bytes(), rules)
    found = backing(rules, signed, [(f"bob{SUFFIX}", bob.envelope(signed).to_bytes())], NOW)
    assert (found.signatures, found.missing) == ((), "0 of 1 needed signers")
    assert "made with the key of old, who is revoked by version 1" in found.ignored[0].reason


def test_a_revoked_key_vouches_for_no_model_under_another_name(stolen):
    bob, rules = stolen
    used = from_private("bob", bob.key).key_id
    assert "the key of old, who is revoked" in str(model_signatures._discounted(rules, Signature("bob", "x509", "x", used, "f")))
    assert model_signatures._discounted(rules, Signature("bob", "x509", "x", "0" * 64, "f")) is None


def test_whoever_is_revoked_stays_known_and_a_name_that_is_misspelt_revokes_nobody_in_silence(top):
    with pytest.raises(InvalidFileError, match="revokes 'alcie', who is not among the signers"):
        policy({"alice": entry(top, subject="CN=alice"), "b": entry(top, subject="CN=b")}, revoked={"signers": ["alcie"], "roots": [], "blobs": []})


# One person under two names


@pytest.mark.parametrize("alg", ["ecdsa-p384-sha384", "ecdsa-p256-sha256"])
def test_a_person_with_a_subject_is_not_another_with_that_subject_and_an_address(top, alg):
    narrow = entry(top, subject="CN=bob", san="bob@example.com") | {"alg": alg}
    for signers in ({"a": narrow, "b": entry(top, subject="CN=bob")}, {"a": entry(top, san="bob@example.com"), "b": narrow}):
        with pytest.raises(InvalidFileError, match="one of them is one signer"):
            policy(signers, threshold=2)
    policy({"a": narrow, "b": entry(top, subject="CN=bob", san="bob@example.org")}, threshold=2)
    policy({"a": entry(top, subject="CN=bob"), "b": entry(top, san="eve@example.com")}, threshold=2)


def test_one_certificate_that_fits_two_signers_counts_for_one(top):
    bob = top.signer("bob", san=mail("eve@example.com"))
    rules = policy({"a": entry(top, bob), "b": entry(top, san="eve@example.com")}, threshold=2)
    files = [(f"signatures/{at}.sigstore.json", bob.envelope(says()).to_bytes()) for at in range(2)]
    with pytest.raises(RefusedError, match="1 of 2 needed signers"):
        judge(rules, SUBJECTS, files, Memory(), NOW)


def test_an_address_is_no_uri_and_a_uri_no_address(top):
    for san, other in ((mail("bob@example.com"), uri("bob@example.com")), (uri("mailto:bob@example.com"), None)):
        mine, theirs = top.signer("x", san=san), top.signer("x", san=other) if other else None
        assert x509.leaf(known(top, mine, san=san.value), (mine.der,), NOW)
        if theirs:
            assert x509.leaf(known(top, theirs, san=san.value), (theirs.der,), NOW) is None


# Too much, and times at the end of time


def test_a_keyless_file_is_asked_about_for_those_it_names_only(monkeypatch):
    asked: list[int] = []
    people = {f"p{at}": {"type": "sigstore", "identity": f"https://x/{at}", "issuer": "https://i", "trusted_root": "r"} for at in range(200)}
    role = {"threshold": 1, "signers": sorted(people)}
    roots = {"r": {"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}}
    rules = {"version": 1, "expires": "2099-01-01T00:00:00Z", "stream": STREAM, "signers": people, "trusted_roots": roots}
    rules = Policy.parse(canonical.compact(rules | {"roles": {"bundle": role, "policy": role}}))
    envelope = Envelope("sigstore", b"{}", b"s", chain=(b"none",), raw=b"{}")
    monkeypatch.setattr(Envelope, "parse", lambda *_, **__: envelope)

    def ask(questions):
        asked.append(len(questions))
        return tuple(keyless.Answer("unverifiable", "x") for _ in questions)

    found: Recognised = recognise(rules, [("a", b"")], NOW, ask)
    assert (asked, len(found.ignored)) == ([], 1)
    said = x509.Fulcio("https://x/7", "https://i", None, ("https://x/7", "https://x/8"))
    monkeypatch.setattr(x509, "fulcio", lambda _: said)
    monkeypatch.setattr("audit.verify.recognise.form.log", lambda _: "l")
    recognise(rules, [("a", b"")], NOW, ask)
    assert asked == [2]


def test_what_many_ask_about_is_in_a_question_once():
    bundle = b"[" + b"1," * 100_000 + b"1]"
    questions = tuple(keyless.Question(bundle, None, f"i{at}", "https://i", b"{}") for at in range(50))
    assert len(keyless._encoded(questions)) < 2 * len(bundle)


def test_too_much_is_not_even_written_down(monkeypatch):
    monkeypatch.setattr(keyless, "MAX_QUESTION", 100)
    monkeypatch.setattr(keyless, "_encoded", lambda _: pytest.fail("was written"))
    (answer,) = keyless.judge([keyless.Question(b"x" * 101, None, "i", "https://i", b"{}")])
    assert answer.result == "unverifiable"
    assert "at most 100 are judged at once" in answer.reason


@pytest.mark.parametrize("now", [EARLY, LATE])
@pytest.mark.parametrize("seen", [None, EARLY, LATE])
def test_no_clock_and_no_memory_of_one_makes_the_judge_fall_over(who, now, seen):
    files = [(f"signatures/{name}.sigstore.json", who.key(name).envelope(says(EARLY, LATE)).to_bytes()) for name in ("alice", "bob")]
    with contextlib.suppress(RefusedError):
        judge(who.policy, SUBJECTS, files, Memory(last_seen=seen), now)


@pytest.mark.parametrize("kind", ["key", "x509"])
def test_more_timestamps_than_are_allowed_are_refused_whatever_the_kind(kind):
    fields = {"hint": "x"} if kind == "key" else {"chain": (b"c",)}
    most = replace(Envelope(kind, b"{}", b"s", **fields), timestamps=(b"t",) * statement.MAX_TIMESTAMPS)
    assert Envelope.parse(most.to_bytes(), "f") == most
    with pytest.raises(InvalidFileError):
        Envelope.parse(replace(most, timestamps=(b"t",) * (statement.MAX_TIMESTAMPS + 1)).to_bytes(), "f")


def test_a_receipt_the_journal_tells_of_is_not_read_again(desk, monkeypatch):
    for serial in (1, 2):
        desk.install(desk.bundle(serial, image=False))
    before = history.history(desk.store)
    monkeypatch.setattr(receipts, "read", lambda *_: pytest.fail("was read"))
    assert history.history(desk.store) == before


# Back to what nobody would accept any more


@pytest.fixture
def desk(tmp_path) -> installs.Desk:
    return installs.Desk(tmp_path, bundles.site(tmp_path))


def next_policy(desk: installs.Desk, **fields: object) -> bytes:
    carol = signer_entry((desk.folder / "carol.pub").read_text())
    old = desk.who.policy
    said = {"version": 2, "previous": memory.Presented(old.to_bytes()).sha256, "signers": json.loads(old.to_bytes())["signers"] | {"carol": carol}}
    role = {"threshold": 2, "signers": ["alice", "bob", "carol"]}
    return old.changed(**(said | {"roles": {"bundle": role, "policy": role}} | fields)).to_bytes()


@pytest.fixture
def two(desk) -> Path:
    for serial in (1, 2):
        desk.install(desk.bundle(serial, image=False))
    return desk.store


def put_in_force(desk: installs.Desk, raw: bytes) -> None:
    presented = memory.Presented(raw)
    memory.pin(Store.existing(desk.store), desk.store, presented, presented.sha256, now=bundles.NOW)


def test_nobody_goes_back_to_a_bundle_whose_signers_were_revoked(desk, two):
    put_in_force(desk, next_policy(desk, revoked={"signers": ["bob"], "roots": [], "blobs": []}))
    with pytest.raises(TrustError, match="generation 1: bob is revoked by the policy in force, version 2: 1 of 2 needed signers") as caught:
        undo.rollback(two, now=bundles.NOW)
    assert caught.value.rule == "4.threshold"
    assert Store.existing(two).current() == 2


def test_going_back_is_fine_where_whoever_was_revoked_was_not_needed(desk, two):
    put_in_force(desk, next_policy(desk, revoked={"signers": ["carol"], "roots": [], "blobs": []}))
    assert undo.rollback(two, now=bundles.NOW).generation == 1


def test_nobody_goes_back_while_what_is_revoked_is_not_known(desk, two):
    kept = (two / state.FILE).read_bytes()
    (two / state.FILE).unlink()
    with pytest.raises(TrustError, match="it was lost") as caught:
        undo.rollback(two, now=bundles.NOW)
    assert caught.value.rule == "1.state-lost"
    (two / state.FILE).write_bytes(kept)
    put_in_force(desk, next_policy(desk))
    shutil.rmtree(two / state.POLICIES)
    with pytest.raises(TrustError, match="lacks the file of the policy in force, version 2: it was lost") as caught:
        undo.rollback(two, now=bundles.NOW)
    assert caught.value.rule == "1.state-lost"
    put_in_force(desk, next_policy(desk))
    assert undo.rollback(two, now=bundles.NOW).generation == 1


def test_an_older_state_of_the_same_serial_does_not_set_the_clock_back(desk):
    desk.install(desk.bundle(1, image=False))
    older = (desk.store / state.FILE).read_bytes()
    desk.install(desk.folder / "bundle-1", now=bundles.NOW + 30 * DAY)
    (desk.store / state.FILE).write_bytes(older)
    presented = memory.Presented(desk.who.policy_raw)
    found, _ = memory.remembered(presented, bundles.NOW, desk.store, (desk.store,))
    assert found.last_seen == bundles.NOW + 30 * DAY
    with pytest.raises(RefusedError) as caught:
        desk.install(desk.folder / "bundle-1", now=bundles.NOW + 28 * DAY)
    assert refusal(caught.value)[1] == ["1.clock"]


# A policy that was proven is not recorded over another that came into force meanwhile


def test_a_successor_of_a_policy_that_is_no_longer_in_force_is_not_recorded(desk, two):
    successor = memory.Presented(next_policy(desk))
    proven = verify(Place.of(desk.folder / "bundle-2"), desk.who.policy_raw, memory=Memory(), now=bundles.NOW)
    proven = replace(proven, policy_raw=successor.raw, policy_version=2, policy_sha256=successor.sha256)
    other = desk.who.policy.changed(min_serial=1).to_bytes()
    state.record_policy(two, other, bundles.NOW, pinned=True)  # of the same version, by paper, while the successor was being proven
    with pytest.raises(TrustError, match="the one in force now is version 1 with sha256") as caught:
        state.record(two, proven, bundles.NOW)
    assert caught.value.rule == "1.succession-previous"
    state.record_policy(two, desk.who.policy_raw, bundles.NOW, pinned=True)
    assert state.record(two, proven, bundles.NOW).policy_sha256 == successor.sha256


# A statement that somebody put beside a bundle for others to sign


def test_nobody_signs_a_planted_statement_for_another_stream(who, tmp_path):
    bundles.layout(tmp_path / "b", {"docs": {"a": b"a"}})
    index = sign._roots(tmp_path / "b")
    digests = {name: sign._digests(raw, twice=False) for name, raw in index.items()}
    terms = {"serial": 1, "created": NOW, "expires": NOW + DAY, "previous": None, "policy_version": None, "tool": ("t", "1")}
    planted = statement.payload(digests, stream="prod", **terms)
    (tmp_path / "b/signatures").mkdir()
    (tmp_path / "b/signatures/mallory.sigstore.json").write_bytes(Envelope("key", planted, b"none", hint="nobody").to_bytes())
    with pytest.raises(TrustError, match="is for stream 'prod', which is not that of the bundle"):
        sign.sign(tmp_path / "b", who.key("bob"), bundles.terms(None))
    assert [path.name for path in (tmp_path / "b/signatures").iterdir()] == ["mallory.sigstore.json"]


# What a verifier says


def test_of_an_image_by_a_certificate_it_is_said_that_none_counts(top):
    bob = top.signer("bob")
    section = Upstream(identities={"acme": known(top, bob)}, images=({"match": "**", "signed_by": ["acme"]},))
    claim = Claim(None, (), b"", b"", keyless=Keyless(b"{}", b""))
    assert "not acme: a certificate of a pinned authority is none that signs images here" in images._failed(claim, ("acme",), section)


def test_provenance_that_names_a_component_twice_allows_no_claim():
    part = {"name": "a", "digest": {"sha256": "a" * 64}}
    value = {"predicateType": slsa.PREDICATE, "subject": [part, part], "predicate": {"runDetails": {"builder": {"id": "b"}}}}
    with pytest.raises(ValueError, match="names a component twice"):
        slsa._builder(value, None)


# Secrets


def test_no_secret_that_signs_reaches_the_code_of_a_project_that_is_resolved():
    given = {"PATH": "/bin", "UV_INDEX_URL": "u"}
    assert uvtool._public(given | dict.fromkeys(uvtool.SECRETS, "s3cret")) == given
    assert {"AIRGAP_PASSPHRASE", "AIRGAP_PIN", "SIGSTORE_ID_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"} <= uvtool.SECRETS
