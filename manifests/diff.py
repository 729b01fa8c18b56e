"""What moved between two locks, in words a reviewer reads: components, identities, files and sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from manifests.lock import Lock, LockedComponent

Change = Literal["added", "removed", "changed"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that moved; ``old`` and ``new`` are texts, empty where there is nothing."""

    component: str
    change: Change
    what: str
    old: str = ""
    new: str = ""

    def __str__(self) -> str:
        sign = {"added": "+", "removed": "-", "changed": "~"}[self.change]
        values = " -> ".join(text for text in (self.old, self.new) if text)
        return f"{sign} {self.component}: {self.what}{f' {values}' if values else ''}"


def diff(old: Lock, new: Lock) -> tuple[Difference, ...]:
    """Return every difference, the lock's own first, then by component and path."""
    return (*_head(old, new), *_components(old, new))


def _head(old: Lock, new: Lock) -> Iterator[Difference]:
    before, after = old.model_dump(mode="json", exclude={"components", "intentSha256"}), new.model_dump(mode="json")
    for key in sorted(before):
        if before[key] != after[key]:
            yield Difference(new.name, "changed", key, _text(before[key]), _text(after[key]))


def _components(old: Lock, new: Lock) -> Iterator[Difference]:
    before = {component.name: component for component in old.components}
    after = {component.name: component for component in new.components}
    for name in sorted({*before, *after}):
        if name not in before:
            yield Difference(name, "added", f"component of kind {after[name].kind}, {len(after[name].files)} files, {after[name].size} bytes")
        elif name not in after:
            yield Difference(name, "removed", f"component of kind {before[name].kind}")
        else:
            yield from _component(before[name], after[name])


def _component(old: LockedComponent, new: LockedComponent) -> Iterator[Difference]:
    for field in ("kind", "form", "role", "root"):
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            yield Difference(new.name, "changed", field, _text(before), _text(after))
    for group in ("identity", "facts"):
        yield from _texts(new.name, group, getattr(old, group), getattr(new, group))
    yield from _texts(new.name, "file", _files(old), _files(new))


def _texts(name: str, group: str, old: dict[str, str], new: dict[str, str]) -> Iterator[Difference]:
    for key in sorted({*old, *new}):
        before, after = old.get(key, ""), new.get(key, "")
        if before == after:
            continue
        change: Change = "changed" if key in old and key in new else "added" if key in new else "removed"
        yield Difference(name, change, f"{group} {key}", before, after)


def _files(component: LockedComponent) -> dict[str, str]:
    files = {pin.path: f"{pin.size} bytes sha256:{pin.sha256}" for pin in component.files}
    return files | {text.path: f"{len(text.text.encode())} bytes written while locking" for text in component.inline}


def _text(value: object) -> str:
    return "nothing" if value is None else str(value)
