"""How the models of a bundle, or one of the catalog, fit the hardware: `plan` asks before anything large is fetched.

Rules: weights by the headers of their files, attention by ``config.json``; a model of which either is unknown is not assessed, with the
reason, and never "fits".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airgap_images.layout import Layout
from airgap_images.oci import Descriptor, Digest
from airgap_images.remote.http import Client
from airgap_images.remote.registries import Registries
from bundler import sources
from bundler.fetch import LOCAL
from bundler.weights import reader, weights
from manifests import canonical, hardware, sizing
from manifests.errors import AirgapError, InvalidFileError, UsageError
from manifests.hardware import Accelerator, KnownModel, Unservable
from manifests.intent import Quantization, Serving
from manifests.lock import LockedComponent, Pin, Target
from manifests.paths import printable
from manifests.sizing import Fit, Load, Shape, UnknownModelError

MAX_CONFIG = 4 << 20  # bytes of config.json
STORED = {"BF16": "bf16", "F16": "fp16", "F8_E4M3": "fp8", "F8_E5M2": "fp8", "F4": "fp4"}
NO_CONFIG = "it has no config.json, so its attention is unknown"
NO_WEIGHTS = "it has no safetensors files, whose headers say how large its weights are"
DEFAULT_CONTEXT, DEFAULT_CONCURRENCY = 8192, 16


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of hardware: the fewest that hold weights and one request, the fewest that hold the whole load."""

    hardware: Accelerator | Unservable
    floor: Fit | None = None
    least: Fit | None = None


@dataclass(frozen=True, slots=True)
class Body:
    """The weights of a model: how many parameters, in which number type they are served, how many bytes."""

    name: str
    parameters: int
    kind: str
    size: int


@dataclass(frozen=True, slots=True)
class Sized:
    """What a model needs: bytes of its KV cache under the load, and how it lies on hardware.

    ``asked`` is about the hardware the bundle is for, None where that is not stated; ``stateful`` is the number of layers that keep a
    state which is not counted.
    """

    body: Body
    cache: int
    load: Load
    rows: tuple[Row, ...]
    asked: Fit | None
    stateful: int


@dataclass(frozen=True, slots=True)
class Unsized:
    """A model that could not be sized, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Around:
    """Where the bytes of a lock are found: ``folder`` of the intent, the cache, and the network for headers of weights."""

    folder: Path
    cache: Layout
    client: Client
    registries: Registries


def sized(components: Iterable[LockedComponent], serving: Serving, target: Target, around: Around) -> tuple[Sized | Unsized, ...]:
    """Return what each model of a lock needs."""
    return tuple(_component(component, serving, target, around) for component in components if component.model)


def known(model: KnownModel, serving: Serving, target: Target) -> Sized:
    """Return what a model of the catalog needs."""
    kind: Quantization = serving.quantization or "bf16"
    size = sizing.weights(model.parameters, kind)
    return _sized(Body(model.id, model.parameters, kind, size), sizing.shape(model.config), serving, target)


def named(text: str) -> KnownModel:
    """Return a model of the catalog; raises UsageError."""
    found = next((model for model in hardware.models() if model.id == text), None)
    if found is None:
        there = ", ".join(model.id for model in hardware.models())
        raise UsageError(f"no model {printable(text, 60)!r} in the catalog", hint=f"there are: {there}")
    return found


def asked_for(target: Target) -> tuple[Accelerator, int] | None:
    """Return which accelerators a bundle is for, and how many; raises InvalidFileError if the table does not know them."""
    if not target.gpu or "model" not in target.gpu:
        return None
    wanted = str(target.gpu["model"])
    row = next((row for row in hardware.accelerators() if row.id == wanted), None)
    if row is None:
        raise InvalidFileError(
            f"target.gpu.model: {printable(wanted, 60)!r} is not in the table of hardware",
            hint=f"there are: {', '.join(row.id for row in hardware.accelerators())}",
        )
    if isinstance(row, Unservable):
        raise InvalidFileError(f"target.gpu.model: {row.name}: {row.reason}", hint="choose hardware that vLLM or SGLang is built for")
    count = target.gpu.get("count", 1)
    if not isinstance(count, int) or not 1 <= count <= sizing.COUNTS[-1]:
        raise InvalidFileError(f"target.gpu.count: {count!r} is not a number from 1 to {sizing.COUNTS[-1]}", hint="correct it")
    return row, count


def _component(component: LockedComponent, serving: Serving, target: Target, around: Around) -> Sized | Unsized:
    try:
        return _of_files(component, serving, target, around)
    except UnknownModelError as error:
        return Unsized(component.name, str(error))
    except AirgapError as error:
        return Unsized(component.name, error.message)


def _of_files(component: LockedComponent, serving: Serving, target: Target, around: Around) -> Sized:
    config = _config(component, around)
    credentials = sources.load(component.kind).credentials(around.client, around.registries)
    found = weights(component, reader(around.client, around.folder, credentials))
    if found is None:
        raise UnknownModelError(NO_WEIGHTS)
    main = max(found.parameters, key=lambda kind: found.parameters[kind])
    kind, size, count = STORED.get(main, main.lower()), found.size, found.count
    if serving.quantization and "quantization_config" not in config and main in {"BF16", "F16", "F32"}:
        kind, size = serving.quantization, sizing.weights(count, serving.quantization)
    return _sized(Body(component.name, count, kind, size), sizing.shape(config), serving, target)


def _config(component: LockedComponent, around: Around) -> dict[str, Any]:
    pin = min((pin for pin in component.files if f"/{pin.path}".endswith("/config.json")), key=lambda pin: len(pin.path), default=None)
    if pin is None:
        raise UnknownModelError(NO_CONFIG)
    value = canonical.parse(_small(pin, around), f"{component.name}: config.json", limit=MAX_CONFIG)
    if not isinstance(value, dict):
        raise UnknownModelError(NO_CONFIG)
    return value


def _small(pin: Pin, around: Around) -> bytes:
    if pin.size > MAX_CONFIG:
        raise UnknownModelError(f"its config.json has {pin.size} bytes")
    if pin.url.startswith(LOCAL):
        return (around.folder / pin.url.removeprefix(LOCAL)).read_bytes()[:MAX_CONFIG]
    return around.cache.read(Descriptor("application/json", Digest(pin.sha256), pin.size), MAX_CONFIG)


def _sized(body: Body, shape: Shape, serving: Serving, target: Target) -> Sized:
    width = 1 if serving.kv_cache == "fp8" else 2
    load = Load(serving.max_model_len or DEFAULT_CONTEXT, serving.concurrency or DEFAULT_CONCURRENCY, width)
    asked, size = asked_for(target), body.size
    return Sized(
        body=body,
        cache=sizing.cache(shape, load),
        load=load,
        rows=tuple(_rows(shape, size, load)),
        asked=sizing.fit(shape, size, load, *asked) if asked else None,
        stateful=shape.stateful,
    )


def _rows(shape: Shape, size: int, load: Load) -> Iterator[Row]:
    for entry in hardware.accelerators():
        if isinstance(entry, Unservable):
            yield Row(entry)
        else:
            yield Row(entry, sizing.floor(shape, size, load, entry), sizing.least(shape, size, load, entry))
