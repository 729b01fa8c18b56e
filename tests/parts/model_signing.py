"""The OpenSSF's own `model_signing` as a second implementation: it verifies what we sign, and signs what we verify.

From the package index that this machine is set up for, with the `pyopenssl` it forgets to ask for, once, into an environment of its own
under `parts-cache/`. It is a peer to compare with, not a dependency.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from parts.images import CACHE

VERSION = "1.1.1"
WANTED = (f"model-signing=={VERSION}", "pyopenssl")


@cache
def program() -> Path:
    """Give the program, installed the first time."""
    home = CACHE / f"model-signing-{VERSION}"
    CACHE.mkdir(exist_ok=True)
    found = home / "bin" / "model_signing"
    with (CACHE / f".{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            uv = str(Path(sys.executable).parent / "uv")
            _done(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home))
            _done(uv, "pip", "install", "--quiet", "--python", str(home / "bin" / "python"), *WANTED)
    return found


def run(*arguments: str | Path, cwd: Path | None = None) -> tuple[int, str]:
    """Run it and give its exit code and everything it said."""
    command = [str(program()), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, cwd=cwd, env={**os.environ, "NO_COLOR": "1"}
    )
    return done.returncode, done.stdout + done.stderr


def verified(model: Path, signature: Path, *how: str | Path) -> tuple[bool, str]:
    """Say whether it accepts `signature` over `model`, and what it said."""
    code, said = run("verify", how[0], model, "--signature", signature, *how[1:])
    return code == 0, said


def sign(model: Path, signature: Path, *how: str | Path) -> None:
    code, said = run("sign", how[0], model, "--signature", signature, *how[1:])
    assert code == 0, said


def _done(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
