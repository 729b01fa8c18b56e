"""The real `openssl` 3.5 of Debian 13, the first that knows ML-DSA, to check signatures by hand.

`path(folder)` gives a PATH on which `openssl` is that one; where this machine's own is new enough, it stays.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

from parts import trixie
from parts.images import need

RECIPE = 1  # count up when the packages change
NEEDED = (3, 5)


def path(folder: Path) -> str:
    """Give a PATH on which `openssl` knows ML-DSA; a script that starts it is written to `folder`."""
    need("openssl")
    own = os.environ.get("PATH", "")
    if version("openssl") >= NEEDED:
        return own
    root = trixie.unpacked("openssl", RECIPE, "openssl", "libssl3t64", "libc6", "libzstd1", "zlib1g")
    script = folder / "openssl-3.5" / "openssl"
    script.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join(trixie.with_its_libraries(root, str(root / "usr/bin/openssl")))
    script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    script.chmod(0o755)
    assert version(str(script)) >= NEEDED
    return f"{script.parent}:{own}"


def version(program: str) -> tuple[int, ...]:
    done = subprocess.run([program, "version"], capture_output=True, text=True, check=False)
    found = re.match(r"OpenSSL (\d+)\.(\d+)", done.stdout)
    assert found, f"{program}: {done.stdout}{done.stderr}"
    return tuple(map(int, found.groups()))
