"""Signing bundles without a key: the right workflow is accepted offline, a fork is not, and nothing unverified is ever written."""

from __future__ import annotations

import base64
import json
import logging
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from parts import bundles
from parts.cli import BIN, NO_NETWORK, Desk, need_namespaces
from parts.rekor1 import Rekor1, rekor1
from parts.sigstore import FULCIO, ISSUER, Der, PrivateSigstore, encoded, private_sigstore

from audit.verify import keyless as judging
from audit.verify import x509 as naming
from audit.verify.keyless import Answer, Question
from audit.verify.recognise import Recognised, recognise
from bundler import identity, keyless, sign
from bundler.keyless import KeylessSigner, open_signer, short
from manifests import canonical, statement
from manifests import keyless as form
from manifests.errors import AirgapError, InvalidFileError, NetworkError, TrustError, UsageError
from manifests.policy import Policy, signer_entry
from manifests.statement import Envelope

WORKFLOW = "https://git.example.test/vllm/tool/.ci/release.yml@refs/heads/main"
FORK = "https://git.example.test/fork/tool/.ci/release.yml@refs/heads/main"
REPOSITORY = "https://git.example.test/vllm/tool"
STAMPS, CERTIFICATES, ENTRIES = "/api/v1/timestamp", "/api/v2/signingCert", "/api/v2/log/entries"
PAYLOAD = statement.policy_payload(b"{}", stream="s", version=1, previous=None)
ROOT = Path(__file__).resolve().parents[1]
MADE: dict[tuple[Any, ...], bytes] = {}


@pytest.fixture(scope="module")
def running() -> Iterator[PrivateSigstore]:
    with private_sigstore() as found:
        yield found


@pytest.fixture(scope="module")
def older(running) -> Iterator[Rekor1]:
    with rekor1(running) as log:
        log.grow(3)
        yield log


@pytest.fixture
def private(running) -> Iterator[PrivateSigstore]:
    yield running
    running.refusals.clear()
    running.changes.clear()
    running.asked.clear()


@dataclass(frozen=True)
class Site:
    """A folder with a client trust config, and the instance that it describes."""

    folder: Path
    private: PrivateSigstore
    config: dict[str, Any]

    @property
    def uri(self) -> str:
        path = self.folder / "trust.json"
        path.write_text(json.dumps(self.config))
        return str(path)

    @property
    def root(self) -> dict[str, Any]:
        return self.config["trustedRoot"]

    def signer(self, who: str = WORKFLOW, **claims: Any) -> KeylessSigner:
        return open_signer(self.uri, lambda _: self.private.token(who, **claims))

    def signed(self, who: str = WORKFLOW, **claims: Any) -> bytes:
        """Return a signature by somebody; making one takes most of a second, and an old one is as good."""
        known = (canonical.compact(self.root), who, *sorted(claims.items()))
        if known not in MADE:
            MADE[known] = self.signer(who, **claims).envelope(PAYLOAD).to_bytes()
        return MADE[known]

    def policy(self, *more: tuple[str, dict[str, str]], threshold: int = 1, **signer: str) -> Policy:
        entry = {"type": "sigstore", "identity": WORKFLOW, "issuer": ISSUER, "trusted_root": "ours"} | signer
        entry = {key: value for key, value in entry.items() if value}
        return policy({"ci": entry} | dict(more), {"ours": self.root}, threshold)


def policy(signers: dict[str, dict[str, str]], roots: dict[str, Any], threshold: int = 1) -> Policy:
    role = {"threshold": threshold, "signers": sorted(signers)}
    value = {
        "version": 1, "expires": "2099-01-01T00:00:00Z", "stream": bundles.STREAM, "signers": signers, "trusted_roots": roots,
        "roles": {"bundle": role, "policy": role},
    }  # fmt: skip
    return Policy.parse(canonical.compact(value))


@pytest.fixture(params=["Rekor v2", "Rekor v1"])
def site(request, tmp_path, private, older) -> Site:
    """An instance with either kind of log; the older kind needs no timestamp authority."""
    if request.param == "Rekor v2":
        return Site(tmp_path, private, private.trust_config())
    return Site(tmp_path, private, private.trust_config(log=(older.url, 1), stamps=0, root=older.trusted_root()))


@pytest.fixture
def newer(tmp_path, private) -> Site:
    return Site(tmp_path, private, private.trust_config())


def seen(policy: Policy, *raw: bytes, ask: Any = judging.judge) -> Recognised:
    return recognise(policy, [(f"signatures/{at}.sigstore.json", one) for at, one in enumerate(raw)], datetime.now(UTC), ask)


def terms(serial: int | None = 1) -> sign.Terms:
    return bundles.terms(serial, created=datetime.now(UTC))


# By command line: acceptance


@pytest.fixture
def desk(tmp_path) -> Desk:
    bundles.layout(tmp_path / "bundle", {"docs": {"a.txt": b"hello"}})
    return Desk(tmp_path)


def command(desk: Desk, site: Site, who: str = WORKFLOW, *more: str, code: int | None = 0) -> Any:
    (desk.folder / "token").write_text(site.private.token(who) + "\n")
    return desk.bundle("sign", "bundle", "--key", f"sigstore:{site.uri}", "--identity-token-file", "token", *more, code=code)


@pytest.mark.parts
def test_the_right_workflow_is_accepted_without_a_network_and_a_fork_is_refused(desk, site):
    (desk.folder / "policy.json").write_bytes(site.policy().to_bytes())
    command(desk, site, WORKFLOW, "--serial", "1")
    found = desk.audit("verify", "bundle", "--policy", "policy.json", "--json", isolated=True).json
    (signature,) = found["signatures"]
    assert (signature["signer"], signature["file"]) == ("ci", "signatures/vllm-tool-ci-release.yml.sigstore.json")
    shutil.rmtree(desk.folder / "bundle/signatures")
    command(desk, site, FORK, "--serial", "1")
    refused = desk.audit("verify", "bundle", "--policy", "policy.json", isolated=True, code=3)
    assert "0 of 1 needed signers" in refused.err
    assert f"its certificate names {FORK} as stated by {ISSUER}, whom this policy does not name" in refused.err


