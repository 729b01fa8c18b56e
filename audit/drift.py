"""Drift: compare everything that was installed with what stands there now. This is what ``airgap-audit check`` does.

Every file of the current generation, every blob of the store, the kept files of the bundle, receipts, journal, state and the
images in their targets. Rules: each inode is hashed once, on all cores; no link is followed; nothing is changed; all that is wrong
is listed, each as soon as it is found; what could not be compared is listed apart and is never "fine".
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from airgap_images.bundle import Component, closure, listed512, parse_index
from airgap_images.layout import read_regular
from airgap_images.oci import Digest
from airgap_images.sha512 import SHA512SUMS
from airgap_images.targets import Target
from audit import journal
from audit.install import generations, images, receipts
from audit.install.history import history, lacks
from audit.install.receipts import Receipt
from audit.install.status import interrupted
from audit.install.store import CURRENT, FOLDERS, OPEN, Store, is_folder, names, refusing
from audit.install.trees import READ_ONLY, Damage, Hashes, Kind, Standing, access, type_name
from audit.journal import Entry, Head
from audit.sealed import LEFTOVER
from audit.verify import state
from audit.verify.trust import Memory
from audit.verify.walk import MAX_INDEX, MAX_SUMS, Silent, Watch
from manifests.errors import AirgapError, IntegrityError, SiteError

HINT = "`airgap-audit install` the bundle again from its source, or `airgap-audit rollback`; find out who changed it"


@dataclass(frozen=True, slots=True)
class Drift:
    """How what is installed compares with what was installed.

    ``findings`` is all that is wrong; ``not_checked`` says in sentences what could not be compared; ``remarks`` is good to
    know and nothing wrong. ``files`` were looked at, ``bytes`` hashed. ``journal`` is its head, None if it is damaged.
    """

    store: Path
    generation: int | None
    receipt: Receipt | None
    findings: tuple[Damage, ...]
    not_checked: tuple[str, ...]
    remarks: tuple[str, ...]
    files: int
    bytes: int
    journal: Head | None

    @property
    def exit_code(self) -> Literal[0, 3, 5]:
        """Return 3 if anything is wrong, else 5 if something could not be compared, else 0."""
        if self.findings:
            return 3
        return 5 if self.not_checked else 0

    @property
    def outcome(self) -> Literal["as installed", "differs", "not fully compared"]:
        """Say in a word or two how it ended."""
        if self.findings:
            return "differs"
        return "not fully compared" if self.not_checked else "as installed"

    @property
    def notes(self) -> tuple[tuple[str, str, str], ...]:
        """Return every difference, and everything not compared, as (kind, subject, message)."""
        wrong = tuple((finding.kind, finding.place, finding.detail) for finding in self.findings)
        return (*wrong, *(("not compared", "", text) for text in self.not_checked))


class _Notebook:
    """Collects what is found and tells the watch of each difference at once."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.findings: list[Damage] = []
        self.not_checked: list[str] = []
        self.remarks: list[str] = []
        self.files = 0
        self.bytes = 0
        self.head: Head | None = None

    def add(self, found: Iterable[Damage]) -> None:
        for damage in found:
            self.findings.append(damage)
            self.watch.failed(IntegrityError(str(damage), hint=HINT))

    def wrong(self, kind: Kind, place: str, detail: str) -> None:
        self.add((Damage(kind, place, detail),))


def check(folder: Path, *, targets: Iterable[Target] = (), watch: Watch | None = None, state_folder: Path | None = None) -> Drift:
    """Compare what is installed in the store at ``folder`` with its receipts; raises SiteError if nothing is installed."""
    store = Store.existing(folder)
    note = _Notebook(watch or Silent())
    with refusing(store):
        number = _current(store, note)
        _folders(store, note)
        _journal(store, note)
        receipt = _receipt(store, number, note)
        _memory(state_folder or store.root, store, note)
        parts = _bundle(store, receipt, note) if receipt else ()
        _others(store, note)
        _content(store, receipt, parts, note)
        if receipt:
            _placements(store, receipt, parts, targets, note)
    found = tuple(sorted(note.findings, key=lambda damage: (damage.place, damage.kind)))
    unknown, remarks = tuple(note.not_checked), tuple(note.remarks)
    return Drift(store.root, number, receipt, found, unknown, remarks, note.files, note.bytes, note.head)


def _current(store: Store, note: _Notebook) -> int | None:
    try:
        number = store.current()
    except IntegrityError as error:
        note.wrong("current", CURRENT, error.message)
        return None
    if number is None and store.generations():
        note.wrong("current", CURRENT, "is gone, and there are generations")
    elif number is None:
        raise SiteError(f"{store.root}: nothing is installed", hint="`airgap-audit install` a bundle")
    return number


