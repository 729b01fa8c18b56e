"""Feeds: vulnerability data that comes later than what is installed, proven like a bundle, never taken for one."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import timedelta

import pytest
from parts import bundles, feeding, installs
from parts.cli import Desk
from parts.feeding import MILD, archive, data_files, feed, feed_policy, gateway, imported, record

from audit import drift, journal, known
from audit.install import feed as feeds
from audit.install import undo
from audit.install.install import GateError, install
from audit.install.store import Store
from audit.verify.walk import Place, Silent
from manifests.errors import RefusedError, UsageError
from manifests.policy import Waiver
from manifests.site import Site

NOW = feeding.NOW
CVE = record("CVE-2026-1000", "requests", "2.20.0")


@pytest.fixture
def who(tmp_path):
    return bundles.site(tmp_path)


@pytest.fixture
def store(tmp_path, who):
    """A store in which a bundle with requests 2.19.0 and no data is installed."""
    place = Place.of(gateway(tmp_path / "bundle", who, requests="2.19.0", plain="1"))
    done = install(place, who.policy_raw, Site(store=tmp_path / "store"), now=NOW)
    assert done.exit_code == 5, "nothing was compared, and that is said"
    return done.store


def copied(store, to):
    """Copy a store with its hard links: an installed file that is no longer one with its blob is drift."""
    subprocess.run(["cp", "-a", store, to], check=True)


def judged(store, now=NOW):
    return known.known(store, None, now, Silent())


def test_a_feed_that_comes_later_finds_what_became_known(tmp_path, who, store):
    before = judged(store)
    assert before.exit_code == 5
    assert not before.vulnerabilities.consulted
    imported(feed(tmp_path / "feed", who, data_files(CVE)), who, store)
    after = judged(store)
    assert after.exit_code == 4
    (finding,) = after.gate.refused
    assert finding.about == "CVE-2026-1000"
    assert "requests 2.19.0" in finding.message
    assert "2.20.0" in finding.remedy
    assert after.vulnerabilities.counts["none known"] == 1, "the other wheel was compared and nothing is known"


def test_a_feed_changes_nothing_of_what_runs(tmp_path, who, store):
    before = sorted(path for path in (store / "generations").rglob("*"))
    current = (store / "current").readlink()
    imported(feed(tmp_path / "feed", who, data_files(CVE)), who, store)
    assert sorted(path for path in (store / "generations").rglob("*")) == before
    assert (store / "current").readlink() == current
    assert drift.check(store).exit_code == 0


def test_only_the_newest_feed_of_a_stream_is_kept(tmp_path, who, store):
    first = imported(feed(tmp_path / "one", who, data_files(CVE)), who, store)
    second = imported(feed(tmp_path / "two", who, data_files(), serial=2), who, store)
    assert second.replaced == (str(first.bundle.digest),)
    assert judged(store).vulnerabilities.matches == (), "the newer data knows of nothing any more"
    assert drift.check(store).exit_code == 0


def test_an_older_feed_is_refused_and_the_newer_stays(tmp_path, who, store):
    imported(feed(tmp_path / "two", who, data_files(CVE), serial=2), who, store)
    with pytest.raises(RefusedError):
        imported(feed(tmp_path / "one", who, data_files()), who, store)
    assert judged(store).exit_code == 4
    assert [entry.outcome for entry in journal.entries(store) if entry.operation == "feed"][-1] == "refused"


def test_the_same_feed_again_changes_nothing(tmp_path, who, store):
    place = feed(tmp_path / "feed", who, data_files(CVE))
    assert imported(place, who, store).changed
    assert not imported(place, who, store).changed
    assert len(feeds.held(Store.existing(store))) == 1


@pytest.mark.parametrize("more", [{"docs": ("path", {"a": b"a"})}, {"gateway": ("python", {"a": b"a"})}], ids=["docs", "wheels"])
def test_what_holds_more_than_data_is_no_feed(tmp_path, who, store, more):
    with pytest.raises(UsageError, match="beside data, so it is no feed"):
        imported(feed(tmp_path / "feed", who, data_files(CVE), more=more), who, store)
    assert feeds.held(Store.existing(store)) == ()


def test_a_bundle_without_data_is_no_feed(tmp_path, who, store):
    place = gateway(tmp_path / "again", who, serial=2, requests="2.19.0")
    with pytest.raises(UsageError, match="no feed"):
        feeds.import_(Place.of(place), feeds.Presented(who.policy_raw), store, now=NOW)


def test_a_feed_in_the_stream_of_what_is_installed_is_refused(tmp_path, who, store):
    feeding.lay(tmp_path / "feed", bundles.STREAM, {"advisories": ("osv", data_files(CVE))})
    for at, name in enumerate(("alice", "bob")):
        feeding.sign.sign(tmp_path / "feed", who.key(name), bundles.terms(9 if at == 0 else None))
    with pytest.raises(UsageError, match="that of what is installed"):
        feeds.import_(Place.of(tmp_path / "feed"), feeds.Presented(who.policy_raw), store, now=NOW)


def test_a_changed_feed_is_refused_before_anything_is_kept(tmp_path, who, store):
    place = feed(tmp_path / "feed", who, data_files(CVE))
    victim = max((place / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    victim.chmod(0o644)
    victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    with pytest.raises(RefusedError):
        imported(place, who, store)
    assert feeds.held(Store.existing(store)) == ()
    assert judged(store).exit_code == 5


def test_data_that_was_changed_in_the_store_is_drift(tmp_path, who, store):
    imported(feed(tmp_path / "feed", who, data_files(CVE)), who, store, link=False)
    (data,) = feeds.held(Store.existing(store))
    blob = next(path for path in (store / "blobs" / "sha256").iterdir() if path.read_bytes()[:2] == b"PK" and b"CVE-2026" in path.read_bytes())
    blob.chmod(0o644)
    blob.write_bytes(archive(feeding.UNRELATED))
    assert drift.check(store).exit_code == 3
    assert data.component.name == "advisories"


def test_a_feed_whose_index_was_changed_is_drift_and_not_silently_nothing(tmp_path, who, store):
    done = imported(feed(tmp_path / "feed", who, data_files(CVE)), who, store, link=False)
    index = store / "bundles" / done.bundle.digest.hex / "index.json"
    index.chmod(0o644)
    index.write_bytes(index.read_bytes() + b" ")
    found = drift.check(store)
    assert found.exit_code == 3
    assert any(done.bundle.digest.hex in damage.place for damage in found.findings)


def test_pruning_and_uninstalling_do_not_break_a_feed(tmp_path, who, store):
    imported(feed(tmp_path / "feed", who, data_files(CVE)), who, store)
    undo.prune(store, keep=0, now=NOW)
    assert judged(store).exit_code == 4


def test_a_waiver_of_the_policy_lets_a_finding_through_until_it_expires(tmp_path, who):
    waiver = Waiver(
        check="vulnerabilities", subject="gateway", about="CVE-2026-1000", by="eve", reason="not reachable here", expires="2026-12-01T00:00:00Z"
    )
    policy = who.policy.model_copy(update={"waivers": (waiver,)})
    place = Place.of(gateway(tmp_path / "bundle", who, requests="2.19.0", data=data_files(CVE)))
    store = install(place, policy.to_bytes(), Site(store=tmp_path / "store"), now=NOW).store
    assert judged(store).exit_code == 0
    assert [finding.about for finding, _ in judged(store).gate.waived] == ["CVE-2026-1000"]
    late = judged(store, NOW + timedelta(days=8))
    assert [finding.about for finding in late.gate.refused] == ["CVE-2026-1000"]


def test_data_that_was_imported_counts_for_the_next_install(tmp_path, who, store):
    imported(feed(tmp_path / "feed", who, data_files(CVE)), who, store)
    again = gateway(tmp_path / "next", who, serial=2, requests="2.19.1")
    with pytest.raises(GateError, match="CVE-2026-1000"):
        install(Place.of(again), who.policy_raw, Site(store=store), now=NOW)
    fixed = gateway(tmp_path / "fixed", who, serial=3, requests="2.20.0")
    assert install(Place.of(fixed), who.policy_raw, Site(store=store), now=NOW).exit_code == 0


def test_a_mild_finding_is_told_and_let_through(tmp_path, who, store):
    imported(feed(tmp_path / "feed", who, data_files(record("CVE-2026-2", "requests", "3", vector=MILD))), who, store)
    assert judged(store).exit_code == 0
    assert [finding.severity for finding in judged(store).gate.warned] == ["low"]


def test_of_two_sets_of_data_the_newer_counts(tmp_path, who):
    old = data_files(as_of="2026-11-01T00:00:00Z")
    place = Place.of(gateway(tmp_path / "bundle", who, requests="2.19.0", data=old))
    store = install(place, who.policy_raw, Site(store=tmp_path / "store"), now=NOW).store
    assert judged(store).vulnerabilities.matches == ()
    imported(feed(tmp_path / "feed", who, data_files(CVE)), who, store)
    assert [match.name for match in judged(store).vulnerabilities.matches] == ["CVE-2026-1000"]


def test_old_data_is_said_to_be_old(tmp_path, who, store):
    imported(feed(tmp_path / "feed", who, data_files(as_of="2026-11-01T00:00:00Z")), who, store)
    found = judged(store)
    assert [(finding.about, finding.severity) for finding in found.gate.warned] == [("age", "low")]
    assert "23 days old" in found.gate.warned[0].message


def test_a_feed_that_was_damaged_in_the_store_is_replaced_by_the_next(tmp_path, who, store):
    first = imported(feed(tmp_path / "one", who, data_files(CVE)), who, store, link=False)
    index = store / "bundles" / first.bundle.digest.hex / "index.json"
    index.chmod(0o644)
    index.write_bytes(b"{}")
    imported(feed(tmp_path / "two", who, data_files(CVE), serial=2), who, store)
    assert drift.check(store).exit_code == 0
    assert judged(store).exit_code == 4


def test_killed_anywhere_and_run_again_it_ends_the_same(tmp_path, who, store):
    with installs.in_memory(tmp_path) as folder:
        place = feed(tmp_path / "two", who, data_files(CVE), serial=2)
        imported(feed(tmp_path / "one", who, data_files()), who, store)
        copied(store, folder / "before")
        for at in range(1, 200, 2):
            here = folder / "store"
            copied(folder / "before", here)
            killed = installs.run_and_kill(lambda to=here: imported(place, who, to, link=False), at)
            imported(place, who, here, link=False)
            assert len(feeds.held(Store.existing(here))) == 1
            assert judged(here).exit_code == 4
            assert drift.check(here).exit_code == 0
            shutil.rmtree(here)
            if not killed:
                break
        assert 10 < at < 199


def test_as_people_do_it(tmp_path, who, store):
    desk = Desk(tmp_path)
    (tmp_path / "feeds.json").write_bytes(feed_policy(who).to_bytes())
    when = ("--now", "2026-11-24T12:00:00Z")
    nothing = desk.audit("check", "--store", store, *when, code=5)
    assert "vulnerabilities: NOT ASSESSED" in nothing.out
    assert "no vulnerability data" in desk.audit("feed", "list", "--store", store, code=5).out
    place = feed(tmp_path / "feed", who, data_files(CVE))
    done = desk.audit("feed", "import", place, "--policy", tmp_path / "feeds.json", "--store", store, *when, isolated=True)
    assert "imported: advisories" in done.out
    found = desk.audit("check", "--store", store, *when, code=4, isolated=True)
    assert "as installed" in found.out
    assert "finding (refused): gateway/requests-2.19.0-py3-none-any.whl: requests 2.19.0 is affected: CVSS 9.8" in found.out
    assert "data: osv PyPI of 2026-11-20, 2 records" in found.out
    told = desk.audit("check", "--store", store, *when, "--json", code=4).json
    assert told["vulnerabilities"]["counts"] == {"affected": 1, "noneKnown": 1, "notAssessed": 0}
    listed = desk.audit("feed", "list", "--store", store, *when, "--json").json
    assert [(entry["feed"], entry["name"], entry["asOf"]) for entry in listed["feeds"]] == [("osv", "PyPI", "2026-11-20T00:00:00Z")]
    desk.audit("evidence", "--store", store, "--out", tmp_path / "evidence", *when, code=4)
    stated = json.loads((tmp_path / "evidence" / "verification.json").read_text())
    assert [match["name"] for match in stated["vulnerabilities"]["matches"]] == ["CVE-2026-1000"]
