"""The one place that runs apt: ask it, in a root of its own, what some packages need on a clean target, and say in one line why it fails.

apt checks the signature of every Release file against the keyring that is named, and each index against it. Rules: nothing of this
machine's own apt is read but its sources, where no mirror is named, and nothing of it is changed; nothing is downloaded but indexes;
output and run time are bounded; no shell. Formats: apt.conf(5), sources.list(5), apt-get(8) ``--print-uris``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from manifests.errors import AirgapError, IntegrityError, NetworkError, SiteError, UsageError
from manifests.paths import printable

TIMEOUT = 900  # seconds
MAX_WORDS = 64 << 20  # bytes of what apt prints
MAX_REASON = 300  # characters of apt's explanation in a message
PASSED = ("PATH", "http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "HOME", "TMPDIR")
_URI = re.compile(r"'([^']+)' (\S+) ([0-9]+) SHA256:([0-9a-f]{64})")
_UNSIGNED = re.compile(
    r"GPG error|NO_PUBKEY|BADSIG|EXPKEYSIG|REVKEYSIG|is not signed|no longer signed|signature|Hash Sum mismatch|weak", re.IGNORECASE
)
_EXPIRED = re.compile(r"Release file .*(?:is expired|is not valid yet)|is expired", re.IGNORECASE)
_UNKNOWN = re.compile(
    r"Unable to locate package|has no installation candidate|Version .* was not found|Couldn't find any package", re.IGNORECASE
)
_UNMET = re.compile(r"unmet dependencies|held broken packages|Unable to correct problems", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Archive:
    """Where packages come from: mirror, suites, components, one architecture, and the keyring its Release must be signed by."""

    mirror: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    architecture: str
    keyring: Path


@dataclass(frozen=True, slots=True)
class Deb:
    """A package to fetch, as apt names it: address, file name, bytes, sha256 (hex)."""

    url: str
    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The Release file of each suite as apt verified it (``InRelease``), and every package that is needed."""

    releases: Mapping[str, str]
    debs: tuple[Deb, ...]


def solve(what: str, archive: Archive, packages: Iterable[str], root: Path, *, recommends: bool, status: bytes = b"") -> Answer:
    """Return what ``packages`` need on a machine with the dpkg ``status`` given, by default none; ``root`` is an empty folder to work in.

    Raises IntegrityError for an archive that is not signed as it must be, UsageError for packages that are not there, NetworkError.
    """
    config = _prepare(archive, root, recommends=recommends, status=status)
    _run(what, config, "update")
    done = _run(what, config, "--print-uris", "--yes", "--no-remove", "install", "--", *packages)
    lines = [line for line in done.splitlines() if line.startswith("'")]
    found = [_URI.fullmatch(line) for line in lines]
    if not all(found):
        raise IntegrityError(f"{what}: the archive states no sha256 of some packages", hint="name a mirror whose indexes have SHA256")
    debs = tuple(Deb(match[1], match[2], int(match[3]), match[4]) for match in found if match)
    return Answer({suite: _release(what, root, suite) for suite in archive.suites}, debs)


def configured(suite: str) -> str | None:
    """Return the mirror that this machine's own sources name for a suite, None if they name none."""
    command = [_program("apt-get"), "indextargets", "--format", "$(RELEASE) $(REPO_URI) $(CREATED_BY)"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT, env=_environment())  # noqa: S603
    found = (line.split() for line in done.stdout.splitlines())
    return next((parts[1].rstrip("/") for parts in found if len(parts) == 3 and parts[0] == suite and parts[2] == "Packages"), None)  # noqa: PLR2004


