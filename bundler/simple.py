"""What a Python package index lists of a project (the Simple API, in JSON or HTML), and why its newest version was not taken.

Rules: only asked to compare, and for what is published beside a file; never to choose. Bounded; what cannot be read is left out,
so that nothing wrong is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urljoin

from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from airgap_images.remote.http import Client, Response
from bundler.wheels import PythonTarget
from manifests import canonical
from manifests.errors import InvalidFileError
from manifests.paths import printable

MAX_LISTING = 64 << 20  # bytes; the longest listings are of nightly builds
ACCEPT = "Accept: application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"

_SHA256 = re.compile(r"#sha256=([0-9a-f]{64})$")


@dataclass(frozen=True, slots=True)
class Listed:
    """One file an index lists."""

    filename: str
    version: Version
    requires_python: str | None
    yanked: bool
    uploaded: datetime | None


@dataclass(frozen=True, slots=True)
class Beside:
    """What an index states of a file beside its name: where its attestations are (PEP 740), and which sha256 it has."""

    provenance: str | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Wish:
    """Which versions of one project would do; ``sdist`` if its source would."""

    specifier: SpecifierSet
    resolved: Version
    target: PythonTarget
    sdist: bool = False
    uploaded_before: datetime | None = None


def listing(client: Client, index: str, project: str) -> tuple[Listed, ...]:
    """Return every file of ``project`` that ``index`` lists; raises NetworkError, InvalidFileError for what is no listing."""
    answer = _asked(client, index, project)
    if _is_json(answer):
        return tuple(listed for file in _files(answer, project) if (listed := _from_json(file)))
    named = ((_name(given), given) for given in _anchors(answer))
    found = (_listed(name, given.get("data-requires-python"), "data-yanked" in given, None) for name, given in named)
    return tuple(listed for listed in found if listed)


def beside(client: Client, index: str, project: str) -> dict[str, Beside]:
    """Return what ``index`` states of each file of ``project``, by file name; raises like ``listing``."""
    answer = _asked(client, index, project)
    if _is_json(answer):
        files = _files(answer, project)
        return {str(file.get("filename")): _stated(answer.url, file.get("provenance"), file.get("hashes")) for file in files}
    return {_name(given): _stated(answer.url, given.get("data-provenance"), _fragment(given)) for given in _anchors(answer)}


def held_back(files: Iterable[Listed], wish: Wish) -> tuple[Version, str] | None:
    """Return the newest version that would do but was not taken, and why; None if the newest was taken."""
    newer: dict[Version, list[Listed]] = {}
    for file in files:
        if file.version > wish.resolved and _counts(file, wish):
            newer.setdefault(file.version, []).append(file)
    if not newer:
        return None
    version = max(newer)
    return version, _reason(newer[version], wish)


def _counts(file: Listed, wish: Wish) -> bool:
    late = wish.uploaded_before and file.uploaded and file.uploaded >= wish.uploaded_before
    early = file.version.is_prerelease and not (wish.resolved.is_prerelease or wish.specifier.prereleases)
    return not (file.yanked or late or early) and wish.specifier.contains(file.version, prereleases=True)


def _reason(files: list[Listed], wish: Wish) -> str:
    fitting = [file for file in files if wish.target.accepts(file.requires_python)]
    if not fitting:
        return f"it wants Python {printable(files[0].requires_python or '', 40)}, the target is {wish.target.python}"
    if any(wish.target.rank(file.filename) is not None or (wish.sdist and not file.filename.endswith(".whl")) for file in fitting):
        return "something it requires cannot be met; ask for exactly that version to see what"
    return f"no wheel of it for {wish.target}"


def _from_json(value: dict[str, Any]) -> Listed | None:
    when = value.get("upload-time")
    try:
        uploaded = datetime.fromisoformat(when) if isinstance(when, str) else None
    except ValueError:
        uploaded = None
    return _listed(value.get("filename"), value.get("requires-python"), value.get("yanked", False), uploaded)


def _listed(filename: Any, requires_python: Any, yanked: Any, uploaded: datetime | None) -> Listed | None:
    if not isinstance(filename, str) or not isinstance(requires_python, str | None):
        return None
    try:
        version = parse_wheel_filename(filename)[1] if filename.endswith(".whl") else parse_sdist_filename(filename)[1]
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        return None
    aware = uploaded if uploaded and uploaded.tzinfo else None
    return Listed(filename, version, requires_python, yanked is not False, aware)


def _asked(client: Client, index: str, project: str) -> Response:
    return client.get(f"{index.rstrip('/')}/{project}/", limit=MAX_LISTING, headers=(ACCEPT,))


def _is_json(answer: Response) -> bool:
    return "json" in (answer.header("content-type") or "")


def _files(answer: Response, project: str) -> list[dict[str, Any]]:
    value = canonical.parse(answer.body, f"{project}: the index's listing", limit=MAX_LISTING)
    files = value.get("files") if isinstance(value, dict) else None
    if not isinstance(files, list):
        raise InvalidFileError(f"{project}: the index's listing has no files", hint="check the address of the index")
    return [file for file in files if isinstance(file, dict)]


def _anchors(answer: Response) -> tuple[dict[str, str | None], ...]:
    page = _Page()
    page.feed(answer.body.decode("utf-8", "replace"))
    return tuple(page.found)


def _name(given: dict[str, str | None]) -> str:
    return unquote(re.sub(r"[?#].*", "", given["href"] or "").rsplit("/", 1)[-1])


def _fragment(given: dict[str, str | None]) -> dict[str, str]:
    found = _SHA256.search(given["href"] or "")
    return {"sha256": found[1]} if found else {}


def _stated(base: str, provenance: Any, hashes: Any) -> Beside:
    """Return what is stated of a file; an address is taken from where the listing came from."""
    sha256 = hashes.get("sha256") if isinstance(hashes, dict) else None
    try:
        where = urljoin(base, provenance) if isinstance(provenance, str) and provenance else None
    except ValueError:
        where = None
    return Beside(where, sha256 if isinstance(sha256, str) else None)


class _Page(HTMLParser):
    """The anchors of a listing in HTML (PEP 503, 592, 740)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take one file."""
        given = dict(attrs)
        if tag == "a" and given.get("href"):
            self.found.append(given)
