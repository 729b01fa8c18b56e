"""``docs/verify-by-hand.md`` as it is written there: run line by line on real bundles, good ones and bad ones."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from parts import bundles, certified, cnsa, openssl35
from parts.bundles import Site
from parts.cli import BIN, NO_NETWORK, need_namespaces
from parts.cosign import cosign
from parts.images import need
from parts.rekor1 import rekor1
from parts.sigstore import ISSUER, PrivateSigstore, private_sigstore
from rfc3161_client import TimestampRequestBuilder

from audit.evidence import replay
from audit.signers import LocalSigner
from audit.verify.result import VerifiedBundle
from audit.verify.trust import Memory
from audit.verify.walk import Place, verify
from bundler import sign
from bundler.keyless import open_signer
from manifests import canonical, statement
from manifests.errors import RefusedError
from manifests.policy import Policy, first_policy, signer_entry

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "verify-by-hand.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
STEPS = [BLOCK.findall(text)[0] for title, text in SECTIONS.items() if title[0].isdigit()]
NOW = datetime.now(UTC)
WORKFLOW = "https://git.example.test/vllm/tool/.ci/release.yml@refs/heads/main"
ROOT = certified.root()
OFFICE = ROOT.below("Example Office")
KINDS = ("p256", "p384", "ed25519", "ml-dsa-87", "cnsa", "x509")

pytestmark = pytest.mark.parts


@dataclass(frozen=True)
class Made:
    """A bundle signed by alice and bob, the policy that wants both, and a PATH with an ``openssl`` that knows their algorithms."""

    base: Path
    who: Site
    path: str

    @property
    def bundle(self) -> Path:
        return self.base / "bundle"


@pytest.fixture(scope="module")
def made(request, tmp_path_factory) -> Made:
    return make(getattr(request, "param", "p256"), tmp_path_factory.mktemp("made"))


def make(kind: str, base: Path) -> Made:
    need("bash", "jq", "openssl", "sha256sum", "sha512sum", "find")
    trees = {"docs": {"a.txt": b"hello"}, "data": {"w.bin": os.urandom(100_000)}}
    expires = NOW + timedelta(days=365)
    if kind == "cnsa":
        who = cnsa.site(base / "keys", threshold=2)
        who = replace(who, policy=Policy.parse(altered(who, expires=canonical.stamp(expires))))
        cnsa.made(base / "bundle", trees)
    else:
        curve = "p256" if kind == "x509" else kind
        who = bundles.site(base / "keys", curves=dict.fromkeys(("alice", "bob", "carol"), curve))
        signers = {name: signer_entry((base / "keys" / f"{name}.pub").read_text()) for name in ("alice", "bob")}
        if kind == "x509":
            signers["bob"] = by_certificate(ROOT)
        who = replace(who, policy=first_policy(bundles.STREAM, signers, threshold=2, expires=expires))
        bundles.layout(base / "bundle", trees)
    sign.sign(base / "bundle", who.key("alice"), bundles.terms(1, created=NOW))
    bob = who.key("bob")
    if kind == "x509":
        bob = holding(bob, OFFICE.certificate("bob", bob.public_key), OFFICE.own)
    sign.sign(base / "bundle", bob, bundles.terms(None, created=NOW))
    return Made(base, who, openssl35.path(base) if kind in {"cnsa", "ml-dsa-87"} else os.environ["PATH"])


def by_certificate(root: certified.Authority, **more: object) -> dict[str, object]:
    return {"type": "x509", "alg": "ecdsa-p256-sha256", "roots": [certified.pem(root.own)], "subject": "CN=bob,O=Example"} | more


def holding(signer: LocalSigner, *chain: x509.Certificate) -> LocalSigner:
    """Return a signer with a certificate for their key."""
    return replace(signer, chain=tuple(certified.der(one) for one in chain))


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made.bundle, tmp_path / "bundle")


def by_hand(folder: Path, policy: bytes, tmp_path: Path, path: str | None = None, *, between: str = "", after: int = 4) -> tuple[int, str]:
    """Run the document's blocks with the two places of the first one filled in; return the exit status and what was shown.

    ``between`` is typed after step ``after``, and then there is no network.
    """
    (tmp_path / "policy.json").write_bytes(policy)
    first, replaced = re.subn(r"^BUNDLE=.*\nPOLICY=.*$", f"BUNDLE={folder}\nPOLICY={tmp_path / 'policy.json'}", STEPS[0], flags=re.MULTILINE)
    assert replaced == 1
    steps = [f"echo '# step {at}'\n{block}" for at, block in enumerate(STEPS[1:], start=2)]
    steps.insert(after - 1, between)
    script = "\n".join([first, *steps])
    environment = {"PATH": path or os.environ["PATH"], "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    alone = NO_NETWORK if between else ()
    done = subprocess.run([*alone, "bash"], input=script, text=True, capture_output=True, check=False, env=environment, timeout=60)
    return done.returncode, done.stdout + done.stderr


def refused_at(step: int, made: Made, folder: Path, tmp_path: Path, policy: bytes | None = None) -> str:
    """See that the recipe ends at ``step`` with an error; return what was shown."""
    status, shown = by_hand(folder, policy or made.who.policy_raw, tmp_path, made.path)
    assert status != 0, shown
    assert re.findall(r"# step (\d)", shown)[-1] == str(step), shown
    return shown


def altered(who: Site, **changes: object) -> bytes:
    value = who.policy.model_dump(mode="json")
    for path, new in changes.items():
        *parents, last = path.split("__")
        node = value
        for parent in parents:
            node = node[parent]
        node[last] = new
    return canonical.readable(value)


def test_the_document_has_one_block_for_every_step():
    numbered = [title for title in SECTIONS if title[0].isdigit()]
    assert [int(title.split(".")[0]) for title in numbered] == list(range(1, len(STEPS) + 1))
    assert all(len(BLOCK.findall(SECTIONS[title])) == 1 for title in numbered)


@pytest.mark.parametrize("made", KINDS, indirect=True)
def test_the_recipe_accepts_what_was_signed_and_leaves_the_bundle_as_it_was(made, folder, tmp_path):
    before = sorted((str(path), path.lstat().st_mtime_ns) for path in folder.rglob("*"))
    status, shown = by_hand(folder, made.who.policy_raw, tmp_path, made.path)
    assert status == 0, shown
    assert "# step 8" in shown
    for name in ("alice", "bob"):
        assert f"{name} signed, by {name}.sigstore.json" in shown
    assert "index.json: OK" in shown
    assert "SHA256SUMS: OK" in shown
    assert shown.count("SHA512SUMS: OK") == (2 if (folder / "SHA512SUMS").exists() else 0)  # once by each hash
    assert len(re.findall(r"Verified OK|Signature Verified Successfully", shown)) == 2
    assert sorted((str(path), path.lstat().st_mtime_ns) for path in folder.rglob("*")) == before


@pytest.mark.parametrize("made", KINDS, indirect=True)
def test_the_verifier_agrees(made, folder):
    """What the recipe is tried on is what the verifier accepts: neither test is worth much without the other."""
    assert len(verify(Place.of(folder), made.who.policy_raw, memory=Memory(), now=NOW).signatures) == 2


def replayed(bundle: VerifiedBundle, folder: Path, made: Made, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Type the steps that ``report.html`` prints, with the bundle's values filled in, into bash."""
    lines = [line for step in replay.steps(bundle) for line in step.lines]
    (tmp_path / "policy.json").write_bytes(made.who.policy_raw)
    script = "\n".join(lines).replace(replay.PLACES[0], f"BUNDLE={folder}").replace(replay.PLACES[1], f"POLICY={tmp_path / 'policy.json'}")
    environment = {"PATH": made.path, "TMPDIR": str(tmp_path)}
    return subprocess.run(["bash", "-euo", "pipefail"], input=script, text=True, capture_output=True, check=False, env=environment, timeout=60)


