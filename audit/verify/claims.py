"""What a carried manifest of upstream evidence claims, in the shapes there are. Parses; verifies nothing.

Shapes: cosign's older signatures (a simplesigning payload, its signature in the layer's annotations) and attestations (a DSSE
envelope), Sigstore bundles v0.1 to v0.3 (a DSSE envelope, or a signature over the image's manifest), and bundles rebuilt from
older keyless signatures. Everything is hostile: JSON is strict and bounded, base64 has one form, an envelope has exactly one
signature, a field that is not known is refused, so that no two readers of one document can see different ones.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airgap_images.evidence import EvidenceTree, Found
from airgap_images.oci import Descriptor, Digest, Manifest
from manifests import canonical
from manifests.errors import AirgapError, InvalidFileError
from manifests.paths import printable

SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
DSSE = "application/vnd.dsse.envelope.v1+json"
IN_TOTO = "application/vnd.in-toto+json"
BUNDLE = "application/vnd.dev.sigstore.bundle"  # the start of its media types
BUNDLES = frozenset({f"{BUNDLE}.v0.3+json", *(f"{BUNDLE}+json;version=0.{minor}" for minor in (1, 2, 3))})
NOTATION = "application/vnd.cncf.notary.signature"
SIGN = "https://sigstore.dev/cosign/sign/v1"  # predicate type of a signature; every other one is an attestation
STATEMENTS = frozenset({"https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"})
SIGNATURE_TYPE = "cosign container image signature"
LOG_ENTRIES = frozenset({("hashedrekord", "0.0.1"), ("hashedrekord", "0.0.2"), ("dsse", "0.0.1")})

MAX_SIMPLE = 64 << 10  # bytes of a simplesigning payload; those in use have 250
MAX_DOCUMENT = 32 << 20  # bytes of an envelope or bundle; an attested SBOM of a large image has some 10 MB
MAX_SUBJECTS = 1024  # of one statement
PEM = re.compile(r"-----(?:BEGIN|END) CERTIFICATE-----")
PLAIN = "it was made with a plain key, not with a certificate"
NOT_COMPLETED = "it is an older keyless signature without a proof that the log has it, and was not completed when it was collected"


class UnknownShapeError(AirgapError):
    """Something is there that cannot be judged here, whether it is good or not."""


@dataclass(frozen=True, slots=True)
class Keyless:
    """What to give the keyless verifier: a whole bundle, and the bytes it signs unless they are in its envelope."""

    bundle: bytes
    artifact: bytes | None


@dataclass(frozen=True, slots=True)
class Claim:
    """One signature: over ``message``, about ``digests``; ``predicate`` is None for a signature, else the attestation's type.

    ``payload`` is the statement inside an envelope. ``keyless`` is None where no keyless identity can have made it, or can be
    shown to have; ``no_keyless`` then says why, and ``unjudged`` whether that leaves it open.
    """

    predicate: str | None
    digests: tuple[Digest, ...]
    message: bytes
    signature: bytes
    payload: bytes | None = None
    keyless: Keyless | None = None
    no_keyless: str = PLAIN
    unjudged: bool = False


@dataclass(frozen=True, slots=True)
class Unsigned:
    """Something nobody signed: an attached SBOM, BuildKit's provenance."""

    media_type: str


@dataclass(frozen=True, slots=True)
class _Content:
    """The inside of a bundle or envelope, decoded."""

    predicate: str | None
    digests: tuple[Digest, ...]
    message: bytes
    signature: bytes
    payload: bytes | None


def claims(tree: EvidenceTree, found: Found, subjects: Mapping[Digest, bytes]) -> Iterator[Claim | Unsigned | AirgapError]:
    """Yield what each layer of a found manifest claims, or why it cannot be read.

    An UnknownShapeError leaves it open; any other error says that it is broken. ``subjects`` are the raw manifests by digest.
    """
    manifest = Manifest.parse(tree.manifest(found.manifest.digest), str(found.manifest.digest))
    if NOTATION in {manifest.artifact_type, manifest.config.media_type}:
        yield _unknown("a notation signature; this version judges Sigstore signatures only")
        return
    for layer in manifest.layers:
        try:
            yield _layer(tree, found, layer, subjects)
        except AirgapError as error:
            yield error


def attestation(bundle: bytes, what: str) -> Claim:
    """Return what a Sigstore bundle with a statement in it claims; raises like ``claims`` yields."""
    return _bundle(bundle, what, {}, Digest.of(b""))


