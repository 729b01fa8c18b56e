"""Profile cnsa from ``bundle.yaml`` to the store: what is written, that nothing is read twice for it, and what an interruption leaves."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from parts import bundles, cnsa, httpd
from parts.cli import Desk

from airgap_images import bundle as bundle_module
from airgap_images.bundle import closure, parse_index, strays
from airgap_images.layout import PARTIAL, Layout
from airgap_images.oci import Digest
from airgap_images.remote.http import Client
from airgap_images.sha512 import Second
from audit import drift
from audit.verify.trust import Memory
from audit.verify.walk import Place, verify
from bundler import sign
from bundler.build import Built, Options, build
from bundler.hasher import WORTHWHILE, Hasher
from bundler.strong import StrongSums
from bundler.watch import Silent
from manifests import intent as intents
from manifests.diff import diff
from manifests.errors import AirgapError, IntegrityError, InvalidFileError, TrustError
from manifests.lock import Lock, LockedComponent, Pin

SIZE = 24 << 20


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("hello\n")
    return Desk(tmp_path)


@pytest.fixture(scope="module")
def weights() -> bytes:
    return os.urandom(SIZE)


def lock_of(data: dict[str, bytes], *, profile: str = "cnsa", url: str = "file:{}") -> Lock:
    pins = [Pin(path=name, url=url.format(name), size=len(raw), sha256=Digest.of(raw).hex) for name, raw in data.items()]
    part = LockedComponent(name="data", kind="path", form="tree", files=tuple(pins))
    return Lock(name="t", stream=bundles.STREAM, intentSha256="0" * 64, profile=profile, components=(part,))


def built(folder: Path, lock: Lock, out: str = "out", **more) -> Built:
    return build(lock, folder / out, Client(), Options(folder, **more))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_sums(folder: Path) -> None:
    for program, name in (("sha512sum", "SHA512SUMS"), ("sha256sum", "SHA256SUMS")):
        subprocess.run([program, "--check", "--strict", "--quiet", name], cwd=folder, check=True)
    assert (folder / "SHA512SUMS").read_bytes() == cnsa.text(cnsa.sums(folder))


def trust(desk: Desk) -> None:
    """Make P-384 keys of alice and carol, an ML-DSA-87 key of bob, and a policy of profile cnsa that wants two of them."""
    kinds = {"alice": "p384", "bob": "ml-dsa-87", "carol": "p384"}
    for name, algorithm in kinds.items():
        desk.bundle("keygen", name, "--out", "keys", "--no-passphrase", "--algorithm", algorithm)
    signers = [argument for name in kinds for argument in ("--signer", f"{name}=keys/{name}.pub")]
    desk.bundle("policy", "init", "policy.json", "--stream", "s", "--profile", "cnsa", "--threshold", "2", *signers)


# What is asked for


def test_the_profile_goes_from_the_intent_through_the_lock_into_the_bundle(desk: Desk) -> None:
    path = desk.write_intent("name: docs, kind: path, path: ./docs")
    desk.bundle("lock", path)
    plain = Lock.load(desk.folder / "bundle.lock.json")
    assert b"profile" not in plain.to_bytes()
    desk.write_intent("name: docs, kind: path, path: ./docs", extra="profile: default")
    assert desk.bundle("lock", path, "--json").json["state"] == "unchanged"
    desk.write_intent("name: docs, kind: path, path: ./docs", extra="profile: cnsa")
    assert {"change": "changed", "component": "t", "new": "cnsa", "old": "default", "what": "profile"} in desk.bundle("lock", path, "--json").json["changes"]
    strong = Lock.load(desk.folder / "bundle.lock.json")
    assert (strong.profile, strong.intentSha256 != plain.intentSha256) == ("cnsa", True)
    assert [str(change) for change in diff(plain, strong)] == ["~ t: profile default -> cnsa"]
    assert desk.bundle("schema").json["properties"]["profile"]["enum"] == ["default", "cnsa"]
    desk.bundle("build", "bundle.lock.json", "--out", "out")
    check_sums(desk.folder / "out")


def test_another_profile_is_refused_with_its_line(desk: Desk) -> None:
    path = desk.write_intent("name: docs, kind: path, path: ./docs", extra="profile: fips")
    with pytest.raises(InvalidFileError, match=r"bundle\.yaml:4: field profile: input should be 'default' or 'cnsa', got 'fips'"):
        intents.load(path)


def test_the_whole_way_as_a_user_goes_it(desk: Desk) -> None:
    path = desk.write_intent("name: docs, kind: path, path: ./docs", extra="profile: cnsa")
    desk.bundle("lock", path)
    desk.bundle("build", "bundle.lock.json", "--out", "out")
    trust(desk)
    desk.bundle("sign", "out", "--key", "file:keys/alice.key", "--serial", "1", "--policy", "policy.json")
    half = desk.bundle("sign", "out", "--key", "file:keys/carol.key", "--policy", "policy.json", "--json").json
    assert half["missing"] == "no signer with ml-dsa-87, which profile cnsa requires beside ecdsa-p384-sha384"
    refused = desk.audit("verify", "out", "--policy", "policy.json", code=3)
    assert "no signer with ml-dsa-87, which profile cnsa requires beside ecdsa-p384-sha384 (signed by alice, carol)" in refused.err
    desk.bundle("sign", "out", "--key", "file:keys/bob.key", "--policy", "policy.json")
    desk.audit("verify", "out", "--policy", "policy.json")
    check_sums(desk.folder / "out")
    assert desk.bundle("build", "bundle.lock.json", "--out", "out", "--json").json["changed"] is False

    (desk.folder / "site.yaml").write_text(f"store: {desk.folder}/store\nengine: none\n")
    desk.audit("install", "out", "--policy", "policy.json", "--site", "site.yaml")
    shutil.rmtree(desk.folder / "out")
    desk.audit("verify", "store", "--policy", "policy.json")
    desk.audit("check", "--site", "site.yaml")
    desk.audit("evidence", "store", "--policy", "policy.json", "--out", "evidence", code=None)
    assert json.loads((desk.folder / "evidence/verification.json").read_text())["verdict"] == "proved"
    kept = next((desk.folder / "store/bundles").glob("*/SHA512SUMS"))
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    assert "SHA512SUMS: is sha256" in desk.audit("verify", "store", "--policy", "policy.json", code=3).err
    assert "SHA512SUMS" in desk.audit("check", "--site", "site.yaml", code=3).out
    desk.audit("uninstall", "--site", "site.yaml")
    assert not list((desk.folder / "store").glob("bundles/*"))


def test_check_compares_the_sha512_of_what_is_installed_from_the_one_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.bundle("lock", desk.write_intent("name: docs, kind: path, path: ./docs", extra="profile: cnsa"))
    desk.bundle("build", "bundle.lock.json", "--out", "out")
    desk.trust()
    desk.sign("out")
    (desk.folder / "site.yaml").write_text(f"store: {desk.folder}/store\nengine: none\n")
    desk.audit("install", "out", "--policy", "policy.json", "--site", "site.yaml")
    assert drift.check(desk.folder / "store").findings == ()
    blobs = {f"blobs/sha256/{path.name}" for path in (desk.folder / "store/blobs/sha256").iterdir()}
    monkeypatch.setattr(Second, "hex", property(lambda self: "0" * 128))
    found = drift.check(desk.folder / "store").findings
    assert blobs <= {damage.place for damage in found}
    assert all(damage.detail.startswith(f"content is sha512 {'0' * 128}, expected ") for damage in found)


def test_a_bundle_without_sums_is_not_signed_under_a_cnsa_policy(desk: Desk) -> None:
    desk.bundle("lock", desk.write_intent("name: docs, kind: path, path: ./docs"))
    desk.bundle("build", "bundle.lock.json", "--out", "out")
    trust(desk)
    refused = desk.bundle("sign", "out", "--key", "file:keys/alice.key", "--serial", "1", "--policy", "policy.json", code=2)
    assert "hint: write `profile: cnsa` into bundle.yaml" in refused.err
    assert not (desk.folder / "out/signatures").exists()


# What it costs


@pytest.mark.parametrize("link", [False, True])
def test_local_bytes_are_read_once_for_both_hashes_and_a_built_folder_not_again(tmp_path: Path, weights: bytes, link: bool) -> None:
    (tmp_path / "w.bin").write_bytes(weights)
    lock = lock_of({"w.bin": weights})
    before = cnsa.bytes_read()
    built(tmp_path, lock, link=link)
    assert SIZE < cnsa.bytes_read() - before < SIZE + (1 << 20)
    before = cnsa.bytes_read()
    assert built(tmp_path, lock).changed is False
    assert cnsa.bytes_read() - before < 1 << 20
    check_sums(tmp_path / "out")


def test_what_comes_over_the_network_is_not_read_from_the_disk(tmp_path: Path, weights: bytes) -> None:
    with httpd.Server() as server:
        url = server.serve("/w.bin", weights)
        before = cnsa.bytes_read()
        built(tmp_path, lock_of({"w.bin": weights}, url=url))
        assert cnsa.bytes_read() - before < 1 << 20
    check_sums(tmp_path / "out")


def test_what_another_bundle_has_is_hashed_while_it_is_taken(tmp_path: Path, weights: bytes) -> None:
    (tmp_path / "w.bin").write_bytes(weights)
    lock = lock_of({"w.bin": weights}, profile="default")
    built(tmp_path, lock)
    (tmp_path / "w.bin").unlink()
    before = cnsa.bytes_read()
    built(tmp_path, lock_of({"w.bin": weights}), "next", caches=(Layout(tmp_path / "out"),))
    assert SIZE < cnsa.bytes_read() - before < SIZE + (1 << 20)
    check_sums(tmp_path / "next")


def test_a_folder_may_change_its_profile_until_it_is_signed(tmp_path: Path, weights: bytes) -> None:
    (tmp_path / "w.bin").write_bytes(weights)
    plain, strong = (lock_of({"w.bin": weights}, profile=profile) for profile in ("default", "cnsa"))
    for lock, read in ((plain, SIZE), (strong, SIZE), (plain, 0), (plain, 0)):  # what is not known is read once
        before = cnsa.bytes_read()
        built(tmp_path, lock)
        assert read <= cnsa.bytes_read() - before < read + (1 << 20)
        assert (tmp_path / "out/SHA512SUMS").exists() == (lock is strong)
    built(tmp_path, strong)
    check_sums(tmp_path / "out")


def test_two_builds_of_one_lock_are_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    for out in ("one", "two"):
        built(tmp_path, lock_of({"a": b"hello"}), out)
    for name in ("index.json", "SHA256SUMS", "SHA512SUMS"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_wrong_sum_in_the_folder_is_found_by_paranoid(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    lock = lock_of({"a": b"hello"})
    built(tmp_path, lock)
    path, true = tmp_path / "out/SHA512SUMS", cnsa.sums(tmp_path / "out")
    blob = f"blobs/sha256/{Digest.of(b'hello').hex}"
    path.write_bytes(cnsa.text(true | {blob: "0" * 128}))
    built(tmp_path, lock)
    assert path.read_bytes() != cnsa.text(true)  # what the folder says is believed, as the names of its blobs are
    built(tmp_path, lock, paranoid=True)
    check_sums(tmp_path / "out")


def test_a_damaged_blob_that_must_be_read_stops_the_build(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    built(tmp_path, lock_of({"a": b"hello"}, profile="default"))
    blob = tmp_path / "out/blobs/sha256" / Digest.of(b"hello").hex
    blob.chmod(0o644)
    blob.write_bytes(b"hellO")
    with pytest.raises(IntegrityError, match=f"blobs/sha256/{blob.name}: content is sha256") as caught:
        built(tmp_path, lock_of({"a": b"hello"}))
    assert "--paranoid" in caught.value.hint
    built(tmp_path, lock_of({"a": b"hello"}), paranoid=True)
    check_sums(tmp_path / "out")


def test_a_signed_bundle_that_lost_its_sums_is_not_built_over(tmp_path: Path) -> None:
    who = cnsa.site(tmp_path / "keys")
    (tmp_path / "a").write_bytes(b"hello")
    lock = lock_of({"a": b"hello"})
    built(tmp_path, lock)
    sign.sign(tmp_path / "out", who.key("alice"), bundles.terms())
    (tmp_path / "out/SHA512SUMS").unlink()
    with pytest.raises(TrustError, match="holds a signed bundle without SHA512SUMS"):
        built(tmp_path, lock)


# What an interruption leaves


def test_kill_9_in_the_middle_of_a_build_then_again_gives_the_same_bundle_and_reads_nothing_twice(desk: Desk, weights: bytes) -> None:
    with httpd.Server() as server:
        url = server.serve("/w.bin", weights, rate=16 << 20)
        sha256 = hashlib.sha256(weights).hexdigest()
        components = (f"name: big, kind: url, url: '{url}', sha256: '{sha256}'", "name: docs, kind: path, path: ./docs")
        desk.bundle("lock", desk.write_intent(*components, extra="profile: cnsa"))
        for at in (1, 2):
            process = desk.start("bundle", "build", "bundle.lock.json", "--out", "killed")
            while server.sent("/w.bin") < at * (6 << 20):
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not (desk.folder / "killed/index.json").exists()
        known = StrongSums(Layout(desk.folder / "killed"))
        text = Digest.of(b"hello\n")
        before = cnsa.bytes_read()
        assert known.of({text: 6}, Silent()) == {text: hashlib.sha512(b"hello\n").hexdigest()}
        assert cnsa.bytes_read() - before < 1 << 10
        for out in ("killed", "clean"):
            desk.bundle("build", "bundle.lock.json", "--out", out, "--cache", f"cache of {out}")
    assert files_of(desk.folder / "killed") == files_of(desk.folder / "clean")
    check_sums(desk.folder / "killed")


class Killed(BaseException):
    """Stands for the end of the process: nothing in the product catches it."""


def killed_at(patched: pytest.MonkeyPatch, survived: int) -> None:
    """Let the process end at the next root file that is written or removed after so many."""
    count = 0

    def counted(function):
        def one(*arguments, **more):
            nonlocal count
            path = arguments[0]
            if path.name in {"index.json", "SHA256SUMS", "SHA512SUMS"} and (function is not unlink or path.exists()):
                count += 1
                if count > survived:
                    raise Killed
            return function(*arguments, **more)

        return one

    unlink = Path.unlink
    patched.setattr(bundle_module, "write_atomic", counted(bundle_module.write_atomic))
    patched.setattr(Path, "unlink", counted(unlink))


def profile_of(folder: Path) -> str:
    """Return the profile that the lock inside a bundle states."""
    texts = [path.read_bytes() for path in (folder / "blobs/sha256").iterdir()]
    found = {json.loads(text).get("profile", "default") for text in texts if b'"lockVersion"' in text and b'"intentSha256"' in text}
    assert len(found) == 1
    return found.pop()


def pruned(folder: Path) -> Path:
    """Take away what the index does not reach: the next build does it, and a folder with it is refused already for that."""
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    if (folder / "index.json").exists():
        for name in strays(folder, closure(Layout(folder), parse_index((folder / "index.json").read_bytes()))):
            (folder / name).unlink()
    return folder


def can_be_signed(folder: Path, who: bundles.Site) -> bool:
    with contextlib.suppress(AirgapError):
        for at, name in enumerate(("alice", "bob")):
            sign.sign(folder, who.key(name), bundles.terms(1 if at == 0 else None))
        return True
    return False


@pytest.mark.parametrize("before", ["nothing", "default", "cnsa"])
@pytest.mark.parametrize("after", ["default", "cnsa"])
@pytest.mark.parametrize("survived", range(4))
def test_whenever_the_writing_is_interrupted_only_what_a_site_accepts_can_be_signed(tmp_path, monkeypatch, before, after, survived) -> None:
    who = cnsa.site(tmp_path / "keys") if after == "cnsa" else bundles.site(tmp_path / "keys")
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    if before != "nothing":
        built(tmp_path, lock_of({"a": b"a"}, profile=before))
    lock = lock_of({"a": b"a", "b": b"b"}, profile=after)
    with monkeypatch.context() as patched, contextlib.suppress(Killed):
        killed_at(patched, survived)
        built(tmp_path, lock)
    copied = pruned(shutil.copytree(tmp_path / "out", tmp_path / "copied"))
    if can_be_signed(copied, who) and profile_of(copied) == after:  # else it is the bundle that stood there before
        verify(Place.of(copied), who.policy_raw, memory=Memory(), now=bundles.NOW)
    if (copied / "signatures").exists():
        assert profile_of(copied) == ("cnsa" if (copied / "SHA512SUMS").exists() else "default")
    built(tmp_path, lock)
    built(tmp_path, lock, "clean")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "clean")


@pytest.mark.parametrize("torn", [b"", b"\n", b"\n" + b"a" * 64, b"\n" + b"a" * 64 + b" " + b"b" * 127, bytes(300), b"\xff\n"])
def test_a_torn_line_is_as_if_it_was_not_written(tmp_path: Path, torn: bytes) -> None:
    layout = Layout.create(tmp_path)
    one, two = layout.put(b"one"), layout.put(b"two")
    StrongSums(layout).remember(one, "1" * 128)
    with (tmp_path / PARTIAL / "sha512").open("ab") as file:
        file.write(torn)
    StrongSums(layout).remember(two, "2" * 128)
    assert StrongSums(layout).of({one: 3, two: 3}, Silent()) == {one: "1" * 128, two: "2" * 128}
    (tmp_path / PARTIAL / "sha512").unlink()
    assert StrongSums(layout).of({one: 3}, Silent()) == {one: hashlib.sha512(b"one").hexdigest()}


def test_a_hasher_that_begins_anew_forgets_both_hashes() -> None:
    hasher = Hasher(twice=True)
    for block in (bytes(WORTHWHILE), b"small"):
        hasher.update(memoryview(block))
    assert hasher.sha512() == hashlib.sha512(bytes(WORTHWHILE) + b"small").hexdigest()
    hasher.restart()
    hasher.update(memoryview(b"x"))
    assert (hasher.digest(), hasher.sha512()) == (Digest.of(b"x"), hashlib.sha512(b"x").hexdigest())
    assert Hasher().sha512() is None
    hasher.close()
