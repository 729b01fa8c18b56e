"""One request and its answer as libcurl's callbacks see them: what is sent, what is kept of what comes, and what a failure means.

Rules: headers and kept bodies are bounded; what a callback raises is kept and raised after the transfer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pycurl

from airgap_images.remote.tap import WORTHWHILE, Tap
from airgap_images.remote.web import RETRIED, Address, Credentials, Readable, Receiver, Response, TransferError, Upload, redacted
from manifests.paths import printable

MAX_HEADERS = 256  # lines
MAX_HEADER_BYTES = 128 << 10  # bytes of all header lines of one answer, interim answers included
MAX_ERROR_BODY = 64 << 10  # bytes kept of an answer that is no success
SENT_AT_ONCE = 512 << 10  # bytes libcurl asks for at once

SUCCESS = range(200, 300)
STREAMED = frozenset({200, 206})
SAME_METHOD = frozenset({307, 308})
CLIENT_ERRORS = range(400, 500)

MAY_PASS = frozenset(
    {
        pycurl.E_COULDNT_RESOLVE_PROXY,
        pycurl.E_COULDNT_RESOLVE_HOST,
        pycurl.E_COULDNT_CONNECT,
        pycurl.E_PARTIAL_FILE,
        pycurl.E_OPERATION_TIMEDOUT,
        pycurl.E_SSL_CONNECT_ERROR,
        pycurl.E_GOT_NOTHING,
        pycurl.E_SEND_ERROR,
        pycurl.E_RECV_ERROR,
    }
)
BAD_CERTIFICATE = frozenset({pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CACERT_BADFILE})
OWN_CERTIFICATE = frozenset({pycurl.E_SSL_CERTPROBLEM, pycurl.E_BAD_FUNCTION_ARGUMENT})  # the latter for a key of no use
AUTHORITY_HINT = (
    "name a file with the certificate of the issuing CA in SSL_CERT_FILE; for a registry, put it into certs.d/<host>/ca.crt, "
    "or name it as `ca_file` of the site's registry"
)
CERTIFICATE_WANTED = "certificate required"  # TLS 1.3's alert 116, which comes after the handshake, in libcurl's words
CERTIFICATE_HINT = "put its certificate and key where this host's own are looked for, such as /etc/containers/certs.d/<host>/"
BY_CALLBACK = frozenset({pycurl.E_ABORTED_BY_CALLBACK, pycurl.E_WRITE_ERROR})

Sink = Callable[[bytes], int | None]


def never() -> bool:
    """Say no: the default of ``cancelled``."""
    return False


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask; ``limit`` bounds a body that is kept, ``stream`` gives the sink for one that is not."""

    address: Address
    headers: tuple[str, ...]
    credentials: Credentials
    limit: int = 0
    method: str = "GET"
    upload: Upload | None = None
    redirects: bool = True
    stream: Callable[[Response], Sink] | None = None
    receiver: Receiver | None = None
    cancelled: Callable[[], bool] = never

    def wants(self, status: int) -> bool:
        """Say whether an answer of this status is the one asked for."""
        return status in STREAMED if self.stream else status in SUCCESS

    def follows(self, status: int) -> bool:
        """Say whether a redirect of this status leaves the request what it is: 301, 302 and 303 make a GET of anything else."""
        return self.redirects and (self.method in {"GET", "HEAD"} or status in SAME_METHOD)


