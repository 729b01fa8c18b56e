"""The two programs as people run them: real processes, real exit codes, on request in a network namespace with no interface."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.executable).parent
NO_NETWORK = ("unshare", "-n")  # not even loopback is up in it


@dataclass(frozen=True)
class Done:
    """What a program left: exit code, both outputs."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Desk:
    """A folder to work in, with a cache of its own."""

    folder: Path
    environment: tuple[tuple[str, str], ...] = ()

    def bundle(self, *arguments: str | Path, code: int | None = 0) -> Done:
        return self._run((str(BIN / "airgap-bundle"),), arguments, code)

    def audit(self, *arguments: str | Path, code: int | None = 0, isolated: bool = False) -> Done:
        if isolated:
            need_namespaces()
        return self._run((*(NO_NETWORK if isolated else ()), str(BIN / "airgap-audit")), arguments, code)

    def start(self, side: str, *arguments: str | Path, **more: str) -> subprocess.Popen[bytes]:
        """Start a program without waiting for it, to be killed."""
        command = [str(BIN / f"airgap-{side}"), *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.env() | more, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )

    def write_intent(self, *components: str, extra: str = "") -> Path:
        lines = ["apiVersion: airgap/v1", "name: t", "stream: s", *extra.splitlines(), "components:", *(f"  - {{{c}}}" for c in components)]
        path = self.folder / "bundle.yaml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def trust(self) -> Path:
        """Make keys of alice and bob and a policy that wants both."""
        for name in ("alice", "bob"):
            self.bundle("keygen", name, "--out", "keys", "--no-passphrase")
        signers = ("--signer", "alice=keys/alice.pub", "--signer", "bob=keys/bob.pub")
        self.bundle("policy", "init", "policy.json", "--stream", "s", *signers, "--threshold", "2")
        return self.folder / "policy.json"

    def sign(self, folder: str | Path, serial: int = 1) -> None:
        self.bundle("sign", folder, "--key", "file:keys/alice.key", "--serial", str(serial))
        self.bundle("sign", folder, "--key", "file:keys/bob.key", "--policy", "policy.json")

    def env(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AIRGAP_")}
        own = {"AIRGAP_CACHE": str(self.folder / "cache"), "HOME": str(self.folder / "home"), "NO_COLOR": "1"}
        return kept | own | dict(self.environment)

    def _run(self, program: tuple[str, ...], arguments: tuple[str | Path, ...], code: int | None) -> Done:
        command = [*program, *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.folder, env=self.env(), check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600
        )
        assert code is None or done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)


def need_namespaces() -> None:
    """Skip where no network namespace can be made."""
    if shutil.which("unshare") is None or os.geteuid() != 0 or subprocess.run([*NO_NETWORK, "true"], check=False).returncode:
        pytest.skip("needs root and unshare(1) to make a network namespace")
