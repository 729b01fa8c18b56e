"""Sizes of models and the hardware they fit: the published figures, every kind of attention, headers read by range, and the command."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import httpd, hubdesk
from parts.cli import Desk

from airgap_images.remote.http import Client, NoCredentials, Retry
from bundler.weights import FIRST, reader, weights
from manifests import costs, hardware, sizing
from manifests.costs import Prices, Traffic
from manifests.errors import AirgapError
from manifests.hardware import Accelerator, Unservable
from manifests.lock import LockedComponent, Pin
from manifests.sizing import Load, UnknownModelError, shape

LLAMA = next(model for model in hardware.models() if model.id == "llama-3.3-70b")
ROWS = {row.id: row for row in hardware.accelerators()}
GPUS = {name: row for name, row in ROWS.items() if isinstance(row, Accelerator)}
LOAD = Load(8192, 16)
GB = 10**9


def config(**changed: object) -> dict[str, object]:
    return {name: value for name, value in (dict(LLAMA.config) | changed).items() if value is not None}


def per_token(**changed: object) -> int:
    """Return values kept of one token over all layers."""
    return sizing.cache(shape(config(**changed)), Load(1, 1, 1))


# ---------------------------------------------------------------------------------------------------- what was published of 70B models


@pytest.mark.parametrize(("kind", "published"), [("bf16", 140), ("fp8", 70), ("fp4", 35)])
def test_weights_are_as_published(kind, published):
    assert sizing.weights(LLAMA.parameters, kind) / GB == pytest.approx(published, rel=0.02)


def test_the_cache_of_a_typical_fill_is_as_published_and_a_full_one_just_above():
    """Published: 10-40 GB at 8K context and batch 16. Sixteen contexts that are all full are 43 GB; three quarters of that are within."""
    full = sizing.cache(shape(LLAMA.config), LOAD) / GB
    assert full == pytest.approx(42.9, abs=0.1)
    assert 10 <= 0.25 * full <= 0.75 * full <= 40
    assert 10 <= sizing.cache(shape(LLAMA.config), replace(LOAD, cache_bytes=1)) / GB <= 40


@pytest.mark.parametrize(
    ("name", "floor"), [("h100-80gb-sxm", 2), ("h100-80gb-pcie", 2), ("a100-80gb", 2), ("h200-141gb", 1), ("b200-192gb", 1), ("mi300x-192gb", 1)]
)
def test_the_floor_is_two_of_80_gb_or_one_of_more(name, floor):
    found = sizing.floor(shape(LLAMA.config), sizing.weights(LLAMA.parameters, "bf16"), LOAD, GPUS[name])
    assert found
    assert found.count == floor


def test_one_h200_serves_five_requests_a_second():
    assert costs.requests_a_second(2000, 400) == 5
    assert costs.requests_a_second(2000, 400) * costs.SECONDS == 18_000
    assert costs.needed(Traffic(5), 2000) == 2, "5 requests and 30 % headroom are more than one"
    assert costs.needed(Traffic(10 / 1.3), 2000) == 2
    assert costs.needed(Traffic(0.001), 2000) == 1


def test_two_owned_h200_cost_as_published():
    prices = Prices()
    assert prices.owned == pytest.approx(120_000, rel=0.05)
    assert prices.power == pytest.approx(2943, abs=1)
    assert prices.power / prices.pue == pytest.approx(2100, rel=0.01), "the published figure leaves the PUE out"
    low, high = costs.tokens_a_year(4000, 0.4), costs.tokens_a_year(4000, 0.6)
    assert (low / GB, high / GB) == (pytest.approx(50, rel=0.02), pytest.approx(75, rel=0.02))
    assert costs.per_million(120_000, high) < 2.00 < costs.per_million(120_000, low)
    assert (costs.break_even(120_000, 2.5) / GB, costs.break_even(120_000, 0.5) / GB) == (48, 240)


def test_where_published_figures_do_not_follow_it_is_said_why():
    found = {entry.what: entry for entry in costs.published()}
    for what in ("power of a year", "reserved for a year", "break-even with an API"):
        assert found[what].why
    assert found["break-even with an API"].says.startswith("10-30 billion")
    assert found["break-even with an API"].gives == "48-240 billion"
    assert found["power of a year"].gives == "$2,943"


# --------------------------------------------------------------------------------------------------------------- the table of hardware


def test_every_row_is_whole_and_says_where_it_is_from():
    assert {"h100-80gb-sxm", "h100-80gb-pcie", "h200-141gb", "b200-192gb", "mi300x-192gb"} <= GPUS.keys()
    for row in GPUS.values():
        assert row.source
        assert row.memory > 40 * GB
        assert row.servers
        assert ("tensorrt-llm" in row.servers) == (row.stack == "cuda")
    silent = [row for row in ROWS.values() if isinstance(row, Unservable)]
    assert {row.id for row in silent} >= {"trainium2", "tpu-v5p", "groq-lpu", "cerebras-wse3", "sambanova-sn40l"}
    assert all(row.reason.startswith("not servable from this bundle: ") for row in silent)


@pytest.mark.parametrize("model", hardware.models(), ids=lambda model: model.id)
def test_the_models_of_the_catalog_have_the_size_their_names_say(model):
    sized = shape(model.config)
    assert len(sized.layers) == model.config["num_hidden_layers"]
    number = float(model.id.split("-")[-1].removesuffix("b").removeprefix("a")) if "a22b" not in model.id else 235
    assert model.parameters / GB == pytest.approx(number, rel=0.1)


# -------------------------------------------------------------------------------------------------------------- attention, layer by layer


def test_grouped_heads_share_their_cache():
    assert per_token() == 80 * 2 * 8 * 128
    assert per_token(num_key_value_heads=None) == 80 * 2 * 64 * 128
    assert per_token(head_dim=None, num_key_value_heads=64) == 80 * 2 * 8192
    assert per_token(num_key_value_heads=None, multi_query=True) == 80 * 2 * 128


def test_a_latent_is_kept_once_whatever_the_parallelism():
    made = shape(config(kv_lora_rank=512, qk_rope_head_dim=64, num_hidden_layers=61))
    assert sizing.cache(made, Load(1, 1, 1)) == 61 * 576
    one, eight = (sizing.fit(made, 0, LOAD, GPUS["h200-141gb"], count) for count in (1, 8))
    assert one.cache == eight.cache
    with pytest.raises(UnknownModelError, match="qk_rope_head_dim"):
        shape(config(kv_lora_rank=512))


@pytest.mark.parametrize(
    ("changed", "windows"),
    [
        ({"sliding_window": 4096}, 80),
        ({"sliding_window": 4096, "use_sliding_window": False}, 0),
        ({"sliding_window": None}, 0),
        ({"sliding_window": 1024, "sliding_window_pattern": 6}, 67),
        ({"sliding_window": 4096, "model_type": "gemma2"}, 40),
        ({"sliding_window": 1024, "layer_types": ["sliding_attention", "full_attention"] * 40}, 40),
        ({"attention_chunk_size": 8192, "layer_types": ["chunked_attention"] * 60 + ["full_attention"] * 20}, 60),
    ],
)
def test_windows_bound_what_is_kept(changed, windows):
    made = shape(config(**changed))
    assert sum(layer.sort == "window" for layer in made.layers) == windows
    long = Load(100_000, 1, 1)
    assert sizing.cache(made, long) < sizing.cache(shape(LLAMA.config), long) or not windows


@pytest.mark.parametrize(
    ("changed", "stateful"),
    [
        ({"layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"] * 20}, 60),
        ({"full_attention_interval": 4}, 60),
        ({"attn_layer_period": 8, "attn_layer_offset": 4}, 70),
        ({"hybrid_override_pattern": "M-M*" * 20}, 60),
    ],
)
def test_layers_that_keep_a_state_are_named_and_not_counted(changed, stateful):
    made = shape(config(**changed))
    assert made.stateful == stateful
    assert sizing.cache(made, Load(1, 1, 1)) == (80 - stateful) * 2 * 8 * 128


def test_the_text_part_of_a_model_that_sees_is_sized():
    assert len(shape({"model_type": "x", "text_config": dict(LLAMA.config)}).layers) == 80


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({}, "num_hidden_layers"),
        ({"num_hidden_layers": 2}, "num_attention_heads"),
        ({"num_hidden_layers": True, "num_attention_heads": 1, "hidden_size": 1}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**9, "num_attention_heads": 1, "hidden_size": 1}, "layers"),
        ({"is_encoder_decoder": True}, "encoder"),
        (dict(LLAMA.config) | {"layer_types": ["full_attention"]}, "1 layers, and 80 layers"),
        (dict(LLAMA.config) | {"layer_types": ["holographic"] * 80}, "holographic"),
        (dict(LLAMA.config) | {"layer_types": ["sliding_attention"] * 80}, "how long it is"),
    ],
)
def test_what_a_configuration_does_not_say_is_not_guessed(value, says):
    with pytest.raises(UnknownModelError, match=says):
        shape(value)


@given(st.dictionaries(st.sampled_from([*LLAMA.config, "layer_types", "kv_lora_rank", "sliding_window", "text_config", "hybrid_override_pattern"]),
    st.one_of(st.none(), st.integers(), st.text(max_size=9), st.lists(st.text(max_size=5), max_size=3), st.booleans())))  # fmt: skip
def test_no_configuration_stops_it(value):
    try:
        found = shape(dict(LLAMA.config) | value)
    except UnknownModelError as error:
        assert "\n" not in str(error)
        return
    assert sizing.cache(found, LOAD) >= 0


@pytest.mark.parametrize("count", sizing.COUNTS)
@pytest.mark.parametrize("name", GPUS)
def test_more_accelerators_never_need_more_on_each(name, count):
    made, size = shape(LLAMA.config), sizing.weights(LLAMA.parameters, "bf16")
    here, twice = (sizing.fit(made, size, LOAD, GPUS[name], at) for at in (count, 2 * count))
    assert here.tensor * here.pipeline == here.count
    assert here.tensor <= GPUS[name].per_node
    assert made.heads % here.tensor == 0
    assert twice.weights <= here.weights
    assert twice.cache <= here.cache


def test_something_is_kept_free_on_each():
    found = sizing.fit(shape(LLAMA.config), 0, Load(1, 1), GPUS["h200-141gb"], 1)
    assert found.reserve == sizing.RUNTIME + 8192 * (4 * 8192 + 2 * 28672) * 2
    assert found.needed == found.weights + found.cache + found.reserve


def test_tensor_parallelism_divides_the_heads_and_pipelines_take_the_rest():
    seven = next(model for model in hardware.models() if model.id == "qwen2.5-7b")
    found = sizing.fit(shape(seven.config), 1, LOAD, GPUS["h200-141gb"], 8)
    assert (found.tensor, found.pipeline) == (4, 2), "28 heads cannot be divided by eight"
    assert (sizing.fit(shape(LLAMA.config), 1, LOAD, GPUS["h200-141gb"], 16).tensor) == 8, "no further than one machine"


# ------------------------------------------------------------------------------------------------------------- headers of weights


def blob(tensors: dict[str, dict], data: int, *, pad: int = 0) -> bytes:
    raw = json.dumps(tensors).encode() + b" " * pad
    return struct.pack("<Q", len(raw)) + raw + bytes(data)


def served(server: httpd.Server, path: str, raw: bytes, **route: object) -> Pin:
    return Pin(path=path.strip("/"), url=server.serve(path, raw, **route), size=len(raw), sha256="0" * 64)


def component(*pins: Pin) -> LockedComponent:
    return LockedComponent(name="m", kind="huggingface", form="tree", model=True, files=pins)


READ = reader(Client(retry=Retry(attempts=1)), Path(), NoCredentials())
TWO = {"a": {"dtype": "BF16", "shape": [1000, 500], "data_offsets": [0, 1_000_000]}, "b": {"dtype": "F32", "shape": [10], "data_offsets": [1_000_000, 1_000_040]}}


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("pad", [0, 2 * FIRST])
def test_only_headers_are_read(ranges, pad):
    with httpd.Server() as server:
        raw = blob(TWO | {"__metadata__": {"format": "pt"}}, 64 << 20, pad=pad)
        found = weights(component(served(server, "/m.safetensors", raw, ranges=ranges), served(server, "/README.md", b"x")), READ)
        assert found
        assert dict(found.parameters) == {"BF16": 500_000, "F32": 10}
        assert (found.count, found.size, found.files) == (500_010, 1_000_040, 1)
        if ranges:
            assert server.sent("/m.safetensors") <= 2 * FIRST + pad + 1000
        else:
            assert server.sent("/m.safetensors") < 48 << 20, "a server that ignores the range is left when there is enough"
        assert server.sent("/README.md") == 0


def test_a_model_without_safetensors_has_no_known_size():
    with httpd.Server() as server:
        assert weights(component(served(server, "/m.gguf", b"GGUF")), READ) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"\xff" * 8, struct.pack("<Q", 10) + b"{", struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 4) + b"{{{{", struct.pack("<Q", 1 << 40) + b"{}",
        blob({"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 99]}}, 2), blob({"a": {"dtype": "BF16", "shape": [-1], "data_offsets": [0, 2]}}, 2),
        blob({"a": {"dtype": "BF16", "shape": [1 << 60, 1 << 60], "data_offsets": [0, 2]}}, 2), blob({"a": 4}, 2), blob({"a": {"dtype": "BF16"}}, 2),
        blob({"a": {"dtype": "BF16", "shape": ["x"], "data_offsets": [0, 2]}}, 2), struct.pack("<Q", 60_000) + b"[" * 60_000,
    ],
)  # fmt: skip
def test_headers_that_are_none_are_refused(raw):
    with httpd.Server() as server, pytest.raises(AirgapError, match="m: m.safetensors"):
        weights(component(served(server, "/m.safetensors", raw)), READ)


# -------------------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize("name", GPUS)
def test_the_catalogs_llama_on_every_hardware(tmp_path, name):
    data = Desk(tmp_path).bundle("plan", "--model", "llama-3.3-70b", "--json").json
    row = {row["id"]: row for row in data["models"][0]["hardware"]}[name]
    assert row["servable"]
    assert row["load"]["neededBytes"] <= row["load"]["roomBytes"]
    assert row["floor"] <= row["load"]["count"]


def test_people_read_a_table_and_what_was_not_assessed(tmp_path):
    prices = tmp_path / "prices.yaml"
    prices.write_text("capital: 300000\napi_low: 1\n")
    done = Desk(tmp_path).bundle("plan", "--model", "llama-3.3-70b", "--prices", prices, "--concurrency", "32", "--quantization", "fp8")
    assert "weights 70.6 GB (fp8), KV cache 85.9 GB for 32 requests of 8,192 tokens at 16 bit" in done.out
    assert "Groq LPU: not servable from this bundle" in done.out
    assert "owned: $164,443 a year" in done.out
    assert "how fast llama-3.3-70b is on this hardware" in done.out
    assert "no model 'gpt-9' in the catalog" in Desk(tmp_path).bundle("plan", "--model", "gpt-9", code=2).err
    prices.write_text("capital: -1\n")
    assert "prices.yaml:1: field capital" in Desk(tmp_path).bundle("plan", "--model", "llama-3.3-70b", "--prices", prices, code=2).err


def planned(folder: Path, gpu: str, *, files: dict[str, bytes] | None = None, code: int = 0) -> dict:
    desk, model = Desk(folder), folder / "model"
    model.mkdir()
    for path, raw in (files or {"config.json": json.dumps(LLAMA.config).encode(), "w.safetensors": blob({}, 0)}).items():
        (model / path).write_bytes(raw)
    path = desk.write_intent("name: llm, kind: model, path: ./model")
    path.write_text(path.read_text() + f"target: {{gpu: {gpu}}}\nserving: {{max_model_len: 8192, concurrency: 16, quantization: bf16}}\n")
    return desk.bundle("plan", path, "--json", code=code).json


def test_a_plan_says_that_it_will_not_run_there(tmp_path):
    data = planned(tmp_path, "{model: h200-141gb, count: 2}", files={"config.json": json.dumps(LLAMA.config).encode(), "w.safetensors": blob(TWO, 1_000_040)})
    assert data["models"][0]["asked"] == data["models"][0]["asked"] | {"hardware": "h200-141gb", "count": 2, "fits": True}
    (tmp_path / "b").mkdir()
    long = json.dumps(config(num_hidden_layers=9999)).encode()
    refused = planned(tmp_path / "b", "{model: h100-80gb-sxm, count: 1}", files={"config.json": long, "w.safetensors": blob(TWO, 1_000_040)}, code=4)
    assert refused["models"][0]["asked"]["fits"] is False


def test_weights_that_are_quantised_already_are_counted_as_stored(tmp_path):
    stored = blob({"a": {"dtype": "F8_E4M3", "shape": [1000], "data_offsets": [0, 1000]}}, 1000)
    packed = json.dumps(config(quantization_config={"quant_method": "awq"})).encode()
    for at, (text, kind) in enumerate({json.dumps(LLAMA.config).encode(): "fp8", packed: "fp8"}.items()):
        (tmp_path / str(at)).mkdir()
        data = planned(tmp_path / str(at), "{model: h200-141gb}", files={"config.json": text, "w.safetensors": stored})
        assert (data["models"][0]["quantization"], data["models"][0]["weightsBytes"]) == (kind, 1000)


@pytest.mark.parametrize(("gpu", "says"), [("{model: voodoo}", "is not in the table"), ("{model: groq-lpu}", "not servable"), ("{model: h200-141gb, count: 0}", "is not a number")])
def test_hardware_that_nobody_knows_is_not_guessed(tmp_path, gpu, says):
    data = planned(tmp_path, gpu, files={"config.json": json.dumps(LLAMA.config).encode(), "w.safetensors": blob(TWO, 1_000_040)})
    assert says in data["models"][0]["notAssessed"]
    assert any(says in note for note in data["notAssessed"])


@pytest.mark.parametrize(("files", "says"), [({"w.safetensors": blob(TWO, 1_000_040)}, "no config.json"), ({"config.json": b"{}", "w.safetensors": blob(TWO, 1_000_040)}, "does not say"), ({"config.json": json.dumps(LLAMA.config).encode(), "w.gguf": b"GGUF"}, "no safetensors")])
def test_a_model_that_cannot_be_sized_is_not_assessed(tmp_path, files, says):
    data = planned(tmp_path, "{model: h200-141gb}", files=files)
    assert says in data["models"][0]["notAssessed"]


def test_a_model_on_a_hub_is_sized_without_its_weights(tmp_path, monkeypatch):
    with hubdesk.connected(tmp_path, monkeypatch) as desk:
        desk.server.publish(hubdesk.REPO, hubdesk.FILES)
        found = desk.lock()
        sizes = weights(found, reader(desk.client, tmp_path, NoCredentials()))
        assert sizes
        large = {path: raw for path, raw in hubdesk.FILES.items() if path.endswith(".safetensors")}
        assert sizes.files == len(large)
        assert sizes.size == sum(len(raw) - 8 - struct.unpack("<Q", raw[:8])[0] for raw in large.values())
