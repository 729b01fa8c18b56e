"""Check an X.509 signer: a chain of code signing certificates up to a root that the policy pins (RFC 5280). Bytes in, a leaf out.

Rules: the file carries exactly the chain, the signer's own certificate first, with or without the root; nothing is looked up anywhere.
An authority's certificate says so (basicConstraints) and bounds what is below it; where it states what it is for, that includes
certifying, and signing code. The signer's own is for signing code, by extended key usage, and no authority's. A critical extension that
is not understood is refused. All must be valid at the time asked about. The policy's revocation lists are ``revocation``'s.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

from audit.verify import revocation
from manifests import canonical
from manifests.identities import CertificateSigner
from manifests.paths import printable
from manifests.publickey import PublicKey, algorithm_of, checked, key_id

FULCIO = "1.3.6.1.4.1.57264.1"  # Fulcio's own extensions: .1 and .8 hold the issuer, .12 the source repository
MAX_BETWEEN = 3  # authorities between a signer and the root; the ways to try grow with their factorial
SHOWN = 400  # characters of a reason
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, x509.InvalidVersion)
_NOT_READ = "the certificate cannot be read"


class UnreadableError(ValueError):
    """The signer's own certificate is none that can be read, so that it names nobody."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate whose chain holds: its key, by which rule it is trusted in words, and what could not be checked."""

    key: PublicKey
    key_id: str
    words: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fulcio:
    """What a Sigstore certificate says of who signed; not yet believed."""

    identity: str | None
    issuer: str | None
    repository: str | None
    identities: tuple[str, ...] = ()  # every name in it, the first of which is ``identity``


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Let nothing be written of what no certificate should have: of the hostile ones that is no news."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@_quietly()
def leaf(
    signer: CertificateSigner, chain: tuple[bytes, ...], at: datetime, *, cnsa: bool = False, now: datetime | None = None
) -> Leaf | None:
    """Return the leaf of ``chain`` (DER, leaf first) if it is ``signer``'s, valid ``at`` that time; None if it bears another name.

    Raises UnreadableError if it bears no name at all, ValueError, saying why, if it bears the name and the chain, its purpose, its
    algorithm or its validity does not hold. ``now`` is what revocation lists are compared with, None where that is not known.
    """
    own, subject, others = _opened(chain[0])
    if signer.subject not in {None, subject} or (signer.san is not None and signer.san not in others):
        return None
    try:
        key = checked(own.public_key())
        if algorithm_of(key) != signer.alg:
            raise ValueError(f"its key is for {algorithm_of(key)}, the policy says {signer.alg}")
        check_purpose(own)
        path = _path(signer.root_certificates, own, _above(chain[1:]), at)
        if cnsa:
            _check_strength(path)
        notes = revocation.check(path, signer.revocation_lists, now, cnsa=cnsa)
    except _UNREADABLE as error:
        raise ValueError(printable(str(error), SHOWN)) from None
    root = path[-1]
    below = f"{revocation.named(root)} (sha256 {root.fingerprint(hashes.SHA256()).hex()})"
    return Leaf(key, key_id(key), f"the certificate of {printable(signer.subject or signer.san or '')} below root {below}", notes)


def check_purpose(own: x509.Certificate) -> None:
    """Raise ValueError, saying why, unless ``own`` is a certificate to sign code with."""
    held = {type(extension.value): extension.value for extension in own.extensions}
    limits, usage, purposes = (held.get(sort) for sort in (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage))
    if isinstance(limits, x509.BasicConstraints) and limits.ca:
        raise ValueError("it is the certificate of an authority, not of a signer")
    if not isinstance(purposes, x509.ExtendedKeyUsage) or ExtendedKeyUsageOID.CODE_SIGNING not in purposes:
        raise ValueError("it is not for signing code (extendedKeyUsage codeSigning)")
    if not isinstance(usage, x509.KeyUsage) or not usage.digital_signature:
        raise ValueError("it is not for signatures (keyUsage digitalSignature)")


@_quietly()
def fulcio(der: bytes) -> Fulcio | None:
    """Return what a certificate says, None if it cannot be read."""
    try:
        held = {extension.oid.dotted_string: extension.value for extension in _load(der).extensions}
    except _UNREADABLE:
        return None
    names = [name for value in held.values() if isinstance(value, x509.SubjectAlternativeName) for name in value]
    people = [name.value for name in names if isinstance(name, (x509.RFC822Name, x509.UniformResourceIdentifier))]
    issuer = _stated(held.get(f"{FULCIO}.8")) or _stated(held.get(f"{FULCIO}.1"), der=False)
    return Fulcio(next(iter(people), None), issuer, _stated(held.get(f"{FULCIO}.12")), tuple(people))


