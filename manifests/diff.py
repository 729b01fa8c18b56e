"""What moved between two locks, in words a reviewer reads: components, identities, files and sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from manifests.lock import Lock, LockedComponent
from manifests.paths import printable

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
        values = " -> ".join(printable(text) for text in (self.old, self.new) if text)
        return f"{sign} {self.component}: {printable(self.what)}{f' {values}' if values else ''}"


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
            new_one = after[name]
            yield Difference(name, "added", f"component of kind {new_one.kind}, {len(new_one.files)} files, {new_one.size} bytes")
        elif name not in after:
            yield Difference(name, "removed", f"component of kind {before[name].kind}")
        else:
            yield from _component(before[name], after[name])


def _component(old: LockedComponent, new: LockedComponent) -> Iterator[Difference]:
    for field in ("kind", "form", "role", "model", "root"):
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            yield Difference(new.name, "changed", field, _text(before), _text(after))
    for group in ("identity", "facts"):
        yield from _texts(new.name, group, getattr(old, group), getattr(new, group))
    yield from _texts(new.name, "file", _files(old), _files(new))
    yield from _origins(old, new)


def _texts(name: str, group: str, old: dict[str, str], new: dict[str, str]) -> Iterator[Difference]:
    for key in sorted({*old, *new}):
        if old.get(key) == new.get(key):
            continue
        before, after = old.get(key, ""), new.get(key, "")
        change: Change = "changed" if key in old and key in new else "added" if key in new else "removed"
        yield Difference(name, change, f"{group} {key}", before, after)


def _files(component: LockedComponent) -> dict[str, str]:
    files = {pin.path: f"{pin.size} bytes sha256:{pin.sha256}" for pin in component.files}
    for text in component.inline:
        data = text.text.encode()
        files[text.path] = f"{len(data)} bytes sha256:{hashlib.sha256(data).hexdigest()}, written while locking"
    return files


def _origins(old: LockedComponent, new: LockedComponent) -> Iterator[Difference]:
    """Yield what is said about files whose bytes stayed."""
    before, after = {pin.path: pin for pin in old.files}, {pin.path: pin for pin in new.files}
    for path in sorted(before.keys() & after.keys()):
        for field in ("url", "media_type", "evidence"):
            was, now = getattr(before[path], field), getattr(after[path], field)
            if was != now and before[path].sha256 == after[path].sha256:
                yield Difference(new.name, "changed", f"{field} of {path}", _text(was), _text(now))


def _text(value: object) -> str:
    return "nothing" if value is None else str(value)
