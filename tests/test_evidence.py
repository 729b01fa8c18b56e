"""One assessment, several files: the verdict and its exit code, what was not checked, the golden files, and writing them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from parts import evidence
from parts.bundles import NOW
from parts.evidence import Drift, contents, lock, locked

from airgap_images.oci import Digest
from audit import checks
from audit.evidence import write as evidence_write
from audit.evidence.assessment import Assessment
from audit.evidence.verification import verification_json
from audit.evidence.write import write
from audit.verify.trust import Memory
from manifests.errors import IntegrityError, SiteError, UsageError

GOLDEN = Path(__file__).parent / "golden" / "evidence"
OF_PROVED = {"sbom.cdx.json", "sbom.spdx3.json", "sbom-quality.json", "approval.html", "files.csv", "licences.csv", "approvals.csv"}
GRC = {"oscal-assessment-results.json", "oscal-component-definition.json", "oscal-poam.json", "results.hdf.json", "results.sarif.json"}
SET = {"verification.json", "report.html", *OF_PROVED, *GRC, "controls.csv", "findings.csv", "SHA256SUMS"}
FINDING = checks.Finding("pickles", "high", "mini", "x.bin", "a pickle", "remove it", "docs/checks.md#pickles")
UNREAD = checks.NotAssessed("pickles", "mini", "y.bin", "too large")
REMEMBERS = Memory(6, "0" * 64, NOW, 1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return evidence.verified(evidence.rich(tmp_path_factory.mktemp("bundle")))


@pytest.fixture
def assessment(bundle) -> Assessment:
    return evidence.assessed(bundle)


def result(*notes) -> tuple[checks.CheckResult, ...]:
    findings = tuple(note for note in notes if isinstance(note, checks.Finding))
    unread = tuple(note for note in notes if isinstance(note, checks.NotAssessed))
    return (checks.CheckResult("pickles", "No file runs code", None, (), 1, findings, unread),)


def topics(assessment: Assessment) -> dict[str, str]:
    return {entry.topic: entry.text for entry in assessment.not_checked}


# --- golden ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written_now(tmp_path_factory) -> dict[str, bytes]:
    return evidence.golden(tmp_path_factory.mktemp("golden") / "bundle")


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir() if path.suffix != ".md"))
def test_the_formats_are_those_of_the_golden_files(written_now, name):
    assert written_now[name].decode().splitlines() == (GOLDEN / name).read_text().splitlines(), "see tests/golden/evidence/README.md"
    assert written_now[name] == (GOLDEN / name).read_bytes()


def test_every_golden_file_is_compared(written_now):
    assert {path.name for path in GOLDEN.iterdir()} == {*written_now, "README.md"}


# --- verdict, exit code, what was not checked -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "drift", "code"),
    [
        ((), None, 0),
        (result(), Drift(), 0),
        (result(replace(FINDING, severity="medium")), Drift(), 0),
        (result(FINDING), Drift(), 4),
        (result(UNREAD), Drift(), 5),
        (result(FINDING, UNREAD), Drift(), 4),
        (result(), Drift("differs", 3), 3),
        (result(), Drift("not compared", 5), 5),
        (result(UNREAD), Drift("differs", 3), 3),
    ],
)
def test_the_exit_code_is_that_of_the_worst(bundle, found, drift, code):
    assessment = evidence.assessed(bundle, found=found, drift=drift)
    assert (assessment.verdict, assessment.exit_code) == ("proved", code)
    assert json.loads(verification_json(assessment))["exitCode"] == code


def test_a_lock_that_disagrees_is_a_finding(tmp_path):
    own = {"bundle.lock.json": lock(*locked()[1:]).to_bytes()}
    built = evidence.signed(evidence.build(tmp_path, lock(*locked()), contents(), own=own))
    assert evidence.assessed(evidence.verified(built)).exit_code == 4


@pytest.mark.parametrize("case", ["no lock", "unreadable wheel"])
def test_what_should_have_been_read_and_was_not_is_never_fine(tmp_path, case):
    wheels = {"a-1-py3-none-any.whl": b"no zip"}
    stated, data, own = (lock(*locked()), contents(), {}) if case == "no lock" else (lock(*locked(wheels)), contents(wheels), None)
    assessment = evidence.assessed(evidence.verified(evidence.signed(evidence.build(tmp_path, stated, data, own=own))))
    assert assessment.exit_code == 5
    reason = "airgap-lock: missing" if case == "no lock" else "gateway/a-1-py3-none-any.whl: not a readable zip"
    assert reason in topics(assessment)["Inventory"]


def test_it_is_always_said_what_this_version_does_not_assess(assessment, bundle):
    said = topics(assessment)
    assert "Not assessed" in said["Vulnerabilities"]
    assert "Nobody read sources or terms" in said["Licences"]
    assert said["Container images"] == "Seen inside and not read by this version: server: 1 Lua rocks."
    assert "Not compared" in said["What is installed"]
    texts = [entry.text for entry in assessment.not_checked]
    assert all(text in texts for text in bundle.not_checked)
    assert "Cannot see into archives of archives." in texts


def test_without_images_nothing_is_said_of_images(tmp_path):
    data = {name: files for name, files in contents().items() if name != "server"}
    built = evidence.signed(evidence.build(tmp_path, lock(*locked()[:-1]), data))
    assert "Container images" not in topics(evidence.assessed(evidence.verified(built)))


@pytest.mark.parametrize(
    ("memory", "rollback", "time"),
    [(None, "was not consulted", True), (Memory(), "remembers no earlier bundle of stream test-stream", True), (REMEMBERS, None, False)],
)
def test_rollback_counts_as_checked_only_when_the_site_remembers(bundle, memory, rollback, time):
    said = topics(evidence.assessed(bundle, memory=memory))
    assert (rollback in said["Rollback"]) if rollback else "Rollback" not in said
    assert ("Time" in said) is time


def test_drift_is_no_longer_unchecked_when_it_was_compared(bundle):
    assert "What is installed" not in topics(evidence.assessed(bundle, drift=Drift()))


def test_many_unread_things_are_counted(bundle):
    unread = [checks.NotAssessed("pickles", "mini", f"{at}.bin", "too large") for at in range(50)]
    said = topics(evidence.assessed(bundle, found=result(*unread)))["Check “No file runs code”"]
    assert "mini/0.bin: too large" in said
    assert "and 30 more" in said


def test_a_refusal_has_every_reason_and_no_claim():
    value = json.loads(verification_json(evidence.refusing()))
    assert (value["verdict"], value["exitCode"]) == ("refused", 3)
    assert [failure["hint"] for failure in value["failures"]] == [reason.hint for reason in evidence.refusal().failures]
    assert value["policy"] == {"version": None, "sha256": Digest.of(evidence.policy().to_bytes()).hex}
    assert [value[key] for key in ("bundle", "checks", "drift", "inventory")] == [None] * 4
    assert [value[key] for key in ("signatures", "ignoredSignatures")] == [[], []]
    assert {entry["topic"] for entry in value["notChecked"]} == {"Everything else", "Further reasons"}


def test_a_single_error_is_a_reason_too():
    refused = evidence.refusing(IntegrityError("index.json: missing", hint="copy it"))
    assert [(failure.message, failure.hint) for failure in refused.failures] == [("index.json: missing", "copy it")]


def test_the_json_says_who_signed_and_under_which_policy(bundle, assessment):
    value = json.loads(verification_json(assessment))
    assert [(entry["signer"], entry["algorithm"]) for entry in value["signatures"]] == [
        ("alice", "ecdsa-p256-sha256"),
        ("bob", "ecdsa-p384-sha384"),
        ("carol", "ed25519"),
    ]
    assert value["policy"] == {"version": 1, "sha256": bundle.policy_sha256}
    assert value["bundle"]["digest"] == str(bundle.digest)
    assert value["bundle"]["blobs"] == len(bundle.blobs)
    assert value["bundle"]["statement"]["serial"] == 7
    assert value["checks"] == checks.as_json(assessment.proof.results, assessment.proof.gate)
    assert len(value["inventory"]["items"]) == len(assessment.proof.inventory.items)


def test_the_same_assessment_is_the_same_bytes_wherever_the_bundle_lies(bundle, tmp_path):
    copy = evidence.verified(shutil.copytree(bundle.layout.root, tmp_path / "elsewhere"))
    assert verification_json(evidence.assessed(copy)) == verification_json(evidence.assessed(bundle))


# --- checks as JSON -------------------------------------------------------------------------------------------------


def test_check_results_are_the_same_value_in_any_order():
    other = checks.CheckResult("a", "Another", "key", ("limit",), 2, (FINDING, replace(FINDING, severity="critical")), (UNREAD,))
    results = (*result(FINDING, UNREAD), other)
    value = checks.as_json(results, checks.gate(results, {}))
    turned = tuple(replace(one, findings=one.findings[::-1]) for one in results[::-1])
    assert checks.as_json(turned, checks.gate(turned, {})) == value
    assert [entry["id"] for entry in value["checks"]] == ["a", "pickles"]
    assert value["gate"]["exitCode"] == 4
    assert [entry["severity"] for entry in value["gate"]["refused"]] == ["critical", "high", "high"]
    assert value["checks"][0]["findings"][0] == {
        "id": "pickles",
        "severity": "critical",
        "component": "mini",
        "path": "x.bin",
        "message": "a pickle",
        "remedy": "remove it",
        "doc": "docs/checks.md#pickles",
        "waivable": True,
        "about": "",
    }
    assert value["checks"][1]["notAssessed"] == [{"id": "pickles", "component": "mini", "path": "y.bin", "reason": "too large"}]


# --- writing --------------------------------------------------------------------------------------------------------


def whole(out: Path) -> bool:
    command = ["sha256sum", "-c", "--strict", "--quiet", "SHA256SUMS"]
    return subprocess.run(command, cwd=out, capture_output=True, check=False).returncode == 0


def snapshot(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_it_writes_the_set_with_its_sums(tmp_path, assessment):
    out = tmp_path / "deep" / "evidence"
    assert {path.name for path in write(out, assessment)} == SET == set(snapshot(out))
    assert whole(out)
    assert (out / "SHA256SUMS").read_text().count("\n") == len(SET) - 1
    assert "verification.json" in (out / "report.html").read_text()


def test_the_report_names_the_sha256_of_the_json_beside_it(tmp_path, assessment):
    write(tmp_path, assessment)
    sha256 = next(line.split()[0] for line in (tmp_path / "SHA256SUMS").read_text().splitlines() if line.endswith("verification.json"))
    assert sha256 in (tmp_path / "report.html").read_text()


def test_its_own_output_is_replaced_and_a_refusal_leaves_no_sbom_behind(tmp_path, assessment):
    write(tmp_path, assessment)
    first = snapshot(tmp_path)
    write(tmp_path, assessment)
    assert snapshot(tmp_path) == first
    write(tmp_path, evidence.refusing())
    assert set(snapshot(tmp_path)) == SET - OF_PROVED
    assert whole(tmp_path)


FOREIGN = {
    "a file": lambda out: (out / "notes.txt").write_text("mine"),
    "a hidden file": lambda out: (out / ".git").mkdir(),
    "a name of ours": lambda out: (out / "report.html").write_text("my own report"),
    "another json": lambda out: (out / "verification.json").write_text('{"format": "other"}'),
    "a link": lambda out: (out / "verification.json").symlink_to("/etc/hostname"),
    "a folder": lambda out: (out / "sbom.cdx.json").mkdir(),
}


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_a_folder_that_is_somebody_elses_is_left_alone(tmp_path, assessment, make):
    make(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UsageError):
        write(tmp_path, assessment)
    assert sorted(os.listdir(tmp_path)) == before


def test_evidence_with_a_stranger_beside_it_is_left_alone(tmp_path, assessment):
    write(tmp_path, assessment)
    (tmp_path / "signature.asc").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match=r"signature\.asc"):
        write(tmp_path, evidence.refusing())
    assert snapshot(tmp_path) == before


def test_evidence_with_a_link_in_it_is_left_alone(tmp_path, assessment):
    write(tmp_path, assessment)
    (tmp_path / "report.html").rename(tmp_path.parent / f"{tmp_path.name}.html")
    (tmp_path / "report.html").symlink_to(tmp_path.parent / f"{tmp_path.name}.html")
    with pytest.raises(UsageError, match=r"report\.html"):
        write(tmp_path, assessment)


def test_a_file_in_the_place_of_the_folder_is_a_clear_error(tmp_path, assessment):
    (tmp_path / "out").write_text("x")
    with pytest.raises(SiteError, match="cannot be used"):
        write(tmp_path / "out", assessment)


@pytest.mark.parametrize("writes", range(4))
def test_an_interrupted_set_never_passes_for_a_whole_one_and_is_mended(tmp_path, assessment, monkeypatch, writes):
    write(tmp_path, evidence.refusing())
    real, left = evidence_write.write_atomic, [writes]

    def killed(path: Path, data: bytes) -> None:
        if not left[0]:
            path.with_name(f".{path.name}.{'0' * 16}").write_bytes(data[:10])  # what a kill in the middle leaves
            raise KeyboardInterrupt
        left[0] -= 1
        real(path, data)

    monkeypatch.setattr(evidence_write, "write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, assessment)
    assert not whole(tmp_path)
    monkeypatch.undo()
    write(tmp_path, assessment)
    assert set(snapshot(tmp_path)) == SET
    assert whole(tmp_path)


def test_two_at_once_do_not_mix(tmp_path, assessment):
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(SiteError, match="being written"):
            write(tmp_path, assessment)
    finally:
        os.close(fd)
    assert os.listdir(tmp_path) == []


# --- no network code ------------------------------------------------------------------------------------------------

FORBIDDEN = (
    "airgap_images.remote.http",
    "airgap_images.remote.registry",
    "airgap_images.placing.docker_engine",
    "airgap_images.placing.podman",
    "airgap_images.placing.containerd",
    "bundler",
    "docker",
    "requests",
    "pycurl",
    "urllib3",
    "urllib.request",
    "http.client",
    "huggingface_hub",
    "ssl",
)


def test_importing_evidence_brings_no_network_code():
    code = "import sys, audit.evidence.write; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "audit.evidence.report" in loaded
    assert [name for name in loaded if any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN)] == []
