"""A store with a real image, its evidence and a tree installed in it, and `serve` over it as a process of its own.

    desk = serving.desk(tmp_path)
    with serving.serving(desk.store) as running:
        images.tool("skopeo", "inspect", "--tls-verify=false", f"docker://{running.host}/library/busybox:1.36")
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from parts import bundles, cargo
from parts.installs import Desk

from airgap_images.bundle import Component, component_descriptor, write_index
from airgap_images.layout import Layout
from airgap_images.oci import Descriptor
from airgap_images.targets import Cargo
from bundler import sign

REFERENCE = "docker.io/library/busybox:1.36"
TESTS = Path(__file__).resolve().parents[1]
PROGRAM = """
    import sys
    from pathlib import Path
    from audit.install.store import Store
    from audit.serve import Options, serve
    from manifests.errors import AirgapError

    def say(text):
        sys.stderr.write(text + "\\n")
        sys.stderr.flush()

    store, listen, certificate, key, token, every = sys.argv[1:]
    path = lambda text: Path(text) if text else None
    try:
        serve(Store.existing(Path(store)), Options(listen, path(certificate), path(key), path(token), every == "every"), say)
    except AirgapError as error:
        say(f"error: {error.message} | {error.hint}")
        sys.exit(error.exit_code)
"""


@dataclass(frozen=True)
class Served:
    """What is installed: the desk, the busybox image with its evidence, the tree."""

    desk: Desk
    signed: cargo.Signed
    tree: Cargo

    @property
    def store(self) -> Path:
        return self.desk.store

    @property
    def layout(self) -> Layout:
        return Layout(self.store)


def ship(folder: Path, who: bundles.Site, *cargoes: Cargo, serial: int = 1) -> Path:
    """Make a signed bundle of components whose blobs are in ``folder``; evidence becomes a component, too."""
    layout = Layout(folder)
    parts = [part for item in cargoes for part in _parts(item)]
    write_index(layout, parts, {sign.STREAM: bundles.STREAM, "airgap.bundle": "test"})
    _collect(layout, folder)
    for at, name in enumerate(("alice", "bob")):
        sign.sign(folder, who.key(name), bundles.terms(serial if at == 0 else None))
    return folder


def _collect(layout: Layout, folder: Path) -> None:
    """Take away what nothing leads to: a bundle holds nothing else."""
    listed = {line.split("blobs/sha256/")[1] for line in (folder / "SHA256SUMS").read_text().splitlines() if "blobs/" in line}
    for name, _ in list(layout.blobs()):
        if name not in listed:
            (folder / "blobs/sha256" / name).unlink()
    with contextlib.suppress(OSError):
        (folder / ".partial").rmdir()


def desk(folder: Path) -> Served:
    """Install the real image with made-up evidence in every shape, and a tree."""
    root = cargo.busybox(Layout.create(folder / "bundle-1"))
    layout, signed = cargo.signed(folder / "bundle-1", root=root, reference=REFERENCE)
    tree = cargo.tree(layout)
    here = Desk(folder, bundles.site(folder / "keys"))
    here.install(ship(folder / "bundle-1", here.who, signed.cargo, tree), checks=())
    return Served(here, signed, tree)


def _parts(item: Cargo) -> Iterator[Component]:
    kind = "image" if item.form == "image" else "path"
    facts = {"reference": item.references[0]} if item.references else {}
    yield _component(item.name, kind, item.form, item.root, facts)
    if item.upstream:
        yield _component(f"{item.name}.upstream", "image", "tree", item.upstream, {})


def _component(name: str, kind: str, form: str, root: Descriptor, facts: dict[str, str]) -> Component:
    return Component(name, kind, form, None, component_descriptor(root, name=name, kind=kind, form=form, facts=facts))


@dataclass
class Running:
    """A `serve` that is ready."""

    process: subprocess.Popen[str]
    scheme: str
    host: str
    said: list[str]

    def wait(self, text: str) -> None:
        """Wait until it says so."""
        until = time.monotonic() + 10
        while not any(text in line for line in self.said):
            assert time.monotonic() < until, self.said
            time.sleep(0.02)

    @property
    def peak(self) -> int:
        """The most memory it had, in KiB."""
        return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1])


@contextlib.contextmanager
def serving(store: Path, *, listen: str = "127.0.0.1:0", tls: tuple[Path, Path] | None = None, token: Path | None = None,
            every: bool = False) -> Iterator[Running]:  # fmt: skip
    certificate, key = tls or ("", "")
    process = start(store, listen, str(certificate), str(key), str(token or ""), "every" if every else "")
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(iter(process.stderr.readline, "")), daemon=True)
    reader.start()
    try:
        yield Running(process, *_ready(process, said), said)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)
        reader.join(5)
        process.stderr.close()


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def _ready(process: subprocess.Popen[str], said: list[str]) -> tuple[str, str]:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = next((found for line in said if (found := re.search(r" at (https?)://([^;]+);", line))), None)
        if found:
            return found[1], found[2]
        assert process.poll() is None, said
        time.sleep(0.02)
    raise AssertionError(f"serve does not get ready: {said}")