class Exchange:
    """One request and its answer, as libcurl's callbacks see it; what they raise is kept and raised after the transfer."""

    def __init__(self, request: Request, address: Address, stall_timeout: float) -> None:
        self._request = request
        self._address = address
        self._status = 0
        self._headers: list[tuple[str, str]] = []
        self._lines = self._bytes = 0
        self._sink: Sink | None = None
        self._kept: list[bytes] = []
        self._room = 0
        self._enough = False
        self._error: BaseException | None = None
        self._upload: Readable | None = None
        self._unsent = 0
        self._streamed = 0
        self._length: int | None = None
        plain = request.receiver is not None and address.scheme == "http"
        self._tap = Tap(redacted(address.url), stall_timeout, self._end_if_cancelled) if plain else None

    def callbacks(self) -> dict[int, object]:
        """Return the options that make libcurl call this object."""
        options: dict[int, object] = {
            pycurl.HEADERFUNCTION: self._header,
            pycurl.WRITEFUNCTION: self._body,
            pycurl.NOPROGRESS: False,
            pycurl.XFERINFOFUNCTION: self._moment,
        }
        if self._tap:
            options |= self._tap.options()
        if self._request.upload is None:
            return options | {pycurl.NOBODY: self._request.method == "HEAD"}
        return options | {
            pycurl.UPLOAD: True,
            pycurl.CUSTOMREQUEST: self._request.method,
            pycurl.INFILESIZE_LARGE: self._request.upload.size,
            pycurl.UPLOAD_BUFFERSIZE: SENT_AT_ONCE,
            pycurl.READFUNCTION: self._more,
            pycurl.SEEKFUNCTION: self._again,
        }

    def close(self) -> None:
        """Close what was opened for this exchange."""
        if self._tap:
            self._tap.close()
        self._rewind()

    def _rewind(self) -> None:
        if self._upload:
            self._upload.close()
            self._upload = None

    def finished(self) -> Response:
        """Return the answer with the kept part of its body, or raise what a callback raised."""
        if self._error is None and self._sink is None:
            self._sink = self._opened()  # an answer without a body
        if self._error is not None:
            raise self._error
        return replace(self._response(), body=b"".join(self._kept))

    def failed(self, error: pycurl.error, connect_status: int) -> None:
        """Raise what the failure of a transfer means, unless a callback ended it on purpose."""
        if self._error is not None or self._enough:
            return
        code, text = _reason(error)
        if code in BY_CALLBACK:  # a signal came before the callback could catch it; older pycurl prints it and goes on
            raise KeyboardInterrupt from None
        name, said = redacted(self._address.url), printable(text) or f"libcurl error {code}"
        if code in OWN_CERTIFICATE or CERTIFICATE_WANTED in said:
            raise TransferError(f"{name}: {said}", hint=CERTIFICATE_HINT) from None
        if code in BAD_CERTIFICATE:
            raise TransferError(f"{name}: {said}", hint=AUTHORITY_HINT) from None
        if connect_status in CLIENT_ERRORS and connect_status not in RETRIED:
            raise TransferError(f"{name}: the proxy answered {connect_status}", hint="check HTTPS_PROXY and what it lets through") from None
        raise TransferError(f"{name}: {said}", retryable=code in MAY_PASS) from None

    def _response(self) -> Response:
        return Response(self._status, self._address.url, tuple(self._headers))

    def _header(self, line: bytes) -> int | None:
        self._lines += 1
        self._bytes += len(line)
        if self._lines > MAX_HEADERS or self._bytes > MAX_HEADER_BYTES:
            self._error = TransferError(f"{redacted(self._address.url)}: the answer's header is too long", hint="check the address")
            return -1
        if line.startswith(b"HTTP/"):  # the final answer's, or an interim one's or the proxy's, each replacing the one before
            self._status, self._headers = int(line.split()[1]), []
        elif self._sink is None:
            name, _, value = line.partition(b":")
            if value:
                self._headers.append((_text(name).lower(), _text(value)))
        return None

    def _body(self, chunk: bytes) -> int | None:
        try:
            if self._sink is None:
                self._sink = self._opened()
            count = self._taken(chunk, self._sink(chunk))
            return -1 if count is None and self._tapped(len(chunk)) else count
        except BaseException as error:  # noqa: BLE001 - a callback cannot raise through libcurl; `finished` raises it
            self._error = error
            return -1

    def _tapped(self, count: int) -> bool:
        """Receive the rest of the body without libcurl if that is safe and worth it; say whether that was done."""
        self._streamed += count
        receiver, tap, length = self._request.receiver, self._tap, self._length
        rest = 0 if length is None else length - self._streamed
        if receiver is None or tap is None or rest < WORTHWHILE or not receiver.expects(rest):
            return False
        if not tap.in_step(self._bytes + self._streamed):
            return False
        self._enough = True
        tap.receive(rest, receiver)
        return True

    def _more(self, count: int) -> bytes | int:
        """Give libcurl more of the body to send, never beyond the size that was announced."""
        try:
            return self._piece(count)
        except BaseException as error:  # noqa: BLE001 - as in `_body`
            self._error = error
            return pycurl.READFUNC_ABORT

    def _piece(self, count: int) -> bytes:
        upload = self._request.upload
        if self._upload is None and upload:
            self._upload, self._unsent = upload.open(), upload.size
        piece = self._upload.read(min(count, self._unsent)) if self._upload and self._unsent else b""
        self._unsent -= len(piece)
        if self._unsent and not piece:
            message = f"{redacted(self._address.url)}: what was to be sent ended {self._unsent} bytes before its size"
            raise TransferError(message, hint="the file changed while it was sent: run again")
        return piece

    def _again(self, offset: int, origin: int) -> int:
        """Begin the body again: libcurl asks when a connection it kept turns out to be closed."""
        if (offset, origin) != (0, 0):
            return pycurl.SEEKFUNC_CANTSEEK
        self._rewind()
        return pycurl.SEEKFUNC_OK

    def _taken(self, chunk: bytes, count: int | None) -> int | None:
        if count not in {None, len(chunk)} and not self._enough:
            raise TransferError(f"{redacted(self._address.url)}: the receiver took {count} of {len(chunk)} bytes", hint="report this")
        return count

    def _moment(self, *_counts: int) -> int:
        try:
            self._end_if_cancelled()
        except TransferError as error:
            self._error = self._error or error
        return int(self._error is not None)

    def _end_if_cancelled(self) -> None:
        if self._request.cancelled():
            raise TransferError(f"{redacted(self._address.url)}: cancelled", hint="run again to go on")

    def _opened(self) -> Sink:
        """Judge the header of the final answer and return where its body goes."""
        if not self._request.wants(self._status):
            self._room = MAX_ERROR_BODY
            return self._keep_some
        if self._request.stream:
            response = self._response()
            self._length = None if response.header("transfer-encoding") else response.number("content-length")
            return self._request.stream(response)
        self._room = self._request.limit
        coding = self._response().header("content-encoding") or "identity"
        if self._request.method != "HEAD" and coding.lower() != "identity":
            raise TransferError(f"{redacted(self._address.url)}: the answer is compressed, which was not asked for", hint="check the proxy")
        return self._keep_all

    def _keep_all(self, chunk: bytes) -> None:
        self._room -= len(chunk)
        if self._room < 0:
            raise TransferError(f"{redacted(self._address.url)}: answer larger than {self._request.limit} bytes", hint="check the address")
        self._kept.append(chunk)

    def _keep_some(self, chunk: bytes) -> int | None:
        self._kept.append(chunk[: self._room])
        self._room -= len(chunk)
        self._enough = self._room < 0
        return -1 if self._enough else None


def _reason(error: pycurl.error) -> tuple[int, str]:
    code, text = (*error.args, 0, "")[:2]
    return int(code), str(text)


def _text(raw: bytes) -> str:
    try:
        return raw.decode().strip()
    except UnicodeDecodeError:
        return raw.decode("latin-1").strip()
