"""Alpine packages: ``lib/apk/db/installed`` (apk-tools, "apk_spec: installed database v2")."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from airgap_images.contents.packages.package import Gap, Package, Release, Text, make_purl, party

KIND = "apk"
PATHS = ("lib/apk/db/installed", "usr/lib/apk/db/installed")
MAX_FILE = 128 << 20  # bytes
MAX_NEEDS = 20_000  # words of one package
_BOUND = re.compile(r"[<>=~]")


def limit(path: str, name: str) -> int:
    """Return how many bytes of a file may be kept."""
    return MAX_FILE if name == "installed" and path in PATHS else 0


def packages(files: Mapping[str, Text], release: Release) -> Iterator[Package | Gap]:
    """Yield the installed packages."""
    for file in files.values():
        fields: dict[str, str] = {}
        owned: list[str] = []
        folder = ""
        for line in (*file.lines(), ""):
            key, value = line[:1], line[2:]
            if not line:
                if fields.get("P"):
                    yield _package(fields, tuple(owned), file, release)
                fields, owned, folder = {}, [], ""
            elif line[1:2] != ":":
                continue
            elif key == "F":
                folder = f"{value}/" if value else ""
            elif key == "R":
                owned.append(folder + value)
            elif key in "PVALoUmDp":
                fields[key] = value


def _package(fields: Mapping[str, str], owned: tuple[str, ...], file: Text, release: Release) -> Package:
    producer, mail = party(fields.get("m", ""))
    name, version, arch, source = (fields.get(key, "") for key in "PVAo")
    qualifiers = {"arch": arch, "distro": release.distro, "upstream": source if source != name else ""}
    return Package(
        type=KIND,
        name=name,
        version=version,
        purl=make_purl(KIND, release.id, name, version, qualifiers=qualifiers),
        path=file.path,
        layer=file.layer,
        arch=arch,
        source=source,
        licences=(fields["L"],) if fields.get("L") else (),
        files=owned,
        producer=producer,
        contact=fields.get("U") or mail,
        needs=tuple((_bare(word),) for word in fields.get("D", "").split()[:MAX_NEEDS] if not word.startswith("!")),
        provides=tuple(_bare(word) for word in fields.get("p", "").split()[:MAX_NEEDS]),
    )


def _bare(word: str) -> str:
    """Return a name without the version it is bound to; kinds such as ``so:`` and ``cmd:`` stay."""
    return _BOUND.split(word, maxsplit=1)[0]
