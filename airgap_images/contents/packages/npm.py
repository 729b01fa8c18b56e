"""Node packages: every ``package.json`` that states a name, with or without a version; below ``node_modules`` it owns its folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from airgap_images.contents.packages.package import MAX_FIELD, Gap, Package, Release, Text, make_purl, party

KIND = "npm"
MAX_FILE = 4 << 20  # bytes
MAX_NEEDS = 5_000  # of one package
_INSTALLED = re.compile(r"(?:.*/)?node_modules/(?:@[^/]+/)?[^/@.][^/]*/package\.json")


def limit(path: str, name: str) -> int:  # noqa: ARG001
    """Return how many bytes of a file may be kept."""
    return MAX_FILE if name == "package.json" else 0


def packages(files: Mapping[str, Text], release: Release) -> Iterator[Package | Gap]:  # noqa: ARG001
    """Yield the packages; a damaged ``package.json`` is a gap only where npm would have put a package."""
    for path, file in files.items():
        try:
            value = json.loads(file.data)
        except (ValueError, RecursionError):
            if _INSTALLED.fullmatch(path):
                yield Gap(path, "is no readable JSON")
            continue
        found = _package(value, file)
        if found:
            yield found


def _package(value: Any, file: Text) -> Package | None:
    stated = (value.get(key) for key in ("name", "version")) if isinstance(value, dict) else ("", "")
    name, version = (text if isinstance(text, str) else "" for text in stated)
    if not name or len(name) + len(version) > MAX_FIELD:
        return None
    namespace, _, short = name.rpartition("/")
    owned = (file.path.removesuffix("package.json"),) if _INSTALLED.fullmatch(file.path) else ()
    purl = make_purl(KIND, namespace, short, version)
    producer, mail = _author(value.get("author"))
    home = value.get("homepage")
    needs = value.get("dependencies", {})
    return Package(
        type=KIND,
        name=name,
        version=version,
        purl=purl,
        path=file.path,
        layer=file.layer,
        licences=tuple(_licences(value)),
        files=owned,
        producer=producer,
        contact=home if isinstance(home, str) and home else mail,
        needs=tuple((need,) for need in list(needs)[:MAX_NEEDS]) if isinstance(needs, dict) else None,
    )


def _author(stated: Any) -> tuple[str, str]:
    """Return name and address of an author, who is a text or an object (npm docs, package.json, "people fields")."""
    if isinstance(stated, dict):
        name, mail = stated.get("name"), stated.get("email")
        return (name if isinstance(name, str) else "", mail if isinstance(mail, str) else "")
    return party(stated) if isinstance(stated, str) else ("", "")


def _licences(value: dict[str, Any]) -> Iterator[str]:
    """Yield a name; old packages state an object, or a list of them (npm docs, package.json, "license")."""
    stated = value.get("license") or value.get("licenses")
    for one in stated if isinstance(stated, list) else [stated]:
        text = one.get("type") if isinstance(one, dict) else one
        if isinstance(text, str) and text and len(text) <= MAX_FIELD:
            yield text
