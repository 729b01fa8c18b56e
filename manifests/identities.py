"""Who can sign, as a policy names them: by a public key, by an X.509 certificate of a pinned authority, or by a Sigstore identity.

The same three kinds serve for those who sign bundles and for those upstream who sign what is carried. Kind, algorithm and every
name that must match are written here; nothing of that is ever taken from a signature.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import AfterValidator, Field, model_validator

from manifests import canonical
from manifests.lock import Frozen, Name
from manifests.publickey import Algorithm, PublicKey, algorithm_of, checked, key_id, load_public_key

MAX_PEM = 64 << 10  # characters of one certificate or revocation list
MAX_CERTIFICATES = 16  # roots, or revocation lists, of one signer
TRUSTED_ROOT = "application/vnd.dev.sigstore.trustedroot"  # its media type's start; the version follows
CertificateAlgorithm = Literal["ecdsa-p256-sha256", "ecdsa-p384-sha384", "ml-dsa-87"]  # chains of Ed25519 are refused by the library


def _exact(text: str) -> str:
    if "*" in text or not text.isprintable() or text != text.strip():
        raise ValueError("must be written out exactly, without patterns and blanks around it")
    return text


def _root(value: dict[str, Any]) -> dict[str, Any]:
    if not str(value.get("mediaType", "")).startswith(TRUSTED_ROOT):
        raise ValueError(f"not a Sigstore trusted root (mediaType {TRUSTED_ROOT}...)")
    return value


def _certificate(pem: str) -> str:
    found = load_certificate(pem.encode())
    try:
        authority = found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        authority = False
    if not authority:
        raise ValueError(f"{found.subject.rfc4514_string()}: not the certificate of an authority (basicConstraints CA)")
    checked(found.public_key())
    return found.public_bytes(Encoding.PEM).decode()


def _revocations(pem: str) -> str:
    try:
        return x509.load_pem_x509_crl(pem.encode()).public_bytes(Encoding.PEM).decode()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("not a PEM certificate revocation list") from None


def _time(text: str) -> str:
    canonical.moment(text)
    return text


Time = Annotated[str, AfterValidator(_time)]
Exact = Annotated[str, Field(min_length=1, max_length=2048), AfterValidator(_exact)]
TrustedRoot = Annotated[dict[str, Any], AfterValidator(_root)]
RootPem = Annotated[str, Field(max_length=MAX_PEM), AfterValidator(_certificate)]
CrlPem = Annotated[str, Field(max_length=16 * MAX_PEM), AfterValidator(_revocations)]
Roots = Annotated[tuple[RootPem, ...], Field(min_length=1, max_length=MAX_CERTIFICATES, strict=False)]


class KeySigner(Frozen):
    """A person or machine known by one public key; ``key`` is PEM SubjectPublicKeyInfo (RFC 5280, RFC 7468)."""

    type: Literal["key"]
    alg: Algorithm
    key: str = Field(max_length=8192)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        found = algorithm_of(load_public_key(self.key))
        if found != self.alg:
            raise ValueError(f"alg is {self.alg} but the key is for {found}")
        return self

    @property
    def public_key(self) -> PublicKey:
        """Return the key, ready to verify with."""
        return load_public_key(self.key)

    @property
    def key_id(self) -> str:
        """Return the sha256 (hex) of the DER SubjectPublicKeyInfo: one key has one id, however it was written."""
        return key_id(self.public_key)

    @property
    def fingerprint(self) -> str:
        """Return what two names of the same signer would have in common."""
        return f"key {self.key_id}"

    @property
    def words(self) -> str:
        """Say who this is, for people."""
        return f"{self.alg}, key id {self.key_id}"


class CertificateSigner(Frozen):
    """Someone known by a certificate: below one of ``roots`` (PEM), for code signing (RFC 5280), with exactly this name.

    ``subject`` is the whole distinguished name (RFC 4514), ``san`` one e-mail address or URI of the subjectAltName; what is given
    must match. ``alg`` is that of the key in their own certificate. ``crls`` are revocation lists (PEM) of authorities in the chain.
    """

    type: Literal["x509"]
    alg: CertificateAlgorithm
    roots: Roots
    subject: Exact | None = None
    san: Exact | None = None
    crls: tuple[CrlPem, ...] = Field(default=(), max_length=MAX_CERTIFICATES, strict=False)

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.subject is None and self.san is None:
            raise ValueError("needs `subject` or `san`: without a name, everybody with a certificate of that root would count")
        return self

    @property
    def root_certificates(self) -> tuple[x509.Certificate, ...]:
        """Return the pinned roots."""
        return tuple(load_certificate(pem.encode()) for pem in self.roots)

    @property
    def revocation_lists(self) -> tuple[x509.CertificateRevocationList, ...]:
        """Return the pinned revocation lists."""
        return tuple(x509.load_pem_x509_crl(pem.encode()) for pem in self.crls)

    @property
    def fingerprint(self) -> str:
        """Return what two names of the same signer would have in common."""
        return f"certificate {self.subject} {self.san}"

    @property
    def words(self) -> str:
        """Say who this is, for people."""
        who = " and ".join(text for text in (self.subject, self.san) if text)
        below = ", ".join(f"{root.subject.rfc4514_string()} (sha256 {_digest(root)})" for root in self.root_certificates)
        lists = f"{len(self.crls)} revocation lists pinned" if self.crls else "no revocation list pinned"
        return f"{self.alg}, a code signing certificate of {who} below {below}; {lists}"


class SigstoreSigner(Frozen):
    """Someone known by what a Sigstore (Fulcio) certificate says, as stated by exactly this OpenID Connect issuer.

    Either ``identity``, the whole subjectAltName (a workflow with its ref, or an e-mail address), or ``repository``, the source
    repository URI (Fulcio extension 1.3.6.1.4.1.57264.1.12) whatever workflow and ref in it. ``trusted_root`` names one of the policy's.
    """

    type: Literal["sigstore"]
    identity: Exact | None = None
    repository: Exact | None = None
    issuer: Exact
    trusted_root: Name

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.identity is None) == (self.repository is None):
            raise ValueError("needs exactly one of `identity` and `repository`")
        return self

    @property
    def alg(self) -> Algorithm:
        """Return the algorithm of keyless signatures."""
        return "ecdsa-p256-sha256"

    @property
    def fingerprint(self) -> str:
        """Return what two names of the same signer would have in common."""
        return f"sigstore {self.identity} {self.repository} {self.issuer}"

    @property
    def words(self) -> str:
        """Say who this is, for people."""
        who = self.identity or f"any workflow of {self.repository}"
        return f"{who} as stated by {self.issuer}, certificates and logs of {self.trusted_root}"


Signer = Annotated[KeySigner | CertificateSigner | SigstoreSigner, Field(discriminator="type")]


class TimestampAuthority(Frozen):
    """Who may state when a signature was made (RFC 3161): a certificate for time stamping below one of ``roots`` (PEM).

    ``certificate`` is the authority's own (PEM); absent where its answers carry it.
    """

    roots: Roots
    certificate: str | None = Field(default=None, max_length=MAX_PEM)

    @model_validator(mode="after")
    def _reads(self) -> Self:
        if self.certificate is not None:
            load_certificate(self.certificate.encode())
        return self

    @property
    def words(self) -> str:
        """Say who this is, for people."""
        below = (load_certificate(pem.encode()) for pem in self.roots)
        return ", ".join(f"{root.subject.rfc4514_string()} (sha256 {_digest(root)})" for root in below)


def load_certificate(pem: bytes) -> x509.Certificate:
    """Parse one PEM certificate; raises ValueError."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("not a PEM certificate") from None


def expiry(certificate: x509.Certificate) -> datetime:
    """Return until when a certificate is valid."""
    return certificate.not_valid_after_utc


def _digest(certificate: x509.Certificate) -> str:
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
