"""Kind ``model``: a model in a local folder becomes a model tree.

What the folder says of itself (licence, architecture, number type) is recorded as claims; what cannot be read is said
and never guessed. Version control, caches and lock files are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field

from airgap_images.layout import read_regular
from airgap_images.remote.http import Client, Credentials, NoCredentials
from airgap_images.remote.registries import Registries
from bundler.folder import Selection, locate, pin_path, tree_digest
from bundler.sources import Context
from manifests import canonical
from manifests.errors import AirgapError, UsageError
from manifests.lock import Frozen, LockedComponent, Pin
from manifests.paths import printable
from manifests.yamlfile import Document

MAX_CARD = 1 << 20  # bytes of README.md
MAX_CONFIG = 4 << 20  # bytes of config.json
LEFT_OUT = (".git/", "*/.git/", ".cache/", "*/.cache/", "*.lock")
_FRONT_MATTER = re.compile(rb"\A(?:\xef\xbb\xbf)?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


class Options(Frozen):
    """Where the model is and which of its files to take."""

    path: str = Field(min_length=1, max_length=4096, description="folder of the model, relative to this file, or absolute")
    include: tuple[str, ...] = Field(default=(), strict=False, description="glob patterns of relative paths to take; all when absent")
    exclude: tuple[str, ...] = Field(default=(), strict=False, description="glob patterns of relative paths to leave out")


def resolve(name: str, role: str | None, options: Options, context: Context) -> LockedComponent:
    """Return the model's files as a tree, with what its card and configuration claim.

    Raises UsageError if the folder holds no config.json, GGUF or safetensors file.
    """
    pins = pin_path(context.folder, options.path, Selection(options.include, (*options.exclude, *LEFT_OUT)), name)
    root = locate(context.folder, options.path, name)
    if not root.is_dir() or not any(_is_model_file(pin.path) for pin in pins):
        raise UsageError(
            f"{name}: {printable(options.path)!r} is no model folder: no config.json, *.gguf or *.safetensors in it",
            hint="name the folder that holds the model's files, or use `kind: path`",
        )
    return LockedComponent(
        name=name,
        kind="model",
        form="tree",
        role=role,
        model=True,
        identity={"path": options.path, "tree": tree_digest(pins)},
        facts={"files": str(len(pins)), "bytes": str(sum(pin.size for pin in pins)), **_claims(name, root, pins, context)},
        files=pins,
    )


def credentials(_client: Client, _registries: Registries) -> Credentials:
    """Return no credentials: local files need none."""
    return NoCredentials()


def card_claims(raw: bytes, what: str) -> dict[str, str]:
    """Return the licence a model card states in its front matter; raises InvalidFileError if that cannot be read."""
    found = _FRONT_MATTER.match(raw[:MAX_CARD])
    if not found or not found[1].strip():
        return {}
    value = Document(found[1], what).value
    if not isinstance(value, dict):
        return {}
    return {key: text for key in ("license", "license_name", "license_link") if (text := _text(value.get(key)))}


def config_claims(raw: bytes, what: str) -> dict[str, str]:
    """Return architecture, type and number type of a ``config.json``; raises InvalidFileError if it is not strict JSON."""
    value = canonical.parse(raw, what, limit=MAX_CONFIG)
    if not isinstance(value, dict):
        return {}
    claims = {"torch_dtype": _text(value.get("torch_dtype", value.get("dtype")))}
    claims |= {key: _text(value.get(key)) for key in ("architectures", "model_type")}
    return {key: text for key, text in claims.items() if text}


def _claims(name: str, root: Path, pins: Iterable[Pin], context: Context) -> dict[str, str]:
    present = {pin.path for pin in pins}
    claims: dict[str, str] = {}
    for path, limit, read in (("README.md", MAX_CARD, card_claims), ("config.json", MAX_CONFIG, config_claims)):
        if path not in present:
            continue
        try:
            claims |= read(read_regular(root / path, f"{name}: {path}", limit), f"{name}: {path}")
        except AirgapError as error:
            context.warn(f"{name}: what {path} says is not recorded: {error}")
    if "license" not in claims:
        context.warn(f"{name}: no licence is stated in README.md")
    return claims


def _is_model_file(path: str) -> bool:
    return path == "config.json" or path.endswith((".gguf", ".safetensors"))


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(item for item in value if isinstance(item, str))
    return printable(value) if isinstance(value, str) else ""
