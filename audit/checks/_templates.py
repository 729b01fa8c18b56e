"""Where a model keeps its chat templates, and what stands in one; a template is parsed and never rendered.

A chat template is a program in the Jinja language that a server runs over every conversation (CVE-2024-34359, llama-cpp-python;
CVE-2026-5760, SGLang). What a sandbox forbids is looked for by name; what a template says to the model is not judged: a harmless-looking
condition on a word can change every answer. So its digest is the control: a person reads it once and approves that.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from airgap_images.bundle import TreeFile
from airgap_images.layout import Layout
from audit.checks import _gguf
from audit.checks._hidden import hidden
from manifests import canonical
from manifests.errors import AirgapError

MAX_TEMPLATE = 1 << 20  # characters; the longest in use have about 20,000
MAX_JSON = 64 << 20  # bytes
MAX_RANGE = 100_000
CONFIGURATIONS = ("tokenizer_config.json", "processor_config.json", "chat_template.json", "preprocessor_config.json")
KEY = "chat_template"
DEFAULT = "default"
HELPERS = frozenset({"cycler", "joiner", "lipsum"})  # whose attributes lead to Python's modules
LOADS: dict[type, str] = {nodes.Include: "include", nodes.Import: "import", nodes.FromImport: "import", nodes.Extends: "extends"}
_URL = re.compile(r"https?://", re.IGNORECASE)
Grade = Literal["high", "medium"]


@dataclass(frozen=True, slots=True)
class Template:
    """One template: in which file, under which name, its text."""

    path: str
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Return the digest of its text in UTF-8."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Unread:
    """A file in which templates may stand and that could not be read."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Sign:
    """Something in a template that is to be looked at."""

    grade: Grade
    word: str
    message: str


class _Generation(Extension):
    """The tag by which templates mark what the model wrote; its body is parsed as usual."""

    tags = {"generation"}  # noqa: RUF012 - the library's way

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Parse the body of one."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


_ENVIRONMENT = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols", "jinja2.ext.do"]
)


def templates(layout: Layout, files: tuple[TreeFile, ...]) -> Iterator[Template | Unread]:
    """Yield every chat template of a model, from its configuration, files of their own, and GGUF."""
    for file in files:
        name = file.path.rsplit("/", 1)[-1].lower()
        if name in CONFIGURATIONS:
            yield from _configured(layout, file)
        elif name.endswith((".jinja", ".jinja2")):
            yield from _plain(layout, file)
        elif name.endswith(".gguf"):
            yield from _in_gguf(layout, file)


def signs(template: Template) -> Iterator[Sign]:
    """Yield what is to be looked at in a template, gravest kinds first in the order they stand."""
    if len(template.text) > MAX_TEMPLATE:
        yield Sign("high", "size", f"{len(template.text)} characters, at most {MAX_TEMPLATE} are read")
        return
    if names := hidden(template.text):
        yield Sign("high", "hidden", f"holds characters that no reader sees: {', '.join(names[:5])}")
    try:
        tree = _ENVIRONMENT.parse(template.text)
    except (TemplateSyntaxError, RecursionError, ValueError) as error:
        yield Sign("high", "syntax", f"cannot be parsed: {str(error)[:120]}")
        return
    seen: set[str] = set()
    for node in tree.find_all(nodes.Node):
        for sign in _signs(node):
            if sign.message not in seen:
                seen.add(sign.message)
                yield sign


def _signs(node: nodes.Node) -> Iterator[Sign]:
    yield from _reaches(node)
    match node:
        case nodes.Name(name=name, ctx="load") if name in HELPERS:
            yield Sign("high", "helper", f"uses {name}, which no chat template needs and which leads to Python's modules")
        case nodes.Call(node=nodes.Name(name="range"), args=args) if any(map(_is_huge, args)):
            yield Sign("high", "range", f"counts further than {MAX_RANGE}")
        case nodes.Pow(right=right) | nodes.Mul(right=right) if _is_huge(right):
            yield Sign("high", "range", f"makes something more than {MAX_RANGE} times as large")
        case nodes.TemplateData(data=str(text)) | nodes.Const(value=str(text)) if _URL.search(text):
            yield Sign("medium", "address", "holds an address of the web")
        case _ if type(node) in LOADS:
            yield Sign("high", "load", f"loads another template ({LOADS[type(node)]})")


def _reaches(node: nodes.Node) -> Iterator[Sign]:
    """Find how a template would leave its sandbox: by attributes that only Python's own machinery has."""
    match node:
        case nodes.Getattr(attr=str(name)) if name.startswith("_"):
            yield Sign("high", "attribute", f"reaches for the attribute {name}")
        case nodes.Getitem(arg=nodes.Const(value=str(name))) | nodes.Name(name=name) if name.startswith("__"):
            yield Sign("high", "attribute", f"reaches for the attribute {name}")
        case nodes.Filter(name="attr"):
            yield Sign("high", "attribute", "reaches for attributes by name (filter attr)")
        case nodes.Keyword(key="attribute", value=nodes.Const(value=str(name))) if name.startswith("_") or "._" in name:
            yield Sign("high", "attribute", f"reaches for the attribute {name}")


def _is_huge(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, int) and node.value > MAX_RANGE


def _configured(layout: Layout, file: TreeFile) -> Iterator[Template | Unread]:
    try:
        value = canonical.parse(_read(layout, file), file.path, limit=MAX_JSON, constants=True)
    except AirgapError as error:
        yield Unread(file.path, error.message)
        return
    stated = value.get(KEY) if isinstance(value, dict) else None
    if isinstance(stated, str):
        yield Template(file.path, DEFAULT, stated)
    elif isinstance(stated, list):
        yield from (_named(file.path, entry) for entry in stated)
    elif isinstance(stated, dict):
        yield from (_named(file.path, {"name": name, "template": text}) for name, text in stated.items())
    elif stated is not None:
        yield Unread(file.path, f"{KEY} is neither a text nor a list")


def _named(path: str, entry: Any) -> Template | Unread:
    if isinstance(entry, dict) and isinstance(entry.get("template"), str) and isinstance(entry.get("name"), str):
        return Template(path, entry["name"], entry["template"])
    return Unread(path, f"an entry of {KEY} has no name and template")


def _plain(layout: Layout, file: TreeFile) -> Iterator[Template | Unread]:
    name = file.path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    try:
        text = _read(layout, file).decode()
    except (AirgapError, UnicodeDecodeError) as error:
        yield Unread(file.path, "is no UTF-8" if isinstance(error, UnicodeDecodeError) else error.message)
        return
    yield Template(file.path, DEFAULT if name == KEY else name, text)


def _in_gguf(layout: Layout, file: TreeFile) -> Iterator[Template | Unread]:
    with os.fdopen(layout.open(file.digest, file.size), "rb") as opened:
        try:
            kept = _gguf.read(opened, file.size).kept
        except (_gguf.BadFileError, _gguf.UnknownFormError) as error:
            yield Unread(file.path, str(error))
            return
    for key, text in kept.items():
        if key.startswith(_gguf.TEMPLATE) and isinstance(text, str):
            yield Template(file.path, key[len(_gguf.TEMPLATE) :].lstrip(".") or DEFAULT, text)


def _read(layout: Layout, file: TreeFile) -> bytes:
    with os.fdopen(layout.open(file.digest, file.size), "rb") as opened:
        return opened.read(MAX_JSON + 1)
