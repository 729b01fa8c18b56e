"""Follow bytes as Python's unpickler would, without running, decoding or keeping any of them.

The walk accepts everything any unpickler accepts: arguments are stepped over and never decoded, memo entries are never
missing. So a file that it calls no pickle cannot be loaded as one, while text that only looks like opcodes soon needs
a value that is not on the stack. Opcodes, their arguments and stack effects: the standard library's ``pickletools``.
"""

from __future__ import annotations

import os
import pickletools
from dataclasses import dataclass
from typing import Literal, Protocol

MAX_OPCODES = 2_000_000  # followed in one file; real files are decided within a hundred
MAX_PROGRAMS = 64  # one after another in one file; old torch files hold five
MAX_LINE = 64 << 20  # bytes of a text argument without an end
CHUNK = 1 << 16  # bytes

Verdict = Literal["pickle", "no pickle", "undecided"]
OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
PROTO, STOP, MARK, POP = 0x80, ord("."), ord("("), ord("0")
CALLS = frozenset(b"Rbio\x81\x92")  # REDUCE BUILD INST OBJ NEWOBJ NEWOBJ_EX
IMPORTS = frozenset(b"ci\x93\x82\x83\x84")  # GLOBAL INST STACK_GLOBAL EXT1 EXT2 EXT4
HIGHEST = 5  # protocol
NUMBERS = frozenset("ILFgp")  # opcodes whose argument is a number in text: INT LONG FLOAT GET PUT
STRING = "S"
PREFIXES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


class Reader(Protocol):
    """What is read: a file or a bounded part of one."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes."""

    def seek(self, offset: int, whence: int, /) -> int:
        """Move, also past the end."""


class _EndError(Exception):
    """The unpickler would stop here with an error."""


class _UndecidedError(Exception):
    """The walk gives up here."""


@dataclass(slots=True)
class _Program:
    """One pickle up to its STOP; ``stack`` holds the number of values above each mark."""

    stack: list[int]
    opcodes: int = 0
    versioned: bool = False
    imports: bool = False
    calls: bool = False
    stopped: bool = False

    def counts(self, doubtful: bool) -> bool:
        """Say whether what was followed is a pickle and nothing that only looks like one."""
        # Without the version opcode only data may have been seen: `N.` is a whole pickle, and the start of a sentence.
        if self.versioned and (not doubtful or self.stopped):
            return self.imports or self.opcodes > 1
        if doubtful:  # weights that begin like a value: only what was imported can be called
            return self.imports and (self.calls or self.stopped)
        return self.calls or (self.imports and self.stopped)


def follow(reader: Reader, *, doubtful: bool = False) -> Verdict:
    """Say whether the bytes of ``reader`` from where it stands are one or more pickles.

    A cut-off pickle is one too, unless it is ``doubtful`` because the bytes have the form of something else.
    """
    left = MAX_OPCODES
    for _ in range(MAX_PROGRAMS):
        program = _Program([0])
        try:
            while not program.stopped and left and not program.counts(doubtful):
                _step(reader, program)
                left -= 1
        except _EndError:
            return "pickle" if program.counts(doubtful) else "no pickle"
        except _UndecidedError:
            return "pickle" if program.counts(doubtful) else "undecided"
        if program.counts(doubtful):
            return "pickle"
        if not left:
            break
    return "undecided"


def _step(reader: Reader, program: _Program) -> None:
    byte = reader.read(1)
    if not byte:
        raise _EndError
    opcode = OPCODES.get(byte[0])
    if opcode is None:
        raise _EndError
    _arguments(reader, opcode)
    program.imports |= byte[0] in IMPORTS  # some unpicklers import before they look at the stack
    _stack(byte[0], opcode, program.stack)
    program.opcodes += 1
    program.versioned |= byte[0] == PROTO and program.opcodes == 1
    program.calls |= byte[0] in CALLS
    program.stopped = byte[0] == STOP


def _arguments(reader: Reader, opcode: pickletools.OpcodeInfo) -> None:
    if opcode.arg is None:
        return
    if opcode.arg.n == pickletools.UP_TO_NEWLINE:
        for _ in range(2 if opcode.arg.name == "stringnl_noescape_pair" else 1):
            _line(reader, opcode.code)
        return
    width = PREFIXES.get(opcode.arg.n)
    raw = _exactly(reader, opcode.arg.n if width is None else width)
    if width is not None:
        _skip(reader, int.from_bytes(raw, "little"))
    elif opcode.name == "PROTO" and raw[0] > HIGHEST:
        raise _EndError


def _exactly(reader: Reader, size: int) -> bytes:
    raw = reader.read(size)
    if len(raw) < size:
        raise _EndError
    return raw


def _skip(reader: Reader, size: int) -> None:
    if size == 0:
        return
    if size >= 1 << 62:
        raise _EndError
    reader.seek(size - 1, os.SEEK_CUR)
    _exactly(reader, 1)


def _line(reader: Reader, code: str) -> None:
    """Step over a text argument; one that no unpickler takes, because it is no number or no quoted text, ends the program."""
    for number in range(MAX_LINE // CHUNK):
        chunk = reader.read(CHUNK)
        at = chunk.find(b"\n")
        stated = chunk[:at] if at >= 0 else chunk
        if (code in NUMBERS and b"\0" in stated) or (code == STRING and number == 0 and stated[:1] not in {b"'", b'"'}):
            raise _EndError
        if at >= 0:
            reader.seek(at + 1 - len(chunk), os.SEEK_CUR)
            return
        if len(chunk) < CHUNK:
            raise _EndError
    raise _UndecidedError


def _stack(code: int, opcode: pickletools.OpcodeInfo, stack: list[int]) -> None:
    before = opcode.stack_before
    if code == MARK:
        stack.append(0)
    elif code == POP and not stack[-1] and len(stack) > 1:
        stack.pop()  # POP takes a mark too
    elif pickletools.markobject in before:
        at = before.index(pickletools.markobject)
        inside = len(before) - at - 2  # values that must lie above the mark, the slice not counted
        if len(stack) == 1 or stack[-1] < inside:
            raise _EndError
        stack.pop()
        _replace(stack, at, len(opcode.stack_after))
    else:
        _replace(stack, len(before), len(opcode.stack_after))


def _replace(stack: list[int], taken: int, given: int) -> None:
    if stack[-1] < taken:
        raise _EndError
    stack[-1] += given - taken
