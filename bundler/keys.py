"""Signing keys: made here, kept as PKCS#8 PEM files, and found by a key URI so that other kinds can join.

A private key file is created with mode 0600 and is encrypted unless the user says otherwise; nothing is overwritten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from airgap_images.layout import write_atomic
from audit.verify.trust import HASHES
from manifests.errors import UsageError
from manifests.lock import read_bounded
from manifests.paths import NAME, printable
from manifests.publickey import PublicKey, algorithm_of, key_id

Curve = Literal["p256", "p384", "ed25519"]
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
MAX_KEY = 64 << 10  # bytes
MIN_PASSPHRASE = 8  # characters


class Signer(Protocol):
    """Someone who can sign: a key file today, a token or a service by another URI scheme."""

    @property
    def name(self) -> str:
        """Return the name to give the signature file."""

    @property
    def key_id(self) -> str:
        """Return the sha256 (hex) of the DER SubjectPublicKeyInfo."""

    @property
    def public_key(self) -> PublicKey:
        """Return the key that verifies what this one signs."""

    def sign(self, message: bytes) -> bytes:
        """Return the signature over ``message``."""


@dataclass(frozen=True, slots=True)
class FileSigner:
    """A signer whose private key was read from a file."""

    name: str
    private: PrivateKey

    @property
    def public_key(self) -> PublicKey:
        """Return the public half."""
        return self.private.public_key()

    @property
    def key_id(self) -> str:
        """Return the sha256 (hex) of the DER SubjectPublicKeyInfo."""
        return key_id(self.public_key)

    def sign(self, message: bytes) -> bytes:
        """Return the signature over ``message`` with the one algorithm of this key."""
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(message)
        return self.private.sign(message, ec.ECDSA(HASHES[algorithm_of(self.public_key)]))


def make(name: str, folder: Path, *, curve: Curve = "p256", passphrase: str | None) -> tuple[Path, Path]:
    """Make a key pair ``<name>.key`` (0600) and ``<name>.pub`` in ``folder``; raises UsageError if either exists."""
    if not NAME.fullmatch(name):
        raise UsageError(f"{printable(name)!r} is not a usable name", hint="lower-case letters, digits, '-', '_' and '.'")
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    for path in (private, public):
        if path.exists():
            raise UsageError(f"{path}: exists already", hint="choose another name or folder; keys are never overwritten")
    if passphrase is not None and len(passphrase) < MIN_PASSPHRASE:
        raise UsageError(f"the passphrase is shorter than {MIN_PASSPHRASE} characters", hint="use a longer one")
    key = _generate(curve)
    protection = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(private, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection), mode=0o600)
    subject = serialization.PublicFormat.SubjectPublicKeyInfo
    write_atomic(public, key.public_key().public_bytes(serialization.Encoding.PEM, subject))
    return private, public


def signer(uri: str, ask: Callable[[str], str]) -> Signer:
    """Return the signer a key URI names; ``ask`` returns the passphrase of the key it is given the name of.

    Schemes: ``file:PATH``. Raises UsageError for another scheme, an unreadable key or a wrong passphrase.
    """
    scheme, _, rest = uri.partition(":")
    if scheme != "file" or not rest:
        raise UsageError(f"key {printable(uri)!r} is not a key this version can use", hint="write it as file:PATH")
    path = Path(rest)
    raw = read_bounded(path, MAX_KEY)
    if path.stat().st_mode & 0o077:
        raise UsageError(f"{path}: other users may read this private key", hint=f"chmod 600 {path}")
    key = _load(path, raw, ask)
    name = path.name.removesuffix(".key").lower()
    if not NAME.fullmatch(name):
        raise UsageError(f"{path}: the file name gives no usable signer name", hint="call it NAME.key, or use --name")
    return FileSigner(name, key)


def _load(path: Path, raw: bytes, ask: Callable[[str], str]) -> PrivateKey:
    encrypted = b"ENCRYPTED" in raw
    try:
        key = serialization.load_pem_private_key(raw, ask(str(path)).encode() if encrypted else None)
    except (ValueError, TypeError):
        reason = "wrong passphrase, or not a private key" if encrypted else "not a PEM private key"
        raise UsageError(f"{path}: {reason}", hint="name the .key file that `airgap-bundle keygen` wrote") from None
    if not isinstance(key, (ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey)):
        raise UsageError(f"{path}: neither ECDSA nor Ed25519", hint="make one with `airgap-bundle keygen`")
    try:
        algorithm_of(key.public_key())
    except ValueError as error:
        raise UsageError(f"{path}: {error}", hint="make one with `airgap-bundle keygen`") from None
    return key


def _generate(curve: Curve) -> PrivateKey:
    if curve == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1() if curve == "p256" else ec.SECP384R1())


def passphrase_from(path: Path | None) -> str | None:
    """Return the first line of a passphrase file, or None if no file is named."""
    return None if path is None else read_bounded(path, MAX_KEY).decode(errors="replace").split("\n", 1)[0].rstrip("\r")
