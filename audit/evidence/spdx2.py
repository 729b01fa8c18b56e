"""The SBOM as SPDX 2.3 JSON, for readers that know no newer one; written on request.

Rules: as ``spdx3``, as far as 2.3 has words for it. Files of trees are not listed one by one: 2.3 wants SHA-1 of each, which is not
computed; their digests are in the other formats. Whether a list of dependencies is complete has no place in 2.3: unknown ones are
NOASSERTION.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

from audit.evidence import addresses, licences
from audit.evidence.assessment import Assessment
from audit.evidence.item import LOCAL, Item, Licence
from audit.evidence.semantics import is_purl
from manifests import canonical
from manifests.errors import UsageError
from manifests.paths import printable

DOCUMENT, BUNDLE = "SPDXRef-DOCUMENT", "SPDXRef-bundle"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://airgap-bundler.dev/spdx2/v1")
NOASSERTION, NONE = "NOASSERTION", "NONE"
PURPOSES = {"model": "OTHER", "image": "CONTAINER", "package": "LIBRARY", "file": "FILE", "files": "OTHER"}
MAX_TEXT = 2000  # characters of a text of strangers
_UNFIT = re.compile(r"[^A-Za-z0-9.-]")


def spdx2(assessment: Assessment, author: str | None = None) -> bytes:
    """Return the SBOM of a proved bundle; raises UsageError for a refused one, of which nothing is claimed."""
    proof = assessment.proof
    if proof is None:
        raise UsageError(f"{assessment.place}: refused, so there is no SBOM of it", hint="get a bundle that can be proved")
    said, items = proof.bundle.statement, sorted(proof.inventory.items, key=lambda item: item.ref)
    texts: dict[str, str] = {}
    packages = [_package(item, texts) for item in items]
    return canonical.readable(
        {
            "spdxVersion": "SPDX-2.3",
            "dataLicense": "CC0-1.0",
            "SPDXID": DOCUMENT,
            "name": f"{proof.inventory.name or 'bundle'} {said.serial}",
            "documentNamespace": f"https://airgap-bundler.dev/spdx/{uuid.uuid5(NAMESPACE, str(proof.bundle.digest))}",
            "creationInfo": {
                "created": canonical.stamp(said.created),
                "creators": [*([f"Organization: {_text(author)}"] if author else []), f"Tool: {'-'.join(assessment.tool)}"],
            },
            "documentDescribes": [BUNDLE],
            "packages": [_bundle(proof.inventory.name, said.serial, proof.bundle.digest.hex), *packages],
            "hasExtractedLicensingInfos": [
                {"licenseId": name, "extractedText": text, "comment": "as stated, no SPDX expression"}
                for name, text in sorted(texts.items())
            ],
            "relationships": list(_relationships(items)),
        }
    )


def _bundle(name: str, serial: int, sha256: str) -> dict[str, Any]:
    return {
        "SPDXID": BUNDLE,
        "name": name or "bundle",
        "versionInfo": str(serial),
        "downloadLocation": NOASSERTION,
        "filesAnalyzed": False,
        "licenseConcluded": NOASSERTION,
        "licenseDeclared": NOASSERTION,
        "copyrightText": NOASSERTION,
        "primaryPackagePurpose": "ARCHIVE",
        "checksums": [{"algorithm": "SHA256", "checksumValue": sha256}],
        "comment": "The checksum is that of index.json, which names all of the bundle.",
    }


def _package(item: Item, texts: dict[str, str]) -> dict[str, Any]:
    origin = item.origin.split(", ")[0] if item.origin and item.origin != LOCAL else None
    found: dict[str, Any] = {
        "SPDXID": _id(item.ref),
        "name": _text(item.name),
        "downloadLocation": addresses.url(origin) or NOASSERTION,
        "filesAnalyzed": False,
        "licenseDeclared": _licence(item.licences, texts),
        "licenseConcluded": _licence(item.concluded, texts),
        "copyrightText": NOASSERTION,
        "supplier": f"Organization: {_text(item.producer)}" if item.producer else NOASSERTION,
        "primaryPackagePurpose": PURPOSES[item.what],
        "comment": f"component {item.component}, {item.coverage.reading}",
    }
    if item.version:
        found["versionInfo"] = _text(item.version)
    if item.sha256:
        sums = [("SHA256", item.sha256), *([("SHA512", item.sha512)] if item.sha512 else [])]
        found["checksums"] = [{"algorithm": algorithm, "checksumValue": value} for algorithm, value in sums]
    if item.purl and is_purl(item.purl):
        reference = {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": item.purl}
        found["externalRefs"] = [reference]
    if home := addresses.url(item.contact):
        found["homepage"] = home
    return found


def _licence(stated: tuple[Licence, ...], texts: dict[str, str]) -> str:
    """Return what was stated as one expression; texts that are none become references that the document defines."""
    parts: list[str] = []
    for licence in stated:
        known = licences.expression(licence.text) or licences.identifier(licence.text)
        if known is None:
            said = _text(licence.text) or "empty"
            known = f"LicenseRef-{uuid.uuid5(NAMESPACE, said)}"
            texts[known] = said
        parts.append(f"({known})" if " " in known and len(stated) > 1 else known)
    return " AND ".join(sorted(set(parts))) or NOASSERTION


def _relationships(items: list[Item]) -> Iterator[dict[str, str]]:
    yield _relation(DOCUMENT, "DESCRIBES", BUNDLE)
    wholes = {item.component: item.ref for item in items if item.path is None and item.inside is None}
    for item in items:
        whole = wholes[item.component]
        source = BUNDLE if item.ref == whole else _id(item.inside or whole)
        yield _relation(source, "CONTAINS", _id(item.ref))
    for item in items:
        if item.requires is None:
            yield _relation(_id(item.ref), "DEPENDS_ON", NOASSERTION)
        else:
            yield from (_relation(_id(item.ref), "DEPENDS_ON", target) for target in sorted(map(_id, item.requires)) or [NONE])


def _relation(source: str, kind: str, target: str) -> dict[str, str]:
    return {"spdxElementId": source, "relationshipType": kind, "relatedSpdxElement": target}


def _id(ref: str) -> str:
    """Return an identifier that SPDX allows, readable in part and unique."""
    return f"SPDXRef-{_UNFIT.sub('-', ref)[:60]}-{uuid.uuid5(NAMESPACE, ref).hex[:16]}"


def _text(text: str) -> str:
    return printable(text, MAX_TEXT)
