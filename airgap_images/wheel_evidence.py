"""What a Python package index publishes beside its files (PEP 740 attestations), as the tree that carries it.

Beside a component ``NAME`` of wheels a tree ``NAME.upstream`` holds ``upstream.json``, which says of every file whether the index had
a provenance for it or why none is here, and ``provenance/<sha256 of it>.json``, the index's bytes. Nothing in it is believed before
a signature is checked against a policy; what this module proves is that the tree is whole, bounded and what its names say. No network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from airgap_images.bundle import FILE, TreeFile, tree_files
from airgap_images.evidence import LISTING, MAX_LISTING, SUFFIX
from airgap_images.layout import Layout
from airgap_images.oci import Descriptor, Digest
from manifests import canonical
from manifests.errors import AirgapError, IntegrityError, InvalidFileError
from manifests.lock import Frozen, Name, RelativePath, Sha256, parse_model
from manifests.paths import printable

__all__ = ["LISTING", "SUFFIX", "Attested", "WheelEvidence", "WheelTree", "load", "provenance_path"]

FORMAT = "airgap.wheels/v1"
MAX_WHEELS = 10_000  # files of one component
MAX_PROVENANCE = 1 << 20  # bytes of one; those in use have 5 to 20 KB
MAX_TOTAL = 64 << 20  # bytes of all provenance files of one tree
MAX_WHY = 512  # characters

_PROVENANCE = r"^provenance/[0-9a-f]{64}\.json$"
_HINT = "the bundle was not made by this tool, or was damaged: distrust it"


@dataclass(frozen=True, slots=True)
class Attested:
    """A file (``path`` in the tree beside) of which the index had a provenance, which is ``provenance`` in this tree."""

    path: str
    sha256: str
    provenance: str


@dataclass(frozen=True, slots=True)
class WheelEvidence:
    """What ``upstream.json`` says of the component ``of``; ``absent`` holds (why, paths) of files without a provenance.

    A value from ``parse`` is consistent in itself: every file stands there once.
    """

    of: str
    attested: tuple[Attested, ...]
    absent: tuple[tuple[str, tuple[str, ...]], ...]

    def to_text(self) -> str:
        """Return the one encoding."""
        return canonical.readable(
            {
                "format": FORMAT,
                "of": self.of,
                "attested": [{"path": one.path, "sha256": one.sha256, "provenance": one.provenance} for one in self.attested],
                "absent": [{"why": why, "paths": list(paths)} for why, paths in self.absent],
            }
        ).decode()

    @classmethod
    def parse(cls, raw: bytes, what: str) -> Self:
        """Parse hostile bytes; raises InvalidFileError on anything off."""
        wire = parse_model(_Wire, canonical.parse(raw, what, limit=MAX_LISTING), what, _HINT)
        attested = tuple(Attested(one.path, one.sha256, one.provenance) for one in wire.attested)
        return cls(wire.of, attested, tuple((group.why, group.paths) for group in wire.absent))


@dataclass(frozen=True, slots=True)
class WheelTree:
    """The listing and the bytes behind it; every read is bounded and re-hashed."""

    evidence: WheelEvidence
    layout: Layout
    files: Mapping[str, TreeFile]

    def provenance(self, attested: Attested) -> tuple[Digest, bytes]:
        """Return the provenance of a file."""
        found = self.files[attested.provenance]
        return found.digest, self.layout.read(Descriptor(FILE, found.digest, found.size), MAX_PROVENANCE)


def provenance_path(sha256: str) -> str:
    """Return where a provenance stands in the tree, by its own sha256."""
    return f"provenance/{sha256}.json"


def load(layout: Layout, root: Descriptor) -> WheelTree:
    """Return the evidence below ``root``, the root of a ``NAME.upstream`` tree of kind ``python``.

    Raises IntegrityError unless every file is there, is what it is named, and is listed.
    """
    try:
        files = {file.path: file for file in tree_files(layout, root)}
        listing = files.pop(LISTING, None)
        if listing is None:
            raise _distrust(f"{LISTING} is missing")
        raw = layout.read(Descriptor(FILE, listing.digest, listing.size), MAX_LISTING)
        evidence = WheelEvidence.parse(raw, LISTING)
    except InvalidFileError as error:
        raise IntegrityError(error.message, hint=_HINT) from None
    _check_listed(evidence, files)
    return WheelTree(evidence, layout, files)


def _check_listed(evidence: WheelEvidence, files: dict[str, TreeFile]) -> None:
    listed = {one.provenance for one in evidence.attested}
    strays, missing = sorted(files.keys() - listed), sorted(listed - files.keys())
    if strays or missing:
        raise _distrust(f"{printable(strays[0])} is not listed" if strays else f"{missing[0]} is missing")
    for file in files.values():
        if file.path != provenance_path(file.digest.hex):
            raise _distrust(f"{printable(file.path)} holds sha256 {file.digest.hex}")
        if file.size > MAX_PROVENANCE:
            raise _distrust(f"{file.path} has {file.size} bytes, at most {MAX_PROVENANCE} allowed")
    total = sum(file.size for file in files.values())
    if total > MAX_TOTAL:
        raise _distrust(f"{total} bytes, at most {MAX_TOTAL} allowed")


def _distrust(why: str) -> AirgapError:
    return IntegrityError(f"evidence of an index: {why}", hint=_HINT)


class _Attested(Frozen):
    path: RelativePath
    sha256: Sha256
    provenance: str = Field(pattern=_PROVENANCE)


class _Absent(Frozen):
    why: Annotated[str, Field(min_length=1, max_length=MAX_WHY)]
    paths: tuple[RelativePath, ...] = Field(min_length=1, max_length=MAX_WHEELS, strict=False)


class _Wire(Frozen):
    format: Literal["airgap.wheels/v1"]
    of: Name
    attested: tuple[_Attested, ...] = Field(max_length=MAX_WHEELS, strict=False)
    absent: tuple[_Absent, ...] = Field(max_length=MAX_WHEELS, strict=False)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        paths = [*(one.path for one in self.attested), *(path for group in self.absent for path in group.paths)]
        if len(paths) > MAX_WHEELS or len(set(paths)) != len(paths):
            raise ValueError(f"a file stands twice, or there are more than {MAX_WHEELS}")
        if len({group.why for group in self.absent}) != len(self.absent):
            raise ValueError("a reason stands twice")
        return self
