"""``sbom-quality.json``: the score of the SBOM that is written beside it, with every gap and its reason."""

from __future__ import annotations

from audit.evidence.assessment import Assessment
from audit.evidence.cyclonedx import document
from audit.evidence.quality.result import Score
from audit.evidence.quality.rules import scores
from manifests import canonical

FORMAT = "airgap.sbom-quality/v1"


def quality(assessment: Assessment, author: str | None) -> tuple[Score, ...]:
    """Return the score of the SBOM of an assessment by each rule set, none for a refused bundle; ``author`` has signed it, if named."""
    if assessment.proof is None:
        return ()
    return scores(document(assessment.proof, assessment.tool, author=author), signed=author is not None)


def quality_json(assessment: Assessment, author: str | None) -> bytes:
    """Return the score as canonical JSON."""
    found = [score.as_json for score in quality(assessment, author)]
    return canonical.readable({"format": FORMAT, "of": "sbom.cdx.json", "ruleSets": found})
