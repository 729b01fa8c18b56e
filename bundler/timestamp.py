"""Have timestamp authorities state when a signature was made (RFC 3161), so that a certificate that has expired since still counts.

Rules: what an authority answers is kept only if it was granted and is over exactly what was asked, with the nonce of the question; with a
policy, only if one of the authorities that the policy names made it. Where one does not answer, nothing is signed: never silently less.
Only a hash of the signature leaves this machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from rfc3161_client import HashAlgorithm, PKIStatus, TimeStampRequest, TimestampRequestBuilder, TimeStampResponse, decode_timestamp_response

from airgap_images.remote.http import Client, redacted
from audit.signers import Hint, Signer
from audit.verify import timestamps
from manifests.errors import NetworkError, TrustError, UsageError
from manifests.paths import printable
from manifests.policy import Policy
from manifests.statement import MAX_TIMESTAMPS, Envelope, SignerKind

MAX_ANSWER = 64 << 10  # bytes; with the authority's chain in it, some 6 KB are usual
CERTIFICATES = 0xA0  # tag of the certificates in CMS SignedData
SHOWN = 200  # characters of what an authority says
HEADERS = ("Content-Type: application/timestamp-query", "Accept: application/timestamp-reply")  # RFC 3161, section 3.4
AGAIN = "nothing was written: try again, name another authority, or sign without --timestamp"


@dataclass(frozen=True, slots=True)
class Stamped:
    """A signer whose every signature is shown to the authorities at ``urls``; with ``policy`` their answers must count under it."""

    signer: Signer
    urls: tuple[str, ...]
    client: Client
    policy: Policy | None = None

    @property
    def name(self) -> str:
        """Return the name to give the signature file."""
        return self.signer.name

    @property
    def kind(self) -> SignerKind:
        """Return the kind of signature made."""
        return self.signer.kind

    def envelope(self, payload: bytes, hint: Hint | None = None) -> Envelope:
        """Return a verified signature over ``payload`` with a timestamp of every authority.

        Raises NetworkError where one does not answer as asked, TrustError where its answer would not count under the policy.
        """
        made = self.signer.envelope(payload, hint)
        return replace(made, timestamps=tuple(self._stamp(url, made.signature) for url in self.urls))

    def made(self, envelope: Envelope) -> bool:
        """Say whether ``envelope`` is this signer's; raises UsageError if it is and has no timestamp, which cannot be added later."""
        own = self.signer.made(envelope)
        if own and not envelope.timestamps:
            hint = "remove your own file in `signatures/`, then sign again; or leave --timestamp out"
            raise UsageError(f"{self.name} has signed already, without a timestamp", hint=hint)
        return own

    def named(self, name: str) -> Stamped:
        """Return the same signer under another name."""
        return replace(self, signer=self.signer.named(name))

    def _stamp(self, url: str, signature: bytes) -> bytes:
        asked = TimestampRequestBuilder(signature, HashAlgorithm.SHA512).build()
        answer = _ordered(self.client.send("POST", url, body=asked.as_bytes(), limit=MAX_ANSWER, headers=HEADERS).body)
        wrong = _wrong(asked, answer)
        if wrong:
            raise NetworkError(f"{redacted(url)}: {wrong}", hint=AGAIN)
        if self.policy:
            time, notes = timestamps.earliest(self.policy.timestamp_authorities, (answer,), signature)
            if time is None:
                hint = "ask an authority that the policy names, or have it named: `airgap-bundle policy add-authority`"
                raise TrustError(f"{redacted(url)}: the signature {notes[0]}", hint=hint)
        return answer


def stamped(signer: Signer, urls: tuple[str, ...], client: Client, policy: Policy | None = None) -> Stamped:
    """Return ``signer`` with timestamps; raises UsageError for a keyless one, which has its instance's, or for too many authorities."""
    if signer.kind == "sigstore":
        raise UsageError("--timestamp: a keyless signature has the timestamps of its instance", hint="leave --timestamp out")
    if len(urls) > MAX_TIMESTAMPS:
        raise UsageError(f"--timestamp: {len(urls)} authorities, at most {MAX_TIMESTAMPS} fit into a signature file", hint="name fewer")
    return Stamped(signer, urls, client, policy)


def _wrong(asked: TimeStampRequest, answer: bytes) -> str:
    """Say why ``answer`` is not the timestamp that was asked for, empty if it is."""
    try:
        response = decode_timestamp_response(answer)
        if response.status != PKIStatus.GRANTED:
            return f"the authority states no time: {_refusal(response)}"
        stated = response.tst_info
        same = (stated.message_imprint.hash_algorithm, stated.message_imprint.message, stated.nonce)
    except (ValueError, TypeError):
        return "answered with something that is no timestamp (RFC 3161)"
    if same != (asked.message_imprint.hash_algorithm, asked.message_imprint.message, asked.nonce):
        return "answered with a timestamp of something else, or of an earlier question"
    return ""


def _ordered(answer: bytes) -> bytes:
    """Return ``answer`` with the certificates in it in the order of DER, which openssl does not keep and strict readers ask for.

    Nothing that is signed is touched (RFC 5652, section 5.1: ``[0]`` of SignedData); what is not of that form is returned as it is.
    """
    try:
        (response,) = _inside(answer, _Part(0, 0, 0, len(answer)))
        token = _inside(answer, response)[1]
        (data,) = _inside(answer, _inside(answer, token)[1])
        held = next(part for part in _inside(answer, data) if part.tag == CERTIFICATES)
        ordered = b"".join(sorted(answer[part.start : part.end] for part in _inside(answer, held)))
    except (IndexError, ValueError, StopIteration):
        return answer
    return answer[: held.body] + ordered + answer[held.end :]


class _Part(NamedTuple):
    """One value of DER: its tag, and where it, its body and its end are."""

    tag: int
    start: int
    body: int
    end: int


def _inside(data: bytes, whole: _Part) -> list[_Part]:
    """Return the values in the body of one; raises IndexError where that is not DER."""
    found: list[_Part] = []
    start = whole.body
    while start < whole.end:
        length, body = data[start + 1], start + 2
        if length & 0x80:
            length, body = int.from_bytes(data[body : body + (length & 0x7F)]), body + (length & 0x7F)
        found.append(_Part(data[start], start, body, body + length))
        start = body + length
    return found


def _refusal(response: TimeStampResponse) -> str:
    try:
        status = PKIStatus(response.status).name.lower().replace("_", " ")
    except ValueError:
        status = "an unknown status"
    return printable(" ".join((status, *response.status_string)), SHOWN)
