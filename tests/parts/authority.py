"""Certificate authorities of every algorithm that may sign bundles, and what can be wrong with what they issue.

    root = authority.root()                                  # P-384; root("p256"), root("ml-dsa-87")
    office = root.below("Office")                            # an authority below it
    bob = office.signer("bob", san=mail("bob@example.org"))  # a certificate to sign code with, and its key
    bob.envelope(payload, office)                            # a signature file of bob's
    entry(root, bob, crls=[office.crl(revoked=[bob])])       # how a policy names bob

Every field can be given another value: `since`, `until`, `usage`, `purposes`, `ca`, `length`, `extensions`. What is None is left out.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from audit.signers import LocalSigner
from audit.signers.file import from_private
from manifests.identities import CertificateSigner
from manifests.publickey import algorithm_of
from manifests.statement import Envelope

CODE, STAMPING, SERVER = ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.SERVER_AUTH
ANY = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
NOW = datetime.now(UTC).replace(microsecond=0)  # the real time: what states times in these tests goes by the clock
DAY = timedelta(days=1)
USES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
    "encipher_only", "decipher_only",
)  # fmt: skip
KEYS = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ml-dsa-87": mldsa.MLDSA87PrivateKey.generate,
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate,
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
}


def named(name: str, *more: x509.NameAttribute) -> x509.Name:
    """Give what a policy writes as `CN=name,O=Example`."""
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"), x509.NameAttribute(NameOID.COMMON_NAME, name), *more])


def usage(*uses: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{use: use in uses for use in USES})


def mail(address: str) -> x509.RFC822Name:
    return x509.RFC822Name(address)


def uri(address: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(address)


def hashed(key: Any, digest: hashes.HashAlgorithm | None = None) -> hashes.HashAlgorithm | None:
    """Give the hash a key signs with: what is asked for, else the usual one; ML-DSA takes none."""
    if isinstance(key, (mldsa.MLDSA87PrivateKey, mldsa.MLDSA65PrivateKey)):
        return None
    return digest or (hashes.SHA384() if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size == 384 else hashes.SHA256())


@dataclass(frozen=True)
class Party:
    """A certificate and its key: an authority, a signer, or something that is neither."""

    own: x509.Certificate
    key: Any
    digest: hashes.HashAlgorithm | None = None  # what it signs certificates and lists with

    @property
    def pem(self) -> str:
        return self.own.public_bytes(Encoding.PEM).decode()

    @property
    def der(self) -> bytes:
        return self.own.public_bytes(Encoding.DER)

    @property
    def signing(self) -> LocalSigner:
        return from_private("signer", self.key)

    def below(self, name: str, kind: str = "p384", *, digest: hashes.HashAlgorithm | None = None, **fields: Any) -> Party:
        """Give an authority that this one certifies."""
        key = KEYS[kind]()
        return Party(self.issue(named(name), key.public_key(), **{"ca": True, "purposes": None, "until": NOW + 30 * DAY} | fields), key, digest)

    def signer(self, name: str = "bob", kind: str = "p384", *, key: Any = None, **fields: Any) -> Party:
        """Give a certificate to sign code with."""
        key = key or KEYS[kind]()
        return Party(self.issue(named(name), key.public_key(), **fields), key)

    def issue(self, name: x509.Name, public: Any, **fields: Any) -> x509.Certificate:
        own = {"since": NOW - DAY, "until": NOW + 9 * DAY, "ca": False, "length": None, "san": None, "purposes": [CODE], "extensions": ()} | fields
        serial = own.get("serial") or x509.random_serial_number()
        made = x509.CertificateBuilder(self.own.subject if self.own else name, name, public, serial, own["since"], own["until"])
        wanted = own.get("usage", usage("key_cert_sign", "crl_sign") if own["ca"] else usage("digital_signature"))
        purposes = x509.ExtendedKeyUsage(own["purposes"]) if own["purposes"] else None
        others = x509.SubjectAlternativeName(own["san"] if isinstance(own["san"], list) else [own["san"]]) if own["san"] else None
        limits = None if own["ca"] is None else x509.BasicConstraints(own["ca"], own["length"])
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        for value, critical in ((limits, True), (wanted, True), (purposes, STAMPING in (own["purposes"] or ())), (others, False), *own["extensions"]):
            made = made if value is None else made.add_extension(value, critical)
        return made.sign(self.key, hashed(self.key, self.digest))

    def crl(
        self, *, revoked: Any = (), made: datetime = NOW - DAY, due: datetime | None = NOW + DAY, by: Party | None = None,
        extensions: Any = (), inner: Any = (), since: datetime = NOW - DAY,
    ) -> str:  # fmt: skip
        """Give a revocation list (PEM); `by` is who really signs it, `inner` what else is said of every entry."""
        built = x509.CertificateRevocationListBuilder(self.own.subject, made, due or made + DAY)
        for party in revoked:
            gone = x509.RevokedCertificateBuilder(party.own.serial_number, since)
            for value, critical in inner:
                gone = gone.add_extension(value, critical)
            built = built.add_revoked_certificate(gone.build())
        for value, critical in extensions:
            built = built.add_extension(value, critical)
        key, digest = (by or self).key, (by or self).digest
        built = built.add_extension(x509.CRLNumber(1), critical=False)
        built = built.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        return built.sign(key, hashed(key, digest)).public_bytes(Encoding.PEM).decode()

    def envelope(self, payload: bytes, *above: Party) -> Envelope:
        """Give a signature file of this one's, with its chain."""
        signed = self.signing.envelope(payload).signature
        return Envelope("x509", payload, signed, chain=(self.der, *(party.der for party in above)))

    def write(self, folder: Path, name: str, *above: Party) -> tuple[Path, Path]:
        """Write the chain (PEM) and the private key, unencrypted; returns their paths."""
        chain, private = folder / f"{name}.pem", folder / f"{name}.key"
        chain.write_text("".join(party.pem for party in (self, *above)))
        private.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        private.chmod(0o600)
        return chain, private


def root(kind: str = "p384", name: str = "Root", *, digest: hashes.HashAlgorithm | None = None, key: Any = None, **fields: Any) -> Party:
    """Give an authority that certifies itself."""
    key = key or KEYS[kind]()
    blank = Party(None, key, digest)  # type: ignore[arg-type] - it has no certificate yet
    made = blank.issue(named(name), key.public_key(), **{"ca": True, "purposes": None, "until": NOW + 90 * DAY} | fields)
    return Party(made, key, digest)


def entry(top: Party, who: Party | None = None, **fields: Any) -> dict[str, Any]:
    """Give how a policy names `who` below `top`: by the whole subject unless `subject` or `san` is given."""
    own = {"type": "x509", "roots": [top.pem], "alg": "ecdsa-p384-sha384"}
    if who:
        with contextlib.suppress(ValueError):
            own["alg"] = algorithm_of(who.own.public_key())
        if not {"subject", "san"} & fields.keys():
            own["subject"] = who.own.subject.rfc4514_string()
    return own | fields


def known(top: Party, who: Party | None = None, **fields: Any) -> CertificateSigner:
    """Give the same as a value."""
    return CertificateSigner.model_validate(entry(top, who, **fields))
