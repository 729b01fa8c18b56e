"""What moved between two bundles, as people ask: versions, licences, files, signers, vulnerabilities; and what was not compared."""

from __future__ import annotations

import json

import pytest
from parts import bundles, feeding
from parts.cli import Desk
from parts.evidence import wheel
from parts.feeding import data_files, feed, gateway, imported, lay, record

from audit.compare import Asked, compared
from audit.evidence.compare import NO_DATA, SAME_VERSION, Side, compare
from audit.evidence.item import Coverage, Item
from audit.install.install import install
from audit.install.store import Store
from audit.verify.walk import Place, Silent
from bundler import sign
from manifests.errors import RefusedError
from manifests.site import Site

NOW = feeding.NOW
WHEN = ("--now", "2026-11-24T12:00:00Z")
CVE = record("CVE-2026-1000", "requests", "2.20.0")
OTHER = record("CVE-2026-2000", "urllib3", "9")


@pytest.fixture
def who(tmp_path):
    return bundles.site(tmp_path)


def of(old, new, policy=None, store=None):
    return compared(Asked(Place.of(old), "old", policy), Asked(Place.of(new), "new", policy), store=store, now=NOW, watch=Silent())


def told(found, section):
    return [(entry.change, entry.subject, entry.what, entry.old, entry.new) for entry in found.of(section)]


def test_a_new_version_is_one_change(tmp_path, who):
    old = gateway(tmp_path / "old", who, requests="2.19.0", gone="1")
    new = gateway(tmp_path / "new", who, serial=2, requests="2.20.0", fresh="2")
    assert told(of(old, new), "packages") == [
        ("added", "gateway pkg:pypi/fresh", "version", "", "2"),
        ("removed", "gateway pkg:pypi/gone", "version", "1", ""),
        ("changed", "gateway pkg:pypi/requests", "version", "2.19.0", "2.20.0"),
    ]


def test_the_same_version_with_other_bytes_is_said_aloud(tmp_path, who):
    old = gateway(tmp_path / "old", who, requests="2.19.0")
    other = wheel("requests", "2.19.0", "License-Expression: MIT")
    new = lay(tmp_path / "new", bundles.STREAM, {"gateway": ("python", {"requests-2.19.0-py3-none-any.whl": other})})
    found = of(old, new)
    (change,) = found.of("packages")
    assert change.note == SAME_VERSION
    assert change.old.startswith("sha256 ")
    assert told(found, "licences") == [("changed", "gateway pkg:pypi/requests", "licence", "none stated", "MIT")]


def test_files_components_and_what_the_signers_state(tmp_path, who):
    old = lay(tmp_path / "old", bundles.STREAM, {"docs": ("path", {"a": b"1", "b": b"2"}), "tool": ("path", {"x": b""})})
    new = lay(tmp_path / "new", bundles.STREAM, {"docs": ("path", {"a": b"9", "c": b"3"}), "more": ("path", {"x": b""})})
    for at, folder in enumerate((old, new)):
        sign.sign(folder, who.key("alice"), bundles.terms(at + 1))
    sign.sign(new, who.key("bob"), bundles.terms(None))
    found = of(old, new)
    assert [(entry.change, entry.subject) for entry in found.of("files")] == [
        ("changed", "docs/a"), ("removed", "docs/b"), ("added", "docs/c"), ("added", "more/x"), ("removed", "tool/x"),
    ]  # fmt: skip
    assert [(entry.change, entry.subject) for entry in found.of("components")] == [("added", "more"), ("removed", "tool")]
    assert ("changed", "serial", "", "1", "2") in told(found, "bundle")
    assert [entry.change for entry in found.of("signers")] == ["added"]
    assert not found.old.proven


def test_without_data_vulnerabilities_are_not_compared_and_that_is_the_result(tmp_path, who):
    old, new = gateway(tmp_path / "old", who, requests="2.19.0"), gateway(tmp_path / "new", who, serial=2, requests="2.20.0")
    found = of(old, new)
    assert found.not_compared == (NO_DATA,)
    assert found.exit_code == 5
    assert found.of("vulnerabilities") == ()


