"""One file from one URL, over as many connections as it takes.

Rules: a dropped connection goes on at the next byte; a server that cannot do that is read from the start and what is here
already is skipped, never written twice; only attempts that bring nothing count as failures; nothing is written beyond the
expected size; what is wrong is kept aside as ``refused-<digest>``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from airgap_images.oci import Digest
from airgap_images.remote.http import Client, Credentials, HttpError, Response, TransferError, redacted
from bundler.partial import GrowingFile
from manifests.errors import IntegrityError, NetworkError

LARGE = 8 << 20  # bytes for which a connection of its own is worth it
SAMPLE = 1 << 20  # bytes kept for inspection of an answer that announces a wrong size
REFUSED = "look at what came: the file was changed upstream (lock again) or on the way (distrust the server or the proxy)"
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_STRONG_TAG = re.compile(r'"[\x21\x23-\x7e]{1,256}"')


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a transfer tells its caller (bytes stored, pauses ahead) and asks it; ``sleep`` may raise to end it."""

    moved: Callable[[int], None]
    retrying: Callable[[str, float], None]
    sleep: Callable[[float], None]
    cancelled: Callable[[], bool]


class WrongBytesError(IntegrityError):
    """All bytes came and are not what they must be; bytes of an earlier run or another server may be at fault."""


class _UnusableRangeError(Exception):
    """The answer does not continue this file; it may when all of it is asked for."""


class _EndedError(Exception):
    """Ends a transfer whose outcome is known."""


class _ShortError(TransferError):
    """A body ended early and nothing told where it should."""


class Pinned:
    """Brings ``file`` from one URL to the ``size`` and ``digest`` it must have; ``received`` counts bytes off the network."""

    def __init__(self, client: Client, file: GrowingFile, digest: Digest, size: int, hooks: Hooks) -> None:
        self.received = 0
        self._client = client
        self._file = file
        self._digest = digest
        self._size = size
        self._hooks = hooks
        self._ranges = True
        self._skip = 0
        self._wrong_size: str | None = None
        self._sample: bytearray | None = None
        self._chunked = False

    def fetch(self, url: str, credentials: Credentials, accept: str = "*/*") -> None:
        """Fetch what is missing, as media type ``accept``, and store the file.

        Raises IntegrityError for a wrong size or digest, with the wrong bytes set aside; HttpError or TransferError when
        nothing more arrives.
        """
        failures = 0
        while self._file.length < self._size:
            before = self._file.length
            try:
                self._attempt(url, credentials, accept)
            except _UnusableRangeError:
                if not self._ranges:
                    message = f"{redacted(url)}: the server sends a part that was not asked for"
                    raise TransferError(message, hint="check the proxy") from None
                self._ranges = False
            except (HttpError, TransferError) as error:
                failures = 0 if self._file.length > before else failures + 1
                self._pause(url, error, failures)
        if self._file.digest != self._digest:
            raise self._refused(url, f"content is sha256 {self._file.digest.hex}, expected {self._digest.hex}", WrongBytesError)
        self._file.keep(self._digest)

    def _attempt(self, url: str, credentials: Credentials, accept: str) -> None:
        self._wrong_size = self._sample = None
        start = self._file.length if self._ranges else 0
        try:
            self._client.download(
                url,
                self._take,
                start=start,
                headers=(f"Accept: {accept}",),
                credentials=credentials,
                on_answer=self._judge,
                receiver=self if self._size - start >= LARGE else None,
                cancelled=self._hooks.cancelled,
            )
        except HttpError as error:
            if error.status == RANGE_NOT_SATISFIABLE and start:
                raise _UnusableRangeError from None
            raise
        except _EndedError:
            pass
        finally:
            self._hooks.moved(self._file.flush())
        if self._wrong_size:
            raise self._refused(url, self._wrong_size)
        if self._file.length < self._size:
            short = f"ended after {self._file.length} of {self._size} bytes"
            if self._chunked:  # a body that says where it ends, and did
                raise self._refused(url, short)
            raise _ShortError(f"{redacted(url)}: {short}", retryable=True)

    def _judge(self, response: Response) -> None:
        """Find out where the body starts and whether the whole is as large as it must be."""
        if response.status == PARTIAL_CONTENT:
            self._skip, self._chunked = 0, False
            start, total = content_range(response)
            if start != self._file.length or total not in {None, self._size}:
                raise _UnusableRangeError
            return
        self._skip = self._file.length
        self._chunked = response.header("transfer-encoding") is not None
        announced = response.number("content-length")
        if announced is not None and announced != self._size:
            self._wrong_size, self._sample = f"the server announces {announced} bytes, expected {self._size}", bytearray()

    def _take(self, chunk: bytes) -> None:
        self.received += len(chunk)
        if self._sample is not None:
            self._sample += chunk[: SAMPLE - len(self._sample)]
            if len(self._sample) == SAMPLE:
                raise _EndedError
            return
        if self._skip:
            skipped = min(self._skip, len(chunk))
            self._skip -= skipped
            chunk = chunk[skipped:]
        room = self._size - self._file.arrived
        if len(chunk) > room:
            self._wrong_size = f"the server sends more than the expected {self._size} bytes"
            chunk = chunk[:room]
        if chunk:
            self._hooks.moved(self._file.write(chunk))
        if self._wrong_size:
            raise _EndedError

    def expects(self, count: int) -> bool:
        """Say whether all that is missing, and nothing else, comes next; an http.Receiver is asked that."""
        return self._sample is None and not self._skip and count == self._size - self._file.arrived

    def room(self) -> memoryview:
        """Return where the next bytes belong."""
        return self._file.room()

    def took(self, count: int) -> None:
        """Take note of bytes that were put there."""
        self.received += count
        self._hooks.moved(self._file.took(count))

    def _pause(self, url: str, error: HttpError | TransferError, failures: int) -> None:
        pause = self._client.retry.pause(failures, error)
        if pause is not None:
            wait(self._hooks, error, pause)
        elif isinstance(error, _ShortError):
            raise self._refused(url, f"the server ends after {self._file.length} of {self._size} bytes")
        else:
            raise error

    def _refused(self, url: str, reason: str, kind: type[IntegrityError] = IntegrityError) -> IntegrityError:
        sample = None if self._sample is None else bytes(self._sample)
        path = self._file.set_aside(f"refused-{self._digest.hex}", sample)
        return kind(f"{redacted(url)}: {reason}; what came is kept at {path}", hint=REFUSED)


