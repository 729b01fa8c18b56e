"""Versions are ordered as their ecosystems order them: a total order, and that of the programs whose order it is."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from packaging.version import Version
from univers.versions import AlpineLinuxVersion

from audit.vulnerabilities.versions import MAX_VERSION, ORDERS, NoVersionError, key, known, published

NUMBER = st.integers(0, 30).map(str)
TRIPLE = st.tuples(NUMBER, NUMBER, NUMBER).map(".".join)
WORD = st.sampled_from(["a", "alpha", "alpha.1", "alpha.beta", "beta", "rc.1", "rc.10", "rc.2", "0", "0.3.7", "x-y-z", "1a"])
SEMVER = st.builds(lambda one, two, three: f"{one}{f'-{two}' if two else ''}{three}", TRIPLE, st.none() | WORD, st.sampled_from(["", "+build.1"]))
PEP440 = st.builds(
    lambda epoch, one, pre, post, dev: f"{epoch}{one}{pre}{post}{dev}",
    st.sampled_from(["", "1!"]),
    st.lists(NUMBER, min_size=1, max_size=4).map(".".join),
    st.sampled_from(["", "a1", "b2", "rc1", "rc10"]),
    st.sampled_from(["", ".post1"]),
    st.sampled_from(["", ".dev0", ".dev3"]),
)
DEBIAN = st.builds(
    lambda epoch, first, upstream, revision: f"{epoch}{first}{upstream}{revision}",
    st.sampled_from(["", "0:", "1:", "2:"]),
    st.integers(0, 30),
    st.text("0123456789.+~abzAZ", max_size=8),
    st.text("0123456789.+~abz", min_size=1, max_size=6).map(lambda text: f"-{text}") | st.just(""),
)
ALPINE = st.builds(
    lambda one, letter, suffix, revision: f"{one}{letter}{suffix}{revision}",
    TRIPLE,
    st.sampled_from(["", "a", "t"]),
    st.sampled_from(["", "_alpha", "_beta2", "_pre1", "_rc1", "_p1", "_git20230101", "_p1_git1", "_alpha_p2"]),
    st.integers(0, 12).map(lambda number: f"-r{number}"),
)
RPM = st.builds(
    lambda epoch, one, suffix, release: f"{epoch}{one}{suffix}-{release}",
    st.sampled_from(["", "0:", "1:"]),
    TRIPLE,
    st.sampled_from(["", "~rc1", "^git1", "a"]),
    st.sampled_from(["1", "1.el9", "27.el9_2", "6.el9"]),
)
GENERATED = {
    "PyPI": PEP440,
    "npm": SEMVER,
    "Go": SEMVER.map(lambda text: f"v{text}"),
    "crates.io": SEMVER,
    "Debian:12": DEBIAN,
    "Ubuntu:22.04:LTS": DEBIAN,
    "Alpine:v3.20": ALPINE,
    "Maven": TRIPLE,
    "Rocky Linux:9": RPM,
    "AlmaLinux:9": RPM,
}


def compare(ecosystem: str, one: str, two: str) -> int:
    first, second = key(ecosystem, one), key(ecosystem, two)
    return -1 if first < second else 1 if second < first else 0


def test_every_order_there_is_is_tested() -> None:
    assert {name.split(":")[0] for name in GENERATED} == set(ORDERS)


@pytest.mark.parametrize("ecosystem", sorted(GENERATED))
def test_the_order_is_total(ecosystem: str) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(GENERATED[ecosystem], min_size=3, max_size=3))
    def check(found: list[str]) -> None:
        one, two, three = found
        assert compare(ecosystem, one, one) == 0
        assert compare(ecosystem, one, two) == -compare(ecosystem, two, one)
        if compare(ecosystem, one, two) <= 0 and compare(ecosystem, two, three) <= 0:
            assert compare(ecosystem, one, three) <= 0
        if compare(ecosystem, one, two) == 0:
            assert compare(ecosystem, one, three) == compare(ecosystem, two, three)

    check()


@settings(max_examples=200, deadline=None)
@given(PEP440, PEP440)
def test_python_order_is_that_of_packaging(one: str, two: str) -> None:
    expected = (Version(one) > Version(two)) - (Version(one) < Version(two))
    assert compare("PyPI", one, two) == expected


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="needs dpkg")
@settings(max_examples=100, deadline=None)
@given(DEBIAN, DEBIAN)
@example("1.1.1n-0+deb11u4", "1.1.1n-0+deb11u10")
@example("1.0~rc1", "1.0")
@example("1.0~~", "1.0~")
@example("0:1.0-1", "1.0-1")
@example("1.0-1", "1.0-1+b1")
@example("2.36-9+deb12u14", "1:2.36-9")
@example("1.0.0a", "1.0.0")
@example("1", "1-0")
def test_debian_order_is_that_of_dpkg(one: str, two: str) -> None:
    words = {-1: "lt", 0: "eq", 1: "gt"}
    done = subprocess.run(["dpkg", "--compare-versions", one, words[compare("Debian:12", one, two)], two], check=False, capture_output=True)
    assume(b"warning" not in done.stderr)
    assert done.returncode == 0, done.stderr


@settings(max_examples=200, deadline=None)
@given(ALPINE, ALPINE)
def test_alpine_order_is_that_of_univers(one: str, two: str) -> None:
    assume("_git" not in one + two)  # it does not know that one
    expected = (AlpineLinuxVersion(one) > AlpineLinuxVersion(two)) - (AlpineLinuxVersion(one) < AlpineLinuxVersion(two))
    assert compare("Alpine:v3.20", one, two) == expected


RPMS = ("1.0-1", "1.0-1.el9", "1.0~rc1-1", "1.0^git1-1", "1.0-2", "1.10-1", "1.9-1", "3.0.7-6.el9_2", "3.0.7-27.el9", "1:0.9-1")


@pytest.mark.skipif(shutil.which("rpm") is None, reason="needs rpm")
def test_rpm_order_is_that_of_rpm() -> None:
    pairs = list(itertools.product(RPMS, RPMS))
    asked = "".join(f'print(rpm.vercmp("{one}","{two}") .. " ")' for one, two in pairs)
    done = subprocess.run(["rpm", "--eval", f"%{{lua: {asked}}}"], check=False, capture_output=True, text=True)
    found = done.stdout.split()
    if len(found) != len(pairs):
        pytest.skip("this rpm does not compare versions on request")
    assert [compare("Rocky Linux:9", one, two) for one, two in pairs] == [int(text) for text in found]


@pytest.mark.parametrize(
    ("ecosystem", "ascending"),
    [
        ("npm", ("1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0")),
        ("Go", ("v0.0.0-20220722155237-a158d28d115b", "v0.0.0-20230101000000-aaaaaaaaaaaa", "v0.6.0", "v0.10.0", "v1.20.0-0", "v1.20.0")),
        ("PyPI", ("1.0.dev1", "1.0a1", "1.0rc1", "1.0", "1.0.post1", "1.1", "1!0.1")),
        ("Alpine:v3.17", ("1.1.1", "1.1.1s-r1", "1.1.1t-r0", "1.1.1t-r1", "1.1.1t-r10", "1.2.05", "1.2.4_rc1", "1.2.4", "1.2.4_git2-r4", "1.2.4_p1", "1.2.10")),
        ("Maven", ("1.0-alpha-1", "1.0-SNAPSHOT", "1.0", "1.0.1", "2.14.1", "2.15.0")),
        ("Debian:12", ("1.0~~", "1.0~", "1.0", "1.0-1", "1.0-1+b1", "1.0a", "1.0+x", "1.0.1", "1:0.1")),
        ("Rocky Linux:9", ("1.0~rc1-1", "1.0-1", "1.0-2", "1.0^git1-1", "1.9-1", "1.10-1", "1:0.9-1")),
    ],
)
def test_orders_that_the_specifications_give(ecosystem: str, ascending: tuple[str, ...]) -> None:
    assert all(compare(ecosystem, one, two) < 0 for one, two in itertools.combinations(ascending, 2))


@pytest.mark.parametrize(
    ("ecosystem", "one", "two"),
    [
        ("Go", "v2.0.0+incompatible", "2.0.0"),
        ("Go", "v1.20", "1.20.0"),
        ("npm", "1.0.0+a", "1.0.0+b"),
        ("PyPI", "1.0", "1.0.0"),
        ("PyPI", "1.0-rc.1", "1.0rc1"),
        ("Debian:12", "0:1.0", "1.0"),
    ],
)
def test_versions_that_are_one(ecosystem: str, one: str, two: str) -> None:
    assert compare(ecosystem, one, two) == 0


@pytest.mark.parametrize(
    ("ecosystem", "text"),
    [
        *((ecosystem, text) for ecosystem in ("PyPI", "npm", "Debian:12", "Alpine:v3.20") for text in ("", "not one", "1" * (MAX_VERSION + 1), "\n")),
        ("PyPI", "latest"),
        ("npm", "1.2.3.4"),
        ("npm", "01.2.3"),
        ("npm", "\N{ARABIC-INDIC DIGIT ONE}.2.3"),
        ("Go", "(devel)"),
        ("Debian:12", "1.0_1"),
        ("Debian:12", "1.0 && reboot"),
        ("Alpine:v3.20", "v1.0"),
        ("Alpine:v3.20", "1.0_later"),
        ("Alpine:v3.20", "1.0-1"),
        ("Hackage", "1.0"),
        ("", "1.0"),
    ],
)
def test_what_has_no_order_is_never_compared(ecosystem: str, text: str) -> None:
    with pytest.raises(NoVersionError):
        key(ecosystem, text)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(ORDERS)), st.text(max_size=40) | st.text("0123456789.-+~:_^rcvab!", max_size=300))
def test_any_text_has_an_order_or_none_and_never_fails_otherwise(ecosystem: str, text: str) -> None:
    try:
        value: Any = key(ecosystem, text)
    except NoVersionError:
        return
    assert not value < key(ecosystem, text)


def test_a_local_build_is_its_public_version_in_python_only() -> None:
    assert published("PyPI", "2.1.0+cu121") == "2.1.0"
    assert published("Debian:12", "1.1.1n-0+deb11u4") == "1.1.1n-0+deb11u4"
    assert known("Debian:12")
    assert not known("Hackage")
