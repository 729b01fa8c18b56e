"""The one place that runs uv: ask it for the closure of some requirements on a target, and say in one line why there is none.

Rules: no shell, no source distribution is built unless its project is named, no Python is downloaded, output and run
time are bounded. The environment is passed through but for ``SECRETS``, so that uv's own variables work; see ``pipconf`` for the indexes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import uv
from packaging.utils import canonicalize_name

from bundler import pylock
from bundler.pipconf import indexes
from bundler.wheels import PythonTarget
from manifests import canonical
from manifests.errors import AirgapError, InvalidFileError, NetworkError, SiteError, UsageError
from manifests.paths import printable

TIMEOUT = 1800  # seconds; a closure of 200 packages takes 10 with a cold cache
MAX_ANSWER = 64 << 20  # bytes of pylock.toml
MAX_WORDS = 1 << 20  # bytes of what uv says while it works
MAX_REASON = 400  # characters of uv's explanation in a message

LOCK = ("--output-file", "pylock.toml")
ORIGINS = ("--output-file", "origins.txt", "--no-deps", "--no-annotate", "--emit-index-annotation")
NO_ANSWER = 1  # uv's exit code when the requirements contradict each other
SECRETS = frozenset(  # that sign, or get a token that does, or read what is private
    {"AIRGAP_PASSPHRASE", "AIRGAP_PIN", "SIGSTORE_ID_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL", "HF_TOKEN"}
)
NOISE = ("The requested Python version", "A managed Python download")  # about building, which is not done
_LACKS_WHEEL = re.compile(r"Wheels are required for `([A-Za-z0-9._-]{1,200})`")
_LACKS_SOURCE = re.compile(r"A source distribution is required for `([A-Za-z0-9._-]{1,200})`")
_FROM_INDEX = re.compile(r"^([A-Za-z0-9._-]+)==\S+(?: ;[^\n]*)?\n    # from (\S+)$", re.MULTILINE)
_STEP = re.compile(r"(?i:because)\s+(.*?),?\s+we can conclude that", re.DOTALL)
_NETWORK = re.compile(r"sending request|Failed to (?:fetch|download)|Request failed|client error|HTTP status|timed out", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask: PEP 508 requirements, for ``target``, asked in ``folder``; ``sdists`` names projects whose source may do."""

    requirements: tuple[str, ...]
    target: PythonTarget
    folder: Path
    constraints: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    sdists: tuple[str, ...] = ()
    uploaded_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What uv wrote, what it warned of, and the projects it had to take as source."""

    text: bytes
    warnings: tuple[str, ...]
    sdists: tuple[str, ...] = ()


def solve(question: Question, what: str, environ: Mapping[str, str] = os.environ) -> Answer:
    """Return uv's ``pylock.toml`` for ``question``; a wheel is always preferred to a source.

    Raises UsageError if nothing satisfies the requirements, NetworkError if the index does not answer.
    """
    question = _anchored(question, what, environ)
    sdists: tuple[str, ...] = ()
    while True:
        run = _run(replace(question, sdists=sdists), LOCK, what, environ)
        if run.code == 0:
            notes = indexes(environ, question.folder).notes
            return Answer(run.text, notes + _warnings(run.words, built=bool(sdists)), sdists)
        more = tuple(name for name in _named(_LACKS_WHEEL, run.words) if name in question.sdists and name not in sdists)
        if not more:
            raise _explained(run, question.target, what)
        sdists += more


def _anchored(question: Question, what: str, environ: Mapping[str, str]) -> Question:
    """Return ``question`` held to the versions found with sources allowed, so that no wheel of an old release is preferred to them."""
    sdists = question.sdists
    while sdists:
        run = _run(replace(question, sdists=sdists), LOCK, what, environ)
        if run.code == 0:
            packages = pylock.parse(run.text, what)
            return replace(question, constraints=(*question.constraints, *(_bound(package, sdists) for package in packages)))
        only_wheels = _named(_LACKS_SOURCE, run.words)
        if not set(only_wheels) & set(sdists):
            raise _explained(run, question.target, what)
        sdists = tuple(name for name in sdists if name not in only_wheels)
    return question


def _bound(package: pylock.Package, sdists: tuple[str, ...]) -> str:
    """Return what holds a package to the version found; one found as source may be newer, if that has a wheel."""
    if package.name in sdists:
        return f"{package.name}>={package.version.split('+')[0]}"
    return f"{package.name}=={package.version}"


def where_from(question: Question, what: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the address of the index each project of ``question``, which pins every one, is taken from."""
    run = _run(question, ORIGINS, what, environ)
    if run.code:
        raise _explained(run, question.target, what)
    return {canonicalize_name(name): url for name, url in _FROM_INDEX.findall(run.text.decode("utf-8", "replace"))}


