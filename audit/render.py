"""What the isolated side's commands say: every result as data for programs and as text for people. Decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit import checks, inspect_view, known_words
from audit.terminal import Report, counted, human, table
from audit.verify import steps, walk
from audit.verify.verdict import as_json
from manifests import canonical
from manifests.errors import RefusedError
from manifests.paths import printable
from manifests.statement import SHA512SUMS

if TYPE_CHECKING:
    from audit.evidence.assessment import Assessment, Drift
    from audit.inspect import Contents
    from audit.install.install import Installed
    from audit.install.receipts import ImageReceipt, TreeReceipt
    from audit.install.status import Status
    from audit.install.undo import Removed, RolledBack
    from audit.journal import Head
    from audit.known import Known
    from audit.verify.result import Signature, VerifiedBundle
    from audit.verify.trust import Memory
    from audit.verify.verdict import Verdict

UNPROVED = "NOT PROVED: this is what the bundle says of itself"
NO_STATE = "Rollback: no site state was consulted (name one with --state), so an older bundle than one accepted before would pass."
FRESH = "Rollback: this site remembers no bundle of the stream yet, so whether something newer was accepted elsewhere is unknown."


def verified(
    bundle: VerifiedBundle, memory: Memory | None, verdicts: Iterable[Verdict] = (), decided: checks.Gate | None = None
) -> Report:
    """Tell that a bundle is proved, by whom, and what that does not cover; with ``decided`` the verdicts over its images count."""
    said = bundle.statement
    unchecked = [NO_STATE if memory is None else FRESH] if memory is None or memory.fresh else []
    unchecked += bundle.not_checked
    total = sum(size for _, size in bundle.blobs)
    over = tuple(verdicts)
    images, told = upstream(over)
    passed = steps.of_proof(over)
    hashes = "SHA-256 and SHA-512" if SHA512SUMS in dict(bundle.files) else "SHA-256"
    lines = [
        f"proved: bundle {bundle.digest}",
        f"stream {said.stream}, serial {said.serial}, expires {canonical.stamp(said.expires)}",
        f"created {canonical.stamp(said.created)} with {printable(said.tool)}, as the signers say",
        *(line for signature in bundle.signatures for line in _signed(signature)),
        *(f"model {m.model} signed by {m.signer}: {m.algorithm}, key {m.key_id[:16]}..., {m.file}" for m in bundle.models),
        *(f"ignored {i.file}: {i.reason}" for i in bundle.ignored),
        f"policy version {bundle.policy_version}, sha256 {bundle.policy_sha256}",
        f"{len(bundle.components)} components, {len(bundle.blobs)} blobs, {human(total)}, every byte hashed by {hashes}",
        *told,
        *(f"step {step.number} {step.outcome}: {step.what}" for step in passed),
        *(_gate(decided, frozenset(image["component"] for image in images if image["sort"] != "wheel")) if decided else []),
        "",
        "not checked:",
        *(f"  - {text}" for text in unchecked),
    ]
    code = decided.exit_code if decided else 0
    data = _bundle(bundle) | {"notChecked": unchecked, "upstream": images, "verdict": "proved", "exitCode": code}
    data |= {"steps": [steps.as_json(step) for step in passed]}
    return Report(data, "\n".join(lines), code)


def upstream(verdicts: Iterable[Verdict]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the verdicts as data, and as lines: one for each image and model, one for each signature of it that does not count.

    Wheels are counted in one line for each component; what is not good of them stands among the findings.
    """
    data, lines = [], []
    ends: dict[str, Counter[str]] = {}
    for verdict in verdicts:
        data.append(as_json(verdict))
        if verdict.sort == "wheel":
            ends.setdefault(verdict.component, Counter())[verdict.result] += 1
            continue
        how = "not judged" if verdict.result == "nobody named" else verdict.result
        lines.append(f"{verdict.sort} {verdict.component}: upstream signatures {how}: {printable(verdict.reason, 600)}")
        others = [seen for seen in verdict.seen if seen.result in {"wrong", "unverifiable"}] if verdict.result == "good" else []
        lines += [f"  beside it, {seen.kind} in {seen.manifest}: {seen.result}: {printable(seen.reason, 300)}" for seen in others]
    said = {component: ", ".join(f"{count} {result}" for result, count in sorted(results.items())) for component, results in ends.items()}
    return data, lines + [f"wheels in {component}: attestations of the index: {text}" for component, text in said.items()]