def _stated(value: x509.ExtensionType | None, *, der: bool = True) -> str | None:
    """Return the text in one of Fulcio's own extensions: a DER UTF8String, or bare in the oldest ones."""
    if not isinstance(value, x509.UnrecognizedExtension):
        return None
    try:
        return str(asn1.decode_der(str, value.value)) if der else value.value.decode()
    except ValueError:
        return None


def _opened(der: bytes) -> tuple[x509.Certificate, str, frozenset[str]]:
    """Return a signer's own certificate, its whole subject, and its e-mail addresses and URIs; raises UnreadableError."""
    try:
        own = _load(der)
        names = [extension.value for extension in own.extensions if isinstance(extension.value, x509.SubjectAlternativeName)]
        people = frozenset(name.value for held in names for name in held if _is_person(name))
        return own, own.subject.rfc4514_string(), people
    except _UNREADABLE:
        raise UnreadableError(_NOT_READ) from None


def _is_person(name: x509.GeneralName) -> bool:
    """Say whether a name is an e-mail address or URI that cannot be taken for one of the other sort: every URI has a colon (RFC 3986)."""
    return isinstance(name, x509.RFC822Name | x509.UniformResourceIdentifier) and (":" in name.value) is isinstance(
        name, x509.UniformResourceIdentifier
    )


def _load(der: bytes) -> x509.Certificate:
    found = x509.load_der_x509_certificate(der)
    if not der.endswith(b"\0" + found.signature):  # how many of its bits are unused, nobody signs: one form of it is enough
        raise ValueError("the signature in a certificate is not of whole bytes")
    return found


def _above(ders: tuple[bytes, ...]) -> list[x509.Certificate]:
    try:
        return [_load(der) for der in ders]
    except _UNREADABLE:
        raise ValueError("a certificate that is carried above it cannot be read") from None


def _path(roots: Sequence[x509.Certificate], own: x509.Certificate, above: list[x509.Certificate], at: datetime) -> list[x509.Certificate]:
    """Return the chain from ``own`` to one of ``roots``; raises ValueError unless it holds and is exactly what is carried."""
    for certificate in (own, *above):
        since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not since <= at.replace(microsecond=0) <= until:
            validity = f"valid from {canonical.stamp(since)} to {canonical.stamp(until)}"
            raise ValueError(f"{revocation.named(certificate)} is {validity}; the time that counts is {canonical.stamp(at)}")
    builder = PolicyBuilder().store(Store(list(roots))).time(at).max_chain_depth(MAX_BETWEEN)
    verifier = builder.extension_policies(ca_policy=_AUTHORITIES, ee_policy=_SIGNERS).build_client_verifier()
    try:
        path = list(verifier.verify(own, above).chain)
    except VerificationError as error:
        raise ValueError(_why(str(error))) from None
    if [own, *above] not in (path, path[:-1]):
        raise ValueError("what is carried is not exactly its chain, the signer's own certificate first")
    _check_mail(path)
    return path


def _why(said: str) -> str:
    """Return what the library says of a chain in fewer words."""
    reason = said.partition(" (encountered processing")[0].removeprefix("validation failed: ").removeprefix("candidates exhausted: ")
    if reason.startswith("all candidates exhausted"):
        reason = "none of the pinned roots has certified it, or an authority between is not carried"
    return f"its chain does not hold: {reason}"


def _check_mail(path: list[x509.Certificate]) -> None:
    """Refuse what the library does not compare: an e-mail address in the subject with the limits of an authority (RFC 5280, 4.2.1.10)."""
    limited = any(isinstance(extension.value, x509.NameConstraints) for above in path[1:] for extension in above.extensions)
    if limited and path[0].subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS):
        raise ValueError("an authority limits names, and the e-mail address in the subject is not compared with that")


def _check_strength(path: list[x509.Certificate]) -> None:
    for certificate in path:
        key = certificate.public_key()
        p384 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)
        if not (p384 or isinstance(key, mldsa.MLDSA87PublicKey)) or not revocation.hashed_well(certificate, cnsa=True):
            wanted = "P-384 with SHA-384 or more, or ML-DSA-87, as profile cnsa asks of every certificate"
            raise ValueError(f"{revocation.named(certificate)} is not of {wanted}")


def _certifies(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage and not usage.key_cert_sign:
        raise ValueError("an authority's key is not for certifying")


def _for_code(_policy: Policy, _certificate: x509.Certificate, purposes: x509.ExtendedKeyUsage | None) -> None:
    if purposes and not {ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(purposes):
        raise ValueError("an authority does not certify for signing code")


_SIGNERS = (  # what else they must say, check_purpose asks
    ExtensionPolicy.permit_all()
    .require_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, None)
    .require_present(x509.KeyUsage, Criticality.AGNOSTIC, None)
)
_AUTHORITIES = (  # RFC 5280, section 6.1.4; many a private root has no keyUsage and its basicConstraints not critical
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)  # the library asks that it says CA
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _certifies)
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _for_code)
    .may_be_present(x509.NameConstraints, Criticality.CRITICAL, None)
)
