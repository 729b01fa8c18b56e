"""Where a sparse file of a tar archive has its bytes: GNU's old form and its three forms in PAX headers (0.0, 0.1, 1.0).

Rules: runs ascend, do not overlap, lie within the file and add up to the body; there are at most ``MAX_HOLES`` of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

MAX_HOLES = 1 << 16  # runs of one file
MAX_DIGITS = 19
BLOCK = 512  # bytes
_FIELD = 12  # bytes of a number in the old form
_IN_HEADER, _IN_BLOCK = 4, 21  # runs


class SparseError(ValueError):
    """Why a map cannot be."""


@dataclass(frozen=True, slots=True)
class Holes:
    """The runs of stored bytes as (offset, length), in order; all between them are zeros."""

    runs: tuple[tuple[int, int], ...]

    def checked(self, size: int, stored: int) -> Holes:
        """Return this map if it is one of a file of ``size`` bytes of which ``stored`` are stored."""
        end = 0
        for offset, length in self.runs:
            if offset < end or offset + length > size:
                raise SparseError("its parts overlap or lie beyond the end")
            end = offset + length
        if sum(length for _, length in self.runs) != stored:
            raise SparseError("its parts do not add up to the body")
        return self


def from_block(header: bytes, more: Iterator[bytes], stored: int) -> tuple[int, Holes]:
    """Return size and map of GNU's old form; ``more`` gives the blocks that go on with it."""
    runs = list(_pairs(header[386:482], _IN_HEADER))
    block, goes_on = header, header[482]
    while goes_on:
        block = next(more)
        runs += _pairs(block, _IN_BLOCK)
        goes_on = block[504]
        if len(runs) > MAX_HOLES:
            raise SparseError(f"more than {MAX_HOLES} parts")
    size = _number(header[483:495])
    return size, Holes(tuple(runs)).checked(size, stored)


def from_pax(said: dict[str, str]) -> tuple[int, Holes] | None:
    """Return size and map of the forms 0.0 and 0.1, or None where there is none."""
    if "GNU.sparse.map" not in said:
        return None
    numbers = _numbers(said["GNU.sparse.map"].split(",")) if said["GNU.sparse.map"] else []
    if len(numbers) % 2 or len(numbers) > 2 * MAX_HOLES:
        raise SparseError("an odd or too large number of values")
    size = _numbers([said.get("GNU.sparse.size", said.get("GNU.sparse.realsize", ""))])[0]
    return size, Holes(tuple(zip(numbers[::2], numbers[1::2], strict=True)))


def from_body(block: Callable[[], bytes], size: int, body: int) -> Holes:
    """Return the map of form 1.0, which stands in lines of decimal digits before the bytes, filled to whole blocks."""
    parts = [block()]
    first = parts[0].partition(b"\n")
    if not first[1]:
        raise SparseError("a number that is none")
    (count,) = _numbers([first[0].decode("ascii", "replace")])
    if count > MAX_HOLES:
        raise SparseError(f"more than {MAX_HOLES} parts")
    wanted, seen = 1 + 2 * count, parts[0].count(b"\n")
    while seen < wanted:
        parts.append(block())
        seen += parts[-1].count(b"\n")
        if len(parts) * BLOCK > (MAX_DIGITS + 2) * wanted + BLOCK:
            raise SparseError("a map without end")
    text = b"".join(parts)
    numbers = _numbers(text.decode("ascii", "replace").split("\n")[1:wanted])
    return Holes(tuple(zip(numbers[::2], numbers[1::2], strict=True))).checked(size, body - len(parts) * BLOCK)


def _pairs(fields: bytes, count: int) -> Iterator[tuple[int, int]]:
    for at in range(0, count * 2 * _FIELD, 2 * _FIELD):
        offset, length = fields[at : at + _FIELD], fields[at + _FIELD : at + 2 * _FIELD]
        if not offset[0]:
            return
        yield _number(offset), _number(length)


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(bytes((field[0] & 0x3F, *field[1:])))
    return _numbers([field.strip(b" \0").partition(b"\0")[0].decode("ascii", "replace") or "0"], 8)[0]


def _numbers(texts: list[str], base: int = 10) -> list[int]:
    if not all(text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS for text in texts):
        raise SparseError("a number that is none")
    try:
        return [int(text, base) for text in texts]
    except ValueError:
        raise SparseError("a number that is none") from None
