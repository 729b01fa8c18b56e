"""Which level of SLSA's build track the bundle's own provenance reaches, by what the policy believes of build platforms.

A level is claimed only if the provenance in the bundle is about exactly the components in it, names a builder that the policy lists,
and one of the signers that the policy lists for that builder signed the bundle. Source: slsa.dev/spec/v1.1, "Verifying artifacts".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airgap_images.bundle import tree_files
from airgap_images.oci import Descriptor, Digest
from audit.verify.result import VerifiedBundle
from manifests import canonical
from manifests.errors import AirgapError
from manifests.paths import printable
from manifests.policy import Policy

COMPONENT, FILE = "airgap-provenance", "provenance.json"
PREDICATE = "https://slsa.dev/provenance/v1"
LATER = frozenset({COMPONENT, "airgap-checks"})  # made after the statement, or it itself
MAX_PROVENANCE = 256 << 20  # bytes; a lock of 100,000 files has a statement of about 40 MB


@dataclass(frozen=True, slots=True)
class Claim:
    """What provenance allows to claim: ``level`` 0 for nothing, with the reason; ``digest`` is the sha256 of the statement."""

    level: int
    reason: str
    builder: str | None = None
    digest: Digest | None = None


def claim(bundle: VerifiedBundle, policy: Policy) -> Claim:
    """Return the level that may be claimed for a proven bundle; whatever is wrong with its provenance, it is level 0 and said."""
    part = next((part for part in bundle.components if part.name == COMPONENT), None)
    if part is None:
        return Claim(0, "the bundle carries no provenance")
    try:
        file = next(file for file in tree_files(bundle.layout, part.root) if file.path == FILE)
        raw = bundle.layout.read(Descriptor("application/json", file.digest, file.size), MAX_PROVENANCE)
        builder = _builder(canonical.parse(raw, FILE, limit=MAX_PROVENANCE), bundle)
    except (AirgapError, StopIteration, KeyError, TypeError, ValueError, AttributeError) as error:
        return Claim(0, f"the provenance cannot be used: {printable(str(error) or type(error).__name__)}")
    return _judged(builder, file.digest, bundle, policy)


def _builder(value: Any, bundle: VerifiedBundle) -> str:
    if value["predicateType"] != PREDICATE:
        raise ValueError(f"its predicateType is not {PREDICATE}")
    stated = {subject["name"]: subject["digest"]["sha256"] for subject in value["subject"]}
    if len(stated) != len(value["subject"]):
        raise ValueError("it names a component twice")
    if stated != {part.name: part.root.digest.hex for part in bundle.components if part.name not in LATER}:
        raise ValueError("it is about other components than the bundle holds")
    return str(value["predicate"]["runDetails"]["builder"]["id"])


def _judged(builder: str, digest: Digest, bundle: VerifiedBundle, policy: Policy) -> Claim:
    known = next((entry for entry in policy.slsa if entry.id == builder), None)
    if known is None:
        return Claim(0, f"the policy does not know the builder {printable(builder)}", builder, digest)
    if not {signature.signer for signature in bundle.signatures} & set(known.signed_by):
        return Claim(0, f"none of {', '.join(known.signed_by)} signed, who vouch for the builder {printable(builder)}", builder, digest)
    return Claim(known.level, f"built by {printable(builder)}, which the policy believes up to level {known.level}", builder, digest)
