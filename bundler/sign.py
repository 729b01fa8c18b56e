"""Sign a bundle: the first signer writes the statement, every further one signs the same bytes.

A signer signs the hashes of two files, of three where there is a ``SHA512SUMS``; before doing so this checks that they
describe what lies there: the index parses, every blob it reaches is present with the right size, ``SHA256SUMS`` and
``SHA512SUMS`` list exactly that and nothing else is in the folder.
The bytes of the blobs are not read again here (``airgap-audit verify`` does that); a wrong one can never be accepted.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from airgap_images import sha512
from airgap_images.bundle import STREAM, closure, listed512, parse_index, strays, sums
from airgap_images.layout import Layout, read_regular, require_layout, write_atomic
from airgap_images.oci import Digest, Index
from audit.signers import Signer
from audit.verify.recognise import recognise
from audit.verify.result import Ignored, Signature
from audit.verify.trust import discounted
from audit.verify.walk import MAX_INDEX, MAX_SUMS, signature_files
from manifests import statement
from manifests.errors import IntegrityError, TrustError, UsageError
from manifests.paths import NAME, printable
from manifests.policy import Policy
from manifests.statement import MODEL_SUFFIX, SHA512SUMS, SUFFIX, DigestMap, Envelope, Predicate, Statement

BUILD_AGAIN = "build the bundle again"
NOT_CNSA = "write `profile: cnsa` into bundle.yaml; lock and build again, then sign"

_TORN = re.compile(rf"\..+(?:{re.escape(SUFFIX)}|{re.escape(MODEL_SUFFIX)})\.[0-9a-f]{{16}}")  # what write_atomic leaves when it is killed


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
class Standing:
    """Who has signed by a policy: ``signed`` and ``waiting`` are names, ``missing`` says what is lacking, None if nothing is.

    ``ignored`` are the files that do not count; ``failures`` say for which of them every site would refuse the bundle.
    """

    signed: tuple[str, ...]
    waiting: tuple[str, ...]
    missing: str | None
    ignored: tuple[Ignored, ...]
    failures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Signed:
    """What was done: ``added`` is False if this key had signed before; ``signatures`` are all there are now."""

    file: Path
    added: bool
    predicate: Predicate
    digest: Digest
    signatures: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the name under which the signer has signed."""
        return self.file.name.removesuffix(SUFFIX)


def sign(folder: Path, signer: Signer, terms: Terms, policy: Policy | None = None) -> Signed:
    """Add ``signer``'s signature to the bundle in ``folder``; raises UsageError, IntegrityError or TrustError.

    With ``policy`` a bundle that lacks what its profile requires is refused before anything is signed.
    """
    layout = require_layout(folder)
    _remove_torn(folder / "signatures")
    roots = _roots(folder)
    if policy and policy.profile == "cnsa" and SHA512SUMS not in roots:
        raise UsageError(f"{folder}: has no {SHA512SUMS}, which the policy's profile cnsa requires", hint=NOT_CNSA)
    raw = roots["index.json"]
    index = parse_index(raw)
    _check_whole(layout, index, roots)
    subjects = {name: _digests(data, twice=SHA512SUMS in roots) for name, data in roots.items()}
    present = _present(folder)
    payload = _common_payload(present) or _first_payload(index, subjects, terms)
    predicate = _check_same(payload, index, subjects, terms)
    for name, envelope in present:
        if signer.made(envelope):
            return Signed(folder / name, added=False, predicate=predicate, digest=Digest.of(raw), signatures=tuple(n for n, _ in present))
    path = _write(folder, signer, payload)
    names = (*(name for name, _ in present), f"signatures/{path.name}")
    return Signed(path, added=True, predicate=predicate, digest=Digest.of(raw), signatures=tuple(sorted(names)))


