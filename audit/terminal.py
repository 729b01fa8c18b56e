"""What both command lines share: how a result, an error and a running job look to a person and to a program.

Rules: stdout carries the result and nothing else; notes, warnings, progress and errors go to stderr; with ``--json`` the result
is one JSON document, an error too; nothing moves on a stderr that is no terminal; nothing is asked when stdin is none.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, Self

import typer

from manifests.errors import AirgapError, RefusedError, UsageError
from manifests.lock import read_bounded
from manifests.paths import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, TaskID

P = ParamSpec("P")
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document on stdout.")]
SHOW_AFTER = 1.0  # seconds of work before a progress bar appears
MAX_BARS = 8  # files shown at once
MAX_SECRET = 64 << 10  # bytes of a file with a passphrase or PIN
MAX_LISTED = 50  # reasons printed for people; --json has them all


@dataclass(frozen=True, slots=True)
class Report:
    """What a command ends with: ``data`` for ``--json``, ``text`` for people, and the exit code.

    ``view`` makes what rich draws in the place of ``text`` where a person watches stdout.
    """

    data: Mapping[str, Any]
    text: str
    exit_code: int = 0
    view: Callable[[], RenderableType] | None = None


def lazily(name: str) -> Any:
    """Return module ``name``, which is read at its first use: a command starts with what it needs and no more."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def command(function: Callable[P, Report]) -> Callable[P, None]:
    """Turn a function that returns a report, or raises, into a command that prints and exits."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("as_json"))
        try:
            report = function(*args, **kwargs)
        except AirgapError as error:
            raise typer.Exit(_show(error, as_json)) from None
        except KeyboardInterrupt:
            note("interrupted; run the same command again to go on")
            raise typer.Exit(AirgapError.exit_code) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:  # noqa: BLE001 - the one place that says "this is a bug"
            raise typer.Exit(_bug(error)) from None
        if as_json:
            emit(json.dumps(report.data, ensure_ascii=False, sort_keys=True, indent=1))
        elif report.view and sys.stdout.isatty():
            _draw(report.view())
        elif report.text:
            emit(report.text)
        if report.exit_code:
            raise typer.Exit(report.exit_code)

    return run


def emit(text: str) -> None:
    """Write a result to stdout; a reader that went away (``| head``) ends the command quietly."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def note(text: str) -> None:
    """Write a line for people to stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def warn(text: str) -> None:
    """Write a warning to stderr."""
    note(f"warning: {text}")


def secret(what: str, file: Path | None, *, new: bool = False) -> str:
    """Return a secret, ``passphrase of ...`` or ``PIN of ...``: the first line of ``file``, else from the environment, else asked for.

    One that is ``new`` is asked for twice.
    """
    if file is not None:
        return read_bounded(file, MAX_SECRET).decode(errors="surrogateescape").split("\n", 1)[0].rstrip("\r")
    if given := os.environ.get(_variable(what)):
        return given
    asked = ask_secret(what)
    if new and asked != ask_secret("the same again"):
        raise UsageError(f"{what}: the two differ", hint="run again")
    return asked


def ask_secret(prompt: str) -> str:
    """Ask for a secret on the terminal; raises UsageError when nobody is there to answer."""
    if not sys.stdin.isatty():
        ways = f"name a file with --passphrase-file, set {_variable(prompt)}, or run this in a terminal"
        raise UsageError(f"{prompt}: needed, and stdin is no terminal", hint=ways)
    return str(typer.prompt(prompt, hide_input=True, err=True))


def _variable(what: str) -> str:
    return "AIRGAP_PIN" if what.startswith("PIN ") else "AIRGAP_PASSPHRASE"


def human(count: int) -> str:
    """Write a number of bytes with a binary unit: ``1.4 GiB``."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:  # noqa: PLR2004 - binary units
            return f"{count} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def counted(number: int, what: str, *, many: str = "") -> str:
    """Write how many there are of something: ``1 file``, ``2 files``; ``many`` is its plural where that is another word with an s."""
    return f"{number} {what if number == 1 else many or f'{what}s'}"


