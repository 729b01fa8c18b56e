"""Podman on the isolated side, by its command: put an image from a store into it, and compare what it then has.

``podman load`` reads the archive from its input and keeps the manifest's digest beside the image's ID; the command needs no
service, which podman's Docker-compatible socket does. Podman itself writes the archive to its own temporary folder first
(``TMPDIR``, else ``/var/tmp``), takes it apart there and unpacks each layer from there: about three times its size, for as long
as it loads. Rules: an image gets its name only after its ID has been compared; what podman had before is never removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airgap_images.layout import Layout
from airgap_images.placing.program import MAX_OUTPUT, Answer, Program
from airgap_images.placing.stream import Image, hybrid
from airgap_images.platform import Platform
from airgap_images.reference import Reference
from airgap_images.targets import Cargo, Form, Placed, Progress
from manifests import canonical
from manifests.errors import IntegrityError, InvalidFileError, SiteError
from manifests.paths import printable

NO_ANSWER = "run `podman info` as this user"
IN_USE = "stop and remove the containers that use it, then run again"
NOT_TAKEN = "check the disk space of podman's storage and of its temporary folder (TMPDIR, else /var/tmp; three times the image)"


@dataclass(frozen=True, slots=True)
class Storage:
    """Where podman keeps images, where that is not where it looks by itself."""

    root: Path | None = None
    runroot: Path | None = None
    driver: str | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """Return it as arguments."""
        said = {"--root": self.root, "--runroot": self.runroot, "--storage-driver": self.driver}
        return tuple(f"{option}={value}" for option, value in said.items() if value is not None)


@dataclass(frozen=True, slots=True)
class _Held:
    """An image podman holds: its ID, every name of it, and the digests of the manifests it knows it by."""

    id: str
    names: tuple[str, ...]
    digests: frozenset[str]


class Podman:
    """Podman, run with 4.3. Of an image with several platforms it gets the one for ``platform``."""

    name = "podman"
    forms: frozenset[Form] = frozenset({"image"})
    notes: tuple[str, ...] = ()

    def __init__(self, environment: Mapping[str, str], platform: Platform, storage: Storage | None = None) -> None:
        self._program = Program.of("podman", (storage or Storage()).options, environment)
        self._platform = platform

    def named(self, layout: Layout, cargo: Cargo) -> tuple[tuple[str, str | None], ...]:  # noqa: ARG002 - the names need no store
        """Return the names the image gets and the IDs they lead to now."""
        held = self._images()
        return tuple((name, _leads(held, name)) for name in _names(cargo))

    def load(self, layout: Layout, cargo: Cargo, progress: Progress | None = None) -> Placed:
        """Stream the image into podman, compare ID and manifest digest with the bundle's, and only then name it.

        An image podman has with the very manifest is named and not sent again: what it stores is not read back.
        """
        names = _names(cargo)
        image = Image.read(layout, cargo.root, self._platform)
        there = self._images()
        before = _id(image) in there
        if not before or str(image.root.digest) not in there[_id(image)].digests:
            self._stream(layout, image, there, progress)
        for name in names:
            if _leads(self._images(), name) != _id(image):
                self._succeed("tag", _id(image), name)
        self._compare(image, names, before)
        return Placed(_id(image), names, before)

    def present(self, layout: Layout, cargo: Cargo) -> Placed | None:
        """Return the image as podman has it, with all its names."""
        image = Image.read(layout, cargo.root, self._platform)
        held = self._images().get(_id(image))
        return None if held is None else Placed(held.id, held.names)

    def remove(self, placed: Placed) -> None:
        """Take away the names, and the image unless it has others; raises SiteError while a container uses it."""
        held = self._images().get(placed.id)
        if held is None:
            return
        ours = [name for name in placed.tags if name in held.names]
        goes = not placed.before and not set(held.names) - set(ours)
        for name in ours[1:] if goes else ours:
            self._succeed("untag", placed.id, name)
        if goes:
            self._succeed("rmi", "--no-prune", placed.id)  # what an image was built on is not ours to remove

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def _stream(self, layout: Layout, image: Image, there: dict[str, _Held], progress: Progress | None) -> None:
        """Send an archive of ``image``; raises, with what podman made of it removed, if that is another image."""
        answer = self._program.run("load", "--quiet", stream=hybrid(layout, image, progress))
        if answer.code:
            raise SiteError(f"podman does not take the image: {answer.said}", hint=NOT_TAKEN)
        after = self._images()
        if _id(image) in after:
            return
        made = sorted(set(after) - set(there))
        for other in made:
            if answer.output.strip().endswith(other):
                self._succeed("rmi", "--no-prune", other)
        message = f"podman made {printable(', '.join(made)) or 'nothing'} of the image, expected {_id(image)}"
        raise IntegrityError(message, hint="distrust this engine: it changed the image, which was not kept")

    def _compare(self, image: Image, names: tuple[str, ...], before: bool) -> None:
        """Raise unless every name leads to the image and podman knows it by the manifest's digest."""
        there = self._images()
        for name in names:
            if _leads(there, name) != _id(image):
                hint = "does another program use this engine? run again"
                raise SiteError(f"{name} is not {_id(image)} right after podman named it so", hint=hint)
        held = there.get(_id(image))
        digests = held.digests if held else frozenset()
        # Of an image without a name podman shows one manifest only, and it may have had this image by another one.
        if str(image.root.digest) not in digests and (names or not before):
            shown = printable(", ".join(sorted(digests))) or "no digest"
            message = f"podman knows the image by {shown}, expected {image.root.digest}"
            raise IntegrityError(message, hint="distrust this engine: it changed the manifest")

    def _images(self) -> dict[str, _Held]:
        answer = self._succeed("images", "--all", "--no-trunc", "--format=json")
        try:
            listed = canonical.parse(answer.output.encode(), "podman images", limit=MAX_OUTPUT)
            return {held.id: held for held in map(_held, listed or ())}
        except (InvalidFileError, AttributeError, KeyError, TypeError):
            raise SiteError("podman lists its images in a form that is not known here", hint=NO_ANSWER) from None

    def _succeed(self, *arguments: str) -> Answer:
        answer = self._program.run(*arguments)
        if answer.code:
            hint = IN_USE if "in use by a container" in answer.words else NO_ANSWER
            raise SiteError(f"podman {arguments[0]} fails: {answer.said}", hint=hint)
        return answer


def _held(entry: dict[str, Any]) -> _Held:
    names = tuple(sorted(map(str, entry.get("Names") or ())))
    digests = {str(entry.get("Digest")), *(str(name).partition("@")[2] for name in entry.get("RepoDigests") or ())}
    return _Held(f"sha256:{entry['Id']}", names, frozenset(digests - {"", "None"}))


def _leads(held: dict[str, _Held], name: str) -> str | None:
    return next((image.id for image in held.values() if name in image.names), None)


def _names(cargo: Cargo) -> tuple[str, ...]:
    return tuple(sorted({Reference.parse(reference).local for reference in cargo.references}))


def _id(image: Image) -> str:
    return str(image.config)
