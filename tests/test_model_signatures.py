"""Signatures over the models of a bundle: made without reading a model again, checked with the bundle, read by the OpenSSF's own verifier."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parts import bundles, model_signing, omssig
from parts.expect import refused
from safetensors.numpy import save

from airgap_images.layout import Layout
from audit.install.install import install
from audit.verify import model_signatures, oms
from audit.verify.trust import Memory
from audit.verify.walk import Place, verify
from bundler import model_signatures as signing
from bundler import sign
from manifests.errors import IntegrityError, RefusedError, TrustError, UsageError
from manifests.site import Site as HomeSite
from manifests.statement import MODEL_SUFFIX

WEIGHTS = save({"w": np.zeros(64, np.float32)}, metadata={"format": "pt"})
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "a.b/x": b"1", "a/x": b"2", ".gitattributes": b"*\n", "sub/.gitignore": b"x\n"}
COMMIT = "c" * 40
CACHED = {f"models--acme--tiny/snapshots/{COMMIT}/{path}": data for path, data in FILES.items()} | {
    "models--acme--tiny/refs/main": COMMIT.encode(),
    f"models--acme--tiny/trees/{COMMIT}.json": b"{}",
}


@pytest.fixture
def site(tmp_path: Path) -> bundles.Site:
    return bundles.site(tmp_path / "keys")


def signed(folder: Path, site: bundles.Site, *who: str, trees: omssig.Trees | None = None) -> Path:
    """Write a bundle of a local and a hub's model, unless other trees are given, with its signatures and over the models those of ``who``."""
    omssig.bundle(folder, trees or {"local": ("model", FILES), "tiny": ("huggingface", CACHED)})
    for at, name in enumerate(("alice", "bob")):
        sign.sign(folder, site.key(name), bundles.terms(1 if at == 0 else None))
    for name in who:
        signing.sign(folder, site.key(name))
    return folder


def proved(folder: Path, site: bundles.Site, **changes: Any):
    policy = site.policy.changed(**changes).to_bytes() if changes else site.policy_raw
    return verify(Place.of(folder), policy, memory=Memory(), now=bundles.NOW)


def failing(folder: Path, site: bundles.Site) -> dict[str, str]:
    """Return why a bundle is refused, by rule."""
    with pytest.raises(RefusedError) as caught:
        proved(folder, site)
    return {str(failure.rule): failure.message for failure in caught.value.failures}


def file(folder: Path, name: str = "local.alice") -> Path:
    return folder / "signatures" / f"{name}{MODEL_SUFFIX}"


def test_every_model_is_signed_and_nothing_of_the_bundle_changes(tmp_path, site):
    folder = signed(tmp_path / "b", site)
    before = {name: (folder / name).read_bytes() for name in ("index.json", "SHA256SUMS")}
    done = signing.sign(folder, site.key("alice"))
    assert done.made == (f"signatures/local.alice{MODEL_SUFFIX}", f"signatures/tiny.alice{MODEL_SUFFIX}")
    assert {name: (folder / name).read_bytes() for name in before} == before
    again = signing.sign(folder, site.key("alice"))
    assert (again.made, again.stood) == ((), done.made)
    assert signing.sign(folder, site.key("bob")).made == (f"signatures/local.bob{MODEL_SUFFIX}", f"signatures/tiny.bob{MODEL_SUFFIX}")
    found = proved(folder, site)
    assert [(entry.model, entry.signer, entry.algorithm) for entry in found.models] == [
        ("local", "alice", "ecdsa-p256-sha256"), ("local", "bob", "ecdsa-p256-sha256"),
        ("tiny", "alice", "ecdsa-p256-sha256"), ("tiny", "bob", "ecdsa-p256-sha256"),
    ]  # fmt: skip
    assert found.ignored == ()
    assert {name for name, _ in found.files if name.endswith(MODEL_SUFFIX)} == {*done.made, *(n.replace("alice", "bob") for n in done.made)}