@pytest.mark.parts
def test_one_with_an_identity_and_one_with_a_key_make_two(desk, site):
    desk.bundle("keygen", "alice", "--out", "keys", "--no-passphrase")
    alice = ("alice", signer_entry((desk.folder / "keys/alice.pub").read_text()))
    (desk.folder / "policy.json").write_bytes(site.policy(alice, threshold=2).to_bytes())
    desk.bundle("sign", "bundle", "--key", "file:keys/alice.key", "--serial", "4")
    command(desk, site)
    assert [s["signer"] for s in desk.audit("verify", "bundle", "--policy", "policy.json", "--json", isolated=True).json["signatures"]] == ["alice", "ci"]
    for path in sorted((desk.folder / "bundle/signatures").iterdir()):
        path.rename(desk.folder / "kept")
        refused = desk.audit("verify", "bundle", "--policy", "policy.json", isolated=True, code=3)
        assert "1 of 2 needed signers" in refused.err
        (desk.folder / "kept").rename(path)


def test_the_command_writes_once_under_the_name_asked_for(desk, newer):
    command(desk, newer, WORKFLOW, "--serial", "1", "--name", "pipeline")
    assert [path.name for path in (desk.folder / "bundle/signatures").iterdir()] == ["pipeline.sigstore.json"]
    again = command(desk, newer, WORKFLOW, "--json").json
    assert len(list((desk.folder / "bundle/signatures").iterdir())) == 1, again
    assert command(desk, newer, FORK, "--name", "pipeline", code=2).err.startswith("error: ")


