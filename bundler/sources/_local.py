"""Images on this machine: which one a ``ref:`` with a transport means, and where its bytes are.

``oci:PATH[:NAME]`` is read where it stands. ``oci-archive:``, ``docker-archive:`` and ``docker-daemon:`` are streamed once into
an OCI layout beside the lock, so that a build needs neither archive nor engine. Rules: a path ends at its first colon and
stays inside the intent's folder unless it is absolute; nothing in a layout may be a link; every byte has the digest and
size it is said to have; a name leads to one image or to an error.
"""

from __future__ import annotations

import os
import stat
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from airgap_images.bundle import REF_NAME
from airgap_images.contents.archive import contents
from airgap_images.layout import Layout, alone, open_regular, read_regular
from airgap_images.oci import IMAGE_MANIFEST, INDEXES, MANIFESTS, MAX_MANIFEST, Descriptor, Digest, Index, Manifest
from airgap_images.placing.docker_engine import DockerSource, docker_client
from airgap_images.reference import Reference
from airgap_images.remote.referrers import Answer
from bundler.folder import locate
from bundler.sources import Context
from bundler.sources._archive import CONTAINERD_NAME, Asked, is_whole, take
from manifests import canonical
from manifests.errors import AirgapError, IntegrityError, InvalidFileError
from manifests.paths import printable

TRANSPORTS = ("docker-daemon", "docker-archive", "oci-archive", "oci")
FOLDER = ".airgap-images"  # beside the lock: what came out of archives and engines, a layout for each component
MAX_NAMED = 10  # images of a layout named in one message
MAX_LAYOUT_FILE = 64 << 10  # bytes of oci-layout
AGAIN = "write the layout again with the tool that made it"


@dataclass(frozen=True, slots=True)
class Local:
    """A ``ref:`` with a transport: ``place`` is a path or an engine's name of an image, ``name`` selects within it."""

    transport: str
    place: str
    name: str | None

    @classmethod
    def parse(cls, text: str) -> Local | None:
        """Parse ``transport:place[:name]``; None if it names an image in a registry."""
        transport, colon, rest = text.partition(":")
        if not colon or transport not in TRANSPORTS:
            return None
        place, name = (rest, None) if transport == "docker-daemon" else _split(rest)
        if not place or name == "":
            raise InvalidFileError(f"{printable(text)!r} names no image", hint=f"write it as {transport}:PLACE or {transport}:PLACE:NAME")
        return cls(transport, place, name)


@dataclass(frozen=True, slots=True)
class Folder:
    """A layout on this machine as an origin of an image and of what speaks of it; ``base`` is its path in pins."""

    layout: Layout
    base: str
    what: str

    @property
    def repository(self) -> str:
        """Return nothing: it is no registry."""
        return ""

    def read(self, part: Descriptor, limit: int) -> bytes:
        """Read a manifest, an index or a config."""
        try:
            return self.layout.read(part, limit)
        except IntegrityError as error:
            raise self._wrong(error) from None

    def url(self, part: Descriptor, *, manifest: bool = False) -> str:  # noqa: ARG002 - they stand in one place
        """Return where ``part`` stands; raises IntegrityError unless a file of its size is there."""
        try:
            os.close(self.layout.open(part.digest, part.size))
        except IntegrityError as error:
            raise self._wrong(error) from None
        return f"file:{self.base}/blobs/sha256/{part.digest.hex}"

    def index(self) -> Index:
        """Read the layout's own index."""
        try:
            return Index.parse(read_regular(self.layout.root / "index.json", "index.json", MAX_MANIFEST), "index.json")
        except (IntegrityError, InvalidFileError) as error:
            raise self._wrong(error) from None

    def manifest(self, digest: Digest) -> tuple[Descriptor, bytes]:
        """Read a manifest or an index by its digest alone."""
        try:
            size = os.lstat(self.layout.path(digest)).st_size
        except OSError as error:
            raise IntegrityError(f"{self.what}: blobs/sha256/{digest.hex}: {error.strerror}", hint=AGAIN) from None
        raw = self.read(Descriptor(IMAGE_MANIFEST, digest, size), MAX_MANIFEST)
        try:
            value = canonical.parse(raw, f"blobs/sha256/{digest.hex}", limit=MAX_MANIFEST)
            index = isinstance(value, dict) and "manifests" in value
            document = Index.parse(raw, str(digest)) if index else Manifest.parse(raw, str(digest))
        except InvalidFileError as error:
            raise self._wrong(error) from None
        return Descriptor(document.media_type, digest, len(raw)), raw

    def tagged(self, tag: str) -> tuple[Descriptor, bytes] | None:
        """Read what the layout's index has under the name ``tag``."""
        found = next((entry for entry in self.index().manifests if entry.annotation(REF_NAME) == tag), None)
        return None if found is None else self.manifest(found.digest)

    def listed(self, subject: Digest) -> Answer:
        """Return the manifests in the layout's index that name ``subject``."""
        found: dict[Digest, Descriptor] = {}
        for entry in self.index().manifests:
            if entry.media_type == IMAGE_MANIFEST and entry.digest != subject:
                named = Manifest.parse(self.manifest(entry.digest)[1], str(entry.digest)).subject
                if named and named.digest == subject:
                    found[entry.digest] = entry
        return Answer(tuple(found.values()))

    def blob(self, part: Descriptor) -> bytes:
        """Read a small blob."""
        return self.read(part, part.size)

    def _wrong(self, error: AirgapError) -> IntegrityError:
        return IntegrityError(f"{self.what}: {printable(str(self.layout.root))}: {error.message}", hint=AGAIN)


@dataclass(frozen=True, slots=True)
class Found:
    """An image on this machine; ``reference`` is the name it will have on the other side."""

    origin: Folder
    root: Descriptor
    reference: str


def find(component: str, local: Local, reference: str | None, context: Context) -> Found:
    """Return the image ``local`` means, streamed out of its archive or engine if it lies in one.

    Raises InvalidFileError if there is not exactly one such image, or if nothing says what to call it.
    """
    origin = folder(component, local, context)
    if local.transport == "oci":
        _check_layout(origin)
        wanted = local.name
    else:
        _take_in(component, local, origin.layout, context)
        wanted = None  # what was taken in is that one image
    entry = _chosen(origin.index(), wanted, origin.what)
    called = reference or _called(local, entry)
    if called is None:
        raise InvalidFileError(
            f"{component}: nothing says what to call the image {entry.digest}", hint="set `reference:`, for example registry/team/app:1.0"
        )
    return Found(origin, Descriptor(entry.media_type, entry.digest, entry.size), Reference.parse(called).local)


def folder(component: str, local: Local, context: Context) -> Folder:
    """Return the layout where the bytes are or will be."""
    what = f"{component}: {printable(f'{local.transport}:{local.place}')}"
    if local.transport == "oci":
        return Folder(Layout(locate(context.folder, local.place, component)), os.path.normpath(local.place), what)
    return Folder(Layout(context.folder / FOLDER / component), f"{FOLDER}/{component}", what)


def _split(rest: str) -> tuple[str, str | None]:
    place, colon, name = rest.partition(":")
    return place, name if colon else None


def _check_layout(origin: Folder) -> None:
    """Refuse what is no OCI layout, or one with a link where a folder or a document should be."""
    root = origin.layout.root
    for path in (root, root / "blobs", root / "blobs" / "sha256"):
        try:
            mode = os.lstat(path).st_mode
        except OSError as error:
            raise InvalidFileError(f"{origin.what}: {printable(str(path))}: {error.strerror}", hint="name an OCI layout") from None
        if not stat.S_ISDIR(mode):
            raise IntegrityError(f"{origin.what}: {printable(str(path))} is not a folder", hint=AGAIN)
    what = f"{origin.what}: oci-layout"
    said = canonical.parse(read_regular(root / "oci-layout", what, MAX_LAYOUT_FILE), what, limit=MAX_LAYOUT_FILE)
    if not isinstance(said, dict) or said.get("imageLayoutVersion") != "1.0.0":
        raise InvalidFileError(f"{origin.what}: not an OCI layout of version 1.0.0", hint="name an OCI layout")


def _chosen(index: Index, wanted: str | None, what: str) -> Descriptor:
    """Return the one entry of a layout, or the one of that name; raises InvalidFileError with the names there are otherwise."""
    entries = [entry for entry in index.manifests if entry.media_type in MANIFESTS | INDEXES]
    matching = {entry.digest: entry for entry in reversed(entries) if wanted is None or wanted in _names(entry)}
    if len(matching) != 1:
        count = f"{len(matching)} images" if matching else "no image"
        names = sorted({printable(name) for entry in entries for name in _names(entry)})
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        listed = (", ".join(names[:MAX_NAMED]) + more) or f"{len(entries)} without a name"
        called = f" of the name {printable(wanted)!r}" if wanted else ""
        raise InvalidFileError(f"{what}: {count}{called}; it has: {listed}", hint="write `:NAME` behind the path, one of those there are")
    (found,) = matching.values()
    return found


def _names(entry: Descriptor) -> set[str]:
    return {name for name in (entry.annotation(REF_NAME), entry.annotation(CONTAINERD_NAME)) if name}


def _called(local: Local, entry: Descriptor) -> str | None:
    """Return what the image is called if anything says so that is a reference: a bare word is a tag of nothing."""
    engine = local.place if local.transport == "docker-daemon" and not local.place.startswith("sha256:") else None
    for name in (engine, local.name, entry.annotation(CONTAINERD_NAME), entry.annotation(REF_NAME)):
        if name and (name == engine or ":" in name or "/" in name):
            try:
                return Reference.parse(name).local
            except InvalidFileError:
                continue
    return None


def _take_in(component: str, local: Local, layout: Layout, context: Context) -> None:
    """Stream the image into the layout beside the lock; what the old lock pins there stays until another lock is written."""
    before = context.previous.files if context.previous else ()
    asked = Asked(f"{component}: {printable(local.place)}", local.transport, local.name, frozenset(pin.sha256 for pin in before))
    Layout.create(layout.root)
    _hidden(layout.root.parent)
    with alone(layout.root, "another lock is being made"):
        if local.transport == "docker-daemon":
            _from_engine(local.place, layout, asked, context)
        else:
            path = locate(context.folder, local.place, component)
            fd = open_regular(path, asked.what)
            with os.fdopen(fd, "rb") as file:
                take(contents(file, os.fstat(fd).st_size), layout, asked, None)


def _from_engine(name: str, layout: Layout, asked: Asked, context: Context) -> None:
    """Export an image, unless what was taken in last is that very one."""
    with closing(DockerSource(docker_client(context.environment))) as engine:
        found = engine.id(name)
        if not is_whole(layout, found):
            take(filter(None, engine.archive(found)), layout, asked, found)


def _hidden(folder: Path) -> None:
    """Keep what is taken in out of version control: it can be had again, and may be large."""
    path = folder / ".gitignore"
    if not path.exists() or not path.stat().st_size:  # nothing in it: a process was killed right here
        path.write_text("*\n")
