"""Judge what upstream says of the images a bundle carries, by the policy's rules about images. No network, nothing believed.

Rules: an image is good only if *every* manifest of it that is carried has a valid signature by an identity of the first rule that
matches its repository, over that manifest or over an upstream index that leads to it, and every attestation the rule asks for.
That an index leads somewhere is what its own bytes say, and those of the indexes in it; all of them are carried.
How an identity is checked comes from the policy; a signature is tried with what the policy says and nothing else. Nothing found
is *missing*; what cannot be judged here is *unverifiable*, with the reason; what was judged and failed is *wrong*. A bad signature
beside a good one is listed, and does not spoil it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from airgap_images.bundle import IMAGE, Component
from airgap_images.evidence import MAX_SUBJECTS, SUFFIX, EvidenceTree, Found, load
from airgap_images.layout import Layout
from airgap_images.oci import INDEXES, MAX_MANIFEST, Descriptor, Digest, Index
from airgap_images.platform import Platform, is_attestation
from airgap_images.reference import Reference
from audit.verify import keyless
from audit.verify.claims import Claim, UnknownShapeError, Unsigned, claims
from audit.verify.verdict import Judge, Outcome, Result, Seen, Verdict, several, valid
from manifests import canonical
from manifests.errors import AirgapError, IntegrityError
from manifests.identities import CertificateSigner, SigstoreSigner
from manifests.paths import printable
from manifests.policy import Policy
from manifests.upstream import ImageRule, Upstream, UpstreamKey

MAX_CLAIMS = 1024  # things judged for one image; each may cost as many checks as the rule has names
MAX_INDEXES = 3  # one in the other, above a manifest; upstream's are two at most, and one of ours may be around them
NO_EVIDENCE = "no upstream evidence travels with this image"


@dataclass(frozen=True, slots=True)
class _Image:
    """An image with what is carried of it: manifests with their platform, and upstream's indexes with those they lead to."""

    component: str
    name: str
    manifests: tuple[tuple[Digest, str], ...]
    indexes: tuple[tuple[Digest, frozenset[Digest]], ...]
    raw: Mapping[Digest, bytes]

    def accepted(self, manifest: Digest) -> frozenset[Digest]:
        """Return what a signature may be about to count for ``manifest``."""
        return frozenset({manifest, *(index for index, led in self.indexes if manifest in led)})

    @property
    def subjects(self) -> frozenset[Digest]:
        """Return everything a signature may be about to count for anything here."""
        return frozenset(digest for manifest, _ in self.manifests for digest in self.accepted(manifest))


@dataclass(frozen=True, slots=True)
class _Trial:
    """A claim before it is judged: the answers of keys are there, those of certificates are asked for."""

    seen: Seen
    claim: Claim | None = None
    asked: tuple[tuple[str, keyless.Question], ...] = ()


def assess(layout: Layout, components: Iterable[Component], policy: Policy, judge: Judge = keyless.judge) -> tuple[Verdict, ...]:
    """Return the verdict over each image among ``components``, in their order."""
    listed = tuple(components)
    trees = {part.name: part for part in listed if part.form == "tree" and part.name.endswith(SUFFIX)}
    works = [_Work.begun(layout, part, trees.get(part.name + SUFFIX), policy) for part in listed if part.form == "image"]
    questions = tuple(question for work in works for trial in work.trials for _, question in trial.asked)
    answers = iter(judge(questions) if questions else ())
    return tuple(work.ended(answers) for work in works)


