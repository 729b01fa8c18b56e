"""Every image, model and wheel is signed upstream by someone the policy names for it.

The judging is in ``audit.verify.upstream``; here its verdicts become findings. An image the policy names nobody for is not
assessed, and never passed over; of models and wheels that holds for those that carry a signature: most are not signed by anybody.
A signature that was judged and failed, or that contradicts what is carried, is refused whatever a gate says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from audit.checks import Examined, Finding, Gate, NotAssessed, Note, Subject, _wheels, gate, load, run_one
from audit.verify import models, wheels
from audit.verify.result import VerifiedBundle
from audit.verify.upstream import assess
from audit.verify.verdict import Verdict
from manifests.paths import printable
from manifests.policy import Policy

ID = "upstream"
TITLE = "Images, models and wheels are signed by those the policy names"
GATE: str | None = "upstream"
BY_POLICY = True
LIMITS = (
    "Signatures and attestations of images, `model.sig` of models and an index's attestations of wheels are judged; none of other files.",
    "A signature says who vouches for something, not what is in it; what an attestation states is not read, only who made it.",
    "A certificate of a model's signer is judged as of what an authority of the policy states, else as of its start: it may be old.",
)
DOC = "docs/checks.md#upstream"
NO_POLICY = "no policy was given, so nobody is named whose signature would count"
REMEDIES = {
    "missing": "ask who publishes the {} to sign it, take one that is signed, or change the policy's rule for it",
    "unverifiable": "do what the reason says and lock again; or judge it by hand, then `upstream: warn`, in `checks:` and in the policy's "
    "`gates`, lets it through",
    "wrong": "do not use this {}; ask who publishes it, and compare the policy with what they say they sign with",
}


def run(subject: Subject) -> Iterator[Note]:
    """Turn the verdict over every image, model and wheel into a note."""
    verdicts = subject.upstream
    if verdicts is None and subject.policy is not None:
        verdicts = assess(subject.layout, subject.components, subject.policy)
    if verdicts is not None:
        strict = subject.policy is not None and subject.policy.gates.get("upstream") == "refuse"
        yield from notes(verdict for verdict in verdicts if verdict.sort != "wheel")
        of_wheels = (verdict for verdict in verdicts if verdict.sort == "wheel")
        yield from _wheels.notes(of_wheels, identity=ID, doc=DOC, remedies=REMEDIES, strict=strict)
        return
    yield from (NotAssessed(ID, component.name, "", NO_POLICY) for component in subject.components if component.form == "image")
    for verdict in models.assess(subject.layout, subject.components, None):
        yield from notes((verdict,)) if verdict.result == "wrong" else _unjudged(verdict, NO_POLICY)
    yield from _wheels.unjudged(wheels.assess(subject.layout, subject.components, None), NO_POLICY, identity=ID)


def notes(verdicts: Iterable[Verdict]) -> Iterator[Note]:
    """Yield what each verdict is to the gate."""
    for verdict in verdicts:
        if verdict.result == "good":
            yield Examined(verdict.component, verdict.file)
        elif verdict.result == "nobody named":
            yield from _unjudged(verdict, verdict.reason)
        else:
            message = verdict.reason if verdict.name == verdict.component else f"{printable(verdict.name)}: {verdict.reason}"
            kind = f"{ID}.{verdict.result}"
            waivable = verdict.result != "wrong"
            remedy = REMEDIES[verdict.result].format(verdict.sort)
            yield Finding(kind, "high", verdict.component, verdict.file, message, remedy, DOC, waivable=waivable)


def _unjudged(verdict: Verdict, reason: str) -> Iterator[Note]:
    if verdict.sort == "image" or verdict.seen:
        yield NotAssessed(ID, verdict.component, verdict.file, reason)


def judged(bundle: VerifiedBundle, policy: Policy) -> tuple[tuple[Verdict, ...], Gate]:
    """Return the verdicts over a proven bundle's images, models and wheels and what the policy's gates make of them, no other check run."""
    verdicts = assess(bundle.layout, bundle.components, policy)
    subject = Subject(bundle.layout, bundle.components, policy, verdicts)
    return verdicts, gate([run_one(load(ID), subject)], policy.gates)