def _signed(signature: Signature) -> list[str]:
    lines = [
        f"signed by {signature.signer}: {signature.kind}, {signature.algorithm}, key id {signature.key_id}, {signature.file}",
        f"  trusted as {printable(signature.trusted_by, 600)}; {signature.when}",
    ]
    return lines + [f"  note: {printable(text, 400)}" for text in signature.notes]


def installed(result: Installed) -> Report:
    """Tell what stands now, how it got there, and what was not placed or not assessed."""
    receipt = result.receipt
    signers = ", ".join(signer.name for signer in receipt.signers)
    unchecked = [*([FRESH] if result.fresh else []), *(text for text in result.bundle.not_checked if text == walk.GIVEN)]
    lines = [
        f"{'installed' if result.changed else 'unchanged'}: generation {result.generation} of {result.store}",
        f"bundle {result.bundle.digest}, stream {receipt.stream}, serial {receipt.serial}, signed by {signers}",
        table([(f"  {t.name}", t.mode, counted(t.files, "file"), human(t.bytes)) for t in receipt.trees], frozenset({2, 3})),
        *_placed(receipt.items),
        *(f"note: {printable(text, 600)}" for text in result.notes),
        *_gate(result.gate),
        f"policy version {receipt.policy_version}, sha256 {receipt.policy_sha256}",
        f"journal: {counted(result.journal.count, 'entry', many='entries')}, head {result.journal.sha256}",
        *unchecked,
    ]
    data = {
        "bundle": _bundle(result.bundle),
        "changed": result.changed,
        "checks": checks.as_json(result.checks, result.gate),
        "generation": result.generation,
        "journal": _head(result.journal),
        "notChecked": unchecked,
        "notes": list(result.notes),
        "previous": result.previous,
        "receipt": receipt.model_dump(mode="json", by_alias=True),
        "stateWasFresh": result.fresh,
        "store": str(result.store),
    }
    return Report(data, "\n".join(line for line in lines if line), result.exit_code)


def inspected(found: Contents) -> Report:
    """Tell what a bundle says of itself, and that nothing of it is proved."""
    counts, sizes = dict(found.files), dict(found.sizes)
    rows = [("component", "kind", "form", "role", "files", "size")]
    rows += [
        (c.name, c.kind, c.form, printable(c.role or ""), str(counts.get(c.name, "")), human(sizes[c.name])) for c in found.components
    ]
    lines = [
        f"{UNPROVED}; `airgap-audit verify` proves it.",
        f"bundle {found.digest}",
        table(rows, frozenset({4, 5})),
    ]
    claims: list[dict[str, Any]] = []
    for claim in found.claims:
        said = claim.predicate
        text = f"claims stream {said.stream}, serial {said.serial}, expires {said.expires}" if said else printable(claim.problem)
        lines.append(f"{claim.file}: {text}")
        predicate = said.model_dump(mode="json") if said else None
        claims.append({"file": claim.file, "keyHint": claim.hint, "predicate": predicate, "problem": claim.problem})
    listed = [{"facts": c.facts, "form": c.form, "kind": c.kind, "name": c.name, "role": c.role} for c in found.components]
    data = {"bundle": str(found.digest), "claims": claims, "components": listed, "files": counts, "proved": False, "sizes": sizes}
    return Report(data, "\n".join(lines), view=lambda: inspect_view.view(found))


