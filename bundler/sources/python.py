"""Kind ``python``: requirements become the whole closure of wheels for one Python on one platform.

uv resolves, against the index this machine is configured for; every file is pinned by address, size and sha256: the
index's, or, of an index that states none, that of the file uv read. The target's Python decides, not the one that runs
here: ``3.12`` means 3.12.0, the oldest of its line. Source distributions are refused unless ``allow_sdist`` names their
project, for building one runs its code. Locking again resolves again: new releases move the lock, and without any it
stays the same bytes. What was asked for but not had is said: a newest version without a wheel for the target, a yanked
release.

What the index publishes beside the files (PEP 740) becomes a component of its own, ``NAME.upstream``.

The tree: ``wheels/`` beside a hash-pinned ``requirements.txt`` and a standard ``pylock.toml`` (PEP 751).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from pydantic import AfterValidator, Field, model_validator

from airgap_images.oci import MAX_BLOB
from airgap_images.remote.http import Client, Credentials, NoCredentials
from airgap_images.remote.registries import Registries
from bundler import pylock, simple, uvtool
from bundler.folder import locate
from bundler.pylock import Distribution, Package
from bundler.sources import Context
from bundler.upstream.component import checked_name
from bundler.upstream.wheels import ATTESTATIONS, collect
from bundler.wheels import DEFAULT_MANYLINUX, MACHINES, UV_PLATFORMS, PythonTarget
from manifests import canonical
from manifests.errors import AirgapError, IntegrityError, InvalidFileError, NetworkError, UsageError
from manifests.lock import Frozen, Inline, LockedComponent, Pin, read_bounded
from manifests.paths import printable

MAX_REQUIREMENTS = 1 << 20  # bytes of a requirements file
MAX_LINES = 10_000  # requirements of one component
AT_ONCE = 8  # questions to the index at once
WHEELS = "wheels"

_HASH = re.compile(r"\s--hash=([a-z0-9]+):([0-9a-f]+)")


def _requirement(text: str) -> str:
    """Return ``text`` if it is a requirement by name; raises ValueError otherwise."""
    try:
        parsed = Requirement(text)
    except InvalidRequirement as error:
        reason = printable(str(error).splitlines()[0])
        raise ValueError(f"{printable(text)!r} is no requirement such as name[extra]>=1.0: {reason}") from None
    if parsed.url:
        raise ValueError(f"{printable(parsed.name)} names an address; only files of an index can be pinned by version and hash")
    return str(parsed)


RequirementTexts = Annotated[tuple[Annotated[str, AfterValidator(_requirement)], ...], Field(max_length=MAX_LINES)]
ProjectName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"), AfterValidator(canonicalize_name)]
ProjectNames = Annotated[tuple[ProjectName, ...], Field(max_length=MAX_LINES)]


class Options(Frozen):
    """What to install and for which Python."""

    requirements: RequirementTexts = Field(default=(), strict=False, description="such as litellm[proxy]>=1.80")
    requirements_file: str | None = Field(default=None, max_length=4096, description="a requirements.txt, relative to this file")
    constraints: RequirementTexts = Field(default=(), strict=False, description="limits for whatever is needed")
    overrides: RequirementTexts = Field(default=(), strict=False, description="taken instead of what packages ask for")
    allow_sdist: ProjectNames = Field(default=(), strict=False, description="projects that may travel as source")
    upstream: Literal["collect", "skip"] = Field(
        default="collect", description="attestations the index publishes beside its files (PEP 740): carry them, or do not ask"
    )
    python: str | None = Field(default=None, pattern=r"^3\.\d{1,2}$", description="such as 3.12; target.python when absent")
    manylinux: str | None = Field(default=None, pattern=r"^2_\d{1,2}$", description="such as 2_34; target.manylinux or 2_28 when absent")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.requirements and not self.requirements_file:
            raise ValueError("needs `requirements` or `requirements_file`")
        return self


@dataclass(frozen=True, slots=True)
class Closure:
    """What is carried: each package's file, and the address of the index it is from."""

    target: PythonTarget
    chosen: tuple[tuple[Package, Distribution], ...]
    indexes: dict[str, str]
    roots: frozenset[str]


@dataclass(frozen=True, slots=True)
class Asked:
    """The requirements and, from a requirements file, the sha256 digests it accepts for a project."""

    requirements: tuple[str, ...]
    hashes: tuple[tuple[str, str], ...] = ()


