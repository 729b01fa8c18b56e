"""Judge what a package index published about the wheels and source archives a bundle carries, by the policy's rules about wheels.

Rules: a file is good only if one attestation of it (PEP 740) is by an identity of the first rule that matches its project, and is about
that file's name and sha256. Who may have made it, and which authority says so, comes from the policy; what a provenance file says of
its publisher is signed by nobody and is not read. Absence is unknown, not bad: many indexes and most mirrors offer nothing, so a file
without an attestation is *missing* with the reason. A bad attestation beside a good one is listed, and does not spoil it.

Every ``*.whl`` of every tree is judged, and the source archives of trees of kind ``python``. No network, nothing believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from airgap_images.bundle import Component, TreeFile, tree_files
from airgap_images.layout import Layout
from airgap_images.wheel_evidence import SUFFIX, Attested, WheelTree, load
from audit.verify import keyless
from audit.verify.claims import UnknownShapeError
from audit.verify.published import PREDICATES, SOURCES, Published, attestations, distribution, project, published
from audit.verify.verdict import Judge, Outcome, Result, Seen, Verdict, several
from manifests import canonical
from manifests.errors import AirgapError, IntegrityError
from manifests.identities import SigstoreSigner
from manifests.paths import printable
from manifests.policy import Policy
from manifests.upstream import SignedRule

KIND = "python"
NOT_COLLECTED = "nothing was asked of an index about this component"
NOT_LISTED = "what was asked of the index does not name this file"
UNKNOWN = "no attestation of it is carried, which says nothing of the file itself"


@dataclass(frozen=True, slots=True)
class _Trial:
    """An attestation before it is judged, with what is to be asked about it; ``others`` are named and cannot have made it."""

    seen: Seen
    payload: bytes = b""
    asked: tuple[tuple[str, keyless.Question], ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Work:
    """A file before its verdict; ``why`` says why nothing is carried for it, ``broken`` why what is carried cannot be read."""

    component: str
    file: TreeFile
    project: str
    rule: SignedRule | None
    trials: tuple[_Trial, ...] = ()
    why: str = ""
    broken: str = ""


@dataclass(frozen=True, slots=True)
class _Beside:
    """What travels beside a component: its evidence by path, or why there is none to use."""

    tree: WheelTree | None = None
    attested: dict[str, Attested] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    broken: str = ""


def assess(layout: Layout, components: Iterable[Component], policy: Policy | None, judge: Judge = keyless.judge) -> tuple[Verdict, ...]:
    """Return the verdict over each wheel and source archive, by component and path; without a policy nobody is named for any."""
    listed = tuple(components)
    trees = {part.name: part for part in listed if part.form == "tree"}
    works = [work for part in trees.values() for work in _of(layout, part, trees.get(part.name + SUFFIX), policy)]
    questions = tuple(question for work in works for trial in work.trials for _, question in trial.asked)
    answers = iter(judge(questions) if questions else ())
    return tuple(_ended(work, answers) for work in works)


def is_distribution(component: Component, file: TreeFile) -> bool:
    """Say whether a file of a tree is one that an index may have published."""
    return file.path.endswith(".whl") or (component.kind == KIND and not component.name.endswith(SUFFIX) and file.path.endswith(SOURCES))


def _of(layout: Layout, component: Component, beside: Component | None, policy: Policy | None) -> Iterator[_Work]:
    files = sorted((file for file in tree_files(layout, component.root) if is_distribution(component, file)), key=lambda file: file.path)
    carried = _beside(layout, component, beside) if files else _Beside()
    for file in files:
        name = project(file.path.rsplit("/", 1)[-1])
        work = _Work(component.name, file, name, policy.upstream.wheel_rule(name) if policy else None)
        yield _begun(work, carried, policy)


def _beside(layout: Layout, component: Component, beside: Component | None) -> _Beside:
    if beside is None or beside.kind != KIND:
        return _Beside()
    try:
        tree = load(layout, beside.root)
        if tree.evidence.of != component.name:
            raise IntegrityError(f"{beside.name} is about {printable(tree.evidence.of)}", hint="distrust this bundle")
    except AirgapError as error:
        return _Beside(broken=error.message)
    why = {path: why for why, paths in tree.evidence.absent for path in paths}
    return _Beside(tree, {one.path: one for one in tree.evidence.attested}, why)


def _begun(work: _Work, carried: _Beside, policy: Policy | None) -> _Work:
    if carried.broken:
        return replace(work, broken=carried.broken)
    if carried.tree is None:
        return replace(work, why=NOT_COLLECTED)
    attested = carried.attested.get(work.file.path)
    if attested is None:
        return replace(work, why=carried.why.get(work.file.path, NOT_LISTED))
    if attested.sha256 != work.file.digest.hex:
        return replace(work, broken=f"it was asked about sha256 {attested.sha256}, and {work.file.digest} is carried")
    digest, raw = carried.tree.provenance(attested)
    start = Seen("attestation", "provenance", None, work.file.digest, digest, (work.file.digest,), None, "wrong", "")
    try:
        found = attestations(raw, attested.provenance)
    except AirgapError as error:
        return replace(work, trials=(_Trial(_failed(start, error)),))
    what = f"{attested.provenance}, attestation"
    return replace(work, trials=tuple(_trial(start, value, f"{what} {at}", work, policy) for at, value in enumerate(found, start=1)))


def _trial(start: Seen, value: object, what: str, work: _Work, policy: Policy | None) -> _Trial:
    try:
        found = published(value, what)
    except AirgapError as error:
        return _Trial(_failed(start, error))
    start = replace(start, predicate=found.predicate)
    why = _not_about(found, work.file)
    if found.predicate not in PREDICATES:
        reason = f"an attestation {printable(found.predicate)} is none that counts"
        return _Trial(replace(start, result="not asked for", reason=reason))
    if work.rule is None or policy is None:
        return _Trial(replace(start, result="not asked for", reason=_nobody(work)))
    if why or found.claim.keyless is None:
        outcome: Outcome = "unverifiable" if found.claim.unjudged and not why else "wrong"
        return _Trial(replace(start, result=outcome, reason=why or found.claim.no_keyless))
    asked = tuple(_asked(found.claim.keyless.bundle, work.rule, policy))
    others = frozenset(work.rule.signed_by) - {name for name, _ in asked}
    return _Trial(start, found.claim.payload or b"", asked, tuple(sorted(others)))


def _asked(bundle: bytes, rule: SignedRule, policy: Policy) -> Iterator[tuple[str, keyless.Question]]:
    for name in rule.signed_by:
        identity = policy.upstream.identities[name]
        if isinstance(identity, SigstoreSigner):
            root = canonical.compact(policy.trusted_roots[identity.trusted_root])
            yield name, keyless.Question(bundle, None, identity.identity, identity.issuer, root, identity.repository)


def _failed(start: Seen, error: AirgapError) -> Seen:
    outcome: Outcome = "unverifiable" if isinstance(error, UnknownShapeError) else "wrong"
    return replace(start, result=outcome, reason=printable(error.message, 400))


def _not_about(found: Published, file: TreeFile) -> str:
    """Say why an attestation is about something else than the file, empty if it is about it."""
    name = file.path.rsplit("/", 1)[-1]
    if found.sha256 != file.digest.hex:
        return f"it is about {printable(found.name)} with sha256 {found.sha256}, not about this file"
    named = distribution(found.name)
    return "" if named and named == distribution(name) else f"it is about {printable(found.name)!r}, not about {printable(name)!r}"


def _ended(work: _Work, answers: Iterator[keyless.Answer]) -> Verdict:
    seen = tuple(_answered(trial, [next(answers) for _ in trial.asked]) for trial in work.trials)
    result, reason = _result(work, seen)
    rule = work.rule.match if work.rule else None
    return Verdict(work.component, work.project, rule, result, reason, seen, sort="wheel", file=work.file.path)


def _answered(trial: _Trial, answers: list[keyless.Answer]) -> Seen:
    """Return what became of an attestation: good by one is good; else what stays open outweighs what failed."""
    if not trial.payload:
        return trial.seen
    for (name, _), answer in zip(trial.asked, answers, strict=True):
        if answer.result == "good":
            if answer.payload == keyless.payload_digest(trial.payload):
                return replace(trial.seen, by=name, result="good", reason=f"attested as {name}")
            return replace(trial.seen, reason="the statement that was verified is another than the one that was read")
    still = [answer.reason for answer in answers if answer.result == "unverifiable"]
    if still:
        return replace(trial.seen, result="unverifiable", reason=several(dict.fromkeys(still)))
    failed = [f"not {name}: {answer.reason}" for (name, _), answer in zip(trial.asked, answers, strict=True)]
    return replace(trial.seen, reason=several((*failed, *(f"not {name}: an index's attestations are keyless" for name in trial.others))))


def _result(work: _Work, seen: tuple[Seen, ...]) -> tuple[Result, str]:
    if work.rule is None:
        return "nobody named", _nobody(work)
    if work.broken:
        return "wrong", f"the evidence of the index is not what it says: {work.broken}"
    good = sorted({str(entry.by) for entry in seen if entry.result == "good"})
    if good:
        return "good", f"attested by {', '.join(good)}"
    for result in ("wrong", "unverifiable"):
        reasons = list(dict.fromkeys(entry.reason for entry in seen if entry.result == result))
        if reasons:
            return result, several(reasons)
    return "missing", f"{UNKNOWN}: {printable(work.why, 400) or several(dict.fromkeys(entry.reason for entry in seen))}"


def _nobody(work: _Work) -> str:
    return f"the policy names nobody for {printable(work.project) or 'a file of an unknown project'}"
