"""containerd on the isolated side, by ``ctr``: put an image from a store into a namespace of it, and compare what it then has.

An image with all its platforms goes in whole, so that its digest is the one of upstream's index; else the manifest for the
machine. Besides upstream's names it gets, as any pull gives it, its repository with its digest: what is pinned by digest in
a Kubernetes manifest is found without a registry. Rules: the digest is compared before an image gets upstream's name; nothing
is removed that a container uses; in containerd an image is its names, so one that loses its last name to us is gone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from airgap_images.layout import Layout
from airgap_images.oci import INDEXES, Digest
from airgap_images.placing.program import Answer, Program
from airgap_images.placing.stream import Image, hybrid
from airgap_images.platform import Platform
from airgap_images.reference import Reference
from airgap_images.targets import Cargo, Form, Placed, Progress
from manifests.errors import IntegrityError, SiteError
from manifests.paths import printable

ADDRESS = Path("/run/containerd/containerd.sock")
CONNECT = "10s"  # to wait for an answer
NO_ANSWER = "start containerd, or name its socket as `containerd: {address: ...}`; this user must be allowed to use it"
NOT_TAKEN = "see containerd's log; check its disk space, its snapshotter, and that it reads the layers' compression"
IN_USE = "stop and remove the containers that use it, then run again"
_ALIAS = re.compile(r"sha256:[0-9a-f]{64}")  # the name that Kubernetes' interface gives every image by its id


@dataclass(frozen=True, slots=True)
class Place:
    """Which containerd, which namespace in it (``k8s.io`` is Kubernetes'), and what unpacks the layers (its default when None)."""

    address: Path = ADDRESS
    namespace: str = "default"
    snapshotter: str | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """Return it as arguments; those of single calls come after."""
        return (f"--address={self.address}", f"--namespace={self.namespace}", f"--connect-timeout={CONNECT}")


class Containerd:
    """containerd, run with 1.6. Of an image with some of its platforms only it gets the one for ``platform``."""

    name = "containerd"
    forms: frozenset[Form] = frozenset({"image"})
    notes: tuple[str, ...] = ()

    def __init__(self, environment: Mapping[str, str], platform: Platform, place: Place | None = None) -> None:
        self._place = place or Place()
        self._program = Program.of("ctr", self._place.options, environment)
        self._platform = platform

    def named(self, layout: Layout, cargo: Cargo) -> tuple[tuple[str, str | None], ...]:
        """Return the names the image gets and the digests they lead to now."""
        return tuple((name, self._leads(name)) for name in _names(cargo, self._image(layout, cargo).root.digest))

    def load(self, layout: Layout, cargo: Cargo, progress: Progress | None = None) -> Placed:
        """Stream the image into containerd by the digest, compare that, and only then give it upstream's names.

        An image containerd has is named and not sent again: what it stores is not read back.
        """
        image = self._image(layout, cargo)
        own, names = str(image.root.digest), _names(cargo, image.root.digest)
        there = self._holders(own)
        before = bool(there)
        if not before:
            there = (self._stream(layout, image, next(name for name in names if name.endswith(f"@{own}")), progress),)
        for name in names:
            if name not in there:
                self._succeed("images", "tag", "--force", there[0], name)
        for name in names:
            if self._leads(name) != own:
                hint = "does another program use this containerd? run again"
                raise SiteError(f"{name} is not {own} right after containerd named it so", hint=hint)
        return Placed(own, names, before)

    def present(self, layout: Layout, cargo: Cargo) -> Placed | None:
        """Return the image as containerd has it, with all its names."""
        own = str(self._image(layout, cargo).root.digest)
        there = self._holders(own)
        return Placed(own, there) if there else None

    def remove(self, placed: Placed) -> None:
        """Take away the names, and with the last of them the image; raises SiteError while a container uses it.

        The last name of an image that was there ``before`` stays, with a SiteError: the image would go with it.
        """
        there = self._holders(placed.id)
        ours = tuple(name for name in placed.tags if name in there)
        aliases = tuple(name for name in there if _ALIAS.fullmatch(name))
        if not set(there) - set(ours) - (set() if placed.before else set(aliases)):
            if placed.before and ours:
                hint = "give the image another name, then run again"
                raise SiteError(f"{', '.join(ours)}: the last name of an image that was in containerd before", hint=hint)
            self._check_unused(there)
            ours = there
        if ours:
            self._succeed("images", "rm", "--sync", *ours)

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def _image(self, layout: Layout, cargo: Cargo) -> Image:
        return Image.whole(layout, cargo.root, self._platform)

    def _holders(self, digest: str) -> tuple[str, ...]:
        """Return the names that lead to a digest, sorted."""
        return tuple(sorted(name for name, leads in self._list(f'target.digest=="{digest}"') if leads == digest))

    def _leads(self, name: str) -> str | None:
        return next((leads for known, leads in self._list(f'name=="{name}"') if known == name), None)

    def _list(self, wanted: str) -> tuple[tuple[str, str], ...]:
        lines = self._succeed("images", "ls", wanted).output.splitlines()
        if not lines or lines[0].split()[:3] != ["REF", "TYPE", "DIGEST"]:
            raise SiteError("ctr lists images in a form that is not known here", hint="run `ctr images ls` by hand")
        rows = (line.split() for line in lines[1:])
        return tuple((row[0], row[2]) for row in rows if len(row) > 2)  # noqa: PLR2004 - name, type, digest

    def _stream(self, layout: Layout, image: Image, name: str, progress: Progress | None) -> str:
        """Send an archive of ``image`` to be known as ``name``, its repository and digest, and return that; raises if it then is not."""
        options = ["--digests", f"--base-name={name.partition('@')[0]}"]
        if image.root.media_type in INDEXES:
            options.append("--all-platforms")
        if self._place.snapshotter:
            options.append(f"--snapshotter={self._place.snapshotter}")
        answer = self._program.run("images", "import", *options, "-", stream=hybrid(layout, image, progress))
        if answer.code:
            raise SiteError(f"containerd does not take the image: {answer.said}", hint=NOT_TAKEN)
        made = self._leads(name)
        if made == str(image.root.digest):
            return name
        message = f"containerd made {printable(str(made))} of the image, expected {image.root.digest}"
        raise IntegrityError(message, hint="distrust this containerd: it changed the image, which got none of its names")

    def _check_unused(self, names: tuple[str, ...]) -> None:
        rows = [line.split() for line in self._succeed("containers", "ls").output.splitlines()[1:]]
        users = [row[0] for row in rows if len(row) > 1 and row[1] in names]
        if users:
            raise SiteError(f"{names[0]} is in use by container {printable(users[0])}", hint=IN_USE)

    def _succeed(self, *arguments: str) -> Answer:
        answer = self._program.run(*arguments)
        if answer.code:
            raise SiteError(f"ctr {arguments[0]} {arguments[1]} fails: {answer.said}", hint=NO_ANSWER)
        return answer


def _names(cargo: Cargo, digest: Digest) -> tuple[str, ...]:
    """Return upstream's names and repositories by digest; an image without a name gets one of this machine, as it must have one."""
    references = [Reference.parse(reference) for reference in cargo.references]
    repositories = {f"{reference.registry}/{reference.repository}" for reference in references} or {f"localhost/{cargo.name}"}
    return tuple(sorted({reference.local for reference in references} | {f"{repository}@{digest}" for repository in repositories}))
