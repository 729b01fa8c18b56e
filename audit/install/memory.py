"""What a site remembers, as its commands use and change it: the memory to judge by, accepting policies, and ways on after a loss.

The journal and the receipts of a store show what was accepted there. Where they show more than the state remembers, the state was
lost, or an older one was put back, and nothing is accepted until somebody says how to go on. Rules: the state is written before the
journal says so, and the journal before anything is forgotten, so that a kill in between loses nothing; only ``forget`` goes back.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from airgap_images.layout import read_regular, write_atomic
from airgap_images.oci import Digest
from audit import journal
from audit.install import receipts
from audit.install.history import history, lacks, words
from audit.install.store import POLICY, Store, locked, refusing
from audit.journal import Head
from audit.verify import state
from audit.verify.pinned import Presented, admitted
from audit.verify.succession import Backing, Succession
from audit.verify.trust import Memory, check_policy
from manifests.errors import IntegrityError, TrustError, UsageError
from manifests.paths import printable
from manifests.policy import MAX_POLICY, Policy

LOST = (
    "without it an older bundle or policy would be accepted again. Restore it from a backup; or `airgap-audit state recover` rebuilds it "
    "from journal and receipts and says what it cannot know; or `airgap-audit state forget STREAM --reason TEXT` begins anew"
)
UNKNOWN = (
    "Bundles and policies that were accepted with another store, or only with another state folder.",
    "What was accepted after the journal's last line, if lines were cut off its end: compare its head with one noted elsewhere.",
    "Times that were only seen, by commands that write no journal.",
)  # what `recover` cannot know
_PIN = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Accepted:
    """A policy that is in force now. ``old`` and ``new`` are who signed it under the version before and under itself, if that was asked.

    ``changed`` is False if it was in force already; ``before`` is what was remembered; ``journal`` is its head.
    """

    presented: Presented
    before: Memory
    pinned: bool
    changed: bool
    old: Backing | None
    new: Backing | None
    journal: Head


@dataclass(frozen=True, slots=True)
class Recovered:
    """What is remembered after it was rebuilt: ``streams`` by name; ``aside`` is what a damaged file is called now."""

    folder: Path
    changed: bool
    streams: tuple[tuple[str, Memory], ...]
    aside: str | None
    journal: Head


@dataclass(frozen=True, slots=True)
class Compared:
    """What is remembered of a stream; ``lost`` says what the journal and receipts show beyond it, None if nothing."""

    stream: str
    memory: Memory
    lost: str | None


def remembered(presented: Presented, now: datetime, folder: Path, stores: Iterable[Path]) -> tuple[Memory, Succession | None]:
    """Return the memory to judge a bundle by under the policy presented, and who signed that policy if it is a later one.

    ``folder`` holds the state, ``stores`` are those whose journals must not show more. Raises TrustError if the state was lost,
    RefusedError if the policy is a later one than this site's and not proven. Writes nothing.
    """
    known, roots = _recalled(folder, presented.policy.stream, tuple(stores))
    return admitted(known, _policy(known, folder, roots), presented, now)


def in_force(store: Store, folder: Path, stream: str) -> Presented | None:
    """Return the policy that the state in ``folder`` names, None if it names none or its file was not kept."""
    raw = _policy(state.load(folder, stream), folder, (store.root,))
    return Presented(raw) if raw is not None else None


def revoking(store: Store, folder: Path, stream: str) -> Policy | None:
    """Return the policy in force, None if none is; raises TrustError if the state was lost, so that what is revoked is not known."""
    known, roots = _recalled(folder, stream, (store.root,))
    raw = _policy(known, folder, roots)
    if raw is None and known.policy_sha256 is not None:
        message = f"state: {folder / state.POLICIES} lacks the file of the policy in force, version {known.policy_version}: it was lost"
        hint = "`airgap-audit policy accept` that file again; without it nobody knows what is revoked"
        raise TrustError(message, hint=hint, rule="1.state-lost")
    return Presented(raw).policy if raw is not None else None


def policies(store: Store, folder: Path, stream: str | None) -> tuple[tuple[str, Memory, Presented | None], ...]:
    """Return the policy in force of a stream, or of every one, by stream; None where its file was not kept. Raises UsageError."""
    known = dict(state.streams(folder))
    if stream is not None and stream not in known:
        there = ", ".join(sorted(known)) or "none"
        raise UsageError(f"{folder}: no policy is in force for stream {printable(stream)!r}", hint=f"there are: {there}")
    names = (stream,) if stream else sorted(known)
    return tuple((name, known[name], in_force(store, folder, name)) for name in names)


def export(found: tuple[tuple[str, Memory, Presented | None], ...], out: Path) -> None:
    """Write the file of the one policy found to ``out``; raises UsageError if there is not exactly one, or ``out`` exists."""
    kept = [presented for _, _, presented in found if presented]
    if len(kept) != 1:
        raise UsageError(f"{len(kept)} policies are kept here, one can be written", hint="name its stream")
    if os.path.lexists(out):
        raise UsageError(f"{out}: exists already", hint="name another file; nothing is overwritten")
    write_atomic(out, kept[0].raw)


def compared(store: Store, folder: Path) -> tuple[Compared, ...]:
    """Return what is remembered beside what the store shows, by stream; raises IntegrityError if state or journal is damaged."""
    known, shown = dict(state.streams(folder)), history(store.root)
    found = []
    for stream in sorted({*known, *shown}):
        memory = known.get(stream, Memory())
        found.append(Compared(stream, memory, _lost(memory, shown[stream], folder, store.root, stream) if stream in shown else None))
    return tuple(found)


def accept(store: Store, folder: Path, presented: Presented, *, now: datetime, previous: bytes | None = None) -> Accepted:
    """Make the policy presented the one in force if it is signed as the one in force and itself ask; raises TrustError.

    ``previous`` is the file of the policy in force, for where it was not kept.
    """
    with locked(store), refusing(store):
        receipts.complete(store, now)
        before, roots = _recalled(folder, presented.policy.stream, (store.root,))
        if before.policy_version is None:
            message = f"policy: nothing is accepted yet for stream {presented.policy.stream!r}, so nobody's signature can prove this one"
            hint = "compare its sha256 with the one told by another way, on paper, and accept it with `--pin SHA256`"
            raise TrustError(message, hint=hint, rule="1.policy-first")
        kept = _given(previous, before) if previous is not None else _policy(before, folder, roots)
        memory, proven = admitted(before, kept, presented, now)
        check_policy(presented.policy, presented.sha256, memory, now)
        if before.policy_sha256 is None and not proven:
            message = f"policy: this site has used a version {before.policy_version} and not kept which, so this cannot be compared"
            raise TrustError(message, hint="compare its sha256 with paper and accept it with `--pin SHA256`", rule="1.succession-unknown")
        changed = before.policy_sha256 != presented.sha256
        state.record_policy(folder, presented.raw, now)
        old, new = (proven.old, proven.new) if proven else (None, None)
        head = _note_policy(store, presented, now, "accepted", _signers(old))
        return Accepted(presented, before, False, changed, old, new, head)


def pin(store: Store, folder: Path, presented: Presented, sha256: str, *, now: datetime) -> Accepted:
    """Make the policy presented the one in force because a person typed its sha256 from paper; raises TrustError if it is another.

    Its signatures are not asked. An older version than the one in force is refused all the same.
    """
    typed = re.sub(r"[\s:]", "", sha256.lower().removeprefix("sha256:"))
    if not _PIN.fullmatch(typed):
        raise UsageError(f"--pin {printable(sha256)!r} is no sha256", hint="64 digits 0-9 and a-f; blanks and colons between them are fine")
    if typed != presented.sha256:
        message = f"policy: has sha256 {presented.sha256}, the pin says {typed}"
        raise TrustError(message, hint="it is not the policy that was meant: get that one, or compare the paper again", rule="1.pin")
    with locked(store), refusing(store):
        receipts.complete(store, now)
        before, _ = _recalled(folder, presented.policy.stream, (store.root,))
        policy = presented.policy
        check_policy(policy, None, replace(before, policy_version=max(policy.version, before.policy_version or 0)), now)
        state.record_policy(folder, presented.raw, now, pinned=True)
        details = {"was": f"sha256:{before.policy_sha256}" if before.policy_sha256 else "none"}
        head = _note_policy(store, presented, now, "pinned", details)
        return Accepted(presented, before, True, before.policy_sha256 != presented.sha256, None, None, head)


def recover(store: Store, folder: Path, *, now: datetime) -> Recovered:
    """Rebuild what ``folder`` should remember from the journal (its chain is checked) and the receipts of a store.

    What the state still holds is kept where it is higher. Raises UsageError if neither shows anything.
    """
    with locked(store), refusing(store):
        receipts.complete(store, now)
        shown = history(store.root)
        if not shown:
            raise UsageError(f"{store.root}: journal and receipts show no bundle and no policy", hint="there is nothing to rebuild from")
        before = _streams(folder)
        for memory in shown.values():
            raw = _policy(memory, folder, (store.root,))
            if raw is not None:
                state.keep(folder, raw)
        aside = state.restore(folder, shown)
        streams = state.streams(folder)
        if streams == before:
            return Recovered(folder, False, streams, None, journal.verify(store.root))
        said = {f"stream{at}": f"{name} {words(memory)}" for at, (name, memory) in enumerate(streams[:8], start=1)}
        details = {"folder": str(folder), "streams": str(len(streams)), "aside": aside or "none", **said}
        return Recovered(folder, True, streams, aside, journal.append(store.root, "state", "recovered", details, now=now))


def forget(store: Store, folder: Path, stream: str, reason: str, *, now: datetime, only_time: bool = False) -> tuple[Memory, Head]:
    """Forget what is remembered of a stream, or only the last time seen, which becomes now; return what it was and the journal's head.

    Raises UsageError if no reason is given, or nothing is known of the stream.
    """
    if not reason.strip():
        raise UsageError("no reason is given", hint="say with --reason why this site is to forget; the journal keeps it")
    with locked(store), refusing(store):
        journal.mend(store.root, now=now)
        before = state.load(folder, stream)
        if before == Memory() and (only_time or stream not in history(store.root)):
            known = ", ".join(name for name, _ in state.streams(folder)) or "none"
            raise UsageError(f"{folder}: nothing is remembered of stream {printable(stream)!r}", hint=f"there are: {known}")
        what = "time" if only_time else "all"
        details = {"stream": stream, "what": what, "reason": reason, "was": words(before), "folder": str(folder)}
        head = journal.append(store.root, "state", "forgotten", details, now=now)
        state.forget(folder, stream, time=now if only_time else None)
        return before, head


def note_succession(store: Store, presented: Presented, proven: Succession, now: datetime) -> None:
    """Write into the journal that an install brought a later policy into force, unless the journal says so already."""
    _note_policy(store, presented, now, "accepted", _signers(proven.old))


def _recalled(folder: Path, stream: str, stores: tuple[Path, ...]) -> tuple[Memory, tuple[Path, ...]]:
    """Return what is remembered of a stream, checked against what the stores show; raises TrustError if that is more."""
    memory = state.load(folder, stream)
    roots = tuple(dict.fromkeys(os.path.realpath(root) for root in (*stores, folder)))
    for root in map(Path, roots):
        try:
            shown = history(root).get(stream)
        except IntegrityError:
            if memory == Memory():
                raise  # nothing else says what was accepted here
            continue  # `airgap-audit check` and the next install tell of it
        if shown is None:
            continue
        if lost := _lost(memory, shown, folder, root, stream):
            raise TrustError(lost, hint=LOST, rule="1.state-lost")
        if memory.last_seen and shown.last_seen and shown.last_seen > memory.last_seen:  # an older state of the same serial was put back
            memory = replace(memory, last_seen=shown.last_seen)
        if memory.policy_sha256 is None and shown.policy_version == memory.policy_version:
            memory = replace(memory, policy_sha256=shown.policy_sha256)
    return memory, tuple(map(Path, roots))


def _lost(memory: Memory, shown: Memory, folder: Path, root: Path, stream: str) -> str | None:
    lost = lacks(memory, shown)
    how = "it was lost" if memory == Memory() else "an older one was put back"
    return f"state: {folder / state.FILE} {lost} of stream {stream!r}, as {root} shows: {how}" if lost else None


def _policy(memory: Memory, folder: Path, roots: Iterable[Path]) -> bytes | None:
    """Return the file of the policy in force: the one kept with the state, or one that was kept with a bundle."""
    sha256 = memory.policy_sha256
    if sha256 is None or (raw := state.policy(folder, sha256)) is not None:
        return raw if sha256 else None
    for root in roots:
        for digest in Store(root).bundles():
            path = Store(root).bundle(digest) / POLICY
            try:
                raw = read_regular(path, str(path), MAX_POLICY)
            except IntegrityError:
                continue
            if Digest.of(raw).hex == sha256:
                return raw
    return None


def _given(previous: bytes, before: Memory) -> bytes:
    sha256 = Digest.of(previous).hex
    if sha256 != before.policy_sha256:
        known = f"has {before.policy_sha256}" if before.policy_sha256 else "is not known by its sha256"
        message = f"policy: the previous one given has sha256 {sha256}, the one in force here {known}"
        hint = "name the very file this site uses, or accept the new one with `--pin`"
        raise TrustError(message, hint=hint, rule="1.succession-previous")
    return previous


def _signers(old: Backing | None) -> dict[str, str]:
    return {"signers": ", ".join(signature.signer for signature in old.signatures)} if old else {}


def _note_policy(store: Store, presented: Presented, now: datetime, outcome: str, more: dict[str, str]) -> Head:
    known = history(store.root).get(presented.policy.stream)
    if known and known.policy_sha256 == presented.sha256:
        return journal.verify(store.root)
    said = presented.policy
    facts = {"stream": said.stream, "policyVersion": str(said.version), "policy": f"sha256:{presented.sha256}", "expires": said.expires}
    return journal.append(store.root, "policy", outcome, facts | more, now=now)


def _streams(folder: Path) -> tuple[tuple[str, Memory], ...]:
    try:
        return state.streams(folder)
    except IntegrityError:
        return ()
