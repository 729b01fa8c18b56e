"""What is put somewhere on the isolated side, and what every place it can be put has in common. Values only, no I/O.

A target is a container engine, a registry or a folder. It gets a ``Cargo`` from a store, keeps every digest, and says under
which id and names it then has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from airgap_images.layout import Layout
from airgap_images.oci import Descriptor

Form = Literal["image", "tree"]
Progress = Callable[[int], None]  # told bytes as they are sent


@dataclass(frozen=True, slots=True)
class Cargo:
    """One component on its way to a target.

    ``root`` is as ``index.json`` names it: for images possibly an index of ours around Docker's own types or around some
    platforms (``bundle.unwrap``). ``references`` are upstream's names of an image (``docker.io/library/busybox:1.36``),
    none for a tree. ``upstream`` is the root of the tree with the image's signatures and attestations, if one travels.
    """

    name: str
    form: Form
    root: Descriptor
    references: tuple[str, ...] = ()
    upstream: Descriptor | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """A cargo as a target has it: the target's own id, and the full names it answers to, sorted.

    ``before``: the target had it already when it was to be put there, whatever its names.
    """

    id: str
    tags: tuple[str, ...]
    before: bool = True


class Target(Protocol):
    """Where a cargo can be put. Every method raises SiteError or NetworkError if the target cannot be reached or refuses."""

    @property
    def name(self) -> str:
        """Return what receipts call it: ``docker``, ``podman``, ``containerd``, ``registry HOST/PREFIX``, ``layout FOLDER``."""

    @property
    def forms(self) -> frozenset[Form]:
        """Return what can be put there."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Return in sentences what somebody should know of what was put there until now."""

    def named(self, layout: Layout, cargo: Cargo) -> tuple[tuple[str, str | None], ...]:
        """Return every full name the cargo gets there, sorted, and the id the name leads to now, None if to nothing; changes nothing."""

    def load(self, layout: Layout, cargo: Cargo, progress: Progress | None = None) -> Placed:
        """Put it there and return it as it is there now; again is no harm.

        Raises IntegrityError if the target then reports another digest than the bundle's.
        """

    def present(self, layout: Layout, cargo: Cargo) -> Placed | None:
        """Return it as the target has it, or None; changes nothing."""

    def remove(self, placed: Placed) -> None:
        """Take away exactly the names of ``placed`` that still lead to its id.

        The content goes with the last name, unless the target had it ``before``. Raises SiteError while something uses it.
        """

    def close(self) -> None:
        """Let go of connections."""


@dataclass(frozen=True, slots=True)
class Only:
    """A target that is given some forms only, and is that target in everything else."""

    target: Target
    forms: frozenset[Form]

    @property
    def name(self) -> str:
        """Return the target's name."""
        return self.target.name

    @property
    def notes(self) -> tuple[str, ...]:
        """Return the target's notes."""
        return self.target.notes

    def named(self, layout: Layout, cargo: Cargo) -> tuple[tuple[str, str | None], ...]:
        """Ask the target."""
        return self.target.named(layout, cargo)

    def load(self, layout: Layout, cargo: Cargo, progress: Progress | None = None) -> Placed:
        """Give it to the target."""
        return self.target.load(layout, cargo, progress)

    def present(self, layout: Layout, cargo: Cargo) -> Placed | None:
        """Ask the target."""
        return self.target.present(layout, cargo)

    def remove(self, placed: Placed) -> None:
        """Have the target take it away."""
        self.target.remove(placed)

    def close(self) -> None:
        """Let go of the target's connections."""
        self.target.close()
