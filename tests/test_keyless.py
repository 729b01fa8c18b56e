"""Keyless signatures: the right workflow and nobody else, judged by a process that can reach nothing."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from parts.cli import NO_NETWORK, need_namespaces
from parts.sigstore import ISSUER, PrivateSigstore, private_sigstore
from parts.upstream import (
    PROVENANCE,
    VENDOR,
    Carried,
    Part,
    Person,
    bundle,
    envelope,
    policy,
    simple,
    statement,
    text,
)

from airgap_images.oci import Digest
from audit.verify import keyless
from audit.verify.claims import DSSE, SIMPLE
from audit.verify.keyless import ABSENT, Answer, Question, judge
from audit.verify.verdict import Verdict

WORKFLOW = "https://git.example.test/vllm/tool/.ci/release.yml@refs/heads/main"
FORK = "https://git.example.test/fork/tool/.ci/release.yml@refs/heads/main"
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def private() -> Iterator[PrivateSigstore]:
    with private_sigstore() as running:
        yield running


@pytest.fixture(scope="module")
def ci(private) -> Person:
    return Person("ci", WORKFLOW, ISSUER, private.trusted_root())


@pytest.fixture
def carried(tmp_path) -> Carried:
    return Carried(tmp_path)


def pem(raw: bytes) -> str:
    """The certificate of a bundle as cosign writes it into an annotation."""
    certificate = x509.load_der_x509_certificate(base64.b64decode(json.loads(raw)["verificationMaterial"]["certificate"]["rawBytes"]))
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def older(carried: Carried, private: PrivateSigstore, identity: str, payload: bytes | None = None, *, completed: bool = True) -> Digest:
    """What `cosign sign` of a workflow left before 3.0, and what collecting makes of it."""
    payload = simple(carried.only) if payload is None else payload
    raw = private.sign_artifact(identity, payload)
    said = json.loads(raw)
    annotations = {
        "dev.cosignproject.cosign/signature": said["messageSignature"]["signature"],
        "dev.sigstore.cosign/certificate": pem(raw),
        "dev.sigstore.cosign/bundle": "{}",
    }
    part = Part(SIMPLE, payload, tuple(sorted(annotations.items())), raw if completed else None)
    return carried.add("signature", "tag", carried.only, part)


def older_attestation(carried: Carried, private: PrivateSigstore, identity: str) -> Digest:
    raw = private.sign_statement(identity, statement(carried.only, predicate=PROVENANCE))
    part = Part(DSSE, json.dumps(json.loads(raw)["dsseEnvelope"]).encode(), (("dev.sigstore.cosign/certificate", pem(raw)),), raw)
    return carried.add("attestation", "tag", carried.only, part, suffix="att")


SHAPES = {
    "bundle with an envelope": lambda c, p, who: c.referrer(c.only, p.sign_statement(who, statement(c.only))),
    "bundle over the manifest": lambda c, p, who: c.referrer(c.only, p.sign_artifact(who, c.raw(c.only))),
    "older signature, completed": older,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_right_workflow_is_accepted_and_a_fork_refused_in_every_shape(carried, private, ci, shape):
    SHAPES[shape](carried, private, FORK)
    found = carried.verdict(policy(ci))
    assert found.result == "wrong"
    assert FORK in found.seen[0].reason
    SHAPES[shape](carried, private, WORKFLOW)
    found = carried.verdict(policy(ci))
    assert [(seen.result, seen.by) for seen in found.seen] == [("wrong", None), ("good", "ci")]
    assert (found.result, found.reason) == ("good", "linux/amd64: signature by ci")


@pytest.mark.parametrize("identity", [WORKFLOW + "x", WORKFLOW.removesuffix("main"), WORKFLOW.replace("main", "Main"), "ci@example.test", ISSUER])
def test_an_identity_is_exact(carried, private, ci, identity):
    SHAPES["bundle with an envelope"](carried, private, WORKFLOW)
    assert carried.verdict(policy(Person("ci", identity, ISSUER, ci.root))).result == "wrong"


def test_an_issuer_is_exact_and_a_mail_address_can_be_named(carried, private, ci):
    SHAPES["bundle with an envelope"](carried, private, "alice@example.test")
    assert carried.verdict(policy(Person("alice", "alice@example.test", f"{ISSUER}/", ci.root))).result == "wrong"
    assert carried.verdict(policy(Person("alice", "alice@example.test", ISSUER, ci.root))).result == "good"


def test_one_of_several_is_enough_and_a_key_may_stand_beside(carried, private, ci):
    SHAPES["bundle with an envelope"](carried, private, WORKFLOW)
    assert carried.verdict(policy(VENDOR, Person("fork", FORK, ISSUER, ci.root), ci)).result == "good"
    found = carried.verdict(policy(VENDOR, Person("fork", FORK, ISSUER, ci.root)))
    assert found.result == "wrong"
    assert "no valid signature with the key of vendor; not fork: " in found.reason


@pytest.mark.parametrize("shape", ["bundle", "older"])
def test_attestations_by_a_workflow(carried, private, ci, shape):
    wanted = policy(ci, images=[{"match": "**", "attestations": [{"predicate": PROVENANCE, "by": ["ci"]}]}])
    for identity, expected in ((FORK, "wrong"), (WORKFLOW, "good")):
        if shape == "older":
            older_attestation(carried, private, identity)
        else:
            carried.referrer(carried.only, private.sign_statement(identity, statement(carried.only, predicate=PROVENANCE)), "attestation")
        assert carried.verdict(wanted).result == expected


def test_an_older_signature_that_was_not_completed_is_unverifiable(carried, private, ci):
    older(carried, private, WORKFLOW, completed=False)
    found = carried.verdict(policy(ci))
    assert (found.result, "not completed" in found.reason) == ("unverifiable", True)


def test_of_two_older_signatures_over_one_payload_each_has_its_own_completed_bundle(carried, private, ci):
    """Layers of one payload are one blob; only the annotations tell the signatures apart."""
    payload = simple(carried.only)
    raws = [private.sign_artifact(identity, payload) for identity in (FORK, WORKFLOW)]
    parts = [Part(SIMPLE, payload, (("dev.cosignproject.cosign/signature", text(VENDOR.sign(payload))),))]
    for raw in raws:
        signature = json.loads(raw)["messageSignature"]["signature"]
        parts.append(Part(SIMPLE, payload, (("dev.cosignproject.cosign/signature", signature), ("dev.sigstore.cosign/certificate", pem(raw))), raw))
    carried.add("signature", "tag", carried.only, *parts)
    carried.completed.reverse()
    found = carried.verdict(policy(ci, VENDOR))
    assert [(seen.result, seen.by) for seen in found.seen] == [("good", "vendor"), ("wrong", None), ("good", "ci")]


def test_a_completed_signature_over_another_payload_is_wrong(carried, private, ci):
    other = private.sign_artifact(WORKFLOW, simple(Digest.of(b"another image")))
    said = (("dev.cosignproject.cosign/signature", "YQ=="), ("dev.sigstore.cosign/certificate", pem(other)))
    carried.add("signature", "tag", carried.only, Part(SIMPLE, simple(carried.only), said, other))
    assert carried.verdict(policy(ci)).result == "wrong"
    attested = private.sign_statement(WORKFLOW, statement(Digest.of(b"another image"), predicate=PROVENANCE))
    here = json.dumps(envelope(statement(carried.only, predicate=PROVENANCE), VENDOR)).encode()
    carried.add("attestation", "tag", carried.only, Part(DSSE, here, (("dev.sigstore.cosign/certificate", pem(attested)),), attested), suffix="att")
    found = carried.verdict(policy(ci, attestations=((PROVENANCE, ("ci",)),)))
    assert "another statement" in found.seen[1].reason


def test_a_signature_of_another_image_that_was_moved_here_is_wrong(carried, private, ci):
    carried.referrer(carried.only, private.sign_statement(WORKFLOW, statement(Digest.of(b"another image"))))
    older(carried, private, WORKFLOW, simple(Digest.of(b"another image")))
    found = carried.verdict(policy(ci))
    assert [(seen.result, "not about this image" in seen.reason) for seen in found.seen] == [("wrong", True)] * 2


# The kind of signer comes from the policy


def test_a_bare_key_in_the_place_of_a_certificate_is_wrong(carried, private, ci):
    """GHSA-fx35-mq7g-6g98: then no identity would be compared at all."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    bare = VENDOR.private.public_key().public_bytes(serialization.Encoding.DER, form)
    good = json.loads(private.sign_statement(WORKFLOW, statement(carried.only)))
    for material in (good["verificationMaterial"] | {"certificate": {"rawBytes": text(bare)}}, {"certificate": {"rawBytes": text(bare)}}):
        carried.referrer(carried.only, bundle({"dsseEnvelope": envelope(statement(carried.only), VENDOR)}, **material))
    found = carried.verdict(policy(ci))
    assert "good" not in {seen.result for seen in found.seen}
    assert found.result == "wrong"


