"""Pulling from registries (OCI distribution-spec 1.1): manifests and small blobs, addresses of large ones.

Rules: nothing a registry says is believed: bytes asked for by digest must have it, every answer is bounded, a media type
must be the one inside the document. As whom it is asked: see ``authentication``. Mirrors are asked first; one that has
nothing, or cannot be reached, is passed over; one that sends wrong bytes ends it all, by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from airgap_images.oci import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    MAX_MANIFEST,
    Descriptor,
    Digest,
    Index,
    Manifest,
)
from airgap_images.reference import Reference, canonical_registry
from airgap_images.remote.authentication import RegistryCredentials
from airgap_images.remote.http import Client, Response
from airgap_images.remote.mirrors import Mirrors
from airgap_images.remote.web import Address, Credentials, HttpError
from manifests import canonical
from manifests.errors import IntegrityError, InvalidFileError, NetworkError
from manifests.paths import printable

__all__ = ["ACCEPT", "MAX_MANIFEST", "RegistryCredentials", "blob", "blob_url", "find", "manifest", "manifest_url"]

ACCEPT = f"Accept: {IMAGE_INDEX}, {IMAGE_MANIFEST}, {DOCKER_LIST}, {DOCKER_MANIFEST}"
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"
UNTYPED = frozenset({"", "application/json", "application/octet-stream", "text/plain"})  # say nothing of what a manifest is
NO_MIRRORS = Mirrors()
T = TypeVar("T")


def manifest(client: Client, credentials: Credentials, ref: Reference, *, mirrors: Mirrors = NO_MIRRORS) -> tuple[Descriptor, bytes]:
    """Return the manifest or index ``ref`` names, as descriptor and raw bytes.

    Raises IntegrityError if the bytes are not what was asked for or what they are said to be.
    """
    return _first(client, ref, mirrors, lambda asking, base: _manifest(asking, credentials, ref, base), credentials)


def find(
    client: Client, credentials: Credentials, ref: Reference, *, mirrors: Mirrors = NO_MIRRORS
) -> tuple[Descriptor, bytes] | None:
    """Return what ``manifest`` does, or None where the registry says that it has no such thing; its refusals are raised as they came."""
    try:
        return _first(client, ref, mirrors, lambda asking, base: _manifest(asking, credentials, ref, base))
    except HttpError as error:
        if error.status == 404:  # noqa: PLR2004
            return None
        raise


def blob(
    client: Client, credentials: Credentials, ref: Reference, descriptor: Descriptor, limit: int, *, mirrors: Mirrors = NO_MIRRORS
) -> bytes:
    """Return a small blob, verified; raises IntegrityError if it is larger than ``limit`` or not what ``descriptor`` says."""
    if descriptor.size > limit:
        raise _lie(f"{ref}: blob {descriptor.digest}: {descriptor.size} bytes, at most {limit} allowed here")
    by_digest = ref.at(descriptor.digest)  # so that mirrors of digests alone are asked
    return _first(client, by_digest, mirrors, lambda asking, base: _blob(asking, credentials, ref, descriptor, base), credentials)


def manifest_url(ref: Reference) -> str:
    """Return where the registry offers the manifest ``ref`` names."""
    return f"{ref.base}/manifests/{ref.selector}"


def blob_url(ref: Reference, digest: Digest) -> str:
    """Return where the registry offers the blob ``digest`` of this repository."""
    return f"{ref.base}/blobs/{digest}"


def _first(
    client: Client, ref: Reference, mirrors: Mirrors, ask: Callable[[Client, str], T], credentials: Credentials | None = None
) -> T:
    """Return the first answer there is: every mirror is asked once, the last address as often as it takes.

    With ``credentials`` a refusal of the last is put into words; without, it is raised as it came.
    """
    *others, last = mirrors.bases(ref)
    passed: list[str] = []
    for base in others:
        try:
            return ask(client.hasty(), base)
        except NetworkError as error:
            passed.append(error.message)
    try:
        return ask(client, last)
    except NetworkError as error:
        final = _refused(error, ref, credentials, last) if credentials and isinstance(error, HttpError) else error
        if passed:
            final.message += f" (mirrors before it: {'; '.join(passed)})"
        raise final from None


def _blob(client: Client, credentials: Credentials, ref: Reference, descriptor: Descriptor, base: str) -> bytes:
    what = f"{_named(ref, base)}: blob {descriptor.digest}"
    raw = client.get(f"{base}/blobs/{descriptor.digest}", limit=descriptor.size, credentials=credentials).body
    if len(raw) != descriptor.size:
        raise _lie(f"{what}: the registry sent {len(raw)} bytes, expected {descriptor.size}")
    if Digest.of(raw) != descriptor.digest:
        raise _lie(f"{what}: the registry sent other bytes, {Digest.of(raw)}")
    return raw


def _named(ref: Reference, base: str) -> str:
    """Return ``ref`` for a message, and who was asked for it if that is not its own registry."""
    return f"{ref}" if base == ref.base else f"{ref} at {Address.parse(base).origin}"


def _manifest(client: Client, credentials: Credentials, ref: Reference, base: str) -> tuple[Descriptor, bytes]:
    what = _named(ref, base)
    response = client.get(f"{base}/manifests/{ref.selector}", limit=MAX_MANIFEST, headers=(ACCEPT,), credentials=credentials)
    digest = Digest.of(response.body)
    if ref.digest is not None and digest != ref.digest:
        raise _lie(f"{what}: the registry sent other bytes, {digest}")
    claimed = response.header("docker-content-digest")
    if claimed and claimed.startswith("sha256:") and claimed != str(digest):
        raise _lie(f"{what}: the registry sent {digest} and says that is {printable(claimed)}")
    return Descriptor(_media_type(response, what), digest, len(response.body)), response.body


def _media_type(response: Response, what: str) -> str:
    """Return the media type of a manifest; header, document and structure must agree (CVE-2021-41190)."""
    said = (response.header("content-type") or "").partition(";")[0].strip().lower()
    if said.startswith(SCHEMA_1):
        raise NetworkError(f"{what}: an image of Docker's schema 1, which cannot be verified", hint="push it again with a current tool")
    value = _document(response.body, what)
    media_type = value.get("mediaType", IMAGE_INDEX if "manifests" in value else IMAGE_MANIFEST)
    if said not in {media_type, *UNTYPED}:
        raise _lie(f"{what}: the registry says media type {printable(said)!r}, the document {media_type!r}")
    return str(media_type)


def _document(raw: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object a registry sent, checked as a manifest or an index; raises IntegrityError if it is neither."""
    try:
        value = canonical.parse(raw, what, limit=MAX_MANIFEST)
        if isinstance(value, dict) and "manifests" in value:
            Index.parse(raw, what)
        else:
            Manifest.parse(raw, what)
    except InvalidFileError as error:
        raise _lie(error.message) from None
    return dict(value)


def _refused(error: HttpError, ref: Reference, credentials: Credentials, base: str) -> NetworkError:
    """Say what a registry's refusal means, and as whom it was asked."""
    if error.status not in {401, 403, 404}:
        return error
    host, _, repository = base.partition("://")[2].partition("/v2/")
    asked = canonical_registry(host)
    whom = f", asked {credentials.explain(asked, repository)}" if isinstance(credentials, RegistryCredentials) else ""
    if error.status == 404:  # noqa: PLR2004
        hint = "check the name and the tag; some registries say this, too, where there is no access"
        return NetworkError(f"{ref}: the registry has no such image{whom}", hint=hint)
    hint = f"`docker login {asked}`, or ask its owner for access"
    return NetworkError(f"{ref}: the registry answered {error.status}{whom}", hint=hint)


def _lie(message: str) -> IntegrityError:
    return IntegrityError(message, hint="distrust this registry, or what stands between it and you; then run again")
