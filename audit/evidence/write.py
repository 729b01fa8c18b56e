"""Put the evidence into a folder: ``verification.json``, ``report.html``, ``sbom.cdx.json`` and their ``SHA256SUMS``.

With the site's key also ``svr.sigstore.json`` and, where the policy believes a build platform, ``vsa.sigstore.json``: signed statements.

Rules: a folder with anything else in it is somebody else's and left alone; each file appears whole or not at all; ``SHA256SUMS``
is taken away first and written last, so a set that was interrupted never passes for a whole one, and writing again
mends it. A refused bundle has no SBOM, and the SBOM of an earlier one does not stay beside its report.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from airgap_images.layout import alone, read_regular, sync_directory, write_atomic
from airgap_images.oci import Digest
from audit.evidence.assessment import Assessment
from audit.evidence.attestation import svr, vsa
from audit.evidence.cyclonedx import cyclonedx
from audit.evidence.report import html
from audit.evidence.verification import FORMAT, verification_json
from audit.signers import Signer
from manifests.errors import AirgapError, SiteError, UsageError
from manifests.paths import printable

VERIFICATION, SBOM, REPORT, SUMS = "verification.json", "sbom.cdx.json", "report.html", "SHA256SUMS"
SVR, VSA = "svr.sigstore.json", "vsa.sigstore.json"
NAMES = (VERIFICATION, SBOM, REPORT, SVR, VSA, SUMS)
FAMILY = f'"format": "{FORMAT.rpartition("/")[0]}/'.encode()
MAX_READ = 1 << 30  # bytes of an earlier verification.json
HINT = "name a new or empty folder, or one this command wrote before"
_TORN = re.compile(rf"\.(?:{'|'.join(map(re.escape, NAMES))})\.[0-9a-f]{{16}}")  # what write_atomic leaves when it is killed


@dataclass(frozen=True, slots=True)
class Verifier:
    """Who states the result: ``id`` is the URI they are known by, ``signer`` has the site's own key."""

    id: str
    signer: Signer


def write(out: Path, assessment: Assessment, verifier: Verifier | None = None) -> tuple[Path, ...]:
    """Write the evidence into ``out`` and return the files; raises UsageError if the folder is somebody else's."""
    files = {VERIFICATION: verification_json(assessment), REPORT: html(assessment)}
    if assessment.proof:
        files[SBOM] = cyclonedx(assessment)
    if verifier:
        statements = {SVR: svr(assessment, verifier.id, files[VERIFICATION]), VSA: vsa(assessment, verifier.id)}
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