def _prepare(archive: Archive, root: Path, *, recommends: bool, status: bytes) -> Path:
    for folder in ("lists/partial", "archives/partial", "etc"):
        (root / folder).mkdir(parents=True)
    (root / "status").write_bytes(status)
    lines = {
        "Types": "deb",
        "URIs": archive.mirror,
        "Suites": " ".join(archive.suites),
        "Components": "" if archive.suites[0].endswith("/") else " ".join(archive.components),
        "Architectures": archive.architecture,
        "Signed-By": str(archive.keyring),
    }
    (root / "sources.sources").write_text("".join(f"{key}: {value}\n" for key, value in lines.items() if value))
    settings = {
        "Dir::State": root, "Dir::State::lists": root / "lists", "Dir::State::status": root / "status", "Dir::Cache": root,
        "Dir::Cache::archives": root / "archives", "Dir::Etc::sourcelist": root / "sources.sources", "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::main": "/dev/null", "Dir::Etc::parts": "/dev/null", "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null", "Dir::Etc::trusted": "/dev/null", "Dir::Etc::trustedparts": "/dev/null",
        "Dir::Log": root, "APT::Architecture": archive.architecture, "APT::Install-Recommends": str(recommends).lower(),
        "APT::Sandbox::User": "root", "APT::Get::AllowUnauthenticated": "false", "APT::Update::Error-Mode": "any",
        "Acquire::AllowInsecureRepositories": "false", "Acquire::Languages": "none", "Acquire::Retries": "2",
        "Acquire::GzipIndexes": "false", "Acquire::ForceHash": "SHA256",
    }  # fmt: skip
    lines_of = [f'{key} "{value}";\n' for key, value in settings.items()]
    lines_of.append(f'APT::Architectures {{ "{archive.architecture}"; }};\n')
    (root / "apt.conf").write_text("".join(lines_of))
    return root / "apt.conf"


def _run(what: str, config: Path, *arguments: str) -> str:
    command = [_program("apt-get"), "--quiet", *arguments]
    try:
        environment = _environment() | {"APT_CONFIG": str(config)}
        done = subprocess.run(  # noqa: S603 - no shell; names of packages are checked and follow `--`
            command, capture_output=True, check=False, timeout=TIMEOUT, env=environment, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise NetworkError(f"{what}: apt did not end within {TIMEOUT} seconds", hint="try again, or name another mirror") from None
    if len(done.stdout) > MAX_WORDS:
        raise SiteError(f"{what}: apt printed more than {MAX_WORDS} bytes", hint="ask for fewer packages")
    if done.returncode:
        raise _failure(what, (done.stderr + done.stdout).decode("utf-8", "replace"))
    return done.stdout.decode("utf-8", "replace")


def _failure(what: str, words: str) -> AirgapError:
    reasons = [line.partition(": ")[2].strip() for line in words.splitlines() if line.startswith(("E: ", "W: ", "Err: "))]
    said = printable("; ".join(dict.fromkeys(reasons)) or words.strip()[-MAX_REASON:], MAX_REASON)
    if _EXPIRED.search(words):
        return IntegrityError(f"{what}: the archive's Release has expired: {said}", hint="take a mirror that is current, or a snapshot")
    if _UNKNOWN.search(words):
        return UsageError(f"{what}: {said}", hint="check `packages`, `suite` and `components`")
    if _UNMET.search(words):
        unmet = printable(" ".join(line.strip() for line in words.splitlines() if "Depends:" in line), MAX_REASON)
        return UsageError(f"{what}: no set of packages satisfies this: {unmet or said}", hint="check `packages` and `suite`")
    if _UNSIGNED.search(words):
        hint = "check `keyring`, or distrust this mirror"
        return IntegrityError(f"{what}: the archive is not what the keyring vouches for: {said}", hint=hint)
    return NetworkError(f"{what}: apt: {said}", hint="check `mirror`, proxy and network")


def _release(what: str, root: Path, suite: str) -> str:
    """Return the Release file that apt verified and kept as it came."""
    ending = f"{suite.strip('/').replace('/', '_')}_InRelease" if suite.strip("/") else "InRelease"
    found = [path for path in (root / "lists").iterdir() if path.name.endswith(ending)]
    if len(found) != 1:
        hint = "this mirror publishes Release and Release.gpg apart; name one that has InRelease"
        raise IntegrityError(f"{what}: suite {suite} has no InRelease", hint=hint)
    return found[0].read_text()


def indexes(release: str) -> Iterator[tuple[str, int, str]]:
    """Yield path, bytes and sha256 (hex) of the files that a Release lists (Debian, "Repository Format")."""
    section = ""
    for line in release.splitlines():
        if line[:1] not in {" ", "\t"}:
            section = line.partition(":")[0]
        elif section == "SHA256":
            parts = line.split()
            if len(parts) == 3 and re.fullmatch(r"[0-9a-f]{64}", parts[0]) and parts[1].isdigit():  # noqa: PLR2004
                yield parts[2], int(parts[1]), parts[0]


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        hint = "lock this component on Debian or Ubuntu; nothing else here needs apt"
        raise SiteError(f"{name} is not on this machine, and kind `apt` needs it to check archives and resolve packages", hint=hint)
    return found


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in PASSED if name in os.environ} | {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
