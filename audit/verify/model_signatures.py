"""Check the model signatures beside a bundle: ``signatures/<component>.<signer>.model.sig``, made for the OpenSSF's own verifier.

They are outside of what the signers' statement is about, so each is held to two rules. It counts only if a signer made it who may sign
this bundle; one that claims a signer of the policy and does not verify is refused, one by nobody the policy names is ignored, as with
the signatures of the bundle itself (step 3). And its statement must be, byte for byte, the one this bundle gives for a model in it
(step 6): a signature that counts and says something else is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from airgap_images.bundle import Component
from airgap_images.layout import Layout, read_regular
from audit.verify import keyless, oms
from audit.verify.recognise import Judge, Recognised, recognise_parsed
from audit.verify.result import Ignored, ModelSignature, Signature
from manifests.errors import AirgapError, IntegrityError, TrustError
from manifests.identities import KeySigner
from manifests.paths import NAME, printable
from manifests.policy import Policy
from manifests.statement import MODEL_SUFFIX, Envelope, hint

MAX_FILES = 256  # of one bundle
MAX_TOTAL = 64 << 20  # bytes of all of them
FOLDER = "signatures"
_STEM = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?")  # two names with a point between
_MADE = "remove the file, or make it anew: `airgap-bundle sign`"


@dataclass(frozen=True, slots=True)
class Checked:
    """What model signatures came to."""

    signatures: tuple[ModelSignature, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    failures: tuple[AirgapError, ...] = ()


def read(files: Path) -> tuple[tuple[str, bytes], ...]:
    """Read the model signatures below ``files`` as (name, raw bytes), bounded in number and size, no links followed."""
    try:
        wanted = sorted(name for name in os.listdir(files / FOLDER) if name.endswith(MODEL_SUFFIX))
    except OSError:
        return ()  # whoever reads the bundle's own signatures says why
    if len(wanted) > MAX_FILES:
        message = f"{FOLDER}: {len(wanted)} model signatures, at most {MAX_FILES} are allowed"
        raise IntegrityError(message, hint="distrust this copy", rule="3.model-signature")
    found: list[tuple[str, bytes]] = []
    left = MAX_TOTAL
    for name in wanted:
        what = f"{FOLDER}/{printable(name)}"
        if not _STEM.fullmatch(name.removesuffix(MODEL_SUFFIX)):
            raise IntegrityError(f"{what}: does not belong here", hint=f"only files named MODEL.SIGNER{MODEL_SUFFIX} do")
        raw = read_regular(files / FOLDER / name, what, min(left, oms.MAX_FILE))
        left -= len(raw)
        found.append((f"{FOLDER}/{name}", raw))
    return tuple(found)


def check(
    layout: Layout,
    components: Iterable[Component],
    files: tuple[tuple[str, bytes], ...],
    policy: Policy,
    *,
    now: datetime,
    ask: Judge = keyless.judge,
) -> Checked:
    """Return what the model signatures ``files`` (raw, by name) of a bundle with proven ``components`` come to."""
    if not files:
        return Checked()
    found = Recognised()
    parsed = _parsed(policy, files, found)
    recognise_parsed(policy, parsed, now, ask, found)
    models = {part.name: part for part in components if oms.is_model(part)}
    good: list[ModelSignature] = []
    for payload, signature in found.signatures:
        if reason := _discounted(policy, signature):
            found.ignored.append(Ignored(signature.file, reason))
            continue
        try:
            component = _about(layout, models, signature.file, payload)
        except AirgapError as error:
            found.failures.append(error)
            continue
        good.append(ModelSignature(component, signature.signer, signature.algorithm, signature.key_id, signature.file))
    ordered = sorted(good, key=lambda entry: entry.file), sorted(found.ignored, key=lambda entry: entry.file)
    return Checked(tuple(ordered[0]), tuple(ordered[1]), tuple(found.failures))


def named(file: str, models: Iterable[str]) -> str | None:
    """Return which of ``models`` a signature's file name names, the longest that fits, None if none does."""
    stem = file.removeprefix(f"{FOLDER}/").removesuffix(MODEL_SUFFIX)
    fitting = [name for name in models if stem.startswith(f"{name}.") and NAME.fullmatch(stem.removeprefix(f"{name}."))]
    return max(fitting, key=len, default=None)


def _parsed(policy: Policy, files: tuple[tuple[str, bytes], ...], found: Recognised) -> list[tuple[str, Envelope]]:
    """Parse each file; the format's own name of a signer's key becomes ours."""
    keys = {oms.hint(who.public_key): hint(who.key_id) for who in policy.signers.values() if isinstance(who, KeySigner)}
    parsed: list[tuple[str, Envelope]] = []
    for name, raw in files:
        try:
            envelope = Envelope.parse(raw, name, limit=oms.MAX_FILE)
        except AirgapError as error:
            found.failures.append(TrustError(error.message, hint=_MADE, rule="3.model-signature"))
            continue
        parsed.append((name, replace(envelope, hint=keys.get(envelope.hint, ""))))
    return parsed


def _discounted(policy: Policy, signature: Signature) -> str | None:
    if signature.signer in policy.revoked.signers:
        return f"signer {signature.signer} is revoked by the policy"
    if signature.signer not in policy.roles.bundle.signers:
        return f"signer {signature.signer} may not sign bundles"
    owner = policy.revoked_key(signature.key_id)
    return f"made with the key of {owner}, who is revoked by the policy" if owner else None


def _about(layout: Layout, models: dict[str, Component], file: str, payload: bytes) -> str:
    """Return the model a signature is over; raises TrustError unless it states exactly that model."""
    for name, component in models.items():
        if file.startswith(f"{FOLDER}/{name}.") and oms.payload(oms.model(layout, component)) == payload:
            return name
    of = named(file, models)
    message = f"{file}: states other files than model {of} has" if of else f"{file}: is named after no model of this bundle"
    raise TrustError(message, hint=_MADE, rule="6.model-statement")