def test_both_sides_are_compared_with_the_same_data(tmp_path, who):
    old = gateway(tmp_path / "old", who, requests="2.19.0")
    new = gateway(tmp_path / "new", who, serial=2, requests="2.20.0", urllib3="1.23", data=data_files(CVE, OTHER))
    found = of(old, new)
    assert told(found, "vulnerabilities") == [
        ("removed", "gateway pkg:pypi/requests", "CVE-2026-1000", "CVSS 9.8", ""),
        ("added", "gateway pkg:pypi/urllib3", "CVE-2026-2000", "", "CVSS 9.8"),
    ]
    assert found.exit_code == 0


def test_a_vulnerability_that_went_with_its_package_is_said_to(tmp_path, who):
    old, new = gateway(tmp_path / "old", who, requests="2.19.0"), gateway(tmp_path / "new", who, serial=2, plain="1", data=data_files(CVE))
    (gone,) = of(old, new).of("vulnerabilities")
    assert gone.note == "the package is gone"


def test_the_data_of_the_site_counts(tmp_path, who):
    store = install(Place.of(gateway(tmp_path / "old", who, requests="2.19.0")), who.policy_raw, Site(store=tmp_path / "store"), now=NOW).store
    imported(feed(tmp_path / "feed", who, data_files(CVE)), who, store)
    new = gateway(tmp_path / "new", who, serial=2, requests="2.20.0")
    assert len(of(tmp_path / "old", new, store=Store.existing(store)).of("vulnerabilities")) == 1


def test_with_a_policy_both_are_proven_first(tmp_path, who):
    old, new = gateway(tmp_path / "old", who, requests="2.19.0"), gateway(tmp_path / "new", who, serial=2, requests="2.20.0")
    found = of(old, new, who.policy_raw)
    assert found.old.proven
    assert found.new.proven
    assert found.new.said["serial"] == "2"
    victim = max((new / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    victim.chmod(0o644)
    victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    with pytest.raises(RefusedError):
        of(old, new, who.policy_raw)


def test_nothing_moved_is_said_and_ends_with_0_only_if_all_was_compared(tmp_path, who):
    one = gateway(tmp_path / "old", who, requests="2.20.0", data=data_files(CVE))
    found = of(one, one)
    assert found.differences == ()
    assert found.exit_code == 0


def test_as_people_do_it(tmp_path, who):
    desk, old = Desk(tmp_path), gateway(tmp_path / "old", who, requests="2.19.0")
    store = install(Place.of(old), who.policy_raw, Site(store=tmp_path / "store"), now=NOW).store
    new = gateway(tmp_path / "new", who, serial=2, requests="2.20.0", data=data_files(CVE))
    done = desk.audit("diff", new, "--store", store, "--html", tmp_path / "diff.html", *WHEN, isolated=True)
    assert "NOT PROVED" in done.out
    assert "~ gateway pkg:pypi/requests version: 2.19.0 -> 2.20.0" in done.out
    assert "fixed gateway pkg:pypi/requests CVE-2026-1000: CVSS 9.8" in done.out
    page = (tmp_path / "diff.html").read_text()
    assert "CVE-2026-1000" in page
    assert "http" not in page.replace("http-equiv", "").lower(), "the page loads nothing"
    stated = desk.audit("diff", old, new, "--json", *WHEN).json
    assert stated["format"] == "airgap.diff/v1"
    assert json.dumps(stated) == json.dumps(desk.audit("diff", old, new, "--json", *WHEN).json)
    assert "name an old one and a new one" in desk.audit("diff", old, new, old, code=2).err


def side(*items, name="s"):
    return Side(name, "sha256:0", False, "", {}, {}, {}, (), items)


def item(name, version, purl):
    return Item(f"{name}@{version}", "c", "python", None, "package", name, version, None, 1, Coverage("read"), "p", purl)


def test_hostile_purls_and_several_versions_do_not_confuse_it():
    old = side(item("a", "1", "pkg:npm/a@1"), item("a", "2", "pkg:npm/a@2"), item("b", "1", "not a purl"))
    new = side(item("a", "2", "pkg:npm/a@2"), item("a", "3", "pkg:npm/a@3"), item("a", "4", "pkg:npm/a@4"), item("b", "2", "not a purl"))
    found = compare(old, new)
    assert told(found, "packages") == [
        ("changed", "c package b", "version", "1", "2"),
        ("added", "c pkg:npm/a", "version", "", "3"),
        ("added", "c pkg:npm/a", "version", "", "4"),
        ("removed", "c pkg:npm/a", "version", "1", ""),
    ]
    assert compare(new, new).differences == ()
