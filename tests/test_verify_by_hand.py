"""``docs/verify-by-hand.md`` as it is written there: run line by line on real bundles, good ones and bad ones."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from parts import bundles

from bundler import sign
from manifests import canonical
from manifests.policy import first_policy

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "verify-by-hand.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
NOW = datetime.now(UTC)

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "jq", "openssl", "sha256sum", "find"))), reason="bash, jq, openssl, sha256sum or find is not installed"
)


@pytest.fixture(scope="module")
def made(request, tmp_path_factory):
    curve = getattr(request, "param", "p256")
    base = tmp_path_factory.mktemp(curve)
    who = bundles.site(base / "keys", curves=dict.fromkeys(("alice", "bob", "carol"), curve))
    public = {name: (base / "keys" / f"{name}.pub").read_text() for name in ("alice", "bob")}
    who = replace(who, policy=first_policy(bundles.STREAM, public, threshold=2, expires=NOW + timedelta(days=365)))
    bundles.layout(base / "bundle", {"docs": {"a.txt": b"hello"}, "data": {"w.bin": os.urandom(100_000)}})
    for at, name in enumerate(("alice", "bob")):
        sign.sign(base / "bundle", who.key(name), bundles.terms(1 if at == 0 else None, created=NOW))
    return base, who


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made[0] / "bundle", tmp_path / "bundle")
    return tmp_path / "bundle"


def by_hand(folder: Path, policy: bytes, tmp_path: Path) -> tuple[int, str]:
    """Run the document's blocks with the two places of the first one filled in; return the exit status and what was shown."""
    (tmp_path / "policy.json").write_bytes(policy)
    first, replaced = re.subn(r"^BUNDLE=.*\nPOLICY=.*$", f"BUNDLE={folder}\nPOLICY={tmp_path / 'policy.json'}", BLOCKS[0], flags=re.MULTILINE)
    assert replaced == 1
    script = "\n".join([first, *(f"echo '# block {at}'\n{block}" for at, block in enumerate(BLOCKS[1:], start=2))])
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    done = subprocess.run(["bash"], input=script, text=True, capture_output=True, check=False, env=environment, timeout=60)
    return done.returncode, done.stdout + done.stderr


def altered(who, **changes: object) -> bytes:
    value = who.policy.model_dump(mode="json")
    for path, new in changes.items():
        *parents, last = path.split("__")
        node = value
        for parent in parents:
            node = node[parent]
        node[last] = new
    return canonical.readable(value)


