"""Drift: whatever is changed after an install is found, named and told apart from what could not be looked at."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts import bundles, installs
from parts.expect import refused
from parts.installs import NOW, Desk, Shelf, look

from airgap_images.oci import Digest
from audit import drift, journal
from audit.install import undo
from audit.install.store import Store
from audit.verify.walk import Silent
from manifests.errors import AirgapError, SiteError


@pytest.fixture(scope="module")
def who(tmp_path_factory) -> bundles.Site:
    return bundles.site(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def first(tmp_path_factory, who: bundles.Site) -> Iterator[Desk]:
    with installs.in_memory(tmp_path_factory.getbasetemp()) as folder:
        made = Desk(folder, who)
        made.install(made.bundle(1), targets=(made.shelf,))
        made.install(made.bundle(2), targets=(made.shelf,))
        yield made


@pytest.fixture
def desk(tmp_path: Path, first: Desk) -> Iterator[Desk]:
    """Two serials installed one after the other."""
    with installs.in_memory(tmp_path) as folder:
        subprocess.run(["cp", "-a", first.folder, folder / "desk"], check=True)
        yield Desk(folder / "desk", first.who)


def check(desk: Desk) -> drift.Drift:
    return drift.check(desk.store, targets=(desk.shelf,))


def found(desk: Desk) -> set[tuple[str, str]]:
    return {(finding.kind, finding.place) for finding in check(desk).findings}


def rewrite(path: Path, data: bytes | None = None) -> None:
    """Change the content of a file in place, its mode kept; one bit of it by default."""
    raw = bytearray(path.read_bytes())
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o644)
    if data is None:
        raw[len(raw) // 2] ^= 1
    path.write_bytes(raw if data is None else data)
    path.chmod(mode)


def blob(data: bytes) -> str:
    return f"blobs/sha256/{Digest.of(data).hex}"


def test_what_was_just_installed_is_as_installed(desk):
    result = check(desk)
    assert (result.exit_code, result.outcome, result.findings, result.not_checked, result.remarks) == (0, "as installed", (), (), ())
    assert (result.generation, result.receipt.serial, result.notes) == (2, 2, ())
    assert result.journal == journal.verify(desk.store)


def test_it_reads_each_inode_once_and_changes_nothing(desk):
    moved: list[int] = []
    guard = threading.Lock()

    class Watch(Silent):
        def moved(self, count: int) -> None:
            with guard:
                moved.append(count)

    before = look(desk.store, leave_out=())
    result = drift.check(desk.store, targets=(desk.shelf,), watch=Watch())
    on_disk = sum(path.stat().st_size for path in (desk.store / "blobs/sha256").iterdir())
    assert sum(moved) == result.bytes == on_disk  # the installed files are the same inodes
    assert result.files > len(list((desk.store / "blobs/sha256").iterdir()))
    assert look(desk.store, leave_out=()) == before


def test_each_difference_is_told_when_it_is_found(desk):
    told: list[str] = []

    class Watch(Silent):
        def failed(self, error: AirgapError) -> None:
            told.append(error.message)

    (desk.store / "current/docs/README.md").unlink()
    drift.check(desk.store, targets=(desk.shelf,), watch=Watch())
    assert told == ["generations/2/docs/README.md: missing: was installed and is gone"]


def in_place(name: str):
    return lambda store: rewrite(store / name)


def unshare(store: Path) -> None:
    path = store / "current/docs/README.md"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    path.chmod(0o444)


def swap(store: Path) -> None:
    first, second = store / "current/docs/README.md", store / "current/docs/a/empty"
    first.rename(store / "x")
    second.rename(first)
    (store / "x").rename(second)


def replace_by(name: str, make):
    def tamper(store: Path) -> None:
        path = store / name
        path.unlink()
        make(path)

    return tamper


def write_there(name: str):
    def tamper(store: Path) -> None:
        (store / name).parent.mkdir(exist_ok=True)
        (store / name).write_bytes(b"x")

    return tamper


def bundle_file(name: str, change):
    def tamper(store: Path) -> None:
        (folder,) = [path for path in (store / "bundles").iterdir() if b'"serial":2' in receipt_of(store, path)]
        change(folder / name)

    return tamper


def receipt_of(store: Path, folder: Path) -> bytes:
    raw = (store / "receipts/2.json").read_bytes()
    return b'"serial":2' if folder.name.encode() in raw else b""


README, WEIGHTS = b"# hello\n", installs.standard(1)["model"]["weights.bin"]
SHARED = {("changed", "generations/2/model/weights.bin"), ("changed", blob(WEIGHTS))}
IN_2 = "generations/2"


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        pytest.param(in_place("current/model/weights.bin"), SHARED, id="a bit in an installed file, hence in its blob"),
        pytest.param(in_place(blob(WEIGHTS)), SHARED, id="a bit in a blob, hence in the installed file"),
        pytest.param(in_place(blob(b"serial 1\n")), {("changed", blob(b"serial 1\n"))}, id="a blob of the generation before"),
        pytest.param(in_place(blob(b"layer of all serials" * 50)), {("changed", blob(b"layer of all serials" * 50))}, id="a layer"),
        pytest.param(
            lambda store: rewrite(store / "current/docs/README.md", b"# hello\nmore"),
            {("changed", f"{IN_2}/docs/README.md"), ("changed", blob(README))},
            id="a longer file",
        ),
        pytest.param(
            replace_by("current/docs/README.md", lambda path: (path.write_bytes(b"# hellO\n"), path.chmod(0o444))),
            {("changed", f"{IN_2}/docs/README.md"), ("not shared", f"{IN_2}/docs/README.md")},
            id="a file of the same size in its place",
        ),
        pytest.param(unshare, {("not shared", f"{IN_2}/docs/README.md")}, id="an equal file in its place"),
        pytest.param(swap, {("changed", f"{IN_2}/docs/README.md"), ("changed", f"{IN_2}/docs/a/empty")}, id="two files swapped"),
        pytest.param(lambda store: (store / "current/docs/a/empty").unlink(), {("missing", f"{IN_2}/docs/a/empty")}, id="a file gone"),
        pytest.param(
            lambda store: [(store / "current/docs/a/b/c.txt").unlink(), (store / "current/docs/a/b").rmdir()],
            {("missing", f"{IN_2}/docs/a/b"), ("missing", f"{IN_2}/docs/a/b/c.txt")},
            id="a folder gone",
        ),
        pytest.param(write_there("current/docs/extra.py"), {("extra", f"{IN_2}/docs/extra.py")}, id="a file more"),
        pytest.param(write_there("current/evil/x"), {("extra", f"{IN_2}/evil")}, id="a component more"),
        pytest.param(
            lambda store: (store / "current/docs/link").symlink_to("/etc/passwd"), {("extra", f"{IN_2}/docs/link")}, id="a link more"
        ),
        pytest.param(
            replace_by("current/docs/README.md", lambda path: path.symlink_to(f"../../../{blob(README)}")),
            {("wrong type", f"{IN_2}/docs/README.md")},
            id="a link to the right content",
        ),
        pytest.param(
            replace_by("current/docs/README.md", lambda path: os.mkfifo(path, 0o444)), {("wrong type", f"{IN_2}/docs/README.md")}, id="a pipe"
        ),
        pytest.param(
            replace_by("current/docs/README.md", lambda path: path.mkdir()), {("wrong type", f"{IN_2}/docs/README.md")}, id="a folder for a file"
        ),
        pytest.param(
            lambda store: [(store / "current/docs/a").rename(store / "elsewhere"), (store / "current/docs/a").symlink_to(store / "elsewhere")],
            {("wrong type", f"{IN_2}/docs/a"), *(("missing", f"{IN_2}/docs/a/{name}") for name in ("b", "b/c.txt", "empty"))},
            id="a folder replaced by a link to it",
        ),
        pytest.param(
            lambda store: (store / "current/docs/README.md").chmod(0o644),
            {("mode", f"{IN_2}/docs/README.md"), ("mode", blob(README))},
            id="a file made writable",
        ),
        pytest.param(lambda store: (store / "current/docs/a").chmod(0o777), {("mode", f"{IN_2}/docs/a")}, id="a folder others may write"),
        pytest.param(lambda store: (store / IN_2).chmod(0o775), {("mode", f"{IN_2}/")}, id="the generation itself"),
        pytest.param(lambda store: (store / "receipts").chmod(0o775), {("mode", "receipts/")}, id="a folder of the store"),
        pytest.param(
            lambda store: [(store / "bundles").rename(store / "elsewhere"), (store / "bundles").symlink_to("elsewhere")],
            {("wrong type", "bundles")},
            id="a folder of the store replaced by a link",
        ),
        pytest.param(
            lambda store: os.chown(store / "current/docs/README.md", 12345, 0),
            {("owner", f"{IN_2}/docs/README.md"), ("owner", blob(README))},
            id="a file given away",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away"),
        ),
        pytest.param(
            lambda store: (store / blob(b"layer of all serials" * 50)).unlink(), {("missing", blob(b"layer of all serials" * 50))}, id="a layer gone"
        ),
        pytest.param(write_there("blobs/sha256/notes"), {("extra", "blobs/sha256/notes")}, id="no blob among the blobs"),
        pytest.param(lambda store: (store / blob(b"")).unlink(), {("missing", blob(b""))}, id="an empty blob gone"),
        pytest.param(bundle_file("signatures/bob.sigstore.json", rewrite), {("bundle", "signatures/bob.sigstore.json")}, id="a signature"),
        pytest.param(bundle_file("policy.json", rewrite), {("bundle", "policy.json")}, id="the policy kept"),
        pytest.param(bundle_file("SHA256SUMS", lambda path: path.unlink()), {("bundle", "SHA256SUMS")}, id="the sums gone"),
        pytest.param(bundle_file("signatures/x", lambda path: path.write_bytes(b"")), {("extra", "signatures/x")}, id="a signature more"),
        pytest.param(
            lambda store: rewrite(store / "receipts/2.json", (store / "receipts/2.json").read_bytes().replace(b'"alice"', b'"alicf"')),
            {("receipt", "receipts/2.json"), ("receipt", f"{IN_2}/.receipt.json")},
            id="another signer in the receipt",
        ),
        pytest.param(
            lambda store: rewrite(store / "receipts/1.json", (store / "receipts/1.json").read_bytes() + b" "),
            {("receipt", "receipts/1.json")},
            id="an older receipt",
        ),
        pytest.param(lambda store: (store / "receipts/1.json").unlink(), {("receipt", "receipts/1.json")}, id="an older receipt gone"),
        pytest.param(
            lambda store: (store / "receipts/7.json").write_bytes((store / "receipts/1.json").read_bytes()),
            {("receipt", "receipts/7.json")},
            id="a receipt more",
        ),
        pytest.param(lambda store: (store / f"{IN_2}/.receipt.json").unlink(), {("receipt", f"{IN_2}/.receipt.json")}, id="its own receipt gone"),
        pytest.param(lambda store: rewrite(store / "state.json"), {("state", "state.json")}, id="the memory of serials"),
    ],
)
def test_a_change_is_found_and_named(desk, tamper, expected):
    tamper(desk.store)
    result = check(desk)
    shown = {(f.kind, f.place.partition("/")[2].partition("/")[2] if f.place.startswith("bundles/") else f.place) for f in result.findings}
    assert shown == expected
    assert (result.exit_code, result.outcome) == (3, "differs")


def test_all_differences_are_listed_not_only_the_first(desk):
    for name in ("docs/README.md", "docs/a/empty", "model/config.json"):
        (desk.store / "current" / name).unlink()
    (desk.store / "current/new").write_bytes(b"")
    rewrite(desk.store / blob(WEIGHTS))
    assert len(found(desk)) == 6


def test_copies_are_hashed_by_themselves(tmp_path, who):
    desk = Desk(tmp_path, who)
    desk.install(desk.bundle(1, image=False), copy=True)
    assert check(desk).exit_code == 0
    rewrite(desk.store / "current/model/weights.bin")
    assert found(desk) == {("changed", "generations/1/model/weights.bin")}


class TestRecords:
    def test_a_journal_that_was_edited(self, desk):
        path = desk.store / "journal.jsonl"
        path.write_bytes(path.read_bytes().replace(b"alice, bob", b"alice, bab", 1))
        result = check(desk)
        assert ("journal", "journal.jsonl") in {(finding.kind, finding.place) for finding in result.findings}
        assert result.journal is None
        assert "Receipts" in result.not_checked[0]

    def test_a_journal_that_is_gone(self, desk):
        (desk.store / "journal.jsonl").unlink()
        assert found(desk) == {("journal", "journal.jsonl")}

    def test_a_journal_cut_at_the_end_lacks_a_receipt(self, desk):
        path = desk.store / "journal.jsonl"
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
        assert found(desk) == {("receipt", "receipts/2.json")}

    def test_a_state_that_was_set_back(self, desk, tmp_path):
        other = Desk(tmp_path / "other", desk.who)
        other.folder.mkdir()
        other.install(other.bundle(1))
        (desk.store / "state.json").write_bytes((other.store / "state.json").read_bytes())
        (finding,) = check(desk).findings
        assert (finding.kind, finding.detail) == ("state", "remembers serial 1, policy version 1, and serial 2, policy version 1 was accepted of stream test-stream")

    def test_no_state_is_not_checked_and_not_fine(self, desk):
        (desk.store / "state.json").unlink()
        result = check(desk)
        assert (result.exit_code, result.outcome, result.findings) == (5, "not fully compared", ())
        assert "state.json" in result.not_checked[0]
        assert result.notes == (("not compared", "", result.not_checked[0]),)

    def test_a_damaged_index_leaves_the_files_uncompared_and_says_so(self, desk):
        bundle_file("index.json", rewrite)(desk.store)
        result = check(desk)
        assert {finding.kind for finding in result.findings} == {"bundle"}
        assert [text for text in result.not_checked if "The files of generation 2" in text]
        assert [text for text in result.not_checked if "put into shelf" in text]

    def test_a_damaged_list_of_files_leaves_that_component_uncompared_and_says_so(self, desk):
        receipt = check(desk).receipt
        manifest = next(tree.manifest for tree in receipt.trees if tree.name == "docs")
        rewrite(desk.store / "blobs/sha256" / manifest)
        (desk.store / "current/docs/README.md").unlink()
        (desk.store / "current/model/config.json").unlink()
        result = check(desk)
        assert {(f.kind, f.place) for f in result.findings} == {
            ("changed", f"blobs/sha256/{manifest}"),
            ("missing", "generations/2/model/config.json"),
        }
        assert [text for text in result.not_checked if text.startswith("The files of docs")]

    def test_current_gone_or_the_generation_gone(self, desk):
        (desk.store / "generations/2").rename(desk.folder / "away")
        assert ("missing", "generations/2") in found(desk)
        (desk.store / "current").unlink()
        result = check(desk)
        assert ("current", "current") in {(finding.kind, finding.place) for finding in result.findings}
        assert "nothing says which generation" in result.not_checked[0]

    def test_all_blobs_gone(self, desk):
        (desk.store / "blobs/sha256").rename(desk.folder / "away")
        result = check(desk)
        assert ("missing", "blobs/sha256") in {(finding.kind, finding.place) for finding in result.findings}
        assert result.exit_code == 3

    def test_an_operation_that_was_begun_and_not_ended_is_remarked(self, desk):
        journal.append(desk.store, "install", "begun", {"generation": "3"}, now=NOW)
        result = check(desk)
        assert (result.exit_code, result.findings) == (0, ())
        assert result.remarks == ("install: begun at 2026-11-24T12:00:00Z and not ended: it was killed, or it is still running.",)

    def test_nothing_installed_is_no_success(self, desk):
        undo.uninstall(desk.store, now=NOW)
        with refused(SiteError, "nothing is installed"):
            check(desk)
        with refused(SiteError, "no store here"):
            drift.check(desk.folder / "elsewhere")

    def test_after_going_back_the_older_generation_is_compared(self, desk):
        undo.rollback(desk.store, now=NOW, targets=(desk.shelf,))
        assert check(desk).exit_code == 0
        (desk.store / "generations/2/docs/README.md").unlink()
        assert check(desk).exit_code == 0  # not what is installed
        (desk.store / "generations/1/docs/README.md").unlink()
        assert found(desk) == {("missing", "generations/1/docs/README.md")}


class TestImages:
    def test_one_that_is_gone(self, desk):
        for held in desk.shelf.held():
            (desk.shelf.folder / held.id[7:]).unlink()
        (finding,) = check(desk).findings
        assert (finding.kind, finding.place, finding.detail) == ("image", "tool", "was placed in shelf and is not there now")

    def test_one_whose_name_points_elsewhere_now(self, desk):
        held = next(held for held in desk.shelf.held() if held.tags)
        (desk.shelf.folder / held.id[7:]).write_text('["other:1"]')
        (finding,) = check(desk).findings
        assert "no longer answers to registry.example.org/team/tool:1.0" in finding.detail

    def test_without_an_engine_they_are_not_checked(self, desk):
        result = drift.check(desk.store)
        assert (result.exit_code, result.not_checked) == (5, ("What was put into shelf (tool): it was not given.",))

    def test_an_engine_that_does_not_answer_is_not_checked(self, desk):
        result = drift.check(desk.store, targets=(Shelf(desk.folder / "no-such"),))
        assert (result.exit_code, result.not_checked) == (5, ("What was put into shelf (tool): no engine answers.",))

    def test_images_that_were_never_placed_are_a_remark(self, tmp_path, who):
        desk = Desk(tmp_path, who)
        desk.install(desk.bundle(1))
        result = drift.check(desk.store)
        assert result.exit_code == 0
        assert result.remarks[0].startswith("tool: not placed, engine none")


def test_who_may_only_read_can_check(desk):
    """An auditor without any right to write gets the same answer."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    for path in (desk.folder, *desk.folder.parents):
        if path in {Path("/tmp"), Path("/dev/shm")}:
            break
        path.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        result = drift.check(desk.store)
        os._exit(0 if (result.findings, result.exit_code) == ((), 5) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_hostile_names_are_printed_harmlessly(desk):
    (desk.store / "current/docs/\x1b[31mred\n").write_bytes(b"")
    (finding,) = check(desk).findings
    assert "\x1b" not in str(finding)
    assert "\n" not in str(finding)


def test_a_store_named_through_a_link_is_checked(desk):
    (desk.folder / "link").symlink_to(desk.store)
    assert drift.check(desk.folder / "link", targets=(desk.shelf,)).store == Store.existing(desk.store).root
