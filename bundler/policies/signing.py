"""Sign a policy: everybody signs the same bytes, which follow from the file alone, and each signature is a file in the folder beside it.

Rules: what a signer would sign is checked first, against the version before where that is named; a signature that would count under
neither version is not written; a policy that has a signature is final.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from airgap_images.layout import alone, write_atomic
from audit.signers import Signer
from audit.verify import keyless
from audit.verify.pinned import Presented, read, signatures_folder
from audit.verify.recognise import Judge
from audit.verify.succession import Backing, Files, backing, payload
from bundler.policies.edit import CHANGING
from manifests.errors import RefusedError, TrustError, UsageError
from manifests.policy import Policy
from manifests.statement import SUFFIX, Envelope

_TORN = re.compile(rf"\..+{re.escape(SUFFIX)}\.[0-9a-f]{{16}}")  # what write_atomic leaves when it is killed


@dataclass(frozen=True, slots=True)
class Signed:
    """What was done, and who signed as each version sees it; ``old`` is None for the first version, and where it was not named.

    ``added`` is False if this key had signed before.
    """

    file: Path
    added: bool
    presented: Presented
    old: Backing | None
    new: Backing


def sign(path: Path, signer: Signer, now: datetime, previous: Path | None = None, ask: Judge = keyless.judge) -> Signed:
    """Add ``signer``'s signature to the policy at ``path``; raises UsageError or TrustError."""
    with alone(path.absolute().parent, CHANGING):
        folder = signatures_folder(path)
        _remove_torn(folder)
        found = read(path)
        policy = Policy.parse(found.raw, str(path))
        old = _before(policy, previous, path)
        signed = payload(found.raw, policy)
        present = [(name, Envelope.parse(raw, name)) for name, raw in found.files]
        _check_same(present, signed, folder)

        def judged(files: Files) -> list[Backing]:
            return [backing(version, signed, files, now, ask) for version in (old, policy) if version]

        mine = next((name for name, envelope in present if signer.made(envelope)), None)
        if mine is None:
            known = old is not None or policy.version == 1  # who decides whether this policy may follow is known
            mine = _written(folder, signer, signed, lambda name, raw: judged(((name, raw),)), known=known)
        after = read(path)
    *under_old, under_new = judged(after.files)
    return Signed(path.parent / mine, len(after.files) > len(found.files), after, under_old[0] if old else None, under_new)


def _remove_torn(folder: Path) -> None:
    for path in folder.glob(f".*{SUFFIX}.*"):
        if _TORN.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _before(policy: Policy, previous: Path | None, path: Path) -> Policy | None:
    """Return the version before, if it is named; raises UsageError if ``policy`` does not follow it."""
    if previous is None:
        return None
    old = read(previous)
    before = Policy.parse(old.raw, str(previous))
    if policy.previous != old.sha256:
        raise UsageError(
            f"{path}: does not follow {previous}: it names {policy.previous or 'no version before it'}, that file has sha256 {old.sha256}",
            hint=f"make it from that very file: `airgap-bundle policy rotate {previous} --out NEW`",
        )
    if policy.version != before.version + 1 or policy.stream != before.stream:
        message = f"{path}: version {policy.version} of stream {policy.stream!r} cannot follow {before.version} of {before.stream!r}"
        raise UsageError(message, hint=f"`airgap-bundle policy rotate {previous} --out NEW`")
    return before


def _check_same(present: list[tuple[str, Envelope]], signed: bytes, folder: Path) -> None:
    for name, envelope in present:
        if envelope.payload != signed:
            message = f"{name}: is over something else than this policy, which was changed after it was signed"
            raise TrustError(message, hint=f"bring the signed file back, or remove {folder} and have everybody sign anew")


def _written(folder: Path, signer: Signer, signed: bytes, judged: Callable[[str, bytes], list[Backing]], *, known: bool) -> str:
    file = folder / f"{signer.name}{SUFFIX}"
    name = f"{folder.name}/{file.name}"
    if file.exists():
        raise UsageError(f"{file}: another key has signed under this name", hint="give yours another name with --name")
    raw = signer.envelope(signed).to_bytes()
    under = judged(name, raw)
    if known and not any(each.signatures for each in under):
        failures = [failure for each in under for failure in each.failures]
        if failures:
            raise RefusedError(failures)
        reasons = dict.fromkeys(entry.reason for each in under for entry in each.ignored)
        message = f"{signer.name}: this signature would count for nothing: {'; '.join(reasons)}"
        raise UsageError(message, hint="sign with the key of somebody whom one of the two versions lets sign policies, see `policy show`")
    folder.mkdir(exist_ok=True)
    write_atomic(file, raw)
    return name
