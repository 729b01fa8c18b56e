"""What installing needs: a signed bundle with two trees and an image, a site, an engine that is a folder, and the way to look at it all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from parts import bundles

from airgap_images.bundle import Component, TreeFile, component_descriptor, unwrap, write_index, write_tree
from airgap_images.layout import Layout
from airgap_images.oci import IMAGE_MANIFEST, Descriptor, Manifest
from airgap_images.targets import Cargo, Form, Placed, Progress, Target
from audit.install.install import Installed, install
from audit.verify.walk import Place
from bundler import sign
from manifests import canonical
from manifests.errors import SiteError
from manifests.site import Site as HomeSite

NOW = bundles.NOW
REFERENCE = "registry.example.org/team/tool:1.0"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
CHANGING = frozenset({"os.rename", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "os.chmod"})


@dataclass(frozen=True)
class Shelf:
    """A target whose things are files in a folder, by the digest of their config (a tree's: of its root), with the names they answer to."""

    folder: Path
    name: str = "shelf"
    forms: frozenset[Form] = frozenset({"image"})
    notes: tuple[str, ...] = ()

    def named(self, layout: Layout, cargo: Cargo) -> tuple[tuple[str, str | None], ...]:
        names = cargo.references if cargo.form == "image" else (f"trees/{cargo.name}:1",)
        return tuple((name, next((held.id for held in self.held() if name in held.tags), None)) for name in names)

    def load(self, layout: Layout, cargo: Cargo, progress: Progress | None = None) -> Placed:
        names = tuple(name for name, _ in self.named(layout, cargo))
        for other in self.held():
            self._write(other.id, tuple(tag for tag in other.tags if tag not in names))
        found = self.present(layout, cargo)
        if progress and found is None:
            progress(cargo.root.size)
        self._write(self._id(layout, cargo), tuple(sorted({*names, *(found.tags if found else ())})))
        return Placed(self._id(layout, cargo), names, found is not None)

    def present(self, layout: Layout, cargo: Cargo) -> Placed | None:
        if not self.folder.is_dir():
            raise SiteError("no engine answers", hint="start the engine")
        path = self.folder / self._id(layout, cargo)[7:]
        return Placed(f"sha256:{path.name}", tuple(json.loads(path.read_text()))) if path.exists() else None

    def remove(self, placed: Placed) -> None:
        path = self.folder / placed.id[7:]
        rest = tuple(tag for tag in json.loads(path.read_text()) if tag not in placed.tags)
        if rest or placed.before:
            self._write(placed.id, rest)
        else:
            path.unlink()

    def close(self) -> None:
        pass

    def held(self) -> list[Placed]:
        return [Placed(f"sha256:{path.name}", tuple(json.loads(path.read_text()))) for path in sorted(self.folder.iterdir())]

    def _id(self, layout: Layout, cargo: Cargo) -> str:
        if cargo.form == "tree":
            return str(cargo.root.digest)
        return str(Manifest.parse(layout.read(unwrap(layout, cargo.root), 1 << 20), "image").config.digest)

    def _write(self, image_id: str, tags: tuple[str, ...]) -> None:
        path = self.folder / image_id[7:]
        if not path.exists() or json.loads(path.read_text()) != list(tags):
            new = self.folder.with_name("shelf.new")
            new.write_text(json.dumps(tags))
            new.rename(path)


@dataclass(frozen=True)
class Desk:
    """A site with its store, engine, keys and bundles, all in one folder."""

    folder: Path
    who: bundles.Site

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def site(self) -> HomeSite:
        return HomeSite(store=self.store)

    @property
    def shelf(self) -> Shelf:
        (self.folder / "shelf").mkdir(exist_ok=True)
        return Shelf(self.folder / "shelf")

    def bundle(self, serial: int = 1, *, image: bool = True, name: str = "", **trees: dict[str, bytes]) -> Path:
        return ship(self.folder / (name or f"bundle-{serial}"), self.who, serial, trees or standard(serial), image=image)

    def install(self, bundle: Path | Place, *, targets: Iterable[Target] = (), now: datetime = NOW, **options: object) -> Installed:
        place = bundle if isinstance(bundle, Place) else Place.of(bundle)
        return install(place, self.who.policy_raw, self.site, now=now, targets=targets, **options)  # type: ignore[arg-type]


def standard(serial: int) -> dict[str, dict[str, bytes]]:
    """Two trees, of which a part is the same in every serial."""
    docs = {"README.md": b"# hello\n", "a/b/c.txt": f"serial {serial}\n".encode(), "a/empty": b""}
    return {"docs": docs, "model": {"weights.bin": bytes(range(256)) * 800, "config.json": b'{"serial":%d}' % serial}}


def ship(folder: Path, who: bundles.Site, serial: int, trees: dict[str, dict[str, bytes]], *, image: bool) -> Path:
    """Write and sign a bundle."""
    made = Layout.create(folder)
    parts = [_tree(made, name, files) for name, files in trees.items()]
    parts += [_image(made, serial)] if image else []
    write_index(made, parts, {sign.STREAM: bundles.STREAM, "airgap.bundle": "test"})
    (folder / ".partial").exists() and (folder / ".partial").rmdir()
    for at, name in enumerate(("alice", "bob")):
        sign.sign(folder, who.key(name), bundles.terms(serial if at == 0 else None))
    return folder


def _tree(layout: Layout, name: str, files: dict[str, bytes]) -> Component:
    listed = [TreeFile(path, layout.put(data), len(data)) for path, data in files.items()]
    return Component(name, "path", "tree", None, component_descriptor(write_tree(layout, listed), name=name, kind="path", form="tree"))


def _image(layout: Layout, serial: int) -> Component:
    config, layer = canonical.compact({"serial": serial}), b"layer of all serials" * 50
    body = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "config": Descriptor(CONFIG, layout.put(config), len(config)).to_dict(),
        "layers": [Descriptor(LAYER, layout.put(layer), len(layer)).to_dict()],
    }
    raw = canonical.compact(body)
    facts = {"reference": REFERENCE}
    root = component_descriptor(Descriptor(IMAGE_MANIFEST, layout.put(raw), len(raw)), name="tool", kind="image", form="image", facts=facts)
    return Component("tool", "image", "image", None, root)


