"""Compare the lock that travels in a bundle with the index of that bundle: both are signed, and they must say the same.

The lock is what people reviewed, the index is what was installed; a component that differs was put there by neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from airgap_images.bundle import unwrap
from audit.evidence.item import Content
from audit.verify.result import VerifiedBundle
from manifests.lock import Inline, Lock, LockedComponent
from manifests.paths import printable

OWN = ("airgap-checks", "airgap-lock", "airgap-provenance")  # the bundler adds these itself; an intent cannot use such a name
MAX_NAMED = 3  # differing files named in one message


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Where the signed lock and the signed index say different things."""

    component: str
    message: str


def compare(bundle: VerifiedBundle, lock: Lock, contents: Iterable[Content]) -> tuple[Disagreement, ...]:
    """Return every disagreement, in the order of component names; those of the bundle as a whole come first."""
    found = list(_names(bundle, lock))
    known = {content.component.name: content for content in contents if content.component.name not in OWN}
    locked = {component.name: component for component in lock.components}
    for name in sorted(known | locked):
        if name not in known:
            found.append(Disagreement(name, "stands in the lock and is not in the bundle"))
        elif name not in locked:
            found.append(Disagreement(name, "is in the bundle and does not stand in the lock"))
        else:
            found += [Disagreement(name, text) for text in _differences(bundle, locked[name], known[name])]
    return tuple(found)


def _names(bundle: VerifiedBundle, lock: Lock) -> Iterator[Disagreement]:
    said = dict(bundle.index.annotations)
    for what, ours, theirs in (
        ("index names the bundle", said.get("airgap.bundle"), lock.name),
        ("index names the stream", said.get("airgap.stream"), lock.stream),
        ("index names the platform", said.get("airgap.target.platform"), lock.target.platform),
        ("signers name the stream", bundle.statement.stream, lock.stream),
    ):
        if ours != theirs:
            yield Disagreement("", f"{what} {printable(str(ours))!r}, the lock {theirs!r}")


def _differences(bundle: VerifiedBundle, locked: LockedComponent, content: Content) -> Iterator[str]:
    component = content.component
    for what, here, there in (
        ("kind", component.kind, locked.kind),
        ("form", component.form, locked.form),
        ("role", component.role, locked.role),
    ):
        if here != there:
            yield f"{what} is {printable(str(here))!r} in the index, {printable(str(there))!r} in the lock"
    facts = {**locked.facts, **locked.identity}
    for key in sorted(facts.keys() ^ content.facts.keys() | {key for key in facts if facts[key] != content.facts.get(key)}):
        yield f"{printable(key)!r} is {_text(content.facts.get(key))} in the index, {_text(facts.get(key))} in the lock"
    if content.problem:
        yield f"cannot be compared: {content.problem}"
    elif locked.form == component.form:
        yield from _image(bundle, locked, content) if component.form == "image" else _tree(locked, content)


def _image(bundle: VerifiedBundle, locked: LockedComponent, content: Content) -> Iterator[str]:
    root = content.component.root
    image = unwrap(bundle.layout, root)
    if locked.root != image.digest.hex:
        yield f"starts from manifest {image.digest.hex} in the index, {locked.root} in the lock"
    carried = {(digest.hex, size) for digest, size in bundle.blobs}
    pinned = {(pin.sha256, pin.size) for pin in locked.files} | {_inline(text) for text in locked.inline}
    ours = {root.digest.hex} - {image.digest.hex}  # the index this tool wraps around Docker's own types
    yield from _listed("not pinned by the lock", {digest for digest, _ in set(content.blobs) - pinned} - ours)
    yield from _listed("pinned by the lock and not carried", {digest for digest, _ in pinned - carried})


def _tree(locked: LockedComponent, content: Content) -> Iterator[str]:
    here = {file.path: (file.digest.hex, file.size) for file in content.files}
    there = {pin.path: (pin.sha256, pin.size) for pin in locked.files}
    for text in locked.inline:
        there[text.path] = _inline(text)
    yield from _listed("in the bundle and not in the lock", here.keys() - there.keys())
    yield from _listed("in the lock and not in the bundle", there.keys() - here.keys())
    changed = {path for path in here.keys() & there.keys() if here[path] != there[path]}
    yield from _listed("of another digest or size than in the lock", changed)


def _inline(text: Inline) -> tuple[str, int]:
    data = text.text.encode()
    return hashlib.sha256(data).hexdigest(), len(data)


def _listed(what: str, names: Iterable[str]) -> Iterator[str]:
    found = sorted(names)
    if found:
        more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
        yield f"{', '.join(map(printable, found[:MAX_NAMED]))}{more}: {what}"


def _text(value: str | None) -> str:
    return "absent" if value is None else repr(printable(value))