def _layer(tree: EvidenceTree, found: Found, layer: Descriptor, subjects: Mapping[Digest, bytes]) -> Claim | Unsigned:
    kind = layer.media_type
    if kind == SIMPLE:
        return _older(tree, found, layer, _simple(layer, _read(tree, layer, MAX_SIMPLE)))
    if kind == DSSE:
        what = f"envelope {layer.digest}"
        content = _envelope(canonical.parse(_read(tree, layer, MAX_DOCUMENT), what, limit=MAX_DOCUMENT), what)
        return _older(tree, found, layer, content)
    if kind.startswith(BUNDLE):
        return _bundle(_read(tree, layer, MAX_DOCUMENT), f"bundle {layer.digest}", subjects, found.subject)
    if found.kind == "signature":
        raise _unknown(f"a signature in the form {printable(kind)}, which this version does not know")
    return Unsigned(kind)


def _read(tree: EvidenceTree, layer: Descriptor, limit: int) -> bytes:
    if layer.size > limit:
        raise _unknown(f"{layer.size} bytes in {layer.digest}, at most {limit} are judged")
    return tree.blob(layer.digest, limit)


def _simple(layer: Descriptor, payload: bytes) -> _Content:
    what = f"signature {layer.digest}"
    value = canonical.parse(payload, what, limit=MAX_SIMPLE)
    critical = value.get("critical") if isinstance(value, dict) else None
    kind, image = (critical.get("type"), critical.get("image")) if isinstance(critical, dict) else (None, None)
    if not isinstance(image, dict) or kind != SIGNATURE_TYPE:
        raise _broken(f"{what}: its type is not {SIGNATURE_TYPE!r}")
    named = [said for key, said in image.items() if key.lower() == "docker-manifest-digest"]  # the specification prints a capital D
    if len(named) != 1:
        raise _broken(f"{what}: names {len(named)} images, not one")
    signature = _base64(layer.annotation("dev.cosignproject.cosign/signature"), what)
    return _Content(None, (_digest(named[0], what),), payload, signature, None)


def _older(tree: EvidenceTree, found: Found, layer: Descriptor, content: _Content) -> Claim:
    """Return the claim of a layer whose certificate, if it has one, stands in annotations; a bundle rebuilt of it has the same one."""
    stated = layer.annotation("dev.sigstore.cosign/certificate")
    if stated is None:
        return _claim(content, None)
    what = f"completed signature {layer.digest}"
    for completed in tree.evidence.completed:
        if (completed.manifest, completed.layer) == (found.manifest.digest, layer.digest):
            value = _document(tree.completed(completed.file), what)
            if value["verificationMaterial"].get("certificate") == {"rawBytes": "".join(PEM.sub("", stated).split())}:
                return _claim(content, _rebuilt(value, content, what))
    return _claim(content, None, NOT_COMPLETED, unjudged=True)


def _rebuilt(value: dict[str, Any], content: _Content, what: str) -> Keyless:
    """Return a rebuilt bundle for the verifier; what it signs stays what the older layer says."""
    _check_log(value["verificationMaterial"], what)
    if "dsseEnvelope" in value:
        inner = _envelope(value["dsseEnvelope"], what)
        if inner.message != content.message:
            raise _broken(f"{what}: is about another statement than the signature it completes")
        return Keyless(canonical.compact(value), None)
    return Keyless(canonical.compact(value), content.message)


def _bundle(raw: bytes, what: str, subjects: Mapping[Digest, bytes], subject: Digest) -> Claim:
    value = _document(raw, what)
    material = value["verificationMaterial"]
    signed = value.get("messageSignature")
    content = _envelope(value["dsseEnvelope"], what) if signed is None else _message(signed, what, subjects, subject)
    if "publicKey" in material:
        return _claim(content, None)
    try:
        _check_log(material, what)
    except UnknownShapeError as error:
        return _claim(content, None, error.message, unjudged=True)
    return _claim(content, Keyless(canonical.compact(value), content.message if signed is not None else None))


def _claim(content: _Content, keyless: Keyless | None, no_keyless: str = PLAIN, *, unjudged: bool = False) -> Claim:
    return Claim(
        content.predicate, content.digests, content.message, content.signature, content.payload, keyless, no_keyless, unjudged=unjudged
    )


def _document(raw: bytes, what: str) -> dict[str, Any]:
    """Parse a Sigstore bundle, whose readers differ in what unknown and doubled names they pass over: here none may be there."""
    value = canonical.parse(raw, what, limit=MAX_DOCUMENT)
    kind = value.get("mediaType") if isinstance(value, dict) else None
    if kind not in BUNDLES:
        raise _unknown(f"{what}: a bundle of the form {printable(str(kind), 80)}, which this version does not know")
    _fields(value, {"mediaType", "verificationMaterial"}, {"dsseEnvelope", "messageSignature"}, what)
    if ("dsseEnvelope" in value) == ("messageSignature" in value):
        raise _broken(f"{what}: not exactly one signed thing in it")
    material = value["verificationMaterial"]
    _fields(material, set(), {"publicKey", "certificate", "x509CertificateChain", "tlogEntries", "timestampVerificationData"}, what)
    if len({"publicKey", "certificate", "x509CertificateChain"} & material.keys()) != 1:
        raise _broken(f"{what}: not exactly one of key and certificate in it")
    return dict(value)


