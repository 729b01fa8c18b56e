"""Small real images, made of Debian packages by `dpkg-deb`, written by `umoci`, pushed by `skopeo`.

The packages come from the mirror this machine's own apt configuration names, through a private apt root: nothing on the
machine is installed or changed. What is made is kept under `parts-cache/` and taken from there the next time.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parents[2] / "parts-cache"
RECIPE = 4  # count up when the recipe changes, so that no older image is taken from the cache
GREETING = "hello from the bundle"
APPLETS = ("sh", "cat", "echo", "ls", "sleep", "true", "wget")


@dataclass(frozen=True)
class Image:
    """An image in an OCI layout: `skopeo` calls it `oci:<layout>:<tag>`."""

    layout: Path
    tag: str

    @property
    def name(self) -> str:
        return f"oci:{self.layout}:{self.tag}"

    @property
    def manifest(self) -> dict:
        return json.loads(tool("skopeo", "inspect", "--raw", self.name))

    def push(self, registry: str, repository: str, *options: str) -> None:
        """Push to a registry on this machine; `options` are skopeo's (`--format v2s2` makes a Docker schema 2 image)."""
        tool("skopeo", "copy", "--quiet", "--dest-tls-verify=false", *options, self.name, f"docker://{registry}/{repository}")


def need(*programs: str) -> None:
    """Skip the test, or fail it where CI says that nothing may be missing, unless all `programs` are installed."""
    missing = [program for program in programs if not find(program)]
    if missing:
        reason = f"not installed: {', '.join(missing)} (tests/parts/install.sh installs them)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


def find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def tool(program: str, *arguments: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a program that must succeed and return what it printed."""
    need(program)
    done = subprocess.run(
        [find(program), *map(str, arguments)], capture_output=True, text=True, check=False, env={**os.environ, **(env or {})}
    )
    assert done.returncode == 0, f"{program} {' '.join(map(str, arguments))}: {done.stderr}"
    return done.stdout


def busybox(architecture: str = "amd64") -> Image:
    """Give an image of two layers: Debian's busybox-static with an os-release, and a greeting that it prints.

    For another `architecture` only the configuration says so; the programs are this machine's.
    """
    need("apt-get", "dpkg-deb", "umoci", "skopeo")
    return _cached("busybox", ("busybox-static", "base-files"), architecture)


def _cached(name: str, packages: tuple[str, ...], architecture: str) -> Image:
    made = CACHE / f"{name}-{architecture}-{RECIPE}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f".{made.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_dir():
            work = CACHE / f".{made.name}.work"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            _write(work / "layout", _rootfs(work, packages), _greeting(work), architecture)
            (work / "layout").rename(made)
            shutil.rmtree(work)
    return Image(made, "1.0")


def _rootfs(work: Path, packages: Iterable[str]) -> Path:
    root = work / "rootfs"
    for package in _download(work, packages):
        tool("dpkg-deb", "-x", package, root)
        said = root / "var/lib/dpkg/status.d" / tool("dpkg-deb", "-f", package, "Package").strip()
        said.parent.mkdir(parents=True, exist_ok=True)
        said.write_text(tool("dpkg-deb", "-f", package))
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    shutil.rmtree(root / "usr/share/doc", ignore_errors=True)
    return root


def _greeting(work: Path) -> Path:
    upper = work / "upper"
    (upper / "srv").mkdir(parents=True)
    (upper / "srv" / "greeting").write_text(GREETING + "\n")
    return upper


def _write(layout: Path, lower: Path, upper: Path, architecture: str) -> None:
    image = f"{layout}:1.0"
    tool("umoci", "init", "--layout", layout)
    tool("umoci", "new", "--image", image)
    for at, folder in enumerate((lower, upper)):
        tar = layout.parent / f"{at}.tar"
        tool("tar", "--sort=name", "--mtime=@1700000000", "--owner=0", "--group=0", "--numeric-owner", "-C", folder, "-cf", tar, ".")
        tool("umoci", "raw", "add-layer", "--image", image, tar)
    config = {"os": "linux", "architecture": architecture, "config.user": "65534", "config.cmd": "cat", "created": "2026-11-24T12:00:00Z"}
    options = [f"--{key}={value}" for key, value in config.items()]
    options += ["--config.env=PATH=/bin", "--config.label=org.opencontainers.image.version=1.0"]
    tool("umoci", "config", "--image", image, *options, "--config.cmd=/srv/greeting")
    tool("umoci", "gc", "--layout", layout)


def _download(work: Path, packages: Iterable[str]) -> list[Path]:
    """Fetch packages through an apt root of its own, from the mirror and with the keys of this machine's configuration."""
    apt = work / "apt"
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()
    private = {
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "APT::Install-Recommends": "false",
    }
    options = [part for key, value in private.items() for part in ("-o", f"{key}={value}")]
    tool("apt-get", *options, "-qq", "update")
    found = []
    for package in packages:
        done = subprocess.run([find("apt-get"), *options, "-qq", "download", package], cwd=apt, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"apt-get download {package}: {done.stderr}"
        found.append(next(apt.glob(f"{package}_*.deb")))
    return found


if __name__ == "__main__":
    sys.stdout.write(f"{busybox().name}\n")
