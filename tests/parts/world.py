"""Run a command beside a real Docker engine and a real registry that holds a real image.

    PYTHONPATH=tests python -m parts.world make quickstart

The command finds the engine by DOCKER_HOST, the image's reference in QUICKSTART_IMAGE, and in QUICKSTART_IMAGE_KEY the public key of
who signed the image, as cosign signs.
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
from parts.signed import Pushed, Repository
from parts.upstream import VENDOR

from airgap_images.oci import IMAGE_MANIFEST


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="airgap-world-") as folder, registry(Path(folder) / "registry") as upstream, engine() as running:
        image = f"{upstream.host}/team/busybox:1.0"
        images.busybox().push(upstream.host, "team/busybox:1.0")
        manifest = images.tool("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{image}").encode()
        Repository(upstream, "team/busybox").tag_signature(Pushed(manifest, IMAGE_MANIFEST), VENDOR)
        key = Path(folder) / "publisher.pub"
        key.write_text(VENDOR.pem)
        environment = os.environ | running.environment | {"QUICKSTART_IMAGE": image, "QUICKSTART_IMAGE_KEY": str(key)}
        return subprocess.run(sys.argv[1:], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
