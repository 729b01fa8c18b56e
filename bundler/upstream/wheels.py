"""The component ``NAME.upstream`` of wheels: what their index published beside them (PEP 740), as pins and a listing.

Rules: only the index a file is from is asked, and only for what its own listing names; nothing that is not had stops a lock, it is
noted with the reason. Absence is asked for anew each time; a provenance that the old lock pins is taken from it while the file it
is beside is the same, at the same address, and the cache still holds it. The same upstream state gives the same bytes.

Provenance files are pins, fetched and hashed like every byte, so the lock stays small; they are read once while locking and kept in
the cache, so that the build need not ask again. Where an index serves other bytes later, a machine without that cache says so and
stops, as for any other file that is no longer what was locked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from airgap_images.layout import Layout
from airgap_images.oci import Digest
from airgap_images.remote.http import Address, Client, HttpError, TransferError
from airgap_images.remote.referrers import said
from airgap_images.wheel_evidence import (
    LISTING,
    MAX_PROVENANCE,
    MAX_TOTAL,
    MAX_WHEELS,
    MAX_WHY,
    Attested,
    WheelEvidence,
    provenance_path,
)
from audit.verify.published import attestations, project
from bundler import simple
from bundler.sources import Context
from bundler.upstream.component import checked_name
from manifests.errors import AirgapError, InvalidFileError
from manifests.lock import Inline, LockedComponent, Pin
from manifests.paths import printable

AT_ONCE = 8  # questions to the index at once
MAX_FAILURES = 3  # questions of one sort that got no answer at all, each asked several times, before no more are asked
MAX_WARNINGS = 5  # reasons that are warned of; all are in the listing
ATTESTATIONS, NOT_COLLECTED = "upstream-attestations", "upstream-not-collected"
NO_SERVER = "it is from a folder, which publishes nothing beside its files"
NOT_NAMED = "the index names no provenance of it"
ABSENT = frozenset({NO_SERVER, NOT_NAMED})  # answers; every other reason is that there was none
ACCEPT = "Accept: application/vnd.pypi.integrity.v1+json, application/json;q=0.9"

Key = TypeVar("Key", str, tuple[str, str])
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Missed:
    """Why there is no answer; ``dead`` if the server gave none at all."""

    why: str
    dead: bool = False


def collect(wheels: LockedComponent, context: Context) -> LockedComponent:
    """Return what was published beside the files of a resolved component; it is made also when there is nothing.

    Raises InvalidFileError if the component's name leaves no room for another behind it.
    """
    name = checked_name(wheels.name)
    kept = _kept(wheels, name, context)
    files = tuple(pin for pin in wheels.files if project(_filename(pin)))[:MAX_WHEELS]
    found = _asked(tuple(pin for pin in files if pin.path not in kept), context.client, context.cache)
    answers = {pin.path: kept.get(pin.path) or found[pin.path] for pin in files}
    evidence, pins = _sorted_out(wheels.name, files, answers)
    _warn(wheels.name, evidence, context)
    return LockedComponent(
        name=name,
        kind=wheels.kind,
        form="tree",
        identity={"of": wheels.name},
        facts=_facts(evidence, len(files)),
        files=pins,
        inline=(Inline(path=LISTING, text=evidence.to_text()),),
    )


def _kept(wheels: LockedComponent, name: str, context: Context) -> dict[str, Pin]:
    """Return the provenance the old lock pins, by the path of the file it is beside; an old lock that cannot be read has none."""
    before = next((known for known in context.beside if known.name == name), None)
    if before is None or context.previous is None:
        return {}
    try:
        evidence = WheelEvidence.parse(next((text.text for text in before.inline if text.path == LISTING), "").encode(), LISTING)
    except AirgapError:
        return {}
    pins = {pin.path: pin for pin in before.files}
    stood = {(pin.path, pin.url, pin.sha256) for pin in context.previous.files}
    same = {pin.path for pin in wheels.files if (pin.path, pin.url, pin.sha256) in stood}
    here = ((one.path, pins.get(one.provenance)) for one in evidence.attested if one.path in same)
    return {path: pin for path, pin in here if pin and context.cache.has(Digest(pin.sha256), pin.size)}


def _asked(files: tuple[Pin, ...], client: Client, cache: Layout) -> dict[str, Pin | str]:
    """Return the provenance of each file, or why there is none: listings first, then what they name."""
    names: dict[tuple[str, str], set[str]] = {}
    for pin in files:
        if _index(pin).startswith(("http://", "https://")):
            names.setdefault((_index(pin), project(_filename(pin))), set()).add(_filename(pin))
    listed = _each(partial(_listed, client, names), names)
    named = {pin.path: _address(pin, listed.get((_index(pin), project(_filename(pin))))) for pin in files}
    fetched = _each(partial(_fetched, client, cache), (url for url, _ in named.values() if url))
    found: dict[str, Pin | str] = {}
    for path, (url, why) in named.items():
        answer = fetched[url] if url else _Missed(why)
        found[path] = printable(answer.why, MAX_WHY) if isinstance(answer, _Missed) else answer
    return found


def _each(ask: Callable[[Key], Value], keys: Iterable[Key]) -> dict[Key, Value | _Missed]:
    """Ask for each, several at once and in one order; after some failures no more, so that a dead server costs little."""
    found: dict[Key, Value | _Missed] = {}
    left = sorted(set(keys))
    failures = 0
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        while left and failures < MAX_FAILURES:
            size = 4 * AT_ONCE if found and not failures else AT_ONCE
            part, left = left[:size], left[size:]
            answers = tuple(pool.map(partial(_answered, ask), part))
            failures += sum(isinstance(answer, _Missed) and answer.dead for answer in answers)
            found |= dict(zip(part, answers, strict=True))
    return found | {key: _Missed(f"not asked for, after {MAX_FAILURES} failures") for key in left}


def _answered(ask: Callable[[Key], Value], key: Key) -> Value | _Missed:
    try:
        return ask(key)
    except AirgapError as error:
        dead = isinstance(error, TransferError) or (isinstance(error, HttpError) and error.retryable)
        return _Missed(said(error), dead)


def _listed(client: Client, names: Mapping[tuple[str, str], set[str]], key: tuple[str, str]) -> dict[str, simple.Beside]:
    listing = simple.beside(client, *key)
    return {name: listing[name] for name in names[key] if name in listing}


def _address(pin: Pin, listed: dict[str, simple.Beside] | _Missed | None) -> tuple[str, str]:
    """Return where a file's provenance is, or else why that is not known."""
    if listed is None:
        return "", NO_SERVER
    if isinstance(listed, _Missed):
        return "", f"the index's list of files: {listed.why}"
    stated = listed.get(_filename(pin))
    if stated is None or stated.sha256 not in {None, pin.sha256}:
        return "", "the index lists other bytes under its name" if stated else "the index does not list it"
    return _checked(stated.provenance) if stated.provenance else ("", NOT_NAMED)