@pytest.mark.parametrize("made", KINDS, indirect=True)
@pytest.mark.parametrize("changed", [False, True])
def test_the_steps_in_a_report_prove_the_same(made, folder, tmp_path, changed):
    bundle = verify(Place.of(folder), made.who.policy_raw, memory=Memory(), now=NOW)
    assert all(name in "\n".join(step.title for step in replay.steps(bundle)) for name in ("alice signed", "bob signed"))
    if changed:
        flip(blob(folder))
    done = replayed(bundle, folder, made, tmp_path)
    assert (done.returncode == 0) is not changed, done.stdout + done.stderr
    assert len(re.findall(r"Verified OK|Signature Verified Successfully", done.stdout)) == 2


def test_an_openssl_that_knows_no_ml_dsa_says_so_at_step_3(tmp_path):
    if openssl35.version("openssl") >= openssl35.NEEDED:
        pytest.skip("this machine's own openssl knows ML-DSA") if os.environ.get("CI") != "true" else None
        return
    made = make("ml-dsa-87", tmp_path / "made")
    status, shown = by_hand(made.bundle, made.who.policy_raw, tmp_path, os.environ["PATH"])
    assert status != 0
    assert re.findall(r"# step (\d)", shown)[-1] == "3", shown


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
    "blob flipped": (lambda f: flip(blob(f)), 7),
    "blob missing": (lambda f: blob(f).unlink(), 7),
    "blob cut": (lambda f: (blob(f).chmod(0o644), os.truncate(blob(f), 10)), 7),
    "index changed": (lambda f: flip(f / "index.json"), 7),
    "sums changed": (lambda f: (f / "SHA256SUMS").write_bytes((f / "SHA256SUMS").read_bytes()[67:]), 7),
    "layout changed": (lambda f: (f / "oci-layout").write_bytes(b"{}"), 7),
    "other sums nobody signed": (lambda f: (f / "SHA512SUMS").write_bytes(cnsa.text(cnsa.sums(f))), 7),
    "stray blob": (lambda f: (f / "blobs" / "sha256" / ("0" * 64)).write_bytes(b""), 8),
    "stray file": (lambda f: (f / "verify.sh").write_bytes(b""), 8),
    "stray folder": (lambda f: (f / "blobs" / "x").mkdir(), 8),
    "stray beside the signatures": (lambda f: (f / "signatures" / "run.sh").write_bytes(b""), 8),
    "blob is a link": (lambda f: (shutil.move(blob(f), f.parent / "x"), (f / "blobs/sha256" / blob_name(f)).symlink_to(f.parent / "x")), 8),
    "one signature missing": (lambda f: (f / "signatures" / "bob.sigstore.json").unlink(), 5),
    "one signature twice": (lambda f: shutil.copy(f / "signatures" / "alice.sigstore.json", f / "signatures" / "bob.sigstore.json"), 5),
    "statement changed": (payload_changed, 3),
    "signature changed": (signature_changed, 3),
    "unsigned": (lambda f: shutil.rmtree(f / "signatures"), 5),
}


