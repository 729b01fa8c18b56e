"""A read-only registry as a function: a request in, an answer out (OCI distribution-spec 1.1, "pull" and "content discovery").

Rules: nothing is written, so every method but GET and HEAD is refused; a manifest is read and hashed anew for every answer, a
blob is named as a part of a file for whoever sends it, and its receiver checks it, as all clients do. No I/O but that reading.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from base64 import b64decode
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from airgap_images.oci import IMAGE_INDEX, MAX_MANIFEST, Descriptor, Digest
from airgap_images.serving.catalog import Catalog
from manifests import canonical
from manifests.errors import IntegrityError

JSON = "application/json"
BLOB = "application/octet-stream"
VERSION = ("Docker-Distribution-API-Version", "registry/2.0")
MAX_TARGET = 2048  # characters of path and query
MAX_PAGE = 10_000  # names in one list
CHALLENGE = 'Basic realm="airgap-audit", charset="UTF-8"'

_NAME = r"(?P<name>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"sha256:[0-9a-f]{64}"
_MANIFEST = re.compile(rf"/v2/{_NAME}/manifests/(?P<selector>{_DIGEST}|{_TAG})")
_BLOB = re.compile(rf"/v2/{_NAME}/blobs/(?P<digest>{_DIGEST})")
_REFERRERS = re.compile(rf"/v2/{_NAME}/referrers/(?P<digest>{_DIGEST})")
_TAGS = re.compile(rf"/v2/{_NAME}/tags/list")
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: ``target`` is path and query, header names are in lower case."""

    method: str
    target: str
    headers: Headers = field(default=(), repr=False)

    def header(self, name: str) -> str:
        """Return the header ``name``, empty if it is absent."""
        return next((value for key, value in self.headers if key == name), "")


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes ``start`` to ``stop`` of a blob of ``size`` bytes."""

    digest: Digest
    size: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; to a HEAD request everything but the body is sent."""

    status: int
    headers: Headers
    body: bytes | Part = b""


@dataclass(frozen=True, slots=True)
class Guard:
    """Admits whoever shows the token: as password of any user, or as bearer."""

    token: str = field(repr=False)

    def admits(self, asked: Asked) -> bool:
        """Say whether a request may be answered; how long that takes says nothing of the token."""
        scheme, _, said = asked.header("authorization").partition(" ")
        shown = {"bearer": said.strip(), "basic": _password(said)}.get(scheme.lower(), "")
        return hmac.compare_digest(_hashed(shown), _hashed(self.token)) and bool(shown)


def answer(catalog: Catalog, asked: Asked, guard: Guard | None = None) -> Answer:
    """Answer a request; raises IntegrityError if a manifest that is asked for is damaged."""
    if guard and not guard.admits(asked):
        return _error(401, "UNAUTHORIZED", "the token is needed, as password of any user", ("WWW-Authenticate", CHALLENGE))
    if asked.method not in {"GET", "HEAD"}:
        return _error(405, "UNSUPPORTED", "this registry is read-only", ("Allow", "GET, HEAD"))
    if len(asked.target) > MAX_TARGET:
        return _error(414, "UNSUPPORTED", "the address is too long")
    parts = urlsplit(asked.target)
    query = {key: values[-1] for key, values in parse_qs(parts.query, max_num_fields=16).items()}
    return _routed(catalog, asked, unquote(parts.path), query)


def damaged(error: IntegrityError) -> Answer:
    """Answer what cannot be answered because the store is damaged."""
    return _error(500, "UNKNOWN", error.message)


def _routed(catalog: Catalog, asked: Asked, path: str, query: dict[str, str]) -> Answer:
    if path in {"/v2", "/v2/"}:
        return _json({})
    if path == "/v2/_catalog":
        return _page(path, query, "repositories", catalog.repositories, {})
    for pattern, answered in ((_MANIFEST, _manifest), (_BLOB, _blob), (_REFERRERS, _referrers), (_TAGS, _tags)):
        if found := pattern.fullmatch(path):
            repository = catalog.repository(found["name"], query.get("ns"))
            if repository is None:
                return _error(404, "NAME_UNKNOWN", f"there is no repository {found['name']} here")
            return answered(catalog, asked, repository, found.groupdict() | {"path": path}, query)
    return _error(404, "UNSUPPORTED", "a registry has no such address")


