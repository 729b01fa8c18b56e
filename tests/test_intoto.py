"""A second implementation reads what we sign: in-toto's own envelope and statement code, which shares nothing with ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from parts import bundles, intoto

from manifests import statement

pytestmark = pytest.mark.network


@pytest.fixture(scope="module", params=["p256", "p384", "ed25519"])
def signed(request, tmp_path_factory) -> tuple[Path, bundles.Site]:
    base = tmp_path_factory.mktemp(request.param)
    who = bundles.site(base / "keys", curves=dict.fromkeys(("alice", "bob", "carol"), request.param))
    return bundles.signed(base / "bundle", who, size=1000), who


def public(who: bundles.Site, name: str) -> str:
    return (who.folder / f"{name}.pub").read_text()


def test_in_toto_accepts_our_envelope_and_reads_our_statement(signed):
    folder, who = signed
    for name in ("alice", "bob"):
        raw = (folder / "signatures" / f"{name}.sigstore.json").read_bytes()
        said = intoto.read(raw, public(who, name))
        assert said.get("verified"), said
        assert (said["type"], said["predicateType"]) == (statement.PAYLOAD_TYPE, statement.PREDICATE)
        assert said["subjects"].keys() == {"index.json", "SHA256SUMS"}
        own = statement.Statement.parse(statement.Envelope.parse(raw, "x").payload, "x")
        assert {subject.name: subject.digest.digests for subject in own.subject} == said["subjects"]
        assert said["predicate"]["stream"] == bundles.STREAM


def test_in_toto_refuses_another_key_and_another_statement(signed):
    folder, who = signed
    raw = (folder / "signatures" / "alice.sigstore.json").read_bytes()
    assert "refused" in intoto.read(raw, public(who, "bob"))
    value = json.loads(raw)
    value["dsseEnvelope"]["payload"] = value["dsseEnvelope"]["payload"].replace("e", "f", 1)
    assert "refused" in intoto.read(json.dumps(value).encode(), public(who, "alice"))
