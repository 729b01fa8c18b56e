"""The isolated side opens no socket: the commands run under a trace of every system call that has to do with a network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from parts import bundles, installs
from parts.cli import BIN
from parts.sigstore import ISSUER, private_sigstore

from bundler import sign
from bundler.keyless import open_signer
from manifests import canonical
from manifests.policy import Policy

WORKFLOW = "https://git.example.test/org/repo/.ci/release.yml@refs/heads/main"
OPENED = re.compile(r"\bsocket\(AF_INET, SOCK_STREAM.*\n(.*\n)*.*\bconnect\(3, \{sa_family=AF_INET")


def traced(tmp_path: Path, *command: str | Path, code: int = 0) -> tuple[str, str]:
    """Run a command under the trace; return what it printed and every network call it and its children made."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    log = tmp_path / "calls"
    probe = subprocess.run(["strace", "-f", "-o", log, "true"], check=False, capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"tracing is not permitted here: {probe.stderr[:200]}")
    done = subprocess.run(["strace", "-f", "-qq", "-e", "trace=network", "-e", "signal=none", "-o", log, *command], check=False, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout, log.read_text()


@pytest.fixture
def desk(tmp_path):
    return installs.Desk(tmp_path, bundles.site(tmp_path / "keys"))


@pytest.mark.parts
def test_the_trace_sees_a_socket_where_one_is_opened(tmp_path):
    program = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    _, calls = traced(tmp_path, sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}])")
    assert OPENED.search(calls), calls


@pytest.mark.parts
def test_proving_a_bundle_opens_no_socket(tmp_path, desk):
    bundle = desk.bundle(image=False)
    (tmp_path / "policy.json").write_bytes(desk.who.policy_raw)
    arguments = ("--policy", tmp_path / "policy.json", "--now", canonical.stamp(bundles.NOW))
    said, calls = traced(tmp_path, f"{BIN}/airgap-audit", "verify", bundle, *arguments)
    assert said.startswith("proved: bundle")
    assert calls == ""


@pytest.mark.parts
def test_refusing_a_bundle_opens_no_socket(tmp_path, desk):
    bundle = desk.bundle(image=False)
    (bundle / "stray").write_bytes(b"x")
    (tmp_path / "policy.json").write_bytes(desk.who.policy_raw)
    arguments = ("--policy", tmp_path / "policy.json", "--now", canonical.stamp(bundles.NOW))
    _, calls = traced(tmp_path, f"{BIN}/airgap-audit", "verify", bundle, *arguments, code=3)
    assert calls == ""


@pytest.mark.parts
def test_installing_checking_and_writing_evidence_open_no_socket(tmp_path, desk):
    bundle = desk.bundle(image=False)
    (tmp_path / "policy.json").write_bytes(desk.who.policy_raw)
    store, now = ("--store", desk.store), ("--now", canonical.stamp(bundles.NOW))
    for command in (
        ("install", bundle, "--policy", tmp_path / "policy.json", *store, *now),
        ("check", *store),
        ("evidence", "--out", tmp_path / "evidence", *store, *now),
    ):
        _, calls = traced(tmp_path, f"{BIN}/airgap-audit", *command, code=5 if command[0] == "evidence" else 0)
        assert calls == "", command[0]


@pytest.mark.parts
def test_proving_a_keyless_signature_opens_no_socket(tmp_path):
    """A Sigstore signature is judged in a process of its own, by a library that can reach logs and authorities, and must not."""
    from datetime import UTC, datetime

    bundles.layout(tmp_path / "bundle", {"docs": {"a.txt": b"hello"}})
    with private_sigstore() as private:
        config = private.trust_config()
        (tmp_path / "trust.json").write_bytes(canonical.compact(config))
        signer = open_signer(str(tmp_path / "trust.json"), lambda _: private.token(WORKFLOW))
        sign.sign(tmp_path / "bundle", signer, bundles.terms(created=datetime.now(UTC)))
    entry = {"type": "sigstore", "identity": WORKFLOW, "issuer": ISSUER, "trusted_root": "ours"}
    role = {"threshold": 1, "signers": ["ci"]}
    policy = {
        "version": 1, "expires": "2099-01-01T00:00:00Z", "stream": bundles.STREAM, "signers": {"ci": entry},
        "trusted_roots": {"ours": config["trustedRoot"]}, "roles": {"bundle": role, "policy": role},
    }  # fmt: skip
    (tmp_path / "policy.json").write_bytes(Policy.parse(canonical.compact(policy)).to_bytes())
    said, calls = traced(tmp_path, f"{BIN}/airgap-audit", "verify", tmp_path / "bundle", "--policy", tmp_path / "policy.json")
    assert "signed by ci: sigstore" in said
    assert calls == ""
