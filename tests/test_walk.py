"""A small signed bundle, and everything that can be done to it on the way: each is refused, by name, and all at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from parts import bundles
from parts.bundles import NOW, terms

from airgap_images.bundle import Component, TreeFile, component_descriptor, write_index, write_tree
from airgap_images.layout import Layout
from airgap_images.oci import IMAGE_MANIFEST, TITLE, Descriptor, Digest
from audit.verify import walk
from audit.verify.trust import Memory
from audit.verify.walk import Place, Silent, verify
from bundler import sign
from manifests import canonical
from manifests.errors import InvalidFileError, RefusedError, SiteError
from manifests.policy import Policy

SMALL = ("index.json", "SHA256SUMS", "oci-layout", "signatures/alice.sigstore.json")


@pytest.fixture(scope="module")
def who(tmp_path_factory):
    return bundles.site(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def original(tmp_path_factory, who):
    return bundles.signed(tmp_path_factory.mktemp("made") / "bundle", who, size=5000)


@pytest.fixture
def folder(tmp_path, original):
    shutil.copytree(original, tmp_path / "bundle")
    return tmp_path / "bundle"


def proved(folder: Path, who, **more):
    return verify(Place.of(folder), more.pop("policy_raw", who.policy_raw), memory=more.pop("memory", Memory()), now=NOW, **more)


def refused(folder: Path, who, **more) -> list[str]:
    with pytest.raises(RefusedError) as caught:
        proved(folder, who, **more)
    assert caught.value.exit_code == 3
    assert all(failure.hint and failure.rule and failure.message.isprintable() for failure in caught.value.failures)
    return [failure.message for failure in caught.value.failures]


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def names(messages: list[str], name: str) -> bool:
    return any(message.startswith(f"{name}: ") for message in messages)


def test_the_untouched_bundle_is_proved_and_described(original, who):
    found = proved(original, who)
    assert found.digest == Digest.of((original / "index.json").read_bytes())
    assert [component.name for component in found.components] == ["data", "docs"]
    assert {digest.hex for digest, _ in found.blobs} == {path.name for path in (original / "blobs/sha256").iterdir()}
    assert [name for name, _ in found.files] == ["SHA256SUMS", "index.json", "oci-layout", *(f"signatures/{n}.sigstore.json" for n in ("alice", "bob"))]
    assert (found.policy_sha256, found.policy_raw) == (Digest.of(who.policy_raw).hex, who.policy_raw)
    assert (found.statement.serial, found.verified_at, found.layout) == (1, NOW, Layout(original))
    assert len(found.not_checked) >= 4


CHANGES = {
    "flip": lambda p: p.write_bytes(bytes([p.read_bytes()[0] ^ 1]) + p.read_bytes()[1:]),
    "flip the last byte": lambda p: p.write_bytes(p.read_bytes()[:-1] + bytes([p.read_bytes()[-1] ^ 0x80])),
    "cut": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "empty": lambda p: p.write_bytes(b""),
    "extend": lambda p: p.write_bytes(p.read_bytes() + b"\n"),
    "delete": lambda p: p.unlink(),
    "link to the same bytes": lambda p: (p.rename(p.parents[3] / "away"), p.symlink_to(p.parents[3] / "away")),
    "dangling link": lambda p: (p.unlink(), p.symlink_to("/nowhere")),
    "folder": lambda p: (p.unlink(), p.mkdir()),
    "pipe": lambda p: (p.unlink(), os.mkfifo(p)),
    "hard link to another file": lambda p: (p.unlink(), os.link("/etc/hostname", p)) if os.stat("/etc/hostname").st_dev == p.stat().st_dev else p.unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_done_to_any_file_is_refused_by_its_name(tmp_path, original, who, change):
    for at, name in enumerate(files_of(original)):
        copy = tmp_path / f"{at}" / "a" / "bundle"
        shutil.copytree(original, copy)
        path = copy / name
        path.chmod(0o644)
        CHANGES[change](path)
        messages = refused(copy, who)
        if change == "delete" and name.startswith("signatures/"):
            assert messages[0].startswith("signatures: 1 of 2 needed signers")
        else:
            assert names(messages, name), (name, messages)


def test_any_two_files_swapped_are_refused(tmp_path, original, who):
    listed = files_of(original)
    for at, (one, two) in enumerate(zip(listed, listed[1:] + listed[:1], strict=True)):
        copy = tmp_path / f"{at}"
        shutil.copytree(original, copy)
        (copy / one).rename(copy / "x")
        (copy / two).rename(copy / one)
        (copy / "x").rename(copy / two)
        if one.startswith("signatures/") and two.startswith("signatures/"):
            assert proved(copy, who)  # the names of signature files claim nothing
        else:
            messages = refused(copy, who)
            assert names(messages, one) or names(messages, two)


@pytest.mark.parametrize("name", SMALL)
def test_every_single_changed_byte_of_the_small_files_is_refused_by_name(folder, who, name):
    place = Place.of(folder)
    path = folder / name
    path.chmod(0o644)
    whole = path.read_bytes()
    for at in range(len(whole)):
        raw = bytearray(whole)
        raw[at] ^= 1 << at % 8
        path.write_bytes(raw)
        with pytest.raises(RefusedError) as caught:
            verify(place, who.policy_raw, memory=Memory(), now=NOW)
        assert name in caught.value.message, (at, caught.value.message)
    path.write_bytes(whole)
    assert proved(folder, who)


@pytest.mark.parametrize("place", ["stray", ".hidden", "verify.sh", "blobs/stray", "blobs/sha256/stray", f"blobs/sha256/{'0' * 64}", "signatures/stray"])
@pytest.mark.parametrize("kind", ["file", "folder", "link", "pipe"])
def test_whatever_is_added_at_any_level_is_refused_by_its_name(folder, who, place, kind):
    path = folder / place
    {"file": lambda: path.write_bytes(b"x"), "folder": path.mkdir, "link": lambda: path.symlink_to("index.json"), "pipe": lambda: os.mkfifo(path)}[kind]()
    assert names(refused(folder, who), place)


@pytest.mark.parametrize("name", ["blobs", "blobs/sha256", "signatures"])
def test_a_folder_that_is_a_link_is_refused(folder, who, name):
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")
    assert names(refused(folder, who), name)


@pytest.mark.parametrize("name", ["blobs", "signatures", "blobs/sha256"])
def test_a_missing_folder_is_refused(folder, who, name):
    shutil.rmtree(folder / name)
    assert refused(folder, who)


def test_an_unsigned_bundle_says_so(folder, who):
    for path in (folder / "signatures").iterdir():
        path.unlink()
    assert refused(folder, who) == ["signatures: the bundle is not signed"]
    (folder / "signatures").rmdir()
    assert refused(folder, who) == ["signatures: the bundle is not signed"]


def test_too_many_signature_files_are_refused_unread(folder, who):
    for number in range(40):
        (folder / "signatures" / f"x{number}.sigstore.json").write_bytes(b"")
    assert refused(folder, who) == ["signatures: 42 files, at most 32 allowed"]


@pytest.mark.parametrize("name", ["alice.txt", "Alice.sigstore.json", ".alice.sigstore.json", "a b.sigstore.json", "a\nb.sigstore.json"])
def test_signature_files_of_other_names_are_refused(folder, who, name):
    shutil.copy(folder / "signatures/alice.sigstore.json", folder / "signatures" / name)
    (message,) = refused(folder, who)
    assert "does not belong here" in message


def test_a_signature_file_that_is_huge_is_refused_unread(folder, who):
    with (folder / "signatures/alice.sigstore.json").open("r+b") as file:
        file.truncate(5 << 30)
    assert names(refused(folder, who), "signatures/alice.sigstore.json")


def test_root_files_that_are_huge_are_refused_unread(folder, who):
    with (folder / "index.json").open("r+b") as file:
        file.truncate(50 << 30)
    assert refused(folder, who) == [f"index.json: larger than {walk.MAX_INDEX} bytes"]


def test_every_failure_is_listed_and_told_the_moment_it_is_found(folder, who):
    class Watching(Silent):
        seen: list[str] = []  # noqa: RUF012

        def failed(self, error):
            self.seen.append(error.message)

    blobs = sorted((folder / "blobs/sha256").iterdir())
    for path in blobs:
        path.chmod(0o644)
    blobs[0].unlink()
    blobs[1].write_bytes(b"")
    blobs[2].write_bytes(bytes([blobs[2].read_bytes()[0] ^ 1]) + blobs[2].read_bytes()[1:])
    (folder / "stray").write_bytes(b"")
    watch = Watching()
    messages = refused(folder, who, watch=watch)
    for name in (*(f"blobs/sha256/{path.name}" for path in blobs[:3]), "stray"):
        assert names(messages, name)
    assert messages == watch.seen
    assert len(set(messages)) == len(messages)


def test_what_costs_nothing_is_told_before_anything_is_hashed(tmp_path, who):
    folder = bundles.signed(tmp_path / "b", who, size=200 << 20)
    (folder / "stray").write_bytes(b"")
    told: list[float] = []

    class Watching(Silent):
        def failed(self, error):
            told.append(time.monotonic() - began)

    began = time.monotonic()
    assert refused(folder, who, watch=Watching()) == ["stray: does not belong to the bundle"]
    took = time.monotonic() - began
    assert told[0] < 1
    assert told[0] < took / 2


def test_large_files_are_read_in_parallel_each_byte_once_in_little_memory(tmp_path, who):
    bundles.layout(tmp_path / "b", {"data": {f"f{n}": os.urandom(20 << 20) for n in range(3)}})
    for at, name in enumerate(("alice", "bob")):
        sign.sign(tmp_path / "b", who.key(name), terms(1 if at == 0 else None))

    class Watching(Silent):
        total = moved_bytes = 0
        threads: set[int] = set()  # noqa: RUF012
        lock = threading.Lock()

        def begin(self, total):
            self.total = total

        def moved(self, count):
            with self.lock:
                self.moved_bytes += count
                self.threads.add(threading.get_ident())

    watch = Watching()
    found = proved(tmp_path / "b", who, watch=watch)
    assert watch.total == watch.moved_bytes == sum(size for _, size in found.blobs)
    assert len(watch.threads) == min(os.cpu_count() or 1, len(found.blobs)) or (os.cpu_count() or 1) == 1


def test_proven_blobs_are_taken_into_a_store(folder, tmp_path, who):
    store = Layout.create(tmp_path / "store")
    for link in (False, True):
        found = proved(folder, who, into=store, link=link)
        assert found.layout == store
    for digest, size in found.blobs:
        store.check(digest, size)
    other = Layout.create(tmp_path / "linked")
    proved(folder, who, into=other, link=True)
    assert all(os.path.samefile(other.path(digest), folder / "blobs/sha256" / digest.hex) for digest, _ in found.blobs)


def test_blobs_that_others_may_write_are_copied_not_linked(folder, tmp_path, who):
    for path in (folder / "blobs/sha256").iterdir():
        path.chmod(0o664)
    store = Layout.create(tmp_path / "store")
    found = proved(folder, who, into=store, link=True)
    assert not any(os.path.samefile(store.path(digest), folder / "blobs/sha256" / digest.hex) for digest, _ in found.blobs)


def test_a_damaged_blob_in_the_store_is_replaced_and_one_in_the_bundle_is_not_taken(folder, tmp_path, who):
    store = Layout.create(tmp_path / "store")
    found = proved(folder, who, into=store)
    digest, size = found.blobs[0]
    store.path(digest).chmod(0o644)
    store.path(digest).write_bytes(b"\0" * size)
    proved(folder, who, into=store)
    store.check(digest, size)
    store.path(digest).unlink()
    path = folder / "blobs/sha256" / digest.hex
    path.chmod(0o644)
    path.write_bytes(b"\0" * size)
    assert names(refused(folder, who, into=store), f"blobs/sha256/{digest.hex}")
    assert not store.path(digest).exists()


def test_a_full_disk_is_no_refusal_of_the_bundle(tmp_path, who):
    import resource

    folder = bundles.signed(tmp_path / "b", who)
    store = Layout.create(tmp_path / "store")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(SiteError, match="File too large") as caught:
            proved(folder, who, into=store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.exit_code == 1
    assert proved(folder, who, into=store)


def test_a_store_may_hold_more_than_one_bundle(tmp_path, who):
    store = Layout.create(tmp_path / "store")
    for serial in (1, 2):
        folder = bundles.signed(tmp_path / f"{serial}", who, serial=serial)
        proved(folder, who, into=store)
        kept = tmp_path / f"kept{serial}"
        shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("blobs"))
        found = verify(Place(kept, store, whole=False), who.policy_raw, memory=Memory(), now=NOW)
        assert found.statement.serial == serial


def test_a_revoked_blob_is_refused_by_name(folder, who):
    digest = min((folder / "blobs/sha256").iterdir()).name
    value = who.policy.model_dump(mode="json")
    value["revoked"]["blobs"] = [digest]
    assert refused(folder, who, policy_raw=Policy.parse(canonical.compact(value)).to_bytes()) == [f"blobs/sha256/{digest}: revoked by the policy"]


def test_a_later_time_and_a_memory_reach_the_judge(folder, who):
    with pytest.raises(RefusedError, match="expires: "):
        verify(Place.of(folder), who.policy_raw, memory=Memory(), now=NOW + timedelta(days=91))
    assert "already accepted 9" in refused(folder, who, memory=Memory(serial=9, root="a" * 64))[0]
    both = refused(folder, who, memory=Memory(serial=9, root="a" * 64), policy_raw=who.policy.changed(min_serial=5).to_bytes())
    assert [message.partition(",")[0] for message in both] == ["serial: 1 is below the policy's floor 5", "serial: 1"]


def test_what_is_not_checked_of_the_policy_depends_on_what_is_known(folder, who):
    def first(**memory) -> str:
        return verify(Place.of(folder), who.policy_raw, memory=Memory(policy_version=1, **memory), now=NOW).not_checked[0]

    assert "taken as given" in first()
    assert "the one in force at this site" in first(policy_sha256=Digest.of(who.policy_raw).hex)


def test_what_is_no_bundle_or_no_policy_is_a_matter_of_use(folder, who, tmp_path):
    with pytest.raises(InvalidFileError, match="no such folder"):
        Place.of(tmp_path / "none")
    with pytest.raises(InvalidFileError, match=r"policy\.json"):
        proved(folder, who, policy_raw=b"{}")
    (tmp_path / "empty").mkdir()
    assert "index.json: missing" in refused(tmp_path / "empty", who)


# Bundles that the signers themselves made wrong: signed, and still refused


def signed_as_is(folder: Path, who) -> Path:
    """Sign whatever lies there, as signers without this tool's care would."""
    from manifests import statement

    subjects = {name: {"sha256": Digest.of((folder / name).read_bytes()).hex} for name in ("index.json", "SHA256SUMS")}
    payload = statement.payload(
        subjects, stream=bundles.STREAM, serial=1, created=NOW, expires=NOW + timedelta(days=9), previous=None, policy_version=None, tool=("x", "1")
    )
    (folder / "signatures").mkdir(exist_ok=True)
    for name in ("alice", "bob"):
        signer = who.key(name)
        raw = statement.Envelope("key", payload, signer.sign(statement.pae(payload)), hint=statement.hint(signer.key_id)).to_bytes()
        (folder / "signatures" / f"{name}.sigstore.json").write_bytes(raw)
    return folder


