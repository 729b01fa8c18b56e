"""What a site remembers of each stream, so that nothing older than what it accepted is accepted again.

``state.json`` holds per stream the highest serial and its index sha256, the last time seen, and the version and sha256 of the policy
in force, whose file stands beside it under ``policies/<sha256>.json`` so that its successor can be checked. The state is replaced as a
whole and knows its own sha256. Rules: no value ever goes back but by ``forget``, which is asked for with a reason; a missing file is a
site that remembers nothing (``Memory.fresh``), which the caller must say; a damaged one is refused, never taken for a missing one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from airgap_images.layout import exclusive, read_regular, write_atomic
from airgap_images.oci import Digest
from audit import sealed
from audit.verify.result import VerifiedBundle
from audit.verify.trust import Memory
from manifests import canonical
from manifests.errors import IntegrityError, SiteError, TrustError, by_rule
from manifests.identities import Time
from manifests.lock import Name, Sha256
from manifests.policy import MAX_POLICY, Policy

FILE = "state.json"
LOCK = ".state.lock"
POLICIES = "policies"
OPEN = 0o755
MAX_STATE = 1 << 20  # bytes; a stream takes about 350
MAX_STREAMS = 4096
DAMAGED = (
    "it protects against older bundles and policies: restore it from a backup, or rebuild it by `airgap-audit state recover`; "
    "simply removing it would let the next bundle of every stream be accepted whatever its serial"
)


class Stream(sealed.Written):
    """What is remembered of one stream; no serial where a policy was accepted before any bundle."""

    serial: int | None = Field(default=None, ge=0)
    root: Sha256 | None = None
    last_seen: Time
    policy_version: int = Field(ge=1)
    policy_sha256: Sha256 | None = None  # absent in files of version 1

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.serial is None) != (self.root is None):
            raise ValueError("serial and root stand together")
        return self

    @property
    def memory(self) -> Memory:
        """Return this in the form ``verify`` takes."""
        return Memory(self.serial, self.root, canonical.moment(self.last_seen), self.policy_version, self.policy_sha256)


class State(sealed.Written):
    """The whole file."""

    state_version: Literal[1, 2] = 2
    streams: dict[Name, Stream] = Field(default_factory=dict, max_length=MAX_STREAMS)


def load(folder: Path, stream: str) -> Memory:
    """Return what the state in ``folder`` remembers of ``stream``; raises IntegrityError if the file is damaged."""
    found = _read(folder).streams.get(stream)
    return found.memory if found else Memory()


def streams(folder: Path) -> tuple[tuple[str, Memory], ...]:
    """Return every stream remembered in ``folder`` with its memory; raises IntegrityError if the file is damaged."""
    return tuple((name, stream.memory) for name, stream in sorted(_read(folder).streams.items()))


def policy(folder: Path, sha256: str | None) -> bytes | None:
    """Return the policy with that sha256 (hex) as it was kept in ``folder``, None if it is not there as it was."""
    if sha256 is None:
        return None
    path = _kept(folder, sha256)
    try:
        raw = read_regular(path, str(path), MAX_POLICY)
    except IntegrityError:
        return None
    return raw if Digest.of(raw).hex == sha256 else None


def record(folder: Path, bundle: VerifiedBundle, now: datetime) -> Memory:
    """Remember that ``bundle`` was accepted, and by which policy, durably; return what is remembered now.

    Raises TrustError if the folder remembers a higher serial or a later policy, or these with another content: another process
    may have accepted one since ``load``.
    """

    def change(known: Stream | None) -> Stream:
        serial, root = bundle.statement.serial, bundle.digest.hex
        if known and known.serial is not None and serial < known.serial:
            message = f"serial: {serial}, this site has already accepted {known.serial}"
            raise TrustError(message, hint="going back is refused", rule="5.serial")
        if known and serial == known.serial and root != known.root:
            message = f"serial: {serial} was accepted before with another content"
            raise TrustError(message, hint="ask the signers which is theirs", rule="5.equivocation")
        _not_back(known, bundle.policy_version, bundle.policy_sha256)
        _next(known, Policy.parse(bundle.policy_raw))
        seen = max(canonical.stamp(now), canonical.stamp(bundle.verified_at), known.last_seen if known else "")
        return Stream(
            serial=serial, root=root, last_seen=seen, policy_version=bundle.policy_version, policy_sha256=bundle.policy_sha256
        )

    return _changed(folder, bundle.statement.stream, change, bundle.policy_raw)


def record_policy(folder: Path, raw: bytes, now: datetime, *, pinned: bool = False) -> Memory:
    """Remember that the policy ``raw`` is in force, durably, and return what is remembered now; serial and root stay.

    ``pinned`` is for one that a person compared with paper: it may be another of the version remembered. Raises TrustError if a later
    one is remembered, or, unless ``pinned``, another of this version.
    """
    said, sha256 = Policy.parse(raw), Digest.of(raw).hex

    def change(known: Stream | None) -> Stream:
        _not_back(known, said.version, None if pinned else sha256)
        seen = max(canonical.stamp(now), known.last_seen if known else "")
        part = {"policy_version": said.version, "policy_sha256": sha256, "last_seen": seen}
        return known.model_copy(update=part) if known else Stream.model_validate(part)

    return _changed(folder, said.stream, change, raw)


def forget(folder: Path, stream: str, *, time: datetime | None = None) -> None:
    """Forget a stream; with ``time`` only the last time seen, which becomes that one. For somebody who says why, and nobody else."""

    def change(known: Stream | None) -> Stream | None:
        return known.model_copy(update={"last_seen": canonical.stamp(time)}) if known and time else None

    _changed(folder, stream, change)


def restore(folder: Path, found: Mapping[str, Memory]) -> str | None:
    """Remember ``found`` beside what the file still holds, the higher value of each; return the name a damaged file was moved to.

    What a file says that cannot be read is not used.
    """
    with _alone(folder):
        aside = _set_aside(folder)
        state = _read(folder)
        merged = {name: _merged(state.streams.get(name), memory) for name, memory in found.items()}
        sealed.write(folder / FILE, State(streams={**state.streams, **merged}))
    return aside


def keep(folder: Path, raw: bytes) -> None:
    """Keep a policy under its sha256, durably; the folder is made if need be."""
    path = _kept(folder, Digest.of(raw).hex)
    if policy(folder, Digest.of(raw).hex) is None:
        if not path.parent.is_dir():
            path.parent.mkdir()
            os.chmod(path.parent, OPEN)  # whatever the umask: who may read the state may read these
        write_atomic(path, raw, mode=0o444)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the state in ``folder`` for writing while the block runs, cleaned of what a killed process left."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SiteError(f"{folder}: cannot create: {error.strerror}", hint="choose a folder this user may write") from None
    with exclusive(folder / LOCK, f"{folder / FILE}"):
        sealed.clean(folder)
        sealed.clean(folder / POLICIES)
        yield


def _changed(folder: Path, stream: str, change: Callable[[Stream | None], Stream | None], policy_raw: bytes | None = None) -> Memory:
    with _alone(folder):
        state = _read(folder)
        known = state.streams.get(stream)
        new = change(known)
        if policy_raw is not None:
            keep(folder, policy_raw)
        if new != known:
            others = {name: kept for name, kept in state.streams.items() if name != stream}
            sealed.write(folder / FILE, State(streams={**others, stream: new} if new else others))
    return new.memory if new else Memory()


def _read(folder: Path) -> State:
    with by_rule("1.state-damaged"):
        return sealed.read(folder / FILE, State, limit=MAX_STATE, hint=DAMAGED) or State()


def _kept(folder: Path, sha256: str) -> Path:
    return folder / POLICIES / f"{sha256}.json"


def _not_back(known: Stream | None, version: int, sha256: str | None) -> None:
    if known is None:
        return
    if version < known.policy_version:
        message = f"policy: version {version}, this site has used version {known.policy_version}"
        raise TrustError(message, hint="use the newer policy; going back to an older one is refused", rule="1.policy-rollback")
    if version == known.policy_version and sha256 and known.policy_sha256 not in {None, sha256}:
        message = f"policy: version {version} has sha256 {sha256}, this site has used one with sha256 {known.policy_sha256}"
        raise TrustError(message, hint="ask which is the site's", rule="1.policy-changed")


def _next(known: Stream | None, policy: Policy) -> None:
    """Raise TrustError if a later policy follows another one than that remembered, which may have been replaced since it was proven."""
    if known is None or known.policy_sha256 is None or policy.version <= known.policy_version:
        return
    if policy.version != known.policy_version + 1 or policy.previous != known.policy_sha256:
        now = f"version {known.policy_version} with sha256 {known.policy_sha256}"
        message = f"policy: version {policy.version} follows the policy with sha256 {policy.previous}, the one in force now is {now}"
        raise TrustError(message, hint="another process changed it meanwhile: run again", rule="1.succession-previous")


def _set_aside(folder: Path) -> str | None:
    try:
        _read(folder)
    except IntegrityError:
        aside = f"{FILE}.damaged-{os.urandom(4).hex()}"
        os.rename(folder / FILE, folder / aside)
        return aside
    return None


def _merged(known: Stream | None, found: Memory) -> Stream:
    if found.policy_version is None or found.last_seen is None:
        raise SiteError("what was found of a stream names no policy or no time", hint="restore the state from a backup")
    seen = canonical.stamp(found.last_seen)
    serial, root, version, sha256 = found.serial, found.root, found.policy_version, found.policy_sha256
    if known:
        seen = max(seen, known.last_seen)
        if (known.serial if known.serial is not None else -1) >= (serial if serial is not None else -1):
            serial, root = known.serial, known.root
        if known.policy_version > version or (known.policy_version == version and known.policy_sha256):
            version, sha256 = known.policy_version, known.policy_sha256
    return Stream(serial=serial, root=root, last_seen=seen, policy_version=version, policy_sha256=sha256)
