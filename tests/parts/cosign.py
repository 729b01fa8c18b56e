"""The real `cosign` 2.5 of Debian 13, to sign images in a real registry and to give a second opinion on signatures.

It comes from the mirror this machine's own apt configuration names (see `trixie.py`). Where this machine's C library is too old for it, it
runs with that of Debian 13.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from parts import trixie

RECIPE = 1  # count up when the recipe changes
UPLOAD_NOTHING = ("--tlog-upload=false", "--yes", "--allow-http-registry")
IGNORE_LOG = ("--insecure-ignore-tlog", "--allow-http-registry")


@dataclass(frozen=True)
class Cosign:
    """`cosign` with a folder of its own for keys and settings."""

    program: tuple[str, ...]
    folder: Path

    def run(self, *arguments: str | Path, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder), "COSIGN_PASSWORD": ""}
        command = [*self.program, *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120
        )
        assert code is None or done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def key(self, name: str) -> str:
        """Make a key pair `name.key`, `name.pub` and return the public half."""
        self.run("generate-key-pair", "--output-key-prefix", name)
        return (self.folder / f"{name}.pub").read_text()

    def sign(self, name: str, image: str, *more: str) -> None:
        self.run("sign", "--key", f"{name}.key", *UPLOAD_NOTHING, *more, image)

    def attest(self, name: str, image: str, kind: str, predicate: dict, *more: str) -> None:
        (self.folder / "predicate.json").write_text(json.dumps(predicate))
        self.run("attest", "--key", f"{name}.key", "--predicate", "predicate.json", "--type", kind, *UPLOAD_NOTHING, *more, image)

    def accepts(self, name: str, image: str) -> bool:
        """Say whether cosign itself accepts the signatures of `image` by this key."""
        return self.run("verify", "--key", f"{name}.pub", "--offline", *IGNORE_LOG, image, code=None).returncode == 0


def cosign(folder: Path) -> Cosign:
    """Give a cosign that works in `folder`; skips where it cannot be had."""
    folder.mkdir(parents=True, exist_ok=True)
    return Cosign(_program(trixie.unpacked("cosign", RECIPE, "cosign", "libc6")), folder)


def _program(root: Path) -> tuple[str, ...]:
    direct = str(root / "usr/bin/cosign")
    if subprocess.run([direct, "version"], capture_output=True, check=False).returncode == 0:
        return (direct,)
    return trixie.with_its_libraries(root, direct)
