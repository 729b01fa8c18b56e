"""Receipts of version 1, which knew one container engine: read as today's, and written back byte for byte.

The journal has the sha256 of every receipt, so an old one is never rewritten.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from audit.sealed import Written
from manifests.lock import Kind, Name, Sha256, parse_model

VERSION = 1


class ImageReceiptV1(Written):
    """One image: placed in ``engine`` under ``id`` and ``tags``, or not placed for ``reason``."""

    name: Name
    kind: Kind
    role: str | None
    manifest: Sha256
    placed: bool
    engine: str | None = None
    id: str | None = None
    tags: tuple[str, ...] = Field(default=(), strict=False)
    before: bool | None = None
    reason: str | None = None


def upgrade(value: Any, what: str, hint: str) -> Any:
    """Return the JSON of a receipt as today's, if it is of version 1; raises InvalidFileError on an image that is not of that version."""
    if not isinstance(value, dict) or value.get("receiptVersion") != VERSION or not isinstance(value.get("images"), list):
        return value
    return value | {"images": [_upgraded(parse_model(ImageReceiptV1, image, what, hint)) for image in value["images"]]}


def downgrade(value: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a receipt that was read from version 1 as it was."""
    trees = [{key: field for key, field in tree.items() if key != "placements"} for tree in value["trees"]]
    return value | {"images": [_downgraded(image) for image in value["images"]], "trees": trees}


def _upgraded(image: ImageReceiptV1) -> dict[str, Any]:
    placement = {"target": image.engine or "", "id": image.id or "", "tags": list(image.tags), "before": bool(image.before)}
    said = {"name": image.name, "kind": image.kind, "role": image.role, "manifest": image.manifest, "reason": image.reason}
    return said | {"placements": [placement] if image.placed else []}


def _downgraded(image: dict[str, Any]) -> dict[str, Any]:
    said = {key: image[key] for key in ("name", "kind", "role", "manifest", "reason")}
    for placement in image["placements"]:
        place = {key: placement[key] for key in ("id", "tags", "before")}
        return said | {"placed": True, "engine": placement["target"]} | place
    return said | {"placed": False, "engine": None, "id": None, "tags": [], "before": None}
