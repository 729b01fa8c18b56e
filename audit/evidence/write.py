"""Put the evidence into a folder: ``verification.json``, its projections into the formats that others read, and their ``SHA256SUMS``.

With the site's key also signed statements: ``svr.sigstore.json``, ``evidence.sigstore.json`` over all the files, and, where the policy
believes a build platform, ``vsa.sigstore.json``.

Rules: a folder with anything else in it is somebody else's and left alone; each file appears whole or not at all; ``SHA256SUMS``
is taken away first and written last, so a set that was interrupted never passes for a whole one, and writing again
mends it. A refused bundle has no SBOM, and the SBOM of an earlier one does not stay beside its report.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from airgap_images.layout import alone, read_regular, sync_directory, write_atomic
from airgap_images.oci import Digest
from audit.evidence.approval import approval
from audit.evidence.assessment import Assessment
from audit.evidence.attestation import reference, svr, vsa
from audit.evidence.cyclonedx import cyclonedx
from audit.evidence.hdf import hdf
from audit.evidence.oscal.component import component_definition
from audit.evidence.oscal.plan import poam
from audit.evidence.oscal.results import assessment_results
from audit.evidence.pdf import pdf
from audit.evidence.quality.document import quality_json
from audit.evidence.report import html
from audit.evidence.sarif import sarif
from audit.evidence.spdx2 import spdx2
from audit.evidence.spdx3 import spdx3
from audit.evidence.tables import approvals_csv, controls_csv, files_csv, findings_csv, licences_csv
from audit.evidence.verification import FORMAT, verification_json
from audit.evidence.vex import cyclonedx_vex, openvex
from audit.signers import Signer
from manifests.errors import AirgapError, SiteError, UsageError
from manifests.paths import printable

VERIFICATION, SBOM, REPORT, SUMS = "verification.json", "sbom.cdx.json", "report.html", "SHA256SUMS"
PDF, APPROVAL, QUALITY = "report.pdf", "approval.html", "sbom-quality.json"
SPDX3, SPDX23 = "sbom.spdx3.json", "sbom.spdx23.json"
OPENVEX, VEX = "vex.openvex.json", "vex.cdx.json"
OSCAL_RESULTS, OSCAL_COMPONENT, OSCAL_PLAN = "oscal-assessment-results.json", "oscal-component-definition.json", "oscal-poam.json"
HDF, SARIF = "results.hdf.json", "results.sarif.json"
SVR, VSA, EVIDENCE = "svr.sigstore.json", "vsa.sigstore.json", "evidence.sigstore.json"
FAMILY = f'"format": "{FORMAT.rpartition("/")[0]}/'.encode()
MAX_READ = 1 << 30  # bytes of an earlier verification.json
HINT = "name a new or empty folder, or one this command wrote before"


@dataclass(frozen=True, slots=True)
class Options:
    """What is written on request: which version of CycloneDX, SPDX 2.3 beside 3.0.1, and the report as PDF.

    ``author`` is the URI of the verifier whose key signs what is written; None if nothing is signed.
    """

    cyclonedx: Literal["1.6", "1.7"] = "1.6"
    spdx23: bool = False
    pdf: bool = False
    author: str | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """One file of the evidence: its name, how it is made from the assessment and the sha256 (hex) of ``verification.json``.

    ``of_refused`` says whether there is one of a refused bundle too; where ``make`` has nothing to state there is no such file.
    """

    name: str
    make: Callable[[Assessment, str, Options], bytes | None]
    of_refused: bool = False


@dataclass(frozen=True, slots=True)
class Verifier:
    """Who states the result: ``id`` is the URI they are known by, ``signer`` has the site's own key."""

    id: str
    signer: Signer


def _pdf(assessment: Assessment, sha256: str, options: Options) -> bytes | None:
    return pdf(html(assessment, options.author, sha256)) if options.pdf else None


