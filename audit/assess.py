"""Gather everything evidence is made of: the proof, the checks, what is installed, and why not where it fails."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from airgap_images.targets import Target
from audit import checks, drift
from audit.evidence.assessment import Assessment, proved, refused
from audit.install.store import Store
from audit.verify import upstream
from audit.verify.trust import Memory
from audit.verify.walk import Place, Watch, verify
from manifests.errors import RefusedError
from manifests.policy import Policy


def assess(
    place: Place,
    policy_raw: bytes,
    *,
    named: str,
    memory: Memory | None,
    store: Store | None,
    state_folder: Path | None,
    targets: Iterable[Target],
    watch: Watch,
    tool: tuple[str, str],
    now: datetime,
) -> Assessment:
    """Return the assessment of the bundle at ``place``; with ``store`` also of what is installed there.

    A bundle that is refused is an assessment too. Raises InvalidFileError for a policy that cannot be read.
    """
    try:
        bundle = verify(place, policy_raw, memory=memory or Memory(), now=now, watch=watch)
    except RefusedError as error:
        return refused(error, place=named, policy_raw=policy_raw, tool=tool, now=now)
    policy = Policy.parse(policy_raw)
    verdicts = upstream.assess(bundle.layout, bundle.components, policy)
    results = checks.run_all(checks.Subject(bundle.layout, bundle.components, policy, verdicts))
    decided = checks.gate(results, policy.gates)
    found = drift.check(store.root, targets=targets, watch=watch, state_folder=state_folder) if store else None
    return proved(bundle, results, decided, upstream=verdicts, memory=memory, drift=found, place=named, tool=tool, now=now, watch=watch)