def test_the_document_has_a_block_for_every_step():
    headings = re.findall(r"^## (\d)\.", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == [str(number) for number in range(1, len(BLOCKS) + 1)]


@pytest.mark.parametrize("made", ["p256", "p384", "ed25519"], indirect=True)
def test_the_recipe_accepts_what_was_signed_and_leaves_the_bundle_as_it_was(made, folder, tmp_path):
    before = sorted((str(path), path.lstat().st_mtime_ns) for path in folder.rglob("*"))
    status, shown = by_hand(folder, made[1].policy_raw, tmp_path)
    assert status == 0, shown
    assert "# block 6" in shown
    assert "alice signed, by alice.sigstore.json" in shown
    assert "index.json: OK" in shown
    assert "SHA256SUMS: OK" in shown
    assert len(re.findall(r"Verified OK|Signature Verified Successfully", shown)) == 2
    assert sorted((str(path), path.lstat().st_mtime_ns) for path in folder.rglob("*")) == before


def blob(folder: Path) -> Path:
    return max((folder / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    path.chmod(0o644)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def signature_changed(folder: Path) -> None:
    path = folder / "signatures" / "alice.sigstore.json"
    value = json.loads(path.read_bytes())
    signature = value["dsseEnvelope"]["signatures"][0]
    raw = bytearray(base64.b64decode(signature["sig"]))
    raw[-1] ^= 1
    signature["sig"] = base64.b64encode(raw).decode()
    path.write_bytes(canonical.compact(value))


def payload_changed(folder: Path) -> None:
    path = folder / "signatures" / "alice.sigstore.json"
    value = json.loads(path.read_bytes())
    value["dsseEnvelope"]["payload"] = value["dsseEnvelope"]["payload"].replace("e", "f", 1)
    path.write_bytes(canonical.compact(value))


TAMPERED = {
    "blob flipped": (lambda f: flip(blob(f)), 5),
    "blob missing": (lambda f: blob(f).unlink(), 5),
    "blob cut": (lambda f: (blob(f).chmod(0o644), os.truncate(blob(f), 10)), 5),
    "index changed": (lambda f: flip(f / "index.json"), 5),
    "sums changed": (lambda f: (f / "SHA256SUMS").write_bytes((f / "SHA256SUMS").read_bytes()[67:]), 5),
    "layout changed": (lambda f: (f / "oci-layout").write_bytes(b"{}"), 5),
    "stray blob": (lambda f: (f / "blobs" / "sha256" / ("0" * 64)).write_bytes(b""), 6),
    "stray file": (lambda f: (f / "verify.sh").write_bytes(b""), 6),
    "stray folder": (lambda f: (f / "blobs" / "x").mkdir(), 6),
    "stray beside the signatures": (lambda f: (f / "signatures" / "run.sh").write_bytes(b""), 6),
    "blob is a link": (lambda f: (shutil.move(blob(f), f.parent / "x"), (f / "blobs/sha256" / blob_name(f)).symlink_to(f.parent / "x")), 6),
    "one signature missing": (lambda f: (f / "signatures" / "bob.sigstore.json").unlink(), 3),
    "one signature twice": (lambda f: shutil.copy(f / "signatures" / "alice.sigstore.json", f / "signatures" / "bob.sigstore.json"), 3),
    "statement changed": (payload_changed, 3),
    "signature changed": (signature_changed, 3),
    "unsigned": (lambda f: shutil.rmtree(f / "signatures"), 3),
}


def blob_name(folder: Path) -> str:
    from airgap_images.oci import Digest

    return Digest.of((folder.parent / "x").read_bytes()).hex


@pytest.mark.parametrize("name", TAMPERED)
def test_the_recipe_refuses_what_was_tampered_with(made, folder, tmp_path, name):
    change, block = TAMPERED[name]
    change(folder)
    status, shown = by_hand(folder, made[1].policy_raw, tmp_path)
    assert status != 0
    assert re.findall(r"# block (\d)", shown)[-1] == str(block), shown


POLICIES = {
    "revoked signer": ({"revoked__signers": ["bob"]}, 3),
    "higher threshold of another group": ({"roles__bundle__require_any_of": [["alice"], ["nobody"]]}, 3),
    "revoked blob": ({}, 5),
    "other stream": ({"stream": "other"}, 4),
    "higher floor": ({"min_serial": 2}, 4),
    "expired": ({"expires": "2020-01-01T00:00:00Z"}, 2),
}


@pytest.mark.parametrize("made", ["p256", "p384", "ed25519"], indirect=True)
@pytest.mark.parametrize("change", [signature_changed, payload_changed])
def test_a_signature_that_does_not_verify_is_refused_whatever_the_algorithm(made, folder, tmp_path, change):
    change(folder)
    status, shown = by_hand(folder, made[1].policy_raw, tmp_path)
    assert status != 0
    assert re.findall(r"# block (\d)", shown)[-1] == "3", shown


@pytest.mark.parametrize("name", POLICIES)
def test_the_recipe_follows_the_policy(made, folder, tmp_path, name):
    changes, block = POLICIES[name]
    if name == "revoked blob":
        changes = {"revoked__blobs": [blob(folder).name]}
    status, shown = by_hand(folder, altered(made[1], **changes), tmp_path)
    assert status != 0
    assert re.findall(r"# block (\d)", shown)[-1] == str(block), shown


def test_a_key_under_a_signers_name_that_is_not_the_signers_is_refused(made, folder, tmp_path):
    base, who = made
    value = who.policy.model_dump(mode="json")
    value["signers"]["bob"]["key"] = (base / "keys" / "carol.pub").read_text()
    status, shown = by_hand(folder, canonical.readable(value), tmp_path)
    assert status != 0
    assert re.findall(r"# block (\d)", shown)[-1] == "3", shown


def test_two_statements_are_refused(made, folder, tmp_path):
    _, who = made
    shutil.move(folder / "signatures", folder.parent / "kept")
    sign.sign(folder, who.key("bob"), bundles.terms(2, created=NOW))
    shutil.copy(folder.parent / "kept" / "alice.sigstore.json", folder / "signatures" / "alice.sigstore.json")
    status, shown = by_hand(folder, who.policy_raw, tmp_path)
    assert status != 0
    assert re.findall(r"# block (\d)", shown)[-1] == "4", shown


def test_an_expired_bundle_is_refused(made, folder, tmp_path):
    _, who = made
    shutil.rmtree(folder / "signatures")
    for at, name in enumerate(("alice", "bob")):
        sign.sign(folder, who.key(name), bundles.terms(1 if at == 0 else None, created=NOW - timedelta(days=9), days=8))
    status, shown = by_hand(folder, who.policy_raw, tmp_path)
    assert status != 0
    assert re.findall(r"# block (\d)", shown)[-1] == "4", shown