def test_a_plain_key_is_wrong_where_a_workflow_is_named(carried, ci):
    carried.signature(carried.only, VENDOR)
    carried.tag_signature(carried.only, VENDOR)
    found = carried.verdict(policy(ci))
    assert [(seen.result, seen.reason) for seen in found.seen] == [("wrong", "not ci: it was made with a plain key, not with a certificate")] * 2


def test_a_workflow_is_wrong_where_a_key_is_named(carried, private):
    SHAPES["bundle with an envelope"](carried, private, WORKFLOW)
    assert carried.verdict(policy(VENDOR), lambda _: pytest.fail("the verifier is not to be asked")).result == "wrong"


def test_a_certificate_that_says_the_right_thing_and_is_of_another_authority_is_wrong(carried, private, ci):
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test ca")])
    own = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(VENDOR.private.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(minutes=1)).not_valid_after(now + timedelta(minutes=9))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(WORKFLOW)]), critical=True)
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), ISSUER.encode()), critical=False)
        .sign(VENDOR.private, hashes.SHA256())
    )  # fmt: skip
    good = json.loads(private.sign_statement(WORKFLOW, statement(carried.only)))
    material = good["verificationMaterial"] | {"certificate": {"rawBytes": text(own.public_bytes(serialization.Encoding.DER))}}
    carried.referrer(carried.only, bundle({"dsseEnvelope": envelope(statement(carried.only), VENDOR)}, **material))
    assert carried.verdict(policy(ci)).result == "wrong"


