"""What the commands about policies and memory say: every result as data for programs and as text for people. Decides nothing."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from audit import explain
from audit.install.memory import UNKNOWN, Accepted, Compared, Recovered
from audit.journal import Head
from audit.terminal import Report, counted
from audit.verify.pinned import Presented
from audit.verify.trust import Memory
from manifests import canonical

PINNED = (
    "This site now trusts it because of the hash you typed, and nobody's signature was asked. Who gave you that paper decided whom "
    "this site trusts."
)
TYPED = "The hash you typed is that of the policy in force; nothing was changed."


def accepted(result: Accepted) -> Report:
    """Tell which policy is in force now, and why."""
    policy, before = result.presented.policy, result.before
    verb = "is in force now" if result.changed else "was in force already"
    lines = [f"version {policy.version} of the policy for stream {policy.stream} {verb}", f"sha256 {result.presented.sha256}"]
    if result.pinned:
        lines.append(PINNED if result.changed else TYPED)
    lines += [f"by version {side.version}: {side.words}" for side in (result.old, result.new) if side]
    if before.policy_version and result.changed:
        lines.append(f"before: version {before.policy_version}, sha256 {before.policy_sha256 or 'not known'}")
    lines.append(f"older versions are refused from now on; journal: {_entries(result.journal)}")
    data = {
        "changed": result.changed,
        "journal": _head(result.journal),
        "pinned": result.pinned,
        "previous": {"sha256": before.policy_sha256, "version": before.policy_version},
        "sha256": result.presented.sha256,
        "signers": {
            which: [signature.signer for signature in side.signatures] for which, side in (("old", result.old), ("new", result.new)) if side
        },
        "stream": policy.stream,
        "version": policy.version,
    }
    return Report(data, "\n".join(lines))


def policies(found: tuple[tuple[str, Memory, Presented | None], ...], now: datetime, out: Path | None) -> Report:
    """Explain the policies in force."""
    lines: list[str] = [f"{out}: written"] if out else []
    for stream, memory, presented in found:
        lines += [""] if lines else []
        if presented:
            lines += explain.sentences(presented.policy, presented.sha256, now)
        else:
            lines.append(f"{stream}: version {memory.policy_version}, sha256 {memory.policy_sha256 or 'not known'}; its file was not kept")
    listed = [
        {
            "policy": presented.policy.model_dump(mode="json") if presented else None,
            "sha256": memory.policy_sha256,
            "stream": stream,
            "version": memory.policy_version,
        }
        for stream, memory, presented in found
    ]
    return Report({"policies": listed}, "\n".join(lines) or "no policy is in force: none was accepted yet")


def remembered(folder: Path, found: tuple[Compared, ...]) -> Report:
    """Tell what is remembered, stream by stream; a stream of which the journal shows more ends with exit code 3."""
    lines = [] if found else [f"{folder}: no stream is remembered"]
    for entry in found:
        lines += [f"{entry.stream}: {_words(entry.memory)}", *([f"  LOST: {entry.lost}"] if entry.lost else [])]
    listed = [{"lost": entry.lost, "stream": entry.stream, **_data(entry.memory)} for entry in found]
    return Report({"folder": str(folder), "streams": listed}, "\n".join(lines), 3 if any(entry.lost for entry in found) else 0)


def recovered(result: Recovered) -> Report:
    """Tell what was rebuilt, and what cannot be known."""
    lines = [f"{result.folder}: {'rebuilt from journal and receipts' if result.changed else 'nothing was lost; left as it is'}"]
    lines += [f"the damaged file is kept as {result.aside}"] if result.aside else []
    lines += [f"{name}: {_words(memory)}" for name, memory in result.streams]
    lines += ["not known:", *(f"  - {text}" for text in UNKNOWN)] if result.changed else []
    lines.append(f"journal: {_entries(result.journal)}")
    data = {
        "aside": result.aside,
        "changed": result.changed,
        "journal": _head(result.journal),
        "notKnown": list(UNKNOWN),
        "streams": [{"stream": name, **_data(memory)} for name, memory in result.streams],
    }
    return Report(data, "\n".join(lines))


def forgotten(stream: str, was: Memory, head: Head, *, only_time: bool) -> Report:
    """Tell what is no longer remembered, and what that means."""
    done = f"forgotten, was {_words(was)}"
    meaning = "its next policy and bundle are taken as the first ever, whatever version and serial: compare the policy's sha256 with paper"
    if only_time:
        done = f"only the last time seen is forgotten, was {_seen(was)}"
        meaning = "the last time seen is now this machine's; serial and policy are remembered as before"
    lines = [f"{stream}: {done}", meaning, f"journal: {_entries(head)}"]
    return Report({"journal": _head(head), "onlyTime": only_time, "stream": stream, "was": _data(was)}, "\n".join(lines))


def _words(memory: Memory) -> str:
    if memory == Memory():
        return "nothing"
    serial = f"serial {memory.serial}, bundle sha256:{memory.root}" if memory.serial is not None else "no bundle yet"
    return f"{serial}; policy version {memory.policy_version}, sha256 {memory.policy_sha256 or 'not known'}; last seen {_seen(memory)}"


def _seen(memory: Memory) -> str:
    return canonical.stamp(memory.last_seen) if memory.last_seen else "never"


def _entries(head: Head) -> str:
    return f"{counted(head.count, 'entry', many='entries')}, head {head.sha256}"


def _data(memory: Memory) -> dict[str, Any]:
    return {
        "lastSeen": canonical.stamp(memory.last_seen) if memory.last_seen else None,
        "policySha256": memory.policy_sha256,
        "policyVersion": memory.policy_version,
        "root": memory.root,
        "serial": memory.serial,
    }


def _head(head: Head) -> dict[str, Any]:
    return {"entries": head.count, "head": head.sha256}
