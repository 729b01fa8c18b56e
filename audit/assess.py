"""Gather everything evidence is made of: the proof, the checks, what is installed, and why not where it fails."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from airgap_images.targets import Target
from audit import checks, drift
from audit.evidence.assessment import Assessment, proved, refused
from audit.evidence.inventory import take
from audit.install import feed
from audit.install.store import Store
from audit.verify import upstream
from audit.verify.trust import Memory
from audit.verify.walk import Place, Watch, verify
from audit.vulnerabilities import feeds
from audit.vulnerabilities.assess import assess as compared
from manifests.errors import RefusedError
from manifests.policy import Policy


def assess(
    place: Place,
    policy_raw: bytes,
    *,
    named: str,
    memory: Memory | None,
    store: Store | None,
    feeds_of: Store | None = None,
    state_folder: Path | None,
    targets: Iterable[Target],
    watch: Watch,
    tool: tuple[str, str],
    now: datetime,
) -> Assessment:
    """Return the assessment of the bundle at ``place``; with ``store`` also of what is installed there.

    ``feeds_of`` is the store whose vulnerability data is used beside what the bundle carries.
    A bundle that is refused is an assessment too. Raises InvalidFileError for a policy that cannot be read.
    """
    try:
        bundle = verify(place, policy_raw, memory=memory or Memory(), now=now, both=True, watch=watch)
    except RefusedError as error:
        return refused(error, place=named, policy_raw=policy_raw, tool=tool, now=now)
    policy = Policy.parse(policy_raw)
    verdicts = upstream.assess(bundle.layout, bundle.components, policy)
    inventory = take(bundle, watch)
    data = (*feeds.carried(bundle.layout, bundle.components, str(bundle.digest)), *(feed.held(feeds_of) if feeds_of else ()))
    known = compared(inventory.items, data)
    subject = checks.Subject(
        bundle.layout,
        bundle.components,
        policy,
        verdicts,
        items=inventory.items,
        vulnerabilities=known,
        locked=inventory.locked,
        now=now,
        platform=inventory.platform,
    )
    results = checks.run_all(subject)
    decided = checks.gate(results, policy.gates, policy.waivers, now)
    found = drift.check(store.root, targets=targets, watch=watch, state_folder=state_folder) if store else None
    return proved(
        bundle,
        results,
        decided,
        inventory=inventory,
        vulnerabilities=known,
        policy=policy,
        upstream=verdicts,
        memory=memory,
        drift=found,
        place=named,
        tool=tool,
        now=now,
    )
