"""The values of a score. Rule: "declared unknown" is a result of its own between "present" and "missing"."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Answer = Literal["present", "unknown", "missing"]
MAX_GAPS = 1000  # of one field listed by name; the counts have all


@dataclass(frozen=True, slots=True)
class Gap:
    """One thing of which a field is not present: its ``bom-ref`` (empty for the document), whether that is declared, and why."""

    ref: str
    declared: bool
    reason: str


@dataclass(frozen=True, slots=True)
class FieldScore:
    """How often one field is present, declared unknown, and missing; ``gaps`` lists the latter two, at most ``MAX_GAPS``."""

    id: str
    title: str
    present: int
    unknown: int
    missing: int
    gaps: tuple[Gap, ...]

    @property
    def total(self) -> int:
        """Return how many things were asked for this field."""
        return self.present + self.unknown + self.missing

    @property
    def reasons(self) -> dict[str, list[str]]:
        """Return the ``bom-ref`` of each listed gap, by its reason; nothing for the document itself."""
        found: dict[str, list[str]] = {}
        for gap in self.gaps:
            found.setdefault(gap.reason, []).extend([gap.ref] if gap.ref else [])
        return found

    @property
    def answer(self) -> Answer:
        """Say how the field as a whole ended: as its worst one."""
        return "missing" if self.missing else "unknown" if self.unknown else "present"


@dataclass(frozen=True, slots=True)
class Score:
    """One rule set applied to one document; ``source`` names its publication."""

    id: str
    title: str
    source: str
    fields: tuple[FieldScore, ...]

    @property
    def met(self) -> int:
        """Return of how many fields nothing is missing: everything is there, or said to be unknown."""
        return sum(1 for field in self.fields if not field.missing)

    @property
    def full(self) -> int:
        """Return how many fields are present everywhere."""
        return sum(1 for field in self.fields if field.answer == "present")

    @property
    def as_json(self) -> dict[str, Any]:
        """Return this as plain JSON values."""
        listed = [
            {"answer": field.answer, "gaps": [asdict(gap) for gap in field.gaps], "id": field.id, "title": field.title}
            | {"missing": field.missing, "present": field.present, "unknown": field.unknown}
            for field in self.fields
        ]
        return {"fields": listed, "fieldsFull": self.full, "fieldsMet": self.met, "id": self.id, "of": len(self.fields)} | {
            "source": self.source,
            "title": self.title,
        }
