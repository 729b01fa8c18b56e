"""The policy as it is presented to a site, and whether it may be used here: the one accepted before, or its proven successor.

A policy's signatures stand in the folder ``<policy>.signatures`` beside it. Rules: where nothing is remembered, the policy is taken
as given, which the caller says; an older version, or another content of the same, is left to ``trust.judge`` to refuse; the next
version is let through only with the memory it would leave, so that ``judge`` refuses whatever did not come this way.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from audit.verify import keyless
from audit.verify.recognise import Judge
from audit.verify.succession import IN_ORDER, Succession, succeed
from audit.verify.trust import Memory, refuse
from audit.verify.walk import signature_files
from manifests.errors import TrustError, by_rule
from manifests.lock import read_bounded
from manifests.policy import MAX_POLICY, Policy

SIGNATURES = ".signatures"  # what follows the policy's own name in that of the folder


@dataclass(frozen=True, slots=True)
class Presented:
    """A policy's file and the signature files beside it, by name."""

    raw: bytes
    files: tuple[tuple[str, bytes], ...] = ()

    @property
    def sha256(self) -> str:
        """Return the sha256 (hex) of the file, which is what a site pins."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def policy(self) -> Policy:
        """Return what the file says; raises InvalidFileError."""
        return Policy.parse(self.raw)


def signatures_folder(path: Path) -> Path:
    """Return where the signatures of the policy at ``path`` stand."""
    return path.with_name(f"{path.name}{SIGNATURES}")


def read(path: Path) -> Presented:
    """Read the policy at ``path`` and the signatures beside it; raises InvalidFileError or IntegrityError."""
    raw = read_bounded(path, MAX_POLICY)
    Policy.parse(raw, str(path))  # here its name is known, for the error
    folder = signatures_folder(path)
    with by_rule("1.succession-signature"):
        return Presented(raw, signature_files(folder, folder.name))


def admitted(
    memory: Memory, kept: bytes | None, presented: Presented, now: datetime, ask: Judge = keyless.judge
) -> tuple[Memory, Succession | None]:
    """Return what to judge by: ``memory``, or that with the presented policy in it where its succession is proven.

    ``kept`` is the file of the policy that ``memory`` names. Raises RefusedError if this is a later policy and not proven.
    """
    policy, used = presented.policy, memory.policy_version
    if used is None or policy.version <= used:
        return memory, None
    if policy.version > used + 1:
        message = f"policy: version {policy.version}, this site has used version {used}: {policy.version - used - 1} between are missing"
        refuse([TrustError(message, hint=IN_ORDER, rule="1.succession-version")])
    if kept is None:
        message = f"policy: version {policy.version} is to follow version {used}, whose file this site has not kept"
        hint = "`airgap-audit policy accept NEW --previous OLD`, or compare its sha256 with paper and accept it with `--pin`"
        refuse([TrustError(message, hint=hint, rule="1.succession-unknown")])
    assert kept is not None  # noqa: S101 - refused above
    proven = succeed(kept, presented.raw, presented.files, max(now, memory.last_seen or now), ask)
    return replace(memory, policy_version=policy.version, policy_sha256=presented.sha256), proven
