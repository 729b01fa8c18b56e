"""A small real checkpoint: a Llama with random weights in several safetensors files, its index, configuration, tokenizer and card.

numpy and safetensors only. It loads in transformers and in inference servers; it says nothing sensible.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

CARD = """---
license: apache-2.0
license_name: test-licence
pipeline_tag: text-generation
tags: [test]
---
# A tiny model

Random weights, for tests.
"""
SPECIAL = ("<s>", "</s>", "<unk>")


def llama(*, hidden: int = 64, layers: int = 2, shards: int = 3, seed: int = 0, card: str = CARD) -> dict[str, bytes]:
    """Return the files of a checkpoint by path; ``hidden`` 64 and 2 layers are about 300 kB in three shards."""
    vocabulary = _vocabulary()
    config = _config(hidden, layers, len(vocabulary))
    tensors = _tensors(config, np.random.default_rng(seed))
    files: dict[str, bytes] = {}
    weight_map: dict[str, str] = {}
    names = sorted(tensors)
    for at in range(shards):
        name = f"model-{at + 1:05}-of-{shards:05}.safetensors"
        part = {key: tensors[key] for key in names[at::shards]}
        files[name] = save(part, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    files["model.safetensors.index.json"] = _json({"metadata": {"total_size": total}, "weight_map": weight_map})
    files["config.json"] = _json(config)
    files["generation_config.json"] = _json({"bos_token_id": 0, "eos_token_id": 1})
    files["tokenizer.json"] = _json(_tokenizer(vocabulary))
    files["tokenizer_config.json"] = _json(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL[0], "eos_token": SPECIAL[1], "unk_token": SPECIAL[2]}
    )
    files["README.md"] = card.encode()
    return files


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Write ``files`` below ``folder``."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def _config(hidden: int, layers: int, vocabulary: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": hidden * 2,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden // 4,
        "vocab_size": vocabulary,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "float32",
    }


def _tensors(config: dict[str, Any], random: np.random.Generator) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden), "lm_head.weight": (vocabulary, hidden)}
    shapes["model.norm.weight"] = (hidden,)
    for at in range(config["num_hidden_layers"]):
        layer = f"model.layers.{at}"
        shapes |= {f"{layer}.{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (hidden, hidden) for name in ("q", "o")}
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (keys, hidden) for name in ("k", "v")}
        shapes |= {f"{layer}.mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (hidden, inner)
    return {
        name: np.ones(shape, np.float32) if name.endswith("norm.weight") else random.normal(0, 0.02, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def _vocabulary() -> dict[str, int]:
    """Return a token for every byte, under the names GPT-2's byte-level alphabet gives them."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    letters = [chr(byte) for byte in plain] + [chr(256 + at) for at in range(len(rest))]
    return {token: at for at, token in enumerate((*SPECIAL, *letters))}


def _tokenizer(vocabulary: dict[str, int]) -> dict[str, Any]:
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocabulary[token], "content": token} | flags for token in SPECIAL],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": SPECIAL[2], "vocab": vocabulary, "merges": []},
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()
