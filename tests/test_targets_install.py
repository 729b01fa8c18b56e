"""Installing into any number of targets: each gets what it takes, the receipt says where, and only what is ours is taken out again."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from parts import bundles
from parts.expect import refused
from parts.installs import NOW, REFERENCE, Desk, Shelf, look
from parts.made import image, made, tree
from parts.stored import AMD64, NAME, indexed, stored

from airgap_images.bundle import IMAGE, Component
from airgap_images.layout import Layout
from airgap_images.oci import IMAGE_INDEX, Descriptor
from airgap_images.placing.stream import Image
from airgap_images.targets import Cargo, Only, Placed, Progress
from audit import drift
from audit.install import images as placing
from audit.install import ledger, receipts, undo
from audit.install.install import install
from audit.install.store import Store
from audit.verify.walk import Place, Silent
from manifests import canonical
from manifests.errors import IntegrityError, SiteError
from manifests.site import SiteRegistry

BOTH = frozenset({"image", "tree"})


@pytest.fixture(scope="module")
def who(tmp_path_factory) -> bundles.Site:
    return bundles.site(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def desk(tmp_path: Path, who: bundles.Site) -> Desk:
    return Desk(tmp_path, who)


def shelf(desk: Desk, name: str, forms=frozenset({"image"})) -> Shelf:
    (desk.folder / name.replace(" ", "-")).mkdir(exist_ok=True)
    return Shelf(desk.folder / name.replace(" ", "-"), name, forms)


def tags(target: Shelf) -> list[tuple[str, ...]]:
    return [held.tags for held in target.held() if held.tags]


class TestSeveral:
    def test_each_gets_what_it_takes_and_the_receipt_says_where(self, desk):
        first, second = shelf(desk, "docker"), shelf(desk, "registry site", BOTH)
        receipt = desk.install(desk.bundle(), targets=(first, second)).receipt
        assert receipt.receipt_version == 2
        (item,) = receipt.images
        assert [(place.target, place.tags, place.before) for place in item.placements] == [
            ("docker", (REFERENCE,), False), ("registry site", (REFERENCE,), False),
        ]  # fmt: skip
        assert {part.name: [place.target for place in part.placements] for part in receipt.trees} == {
            "docs": ["registry site"], "model": ["registry site"],
        }  # fmt: skip
        assert tags(first) == [(REFERENCE,)]
        assert sorted(tags(second)) == [(REFERENCE,), ("trees/docs:1",), ("trees/model:1",)]
        assert (desk.store / "current/docs/README.md").is_file(), "trees stay installed as files"
        assert drift.check(desk.store, targets=(first, second)).exit_code == 0
        assert not desk.install(desk.folder / "bundle-1", targets=(first, second)).changed

    def test_a_target_that_comes_later_gets_everything_in_a_new_generation(self, desk):
        first, second = shelf(desk, "docker"), shelf(desk, "registry site", BOTH)
        bundle = desk.bundle()
        desk.install(bundle, targets=(first,))
        result = desk.install(bundle, targets=(first, second))
        assert (result.changed, result.generation) == (True, 2)
        assert not desk.install(bundle, targets=(first,)).changed

    def test_what_one_lost_is_put_back(self, desk):
        both = shelf(desk, "docker"), shelf(desk, "registry site", BOTH)
        bundle = desk.bundle()
        desk.install(bundle, targets=both)
        for held in both[1].held():
            (both[1].folder / held.id[7:]).unlink()
        found = drift.check(desk.store, targets=both)
        assert sorted((finding.place, finding.detail) for finding in found.findings) == [
            (name, "was placed in registry site and is not there now") for name in ("docs", "model", "tool")
        ]
        assert desk.install(bundle, targets=both).changed
        assert drift.check(desk.store, targets=both).exit_code == 0

    def test_one_that_is_not_given_or_does_not_answer_is_not_checked(self, desk):
        both = shelf(desk, "docker"), shelf(desk, "registry site", BOTH)
        desk.install(desk.bundle(), targets=both)
        found = drift.check(desk.store, targets=(both[0],))
        assert (found.exit_code, found.not_checked) == (5, ("What was put into registry site (tool, docs, model): it was not given.",))
        broken = replace(both[1], folder=desk.folder / "no-such")
        found = drift.check(desk.store, targets=(both[0], broken))
        assert (found.exit_code, found.not_checked) == (5, ("What was put into registry site (tool, docs, model): no engine answers.",))

    def test_uninstalling_takes_from_each_and_names_what_stays(self, desk):
        both = shelf(desk, "docker"), shelf(desk, "registry site", BOTH)
        desk.install(desk.bundle(), targets=both)
        result = undo.uninstall(desk.store, now=NOW, targets=(both[0],))
        assert both[0].held() == []
        assert result.images == ("tool",)
        assert {(left.component, left.reason) for left in result.images_left} == {
            (name, "it was placed in registry site, which was not given now") for name in ("docs", "model", "tool")
        }
        assert len(both[1].held()) == 3

    def test_evidence_of_an_image_goes_along_and_is_no_tree_of_its_own(self, desk, who):
        given: list[Cargo] = []

        class Noting(Shelf):
            def load(self, layout: Layout, cargo: Cargo, progress: Progress | None = None) -> Placed:
                given.append(cargo)
                return super().load(layout, cargo, progress)

        def roots(layout: Layout) -> list[Component]:
            return [image(stored(layout)), tree(layout, "server.upstream", "image"), tree(layout, "docs"), tree(layout, "docs.upstream")]

        target = Noting(shelf(desk, "registry site").folder, "registry site", BOTH)
        receipt = desk.install(made(desk.folder / "b", who, roots), targets=(target,)).receipt
        assert sorted(part.name for part in given) == ["docs", "docs.upstream", "server"]
        evidence = next(part for part in receipt.trees if part.name == "server.upstream")
        (server,) = [part for part in given if part.name == "server"]
        assert server.upstream.digest.hex == evidence.manifest
        assert evidence.placements == ()
        assert (desk.store / "current/server.upstream/a.txt").is_file()
        assert drift.check(desk.store, targets=(target,)).exit_code == 0

    def test_how_the_load_goes_is_told_to_the_watch(self, desk, who):
        class Watch(Silent):
            def __init__(self) -> None:
                self.total = self.done = 0
                self.guard = threading.Lock()

            def begin(self, total: int) -> None:
                self.total += total

            def moved(self, count: int) -> None:
                with self.guard:
                    self.done += count

        class Sending(Shelf):
            def load(self, layout: Layout, cargo: Cargo, progress: Progress | None = None) -> Placed:
                for _, size in Image.read(layout, cargo.root, AMD64).blobs:
                    progress(size)
                return super().load(layout, replace(cargo, root=both["amd64"]), None)

            def present(self, layout: Layout, cargo: Cargo) -> Placed | None:
                return super().present(layout, replace(cargo, root=both["amd64"]))

        store = Layout.create(desk.folder / "aside")
        root, both = indexed(store)
        bundle = made(desk.folder / "b", who, lambda layout: [image(indexed(layout)[0])])
        without, watch = Watch(), Watch()
        desk.install(bundle, watch=without)
        desk.install(bundle, targets=(Sending(shelf(desk, "docker").folder, "docker"),), watch=watch)
        sent = sum(size for _, size in Image.read(store, root, AMD64).blobs)
        assert watch.done - sent >= without.done > 0
        assert watch.total == watch.done, "in the end exactly what was announced, the other platform not counted"
        again = Watch()
        desk.install(bundle, targets=(Sending(shelf(desk, "docker").folder, "docker"),), watch=again)
        assert again.done == watch.done - sent, "what is there is not announced"

    @pytest.mark.parametrize(
        ("said", "kind"),
        [({"engine": "podman"}, "podman"), ({"registry": SiteRegistry(host="r.site:1")}, "registry"), ({"layout": Path("/x")}, "layout")],
    )
    def test_a_site_that_names_a_target_is_not_installed_without(self, desk, said, kind):
        here = desk.site.model_copy(update=said)
        with refused(SiteError, f"is {kind}, and none was reached"):
            install(Place.of(desk.bundle()), desk.who.policy_raw, here, now=NOW)
        named = shelf(desk, f"{kind} somewhere" if kind != "podman" else kind)
        assert install(Place.of(desk.bundle(2)), desk.who.policy_raw, here, now=NOW, targets=(named,)).changed
        if kind != "layout":
            assert install(Place.of(desk.bundle(3, image=False)), desk.who.policy_raw, here, now=NOW).changed

    def test_a_registry_that_is_to_have_trees_is_needed_for_trees(self, desk):
        here = desk.site.model_copy(update={"registry": SiteRegistry(host="r.site:1", trees=True)})
        with refused(SiteError, "is registry, and none was reached"):
            install(Place.of(desk.bundle(image=False)), desk.who.policy_raw, here, now=NOW)

    def test_only_some_forms_of_a_target(self, desk):
        target = Only(shelf(desk, "registry site", BOTH), frozenset({"image"}))
        receipt = desk.install(desk.bundle(), targets=(target,)).receipt
        assert [tree.placements for tree in receipt.trees] == [(), ()]
        assert tags(target.target) == [(REFERENCE,)]
        undo.uninstall(desk.store, now=NOW, targets=(target,))
        assert target.target.held() == []


class TestNotOurs:
    def put(self, desk: Desk, target: Shelf, name: str, *others: str) -> str:
        """Have the target hold the image of bundle 1 under foreign names."""
        from airgap_images.bundle import components, parse_index

        root = next(
            part.root for part in components(parse_index((desk.folder / "bundle-1/index.json").read_bytes())) if part.form == "image"
        )
        return target.load(Layout(desk.folder / "bundle-1"), Cargo("tool", "image", root, (name, *others))).id

    def test_a_name_that_led_elsewhere_is_told_and_not_given_back(self, desk):
        desk.bundle(1)
        target = shelf(desk, "docker")
        theirs = self.put(desk, target, REFERENCE)
        result = desk.install(desk.bundle(2), targets=(target,))
        (place,) = result.receipt.images[0].placements
        assert (place.before, place.displaced) == (False, {REFERENCE: theirs})
        assert [own.displaced for own in ledger.read(Store.existing(desk.store))] == [{REFERENCE: theirs}]
        undo.uninstall(desk.store, now=NOW, targets=(target,))
        assert [(held.id, held.tags) for held in target.held()] == [(theirs, ())]

    def test_our_own_older_image_is_not_called_displaced(self, desk):
        target = shelf(desk, "docker")
        desk.install(desk.bundle(1), targets=(target,))
        assert desk.install(desk.bundle(2), targets=(target,)).receipt.images[0].placements[0].displaced == {}
        assert undo.rollback(desk.store, now=NOW, targets=(target,)).images[0].placements[0].displaced == {}

    def test_a_name_it_had_already_stays_theirs(self, desk):
        bundle, target = desk.bundle(1), shelf(desk, "docker")
        self.put(desk, target, REFERENCE)
        result = desk.install(bundle, targets=(target,))
        assert result.receipt.images[0].placements[0].before
        assert not (desk.store / "images.json").exists(), "nothing there is ours"
        assert undo.uninstall(desk.store, now=NOW, targets=(target,)).images == ()
        assert tags(target) == [(REFERENCE,)]

    def test_an_image_they_had_and_gave_up_is_ours_once_we_put_it_there(self, desk):
        bundle, target = desk.bundle(1), shelf(desk, "docker")
        held = self.put(desk, target, "theirs:1")
        desk.install(bundle, targets=(target,))
        (target.folder / held[7:]).unlink()
        desk.install(bundle, targets=(target,))
        undo.uninstall(desk.store, now=NOW, targets=(target,))
        assert target.held() == []

    def test_what_we_placed_under_another_root_is_still_ours(self, desk, who):
        """A single platform, and an index of ours around that very manifest: one image in an engine."""

        def roots(layout: Layout) -> list[Component]:
            root = stored(layout)
            body = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "artifactType": IMAGE, "manifests": [root.to_dict()]}
            raw = canonical.compact(body)
            around = Descriptor(IMAGE_INDEX, layout.put(raw), len(raw), artifact_type=IMAGE)
            return [image(root, "one", NAME), image(around, "two", "other.example/x:1")]

        target = shelf(desk, "docker")
        desk.install(made(desk.folder / "b", who, roots), targets=(target,))
        assert [own.before for own in ledger.read(Store.existing(desk.store))] == [False, False]
        assert undo.uninstall(desk.store, now=NOW, targets=(target,)).images == ("one", "two")
        assert target.held() == []

    def test_two_components_of_one_image_go_together(self, desk, who):
        def roots(layout: Layout) -> list[Component]:
            root = stored(layout)
            return [image(root, "one", NAME), image(root, "two", "other.example/x:1")]

        target = shelf(desk, "docker")
        desk.install(made(desk.folder / "b", who, roots), targets=(target,))
        assert [own.before for own in ledger.read(Store.existing(desk.store))] == [False, False]
        assert undo.uninstall(desk.store, now=NOW, targets=(target,)).images == ("one", "two")
        assert target.held() == []


class TestOlderStores:
    """What version 0.1 wrote is read, checked, gone back to and taken away as before."""

    def aged(self, desk: Desk, *serials: int) -> Shelf:
        """Install, and then write receipts and ledger in their first form."""
        target = shelf(desk, "docker")
        for serial in serials:
            desk.install(desk.bundle(serial), targets=(target,))
        store = Store.existing(desk.store)
        for number in store.receipts():
            raw = canonical.readable(first_form(json.loads(store.receipt(number).read_bytes())))
            for path in (store.receipt(number), store.generation(number) / ".receipt.json"):
                path.chmod(0o644)
                path.write_bytes(raw)
                path.chmod(0o444)
        images = {own.manifest: {"component": own.component, "engine": own.target, "tags": list(own.tags)} for own in ledger.read(store)}
        content = {"images": images}
        sealed = {"content": content, "sha256": canonical_sha256(content)}
        (desk.store / "images.json").write_bytes(canonical.readable(sealed))
        (desk.store / "journal.jsonl").unlink()  # it names the sha256 of the receipts; the next writer records them anew
        return target

    def test_a_receipt_is_read_as_todays_and_written_as_it_was(self, desk):
        self.aged(desk, 1)
        raw = (desk.store / "receipts/1.json").read_bytes()
        assert b'"engine": "docker"' in raw
        receipt = receipts.read(Store.existing(desk.store), 1)
        assert (receipt.receipt_version, receipt.images[0].placements[0].target) == (1, "docker")
        assert receipt.to_bytes() == raw

    def test_one_without_an_engine_too(self, desk):
        desk.install(desk.bundle(1))
        value = first_form(json.loads((desk.store / "receipts/1.json").read_bytes()))
        receipt = receipts.Receipt.parse(canonical.readable(value), "r")
        assert (receipt.images[0].placements, "engine none" in receipt.images[0].reason) == ((), True)
        assert receipt.to_bytes() == canonical.readable(value)

    @pytest.mark.parametrize("change", [{"placements": []}, {"placed": "yes"}, {"color": "red"}])
    def test_one_that_is_neither_is_damaged(self, desk, change):
        desk.install(desk.bundle(1))
        value = first_form(json.loads((desk.store / "receipts/1.json").read_bytes()))
        value["images"][0] |= change
        with refused(IntegrityError, "r: "):
            receipts.Receipt.parse(canonical.readable(value), "r")

    def test_it_is_as_installed_and_the_same_bundle_again_changes_nothing(self, desk):
        target = self.aged(desk, 1)
        result = desk.install(desk.folder / "bundle-1", targets=(target,))
        assert (result.changed, result.generation) == (False, 1)
        assert drift.check(desk.store, targets=(target,)).exit_code == 0

    def test_back_and_away(self, desk):
        target = self.aged(desk, 1, 2)
        result = undo.rollback(desk.store, now=NOW, targets=(target,))
        assert (result.generation, result.images[0].placements[0].tags) == (1, (REFERENCE,))
        assert drift.check(desk.store, targets=(target,)).exit_code == 0
        assert undo.uninstall(desk.store, now=NOW, targets=(target,)).images == ("tool", "tool")
        assert target.held() == []
        assert not (desk.store / "images.json").exists()

    def test_a_ledger_that_is_neither_form_is_damaged(self, desk):
        self.aged(desk, 1)
        for content in ({"images": {"x": 1}}, {"images": {"0" * 64: {"engine": "docker"}}}, {"images": {}, "placed": []}):
            sealed = {"content": content, "sha256": canonical_sha256(content)}
            (desk.store / "images.json").write_bytes(canonical.readable(sealed))
            with refused(IntegrityError, "images.json"):
                ledger.read(Store.existing(desk.store))


def first_form(value: dict) -> dict:
    for item in value["images"]:
        places = item.pop("placements")
        place = places[0] if places else {"target": None, "id": None, "tags": [], "before": None}
        item |= {"placed": bool(places), "engine": place["target"], "id": place["id"], "tags": place["tags"], "before": place["before"]}
    for item in value["trees"]:
        item.pop("placements")
    return value | {"receiptVersion": 1}


def canonical_sha256(content: object) -> str:
    from airgap_images.oci import Digest

    return Digest.of(canonical.compact(content)).hex


def test_nothing_but_ledger_and_receipts_differs_between_one_target_and_none(desk, tmp_path, who):
    target = shelf(desk, "docker")
    desk.install(desk.bundle(1), targets=(target,))
    other = Desk(tmp_path / "other", who)
    other.folder.mkdir()
    other.install(desk.folder / "bundle-1")
    mine, theirs = (look(each.store) for each in (desk, other))
    differ = {name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)}
    assert differ == {"images.json", "receipts/1.json", "generations/1/.receipt.json"}


def test_what_a_target_has_to_say_is_in_the_result(desk):
    from audit import render

    target = replace(shelf(desk, "registry site"), notes=("some platforms are not there",))
    result = desk.install(desk.bundle(), targets=(target,))
    assert result.notes == ("registry site: some platforms are not there",)
    report = render.installed(result)
    assert "note: registry site: some platforms are not there" in report.text
    assert report.data["notes"] == list(result.notes)
    assert placing.notes(()) == ()


def test_the_report_says_where_what_is_and_what_was_displaced(desk):
    from audit import render

    target = shelf(desk, "docker")
    desk.bundle(1)
    TestNotOurs().put(desk, target, REFERENCE)
    text = render.installed(desk.install(desk.bundle(2), targets=(target,))).text
    assert f"tool  in docker as {REFERENCE}" in text
    assert f"{REFERENCE} led to sha256:" in text
    assert "tool  NOT PLACED: engine none" in render.installed(desk.install(desk.bundle(3))).text
