"""Signing keys made here and kept as PKCS#8 PEM files: ``file:PATH``.

A private key file is created with mode 0600 and is encrypted unless the user says otherwise; nothing is overwritten.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa

from airgap_images.layout import write_atomic
from audit.signers import Ask, LocalSigner, usable_name
from manifests.errors import UsageError
from manifests.lock import read_bounded
from manifests.paths import NAME, printable
from manifests.publickey import HASHES, algorithm_of, checked

Kind = Literal["p256", "p384", "ed25519", "ml-dsa-87"]
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | mldsa.MLDSA87PrivateKey
MAX_KEY = 64 << 10  # bytes
MIN_PASSPHRASE = 8  # characters


def make(name: str, folder: Path, *, kind: Kind = "p256", passphrase: str | None) -> tuple[Path, Path]:
    """Make a key pair ``<name>.key`` (0600) and ``<name>.pub`` in ``folder``; raises UsageError if either exists."""
    if not NAME.fullmatch(name):
        raise UsageError(f"{printable(name)!r} is not a usable name", hint="lower-case letters, digits, '-', '_' and '.'")
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    for path in (private, public):
        if path.exists():
            raise UsageError(f"{path}: exists already", hint="choose another name or folder; keys are never overwritten")
    if passphrase is not None and len(passphrase) < MIN_PASSPHRASE:
        raise UsageError(f"the passphrase is shorter than {MIN_PASSPHRASE} characters", hint="use a longer one")
    key = _generate(kind)
    protection = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(private, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection), mode=0o600)
    subject = serialization.PublicFormat.SubjectPublicKeyInfo
    write_atomic(public, key.public_key().public_bytes(serialization.Encoding.PEM, subject))
    return private, public


def open_signer(rest: str, ask: Ask) -> LocalSigner:
    """Return the signer whose private key is in the file at ``rest``; raises UsageError if it cannot be used."""
    path = Path(rest)
    return from_private(usable_name(path.name.removesuffix(".key"), str(path)), load(path, ask))


def from_private(name: str, private: PrivateKey) -> LocalSigner:
    """Return the signer of a private key at hand."""
    public = checked(private.public_key())
    if isinstance(private, ec.EllipticCurvePrivateKey):
        hashed = ec.ECDSA(HASHES[algorithm_of(public)], deterministic_signing=True)  # RFC 6979: the same evidence is the same bytes
        return LocalSigner(name, public, lambda message: private.sign(message, hashed))
    return LocalSigner(name, public, private.sign)


def load(path: Path, ask: Ask) -> PrivateKey:
    """Read a private key nobody else may read, asking for its passphrase if it has one; raises UsageError."""
    raw = read_bounded(path, MAX_KEY)
    if path.stat().st_mode & 0o077:
        raise UsageError(f"{path}: other users may read this private key", hint=f"chmod 600 {path}")
    encrypted = b"ENCRYPTED" in raw
    try:
        key = serialization.load_pem_private_key(raw, ask(f"passphrase of {path}").encode() if encrypted else None)
    except (ValueError, TypeError):
        reason = "wrong passphrase, or not a private key" if encrypted else "not a PEM private key"
        raise UsageError(f"{path}: {reason}", hint="name the .key file that `airgap-bundle keygen` wrote") from None
    try:
        checked(key.public_key())
    except ValueError as error:
        raise UsageError(f"{path}: {error}", hint="make one with `airgap-bundle keygen`") from None
    return key  # type: ignore[return-value] # checked above


def _generate(kind: Kind) -> PrivateKey:
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "ml-dsa-87":
        return mldsa.MLDSA87PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1() if kind == "p256" else ec.SECP384R1())


def passphrase_from(path: Path | None) -> str | None:
    """Return the first line of a passphrase file, or None if no file is named."""
    return None if path is None else read_bounded(path, MAX_KEY).decode(errors="replace").split("\n", 1)[0].rstrip("\r")
