"""What a pickle imports, told without running it: the names its opcodes give to the unpickler, constants followed through stack and memo.

Rules: a name that is not a constant, an opcode that takes a name from a registry, or bytes that cannot be followed to the end mean that
not all imports are known, and that is an error and never "none". Source of opcodes: the standard library's ``pickletools``.
"""

from __future__ import annotations

import pickletools
from typing import Any, BinaryIO

MAX_OPCODES = 20_000_000  # of one stream
MAX_ARGUMENT = 64 << 20  # bytes of one constant
MAX_STREAMS = 64  # one after another in one file
MAX_NAMES = 10_000
MARK = pickletools.markobject
GET, PUT = frozenset({"GET", "BINGET", "LONG_BINGET"}), frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
TEXTS = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"})
REGISTRY = frozenset({"EXT1", "EXT2", "EXT4"})
OUTSIDE = frozenset({"NEXT_BUFFER"})

ALLOWED = frozenset(
    {("collections", "OrderedDict"), ("_codecs", "encode")}
    | {(module, name) for module in ("builtins", "__builtin__") for name in ("set", "frozenset", "bytearray", "complex", "slice")}
    | {
        ("torch._utils", f"_rebuild_{name}")
        for name in ("tensor", "tensor_v2", "tensor_v3", "parameter", "qtensor", "sparse_tensor", "meta_tensor_no_storage", "nested_tensor")
    }
    | {("torch", f"{name}Storage") for name in ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")}
    | {("torch", f"{name}Storage") for name in ("ComplexFloat", "ComplexDouble", "QInt8", "QUInt8", "QInt32")}
    | {("torch.storage", "UntypedStorage"), ("torch", "Size"), ("torch", "device"), ("torch.serialization", "_get_layout")}
    | {("torch", name) for name in ("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool")}
    | {("torch", name) for name in ("float8_e4m3fn", "float8_e5m2", "complex64", "complex128", "per_tensor_affine", "per_channel_affine")}
    | {(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")}
    | {(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")}
    | {("numpy", "ndarray"), ("numpy", "dtype")}
)
"""What rebuilding tensors and arrays needs; exactly these names, compared as they stand."""


class UnfollowedError(Exception):
    """Why not all imports of a pickle can be told."""


class _Bounded:
    """A file that never reads a large constant at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_ARGUMENT:
            raise UnfollowedError(f"a constant of more than {MAX_ARGUMENT} bytes")
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline(MAX_ARGUMENT)
        if len(line) == MAX_ARGUMENT:
            raise UnfollowedError(f"a constant of more than {MAX_ARGUMENT} bytes")
        return line

    def tell(self) -> int:
        return self._file.tell()


def imports(file: BinaryIO) -> frozenset[tuple[str, str]]:
    """Return (module, name) of everything the pickles in ``file`` import, from where it stands; raises UnfollowedError.

    Bytes after the first pickle that are no further one are left alone, as loaders do: old torch files keep their tensors there.
    """
    found: set[tuple[str, str]] = set()
    for stream in range(MAX_STREAMS):
        before = len(found)
        try:
            _stream(file, found)
        except UnfollowedError:
            if stream == 0 or len(found) > before:
                raise
            return frozenset(found)
    return frozenset(found)


def _stream(file: BinaryIO, found: set[tuple[str, str]]) -> None:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(_Bounded(file))):  # type: ignore[arg-type]
            _step(opcode, argument, stack, memo, found)
            _limit(count, found)
    except UnfollowedError:
        raise
    except Exception as error:  # noqa: BLE001 - what hostile bytes raise in the reader; all of it means the same
        raise UnfollowedError(f"cannot be followed to its end: {str(error)[:80]}") from None


def _limit(count: int, found: set[tuple[str, str]]) -> None:
    if count > MAX_OPCODES or len(found) > MAX_NAMES:
        raise UnfollowedError("more opcodes or names than are followed")


def _step(opcode: pickletools.OpcodeInfo, argument: Any, stack: list[Any], memo: dict[int, Any], found: set[tuple[str, str]]) -> None:
    name = opcode.name
    if name in REGISTRY or name in OUTSIDE:
        raise UnfollowedError(f"takes what it loads from elsewhere ({name})")
    if name in {"GLOBAL", "INST"}:
        module, _, what = str(argument).partition(" ")
        found.add((module, what))
    elif name == "STACK_GLOBAL":
        if len(stack) < 2 or not all(isinstance(value, str) for value in stack[-2:]):  # noqa: PLR2004 - module and name
            raise UnfollowedError("computes the name of what it imports")
        found.add((stack[-2], stack[-1]))
    _move(opcode, argument, stack, memo)


def _move(opcode: pickletools.OpcodeInfo, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    """Change stack and memo as the unpickler would, with texts as they are and None for every other value."""
    name = opcode.name
    if name in PUT:
        memo[len(memo) if name == "MEMOIZE" else int(argument)] = stack[-1]
    elif name in GET:
        stack.append(memo[int(argument)])
    elif name == "DUP":
        stack.append(stack[-1])
    elif name in TEXTS:
        stack.append(argument if isinstance(argument, str) else argument.decode("latin-1"))
    elif name == "MARK":
        stack.append(MARK)
    elif name == "POP":
        stack.pop()
    else:
        before = opcode.stack_before
        if MARK in before:
            while stack.pop() is not MARK:
                pass
            before = before[: before.index(MARK)]
        for _ in before:
            stack.pop()
        stack += [None] * len(opcode.stack_after)
