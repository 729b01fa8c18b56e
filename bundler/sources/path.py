"""Kind ``path``: a local file or folder becomes a tree, as it stands when it is locked.

Pins name the files relative to the intent's folder (or by absolute path where the intent does), with size and sha256,
so that a file changed after locking is refused at the build.
"""

from __future__ import annotations

from pydantic import Field

from airgap_images.remote.http import Client, Credentials, NoCredentials
from airgap_images.remote.registries import Registries
from bundler.folder import Selection, pin_path, tree_digest
from bundler.sources import Context
from manifests.lock import Frozen, LockedComponent


class Options(Frozen):
    """Where the files are and which of them to take."""

    path: str = Field(min_length=1, max_length=4096, description="file or folder, relative to this file, or absolute")
    include: tuple[str, ...] = Field(default=(), strict=False, description="glob patterns of relative paths to take; all when absent")
    exclude: tuple[str, ...] = Field(default=(), strict=False, description="glob patterns of relative paths to leave out")


def resolve(name: str, role: str | None, options: Options, context: Context) -> LockedComponent:
    """Return the tree of the selected files, each hashed once."""
    pins = pin_path(context.folder, options.path, Selection(options.include, options.exclude), name)
    return LockedComponent(
        name=name,
        kind="path",
        form="tree",
        role=role,
        identity={"path": options.path, "tree": tree_digest(pins)},
        facts={"files": str(len(pins)), "bytes": str(sum(pin.size for pin in pins))},
        files=pins,
    )


def credentials(_client: Client, _registries: Registries) -> Credentials:
    """Return no credentials: local files need none."""
    return NoCredentials()
