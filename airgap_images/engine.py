"""Container engines on the isolated side: put an image from a store into one, and compare what it then has with the bundle.

Rules: the image is streamed from the store with no temporary copy; each blob is hashed as it passes, and its last bytes
and the documents that name it follow only once they are known to be right, so an engine never has a whole archive with a
wrong byte in it. Nothing is converted. An image gets its name only after the engine's ID of it has been compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from io import RawIOBase
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, Self

from airgap_images.layout import CHUNK, OCI_LAYOUT, Layout, Progress, mismatch
from airgap_images.oci import IMAGE_INDEX, MAX_MANIFEST, Descriptor, Digest, Index, Manifest, parse_document
from airgap_images.reference import Reference
from manifests import canonical
from manifests.errors import IntegrityError, SiteError
from manifests.paths import printable

if TYPE_CHECKING:
    import docker

TIMEOUT = 3600  # seconds without a word from the engine; unpacking a layer of 20 GB takes that long on a slow disk
DOCKER_VARIABLES = ("DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY")
NO_SDK = "pip install 'airgap-bundler[docker]'"
NO_ENGINE = "start the engine, or set DOCKER_HOST to where it listens; this user must be allowed to use it"
_LOADED = re.compile(r"Loaded image(?: ID)?: (\S+)")

ClientFactory = Callable[[], "docker.DockerClient"]


class Held(Protocol):
    """An image an engine holds: the engine's own ID of it, and the names it answers to."""

    @property
    def id(self) -> str:
        """Return the ID."""

    @property
    def tags(self) -> tuple[str, ...]:
        """Return the names, canonical (``docker.io/library/busybox:1.36``) and sorted."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image in a store: its manifest, and the descriptor of that."""

    root: Descriptor
    manifest: Manifest

    @classmethod
    def read(cls, layout: Layout, root: Descriptor) -> Self:
        """Read the manifest ``root`` names, or the only one of the index it names; raises IntegrityError on any other."""
        document = parse_document(root, layout.read(root, MAX_MANIFEST))
        if isinstance(document, Index) and len(document.manifests) == 1:
            root = document.manifests[0]
            document = parse_document(root, layout.read(root, MAX_MANIFEST))
        if not isinstance(document, Manifest):
            raise IntegrityError(f"{_path(root.digest)}: not an image for one platform", hint="build the bundle again")
        return cls(root, document)

    @property
    def ids(self) -> tuple[str, str]:
        """Return what an engine calls it: the config's digest (classic store), the manifest's (containerd's)."""
        return str(self.manifest.config.digest), str(self.root.digest)


@dataclass(frozen=True, slots=True)
class Placed:
    """An image in an engine. ``before``: it was there already when it was to be loaded, whatever its names."""

    id: str
    tags: tuple[str, ...]
    before: bool = True


def docker_client(environment: Mapping[str, str], timeout: int = TIMEOUT) -> ClientFactory:
    """Return what connects to the engine that ``environment`` names (DOCKER_HOST and its like), else to this machine's.

    The factory raises SiteError with the next step if the docker package is missing or no engine answers.
    """

    def connect() -> docker.DockerClient:
        sdk = _sdk()
        with _answering():
            # Named one by one: the SDK reads the process's own environment when it is given an empty one.
            named = {key: environment.get(key, "") for key in DOCKER_VARIABLES}
            client: docker.DockerClient = sdk.from_env(environment=named, timeout=timeout)
            return client

    return connect


class DockerEngine:
    """Docker Engine by the docker SDK. Run with 20.10 and its classic image store; the IDs of containerd's store are accepted, too."""

    name = "docker"

    def __init__(self, client_factory: ClientFactory) -> None:
        self._factory = client_factory
        self._client: docker.DockerClient | None = None

    def version(self) -> str:
        """Return the engine's version; raises SiteError if none answers."""
        with _answering():
            return printable(str(self._connected.version().get("Version", "unknown")))

    def load(self, layout: Layout, root: Descriptor, tags: tuple[str, ...], progress: Progress | None = None) -> Placed:
        """Stream the image into the engine, compare its ID with the bundle's digests, and only then name it.

        An image the engine has is named and not sent again: what an engine stores is not read back. A name that another
        image bore moves to this one, as with any engine's pull.
        """
        names = tuple(sorted(Reference.parse(tag).local for tag in tags))
        image = Image.read(layout, root)
        found = self._find(image)
        placed = Placed(found or self._stream(hybrid(layout, image, progress), image), names, before=found is not None)
        for name in names:
            if self._id(name) != placed.id:
                self._tag(placed.id, name)
            if self._id(name) != placed.id:
                hint = "does another program use this engine? run again"
                raise SiteError(f"{name} is not {placed.id} right after the engine named it so", hint=hint)
        return placed

    def present(self, layout: Layout, root: Descriptor) -> Placed | None:
        """Return the image as the engine has it, with all its names."""
        found = self._find(Image.read(layout, root))
        return None if found is None else Placed(found, self._tags(found))

    def remove(self, image: Held) -> None:
        """Take away the names, and the image unless it has others; raises SiteError while a container uses it."""
        for name in image.tags:
            if self._id(name) == image.id:
                self._discard(name)
        if self._id(image.id) == image.id and not self._tags(image.id):
            self._discard(image.id)

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def _connected(self) -> docker.DockerClient:
        if self._client is None:
            self._client = self._factory()
        return self._client

    def _find(self, image: Image) -> str | None:
        return next((known for known in image.ids if self._id(known) == known), None)

    def _id(self, name: str) -> str | None:
        errors = _sdk().errors
        with _answering():
            try:
                return str(self._connected.images.get(name).id)
            except errors.ImageNotFound:
                return None

    def _tags(self, image_id: str) -> tuple[str, ...]:
        with _answering():
            tags = self._connected.images.get(image_id).tags
        return tuple(sorted(Reference.parse(tag).name for tag in tags))

    def _tag(self, image_id: str, reference: str) -> None:
        repository, _, tag = reference.rpartition(":")
        with _answering():
            self._connected.images.get(image_id).tag(repository, tag)

    def _discard(self, name: str) -> None:
        with _answering():
            self._connected.images.remove(name)

    def _stream(self, archive: Iterator[bytes], image: Image) -> str:
        """Send an archive of ``image`` and return its ID; raises, with what the engine made of it removed, if that is another."""
        with _answering():
            there = {known.id for known in self._connected.images.list(all=True)}
            answer = self._connected.api.load_image(archive)  # type: ignore[no-untyped-call]
            found = self._id(_loaded(answer))
        if found in image.ids:
            return str(found)
        if found is not None and found not in there:
            self._discard(found)
        message = f"the engine made {printable(str(found))} of the image, expected {' or '.join(image.ids)}"
        raise IntegrityError(message, hint="distrust this engine: it changed the image, which was not kept")


