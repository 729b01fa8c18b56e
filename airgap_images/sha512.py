"""The second hash of profile cnsa: SHA-512 beside SHA-256, computed over the same bytes in the same read.

Blobs keep their sha256 as name; ``SHA512SUMS`` states the sha512 of each, of ``index.json`` and of ``oci-layout``, in the one
encoding that ``encode`` writes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from manifests.errors import IntegrityError
from manifests.paths import printable

SHA512SUMS = "SHA512SUMS"
RULE = "6.sha512"  # of docs/trust.md
SIGNED_WRONG = "the signers signed a broken bundle"
VALUE = re.compile(r"[0-9a-f]{128}")

_LINE = re.compile(r"([0-9a-f]{128})  (blobs/sha256/[0-9a-f]{64}|index\.json|oci-layout)")


@dataclass(slots=True)
class Second:
    """A running sha512 of what is being hashed; ``expected`` (hex) is what it must be, None where that is to be found out."""

    expected: str | None = None
    _hash: Any = field(default_factory=hashlib.sha512)

    def update(self, data: bytes | memoryview) -> None:
        """Hash the next bytes."""
        self._hash.update(data)

    @property
    def hex(self) -> str:
        """Return the sha512 (hex) of all bytes so far."""
        return str(self._hash.hexdigest())

    @property
    def matches(self) -> bool:
        """Say whether the bytes so far are what was expected."""
        return self.expected in {None, self.hex}

    def check(self, what: str) -> None:
        """Raise IntegrityError unless the bytes so far are what was expected."""
        if not self.matches:
            message = f"{what}: content is sha512 {self.hex}, expected {self.expected}"
            raise IntegrityError(message, hint="distrust this bundle: its two hashes name different bytes", rule=RULE)


def of(data: bytes) -> str:
    """Return the sha512 (hex) of small data."""
    return hashlib.sha512(data).hexdigest()


def encode(values: Mapping[str, str]) -> bytes:
    """Return the text of ``SHA512SUMS`` for sha512 values (hex) by path, sorted by path."""
    return "".join(f"{value}  {name}\n" for name, value in sorted(values.items())).encode()


def decode(raw: bytes) -> dict[str, str]:
    """Return the sha512 values (hex) of ``SHA512SUMS`` by path; raises IntegrityError unless it is in its one encoding."""
    found: dict[str, str] = {}
    for line in raw.decode("ascii", "replace").split("\n")[:-1]:
        match = _LINE.fullmatch(line)
        if match is None:
            raise IntegrityError(f"{SHA512SUMS}: line {printable(line)!r} is not in its form", hint=SIGNED_WRONG, rule=RULE)
        found[match[2]] = match[1]
    if encode(found) != raw:
        raise IntegrityError(f"{SHA512SUMS}: not sorted by path, each path once", hint=SIGNED_WRONG, rule=RULE)
    return found
