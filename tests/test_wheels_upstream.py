"""Attestations of wheels: who is believed, what is wrong, and what is only unknown."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from parts.pep740 import REPOSITORY, WORKFLOW, Publisher, policy, provenance, statement, who
from parts.rekor1 import Rekor1, rekor1
from parts.sigstore import PrivateSigstore, private_sigstore
from parts.upstream import VENDOR, site_policy
from parts.wheelhouse import APP, NONE, Carried

from airgap_images.wheel_evidence import MAX_PROVENANCE
from audit.verify import keyless, wheels
from audit.verify.keyless import Answer, payload_digest
from audit.verify.published import PUBLISH, SLSA, distribution, project
from audit.verify.verdict import Verdict
from audit.verify.wheels import NOT_COLLECTED
from manifests import canonical
from manifests.errors import InvalidFileError
from manifests.upstream import key_entry

FORK = "https://git.example.test/fork/app"
WHEEL = b"the wheel"


@pytest.fixture(scope="module")
def private() -> Iterator[PrivateSigstore]:
    with private_sigstore() as started:
        yield started


@pytest.fixture(scope="module")
def log(private: PrivateSigstore) -> Iterator[Rekor1]:
    with rekor1(private) as started:
        started.grow(3)
        yield started


@pytest.fixture(scope="module")
def publisher(private: PrivateSigstore, log: Rekor1) -> Publisher:
    return Publisher(private, log)


@pytest.fixture(scope="module")
def good(publisher: Publisher) -> dict:
    return publisher.attest(APP, WHEEL)


@pytest.fixture
def carried(tmp_path: Path) -> Carried:
    return Carried(tmp_path)


@pytest.fixture
def judged(carried: Carried, log: Rekor1) -> Callable[..., Verdict]:
    """Judge the one wheel with what is given as its attestations."""

    def judge(*attestations: Any, name: str = APP, **signers: dict) -> Verdict:
        carried.attest(name, provenance(*attestations))
        return carried.verdict(policy(log.trusted_root(), signers=signers or None))

    return judge


def changed(attestation: dict, path: str, value: Any) -> dict:
    """A copy with one value changed, at a path such as `envelope.signature`."""
    made = json.loads(json.dumps(attestation))
    *folders, last = path.split(".")
    place = made
    for folder in folders:
        place = place[int(folder)] if folder.isdigit() else place[folder]
    if value is None:
        del place[last]
    else:
        place[last] = value(place[last]) if callable(value) else value
    return made


def flipped(text: str) -> str:
    raw = bytearray(base64.b64decode(text))
    raw[len(raw) // 2] ^= 1
    return base64.b64encode(raw).decode()


def broken_lines(text: str) -> str:
    return base64.encodebytes(base64.b64decode(text)).decode()


def test_the_repository_the_policy_names_is_believed(judged, good):
    found = judged(good)
    assert (found.result, found.reason, found.rule, found.name) == ("good", "attested by publisher", "app", "app")
    assert (found.component, found.sort, found.file) == ("gw", "wheel", f"wheels/{APP}")
    seen = found.seen[0]
    assert (seen.result, seen.by, seen.predicate, seen.kind) == ("good", "publisher", PUBLISH, "attestation")


def test_a_whole_identity_is_believed_and_another_ref_is_not(judged, good):
    assert judged(good, publisher=who(identity=WORKFLOW)).result == "good"
    found = judged(good, publisher=who(identity=WORKFLOW.replace("1.0", "2.0")))
    assert found.result == "wrong"
    assert "Certificate's SANs do not match" in found.reason


def test_any_one_of_several_is_enough(judged, good):
    found = judged(good, fork=who(FORK), vendor=who())
    assert (found.result, found.reason) == ("good", "attested by vendor")


def test_a_build_provenance_counts_too(judged, publisher):
    assert judged(publisher.attest(APP, WHEEL, predicateType=SLSA, predicate={"buildDefinition": {}})).result == "good"


def test_lines_of_base64_may_be_broken_as_the_format_allows(judged, good):
    wrapped = changed(changed(good, "envelope.statement", broken_lines), "verification_material.certificate", broken_lines)
    assert "\n" in wrapped["envelope"]["statement"]
    assert judged(wrapped).result == "good"


def test_what_the_file_says_of_its_publisher_is_not_believed(carried, log, private, good):
    fork = Publisher(private, log, repository=FORK, identity=WORKFLOW.replace("org", "fork"))
    claims = {"kind": "GitHub", "repository": "org/app", "workflow": "release.yml", "claims": {"sub": REPOSITORY}}
    carried.attest(APP, provenance(fork.attest(APP, WHEEL), publisher=claims))
    assert carried.verdict(policy(log.trusted_root())).result == "wrong"
    carried.attest(APP, provenance(good, publisher={"kind": "GitLab", "repository": "fork/app"}))
    assert carried.verdict(policy(log.trusted_root())).result == "good"


def test_a_fork_is_refused_by_its_repository(judged, private, log):
    found = judged(Publisher(private, log, repository=FORK).attest(APP, WHEEL))
    assert found.result == "wrong"
    assert "OIDCSourceRepositoryURI does not match" in found.reason


def test_a_certificate_that_names_no_repository_is_refused(judged, private, log):
    assert judged(Publisher(private, log, repository="").attest(APP, WHEEL)).result == "wrong"


def test_another_issuer_is_refused(judged, private, log):
    found = judged(Publisher(private, log, issuer="https://idp.evil.test").attest(APP, WHEEL))
    assert (found.result, "OIDCIssuer" in found.reason) == ("wrong", True)


def test_another_instance_is_refused(carried, good):
    with private_sigstore() as other, rekor1(other) as their:
        carried.attest(APP, provenance(good))
        assert carried.verdict(policy(their.trusted_root())).result == "wrong"


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        (APP, b"another wheel", "not about this file"),
        ("lib-1.0-py3-none-any.whl", b"another wheel", "it is about lib-1.0-py3-none-any.whl with sha256"),
        ("app-1.0.tar.gz", WHEEL, "it is about 'app-1.0.tar.gz', not about 'app-1.0-py3-none-any.whl'"),
        ("lib-1.0-py3-none-any.whl", WHEEL, "it is about 'lib-1.0-py3-none-any.whl', not about"),
        ("app-1.1-py3-none-any.whl", WHEEL, "it is about 'app-1.1-py3-none-any.whl', not about"),
        ("app-1.0-1-py3-none-any.whl", WHEEL, "not about"),
        ("app-1.0-cp312-none-any.whl", WHEEL, "not about"),
        ("app", WHEEL, "it is about 'app', not about"),
        ("a-1" * 100_000, WHEEL, "not about"),
    ],
    ids=["bytes", "file", "sdist", "project", "version", "build", "tag", "no name", "long"],
)
def test_an_attestation_of_another_file_is_wrong(judged, publisher, name, data, reason):
    found = judged(publisher.attest(name, data))
    assert found.result == "wrong"
    assert reason in found.reason


@pytest.mark.parametrize("name", ["App-1.0-py3-none-any.whl", "app-1.0-py3-none-any.whl"])
def test_a_name_that_means_the_same_file_is_the_same(judged, publisher, name):
    assert judged(publisher.attest(name, WHEEL)).result == "good"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Foo.Bar_baz-1.0-py3-none-any.whl", "foo_bar_baz-1.0-py3-none-any.whl"),
        ("foo-1.0-py2.py3-none-any.whl", "foo-1.0-py3.py2-none-any.whl"),
        ("foo-1.0RC1-1a-cp312-cp312-linux_x86_64.whl", "foo-1.0rc1-1a-cp312-cp312-linux_x86_64.whl"),
        ("Foo-bar-1.0.tar.gz", "foo_bar-1.0.tar.gz"),
    ],
)
def test_names_are_compared_as_packaging_reads_them(one, other):
    assert distribution(one) == distribution(other) != None  # noqa: E711
    assert project(one) == project(other)


@pytest.mark.parametrize("name", ["", "x.whl", "foo-1.0.whl", "foo-1.0-py3-none.whl", "a/b-1.0-py3-none-any.whl", "foo.tar.gz", "x" * 300 + "-1.zip"])
def test_what_is_no_name_of_a_file_is_none(name):
    assert distribution(name) is None
    assert project(name) == ""


ENTRY = "verification_material.transparency_entries"
CHANGES = [
    ("envelope.signature", flipped, "wrong", "not publisher"),
    ("envelope.statement", lambda text: base64.b64encode(base64.b64decode(text).replace(b"null", b"{}  ")).decode(), "wrong", "not publisher"),
    ("verification_material.certificate", flipped, "wrong", ""),
    (f"{ENTRY}.0.canonicalizedBody", flipped, "wrong", ""),
    (f"{ENTRY}.0.inclusionPromise.signedEntryTimestamp", flipped, "wrong", ""),
    (f"{ENTRY}.0.inclusionProof.rootHash", flipped, "wrong", ""),
    (f"{ENTRY}.0.integratedTime", "1", "wrong", ""),
    (ENTRY, [], "unverifiable", "not exactly one entry of a log"),
    (ENTRY, lambda entries: entries * 2, "unverifiable", "not exactly one entry of a log"),
    (f"{ENTRY}.0.inclusionProof", None, "unverifiable", "without a proof"),
    (f"{ENTRY}.0.kindVersion.kind", "intoto", "unverifiable", "kind intoto/0.0.1"),
    (ENTRY, "x", "unverifiable", "not exactly one entry"),
    ("verification_material.certificate", "no base64", "wrong", "not base64"),
    ("verification_material.certificate", 5, "wrong", "not base64"),
    ("verification_material.certificate", "", "wrong", ""),
    ("verification_material", [], "wrong", "not an attestation"),
    ("envelope", None, "wrong", "not an attestation"),
    ("envelope.statement", base64.b64encode(b'{"a":1,"a":2}').decode(), "wrong", "duplicate key 'a'"),
    ("envelope.statement", base64.b64encode(b"[]").decode(), "wrong", "not an in-toto statement"),
    ("version", 2, "unverifiable", "of another version than 1"),
    ("timestamps", ["x"], "unverifiable", "more in it than PEP 740 says"),
    ("verification_material.timestamps", ["x"], "unverifiable", "more in it than PEP 740 says"),
]


def test_no_changed_byte_is_believed(tmp_path, log, publisher):
    """One wheel for each change, and one without, all judged by one process."""
    names = [f"app-1.{at:03}-py3-none-any.whl" for at in range(len(CHANGES) + 1)]
    carried = Carried(tmp_path, dict.fromkeys(names, WHEEL))
    for name, (path, value, *_) in zip(names, [*CHANGES, ("version", 1, "good", "")], strict=True):
        carried.attest(name, provenance(changed(publisher.attest(name, WHEEL), path, value)))
    found = carried.verdicts(policy(log.trusted_root()))
    assert [one.file.removeprefix("wheels/") for one in found] == names
    assert found[-1].result == "good"
    for one, (path, _, result, reason) in zip(found, CHANGES, strict=False):
        assert (path, one.result, reason in one.reason) == (path, result, True), one.reason


def test_the_statement_is_about_exactly_this_file(tmp_path, log, publisher):
    subjects = [
        (lambda one: [one, one], "wrong"),
        (lambda one: [], "wrong"),
        (lambda one: [one | {"name": 5}], "wrong"),
        (lambda one: [{"digest": one["digest"]}], "wrong"),
        (lambda one: [one | {"digest": {"sha512": "00"}}], "wrong"),
        (lambda one: [one | {"digest": one["digest"] | {"sha512": "00"}}], "good"),
    ]
    names = [f"app-1.{at}-py3-none-any.whl" for at in range(len(subjects))]
    carried = Carried(tmp_path, dict.fromkeys(names, WHEEL))
    for name, (subject, _) in zip(names, subjects, strict=True):
        (one,) = statement(publisher.attest(name, WHEEL))["subject"]
        carried.attest(name, provenance(publisher.attest(name, WHEEL, subject=subject(one))))
    assert [one.result for one in carried.verdicts(policy(log.trusted_root()))] == [result for _, result in subjects]


def test_what_states_something_else_does_not_count(judged, publisher):
    found = judged(publisher.attest(APP, WHEEL, predicateType="https://example.test/scan/v1"))
    assert found.result == "missing"
    assert "https://example.test/scan/v1 is none that counts" in found.reason
    assert [seen.result for seen in found.seen] == ["not asked for"]


def test_a_bad_one_beside_a_good_one_is_listed_and_does_not_spoil_it(judged, good, private, log):
    bad = Publisher(private, log, repository=FORK).attest(APP, WHEEL)
    for given in ((good, bad), (bad, good), (good, changed(good, "version", 2)), (good, "nonsense")):
        found = judged(*given)
        assert found.result == "good"
        assert [seen.result for seen in found.seen].count("good") == 1
        assert len(found.seen) == 2
    assert judged(bad, changed(good, "version", 2)).result == "wrong"


def test_a_file_of_five_thousand_attestations_is_not_worked_through(carried, log, good):
    small = {"version": 1, "verification_material": {"certificate": "", "transparency_entries": []}, "envelope": {"statement": "", "signature": ""}}
    raw = provenance(*[small] * 5000)
    assert len(raw) < MAX_PROVENANCE
    carried.attest(APP, raw)
    found = carried.verdict(policy(log.trusted_root()), judge=lambda asked: pytest.fail(f"{len(asked)} questions"))
    assert (found.result, "5000 attestations in it, expected 1 to 64" in found.reason) == ("wrong", True)


@pytest.mark.parametrize("raw", [b"", b"null", b"<html>", b'{"version":1,"attestation_bundles":[[]]}', b'{"version":1,"attestation_bundles":[{"attestations":{}}]}', b"\xff", b"[" * 5000])
def test_what_is_no_provenance_is_wrong_in_a_bundle(carried, log, raw):
    carried.attest(APP, raw)
    assert carried.verdict(policy(log.trusted_root())).result == "wrong"


def test_absence_is_missing_and_says_why(carried, log):
    found = carried.verdict(policy(log.trusted_root()))
    assert (found.result, found.fate) == ("missing", "nobody named")
    assert found.reason == f"no attestation of it is carried, which says nothing of the file itself: {NONE}"
    assert carried.verdict(policy(log.trusted_root()), beside=False).reason.endswith(NOT_COLLECTED)


def test_nobody_named_is_not_judged(carried, log, good):
    carried.attest(APP, provenance(good))
    found = carried.verdict(policy(log.trusted_root(), "other"), judge=lambda _: pytest.fail("asked"))
    assert (found.result, found.rule, [seen.result for seen in found.seen]) == ("nobody named", None, ["not asked for"])
    assert carried.verdict(None, judge=lambda _: pytest.fail("asked")).result == "nobody named"


def test_rules_match_the_normalised_project(tmp_path, log, publisher):
    name = "Foo_Bar.x-1.0-py3-none-any.whl"
    carried = Carried(tmp_path, {name: WHEEL})
    carried.attest(name, provenance(publisher.attest(name, WHEEL)))
    assert carried.verdict(policy(log.trusted_root(), "foo-bar-*")).result == "good"
    assert carried.verdict(policy(log.trusted_root(), "**")).name == "foo-bar-x"


def test_source_archives_are_judged_like_wheels(tmp_path, log, publisher):
    carried = Carried(tmp_path, {"app-1.0.tar.gz": WHEEL})
    carried.attest("app-1.0.tar.gz", provenance(publisher.attest("app-1.0.tar.gz", WHEEL)))
    assert carried.verdict(policy(log.trusted_root())).result == "good"
    carried.attest("app-1.0.tar.gz", provenance(publisher.attest(APP, WHEEL)))
    assert carried.verdict(policy(log.trusted_root())).result == "wrong"


def test_a_wheel_cannot_hide_in_a_component_of_another_kind(tmp_path, log):
    carried = Carried(tmp_path, {APP: WHEEL, "readme.tar.gz": b"x"}, kind="path")
    assert [(found.file, found.result) for found in carried.verdicts(policy(log.trusted_root()))] == [(f"wheels/{APP}", "missing")]


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ({"of": "other"}, "gw.upstream is about other"),
        ({"sha256": {APP: "0" * 64}}, "it was asked about sha256 000"),
        ({"listing": b"{}"}, "upstream.json: "),
        ({"listing": b"x" * (5 << 20)}, "5242880 bytes, at most"),
        ({"strays": {"evil.txt": b"x"}}, "evil.txt is not listed"),
        ({"strays": {f"provenance/{'0' * 64}.json": b"x"}}, "is not listed"),
    ],
)
def test_evidence_that_is_not_what_it_says_is_wrong(carried, log, good, lie, reason):
    carried.attest(APP, provenance(good))
    for name, value in lie.items():
        setattr(carried, name, value)
    found = carried.verdict(policy(log.trusted_root()))
    assert found.result == "wrong"
    assert reason in found.reason


def test_a_listing_of_a_file_under_another_name_or_too_large_is_wrong(carried, log, good):
    listed = json.loads(carried.evidence.to_text())
    listed |= {"attested": [{"path": f"wheels/{APP}", "sha256": "0" * 64, "provenance": f"provenance/{'1' * 64}.json"}], "absent": []}
    carried.listing = canonical.readable(listed)
    assert carried.verdict(policy(log.trusted_root())).reason.endswith("1.json is missing")
    carried.strays = {f"provenance/{'1' * 64}.json": b"x"}
    assert "holds sha256" in carried.verdict(policy(log.trusted_root())).reason
    big = b" " * (MAX_PROVENANCE + 1)
    other = Carried(carried.folder / "2")
    other.attest(APP, big)
    assert f"has {len(big)} bytes, at most" in other.verdict(policy(log.trusted_root())).reason


def test_a_file_that_the_listing_does_not_name_is_missing(carried, log):
    carried.listing = canonical.readable(json.loads(carried.evidence.to_text()) | {"absent": []})
    assert "does not name this file" in carried.verdict(policy(log.trusted_root())).reason


def test_the_statement_that_is_read_is_the_one_that_was_verified(carried, log, good):
    carried.attest(APP, provenance(good))
    lies = (Answer("good", "", payload_digest(b"another")), Answer("good", "", None))
    for lie in lies:
        found = carried.verdict(policy(log.trusted_root()), judge=lambda asked, lie=lie: (lie,) * len(asked))
        assert (found.result, "another than the one that was read" in found.reason) == ("wrong", True)


def test_what_cannot_be_judged_here_is_unverifiable(carried, log, good):
    carried.attest(APP, provenance(good))
    found = carried.verdict(policy(log.trusted_root()), judge=lambda asked: keyless._all(asked, keyless.ABSENT))
    assert (found.result, found.reason) == ("unverifiable", keyless.ABSENT)


def test_a_rule_about_wheels_takes_keyless_identities_only():
    section = {"identities": {"vendor": key_entry(VENDOR.pem)}, "wheels": [{"match": "app", "signed_by": ["vendor"]}]}
    with pytest.raises(InvalidFileError, match=r"names 'vendor'; attestations of wheels \(PEP 740\) are keyless only"):
        site_policy(section)


def test_all_wheels_are_asked_about_at_once(tmp_path, log, publisher):
    names = [f"app-1.{at}-py3-none-any.whl" for at in range(5)]
    carried = Carried(tmp_path, {name: name.encode() for name in names})
    for name in names:
        carried.attest(name, provenance(publisher.attest(name, name.encode())))
    asked = []

    def judge(questions):
        asked.append(len(questions))
        return keyless.judge(questions)

    assert {found.result for found in carried.verdicts(policy(log.trusted_root()), judge=judge)} == {"good"}
    assert asked == [5]


def test_trees_without_wheels_cost_nothing(tmp_path, log):
    carried = Carried(tmp_path, {})
    assert wheels.assess(carried.layout, carried.components(), policy(log.trusted_root()), lambda asked: pytest.fail("asked")) == ()
