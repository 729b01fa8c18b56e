"""Docker Engine by the docker SDK: put an image from a store into it and compare what it then has, or take one out of it.

Rules: the image is streamed (``stream.hybrid``); an image gets its name only after the engine's ID of it has been compared;
what the engine had before is never removed.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from types import ModuleType
from typing import TYPE_CHECKING

from airgap_images.layout import CHUNK, Layout
from airgap_images.placing.stream import Image, hybrid
from airgap_images.platform import Platform
from airgap_images.reference import Reference
from airgap_images.targets import Cargo, Form, Placed, Progress
from manifests.errors import IntegrityError, SiteError, UsageError
from manifests.paths import printable

if TYPE_CHECKING:
    import docker

TIMEOUT = 3600  # seconds without a word from the engine; unpacking a layer of 20 GB takes that long on a slow disk
DOCKER_VARIABLES = ("DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY")
NO_SDK = "pip install 'airgap-bundler[docker]'"
NO_ENGINE = "start the engine, or set DOCKER_HOST to where it listens; this user must be allowed to use it"
MAX_CAUSES = 16  # errors looked through for the one of the operating system
_LOADED = re.compile(r"Loaded image(?: ID)?: (\S+)")

ClientFactory = Callable[[], "docker.DockerClient"]


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
    """Docker Engine. Run with 20.10 and its classic image store; the IDs of containerd's store are accepted, too.

    Of an image with several platforms it gets the one for ``platform``, the machine the engine runs on.
    """

    name = "docker"
    forms: frozenset[Form] = frozenset({"image"})
    notes: tuple[str, ...] = ()

    def __init__(self, client_factory: ClientFactory, platform: Platform) -> None:
        self._factory = client_factory
        self._platform = platform
        self._client: docker.DockerClient | None = None

    def version(self) -> str:
        """Return the engine's version; raises SiteError if none answers."""
        with _answering():
            return printable(str(self._connected.version().get("Version", "unknown")))

    def named(self, layout: Layout, cargo: Cargo) -> tuple[tuple[str, str | None], ...]:  # noqa: ARG002 - the names need no store
        """Return the names the image gets and the IDs they lead to now."""
        return tuple((name, self._id(name)) for name in _names(cargo))

    def load(self, layout: Layout, cargo: Cargo, progress: Progress | None = None) -> Placed:
        """Stream the image into the engine, compare its ID with the bundle's digests, and only then name it.

        An image the engine has is named and not sent again: what an engine stores is not read back. A name that another
        image bore moves to this one, as with any engine's pull.
        """
        names = _names(cargo)
        image = self._image(layout, cargo)
        found = self._find(image)
        placed = Placed(found or self._stream(hybrid(layout, image, progress), image), names, before=found is not None)
        for name in names:
            if self._id(name) != placed.id:
                self._tag(placed.id, name)
            if self._id(name) != placed.id:
                hint = "does another program use this engine? run again"
                raise SiteError(f"{name} is not {placed.id} right after the engine named it so", hint=hint)
        return placed

    def present(self, layout: Layout, cargo: Cargo) -> Placed | None:
        """Return the image as the engine has it, with all its names."""
        found = self._find(self._image(layout, cargo))
        return None if found is None else Placed(found, self._tags(found))

    def remove(self, placed: Placed) -> None:
        """Take away the names, and the image unless it has others; raises SiteError while a container uses it.

        The last name of an image that was there ``before`` stays, with a SiteError: the engine would remove the image with it.
        """
        ours = tuple(name for name in placed.tags if self._id(name) == placed.id)
        there = self._id(placed.id) == placed.id
        if there and ours and placed.before and not self._others(placed.id, placed.tags):
            hint = "give the image another name, then run again"
            raise SiteError(f"{', '.join(ours)}: the last name of an image that was in the engine before", hint=hint)
        for name in ours:
            self._discard(name)
        if not placed.before and self._id(placed.id) == placed.id and not self._others(placed.id, placed.tags):
            self._discard(placed.id)

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

    def _image(self, layout: Layout, cargo: Cargo) -> Image:
        return Image.read(layout, cargo.root, self._platform)

    def _find(self, image: Image) -> str | None:
        return next((known for known in _ids(image) if self._id(known) == known), None)

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

    def _others(self, image_id: str, ours: tuple[str, ...]) -> set[str]:
        """Return the names besides ``ours``: tags, and digests in repositories where no name of ours stands."""
        with _answering():
            attributes = self._connected.images.get(image_id).attrs
        repositories = {name.rpartition(":")[0] for name in ours}
        digests = {Reference.parse(name).name for name in attributes.get("RepoDigests") or ()}
        return (set(self._tags(image_id)) - set(ours)) | {name for name in digests if name.partition("@")[0] not in repositories}

    def _tag(self, image_id: str, reference: str) -> None:
        repository, _, tag = reference.rpartition(":")
        with _answering():
            self._connected.images.get(image_id).tag(repository, tag)

    def _discard(self, name: str) -> None:
        with _answering():
            self._connected.images.remove(name, noprune=True)  # what an image was built on is not ours to remove

    def _stream(self, archive: Iterator[bytes], image: Image) -> str:
        """Send an archive of ``image`` and return its ID; raises, with what the engine made of it removed, if that is another."""
        with _answering():
            there = {known.id for known in self._connected.images.list(all=True)}
            answer = self._connected.api.load_image(archive)  # type: ignore[no-untyped-call]
            found = self._id(_loaded(answer))
        if found in _ids(image):
            return str(found)
        if found is not None and found not in there:
            self._discard(found)
        message = f"the engine made {printable(str(found))} of the image, expected {' or '.join(_ids(image))}"
        raise IntegrityError(message, hint="distrust this engine: it changed the image, which was not kept")


class DockerSource:
    """A Docker Engine that images are taken from."""

    def __init__(self, client_factory: ClientFactory) -> None:
        self._client = client_factory()

    def id(self, name: str) -> str:
        """Return the engine's ID of the image ``name``; raises UsageError if it has none of that name."""
        errors = _sdk().errors
        with _answering():
            try:
                return str(self._client.images.get(name).id)
            except errors.ImageNotFound:
                message = f"the engine has no image {printable(name)!r}"
                raise UsageError(message, hint="`docker images` lists what it has; DOCKER_HOST says which engine is asked") from None

    def archive(self, image_id: str) -> Iterator[bytes]:
        """Yield the archive of an image as `docker save` writes it."""
        with _answering():
            yield from self._client.api.get_image(image_id, CHUNK)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


def _names(cargo: Cargo) -> tuple[str, ...]:
    return tuple(sorted({Reference.parse(reference).local for reference in cargo.references}))


def _ids(image: Image) -> tuple[str, str]:
    """Return what an engine calls it: the config's digest (classic store), the manifest's (containerd's)."""
    return str(image.config), str(image.root.digest)


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
        raise SiteError(f"no engine answers: {_said(_cause(error))}", hint=NO_ENGINE) from None


def _cause(error: BaseException) -> object:
    """Return what the operating system said, if that is at the bottom of an SDK's error, else the error itself."""
    found: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if found is None:
            break
        if type(found).__module__ == "builtins" and isinstance(found, OSError) and found.strerror:
            return found.strerror
        inside = next((part for part in found.args if isinstance(part, BaseException)), None)
        found = inside or found.__cause__ or found.__context__
    return error


def _said(error: object) -> str:
    return printable(" ".join(str(error).split()))


def _hint(status: int | None) -> str:
    return "stop and remove the containers that use it, then run again" if status == HTTPStatus.CONFLICT else "see the engine's log"
