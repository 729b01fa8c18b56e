"""The SBOM as SPDX 3.0.1 in JSON-LD, with the software, AI and simple licensing profiles.

Rules: a function of the bundle, its author and this tool's version, sorted, so that the same bundle always has the same SBOM; every
identifier is a UUIDv5 URN, so that nothing claims a domain. What is unknown is an individual of the standard (NoAssertion), and what is
known to be nothing is another (None): an empty list says neither. A profile is claimed only where everything it asks for is there.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from audit.evidence import addresses, licences
from audit.evidence.assessment import Assessment, Proof
from audit.evidence.item import LOCAL, File, Item, Licence
from audit.evidence.semantics import is_purl
from audit.evidence.verification import MAX_FILES
from manifests import canonical
from manifests.errors import UsageError
from manifests.paths import printable

CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
VERSION = "3.0.1"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://airgap-bundler.dev/spdx3/v1")
CREATION = "_:creation"
UNKNOWN_ELEMENT, NO_ELEMENT, UNKNOWN_LICENCE = "NoAssertionElement", "NoneElement", "expandedlicensing_NoAssertionLicense"
PURPOSES = {"model": "model", "image": "container", "package": "library", "file": "file", "files": "data"}
MAX_TEXT = 2000  # characters of a text of strangers
Element = dict[str, Any]


class _Graph:
    """The elements of one document, each added once; identifiers hang on the bundle and on what an element is of."""

    def __init__(self, bundle: str) -> None:
        self.bundle = bundle
        self.elements: dict[str, Element] = {}

    def id(self, *what: str) -> str:
        return uuid.uuid5(NAMESPACE, "\0".join((self.bundle, *what))).urn

    def add(self, kind: str, *what: str, **fields: Any) -> str:
        """Add an element of class ``kind``; returns its identifier."""
        name = self.id(kind, *what)
        if name not in self.elements:
            said = {key: value for key, value in fields.items() if value not in (None, "", [], ())}
            self.elements[name] = {"type": kind, "spdxId": name, "creationInfo": CREATION, **said}
        return name

    def relate(self, source: str, relation: str, to: Iterable[str], completeness: str | None = None) -> None:
        """Add a relationship from one element to others."""
        targets = sorted(to)
        before = self.elements.get(self.id("Relationship", source, relation))
        if before:
            before["to"] = sorted({*before["to"], *targets})
            return
        self.add("Relationship", source, relation, relationshipType=relation, to=targets, completeness=completeness, **{"from": source})


def spdx3(assessment: Assessment, author: str | None = None) -> bytes:
    """Return the SBOM of a proved bundle; raises UsageError for a refused one, of which nothing is claimed.

    ``author`` is the URI of who makes it: the verifier of the site, None if the site named none.
    """
    proof = assessment.proof
    if proof is None:
        raise UsageError(f"{assessment.place}: refused, so there is no SBOM of it", hint="get a bundle that can be proved")
    graph = _Graph(str(proof.bundle.digest))
    name, version = assessment.tool
    if author:
        known = [{"type": "ExternalIdentifier", "externalIdentifierType": "urlScheme", "identifier": author}]
        agent = graph.add("Organization", author, "", name=_text(author), externalIdentifier=known if addresses.url(author) else None)
    else:
        agent = graph.add("SoftwareAgent", "agent", name=f"{name} {version}")
    tool = graph.add("Tool", "tool", name=f"{name} {version}")
    root = _bundle(graph, proof, agent)
    refs = {item.ref: _item(graph, item) for item in proof.inventory.items}
    _contents(graph, root, proof.inventory.items, refs)
    _requirements(graph, proof.inventory.items, refs)
    document = _document(graph, proof, root)
    creation = {
        "type": "CreationInfo",
        "@id": CREATION,
        "specVersion": VERSION,
        "created": canonical.stamp(proof.bundle.statement.created),
        "createdBy": [agent],
        "createdUsing": [tool],
    }
    elements = sorted(graph.elements.values(), key=lambda element: (element["spdxId"] != document, element["type"], element["spdxId"]))
    return canonical.readable({"@context": CONTEXT, "@graph": [creation, *elements]})


def _document(graph: _Graph, proof: Proof, root: str) -> str:
    members = sorted(graph.elements)
    sbom = graph.add("software_Sbom", "sbom", software_sbomType=["analyzed"], rootElement=[root], element=members)
    profiles = ["core", "simpleLicensing", "software"]
    if _ai_is_whole(graph):
        profiles.insert(0, "ai")
    licence = graph.add("simplelicensing_LicenseExpression", "CC0-1.0", simplelicensing_licenseExpression="CC0-1.0")
    return graph.add(
        "SpdxDocument",
        "document",
        name=f"{proof.inventory.name or 'bundle'} {proof.bundle.statement.serial}",
        rootElement=[sbom],
        element=[*members, sbom, licence],
        profileConformance=profiles,
        dataLicense=licence,
    )


def _ai_is_whole(graph: _Graph) -> bool:
    """Say whether every model states what the AI profile asks of one."""
    needed = {"suppliedBy", "software_downloadLocation", "software_packageVersion", "software_primaryPurpose", "releaseTime"}
    models = [element for element in graph.elements.values() if element["type"] == "ai_AIPackage"]
    return bool(models) and all(needed <= element.keys() for element in models)


def _bundle(graph: _Graph, proof: Proof, agent: str) -> str:
    said = proof.bundle.statement
    return graph.add(
        "software_Package",
        "bundle",
        name=proof.inventory.name or "bundle",
        summary=f"offline bundle of stream {said.stream}, made with {printable(said.tool, 200)}",
        originatedBy=[agent],
        software_packageVersion=str(said.serial),
        software_primaryPurpose="archive",
        software_additionalPurpose=["container"],
        software_copyrightText="NOASSERTION",
        verifiedUsing=_hashes(proof.bundle.digest.hex, None),
    )


def _item(graph: _Graph, item: Item) -> str:
    kind = {"model": "ai_AIPackage", "file": "software_File"}.get(item.what, "software_Package")
    fields: dict[str, Any] = {
        "name": _text(item.name),
        "comment": _comment(item),
        "software_primaryPurpose": "operatingSystem" if item.kind == "system" else PURPOSES[item.what],
        "software_copyrightText": "NOASSERTION",
        "verifiedUsing": _hashes(item.sha256, item.sha512) if item.sha256 else None,
    }
    producer = _producer(graph, item)
    fields |= {"suppliedBy": producer, "originatedBy": [producer] if producer else None}
    if kind != "software_File":
        fields |= _as_package(item)
    if item.what == "model":
        fields |= _as_model(item)
    name = graph.add(kind, item.ref, **fields)
    _licensed(graph, item, name)
    if item.files and item.what != "file":
        _files(graph, item, name)
    return name


def _as_package(item: Item) -> dict[str, Any]:
    origin = item.origin.split(", ")[0] if item.origin and item.origin != LOCAL else None
    return {
        "software_packageVersion": _text(item.version) if item.version else None,
        "software_packageUrl": item.purl if item.purl and is_purl(item.purl) else None,
        "software_downloadLocation": addresses.url(origin),
        "software_homePage": addresses.url(item.contact),
        "software_sourceInfo": f"made from {_text(item.revision)}" if item.revision else None,
        "software_additionalPurpose": ["archive"] if item.what == "package" and item.sha256 else None,
    }


def _as_model(item: Item) -> dict[str, Any]:
    facts = dict(item.facts)
    kinds = [facts[key] for key in ("architectures", "model_type") if facts.get(key)]
    further = {key: text for key, text in item.facts if key not in {"architectures", "model_type", "pipeline_tag"}}
    entries = [{"type": "DictionaryEntry", "key": key, "value": _text(text)} for key, text in sorted(further.items())]
    return {
        "ai_typeOfModel": sorted({_text(kind) for kind in kinds}),
        "ai_domain": [_text(facts["pipeline_tag"])] if facts.get("pipeline_tag") else None,
        "ai_hyperparameter": entries,
    }


def _comment(item: Item) -> str:
    reason = f": {_text(item.coverage.reason)}" if item.coverage.reason else ""
    unknown = [word for word, known in (("version", item.version), ("supplier", item.producer), ("purl", item.purl)) if not known]
    missing = f"; unknown: {', '.join(unknown)}" if unknown else ""
    return f"component {item.component}, {item.coverage.reading}{reason}{missing}"


def _producer(graph: _Graph, item: Item) -> str | None:
    if not item.producer:
        return None
    mail, url = addresses.mail(item.contact), addresses.url(item.contact)
    known = [("email", mail)] if mail else [("urlScheme", url)] if url else []
    listed = [{"type": "ExternalIdentifier", "externalIdentifierType": kind, "identifier": text} for kind, text in known]
    name = _text(item.producer)
    return graph.add("Organization", name, item.contact or "", name=name, externalIdentifier=listed)


def _licensed(graph: _Graph, item: Item, name: str) -> None:
    for relation, stated in (("hasDeclaredLicense", item.licences), ("hasConcludedLicense", item.concluded)):
        found = sorted({_licence(graph, licence) for licence in stated})
        graph.relate(name, relation, found or [UNKNOWN_LICENCE], None if found else "noAssertion")


def _licence(graph: _Graph, stated: Licence) -> str:
    text = licences.expression(stated.text) or licences.identifier(stated.text)
    if text:
        return graph.add("simplelicensing_LicenseExpression", text, simplelicensing_licenseExpression=text)
    said = _text(stated.text) or "empty"
    return graph.add("simplelicensing_SimpleLicensingText", said, simplelicensing_licenseText=said, comment="as stated; no SPDX expression")


def _files(graph: _Graph, item: Item, name: str) -> None:
    listed = [_file(graph, item, file) for file in item.files[:MAX_FILES]]
    graph.relate(name, "contains", listed, "complete" if len(item.files) <= MAX_FILES else "incomplete")


def _file(graph: _Graph, item: Item, file: File) -> str:
    return graph.add(
        "software_File",
        item.ref,
        file.path,
        name=_text(file.path),
        software_primaryPurpose="file",
        software_copyrightText="NOASSERTION",
        verifiedUsing=_hashes(file.sha256, file.sha512),
    )


def _contents(graph: _Graph, root: str, items: tuple[Item, ...], refs: dict[str, str]) -> None:
    """Say what lies in what. The list of components is complete; what lies in an image may be more than a package database lists."""
    wholes = {item.component: item for item in items if item.path is None and item.inside is None}
    graph.relate(root, "contains", [refs[item.ref] for item in wholes.values()], "complete")
    inside: dict[str, list[str]] = {}
    for item in items:
        if item.ref != wholes[item.component].ref:
            inside.setdefault(item.inside or wholes[item.component].ref, []).append(refs[item.ref])
    listed = {item.ref for item in items if item.what not in {"image", "model"} and len(item.files) <= MAX_FILES}
    for ref, members in inside.items():
        graph.relate(refs[ref], "contains", members, "complete" if ref in listed else "incomplete")


def _requirements(graph: _Graph, items: tuple[Item, ...], refs: dict[str, str]) -> None:
    for item in items:
        source = refs[item.ref]
        if item.requires is None:
            graph.relate(source, "dependsOn", [UNKNOWN_ELEMENT], "noAssertion")
        else:
            graph.relate(source, "dependsOn", [refs[ref] for ref in item.requires] or [NO_ELEMENT], "complete")


def _hashes(sha256: str, sha512: str | None) -> list[Element]:
    known = [("sha256", sha256), *([("sha512", sha512)] if sha512 else [])]
    return [{"type": "Hash", "algorithm": algorithm, "hashValue": value} for algorithm, value in known]


def _text(text: str) -> str:
    return printable(text, MAX_TEXT)
