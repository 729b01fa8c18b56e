"""Files that change under the verifier's hands: what lands in the store, or is installed, is what was hashed, or nothing.

Someone who may write the medium waits for the moment: the watch that verification tells of its progress is used to strike then.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from parts import bundles, installs
from parts.bundles import NOW
from parts.expect import refused

from airgap_images import layout as layouts
from airgap_images.layout import CHUNK, Layout
from airgap_images.oci import Digest
from audit import drift
from audit.verify.trust import Memory
from audit.verify.walk import Place, Silent, verify
from manifests.errors import RefusedError

SIZE = 3 * CHUNK + 5000  # bytes of the one large blob: it is read in four pieces


@pytest.fixture(scope="module")
def who(tmp_path_factory):
    return bundles.site(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def original(tmp_path_factory, who):
    return bundles.signed(tmp_path_factory.mktemp("made") / "bundle", who, size=SIZE)


@pytest.fixture
def folder(tmp_path, original):
    shutil.copytree(original, tmp_path / "bundle")
    for path in (tmp_path / "bundle/blobs/sha256").iterdir():
        path.chmod(0o644)
    return tmp_path / "bundle"


@dataclass
class Strike(Silent):
    """Does ``harm`` once: ``at`` "begin", when everything was looked up and nothing read, or when the first MiB of the large blob was."""

    harm: Callable[[], object]
    at: str
    done: list[str] = field(default_factory=list)

    def begin(self, total: int) -> None:
        self._strike("begin")

    def moved(self, count: int) -> None:
        if count == CHUNK:
            self._strike("read")

    def _strike(self, now: str) -> None:
        if now == self.at and not self.done:
            self.done.append(now)
            self.harm()


def blobs_of(folder: Path) -> list[Path]:
    return sorted((folder / "blobs/sha256").iterdir())


def large(folder: Path) -> Path:
    return max(blobs_of(folder), key=lambda path: path.stat().st_size)


def evil(path: Path) -> bytes:
    return bytes(byte ^ 0xFF for byte in path.read_bytes())


def replace(path: Path, data: bytes) -> None:
    """Put another file under the same name: whoever has the old one open keeps reading that."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(data)
    new.rename(path)


