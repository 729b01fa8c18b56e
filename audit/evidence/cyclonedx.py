"""The SBOM: CycloneDX 1.6 JSON (ECMA-424), written by hand so that models, files and completeness can be said.

Rules: a function of the bundle and this tool's version only - no clock, no random number, no policy - and sorted, so that the
same bundle always has the same SBOM; the schema and rules beyond it (unique references, resolvable dependencies) are
tests; no vulnerability data. What is unknown is said: in ``airgap:`` properties, and in ``compositions``. A component without
an entry in ``dependencies`` has unknown dependencies, as the standard says.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from audit.evidence import licences
from audit.evidence.assessment import Assessment, Proof
from audit.evidence.item import LOCAL, File, Item, Licence
from audit.evidence.verification import MAX_FILES
from manifests import canonical
from manifests.errors import UsageError

BUNDLE = "bundle"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://airgap-bundler.dev/bundle/v1")
TYPES = {"model": "machine-learning-model", "package": "library", "image": "container", "file": "file", "files": "data"}
UNKNOWN = "unknown"


def cyclonedx(assessment: Assessment) -> bytes:
    """Return the SBOM of a proved bundle; raises UsageError for a refused one, of which nothing is claimed."""
    proof = assessment.proof
    if proof is None:
        raise UsageError(f"{assessment.place}: refused, so there is no SBOM of it", hint="get a bundle that can be proved")
    items = sorted(proof.inventory.items, key=lambda item: item.ref)
    return canonical.readable(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": uuid.uuid5(NAMESPACE, str(proof.bundle.digest)).urn,
            "version": 1,
            "metadata": _metadata(proof, assessment.tool),
            "components": [_component(item) for item in items],
            "dependencies": list(_dependencies(items)),
            "compositions": list(_compositions(items)),
        }
    )


def _metadata(proof: Proof, tool: tuple[str, str]) -> dict[str, Any]:
    statement, inventory = proof.bundle.statement, proof.inventory
    facts = {"stream": statement.stream, "serial": str(statement.serial), "target:platform": inventory.platform or UNKNOWN}
    facts |= {"lock:sha256": inventory.lock_sha256 or UNKNOWN, "madeBy": statement.tool}
    return {
        "timestamp": canonical.stamp(statement.created),
        "lifecycles": [{"phase": "post-build"}],
        "tools": {"components": [{"type": "application", "name": tool[0], "version": tool[1]}]},
        "component": {
            "bom-ref": BUNDLE,
            "type": "application",
            "name": inventory.name or UNKNOWN,
            "version": str(statement.serial),
            "hashes": _hashes(proof.bundle.digest.hex),
            "properties": _properties(facts),
        },
    }


def _component(item: Item) -> dict[str, Any]:
    found: dict[str, Any] = {
        "bom-ref": item.ref,
        "type": TYPES[item.what],
        "name": item.name,
        "properties": _properties(_facts(item)),
    }
    if item.sha256:
        found["hashes"] = _hashes(item.sha256)
    if item.version:
        found["version"] = item.version
    if item.purl:
        found["purl"] = item.purl
    if item.producer:
        found["manufacturer"] = {"name": item.producer}
    if item.licences:
        found["licenses"] = _licences(item.licences)
    if item.origin and item.origin != LOCAL:
        found["externalReferences"] = [{"type": "distribution", "url": url} for url in item.origin.split(", ")]
    if item.what == "model":
        found["modelCard"] = _model_card(item)
    if item.files and item.what != "file":
        found["components"] = [_file(item, file) for file in item.files[:MAX_FILES]]
    return found


def _facts(item: Item) -> dict[str, str]:
    facts = {
        "component": item.component,
        "kind": item.kind,
        "bytes": "" if item.size is None else str(item.size),
        "coverage": item.coverage.reading,
        "coverage:reason": item.coverage.reason,
        "sha256:of": _hashed(item),
        "origin": item.origin or UNKNOWN,
    }
    facts |= {"role": item.role or "", "path": item.path or (item.files[0].path if item.what == "file" else "")}
    facts |= {f"fact:{key}": text for key, text in item.facts}
    if len(item.files) > MAX_FILES:
        facts["files:notListed"] = str(len(item.files) - MAX_FILES)
    for key, known in (("licence", item.licences), ("producer", item.producer), ("version", item.version), ("purl", item.purl)):
        if not known:
            facts[key] = UNKNOWN
    for at, licence in enumerate(item.licences):
        facts[f"licence:{at}:source"] = licence.source
    return facts


def _hashed(item: Item) -> str:
    """Say what the digest is of; a tree has no bytes of its own: its digest is that of the manifest that lists those of its files."""
    if item.sha256 is None:
        return ""
    return "file" if item.what in {"file", "package"} else "OCI manifest"


def _licences(stated: tuple[Licence, ...]) -> list[dict[str, Any]]:
    if len(stated) == 1 and (compound := licences.expression(stated[0].text)):
        return [{"expression": compound, "acknowledgement": "declared"}]
    listed = {licences.identifier(licence.text) or licence.text: licences.identifier(licence.text) is not None for licence in stated}
    return [{"license": {"id" if known else "name": text, "acknowledgement": "declared"}} for text, known in sorted(listed.items())]


def _model_card(item: Item) -> dict[str, Any]:
    facts = dict(item.facts)
    fields = {"task": "pipeline_tag", "architectureFamily": "model_type", "modelArchitecture": "architectures"}
    stated = {ours: facts[theirs] for ours, theirs in fields.items() if facts.get(theirs)}
    return {"modelParameters": stated} if stated else {"properties": _properties({"modelCard": UNKNOWN})}


def _file(item: Item, file: File) -> dict[str, Any]:
    return {
        "bom-ref": f"{item.ref}#{file.path}",
        "type": "file",
        "name": file.path,
        "hashes": _hashes(file.sha256),
        "properties": _properties({"bytes": str(file.size)}),
    }


def _dependencies(items: list[Item]) -> Iterator[dict[str, Any]]:
    wholes = {item.component: item.ref for item in items if item.path is None}
    yield {"ref": BUNDLE, "dependsOn": list(wholes.values())}
    parts: dict[str, list[str]] = {}
    for item in items:
        if item.path is not None:
            parts.setdefault(item.inside or wholes[item.component], []).append(item.ref)
    yield from ({"ref": ref, "dependsOn": parts[ref]} for ref in sorted(parts))


def _compositions(items: list[Item]) -> Iterator[dict[str, Any]]:
    """Say what is complete: the bundle as a list of components, files of trees; and what is not: images, packages' needs.

    What is inside an image is never called complete: files that no package database lists lie there too.
    """
    opened = [item for item in items if item.coverage.reading in {"read", "listed"} and item.path is None and item.what != "image"]
    whole = [item.ref for item in opened if len(item.files) <= MAX_FILES]
    yield {"aggregate": "complete", "assemblies": [BUNDLE, *whole], "dependencies": [BUNDLE]}
    rest = [item.ref for item in items if item.path is None and item.ref not in set(whole)]
    if rest:
        yield {"aggregate": "incomplete", "assemblies": rest, "dependencies": rest}
    packages = [item.ref for item in items if item.path is not None]
    if packages:
        yield {"aggregate": "unknown", "assemblies": packages, "dependencies": packages}


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def _properties(facts: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": f"airgap:{key}", "value": value} for key, value in sorted(facts.items()) if value]
