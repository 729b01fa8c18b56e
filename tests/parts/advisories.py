"""Vulnerability data as its publishers serve it, made of the records in ``tests/data/advisories``, and inventories to compare with it.

    with advisories.site() as site:
        desk.write_intent(f"name: data, kind: osv, ecosystems: [PyPI], {site.options}")
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from parts import evidence, httpd
from parts.bundles import NOW

from airgap_images.bundle import Component, TreeFile, component_descriptor, write_tree
from airgap_images.layout import Layout
from audit import checks
from audit.evidence.assessment import Assessment, proved
from audit.evidence.inventory import take
from audit.evidence.item import Coverage, Item
from audit.vulnerabilities import feeds
from audit.vulnerabilities.assess import assess
from audit.vulnerabilities.feeds import Data
from audit.vulnerabilities.result import Vulnerabilities
from manifests import canonical
from manifests.policy import Waiver

RECORDS = Path(__file__).parent.parent / "data" / "advisories" / "records"
PUBLISHED = datetime(2026, 11, 23, 6, 0, 0, tzinfo=UTC)
STAMP = (2026, 1, 1, 0, 0, 0)
KEV_PATH, EPSS_PATH = "kev/known_exploited_vulnerabilities.json", "epss/epss_scores-current.csv.gz"
REQUESTS_PURL = "pkg:pypi/requests@2.19.0"
REQUESTS = {"CVE-2018-18074", "CVE-2023-32681", "CVE-2024-35195"}  # of requests 2.19.0


@cache
def records() -> dict[str, bytes]:
    """Return the recorded records by id."""
    return {json.loads(raw)["id"]: raw for raw in (path.read_bytes() for path in sorted(RECORDS.iterdir()))}


def record(name: str, **changed: Any) -> bytes:
    """Return a recorded record with other values in it."""
    return json.dumps(json.loads(records()[name]) | changed).encode()


def made(*events: tuple[str, str], name: str = "app", ecosystem: str = "PyPI", id: str = "X-1", **more: Any) -> dict[str, Any]:  # noqa: A002 - OSV's word
    """Return a record about one package with one range of ``events``."""
    package = {"package": {"ecosystem": ecosystem, "name": name}}
    ranges = {"ranges": [{"type": "ECOSYSTEM", "events": [dict([event]) for event in events]}]} if events else {}
    return {"id": id, "modified": "2026-11-20T00:00:00Z", "affected": [package | ranges]} | more


def archive(members: dict[str, bytes]) -> bytes:
    """Return an archive, the same bytes for the same members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, raw in members.items():
            opened.writestr(zipfile.ZipInfo(name, STAMP), raw, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def ecosystem(name: str) -> bytes:
    """Return ``all.zip`` of an ecosystem: the recorded records about it, or about a release of it."""

    def about(raw: bytes) -> bool:
        named = [affected["package"]["ecosystem"] for affected in json.loads(raw)["affected"]]
        return name in named or name in {text.split(":")[0] for text in named}

    return archive({f"{key}.json": raw for key, raw in records().items() if about(raw)})


def kev(*cves: str) -> bytes:
    entries = [{"cveID": cve, "dateAdded": "2023-09-13"} for cve in cves or ("CVE-2023-4863",)]
    return json.dumps({"title": "catalog", "dateReleased": "2026-11-22T15:00:00.0000Z", "vulnerabilities": entries}).encode()


def epss(**scores: float) -> bytes:
    lines = ["#model_version:v2025.03.14,score_date:2026-11-23T12:55:00Z", "cve,epss,percentile", "CVE-2018-18074,0.0123,0.7"]
    lines += [f"{cve.replace('_', '-')},{score},0.5" for cve, score in scores.items()]
    return gzip.compress("\n".join(lines).encode() + b"\n", mtime=0)


@dataclass(frozen=True)
class Served:
    """The publishers on one server; ``options`` are the fields of the intent that point there."""

    server: httpd.Server

    @property
    def options(self) -> str:
        origin = self.server.origin
        return f"base: '{origin}/osv', kev: '{origin}/kev.json', epss: '{origin}/epss.csv.gz'"

    def put(self, name: str, data: bytes, published: datetime | None = PUBLISHED) -> None:
        """Serve ``all.zip`` of an ecosystem."""
        self.raw(f"/osv/{quote(name)}/all.zip", data, published)

    def raw(self, path: str, data: bytes, published: datetime | None = PUBLISHED) -> None:
        headers = {"Last-Modified": format_datetime(published, usegmt=True)} if published else {}
        self.server.serve(path, data, headers=headers)


@contextlib.contextmanager
def site(*ecosystems: str) -> Iterator[Served]:
    """Serve KEV, EPSS and the recorded records of ``ecosystems``."""
    with httpd.Server() as server:
        served = Served(server)
        for name in ecosystems or ("PyPI",):
            served.put(name, ecosystem(name))
        served.raw("/kev.json", kev())
        served.raw("/epss.csv.gz", epss())
        yield served


def item(purl: str, *, source: str = "", what: str = "package", ref: str = "") -> Item:
    """Return an item of an inventory as images and wheels make them."""
    path, _, version = purl.partition("?")[0].partition("@")
    name = path.rpartition("/")[2]
    facts = (("source", source),) if source else ()
    return Item(
        ref=ref or purl,
        component="app",
        kind="python",
        role=None,
        what=what,  # type: ignore[arg-type]
        name=name,
        version=version or None,
        sha256=None,
        size=None,
        coverage=Coverage("read"),
        purl=purl,
        facts=facts,
    )


def data(folder: Path, files: dict[str, bytes], *, bundle: str = "", name: str = "data", as_of: dict[str, str] | None = None) -> Data:
    """Return a component of vulnerability data that lies in a layout at ``folder``."""
    layout = Layout.create(folder)
    entries = [{"path": path, "asOf": (as_of or {}).get(path)} for path in files]
    stated = {feeds.FEEDS_FILE: canonical.readable({"format": feeds.FORMAT, "files": entries})} if as_of is not None else {}
    listed = [TreeFile(path, layout.put(raw), len(raw)) for path, raw in (files | stated).items()]
    root = component_descriptor(write_tree(layout, listed), name=name, kind=feeds.KIND, form="tree")
    return Data(layout, Component(name, feeds.KIND, "tree", None, root), bundle)


def known(folder: Path, *names: str, **more: bytes) -> Data:
    """Return the recorded data of ecosystems, with KEV and EPSS and further ``vex`` documents."""
    files = {f"osv/{name}/all.zip": ecosystem(name) for name in names or ("PyPI",)}
    files |= {KEV_PATH: kev(), EPSS_PATH: epss()} | {f"vex/{key}.json": raw for key, raw in more.items()}
    stamp = canonical.stamp(PUBLISHED)
    return data(folder, files, as_of={path: stamp for path in files if not path.startswith("vex/")})


def compared(folder: Path, purl: str, *names: str, source: str = "", **more: bytes) -> Vulnerabilities:
    """Return what the recorded data says of one package."""
    return assess([item(purl, source=source)], [known(folder, *names, **more)])


def said(folder: Path, records: dict[str, Any] | list[dict[str, Any]], *purls: str, ecosystem: str = "PyPI") -> Vulnerabilities:
    """Return what an archive of these records says of packages."""
    stated = records if isinstance(records, list) else [records]
    raw = archive({f"{at}.json": json.dumps(value).encode() for at, value in enumerate(stated)})
    return assess(map(item, purls), [data(folder, {f"osv/{ecosystem}/all.zip": raw})])



def statement(name: str = "CVE-2018-18074", purl: str = REQUESTS_PURL, status: str = "not_affected", **more: Any) -> dict[str, Any]:
    """Return a statement of an OpenVEX document."""
    reason = {"justification": "vulnerable_code_not_in_execute_path"} if status == "not_affected" else {}
    return {"vulnerability": {"name": name}, "products": [{"@id": purl}], "status": status} | reason | more


def openvex(*statements: dict[str, Any], **more: Any) -> bytes:
    """Return an OpenVEX document of Acme's."""
    head = {"@context": "https://openvex.dev/ns/v0.2.0", "@id": "urn:x:1", "author": "Acme Security", "timestamp": "2026-11-01T00:00:00Z"}
    return json.dumps(head | {"version": 1, "statements": list(statements)} | more).encode()


def wheels(*names: str) -> dict[str, bytes]:
    """Return wheels named ``name==version``."""
    pairs = [name.split("==") for name in names]
    return {f"{name}-{version}-py3-none-any.whl": evidence.wheel(name, version) for name, version in pairs}


def waiver(about: str | None, subject: str, *, days: int = 30, check: str = "vulnerabilities") -> Waiver:
    expires = canonical.stamp(NOW + timedelta(days=days))
    return Waiver(check=check, subject=subject, about=about, by="Ada", reason="Not reached: no redirects.", expires=expires)


def assessment(folder: Path, names: tuple[str, ...], known: tuple[Data, ...], *waivers: Waiver) -> Assessment:
    """Return the assessment of a signed bundle of wheels, compared with data, decided with waivers."""
    files = wheels(*names)
    (gateway,) = (part for part in evidence.locked(files) if part.name == "gateway")
    place = evidence.build(folder, evidence.lock(gateway), {"gateway": evidence.contents(files)["gateway"]})
    bundle = evidence.verified(evidence.signed(place))
    inventory = take(bundle)
    found = assess(inventory.items, known)
    subject = checks.Subject(bundle.layout, bundle.components, items=inventory.items, vulnerabilities=found, now=NOW)
    results = (checks.run_one(checks.load("vulnerabilities"), subject),)
    gate = checks.gate(results, {}, waivers, NOW)
    return proved(
        bundle, results, gate, inventory=inventory, vulnerabilities=found, memory=None, drift=None, place="/media/usb", tool=evidence.TOOL, now=NOW
    )
