"""Ready-made stacks as data (``manifests/data/catalog.json``): parts that fill a place each, stacks of parts, a first bundle.yaml of them.

Rules: versions stand in the data and nowhere else; every part says whether it could be resolved when that was written; parts for different
accelerators do not go together, nor do two that fill the place of the server or of the gateway.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from manifests.errors import UsageError
from manifests.paths import printable

DATA = "data/catalog.json"
ONE_OF = frozenset({"server", "gateway", "model"})  # places that one part fills
ANY = "any"
TARGET = {"platform": "linux/amd64", "python": "3.12", "manylinux": "2_34"}  # unless a part names another
WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off"})  # that YAML takes for something else than text
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*")
_WIDTH = 130  # characters of a comment line


@dataclass(frozen=True, slots=True)
class Part:
    """Something that fills a place of a stack; ``checked`` says whether it could be resolved, ``driver`` what the machine must have."""

    id: str
    fills: str
    title: str
    stack: str
    checked: str
    components: tuple[dict[str, Any], ...]
    driver: str = ""
    note: str = ""
    target: dict[str, str] = field(default_factory=dict)

    @property
    def resolved(self) -> bool:
        """Say whether it could be resolved when the data was written."""
        return self.checked.startswith("resolved ")


@dataclass(frozen=True, slots=True)
class Stack:
    """Parts that were put together."""

    id: str
    title: str
    parts: tuple[str, ...]
    gpu: dict[str, Any] = field(default_factory=dict)
    serving: dict[str, Any] = field(default_factory=dict)


@functools.cache
def parts() -> dict[str, Part]:
    """Return every part by its id."""
    return {entry["id"]: Part(**entry | {"components": tuple(entry["components"])}) for entry in _read()["parts"]}


@functools.cache
def stacks() -> dict[str, Stack]:
    """Return every stack by its id."""
    return {entry["id"]: Stack(**entry | {"parts": tuple(entry["parts"])}) for entry in _read()["stacks"]}


def as_of() -> str:
    """Return the day of the data."""
    return str(_read()["asOf"])


def named(text: str) -> Stack:
    """Return a stack by its id, or of parts joined by ``+``; raises UsageError for what is not there or does not go together."""
    if text in stacks():
        return stacks()[text]
    ids = tuple(text.split("+"))
    unknown = next((name for name in ids if name not in parts()), None)
    if unknown is not None:
        raise UsageError(f"no stack and no part {printable(unknown, 60)!r} in the catalog", hint="`airgap-bundle catalog` lists them")
    _check_together(ids)
    return Stack("-".join(ids)[:60], " + ".join(ids), ids)


def intent(stack: Stack) -> str:
    """Return a first bundle.yaml of a stack."""
    chosen = [parts()[name] for name in stack.parts]
    target = functools.reduce(lambda found, part: found | part.target, chosen, dict[str, Any](TARGET))
    target |= {"gpu": stack.gpu} if stack.gpu else {}
    lines = [
        f"# {stack.title}. By the catalog of {as_of()}.",
        "# `airgap-bundle plan` says whether it fits, `airgap-bundle lock` pins every byte.",
        "apiVersion: airgap/v1",
        f"name: {stack.id}",
        f"stream: {stack.id}",
        f"target: {_flow(target)}",
        *([f"serving: {_flow(stack.serving)}"] if stack.serving else []),
        "components:",
    ]
    for part in chosen:
        lines += [f"  # {line}" for line in _comments(part)]
        lines += [f"  - {_flow(component)}" for component in part.components]
    lines.append("checks: {pickle: refuse, remote_code: refuse, quarantine_days: 7}")
    return "\n".join(lines) + "\n"


def _check_together(ids: tuple[str, ...]) -> None:
    chosen = [parts()[name] for name in ids]
    for place in sorted(ONE_OF):
        filling = [part.id for part in chosen if part.fills == place]
        if len(filling) > 1:
            raise UsageError(f"{' and '.join(filling)} both fill the place of the {place}", hint="name one of them")
    kinds = sorted({part.stack for part in chosen} - {ANY})
    if len(kinds) > 1:
        raise UsageError(f"parts for {' and '.join(kinds)} do not go together", hint="choose parts for one kind of accelerator")
    names = [component["name"] for part in chosen for component in part.components]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"two parts bring a component {twice[0]!r}", hint="name one of them, and add the other by hand")


def _comments(part: Part) -> Iterator[str]:
    for text in filter(None, (f"{part.title}: {part.checked}", part.driver and f"needs {part.driver}", part.note)):
        line = ""
        for word in text.split():
            if len(line) + len(word) >= _WIDTH:
                yield line
                line = ""
            line = f"{line} {word}".strip()
        yield line


def _flow(value: Any) -> str:
    """Return a value in YAML's flow style."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    plain = isinstance(value, str) and _PLAIN.fullmatch(value) and value not in WORDS
    return str(value) if plain else json.dumps(value)


@functools.cache
def _read() -> dict[str, Any]:
    return dict(json.loads(resources.files("manifests").joinpath(DATA).read_bytes()))
