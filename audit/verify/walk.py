"""Prove a bundle: who signed it, and that every byte of it is what they signed. The only way to a ``VerifiedBundle``.

Rules: nothing in the bundle is parsed before its signatures are accepted; no link is followed; what costs nothing is
checked first; then every blob is read once, on all cores, largest first, and - when a store is given - taken into the
store from the very descriptor that is hashed; where the signers signed a ``SHA512SUMS``, both hashes come from that one
read. All failures are collected; each is reported the moment it is found. The steps are those of ``docs/trust.md``: one
begins when those before found nothing, and each refusal names the rule it is by.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar

from airgap_images import sha512
from airgap_images.bundle import closure, components, listed512, parse_index, strays, sums, tree_files
from airgap_images.layout import OCI_LAYOUT, Layout, disk, hash_descriptor, read_regular
from airgap_images.oci import Digest, Index
from airgap_images.sha512 import SHA512SUMS, Second
from audit.verify import model_signatures
from audit.verify.result import VerifiedBundle
from audit.verify.trust import Memory, check_policy, judge, refuse
from manifests.errors import AirgapError, IntegrityError, InvalidFileError, RefusedError, SiteError, by_rule
from manifests.paths import NAME, printable
from manifests.policy import Policy
from manifests.statement import MAX_SIGNATURE_FILE, MAX_SIGNATURE_FILES, MODEL_SUFFIX, SUFFIX

MAX_INDEX = 4 << 20  # bytes
MAX_SUMS = 1 << 30  # bytes; 4 million blobs of 141 bytes a line, of 205 with SHA-512, stay below
T = TypeVar("T")
ROOTS = (("index.json", MAX_INDEX), ("SHA256SUMS", MAX_SUMS), ("oci-layout", 1024))
STRONG = (SHA512SUMS, MAX_SUMS)  # a root file of bundles of profile cnsa

COPY_AGAIN = "the bundle is incomplete or damaged; copy it again from its source"
GIVEN = "The policy itself: it was taken as given. Compare its sha256 with the one this site was told by another way."
IN_FORCE = "The policy itself: it is the one in force at this site. How it came into force, the journal says; nothing here proves it again."
NOT_CHECKED = (
    "What other people signed upstream: the proof does not rest on it. It is judged apart, where the policy names someone for it.",
    "Container images were not opened by the proof: their bytes are proven. What is inside is listed by `airgap-audit evidence`.",
    "This program, its Python and this operating system: a verifier cannot prove itself. Replay the check with stock tools.",
)


class Watch(Protocol):
    """Who is told how the work goes; called from several threads."""

    def begin(self, total: int) -> None:
        """Take note that ``total`` more bytes are to be read."""

    def moved(self, count: int) -> None:
        """Take note that ``count`` more bytes are read."""

    def failed(self, error: AirgapError) -> None:
        """Take note of a failure, as soon as it is found."""


class Silent:
    """Tells nobody."""

    def begin(self, total: int) -> None:
        """Do nothing."""

    def moved(self, count: int) -> None:
        """Do nothing."""

    def failed(self, error: AirgapError) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bundle stands: ``files`` holds its root files and signatures, ``layout`` its blobs.

    ``whole`` says that the folder holds this bundle and nothing else; a store holds many, and its blobs are shared.
    """

    files: Path
    layout: Layout
    whole: bool = True

    @classmethod
    def of(cls, folder: Path) -> Place:
        """Return the place of a bundle folder."""
        if not folder.is_dir():
            raise InvalidFileError(f"{folder}: no such folder", hint="name the folder that holds index.json")
        return cls(folder, Layout(folder))