def blob_name(folder: Path) -> str:
    from airgap_images.oci import Digest

    return Digest.of((folder.parent / "x").read_bytes()).hex


@pytest.mark.parametrize("name", TAMPERED)
def test_the_recipe_refuses_what_was_tampered_with(made, folder, tmp_path, name):
    change, step = TAMPERED[name]
    change(folder)
    refused_at(step, made, folder, tmp_path)


@pytest.mark.parametrize("made", KINDS, indirect=True)
@pytest.mark.parametrize("change", [signature_changed, payload_changed])
def test_a_signature_that_does_not_verify_is_refused_whatever_the_algorithm(made, folder, tmp_path, change):
    change(folder)
    refused_at(3, made, folder, tmp_path)


POLICIES = {
    "revoked signer": ({"revoked__signers": ["bob"]}, 5),
    "higher threshold of another group": ({"roles__bundle__require_any_of": [["alice"], ["nobody"]]}, 5),
    "profile cnsa": ({"profile": "cnsa"}, 5),
    "other stream": ({"stream": "other"}, 6),
    "higher floor": ({"min_serial": 2}, 6),
    "expired": ({"expires": "2020-01-01T00:00:00Z"}, 2),
}


@pytest.mark.parametrize("name", POLICIES)
def test_the_recipe_follows_the_policy(made, folder, tmp_path, name):
    changes, step = POLICIES[name]
    refused_at(step, made, folder, tmp_path, altered(made.who, **changes))


