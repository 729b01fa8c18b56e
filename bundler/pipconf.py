"""Where this machine gets Python packages from: uv's own configuration, or pip's told to uv when uv has none.

Rules: nothing is invented, no index is named here; a setting uv has is never overruled. An extra index is asked first
and alone for the packages it has (uv's own order, which is no way in for a package of the same name elsewhere). Local
folders that pip would look into besides are left out and said, because a lock must mean the same on another machine.
"""

from __future__ import annotations

import configparser
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from manifests.paths import printable

MAX_CONFIG = 1 << 20  # bytes
UV_INDEX_VARIABLES = ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL")
UV_INDEX_KEYS = ("index", "index-url", "extra-index-url", "no-index")
PIP_SECTIONS = ("global", "install")  # the later wins


@dataclass(frozen=True, slots=True)
class Indexes:
    """What to add to uv's environment, and what the user should know about it."""

    variables: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def indexes(environ: Mapping[str, str], folder: Path) -> Indexes:
    """Return what uv must be told, run in ``folder``, to ask the indexes this machine is configured for."""
    if any(environ.get(name) for name in UV_INDEX_VARIABLES) or any(_names_index(path) for path in _uv_files(environ, folder)):
        return Indexes()
    pip = _pip_settings(environ)
    main = pip.get("index-url", "")
    extra = pip.get("extra-index-url", "").split()
    remote = [url for url in extra if not _is_local(url)]
    local = [url for url in extra if _is_local(url)] + pip.get("find-links", "").split()
    certificates = pip.get("cert", "") if not environ.get("SSL_CERT_FILE") else ""
    told = {"UV_DEFAULT_INDEX": main, "UV_INDEX": " ".join(remote), "SSL_CERT_FILE": certificates}
    return Indexes(tuple((name, value) for name, value in told.items() if value), tuple(_notes([main, *remote], local)))


def _notes(remote: list[str], local: list[str]) -> Iterator[str]:
    if any("@" in urlsplit(url).netloc for url in remote):
        yield "pip's index address holds a password, which no lock may hold: put it into ~/.netrc, the build needs it there"
    if local:
        names = ", ".join(printable(_without_user(place), 80) for place in local[:4])
        yield f"pip's local folders are not looked into ({names}): other machines could not fetch from them"


def _is_local(url: str) -> bool:
    return not url.lower().startswith(("http://", "https://"))


def _without_user(url: str) -> str:
    return url.rsplit("@", 1)[-1] if "@" in url else url


def _pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in _pip_files(environ):
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read_string(_text(path), str(path))
        except configparser.Error:
            continue  # pip itself refuses such a file and says so
        for section in PIP_SECTIONS:
            if parser.has_section(section):
                found |= {key.replace("_", "-"): value.strip() for key, value in parser.items(section)}
    given = {name[4:].lower().replace("_", "-"): value for name, value in environ.items() if name.startswith("PIP_")}
    return found | {key: value for key, value in given.items() if value}


def _pip_files(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield pip's configuration files, the later overruling the earlier ("pip config", "configuration files")."""
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return
    for folder in reversed((environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")):
        yield Path(folder) / "pip" / "pip.conf"
    yield Path("/etc/pip.conf")
    home = environ.get("HOME")
    if home:
        yield Path(home) / ".pip" / "pip.conf"
        yield Path(environ.get("XDG_CONFIG_HOME") or Path(home) / ".config") / "pip" / "pip.conf"
    yield Path(sys.prefix) / "pip.conf"
    if named:
        yield Path(named)


def _uv_files(environ: Mapping[str, str], folder: Path) -> Iterator[Path]:
    """Yield uv's configuration files, the folder's own and its parents' included ("configuration files" in uv's manual)."""
    if environ.get("UV_NO_CONFIG"):
        return
    if environ.get("UV_CONFIG_FILE"):
        yield Path(environ["UV_CONFIG_FILE"])
        return
    for parent in (folder.absolute(), *folder.absolute().parents):
        yield parent / "uv.toml"
        yield parent / "pyproject.toml"
    home = environ.get("HOME")
    if environ.get("XDG_CONFIG_HOME") or home:
        yield Path(environ.get("XDG_CONFIG_HOME") or f"{home}/.config") / "uv" / "uv.toml"
    for system in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"):
        yield Path(system) / "uv" / "uv.toml"
    yield Path("/etc/uv/uv.toml")


def _names_index(path: Path) -> bool:
    try:
        value: Any = tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError:
        return False  # uv itself refuses such a file and says so
    if path.name == "pyproject.toml":
        value = _table(_table(value, "tool"), "uv")
    return any(table.get(key) for table in (value, _table(value, "pip")) for key in UV_INDEX_KEYS)


def _table(value: dict[str, Any], key: str) -> dict[str, Any]:
    inner = value.get(key)
    return inner if isinstance(inner, dict) else {}


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_CONFIG).decode()
    except (OSError, UnicodeDecodeError):
        return ""
