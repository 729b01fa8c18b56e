"""A growing file in all sizes and on disks with and without direct writes: what is on disk, what is hashed, what is counted."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import subprocess
import threading
import time

import pytest
from parts import httpd

from airgap_images.layout import Layout
from airgap_images.oci import Digest
from bundler import partial
from bundler.hasher import Hasher
from bundler.partial import GrowingFile, hold

BLOCK = 1 << 20
PATTERN = httpd.Pattern(5 * BLOCK + 12345)
DATA = PATTERN[:]


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout.create(tmp_path / "layout")


@pytest.fixture
def tmpfs(tmp_path) -> Layout:
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)], check=False, capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small disk needs root")
    yield Layout.create(folder / "layout")
    subprocess.run(["umount", "-l", str(folder)], check=True)


def grow(layout: Layout):
    return hold(layout, "name", lambda: None, BLOCK)


def content(layout: Layout) -> bytes:
    return (layout.root / ".partial" / "name").read_bytes()


def is_direct(growing: GrowingFile) -> bool:
    return bool(fcntl.fcntl(growing._fd, fcntl.F_GETFL) & os.O_DIRECT)


@pytest.mark.parametrize("size", [1, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, len(DATA)])
@pytest.mark.parametrize("piece", [1000, 16 << 10, BLOCK, 3 * BLOCK])
def test_every_size_in_every_piece(layout, size, piece) -> None:
    with grow(layout) as growing:
        moved = sum(growing.write(DATA[at : min(size, at + piece)]) for at in range(0, size, piece))
        assert growing.arrived == size
        assert moved + growing.flush() == size == growing.length
        assert growing.digest == Digest.of(DATA[:size])
        assert content(layout) == DATA[:size]
        growing.keep(growing.digest)
    assert layout.path(Digest.of(DATA[:size])).read_bytes() == DATA[:size]


def test_pieces_and_flushes_at_any_place(layout) -> None:
    chance = random.Random(4)
    with grow(layout) as growing:
        at = 0
        while at < len(DATA):
            if chance.random() < 0.5:
                growing.write(DATA[at : at + chance.randrange(1, BLOCK)])
            else:
                room = growing.room()
                count = min(len(room), chance.randrange(1, BLOCK), len(DATA) - at)
                room[:count] = DATA[at : at + count]
                growing.took(count)
            at = growing.arrived
            if chance.random() < 0.2:
                growing.flush()
            assert content(layout) == DATA[: growing.length]
        growing.flush()
        assert growing.digest == Digest.of(DATA)


def test_blocks_go_past_the_page_cache_and_come_back_to_it(layout) -> None:
    with grow(layout) as growing:
        growing.write(DATA[: 2 * BLOCK])
        if not is_direct(growing):
            pytest.skip("no direct writes on this disk")
        growing.write(DATA[2 * BLOCK : 2 * BLOCK + 100])
        growing.flush()
        assert not is_direct(growing)
        growing.write(DATA[2 * BLOCK + 100 : 3 * BLOCK])  # up to where blocks begin again
        assert not is_direct(growing)
        growing.write(DATA[3 * BLOCK :])
        assert is_direct(growing)
        growing.flush()
        assert growing.digest == Digest.of(DATA)
        assert content(layout) == DATA


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_disk_without_direct_writes_is_written_as_usual(layout, monkeypatch, code) -> None:
    whole, refused = os.pwrite, []

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(offset)
            raise OSError(code, os.strerror(code))
        return whole(fd, data, offset)

    monkeypatch.setattr(partial, "WRITE_BEHIND", BLOCK)
    monkeypatch.setattr(os, "pwrite", pwrite)
    with grow(layout) as growing:
        growing.write(DATA)
        growing.flush()
        assert growing.digest == Digest.of(DATA)
    assert content(layout) == DATA
    assert refused in ([0], [])  # asked once


def test_a_file_system_in_memory_is_no_obstacle(tmpfs) -> None:
    with grow(tmpfs) as growing:
        growing.write(DATA)
        growing.flush()
        assert growing.digest == Digest.of(DATA)
    assert content(tmpfs) == DATA


def test_another_failure_of_a_direct_write_is_one(layout, monkeypatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with grow(layout) as growing:
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            growing.write(DATA)
        assert growing.length == 0


@pytest.mark.parametrize("most", [1000, 4096, BLOCK - 4096])
def test_short_writes_are_completed(layout, monkeypatch, most) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, data[:most], offset))
    with grow(layout) as growing:
        growing.write(DATA)
        growing.flush()
        assert growing.digest == Digest.of(DATA)
    assert content(layout) == DATA


@pytest.mark.parametrize("left", [1, BLOCK, BLOCK + 777, 4 * BLOCK])
def test_what_an_earlier_writer_left_is_hashed_and_gone_on_after(layout, left) -> None:
    (layout.root / ".partial").mkdir()
    (layout.root / ".partial" / "name").write_bytes(DATA[:left])
    looks = []
    with grow(layout) as growing:
        assert growing.on_disk() == left
        growing.rehash(lambda: looks.append(1))
        assert growing.length == growing.arrived == left
        assert len(looks) == -(-left // BLOCK)
        growing.write(DATA[left:])
        growing.flush()
        assert growing.digest == Digest.of(DATA)
    assert content(layout) == DATA


def test_a_restart_forgets_all(layout) -> None:
    with grow(layout) as growing:
        growing.write(bytes(3 * BLOCK + 5))
        growing.restart()
        assert (growing.length, growing.arrived, content(layout)) == (0, 0, b"")
        growing.write(DATA)
        growing.flush()
        assert growing.digest == Digest.of(DATA)
        assert content(layout) == DATA


def test_few_bytes_of_a_slow_server_are_written_soon(layout, monkeypatch) -> None:
    monkeypatch.setattr(partial, "LINGER", 0.05)
    with grow(layout) as growing:
        assert growing.write(b"a") == 0
        time.sleep(0.06)
        assert growing.write(b"b") == 2
        time.sleep(0.06)
        assert growing.took(0) == 0
        growing.room()[:1] = b"c"
        assert growing.took(1) in {0, 1}
        growing.flush()
        assert content(layout) == b"abc"


def test_no_thread_stays(layout) -> None:
    before = threading.active_count()
    with grow(layout) as growing:
        growing.write(DATA)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    with grow(layout) as growing:
        growing.write(b"few")
        growing.flush()
        assert threading.active_count() == before


def test_a_hasher_keeps_the_order_of_blocks_large_and_small() -> None:
    hasher, plain = Hasher(), hashlib.sha256()
    for size in (1, 1 << 20, 5, 1 << 20, 1 << 19, 0, 3, 1 << 18):
        block = os.urandom(size)
        hasher.update(memoryview(block))
        plain.update(block)
    assert hasher.digest().hex == plain.hexdigest()
    hasher.restart()
    hasher.update(memoryview(b"x"))
    assert hasher.digest() == Digest.of(b"x")
    hasher.close()
    hasher.close()


def test_blocks_may_have_another_size(layout) -> None:
    with hold(layout, "name", lambda: None, 4096) as growing:
        assert len(growing.room()) == 4096
        assert growing.write(DATA[:10_000]) == 8192
        growing.write(DATA[10_000:])
        growing.flush()
        assert growing.digest == Digest.of(DATA)
    assert content(layout) == DATA
