"""Receipts: what was installed, from which proven bundle, trusted by whom, and how each part was put in place.

A receipt stands in its generation (``.receipt.json``, so that both appear in one rename) and under ``receipts/``, where it
outlives the generation. The journal records its sha256, so that a changed receipt shows. It names each tree by the digest
of its manifest, which lists every file with size and sha256, and stays small.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Literal

from pydantic import Field

from airgap_images.layout import read_regular, write_atomic
from airgap_images.oci import Digest
from audit import journal
from audit.checks import CheckResult
from audit.install import receipt_v1
from audit.install.store import Store, holds
from audit.sealed import Written
from audit.verify.result import VerifiedBundle
from manifests import canonical
from manifests.errors import AirgapError, IntegrityError, SiteError
from manifests.identities import Time
from manifests.lock import Kind, Name, Sha256, parse_model

OWN_RECEIPT = ".receipt.json"
MAX_RECEIPT = 16 << 20  # bytes; 4096 components take about 2 MB
DAMAGED = "restore it from a backup; the journal records the sha256 it must have"


class SignerReceipt(Written):
    """Who signed; ``key`` is the sha256 (hex) of the signer's DER SubjectPublicKeyInfo."""

    name: Name
    key: Sha256
    algorithm: str
    file: str


class CheckReceipt(Written):
    """What one check said when this was installed."""

    id: str
    outcome: str
    examined: int
    findings: int
    not_assessed: int


class Placement(Written):
    """A component in a target, under the target's own ``id`` and the names ``tags``.

    ``before``: the target had it before this store put it there. ``displaced`` are names that led to something else that
    was not of this store, and to what.
    """

    target: str
    id: str
    tags: tuple[str, ...] = Field(default=(), strict=False)
    before: bool
    displaced: dict[str, str] = Field(default_factory=dict)


class TreeReceipt(Written):
    """One tree put in place; ``manifest`` names the blob that lists its files; ``bytes`` are those of all files.

    ``placements`` are the targets it was given to besides.
    """

    name: Name
    kind: Kind
    role: str | None
    manifest: Sha256
    mode: Literal["link", "copy", "mixed"]
    files: int
    bytes: int
    placements: tuple[Placement, ...] = Field(default=(), strict=False)


class ImageReceipt(Written):
    """One image: given to the targets of ``placements``, or to none for ``reason``."""

    name: Name
    kind: Kind
    role: str | None
    manifest: Sha256
    placements: tuple[Placement, ...] = Field(default=(), strict=False)
    reason: str | None = None


class Receipt(Written):
    """The whole file. ``files`` are the sha256 of the bundle's root files, its signatures and the policy, by name.

    One of version 1 is read as today's and encoded as it was.
    """

    receipt_version: Literal[1, 2] = 2
    generation: int = Field(ge=1)
    bundle: Sha256
    stream: Name
    serial: int
    created: Time
    expires: Time
    installed: Time
    policy_version: int
    policy_sha256: Sha256
    signers: tuple[SignerReceipt, ...] = Field(strict=False)
    files: dict[str, Sha256]
    trees: tuple[TreeReceipt, ...] = Field(strict=False)
    images: tuple[ImageReceipt, ...] = Field(strict=False)
    checks: tuple[CheckReceipt, ...] = Field(strict=False)

    @classmethod
    def parse(cls, raw: bytes, what: str) -> Receipt:
        """Parse a receipt; raises IntegrityError if it is damaged."""
        try:
            value = receipt_v1.upgrade(canonical.parse(raw, what, limit=MAX_RECEIPT), what, DAMAGED)
            return parse_model(cls, value, what, DAMAGED)
        except AirgapError as error:
            raise IntegrityError(error.message, hint=DAMAGED) from None

    def to_bytes(self) -> bytes:
        """Return the one encoding of this receipt."""
        value = self.model_dump(mode="json", by_alias=True)
        return canonical.readable(receipt_v1.downgrade(value) if self.receipt_version == receipt_v1.VERSION else value)

    @property
    def items(self) -> tuple[ImageReceipt | TreeReceipt, ...]:
        """Return images and trees."""
        return (*self.images, *self.trees)

    @property
    def digest(self) -> Digest:
        """Return the digest of the bundle."""
        return Digest(self.bundle)


def make(
    bundle: VerifiedBundle,
    generation: int,
    files: tuple[tuple[str, bytes], ...],
    parts: tuple[tuple[TreeReceipt, ...], tuple[ImageReceipt, ...]],
    results: tuple[CheckResult, ...],
) -> Receipt:
    """Return the receipt of a generation; ``files`` is everything that is kept of the bundle beside its blobs."""
    said = bundle.statement
    return Receipt(
        generation=generation,
        bundle=bundle.digest.hex,
        stream=said.stream,
        serial=said.serial,
        created=canonical.stamp(said.created),
        expires=canonical.stamp(said.expires),
        installed=canonical.stamp(bundle.verified_at),
        policy_version=bundle.policy_version,
        policy_sha256=bundle.policy_sha256,
        signers=tuple(SignerReceipt(name=s.signer, key=s.key_id, algorithm=s.algorithm, file=s.file) for s in bundle.signatures),
        files={name: Digest.of(raw).hex for name, raw in files},
        trees=parts[0],
        images=parts[1],
        checks=tuple(
            CheckReceipt(
                id=result.id,
                outcome=result.outcome,
                examined=result.examined,
                findings=len(result.findings),
                not_assessed=len(result.not_assessed),
            )
            for result in results
        ),
    )


def read(store: Store, generation: int) -> Receipt:
    """Return the receipt of a generation; raises IntegrityError if it is missing or damaged."""
    return Receipt.parse(read_bytes(store, generation), f"receipts/{generation}.json")


def current(store: Store) -> Receipt:
    """Return the receipt of what is installed; raises SiteError if nothing is, IntegrityError if that cannot be told."""
    number = store.current()
    if number is None:
        raise SiteError(f"{store.root}: nothing is installed", hint="`airgap-audit install` a bundle")
    return read(store, number)


def read_bytes(store: Store, generation: int) -> bytes:
    """Return the raw receipt of a generation; raises IntegrityError if it is missing."""
    return read_regular(store.receipt(generation), f"receipts/{generation}.json", MAX_RECEIPT)


def recorded(store: Store) -> dict[int, str]:
    """Return the sha256 (hex) of each receipt as the journal has it; raises IntegrityError if the journal is damaged."""
    found: dict[int, str] = {}
    for entry in journal.entries(store.root):
        generation, sha256 = entry.detail("generation"), entry.detail("receipt")
        if generation and sha256 and generation.isdigit():
            found[int(generation)] = sha256
    return found


def complete(store: Store, now: datetime) -> None:
    """Finish what a killed process left: receipts that stand only in their generation, or are not in the journal."""
    for number in store.generations():
        own = store.generation(number) / OWN_RECEIPT
        if not os.path.lexists(store.receipt(number)) and os.path.lexists(own):
            write_atomic(store.receipt(number), read_regular(own, str(own), MAX_RECEIPT), mode=0o444)
    journal.mend(store.root, now=now)
    known = recorded(store)
    for number in store.receipts():
        if number not in known:
            details = {"generation": str(number), "receipt": Digest.of(read_bytes(store, number)).hex}
            journal.append(store.root, "receipt", "recovered", details, now=now)


def keep(store: Store, generation: int, raw: bytes) -> None:
    """Write a receipt under ``receipts/`` unless it stands there."""
    if not holds(store.receipt(generation), raw):
        write_atomic(store.receipt(generation), raw, mode=0o444)
