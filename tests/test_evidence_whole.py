"""The evidence as a whole, as people write it: every file valid by schema and by libraries of others, the same twice, signed by the site."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
from parts import bundles, evidence, valid
from parts.cli import Desk
from parts.feeding import MILD, data_files, gateway, record
from parts.images import need

from audit.evidence.approval import approval
from audit.evidence.pdf import pdf
from audit.evidence.report import html
from manifests.errors import IntegrityError, UsageError

NOW = ("--now", "2026-11-24T12:00:00Z")
ALL = ("--cyclonedx", "1.7", "--spdx-2.3", "--pdf")
KNOWN = {"affected": record("CVE-2026-1000", "requests", "2.20.0"), "mild": record("CVE-2026-1001", "plain", "2", vector=MILD)}


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Desk:
    """A desk with a signed bundle of wheels and data, a site's key, and a bundle that was changed on its way."""
    folder = tmp_path_factory.mktemp("desk")
    who = bundles.site(folder / "who")
    gateway(folder / "bundle", who, data=data_files(*KNOWN.values()), requests="2.19.0", plain="1")
    shutil.copytree(folder / "bundle", folder / "changed")
    blob = max((folder / "changed/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    (folder / "policy.json").write_bytes(who.policy_raw)
    made = Desk(folder)
    made.bundle("keygen", "site", "--out", "keys", "--no-passphrase")
    (folder / "site.yaml").write_text("verifier: {id: 'https://site.example/verifier/1', key: 'file:keys/site.key'}\n")
    return made


def written(desk: Desk, bundle: str, out: str, *options: str, code: int) -> dict[str, bytes]:
    desk.audit("evidence", bundle, "--policy", "policy.json", "--out", out, *NOW, *options, code=code, isolated=True)
    return {path.name: path.read_bytes() for path in (desk.folder / out).iterdir()}


def test_every_file_is_valid_and_the_same_twice(desk):
    first = written(desk, "bundle", "first", "--site", "site.yaml", code=4)
    assert valid.complaints(desk.folder / "first") == []
    again = written(desk, "bundle", "again", "--site", "site.yaml", code=4)
    assert first == again
    unsigned = {name for name in first if not name.endswith(".sigstore.json")} - {"SHA256SUMS"}
    assert unsigned == {
        "verification.json", "report.html", "approval.html", "sbom.cdx.json", "sbom.spdx3.json", "sbom-quality.json", "vex.openvex.json", "vex.cdx.json",
        "oscal-assessment-results.json", "oscal-component-definition.json", "oscal-poam.json", "results.hdf.json", "results.sarif.json",
        "controls.csv", "findings.csv", "files.csv", "licences.csv", "approvals.csv",
    }  # fmt: skip
    assert set(first) - unsigned == {"svr.sigstore.json", "evidence.sigstore.json", "SHA256SUMS"}


def test_the_other_versions_are_valid_and_the_same_twice(desk):
    first, again = (written(desk, "bundle", out, *ALL, code=4) for out in ("more", "more2"))
    assert first == again
    assert {"sbom.spdx23.json", "report.pdf"} < set(first)
    assert json.loads(first["sbom.cdx.json"])["specVersion"] == "1.7"
    assert valid.complaints(desk.folder / "more") == []


def test_what_is_written_of_a_refused_bundle_is_valid_too(desk):
    refused = written(desk, "changed", "refused", code=3)
    assert valid.complaints(desk.folder / "refused") == []
    assert not {"sbom.cdx.json", "approval.html", "files.csv", "svr.sigstore.json"} & set(refused)


def test_every_projection_names_what_it_was_made_from(desk):
    files = written(desk, "bundle", "first", "--site", "site.yaml", code=4)
    sha256 = dict(line.split("  ")[::-1] for line in files["SHA256SUMS"].decode().splitlines())["verification.json"]
    of_the_bundle = {"sbom.cdx.json", "sbom.spdx3.json", "sbom-quality.json", "svr.sigstore.json", "evidence.sigstore.json", "SHA256SUMS", "verification.json"}
    silent = [name for name, raw in files.items() if name not in of_the_bundle and sha256 not in re.sub(rb"[^0-9a-f]", b"", raw).decode()]
    assert silent == []


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("sbom.cdx.json", lambda value: value["components"].append({"type": "library"})),
        ("sbom.spdx3.json", lambda value: value["@graph"][1].update(spdxId=4)),
        ("oscal-poam.json", lambda value: value["plan-of-action-and-milestones"].pop("metadata")),
        ("results.hdf.json", lambda value: value.pop("profiles")),
        ("results.sarif.json", lambda value: value["runs"][0].pop("tool")),
        ("verification.json", lambda value: value.update(a=1.5)),
    ],
)
def test_the_validators_look(desk, tmp_path, name, harm):
    written(desk, "bundle", "first", "--site", "site.yaml", code=4)
    folder = tmp_path / "evidence"
    shutil.copytree(desk.folder / "first", folder)
    value = json.loads((folder / name).read_bytes())
    harm(value)
    (folder / name).write_text(json.dumps(value))
    found = valid.complaints(folder)
    assert f"{name}: not as SHA256SUMS says" in found
    assert any(line.startswith(f"{name}: ") and "SHA256SUMS" not in line for line in found)


def test_the_pdf_is_the_same_twice_and_says_what_the_page_says(desk):
    raw = written(desk, "bundle", "more", *ALL, code=4)["report.pdf"]
    assert raw.startswith(b"%PDF-")
    need("pdftotext")
    text = subprocess.run(["pdftotext", "-raw", "-", "-"], input=raw, capture_output=True, check=True).stdout.decode()
    assert "CVE-2026-1000" in text
    assert "What was not checked" in text


@pytest.mark.parametrize("asks", ["<img src='https://example.org/x.png'>", "<link rel=stylesheet href='file:///etc/passwd'>", "<img src='/etc/passwd'>"])
def test_no_page_that_asks_for_anything_becomes_a_pdf(asks):
    with pytest.raises(IntegrityError, match="outside of it"):
        pdf(f"<!DOCTYPE html><title>x</title>{asks}".encode())


def test_the_approval_sheet_says_what_was_found_and_not_and_approves_nothing(tmp_path):
    assessment = evidence.assessed(evidence.verified(evidence.rich(tmp_path)))
    sheet = approval(assessment, "ab" * 32).decode()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", sheet))
    digest = assessment.proof.bundle.digest.hex
    assert digest in text.replace(" ", "")
    assert "ab" * 32 in text.replace(" ", "")
    assert "Known vulnerabilities not assessed" in text
    for word in ("What was not checked", "Media", "Prepared by", "Approved for transfer by", "Received by"):
        assert word in text
    assert not re.search(r"\bwas approved\b|\bis approved\b", text)
    assert approval(assessment, "ab" * 32).decode() == sheet
    with pytest.raises(UsageError):
        approval(evidence.refusing(), "ab" * 32)


def test_texts_of_strangers_stay_texts_on_the_sheet(tmp_path):
    assessment = evidence.assessed(evidence.verified(evidence.rich(tmp_path)))
    assert assessment.proof
    for page in (approval(assessment, "0" * 64), html(assessment)):
        assert b"<script>alert" not in page
        assert b"Content-Security-Policy" in page
