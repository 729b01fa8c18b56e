"""How large a model's weights are, by the headers of its safetensors files: a few kilobytes of each are read, by range, and no weights.

Format: safetensors, "Format" section of its README: eight bytes of length, then JSON. Rules: servers are hostile: a header is bounded, what
is not a header is said and nothing is guessed from names of files.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airgap_images.remote.http import Client, Credentials
from bundler.fetch import LOCAL
from manifests.errors import IntegrityError
from manifests.lock import LockedComponent, Pin
from manifests.paths import printable

FIRST = 256 << 10  # bytes asked for at once; most headers of shards are smaller
MAX_HEADER = 100_000_000  # bytes; the limit of the reference implementation
AT_ONCE = 8
SAFETENSORS = ".safetensors"
Read = Callable[[Pin, int], bytes]  # the first bytes of a pin's file


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of a model: parameters by number type, and bytes of all tensors; ``files`` says how many headers were read."""

    parameters: Mapping[str, int]
    size: int
    files: int

    @property
    def count(self) -> int:
        """Return the number of parameters."""
        return sum(self.parameters.values())


class _EnoughError(Exception):
    """All bytes that were wanted are there."""


def weights(component: LockedComponent, read: Read) -> Weights | None:
    """Return the size of a model's weights, None if it has no safetensors files; raises IntegrityError for a header that is none."""
    pins = [pin for pin in component.files if pin.path.endswith(SAFETENSORS)]
    if not pins:
        return None
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        headers = list(pool.map(lambda pin: _header(component.name, pin, read), pins))
    parameters: Counter[str] = Counter()
    size = 0
    for pin, header in zip(pins, headers, strict=True):
        for name, tensor in header.items():
            if name != "__metadata__":
                kind, count, length = _tensor(component.name, pin, tensor)
                parameters[kind] += count
                size += length
    return Weights(dict(sorted(parameters.items())), size, len(pins))


def reader(client: Client, folder: Path, credentials: Credentials) -> Read:
    """Return what reads the first bytes of a pin's file: from disk, relative to ``folder``, or by HTTP with a range."""

    def read(pin: Pin, count: int) -> bytes:
        if pin.url.startswith(LOCAL):
            with (folder / pin.url.removeprefix(LOCAL)).open("rb") as opened:
                return opened.read(count)
        return _ranged(client, pin.url, count, credentials)

    return read


def _ranged(client: Client, url: str, count: int, credentials: Credentials) -> bytes:
    """Return the first bytes of a body; a server that ignores the range is left when there are enough."""
    found = bytearray()

    def sink(data: bytes | memoryview) -> None:
        found.extend(data)
        if len(found) >= count:
            raise _EnoughError

    with contextlib.suppress(_EnoughError):
        client.download(url, sink, headers=(f"Range: bytes=0-{count - 1}",), credentials=credentials)
    return bytes(found[:count])


def _header(name: str, pin: Pin, read: Read) -> dict[str, Any]:
    raw = read(pin, min(FIRST, pin.size))
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or length > min(MAX_HEADER, pin.size - 8):  # noqa: PLR2004 - the length itself
        raise _wrong(name, pin, "does not begin with the length of a header")
    if len(raw) < 8 + length:
        raw = read(pin, 8 + length)
    try:
        value = json.loads(raw[8 : 8 + length])
    except (ValueError, RecursionError):
        raise _wrong(name, pin, "has a header that is no JSON") from None
    if not isinstance(value, dict):
        raise _wrong(name, pin, "has a header that is no JSON object")
    return value


def _tensor(name: str, pin: Pin, tensor: Any) -> tuple[str, int, int]:
    """Return number type, parameters and bytes of a tensor."""
    try:
        kind, shape, (start, end) = str(tensor["dtype"]), tensor["shape"], tensor["data_offsets"]
        count, possible = math.prod(int(width) for width in shape), 0 <= start <= end <= pin.size
    except (KeyError, TypeError, ValueError, OverflowError):
        kind, count, start, end, possible = "", 0, 0, 0, False
    if not possible or not 0 <= count <= 8 * pin.size:
        raise _wrong(name, pin, "has a header with a tensor that cannot be")
    return kind, count, end - start


def _wrong(name: str, pin: Pin, what: str) -> IntegrityError:
    return IntegrityError(f"{name}: {printable(pin.path)} {what}", hint="distrust where it comes from; the build would refuse it")
