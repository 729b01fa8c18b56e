"""What this host says of registries: as whom to ask them, and which others to ask first."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from airgap_images.remote.logins import Logins
from airgap_images.remote.mirrors import Mirrors


@dataclass(frozen=True, slots=True)
class Registries:
    """Logins and mirrors; none unless said otherwise. The files of mirrors are read when the first image is asked for."""

    logins: Logins = field(default_factory=Logins)
    read_mirrors: Callable[[], Mirrors] = Mirrors

    @classmethod
    def load(cls, environment: Mapping[str, str], home: Path, etc: Path = Path("/etc")) -> Self:
        """Return what the configuration of this host says."""
        return cls(Logins.load(environment, home), functools.cache(lambda: Mirrors.load(environment, home, etc)))

    @property
    def mirrors(self) -> Mirrors:
        """Return the mirrors; raises InvalidFileError if their files are wrong."""
        return self.read_mirrors()