@pytest.mark.parametrize("gone", ["root", "blob"])
def test_what_the_policy_revokes_is_refused(made, folder, tmp_path, gone):
    from airgap_images.oci import Digest

    names = {"root": Digest.of((folder / "index.json").read_bytes()).hex, "blob": blob(folder).name}
    refused_at(7, made, folder, tmp_path, altered(made.who, **{f"revoked__{gone}s": [names[gone]]}))


def test_a_key_under_a_signers_name_that_is_not_the_signers_is_refused(made, folder, tmp_path):
    value = made.who.policy.model_dump(mode="json")
    value["signers"]["bob"]["key"] = (made.base / "keys" / "carol.pub").read_text()
    refused_at(5, made, folder, tmp_path, canonical.readable(value))


def test_two_statements_are_refused(made, folder, tmp_path):
    shutil.move(folder / "signatures", folder.parent / "kept")
    sign.sign(folder, made.who.key("bob"), bundles.terms(2, created=NOW))
    shutil.copy(folder.parent / "kept" / "alice.sigstore.json", folder / "signatures" / "alice.sigstore.json")
    refused_at(6, made, folder, tmp_path)


def test_two_statements_by_one_signer_are_refused(made, folder, tmp_path):
    shutil.move(folder / "signatures", folder.parent / "kept")
    sign.sign(folder, made.who.key("bob"), bundles.terms(2, created=NOW))
    shutil.move(folder / "signatures" / "bob.sigstore.json", folder / "signatures" / "a-bob.sigstore.json")
    shutil.copytree(folder.parent / "kept", folder / "signatures", dirs_exist_ok=True)
    refused_at(6, made, folder, tmp_path)


@pytest.mark.parametrize(("created", "days"), [(NOW - timedelta(days=9), 8), (NOW + timedelta(days=3), 8)], ids=["expired", "from the future"])
def test_a_bundle_that_is_not_of_now_is_refused(made, folder, tmp_path, created, days):
    shutil.rmtree(folder / "signatures")
    for at, name in enumerate(("alice", "bob")):
        sign.sign(folder, made.who.key(name), bundles.terms(1 if at == 0 else None, created=created, days=days))
    refused_at(6, made, folder, tmp_path)


# --- profile cnsa -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strong(tmp_path_factory) -> Made:
    return make("cnsa", tmp_path_factory.mktemp("cnsa"))


@pytest.mark.parametrize(("gone", "policy"), [("alice", {}), ("bob", {}), ("bob", {"roles__bundle__threshold": 1})])
def test_of_profile_cnsa_both_algorithms_must_be_there(strong, tmp_path, gone, policy):
    folder = shutil.copytree(strong.bundle, tmp_path / "bundle")
    (folder / "signatures" / f"{gone}.sigstore.json").unlink()
    refused_at(5, strong, folder, tmp_path, altered(strong.who, **policy))


STRONG = {
    "a line changed": (lambda f: (f / "SHA512SUMS").write_text((f / "SHA512SUMS").read_text().replace("a", "b", 1)), 7),
    "gone": (lambda f: (f / "SHA512SUMS").unlink(), 7),
}


@pytest.mark.parametrize("name", STRONG)
def test_the_second_sums_are_checked(strong, tmp_path, name):
    change, step = STRONG[name]
    folder = shutil.copytree(strong.bundle, tmp_path / "bundle")
    change(folder)
    refused_at(step, strong, folder, tmp_path)


def wrong_sum(text: str) -> str:
    first, _, rest = text.partition("\n")
    return f"{'0' * 128}{first[128:]}\n{rest}"


def test_second_sums_that_are_signed_and_wrong_are_refused(strong, tmp_path):
    folder = cnsa.made(tmp_path / "bundle", {"docs": {"a.txt": b"hello"}})
    (folder / "SHA512SUMS").write_text(wrong_sum((folder / "SHA512SUMS").read_text()))
    signed_now(folder, strong)
    refused_at(7, strong, folder, tmp_path)


