"""Who signs, on the connected side: every key URI of ``audit.signers``, and ``sigstore:``, which needs a network."""

from __future__ import annotations

from audit import signers
from audit.signers import Ask, LocalSigner, Open, Signer
from manifests.errors import UsageError


def _sigstore(rest: str, ask: Ask) -> Signer:
    from bundler import keyless  # noqa: PLC0415 - brings a network client

    return keyless.open_signer(rest, ask)


SCHEMES: dict[str, Open] = {"sigstore": _sigstore}


def signer(uri: str, ask: Ask, token: str | None = None) -> Signer:
    """Return the signer that a key URI names; ``token`` is the identity token for ``sigstore:``, None for that of the CI this runs in.

    Raises what ``audit.signers.signer`` and ``bundler.keyless.open_signer`` raise.
    """
    if uri.partition(":")[0] in SCHEMES:
        return signers.signer(uri, lambda _: token or "", SCHEMES)
    return signers.signer(uri, ask, SCHEMES)


def local(uri: str, ask: Ask) -> LocalSigner:
    """Return the signer with a lasting key that a key URI names; raises UsageError for one whose keys live for one signature."""
    found = None if uri.partition(":")[0] in SCHEMES else signers.signer(uri, ask)
    if not isinstance(found, LocalSigner):
        raise UsageError("such a signer has no lasting key", hint="a policy names them by their identity")
    return found
