"""Run a command beside a real Docker engine and a real registry that holds a real image.

    PYTHONPATH=tests python -m parts.world make quickstart

The command finds the engine by DOCKER_HOST and the image's reference in QUICKSTART_IMAGE.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from parts import images
from parts.engine import engine
from parts.registry import registry


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="airgap-world-") as folder, registry(Path(folder) / "registry") as upstream, engine() as running:
        images.busybox().push(upstream.host, "team/busybox:1.0")
        environment = os.environ | running.environment | {"QUICKSTART_IMAGE": f"{upstream.host}/team/busybox:1.0"}
        return subprocess.run(sys.argv[1:], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
