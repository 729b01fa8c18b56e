"""``bundle.yaml``: the example of the architecture is read; every fault is told with its line."""

from __future__ import annotations

import pytest

from manifests import intent
from manifests.errors import InvalidFileError

WHOLE = """\
# bundle.yaml
apiVersion: airgap/v1
name: llm-h200
stream: llm-prod
target: {platform: linux/amd64, os: debian-12, python: "3.12", manylinux: "2_34", gpu: {model: h200-141gb, count: 2}}
serving: {max_model_len: 8192, concurrency: 16, quantization: bf16}
components:
  - {name: llama, kind: huggingface, repo: meta-llama/Llama-3.3-70B-Instruct, revision: main, include: ["*.safetensors", "LICENSE*"]}
  - {name: vllm-image, kind: image, ref: docker.io/vllm/vllm-openai:v0.32.0, role: inference}
  - {name: site-docs, kind: path, path: ./docs}
deploy: {server: vllm, monitoring: [prometheus]}
checks: {pickle: refuse, remote_code: warn, quarantine_days: 7}
"""


def read(tmp_path, text: str) -> intent.Intent:
    path = tmp_path / "bundle.yaml"
    path.write_text(text)
    return intent.load(path)[0]


def test_the_whole_example_is_read(tmp_path):
    whole = read(tmp_path, WHOLE)
    assert [component.name for component in whole.components] == ["llama", "vllm-image", "site-docs"]
    assert whole.components[0].options == {
        "repo": "meta-llama/Llama-3.3-70B-Instruct", "revision": "main", "include": ["*.safetensors", "LICENSE*"],
    }  # fmt: skip
    assert (whole.components[1].role, whole.target.architecture, whole.checks.quarantine_days) == ("inference", "amd64", 7)
    assert whole.checks.model_dump(exclude_defaults=True) == {"remote_code": "warn", "quarantine_days": 7}


def test_the_digest_is_of_values_not_of_text(tmp_path):
    first = read(tmp_path, WHOLE).sha256
    assert read(tmp_path, WHOLE.replace("# bundle.yaml", "#\n\n# other")).sha256 == first
    moved = WHOLE.replace("{name: site-docs, kind: path, path: ./docs}", "{path: ./docs, kind: path, name: site-docs}")
    moved = moved.replace("{server: vllm, monitoring: [prometheus]}", "{monitoring: [prometheus], server: vllm}")
    assert read(tmp_path, moved).sha256 == first
    for change in (("pickle: refuse", "pickle: warn"), ("revision: main", "revision: v2"), ("count: 2", "count: 4"), ("[prometheus]", "[]")):
        assert read(tmp_path, WHOLE.replace(*change)).sha256 != first


FAULTS = {
    "version": ("airgap/v1", "airgap/v2", r":2: field apiVersion: input should be 'airgap/v1', got 'airgap/v2'"),
    "name": ("name: llm-h200", "name: LLM", r":3: field name: .* got 'LLM'"),
    "stream": ("stream: llm-prod", "stream: a/b", r":4: field stream"),
    "platform": ("linux/amd64", "windows/amd64", r":5: field target\.platform"),
    "python as a number": ('"3.12"', "3.12", r":5: field target\.python: input should be a valid string, got 3\.12"),
    "python in other digits": ('"3.12"', '"3.１２"', r":5: field target\.python"),
    "serving": ("concurrency: 16", "concurrency: 0", r":6: field serving\.concurrency"),
    "serving, unknown": ("concurrency: 16", "concurency: 16", r":6: field serving\.concurency: extra"),
    "component name": ("name: llama", "name: Llama", r":8: field components\.0\.name"),
    "component kind": ("kind: image", "kind: Image!", r":9: field components\.1\.kind"),
    "component role": ("role: inference", "role: 3", r":9: field components\.1\.role"),
    "name twice": ("name: site-docs", "name: llama", r": field document: component name 'llama' stands twice"),
    "reserved name": ("name: site-docs", "name: airgap-lock", r"names starting with `airgap-` are reserved"),
    "check": ("pickle: refuse", "pickle: ignore", r":12: field checks\.pickle"),
    "days": ("quarantine_days: 7", "quarantine_days: 7.5", r":12: field checks\.quarantine_days"),
    "top field": ("deploy:", "deplyo:", r":11: field deplyo: extra inputs are not permitted"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_told_with_their_line(tmp_path, name):
    old, new, message = FAULTS[name]
    assert old in WHOLE
    with pytest.raises(InvalidFileError, match=message) as caught:
        read(tmp_path, WHOLE.replace(old, new))
    assert caught.value.message.startswith(str(tmp_path / "bundle.yaml"))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("field", ["apiVersion", "name", "stream"])
def test_what_is_needed_is_missed(tmp_path, field):
    text = "\n".join(line for line in WHOLE.splitlines() if not line.startswith(f"{field}:"))
    with pytest.raises(InvalidFileError, match=f"field {field}: field required, got nothing"):
        read(tmp_path, text)


def test_a_bundle_of_nothing_is_refused(tmp_path):
    with pytest.raises(InvalidFileError, match="field components"):
        read(tmp_path, "apiVersion: airgap/v1\nname: a\nstream: b\ncomponents: []\n")
    with pytest.raises(InvalidFileError, match="field document"):
        read(tmp_path, "[]\n")


def test_an_intent_cannot_be_changed(tmp_path):
    whole = read(tmp_path, WHOLE)
    with pytest.raises(ValueError, match="frozen"):
        whole.name = "x"