def test_second_sums_that_leave_something_out_are_refused(strong, tmp_path):
    folder = cnsa.made(tmp_path / "bundle", {"docs": {"a.txt": b"hello"}})
    lines = (folder / "SHA512SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA512SUMS").write_text("".join(lines[1:]))
    signed_now(folder, strong)
    refused_at(8, strong, folder, tmp_path)


def test_of_profile_cnsa_a_statement_without_sha512_is_refused(strong, tmp_path):
    bundles.layout(tmp_path / "bundle", {"docs": {"a.txt": b"hello"}})
    signed_now(tmp_path / "bundle", strong)
    refused_at(7, strong, tmp_path / "bundle", tmp_path)


def signed_now(folder: Path, made: Made) -> None:
    """Sign what lies there, as signers without our tool's care would, with a statement of now."""
    listed = [name for name in ("index.json", "SHA256SUMS", "SHA512SUMS") if (folder / name).exists()]
    subjects = {name: cnsa.digests((folder / name).read_bytes(), twice="SHA512SUMS" in listed) for name in listed}
    times = {"created": NOW, "expires": NOW + timedelta(days=9)}
    said = statement.payload(subjects, stream=bundles.STREAM, serial=1, previous=None, policy_version=None, tool=("x", "1"), **times)
    (folder / "signatures").mkdir()
    for name in ("alice", "bob"):
        (folder / "signatures" / f"{name}.sigstore.json").write_bytes(made.who.key(name).envelope(said).to_bytes())


# --- certificates -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def office(tmp_path_factory) -> Made:
    return make("x509", tmp_path_factory.mktemp("x509"))


def with_chain(made: Made, tmp_path: Path, *chain: x509.Certificate) -> Path:
    """Give the bundle signed anew by bob, with the same key and this chain."""
    folder = shutil.copytree(made.bundle, tmp_path / "bundle")
    (folder / "signatures" / "bob.sigstore.json").unlink()
    sign.sign(folder, holding(made.who.key("bob"), *chain), bundles.terms(None))
    return folder


def policy_with(made: Made, **more: object) -> bytes:
    value = made.who.policy.model_dump(mode="json", exclude_none=True)
    value["signers"]["bob"] = by_certificate(ROOT, **more)
    return canonical.readable(value)


def refused_by_both(step: int, made: Made, folder: Path, tmp_path: Path, policy: bytes) -> None:
    """See that recipe and verifier refuse the same thing."""
    refused_at(step, made, folder, tmp_path, policy)
    with pytest.raises(RefusedError):
        verify(Place.of(folder), policy, memory=Memory(), now=NOW)


