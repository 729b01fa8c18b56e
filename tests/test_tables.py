"""The tables: RFC 4180, every row traceable, no cell a formula, and nothing left out; the golden files of the formats for GRC tools."""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from parts import evidence, grc

from audit.evidence import write as evidence_write
from audit.evidence.item import File
from audit.evidence.outcomes import limits, outcomes
from audit.evidence.tables import approvals_csv, cell, controls_csv, files_csv, findings_csv, licences_csv
from audit.evidence.write import write

GOLDEN = Path(__file__).parent / "golden" / "grc"
TABLES = {
    "controls.csv": controls_csv, "findings.csv": findings_csv, "files.csv": files_csv, "licences.csv": licences_csv, "approvals.csv": approvals_csv,
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return evidence.verified(evidence.rich(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def written_now(tmp_path_factory) -> dict[str, bytes]:
    return grc.golden(tmp_path_factory.mktemp("golden") / "bundle")


def rows(raw: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(raw.decode(), newline=""), strict=True))


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir() if path.suffix != ".md"))
def test_the_formats_are_those_of_the_golden_files(written_now, name):
    assert written_now[name].decode().splitlines() == (GOLDEN / name).read_bytes().decode().splitlines(), "see tests/golden/grc/README.md"
    assert written_now[name] == (GOLDEN / name).read_bytes()


def test_every_golden_file_is_compared(written_now):
    assert {path.name for path in GOLDEN.iterdir()} == {*written_now, "README.md"}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("kind", ["everything", "hostile"])
def test_every_row_has_every_column_ends_as_rfc_4180_says_and_names_its_origin(bundle, name, kind):
    raw = TABLES[name](getattr(grc, kind)(bundle), grc.SHA256)
    assert raw.decode().endswith("\r\n")
    assert "\n" not in raw.decode().replace("\r\n", "")
    head, *found = list(csv.reader(io.StringIO(raw.decode(), newline=""), strict=True))
    assert head[0] == "verification_sha256"
    assert len(set(head)) == len(head)
    assert found
    assert {len(row) for row in found} == {len(head)}
    assert {row[0] for row in found} == {grc.SHA256}


@pytest.mark.parametrize("name", TABLES)
def test_no_cell_is_a_formula_and_no_cell_has_a_control_character(bundle, name):
    for row in rows(TABLES[name](grc.hostile(bundle), grc.SHA256)):
        for value in row.values():
            assert not value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")), value
            assert value.isprintable()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@A1", "'@A1"), ("\t=1", "'�=1"), ("\r=1", "'�=1"), ("\n=1", "'�=1"),
        ("  =1", "'=1"), ("＝1", "'＝1"), ("a=1", "a=1"), (5, "5"), ("", ""), ("'=1", "'=1"),
    ],
)  # fmt: skip
def test_cells(value, shown):
    assert cell(value) == shown


def test_a_spreadsheet_gets_back_what_was_written(bundle):
    words = 'a "quoted", word; and more'
    assessment = grc.with_results(evidence.assessed(bundle), (replace(grc.results()[0], findings=(grc.finding("pickles", "low", "x,y", "", words),)),))
    assert words in {row["message"] for row in rows(findings_csv(assessment, grc.SHA256))}


def test_findings_has_every_outcome_and_every_limit(bundle):
    assessment = grc.everything(bundle)
    found = [row["decision"] for row in rows(findings_csv(assessment, grc.SHA256))]
    assert found == [entry.decision for entry in (*outcomes(assessment), *limits(assessment))]
    assert set(found) == {"refused", "warned", "waived", "not assessed", "not checked"}
    (accepted,) = [row for row in rows(findings_csv(assessment, grc.SHA256)) if row["decision"] == "waived"]
    assert (accepted["accepted_by"], accepted["accepted_until"], accepted["accepted_because"]) == ("CISO", grc.UNTIL, "weights are trusted")