def verify(
    place: Place,
    policy_raw: bytes,
    *,
    memory: Memory,
    now: datetime,
    into: Layout | None = None,
    link: bool = False,
    both: bool = False,
    watch: Watch | None = None,
) -> VerifiedBundle:
    """Prove the bundle at ``place`` and return it; raises RefusedError with every failure.

    With ``both`` the result has the sha512 of every blob too, from the same read, whether the signers state it or not.

    With ``into`` the proven blobs are in that store afterwards (hard-linked if ``link`` and they are this user's own,
    else reflinked or copied) and the result's layout is the store.
    """
    watch = watch or Silent()
    failures = _Failures(watch)
    pinned = Digest.of(policy_raw).hex
    policy = Policy.parse(policy_raw)  # step 1
    failures.collect(lambda: check_policy(policy, pinned, memory, now))
    failures.stop_if_any()
    roots = failures.collect(lambda: _read_roots(place.files), "2.root-file")  # step 2
    signed = failures.collect(lambda: read_signatures(place.files), "3.signature-folder")
    of_models = failures.collect(lambda: model_signatures.read(place.files), "3.model-signature") or ()
    failures.stop_if_any()
    assert roots is not None  # noqa: S101 - collect returned it, else we stopped
    assert signed is not None  # noqa: S101
    subjects = {name: {"sha256": Digest.of(raw).hex, "sha512": sha512.of(raw)} for name, raw in roots.items() if name != "oci-layout"}
    judgement = failures.collect(lambda: judge(policy, subjects, signed, memory, now, policy_sha256=pinned))  # steps 3, 4 and 5
    failures.stop_if_any()
    assert judgement is not None  # noqa: S101

    index, blobs, strong = _structure(place, roots, policy, failures)  # step 6: from here on index.json and SHA256SUMS are authentic
    models = failures.collect(lambda: _check_models(place, index, of_models, policy, judgement.now), "6.model-statement")
    models = models or model_signatures.Checked()
    watch.begin(sum(blobs.values()))
    found: dict[Digest, str] = {}
    _read_all(_Reader(place.layout, into, link, watch, strong, found if both else None), blobs, failures)
    failures.stop_if_any()
    assert index is not None  # noqa: S101
    return VerifiedBundle(  # what steps 7 and 8 take, and the only way to get one
        layout=into or place.layout,
        index=index,
        digest=Digest.of(roots["index.json"]),
        components=components(index),
        blobs=tuple(sorted(blobs.items())),
        files=(*sorted(roots.items()), *signed, *of_models),
        statement=judgement.statement,
        signatures=judgement.signatures,
        ignored=(*judgement.ignored, *models.ignored),
        policy_version=policy.version,
        policy_sha256=pinned,
        policy_raw=policy_raw,
        verified_at=judgement.now,
        not_checked=(IN_FORCE if memory.policy_sha256 == pinned else GIVEN, *NOT_CHECKED),
        models=models.signatures,
        sha512=found,
    )


def _check_models(
    place: Place, index: Index | None, files: tuple[tuple[str, bytes], ...], policy: Policy, now: datetime
) -> model_signatures.Checked:
    checked = model_signatures.check(place.layout, components(index) if index else (), files, policy, now=now)
    refuse(checked.failures)
    return checked


def read_signatures(files: Path) -> tuple[tuple[str, bytes], ...]:
    """Read the signature files below ``files`` as (name, raw bytes), bounded in number and size, no links followed."""
    found = signature_files(files / "signatures", "signatures", beside=MODEL_SUFFIX)
    if not found:
        hint = "`airgap-bundle sign` on the connected side"
        raise IntegrityError("signatures: the bundle is not signed", hint=hint, rule="3.unsigned")
    return found


def signature_files(folder: Path, what: str, *, beside: str | None = None) -> tuple[tuple[str, bytes], ...]:
    """Read the signature files in ``folder``, none if there is no such folder; ``what`` is what they and errors call it.

    Files whose names end in ``beside`` are another sort of file, and are passed over.
    """
    try:
        info = os.lstat(folder)
        names = sorted(os.listdir(folder)) if stat.S_ISDIR(info.st_mode) else None
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise SiteError(f"{what}: cannot be read: {error.strerror}", hint="check permissions and the medium") from None
    if names is None:
        raise IntegrityError(f"{what}: not a folder", hint="distrust this copy")
    names = [name for name in names if beside is None or not name.endswith(beside)]
    if len(names) > MAX_SIGNATURE_FILES:
        raise IntegrityError(f"{what}: {len(names)} files, at most {MAX_SIGNATURE_FILES} allowed", hint="distrust this copy")
    for name in names:
        if not name.endswith(SUFFIX) or not NAME.fullmatch(name):
            raise IntegrityError(f"{what}/{printable(name)}: does not belong here", hint=f"only files named NAME{SUFFIX} do")
    return tuple((f"{what}/{name}", read_regular(folder / name, f"{what}/{name}", MAX_SIGNATURE_FILE)) for name in names)


