"""What signers sign: one in-toto Statement v1 per bundle or policy, in a DSSE envelope, in a Sigstore bundle v0.3 file.

Sources: in-toto attestation spec v1 ("Statement"), DSSE v1 protocol ("PAE"), Sigstore protobuf-specs (``Bundle``).
Documents are parsed strictly and must be in the one encoding this module writes, so that no byte of a signature
file is without meaning.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import Field

from manifests import canonical, keyless
from manifests.errors import InvalidFileError
from manifests.identities import Time
from manifests.lock import Frozen, Name, Sha256, parse_model

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://airgap-bundler.dev/bundle/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
SIGSTORE = "application/vnd.dev.sigstore.bundle.v0.3+json"
POLICY_PREDICATE = "https://airgap-bundler.dev/policy/v1"
SUBJECTS = ("index.json", "SHA256SUMS")
SHA512SUMS = "SHA512SUMS"  # the third subject of a bundle of profile cnsa
POLICY_SUBJECT = "policy.json"
SUFFIX = ".sigstore.json"
MODEL_SUFFIX = ".model.sig"  # of a signature over one model, in the form of OpenSSF Model Signing
MAX_SIGNATURE_FILE = 1 << 20  # bytes
MAX_SIGNATURE_FILES = 32
MAX_CHAIN = 8  # certificates in one signature file
MAX_TIMESTAMPS = 8  # in one signature file
REMOVE = "remove it, or copy it again"

SignerKind = Literal["key", "x509", "sigstore"]
DigestMap = Mapping[str, Mapping[str, str]]  # subject name -> {"sha256": hex} and, of profile cnsa, "sha512"


class DigestSet(Frozen):
    """in-toto DigestSet; ``sha512`` is there for profile cnsa."""

    sha256: Sha256
    sha512: str | None = Field(default=None, pattern="^[0-9a-f]{128}$")

    @property
    def digests(self) -> dict[str, str]:
        """Return the digests by algorithm."""
        return {"sha256": self.sha256} | ({"sha512": self.sha512} if self.sha512 else {})


class Subject(Frozen):
    """in-toto ResourceDescriptor: a file of the bundle."""

    name: str = Field(max_length=64)
    digest: DigestSet


class Tool(Frozen):
    """What made the statement."""

    name: str = Field(max_length=64)
    version: str = Field(max_length=64)


class Predicate(Frozen):
    """What the signers say of the bundle; ``serial`` counts up within ``stream``; ``previous`` is the index sha256 before it."""

    stream: Name
    serial: int = Field(ge=0, le=1 << 53)
    created: Time
    expires: Time
    previous: DigestSet | None = None
    policyVersion: int | None = Field(default=None, ge=1)  # noqa: N815 - JSON field
    tool: Tool


class Statement(Frozen):
    """The in-toto statement."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: tuple[Subject, ...] = Field(min_length=1, max_length=8, strict=False)
    predicateType: str = Field(max_length=256)  # noqa: N815 - JSON field
    predicate: dict[str, Any]

    @classmethod
    def parse(cls, raw: bytes, what: str) -> Self:
        """Parse an authenticated payload; raises InvalidFileError."""
        return parse_model(cls, canonical.parse(raw, what, limit=MAX_SIGNATURE_FILE), what, "the signers signed something else")

    def bundle(self, what: str) -> Predicate:
        """Return the predicate as what we sign; raises InvalidFileError if it is another kind of statement."""
        if self.predicateType != PREDICATE:
            raise InvalidFileError(f"{what}: predicateType is not {PREDICATE}", hint="these signatures are for something else")
        return parse_model(Predicate, self.predicate, what, "the statement was made by another version of the tool")


class PolicyPredicate(Frozen):
    """What the signers of a policy say of it: its stream and version, and the sha256 of the version before."""

    stream: Name
    version: int = Field(ge=1)
    previous: DigestSet | None = None