@dataclass(frozen=True, slots=True)
class _Work:
    image: _Image
    rule: ImageRule | None
    trials: tuple[_Trial, ...]
    why_missing: str = ""
    broken: str = ""

    @classmethod
    def begun(cls, layout: Layout, component: Component, beside: Component | None, policy: Policy) -> _Work:
        name = _name(component)
        image = _Image(component.name, name, (), (), {})
        rule = policy.upstream.rule(name)
        try:
            tree = load(layout, beside.root) if beside else None
            image = _image(layout, component, name, tree)
            trials = _bounded(t for found in tree.evidence.found for t in _trials(tree, found, image, rule, policy)) if tree else ()
        except AirgapError as error:
            return cls(image, rule, (), broken=error.message)
        return cls(image, rule, trials, NO_EVIDENCE if tree is None else "; ".join(map(_uncollected, tree.evidence.not_collected)))

    def ended(self, answers: Iterator[keyless.Answer]) -> Verdict:
        seen = tuple(_answered(trial, [next(answers) for _ in trial.asked]) for trial in self.trials)
        result, reason = self._result(seen)
        return Verdict(self.image.component, self.image.name, self.rule.match if self.rule else None, result, reason, seen)

    def _result(self, seen: tuple[Seen, ...]) -> tuple[Result, str]:
        if self.rule is None:
            return "nobody named", f"the policy names nobody for {printable(self.image.name)}"
        if self.broken:
            return "wrong", f"the upstream evidence is not what it says: {self.broken}"
        ends = [self._end(manifest, wanted, seen) for manifest in self.image.manifests for wanted in _wanted(self.rule)]
        for result in ("wrong", "unverifiable", "missing"):
            reasons = list(dict.fromkeys(reason for end, reason in ends if end == result))
            if reasons:
                return result, several(reasons)
        if not ends:
            return "wrong", "no manifest of the image is carried"
        return "good", several(dict.fromkeys(reason for _, reason in ends))

    def _end(self, manifest: tuple[Digest, str], wanted: str | None, seen: tuple[Seen, ...]) -> tuple[Result, str]:
        """Return how it ends for one carried manifest and one thing the rule asks for."""
        digest, platform = manifest
        accepted = self.image.accepted(digest)
        of_sort = [entry for entry in seen if entry.result not in {"not asked for", "unsigned"} and _is_sort(entry, wanted)]
        here = [entry for entry in of_sort if accepted & set(entry.about)]
        what = f"{platform + ': ' if platform else ''}{'signature' if wanted is None else f'attestation {printable(wanted)}'}"
        good = sorted({str(entry.by) for entry in here if entry.result == "good"})
        if good:
            return "good", f"{what} by {', '.join(good)}"
        for result in ("wrong", "unverifiable"):
            reasons = list(dict.fromkeys(entry.reason for entry in here if entry.result == result))
            if reasons:
                return result, f"{what}: {several(reasons)}"
        if self.why_missing:
            return "unverifiable", f"{what}: none is carried, and not everything was collected ({self.why_missing})"
        return "missing", f"{what}: none is carried"


def _bounded(trials: Iterator[_Trial]) -> tuple[_Trial, ...]:
    found = tuple(itertools.islice(trials, MAX_CLAIMS + 1))
    if len(found) > MAX_CLAIMS:
        raise IntegrityError(f"more than {MAX_CLAIMS} things are said of one image", hint="distrust this bundle")
    return found


def _name(component: Component) -> str:
    """Return ``registry/repository`` as the bundle's signers state it; empty if they state nothing that can be read."""
    facts = component.facts
    stated = facts.get("reference") if "transport" in facts else facts.get("ref") or facts.get("reference")  # `ref` is then no registry's
    try:
        ref = Reference.parse(stated or "")
    except AirgapError:
        return ""
    return f"{ref.registry}/{ref.repository}"


def _image(layout: Layout, component: Component, name: str, tree: EvidenceTree | None) -> _Image:
    """Return what is carried of an image: a manifest, several in an index of ours, or a whole upstream index."""
    manifests, indexes, raw = _carried(layout, component.root)
    if tree:
        for digest in (part.digest for part in tree.evidence.subjects if part.role == "index"):
            raw[digest] = tree.manifest(digest)
            indexes[digest] = Index.parse(raw[digest], str(digest))
    led = _led(indexes, frozenset(digest for digest, _ in manifests))
    return _Image(component.name, name, manifests, tuple(led.items()), raw)