def status(found: Status) -> Report:
    """Tell which generations there are."""
    rows = [("", "generation", "stream", "serial", "installed", "bundle")]
    for generation in reversed(found.generations):
        receipt = generation.receipt
        told = (receipt.stream, str(receipt.serial), receipt.installed, receipt.bundle[:16]) if receipt else ("receipt damaged", "", "", "")
        rows.append(("->" if generation.current else "", str(generation.number), *told))
    lines = [table(rows, frozenset({1, 3})) if found.generations else f"{found.store}: nothing is installed"]
    if found.interrupted:
        entry = found.interrupted
        lines.append(f"{entry.operation} was begun at {entry.time} and has not ended: it is running, or was killed; run it again")
    lines.append(f"journal: {counted(found.journal.count, 'entry', many='entries')}, head {found.journal.sha256}")
    listed = [
        {"current": g.current, "generation": g.number, "receipt": g.receipt and g.receipt.model_dump(mode="json", by_alias=True)}
        for g in found.generations
    ]
    data = {
        "bundles": list(found.bundles),
        "current": found.current,
        "generations": listed,
        "interrupted": found.interrupted.operation if found.interrupted else None,
        "journal": _head(found.journal),
        "store": str(found.store),
    }
    return Report(data, "\n".join(lines))


def rolled_back(result: RolledBack) -> Report:
    """Tell what stands now; images that no target was given are told, never passed over."""
    lines = [
        f"generation {result.generation} of {result.store} is current again, was {result.previous}; every file of it was hashed",
        f"bundle {result.receipt.digest}, stream {result.receipt.stream}, serial {result.receipt.serial}",
        *_placed(result.images),
        *(f"passed over generation {number}: {damage[0]}" for number, damage in result.skipped),
        "serials are remembered as before: an older bundle stays refused",
    ]
    data = {
        "generation": result.generation,
        "images": [image.model_dump(mode="json", by_alias=True) for image in result.images],
        "journal": _head(result.journal),
        "previous": result.previous,
        "skipped": [{"damage": [str(d) for d in damage], "generation": number} for number, damage in result.skipped],
        "store": str(result.store),
    }
    return Report(data, "\n".join(lines))


def removed(result: Removed) -> Report:
    """Tell what was taken away and what stays, and why."""
    staying = {entry.component for entry in result.images_left}
    gone = f"{counted(len(result.generations), 'generation')}, {counted(len(result.bundles), 'bundle')}"
    lines = [
        f"removed from {result.store}: {gone}, {human(result.bytes)}",
        *(f"  {name} taken out of its {'other ' if name in staying else ''}targets" for name in result.images),
        *(f"  {entry.component} STAYS: {printable(entry.reason, 400)}" for entry in result.images_left),
        *(f"  not ours, left: {printable(name)}" for name in result.left),
        f"kept: {', '.join(result.kept)}",
    ]
    data = {
        "bundles": list(result.bundles),
        "bytes": result.bytes,
        "generations": list(result.generations),
        "images": list(result.images),
        "imagesLeft": [{"component": entry.component, "reason": entry.reason} for entry in result.images_left],
        "journal": _head(result.journal),
        "kept": list(result.kept),
        "left": list(result.left),
        "store": str(result.store),
    }
    return Report(data, "\n".join(lines), 1 if result.images_left else 0)


def checked(found: Drift, remedy: str, known: Known) -> Report:
    """Tell what has changed since the install, with the ``remedy`` for that, and what became known since.

    What could not be compared, or was not assessed, is told apart.
    """
    notes = [{"kind": kind, "message": message, "subject": subject} for kind, subject, message in found.notes]
    lines = [found.outcome, *(": ".join(filter(None, (kind, printable(subject), message))) for kind, subject, message in found.notes)]
    hint = remedy if found.exit_code == RefusedError.exit_code else None
    lines += [f"hint: {hint}"] if hint else []
    lines += [*known_words.lines(known.vulnerabilities), *_gate(known.gate)]
    code = worst(found.exit_code, known.exit_code)
    data = {
        "checks": checks.as_json(known.results, known.gate),
        "exitCode": code,
        "hint": hint,
        "notes": notes,
        "outcome": found.outcome,
        "vulnerabilities": known_words.data(known.vulnerabilities),
    }
    return Report(data, "\n".join(lines), code)


