"""What ``airgap-audit diff`` says: what moved, as data for programs, as text for people, and as a page. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from airgap_images.layout import write_atomic
from audit.evidence import difference_page
from audit.evidence.compare import SECTIONS, Comparison, Difference, Section, Side
from audit.terminal import Report, counted
from manifests.errors import SiteError
from manifests.paths import printable

FORMAT = "airgap.diff/v1"
MAX_TOLD = 40  # lines of one section; --json and the page have all
SIGNS = {"added": "+", "removed": "-", "changed": "~"}
TITLES: dict[Section, str] = {
    "bundle": "what the signers state",
    "policy": "policy it was installed by",
    "signers": "signers",
    "components": "components",
    "packages": "packages, models and images",
    "licences": "licences as declared",
    "files": "files that are no packages",
    "vulnerabilities": "vulnerabilities",
}


def told(found: Comparison, out: Path | None) -> Report:
    """Tell what moved, and write the page if one is asked for."""
    lines = [f"old: {_side(found.old)}", f"new: {_side(found.new)}"]
    for section in SECTIONS:
        lines += _section(found, section)
    if not found.differences:
        lines += ["", "no difference"]
    if found.not_compared:
        lines += ["", "not compared:", *(f"  - {printable(text, 400)}" for text in found.not_compared)]
    if out:
        _write(out, difference_page.html(found, TITLES))
        lines += ["", f"written: {out}"]
    return Report(as_json(found), "\n".join(lines), found.exit_code)


def as_json(found: Comparison) -> dict[str, Any]:
    """Return a comparison as plain JSON values."""
    return {
        "differences": [asdict(entry) for entry in found.differences],
        "exitCode": found.exit_code,
        "format": FORMAT,
        "new": _as_json(found.new),
        "notCompared": list(found.not_compared),
        "old": _as_json(found.old),
    }


def _as_json(side: Side) -> dict[str, Any]:
    return {"bundle": side.digest, "name": side.label, "proof": side.proof, "proved": side.proven}


def _side(side: Side) -> str:
    return f"{printable(side.label)}, bundle {side.digest}: {side.proof}"


def _section(found: Comparison, section: Section) -> Iterator[str]:
    entries = found.of(section)
    if not entries:
        return
    yield ""
    yield f"{TITLES[section]}: {counted(len(entries), 'difference')}"
    yield from (f"  {_line(entry)}" for entry in entries[:MAX_TOLD])
    if len(entries) > MAX_TOLD:
        yield f"  and {len(entries) - MAX_TOLD} more; --json and --html have all"


def _line(entry: Difference) -> str:
    sign = "fixed" if entry.section == "vulnerabilities" and entry.change == "removed" else SIGNS[entry.change]
    sign = "NEW" if entry.section == "vulnerabilities" and entry.change == "added" else sign
    values = " -> ".join(printable(text, 120) for text in (entry.old, entry.new) if text)
    subject = " ".join(filter(None, (printable(entry.subject, 160), printable(entry.what, 80))))
    return f"{sign} {subject}{f': {values}' if values else ''}{f' ({entry.note.upper()})' if entry.note else ''}"


def _write(out: Path, page: bytes) -> None:
    try:
        write_atomic(out, page)
    except OSError as error:
        raise SiteError(f"{out}: cannot be written: {error.strerror}", hint="name a file in a folder this user may write") from None
