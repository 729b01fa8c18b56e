"""Imports point left only, and the isolated side reaches no network code: by reading every module, and by importing each.

``manifests ◄ airgap_images ◄ audit ◄ bundler``. An offence is printed with the whole path that leads to it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("manifests", "airgap_images", "audit", "bundler")
# Libraries and modules that open connections. `socket` itself stands in `email`, which `importlib.metadata` needs; nothing of ours names it.
NETWORK = frozenset({
    "requests", "urllib3", "pycurl", "docker", "httpx", "httpx2", "httpcore", "aiohttp", "huggingface_hub", "sigstore", "tuf",
    "http.client", "http.server", "urllib.request", "ssl", "ftplib", "smtplib", "xmlrpc", "socketserver",
})  # fmt: skip
OWN_NETWORK = frozenset({
    "airgap_images.remote.exchange", "airgap_images.remote.http", "airgap_images.remote.tap", "airgap_images.remote.registry", "airgap_images.remote.authentication",
    "airgap_images.placing.push", "airgap_images.placing.upload", "airgap_images.placing.docker_engine", "airgap_images.placing.podman", "airgap_images.placing.containerd",
    "airgap_images.serving.listener",
})  # fmt: skip
FORBIDDEN = NETWORK | OWN_NETWORK | {"socket", "asyncio", "telnetlib"}
# The ways to an engine or a registry: each taken only where the site names such a target, which is passed on as an object.
ALLOWED = {
    ("audit.reach", "_docker", "airgap_images.placing.docker_engine"),
    ("audit.reach", "_podman", "airgap_images.placing.podman"),
    ("audit.reach", "_containerd", "airgap_images.placing.containerd"),
    ("audit.reach", "_registry", "airgap_images.remote.http"),
    ("audit.reach", "_registry", "airgap_images.remote.authentication"),
    ("audit.reach", "_registry", "airgap_images.placing.push"),
    ("audit.serve", "_listener", "airgap_images.serving.listener"),  # the other direction: `serve` opens a port, and nothing else does
}
# The one module that may import a network library: a program of its own, which no module imports; see docs/adr/0014.
CHILD = "audit.verify._keyless_child"
NEEDED = ("audit.verify.walk", "audit.verify.upstream", "audit.verify.keyless", "audit.verify.trust", "audit.verify.state", "audit.checks", "audit.evidence", "audit.install", "audit.journal",
          "audit.drift", "audit.terminal", "audit.reach", "audit.serve", "audit.cli")  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One import: where it stands and what it names."""

    module: str
    function: str
    target: str
    line: int


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for package in ORDER for path in sorted((ROOT / package).rglob("*.py"))}


