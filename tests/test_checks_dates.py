"""What the day decides: support that has ended by the list, releases younger than a week."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts.advisories import item

from audit.checks import CheckResult, Subject, gate, load, run_one
from audit.checks import end_of_life as ended
from audit.evidence.item import Item
from manifests import canonical
from manifests.lock import LockedComponent

LIST = json.loads(resources.files("manifests").joinpath(ended.DATA).read_bytes())
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def inside(purl: str) -> Item:
    return replace(item(purl), inside="image")


def aged(*purls: str, now: datetime | None = NOW) -> CheckResult:
    return run_one(load("end_of_life"), Subject(None, (), items=tuple(map(inside, purls)), now=now))  # type: ignore[arg-type]


def debian(release: str, name: str = "bash", version: str = "5") -> str:
    return f"pkg:deb/debian/{name}@{version}?distro=debian-{release}"


@pytest.mark.parametrize(
    ("purl", "says"),
    [
        (debian("10"), "Debian 10 has had no security support since 2024-06-30, by the list of "),
        (debian("10.13"), "Debian 10 has had"),
        ("pkg:deb/ubuntu/bash@5?distro=ubuntu-20.04", "Ubuntu 20.04 has had no security support since 2025-05-31"),
        ("pkg:apk/alpine/busybox@1?distro=alpine-3.19.1", "Alpine Linux 3.19 has had"),
        (debian("12", "python3.9-minimal"), "Python 3.9 has had"),
        (debian("12", "libpython3.9-stdlib"), "Python 3.9 has had"),
        (debian("12", "nodejs", "1:18.20.4"), "Node.js 18 has had"),
        (debian("12", "nodejs", "18.20.4"), "Node.js 18 has had"),
    ],
)
def test_what_has_lost_its_support_is_told_of(purl, says):
    found = aged(purl)
    (finding,) = found.findings
    assert finding.message.startswith(says)
    assert (finding.severity, finding.about) == ("medium", finding.message.partition(" has ")[0])
    assert gate([found], {}).exit_code == 0


def test_what_is_supported_passes():
    found = aged(debian("12"), debian("12", "python3.11-minimal"), debian("12", "nodejs", "22.1"))
    assert (found.findings, found.not_assessed, found.examined) == ((), (), 3)


def test_the_day_decides():
    last = date.fromisoformat(LIST["products"]["debian"]["releases"]["12"])
    for day, severity in ((-91, []), (-90, ["low"]), (0, ["low"]), (1, ["medium"])):
        now = datetime(last.year, last.month, last.day, tzinfo=UTC) + timedelta(days=day)
        assert [finding.severity for finding in aged(debian("12"), now=now).findings] == severity, day


def test_without_a_time_nothing_is_said():
    assert aged(debian("10"), now=None).examined == 0


@pytest.mark.parametrize(("purl", "reason"), [
    ("pkg:apk/wolfi/busybox@1?distro=wolfi-20230201", "wolfi 20230201: is not in the list of "),
    (debian("99"), "Debian 99: the list of "),
])  # fmt: skip
def test_what_the_list_does_not_know_is_not_assessed(purl, reason):
    found = aged(purl)
    assert found.findings == ()
    assert found.not_assessed[0].reason.startswith(reason)
    assert gate([found], {}).exit_code == 5


def test_a_thousand_packages_of_one_system_say_it_once():
    assert len(aged(*(debian("10", f"p{at}") for at in range(1000))).findings) == 1


def test_what_lies_in_no_image_says_nothing():
    assert run_one(load("end_of_life"), Subject(None, (), items=(item(debian("10")),), now=NOW)).examined == 0  # type: ignore[arg-type]


@given(st.text(max_size=40))
def test_no_address_stops_it(text):
    for purl in (text, f"pkg:deb/debian/a@1?distro={text}", f"pkg:deb/debian/{text}@1?distro=debian-{text}"):
        assert aged_by(purl)


def aged_by(purl: str) -> bool:
    made = replace(inside(debian("12")), purl=purl)
    return run_one(load("end_of_life"), Subject(None, (), items=(made,), now=NOW)) is not None  # type: ignore[arg-type]


def test_the_list_is_dates_of_known_form():
    assert date.fromisoformat(LIST["asOf"])
    for product in LIST["products"].values():
        assert product["title"]
        assert [date.fromisoformat(day) for day in product["releases"].values()]


def fresh(age: timedelta | str | None, *, building: bool = True) -> CheckResult:
    told = canonical.stamp(NOW - age) if isinstance(age, timedelta) else age
    evidence = {} if told is None else {"upload_time": told}
    pin = {"path": "w/app-1-py3-none-any.whl", "sha256": "0" * 64, "size": 1, "url": "https://index.example/app-1.whl", "evidence": evidence}
    component = LockedComponent.model_validate({"name": "w", "kind": "python", "form": "tree", "files": [pin]})
    return run_one(load("fresh_releases"), Subject(None, (), locked={"w": component}, now=NOW, building=building))  # type: ignore[arg-type]


def test_a_release_of_yesterday_is_told_of():
    (finding,) = fresh(timedelta(days=1, hours=3)).findings
    assert finding.message == "app-1-py3-none-any.whl was uploaded 2026-11-23T09:00:00Z, 1 days before this build"
    assert (finding.severity, finding.about) == ("low", "app-1-py3-none-any.whl")


@pytest.mark.parametrize(("age", "told"), [(timedelta(days=7), 0), (timedelta(days=6, hours=23), 1), (timedelta(days=-1), 1)])
def test_a_week_decides(age, told):
    assert len(fresh(age).findings) == told


def test_without_a_time_of_upload_or_after_the_build_nothing_is_said():
    assert fresh(None).examined == 0
    assert fresh("yesterday").examined == 0
    assert fresh(timedelta(days=1), building=False).examined == 0
