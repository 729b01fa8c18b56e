"""``site.yaml``: where things go on the isolated side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from manifests import yamlfile
from manifests.lock import Frozen, Uri

_SEGMENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"  # of a repository's name (distribution-spec)
F = TypeVar("F", bound=Frozen)

LocalPath = Annotated[Path, Field(strict=False)]
Plain = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,75}$")]  # containerd's rule for identifiers
Host = Annotated[str, Field(pattern=r"^(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\])(?::[0-9]{1,5})?$", max_length=255)]
Prefix = Annotated[str, Field(pattern=rf"^(?:{_SEGMENT}(?:/{_SEGMENT})*)?$", max_length=200)]


class PodmanStorage(Frozen):
    """Where podman keeps images, where that is not where it looks by itself."""

    root: LocalPath | None = Field(default=None, description="podman's `--root`")
    runroot: LocalPath | None = Field(default=None, description="podman's `--runroot`")
    storage_driver: Plain | None = Field(default=None, description="podman's `--storage-driver`")


class ContainerdPlace(Frozen):
    """Which containerd, and where in it."""

    address: LocalPath | None = Field(default=None, description="containerd's socket, where it is not the usual one")
    namespace: Plain = Field(default="default", description="containerd's namespace; `k8s.io` is the one Kubernetes uses")
    snapshotter: Plain | None = Field(default=None, description="what unpacks the layers, where it is not containerd's default")


class SiteRegistry(Frozen):
    """A registry on the isolated side that images are pushed to."""

    host: Host = Field(description="the registry, as `host` or `host:port`")
    prefix: Prefix = Field(default="", description="what stands before every repository's name there")
    keep_registry: bool = Field(default=False, description="keep upstream's registry as part of the repository's name")
    ca_file: LocalPath | None = Field(default=None, description="the certificates this registry is trusted by, in PEM")
    trees: bool = Field(default=False, description="push packages, models and files too, as OCI artifacts")


class SiteVerifier(Frozen):
    """Who this site is when it states what it verified, in signed statements."""

    id: Uri = Field(description="the URI this site's verifier is known by")
    key: str = Field(min_length=6, max_length=4096, description="the key it signs with: file:PATH, pkcs11:..., x509:CHAIN.pem?key=URI")


class Site(Frozen):
    """The whole file; ``Site()`` is the site nobody wrote anything about."""

    store: LocalPath = Field(default=Path("/srv/airgap"), description="the folder that holds what was received and what is installed")
    engine: Literal["none", "docker", "podman", "containerd"] = Field(
        default="none", description="which container engine gets the images"
    )
    docker_socket: LocalPath | None = Field(default=None, description="the engine's socket, if it is not where docker looks by itself")
    podman: PodmanStorage | None = Field(default=None, description="where podman keeps its images")
    containerd: ContainerdPlace | None = Field(default=None, description="which containerd, and which namespace of it")
    registry: SiteRegistry | None = Field(default=None, description="a registry that gets the images")
    layout: LocalPath | None = Field(default=None, description="a folder that gets images and files as an OCI image layout")
    verifier: SiteVerifier | None = Field(default=None, description="signs what `evidence` states")
    copy_files: bool = Field(
        default=False, alias="copy", description="give every installed file bytes of its own instead of sharing the store's"
    )

    @model_validator(mode="after")
    def _options_belong_to_the_engine(self) -> Self:
        for engine in ("podman", "containerd"):
            if getattr(self, engine) is not None and self.engine != engine:
                raise ValueError(f"{engine}: options for it, but the engine is {self.engine}")
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the kinds of targets images are to be put into; the first word of a target's name is its kind."""
        named = {self.engine: self.engine != "none", "registry": self.registry is not None, "layout": self.layout is not None}
        return tuple(kind for kind, wanted in named.items() if wanted)


def load(path: Path) -> Site:
    """Read ``site.yaml``; a relative path in it is relative to the file's own folder. Raises InvalidFileError."""
    return _placed(yamlfile.load(path).validate(Site), path.absolute().parent)


def _placed(value: F, folder: Path) -> F:
    """Return ``value`` with every path in it below ``folder`` unless it is absolute."""
    update: dict[str, Any] = {}
    for name in type(value).model_fields:
        found = getattr(value, name)
        if isinstance(found, Path):
            update[name] = folder / found
        elif isinstance(found, Frozen):
            update[name] = _placed(found, folder)
    return value.model_copy(update=update)
