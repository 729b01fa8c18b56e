"""Docker: images go from a store into a real `dockerd`, unchanged, or not at all, and out again."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from parts import engine as engines
from parts import images
from parts.expect import refused
from parts.stored import AMD64, ARM64, CONFIG, NAME, cargo, damage, indexed, put_index, put_manifest, stored

from airgap_images.layout import Layout
from airgap_images.oci import Descriptor
from airgap_images.placing.docker_engine import DockerEngine, docker_client
from airgap_images.placing.stream import Image
from airgap_images.targets import Placed
from manifests.errors import IntegrityError, InvalidFileError, SiteError


@pytest.fixture(scope="module")
def running() -> Iterator[engines.Running]:
    with engines.engine() as started:
        yield started


@pytest.fixture
def docker(running: engines.Running) -> Iterator[DockerEngine]:
    engine = DockerEngine(docker_client(running.environment), AMD64)
    yield engine
    engine.close()
    for image in running.images():
        running.docker("rmi", "--force", image)
    assert running.images() == set()


@pytest.fixture
def store(tmp_path: Path) -> Layout:
    return Layout.create(tmp_path / "store")


# --- into the engine


@pytest.mark.parts
@pytest.mark.parametrize("dockers", [False, True], ids=["oci", "schema2"])
def test_an_image_goes_in_unchanged_and_runs(running: engines.Running, docker: DockerEngine, store: Layout, dockers: bool) -> None:
    root = stored(store, dockers=dockers)
    seen: list[int] = []
    assert docker.present(store, cargo(root)) is None
    placed = docker.load(store, cargo(root, NAME), seen.append)
    image = Image.read(store, root, AMD64)
    assert placed.id == str(image.manifest.config.digest), "a classic image store calls an image by its config's digest"
    assert (placed.tags, placed.before) == ((NAME,), False)
    assert sum(seen) == sum(part.size for part in (image.root, *image.manifest.children))
    assert running.run(NAME) == f"{images.GREETING}\n"
    assert running.images() == {placed.id}
    assert docker.present(store, cargo(root)) == Placed(placed.id, (NAME,))
    assert docker.version().startswith(("20.", "2"))


@pytest.mark.parts
def test_what_is_there_is_not_sent_again(docker: DockerEngine, store: Layout) -> None:
    root = stored(store)
    first = docker.load(store, cargo(root, NAME))
    for layer in Image.read(store, root, AMD64).manifest.layers:
        store.path(layer.digest).unlink()  # so that sending would fail
    again = docker.load(store, cargo(root, NAME, "busybox"))
    assert (again.id, again.before) == (first.id, True)
    assert again.tags == ("docker.io/library/busybox:latest", NAME)
    assert docker.present(store, cargo(root)) == again


@pytest.mark.parts
def test_an_image_without_a_name_and_one_in_an_index_of_its_own(running: engines.Running, docker: DockerEngine, store: Layout) -> None:
    root = stored(store, dockers=True)
    placed = docker.load(store, cargo(put_index(store, [root.to_dict()], ours=True)))
    assert placed.tags == ()
    assert docker.present(store, cargo(root)) == Placed(placed.id, ())
    assert running.run(placed.id) == f"{images.GREETING}\n"
    docker.remove(placed)
    assert running.images() == set()


@pytest.mark.parts
def test_a_name_moves_to_the_image_that_is_placed_last(running: engines.Running, docker: DockerEngine, store: Layout) -> None:
    old, new = stored(store), stored(store, mark=" ")
    before = docker.load(store, cargo(old, NAME))
    after = docker.load(store, cargo(new, NAME))
    assert after.id != before.id
    assert docker.present(store, cargo(old)) == Placed(before.id, ())
    assert docker.load(store, cargo(old, NAME)).id == before.id, "and back again, without sending it"
    assert docker.present(store, cargo(old)) == Placed(before.id, (NAME,))
    assert running.run(NAME) == f"{images.GREETING}\n"


@pytest.mark.parts
@pytest.mark.parametrize("ours", [False, True], ids=["upstream's index", "ours"])
def test_of_several_platforms_it_gets_its_own(running: engines.Running, docker: DockerEngine, store: Layout, ours: bool) -> None:
    root, both = indexed(store, ours=ours)
    placed = docker.load(store, cargo(root, NAME))
    assert placed.id == str(Image.read(store, both["amd64"], AMD64).config)
    assert running.run(NAME) == f"{images.GREETING}\n"
    assert docker.present(store, cargo(root)) == Placed(placed.id, (NAME,))
    other = DockerEngine(docker_client(running.environment), ARM64)
    assert other.load(store, cargo(root, "other:1")).id == str(Image.read(store, both["arm64"], AMD64).config)
    other.close()


@pytest.mark.parts
def test_it_says_what_its_names_lead_to(docker: DockerEngine, store: Layout) -> None:
    wanted = cargo(stored(store), NAME, "busybox")
    assert docker.named(store, wanted) == (("docker.io/library/busybox:latest", None), (NAME, None))
    other = docker.load(store, cargo(stored(store, mark=" "), NAME))
    assert docker.named(store, wanted) == (("docker.io/library/busybox:latest", None), (NAME, other.id))


# --- or not at all


@pytest.mark.parts
@pytest.mark.parametrize("which", ["layer", "config", "manifest"])
@pytest.mark.parametrize("where", [0, -1])
def test_a_byte_changed_in_the_store_keeps_the_image_out(
    running: engines.Running, docker: DockerEngine, store: Layout, which: str, where: int
) -> None:
    root = stored(store)
    manifest = Image.read(store, root, AMD64).manifest
    digest = {"layer": manifest.layers[0].digest, "config": manifest.config.digest, "manifest": root.digest}[which]
    damage(store, Descriptor(CONFIG, digest, 0), where)
    with refused(IntegrityError, f"blobs/sha256/{digest.hex}", "expected"):
        docker.load(store, cargo(root, NAME))
    assert running.images() == set()
    assert docker.version(), "and the engine answers as before"


@pytest.mark.parts
@pytest.mark.parametrize("damage", ["missing", "short", "link"])
def test_a_layer_that_is_no_whole_file_keeps_the_image_out(
    running: engines.Running, docker: DockerEngine, store: Layout, damage: str
) -> None:
    root = stored(store)
    layer = store.path(Image.read(store, root, AMD64).manifest.layers[-1].digest)
    good = layer.read_bytes()
    layer.unlink()
    if damage == "short":
        layer.write_bytes(good[:-1])
    if damage == "link":
        (store.root / "elsewhere").write_bytes(good)
        layer.symlink_to(store.root / "elsewhere")
    with refused(IntegrityError, f"blobs/sha256/{layer.name}"):
        docker.load(store, cargo(root, NAME))
    assert running.images() == set()


@pytest.mark.parts
def test_a_layer_changed_while_it_is_sent_keeps_the_image_out(running: engines.Running, docker: DockerEngine, store: Layout) -> None:
    large = b"\0" * (8 << 20)
    layer = Descriptor("application/vnd.oci.image.layer.v1.tar", store.put(large), len(large))
    root = put_manifest(store, Image.read(store, stored(store), AMD64).manifest.config, [layer])
    path = store.path(layer.digest)

    def change(_count: int) -> None:
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.seek(-1, io.SEEK_END)
            file.write(b"x")

    for meddle in (change, lambda _count: path.write_bytes(large[:10])):
        with refused(IntegrityError, f"blobs/sha256/{path.name}"):
            docker.load(store, cargo(root, NAME), meddle)
    assert running.images() == set()


@pytest.mark.parts
def test_an_image_the_engine_cannot_read_is_its_refusal_not_ours(running: engines.Running, docker: DockerEngine, store: Layout) -> None:
    image = Image.read(store, stored(store), AMD64)
    noise = Descriptor(image.manifest.layers[0].media_type, store.put(b"no tar"), 6)
    for layers in ([noise, image.manifest.layers[1]], [image.manifest.layers[1], image.manifest.layers[0]]):
        with refused(SiteError, "the engine"):
            docker.load(store, cargo(put_manifest(store, image.manifest.config, layers), NAME))
    assert running.images() == set()


def test_what_is_no_name_of_an_image(store: Layout) -> None:
    engine = DockerEngine(docker_client({"DOCKER_HOST": "unix:///nowhere"}), AMD64)
    root = put_manifest(store, Descriptor(CONFIG, store.put(b"{}"), 2), [])
    with refused(InvalidFileError, "is not an image reference"):
        engine.load(store, cargo(root, "Not A Name"))


# --- and out again


@pytest.mark.parts
def test_what_was_placed_is_removed_and_nothing_else(running: engines.Running, docker: DockerEngine, store: Layout) -> None:
    other = docker.load(store, cargo(stored(store, mark=" "), "other:1"))
    root = stored(store)
    placed = docker.load(store, cargo(root, NAME, "second:1"))
    for _ in range(2):
        docker.remove(placed)
        assert running.images() == {other.id}
    assert docker.present(store, cargo(root)) is None

    placed = docker.load(store, cargo(root, NAME))
    running.docker("tag", NAME, "somebody:else")
    docker.remove(placed)
    assert docker.present(store, cargo(root)) == Placed(placed.id, ("docker.io/library/somebody:else",))

    running.docker("tag", "other:1", NAME)
    docker.remove(placed)
    assert running.docker("image", "inspect", NAME).returncode == 0, "the name is another image's by now"


@pytest.mark.parts
def test_an_image_in_use_stays_and_is_said_to_be(running: engines.Running, docker: DockerEngine, store: Layout) -> None:
    placed = docker.load(store, cargo(stored(store), NAME))
    container = running.docker("create", "--network", "none", "--pull", "never", NAME).stdout.strip()
    with refused(SiteError, "the engine refuses", "container"):
        docker.remove(placed)
    running.docker("rm", container)
    docker.remove(placed)
    assert running.images() == set()


@pytest.mark.parts
def test_an_image_that_was_there_before_loses_our_name_only(running: engines.Running, docker: DockerEngine, store: Layout) -> None:
    wanted = cargo(stored(store), NAME)
    docker.load(store, cargo(wanted.root, "theirs:1"))
    placed = docker.load(store, wanted)
    assert placed.before
    docker.remove(placed)
    assert docker.present(store, wanted) == Placed(placed.id, ("docker.io/library/theirs:1",))
    placed = docker.load(store, wanted)
    running.docker("rmi", "theirs:1")
    with refused(SiteError, NAME, "the last name of an image that was in the engine before"):
        docker.remove(placed)
    assert docker.present(store, wanted) == Placed(placed.id, (NAME,)), "taking it away would remove their image"


# --- no engine, and one that is not to be trusted


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the SDK drops a socket that did not connect
def test_no_engine_and_no_package_are_said_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused(SiteError, "no engine answers: No such file or directory"):
        DockerEngine(docker_client({"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}), AMD64).version()
    gc.collect()  # here, where its warning is expected, and not in another test
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    fake = Fake("")
    with fake, contextlib.suppress(SiteError):
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        assert DockerEngine(docker_client({}), AMD64).version() != "99.0", "the environment is the caller's to read"
    monkeypatch.setitem(sys.modules, "docker", None)
    with refused(SiteError, "docker package for Python is not installed") as caught:
        DockerEngine(docker_client({}), AMD64).version()
    assert "airgap-bundler[docker]" in caught.value.hint
    gc.collect()


class Fake:
    """The few requests of an engine's API that loading takes, with the image IDs of our choice."""

    def __init__(self, gives: str, *, error: str = "") -> None:
        self.known: dict[str, set[str]] = {}
        self.removed: list[str] = []
        self.gives = gives
        self.error = error
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def host(self) -> str:
        return f"tcp://127.0.0.1:{self._http.server_address[1]}"

    def get(self, path: str) -> tuple[object, int]:
        name = path.partition("/images/")[2].removesuffix("/json").partition("?")[0]
        if path.endswith("/version"):
            return {"ApiVersion": "1.44", "MinAPIVersion": "1.24", "Version": "99.0"}, 200
        if name == "json":
            return [{"Id": known, "RepoTags": []} for known in self.known], 200
        found = next((known for known, names in self.known.items() if name in {known, *names}), None)
        return ({"Id": found, "RepoTags": sorted(self.known[found])}, 200) if found else ({"message": "No such image"}, 404)

    def load(self) -> object:
        if self.error:
            return {"errorDetail": {"message": self.error}, "error": self.error}
        self.known[self.gives] = set()
        return {"stream": f"Loaded image ID: {self.gives}\n"}

    def delete(self, name: str) -> object:
        self.removed.append(name)
        self.known.pop(name, None)
        return []

    def __enter__(self) -> DockerEngine:
        self._thread.start()
        self.engine = DockerEngine(docker_client({"DOCKER_HOST": self.host}), AMD64)
        return self.engine

    def __exit__(self, *_: object) -> None:
        self.engine.close()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def _handler(fake: Fake) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.say(*fake.get(self.path))

        def do_POST(self) -> None:
            if "/tag?" in self.path:
                fake.known[fake.gives].add(NAME)
                self.say({}, 201)
                return
            while count := int(self.rfile.readline(), 16):
                self.rfile.read(count + 2)
            self.rfile.readline()
            self.say(fake.load())

        def do_DELETE(self) -> None:
            self.say(fake.delete(self.path.partition("/images/")[2].partition("?")[0]))

        def say(self, value: object, status: int = 200) -> None:
            raw = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def test_an_image_the_engine_changed_is_removed_again_and_gets_no_name(store: Layout) -> None:
    root = stored(store)
    other = "sha256:" + "e" * 64
    fake = Fake(other)
    with fake as engine, refused(IntegrityError, "the engine made", other, str(root.digest)):
        engine.load(store, cargo(root, NAME))
    assert fake.removed == [other]
    fake = Fake(other)
    fake.known[other] = {"somebody:else"}
    with fake as engine, refused(IntegrityError, other):
        engine.load(store, cargo(root, NAME))
    assert fake.removed == [], "an image that was there before is not ours to remove"


def test_an_image_store_that_calls_images_by_their_manifest(store: Layout) -> None:
    root = stored(store)
    fake = Fake(str(root.digest))
    with fake as engine:
        placed = engine.load(store, cargo(root, NAME))
        assert (placed.id, placed.tags, placed.before) == (str(root.digest), (NAME,), False)
        assert engine.present(store, cargo(root)) == Placed(placed.id, (NAME,))
        assert engine.load(store, cargo(root, NAME)).before


def test_what_the_engine_says_of_its_failure_is_said_in_one_line(store: Layout) -> None:
    with Fake("", error="no space\nleft") as engine, refused(SiteError, "the engine does not take the image: no space left"):
        engine.load(store, cargo(stored(store), NAME))