def hybrid(layout: Layout, image: Image, progress: Progress | None = None) -> Iterator[bytes]:
    """Yield a tar archive that is an OCI layout and a `docker load` archive at once; the image in it has no name.

    Engines too old for layouts read ``manifest.json``. The documents come last: a stream cut short holds no image.
    Raises IntegrityError, ending the stream, when a blob is not what its digest says.
    """
    # An empty part would be the last chunk of a chunked request.
    return filter(None, _parts(layout, image, progress))


def _parts(layout: Layout, image: Image, progress: Progress | None) -> Iterator[bytes]:
    yield from _entry("oci-layout", OCI_LAYOUT)
    manifest = image.manifest
    blobs = {part.digest: part.size for part in (*manifest.layers, manifest.config, image.root)}
    for digest, size in blobs.items():
        yield _header(_path(digest), size)
        yield from _blob(layout, digest, size, progress)
        yield bytes(-size % tarfile.BLOCKSIZE)
    yield from _entry("index.json", _index(image.root))
    legacy = [{"Config": _path(manifest.config.digest), "RepoTags": None, "Layers": [_path(layer.digest) for layer in manifest.layers]}]
    yield from _entry("manifest.json", canonical.compact(legacy))
    yield bytes(2 * tarfile.BLOCKSIZE)


def _entry(name: str, data: bytes) -> Iterator[bytes]:
    yield _header(name, len(data))
    yield data
    yield bytes(-len(data) % tarfile.BLOCKSIZE)


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o444
    return entry.tobuf(tarfile.GNU_FORMAT)  # which has room for sizes above 8 GiB


def _blob(layout: Layout, digest: Digest, size: int, progress: Progress | None) -> Iterator[bytes]:
    """Yield a blob's bytes, the last of them only when all are known to be right."""
    hasher, held, left = hashlib.sha256(), b"", size
    with os.fdopen(layout.open(digest, size), "rb", buffering=0) as file:
        while left and (chunk := _read(file, min(CHUNK, left), digest)):
            hasher.update(chunk)
            yield held
            held = chunk
            left -= len(chunk)
            if progress:
                progress(len(chunk))
    got = Digest(hasher.hexdigest())
    if left or got != digest:
        raise mismatch(_path(digest), digest, got)
    yield held


def _read(file: RawIOBase, count: int, digest: Digest) -> bytes:
    try:
        return file.read(count) or b""
    except OSError as error:  # an OSError of our own disk must not look like one of the engine's socket
        raise SiteError(f"{_path(digest)}: cannot read: {error.strerror}", hint="check the disk of the store") from None


def _index(root: Descriptor) -> bytes:
    plain = Descriptor(root.media_type, root.digest, root.size)
    return canonical.compact({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [plain.to_dict()]})


def _loaded(lines: Iterable[object]) -> str:
    """Return the image an engine says it loaded; raises SiteError for what it says instead."""
    said: list[str] = []
    for line in lines:
        if isinstance(line, dict) and "error" in line:
            hint = "see the engine's log; check its disk space, and that it reads the layers' compression"
            raise SiteError(f"the engine does not take the image: {_said(line['error'])}", hint=hint)
        said += _LOADED.findall(str(line.get("stream", ""))) if isinstance(line, dict) else ()
    if not said:
        raise SiteError("the engine took the image, but does not say what it loaded", hint="see the engine's log")
    return said[-1]


def _path(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def _sdk() -> ModuleType:
    try:
        return importlib.import_module("docker")
    except ImportError:
        raise SiteError("the docker package for Python is not installed", hint=NO_SDK) from None


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Turn what the docker SDK raises into a SiteError with the next step."""
    errors = _sdk().errors
    connection = importlib.import_module("requests").exceptions.RequestException
    try:
        yield
    except errors.APIError as error:
        raise SiteError(f"the engine refuses: {_said(error.explanation or error)}", hint=_hint(error.status_code)) from None
    except (errors.DockerException, connection) as error:
        raise SiteError(f"no engine answers: {_said(error)}", hint=NO_ENGINE) from None


def _said(error: object) -> str:
    return printable(" ".join(str(error).split()))


def _hint(status: int | None) -> str:
    return "stop and remove the containers that use it, then run again" if status == HTTPStatus.CONFLICT else "see the engine's log"
