"""What a site remembers: it never goes back, is never half written, and damage is never taken for nothing remembered."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from parts import bundles, installs
from parts.expect import refused

from airgap_images.layout import exclusive
from airgap_images.oci import Digest
from audit.verify import state
from audit.verify.result import VerifiedBundle
from audit.verify.trust import Memory
from audit.verify.walk import Place, verify
from manifests import canonical
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
    assert kept == Memory(2, proven[2].digest.hex, NOW, 1, proven[2].policy_sha256) == state.load(tmp_path, bundles.STREAM)
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


def test_time_only_goes_forward(tmp_path, proven):
    later = NOW + timedelta(days=40)
    state.record(tmp_path, proven[1], later)
    kept = state.record(tmp_path, proven[2], NOW - timedelta(days=400))
    assert (kept.last_seen, kept.serial) == (later, 2)
    shown = state.record(tmp_path, replace(proven[2], verified_at=later + timedelta(days=1)), NOW)
    assert shown.last_seen == later + timedelta(days=1)


def test_an_older_policy_and_another_of_the_same_version_are_not_recorded(tmp_path, who, proven):
    newer = who.policy.changed(version=2, previous="a" * 64)
    state.record(tmp_path, proven[1], NOW)
    kept = state.record_policy(tmp_path, newer.to_bytes(), NOW)
    assert (kept.serial, kept.policy_version, kept.policy_sha256) == (1, 2, Digest.of(newer.to_bytes()).hex)
    before = (tmp_path / state.FILE).read_bytes()
    other = who.policy.changed(version=2, previous="b" * 64).to_bytes()
    for attempt, name in (
        (lambda: state.record(tmp_path, proven[2], NOW), "1.policy-rollback"),
        (lambda: state.record_policy(tmp_path, who.policy_raw, NOW), "1.policy-rollback"),
        (lambda: state.record_policy(tmp_path, who.policy_raw, NOW, pinned=True), "1.policy-rollback"),
        (lambda: state.record_policy(tmp_path, other, NOW), "1.policy-changed"),
    ):
        with pytest.raises(TrustError) as caught:
            attempt()
        assert caught.value.rule == name
    assert (tmp_path / state.FILE).read_bytes() == before
    assert state.record_policy(tmp_path, other, NOW, pinned=True).policy_sha256 == Digest.of(other).hex


def test_the_policy_in_force_is_kept_as_it_was_and_is_not_believed_when_changed(tmp_path, who, proven):
    kept = state.record(tmp_path, proven[1], NOW)
    path = tmp_path / state.POLICIES / f"{kept.policy_sha256}.json"
    assert state.policy(tmp_path, kept.policy_sha256) == path.read_bytes() == who.policy_raw
    assert path.parent.stat().st_mode & 0o777 == 0o755
    assert state.policy(tmp_path, None) is None
    path.chmod(0o644)
    path.write_bytes(who.policy_raw.replace(b"alice", b"mallo"))
    assert state.policy(tmp_path, kept.policy_sha256) is None
    state.record(tmp_path, proven[1], NOW)
    assert state.policy(tmp_path, kept.policy_sha256) == who.policy_raw
    path.unlink()
    path.symlink_to("/etc/hostname")
    assert state.policy(tmp_path, kept.policy_sha256) is None


def test_a_file_of_the_first_version_is_read_and_written_anew(tmp_path, proven):
    old = state.State(state_version=1, streams={bundles.STREAM: state.Stream(serial=1, root="a" * 64, last_seen="2026-11-20T00:00:00Z", policy_version=1)})
    content = old.model_dump(mode="json", by_alias=True)
    del content["streams"][bundles.STREAM]["policySha256"]
    seal = Digest.of(canonical.compact(content)).hex
    (tmp_path / state.FILE).write_bytes(canonical.readable({"content": content, "sha256": seal}))
    assert state.load(tmp_path, bundles.STREAM) == Memory(1, "a" * 64, NOW - timedelta(days=4, hours=12), 1)
    assert state.record(tmp_path, proven[2], NOW).policy_sha256 == proven[2].policy_sha256
    assert json.loads((tmp_path / state.FILE).read_text())["content"]["stateVersion"] == 2


def test_forgetting_is_of_one_stream_or_of_its_time_only(tmp_path, proven):
    state.record(tmp_path, proven[2], NOW + timedelta(days=900))
    other = replace(proven[1], statement=replace(proven[1].statement, stream="other"))
    kept = state.record(tmp_path, other, NOW)
    state.forget(tmp_path, bundles.STREAM, time=NOW)
    assert state.load(tmp_path, bundles.STREAM) == Memory(2, proven[2].digest.hex, NOW, 1, proven[2].policy_sha256)
    state.forget(tmp_path, bundles.STREAM)
    assert state.streams(tmp_path) == (("other", kept),)
    assert state.record(tmp_path, proven[1], NOW).serial == 1


def test_what_was_rebuilt_keeps_whatever_is_higher(tmp_path, proven):
    state.record(tmp_path, proven[2], NOW)
    found = Memory(1, "c" * 64, NOW + timedelta(days=1), 3, "d" * 64)
    assert state.restore(tmp_path, {bundles.STREAM: found, "new": found}) is None
    assert dict(state.streams(tmp_path)) == {
        bundles.STREAM: Memory(2, proven[2].digest.hex, NOW + timedelta(days=1), 3, "d" * 64), "new": found,
    }  # fmt: skip
    (tmp_path / state.FILE).write_bytes(b"{}")
    aside = state.restore(tmp_path, {"new": found})
    assert (tmp_path / aside).read_bytes() == b"{}"
    assert state.streams(tmp_path) == (("new", found),)


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
        assert "airgap-audit state recover" in caught.value.hint
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
    assert sorted(os.listdir(tmp_path)) == [state.LOCK, state.POLICIES, state.FILE]
    assert os.listdir(tmp_path / state.POLICIES) == [f"{proven[3].policy_sha256}.json"]


def test_killed_anywhere_a_policy_that_is_remembered_is_kept(tmp_path, who, proven):
    newer = who.policy.changed(version=2, previous=Digest.of(who.policy_raw).hex).to_bytes()
    state.record(tmp_path, proven[1], NOW)
    for at in range(1, 40):
        killed = installs.run_and_kill(lambda: state.record_policy(tmp_path, newer, NOW), at)
        memory = state.load(tmp_path, bundles.STREAM)
        assert memory.policy_version in {1, 2}
        assert state.policy(tmp_path, memory.policy_sha256) == (newer if memory.policy_version == 2 else who.policy_raw)
        if not killed:
            break
    assert at > 3
    assert memory.policy_version == 2


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


class Remembering(RuleBasedStateMachine):
    """Whatever is recorded in whatever order: serial, policy and time of a stream never go back, and what is refused changes nothing."""

    proven: ClassVar[dict[int, VerifiedBundle]]
    policies: ClassVar[list[bytes]]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="airgap-state-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        self.known = Memory()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def attempt(self, action, allowed: bool) -> None:
        before = (self.folder / state.FILE).read_bytes() if self.known != Memory() else b""
        try:
            found = action()
        except TrustError:
            assert not allowed
            assert not before or (self.folder / state.FILE).read_bytes() == before
            return
        assert allowed
        assert found == state.load(self.folder, bundles.STREAM)
        for value in ("serial", "last_seen", "policy_version"):
            old, new = getattr(self.known, value), getattr(found, value)
            assert old is None or new >= old
        assert state.policy(self.folder, found.policy_sha256) is not None
        self.known = found

    @rule(serial=st.integers(1, 3), version=st.integers(0, 2), days=st.integers(-50, 50))
    def install(self, serial, version, days):
        raw = self.policies[version]
        said = replace(self.proven[serial], policy_version=version + 1, policy_sha256=Digest.of(raw).hex, policy_raw=raw)
        used = self.known.policy_version or version + 1
        allowed = serial >= (self.known.serial or 0) and used <= version + 1 <= used + 1  # the same policy, or the one that follows it
        self.attempt(lambda: state.record(self.folder, said, NOW + timedelta(days=days)), allowed)

    @rule(version=st.integers(0, 2), days=st.integers(-50, 50), pinned=st.booleans())
    def accept(self, version, days, pinned):
        allowed = version + 1 >= (self.known.policy_version or 0)
        self.attempt(lambda: state.record_policy(self.folder, self.policies[version], NOW + timedelta(days=days), pinned=pinned), allowed)

    @rule(at=st.integers(1, 8), serial=st.integers(1, 3))
    def killed(self, at, serial):
        if serial < (self.known.serial or 0) or (self.known.policy_version or 1) > 1:
            return
        installs.run_and_kill(lambda: state.record(self.folder, self.proven[serial], NOW), at)
        found = state.load(self.folder, bundles.STREAM)
        assert found.serial in {self.known.serial, serial}
        self.known = found


def test_in_whatever_order_nothing_goes_back(who, proven):
    Remembering.proven = proven
    Remembering.policies = [who.policy_raw]
    for version in (2, 3):
        previous = Digest.of(Remembering.policies[-1]).hex
        Remembering.policies.append(who.policy.changed(version=version, previous=previous).to_bytes())
    run_state_machine_as_test(Remembering, settings=settings(max_examples=30, stateful_step_count=12, deadline=None))