def worst(*codes: int) -> int:
    """Return the exit code that says most: 3 before 4 before 5 before 0."""
    return min((code for code in codes if code), default=0)


def evidence(assessment: Assessment, files: Iterable[Path]) -> Report:
    """Tell the verdict and where the evidence lies."""
    listed = [str(path) for path in files]
    lines = [f"verdict: {assessment.verdict}"]
    lines += [f"reason: {failure.message}" for failure in assessment.failures]
    if assessment.proof:
        proof = assessment.proof
        lines += [*known_words.lines(proof.vulnerabilities), *_gate(proof.gate)]
        lines += [f"disagreement: {d.component}: {d.message}" for d in proof.inventory.disagreements]
        lines += [f"installed: {proof.drift.outcome}"] if proof.drift else []
    lines += [f"not checked: {counted(len(assessment.not_checked), 'thing')}, listed in the report"]
    lines += [f"written: {path}" for path in listed]
    data = {"exitCode": assessment.exit_code, "files": listed, "notChecked": len(assessment.not_checked), "verdict": assessment.verdict}
    return Report(data, "\n".join(lines), assessment.exit_code)


def journal(head: Head) -> Report:
    """Tell how far the journal goes; its head is to be noted elsewhere."""
    entries = counted(head.count, "entry", many="entries")
    return Report(_head(head), f"journal: {entries}, unbroken\nhead {head.sha256} (note it where this machine cannot write)")


def _placed(items: Iterable[ImageReceipt | TreeReceipt]) -> list[str]:
    """Tell where each component was put, which names there led elsewhere before, and which images were put nowhere."""
    lines: list[str] = []
    for item in items:
        for place in item.placements:
            lines.append(f"  {item.name}  in {place.target} as {_names(place.tags) or place.id}")
            lines += [f"  {item.name}  {printable(name)} led to {printable(was)} before" for name, was in place.displaced.items()]
    reasons = [(item.name, getattr(item, "reason", None)) for item in items if not item.placements]
    return lines + [f"  {name}  NOT PLACED: {reason}" for name, reason in reasons if reason]


def _names(tags: Iterable[str]) -> str:
    """Return the names people use; those with a digest, a signature's for example, are counted where there are others."""
    known = list(tags)
    plain = [tag for tag in known if "@" not in tag] or known
    more = len(known) - len(plain)
    return printable(", ".join(plain), 600) + (f", and {more} more by digest" if more else "")


def _gate(gate: checks.Gate, known: frozenset[str] = frozenset()) -> list[str]:
    """Tell what a gate decides; of the components in ``known`` the reasons stand above already."""
    fates = [("let through", finding) for finding in gate.warned] + [("refused", finding) for finding in gate.refused]
    lines = [f"finding ({fate}): {_short(finding, known)} [{finding.id}, {finding.severity}]" for fate, finding in fates]
    return lines + [f"not assessed: {_short(note, known)} [{note.id}]" for note in gate.not_assessed]


def _short(note: checks.Finding | checks.NotAssessed, known: frozenset[str]) -> str:
    return checks.where(note) if note.component in known else checks.told(note)


def _head(head: Head) -> dict[str, Any]:
    return {"entries": head.count, "head": head.sha256}


def _bundle(bundle: VerifiedBundle) -> dict[str, Any]:
    said = bundle.statement
    return {
        "bundle": str(bundle.digest),
        "bytes": sum(size for _, size in bundle.blobs),
        "components": [component.name for component in bundle.components],
        "expires": canonical.stamp(said.expires),
        "ignored": [{"file": entry.file, "reason": entry.reason} for entry in bundle.ignored],
        "modelSignatures": [signature.as_json for signature in bundle.models],
        "policy": {"sha256": bundle.policy_sha256, "version": bundle.policy_version},
        "serial": said.serial,
        "signatures": [signature.as_json for signature in bundle.signatures],
        "statement": {"created": canonical.stamp(said.created), "previous": said.previous, "tool": said.tool},
        "stream": said.stream,
    }