def _folders(store: Store, note: _Notebook) -> None:
    """Find parts of the store that others may write, or that are no longer what they were made as."""
    owner = os.lstat(store.root).st_uid
    for name in ("", *FOLDERS):
        path = store.root / name
        if is_folder(path):
            note.add(access(f"{name}/", os.lstat(path), owner, OPEN))
        elif os.path.lexists(path):
            note.wrong("wrong type", name, f"{type_name(os.lstat(path).st_mode)}, expected a folder")


def _journal(store: Store, note: _Notebook) -> None:
    """Check the chain, and every receipt against what the journal recorded of it."""
    try:
        note.head = journal.verify(store.root)
        known = receipts.recorded(store)
        open_entry = interrupted(store)
    except IntegrityError as error:
        note.wrong("journal", journal.FILE, error.message)
        note.not_checked.append("Receipts: the journal, which records their sha256, is damaged.")
        return
    if not os.path.lexists(store.root / journal.FILE):
        note.wrong("journal", journal.FILE, "is gone")
        return
    if open_entry:
        note.remarks.append(f"{open_entry.operation}: begun at {open_entry.time} and not ended: it was killed, or it is still running.")
    for number in sorted({*known, *store.receipts()}):
        note.add(_compare_receipt(store, number, known, open_entry))


def _compare_receipt(store: Store, number: int, known: dict[int, str], open_entry: Entry | None) -> Iterator[Damage]:
    name = f"receipts/{number}.json"
    try:
        digest = Digest.of(receipts.read_bytes(store, number))
    except IntegrityError as error:
        yield Damage("receipt", name, error.message)
        return
    if number not in known and not (open_entry and open_entry.detail("generation") == str(number)):
        yield Damage("receipt", name, "the journal does not know it")
    elif known.get(number, digest.hex) != digest.hex:
        yield Damage("receipt", name, f"content is sha256 {digest.hex}, the journal recorded {known[number]}")


def _receipt(store: Store, number: int | None, note: _Notebook) -> Receipt | None:
    if number is None:
        note.not_checked.append("The installed files: nothing says which generation is the current one.")
        return None
    try:
        return receipts.read(store, number)
    except IntegrityError:
        note.not_checked.append(f"The files of generation {number}: its receipt is missing or damaged.")
        return None


def _memory(folder: Path, store: Store, note: _Notebook) -> None:
    if not os.path.lexists(folder / state.FILE):
        note.not_checked.append(f"What the site remembers: no {state.FILE} in {folder}. Name its folder with --state, or it was lost.")
        return
    try:
        known = dict(state.streams(folder))
    except IntegrityError as error:
        note.wrong("state", state.FILE, error.message)
        return
    with contextlib.suppress(IntegrityError):  # of the journal: told already
        for stream, shown in history(store.root).items():
            lost = lacks(known.get(stream, Memory()), shown)
            if lost:
                note.wrong("state", state.FILE, f"{lost} of stream {stream}")
    for stream, memory in known.items():
        if memory.policy_sha256 and state.policy(folder, memory.policy_sha256) is None:
            place = f"{state.POLICIES}/{memory.policy_sha256}.json"
            note.wrong("state", place, f"the policy in force for stream {stream} is gone or changed")


def _bundle(store: Store, receipt: Receipt, note: _Notebook) -> tuple[Component, ...]:
    """Compare the kept files of the bundle with its latest receipt; return its components if they can be read."""
    folder = store.bundle(receipt.digest)
    prefix = f"bundles/{receipt.bundle}"
    wanted = _latest(store, receipt).files
    for name, sha256 in sorted(wanted.items()):
        try:
            got = Digest.of(read_regular(folder / name, name, MAX_SUMS))
        except IntegrityError as error:
            note.wrong("bundle", f"{prefix}/{name}", error.message.removeprefix(f"{name}: "))
            continue
        if got.hex != sha256:
            note.wrong("bundle", f"{prefix}/{name}", f"content is sha256 {got.hex}, expected {sha256}")
    there = {*names(folder), *(f"signatures/{name}" for name in names(folder / "signatures"))} - {"signatures"}
    note.add(Damage("extra", f"{prefix}/{name}", "was not kept there by an install") for name in sorted(there - set(wanted)))
    note.files += len(wanted)
    try:
        return generations.components_of(store, receipt.digest)
    except AirgapError:
        note.not_checked.append(f"The files of generation {receipt.generation}: the bundle's index.json is missing or damaged.")
        return ()


