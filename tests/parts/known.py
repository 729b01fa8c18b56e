"""Vulnerabilities, decisions and waivers for an assessment of the bundle that tests of evidence look at."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

from parts.bundles import NOW

from audit.checks import Gate
from audit.evidence.assessment import Assessment, proved
from audit.vulnerabilities.result import Assessed, Decision, Match, Source, Vulnerabilities
from manifests import canonical
from manifests.policy import Policy, Waiver

DIGEST = "sha256:" + "d" * 64
PEOPLE = "Site security board"


def found(assessment: Assessment) -> Vulnerabilities:
    """Return a comparison in which wheels were compared, one is affected, and what Debian made was compared with nothing."""
    items = [item for item in assessment.proof.inventory.items if item.what in {"package", "model", "image"}]
    wheel = next(item for item in items if item.name == "classy")
    other = next(item for item in items if item.name == "plain")

    def ended(item) -> Assessed:
        if item.name == wheel.name:
            return Assessed(item.ref, "affected", "PyPI")
        if item.component == "gateway":
            return Assessed(item.ref, "none known", "PyPI")
        return Assessed(item.ref, "not assessed", "deb: no data of it was given" if item.name == "libz" else f"{item.what}: nobody lists advisories of it")

    decided = Decision("not_affected", "vulnerable_code_not_in_execute_path", "we never parse it", PEOPLE, "site.openvex.json", NOW)
    matches = (
        Match(wheel.ref, "GHSA-aaaa-bbbb-cccc", ("CVE-2026-1000",), "Runs what it reads", "critical", 9.8, "CVSS:3.1/AV:N", ("0.2",), "PyPI",
              kev=date(2026, 11, 1), epss=0.9213),
        Match(wheel.ref, "PYSEC-2026-7", (), "Says too much", "unknown", None, "", (), "PyPI"),
        Match(other.ref, "GHSA-dddd-eeee-ffff", ("CVE-2026-2000",), "Slow", "medium", 5.3, "CVSS:3.1/AV:L", ("2.1", "1.9.9"), "PyPI",
              epss=0.0004, decision=decided),
    )  # fmt: skip
    sources = (
        Source("osv", "PyPI", "advisories", "osv/PyPI/all.zip", "a" * 64, 21_000, 3, NOW - timedelta(days=12), DIGEST, ("x.json: no JSON",)),
        Source("kev", "KEV", "advisories", "kev.json", "b" * 64, 1400, 0, NOW - timedelta(days=2), DIGEST),
        Source("epss", "EPSS", "advisories", "epss.csv.gz", "c" * 64, 250_000, 0, None, DIGEST),
    )
    return Vulnerabilities(sources, tuple(map(ended, items)), matches)


def compared(assessment: Assessment) -> Assessment:
    """Return the assessment with that comparison in it, and with what it leaves unassessed said."""
    proof = assessment.proof
    return proved(
        proof.bundle, proof.results, proof.gate, inventory=proof.inventory, vulnerabilities=found(assessment), policy=proof.policy, memory=None,
        drift=proof.drift, upstream=proof.upstream, place=assessment.place, tool=assessment.tool, now=assessment.time,
    )  # fmt: skip


def waived(assessment: Assessment) -> Assessment:
    """Return the assessment with its warnings waived by name, and two further waivers that waive nothing."""
    proof = assessment.proof
    policy = proof.policy or Policy.parse(proof.bundle.policy_raw)
    later = canonical.stamp(NOW + timedelta(days=30))
    over = canonical.stamp(NOW - timedelta(days=1))
    waiver = Waiver(check="pickles", subject="mini/old.bin", by=PEOPLE, reason="read in a sandbox only", expires=later)
    idle = (
        Waiver(check="pickles", subject="mini/gone.bin", by=PEOPLE, reason="was there once", expires=later),
        Waiver(check="pickles", subject="mini/older.bin", by=PEOPLE, reason="until last week", expires=over),
    )
    gate = Gate(proof.gate.refused, (), proof.gate.not_assessed, tuple((finding, waiver) for finding in proof.gate.warned))
    policy = policy.changed(waivers=[entry.model_dump(mode="json", exclude_none=True) for entry in (waiver, *idle)])
    return replace(assessment, proof=replace(proof, gate=gate, policy=policy))

