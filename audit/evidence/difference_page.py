"""The page of a comparison: one HTML file that loads nothing, in the look of the report."""

from __future__ import annotations

from collections.abc import Mapping

from audit.evidence.compare import SECTIONS, Comparison, Difference, Section
from audit.evidence.report import page

WORDS = {"added": ("good", "added"), "removed": ("warn", "removed"), "changed": ("neutral", "changed")}


def html(found: Comparison, titles: Mapping[Section, str]) -> bytes:
    """Return the page; the same comparison is always the same bytes."""
    sections = [(section, titles[section], found.of(section)) for section in SECTIONS]
    return page.render(
        "difference.html.j2",
        "report.css.j2",
        found=found,
        sections=[entry for entry in sections if entry[2]],
        word=_word,
    )


def _word(entry: Difference) -> tuple[str, str]:
    """Return the mood and the word of one difference; a vulnerability that is no longer there is fixed."""
    if entry.section == "vulnerabilities":
        return ("bad", "new") if entry.change == "added" else ("good", "fixed")
    return WORDS[entry.change] if entry.section != "packages" or not entry.note else ("bad", "changed")
