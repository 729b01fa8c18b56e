"""A connected machine that locks one model from a hub: its store, its configuration, and what was warned of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from huggingface_hub import constants
from parts import hub, models, placing

from airgap_images.layout import Layout
from airgap_images.remote.http import Client, Retry
from bundler.sources import Context, huggingface
from manifests.lock import LockedComponent, Target

REPO = "acme/tiny"
FOLDER = "models--acme--tiny"
FILES = models.llama()
SMALL = {path for path in FILES if not path.endswith(".safetensors")}


@dataclass
class Desk:
    """A hub, the store of a connected machine, and what was warned of."""

    server: hub.Hub
    folder: Path
    warnings: list[str] = field(default_factory=list)
    cache_name: str = "cache"

    @property
    def client(self) -> Client:
        return Client(retry=Retry(attempts=1))

    @property
    def cache(self) -> Layout:
        return Layout.create(self.folder / self.cache_name)

    def lock(self, *, previous: LockedComponent | None = None, **options: object) -> LockedComponent:
        context = Context(self.folder, Target(), previous, self.cache, self.client, None, self.warnings.append)
        return huggingface.resolve("llm", None, huggingface.Options.model_validate({"repo": REPO} | options), context)

    def placed(self, component: LockedComponent) -> Path:
        return placing.placed(component, self.folder, self.client, self.cache)


@contextmanager
def connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """Start a hub and be a machine configured for it, without a token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with hub.Hub(page=4) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        yield Desk(server, tmp_path)
