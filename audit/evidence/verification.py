"""``verification.json``: the whole result for programs, from which a reader can rebuild every other file of the evidence.

Format ``airgap.verification/v1``. Absent knowledge is ``null`` or an empty list and never a default. Fields:

- ``verdict`` ``proved`` or ``refused``; ``exitCode`` as the commands end; ``failures`` why it is refused, ``{message, hint, rule}``;
- ``steps`` ``{step, what, outcome}``: what became of each of the eight steps of ``docs/trust.md``;
- ``time`` when this was made; ``tool`` what made it; ``assessed`` what was assessed, as the user named it;
- ``policy`` ``{version, sha256}``, of which only the sha256 is known for a refused bundle;
- ``notChecked`` ``{topic, text}``: what nobody should believe was checked.

Only when proved (else ``null`` or empty):

- ``bundle``: ``digest`` (sha256 of index.json, the bundle's identity), ``sha256sums`` and ``sha512sums`` (sha256 of SHA256SUMS and
  SHA512SUMS, null where there is none), ``blobs`` and ``bytes`` that were hashed, ``statement`` (what the signers said), ``verifiedAt``
  (the time used for expiry);
- ``signatures`` that count, ``{signer, kind, algorithm, keyId, file, trustedBy, time, notes}``: ``trustedBy`` is the policy's rule in
  words, ``time`` is null where no log or timestamp authority of the policy states it; ``ignoredSignatures``, with the reason;
- ``modelSignatures`` over single models (OpenSSF Model Signing) by signers of the policy, ``{model, signer, algorithm, keyId, file}``;
- ``upstream``: of each image, model and wheel (``sort``) what became of its upstream signatures: ``component``, ``file`` (of a wheel),
  ``name`` (registry/repository, or what rules match it by), ``rule`` (the pattern of the policy that decided, or null), ``result``,
  ``reason``, and ``seen``, everything that is carried for it: ``{kind, shape, predicate, subject, manifest, by, result, reason}``;
- ``vulnerabilities``: ``assessed`` (False where no advisories were consulted: then nothing is known of any package), ``counts``,
  ``sources`` (each set of data, its date and how many records were read and not), ``items`` ``{ref, status, reason}`` and ``matches``,
  each with the VEX ``decision`` about it if there is one;
- ``checks`` as in ``airgap.checks/v1``; ``drift`` ``{outcome, notes}`` of what is installed, ``null`` if not compared;
- ``inventory``: ``lock`` (sha256 of the signed lock), ``disagreements`` between lock and index, ``gaps``, ``items``. ``requires`` of
  an item lists the refs it needs, ``null`` where they are unknown. Of an item's files at most ``MAX_FILES`` are listed,
  ``filesNotListed`` says how many more the manifest ``sha256`` lists.
"""

from __future__ import annotations

from typing import Any

from airgap_images.oci import Digest
from audit import checks
from audit.evidence.assessment import Assessment, Drift, Proof
from audit.evidence.inventory import Inventory
from audit.evidence.item import Item
from audit.verify import steps
from audit.verify.result import VerifiedBundle
from audit.verify.verdict import as_json
from audit.vulnerabilities import projection
from manifests import canonical
from manifests.statement import SHA512SUMS

FORMAT = "airgap.verification/v1"
MAX_FILES = 1000  # files of one item listed by name, here and in the SBOM


def verification_json(assessment: Assessment) -> bytes:
    """Return the assessment as canonical JSON; the same assessment is always the same bytes."""
    proof = assessment.proof
    value: dict[str, Any] = {
        "format": FORMAT,
        "verdict": assessment.verdict,
        "exitCode": assessment.exit_code,
        "time": canonical.stamp(assessment.time),
        "tool": {"name": assessment.tool[0], "version": assessment.tool[1]},
        "assessed": assessment.place,
        "failures": [{"message": failure.message, "hint": failure.hint, "rule": failure.rule} for failure in assessment.failures],
        "steps": [steps.as_json(step) for step in assessment.steps],
        "notChecked": [{"topic": entry.topic, "text": entry.text} for entry in assessment.not_checked],
        "policy": {"version": proof.bundle.policy_version if proof else None, "sha256": assessment.policy_sha256},
    }
    return canonical.readable(value | (_proof(proof) if proof else _nothing()))


