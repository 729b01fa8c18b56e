"""What a package repository in a bundle says of itself, beside what its archive signed: ``repository.json``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from manifests.lock import Frozen

FORMAT = "airgap.apt/v1"
ABOUT, KEYRING = "repository.json", "keyring.gpg"  # names in the tree
Suite = Annotated[str, StringConstraints(pattern=r"^(?:/|[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9._-]+)*/?)$", max_length=100)]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9._-]+)*$", max_length=100)]


class About(Frozen):
    """What a repository says of itself (``repository.json``).

    ``recommends``: whether recommended packages are carried; ``expires``: whether its Release states an end, which passes inside.
    """

    format: Literal["airgap.apt/v1"]
    suites: tuple[Suite, ...] = Field(min_length=1, max_length=32, strict=False)
    components: tuple[Word, ...] = Field(max_length=32, strict=False)
    architecture: Literal["amd64", "arm64"]
    recommends: bool
    expires: bool
