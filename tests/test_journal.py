"""The journal: nothing in it can be changed, removed or put in unseen by who keeps its head, and no kill loses a line silently."""

from __future__ import annotations

import json
import os
import resource
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts import bundles, installs
from parts.expect import refused

from airgap_images.oci import Digest
from audit import journal
from audit.journal import GENESIS, Head
from manifests import canonical
from manifests.errors import IntegrityError, SiteError

NOW = bundles.NOW


def write(folder, count=5):
    heads = [journal.append(folder, "install", "done", {"generation": str(at)}, now=NOW + timedelta(seconds=at)) for at in range(count)]
    return heads[-1]


def lines(folder):
    return (folder / journal.FILE).read_bytes().splitlines(keepends=True)


def test_no_journal_is_an_empty_one(tmp_path):
    assert journal.verify(tmp_path) == Head(0, GENESIS)
    assert list(journal.entries(tmp_path)) == []


def test_each_line_names_the_sha256_of_the_one_before(tmp_path):
    head = write(tmp_path)
    raw = lines(tmp_path)
    found = list(journal.entries(tmp_path))
    assert [entry.previous for entry in found] == [GENESIS, *(Digest.of(line).hex for line in raw[:-1])]
    assert [entry.sequence for entry in found] == [1, 2, 3, 4, 5]
    assert journal.verify(tmp_path) == head == Head(5, Digest.of(raw[-1]).hex)
    assert found[2].detail("generation") == "2"
    assert found[2].detail("other") is None
    assert all(canonical.compact(json.loads(line)) + b"\n" == line for line in raw)


def _edit(raw, at, old, new):
    assert old in raw[at]
    raw[at] = raw[at].replace(old, new)