def _roots(folder: Path) -> dict[str, bytes]:
    """Return the files to sign by name: the index, and the sums that are there."""
    limits = {"index.json": MAX_INDEX, "SHA256SUMS": MAX_SUMS} | ({SHA512SUMS: MAX_SUMS} if os.path.lexists(folder / SHA512SUMS) else {})
    return {name: read_regular(folder / name, name, limit) for name, limit in limits.items()}


def _digests(data: bytes, *, twice: bool) -> dict[str, str]:
    return {"sha256": Digest.of(data).hex} | ({"sha512": sha512.of(data)} if twice else {})


def stream(folder: Path) -> str:
    """Return the stream of the bundle in ``folder``, as its index says."""
    require_layout(folder)
    index = parse_index(read_regular(folder / "index.json", "index.json", MAX_INDEX))
    return dict(index.annotations).get(STREAM, "")


def standing(folder: Path, policy: Policy, now: datetime) -> Standing:
    """Return who of ``policy`` has signed the bundle in ``folder`` by now, by the rules of steps 3 and 4."""
    found = recognise(policy, signature_files(folder / "signatures", "signatures", beside=MODEL_SUFFIX), now)
    counted: dict[str, Signature] = {}
    ignored = list(found.ignored)
    for _, signature in found.signatures:
        if reason := discounted(policy, signature, counted):
            ignored.append(Ignored(signature.file, reason))
        else:
            counted[signature.signer] = signature
    role = policy.roles.bundle
    waiting = tuple(name for name in role.signers if name not in counted and name not in policy.revoked.signers)
    failures = tuple(failure.message for failure in found.failures)
    return Standing(tuple(sorted(counted)), waiting, policy.missing(role, counted), tuple(ignored), failures)


def _remove_torn(signatures: Path) -> None:
    """Remove what an interrupted signing left: a file that never got its name."""
    for path in signatures.glob(".*"):
        if _TORN.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _present(folder: Path) -> tuple[tuple[str, Envelope], ...]:
    found = signature_files(folder / "signatures", "signatures", beside=MODEL_SUFFIX)
    return tuple((name, Envelope.parse(raw, name)) for name, raw in found)


def _common_payload(present: tuple[tuple[str, Envelope], ...]) -> bytes | None:
    payloads = {envelope.payload for _, envelope in present}
    if len(payloads) > 1:
        raise TrustError("signatures: the signers before you signed different statements", hint="remove `signatures/` and sign anew")
    return next(iter(payloads), None)


def _first_payload(index: Index, subjects: DigestMap, terms: Terms) -> bytes:
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


def _check_same(payload: bytes, index: Index, subjects: DigestMap, terms: Terms) -> Predicate:
    """Return what the statement says; whoever wrote it may be anybody, so raises unless it is about exactly what lies here."""
    found = Statement.parse(payload, "signed statement")
    predicate = found.bundle("signed statement")
    if {subject.name: subject.digest.digests for subject in found.subject} != subjects:
        raise TrustError("the bundle changed after it was signed", hint="remove `signatures/` and have everyone sign anew")
    if predicate.stream != dict(index.annotations).get(STREAM, ""):
        message = f"the statement in `signatures/` is for stream {predicate.stream!r}, which is not that of the bundle"
        raise TrustError(message, hint="somebody put it there: remove `signatures/` and have everyone sign anew")
    if terms.serial not in {None, predicate.serial}:
        raise UsageError(f"the bundle is signed with serial {predicate.serial}, not {terms.serial}", hint="leave --serial out")
    return predicate


def _check_whole(layout: Layout, index: Index, roots: dict[str, bytes]) -> None:
    blobs = closure(layout, index)
    if sums(roots["index.json"], blobs) != roots["SHA256SUMS"]:
        raise IntegrityError("SHA256SUMS: does not list exactly this bundle", hint=BUILD_AGAIN)
    if SHA512SUMS in roots:
        try:
            listed512(roots[SHA512SUMS], roots["index.json"], blobs)
        except IntegrityError as error:
            raise IntegrityError(error.message, hint=BUILD_AGAIN) from None
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
    envelope = signer.envelope(payload)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, envelope.to_bytes())
    return path