def resolve(name: str, role: str | None, options: Options, context: Context, environ: Mapping[str, str] = os.environ) -> LockedComponent:
    """Return the closure as a tree of wheels; ``environ`` is what uv and the search for pip's configuration see.

    Raises UsageError if nothing satisfies the requirements on the target, NetworkError if the index does not answer.
    """
    target = _target(name, options, context)
    if options.upstream == "collect":
        checked_name(name)
    asked = _asked(name, options, context)
    question = uvtool.Question(
        requirements=asked.requirements,
        target=target,
        folder=context.folder,
        constraints=options.constraints,
        overrides=options.overrides,
        sdists=options.allow_sdist,
        uploaded_before=context.uploaded_before,
    )
    answer = uvtool.solve(question, name, environ)
    for warning in answer.warnings:
        context.warn(f"{name}: {warning}")
    packages = pylock.for_target(pylock.parse(answer.text, name), target, name)
    chosen = tuple((package, _file(name, package, target, options.allow_sdist)) for package in packages)
    _check_hashes(name, chosen, asked)
    pinned = tuple(f"{package.name}=={package.version}" for package in packages)
    indexes = uvtool.where_from(replace(question, requirements=pinned, constraints=(), overrides=(), sdists=answer.sdists), name, environ)
    _compare(name, _wishes(question, packages), indexes, context)
    roots = frozenset(canonicalize_name(Requirement(text).name) for text in asked.requirements)
    found = _component(name, role, Closure(target, chosen, indexes, roots), context)
    return found if options.upstream == "collect" else found.model_copy(update={"facts": found.facts | {ATTESTATIONS: "not asked for"}})


def companions(locked: LockedComponent, options: Options, context: Context) -> tuple[LockedComponent, ...]:
    """Return what the index publishes beside the files, as the component ``NAME.upstream``; nothing if it was not to be asked for."""
    return (collect(locked, context),) if options.upstream == "collect" else ()


def credentials(_client: Client, _registries: Registries) -> Credentials:
    """Return no credentials beyond what the client itself takes from the host's own files (``~/.netrc``)."""
    return NoCredentials()


def _component(name: str, role: str | None, closure: Closure, context: Context) -> LockedComponent:
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        pins = tuple(pool.map(lambda pair: _pin(name, pair[1], closure.indexes.get(pair[0].name), context), closure.chosen))
    sizes = {pin.sha256: pin.size for pin in pins}
    sources = [f"{package.name}=={package.version}" for package, file in closure.chosen if not file.filename.endswith(".whl")]
    if sources:
        context.warn(f"{name}: {', '.join(sources)} travel as source: the site builds them, and what that needs is not added")
    facts = {
        "files": str(len(pins)),
        "bytes": str(sum(sizes.values())),
        "requirements": ", ".join(f"{package.name}=={package.version}" for package, _ in closure.chosen if package.name in closure.roots),
        "sources": ", ".join(sources),
    }
    return LockedComponent(
        name=name,
        kind="python",
        form="tree",
        role=role,
        identity={"packages": str(len(pins)), "python": closure.target.python, "platform": closure.target.platform},
        facts={key: text for key, text in facts.items() if text},
        files=tuple(sorted(pins, key=lambda pin: pin.path)),
        inline=(
            Inline(path="pylock.toml", text=pylock.pylock_text(closure.chosen, sizes, closure.target, WHEELS)),
            Inline(path="requirements.txt", text=pylock.requirements_text(closure.chosen)),
        ),
    )


def _target(name: str, options: Options, context: Context) -> PythonTarget:
    python = options.python or context.target.python
    if python is None:
        raise UsageError(f"{name}: for which Python is not said", hint='add `python: "3.12"` to `target:`, or to this component')
    manylinux = options.manylinux or context.target.manylinux or DEFAULT_MANYLINUX
    if int(manylinux.split("_")[1]) < UV_PLATFORMS[0]:
        raise UsageError(f"{name}: manylinux {manylinux} is older than 2_{UV_PLATFORMS[0]}, the oldest there is", hint="raise `manylinux`")
    return PythonTarget(python, manylinux, MACHINES[context.target.architecture])


def _asked(name: str, options: Options, context: Context) -> Asked:
    if options.requirements_file is None:
        return Asked(options.requirements)
    path = locate(context.folder, options.requirements_file, name)
    raw = read_bounded(path, MAX_REQUIREMENTS)
    try:
        text = raw.decode("utf-8-sig").replace("\\\r\n", " ").replace("\\\n", " ")
    except UnicodeDecodeError:
        raise InvalidFileError(f"{path}: not UTF-8 text", hint="save the file as UTF-8") from None
    requirements: list[str] = []
    hashes: list[tuple[str, str]] = []
    for line in text.splitlines():
        stated = re.sub(r"(^|\s)#.*", "", line).strip()
        if not stated:
            continue
        requirement = _line(str(path), _HASH.sub("", stated).strip())
        requirements.append(requirement)
        project = canonicalize_name(Requirement(requirement).name)
        hashes += [(project, digest) for kind, digest in _HASH.findall(stated) if kind == "sha256"]
    if not requirements and not options.requirements:
        raise InvalidFileError(f"{path}: holds no requirement", hint="name at least one package in it")
    return Asked((*options.requirements, *requirements), tuple(hashes))


