"""What a model needs to run, and on how many of which accelerators it fits: weights, KV cache, reserve. Arithmetic; nothing is measured.

Sources: parameters and bytes of the weights from the headers of safetensors files, the attention of each layer from ``config.json`` as
Hugging Face's transformers writes it. Memory of the KV cache by layer (GQA: Ainslie 2023, arXiv:2305.13245; MLA: DeepSeek-V2,
arXiv:2405.04434; sliding windows: Mistral 7B, arXiv:2310.06825).

Rules: what a configuration does not say is not guessed: UnknownModelError says what is missing; bytes are bytes, GB are 10^9; a layer
that keeps a state of fixed size (Mamba, linear attention) is named and not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from manifests.hardware import Accelerator
from manifests.intent import Quantization
from manifests.paths import printable

Sort = Literal["full", "window", "latent", "state"]
BYTES: dict[str, float] = {"bf16": 2, "fp16": 2, "fp8": 1, "int8": 1, "fp4": 0.5, "int4": 0.5}
USABLE = 0.9  # of an accelerator's memory: what inference servers take by themselves (vLLM --gpu-memory-utilization)
RUNTIME = 2 << 30  # bytes on each accelerator: context of the driver, communication buffers, captured graphs
BATCH_TOKENS = 8192  # tokens that are prefilled at once; their activations are what is reserved
COUNTS = (1, 2, 4, 8, 16, 32, 64)
MAX_LAYERS = 10_000
MAX_NUMBER = 1 << 40
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")  # the names that configurations use
HEADS = ("num_attention_heads", "n_head")
HIDDEN = ("hidden_size", "n_embd", "d_model")
STATEFUL = frozenset({"linear_attention", "mamba", "mamba2", "recurrent", "conv", "ssm"})
WINDOWED = frozenset({"sliding_attention", "chunked_attention", "sliding_window"})


class UnknownModelError(Exception):
    """Why a model cannot be sized."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer keeps of each token: ``width`` values, of at most ``window`` tokens where it looks no further back.

    ``heads`` are the KV heads over which they can be spread; a latent (MLA) is kept whole on every accelerator.
    """

    sort: Sort
    width: int
    heads: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """What sizing needs of a model: its layers, attention heads, and the widths that activations have."""

    layers: tuple[Layer, ...]
    heads: int
    hidden: int
    intermediate: int

    @property
    def stateful(self) -> int:
        """Return how many layers keep a state of fixed size, which is not counted."""
        return sum(1 for layer in self.layers if layer.sort == "state")


@dataclass(frozen=True, slots=True)
class Load:
    """How it is served: tokens of context for each of ``concurrency`` requests; ``cache_bytes`` are those of one value in the KV cache."""

    context: int = 8192
    concurrency: int = 16
    cache_bytes: int = 2


@dataclass(frozen=True, slots=True)
class Fit:
    """How a model lies on ``count`` accelerators: ``tensor`` parallel within a node, ``pipeline`` parallel over nodes; bytes on each."""

    accelerator: Accelerator
    count: int
    tensor: int
    pipeline: int
    weights: int
    cache: int
    reserve: int

    @property
    def needed(self) -> int:
        """Bytes needed on each accelerator."""
        return self.weights + self.cache + self.reserve

    @property
    def room(self) -> int:
        """Bytes that a server uses on each accelerator unless it is told otherwise."""
        return int(self.accelerator.memory * USABLE)

    @property
    def fits(self) -> bool:
        """Say whether it fits as servers are set up by default."""
        return self.needed <= self.room


def shape(config: Mapping[str, Any]) -> Shape:
    """Return what a ``config.json`` says; raises UnknownModelError where it does not say enough."""
    stated = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    assert isinstance(stated, Mapping)  # noqa: S101 - one of the two
    if config.get("is_encoder_decoder") is True:
        raise UnknownModelError("it has an encoder and a decoder, which are not sized here")
    count, heads, hidden = (_number(stated, *names) for names in (LAYERS, HEADS, HIDDEN))
    if count > MAX_LAYERS:
        raise UnknownModelError(f"its configuration names {count} layers")
    intermediate = _optional(stated, "intermediate_size", "ffn_hidden_size", "n_inner") or 4 * hidden
    return Shape(tuple(_layers(stated, count, heads, hidden)), heads, hidden, intermediate)


def weights(parameters: int, quantization: Quantization) -> int:
    """Return the bytes of weights at a quantization; scales of blocks come on top and are a few percent of them."""
    return math.ceil(parameters * BYTES[quantization])


def cache(shape: Shape, load: Load) -> int:
    """Return the bytes of the KV cache when every request fills its context."""
    return sum(_of_layer(layer, load) for layer in shape.layers) * load.concurrency


def fit(shape: Shape, size: int, load: Load, accelerator: Accelerator, count: int) -> Fit:
    """Return how ``size`` bytes of weights and the KV cache lie on ``count`` accelerators."""
    tensor = next(width for width in range(min(count, accelerator.per_node), 0, -1) if count % width == 0 and shape.heads % width == 0)
    pipeline = count // tensor
    spread = sum(_of_layer(layer, load) / min(tensor, layer.heads) for layer in shape.layers) * load.concurrency / pipeline
    activations = BATCH_TOKENS * (4 * shape.hidden + 2 * shape.intermediate // tensor) * 2
    return Fit(accelerator, count, tensor, pipeline, math.ceil(size / count), math.ceil(spread), RUNTIME + activations)


def least(shape: Shape, size: int, load: Load, accelerator: Accelerator) -> Fit | None:
    """Return the fit on the fewest accelerators that hold the load, None if none of ``COUNTS`` does."""
    return next((found for count in COUNTS if (found := fit(shape, size, load, accelerator, count)).fits), None)


def floor(shape: Shape, size: int, load: Load, accelerator: Accelerator) -> Fit | None:
    """Return the fit on the fewest accelerators that hold the weights and one request, with all memory given to the server."""
    one = Load(load.context, 1, load.cache_bytes)
    fits = (fit(shape, size, one, accelerator, count) for count in COUNTS)
    return next((found for found in fits if found.needed <= accelerator.memory), None)


def _of_layer(layer: Layer, load: Load) -> int:
    tokens = min(load.context, layer.window) if layer.window else load.context
    return layer.width * tokens * load.cache_bytes


def _layers(config: Mapping[str, Any], count: int, heads: int, hidden: int) -> Iterator[Layer]:
    latent = _optional(config, "kv_lora_rank")
    kv_heads = _optional(config, "num_key_value_heads", "num_kv_heads", "n_head_kv") or (1 if config.get("multi_query") is True else heads)
    head = _optional(config, "head_dim") or hidden // heads
    for sort, window in _sorts(config, count):
        if sort == "state":
            yield Layer("state", 0, 1)
        elif latent:
            yield Layer("latent", latent + _number(config, "qk_rope_head_dim"), 1, window)
        else:
            yield Layer(sort, 2 * kv_heads * head, kv_heads, window)


def _sorts(config: Mapping[str, Any], count: int) -> Iterator[tuple[Sort, int | None]]:
    """Yield of each layer what it keeps, and how far back it looks."""
    window = _optional(config, "sliding_window", "attention_chunk_size") if config.get("use_sliding_window") is not False else None
    stated = config.get("layer_types")
    pattern = config.get("hybrid_override_pattern")
    if isinstance(stated, list):
        yield from (_named(text, window) for text in _whole(stated, count))
    elif isinstance(pattern, str):
        yield from (("full", None) if mark == "*" else ("state", None) for mark in pattern)  # Nemotron-H: `M`amba, `-` MLP
    else:
        yield from _periodic(config, count, window)


def _periodic(config: Mapping[str, Any], count: int, window: int | None) -> Iterator[tuple[Sort, int | None]]:
    every = _optional(config, "full_attention_interval", "attn_layer_period")  # the other layers keep a state: Qwen3-Next, Jamba
    offset = _optional(config, "attn_layer_offset") or 0
    local = _optional(config, "sliding_window_pattern") or (2 if config.get("model_type") == "gemma2" else None)
    for at in range(count):
        if every:
            full = at % every == offset if "attn_layer_period" in config else (at + 1) % every == 0
            yield ("full", None) if full else ("state", None)
        elif window and local:
            yield ("full", None) if (at + 1) % local == 0 else ("window", window)
        else:
            yield ("window", window) if window else ("full", None)


def _named(text: object, window: int | None) -> tuple[Sort, int | None]:
    if text in {"full_attention", "attention"}:
        return "full", None
    if text in WINDOWED:
        if window is None:
            raise UnknownModelError("its configuration names layers with a window and does not say how long it is")
        return "window", window
    if text in STATEFUL:
        return "state", None
    raise UnknownModelError(f"its configuration names layers of sort {printable(str(text), 40)!r}, which are not known here")


def _whole(stated: list[Any], count: int) -> list[Any]:
    if len(stated) != count:
        raise UnknownModelError(f"its configuration names the sorts of {len(stated)} layers, and {count} layers")
    return stated


def _number(config: Mapping[str, Any], *names: str) -> int:
    found = _optional(config, *names)
    if found is None:
        raise UnknownModelError(f"its configuration does not say `{names[0]}`")
    return found


def _optional(config: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < MAX_NUMBER:
            return value
    return None
