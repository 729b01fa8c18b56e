"""No single change to a signed bundle passes: every byte of every class of file, in several ways, for every kind of key.

A class is what a file is to the verifier: a root file, a signature, a manifest, the content of a file, an image's config and layer.
Of signatures by certificate and by Sigstore identity the same is asked beside the tests of those kinds.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts import bundles, cnsa, installs
from parts.bundles import NOW

from audit.verify.recognise import recognise
from audit.verify.trust import Memory
from audit.verify.walk import Place, verify
from manifests.errors import RefusedError
from manifests.statement import Envelope

FEW = 12  # positions of each file at which the ways to edit are tried
SMALL = 1500  # bytes; of larger files every n-th byte is changed
KINDS = ("p256", "p384", "ed25519", "ml-dsa-87")

EDITS = {
    "byte taken out": lambda raw, at: raw[:at] + raw[at + 1 :],
    "byte put in": lambda raw, at: raw[:at] + b"0" + raw[at:],
    "byte doubled": lambda raw, at: raw[: at + 1] + raw[at : at + 1] + raw[at + 1 :],
    "neighbours swapped": lambda raw, at: raw[:at] + raw[at : at + 2][::-1] + raw[at + 2 :],
    "byte set to zero": lambda raw, at: raw[:at] + b"\0" + raw[at + 1 :],
    "cut there": lambda raw, at: raw[:at],
    "begun there": lambda raw, at: raw[at:],
    "blank put in": lambda raw, at: raw[:at] + b" " + raw[at:],
    "line end put in": lambda raw, at: raw[:at] + b"\n" + raw[at:],
}


def flips(raw: bytes) -> Iterator[bytes]:
    """Yield ``raw`` with one bit of every byte changed, of a large file of evenly chosen ones, its first and last among them."""
    step = max(1, len(raw) // SMALL)
    for at in sorted({*range(0, len(raw), step), len(raw) - 1} - {-1}):
        yield raw[:at] + bytes([raw[at] ^ 1 << at % 8]) + raw[at + 1 :]


def edits(raw: bytes) -> Iterator[bytes]:
    """Yield ``raw`` edited in every way at a few places, and longer, empty and twice."""
    chosen = random.Random(len(raw))
    places = sorted({0, max(0, len(raw) - 1), *(chosen.randrange(len(raw)) for _ in range(FEW if raw else 0))})
    for edit in EDITS.values():
        yield from (edit(raw, at) for at in places)
    yield from (b"", raw + raw, raw + b"\n", b"\xef\xbb\xbf" + raw)


def changes(raw: bytes) -> list[bytes]:
    return [changed for changed in dict.fromkeys((*flips(raw), *edits(raw))) if changed != raw]


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with installs.in_memory(tmp_path_factory.mktemp("mutations")) as folder:
        yield folder


@pytest.fixture(scope="module")
def plain(memory):
    """A bundle with a tree and an image, for which one signature is enough, so that nothing but the change can be what is refused."""
    who = bundles.site(memory / "keys", threshold=1)
    folder = installs.ship(memory / "plain", who, 1, {"docs": {"README.md": b"# hello\n"}}, image=True)
    (folder / "signatures/bob.sigstore.json").unlink()
    return folder, who.policy_raw


@pytest.fixture(scope="module")
def strong(memory):
    """A bundle of profile cnsa: two hashes, and two signatures, both of which are required."""
    who = cnsa.site(memory / "strong-keys")
    return cnsa.sign_anyway(cnsa.made(memory / "strong", {"docs": {"README.md": b"# hello\n"}}), who), who.policy_raw


def every_change_is_refused(folder: Path, policy: bytes, name: str) -> int:
    place, path = Place.of(folder), folder / name
    whole = path.read_bytes()
    path.chmod(0o644)
    tried = changes(whole)
    try:
        for raw in tried:
            path.write_bytes(raw)
            with pytest.raises(RefusedError) as caught:
                verify(place, policy, memory=Memory(), now=NOW)
            assert all(failure.rule for failure in caught.value.failures), (name, raw)
    finally:
        path.write_bytes(whole)
    verify(place, policy, memory=Memory(), now=NOW)
    return len(tried)


def classes(folder: Path) -> dict[str, str]:
    """Return one file of each class in a bundle, by what it is."""
    blobs = {path.read_bytes()[:20]: f"blobs/sha256/{path.name}" for path in sorted((folder / "blobs/sha256").iterdir())}
    known = {"index.json": "index.json", "sums": "SHA256SUMS", "oci-layout": "oci-layout"}
    starts = {"content": b"# hello", "empty config": b"{}", "layer": b"layer of all serials", "manifest": b'{"artifactType"', "config": b'{"serial"'}
    found = {what: next((name for head, name in blobs.items() if head.startswith(start)), None) for what, start in starts.items()}
    return known | {what: name for what, name in found.items() if name}


@pytest.mark.parametrize("what", ["index.json", "sums", "oci-layout", "content", "empty config", "layer", "manifest", "config"])
def test_no_single_change_of_any_class_of_file_passes(plain, what):
    folder, policy = plain
    assert every_change_is_refused(folder, policy, classes(folder)[what]) > (10 if what == "empty config" else 60)


def test_every_blob_is_of_one_of_these_classes(plain):
    folder, _ = plain
    manifests = [path for path in (folder / "blobs/sha256").iterdir() if b'"schemaVersion"' in path.read_bytes()]
    rest = {f"blobs/sha256/{path.name}" for path in (folder / "blobs/sha256").iterdir() if path not in manifests}
    assert rest <= set(classes(folder).values())
    assert len(manifests) == 2


def test_no_single_change_of_a_signature_file_passes(plain):
    folder, policy = plain
    assert every_change_is_refused(folder, policy, "signatures/alice.sigstore.json") > 1000


def test_no_single_change_of_the_second_sums_passes(strong):
    folder, policy = strong
    assert every_change_is_refused(folder, policy, "SHA512SUMS") > 500


@pytest.mark.parametrize("kind", KINDS)
def test_no_single_change_of_a_signature_of_any_kind_of_key_counts(tmp_path, kind):
    who = bundles.site(tmp_path / "keys", threshold=1, curves={"alice": kind})
    folder = bundles.signed(tmp_path / "b", who, signers=("alice",), size=10)
    name = "signatures/alice.sigstore.json"
    whole = (folder / name).read_bytes()
    assert recognise(who.policy, [(name, whole)], NOW).signatures
    for raw in changes(whole):
        found = recognise(who.policy, [(name, raw)], NOW)
        assert not found.signatures
        assert not found.ignored, "a changed signature would be taken for a stranger's"
        assert [failure.rule in {"3.signature", "3.signature-file"} for failure in found.failures] == [True]


@pytest.mark.parametrize("kind", KINDS)
def test_no_changed_bit_of_payload_or_signature_counts_however_the_file_is_encoded(tmp_path, kind):
    who = bundles.site(tmp_path / "keys", threshold=1, curves={"alice": kind})
    folder = bundles.signed(tmp_path / "b", who, signers=("alice",), size=10)
    whole = Envelope.parse((folder / "signatures/alice.sigstore.json").read_bytes(), "x")
    for payload, signature in (*((raw, whole.signature) for raw in changes(whole.payload)), *((whole.payload, raw) for raw in changes(whole.signature))):
        raw = Envelope("key", payload, signature, hint=whole.hint).to_bytes()
        found = recognise(who.policy, [("x", raw)], NOW)
        assert not found.signatures
        assert [failure.rule for failure in found.failures] == ["3.signature"]


def test_no_file_may_be_missing_or_stand_in_for_another(tmp_path, plain):
    original, policy = plain
    files = sorted(str(path.relative_to(original)) for path in original.rglob("*") if path.is_file())
    folder = tmp_path / "bundle"
    for one in files:
        for other in (None, *files):
            if other == one:
                continue
            shutil.copytree(original, folder)
            (folder / one).unlink()
            if other:
                shutil.copy(original / other, folder / one)
            with pytest.raises(RefusedError):
                verify(Place.of(folder), policy, memory=Memory(), now=NOW)
            shutil.rmtree(folder)


def test_the_policy_is_taken_as_given_and_its_change_is_another_sha256(plain):
    """Nothing signs the first policy: that is what its sha256 on paper is for, and what every result names."""
    folder, policy = plain
    lenient = policy.replace(b'"min_serial": 0', b'"min_serial": 1')
    assert lenient != policy
    one, two = (verify(Place.of(folder), raw, memory=Memory(), now=NOW).policy_sha256 for raw in (policy, lenient))
    assert one != two
    with pytest.raises(RefusedError) as caught:
        verify(Place.of(folder), lenient, memory=Memory(policy_version=1, policy_sha256=one), now=NOW)
    assert [failure.rule for failure in caught.value.failures] == ["1.policy-changed"]