def _carried(layout: Layout, root: Descriptor) -> tuple[tuple[tuple[Digest, str], ...], dict[Digest, Index], dict[Digest, bytes]]:
    """Read the component: its manifests with their platform, upstream's indexes in it, and the raw bytes of both and of ours."""
    manifests: dict[tuple[Digest, str], None] = {}
    indexes: dict[Digest, Index] = {}
    raw: dict[Digest, bytes] = {}
    level = [(root, str(Platform.said(root)))]
    for _ in range(MAX_INDEXES + 1):
        following: list[tuple[Descriptor, str]] = []
        for part, platform in level:
            known = part.digest in raw
            if part.media_type not in INDEXES:
                manifests[part.digest, platform] = None
            if known:
                continue
            raw[part.digest] = layout.read(part, MAX_MANIFEST)
            if part.media_type in INDEXES:
                index = Index.parse(raw[part.digest], str(part.digest))
                following += [(entry, str(Platform.said(entry)) or platform) for entry in index.manifests if not is_attestation(entry)]
                if part is not root or root.artifact_type != IMAGE:  # else it is ours
                    indexes[part.digest] = index
            if len(raw) > MAX_SUBJECTS:
                raise IntegrityError(f"{root.digest}: leads to more than {MAX_SUBJECTS} manifests", hint="distrust this bundle")
        level = following
        if not level:
            return tuple(manifests), indexes, raw
    raise IntegrityError(f"{root.digest}: indexes nested deeper than {MAX_INDEXES} levels", hint="distrust this bundle")


def _led(indexes: Mapping[Digest, Index], carried: frozenset[Digest]) -> dict[Digest, frozenset[Digest]]:
    """Return which of ``carried`` each index leads to: it lists them, or an index that does and that has the type and size it says."""
    listed = {digest: carried.intersection(entry.digest for entry in index.manifests) for digest, index in indexes.items()}
    inner = {digest: {entry.digest for entry in index.manifests if _is(indexes, entry)} for digest, index in indexes.items()}
    led = listed
    for _ in range(MAX_INDEXES - 1):
        led = {digest: listed[digest].union(*(led[one] for one in inner[digest])) for digest in indexes}
    return led


def _is(indexes: Mapping[Digest, Index], entry: Descriptor) -> bool:
    found = indexes.get(entry.digest)
    return found is not None and (found.media_type, len(found.raw)) == (entry.media_type, entry.size)


def _trials(tree: EvidenceTree, found: Found, image: _Image, rule: ImageRule | None, policy: Policy) -> Iterator[_Trial]:
    start = Seen(found.kind, found.shape, None, found.subject, found.manifest.digest, (found.subject,), None, "wrong", "")
    if found.subject not in image.subjects:
        why = "it is about something else than the image: another thing that is carried, or a platform that is not"
        yield _Trial(replace(start, result="not asked for", reason=why))
        return
    for claim in claims(tree, found, image.raw):
        if isinstance(claim, Unsigned):
            yield _Trial(replace(start, result="unsigned", reason=f"carried, unsigned: {printable(claim.media_type, 80)}"))
        elif isinstance(claim, AirgapError):
            outcome: Outcome = "unverifiable" if isinstance(claim, UnknownShapeError) else "wrong"
            yield _Trial(replace(start, result=outcome, reason=printable(claim.message)))
        else:
            yield _trial(replace(start, predicate=claim.predicate), claim, image, rule, policy)


