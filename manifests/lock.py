"""``bundle.lock.json``: what an intent resolved to, every byte pinned, no clock in it.

A lock holds components; a component holds pins (bytes to fetch) and inline files (small texts made while resolving).
A byte that is not in the lock cannot get into a bundle. Two locks of the same upstream state are the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from manifests import canonical
from manifests.errors import InvalidFileError
from manifests.paths import check_disjoint, check_relative

MAX_LOCK = 256 << 20  # bytes; a lock of 100,000 files is about 40 MB
MAX_INLINE = 4 << 20  # bytes of text in one inline file
OWN_WORDS = "Value error, "  # what the validating library writes before a message of our own
SPACES = re.compile(r"\s+")
INDEX_FILE = "index.json"  # the one inline file an image may have: an index of some of its platforms

Kind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Uri = Annotated[str, Field(max_length=500, pattern=r"^[a-z][a-z0-9+.-]*:[!-~]+$")]
Profile = Literal["default", "cnsa"]  # cnsa: signed with P-384 and ML-DSA-87 both, and a SHA-512 sum of every byte


@contextlib.contextmanager
def as_field_error() -> Iterator[None]:
    """Turn a refusal inside a validator into one that names the field and the file."""
    try:
        yield
    except InvalidFileError as error:
        raise ValueError(error.message) from None


def _relative(path: str) -> str:
    with as_field_error():
        return check_relative(path, "file")


RelativePath = Annotated[str, AfterValidator(_relative)]
M = TypeVar("M", bound=BaseModel)


class Frozen(BaseModel):
    """A value read from a file: immutable, no unknown field."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Pin(Frozen):
    """One file to fetch: where from, how many bytes, which sha256.

    ``url`` is ``https:``, ``http:`` or ``file:`` followed by a path relative to the lock's own folder.
    ``evidence`` says what upstream itself claims about the bytes (LFS oid, git blob id, upload time, ...).
    """

    path: RelativePath
    url: str = Field(min_length=1, max_length=8192, pattern=r"^(https?://|file:)")
    size: int = Field(ge=0, le=1 << 42)  # bytes
    sha256: Sha256
    media_type: str | None = None
    evidence: dict[str, str] = Field(default_factory=dict)


class Inline(Frozen):
    """One small text file made while resolving (hash-pinned requirements, refs); its content is in the lock."""

    path: RelativePath
    text: str = Field(max_length=MAX_INLINE)


class LockedComponent(Frozen):
    """One resolved component.

    ``identity`` is what upstream calls it (commit, image digest, versions); ``facts`` are further texts for
    inventory and evidence. ``form`` says how it crosses: ``image`` (pins are OCI blobs, ``root`` names the
    manifest or index to start from, which may be an inline ``index.json`` made while resolving) or ``tree`` (pins and
    inline files are files with their final relative paths).
    """

    name: Name
    kind: Kind
    form: Literal["image", "tree"]
    role: str | None = None
    model: bool = False
    identity: dict[str, str] = Field(default_factory=dict)
    facts: dict[str, str] = Field(default_factory=dict)
    root: Sha256 | None = None
    files: tuple[Pin, ...] = Field(default=(), strict=False)
    inline: tuple[Inline, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.form == "image":
            made = [(text.path, hashlib.sha256(text.text.encode()).hexdigest()) for text in self.inline]
            if self.root is None or self.root not in {*(pin.sha256 for pin in self.files), *(sha256 for _, sha256 in made)}:
                raise ValueError("an image needs `root`, the sha256 of one of its files")
            if made not in ([], [(INDEX_FILE, self.root)]):
                raise ValueError(f"an image has no inline files but `{INDEX_FILE}`, whose sha256 is `root`")
        else:
            with as_field_error():
                check_disjoint((*(pin.path for pin in self.files), *(text.path for text in self.inline)), f"component {self.name}")
        return self

    @property
    def size(self) -> int:
        """Bytes to carry, each distinct blob once."""
        return sum({pin.sha256: pin.size for pin in self.files}.values()) + sum(len(i.text.encode()) for i in self.inline)


class Target(Frozen):
    """The machines the bundle is for."""

    platform: str = Field(default="linux/amd64", pattern=r"^linux/(amd64|arm64)$")
    os: str | None = None
    python: str | None = Field(default=None, pattern=r"^3\.[0-9]{1,2}$")
    manylinux: str | None = Field(default=None, pattern=r"^2_[0-9]{1,2}$")
    gpu: dict[str, str | int] | None = None

    @property
    def architecture(self) -> str:
        """Return ``amd64`` or ``arm64``."""
        return self.platform.split("/")[1]


class Lock(Frozen):
    """The whole reviewed result of ``airgap-bundle lock``."""

    lockVersion: Literal[1] = 1  # noqa: N815 - JSON field
    name: Name
    stream: Name
    target: Target = Field(default_factory=Target)
    checks: dict[str, str | int] = Field(default_factory=dict)
    deploy: dict[str, Any] = Field(default_factory=dict)
    intentSha256: Sha256  # noqa: N815
    builder: Uri | None = None
    profile: Profile = "default"
    components: tuple[LockedComponent, ...] = Field(strict=False)

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [component.name for component in self.components]
        if names != sorted(set(names)):
            raise ValueError("components must be sorted by name, each name once")
        return self

    @model_validator(mode="after")
    def _references(self) -> Self:
        taken: dict[str, LockedComponent] = {}
        for component in self.components:
            reference = component.identity.get("reference") if component.form == "image" else None
            if reference is None:
                continue
            first = taken.setdefault(reference, component)
            if first.root != component.root:
                raise ValueError(f"images {first.name} and {component.name} would both be called {reference}, and are not the same")
        return self

    @classmethod
    def parse(cls, raw: bytes, what: str) -> Self:
        """Parse hostile bytes; ``what`` names the file in the error."""
        return parse_model(cls, canonical.parse(raw, what, limit=MAX_LOCK), what, "run `airgap-bundle lock` again")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and parse the lock at ``path``."""
        return cls.parse(read_bounded(path, MAX_LOCK), str(path))

    def to_bytes(self) -> bytes:
        """Return the one encoding of this lock."""
        return canonical.readable(self.model_dump(mode="json", exclude_defaults=True) | {"lockVersion": self.lockVersion})

    @property
    def size(self) -> int:
        """Bytes to carry for all components, each distinct blob once."""
        pins = {pin.sha256: pin.size for c in self.components for pin in c.files}
        return sum(pins.values()) + sum(len(i.text.encode()) for c in self.components for i in c.inline)


def parse_model(model: type[M], value: Any, what: str, hint: str) -> M:
    """Validate ``value`` as ``model``; the error names the field, what was expected and what was got."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InvalidFileError(f"{what}: {first_error(error)}", hint=hint) from None


def first_error(error: ValidationError) -> str:
    """Describe the first problem of a validation error: field, expected, got."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "document"
    whole = first["type"] == "value_error" and isinstance(first["input"], Mapping)  # our own words about several fields
    got = "" if whole else f" (got {SPACES.sub(' ', repr(first['input']))[:80]})"
    more = error.error_count() - 1
    return f"{field}: {first['msg'].removeprefix(OWN_WORDS)}{got}" + (f"; and {more} more" if more else "")


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a file a user named, at most ``limit`` bytes; raises InvalidFileError if it cannot be read or is larger."""
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise InvalidFileError(f"{path}: cannot read: {error.strerror}", hint="check the path and its permissions") from None
    if len(raw) > limit:
        raise InvalidFileError(f"{path}: larger than {limit} bytes", hint="this is not the file this command expects")
    return raw