def with_layers(folder: Path, paths: list[str]) -> None:
    layout = Layout.create(folder)
    layers = [{"mediaType": "a/b", "digest": str(layout.put(b"x")), "size": 1, "annotations": {TITLE: path}} for path in paths]
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": str(layout.put(b"{}")), "size": 2}
    raw = canonical.compact({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": empty, "layers": layers})
    root = component_descriptor(Descriptor(IMAGE_MANIFEST, layout.put(raw), len(raw)), name="evil", kind="path", form="tree")
    write_index(layout, [Component("evil", "path", "tree", None, root)], {sign.STREAM: bundles.STREAM})


@pytest.mark.parametrize("paths", [["../../etc/cron.d/x"], ["/etc/passwd"], ["a", "A"], ["a", "a/b"], ["a\x1b[2J"]])
def test_signed_trees_with_unsafe_paths_are_refused(tmp_path, who, paths):
    with_layers(tmp_path / "b", paths)
    (message,) = refused(signed_as_is(tmp_path / "b", who), who)
    assert message.startswith("tree: ")


def edited(original: Path, folder: Path, name: str, change) -> None:
    (folder / name).write_bytes(change((original / name).read_bytes()))


def test_signed_sums_that_do_not_list_the_bundle_are_refused(folder, original, who):
    edited(original, folder, "SHA256SUMS", lambda raw: b"".join(raw.splitlines(keepends=True)[1:]))
    assert "SHA256SUMS: does not list exactly this bundle" in refused(signed_as_is(folder, who), who)
    edited(original, folder, "SHA256SUMS", lambda raw: raw.replace(b"  blobs/sha256/", b"  ../../etc/", 1))
    assert any("is not in its form" in message for message in refused(signed_as_is(folder, who), who))


def test_a_signed_index_that_is_none_is_refused(folder, original, who):
    for change in (lambda raw: raw.replace(b'"docs"', b'"Docs"'), lambda raw: b"{}", lambda raw: raw[:-1], lambda raw: b"[" * 50_000):
        edited(original, folder, "index.json", change)
        assert names(refused(signed_as_is(folder, who), who), "index.json")


def test_a_signed_index_of_something_missing_is_refused(folder, who):
    layout = Layout(folder)
    missing = TreeFile("x", Digest("a" * 64), 3)
    root = component_descriptor(write_tree(layout, [missing]), name="x", kind="path", form="tree")
    write_index(layout, [Component("x", "path", "tree", None, root)], {})
    messages = refused(signed_as_is(folder, who), who)
    assert f"blobs/sha256/{'a' * 64}: missing" in messages
    assert any("does not belong to the bundle" in message for message in messages)


SOCKETS = """
    import sys, socket
    from datetime import datetime, timezone
    from pathlib import Path
    events = []
    sys.addaudithook(lambda event, args: events.append(event) if event.startswith(("socket.", "subprocess.", "os.exec", "os.system")) else None)
    from audit.verify.trust import Memory
    from audit.verify.walk import Place, verify
    folder, policy = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
    verify(Place.of(folder), policy, memory=Memory(), now=datetime(2026, 11, 24, 12, tzinfo=timezone.utc))
    print(events)
"""


def test_verification_opens_no_socket_and_runs_no_program(folder, who, tmp_path):
    (tmp_path / "policy.json").write_bytes(who.policy_raw)
    arguments = [sys.executable, "-c", textwrap.dedent(SOCKETS), str(folder), str(tmp_path / "policy.json")]
    assert subprocess.run(arguments, check=True, capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parts
def test_verification_runs_where_there_is_no_network_at_all(folder, who, tmp_path):
    if not shutil.which("unshare") or subprocess.run(["unshare", "-n", "true"], check=False).returncode:
        pytest.skip("network namespaces are not to be had")
    (tmp_path / "policy.json").write_bytes(who.policy_raw)
    arguments = ["unshare", "-n", sys.executable, "-c", textwrap.dedent(SOCKETS), str(folder), str(tmp_path / "policy.json")]
    assert subprocess.run(arguments, check=True, capture_output=True, text=True).stdout == "[]\n"