@pytest.mark.parametrize("way", ["variable", "CI"])
def test_the_token_may_come_from_the_environment(tmp_path, desk, newer, private, way):
    claims = {"iss": identity.GITHUB, "job_workflow_ref": "org/repo/.github/workflows/release.yml@refs/tags/v1", "repository": "https://github.com/org/repo"}
    token = private.token("repo:org/repo:ref:refs/tags/v1", **claims)
    private.ambient = token
    ci = {"GITHUB_ACTIONS": "true", "ACTIONS_ID_TOKEN_REQUEST_URL": f"{private.url}/ambient?api=1", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of the right"}
    given = {"SIGSTORE_ID_TOKEN": token} if way == "variable" else ci
    there = Desk(tmp_path, tuple(given.items()))
    done = there.bundle("sign", "bundle", "--key", f"sigstore:{newer.uri}", "--serial", "1")
    assert token not in done.out + done.err
    (path,) = (tmp_path / "bundle/signatures").iterdir()
    assert path.name == "org-repo-github-workflows-release.yml.sigstore.json"
    raw = path.read_bytes()
    (found,) = seen(newer.policy(identity="https://github.com/org/repo/.github/workflows/release.yml@refs/tags/v1", issuer=identity.GITHUB), raw).signatures
    assert found[1].signer == "ci"
    (found,) = seen(newer.policy(identity="", repository="https://github.com/org/repo", issuer=identity.GITHUB), raw).signatures
    assert "any workflow of https://github.com/org/repo" in found[1].trusted_by
    assert [path for path, _ in private.asked].count("/ambient?api=1&audience=sigstore") == (way == "CI")


def test_a_ci_that_does_not_give_a_token_is_told_what_it_lacks(tmp_path, desk, newer, private):
    ci = {"GITHUB_ACTIONS": "true", "ACTIONS_ID_TOKEN_REQUEST_URL": f"{private.url}/ambient?api=1", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "another"}
    for given in (ci, {"GITHUB_ACTIONS": "true"}):
        done = Desk(tmp_path, tuple(given.items())).bundle("sign", "bundle", "--key", f"sigstore:{newer.uri}", "--serial", "1", code=2)
        assert "gives no identity token: GitHub" in done.err
        assert "id-token: write" in done.err


def test_without_any_token_one_error_says_the_ways(desk, newer):
    done = desk.bundle("sign", "bundle", "--key", f"sigstore:{newer.uri}", "--serial", "1", code=2)
    assert "an identity token is needed" in done.err
    assert all(way in done.err for way in ("--identity-token-file", "SIGSTORE_ID_TOKEN", "id-token: write", "id_tokens"))


@pytest.mark.parts
def test_the_public_instance_is_asked_for_over_the_network_and_nothing_else_is_tried(tmp_path, desk, newer):
    need_namespaces()
    (tmp_path / "token").write_text(newer.private.token(WORKFLOW))
    arguments = ("sign", "bundle", "--key", "sigstore:", "--identity-token-file", "token", "--serial", "1")
    done = subprocess.run(
        [*NO_NETWORK, str(BIN / "airgap-bundle"), *arguments], cwd=tmp_path, env=desk.env(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert "error: sigstore: the public instance's trust repository" in done.stderr
    assert not (tmp_path / "bundle/signatures").exists()


# What a signer does


def test_what_is_signed_is_exactly_the_payload_in_the_one_form(site):
    signer = site.signer()
    envelope = signer.envelope(PAYLOAD, lambda _: "a hint that a keyless signature has no place for")
    assert (signer.kind, envelope.kind, envelope.payload) == ("sigstore", "sigstore", PAYLOAD)
    assert Envelope.parse(envelope.to_bytes(), "x") == envelope
    assert canonical.compact(json.loads(envelope.raw)) == envelope.raw
    assert signer.made(envelope)
    assert not site.signer(FORK).made(envelope)
    assert not site.signer(iss="https://other.example.test").made(envelope)
    assert signer.named("x").name == "x"


def test_a_bundle_is_signed_by_the_same_identity_once(tmp_path, newer):
    bundles.layout(tmp_path / "b", {"docs": {"a.txt": b"hello"}})
    first = sign.sign(tmp_path / "b", newer.signer(), terms(3))
    entries = len(newer.private.tree.leaves)
    second = sign.sign(tmp_path / "b", newer.signer(), terms(None))
    assert (first.added, second.added, first.file) == (True, False, second.file)
    assert len(newer.private.tree.leaves) == entries
    assert sign.standing(tmp_path / "b", newer.policy(), datetime.now(UTC)).signed == ("ci",)


def test_the_time_is_the_one_that_was_verified(site, older):
    before = datetime.now(UTC) - timedelta(seconds=2)
    ((_, signature),) = seen(site.policy(), site.signer().envelope(PAYLOAD).raw).signatures
    assert before <= signature.time <= datetime.now(UTC)
    assert (signature.kind, signature.algorithm) == ("sigstore", "ecdsa-p256-sha256")


def test_the_time_of_a_log_of_the_older_kind_is_the_one_it_promised(tmp_path, private, older):
    site = Site(tmp_path, private, private.trust_config(log=(older.url, 1), stamps=0, root=older.trusted_root()))
    raw = site.signed()
    stated = int(json.loads(raw)["verificationMaterial"]["tlogEntries"][0]["integratedTime"])
    ((_, signature),) = seen(site.policy(), raw).signatures
    assert signature.time == datetime.fromtimestamp(stated, UTC)


def test_a_time_that_is_none_is_not_told(newer):
    raw = newer.signed()

    def vague(_: Any) -> tuple[Answer, ...]:
        return (judging._answer({"result": "good", "reason": "", "payload": judging.payload_digest(PAYLOAD), "time": "yesterday"}),)

    ((_, signature),) = seen(newer.policy(), raw, ask=vague).signatures
    assert signature.time is None


NAMES = {
    WORKFLOW: "vllm-tool-ci-release.yml",
    "alice@example.test": "alice",
    "Alice.Smith+x@example.test": "alice.smith-x",
    "https://github.com/Org/Repo/.github/workflows/a b.yml@refs/heads/x": "org-repo-github-workflows-a-b.yml",
    "spiffe://trust.test/ns/x": "ns-x",
    "https://idp.example.test": "idp.example.test",
    "repo:org/repo:ref:refs/heads/main": "repo-org-repo-ref-refs-heads-main",
    "Ω": "keyless",
    "https://h/" + "a/" * 100: "a-" * 31 + "a",
}


@pytest.mark.parametrize("who", NAMES)
def test_a_signature_file_is_called_after_the_identity(who):
    assert short(who) == NAMES[who]


def test_only_the_name_that_was_asked_for_is_signed_with(newer):
    token = newer.private.token(WORKFLOW)
    assert open_signer(f"{newer.uri}?identity={WORKFLOW}", lambda _: token).envelope(PAYLOAD).kind == "sigstore"
    with pytest.raises(TrustError, match=f"the certificate names {re.escape(WORKFLOW)}") as raised:
        open_signer(f"{newer.uri}?identity={FORK}", lambda _: token).envelope(PAYLOAD)
    assert FORK in raised.value.message


# What goes wrong while signing


def refused(site: Site, tmp_path: Path) -> AirgapError:
    """Sign a bundle, which must fail and leave nothing."""
    folder = tmp_path / "refused"
    bundles.layout(folder, {"docs": {"a.txt": b"hello"}})
    before = sorted(folder.rglob("*"))
    token = site.private.token(WORKFLOW)
    with pytest.raises(AirgapError) as raised:
        sign.sign(folder, open_signer(site.uri, lambda _: token), terms())
    assert sorted(folder.rglob("*")) == before
    assert token not in raised.value.message + raised.value.hint
    assert raised.value.hint
    return raised.value


def test_a_timestamp_authority_that_is_down_stops_it(tmp_path, newer, private):
    private.refusals[STAMPS] = (503, "closed today")
    error = refused(newer, tmp_path)
    assert isinstance(error, NetworkError)
    assert "0 of 1 timestamp authorities answered: Unable to use" in error.message


def test_a_second_timestamp_authority_that_is_down_stops_it_too(tmp_path, private):
    site = Site(tmp_path, private, private.trust_config(stamps=2))
    assert site.signer().envelope(PAYLOAD)
    private.refusals[f"{STAMPS}/again"] = (503, "closed today")
    assert "1 of 2 timestamp authorities answered" in refused(site, tmp_path).message


def test_a_timestamp_that_the_older_log_does_not_need_is_needed_where_the_config_asks_for_it(tmp_path, private, older):
    site = Site(tmp_path, private, private.trust_config(log=(older.url, 1), stamps=1, root=older.trusted_root()))
    assert len(site.signer().envelope(PAYLOAD).timestamps) == 1
    private.refusals[STAMPS] = (503, "closed today")
    assert isinstance(refused(site, tmp_path), NetworkError)


@pytest.mark.parametrize("log", ["Rekor v2", "Rekor v1"])
def test_a_timestamp_over_something_else_is_found_out_before_anybody_sees_the_signature(tmp_path, private, older, log):
    """The client does not verify what an authority answers, and the older log gives it a time without."""
    private.changes[STAMPS] = other_stamp(private)
    config = private.trust_config() if log == "Rekor v2" else private.trust_config(log=(older.url, 1), root=older.trusted_root())
    error = refused(Site(tmp_path, private, config), tmp_path)
    assert isinstance(error, TrustError)
    assert "the signature that was just made does not verify" in error.message


def other_stamp(private: PrivateSigstore) -> bytes:
    """An authority's answer over something else."""
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    asked = TimestampRequestBuilder().data(b"something else").hash_algorithm(HashAlgorithm.SHA256).nonce(nonce=True).build()
    return private.timestamp(asked.as_bytes())


def test_a_timestamp_that_is_not_needed_must_be_good_all_the_same(tmp_path, private, older):
    site = Site(tmp_path, private, private.trust_config(log=(older.url, 1), stamps=1, root=older.trusted_root()))
    raw = site.signer().envelope(PAYLOAD).raw
    value = json.loads(raw)
    other = {"signedTimestamp": encoded(other_stamp(private))}
    stamps = value["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"]
    right, replaced, added = raw, put(value, MAY_CHANGE[:-1], other), put(value, MAY_CHANGE[:-2], [*stamps, other])
    assert len(seen(site.policy(), right).signatures) == 1
    for changed in (replaced, added):
        found = seen(site.policy(), changed)
        assert not found.signatures
        assert "1 of its timestamps do not verify" in text(found)


def test_a_log_that_is_down_or_refuses_stops_it(tmp_path, newer, private):
    for status in (503, 400):
        private.refusals[ENTRIES] = (status, '{"code": 3, "message": "no room"}')
        error = refused(newer, tmp_path)
        assert isinstance(error, NetworkError)
        assert f"the transparency log answered {status}" in error.message
        assert "no room" in error.message
        shutil.rmtree(tmp_path / "refused")


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"logIndex": "0"}'])
def test_a_log_that_answers_something_else_stops_it(tmp_path, newer, private, answer):
    private.changes[ENTRIES] = answer
    assert "the transparency log" in refused(newer, tmp_path).message


def test_an_entry_that_does_not_prove_is_found_out(tmp_path, newer, private, monkeypatch):
    right = private.enter
    monkeypatch.setattr(private, "enter", lambda request: right(request) | {"canonicalizedBody": encoded(b"{}")})
    assert "does not verify" in refused(newer, tmp_path).message


def test_services_that_cannot_be_reached_are_named(tmp_path, newer):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        for service, what in (("rekorTlogUrls", "the transparency log"), ("caUrls", "the certificate authority"), ("tsaUrls", "timestamp authorities")):
            config = json.loads(json.dumps(newer.config))
            config["signingConfig"][service][0]["url"] = nowhere
            error = refused(Site(tmp_path, newer.private, config), tmp_path)
            assert isinstance(error, NetworkError)
            assert what in error.message
            shutil.rmtree(tmp_path / "refused")


def test_a_service_that_never_answers_is_given_up(tmp_path, newer, monkeypatch):
    monkeypatch.setattr(keyless, "PATIENCE", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        config = json.loads(json.dumps(newer.config))
        config["signingConfig"]["caUrls"][0]["url"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        error = refused(Site(tmp_path, newer.private, config), tmp_path)
    assert isinstance(error, NetworkError)
    assert "the certificate authority did not answer for 0.5 s" in error.message


def test_an_authority_that_refuses_the_token_is_told_in_its_words_without_the_token(tmp_path, newer, private):
    private.refusals[CERTIFICATES] = (401, json.dumps({"message": "There was an error processing the identity token"}))
    error = refused(newer, tmp_path)
    assert isinstance(error, UsageError)
    assert "answered 401" in error.message
    assert "There was an error processing the identity token" in error.message
    token = private.token(WORKFLOW)
    private.refusals[CERTIFICATES] = (400, f"what is this: {token}")
    with pytest.raises(UsageError, match=r"what is this: \(the token\)"):
        open_signer(newer.uri, lambda _: token).envelope(PAYLOAD)


def test_an_authority_that_is_down_is_not_the_tokens_fault(tmp_path, newer, private):
    private.refusals[CERTIFICATES] = (500, "")
    assert isinstance(refused(newer, tmp_path), NetworkError)


def test_a_certificate_for_somebody_else_is_not_signed_with(tmp_path, newer, private, monkeypatch):
    right = private.certify
    monkeypatch.setattr(private, "certify", lambda key, who, issuer, source="": right(key, FORK, issuer, source))
    assert f"the certificate names {FORK}" in refused(newer, tmp_path).message
    monkeypatch.setattr(private, "certify", lambda key, who, issuer, source="": right(key, who, "https://other.example.test", source))
    shutil.rmtree(tmp_path / "refused")
    assert "as stated by https://other.example.test" in refused(newer, tmp_path).message


@pytest.mark.parametrize("part", ["tlogs", "certificateAuthorities", "ctlogs", "timestampAuthorities"])
def test_an_instance_that_does_not_fit_its_trusted_root_is_not_signed_with(tmp_path, private, part):
    config = private.trust_config(root=private.trusted_root() | {part: PrivateSigstore().trusted_root()[part]})
    assert isinstance(refused(Site(tmp_path, private, config), tmp_path), TrustError)


CONFIGS = {
    "no JSON": b"{",
    "a list": b"[]",
    "a trusted root": b'{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}',
    "no services": b'{"mediaType":"application/vnd.dev.sigstore.clienttrustconfig.v0.1+json","trustedRoot":{},"signingConfig":{}}',
    "not UTF-8": b"\xff",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_client_trust_config_that_is_none_is_named(tmp_path, private, name):
    path = tmp_path / "trust.json"
    path.write_bytes(CONFIGS[name])
    with pytest.raises(UsageError, match=re.escape(str(path))):
        open_signer(str(path), lambda _: private.token(WORKFLOW))


def test_a_log_that_is_no_longer_in_use_is_a_config_without_a_log(tmp_path, private):
    config = private.trust_config()
    config["signingConfig"]["rekorTlogUrls"][0]["validFor"]["end"] = "2021-01-01T00:00:00Z"
    with pytest.raises(InvalidFileError, match="No valid Rekor"):
        Site(tmp_path, private, config).signer()


# Tokens


BAD_TOKENS = {
    "expired": ({"exp": 1_700_000_000}, "expired at 2023-11-14T22:13:20Z"),
    "for another service": ({"aud": "sts.example.test"}, "is for 'sts.example.test', not for 'sigstore'"),
    "for others": ({"aud": ["a", "b"]}, "not for 'sigstore'"),
    "not yet": ({"nbf": 4_000_000_000}, "not valid before 2096-"),
    "without end": ({"exp": None}, "does not say until when"),
    "with an end that is none": ({"exp": "tomorrow"}, "does not say until when"),
    "with an endless end": ({"exp": 1e300}, "does not say until when"),
    "of nobody": ({"sub": None}, "does not say whose it is"),
    "of no issuer": ({"iss": None}, "does not say whose it is"),
}


def unsigned(claims: dict[str, Any]) -> str:
    parts = ({"alg": "none"}, claims)
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts), "c2ln"])


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_token_that_will_not_do_is_told_apart_and_goes_nowhere(newer, private, name):
    changes, message = BAD_TOKENS[name]
    token = unsigned({"iss": ISSUER, "sub": WORKFLOW, "aud": "sigstore", "iat": 1_700_000_000, "exp": 4_000_000_000} | changes)
    with pytest.raises(UsageError, match=re.escape(message)) as raised:
        open_signer(newer.uri, lambda _: token)
    assert token.split(".")[1] not in raised.value.message + raised.value.hint
    assert private.asked == []


@pytest.mark.parametrize("token", ["x", "a.b", "a.b.c", "a.b.c.d", "a.e30=.c", "a.eyJ9.c", "a.W10.c", "a\n.e30.c", "é.e30.c", "a." + "e" * 70_000 + ".c"])
def test_what_is_no_token_is_not_shown(newer, token):
    with pytest.raises(UsageError, match="not an OpenID Connect token|is for 'None'") as raised:
        open_signer(newer.uri, lambda _: token)
    assert len(raised.value.message) < 100


def test_no_token_is_logged_however_much_is(newer, private, caplog):
    token = private.token(WORKFLOW)
    with caplog.at_level(logging.DEBUG):
        signer = open_signer(newer.uri, lambda _: token)
        signer.envelope(PAYLOAD)
    assert token not in caplog.text
    assert token not in repr(signer)
    assert {path for path, given in private.asked if given} == {CERTIFICATES}


CLAIMS = {
    "https://github.com/o/r/.github/workflows/x.yml@refs/heads/m": {"iss": identity.GITHUB, "job_workflow_ref": "o/r/.github/workflows/x.yml@refs/heads/m"},
    "https://git.corp.test/o/r/x.yml@m": {"iss": "https://git.corp.test/_services/token", "job_workflow_ref": "o/r/x.yml@m"},
    "https://gitlab.com/g/p//.gitlab-ci.yml@refs/heads/main": {"ci_config_ref_uri": "gitlab.com/g/p//.gitlab-ci.yml@refs/heads/main"},
    "https://kubernetes.io/namespaces/ci/serviceaccounts/signer": {"kubernetes.io": {"namespace": "ci", "serviceaccount": {"name": "signer"}}},
    "https://buildkite.com/org/pipe": {"organization_slug": "org", "pipeline_slug": "pipe"},
    "alice@example.test": {"email": "alice@example.test"},
    "someone": {},
}


@pytest.mark.parametrize("who", CLAIMS)
def test_the_names_are_those_that_the_authority_gives(who):
    token = unsigned({"iss": ISSUER, "sub": "someone", "aud": "sigstore", "exp": 4_000_000_000} | CLAIMS[who])
    found = identity.read(token, datetime.now(UTC))
    assert found.names[0] == who
    assert found.names[-1] == "someone"


def test_of_a_federated_token_the_issuer_is_the_one_behind():
    token = unsigned({"iss": ISSUER, "sub": "x", "aud": "sigstore", "exp": 4_000_000_000, "federated_claims": {"connector_id": "https://behind.test"}})
    assert identity.read(token, datetime.now(UTC)).issuer == "https://behind.test"


# Who made a file: recognising


def text(found: Recognised) -> str:
    return " ".join([*(entry.reason for entry in found.ignored), *(error.message for error in found.failures)])


def test_a_fork_is_ignored_with_the_reason_and_the_right_one_beside_it_counts(site):
    found = seen(site.policy(), site.signed(FORK), site.signed())
    assert [(signature.signer, signature.file) for _, signature in found.signatures] == [("ci", "signatures/1.sigstore.json")]
    assert not found.failures
    assert FORK in found.ignored[0].reason


def test_another_issuer_is_somebody_else(newer, private, monkeypatch):
    found = seen(newer.policy(), newer.signed(iss="https://other.example.test"))
    assert not found.signatures
    assert not found.failures
    assert "as stated by https://other.example.test, whom this policy does not name" in found.ignored[0].reason


def test_a_repository_is_any_workflow_of_it_as_stated_by_the_issuer(site):
    policy = site.policy(identity="", repository=REPOSITORY)
    ((_, signature),) = seen(policy, site.signed(repository=REPOSITORY)).signatures
    assert signature.trusted_by.startswith(f"the identity any workflow of {REPOSITORY} as stated by {ISSUER}")
    others = ({}, {"repository": REPOSITORY + "x"}, {"repository": REPOSITORY, "iss": "https://other.example.test"})
    found = seen(policy, *(site.signed(**claims) for claims in others))
    assert not found.signatures
    assert len(found.ignored) == 3


def test_of_a_repository_and_a_workflow_in_it_a_file_counts_for_the_one_it_names(newer):
    entry = {"type": "sigstore", "repository": REPOSITORY, "issuer": ISSUER, "trusted_root": "ours"}
    policy = newer.policy(("anybody", entry), threshold=2)
    found = seen(policy, newer.signed(repository=REPOSITORY), newer.signed(FORK, repository=REPOSITORY))
    assert [signature.signer for _, signature in found.signatures] == ["ci", "anybody"]


def test_another_instance_is_refused_by_name(newer):
    with private_sigstore() as other:
        raw = Site(newer.folder, other, other.trust_config()).signed()
    found = seen(newer.policy(), raw)
    assert not found.signatures
    assert "claims to be by ci and does not verify: its entry is of a log that the trusted root of the policy does not have" in text(found)
    assert found.failures[0].rule == "3.signature"


def test_an_entry_of_a_log_that_the_trusted_root_does_not_have_is_refused_before_every_key_is_tried(newer, private):
    value = json.loads(newer.signed())
    entry = value["verificationMaterial"]["tlogEntries"][0]
    key_id = base64.b64decode(entry["logId"]["keyId"])
    entry["logId"]["keyId"] = encoded(key_id[:4] + bytes(28))
    raw = canonical.compact(value)
    (answer,) = judging.judge([Question(raw, None, WORKFLOW, ISSUER, canonical.compact(newer.root), whole=True)])
    assert answer.result == "good", "the library does try them all"
    assert "does not have" in text(seen(newer.policy(), raw))


def judged(result: str, reason: str = "") -> Any:
    return lambda questions: tuple(Answer(result, reason, judging.payload_digest(PAYLOAD)) for _ in questions)


def test_without_the_package_it_does_not_count_and_the_reason_is_told(newer, monkeypatch):
    raw = newer.signed()
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if "site-packages" not in folder])
    found = seen(newer.policy(), raw)
    assert (found.signatures, found.failures) == ([], [])
    assert judging.ABSENT in found.ignored[0].reason


