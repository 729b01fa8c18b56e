"""A small certificate authority for signers of bundles: a root, an intermediate, certificates for signing code, revocation lists.

    root = certified.root()
    office = root.below("Example Office")                        # an intermediate
    bob = office.certificate("bob", public_key)                  # what `bob` signs with
    policy entry: {"type": "x509", "roots": [certified.pem(root.own)], "subject": "CN=bob,O=Example", ...}
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOTHING = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only")
CODE, SERVER = ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True)
class Authority:
    """A certificate that certifies others, and its key."""

    own: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def below(self, name: str) -> Authority:
        key = ec.generate_private_key(ec.SECP384R1())
        return Authority(self._sign(named(name), key.public_key(), days=30, authority=0), key)

    def certificate(
        self, name: str, public, *, days: int = 9, until: datetime | None = None, usage=CODE, signs: bool = True, san: str | None = None
    ) -> x509.Certificate:
        """Give a certificate for signing code of a person; `san` is an e-mail address."""
        return self._sign(named(name), public, days=days, until=until, usage=usage, signs=signs, san=san)

    def revoking(self, *certificates: x509.Certificate, age: int = 0) -> str:
        """Give a revocation list (PEM) with `certificates` on it, made `age` days ago for nine days."""
        start = datetime.now(UTC) - timedelta(days=age)
        made = x509.CertificateRevocationListBuilder(self.own.subject, start - timedelta(hours=1), start + timedelta(days=9))
        for certificate in certificates:
            gone = x509.RevokedCertificateBuilder(certificate.serial_number, start - timedelta(minutes=5)).build()
            made = made.add_revoked_certificate(gone)
        made = made.add_extension(x509.CRLNumber(1), critical=False)
        made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        return made.sign(self.key, hashes.SHA384()).public_bytes(Encoding.PEM).decode()

    def _sign(self, name, public, *, days, until=None, usage=None, signs=True, san=None, authority=None) -> x509.Certificate:
        made = _start(name, self.own.subject, public, days, until).add_extension(x509.BasicConstraints(authority is not None, authority), critical=True)
        made = made.add_extension(_usage(signs=signs and authority is None, certifies=authority is not None), critical=True)
        made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        if usage:
            made = made.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if san:
            made = made.add_extension(x509.SubjectAlternativeName([x509.RFC822Name(san)]), critical=False)
        return made.sign(self.key, hashes.SHA384())


def root(name: str = "Example Root") -> Authority:
    key = ec.generate_private_key(ec.SECP384R1())
    made = _start(named(name), named(name), key.public_key(), 90).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    made = made.add_extension(_usage(signs=False, certifies=True), critical=True)
    made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    return Authority(made.sign(key, hashes.SHA384()), key)


def named(name: str) -> x509.Name:
    """Give what a policy writes as `CN=name,O=Example`."""
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"), x509.NameAttribute(NameOID.COMMON_NAME, name)])


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _start(name: x509.Name, issuer: x509.Name, public, days: int, until: datetime | None = None) -> x509.CertificateBuilder:
    start = datetime.now(UTC) - timedelta(hours=1) if days > 0 else datetime.now(UTC) - timedelta(days=2)
    end = until or datetime.now(UTC) + (timedelta(days=days) if days > 0 else -timedelta(days=1))
    made = x509.CertificateBuilder(issuer, name, public, x509.random_serial_number(), start, end)
    return made.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)


def _usage(*, signs: bool, certifies: bool) -> x509.KeyUsage:
    others = dict.fromkeys(NOTHING, False)
    return x509.KeyUsage(**others | {"content_commitment": not (signs or certifies)}, digital_signature=signs, key_cert_sign=certifies, crl_sign=certifies)
