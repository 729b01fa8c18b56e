"""The file system of an image as its layers make it together, read without unpacking them to disk.

Rules: the layers are those of the manifest, their content that of the configuration; they are read in threads and joined in order;
one that cannot be read makes the image unreadable, since nothing then says what the rest amounts to.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from airgap_images.contents import layer as layers
from airgap_images.contents.layer import Bounds, Layer, Search, Taker
from airgap_images.contents.tree import File, Tree
from airgap_images.contents.unpack import refused
from airgap_images.layout import Layout, Progress
from airgap_images.oci import Digest, Manifest
from manifests import canonical
from manifests.errors import InvalidFileError

MAX_LAYERS = 1024
MAX_CONFIG = 4 << 20  # bytes
THREADS = 4  # layers read at once


@dataclass(frozen=True, slots=True)
class Rootfs:
    """The files of an image: ``layers`` are the digests of its layers (hex), ``size`` the bytes they unpack to.

    ``left_out`` says why entries are missing from ``tree``, and how many.
    """

    layers: tuple[str, ...]
    size: int
    entries: int
    left_out: tuple[tuple[str, int], ...]
    tree: Tree


def read(layout: Layout, manifest: Manifest, search: Search, progress: Progress | None = None) -> Rootfs:
    """Read the layers of an image and join them; ``progress`` is told, from several threads, of their bytes as they are in the store.

    Raises IntegrityError on a damaged or hostile layer, InvalidFileError if the manifest is not that of a container image.
    """
    diff_ids = _diff_ids(layout, manifest)
    bounds = Bounds()
    tree = Tree(bounds)
    size = entries = 0
    left_out: Counter[str] = Counter()
    with contextlib.closing(_layers(layout, manifest, diff_ids, search, bounds, progress=progress)) as found:
        for at, layer in enumerate(found):
            left_out.update((*layer.left_out, *tree.join(at, layer)))
            size, entries = size + layer.size, entries + len(layer.added)
    _read_links(layout, manifest, diff_ids, search, tree)
    digests = tuple(descriptor.digest.hex for descriptor in manifest.layers)
    return Rootfs(digests, size, entries, tuple(sorted(left_out.items())), tree)


def _layers(
    layout: Layout, manifest: Manifest, diff_ids: tuple[Digest, ...], search: Search, bounds: Bounds, *, progress: Progress | None
) -> Generator[Layer]:
    """Yield the layers in order while later ones are being read; whoever stops early stops those too."""
    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        jobs: list[Future[Layer]] = [
            pool.submit(layers.read, layout, descriptor, diff_id, search, bounds, progress=progress)
            for descriptor, diff_id in zip(manifest.layers, diff_ids, strict=True)
        ]
        jobs.reverse()
        try:
            while jobs:
                yield jobs.pop().result()
        except BaseException:
            bounds.budget.stop()
            pool.shutdown(cancel_futures=True)
            raise


def _read_links(layout: Layout, manifest: Manifest, diff_ids: tuple[Digest, ...], search: Search, tree: Tree) -> None:
    """Read again what was passed over under its first name and is looked for under a further one, as in a pnpm store."""
    wanted: dict[int, dict[str, str]] = {}
    files: dict[tuple[int, str], list[tuple[str, File]]] = {(file.layer, file.path): [] for _, file in tree.linked}
    for path, file in tree.linked:
        if search(path, file.size, b"") is not None:
            wanted.setdefault(file.layer, {})[file.path] = path
            files[file.layer, file.path].append((path, file))
    for at, names in sorted(wanted.items()):

        def again(path: str, size: int, head: bytes, names: dict[str, str] = names) -> Taker | None:
            return search(names[path], size, head) if path in names else None

        for added in layers.read(layout, manifest.layers[at], diff_ids[at], again, Bounds()).added:
            for path, file in files.get((at, added.path), ()) if added.found is not None else ():
                tree.replace(path, file, File(at, path, file.size, added.found))


def _diff_ids(layout: Layout, manifest: Manifest) -> tuple[Digest, ...]:
    what = f"blobs/sha256/{manifest.config.digest.hex}"
    if len(manifest.layers) > MAX_LAYERS:
        raise refused(f"the image has {len(manifest.layers)} layers, at most {MAX_LAYERS} allowed")
    value = canonical.parse(layout.read(manifest.config, MAX_CONFIG), what, limit=MAX_CONFIG)
    inner = value.get("rootfs") if isinstance(value, dict) else None
    found = inner.get("diff_ids") if isinstance(inner, dict) else None
    if not isinstance(found, list) or len(found) != len(manifest.layers):
        hint = "it may be another artifact; nothing in it is listed"
        raise InvalidFileError(f"{what}: is not the configuration of a container image of {len(manifest.layers)} layers", hint=hint)
    return tuple(Digest.parse(text) for text in found)
