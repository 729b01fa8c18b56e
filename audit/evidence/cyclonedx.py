"""The SBOM: CycloneDX 1.6 JSON (ECMA-424), or 1.7, written by hand so that models, files and completeness can be said.

Rules: a function of the bundle, its author and this tool's version only - no clock, no random number, no policy - and sorted, so that the
same bundle always has the same SBOM; the schema and rules beyond it (``semantics``) are tests; no vulnerability data (BSI TR-03183-2).
What is unknown is said: in ``airgap:`` properties, and in ``compositions``. A component without an entry in ``dependencies`` has unknown
dependencies, as the standard says.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, Literal

from audit.evidence import addresses, licences
from audit.evidence.assessment import Assessment, Proof
from audit.evidence.item import LOCAL, File, Item, Licence
from audit.evidence.semantics import is_purl
from audit.evidence.verification import MAX_FILES
from manifests import canonical
from manifests.errors import UsageError

BUNDLE = "bundle"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://airgap-bundler.dev/bundle/v1")
TYPES = {"model": "machine-learning-model", "package": "library", "image": "container", "file": "file", "files": "data"}
UNKNOWN = "unknown"
NO_AUTHOR = "the site names no verifier: `verifier` in site.yaml, or `--key`"
IMAGE = ".oci"
BSI = ("executable", "archive", "structured")
DEPLOYABLE = {  # of the kinds of file that tell it by what they are
    ".whl": ("non-executable", "archive", "structured"),
    ".deb": ("non-executable", "archive", "structured"),
    ".tgz": ("non-executable", "archive", "unstructured"),
    ".tar.gz": ("non-executable", "archive", "unstructured"),
    ".zip": ("non-executable", "archive", "structured"),
    ".json": ("non-executable", "no archive", "structured"),
    ".txt": ("non-executable", "no archive", "unstructured"),
    ".md": ("non-executable", "no archive", "unstructured"),
    IMAGE: ("executable", "archive", "structured"),
}
Version = Literal["1.6", "1.7"]


def cyclonedx(assessment: Assessment, version: Version = "1.6", author: str | None = None) -> bytes:
    """Return the SBOM of a proved bundle; raises UsageError for a refused one, of which nothing is claimed.

    ``author`` is the URI of who makes it: the verifier of the site, None if the site named none.
    """
    if assessment.proof is None:
        raise UsageError(f"{assessment.place}: refused, so there is no SBOM of it", hint="get a bundle that can be proved")
    return canonical.readable(document(assessment.proof, assessment.tool, version, author))


def document(proof: Proof, tool: tuple[str, str], version: Version = "1.6", author: str | None = None) -> dict[str, Any]:
    """Return the SBOM as plain values."""
    items = sorted(proof.inventory.items, key=lambda item: item.ref)
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{version}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": version,
        "serialNumber": uuid.uuid5(NAMESPACE, str(proof.bundle.digest)).urn,
        "version": 1,
        "metadata": _metadata(proof, tool, author),
        "components": [_component(item, version) for item in items],
        "dependencies": list(_dependencies(items)),
        "compositions": list(_compositions(items)),
    }


def _metadata(proof: Proof, tool: tuple[str, str], author: str | None) -> dict[str, Any]:
    statement, inventory = proof.bundle.statement, proof.inventory
    facts = {"stream": statement.stream, "serial": str(statement.serial), "target:platform": inventory.platform or UNKNOWN}
    facts |= {"lock:sha256": inventory.lock_sha256 or UNKNOWN, "madeBy": statement.tool}
    made_by: dict[str, Any] = {"properties": _properties({"author": UNKNOWN, "author:reason": NO_AUTHOR})}
    if author:
        made_by = {"manufacturer": _party(author, author)}
    return {
        **made_by,
        "timestamp": canonical.stamp(statement.created),
        "lifecycles": [{"phase": "post-build"}],
        "tools": {"components": [{"type": "application", "name": tool[0], "version": tool[1]}]},
        "component": {
            "bom-ref": BUNDLE,
            "type": "application",
            "name": inventory.name or UNKNOWN,
            "version": str(statement.serial),
            "hashes": _hashes(proof.bundle.digest.hex, None),
            "properties": _properties(facts),
        },
    }


def _component(item: Item, version: Version) -> dict[str, Any]:
    found: dict[str, Any] = {
        "bom-ref": item.ref,
        "type": TYPES[item.what],
        "name": item.name,
        "properties": _properties(_facts(item)) + _deployable(item),
    }
    if item.sha256:
        found["hashes"] = _hashes(item.sha256, item.sha512)
    if item.version:
        found["version"] = item.version
    if item.purl and is_purl(item.purl):
        found["purl"] = item.purl
    if item.producer:
        found["manufacturer"] = _party(item.producer, item.contact)
    if item.licences or item.concluded:
        found["licenses"] = _licences(item.licences, item.concluded if version == "1.7" or not _expressed(item.licences) else ())
    if item.origin and item.origin != LOCAL:
        found["externalReferences"] = [{"type": "distribution", "url": url} for url in item.origin.split(", ")]
    if item.what == "model":
        found["modelCard"] = _model_card(item)
        found |= _pedigree(item)
    if item.files and item.what != "file":
        found["components"] = [_file(item, file) for file in item.files[:MAX_FILES]]
    return found


def _party(name: str, contact: str | None) -> dict[str, Any]:
    mail, url = addresses.mail(contact), addresses.url(contact)
    return {"name": name} | ({"contact": [{"email": mail}]} if mail else {}) | ({"url": [url]} if url else {})


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
    contact = item.producer and (addresses.url(item.contact) or addresses.mail(item.contact))
    known = {"licence": item.licences or item.concluded, "producer": item.producer, "contact": contact, "version": item.version}
    known |= {"purl": item.purl, "hash": item.sha256, "sha512": item.sha512, "revision": item.revision}
    if item.what == "model":
        stated = dict(item.facts)
        known |= {"task": stated.get("pipeline_tag"), "architecture": stated.get("architectures") or stated.get("model_type")}
        known |= {"base": stated.get("base_model"), "datasets": stated.get("datasets")}
    for key, there in known.items():
        if not there:
            facts[key] = UNKNOWN
            facts[f"{key}:reason"] = _why(item, key)
    if item.revision:
        facts["revision"] = item.revision
    for at, licence in enumerate(item.licences):
        facts[f"licence:{at}:source"] = licence.source
    return facts


def _hashed(item: Item) -> str:
    """Say what the digest is of; a tree has no bytes of its own: its digest is that of the manifest that lists those of its files."""
    if item.sha256 is None:
        return ""
    return "file" if item.what in {"file", "package"} else "OCI manifest"


def _why(item: Item, key: str) -> str:
    """Return why a field is unknown, where there is more to say than that nobody stated it."""
    if item.coverage.reading == "unreadable":
        return f"could not be read: {item.coverage.reason}"
    if key in {"hash", "sha512"} and item.what == "package" and item.sha256 is None:
        return "a package inside an image is installed files, not a file of its own"
    if key == "sha512" and item.what in {"model", "files", "image"}:
        return "its own digest is that of the manifest that lists its files; theirs stand beside each"
    if item.origin == LOCAL and item.what in {"file", "files"}:
        return "local files of whoever made the bundle; nothing in them was asked"
    return ""


def _expressed(stated: tuple[Licence, ...]) -> bool:
    """Say whether what is declared can be read by programs as it stands."""
    return bool(stated) and all(licences.identifier(one.text) or licences.expression(one.text) for one in stated)


def _licences(declared: tuple[Licence, ...], concluded: tuple[Licence, ...]) -> list[dict[str, Any]]:
    """Return what was stated; 1.6 has room for one expression alone, 1.7 for several beside each other."""
    if len(declared) == 1 and not concluded and (compound := licences.expression(declared[0].text)):
        return [{"expression": compound, "acknowledgement": "declared"}]
    if not declared and len(concluded) == 1 and (compound := licences.expression(concluded[0].text)):
        return [{"expression": compound, "acknowledgement": "concluded"}]
    found = {(_listed(licence.text), word) for word, stated in (("declared", declared), ("concluded", concluded)) for licence in stated}
    return [{"license": {key: text, "acknowledgement": word}} for (text, key), word in sorted(found)]


def _listed(text: str) -> tuple[str, str]:
    """Return a licence and whether it is an identifier of the SPDX list or a name."""
    known = licences.identifier(text)
    return (known, "id") if known else (text, "name")


def _deployable(item: Item) -> list[dict[str, str]]:
    """Return what BSI TR-03183-2 asks about the file that is deployed, as far as its kind tells, else that it is unknown."""
    name = item.path.rsplit("/", 1)[-1] if item.path and item.inside is None else item.files[0].path if item.what == "file" else ""
    ending = next((ending for ending in DEPLOYABLE if name.endswith(ending)), "" if item.what != "image" else IMAGE)
    told = dict(zip(BSI, DEPLOYABLE[ending], strict=True)) if ending in DEPLOYABLE else {}
    if name:
        told["filename"] = name
    listed = [{"name": f"bsi:component:{key}", "value": value} for key, value in sorted(told.items())]
    reason = "several files" if item.what in {"model", "files", "image"} else "not told by the kind of file"
    unknown = {f"bsi:{key}": UNKNOWN for key in ("filename", *BSI) if key not in told}
    return listed + _properties(unknown | {f"{key}:reason": reason for key in unknown})


def _pedigree(item: Item) -> dict[str, Any]:
    """Return what a model was made from, as its card states it, else that this is unknown."""
    base = dict(item.facts).get("base_model")
    return {"pedigree": {"ancestors": [{"type": TYPES["model"], "name": base}]}} if base else {}


def _model_card(item: Item) -> dict[str, Any]:
    facts = dict(item.facts)
    fields = {"task": "pipeline_tag", "architectureFamily": "model_type", "modelArchitecture": "architectures"}
    stated: dict[str, Any] = {ours: facts[theirs] for ours, theirs in fields.items() if facts.get(theirs)}
    if facts.get("datasets"):
        stated["datasets"] = [{"type": "dataset", "name": name} for name in facts["datasets"].split(", ")]
    return {"modelParameters": stated} if stated else {"properties": _properties({"modelCard": UNKNOWN})}


def _file(item: Item, file: File) -> dict[str, Any]:
    return {
        "bom-ref": f"{item.ref}#{file.path}",
        "type": "file",
        "name": file.path,
        "hashes": _hashes(file.sha256, file.sha512),
        "properties": _properties({"bytes": str(file.size)}),
    }


def _dependencies(items: list[Item]) -> Iterator[dict[str, Any]]:
    """Yield what holds what, and what needs what as far as it is known."""
    wholes = {item.component: item.ref for item in items if item.path is None and item.inside is None}
    yield {"ref": BUNDLE, "dependsOn": sorted(wholes.values())}
    needed: dict[str, set[str]] = {item.ref: set(item.requires) for item in items if item.requires is not None}
    for item in items:
        holder = item.inside or wholes[item.component]
        if holder != item.ref:
            needed.setdefault(holder, set()).add(item.ref)
    yield from ({"ref": ref, "dependsOn": sorted(refs)} for ref, refs in sorted(needed.items()))


def _compositions(items: list[Item]) -> Iterator[dict[str, Any]]:
    """Say what is complete: the bundle as a list of components, files of trees, what states its needs; and what is not.

    What is inside an image is never called complete: files that no package database lists lie there too.
    """
    opened = [item for item in items if item.coverage.reading in {"read", "listed"} and item.path is None and item.what != "image"]
    whole = {item.ref for item in opened if len(item.files) <= MAX_FILES}
    images = {item.ref for item in items if item.what == "image"}
    stated = {item.ref for item in items if item.requires is not None} - images
    yield {"aggregate": "complete", "assemblies": [BUNDLE, *sorted(whole)], "dependencies": [BUNDLE, *sorted(stated)]}
    rest = {item.ref for item in items if item.path is None} - whole
    if rest | images:
        yield {"aggregate": "incomplete", "assemblies": sorted(rest), "dependencies": sorted(images)}
    packages = {item.ref for item in items if item.path is not None} - images
    unknown = {item.ref for item in items} - stated - images
    if packages | unknown:
        yield {"aggregate": "unknown", "assemblies": sorted(packages), "dependencies": sorted(unknown)}


def _hashes(sha256: str, sha512: str | None) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}, *([{"alg": "SHA-512", "content": sha512}] if sha512 else [])]


def _properties(facts: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": f"airgap:{key}", "value": value} for key, value in sorted(facts.items()) if value]
