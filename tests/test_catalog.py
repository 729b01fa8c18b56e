"""The catalog: every stack and part gives a file that validates, fits the hardware it names, and says what was not resolved."""

from __future__ import annotations

from itertools import product

import pytest
from parts.cli import Desk

from bundler import catalog, resolve
from bundler import sizing as fitting
from manifests import hardware, sizing
from manifests.errors import UsageError
from manifests.intent import load
from manifests.lock import Lock

STACKS, PARTS = catalog.stacks(), catalog.parts()


def written(folder, text: str):
    (folder / "bundle.yaml").write_text(catalog.intent(catalog.named(text)))
    intent, document = load(folder / "bundle.yaml")
    return intent, resolve.checked_options(intent, document)


@pytest.mark.parametrize("name", [*STACKS, *PARTS])
def test_every_entry_gives_a_file_that_validates(tmp_path, name):
    intent, options = written(tmp_path, name)
    assert len(options) == len(intent.components)
    assert intent.checks.pickle == "refuse"


def test_every_place_is_filled_by_something():
    filled = {part.fills for part in PARTS.values()}
    assert filled == {"server", "gateway", "monitoring", "evaluation", "data", "model"}
    assert {part.stack for part in PARTS.values()} == {"cuda", "rocm", "any"}
    for stack in STACKS.values():
        assert set(stack.parts) <= PARTS.keys()


@pytest.mark.parametrize(("server", "gateway"), list(product([p.id for p in PARTS.values() if p.fills == "server"], [p.id for p in PARTS.values() if p.fills == "gateway"])))
def test_servers_and_gateways_compose(tmp_path, server, gateway):
    intent, _ = written(tmp_path, f"{server}+{gateway}+prometheus-apt")
    assert {component.role for component in intent.components} == {"inference", "gateway", "monitoring"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("vllm+sglang", "both fill the place of the server"),
        ("vllm+amd-exporter-image", "parts for cuda and rocm do not go together"),
        ("vllm-rocm-image+dcgm-exporter-image", "do not go together"),
        ("llama-3.3-70b+qwen2.5-7b", "both fill the place of the model"),
        ("nothing", "no stack and no part 'nothing'"),
        ("vllm+", "no stack and no part ''"),
        ("vllm+vllm", "both fill"),
        ("lm-eval+lm-eval", "two parts bring a component 'evaluation'"),
    ],
)
def test_what_does_not_go_together_is_refused(text, says):
    with pytest.raises(UsageError, match=says):
        catalog.named(text)


@pytest.mark.parametrize("name", [name for name, stack in STACKS.items() if stack.gpu])
def test_stacks_fit_the_hardware_they_name(tmp_path, name):
    intent, _ = written(tmp_path, name)
    model = next(part for part in STACKS[name].parts if PARTS[part].fills == "model")
    found = fitting.known(fitting.named(model), intent.serving, intent.target)
    assert found.asked
    assert found.asked.fits
    stacks = {PARTS[part].stack for part in STACKS[name].parts} - {"any"}
    assert stacks == {found.asked.accelerator.stack}


def test_models_have_a_size_and_name_the_same_repository():
    sizes = {model.id: model for model in hardware.models()}
    for part in PARTS.values():
        if part.fills == "model":
            assert part.components[0]["repo"] == sizes[part.id].repo
            assert sizing.shape(sizes[part.id].config).layers


def test_servers_say_which_driver_they_need_and_everything_whether_it_was_resolved():
    for part in PARTS.values():
        assert part.driver or part.fills != "server"
        assert part.resolved or part.checked.startswith("not resolved when this was written")
        for component in part.components:
            if component.get("ref", "").endswith(":latest"):
                assert "latest" in part.note


def test_the_commands_list_and_write(tmp_path):
    desk = Desk(tmp_path)
    listed = desk.bundle("catalog", "--json").json
    assert {stack["id"] for stack in listed["stacks"]} == STACKS.keys()
    assert "tensorrt-llm-image    server      cuda  no" in desk.bundle("catalog").out
    desk.bundle("init", "x.yaml", "--from", "gateway")
    text = (tmp_path / "x.yaml").read_text()
    assert text.startswith("# Only a gateway and its monitoring")
    assert "no stack and no part 'gatway'" in desk.bundle("init", "y.yaml", "--from", "gatway", code=2).err
    assert not (tmp_path / "y.yaml").exists()
    assert "exists already" in desk.bundle("init", "x.yaml", "--from", "gateway", code=2).err


@pytest.mark.network
@pytest.mark.parts
def test_what_is_called_resolved_locks(tmp_path):
    desk = Desk(tmp_path)
    desk.bundle("init", "bundle.yaml", "--from", "fastapi+prometheus-apt+lm-eval")
    desk.bundle("lock", "bundle.yaml")
    lock = Lock.load(tmp_path / "bundle.lock.json")
    assert {component.name for component in lock.components if "." not in component.name} == {"gateway", "monitoring", "evaluation"}