class _Failures:
    """Collects failures from several threads and tells the watch of each at once."""

    def __init__(self, watch: Watch) -> None:
        self._found: list[AirgapError] = []
        self._lock = threading.Lock()
        self._watch = watch

    def add(self, error: AirgapError) -> None:
        with self._lock:
            for single in error.failures if isinstance(error, RefusedError) else (error,):
                if single.message not in {known.message for known in self._found}:
                    self._found.append(single)
                    self._watch.failed(single)

    def collect(self, step: Callable[[], T], rule: str | None = None) -> T | None:
        try:
            with by_rule(rule) if rule else contextlib.nullcontext():
                return step()
        except AirgapError as error:
            self.add(error)
            return None

    def stop_if_any(self) -> None:
        # A full disk or a broken reader says nothing about the bundle: that is no refusal.
        if self._found and all(isinstance(error, SiteError) for error in self._found):
            raise self._found[0]
        refuse(self._found)


def _read_roots(files: Path) -> dict[str, bytes]:
    there = (*ROOTS, STRONG) if os.path.lexists(files / SHA512SUMS) else ROOTS
    roots = {name: read_regular(files / name, name, limit) for name, limit in there}
    if roots["oci-layout"] != OCI_LAYOUT:
        hint = "the file is damaged or was changed; copy it again"
        raise IntegrityError("oci-layout: not the content every bundle has", hint=hint, rule="2.oci-layout")
    return roots


def _structure(
    place: Place, roots: dict[str, bytes], policy: Policy, failures: _Failures
) -> tuple[Index | None, dict[Digest, int], dict[Digest, str]]:
    """Check everything that costs no reading of blobs; return the index, the blobs to read with their sizes, and their sha512 if signed."""
    listed = failures.collect(lambda: listed_blobs(roots["SHA256SUMS"]), "6.sums") or ()
    index = failures.collect(lambda: _index(roots["index.json"]), "6.index")
    reached = failures.collect(lambda: closure(place.layout, index), "6.structure") if index else None
    if reached is not None and sums(roots["index.json"], reached) != roots["SHA256SUMS"]:
        hint = "the signers signed a broken bundle"
        failures.add(IntegrityError("SHA256SUMS: does not list exactly this bundle", hint=hint, rule="6.sums"))
    if reached is not None and index:
        _check_trees(place, index, failures)
    blobs = dict(reached or {})
    for digest in {*listed, *blobs}:
        found = _size(place.layout.path(digest))
        what = f"blobs/sha256/{digest.hex}"
        if isinstance(found, str):
            failures.add(IntegrityError(f"{what}: {found}", hint=COPY_AGAIN, rule="6.blob"))
            blobs.pop(digest, None)
        elif blobs.setdefault(digest, found) != found:  # not in the closure if that stopped at a damaged manifest
            failures.add(IntegrityError(f"{what}: {found} bytes, expected {blobs.pop(digest)}", hint=COPY_AGAIN, rule="6.blob"))
    for digest in sorted(set(blobs) & {Digest(text) for text in policy.revoked.blobs}):
        message = f"blobs/sha256/{digest.hex}: revoked by the policy"
        failures.add(IntegrityError(message, hint="get a bundle without it", rule="6.revoked"))
    for name in _strays(place, {*listed, *blobs}) if place.whole else ():
        message = f"{printable(name)}: does not belong to the bundle"
        failures.add(IntegrityError(message, hint="nothing unsigned may travel with it", rule="6.stray"))
    return index, blobs, failures.collect(lambda: _strong(roots, reached)) or {}


