"""Kind ``python``: its trees install where there is no network, and the closures of real servers lock."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import uv
from parts import cli, pyindex
from parts.pydesk import Desk, base

from manifests.errors import UsageError
from manifests.lock import Target

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with pyindex.Index() as index:
        yield Desk(tmp_path, index, environment=base(tmp_path) | {"UV_DEFAULT_INDEX": index.url})


def _installed(program: list[str], tree: Path, environment: Path) -> str:
    """Make an environment and install into it inside a namespace without a network; return the versions found there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    clean = {"PATH": os.environ["PATH"], "HOME": str(environment), "UV_CACHE_DIR": str(environment / "uv"), "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(
        [*cli.NO_NETWORK, *program], cwd=tree, env=clean | {"VIRTUAL_ENV": str(environment)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ask = "import importlib.metadata as m; print(*sorted(f'{d.name}=={d.version}' for d in m.distributions()))"
    return subprocess.run([environment / "bin" / "python", "-I", "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


def _installers(environment: Path) -> dict[str, list[str]]:
    interpreter = str(environment / "bin" / "python")
    offline = ["--no-index", "--find-links", "wheels", "--require-hashes", "-r", "requirements.txt"]
    return {
        "pip": [sys.executable, "-m", "pip", "--python", interpreter, "install", *offline],
        "uv": [uv.find_uv_bin(), "pip", "install", "--offline", "--python", interpreter, *offline],
        "uv-pylock": [uv.find_uv_bin(), "pip", "sync", "--offline", "--no-index", "--python", interpreter, "pylock.toml"],
    }


@pytest.mark.parts
@pytest.mark.parametrize("installer", ["pip", "uv", "uv-pylock"])
def test_the_tree_installs_where_there_is_no_network(desk: Desk, installer: str) -> None:
    cli.need_namespaces()
    desk.add("app", "1.0", requires=["lib"])
    desk.add("lib", "2.0")
    locked = desk.lock("app", python=HERE)
    tree = desk.placed(locked)
    environment = desk.folder / "venv"
    assert _installed(_installers(environment)[installer], tree, environment) == "app==1.0 lib==2.0"


@pytest.mark.parts
@pytest.mark.parametrize("installer", ["pip", "uv", "uv-pylock"])
def test_an_exchanged_wheel_does_not_install(desk: Desk, installer: str) -> None:
    cli.need_namespaces()
    desk.add("app", "1.0")
    tree = desk.placed(desk.lock("app", python=HERE))
    wheel = tree / "wheels" / "app-1.0-py3-none-any.whl"
    wheel.chmod(0o644)
    wheel.write_bytes(pyindex._wheel("app", "1.0", "py3-none-any", b"Metadata-Version: 2.1\nName: app\nVersion: 1.0\nSummary: other\n"))
    environment = desk.folder / "venv"
    with pytest.raises(AssertionError, match="(?i)hash|size|mismatch"):
        _installed(_installers(environment)[installer], tree, environment)


@pytest.fixture
def world(tmp_path: Path) -> Desk:
    """The package index this machine is configured for."""
    return Desk(tmp_path, target=Target(python="3.12", manylinux="2_34"))


def relevant(desk: Desk) -> list[str]:
    return [warning for warning in desk.warnings if "pip's local folders" not in warning]


@pytest.mark.network
def test_a_gateway_of_a_hundred_packages(world: Desk) -> None:
    world.target = Target(python="3.12", manylinux="2_28")
    locked = world.lock("litellm[proxy]")
    assert 80 < len(locked.files) < 180
    assert all(pin.path.endswith(".whl") and pin.url.startswith("https://") and pin.size for pin in locked.files)
    assert 100e6 < locked.size < 400e6
    assert world.lock("litellm[proxy]", previous=locked).model_dump_json() == locked.model_dump_json()


@pytest.mark.network
def test_an_inference_server_with_its_gpu_libraries(world: Desk) -> None:
    locked = world.lock("vllm==0.32.0")
    assert 150 < len(locked.files) < 260
    assert 3e9 < locked.size < 6e9
    gpu = [pin for pin in locked.files if pin.path.startswith(("wheels/nvidia_", "wheels/cuda_"))]
    assert sum(pin.size for pin in gpu) > 2e9
    assert all(pin.path.endswith(".whl") for pin in locked.files)


@pytest.mark.network
def test_a_server_that_needs_a_newer_glibc_says_which_package(world: Desk) -> None:
    world.target = Target(python="3.12", manylinux="2_28")
    with pytest.raises(UsageError, match="no usable wheel of llguidance for CPython 3.12 on manylinux_2_28_x86_64: ") as caught:
        world.lock("vllm==0.32.0")
    assert "vllm==0.32.0 depends on llguidance" in str(caught.value)
    assert "allow_sdist: [llguidance]" in caught.value.hint


@pytest.mark.network
def test_a_server_that_falls_back_to_an_old_release_says_so(world: Desk) -> None:
    world.target = Target(python="3.12", manylinux="2_28")
    world.lock("sglang")
    said = [warning for warning in relevant(world) if warning.startswith("gw: sglang: resolved ")]
    assert said
    assert said[0].endswith("no wheel of it for CPython 3.12 on manylinux_2_28_x86_64")


@pytest.mark.network
def test_a_project_without_any_wheel_is_not_built(world: Desk) -> None:
    with pytest.raises(UsageError, match="no usable wheel of tensorrt-llm"):
        world.lock("tensorrt-llm")


@pytest.mark.network
@pytest.mark.parts
def test_real_wheels_install_where_there_is_no_network(world: Desk) -> None:
    cli.need_namespaces()
    world.target = Target(python=HERE, manylinux="2_28")
    tree = world.placed(world.lock("jinja2"))
    environment = world.folder / "venv"
    assert "markupsafe==" in _installed(_installers(environment)["pip"], tree, environment).lower()