@dataclass(frozen=True, slots=True)
class _Run:
    code: int
    text: bytes
    words: str


def _run(question: Question, mode: tuple[str, ...], what: str, environ: Mapping[str, str]) -> _Run:
    with tempfile.TemporaryDirectory(prefix="airgap-uv-") as name, tempfile.TemporaryFile() as words:
        folder = Path(name)
        option, output, *more = mode
        command = [*_command(question, folder, what), option, str(folder / output), *more]
        try:
            done = subprocess.run(  # noqa: S603 - a list of arguments, the program is uv's own
                command,
                cwd=question.folder,
                env=_public(environ) | dict(indexes(environ, question.folder).variables),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=words,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NetworkError(f"{what}: uv found no answer in {TIMEOUT} s", hint="pin more versions, check the index, run again") from None
        except OSError as error:
            raise SiteError(f"{what}: cannot run uv: {error.strerror}", hint="install the extra: airgap-bundler[build]") from None
        words.seek(0)
        return _Run(done.returncode, _answer(folder / output, what), words.read(MAX_WORDS).decode("utf-8", "replace"))


def _public(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what signs: where a project has no wheel, uv runs code of that project."""
    return {name: value for name, value in environ.items() if name not in SECRETS}


def _command(question: Question, folder: Path, what: str) -> list[str]:
    try:
        program = uv.find_uv_bin()
    except FileNotFoundError:
        raise SiteError(f"{what}: uv is not installed", hint="install the extra: airgap-bundler[build]") from None
    target = question.target
    command = [program, "pip", "compile", _written(folder / "requirements.in", question.requirements)]
    command += ["--python", sys.executable, "--no-python-downloads"]
    command += ["--python-version", target.python, "--python-platform", target.uv_platform, "--only-binary", ":all:"]
    command += ["--no-header", "--no-progress", "--color", "never"]
    for name in question.sdists:
        command += ["--no-binary", name]
    if question.constraints:
        command += ["--constraints", _written(folder / "constraints.txt", question.constraints)]
    if question.overrides:
        command += ["--overrides", _written(folder / "overrides.txt", question.overrides)]
    if question.uploaded_before:
        command += ["--exclude-newer", canonical.stamp(question.uploaded_before)]
    return command


def _written(path: Path, lines: Iterable[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def _answer(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_ANSWER + 1)
    except FileNotFoundError:
        return b""
    if len(raw) > MAX_ANSWER:
        raise InvalidFileError(f"{what}: uv's answer is larger than {MAX_ANSWER} bytes", hint="split the component")
    return raw


def _explained(run: _Run, target: PythonTarget, what: str) -> AirgapError:
    missing = _named(_LACKS_WHEEL, run.words)
    if run.code != NO_ANSWER:
        line = _line(run.words.removeprefix("error: "))
        if _NETWORK.search(run.words):
            return NetworkError(f"{what}: the package index does not answer: {line}", hint="check network, proxy and index, then run again")
        return UsageError(f"{what}: uv cannot resolve this: {line}", hint="correct the requirements of this component")
    reason = _reason(run.words)
    if missing:
        return UsageError(
            f"{what}: no usable wheel of {', '.join(missing)} for {target}: {reason}",
            hint=f"raise `target.manylinux` if the machines allow it, ask for another version, or `allow_sdist: [{', '.join(missing)}]`",
        )
    return UsageError(
        f"{what}: no set of versions for {target} satisfies the requirements: {reason}",
        hint="ask for other versions, or `overrides:` the requirement that cannot be met",
    )


def _reason(words: str) -> str:
    """Return the first and the last step of uv's derivation: the fact everything follows from, and how it meets what was asked."""
    steps = [_line(step) for step in _STEP.findall(words)]
    return "; and ".join(dict.fromkeys((steps[0], steps[-1]))) if steps else _line(words)


def _line(text: str) -> str:
    """Return ``text`` on one line, without the markers uv puts into names and without user names in addresses."""
    text = re.sub(r"\{[^{}]*\}", "", text)
    text = re.sub(r"//[^/@\s]+@", "//", text)
    return printable(re.sub(r"\s+", " ", text).strip(), MAX_REASON)


def _named(pattern: re.Pattern[str], words: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(canonicalize_name(name) for name in pattern.findall(words)))


def _warnings(words: str, *, built: bool) -> tuple[str, ...]:
    lines = [line.removeprefix("warning: ") for line in words.splitlines() if line.startswith("warning: ")]
    return tuple(_line(line) for line in lines if built or not line.startswith(NOISE))
