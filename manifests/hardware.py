"""Accelerators as data: ``manifests/data/hardware.json``, with where each number is from; and the models of the catalog."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

HARDWARE, MODELS = "data/hardware.json", "data/models.json"


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One kind of accelerator: memory in bytes, power in watts, ``native`` number types, ``per_node`` how many are linked in one machine.

    ``tokens`` are published output tokens per second of a 70B dense model (low, typical, high), None where none were found.
    """

    id: str
    name: str
    stack: str
    memory: int
    watts: int
    native: tuple[str, ...]
    per_node: int
    servers: tuple[str, ...]
    source: str
    note: str = ""
    tokens: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Unservable:
    """Hardware for which nothing in a bundle is built, and why."""

    id: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model of the catalog: what its ``config.json`` says, and how many parameters its weights have."""

    id: str
    repo: str
    size_class: str
    parameters: int
    context: int
    licence: str
    gated: bool
    config: dict[str, Any]


@functools.cache
def accelerators() -> tuple[Accelerator | Unservable, ...]:
    """Return every row of the table, in its order."""
    return tuple(_row(entry) for entry in _read(HARDWARE)["accelerators"])


@functools.cache
def models() -> tuple[KnownModel, ...]:
    """Return the models of the catalog."""
    return tuple(
        KnownModel(
            *(entry[key] for key in ("id", "repo", "class", "parameters", "context", "license", "gated", "config")),
        )
        for entry in _read(MODELS)["models"]
    )


def as_of() -> str:
    """Return the day of the table."""
    return str(_read(HARDWARE)["asOf"])


def _row(entry: dict[str, Any]) -> Accelerator | Unservable:
    if entry.get("servable") is False:
        return Unservable(entry["id"], entry["name"], entry["reason"])
    published = entry.get("tokensPerSecond")
    return Accelerator(
        id=entry["id"],
        name=entry["name"],
        stack=entry["stack"],
        memory=entry["memoryBytes"],
        watts=entry["watts"],
        native=tuple(entry["native"]),
        per_node=entry["perNode"],
        servers=tuple(entry["servers"]),
        source=entry["memorySource"],
        note=entry.get("note", ""),
        tokens=(published["low"], published["typical"], published["high"]) if published else None,
    )


def _read(name: str) -> dict[str, Any]:
    return dict(json.loads(resources.files("manifests").joinpath(name).read_bytes()))
