"""The fetch engine against a real server that misbehaves: resume, refusal, caches, disks, crashes, several processes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from parts import httpd

from airgap_images.layout import Layout
from airgap_images.oci import Digest
from airgap_images.remote.http import Client, HostToken, HttpError, Retry, TransferError
from bundler import fetch as engine
from bundler.fetch import Fetched, Silent, Want, fetch, fetch_unpinned
from bundler.partial import hold
from manifests.errors import IntegrityError, NetworkError, SiteError, UsageError

QUICK = Retry(attempts=3, first=0.01, ceiling=0.05)
MB = 1_000_000


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def server():
    with httpd.Server() as made:
        yield made


@pytest.fixture
def client() -> Client:
    return Client(retry=QUICK, connect_timeout=5, stall_timeout=1)


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout.create(tmp_path / "layout")


@dataclass
class Seen:
    """A watch that adds up what it is told."""

    total: int = 0
    files: int = 0
    open: dict[str, int] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    have: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, total: int, files: int) -> None:
        self.total, self.files = total, files

    def started(self, label: str, size: int, have: int) -> None:
        with self.lock:
            assert label not in self.open
            self.open[label] = size
            self.have.append(have)
            self.counted[label] = self.counted.get(label, 0) + have

    def moved(self, label: str, count: int) -> None:
        with self.lock:
            assert label in self.open
            self.counted[label] += count

    def retrying(self, label: str, reason: str, seconds: float) -> None:
        with self.lock:
            self.reasons.append(reason)
            self.pauses.append(seconds)

    def finished(self, label: str) -> None:
        with self.lock:
            self.open.pop(label, None)


def body(size: int, seed: int = 0) -> bytes:
    return (hashlib.sha256(str(seed).encode()).digest() * (size // 32 + 1))[:size]


def want(url: str, data: bytes, label: str = "file", **changes: object) -> Want:
    return replace(Want(url, Digest.of(data), len(data), label), **changes)


def stored(layout: Layout, data: bytes) -> bool:
    """Say whether the layout holds exactly this, read-only, and no unfinished file of it."""
    path = layout.path(Digest.of(data))
    return path.is_file() and path.read_bytes() == data and path.stat().st_mode & 0o777 == 0o444 and not unfinished(layout)


def unfinished(layout: Layout) -> list[str]:
    folder = layout.root / ".partial"
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("refused-")) if folder.is_dir() else []


def refused(layout: Layout, digest: Digest) -> bytes:
    return (layout.root / ".partial" / f"refused-{digest.hex}").read_bytes()


# --- the plain way


def test_several_files_arrive_whole_and_a_second_fetch_asks_nobody(server, client, layout, tmp_path) -> None:
    files = {f"/{at}": body(at * 700_001, at) for at in range(6)}  # one of them empty
    wants = [want(server.serve(path, data), data, f"c{path}") for path, data in files.items()]
    seen = Seen()
    assert fetch(wants, layout, client, folder=tmp_path, watch=seen) == Fetched(files=6, bytes=15 * 700_001)
    assert all(stored(layout, data) for data in files.values())
    assert (seen.total, seen.files, sum(seen.counted.values()), seen.open) == (15 * 700_001, 6, 15 * 700_001, {})
    asked = len(server.requests)
    assert fetch(wants, layout, client, folder=tmp_path) == Fetched(files=6, present=6)
    assert len(server.requests) == asked


def test_several_files_are_under_way_at_once(server, client, layout, tmp_path) -> None:
    files = {f"/{at}": body(100_000, at) for at in range(4)}
    wants = [want(server.serve(path, data, rate=200_000), data, path) for path, data in files.items()]
    begun = time.monotonic()
    fetch(wants, layout, client, folder=tmp_path, jobs=4)
    assert time.monotonic() - begun < 1.5  # half a second each


def test_one_digest_is_fetched_once_and_labels_are_distinct(server, client, layout, tmp_path) -> None:
    one, two = body(1000, 1), body(1000, 2)
    url = server.serve("/a", one)
    wants = [want(url, one), want(url, one, "again"), want(server.serve("/b", one), one), want(server.serve("/c", two), two)]
    seen = Seen()
    assert fetch(wants, layout, client, folder=tmp_path, watch=seen) == Fetched(files=2, bytes=2000)
    assert len(server.requests) == 2
    assert set(seen.counted) == {"file", "file (2)"}


def test_one_digest_with_two_sizes_is_refused(client, layout, tmp_path) -> None:
    data = body(10)
    with pytest.raises(IntegrityError, match="two sizes"):
        fetch([want("http://h/a", data), want("http://h/a", data, size=11)], layout, client, folder=tmp_path)


def test_nothing_to_fetch_is_fine(client, layout, tmp_path) -> None:
    assert fetch([], layout, client, folder=tmp_path) == Fetched()


def test_credentials_go_with_their_file(server, client, layout, tmp_path) -> None:
    data = body(1000)
    url = server.serve("/a", data, authorization="Bearer t")
    with pytest.raises(HttpError, match="401"):
        fetch([want(url, data)], layout, client, folder=tmp_path)
    assert unfinished(layout) == []
    fetch([want(url, data, credentials=HostToken(server.origin, "t"))], layout, client, folder=tmp_path)
    assert stored(layout, data)


# --- drops, and going on


def test_a_link_that_drops_every_few_bytes_progresses(server, client, layout, tmp_path) -> None:
    data = body(5 * MB)
    url = server.serve("/a", data, drop_after=300_000)
    seen = Seen()
    done = fetch([want(url, data)], layout, client, folder=tmp_path, watch=seen)
    assert done == Fetched(files=1, bytes=5 * MB)
    assert stored(layout, data)
    assert server.sent("/a") == 5 * MB  # no byte twice
    assert len(server.requests) == 17  # many more than the attempts a retry has
    assert len(seen.reasons) == 16
    assert seen.counted == {"file": 5 * MB}


def test_a_server_that_delivers_nothing_is_given_up(server, client, layout, tmp_path) -> None:
    data = body(1000)
    url = server.serve("/a", data, drop_after=0)
    with pytest.raises(TransferError):
        fetch([want(url, data)], layout, client, folder=tmp_path)
    assert len(server.requests) == 3


def test_a_stall_is_left_and_gone_on_after(server, client, layout, tmp_path) -> None:
    data = body(400_000)
    route = httpd.Route(body=data, drop_after=100_000, drops=1)
    server.routes["/a"] = route

    class Moody(Silent):
        def retrying(self, label: str, reason: str, seconds: float) -> None:
            route.stall_after = 0 if len(server.requests) == 1 else None

    fetch([want(f"{server.origin}/a", data)], layout, client, folder=tmp_path, watch=Moody())
    assert stored(layout, data)
    assert [request.headers.get("range") for request in server.requests] == [None, "bytes=100000-", "bytes=100000-"]


def test_a_server_without_ranges_is_read_again_and_nothing_is_written_twice(server, client, layout, tmp_path) -> None:
    data = body(2 * MB)
    url = server.serve("/a", data, ranges=False, drop_after=1_300_000, drops=1)
    seen = Seen()
    done = fetch([want(url, data)], layout, client, folder=tmp_path, watch=seen)
    assert stored(layout, data)
    assert done.bytes == 3_300_000
    assert seen.counted == {"file": 2 * MB}


@pytest.mark.parametrize("wrong", ["bytes 7-1999999/2000000", "bytes 1300001-1999999/2000000", "bytes 1300000-1999999/2000001", "rubbish"])
def test_a_wrong_content_range_is_not_believed(server, client, layout, tmp_path, wrong) -> None:
    data = body(2 * MB)
    url = server.serve("/a", data, drop_after=1_300_000, drops=1, content_range=wrong)
    fetch([want(url, data)], layout, client, folder=tmp_path)
    assert stored(layout, data)
    assert "range" not in server.requests[-1].headers


def test_a_part_that_was_not_asked_for_ends(server, client, layout, tmp_path) -> None:
    data = body(1000)
    server.routes["/a"] = httpd.Route(answer=lambda _: (206, {"Content-Range": "bytes 10-999/1000"}, data[10:]))
    with pytest.raises(TransferError, match="not asked for"):
        fetch([want(f"{server.origin}/a", data)], layout, client, folder=tmp_path)
    assert len(server.requests) == 2


def test_429_and_503_are_waited_for(server, client, layout, tmp_path) -> None:
    data = body(1000)
    url = server.serve("/a", data, first=[(503, {}), (429, {"Retry-After": "1"})])
    seen = Seen()
    begun = time.monotonic()
    fetch([want(url, data)], layout, client, folder=tmp_path, watch=seen)
    assert time.monotonic() - begun >= 1
    assert [("503" in seen.reasons[0]), ("429" in seen.reasons[1]), seen.pauses[1] >= 1] == [True, True, True]


def test_a_range_beyond_the_end_is_asked_from_the_start(server, client, layout, tmp_path) -> None:
    data = body(1000)
    server.routes["/a"] = httpd.Route(body=data[:400], framing="close")
    with pytest.raises(IntegrityError, match="ends after 400 of 1000"):
        fetch([want(f"{server.origin}/a", data)], layout, client, folder=tmp_path)
    assert refused(layout, Digest.of(data)) == data[:400]


# --- wrong bytes


def test_a_wrong_digest_is_refused_and_kept_aside(server, client, layout, tmp_path) -> None:
    data, other = body(MB), body(MB, 1)
    url = server.serve("/a", other)
    with pytest.raises(IntegrityError, match=Digest.of(other).hex) as caught:
        fetch([want(f"{url}?secret", data)], layout, client, folder=tmp_path)
    assert str(layout.root / ".partial" / f"refused-{Digest.of(data).hex}") in str(caught.value)
    assert "secret" not in str(caught.value)
    assert refused(layout, Digest.of(data)) == other
    assert not layout.path(Digest.of(data)).exists()
    assert len(server.requests) == 1  # what is wrong is not fetched again
    server.serve("/a", data)
    fetch([want(url, data)], layout, client, folder=tmp_path)
    assert stored(layout, data)


@pytest.mark.parametrize("size", [0, 999, 1001, 40 * MB])
def test_a_wrong_announced_size_is_refused_with_a_sample(server, client, layout, tmp_path, size) -> None:
    data = body(1000)
    url = server.serve("/a", httpd.Pattern(size))
    with pytest.raises(IntegrityError, match=f"announces {size} bytes, expected 1000"):
        fetch([want(url, data)], layout, client, folder=tmp_path)
    assert refused(layout, Digest.of(data)) == httpd.Pattern(size)[: 1 << 20]
    assert server.sent("/a") < 20 * MB


@pytest.mark.parametrize("faults", [{"framing": "chunked"}, {"framing": "close"}, {"endless": True}])
def test_more_bytes_than_pinned_are_never_written(server, client, layout, tmp_path, faults) -> None:
    data = body(MB)
    url = server.serve("/a", data + b"more" * MB, **faults)
    with pytest.raises(IntegrityError, match="more than the expected 1000000 bytes"):
        fetch([want(url, data)], layout, client, folder=tmp_path)
    assert refused(layout, Digest.of(data)) == data
    assert len(server.requests) == 1


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_fewer_bytes_than_pinned_are_refused(server, client, layout, tmp_path, framing) -> None:
    data = body(1000)
    url = server.serve("/a", data[:999], framing=framing, ranges=False)
    with pytest.raises(IntegrityError, match="after 999 of 1000"):
        fetch([want(url, data)], layout, client, folder=tmp_path)
    assert refused(layout, Digest.of(data)) == data[:999]


def test_the_next_address_is_tried(server, client, layout, tmp_path) -> None:
    data = body(MB)
    urls = [
        f"{server.origin}/absent",
        server.serve("/wrong", body(MB, 1)),
        server.serve("/short", data[:500], framing="chunked"),
        server.serve("/cut", data, drop_after=400_000, drops=1),
        server.serve("/never", data),
    ]
    seen = Seen()
    fetch([want(url, data) for url in urls], layout, client, folder=tmp_path, watch=seen)
    assert stored(layout, data)
    assert not server.seen("/never")
    assert seen.counted == {"file": MB}


def test_a_server_that_dies_half_way_is_gone_on_from_at_another(server, layout, tmp_path) -> None:
    data = body(MB)
    first = server.serve("/a", data, drop_after=400_000, ranges=False)  # it never gives more
    second = server.serve("/b", data)
    done = fetch([want(first, data), want(second, data)], layout, Client(retry=QUICK), folder=tmp_path)
    assert stored(layout, data)
    assert server.seen("/b")[0].headers["range"] == "bytes=400000-"
    assert done == Fetched(files=1, bytes=600_000, resumed=400_000)


def test_one_failure_lets_those_under_way_finish_and_begins_no_other(server, client, layout, tmp_path) -> None:
    slow = body(300_000)
    wants = [want(server.serve("/slow", slow, rate=500_000), slow, "slow")]
    wants += [want(f"{server.origin}/no{at}", body(100, at)) for at in range(5)]
    with pytest.raises(HttpError, match=r"404.*\(4 not begun\)$"):
        fetch(wants, layout, client, folder=tmp_path, jobs=2)
    assert stored(layout, slow)
    assert len(server.requests) == 2


def test_distrust_is_told_before_trouble(server, client, layout, tmp_path) -> None:
    data = body(1000)
    wrong = server.serve("/wrong", body(1000, 1), rate=800)
    with pytest.raises(IntegrityError, match="1 more failed"):
        fetch([want(wrong, data, "wrong"), want(f"{server.origin}/absent", body(10), "absent")], layout, client, folder=tmp_path)


# --- local files and caches


def test_local_files_are_copied_or_linked(client, layout, tmp_path) -> None:
    one, two = body(3 * MB), body(10, 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a b%20c").write_bytes(one)
    (tmp_path / "abs").write_bytes(two)
    seen = Seen()
    wants = [want("file:in/a b%20c", one, "one"), want(f"file:{tmp_path}/abs", two, "two")]
    assert fetch(wants, layout, client, folder=tmp_path, watch=seen) == Fetched(files=2, local=2)
    assert stored(layout, one)
    assert layout.path(Digest.of(one)).stat().st_ino != (tmp_path / "in" / "a b%20c").stat().st_ino
    assert seen.counted == {"one": 3 * MB, "two": 10}
    linked = Layout.create(tmp_path / "linked")
    fetch(wants, linked, client, folder=tmp_path, link=True)
    assert linked.path(Digest.of(one)).stat().st_ino == (tmp_path / "in" / "a b%20c").stat().st_ino


@pytest.mark.parametrize("change", [(b"short", "5 bytes, expected 1000"), (body(1000, 1), "is not what was pinned")])
@pytest.mark.parametrize("link", [False, True])
def test_a_local_file_that_changed_is_refused(client, layout, tmp_path, change, link) -> None:
    (tmp_path / "a").write_bytes(change[0])
    with pytest.raises(IntegrityError, match=change[1]) as caught:
        fetch([want("file:a", body(1000))], layout, client, folder=tmp_path, link=link)
    assert "lock again" in caught.value.hint
    assert list(layout.blobs()) == []
    assert unfinished(layout) == []


def test_a_local_file_that_is_gone_or_a_link_is_refused(client, layout, tmp_path) -> None:
    data = body(10)
    with pytest.raises(UsageError, match="missing"):
        fetch([want("file:a", data)], layout, client, folder=tmp_path)
    (tmp_path / "real").write_bytes(data)
    (tmp_path / "a").symlink_to("real")
    with pytest.raises(IntegrityError, match="symbolic link"):
        fetch([want("file:a", data)], layout, client, folder=tmp_path)


def test_caches_are_linked_and_hashed(server, client, layout, tmp_path) -> None:
    data, bad = body(MB), body(MB, 1)
    empty, cache = Layout.create(tmp_path / "empty"), Layout.create(tmp_path / "cache")
    cache.put(data)
    cache.put(bad)
    path = cache.path(Digest.of(bad))
    path.chmod(0o644)
    path.write_bytes(body(MB, 2))  # damaged, the size kept
    wants = [want(server.serve("/good", data), data, "good"), want(server.serve("/bad", bad), bad, "bad")]
    seen = Seen()
    done = fetch(wants, layout, client, folder=tmp_path, caches=(empty, cache), watch=seen)
    assert done == Fetched(files=2, bytes=MB, local=1)
    assert not server.seen("/good")
    assert layout.path(Digest.of(data)).stat().st_ino == cache.path(Digest.of(data)).stat().st_ino
    assert stored(layout, bad)
    assert seen.counted == {"good": MB, "bad": MB}


# --- the disk


@contextmanager
def small_disk(folder: Path, size: str):
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False, capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_too_small_is_told_before_the_first_byte(server, client, layout, tmp_path) -> None:
    disk = os.statvfs(layout.root)
    free = disk.f_bavail * disk.f_frsize
    huge = Want(server.serve("/a", b""), Digest.of(b"x"), 2 * free, "huge")
    with pytest.raises(SiteError, match="bytes are missing"):
        fetch([huge], layout, client, folder=tmp_path)
    assert server.requests == []


def test_bytes_that_are_on_the_disk_already_are_not_needed_again(client, tmp_path, server) -> None:
    data = body(20 * MB)
    (tmp_path / "a").write_bytes(data)
    with small_disk(tmp_path / "disk", "90m") as disk:
        layout = Layout.create(disk / "layout")
        with pytest.raises(SiteError, match="bytes are missing"):
            fetch([want(server.serve("/a", data), data), want("file:a", body(10 * MB, 2))], layout, client, folder=tmp_path)
        (layout.root / ".partial").mkdir()
        (layout.root / ".partial" / Digest.of(data).hex).write_bytes(data[: 19 * MB])
        fetch([want(server.serve("/a", data), data)], layout, client, folder=tmp_path)
        assert stored(layout, data)


def test_a_disk_that_fills_up_keeps_what_arrived(server, client, tmp_path, monkeypatch) -> None:
    data = body(8 * MB)
    url = server.serve("/a", data)
    monkeypatch.setattr(engine, "MARGIN", -1 << 40)  # as if another program took the space after the look at it
    with small_disk(tmp_path / "disk", "4m") as disk:
        layout = Layout.create(disk / "layout")
        with pytest.raises(SiteError, match="No space left"):
            fetch([want(url, data)], layout, client, folder=tmp_path)
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        kept = (layout.root / ".partial" / Digest.of(data).hex).stat().st_size
        assert kept > MB
        done = fetch([want(url, data)], layout, client, folder=tmp_path)
        assert (done.resumed, done.bytes) == (kept, 8 * MB - kept)
        assert stored(layout, data)


# --- crashes, and several processes

# VmHWM and not getrusage: ru_maxrss of a child starts at what the forking parent had.
SCRIPT = """
import json, re, sys
from pathlib import Path
from airgap_images.remote.http import Client, Retry
from airgap_images.layout import Layout
from airgap_images.oci import Digest
from bundler.fetch import Want, fetch
url, hexadecimal, size, root, jobs = sys.argv[1:]
layout = Layout.create(Path(root))
done = fetch([Want(url, Digest(hexadecimal), int(size), "a")], layout, Client(retry=Retry(first=0.05)), folder=Path(root), jobs=int(jobs))
print(json.dumps({"bytes": done.bytes, "present": done.present, "resumed": done.resumed,
                  "memory": int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024}))