def _trial(start: Seen, claim: Claim, image: _Image, rule: ImageRule | None, policy: Policy) -> _Trial:
    """Try a claim with every key the rule names for its sort, and note what to ask about certificates."""
    kind = "signature" if claim.predicate is None else "attestation"
    about = tuple(sorted(set(claim.digests) & image.subjects))
    start = replace(start, kind=kind, about=about or start.about)
    names = _named(rule, claim.predicate)
    if not names:
        return _Trial(replace(start, result="not asked for", reason=_unasked(rule, claim.predicate, image.name)))
    if not about:
        return _Trial(replace(start, reason=f"it is about {several(map(str, claim.digests))}, not about this image"))
    asked = []
    for name in names:
        identity = policy.upstream.identities[name]
        if isinstance(identity, UpstreamKey):
            if valid(identity, claim.signature, claim.message):
                return _Trial(replace(start, by=name, result="good", reason=f"signed with the key of {name}"))
        elif isinstance(identity, SigstoreSigner) and claim.keyless:
            root = canonical.compact(policy.trusted_roots[identity.trusted_root])
            part = claim.keyless
            who = (identity.identity, identity.issuer, root, identity.repository)
            asked.append((name, keyless.Question(part.bundle, part.artifact, *who)))
    return _Trial(replace(start, reason=_failed(claim, names, policy.upstream)), claim, tuple(asked))


def _answered(trial: _Trial, answers: list[keyless.Answer]) -> Seen:
    """Return what became of a claim: good by one is good; else what stays open outweighs what failed."""
    claim, start = trial.claim, trial.seen
    if claim is None:
        return start
    statement = None if claim.payload is None else hashlib.sha256(claim.payload).hexdigest()
    for (name, _), answer in zip(trial.asked, answers, strict=True):
        if answer.result == "good":
            if answer.payload == statement or (answer.payload is None and claim.keyless and claim.keyless.artifact is not None):
                return replace(start, by=name, result="good", reason=f"signed as {name}")
            return replace(start, result="wrong", reason="the statement that was verified is another than the one that was read")
    still = [answer.reason for answer in answers if answer.result == "unverifiable"]
    if still or (claim.unjudged and not start.reason):
        return replace(start, result="unverifiable", reason=several(dict.fromkeys(still)) or claim.no_keyless)
    failed = [f"not {name}: {answer.reason}" for (name, _), answer in zip(trial.asked, answers, strict=True)]
    return replace(start, result="wrong", reason=several(filter(None, (start.reason, *failed))))


def _failed(claim: Claim, names: tuple[str, ...], section: Upstream) -> str:
    """Say why no key fits; empty when that is still open, because certificates could fit and cannot be judged here."""
    keys = [name for name in names if isinstance(section.identities[name], UpstreamKey)]
    others = [name for name in names if name not in keys]
    if others and claim.keyless is None:
        return "" if claim.unjudged else f"not {', '.join(others)}: {claim.no_keyless}" + _keys(keys, "; ")
    certified = [name for name in others if isinstance(section.identities[name], CertificateSigner)]
    said = f"not {', '.join(certified)}: a certificate of a pinned authority is none that signs images here" if certified else ""
    return said + _keys(keys, "; " if said else "")


def _keys(names: list[str], before: str) -> str:
    return f"{before}no valid signature with the key of {' or '.join(names)}" if names else ""


def _wanted(rule: ImageRule) -> tuple[str | None, ...]:
    return (*((None,) if rule.signed_by else ()), *(wanted.predicate for wanted in rule.attestations))


def _named(rule: ImageRule | None, predicate: str | None) -> tuple[str, ...]:
    if rule is None:
        return ()
    if predicate is None:
        return rule.signed_by
    return next((wanted.by for wanted in rule.attestations if wanted.predicate == predicate), ())


def _is_sort(entry: Seen, wanted: str | None) -> bool:
    """Say whether what was seen is of the sort asked for; what could not be read may be, by what it was collected as."""
    if entry.predicate is None:
        return (entry.kind == "signature") == (wanted is None)
    return entry.predicate == wanted


def _unasked(rule: ImageRule | None, predicate: str | None, name: str) -> str:
    if rule is None:
        return f"the policy names nobody for {printable(name)}"
    return f"the rule for {rule.match} asks for no {'signature' if predicate is None else f'attestation {printable(predicate)}'}"


def _uncollected(note: tuple[str, str]) -> str:
    return f"{printable(note[0])}: {printable(note[1])}"
