"""Profile cnsa: two algorithms and two hashes. What is signed, what is refused and by which rule, and that each byte is read once."""

from __future__ import annotations

import json
import os
import shutil
from base64 import b64decode
from pathlib import Path

import pytest
from parts import bundles, cnsa
from parts.bundles import NOW, Site, terms

from airgap_images import sha512
from airgap_images.bundle import closure, parse_index
from airgap_images.layout import Layout
from airgap_images.oci import Digest
from airgap_images.sha512 import Second
from audit.install.store import Store
from audit.install.trees import Hashes, Standing
from audit.verify.trust import Memory
from audit.verify.walk import Place, Silent, verify
from bundler import sign
from manifests.errors import IntegrityError, RefusedError, TrustError, UsageError


@pytest.fixture(scope="module")
def who(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return cnsa.site(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, who: Site) -> Path:
    return signed(cnsa.made(tmp_path_factory.mktemp("made") / "bundle"), who)


@pytest.fixture
def folder(tmp_path: Path, original: Path) -> Path:
    return shutil.copytree(original, tmp_path / "bundle")


def signed(folder: Path, who: Site, *names: str) -> Path:
    for at, name in enumerate(names or cnsa.KINDS):
        sign.sign(folder, who.key(name), terms(1 if at == 0 else None), who.policy)
    return folder


def proved(folder: Path, who: Site, **more):
    return verify(Place.of(folder), who.policy_raw, memory=Memory(), now=NOW, **more)


def refused(folder: Path, who: Site, **more) -> list[tuple[str | None, str]]:
    with pytest.raises(RefusedError) as caught:
        proved(folder, who, **more)
    assert caught.value.exit_code == 3
    assert all(failure.hint for failure in caught.value.failures)
    return [(failure.rule, failure.message) for failure in caught.value.failures]


def change(folder: Path, edit) -> None:
    values = cnsa.sums(folder)
    edited = edit(values)
    (folder / "SHA512SUMS").write_bytes(cnsa.text(values) if edited is None else edited)


def a_blob(folder: Path) -> str:
    return max((folder / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size).name


# Two algorithms


def test_both_signatures_are_accepted(original, who):
    found = proved(original, who)
    assert [(entry.signer, entry.algorithm) for entry in found.signatures] == [("alice", "ecdsa-p384-sha384"), ("bob", "ml-dsa-87")]
    assert dict(found.files)["SHA512SUMS"] == (original / "SHA512SUMS").read_bytes()


@pytest.mark.parametrize(("left", "lacking", "beside"), [("alice", "ml-dsa-87", "ecdsa-p384-sha384"), ("bob", "ecdsa-p384-sha384", "ml-dsa-87")])
def test_one_of_the_two_algorithms_is_refused_with_the_name_of_the_other(folder, who, left, lacking, beside):
    for name in cnsa.KINDS:
        if name != left:
            (folder / "signatures" / f"{name}.sigstore.json").unlink()
    assert refused(folder, who) == [
        ("4.threshold", f"signatures: no signer with {lacking}, which profile cnsa requires beside {beside} (signed by {left})")
    ]


def test_a_bundle_of_the_default_profile_is_refused_and_not_signed_under_this_policy(tmp_path, who):
    bundles.layout(tmp_path / "b", cnsa.TREES)
    with pytest.raises(UsageError, match="has no SHA512SUMS, which the policy's profile cnsa requires") as caught:
        signed(tmp_path / "b", who)
    assert "`profile: cnsa`" in caught.value.hint
    assert not (tmp_path / "b/signatures").exists()
    ((rule, message),) = refused(cnsa.sign_anyway(tmp_path / "b", who), who)
    assert (rule, "SHA-512 sums, which the policy's profile cnsa requires" in message) == ("4.sha512", True)


def test_a_statement_without_sha512_digests_is_refused(folder, who, monkeypatch):
    monkeypatch.setattr(cnsa, "digests", lambda raw, twice: {"sha256": Digest.of(raw).hex})
    assert [rule for rule, _ in refused(cnsa.sign_anyway(folder, who), who)] == ["4.sha512"]


# Two hashes


def test_the_statement_names_three_files_by_both_hashes(original):
    envelope = json.loads((original / "signatures/alice.sigstore.json").read_text())["dsseEnvelope"]
    stated = {entry["name"]: entry["digest"] for entry in json.loads(b64decode(envelope["payload"]))["subject"]}
    names = ("index.json", "SHA256SUMS", "SHA512SUMS")
    assert stated == {name: cnsa.digests((original / name).read_bytes(), twice=True) for name in names}


def test_a_default_bundle_with_its_policy_states_no_sha512(tmp_path):
    plain = bundles.site(tmp_path / "keys")
    found = bundles.signed(tmp_path / "b", plain)
    assert b"sha512" not in b64decode(json.loads((found / "signatures/alice.sigstore.json").read_text())["dsseEnvelope"]["payload"])
    (found / "SHA512SUMS").write_bytes(cnsa.text(cnsa.sums(found)))
    assert refused(found, plain) == [("4.subjects", "SHA512SUMS: does not belong to the bundle: it is here, and not signed")]
    with pytest.raises(TrustError, match="changed after it was signed"):
        sign.sign(found, plain.key("alice"), terms(None))


def test_a_bundle_with_sha512_sums_is_checked_with_both_hashes_under_a_default_policy_too(tmp_path):
    plain = bundles.site(tmp_path / "keys")
    found = cnsa.made(tmp_path / "b")
    blob = a_blob(found)
    change(found, lambda values: values.update({f"blobs/sha256/{blob}": "0" * 128}))
    cnsa.sign_anyway(found, plain, "alice", "bob")
    assert [rule for rule, _ in refused(found, plain)] == ["6.sha512"]


def test_signed_sums_that_lie_about_a_blob_are_refused_by_the_name_of_the_blob(folder, who):
    blob = a_blob(folder)
    true = cnsa.sums(folder)[f"blobs/sha256/{blob}"]
    change(folder, lambda values: values.update({f"blobs/sha256/{blob}": "0" * 128}))
    cnsa.sign_anyway(folder, who)
    assert refused(folder, who) == [("6.sha512", f"blobs/sha256/{blob}: content is sha512 {true}, expected {'0' * 128}")]


LIES = {
    "index.json": lambda values: values.update({"index.json": "0" * 128}),
    "oci-layout": lambda values: values.update({"oci-layout": "0" * 128}),
    "a line less": lambda values: cnsa.text(dict(sorted(values.items())[1:])),
    "no index.json": lambda values: cnsa.text({name: value for name, value in values.items() if name != "index.json"}),
    "a line more": lambda values: values.update({f"blobs/sha256/{'0' * 64}": "0" * 128}),
    "another file": lambda values: values.update({"signatures/alice.sigstore.json": "0" * 128}),
    "outside": lambda values: values.update({"../../etc/passwd": "0" * 128}),
    "a line twice": lambda values: cnsa.text(values).splitlines(keepends=True)[0] + cnsa.text(values),
    "not sorted": lambda values: b"".join(cnsa.text(values).splitlines(keepends=True)[::-1]),
    "upper case": lambda values: cnsa.text(values).upper(),
    "line ends of another system": lambda values: cnsa.text(values).replace(b"\n", b"\r\n"),
    "no last line end": lambda values: cnsa.text(values)[:-1],
    "something after it": lambda values: cnsa.text(values) + b"x",
    "marked as binary": lambda values: cnsa.text(values).replace(b"  ", b" *"),
    "sha256 values": lambda values: cnsa.text({name: value[:64] for name, value in values.items()}),
    "not ASCII": lambda values: cnsa.text(values) + "é".encode(),
    "nothing": lambda values: b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_signed_sums_that_are_not_exactly_those_of_the_bundle_are_refused(folder, who, lie):
    change(folder, LIES[lie])
    shutil.rmtree(folder / "signatures")
    with pytest.raises(IntegrityError, match=r"^SHA512SUMS: ") as caught:
        signed(folder, who)
    assert caught.value.hint == "build the bundle again"
    found = refused(cnsa.sign_anyway(folder, who), who)
    assert len(found) == 1
    assert found[0][0] == "6.sha512"
    assert found[0][1].startswith("SHA512SUMS: ")


def test_every_changed_byte_of_the_sums_is_refused_by_their_name(folder, who):
    whole = (folder / "SHA512SUMS").read_bytes()
    for at in range(0, len(whole), 7):
        raw = bytearray(whole)
        raw[at] ^= 1 << at % 8
        (folder / "SHA512SUMS").write_bytes(raw)
        found = refused(folder, who)
        assert {(rule, message.split(": ")[0]) for rule, message in found} == {("4.subjects", "SHA512SUMS")}, at
    (folder / "SHA512SUMS").write_bytes(whole)
    assert proved(folder, who)


REPLACED = {
    "gone": lambda path: path.unlink(),
    "a line more": lambda path: path.write_bytes(path.read_bytes() + b"0" * 128 + b"  x\n"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a link to the same bytes": lambda path: (path.rename(path.parents[1] / "away"), path.symlink_to(path.parents[1] / "away")),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("/nowhere")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "huge": lambda path: os.truncate(path, 50 << 30),
}


@pytest.mark.parametrize("how", REPLACED)
def test_sums_that_were_replaced_after_signing_are_refused_by_their_name(folder, who, how):
    REPLACED[how](folder / "SHA512SUMS")
    assert [message.split(": ")[0] for _, message in refused(folder, who)] == ["SHA512SUMS"]


def test_a_blob_that_was_changed_fails_once_and_by_its_sha256(folder, who):
    path = folder / "blobs/sha256" / a_blob(folder)
    path.chmod(0o644)
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    ((_, message),) = refused(folder, who)
    assert message.startswith(f"blobs/sha256/{path.name}: content is sha256 ")


class Counting(Silent):
    def __init__(self) -> None:
        self.total = self.moved_bytes = 0

    def begin(self, total: int) -> None:
        self.total = total

    def moved(self, count: int) -> None:
        self.moved_bytes += count


@pytest.mark.parametrize("to", ["", "store", "same store"])
def test_both_hashes_come_from_one_read(tmp_path, who, to):
    size = 24 << 20
    found = signed(cnsa.made(tmp_path / "b", {"data": {"weights.bin": os.urandom(size)}}), who)
    into = Layout.create(tmp_path / "store") if to else None
    if to == "same store":
        proved(found, who, into=into)
    watch = Counting()
    before = cnsa.bytes_read()
    proved(found, who, into=into, watch=watch)
    read = cnsa.bytes_read() - before
    assert watch.moved_bytes == watch.total
    assert size < read < size + (1 << 20), f"{read} bytes read for {size}"


# In a store


def test_a_lie_is_not_taken_into_a_store_and_found_where_the_store_has_the_blob(folder, tmp_path, who):
    blob = Digest(a_blob(folder))
    other = Layout.create(tmp_path / "has it")
    proved(folder, who, into=other)
    change(folder, lambda values: values.update({f"blobs/sha256/{blob.hex}": "0" * 128}))
    cnsa.sign_anyway(folder, who)
    store = Layout.create(tmp_path / "store")
    for into in (store, other):
        assert [rule for rule, _ in refused(folder, who, into=into)] == ["6.sha512"]
    assert not store.path(blob).exists()


def test_a_damaged_blob_of_the_store_is_replaced_by_the_one_that_has_both_hashes(folder, tmp_path, who):
    store = Layout.create(tmp_path / "store")
    proved(folder, who, into=store)
    path = store.path(Digest(a_blob(folder)))
    path.chmod(0o644)
    path.write_bytes(b"\0" * path.stat().st_size)
    proved(folder, who, into=store)
    assert path.read_bytes() == (folder / "blobs/sha256" / path.name).read_bytes()


def test_a_bundle_kept_in_a_store_is_proved_with_both_hashes_again(folder, tmp_path, who):
    store = Store.create(tmp_path / "store")
    found = proved(folder, who, into=store.layout)
    store.keep(found.digest, found.files)
    place = store.place(found.digest)
    assert dict(verify(place, who.policy_raw, memory=Memory(), now=NOW).files) == dict(found.files)
    (place.files / "SHA512SUMS").unlink()
    with pytest.raises(RefusedError, match="SHA512SUMS: missing: it is signed, and not here"):
        verify(place, who.policy_raw, memory=Memory(), now=NOW)


def test_a_bundle_signed_anew_without_sums_leaves_none_in_the_store(folder, tmp_path, who):
    store = Store.create(tmp_path / "store")
    files = proved(folder, who, into=store.layout).files
    digest = Digest.of((folder / "index.json").read_bytes())
    store.keep(digest, files)
    store.keep(digest, tuple((name, raw) for name, raw in files if name != "SHA512SUMS"))
    assert not (store.bundle(digest) / "SHA512SUMS").exists()


def test_what_is_installed_is_compared_by_its_sha512_too(tmp_path):
    layout = Layout.create(tmp_path)
    standing = []
    for data in (b"one", b"two", b"three"):
        digest = layout.put(data)
        info = layout.path(digest).stat()
        standing.append(Standing(data.decode(), layout.path(digest), digest, info.st_size, (info.st_dev, info.st_ino)))
    strong = {standing[0].digest: sha512.of(b"one"), standing[1].digest: "0" * 128}
    (damage,) = Hashes(Silent(), strong=strong).compare(standing)
    assert (damage.kind, damage.place) == ("changed", "two")
    assert damage.detail == f"content is sha512 {sha512.of(b'two')}, expected {'0' * 128}"


# The parts


def test_a_layout_gives_the_second_hash_of_what_it_takes_and_checks(tmp_path):
    layout = Layout.create(tmp_path / "layout")
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)
    for link in (False, True):
        second = Second()
        with (tmp_path / "file").open("rb") as file:
            layout.take(file.fileno(), Digest.of(data), len(data), link=link, second=second)
        assert second.hex == sha512.of(data)
    layout.check(Digest.of(data), len(data), second=Second(sha512.of(data)))
    with pytest.raises(IntegrityError, match="content is sha512") as caught:
        layout.check(Digest.of(data), len(data), second=Second("0" * 128))
    assert caught.value.rule == "6.sha512"


def test_the_list_names_what_the_index_reaches(original):
    index = (original / "index.json").read_bytes()
    blobs = closure(Layout(original), parse_index(index))
    assert sha512.decode((original / "SHA512SUMS").read_bytes()).keys() == {
        "index.json", "oci-layout", *(f"blobs/sha256/{digest.hex}" for digest in blobs),
    }  # fmt: skip