def test_a_judge_that_is_killed_leaves_it_uncounted(tmp_path, newer, monkeypatch):
    raw = newer.signed()
    (tmp_path / "child.py").write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.setattr(judging, "CHILD", tmp_path / "child.py")
    found = seen(newer.policy(), raw)
    assert (found.signatures, found.failures) == ([], [])
    assert "failed, was killed or took too long" in found.ignored[0].reason


def test_what_was_verified_must_be_what_was_read(newer):
    found = seen(newer.policy(), newer.signed(), ask=lambda questions: (Answer("good", "", judging.payload_digest(b"other")),))
    assert not found.signatures
    assert "another than the one that was read" in text(found)


# The kind of signer comes from the policy


KEY = ec.generate_private_key(ec.SECP256R1())
SPKI = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
PEM = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
BY_KEY = Envelope("key", PAYLOAD, KEY.sign(statement.pae(PAYLOAD), ec.ECDSA(hashes.SHA256())), hint=statement.hint("0" * 64))


def with_certificate(raw: bytes, der: bytes, signature: bytes | None = None) -> bytes:
    value = json.loads(raw)
    value["verificationMaterial"]["certificate"]["rawBytes"] = encoded(der)
    if signature:
        value["dsseEnvelope"]["signatures"][0]["sig"] = encoded(signature)
    return canonical.compact(value)


