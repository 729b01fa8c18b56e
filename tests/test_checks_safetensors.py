"""Safetensors headers against the reference implementation: what it refuses we refuse, what we accept it accepts."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import trees

from audit.checks import gate
from audit.checks.safetensors import BITS, MAX_HEADER, header_names

WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, dtype=np.int64), "empty": np.zeros((0, 7), dtype=np.float16)}


def made(header: object, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def tensor(dtype: str = "U8", shape: object = (4,), offsets: object = (0, 4)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def ours(content: bytes) -> str | None:
    """Why this tool refuses a file, or None."""
    if len(content) < 8:
        return "too short"
    length = struct.unpack("<Q", content[:8])[0]
    if length > MAX_HEADER or 8 + length > len(content):
        return "bad length"
    try:
        list(header_names(content[8 : 8 + length], len(content) - 8 - length))
    except ValueError as error:
        return str(error)
    return None


def theirs(content: bytes) -> str | None:
    try:
        safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        return str(error)
    return None


ONE_BYTE = json.dumps(tensor("U8", [1], [0, 1])).encode()
GOOD = {
    "by the library": safetensors.numpy.save(WEIGHTS, metadata={"format": "pt"}),
    "no tensor": made({}),
    "metadata only": made({"__metadata__": {"a": "b"}}),
    "padded": made(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}   ', b"x"),
    "out of order": made({"b": tensor(offsets=[4, 8]), "a": tensor()}, b"x" * 8),
    "scalar": made({"a": tensor("F32", [], [0, 4])}, b"x" * 4),
    "sub-byte": made({"a": tensor("F4", [4], [0, 2])}, b"xx"),
}
BAD = {
    "empty": (b"", "shorter than its 8-byte"),
    "cut in the length": (b"\1\0\0", "shorter than its 8-byte"),
    "length beyond the file": (struct.pack("<Q", 99) + b"{}", "does not fit"),
    "length beyond the limit": (struct.pack("<Q", MAX_HEADER + 1) + b"{}", "at most"),
    "length of all ones": (b"\xff" * 8 + b"{}", "at most"),
    "header of nothing": (made(b""), "does not start with '{'"),
    "leading blank": (made(b" {}"), "does not start with '{'"),
    "not an object": (made(b"[]"), "does not start with '{'"),
    "not JSON": (made(b"{a}"), "header: "),
    "not UTF-8": (made(b'{"\xff":1}'), "header: "),
    "half a surrogate": (made(b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"), "header: "),
    "too deep": (made(b'{"a":' + b"[" * 100_000), "header"),
    "key twice": (made(b'{"a":%b,"a":%b}' % (ONE_BYTE, ONE_BYTE), b"x"), "a key stands twice"),
    "field twice": (made(b'{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"), "a key stands twice"),
    "field missing": (made({"a": {"dtype": "U8", "shape": [1]}}, b"x"), "exactly dtype, shape and data_offsets"),
    "field unknown": (made({"a": {**tensor(), "x": 1}}, b"x" * 4), "exactly dtype"),
    "tensor is no object": (made({"a": 1}), "exactly dtype"),
    "unknown dtype": (made({"a": tensor("Q8")}, b"x" * 4), "unknown dtype 'Q8'"),
    "dtype is a list": (made({"a": tensor(["U8"])}, b"x" * 4), "unknown dtype"),
    "metadata of numbers": (made({"__metadata__": {"a": 1}}), "__metadata__"),
    "offsets of one": (made({"a": tensor(offsets=[4])}, b"x" * 4), "not two integers"),
    "offsets of truths": (made({"a": tensor("U8", [1], [False, True])}, b"x"), "not two integers"),
    "offsets backwards": (made({"a": tensor(offsets=[4, 0])}, b"x" * 4), "out of range"),
    "negative": (made({"a": tensor(offsets=[-4, 0])}, b"x" * 4), "negative"),
    "negative zero": (made(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[-0,1]}}', b"x"), "negative"),
    "fractional": (made({"a": tensor("U8", [4.0])}, b"x" * 4), "shape that is not"),
    "many dimensions": (made({"a": tensor("U8", [1] * 65, [0, 1])}, b"x"), "shape that is not"),
    "overflow before a zero": (made({"a": tensor("U8", [1 << 62, 1 << 62, 0], [0, 0])}), "too large"),
    "size and shape disagree": (made({"a": tensor("F32")}, b"x" * 4), "its shape and dtype need 16"),
    "half a byte": (made({"a": tensor("F4", [3], [0, 2])}, b"xx"), "its shape and dtype need 2"),
    "hole": (made({"a": tensor(), "b": tensor(offsets=[8, 12])}, b"x" * 12), "leaves 4 bytes unused"),
    "hole at the start": (made({"a": tensor(offsets=[4, 8])}, b"x" * 8), "leaves 4 bytes unused"),
    "overlap": (made({"a": tensor(), "b": tensor(offsets=[2, 6])}, b"x" * 6), "overlaps"),
    "tail": (made({"a": tensor()}, b"x" * 5), "1 bytes follow the last tensor"),
    "tail without a tensor": (made({}, b"PK\3\4"), "4 bytes follow"),
    "cut": (made({"a": tensor()}, b"x" * 3), "1 bytes are missing"),
}  # fmt: skip
# Where this tool is stricter than the reference implementation on purpose.
STRICTER = {"key twice", "field unknown", "leading blank", "many dimensions"}
SHORT = {"empty", "cut in the length"}  # the library's reader of bytes is not made for these


@pytest.mark.parametrize("name", GOOD)
def test_well_formed_files_are_accepted_by_both(tmp_path, name):
    result = trees.run("safetensors", tmp_path, {"model.safetensors": GOOD[name]})
    assert (result.outcome, result.examined) == ("nothing found", 1)
    assert theirs(GOOD[name]) is None


@pytest.mark.parametrize("name", BAD)
def test_malformed_files_are_refused_with_the_reason(tmp_path, name):
    content, reason = BAD[name]
    result = trees.run("safetensors", tmp_path, {"sub/model.SAFETENSORS": content, "sub/other.txt": content}, kind="path", model=False)
    ((severity, path, message),) = trees.said(result)
    assert (severity, path) == ("high", "sub/model.SAFETENSORS")
    assert reason in message
    assert gate([result], {"pickle": "warn"}).exit_code == 4
    if name not in SHORT:
        assert (theirs(content) is None) == (name in STRICTER)


@pytest.mark.parametrize("dtype", BITS)
def test_every_dtype_is_as_large_as_in_the_reference_implementation(dtype):
    content = made({"a": tensor(dtype, [8], [0, BITS[dtype]])}, b"x" * BITS[dtype])
    assert (ours(content), theirs(content)) == (None, None)


def test_a_hostile_name_does_not_reach_the_terminal(tmp_path):
    content = made({"\x1b[2J\u202e": tensor("F32")}, b"x" * 4)
    ((_, _, message),) = trees.said(trees.run("safetensors", tmp_path, {"a.safetensors": content}))
    assert message.isprintable()


LARGE = st.sampled_from([-1, 1 << 31, 1 << 62, (1 << 63) - 1, 1 << 63, 1 << 64])
NUMBERS = st.one_of(st.integers(0, 12), LARGE, st.floats(), st.none(), st.booleans())
TENSORS = st.one_of(
    st.fixed_dictionaries({
        "dtype": st.sampled_from(["U8", "F16", "F32", "F4", "F6_E2M3", "BOOL", "C64", "X"]) | st.none(),
        "shape": st.lists(NUMBERS, max_size=4) | st.just([0]),
        "data_offsets": st.lists(st.integers(0, 12), min_size=2, max_size=2) | st.lists(NUMBERS, max_size=3),
    }),
    st.sampled_from([tensor(offsets=[at, at + 4]) for at in (0, 2, 4, 8)]),
)  # fmt: skip
METADATA = st.none() | st.dictionaries(st.text(max_size=3), st.text(max_size=3) | st.integers(), max_size=2)
HEADERS = st.builds(
    lambda tensors, metadata, with_it: {**tensors, **({"__metadata__": metadata} if with_it else {})},
    st.dictionaries(st.text(max_size=3), TENSORS, max_size=3), METADATA, st.booleans(),
)  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(HEADERS, st.integers(0, 13), st.booleans())
def test_what_we_accept_the_reference_implementation_accepts(header, size, plain):
    content = made(json.dumps(header, ensure_ascii=plain).encode("utf-8", "surrogatepass"), b"x" * size)
    if ours(content) is None:
        assert theirs(content) is None
    if theirs(content) is not None:
        assert ours(content) is not None


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(sorted(GOOD.values())), st.data())
def test_one_changed_byte_is_never_read_in_two_ways(content, data):
    raw = bytearray(content)
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    if ours(bytes(raw)) is None:
        assert theirs(bytes(raw)) is None


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60))
def test_any_header_ends_in_a_verdict(raw):
    content = made(b"{" + raw)
    if ours(content) is None:
        assert theirs(content) is None


def sharded(**changes: object) -> dict[str, bytes]:
    files = {
        "model-00001-of-00002.safetensors": safetensors.numpy.save({"a": WEIGHTS["a"]}),
        "model-00002-of-00002.safetensors": safetensors.numpy.save({"b": WEIGHTS["b"]}),
    }
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = changes.pop("index", {"metadata": {"total_size": 56}, "weight_map": shards})
    files["model.safetensors.index.json"] = index if isinstance(index, bytes) else json.dumps(index).encode()
    return {name: content for name, content in (files | changes).items() if content is not None}


def test_a_complete_set_of_shards_is_accepted(tmp_path):
    result = trees.run("safetensors", tmp_path, sharded())
    assert (result.outcome, result.examined) == ("nothing found", 3)


ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SHARDS = {
    "shard missing": ({TWO: None}, "high", "names shard 'model-00002-of-00002.safetensors', which is not in this component"),
    "shard outside": ({"index": {"weight_map": {"a": "../../etc/passwd"}}}, "high", "which is not in this component"),
    "tensor missing": ({TWO: safetensors.numpy.save({"c": WEIGHTS["b"]})}, "high", "disagree on 2 tensors, first 'b'"),
    "tensor not listed": ({TWO: safetensors.numpy.save(dict.fromkeys("bz", WEIGHTS["b"]))}, "high", "disagree on 1 tensors, first 'z'"),
    "shard not listed": ({"model-00003-of-00002.safetensors": safetensors.numpy.save({})}, "medium", "a shard that"),
    "index not JSON": ({"index": b"{"}, "high", "not a shard index"),
    "index with a key twice": ({"index": b'{"weight_map":{"a":"x","a":"y"}}'}, "high", "not a shard index"),
    "index of numbers": ({"index": {"weight_map": {"a": 1}}}, "high", "not a shard index"),
}


@pytest.mark.parametrize("name", SHARDS)
def test_shards_and_index_must_agree(tmp_path, name):
    changes, severity, message = SHARDS[name]
    found = trees.said(trees.run("safetensors", tmp_path, sharded(**changes)))
    assert any(entry[0] == severity and message in entry[2] for entry in found), found


def test_a_damaged_blob_stops_the_check_as_not_assessed(tmp_path):
    subject = trees.subject(tmp_path, sharded())
    _, files = next(iter(subject.trees()))
    subject.layout.path(files[0].digest).unlink()
    result = trees.run_one(trees.load("safetensors"), subject)
    assert result.outcome == "not assessed"
    assert "missing" in result.not_assessed[0].reason