def test_the_statement_is_the_format_s(tmp_path, site):
    folder = signed(tmp_path / "b", site, "alice")
    for name in ("local", "tiny"):
        found = oms.parse(file(folder, f"{name}.alice").read_bytes(), "x")
        wanted = sorted(path for path in FILES if path != ".gitattributes")
        assert [(entry.path, entry.digest) for entry in found.listing.resources] == [
            (path, hashlib.sha256(FILES[path]).hexdigest()) for path in wanted
        ]
        assert found.listing.sound
        value = json.loads(found.envelope.payload)
        assert value["subject"][0]["name"] == name
        assert value["predicate"]["serialization"]["ignore_paths"] == list(omssig.GIT)
    material = json.loads(file(folder).read_bytes())["verificationMaterial"]
    pem = (tmp_path / "keys" / "alice.pub").read_bytes()
    assert material == {"publicKey": {"hint": hashlib.sha256(pem).hexdigest()}, "tlogEntries": []}


def test_no_file_of_a_model_is_read(tmp_path, site, monkeypatch):
    folder = signed(tmp_path / "b", site)
    monkeypatch.setattr(Layout, "open", lambda *_: pytest.fail("opened a blob"))
    read = Layout.read

    def small(layout, descriptor, limit):
        assert descriptor.media_type.startswith("application/vnd.oci.image")
        monkeypatch.undo()
        try:
            return read(layout, descriptor, limit)
        finally:
            monkeypatch.setattr(Layout, "read", small)

    monkeypatch.setattr(Layout, "read", small)
    assert len(signing.sign(folder, site.key("alice")).made) == 2


@pytest.mark.parametrize("kind", ["ed25519", "ml-dsa-87"])
def test_keys_other_verifiers_do_not_know_sign_no_model_and_say_so(tmp_path, kind):
    site = bundles.site(tmp_path / "keys", curves={"alice": kind})
    done = signing.sign(signed(tmp_path / "b", site), site.key("alice"))
    assert (done.made, done.note) == (
        (), f"models are not signed by alice: verifiers of OpenSSF Model Signing know ECDSA keys only, not {kind}",
    )  # fmt: skip


def test_a_bundle_without_models_has_nothing_to_sign(tmp_path, site):
    assert signing.sign(bundles.signed(tmp_path / "b", site), site.key("alice")) == signing.ModelsSigned()


def test_a_model_of_nothing_the_format_can_state_says_how_to_go_on(tmp_path, site):
    folder = signed(tmp_path / "b", site, trees={"m": ("model", {".gitattributes": b"x"})})
    with refused(IntegrityError, "m: has no file that a model signature can be over"):
        signing.sign(folder, site.key("alice"))


# Checked with the bundle


def test_a_changed_signature_is_refused(tmp_path, site):
    folder = signed(tmp_path / "b", site, "alice")
    value = json.loads(file(folder).read_bytes())
    other = json.loads(file(folder, "tiny.alice").read_bytes())
    value["dsseEnvelope"]["signatures"] = other["dsseEnvelope"]["signatures"]
    file(folder).write_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())
    assert failing(folder, site) == {"3.signature": f"signatures/local.alice{MODEL_SUFFIX}: claims to be by alice and does not verify"}


@pytest.mark.parametrize("raw", [b"", b"{}", b"[" * 100_000])
def test_a_file_that_is_no_signature_is_refused(tmp_path, site, raw):
    folder = signed(tmp_path / "b", site, "alice")
    file(folder).write_bytes(raw)
    assert list(failing(folder, site)) == ["3.model-signature"]


def test_a_signature_in_another_encoding_is_refused(tmp_path, site):
    folder = signed(tmp_path / "b", site, "alice")
    file(folder).write_bytes(json.dumps(json.loads(file(folder).read_bytes()), indent=1).encode())
    assert "not exactly one signature in canonical form" in failing(folder, site)["3.model-signature"]