def _nothing() -> dict[str, Any]:
    lists: dict[str, Any] = {name: [] for name in ("signatures", "modelSignatures", "ignoredSignatures", "upstream")}
    return lists | {"bundle": None, "checks": None, "drift": None, "inventory": None, "vulnerabilities": None}


def _proof(proof: Proof) -> dict[str, Any]:
    bundle = proof.bundle
    return {
        "bundle": _bundle(bundle),
        "signatures": [entry.as_json for entry in bundle.signatures],
        "modelSignatures": [entry.as_json for entry in bundle.models],
        "ignoredSignatures": [{"file": entry.file, "reason": entry.reason} for entry in bundle.ignored],
        "upstream": [as_json(verdict) for verdict in proof.upstream],
        "checks": checks.as_json(proof.results, proof.gate),
        "drift": _drift(proof.drift),
        "inventory": _inventory(proof.inventory),
        "vulnerabilities": projection.as_json(proof.vulnerabilities),
    }


def _bundle(bundle: VerifiedBundle) -> dict[str, Any]:
    statement = bundle.statement
    return {
        "digest": str(bundle.digest),
        "sha256sums": Digest.of(dict(bundle.files)["SHA256SUMS"]).hex,
        "sha512sums": Digest.of(dict(bundle.files)[SHA512SUMS]).hex if SHA512SUMS in dict(bundle.files) else None,
        "blobs": len(bundle.blobs),
        "bytes": sum(size for _, size in bundle.blobs),
        "verifiedAt": canonical.stamp(bundle.verified_at),
        "statement": {
            "stream": statement.stream,
            "serial": statement.serial,
            "created": canonical.stamp(statement.created),
            "expires": canonical.stamp(statement.expires),
            "previous": statement.previous,
            "policyVersion": statement.policy_version,
            "tool": statement.tool,
        },
    }


def _drift(drift: Drift | None) -> dict[str, Any] | None:
    if drift is None:
        return None
    notes = [{"kind": kind, "subject": subject, "message": message} for kind, subject, message in drift.notes]
    return {"outcome": drift.outcome, "exitCode": drift.exit_code, "notes": notes}


def _inventory(inventory: Inventory) -> dict[str, Any]:
    return {
        "name": inventory.name,
        "platform": inventory.platform,
        "lock": inventory.lock_sha256,
        "disagreements": [{"component": entry.component, "message": entry.message} for entry in inventory.disagreements],
        "gaps": list(inventory.gaps),
        "items": [_item(item) for item in inventory.items],
    }


def _item(item: Item) -> dict[str, Any]:
    return {
        "ref": item.ref,
        "component": item.component,
        "inside": item.inside,
        "kind": item.kind,
        "role": item.role,
        "what": item.what,
        "name": item.name,
        "version": item.version,
        "path": item.path,
        "purl": item.purl,
        "sha256": item.sha256,
        "bytes": item.size,
        "licences": [{"text": licence.text, "source": licence.source} for licence in item.licences],
        "producer": item.producer,
        "contact": item.contact,
        "revision": item.revision,
        "requires": list(item.requires) if item.requires is not None else None,
        "sha512": item.sha512,
        "origin": item.origin,
        "coverage": {"reading": item.coverage.reading, "reason": item.coverage.reason},
        "facts": dict(item.facts),
        "files": [{"path": file.path, "sha256": file.sha256, "bytes": file.size} for file in item.files[:MAX_FILES]],
        "filesNotListed": max(0, len(item.files) - MAX_FILES),
    }
