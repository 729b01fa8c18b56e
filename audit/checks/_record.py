"""Does a wheel hold what its RECORD lists, and nothing else? (Python packaging specifications, "recording installed projects", "wheel").

Rules: the archive is hostile: no read asks for more than a limit, members are read once and as a stream, nothing is unpacked to disk. Names
and sizes are always compared; digests only where ``deep`` is asked for, because that reads every byte.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import posixpath
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from audit.evidence.wheels import BROKEN
from manifests.paths import printable, some

MAX_RECORD = 64 << 20  # bytes
MAX_MEMBERS = 200_000
MAX_PTH = 1 << 20  # bytes
CHUNK = 1 << 20  # bytes
STRONG = frozenset({"sha256", "sha384", "sha512"})
UNLISTED = (".dist-info/RECORD", ".dist-info/RECORD.jws", ".dist-info/RECORD.p7s")
CUSTOM = frozenset({"sitecustomize", "usercustomize"})  # modules that Python imports wherever it finds them
_LANDS = re.compile(r"[^/]+\.data/(?:purelib/|platlib/|data/(?:.*/)?(?:site|dist)-packages/)(.+)")
_NAMESPACE = re.compile(
    rb"import sys, types, os;has_mfs = sys\.version_info > \(3, 5\);"
    rb"p = os\.path\.join\(sys\._getframe\(1\)\.f_locals\['sitedir'\], [^\n]+"
)
DISTUTILS = (
    b"import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, 'local') == 'local'; "
    b"enabled and __import__('_distutils_hack').add_shim();"
)  # what setuptools itself has carried since release 60
Grade = Literal["high", "medium", "low"]


@dataclass(frozen=True, slots=True)
class Sign:
    """Something wrong with a wheel."""

    grade: Grade
    word: str
    message: str


class UnreadableError(Exception):
    """Why a wheel could not be examined."""


def examine(file: BinaryIO, *, deep: bool) -> Iterator[Sign]:
    """Yield what is wrong with an open wheel; raises UnreadableError."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                raise UnreadableError(f"{len(members)} members, at most {MAX_MEMBERS} are looked at")
            yield from _names(members)
            yield from _starts(archive, members)
            yield from _record(archive, members, deep=deep)
    except BROKEN as error:
        raise UnreadableError(f"not a readable zip: {printable(str(error), 80)}") from None


def _names(members: list[zipfile.ZipInfo]) -> Iterator[Sign]:
    twice = [name for name, count in Counter(posixpath.normpath(member.filename) for member in members).items() if count > 1]
    if twice:
        yield Sign("high", "twice", f"holds members that stand twice, of which readers take different ones: {some(twice)}")
    outside = [name for name in (member.filename for member in members) if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name)]
    if outside:
        yield Sign("high", "outside", f"names files outside of where it is installed: {some(outside)}")
    encrypted = [member.filename for member in members if member.flag_bits & 1]
    if encrypted:
        yield Sign("high", "encrypted", f"holds encrypted members: {some(encrypted)}")


def _starts(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> Iterator[Sign]:
    """Find what runs whenever Python starts, without being imported."""
    for member in members:
        name = _installed(member.filename)
        if name.split("/")[0].split(".")[0] in CUSTOM and not member.is_dir():
            yield Sign("high", "customize", f"{printable(name, 80)} runs at every start of Python")
        elif name.endswith(".pth") and "/" not in name:
            with archive.open(member) as opened:
                text = opened.read(MAX_PTH + 1)
            if len(text) > MAX_PTH:
                yield Sign("high", "pth", f"{printable(name, 80)} is larger than {MAX_PTH} bytes")
            elif _runs(text) and text.strip() != DISTUTILS:
                usual = _NAMESPACE.fullmatch(text.strip())
                word = "declares a namespace in the old way, by code that runs" if usual else "has lines that run"
                yield Sign("low" if usual else "high", "pth", f"{printable(name, 80)} {word} at every start of Python")


def _runs(text: bytes) -> bool:
    """Say whether a line of a path file is code, for every way in which ``site.py`` has ever split and decoded it."""
    lines = text.decode("utf-8-sig", "replace").splitlines()
    return any(line.startswith(("import ", "import\t")) for line in lines)


def _installed(name: str) -> str:
    """Return where a member lands below site-packages; parts of ``NAME.data`` land there too."""
    plain = posixpath.normpath(name)
    found = _LANDS.fullmatch(plain)
    return found[1] if found else plain


def _record(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], *, deep: bool) -> Iterator[Sign]:
    places = [member for member in members if re.fullmatch(r"[^/]+\.dist-info/RECORD", member.filename)]
    if len(places) != 1:
        yield Sign("high", "record", f"has {len(places)} files named RECORD, expected 1")
        return
    with archive.open(places[0]) as opened:
        raw = opened.read(MAX_RECORD + 1)
    if len(raw) > MAX_RECORD:
        raise UnreadableError(f"its RECORD is larger than {MAX_RECORD} bytes")
    rows = {row[0]: row[1:] for row in _rows(raw)}
    files = {member.filename: member for member in members if not member.is_dir() and not member.filename.endswith(UNLISTED)}
    listed = {name for name in rows if not name.endswith(UNLISTED)}
    if extra := sorted(files.keys() - listed):
        yield Sign("high", "unlisted", f"holds {len(extra)} files its RECORD does not list: {some(extra)}")
    if gone := sorted(listed - files.keys()):
        yield Sign("medium", "absent", f"lists {len(gone)} files it does not hold: {some(gone)}")
    weak = sorted(name for name in listed & files.keys() if not _is_strong(rows[name]))
    if weak:
        yield Sign("medium", "weak", f"lists {len(weak)} files without a digest of SHA-256 or better: {some(weak)}")
    wrong = sorted(name for name in listed & files.keys() if not _agrees(archive, files[name], rows[name], deep=deep))
    if wrong:
        yield Sign("medium", "differs", f"holds {len(wrong)} files that are not what its RECORD says: {some(wrong)}")


def _rows(raw: bytes) -> Iterator[list[str]]:
    try:
        for row in csv.reader(io.StringIO(raw.decode("utf-8"))):
            if row:
                yield [*row, "", ""][:3]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UnreadableError(f"its RECORD cannot be read: {printable(str(error), 80)}") from None


def _is_strong(row: list[str]) -> bool:
    return row[0].partition("=")[0] in STRONG


def _agrees(archive: zipfile.ZipFile, member: zipfile.ZipInfo, row: list[str], *, deep: bool) -> bool:
    if row[1].isdigit() and int(row[1]) != member.file_size:
        return False
    if not deep or not _is_strong(row):
        return True
    name, _, expected = row[0].partition("=")
    running: Any = hashlib.new(name)
    with archive.open(member) as opened:
        while data := opened.read(CHUNK):
            running.update(data)
    return base64.urlsafe_b64encode(running.digest()).rstrip(b"=").decode() == expected.rstrip("=")