def test_a_signature_over_other_files_is_refused_though_its_signer_made_it(tmp_path, site):
    folder = signed(tmp_path / "b", site, "alice")
    other = signed(tmp_path / "other", site, "alice", trees={"local": ("model", FILES | {"config.json": b"[]"})})
    shutil.copy(file(other), file(folder))
    assert failing(folder, site) == {"6.model-statement": f"signatures/local.alice{MODEL_SUFFIX}: states other files than model local has"}
    with refused(TrustError, "is not over a model of this bundle"):
        signing.sign(folder, site.key("bob"))


def test_a_signature_under_the_name_of_another_model_or_of_none_is_refused(tmp_path, site):
    folder = signed(tmp_path / "b", site, "alice")
    shutil.move(file(folder), file(folder, "tiny.bob"))
    assert "states other files than model tiny has" in failing(folder, site)["6.model-statement"]
    shutil.move(file(folder, "tiny.bob"), file(folder, "else.alice"))
    assert "is named after no model of this bundle" in failing(folder, site)["6.model-statement"]


def test_the_bundle_s_own_statement_is_no_model_signature_and_the_other_way_round(tmp_path, site):
    folder = signed(tmp_path / "b", site, "alice")
    shutil.copy(folder / "signatures" / "alice.sigstore.json", file(folder))
    assert "names another key than the one that signed" in failing(folder, site)["3.signature"]
    shutil.copy(file(signed(tmp_path / "c", site, "alice")), folder / "signatures" / "carol.sigstore.json")
    assert "3.signature" in failing(folder, site)


def test_a_signature_by_nobody_the_policy_names_is_ignored_with_the_reason(tmp_path, site):
    folder = signed(tmp_path / "b", site, "alice", "carol")
    found = proved(folder, site)
    assert [entry.signer for entry in found.models] == ["alice", "alice"]
    assert [(entry.file, entry.reason) for entry in found.ignored] == [
        (f"signatures/{name}.carol{MODEL_SUFFIX}", "made with no key of this policy") for name in ("local", "tiny")
    ]


def test_a_signer_who_is_revoked_or_may_not_sign_bundles_does_not_count(tmp_path, site):
    folder = signed(tmp_path / "b", site, "carol", "alice")
    entry = bundles.signer_entry((tmp_path / "keys" / "carol.pub").read_text())
    signers = site.policy.model_dump(mode="json")["signers"] | {"carol": entry}
    reasons = {entry.reason for entry in proved(folder, site, signers=signers).ignored}
    assert reasons == {"signer carol may not sign bundles"}
    roles = site.policy.model_dump(mode="json")["roles"]
    roles["bundle"]["signers"] = ["alice", "bob", "carol"]
    revoked = {"signers": ["carol"], "roots": [], "blobs": []}
    reasons = {entry.reason for entry in proved(folder, site, signers=signers, roles=roles, revoked=revoked).ignored}
    assert reasons == {"signer carol is revoked by the policy"}


@pytest.mark.parametrize("name", ["Local.alice", ".alice", "local.", "a b.alice", "x" * 200 + ".a"])
def test_names_that_are_none_are_refused(tmp_path, site, name):
    folder = signed(tmp_path / "b", site, "alice")
    shutil.copy(file(folder), file(folder, name))
    assert any("does not belong here" in message for message in failing(folder, site).values())


def test_links_and_too_many_and_too_large_files_are_refused(tmp_path, site, monkeypatch):
    folder = signed(tmp_path / "b", site, "alice")
    monkeypatch.setattr(model_signatures, "MAX_FILES", 1)
    assert "at most 1 are allowed" in failing(folder, site)["3.model-signature"]
    with refused(UsageError, "at most 1 travel with a bundle"):
        signing.sign(signed(tmp_path / "c", site), site.key("alice"))
    monkeypatch.undo()
    size = file(folder).stat().st_size
    monkeypatch.setattr(model_signatures, "MAX_TOTAL", size + 100)
    assert "larger than 100 bytes" in " ".join(failing(folder, site).values())  # is left for the second
    monkeypatch.undo()
    file(folder).unlink()
    file(folder).symlink_to(file(folder, "tiny.alice"))
    assert "a symbolic link" in " ".join(failing(folder, site).values())


