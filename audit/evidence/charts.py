"""Read what a Helm chart says of itself: the Chart.yaml at the top of its archive (Helm, "Charts", "The Chart.yaml File").

Rules: the archive is hostile and read as a stream, to the first Chart.yaml and no further than a bound; an archive without one is no chart;
templates are not rendered.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from airgap_images.bundle import TreeFile
from airgap_images.contents.tar import FILE, Tar
from airgap_images.contents.unpack import Budget, pieces
from airgap_images.layout import Layout
from manifests.errors import IntegrityError, InvalidFileError
from manifests.yamlfile import MAX_YAML, Document

MAX_ENTRIES = 10_000
MAX_UNPACKED = 256 << 20  # bytes
LICENCE = "artifacthub.io/license"  # the annotation that Artifact Hub reads
_CHART = re.compile(r"(?:\./)?[^/]+/Chart\.yaml")


class UnreadableError(Exception):
    """Why a chart could not be read."""


@dataclass(frozen=True, slots=True)
class Chart:
    """What a chart states; empty where it says nothing."""

    name: str
    version: str
    app_version: str = ""
    home: str = ""
    maintainer: str = ""
    contact: str = ""
    licence: str = ""


def read(layout: Layout, file: TreeFile) -> Chart | None:
    """Return what a chart states, None if the archive is none; raises UnreadableError, or IntegrityError if the blob is gone."""
    with os.fdopen(layout.open(file.digest, file.size), "rb") as raw:
        tar = Tar(pieces(raw, file.size, Budget(MAX_UNPACKED)))
        try:
            for at, entry in enumerate(tar):
                if entry.kind == FILE and _CHART.fullmatch(entry.name):
                    if entry.stored > MAX_YAML:
                        raise UnreadableError(f"its Chart.yaml has {entry.stored} bytes, at most {MAX_YAML} are read")
                    return _parse(b"".join(tar.body()))
                if at > MAX_ENTRIES:
                    break
                for _ in tar.body():
                    pass
        except IntegrityError as error:
            raise UnreadableError(f"not a readable archive: {error.message}") from None
    return None


def _parse(raw: bytes) -> Chart:
    try:
        return of(Document(raw, "Chart.yaml").value)
    except InvalidFileError as error:
        raise UnreadableError(error.message) from None


def of(value: Any) -> Chart:
    """Return what the values of a Chart.yaml say; raises UnreadableError."""
    stated = value if isinstance(value, dict) else {}
    name, version = _text(stated.get("name")), _text(stated.get("version"))
    if not name or not version:
        raise UnreadableError("its Chart.yaml has no name or no version")
    people = stated.get("maintainers")
    first = people[0] if isinstance(people, list) and people and isinstance(people[0], dict) else {}
    notes = stated.get("annotations")
    return Chart(
        name,
        version,
        app_version=_text(stated.get("appVersion")),
        home=_text(stated.get("home")),
        maintainer=_text(first.get("name")),
        contact=_text(first.get("url")) or _text(first.get("email")),
        licence=_text(notes.get(LICENCE)) if isinstance(notes, dict) else "",
    )


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""  # a number would have lost the zeros at its end
