"""A real podman with storage of its own, one per `with` block; nothing of the machine's own containers and images is seen or touched.

The driver is vfs, which carries everywhere, and the runtime runc: crun refuses where both versions of cgroups are mounted. The limits
that podman sets by itself may be above what a container may have here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from parts.engine import _unmount
from parts.images import find, need

from airgap_images.placing.podman import Storage

OPTIONS = ("--runtime", "runc", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")


@dataclass(frozen=True)
class Running:
    """A podman and where it keeps things; `spool` is the folder for what it writes while it loads."""

    folder: Path

    @property
    def storage(self) -> Storage:
        return Storage(self.folder / "root", self.folder / "run", "vfs")

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder), "TMPDIR": str(self.spool)}

    def podman(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the `podman` command on this storage."""
        command = [find("podman"), *self.storage.options, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **self.environment})

    def run(self, image: str, *command: str) -> str:
        """Run a container from an image that is there already, with no network, and return what it prints."""
        done = self.podman("run", "--rm", "--network", "none", "--pull", "never", *OPTIONS, image, *command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def images(self) -> set[str]:
        """Every image ID there is, untagged ones included."""
        return {f"sha256:{line.removeprefix('sha256:')}" for line in self.podman("images", "--all", "--quiet", "--no-trunc").stdout.split()}


@contextlib.contextmanager
def podman() -> Iterator[Running]:
    """Give a podman of its own and clear everything away at the end; skips where none is installed or this user may not."""
    need("podman", "runc", "conmon")
    if os.geteuid() != 0:
        pytest.skip("podman with storage of its own needs root here")
    folder = Path(tempfile.mkdtemp(prefix="podman-", dir="/tmp"))
    running = Running(folder)
    running.spool.mkdir()
    try:
        said = running.podman("info")
        assert said.returncode == 0, f"podman does not run here: {said.stderr}"
        yield running
    finally:
        running.podman("rm", "--all", "--force", "--time", "0")
        _unmount(folder)
        shutil.rmtree(folder, ignore_errors=True)
