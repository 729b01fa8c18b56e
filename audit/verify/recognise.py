"""Find out who made each signature file (step 3): every one is tried against the signers the policy names, never against itself.

A file of kind key counts only for a signer of type key, one with a certificate chain only for one of type x509, a keyless one only for
one of type sigstore. A file that claims a signer of the policy (their key's hint, their certificate's name, their identity) and does
not verify is a failure; one that claims nobody the policy names is ignored, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509 as certificates
from cryptography.exceptions import UnsupportedAlgorithm

from audit.verify import keyless, timestamps, x509
from audit.verify.result import Ignored, Signature
from manifests import canonical
from manifests import keyless as form
from manifests.errors import AirgapError, TrustError
from manifests.identities import CertificateSigner, KeySigner, SigstoreSigner
from manifests.paths import printable
from manifests.policy import Policy
from manifests.publickey import PublicKey, algorithm_of, checked, key_id, verifies
from manifests.statement import MAX_SIGNATURE_FILE, Envelope, hint

Judge = Callable[[tuple[keyless.Question, ...]], tuple[keyless.Answer, ...]]
OTHER_LOG = keyless.Answer("wrong", "its entry is of a log that the trusted root of the policy does not have")
FORGED = "the file is damaged or forged: copy it again, or remove it and have it signed again"


@dataclass(slots=True)
class Recognised:
    """What was found: valid signatures with the payload each is over, files that do not count, and what must be refused."""

    signatures: list[tuple[bytes, Signature]] = field(default_factory=list)
    ignored: list[Ignored] = field(default_factory=list)
    failures: list[AirgapError] = field(default_factory=list)


def recognise(policy: Policy, files: Iterable[tuple[str, bytes]], now: datetime, ask: Judge = keyless.judge) -> Recognised:
    """Return who of the policy's signers made which of ``files`` (raw, by name); ``now`` is when certificates must be valid."""
    found = Recognised()
    parsed: list[tuple[str, Envelope]] = []
    for name, raw in sorted(files):
        try:
            parsed.append((name, Envelope.parse(raw, name)))
        except AirgapError as error:
            found.failures.append(TrustError(error.message, hint=error.hint, rule=error.rule or "3.signature-file"))
    recognise_parsed(policy, parsed, now, ask, found)
    return found


def recognise_parsed(policy: Policy, parsed: Iterable[tuple[str, Envelope]], now: datetime, ask: Judge, found: Recognised) -> None:
    """Add to ``found`` who of the policy's signers made which of the signature files ``parsed``."""
    later: list[tuple[str, Envelope]] = []
    for name, envelope in parsed:
        if envelope.kind == "sigstore":
            later.append((name, envelope))
            continue
        try:
            signature = _by_key(policy, envelope, name, now) if envelope.kind == "key" else _by_certificate(policy, envelope, name, now)
        except AirgapError as error:
            found.failures.append(TrustError(error.message, hint=error.hint, rule=error.rule or "3.signature-file"))
            continue
        if signature is None:
            found.ignored.append(Ignored(name, f"made with no {'key' if envelope.kind == 'key' else 'certificate'} of this policy"))
        else:
            found.signatures.append((envelope.payload, signature))
    _keyless(policy, later, ask, found)


def _by_key(policy: Policy, envelope: Envelope, file: str, now: datetime) -> Signature | None:
    for name, signer in sorted(policy.signers.items()):
        if not isinstance(signer, KeySigner):
            continue
        claimed = envelope.hint == hint(signer.key_id)
        valid = verifies(signer.public_key, signer.alg, envelope.signature, envelope.message)
        if valid and claimed:
            time, notes = _stamped(policy, envelope, now)
            return Signature(name, signer.type, signer.alg, signer.key_id, file, f"the key of {name}", time, notes)
        if valid or claimed:
            what = "names another key than the one that signed" if valid else f"claims to be by {name} and does not verify"
            raise TrustError(f"{file}: {what}", hint=FORGED, rule="3.signature")
    return None


def _by_certificate(policy: Policy, envelope: Envelope, file: str, now: datetime) -> Signature | None:
    failed: list[str] = []
    time, notes = _stamped(policy, envelope, now)
    for name, signer in sorted(policy.signers.items()):
        if not isinstance(signer, CertificateSigner):
            continue
        try:
            leaf = x509.leaf(signer, envelope.chain, time or now, cnsa=policy.profile == "cnsa", now=now)
        except x509.UnreadableError as error:
            raise TrustError(f"{file}: {error}", hint=FORGED, rule="3.certificate") from None
        except ValueError as error:
            failed.append(f"claims to be by {name}: {error}")
            continue
        if leaf is None:
            continue
        if not verifies(leaf.key, signer.alg, envelope.signature, envelope.message):
            raise TrustError(f"{file}: claims to be by {name} and does not verify", hint=FORGED, rule="3.signature")
        return Signature(name, signer.type, signer.alg, leaf.key_id, file, leaf.words, time, (*notes, *leaf.notes))
    if failed:
        hint = "have them sign with a valid certificate, or remove the file"
        raise TrustError(f"{file}: {'; '.join(failed)}", hint=hint, rule="3.certificate")
    return None


