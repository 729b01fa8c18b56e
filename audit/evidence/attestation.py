"""The verifier's own result as in-toto statements, for policy engines and the next hop: SVR, VSA, and a Reference to the evidence.

Projections of one assessment. A refused bundle gets none: an SVR has only what passed, and of an unproven bundle nothing is known that a
VSA could be about. A VSA is there where SLSA levels are claimed; one whose level cannot be claimed says FAILED. Sources: in-toto
attestation framework, predicates "Simple Verification Result" v0.2 and "Reference" v0.1; slsa.dev/verification_summary/v1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from airgap_images.oci import Digest
from audit.evidence.assessment import Assessment, Proof
from audit.verify.slsa import Claim, claim
from manifests import canonical, statement
from manifests.policy import Policy
from manifests.statement import DigestMap

SVR = "https://in-toto.io/attestation/svr/v0.2"
VSA = "https://slsa.dev/verification_summary/v1"
REFERENCE = "https://in-toto.io/attestation/reference/v0.1"
SLSA_VERSION = "1.1"


def svr(assessment: Assessment, verifier: str, verification: bytes) -> bytes | None:
    """Return the SVR statement, None for a refused bundle; ``verification`` is verification.json, its second kind of subject."""
    if assessment.proof is None:
        return None
    subjects = {**_subjects(assessment.proof), "verification.json": {"sha256": Digest.of(verification).hex}}
    predicate = {
        "verifier": {"id": verifier, "policies": [_policy(assessment.proof)]},
        "timeCreated": canonical.stamp(assessment.time),
        "properties": sorted(properties(assessment.proof)),
    }
    return statement.encode(subjects, SVR, predicate)


def vsa(assessment: Assessment, verifier: str) -> bytes | None:
    """Return the VSA statement, None where the policy believes no build platform, so that no level can be claimed."""
    proof = assessment.proof
    if proof is None:
        return None
    policy = Policy.parse(proof.bundle.policy_raw)
    if not policy.slsa:
        return None
    found = claim(proof.bundle, policy)
    said = proof.bundle.statement
    predicate: dict[str, Any] = {
        "verifier": {"id": verifier, "version": {assessment.tool[0]: assessment.tool[1]}},
        "timeVerified": canonical.stamp(assessment.time),
        "resourceUri": f"airgap:{said.stream}/{said.serial}",
        "policy": _policy(proof),
        "verificationResult": "PASSED" if found.level else "FAILED",
        "verifiedLevels": [_level(found)] if found.level else ["FAILED"],
        "slsaVersion": SLSA_VERSION,
    }
    if found.digest:
        predicate["inputAttestations"] = [{"uri": f"airgap:{said.stream}/{said.serial}/provenance", "digest": {"sha256": found.digest.hex}}]
    return statement.encode(_subjects(proof), VSA, predicate)


def reference(assessment: Assessment, verifier: str, files: Mapping[str, bytes]) -> bytes | None:
    """Return a statement that names all ``files`` of the evidence with their digests, None for a refused bundle.

    It is the detached signature over the SBOMs, the tables and the report.
    """
    if assessment.proof is None:
        return None
    listed = [{"name": name, "digest": {"sha256": Digest.of(raw).hex}} for name, raw in sorted(files.items())]
    return statement.encode(_subjects(assessment.proof), REFERENCE, {"attester": {"id": verifier}, "references": listed})


def properties(proof: Proof) -> Iterator[str]:
    """Yield what passed, and only that; what was not assessed or not consulted is absent."""
    yield "AIRGAP_SIGNED_BY_POLICY_THRESHOLD"
    yield "AIRGAP_WITHIN_VALIDITY"
    yield "AIRGAP_EVERY_BYTE_MATCHES_SIGNED_SUMS"
    if proof.remembered:
        yield "AIRGAP_NO_ROLLBACK"
    if proof.upstream and all(verdict.result == "good" for verdict in proof.upstream):
        yield "AIRGAP_UPSTREAM_SIGNATURES"
    for result in proof.results:
        if result.examined and not result.findings and not result.not_assessed:
            yield f"AIRGAP_CHECK_{result.id.upper().replace('-', '_')}"
    if proof.drift is not None and proof.drift.exit_code == 0:
        yield "AIRGAP_INSTALLED_AS_SIGNED"
    found = claim(proof.bundle, Policy.parse(proof.bundle.policy_raw))
    if found.level:
        yield _level(found)


def _level(found: Claim) -> str:
    return f"SLSA_BUILD_LEVEL_{found.level}"


def _policy(proof: Proof) -> dict[str, Any]:
    uri = f"airgap:{proof.bundle.statement.stream}/policy/{proof.bundle.policy_version}"
    return {"uri": uri, "digest": {"sha256": proof.bundle.policy_sha256}}


def _subjects(proof: Proof) -> DigestMap:
    files = dict(proof.bundle.files)
    return {name: {"sha256": Digest.of(files[name]).hex} for name in ("index.json", "SHA256SUMS", "SHA512SUMS") if name in files}
