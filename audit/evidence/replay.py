"""How to prove the same without this tool: shell lines for ``sha256sum``, ``jq`` and ``openssl`` with this bundle's values.

The recipe is that of ``docs/verify-by-hand.md``: the policy's digest, who signed, the signatures, the signed files, and that nothing else
is there. Rules: the lines are for bash, are run in order, write into an empty folder and never into the bundle; every name
in them is plain, because policy, index and signature files allow no other; what they cannot show is said. Certificates are judged as of
the time that the verifier used, so that the lines hold later too.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from audit.verify.result import Signature, VerifiedBundle
from manifests import canonical
from manifests.statement import PAYLOAD_TYPE, SHA512SUMS

HASHES = {"ecdsa-p256-sha256": "sha256", "ecdsa-p384-sha384": "sha384"}
OWN_ROOTS = "-no-CApath -no-CAstore -partial_chain"  # trust what the policy pins, and nothing of the machine
SAME = "the names in the policy, then those in the certificate, which must be the same"
NEEDS = {"ml-dsa-87": " (with OpenSSL 3.5 or later)"}
PLACES = ("BUNDLE=/path/to/bundle", "POLICY=/path/to/policy.json")  # for the reader to fill in


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what it shows, the lines to type, what they must print."""

    title: str
    lines: tuple[str, ...]
    expect: str


def steps(bundle: VerifiedBundle) -> tuple[Step, ...]:
    """Return every step of the replay, in order."""
    return (
        Step("Say where bundle and policy are, and start in an empty folder", (*PLACES, 'cd "$(mktemp -d)"'), "nothing"),
        _policy(bundle),
        *(_signature(entry, bundle) for entry in bundle.signatures),
        _statement(bundle),
        _files(bundle),
        _nothing_else(bundle),
    )


def _policy(bundle: VerifiedBundle) -> Step:
    return Step(
        "The policy is the one this site was told to trust",
        (f"sha256sum < \"$POLICY\" | grep '^{bundle.policy_sha256} '",),
        "one line. Compare this sha256 with the one you were given by another way: on paper, or by voice",
    )


def _signature(entry: Signature, bundle: VerifiedBundle) -> Step:
    key, payload, signature, message = (f"{entry.signer}.{kind}" for kind in ("pub", "payload", "signature", "message"))
    file = f'"$BUNDLE/{entry.file}"'
    how, lines, expect = _SOURCES[entry.kind](entry, bundle)
    return Step(
        f"{entry.signer} signed{how} ({entry.algorithm})",
        (
            *lines,
            f"openssl pkey -pubin -in {key} -outform DER | sha256sum | grep '^{entry.key_id} '",
            f"jq -j .dsseEnvelope.payload {file} | base64 -d > {payload}",
            f"jq -j '.dsseEnvelope.signatures[0].sig' {file} | base64 -d > {signature}",
            f"{{ printf 'DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} %d ' \"$(wc -c < {payload})\"; cat {payload}; }} > {message}",
            _verify(entry.algorithm, key, signature, message),
        ),
        f"{expect}the id of the key, then a line that says “Verified”{NEEDS.get(entry.algorithm, '')}",
    )


def _by_key(entry: Signature, _: VerifiedBundle) -> tuple[str, tuple[str, ...], str]:
    return "", (f"jq -er '.signers[\"{entry.signer}\"].key' \"$POLICY\" > {entry.signer}.pub",), ""


def _by_certificate(entry: Signature, bundle: VerifiedBundle) -> tuple[str, tuple[str, ...], str]:
    who, at = entry.signer, int((entry.time or bundle.verified_at).timestamp())
    others = f"for der in $(jq -r '.verificationMaterial.x509CertificateChain.certificates[1:][].rawBytes' \"$BUNDLE/{entry.file}\"); do"
    lines = (
        f"jq -er '.signers[\"{who}\"].roots[]' \"$POLICY\" > {who}.roots",
        *_certificate(entry, ".verificationMaterial.x509CertificateChain.certificates[0]"),
        f'{others} base64 -d <<< "$der" | openssl x509 -inform DER; done > {who}.others',
        f"openssl verify {OWN_ROOTS} -attime {at} -CAfile {who}.roots $([ ! -s {who}.others ] || echo '-untrusted {who}.others') {who}.pem",
        f"openssl x509 -in {who}.pem -noout -ext extendedKeyUsage | grep -w 'Code Signing'",
    )
    when, rest = "of this report", "revocation lists: step 4 of docs/verify-by-hand.md"
    if entry.time:
        when, rest = "that a timestamp states", "that timestamp, and revocation lists: docs/verify-by-hand.md"
    return " with a certificate", lines, f"{SAME}; that its chain is OK at the time {when} ({rest}) and that it is for code signing; "