"""


def start(url: str, digest: Digest, size: int, layout: Layout) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, url, digest.hex, str(size), str(layout.root), "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, int]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_fetch_goes_on_where_it_was(server, layout, how) -> None:
    data = body(8 * MB)
    route = httpd.Route(body=data, rate=8 * MB)
    server.routes["/a"] = route
    process = start(f"{server.origin}/a", Digest.of(data), len(data), layout)
    path = layout.root / ".partial" / Digest.of(data).hex
    until = time.monotonic() + 30
    while (not path.exists() or path.stat().st_size < 3 * MB) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(how)
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    kept = path.stat().st_size
    assert 3 * MB <= kept < len(data), err
    route.rate = None
    done = result(start(f"{server.origin}/a", Digest.of(data), len(data), layout))
    assert stored(layout, data)
    assert (done["resumed"], done["bytes"]) == (kept, len(data) - kept)
    assert server.requests[-1].sent == len(data) - kept
    assert server.sent("/a") - len(data) < 2 * MB  # only what was in flight came twice


def test_wrong_bytes_left_by_a_crash_do_not_stay(server, client, layout, tmp_path) -> None:
    data = body(MB)
    (layout.root / ".partial").mkdir()
    for left in (bytes(400_000), bytes(MB), bytes(2 * MB)):  # as after a power cut: holes; the whole size; too much
        (layout.root / ".partial" / Digest.of(data).hex).write_bytes(left)
        seen = Seen()
        fetch([want(server.serve("/a", data), data)], layout, client, folder=tmp_path, watch=seen)
        assert stored(layout, data)
        assert seen.counted == {"file": MB}
        layout.path(Digest.of(data)).unlink()


def test_a_whole_file_left_by_a_crash_is_not_fetched(server, client, layout, tmp_path) -> None:
    data = body(MB)
    (layout.root / ".partial").mkdir()
    (layout.root / ".partial" / Digest.of(data).hex).write_bytes(data)
    assert fetch([want(server.serve("/a", data), data)], layout, client, folder=tmp_path).resumed == MB
    assert stored(layout, data)
    assert server.requests == []


def test_two_processes_fetch_one_file_once(server, layout) -> None:
    data = body(3 * MB)
    url = server.serve("/a", data, rate=3 * MB)
    processes = [start(url, Digest.of(data), len(data), layout) for _ in range(2)]
    done = [result(process) for process in processes]
    assert stored(layout, data)
    assert sorted((part["bytes"], part["present"]) for part in done) == [(0, 1), (3 * MB, 0)]
    assert server.sent("/a") == 3 * MB


def test_a_process_takes_over_from_one_that_died(server, layout) -> None:
    data = body(3 * MB)
    route = httpd.Route(body=data, rate=2 * MB)
    server.routes["/a"] = route
    first, second = (start(f"{server.origin}/a", Digest.of(data), len(data), layout) for _ in range(2))
    path = layout.root / ".partial" / Digest.of(data).hex
    while not path.exists() or path.stat().st_size < MB:
        time.sleep(0.01)
    first.kill()
    first.communicate()
    result(second)
    assert stored(layout, data)


def test_a_file_that_was_finished_between_opening_and_locking_is_let_go(layout, monkeypatch) -> None:
    path = layout.root / ".partial" / "name"
    lock = fcntl.flock

    def late(fd: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        path.rename(layout.root / "finished")
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with hold(layout, "name", lambda: None) as growing:
        growing.write(b"x")
        growing.flush()
    assert path.read_bytes() == b"x"
    assert (layout.root / "finished").read_bytes() == b""


def test_short_writes_are_completed(server, client, layout, tmp_path, monkeypatch) -> None:
    data = body(3 * MB)
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, data[:4096], offset))
    fetch([want(server.serve("/a", data), data)], layout, client, folder=tmp_path)
    assert stored(layout, data)


def test_memory_is_flat(server, layout) -> None:
    size = 300 * MB
    digest = hashlib.sha256()
    pattern = httpd.Pattern(size)
    for at in range(0, size, 1 << 20):
        digest.update(pattern[at : min(size, at + (1 << 20))])
    done = result(start(server.serve("/a", pattern), Digest(digest.hexdigest()), size, layout))
    assert done["bytes"] == size
    assert done["memory"] < 100 * MB


@pytest.mark.parametrize(("jobs", "block"), [(1, 4 << 20), (8, 4 << 20), (9, 2 << 20), (16, 2 << 20), (64, 512 << 10), (5000, 256 << 10)])
def test_the_blocks_of_all_files_fit_the_memory_for_them(jobs, block) -> None:
    assert engine._block(jobs) == block


def test_an_end_from_outside_wakes_those_that_wait(server, layout, tmp_path) -> None:
    data = body(1000)
    url = server.serve("/a", data, first=[(503, {"Retry-After": "60"})])
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetch([want(url, data)], layout, Client(), folder=tmp_path)
    assert time.monotonic() - begun < 5


# --- files that nobody pinned


def test_an_unpinned_file_is_hashed_and_kept(server, client, layout) -> None:
    data = body(2 * MB)
    url = server.serve("/a", data)
    seen = Seen()
    assert fetch_unpinned(client, url, layout, credentials=engine.NoCredentials(), label="a", watch=seen) == (Digest.of(data), 2 * MB)
    assert stored(layout, data)
    assert seen.counted == {"a": 2 * MB}


def unpinned(client: Client, url: str, layout: Layout, **more: int) -> tuple[Digest, int]:
    return fetch_unpinned(client, url, layout, credentials=engine.NoCredentials(), label="a", watch=Silent(), **more)


def test_an_unpinned_file_goes_on_only_under_the_same_tag(server, client, layout) -> None:
    data = body(2 * MB)
    url = server.serve("/tag", data, drop_after=700_000, headers={"ETag": '"one"'})
    assert unpinned(client, url, layout)[0] == Digest.of(data)
    assert server.sent("/tag") == 2 * MB
    assert server.requests[-1].headers["if-range"] == '"one"'
    for headers in ({}, {"ETag": 'W/"weak"'}):
        url = server.serve("/no", data, drop_after=700_000, drops=1, headers=headers)
        assert unpinned(client, url, layout)[0] == Digest.of(data)
        assert "range" not in server.requests[-1].headers


def test_an_unpinned_file_that_changes_between_two_attempts_is_one_of_them(server, client, layout) -> None:
    old, new = body(2 * MB, 1), body(2 * MB, 2)
    route = httpd.Route(body=old, drop_after=700_000, drops=1, headers={"ETag": '"old"'})
    server.routes["/a"] = route

    class Changing(Silent):
        def retrying(self, label: str, reason: str, seconds: float) -> None:
            route.body, route.headers = new, {"ETag": '"new"'}

    url = f"{server.origin}/a"
    got = fetch_unpinned(client, url, layout, credentials=engine.NoCredentials(), label="a", watch=Changing())
    assert got == (Digest.of(new), 2 * MB)
    assert stored(layout, new)


def test_an_unpinned_file_that_shrinks_between_two_attempts_has_no_tail(server, client, layout) -> None:
    new = body(1000, 2)
    route = httpd.Route(body=body(2 * MB, 1), drop_after=700_000, drops=1)
    server.routes["/a"] = route

    class Changing(Silent):
        def retrying(self, label: str, reason: str, seconds: float) -> None:
            route.body = new

    url = f"{server.origin}/a"
    got = fetch_unpinned(client, url, layout, credentials=engine.NoCredentials(), label="a", watch=Changing())
    assert got == (Digest.of(new), 1000)
    assert stored(layout, new)


@pytest.mark.parametrize("faults", [{}, {"framing": "chunked"}])
def test_an_unpinned_file_is_bounded(server, client, layout, faults) -> None:
    url = server.serve("/a", httpd.Pattern(50 * MB), **faults)
    with pytest.raises(IntegrityError, match="larger than 1000000 bytes"):
        unpinned(client, url, layout, limit=MB)
    assert list(layout.blobs()) == []


def test_an_unpinned_file_without_an_end_is_refused(server, client, layout) -> None:
    with pytest.raises(TransferError, match="where the file ends"):
        unpinned(client, server.serve("/a", body(1000), framing="close"), layout)
    data = body(1000)
    assert unpinned(client, server.serve("/b", data, framing="chunked"), layout) == (Digest.of(data), 1000)


def test_an_unpinned_file_larger_than_the_disk_is_refused(server, client, layout) -> None:
    url = server.serve("/a", httpd.Pattern(1 << 41))
    with pytest.raises(SiteError, match="bytes are missing"):
        unpinned(client, url, layout)


def test_an_unpinned_file_that_fails_is_given_up(server, client, layout) -> None:
    with pytest.raises(NetworkError):
        unpinned(client, server.serve("/a", body(1000), drop_after=0), layout)
    assert list(layout.blobs()) == []
