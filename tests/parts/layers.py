"""Images made on the spot of layers made on the spot, in a layout that the code under test reads."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

from airgap_images.contents.layer import Taker
from airgap_images.contents.packages.sieve import Keep, Room
from airgap_images.contents.rootfs import Rootfs, read
from airgap_images.contents.tree import File
from airgap_images.layout import Layout
from airgap_images.oci import IMAGE_MANIFEST, Descriptor, Digest, Manifest
from manifests import canonical

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"


def entry(name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    return info, data


def folder(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, kind=tarfile.DIRTYPE)


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, kind=tarfile.SYMTYPE, link=target)


def hard(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, kind=tarfile.LNKTYPE, link=target)


def tar(*entries: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def of(files: dict[str, bytes]) -> bytes:
    """Return a layer of plain files."""
    return tar(*(entry(name, data) for name, data in files.items()))


def image(where: Path, *tars: bytes, packed: tuple[bytes, ...] = (), config: dict | None = None) -> tuple[Layout, Manifest]:
    """Store an image of layers; `packed` are their stored forms, gzip by default; `config` replaces the configuration."""
    layout = Layout.create(where)
    stored = packed or tuple(gzip.compress(data, 1, mtime=0) for data in tars)
    said = config if config is not None else {"rootfs": {"type": "layers", "diff_ids": [str(Digest.of(data)) for data in tars]}}
    raw = canonical.compact(said)
    described = [Descriptor(LAYER, layout.put(data), len(data)).to_dict() for data in stored]
    head = Descriptor(CONFIG, layout.put(raw), len(raw)).to_dict()
    value = canonical.compact({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": head, "layers": described})
    layout.put(value)
    return layout, Manifest.parse(value, "manifest")


def everything(path: str, size: int, head: bytes) -> Taker:
    """Search for every byte of every file."""
    return Keep(size, 1 << 30, Room(), lambda data, why: data)


def files(root: Rootfs) -> dict[str, bytes]:
    """Return every file that was read, by path."""
    return {path: node.found for path, node in root.tree.walk() if isinstance(node, File)}


def joined(where: Path, *tars: bytes, **options) -> dict[str, bytes]:
    """Return what the files of an image of these layers are."""
    return files(read(*image(where, *tars, **options), everything))
