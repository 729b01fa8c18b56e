"""Vulnerability data for what is installed: bundles that carry only such data, proven like any other, kept beside what is installed.

Rules: a feed is proven before anything of it is kept, and remembered like any bundle, so that older data is never taken for newer;
it has a stream of its own, so that it never stands for the bundle that is installed; only the newest feed of a stream is kept; it
makes no generation and changes nothing of what runs. Killed at any point and run again, it ends the same.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from airgap_images.oci import Digest
from audit import journal
from audit.evidence.agreement import OWN
from audit.install import generations, memory, receipts, space, undo
from audit.install.store import POLICY, Store, locked, refusing
from audit.journal import Head
from audit.verify import state
from audit.verify.pinned import Presented
from audit.verify.result import VerifiedBundle
from audit.verify.walk import Place, Silent, Watch, verify
from audit.vulnerabilities import feeds
from audit.vulnerabilities.feeds import Data
from manifests.errors import AirgapError, UsageError

OPERATION = "feed"
NO_FEED = "a feed holds components of kind `osv` and nothing else; anything else is installed: `airgap-audit install`"


@dataclass(frozen=True, slots=True)
class Imported:
    """A feed that is kept now: its components, which older feeds it replaced, whether it was here before, and the journal's head."""

    bundle: VerifiedBundle
    components: tuple[str, ...]
    replaced: tuple[str, ...]
    changed: bool
    journal: Head


def import_(
    place: Place,
    policy: Presented,
    folder: Path,
    *,
    now: datetime,
    link: bool = True,
    watch: Watch | None = None,
    state_folder: Path | None = None,
) -> Imported:
    """Prove the feed at ``place`` and keep it in the store at ``folder``, in place of older ones of its stream.

    Raises RefusedError if it is not proven, UsageError if it is no feed; then nothing is kept and the journal says why.
    """
    store = Store.create(folder)
    with locked(store):
        try:
            with refusing(store):
                receipts.complete(store, now)
                return _import(store, place, policy, now, link=link, watch=watch or Silent(), state_folder=state_folder or store.root)
        except AirgapError as error:
            with contextlib.suppress(AirgapError), refusing(store):
                journal.append(store.root, OPERATION, "refused" if error.exit_code > 2 else "failed", {"reason": error.message}, now=now)  # noqa: PLR2004
            raise


def held(store: Store) -> tuple[Data, ...]:
    """Return the vulnerability data of every bundle the store holds, installed or imported; one that is damaged is left out."""
    found: list[Data] = []
    for digest in store.bundles():
        with contextlib.suppress(AirgapError):
            found += feeds.carried(store.layout, generations.components_of(store, digest), str(digest))
    return tuple(found)


def _import(
    store: Store, place: Place, policy: Presented, now: datetime, *, link: bool, watch: Watch, state_folder: Path
) -> Imported:
    known, succession = memory.remembered(policy, now, state_folder, (store.root,))
    roomy = space.Roomy(watch, place, store.layout, link)
    bundle = verify(place, policy.raw, memory=known, now=now, into=store.layout, link=link, watch=roomy)
    names = _checked(store, bundle)
    stream = bundle.statement.stream
    before = tuple(digest for digest in _feeds(store, stream) if digest != bundle.digest)
    changed = bundle.digest not in store.bundles()
    said = {"bundle": str(bundle.digest), "stream": stream, "serial": str(bundle.statement.serial)}
    said |= {"policy": f"sha256:{bundle.policy_sha256}", "policyVersion": str(bundle.policy_version)}
    journal.append(store.root, OPERATION, "begun", said, now=now)
    generations.sync_blobs(store.layout, (digest for digest, _ in bundle.blobs))
    store.keep(bundle.digest, (*bundle.files, (POLICY, policy.raw)))
    state.record(state_folder, bundle, now)
    if succession:
        memory.note_succession(store, policy, succession, now)
    undo.take_bundles(store, before)
    head = journal.append(store.root, OPERATION, "done" if changed else "unchanged", said | {"replaced": str(len(before))}, now=now)
    return Imported(bundle, names, tuple(map(str, before)), changed, head)


def _checked(store: Store, bundle: VerifiedBundle) -> tuple[str, ...]:
    """Return the names of the components that carry data; raises UsageError for what is no feed, or has the stream of what is installed."""
    data = tuple(part.name for part in bundle.components if part.kind == feeds.KIND)
    other = [part.name for part in bundle.components if part.kind != feeds.KIND and part.name not in OWN]
    if not data or other:
        what = f"holds {other[0]} beside data" if data else "holds no vulnerability data"
        raise UsageError(f"bundle {bundle.digest}: {what}, so it is no feed", hint=NO_FEED)
    installed = {receipts.read(store, number).stream for number in store.generations()}
    if bundle.statement.stream in installed:
        message = f"stream {bundle.statement.stream!r} is that of what is installed; the feed would stand for the newest bundle of it"
        raise UsageError(message, hint="give feeds a stream, and so a policy, of their own: `airgap-bundle policy init --stream NAME`")
    return data


def _feeds(store: Store, stream: str) -> tuple[Digest, ...]:
    """Return the feeds of a stream that the store holds: bundles without a receipt, with data and nothing else, or damaged.

    One without an index is what is left of a feed whose removal was killed.
    """
    known = {receipts.read(store, number).digest for number in store.receipts()}
    others = [digest for digest in store.bundles() if digest not in known]
    half = {digest for digest in others if not os.path.lexists(store.bundle(digest) / "index.json")}
    return tuple(digest for digest in others if digest in half or (stream in store.streams(digest) and _is_feed(store, digest)))


def _is_feed(store: Store, digest: Digest) -> bool:
    try:
        parts = generations.components_of(store, digest)
    except AirgapError:
        return True  # `check` tells of the damage; it is replaced like any
    return all(part.kind == feeds.KIND or part.name in OWN for part in parts)
