"""What a site remembers of each stream, so that nothing older than what it accepted is accepted again.

``state.json`` holds per stream the highest serial and its index sha256, the last time seen and the highest policy
version. It is replaced as a whole and knows its own sha256. Rules: no value ever goes back; a missing file is a site that
remembers nothing (``Memory.fresh``), which the caller must say; a damaged one is refused, never taken for a missing one.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from airgap_images.layout import exclusive
from audit import sealed
from audit.verify.result import VerifiedBundle
from audit.verify.trust import Memory
from manifests import canonical
from manifests.errors import SiteError, TrustError
from manifests.lock import Name, Sha256
from manifests.policy import Time

FILE = "state.json"
LOCK = ".state.lock"
MAX_STATE = 1 << 20  # bytes; a stream takes about 250
DAMAGED = (
    "it protects against older bundles: restore it from a backup; removing it is possible too, "
    "but then the next bundle of every stream is accepted whatever its serial"
)


class Stream(sealed.Written):
    """What is remembered of one stream."""

    serial: int = Field(ge=0)
    root: Sha256
    last_seen: Time
    policy_version: int = Field(ge=1)

    @property
    def memory(self) -> Memory:
        """Return this in the form ``verify`` takes."""
        return Memory(self.serial, self.root, canonical.moment(self.last_seen), self.policy_version)


class State(sealed.Written):
    """The whole file."""

    state_version: Literal[1] = 1
    streams: dict[Name, Stream] = Field(default_factory=dict, max_length=4096)


def load(folder: Path, stream: str) -> Memory:
    """Return what the state in ``folder`` remembers of ``stream``; raises IntegrityError if the file is damaged."""
    found = _read(folder).streams.get(stream)
    return found.memory if found else Memory()


def streams(folder: Path) -> tuple[tuple[str, Memory], ...]:
    """Return every stream remembered in ``folder`` with its memory; raises IntegrityError if the file is damaged."""
    return tuple((name, stream.memory) for name, stream in sorted(_read(folder).streams.items()))


def record(folder: Path, bundle: VerifiedBundle, now: datetime) -> Memory:
    """Remember that ``bundle`` was accepted, durably, and return what is remembered now.

    Raises TrustError if the folder remembers a higher serial, or this serial with another content: another process
    may have accepted one since ``load``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SiteError(f"{folder}: cannot create: {error.strerror}", hint="choose a folder this user may write") from None
    with exclusive(folder / LOCK, f"{folder / FILE}"):
        sealed.clean(folder)
        state = _read(folder)
        stream = _next(state.streams.get(bundle.statement.stream), bundle, now)
        if state.streams.get(bundle.statement.stream) != stream:
            sealed.write(folder / FILE, State(streams={**state.streams, bundle.statement.stream: stream}))
    return stream.memory


def _read(folder: Path) -> State:
    return sealed.read(folder / FILE, State, limit=MAX_STATE, hint=DAMAGED) or State()


def _next(known: Stream | None, bundle: VerifiedBundle, now: datetime) -> Stream:
    serial, root = bundle.statement.serial, bundle.digest.hex
    if known and serial < known.serial:
        raise TrustError(f"serial: {serial}, this site has already accepted {known.serial}", hint="going back is refused")
    if known and serial == known.serial and root != known.root:
        raise TrustError(f"serial: {serial} was accepted before with another content", hint="ask the signers which is theirs")
    seen = max(canonical.stamp(now), canonical.stamp(bundle.verified_at), known.last_seen if known else "")
    return Stream(
        serial=serial, root=root, last_seen=seen, policy_version=max(bundle.policy_version, known.policy_version if known else 1)
    )
