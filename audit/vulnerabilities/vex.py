"""What somebody decided about a vulnerability of a product: VEX documents, read and matched by package URL.

Formats: OpenVEX 0.2.0, and CycloneDX 1.4 to 1.7 with ``vulnerabilities[].analysis`` ("VEX"). Rules: a statement is about a product only
if it names its package URL, with its version or without any, and no qualifier that is another; what names no such product is about
nothing here. "Not affected" needs a reason, as both formats want: without one the whole document is refused. A decision never takes a
match away, it stands beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from packageurl import PackageURL

from audit.vulnerabilities.result import Decision, VexStatus
from manifests.paths import printable

MAX_TEXT = 1000  # characters of a statement
STATUSES: dict[str, VexStatus] = {
    "not_affected": "not_affected", "affected": "affected", "fixed": "fixed", "under_investigation": "under_investigation",
    "resolved": "fixed", "resolved_with_pedigree": "fixed", "exploitable": "affected", "in_triage": "under_investigation",
    "false_positive": "not_affected",
}  # fmt: skip
JUSTIFICATIONS = frozenset({  # of OpenVEX, then of CycloneDX
    "component_not_present", "vulnerable_code_not_present", "vulnerable_code_not_in_execute_path",
    "vulnerable_code_cannot_be_controlled_by_adversary", "inline_mitigations_already_exist",
    "code_not_present", "code_not_reachable", "requires_configuration", "requires_dependency", "requires_environment",
    "protected_by_compiler", "protected_at_runtime", "protected_at_perimeter", "protected_by_mitigating_control",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stated:
    """One decision: about which vulnerabilities (any of these names), of which products (package URLs)."""

    names: frozenset[str]
    products: tuple[PackageURL, ...]
    decision: Decision

    def about(self, names: frozenset[str], purl: PackageURL) -> bool:
        """Say whether it is about the vulnerability with any of ``names`` in the package ``purl``."""
        return bool(names & self.names) and any(_same(product, purl) for product in self.products)


def read(raw: bytes, source: str) -> list[Stated]:
    """Return the decisions of a VEX document called ``source``; raises ValueError for what is none."""
    try:
        said = json.loads(raw)
        if isinstance(said, dict) and said.get("bomFormat") == "CycloneDX":
            return list(_cyclonedx(said, source))
        if isinstance(said, dict) and "openvex" in str(said.get("@context", "")):
            return list(_openvex(said, source))
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"has not the form of VEX: {type(error).__name__} {error}") from None
    raise ValueError("is neither OpenVEX nor CycloneDX")


def _openvex(document: dict[str, Any], source: str) -> Iterator[Stated]:
    author = _text(document.get("author"))
    for statement in document["statements"]:
        named = statement["vulnerability"]
        names = [named] if isinstance(named, str) else [named.get("name"), *named.get("aliases", ())]
        products = [entry if isinstance(entry, str) else _identified(entry) for entry in statement.get("products", ())]
        made = _time(statement.get("timestamp") or document.get("timestamp"))
        impact = _text(statement.get("impact_statement"))
        text = impact or _text(statement.get("action_statement") or statement.get("status_notes"))
        status, reason = STATUSES[statement["status"]], _justified(statement.get("justification"))
        _need(status, reason or impact)
        yield Stated(frozenset(filter(None, map(_text, names))), _purls(products), Decision(status, reason, text, author, source, made))


def _identified(product: dict[str, Any]) -> str:
    """Return the package a product is; one that is named with parts of it is another thing than that package as a whole."""
    if product.get("subcomponents"):
        return ""
    return _text(product.get("identifiers", {}).get("purl")) or _text(product.get("@id"))


def _cyclonedx(document: dict[str, Any], source: str) -> Iterator[Stated]:
    known = {entry.get("bom-ref"): entry.get("purl") for entry in document.get("components", ())}
    metadata = document.get("metadata", {})
    authors = [_text(entry.get("name")) for entry in metadata.get("authors", ())] or [_text(metadata.get("manufacturer", {}).get("name"))]
    for entry in document["vulnerabilities"]:
        analysis = entry.get("analysis")
        if not analysis or "state" not in analysis:
            continue
        names = (entry.get("id"), *(reference.get("id") for reference in entry.get("references", ())))
        refs = [_text(affected.get("ref")) for affected in entry.get("affects", ())]
        products = [_text(known.get(ref)) or ref for ref in refs]
        made = _time(analysis.get("lastUpdated") or analysis.get("firstIssued") or metadata.get("timestamp"))
        status, reason, detail = STATUSES[analysis["state"]], _justified(analysis.get("justification")), _text(analysis.get("detail"))
        _need(status, reason or detail)
        decision = Decision(status, reason, detail, ", ".join(filter(None, authors)), source, made)
        yield Stated(frozenset(filter(None, map(_text, names))), _purls(products), decision)


def _justified(value: Any) -> str:
    if value is not None and value not in JUSTIFICATIONS:
        raise ValueError(f"has a justification neither format knows: {printable(str(value), 80)}")
    return value or ""


def _need(status: VexStatus, reason: str) -> None:
    if status == "not_affected" and not reason:
        raise ValueError("says of something that it is not affected, and not why")


def _purls(texts: list[str]) -> tuple[PackageURL, ...]:
    found = []
    for text in texts:
        try:
            found.append(PackageURL.from_string(text))
        except ValueError:
            continue  # not a package: about nothing that is compared here
    return tuple(found)


def _same(product: PackageURL, purl: PackageURL) -> bool:
    alike = (product.type, product.namespace, product.name) == (purl.type, purl.namespace, purl.name)
    mine, theirs = dict(purl.qualifiers), dict(product.qualifiers)
    whole = not product.subpath or product.subpath == purl.subpath
    return alike and whole and product.version in {None, "", purl.version} and theirs.items() <= mine.items()


def _text(value: Any) -> str:
    return printable(value, MAX_TEXT) if isinstance(value, str) else ""


def _time(value: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(_text(value))
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError):
        return None
