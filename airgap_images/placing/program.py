"""Programs of an engine (``podman``, ``ctr``): run one, feed it a stream, and say what it says.

Rules: a list of arguments, never a shell; of the environment only what ``KEPT`` names; what it prints is kept up to a limit
and the rest is thrown away; a program that is silent and takes nothing for ``TIMEOUT`` is ended. If the stream fails, the
program sees it end too early and is waited for, so that it clears away its own temporary files.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO

from manifests.errors import SiteError
from manifests.paths import printable

TIMEOUT = 3600  # seconds without progress; unpacking a layer of 20 GB takes that long on a slow disk
MAX_OUTPUT = 64 << 20  # bytes; a list of 20,000 images
MAX_WORDS = 64 << 10  # bytes of what it says on stderr
SHOWN = 400  # characters of that in a message
PATIENCE = 10  # seconds for the rest of its output once it has ended; a child of it may hold the pipe
PIECE = 1 << 16  # bytes
KEPT = ("HOME", "PATH", "TMPDIR", "XDG_RUNTIME_DIR")
LOOK = "see the engine's log, then run again"
USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program printed, and its exit status."""

    code: int
    output: str
    words: str

    @property
    def said(self) -> str:
        """Return what it said of its failure, on one line; the end of it matters most."""
        line = " ".join(self.words.split())
        return printable(line if len(line) <= SHOWN else f"...{line[-SHOWN:]}", SHOWN + 3) or f"exit status {self.code}"


@dataclass(frozen=True, slots=True)
class Program:
    """A program with the arguments every call of it begins with. ``environment`` is what its environment is taken from."""

    name: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, name: str, arguments: Iterable[str], environment: Mapping[str, str]) -> Program:
        """Return the program with the few variables it gets."""
        kept = {key: environment[key] for key in KEPT if environment.get(key)}
        kept["PATH"] = ":".join(filter(None, (kept.get("PATH"), USUAL_PATH)))
        return cls(name, tuple(arguments), tuple(sorted({**kept, "LC_ALL": "C.UTF-8"}.items())))

    def run(self, *arguments: str, stream: Iterable[bytes] = ()) -> Answer:
        """Run it with ``stream`` as its input, and return its answer, whatever its exit status.

        Raises SiteError if it is not installed, hangs or prints without end, and whatever ``stream`` raises.
        """
        process = self._start(arguments)
        readers = (_Reader(process.stdout, MAX_OUTPUT), _Reader(process.stderr, MAX_WORDS))
        try:
            try:
                with contextlib.suppress(BrokenPipeError):  # it ended early, and says why
                    _feed(process, stream)
            finally:
                _end(process)
        finally:
            for reader in readers:
                reader.join()
        output, words = (reader.text for reader in readers)
        if readers[0].more:
            raise SiteError(f"{self.name} prints more than {MAX_OUTPUT} bytes", hint=f"run `{self.name}` by hand and see why")
        return Answer(process.returncode, output, words)

    def _start(self, arguments: tuple[str, ...]) -> subprocess.Popen[bytes]:
        environment = dict(self.environment)
        path = shutil.which(self.name, path=environment["PATH"])
        if path is None:
            raise SiteError(f"{self.name} is not installed", hint=f"install {self.name}, or name another `engine` in the site's file")
        try:
            return subprocess.Popen(  # noqa: S603 - a list of arguments, the program is the site's engine
                [path, *self.arguments, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                env=environment,
                bufsize=0,
            )
        except OSError as error:
            raise SiteError(f"{self.name} cannot be run: {error.strerror}", hint=f"run `{self.name}` by hand") from None


@dataclass(slots=True)
class _Reader:
    """Reads a pipe to its end in a thread of its own, and keeps the first ``limit`` bytes."""

    pipe: IO[bytes] | None
    limit: int
    kept: bytearray = field(default_factory=bytearray)
    more: bool = False
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    @property
    def text(self) -> str:
        return self.kept.decode("utf-8", "replace")

    def join(self) -> None:
        self.thread.join(PATIENCE)

    def _read(self) -> None:
        assert self.pipe is not None  # noqa: S101 - Popen was asked for one
        with self.pipe as pipe:
            while piece := pipe.read(PIECE):
                room = self.limit - len(self.kept)
                self.kept += piece[:room]
                self.more = self.more or len(piece) > room


def _feed(process: subprocess.Popen[bytes], stream: Iterable[bytes]) -> None:
    assert process.stdin is not None  # noqa: S101 - Popen was asked for one
    fd = process.stdin.fileno()
    os.set_blocking(fd, False)
    room = select.poll()
    room.register(fd, select.POLLOUT)
    for piece in stream:
        view = memoryview(piece)
        while view:
            if not room.poll(TIMEOUT * 1000):
                process.kill()
                raise SiteError(f"the engine's program took nothing for {TIMEOUT} s and was ended", hint=LOOK)
            view = view[os.write(fd, view[:PIECE]) :]


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None  # noqa: S101
    process.stdin.close()
    try:
        process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        raise SiteError(f"the engine's program was silent for {TIMEOUT} s and was ended", hint=LOOK) from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
