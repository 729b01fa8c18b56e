"""Go programs: the build information that Go's linker leaves in ELF files (Go source, debug/buildinfo and cmd/link).

Rules: a file streams by and is searched for the marker, aligned as the linker aligns it; what stands in its first writable
segment counts before what stands elsewhere, so that a program inside a program is not taken for it. Strings in the file
itself, as since Go 1.18, are read; the older form, which needs the memory image, is named. What a file costs grows with its
size only, whatever its markers claim.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from airgap_images.contents.packages.package import Package, make_purl

KIND = "golang"
ELF = b"\x7fELF"
MARKER = b"\xff Go buildinf:"
ALIGNED = 16  # bytes
MAX_INFO = 4 << 20  # bytes of build information
MAX_VERSION = 256  # bytes of the version of Go
MAX_MODULES = 50_000
DEVEL = "(devel)"
_HEADER = 32  # bytes before the strings
_START = 4096  # bytes; the program headers stand here
_FRAME = 16  # bytes of a mark on both sides of the modules
_INLINE = 2  # the flag of Go 1.18
_VARINT = 10  # bytes
_FLAG = re.compile(r"[\w./-]*\.(?:git|build)?ver(?:sion)?=(?:[^\s\"']*/)?v?(\d+\.\d+\.\d+[\w.+-]*)", re.IGNORECASE)
_TAG = re.compile(r"[\w./-]*\.(?:git)?tag=(?:[^\s\"']*/)?v?(\d+\.\d+\.\d+[\w.+-]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Program:
    """An ELF file of ``size`` bytes. ``go`` is the version of Go that built it, or nothing; ``info`` what it left of modules."""

    size: int
    go: str = ""
    info: str = ""
    old: bool = False


class Search:
    """Looks for build information in an ELF file while it streams by."""

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0
        self._held = b""  # the end of what came, from a marker or from where one may begin
        self._data: int | None = None  # where the first writable segment begins
        self._elsewhere: tuple[str, str] | None = None
        self._found: tuple[str, str] | None = None
        self._old = False

    def take(self, piece: memoryview) -> bool:
        """Look at the next bytes; False once the answer is there."""
        held = self._held + bytes(piece)
        if self._data is None:
            if len(held) < min(_START, self._size):
                self._held = held
                return True
            self._data = writable(held[:_START])
        start = self._next(0)
        while (at := held.find(MARKER, start)) >= 0:
            got = strings(held, at) if (self._at + at) % ALIGNED == 0 else ()
            if got is None and self._at + len(held) < self._size and len(held) - at < 2 * MAX_INFO:
                return self._hold(held, at)
            if got and self._settle(got, self._at + at):
                return False
            start = self._next(at + 1)
        return self._hold(held, min(max(start, len(held) - len(MARKER) + 1), len(held)))

    def hole(self, count: int) -> bool:
        """Zeros hold no marker; build information does not reach across them."""
        self._at += len(self._held) + count
        self._held, self._data = b"", self._data or 0
        return True

    def found(self) -> Program:
        """Return what was found; every ELF file is a program or a part of one."""
        go, info = self._found or self._elsewhere or ("", "")
        return Program(self._size, go, info, self._old and not go)

    def _next(self, start: int) -> int:
        """Return where to search on: once something was found elsewhere, only the writable segment can say more."""
        return max(start, (self._data or 0) - self._at) if self._elsewhere else start

    def _hold(self, held: bytes, keep: int) -> bool:
        self._at += keep
        self._held = held[keep:]
        return True

    def _settle(self, got: tuple[str, str], at: int) -> bool:
        go, info = got
        inside = at >= (self._data or 0)
        if not go:
            self._old = self._old or inside
            return False
        if inside:
            self._found = go, info
            return True
        self._elsewhere = self._elsewhere or (go, info)
        return False


def program(size: int, head: bytes) -> Search | None:
    """Return what looks at an ELF file, or None if it is none."""
    return Search(size) if head.startswith(ELF) else None


def writable(start: bytes) -> int:
    """Return where in a file the first segment begins that is written to and not run; 0 if its headers do not say."""
    wide, little = start[4:5] == b"\2", start[5:6] != b"\2"
    order = "<" if little else ">"
    try:
        offset = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", start, 32 if wide else 28)[0]
        each, count = struct.unpack_from(f"{order}HH", start, 54 if wide else 42)
        for at in range(offset, offset + each * count, max(each, 1)):
            kind = struct.unpack_from(f"{order}I", start, at)[0]
            flags = struct.unpack_from(f"{order}I", start, at + (4 if wide else 24))[0]
            if kind == 1 and flags & 3 == 2:  # noqa: PLR2004 - PT_LOAD; PF_W without PF_X
                return int(struct.unpack_from(f"{order}{'Q' if wide else 'I'}", start, at + (8 if wide else 4))[0])
    except (struct.error, OverflowError):
        return 0
    return 0


def strings(raw: bytes, at: int) -> tuple[str, str] | tuple[()] | None:
    """Read what follows the marker at ``at``: (Go version, modules), or ("", "") of the old form.

    () means that it is no build information, None that more bytes are needed to tell.
    """
    if len(raw) < at + _HEADER + _VARINT:
        return None
    if not raw[at + 15] & _INLINE:
        return ("", "") if raw[at + 14] in {4, 8} and raw[at + 15] in {0, 1} else ()
    length, start = _varint(raw, at + _HEADER)
    if not 0 < length <= MAX_VERSION or raw[start : start + 2] not in {b"go", b"de"}:
        return ()
    go = raw[start : start + length]
    info = _modinfo(raw, start + length) if go.isascii() else b""
    return info if info is None else (go.decode("ascii", "replace"), info.decode("utf-8", "backslashreplace"))


def _modinfo(raw: bytes, at: int) -> bytes | None:
    if len(raw) < at + _VARINT:
        return None
    length, start = _varint(raw, at)
    if length > MAX_INFO:
        return b""
    info = raw[start : start + length]
    framed = length > 2 * _FRAME and info[-_FRAME - 1 : -_FRAME] == b"\n"
    return None if len(info) < length else info[_FRAME:-_FRAME] if framed else b""


def packages(program: Program, path: str, layer: str) -> Iterator[Package]:
    """Yield the main module, the modules and the standard library of a Go program."""
    main, modules, settings = _modules(program.info)
    if main is not None:
        name, version = main
        yield _package(name, _version(version, settings) if version in {"", DEVEL} else version, path, layer)
    for name, version in modules:
        yield _package(name, version, path, layer)
    if program.go.startswith("go"):
        version = program.go.split()[0].removeprefix("go")
        yield Package(KIND, "stdlib", program.go, make_purl(KIND, "", "stdlib", version), path, layer)


def _modules(info: str) -> tuple[tuple[str, str] | None, list[tuple[str, str]], dict[str, str]]:
    main, path, modules, settings = None, "", [], {}
    for line in info.split("\n")[:MAX_MODULES]:
        fields = [*line.split("\t"), "", ""]
        match fields[0]:
            case "path":
                path = fields[1]
            case "mod":
                main = fields[1], fields[2]
            case "dep":
                modules.append((fields[1], fields[2]))
            case "=>" if modules:
                modules[-1] = fields[1], fields[2] or DEVEL
            case "build":
                key, _, value = fields[1].partition("=")
                settings[key] = value
    if main is None and path:
        main = path, DEVEL
    return main, modules, settings


def _version(stated: str, settings: dict[str, str]) -> str:
    """Return the version a main module gives itself at link time, else that of its revision (Go modules, "pseudo-versions")."""
    flags = settings.get("-ldflags", "")
    if match := _FLAG.search(flags) or _TAG.search(flags):
        return f"v{match[1]}"
    revision, when = settings.get("vcs.revision", ""), settings.get("vcs.time", "")
    if not revision:
        return stated
    try:
        return f"v0.0.0-{datetime.fromisoformat(when):%Y%m%d%H%M%S}-{revision[:12]}"
    except ValueError:
        return revision


def _package(name: str, version: str, path: str, layer: str) -> Package:
    """In the purl a module's repository is named by up to three parts of its path; the rest is a folder in it."""
    parts = name.split("/")
    purl = make_purl(KIND, "/".join(parts[:3][:-1]), parts[:3][-1], version, subpath="/".join(parts[3:]))
    return Package(KIND, name, version, purl, path, layer)


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends; the caller made sure of ``_VARINT`` bytes."""
    value = 0
    for place in range(_VARINT):
        value |= (raw[at + place] & 0x7F) << (7 * place)
        if not raw[at + place] & 0x80:
            return value, at + place + 1
    return MAX_INFO + 1, at
