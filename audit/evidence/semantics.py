"""What breaks CycloneDX without breaking its schema: rules over a document that is schema-valid.

The rules, by the name a breach carries:

- ``duplicate-ref``: a ``bom-ref`` stands twice; ``duplicate-dependency``: two entries of ``dependencies`` are for one component;
- ``dangling-ref``: a dependency, composition or data set names a ``bom-ref`` that is nowhere; links into other documents are not followed;
- ``purl``: not a package URL. The library's strict mode is not used: it asks a namespace of ``huggingface`` names, and some have none;
- ``licence``: not an SPDX licence expression of listed identifiers and ``LicenseRef-`` names;
- ``hash``: a digest has not the length of its algorithm;
- ``version``: ``specVersion`` is unknown, not the one expected, or not that of ``$schema``.

Dependencies in a circle are allowed: packages do that. Pure, and linear in the size of the document.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from license_expression import ExpressionError, Licensing, get_spdx_licensing
from packageurl import PackageURL

VERSIONS = ("1.6", "1.7")
HEX_LENGTHS = {
    "MD5": 32, "SHA-1": 40, "SHA-256": 64, "SHA-384": 96, "SHA-512": 128, "SHA3-256": 64, "SHA3-384": 96, "SHA3-512": 128,
    "BLAKE2b-256": 64, "BLAKE2b-384": 96, "BLAKE2b-512": 128, "Streebog-256": 64, "Streebog-512": 128,
}  # fmt: skip
MAX_EXPRESSION = 4000  # characters; the parser is not linear
_ELSEWHERE = "urn:cdx:"
_REFERENCE = re.compile(r"(?:DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+")
_NOT_SPDX = frozenset({"NONE", "NOASSERTION"})


class Breach(NamedTuple):
    """One breach: the rule, the ``bom-ref`` of the nearest thing that has one, and what is wrong."""

    rule: str
    ref: str
    message: str


def breaches(document: dict[str, Any], version: str | None = None) -> list[Breach]:
    """Return every breach in a CycloneDX document; ``version`` is the specVersion it should be of."""
    refs: Counter[str] = Counter()
    found = list(_version(document, version))
    for node, ref in _nodes(document):
        if "bom-ref" in node:
            refs[node["bom-ref"]] += 1
        found += _node(node, ref)
    found += [Breach("duplicate-ref", ref, f"stands {count} times") for ref, count in refs.items() if count > 1]
    entries = Counter(entry["ref"] for entry in document.get("dependencies", ()))
    found += [Breach("duplicate-dependency", ref, f"has {count} entries") for ref, count in entries.items() if count > 1]
    found += [Breach("dangling-ref", ref, f"{where} names it, and it is nowhere") for where, ref in _named(document) if ref not in refs]
    return found


def is_purl(text: str) -> bool:
    """Say whether ``text`` is a package URL."""
    try:
        PackageURL.from_string(text)
    except (ValueError, TypeError, AttributeError):  # the latter two are the library's own, for parts of which nothing is left
        return False
    return True


@functools.lru_cache(maxsize=4096)
def is_expression(text: str) -> bool:
    """Say whether ``text`` is an SPDX licence expression; names that SPDX does not list must be of the form ``LicenseRef-...``."""
    if not text.strip() or len(text) > MAX_EXPRESSION or text.strip().upper() in _NOT_SPDX:
        return False
    licensing = _licensing()
    try:
        parsed = licensing.parse(text, validate=False, strict=True)
        keys = licensing.license_keys(parsed)
        unknown = licensing.unknown_license_keys(parsed)
    except (ExpressionError, AttributeError, IndexError, TypeError, ValueError, RecursionError):
        return False  # only the first says why; the others are how the parser fails on half an expression
    return bool(keys) and all(_REFERENCE.fullmatch(key) for key in unknown)


@functools.cache
def _licensing() -> Licensing:
    return get_spdx_licensing()


def _version(document: dict[str, Any], expected: str | None) -> Iterator[Breach]:
    said, schema = document.get("specVersion"), document.get("$schema")
    if said not in VERSIONS:
        yield Breach("version", "", f"specVersion {said!r} is none of {', '.join(VERSIONS)}")
    if expected is not None and said != expected:
        yield Breach("version", "", f"specVersion is {said!r}, expected {expected!r}")
    if schema is not None and not str(schema).endswith(f"/bom-{said}.schema.json"):
        yield Breach("version", "", f"$schema {schema!r} is not that of specVersion {said!r}")


def _nodes(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield every object of the document with the nearest ``bom-ref`` above or in it; no recursion: nesting is the document's."""
    waiting: list[tuple[Any, str]] = [(document, "")]
    while waiting:
        node, ref = waiting.pop()
        if isinstance(node, dict):
            ref = node.get("bom-ref", ref)
            yield node, ref
            waiting += [(child, ref) for child in node.values() if isinstance(child, (dict, list))]
        else:
            waiting += [(child, ref) for child in node if isinstance(child, (dict, list))]


def _node(node: dict[str, Any], ref: str) -> Iterator[Breach]:
    if isinstance(node.get("purl"), str) and not is_purl(node["purl"]):
        yield Breach("purl", ref, f"{node['purl']!r} is no package URL")
    if isinstance(node.get("expression"), str) and not is_expression(node["expression"]):
        yield Breach("licence", ref, f"{node['expression']!r} is no SPDX expression")
    if "alg" in node and "content" in node and len(node["content"]) != HEX_LENGTHS.get(node["alg"], len(node["content"])):
        yield Breach("hash", ref, f"{len(node['content'])} digits are no {node['alg']}")


def _named(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for entry in document.get("dependencies", ()):
        for ref in (entry["ref"], *entry.get("dependsOn", ()), *entry.get("provides", ())):
            yield "dependencies", ref
    for entry in document.get("compositions", ()):
        for ref in (*entry.get("assemblies", ()), *entry.get("dependencies", ())):
            if not ref.startswith(_ELSEWHERE):
                yield "compositions", ref
    for node, _ in _nodes({"components": document.get("components", [])}):
        for data in node.get("modelParameters", {}).get("datasets", ()) if isinstance(node.get("modelParameters"), dict) else ():
            if "ref" in data and not data["ref"].startswith(_ELSEWHERE):
                yield "a model card", data["ref"]
