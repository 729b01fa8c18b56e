"""Debian packages: ``var/lib/dpkg/status`` (deb-control(5), dpkg-query(1)) and ``status.d``, as images without dpkg have it.

Licences come from machine-readable copyright files (copyright-format 1.0), where they are present.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from airgap_images.contents.packages.package import Gap, Package, Release, Text, make_purl, party

KIND = "deb"
MAX_STATUS = 64 << 20  # bytes
MAX_LIST = 8 << 20  # bytes
MAX_COPYRIGHT = 1 << 20  # bytes
ROOT = "var/lib/dpkg/"
FIELDS = frozenset(
    {"package", "status", "version", "architecture", "source", "maintainer", "homepage", "depends", "pre-depends", "provides"}
)
MAX_NEEDS = 2_000  # of one package
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9+.-]*)")
_FOLDED = frozenset({"depends", "pre-depends", "provides"})  # whose value may go on in the next line
_SOURCE = re.compile(r"(\S+)(?:\s+\((.*)\))?")


def limit(path: str, name: str) -> int:
    """Return how many bytes of a file may be kept."""
    if path.startswith(ROOT):
        folder = path[len(ROOT) :].rpartition("/")[0]
        if folder == "status.d" or (not folder and name == "status"):
            return MAX_STATUS
        return MAX_LIST if folder == "info" and name.endswith((".list", ".md5sums")) else 0
    return MAX_COPYRIGHT if name == "copyright" and path.startswith("usr/share/doc/") and path.count("/") == 4 else 0  # noqa: PLR2004


def packages(files: Mapping[str, Text], release: Release) -> Iterator[Package | Gap]:
    """Yield the installed packages; one that was removed and left its configuration is not installed."""
    for path, file in files.items():
        if path == f"{ROOT}status" or (path.startswith(f"{ROOT}status.d/") and not path.endswith(".md5sums")):
            for fields in _paragraphs(file.lines()):
                if fields.get("package") and " deinstall " not in f" {fields.get('status', '')} ":
                    yield _package(fields, file, files, release)


def control(file: Text, release: Release) -> Package | None:
    """Return what the control file of a package that is not installed states, None without a name or a version."""
    fields = next(_paragraphs(file.lines()), {})
    return _package(fields, file, {}, release) if fields.get("package") and fields.get("version") else None


def _package(fields: Mapping[str, str], file: Text, files: Mapping[str, Text], release: Release) -> Package:
    name, version, arch = (fields.get(key, "") for key in ("package", "version", "architecture"))
    stated = _SOURCE.match(fields.get("source", ""))
    source = (stated[1] + (f"@{stated[2]}" if stated[2] else "")) if stated else ""
    owned = _lists(name, arch, files)
    qualifiers = {"arch": arch, "distro": release.distro, "upstream": source}
    producer, mail = party(fields.get("maintainer", ""))
    copyright_ = files.get(f"usr/share/doc/{name}/copyright")
    return Package(
        type=KIND,
        name=name,
        version=version,
        purl=make_purl(KIND, release.id, name, version, qualifiers=qualifiers),
        path=file.path,
        layer=owned[0].layer if owned else file.layer,  # written when the package was installed, and not since
        arch=arch,
        source=source,
        licences=_licences(copyright_) if copyright_ else (),
        files=tuple(dict.fromkeys(path for one in owned for path in _owned(one))),
        producer=producer,
        contact=fields.get("homepage") or mail,
        needs=(*_needs(fields.get("pre-depends", "")), *_needs(fields.get("depends", ""))),
        provides=tuple(name for group in _needs(fields.get("provides", "")) for name in group),
    )


def _needs(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the names of a relationship field (Debian policy 7.1), alternatives together, without versions and architectures."""
    groups = (tuple(found[1] for one in group.split("|") if (found := _NAME.match(one))) for group in text.split(",")[:MAX_NEEDS])
    return tuple(group for group in groups if group)


def _lists(name: str, arch: str, files: Mapping[str, Text]) -> list[Text]:
    places = (f"info/{name}:{arch}.list", f"info/{name}.list", f"status.d/{name}.md5sums")
    return [files[ROOT + place] for place in places if ROOT + place in files]


def _owned(file: Text) -> Iterator[str]:
    if file.path.endswith(".list"):
        return (line.strip("/") for line in file.lines() if line.strip("/."))
    return (line[34:].strip("/") for line in file.lines() if len(line) > 34)  # noqa: PLR2004 - 32 digits, two blanks


def _paragraphs(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    last = ""
    for line in lines:
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
            continue
        key, colon, value = line.partition(":")
        if line[0] in " \t":
            if last in _FOLDED and last in fields:
                fields[last] += f" {line.strip()}"
        else:
            last = key.lower()
            if colon and last in FIELDS:
                fields[last] = value.strip()
    if fields:
        yield fields


def _licences(file: Text) -> tuple[str, ...]:
    lines = list(file.lines())
    if not any(line.startswith("Format:") for line in lines[:20]):
        return ()
    found = {line[8:].strip() for line in lines if line.startswith("License:")}
    return tuple(sorted(text for text in found if text and len(text) <= 200))  # noqa: PLR2004 - characters; more is no name