def _line(path: str, stated: str) -> str:
    if stated.startswith("-"):
        raise InvalidFileError(
            f"{path}: option {printable(stated, 60)!r} is not taken",
            hint="list requirements only; limits go into `constraints:`, the index into this machine's pip or uv configuration",
        )
    try:
        return _requirement(stated)
    except ValueError as error:
        raise InvalidFileError(f"{path}: {error}", hint="correct the line") from None


def _file(name: str, package: Package, target: PythonTarget, sdists: tuple[str, ...]) -> Distribution:
    best = target.best(wheel.filename for wheel in package.wheels)
    if best:
        return next(wheel for wheel in package.wheels if wheel.filename == best)
    if package.sdist and package.name in sdists:
        return package.sdist
    raise UsageError(
        f"{name}: {package.name} {package.version} has no wheel for {target}",
        hint=f"raise `target.manylinux` if the machines allow it, or `allow_sdist: [{package.name}]`",
    )


def _check_hashes(name: str, chosen: Iterable[tuple[Package, Distribution]], asked: Asked) -> None:
    accepted: dict[str, set[str]] = {}
    for project, digest in asked.hashes:
        accepted.setdefault(project, set()).add(digest)
    for package, file in chosen:
        if package.name in accepted and file.sha256 not in accepted[package.name]:
            raise IntegrityError(
                f"{name}: {file.filename} is sha256 {file.sha256}, which the requirements file does not list for {package.name}",
                hint="distrust the index, or make the requirements file again for this target",
            )


def _pin(name: str, file: Distribution, index: str | None, context: Context) -> Pin:
    evidence = {"index": printable(index)} if index else {}
    if file.uploaded:
        evidence["upload_time"] = canonical.stamp(file.uploaded)
    url, size = file.url, file.size
    if url.startswith("file:"):  # an index in a folder, which this machine's own configuration names
        path = unquote(urlsplit(url).path)
        url, size = f"file:{path}", _local_size(name, path)
    elif size is None:
        size = _remote_size(name, file, context)
    return Pin(path=f"{WHEELS}/{file.filename}", url=url, size=size, sha256=file.sha256, evidence=evidence)


def _local_size(name: str, path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise NetworkError(f"{name}: {printable(path)}: cannot read: {error.strerror}", hint="check the folder of the index") from None


def _remote_size(name: str, file: Distribution, context: Context) -> int:
    known = next((pin.size for pin in (context.previous.files if context.previous else ()) if pin.sha256 == file.sha256), None)
    size = known if known is not None else context.client.head(file.url, limit=0).number("content-length")
    if size is None or size > MAX_BLOB:
        raise NetworkError(f"{name}: the index does not say how large {file.filename} is", hint="use an index that sends Content-Length")
    return size


def _wishes(question: uvtool.Question, packages: tuple[Package, ...]) -> dict[str, simple.Wish]:
    """Return, for each project asked for without an exact version, which versions would have done."""
    versions = {package.name: Version(package.version) for package in packages}
    overridden = {canonicalize_name(Requirement(text).name) for text in question.overrides}
    wanted: dict[str, SpecifierSet] = {}
    for text in (*question.requirements, *question.constraints):
        requirement = Requirement(text)
        wanted.setdefault(canonicalize_name(requirement.name), SpecifierSet())
        wanted[canonicalize_name(requirement.name)] &= requirement.specifier
    roots = {canonicalize_name(Requirement(text).name) for text in question.requirements} - overridden
    return {
        project: simple.Wish(wanted[project], versions[project], question.target, project in question.sdists, question.uploaded_before)
        for project in sorted(roots & versions.keys())
        if not any(one.operator in {"==", "==="} and not one.version.endswith(".*") for one in wanted[project])
    }


def _compare(name: str, wishes: dict[str, simple.Wish], indexes: dict[str, str], context: Context) -> None:
    """Warn of every project that is behind the newest version which would have done."""

    def found(project: str) -> str | None:
        index = indexes.get(project, "")
        if not index.startswith(("http://", "https://")):
            return None
        try:
            behind = simple.held_back(simple.listing(context.client, index, project), wishes[project])
        except AirgapError as error:
            return f"{project} {wishes[project].resolved} could not be compared with the newest release: {error}"
        return behind and f"{project}: resolved {wishes[project].resolved} though {behind[0]} exists: {behind[1]}"

    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        for warning in pool.map(found, wishes):
            if warning:
                context.warn(f"{name}: {warning}")