FORMATS: tuple[Format, ...] = (
    Format(REPORT, lambda assessment, sha256, options: html(assessment, options.author, sha256), of_refused=True),
    Format(PDF, _pdf, of_refused=True),
    Format(APPROVAL, lambda assessment, sha256, _options: approval(assessment, sha256)),
    Format(SBOM, lambda assessment, _sha256, options: cyclonedx(assessment, options.cyclonedx, options.author)),
    Format(SPDX3, lambda assessment, _sha256, options: spdx3(assessment, options.author)),
    Format(SPDX23, lambda assessment, _sha256, options: spdx2(assessment, options.author) if options.spdx23 else None),
    Format(QUALITY, lambda assessment, _sha256, options: quality_json(assessment, options.author)),
    Format(OPENVEX, lambda assessment, sha256, _options: openvex(assessment, sha256)),
    Format(VEX, lambda assessment, sha256, _options: cyclonedx_vex(assessment, sha256)),
    Format(OSCAL_RESULTS, lambda assessment, sha256, _options: assessment_results(assessment, sha256), of_refused=True),
    Format(OSCAL_COMPONENT, lambda assessment, sha256, _options: component_definition(assessment, sha256), of_refused=True),
    Format(OSCAL_PLAN, lambda assessment, sha256, _options: poam(assessment, sha256), of_refused=True),
    Format(HDF, lambda assessment, sha256, _options: hdf(assessment, sha256), of_refused=True),
    Format(SARIF, lambda assessment, sha256, _options: sarif(assessment, sha256), of_refused=True),
    Format("controls.csv", lambda assessment, sha256, _options: controls_csv(assessment, sha256), of_refused=True),
    Format("findings.csv", lambda assessment, sha256, _options: findings_csv(assessment, sha256), of_refused=True),
    Format("files.csv", lambda assessment, sha256, _options: files_csv(assessment, sha256)),
    Format("licences.csv", lambda assessment, sha256, _options: licences_csv(assessment, sha256)),
    Format("approvals.csv", lambda assessment, sha256, _options: approvals_csv(assessment, sha256)),
)
NAMES = (VERIFICATION, *(entry.name for entry in FORMATS), SVR, VSA, EVIDENCE, SUMS)
_TORN = re.compile(rf"\.(?:{'|'.join(map(re.escape, NAMES))})\.[0-9a-f]{{16}}")  # what write_atomic leaves when it is killed


def write(out: Path, assessment: Assessment, verifier: Verifier | None = None, options: Options | None = None) -> tuple[Path, ...]:
    """Write the evidence into ``out`` and return the files; raises UsageError if the folder is somebody else's."""
    files = {VERIFICATION: verification_json(assessment)}
    sha256 = Digest.of(files[VERIFICATION]).hex
    chosen = replace(options or Options(), author=verifier.id if verifier else None)
    for entry in FORMATS:
        if assessment.proof or entry.of_refused:
            made = entry.make(assessment, sha256, chosen)
            files |= {entry.name: made} if made is not None else {}
    if verifier:
        statements = {SVR: svr(assessment, verifier.id, files[VERIFICATION]), VSA: vsa(assessment, verifier.id)}
        statements[EVIDENCE] = reference(assessment, verifier.id, files)
        files |= {name: verifier.signer.envelope(payload).to_bytes() for name, payload in statements.items() if payload}
    sums = "".join(f"{Digest.of(data).hex}  {name}\n" for name, data in sorted(files.items())).encode()
    _make(out)
    with alone(out, "evidence is being written"):
        _take_over(out, keep=frozenset(files))
        for name, data in files.items():
            write_atomic(out / name, data)
        write_atomic(out / SUMS, sums)
    return tuple(out / name for name in (*files, SUMS))


def _take_over(out: Path, *, keep: frozenset[str]) -> None:
    """Remove ``SHA256SUMS``, and what else an earlier run left and this one does not replace."""
    for name in _ours(out):
        if name not in keep:
            (out / name).unlink(missing_ok=True)
    sync_directory(out)


def _ours(out: Path) -> tuple[str, ...]:
    found = tuple(sorted(os.listdir(out)))
    for name in found:
        known = name in NAMES or _TORN.fullmatch(name)
        if not known or not stat.S_ISREG(os.lstat(out / name).st_mode):
            raise UsageError(f"{out}: holds {printable(name)!r}, which is not evidence", hint=HINT)
    if any(name in NAMES for name in found) and not _is_evidence(out):
        raise UsageError(f"{out}: holds files of these names that this command did not write", hint=HINT)
    return found


def _is_evidence(out: Path) -> bool:
    try:
        return FAMILY in read_regular(out / VERIFICATION, VERIFICATION, MAX_READ)
    except AirgapError:
        return False


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SiteError(f"{out}: cannot be used: {error.strerror}", hint="choose a folder this user may write") from None
