"""Turn what is inside an image into items: one for each package, below the image, or below each platform where there are several.

Rules: the image says what was read of it, what was seen and not read, and which share of its ELF files belongs to a package; one that
should have been read and could not be, or only in part, is ``unreadable`` with the reason; what is no container image is only listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from airgap_images.bundle import unwrap
from airgap_images.contents import packages
from airgap_images.contents.packages import Contents, Programs
from airgap_images.contents.packages.package import Package
from airgap_images.layout import Layout
from airgap_images.oci import INDEXES, MANIFESTS, MAX_MANIFEST, Descriptor, Index, Manifest, Pairs, parse_document
from airgap_images.platform import Platform, is_attestation
from audit.evidence import charts, edges, packaged
from audit.evidence.charts import Chart
from audit.evidence.item import Content, Coverage, Item, Licence
from audit.verify.walk import Watch
from manifests import canonical
from manifests.errors import AirgapError, IntegrityError, InvalidFileError
from manifests.paths import printable

MAX_PLATFORMS = 64  # manifests of one image
MAX_CONFIG = 1 << 20  # bytes of the configuration of a chart
HELM = "application/vnd.cncf.helm.config.v1+json"
MAX_LEVELS = 3  # indexes in indexes
MAX_NAMED = 5  # gaps of one image named in its reason
MAX_TEXT = 1000  # characters of a name, path or licence
NOT_READ = "inside:notRead"  # the fact that says what was seen and not read
NO_IMAGE = "its configuration is not that of a container image, so nothing inside was looked for"
WHERE = {
    "deb": "copyright file", "apk": "apk database", "rpm": "rpm database", "pypi": "METADATA", "npm": "package.json", "maven": "manifest"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Opened:
    """One manifest of an image, what was found inside, and how far it was read."""

    manifest: Descriptor
    platform: str
    contents: Contents | None
    coverage: Coverage
    chart: Chart | None = None


def items(layout: Layout, content: Content, whole: Item, watch: Watch) -> Iterator[Item]:
    """Yield ``whole``, the image, with what was read of it, then its platforms if there are several, then the packages inside."""
    if content.problem:
        yield whole
        return
    try:
        opened = tuple(_open(layout, entry, watch) for entry in _manifests(layout, unwrap(layout, content.component.root)))
    except AirgapError as error:
        yield replace(whole, coverage=Coverage("unreadable", error.message))
        return
    if len(opened) == 1:
        yield from _with_packages(replace(whole, coverage=opened[0].coverage), opened[0], "")
        return
    yield replace(whole, coverage=_together(opened))
    for one in opened:
        yield from _with_packages(_platform(whole, one), one, f"{one.platform}/")


def _manifests(layout: Layout, root: Descriptor, level: int = 0) -> Iterator[Descriptor]:
    if root.media_type in MANIFESTS:
        yield root
        return
    document = parse_document(root, layout.read(root, MAX_MANIFEST)) if root.media_type in INDEXES else None
    if not isinstance(document, Index) or level == MAX_LEVELS or len(document.manifests) > MAX_PLATFORMS:
        what = f"blobs/sha256/{root.digest.hex}"
        raise IntegrityError(f"{what}: is no image, or an index of too many", hint="distrust this bundle")
    for entry in document.manifests:
        if not is_attestation(entry):
            yield from _manifests(layout, entry, level + 1)


def _open(layout: Layout, entry: Descriptor, watch: Watch) -> Opened:
    platform = str(Platform.said(entry)) or entry.digest.hex[:12]
    manifest: Manifest | None = None
    try:
        manifest = Manifest.parse(layout.read(entry, MAX_MANIFEST), f"blobs/sha256/{entry.digest.hex}")
        watch.begin(sum(layer.size for layer in manifest.layers))
        contents = packages.read(layout, manifest, watch.moved)
    except InvalidFileError:
        return Opened(entry, platform, None, Coverage("listed", NO_IMAGE), _chart(layout, manifest) if manifest else None)
    except AirgapError as error:
        return Opened(entry, platform, None, Coverage("unreadable", error.message))
    return Opened(entry, platform, contents, _coverage(contents))


def _chart(layout: Layout, manifest: Manifest) -> Chart | None:
    """Return the Helm chart that a manifest is of (Helm, "OCI registries"); its configuration is its Chart.yaml as JSON."""
    if manifest.config.media_type != HELM:
        return None
    try:
        return charts.of(canonical.parse(layout.read(manifest.config, MAX_CONFIG), "chart", limit=MAX_CONFIG))
    except (charts.UnreadableError, AirgapError):
        return None


def _coverage(contents: Contents) -> Coverage:
    said = f"{_packages(contents)}; {_programs(contents.programs)}"
    if contents.seen:
        said += f"; seen and not read: {_counted(contents.seen)}"
    if not contents.gaps:
        return Coverage("read", said)
    named = [f"{printable(gap.path)} {gap.why}".strip() for gap in contents.gaps[:MAX_NAMED]]
    more = f" and {len(contents.gaps) - MAX_NAMED} more" if len(contents.gaps) > MAX_NAMED else ""
    return Coverage("unreadable", f"not all: {'; '.join(named)}{more}. Read: {said}")


def _together(opened: tuple[Opened, ...]) -> Coverage:
    """Say of an image of several platforms what is the worst of them."""
    if not opened:
        return Coverage("listed", "it is an index without a platform")
    worst = next((reading for reading in ("unreadable", "listed") if any(one.coverage.reading == reading for one in opened)), "read")
    reasons = [f"{one.platform}: {one.coverage.reason}" for one in opened if one.coverage.reading == worst]
    return Coverage(worst, "; ".join(reasons))  # type: ignore[arg-type]


def _with_packages(image: Item, one: Opened, before: str) -> Iterator[Item]:
    if one.contents is None:
        yield packaged.of_chart(image, one.chart) if one.chart else image
        return
    yield replace(image, facts=(*image.facts, *_facts(one.contents)))
    placed = list(_placed(image, one.contents, before))
    needs = edges.of_image((item.ref, package) for item, package in placed)
    yield from (replace(item, requires=needs.get(item.ref)) for item, _ in placed)


def _placed(image: Item, contents: Contents, before: str) -> Iterator[tuple[Item, Package]]:
    seen: dict[str, set[Package]] = {}
    for package in contents.packages:
        item = _package(image, package, before)
        alike = seen.setdefault(item.ref, set())
        if package not in alike:  # names that differ only in what cannot be printed are different packages
            alike.add(package)
            yield (item if len(alike) == 1 else replace(item, ref=f"{item.ref}~{len(alike)}")), package


def _platform(whole: Item, one: Opened) -> Item:
    digest = one.manifest.digest
    return replace(
        whole,
        ref=f"{whole.ref}/{one.platform}@{digest.hex[:12]}",
        inside=whole.ref,
        path=one.platform,
        version=str(digest),
        sha256=digest.hex,
        size=None,
        coverage=one.coverage,
        purl=None,
        facts=(),
    )


def _package(image: Item, package: Package, before: str) -> Item:
    name, version, path = (printable(text, MAX_TEXT) for text in (package.name, package.version, package.path))
    facts = {"type": package.type, "arch": package.arch, "source": package.source, "layer": f"sha256:{package.layer}"}
    source = WHERE.get(package.type, "as stated")
    return Item(
        ref=f"{image.ref}/{path}:{package.type}/{name}@{version}{f':{printable(package.arch)}' if package.arch else ''}",
        component=image.component,
        kind=image.kind,
        role=image.role,
        what="package",
        name=name,
        version=version or None,
        sha256=None,
        size=None,
        coverage=Coverage("read", "name, version and licence as the image states them"),
        path=f"{before}{path}",
        purl=package.purl,
        licences=tuple(Licence(printable(text, MAX_TEXT), source) for text in package.licences),
        facts=tuple((key, printable(text, MAX_TEXT)) for key, text in sorted(facts.items()) if text),
        inside=image.ref,
        producer=printable(package.producer, MAX_TEXT) or None,
        contact=printable(package.contact, MAX_TEXT) or None,
        revision=printable(package.source, MAX_TEXT) or None,
    )


def _facts(contents: Contents) -> Pairs:
    programs = contents.programs
    facts = {
        "inside:system": contents.release.name or contents.release.distro,
        "inside:packages": _packages(contents),
        "inside:programs": _programs(programs),
        "inside:programs:largestUnowned": ", ".join(f"{path} ({size} bytes)" for path, size in programs.largest),
        NOT_READ: _counted(contents.seen),
        "inside:files": str(contents.files),
        "inside:bytes": str(contents.size),
    }
    return tuple((key, printable(text, 2 * MAX_TEXT)) for key, text in facts.items() if text)


def _packages(contents: Contents) -> str:
    system = contents.release.name or contents.release.distro or "no os-release"
    counts = Counter(package.type for package in contents.packages)
    return f"{printable(system)}: " + (_counted(sorted(counts.items())) or "no packages")


def _programs(programs: Programs) -> str:
    if not programs.total:
        return "no ELF files"
    named = f", {programs.named} more name their Go modules" if programs.named else ""
    return f"{programs.owned} of {programs.total} ELF files belong to a package{named}"


def _counted(counts: tuple[tuple[str, int], ...] | list[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts)
