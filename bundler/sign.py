"""Sign a bundle: the first signer writes the statement, every further one signs the same bytes.

A signer signs two hashes; before doing so this checks that they describe what lies there: the index parses, every
blob it reaches is present with the right size, ``SHA256SUMS`` lists exactly that and nothing else is in the folder.
The bytes of the blobs are not read again here (``airgap-audit verify`` does that); a wrong one can never be accepted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from airgap_images.bundle import STREAM, closure, parse_index, strays, sums
from airgap_images.layout import Layout, read_regular, require_layout, write_atomic
from airgap_images.oci import Digest, Index
from audit.verify.trust import verifies
from audit.verify.walk import MAX_INDEX, MAX_SUMS, read_signatures
from bundler.keys import Signer
from manifests import statement
from manifests.errors import IntegrityError, TrustError, UsageError
from manifests.paths import NAME, printable
from manifests.policy import Policy
from manifests.publickey import algorithm_of
from manifests.statement import SUFFIX, Envelope, Predicate, Statement

_TORN = re.compile(rf"\..+{re.escape(SUFFIX)}\.[0-9a-f]{{16}}")  # what write_atomic leaves when it is killed


@dataclass(frozen=True, slots=True)
class Terms:
    """What the first signer states; ``previous`` is the sha256 (hex) of the bundle before this one."""

    serial: int | None
    created: datetime
    expires: datetime
    previous: str | None
    policy_version: int | None
    tool: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Signed:
    """What was done: ``added`` is False if this key had signed before; ``signatures`` are all there are now."""

    file: Path
    added: bool
    predicate: Predicate
    digest: Digest
    signatures: tuple[str, ...]


def sign(folder: Path, signer: Signer, terms: Terms) -> Signed:
    """Add ``signer``'s signature to the bundle in ``folder``; raises UsageError, IntegrityError or TrustError."""
    layout = require_layout(folder)
    _remove_torn(folder / "signatures")
    raw, listed = read_regular(folder / "index.json", "index.json", MAX_INDEX), read_regular(folder / "SHA256SUMS", "SHA256SUMS", MAX_SUMS)
    index = parse_index(raw)
    _check_whole(layout, index, raw, listed)
    subjects = {"index.json": Digest.of(raw).hex, "SHA256SUMS": Digest.of(listed).hex}
    present = _present(folder)
    payload = _common_payload(present) or _first_payload(index, subjects, terms)
    predicate = _check_same(payload, subjects, terms)
    for name, envelope in present:
        if envelope.hint == statement.hint(signer.key_id):
            return Signed(folder / name, added=False, predicate=predicate, digest=Digest.of(raw), signatures=tuple(n for n, _ in present))
    path = _write(folder, signer, payload)
    names = (*(name for name, _ in present), f"signatures/{path.name}")
    return Signed(path, added=True, predicate=predicate, digest=Digest.of(raw), signatures=tuple(sorted(names)))


def stream(folder: Path) -> str:
    """Return the stream of the bundle in ``folder``, as its index says."""
    require_layout(folder)
    index = parse_index(read_regular(folder / "index.json", "index.json", MAX_INDEX))
    return dict(index.annotations).get(STREAM, "")


def signers(folder: Path, policy: Policy) -> frozenset[str]:
    """Return which signers of ``policy`` have a valid signature beside the bundle in ``folder``."""
    made = [envelope for _, envelope in _present(folder)]
    known = policy.signers.items()
    return frozenset(name for name, who in known if any(verifies(who.public_key, who.alg, e.signature, e.message) for e in made))


def _remove_torn(signatures: Path) -> None:
    """Remove what an interrupted signing left: a file that never got its name."""
    for path in signatures.glob(f".*{SUFFIX}.*"):
        if _TORN.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _present(folder: Path) -> tuple[tuple[str, Envelope], ...]:
    signatures = folder / "signatures"
    if not signatures.exists() or (signatures.is_dir() and not any(signatures.iterdir())):  # empty: an interrupted first signing
        return ()
    return tuple((name, Envelope.parse(raw, name)) for name, raw in read_signatures(folder))


def _common_payload(present: tuple[tuple[str, Envelope], ...]) -> bytes | None:
    payloads = {envelope.payload for _, envelope in present}
    if len(payloads) > 1:
        raise TrustError("signatures: the signers before you signed different statements", hint="remove `signatures/` and sign anew")
    return next(iter(payloads), None)


def _first_payload(index: Index, subjects: dict[str, str], terms: Terms) -> bytes:
    stream = dict(index.annotations).get(STREAM, "")
    if not NAME.fullmatch(stream):
        raise IntegrityError(f"index.json: stream {printable(stream)!r} is not a name", hint="build the bundle again")
    if terms.serial is None:
        raise UsageError("the first signature needs a serial", hint="add --serial N, one more than the last bundle of this stream")
    return statement.payload(
        subjects,
        stream=stream,
        serial=terms.serial,
        created=terms.created,
        expires=terms.expires,
        previous=terms.previous,
        policy_version=terms.policy_version,
        tool=terms.tool,
    )


def _check_same(payload: bytes, subjects: dict[str, str], terms: Terms) -> Predicate:
    found = Statement.parse(payload, "signed statement")
    predicate = found.bundle("signed statement")
    if {subject.name: subject.digest.sha256 for subject in found.subject} != subjects:
        raise TrustError("the bundle changed after it was signed", hint="remove `signatures/` and have everyone sign anew")
    if terms.serial not in {None, predicate.serial}:
        raise UsageError(f"the bundle is signed with serial {predicate.serial}, not {terms.serial}", hint="leave --serial out")
    return predicate


def _check_whole(layout: Layout, index: Index, raw: bytes, listed: bytes) -> None:
    blobs = closure(layout, index)
    if sums(raw, blobs) != listed:
        raise IntegrityError("SHA256SUMS: does not list exactly this bundle", hint="build the bundle again")
    absent = [digest for digest, size in blobs.items() if not layout.has(digest, size)]
    if absent:
        raise IntegrityError(f"blobs/sha256/{absent[0].hex}: missing or of another size", hint="run the build again; it resumes")
    extra = strays(layout.root, blobs)
    if extra:
        raise IntegrityError(f"{printable(extra[0])}: does not belong to the bundle", hint="remove it, then sign")


def _write(folder: Path, signer: Signer, payload: bytes) -> Path:
    path = folder / "signatures" / f"{signer.name}{SUFFIX}"
    if path.exists():
        raise UsageError(f"{path}: another key has signed under this name", hint="give yours another name with --name")
    signature = signer.sign(statement.pae(payload))
    # A token or service may answer with anything: what does not verify must never be written.
    if not verifies(signer.public_key, algorithm_of(signer.public_key), signature, statement.pae(payload)):
        raise TrustError(f"{signer.name}: the key returned a signature that does not verify", hint="check the key, then sign again")
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, Envelope(statement.hint(signer.key_id), payload, signature).to_bytes())
    return path
