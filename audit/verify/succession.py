"""Decide whether one policy may follow another, by TUF's rule for its root. Bytes and values in, a decision out: no files, no clock.

Rules: the next version is one higher, of the same stream, and names the sha256 of the one before; its statement (``payload``: the same
bytes for everybody, with no clock in them) is signed by enough of those who may sign policies under *both* versions; whom a version
revokes does not count under it, and one key counts once. The version before may have expired, since only its keys are used; the next
one must not have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from audit.verify import keyless
from audit.verify.recognise import Judge, recognise
from audit.verify.result import Ignored, Signature
from audit.verify.trust import refuse
from manifests import canonical
from manifests.errors import AirgapError, TrustError
from manifests.policy import Policy
from manifests.statement import policy_payload

Files = Iterable[tuple[str, bytes]]
IN_ORDER = "accept the versions between in their order, each with its signatures: `airgap-audit policy accept`"


@dataclass(frozen=True, slots=True)
class Backing:
    """Who signed a policy, as one version judges them.

    ``missing`` says what is lacking, None if nothing is; ``waiting`` are those who may sign and have not; ``failures`` are
    the files that claim one of its signers and are not theirs.
    """

    version: int
    signatures: tuple[Signature, ...]
    ignored: tuple[Ignored, ...]
    failures: tuple[AirgapError, ...]
    waiting: tuple[str, ...]
    missing: str | None

    @property
    def words(self) -> str:
        """Say who signed and who did not, for people."""
        signed = ", ".join(signature.signer for signature in self.signatures) or "nobody who counts"
        return f"signed by {signed}" + (f", not by {', '.join(self.waiting)}" if self.waiting else "")


@dataclass(frozen=True, slots=True)
class Succession:
    """A policy that may follow another, and who said so under each of the two."""

    old: Backing
    new: Backing


def payload(raw: bytes, policy: Policy) -> bytes:
    """Return the bytes to sign for the policy whose file is ``raw``."""
    return policy_payload(raw, stream=policy.stream, version=policy.version, previous=policy.previous)


def backing(policy: Policy, signed: bytes, files: Files, now: datetime, ask: Judge = keyless.judge) -> Backing:
    """Return who of those who may sign policies under ``policy`` made which of ``files`` over exactly the payload ``signed``."""
    found = recognise(policy, files, now, ask)
    counted: dict[str, Signature] = {}
    ignored = list(found.ignored)
    for over, signature in found.signatures:
        if reason := _discounted(policy, signature, counted, same=over == signed):
            ignored.append(Ignored(signature.file, reason))
        else:
            counted[signature.signer] = signature
    usable = [name for name in policy.roles.policy.signers if name not in policy.revoked.signers]
    waiting = tuple(name for name in usable if name not in counted)
    missing = policy.missing(policy.roles.policy, counted)
    signatures = tuple(counted[name] for name in sorted(counted))
    return Backing(policy.version, signatures, tuple(ignored), tuple(found.failures), waiting, missing)


def succeed(old_raw: bytes, new_raw: bytes, files: Files, now: datetime, ask: Judge = keyless.judge) -> Succession:
    """Return who lets the policy ``new_raw`` follow ``old_raw``; raises RefusedError with every reason why it may not.

    ``files`` are the raw signature files of the new policy, by name; ``now`` is the time that counts.
    """
    old, new = Policy.parse(old_raw, "the policy in force"), Policy.parse(new_raw, "the next policy")
    refuse(_link_reasons(old, hashlib.sha256(old_raw).hexdigest(), new, now))
    listed = tuple(files)
    signed = payload(new_raw, new)
    done = Succession(backing(old, signed, listed, now, ask), backing(new, signed, listed, now, ask))
    refuse([*_forged(done), *_threshold_reasons(done)])
    return done


def _link_reasons(old: Policy, sha256: str, new: Policy, now: datetime) -> Iterator[TrustError]:
    if new.stream != old.stream:
        message = f"policy: is for stream {new.stream!r}, the one in force for {old.stream!r}"
        yield TrustError(message, hint="use the policy of that stream", rule="1.succession-stream")
    if new.version != old.version + 1:
        message = f"policy: version {new.version} cannot follow version {old.version} directly"
        hint = IN_ORDER if new.version > old.version else "going back is refused; use the newer policy"
        yield TrustError(message, hint=hint, rule="1.succession-version")
    elif new.previous != sha256:
        message = f"policy: version {new.version} follows the policy with sha256 {new.previous}, the one in force has {sha256}"
        hint = "it was made from another file than this site uses: `airgap-bundle policy rotate` the site's own"
        yield TrustError(message, hint=hint, rule="1.succession-previous")
    if new.expires_at <= now:
        message = f"policy: version {new.version} expired on {new.expires}, it is {canonical.stamp(now)}"
        yield TrustError(message, hint="make one that lasts: `airgap-bundle policy rotate --expires-in`", rule="1.policy-expired")


def _discounted(policy: Policy, signature: Signature, counted: dict[str, Signature], *, same: bool) -> str | None:
    name = signature.signer
    if not same:
        return f"{name} signed something else than exactly this policy"
    if name in policy.revoked.signers:
        return f"signer {name} is revoked by version {policy.version}"
    if name not in policy.roles.policy.signers:
        return f"signer {name} may not sign policies under version {policy.version}"
    if owner := policy.revoked_key(signature.key_id):
        return f"made with the key of {owner}, who is revoked by version {policy.version}"
    if name in counted:
        return f"signer {name} counts once, by {counted[name].file}"
    twin = next((other for other in counted.values() if other.key_id == signature.key_id), None)
    return f"made with the key that signed as {twin.signer}: one key counts once" if twin else None


def _forged(done: Succession) -> Iterator[TrustError]:
    """Yield every file that claims a signer and is not theirs; one that the other version accepts, by a newer root for example, is none."""
    seen: set[str] = set()
    for mine, other in ((done.old, done.new), (done.new, done.old)):
        good = tuple(f"{signature.file}: " for signature in other.signatures)
        for failure in mine.failures:
            if not failure.message.startswith(good) and failure.message not in seen:
                seen.add(failure.message)
                yield TrustError(failure.message, hint=failure.hint, rule="1.succession-signature")


def _threshold_reasons(done: Succession) -> Iterator[TrustError]:
    asked = (
        (done.old, "1.succession-old-threshold", "the policy in force"),
        (done.new, "1.succession-new-threshold", "the next policy itself"),
    )
    for under, rule, whose in asked:
        if under.missing:
            passed = "".join(f"; {entry.file}: {entry.reason}" for entry in under.ignored)
            message = f"policy: version {done.new.version} is not signed as version {under.version}, {whose}, asks: {under.missing}"
            hint = "have those who are missing sign it: `airgap-bundle policy sign`; its signatures stand in the folder beside it"
            yield TrustError(f"{message} ({under.words}{passed})", hint=hint, rule=rule)
