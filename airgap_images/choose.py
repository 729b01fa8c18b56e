"""Platforms of an image: what its index offers, the one for a machine, and an index of ours for some of them.

Rules: an index may hold indexes, one level deep, and ``MAX_CHILDREN`` entries in all; platforms are equal or they are not,
``linux/arm/v7`` is not ``linux/arm/v6``; two images for one platform are an error and never a choice. Bytes come by a
function that has verified them; nothing here opens a file or a connection of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from airgap_images.bundle import IMAGE
from airgap_images.layout import Layout
from airgap_images.oci import IMAGE_INDEX, INDEXES, MANIFESTS, MAX_MANIFEST, Descriptor, Index
from airgap_images.platform import Platform, is_attestation
from manifests import canonical
from manifests.errors import IntegrityError, InvalidFileError, SiteError
from manifests.paths import printable

MAX_INDEX_LEVELS = 2  # index → index → manifest → blob are the four levels `bundle.closure` allows
MAX_CHILDREN = 512  # entries of an index and of the indexes in it; the largest in use have about 60
STATED = ("architecture", "features", "os", "os.features", "os.version", "variant")  # of a platform (image-spec, "image index")
BY_DIGEST = "name one by `platform:`, or the manifest itself by its digest in `ref:`"

Read = Callable[[Descriptor], bytes]


@dataclass(frozen=True, slots=True)
class Offer:
    """One entry of an index, that of an index around it included.

    ``stated`` is what upstream says of its platform, encoded; ``attests``: it is no image, but BuildKit's statement about one.
    """

    platform: Platform
    entry: Descriptor
    stated: bytes = b"{}"
    attests: bool = False


@dataclass(frozen=True, slots=True)
class Offers:
    """Everything an index leads to: the indexes, itself first, and the entries that are none, each once."""

    indexes: tuple[Descriptor, ...]
    entries: tuple[Offer, ...]
    levels: int

    @property
    def images(self) -> tuple[Offer, ...]:
        """Return the entries that are no statements about others."""
        return tuple(offer for offer in self.entries if not offer.attests)

    @property
    def listed(self) -> str:
        """Return the platforms there are, for a message."""
        return ", ".join(sorted({named(offer.platform) for offer in self.images})) or "nothing"

    def of(self, wanted: Platform) -> tuple[Offer, ...]:
        """Return the images for a platform; there should be one."""
        return tuple({offer.entry.digest: offer for offer in self.images if offer.platform == wanted}.values())


def offers(root: Descriptor, read: Read, what: str) -> Offers:
    """Return what the index ``root`` offers; raises InvalidFileError if it is nested too deeply or too large."""
    indexes: dict[Descriptor, None] = {}
    entries: dict[tuple[Descriptor, Platform], Offer] = {}
    level = [Offer(Platform("", ""), root)]
    for levels in range(1, MAX_INDEX_LEVELS + 1):
        following: list[Offer] = []
        for holder in level:
            indexes[holder.entry] = None
            for offer in _entries(holder, Index.parse(read(holder.entry), what)):
                if offer.entry.media_type in INDEXES:
                    following.append(offer)
                else:
                    entries.setdefault((offer.entry, offer.platform), offer)
                if len(indexes) + len(following) + len(entries) > MAX_CHILDREN:
                    raise InvalidFileError(f"{what}: the index leads to more than {MAX_CHILDREN} others", hint=BY_DIGEST)
        if not following:
            return Offers(tuple(indexes), tuple(entries.values()), levels)
        level = following
    raise InvalidFileError(f"{what}: indexes nested deeper than {MAX_INDEX_LEVELS} levels", hint=BY_DIGEST)


def pick(found: Offers, wanted: Platform, what: str) -> Offer:
    """Return the one image for ``wanted``; raises InvalidFileError with what there is if there is none, or more than one."""
    matching = found.of(wanted)
    if len(matching) != 1:
        digests = f" ({', '.join(str(offer.entry.digest) for offer in matching)})" if matching else ""
        count = f"{len(matching)} images" if matching else "no image"
        raise InvalidFileError(f"{what}: the index holds {count} for {wanted}{digests}; it has: {found.listed}", hint=BY_DIGEST)
    if matching[0].entry.media_type not in MANIFESTS:
        kind = printable(matching[0].entry.media_type)
        raise InvalidFileError(f"{what}: the index leads to {kind!r}, not to an image", hint=BY_DIGEST)
    return matching[0]


def check_distinct(found: Offers, what: str) -> None:
    """Refuse two images that are said to be for the very same platform; raises InvalidFileError that names both."""
    known: dict[tuple[Platform, bytes], Offer] = {}
    for offer in found.images:
        version = {key: text for key, text in canonical.parse(offer.stated, what, limit=MAX_MANIFEST).items() if key.startswith("os.")}
        first = known.setdefault((offer.platform, canonical.compact(version)), offer)
        if first.entry.digest != offer.entry.digest:
            both = f"{first.entry.digest} and {offer.entry.digest}"
            raise InvalidFileError(f"{what}: the index holds two images for {named(offer.platform)}: {both}", hint=BY_DIGEST)


def index_of(chosen: Iterable[Offer]) -> str:
    """Return the text of an index of ours: exactly these images, with the platforms upstream states; always the same for the same."""
    entries = [
        {
            "mediaType": offer.entry.media_type,
            "digest": str(offer.entry.digest),
            "size": offer.entry.size,
            "platform": canonical.parse(offer.stated, "platform", limit=MAX_MANIFEST),
        }
        for offer in sorted(chosen, key=lambda offer: (str(offer.platform), offer.entry.digest))
    ]
    return canonical.compact({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "artifactType": IMAGE, "manifests": entries}).decode()


def platform_manifest(layout: Layout, root: Descriptor, wanted: Platform) -> Descriptor:
    """Return the manifest of the image ``root`` for a machine's platform.

    What was locked for one platform is that one, whatever the machine; of an index with several it is the one for ``wanted``.
    Raises SiteError, listing what there is, if there is none; IntegrityError if the index leads to something else.
    """
    what = f"blobs/sha256/{root.digest.hex}"
    if root.media_type in MANIFESTS:
        return root
    found = offers(root, lambda part: layout.read(part, MAX_MANIFEST), what)
    sole = root.artifact_type == IMAGE and len(found.entries) == 1 and found.levels == 1
    matching = found.entries if sole else found.of(wanted)
    if not matching:
        hint = "lock the image again with `platforms:` naming this one, or use a machine of another kind"
        raise SiteError(f"{what}: no image for {wanted}, which this machine is; it has: {found.listed}", hint=hint)
    if len(matching) > 1 or matching[0].entry.media_type not in MANIFESTS:
        raise IntegrityError(f"{what}: does not lead to one image for {wanted}; it has: {found.listed}", hint="build the bundle again")
    return matching[0].entry


def named(platform: Platform) -> str:
    """Return a platform for a message."""
    return printable(str(platform)) or "no platform stated"


def _entries(holder: Offer, index: Index) -> Iterator[Offer]:
    """Yield what an index lists; one that states no platform has that of the index it stands in."""
    listed = canonical.parse(index.raw, "index", limit=MAX_MANIFEST)["manifests"]
    for entry, raw in zip(index.manifests, listed, strict=True):
        attests = holder.attests or is_attestation(entry)
        stated = {key: value for key, value in (raw.get("platform") or {}).items() if key in STATED and _plain(value)}
        if stated:
            yield Offer(Platform.said(entry), entry, canonical.compact(stated), attests)
        else:
            yield Offer(holder.platform, entry, holder.stated, attests)


def _plain(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))
