"""Kind ``url``: one file from an HTTP server.

With a sha256 in the intent nothing is downloaded while locking. Without one, the digest of the first download is
recorded, said to be vouched for by nobody, and kept by every later lock of the same URL.
"""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from pydantic import Field

from airgap_images.oci import MAX_BLOB
from airgap_images.remote.http import Client, Credentials, NoCredentials
from airgap_images.remote.registries import Registries
from bundler.fetch import Silent, fetch_unpinned
from bundler.sources import Context
from manifests.errors import InvalidFileError, NetworkError
from manifests.lock import Frozen, LockedComponent, Pin, Sha256
from manifests.paths import check_relative, printable

STATED = "stated in the intent"
FIRST_USE = "recorded on first use"


class Options(Frozen):
    """What to fetch and what it must be."""

    url: str = Field(min_length=8, max_length=8192, pattern=r"^https?://", description="http or https address of one file")
    sha256: Sha256 | None = Field(default=None, description="digest the file must have; recorded on first use when absent")
    size: int | None = Field(default=None, ge=0, le=MAX_BLOB, description="bytes; asked from the server when absent")
    path: str | None = Field(default=None, description="path in the bundle; the URL's last segment when absent")


def resolve(name: str, role: str | None, options: Options, context: Context) -> LockedComponent:
    """Return a tree of the one file; raises InvalidFileError for an address or path that cannot be used."""
    url = _checked(name, options.url)
    path = check_relative(unquote(urlsplit(url).path.rsplit("/", 1)[-1]) if options.path is None else options.path, f"{name}: path")
    size, sha256, claim = _pinned(name, url, options, context)
    pin = Pin(path=path, url=url, size=size, sha256=sha256, evidence={"sha256": claim})
    return LockedComponent(name=name, kind="url", form="tree", role=role, identity={"url": url, "sha256": sha256}, files=(pin,))


def credentials(_client: Client, _registries: Registries) -> Credentials:
    """Return no credentials beyond what the client itself takes from the host's own files."""
    return NoCredentials()


def _checked(name: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable, parts = False, urlsplit("")
    if not usable or any(not c.isprintable() or c.isspace() for c in url):
        raise InvalidFileError(f"{name}: url {printable(url)!r} is not a usable address", hint="write it as https://host/path")
    if "@" in parts.netloc:
        raise InvalidFileError(f"{name}: url carries a user name or password", hint="put it into ~/.netrc; the lock is read by many")
    return parts._replace(fragment="").geturl()


def _pinned(name: str, url: str, options: Options, context: Context) -> tuple[int, str, str]:
    old = next((pin for pin in (context.previous.files if context.previous else ()) if pin.url == url), None)
    if options.sha256:
        if options.size is not None:
            return options.size, options.sha256, STATED
        known = old.size if old and old.sha256 == options.sha256 else None
        return (_size(name, url, context) if known is None else known), options.sha256, STATED
    if old and options.size in {None, old.size} and old.evidence.get("sha256") == FIRST_USE:
        return old.size, old.sha256, FIRST_USE
    digest, size = fetch_unpinned(context.client, url, context.cache, credentials=NoCredentials(), label=name, watch=Silent())
    if options.size not in {None, size}:
        message = f"{name}: the server sent {size} bytes, `size` says {options.size}"
        raise InvalidFileError(message, hint="correct `size`, or distrust the file")
    context.warn(f"{name}: no sha256 given; recorded {digest} on first use, nobody vouches for it")
    return size, digest.hex, FIRST_USE


def _size(name: str, url: str, context: Context) -> int:
    text = context.client.head(url, limit=0).header("content-length")
    if text is None or not text.isascii() or not text.isdigit() or int(text[:20]) > MAX_BLOB:
        raise NetworkError(f"{name}: the server does not say how large the file is", hint="add `size:` (bytes) to the component")
    return int(text)
