"""What verification yields: the only value that install, checks and evidence accept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from airgap_images.bundle import Component
from airgap_images.layout import Layout
from airgap_images.oci import Digest, Index
from manifests import canonical


@dataclass(frozen=True, slots=True)
class Signature:
    """One accepted signature. ``key_id`` is the sha256 (hex) of the DER SubjectPublicKeyInfo of the key that made it.

    ``trusted_by`` is the policy's rule in words; ``time`` when it was made where a log or a timestamp authority of the policy states
    it, else None; ``notes`` say what about it could not be checked.
    """

    signer: str
    kind: str
    algorithm: str
    key_id: str
    file: str
    trusted_by: str = ""
    time: datetime | None = None
    notes: tuple[str, ...] = ()

    @property
    def when(self) -> str:
        """Say when it was made, as far as somebody whom the policy names states it."""
        if self.time is None:
            return "when it was made is not proven: no log or timestamp authority of the policy states it"
        return f"made {canonical.stamp(self.time)}, as a log or timestamp authority of the policy states"

    @property
    def as_json(self) -> dict[str, Any]:
        """Return this as plain JSON values; ``time`` is None where it is not proven."""
        return {
            "signer": self.signer,
            "kind": self.kind,
            "algorithm": self.algorithm,
            "keyId": self.key_id,
            "file": self.file,
            "trustedBy": self.trusted_by,
            "time": canonical.stamp(self.time) if self.time else None,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """A signature over one model of the bundle (OpenSSF Model Signing), by one of the policy's signers, that states what is carried."""

    model: str
    signer: str
    algorithm: str
    key_id: str
    file: str

    @property
    def as_json(self) -> dict[str, str]:
        """Return this as plain JSON values."""
        return {"model": self.model, "signer": self.signer, "algorithm": self.algorithm, "keyId": self.key_id, "file": self.file}


@dataclass(frozen=True, slots=True)
class Ignored:
    """A signature file that did not count, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Statement:
    """What the signers said about the bundle."""

    stream: str
    serial: int
    created: datetime
    expires: datetime
    previous: str | None
    policy_version: int | None
    tool: str


@dataclass(frozen=True, slots=True)
class VerifiedBundle:
    """A bundle of which every step of verification passed. Made by ``audit.verify.walk.verify`` only.

    ``layout`` holds the verified blobs (the store when installing, else the bundle folder); ``digest`` is the
    sha256 of ``index.json`` and the bundle's identity; ``files`` are the raw signed files and signatures by name;
    ``blobs`` is the closure with sizes in bytes; ``not_checked`` says in sentences what was not assessed;
    ``models`` are the signatures over single models beside the bundle's own; ``sha512`` (hex) is that of each blob, where it was
    asked for.
    """

    layout: Layout
    index: Index
    digest: Digest
    components: tuple[Component, ...]
    blobs: tuple[tuple[Digest, int], ...]
    files: tuple[tuple[str, bytes], ...]
    statement: Statement
    signatures: tuple[Signature, ...]
    ignored: tuple[Ignored, ...]
    policy_version: int
    policy_sha256: str
    policy_raw: bytes
    verified_at: datetime
    not_checked: tuple[str, ...]
    models: tuple[ModelSignature, ...] = ()
    sha512: Mapping[Digest, str] = field(default_factory=dict)
