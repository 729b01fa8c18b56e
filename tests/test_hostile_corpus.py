"""Every hostile model file is refused, by the check whose matter it is and with its reason; harmless ones pass all of them."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import hostile, models, trees
from parts.hostile import BENIGN, CASES

from audit import checks
from audit.checks import _gguf, _imports, _templates, secrets
from audit.checks._imports import UnfollowedError, imports

OF_MODELS = ("chat_template", "gguf", "pickle_imports", "pickles", "remote_code", "safetensors", "secrets", "tokenizer")


def results(folder: Path, files: dict[str, bytes]) -> dict[str, checks.CheckResult]:
    subject = trees.subject(folder, files)
    return {result.id: result for result in checks.run_all(subject, map(checks.load, OF_MODELS))}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_with_its_reason(tmp_path, name):
    case = CASES[name]
    found = results(tmp_path, case.files)
    grave = [f for f in found[case.check].findings if f.severity in ({"high", "critical"} if case.grave else {"medium"})]
    assert grave, {key: (result.findings, result.not_assessed) for key, result in found.items()}
    assert case.says in grave[0].message
    assert grave[0].remedy
    assert grave[0].about or case.check in {"pickles", "safetensors", "remote-code"}
    decided = checks.gate(found.values(), {})
    assert bool(decided.refused) == case.grave


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.check == "pickle-imports"])
def test_no_policy_opens_the_way_for_a_pickle_that_imports_more(tmp_path, name):
    found = results(tmp_path, CASES[name].files)
    lenient = dict.fromkeys(("pickle", "remote_code", "model_files", "chat_template", "secrets"), "warn")
    assert [f for f in checks.gate(found.values(), lenient).refused if f.id == "pickle-imports"]


@pytest.mark.parametrize("name", BENIGN)
def test_harmless_files_pass(tmp_path, name):
    found = results(tmp_path, BENIGN[name])
    assert [f for result in found.values() for f in result.findings if f.severity != "info"] == []
    assert [note for result in found.values() for note in result.not_assessed] == []


def test_a_model_with_real_tensors_passes(tmp_path):
    found = results(tmp_path, models.llama())
    assert [f for result in found.values() for f in result.findings if f.severity != "info"] == []


def test_what_torch_writes_passes_the_list_of_imports(tmp_path):
    """The pickles that torch writes name these and nothing else; numpy's own are read from what numpy writes here."""
    import numpy as np

    for value in (np.arange(4), np.float32(1), {"a": np.zeros((2, 2))}):
        for protocol in range(2, 6):
            raw = pickle.dumps(value, protocol)
            assert imports(io.BytesIO(raw)) <= _imports.ALLOWED
    assert not checks.gate(results(tmp_path, {"m.bin": hostile.ALLOWED}).values(), {"pickle": "warn"}).refused


def test_the_unpickler_imports_what_the_walk_says(tmp_path):
    """A real unpickler, in a process of its own, with every import refused and noted."""
    program = """
import io, pickle, sys
seen = []
class Watched(pickle.Unpickler):
    def find_class(self, module, name):
        seen.append((module, name)); raise KeyboardInterrupt
try: Watched(io.BytesIO(sys.stdin.buffer.read())).load()
except BaseException: pass
print(seen[:1])
"""
    for raw in hostile.GADGETS.values():
        done = subprocess.run([sys.executable, "-c", program], input=raw, capture_output=True, check=True)
        first = eval(done.stdout)
        assert set(first) <= imports(io.BytesIO(raw))
        assert first


def test_secrets_are_never_shown(tmp_path):
    for name, value in hostile.SECRETS.items():
        found = results(tmp_path / name, CASES[f"secret-{name}"].files)
        told = str(checks.as_json(found.values(), checks.gate(found.values(), {})))
        assert value.split("\n")[-1] not in told
        assert value[:24] not in told


@given(st.binary(max_size=400))
@settings(max_examples=300)
def test_a_gguf_header_of_any_bytes_is_read_or_refused(data):
    raw = b"GGUF\x03\0\0\0" + data
    with contextlib.suppress(_gguf.BadFileError, _gguf.UnknownFormError):
        _gguf.read(io.BytesIO(raw), len(raw))


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_a_pickle_of_any_bytes_is_followed_or_not(data):
    with contextlib.suppress(UnfollowedError):
        imports(io.BytesIO(data))


@given(st.text(max_size=200))
@settings(max_examples=200)
def test_a_template_of_any_text_is_judged(source):
    for sign in _templates.signs(_templates.Template("x", "default", "{{" + source + "}}")):
        assert sign.message


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_any_text_can_be_searched_for_secrets(data):
    assert len(list(secrets.found(data))) <= len(data)


def test_a_digest_of_a_template_is_told_and_can_be_approved(tmp_path):
    found = results(tmp_path, BENIGN["template"])["chat-template"]
    (finding,) = found.findings
    assert finding.severity == "info"
    assert finding.about in finding.message
    assert len(finding.about) == 64


@pytest.mark.network
def test_a_file_that_the_gguf_library_writes_passes(tmp_path):
    """The library of the format's makers, from the package index, in a process of its own."""
    target = tmp_path / "lib"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, "gguf"], check=True)
    program = """
import sys, numpy as np, gguf
w = gguf.GGUFWriter(sys.argv[1], "llama")
w.add_block_count(2); w.add_chat_template("{{ messages }}"); w.add_array("tokenizer.ggml.tokens", ["a", "b"])
w.add_tensor("a", np.ones((4, 32), dtype=np.float32)); w.add_tensor("b", np.ones((3,), dtype=np.float16))
w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
"""
    path = tmp_path / "m.gguf"
    subprocess.run([sys.executable, "-c", program, path], check=True, env=os.environ | {"PYTHONPATH": str(target)})
    found = results(tmp_path / "s", {"model.gguf": path.read_bytes()})
    assert [f for result in found.values() for f in result.findings if f.severity != "info"] == []
    header = _gguf.read(io.BytesIO(path.read_bytes()), path.stat().st_size)
    assert [(name, size) for name, _, size in header.tensors] == [("a", 512), ("b", 6)]
