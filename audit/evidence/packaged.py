"""Files of a tree that are packages: wheels, Debian packages, Helm charts, each an item of its own with what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from airgap_images.bundle import TreeFile
from airgap_images.contents.packages.package import Package, Release
from airgap_images.layout import Layout
from audit.evidence import addresses, charts, debs, licence_texts, wheels
from audit.evidence.charts import Chart
from audit.evidence.item import Content, Coverage, Item, Licence
from manifests.errors import AirgapError
from manifests.lock import Pin
from manifests.paths import printable

MAX_TEXT = 1000  # characters of a name, version or licence


@dataclass(frozen=True, slots=True)
class Packaged:
    """A file that is a package.

    ``lines`` are the requirements that a wheel states (PEP 508), ``package`` is what a Debian package says of itself; None where nothing
    says what it needs.
    """

    item: Item
    lines: tuple[str, ...] | None = None
    package: Package | None = None


def read(layout: Layout, content: Content) -> Iterator[Packaged]:
    """Yield the packages among the files of a tree; one that cannot be read says so."""
    pins = {pin.path: pin for pin in content.locked.files} if content.locked else {}
    system, _, version = content.facts.get("distro", "").partition("-")
    release = Release(system, version) if content.component.kind == "apt" else Release()
    for file in content.files:
        reader = next((reader for ending, reader in READERS.items() if file.path.endswith(ending)), None)
        found = reader(layout, file, _bare(content, file, pins), release) if reader else None
        if found:
            yield found


def _bare(content: Content, file: TreeFile, pins: Mapping[str, Pin]) -> Item:
    """Return an item of which only its file is known."""
    pin = pins.get(file.path)
    return Item(
        ref=f"component:{content.component.name}/{file.path}",
        component=content.component.name,
        kind=content.component.kind,
        role=content.component.role,
        what="package",
        name=file.path.rsplit("/", 1)[-1],
        version=None,
        sha256=file.digest.hex,
        sha512=content.sha512.get(file.digest),
        size=file.size,
        coverage=Coverage("unreadable"),
        path=file.path,
        origin=addresses.origin(pin.url) if pin else None,
        facts=addresses.public(pin.evidence) if pin else (),
    )


def _unreadable(item: Item, reason: str) -> Packaged:
    return Packaged(replace(item, coverage=Coverage("unreadable", reason)))


def _wheel(layout: Layout, file: TreeFile, bare: Item, _release: Release) -> Packaged:
    named = wheels.from_filename(file.path)
    if named is None:
        return _unreadable(bare, "its file name is not that of a wheel")
    item = replace(bare, name=named[0], version=named[1], purl=addresses.make_purl("pypi", None, named[0], named[1], {}))
    try:
        wheel = wheels.read(layout, file)
    except (wheels.UnreadableError, AirgapError) as error:
        return _unreadable(item, str(error))
    stated = wheel.metadata
    if (stated.name, stated.version) != named:
        said = f"its METADATA says {printable(stated.name, 80)} {printable(stated.version, 80)}"
        return _unreadable(item, f"{said}, its file name {named[0]} {named[1]}")
    item = replace(
        item,
        coverage=Coverage("read", "name, version, licence and author as its METADATA states"),
        licences=tuple(Licence(text, f"METADATA, {field}") for text, field in stated.licences),
        concluded=licence_texts.conclude(wheel.texts),
        producer=stated.author,
        contact=addresses.contact(stated.contact),
        facts=(*bare.facts, licence_texts.fact(wheel.texts)),
    )
    return Packaged(item, lines=stated.requires)


def _deb(layout: Layout, file: TreeFile, bare: Item, release: Release) -> Packaged:
    try:
        package = debs.read(layout, file, release)
    except (debs.UnreadableError, AirgapError) as error:
        return _unreadable(bare, str(error))
    facts = {"type": package.type, "arch": package.arch, "source": package.source}
    item = replace(
        bare,
        name=printable(package.name, MAX_TEXT),
        version=printable(package.version, MAX_TEXT) or None,
        purl=package.purl,
        coverage=Coverage("read", "name, version and maintainer as its control file states; files inside were not looked into"),
        producer=printable(package.producer, MAX_TEXT) or None,
        contact=addresses.contact(package.contact),
        revision=printable(package.source, MAX_TEXT) or None,
        facts=(*bare.facts, *((key, printable(text, MAX_TEXT)) for key, text in facts.items() if text)),
    )
    return Packaged(item, package=package)


def _chart(layout: Layout, file: TreeFile, bare: Item, _release: Release) -> Packaged | None:
    try:
        chart = charts.read(layout, file)
    except (charts.UnreadableError, AirgapError) as error:
        return _unreadable(bare, str(error))
    return Packaged(of_chart(bare, chart)) if chart else None


def of_chart(bare: Item, chart: Chart) -> Item:
    """Return the item of a chart, with what it says of itself."""
    facts = {"type": "helm", "appVersion": chart.app_version, "home": addresses.origin(chart.home) or ""}
    return replace(
        bare,
        what="package",
        name=printable(chart.name, MAX_TEXT),
        version=printable(chart.version, MAX_TEXT) or None,
        purl=addresses.make_purl("generic", None, chart.name, chart.version, {"checksum": f"sha256:{bare.sha256}"}),
        coverage=Coverage("read", "name, version and maintainer as its Chart.yaml states; the images it names were not looked for"),
        licences=(Licence(printable(chart.licence, MAX_TEXT), "Chart.yaml, annotation"),) if chart.licence else (),
        producer=printable(chart.maintainer, MAX_TEXT) or None,
        contact=addresses.contact(chart.contact) or addresses.origin(chart.home),
        facts=(*bare.facts, *((key, printable(text, MAX_TEXT)) for key, text in facts.items() if text)),
    )


READERS: dict[str, Callable[[Layout, TreeFile, Item, Release], Packaged | None]] = {".whl": _wheel, ".deb": _deb, ".tgz": _chart}