class Unpinned:
    """Brings ``file`` from one URL when nobody has said what it must be.

    ``room`` is told each length before it is written and may refuse it.

    After a drop it goes on only under a strong ETag that the server still has, otherwise from the start: without a digest
    nothing would show that two halves belong together.
    """

    def __init__(self, client: Client, url: str, file: GrowingFile, room: Callable[[int], None], hooks: Hooks) -> None:
        self._client = client
        self._url = url
        self._file = file
        self._room = room
        self._hooks = hooks
        self._tag: str | None = None
        self._total: int | None = None

    def fetch(self, credentials: Credentials) -> None:
        """Fetch the whole file; it is not stored yet. Raises TransferError also if its end cannot be told from a drop."""
        failures = 0
        while True:
            before = self._file.length
            try:
                self._attempt(credentials)
            except (HttpError, TransferError) as error:
                failures = 0 if self._file.length > before else failures + 1
                pause = self._client.retry.pause(failures, error)
                if pause is None:
                    raise
                wait(self._hooks, error, pause)
            else:
                return

    def _attempt(self, credentials: Credentials) -> None:
        if self._tag is None:
            self._restart()
        start = self._file.length
        try:
            self._client.download(
                self._url,
                self._take,
                start=start,
                headers=(f"If-Range: {self._tag}",) if start else (),
                credentials=credentials,
                on_answer=self._judge,
                cancelled=self._hooks.cancelled,
            )
        except HttpError as error:
            if error.status == RANGE_NOT_SATISFIABLE and start:
                self._tag = None
                raise TransferError(error.message, hint=error.hint, retryable=True) from None
            raise
        finally:
            self._hooks.moved(self._file.flush())
        if self._total is not None and self._file.length != self._total:
            raise TransferError(f"{redacted(self._url)}: ended after {self._file.length} of {self._total} bytes", retryable=True)

    def _judge(self, response: Response) -> None:
        if response.status == PARTIAL_CONTENT:
            start, total = content_range(response)
            if start != self._file.length or total != self._total:
                self._tag = None
                raise TransferError(f"{redacted(self._url)}: the server does not go on where it stopped", retryable=True)
            return
        self._restart()
        self._total = response.number("content-length")
        if self._total is None and response.header("transfer-encoding") is None:
            raise TransferError(f"{redacted(self._url)}: the server does not tell where the file ends", hint="state its sha256 and size")
        tag = response.header("etag") or ""
        self._tag = tag if self._total is not None and _STRONG_TAG.fullmatch(tag) else None
        self._room(self._total or 0)

    def _take(self, chunk: bytes) -> None:
        self._room(self._file.arrived + len(chunk))
        self._hooks.moved(self._file.write(chunk))

    def _restart(self) -> None:
        self._hooks.moved(-self._file.length)
        self._file.restart()


def wait(hooks: Hooks, error: NetworkError, seconds: float) -> None:
    """Tell of a pause and make it."""
    hooks.retrying(error.message, seconds)
    hooks.sleep(seconds)


def content_range(response: Response) -> tuple[int, int | None]:
    """Return first byte and whole size of a 206 answer; -1 if it does not say, size None if it is not known there."""
    found = _CONTENT_RANGE.fullmatch(response.header("content-range") or "")
    if not found:
        return -1, None
    return int(found[1]), None if found[3] == "*" else int(found[3])