def test_another_instance_is_not_believed(carried, ci):
    with private_sigstore() as other:
        SHAPES["bundle with an envelope"](carried, other, WORKFLOW)
        assert carried.verdict(policy(ci)).result == "wrong"
        assert carried.verdict(policy(Person("ci", WORKFLOW, ISSUER, other.trusted_root()))).result == "good"


@pytest.mark.parametrize("part", ["tlogs", "certificateAuthorities", "ctlogs", "timestampAuthorities"])
def test_every_part_of_the_trusted_root_is_needed(carried, private, ci, part):
    SHAPES["bundle with an envelope"](carried, private, WORKFLOW)
    other = PrivateSigstore().trusted_root()
    mixed = ci.root | {part: other[part]}
    assert carried.verdict(policy(Person("ci", WORKFLOW, ISSUER, mixed))).result == "wrong"


# Tampering


def flipped(value: str) -> str:
    raw = bytearray(base64.b64decode(value))
    raw[len(raw) // 2] ^= 1
    return base64.b64encode(raw).decode()


ENTRY = ("verificationMaterial", "tlogEntries", 0)
FIELDS = {
    "payload": ("dsseEnvelope", "payload"),
    "signature": ("dsseEnvelope", "signatures", 0, "sig"),
    "certificate": ("verificationMaterial", "certificate", "rawBytes"),
    "timestamp": ("verificationMaterial", "timestampVerificationData", "rfc3161Timestamps", 0, "signedTimestamp"),
    "entry": (*ENTRY, "canonicalizedBody"),
    "root of the tree": (*ENTRY, "inclusionProof", "rootHash"),
    "proof": (*ENTRY, "inclusionProof", "hashes", 0),
    "message signature": ("messageSignature", "signature"),
}


def at(value, path):
    for step in path:
        value = value[step]
    return value


@pytest.mark.parametrize("field", FIELDS)
def test_every_part_of_a_bundle_is_protected(carried, private, ci, field):
    path = FIELDS[field]
    if field == "message signature":
        raw = private.sign_artifact(WORKFLOW, carried.raw(carried.only))
    else:
        private.sign_artifact(FORK, b"so that the tree has more than one leaf")
        raw = private.sign_statement(WORKFLOW, statement(carried.only))
    value = json.loads(raw)
    where = at(value, path[:-1])
    where[path[-1]] = flipped(where[path[-1]])
    carried.referrer(carried.only, json.dumps(value).encode())
    assert carried.verdict(policy(ci)).result == "wrong"


CHANGES = {
    "checkpoint": lambda v: at(v, (*ENTRY, "inclusionProof", "checkpoint")).update(envelope=at(v, (*ENTRY, "inclusionProof", "checkpoint", "envelope")).replace("log.", "l0g.")),
    "place in the log": lambda v: at(v, (*ENTRY, "inclusionProof")).update(logIndex="0"),
    "no timestamp": lambda v: v["verificationMaterial"].pop("timestampVerificationData"),
    "signature of another bundle's entry": lambda v: v["dsseEnvelope"].update(envelope(base64.b64decode(v["dsseEnvelope"]["payload"]), VENDOR)),
    "name in another spelling beside": lambda v: v.update(dsse_envelope=v["dsseEnvelope"]),
    "material in another spelling beside": lambda v: v["verificationMaterial"].update(tlog_entries=[]),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_bundle_is_wrong(carried, private, ci, change):
    value = json.loads(private.sign_statement(WORKFLOW, statement(carried.only)))
    CHANGES[change](value)
    carried.referrer(carried.only, json.dumps(value).encode())
    assert carried.verdict(policy(ci)).result == "wrong"


UNJUDGED = {
    "no entry of a log": lambda v: v["verificationMaterial"].update(tlogEntries=[]),
    "entries of two logs": lambda v: v["verificationMaterial"].update(tlogEntries=v["verificationMaterial"]["tlogEntries"] * 2),
    "no proof": lambda v: at(v, ENTRY).pop("inclusionProof"),
    "entry of another kind": lambda v: at(v, ENTRY).update(kindVersion={"kind": "intoto", "version": "0.0.2"}),
    "entry of no kind": lambda v: at(v, ENTRY).update(kindVersion={"kind": ["dsse"], "version": "0.0.1"}),
}


@pytest.mark.parametrize("change", UNJUDGED)
def test_what_the_library_cannot_judge_is_unverifiable(carried, private, ci, change):
    value = json.loads(private.sign_statement(WORKFLOW, statement(carried.only)))
    UNJUDGED[change](value)
    carried.referrer(carried.only, json.dumps(value).encode())
    assert carried.verdict(policy(ci), lambda _: pytest.fail("the verifier is not to be asked")).result == "unverifiable"


def test_the_statement_that_counts_is_the_one_that_was_verified(carried, private, ci):
    """Two parsers may read one document differently; then what the other one verified is not what is believed here."""
    SHAPES["bundle with an envelope"](carried, private, WORKFLOW)

    def lying(payload: str | None) -> Verdict:
        return carried.verdict(policy(ci), lambda questions: tuple(Answer("good", "", payload) for _ in questions))

    assert lying(Digest.of(statement(carried.only)).hex).result == "good"
    assert lying(Digest.of(b"another statement").hex).result == "wrong"
    assert lying(None).result == "wrong"


# The process


def question(private: PrivateSigstore, artifact: bytes = b"hello", **changes) -> Question:
    root = json.dumps(private.trusted_root()).encode()
    fields = {"bundle": private.sign_artifact(WORKFLOW, artifact), "artifact": artifact, "identity": WORKFLOW, "issuer": ISSUER, "root": root}
    return Question(**fields | changes)


def test_answers_come_in_the_order_of_the_questions(private):
    right, other = question(private), question(private, identity=FORK)
    assert [answer.result for answer in judge([right, other, right, question(private, artifact=b"x", bundle=right.bundle)])] == [
        "good", "wrong", "good", "wrong",
    ]  # fmt: skip
    assert judge([]) == ()


def test_a_trusted_root_that_is_none_leaves_everything_open(private):
    (answer, good) = judge([question(private, root=b'{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}'), question(private)])
    assert (answer.result, "trusted root cannot be used" in answer.reason) == ("unverifiable", True)
    assert good.result == "good"


@pytest.mark.parametrize("raw", [b"{}", b"[]", b"null", b"", b'{"mediaType":1}', bundle({"dsseEnvelope": {}}), b"[" * 100_000])
def test_hostile_bundles_are_never_good(private, raw):
    assert judge([question(private, bundle=raw)])[0].result in {"wrong", "unverifiable"}


def test_without_the_package_nothing_is_judged_and_the_hint_says_how_to_get_it(carried, private, ci, monkeypatch):
    SHAPES["bundle with an envelope"](carried, private, WORKFLOW)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if "site-packages" not in folder])
    found = carried.verdict(policy(ci))
    assert (found.result, ABSENT in found.reason) == ("unverifiable", True)
    assert "airgap-bundler[keyless]" in ABSENT


