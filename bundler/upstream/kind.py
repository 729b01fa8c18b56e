"""What kind of evidence a manifest is, by its own types and, for envelopes, by what they state. Decides nothing but a name.

Kinds: ``signature``, ``attestation``, ``provenance`` (an attestation of how it was built), ``sbom``, ``other``. The types a
registry lists are not asked; annotations are, where the content itself states no type.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

from airgap_images.oci import Descriptor, Manifest
from audit.verify.claims import BUNDLE, DSSE, IN_TOTO, NOTATION, SIGN, SIMPLE
from manifests import canonical
from manifests.errors import AirgapError

MAX_TYPE = 255  # characters (RFC 6838)
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"  # cosign gives its tags one, as if they were images
MAX_STATEMENT = 32 << 20  # bytes of an envelope that is looked into
PROVENANCE = ("https://slsa.dev/provenance/", "https://in-toto.io/Provenance/")
SBOM_PREDICATES = ("https://spdx.dev/Document", "https://cyclonedx.org/bom")
SBOM_WORDS = ("spdx", "cyclonedx", "syft")  # in media types
PREDICATE = "in-toto.io/predicate-type"  # BuildKit's annotation of a layer

Read = Callable[[Descriptor], bytes | None]


def kind_of(manifest: Manifest, tag: str | None, read: Read) -> str:
    """Return the kind of a found manifest; ``read`` gives a layer's bytes, or None if they are not at hand."""
    own = {manifest.artifact_type or "", manifest.config.media_type}
    if NOTATION in own or any(layer.media_type == SIMPLE for layer in manifest.layers):
        return "signature"
    for layer in manifest.layers:
        if layer.media_type == DSSE or layer.media_type.startswith(BUNDLE):
            return _stated(read(layer))
        if layer.media_type == IN_TOTO:
            return _of_predicate(layer.annotation(PREDICATE) or "", sbom=True)
    types = " ".join((*own, *(layer.media_type for layer in manifest.layers))).lower()
    if any(word in types for word in SBOM_WORDS) or (tag or "").endswith(".sbom"):
        return "sbom"
    return "other"


def artifact_type(manifest: Manifest) -> str | None:
    """Return the type a manifest states of itself (distribution-spec: else its config's), None if it states none or just an image."""
    stated = manifest.artifact_type or manifest.config.media_type
    usable = len(stated) <= MAX_TYPE and stated.isascii() and stated.isprintable()
    return stated if usable and stated != IMAGE_CONFIG else None


def _stated(raw: bytes | None) -> str:
    """Return the kind of an envelope or a Sigstore bundle by the statement in it."""
    if raw is None:
        return "attestation"
    try:
        value = canonical.parse(raw, "envelope", limit=MAX_STATEMENT)
        if isinstance(value, dict) and "messageSignature" in value:
            return "signature"
        envelope = value.get("dsseEnvelope", value) if isinstance(value, dict) else {}
        statement = canonical.parse(base64.b64decode(str(envelope["payload"])), "statement", limit=MAX_STATEMENT)
        return _of_predicate(str(statement["predicateType"]), sbom=False)
    except (AirgapError, binascii.Error, KeyError, TypeError, ValueError):
        return "other"


def _of_predicate(predicate: Any, *, sbom: bool) -> str:
    if predicate == SIGN:
        return "signature"
    if predicate.startswith(PROVENANCE):
        return "provenance"
    return "sbom" if sbom and predicate.startswith(SBOM_PREDICATES) else "attestation"
