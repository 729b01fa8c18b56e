"""Read YAML that people write: bounded, no aliases, no tags, no duplicate keys, and every value knows its line.

Errors name file, line, field, what was expected and what was got.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from manifests.errors import InvalidFileError
from manifests.lock import OWN_WORDS, read_bounded
from manifests.paths import printable

MAX_YAML = 1 << 20  # bytes
MAX_NODES = 100_000
MAX_DEPTH = 32

PLAIN = frozenset({"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})
PLAINLY = "write plain text, numbers, lists and maps"

M = TypeVar("M", bound=BaseModel)
Location = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """Safe loader that keeps dates as text and refuses aliases (a billion laughs needs them)."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own form
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="YAML aliases are not accepted; write the value out", problem_mark=mark)
        return super().compose_node(parent, index)


class Document:
    """A parsed YAML document and the line of each of its values."""

    def __init__(self, raw: bytes, name: str) -> None:
        self.name = name
        self.lines: dict[Location, int] = {}
        self._nodes = 0
        self._reader = _Loader("")
        self.value = self._value(self._compose(raw), ())

    def error(self, location: Location, message: str, hint: str) -> InvalidFileError:
        """Return an error at ``location``, or at its nearest known parent."""
        known = location
        while known and known not in self.lines:
            known = known[:-1]
        return InvalidFileError(f"{self.name}:{self.lines.get(known, 1)}: {message}", hint=hint)

    def validate(self, model: type[M], value: Any = None, base: Location = ()) -> M:
        """Validate the document (or ``value``, found at ``base``) as ``model``."""
        try:
            return model.model_validate(self.value if value is None else value)
        except ValidationError as error:
            raise self._explain(model, error, base) from None

    def _explain(self, model: type[BaseModel], error: ValidationError, base: Location) -> InvalidFileError:
        problems = error.errors(include_url=False)
        first = problems[0]
        location = (*base, *first["loc"])
        field = ".".join(str(part) for part in location) or "document"
        got = f", got {_got(first['input'])}"
        if first["type"] == "missing":
            got = ", got nothing"
        elif first["type"] == "value_error" and isinstance(first["input"], dict):  # our own words about several fields
            got = ""
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        names = ", ".join(field.alias or name for name, field in model.model_fields.items())
        hint = f"fields here: {names}" if first["type"] == "extra_forbidden" else "correct the field"
        return self.error(location, f"field {field}: {_expected(first['msg'].removeprefix(OWN_WORDS))}{got}{more}", hint)

    def _compose(self, raw: bytes) -> yaml.Node:
        try:
            node = _Loader(raw.decode("utf-8")).get_single_node()
        except UnicodeDecodeError:
            raise InvalidFileError(f"{self.name}: not UTF-8 text", hint="save the file as UTF-8") from None
        except RecursionError:
            raise InvalidFileError(f"{self.name}: nested too deeply", hint="flatten it") from None
        except yaml.YAMLError as error:
            raise InvalidFileError(f"{self.name}{_place(error)}", hint="correct the YAML, then run again") from None
        if node is None:
            raise InvalidFileError(f"{self.name}: empty", hint="`airgap-bundle init` writes a first one")
        return node

    def _value(self, node: yaml.Node, location: Location) -> Any:
        self._nodes += 1
        self.lines.setdefault(location, node.start_mark.line + 1)
        if self._nodes > MAX_NODES or len(location) > MAX_DEPTH:
            raise self.error(location, "too large or nested too deeply", "this is not a file for this command")
        if not isinstance(node, yaml.ScalarNode) and node.tag not in PLAIN:
            raise self.error(location, f"tag {printable(node.tag)!r} is not accepted", PLAINLY)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(child, (*location, at)) for at, child in enumerate(node.value)]
        return self._scalar(node, location)

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, child in node.value:
            key = key_node.value
            self.lines.setdefault((*location, str(key)), key_node.start_mark.line + 1)
            if not isinstance(key, str) or key_node.tag != "tag:yaml.org,2002:str":
                raise self.error((*location, str(key)), f"key {printable(str(key))!r} is not text", "quote it")
            if key in result:
                line = key_node.start_mark.line + 1
                raise InvalidFileError(f"{self.name}:{line}: key {printable(key)!r} stands twice", hint="remove one")
            result[key] = self._value(child, (*location, key))
        return result

    def _scalar(self, node: yaml.Node, location: Location) -> Any:
        if node.tag.rsplit(":", 1)[-1] not in {"str", "int", "float", "bool", "null"}:
            raise self.error(location, f"tag {printable(node.tag)!r} is not accepted", PLAINLY)
        try:
            value = self._reader.construct_object(node)
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # what cannot be written down again is refused
        except (ValueError, yaml.YAMLError):
            raise self.error(location, f"cannot read {printable(str(node.value))!r}", "quote it") from None
        return value


def load(path: Path) -> Document:
    """Read and parse the YAML file at ``path``; raises InvalidFileError."""
    return Document(read_bounded(path, MAX_YAML), str(path))


def _got(value: Any) -> str:
    return printable(re.sub(r"\s+", " ", repr(value)), 80)


def _expected(message: str) -> str:
    return message[:1].lower() + message[1:]


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = printable(str(getattr(error, "problem", None) or "not valid YAML"))
    return f":{mark.line + 1}: {problem}" if mark else f": {problem}"