def test_files_has_every_file_with_its_digest_and_no_limit(bundle):
    assessment = evidence.assessed(bundle)
    first, *rest = assessment.proof.inventory.items
    files = tuple(File(f"f{at}", f"{at:064x}", at, f"{at:0128x}") for at in range(3000))
    inventory = replace(assessment.proof.inventory, items=(replace(first, files=files), *rest))
    many = rows(files_csv(replace(assessment, proof=replace(assessment.proof, inventory=inventory)), grc.SHA256))
    assert [row["path"] for row in many[:3000]] == [file.path for file in files]
    assert many[2999]["sha512"] == f"{2999:0128x}"
    listed = {(row["component"], row["path"]) for row in rows(files_csv(assessment, grc.SHA256))}
    assert {("gateway", "silent-3-py3-none-any.whl"), ("mini", "model.safetensors"), ("docs", "a/b.txt"), ("driver", "driver.run")} <= listed
    inside = {item.path for item in assessment.proof.inventory.items if item.component == "server" and item.sha256 is None}
    assert not inside & {path for component, path in listed if component == "server"}


def test_licences_say_what_is_declared_and_that_nothing_is(bundle):
    found = {row["name"]: row for row in rows(licences_csv(evidence.assessed(bundle), grc.SHA256))}
    assert found["classy"]["declared"] == "MIT License"
    assert found["classy"]["declared_in"] == "METADATA, Classifier"
    assert found["silent"]["declared"] == ""
    assert found["acme/Mini-1B"]["what"] == "model"


def test_approvals_has_signers_and_accepted_risks(bundle):
    assessment = evidence.assessed(bundle)
    policy = evidence.policy().changed(waivers=[grc.waiver().model_dump(mode="json")])
    found = rows(approvals_csv(replace(assessment, proof=replace(assessment.proof, policy=policy)), grc.SHA256))
    assert [row["by"] for row in found if row["what"] == "bundle signed"] == ["alice", "bob", "carol"]
    assert {row["time"] for row in found if row["what"] == "bundle signed"} == {"not proven"}
    (accepted,) = [row for row in found if row["what"] == "risk accepted"]
    assert (accepted["by"], accepted["until"], accepted["basis"]) == ("CISO", grc.UNTIL, "weights are trusted")


def test_a_refused_bundle_has_reasons_and_controls_and_no_other_table(tmp_path):
    write(tmp_path / "out", evidence.refusing())
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"oscal-assessment-results.json", "oscal-poam.json", "results.hdf.json", "results.sarif.json", "findings.csv", "controls.csv"} <= there
    assert not {"files.csv", "licences.csv", "approvals.csv"} & there
    found = rows((tmp_path / "out" / "findings.csv").read_bytes())
    assert next(row["about"] for row in found if row["decision"] == "refused") == "4.threshold"


def test_all_that_is_written_names_the_same_sha256(bundle, tmp_path):
    write(tmp_path / "out", grc.everything(bundle))
    sha256 = evidence_write.Digest.of((tmp_path / "out" / "verification.json").read_bytes()).hex
    for name in (*TABLES, "oscal-assessment-results.json", "oscal-component-definition.json", "oscal-poam.json", "results.hdf.json", "results.sarif.json"):
        assert sha256 in (tmp_path / "out" / name).read_text(), name


def calls(make, assessment) -> int:
    """Return how many calls ``make`` needs: unlike seconds, the same on every machine."""
    count = 0

    def counted(_frame, _event, _argument) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        make(assessment, grc.SHA256)
    finally:
        sys.setprofile(before)
    return count


def test_the_work_grows_as_the_bundle_does(bundle):
    small, large = grc.many(bundle, 100), grc.many(bundle, 800)
    for name, make in ({name: make for name, (_, make) in grc.MAKERS.items()} | TABLES).items():
        make(small, grc.SHA256)
        assert calls(make, large) < 9 * calls(make, small), name
