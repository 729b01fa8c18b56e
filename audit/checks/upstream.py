"""Every image is signed upstream by someone the policy names for it, and has the attestations the policy asks for.

The judging is in ``audit.verify.upstream``; here its verdicts become findings. An image the policy names nobody for is not
assessed, and never passed over. A signature that was judged and failed is refused whatever a gate says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from audit.checks import Examined, Finding, Gate, NotAssessed, Note, Subject, gate, load, run_one
from audit.verify.result import VerifiedBundle
from audit.verify.upstream import Verdict, assess
from manifests.paths import printable
from manifests.policy import Policy

ID = "upstream"
TITLE = "Images are signed by those the policy names"
GATE: str | None = "upstream"
BY_POLICY = True
LIMITS = (
    "Signatures and attestations of container images are judged; those of wheels, models and other files are not.",
    "A signature says who vouches for an image, not what is in it; what an attestation states is not read, only who made it of which sort.",
)
DOC = "docs/checks.md#upstream"
NO_POLICY = "no policy was given, so nobody is named whose signature would count"
REMEDIES = {
    "missing": "ask who publishes the image to sign it, take an image that is signed, or change the policy's rule for it",
    "unverifiable": "do what the reason says and lock again; or judge it by hand, then `upstream: warn`, in `checks:` and in the policy's "
    "`gates`, lets it through",
    "wrong": "do not use this image; ask who publishes it, and compare the policy with what they say they sign with",
}


def run(subject: Subject) -> Iterator[Note]:
    """Turn the verdict over every image into a note."""
    images = [component.name for component in subject.components if component.form == "image"]
    if not images:
        return
    if subject.policy is None and subject.upstream is None:
        yield from (NotAssessed(ID, name, "", NO_POLICY) for name in images)
        return
    verdicts = subject.upstream
    if verdicts is None and subject.policy is not None:
        verdicts = assess(subject.layout, subject.components, subject.policy)
    yield from notes(verdicts or ())


def notes(verdicts: Iterable[Verdict]) -> Iterator[Note]:
    """Yield what each verdict is to the gate."""
    for verdict in verdicts:
        if verdict.result == "good":
            yield Examined(verdict.component, "")
        elif verdict.result == "nobody named":
            yield NotAssessed(ID, verdict.component, "", verdict.reason)
        else:
            message = f"{printable(verdict.name)}: {verdict.reason}"
            kind = f"{ID}.{verdict.result}"
            waivable = verdict.result != "wrong"
            yield Finding(kind, "high", verdict.component, "", message, REMEDIES[verdict.result], DOC, waivable=waivable)


def judged(bundle: VerifiedBundle, policy: Policy) -> tuple[tuple[Verdict, ...], Gate]:
    """Return the verdict over each image of a proven bundle and what the policy's gates make of them, no other check run."""
    verdicts = assess(bundle.layout, bundle.components, policy)
    subject = Subject(bundle.layout, bundle.components, policy, verdicts)
    return verdicts, gate([run_one(load(ID), subject)], policy.gates)
