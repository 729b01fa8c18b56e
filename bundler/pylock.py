"""``pylock.toml`` (PEP 751): read strictly what a resolver wrote, write what a bundle's wheels need.

Rules: what is read is bounded and only of one kind, files of an index with a sha256; projects that would come from a
version control system, a folder or a bare address are refused by name. File names say project and version, and must
agree with what is written beside them. No address that is kept holds a user name or a fragment.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from airgap_images.oci import MAX_BLOB
from bundler.wheels import PythonTarget
from manifests.errors import InvalidFileError, UsageError
from manifests.paths import check_relative, printable

MAX_PACKAGES = 20_000
MAX_FILES = 2_000  # of one package
REFUSED = {"vcs": "a version control system", "directory": "a local folder", "archive": "a bare address"}  # PEP 751's words for origins

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,198}[a-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Distribution:
    """One file of a package; ``size`` is None where the index does not say it; ``url`` may be a ``file:`` one."""

    filename: str
    url: str
    sha256: str
    size: int | None
    uploaded: datetime | None


@dataclass(frozen=True, slots=True)
class Package:
    """One resolved project and the files it can be had as."""

    name: str
    version: str
    marker: str | None
    wheels: tuple[Distribution, ...]
    sdist: Distribution | None


def parse(raw: bytes, what: str) -> tuple[Package, ...]:
    """Return the packages of a ``pylock.toml``, sorted by name; raises InvalidFileError, UsageError for an origin refused."""
    try:
        value = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _invalid(what, f"not TOML: {printable(str(error))}") from None
    if not str(value.get("lock-version", "")).startswith("1."):
        raise _invalid(what, f"lock-version {printable(str(value.get('lock-version')))!r} is not 1.x")
    packages = value.get("packages", [])
    if not isinstance(packages, list) or len(packages) > MAX_PACKAGES:
        raise _invalid(what, f"packages is no list of at most {MAX_PACKAGES}")
    return tuple(sorted((_package(package, what) for package in packages), key=lambda package: (package.name, package.version)))


def for_target(packages: Iterable[Package], target: PythonTarget, what: str) -> tuple[Package, ...]:
    """Return the packages whose marker holds on ``target``; raises InvalidFileError if one stands there in two versions."""
    found = tuple(package for package in packages if target.holds(package.marker))
    names = [package.name for package in found]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) != len(names) else None
    if twice:
        raise _invalid(what, f"{twice} stands there twice for one target")
    return found


def requirements_text(chosen: Iterable[tuple[Package, Distribution]]) -> str:
    """Return a ``requirements.txt`` of exactly these files, for ``pip install --no-index --find-links wheels --require-hashes``."""
    return "".join(f"{package.name}=={package.version} --hash=sha256:{file.sha256}\n" for package, file in chosen)


def pylock_text(chosen: Iterable[tuple[Package, Distribution]], sizes: Mapping[str, int], target: PythonTarget, folder: str) -> str:
    """Return a ``pylock.toml`` of exactly these files, found in ``folder`` beside it; ``sizes`` is by sha256."""
    where = f"sys_platform == 'linux' and platform_machine == '{target.machine}' and implementation_name == 'cpython'"
    lines = [
        'lock-version = "1.0"',
        f"environments = [{json.dumps(where)}]",
        f'requires-python = "=={target.python}.*"',
        'created-by = "airgap-bundler"',
    ]
    for package, file in chosen:
        path, size = json.dumps(f"{folder}/{file.filename}"), sizes[file.sha256]
        entry = f"{{ path = {path}, size = {size}, hashes = {{ sha256 = {json.dumps(file.sha256)} }} }}"
        lines += ["", "[[packages]]", f"name = {json.dumps(package.name)}", f"version = {json.dumps(package.version)}"]
        lines += [f"wheels = [{entry}]" if file.filename.endswith(".whl") else f"sdist = {entry}"]
    return "\n".join(lines) + "\n"


def _package(value: Any, what: str) -> Package:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not _NAME.fullmatch(value["name"]):
        raise _invalid(what, "a package without a normalised name")
    name = value["name"]
    for key, origin in REFUSED.items():
        if key in value:
            raise UsageError(
                f"{what}: {name} comes from {origin}, not from a package index",
                hint="only files of an index can be pinned by version and hash: require it by name, or publish it to your index",
            )
    version, marker, wheels, sdist = value.get("version"), value.get("marker"), value.get("wheels", []), value.get("sdist")
    if not isinstance(version, str) or _version(version) is None:
        raise _invalid(what, f"{name} has no version")
    if not isinstance(wheels, list) or len(wheels) > MAX_FILES or not isinstance(marker, str | None):
        raise _invalid(what, f"{name}: wheels is no list of at most {MAX_FILES}, or marker no text")
    return Package(
        name=name,
        version=version,
        marker=marker,
        wheels=tuple(_file(wheel, name, version, what) for wheel in wheels),
        sdist=None if sdist is None else _file(sdist, name, version, what),
    )


def _file(value: Any, name: str, version: str, what: str) -> Distribution:
    if not isinstance(value, dict):
        raise _invalid(what, f"{name}: a file that is no table")
    url, hashes, size, uploaded = value.get("url"), value.get("hashes"), value.get("size"), value.get("upload-time")
    sha256 = hashes.get("sha256") if isinstance(hashes, dict) else None
    address = _address(url)
    if not address:
        raise _invalid(what, f"{name}: a file without an address")
    filename = value.get("name", unquote(urlsplit(address).path.rsplit("/", 1)[-1]))
    if not isinstance(filename, str) or "/" in filename or _project(filename) != (name, _version(version)):
        raise _invalid(what, f"{name} {version}: file name {printable(str(filename))!r} is of another project or version")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise UsageError(
            f"{what}: the index states no sha256 for {printable(filename)}",
            hint="use an index that does (the Simple API's `#sha256=`); without one nobody vouches for the file",
        )
    if size is not None and (type(size) is not int or not 0 <= size <= MAX_BLOB):
        raise _invalid(what, f"{printable(filename)}: size {printable(str(size))!r} is no number of bytes")
    when = uploaded if isinstance(uploaded, datetime) and uploaded.tzinfo else None
    return Distribution(check_relative(filename, what), address, sha256, size, when)


def _address(url: Any) -> str:
    """Return the address without user name and fragment, empty if it is none."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        if parts is None or parts.scheme not in {"http", "https", "file"} or not url.isprintable():
            return ""
        return parts._replace(netloc=parts.netloc.rsplit("@", 1)[-1], fragment="").geturl()
    except ValueError:
        return ""


def _project(filename: str) -> tuple[str, Version] | None:
    try:
        if filename.endswith(".whl"):
            name, version, *_ = parse_wheel_filename(filename)
        else:
            name, version = parse_sdist_filename(filename)
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        return None
    return canonicalize_name(name), version


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


def _invalid(what: str, why: str) -> InvalidFileError:
    return InvalidFileError(f"{what}: the resolver's pylock.toml: {why}", hint="check the package index and the version of uv")
