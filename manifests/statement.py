"""What signers sign: one in-toto Statement v1 per bundle, in a DSSE envelope, in a Sigstore bundle v0.3 file.

Sources: in-toto attestation spec v1 ("Statement"), DSSE v1 protocol ("PAE"), Sigstore protobuf-specs (``Bundle``).
Documents are parsed strictly and must be in the one encoding this module writes, so that no byte of a signature
file is without meaning.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import Field

from manifests import canonical
from manifests.errors import InvalidFileError
from manifests.lock import Frozen, Name, Sha256, parse_model
from manifests.policy import Time

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://airgap-bundler.dev/bundle/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
SIGSTORE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SUBJECTS = ("index.json", "SHA256SUMS")
SUFFIX = ".sigstore.json"
MAX_SIGNATURE_FILE = 1 << 20  # bytes
MAX_SIGNATURE_FILES = 32


class DigestSet(Frozen):
    """in-toto DigestSet with the one algorithm used here."""

    sha256: Sha256


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


@dataclass(frozen=True, slots=True)
class Envelope:
    """One signature file: who is said to have signed (``hint``, untrusted), the payload bytes, the signature bytes."""

    hint: str
    payload: bytes
    signature: bytes

    @property
    def message(self) -> bytes:
        """Return the bytes that are signed: DSSE pre-authentication encoding."""
        return pae(self.payload)

    def to_bytes(self) -> bytes:
        """Return the one encoding of this file."""
        return canonical.compact(
            {
                "mediaType": SIGSTORE,
                "verificationMaterial": {"publicKey": {"hint": self.hint}, "tlogEntries": []},
                "dsseEnvelope": {
                    "payload": base64.b64encode(self.payload).decode(),
                    "payloadType": PAYLOAD_TYPE,
                    "signatures": [{"keyid": "", "sig": base64.b64encode(self.signature).decode()}],
                },
            }
        )

    @classmethod
    def parse(cls, raw: bytes, what: str) -> Self:
        """Parse a hostile signature file; raises InvalidFileError unless it is exactly what ``to_bytes`` writes."""
        value = canonical.parse(raw, what, limit=MAX_SIGNATURE_FILE)
        try:
            envelope = value["dsseEnvelope"]
            found = cls(
                value["verificationMaterial"]["publicKey"]["hint"],
                base64.b64decode(envelope["payload"], validate=True),
                base64.b64decode(envelope["signatures"][0]["sig"], validate=True),
            )
            same = isinstance(value["verificationMaterial"]["publicKey"]["hint"], str) and found.to_bytes() == raw
        except (KeyError, IndexError, TypeError, ValueError, binascii.Error):
            raise InvalidFileError(f"{what}: not a Sigstore bundle v0.3 with a public key", hint="remove it, or copy it again") from None
        if not same:
            raise InvalidFileError(f"{what}: not exactly one signature in canonical form", hint="remove it, or copy it again")
        return found


def pae(payload: bytes) -> bytes:
    """Return DSSE v1 pre-authentication encoding of an in-toto payload."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def hint(key_id: str) -> str:
    """Return the public key hint other tools write: base64 of the raw sha256 that ``key_id`` is the hex of."""
    return base64.b64encode(bytes.fromhex(key_id)).decode()


def payload(
    subjects: dict[str, str],
    *,
    stream: str,
    serial: int,
    created: datetime,
    expires: datetime,
    previous: str | None,
    policy_version: int | None,
    tool: tuple[str, str],
) -> bytes:
    """Return the bytes to sign; ``subjects`` maps ``index.json`` and ``SHA256SUMS`` to their sha256 (hex)."""
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
    return canonical.compact(
        {
            "_type": STATEMENT,
            "subject": [{"name": name, "digest": {"sha256": subjects[name]}} for name in SUBJECTS],
            "predicateType": PREDICATE,
            "predicate": predicate,
        }
    )
