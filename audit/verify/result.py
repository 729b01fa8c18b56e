"""What verification yields: the only value that install, checks and evidence accept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from airgap_images.bundle import Component
from airgap_images.layout import Layout
from airgap_images.oci import Digest, Index


@dataclass(frozen=True, slots=True)
class Signature:
    """One accepted signature. ``key_id`` is the sha256 (hex) of the signer's DER SubjectPublicKeyInfo."""

    signer: str
    kind: str
    algorithm: str
    key_id: str
    file: str


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
    ``blobs`` is the closure with sizes in bytes; ``not_checked`` says in sentences what was not assessed.
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
