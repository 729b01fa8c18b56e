"""How good an SBOM is: CycloneDX documents scored against CISA 2026, BSI TR-03183-2 and the G7 elements of an SBOM for AI."""

from audit.evidence.quality.result import FieldScore, Gap, Score
from audit.evidence.quality.rules import scores

__all__ = ["FieldScore", "Gap", "Score", "scores"]
