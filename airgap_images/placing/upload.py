"""Writing to registries (OCI distribution-spec 1.1, "push"): blobs, manifests, tags, and taking them away.

Rules: what is there is not sent again; a blob that stops goes on where the registry says it stopped, or begins again; an
address the registry names for an upload must be on the registry's own origin, so that no login goes elsewhere; memory is
that of one buffer a connection. A blob counts as placed when the registry, which hashes it, has taken it.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, urljoin

from airgap_images.layout import Layout
from airgap_images.oci import MAX_MANIFEST, Digest
from airgap_images.placing.refusal import NOT_ALLOWED, codes, refusal
from airgap_images.reference import Reference
from airgap_images.remote.http import Client
from airgap_images.remote.registry import ACCEPT, RegistryCredentials, manifest_url
from airgap_images.remote.web import Address, Credentials, HttpError, Response, TransferError, Upload, redacted
from manifests import canonical
from manifests.errors import AirgapError, IntegrityError, InvalidFileError, NetworkError
from manifests.paths import printable

SMALL = 4 << 20  # bytes up to which a blob is sent in one request
STARTS = 3  # uploads begun for one blob before it is given up
STOPS = 8  # in a row without a byte between them, within one upload
MAX_ANSWER = 64 << 10  # bytes of an answer to a write; those in use are empty
MAX_TAG_LIST = 4 << 20  # bytes
NOT_FOUND = 404
CREATED = 201
LOST = frozenset({400, 404, 409, 416, 499})  # the registry no longer knows this upload, or knows another state of it
OCTETS = "Content-Type: application/octet-stream"

_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")

Sent = Callable[[int], None]


class StoppedError(AirgapError):
    """Another transfer failed, so that this one need not go on; never shown."""


class _Lost(Exception):  # noqa: N818 - not an error to anybody but `upload`
    """An upload that must begin again; ``error`` is why."""

    def __init__(self, error: HttpError | TransferError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob of a store on its way; ``stop`` ends it early, ``sent`` is told of bytes as they go."""

    layout: Layout
    digest: Digest
    size: int
    sent: Sent
    stop: threading.Event

    def body(self, start: int) -> Upload:
        """Return it from byte ``start`` on."""
        return Upload(self.size - start, lambda: _Reader(self, start))


