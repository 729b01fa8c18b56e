"""The component ``NAME.upstream``: everything upstream says of the image ``NAME``, as pins and a listing, ready for the lock.

Rules: the same upstream state gives the same bytes, so a proof of a log, which differs each time it is asked for, is taken
from the old lock while the signature it completes is the same; a component is made also when nothing was found, because what
was asked for without an answer must be provable later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from airgap_images.choose import MAX_INDEX_LEVELS
from airgap_images.evidence import (
    LISTING,
    MAX_COMPLETED,
    MAX_REBUILT,
    SUFFIX,
    Completed,
    Evidence,
    Found,
    Subject,
    completed_path,
)
from airgap_images.layout import Layout, read_regular
from airgap_images.oci import INDEXES, MANIFESTS, MAX_MANIFEST, Descriptor, Digest, Index, Manifest
from airgap_images.platform import Platform, is_attestation
from airgap_images.remote.referrers import said
from airgap_images.remote.web import HttpError, TransferError
from bundler.sources import Context
from bundler.upstream.collector import MAX_FAILURES, Collection, Collector
from bundler.upstream.origin import Origin
from bundler.upstream.transparency import MAX_ENTRY, PUBLIC_LOG, Log, belongs, complete, is_older_keyless
from manifests import canonical
from manifests.errors import AirgapError, IntegrityError, InvalidFileError
from manifests.lock import Inline, LockedComponent, Pin
from manifests.paths import NAME

MAX_CONFIG = 8 << 20  # bytes of an image's config
MAX_REBUILT_TOTAL = 32 << 20  # bytes of all rebuilt bundles, which stand in the lock itself
MAX_WARNINGS = 5  # things that could not be had and are warned of one by one; all are in the listing
SIGNATURES = "upstream-signatures"
FACTS = {
    "signature": SIGNATURES,
    "attestation": "upstream-attestations",
    "sbom": "upstream-sboms",
    "provenance": "upstream-provenance",
    "other": "upstream-others",
}
SHAPES = {"tag": "by tag", "referrer": "by referrer", "index": "in the index"}


def collect(image: LockedComponent, context: Context, origin: Origin, log: str = PUBLIC_LOG) -> LockedComponent:
    """Return what upstream says of a resolved image, every byte of it pinned; ``log`` is asked for proofs that are missing.

    Raises InvalidFileError if the image's name leaves no room for another behind it.
    """
    name = checked_name(image.name)
    indexes, subjects = _subjects(image, context.cache, origin)
    collector = Collector(origin, subjects, context.cache)
    found = collector.gather(indexes)
    before = next((known for known in context.beside if known.name == name), None)
    rebuilt = _Rebuilding(collector, before, Log(log.rstrip("/"), partial(context.client.get, limit=MAX_ENTRY))).all()
    listed = tuple(sorted(found.found, key=lambda one: (one.shape, one.tag or "", one.subject, one.manifest.digest)))
    evidence = Evidence(origin.repository, tuple(found.asked), subjects, listed, tuple(rebuilt), found.notes)
    _warn(image.name, found, context)
    return LockedComponent(
        name=name,
        kind="image",
        form="tree",
        identity={"of": image.name, "ref": image.identity["ref"], "digest": image.identity["digest"]},
        facts=_facts(listed, evidence),
        files=_pins(origin, subjects, found),
        inline=(Inline(path=LISTING, text=evidence.to_text()), *(Inline(path=c.file, text=text) for c, text in rebuilt.items())),
    )


def checked_name(image: str) -> str:
    """Return the name of what is carried beside an image; raises InvalidFileError if that is too long."""
    name = image + SUFFIX
    if not NAME.fullmatch(name):
        hint = f"shorten it by {len(name) - 64} characters, or set `upstream: skip`"
        raise InvalidFileError(f"{image}: the name is too long for {name} beside it", hint=hint)
    return name


def _subjects(image: LockedComponent, cache: Layout, origin: Origin) -> tuple[tuple[Index, ...], tuple[Subject, ...]]:
    """Return the upstream indexes that lead to what is carried, and what evidence may be about: them, and each carried image."""
    known = [Digest.parse(image.identity["index"])] if "index" in image.identity else []
    known += [Digest(pin.sha256) for pin in image.files if pin.media_type in INDEXES]
    indexes = {digest: _index(cache, origin, digest) for digest in known}
    carried = frozenset(Digest(pin.sha256) for pin in image.files)
    for index in tuple(indexes.values()):
        indexes |= _between(index, carried, partial(_index, cache, origin))
    listed = [entry for index in indexes.values() for entry in index.manifests]
    images = {entry.digest for entry in listed if not is_attestation(entry)}
    statements = {entry.digest for entry in listed} - images
    subjects = [Subject(digest, index.media_type, len(index.raw), "index", "") for digest, index in indexes.items()]
    for digest in (Digest(pin.sha256) for pin in image.files if pin.media_type in MANIFESTS):
        if digest not in statements:
            manifest = Manifest.parse(_document(cache, origin, digest), str(digest))
            subjects.append(Subject(digest, manifest.media_type, len(manifest.raw), "image", _platform(cache, manifest)))
    return tuple(indexes.values()), tuple(subjects)


def _between(
    index: Index, carried: frozenset[Digest], read: Callable[[Digest], Index], levels: int = MAX_INDEX_LEVELS - 1
) -> dict[Digest, Index]:
    """Return the indexes in ``index`` by which it leads to what is carried: without them nobody could tell that it does."""
    found: dict[Digest, Index] = {}
    for entry in index.manifests if levels else ():
        if entry.media_type in INDEXES and not is_attestation(entry):
            inner = read(entry.digest)
            further = _between(inner, carried, read, levels - 1)
            if further or carried.intersection(listed.digest for listed in inner.manifests):
                found |= {entry.digest: inner, **further}
    return found


def _index(cache: Layout, origin: Origin, digest: Digest) -> Index:
    return Index.parse(_document(cache, origin, digest), str(digest))


def _document(cache: Layout, origin: Origin, digest: Digest) -> bytes:
    """Return a manifest or index of the image, which was read when it was resolved."""
    if not cache.path(digest).is_file():
        raw = origin.manifest(digest)[1]
        cache.put(raw)
        return raw
    raw = read_regular(cache.path(digest), f"cache: {digest}", MAX_MANIFEST)
    if Digest.of(raw) != digest:
        raise IntegrityError(f"{cache.path(digest)}: not what its name says", hint="remove the file, then run again")
    return raw


def _platform(cache: Layout, manifest: Manifest) -> str:
    """Return what the config says the image is for, empty if it says nothing usable."""
    if not cache.has(manifest.config.digest, manifest.config.size):
        return ""
    config = canonical.parse(cache.read(manifest.config, MAX_CONFIG), "config", limit=MAX_CONFIG)
    stated = [config.get(key) for key in ("os", "architecture", "variant")] if isinstance(config, dict) else []
    texts = [text if isinstance(text, str) and text.isalnum() and text.islower() else "" for text in stated]
    return str(Platform.of(*texts)) if len(texts) == 3 and all(texts[:2]) else ""  # noqa: PLR2004


def _pins(origin: Origin, subjects: Iterable[Subject], found: Collection) -> tuple[Pin, ...]:
    manifests = [Descriptor(subject.media_type, subject.digest, subject.size) for subject in subjects]
    pins = [_pin("manifests", part, origin.url(part, manifest=True)) for part in (*manifests, *found.manifests.values())]
    pins += [_pin("blobs", part, origin.url(part, manifest=False)) for part in found.blobs.values()]
    return tuple(sorted(pins, key=lambda pin: pin.path))


def _pin(folder: str, part: Descriptor, url: str) -> Pin:
    return Pin(path=f"{folder}/{part.digest.hex}", url=url, size=part.size, sha256=part.digest.hex, media_type=part.media_type)


def _facts(found: Iterable[Found], evidence: Evidence) -> dict[str, str]:
    counted: dict[str, Counter[str]] = {kind: Counter() for kind in FACTS}
    for one in found:
        counted[one.kind][one.shape] += 1
    facts = {SIGNATURES: "none found"} | {FACTS[kind]: _ways(count) for kind, count in counted.items() if count}
    if evidence.completed:
        facts["upstream-completed"] = str(len(evidence.completed))
    if evidence.not_collected:
        facts["upstream-not-collected"] = str(len(evidence.not_collected))
    return facts


def _ways(count: Counter[str]) -> str:
    return ", ".join(f"{count[shape]} {words}" for shape, words in SHAPES.items() if count[shape])


def _warn(name: str, found: Collection, context: Context) -> None:
    for what, why in found.notes[:MAX_WARNINGS]:
        context.warn(f"{name}: not collected: {what}: {why}")
    more = len(found.notes) - MAX_WARNINGS + max(0, found.unlisted - 1)
    if more > 0:
        context.warn(f"{name}: {more} more things of upstream were not collected; {name}{SUFFIX}/{LISTING} lists them")


class _Rebuilding:
    """Completes the older keyless signatures of a collection, once each, with what the old lock has where that still fits."""

    def __init__(self, collector: Collector, before: LockedComponent | None, log: Log) -> None:
        self._collector = collector
        self._log = log
        self._before = _known(before)
        self._failures = 0
        self._total = 0

    def all(self) -> dict[Completed, str]:
        """Return every bundle that could be made."""
        made: dict[Completed, str] = {}
        names: Counter[Digest] = Counter()
        for digest in sorted(self._collector.collection.manifests):
            for layer in filter(is_older_keyless, self._collector.manifest(digest).layers):
                text = self._bundle(digest, layer, room=len(made) < MAX_REBUILT)
                if text is not None:
                    made[Completed(digest, layer.digest, completed_path(layer.digest, names[layer.digest]))] = text
                    names[layer.digest] += 1
        return made

    def _bundle(self, manifest: Digest, layer: Descriptor, *, room: bool) -> str | None:
        what = f"proof for keyless signature {layer.digest} of {manifest}"
        known = next((text for text in self._before.get((manifest, layer.digest), ()) if belongs(text.encode(), layer)), None)
        try:
            text = known or self._made(layer, self._collector.blob(layer), room=room)
        except AirgapError as error:
            self._failures += isinstance(error, TransferError | HttpError)
            self._collector.collection.miss(what, f"the transparency log: {said(error)}")
            return None
        self._total += len(text)
        return text

    def _made(self, layer: Descriptor, payload: bytes | None, *, room: bool) -> str:
        if not room or self._total > MAX_REBUILT_TOTAL:
            raise _unmade(f"not asked, after {MAX_REBUILT} proofs or {MAX_REBUILT_TOTAL} bytes of them")
        if payload is None or len(payload) > MAX_COMPLETED:
            raise _unmade(f"what was signed has {layer.size} bytes, at most {MAX_COMPLETED} are put into a bundle")
        if self._failures >= MAX_FAILURES:
            raise _unmade(f"not asked, after {MAX_FAILURES} failures")
        return complete(layer, payload, self._log).decode()


def _known(before: LockedComponent | None) -> Mapping[tuple[Digest, Digest], tuple[str, ...]]:
    """Return the bundles an old lock holds, by manifest and layer; an old lock that cannot be read holds none."""
    if before is None:
        return {}
    texts = {text.path: text.text for text in before.inline}
    try:
        evidence = Evidence.parse(texts.get(LISTING, "").encode(), LISTING)
    except AirgapError:
        return {}
    held: dict[tuple[Digest, Digest], tuple[str, ...]] = {}
    for entry in evidence.completed:
        held[entry.manifest, entry.layer] = (*held.get((entry.manifest, entry.layer), ()), texts.get(entry.file, ""))
    return held


def _unmade(why: str) -> AirgapError:
    return InvalidFileError(why, hint="whether the signature counts without it is for the policy")