OTHER = certified.root()  # of the same name, with another key
CHAINS = {
    "of another root": (lambda key: (OTHER.certificate("bob", key),), 4),
    "without its intermediate": (lambda key: (OFFICE.certificate("bob", key),), 4),
    "for servers": (lambda key: (OFFICE.certificate("bob", key, usage=certified.SERVER), OFFICE.own), 4),
    "that may not sign": (lambda key: (OFFICE.certificate("bob", key, signs=False), OFFICE.own), 4),
    "that has expired": (lambda key: (OFFICE.certificate("bob", key, days=-1), OFFICE.own), 4),
    "of another person": (lambda key: (OFFICE.certificate("carol", key), OFFICE.own), 5),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_certificate_that_does_not_hold_is_refused(office, tmp_path, name):
    chain, step = CHAINS[name]
    folder = with_chain(office, tmp_path, *chain(office.who.key("bob").public_key))
    refused_by_both(step, office, folder, tmp_path, office.who.policy_raw)


def test_a_certificate_right_below_the_root_holds(office, tmp_path):
    folder = with_chain(office, tmp_path, ROOT.certificate("bob", office.who.key("bob").public_key))
    status, shown = by_hand(folder, office.who.policy_raw, tmp_path)
    assert status == 0, shown
    done = replayed(verify(Place.of(folder), office.who.policy_raw, memory=Memory(), now=NOW), folder, office, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_certificate_on_a_revocation_list_is_refused(office, tmp_path):
    leaf = OFFICE.certificate("bob", office.who.key("bob").public_key)
    folder = with_chain(office, tmp_path, leaf, OFFICE.own)
    for lists in ([OFFICE.revoking(), ROOT.revoking()], [OFFICE.revoking(age=60)]):  # in force, and grown old
        good = policy_with(office, crls=lists)
        status, shown = by_hand(folder, good, tmp_path)
        assert status == 0, shown
        assert shown.count("nextUpdate=") == len(lists)
        assert len(verify(Place.of(folder), good, memory=Memory(), now=datetime.now(UTC)).signatures) == 2
    refused_by_both(4, office, folder, tmp_path, policy_with(office, crls=[ROOT.revoking(), OFFICE.revoking(leaf)]))
    refused_by_both(4, office, folder, tmp_path, policy_with(office, crls=[OFFICE.revoking(leaf, age=60)]))
    refused_by_both(4, office, folder, tmp_path, policy_with(office, crls=[ROOT.revoking(OFFICE.own)]))


def test_a_revocation_list_nobody_of_the_chain_signed_is_refused(office, tmp_path):
    folder = with_chain(office, tmp_path, ROOT.certificate("bob", office.who.key("bob").public_key))
    refused_by_both(4, office, folder, tmp_path, policy_with(office, crls=[OTHER.revoking()]))


def test_the_name_and_the_algorithm_of_the_policy_count(office, tmp_path):
    leaf = OFFICE.certificate("bob", office.who.key("bob").public_key, san="bob@example.test")
    folder = with_chain(office, tmp_path, leaf, OFFICE.own)
    for named in ({"san": "bob@example.test"}, {"san": "bob@example.test", "subject": None}):
        policy = {key: value for key, value in by_certificate(ROOT, **named).items() if value}
        value = office.who.policy.model_dump(mode="json", exclude_none=True)
        value["signers"]["bob"] = policy
        status, shown = by_hand(folder, canonical.readable(value), tmp_path)
        assert status == 0, shown
    refused_by_both(5, office, folder, tmp_path, policy_with(office, san="bob@example-test"))
    refused_by_both(5, office, folder, tmp_path, policy_with(office, subject="CN=bob"))
    refused_by_both(4, office, folder, tmp_path, policy_with(office, alg="ecdsa-p384-sha384"))


def test_a_key_used_with_the_hash_of_another_algorithm_is_refused(office, tmp_path):
    """A P-256 key with SHA-384, where the policy says P-384 with SHA-384: the key itself must be of the policy's algorithm."""
    folder = with_chain(office, tmp_path, OFFICE.certificate("bob", office.who.key("bob").public_key), OFFICE.own)
    path = folder / "signatures" / "bob.sigstore.json"
    envelope = statement.Envelope.parse(path.read_bytes(), "x")
    key = load_pem_private_key((office.base / "keys" / "bob.key").read_bytes(), None)
    path.write_bytes(replace(envelope, signature=key.sign(envelope.message, ec.ECDSA(hashes.SHA384()))).to_bytes())
    refused_by_both(4, office, folder, tmp_path, policy_with(office, alg="ecdsa-p384-sha384"))


def test_a_bare_key_in_place_of_a_certificate_counts_for_nobody(office, tmp_path):
    folder = shutil.copytree(office.bundle, tmp_path / "bundle")
    (folder / "signatures" / "bob.sigstore.json").unlink()
    sign.sign(folder, office.who.key("bob"), bundles.terms(None))
    refused_by_both(5, office, folder, tmp_path, office.who.policy_raw)


def test_one_key_by_itself_and_in_a_certificate_is_no_two_signers(office, tmp_path):
    folder = shutil.copytree(office.bundle, tmp_path / "bundle")
    (folder / "signatures" / "bob.sigstore.json").unlink()
    alice = office.who.key("alice")
    sign.sign(folder, holding(alice, OFFICE.certificate("bob", alice.public_key), OFFICE.own).named("bob"), bundles.terms(None))
    refused_by_both(5, office, folder, tmp_path, office.who.policy_raw)


def test_the_key_of_somebody_who_is_revoked_counts_in_nobodys_certificate(office, tmp_path):
    folder = with_chain(office, tmp_path, OFFICE.certificate("bob", office.who.key("bob").public_key), OFFICE.own)
    value = office.who.policy.model_dump(mode="json", exclude_none=True)
    value["signers"]["old"] = signer_entry((office.base / "keys" / "bob.pub").read_text())
    status, shown = by_hand(folder, canonical.readable(value), tmp_path)
    assert status == 0, shown
    value["revoked"]["signers"] = ["old"]
    refused_by_both(5, office, folder, tmp_path, canonical.readable(value))


def test_a_timestamp_shows_that_a_certificate_was_valid_then(office, tmp_path):
    """The certificate lives for some seconds; the timestamp is from within, the check from after them."""
    stamps, bob = PrivateSigstore(), office.who.key("bob")
    leaf = OFFICE.certificate("bob", bob.public_key, until=datetime.now(UTC) + timedelta(seconds=4))
    folder = with_chain(office, tmp_path, leaf, OFFICE.own)
    path = folder / "signatures" / "bob.sigstore.json"
    envelope = statement.Envelope.parse(path.read_bytes(), "x")
    request = TimestampRequestBuilder().data(envelope.signature).build()
    path.write_bytes(replace(envelope, timestamps=(stamps.timestamp(request.as_bytes()),)).to_bytes())
    value = office.who.policy.model_dump(mode="json", exclude_none=True)
    authority = {"roots": [certified.pem(stamps.tsa_root)], "certificate": certified.pem(stamps.tsa)}
    policy = canonical.readable(value | {"timestamp_authorities": {"ours": authority}})
    typed = f"name=bob\nfile=$BUNDLE/signatures/bob.sigstore.json\n{BLOCK.findall(SECTIONS['A certificate that has expired since'])[0]}"
    time.sleep(max(0, (leaf.not_valid_after_utc - datetime.now(UTC)).total_seconds()) + 1)
    refused_at(4, office, folder, tmp_path, policy)
    need_namespaces()
    status, shown = by_hand(folder, policy, tmp_path, between=typed, after=3)
    assert status == 0, shown
    assert len(verify(Place.of(folder), policy, memory=Memory(), now=datetime.now(UTC)).signatures) == 2
    other = canonical.readable(value | {"timestamp_authorities": {"ours": authority | {"roots": [certified.pem(ROOT.own)]}}})
    status, shown = by_hand(folder, other, tmp_path, between=typed, after=3)
    assert status != 0
    assert re.findall(r"# step (\d)", shown)[-1] == "3", shown


# --- with cosign ----------------------------------------------------------------------------------------------------------------


def path_with_cosign(tmp_path: Path) -> str:
    """Give a PATH on which ``cosign`` is the real one."""
    need_namespaces()
    program = tmp_path / "bin" / "cosign"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.join(cosign(tmp_path / "cosign").program)} "$@"\n')
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


def with_cosign(made: Made, folder: Path, tmp_path: Path, file: str) -> subprocess.CompletedProcess[str]:
    """Type the block of the section "With cosign" for alice."""
    (tmp_path / "policy.json").write_bytes(made.who.policy_raw)
    places = f"BUNDLE={folder}\nPOLICY={tmp_path / 'policy.json'}\nname=alice\nfile=$BUNDLE/signatures/{file}\n"
    environment = {"PATH": path_with_cosign(tmp_path), "HOME": str(tmp_path)}
    command = [*NO_NETWORK, "bash", "-euo", "pipefail", "-c", places + BLOCK.findall(SECTIONS["With cosign"])[0]]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment, timeout=120)


