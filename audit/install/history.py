"""What was accepted at a store, as its journal and receipts show: the second witness to what the state remembers.

Rules: the journal's chain is checked as it is read; a line says what was done, so lines of what was only begun or refused count for
nothing; what was forgotten on purpose counts from then on no more; a receipt counts where the journal does not tell of its generation.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path

from audit import journal
from audit.install import receipts
from audit.install.store import Store
from audit.journal import Entry
from audit.verify.trust import Memory
from manifests import canonical
from manifests.errors import AirgapError, IntegrityError

INSTALLED = frozenset({"done", "unchanged"})


def history(root: Path) -> dict[str, Memory]:
    """Return what journal and receipts of the store at ``root`` show was accepted, by stream, since it was last forgotten on purpose.

    Raises IntegrityError if the journal is damaged.
    """
    found: dict[str, Memory] = {}
    told: set[str] = set()  # generations of which the journal tells all
    forgotten: set[str] = set()
    for entry in journal.entries(root):
        stream, what = entry.detail("stream"), (entry.operation, entry.outcome)
        if stream is None:
            continue
        if what == ("state", "forgotten"):
            _forgotten(found, forgotten, stream, entry)
        elif what[0] in {"install", "feed"} and what[1] in INSTALLED:
            told.add(entry.detail("generation") or "")
            found[stream] = _later(found.get(stream, Memory()), _installed(root, entry))
        elif what in {("policy", "accepted"), ("policy", "pinned")}:
            found[stream] = _later(found.get(stream, Memory()), _in_force(entry))
    for receipt in _receipts(root, told):
        if receipt.stream not in forgotten:
            found[receipt.stream] = _later(found.get(receipt.stream, Memory()), _of_receipt(receipt))
    return found


def lacks(memory: Memory, shown: Memory) -> str | None:
    """Say what of what is ``shown`` the memory of the same stream lacks, None if nothing."""
    if memory == Memory():
        return f"remembers nothing, and {words(shown)} was accepted"
    behind = (memory.serial if memory.serial is not None else -1) < (shown.serial if shown.serial is not None else -1)
    if behind or (memory.policy_version or 0) < (shown.policy_version or 0):
        return f"remembers {words(memory)}, and {words(shown)} was accepted"
    return None


def words(memory: Memory) -> str:
    """Say what is remembered, briefly."""
    if memory == Memory():
        return "nothing"
    serial = f"serial {memory.serial}" if memory.serial is not None else "no bundle yet"
    return f"{serial}, policy version {memory.policy_version}"


def _forgotten(found: dict[str, Memory], forgotten: set[str], stream: str, entry: Entry) -> None:
    if entry.detail("what") == "time":
        if stream in found:
            found[stream] = replace(found[stream], last_seen=canonical.moment(entry.time))
        return
    found.pop(stream, None)
    forgotten.add(stream)


def _installed(root: Path, entry: Entry) -> Memory:
    version = entry.detail("policyVersion") or _version(root, entry.detail("generation"))
    serial, bundle, policy = (entry.detail(key) or "" for key in ("serial", "bundle", "policy"))
    return Memory(
        int(serial) if serial.isdigit() else None,
        bundle.removeprefix("sha256:") or None,
        canonical.moment(entry.time),
        int(version) if version and version.isdigit() else None,
        policy.removeprefix("sha256:") or None,
    )


def _version(root: Path, generation: str | None) -> str | None:
    """Return the policy's version of an install whose journal line does not say it, from its receipt."""
    try:
        return str(receipts.read(Store(root), int(generation or "")).policy_version)
    except (AirgapError, ValueError):
        return None


def _in_force(entry: Entry) -> Memory:
    version, policy = entry.detail("policyVersion") or "", entry.detail("policy") or ""
    number = int(version) if version.isdigit() else None
    return Memory(None, None, canonical.moment(entry.time), number, policy.removeprefix("sha256:") or None)


def _of_receipt(receipt: receipts.Receipt) -> Memory:
    seen = canonical.moment(receipt.installed)
    return Memory(receipt.serial, receipt.bundle, seen, receipt.policy_version, receipt.policy_sha256)


def _receipts(root: Path, told: AbstractSet[str]) -> Iterator[receipts.Receipt]:
    """Yield the receipts of generations that are not ``told`` of: reading one costs, and a store has many."""
    store = Store(root)
    for number in (number for number in store.receipts() if str(number) not in told):
        try:
            yield receipts.read(store, number)
        except IntegrityError:
            continue  # `airgap-audit check` tells of it


def _later(known: Memory, new: Memory) -> Memory:
    """Return the higher value of each; of two policies of one version the newer one."""
    serial, root = known.serial, known.root
    if new.serial is not None and new.serial >= (serial if serial is not None else -1):
        serial, root = new.serial, new.root
    version, sha256 = known.policy_version, known.policy_sha256
    if new.policy_version is not None and new.policy_version >= (version or 0):
        version, sha256 = new.policy_version, new.policy_sha256
    seen = max(time for time in (known.last_seen, new.last_seen) if time) if known.last_seen or new.last_seen else None
    return Memory(serial, root, seen, version, sha256)
