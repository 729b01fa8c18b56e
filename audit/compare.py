"""Read two bundles, or a bundle and what is installed, so that they can be compared.

Rules: with a policy a side is proven first, and one that is refused ends the comparison; without one it is only read, as ``inspect`` reads
it, and that is said of it; both sides are compared with the same vulnerability data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from airgap_images.bundle import Component, components, parse_index, tree_files
from airgap_images.layout import Layout, read_regular
from airgap_images.oci import Descriptor, Digest
from audit.evidence import inventory
from audit.evidence.compare import Comparison, Side, compare
from audit.inspect import Claim, claims
from audit.install import feed
from audit.install.store import POLICY, Store
from audit.verify.trust import Memory
from audit.verify.walk import MAX_INDEX, Place, Watch, verify
from audit.vulnerabilities import feeds
from audit.vulnerabilities.assess import assess
from audit.vulnerabilities.feeds import Data
from manifests import canonical
from manifests.errors import AirgapError
from manifests.lock import MAX_LOCK, Lock
from manifests.policy import MAX_POLICY, Policy

NOT_PROVED = "NOT PROVED, what it says of itself"


@dataclass(frozen=True, slots=True)
class Asked:
    """One side as it is asked for: where it stands, what the user calls it, and the policy it is to be proven by, if by any."""

    place: Place
    label: str
    policy: bytes | None


def compared(old: Asked, new: Asked, *, store: Store | None, now: datetime, watch: Watch) -> Comparison:
    """Return what moved from ``old`` to ``new``; ``store`` has further vulnerability data.

    Raises RefusedError if a side that is to be proven is not, IntegrityError if one cannot even be read.
    """
    sides = [_side(asked, now, watch) for asked in (old, new)]
    data = [found for asked, side in zip((old, new), sides, strict=True) for found in _carried(asked.place.layout, side)]
    data += feed.held(store) if store else ()
    return compare(*(replace(side, vulnerabilities=assess(side.items, data)) for side in sides))


def _side(asked: Asked, now: datetime, watch: Watch) -> Side:
    if asked.policy is None:
        return _read(asked, watch)
    bundle = verify(asked.place, asked.policy, memory=Memory(), now=now, watch=watch)
    said = bundle.statement
    stated = {"stream": said.stream, "serial": str(said.serial), "created": canonical.stamp(said.created)}
    stated |= {"expires": canonical.stamp(said.expires), "tool": said.tool}
    found = inventory.take(bundle, watch)
    return Side(
        label=asked.label,
        digest=str(bundle.digest),
        proven=True,
        proof=f"proved by policy version {bundle.policy_version}",
        said={**stated, "digest": str(bundle.digest)},
        signers={signature.signer: f"{signature.kind}, key {signature.key_id}" for signature in bundle.signatures},
        policy=_kept_policy(asked.place),
        components=bundle.components,
        items=found.items,
        unread=(*found.gaps, *(f"{item.component}: {item.coverage.reason}" for item in found.unreadable)),
    )


def _read(asked: Asked, watch: Watch) -> Side:
    raw = read_regular(asked.place.files / "index.json", "index.json", MAX_INDEX)
    parts = components(parse_index(raw))
    unread: list[str] = []
    try:
        lock = _lock(asked.place.layout, parts)
    except AirgapError as error:
        lock, unread = None, [f"the lock in it cannot be read: {error.message}"]
    items = inventory.of_components(asked.place.layout, parts, {part.name: part for part in lock.components} if lock else {}, watch)
    unread += [f"{item.component}: {item.coverage.reason}" for item in items if item.coverage.reading == "unreadable"]
    found = claims(asked.place)
    return Side(
        label=asked.label,
        digest=str(Digest.of(raw)),
        proven=False,
        proof=NOT_PROVED,
        said={**_claimed(found), "digest": str(Digest.of(raw))},
        signers={claim.file: f"claims key {claim.hint}" for claim in found},
        policy=_kept_policy(asked.place),
        components=parts,
        items=items,
        unread=tuple(unread),
    )


def _lock(layout: Layout, parts: tuple[Component, ...]) -> Lock | None:
    part = next((part for part in parts if part.name == inventory.LOCK_COMPONENT), None)
    file = next((file for file in tree_files(layout, part.root) if file.path == inventory.LOCK_FILE), None) if part else None
    if file is None:
        return None
    return Lock.parse(layout.read(Descriptor("application/json", file.digest, file.size), MAX_LOCK), inventory.LOCK_FILE)


def _claimed(found: tuple[Claim, ...]) -> Mapping[str, str]:
    said = next((claim.predicate for claim in found if claim.predicate), None)
    return {"stream": said.stream, "serial": str(said.serial), "expires": said.expires, "created": said.created} if said else {}


def _kept_policy(place: Place) -> Mapping[str, str]:
    """Return what is known of the policy that a store kept with a bundle; nothing of a bundle that stands by itself."""
    if place.whole:
        return {}
    try:
        raw = read_regular(place.files / POLICY, POLICY, MAX_POLICY)
        policy = Policy.parse(raw)
    except AirgapError:
        return {}
    return {"version": str(policy.version), "sha256": Digest.of(raw).hex}


def _carried(layout: Layout, side: Side) -> tuple[Data, ...]:
    return feeds.carried(layout, side.components, side.digest)