def _stamped(policy: Policy, envelope: Envelope, now: datetime) -> tuple[datetime | None, tuple[str, ...]]:
    """Return the earliest time that an authority of the policy states for the signature, and what could not be used."""
    return timestamps.earliest(policy.timestamp_authorities, envelope.timestamps, envelope.signature, now)


def _keyless(policy: Policy, files: list[tuple[str, Envelope]], ask: Judge, found: Recognised) -> None:
    """Ask about all keyless files at once: starting the process that judges them is what costs. Asked are only those a file names.

    Who is named exactly comes before who is known by a repository only: a file counts for one signer, and so for the one it names.
    """
    named = [(name, signer) for name, signer in policy.signers.items() if isinstance(signer, SigstoreSigner)]
    signers = sorted(named, key=lambda entry: (entry[1].identity is None, entry[0]))
    claims = [(file, envelope, x509.fulcio(envelope.chain[0])) for file, envelope in files]
    asked = [(file, envelope, name, signer) for file, envelope, said in claims for name, signer in signers if _claims(said, signer)]
    answers = ask(tuple(question(policy, envelope, signer) for _, envelope, _, signer in asked)) if asked else ()
    for file, envelope in files:
        mine = [
            (name, signer, answer if _in_log(policy, envelope, signer) else OTHER_LOG)
            for (of, _, name, signer), answer in zip(asked, answers, strict=True)
            if of == file
        ]
        _concluded(file, envelope, mine, found)


def question(policy: Policy, envelope: Envelope, signer: SigstoreSigner) -> keyless.Question:
    """Return what to ask about a keyless signature."""
    root = canonical.compact(policy.trusted_roots[signer.trusted_root])
    return keyless.Question(envelope.raw, None, signer.identity, signer.issuer, root, signer.repository, whole=True)


def _concluded(file: str, envelope: Envelope, answers: list[tuple[str, SigstoreSigner, keyless.Answer]], found: Recognised) -> None:
    good = next(((name, signer, answer) for name, signer, answer in answers if answer.result == "good"), None)
    if good is not None:
        try:
            found.signatures.append((envelope.payload, _counted(file, envelope, *good)))
        except TrustError as error:
            found.failures.append(error)
        return
    wrong = next(((name, answer) for name, _, answer in answers if answer.result == "wrong"), None)
    if wrong is not None:
        message = f"{file}: claims to be by {wrong[0]} and does not verify: {wrong[1].reason}"
        found.failures.append(TrustError(message, hint=FORGED, rule="3.signature"))
        return
    reasons = [f"could not be judged: {answer.reason}" for *_, answer in answers] or [_stranger(envelope)]
    found.ignored.append(Ignored(file, "; ".join(dict.fromkeys(reasons))))


def _counted(file: str, envelope: Envelope, name: str, signer: SigstoreSigner, answer: keyless.Answer) -> Signature:
    """Return the signature of a file that was judged good; raises TrustError where something else was judged than was read here."""
    if answer.payload != keyless.payload_digest(envelope.payload):
        raise TrustError(f"{file}: the statement that was verified is another than the one that was read", hint=FORGED, rule="3.signature")
    key = _key(envelope)
    if key is None or algorithm_of(key) != signer.alg:
        message = f"{file}: by {name}, with a key of another kind; keyless signatures are {signer.alg}"
        raise TrustError(message, hint="have them sign again with a client that makes such keys", rule="3.algorithm")
    time = canonical.moment(answer.time) if answer.time else None
    return Signature(name, signer.type, signer.alg, key_id(key), file, f"the identity {signer.words}", time)


def _key(envelope: Envelope) -> PublicKey | None:
    """Return the key in a keyless file's certificate, None if it is of a kind that nobody signs bundles with."""
    try:
        return checked(certificates.load_der_x509_certificate(envelope.chain[0]).public_key())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _claims(said: x509.Fulcio | None, signer: SigstoreSigner) -> bool:
    """Say whether the certificate in a keyless file, which says ``said``, names this signer, whoever issued it."""
    if said is None or said.issuer != signer.issuer:
        return False
    return signer.identity in said.identities if signer.identity else said.repository == signer.repository


def _in_log(policy: Policy, envelope: Envelope, signer: SigstoreSigner) -> bool:
    """Say whether the entry is said to be of a log of the signer's trusted root: the library would try the keys of every log."""
    logs = policy.trusted_roots[signer.trusted_root].get("tlogs")
    held = [part.get(field) for part in logs or () if isinstance(part, dict) for field in ("logId", "checkpointKeyId")]
    stated = form.log(canonical.parse(envelope.raw, "keyless signature", limit=MAX_SIGNATURE_FILE))
    return stated in {part.get("keyId") for part in held if isinstance(part, dict)}


def _stranger(envelope: Envelope) -> str:
    """Say whom a keyless file that nobody of the policy made names, in its own words, which nothing here proves."""
    said = x509.fulcio(envelope.chain[0])
    if said is None or not (said.identity or said.repository):
        return "its certificate names nobody, so that no signer of this policy can have made it"
    who = printable(said.identity or said.repository or "", 200)
    return f"its certificate names {who} as stated by {printable(said.issuer or 'nobody', 200)}, whom this policy does not name"
