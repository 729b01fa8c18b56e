"""What the policy commands say: every result as data for programs and as text for people. Decides nothing."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit import explain
from audit.terminal import Report
from audit.verify.pinned import Presented
from audit.verify.succession import Backing

if TYPE_CHECKING:
    from bundler.policies.signing import Signed


def shown(presented: Presented, now: datetime, told: tuple[str, ...] = ()) -> Report:
    """Say in sentences what a policy accepts, after what was ``told`` while it was made."""
    policy = presented.policy
    signed = f"{len(presented.files)} signatures stand beside it: it is final." if presented.files else ""
    lines = [*told, *explain.sentences(policy, presented.sha256, now), *((signed,) if signed else ())]
    data = {
        "expired": policy.expires_at <= now,
        "policy": policy.model_dump(mode="json"),
        "sha256": presented.sha256,
        "signatures": [name for name, _ in presented.files],
    }
    return Report(data, "\n".join(lines))


def hashed(presented: Presented, path: Path) -> Report:
    """Print the hash that a site compares, once to copy and once to read aloud."""
    aloud = explain.aloud(presented.sha256)
    return Report({"policy": str(path), "sha256": presented.sha256, "aloud": aloud}, f"{presented.sha256}\n{aloud}")


def rotated(presented: Presented, old: Path, path: Path, now: datetime) -> Report:
    """Tell of the next version, and what has to be done before it counts."""
    version = presented.policy.version
    report = shown(presented, now)
    sign = f"`airgap-bundle policy sign {path} --previous {old} --key URI`"
    lines = [
        f"{path}: version {version}, made from {old}, which must stay as it is from now on",
        f"change it as you like, then let enough people of both versions sign it: {sign}",
        "",
        report.text,
    ]
    return Report(dict(report.data), "\n".join(lines))


def signed(result: Signed) -> Report:
    """Tell who has signed a policy, and who is missing under the version before and under this one."""
    policy, old, new = result.presented.policy, result.old, result.new
    lines = [
        f"{'signed' if result.added else 'had signed before'}: {result.file}",
        f"policy version {policy.version} of stream {policy.stream}, sha256 {result.presented.sha256}",
    ]
    if old:
        lines.append(_needs(old, "the version in force"))
    elif policy.version > 1:
        lines.append(f"by version {policy.version - 1}, the version in force: not known; name its file with --previous")
    lines.append(_needs(new, "itself"))
    ready = new.missing is None and (policy.version == 1 or (old is not None and old.missing is None))
    if ready:
        lines.append("ready: carry the file and the folder of its signatures together")
    data = {
        "added": result.added,
        "file": str(result.file),
        "new": _backing(new),
        "old": _backing(old) if old else None,
        "ready": ready,
        "sha256": result.presented.sha256,
        "signatures": [name for name, _ in result.presented.files],
        "version": policy.version,
    }
    return Report(data, "\n".join(lines))


def _needs(backing: Backing, which: str) -> str:
    passed = "".join(f"; {entry.file} does not count: {entry.reason}" for entry in backing.ignored)
    return f"by version {backing.version}, {which}: {backing.missing or 'the threshold is reached'} ({backing.words}{passed})"


def _backing(backing: Backing) -> dict[str, Any]:
    return {
        "ignored": [{"file": entry.file, "reason": entry.reason} for entry in backing.ignored],
        "missing": backing.missing,
        "signed": [signature.signer for signature in backing.signatures],
        "version": backing.version,
        "waiting": list(backing.waiting),
    }
