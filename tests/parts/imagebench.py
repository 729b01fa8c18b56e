"""What the source of images needs to resolve, and what it warned of; and indexes written by hand.

    bench = Bench(tmp_path)
    locked = bench.resolve(f"{upstream.host}/team/busybox:1.0", platforms="all")
    bench.build(locked)
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from parts import httpd

from airgap_images.layout import Layout
from airgap_images.oci import IMAGE_INDEX, IMAGE_MANIFEST
from airgap_images.remote.http import Client, Retry
from bundler import build
from bundler.sources import Context, image
from manifests.lock import Lock, LockedComponent, Target

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


class Bench:
    """What a source needs to resolve, and what it warned of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client = Client(retry=Retry(attempts=1))
        self.cache = Layout.create(folder / "cache")
        self.warnings: list[str] = []

    def resolve(
        self,
        ref: str,
        *,
        target: str = "linux/amd64",
        previous: LockedComponent | None = None,
        environment: dict[str, str] | None = None,
        **options: Any,
    ) -> LockedComponent:
        context = Context(
            folder=self.folder, target=Target(platform=target), previous=previous, cache=self.cache, client=self.client,
            uploaded_before=None, warn=self.warnings.append, environment=environment or {},
        )  # fmt: skip
        return image.resolve("server", "inference", image.Options(ref=ref, **options), context)

    def lock(self, *components: LockedComponent) -> Lock:
        return Lock(name="test", stream="test", intentSha256="0" * 64, components=components)

    def build(self, *components: LockedComponent, out: str = "bundle") -> build.Built:
        options = build.Options(self.folder, (self.cache,))
        return build.build(self.lock(*components), self.folder / out, self.client, options)


def entry(raw: bytes, digest: str, platform: str, media_type: str = IMAGE_MANIFEST) -> dict:
    fields = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
    return {"mediaType": media_type, "digest": digest, "size": len(raw), "platform": fields}


def index(*entries: dict, media_type: str = IMAGE_INDEX) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": list(entries)}).encode()


class Fake:
    """A registry in a few lines, to hold what no real one takes."""

    def __init__(self, server: httpd.Server) -> None:
        self.server = server
        self.ref = f"127.0.0.1:{server.port}/team/x:1"

    def blob(self, raw: bytes) -> dict:
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        self.server.serve(f"/v2/team/x/blobs/{digest}", raw)
        return {"mediaType": LAYER, "digest": digest, "size": len(raw)}

    def put(self, raw: bytes, selector: str = "") -> str:
        media_type = json.loads(raw)["mediaType"]
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        self.server.serve(f"/v2/team/x/manifests/{selector or digest}", raw, headers={"Content-Type": media_type})
        return digest

    def image(self, *, layers: list[dict] | None = None, config: dict | bytes | None = None, config_type: str = CONFIG) -> bytes:
        layers = [self.blob(b"one")] if layers is None else layers
        plain = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64] * len(layers)}}
        written = config if isinstance(config, bytes) else json.dumps(plain | (config or {})).encode()
        described = self.blob(written) | {"mediaType": config_type}
        return json.dumps({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": described, "layers": layers}).encode()
