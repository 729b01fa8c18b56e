"""Assessments with an outcome of every kind, hostile ones and very large ones, and the validators of what is made from them."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
from parts import evidence
from parts.evidence import HOSTILE

import manifests
from audit import checks
from audit.evidence.agreement import Disagreement
from audit.evidence.assessment import Assessment
from audit.evidence.hdf import hdf
from audit.evidence.item import Coverage, Item, Licence
from audit.evidence.oscal.component import component_definition
from audit.evidence.oscal.plan import poam
from audit.evidence.oscal.results import assessment_results
from audit.evidence.sarif import sarif
from audit.evidence.tables import approvals_csv, files_csv, findings_csv, licences_csv
from audit.verify.result import VerifiedBundle
from manifests.policy import Waiver

SCHEMAS = Path(manifests.__file__).parent / "schemas"
SHA256 = "5a" * 32
UNTIL = "2027-01-31T00:00:00Z"
# Every place where a text of others can do harm: markup, links, placeholders, formulas, control characters, half characters.
WORST = '=cmd|\'/c calc\'!A1 [x](javascript:alert(1)) <img src=x> {{ insert: param, a }} {0} `*_# \\ "\r\n\t\x00\x1b[31m\u2028\ud800 ' + HOSTILE
MAKERS: dict[str, tuple[str, Callable[[Assessment, str], bytes]]] = {
    "assessment-results": ("oscal/oscal_assessment-results_schema.json", assessment_results),
    "component-definition": ("oscal/oscal_component_schema.json", component_definition),
    "poam": ("oscal/oscal_poam_schema.json", poam),
    "hdf": ("hdf/exec-json.schema.json", hdf),
    "sarif": ("sarif/sarif-2.1.0.json", sarif),
}


@functools.cache
def validator(schema: str) -> Any:
    """Return the validator of a vendored schema; it resolves nothing from elsewhere."""

    def nowhere(address: str) -> Any:
        raise LookupError(address)

    return jsonschema_rs.validator_for(json.loads((SCHEMAS / schema).read_bytes()), retriever=nowhere, validate_formats=True)


def errors(kind: str, document: Any) -> list[str]:
    return [f"{list(error.instance_path)}: {error.message[:200]}" for error in validator(MAKERS[kind][0]).iter_errors(document)]


def made(kind: str, assessment: Assessment) -> Any:
    """Return a document as its readers get it."""
    return json.loads(MAKERS[kind][1](assessment, SHA256))


def waiver(**fields: str) -> Waiver:
    given = {"check": "pickles", "subject": "mini/b.bin", "about": "torch", "by": "CISO", "reason": "weights are trusted", "expires": UNTIL}
    return Waiver(**given | fields)


def finding(name: str, severity: str, path: str, about: str = "", message: str = "is a pickle") -> checks.Finding:
    return checks.Finding(name, severity, "mini", path, message, "use safetensors", f"docs/checks.md#{name}", about=about)  # type: ignore[arg-type]


def results() -> tuple[checks.CheckResult, ...]:
    """Return a refused, a waived and a warned finding, something not assessed, a check that found nothing and one with nothing to do."""
    found = (finding("pickles", "critical", "a.bin"), finding("pickles", "high", "b.bin", "torch"), finding("pickles", "low", "c.bin"))
    unread = (checks.NotAssessed("remote-code", "mini", "auto.json", "is no JSON"),)
    return (
        checks.CheckResult("pickles", "No file runs code", "pickle", ("Cannot see all.",), 3, found, ()),
        checks.CheckResult("remote-code", "No code is named", "remote_code", (), 1, (), unread),
        checks.CheckResult("safetensors", "Weights are well formed", None, ("Values are not judged.",), 1, (), ()),
        checks.CheckResult("upstream", "All is signed", None, (), 0, (), ()),
    )


def with_results(assessment: Assessment, found: tuple[checks.CheckResult, ...], *waivers: Waiver) -> Assessment:
    gate = checks.gate(found, {}, waivers, assessment.time)
    return replace(assessment, proof=replace(assessment.proof, results=found, gate=gate))


def clean(bundle: VerifiedBundle) -> Assessment:
    """Return an assessment in which nothing was found and nothing left open."""
    assessment = evidence.assessed(bundle, found=results()[2:3], drift=evidence.Drift())
    items = tuple(replace(item, coverage=Coverage("read")) for item in assessment.proof.inventory.items)
    inventory = replace(assessment.proof.inventory, items=items, gaps=(), disagreements=())
    return replace(assessment, not_checked=(), proof=replace(assessment.proof, inventory=inventory))


def everything(bundle: VerifiedBundle) -> Assessment:
    """Return an assessment with an outcome of every kind."""
    drift = evidence.Drift("differs", 3, (("changed", "mini/config.json", "content is another"), ("not compared", "", "the server is away")))
    assessment = with_results(evidence.assessed(bundle, drift=drift, upstream=evidence.verdicts()), results(), waiver())
    first, *rest = assessment.proof.inventory.items
    inventory = replace(
        assessment.proof.inventory,
        items=(replace(first, coverage=Coverage("unreadable", "is damaged")), *rest),
        disagreements=(Disagreement("docs", "is in the bundle and does not stand in the lock"),),
        gaps=("The lock could not be read.",),
    )
    return replace(assessment, proof=replace(assessment.proof, inventory=inventory))


def hostile(bundle: VerifiedBundle) -> Assessment:
    """Return an assessment of which every text of others is hostile, and some twice."""
    kinds = (("critical", ""), ("medium", "=2"), ("low", WORST), ("low", WORST))
    bad = tuple(finding("pickles", severity, WORST, about, WORST) for severity, about in kinds)
    bad = tuple(replace(found, remedy=WORST, component=WORST, doc=WORST) for found in bad)
    unread = (checks.NotAssessed("pickles", WORST, WORST, WORST),) * 2
    ran = (checks.CheckResult("pickles", WORST, "pickle", (WORST,), 3, bad, unread),)
    assessment = evidence.assessed(bundle, drift=evidence.Drift(WORST, 3, ((WORST, WORST, WORST),)))
    accepted = Waiver.model_construct(check="pickles", subject=WORST, about=WORST, by=WORST, reason=WORST, expires=UNTIL)
    assessment = with_results(assessment, ran, accepted)
    licences = (Licence(WORST, WORST),)
    items = tuple(
        replace(item, name=WORST, version=WORST, producer=WORST, licences=licences, concluded=licences, origin=WORST, purl=WORST)
        for item in assessment.proof.inventory.items
    )
    inventory = replace(assessment.proof.inventory, items=items, disagreements=(Disagreement(WORST, WORST),), gaps=(WORST,))
    return replace(assessment, place=WORST, tool=("airgap-audit", "1.2.3"), proof=replace(assessment.proof, inventory=inventory))


def many(bundle: VerifiedBundle, count: int = 20_000) -> Assessment:
    """Return an assessment of ``count`` packages, each with a finding, half of them waived."""
    items = tuple(
        Item(f"p{at}", "gateway", "python", None, "package", f"p{at}", "1", f"{at:064x}", 1, Coverage("read"), path=f"p{at}-1.whl")
        for at in range(count)
    )
    found = tuple(
        checks.Finding("vulnerabilities", "high", "gateway", f"p{at}-1.whl", f"p{at} is affected", "use 2", "", about=f"CVE-1-{at}")
        for at in range(count)
    )
    ran = (checks.CheckResult("vulnerabilities", "Nothing is vulnerable", None, (), count, found, ()),)
    assessment = evidence.assessed(bundle, found=ran)
    mine = waiver(check="vulnerabilities", subject="gateway", about="CVE")
    gate = checks.Gate(found[::2], (), (), tuple((one, mine) for one in found[1::2]))
    inventory = replace(assessment.proof.inventory, items=(*assessment.proof.inventory.items, *items))
    return replace(assessment, proof=replace(assessment.proof, inventory=inventory, gate=gate))


def golden(folder: Path) -> dict[str, bytes]:
    """Return the files of tests/golden/grc as the code writes them now."""
    assessment = everything(evidence.verified(evidence.rich(folder)))
    made = {"oscal-poam.json": poam, "results.hdf.json": hdf, "results.sarif.json": sarif, "findings.csv": findings_csv}
    made |= {"files.csv": files_csv, "licences.csv": licences_csv, "approvals.csv": approvals_csv}
    return {name: make(assessment, SHA256) for name, make in made.items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for name, data in golden(Path(scratch)).items():
            (Path(__file__).parent.parent / "golden" / "grc" / name).write_bytes(data)