def _checked(url: str) -> tuple[str, str]:
    try:
        address = Address.parse(url)
    except InvalidFileError:
        return "", "what the index names as its provenance is no http address"
    return (address.url, "") if address.user is None else ("", "the address of its provenance holds a user name")


def _fetched(client: Client, cache: Layout, url: str) -> Pin:
    raw = client.get(url, limit=MAX_PROVENANCE, headers=(ACCEPT,)).body
    attestations(raw, "what is served as its provenance")
    cache.put(raw)
    sha256 = hashlib.sha256(raw).hexdigest()
    return Pin(path=provenance_path(sha256), url=url, size=len(raw), sha256=sha256)


def _sorted_out(of: str, files: Iterable[Pin], answers: Mapping[str, Pin | str]) -> tuple[WheelEvidence, tuple[Pin, ...]]:
    """Return the listing and what it lists, each provenance once and all of them within the limit."""
    attested: list[Attested] = []
    absent: dict[str, list[str]] = {}
    pins: dict[str, Pin] = {}
    total = 0
    for pin in files:
        answer = answers[pin.path]
        if isinstance(answer, Pin) and total + answer.size > MAX_TOTAL:
            answer = f"not taken, after {MAX_TOTAL} bytes"
        if isinstance(answer, Pin):
            total += answer.size
            answer = pins.setdefault(answer.path, answer)
            attested.append(Attested(pin.path, pin.sha256, answer.path))
        else:
            absent.setdefault(answer, []).append(pin.path)
    listed = tuple((why, tuple(absent[why])) for why in sorted(absent))
    return WheelEvidence(of, tuple(attested), listed), tuple(pins[path] for path in sorted(pins))


def _facts(evidence: WheelEvidence, files: int) -> dict[str, str]:
    facts = {ATTESTATIONS: f"of {len(evidence.attested)} of {files} files" if evidence.attested else "none found"}
    missed = sum(len(paths) for why, paths in evidence.absent if why not in ABSENT)
    return facts | ({NOT_COLLECTED: str(missed)} if missed else {})


def _warn(name: str, evidence: WheelEvidence, context: Context) -> None:
    missed = [(why, paths) for why, paths in evidence.absent if why not in ABSENT]
    for why, paths in missed[:MAX_WARNINGS]:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        context.warn(f"{name}: attestations not collected: {paths[0].rsplit('/', 1)[-1]}{more}: {why}")
    if len(missed) > MAX_WARNINGS:
        left = len(missed) - MAX_WARNINGS
        context.warn(f"{name}: {left} more reasons why attestations were not collected stand in {name}.upstream/{LISTING}")


def _index(pin: Pin) -> str:
    return pin.evidence.get("index", "")


def _filename(pin: Pin) -> str:
    return pin.path.rsplit("/", 1)[-1]
