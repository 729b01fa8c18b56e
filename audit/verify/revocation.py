"""Ask the revocation lists that a policy pins about the certificates of a chain (RFC 5280, section 5). Values in, notes out.

Rules: a list counts if the authority in the chain signed it; what is on it is refused, whenever and why ever it was revoked. In an air
gap lists grow old and some are never there: that is no refusal but a note, because it is the policy's own expiry that bounds trust. A
list that cannot be understood as a whole - a delta, an indirect one, one of some reasons only - is refused, never used in part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from manifests import canonical
from manifests.paths import printable

AHEAD = timedelta(hours=24)  # a list may be this far ahead of this machine's clock
SHOWN = 120  # characters of a name
_PLAIN = (x509.CRLNumber, x509.AuthorityKeyIdentifier, x509.IssuingDistributionPoint)
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
_WEAKER = (hashes.SHA256,)
_STRONG = (hashes.SHA384, hashes.SHA512, type(None))  # CNSA 2.0 takes no shorter hash; ML-DSA names none


def check(
    path: Sequence[x509.Certificate], lists: Sequence[x509.CertificateRevocationList], now: datetime | None, *, cnsa: bool = False
) -> tuple[str, ...]:
    """Return in sentences what is not known of the revocation of a chain, the root last; raises ValueError if one is revoked.

    That is raised too for a list of an authority in the chain that is not by its key, or not of a form that is used. ``now`` is None
    where it is not known: then the age of every list is said.
    """
    notes: list[str] = []
    for certificate, issuer in pairwise(path):
        own = _own(issuer, lists, now, cnsa=cnsa)
        for revocations in own:
            found = revocations.get_revoked_certificate_by_serial_number(certificate.serial_number)
            if found is not None:
                raise ValueError(f"{named(certificate)} was revoked by {named(issuer)} on {canonical.stamp(found.revocation_date_utc)}")
        notes += _unknown(certificate, issuer, [revocations for revocations in own if _covers(revocations, certificate)], now)
    return tuple(notes)


def named(certificate: x509.Certificate) -> str:
    """Return whom a certificate is about, for people."""
    return printable(certificate.subject.rfc4514_string(), SHOWN) or f"the certificate with serial number {certificate.serial_number:x}"


def hashed_well(signed: x509.Certificate | x509.CertificateRevocationList, *, cnsa: bool) -> bool:
    """Say whether what an authority signed was hashed with an algorithm that counts."""
    return isinstance(signed.signature_hash_algorithm, _STRONG if cnsa else (*_WEAKER, *_STRONG))


def _own(
    issuer: x509.Certificate, lists: Sequence[x509.CertificateRevocationList], now: datetime | None, *, cnsa: bool
) -> list[x509.CertificateRevocationList]:
    """Return the lists that ``issuer`` signed; raises ValueError if those that bear its name are others', or of no use."""
    bearing = [revocations for revocations in lists if revocations.issuer == issuer.subject]
    own = [revocations for revocations in bearing if _signed_by(revocations, issuer)]
    if bearing and not own:
        raise ValueError(f"the policy's revocation list of {named(issuer)} is not signed by its key")
    for reason in (reason for revocations in own for reason in _wrong(revocations, now, cnsa=cnsa)):
        raise ValueError(f"the policy's revocation list of {named(issuer)} {reason}")
    return own


def _signed_by(revocations: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    usages = [extension.value for extension in issuer.extensions if isinstance(extension.value, x509.KeyUsage)]
    try:
        return all(usage.crl_sign for usage in usages) and revocations.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except _UNREADABLE:
        return False


def _wrong(revocations: x509.CertificateRevocationList, now: datetime | None, *, cnsa: bool) -> Iterator[str]:
    """Say why a list must not be used."""
    try:
        if not hashed_well(revocations, cnsa=cnsa):
            yield "is signed with a hash that does not count"
        for extension in revocations.extensions:
            yield from _odd(extension)
        inner = {extension.oid.dotted_string for entry in revocations for extension in entry.extensions if extension.critical}
    except _UNREADABLE:
        yield "cannot be read"
        return
    if inner:  # a certificate issuer among them: then the list is an indirect one, whatever its head says
        yield f"has entries with a critical extension ({min(inner)}), which is not understood"
    if now and revocations.last_update_utc - now > AHEAD:
        yield f"is from the future ({canonical.stamp(revocations.last_update_utc)})"


def _odd(extension: x509.Extension[x509.ExtensionType]) -> Iterator[str]:
    value = extension.value
    if isinstance(value, x509.DeltaCRLIndicator):
        yield "is a delta, which says only what changed: pin a whole one"
    elif isinstance(value, x509.IssuingDistributionPoint):
        if value.indirect_crl or value.only_some_reasons or value.only_contains_attribute_certs:
            yield "is for other authorities, for some reasons or for attributes only: pin a whole one"
    elif extension.critical and not isinstance(value, _PLAIN):
        yield f"has a critical extension ({extension.oid.dotted_string}), which is not understood"


def _covers(revocations: x509.CertificateRevocationList, certificate: x509.Certificate) -> bool:
    """Say whether a certificate that is not on a list is not revoked: whether the list is for certificates of its sort and place."""
    scopes = [extension.value for extension in revocations.extensions if isinstance(extension.value, x509.IssuingDistributionPoint)]
    for scope in scopes:
        if (scope.only_contains_user_certs and _authority(certificate)) or (scope.only_contains_ca_certs and not _authority(certificate)):
            return False
        if scope.relative_name or (scope.full_name and not set(scope.full_name) & _places(certificate)):
            return False
    return True


def _authority(certificate: x509.Certificate) -> bool:
    return any(extension.value.ca for extension in certificate.extensions if isinstance(extension.value, x509.BasicConstraints))


def _places(certificate: x509.Certificate) -> set[x509.GeneralName]:
    listed = [extension.value for extension in certificate.extensions if isinstance(extension.value, x509.CRLDistributionPoints)]
    return {name for points in listed for point in points for name in point.full_name or ()}


def _unknown(
    certificate: x509.Certificate, issuer: x509.Certificate, lists: list[x509.CertificateRevocationList], now: datetime | None
) -> Iterator[str]:
    who, by = named(certificate), named(issuer)
    if not lists:
        yield f"whether {by} has revoked {who} is not known: the policy has no revocation list of it"
        return
    newest = max(lists, key=lambda revocations: revocations.last_update_utc)
    due = newest.next_update_utc
    if now is None or due is None or due < now:
        ended = f", and was due to be replaced on {canonical.stamp(due)}" if now and due else ""
        made = canonical.stamp(newest.last_update_utc)
        yield f"whether {by} has revoked {who} since {made} is not known: its revocation list is of then{ended}"