@pytest.mark.parametrize("made", ["p256", "ed25519"], indirect=True)
def test_cosign_accepts_our_signature_files_without_a_network(made, folder, tmp_path):
    done = with_cosign(made, folder, tmp_path, "alice.sigstore.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Verified OK" in done.stderr
    assert with_cosign(made, folder, tmp_path, "bob.sigstore.json").returncode != 0
    flip(folder / "index.json")
    assert with_cosign(made, folder, tmp_path, "alice.sigstore.json").returncode != 0


@pytest.mark.parametrize("made", ["p384"], indirect=True)
def test_cosign_2_does_not_know_p384_with_sha384(made, folder, tmp_path):
    assert with_cosign(made, folder, tmp_path, "alice.sigstore.json").returncode != 0


# --- signers known by Sigstore ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pipeline:
    """A bundle signed by alice and, with Sigstore, by a workflow of the instance whose root the policy has."""

    bundle: Path
    policy: bytes


@pytest.fixture(scope="module")
def instances(tmp_path_factory) -> Iterator[dict[str, Pipeline]]:
    with private_sigstore() as private, rekor1(private) as log:
        log.grow(3)
        older = private.trust_config(log=(log.url, 1), stamps=0, root=log.trusted_root())
        configs = {"Rekor v1": older, "Rekor v2": private.trust_config()}
        yield {name: pipeline(private, config, tmp_path_factory.mktemp("pipeline")) for name, config in configs.items()}


def pipeline(private: PrivateSigstore, config: dict[str, Any], base: Path) -> Pipeline:
    (base / "trust.json").write_text(json.dumps(config))
    who = bundles.site(base / "keys")
    value = who.policy.model_dump(mode="json", exclude_none=True)
    value["signers"]["bob"] = {"type": "sigstore", "identity": WORKFLOW, "issuer": ISSUER, "trusted_root": "ours"}
    policy = canonical.readable(value | {"trusted_roots": {"ours": config["trustedRoot"]}, "expires": canonical.stamp(NOW + timedelta(days=9))})
    bundles.layout(base / "bundle", {"docs": {"a.txt": b"hello"}})
    sign.sign(base / "bundle", who.key("alice"), bundles.terms(1, created=NOW))
    keyless = open_signer(str(base / "trust.json"), lambda _: private.token(WORKFLOW))
    sign.sign(base / "bundle", keyless.named("bob"), bundles.terms(None))
    assert len(verify(Place.of(base / "bundle"), policy, memory=Memory(), now=datetime.now(UTC)).signatures) == 2
    return Pipeline(base / "bundle", policy)


def proven(found: Pipeline, block: int, tmp_path: Path, policy: bytes | None = None) -> tuple[int, str]:
    """Run the whole recipe with one of the section's blocks for bob."""
    typed = BLOCK.findall(SECTIONS["Signers known by Sigstore"])[block]
    path = f"{path_with_cosign(tmp_path)}:{BIN}"
    places = "name=bob\nfile=$BUNDLE/signatures/bob.sigstore.json\n"
    return by_hand(found.bundle, policy or found.policy, tmp_path, path, between=places + typed)


@pytest.mark.parametrize(("log", "block", "accepted"), [("Rekor v1", 0, True), ("Rekor v2", 0, True), ("Rekor v1", 1, True), ("Rekor v2", 1, False)])
def test_a_signer_known_by_sigstore_is_proven_with_a_client_without_a_network(instances, tmp_path, log, block, accepted):
    status, shown = proven(instances[log], block, tmp_path)
    assert (status == 0) is accepted, shown
    assert accepted or "nil value in transaction log entry" in shown
    assert ("bob" in re.findall(r"^bob$", shown, re.MULTILINE)) is accepted


@pytest.mark.parametrize("block", [0, 1])
def test_another_workflow_and_another_bundle_are_refused(instances, tmp_path, block):
    found = instances["Rekor v1"]
    status, shown = proven(found, block, tmp_path, found.policy.replace(WORKFLOW.encode(), WORKFLOW.replace("vllm", "fork").encode()))
    assert status != 0
    assert re.findall(r"# step (\d)", shown)[-1] == "4", shown
    changed = shutil.copytree(found.bundle, tmp_path / "changed")
    flip(changed / "index.json")
    status, shown = proven(replace(found, bundle=changed), block, tmp_path)
    assert status != 0
    assert re.findall(r"# step (\d)", shown)[-1] == "4", shown


def test_without_that_section_such_a_signer_is_missing(instances, tmp_path):
    status, shown = by_hand(instances["Rekor v1"].bundle, instances["Rekor v1"].policy, tmp_path)
    assert status != 0
    assert re.findall(r"# step (\d)", shown)[-1] == "5", shown
