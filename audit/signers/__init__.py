"""Who signs, found by a key URI: ``file:PATH``, ``pkcs11:...`` (RFC 7512), ``x509:CHAIN.pem?key=URI``.

One module per scheme, with ``open_signer(rest, ask) -> Signer``; a scheme that needs a network (``sigstore:``) is added by the connected
side. Rules: a private key never leaves where it is; a secret is asked for and never taken from the URI; what a key, token or service
answers is verified before anybody sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from manifests import statement
from manifests.errors import TrustError, UsageError
from manifests.paths import NAME, printable
from manifests.publickey import PublicKey, algorithm_of, key_id, verifies
from manifests.statement import Envelope, SignerKind

Ask = Callable[[str], str]  # returns the secret it is asked for: "passphrase of FILE", "PIN of TOKEN"
Hint = Callable[[PublicKey], str]  # how a format names a key


class Signer(Protocol):
    """Someone who can sign statements."""

    @property
    def name(self) -> str:
        """Return the name to give the signature file."""

    @property
    def kind(self) -> SignerKind:
        """Return the kind of signature made."""

    def envelope(self, payload: bytes, hint: Hint | None = None) -> Envelope:
        """Return a signature over ``payload`` that has been verified; ``hint`` names the key in another format's way."""

    def made(self, envelope: Envelope) -> bool:
        """Say whether ``envelope`` is this signer's by what it says of itself, so that they need not sign again."""

    def named(self, name: str) -> Signer:
        """Return the same signer under another name."""


@dataclass(frozen=True, slots=True)
class LocalSigner:
    """A signer with a key at hand: ``sign`` answers with the signature (DER for ECDSA) over the message it is given.

    With a ``chain`` (DER, leaf first) their certificate says who they are, else the key itself.
    """

    name: str
    public_key: PublicKey
    sign: Callable[[bytes], bytes]
    chain: tuple[bytes, ...] = ()

    @property
    def kind(self) -> SignerKind:
        """Return ``key``, or ``x509`` of someone with a certificate."""
        return "x509" if self.chain else "key"

    @property
    def key_id(self) -> str:
        """Return the sha256 (hex) of the DER SubjectPublicKeyInfo."""
        return key_id(self.public_key)

    @property
    def algorithm(self) -> str:
        """Return the one algorithm of the key."""
        return algorithm_of(self.public_key)

    def envelope(self, payload: bytes, hint: Hint | None = None) -> Envelope:
        """Return a verified signature over ``payload``; raises TrustError if the key answered with something else."""
        message = statement.pae(payload)
        signature = self.sign(message)
        if not verifies(self.public_key, self.algorithm, signature, message):
            raise TrustError(f"{self.name}: the key returned a signature that does not verify", hint="check the key, then sign again")
        if self.chain:
            return Envelope("x509", payload, signature, chain=self.chain)
        return Envelope("key", payload, signature, hint=(hint or _hint)(self.public_key))

    def made(self, envelope: Envelope) -> bool:
        """Say whether ``envelope`` names this key, or this certificate."""
        return envelope.chain[:1] == self.chain[:1] if self.chain else envelope.kind == "key" and envelope.hint == _hint(self.public_key)

    def named(self, name: str) -> LocalSigner:
        """Return the same signer under another name."""
        return replace(self, name=name)


def _hint(key: PublicKey) -> str:
    return statement.hint(key_id(key))


def _file(rest: str, ask: Ask) -> Signer:
    from audit.signers import file  # noqa: PLC0415 - each scheme is loaded when it is asked for

    return file.open_signer(rest, ask)


def _pkcs11(rest: str, ask: Ask) -> Signer:
    from audit.signers import pkcs11  # noqa: PLC0415

    return pkcs11.open_signer(rest, ask)


def _x509(rest: str, ask: Ask) -> Signer:
    from audit.signers import x509  # noqa: PLC0415

    return x509.open_signer(rest, ask)


Open = Callable[[str, Ask], Signer]
SCHEMES: dict[str, Open] = {"file": _file, "pkcs11": _pkcs11, "x509": _x509}


def signer(uri: str, ask: Ask, more: Mapping[str, Open] | None = None) -> Signer:
    """Return the signer that a key URI names; ``more`` are schemes beyond the ones here.

    Raises UsageError for another scheme, an unreadable key or a wrong secret; SiteError if this machine lacks what the scheme needs.
    """
    known = {**SCHEMES, **(more or {})}
    scheme, _, rest = uri.partition(":")
    if scheme not in known or not (rest or scheme in (more or {})):
        hint = f"write it as {' or '.join(f'{name}:...' for name in known)}"
        raise UsageError(f"key {printable(scheme, 40)!r}... is not a key this command can use", hint=hint)  # the rest may hold a secret
    return known[scheme](rest, ask)


def usable_name(name: str, what: str) -> str:
    """Return ``name`` in lower case; raises UsageError if no signature file could be called that."""
    lower = name.lower()
    if not NAME.fullmatch(lower):
        raise UsageError(f"{what}: gives no usable signer name", hint="give one with --name: lower-case letters, digits, '-', '_' and '.'")
    return lower
