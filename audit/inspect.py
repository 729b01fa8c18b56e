"""Look into a bundle without proving it: what it says of itself, which is worth nothing until ``verify`` has passed."""

from __future__ import annotations

from dataclasses import dataclass

from airgap_images.bundle import Component, closure, components, parse_index, tree_files
from airgap_images.layout import read_regular
from airgap_images.oci import IMAGE_INDEX, Digest, Index
from audit.verify.walk import MAX_INDEX, Place, read_signatures
from manifests.errors import AirgapError
from manifests.statement import Envelope, Predicate, Statement


@dataclass(frozen=True, slots=True)
class Claim:
    """What one signature file claims; ``problem`` says why it cannot be read. Nothing of it is checked."""

    file: str
    hint: str
    predicate: Predicate | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a bundle says it is. ``files`` counts the files of each tree by component name, ``sizes`` are bytes of what each lists."""

    digest: Digest
    annotations: tuple[tuple[str, str], ...]
    components: tuple[Component, ...]
    files: tuple[tuple[str, int], ...]
    sizes: tuple[tuple[str, int], ...]
    claims: tuple[Claim, ...]


def inspect(place: Place) -> Contents:
    """Return what the bundle at ``place`` says of itself; raises IntegrityError if that cannot even be read."""
    raw = read_regular(place.files / "index.json", "index.json", MAX_INDEX)
    index = parse_index(raw)
    parts = components(index)
    trees = {part.name: tuple(tree_files(place.layout, part.root)) for part in parts if part.form == "tree"}
    files = tuple((name, len(listed)) for name, listed in trees.items())
    sizes = [(part.name, sum(closure(place.layout, Index(b"", IMAGE_INDEX, (part.root,))).values())) for part in parts]
    return Contents(Digest.of(raw), index.annotations, parts, files, tuple(sizes), claims(place))


def claims(place: Place) -> tuple[Claim, ...]:
    """Return what the signature files beside a bundle claim; nothing of it is checked."""
    try:
        found = read_signatures(place.files)
    except AirgapError as error:
        return (Claim("signatures", "", None, error.message),)
    return tuple(_claim(name, raw) for name, raw in found)


def _claim(name: str, raw: bytes) -> Claim:
    try:
        envelope = Envelope.parse(raw, name)
        return Claim(name, envelope.hint, Statement.parse(envelope.payload, name).bundle(name))
    except AirgapError as error:
        return Claim(name, "", None, error.message)
