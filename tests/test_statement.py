"""Statement, envelope and pre-authentication encoding: golden bytes, one encoding, no byte without meaning."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests import canonical, statement
from manifests.errors import InvalidFileError
from manifests.statement import MAX_SIGNATURE_FILE, PREDICATE, Envelope, Statement

A, B, C = "a" * 64, "b" * 64, "c" * 64
WHEN, UNTIL = datetime(2026, 11, 24, 12, tzinfo=UTC), datetime(2027, 2, 22, 12, tzinfo=UTC)
GOLDEN = (
    '{"_type":"https://in-toto.io/Statement/v1","predicate":{"created":"2026-11-24T12:00:00Z","expires":"2027-02-22T12:00:00Z","policyVersion":3,'
    f'"previous":{{"sha256":"{C}"}},"serial":7,"stream":"prod","tool":{{"name":"airgap-bundler","version":"1"}}}},'
    f'"predicateType":"https://airgap-bundler.dev/bundle/v1","subject":[{{"digest":{{"sha256":"{A}"}},"name":"index.json"}},'
    f'{{"digest":{{"sha256":"{B}"}},"name":"SHA256SUMS"}}]}}'
).encode()


def payload(**changes: object) -> bytes:
    terms = {
        "stream": "prod", "serial": 7, "created": WHEN, "expires": UNTIL, "previous": C, "policy_version": 3, "tool": ("airgap-bundler", "1"),
    }  # fmt: skip
    return statement.payload({"SHA256SUMS": {"sha256": B}, "index.json": {"sha256": A}}, **(terms | changes))


def test_the_payload_is_the_golden_one():
    assert payload() == GOLDEN


def test_the_payload_reads_back():
    found = Statement.parse(payload(), "x")
    assert [(subject.name, subject.digest.sha256) for subject in found.subject] == [("index.json", A), ("SHA256SUMS", B)]
    predicate = found.bundle("x")
    assert (predicate.stream, predicate.serial, predicate.created, predicate.expires) == (
        "prod", 7, "2026-11-24T12:00:00Z", "2027-02-22T12:00:00Z",
    )  # fmt: skip
    assert (predicate.previous.sha256, predicate.policyVersion, predicate.tool.name) == (C, 3, "airgap-bundler")
    bare = Statement.parse(payload(previous=None, policy_version=None), "x").bundle("x")
    assert (bare.previous, bare.policyVersion) == (None, None)


def test_pre_authentication_encoding_is_that_of_the_dsse_protocol():
    # The example of the DSSE v1 protocol text has type "http://example.com/HelloWorld"; ours is fixed.
    assert statement.pae(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"
    assert statement.pae("ä".encode()) == b"DSSEv1 28 application/vnd.in-toto+json 2 \xc3\xa4"


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_no_two_payloads_are_signed_as_the_same_message(one, two):
    assert (statement.pae(one) == statement.pae(two)) == (one == two)


def test_the_hint_is_the_raw_digest_in_base64():
    assert base64.b64decode(statement.hint(hashlib.sha256(b"x").hexdigest())) == hashlib.sha256(b"x").digest()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50), st.binary(max_size=80), st.binary(max_size=80))
def test_every_envelope_reads_back_as_it_was(hint, content, signature):
    made = Envelope("key", content, signature, hint)
    assert Envelope.parse(made.to_bytes(), "x") == made
    assert made.message == statement.pae(content)


ENVELOPE = Envelope("key", GOLDEN, b"sig", "aGludA==").to_bytes()


def test_the_file_is_a_sigstore_bundle():
    value = json.loads(ENVELOPE)
    assert value["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert value["verificationMaterial"] == {"publicKey": {"hint": "aGludA=="}, "tlogEntries": []}
    assert value["dsseEnvelope"]["payloadType"] == "application/vnd.in-toto+json"
    assert base64.b64decode(value["dsseEnvelope"]["payload"]) == GOLDEN
    assert value["dsseEnvelope"]["signatures"] == [{"keyid": "", "sig": "c2ln"}]


@given(st.integers(0, len(ENVELOPE) - 1), st.integers(0, 255))
def test_every_other_byte_gives_another_envelope_or_a_refusal(at, byte):
    raw = bytearray(ENVELOPE)
    raw[at] = byte
    try:
        found = Envelope.parse(bytes(raw), "x")
    except InvalidFileError:
        return
    assert (found == Envelope.parse(ENVELOPE, "x")) == (bytes(raw) == ENVELOPE)


def altered(change) -> bytes:
    value = json.loads(ENVELOPE)
    change(value)
    return canonical.compact(value)


TRICKS = {
    "empty": b"",
    "no object": b"[]",
    "null": b"null",
    "not canonical": json.dumps(json.loads(ENVELOPE)).encode(),
    "trailing newline": ENVELOPE + b"\n",
    "leading blank": b" " + ENVELOPE,
    "duplicate key": ENVELOPE.replace(b'"mediaType"', b'"mediaType":"x","mediaType"'),
    "other media type": altered(lambda v: v.update(mediaType="application/vnd.dev.sigstore.bundle.v0.1+json")),
    "other payload type": altered(lambda v: v["dsseEnvelope"].update(payloadType="text/plain")),
    "no signature": altered(lambda v: v["dsseEnvelope"].update(signatures=[])),
    "two signatures": altered(lambda v: v["dsseEnvelope"]["signatures"].append({"keyid": "", "sig": "c2ln"})),
    "key id": altered(lambda v: v["dsseEnvelope"]["signatures"][0].update(keyid="x")),
    "unknown field": altered(lambda v: v.update(extra=1)),
    "unknown field in the envelope": altered(lambda v: v["dsseEnvelope"].update(extra=1)),
    "log entry": altered(lambda v: v["verificationMaterial"].update(tlogEntries=[{}])),
    "certificate instead of a key": altered(lambda v: v.update(verificationMaterial={"certificate": {"rawBytes": ""}, "tlogEntries": []})),
    "certificate beside a key": altered(lambda v: v["verificationMaterial"].update(certificate={"rawBytes": ""})),
    "hint is a number": altered(lambda v: v["verificationMaterial"]["publicKey"].update(hint=5)),
    "hint is a list": altered(lambda v: v["verificationMaterial"]["publicKey"].update(hint=["a"])),
    "hint is null": altered(lambda v: v["verificationMaterial"]["publicKey"].update(hint=None)),
    "base64 with a newline": ENVELOPE.replace(b'"c2ln"', b'"c2ln\\n"'),
    "base64 of the web": ENVELOPE.replace(b'"c2ln"', b'"_-=="'),
    "base64 with loose bits": ENVELOPE.replace(b'"c2ln"', b'"c2l="'),
    "base64 unpadded": ENVELOPE.replace(b'"c2ln"', b'"c2k"'),
    "escaped text": ENVELOPE.replace(b"aGludA==", b"aGludA\\u003d="),
    "too large": ENVELOPE[:-1] + b" " * MAX_SIGNATURE_FILE + b"}",
    "payload is a number": altered(lambda v: v["dsseEnvelope"].update(payload=1)),
}


@pytest.mark.parametrize("name", TRICKS)
def test_a_file_in_any_other_form_is_refused_by_name(name):
    assert TRICKS[name] != ENVELOPE
    with pytest.raises(InvalidFileError, match=r"^signatures/x: "):
        Envelope.parse(TRICKS[name], "signatures/x")


def other(change) -> bytes:
    value = json.loads(GOLDEN)
    change(value)
    return canonical.compact(value)


STATEMENTS = {
    "statement v0.1": other(lambda v: v.update(_type="https://in-toto.io/Statement/v0.1")),
    "no subject": other(lambda v: v.update(subject=[])),
    "many subjects": other(lambda v: v.update(subject=v["subject"] * 5)),
    "no digest": other(lambda v: v["subject"][0].update(digest={})),
    "weak digest": other(lambda v: v["subject"][0].update(digest={"sha1": "a" * 40})),
    "digest beside ours": other(lambda v: v["subject"][0]["digest"].update(sha384="a" * 96)),
    "short sha512": other(lambda v: v["subject"][0]["digest"].update(sha512="a" * 64)),
    "unknown field": other(lambda v: v.update(extra=1)),
    "predicate is a list": other(lambda v: v.update(predicate=[])),
    "duplicate key": GOLDEN.replace(b'"serial":7', b'"serial":7,"serial":8'),
    "not JSON": b"hello",
}
PREDICATES = {
    "other predicate": other(lambda v: v.update(predicateType="https://model_signing/signature/v1.0")),
    "predicate of another version": other(lambda v: v.update(predicateType=PREDICATE + "2")),
    "no serial": other(lambda v: v["predicate"].pop("serial")),
    "serial as text": other(lambda v: v["predicate"].update(serial="7")),
    "serial as truth": other(lambda v: v["predicate"].update(serial=True)),
    "serial fractional": other(lambda v: v["predicate"].update(serial=7.0)),
    "serial negative": other(lambda v: v["predicate"].update(serial=-1)),
    "serial huge": other(lambda v: v["predicate"].update(serial=(1 << 53) + 1)),
    "no stream": other(lambda v: v["predicate"].pop("stream")),
    "time without zone": other(lambda v: v["predicate"].update(expires="2027-02-22T12:00:00")),
    "no expiry": other(lambda v: v["predicate"].pop("expires")),
    "unknown field in the predicate": other(lambda v: v["predicate"].update(trusted=True)),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_other_statements_are_refused(name):
    with pytest.raises(InvalidFileError, match=r"^what: "):
        Statement.parse(STATEMENTS[name], "what")


@pytest.mark.parametrize("name", PREDICATES)
def test_statements_for_something_else_are_refused(name):
    with pytest.raises(InvalidFileError, match=r"^what: "):
        Statement.parse(PREDICATES[name], "what").bundle("what")
