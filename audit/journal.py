"""The log of every operation on a store: one line each, and each line names the sha256 of the line before it.

Who keeps the head (on paper, in another system) can prove that nothing before it was changed, removed or put in.
Rules: a line is one canonical JSON document, bounded, written and synced before the operation goes on; appending is for the
holder of the store's lock. A line that was cut short by a kill is moved aside, never dropped, and the next entry says so.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import Field

from airgap_images.layout import open_regular, sync_directory, write_atomic
from airgap_images.oci import Digest, Pairs
from manifests import canonical
from manifests.errors import AirgapError, IntegrityError, SiteError
from manifests.identities import Time
from manifests.lock import Frozen, Sha256, parse_model
from manifests.paths import printable

FILE = "journal.jsonl"
GENESIS = "0" * 64  # what the first line names as the line before it
MAX_LINE = 64 << 10  # bytes
MAX_DETAILS = 24
MAX_TEXT = 400  # characters of one detail; at most 4 bytes each, so that a line always fits
TORN = re.compile(r"journal\.torn-(\d+)-[0-9a-f]{16}")
DAMAGED = "keep this file as evidence and find out who changed it; a new journal starts once it is moved away"


class Line(Frozen):
    """One line as it is written."""

    sequence: int = Field(ge=1)
    time: Time
    operation: str = Field(min_length=1, max_length=64)
    outcome: str = Field(min_length=1, max_length=64)
    details: dict[str, str] = Field(max_length=MAX_DETAILS)
    previous: Sha256


@dataclass(frozen=True, slots=True)
class Entry:
    """One operation; ``sha256`` (hex) is that of its own line, which the next line names."""

    sequence: int
    time: str
    operation: str
    outcome: str
    details: Pairs
    previous: str
    sha256: str

    def detail(self, key: str) -> str | None:
        """Return the detail ``key`` or None."""
        return dict(self.details).get(key)


@dataclass(frozen=True, slots=True)
class Head:
    """How far a journal goes: number of lines, sha256 (hex) of the last one. To be written on paper."""

    count: int
    sha256: str


def entries(folder: Path) -> Iterator[Entry]:
    """Yield every entry, checked as it is read, in constant memory; raises IntegrityError naming the line."""
    path = folder / FILE
    if not os.path.lexists(path):
        return
    previous = GENESIS
    with os.fdopen(open_regular(path, FILE), "rb") as file:
        for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), start=1):
            entry = _parse(raw, number, previous)
            previous = entry.sha256
            yield entry


def verify(folder: Path, *, head: str | None = None) -> Head:
    """Check the whole chain and return its head; raises IntegrityError naming the first line that is wrong.

    With ``head`` - a head noted earlier - the chain must still contain it.
    """
    count, last, met = 0, GENESIS, head in {None, GENESIS}
    for entry in entries(folder):
        count, last, met = entry.sequence, entry.sha256, met or entry.sha256 == head
    if not met:
        message = f"{FILE}: no line has the sha256 {printable(str(head))}; its last line is {count}, {last}"
        raise IntegrityError(message, hint="lines were removed or rewritten since that head was noted")
    return Head(count, last)


def mend(folder: Path, *, now: datetime) -> None:
    """Move a line that was cut short aside and record that; every other damage is left for ``verify`` to name."""
    if os.path.lexists(folder / FILE):
        with _opened(folder) as file:
            _mended(folder, file, now)


def append(folder: Path, operation: str, outcome: str, details: Mapping[str, str], *, now: datetime) -> Head:
    """Add one line, synced to disk, and return the new head; details are cut to ``MAX_TEXT`` characters each.

    Raises IntegrityError if the last line is not one this wrote, SiteError if the file cannot be written.
    """
    try:
        with _opened(folder) as file:
            head = _mended(folder, file, now)
            return _write(file, head, (operation, outcome), details, now)
    except OSError as error:
        raise SiteError(f"{folder / FILE}: cannot write: {error.strerror}", hint="check space and permissions, then run again") from None


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    fd = os.open(folder / FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        if not os.fstat(fd).st_size:  # new: who may only read the store may read this, whatever the umask
            os.fchmod(fd, 0o644)
        sync_directory(folder)
        yield fd
    finally:
        os.close(fd)


def _mended(folder: Path, file: int, now: datetime) -> Head:
    head = _set_torn_aside(folder, file)
    torn = _unrecorded(folder, head)
    if not torn:
        return head
    why = "an entry was cut short while it was written"
    return _write(file, head, ("journal", "repaired"), {"files": " ".join(torn), "why": why}, now)


def _set_torn_aside(folder: Path, file: int) -> Head:
    """Move what follows the last whole line into a file of its own, and return the head of the whole lines."""
    size = os.fstat(file).st_size
    tail = os.pread(file, 2 * MAX_LINE, max(0, size - 2 * MAX_LINE))
    whole, newline, torn = tail.rpartition(b"\n")
    if len(torn) > MAX_LINE:
        raise IntegrityError(f"{FILE}: does not end in a line this program writes", hint=DAMAGED)
    last = whole.rpartition(b"\n")[2] + newline
    head = Head(0, GENESIS)
    if last:
        found = _decode(last, f"{FILE}: last line")
        head = Head(found.sequence, Digest.of(last).hex)
    if torn:
        write_atomic(folder / f"journal.torn-{head.count + 1}-{Digest.of(torn).hex[:16]}", torn)
        os.ftruncate(file, size - len(torn))
        os.fsync(file)
    return head


def _unrecorded(folder: Path, head: Head) -> list[str]:
    """Return the torn files that no entry mentions: the entry that does has the sequence in their name."""
    found = [match for match in map(TORN.fullmatch, sorted(os.listdir(folder))) if match]
    return [match[0] for match in found if int(match[1]) == head.count + 1]


def _write(file: int, head: Head, what: tuple[str, str], details: Mapping[str, str], now: datetime) -> Head:
    cut = {key: printable(value, MAX_TEXT) for key, value in sorted(details.items())}
    line = Line(
        sequence=head.count + 1, time=canonical.stamp(now), operation=what[0], outcome=what[1], details=cut, previous=head.sha256
    )
    raw = _encode(line)
    view = memoryview(raw)
    while view:
        view = view[os.write(file, view) :]
    os.fsync(file)
    return Head(line.sequence, Digest.of(raw).hex)


def _parse(raw: bytes, number: int, previous: str) -> Entry:
    what = f"{FILE}: line {number}"
    if len(raw) > MAX_LINE:
        raise IntegrityError(f"{what}: longer than {MAX_LINE} bytes", hint=DAMAGED)
    if not raw.endswith(b"\n"):
        hint = "if a process was killed there, the next operation on this store sets the line aside and says so in the journal"
        raise IntegrityError(f"{what}: cut short, {len(raw)} bytes without an end", hint=hint)
    line = _decode(raw, what)
    if line.sequence != number:
        raise IntegrityError(f"{what}: has sequence {line.sequence}; lines are missing or moved", hint=DAMAGED)
    if line.previous != previous:
        raise IntegrityError(f"{what}: names {line.previous} as the line before it, which is {previous}", hint=DAMAGED)
    details = tuple(sorted(line.details.items()))
    return Entry(line.sequence, line.time, line.operation, line.outcome, details, line.previous, Digest.of(raw).hex)


def _decode(raw: bytes, what: str) -> Line:
    try:
        line = parse_model(Line, canonical.parse(raw, what, limit=MAX_LINE), what, DAMAGED)
    except AirgapError as error:
        raise IntegrityError(error.message, hint=DAMAGED) from None
    if _encode(line) != raw:
        raise IntegrityError(f"{what}: not in the form this program writes", hint=DAMAGED)
    return line


def _encode(line: Line) -> bytes:
    return canonical.compact(line.model_dump(mode="json")) + b"\n"