def imports(module: str, tree: ast.AST, function: str = "") -> Iterator[Import]:
    """Yield every import, those in functions, under TYPE_CHECKING and by name included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(module, function, alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import"
            yield from (Import(module, function, whole(node.module, alias.name), node.lineno) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and (node.value in MODULES or node.value in NETWORK):
            if "." in node.value:  # import_module("a.b") and lazily("a.b"): a dotted name of a module is an import of it
                yield Import(module, function, node.value, node.lineno)
        elif isinstance(node, ast.Call) and is_by_name(node):
            yield from (Import(module, function, target, node.lineno) for target in named(module, node))
        inner = node.name if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else function
        yield from imports(module, node, inner)


def whole(module: str | None, name: str) -> str:
    dotted = f"{module}.{name}"
    return dotted if dotted in MODULES or dotted in NETWORK else str(module)


def is_by_name(call: ast.Call) -> bool:
    function = call.func
    return (function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")) in {"import_module", "__import__"}


def named(module: str, call: ast.Call) -> Iterator[str]:
    (argument,) = call.args
    if isinstance(argument, ast.Constant):
        yield argument.value
        return
    text = ast.unparse(argument)
    assert text.startswith("f'{__name__}."), f"{module}:{call.lineno}: imports a name that cannot be followed: {text}"
    yield from (found for found in MODULES if found.startswith(f"{module}."))


IMPORTS = tuple(found for module, path in MODULES.items() for found in imports(module, ast.parse(path.read_text(encoding="utf-8"))))


def parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def offends(target: str) -> bool:
    return any(name in FORBIDDEN for name in (*parents(target), target))


def paths(start: str) -> Iterator[tuple[Import, ...]]:
    """Yield a shortest chain of imports from ``start`` to every forbidden module it reaches."""
    by_module: dict[str, list[Import]] = {}
    for found in IMPORTS:
        by_module.setdefault(found.module, []).append(found)
    seen, queue = {start, *parents(start)}, [(name, ()) for name in (*parents(start), start)]
    while queue:
        module, chain = queue.pop(0)
        for found in by_module.get(module, ()):
            if (found.module, found.function, found.target) in ALLOWED:
                continue
            if offends(found.target):
                yield (*chain, found)
                continue
            for name in (*parents(found.target), found.target):
                if name in MODULES and name not in seen:
                    seen.add(name)
                    queue.append((name, (*chain, found)))


def shown(chain: tuple[Import, ...]) -> str:
    return "\n  ".join(f"{found.module}:{found.line} imports {found.target}" for found in chain)


def test_the_reader_sees_every_package():
    assert {module.split(".")[0] for module in MODULES} == set(ORDER)
    assert {found.module.split(".")[0] for found in IMPORTS} == set(ORDER)


def test_imports_point_left_only():
    offences = [
        found for found in IMPORTS
        if (target := found.target.split(".")[0]) in ORDER and ORDER.index(target) > ORDER.index(found.module.split(".")[0])
    ]  # fmt: skip
    assert not offences, shown(tuple(offences))


@pytest.mark.parametrize("module", sorted(module for module in MODULES if module.split(".")[0] in {"manifests", "audit"} and module != CHILD))
def test_no_module_of_the_isolated_side_reaches_network_code(module):
    found = next(paths(module), None)
    assert found is None, f"{module} reaches {found[-1].target}:\n  {shown(found)}"


def test_the_keyless_verifier_is_a_program_that_nobody_imports_and_that_brings_one_library():
    assert [shown((found,)) for found in IMPORTS if CHILD in {found.target, *parents(found.target)}] == []
    own = [found for found in IMPORTS if found.module == CHILD]
    assert {found.target.split(".")[0] for found in own if offends(found.target)} == {"sigstore"}
    assert all(found.function for found in own if offends(found.target))  # after the process has shut itself in
    assert {found.target.split(".")[0] for found in own} & set(ORDER) == set()
    starters = [module for module, path in MODULES.items() if CHILD.rpartition(".")[2] in path.read_text(encoding="utf-8")]
    assert starters == ["audit.verify.keyless"]


@pytest.mark.parametrize("module", sorted({"airgap_images.bundle", "airgap_images.layout", "airgap_images.oci"}))
def test_the_store_reaches_no_network_code(module):
    assert next(paths(module), None) is None


def test_targets_are_reached_in_one_module_only_and_by_these_ways_which_are_still_there():
    there = {(found.module, found.function, found.target) for found in IMPORTS if found.target in OWN_NETWORK}
    assert {entry for entry in there if entry[0].split(".")[0] == "audit"} == ALLOWED


def test_the_search_finds_what_it_is_for():
    (chain,) = [chain for chain in paths("airgap_images.remote.registry") if chain[-1].target == "airgap_images.remote.http"][:1]
    assert chain[0].module == "airgap_images.remote.registry"
    assert any(chain[-1].target == "pycurl" for chain in paths("airgap_images.remote.http"))
    assert list(paths("bundler.build"))
    tree = ast.parse("def f():\n    import urllib.request\nfrom http import client\nx = lazily('audit.cli')\nfrom requests.exceptions import E\n")
    assert [(found.function, found.target) for found in imports("m", tree)] == [
        ("f", "urllib.request"), ("", "http.client"), ("", "audit.cli"), ("", "requests.exceptions"),
    ]  # fmt: skip
    assert all(offends(target) for target in ("urllib.request", "http.client", "requests.exceptions", "docker", "ssl", "airgap_images.placing.podman"))
    assert not any(offends(target) for target in ("urllib.parse", "http", "airgap_images.remote.web", "audit.cli"))


def test_a_chain_is_printed_link_by_link(monkeypatch):
    chain = (Import("audit.a", "", "audit.b", 3), Import("audit.b", "f", "requests", 7))
    monkeypatch.setattr(sys.modules[__name__], "IMPORTS", chain)
    monkeypatch.setattr(sys.modules[__name__], "MODULES", {"audit.a": ROOT, "audit.b": ROOT})
    (found,) = paths("audit.a")
    assert shown(found) == "audit.a:3 imports audit.b\n  audit.b:7 imports requests"


RUN = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(name).__dict__
found = sorted(set(sys.argv[1].split(",")) & set(sys.modules))
print(",".join(found))
"""


def imported(*modules: str) -> str:
    arguments = [sys.executable, "-c", RUN, ",".join(sorted(NETWORK | OWN_NETWORK)), *modules]
    return subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()


@pytest.mark.parametrize("package", NEEDED)
def test_importing_it_brings_no_network_code(package):
    modules = [module for module in MODULES if module == package or module.startswith(f"{package}.")]
    assert modules
    assert imported(*modules) == ""


def test_importing_the_whole_isolated_side_brings_no_network_code():
    assert imported(*(module for module in MODULES if module.split(".")[0] in {"manifests", "audit"})) == ""


def test_the_runtime_check_sees_what_is_imported():
    assert "airgap_images.remote.http" in imported("airgap_images.remote.http").split(",")
    assert "pycurl" in imported("airgap_images.remote.http").split(",")
