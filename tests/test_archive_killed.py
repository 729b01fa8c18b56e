"""Kill -9 while an archive becomes a layout beside the lock: run again it all ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts import cli, installs

from airgap_images.layout import PARTIAL
from airgap_images.oci import Digest
from bundler import cli as program
from bundler.sources._local import FOLDER

LARGE = 200 << 20  # bytes of the layer
STARTUP = 60  # seconds


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("large") / "app.tar", os.urandom(LARGE))


def archive(path: Path, content: bytes) -> Path:
    """Write an archive as `docker save` does, of an image with one layer."""
    layer = packed({"large": content})
    config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer))]}}).encode()
    listed = [{"Config": f"{Digest.of(config).hex}.json", "RepoTags": ["team/app:1"], "Layers": ["layer.tar"]}]
    path.write_bytes(packed({listed[0]["Config"]: config, "layer.tar": layer, "manifest.json": json.dumps(listed).encode()}))
    return path


def packed(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return out.getvalue()


def desk(folder: Path, source: Path) -> cli.Desk:
    folder.mkdir()
    made = cli.Desk(folder)
    os.link(source, folder / "app.tar")
    made.write_intent("name: app, kind: image, ref: 'docker-archive:app.tar'")
    return made


def left(folder: Path) -> dict[str, str]:
    """Everything in the folder but the cache; files by digest, mode and size."""
    return dict(_left(folder))


def _left(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] not in {"cache", "home"}:
            yield str(name), f"{path.stat().st_mode:o} {Digest.of(path.read_bytes()) if path.is_file() else ''}"


def growing(folder: Path) -> dict[str, int]:
    """Files of the layout that are not finished, with their size so far."""
    partial = folder / FOLDER / "app" / PARTIAL
    found = {}
    for path in partial.iterdir() if partial.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):  # finished just now
            found[path.name] = path.stat().st_size
    return found


def test_killed_on_the_way_again_and_again_it_ends_the_same(tmp_path: Path, large: Path) -> None:
    clean, killed = desk(tmp_path / "clean", large), desk(tmp_path / "killed", large)
    clean.bundle("lock", "bundle.yaml")
    for wanted in (1, LARGE // 4, LARGE * 3 // 4):
        before = growing(killed.folder).keys()
        process = killed.start("bundle", "lock", "bundle.yaml")
        deadline = time.monotonic() + STARTUP
        while not any(size >= wanted for name, size in growing(killed.folder).items() if name not in before):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert [size for size in growing(killed.folder).values() if wanted <= size < LARGE], "it was killed in the middle"
        assert not (killed.folder / "bundle.lock.json").exists()
    (killed.folder / FOLDER / ".gitignore").write_bytes(b"")  # as if it was killed once more before it wrote this one
    killed.bundle("lock", "bundle.yaml")
    assert left(killed.folder) == left(clean.folder)
    killed.bundle("lock", "bundle.yaml", "--check")


def test_killed_before_any_change_of_the_disk_it_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lock() -> None:
        program.app(["lock", "bundle.yaml", "--cache", "cache"], standalone_mode=False)

    monkeypatch.setenv("HOME", str(tmp_path))
    with installs.in_memory(tmp_path) as memory:
        small = archive(memory / "app.tar", os.urandom(100_000))
        monkeypatch.chdir(desk(memory / "clean", small).folder)
        lock()
        expected, at, again = left(memory / "clean"), 0, True
        while again:
            at += 1
            monkeypatch.chdir(desk(memory / str(at), small).folder)
            again = installs.run_and_kill(lock, at)
            lock()
            assert left(memory / str(at)) == expected, f"killed before change {at}"
    assert at > 20, "it was not killed often"
