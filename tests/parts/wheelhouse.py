"""Wheels in a bundle with what an index published beside them, for tests of who is believed.

    carried = Carried(tmp_path, {"app-1.0-py3-none-any.whl": b"..."})
    carried.attest("app-1.0-py3-none-any.whl", provenance(...))
    carried.verdict(policy(log.trusted_root()))
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from airgap_images.bundle import Component, TreeFile, component_descriptor, write_tree
from airgap_images.layout import Layout
from airgap_images.wheel_evidence import LISTING, Attested, WheelEvidence, provenance_path
from audit.verify import wheels
from audit.verify.keyless import judge
from audit.verify.verdict import Judge, Verdict
from manifests.policy import Policy

APP = "app-1.0-py3-none-any.whl"
NONE = "the index names no provenance of it"


@dataclass
class Carried:
    """A component ``gw`` with its wheels and ``gw.upstream`` beside it; fields may be changed to make it lie."""

    folder: Path
    files: dict[str, bytes] = field(default_factory=lambda: {APP: b"the wheel"})
    kind: str = "python"
    provenances: dict[str, bytes] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)  # stated instead of the true one
    of: str = "gw"
    listing: bytes | None = None
    strays: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.layout = Layout.create(self.folder / "bundle")

    def attest(self, name: str, raw: bytes) -> None:
        self.provenances[name] = raw

    @property
    def evidence(self) -> WheelEvidence:
        stated = {name: self.sha256.get(name, hashlib.sha256(self.files.get(name, b"")).hexdigest()) for name in self.provenances}
        attested = [
            Attested(f"wheels/{name}", stated[name], provenance_path(hashlib.sha256(raw).hexdigest())) for name, raw in self.provenances.items()
        ]
        absent = tuple(f"wheels/{name}" for name in self.files if name not in self.provenances)
        return WheelEvidence(self.of, tuple(attested), ((NONE, absent),) if absent else ())

    def components(self, *, beside: bool = True) -> tuple[Component, ...]:
        wheelhouse = self._tree("gw", self.kind, {f"wheels/{name}": data for name, data in self.files.items()})
        texts = {provenance_path(hashlib.sha256(raw).hexdigest()): raw for raw in self.provenances.values()} | self.strays
        texts[LISTING] = self.evidence.to_text().encode() if self.listing is None else self.listing
        upstream = self._tree("gw.upstream", "python", texts)
        return (wheelhouse, upstream) if beside else (wheelhouse,)

    def verdicts(self, policy: Policy | None, *, beside: bool = True, judge: Judge = judge) -> tuple[Verdict, ...]:
        return wheels.assess(self.layout, self.components(beside=beside), policy, judge)

    def verdict(self, policy: Policy | None, *, beside: bool = True, judge: Judge = judge) -> Verdict:
        (found,) = self.verdicts(policy, beside=beside, judge=judge)
        return found

    def _tree(self, name: str, kind: str, files: dict[str, bytes]) -> Component:
        root = write_tree(self.layout, [TreeFile(path, self.layout.put(data), len(data)) for path, data in files.items()])
        return Component(name, kind, "tree", None, component_descriptor(root, name=name, kind=kind, form="tree"))
