"""Upstream signatures by key: who is believed, about what, in every shape; and everything that must not pass."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
from parts.installs import in_memory
from parts.upstream import (
    BUNDLE,
    KEYS,
    NAME,
    OTHER,
    PROVENANCE,
    VENDOR,
    Carried,
    Part,
    bundle,
    envelope,
    message_signature,
    pae,
    policy,
    simple,
    site_policy,
    statement,
    text,
)

from airgap_images.oci import Digest
from audit.verify import images as upstream
from audit.verify.claims import DSSE, IN_TOTO, MAX_SIMPLE, NOTATION, SIMPLE
from audit.verify.verdict import Verdict

WANTED = ((PROVENANCE, ("vendor",)),)
STRANGER = Digest.of(b"another image")


@pytest.fixture
def carried(tmp_path) -> Carried:
    return Carried(tmp_path)


def never(_questions: object) -> tuple[()]:
    raise AssertionError("nothing here is for the keyless verifier")


def judged(carried: Carried, *signers, **options) -> Verdict:
    return carried.verdict(policy(*(signers or (VENDOR,)), **options), never)


SHAPES: dict[str, Callable[[Carried, Digest, object], Digest]] = {
    "simplesigning": lambda carried, subject, key: carried.tag_signature(subject, key),
    "bundle with an envelope": lambda carried, subject, key: carried.signature(subject, key),
    "bundle over the manifest": lambda carried, subject, key: carried.referrer(subject, bundle(message_signature(carried.raw(subject), key))),
}
ATTESTED: dict[str, Callable[[Carried, Digest, object], Digest]] = {
    "envelope": lambda carried, subject, key: carried.tag_attestation(subject, key),
    "bundle": lambda carried, subject, key: carried.attestation(subject, key),
}


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_signature_by_the_named_key_is_good_in_every_shape_and_algorithm(carried, shape, algorithm):
    key = KEYS[algorithm]
    SHAPES[shape](carried, carried.only, key)
    found = judged(carried, key)
    assert (found.result, found.name, found.rule) == ("good", NAME, "docker.io/vllm/*")
    assert found.reason == f"linux/amd64: signature by {key.name}"
    (seen,) = found.seen
    assert (seen.kind, seen.by, seen.result, seen.predicate, seen.about) == ("signature", key.name, "good", None, (carried.only,))
    assert judged(carried, OTHER).result == "wrong"


@pytest.mark.parametrize("algorithm", ["ecdsa-p384-sha384", "ecdsa-p384-sha256"])
def test_the_hash_comes_from_the_policy_and_no_other_is_tried(carried, algorithm):
    key = KEYS[algorithm]
    carried.signature(carried.only, key)
    said = {"identities": {key.name: key.entry | {"alg": "ecdsa-p384-sha256" if algorithm.endswith("384") else "ecdsa-p384-sha384"}}}
    assert judged(carried, key, **said).result == "wrong"


@pytest.mark.parametrize("shape", SHAPES)
def test_one_of_several_named_is_enough(carried, shape):
    SHAPES[shape](carried, carried.only, VENDOR)
    assert judged(carried, OTHER, KEYS["ed25519"], VENDOR).result == "good"


@pytest.mark.parametrize("shape", ATTESTED)
def test_a_required_attestation_by_the_named_key_is_good(carried, shape):
    carried.tag_signature(carried.only, VENDOR)
    assert judged(carried, attestations=WANTED).result == "missing"
    ATTESTED[shape](carried, carried.only, VENDOR)
    found = judged(carried, attestations=WANTED)
    assert found.result == "good"
    assert found.reason == f"linux/amd64: signature by vendor; linux/amd64: attestation {PROVENANCE} by vendor"
    assert judged(carried, VENDOR, OTHER, attestations=((PROVENANCE, ("other",)),)).result == "wrong"
    assert judged(carried, attestations=(("https://slsa.dev/provenance/v0.2", ("vendor",)),)).result == "missing"


@pytest.mark.parametrize("shape", ATTESTED)
def test_an_attestation_is_no_signature_and_a_signature_no_attestation(carried, shape):
    ATTESTED[shape](carried, carried.only, VENDOR)
    found = judged(carried)
    assert (found.result, found.seen[0].result) == ("missing", "not asked for")
    only = policy(VENDOR, images=[{"match": "**", "attestations": [{"predicate": PROVENANCE, "by": ["vendor"]}]}])
    assert carried.verdict(only, never).result == "good"
    carried.signature(carried.only, OTHER)
    assert carried.verdict(only, never).result == "good"


# Missing


def test_nothing_carried_is_missing(carried):
    found = judged(carried)
    assert (found.result, found.reason, found.seen) == ("missing", "linux/amd64: signature: none is carried", ())


def test_what_is_unsigned_is_listed_and_counts_for_nothing(carried):
    carried.add("sbom", "tag", carried.only, Part("text/spdx+json", b"{}"), suffix="sbom")
    carried.add("provenance", "index", carried.only, Part(IN_TOTO, statement(carried.only, predicate=PROVENANCE)))
    found = judged(carried, attestations=WANTED)
    assert found.result == "missing"
    assert [(seen.kind, seen.result, seen.reason) for seen in found.seen] == [
        ("sbom", "unsigned", "carried, unsigned: text/spdx+json"), ("provenance", "unsigned", f"carried, unsigned: {IN_TOTO}"),
    ]  # fmt: skip


# Unverifiable


def test_an_image_without_evidence_is_unverifiable(carried):
    found = carried.verdict(policy(VENDOR), never, evidence=False)
    assert found.result == "unverifiable"
    assert "no upstream evidence travels with this image" in found.reason


def test_missing_is_not_said_where_not_everything_was_collected(tmp_path):
    carried = Carried(tmp_path, not_collected=(("referrers", "the registry answered 500"),))
    found = judged(carried)
    assert (found.result, "the registry answered 500" in found.reason) == ("unverifiable", True)
    carried.tag_signature(carried.only, VENDOR)
    assert judged(carried).result == "good"


UNKNOWN = {
    "notation": lambda c: c.add("signature", "referrer", c.only, Part("application/jose+json", b"{}"), artifact=NOTATION),
    "unknown layer": lambda c: c.add("signature", "referrer", c.only, Part("application/pgp-signature", b"x")),
    "unknown bundle": lambda c: c.referrer(c.only, bundle({"dsseEnvelope": {}}).replace(b"v0.3", b"v0.9")),
    "older keyless": lambda c: c.tag_signature(c.only, OTHER, **{"dev.sigstore.cosign/certificate": "x"}),
    "large payload": lambda c: c.tag_signature(c.only, VENDOR, simple(c.only) + b" " * MAX_SIMPLE),
    "other message digest": lambda c: c.referrer(
        c.only, bundle({"messageSignature": {"messageDigest": {"algorithm": "SHA2_512", "digest": "YQ=="}, "signature": "YQ=="}})
    ),
}
PERSON = {"type": "sigstore", "identity": "https://ci.example.test/x", "issuer": "https://idp.example.test", "trusted_root": "root"}
ROOTS = {"root": {"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_judged_here_is_unverifiable_with_the_reason(carried, name):
    UNKNOWN[name](carried)
    rule = {"match": "**", "signed_by": ["ci"]}
    found = carried.verdict(site_policy({"identities": {"ci": PERSON}, "images": [rule]}, ROOTS), never)
    assert found.result == "unverifiable"
    assert found.seen[0].reason
    assert found.seen[0].reason in found.reason
    carried.signature(carried.only, VENDOR)
    rule["signed_by"] = ["vendor"]
    assert carried.verdict(site_policy({"identities": {"vendor": VENDOR.entry}, "images": [rule]}), never).result == "good"


def test_an_older_keyless_signature_is_wrong_where_a_key_is_named(carried):
    carried.tag_signature(carried.only, OTHER, **{"dev.sigstore.cosign/certificate": "x"})
    assert judged(carried).result == "wrong"


# Wrong


def test_a_signature_of_another_image_that_was_moved_here_is_wrong(carried):
    carried.tag_signature(carried.only, VENDOR, simple(STRANGER))
    carried.referrer(carried.only, bundle({"dsseEnvelope": envelope(statement(STRANGER), VENDOR)}))
    carried.referrer(carried.only, bundle(message_signature(b"another image", VENDOR)))
    found = judged(carried)
    assert [(seen.result, f"about {STRANGER}, not" in seen.reason) for seen in found.seen] == [("wrong", True)] * 3
    assert found.result == "wrong"


def test_a_bad_signature_beside_a_good_one_is_listed_and_does_not_spoil_it(carried):
    carried.signature(carried.only, OTHER)
    carried.tag_signature(carried.only, VENDOR)
    carried.tag_signature(carried.only, VENDOR, simple(STRANGER))
    found = judged(carried)
    assert found.result == "good"
    assert [seen.result for seen in found.seen] == ["wrong", "good", "wrong"]


def test_wrong_outweighs_unverifiable_and_that_outweighs_missing(tmp_path):
    carried = Carried(tmp_path, platforms=("linux/amd64", "linux/arm64"))
    first, second = (manifest.digest for manifest in carried.manifests)
    carried.signature(first, VENDOR)
    assert judged(carried).result == "missing"
    carried.add("signature", "referrer", second, Part("application/jose+json", b"{}"), artifact=NOTATION)
    assert judged(carried).result == "unverifiable"
    carried.signature(second, OTHER)
    found = judged(carried)
    assert (found.result, found.reason.startswith("linux/arm64: ")) == ("wrong", True)


def test_the_worst_platform_decides(tmp_path):
    carried = Carried(tmp_path, platforms=("linux/amd64", "linux/arm64", "linux/riscv64"))
    first, second, third = (manifest.digest for manifest in carried.manifests)
    carried.add("signature", "referrer", second, Part("application/jose+json", b"{}"), artifact=NOTATION)
    assert judged(carried).result == "unverifiable"
    carried.signature(third, OTHER)
    found = judged(carried)
    assert (found.result, found.reason) == ("wrong", "linux/riscv64: signature: no valid signature with the key of vendor")
    carried.signature(first, VENDOR)
    assert judged(carried).result == "wrong"


def simple_with(**changes: object) -> Callable[[Digest], bytes]:
    def made(digest: Digest) -> bytes:
        value = json.loads(simple(digest))
        value["critical"] |= changes
        return json.dumps(value).encode()

    return made


PAYLOADS = {
    "another type": lambda digest: simple(digest, kind="atomic container signature"),
    "no type": simple_with(type=None),
    "no image": simple_with(image=None),
    "digest of another algorithm": simple_with(image={"docker-manifest-digest": "sha512:" + "a" * 128}),
    "two images": lambda digest: simple_with(image={"docker-manifest-digest": str(digest), "Docker-manifest-digest": str(STRANGER)})(digest),
    "a key twice": lambda digest: simple(digest).replace(b'"type"', b'"type":"x","type"'),
    "no object": lambda digest: b"[]",
    "no JSON": lambda digest: simple(digest)[:-1],
    "not UTF-8": lambda digest: simple(digest).replace(b"null", b'"\xff"'),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_that_is_not_what_cosign_signs_is_wrong_although_the_key_signed_it(carried, name):
    carried.tag_signature(carried.only, VENDOR, PAYLOADS[name](carried.only))
    assert judged(carried).result == "wrong"


def test_the_place_an_image_was_signed_for_does_not_count_and_the_specifications_capital_does(carried):
    payload = simple(carried.only, name="evil.example/x").replace(b"docker-manifest-digest", b"Docker-manifest-digest")
    carried.tag_signature(carried.only, VENDOR, payload)
    assert judged(carried).result == "good"


def spoilt_envelope(change: Callable[[dict, bytes], object]) -> Callable[[Digest], bytes]:
    def made(digest: Digest) -> bytes:
        payload = statement(digest)
        value = envelope(payload, VENDOR)
        return bundle({"dsseEnvelope": change(value, payload) or value})

    return made


def resigned(payload: bytes, kind: str = IN_TOTO) -> dict:
    signature = VENDOR.sign(f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload)
    return {"payload": text(payload), "payloadType": kind, "signatures": [{"sig": text(signature)}]}


def padded(payload: bytes) -> str:
    """Sign until the signature's length asks for padding."""
    while len(signature := VENDOR.sign(pae(payload))) % 3 == 0:
        pass
    return text(signature)


