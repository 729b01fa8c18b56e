"""Check RFC 3161 timestamps over a signature against the authorities that the policy names. Bytes in, a time out.

Rules: a timestamp counts if one authority of the policy made it over exactly this signature: granted, by a certificate for time stamping
below its pinned roots (its own certificate where the policy has it) that was valid at that time, hashed with SHA-256 or more. Anything
else is no refusal but a note: a timestamp only ever adds to what a signature proves. One from the future proves nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from rfc3161_client import TimeStampResponse, VerificationError, VerifierBuilder, decode_timestamp_response
from rfc3161_client.verify import SHA256_OID, SHA384_OID, SHA512_OID

from manifests import canonical
from manifests.identities import TimestampAuthority, load_certificate

AHEAD = timedelta(hours=24)  # how far an authority's clock may be ahead of this machine's
HASHES = frozenset({SHA256_OID, SHA384_OID, SHA512_OID})  # the library takes SHA-1 for the authority's own signature
_REFUSED = (VerificationError, ValueError, TypeError, OverflowError, UnsupportedAlgorithm)
_CERTIFICATES = (x509.DuplicateExtension, x509.UnsupportedGeneralNameType, x509.InvalidVersion)  # of those that a timestamp carries


def earliest(
    authorities: Mapping[str, TimestampAuthority], tokens: tuple[bytes, ...], signature: bytes, now: datetime | None = None
) -> tuple[datetime | None, tuple[str, ...]]:
    """Return the earliest time at which an authority saw ``signature``, None if none did, and what could not be used, in sentences.

    ``now`` is what tells a time in the future, None where it is not known.
    """
    times: list[datetime] = []
    notes: list[str] = []
    for token in tokens:
        time, note = _judged(authorities, token, signature)
        if time is None:
            notes.append(note)
        elif now is not None and time - now > AHEAD:
            notes.append(f"carries a timestamp from the future ({canonical.stamp(time)}), which proves nothing")
        else:
            times.append(time)
    return min(times, default=None), tuple(notes)


def _judged(authorities: Mapping[str, TimestampAuthority], token: bytes, signature: bytes) -> tuple[datetime | None, str]:
    """Return the time a timestamp proves, or None and why it proves none."""
    elsewhere = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what no certificate should have: that is no reason to write to stderr
        try:
            response = decode_timestamp_response(token)
            time = response.tst_info.gen_time
        except _REFUSED:
            return None, "carries a timestamp that cannot be read"
        for name, authority in sorted(authorities.items()):
            try:
                if _made(authority, response, signature):
                    return time, ""
            except (*_REFUSED, *_CERTIFICATES) as error:
                if "between messages" in str(error):  # asked last: all else about it holds
                    elsewhere = elsewhere or name
    if elsewhere:
        return None, f"carries a timestamp by {elsewhere} that is over something else"
    return None, "carries a timestamp that no timestamp authority of the policy made"


def _made(authority: TimestampAuthority, response: TimeStampResponse, signature: bytes) -> bool:
    """Say whether ``authority`` made a timestamp over ``signature``; raises one of several errors if not."""
    if not {oid.dotted_string for oid in response.signed_data.digest_algorithms} <= HASHES:
        return False
    roots = [load_certificate(pem.encode()) for pem in authority.roots]
    own = load_certificate(authority.certificate.encode()) if authority.certificate else None
    verifier = VerifierBuilder(tsa_certificate=own, roots=roots).build()
    return verifier.verify_message(response, signature)