@dataclass(frozen=True, slots=True)
class Envelope:
    """One signature file: the payload and the signature over it, and what the file says of who signed, which is not yet believed.

    Of kind ``key`` that is ``hint``; of kind ``x509`` the ``chain`` (DER, the signer's own first); of kind ``sigstore`` everything is
    in ``raw``, the file's bytes, with the signer's own certificate as ``chain``. ``timestamps`` are RFC 3161 responses (DER) over the
    signature.
    """

    kind: SignerKind
    payload: bytes
    signature: bytes
    hint: str = ""
    chain: tuple[bytes, ...] = ()
    timestamps: tuple[bytes, ...] = ()
    raw: bytes = b""

    @property
    def message(self) -> bytes:
        """Return the bytes that are signed: DSSE pre-authentication encoding."""
        return pae(self.payload)

    def to_bytes(self) -> bytes:
        """Return the one encoding of this file."""
        if self.kind == "sigstore":
            return self.raw
        material: dict[str, Any] = {"tlogEntries": []}
        if self.kind == "key":
            material["publicKey"] = {"hint": self.hint}
        else:
            material["x509CertificateChain"] = {"certificates": [{"rawBytes": _text(der)} for der in self.chain]}
        if self.timestamps:
            material["timestampVerificationData"] = {"rfc3161Timestamps": [{"signedTimestamp": _text(der)} for der in self.timestamps]}
        signatures = [{"keyid": "", "sig": _text(self.signature)}]
        envelope = {"payload": _text(self.payload), "payloadType": PAYLOAD_TYPE, "signatures": signatures}
        return canonical.compact({"mediaType": SIGSTORE, "verificationMaterial": material, "dsseEnvelope": envelope})

    @classmethod
    def parse(cls, raw: bytes, what: str, *, limit: int = MAX_SIGNATURE_FILE) -> Self:
        """Parse a hostile signature file; raises InvalidFileError unless it is exactly what ``to_bytes`` writes."""
        value = canonical.parse(raw, what, limit=limit)
        try:
            fields: dict[str, Any] = {**_material(value, raw), **_signed(value)}
            found = cls(**fields)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, binascii.Error):
            raise InvalidFileError(f"{what}: not a Sigstore bundle v0.3 of a kind that is known", hint=REMOVE) from None
        if found.to_bytes() != raw or (found.kind == "sigstore" and canonical.compact(value) != raw):
            raise InvalidFileError(f"{what}: not exactly one signature in canonical form", hint=REMOVE)
        return found


def _material(value: Any, raw: bytes) -> dict[str, Any]:
    """Return the fields of an envelope that say who signed; raises one of several errors on another form."""
    material = value["verificationMaterial"]
    stamps = material.get("timestampVerificationData", {}).get("rfc3161Timestamps", [])[: MAX_TIMESTAMPS + 1]
    fields: dict[str, Any] = {"timestamps": tuple(_bytes(stamp["signedTimestamp"]) for stamp in stamps)}
    if len(stamps) > MAX_TIMESTAMPS:
        raise ValueError
    if "publicKey" in material:
        hint = material["publicKey"]["hint"]
        if not isinstance(hint, str):
            raise TypeError
        return fields | {"kind": "key", "hint": hint}
    if "x509CertificateChain" in material:
        chain = tuple(_bytes(part["rawBytes"]) for part in material["x509CertificateChain"]["certificates"][: MAX_CHAIN + 1])
        if not 0 < len(chain) <= MAX_CHAIN:
            raise ValueError
        return fields | {"kind": "x509", "chain": chain}
    keyless.check(value)
    if value["mediaType"] != SIGSTORE:
        raise ValueError
    return fields | {"kind": "sigstore", "chain": (_bytes(material["certificate"]["rawBytes"]),), "raw": raw}


def _signed(value: Any) -> dict[str, bytes]:
    envelope = value["dsseEnvelope"]
    (signature,) = envelope["signatures"]
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise ValueError
    return {"payload": _bytes(envelope["payload"]), "signature": _bytes(signature["sig"])}


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pae(payload: bytes) -> bytes:
    """Return DSSE v1 pre-authentication encoding of an in-toto payload."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def hint(key_id: str) -> str:
    """Return the public key hint other tools write: base64 of the raw sha256 that ``key_id`` is the hex of."""
    return base64.b64encode(bytes.fromhex(key_id)).decode()


def payload(
    subjects: DigestMap,
    *,
    stream: str,
    serial: int,
    created: datetime,
    expires: datetime,
    previous: str | None,
    policy_version: int | None,
    tool: tuple[str, str],
) -> bytes:
    """Return the bytes to sign for a bundle; ``subjects`` maps ``index.json``, ``SHA256SUMS`` and, if there, ``SHA512SUMS`` to digests."""
    predicate: dict[str, Any] = {
        "stream": stream,
        "serial": serial,
        "created": canonical.stamp(created),
        "expires": canonical.stamp(expires),
        "tool": {"name": tool[0], "version": tool[1]},
    }
    if previous:
        predicate["previous"] = {"sha256": previous}
    if policy_version:
        predicate["policyVersion"] = policy_version
    return encode({name: subjects[name] for name in (*SUBJECTS, SHA512SUMS) if name in subjects}, PREDICATE, predicate)


def policy_payload(raw: bytes, *, stream: str, version: int, previous: str | None) -> bytes:
    """Return the bytes to sign for the policy whose file is ``raw``: the same for every signer, with no clock in them."""
    digests = {"sha256": hashlib.sha256(raw).hexdigest(), "sha512": hashlib.sha512(raw).hexdigest()}
    predicate = {"stream": stream, "version": version} | ({"previous": {"sha256": previous}} if previous else {})
    return encode({POLICY_SUBJECT: digests}, POLICY_PREDICATE, predicate)


def encode(subjects: DigestMap, predicate_type: str, predicate: dict[str, Any]) -> bytes:
    """Return an in-toto Statement v1 in its one encoding; ``subjects`` keep their order."""
    listed = [{"name": name, "digest": dict(digests)} for name, digests in subjects.items()]
    return canonical.compact({"_type": STATEMENT, "subject": listed, "predicateType": predicate_type, "predicate": predicate})
