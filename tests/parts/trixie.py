"""Programs of Debian 13 on whatever Debian this machine has.

They come from the mirror this machine's own apt configuration names, through a private apt root: nothing on the machine is installed or
changed. They run with the libraries of Debian 13 beside them, and are kept under `parts-cache/`.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from parts.images import CACHE, find, need, tool

SUITE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def unpacked(name: str, recipe: int, *packages: str) -> Path:
    """Give a folder with `packages` of Debian 13 unpacked in it; count `recipe` up when they change. Skips where it cannot be had."""
    need("apt-get", "dpkg-deb")
    if platform.machine() != "x86_64" or not KEYRING.exists():
        reason = f"{name} is taken from Debian, for amd64"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    made = CACHE / f"{name}-{SUITE}-{recipe}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f".{made.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_dir():
            work = CACHE / f".{made.name}.work"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            for package in _download(work / "apt", *packages):
                tool("dpkg-deb", "-x", package, work / "root")
            (work / "root").rename(made)
            shutil.rmtree(work)
    return made


def with_its_libraries(root: Path, program: str) -> tuple[str, ...]:
    """Give the command that runs `program` with the loader and libraries in `root` instead of this machine's."""
    return (str(root / "usr/lib64/ld-linux-x86-64.so.2"), "--library-path", str(root / "usr/lib/x86_64-linux-gnu"), program)


def _download(apt: Path, *packages: str) -> list[Path]:
    """Fetch packages of another Debian from the mirror this machine uses, proven with this machine's keys."""
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {SUITE} main\n")
    private = {
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    options = [part for key, value in private.items() for part in ("-o", f"{key}={value}")]
    tool("apt-get", *options, "-qq", "update")
    done = subprocess.run([find("apt-get"), *options, "-qq", "download", *packages], cwd=apt, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"apt-get download: {done.stderr}"
    return sorted(apt.glob("*.deb"))


def _mirror() -> str:
    """Return the address this machine has its own Debian from."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    own = release.get("VERSION_CODENAME", "").strip('"')
    listed = tool("apt-get", "indextargets", "--format", "$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)").splitlines()
    found = [uri for kind, uri, suite, part in (line.split() for line in listed) if (kind, suite, part) == ("Packages", own, "main")]
    if not found:
        pytest.skip("this machine's apt configuration names no mirror of Debian")
    return found[0]
