"""The real `cosign` 2.5 of Debian 13, to sign images in a real registry and to give a second opinion on signatures.

It comes from the mirror this machine's own apt configuration names, through a private apt root: nothing on the machine is installed or
changed. Where this machine's C library is too old for it, it runs with that of Debian 13. Both are kept under `parts-cache/`.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from parts.images import CACHE, find, need, tool

SUITE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
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
    need("apt-get", "dpkg-deb")
    if platform.machine() != "x86_64" or not KEYRING.exists():
        pytest.skip("cosign is taken from Debian, for amd64")
    folder.mkdir(parents=True, exist_ok=True)
    return Cosign(_program(_cached()), folder)


def _cached() -> Path:
    made = CACHE / f"cosign-{SUITE}-{RECIPE}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f".{made.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_dir():
            work = CACHE / f".{made.name}.work"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            for package in _download(work / "apt", "cosign", "libc6"):
                tool("dpkg-deb", "-x", package, work / "root")
            (work / "root").rename(made)
            shutil.rmtree(work)
    return made


def _program(root: Path) -> tuple[str, ...]:
    direct = str(root / "usr/bin/cosign")
    if subprocess.run([direct, "version"], capture_output=True, check=False).returncode == 0:
        return (direct,)
    loader, libraries = root / "usr/lib64/ld-linux-x86-64.so.2", root / "usr/lib/x86_64-linux-gnu"
    return (str(loader), "--library-path", str(libraries), direct)


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
