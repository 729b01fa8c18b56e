"""Turn what people have at hand - a public key, a certificate, the name of a workflow - into how a policy names somebody."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bundler.policies.edit import text_of
from manifests.errors import UsageError
from manifests.identities import CertificateAlgorithm, load_certificate
from manifests.policy import signer_entry
from manifests.publickey import algorithm_of, checked
from manifests.upstream import key_entry

KEY = "name the .pub file: PEM, ECDSA P-256 or P-384, Ed25519 or ML-DSA-87; of who signs upstream also RSA"
ROOTS = "name the authority's own certificate (PEM), the root it all hangs from: --certificate-root FILE"


def by_key(pem: str) -> dict[str, str]:
    """Return the entry of a signer known by a key; raises UsageError if it is none that signs bundles."""
    try:
        return signer_entry(pem)
    except ValueError as error:
        raise UsageError(str(error), hint=KEY) from None


def by_upstream_key(pem: str, algorithm: str | None) -> dict[str, str]:
    """Return the entry of an upstream signer known by a key."""
    try:
        return key_entry(pem, algorithm)
    except ValueError as error:
        raise UsageError(str(error), hint=KEY) from None


def by_certificate(
    roots: list[Path], *, leaf: Path | None, subject: str | None, san: str | None, algorithm: str | None, crls: list[Path]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the entry of somebody known by certificate, and what was read from their own certificate, in sentences.

    What is not said is taken from ``leaf``: algorithm and subject, or its one name where it has no subject. Raises UsageError.
    """
    if not roots:
        raise UsageError("no authority is named", hint=ROOTS)
    told: tuple[str, ...] = ()
    if leaf:
        algorithm, subject, san, told = _read(leaf, algorithm, subject, san)
    if algorithm is None or (subject is None and san is None):
        message = "an algorithm and a name (--subject or --san) are needed to know somebody by certificate"
        raise UsageError(message, hint="give them, or their own certificate with --certificate: both are read from it")
    if algorithm not in get_args(CertificateAlgorithm):
        message = f"{algorithm!r} is no algorithm of a certificate here"
        raise UsageError(message, hint=f"one of {', '.join(get_args(CertificateAlgorithm))}")
    entry: dict[str, Any] = {"type": "x509", "alg": algorithm, "roots": [pem for path in roots for pem in _certificates(path)]}
    entry |= {"crls": [text_of(path) for path in crls]} if crls else {}
    return entry | ({"subject": subject} if subject else {}) | ({"san": san} if san else {}), told


def by_sigstore(identity: str | None, repository: str | None, issuer: str | None, root: str) -> dict[str, str]:
    """Return the entry of somebody known by a Sigstore certificate; raises UsageError unless exactly one name is given, and an issuer."""
    if (identity is None) == (repository is None):
        hint = "--identity: the whole name, a workflow with its ref or an e-mail address; --repository: any workflow of it"
        raise UsageError("exactly one of --identity and --repository is needed", hint=hint)
    if issuer is None:
        raise UsageError("whose word counts for that name is not said", hint="--issuer URL: the OpenID Connect issuer, exactly")
    who = {"identity": identity} if identity else {"repository": str(repository)}
    return {"type": "sigstore", **who, "issuer": issuer, "trusted_root": root}


def authority(roots: list[Path], certificate: Path | None) -> dict[str, Any]:
    """Return the entry of a timestamp authority."""
    if not roots:
        raise UsageError("no root of the authority is named", hint=ROOTS)
    entry: dict[str, Any] = {"roots": [pem for path in roots for pem in _certificates(path)]}
    return entry | ({"certificate": _certificates(certificate)[0]} if certificate else {})


def _certificates(path: Path) -> list[str]:
    try:
        found = x509.load_pem_x509_certificates(text_of(path).encode())
    except ValueError:
        raise UsageError(f"{path}: holds no PEM certificate", hint=ROOTS) from None
    return [certificate.public_bytes(Encoding.PEM).decode() for certificate in found]


def _read(leaf: Path, algorithm: str | None, subject: str | None, san: str | None) -> tuple[str, str | None, str | None, tuple[str, ...]]:
    try:
        found = load_certificate(text_of(leaf).encode())
        own = algorithm_of(checked(found.public_key()))
    except ValueError as error:
        raise UsageError(f"{leaf}: {error}", hint="name the person's own certificate, in PEM") from None
    name, others = found.subject.rfc4514_string(), _alternatives(found)
    if algorithm not in {None, own}:
        raise UsageError(f"{leaf}: its key is for {own}, not {algorithm}", hint="leave --algorithm out")
    if subject not in {None, name}:
        raise UsageError(f"{leaf}: its subject is {name!r}, not {subject!r}", hint="leave --subject out, or name the right certificate")
    if san is not None and san not in others:
        raise UsageError(f"{leaf}: does not bear the name {san!r}", hint=f"it bears: {', '.join(others) or 'none'}")
    if subject is None and san is None:
        subject, san = (name, None) if name else (None, others[0] if len(others) == 1 else None)
    said = f"{leaf}: {own}, subject {name or 'empty'}" + (f", also named {', '.join(others)}" if others else "")
    until = f"valid until {found.not_valid_after_utc:%Y-%m-%d}, issued by {found.issuer.rfc4514_string()}"
    return own, subject, san, (f"{said}; {until}", f"known from now on as {' and '.join(text for text in (subject, san) if text)}")


def _alternatives(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    kinds = (x509.RFC822Name, x509.UniformResourceIdentifier)
    return tuple(str(name) for kind in kinds for name in names.get_values_for_type(kind))