def _manifest(catalog: Catalog, asked: Asked, repository: str, found: dict[str, str], _query: dict[str, str]) -> Answer:
    selector, tags = found["selector"], catalog.tags(repository)
    digest = Digest.parse(selector) if selector.startswith("sha256:") else tags.get(selector)
    if digest is None and selector in tags:
        message = f"{repository}:{selector} stands for images of more than one registry: put the registry's name before it"
        return _error(404, "MANIFEST_UNKNOWN", message)
    document = catalog.document(digest) if digest else None
    if document is None:
        return _error(404, "MANIFEST_UNKNOWN", f"there is no {repository} {selector} here")
    named = _named(document.digest)
    if _same(asked, document.digest):
        return Answer(304, named)
    raw = catalog.layout.read(Descriptor(document.media_type, document.digest, document.size), MAX_MANIFEST)
    return Answer(200, (("Content-Type", document.media_type), *named), raw)


def _blob(catalog: Catalog, asked: Asked, _repository: str, found: dict[str, str], _query: dict[str, str]) -> Answer:
    digest = Digest.parse(found["digest"])
    size = catalog.size(digest)
    if size is None:
        return _error(404, "BLOB_UNKNOWN", f"there is no blob {digest} here")
    headers = (("Content-Type", BLOB), ("Accept-Ranges", "bytes"), *_named(digest))
    if _same(asked, digest):
        return Answer(304, headers)
    tag = asked.header("if-range")
    wanted = _RANGE.fullmatch(asked.header("range").strip()) if tag in {"", f'"{digest}"'} else None
    if wanted is None or not any(wanted.groups()):
        return Answer(200, headers, Part(digest, size, 0, size))
    start, stop = _span(wanted[1], wanted[2], size)
    if start >= stop:
        return _error(416, "RANGE_INVALID", f"the blob has {size} bytes", ("Content-Range", f"bytes */{size}"))
    return Answer(206, (*headers, ("Content-Range", f"bytes {start}-{stop - 1}/{size}")), Part(digest, size, start, stop))


def _referrers(catalog: Catalog, _asked: Asked, _repository: str, found: dict[str, str], query: dict[str, str]) -> Answer:
    listed, wanted = catalog.referrers(Digest.parse(found["digest"])), query.get("artifactType")
    if wanted:
        listed = tuple(entry for entry in listed if entry.artifact_type == wanted)
    body = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [entry.to_dict() for entry in listed]}
    filtered = (("OCI-Filters-Applied", "artifactType"),) if wanted else ()
    return Answer(200, (("Content-Type", IMAGE_INDEX), VERSION, *filtered), canonical.compact(body))


def _tags(catalog: Catalog, _asked: Asked, repository: str, found: dict[str, str], query: dict[str, str]) -> Answer:
    tags = tuple(sorted(tag for tag, digest in catalog.tags(repository).items() if digest))
    return _page(found["path"], query, "tags", tags, {"name": found["name"]})


def _page(path: str, query: dict[str, str], key: str, names: tuple[str, ...], more: dict[str, Any]) -> Answer:
    """Return one page of a list; ``n`` and ``last`` choose it (distribution-spec, "listing tags")."""
    count = min(int(query["n"]) if re.fullmatch(r"[0-9]{1,9}", query.get("n", "")) else MAX_PAGE, MAX_PAGE)
    rest = tuple(name for name in names if name > query.get("last", ""))
    shown = rest[:count]
    following = (("Link", f'<{path}?{urlencode({"n": count, "last": shown[-1]})}>; rel="next"'),) if shown and len(rest) > count else ()
    return _json({**more, key: list(shown)}, *following)


def _span(first: str, last: str, size: int) -> tuple[int, int]:
    """Return where a range starts and stops; an empty one cannot be had."""
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def _named(digest: Digest) -> Headers:
    return (("Docker-Content-Digest", str(digest)), ("ETag", f'"{digest}"'), VERSION)


def _same(asked: Asked, digest: Digest) -> bool:
    return f'"{digest}"' in re.split(r"\s*,\s*", asked.header("if-none-match").strip())


def _json(value: dict[str, Any], *headers: tuple[str, str], status: int = 200) -> Answer:
    return Answer(status, (("Content-Type", JSON), VERSION, *headers), canonical.compact(value))


def _error(status: int, code: str, message: str, *headers: tuple[str, str]) -> Answer:
    return _json({"errors": [{"code": code, "message": message, "detail": None}]}, *headers, status=status)


def _password(said: str) -> str:
    try:
        return b64decode(said.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _hashed(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