def respelt(padded: str) -> str:
    """Set bits of the last letter that stand for nothing."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    bare = padded.rstrip("=")
    other = bare[:-1] + letters[letters.index(bare[-1]) | 1] + padded[len(bare) :]
    assert (base64.b64decode(other), other != padded) == (base64.b64decode(padded), True)
    return other


BUNDLES = {
    "payload of another image": spoilt_envelope(lambda e, p: e | {"payload": text(p.replace(b'"name"', b'"nAme"'))}),
    "another payload type, signed": spoilt_envelope(lambda e, p: resigned(p, "application/vnd.other+json")),
    "another payload type, not signed": spoilt_envelope(lambda e, p: e | {"payloadType": "text/plain"}),
    "signature over the payload alone": spoilt_envelope(lambda e, p: e | {"signatures": [{"sig": text(VENDOR.sign(p))}]}),
    "two signatures": spoilt_envelope(lambda e, p: e | {"signatures": e["signatures"] * 2}),
    "no signature": spoilt_envelope(lambda e, p: e | {"signatures": []}),
    "empty signature": spoilt_envelope(lambda e, p: e | {"signatures": [{"sig": ""}]}),
    "signature with a line end": spoilt_envelope(lambda e, p: e["signatures"][0].update(sig=e["signatures"][0]["sig"] + "\n")),
    "signature without padding": spoilt_envelope(lambda e, p: e["signatures"][0].update(sig=padded(p).rstrip("="))),
    "signature of the same bits in another form": spoilt_envelope(lambda e, p: e["signatures"][0].update(sig=respelt(padded(p)))),
    "payload as url-safe base64": spoilt_envelope(lambda e, p: resigned(p + b"\xff\xfe\xff") | {"payload": text(p + b"\xff\xfe\xff").replace("/", "_")}),
    "unknown field": spoilt_envelope(lambda e, p: e | {"payload_type": IN_TOTO}),
    "unknown field at a signature": spoilt_envelope(lambda e, p: e["signatures"][0].update(extra="")),
    "envelope that is a list": spoilt_envelope(lambda e, p: [e]),
    "not a statement": spoilt_envelope(lambda e, p: resigned(b'{"_type":"https://in-toto.io/Statement/v2"}')),
    "statement about nothing": spoilt_envelope(lambda e, p: resigned(statement())),
    "statement by another hash": spoilt_envelope(lambda e, p: resigned(p.replace(b'"sha256"', b'"sha512"'))),
    "statement with a key twice": spoilt_envelope(lambda e, p: resigned(p.replace(b'{"_type"', b'{"subject":[],"_type"'))),
    "statement of a list of types": spoilt_envelope(lambda e, p: resigned(p.replace(b'"https://in-toto.io/Statement/v1"', b'["x"]'))),
    "both kinds at once": lambda digest: bundle({"dsseEnvelope": envelope(statement(digest), VENDOR), "messageSignature": {"signature": "YQ=="}}),
    "two envelopes by two spellings": lambda digest: bundle(
        {"dsseEnvelope": envelope(statement(digest), OTHER), "dsse_envelope": envelope(statement(digest), VENDOR)}
    ),
    "nothing signed": lambda digest: bundle({}),
    "no material": lambda digest: bundle({"dsseEnvelope": envelope(statement(digest), VENDOR), "verificationMaterial": {}}),
    "key and certificate": lambda digest: bundle({"dsseEnvelope": envelope(statement(digest), VENDOR)}, publicKey={}, certificate={}),
    "message digest that is none": lambda digest: bundle({"messageSignature": {"messageDigest": {}, "signature": "YQ=="}}),
}


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_that_is_not_exactly_right_is_wrong(carried, name):
    carried.referrer(carried.only, BUNDLES[name](carried.only))
    assert judged(carried).result == "wrong"


@pytest.mark.parametrize("name", ["no JSON", "a key twice"])
def test_a_bundle_that_is_no_strict_json_is_wrong(carried, name):
    raw = bundle({"dsseEnvelope": envelope(statement(carried.only), VENDOR)})
    carried.referrer(carried.only, raw[:-1] if name == "no JSON" else raw[:-1] + b',"mediaType":"' + BUNDLE.encode() + b'"}')
    assert judged(carried).result == "wrong"


def test_a_statement_may_name_more_than_this_image(carried):
    carried.referrer(carried.only, bundle({"dsseEnvelope": envelope(statement(STRANGER, carried.only), VENDOR)}))
    assert judged(carried).result == "good"


def test_no_byte_of_a_signature_can_change():
    """Every byte of payload, annotation and bundle, one after the other: only what nobody reads may change."""
    with in_memory(None) as folder:
        carried = Carried(folder)
        believed = policy(VENDOR)

        def result(add: Callable[[], object]) -> str:
            carried.found.clear()
            carried.files.clear()
            add()
            return carried.verdict(believed, never).result

        payload = simple(carried.only)
        signed = text(VENDOR.sign(payload))
        whole = Part(SIMPLE, payload, (("dev.cosignproject.cosign/signature", signed),))
        assert result(lambda: carried.add("signature", "tag", carried.only, whole)) == "good"
        for at in range(0, len(payload), 2):
            changed = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
            part = Part(SIMPLE, changed, (("dev.cosignproject.cosign/signature", signed),))
            assert result(lambda part=part: carried.add("signature", "tag", carried.only, part)) == "wrong", at
        for at in range(0, len(signed), 3):
            other = signed[:at] + ("A" if signed[at] != "A" else "B") + signed[at + 1 :]
            part = Part(SIMPLE, payload, (("dev.cosignproject.cosign/signature", other),))
            assert result(lambda part=part: carried.add("signature", "tag", carried.only, part)) == "wrong", at
        raw = bundle({"dsseEnvelope": envelope(statement(carried.only), VENDOR)})
        unread = 0
        for at in range(0, len(raw), 2):
            changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
            if result(lambda raw=changed: carried.referrer(carried.only, raw)) == "good":
                kept = json.loads(changed)
                kept["verificationMaterial"] = json.loads(raw)["verificationMaterial"]  # the hint, which nobody believes
                kept["dsseEnvelope"]["signatures"][0].setdefault("keyid", "")
                assert kept == json.loads(raw), at
                unread += 1
        assert 0 < unread < 20


def test_evidence_that_is_not_what_it_is_named_is_wrong(carried):
    carried.signature(carried.only, VENDOR)
    name = next(path for path in carried.files if path.startswith("blobs/"))
    carried.files[name] = b"other bytes"
    found = judged(carried)
    assert (found.result, "is not what it says" in found.reason) == ("wrong", True)


def test_too_many_claims_are_not_judged(carried, monkeypatch):
    monkeypatch.setattr(upstream, "MAX_CLAIMS", 3)
    for number in range(4):
        assert judged(carried).result == "missing"
        carried.attestation(carried.only, VENDOR, predicate=f"https://example.org/{number}")
    found = judged(carried)
    assert (found.result, "more than 3 things" in found.reason) == ("wrong", True)


# Who is asked about


@pytest.mark.parametrize("match", ["docker.io/other/*", "docker.io/vllm", "docker.io/vllm/tool/*", "vllm/tool"])
def test_an_image_nobody_is_named_for_is_not_judged(carried, match):
    carried.signature(carried.only, OTHER)
    found = judged(carried, match=match)
    assert (found.result, found.rule, found.reason) == ("nobody named", None, f"the policy names nobody for {NAME}")
    assert [seen.result for seen in found.seen] == ["not asked for"]
    assert carried.verdict(site_policy(), never).result == "nobody named"


def test_the_first_rule_decides_although_a_later_one_would_accept(carried):
    carried.signature(carried.only, VENDOR)
    rules = [{"match": "docker.io/**", "signed_by": ["other"]}, {"match": "docker.io/vllm/*", "signed_by": ["vendor"]}]
    assert judged(carried, VENDOR, OTHER, images=rules).result == "wrong"
    assert judged(carried, VENDOR, OTHER, images=rules[::-1]).result == "good"


@pytest.mark.parametrize("ref", ["not a reference:", ""])
def test_an_image_of_no_readable_name_falls_to_the_rule_for_all_or_to_nobody(tmp_path, ref):
    carried = Carried(tmp_path, ref=ref)
    carried.listing = lambda: Carried.listing(Carried(tmp_path / "x", ref=f"{NAME}:1"))  # type: ignore[method-assign]
    assert judged(carried, match="docker.io/**").result == "nobody named"
    assert judged(carried, match="**").rule == "**"


# Platforms and the index


def test_every_platform_that_is_carried_needs_its_signature(tmp_path):
    carried = Carried(tmp_path, platforms=("linux/amd64", "linux/arm64"))
    first, second = (manifest.digest for manifest in carried.manifests)
    carried.tag_signature(first, VENDOR)
    found = judged(carried)
    assert (found.result, found.reason) == ("missing", "linux/arm64: signature: none is carried")
    carried.signature(second, VENDOR)
    assert judged(carried).result == "good"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_signature_over_the_index_covers_the_platforms_it_lists(tmp_path, shape):
    carried = Carried(tmp_path, platforms=("linux/amd64", "linux/arm64"), indexed=True)
    SHAPES[shape](carried, carried.index, VENDOR)
    found = judged(carried)
    assert found.result == "good"
    assert found.seen[0].about == (carried.index,)
    carried.attestation(carried.index, VENDOR)
    assert judged(carried, attestations=WANTED).result == "good"


def test_a_signature_over_an_index_that_does_not_list_the_image_covers_nothing(tmp_path):
    carried = Carried(tmp_path, indexed=True)
    carried.index_raw = json.dumps(json.loads(carried.index_raw) | {"manifests": [carried.elsewhere.to_dict()]}).encode()
    carried.index = Digest.of(carried.index_raw)
    carried.signature(carried.index, VENDOR)
    found = judged(carried)
    assert (found.result, found.seen[0].result) == ("missing", "not asked for")
    carried.referrer(carried.only, bundle({"dsseEnvelope": envelope(statement(carried.index), VENDOR)}))
    assert judged(carried).result == "wrong"


def test_a_signature_over_another_platform_of_the_index_covers_nothing_here(tmp_path):
    carried = Carried(tmp_path, indexed=True)
    carried.referrer(carried.index, bundle({"dsseEnvelope": envelope(statement(carried.elsewhere.digest), VENDOR)}))
    assert judged(carried).result == "wrong"


def test_a_signature_on_something_beside_the_image_is_not_asked_for(carried):
    sbom = carried.add("sbom", "referrer", carried.only, Part("text/spdx+json", b"{}"))
    carried.signature(sbom, VENDOR)
    found = judged(carried)
    assert (found.result, [seen.result for seen in found.seen]) == ("missing", ["unsigned", "not asked for"])


def test_an_attestation_in_the_older_shape_is_not_good_with_a_changed_envelope(carried):
    carried.tag_signature(carried.only, VENDOR)
    carried.tag_attestation(carried.only, VENDOR, payloadType="text/plain")
    carried.add("attestation", "tag", carried.only, Part(DSSE, b"{}"), suffix="att")
    assert judged(carried, attestations=WANTED).result == "wrong"
    assert judged(carried).result == "good"


def test_the_signed_bytes_are_the_pre_authentication_encoding():
    assert pae(b"hello") == b"DSSEv1 28 application/vnd.in-toto+json 5 hello"
