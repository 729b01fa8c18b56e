"""Judge keyless signatures: ask a process of its own, because the library that can do it brings network code.

``sigstore`` is imported by ``_keyless_child.py`` and by nothing else here. That child starts with no environment, forbids itself
sockets, programs and writing before it imports anything, and answers once. One child judges everything; starting it and importing
the library takes about half a second. What it cannot be asked, or does not answer, is not judged: never good.
"""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from manifests import canonical
from manifests.errors import InvalidFileError
from manifests.paths import printable

CHILD = Path(__file__).with_name("_keyless_child.py")
ABSENT = "the package sigstore is not installed here: pip install 'airgap-bundler[keyless]'"
MAX_QUESTION = 256 << 20  # bytes of all bundles and what they sign
MAX_ANSWER = 16 << 20  # bytes; an answer has some 200 bytes
BASE_TIME, TIME_PER_BUNDLE = 60.0, 0.5  # seconds; a bundle takes about 2 ms

Result = Literal["good", "wrong", "unverifiable"]


@dataclass(frozen=True, slots=True)
class Question:
    """One bundle against one identity, or a source ``repository``. ``artifact`` is what it signs, None if that is the statement in it.

    ``root`` is the trusted root as JSON, from the policy. With ``whole``, every timestamp in the bundle must be good, not only one.
    """

    bundle: bytes
    artifact: bytes | None
    identity: str | None
    issuer: str
    root: bytes
    repository: str | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the child said; ``payload`` is the sha256 (hex) of the statement it verified, None if it verified ``artifact``.

    ``time`` is when the signature was made, as the log or the timestamp authority that was verified states it (RFC 3339, UTC).
    """

    result: Result
    reason: str
    payload: str | None = None
    time: str | None = None


def judge(questions: Iterable[Question]) -> tuple[Answer, ...]:
    """Return the answer to each question, in their order."""
    asked = tuple(questions)
    if not asked:
        return ()
    size = sum(map(len, {question.bundle for question in asked})) + sum(len(question.artifact or b"") for question in asked)
    if size > MAX_QUESTION:
        return _all(asked, f"{size} bytes to judge, at most {MAX_QUESTION} are judged at once")
    raw = _encoded(asked)
    try:
        said = _ask(raw, BASE_TIME + TIME_PER_BUNDLE * len(asked))
    except OSError as error:
        return _all(asked, f"the process that judges it could not be started: {error.strerror}")
    return _parsed(said, asked)


def payload_digest(payload: bytes) -> str:
    """Return how an answer names the statement it verified: its sha256 (hex)."""
    return hashlib.sha256(payload).hexdigest()


def _encoded(asked: tuple[Question, ...]) -> bytes:
    """Return the question as the child reads it: what many ask about is in it once."""
    roots = {root: at for at, root in enumerate(sorted({question.root for question in asked}))}
    bundles = {bundle: at for at, bundle in enumerate(dict.fromkeys(question.bundle for question in asked))}
    return canonical.compact(
        {
            "path": [folder for folder in sys.path if os.path.isabs(folder)],
            "roots": [root.decode() for root in roots],
            "bundles": [bundle.decode() for bundle in bundles],
            "items": [
                {
                    "bundle": bundles[question.bundle],
                    "artifact": None if question.artifact is None else base64.b64encode(question.artifact).decode(),
                    "identity": question.identity,
                    "repository": question.repository,
                    "issuer": question.issuer,
                    "whole": question.whole,
                    "root": roots[question.root],
                }
                for question in asked
            ],
        }
    )


def _ask(raw: bytes, seconds: float) -> bytes | None:
    """Run the child and return its answer, None if it ran too long, said too much or failed."""
    with os.fdopen(os.memfd_create("keyless"), "w+b") as question:
        question.write(raw)
        question.flush()
        question.seek(0)
        with subprocess.Popen(  # noqa: S603 - this interpreter, a file of this package
            [sys.executable, "-I", "-B", "-X", "utf8", str(CHILD)],
            cwd="/",
            env={"HOME": "/nonexistent"},  # without one, the library would ask the system's name service, over a socket
            stdin=question,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as child:
            alarm = threading.Timer(seconds, child.kill)
            alarm.start()
            try:
                said = _bounded(child.stdout)
            finally:
                alarm.cancel()
                if child.poll() is None and len(said) > MAX_ANSWER:
                    child.kill()
            return said if child.wait() == 0 and len(said) <= MAX_ANSWER else None


def _bounded(stream: IO[bytes] | None) -> bytes:
    return stream.read(MAX_ANSWER + 1) if stream else b""


def _parsed(said: bytes | None, asked: tuple[Question, ...]) -> tuple[Answer, ...]:
    try:
        value = canonical.parse(said or b"", "answer", limit=MAX_ANSWER)
    except InvalidFileError:
        return _all(asked, "the process that judges it failed, was killed or took too long")
    problem = value.get("problem") if isinstance(value, dict) else "?"
    if problem is not None:
        return _all(asked, ABSENT if problem == "absent" else f"the package sigstore cannot be used: {printable(str(problem))}")
    answers = tuple(map(_answer, value.get("answers") or ()))
    return answers if len(answers) == len(asked) else _all(asked, "the process that judges it did not answer everything")


def _answer(value: Any) -> Answer:
    keys = ("result", "reason", "payload", "time")
    result, reason, payload, time = (value.get(key) for key in keys) if isinstance(value, dict) else (None,) * 4
    if result not in {"good", "wrong", "unverifiable"}:
        return Answer("unverifiable", "the process that judges it gave no answer")
    return Answer(result, printable(str(reason), 400), payload if isinstance(payload, str) else None, _time(time))


def _time(text: Any) -> str | None:
    try:
        return canonical.stamp(canonical.moment(text))
    except (TypeError, ValueError):
        return None


def _all(asked: tuple[Question, ...], reason: str) -> tuple[Answer, ...]:
    return tuple(Answer("unverifiable", reason) for _ in asked)
