"""Small real bundles, made and signed by the product's own code, for tests of trust, tampering and installation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airgap_images.bundle import Component, TreeFile, component_descriptor, write_index, write_tree
from airgap_images.layout import Layout
from audit import signers as keys
from audit.signers import file as key_files
from bundler import sign
from manifests import statement
from manifests.policy import Policy, first_policy, signer_entry

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
STREAM = "test-stream"


@dataclass(frozen=True)
class Site:
    """Keys of alice, bob and carol, and a policy that wants two of alice and bob."""

    folder: Path
    policy: Policy

    def key(self, name: str) -> keys.LocalSigner:
        return keys.signer(f"file:{self.folder / f'{name}.key'}", lambda _: "")

    @property
    def policy_raw(self) -> bytes:
        return self.policy.to_bytes()


def site(folder: Path, *, threshold: int = 2, curves: dict[str, key_files.Kind] | None = None) -> Site:
    public = {}
    for name in ("alice", "bob", "carol"):
        _, path = key_files.make(name, folder, kind=(curves or {}).get(name, "p256"), passphrase=None)
        public[name] = signer_entry(path.read_text())
    public.pop("carol")
    return Site(folder, first_policy(STREAM, public, threshold=threshold, expires=NOW + timedelta(days=365)))


def layout(folder: Path, trees: dict[str, dict[str, bytes]], *, stream: str = STREAM) -> Layout:
    """Write an unsigned bundle with one tree per item of ``trees``."""
    made = Layout.create(folder)
    components = []
    for name, files in trees.items():
        listed = [TreeFile(path, made.put(data), len(data)) for path, data in files.items()]
        root = component_descriptor(write_tree(made, listed), name=name, kind="path", form="tree")
        components.append(Component(name, "path", "tree", None, root))
    write_index(made, components, {sign.STREAM: stream, "airgap.bundle": "test"})
    partial = folder / ".partial"
    if partial.exists():
        partial.rmdir()
    return made


def terms(serial: int | None = 1, *, created: datetime = NOW, days: int = 90) -> sign.Terms:
    return sign.Terms(serial, created, created + timedelta(days=days), None, None, ("airgap-bundler", "test"))


def policy_files(who: Site, *signers: str) -> tuple[tuple[str, bytes], ...]:
    """Return the signature files of a site's policy, by alice and bob unless others are named."""
    stated = who.policy
    said = statement.policy_payload(who.policy_raw, stream=stated.stream, version=stated.version, previous=stated.previous)
    return tuple((f"{name}{statement.SUFFIX}", who.key(name).envelope(said).to_bytes()) for name in signers or ("alice", "bob"))


def signed(folder: Path, who: Site, *, serial: int = 1, signers: tuple[str, ...] = ("alice", "bob"), size: int = 300_000) -> Path:
    """Write and sign a bundle of two trees, ``docs`` (two texts) and ``data`` (one random file of ``size`` bytes)."""
    docs = {"README.md": b"# hello\n", "a/b.txt": f"serial {serial}\n".encode()}
    layout(folder, {"docs": docs, "data": {"weights.bin": os.urandom(size)}})
    for at, name in enumerate(signers):
        sign.sign(folder, who.key(name), terms(serial if at == 0 else None))
    return folder