def _strong(roots: dict[str, bytes], reached: Collection[Digest] | None) -> dict[Digest, str]:
    """Return the sha512 (hex) that the signers state for each blob; nothing where they state none, or where the blobs are not known."""
    known = reached is not None and SHA512SUMS in roots
    return listed512(roots[SHA512SUMS], roots["index.json"], reached or ()) if known else {}


def _index(raw: bytes) -> Index:
    index = parse_index(raw)
    components(index)
    return index


def _check_trees(place: Place, index: Index, failures: _Failures) -> None:
    for component in components(index):
        if component.form == "tree":
            failures.collect(lambda root=component.root: sum(1 for _ in tree_files(place.layout, root)), "6.tree")  # type: ignore[misc]


def _strays(place: Place, known: Iterable[Digest]) -> list[str]:
    folders = ("blobs", "blobs/sha256")
    links = [name for name in folders if (place.files / name).is_symlink()]
    return [*links, *strays(place.files, dict.fromkeys(known, 0))]


def listed_blobs(raw: bytes) -> tuple[Digest, ...]:
    """Return the blobs SHA256SUMS lists; raises IntegrityError on a line in another form."""
    found: list[Digest] = []
    for line in raw.decode("ascii", "replace").splitlines():
        value, _, name = line.partition("  ")
        if name in {"index.json", "oci-layout"}:
            continue
        if name != f"blobs/sha256/{value}":
            raise IntegrityError(f"SHA256SUMS: line {printable(line)!r} is not in its form", hint="the signers signed a broken bundle")
        found.append(Digest(value))
    return tuple(found)


def _size(path: Path) -> int | str:
    try:
        info = os.lstat(path)
    except OSError:
        return "missing"
    if stat.S_ISLNK(info.st_mode):
        return "a symbolic link, not a regular file"
    return info.st_size if stat.S_ISREG(info.st_mode) else "not a regular file"


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads blobs of ``source`` once each: to their hashes, or while taking them ``into`` a store.

    ``strong`` has the sha512 that each must have; with ``found`` every sha512 is computed and put there.
    """

    source: Layout
    into: Layout | None
    link: bool
    watch: Watch
    strong: Mapping[Digest, str]
    found: dict[Digest, str] | None = None

    def read(self, digest: Digest, size: int) -> None:
        second = Second(self.strong.get(digest)) if self.found is not None or digest in self.strong else None
        second = self._read(digest, size, second)
        if second is not None and self.found is not None:
            self.found[digest] = second.hex

    def _read(self, digest: Digest, size: int, second: Second | None) -> Second | None:
        """Return the second hash of the copy that counts."""
        if self.into is None or self.into.root == self.source.root:
            self.source.check(digest, size, self.watch.moved, second)
            return second
        if self.into.has(digest, size):
            kept = Second(second.expected) if second else None  # a copy that does not stand is read again, from the bundle
            if self._stands(self.into, digest, size, kept):
                return kept  # what gets installed comes from the store, and the store's copy is proven
        fd = self.source.open(digest, size)
        try:
            link = self.link and ours_alone(fd)
            self.into.take(fd, digest, size, link=link, progress=self.watch.moved, second=second)
        finally:
            os.close(fd)
        return second

    def _stands(self, store: Layout, digest: Digest, size: int, second: Second | None) -> bool:
        fd = store.open(digest, size)
        try:
            with disk(f"blobs/sha256/{digest.hex}"):
                if hash_descriptor(fd, self.watch.moved, second) == digest and (second is None or second.matches):
                    return True
        finally:
            os.close(fd)
        self.watch.moved(-size)
        return False


def _read_all(reader: _Reader, blobs: dict[Digest, int], failures: _Failures) -> None:
    def one(entry: tuple[Digest, int]) -> None:
        failures.collect(lambda: reader.read(*entry), "6.blob")

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for future in [pool.submit(one, entry) for entry in sorted(blobs.items(), key=lambda entry: -entry[1])]:
            future.result()


def ours_alone(fd: int) -> bool:
    """Say whether no other user could write to an open file through the name it has."""
    info = os.fstat(fd)
    return info.st_uid == os.geteuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
