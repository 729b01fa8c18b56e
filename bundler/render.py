"""What the connected side's commands say: every result as data for programs and as text for people. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit import checks
from audit.terminal import Report, human, table
from audit.vulnerabilities.feeds import KIND as OSV
from bundler import sizing_words
from bundler.build import Built
from manifests.diff import Difference
from manifests.lock import Lock, LockedComponent
from manifests.paths import printable

if TYPE_CHECKING:
    from bundler.catalog import Part, Stack
    from bundler.model_signatures import ModelsSigned
    from bundler.sign import Signed, Standing
    from bundler.sizing import Sized, Unsized
    from manifests.costs import Prices
    from manifests.intent import Serving

    Models = tuple[Sized | Unsized, ...]

MAX_CHANGES = 40  # differences shown to people; --json has all
EVIDENCE = {
    "upstream-signatures": "signatures",
    "upstream-attestations": "attestations",
    "upstream-provenance": "provenance",
    "upstream-sboms": "SBOMs",
    "upstream-others": "others",
    "upstream-not-collected": "not collected",
}  # what is said of an image's companion, by the name of the fact
FACTS = ("commit", "digest", "packages", "license", "sha256", "tree")  # what identifies a component, first found first
NO_DATA = (
    "no vulnerability data is carried: the isolated side compares nothing with any, and ends with 5, unless a feed was imported there; "
    "a component of kind `osv` brings some"
)


def locked(lock: Lock, path: Path, changes: tuple[Difference, ...], *, written: bool, known: bool) -> Report:
    """Tell what a lock holds and what moved."""
    lines = [_components(lock)]
    if known and changes:
        lines += ["", f"{len(changes)} changes:", *map(str, changes[:MAX_CHANGES])]
        lines += [f"... and {len(changes) - MAX_CHANGES} more"] if len(changes) > MAX_CHANGES else []
    state = "written" if written else "unchanged"
    lines += ["", f"{path}: {state}; {human(lock.size)} in {len(lock.components)} components"]
    return Report({"lock": str(path), "state": state, "size": lock.size, "changes": differences(changes)}, "\n".join(lines))


def catalog(stacks: tuple[Stack, ...], parts: tuple[Part, ...], day: str) -> Report:
    """List the catalog: what there is, for what, and which of it was resolved."""
    ready = ((stack.id, stack.title, " + ".join(stack.parts)) for stack in stacks)
    rows = ((part.id, part.fills, part.stack, "yes" if part.resolved else "no", part.title) for part in parts)
    lines = [table([("stack", "what it is", "parts"), *ready]), "", table([("part", "fills", "for", "resolved", "what it is"), *rows])]
    lines += ["", f"by the catalog of {day}; `resolved`: whether it was, then"]
    data = {"asOf": day, "stacks": [asdict(stack) for stack in stacks], "parts": [asdict(part) for part in parts]}
    return Report(data, "\n".join(lines))


def planned(lock: Lock, free: int, out: Path, unknown: Iterable[str]) -> Report:
    """Tell what a bundle would take, before anything large is fetched."""
    fits = lock.size <= free
    notes = list(unknown)
    room = f"free at {out}: {human(free)}{'' if fits else ' - NOT ENOUGH'}"
    lines = [_components(lock), "", f"to carry: {human(lock.size)}; {room}"]
    lines += ["", "not assessed:", *(f"  - {text}" for text in notes)]
    listed = [_component(component) for component in lock.components]
    data = {"components": listed, "size": lock.size, "free": free, "fits": fits, "notAssessed": notes}
    return Report(data, "\n".join(lines), 0 if fits else 1)


def with_models(planned: Report, found: Models, serving: Serving, prices: Prices | None, *, every: bool) -> Report:
    """Add to a plan which accelerators its models fit; one that will not run there ends with exit code 4."""
    lines, listed, unknown = sizing_words.told(found, every=every)
    cost = sizing_words.costs(serving, prices, found) if prices else sizing_words.NO_COSTS
    notes = [*unknown, *([sizing_words.NOTHING_MEASURED] if found else []), *cost.unknown]
    before, mark, after = planned.text.partition("\n\nnot assessed:")
    text = "\n".join([before, *lines, *cost.lines]) + mark + after + "".join(f"\n  - {note}" for note in notes)
    data = {**planned.data, **cost.data, "models": listed, "notAssessed": [*planned.data["notAssessed"], *notes]}
    return Report(data, text, planned.exit_code or (0 if sizing_words.fits(found) else 4))


def fitted(found: Sized, serving: Serving, prices: Prices | None) -> Report:
    """Tell which accelerators a model of the catalog fits."""
    lines, listed, unknown = sizing_words.told((found,), every=True)
    cost = sizing_words.costs(serving, prices, (found,)) if prices else sizing_words.NO_COSTS
    notes = [*unknown, sizing_words.NOTHING_MEASURED, *cost.unknown]
    text = "\n".join([*lines, *cost.lines, "", "not assessed:", *(f"  - {note}" for note in notes)]).strip()
    return Report({**cost.data, "models": listed, "notAssessed": notes}, text)


def built(result: Built, out: Path) -> Report:
    """Tell what stands in the folder and what the checks said; what a check could not assess ends with exit code 5."""
    fetched, gate = result.fetched, result.gate
    lines = [table([("check", "examined", "outcome"), *((r.id, str(r.examined), r.outcome) for r in result.results)], frozenset({1}))]
    lines += [f"warning: {checks.told(finding)} [{finding.id}, {finding.severity}]" for finding in gate.warned]
    lines += [f"not assessed: {checks.told(note)} [{note.id}]" for note in gate.not_assessed]
    lines += [] if any(part.kind == OSV for part in result.components) else [f"note: {NO_DATA}"]
    lines += [
        "",
        f"{out}: {'built' if result.changed else 'unchanged'}, {human(result.size)}, bundle {result.digest}",
        f"fetched {human(fetched.bytes)}; {fetched.files} files, of which {fetched.present} were here and {fetched.local} were local",
    ]
    data = {
        "bundle": str(result.digest),
        "changed": result.changed,
        "size": result.size,
        "fetched": {
            "bytes": fetched.bytes,
            "files": fetched.files,
            "local": fetched.local,
            "present": fetched.present,
            "resumedBytes": fetched.resumed,
        },
        "checks": checks.as_json(result.results, gate),
    }
    return Report(data, "\n".join(lines), gate.exit_code)


def signed(result: Signed, standing: Standing | None, models: ModelsSigned | None = None) -> Report:
    """Tell who has signed, the models too; where a policy was named also who counts under it and who is still missing."""
    said = result.predicate
    lines = [
        f"{'signed' if result.added else 'had signed before'}: {result.file}",
        f"bundle {result.digest}, stream {said.stream}, serial {said.serial}, expires {said.expires}",
        f"signatures now: {', '.join(result.signatures)}",
        *(f"model signed: {file}" for file in (models.made if models else ())),
        *([models.note] if models and models.note else []),
    ]
    if standing:
        lines += _standing(standing)
    data: dict[str, Any] = {
        "added": result.added,
        "bundle": str(result.digest),
        "file": str(result.file),
        "serial": said.serial,
        "models": {"made": list(models.made), "stood": list(models.stood), "note": models.note} if models else None,
        "signatures": list(result.signatures),
        "stream": said.stream,
    }
    if standing:
        ignored = [{"file": entry.file, "reason": entry.reason} for entry in standing.ignored]
        data |= {"missing": standing.missing, "signed": list(standing.signed), "waiting": list(standing.waiting)}
        data |= {"ignored": ignored, "failures": list(standing.failures)}
    return Report(data, "\n".join(lines))


def _standing(standing: Standing) -> list[str]:
    who = f"signed by {', '.join(standing.signed) or 'nobody who counts'}"
    who += f", not by {', '.join(standing.waiting)}" if standing.waiting else ""
    return [
        f"policy: {standing.missing or 'the threshold is reached'} ({who})",
        *(f"policy: {entry.file} does not count: {printable(entry.reason, 600)}" for entry in standing.ignored),
        *(f"policy: it would be refused: {printable(message, 600)}" for message in standing.failures),
    ]


def differences(changes: Iterable[Difference]) -> list[dict[str, str]]:
    """Return differences as data."""
    return [{"change": d.change, "component": d.component, "new": d.new, "old": d.old, "what": d.what} for d in changes]


def _components(lock: Lock) -> str:
    rows = [("component", "kind", "files", "size", "identity", "licence")]
    for component in lock.components:
        said = {**component.facts, **component.identity}
        key = next((key for key in FACTS if key != "license" and key in said), "")
        identity = printable(said.get(key, ""), 19)
        if key == "packages":
            identity = f"packages: {identity}"
        if "of" in component.identity:  # what upstream says of the image before it
            counts = [f"{what}: {said[key]}" for key, what in EVIDENCE.items() if key in said]
            identity = printable(", ".join(counts), 90)
        licence = said.get("license", "not stated" if component.model else "")
        count = str(len(component.files) + len(component.inline))
        rows.append((component.name, component.kind, count, human(component.size), identity, printable(licence, 24)))
    return table(rows, frozenset({2, 3}))


def _component(component: LockedComponent) -> dict[str, Any]:
    return {
        "facts": component.facts,
        "files": len(component.files) + len(component.inline),
        "identity": component.identity,
        "kind": component.kind,
        "name": component.name,
        "size": component.size,
    }