class _Reader:
    """A blob as libcurl reads it."""

    def __init__(self, blob: Blob, start: int) -> None:
        self._blob = blob
        self._fd = blob.layout.open(blob.digest, blob.size)
        self._at = start

    def read(self, size: int, /) -> bytes:
        if self._blob.stop.is_set():
            raise StoppedError("another transfer failed", hint="")
        piece = os.pread(self._fd, size, self._at)
        self._at += len(piece)
        self._blob.sent(len(piece))
        return piece

    def close(self) -> None:
        os.close(self._fd)


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes to repositories of registries. Safe to use from several threads."""

    client: Client
    credentials: Credentials

    def has(self, ref: Reference, digest: Digest, size: int) -> bool:
        """Say whether the repository has a blob; raises IntegrityError if it has another size there."""
        try:
            response = self.client.head(f"{ref.base}/blobs/{digest}", credentials=self.credentials)
        except HttpError as error:
            if error.status == NOT_FOUND:
                return False
            raise refusal(error, ref, self.credentials) from None
        length = response.number("content-length")
        if length is not None and length != size:
            message = f"{ref.registry}/{ref.repository}: the registry has {length} bytes as blob {digest}, expected {size}"
            raise IntegrityError(message, hint="its storage is damaged: have its owner remove that blob, then run again")
        return True

    def mount(self, ref: Reference, digest: Digest, source: str) -> bool:
        """Ask for a blob that the registry holds in repository ``source``; say whether it is here now."""
        url = f"{ref.base}/blobs/uploads/?mount={digest}&from={quote(source, safe='')}"
        access = self.credentials
        if isinstance(access, RegistryCredentials):
            access = access.mounting(Reference(ref.registry, source, None, None))
        try:
            response = self.client.send("POST", url, limit=MAX_ANSWER, credentials=access)
        except NetworkError as error:
            if isinstance(error, TransferError) or (isinstance(error, HttpError) and error.retryable):
                raise
            return False  # the registry does not mount, or this login may not read there, or gets no token that says so
        if response.status != CREATED:
            self._abandon(ref, response)
        return response.status == CREATED

    def upload(self, ref: Reference, blob: Blob) -> None:
        """Send a blob; raises NetworkError if the registry does not take it, IntegrityError if the store's copy is damaged."""
        starts = 0
        while True:
            try:
                return self._upload(ref, blob)
            except _Lost as lost:
                starts, error = starts + 1, lost.error
            if self.has(ref, blob.digest, blob.size):
                return None  # taken, and only the answer was lost
            if starts == STARTS:
                break
            blob.stop.wait(self.client.retry.pause(starts, error) or 0)
        blob.layout.check(blob.digest, blob.size)
        raise refusal(error, ref, self.credentials) if isinstance(error, HttpError) else error

    def put(self, ref: Reference, raw: bytes, media_type: str) -> Response:
        """Write a manifest or an index under the tag or digest of ``ref``."""
        url, headers = manifest_url(ref), (f"Content-Type: {media_type}",)
        try:
            return self.client.send("PUT", url, body=raw, limit=MAX_ANSWER, headers=headers, credentials=self.credentials, redirects=False)
        except HttpError as error:
            raise refusal(error, ref, self.credentials) from None

    def digest(self, ref: Reference) -> Digest | None:
        """Return what ``ref`` leads to, None if there is no such name."""
        try:
            response = self.client.head(manifest_url(ref), headers=(ACCEPT,), credentials=self.credentials)
            if said := response.header("docker-content-digest"):
                return Digest.parse(said)
            response = self.client.get(manifest_url(ref), limit=MAX_MANIFEST, headers=(ACCEPT,), credentials=self.credentials)
        except HttpError as error:
            if error.status == NOT_FOUND:
                return None
            raise refusal(error, ref, self.credentials) from None
        return Digest.of(response.body)

    def delete(self, ref: Reference) -> str | None:
        """Take away a tag or manifest; return None when it is gone, else the registry's reason for keeping it."""
        try:
            self.client.send("DELETE", manifest_url(ref), limit=MAX_ANSWER, credentials=self.credentials, redirects=False)
        except HttpError as error:
            if error.status == NOT_FOUND and self.digest(ref) is None:
                return None
            if error.status in NOT_ALLOWED or error.retryable:
                raise refusal(error, ref, self.credentials) from None
            return f"the registry answered {error.status} {codes(error)}".rstrip()
        return None

    def tags(self, ref: Reference, most: int) -> tuple[str, ...] | None:
        """Return the tags of a repository, None if there are more than ``most``."""
        url = f"{ref.base}/tags/list?n={most + 1}"
        try:
            response = self.client.get(url, limit=MAX_TAG_LIST, credentials=self.credentials)
        except HttpError as error:
            if error.status == NOT_FOUND:
                return ()
            raise refusal(error, ref, self.credentials) from None
        try:
            value = canonical.parse(response.body, redacted(url), limit=MAX_TAG_LIST)
        except InvalidFileError as error:
            raise NetworkError(error.message, hint="the registry is broken or is none") from None
        found = value.get("tags") if isinstance(value, dict) else None
        tags = tuple(tag for tag in found or () if isinstance(tag, str)) if isinstance(found, list) else ()
        more = "link" in dict(response.headers)  # the next page, whatever its address
        return None if more or len(tags) > most else tags

    def _upload(self, ref: Reference, blob: Blob) -> None:
        """Send a blob in one upload; raises _Lost if it must begin again."""
        at = self._begin(ref)
        if blob.size > SMALL:
            at = self._pieces(ref, blob, at)
        body = blob.body(0) if blob.size <= SMALL else b""
        url = f"{at.url}{'&' if '?' in at.target else '?'}digest={quote(str(blob.digest), safe='')}"
        try:
            self._send("PUT", url, body, again=blob.size > SMALL)
        except (HttpError, TransferError) as error:
            raise self._judged(error, ref) from None

    def _begin(self, ref: Reference) -> Address:
        try:
            response = self.client.send("POST", f"{ref.base}/blobs/uploads/", limit=MAX_ANSWER, credentials=self.credentials)
        except HttpError as error:
            raise refusal(error, ref, self.credentials) from None
        return _location(ref, response)

    def _pieces(self, ref: Reference, blob: Blob, at: Address) -> Address:
        """Send a large blob, going on where the registry says that it stopped; return where to finish it."""
        done, stops = 0, 0
        while done < blob.size:
            # Without a range the first time, as docker and podman do: not every registry can read one.
            headers = (OCTETS, f"Content-Range: {done}-{blob.size - 1}") if done else (OCTETS,)
            before = done
            try:
                response = self._send("PATCH", at.url, blob.body(done), headers)
                at, done = _location(ref, response, at), _received(response) or blob.size
                stops = stops + 1 if done <= before else 0
            except (HttpError, TransferError) as error:
                at, done = self._resumed(ref, at, error)
                stops = stops + 1 if done <= before else 1
                blob.stop.wait(self.client.retry.pause(stops, error) or 0)
            if stops > STOPS:
                message = f"{ref}: blob {blob.digest} stopped {stops} times at byte {done} of {blob.size}"
                raise NetworkError(message, hint="check the network and what stands before the registry, then run again")
        return at

    def _resumed(self, ref: Reference, at: Address, error: HttpError | TransferError) -> tuple[Address, int]:
        """Ask how far an upload came; raises _Lost if it is of no use any more."""
        judged = self._judged(error, ref)
        if not isinstance(judged, _Lost):
            raise judged
        try:
            response = self.client.get(at.url, limit=MAX_ANSWER, credentials=self.credentials)
        except HttpError:
            raise judged from None
        return _location(ref, response, at), _received(response)

    def _judged(self, error: HttpError | TransferError, ref: Reference) -> Exception:
        """Return what a failure within an upload means: begin again, or the reason to stop."""
        if isinstance(error, HttpError) and not error.retryable and error.status not in LOST:
            return refusal(error, ref, self.credentials)
        return _Lost(error)

    def _send(
        self, method: str, url: str, body: bytes | Upload, headers: tuple[str, ...] = (OCTETS,), *, again: bool = False
    ) -> Response:
        """Send a part of an upload, once: after a failure the registry is asked first how far it came."""
        return self.client.send(
            method, url, body=body, limit=MAX_ANSWER, headers=headers, credentials=self.credentials, redirects=False, again=again
        )

    def _abandon(self, ref: Reference, response: Response) -> None:
        """Tell the registry that an upload it began will not come; what it says to that does not matter."""
        try:
            at = _location(ref, response)
            self.client.send("DELETE", at.url, limit=MAX_ANSWER, credentials=self.credentials, redirects=False)
        except NetworkError:
            return


def _location(ref: Reference, response: Response, known: Address | None = None) -> Address:
    """Return where an upload goes on; raises NetworkError if that is not on the registry's own origin."""
    location = response.header("location")
    if location is None and known:
        return known
    try:
        found = Address.parse(urljoin(response.url, location or ""))
    except (InvalidFileError, ValueError):
        found = None
    own = Address.parse(ref.base).origin
    if not location or found is None or found.origin != own:
        shown = redacted(found.url) if found else repr(printable(location or "nothing"))
        raise NetworkError(
            f"{ref.registry}: sends the upload to {shown}, which is not on {own}; nothing is sent there",
            hint="if a proxy stands before the registry, have it pass Host and X-Forwarded-Proto, or set the registry's own address",
        )
    return found


def _received(response: Response) -> int:
    """Return how many bytes of an upload the registry says it has, 0 if it does not say."""
    found = _RANGE.fullmatch((response.header("range") or "").strip())
    return int(found[1]) + 1 if found and found[1] != "0" else 0
