"""Code that a model brings or names, wherever it stands in its files."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import trees

from audit.checks import gate
from audit.checks.remote_code import MAX_JSON, signs

PLAIN = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
    "rope_scaling": {"type": "yarn", "factor": 4.0},
    "_attn_implementation_autoset": True, "attn_implementation": "sdpa", "_attn_implementation": "flash_attention_2",
    "auto_map": None, "trust_remote_code": False, "custom_pipelines": {}, "_name_or_path": "org/model",
}  # fmt: skip
SIGNS = {
    "auto_map": ({"auto_map": {"AutoModel": "modeling_x.X"}}, "auto_map names code to run"),
    "auto_map in another repository": ({"auto_map": {"AutoConfig": "evil/repo--configuration.C"}}, "evil/repo--configuration.C"),
    "auto_map of a part": ({"vision_config": {"auto_map": {"AutoConfig": "x.C"}}}, "vision_config.auto_map"),
    "auto_map in a list": ({"parts": [1, {"auto_map": ["a", None]}]}, "parts[1].auto_map"),
    "trust_remote_code": ({"trust_remote_code": True}, "trust_remote_code names code"),
    "trust_remote_code as a number": ({"trust_remote_code": 1}, "trust_remote_code names code"),
    "trust_remote_code as text": ({"text_config": {"trust_remote_code": "yes"}}, "text_config.trust_remote_code"),
    "custom_pipelines": ({"custom_pipelines": {"x": {"impl": "pipe.Pipe"}}}, "custom_pipelines names code"),
    "model_file": ({"model_file": "model.py"}, "model_file names a file of code"),
    "internal attention": ({"_attn_implementation_internal": "kernel"}, "_attn_implementation_internal names a kernel"),
    "attention of a repository": ({"text_config": {"attn_implementation": "org/flash@main:fn"}}, "org/flash@main:fn"),
    "attention by part": ({"attn_implementation": {"text_config": "org/kernel"}}, "org/kernel"),
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNS)
@pytest.mark.parametrize("path", ["config.json", "sub/tokenizer_config.JSON", "adapter_config.json"])
def test_a_key_that_names_code_is_refused_wherever_it_stands(tmp_path, name, path):
    value, message = SIGNS[name]
    result = trees.run("remote_code", tmp_path, {path: json.dumps({**PLAIN, **value}).encode()})
    ((severity, found, said),) = trees.said(result)
    assert (severity, found) == ("high", path)
    assert message in said
    assert result.gate == "remote_code"
    assert gate([result], {"pickle": "warn"}).exit_code == 4
    assert gate([result], {"remote_code": "warn"}).exit_code == 0


def test_an_ordinary_model_has_nothing_to_find(tmp_path):
    files = {
        "config.json": json.dumps(PLAIN).encode(),
        "modules.json": json.dumps([{"idx": 0, "type": "sentence_transformers.models.Transformer"}]).encode(),
        "mamba/config.json": b'{"time_step_limit": [0.0, Infinity]}',
        "vocab.json": json.dumps({**{f"token{n}": n for n in range(300)}, "trust_remote_code": 300, "auto_map": 301}).encode(),
        "README.md": b"auto_map: x",
        "model.safetensors": b"",
    }
    result = trees.run("remote_code", tmp_path, files)
    assert (result.outcome, result.examined) == ("nothing found", 6)


@pytest.mark.parametrize("name", ["modeling_x.py", "a/b/CUSTOM.PY", "x.pyc", "kernel.so", "x.pyd", "custom_generate/generate.py"])
def test_code_files_in_a_model_are_refused(tmp_path, name):
    result = trees.run("remote_code", tmp_path, {name: b"print()", "config.json": b"{}"})
    assert [(severity, path) for severity, path, _ in trees.said(result)] == [("high", name)]
    assert result.examined == 2


def test_trees_that_are_no_model_may_hold_code(tmp_path):
    result = trees.run("remote_code", tmp_path, {"a.py": b"", "config.json": b'{"auto_map": {"a": "b"}}'}, kind="path", model=False)
    assert result.outcome == "nothing to examine"


@pytest.mark.parametrize("kind", ["custom_st.Transformer", "os.system", 7])
def test_sentence_transformers_modules_from_elsewhere_are_refused(tmp_path, kind):
    modules = [{"type": "sentence_transformers.models.Transformer"}, {"type": kind}]
    result = trees.run("remote_code", tmp_path, {"modules.json": json.dumps(modules).encode(), "other.json": json.dumps(modules).encode()})
    ((_, path, message),) = trees.said(result)
    assert path == "modules.json"
    assert message.startswith("[1].type names a class from elsewhere")


def test_a_model_file_that_is_no_code_is_only_noted(tmp_path):
    result = trees.run("remote_code", tmp_path, {"x.json": b'{"model_file": "model.onnx"}'})
    assert [severity for severity, _, _ in trees.said(result)] == ["medium"]


UNREADABLE = {
    "not JSON": b"{'auto_map': 1}",
    "key twice": b'{"a": {"auto_map": {}, "auto_map": {"x": "y"}}}',
    "not UTF-8": b'{"a": "\xff"}',
    "byte order mark": b'\xef\xbb\xbf{"auto_map": {"a": "b"}}',
    "too deep": b'{"a":' * 70 + b"1" + b"}" * 70,
    "far too deep": b"[" * 100_000,
    "half a surrogate": b'{"a": "\\ud800"}',
    "more after it": b'{} {"auto_map": {"a": "b"}}',
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_configuration_that_cannot_be_read_strictly_is_not_assessed(tmp_path, name):
    result = trees.run("remote_code", tmp_path, {"config.json": UNREADABLE[name], "b.json": b"{}"})
    assert (result.outcome, result.examined) == ("not assessed", 1)
    assert result.not_assessed[0].path == "config.json"
    assert gate([result], {"remote_code": "warn"}).exit_code == 5


def test_a_configuration_beyond_the_bound_is_not_assessed(tmp_path):
    result = trees.run("remote_code", tmp_path, {"big.json": b'{"a": "' + b"x" * MAX_JSON + b'"}'})
    assert [(note.path, "at most" in note.reason) for note in result.not_assessed] == [("big.json", True)]


def test_hostile_text_does_not_reach_the_terminal(tmp_path):
    content = json.dumps({"a\x1b[2Jb": {"auto_map": {"x": "\x1b]0;owned\x07"}}}).encode()
    ((_, _, message),) = trees.said(trees.run("remote_code", tmp_path, {"config.json": content}))
    assert message.isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["auto_map", "type", "a", "b"]), inner, max_size=3),
    max_leaves=15,
)  # fmt: skip


def hides(node: object) -> bool:
    if isinstance(node, list):
        return any(map(hides, node))
    return isinstance(node, dict) and (bool(node.get("auto_map")) or any(map(hides, node.values())))


@given(JSON, st.sampled_from(["config.json", "modules.json"]))
def test_auto_map_is_found_at_any_depth(document, name):
    assert any("names code to run" in what for _, _, what in signs(document, name)) == hides(document)