CHILDREN = {
    "says nothing": "",
    "says no JSON": "print('x')",
    "fails": "import sys; print('{\"answers\":[{\"result\":\"good\",\"reason\":\"\"}]}'); sys.exit(1)",
    "is killed": "import os; os.kill(os.getpid(), 9)",
    "takes too long": "import time; time.sleep(60)",
    "answers too little": "print('{\"answers\":[]}')",
    "answers too much": "print('{\"answers\":[{\"result\":\"good\"},{\"result\":\"good\"}]}')",
    "answers something else": "print('{\"answers\":[{\"result\":\"yes\"}]}')",
    "answers a list": "print('[]')",
    "never stops talking": "while True: print('x' * 65536)",
}


@pytest.mark.parametrize("name", CHILDREN)
def test_a_process_that_does_not_answer_as_it_should_leaves_everything_open(tmp_path, monkeypatch, name):
    (tmp_path / "child.py").write_text(CHILDREN[name])
    monkeypatch.setattr(keyless, "CHILD", tmp_path / "child.py")
    monkeypatch.setattr(keyless, "BASE_TIME", 1.0)
    (answer,) = judge([Question(b"{}", None, "a", "b", b"{}")])
    assert answer.result == "unverifiable"
    assert answer.reason


def test_a_process_that_cannot_be_started_leaves_everything_open(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/does/not/exist")
    assert judge([Question(b"{}", None, "a", "b", b"{}")])[0].result == "unverifiable"


def test_too_much_is_not_asked(monkeypatch):
    monkeypatch.setattr(keyless, "MAX_QUESTION", 100)
    (answer,) = judge([Question(b"{}" * 100, None, "a", "b", b"{}")])
    assert (answer.result, "at most 100" in answer.reason) == ("unverifiable", True)


TRY = """
import runpy, sys, os
child = runpy.run_path(sys.argv[1])
sys.addaudithook(child["refuse"])
child["shut"]()
import socket, subprocess
tried = {
    "socket": lambda: socket.socket(),
    "name": lambda: socket.getaddrinfo("localhost", 80),
    "program": lambda: subprocess.run(["true"]),
    "system": lambda: os.system("true"),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "fork": lambda: os.fork(),
    "write": lambda: open("/tmp/keyless-was-here", "w"),
    "append": lambda: open("/tmp/keyless-was-here", "a"),
    "create": lambda: os.open("/tmp/keyless-was-here", os.O_CREAT | os.O_RDWR),
    "folder": lambda: os.mkdir("/tmp/keyless-was-here"),
    "remove": lambda: os.remove("/etc/hostname"),
    "rename": lambda: os.rename("/tmp/a", "/tmp/b"),
}
for name, action in tried.items():
    try:
        action()
    except PermissionError:
        continue
    print(name, "was not refused")
open("/etc/passwd").close()
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
print("privileges", status["NoNewPrivs"].strip())
print("network", *sorted(line.split(":")[0].strip() for line in open("/proc/self/net/dev") if ":" in line))
"""


def test_the_process_can_neither_open_a_socket_nor_run_a_program_nor_write():
    done = subprocess.run([sys.executable, "-I", "-c", TRY, str(keyless.CHILD)], capture_output=True, text=True, check=False, env={})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "privileges 1"
    assert not Path("/tmp/keyless-was-here").exists()


@pytest.mark.parts
def test_the_process_has_a_network_namespace_of_its_own():
    need_namespaces()
    done = subprocess.run([sys.executable, "-I", "-c", TRY, str(keyless.CHILD)], capture_output=True, text=True, check=False, env={})
    assert done.stdout.splitlines()[1] == "network lo"


JUDGE = """
import json, sys
from audit.verify.keyless import Question, judge
bundle, root = json.load(sys.stdin)
answers = judge([Question(bundle.encode(), b"hello", sys.argv[1], sys.argv[2], root.encode())])
print(answers[0].result, sorted(name for name in sys.modules if name.split(".")[0] in {"sigstore", "requests", "urllib3", "tuf"}))
"""


@pytest.mark.parametrize("isolated", [pytest.param(True, marks=pytest.mark.parts), False])
def test_it_is_judged_without_any_network_and_the_library_stays_in_its_process(private, isolated):
    if isolated:
        need_namespaces()
    asked = question(private)
    done = subprocess.run(
        [*(NO_NETWORK if isolated else ()), sys.executable, "-c", JUDGE, asked.identity, asked.issuer],
        input=json.dumps([asked.bundle.decode(), asked.root.decode()]), capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert (done.stdout.strip(), done.returncode) == ("good []", 0), done.stderr


def test_one_process_judges_everything(tmp_path, private, ci, monkeypatch):
    carried = Carried(tmp_path, platforms=("linux/amd64", "linux/arm64"))
    for manifest in carried.manifests:
        carried.referrer(manifest.digest, private.sign_statement(WORKFLOW, statement(manifest.digest)))
        carried.referrer(manifest.digest, private.sign_statement(FORK, statement(manifest.digest)))
    calls = []

    def counting(questions):
        calls.append(len(questions))
        return judge(questions)

    found = carried.verdict(policy(ci), counting)
    assert (found.result, calls) == ("good", [4])
    assert [seen.result for seen in found.seen] == ["good", "wrong"] * 2
