"""Older keyless signatures made whole: the proof that a transparency log holds them, asked for while there is a network.

cosign's older signatures carry a certificate and the log's promise to enter them, no proof that it did; a verifier without a
network needs the proof. Rules: the log is asked by the promise's own number and its answer must be that very entry; what is
built is a Sigstore bundle v0.3 of what stands in the signature, and the `sigstore` package must read it. Nothing here says
that a signature is good: that is for the policy, later and offline.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from airgap_images.evidence import MAX_COMPLETED
from airgap_images.oci import Descriptor
from airgap_images.remote.web import Response
from audit.verify.claims import DSSE, SIMPLE
from manifests import canonical
from manifests.errors import AirgapError, InvalidFileError

PUBLIC_LOG = "https://rekor.sigstore.dev"
BUNDLE_V03 = "application/vnd.dev.sigstore.bundle.v0.3+json"
CERTIFICATE = "dev.sigstore.cosign/certificate"
PROMISE = "dev.sigstore.cosign/bundle"
SIGNATURE = "dev.cosignproject.cosign/signature"
KINDS = frozenset({("hashedrekord", "0.0.1"), ("dsse", "0.0.1")})  # of entries that can be verified offline

MAX_ANNOTATION = 256 << 10  # bytes of a certificate or a promise; those in use are below 10 KB
MAX_ENVELOPE = 4 << 20  # bytes of an attestation
MAX_ENTRY = 1 << 20  # bytes of the log's answer; those in use are below 20 KB
MAX_HASHES = 64  # of a proof: enough for 2^64 entries
_HINT = "the signature stays as it is; whether it counts is for the policy"

Ask = Callable[[str], Response]


@dataclass(frozen=True, slots=True)
class Log:
    """A transparency log of Rekor's API v1; ``ask`` gets an address of it."""

    url: str
    ask: Ask

    def entry(self, index: int) -> dict[str, Any]:
        """Return the one entry of that number as the log gives it; raises InvalidFileError if the answer is none."""
        what = "the log's answer"
        raw = self.ask(f"{self.url}/api/v1/log/entries?logIndex={index}").body
        answer = canonical.parse(raw, what, limit=MAX_ENTRY)
        entries = list(answer.values()) if isinstance(answer, dict) else []
        if len(entries) != 1 or not isinstance(entries[0], dict):
            raise _unusable(f"{what} is not one entry")
        return dict(entries[0])


def is_older_keyless(layer: Descriptor) -> bool:
    """Say whether a layer is a signature or an attestation with its certificate in the annotations."""
    return layer.media_type in {SIMPLE, DSSE} and layer.annotation(CERTIFICATE) is not None


def complete(layer: Descriptor, payload: bytes, log: Log) -> bytes:
    """Return the bundle of an older keyless signature; ``payload`` are the layer's bytes.

    Raises NetworkError if the log does not answer, InvalidFileError if signature and entry do not make one.
    """
    promise = _promise(layer)
    stated = promise["Payload"]
    entry = log.entry(stated["logIndex"])
    for key in ("body", "integratedTime", "logID", "logIndex"):
        if entry.get(key) != stated[key]:
            raise _unusable(f"the log's entry {stated['logIndex']} is another one than the signature was promised ({key} differs)")
    return _checked(_document(layer, payload, _log_entry(promise, entry)))


def belongs(raw: bytes, layer: Descriptor) -> bool:
    """Say whether a bundle made before is that of ``layer``: same certificate, signature, entry and promise."""
    try:
        promise = _promise(layer)
        value = canonical.parse(raw, "bundle", limit=MAX_COMPLETED)
        material = value["verificationMaterial"]
        entry = material["tlogEntries"][0]
        signed = entry["inclusionPromise"]["signedEntryTimestamp"]
        made = (material["certificate"]["rawBytes"], entry["canonicalizedBody"], signed, entry["logIndex"])
        stated = promise["Payload"]
        wanted = (_certificate(layer), stated["body"], promise["SignedEntryTimestamp"], str(stated["logIndex"]))
        if layer.media_type == SIMPLE:
            return bool(made == wanted and value["messageSignature"]["signature"] == layer.annotation(SIGNATURE))
        return bool(made == wanted and "dsseEnvelope" in value)
    except (AirgapError, KeyError, IndexError, TypeError):
        return False


