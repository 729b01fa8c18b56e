"""Progress as a person sees it: a real terminal, a slow server, bars for the whole and for each file; none where nobody watches."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from parts import httpd
from parts.cli import BIN, Desk

from audit.terminal import human, table


def on_a_terminal(desk: Desk, *arguments: str) -> str:
    """Run `airgap-bundle` with a pseudo-terminal as stderr and return what it showed there."""
    ours, theirs = pty.openpty()
    command = [BIN / "airgap-bundle", *arguments]
    process = subprocess.Popen(command, cwd=desk.folder, env=desk.env() | {"TERM": "xterm", "COLUMNS": "120"}, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = bytearray()
    while True:
        try:
            chunk = os.read(ours, 1 << 16)
        except OSError:  # the other end is gone
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_slow_build_shows_the_whole_and_each_file(desk: Desk) -> None:
    data = os.urandom(6 << 20)
    with httpd.Server() as server:
        sums = {name: hashlib.sha256(data + name.encode()).hexdigest() for name in ("one", "two")}
        urls = {name: server.serve(f"/{name}.bin", data + name.encode(), rate=2.5 * (1 << 20)) for name in sums}
        desk.bundle("lock", desk.write_intent(*(f"name: {n}, kind: url, url: '{urls[n]}', sha256: '{sums[n]}'" for n in sums)))
        shown = on_a_terminal(desk, "build", "bundle.lock.json", "--out", "out")
    assert "fetching 2 files" in shown
    assert "one/one.bin" in shown
    assert "two/two.bin" in shown
    assert "/12.0 MiB" in shown


def test_nothing_moves_where_stderr_is_no_terminal(desk: Desk) -> None:
    data = os.urandom(3 << 20)
    with httpd.Server() as server:
        url = server.serve("/a.bin", data, rate=2 * (1 << 20))
        desk.bundle("lock", desk.write_intent(f"name: a, kind: url, url: '{url}', sha256: '{hashlib.sha256(data).hexdigest()}'"))
        done = desk.bundle("build", "bundle.lock.json", "--out", "out", "--json")
    assert done.err == ""
    assert done.json["changed"] is True


@pytest.mark.parametrize(("count", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5.0 TiB")])
def test_human(count: int, text: str) -> None:
    assert human(count) == text


def test_table_aligns_and_leaves_no_blanks_at_the_end() -> None:
    assert table([("a", "1"), ("bbb", "22")], frozenset({1})) == "a     1\nbbb  22"
    assert table([]) == ""