def _keyless(entry: Signature, _: VerifiedBundle) -> tuple[str, tuple[str, ...], str]:
    rest = "that the instance certified it, and when it was used, is proven with cosign: docs/verify-by-hand.md"
    return " keyless", _certificate(entry, ".verificationMaterial.certificate"), f"{SAME} ({rest}); "


def _certificate(entry: Signature, where: str) -> tuple[str, ...]:
    own = f"{entry.signer}.pem"
    return (
        f"jq -er '{where}.rawBytes' \"$BUNDLE/{entry.file}\" | base64 -d | openssl x509 -inform DER -out {own}",
        f"jq -r '.signers[\"{entry.signer}\"] | .subject, .san, .identity, .repository | values' \"$POLICY\"",
        f"openssl x509 -in {own} -noout -subject -nameopt RFC2253,-esc_msb -ext subjectAltName 2>&1",
        f"openssl x509 -in {own} -noout -pubkey > {entry.signer}.pub",
    )


_SOURCES = {"key": _by_key, "x509": _by_certificate, "sigstore": _keyless}


def _verify(algorithm: str, key: str, signature: str, message: str) -> str:
    if algorithm in HASHES:
        return f"openssl dgst -{HASHES[algorithm]} -verify {key} -signature {signature} {message}"
    return f"openssl pkeyutl -verify -rawin -pubin -inkey {key} -sigfile {signature} -in {message}"


def _statement(bundle: VerifiedBundle) -> Step:
    said, first = bundle.statement, f"{bundle.signatures[0].signer}.payload"
    stated = f'["{said.stream}",{said.serial},"{canonical.stamp(said.created)}","{canonical.stamp(said.expires)}"]'
    same = tuple(f"cmp {one.signer}.payload {other.signer}.payload" for one, other in pairwise(bundle.signatures))
    return Step(
        "They all signed the same statement: stream, serial, made, expires",
        (*same, f"jq -c '.predicate|[.stream,.serial,.created,.expires]' {first} | grep -Fx '{stated}'"),
        "the statement",
    )


def _files(bundle: VerifiedBundle) -> Step:
    first = f"{bundle.signatures[0].signer}.payload"
    lines = (
        f"jq -r '.subject[]|\"\\(.digest.sha256)  \\(.name)\"' {first} > subjects",
        '(cd "$BUNDLE" && sha256sum -c --strict -) < subjects',
        '(cd "$BUNDLE" && sha256sum -c --strict --quiet SHA256SUMS)',
    )
    if not _strong(bundle):
        return Step("Every byte is what the statement says", lines, "“index.json: OK” and “SHA256SUMS: OK”, then nothing")
    again = (
        f"jq -r '.subject[]|\"\\(.digest.sha512)  \\(.name)\"' {first} > subjects512",
        '(cd "$BUNDLE" && sha512sum -c --strict -) < subjects512',
        '(cd "$BUNDLE" && sha512sum -c --strict --quiet SHA512SUMS)',
    )
    expect = "“index.json: OK”, “SHA256SUMS: OK” and “SHA512SUMS: OK”, twice: once by each hash"
    return Step("Every byte is what the statement says, by both hashes", lines + again, expect)


def _nothing_else(bundle: VerifiedBundle) -> Step:
    roots = "echo SHA256SUMS; echo SHA512SUMS" if _strong(bundle) else "echo SHA256SUMS"
    return Step(
        "Nothing unsigned travels with it",
        (
            f'{{ cut -c 67- "$BUNDLE/SHA256SUMS"; {roots}; }} | LC_ALL=C sort > listed',
            """(cd "$BUNDLE" && find . -path ./signatures -prune -o ! -type d -printf '%P\\n') | LC_ALL=C sort > found""",
            'diff listed found && ! find "$BUNDLE/" -type l | grep .',
        ),
        "nothing",
    )


def _strong(bundle: VerifiedBundle) -> bool:
    return any(name == SHA512SUMS for name, _ in bundle.files)
