"""Python distributions: ``*.dist-info``, ``*.egg-info`` and ``EGG-INFO`` ("recording installed projects"); RECORD says what they own."""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Iterator, Mapping

from airgap_images.contents.layer import clean
from airgap_images.contents.packages import core_metadata
from airgap_images.contents.packages.package import Gap, Package, Release, Text, make_purl

KIND = "pypi"
MAX_METADATA = 4 << 20  # bytes
MAX_RECORD = 32 << 20  # bytes
_STATED = re.compile(r"(?:.*/)?(?:[^/]*\.dist-info/METADATA|[^/]*\.egg-info(?:/PKG-INFO)?|EGG-INFO/PKG-INFO)", re.IGNORECASE)
_FIELD = re.compile(r"(?:\"((?:[^\"]|\"\")*)\"|([^,\"]*))(?:,|$)")
_RECORDS = ("RECORD", "installed-files.txt")


def limit(path: str, name: str) -> int:
    """Return how many bytes of a file may be kept."""
    if name in _RECORDS:
        return MAX_RECORD if path.rpartition("/")[0].lower().endswith((".dist-info", ".egg-info")) else 0
    wanted = name in {"METADATA", "PKG-INFO"} or name.endswith(".egg-info")
    return MAX_METADATA if wanted and _STATED.fullmatch(path) else 0


def packages(files: Mapping[str, Text], release: Release) -> Iterator[Package | Gap]:  # noqa: ARG001
    """Yield the installed distributions."""
    for path, file in files.items():
        if path.rpartition("/")[2] in _RECORDS:
            continue
        stated = core_metadata.parse(file.data.decode("utf-8", "replace"))
        if stated is None:
            yield Gap(path, "states no name or no version")
            continue
        licences = tuple(text for text, _ in stated.licences)
        purl = make_purl(KIND, "", core_metadata.normalised(stated.name), stated.version)
        yield Package(
            type=KIND,
            name=stated.name,
            version=stated.version,
            purl=purl,
            path=path,
            layer=file.layer,
            licences=licences,
            files=_owned(path, files),
            producer=stated.author or "",
            contact=stated.contact or "",
            needs=tuple((line,) for line in stated.requires),
        )


def _owned(path: str, files: Mapping[str, Text]) -> tuple[str, ...]:
    """RECORD counts from the folder that holds ``*.dist-info``, the older list from ``*.egg-info`` itself."""
    info = path.rpartition("/")[0]
    for name, base in zip(_RECORDS, (posixpath.dirname(info), info), strict=True):
        if f"{info}/{name}" in files:
            rows = files[f"{info}/{name}"].lines()
            paths = (clean(posixpath.join("/", base, first)) for first in _firsts(rows))
            return tuple(path for path in paths if path)
    return ()


def _firsts(rows: Iterator[str]) -> Iterator[str]:
    try:
        for row in csv.reader(rows):
            if row:
                yield row[0]
    except csv.Error:  # the rest is not owned by anybody then, which is what the figure says
        return