def _others(store: Store, note: _Notebook) -> None:
    """Find bundles without a receipt, such as feeds of vulnerability data, whose index is not what their name says."""
    for digest in store.bundles():
        try:
            generations.components_of(store, digest)
        except AirgapError as error:
            if not any(damage.place == f"bundles/{digest.hex}/index.json" for damage in note.findings):
                note.wrong("bundle", f"bundles/{digest.hex}/index.json", error.message)


def _latest(store: Store, receipt: Receipt) -> Receipt:
    """Return the newest receipt of the same bundle: a later install of it may have brought signatures or a newer policy."""
    for number in reversed(store.receipts()):
        try:
            found = receipts.read(store, number)
        except IntegrityError:
            continue
        if found.bundle == receipt.bundle:
            return found
    return receipt


def _content(store: Store, receipt: Receipt | None, parts: tuple[Component, ...], note: _Notebook) -> None:
    """Compare the current generation and every blob of the store, each inode hashed once."""
    standing = list(_blobs(store, receipt if parts else None, note))
    if receipt and parts:
        damage, files, unknown = generations.survey(store, receipt, parts)
        note.add(damage)
        note.not_checked += unknown
        standing += files
    note.files += len(standing)
    note.bytes += sum({file.inode: file.size for file in standing}.values())
    note.add(Hashes(note.watch, strong=_strong(store, receipt) if receipt and parts else {}).compare(standing))


def _strong(store: Store, receipt: Receipt) -> dict[Digest, str]:
    """Return the sha512 (hex) of every blob of the bundle, from its kept ``SHA512SUMS``; nothing where it has none or that is damaged."""
    folder = store.bundle(receipt.digest)
    if SHA512SUMS not in _latest(store, receipt).files:
        return {}
    try:
        index = read_regular(folder / "index.json", "index.json", MAX_INDEX)
        return listed512(read_regular(folder / SHA512SUMS, SHA512SUMS, MAX_SUMS), index, closure(store.layout, parse_index(index)))
    except AirgapError:
        return {}  # told already, of the file or of the manifest that is damaged


def _blobs(store: Store, receipt: Receipt | None, note: _Notebook) -> Iterator[Standing]:
    folder = "blobs/sha256"
    if not is_folder(store.root / folder):
        note.wrong("missing", folder, "is no folder")
        return
    found: set[str] = set()
    owner = os.lstat(store.root).st_uid
    for name, info in store.layout.blobs():
        place = f"{folder}/{name}"
        try:
            digest = Digest(name)
        except IntegrityError:
            if not LEFTOVER.fullmatch(name):  # the next writer cleans those of a killed one
                note.wrong("extra", place, f"{type_name(info.st_mode)} that is no blob")
            continue
        found.add(name)
        if not stat.S_ISREG(info.st_mode):
            note.wrong("wrong type", place, f"{type_name(info.st_mode)}, expected a regular file")
            continue
        note.add(access(place, info, owner, READ_ONLY))
        yield Standing(place, store.layout.path(digest), digest, info.st_size, (info.st_dev, info.st_ino))
    if receipt:
        _missing_blobs(store, receipt, found, note)


def _missing_blobs(store: Store, receipt: Receipt, found: set[str], note: _Notebook) -> None:
    raw = read_regular(store.bundle(receipt.digest) / "index.json", "index.json", MAX_INDEX)
    try:
        needed = closure(store.layout, parse_index(raw))
    except AirgapError as error:
        note.not_checked.append(f"Whether all blobs of the bundle are there: a manifest that lists them is damaged ({error.message}).")
        return
    for digest in sorted(needed):
        if digest.hex not in found:
            note.wrong("missing", f"blobs/sha256/{digest.hex}", "the bundle has it")


def _placements(store: Store, receipt: Receipt, parts: tuple[Component, ...], targets: Iterable[Target], note: _Notebook) -> None:
    note.remarks += [f"{image.name}: not placed, {image.reason}" for image in receipt.images if not image.placements]
    by_name = {target.name: target for target in targets}
    placed: dict[str, list[str]] = {}
    for item in receipt.items:
        for placement in item.placements:
            placed.setdefault(placement.target, []).append(item.name)
    for name, components in placed.items():
        what = f"What was put into {name} ({', '.join(components)})"
        target = by_name.get(name)
        if target is None or not parts:
            why = "it was not given" if target is None else "the bundle that lists it is damaged"
            note.not_checked.append(f"{what}: {why}.")
            continue
        try:
            note.add(images.missing(store, parts, receipt, target))
        except AirgapError as error:
            note.not_checked.append(f"{what}: {error.message}.")
