"""Java archives: what ``pom.properties`` and the manifest of a jar, war or ear state, and those of the archives in it.

Rules: the archive is hostile; it and each archive in it are read from memory up to a limit, nesting has a limit, and what unpacks to more
than it may is named. Coordinates come from ``pom.properties`` (Maven archiver); an archive without them is named by its file name,
its version by the manifest, its group by what the manifest says that looks like one (JAR specification, "main attributes").
"""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from airgap_images.contents.packages.package import Package, make_purl
from airgap_images.contents.packages.sieve import Keep, Room
from manifests.paths import printable

KIND = "maven"
SUFFIXES = (".jar", ".war", ".ear", ".par", ".sar", ".nar", ".jpi", ".hpi", ".lpkg")
MAX_ARCHIVE = 128 << 20  # bytes
MAX_NESTED = 64 << 20  # bytes of an archive in an archive
MAX_UNPACKED = 512 << 20  # bytes unpacked of one archive and all in it
MAX_TEXT = 1 << 20  # bytes of a manifest or properties file
MAX_MEMBERS = 200_000
MAX_POMS = 5_000
MAX_LEVELS = 3
BROKEN = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, EOFError, OSError, LookupError)
_POM = re.compile(r"(?:.*/)?META-INF/maven/[^/]+/[^/]+/pom\.properties|(?:.*/)?pom\.properties")
_STEM = re.compile(r"(?P<name>[A-Za-z][\w.]*(?:-[A-Za-z][\w.]*)*?)-(?P<version>\d.*|build\d.*|rc?\d+(?:-.*)?)")
_UNDER = re.compile(r"(?P<name>.*?)[._](?P<version>\d.*)")
_GROUP_FIELDS = (
    "Group-Id", "Bundle-SymbolicName", "Extension-Name", "Specification-Vendor", "Implementation-Vendor", "Implementation-Vendor-Id",
    "Implementation-Title", "Bundle-Activator", "Automatic-Module-Name", "Main-Class", "Package",
)  # fmt: skip
_VERSION_FIELDS = ("Implementation-Version", "Specification-Version", "Plugin-Version", "Bundle-Version")
_GROUP = re.compile(r"(?:com|org|net|io|edu|gov|dev|ch|de|fr|uk|us|eu|jakarta|javax)\.[A-Za-z][\w.-]*")


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Who an archive says it is; ``inside`` is its path in the archive that holds it."""

    group: str
    artifact: str
    version: str
    inside: str = ""
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Archive:
    """What an archive and those in it state; ``why`` says what of it could not be read."""

    found: tuple[Coordinates, ...]
    why: str = ""


class _SpentError(Exception):
    """What one archive may cost is spent."""


class _Budget:
    def __init__(self) -> None:
        self.bytes, self.members = MAX_UNPACKED, MAX_MEMBERS

    def spend(self, count: int, members: int = 0) -> None:
        self.bytes -= count
        self.members -= members
        if self.bytes < 0 or self.members < 0:
            raise _SpentError(f"unpacks to more than {MAX_UNPACKED} bytes or {MAX_MEMBERS} members")


class _Place(NamedTuple):
    """An archive: its name, its path in the one that holds all, how deep that is."""

    name: str
    inside: str = ""
    level: int = 0

    def below(self, filename: str) -> _Place:
        inside = f"{self.inside}!/{filename}" if self.inside else filename
        return _Place(filename.rpartition("/")[2], inside, self.level + 1)


def archive(path: str, name: str, size: int, room: Room) -> Keep | None:
    """Return what reads an archive, or None if the name is not that of one."""
    if not name.lower().endswith(SUFFIXES):
        return None

    def done(data: bytes | None, why: str) -> Archive:
        if data is None:
            return Archive((), why)
        room.give(size)
        return read(data, path)

    return Keep(size, MAX_ARCHIVE, room, done)


def read(data: bytes, path: str) -> Archive:
    """Return what an archive states of itself and of those in it."""
    found: list[Coordinates] = []
    try:
        _read(data, _Place(path.rpartition("/")[2]), found, _Budget())
    except _SpentError as error:
        return Archive(tuple(found), str(error))
    except BROKEN as error:
        return Archive(tuple(found), f"is no readable zip: {printable(str(error), 80)}")
    return Archive(tuple(found))


def packages(archive: Archive, path: str, layer: str) -> Iterator[Package]:
    """Yield the packages of an archive."""
    for one in archive.found:
        purl = make_purl(KIND, one.group or one.artifact, one.artifact, one.version)
        where = f"{path}!/{one.inside}" if one.inside else path
        yield Package(KIND, one.artifact, one.version, purl, where, layer, licences=(one.licence,) if one.licence else ())


def _read(data: bytes, at: _Place, found: list[Coordinates], budget: _Budget) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        members = opened.infolist()
        budget.spend(0, len(members))
        manifests = [member for member in members if member.filename == "META-INF/MANIFEST.MF"]
        poms = [member for member in members if _POM.fullmatch(member.filename)][:MAX_POMS]
        stated = [one for one in (_properties(_text(opened, member, budget), at.inside) for member in poms) if one]
        if manifests:
            found += _own(at, _manifest(_text(opened, manifests[-1], budget)), stated)
        found += stated
        for member in members:
            if at.level < MAX_LEVELS and member.filename.lower().endswith(SUFFIXES) and not member.is_dir():
                inner = _member(opened, member, MAX_NESTED, budget)
                with contextlib.suppress(zipfile.BadZipFile):  # a file that only has the name
                    _read(inner, at.below(member.filename), found, budget)


def _member(opened: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int, budget: _Budget) -> bytes:
    with opened.open(member) as file:
        data = file.read(limit + 1)
    budget.spend(len(data))
    if len(data) > limit:
        raise _SpentError(f"{printable(member.filename, 80)} in it unpacks to more than {limit} bytes")
    return data


def _text(opened: zipfile.ZipFile, member: zipfile.ZipInfo, budget: _Budget) -> str:
    return _member(opened, member, MAX_TEXT, budget).decode("utf-8", "replace")


def _own(at: _Place, manifest: dict[str, str], stated: list[Coordinates]) -> list[Coordinates]:
    """Return the archive itself, unless one of its ``pom.properties`` is its own."""
    artifact, version = split(at.name)
    if any(one.artifact == artifact or (artifact and one.artifact.startswith(artifact)) for one in stated):
        return []
    version = version or next((manifest[key] for key in _VERSION_FIELDS if manifest.get(key)), "")
    group = next((text for text in map(_group, (manifest.get(key, "") for key in _GROUP_FIELDS)) if text), "")
    return [Coordinates(group, artifact, version, at.inside, manifest.get("Bundle-License", ""))] if artifact else []


def split(name: str) -> tuple[str, str]:
    """Split the file name of an archive into name and version, which may be empty."""
    stem = name.rpartition(".")[0]
    match = _STEM.fullmatch(stem) or _UNDER.fullmatch(stem)
    return (match["name"], match["version"]) if match and match["name"] else (stem, "")


def _group(text: str) -> str:
    stated = text.partition(";")[0].strip()
    return stated if _GROUP.fullmatch(stated) else ""


def _properties(text: str, inside: str) -> Coordinates | None:
    lines = (line.strip() for line in text.splitlines())
    pairs = (re.split(r"\s*[=:]\s*", line, maxsplit=1) for line in lines if line and line[0] not in "#!")
    found = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}  # noqa: PLR2004
    artifact, version = found.get("artifactId", ""), found.get("version", "")
    return Coordinates(found.get("groupId", ""), artifact, version, inside) if artifact and version else None


def _manifest(text: str) -> dict[str, str]:
    """Return the main attributes; a line that begins with a blank goes on with the one before."""
    found: dict[str, str] = {}
    key = ""
    for line in text.splitlines():
        if not line.strip():
            if found:
                break
        elif line[0] == " " and key:
            found[key] += line[1:]
        else:
            key, _, value = line.partition(":")
            key = key.strip()
            found[key] = value.strip()
    return found