def _check_log(material: dict[str, Any], what: str) -> None:
    """Refuse log entries the keyless verifier cannot judge, good or bad."""
    entries = material.get("tlogEntries")
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        raise _unknown(f"{what}: not exactly one entry of a log; this version judges no other")
    kind = entries[0].get("kindVersion")
    named = (kind.get("kind"), kind.get("version")) if isinstance(kind, dict) else (None, None)
    if not all(isinstance(part, str) for part in named) or named not in LOG_ENTRIES:
        raise _unknown(f"{what}: a log entry of kind {printable('/'.join(map(str, named)), 80)}, which this version does not know")
    if not entries[0].get("inclusionProof"):
        raise _unknown(f"{what}: {NOT_COMPLETED}")


def _envelope(value: Any, what: str) -> _Content:
    _fields(value, {"payload", "payloadType", "signatures"}, set(), what)
    signatures = value["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise _broken(f"{what}: not exactly one signature in its envelope")
    _fields(signatures[0], {"sig"}, {"keyid"}, what)
    if value["payloadType"] != IN_TOTO:
        raise _broken(f"{what}: payload type {printable(str(value['payloadType']), 80)!r}, expected {IN_TOTO}")
    payload, signature = _base64(value["payload"], what), _base64(signatures[0]["sig"], what)
    predicate, digests = _statement(payload, what)
    message = b"DSSEv1 %d %s %d %s" % (len(IN_TOTO), IN_TOTO.encode(), len(payload), payload)
    return _Content(None if predicate == SIGN else predicate, digests, message, signature, payload)


def _statement(payload: bytes, what: str) -> tuple[str, tuple[Digest, ...]]:
    value = canonical.parse(payload, what, limit=MAX_DOCUMENT)
    if not isinstance(value, dict) or not isinstance(value.get("_type"), str) or value["_type"] not in STATEMENTS:
        raise _broken(f"{what}: not an in-toto statement")
    predicate, subjects = value.get("predicateType"), value.get("subject")
    if not isinstance(predicate, str) or not isinstance(subjects, list) or not 0 < len(subjects) <= MAX_SUBJECTS:
        raise _broken(f"{what}: a statement without predicate type, or about nothing or more than {MAX_SUBJECTS} things")
    return predicate, tuple(_digest(_sha256(subject, what), what) for subject in subjects)


def _sha256(subject: Any, what: str) -> str:
    digest = subject.get("digest") if isinstance(subject, dict) else None
    named = digest.get("sha256") if isinstance(digest, dict) else None
    if not isinstance(named, str):
        raise _broken(f"{what}: a statement about something without a sha256")
    return f"sha256:{named}"


def _message(value: Any, what: str, subjects: Mapping[Digest, bytes], subject: Digest) -> _Content:
    _fields(value, {"signature"}, {"messageDigest"}, what)
    signature, about = _base64(value["signature"], what), subject
    if "messageDigest" in value:
        stated = value["messageDigest"]
        _fields(stated, {"algorithm", "digest"}, set(), what)
        if stated["algorithm"] != "SHA2_256":
            raise _unknown(f"{what}: a message digest other than SHA2_256")
        about = _digest(f"sha256:{_base64(stated['digest'], what).hex()}", what)
    return _Content(None, (about,), subjects.get(about, b""), signature, None)  # about nothing here: refused for that, never verified


def _fields(value: Any, needed: set[str], allowed: set[str], what: str) -> None:
    if not isinstance(value, dict) or not needed <= value.keys() <= needed | allowed:
        raise _broken(f"{what}: not of the form it says it has")


def _base64(text: Any, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        data = b""
    if not data or base64.b64encode(data).decode() != text:
        raise _broken(f"{what}: not base64 in its one form, or empty")
    return data


def _digest(text: Any, what: str) -> Digest:
    try:
        return Digest.parse(text)
    except AirgapError as error:
        raise _broken(f"{what}: {error.message}") from None


def _broken(why: str) -> AirgapError:
    return InvalidFileError(why, hint="do not use the image; ask who published it")


def _unknown(why: str) -> AirgapError:
    return UnknownShapeError(why, hint="have the image signed in a form this version knows, or judge it by hand")
