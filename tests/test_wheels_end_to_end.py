"""By command line: attestations are collected by the lock, judged at the build and again inside, where there is no network at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from parts import pyindex
from parts.cli import Desk, Done
from parts.pep740 import REPOSITORY, Publisher, provenance
from parts.rekor1 import Rekor1, rekor1
from parts.sigstore import ISSUER, PrivateSigstore, private_sigstore
from parts.wheelhouse import APP

pytestmark = pytest.mark.parts
LIB = "lib-2.5-py3-none-any.whl"
TARGET = 'target: {platform: linux/amd64, python: "3.12", manylinux: "2_28"}'


@pytest.fixture(scope="module")
def private() -> Iterator[PrivateSigstore]:
    with private_sigstore() as started:
        yield started


@pytest.fixture(scope="module")
def log(private: PrivateSigstore) -> Iterator[Rekor1]:
    with rekor1(private) as started:
        yield started


@dataclass(frozen=True)
class World:
    """A desk with an index, keys, and a policy that names who publishes `app`."""

    desk: Desk
    index: pyindex.Index
    publisher: Publisher

    def attest(self, name: str, publisher: Publisher | None = None) -> None:
        data = bytes(self.index.server.routes[f"/files/{name}"].body[:])
        self.index.attest(name, provenance((publisher or self.publisher).attest(name, data)))

    def policy(self, *matches: str, gates: str = "") -> None:
        root = self.desk.folder / "root.json"
        root.write_text(json.dumps(self.publisher.log.trusted_root()))
        told = ("--issuer", ISSUER, "--trusted-root", "root.json", "--repository", REPOSITORY)
        self.desk.bundle("policy", "upstream-sigstore", "policy.json", "--identity", "publisher", *told)
        for match in matches:
            self.desk.bundle("policy", "upstream-wheel", "policy.json", "--match", match, "--signed-by", "publisher")
        if gates:
            self.desk.bundle("policy", "set", "policy.json", "--gate", gates)

    def build(self, code: int) -> Done:
        self.desk.bundle("lock", "bundle.yaml")
        return self.desk.bundle("build", "bundle.lock.json", "--out", "b", "--policy", "policy.json", "--json", code=code)

    def verify(self, code: int) -> Done:
        self.desk.sign("b")
        return self.desk.audit("verify", "b", "--policy", "policy.json", "--json", code=code, isolated=True)


@pytest.fixture
def world(tmp_path: Path, private: PrivateSigstore, log: Rekor1) -> Iterator[World]:
    with pyindex.Index() as index:
        index.add("app", "1.0", requires=["lib"])
        index.add("lib", "2.5")
        desk = Desk(tmp_path, (("UV_DEFAULT_INDEX", index.url), ("UV_CACHE_DIR", str(tmp_path / "uv"))))
        desk.write_intent("name: gw, kind: python, requirements: [app]", extra=TARGET)
        desk.trust()
        yield World(desk, index, Publisher(private, log))


def ends(done: Done) -> dict[str, str]:
    return {verdict["file"].removeprefix("wheels/"): verdict["result"] for verdict in done.json["upstream"] if verdict["sort"] == "wheel"}


def test_who_published_is_proven_again_without_any_network(world):
    world.attest(APP)
    world.attest(LIB)
    world.policy("app", "lib")
    world.build(0)
    locked = json.loads((world.desk.folder / "bundle.lock.json").read_text())
    assert [part["name"] for part in locked["components"]] == ["gw", "gw.upstream"]
    before = (world.desk.folder / "bundle.lock.json").read_bytes()
    world.desk.bundle("lock", "bundle.yaml", "--check")
    done = world.verify(0)
    assert ends(done) == {APP: "good", LIB: "good"}
    assert (world.desk.folder / "bundle.lock.json").read_bytes() == before
    said = world.desk.audit("verify", "b", "--policy", "policy.json", isolated=True)
    assert "wheels in gw: attestations of the index: 2 good" in said.out
    world.desk.audit("install", "b", "--policy", "policy.json", "--store", "store", isolated=True, code=5)
    world.desk.audit("evidence", "b", "--policy", "policy.json", "--out", "evidence", isolated=True, code=5)
    kept = json.loads((world.desk.folder / "evidence" / "verification.json").read_text())
    assert {verdict["result"] for verdict in kept["upstream"]} == {"good"}


def test_a_fork_is_refused_at_the_build(world, private, log):
    world.attest(APP, Publisher(private, log, repository="https://git.example.test/fork/app"))
    world.policy("app")
    done = world.build(4)
    assert "upstream.wrong" in done.err
    assert "OIDCSourceRepositoryURI" in done.err
    assert not (world.desk.folder / "b" / "index.json").exists()


def test_absence_is_not_assessed_and_is_refused_only_where_the_policy_says_so(world):
    world.attest(LIB)
    world.policy("app", "lib")
    world.build(5)
    done = world.verify(5)
    assert ends(done) == {APP: "missing", LIB: "good"}
    said = world.desk.audit("verify", "b", "--policy", "policy.json", isolated=True, code=5)
    assert "wheels in gw: attestations of the index: 1 good, 1 missing" in said.out
    assert f"not assessed: gw: {APP}: the policy names who publishes it" in said.out
    assert "the index names no provenance of it" in said.out


def test_where_the_policy_refuses_absence_the_build_stops(world):
    world.policy("app", gates="upstream=refuse")
    assert "upstream.missing" in world.build(4).err


def test_wheels_that_nobody_is_named_for_are_said_once(world):
    world.attest(APP)
    world.attest(LIB)
    world.build(5)
    said = world.verify(5)
    assert ends(said) == {APP: "nobody named", LIB: "nobody named"}


def test_without_attestations_and_rules_nothing_changes(world):
    world.build(0)
    assert ends(world.verify(0)) == {APP: "nobody named", LIB: "nobody named"}


def test_a_provenance_that_is_served_otherwise_later_stops_a_build_without_the_cache(world):
    world.attest(APP)
    world.policy("app")
    world.desk.bundle("lock", "bundle.yaml")
    world.attest(APP)  # of the same file, and other bytes
    world.desk.bundle("build", "bundle.lock.json", "--out", "b", "--policy", "policy.json")  # from the cache
    other = Desk(world.desk.folder, (*world.desk.environment, ("AIRGAP_CACHE", str(world.desk.folder / "cache2"))))
    done = other.bundle("build", "bundle.lock.json", "--out", "b2", "--policy", "policy.json", code=3)
    assert "provenance" in done.err or "gw.upstream" in done.err
    other.bundle("lock", "bundle.yaml")
    other.bundle("build", "bundle.lock.json", "--out", "b2", "--policy", "policy.json")
