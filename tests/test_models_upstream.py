"""What upstream says of models: a `model.sig` that is believed, one that is not, and what no signature makes good."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import string
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts import trees
from parts.omssig import FILES, Shipped, listed, policy, sharded, signature, statement
from parts.sigstore import PrivateSigstore
from parts.upstream import KEYS, OTHER, VENDOR, site_policy

from airgap_images.oci import Digest
from audit.checks import Subject, gate, load, run_one
from audit.verify import oms, upstream
from audit.verify.keyless import Answer, payload_digest
from audit.verify.models import name_of
from audit.verify.verdict import Verdict
from manifests.errors import AirgapError

NAME = "hub.example.org/acme/tiny"


@pytest.fixture
def shipped(tmp_path) -> Shipped:
    return Shipped(tmp_path)


def resigned(shipped: Shipped, resources: list[dict[str, Any]], **changes: Any) -> Verdict:
    shipped.files[oms.FILE] = signature(statement(resources, **changes), VENDOR)
    return shipped.verdict(policy(VENDOR))


def test_a_model_signed_by_whom_the_policy_names_is_good(shipped):
    shipped.signed(VENDOR)
    found = shipped.verdict(policy(OTHER, VENDOR))
    assert (found.sort, found.component, found.name, found.rule, found.result) == ("model", "m", NAME, "hub.example.org/acme/*", "good")
    assert found.reason == "signed by vendor; every carried file is as signed"
    (seen,) = found.seen
    assert (seen.kind, seen.shape, seen.by, seen.result, seen.predicate) == ("signature", "model.sig", "vendor", "good", oms.PREDICATE)
    assert seen.manifest == Digest.of(shipped.files[oms.FILE])
    del shipped.files[oms.FILE]
    assert seen.subject.hex == hashlib.sha256(b"".join(hashlib.sha256(FILES[path]).digest() for path in sorted(FILES))).hexdigest()


def test_every_sort_of_thing_is_assessed_at_once(shipped):
    shipped.signed(VENDOR)
    assert [found.sort for found in upstream.assess(shipped.layout, [shipped.component], policy(VENDOR))] == ["model"]


@pytest.mark.parametrize("algorithm", ["ecdsa-p384-sha384", "ecdsa-p384-sha256", "ed25519", "rsa-pkcs1v15-sha256"])
def test_the_policy_says_by_which_algorithm_a_key_signs(tmp_path, algorithm):
    shipped = Shipped(tmp_path)
    shipped.signed(KEYS[algorithm])
    assert shipped.verdict(policy(KEYS[algorithm])).result == "good"


def test_a_local_model_is_named_by_its_component_and_a_hub_s_by_host_and_repository(tmp_path):
    local = Shipped(tmp_path, kind="model")
    local.signed(VENDOR)
    assert (local.verdict(policy(VENDOR, local=True)).result, local.verdict(policy(VENDOR)).result) == ("good", "nobody named")
    assert name_of(Shipped(tmp_path, host="Hub.Example.org:8080").component) == "hub.example.org:8080/acme/tiny"
    assert name_of(Shipped(tmp_path, host="hub.example.org/x y").component) == ""
    old = Shipped(tmp_path, host="")
    assert old.verdict(policy(VENDOR)).result == "nobody named"


def test_nothing_carried_is_missing_and_no_rule_is_nobody_named(shipped):
    assert (shipped.verdict(policy(VENDOR)).result, shipped.verdict(policy(VENDOR)).seen) == ("missing", ())
    assert shipped.verdict(policy()).reason == f"the policy names nobody for {NAME}"
    shipped.signed(VENDOR)
    found = shipped.verdict(policy())
    assert (found.result, found.reason) == ("nobody named", f"the policy names nobody for {NAME}; it carries a model.sig")
    assert found.seen[0].result == "not asked for"


def test_another_key_is_wrong(shipped):
    shipped.signed(OTHER)
    found = shipped.verdict(policy(VENDOR))
    assert (found.result, found.reason) == ("wrong", "no valid signature with the key of vendor")


def test_a_changed_statement_is_wrong(shipped):
    shipped.signed(VENDOR)
    value = json.loads(shipped.files[oms.FILE])
    payload = json.loads(base64.b64decode(value["dsseEnvelope"]["payload"]))
    payload["subject"][0]["name"] = "another"
    value["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    shipped.files[oms.FILE] = json.dumps(value).encode()
    assert shipped.verdict(policy(VENDOR)).result == "wrong"


@pytest.mark.parametrize("believed", [policy(VENDOR), policy(OTHER), policy(), None])
@pytest.mark.parametrize("how", ["changed", "listed otherwise", "other sum"])
def test_what_contradicts_the_files_is_wrong_whoever_signed_and_whoever_is_named(shipped, believed, how):
    resources = listed(shipped.files)
    if how == "listed otherwise":
        resources[1]["digest"] = "00" * 32
    value = statement(resources)
    if how == "other sum":
        value["subject"][0]["digest"]["sha256"] = "00" * 32
    shipped.files[oms.FILE] = signature(value, VENDOR)
    if how == "changed":
        shipped.files["model.safetensors"] += b"!"
    found = shipped.verdict(believed)
    assert found.result == "wrong"
    assert found.reason.startswith("model.sig is not about the files that are carried: ")
    assert ("its sum" if how == "other sum" else "model.safetensors: is sha256") in found.reason


def test_a_carried_file_that_is_not_signed_is_wrong_with_the_way_to_leave_it_out(shipped):
    shipped.signed(VENDOR, terms={"ignore_paths": [".gitattributes", "README.md"]})
    shipped.files |= {".gitattributes": b"*.bin filter=lfs\n", "README.md": b"# hello\n"}
    found = shipped.verdict(policy(VENDOR))
    assert found.result == "wrong"
    assert "carried and not signed: .gitattributes; README.md" in found.reason
    assert '`exclude: [".gitattributes", "README.md"]`' in found.reason
    assert shipped.verdict(policy()).result == "nobody named"  # nobody asked for a signature over everything
    shipped.others = {"models--Acme--Tiny/blobs/x": b"hidden"}
    assert "models--Acme--Tiny/blobs/x" in shipped.verdict(policy(VENDOR)).reason


def test_signed_files_that_are_not_carried_are_counted(shipped):
    shipped.signed(VENDOR)
    del shipped.files["sub/tokenizer.json"]
    found = shipped.verdict(policy(VENDOR))
    assert (found.result, found.reason) == (
        "good", "signed by vendor; every carried file is as signed, 1 that are signed are not carried (sub/tokenizer.json)",
    )  # fmt: skip


@pytest.mark.parametrize("size", [1, 7, 350, 10_000])
@pytest.mark.parametrize("algorithm", ["sha256", "blake2b"])
def test_ranges_of_files_are_read_and_compared(shipped, size, algorithm):
    terms = {"terms": {"method": "shards", "shard_size": float(size), "hash_type": algorithm}}
    shards = sharded(shipped.files, size, algorithm)
    assert resigned(shipped, shards, **terms).result == "good"
    shipped.files["model.safetensors"] = b"weightz" * 100
    found = resigned(shipped, shards, **terms)
    assert found.result == "wrong"
    assert f"model.safetensors: bytes {6 // size * size} to" in found.reason


def test_ranges_must_make_up_the_file(shipped):
    terms = {"terms": {"method": "shards", "shard_size": 100}}
    shards = sharded(shipped.files, 100)
    for missing in ("0:100", "300:400", "600:700"):
        found = resigned(shipped, [entry for entry in shards if entry["name"] != f"model.safetensors:{missing}"], **terms)
        assert "model.safetensors: the signed ranges do not make up its 700 bytes" in found.reason, missing
    assert "not signed: sub/tokenizer.json" in resigned(shipped, shards[:-1], **terms).reason
    weights = [dict(entry) for entry in shards]
    first = next(entry for entry in weights if entry["name"] == "model.safetensors:0:100")
    first["name"] = "model.safetensors:0:101"  # overlaps the second
    found = resigned(shipped, weights, **terms)
    assert "model.safetensors: the signed ranges do not make up its 700 bytes" in found.reason


def test_whole_files_by_another_hash_are_read(shipped):
    assert resigned(shipped, listed(shipped.files, "blake2b"), terms={"hash_type": "blake2b"}).result == "good"
    resources = listed(shipped.files, "blake2b")
    resources[0]["digest"] = "00" * 64
    assert resigned(shipped, resources, terms={"hash_type": "blake2b"}).result == "wrong"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"predicateType": oms.OLDER}, "the older form v0.1"),
        ({"predicateType": "https://slsa.dev/provenance/v1"}, "https://slsa.dev/provenance/v1"),
        ({"terms": {"method": "tensors"}}, "by the method tensors"),
    ],
)
def test_what_this_version_does_not_know_is_unverifiable(shipped, changes, said):
    found = resigned(shipped, listed(shipped.files), **changes)
    assert found.result == "unverifiable"
    assert said in found.reason


def test_a_hash_that_cannot_be_recomputed_is_unverifiable_only_if_somebody_named_signed(shipped):
    resources = [entry | {"algorithm": "blake3"} for entry in listed(shipped.files)]
    found = resigned(shipped, resources, terms={"hash_type": "blake3"})
    assert (found.result, found.reason) == ("unverifiable", "its files are hashed with blake3, which this version cannot recompute")
    assert shipped.verdict(policy(OTHER)).result == "wrong"


def test_a_bundle_of_another_form_is_unverifiable(shipped):
    shipped.signed(VENDOR)
    value = json.loads(shipped.files[oms.FILE])
    for change in ({"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1"}, {"messageSignature": {}}):
        shipped.files[oms.FILE] = json.dumps(value | change).encode()
        assert shipped.verdict(policy(VENDOR)).result == "unverifiable"


def test_the_file_does_not_choose_how_it_is_judged(shipped):
    shipped.files[oms.FILE] = signature(statement(listed(shipped.files)), VENDOR, x509CertificateChain={"certificates": [{"rawBytes": "AAAA"}]})
    found = shipped.verdict(policy(VENDOR))
    assert (found.result, found.reason) == ("wrong", "not vendor: it was made with a chain of certificates")
    entry = {"type": "x509", "alg": "ecdsa-p256-sha256", "roots": [PrivateSigstore().root.public_bytes(Encoding.PEM).decode()], "subject": "CN=a"}
    rule = {"match": "hub.example.org/**", "signed_by": ["a"]}
    found = shipped.verdict(site_policy({"identities": {"a": entry}, "models": [rule]}))
    assert (found.result, found.reason) == ("wrong", "not a: the certificate cannot be read")
    material = {"certificate": {"rawBytes": "AAAA"}, "tlogEntries": [{}]}
    shipped.files[oms.FILE] = signature(statement(listed(shipped.files)), VENDOR, **material)
    assert shipped.verdict(policy(VENDOR)).reason == "not vendor: it was made with a keyless certificate"


class Asked:
    """A judge that gives one answer and remembers what it was asked."""

    def __init__(self, **answer: Any) -> None:
        self.answer, self.questions = answer, []

    def __call__(self, questions):
        self.questions += questions
        return tuple(Answer(**self.answer) for _ in questions)


def test_a_keyless_signature_counts_only_over_the_statement_that_was_read(shipped):
    from parts.upstream import Person

    root = {"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}
    person = Person("ci", "https://git.example.org/acme/.ci@main", "https://idp.example.org", root)
    value = json.dumps(statement(listed(shipped.files))).encode()
    shipped.files[oms.FILE] = signature(value, VENDOR, certificate={"rawBytes": "AAAA"}, tlogEntries=[{}])
    ask = Asked(result="good", reason="", payload=payload_digest(value))
    found = shipped.verdict(policy(person), ask)
    assert (found.result, found.seen[0].by, ask.questions[0].identity) == ("good", "ci", person.identity)
    other = shipped.verdict(policy(person), Asked(result="good", reason="", payload="00" * 32))
    assert (other.result, other.reason) == ("wrong", "the statement that was verified is another than the one that was read")
    assert shipped.verdict(policy(person), Asked(result="good", reason="")).result == "wrong"
    assert shipped.verdict(policy(person), Asked(result="wrong", reason="no")).reason == "not ci: no"
    assert shipped.verdict(policy(person), Asked(result="unverifiable", reason="absent")).result == "unverifiable"


# What it is to the gate


def checked(shipped: Shipped, believed: Any):
    return run_one(load("upstream"), Subject(shipped.layout, (shipped.component,), believed))


def test_without_a_policy_a_signature_is_not_assessed_and_none_is_nothing_to_examine(shipped):
    assert checked(shipped, None).outcome == "nothing to examine"
    assert checked(shipped, policy()).outcome == "nothing to examine"
    shipped.signed(VENDOR)
    assert [note.reason for note in checked(shipped, None).not_assessed] == ["no policy was given, so nobody is named whose signature would count"]
    assert gate([checked(shipped, policy())], {}).exit_code == 5


@pytest.mark.parametrize("believed", [None, policy(), policy(VENDOR)])
def test_a_contradiction_is_refused_whatever_a_gate_says(shipped, believed):
    shipped.signed(VENDOR)
    shipped.files["config.json"] = b"{ }"
    found = checked(shipped, believed)
    (finding,) = found.findings
    assert (finding.id, finding.component, finding.waivable) == ("upstream.wrong", "m", False)
    assert "do not use this model" in finding.remedy
    assert gate([found], {"upstream": "warn"}).exit_code == 4


def test_missing_and_good_models_at_the_gate(shipped):
    found = checked(shipped, policy(VENDOR))
    assert [(finding.id, finding.waivable) for finding in found.findings] == [("upstream.missing", True)]
    assert "who publishes the model" in found.findings[0].remedy
    shipped.signed(VENDOR)
    assert (checked(shipped, policy(VENDOR)).outcome, checked(shipped, policy(VENDOR)).examined) == ("nothing found", 1)


def test_a_tree_that_is_no_model_is_not_looked_at(tmp_path):
    subject = trees.subject(tmp_path, {oms.FILE: b"x"}, kind="path", model=False)
    assert run_one(load("upstream"), subject).outcome == "nothing to examine"


# Hostile files


BROKEN: dict[str, Callable[[dict], Any]] = {
    "no statement": lambda s: b"[]",
    "not JSON": lambda s: b"{",
    "doubled key": lambda s: json.dumps(s).replace('"_type"', '"_type": "x", "_type"', 1).encode(),
    "older statement": lambda s: s | {"_type": "https://in-toto.io/Statement/v0.1"},
    "no subject": lambda s: s | {"subject": []},
    "two subjects": lambda s: s | {"subject": s["subject"] * 2},
    "subject without a name": lambda s: s | {"subject": [{"name": "", "digest": {"sha256": "00" * 32}}]},
    "subject without a sum": lambda s: s | {"subject": [{"name": "m", "digest": {"sha512": "00" * 64}}]},
    "no files": lambda s: changed(s, resources=[]),
    "files are no list": lambda s: changed(s, resources={"a": "b"}),
    "no serialization": lambda s: changed(s, serialization=None),
    "links not said": lambda s: changed(s, serialization={"method": "files", "hash_type": "sha256"}),
    "hash not said": lambda s: changed(s, serialization={"method": "files", "allow_symlinks": False}),
    "a file twice": lambda s: changed(s, resources=s["predicate"]["resources"] * 2),
    "a file without a digest": lambda s: changed(s, resources=[{"name": "a", "algorithm": "sha256"}]),
    "a mixed algorithm": lambda s: changed(s, resources=[{"name": "a", "algorithm": "sha512", "digest": "00" * 32}]),
    "a short digest": lambda s: changed(s, resources=[{"name": "a", "algorithm": "sha256", "digest": "00" * 31}]),
    "an upper-case digest": lambda s: changed(s, resources=[{"name": "a", "algorithm": "sha256", "digest": "AA" * 32}]),
    "a number as a name": lambda s: changed(s, resources=[{"name": 1, "algorithm": "sha256", "digest": "00" * 32}]),
    "a range of nothing": lambda s: changed(
        s, resources=[{"name": "a:5:5", "algorithm": "sha256", "digest": "00" * 32}], serialization=SHARDS
    ),
    "no range": lambda s: changed(s, resources=[{"name": "a", "algorithm": "sha256", "digest": "00" * 32}], serialization=SHARDS),
    **{
        f"path {path!r}": lambda s, path=path: changed(s, resources=[{"name": path, "algorithm": "sha256", "digest": "00" * 32}])
        for path in ("../a", "/a", "a//b", "./a", "a/", "", "a\\b", "a\nb", "\u202ea", "x" * 2000)
    },
}
SHARDS = {"method": "shards", "hash_type": "sha256", "shard_size": 5, "allow_symlinks": False}


def changed(value: dict, **predicate: Any) -> dict:
    return value | {"predicate": value["predicate"] | predicate}


@pytest.mark.parametrize("how", BROKEN)
def test_a_statement_in_another_form_is_wrong_though_it_is_signed(shipped, how):
    value = BROKEN[how](statement(listed(shipped.files)))
    shipped.files[oms.FILE] = signature(value, VENDOR)
    found = shipped.verdict(policy(VENDOR))
    assert found.result == "wrong", found
    assert found.reason.isprintable()
    assert shipped.verdict(None).result == "nobody named"


ENVELOPES: dict[str, Callable[[dict], Any]] = {
    "no object": lambda v: [],
    "empty": lambda v: {},
    "more fields": lambda v: v | {"dsse_envelope": {}},
    "two signatures": lambda v: enveloped(v, signatures=v["dsseEnvelope"]["signatures"] * 2),
    "no signature": lambda v: enveloped(v, signatures=[]),
    "other payload type": lambda v: enveloped(v, payloadType="text/plain"),
    "base64 with spaces": lambda v: enveloped(v, payload=v["dsseEnvelope"]["payload"] + " "),
    "base64 of two forms": lambda v: enveloped(v, signatures=[{"sig": "QR=="}]),
    "two holders": lambda v: v | {"verificationMaterial": {"publicKey": {}, "certificate": {"rawBytes": "AAAA"}}},
    "no holder": lambda v: v | {"verificationMaterial": {"tlogEntries": []}},
    "an empty chain": lambda v: v | {"verificationMaterial": {"x509CertificateChain": {"certificates": []}}},
    "a long chain": lambda v: v | {"verificationMaterial": {"x509CertificateChain": {"certificates": [{"rawBytes": "AAAA"}] * 9}}},
    "many timestamps": lambda v: v
    | {"verificationMaterial": {"publicKey": {}, "timestampVerificationData": {"rfc3161Timestamps": [{"signedTimestamp": "AAAA"}] * 9}}},
}


def enveloped(value: dict, **envelope: Any) -> dict:
    return value | {"dsseEnvelope": value["dsseEnvelope"] | envelope}


@pytest.mark.parametrize("how", ENVELOPES)
def test_a_bundle_in_another_form_is_never_good(shipped, how):
    value = json.loads(signature(statement(listed(shipped.files)), VENDOR))
    shipped.files[oms.FILE] = json.dumps(ENVELOPES[how](value)).encode()
    with pytest.raises(AirgapError):
        oms.parse(shipped.files[oms.FILE], "x")
    assert shipped.verdict(policy(VENDOR)).result in {"wrong", "unverifiable"}


@pytest.mark.parametrize("keyid", [None, "", "x"])
def test_what_signers_of_other_versions_wrote_is_read(shipped, keyid):
    value = json.loads(signature(statement(listed(shipped.files), terms={"ignore_paths": []}), VENDOR))
    value["dsseEnvelope"]["signatures"][0]["keyid"] = keyid
    value["verificationMaterial"] = {"publicKey": {"rawBytes": "AAAA", "keyDetails": "PKIX_ECDSA_P256_SHA_256"}}
    shipped.files[oms.FILE] = json.dumps(value).encode()
    assert shipped.verdict(policy(VENDOR)).result == "good"


def test_thousands_of_files(tmp_path):
    shipped = Shipped(tmp_path, {f"part-{at:05}/{'x' * 40}.bin": b"same" for at in range(4_000)})
    shipped.signed(VENDOR)
    assert shipped.verdict(policy(VENDOR)).result == "good"
    with pytest.raises(AirgapError, match="more than"):
        oms.parse(signature(statement([{"name": "a", "algorithm": "sha256", "digest": "00"}] * (oms.MAX_RESOURCES + 1)), VENDOR), "x")


def test_a_large_file_of_another_kind_is_not_read(shipped):
    shipped.files[oms.FILE] = os.urandom(1) * (oms.MAX_FILE + 1)
    found = shipped.verdict(policy(VENDOR))
    assert found.result == "wrong"
    assert "at most" in found.reason


def test_two_snapshots_are_no_model(shipped):
    shipped.signed(VENDOR)
    shipped.others = {f"models--Acme--Tiny/snapshots/{'b' * 40}/config.json": b"{}"}
    assert shipped.verdict(policy(VENDOR)).result == "wrong"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.text(string.printable, max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_letters, max_size=8), inner, max_size=3),
    max_leaves=8,
)
VALID = json.loads(signature(statement(listed(FILES)), VENDOR))


def places(value: Any, path: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, child in inner for found in places(child, (*path, key)))]


def replaced(value: Any, path: tuple, by: Any) -> Any:
    if not path:
        return by
    copied = value.copy()
    copied[path[0]] = replaced(value[path[0]], path[1:], by)
    return copied


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), by=JSON)
def test_whatever_stands_in_any_place_is_parsed_or_refused(data, by):
    """Put any JSON in any place of the bundle, or of its statement: the parser returns or raises its own error."""
    inner = data.draw(st.booleans())
    value = statement(listed(FILES)) if inner else VALID
    other = replaced(value, data.draw(st.sampled_from(places(value))), by)
    raw = signature(other, VENDOR) if inner else json.dumps(other).encode()
    try:
        found = oms.parse(raw, "x")
    except AirgapError:
        return
    assert len({(entry.path, entry.start) for entry in found.listing.resources}) == len(found.listing.resources)
    assert all(".." not in entry.path.split("/") and not entry.path.startswith("/") for entry in found.listing.resources)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused(raw):
    with pytest.raises(AirgapError):
        oms.parse(raw, "x")
