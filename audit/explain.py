"""Say in plain sentences what a policy accepts and refuses. Values in, sentences out; both sides say the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from manifests import canonical
from manifests.identities import CertificateSigner
from manifests.paths import printable
from manifests.policy import CNSA, GATES, Policy, Role
from manifests.upstream import SignedRule

GROUP = 4  # characters read aloud at once
KINDS = {"key": "by key", "x509": "by certificate", "sigstore": "by Sigstore identity"}
DAY = timedelta(days=1)
FATES = {"warn": "let through with a warning", "refuse": "refused"}


def sentences(policy: Policy, sha256: str, now: datetime) -> tuple[str, ...]:
    """Return what the policy whose file has that sha256 (hex) says, one sentence or indented detail each."""
    parts = (_itself(policy, sha256, now), _bundles(policy), _next(policy), _people(policy), _refused(policy))
    return tuple(line for part in (*parts, _waived(policy, now), _others(policy)) for line in part)


def aloud(sha256: str) -> str:
    """Return a hash in groups, to be read aloud and compared."""
    return " ".join(sha256[at : at + GROUP] for at in range(0, len(sha256), GROUP))


def who(role: Role, revoked: Iterable[str] = ()) -> str:
    """Say how many of whom a role wants; whoever is ``revoked`` is not among them."""
    names = [name for name in role.signers if name not in revoked]
    text = names[0] if len(names) == role.threshold == 1 else f"{role.threshold} of {', '.join(names)}"
    groups = [[name for name in group if name not in revoked] for group in role.require_any_of]
    return text + "".join(f", among them {' or '.join(group)}," for group in groups)


def _itself(policy: Policy, sha256: str, now: datetime) -> Iterator[str]:
    yield f"This is version {policy.version} of the policy for stream {policy.stream}."
    yield f"Its sha256 is {sha256}; tell it to the site by another way."
    yield f"To read aloud: {aloud(sha256)}"
    if policy.previous:
        yield f"It follows version {policy.version - 1}, whose sha256 is {policy.previous}."
    else:
        yield "It is the first: a site takes it as given, so its sha256 must be compared there."
    if policy.expires_at <= now:
        yield f"It EXPIRED on {policy.expires}: nothing is accepted by it any more. `airgap-bundle policy rotate` makes the next."
    else:
        days = -((now - policy.expires_at) // DAY)
        yield f"It is valid until {policy.expires}, {days} days from now; after that nothing is accepted by it."


def _bundles(policy: Policy) -> Iterator[str]:
    role, gone = policy.roles.bundle, policy.revoked.signers
    yield f"A bundle is accepted when {who(role, gone)} signed it and its serial is {policy.min_serial} or higher."
    if policy.profile == "cnsa":
        yield f"Profile cnsa: among the signers there must be one with {CNSA[0]} and one with {CNSA[1]}, and SHA-512 sums are required."
    elif role.threshold == 1 and len(set(role.signers) - set(gone)) > 1:
        yield "One of them alone is enough: whoever has one of these keys decides. `airgap-bundle policy set-threshold` asks for more."
    yield "Any other signature counts for nothing, whatever a bundle says of itself."


def _next(policy: Policy) -> Iterator[str]:
    role, gone = policy.roles.policy, policy.revoked.signers
    yield f"The next version is accepted when {who(role, gone)} signed it, and enough of those whom it names itself."
    if role.threshold == 1 and len(set(role.signers) - set(gone)) > 1 and policy.profile == "default":
        yield "One of them alone can change who is trusted."


def _people(policy: Policy) -> Iterator[str]:
    yield "They are known:"
    for name, signer in sorted(policy.signers.items()):
        roles = [text for text, role in (("bundles", policy.roles.bundle), ("policies", policy.roles.policy)) if name in role.signers]
        may = f"may sign {' and '.join(roles)}" if roles else "may sign nothing"
        revoked = "; REVOKED: counts no longer" if name in policy.revoked.signers else ""
        yield f"  {name}: {KINDS[signer.type]}, {signer.words}; {may}{revoked}"


def _refused(policy: Policy) -> Iterator[str]:
    yield from (f"Bundle sha256:{root} is refused." for root in policy.revoked.roots)
    yield from (f"Any bundle with blob sha256:{blob} is refused." for blob in policy.revoked.blobs)
    yield from (f"A finding of high or critical severity at gate {name} is {FATES[what]}." for name, what in sorted(policy.gates.items()))
    other = [name for name in GATES if name not in policy.gates]
    if other:
        yield f"A finding of high or critical severity at gate {' or '.join(other)} is refused."


def _waived(policy: Policy, now: datetime) -> Iterator[str]:
    if policy.waivers:
        yield "Somebody decided to live with these findings:"
    for waiver in policy.waivers:
        over = "EXPIRED" if canonical.moment(waiver.expires) <= now else f"until {waiver.expires}"
        about = f" {waiver.about}" if waiver.about else ""
        yield f"  {waiver.check}{about} in {printable(waiver.subject)}: {printable(waiver.by)}, {over}: {printable(waiver.reason)}"
    yield (
        f"Vulnerability data older than {policy.freshness.warn} days is warned of; older than {policy.freshness.refuse} days, "
        "a build that is given this policy refuses it."
    )


def _others(policy: Policy) -> Iterator[str]:
    yield from _authorities(policy)
    yield from _images(policy)
    yield from _rules("models", policy.upstream.models)
    yield from _rules("wheels", policy.upstream.wheels)
    if policy.upstream.identities:
        yield "These people upstream are known:"
        yield from (f"  {name} is {identity.words}" for name, identity in sorted(policy.upstream.identities.items()))
    for name, root in sorted(policy.trusted_roots.items()):
        yield f"  trusted root {name}: sha256 {hashlib.sha256(canonical.compact(root)).hexdigest()} of its compact JSON"
    for builder in policy.slsa:
        signers = " or ".join(builder.signed_by)
        yield f"Provenance by {builder.id}, signed by {signers}, is believed up to SLSA build level {builder.level}."


def _authorities(policy: Policy) -> Iterator[str]:
    if policy.timestamp_authorities:
        yield "When something was signed is believed of these authorities (RFC 3161), and of Sigstore's logs:"
        yield from (f"  {name}: below {authority.words}" for name, authority in sorted(policy.timestamp_authorities.items()))
    elif any(isinstance(signer, CertificateSigner) for signer in policy.signers.values()):
        yield "No timestamp authority is named: a certificate must still be valid when a bundle is verified."


def _images(policy: Policy) -> Iterator[str]:
    rules = policy.upstream.images
    if not rules:
        yield "No rule says who signs images, so no upstream signature of one is judged; `policy upstream-image` adds a rule."
        return
    yield "Images are judged by the first of these rules that matches; one that none matches is not assessed:"
    for rule in rules:
        asked = [f"a signature by {' or '.join(rule.signed_by)}"] if rule.signed_by else []
        asked += [f"an attestation {wanted.predicate} by {' or '.join(wanted.by)}" for wanted in rule.attestations]
        yield f"  {rule.match}: {' and '.join(asked)}"


def _rules(sort: str, rules: tuple[SignedRule, ...]) -> Iterator[str]:
    if not rules:
        yield f"No rule says who signs {sort}, so no upstream signature of one is judged; `policy upstream-{sort[:-1]}` adds a rule."
        return
    yield f"{sort.capitalize()} are judged by the first of these rules that matches; one that none matches is not assessed:"
    yield from (f"  {rule.match}: a signature by {' or '.join(rule.signed_by)}" for rule in rules)
