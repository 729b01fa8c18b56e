"""The store: any bytes in come out the same or not at all, whatever happens in between."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airgap_images import layout as module
from airgap_images.layout import OCI_LAYOUT, PARTIAL, Layout, exclusive, open_regular, read_regular, require_layout, write_atomic
from airgap_images.oci import Descriptor, Digest
from manifests.errors import IntegrityError, InvalidFileError, SiteError

SPAWN = multiprocessing.get_context("spawn")
reuse = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def take(store: Layout, path: Path, *, link: bool = False, digest: Digest | None = None, size: int | None = None) -> Digest:
    data = path.read_bytes()
    digest = digest or Digest.of(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        store.take(fd, digest, len(data) if size is None else size, link=link)
    finally:
        os.close(fd)
    return digest


def described(data: bytes) -> Descriptor:
    return Descriptor("a/b", Digest.of(data), len(data))


def names(store: Layout) -> list[str]:
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if not path.is_dir())


@reuse
@given(st.binary(max_size=3000))
def test_any_bytes_put_are_read_back(tmp_path, data):
    store = Layout.create(tmp_path)
    digest = store.put(data)
    assert store.put(data) == digest == Digest.of(data)
    assert store.read(described(data), 4000) == data
    assert store.has(digest, len(data))
    assert not store.has(digest, len(data) + 1)
    store.check(digest, len(data))
    assert store.path(digest).stat().st_mode & 0o777 == 0o444
    assert not list((tmp_path / PARTIAL).iterdir())


@reuse
@given(st.binary(max_size=3000), st.booleans(), st.sampled_from(["link", "copy"]))
def test_any_bytes_taken_and_placed_are_the_same(tmp_path, data, link, mode):
    base = tmp_path / os.urandom(8).hex()
    store = Layout.create(base / "store")
    (base / "source").write_bytes(data)
    digest = take(store, base / "source", link=link)
    assert store.place(digest, len(data), base / "out", mode) == mode
    assert (base / "out").read_bytes() == data
    assert os.path.samefile(base / "source", store.path(digest)) == link
    assert os.path.samefile(base / "out", store.path(digest)) == (mode == "link")
    assert (base / "out").stat().st_mode & 0o777 == 0o444


def test_creating_leaves_an_existing_layout_as_it_is(tmp_path):
    store = Layout.create(tmp_path / "a" / "b")
    assert (tmp_path / "a/b/oci-layout").read_bytes() == OCI_LAYOUT
    digest = store.put(b"x")
    before = (tmp_path / "a/b/oci-layout").stat().st_ino
    assert Layout.create(tmp_path / "a" / "b").has(digest, 1)
    assert (tmp_path / "a/b/oci-layout").stat().st_ino == before
    assert require_layout(tmp_path / "a" / "b") == store
    with pytest.raises(InvalidFileError, match="not a bundle"):
        require_layout(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SiteError, match="cannot create"):
        Layout.create(tmp_path / "file")


@pytest.mark.parametrize("link", [True, False])
def test_what_is_not_what_it_should_be_is_not_stored(tmp_path, link):
    store, source = Layout.create(tmp_path / "store"), tmp_path / "source"
    source.write_bytes(b"hello")
    source.chmod(0o600)
    with pytest.raises(IntegrityError, match="content is sha256"):
        take(store, source, link=link, digest=Digest("a" * 64))
    with pytest.raises(IntegrityError, match="5 bytes, expected 6"):
        take(store, source, link=link, size=6)
    assert names(store) == ["oci-layout"]
    assert source.stat().st_mode & 0o777 == 0o600
    assert source.stat().st_nlink == 1


FLAWS = {
    "flipped": lambda path: path.write_bytes(b"hellO"),
    "cut": lambda path: path.write_bytes(b"hell"),
    "longer": lambda path: path.write_bytes(b"hello!"),
    "missing": lambda path: path.unlink(),
    "link to the same bytes": lambda path: (path.rename(path.parent.parent / "elsewhere"), path.symlink_to(path.parent.parent / "elsewhere")),
    "dangling link": lambda path: (path.unlink(), path.symlink_to("/nowhere")),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "device": lambda path: (path.unlink(), os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))),
}


@pytest.mark.parametrize("name", FLAWS)
def test_every_way_of_reading_notices_a_blob_that_is_none(tmp_path, name):
    store = Layout.create(tmp_path)
    digest = store.put(b"hello")
    store.path(digest).chmod(0o644)
    FLAWS[name](store.path(digest))
    with pytest.raises(IntegrityError, match=f"blobs/sha256/{digest.hex}: "):
        store.read(described(b"hello"), 100)
    with pytest.raises(IntegrityError, match=f"blobs/sha256/{digest.hex}: "):
        store.check(digest, 5)
    with pytest.raises(IntegrityError, match=f"blobs/sha256/{digest.hex}: "):
        store.place(digest, 5, tmp_path / "out", "copy")
    assert not (tmp_path / "out").exists()
    if name != "flipped":  # has() is by stat only and says so
        assert not store.has(digest, 5)
        with pytest.raises(IntegrityError):
            store.place(digest, 5, tmp_path / "out", "link")


def test_a_damaged_blob_is_replaced_by_taking_it_again(tmp_path):
    store, source = Layout.create(tmp_path / "store"), tmp_path / "source"
    source.write_bytes(b"hello")
    digest = take(store, source)
    store.path(digest).chmod(0o644)
    store.path(digest).write_bytes(b"hellO")
    take(store, source)
    store.check(digest, 5)


def test_reading_is_bounded(tmp_path):
    store = Layout.create(tmp_path)
    store.put(b"x" * 100)
    with pytest.raises(IntegrityError, match="100 bytes, at most 99 allowed here"):
        store.read(described(b"x" * 100), 99)
    with pytest.raises(IntegrityError, match="larger than 24 bytes"):
        read_regular(tmp_path / "oci-layout", "oci-layout", 24)


def test_a_pipe_or_a_terminal_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    began = time.monotonic()
    with pytest.raises(IntegrityError, match="not a regular file"):
        open_regular(tmp_path / "pipe", "pipe")
    assert time.monotonic() - began < 1


def test_no_descriptor_is_left_open(tmp_path):
    store = Layout.create(tmp_path)
    digest = store.put(b"hello")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        store.check(digest, 5)
        store.place(digest, 5, tmp_path / "out", "copy")
        (tmp_path / "out").unlink()
        for size in (4, 5):
            with pytest.raises(IntegrityError):
                store.check(Digest("a" * 64) if size == 5 else digest, size)
    assert len(os.listdir("/proc/self/fd")) == before


def test_placing_never_overwrites(tmp_path):
    store = Layout.create(tmp_path / "store")
    digest = store.put(b"hello")
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(SiteError, match="exists already"):
        store.place(digest, 5, tmp_path / "out", "copy")
    with pytest.raises(SiteError, match="cannot link: File exists"):
        store.place(digest, 5, tmp_path / "out", "link")
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_across_file_systems_a_link_becomes_a_copy(tmp_path):
    other = Path("/dev/shm") / f"airgap-layout-{os.getpid()}"
    if not other.parent.is_dir() or os.stat(other.parent).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("no second file system")
    other.mkdir()
    try:
        store = Layout.create(other)
        (tmp_path / "source").write_bytes(b"hello")
        with (tmp_path / "source").open("rb") as source:
            assert not store.shares(source.fileno(), link=True)
        digest = take(store, tmp_path / "source", link=True)
        assert (tmp_path / "source").stat().st_nlink == 1
        assert store.place(digest, 5, tmp_path / "out", "link") == "copy"
        assert (tmp_path / "out").read_bytes() == b"hello"
    finally:
        for path in sorted(other.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        other.rmdir()


@pytest.mark.parametrize("number", sorted(module.NO_LINK), ids=errno.errorcode.get)
def test_where_links_are_not_to_be_had_bytes_are_copied(tmp_path, monkeypatch, number):
    def refuse(*_args, **_more):
        raise OSError(number, os.strerror(number))

    store = Layout.create(tmp_path / "store")
    (tmp_path / "source").write_bytes(b"hello")
    monkeypatch.setattr(os, "link", refuse)
    digest = take(store, tmp_path / "source", link=True)
    store.check(digest, 5)
    assert not os.path.samefile(tmp_path / "source", store.path(digest))
    assert store.place(digest, 5, tmp_path / "out", "link") == "copy"


def test_a_reflinked_blob_is_hashed_all_the_same(tmp_path, monkeypatch):
    # ext4 and tmpfs have no reflinks, so the kernel's part is done by a copy here; what is checked is what follows it.
    def clone(source: int, out: int) -> bool:
        os.sendfile(out, source, 0, 1 << 20)
        return True

    monkeypatch.setattr(module, "_clone", clone)
    store = Layout.create(tmp_path / "store")
    (tmp_path / "source").write_bytes(b"hello")
    digest = take(store, tmp_path / "source")
    store.check(digest, 5)
    with pytest.raises(IntegrityError, match="content is"):
        take(store, tmp_path / "source", digest=Digest("a" * 64))
    assert store.place(digest, 5, tmp_path / "out", "copy") == "copy"
    assert (tmp_path / "out").read_bytes() == b"hello"


def test_a_link_is_made_from_the_open_file_not_from_its_name(tmp_path):
    store, source = Layout.create(tmp_path / "store"), tmp_path / "source"
    for keep in (True, False):
        source.write_bytes(b"hello")
        fd = os.open(source, os.O_RDONLY)
        if keep:
            os.link(source, tmp_path / "second")
        (tmp_path / "evil").write_bytes(b"evil!")
        os.rename(tmp_path / "evil", source)
        store.take(fd, Digest.of(b"hello"), 5, link=True)
        os.close(fd)
        store.check(Digest.of(b"hello"), 5)
        assert os.path.samefile(tmp_path / "second", store.path(Digest.of(b"hello"))) == keep


def test_progress_counts_every_byte_once(tmp_path):
    store, source = Layout.create(tmp_path / "store"), tmp_path / "source"
    source.write_bytes(os.urandom(3 * module.CHUNK + 5))
    size = source.stat().st_size
    for link in (True, False):
        moved: list[int] = []
        fd = os.open(source, os.O_RDONLY)
        digest = Digest.of(source.read_bytes())
        store.take(fd, digest, size, link=link, progress=moved.append)
        os.close(fd)
        assert sum(moved) == size
    moved = []
    store.check(digest, size, moved.append)
    assert sum(moved) == size


def test_writing_is_atomic_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "a.json"
    write_atomic(path, b"one")
    write_atomic(path, b"two", mode=0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o600)
    with pytest.raises(SiteError, match="cannot write: No such file"):
        write_atomic(tmp_path / "none" / "a", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SiteError, match="cannot write"):
        write_atomic(tmp_path / "folder", b"x")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.json", "folder"]


def test_a_write_that_fails_half_way_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomic(path, b"one")

    def full(_fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SiteError, match="No space left on device"):
        write_atomic(path, b"two")
    store = Layout(tmp_path)
    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    with pytest.raises(SiteError, match="No space left on device"):
        store.put(b"three")
    with pytest.raises(SiteError, match="No space left on device"):
        take(store, path)
    monkeypatch.undo()
    assert path.read_bytes() == b"one"
    assert names(store) == ["a.json"]


def test_a_full_disk_is_told_as_such_and_leaves_no_blob(tmp_path):
    store = Layout.create(tmp_path / "store")
    (tmp_path / "source").write_bytes(os.urandom(200_000))
    digest = store.put(b"small")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(SiteError, match="File too large"):
            take(store, tmp_path / "source")
        with pytest.raises(SiteError, match="File too large"):
            store.put(b"x" * 150_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(store) == [f"blobs/sha256/{digest.hex}", "oci-layout"]


def test_a_medium_that_cannot_be_read_is_told_as_such(tmp_path, monkeypatch):
    store = Layout.create(tmp_path)
    digest = store.put(b"hello")

    def broken(*_args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(SiteError, match=rf"blobs/sha256/{digest.hex}: .*Input/output error"):
        store.check(digest, 5)
    with pytest.raises(SiteError, match="Input/output error"):
        store.place(digest, 5, tmp_path / "out", "copy")
    assert not (tmp_path / "out").exists()


def one_lock(path: str, ready) -> None:
    with exclusive(Path(path), "the store"):
        ready.send(True)
        time.sleep(30)


def test_a_lock_is_held_by_one_process_and_freed_when_it_dies(tmp_path):
    receive, send = SPAWN.Pipe(duplex=False)
    other = SPAWN.Process(target=one_lock, args=(str(tmp_path / "x" / "lock"), send))
    other.start()
    try:
        assert receive.poll(30)
        with pytest.raises(SiteError, match="the store is in use by another process"), exclusive(tmp_path / "x" / "lock", "the store"):
            pass
        other.kill()
        other.join()
        with exclusive(tmp_path / "x" / "lock", "the store"):
            pass
    finally:
        other.kill()
        other.join()


def store_many(root: str, source: str, seed: int, barrier, failures) -> None:
    store = Layout.create(Path(root))
    barrier.wait(60)
    try:
        for number in range(60):
            store.put(b"blob %d" % (number // 2))
            take(store, Path(source), link=(number + seed) % 2 == 0)
            store.check(Digest.of(Path(source).read_bytes()), os.path.getsize(source))
    except BaseException as error:
        failures.put(repr(error))
        raise


def test_two_processes_may_store_the_same_blobs_at_once(tmp_path):
    (tmp_path / "source").write_bytes(os.urandom(300_000))
    barrier, failures = SPAWN.Barrier(2), SPAWN.Queue()
    root = str(tmp_path / "store")
    both = [SPAWN.Process(target=store_many, args=(root, str(tmp_path / "source"), seed, barrier, failures)) for seed in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0], failures.get()
    store = Layout(tmp_path / "store")
    assert len(list(store.blobs())) == 31
    for name, info in store.blobs():
        store.check(Digest(name), info.st_size)
    assert not list((store.root / PARTIAL).iterdir())


KILLED = """
    import os, sys
    from pathlib import Path
    from airgap_images.layout import Layout
    from airgap_images.oci import Digest
    store = Layout.create(Path(sys.argv[1]))
    print("ready", flush=True)
    number = 0
    while True:
        number += 1
        store.put(b"%d " % number * 40000)
        fd = os.open(sys.argv[2], os.O_RDONLY)
        store.take(fd, Digest(sys.argv[3]), os.fstat(fd).st_size)
        os.close(fd)
"""


def test_a_process_killed_at_any_point_leaves_only_whole_blobs(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(2_000_000))
    digest = Digest.of(source.read_bytes())
    root = tmp_path / "store"
    for delay in (0.0, 0.011, 0.023, 0.037, 0.053):
        arguments = [sys.executable, "-c", textwrap.dedent(KILLED), str(root), str(source), digest.hex]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(delay)
            process.kill()
        store = Layout.create(root)
        for name, info in store.blobs():
            store.check(Digest(name), info.st_size)
    take(store, source)
    store.check(digest, 2_000_000)
