"""A clean Debian of the release this machine runs, made by `debootstrap` from the mirror this machine uses, kept under `parts-cache/`.

    with debroot.copy(tmp_path, store) as root:      # `store` is there at its own path, nothing else of this machine is
        root.run("apt-get", "update")                # in a namespace without any network
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from parts.images import CACHE, find, need

from bundler import apttool

SUITE = "bookworm"
RECIPE = 1  # count up when the recipe changes


@dataclass(frozen=True)
class Root:
    """A root file system, and the folder of this machine that is seen in it, at the same path and read-only."""

    folder: Path
    shown: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it, with no network and the folder mounted."""
        inside = self.folder / self.shown.relative_to("/")
        inside.mkdir(parents=True, exist_ok=True)
        steps = f'mount --bind "{self.shown}" "{inside}" && mount -o remount,bind,ro "{inside}" && exec chroot "{self.folder}" "$@"'
        path = "/usr/sbin:/usr/bin:/sbin:/bin"
        environment = {"PATH": path, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        return subprocess.run(
            ["/usr/bin/unshare", "--net", "--mount", "--pid", "--fork", "/bin/sh", "-c", steps, "sh", *command],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip


@contextlib.contextmanager
def copy(folder: Path, shown: Path) -> Iterator[Root]:
    """Give a copy of the clean root, without any source of packages."""
    root = folder / "root"
    subprocess.run(["cp", "-a", "--reflink=auto", _made(), root], check=True)
    (root / "etc/apt/sources.list").write_text("")
    try:
        yield Root(root, shown)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _made() -> Path:
    need("debootstrap", "chroot", "unshare")
    mirror = apttool.configured(SUITE)
    if os.geteuid() or mirror is None:
        reason = f"a clean {SUITE} needs root, and a machine whose own sources name it"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    made = CACHE / f"debroot-{SUITE}-{RECIPE}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f".{made.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_dir():
            work = CACHE / f".{made.name}.work"
            shutil.rmtree(work, ignore_errors=True)
            command = [str(find("debootstrap")), "--variant=minbase", SUITE, str(work), str(mirror)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr
            work.rename(made)
    return made
