"""``bundle.yaml``: what the user asks for. Fields of a component beyond name, kind and role belong to its kind's source."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from manifests import canonical, yamlfile
from manifests.lock import Frozen, Kind, Name, Profile, Target, Uri

Quantization = Literal["bf16", "fp16", "fp8", "int8", "fp4", "int4"]


class Serving(Frozen):
    """How the models will be served, and for how many; read by sizing."""

    max_model_len: int | None = Field(default=None, ge=1, description="context length in tokens")
    concurrency: int | None = Field(default=None, ge=1, description="requests served at once")
    quantization: Quantization | None = Field(
        default=None, description="number type that weights are served in; as they are stored when absent"
    )
    kv_cache: Literal["bf16", "fp8"] | None = Field(default=None, description="number type of the KV cache; 16 bit when absent")
    requests_per_second: float | None = Field(default=None, gt=0, le=1e6, strict=False, description="at the 95th percentile")
    output_tokens: int | None = Field(default=None, ge=1, le=1_000_000, description="of one request; 400 when absent")
    tokens_per_second: float | None = Field(
        default=None, gt=0, le=1e9, strict=False, description="what you measured that one such group of accelerators writes"
    )


class Checks(Frozen):
    """What the builder accepts; `refuse` stops the build, `warn` records a finding."""

    pickle: Literal["refuse", "warn"] = Field(default="refuse", description="model files that run code when loaded")
    remote_code: Literal["refuse", "warn"] = Field(default="refuse", description="model configuration that names code to run")
    upstream: Literal["refuse", "warn"] = Field(default="refuse", description="images whose upstream signature is missing or unverifiable")
    model_files: Literal["refuse", "warn"] = Field(default="refuse", description="model files that break the rules of their format")
    chat_template: Literal["refuse", "warn"] = Field(default="refuse", description="chat templates that reach for more than text")
    wheels: Literal["refuse", "warn"] = Field(default="refuse", description="wheels that run code on install or are not what they record")
    licences: Literal["refuse", "warn"] = Field(default="refuse", description="licences that forbid to pass the bundle on")
    secrets: Literal["refuse", "warn"] = Field(default="refuse", description="passwords, tokens and private keys in files")
    images: Literal["refuse", "warn"] = Field(default="refuse", description="images that miss a platform or run as root")
    vulnerabilities: Literal["refuse", "warn"] = Field(default="refuse", description="known vulnerabilities of high or critical severity")
    end_of_life: Literal["refuse", "warn"] = Field(default="refuse", description="what its maker no longer mends")
    quarantine_days: int = Field(default=0, ge=0, le=3650, description="days a package must have been public")


class Component(BaseModel):
    """One thing to carry. The other fields depend on `kind`."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    name: Name
    kind: Kind
    role: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9-]{0,31}$")

    @property
    def options(self) -> dict[str, Any]:
        """Return the fields that belong to the kind's source."""
        return dict(self.model_extra or {})


class Intent(Frozen):
    """The whole file."""

    apiVersion: Literal["airgap/v1"]  # noqa: N815 - YAML field
    name: Name
    stream: Name = Field(description="serials count up within a stream")
    builder: Uri | None = Field(default=None, description="the build platform that runs `build`, as provenance names it")
    profile: Profile = Field(default="default", description="`cnsa` adds SHA512SUMS, which policies of that profile require")
    target: Target = Field(default_factory=Target)
    serving: Serving = Field(default_factory=Serving)
    components: tuple[Component, ...] = Field(min_length=1, max_length=4096, strict=False)
    deploy: dict[str, Any] = Field(default_factory=dict, description="which server, gateway and monitoring to render at the site")
    checks: Checks = Field(default_factory=Checks)

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [component.name for component in self.components]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"component name {twice[0]!r} stands twice")
        reserved = [name for name in names if name.startswith("airgap-")]
        if reserved:
            raise ValueError(f"component name {reserved[0]!r}: names starting with `airgap-` are reserved")
        beside = [name for name in names if name.endswith(".upstream")]
        if beside:
            raise ValueError(f"component name {beside[0]!r}: names ending in `.upstream` are for what upstream says of an image")
        return self

    @property
    def sha256(self) -> str:
        """Return the sha256 (hex) of the intent's values; comments, layout and the order of fields do not count."""
        return hashlib.sha256(canonical.compact(self.model_dump(mode="json", exclude_defaults=True))).hexdigest()


def load(path: Path) -> tuple[Intent, yamlfile.Document]:
    """Read ``bundle.yaml``; the document says on which line each value stands."""
    document = yamlfile.load(path)
    return document.validate(Intent), document
