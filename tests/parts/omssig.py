"""Models with a `model.sig` beside their files, in every shape it may have, and the verdict over them.

    shipped = Shipped(tmp_path, {"config.json": b"{}"})
    shipped.signed(VENDOR)                # as `model_signing sign key` leaves it
    shipped.verdict(policy(VENDOR))
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parts import bundles
from parts.upstream import Key, Person, site_policy

from airgap_images.bundle import STREAM, Component, TreeFile, component_descriptor, write_index, write_tree
from airgap_images.layout import Layout
from audit.verify import models, oms
from audit.verify.keyless import judge
from audit.verify.verdict import Judge, Verdict
from manifests.policy import Policy
from manifests.statement import PAYLOAD_TYPE, SIGSTORE, STATEMENT, pae

FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 100, "sub/tokenizer.json": b"[1]"}
Trees = dict[str, tuple[str, dict[str, bytes]]]
GIT = (".git", ".gitattributes", ".github", ".gitignore")


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def listed(files: dict[str, bytes], algorithm: str = "sha256") -> list[dict[str, Any]]:
    hashed = {name: hashlib.new(algorithm, data).hexdigest() for name, data in sorted(files.items())}
    return [{"name": name, "algorithm": algorithm, "digest": digest} for name, digest in hashed.items()]


def sharded(files: dict[str, bytes], size: int, algorithm: str = "sha256") -> list[dict[str, Any]]:
    ranges = [(name, at, min(at + size, len(data))) for name, data in files.items() for at in range(0, len(data), size)]
    parts = {f"{name}:{start}:{end}": files[name][start:end] for name, start, end in ranges}
    return listed(parts, algorithm)


def statement(resources: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Return a statement as the format has it; ``changes`` replace parts: of the whole, or with `terms=` of the serialization."""
    summed = hashlib.sha256(b"".join(bytes.fromhex(entry["digest"]) for entry in resources)).hexdigest()
    terms = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": list(GIT)} | changes.pop("terms", {})
    predicate = {"resources": resources, "serialization": terms}
    whole = {"_type": STATEMENT, "subject": [{"name": "m", "digest": {"sha256": summed}}], "predicateType": oms.PREDICATE, "predicate": predicate}
    return whole | changes


def signature(value: Any, key: Key, **material: Any) -> bytes:
    """Return a `model.sig` over a statement, or over any bytes, in an encoding that is not ours."""
    payload = value if isinstance(value, bytes) else json.dumps(value, indent=1).encode()
    signed = {"payload": text(payload), "payloadType": PAYLOAD_TYPE, "signatures": [{"sig": text(key.sign(pae(payload))), "keyid": ""}]}
    held = material or {"publicKey": {"hint": "00" * 32}, "tlogEntries": []}
    return json.dumps({"mediaType": SIGSTORE, "verificationMaterial": held, "dsseEnvelope": signed}, indent=2).encode()


def policy(*signers: Key | Person, match: str = "hub.example.org/acme/*", local: bool = False) -> Policy:
    """Return a policy with one rule about models: signed by one of ``signers``."""
    roots = {f"{signer.name}-root": signer.root for signer in signers if isinstance(signer, Person)}
    rule = {"match": "m" if local else match, "signed_by": [signer.name for signer in signers]}
    return site_policy({"identities": {signer.name: signer.entry for signer in signers}, "models": [rule]} if signers else None, roots)


def bundle(folder: Path, trees: Trees) -> Path:
    """Write an unsigned bundle of trees, by name their kind and files."""
    layout = Layout.create(folder)
    parts = []
    for name, (kind, files) in trees.items():
        listed = [TreeFile(path, layout.put(data), len(data)) for path, data in files.items()]
        root = component_descriptor(write_tree(layout, listed, model={"name": name}), name=name, kind=kind, form="tree")
        parts.append(Component(name, kind, "tree", None, root))
    write_index(layout, parts, {STREAM: bundles.STREAM, "airgap.bundle": "test"})
    return folder


@dataclass
class Shipped:
    """A model as a bundle carries it: in the hub's cache layout, or from a local folder."""

    folder: Path
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    kind: str = "huggingface"
    others: dict[str, bytes] = field(default_factory=dict)
    host: str = "hub.example.org"

    def signed(self, key: Key, **changes: Any) -> None:
        self.files[oms.FILE] = signature(statement(listed(self.files), **changes), key)

    @property
    def layout(self) -> Layout:
        return Layout.create(self.folder)

    @property
    def component(self) -> Component:
        prefix = f"models--Acme--Tiny/snapshots/{'a' * 40}/" if self.kind == "huggingface" else ""
        held = {f"{prefix}{path}": data for path, data in self.files.items()} | self.others
        if prefix:
            held |= {"models--Acme--Tiny/refs/main": b"a" * 40, f"models--Acme--Tiny/trees/{'a' * 40}.json": b"{}"}
        root = write_tree(self.layout, [TreeFile(path, self.layout.put(data), len(data)) for path, data in held.items()], model={"name": "m"})
        facts = {"host": self.host, "repo": "Acme/Tiny"} if self.kind == "huggingface" and self.host else {"repo": "Acme/Tiny"}
        return Component("m", self.kind, "tree", None, component_descriptor(root, name="m", kind=self.kind, form="tree", facts=facts))

    def verdict(self, believed: Policy | None, ask: Judge = judge) -> Verdict:
        (found,) = models.assess(self.layout, [self.component], believed, ask)
        return found