@contextlib.contextmanager
def in_memory(otherwise: Path) -> Iterator[Path]:
    """Give an empty folder on a file system in memory, where syncing costs nothing; else one under ``otherwise``."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="airgap-", dir=memory if os.access(memory, os.W_OK) else otherwise))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def look(folder: Path, *, leave_out: tuple[str, ...] = ("journal.jsonl", ".lock", ".state.lock")) -> dict[str, str]:
    """Describe everything below a folder: type, mode, links to it, content."""
    return dict(_look(folder, folder, leave_out))


def _look(root: Path, folder: Path, leave_out: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.iterdir()):
        info, name = path.lstat(), str(path.relative_to(root))
        if name in leave_out:
            continue
        if stat.S_ISLNK(info.st_mode):
            yield name, f"link {os.readlink(path)}"
        elif stat.S_ISDIR(info.st_mode):
            yield name, f"folder {info.st_mode:o}"
            yield from _look(root, path, leave_out)
        else:
            yield name, f"file {info.st_mode:o} {path.read_bytes()!r}"


def run_and_kill(action: Callable[[], object], at: int) -> bool:
    """Run ``action`` in a process that kills itself before its ``at``-th change of the file system; say whether it came to that."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _die_at(at)
        try:
            action()
        except BaseException:  # noqa: BLE001
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the action failed by itself"
    return os.WIFSIGNALED(status)


def _die_at(at: int) -> None:
    count = 0

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal count
        made = event == "open" and isinstance(args[2], int) and args[2] & os.O_CREAT
        if event in CHANGING or made:
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
