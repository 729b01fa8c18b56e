"""Three rule sets over CycloneDX documents.

- CISA, NSA, FBI, BSI, ANSSI and others: "2026 Minimum Elements for a Software Bill of Materials", 29 July 2026: 17 data fields;
- BSI TR-03183-2 v2.1.0, 20 August 2025: what it requires of the SBOM and of each component;
- G7: "SBOM for AI - minimum elements", 12 May 2026: seven clusters.

Rules: pure; for each field and each thing it is asked of, the answer is present, declared unknown, or missing, with the reason. Something
is declared unknown where the document says so: by a property ``airgap:<field>`` with the value ``unknown``, or by a composition.
Files listed inside a component are not asked: they are contents, named and hashed, and no components of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from audit.evidence import addresses
from audit.evidence.quality.result import MAX_GAPS, Answer, FieldScore, Gap, Score
from audit.evidence.semantics import is_expression, is_purl

Node = dict[str, Any]
Told = tuple[Answer, str]
UNKNOWN = "unknown"
MODEL = "machine-learning-model"
PRESENT: Told = ("present", "")
NOT_SIGNED = "this document was written without the site's key; with `--key` a signature over it stands beside it"
FILES = {"file", "data"}


@dataclass(frozen=True)
class Document:
    """A CycloneDX document with what is looked up often."""

    bom: Node
    signed: bool

    @cached_property
    def components(self) -> tuple[Node, ...]:
        """Return the components, not what they list as their files."""
        return tuple(self.bom.get("components", ()))

    @cached_property
    def metadata(self) -> Node:
        """Return the metadata."""
        return dict(self.bom.get("metadata", {}))

    @cached_property
    def edges(self) -> Mapping[str, Node]:
        """Return the entry of each component among the dependencies."""
        return {entry["ref"]: entry for entry in self.bom.get("dependencies", ())}

    @cached_property
    def aggregates(self) -> Mapping[str, str]:
        """Return how complete the dependencies of each component are said to be."""
        found = {}
        for entry in self.bom.get("compositions", ()):
            found.update(dict.fromkeys(entry.get("dependencies", ()), entry["aggregate"]))
        return found

    @cached_property
    def models(self) -> tuple[Node, ...]:
        """Return the components that are models."""
        return tuple(node for node in self.components if node["type"] == MODEL)


@dataclass(frozen=True, slots=True)
class Field:
    """One field: whom it is asked of, and how one of them answers."""

    id: str
    title: str
    asked: Callable[[Document], Iterable[Node]]
    answer: Callable[[Document, Node], Told]


def scores(bom: Node, *, signed: bool) -> tuple[Score, ...]:
    """Return the score of a document by each rule set; ``signed`` says whether a signature over it stands beside it."""
    document = Document(bom, signed)
    return tuple(
        Score(name, title, source, tuple(_score(document, field) for field in fields)) for name, title, source, fields in RULE_SETS
    )


def _score(document: Document, field: Field) -> FieldScore:
    counts = {"present": 0, "unknown": 0, "missing": 0}
    gaps: list[Gap] = []
    for node in field.asked(document):
        answer, reason = field.answer(document, node)
        counts[answer] += 1
        if answer != "present" and len(gaps) < MAX_GAPS:
            gaps.append(Gap(str(node.get("bom-ref", "")), answer == "unknown", reason))
    return FieldScore(field.id, field.title, counts["present"], counts["unknown"], counts["missing"], tuple(gaps))


def _whole(document: Document) -> Iterator[Node]:
    yield document.bom


def _each(document: Document) -> tuple[Node, ...]:
    return document.components


def _models(document: Document) -> tuple[Node, ...]:
    return document.models


def _facts(node: Node) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in node.get("properties", ())}


def _or_declared(node: Node, there: object, key: str, what: str) -> Told:
    """Return present if something is ``there``, else whether it is declared unknown under ``airgap:<key>``."""
    if there:
        return PRESENT
    facts = _facts(node)
    if facts.get(f"airgap:{key}") == UNKNOWN:
        return "unknown", facts.get(f"airgap:{key}:reason") or f"{what} is not stated where it comes from"
    return "missing", f"no {what}, and nothing says why"


def _head(what: str, found: Callable[[Document], object]) -> Callable[[Document, Node], Told]:
    """Return a rule about the document as a whole."""

    def answer(document: Document, _node: Node) -> Told:
        return PRESENT if found(document) else ("missing", f"no {what}")

    return answer


def _field(key: str, what: str, found: Callable[[Node], object]) -> Callable[[Document, Node], Told]:
    """Return a rule about one component, whose absence may be declared."""
    return lambda _document, node: _or_declared(node, found(node), key, what)


def _author(document: Document, _node: Node) -> Told:
    said = document.metadata
    return _or_declared(said, said.get("authors") or said.get("manufacturer"), "author", "author of the SBOM")


def _signature(document: Document, _node: Node) -> Told:
    return PRESENT if document.signed or document.bom.get("signature") else ("unknown", NOT_SIGNED)


def _tool(document: Document, key: str) -> object:
    tools = document.metadata.get("tools", {})
    listed = tools.get("components", ()) if isinstance(tools, dict) else tools
    return bool(listed) and all(tool.get(key) for tool in listed)


def _producer(node: Node) -> object:
    parties = [node.get("manufacturer", {}), node.get("supplier", {}), *node.get("authors", ())]
    return any(party.get("name") for party in parties) or node.get("publisher")


def _identified(node: Node) -> object:
    return (node.get("purl") and is_purl(node["purl"])) or node.get("cpe") or node.get("swid")


def _licensed(node: Node) -> object:
    return node.get("licenses")


def _related(document: Document, node: Node) -> Told:
    ref = node.get("bom-ref", "")
    if document.aggregates.get(ref) == UNKNOWN:
        return "unknown", "what it needs is not stated where it comes from, and the document says so"
    return PRESENT if ref in document.edges else ("missing", "no entry among the dependencies, and nothing says why")


def _complete(document: Document, node: Node) -> Told:
    aggregate = document.aggregates.get(node.get("bom-ref", ""))
    if aggregate is None:
        return "missing", "nothing says how complete its dependencies are"
    return PRESENT if aggregate != UNKNOWN else ("unknown", "declared: how complete they are is not known")


def _contact(node: Node) -> object:
    parties = [node.get("manufacturer", {}), node.get("supplier", {}), *node.get("authors", ())]
    mails = [party.get("email") for party in parties] + [entry.get("email") for party in parties for entry in party.get("contact", ())]
    urls = [url for party in parties for url in party.get("url", ())]
    return any(map(addresses.mail, mails)) or any(map(addresses.url, urls))


def _expressed(_document: Document, node: Node) -> Told:
    stated: dict[str, list[str]] = {}
    for entry in node.get("licenses", ()):
        one = entry.get("license", entry)
        stated.setdefault(one.get("acknowledgement", ""), []).append(entry.get("expression") or one.get("id", ""))
    if any(all(text and is_expression(text) for text in texts) for texts in stated.values()):
        return PRESENT  # as declared, or else as concluded
    if stated:
        return "missing", "stated in words that are no SPDX expression"
    return _or_declared(node, None, "licence", "licence")


def _strong(_document: Document, node: Node) -> Told:
    hashes = [*node.get("hashes", ()), *(entry for ref in node.get("externalReferences", ()) for entry in ref.get("hashes", ()))]
    if any(entry["alg"] == "SHA-512" for entry in hashes):
        return PRESENT
    return _or_declared(node, None, "sha512", "SHA-512 of a deployable file")


def _bsi(name: str) -> Callable[[Document, Node], Told]:
    return _field(f"bsi:{name}", name, lambda node: _facts(node).get(f"bsi:component:{name}"))


def _card(key: str, what: str, *names: str) -> Callable[[Document, Node], Told]:
    """Return a rule about a model: whether its card says something under any of ``names``."""

    def answer(_document: Document, node: Node) -> Told:
        said = node.get("modelCard", {}).get("modelParameters", {})
        return _or_declared(node, any(said.get(name) for name in names), key, what)

    return answer


def _declared_only(what: str) -> Callable[[Document, Node], Told]:
    """Return a rule about something that only a producer can say, and that no file of a model states in a form to rely on."""
    return lambda _document, _node: ("unknown", f"{what}: only the producer can say, and nothing that was read states it")


def _creator(document: Document, _node: Node) -> Told:
    return _or_declared(document.metadata, _contact(document.metadata), "author", "e-mail or URL of its author")


def _system(document: Document) -> Node:
    return dict(document.metadata.get("component", {}))


def _software(document: Document) -> object:
    return any(node["type"] not in FILES | {MODEL} for node in document.components)


def _platform(document: Document, _node: Node) -> Told:
    system = _system(document)
    return _or_declared(system, _facts(system).get("airgap:target:platform", UNKNOWN) != UNKNOWN, "target:platform", "target platform")


_architecture = _card("architecture", "architecture", "modelArchitecture", "architectureFamily")
_hash = _field("hash", "hash", lambda node: node.get("hashes"))
_licence = _field("licence", "licence", _licensed)
_made_by = _field("producer", "producer", _producer)
_version = _field("version", "version", lambda node: node.get("version"))
_identity = _field("purl", "identifier", _identified)

CISA = (
    Field("sbom-author", "SBOM author", _whole, _author),
    Field("sbom-author-signature", "SBOM author signature", _whole, _signature),
    Field("data-format-name", "Data format name", _whole, _head("format", lambda document: document.bom.get("bomFormat"))),
    Field("data-format-version", "Data format version", _whole, _head("version", lambda document: document.bom.get("specVersion"))),
    Field("generation-context", "Generation context", _whole, _head("lifecycle", lambda document: document.metadata.get("lifecycles"))),
    Field("timestamp", "Timestamp", _whole, _head("timestamp", lambda document: document.metadata.get("timestamp"))),
    Field("tool-name", "Tool name", _whole, _head("tool", lambda document: _tool(document, "name"))),
    Field("tool-version", "Tool version", _whole, _head("version of the tool", lambda document: _tool(document, "version"))),
    Field(
        "sbom-version",
        "SBOM version",
        _whole,
        _head("serial number and version", lambda document: document.bom.get("serialNumber") and document.bom.get("version")),
    ),
    Field("component-producer", "Component producer", _each, _made_by),
    Field("component-name", "Component name", _each, _field("name", "name", lambda node: node.get("name"))),
    Field("component-version", "Component version", _each, _version),
    Field("component-identifiers", "Component identifiers", _each, _identity),
    Field("component-hash-value", "Component hash value", _each, _hash),
    Field("component-hash-algorithm", "Component hash algorithm", _each, _hash),
    Field("component-licence", "Component licence", _each, _licence),
    Field("dependency-relationship", "Dependency relationship", _each, _related),
)
BSI = (
    Field("sbom-creator", "Creator of the SBOM, by e-mail or URL", _whole, _creator),
    Field("sbom-timestamp", "Timestamp of the SBOM", _whole, _head("timestamp", lambda document: document.metadata.get("timestamp"))),
    Field("component-creator", "Creator, by e-mail or URL", _each, _field("contact", "e-mail or URL of its creator", _contact)),
    Field("component-name", "Name", _each, _field("name", "name", lambda node: node.get("name"))),
    Field("component-version", "Version", _each, _version),
    Field("filename", "File name", _each, _bsi("filename")),
    Field("dependencies", "Dependencies", _each, _related),
    Field("dependency-completeness", "Completeness of dependencies", _each, _complete),
    Field("licence", "Distribution licence as an SPDX expression", _each, _expressed),
    Field("sha512", "SHA-512 of the deployable file", _each, _strong),
    Field("executable", "Executable property", _each, _bsi("executable")),
    Field("archive", "Archive property", _each, _bsi("archive")),
    Field("structured", "Structured property", _each, _bsi("structured")),
    Field("other-identifiers", "Other unique identifiers", _each, _identity),
)
G7 = (
    Field("metadata-author", "Metadata: author", _whole, _author),
    Field("metadata-signature", "Metadata: signature", _whole, _signature),
    Field("metadata-timestamp", "Metadata: timestamp", _whole, _head("timestamp", lambda document: document.metadata.get("timestamp"))),
    Field("metadata-tool", "Metadata: tool and version", _whole, _head("tool", lambda document: _tool(document, "version"))),
    Field("system-name", "System: name and version", _whole, _head("name", lambda document: _system(document).get("version"))),
    Field("system-components", "System: components and their relations", _whole, _head("dependencies", lambda document: document.edges)),
    Field("system-use", "System: intended use", _whole, _declared_only("the intended use")),
    Field("model-name", "Models: name", _models, _field("name", "name", lambda node: node.get("name"))),
    Field("model-version", "Models: version", _models, _version),
    Field("model-producer", "Models: producer", _models, _made_by),
    Field("model-identifier", "Models: identifier", _models, _identity),
    Field("model-hash", "Models: hash", _models, _hash),
    Field("model-licence", "Models: licence", _models, _licence),
    Field("model-architecture", "Models: architecture", _models, _architecture),
    Field("model-task", "Models: task", _models, _card("task", "task", "task")),
    Field("model-base", "Models: what it was made from", _models, _field("base", "base model", lambda node: node.get("pedigree"))),
    Field("dataset", "Dataset properties", _models, _card("datasets", "datasets", "datasets")),
    Field("infrastructure-software", "Infrastructure: software", _whole, _head("software", _software)),
    Field("infrastructure-hardware", "Infrastructure: target platform", _whole, _platform),
    Field("security-digest", "Security: digest of the signed whole", _whole, _head("digest", lambda d: _system(d).get("hashes"))),
    Field("kpi", "Key performance indicators", _models, _declared_only("measured performance")),
)
RULE_SETS = (
    ("cisa-2026", "CISA minimum elements 2026", "2026 Minimum Elements for a Software Bill of Materials, 29 July 2026", CISA),
    ("bsi-tr-03183-2", "BSI TR-03183-2 v2.1.0", "Technical Guideline TR-03183-2, version 2.1.0, 20 August 2025", BSI),
    ("g7-sbom-for-ai", "G7 SBOM for AI", "SBOM for AI - minimum elements, G7 cybersecurity working group, 12 May 2026", G7),
)
