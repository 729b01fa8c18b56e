"""A real containerd with root, state and socket of its own, one per `with` block; no network, nothing of the machine's own is touched.

With `kubernetes=True` it has the interface that Kubernetes uses, which gives each image another name by its id. The
snapshotter is overlayfs where the file system carries it, else native.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from parts.engine import STARTUP, _stop, _unmount
from parts.images import find, need

from airgap_images.placing.containerd import Place

CRI = "io.containerd.grpc.v1.cri"
CONFIG = """version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = {disabled}
[grpc]
  address = "{folder}/c.sock"
[plugins."{cri}"]
  sandbox_image = "none.example.org/pause:1"
  disable_apparmor = true
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
"""


@dataclass(frozen=True)
class Running:
    """A running containerd; `place` is where images go in it."""

    folder: Path
    place: Place

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", "")}

    def ctr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the `ctr` command against this containerd."""
        command = [find("ctr"), *self.place.options, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def run(self, image: str, *command: str) -> str:
        """Run a container from an image that is there already, with no network, and return what it prints."""
        done = self.ctr("run", "--rm", f"--snapshotter={self.place.snapshotter}", image, f"c{time.monotonic_ns()}", *command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def names(self) -> dict[str, str]:
        """Every image name there is, and the digest it leads to."""
        rows = [line.split() for line in self.ctr("images", "ls").stdout.splitlines()[1:]]
        return {row[0]: row[2] for row in rows}

    def blobs(self) -> set[str]:
        """Every blob there is."""
        return set(self.ctr("content", "ls", "--quiet").stdout.split())


@contextlib.contextmanager
def containerd(namespace: str = "default", *, kubernetes: bool = False) -> Iterator[Running]:
    """Run a `containerd` of its own and stop it at the end; skips where none is installed or this user may not."""
    need("containerd", "ctr", "runc", "containerd-shim-runc-v2")
    if os.geteuid() != 0:
        pytest.skip("containerd needs root")
    folder = Path(tempfile.mkdtemp(prefix="ctrd-", dir="/tmp"))  # a socket's path must be short
    unneeded = ["io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.btrfs"]
    disabled = json.dumps(unneeded + ([] if kubernetes else [CRI]))
    (folder / "config.toml").write_text(CONFIG.format(folder=folder, cri=CRI, disabled=disabled))
    try:
        with (folder / "log").open("wb") as log:
            command = [find("containerd"), "--config", folder / "config.toml"]
            process = subprocess.Popen(command, stdout=log, stderr=log, env={"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"})
        try:
            yield Running(folder, Place(folder / "c.sock", namespace, _snapshotter(folder, process)))
        finally:
            _stop(process)
    finally:
        _unmount(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _snapshotter(folder: Path, process: subprocess.Popen) -> str:
    """Wait until containerd answers and say what it can unpack with."""
    asking, deadline = [find("ctr"), f"--address={folder}/c.sock", "plugins", "ls"], time.monotonic() + STARTUP
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "c.sock").exists():
            said = subprocess.run(asking, capture_output=True, text=True, check=False).stdout
            rows = [line.split() for line in said.splitlines()]
            if rows:
                fits = any(row[:2] == ["io.containerd.snapshotter.v1", "overlayfs"] and row[-1] == "ok" for row in rows)
                return "overlayfs" if fits else "native"
        time.sleep(0.05)
    pytest.fail(f"containerd does not start here: {(folder / 'log').read_text()[-1500:]}")
