"""The connected side's command line, as a user meets it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from parts import httpd
from parts.cli import Desk

from bundler import render
from manifests.lock import Lock, LockedComponent


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("hello\n")
    return Desk(tmp_path)


def test_lock_twice_is_byte_identical_and_check_tells_what_moved(desk: Desk) -> None:
    path = desk.write_intent("name: docs, kind: path, path: ./docs")
    desk.bundle("lock", path, "--check", code=1)
    assert not (desk.folder / "bundle.lock.json").exists()
    desk.bundle("lock", path)
    first = (desk.folder / "bundle.lock.json").read_bytes()
    assert desk.bundle("lock", path, "--json").json["state"] == "unchanged"
    desk.bundle("lock", path, "--check")
    assert (desk.folder / "bundle.lock.json").read_bytes() == first
    (desk.folder / "docs" / "a.txt").write_text("changed\n")
    refused = desk.bundle("lock", path, "--check", code=1)
    assert "docs: file a.txt" in refused.err
    assert "hint: run `airgap-bundle lock" in refused.err
    assert (desk.folder / "bundle.lock.json").read_bytes() == first


def test_two_builds_of_one_lock_are_the_same_bytes(desk: Desk) -> None:
    desk.bundle("lock", desk.write_intent("name: docs, kind: path, path: ./docs"))
    for out in ("one", "two"):
        assert desk.bundle("build", "bundle.lock.json", "--out", out, "--json").json["changed"] is True
    for name in ("index.json", "SHA256SUMS"):
        assert (desk.folder / "one" / name).read_bytes() == (desk.folder / "two" / name).read_bytes()
    assert desk.bundle("build", "bundle.lock.json", "--out", "one", "--json").json["changed"] is False


def test_a_file_changed_after_locking_cannot_get_in(desk: Desk) -> None:
    desk.bundle("lock", desk.write_intent("name: docs, kind: path, path: ./docs"))
    (desk.folder / "docs" / "a.txt").write_text("hellO\n")
    refused = desk.bundle("build", "bundle.lock.json", "--out", "out", code=3)
    assert "docs/a.txt" in refused.err
    assert not (desk.folder / "out" / "index.json").exists()


def test_a_signed_bundle_is_not_built_over(desk: Desk) -> None:
    desk.trust()
    path = desk.write_intent("name: docs, kind: path, path: ./docs")
    desk.bundle("lock", path)
    desk.bundle("build", "bundle.lock.json", "--out", "out")
    desk.sign("out")
    before = (desk.folder / "out" / "index.json").read_bytes()
    assert desk.bundle("build", "bundle.lock.json", "--out", "out", "--json").json["changed"] is False
    (desk.folder / "docs" / "a.txt").write_text("new\n")
    desk.bundle("lock", path)
    assert "holds a signed bundle of another lock" in desk.bundle("build", "bundle.lock.json", "--out", "out", code=3).err
    assert (desk.folder / "out" / "index.json").read_bytes() == before
    desk.bundle("build", "bundle.lock.json", "--out", "next", "--reuse", "out")
    desk.audit("verify", "out", "--policy", "policy.json")


@pytest.mark.parametrize(
    ("component", "line", "said"),
    [
        ("name: docs, kind: nonsense", 5, "no source"),
        ("name: docs, kind: path", 5, "path"),
        ("name: docs, kind: path, path: ./docs, extra: 1", 5, "extra"),
        ("name: Docs, kind: path, path: ./docs", 5, "name"),
    ],
)
def test_a_wrong_intent_is_refused_with_file_line_and_field(desk: Desk, component: str, line: int, said: str) -> None:
    done = desk.bundle("lock", desk.write_intent(component), code=2)
    first = done.err.splitlines()[0]
    assert f"bundle.yaml:{line}:" in first
    assert said in first
    assert done.out == ""


def test_errors_are_json_on_stdout_when_asked(desk: Desk) -> None:
    done = desk.bundle("build", "absent.json", "--out", "out", "--json", code=2)
    (error,) = done.json["error"]
    assert "absent.json" in error["message"]
    assert error["hint"]
    assert done.json["exitCode"] == 2


def test_the_schema_accepts_the_examples(desk: Desk) -> None:
    import jsonschema_rs
    import yaml

    validator = jsonschema_rs.validator_for(json.loads(desk.bundle("schema").out))
    examples = Path(__file__).parents[1] / "examples"
    for path in sorted(examples.glob("*/*.yaml")):
        if path.name != "site.yaml":
            assert validator.is_valid(yaml.safe_load(path.read_text())), path
    assert not validator.is_valid({"apiVersion": "airgap/v1", "name": "x", "stream": "x", "components": [{"name": "a", "kind": "path"}]})


def test_init_writes_a_file_that_is_valid_but_for_its_placeholder(desk: Desk) -> None:
    desk.bundle("init", "mine.yaml")
    desk.bundle("init", "mine.yaml", code=2)
    assert "ORG/MODEL" in (desk.folder / "mine.yaml").read_text()


def test_keygen_asks_nothing_without_a_terminal_and_guards_the_key(desk: Desk) -> None:
    assert "stdin is no terminal" in desk.bundle("keygen", "alice", code=2).err
    (desk.folder / "pass").write_text("correct horse\n")
    desk.bundle("keygen", "alice", "--passphrase-file", "pass", "--algorithm", "ed25519")
    key = desk.folder / "alice.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in key.read_bytes()
    assert "exists already" in desk.bundle("keygen", "alice", "--no-passphrase", code=2).err


def test_policy_add_signer_changes_the_policy_and_leaves_its_version(desk: Desk) -> None:
    path = desk.trust()
    desk.bundle("keygen", "carol", "--out", "keys", "--no-passphrase")
    data = desk.bundle("policy", "add-signer", path, "--signer", "carol=keys/carol.pub", "--threshold", "3", "--json").json
    assert data["policy"]["version"] == 1
    assert data["policy"]["roles"]["bundle"]["threshold"] == 3
    assert "3 of alice, bob, carol" in desk.bundle("policy", "show", path).out


def test_a_policy_the_site_would_accept_nothing_by_is_not_taken(desk: Desk) -> None:
    desk.trust()
    desk.bundle("lock", desk.write_intent("name: docs, kind: path, path: ./docs"))
    desk.bundle("build", "bundle.lock.json", "--out", "out", "--policy", "policy.json")
    policy = json.loads((desk.folder / "policy.json").read_text())
    for change, said in (({"stream": "other"}, "is for stream 'other', the bundle is of 's'"), ({"expires": "2020-01-01T00:00:00Z"}, "expired on")):
        (desk.folder / "wrong.json").write_text(json.dumps(policy | change))
        assert said in desk.bundle("build", "bundle.lock.json", "--out", "out", "--policy", "wrong.json", code=2).err
        refused = desk.bundle("sign", "out", "--key", "file:keys/alice.key", "--serial", "1", "--policy", "wrong.json", code=2)
        assert said in refused.err
        assert not (desk.folder / "out/signatures").exists()
    wrong = desk.bundle("sign", "out", "--key", "file:keys/alice.key", "--serial", "1", "--previous", "12", code=2).err
    assert "--previous '12' is no sha256" in wrong


def test_signing_by_a_policy_says_who_counts_and_who_is_missing(desk: Desk) -> None:
    desk.trust()
    desk.bundle("keygen", "mallory", "--out", "keys", "--no-passphrase")
    desk.bundle("lock", desk.write_intent("name: docs, kind: path, path: ./docs"))
    desk.bundle("build", "bundle.lock.json", "--out", "out")
    sign = ("sign", "out", "--policy", "policy.json", "--key")
    first = desk.bundle(*sign, "file:keys/mallory.key", "--serial", "1").out
    assert "needed signers (signed by nobody who counts, not by alice, bob)" in first
    assert "policy: signatures/mallory.sigstore.json does not count: made with no key of this policy" in first
    assert "(signed by alice, not by bob)" in desk.bundle(*sign, "file:keys/alice.key").out
    data = desk.bundle(*sign, "file:keys/bob.key", "--json").json
    assert (data["missing"], data["signed"], data["waiting"], data["failures"]) == (None, ["alice", "bob"], [], [])
    assert [entry["file"] for entry in data["ignored"]] == ["signatures/mallory.sigstore.json"]


def test_a_lock_of_packages_says_how_many() -> None:
    component = LockedComponent(name="gateway", kind="python", form="tree", facts={"packages": "104"})
    lock = Lock(name="b", stream="s", intentSha256="0" * 64, components=(component,))
    assert "packages: 104" in render.locked(lock, Path("b"), (), written=True, known=False).text


def test_plan_fetches_nothing_large_and_says_what_it_did_not_assess(desk: Desk) -> None:
    with httpd.Server() as server:
        url = server.serve("/big.bin", os.urandom(1 << 20))
        path = desk.write_intent(f"name: big, kind: url, url: '{url}', sha256: '{'0' * 64}'")
        data = desk.bundle("plan", path, "--json").json
        assert data["size"] == 1 << 20
        assert server.sent("/big.bin") == 0
        assert data["notAssessed"]


def test_kill_9_in_the_middle_of_a_build_then_again_gives_the_same_bundle(desk: Desk) -> None:
    data = os.urandom(48 << 20)
    with httpd.Server() as server:
        url = server.serve("/w.bin", data, rate=24 << 20)
        import hashlib

        path = desk.write_intent(
            f"name: big, kind: url, url: '{url}', sha256: '{hashlib.sha256(data).hexdigest()}'", "name: docs, kind: path, path: ./docs"
        )
        desk.bundle("lock", path)
        for at in range(1, 4):
            process = desk.start("bundle", "build", "bundle.lock.json", "--out", "killed")
            while server.sent("/w.bin") < at * (8 << 20):
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not (desk.folder / "killed" / "index.json").exists()
        desk.bundle("build", "bundle.lock.json", "--out", "killed")
        sent = server.sent("/w.bin")
        assert sent < len(data) * 1.5, f"{sent} bytes sent for {len(data)}"
        desk.bundle("build", "bundle.lock.json", "--out", "clean", "--cache", "other")
    left, right = ({p.relative_to(desk.folder / n) for p in (desk.folder / n).rglob("*")} for n in ("killed", "clean"))
    assert left == right
    assert (desk.folder / "killed" / "SHA256SUMS").read_bytes() == (desk.folder / "clean" / "SHA256SUMS").read_bytes()


def test_kill_9_while_locking_leaves_the_old_lock_or_the_new(desk: Desk) -> None:
    path = desk.write_intent("name: docs, kind: path, path: ./docs")
    desk.bundle("lock", path)
    old = (desk.folder / "bundle.lock.json").read_bytes()
    for at in range(200):
        (desk.folder / "docs" / f"{at}.txt").write_text(str(at))
    for delay in (0.25, 0.35, 0.45, 0.5, 0.55, 0.6):
        process = desk.start("bundle", "lock", path)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = (desk.folder / "bundle.lock.json").read_bytes()
        assert now == old or len(Lock.parse(now, "lock").components[0].files) == 201
    desk.bundle("lock", path)
    shutil.rmtree(desk.folder / "cache")
    assert desk.bundle("lock", path, "--json").json["state"] == "unchanged"


def test_paranoid_replaces_a_damaged_blob(desk: Desk) -> None:
    desk.bundle("lock", desk.write_intent("name: docs, kind: path, path: ./docs"))
    desk.bundle("build", "bundle.lock.json", "--out", "out")
    blob = next(p for p in (desk.folder / "out" / "blobs" / "sha256").iterdir() if p.read_bytes() == b"hello\n")
    blob.chmod(0o644)
    blob.write_bytes(b"hellO\n")
    desk.bundle("build", "bundle.lock.json", "--out", "out", "--paranoid")
    assert blob.read_bytes() == b"hello\n"
