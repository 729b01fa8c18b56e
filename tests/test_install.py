"""Installing: what is proven gets in, whole or not at all, whatever kills it; what was installed can be gone back from and taken away."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from parts import bundles, installs
from parts import engine as engines
from parts import images as real_images
from parts.expect import refused
from parts.installs import NOW, REFERENCE, Desk, Shelf, look

from airgap_images.layout import exclusive
from airgap_images.oci import Digest
from airgap_images.placing.docker_engine import DockerEngine, docker_client
from airgap_images.platform import Platform
from airgap_images.targets import Cargo, Target
from audit import drift, journal
from audit.checks import Examined, Finding, NotAssessed
from audit.install import receipts, space, undo
from audit.install.install import GateError
from audit.install.receipts import current
from audit.install.status import status
from audit.install.store import LOCK, Store, locate
from audit.verify import state
from audit.verify.walk import Place
from manifests import canonical
from manifests.errors import FindingsError, IntegrityError, RefusedError, SiteError, TrustError, UsageError
from manifests.policy import Policy

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def who(tmp_path_factory) -> bundles.Site:
    return bundles.site(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def desk(tmp_path: Path, who: bundles.Site) -> Desk:
    return Desk(tmp_path, who)


class FixedCheck:
    """A check that says what it is given."""

    ID = "fixed"
    TITLE = "A check for tests"
    GATE = "pickle"
    LIMITS = ()

    def __init__(self, *notes: object) -> None:
        self._notes = notes

    def run(self, subject: object) -> Iterator[object]:
        yield from self._notes


FINDING = Finding("fixed", "high", "model", "weights.bin", "holds a program", "use another file", "docs/checks.md#fixed")


def links(path: Path) -> int:
    return path.stat().st_nlink


def used(folder: Path) -> int:
    """Bytes on disk, each inode once, as `du` counts."""
    return int(subprocess.run(["du", "-s", "--block-size=1", folder], capture_output=True, check=True, text=True).stdout.split()[0])


def operations(desk: Desk) -> list[tuple[str, str]]:
    return [(entry.operation, entry.outcome) for entry in journal.entries(desk.store)]


def as_installed(desk: Desk, *targets: Target) -> bool:
    found = drift.check(desk.store, targets=targets)
    assert found.findings == ()
    return found.exit_code == 0


class TestInstall:
    def test_trees_stand_under_current_with_their_paths_read_only(self, desk):
        result = desk.install(desk.bundle(image=False))
        root = desk.store / "current"
        assert os.readlink(root) == "generations/1"
        assert {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name[0] != "."} == {
            f"{name}/{path}": data for name, files in installs.standard(1).items() for path, data in files.items()
        }
        for path in (desk.store / "generations").rglob("*"):
            assert stat.S_IMODE(path.lstat().st_mode) == (0o755 if path.is_dir() else 0o444)
        assert (result.changed, result.generation, result.previous, result.fresh, result.exit_code) == (True, 1, None, True, 0)
        assert as_installed(desk)

    @pytest.mark.parametrize("umask", [0o002, 0o077])
    def test_a_umask_does_not_decide_who_may_read_and_write(self, desk, umask):
        bundle, old = desk.bundle(), os.umask(umask)
        try:
            desk.install(bundle)
            desk.install(desk.bundle(2))
        finally:
            os.umask(old)
        found = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in desk.store.rglob("*") if path.name not in {LOCK, state.LOCK}}
        assert found == {(True, 0o755), (False, 0o444), (False, 0o644)}
        assert as_installed(desk)

    def test_the_receipt_says_what_was_proven_and_how_it_was_placed(self, desk):
        result = desk.install(desk.bundle(7), targets=(desk.shelf,))
        receipt = result.receipt
        assert (receipt.bundle, receipt.serial, receipt.stream) == (result.bundle.digest.hex, 7, bundles.STREAM)
        assert [signer.name for signer in receipt.signers] == ["alice", "bob"]
        assert receipt.policy_sha256 == Digest.of(desk.who.policy_raw).hex
        assert [(tree.name, tree.mode, tree.files) for tree in receipt.trees] == [("docs", "link", 3), ("model", "link", 2)]
        (image,) = receipt.images
        (place,) = image.placements
        assert (place.target, place.tags, place.before, place.displaced, image.reason) == ("shelf", (REFERENCE,), False, {}, None)
        raw = (desk.store / "receipts/1.json").read_bytes()
        assert raw == receipt.to_bytes() == (desk.store / "current/.receipt.json").read_bytes()
        assert receipts.recorded(Store.existing(desk.store)) == {1: Digest.of(raw).hex}
        assert current(Store.existing(desk.store)) == receipt
        manifest = Digest(receipt.trees[0].manifest)
        assert b"a/b/c.txt" in Store.existing(desk.store).layout.path(manifest).read_bytes()

    def test_installed_files_share_their_bytes_with_the_store_and_the_bundle(self, desk):
        size = 8 << 20
        data = {"model": {"weights.bin": os.urandom(size), "copy.bin": b"x"}}
        bundle = desk.bundle(1, image=False, **data)
        desk.install(bundle)
        assert links(desk.store / "current/model/weights.bin") == 3  # installed, store, bundle
        assert used(desk.folder) < size * 1.05
        assert used(desk.store) < size * 1.05

    def test_with_copy_no_file_shares_its_bytes(self, desk):
        bundle = desk.bundle()
        result = desk.install(bundle, copy=True)
        installed, blob = desk.store / "current/model/weights.bin", next((bundle / "blobs/sha256").glob("8c66*"))
        assert links(installed) == links(blob) == 1
        assert {tree.mode for tree in result.receipt.trees} == {"copy"}
        installed.chmod(0o644)
        installed.write_bytes(b"changed here only")
        assert blob.read_bytes() == installs.standard(1)["model"]["weights.bin"]
        assert not any(blob.samefile(path) for path in (desk.store / "blobs/sha256").iterdir())

    def test_the_site_can_ask_for_copies_and_the_caller_has_the_last_word(self, desk):
        here = desk.site.model_copy(update={"copy_files": True})
        from audit.install.install import install

        place, raw = Place.of(desk.bundle(image=False)), desk.who.policy_raw
        assert install(place, raw, here, now=NOW).receipt.trees[0].mode == "copy"
        assert not install(place, raw, here, now=NOW, copy=False).changed  # what stands is as good

    def test_asking_for_copies_where_links_stand_makes_a_new_generation(self, desk):
        bundle = desk.bundle()
        desk.install(bundle)
        result = desk.install(bundle, copy=True)
        assert (result.changed, result.generation) == (True, 2)
        assert links(desk.store / "current/model/weights.bin") == 1
        assert not desk.install(bundle, copy=True).changed

    def test_a_bundle_on_another_file_system_is_copied_into_the_store_once(self, desk, who):
        folder = Path("/dev/shm")
        if not folder.is_dir() or folder.stat().st_dev == desk.folder.stat().st_dev:
            pytest.skip("no second file system")
        away = folder / f"airgap-test-{os.getpid()}"
        try:
            result = desk.install(installs.ship(away, who, 1, installs.standard(1), image=True))
            assert links(away / "blobs/sha256" / result.receipt.trees[0].manifest) == 1
            assert links(desk.store / "current/model/weights.bin") == 2
        finally:
            shutil.rmtree(away, ignore_errors=True)
        assert as_installed(desk)

    def test_a_tree_of_nothing_and_many_equal_files(self, desk):
        trees = {"empty": {}, "many": {f"pkg{at}/__init__.py": b"" for at in range(300)}}
        result = desk.install(desk.bundle(1, image=False, **trees))
        assert [(tree.name, tree.files, tree.bytes) for tree in result.receipt.trees] == [("empty", 0, 0), ("many", 300, 0)]
        assert as_installed(desk)

    def test_the_next_serial_becomes_current_and_the_one_before_stays(self, desk):
        desk.install(desk.bundle(1))
        result = desk.install(desk.bundle(2))
        assert (result.generation, result.previous, result.fresh) == (2, 1, False)
        assert (desk.store / "generations/1/docs/a/b/c.txt").read_text() == "serial 1\n"
        assert (desk.store / "current/docs/a/b/c.txt").read_text() == "serial 2\n"
        assert as_installed(desk)


class TestAgain:
    def test_the_same_bundle_again_changes_nothing(self, desk):
        bundle = desk.bundle()
        desk.install(bundle, targets=(desk.shelf,))
        before = look(desk.store)
        result = desk.install(bundle, targets=(desk.shelf,))
        assert (result.changed, result.generation) == (False, 1)
        assert look(desk.store) == before
        assert operations(desk) == [("install", "begun"), ("install", "done"), ("install", "unchanged")]

    def test_from_the_store_itself_it_is_the_same(self, desk):
        bundle = desk.bundle()
        first = desk.install(bundle)
        shutil.rmtree(bundle)
        place = locate(desk.store, stream=bundles.STREAM)
        assert not place.whole
        result = desk.install(place)
        assert (result.changed, result.bundle.digest) == (False, first.bundle.digest)

    def test_time_seen_goes_forward_even_then(self, desk):
        bundle = desk.bundle()
        desk.install(bundle)
        desk.install(bundle, now=NOW + timedelta(days=9))
        assert state.load(desk.store, bundles.STREAM).last_seen == NOW + timedelta(days=9)

    def test_a_damaged_generation_is_made_anew_beside_it(self, desk):
        bundle = desk.bundle()
        desk.install(bundle, copy=True)
        path = desk.store / "current/docs/README.md"
        path.chmod(0o644)
        path.write_bytes(b"# hellO\n")
        path.chmod(0o444)
        result = desk.install(bundle, copy=True)
        assert (result.changed, result.generation, result.previous) == (True, 2, 1)
        assert (desk.store / "current/docs/README.md").read_bytes() == b"# hello\n"
        assert as_installed(desk)

    def test_a_damaged_blob_in_the_store_is_replaced_from_the_bundle(self, desk):
        bundle = desk.bundle()
        shutil.copytree(bundle, desk.folder / "other-copy")
        desk.install(bundle)
        blob = Store.existing(desk.store).layout.path(Digest.of(b"# hello\n"))
        blob.chmod(0o644)
        blob.write_bytes(b"# hellO\n")
        blob.chmod(0o444)
        result = desk.install(desk.folder / "other-copy")
        assert (result.changed, result.generation) == (True, 2)
        assert as_installed(desk)

    def test_a_new_policy_or_another_signature_gets_a_receipt_of_its_own(self, desk):
        bundle = desk.bundle()
        desk.install(bundle)
        newer = desk.who.policy.changed(version=2, previous=Digest.of(desk.who.policy_raw).hex)
        other = Desk(desk.folder, bundles.Site(desk.who.folder, newer))
        with refused(RefusedError, "version 2 is not signed as version 1", "0 of 2 needed signers"):
            other.install(bundle)
        result = other.install(bundle, policy_files=bundles.policy_files(other.who))
        assert (result.changed, result.generation, result.receipt.policy_version) == (True, 2, 2)
        assert as_installed(desk)
        with refused(RefusedError, "version 1", "used version 2"):
            desk.install(bundle)

    def test_files_kept_of_the_bundle_are_put_right(self, desk):
        bundle = desk.bundle()
        desk.install(bundle)
        kept = next((desk.store / "bundles").iterdir())
        (kept / "index.json").write_bytes(b"{}")
        (kept / "signatures/bob.sigstore.json").unlink()
        (kept / "signatures/mallory.sigstore.json").write_bytes(b"{}")
        assert not desk.install(bundle).changed
        assert as_installed(desk)

    def test_after_going_back_the_newest_serial_can_be_installed_again_without_a_new_generation(self, desk):
        desk.install(desk.bundle(1), targets=(desk.shelf,))
        bundle = desk.bundle(2)
        desk.install(bundle, targets=(desk.shelf,))
        undo.rollback(desk.store, now=NOW, targets=(desk.shelf,))
        result = desk.install(bundle, targets=(desk.shelf,))
        assert (result.changed, result.generation, result.previous) == (True, 2, 1)
        assert as_installed(desk, desk.shelf)


class TestRefused:
    def nothing_installed(self, desk):
        assert not (desk.store / "current").is_symlink()
        assert list((desk.store / "generations").iterdir()) == []
        assert list((desk.store / "receipts").iterdir()) == []
        assert state.load(desk.store, bundles.STREAM).fresh
        return True

    def test_a_byte_that_is_not_the_signed_one(self, desk):
        bundle = desk.bundle()
        blob = bundle / "blobs/sha256" / Digest.of(b"# hello\n").hex
        blob.chmod(0o644)
        blob.write_bytes(b"# hellO\n")
        with refused(RefusedError, blob.name):
            desk.install(bundle, targets=(desk.shelf,))
        assert self.nothing_installed(desk)
        assert not (desk.store / "blobs/sha256" / blob.name).exists()
        assert desk.shelf.held() == []
        (entry,) = journal.entries(desk.store)
        assert (entry.operation, entry.outcome) == ("install", "refused")
        assert blob.name in entry.detail("reason1")

    def test_too_few_signers(self, desk):
        bundle = desk.bundle()
        (bundle / "signatures/bob.sigstore.json").unlink()
        with refused(RefusedError, "1 of 2 needed signers"):
            desk.install(bundle)
        assert self.nothing_installed(desk)

    def test_an_expired_bundle(self, desk):
        with refused(RefusedError, "has passed"):
            desk.install(desk.bundle(), now=NOW + timedelta(days=91))
        assert self.nothing_installed(desk)

    def test_a_clock_turned_back_does_not_help(self, desk):
        desk.install(desk.bundle(1))
        desk.install(desk.bundle(2), now=NOW + timedelta(days=80))
        late = desk.bundle(3)
        with refused(RefusedError, "clock: this machine says 2026-11-24T12:00:00Z, this site has seen 2027-02-12T12:00:00Z"):
            desk.install(late, now=NOW)
        desk.install(late, now=NOW + timedelta(days=79))
        assert state.load(desk.store, bundles.STREAM).last_seen == NOW + timedelta(days=80)

    def test_an_older_serial_once_a_newer_was_installed_even_after_going_back_or_uninstalling(self, desk):
        old, new = desk.bundle(1), desk.bundle(2)
        desk.install(old)
        desk.install(new)
        undo.rollback(desk.store, now=NOW)
        with refused(RefusedError, "serial: 1", "accepted 2"):
            desk.install(old)
        undo.uninstall(desk.store, now=NOW)
        with refused(RefusedError, "serial: 1", "accepted 2"):
            desk.install(old)
        assert desk.install(new).generation == 3

    def test_the_same_serial_with_other_content(self, desk):
        desk.install(desk.bundle(1))
        with refused(RefusedError, "serial: 1", "another content"):
            desk.install(desk.bundle(1, name="twin", docs={"README.md": b"other"}))

    def test_state_can_live_elsewhere(self, desk):
        desk.install(desk.bundle(2), state_folder=desk.folder / "state")
        assert not (desk.store / "state.json").exists()
        with refused(RefusedError, "serial: 1", "accepted 2"):
            desk.install(desk.bundle(1), state_folder=desk.folder / "state")
        assert drift.check(desk.store).exit_code == 5
        assert drift.check(desk.store, state_folder=desk.folder / "state").exit_code == 0

    def test_damaged_state_stops_everything(self, desk):
        desk.install(desk.bundle(1))
        (desk.store / "state.json").write_bytes(b"{}")
        with refused(IntegrityError, "state.json", "damaged"):
            desk.install(desk.bundle(2))
        assert os.readlink(desk.store / "current") == "generations/1"

    def test_a_finding_that_the_policy_does_not_let_through(self, desk):
        with pytest.raises(GateError, match="fixed: model/weights.bin: holds a program") as caught:
            desk.install(desk.bundle(), checks=[FixedCheck(FINDING, Examined("model", "weights.bin"))], targets=(desk.shelf,))
        assert isinstance(caught.value, FindingsError)
        assert (caught.value.exit_code, caught.value.hint, caught.value.gate.refused) == (4, "use another file", (FINDING,))
        assert self.nothing_installed(desk)
        assert desk.shelf.held() == []
        assert operations(desk) == [("install", "refused")]

    def test_every_finding_is_named_in_the_message_and_in_the_journal(self, desk):
        other = replace(FINDING, path="", message="another")
        with pytest.raises(GateError) as caught:
            desk.install(desk.bundle(), checks=[FixedCheck(FINDING, other)])
        lines = [f"fixed: {text}" for text in ("model: another", "model/weights.bin: holds a program")]
        assert caught.value.message == "; ".join(lines)
        details = json.loads((desk.store / "journal.jsonl").read_text().splitlines()[-1])["details"]
        assert [details[f"reason{at}"] for at in (1, 2)] == lines
        assert details["reasons"] == "2"

    def test_a_finding_that_the_policy_lets_through_is_reported(self, desk):
        lenient = Policy.parse(desk.who.policy_raw).model_copy(update={"gates": {"pickle": "warn"}})
        other = Desk(desk.folder, bundles.Site(desk.who.folder, lenient))
        result = other.install(desk.bundle(), checks=[FixedCheck(FINDING)])
        assert (result.gate.warned, result.exit_code, result.generation) == ((FINDING,), 0, 1)
        assert result.receipt.checks[0].findings == 1

    def test_what_a_check_could_not_assess_is_exit_code_five(self, desk):
        result = desk.install(desk.bundle(), checks=[FixedCheck(NotAssessed("fixed", "model", "weights.bin", "too large"))])
        assert (result.exit_code, result.receipt.checks[0].not_assessed) == (5, 1)

    def test_an_image_the_policy_names_nobody_for_is_exit_code_five(self, desk):
        result = desk.install(desk.bundle())
        assert result.exit_code == 5
        assert [
            note.reason for note in result.gate.not_assessed if note.id == "upstream"
        ] == ["the policy names nobody for registry.example.org/team/tool"]

    def test_what_an_attacker_writes_does_not_break_the_journal(self, desk):
        bundle = desk.bundle()
        (bundle / "x\n{\x1b[31m").write_bytes(b"")
        with pytest.raises(RefusedError):
            desk.install(bundle)
        assert journal.verify(desk.store).count == 1


class TestImages:
    def test_without_an_engine_it_is_said_and_not_silent(self, desk):
        result = desk.install(desk.bundle())
        (image,) = result.receipt.images
        assert image.placements == ()
        assert "engine none" in image.reason
        assert "tool: not placed, engine none" in drift.check(desk.store).remarks[0]

    def test_an_engine_that_comes_later_gets_them(self, desk):
        bundle = desk.bundle()
        desk.install(bundle)
        result = desk.install(bundle, targets=(desk.shelf,))
        assert (result.changed, result.generation, len(result.receipt.images[0].placements)) == (True, 2, 1)
        assert not desk.install(bundle).changed  # no engine at hand: what stands is at least that

    def test_an_image_that_went_missing_is_put_back(self, desk):
        bundle = desk.bundle()
        desk.install(bundle, targets=(desk.shelf,))
        (held,) = desk.shelf.held()
        (desk.shelf.folder / held.id[7:]).unlink()
        result = desk.install(bundle, targets=(desk.shelf,))
        assert (result.changed, result.generation) == (True, 1)
        assert desk.shelf.held() == [held]

    def test_an_engine_that_does_not_answer_leaves_the_site_as_it_was(self, desk):
        with refused(SiteError, "no engine answers"):
            desk.install(desk.bundle(), targets=(Shelf(desk.folder / "no-such"),))
        assert not (desk.store / "current").is_symlink()
        assert list((desk.store / "generations").iterdir()) == []
        assert operations(desk)[-1] == ("install", "failed")
        assert desk.install(desk.bundle(2), targets=(desk.shelf,)).generation == 1

    def test_a_site_that_names_an_engine_is_not_installed_without(self, desk):
        from audit.install.install import install

        here = desk.site.model_copy(update={"engine": "docker"})
        with refused(SiteError, "docker", "none was reached"):
            install(Place.of(desk.bundle()), desk.who.policy_raw, here, now=NOW)
        assert install(Place.of(desk.bundle(2, image=False)), desk.who.policy_raw, here, now=NOW).changed

    def test_an_image_that_was_there_before_is_not_ours_and_stays(self, desk):
        bundle = desk.bundle()
        store = Place.of(bundle).layout
        from airgap_images.bundle import components, parse_index

        root = next(part.root for part in components(parse_index((bundle / "index.json").read_bytes())) if part.form == "image")
        desk.shelf.load(store, Cargo("tool", "image", root, ("theirs:1",)))
        result = desk.install(bundle, targets=(desk.shelf,))
        assert result.receipt.images[0].placements[0].before is True
        assert set(desk.shelf.held()[0].tags) == {REFERENCE, "theirs:1"}
        assert undo.uninstall(desk.store, now=NOW, targets=(desk.shelf,)).images == ("tool",), "the name that we gave it goes"
        assert [held.tags for held in desk.shelf.held()] == [("theirs:1",)]

    def test_a_name_somebody_else_gave_ours_stays_and_so_does_the_image(self, desk):
        desk.install(desk.bundle(), targets=(desk.shelf,))
        (held,) = desk.shelf.held()
        (desk.shelf.folder / held.id[7:]).write_text(f'["mine:1", "{REFERENCE}"]')
        assert undo.uninstall(desk.store, now=NOW, targets=(desk.shelf,)).images == ("tool",)
        assert [held.tags for held in desk.shelf.held()] == [("mine:1",)]

    @pytest.mark.parts
    def test_a_real_engine(self, desk, who):
        """A real image through a real `dockerd`: placed, missed, put back, taken away but for a name somebody else gave it."""
        bundle, reference = real_bundle(desk.folder / "real", who), "registry.example.org/team/busybox:1.0"
        with engines.engine() as running:
            docker = DockerEngine(docker_client(running.environment), Platform("linux", "amd64"))
            try:
                result = desk.install(bundle, targets=(docker,))
                assert result.receipt.images[0].placements[0].tags == (reference,)
                assert real_images.GREETING in running.run(reference)
                assert drift.check(desk.store, targets=(docker,)).exit_code == 0
                running.docker("tag", reference, "mine:1")
                running.docker("rmi", reference)
                assert "no longer answers to" in drift.check(desk.store, targets=(docker,)).findings[0].detail
                assert desk.install(bundle, targets=(docker,)).changed
                removed = undo.uninstall(desk.store, now=NOW, targets=(docker,))
                assert (removed.images, removed.images_left) == (("busybox",), ())
                names = running.docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
                assert names == ["mine:1"]
            finally:
                docker.close()


def real_bundle(folder: Path, who: bundles.Site) -> Path:
    from airgap_images.bundle import Component, component_descriptor, write_index
    from airgap_images.layout import Layout
    from airgap_images.oci import IMAGE_MANIFEST, Descriptor
    from bundler import sign

    image = real_images.busybox()
    made, manifest = Layout.create(folder), canonical.parse(image_manifest(image), "image", limit=1 << 20)
    for part in (manifest["config"], *manifest["layers"]):
        made.put((image.layout / "blobs/sha256" / part["digest"][7:]).read_bytes())
    raw = image_manifest(image)
    facts = {"reference": "registry.example.org/team/busybox:1.0"}
    root = component_descriptor(Descriptor(IMAGE_MANIFEST, made.put(raw), len(raw)), name="busybox", kind="image", form="image", facts=facts)
    write_index(made, [Component("busybox", "image", "image", None, root)], {sign.STREAM: bundles.STREAM, "airgap.bundle": "test"})
    for at, name in enumerate(("alice", "bob")):
        sign.sign(folder, who.key(name), bundles.terms(1 if at == 0 else None))
    return folder


def image_manifest(image: real_images.Image) -> bytes:
    return real_images.tool("skopeo", "inspect", "--raw", image.name).encode()


class TestStore:
    @pytest.mark.parametrize("part", ["", "blobs", "blobs/sha256", "bundles", "generations", "receipts", "journal.jsonl", "state.json"])
    def test_a_part_that_others_may_write_is_refused(self, desk, part):
        desk.install(desk.bundle(1))
        path = desk.store / part
        path.chmod(path.stat().st_mode | stat.S_IWGRP)
        with refused(SiteError, str(path), "others may write it"):
            desk.install(desk.bundle(2))

    @pytest.mark.parametrize("part", ["blobs", "bundles", "generations", "receipts", "journal.jsonl"])
    def test_a_part_that_is_a_link_is_refused(self, desk, part):
        desk.install(desk.bundle(1))
        (desk.store / part).rename(desk.folder / "elsewhere")
        (desk.store / part).symlink_to(desk.folder / "elsewhere")
        with refused(SiteError, part, "symbolic link inside the store"):
            desk.install(desk.bundle(2))

    def test_a_store_named_through_a_link_is_the_store(self, desk):
        (desk.folder / "real").mkdir()
        desk.store.symlink_to(desk.folder / "real")
        assert desk.install(desk.bundle()).store == desk.folder / "real"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_a_part_of_another_user_is_refused(self, desk):
        desk.install(desk.bundle(1))
        os.chown(desk.store / "generations", 12345, 0)
        with refused(SiteError, "generations", "belongs to user 12345"):
            desk.install(desk.bundle(2))

    def test_a_bundle_is_not_taken_for_a_store(self, desk):
        bundle = desk.bundle()
        bundle.rename(desk.store)
        with refused(SiteError, "is a bundle, not a store"):
            desk.install(desk.store)

    def test_a_file_where_a_folder_must_be_is_not_removed(self, desk):
        desk.store.mkdir()
        (desk.store / "generations").write_text("mine")
        with refused(SiteError, "generations", "not a folder"):
            desk.install(desk.bundle())
        assert (desk.store / "generations").read_text() == "mine"

    @pytest.mark.parametrize("target", ["/etc", "generations/../../etc", "generations/0", "generations/one", "generations/1/docs"])
    def test_current_pointing_elsewhere_is_not_followed(self, desk, target):
        desk.install(desk.bundle(1))
        (desk.store / "current").unlink()
        (desk.store / "current").symlink_to(target)
        with refused(IntegrityError, "current", target):
            desk.install(desk.bundle(2))
        assert "current" in {finding.kind for finding in drift.check(desk.store).findings}

    def test_a_folder_named_current_is_not_replaced(self, desk):
        desk.install(desk.bundle(1))
        (desk.store / "current").unlink()
        (desk.store / "current").mkdir()
        with refused(IntegrityError, "current", "not a symbolic link"):
            desk.install(desk.bundle(2))

    def test_while_another_process_writes_nobody_else_does(self, desk):
        desk.install(desk.bundle(1))
        before = look(desk.store)
        with exclusive(desk.store / LOCK, "it"):
            for attempt in (
                lambda: desk.install(desk.bundle(2)),
                lambda: undo.rollback(desk.store, now=NOW),
                lambda: undo.uninstall(desk.store, now=NOW),
                lambda: undo.prune(desk.store, keep=0, now=NOW),
            ):
                with refused(SiteError, str(desk.store), "in use by another process"):
                    attempt()
        assert look(desk.store) == before

    def test_many_installs_at_once_end_with_the_newest_whole(self, desk):
        made = [desk.bundle(serial) for serial in (1, 2, 3)]

        def stubborn(bundle: Path) -> None:
            while True:  # until nobody else is writing
                try:
                    desk.install(bundle)
                except SiteError:
                    time.sleep(0.01)
                    continue
                except (RefusedError, TrustError):
                    pass  # a higher serial was faster
                return

        processes = [FORK.Process(target=stubborn, args=(bundle,)) for bundle in (*made, *made)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * 6
        assert (desk.store / "current/docs/a/b/c.txt").read_text() == "serial 3\n"
        assert state.load(desk.store, bundles.STREAM).serial == 3
        assert as_installed(desk)

    def test_locate_finds_the_newest_of_the_stream_or_the_one_named(self, desk):
        first = desk.install(desk.bundle(1)).bundle.digest
        second = desk.install(desk.bundle(2)).bundle.digest
        undo.rollback(desk.store, now=NOW)
        assert locate(desk.store, stream=bundles.STREAM).files.name == second.hex
        assert locate(desk.store, digest=first).files.name == first.hex
        with refused(UsageError, "no bundle", "other"):
            locate(desk.store, stream="other")
        with refused(UsageError, "no bundle", "0" * 64):
            locate(desk.store, stream=bundles.STREAM, digest=Digest("0" * 64))
        assert locate(desk.folder / "bundle-1").whole

    def test_a_disk_that_is_too_small_is_said_before_anything_is_copied(self, desk, monkeypatch):
        big = {"model": {"weights.bin": os.urandom(4 << 20)}}
        bundle = desk.bundle(1, image=False, **big)
        monkeypatch.setattr(space, "RESERVE", 1 << 60)
        with refused(SiteError, "the bundle needs", "MiB are free"):
            desk.install(bundle, copy=True)
        assert list((desk.store / "blobs/sha256").iterdir()) == []
        assert desk.install(bundle).changed  # links need no room
        with refused(SiteError, "the generation needs", "MiB are free"):
            desk.install(bundle, copy=True)
        assert operations(desk)[-1] == ("install", "failed")
        monkeypatch.undo()
        assert desk.install(bundle, copy=True).changed

    @pytest.mark.parts
    def test_a_disk_that_fills_up_leaves_what_was_there(self, desk, who):
        """On a real small file system: the install fails, the generation before stays current, a larger disk heals it."""
        if os.geteuid() != 0:
            pytest.skip("mounting needs root")
        desk.store.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m,mode=755", "tmpfs", desk.store], check=False, capture_output=True).returncode:
            pytest.skip("cannot mount here")
        try:
            desk.install(desk.bundle(1))
            big = desk.bundle(2, image=False, model={"weights.bin": os.urandom(26 << 20)})
            with refused(SiteError, "the bundle needs 43 MiB"):
                desk.install(big)
            reserve, space.RESERVE = space.RESERVE, -(1 << 40)  # as if another program took the room in the meantime
            try:
                with refused(SiteError, "No space left on device"):
                    desk.install(desk.bundle(3, image=False, model={f"{at}.bin": os.urandom(13 << 20) for at in range(4)}))
            finally:
                space.RESERVE = reserve
            assert as_installed(desk)
            assert (desk.store / "current/docs/a/b/c.txt").read_text() == "serial 1\n"
            subprocess.run(["mount", "-o", "remount,size=200m", desk.store], check=True)
            desk.install(big)
            assert as_installed(desk)
        finally:
            subprocess.run(["umount", desk.store], check=True)


class TestKill:
    @pytest.fixture
    def desk(self, tmp_path: Path, who: bundles.Site) -> Iterator[Desk]:
        with installs.in_memory(tmp_path) as folder:
            yield Desk(folder, who)

    @pytest.fixture
    def aside(self, tmp_path: Path) -> Iterator[Path]:
        with installs.in_memory(tmp_path) as folder:
            yield folder

    def ends_alike(self, desk: Desk, aside: Path, action, *, step: int = 1, takes_away: bool = False) -> int:
        """Kill ``action`` before each (or each ``step``-th) of its changes to the disk, run it again, and compare with a run nobody killed."""
        shelf = desk.shelf.folder
        for name in ("store", "shelf"):
            subprocess.run(["cp", "-a", desk.folder / name, aside / f"{name}-before"], check=True)
        installed = Store.existing(desk.store).current() is not None
        action()
        wanted, wanted_shelf = look(desk.store), look(shelf)
        for at in range(1, 2000, step):
            for name in ("store", "shelf"):
                shutil.rmtree(desk.folder / name)
                subprocess.run(["cp", "-a", aside / f"{name}-before", desk.folder / name], check=True)
            if not installs.run_and_kill(action, at):
                assert look(desk.store) == wanted
                return at - 1
            if not takes_away:
                assert not installed or Store.existing(desk.store).current(), "a moment without anything installed"
                self.nothing_half(desk)
            action()
            assert look(desk.store) == wanted, at
            assert look(shelf) == wanted_shelf, at
            assert operations(desk)[-1][1] in {"done", "unchanged"}
            assert takes_away or drift.check(desk.store, targets=(desk.shelf,)).exit_code == 0
        pytest.fail("it never ran to its end")

    def nothing_half(self, desk: Desk) -> None:
        """What stands right after the kill, before anybody tidies: no half generation, and no effect ahead of the memory of it."""
        store = Store.existing(desk.store)
        number = store.current()
        if number is not None:
            found = drift.check(desk.store)
            assert found.findings == ()
        visible = {receipts.Receipt.parse((store.generation(n) / ".receipt.json").read_bytes(), "r").serial for n in store.generations()}
        serials = {1: "ddd5721c", 2: "03c9c46d"}
        visible |= {serial for serial, config in serials.items() if any(held.id[7:].startswith(config) for held in desk.shelf.held())}
        remembered = state.load(desk.store, bundles.STREAM).serial or 0
        assert remembered >= max(visible, default=0)

    def test_the_first_install(self, desk, aside):
        bundle = desk.bundle(1)
        Store.create(desk.store)
        assert self.ends_alike(desk, aside, lambda: desk.install(bundle, targets=(desk.shelf,))) > 60

    def test_the_next_serial(self, desk, aside):
        desk.install(desk.bundle(1), targets=(desk.shelf,))
        bundle = desk.bundle(2)
        assert self.ends_alike(desk, aside, lambda: desk.install(bundle, targets=(desk.shelf,))) > 50

    def test_with_copies(self, desk, aside):
        bundle = desk.bundle(1)
        Store.create(desk.store)
        assert self.ends_alike(desk, aside, lambda: desk.install(bundle, targets=(desk.shelf,), copy=True), step=2) > 60

    def test_a_rollback(self, desk, aside):
        desk.install(desk.bundle(1), targets=(desk.shelf,))
        desk.install(desk.bundle(2), targets=(desk.shelf,))
        assert self.ends_alike(desk, aside, lambda: undo.rollback(desk.store, to=1, now=NOW, targets=(desk.shelf,))) > 4

    def test_an_uninstall(self, desk, aside):
        desk.install(desk.bundle(1), targets=(desk.shelf,))
        assert self.ends_alike(desk, aside, lambda: undo.uninstall(desk.store, now=NOW, targets=(desk.shelf,)), takes_away=True) > 30

    def test_killed_from_outside_in_a_process_of_its_own(self, desk):
        """A whole interpreter is killed while it copies; the next run finishes the job."""
        bundle = desk.bundle(1, image=False, model={f"{at}.bin": os.urandom(1 << 20) for at in range(24)})
        code = (
            "import sys, datetime; from pathlib import Path; from audit.install.install import install; from audit.verify.walk import Place\n"
            "from manifests.site import Site; from parts import bundles\n"
            "print('go', flush=True)\n"
            "install(Place.of(Path(sys.argv[1])), Path(sys.argv[2]).read_bytes(), Site(store=Path(sys.argv[3])), now=bundles.NOW, copy=True)"
        )
        (desk.folder / "policy.json").write_bytes(desk.who.policy_raw)
        command = [sys.executable, "-c", code, str(bundle), str(desk.folder / "policy.json"), str(desk.store)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)})
        assert process.stdout is not None
        process.stdout.readline()
        while len(list((desk.store / "blobs/sha256").glob("[0-9a-f]*"))) < 5 and process.poll() is None:
            pass
        process.kill()
        process.wait()
        process.stdout.close()
        assert not (desk.store / "current").exists()
        kept = len(list((desk.store / "blobs/sha256").glob("[0-9a-f]*")))
        assert kept >= 5
        desk.install(bundle, copy=True)
        assert as_installed(desk)
        assert list((desk.store / ".partial").iterdir()) == []

    def test_an_interrupted_install_is_said_until_it_is_run_again(self, desk):
        bundle = desk.bundle(1)
        Store.create(desk.store)
        for at in range(1, 2000):
            if not installs.run_and_kill(lambda: desk.install(bundle), at) or status(desk.store).interrupted:
                break
        assert status(desk.store).interrupted.operation == "install"
        desk.install(bundle)
        assert status(desk.store).interrupted is None


class TestRollback:
    def test_to_the_one_before_with_its_images(self, desk):
        desk.install(desk.bundle(1), targets=(desk.shelf,))
        desk.install(desk.bundle(2), targets=(desk.shelf,))
        remembered = state.load(desk.store, bundles.STREAM)
        result = undo.rollback(desk.store, now=NOW, targets=(desk.shelf,))
        assert (result.generation, result.previous, result.skipped) == (1, 2, ())
        assert os.readlink(desk.store / "current") == "generations/1"
        assert [held.tags for held in desk.shelf.held() if held.id == result.images[0].placements[0].id] == [(REFERENCE,)]
        assert state.load(desk.store, bundles.STREAM) == remembered
        assert operations(desk)[-2:] == [("rollback", "begun"), ("rollback", "done")]
        assert as_installed(desk, desk.shelf)

    def test_without_an_engine_it_says_that_images_were_not_placed(self, desk):
        desk.install(desk.bundle(1), targets=(desk.shelf,))
        desk.install(desk.bundle(2), targets=(desk.shelf,))
        result = undo.rollback(desk.store, now=NOW)
        assert (result.images[0].placements, "engine none" in result.images[0].reason) == ((), True)

    def test_forward_again_by_number(self, desk):
        for serial in (1, 2, 3):
            desk.install(desk.bundle(serial))
        assert undo.rollback(desk.store, now=NOW, to=1).generation == 1
        assert undo.rollback(desk.store, now=NOW, to=3).generation == 3
        with refused(UsageError, "no generation 4"):
            undo.rollback(desk.store, now=NOW, to=4)

    def test_over_a_damaged_one_and_says_so(self, desk):
        for serial in (1, 2, 3):
            desk.install(desk.bundle(serial))
        (desk.store / "generations/2/docs/README.md").unlink()
        result = undo.rollback(desk.store, now=NOW)
        assert result.generation == 1
        assert [(number, [str(damage) for damage in damaged]) for number, damaged in result.skipped] == [
            (2, ["generations/2/docs/README.md: missing: was installed and is gone"])
        ]
        with refused(IntegrityError, "generation 2 is damaged", "README.md"):
            undo.rollback(desk.store, now=NOW, to=2)

    def test_never_to_changed_content(self, desk):
        desk.install(desk.bundle(1), copy=True)
        desk.install(desk.bundle(2), copy=True)
        path = desk.store / "generations/1/model/weights.bin"
        data = bytearray(path.read_bytes())
        data[77] ^= 1
        path.chmod(0o644)
        path.write_bytes(data)
        path.chmod(0o444)
        with refused(IntegrityError, "generation 1 is damaged", "weights.bin"):
            undo.rollback(desk.store, now=NOW)
        assert os.readlink(desk.store / "current") == "generations/2"

    def test_with_nothing_before_or_nothing_at_all(self, desk):
        with refused(SiteError, "no store here"):
            undo.rollback(desk.store, now=NOW)
        desk.install(desk.bundle(1))
        with refused(UsageError, "no generation before 1"):
            undo.rollback(desk.store, now=NOW)
        undo.uninstall(desk.store, now=NOW)
        with refused(UsageError, "nothing is installed"):
            undo.rollback(desk.store, now=NOW)


class TestUninstall:
    def test_everything_goes_but_receipts_journal_and_state(self, desk):
        desk.install(desk.bundle(1), targets=(desk.shelf,))
        desk.install(desk.bundle(2), targets=(desk.shelf,))
        result = undo.uninstall(desk.store, now=NOW, targets=(desk.shelf,))
        assert (result.generations, result.images, result.left, result.images_left) == ((1, 2), ("tool", "tool"), (), ())
        assert sorted(look(desk.store, leave_out=())) == [
            ".lock", ".state.lock", "journal.jsonl", "policies", f"policies/{Digest.of(desk.who.policy_raw).hex}.json",
            "receipts", "receipts/1.json", "receipts/2.json", "state.json",
        ]  # fmt: skip
        assert desk.shelf.held() == []
        assert status(desk.store).current is None
        assert operations(desk)[-1] == ("uninstall", "done")
        assert undo.uninstall(desk.store, now=NOW).generations == ()  # again is no harm

    def test_the_bundle_it_came_from_stays_whole(self, desk):
        bundle = desk.bundle()
        before = look(bundle)
        desk.install(bundle)
        undo.uninstall(desk.store, now=NOW)
        assert look(bundle) == before
        assert desk.install(bundle).generation == 2

    def test_what_is_not_ours_stays_and_is_named(self, desk):
        desk.install(desk.bundle())
        foreign = ["notes.txt", "generations/notes", "generations/1/docs/a/mine.txt", "bundles/readme", "blobs/sha256/mine", "receipts/note"]
        for name in foreign:
            (desk.store / name).write_text("mine")
        (desk.store / "generations/1/model/linked").symlink_to("/etc/passwd")
        result = undo.uninstall(desk.store, now=NOW)
        assert all((desk.store / name).read_text() == "mine" for name in foreign)
        assert (desk.store / "generations/1/model/linked").is_symlink()
        assert {*foreign[1:5], "generations/1/model/linked"} <= set(result.left)
        assert not (desk.store / "generations/1/docs/README.md").exists()
        assert not (desk.store / "generations/1/model/weights.bin").exists()

    def test_an_image_that_cannot_be_taken_out_is_named_and_remembered(self, desk):
        desk.install(desk.bundle(), targets=(desk.shelf,))
        result = undo.uninstall(desk.store, now=NOW)
        assert [(left.component, left.reason) for left in result.images_left] == [("tool", "it was placed in shelf, which was not given now")]
        assert len(desk.shelf.held()) == 1
        desk.install(desk.bundle(2, image=True), targets=(desk.shelf,))

    def test_even_where_much_is_damaged(self, desk):
        desk.install(desk.bundle())
        kept = next((desk.store / "bundles").iterdir())
        (kept / "index.json").write_bytes(b"{}")
        result = undo.uninstall(desk.store, now=NOW)
        assert not (desk.store / "generations").exists()
        assert result.left == ()


class TestPrune:
    def test_keeps_the_current_and_the_latest_others(self, desk):
        for serial in (1, 2, 3, 4):
            desk.install(desk.bundle(serial), targets=(desk.shelf,))
        undo.rollback(desk.store, to=2, now=NOW, targets=(desk.shelf,))
        result = undo.prune(desk.store, keep=1, now=NOW, targets=(desk.shelf,))
        assert result.generations == (1, 3)
        assert Store.existing(desk.store).generations() == (2, 4)
        assert result.blobs == 10
        assert len(desk.shelf.held()) == 2
        assert as_installed(desk, desk.shelf)
        assert undo.rollback(desk.store, to=4, now=NOW).generation == 4
        assert desk.install(desk.bundle(5)).generation == 5

    def test_takes_what_a_refused_install_left(self, desk):
        desk.install(desk.bundle(1))
        bundle = desk.bundle(2, model={"w.bin": b"of a refused bundle"})
        with pytest.raises(GateError):
            desk.install(bundle, checks=[FixedCheck(FINDING)])
        blob = Store.existing(desk.store).layout.path(Digest.of(b"of a refused bundle"))
        assert blob.exists()
        undo.prune(desk.store, keep=5, now=NOW)
        assert not blob.exists()
        assert as_installed(desk)

    def test_touches_nothing_when_it_cannot_tell_what_is_needed(self, desk):
        for serial in (1, 2):
            desk.install(desk.bundle(serial))
        (desk.store / "bundles" / current(Store.existing(desk.store)).bundle / "index.json").write_bytes(b"{}")
        before = look(desk.store)
        with refused(IntegrityError, "index.json"):
            undo.prune(desk.store, keep=0, now=NOW)
        assert look(desk.store) == before
        with refused(UsageError, "keep -1"):
            undo.prune(desk.store, keep=-1, now=NOW)


class TestStatus:
    def test_says_what_stands(self, desk):
        desk.install(desk.bundle(1))
        desk.install(desk.bundle(2))
        found = status(desk.store)
        assert [(g.number, g.current, g.receipt.serial) for g in found.generations] == [(1, False, 1), (2, True, 2)]
        assert (found.current, found.receipt.serial, found.interrupted) == (2, 2, None)
        assert found.journal == journal.verify(desk.store)

    def test_where_nothing_is(self, desk):
        with refused(SiteError, "no store here"):
            status(desk.store)
        Store.create(desk.store)
        assert status(desk.store).current is None
        with refused(SiteError, "nothing is installed"):
            current(Store.existing(desk.store))


def test_receipts_that_the_journal_lost_are_recorded_anew(desk):
    desk.install(desk.bundle(1))
    (desk.store / "journal.jsonl").rename(desk.folder / "evidence.jsonl")
    desk.install(desk.bundle(2))
    assert operations(desk) == [("receipt", "recovered"), ("install", "begun"), ("install", "done")]
    assert as_installed(desk)


def test_a_damaged_journal_stops_an_install_until_somebody_looked(desk):
    desk.install(desk.bundle(1))
    path = desk.store / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"serial":"1"', b'"serial":"9"', 1))
    with refused(IntegrityError, "journal.jsonl", "line 2"):
        desk.install(desk.bundle(2))
    assert os.readlink(desk.store / "current") == "generations/1"


def test_a_lost_receipt_is_restored_from_its_generation(desk):
    desk.install(desk.bundle(1))
    raw = (desk.store / "receipts/1.json").read_bytes()
    (desk.store / "receipts/1.json").unlink()
    desk.install(desk.bundle(2))
    assert (desk.store / "receipts/1.json").read_bytes() == raw
