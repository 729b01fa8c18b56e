"""The Python a bundle is for: which wheels it takes, which it likes best, and how uv and markers call it.

Rules: CPython on glibc only; a wheel fits if one of its tags does; a wheel for an older glibc or an older stable
interface fits, one for a newer does not. The order of tags is pip's own (the ``packaging`` library's), but for the bare
``linux`` tag, which promises no glibc and so comes last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion

DEFAULT_MANYLINUX = "2_28"  # glibc of RHEL 8 and its generation: the oldest in common use
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}  # PEP 600, "legacy manylinux tags"
OLDEST = {"x86_64": 5, "aarch64": 17}  # minor version of the first glibc that wheels of this machine are built for
UV_PLATFORMS = (17, 28, *range(31, 41))  # the glibc versions that uv has a name for


@dataclass(frozen=True)
class PythonTarget:
    """One CPython on one machine: ``python`` as ``3.12``, ``manylinux`` as ``2_34``, ``machine`` as ``x86_64``."""

    python: str
    manylinux: str
    machine: str

    def __str__(self) -> str:
        return f"CPython {self.python} on {self.platform}"

    @property
    def platform(self) -> str:
        """Return the newest platform tag that fits: ``manylinux_2_34_x86_64``."""
        return f"manylinux_{self.manylinux}_{self.machine}"

    @property
    def uv_platform(self) -> str:
        """Return uv's name of the newest platform it knows that is not newer than this one."""
        minor = max((known for known in UV_PLATFORMS if known <= self._minor), default=UV_PLATFORMS[0])
        return f"{self.machine}-manylinux_2_{minor}"

    @cached_property
    def order(self) -> dict[Tag, int]:
        """Return every tag that fits, with its rank: 0 is the best."""
        version = (3, int(self.python.split(".")[1]))
        platforms = tuple(self._platforms())
        tags = (*cpython_tags(version, platforms=platforms), *compatible_tags(version, f"cp{version[0]}{version[1]}", platforms))
        return {tag: at for at, tag in reversed(tuple(enumerate(tags)))}

    def rank(self, filename: str) -> int | None:
        """Return how well the wheel ``filename`` fits (0 best), None if it does not fit or is no wheel."""
        try:
            tags = parse_wheel_filename(filename)[3]
        except (InvalidWheelFilename, InvalidVersion):
            return None
        return min((self.order[tag] for tag in tags if tag in self.order), default=None)

    def best(self, filenames: Iterable[str]) -> str | None:
        """Return the wheel pip would take; of equals the one whose name sorts first."""
        ranked = [(rank, name) for name in filenames if (rank := self.rank(name)) is not None]
        return min(ranked)[1] if ranked else None

    def holds(self, marker: str | None) -> bool:
        """Say whether an environment marker holds on this target; one that cannot be read holds."""
        try:
            return marker is None or Marker(marker).evaluate(self._environment())
        except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName):
            return True

    def accepts(self, requires_python: str | None) -> bool:
        """Say whether a Requires-Python includes this Python; one that cannot be read does."""
        try:
            return requires_python is None or SpecifierSet(requires_python).contains(f"{self.python}.0", prereleases=True)
        except InvalidSpecifier:
            return True

    @property
    def _minor(self) -> int:
        return int(self.manylinux.split("_")[1])

    def _platforms(self) -> Iterable[str]:
        for minor in range(self._minor, OLDEST[self.machine] - 1, -1):
            yield f"manylinux_2_{minor}_{self.machine}"
            if minor in LEGACY:
                yield f"{LEGACY[minor]}_{self.machine}"
        yield f"linux_{self.machine}"

    def _environment(self) -> dict[str, str]:
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }
