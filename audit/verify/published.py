"""A provenance file of a Python package index (PEP 740): the attestations in it, as Sigstore bundles and what they claim. No I/O.

Rules: hostile; JSON is strict and bounded, what is not known is not judged. What the file says of its publisher is signed by nobody and
is not read. An attestation holds what a Sigstore bundle v0.3 holds under other names, so it is turned into one and judged as such.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

from airgap_images.contents.packages.core_metadata import normalised
from airgap_images.wheel_evidence import MAX_PROVENANCE
from audit.verify.claims import IN_TOTO, MAX_DOCUMENT, Claim, UnknownShapeError, attestation
from manifests import canonical
from manifests.errors import AirgapError, InvalidFileError
from manifests.paths import MAX_SEGMENT

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PUBLISH = "https://docs.py" "pi.org/attestations/publish/v1"  # an identifier; in two halves, because no file here names a registry
SLSA = "https://slsa.dev/provenance/v1"
PREDICATES = frozenset({PUBLISH, SLSA})  # PEP 740 and the index's own documentation: what a publisher may attest
MAX_ATTESTATIONS = 64  # in one file; an index takes one of each predicate
SOURCES = (".tar.gz", ".zip")  # of source distributions

_WHEEL = re.compile(
    r"([A-Za-z0-9._]+)-([A-Za-z0-9._+!]+)(?:-([0-9][A-Za-z0-9_.]*))?"  # project, version, build
    r"-([A-Za-z0-9_.]+)-([A-Za-z0-9_.]+)-([A-Za-z0-9_.]+)\.whl"  # python, abi, platform
)
_SOURCE = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)-([0-9][A-Za-z0-9._+!]*)")


@dataclass(frozen=True, slots=True)
class Published:
    """One attestation: what it claims, and the one file (name, sha256 in hex) that its statement is about."""

    claim: Claim
    name: str
    sha256: str

    @property
    def predicate(self) -> str:
        """Return the type of what is stated."""
        return self.claim.predicate or ""


def attestations(raw: bytes, what: str) -> tuple[Any, ...]:
    """Return the attestations of a provenance file as they stand there; raises InvalidFileError for what is no such file."""
    value = canonical.parse(raw, what, limit=MAX_PROVENANCE)
    bundles = value.get("attestation_bundles") if isinstance(value, dict) else None
    if not isinstance(bundles, list) or not all(isinstance(one, dict) and isinstance(one.get("attestations"), list) for one in bundles):
        raise _broken(f"{what}: not a provenance file of a package index (PEP 740)")
    if value.get("version") != 1:
        raise _unknown(f"{what}: of another version than 1, which this version does not know")
    found = tuple(one for bundle in bundles for one in bundle["attestations"])
    if not 0 < len(found) <= MAX_ATTESTATIONS:
        raise _broken(f"{what}: {len(found)} attestations in it, expected 1 to {MAX_ATTESTATIONS}")
    return found


def published(value: Any, what: str) -> Published:
    """Return what one attestation claims.

    Raises UnknownShapeError for a form that cannot be judged here, InvalidFileError for one that is broken.
    """
    claim = attestation(canonical.compact(_bundle(value, what)), what)
    statement = canonical.parse(claim.payload or b"", what, limit=MAX_DOCUMENT)
    if len(claim.digests) != 1:
        raise _broken(f"{what}: it is about {len(claim.digests)} files, not one")
    name = statement["subject"][0].get("name")
    if not isinstance(name, str):
        raise _broken(f"{what}: it does not name its file")
    return Published(claim, name, claim.digests[0].hex)


def distribution(filename: str) -> tuple[Any, ...] | None:
    """Return what the name of a wheel or source archive says, equal for names that mean the same file; None if it is no such name.

    Project, build and tags are compared as packaging's formats read them, the version but for its case as it is written.
    """
    if len(filename) > MAX_SEGMENT:
        return None
    wheel = _WHEEL.fullmatch(filename)
    if wheel:
        project, version, build, *tags = wheel.groups()
        return normalised(project), version.lower(), build or "", *(frozenset(tag.lower().split(".")) for tag in tags)
    stem = next((filename.removesuffix(end) for end in SOURCES if filename.endswith(end)), "")
    source = _SOURCE.fullmatch(stem)
    return (normalised(source[1]), source[2].lower()) if source else None


def project(filename: str) -> str:
    """Return the normalised name (PEP 503) of the project a file is of, empty if its name does not say so."""
    found = distribution(filename)
    return str(found[0]) if found else ""


def _bundle(value: Any, what: str) -> dict[str, Any]:
    if isinstance(value, dict) and value.get("version") != 1:
        raise _unknown(f"{what}: of another version than 1, which this version does not know")
    _fields(value, {"version", "verification_material", "envelope"}, what)
    material, envelope = value["verification_material"], value["envelope"]
    _fields(material, {"certificate", "transparency_entries"}, what)
    _fields(envelope, {"statement", "signature"}, what)
    return {
        "mediaType": BUNDLE,
        "verificationMaterial": {
            "certificate": {"rawBytes": _base64(material["certificate"], what)},
            "tlogEntries": material["transparency_entries"],
        },
        "dsseEnvelope": {
            "payload": _base64(envelope["statement"], what),
            "payloadType": IN_TOTO,
            "signatures": [{"sig": _base64(envelope["signature"], what)}],
        },
    }


def _fields(value: Any, names: set[str], what: str) -> None:
    if not isinstance(value, dict) or not names <= value.keys():
        raise _broken(f"{what}: not an attestation (PEP 740)")
    if value.keys() - names:
        raise _unknown(f"{what}: more in it than PEP 740 says, which this version does not know")


def _base64(text: Any, what: str) -> str:
    """Return base64 in its one form; writers of this format break the lines, which the format allows."""
    try:
        return base64.b64encode(base64.b64decode(text.replace("\n", ""), validate=True)).decode()
    except (AttributeError, binascii.Error, ValueError):
        raise _broken(f"{what}: not base64") from None


def _broken(why: str) -> AirgapError:
    return InvalidFileError(why, hint="do not use the file; ask who published it")


def _unknown(why: str) -> AirgapError:
    return UnknownShapeError(why, hint="judge it by hand, or ask for a version of this tool that knows it")
