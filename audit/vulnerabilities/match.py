"""Does an advisory apply to a package? The evaluation algorithm of the OSV format (section "Evaluation").

Rules: pure; a version listed by name is affected; in a range an event counts where the version has reached it, in the order of the
ecosystem's versions. A version that cannot be ordered is not compared with ranges, and the caller learns that it was not. A reason
why no feed can be trusted to know a package never keeps an advisory from applying to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from packageurl import PackageURL

from audit.evidence.item import Item
from audit.vulnerabilities import versions
from audit.vulnerabilities.records import Affected, Event, normal_name
from audit.vulnerabilities.versions import NoVersionError

ECOSYSTEMS = {"pypi": "PyPI", "npm": "npm", "golang": "Go", "cargo": "crates.io", "maven": "Maven"}
DISTRIBUTIONS = {  # the `distro` qualifier's id -> the ecosystem, and how much of the version it carries
    "debian": ("Debian", 1), "ubuntu": ("Ubuntu", 2), "alpine": ("Alpine", 2), "rocky": ("Rocky Linux", 1), "almalinux": ("AlmaLinux", 1),
}  # fmt: skip
UNASKED = {
    "model": "models: no advisories are kept by model",
    "image": "images as a whole: their packages are assessed one by one",
    "file": "files that are no packages",
    "files": "files that are no packages",
}
UBUNTU_LTS = 2  # an even year's April release
UNCOVERED = "CUDA, cuDNN, drivers and the like of NVIDIA and AMD: no feed covers them, see the vendor's security bulletins"
_ACCELERATED = re.compile(  # what these vendors name their packages, in every ecosystem
    r"(lib)?(nvidia|cuda|cudnn|cublas|cufft|cufile|curand|cusolver|cusparse|nccl|npp|nvjpeg|nvjitlink|nvinfer|nvfatbin|nvshmem"
    r"|tensorrt|nsight|rocm|hip|hsa|miopen|rccl)([-_\d].*)?"
    r"|(rocblas|rocfft|rocsolver|rocsparse|rocrand|hipblas|hipfft|amdgpu)\b.*"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What one item is called where advisories are: ecosystem, name in its one form, version.

    ``doubt`` says why it does not count as known to its ecosystem's data where that has nothing about it.
    """

    ecosystem: str
    name: str
    version: str
    doubt: str = ""


def asked(item: Item) -> Asked | str:
    """Return what to look an item up by, or why that cannot be known."""
    if item.what != "package":
        return UNASKED[item.what]
    try:
        purl = PackageURL.from_string(item.purl or "")
    except ValueError:
        return "packages without a package URL"
    if not purl.version:
        return "packages without a version"
    doubt = UNCOVERED if _ACCELERATED.fullmatch(purl.name) else ""
    return _of_purl(purl, dict(item.facts).get("source", ""), doubt)


def affects(affected: Affected, version: str) -> bool:
    """Say whether a version is affected; raises NoVersionError if that hangs on versions that have no order."""
    version = versions.published(affected.ecosystem, version)
    if version in affected.versions:
        return True
    if affected.by_commit:
        raise NoVersionError(version)
    unordered: NoVersionError | None = None
    for events in affected.ranges:
        try:
            if _inside(affected.ecosystem, events, version):
                return True
        except NoVersionError as error:
            unordered = error
    if unordered:
        raise unordered
    return _listed(affected, version)


def fixed_in(affected: Affected, version: str) -> tuple[str, ...]:
    """Return the versions after ``version`` that have a correction, the nearest first; all as stated where there is no order."""
    found = tuple(dict.fromkeys(text for events in affected.ranges for kind, text in events if kind == "fixed" and text != "0"))
    try:
        mine = versions.key(affected.ecosystem, version)
        ordered = sorted((_Ordered(versions.key(affected.ecosystem, text)), text) for text in found)
    except NoVersionError:
        return found
    return tuple(text for point, text in ordered if mine < point.version)


def _listed(affected: Affected, version: str) -> bool:
    """Say whether one of the versions listed is this one, written another way (``1.0`` and ``1.0.0``)."""
    if not affected.versions:
        return False
    mine = versions.key(affected.ecosystem, version)
    for text in affected.versions:
        try:
            if _Ordered(versions.key(affected.ecosystem, text)) == _Ordered(mine):
                return True
        except NoVersionError:
            continue  # it was compared as text
    return False


def _of_purl(purl: PackageURL, source: str, doubt: str) -> Asked | str:
    if purl.type in ECOSYSTEMS:
        separator = ":" if purl.type == "maven" else "/"
        name = separator.join(filter(None, (purl.namespace, purl.name)))
        return Asked(ECOSYSTEMS[purl.type], normal_name(ECOSYSTEMS[purl.type], name), str(purl.version), doubt)
    return _of_distribution(purl, source, doubt)


def _of_distribution(purl: PackageURL, source: str, doubt: str) -> Asked | str:
    qualifiers = dict(purl.qualifiers)
    release, _, number = str(qualifiers.get("distro", "")).partition("-")
    if release not in DISTRIBUTIONS or not number:
        return f"packages of type {purl.type} of a system no feed is known for"
    family, parts = DISTRIBUTIONS[release]
    number = ".".join(number.split(".")[:parts])
    ecosystem = f"{family}:v{number}" if family == "Alpine" else f"{family}:{number}"
    if family == "Ubuntu" and number.endswith(".04") and number.split(".")[0].isdecimal() and int(number.split(".")[0]) % UBUNTU_LTS == 0:
        ecosystem += ":LTS"
    if purl.type == "rpm":  # advisories name what is installed, others its source
        epoch = f"{qualifiers['epoch']}:" if qualifiers.get("epoch") else ""
        return Asked(ecosystem, purl.name, f"{epoch}{purl.version}", doubt)
    name, _, version = source.partition("@") if purl.type == "deb" else (source, "", "")
    return Asked(ecosystem, name or purl.name, version or str(purl.version), doubt)


def _inside(ecosystem: str, events: tuple[Event, ...], version: str) -> bool:
    mine = versions.key(ecosystem, version)
    limits = [text for kind, text in events if kind == "limit"]
    if limits and "*" not in limits and not any(mine < versions.key(ecosystem, text) for text in limits):
        return False
    inside = ("introduced", "0") in events and ("fixed", "0") not in events  # "0" is before every version
    points = [(versions.key(ecosystem, text), kind) for kind, text in events if kind != "limit" and text != "0"]
    for point, kind in sorted(points, key=lambda entry: (_Ordered(entry[0]), entry[1] != "introduced")):
        reached = point < mine if kind == "last_affected" else not mine < point
        if reached:
            inside = kind == "introduced"
    return inside


class _Ordered:
    """A version in a sort key: some orders only know ``<``."""

    __slots__ = ("version",)

    def __init__(self, version: Any) -> None:
        self.version = version

    def __lt__(self, other: _Ordered) -> bool:
        return bool(self.version < other.version)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Ordered) and not self < other and not other < self

    def __hash__(self) -> int:
        raise TypeError("a sort key is not hashed")
