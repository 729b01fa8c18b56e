"""Decide whether signatures make a bundle trusted. Bytes and values in, a decision out: no files, no clock, no network.

The steps are those of ``docs/trust.md``; the numbers in the code and in each refusal's ``rule`` are the same:

1. the policy is valid, not expired, not older than one used before; time never runs backwards;
2. the root files were hashed before anything in them was parsed (by the caller);
3. every signature file is exactly one signature; who signed is found by trying the signers the *policy* names, each by the kind and
   the algorithm the *policy* gives it; a file that claims a signer of the policy and does not verify is refused;
4. exactly one payload is signed, by enough distinct signers; its subjects are the root files' hashes;
5. stream, predicate type, serial, floor, times and revocation allow this bundle now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from audit.verify import keyless
from audit.verify.recognise import Judge, recognise
from audit.verify.result import Ignored, Signature, Statement
from manifests import canonical
from manifests.errors import AirgapError, InvalidFileError, RefusedError, TrustError
from manifests.policy import Policy
from manifests.statement import SHA512SUMS, SUBJECTS, DigestMap, Predicate
from manifests.statement import Statement as Signed

CLOCK_SKEW = timedelta(hours=24)  # a statement may be this far ahead of this machine's clock, and the clock this far behind itself


@dataclass(frozen=True, slots=True)
class Memory:
    """What this site remembers of a stream: highest serial and its index sha256, last time seen, the policy used and its version."""

    serial: int | None = None
    root: str | None = None
    last_seen: datetime | None = None
    policy_version: int | None = None
    policy_sha256: str | None = None

    @property
    def fresh(self) -> bool:
        """Say whether no bundle is remembered, so that nothing protects from an older one."""
        return self.serial is None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A bundle whose signatures are accepted; ``now`` is the time that was used."""

    statement: Statement
    signatures: tuple[Signature, ...]
    ignored: tuple[Ignored, ...]
    now: datetime


def judge(
    policy: Policy,
    subjects: DigestMap,
    files: Iterable[tuple[str, bytes]],
    memory: Memory,
    now: datetime,
    *,
    policy_sha256: str | None = None,
    ask: Judge = keyless.judge,
) -> Judgement:
    """Return the judgement over one bundle; raises RefusedError with every reason there is.

    ``subjects`` are the digests of the root files as found; ``files`` the raw signature files by name; ``policy_sha256`` is that of the
    policy's file; ``ask`` judges keyless signatures.
    """
    now = check_policy(policy, policy_sha256, memory, now)
    signatures, ignored, payload = _signers(policy, files, now, ask)
    try:
        claims = Signed.parse(payload, "signed statement")
        predicate = claims.bundle("signed statement")
    except InvalidFileError as error:
        raise RefusedError((TrustError(error.message, hint=error.hint, rule="5.statement"),)) from None
    root = subjects["index.json"]["sha256"]
    refuse([*_subject_reasons(claims, subjects, policy), *_freshness_reasons(predicate, policy, root, memory, now)])
    return Judgement(_statement(predicate), signatures, ignored, now)


def check_policy(policy: Policy, sha256: str | None, memory: Memory, clock: datetime) -> datetime:
    """Return the time that counts if ``policy`` may be used at this site now (step 1); raises RefusedError.

    A version later than the one remembered is refused: its succession is proven first, by ``audit.verify.pinned``.
    """
    now = max(clock, memory.last_seen or clock)
    refuse(_policy_reasons(policy, sha256, memory, clock, now))
    return now


def refuse(reasons: Iterable[AirgapError]) -> None:
    """Raise RefusedError if there is any reason."""
    found = tuple(reasons)
    if found:
        raise RefusedError(found)


def _policy_reasons(
    policy: Policy, sha256: str | None, memory: Memory, clock: datetime, now: datetime
) -> Iterator[TrustError]:  # step 1
    if now - clock > CLOCK_SKEW:  # a difference cannot overflow, a sum can
        yield TrustError(
            f"clock: this machine says {canonical.stamp(clock)}, this site has seen {canonical.stamp(now)}",
            hint="set this machine's clock; if what the site remembers is wrong, see `airgap-audit state --help`",
            rule="1.clock",
        )
    if policy.expires_at <= now:
        message = f"policy: expired on {policy.expires}, it is {canonical.stamp(now)}"
        yield TrustError(message, hint="get the site's current policy", rule="1.policy-expired")
    if memory.policy_version and policy.version < memory.policy_version:
        yield TrustError(
            f"policy: version {policy.version}, this site has used version {memory.policy_version}",
            hint="use the newer policy; going back to an older one is refused",
            rule="1.policy-rollback",
        )
    if memory.policy_version and policy.version > memory.policy_version:
        yield TrustError(
            f"policy: version {policy.version}, this site has used version {memory.policy_version}, and that it follows is not proven",
            hint="`airgap-audit policy accept` it, with its signatures beside it",
            rule="1.succession-unproven",
        )
    known = memory.policy_sha256 and sha256 and policy.version == memory.policy_version
    if known and sha256 != memory.policy_sha256:
        yield TrustError(
            f"policy: version {policy.version} has sha256 {sha256}, this site has used one with sha256 {memory.policy_sha256}",
            hint="ask which is the site's; a changed policy is a new version (`airgap-bundle policy rotate`)",
            rule="1.policy-changed",
        )


def _signers(
    policy: Policy, files: Iterable[tuple[str, bytes]], now: datetime, ask: Judge
) -> tuple[tuple[Signature, ...], tuple[Ignored, ...], bytes]:
    found = recognise(policy, files, now, ask)  # step 3
    refuse(found.failures)
    accepted: dict[bytes, dict[str, Signature]] = {}
    ignored = list(found.ignored)
    for payload, signature in found.signatures:
        if reason := discounted(policy, signature, accepted.get(payload, {})):
            ignored.append(Ignored(signature.file, reason))
        else:
            accepted.setdefault(payload, {})[signature.signer] = signature
    return (*_counted(policy, accepted, sorted(ignored, key=lambda entry: entry.file)), next(iter(accepted)))


