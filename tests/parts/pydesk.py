"""A connected machine that locks Python components: its index, its environment, its store, and what was warned of."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from parts import placing, pyindex

from airgap_images.layout import Layout
from airgap_images.remote.http import Client, Retry
from bundler.sources import Context, python
from manifests.lock import LockedComponent, Target


@dataclass
class Desk:
    """The machine; without an ``environment`` it is this one, with the index this one is configured for."""

    folder: Path
    index: pyindex.Index | None = None
    target: Target = field(default_factory=lambda: Target(python="3.12", manylinux="2_28"))
    warnings: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    uploaded_before: datetime | None = None
    patience: float = 60  # seconds
    netrc: Path | None = None

    @property
    def client(self) -> Client:
        return Client(retry=Retry(attempts=2, first=0), stall_timeout=self.patience, netrc=self.netrc)

    @property
    def cache(self) -> Layout:
        return Layout.create(self.folder / "cache")

    def context(self, previous: LockedComponent | None = None, beside: tuple[LockedComponent, ...] = ()) -> Context:
        return Context(
            folder=self.folder,
            target=self.target,
            previous=previous,
            cache=self.cache,
            client=self.client,
            uploaded_before=self.uploaded_before,
            warn=self.warnings.append,
            beside=beside,
        )

    def lock(self, *requirements: str, previous: LockedComponent | None = None, **options: object) -> LockedComponent:
        given = python.Options.model_validate({"requirements": list(requirements)} | options)
        return python.resolve("gw", "gateway", given, self.context(previous), self.environment or os.environ)

    def beside(self, locked: LockedComponent, previous: LockedComponent | None = None, before: LockedComponent | None = None) -> LockedComponent:
        """What the source puts beside a locked component; `previous` and `before` are what the old lock says of both."""
        options = python.Options.model_validate({"requirements": ["x"]})
        (found,) = python.companions(locked, options, self.context(previous, (before,) if before else ()))
        return found

    def add(self, project: str, version: str, **options: object) -> None:
        assert self.index
        self.index.add(project, version, **options)  # type: ignore[arg-type]

    def placed(self, component: LockedComponent) -> Path:
        return placing.placed(component, self.folder, self.client, self.cache)

    def versions(self, *requirements: str, **options: object) -> dict[str, str]:
        return dict(line.split(" ")[0].split("==") for line in text(self.lock(*requirements, **options)).splitlines())  # type: ignore[misc]


def text(component: LockedComponent, name: str = "requirements.txt") -> str:
    return next(inline.text for inline in component.inline if inline.path == name)


def base(folder: Path) -> dict[str, str]:
    """An environment that knows no index at all."""
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "UV_CACHE_DIR": str(folder / "uv"), "UV_HTTP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
