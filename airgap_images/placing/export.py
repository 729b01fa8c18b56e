"""An OCI layout folder as a target: images and trees where other tools read them (skopeo, podman, containerd, oras).

Rules: blobs are hard links to the store's where the file system allows, copies proven while they are made elsewhere, and
never symbolic links; a name appears only complete. ``index.json`` is changed under a lock and replaced as a whole, and
entries of others stay as they are. Removing sweeps what no entry that is left leads to, of what was placed here.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airgap_images.bundle import BUNDLE, MAX_BLOBS, MAX_LEVELS, REF_NAME
from airgap_images.layout import PARTIAL, Layout, alone, disk, read_regular, remove_torn, sync_directory, write_atomic
from airgap_images.oci import IMAGE_INDEX, IMAGE_MANIFEST, INDEXES, MANIFESTS, MAX_MANIFEST, Descriptor, Digest, parse_document
from airgap_images.reference import Reference
from airgap_images.shipment import Contents, Extra, shipment, short_tag, walk
from airgap_images.targets import Cargo, Form, Placed, Progress
from manifests import canonical
from manifests.errors import IntegrityError, InvalidFileError, SiteError

CONTAINERD_NAME = "io.containerd.image.name"  # what `ctr images import` looks for first
EMPTY: dict[str, Any] = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": []}
BUSY = "images are being written"
TREES = "trees"
IMAGES = "images"
PARTLY = "upstream's index {} is not in {}, as only some of its platforms are carried; signatures over it can be verified from the bundle"
NOT_OURS = "another tool wrote it, or it is damaged: name another folder"

_HALF = re.compile(r"\.(?:index\.json|oci-layout)\.[0-9a-f]{16}")  # what write_atomic leaves when the process is killed
_BEGUN = re.compile(rf"blobs|{re.escape(PARTIAL)}|{_HALF.pattern}")  # all there is before a folder is a layout

Entry = dict[str, Any]  # of index.json, fields unknown to us included


@dataclass(frozen=True, slots=True)
class _Plan:
    """A cargo as it stands in the folder: what its names lead to, and everything that leads to."""

    root: Descriptor
    contents: Contents
    extras: tuple[Extra, ...]
    partial: Descriptor | None
    names: tuple[str, ...]

    @property
    def entries(self) -> tuple[tuple[str, Entry], ...]:
        """Return every entry by its full name: ``NAME`` for the image, ``[NAME]@DIGEST`` for evidence."""
        own = [(name, _entry(self.root, name)) for name in self.names]
        beside = [(full, _entry(extra.manifest, full.partition("@")[0])) for full, extra in self.tagged]
        plain = [(f"@{extra.manifest.digest}", extra.manifest.to_dict()) for extra in self.extras if not extra.tag]
        return (*own, *beside, *plain)

    @property
    def tagged(self) -> tuple[tuple[str, Extra], ...]:
        """Return the evidence that has tags, by full name."""
        places = tuple(dict.fromkeys(name.rpartition(":")[0] for name in self.names))
        return tuple((f"{place}:{extra.tag}@{extra.manifest.digest}", extra) for place in places for extra in self.extras if extra.tag)

    def without(self, names: set[str]) -> tuple[Entry, ...]:
        """Return the entries but those of ``names``."""
        return tuple(entry for name, entry in self.entries if name not in names)

    @property
    def blobs(self) -> dict[Digest, int]:
        """Return every blob, documents included, with its size."""
        documents = (*self.contents.documents, *(extra.manifest for extra in self.extras))
        found = dict(self.contents.blobs) | {digest: size for extra in self.extras for digest, size in extra.blobs}
        return found | {document.digest: document.size for document in documents}


class LayoutTarget:
    """A folder that is, or becomes, an OCI image layout. A tree is ``trees/NAME:sha256-...`` there."""

    forms: frozenset[Form] = frozenset({"image", "tree"})

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._notes: list[str] = []

    @property
    def name(self) -> str:
        """Return ``layout FOLDER``."""
        return f"layout {self._folder}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what somebody should know of what was put there."""
        return tuple(dict.fromkeys(self._notes))

    def named(self, layout: Layout, cargo: Cargo) -> tuple[tuple[str, str | None], ...]:
        """Return every full name and the id it leads to; evidence is ``[NAME]@DIGEST``, and leads to the image while it is there."""
        plan, entries = _plan(layout, cargo), self._index()["manifests"]
        led = {_name(entry): entry.get("digest") for entry in entries}
        there = {_key(entry) for entry in entries}
        evidence = [(name, str(plan.root.digest) if _key(entry) in there else None) for name, entry in plan.entries if "@" in name]
        return tuple(sorted((*((name, led.get(name)) for name in plan.names), *evidence)))

    def load(self, layout: Layout, cargo: Cargo, progress: Progress | None = None) -> Placed:
        """Link or copy what the folder lacks, then name it; raises IntegrityError if a blob that is there already is another."""
        self._check_folder(layout)
        plan = _plan(layout, cargo)
        before = self.present(layout, cargo) is not None
        target = Layout.create(self._folder)
        with alone(self._folder, BUSY):
            _clean(target)
            for digest, size in plan.blobs.items():
                _put(layout, target, digest, size, progress)
            sync_directory(self._folder / "blobs" / "sha256")
            self._add(plan)
            with contextlib.suppress(OSError):
                (self._folder / PARTIAL).rmdir()
        if plan.partial:
            self._notes.append(f"{cargo.name}: {PARTLY.format(plan.partial.digest, self._folder)}")
        found = self.present(layout, cargo)
        if found is None or not set(plan.names) <= set(found.tags):
            message = f"{self._folder}: {plan.root.digest} is not there right after it was written"
            raise SiteError(message, hint="does another program write there? run again")
        return Placed(found.id, found.tags, before)

    def present(self, layout: Layout, cargo: Cargo) -> Placed | None:
        """Return it with the names that lead to exactly its digest, none of them if a blob is missing; None if no entry does."""
        plan, entries = _plan(layout, cargo), self._index()["manifests"]
        if all(entry.get("digest") != str(plan.root.digest) for entry in entries):
            return None
        target, there = Layout(self._folder), {_key(entry) for entry in entries}
        whole = all(target.has(digest, size) for digest, size in plan.blobs.items())
        names = (name for name, entry in plan.entries if whole and _key(entry) in there)
        return Placed(str(plan.root.digest), tuple(sorted(names)))

    def remove(self, placed: Placed) -> None:
        """Take the names away, and the blobs that no entry that is left leads to."""
        gone = {_named(name, placed.id) for name in placed.tags}
        if not os.path.lexists(self._folder / "index.json"):
            return
        with alone(self._folder, BUSY):
            _clean(Layout(self._folder))
            index = self._index()
            rest = [entry for entry in index["manifests"] if _key(entry) not in gone]
            needed = self._reached(rest, strict=True)
            ours = self._reached([entry for entry in index["manifests"] if _key(entry) in gone], strict=False)
            for digest in reversed(ours):  # what leads to others last: after a kill everything that is left can still be found
                if digest not in needed:
                    with disk(str(self._folder)):
                        Layout(self._folder).path(digest).unlink(missing_ok=True)
            self._write({**index, "manifests": rest})

    def close(self) -> None:
        """Let go of nothing."""

    def _check_folder(self, layout: Layout) -> None:
        """Raise SiteError unless the folder is a layout, empty, or still to be made, and no bundle and no store."""
        folder = self._folder
        others = [path.name for path in folder.iterdir() if not _BEGUN.fullmatch(path.name)] if folder.is_dir() else []
        if others and not (folder / "oci-layout").exists():
            raise SiteError(f"{folder}: is not empty and no OCI image layout", hint="name another folder, or an empty one")
        is_store = os.path.lexists(folder / "receipts") or (folder.exists() and os.path.samefile(folder, layout.root))
        if is_store or self._index().get("artifactType") == BUNDLE:
            raise SiteError(f"{folder}: is a {'store' if is_store else 'bundle'}", hint="images are exported to a folder of their own")

    def _reached(self, entries: Iterable[Entry], *, strict: bool) -> dict[Digest, None]:
        """Return everything entries lead to, each after what leads to it; what is not in the folder leads nowhere.

        With ``strict`` a damaged document is an IntegrityError, since nobody knows what it leads to.
        """
        found: dict[Digest, None] = {}
        level = [_described(entry) for entry in entries]
        for _ in range(MAX_LEVELS + 1):
            new = [descriptor for descriptor in level if descriptor.digest not in found]
            found |= dict.fromkeys(descriptor.digest for descriptor in new)
            if len(found) > MAX_BLOBS:
                raise IntegrityError(f"{self._folder}: more than {MAX_BLOBS} blobs", hint=NOT_OURS)
            level = [child for descriptor in new for child in self._children(descriptor, strict=strict)]
        return found

    def _children(self, descriptor: Descriptor, *, strict: bool) -> tuple[Descriptor, ...]:
        target = Layout(self._folder)
        if descriptor.media_type not in MANIFESTS | INDEXES or not os.path.lexists(target.path(descriptor.digest)):
            return ()
        try:
            document = parse_document(descriptor, target.read(descriptor, MAX_MANIFEST))
        except (IntegrityError, InvalidFileError):
            if strict:
                raise
            return ()
        return document.children if document else ()

    def _add(self, plan: _Plan) -> None:
        """Add entries; a name that led elsewhere moves, unless that would lose evidence of somebody else."""
        index = self._index()
        wanted = plan.without(set(self._foreign(plan, index["manifests"])))
        names, keys = {_name(entry) for entry in wanted} - {None}, {_key(entry) for entry in wanted}
        rest = [entry for entry in index["manifests"] if _name(entry) not in names and _key(entry) not in keys]
        if [*rest, *wanted] != index["manifests"]:
            self._write({**index, "manifests": [*rest, *wanted]})

    def _foreign(self, plan: _Plan, entries: list[Entry]) -> Iterator[str]:
        """Yield full names of evidence whose own name holds more than upstream's."""
        by_name = {_name(entry): entry for entry in entries}
        for full, extra in plan.tagged:
            name = full.partition("@")[0]
            there = by_name.get(name)
            if there is None or there.get("digest") == str(extra.manifest.digest):
                continue
            if set(self._reached([there], strict=False)) - {Digest.parse(there.get("digest"))} - {digest for digest, _ in extra.blobs}:
                self._notes.append(f"{name} in {self._folder} stays as it is: it has more than upstream's {extra.manifest.digest}")
                yield full

    def _index(self) -> dict[str, Any]:
        """Return ``index.json`` as it stands; raises SiteError if it is none."""
        path = self._folder / "index.json"
        if not os.path.lexists(path):
            return EMPTY
        try:
            value = canonical.parse(read_regular(path, str(path), MAX_MANIFEST), str(path), limit=MAX_MANIFEST)
        except (InvalidFileError, IntegrityError) as error:
            raise SiteError(error.message, hint=NOT_OURS) from None
        entries = value.get("manifests") if isinstance(value, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise SiteError(f"{path}: not an OCI index", hint=NOT_OURS)
        return dict(value)

    def _write(self, index: dict[str, Any]) -> None:
        raw = canonical.compact(index)
        if len(raw) > MAX_MANIFEST:
            raise SiteError(f"{self._folder}/index.json: {len(raw)} bytes, at most {MAX_MANIFEST} fit", hint="name another folder")
        write_atomic(self._folder / "index.json", raw)


def _plan(layout: Layout, cargo: Cargo) -> _Plan:
    found = shipment(layout, cargo)
    root, contents = found.root, found.contents
    if root.media_type not in {IMAGE_MANIFEST, IMAGE_INDEX}:  # stock tools look names up among OCI's own types only
        root, contents = cargo.root, walk(layout, cargo.root)
    return _Plan(_plain(root), contents, found.extras, found.partial, _names(cargo, found.root.digest))


def _names(cargo: Cargo, root: Digest) -> tuple[str, ...]:
    if cargo.form == "tree" or not cargo.references:
        return (f"{TREES if cargo.form == 'tree' else IMAGES}/{cargo.name}:{short_tag(root)}",)
    return tuple(sorted({Reference.parse(reference).local for reference in cargo.references}))


def _put(layout: Layout, target: Layout, digest: Digest, size: int, progress: Progress | None) -> None:
    """Bring one blob into the folder; one that is there already is hashed unless it is the store's own file."""
    if target.has(digest, size):
        if not os.path.samefile(layout.path(digest), target.path(digest)):
            target.check(digest, size)
        if progress:
            progress(size)
        return
    temporary = target.root / PARTIAL / f"take-{secrets.token_hex(8)}"
    with disk(str(target.root)):
        temporary.parent.mkdir(exist_ok=True)
    try:
        how = layout.place(digest, size, temporary, "link", progress)
        with disk(str(target.root)):
            if how == "copy":
                _sync(temporary)
            os.rename(temporary, target.path(digest))
    finally:
        temporary.unlink(missing_ok=True)
    if how == "link" and progress:
        progress(size)


def _clean(target: Layout) -> None:
    """Remove what a killed process left half made; only for the holder of the lock."""
    for name in ("index.json", "oci-layout"):
        remove_torn(target.root / name)
    for path in (target.root / PARTIAL).glob("take-*"):
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _entry(descriptor: Descriptor, name: str) -> Entry:
    value = descriptor.to_dict()
    return {**value, "annotations": {**value.get("annotations", {}), REF_NAME: name, CONTAINERD_NAME: name}}


def _plain(root: Descriptor) -> Descriptor:
    """Return a root without the annotations by which a bundle names its components."""
    return Descriptor(root.media_type, root.digest, root.size, artifact_type=root.artifact_type, platform=root.platform)


def _name(entry: Entry) -> str | None:
    annotations = entry.get("annotations")
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else None


def _key(entry: Entry) -> tuple[str | None, Any]:
    return _name(entry), entry.get("digest")


def _named(full: str, image: str) -> tuple[str | None, str]:
    """Return name and digest a full name stands for: that of evidence is written into it, any other is the image's."""
    name, at, digest = full.partition("@")
    return name or None, digest if at else image


def _described(entry: Entry) -> Descriptor:
    try:
        return Descriptor.from_dict(entry, "index.json")
    except (InvalidFileError, IntegrityError) as error:
        raise SiteError(error.message, hint=NOT_OURS) from None
