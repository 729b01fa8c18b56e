"""Public keys as people write them down, and the algorithms each may be used with.

A signer of a bundle has a key that fits exactly one algorithm. Upstream signers use more: RSA keys, and P-384 with SHA-256 as
cosign 2 signs; which one is meant is then for the policy to say, never for a signature.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa

Algorithm = Literal["ecdsa-p256-sha256", "ecdsa-p384-sha384", "ed25519", "ml-dsa-87"]
UpstreamAlgorithm = Literal["ecdsa-p256-sha256", "ecdsa-p384-sha384", "ecdsa-p384-sha256", "ed25519", "ml-dsa-87", "rsa-pkcs1v15-sha256"]
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | mldsa.MLDSA87PublicKey
UpstreamPublicKey = PublicKey | rsa.RSAPublicKey
CURVES: dict[str, Algorithm] = {"secp256r1": "ecdsa-p256-sha256", "secp384r1": "ecdsa-p384-sha384"}
HASHES: dict[str, hashes.HashAlgorithm] = {"ecdsa-p256-sha256": hashes.SHA256(), "ecdsa-p384-sha384": hashes.SHA384()}
RSA_BITS = range(2048, 16384 + 1)  # below, factored (NIST SP 800-131A); above, one check would take seconds
ACCEPTED = "P-256, P-384, Ed25519 or ML-DSA-87"


def load_public_key(pem: str) -> PublicKey:
    """Parse a PEM public key; raises ValueError unless it is P-256, P-384, Ed25519 or ML-DSA-87 (FIPS 204)."""
    return checked(_load(pem))


def checked(key: object) -> PublicKey:
    """Return a key of a kind that bundles are signed with; raises ValueError for every other."""
    if not isinstance(key, (ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey, mldsa.MLDSA87PublicKey)):
        raise ValueError(f"the key is of a kind that is not accepted; use {ACCEPTED}")  # noqa: TRY004 - pydantic turns ValueError into a field error
    algorithm_of(key)
    return key


def load_upstream_key(pem: str) -> UpstreamPublicKey:
    """Parse the PEM public key of an upstream signer: RSA of 2048 bits or more too."""
    key = _load(pem)
    if not isinstance(key, rsa.RSAPublicKey):
        return load_public_key(pem)
    if key.key_size not in RSA_BITS:
        raise ValueError(f"an RSA key of {key.key_size} bits is not accepted; {RSA_BITS.start} to {RSA_BITS.stop - 1} are")
    return key


def algorithm_of(key: PublicKey) -> Algorithm:
    """Return the one algorithm a key is used with here; raises ValueError for other curves."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "ed25519"
    if isinstance(key, mldsa.MLDSA87PublicKey):
        return "ml-dsa-87"
    if key.curve.name not in CURVES:
        raise ValueError(f"curve {key.curve.name} is not accepted; use {ACCEPTED}")
    return CURVES[key.curve.name]


def verifies(key: PublicKey, algorithm: str, signature: bytes, message: bytes) -> bool:
    """Say whether ``signature`` over ``message`` is valid for ``key`` with exactly ``algorithm``."""
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(HASHES[algorithm]))
        else:
            key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def upstream_algorithms(key: UpstreamPublicKey) -> tuple[UpstreamAlgorithm, ...]:
    """Return the algorithms an upstream key may be used with, the usual one first."""
    if isinstance(key, rsa.RSAPublicKey):
        return ("rsa-pkcs1v15-sha256",)
    own = algorithm_of(key)
    return (own, "ecdsa-p384-sha256") if own == "ecdsa-p384-sha384" else (own,)


def key_id(key: UpstreamPublicKey) -> str:
    """Return the sha256 (hex) of a key's DER SubjectPublicKeyInfo."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def canonical_pem(key: UpstreamPublicKey) -> str:
    """Return the one PEM text of a key, however it was written before."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def _load(pem: str) -> object:
    try:
        return serialization.load_pem_public_key(pem.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("not a PEM public key") from None
