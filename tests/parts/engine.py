"""A real container engine: `dockerd` with a data folder, socket and process file of its own, one per `with` block.

It has no bridge and touches no firewall rule, so it runs beside any other and inside a network namespace without an
interface. overlay2 is tried first, vfs where the file system does not carry overlays.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from parts.images import find, need

STARTUP = 30  # seconds
OPTIONS = ("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none", "--userland-proxy=false")


@dataclass(frozen=True)
class Running:
    """A running engine. `host` is what DOCKER_HOST takes; `data` is where it keeps its images."""

    host: str
    data: Path
    driver: str
    pid: int

    @property
    def environment(self) -> dict[str, str]:
        return {"DOCKER_HOST": self.host}

    def run(self, image: str, *command: str) -> str:
        """Run a container from an image that is there already, with no network, and return what it prints."""
        done = self.docker("run", "--rm", "--network", "none", "--pull", "never", image, *command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def docker(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the `docker` command against this engine."""
        need("docker")
        environment = {**os.environ, **self.environment}
        return subprocess.run([find("docker"), *arguments], capture_output=True, text=True, check=False, env=environment)

    def images(self) -> set[str]:
        """Every image ID there is, untagged ones included."""
        return set(self.docker("images", "--all", "--quiet", "--no-trunc").stdout.split())


@contextlib.contextmanager
def engine(settings: str = "{}") -> Iterator[Running]:
    """Run a `dockerd` of its own with `settings` as its `daemon.json`, and stop it at the end.

    Skips where none is installed or this user may not.
    """
    need("dockerd", "containerd", "runc")
    if os.geteuid() != 0:
        pytest.skip("dockerd needs root")
    folder = Path(tempfile.mkdtemp(prefix="engine-", dir="/tmp"))  # a socket's path must be short
    (folder / "daemon.json").write_text(settings)
    try:
        process, driver = _start(folder)
        try:
            yield Running(f"unix://{folder}/docker.sock", folder / "data", driver, process.pid)
        finally:
            _stop(process)
    finally:
        _unmount(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path) -> tuple[subprocess.Popen, str]:
    said = ""
    for driver in ("overlay2", "vfs"):
        process = _launch(folder, driver)
        if _ready(folder, process):
            return process, driver
        _stop(process)
        said += (folder / f"{driver}.log").read_text()[-1500:]
    pytest.fail(f"dockerd does not start here: {said}")


def _launch(folder: Path, driver: str) -> subprocess.Popen:
    places = (f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid", f"--host=unix://{folder}/docker.sock")
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    with (folder / f"{driver}.log").open("wb") as log:
        return subprocess.Popen(
            [find("dockerd"), *places, *OPTIONS, f"--storage-driver={driver}", "--config-file", folder / "daemon.json"],
            stdout=log,
            stderr=log,
            env={**os.environ, "PATH": path},
        )


def _ready(folder: Path, process: subprocess.Popen) -> bool:
    """Wait until the engine answers; False if it ends instead. Asked by a plain socket: it starts within a second."""
    deadline = time.monotonic() + STARTUP
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(STARTUP)
            asking.connect(f"{folder}/docker.sock")
            asking.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            if b"200 OK" in asking.recv(1000):
                return True
        time.sleep(0.05)
    return False


def _stop(process: subprocess.Popen) -> None:
    process.terminate()  # so that it stops the containerd it started
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _unmount(folder: Path) -> None:
    """Let go of what a container killed in a hurry left mounted."""
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        if line.split()[1].startswith(f"{folder}/"):
            subprocess.run(["/bin/umount", "-l", line.split()[1]], check=False)
