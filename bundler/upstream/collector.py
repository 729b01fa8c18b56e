"""What upstream says of an image, collected while there is a network: signatures, attestations, SBOMs, provenance, all kept.

Asked for each subject (the upstream index and every carried platform's manifest): cosign's tags and the referrers; of what was
found, the same once more (a signature on an SBOM); and the statements BuildKit puts into the index. Rules: a manifest counts
only if it itself names the subject; everything is bounded; what could not be had is listed with its reason and warned of,
so that "there is none" and "we do not know" are never the same. Nothing is judged here: that is the policy's, later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from airgap_images.evidence import (
    MAX_BLOB,
    MAX_BLOBS,
    MAX_FOUND,
    MAX_NOTE,
    MAX_TOTAL,
    TAGS,
    Found,
    Subject,
    children,
    tag,
)
from airgap_images.layout import Layout
from airgap_images.oci import MANIFESTS, MAX_MANIFEST, Descriptor, Digest, Index, Manifest
from airgap_images.platform import is_attestation
from airgap_images.remote.referrers import Answer, said
from airgap_images.remote.web import SERVER_ERRORS, HttpError, TransferError
from bundler.upstream.kind import artifact_type, kind_of
from bundler.upstream.origin import Origin
from manifests.errors import AirgapError, IntegrityError
from manifests.paths import printable

MAX_DEPTH = 2  # evidence, and evidence on evidence
MAX_LOOKED_AT = 512  # listed manifests fetched for one image, whether they turn out to be about it or not
MAX_READ = 4 << 20  # bytes of a blob that is read while locking; larger ones are pinned by what their manifest says
MAX_FAILURES = 3  # questions of one sort that got no answer at all, each asked several times, before no more are asked
MAX_LISTED = 512  # things that could not be had and are listed one by one
ABOUT = "vnd.docker.reference.digest"  # BuildKit's annotation: the manifest a statement is about
SIGNATURE_FIRST = ("sign", "sigstore", "notary")  # in a listed type: looked at first, so that many SBOMs cannot crowd them out
T = TypeVar("T")


@dataclass
class Collection:
    """What was asked and what came of it: manifests and blobs by digest, and ``missed`` (what, why)."""

    asked: list[str] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    manifests: dict[Digest, Descriptor] = field(default_factory=dict)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    missed: list[tuple[str, str]] = field(default_factory=list)
    unlisted: int = 0

    @property
    def size(self) -> int:
        """Return the bytes of everything found, each once."""
        return sum(part.size for part in (*self.manifests.values(), *self.blobs.values()))

    @property
    def notes(self) -> tuple[tuple[str, str], ...]:
        """Return what could not be had, in one order, the rest as a number."""
        listed = sorted(set(self.missed))
        return (*listed, (f"{self.unlisted} more", "too many to list")) if self.unlisted else tuple(listed)

    def miss(self, what: str, why: str) -> None:
        """Note that something could not be had."""
        if len(self.missed) < MAX_LISTED:
            self.missed.append((printable(what, MAX_NOTE), printable(why, MAX_NOTE)))
        else:
            self.unlisted += 1


class Collector:
    """Asks one origin about one image; what is read is kept in ``cache``, where the build takes it from."""

    def __init__(self, origin: Origin, subjects: Iterable[Subject], cache: Layout) -> None:
        self._origin = origin
        held = tuple(subjects)
        self._ordered = tuple(subject.digest for subject in held)
        self._subjects = frozenset(self._ordered)
        self._own = sum(subject.size for subject in held)
        self._cache = cache
        self._looked_at = 0
        self._failures: Counter[str] = Counter()  # by the first word of what was asked for
        self.collection = Collection()

    def gather(self, indexes: Iterable[Index]) -> Collection:
        """Ask everything there is to ask."""
        for index in indexes:
            for entry in index.manifests:
                self._from_index(entry)
        following: tuple[Digest, ...] = self._ordered
        start = 0
        for _ in range(MAX_DEPTH):
            for digest in following:
                self._ask(digest)
            new = self.collection.found[start:]
            start = len(self.collection.found)
            # a signature is not signed again
            following = tuple(dict.fromkeys(found.manifest.digest for found in new if found.kind != "signature"))
        return self.collection

    def blob(self, part: Descriptor) -> bytes | None:
        """Return a blob that was read, None if it was too large for that."""
        if part.size > MAX_READ or not self._cache.has(part.digest, part.size):
            return None
        return self._cache.read(part, MAX_READ)

    def manifest(self, digest: Digest) -> Manifest:
        """Return a found manifest."""
        return Manifest.parse(self._cache.read(self.collection.manifests[digest], MAX_MANIFEST), str(digest))

    def _ask(self, subject: Digest) -> None:
        for suffix in TAGS:
            name = tag(subject, suffix)
            held = self._answer(f"tag {name}", partial(self._origin.tagged, name), asked=True)
            if held:
                self._take("tag", name, subject, *held)
        answer = self._answer(f"referrers {subject}", partial(self._origin.listed, subject), asked=True) or Answer()
        for entry in sorted(answer.entries, key=_precedence):
            self._referrer(subject, entry)
        if answer.problem:
            self._failed(f"referrers {subject}", answer.problem, broken=not answer.entries)

    def _answer(self, what: str, question: Callable[[], T], *, asked: bool = False) -> T | None:
        """Return what the origin answers; what it does not is noted, and after some failures such things are not asked for again."""
        if self._failures[what.partition(" ")[0]] >= MAX_FAILURES:
            self.collection.miss(what, f"not asked for, after {MAX_FAILURES} failures")
            return None
        if asked:
            self.collection.asked.append(what)
        try:
            return question()
        except AirgapError as error:
            self._failed(what, said(error), broken=_is_broken(error))
            return None

    def _failed(self, what: str, why: str, *, broken: bool) -> None:
        self._failures[what.partition(" ")[0]] += broken
        self.collection.miss(what, why)

    def _referrer(self, subject: Digest, entry: Descriptor) -> None:
        what = f"referrer {entry.digest} of {subject}"
        if entry.digest in self._subjects:
            return  # part of the image itself
        if entry.media_type not in MANIFESTS:
            self.collection.miss(what, f"is of media type {printable(entry.media_type)}, which is not carried")
            return
        held = self._fetch(what, entry.digest)
        if held is None:
            return
        about = Manifest.parse(held[1], what).subject
        if about is None or about.digest != subject:
            self.collection.miss(what, "names another subject" if about else "names no subject")
            return
        self._take("referrer", None, subject, *held)

    def _from_index(self, entry: Descriptor) -> None:
        """Take BuildKit's statement about a carried platform; those about others are no concern of this bundle."""
        about = next((digest for digest in self._ordered if str(digest) == entry.annotation(ABOUT)), None)
        if not is_attestation(entry) or about is None or entry.digest in self._subjects:
            return
        held = self._fetch(f"statement {entry.digest} in the index", entry.digest)
        if held is not None:
            self._take("index", None, about, *held)

    def _fetch(self, what: str, digest: Digest) -> tuple[Descriptor, bytes] | None:
        known = self.collection.manifests.get(digest)
        if known is not None:
            return known, self._cache.read(known, MAX_MANIFEST)
        if self._looked_at == MAX_LOOKED_AT or len(self.collection.manifests) >= MAX_FOUND:
            self.collection.miss(what, "too many are listed for this image; this one was not looked at")
            return None
        self._looked_at += 1
        held = self._answer(what, partial(self._origin.manifest, digest))
        if held is None or held[0].media_type not in MANIFESTS:
            if held:
                self.collection.miss(what, "is an index, which is not carried")
            return None
        return held

    def _take(self, shape: str, name: str | None, subject: Digest, descriptor: Descriptor, raw: bytes) -> None:
        """Keep a manifest with everything it needs, or say why not."""
        what = f"tag {name}" if name else f"{shape} {descriptor.digest} of {subject}"
        try:
            if descriptor.media_type not in MANIFESTS or descriptor.digest in self._subjects:
                raise _unfit("is an index, or the image itself, which is no evidence")
            manifest = Manifest.parse(raw, what)
            if descriptor.digest not in self.collection.manifests:
                self._room(manifest)
                self._blobs(manifest)
        except AirgapError as error:
            self.collection.miss(what, said(error))
            return
        self._cache.put(raw)
        own = Descriptor(descriptor.media_type, descriptor.digest, descriptor.size, artifact_type=artifact_type(manifest))
        self.collection.manifests[own.digest] = own
        self.collection.blobs |= {part.digest: part for part in children(manifest)}
        self.collection.found.append(Found(kind_of(manifest, name, self.blob), shape, name, subject, own))

    def _room(self, manifest: Manifest) -> None:
        """Refuse what would go beyond the limits."""
        parts = children(manifest)
        if len(self.collection.manifests) >= MAX_FOUND or len(parts) > MAX_BLOBS:
            raise _unfit(f"is beyond the {MAX_FOUND} manifests, or the {MAX_BLOBS} blobs of one, that are carried")
        largest = max(part.size for part in parts)
        if largest > MAX_BLOB:
            raise _unfit(f"has a blob of {largest} bytes; at most {MAX_BLOB} are carried")
        new = sum(part.size for part in parts if part.digest not in self.collection.blobs)
        if self._own + self.collection.size + len(manifest.raw) + new > MAX_TOTAL:
            raise _unfit(f"would make more than {MAX_TOTAL} bytes of evidence")

    def _blobs(self, manifest: Manifest) -> None:
        """Read the small blobs, so that they are known to be there; raises if one is not, or not what it is said to be."""
        for part in children(manifest):
            known = self.collection.blobs.get(part.digest)
            if known is not None and known.size != part.size:
                raise _unfit(f"says that blob {part.digest} has {part.size} bytes, another says {known.size}")
            if part.size <= MAX_READ and not self._cache.has(part.digest, part.size):
                what = f"blob {part.digest} of {Digest.of(manifest.raw)}"
                raw = self._answer(what, partial(self._origin.blob, part))
                if raw is None:
                    raise _unfit(f"needs blob {part.digest}, which could not be had")
                self._cache.put(raw)


def _precedence(entry: Descriptor) -> tuple[bool, str]:
    listed = (entry.artifact_type or "").lower()
    return not any(word in listed for word in SIGNATURE_FIRST), entry.digest.hex


def _is_broken(error: AirgapError) -> bool:
    return isinstance(error, TransferError) or (isinstance(error, HttpError) and error.status in SERVER_ERRORS)


def _unfit(why: str) -> AirgapError:
    return IntegrityError(why, hint="it is not carried; ask who published it")
