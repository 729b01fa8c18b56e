"""How to prove the same without this tool: shell lines for ``sha256sum``, ``jq`` and ``openssl`` with this bundle's values.

The recipe is that of ``docs/trust.md``: the policy's digest, who signed, the signatures, the signed files, and that nothing else
is there. Rules: the lines are for bash, are run in order, write into an empty folder and never into the bundle; every name
in them is plain, because policy, index and signature files allow no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from audit.verify.result import Signature, VerifiedBundle
from manifests import canonical
from manifests.statement import PAYLOAD_TYPE

HASHES = {"ecdsa-p256-sha256": "sha256", "ecdsa-p384-sha384": "sha384"}
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
        *(_signature(entry) for entry in bundle.signatures),
        _statement(bundle),
        _files(bundle.signatures[0]),
        _nothing_else(),
    )


def _policy(bundle: VerifiedBundle) -> Step:
    return Step(
        "The policy is the one this site was told to trust",
        (f"sha256sum < \"$POLICY\" | grep '^{bundle.policy_sha256} '",),
        "one line. Compare this sha256 with the one you were given by another way: on paper, or by voice",
    )


def _signature(entry: Signature) -> Step:
    key, payload, signature, message = (f"{entry.signer}.{kind}" for kind in ("pub", "payload", "signature", "message"))
    file = f'"$BUNDLE/{entry.file}"'
    return Step(
        f"{entry.signer} signed ({entry.algorithm})",
        (
            f"jq -er '.signers[\"{entry.signer}\"].key' \"$POLICY\" > {key}",
            f"openssl pkey -pubin -in {key} -outform DER | sha256sum | grep '^{entry.key_id} '",
            f"jq -j .dsseEnvelope.payload {file} | base64 -d > {payload}",
            f"jq -j '.dsseEnvelope.signatures[0].sig' {file} | base64 -d > {signature}",
            f"{{ printf 'DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} %d ' \"$(wc -c < {payload})\"; cat {payload}; }} > {message}",
            _verify(entry.algorithm, key, signature, message),
        ),
        "the id of the key, then a line that says “Verified”",
    )


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


def _files(first: Signature) -> Step:
    return Step(
        "Every byte is what the statement says",
        (
            f"jq -r '.subject[]|\"\\(.digest.sha256)  \\(.name)\"' {first.signer}.payload > subjects",
            '(cd "$BUNDLE" && sha256sum -c --strict -) < subjects',
            '(cd "$BUNDLE" && sha256sum -c --strict --quiet SHA256SUMS)',
        ),
        "“index.json: OK” and “SHA256SUMS: OK”, then nothing",
    )


def _nothing_else() -> Step:
    return Step(
        "Nothing unsigned travels with it",
        (
            '{ cut -c 67- "$BUNDLE/SHA256SUMS"; echo SHA256SUMS; } | LC_ALL=C sort > listed',
            """(cd "$BUNDLE" && find . -path ./signatures -prune -o ! -type d -printf '%P\\n') | LC_ALL=C sort > found""",
            'diff listed found && ! find "$BUNDLE/" -type l | grep .',
        ),
        "nothing",
    )
