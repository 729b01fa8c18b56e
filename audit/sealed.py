"""Small JSON files this program writes for itself: the value beside the sha256 of its one encoding, replaced as a whole.

The seal finds damage (a bad disk, an editor, half a restore); it does not stop somebody who may write the folder.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeVar

from pydantic import ConfigDict
from pydantic.alias_generators import to_camel

from airgap_images.layout import read_regular, write_atomic
from airgap_images.oci import Digest
from manifests import canonical
from manifests.errors import AirgapError, IntegrityError
from manifests.lock import Frozen, parse_model

LEFTOVER = re.compile(r"\..+\.[0-9a-f]{16}")  # what write_atomic leaves beside a file when the process is killed

M = TypeVar("M", bound="Written")


class Written(Frozen):
    """A value this program writes and reads back; its JSON names are in camel case."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True)


def write(path: Path, value: Written) -> None:
    """Replace the file at ``path`` by ``value``, sealed."""
    content = value.model_dump(mode="json", by_alias=True)
    sealed = {"content": content, "sha256": Digest.of(canonical.compact(content)).hex}
    write_atomic(path, canonical.readable(sealed))


def read(path: Path, model: type[M], *, limit: int, hint: str) -> M | None:
    """Return the value at ``path``, or None if there is no file; raises IntegrityError with ``hint`` if it is damaged."""
    if not os.path.lexists(path):
        return None
    what = str(path)
    try:
        raw = read_regular(path, what, limit)
        sealed = canonical.parse(raw, what, limit=limit)
        content, seal = (sealed.get("content"), sealed.get("sha256")) if isinstance(sealed, dict) else (None, None)
        if Digest.of(canonical.compact(content)).hex != seal:
            raise IntegrityError(f"{what}: damaged, its content is not what its sha256 says", hint=hint)
        return parse_model(model, content, what, hint)
    except AirgapError as error:
        raise IntegrityError(error.message, hint=hint) from None


def clean(folder: Path) -> None:
    """Remove what interrupted writes left in ``folder``; only for the holder of the lock over it."""
    if folder.is_dir():
        for name in os.listdir(folder):
            if LEFTOVER.fullmatch(name):
                (folder / name).unlink(missing_ok=True)