def test_names_with_points_are_told_apart_by_what_is_stated(tmp_path, site):
    trees = {"a": ("model", {"config.json": b"1"}), "a.b": ("model", {"config.json": b"2"})}
    folder = signed(tmp_path / "b", site, trees=trees)
    carol = site.key("alice").named("b.alice")
    assert signing.sign(folder, carol).made == (f"signatures/a.b.alice{MODEL_SUFFIX}", f"signatures/a.b.b.alice{MODEL_SUFFIX}")
    assert [entry.model for entry in proved(folder, site).models] == ["a", "a.b"]


def test_an_interrupted_signing_goes_on(tmp_path, site):
    folder = signed(tmp_path / "b", site, "alice")
    torn = folder / "signatures" / f".{file(folder).name}.{'0' * 16}"
    torn.write_bytes(b"{")
    file(folder, "tiny.alice").unlink()
    sign.sign(folder, site.key("alice"), bundles.terms(None))
    assert not torn.exists()
    assert signing.sign(folder, site.key("alice")).made == (f"signatures/tiny.alice{MODEL_SUFFIX}",)
    assert len(proved(folder, site).models) == 2


def test_signing_anew_after_the_bundle_s_signatures_were_removed(tmp_path, site):
    folder = signed(tmp_path / "b", site, "alice")
    for path in (folder / "signatures").glob("*.sigstore.json"):
        path.unlink()
    with pytest.raises(RefusedError, match="not signed"):
        proved(folder, site)
    sign.sign(folder, site.key("alice"), bundles.terms(1))
    assert len(signing.sign(folder, site.key("alice")).stood) == 2


def test_a_store_keeps_them_and_gives_them_up_with_the_bundle(tmp_path, site):
    folder = signed(tmp_path / "b", site, "alice")
    home = HomeSite.model_validate({"store": str(tmp_path / "store")})
    done = install(Place.of(folder), site.policy_raw, home, now=bundles.NOW)
    kept = done.store / "bundles" / done.bundle.digest.hex / "signatures"
    assert sorted(path.name for path in kept.glob(f"*{MODEL_SUFFIX}")) == [f"{name}.alice{MODEL_SUFFIX}" for name in ("local", "tiny")]
    signing.sign(folder, site.key("bob"))
    install(Place.of(folder), site.policy_raw, home, now=bundles.NOW)
    assert len(list(kept.glob(f"*{MODEL_SUFFIX}"))) == 4


# By the OpenSSF's own verifier


@pytest.mark.network
@pytest.mark.parametrize("curve", ["p256", "p384"])
def test_the_official_verifier_accepts_an_installed_model_and_refuses_a_flipped_byte(tmp_path, curve):
    site = bundles.site(tmp_path / "keys", curves={"alice": curve})
    folder = signed(tmp_path / "b", site, "alice")
    home = HomeSite.model_validate({"store": str(tmp_path / "store")})
    done = install(Place.of(folder), site.policy_raw, home, now=bundles.NOW, copy=True)
    kept = done.store / "bundles" / done.bundle.digest.hex / "signatures"
    for name, inside in (("local", "."), ("tiny", f"models--acme--tiny/snapshots/{COMMIT}")):
        model = done.store / "current" / name / inside
        how = (model, kept / f"{name}.alice{MODEL_SUFFIX}", "key", "--public_key")
        accepted, said = model_signing.verified(*how, tmp_path / "keys" / "alice.pub")
        assert accepted, said
        assert not model_signing.verified(*how, tmp_path / "keys" / "bob.pub")[0]
        weights = model / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.chmod(0o644)
        weights.write_bytes(data)
        accepted, said = model_signing.verified(*how, tmp_path / "keys" / "alice.pub")
        assert not accepted
        assert "model.safetensors" in said