def test_a_bare_key_in_the_place_of_the_certificate_never_counts(newer):
    """GHSA-fx35-mq7g-6g98: then no identity would be compared at all."""
    raw = newer.signed()
    for forged in (with_certificate(raw, SPKI), with_certificate(raw, SPKI, BY_KEY.signature)):
        found = seen(newer.policy(("alice", signer_entry(PEM))), forged)
        assert not found.signatures
        assert "its certificate names nobody" in text(found)


def test_a_plain_key_or_a_chain_never_counts_for_an_identity(newer):
    certificate = base64.b64decode(json.loads(newer.signed())["verificationMaterial"]["certificate"]["rawBytes"])
    chained = Envelope("x509", PAYLOAD, BY_KEY.signature, chain=(certificate, newer.private.ca.public_bytes(serialization.Encoding.DER)))
    for envelope in (BY_KEY, chained):
        found = seen(newer.policy(), envelope.to_bytes(), ask=lambda _: pytest.fail("not to be asked"))
        assert not found.signatures
        assert text(found)


def test_an_identity_never_counts_for_a_key_even_for_that_of_its_own_certificate(newer):
    raw = newer.signed()
    certificate = x509.load_der_x509_certificate(base64.b64decode(json.loads(raw)["verificationMaterial"]["certificate"]["rawBytes"]))
    pem = certificate.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    found = seen(policy({"alice": signer_entry(pem)}, {}), raw, ask=lambda _: pytest.fail("not to be asked"))
    assert not found.signatures
    assert WORKFLOW in text(found)


