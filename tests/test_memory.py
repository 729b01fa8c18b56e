"""What a site remembers, by the commands as operators use them: what is refused for it, how the next policy comes, the ways on after a loss."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from parts import bundles, cli, installs
from parts.expect import refused

from audit import journal
from audit.install import memory, undo
from audit.install.history import history
from audit.install.install import install
from audit.install.store import Store
from audit.verify import pinned, state
from audit.verify.pinned import Presented
from audit.verify.trust import Memory
from audit.verify.walk import Place
from bundler.policies import edit, signing
from manifests import canonical
from manifests.errors import AirgapError, IntegrityError, RefusedError, TrustError, UsageError
from manifests.policy import Policy, first_policy, signer_entry
from manifests.site import Site

NOW = bundles.NOW
STREAM = bundles.STREAM
PEOPLE = ("alice", "bob", "carol")


@dataclass(frozen=True)
class Team:
    """A folder with the keys of alice, bob and carol, two of whom decide, bundles of serial 1 to 3 by alice and bob, and both programs."""

    folder: Path
    who: bundles.Site

    @property
    def desk(self) -> cli.Desk:
        return cli.Desk(self.folder)

    @property
    def store(self) -> Store:
        return Store.create(self.folder / "store")

    def audit(self, *arguments: str, now: datetime | None = NOW, code: int = 0) -> cli.Done:
        when = ("--now", canonical.stamp(now)) if now else ()
        return self.desk.audit(*arguments, *when, code=code)

    def verify(self, bundle: str, policy: str = "p1.json", *, now: datetime = NOW, code: int = 0) -> cli.Done:
        return self.audit("verify", bundle, "--policy", policy, "--state", "store", now=now, code=code)

    def install(self, bundle: str, policy: str = "p1.json", *, now: datetime = NOW, code: int = 0) -> cli.Done:
        return self.audit("install", bundle, "--policy", policy, "--store", "store", now=now, code=code)

    def accept(self, policy: str, *more: str, now: datetime = NOW, code: int = 0) -> cli.Done:
        return self.audit("policy", "accept", policy, "--store", "store", *more, now=now, code=code)

    def put(self, name: str, policy: Policy, *signers: str) -> Path:
        """Write a policy and its signatures."""
        path = self.folder / name
        path.write_bytes(policy.to_bytes())
        shutil.rmtree(pinned.signatures_folder(path), ignore_errors=True)
        for signer in signers:
            signing.sign(path, self.who.key(signer), NOW)
        return path

    def next(self, name: str, before: str, *signers: str, **fields: object) -> Path:
        made = edit.rotated(pinned.read(self.folder / before), NOW + timedelta(days=500))
        return self.put(name, made.changed(**fields) if fields else made, *signers)

    def started(self, serial: int = 1) -> None:
        """Install a bundle in this process."""
        place, policy = Place.of(self.folder / f"bundle-{serial}"), pinned.read(self.folder / "p1.json")
        install(place, policy.raw, Site(store=self.folder / "store"), now=NOW)

    def lose(self) -> None:
        (self.folder / "store" / state.FILE).unlink()


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Team:
    folder = tmp_path_factory.mktemp("team")
    who = bundles.site(folder)
    people = {name: signer_entry((folder / f"{name}.pub").read_text()) for name in PEOPLE}
    who = replace(who, policy=first_policy(STREAM, people, threshold=2, expires=NOW + timedelta(days=365)))
    (folder / "p1.json").write_bytes(who.policy_raw)
    for serial in (1, 2, 3):
        bundles.signed(folder / f"bundle-{serial}", who, serial=serial, size=100)
    return Team(folder, who)


@pytest.fixture
def team(original: Team, tmp_path: Path) -> Team:
    shutil.copytree(original.folder, tmp_path / "t")
    return Team(tmp_path / "t", replace(original.who, folder=tmp_path / "t"))


def rules(error: AirgapError) -> list[str | None]:
    return [failure.rule for failure in error.failures] if isinstance(error, RefusedError) else [error.rule]


# Acceptance 4: older, another of the same serial, expired, from the future, a clock set back; and after a lost state


def test_what_is_older_than_what_was_accepted_is_refused_and_after_a_loss_the_operator_is_told_the_ways_on(team: Team):
    team.install("bundle-2")
    bundles.signed(team.folder / "other-2", team.who, serial=2, size=101)
    for bundle, now, words in (
        ("bundle-1", NOW, "serial: 1, this site has already accepted 2"),
        ("other-2", NOW, "serial: 2 was accepted before with another content"),
        ("bundle-3", NOW + timedelta(days=91), "expires: 2027-02-22T12:00:00Z has passed"),
        ("bundle-3", NOW - timedelta(days=2), "clock: this machine says 2026-11-22T12:00:00Z, this site has seen 2026-11-24T12:00:00Z"),
    ):
        assert words in team.verify(bundle, now=now, code=3).err
        assert words in team.install(bundle, now=now, code=3).err
    early = team.audit("verify", "bundle-3", "--policy", "p1.json", now=NOW - timedelta(days=2), code=3).err
    assert "created: 2026-11-24T12:00:00Z is after now" in early

    team.lose()
    for done in (
        team.install("bundle-3", code=3),
        team.verify("bundle-3", code=3),
        team.audit("verify", "store", "--policy", "p1.json", code=3),
        team.accept("p1.json", code=3),
    ):
        assert f"remembers nothing, and serial 2, policy version 1 was accepted of stream '{STREAM}'" in done.err
        for way in ("Restore it from a backup", "airgap-audit state recover", "airgap-audit state forget STREAM --reason TEXT"):
            assert way in done.err
    shown = team.desk.audit("state", "show", "--store", "store", code=3).out
    assert "LOST" in shown

    told = team.audit("state", "recover", "--store", "store").out
    assert "rebuilt from journal and receipts" in told
    assert "serial 2" in told
    assert "not known:" in told
    assert "already accepted 2" in team.verify("bundle-1", code=3).err
    team.verify("bundle-3")

    team.lose()
    team.audit("state", "forget", STREAM, "--store", "store", "--reason", "the disk died and the signers agreed")
    team.install("bundle-1")
    last = [json.loads(line) for line in (team.folder / "store" / journal.FILE).read_text().splitlines()]
    assert [line["details"]["reason"] for line in last if line["outcome"] == "forgotten"] == ["the disk died and the signers agreed"]


def test_a_clock_that_was_wrong_once_is_forgotten_and_nothing_else(team: Team):
    team.install("bundle-2", now=NOW + timedelta(days=80))
    assert "set this machine's clock" in team.verify("bundle-3", code=3).err
    assert "airgap-audit state --help" in team.verify("bundle-3", code=3).err
    team.audit("state", "forget", STREAM, "--only-time", "--reason", "the battery of the clock was empty", "--store", "store")
    team.verify("bundle-3")
    assert "already accepted 2" in team.verify("bundle-1", code=3).err
    team.lose()
    team.audit("state", "recover", "--store", "store")
    assert state.load(team.folder / "store", STREAM).last_seen == NOW


# Acceptance 5: a later policy, only with the thresholds of both


def test_the_next_policy_is_accepted_with_both_thresholds_only_by_every_command(team: Team):
    desk, folder = team.desk, team.folder
    team.install("bundle-1")
    desk.bundle("keygen", "dave", "--no-passphrase")
    desk.bundle("policy", "rotate", "p1.json", "--out", "p2.json", "--expires-in", "3000")
    desk.bundle("policy", "add-signer", "p2.json", "--signer", "dave=dave.pub")
    desk.bundle("policy", "revoke", "p2.json", "alice")
    said = team.verify("bundle-2", "p2.json", code=3).err
    assert "not signed as version 1" in said
    assert "not signed as version 2" in said

    kept = folder / "p2.json.signatures"
    for signers, words in (
        (("alice", "bob"), "is not signed as version 2, the next policy itself, asks: 1 of 2 needed signers (signed by bob, not by carol, dave"),
        (("carol", "dave"), "is not signed as version 1, the policy in force, asks: 1 of 2 needed signers (signed by carol, not by alice, bob"),
    ):
        shutil.rmtree(kept, ignore_errors=True)
        for name in signers:
            desk.bundle("policy", "sign", "p2.json", "--key", f"file:{name}.key", "--previous", "p1.json")
        for done in (team.verify("bundle-2", "p2.json", code=3), team.install("bundle-2", "p2.json", code=3), team.accept("p2.json", code=3)):
            assert words in done.err
            assert "signatures stand in the folder beside it" in done.err
    ready = desk.bundle("policy", "sign", "p2.json", "--key", "file:bob.key", "--previous", "p1.json").out
    assert "ready: carry the file and the folder of its signatures together" in ready

    refused_bundle = team.verify("bundle-2", "p2.json", code=3).err  # the policy is proven now; its signers are not the bundle's
    assert "signer alice is revoked by the policy" in refused_bundle
    assert "already accepted" not in refused_bundle
    assert "version 2 of the policy" in team.accept("p2.json").out
    assert "in force already" in team.accept("p2.json").out
    assert "policy: version 1, this site has used version 2" in team.verify("bundle-2", "p1.json", code=3).err
    assert "policy: version 1, this site has used version 2" in team.install("bundle-2", "p1.json", code=3).err
    assert "policy: version 1, this site has used version 2" in team.accept("p1.json", code=3).err
    shown = desk.audit("policy", "show", "--store", "store").out
    assert "This is version 2 of the policy" in shown
    assert "alice: by key" in shown
    assert "REVOKED" in shown


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"version": 3}, "1.succession-version"),
        ({"previous": "0" * 64}, "1.succession-previous"),
        ({"expires": canonical.stamp(NOW)}, "1.policy-expired"),
    ],
)
def test_one_that_does_not_follow_is_refused_whoever_signed(team: Team, fields, rule):
    team.started()
    path = team.next("p2.json", "p1.json", *PEOPLE, **fields)
    for attempt in attempts(team, pinned.read(path)):
        with pytest.raises(AirgapError) as caught:
            attempt()
        assert rule in rules(caught.value)


def attempts(team: Team, presented: Presented) -> list[Callable[[], object]]:
    folder = team.folder / "store"
    return [
        lambda: memory.remembered(presented, NOW, folder, (folder,)),
        lambda: memory.accept(team.store, folder, presented, now=NOW),
        lambda: install(Place.of(team.folder / "bundle-2"), presented.raw, Site(store=folder), now=NOW, policy_files=presented.files),
    ]


def test_one_of_another_stream_is_no_successor(team: Team):
    team.started()
    path = team.next("p2.json", "p1.json", *PEOPLE, stream="other")
    with pytest.raises(TrustError, match="nothing is accepted yet for stream 'other'"):
        memory.accept(team.store, team.store.root, pinned.read(path), now=NOW)
    assert state.load(team.store.root, STREAM).policy_version == 1


def test_the_versions_between_are_accepted_in_their_order(team: Team):
    team.started()
    team.next("p2.json", "p1.json", *PEOPLE)
    team.next("p3.json", "p2.json", *PEOPLE)
    said = team.install("bundle-2", "p3.json", code=3).err
    assert "1 between are missing" in said
    assert "accept the versions between in their order" in said
    team.accept("p2.json")
    team.install("bundle-2", "p3.json")
    assert state.load(team.store.root, STREAM).policy_version == 3
    last = [json.loads(line) for line in (team.folder / "store" / journal.FILE).read_text().splitlines() if '"policy","outcome"' in line]
    assert [(line["details"]["policyVersion"], line["details"]["signers"]) for line in last] == [
        ("2", "alice, bob, carol"), ("3", "alice, bob, carol"),
    ]  # fmt: skip


def test_the_same_version_with_another_content_is_refused(team: Team):
    team.started()
    other = team.put("other.json", team.who.policy.changed(min_serial=1), *PEOPLE)
    for attempt in (*attempts(team, pinned.read(other))[1:],):
        with pytest.raises(AirgapError) as caught:
            attempt()
        assert rules(caught.value) == ["1.policy-changed"]


def test_verifying_writes_nothing_and_does_not_make_the_next_one_stay(team: Team):
    team.started()
    team.next("p2.json", "p1.json", "alice", "bob")
    before = installs.look(team.folder / "store", leave_out=())
    team.verify("bundle-2", "p2.json")
    team.verify("bundle-2", "p1.json")
    assert installs.look(team.folder / "store", leave_out=()) == before


# Pinning


def test_the_first_policy_is_pinned_from_paper_before_anything_is_installed(team: Team):
    sha256 = pinned.read(team.folder / "p1.json").sha256
    said = team.accept("p1.json", code=3).err
    assert "nothing is accepted yet" in said
    assert "--pin SHA256" in said
    assert "the pin says" in team.accept("p1.json", "--pin", "0" * 64, code=3).err
    assert "is no sha256" in team.accept("p1.json", "--pin", "abc", code=2).err
    aloud = team.desk.bundle("policy", "hash", "p1.json").out.splitlines()[1].upper()
    assert "nobody's signature was asked" in team.accept("p1.json", "--pin", aloud).out
    assert history(team.store.root)[STREAM].policy_sha256 == sha256
    other = team.put("other.json", team.who.policy.changed(min_serial=1))
    assert "this site has used one with sha256" in team.install("bundle-1", other.name, code=3).err
    team.install("bundle-1")


def test_when_keys_are_lost_a_policy_is_pinned_but_never_an_older_one(team: Team):
    team.started()
    orphan = pinned.read(team.next("p2.json", "p1.json"))
    done = memory.pin(team.store, team.store.root, orphan, f"sha256:{orphan.sha256}", now=NOW)
    assert (done.changed, done.before.policy_version) == (True, 1)
    again = memory.pin(team.store, team.store.root, orphan, orphan.sha256, now=NOW)
    assert (again.changed, again.journal) == (False, done.journal)
    other = pinned.read(team.next("other.json", "p1.json", min_serial=1))
    assert memory.pin(team.store, team.store.root, other, other.sha256, now=NOW).changed
    first = pinned.read(team.folder / "p1.json")
    with pytest.raises(RefusedError, match="this site has used version 2"):
        memory.pin(team.store, team.store.root, first, first.sha256, now=NOW)
    late = pinned.read(team.next("late.json", "p2.json", expires=canonical.stamp(NOW)))
    with pytest.raises(RefusedError, match="expired"):
        memory.pin(team.store, team.store.root, late, late.sha256, now=NOW)
    assert [e.detail("was") for e in journal.entries(team.store.root) if e.outcome == "pinned"] == [
        f"sha256:{first.sha256}", f"sha256:{orphan.sha256}",
    ]  # fmt: skip


def test_the_one_before_may_be_given_where_it_was_not_kept(team: Team):
    team.started()
    shutil.rmtree(team.folder / "store/policies")
    (kept,) = (team.folder / "store/bundles").iterdir()
    presented = pinned.read(team.next("p2.json", "p1.json", *PEOPLE))
    assert memory.remembered(presented, NOW, team.store.root, (team.store.root,))[1]  # found beside the bundle
    (kept / "policy.json").unlink()
    with pytest.raises(RefusedError) as caught:
        memory.accept(team.store, team.store.root, presented, now=NOW)
    assert (caught.value.rule, "--previous OLD" in caught.value.hint) == ("1.succession-unknown", True)
    with pytest.raises(TrustError) as mistaken:
        memory.accept(team.store, team.store.root, presented, now=NOW, previous=presented.raw)
    assert mistaken.value.rule == "1.succession-previous"
    team.accept("p2.json", "--previous", "p1.json")


# What the state lost


def test_an_older_state_that_was_put_back_is_found(team: Team):
    team.started(1)
    backup = (team.folder / "store" / state.FILE).read_bytes()
    team.started(2)
    (team.folder / "store" / state.FILE).write_bytes(backup)
    for attempt in attempts(team, pinned.read(team.folder / "p1.json"))[:1]:
        with pytest.raises(TrustError, match="an older one was put back") as caught:
            attempt()
        assert caught.value.rule == "1.state-lost"
    memory.recover(team.store, team.store.root, now=NOW)
    assert state.load(team.store.root, STREAM).serial == 2


def test_another_state_folder_is_no_way_around(team: Team):
    team.started(2)
    said = team.audit("install", "bundle-1", "--policy", "p1.json", "--store", "store", "--state", "elsewhere", code=3).err
    assert "elsewhere/state.json remembers nothing" in said


def test_a_state_that_names_no_policy_by_hash_takes_it_from_the_journal(team: Team):
    team.started(1)
    known = state.load(team.store.root, STREAM)
    old = state.State(streams={STREAM: state.Stream(serial=1, root=known.root, last_seen=canonical.stamp(NOW), policy_version=1)})
    content = old.model_dump(mode="json", by_alias=True)
    (team.store.root / state.FILE).write_bytes(canonical.readable({"content": content, "sha256": digest(canonical.compact(content))}))
    other = team.put("other.json", team.who.policy.changed(min_serial=1))
    with pytest.raises(RefusedError, match="this site has used one with sha256"):
        memory.accept(team.store, team.store.root, pinned.read(other), now=NOW)
    presented = pinned.read(team.next("p2.json", "p1.json", *PEOPLE))
    assert memory.accept(team.store, team.store.root, presented, now=NOW).old.version == 1


def digest(raw: bytes) -> str:
    return Presented(raw).sha256


def test_without_a_journal_the_receipts_are_the_witness(team: Team):
    team.started(1)
    team.started(2)
    (team.store.root / journal.FILE).unlink()
    team.lose()
    assert history(team.store.root)[STREAM].serial == 2
    with refused(TrustError, "remembers nothing", "serial 2"):
        memory.remembered(pinned.read(team.folder / "p1.json"), NOW, team.store.root, (team.store.root,))
    found = memory.recover(team.store, team.store.root, now=NOW)
    assert (found.changed, dict(found.streams)[STREAM].serial) == (True, 2)
    assert memory.recover(team.store, team.store.root, now=NOW).changed is False
    memory.forget(team.store, team.store.root, STREAM, "so be it", now=NOW)
    assert STREAM not in history(team.store.root)


def test_a_broken_chain_is_nothing_to_rebuild_from(team: Team):
    team.started(1)
    team.lose()
    path = team.store.root / journal.FILE
    path.write_bytes(path.read_bytes().replace(b'"serial":"1"', b'"serial":"0"', 1))
    with pytest.raises(IntegrityError, match="journal.jsonl: line"):
        memory.recover(team.store, team.store.root, now=NOW)
    with pytest.raises(IntegrityError, match="journal.jsonl: line"):
        memory.remembered(pinned.read(team.folder / "p1.json"), NOW, team.store.root, (team.store.root,))


def test_a_damaged_state_is_refused_and_rebuilt_beside(team: Team):
    team.started(2)
    (team.store.root / state.FILE).write_bytes(b"{}")
    said = team.install("bundle-3", code=3).err
    assert "airgap-audit state recover" in said
    told = team.audit("state", "recover", "--store", "store").out
    assert "the damaged file is kept as state.json.damaged-" in told
    team.install("bundle-3")


def test_what_cannot_be_forgotten_or_rebuilt_is_said(team: Team):
    with pytest.raises(UsageError, match="show no bundle"):
        memory.recover(team.store, team.store.root, now=NOW)
    team.started(1)
    with pytest.raises(UsageError, match="no reason"):
        memory.forget(team.store, team.store.root, STREAM, "  ", now=NOW)
    with pytest.raises(UsageError, match="nothing is remembered of stream 'other'"):
        memory.forget(team.store, team.store.root, "other", "why", now=NOW)
    assert team.audit("policy", "show", "other", "--store", "store", now=None, code=2).err.count("no policy is in force") == 1


def test_the_policy_in_force_can_be_written_out_again(team: Team):
    team.started(1)
    team.desk.audit("policy", "show", "--store", "store", "--out", "again.json")
    assert (team.folder / "again.json").read_bytes() == team.who.policy_raw
    assert "exists already" in team.desk.audit("policy", "show", "--store", "store", "--out", "again.json", code=2).err


# Kill and competition


ACTIONS: dict[str, Callable[[Team], object]] = {
    "accept": lambda team: memory.accept(team.store, team.store.root, pinned.read(team.folder / "p2.json"), now=NOW),
    "pin": lambda team: memory.pin(team.store, team.store.root, pinned.read(team.folder / "p2.json"), digest((team.folder / "p2.json").read_bytes()), now=NOW),
    "install": lambda team: install(
        Place.of(team.folder / "bundle-2"), (team.folder / "p2.json").read_bytes(), Site(store=team.store.root), now=NOW,
        policy_files=pinned.read(team.folder / "p2.json").files,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIONS)
def test_killed_anywhere_the_policy_is_the_old_or_the_new_and_again_is_enough(original: Team, tmp_path: Path, name):
    with installs.in_memory(tmp_path) as folder:
        shutil.copytree(original.folder, folder / "t")
        team = Team(folder / "t", replace(original.who, folder=folder / "t"))
        team.started(1)
        team.next("p2.json", "p1.json", "alice", "bob")
        shutil.copytree(team.store.root, folder / "before", symlinks=True)
        for at in range(1, 200, 1 if name != "install" else 7):
            killed = installs.run_and_kill(lambda: ACTIONS[name](team), at)
            found = state.load(team.store.root, STREAM)
            assert found.policy_version in {1, 2}
            assert digest(state.policy(team.store.root, found.policy_sha256) or b"") == found.policy_sha256
            ACTIONS[name](team)
            assert state.load(team.store.root, STREAM).policy_version == 2
            assert history(team.store.root)[STREAM].policy_version == 2
            memory.remembered(pinned.read(team.folder / "p2.json"), NOW, team.store.root, (team.store.root,))
            if not killed:
                break
            shutil.rmtree(team.folder / "store")
            shutil.copytree(folder / "before", team.folder / "store", symlinks=True)
        else:
            pytest.fail("it never ran to its end")
        assert at > 5


@pytest.mark.parametrize("damage", ["lost", "damaged"])
def test_killed_while_rebuilding_again_is_enough(original: Team, tmp_path: Path, damage):
    with installs.in_memory(tmp_path) as folder:
        shutil.copytree(original.folder, folder / "t")
        team = Team(folder / "t", replace(original.who, folder=folder / "t"))
        team.started(2)
        for at in range(1, 60):
            team.lose() if damage == "lost" else (team.store.root / state.FILE).write_bytes(b"{}")
            killed = installs.run_and_kill(lambda: memory.recover(team.store, team.store.root, now=NOW), at)
            memory.recover(team.store, team.store.root, now=NOW)
            assert state.load(team.store.root, STREAM).serial == 2
            if not killed:
                break
        assert 3 < at < 59


def test_killed_while_forgetting_it_is_remembered_or_the_journal_says_why_not(original: Team, tmp_path: Path):
    with installs.in_memory(tmp_path) as folder:
        shutil.copytree(original.folder, folder / "t")
        team = Team(folder / "t", replace(original.who, folder=folder / "t"))
        team.started(2)
        for at in range(1, 60):
            killed = installs.run_and_kill(lambda: memory.forget(team.store, team.store.root, STREAM, "why", now=NOW), at)
            if state.load(team.store.root, STREAM) == Memory():
                assert STREAM not in history(team.store.root)
                break
            assert killed
        assert at > 2


def test_of_two_policies_accepted_at_once_one_is(team: Team):
    team.started(1)
    for name, floor in (("a.json", 1), ("b.json", 2)):
        team.next(name, "p1.json", *PEOPLE, min_serial=floor)
    running = {
        name: team.desk.start("audit", "policy", "accept", name, "--store", "store", "--now", canonical.stamp(NOW)) for name in ("a.json", "b.json")
    }
    codes = {name: process.wait(60) for name, process in running.items()}
    assert min(codes.values()) == 0
    assert set(codes.values()) <= {0, 1, 3}  # 1: the store was in use
    (won,) = [name for name, code in codes.items() if code == 0]
    assert state.load(team.store.root, STREAM).policy_sha256 == pinned.read(team.folder / won).sha256
    (lost,) = set(codes) - {won}
    assert "this site has used one with sha256" in team.accept(lost, code=3).err


# What else asks the policy in force


def test_going_back_to_a_bundle_that_the_policy_in_force_revokes_is_refused(team: Team):
    for serial in (1, 2, 3):
        team.started(serial)
    store = team.store
    receipts = {number: json.loads((store.root / f"receipts/{number}.json").read_text()) for number in (1, 2)}
    trees = {number: {tree["manifest"] for tree in receipt["trees"]} for number, receipt in receipts.items()}
    revoked = {"signers": [], "roots": [receipts[2]["bundle"]], "blobs": [min(trees[1] - trees[2])]}
    presented = pinned.read(team.next("p2.json", "p1.json", *PEOPLE, revoked=revoked))
    memory.accept(store, store.root, presented, now=NOW)
    with pytest.raises(TrustError, match="generation 2: bundle sha256:.* is revoked by the policy in force, version 2") as caught:
        undo.rollback(store.root, now=NOW)
    assert caught.value.rule == "5.revoked"
    with pytest.raises(TrustError, match="generation 1: blob sha256:.* is revoked"):
        undo.rollback(store.root, now=NOW, to=1)
    assert store.current() == 3


def test_a_check_finds_a_policy_that_is_gone_and_takes_forgetting_for_what_it_is(team: Team):
    team.started(2)
    (kept,) = (team.folder / "store/policies").iterdir()
    kept.unlink()
    assert "the policy in force for stream" in team.desk.audit("check", "--store", "store", code=3).out
    memory.forget(team.store, team.store.root, STREAM, "why", now=NOW)
    team.desk.audit("check", "--store", "store")


def test_an_install_says_what_it_took_as_given(team: Team):
    given, unknown = "The policy itself: it was taken as given", "Rollback: this site remembers no bundle of the stream yet"
    sha256 = pinned.read(team.folder / "p1.json").sha256
    first = team.install("bundle-1").out
    assert all(text in first for text in (given, unknown, f"policy version 1, sha256 {sha256}"))
    second = team.audit("install", "bundle-2", "--policy", "p1.json", "--store", "store", "--json").json
    assert second["notChecked"] == []
    pinned_here = ("--store", "other")
    team.audit("policy", "accept", "p1.json", "--pin", sha256, *pinned_here)
    third = team.audit("install", "bundle-1", "--policy", "p1.json", *pinned_here).out
    assert (given in third, unknown in third) == (False, True)


def test_what_was_pinned_or_forgotten_is_told_as_it_is(team: Team):
    team.started(1)
    sha256 = pinned.read(team.folder / "p1.json").sha256
    again = team.accept("p1.json", "--pin", sha256).out
    assert "nothing was changed" in again
    assert "nobody's signature was asked" not in again
    told = team.audit("state", "forget", STREAM, "--only-time", "--reason", "why", "--store", "store").out
    assert f"{STREAM}: only the last time seen is forgotten" in told
    team.audit("state", "forget", STREAM, "--reason", "why", "--store", "store")
    assert team.desk.audit("state", "show", "--store", "store").out.strip().endswith("no stream is remembered")


def test_what_differs_is_told_once_with_the_way_on(team: Team):
    team.started(1)
    changed = next((team.folder / "store/bundles").glob("*/SHA256SUMS"))
    changed.chmod(0o644)
    changed.write_bytes(b"")
    done = team.desk.audit("check", "--store", "store", code=3)
    assert "SHA256SUMS" in done.out
    assert "SHA256SUMS" not in done.err
    assert done.out.count("hint: ") == 1
    assert team.desk.audit("check", "--store", "store", "--json", code=3).json["hint"] in done.out


def test_errors_name_the_file_and_the_option_that_were_typed(team: Team):
    (team.folder / "mine.json").write_bytes(b"{}")
    assert "error: mine.json: " in team.verify("bundle-1", "mine.json", code=2).err
    done = team.audit("verify", "bundle-1", "--policy", "p1.json", "--bundle", "12", code=2)
    assert "--bundle '12' is no sha256" in done.err


def test_evidence_judges_by_the_policy_in_force(team: Team):
    team.started(1)
    team.next("p2.json", "p1.json", *PEOPLE, revoked={"signers": ["bob"], "roots": [], "blobs": []})
    team.accept("p2.json")
    team.audit("evidence", "--out", "evidence", "--store", "store", code=3)
    assert "bob is revoked" in (team.folder / "evidence/verification.json").read_text()