def _promise(layer: Descriptor) -> dict[str, Any]:
    """Return what the log promised when the signature was made."""
    text = layer.annotation(PROMISE)
    if text is None:
        raise _unusable("no entry of a transparency log is named in it")
    value = canonical.parse(text.encode(), "the log's promise", limit=MAX_ANNOTATION)
    stated = value.get("Payload") if isinstance(value, dict) else None
    forms = {"body": str, "logID": str, "integratedTime": int, "logIndex": int}
    if not isinstance(stated, dict) or not all(type(stated.get(key)) is form for key, form in forms.items()):
        raise _unusable("the log's promise in it is not one")
    if type(value.get("SignedEntryTimestamp")) is not str or not 0 <= stated["logIndex"] < 1 << 62:
        raise _unusable("the log's promise in it is not one")
    return dict(value)


def _log_entry(promise: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry in the form of Sigstore's protobuf-specs: numbers as texts, bytes in base64."""
    body = canonical.parse(_bytes(entry["body"]), "the log's entry", limit=MAX_ENTRY)
    kind = (str(body.get("kind")), str(body.get("apiVersion"))) if isinstance(body, dict) else ("", "")
    if kind not in KINDS:
        raise _unusable(f"the log's entry is of kind {'/'.join(kind)[:80]!r}, which cannot be verified offline")
    verification = entry.get("verification")
    proof = verification.get("inclusionProof") if isinstance(verification, dict) else None
    if not isinstance(proof, dict) or not isinstance(proof.get("hashes"), list) or len(proof["hashes"]) > MAX_HASHES:
        raise _unusable("the log gives no proof that it holds the entry")
    if type(proof.get("checkpoint")) is not str or not all(type(proof.get(key)) is int for key in ("logIndex", "treeSize")):
        raise _unusable("the log's proof is incomplete")
    return {
        "logIndex": str(entry["logIndex"]),
        "logId": {"keyId": _base64_of_hex(entry["logID"])},
        "kindVersion": {"kind": kind[0], "version": kind[1]},
        "integratedTime": str(entry["integratedTime"]),
        "inclusionPromise": {"signedEntryTimestamp": promise["SignedEntryTimestamp"]},
        "inclusionProof": {
            "logIndex": str(proof["logIndex"]),
            "rootHash": _base64_of_hex(proof.get("rootHash")),
            "treeSize": str(proof["treeSize"]),
            "hashes": [_base64_of_hex(node) for node in proof["hashes"]],
            "checkpoint": {"envelope": proof["checkpoint"]},
        },
        "canonicalizedBody": entry["body"],
    }


def _document(layer: Descriptor, payload: bytes, entry: dict[str, Any]) -> dict[str, Any]:
    material = {"certificate": {"rawBytes": _certificate(layer)}, "tlogEntries": [entry]}
    document: dict[str, Any] = {"mediaType": BUNDLE_V03, "verificationMaterial": material}
    if layer.media_type == SIMPLE:
        return document | {"messageSignature": {"signature": layer.annotation(SIGNATURE) or ""}}
    return document | {"dsseEnvelope": canonical.parse(payload, "the attestation", limit=MAX_ENVELOPE)}


def _checked(document: dict[str, Any]) -> bytes:
    """Return the bundle in one encoding, once the verifier's own reader has taken it in and given it back."""
    try:
        from sigstore.errors import Error  # noqa: PLC0415 - takes a second, and only keyless signatures need it
        from sigstore.models import Bundle  # noqa: PLC0415
    except ImportError:
        raise _unusable("the package `sigstore` is not installed here (extra `keyless`)") from None
    try:
        bundle = Bundle.from_json(canonical.compact(document))
        if "messageSignature" in document:
            bundle = Bundle.from_parts(bundle.signing_certificate, bundle.signature, bundle.log_entry)
        made = canonical.parse(bundle.to_json().encode(), "the bundle", limit=MAX_ENVELOPE)
    except (Error, ValueError):
        raise _unusable("signature and log entry do not make a bundle that can be read") from None
    raw = canonical.compact(made)
    if len(raw) > MAX_COMPLETED:
        raise _unusable(f"the bundle would have {len(raw)} bytes, at most {MAX_COMPLETED} are carried")
    return raw


def _certificate(layer: Descriptor) -> str:
    text = layer.annotation(CERTIFICATE) or ""
    try:
        return base64.b64encode(x509.load_pem_x509_certificate(text[:MAX_ANNOTATION].encode()).public_bytes(Encoding.DER)).decode()
    except ValueError:
        raise _unusable("the certificate in it is not one") from None


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _unusable("the log's entry is not base64") from None


def _base64_of_hex(text: Any) -> str:
    try:
        return base64.b64encode(bytes.fromhex(text)).decode()
    except (TypeError, ValueError):
        raise _unusable("a hash of the log's is not hexadecimal") from None


def _unusable(why: str) -> AirgapError:
    return InvalidFileError(why, hint=_HINT)
