"""What became of things other people made: the verdict over each image, model and wheel, by the policy's ``upstream`` section."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa

from airgap_images.oci import Digest
from audit.verify import keyless
from manifests.upstream import UpstreamKey

Sort = Literal["image", "model", "wheel"]
Result = Literal["good", "missing", "unverifiable", "wrong", "nobody named"]
Outcome = Literal["good", "unverifiable", "wrong", "not asked for", "unsigned"]
Judge = Callable[[tuple[keyless.Question, ...]], tuple[keyless.Answer, ...]]
MAX_NAMED = 4  # reasons in one sentence; all are in the list


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing carried beside something, and how it was judged; ``by`` is who made it, known only when it is good.

    ``predicate`` is None for a signature and for what could not be read; ``about`` are the digests it is about; ``manifest`` is the
    digest of what holds it (a manifest beside an image, a signature or attestation file beside a model or wheel).
    """

    kind: str
    shape: str
    predicate: str | None
    subject: Digest
    manifest: Digest
    about: tuple[Digest, ...]
    by: str | None
    result: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one image, model or wheel; ``name`` is what rules match it by, ``rule`` the pattern that decided.

    ``file`` is the path of a wheel in its component, empty for the others.
    """

    component: str
    name: str
    rule: str | None
    result: Result
    reason: str
    seen: tuple[Seen, ...]
    sort: Sort = "image"
    file: str = ""

    @property
    def fate(self) -> Result:
        """Return how it counts: that nothing is published of a wheel is unknown, as if nobody were named for it."""
        return "nobody named" if (self.sort, self.result) == ("wheel", "missing") else self.result


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict over one thing as plain JSON values."""
    return {
        "component": verdict.component,
        "file": verdict.file,
        "sort": verdict.sort,
        "name": verdict.name,
        "rule": verdict.rule,
        "result": verdict.result,
        "reason": verdict.reason,
        "seen": [
            {
                "kind": seen.kind,
                "shape": seen.shape,
                "predicate": seen.predicate,
                "subject": str(seen.subject),
                "manifest": str(seen.manifest),
                "by": seen.by,
                "result": seen.result,
                "reason": seen.reason,
            }
            for seen in verdict.seen
        ],
    }


def valid(identity: UpstreamKey, signature: bytes, message: bytes) -> bool:
    """Say whether ``signature`` over ``message`` is valid for exactly the key and algorithm of the policy."""
    key = identity.public_key
    hashed = hashes.SHA384() if identity.alg.endswith("sha384") else hashes.SHA256()
    try:
        if isinstance(key, (ed25519.Ed25519PublicKey, mldsa.MLDSA87PublicKey)):
            key.verify(signature, message)
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PKCS1v15(), hashed)
        else:
            key.verify(signature, message, ec.ECDSA(hashed))
    except InvalidSignature:
        return False
    return True


def several(texts: Iterable[str]) -> str:
    """Return the texts in one sentence, the first few only."""
    found = tuple(texts)
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    return "; ".join(found[:MAX_NAMED]) + more