def write(path: Path, at: int, data: bytes) -> None:
    """Write into the very file, whoever reads it."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def to_link(path: Path) -> None:
    elsewhere = path.parents[3] / "elsewhere"
    elsewhere.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(elsewhere)


def taken(folder: Path, who, store: Path, watch: Silent, *, link: bool = False):
    return verify(Place.of(folder), who.policy_raw, memory=Memory(), now=NOW, into=Layout.create(store), link=link, watch=watch)


def sound(store: Path, found=None) -> None:
    """Assert that every blob in the store is what its name says, and that all of ``found`` is there."""
    for path in blobs_of(store):
        assert Digest.of(path.read_bytes()).hex == path.name
    if found:
        assert {digest.hex for digest, _ in found.blobs} == {path.name for path in blobs_of(store)}


HARM = {
    "another file of that size": lambda p: replace(p, evil(p)),
    "another file, shorter": lambda p: replace(p, p.read_bytes()[:-1]),
    "another file, longer": lambda p: replace(p, p.read_bytes() + b"\0"),
    "written into": lambda p: write(p, 0, evil(p)[:1]),
    "cut": lambda p: os.truncate(p, max(0, p.stat().st_size - 1)),
    "grown": lambda p: write(p, p.stat().st_size, b"\0"),
    "removed": Path.unlink,
    "a link to the same bytes": to_link,
}


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("name", HARM)
def test_any_blob_changed_after_it_was_looked_up_is_refused_and_not_stored(tmp_path, original, who, name, link):
    for at in range(len(blobs_of(original))):
        folder, store = tmp_path / f"bundle{at}", tmp_path / f"store{at}"
        shutil.copytree(original, folder)
        path = blobs_of(folder)[at]
        path.chmod(0o644)
        watch = Strike(lambda path=path: HARM[name](path), "begin")
        with pytest.raises(RefusedError) as caught:
            taken(folder, who, store, watch, link=link)
        assert watch.done == ["begin"]
        assert {failure.rule for failure in caught.value.failures} == {"6.blob"}
        assert all(failure.message.startswith(f"blobs/sha256/{path.name}: ") for failure in caught.value.failures)
        sound(store)
        assert not (store / "blobs/sha256" / path.name).exists()


@pytest.mark.parametrize("link", [False, True])
def test_a_name_that_leads_elsewhere_while_its_file_is_read_changes_nothing(tmp_path, folder, who, link):
    whole = large(folder).read_bytes()
    watch = Strike(lambda: replace(large(folder), evil(large(folder))), "read")
    found = taken(folder, who, tmp_path / "store", watch, link=link)
    assert watch.done == ["read"]
    assert large(folder).read_bytes() != whole
    assert large(tmp_path / "store").read_bytes() == whole
    sound(tmp_path / "store", found)


WHILE_READ = {
    "written into where it is still to be read": lambda p: write(p, SIZE - 1, evil(p)[-1:]),
    "cut to what was read": lambda p: os.truncate(p, CHUNK),
    "cut to nothing": lambda p: os.truncate(p, 0),
    "grown": lambda p: write(p, SIZE, b"\0"),
}


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("name", WHILE_READ)
def test_a_blob_changed_while_it_is_read_is_refused_and_not_stored(tmp_path, folder, who, name, link):
    path = large(folder)
    watch = Strike(lambda: WHILE_READ[name](path), "read")
    with refused(RefusedError, f"blobs/sha256/{path.name}: content is sha256"):
        taken(folder, who, tmp_path / "store", watch, link=link)
    assert watch.done == ["read"]
    assert not (tmp_path / "store/blobs/sha256" / path.name).exists()
    sound(tmp_path / "store")


def test_what_was_read_already_may_change_without_effect_where_the_store_has_bytes_of_its_own(tmp_path, folder, who):
    whole = large(folder).read_bytes()
    watch = Strike(lambda: write(large(folder), 0, evil(large(folder))[:CHUNK]), "read")
    found = taken(folder, who, tmp_path / "store", watch)
    assert large(folder).read_bytes() != whole
    assert large(tmp_path / "store").read_bytes() == whole
    sound(tmp_path / "store", found)


def test_of_a_clone_the_clone_is_hashed_and_not_what_it_was_made_from(tmp_path, folder, who, monkeypatch):
    """A file system that shares blocks copies at once: bad bytes at that moment, put right before they are hashed."""
    path = large(folder)
    whole, bad = path.read_bytes(), evil(path)
    struck: list[int] = []

    def clone(source: int, out: int) -> bool:
        if os.fstat(source).st_size != SIZE:
            return False
        struck.append(source)
        write(path, 0, bad)
        os.pwrite(out, os.pread(source, SIZE, 0), 0)
        write(path, 0, whole)
        return True

    monkeypatch.setattr(layouts, "_clone", clone)
    with refused(RefusedError, f"blobs/sha256/{path.name}: content is sha256"):
        taken(folder, who, tmp_path / "store", Silent())
    assert struck
    assert not (tmp_path / "store/blobs/sha256" / path.name).exists()


def test_a_copy_out_of_the_store_is_hashed_itself_where_blocks_are_shared(tmp_path, monkeypatch):
    store = Layout.create(tmp_path / "store")
    digest = store.put(b"good")

    def clone(source: int, out: int) -> bool:
        os.pwrite(out, b"evil", 0)
        return True

    monkeypatch.setattr(layouts, "_clone", clone)
    with refused(Exception, "content is sha256"):
        store.place(digest, 4, tmp_path / "out", "copy")
    assert not (tmp_path / "out").exists()


ROOT_HARM = {
    "index.json": lambda f: replace(f / "index.json", (f / "index.json").read_bytes().replace(b'"docs"', b'"evil"')),
    "SHA256SUMS": lambda f: replace(f / "SHA256SUMS", b""),
    "oci-layout": lambda f: replace(f / "oci-layout", b"{}"),
    "a signature": lambda f: replace(f / "signatures/alice.sigstore.json", b"{}"),
    "all signatures": lambda f: shutil.rmtree(f / "signatures"),
    "one more signature": lambda f: (f / "signatures/eve.sigstore.json").write_bytes(b"{}"),
}


@pytest.mark.parametrize("at", ["begin", "read"])
@pytest.mark.parametrize("name", ROOT_HARM)
def test_root_files_and_signatures_are_read_once_and_what_was_read_is_what_is_kept(tmp_path, folder, who, name, at):
    before = {name: (folder / name).read_bytes() for name in ("index.json", "SHA256SUMS", "oci-layout", "signatures/alice.sigstore.json")}
    watch = Strike(lambda: ROOT_HARM[name](folder), at)
    found = taken(folder, who, tmp_path / "store", watch)
    assert watch.done == [at]
    kept = dict(found.files)
    assert {part: kept[part] for part in before} == before
    assert "signatures/eve.sigstore.json" not in kept
    assert [component.name for component in found.components] == ["data", "docs"]
    sound(tmp_path / "store", found)


@pytest.fixture
def desk(tmp_path):
    return installs.Desk(tmp_path, bundles.site(tmp_path / "keys"))


@pytest.mark.parametrize("name", ["index.json", "a signature", "all signatures"])
def test_an_install_keeps_and_uses_what_was_proven_whatever_lies_there_by_then(desk, name):
    bundle = desk.bundle(image=False)
    whole = {path: (bundle / path).read_bytes() for path in ("index.json", "SHA256SUMS", "signatures/alice.sigstore.json")}
    watch = Strike(lambda: ROOT_HARM[name](bundle), "begin")
    result = desk.install(bundle, watch=watch)
    assert watch.done == ["begin"]
    kept = desk.store / "bundles" / result.bundle.digest.hex
    assert {path: (kept / path).read_bytes() for path in whole} == whole
    assert (desk.store / "current/docs/README.md").read_bytes() == b"# hello\n"
    assert drift.check(desk.store).exit_code == 0


def test_a_bundle_that_vanishes_once_it_is_in_the_store_is_installed_all_the_same(desk):
    bundle = desk.bundle(image=False)
    verify(Place.of(bundle), desk.who.policy_raw, memory=Memory(), now=NOW, into=Layout.create(desk.store))
    assert desk.install(bundle, watch=Strike(lambda: shutil.rmtree(bundle), "begin")).changed
    assert drift.check(desk.store).exit_code == 0


@pytest.mark.parametrize("name", HARM)
def test_a_file_swapped_after_a_proof_and_before_the_install_is_refused(desk, name):
    bundle = desk.bundle(image=False)
    assert verify(Place.of(bundle), desk.who.policy_raw, memory=Memory(), now=NOW)
    path = large(bundle)
    path.chmod(0o644)
    HARM[name](path)
    with refused(RefusedError, f"blobs/sha256/{path.name}: "):
        desk.install(bundle)
    assert not (desk.store / "current").exists()
    sound(desk.store)


def test_a_linked_file_that_its_owner_writes_to_afterwards_is_found_by_the_next_check(desk):
    """The one thing linking cannot keep out: somebody with the rights of the store's own user who writes to the very file."""
    bundle = desk.bundle(image=False)
    desk.install(bundle)
    path = large(bundle)
    assert os.path.samefile(path, desk.store / "blobs/sha256" / path.name)
    write(path, 0, evil(path)[:1])
    found = drift.check(desk.store)
    assert found.exit_code == 3
    assert any("weights.bin" in subject for _, subject, _ in found.notes)


def test_an_install_that_copies_is_not_reached_by_what_is_written_to_the_bundle_later(desk):
    bundle = desk.bundle(image=False)
    desk.install(bundle, copy=True)
    for path in blobs_of(bundle):
        path.chmod(0o644)
        write(path, 0, evil(path)[:1])
    assert drift.check(desk.store).exit_code == 0
