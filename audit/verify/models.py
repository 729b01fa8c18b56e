"""Judge what upstream says of the models a bundle carries: ``model.sig`` in the model's folder, by the policy's rules about models.

Rules: of the first rule that matches the model's name one identity must have signed, by the kind and the algorithm the policy gives
it, and every file that is carried must be one that was signed, as it is. A ``model.sig`` that contradicts what is carried is wrong
whether anybody is named for the model or not. No network, nothing believed.

A model's name is ``<host>/<org>/<name>`` of its hub in lower case, or that of the component for a model from a local folder.
A certificate is judged as of a time that an authority of the policy states for the signature, else as of the certificate's own start,
as the format's own verifier does: nothing else in such a file says when it was made.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from cryptography import x509 as certificates

from airgap_images.bundle import Component
from airgap_images.layout import Layout
from airgap_images.oci import Descriptor
from audit.verify import keyless, model_content, oms, timestamps, x509
from audit.verify.claims import UnknownShapeError
from audit.verify.model_content import Content
from audit.verify.oms import Listing
from audit.verify.verdict import Judge, Outcome, Result, Seen, Verdict, several, valid
from manifests import canonical
from manifests.errors import AirgapError
from manifests.identities import CertificateSigner, SigstoreSigner
from manifests.paths import printable
from manifests.policy import Policy
from manifests.publickey import verifies
from manifests.statement import Envelope
from manifests.upstream import SignedRule, UpstreamKey

KINDS = {"key": "a plain key", "x509": "a chain of certificates", "sigstore": "a keyless certificate"}
_NOT_NAME = re.compile(r"[^a-z0-9._:/-]")

Asked = tuple[str, keyless.Question]


@dataclass(frozen=True, slots=True)
class _Trial:
    """A signature that was read: what keys and certificates gave, and what is to be asked about a keyless one."""

    by: str | None = None
    failed: tuple[str, ...] = ()
    asked: tuple[Asked, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Work:
    """A model before its verdict; ``problem`` says why its signature cannot be used."""

    component: str
    name: str
    rule: SignedRule | None
    seen: Seen | None = None
    problem: tuple[Outcome, str] | None = None
    payload: bytes = b""
    content: Content = field(default_factory=Content)
    trial: _Trial = field(default_factory=_Trial)


def assess(layout: Layout, components: Iterable[Component], policy: Policy | None, judge: Judge = keyless.judge) -> tuple[Verdict, ...]:
    """Return the verdict over each model among ``components``, in their order; without a policy nobody is named for any."""
    works = [_begun(layout, part, policy) for part in components if oms.is_model(part)]
    questions = tuple(question for work in works for _, question in work.trial.asked)
    answers = iter(judge(questions) if questions else ())
    return tuple(_ended(work, [next(answers) for _ in work.trial.asked]) for work in works)


def name_of(component: Component) -> str:
    """Return the name rules match a model by; empty if what the bundle states of it is none."""
    facts = component.facts
    stated = "/".join(filter(None, (facts.get("host"), facts.get("repo")))) if component.kind == "huggingface" else component.name
    return "" if _NOT_NAME.search(stated.lower()) else stated.lower()


def _begun(layout: Layout, component: Component, policy: Policy | None) -> _Work:
    name = name_of(component)
    work = _Work(component.name, name, policy.upstream.model_rule(name) if policy else None)
    try:
        model = oms.model(layout, component)
        file = model.signature
        if file is None:
            return work
        what = f"{component.name}/{oms.FILE}"
        work = replace(work, seen=Seen("signature", oms.FILE, None, component.root.digest, file.digest, (), None, "wrong", ""))
        found = oms.parse(layout.read(Descriptor("application/json", file.digest, file.size), oms.MAX_FILE), what)
        content = model_content.compare(layout, model, found.listing)
    except AirgapError as error:
        return replace(work, problem=("unverifiable" if isinstance(error, UnknownShapeError) else "wrong", printable(error.message, 600)))
    trial = _trial(found.envelope, work.rule, policy) if work.rule and policy else _Trial()
    return replace(work, seen=_stated(work.seen, found.listing), payload=found.envelope.payload, content=content, trial=trial)


def _stated(seen: Seen | None, listing: Listing) -> Seen | None:
    return replace(seen, predicate=oms.PREDICATE, subject=listing.root, about=(listing.root,)) if seen else None


def _trial(envelope: Envelope, rule: SignedRule, policy: Policy) -> _Trial:
    """Try a signature with everyone the rule names, each by what the policy says of them."""
    failed: list[str] = []
    asked: list[Asked] = []
    for name in rule.signed_by:
        identity = policy.upstream.identities[name]
        if identity.type != envelope.kind:
            failed.append(f"not {name}: it was made with {KINDS[envelope.kind]}")
        elif isinstance(identity, SigstoreSigner):
            root = canonical.compact(policy.trusted_roots[identity.trusted_root])
            asked.append((name, keyless.Question(envelope.raw, None, identity.identity, identity.issuer, root, identity.repository)))
        elif isinstance(identity, UpstreamKey):
            if valid(identity, envelope.signature, envelope.message):
                return _Trial(name)
            failed.append(f"no valid signature with the key of {name}")
        else:
            why, notes = _certified(identity, envelope, policy)
            if not why:
                return _Trial(name, notes=notes)
            failed.append(f"not {name}: {why}")
    return _Trial(None, tuple(failed), tuple(asked))


def _certified(identity: CertificateSigner, envelope: Envelope, policy: Policy) -> tuple[str, tuple[str, ...]]:
    """Return why a signature is not by the holder of a certificate, empty if it is, and what about it could not be checked."""
    time, notes = timestamps.earliest(policy.timestamp_authorities, envelope.timestamps, envelope.signature)
    if time is None:
        notes = (*notes, "no authority states when it was signed: the certificate was judged as of its start")
    try:
        leaf = x509.leaf(identity, envelope.chain, time or _start(envelope.chain[0]), cnsa=policy.profile == "cnsa")
    except ValueError as error:
        return printable(str(error)), ()
    if leaf is None:
        return "the certificate bears another name", ()
    if not verifies(leaf.key, identity.alg, envelope.signature, envelope.message):
        return "the signature is not by the key in the certificate", ()
    return "", (*notes, *leaf.notes)


def _start(der: bytes) -> datetime:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a hostile certificate has that none should
            return certificates.load_der_x509_certificate(der).not_valid_before_utc
    except (ValueError, TypeError, certificates.InvalidVersion):
        raise ValueError("the certificate cannot be read") from None


def _ended(work: _Work, answers: list[keyless.Answer]) -> Verdict:
    outcome, by, reason = _signature(work, answers)
    result, why = _result(work, outcome, by, reason)
    seen = (replace(work.seen, by=by, result=outcome, reason=reason),) if work.seen else ()
    return Verdict(work.component, work.name, work.rule.match if work.rule else None, result, why, seen, sort="model")


def _signature(work: _Work, answers: list[keyless.Answer]) -> tuple[Outcome, str | None, str]:
    """Return what became of the signature as such, who made it, and why."""
    if work.problem:
        outcome, why = work.problem
        return outcome, None, why
    if work.rule is None:
        return "not asked for", None, "the policy names nobody for this model"
    if work.trial.by:
        return "good", work.trial.by, "; ".join((f"signed by {work.trial.by}", *work.trial.notes))
    return _answered(work, [(name, answer) for (name, _), answer in zip(work.trial.asked, answers, strict=True)])


def _answered(work: _Work, answers: list[tuple[str, keyless.Answer]]) -> tuple[Outcome, str | None, str]:
    for name, answer in answers:
        if answer.result == "good":
            if answer.payload != keyless.payload_digest(work.payload):
                return "wrong", None, "the statement that was verified is another than the one that was read"
            return "good", name, f"signed as {name}"
    still = [answer.reason for _, answer in answers if answer.result == "unverifiable"]
    if still:
        return "unverifiable", None, several(dict.fromkeys(still))
    return "wrong", None, several((*work.trial.failed, *(f"not {name}: {answer.reason}" for name, answer in answers)))


def _result(work: _Work, outcome: Outcome, by: str | None, reason: str) -> tuple[Result, str]:
    """Return the verdict: what contradicts the files is wrong whoever signed; a signature counts only over all of them."""
    content = work.content
    if content.contradicted:
        return "wrong", f"{oms.FILE} is not about the files that are carried: {several(content.contradicted)}"
    if work.rule is None:
        return "nobody named", f"the policy names nobody for {printable(work.name) or 'a model of unknown origin'}" + _beside(work)
    if work.seen is None and work.problem is None:
        return "missing", f"no {oms.FILE} is carried"
    if outcome != "good":
        return ("unverifiable" if outcome == "unverifiable" else "wrong"), reason
    return _covered(content, by, reason)


def _covered(content: Content, by: str | None, reason: str) -> tuple[Result, str]:
    """Return the verdict over a model whose signature is good."""
    if content.unsigned:
        return "wrong", f"signed by {by}, but {model_content.unsigned(content)}"
    if content.unread:
        return "unverifiable", content.unread
    absent = several(printable(path) for path in content.absent)
    left = f", {len(content.absent)} that are signed are not carried ({absent})" if absent else ""
    return "good", f"{reason}; every carried file is as signed{left}"


def _beside(work: _Work) -> str:
    if work.problem:
        return f"; {work.problem[1]}"
    return f"; it carries a {oms.FILE}" if work.seen else ""