KINDS = {
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "RSA": rsa.generate_private_key(65537, 2048),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verdict", ["as it is", "as if the library accepted it"])
def test_a_certificate_with_a_key_of_another_kind_never_counts_and_never_crashes(newer, kind, verdict):
    certificate = newer.private.certify(KINDS[kind].public_key(), WORKFLOW, ISSUER)
    raw = with_certificate(newer.signed(), certificate.public_bytes(serialization.Encoding.DER))
    found = seen(newer.policy(), raw, ask=judging.judge if verdict == "as it is" else judged("good"))
    assert not found.signatures
    if verdict != "as it is":
        assert [error.rule for error in found.failures] == ["3.algorithm"]


def test_a_certificate_of_somebody_elses_authority_that_names_the_workflow_is_refused(newer):
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test ca")])
    own = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(minutes=1)).not_valid_after(now + timedelta(minutes=9))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(WORKFLOW)]), critical=True)
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{FULCIO}.1"), ISSUER.encode()), critical=False)
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{FULCIO}.8"), Der.of(0x0C, ISSUER.encode())), critical=False)
        .sign(KEY, hashes.SHA256())
    )  # fmt: skip
    found = seen(newer.policy(), with_certificate(newer.signed(), own.public_bytes(serialization.Encoding.DER), BY_KEY.signature))
    assert not found.signatures
    assert "claims to be by ci and does not verify" in text(found)


