"""Decide whether signatures make a bundle trusted. Bytes and values in, a decision out: no files, no clock, no network.

The steps are those of ``docs/trust.md``; numbers in the code are the same:

1. the policy is valid, not expired, not older than one used before; time never runs backwards;
2. the three root files were hashed before anything in them was parsed (by the caller);
3. every signature file is exactly one signature; who signed is found by trying the keys the *policy* names, each with
   the algorithm the *policy* gives it; a file that claims a signer of the policy and does not verify is refused;
4. exactly one payload is signed, by enough distinct signers; its subjects are the two hashes;
5. stream, predicate type, serial, floor, times and revocation allow this bundle now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from audit.verify.result import Ignored, Signature, Statement
from manifests import canonical
from manifests.errors import AirgapError, InvalidFileError, RefusedError, TrustError
from manifests.policy import Policy
from manifests.publickey import PublicKey
from manifests.statement import SUBJECTS, Envelope, Predicate, hint
from manifests.statement import Statement as Signed

CLOCK_SKEW = timedelta(hours=24)  # a statement may be this far ahead of this machine's clock
HASHES: dict[str, hashes.HashAlgorithm] = {"ecdsa-p256-sha256": hashes.SHA256(), "ecdsa-p384-sha384": hashes.SHA384()}


@dataclass(frozen=True, slots=True)
class Memory:
    """What this site remembers of a stream: highest serial and its index sha256, last time seen, highest policy version."""

    serial: int | None = None
    root: str | None = None
    last_seen: datetime | None = None
    policy_version: int | None = None

    @property
    def fresh(self) -> bool:
        """Say whether nothing is remembered, so that nothing protects from an older bundle."""
        return self == Memory()


@dataclass(frozen=True, slots=True)
class Judgement:
    """A bundle whose signatures are accepted; ``now`` is the time that was used."""

    statement: Statement
    signatures: tuple[Signature, ...]
    ignored: tuple[Ignored, ...]
    now: datetime


def judge(
    policy: Policy, subjects: tuple[tuple[str, str], ...], files: Iterable[tuple[str, bytes]], memory: Memory, now: datetime
) -> Judgement:
    """Return the judgement over one bundle; raises RefusedError with every reason there is.

    ``subjects`` are the sha256 (hex) of ``index.json`` and ``SHA256SUMS`` as found; ``files`` the raw signature files by name.
    """
    now = max(now, memory.last_seen or now)
    refuse(_policy_reasons(policy, memory, now))
    signatures, ignored, payload = _signers(policy, files)
    try:
        claims = Signed.parse(payload, "signed statement")
        predicate = claims.bundle("signed statement")
    except InvalidFileError as error:
        raise RefusedError((error,)) from None
    root = dict(subjects)["index.json"]
    refuse([*_subject_reasons(claims, subjects), *_freshness_reasons(predicate, policy, root, memory, now)])
    return Judgement(_statement(predicate), signatures, ignored, now)


def refuse(reasons: Iterable[AirgapError]) -> None:
    """Raise RefusedError if there is any reason."""
    found = tuple(reasons)
    if found:
        raise RefusedError(found)


def _policy_reasons(policy: Policy, memory: Memory, now: datetime) -> Iterator[TrustError]:  # step 1
    if policy.expires_at <= now:
        yield TrustError(f"policy: expired on {policy.expires}, it is {canonical.stamp(now)}", hint="get the site's current policy")
    if memory.policy_version and policy.version < memory.policy_version:
        yield TrustError(
            f"policy: version {policy.version}, this site has used version {memory.policy_version}",
            hint="use the newer policy; going back to an older one is refused",
        )


def _signers(policy: Policy, files: Iterable[tuple[str, bytes]]) -> tuple[tuple[Signature, ...], tuple[Ignored, ...], bytes]:
    accepted: dict[bytes, dict[str, Signature]] = {}
    ignored: list[Ignored] = []
    reasons: list[AirgapError] = []
    for name, raw in sorted(files):  # step 3
        try:
            envelope = Envelope.parse(raw, name)
            signature = _signature(policy, envelope, name)
        except AirgapError as error:
            reasons.append(error)
            continue
        if signature is None:
            ignored.append(Ignored(name, "made with no key of this policy"))
        elif reason := _discounted(policy, signature, accepted.get(envelope.payload, {})):
            ignored.append(Ignored(name, reason))
        else:
            accepted.setdefault(envelope.payload, {})[signature.signer] = signature
    refuse(reasons)
    return (*_counted(policy, accepted, ignored), next(iter(accepted)))


def _discounted(policy: Policy, signature: Signature, counted: dict[str, Signature]) -> str | None:
    if signature.signer in policy.revoked.signers:
        return f"signer {signature.signer} is revoked by the policy"
    if signature.signer not in policy.roles.bundle.signers:
        return f"signer {signature.signer} may not sign bundles"
    if signature.signer in counted:
        return f"signer {signature.signer} counts once, by {counted[signature.signer].file}"
    return None


def _counted(
    policy: Policy, accepted: dict[bytes, dict[str, Signature]], ignored: list[Ignored]
) -> tuple[tuple[Signature, ...], tuple[Ignored, ...]]:  # step 4
    role = policy.roles.bundle
    if len(accepted) > 1:
        names = ", ".join(sorted({name for signers in accepted.values() for name in signers}))
        refuse([TrustError(f"signatures: {names} signed different statements", hint="this is a mix of two bundles: distrust it")])
    signers = next(iter(accepted.values()), {})
    missing = role.missing(frozenset(signers))
    if missing:
        who = f"signed by {', '.join(sorted(signers))}" if signers else "signed by nobody this policy names"
        passed = "".join(f"; {entry.file}: {entry.reason}" for entry in ignored)
        refuse([TrustError(f"signatures: {missing} ({who}{passed})", hint="have the missing signers sign, or check the policy")])
    return tuple(signers[name] for name in sorted(signers)), tuple(ignored)


def _signature(policy: Policy, envelope: Envelope, file: str) -> Signature | None:
    for name, signer in sorted(policy.signers.items()):
        claimed = envelope.hint == hint(signer.key_id)
        valid = verifies(signer.public_key, signer.alg, envelope.signature, envelope.message)
        if valid and claimed:
            return Signature(name, signer.type, signer.alg, signer.key_id, file)
        if valid or claimed:
            what = "names another key than the one that signed" if valid else f"claims to be by {name} and does not verify"
            raise TrustError(f"{file}: {what}", hint="the file is damaged or forged: copy it again, or remove it and have it signed again")
    return None


def verifies(key: PublicKey, algorithm: str, signature: bytes, message: bytes) -> bool:
    """Say whether ``signature`` over ``message`` is valid for ``key`` with exactly ``algorithm``."""
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        else:
            key.verify(signature, message, ec.ECDSA(HASHES[algorithm]))
    except InvalidSignature:
        return False
    return True


def _subject_reasons(claims: Signed, subjects: tuple[tuple[str, str], ...]) -> Iterator[TrustError]:
    signed = [(subject.name, subject.digest.sha256) for subject in claims.subject]
    if tuple(name for name, _ in signed) != SUBJECTS:
        yield TrustError("signed statement: its subjects are not index.json and SHA256SUMS", hint="these signatures are for something else")
        return
    found = dict(subjects)
    for name, sha256 in signed:
        if found[name] != sha256:
            yield TrustError(
                f"{name}: is sha256 {found[name]}, signed was {sha256}", hint="the file is damaged or was changed; copy the bundle again"
            )


def _freshness_reasons(predicate: Predicate, policy: Policy, root: str, memory: Memory, now: datetime) -> Iterator[TrustError]:  # step 5
    if predicate.stream != policy.stream:
        yield TrustError(f"stream: bundle is for {predicate.stream!r}, policy for {policy.stream!r}", hint="use the policy of that stream")
    created, expires = canonical.moment(predicate.created), canonical.moment(predicate.expires)
    if created > now + CLOCK_SKEW:
        yield TrustError(f"created: {predicate.created} is after now, {canonical.stamp(now)}", hint="set this machine's clock")
    if expires <= now:
        yield TrustError(f"expires: {predicate.expires} has passed, it is {canonical.stamp(now)}", hint="get a newer bundle")
    if root in policy.revoked.roots:
        yield TrustError(f"index.json: bundle sha256:{root} is revoked by the policy", hint="get another bundle")
    yield from _serial_reasons(predicate.serial, policy, root, memory)


def _serial_reasons(serial: int, policy: Policy, root: str, memory: Memory) -> Iterator[TrustError]:
    if serial < policy.min_serial:
        yield TrustError(f"serial: {serial} is below the policy's floor {policy.min_serial}", hint="get a newer bundle")
    if memory.serial is None:
        return
    if serial < memory.serial:
        yield TrustError(f"serial: {serial}, this site has already accepted {memory.serial}", hint="going back is refused")
    if serial == memory.serial and root != memory.root:
        yield TrustError(f"serial: {serial} was accepted before with another content", hint="ask the signers which is theirs")


def _statement(predicate: Predicate) -> Statement:
    return Statement(
        predicate.stream,
        predicate.serial,
        canonical.moment(predicate.created),
        canonical.moment(predicate.expires),
        predicate.previous.sha256 if predicate.previous else None,
        predicate.policyVersion,
        f"{predicate.tool.name} {predicate.tool.version}",
    )
