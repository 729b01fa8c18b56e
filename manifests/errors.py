"""Typed errors, one class per thing the reader would do next.

Rules: the message says what failed, on what, expected against got; the hint says the next step. A refusal of trust also names the
``rule`` it is by, as ``docs/trust.md`` lists them: the number of the step of verification and a word.
Only the two ``cli`` modules turn an error into output and an exit code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import ClassVar


class AirgapError(Exception):
    """Base of every refusal and failure this product raises on purpose."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str, rule: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.rule = rule
        self.told = False  # that a person has read it already: what is told as it is found is not told again at the end

    def __str__(self) -> str:
        return self.message


class UsageError(AirgapError):
    """The command line or a file the user wrote is wrong: fix it and run again."""

    exit_code = 2


class InvalidFileError(UsageError):
    """A file (intent, lock, policy, site) does not have the form it must have."""


class NetworkError(AirgapError):
    """A remote could not be reached or did not deliver: check the network, then run again."""


class SiteError(AirgapError):
    """This machine lacks something: disk, permission, engine, file system support."""


class IntegrityError(AirgapError):
    """Bytes are not what their digest, size or form says: distrust them."""

    exit_code = 3


class TrustError(AirgapError):
    """Signatures, freshness or policy do not allow this bundle."""

    exit_code = 3


class RefusedError(AirgapError):
    """A bundle is refused for the ``failures`` listed, each an integrity or trust error of its own."""

    exit_code = 3

    def __init__(self, failures: Sequence[AirgapError]) -> None:
        first = failures[0]
        more = f" (and {len(failures) - 1} more reasons)" if len(failures) > 1 else ""
        super().__init__(f"{first.message}{more}", hint=first.hint, rule=first.rule)
        self.failures = tuple(failures)


class FindingsError(AirgapError):
    """A check found something at or above the gate."""

    exit_code = 4


class NotAssessedError(AirgapError):
    """Something could not be assessed, which is never the same as fine."""

    exit_code = 5


@contextlib.contextmanager
def by_rule(rule: str) -> Iterator[None]:
    """Name ``rule`` as that of every refusal raised while the block runs that names none; a failure of this machine has none."""
    try:
        yield
    except AirgapError as error:
        for reason in (*error.failures, error) if isinstance(error, RefusedError) else (error,):
            if not isinstance(reason, (SiteError, NetworkError)):
                reason.rule = reason.rule or rule
        raise
