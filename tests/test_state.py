"""What a site remembers: it never goes back, is never half written, and damage is never taken for nothing remembered."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from parts import bundles, installs
from parts.expect import refused

from airgap_images.layout import exclusive
from audit.verify import state
from audit.verify.trust import Memory
from audit.verify.walk import Place, verify
from manifests.errors import IntegrityError, RefusedError, SiteError, TrustError

NOW = bundles.NOW


@pytest.fixture(scope="module")
def who(tmp_path_factory):
    return bundles.site(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def proven(who, tmp_path_factory):
    """Bundles of serial 1 to 3, proven."""
    folder = tmp_path_factory.mktemp("bundles")
    made = [bundles.signed(folder / str(serial), who, serial=serial, size=100) for serial in (1, 2, 3)]
    return {at: verify(Place.of(path), who.policy_raw, memory=Memory(), now=NOW) for at, path in enumerate(made, start=1)}


def test_a_site_without_a_file_remembers_nothing_and_says_so(tmp_path):
    memory = state.load(tmp_path, "any")
    assert memory == Memory()
    assert memory.fresh


def test_what_was_accepted_is_remembered_per_stream(tmp_path, proven):
    kept = state.record(tmp_path, proven[2], NOW)
    assert kept == Memory(2, proven[2].digest.hex, NOW, 1) == state.load(tmp_path, bundles.STREAM)
    assert not kept.fresh
    assert state.load(tmp_path, "another").fresh
    assert state.streams(tmp_path) == ((bundles.STREAM, kept),)


def test_another_stream_is_remembered_beside_the_first(tmp_path, proven):
    state.record(tmp_path, proven[2], NOW)
    other = replace(proven[1], statement=replace(proven[1].statement, stream="other"))
    state.record(tmp_path, other, NOW)
    assert [(name, memory.serial) for name, memory in state.streams(tmp_path)] == [("other", 1), (bundles.STREAM, 2)]


def test_an_older_serial_and_another_bundle_of_the_same_are_not_recorded(tmp_path, proven):
    state.record(tmp_path, proven[2], NOW)
    before = (tmp_path / state.FILE).read_bytes()
    with refused(TrustError, "serial: 1", "accepted 2"):
        state.record(tmp_path, proven[1], NOW)
    with refused(TrustError, "serial: 2", "another content"):
        state.record(tmp_path, replace(proven[2], digest=proven[1].digest), NOW)
    assert (tmp_path / state.FILE).read_bytes() == before


def test_time_and_policy_version_only_go_forward(tmp_path, proven):
    later = NOW + timedelta(days=40)
    state.record(tmp_path, replace(proven[1], policy_version=7), later)
    kept = state.record(tmp_path, replace(proven[2], policy_version=6), NOW - timedelta(days=400))
    assert (kept.last_seen, kept.policy_version, kept.serial) == (later, 7, 2)
    shown = state.record(tmp_path, replace(proven[2], verified_at=later + timedelta(days=1)), NOW)
    assert shown.last_seen == later + timedelta(days=1)


def test_verify_refuses_by_what_was_recorded(tmp_path, who, proven):
    state.record(tmp_path, proven[3], NOW)
    folder = bundles.signed(tmp_path / "old", who, serial=2, size=100)
    with pytest.raises(RefusedError, match="already accepted 3"):
        verify(Place.of(folder), who.policy_raw, memory=state.load(tmp_path, bundles.STREAM), now=NOW)


def _flip(raw: bytes) -> bytes:
    return raw.replace(b'"serial": 2', b'"serial": 1')


@pytest.mark.parametrize(
    "damage",
    [
        _flip,
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: b"{}",
        lambda raw: b"[]",
        lambda raw: b"\0" * len(raw),
        lambda raw: raw.replace(b'"sha256"', b'"sha512"'),
        lambda raw: raw + b" " * (2 << 20),
        lambda raw: json.dumps(json.loads(raw) | {"sha256": 3}).encode(),
    ],
)
def test_a_damaged_file_is_refused_with_what_it_means(tmp_path, proven, damage):
    state.record(tmp_path, proven[2], NOW)
    path = tmp_path / state.FILE
    changed = damage(path.read_bytes())
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    for attempt in (lambda: state.load(tmp_path, bundles.STREAM), lambda: state.record(tmp_path, proven[3], NOW)):
        with pytest.raises(IntegrityError) as caught:
            attempt()
        assert "restore it from a backup" in caught.value.hint
        assert "accepted whatever its serial" in caught.value.hint
    assert path.read_bytes() == changed


def test_a_link_or_a_folder_in_its_place_is_not_read(tmp_path, proven):
    elsewhere = tmp_path / "elsewhere"
    state.record(elsewhere, proven[1], NOW)
    (tmp_path / state.FILE).symlink_to(elsewhere / state.FILE)
    with refused(IntegrityError, "state.json", "symbolic link"):
        state.load(tmp_path, bundles.STREAM)
    (tmp_path / state.FILE).unlink()
    (tmp_path / state.FILE).mkdir()
    with refused(IntegrityError, "state.json", "not a regular file"):
        state.load(tmp_path, bundles.STREAM)


def test_removing_the_file_knowingly_begins_anew(tmp_path, proven):
    state.record(tmp_path, proven[3], NOW)
    (tmp_path / state.FILE).unlink()
    assert state.load(tmp_path, bundles.STREAM).fresh
    assert state.record(tmp_path, proven[1], NOW).serial == 1


def test_killed_anywhere_it_holds_the_old_or_the_new(tmp_path, proven):
    state.record(tmp_path, proven[1], NOW)
    for at in range(1, 40):
        killed = installs.run_and_kill(lambda: state.record(tmp_path, proven[2], NOW), at)
        assert state.load(tmp_path, bundles.STREAM).serial in {1, 2}
        if not killed:
            break
    else:
        pytest.fail("it never ran to its end")
    assert at > 3
    assert state.load(tmp_path, bundles.STREAM).serial == 2
    state.record(tmp_path, proven[3], NOW)
    assert sorted(os.listdir(tmp_path)) == [state.LOCK, state.FILE]


def test_of_many_writers_at_once_the_highest_serial_stays(tmp_path: Path, proven):
    def write(serial: int) -> None:
        while True:  # until nobody else is writing
            try:
                state.record(tmp_path, proven[serial], NOW)
            except SiteError:
                time.sleep(0.001)
                continue
            except TrustError:
                pass  # a higher one was faster
            return

    threads = [threading.Thread(target=write, args=(serial,)) for serial in (1, 2, 3, 1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state.load(tmp_path, bundles.STREAM).serial == 3


def test_while_another_process_writes_it_says_so(tmp_path, proven):
    with exclusive(tmp_path / state.LOCK, "it"), refused(SiteError, "state.json", "in use by another process"):
        state.record(tmp_path, proven[1], NOW)