def test_no_code_of_ours_names_the_policy_of_the_library_that_checks_nothing():
    sources = [path for package in ("manifests", "airgap_images", "audit", "bundler") for path in (ROOT / package).rglob("*.py")]
    assert len(sources) > 50
    assert not [path for path in sources if "Unsafe" + "NoOp" in path.read_text()]


@pytest.mark.parametrize("fields", [{"identity": None}, {"identity": ""}, {"issuer": ""}, {"repository": REPOSITORY}, {"identity": "", "repository": ""}])
def test_a_question_about_nobody_or_about_two_is_never_good(newer, fields):
    asked = {"bundle": newer.signed(repository=REPOSITORY), "artifact": None, "identity": WORKFLOW, "issuer": ISSUER, "root": canonical.compact(newer.root)}
    assert judging.judge([Question(**asked)])[0].result == "good"
    assert judging.judge([Question(**asked | fields)])[0].result == "wrong"


# No byte without a meaning


def places(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the way to every value in a document, objects and lists too."""
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield from places(part, (*at, key))


def put(value: Any, at: tuple[str | int, ...], new: Any) -> bytes:
    changed = json.loads(json.dumps(value))
    inside = changed
    for key in at[:-1]:
        inside = inside[key]
    if new is None:
        del inside[at[-1]]
    else:
        inside[at[-1]] = new
    return canonical.compact(changed)


def changes(old: Any) -> Iterator[Any]:
    """Yield other values: None stands for leaving it out."""
    yield from (None, "", "x", 7, [], {}, [old], {"x": old})
    if isinstance(old, dict):
        yield from (old | {"x": "y"}, old | {"snake_case": 1})
    if isinstance(old, list):
        yield from (old * 2, [*old, "x"])
    if isinstance(old, str):
        yield from (old + "0", old + "\n", old + "=", old + " ", " " + old, "0" + old, "+" + old, old[:-1], old.swapcase(), old + "\n\N{EM DASH} w AAAAAAAA\n")
        if old.isdigit():
            yield from (str(int(old) + 1), int(old), f"{old}.0", str(int(old) + (1 << 64)), "-1")
        for at in range(0, len(old), max(1, len(old) // 24)):
            yield old[:at] + chr(ord(old[at]) ^ 1) + old[at + 1 :]


# Of the timestamp, what its authority did not sign: numbers of versions in its envelope (CMS) and by which name the algorithm is called.
# It still is that authority's timestamp over this signature.
MAY_CHANGE = ("verificationMaterial", "timestampVerificationData", "rfc3161Timestamps", 0, "signedTimestamp")


def test_every_change_of_every_value_is_refused(site):
    raw = site.signed()
    policy = site.policy()
    root = canonical.compact(site.root)
    assert seen(policy, raw).signatures
    value = json.loads(raw)
    unread = 0
    kept: list[tuple[tuple[str | int, ...], bytes]] = []
    for at in places(value):
        old = value
        for key in at:
            old = old[key]
        for new in changes(old) if at else ():
            changed = put(value, at, new)
            if changed == raw:
                continue
            try:
                Envelope.parse(changed, "x")
            except InvalidFileError:
                unread += 1
            else:
                kept.append((at, changed))
    found = seen(policy, *(changed for _, changed in kept), ask=judging.judge)
    passed = [kept[int(re.findall(r"\d+", signature.file)[0])][0] for _, signature in found.signatures]
    assert not [at for at in passed if at != MAY_CHANGE]
    assert (unread > 300, len(kept) > 60, len(root) > 1000) == (True, True, True)


def test_in_a_timestamp_only_what_its_authority_did_not_sign_can_change(newer):
    value = json.loads(newer.signed())
    stamp = base64.b64decode(value["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"][0]["signedTimestamp"])
    root = canonical.compact(newer.root)
    mutants = [stamp[:at] + bytes([stamp[at] ^ 1]) + stamp[at + 1 :] for at in range(len(stamp))]
    questions = [Question(put(value, MAY_CHANGE, encoded(one)), None, WORKFLOW, ISSUER, root, whole=True) for one in mutants]
    passed = [at for at, answer in enumerate(judging.judge(questions)) if answer.result == "good"]
    signer = stamp.rindex(bytes.fromhex("06082a8648ce3d040302"))
    versions = [at for at in passed if stamp[at - 2 : at] == b"\x02\x01"]
    assert set(passed) - set(versions) <= set(range(signer, signer + 10))
    assert len(passed) < 20


@pytest.mark.parametrize("change", ["another signature below the checkpoint", "spaces", "order", "escapes", "a promise", "no time"])
def test_a_file_in_another_form_is_not_read(newer, change):
    value = json.loads(newer.signed())
    entry = value["verificationMaterial"]["tlogEntries"][0]
    checkpoint = entry["inclusionProof"]["checkpoint"]
    if change == "another signature below the checkpoint":
        checkpoint["envelope"] += f"\N{EM DASH} witness.example.test {encoded(bytes(68))}\n"
    elif change == "a promise":
        entry |= {"integratedTime": "1700000000", "inclusionPromise": {"signedEntryTimestamp": encoded(b"x")}}
    elif change == "no time":
        del value["verificationMaterial"]["timestampVerificationData"]
    raw = canonical.compact(value)
    if change == "spaces":
        raw = json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
    elif change == "order":
        raw = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
        raw = raw if raw != canonical.compact(value) else json.dumps(dict(reversed(value.items())), separators=(",", ":"), ensure_ascii=False).encode()
    elif change == "escapes":
        raw = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(InvalidFileError):
        Envelope.parse(raw, "x")


def test_what_means_nothing_is_left_out_when_signing(newer):
    """Logs of today add fields at their default, and signatures of witnesses that no trusted root names."""
    value = json.loads(newer.signed())
    wordy = json.loads(json.dumps(value))
    entry = wordy["verificationMaterial"]["tlogEntries"][0]
    entry |= {"integratedTime": "0", "inclusionPromise": None}
    entry["inclusionProof"]["checkpoint"]["envelope"] += f"\N{EM DASH} witness.example.test {encoded(bytes(68))}\n"
    wordy["dsseEnvelope"]["signatures"][0]["keyid"] = ""
    assert form.plain(wordy) == value
    assert form.plain(value) == value


# Second implementations


@pytest.fixture
def two(tmp_path, site, desk) -> dict[str, bytes]:
    command(desk, site, WORKFLOW, "--serial", "1", "--name", "right")
    command(desk, site, FORK, "--name", "fork")
    return {path.name.partition(".")[0]: path.read_bytes() for path in (tmp_path / "bundle/signatures").iterdir()}


@pytest.mark.parts
def test_the_stock_client_accepts_the_file_offline_and_refuses_the_fork(tmp_path, site, two):
    need_namespaces()
    program = (*NO_NETWORK, sys.executable, "-m", "sigstore", "--trust-config", site.uri, "verify", "identity", "--offline")
    for name, code in (("right", 0), ("fork", 1)):
        wanted = ("--bundle", f"bundle/signatures/{name}.sigstore.json", "--cert-identity", WORKFLOW, "--cert-oidc-issuer", ISSUER)
        done = subprocess.run([*program, *wanted, "bundle/index.json"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == bool(code), done.stderr


@pytest.mark.parts
@pytest.mark.network
def test_the_verifier_of_npm_accepts_the_file_and_refuses_the_fork_and_what_was_changed(site, two):
    from parts import npm

    verifier = npm.verify()
    wanted = {"root": site.root, "identity": WORKFLOW, "issuer": ISSUER}
    value = json.loads(two["right"])
    changed = put(value, ("dsseEnvelope", "payload"), encoded(PAYLOAD))
    other = put(value, ("dsseEnvelope", "signatures", 0, "sig"), json.loads(two["fork"])["dsseEnvelope"]["signatures"][0]["sig"])
    right, fork, *rest = verifier.refusals(two["right"], two["fork"], changed, other, **wanted)
    assert right == ""
    assert "certificate identity error" in fork
    assert all(rest)


@pytest.mark.parts
@pytest.mark.network
@pytest.mark.parametrize("kind", ["p256", "ed25519"])
def test_the_verifier_of_npm_accepts_signatures_with_a_key(tmp_path, desk, kind):
    from parts import npm

    verifier = npm.verify()
    desk.bundle("keygen", "alice", "--out", "keys", "--no-passphrase", "--algorithm", kind)
    desk.bundle("sign", "bundle", "--key", "file:keys/alice.key", "--serial", "1")
    raw = (tmp_path / "bundle/signatures/alice.sigstore.json").read_bytes()
    value = json.loads(raw)
    keys = {value["verificationMaterial"]["publicKey"]["hint"]: (tmp_path / "keys/alice.pub").read_text()}
    changed = put(value, ("dsseEnvelope", "payload"), encoded(PAYLOAD))
    right, wrong = verifier.refusals(raw, changed, keys=keys)
    assert (right, "SIGNATURE_ERROR" in wrong) == ("", True)


@pytest.mark.parts
@pytest.mark.network
def test_cosign_accepts_the_file_of_an_instance_with_a_log_of_the_older_kind(tmp_path, private, older, desk):
    """cosign 2.5 reads no entries of Rekor v2."""
    from parts.cosign import cosign

    site = Site(tmp_path, private, private.trust_config(log=(older.url, 1), stamps=0, root=older.trusted_root()))
    program = cosign(tmp_path / "cosign")
    command(desk, site, WORKFLOW, "--serial", "1", "--name", "right")
    command(desk, site, FORK, "--name", "fork")
    (tmp_path / "root.json").write_text(json.dumps(site.root))
    for name, code in (("right", 0), ("fork", 1)):
        wanted = ("--certificate-identity", WORKFLOW, "--certificate-oidc-issuer", ISSUER, "--type", statement.PREDICATE)
        files = ("--bundle", tmp_path / f"bundle/signatures/{name}.sigstore.json", "--trusted-root", tmp_path / "root.json")
        done = program.run("verify-blob-attestation", "--new-bundle-format", "--offline", *files, *wanted, tmp_path / "bundle/index.json", code=None)
        assert (done.returncode != 0) == bool(code), done.stderr


# What a certificate says


def test_what_a_certificate_says_is_read_and_no_byte_of_it_makes_the_reader_fail(newer):
    certificate = newer.private.certify(KEY.public_key(), WORKFLOW, ISSUER, REPOSITORY).public_bytes(serialization.Encoding.DER)
    assert naming.fulcio(certificate) == naming.Fulcio(WORKFLOW, ISSUER, REPOSITORY, (WORKFLOW,))
    assert naming.fulcio(newer.private.ca.public_bytes(serialization.Encoding.DER)) == naming.Fulcio(None, None, None)
    for at in range(len(certificate)):
        for new in (certificate[at] ^ 1, certificate[at] ^ 0x80, 0, 0xFF):
            naming.fulcio(certificate[:at] + bytes([new]) + certificate[at + 1 :])
        naming.fulcio(certificate[:at])
