"""Verdicts over wheels as findings: hundreds of them make few lines, absence is unknown, and wrong stays wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from parts.pep740 import Publisher, policy, provenance
from parts.rekor1 import Rekor1, rekor1
from parts.sigstore import PrivateSigstore, private_sigstore
from parts.upstream import site_policy
from parts.wheelhouse import APP, NONE, Carried

from audit.checks import Examined, Subject, gate, load, run_one
from audit.checks.upstream import NO_POLICY

FORK = "https://git.example.test/fork/app"
WHEEL = b"the wheel"


@pytest.fixture(scope="module")
def private() -> Iterator[PrivateSigstore]:
    with private_sigstore() as started:
        yield started


@pytest.fixture(scope="module")
def log(private: PrivateSigstore) -> Iterator[Rekor1]:
    with rekor1(private) as started:
        yield started


@pytest.fixture(scope="module")
def publisher(private: PrivateSigstore, log: Rekor1) -> Publisher:
    return Publisher(private, log)


@pytest.fixture
def carried(tmp_path: Path) -> Carried:
    return Carried(tmp_path)


CHECK = load("upstream")


def noted(carried: Carried, believed, gates: dict | None = None):
    made = believed.changed(gates=gates) if gates else believed
    return run_one(CHECK, Subject(carried.layout, carried.components(), made))


def test_what_is_missing_is_not_assessed_in_one_note_and_a_finding_where_the_policy_refuses(tmp_path, log):
    carried = Carried(tmp_path, {f"app-1.{at}-py3-none-any.whl": b"%d" % at for at in range(200)})
    found = noted(carried, policy(log.trusted_root()))
    (note,) = found.not_assessed
    assert (note.component, note.path) == ("gw", "")
    assert note.reason.startswith("app-1.0-py3-none-any.whl, app-1.1-py3-none-any.whl, app-1.10-py3-none-any.whl and 197 more: the policy names who")
    assert NONE in note.reason
    assert gate([found], {}).exit_code == 5
    assert gate([noted(carried, policy(log.trusted_root()), {"upstream": "warn"})], {"upstream": "warn"}).exit_code == 5
    strict = noted(carried, policy(log.trusted_root()), {"upstream": "refuse"})
    assert {(finding.id, finding.severity) for finding in strict.findings} == {("upstream.missing", "high")}
    assert gate([strict], {"upstream": "refuse"}).exit_code == 4


def test_wheels_nobody_is_named_for_are_told_once_where_somebody_attested_them(tmp_path, log, publisher):
    names = [f"app-1.{at}-py3-none-any.whl" for at in range(9)]
    carried = Carried(tmp_path, {name: name.encode() for name in names})
    assert noted(carried, site_policy()).outcome == "nothing to examine"
    assert run_one(CHECK, Subject(carried.layout, carried.components())).outcome == "nothing to examine"
    for name in names:
        carried.attest(name, provenance(publisher.attest(name, name.encode())))
    (note,) = noted(carried, site_policy()).not_assessed
    assert note.reason.endswith("and 6 more: attested, and the policy names nobody for them")
    (note,) = run_one(CHECK, Subject(carried.layout, carried.components())).not_assessed
    assert note.reason.endswith(f"and 6 more: attested, and {NO_POLICY}")


def test_a_good_wheel_is_examined_and_a_wrong_one_is_refused_whatever_a_gate_says(carried, log, private, publisher):
    carried.attest(APP, provenance(publisher.attest(APP, WHEEL)))
    found = noted(carried, policy(log.trusted_root()))
    assert (found.outcome, found.examined) == ("nothing found", 1)
    assert list(CHECK.run(Subject(carried.layout, carried.components(), policy(log.trusted_root())))) == [Examined("gw", f"wheels/{APP}")]
    carried.attest(APP, provenance(Publisher(private, log, repository=FORK).attest(APP, WHEEL)))
    (finding,) = noted(carried, policy(log.trusted_root())).findings
    assert (finding.id, finding.path, finding.waivable) == ("upstream.wrong", f"wheels/{APP}", False)
