"""``site.yaml``: where things go on the isolated side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from manifests import yamlfile
from manifests.lock import Frozen

LocalPath = Annotated[Path, Field(strict=False)]


class Site(Frozen):
    """The whole file; ``Site()`` is the site nobody wrote anything about."""

    store: LocalPath = Field(default=Path("/srv/airgap"), description="the folder that holds what was received and what is installed")
    engine: Literal["none", "docker"] = Field(default="none", description="which container engine gets the images")
    docker_socket: LocalPath | None = Field(default=None, description="the engine's socket, if it is not where docker looks by itself")
    copy_files: bool = Field(
        default=False, alias="copy", description="give every installed file bytes of its own instead of sharing the store's"
    )


def load(path: Path) -> Site:
    """Read ``site.yaml``; a relative path in it is relative to the file's own folder. Raises InvalidFileError."""
    site, folder = yamlfile.load(path).validate(Site), path.absolute().parent
    socket = site.docker_socket and folder / site.docker_socket
    return site.model_copy(update={"store": folder / site.store, "docker_socket": socket})
