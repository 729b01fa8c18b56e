"""Read a tar archive in one pass over pieces of it, without unpacking it: ustar, PAX, GNU and old forms.

Where forms leave room, Go's reader decides, because engines read layers with it: global PAX headers say nothing of an entry,
links and devices have no body, a checksum may be of signed bytes. Rules: what one entry may claim about itself is bounded
(``MAX_SPECIAL``, ``MAX_HOLES``); a body is skipped unless it is asked for; an archive that ends early is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from airgap_images.contents.tar_sparse import Holes, SparseError, from_block, from_body, from_pax
from airgap_images.contents.unpack import refused

BLOCK = 512  # bytes
MAX_SPECIAL = 1 << 20  # bytes of a PAX header or a long name
MAX_NUMBER = 1 << 62  # bytes; beyond any file
FILE, FOLDER, LINK, HARD, OTHER = "file", "folder", "link", "hard", "other"
KINDS = {b"0": FILE, b"\0": FILE, b"7": FILE, b"S": FILE, b"1": HARD, b"2": LINK, b"3": OTHER, b"4": OTHER, b"5": FOLDER, b"6": OTHER}
BODILESS = frozenset({HARD, LINK, FOLDER, OTHER})
_ZEROS = bytes(BLOCK)
_OCTAL = re.compile(rb"[0-7]*")
_RUNS = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
_GNU_NAMES = {b"L": "path", b"K": "linkpath"}


class Entry(NamedTuple):
    """One entry; ``size`` is that of the file, ``stored`` that of its body in the archive, both in bytes."""

    kind: str
    name: str
    target: str
    size: int
    stored: int
    holes: Holes | None


class Tar:
    """An archive as an iterator of entries; ``body`` gives the bytes of the entry that came last."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._stream = _Stream(pieces)
        self._left, self._padding = 0, 0

    def __iter__(self) -> Iterator[Entry]:
        """Yield every entry, those that only describe the next one included as ``other`` so that they can be counted."""
        said: dict[str, str] = {}
        names: dict[str, str] = {}
        while (block := self._header()) is not None:
            kind = block[156:157]
            if kind in _GNU_NAMES:
                names[_GNU_NAMES[kind]] = _text(self._special(block))
            elif kind in {b"x", b"g"}:
                raw = self._special(block)
                said = pax(raw) if kind == b"x" else {}
                names = names if kind == b"x" else {}
            else:
                entry = self._entry(block, said, names)
                said, names = {}, {}
                yield entry
                continue
            yield Entry(OTHER, "", "", 0, 0, None)

    def head(self, count: int) -> bytes:
        """Return the first ``count`` stored bytes of the body, or all if there are fewer, without taking them."""
        return self._stream.peek(min(count, self._left))

    def body(self) -> Iterator[memoryview]:
        """Yield the stored bytes of the body; what is not taken is skipped."""
        while self._left:
            piece = self._stream.piece(self._left)
            self._left -= len(piece)
            yield piece

    def drain(self) -> None:
        """Read on to the end of the stream, past the end of the archive."""
        self._stream.drain()

    def _header(self) -> bytes | None:
        self._stream.skip(self._left + self._padding)
        self._left = self._padding = 0
        block = self._stream.peek(BLOCK)
        if not block:
            return None
        self._stream.skip(BLOCK)
        if block == _ZEROS:
            following = self._stream.peek(BLOCK)
            if following not in {b"", _ZEROS}:
                raise refused("the layer is no tar archive: one block of zeros amid entries")
            return None
        if not _summed(block):
            raise refused("the layer is no tar archive: the checksum of a header is wrong")
        return block

    def _special(self, block: bytes) -> bytes:
        size = number(block[124:136])
        if size > MAX_SPECIAL:
            raise refused(f"the layer has a tar header of {size} bytes, at most {MAX_SPECIAL} allowed")
        raw = self._stream.take(size)
        self._stream.skip(-size % BLOCK)
        return raw

    def _entry(self, block: bytes, said: dict[str, str], names: dict[str, str]) -> Entry:
        named = {key: text for key, text in said.items() if text} | names if said or names else {}
        flag = block[156:157]
        name = named.get("path") or _name(block)
        kind = KINDS.get(flag, OTHER)
        if flag == b"\0" and name.endswith("/"):
            kind = FOLDER
        target = named.get("linkpath") or _text(block[157:257]) if kind in {LINK, HARD} else ""
        size = decimal(named["size"]) if "size" in named else number(block[124:136])
        stored = 0 if kind in BODILESS and flag in KINDS else size
        self._left, self._padding = stored, -stored % BLOCK
        holes = None
        if kind == FILE and (named or flag == b"S"):
            try:
                name, size, holes = self._sparse(block, named, name, size)
            except SparseError as error:
                raise refused(f"the layer has a sparse file whose map is wrong: {error}") from None
        return Entry(kind, name, target, size, stored, holes)

    def _sparse(self, block: bytes, said: dict[str, str], name: str, size: int) -> tuple[str, int, Holes | None]:
        if block[156:157] == b"S":
            extra = iter(lambda: self._stream.take(BLOCK), b"")
            real, holes = from_block(block, extra, size)
            return name, real, holes
        if not any(key.startswith("GNU.sparse.") for key in said):
            return name, size, None
        name = said.get("GNU.sparse.name") or name
        if (said.get("GNU.sparse.major"), said.get("GNU.sparse.minor")) == ("1", "0"):
            real = decimal(said.get("GNU.sparse.realsize", ""))
            holes = from_body(self._line_block, real, size)
            return name, real, holes
        found = from_pax(said)
        if found is None:
            return name, size, None
        return name, found[0], found[1].checked(found[0], size)

    def _line_block(self) -> bytes:
        """Return one more block of the map that a sparse file of form 1.0 begins with."""
        if self._left < BLOCK:
            raise SparseError("it is longer than the body")
        self._left -= BLOCK
        return self._stream.take(BLOCK)


