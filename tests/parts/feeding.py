"""A bundle with a wheel to install, and bundles of vulnerability data as feeds, both made and signed by the product's own code."""

from __future__ import annotations

import io
import json
import zipfile
from datetime import timedelta
from pathlib import Path

from parts import bundles
from parts.evidence import wheel

from airgap_images.bundle import Component, TreeFile, component_descriptor, write_index, write_tree
from airgap_images.layout import Layout
from audit.install.feed import import_
from audit.verify.pinned import Presented
from audit.verify.walk import Place
from bundler import sign
from manifests.policy import Policy, first_policy

NOW = bundles.NOW
FEEDS = "feeds"
SEVERE = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"
MILD = "CVSS:3.1/AV:L/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N"


def record(name: str, package: str, fixed: str, *, vector: str = SEVERE, modified: str = "2026-11-20T00:00:00Z") -> dict:
    """Return an OSV record: all versions of a package on PyPI before ``fixed`` are affected."""
    events = [{"introduced": "0"}, {"fixed": fixed}]
    return {
        "schema_version": "1.7.0",
        "id": name,
        "modified": modified,
        "summary": f"something about {package}",
        "severity": [{"type": "CVSS_V3", "score": vector}],
        "affected": [{"package": {"ecosystem": "PyPI", "name": package}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}],
    }


def archive(*records: dict) -> bytes:
    """Return records as OSV publishes them: one JSON file for each in a zip."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in records:
            packed.writestr(zipfile.ZipInfo(f"{entry['id']}.json", (2026, 1, 1, 0, 0, 0)), json.dumps(entry))
    return out.getvalue()


UNRELATED = record("PYSEC-2020-1", "elsewhere", "1")


def feed_policy(who: bundles.Site) -> Policy:
    """Return the policy for feeds: a stream of its own, signed by alice alone."""
    return first_policy(FEEDS, {"alice": who.policy.signers["alice"]}, threshold=1, expires=NOW + timedelta(days=365))


def data_files(*records: dict, as_of: str = "2026-11-20T00:00:00Z") -> dict[str, bytes]:
    stated = {"format": "airgap.advisories/v1", "files": [{"path": "osv/PyPI/all.zip", "feed": "osv", "name": "PyPI", "asOf": as_of}]}
    return {"osv/PyPI/all.zip": archive(UNRELATED, *records), "feeds.json": json.dumps(stated).encode()}


def lay(folder: Path, stream: str, parts: dict[str, tuple[str, dict[str, bytes]]]) -> Path:
    """Lay out an unsigned bundle: name → (kind, path → bytes)."""
    layout = Layout.create(folder)
    made = []
    for name, (kind, files) in parts.items():
        tree = write_tree(layout, [TreeFile(path, layout.put(raw), len(raw)) for path, raw in files.items()])
        made.append(Component(name, kind, "tree", None, component_descriptor(tree, name=name, kind=kind, form="tree")))
    write_index(layout, made, {sign.STREAM: stream, "airgap.bundle": "test", "airgap.target.platform": "linux/amd64"})
    if (folder / ".partial").exists():
        (folder / ".partial").rmdir()
    return folder


def gateway(folder: Path, who: bundles.Site, *, serial: int = 1, data: dict[str, bytes] | None = None, **wheels: str) -> Path:
    """Return a signed bundle with wheels (name → version), and with vulnerability data if ``data`` is given."""
    files = {f"{name}-{version}-py3-none-any.whl": wheel(name, version) for name, version in wheels.items()}
    parts = {"gateway": ("python", files)} | ({"advisories": ("osv", data)} if data else {})
    lay(folder, bundles.STREAM, parts)
    for at, name in enumerate(("alice", "bob")):
        sign.sign(folder, who.key(name), bundles.terms(serial if at == 0 else None))
    return folder


def feed(folder: Path, who: bundles.Site, files: dict[str, bytes], *, serial: int = 1, more: dict[str, tuple[str, dict[str, bytes]]] | None = None) -> Path:
    """Return a signed feed."""
    lay(folder, FEEDS, {"advisories": ("osv", files), **(more or {})})
    sign.sign(folder, who.key("alice"), bundles.terms(serial))
    return folder


def imported(folder: Path, who: bundles.Site, store: Path, **more: object):
    return import_(Place.of(folder), Presented(feed_policy(who).to_bytes()), store, now=NOW, **more)
