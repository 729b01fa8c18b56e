"""Sign each model of a bundle as OpenSSF Model Signing does, so that its own verifier, and any other, can check what was installed.

The statement is made from the digests the bundle holds already: no file of a model is read again. The files stand beside the bundle's
signatures, outside of what those are over, so that a further signer changes no byte of the bundle. Rules: a file that is there is left
if it is over the same model; one over anything else stops the signing, because no site would accept the bundle with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from airgap_images.bundle import components, parse_index
from airgap_images.layout import Layout, read_regular, require_layout, write_atomic
from audit.signers import LocalSigner, Signer
from audit.verify import model_signatures, oms
from audit.verify.walk import MAX_INDEX
from bundler.timestamp import Stamped
from manifests.errors import TrustError, UsageError
from manifests.statement import MODEL_SUFFIX, Envelope

FOLDER = model_signatures.FOLDER


@dataclass(frozen=True, slots=True)
class ModelsSigned:
    """What was done: names of the files ``made`` now and of those that ``stood`` there, and why there are none, if so."""

    made: tuple[str, ...] = ()
    stood: tuple[str, ...] = ()
    note: str = ""


def sign(folder: Path, signer: Signer) -> ModelsSigned:
    """Sign every model of the signed bundle in ``folder`` under the signer's name.

    Raises TrustError if a model signature is there that no site would accept, UsageError if there would be too many.
    """
    payloads = _payloads(require_layout(folder))
    if not payloads:
        return ModelsSigned()
    why = unable(signer)
    if why:
        return ModelsSigned(note=why)
    _check_present(folder, payloads)
    wanted = {f"{FOLDER}/{name}.{signer.name}{MODEL_SUFFIX}": payload for name, payload in payloads.items()}
    present = {name for name, _ in model_signatures.read(folder)}
    if len(present | wanted.keys()) > model_signatures.MAX_FILES:
        message = f"{len(present | wanted.keys())} model signatures, at most {model_signatures.MAX_FILES} travel with a bundle"
        raise UsageError(message, hint="sign with --no-models")
    made = tuple(sorted(wanted.keys() - present))
    for name in made:
        write_atomic(folder / name, signer.envelope(wanted[name], oms.hint).to_bytes())
    return ModelsSigned(made, tuple(sorted(wanted.keys() & present)))


def unable(signer: Signer) -> str:
    """Say why no model signature is made by this signer; empty if one is."""
    own = signer.signer if isinstance(signer, Stamped) else signer
    if isinstance(own, LocalSigner) and own.algorithm not in oms.ALGORITHMS:
        return f"models are not signed by {own.name}: verifiers of OpenSSF Model Signing know ECDSA keys only, not {own.algorithm}"
    return ""


def _payloads(layout: Layout) -> dict[str, bytes]:
    index = parse_index(read_regular(layout.root / "index.json", "index.json", MAX_INDEX))
    models = [part for part in components(index) if oms.is_model(part)]
    return {part.name: oms.payload(oms.model(layout, part)) for part in models}


def _check_present(folder: Path, payloads: dict[str, bytes]) -> None:
    for name, raw in model_signatures.read(folder):
        stated = Envelope.parse(raw, name, limit=oms.MAX_FILE).payload
        if not any(stated == payload and name.startswith(f"{FOLDER}/{model}.") for model, payload in payloads.items()):
            raise TrustError(f"{name}: is not over a model of this bundle", hint="remove it, then sign")