@pytest.mark.parametrize(
    ("tamper", "line"),
    [
        (lambda raw: _edit(raw, 1, b'"generation":"1"', b'"generation":"9"'), "line 3"),
        (lambda raw: _edit(raw, 4, b'"sequence":5', b'"sequence":6'), "line 5"),
        (lambda raw: raw.pop(0), "line 1"),
        (lambda raw: raw.pop(2), "line 3"),
        (lambda raw: raw.insert(2, raw[1]), "line 3"),
        (lambda raw: raw.reverse(), "line 1"),
        (lambda raw: raw.insert(3, b"\n"), "line 4"),
        (lambda raw: raw.insert(5, b"x\n"), "line 6"),
        (lambda raw: _edit(raw, 2, b'","', b'", "'), "line 3"),
        (lambda raw: _edit(raw, 0, b'{"details"', b'{"more":1,"details"'), "line 1"),
        (lambda raw: raw.insert(5, b"{" + b" " * journal.MAX_LINE + b"}\n"), "line 6"),
        (lambda raw: raw.append(raw.pop()[:-1]), "line 5"),
        (lambda raw: raw.append(b"\0" * 100), "line 6"),
    ],
)
def test_any_change_is_found_and_named_by_its_line(tmp_path, tamper, line):
    write(tmp_path)
    raw = lines(tmp_path)
    tamper(raw)
    (tmp_path / journal.FILE).write_bytes(b"".join(raw))
    with refused(IntegrityError, f"journal.jsonl: {line}:"):
        journal.verify(tmp_path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_single_byte_changed_before_the_last_line_is_found(tmp_path, data):
    path = tmp_path / journal.FILE
    path.unlink(missing_ok=True)
    head = write(tmp_path, 3)
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    with pytest.raises(IntegrityError):
        assert journal.verify(tmp_path, head=head.sha256)


def test_a_head_noted_earlier_proves_that_lines_were_cut_off_or_written_anew(tmp_path):
    noted = write(tmp_path, 3)
    later = write(tmp_path, 2)
    assert journal.verify(tmp_path, head=noted.sha256) == later
    assert journal.verify(tmp_path, head=GENESIS) == later
    (tmp_path / journal.FILE).write_bytes(b"".join(lines(tmp_path)[:2]))
    assert journal.verify(tmp_path).count == 2  # nothing inside it can tell
    with refused(IntegrityError, "no line has the sha256", noted.sha256):
        journal.verify(tmp_path, head=noted.sha256)


@pytest.mark.parametrize("kept", [1, 20, -2, -1])
def test_a_line_cut_short_is_kept_aside_and_recorded(tmp_path, kept):
    head = write(tmp_path, 3)
    torn = lines(tmp_path)[1][:kept]
    with (tmp_path / journal.FILE).open("ab") as file:
        file.write(torn)
    with refused(IntegrityError, "line 4", "cut short"):
        journal.verify(tmp_path)
    assert journal.append(tmp_path, "install", "done", {}, now=NOW) == journal.verify(tmp_path, head=head.sha256)
    repaired, after = list(journal.entries(tmp_path))[3:]
    assert (repaired.operation, repaired.outcome, after.operation) == ("journal", "repaired", "install")
    assert (tmp_path / repaired.detail("files")).read_bytes() == torn
    journal.append(tmp_path, "install", "done", {}, now=NOW)
    assert [entry.operation for entry in journal.entries(tmp_path)].count("journal") == 1


def test_the_very_first_line_cut_short_is_kept_too(tmp_path):
    (tmp_path / journal.FILE).write_bytes(b'{"details":{},"op')
    journal.append(tmp_path, "install", "done", {}, now=NOW)
    assert [entry.operation for entry in journal.entries(tmp_path)] == ["journal", "install"]


def test_killed_anywhere_while_repairing_nothing_is_lost(tmp_path):
    for at in range(1, 60):
        folder = tmp_path / str(at)
        folder.mkdir()
        write(folder, 2)
        with (folder / journal.FILE).open("ab") as file:
            file.write(b'{"details":{"torn')
        killed = installs.run_and_kill(lambda folder=folder: journal.append(folder, "x", "done", {}, now=NOW), at)
        journal.append(folder, "x", "done", {}, now=NOW)
        found = list(journal.entries(folder))
        repaired = [entry for entry in found if entry.operation == "journal"]
        assert len(repaired) == 1, at
        assert (folder / repaired[0].detail("files")).read_bytes() == b'{"details":{"torn'
        if not killed:
            break
    assert at > 4


def test_the_record_of_a_repair_cut_short_itself_is_repaired_with_it(tmp_path):
    write(tmp_path, 1)
    with (tmp_path / journal.FILE).open("ab") as file:
        file.write(b"{first")
    journal.mend(tmp_path, now=NOW)
    raw = lines(tmp_path)
    (tmp_path / journal.FILE).write_bytes(raw[0] + raw[1][:30])  # killed while it wrote that record
    journal.mend(tmp_path, now=NOW)
    repaired = list(journal.entries(tmp_path))[-1]
    kept = {(tmp_path / name).read_bytes() for name in repaired.detail("files").split()}
    assert kept == {b"{first", raw[1][:30]}


def test_a_damaged_last_line_is_not_written_after(tmp_path):
    write(tmp_path, 2)
    with (tmp_path / journal.FILE).open("ab") as file:
        file.write(b"not ours\n")
    before = (tmp_path / journal.FILE).read_bytes()
    with refused(IntegrityError, "last line"):
        journal.append(tmp_path, "x", "done", {}, now=NOW)
    assert (tmp_path / journal.FILE).read_bytes() == before


def test_a_file_with_no_line_end_in_reach_is_not_taken_for_a_torn_line(tmp_path):
    (tmp_path / journal.FILE).write_bytes(b"x" * (3 * journal.MAX_LINE))
    with refused(IntegrityError, "does not end in a line"):
        journal.append(tmp_path, "x", "done", {}, now=NOW)


def test_details_are_bounded_and_cannot_break_the_form(tmp_path):
    hostile = '\n{"sequence":9}\r\x1b[31m\u2028' + "\N{GRINNING FACE}" * 10_000
    details = {f"key{at}": hostile for at in range(journal.MAX_DETAILS)}
    journal.append(tmp_path, "x", "done", details, now=NOW)
    (entry,) = journal.entries(tmp_path)
    assert len(lines(tmp_path)) == 1
    assert len(lines(tmp_path)[0]) <= journal.MAX_LINE
    assert all(len(value) == journal.MAX_TEXT and "\n" not in value and "\x1b" not in value for _, value in entry.details)


def test_a_link_in_its_place_is_neither_read_nor_written(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"")
    (tmp_path / journal.FILE).symlink_to(target)
    with refused(SiteError, "cannot write"):
        journal.append(tmp_path, "x", "done", {}, now=NOW)
    with refused(IntegrityError, "symbolic link"):
        journal.verify(tmp_path)
    assert target.read_bytes() == b""


def test_a_full_disk_is_said_and_leaves_a_journal_that_can_be_mended(tmp_path):
    write(tmp_path, 2)
    size = (tmp_path / journal.FILE).stat().st_size
    pid = os.fork()
    if pid == 0:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, size + 40))
        try:
            journal.append(tmp_path, "x", "done", {}, now=NOW)
        except SiteError as error:
            os._exit(0 if "cannot write" in error.message else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    journal.append(tmp_path, "x", "done", {}, now=NOW)
    assert [entry.operation for entry in journal.entries(tmp_path)] == ["install", "install", "journal", "x"]


def test_a_long_journal_is_read_in_constant_memory(tmp_path):
    import tracemalloc

    write(tmp_path, 1)
    details = {f"k{at}": "v" * 400 for at in range(20)}
    for _ in range(400):
        journal.append(tmp_path, "x", "done", details, now=NOW)
    assert (tmp_path / journal.FILE).stat().st_size > 3_000_000
    tracemalloc.start()
    journal.verify(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