def table(rows: Sequence[tuple[str, ...]], right: frozenset[int] = frozenset()) -> str:
    """Lay out rows in columns two spaces apart; the columns in ``right`` are aligned to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))] if rows else []
    lines = [
        "  ".join(cell.rjust(widths[at]) if at in right else cell.ljust(widths[at]) for at, cell in enumerate(row)).rstrip() for row in rows
    ]
    return "\n".join(lines)


@dataclass(slots=True)
class Bars:
    """Progress on stderr: one bar for the whole, one for each file under way; nothing where nobody watches. Thread-safe."""

    what: str
    _quiet: bool = False
    _progress: Progress | None = None
    _whole: TaskID | None = None
    _files: dict[str, TaskID] = field(default_factory=dict)
    _under_way: dict[str, tuple[int, int]] = field(default_factory=dict)  # label → size, done; a bar may come later
    _total: int = 0
    _done: int = 0
    _told: int = 0
    _since: float = field(default_factory=time.monotonic)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __enter__(self) -> Self:
        self._quiet = not sys.stderr.isatty()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    def advance(self, count: int, label: str = "") -> None:
        """Take note that ``count`` more bytes are done, of the file ``label`` if one is named."""
        if self._quiet:
            return
        with self._lock:
            self._done += count
            if label in self._under_way:
                size, done = self._under_way[label]
                self._under_way[label] = size, done + count
            progress = self._shown()
            if progress and self._whole is not None:
                progress.update(self._whole, completed=self._done, total=self._total or None)
                self._draw(progress, label)

    def _draw(self, progress: Progress, label: str) -> None:
        if label not in self._under_way:
            return
        size, done = self._under_way[label]
        if label in self._files:
            progress.update(self._files[label], completed=done)
        elif len(self._files) < MAX_BARS:
            self._files[label] = progress.add_task(printable(label, 40), total=size, completed=done)

    def _shown(self) -> Progress | None:
        if self._progress is None and time.monotonic() - self._since > SHOW_AFTER:
            self._progress = _bars()
            self._whole = self._progress.add_task(self.what, total=self._total or None, completed=self._done)
            self._progress.start()
        return self._progress


class Hashing(Bars):
    """Watches verification and whatever else reads blobs."""

    def begin(self, total: int) -> None:
        """Take note that ``total`` bytes are to be read."""
        self._total += total

    def moved(self, count: int) -> None:
        """Take note that ``count`` more bytes are read."""
        self.advance(count)

    def failed(self, error: AirgapError) -> None:
        """Tell a refusal the moment it is found, which is the only time it is told."""
        with self._lock:
            if self._told < MAX_LISTED:
                self._told += 1
                _tell(error)


class Comparing(Hashing):
    """Watches a comparison: what differs is its result, and is told with it."""

    def failed(self, error: AirgapError) -> None:
        """Leave it to the result."""


class Transfers(Bars):
    """Watches the fetch engine."""

    def begin(self, total: int, files: int) -> None:
        """Take note of the bytes and files ahead; of no files where bytes that are here are only read."""
        self._total += total
        if files:
            self.what = f"{self.what} {files} files"

    def started(self, label: str, size: int, have: int) -> None:
        """Take note that a file of ``size`` bytes begins, ``have`` of which are here already."""
        with self._lock:
            self._done += have
            self._under_way[label] = size, have

    def moved(self, label: str, count: int) -> None:
        """Take note that ``count`` more bytes of a file have arrived."""
        self.advance(count, label)

    def finished(self, label: str) -> None:
        """Take note that a file is complete."""
        with self._lock:
            self._under_way.pop(label, None)
            task = self._files.pop(label, None)
            if self._progress and task is not None:
                self._progress.remove_task(task)

    def retrying(self, label: str, reason: str, seconds: float) -> None:
        """Tell that a transfer stopped and goes on in a moment."""
        note(f"{printable(label)}: {printable(reason)}; trying again in {seconds:.1f} s")


def _draw(view: RenderableType) -> None:
    from rich.console import Console  # noqa: PLC0415 - only where somebody watches

    Console(highlight=False, markup=False, emoji=False).print(view)


def _bars() -> Progress:
    from rich.console import Console  # noqa: PLC0415 - only where somebody watches
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn  # noqa: PLC0415

    amount = DownloadColumn(binary_units=True)
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _show(error: AirgapError, as_json: bool) -> int:
    reasons = error.failures if isinstance(error, RefusedError) else (error,)
    untold = [reason for reason in reasons if not reason.told]
    left = max(0, MAX_LISTED - (len(reasons) - len(untold)))
    for reason in untold[:left]:
        _tell(reason)
    if len(untold) > left:
        note(f"error: and {len(untold) - left} more reasons; --json lists all")
    if isinstance(error, RefusedError):
        note(f"refused for {len(reasons)} reason{'' if len(reasons) == 1 else 's'}")
    if as_json:
        listed = [{"hint": r.hint, "kind": type(r).__name__, "message": r.message, "rule": r.rule} for r in reasons]
        emit(json.dumps({"error": listed, "exitCode": error.exit_code}, ensure_ascii=False, sort_keys=True, indent=1))
    return error.exit_code


def _tell(error: AirgapError) -> None:
    error.told = True
    note(f"error: {printable(error.message, 2000)}{f' [rule {error.rule}]' if error.rule else ''}")
    note(f"hint: {printable(error.hint, 400)}")


def _bug(error: Exception) -> int:
    note(traceback.format_exc())
    note(f"error: this is a bug: {type(error).__name__}: {printable(str(error), 400)}")
    note("hint: report it with the lines above; nothing was half written, the same command can be run again")
    return AirgapError.exit_code
