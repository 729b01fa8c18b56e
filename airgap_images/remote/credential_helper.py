"""Docker's credential helpers: run ``docker-credential-<name> get`` and take the login it prints.

Rules: no shell; the name is checked, the program is looked for in the environment's own PATH, the registry goes in on
stdin; run time and output are bounded; what it prints on stdout is shown to nobody, as it may be a secret.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from manifests import canonical
from manifests.errors import InvalidFileError
from manifests.paths import printable

TIMEOUT = 30  # seconds; some ask a cloud for a token first
MAX_OUTPUT = 64 << 10  # bytes of stdout, and of stderr
SHOWN = 200  # characters of stderr in a message
NOT_FOUND = b"credentials not found"  # docker/docker-credential-helpers, credentials/error.go; on stdout
TOKEN_USER = "<token>"  # the user a helper names if the secret is an identity token  # noqa: S105

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Told:
    """What a helper holds for a registry: a user and a secret, or why it holds none."""

    user: str = ""
    secret: str = field(default="", repr=False)
    why_not: str = ""


def ask(name: str, server: str, environment: Mapping[str, str]) -> Told:
    """Return what the helper ``name`` holds for ``server``; that it holds nothing, or fails, is said and not raised."""
    what = f"credential helper {printable(name)!r}"
    program = shutil.which(f"docker-credential-{name}", path=environment.get("PATH", "")) if _NAME.fullmatch(name) else None
    if program is None:
        return Told(why_not=f"{what} is not a program in PATH")
    try:
        code, output, words = _run([program, "get"], server.encode(), environment)
    except OSError as error:
        return Told(why_not=f"{what} cannot be run: {error.strerror}")
    if code is None:
        return Told(why_not=f"{what} did not end within {TIMEOUT} s, or printed more than {MAX_OUTPUT} bytes")
    if code and NOT_FOUND in output:
        return Told(why_not=f"{what} holds no login for it")
    if code:
        line = " ".join(words.decode("utf-8", "replace").split())
        return Told(why_not=f"{what} ended with {code}" + (f": {printable(line, SHOWN)}" if line else ""))
    return _told(output, what)


def _told(output: bytes, what: str) -> Told:
    try:
        found: Any = canonical.parse(output, what, limit=MAX_OUTPUT)
    except InvalidFileError:
        found = None
    user, secret = (found.get("Username"), found.get("Secret")) if isinstance(found, dict) else (None, None)
    if not isinstance(user, str) or not isinstance(secret, str) or not user or not secret:
        return Told(why_not=f"{what} answered with something else than a user and a secret")
    return Told(user, secret)


def _run(command: list[str], given: bytes, environment: Mapping[str, str]) -> tuple[int | None, bytes, bytes]:
    """Run a program and return its exit status, stdout and stderr; the status is None if it had to be ended."""
    with subprocess.Popen(  # noqa: S603 - a list of arguments, the program is one the user's own file names
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(environment), bufsize=0
    ) as process:
        assert process.stdin and process.stdout and process.stderr  # noqa: S101, PT018 - Popen was asked for them
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # it may know without reading
                pipe.write(given)
            pipes = (process.stdout.fileno(), process.stderr.fileno())
            output, words = _read(pipes, time.monotonic() + TIMEOUT)
            return (None if output is None or words is None else process.wait(1)), output or b"", words or b""
        except subprocess.TimeoutExpired:
            return None, b"", b""
        finally:
            process.kill()


def _read(pipes: tuple[int, int], until: float) -> tuple[bytes | None, bytes | None]:
    """Read both pipes to their ends; one that is too long or does not end in time is None."""
    found = {fd: bytearray() for fd in pipes}
    whole: set[int] = set()
    with selectors.DefaultSelector() as ready:
        for fd in pipes:
            ready.register(fd, selectors.EVENT_READ)
        while ready.get_map() and (left := until - time.monotonic()) > 0:
            for key, _ in ready.select(left):
                piece = os.read(key.fd, MAX_OUTPUT)
                found[key.fd] += piece
                if not piece:
                    whole.add(key.fd)
                    ready.unregister(key.fd)
                if len(found[key.fd]) > MAX_OUTPUT:
                    return None, None
    output, words = (bytes(found[fd]) if fd in whole else None for fd in pipes)
    return output, words
