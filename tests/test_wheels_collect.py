"""What an index publishes beside its files is collected while locking: pinned where it is there, noted with the reason where it is not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts import httpd, pyindex
from parts.pydesk import Desk, base, text

from airgap_images.wheel_evidence import FORMAT, MAX_PROVENANCE, WheelEvidence
from audit.verify.published import MAX_ATTESTATIONS
from bundler.sources import python
from bundler.upstream import wheels
from bundler.upstream.wheels import NO_SERVER, NOT_NAMED
from manifests.errors import InvalidFileError
from manifests.lock import LockedComponent

APP, LIB = "app-1.0-py3-none-any.whl", "lib-2.5-py3-none-any.whl"
ACCEPT = "application/vnd.pypi.integrity.v1+json, application/json;q=0.9"


@pytest.fixture(params=["json", "html"])
def desk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Desk]:
    with pyindex.Index(html=request.param == "html") as index:
        made = Desk(tmp_path, index, environment=base(tmp_path) | {"UV_DEFAULT_INDEX": index.url})
        made.add("app", "1.0", requires=["lib"])
        made.add("lib", "2.5")
        yield made


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Desk]:
    with pyindex.Index() as index:
        made = Desk(tmp_path, index, environment=base(tmp_path) | {"UV_DEFAULT_INDEX": index.url})
        made.add("app", "1.0", requires=["lib"])
        made.add("lib", "2.5")
        yield made


def served(note: str = "") -> bytes:
    """A file of the form of a provenance; who signed it is not asked while collecting."""
    return json.dumps({"version": 1, "attestation_bundles": [{"publisher": {}, "attestations": [{"note": note}]}]}).encode()


def listing(component: LockedComponent) -> WheelEvidence:
    return WheelEvidence.parse(text(component, "upstream.json").encode(), "upstream.json")


def why(component: LockedComponent, filename: str = APP) -> str:
    return next(why for why, paths in listing(component).absent if f"wheels/{filename}" in paths)


def test_what_the_index_names_is_pinned_and_the_rest_is_noted(desk: Desk) -> None:
    assert desk.index
    url = desk.index.attest(APP, served())
    locked = desk.lock("app")
    found = desk.beside(locked)
    assert (found.name, found.kind, found.form, found.identity) == ("gw.upstream", "python", "tree", {"of": "gw"})
    (pin,) = found.files
    assert (pin.url, pin.size, pin.path) == (url, len(served()), f"provenance/{pin.sha256}.json")
    said = listing(found)
    sha256 = {pin.path: pin.sha256 for pin in locked.files}
    assert [(one.path, one.sha256, one.provenance) for one in said.attested] == [(f"wheels/{APP}", sha256[f"wheels/{APP}"], pin.path)]
    assert said.absent == ((NOT_NAMED, (f"wheels/{LIB}",)),)
    assert found.facts == {"upstream-attestations": "of 1 of 2 files"}
    assert desk.warnings == []
    assert desk.index.server.seen("/integrity/app/app-1.0-py3-none-any.whl/provenance")[0].headers["accept"] == ACCEPT


def test_the_bytes_are_carried_as_the_index_served_them(desk: Desk) -> None:
    assert desk.index
    raw = b'{ "version": 1,\n "attestation_bundles": [ {"attestations": [{}]} ] }\n'
    desk.index.attest(APP, raw)
    folder = desk.placed(desk.beside(desk.lock("app")))
    (kept,) = (folder / "provenance").iterdir()
    assert kept.read_bytes() == raw
    assert len(desk.index.server.seen(f"/integrity/app/{APP}/provenance")) == 1  # the build took it from the cache


def test_nothing_published_is_a_component_that_says_so(desk: Desk) -> None:
    found = desk.beside(desk.lock("app"))
    assert (found.files, found.facts) == ((), {"upstream-attestations": "none found"})
    assert listing(found).absent == ((NOT_NAMED, (f"wheels/{APP}", f"wheels/{LIB}")),)
    assert json.loads(text(found, "upstream.json"))["format"] == FORMAT


def test_locking_twice_gives_the_same_bytes_and_asks_only_for_what_was_absent(desk: Desk) -> None:
    assert desk.index
    desk.index.attest(APP, served())
    first = desk.lock("app")
    before = desk.beside(first)
    asked = len(desk.index.server.seen(f"/integrity/app/{APP}/provenance"))
    again = desk.lock("app", previous=first)
    listings = [len(desk.index.server.seen(f"/simple/{name}/")) for name in ("app", "lib")]
    assert (again, desk.beside(again, first, before)) == (first, before)
    assert len(desk.index.server.seen(f"/integrity/app/{APP}/provenance")) == asked
    assert [len(desk.index.server.seen(f"/simple/{name}/")) for name in ("app", "lib")] == [listings[0], listings[1] + 1]
    assert desk.beside(again) == before  # without an old lock, too


def test_what_was_absent_and_is_there_now_is_found(one: Desk) -> None:
    assert one.index
    first = one.lock("app")
    before = one.beside(first)
    one.index.attest(LIB, served())
    assert [entry.path for entry in listing(one.beside(first, first, before)).attested] == [f"wheels/{LIB}"]


@pytest.mark.parametrize("change", ["file", "address", "cache", "lock"])
def test_an_old_provenance_is_not_taken_where_anything_else_moved(one: Desk, change: str) -> None:
    assert one.index
    path = f"/integrity/app/{APP}/provenance"
    one.index.attest(APP, served("old"))
    first = one.lock("app")
    before = one.beside(first)
    one.index.attest(APP, served("new"))
    old = next(pin for pin in first.files if pin.path.endswith(APP))
    if change == "file":
        stood = (old.model_copy(update={"sha256": "0" * 64}),)
    else:
        stood = (old.model_copy(update={"url": "http://elsewhere.example.test/"}),) if change == "address" else first.files
    if change == "cache":
        (one.cache.root / "blobs" / "sha256" / before.files[0].sha256).unlink()
    if change == "lock":
        before = before.model_copy(update={"inline": (before.inline[0].model_copy(update={"text": "{}"}),)})
    found = one.beside(first, first.model_copy(update={"files": stood}), before)
    assert [pin.sha256 for pin in found.files] == [hashlib.sha256(served("new")).hexdigest()]
    assert len(one.index.server.seen(path)) == 2


@pytest.mark.parametrize(
    ("body", "faults", "reason"),
    [
        (b"no", {"first": [(404, {})] * 9}, "the server answered 404"),
        (b"no", {"first": [(500, {})] * 9}, "the server answered 500"),
        (b"<html>a login page</html>", {}, "what is served as its provenance: not valid JSON"),
        (b'{"version": 1}', {}, "what is served as its provenance: not a provenance file of a package index (PEP 740)"),
        (b'{"version": 2, "attestation_bundles": []}', {}, "what is served as its provenance: of another version than 1"),
        (b'{"version": 1, "attestation_bundles": []}', {}, f"0 attestations in it, expected 1 to {MAX_ATTESTATIONS}"),
        (b'{"version": 1, "version": 1, "attestation_bundles": [{"attestations": [{}]}]}', {}, "duplicate key 'version'"),
        (b'{"version": 1, "attestation_bundles": [{"attestations": [' + b"{}," * 4999 + b"{}]}]}", {}, "5000 attestations in it"),
        (b"[" * 100_000, {}, "nested too deeply"),
        (httpd.Pattern(MAX_PROVENANCE + 1), {}, "no whole answer arrived"),
        (served(), {"endless": True}, "no whole answer arrived"),
        (served(), {"drop_after": 10}, "no whole answer arrived"),
        (served(), {"stall_after": 10}, "no whole answer arrived"),
    ],
    ids=["404", "500", "html", "other", "version", "none", "twice", "5000", "deep", "huge", "endless", "cut", "slow"],
)
def test_what_cannot_be_had_is_noted_and_stops_nothing(one: Desk, body, faults, reason) -> None:
    assert one.index
    one.patience = 1
    one.index.attest(APP, body, **faults)
    one.index.attest(LIB, served())
    found = one.beside(one.lock("app"))
    assert reason in why(found)
    assert [entry.path for entry in listing(found).attested] == [f"wheels/{LIB}"]
    assert found.facts == {"upstream-attestations": "of 1 of 2 files", "upstream-not-collected": "1"}
    assert [line for line in one.warnings if line.startswith(f"gw: attestations not collected: {APP}: ")]


def test_a_redirect_to_another_host_is_followed_without_anything_secret(tmp_path: Path) -> None:
    with pyindex.Index(user="reader:secret") as index, httpd.Server() as other:
        other.serve("/kept", served())
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login reader password secret\n")
        made = Desk(tmp_path, index, environment=base(tmp_path) | {"UV_DEFAULT_INDEX": index.url, "NETRC": str(tmp_path / ".netrc")})
        made.add("app", "1.0")
        index.attest(APP, b"", first=[(302, {"Location": f"{other.origin.replace('127.0.0.1', 'localhost')}/kept"})])
        made.netrc = tmp_path / ".netrc"
        found = made.beside(made.lock("app"))
        assert len(listing(found).attested) == 1
        assert found.files[0].url == f"{index.server.origin}/integrity/app/{APP}/provenance"
        assert index.server.seen(f"/integrity/app/{APP}/provenance")[-1].headers["authorization"] == index.authorization
        assert "authorization" not in other.seen("/kept")[0].headers


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://127.0.0.1/x", "what the index names as its provenance is no http address"),
        ("file:///etc/passwd", "what the index names as its provenance is no http address"),
        ("http://[", NOT_NAMED),
        ("http://user:secret@127.0.0.1/x", "the address of its provenance holds a user name"),
    ],
)
def test_only_addresses_of_servers_are_asked(desk: Desk, url, reason) -> None:
    assert desk.index
    desk.index.attest(APP, served(), url=url)
    found = desk.beside(desk.lock("app"))
    assert why(found) == reason
    assert found.files == ()


def test_an_address_may_be_relative_to_the_listing(desk: Desk) -> None:
    assert desk.index
    desk.index.attest(APP, served(), url=f"../../integrity/app/{APP}/provenance")
    assert desk.beside(desk.lock("app")).files[0].url == f"{desk.index.server.origin}/integrity/app/{APP}/provenance"


def test_what_is_listed_for_other_bytes_of_that_name_is_not_taken(one: Desk) -> None:
    assert one.index
    one.index.attest(APP, served())
    locked = one.lock("app")
    files = tuple(pin.model_copy(update={"sha256": "0" * 64}) for pin in locked.files)
    assert why(one.beside(locked.model_copy(update={"files": files}))) == "the index lists other bytes under its name"
    one.index.files["app"] = []
    one.index._list("app")
    assert why(one.beside(locked)) == "the index does not list it"


def test_a_folder_publishes_nothing_and_is_not_asked(one: Desk) -> None:
    locked = one.lock("app")
    files = tuple(pin.model_copy(update={"evidence": {"index": "file:///srv/simple"}}) for pin in locked.files)
    found = one.beside(locked.model_copy(update={"files": files}))
    assert why(found) == NO_SERVER
    assert found.facts == {"upstream-attestations": "none found"}
    assert one.warnings == []


def test_a_dead_index_costs_little_and_the_lock_stays_the_same(one: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one.index
    locked = one.lock("app")
    pin = locked.files[0]
    many = tuple(
        pin.model_copy(update={"path": f"wheels/p{at}-1.0-py3-none-any.whl", "evidence": {"index": "http://127.0.0.1:9/simple"}}) for at in range(40)
    )
    asked: list[str] = []
    real = wheels.simple.beside
    monkeypatch.setattr(wheels.simple, "beside", lambda *key: asked.append(key[2]) or real(*key))
    found = one.beside(locked.model_copy(update={"files": many}))
    assert len(asked) == wheels.AT_ONCE
    assert {reason for reason, _ in listing(found).absent} == {
        "the index's list of files: no whole answer arrived",
        "the index's list of files: not asked for, after 3 failures",
    }
    assert found.facts["upstream-not-collected"] == "40"
    assert found == one.beside(locked.model_copy(update={"files": many}))


def test_no_more_is_taken_than_the_limit(one: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one.index
    one.index.attest(APP, served("a"))
    one.index.attest(LIB, served("b"))
    monkeypatch.setattr(wheels, "MAX_TOTAL", len(served("a")) + 1)
    found = one.beside(one.lock("app"))
    assert [entry.path for entry in listing(found).attested] == [f"wheels/{APP}"]
    assert why(found, LIB).startswith("not taken, after")


def test_one_provenance_of_two_files_is_pinned_once(one: Desk) -> None:
    assert one.index
    one.index.attest(APP, served())
    one.index.attest(LIB, served())
    found = one.beside(one.lock("app"))
    assert len(found.files) == 1
    assert {entry.provenance for entry in listing(found).attested} == {found.files[0].path}


def test_two_hundred_wheels_without_any_make_a_small_listing(one: Desk) -> None:
    locked = one.lock("app")
    pin = locked.files[0].model_copy(update={"evidence": {}})
    names = [f"wheels/some_project_{at}-1.0.0-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl" for at in range(200)]
    found = one.beside(locked.model_copy(update={"files": tuple(pin.model_copy(update={"path": name}) for name in names)}))
    assert len(text(found, "upstream.json")) < 20_000


def test_skip_asks_nothing_and_says_so(one: Desk) -> None:
    assert one.index
    options = python.Options.model_validate({"requirements": ["app"], "upstream": "skip"})
    locked = python.resolve("n" * 60, None, options, one.context(), one.environment)
    before = len(one.index.server.requests)
    assert python.companions(locked, options, one.context()) == ()
    assert len(one.index.server.requests) == before
    assert locked.facts["upstream-attestations"] == "not asked for"


def test_a_name_that_leaves_no_room_is_refused_before_anything_is_asked(one: Desk) -> None:
    assert one.index
    options = python.Options.model_validate({"requirements": ["app"]})
    with pytest.raises(InvalidFileError, match="too long") as caught:
        python.resolve("n" * 60, None, options, one.context(), one.environment)
    assert "upstream: skip" in caught.value.hint
    assert one.index.server.requests == []


def test_a_value_of_the_listing_is_what_it_was_written_as() -> None:
    value = WheelEvidence("gw", (), (("why", ("wheels/a.whl",)),))
    assert WheelEvidence.parse(value.to_text().encode(), "x") == value
    with pytest.raises(InvalidFileError, match="twice"):
        WheelEvidence.parse(dataclasses.replace(value, absent=(("why", ("a", "a")),)).to_text().encode(), "x")