def discounted(policy: Policy, signature: Signature, counted: dict[str, Signature]) -> str | None:
    """Say why a signature does not count beside those ``counted`` by name, None if it does (step 4)."""
    if signature.signer in policy.revoked.signers:
        return f"signer {signature.signer} is revoked by the policy"
    if signature.signer not in policy.roles.bundle.signers:
        return f"signer {signature.signer} may not sign bundles"
    if owner := policy.revoked_key(signature.key_id):
        return f"made with the key of {owner}, who is revoked by the policy"
    if signature.signer in counted:
        return f"signer {signature.signer} counts once, by {counted[signature.signer].file}"
    same = next((other for other in counted.values() if other.key_id == signature.key_id), None)
    return f"made with the key that signed as {same.signer}: one key counts once" if same else None


def _counted(
    policy: Policy, accepted: dict[bytes, dict[str, Signature]], ignored: list[Ignored]
) -> tuple[tuple[Signature, ...], tuple[Ignored, ...]]:  # step 4
    if len(accepted) > 1:
        names = ", ".join(sorted({name for signers in accepted.values() for name in signers}))
        hint = "this is a mix of two bundles: distrust it"
        refuse([TrustError(f"signatures: {names} signed different statements", hint=hint, rule="4.one-statement")])
    signers = next(iter(accepted.values()), {})
    missing = policy.missing(policy.roles.bundle, signers)
    if missing:
        who = f"signed by {', '.join(sorted(signers))}" if signers else "signed by nobody this policy names"
        passed = "".join(f"; {entry.file}: {entry.reason}" for entry in ignored)
        hint = "have the missing signers sign, or check the policy"
        refuse([TrustError(f"signatures: {missing} ({who}{passed})", hint=hint, rule="4.threshold")])
    return tuple(signers[name] for name in sorted(signers)), tuple(ignored)


def _subject_reasons(claims: Signed, subjects: DigestMap, policy: Policy) -> Iterator[TrustError]:
    signed = {subject.name: subject.digest.digests for subject in claims.subject}
    if tuple(subject.name for subject in claims.subject) not in {SUBJECTS, (*SUBJECTS, SHA512SUMS)}:
        message = f"signed statement: its subjects are not {', '.join(SUBJECTS)}, with or without {SHA512SUMS}"
        yield TrustError(message, hint="these signatures are for something else", rule="4.subjects")
        return
    if SHA512SUMS in subjects and SHA512SUMS not in signed:
        message = f"{SHA512SUMS}: does not belong to the bundle: it is here, and not signed"
        yield TrustError(message, hint="nothing unsigned may travel with it", rule="4.subjects")
    if SHA512SUMS in signed and SHA512SUMS not in subjects:
        message = f"{SHA512SUMS}: missing: it is signed, and not here"
        yield TrustError(message, hint="the bundle is incomplete; copy it again from its source", rule="4.subjects")
    if policy.profile == "cnsa" and (SHA512SUMS not in signed or not all("sha512" in digests for digests in signed.values())):
        message = "signed statement: states no SHA-512 sums, which the policy's profile cnsa requires"
        yield TrustError(message, hint="write `profile: cnsa` into bundle.yaml; lock, build and sign again", rule="4.sha512")
    for name in (name for name in signed if name in subjects):
        wrong = next((algorithm for algorithm, value in signed[name].items() if subjects[name].get(algorithm) != value), None)
        if wrong:
            message = f"{name}: is {wrong} {subjects[name].get(wrong)}, signed was {signed[name][wrong]}"
            yield TrustError(message, hint="the file is damaged or was changed; copy the bundle again", rule="4.subjects")


def _freshness_reasons(predicate: Predicate, policy: Policy, root: str, memory: Memory, now: datetime) -> Iterator[TrustError]:  # step 5
    if predicate.stream != policy.stream:
        message = f"stream: bundle is for {predicate.stream!r}, policy for {policy.stream!r}"
        yield TrustError(message, hint="use the policy of that stream", rule="5.stream")
    created, expires = canonical.moment(predicate.created), canonical.moment(predicate.expires)
    if created - now > CLOCK_SKEW:
        message = f"created: {predicate.created} is after now, {canonical.stamp(now)}"
        yield TrustError(message, hint="set this machine's clock", rule="5.created")
    if expires <= now:
        message = f"expires: {predicate.expires} has passed, it is {canonical.stamp(now)}"
        yield TrustError(message, hint="get a newer bundle", rule="5.expired")
    if root in policy.revoked.roots:
        yield TrustError(f"index.json: bundle sha256:{root} is revoked by the policy", hint="get another bundle", rule="5.revoked")
    yield from _serial_reasons(predicate.serial, policy, root, memory)


def _serial_reasons(serial: int, policy: Policy, root: str, memory: Memory) -> Iterator[TrustError]:
    if serial < policy.min_serial:
        yield TrustError(f"serial: {serial} is below the policy's floor {policy.min_serial}", hint="get a newer bundle", rule="5.floor")
    if memory.serial is None:
        return
    if serial < memory.serial:
        yield TrustError(f"serial: {serial}, this site has already accepted {memory.serial}", hint="going back is refused", rule="5.serial")
    if serial == memory.serial and root != memory.root:
        message = f"serial: {serial} was accepted before with another content"
        yield TrustError(message, hint="ask the signers which is theirs", rule="5.equivocation")


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
