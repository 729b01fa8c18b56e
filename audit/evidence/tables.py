"""The tables, for people with a spreadsheet: controls, files, findings, licences, approvals as CSV (RFC 4180, UTF-8, a header row).

Rules: each row names the sha256 of ``verification.json``, of which the tables are projections, so that a row can be traced when it is
copied elsewhere; a text that a spreadsheet would take for a formula gets an apostrophe before it; no row is left out for being one of many.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from audit.evidence import controls, redistribution
from audit.evidence.assessment import Assessment, Proof
from audit.evidence.item import Item, Licence
from audit.evidence.outcomes import limits, line, outcomes
from manifests import canonical

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
SHA256 = "verification_sha256"
ALSO_FORMULA = ("\N{FULLWIDTH EQUALS SIGN}", "\N{FULLWIDTH PLUS SIGN}", "\N{FULLWIDTH HYPHEN-MINUS}", "\N{FULLWIDTH COMMERCIAL AT}")
Row = tuple[str, ...]


def controls_csv(assessment: Assessment, sha256: str) -> bytes:
    """Return for every control of every framework what the assessment supports, and what that does not show."""
    head = ("framework", "release", "control", "title", "state", "strength", "rests_on", "evidence", "does_not_show", "because")
    return _table(sha256, head, (_control(support) for support in controls.supported(assessment)))


def findings_csv(assessment: Assessment, sha256: str) -> bytes:
    """Return every finding, whatever was decided of it, everything that was not assessed, and what is not checked at all."""
    found = ("decision", "rule", "severity", "component", "path", "about", "message", "remedy", "explained")
    head = (*found, "accepted_by", "accepted_until", "accepted_because")
    rows = (
        (
            *(entry.decision, entry.rule, entry.severity or "", entry.component, entry.path, entry.about),
            *(entry.message, entry.remedy, entry.doc),
            *((entry.waiver.by, entry.waiver.expires, entry.waiver.reason) if entry.waiver else ("", "", "")),
        )
        for entry in (*outcomes(assessment), *limits(assessment))
    )
    return _table(sha256, head, rows)


def files_csv(assessment: Assessment, sha256: str) -> bytes:
    """Return every file of the bundle with its digests."""
    head = ("component", "kind", "role", "path", "sha256", "sha512", "bytes", "item", "origin")
    return _table(sha256, head, (row for item in _items(assessment) for row in _files(item)))


def licences_csv(assessment: Assessment, sha256: str) -> bytes:
    """Return the licences of every model, package and image, as stated and as read, with where each stands and what the table says."""
    stated = ("component", "what", "name", "version", "purl", "declared", "declared_in", "concluded", "concluded_from", "producer", "item")
    head = (*stated, "passing_on", "conditions", "licence_texts")
    asked = tuple(item for item in _items(assessment) if item.what in redistribution.ASKED)
    rows = zip(asked, redistribution.judge(asked), strict=True)
    return _table(sha256, head, ((*_licences(item), said.verdict, " | ".join(said.conditions), said.texts) for item, said in rows))


def approvals_csv(assessment: Assessment, sha256: str) -> bytes:
    """Return who vouched for what: signatures that count, those that do not, and the waivers of the policy."""
    head = ("what", "by", "about", "kind", "algorithm", "key_sha256", "file", "time", "until", "basis")
    rows = _approvals(assessment.proof) if assessment.proof else ()
    return _table(sha256, head, rows)


def cell(value: Any) -> str:
    """Return a value as the text of a cell that no spreadsheet evaluates."""
    raw = str(value)
    clean = line(raw)
    return f"'{clean}" if raw.startswith(FORMULA) or clean.startswith((*FORMULA, *ALSO_FORMULA)) else clean


def _table(sha256: str, head: Row, rows: Iterable[Iterable[Any]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow((SHA256, *head))
    writer.writerows((sha256, *map(cell, row)) for row in rows)
    return out.getvalue().encode()


def _items(assessment: Assessment) -> tuple[Item, ...]:
    return assessment.proof.inventory.items if assessment.proof else ()


def _control(support: controls.Support) -> Row:
    framework, control = support.framework, support.control
    head = (framework.framework, framework.release, control.id, control.title, support.state, control.strength)
    return (*head, " ".join((*control.needs, *control.also)), control.shows, control.gap, support.why)


def _files(item: Item) -> Iterator[tuple[Any, ...]]:
    """Yield the files of an item; a package that is itself a file of the bundle is one, a package inside an image is none."""
    of = (item.component, item.kind, item.role or "")
    if item.path is not None and item.sha256 is not None:
        yield (*of, item.path, item.sha256, item.sha512 or "", item.size if item.size is not None else "", item.ref, item.origin or "")
    for file in item.files:
        yield (*of, file.path, file.sha256, file.sha512 or "", file.size, item.ref, item.origin or "")


def _licences(item: Item) -> Row:
    declared, concluded = _joined(item.licences), _joined(item.concluded)
    head = (item.component, item.what, item.name, item.version or "", item.purl or "")
    return (*head, *declared, *concluded, item.producer or "", item.ref)


def _joined(found: tuple[Licence, ...]) -> tuple[str, str]:
    return " | ".join(licence.text for licence in found), " | ".join(licence.source for licence in found)


def _approvals(proof: Proof) -> Iterator[Row]:
    bundle = proof.bundle
    for signature in bundle.signatures:
        time = canonical.stamp(signature.time) if signature.time else "not proven"
        told = (signature.kind, signature.algorithm, signature.key_id, signature.file, time, canonical.stamp(bundle.statement.expires))
        yield ("bundle signed", signature.signer, f"{bundle.statement.stream} {bundle.statement.serial}", *told, signature.trusted_by)
    for model in bundle.models:
        yield ("model signed", model.signer, model.model, "model signature", model.algorithm, model.key_id, model.file, "", "", "")
    for ignored in bundle.ignored:
        yield ("signature ignored", "", "", "", "", "", ignored.file, "", "", ignored.reason)
    for waiver in proof.policy.waivers if proof.policy else ():
        about = " ".join(filter(None, (waiver.check, waiver.subject, waiver.about)))
        yield ("risk accepted", waiver.by, about, "waiver of the policy", "", "", "", "", waiver.expires, waiver.reason)
