"""A key with a certificate: ``x509:CHAIN.pem?key=URI``; who signs is then known by the certificate's name, below a root.

CHAIN.pem holds the signer's own certificate first, then those of the authorities above it, each certified by the next; a root at the end
is left out of what is written, because a site believes its own copy only. ``URI`` is any key at hand (``file:``, ``pkcs11:``), as it is
or percent-encoded as a whole. Rules: the key is the certificate's; what could never be accepted is refused before anything is signed.
Whether the certificate is valid today is for whoever verifies.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from audit import signers
from audit.signers import Ask, LocalSigner
from audit.verify.revocation import named
from audit.verify.x509 import MAX_BETWEEN, check_purpose
from manifests.errors import UsageError
from manifests.lock import read_bounded
from manifests.paths import NAME, printable
from manifests.publickey import algorithm_of, checked, key_id

MAX_FILE = 256 << 10  # bytes of a file of certificates
LOCAL = ("file", "pkcs11")
FORM = "write it as x509:CHAIN.pem?key=file:PATH or x509:CHAIN.pem?key=pkcs11:..."
OTHER = "have one issued for signing code, with a P-256, P-384 or ML-DSA-87 key, and put it first"
ORDER = "the signer's own certificate first, then that of the authority that issued it, and so on; the root may be left out"
_BROKEN = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, x509.InvalidVersion)


def open_signer(rest: str, ask: Ask) -> LocalSigner:
    """Return the signer with the key that a URI names and the certificate in the file before it; raises UsageError if they do not fit."""
    file, _, key = rest.partition("?key=")
    key = key if key.startswith(tuple(f"{scheme}:" for scheme in LOCAL)) else unquote(key)
    if not file or key.partition(":")[0] not in LOCAL:
        raise UsageError("key x509: names no file of certificates, or no key at hand", hint=FORM)
    path = Path(file)
    chain = _chain(path)
    found = signers.signer(key, ask)
    if not isinstance(found, LocalSigner) or found.key_id != key_id(checked(chain[0].public_key())):
        raise UsageError(f"{path}: the key is not that of the first certificate, {named(chain[0])}", hint=f"name its own key; {ORDER}")
    ders = tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)
    return LocalSigner(_name(chain[0]) or found.name, found.public_key, found.sign, ders)


def _chain(path: Path) -> list[x509.Certificate]:
    """Return the certificates in a file without the root; raises UsageError unless they could ever be accepted."""
    raw = read_bounded(path, MAX_FILE)
    try:
        found = x509.load_pem_x509_certificates(raw)
        if len(found) != raw.count(b"-----BEGIN "):
            raise ValueError("something in it is no certificate, or one is cut off")
    except _BROKEN as error:
        raise UsageError(f"{path}: {printable(str(error))}", hint=f"the file holds PEM certificates: {ORDER}") from None
    try:
        check_purpose(found[0])
        if algorithm_of(checked(found[0].public_key())) == "ed25519":
            raise ValueError("it is for an Ed25519 key, which is not accepted in a certificate")
    except _BROKEN as error:
        raise UsageError(f"{path}: the first certificate: {printable(str(error))}", hint=f"{OTHER}: {ORDER}") from None
    for lower, upper in pairwise(found):
        _check_issued(path, lower, upper)
    if len(found) > 1 and found[-1].issuer == found[-1].subject:
        found.pop()
    if len(found) > MAX_BETWEEN + 1:
        message = f"{path}: {len(found) - 1} authorities between signer and root; at most {MAX_BETWEEN} are accepted"
        raise UsageError(message, hint="leave out what is not of the chain")
    return found


def _check_issued(path: Path, lower: x509.Certificate, upper: x509.Certificate) -> None:
    try:
        lower.verify_directly_issued_by(upper)
    except (*_BROKEN, InvalidSignature):
        message = f"{path}: {named(lower)} was not issued by the certificate after it, {named(upper)}"
        raise UsageError(message, hint=ORDER) from None


def _name(own: x509.Certificate) -> str:
    """Return the common name as a signature file can be called; empty if there is none that can be made usable."""
    said = " ".join(str(part.value) for part in own.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    name = re.sub(r"[^a-z0-9]*[^a-z0-9._-]+[^a-z0-9]*", "-", said.lower())[:64].strip("._-")
    return name if NAME.fullmatch(name) else ""