def pax(raw: bytes) -> dict[str, str]:
    """Return the records of a PAX header (POSIX.1-2024, pax, "extended header"); raises IntegrityError on what is none."""
    found: dict[str, str] = {}
    runs: list[str] = []
    at = 0
    while at < len(raw):
        space = raw.find(b" ", at, at + 20)
        digits = raw[at:space] if space > 0 else b""
        length = int(digits) if digits.isdigit() else 0
        record = raw[space + 1 : at + length]
        key, equals, value = record.partition(b"=")
        if not length or at + length > len(raw) or not key or not equals or not value.endswith(b"\n") or b"\0" in key:
            raise refused("the layer has a PAX header that cannot be read")
        text = value[:-1].decode("utf-8", "surrogateescape")
        if key in {b"path", b"linkpath"} and "\0" in text:
            raise refused("the layer has a PAX header with a zero byte in a name")
        if key == _RUNS[len(runs) % 2]:  # form 0.0 of a sparse map: records that repeat, in order
            runs.append(text)
        found[key.decode("utf-8", "surrogateescape")] = text
        at += length
    return {**found, "GNU.sparse.map": ",".join(runs)} if runs else found


def number(field: bytes) -> int:
    """Return a number of a tar header: octal digits, or base 256 where the first bit says so."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes((field[0] & 0x7F, *field[1:])))
    else:
        digits = field.strip(b" \0").partition(b"\0")[0]
        if not _OCTAL.fullmatch(digits):
            raise refused("the layer is no tar archive: a number in a header is none")
        value = int(digits or b"0", 8)
    if field[0] & 0xC0 == 0xC0 or value > MAX_NUMBER:  # noqa: PLR2004 - base 256, negative
        raise refused("the layer has an entry of a size that cannot be")
    return value


def decimal(text: str) -> int:
    """Return a number of a PAX record."""
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > MAX_NUMBER:  # noqa: PLR2004 - of 2**63
        raise refused("the layer has a PAX header with a number that is none")
    return int(text)


def _summed(block: bytes) -> bool:
    field = block[148:156].strip(b" \0").partition(b"\0")[0]
    if not field or not _OCTAL.fullmatch(field):
        return False
    stated = int(field, 8)
    total = sum(block) - sum(block[148:156]) + 8 * 0x20
    return total == stated or total - 256 * sum(byte > 127 for byte in block[:148] + block[156:]) == stated  # noqa: PLR2004 - signed


def _name(block: bytes) -> str:
    name = _text(block[:100])
    if not block[345]:
        return name
    magic, prefix = block[257:265], b""
    if magic.startswith(b"ustar\0"):
        prefix = block[345:476] if block[508:512] == b"tar\0" else block[345:500]
    elif magic == b"ustar  \0" and not _are_times(block):
        prefix = block[345:500].partition(b"\0")[0]
        prefix = prefix if prefix.isascii() else b""
    before = _text(prefix)
    return f"{before}/{name}" if before else name


def _are_times(block: bytes) -> bool:
    """Say whether GNU's two times stand where they belong; Go before 1.8 wrote a name there (golang issue 12594)."""
    fields = (block[345:357], block[357:369])
    return all(field[0] & 0x80 or _OCTAL.fullmatch(field.strip(b" \0").partition(b"\0")[0]) for field in fields)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


class _Stream:
    """Pieces as one run of bytes; ``peek`` is for few bytes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._data, self._at = b"", 0

    def peek(self, count: int) -> bytes:
        while len(self._data) - self._at < count:
            more = next(self._pieces, None)
            if more is None:
                break
            self._data, self._at = self._data[self._at :] + more, 0
        return self._data[self._at : self._at + count]

    def piece(self, most: int) -> memoryview:
        """Return between one and ``most`` bytes."""
        if self._at == len(self._data):
            self._data, self._at = next(self._pieces, b""), 0
            if not self._data:
                raise refused("the layer ends in the middle of its tar archive")
        found = memoryview(self._data)[self._at : self._at + most]
        self._at += len(found)
        return found

    def take(self, count: int) -> bytes:
        parts = []
        while count:
            parts.append(bytes(self.piece(count)))
            count -= len(parts[-1])
        return b"".join(parts)

    def skip(self, count: int) -> None:
        here = len(self._data) - self._at
        while count > here:
            count -= here
            self._data, self._at = next(self._pieces, b""), 0
            here = len(self._data)
            if not here:
                raise refused("the layer ends in the middle of its tar archive")
        self._at += count

    def drain(self) -> None:
        for _ in self._pieces:
            pass
        self._data, self._at = b"", 0
