"""What a manifest of evidence is called: by its own types and what its envelope states, never by what a registry lists."""

from __future__ import annotations

import json

import pytest
from parts.upstream import VENDOR, bundle, envelope, message_signature, statement

from airgap_images.oci import EMPTY_JSON, IMAGE_MANIFEST, Descriptor, Digest, Manifest
from audit.verify.claims import DSSE, IN_TOTO, NOTATION, SIGN, SIMPLE
from bundler.upstream.kind import artifact_type, kind_of

SUBJECT = Digest("a" * 64)
CONFIG = "application/vnd.oci.image.config.v1+json"
V3 = "application/vnd.dev.sigstore.bundle.v0.3+json"


def manifest(*layers: Descriptor, artifact: str | None = None, config: str = EMPTY_JSON) -> Manifest:
    return Manifest(b"", IMAGE_MANIFEST, Descriptor(config, Digest("0" * 64), 2), layers, artifact_type=artifact)


def layer(media_type: str) -> Descriptor:
    return Descriptor(media_type, SUBJECT, 1)


def signed(predicate: str) -> dict:
    return envelope(statement(SUBJECT, predicate=predicate), VENDOR)


@pytest.mark.parametrize(
    ("media_type", "content", "kind"),
    [
        (V3, bundle({"dsseEnvelope": signed(SIGN)}), "signature"),
        (V3, bundle({"dsseEnvelope": signed("https://slsa.dev/provenance/v1")}), "provenance"),
        (V3, bundle({"dsseEnvelope": signed("https://in-toto.io/attestation/vulns")}), "attestation"),
        (V3, bundle({"dsseEnvelope": signed("https://spdx.dev/Document")}), "attestation"),
        (V3, bundle(message_signature(b"x", VENDOR)), "signature"),
        (DSSE, json.dumps(signed("https://slsa.dev/provenance/v0.2")).encode(), "provenance"),
        (DSSE, json.dumps(signed("https://cyclonedx.org/bom")).encode(), "attestation"),
        (DSSE, None, "attestation"),
        (DSSE, b"not JSON", "other"),
        (V3, b"{}", "other"),
        (V3, b"[]", "other"),
        (V3, b'{"dsseEnvelope":{"payload":"????"}}', "other"),
        (V3, b'{"dsseEnvelope":{"payload":"W10="}}', "other"),
        (V3, b'{"dsseEnvelope":[]}', "other"),
    ],
)
def test_envelopes_are_what_they_state(media_type: str, content: bytes | None, kind: str) -> None:
    assert kind_of(manifest(layer(media_type)), None, lambda _: content) == kind


@pytest.mark.parametrize(
    ("found", "tag", "kind"),
    [
        (manifest(layer(SIMPLE), config=CONFIG), "sha256-x.sig", "signature"),
        (manifest(layer(SIMPLE), artifact="application/vnd.dev.cosign.artifact.sig.v1+json"), None, "signature"),
        (manifest(layer("application/jose+json"), artifact=NOTATION), None, "signature"),
        (manifest(layer("application/cose"), config=NOTATION), None, "signature"),
        (manifest(layer("application/spdx+json"), artifact="application/spdx+json"), None, "sbom"),
        (manifest(layer("application/vnd.cyclonedx+json")), None, "sbom"),
        (manifest(layer("application/octet-stream"), artifact="application/vnd.syft+json"), None, "sbom"),
        (manifest(layer("text/plain"), config=CONFIG), "sha256-x.sbom", "sbom"),
        (manifest(layer("text/plain"), config=CONFIG), "sha256-x.sig", "other"),
        (manifest(), None, "other"),
    ],
)
def test_others_are_what_their_types_say(found: Manifest, tag: str | None, kind: str) -> None:
    assert kind_of(found, tag, lambda _: None) == kind


@pytest.mark.parametrize(
    ("predicate", "kind"),
    [("https://slsa.dev/provenance/v1", "provenance"), ("https://spdx.dev/Document", "sbom"), ("https://x.test/", "attestation"), ("", "attestation")],
)
def test_statements_of_buildkit_are_what_their_layers_say(predicate: str, kind: str) -> None:
    part = Descriptor(IN_TOTO, SUBJECT, 1, (("in-toto.io/predicate-type", predicate),))
    assert kind_of(manifest(part, config=CONFIG), None, lambda _: None) == kind


def test_the_type_that_is_recorded() -> None:
    assert artifact_type(manifest(artifact="a/b")) == "a/b"
    assert artifact_type(manifest(config=NOTATION)) == NOTATION
    assert artifact_type(manifest(config=CONFIG)) is None
    assert artifact_type(manifest(artifact="a/\x1b[2J")) is None
    assert artifact_type(manifest(artifact="a/" + "x" * 255)) is None
