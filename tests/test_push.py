"""Pushing to a site's registry: digests, order, resume, mounts, evidence in both shapes, and taking away what was placed and no more."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts import bundles, cargo, dropping, httpd, images, installs, serving
from parts import registry as registries

from airgap_images.layout import Layout
from airgap_images.oci import DOCKER_MANIFEST, IMAGE_INDEX, IMAGE_MANIFEST, Descriptor, Digest
from airgap_images.placing.push import RegistryTarget, each
from airgap_images.placing.upload import SMALL, Writer
from airgap_images.reference import Reference
from airgap_images.remote.authentication import RegistryCredentials
from airgap_images.remote.http import Client, Retry, Tls
from airgap_images.remote.logins import Logins
from airgap_images.remote.web import NoCredentials
from airgap_images.targets import Cargo, Placed
from audit.install import undo
from manifests.errors import AirgapError, IntegrityError, InvalidFileError, NetworkError, SiteError
from manifests.rewrite import Rewrite

TESTS = Path(__file__).parent
ACCEPT = f"{IMAGE_MANIFEST}, {IMAGE_INDEX}, {DOCKER_MANIFEST}"
QUICK = Retry(attempts=2, first=0.01)


def target(host: str, prefix: str = "mirror", *, client: Client | None = None, **rewrite: bool) -> RegistryTarget:
    return RegistryTarget(client or Client(retry=QUICK), NoCredentials(), Rewrite(host, prefix, **rewrite))


def asked(host: str, path: str, accept: str = ACCEPT) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(f"http://{host}/v2/{path}", headers={"Accept": accept})) as answer:
        return answer.read()


def there(host: str, path: str) -> bool:
    try:
        asked(host, path)
    except urllib.error.HTTPError as error:
        with error:
            assert error.code == 404
            return False
    return True


def tags(host: str, repository: str) -> set[str]:
    return set(json.loads(asked(host, f"{repository}/tags/list"))["tags"] or ())


def raw(layout: Layout, descriptor: Descriptor) -> bytes:
    return layout.path(descriptor.digest).read_bytes()


def lines(registry: registries.Registry, pattern: str) -> list[str]:
    return re.findall(pattern, (registry.data.parent / "log").read_text())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[registries.Registry]:
    with registries.registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def place(shared: registries.Registry, request: pytest.FixtureRequest) -> tuple[str, str]:
    """A host and a prefix of this test's own."""
    return shared.host, re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:60]


pytestmark = pytest.mark.parts


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "schema2"])
def test_an_image_keeps_its_bytes_and_a_stock_tool_takes_it_from_there(place, tmp_path, docker):
    host, prefix = place
    layout = Layout.create(tmp_path / "store")
    root = cargo.busybox(layout, docker=docker)
    load = Cargo("busybox", "image", cargo.wrap(layout, root), ("docker.io/library/busybox:1.36", "quay.io/other/busybox:2"))
    sent: list[int] = []
    placed = target(host, prefix).load(layout, load, sent.append)
    assert placed == Placed(str(root.digest), (f"{host}/{prefix}/library/busybox:1.36", f"{host}/{prefix}/other/busybox:2"), before=False)
    source = f"docker://{placed.tags[0]}"
    assert images.tool("skopeo", "inspect", "--raw", "--tls-verify=false", source).encode() == raw(layout, root)
    assert json.loads(images.tool("skopeo", "inspect", "--tls-verify=false", source))["Digest"] == str(root.digest)
    images.tool("skopeo", "copy", "--src-tls-verify=false", "--preserve-digests", source, f"dir:{tmp_path / 'dir'}")
    assert sum(sent) >= sum(path.stat().st_size for path in (tmp_path / "dir").iterdir()) - root.size - 100


def test_again_nothing_is_sent_and_it_says_so(place, tmp_path):
    host, prefix = place
    layout, signed = cargo.signed(tmp_path / "store")
    one = target(host, prefix)
    assert one.present(layout, signed.cargo) is None
    first = one.load(layout, signed.cargo)
    second = target(host, prefix).load(layout, signed.cargo)
    assert (first.before, second.before) == (False, True)
    assert first.tags == second.tags == one.present(layout, signed.cargo).tags
    assert one.name == f"registry {host}/{prefix}"


def test_several_platforms_go_whole_under_one_index(place, tmp_path):
    host, prefix = place
    layout = Layout.create(tmp_path / "store")
    several = cargo.several(layout)
    placed = target(host, prefix).load(layout, several)
    assert placed.id == str(several.root.digest)
    served = asked(host, f"{prefix}/team/tool/manifests/1.0", IMAGE_INDEX)
    assert served == raw(layout, several.root)
    for child in json.loads(served)["manifests"]:
        assert Digest.of(asked(host, f"{prefix}/team/tool/manifests/{child['digest']}", child["mediaType"])) == Digest.parse(child["digest"])


def test_what_an_index_in_an_index_needs_comes_before_both(place, tmp_path):
    host, prefix = place
    layout = Layout.create(tmp_path / "store")
    child = cargo.of(cargo.image(layout), "amd64")
    root = cargo.index(layout, child, cargo.index(layout, child).to_dict())  # the child stands at two depths
    assert target(host, prefix).load(layout, Cargo("a", "image", root, (cargo.REFERENCE,))).id == str(root.digest)


def test_evidence_goes_in_the_shape_upstream_gave_it(place, tmp_path):
    host, prefix = place
    layout, signed = cargo.signed(tmp_path / "store")
    one = target(host, prefix)
    placed = one.load(layout, signed.cargo)
    repository, hex_ = f"{prefix}/team/tool", signed.root.digest.hex
    assert tags(host, repository) == {"1.0", f"sha256-{hex_}.sig", f"sha256-{hex_}"}
    assert asked(host, f"{repository}/manifests/sha256-{hex_}.sig", signed.signature.media_type) == raw(layout, signed.signature)
    assert asked(host, f"{repository}/manifests/{signed.referrer.digest}", signed.referrer.media_type) == raw(layout, signed.referrer)
    assert asked(host, f"{repository}/manifests/{signed.provenance.digest}") == raw(layout, signed.provenance)
    listed = json.loads(asked(host, f"{repository}/manifests/sha256-{hex_}", IMAGE_INDEX))["manifests"]
    assert listed == [signed.referrer.to_dict() | {
        "artifactType": cargo.BUNDLE_TYPE, "annotations": {"dev.sigstore.bundle.content": "dsse-envelope"},
    }]  # fmt: skip
    assert set(placed.tags) == {
        f"{host}/{repository}:1.0",
        f"{host}/{repository}:sha256-{hex_}.sig@{signed.signature.digest}",
        f"{host}/{repository}@{signed.referrer.digest}",
        f"{host}/{repository}@{signed.provenance.digest}",
    }
    (note,) = one.notes
    assert str(signed.index.digest) in note
    assert not there(host, f"{repository}/manifests/{signed.index.digest}")


def test_names_are_known_before_anything_is_put_there(place, tmp_path):
    host, prefix = place
    layout, signed = cargo.signed(tmp_path / "store")
    one = target(host, prefix)
    before = one.named(layout, signed.cargo)
    assert {leads for _, leads in before} == {None}
    placed = one.load(layout, signed.cargo)
    assert one.named(layout, signed.cargo) == tuple((name, placed.id) for name in placed.tags) == tuple((name, placed.id) for name, _ in before)
    other = dataclasses.replace(signed.cargo, root=cargo.image(layout, "s390x"), upstream=None)
    assert one.named(layout, other) == ((f"{host}/{prefix}/team/tool:1.0", placed.id),)


def test_a_registry_that_lists_referrers_itself_gets_no_list(tmp_path):
    layout, signed = cargo.signed(tmp_path / "store")
    with dropping.Registry(subjects=True) as registry:
        target(registry.host).load(layout, signed.cargo)
        assert f"mirror/team/tool:sha256-{signed.root.digest.hex}" not in registry.manifests
    with dropping.Registry(subjects=False) as registry:
        target(registry.host).load(layout, signed.cargo)
        assert f"mirror/team/tool:sha256-{signed.root.digest.hex}" in registry.manifests


def test_entries_of_others_in_a_list_of_referrers_stay_and_a_wrong_artifact_type_is_corrected(place, shared, tmp_path):
    host, prefix = place
    layout, signed = cargo.signed(tmp_path / "store")
    empty = target(host, prefix)
    empty.load(layout, signed.cargo)
    repository, tag = f"{prefix}/team/tool", f"sha256-{signed.root.digest.hex}"
    foreign = signed.provenance.to_dict() | {"artifactType": "application/vnd.site.approval", "urls": ["https://site.example/1"]}
    wrong = signed.referrer.to_dict() | {"artifactType": "application/wrong"}
    body = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [wrong, foreign]}
    shared.put_manifest(repository, tag, json.dumps(body).encode(), IMAGE_INDEX)
    target(host, prefix).load(layout, signed.cargo)
    listed = json.loads(asked(host, f"{repository}/manifests/{tag}", IMAGE_INDEX))["manifests"]
    assert [entry["artifactType"] for entry in listed] == [foreign["artifactType"], cargo.BUNDLE_TYPE]
    assert listed[0] == foreign
    empty.remove(dataclasses.replace(empty.present(layout, signed.cargo), before=False))
    assert json.loads(asked(host, f"{repository}/manifests/{tag}", IMAGE_INDEX))["manifests"] == [foreign]


def test_a_signature_tag_with_signatures_of_somebody_else_is_left(place, tmp_path):
    host, prefix = place
    layout, signed = cargo.signed(tmp_path / "store")
    one, at = target(host, prefix), f"sha256-{signed.root.digest.hex}.sig"
    more = cargo.manifest(layout, cargo.blob(layout, b'{"x":2}', cargo.CONFIG), cargo.blob(layout, b"payload", cargo.COSIGN_LAYER),
                          cargo.blob(layout, b"the site's own", cargo.COSIGN_LAYER))  # fmt: skip
    site = Cargo("own", "image", more, (f"docker.io/team/tool:{at}",))
    one.load(layout, site)
    placed = one.load(layout, signed.cargo)
    assert asked(host, f"{prefix}/team/tool/manifests/{at}", more.media_type) == raw(layout, more)
    assert not any(at in name for name in placed.tags)
    assert any(at in note and "stays as it is" in note for note in one.notes)
    fewer = cargo.manifest(layout, cargo.blob(layout, b'{"x":2}', cargo.CONFIG))
    one.load(layout, dataclasses.replace(site, root=fewer))
    one.load(layout, signed.cargo)  # now nothing would be lost
    assert asked(host, f"{prefix}/team/tool/manifests/{at}") == raw(layout, signed.signature)


def test_a_tree_is_an_artifact_of_its_own_bytes(place, tmp_path):
    host, prefix = place
    layout = Layout.create(tmp_path / "store")
    tree = cargo.tree(layout)
    placed = target(host, prefix).load(layout, tree)
    assert placed.tags == (f"{host}/{prefix}/trees/docs:sha256-{tree.root.digest.hex[:12]}",)
    served = asked(host, f"{prefix}/trees/docs/manifests/{placed.tags[0].rsplit(':')[-1]}", tree.root.media_type)
    assert served == raw(layout, tree.root)
    for layer in json.loads(served)["layers"]:
        assert Digest.of(asked(host, f"{prefix}/trees/docs/blobs/{layer['digest']}")) == Digest.parse(layer["digest"])


def test_a_tree_of_several_manifests_goes_whole(place, tmp_path, monkeypatch):
    host, prefix = place
    monkeypatch.setattr("airgap_images.bundle.MAX_LAYERS", 2)
    layout = Layout.create(tmp_path / "store")
    tree = cargo.tree(layout, {f"{at}.txt": f"{at}".encode() for at in range(5)})
    assert tree.root.media_type == IMAGE_INDEX
    one = target(host, prefix)
    placed = one.load(layout, tree)
    assert len(json.loads(asked(host, f"{prefix}/trees/docs/manifests/{placed.id}", IMAGE_INDEX))["manifests"]) == 3
    one.remove(dataclasses.replace(placed, before=False))
    assert tags(host, f"{prefix}/trees/docs") == set()


def test_a_blob_another_repository_has_is_mounted(place, shared, tmp_path):
    host, prefix = place
    layout = Layout.create(tmp_path / "store")
    big = cargo.large(SMALL + 1)
    one = target(host, prefix)
    one.load(layout, Cargo("a", "image", cargo.image(layout, "amd64", layers=(big,)), ("docker.io/team/a:1",)))
    sent: list[int] = []
    one.load(layout, Cargo("b", "image", cargo.image(layout, "arm64", layers=(big,)), ("docker.io/team/b:1",)), sent.append)
    digest = str(Digest.of(big))
    assert lines(shared, rf"POST /v2/{prefix}/team/b/blobs/uploads/\?mount={digest}&from={prefix}%2Fteam%2Fa")
    assert not lines(shared, rf"PATCH /v2/{prefix}/team/b/")
    assert sum(sent) >= len(big)  # what needs no sending counts as done


def test_an_upload_that_is_cut_goes_on_where_it_stopped(tmp_path):
    layout, data = Layout.create(tmp_path / "store"), cargo.large(SMALL + 3_000_000)
    load = Cargo("a", "image", cargo.image(layout, layers=(data,)), (cargo.REFERENCE,))
    with dropping.Registry(cut_after=1_000_000, cuts=2) as registry:
        target(registry.host).load(layout, load)
        assert registry.blobs[str(Digest.of(data))] == data
        assert registry.bytes < len(data) + 100_000
        first, *ranges = [entry[2] for entry in registry.asked("PATCH")]
        assert (first, len(ranges)) == ("", 2)
        assert all(re.fullmatch(rf"[1-9]\d+-{len(data) - 1}", text) for text in ranges)


def test_an_upload_the_registry_forgot_begins_again(tmp_path):
    layout, data = Layout.create(tmp_path / "store"), cargo.large(SMALL + 1_000_000)
    load = Cargo("a", "image", cargo.image(layout, layers=(data,)), (cargo.REFERENCE,))
    with dropping.Registry(cut_after=1_000_000, forget=True) as registry:
        target(registry.host).load(layout, load)
        assert registry.blobs[str(Digest.of(data))] == data


def test_an_upload_that_stops_every_time_ends_with_the_reason(tmp_path):
    layout, data = Layout.create(tmp_path / "store"), cargo.large(SMALL + 1_000_000)
    load = Cargo("a", "image", cargo.image(layout, layers=(data,)), (cargo.REFERENCE,))

    def cut(method: str, _path: str) -> tuple[int, dict[str, str], bytes] | None:
        return (503, {}, b"") if method == "PATCH" else None

    with dropping.Registry(answer=cut) as registry, pytest.raises(NetworkError, match="stopped 9 times at byte 0"):
        target(registry.host).load(layout, load)


@pytest.mark.parametrize("size", [1000, SMALL + 1000])
def test_only_the_registrys_own_origin_gets_an_upload(tmp_path, size):
    layout = Layout.create(tmp_path / "store")
    load = Cargo("a", "image", cargo.image(layout, layers=(cargo.large(size),)), (cargo.REFERENCE,))
    with httpd.Server() as elsewhere, dropping.Registry(location=lambda path: f"{elsewhere.origin}{path}") as registry:
        with pytest.raises(NetworkError, match="nothing is sent there") as caught:
            target(registry.host).load(layout, load)
        assert elsewhere.requests == []
        assert "X-Forwarded-Proto" in caught.value.hint
    with dropping.Registry() as registry:
        registry.location = lambda path: f"http://{registry.host}{path}?state=1"  # absolute, with a query, its own
        assert target(registry.host).load(layout, load).id == str(load.root.digest)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (403, b'{"errors":[{"code":"DENIED","message":"requested access is denied"}]}', (NetworkError, "403 (DENIED: requested", "docker login")),
        (403, b'{"errors":[{"code":"DENIED","message":"adding 1 GB exceeds the quota"}]}', (SiteError, "quota", "make room")),
        (413, b"<html>", (NetworkError, "413", "client_max_body_size")),
        (404, b'{"errors":[{"code":"NAME_UNKNOWN"}]}', (NetworkError, "404 (NAME_UNKNOWN)", "project")),
        (507, b"", (SiteError, "507", "make room")),
        (418, b"\x00\xff", (NetworkError, "418", "log")),
    ],
)
@pytest.mark.parametrize("at", ["POST", "PUT"])
def test_refusals_say_what_to_do(tmp_path, status, body, expected, at):
    kind, message, hint = expected
    layout = Layout.create(tmp_path / "store")
    load = Cargo("a", "image", cargo.image(layout), (cargo.REFERENCE,))
    part = "/blobs/" if at == "POST" else "/manifests/"

    def refuse(method: str, path: str) -> tuple[int, dict[str, str], bytes] | None:
        return (status, {}, body) if method == at and part in path else None

    with dropping.Registry(answer=refuse) as registry, pytest.raises(kind) as caught:
        target(registry.host).load(layout, load)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_server_errors_are_tried_again(tmp_path):
    layout = Layout.create(tmp_path / "store")
    load = Cargo("a", "image", cargo.image(layout), (cargo.REFERENCE,))
    left = {"POST": 1, "PUT": 1, "HEAD": 1}
    lock = threading.Lock()

    def busy(method: str, _path: str) -> tuple[int, dict[str, str], bytes] | None:
        with lock:
            left[method] = left.get(method, 0) - 1
            return (503, {}, b"") if left[method] >= 0 else None

    with dropping.Registry(answer=busy) as registry:
        assert target(registry.host).load(layout, load).id == str(load.root.digest)


def test_a_registry_that_gives_out_something_else_is_found_out(tmp_path):
    layout = Layout.create(tmp_path / "store")
    load = Cargo("a", "image", cargo.image(layout), (cargo.REFERENCE,))
    other = raw(layout, cargo.image(layout, "riscv64"))

    def lie(method: str, path: str) -> tuple[int, dict[str, str], bytes] | None:
        if method == "GET" and path.endswith("/manifests/1.0"):
            return 200, {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}, other
        return None

    with dropping.Registry(answer=lie) as registry, pytest.raises(IntegrityError, match="right after"):
        target(registry.host).load(layout, load)


def test_a_blob_damaged_in_the_store_is_named_and_no_tag_appears(place, tmp_path):
    host, prefix = place
    layout = Layout.create(tmp_path / "store")
    data = cargo.large(SMALL + 1)
    load = Cargo("a", "image", cargo.image(layout, layers=(data,)), (cargo.REFERENCE,))
    path = layout.path(Digest.of(data))
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=Digest.of(data).hex):
        target(host, prefix).load(layout, load)
    assert not there(host, f"{prefix}/team/tool/manifests/1.0")


def test_a_blob_of_another_size_in_the_registry_is_no_blob_of_ours(tmp_path):
    layout = Layout.create(tmp_path / "store")
    load = Cargo("a", "image", cargo.image(layout), (cargo.REFERENCE,))

    def larger(method: str, path: str) -> tuple[int, dict[str, str], bytes] | None:
        return (200, {"Content-Length": "999"}, b"") if method == "HEAD" and "/blobs/" in path else None

    with dropping.Registry(answer=larger) as registry, pytest.raises(IntegrityError, match="has 999 bytes"):
        target(registry.host).load(layout, load)


def test_users_tokens_and_certificates(tmp_path):
    layout, signed = cargo.signed(tmp_path / "store")

    def access(client: Client, host: str, **said: str) -> RegistryCredentials:
        return RegistryCredentials(client, Logins((registries.login(tmp_path / "login.json", host, **said),)), actions="pull,push")

    client = Client(retry=QUICK)
    with registries.registry(tmp_path / "htpasswd", htpasswd=True) as running:
        placed = RegistryTarget(client, access(client, running.host), Rewrite(running.host)).load(layout, signed.cargo)
        assert placed.id == str(signed.root.digest)
        with pytest.raises(NetworkError, match="asked as 'alice'") as caught:
            RegistryTarget(client, access(client, running.host, password="wrong"), Rewrite(running.host)).load(layout, signed.cargo)
        assert f"docker login {running.host}" in caught.value.hint
    with registries.token_registry(tmp_path / "token") as (running, tokens):
        one = RegistryTarget(client, access(client, running.host), Rewrite(running.host, "private"))
        assert one.load(layout, signed.cargo).id == str(signed.root.digest)
        other = dataclasses.replace(signed.cargo, references=("docker.io/team/second:1.0",))
        assert one.load(layout, other).id == str(signed.root.digest)
        assert any("pull%2Cpush" in request.path or "pull,push" in request.path for request in tokens.asked)
        with pytest.raises(NetworkError, match="without a login"):
            RegistryTarget(client, RegistryCredentials(client, actions="pull,push"), Rewrite(running.host, "private")).load(layout, signed.cargo)
    ca, pair = httpd.authority(tmp_path / "tls", names=("0.0.0.0",))
    with registries.registry(tmp_path / "secure", htpasswd=True, tls=pair) as running:
        secure = Client(retry=QUICK, tls=lambda host: Tls(ca_file=ca) if host == running.tls_host else None)
        rewrite = Rewrite(running.tls_host, "a/b")
        assert RegistryTarget(secure, access(secure, running.tls_host), rewrite).load(layout, signed.cargo).id == str(signed.root.digest)
        with pytest.raises(NetworkError, match="certificate"):
            RegistryTarget(client, access(client, running.tls_host), rewrite).load(layout, signed.cargo)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from parts import cargo
    from airgap_images.remote.http import Client
    from airgap_images.layout import Layout
    from airgap_images.oci import Descriptor, Digest
    from airgap_images.placing.push import RegistryTarget
    from airgap_images.targets import Cargo
    from airgap_images.remote.web import NoCredentials
    from manifests.rewrite import Rewrite

    folder, host, prefix, media_type, digest, size, after = sys.argv[1:]
    gone = 0
    def sent(count):
        global gone
        gone += count
        if gone > int(after):
            os.kill(os.getpid(), signal.SIGKILL)
    root = Descriptor(media_type, Digest.parse(digest), int(size))
    RegistryTarget(Client(), NoCredentials(), Rewrite(host, prefix)).load(Layout(Path(folder)), Cargo("a", "image", root, (cargo.REFERENCE,)), sent)
"""


def test_a_killed_push_goes_on_with_what_is_missing(place, shared, tmp_path):
    host, prefix = place
    layout = Layout.create(tmp_path / "store")
    layers = [cargo.large(SMALL + 1_000_000) for _ in range(6)]
    root = cargo.image(layout, layers=tuple(layers))
    # Four go at once, so that more than four of them sent means that one at least is finished.
    after = 4 * len(layers[0]) + SMALL
    arguments = [str(layout.root), host, prefix, root.media_type, str(root.digest), str(root.size), str(after)]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    log = shared.data.parent / "log"
    start = len(log.read_text())
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), *arguments], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    put = re.compile(r'PUT /v2/[^ ]*digest=sha256%3A([0-9a-f]{64})[^ ]* HTTP/1.1\\?" 201')
    middle = len(log.read_text())
    finished = set(put.findall(log.read_text()[start:middle]))
    assert finished
    assert not there(host, f"{prefix}/team/tool/manifests/1.0")
    assert target(host, prefix).load(layout, Cargo("a", "image", root, (cargo.REFERENCE,))).id == str(root.digest)
    sent = set(put.findall(log.read_text()[middle:]))
    assert sent
    assert finished.isdisjoint(sent)


def test_memory_is_flat_whatever_the_size(place, tmp_path):
    host, prefix = place
    layout = Layout.create(tmp_path / "store")
    with (tmp_path / "large").open("w+b") as file:
        file.truncate(128 << 20)
        file.write(b"start")
        file.flush()
        digest = Digest(subprocess.run(["sha256sum", file.name], check=True, capture_output=True, text=True).stdout.split()[0])
        layout.take(file.fileno(), digest, 128 << 20)
    config = cargo.put(layout, {"os": "linux", "architecture": "amd64"}, cargo.CONFIG)
    root = cargo.manifest(layout, config, Descriptor(cargo.LAYER, digest, 128 << 20))
    target(host, prefix).load(layout, Cargo("warm", "image", cargo.image(layout), ("docker.io/team/warm:1",)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    target(host, prefix).load(layout, Cargo("a", "image", root, (cargo.REFERENCE,)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 << 10  # KiB


def test_what_was_placed_is_taken_away_and_nothing_else(place, tmp_path):
    host, prefix = place
    layout, signed = cargo.signed(tmp_path / "store")
    one = target(host, prefix)
    other = Cargo("other", "image", cargo.image(layout, "s390x"), ("docker.io/team/tool:other",))
    one.load(layout, other)
    placed = one.load(layout, signed.cargo)
    one.remove(dataclasses.replace(placed, before=False))
    assert tags(host, f"{prefix}/team/tool") == {"other"}
    assert {leads for _, leads in one.named(layout, signed.cargo)} == {None}
    assert one.present(layout, signed.cargo) is None
    one.remove(dataclasses.replace(placed, before=False))  # again is no harm
    assert one.present(layout, other) is not None


def test_a_digest_with_another_name_stays_with_the_reason(place, shared, tmp_path):
    host, prefix = place
    layout, signed = cargo.signed(tmp_path / "store")
    one = target(host, prefix)
    placed = one.load(layout, signed.cargo)
    repository = f"{prefix}/team/tool"
    shared.put_manifest(repository, "production", raw(layout, signed.root), signed.root.media_type)
    there = tags(host, repository)
    with pytest.raises(SiteError, match="production"):
        one.remove(dataclasses.replace(placed, before=False))
    assert tags(host, repository) == there
    assert one.present(layout, signed.cargo) == dataclasses.replace(placed, before=True)


def test_an_image_that_is_part_of_an_index_of_others_stays(place, shared, tmp_path):
    host, prefix = place
    layout = Layout.create(tmp_path / "store")
    load = Cargo("a", "image", cargo.image(layout), (cargo.REFERENCE,))
    one = target(host, prefix)
    placed = one.load(layout, load)
    around = cargo.index(layout, cargo.of(load.root, "amd64"))
    shared.put_manifest(f"{prefix}/team/tool", "all", raw(layout, around), IMAGE_INDEX)
    with pytest.raises(SiteError, match="all"):
        one.remove(dataclasses.replace(placed, before=False))
    assert asked(host, f"{prefix}/team/tool/manifests/{load.root.digest}", load.root.media_type) == raw(layout, load.root)


def test_an_index_is_taken_away_with_what_only_it_needed(place, tmp_path):
    host, prefix = place
    layout = Layout.create(tmp_path / "store")
    several, one = cargo.several(layout), target(host, prefix)
    placed = one.load(layout, several)
    children = [child["digest"] for child in json.loads(raw(layout, several.root))["manifests"]]
    kept = Descriptor(cargo.IMAGE_MANIFEST, Digest.parse(children[1]), len(layout.path(Digest.parse(children[1])).read_bytes()))
    one.load(layout, Cargo("b", "image", kept, ("docker.io/team/tool:arm",)))
    one.remove(dataclasses.replace(placed, before=False))
    writer, at = Writer(Client(retry=QUICK), NoCredentials()), Reference.parse(f"{host}/{prefix}/team/tool")
    assert [writer.digest(at.at(Digest.parse(child))) is not None for child in children] == [False, True]
    assert tags(host, f"{prefix}/team/tool") == {"arm"}


def test_a_name_that_moved_on_is_not_ours_to_take(place, tmp_path):
    host, prefix = place
    layout = Layout.create(tmp_path / "store")
    old, new = (Cargo("a", "image", cargo.image(layout, kind), (cargo.REFERENCE,)) for kind in ("amd64", "arm64"))
    one = target(host, prefix)
    first = one.load(layout, old)
    second = one.load(layout, new)
    assert one.present(layout, old) == Placed(first.id, ())
    one.remove(dataclasses.replace(first, before=False))
    assert one.present(layout, old) is None
    assert one.present(layout, new).tags == second.tags


def test_what_the_registry_had_before_stays(place, tmp_path):
    host, prefix = place
    layout = Layout.create(tmp_path / "store")
    load, one = Cargo("a", "image", cargo.image(layout), (cargo.REFERENCE,)), target(host, prefix)
    placed = one.load(layout, load)
    with pytest.raises(SiteError, match="had the image before"):  # this registry cannot take a tag away and keep the image
        one.remove(dataclasses.replace(placed, before=True))
    assert one.present(layout, load) == placed or one.present(layout, load).tags == placed.tags


def test_a_registry_that_deletes_nothing_is_told_of(tmp_path):
    layout = Layout.create(tmp_path / "store")
    load = Cargo("a", "image", cargo.image(layout), (cargo.REFERENCE,))

    def no(method: str, path: str) -> tuple[int, dict[str, str], bytes] | None:
        if method == "DELETE":
            return 405, {}, b'{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}'
        return (200, {}, b'{"name":"x","tags":["1.0"]}') if path.endswith("/tags/list?n=1001") else None

    with dropping.Registry(answer=no) as registry:
        one = target(registry.host)
        placed = one.load(layout, load)
        with pytest.raises(SiteError, match=r"stays: the registry answered 405 \(UNSUPPORTED") as caught:
            one.remove(dataclasses.replace(placed, before=False))
    assert "allow deleting" in caught.value.hint


def test_too_many_tags_to_look_at(tmp_path):
    layout = Layout.create(tmp_path / "store")
    load = Cargo("a", "image", cargo.image(layout), (cargo.REFERENCE,))
    listed = json.dumps({"tags": [f"v{at}" for at in range(1001)]}).encode()
    with dropping.Registry(answer=lambda _method, path: (200, {}, listed) if "/tags/list" in path else None) as registry:
        one = target(registry.host)
        placed = one.load(layout, load)
        with pytest.raises(SiteError, match="more than 1000 tags"):
            one.remove(dataclasses.replace(placed, before=False))
        assert not registry.asked("DELETE", "/manifests/")


def test_two_images_that_would_become_one_name_are_refused(place, tmp_path):
    host, prefix = place
    layout = Layout.create(tmp_path / "store")
    first, second = (Cargo(name, "image", cargo.image(layout, name), (f"{name}.io/team/tool:1",)) for name in ("quay", "ghcr"))
    one = target(host, prefix)
    one.load(layout, first)
    with pytest.raises(InvalidFileError, match=r"ghcr\.io/team/tool:1 and quay\.io/team/tool:1"):
        one.load(layout, second)
    apart = target(host, prefix, keep_registry=True)
    assert [apart.load(layout, load).tags for load in (first, second)] == [
        (f"{host}/{prefix}/quay.io/team/tool:1",), (f"{host}/{prefix}/ghcr.io/team/tool:1",),
    ]  # fmt: skip


def test_an_image_known_by_its_digest_only_gets_a_tag_so_that_no_collector_takes_it(place, tmp_path):
    host, prefix = place
    layout = Layout.create(tmp_path / "store")
    root = cargo.image(layout)
    placed = target(host, prefix).load(layout, Cargo("a", "image", root, (f"docker.io/team/tool@{root.digest}",)))
    assert placed.tags == (f"{host}/{prefix}/team/tool:sha256-{root.digest.hex[:12]}",)
    nameless = target(host, prefix).load(layout, Cargo("built-here", "image", root))
    assert nameless.tags == (f"{host}/{prefix}/images/built-here:sha256-{root.digest.hex[:12]}",)


def test_the_first_failure_ends_the_others():
    stop, seen = threading.Event(), []

    def work(item: int) -> None:
        seen.append(item)
        if item == 3:
            raise NetworkError("three", hint="")
        stop.wait(5)

    with pytest.raises(NetworkError, match="three"):
        each(iter([1, 2, 3, *range(4, 1000)]), work, stop)
    assert len(seen) < 10


def test_schema_two_is_pushed_as_such(place, tmp_path):
    host, prefix = place
    layout = Layout.create(tmp_path / "store")
    root = cargo.image(layout, docker=True, layers=(b"x",))
    placed = target(host, prefix).load(layout, Cargo("a", "image", cargo.wrap(layout, root), (cargo.REFERENCE,)))
    assert placed.id == str(root.digest)
    assert asked(host, f"{prefix}/team/tool/manifests/1.0", DOCKER_MANIFEST) == raw(layout, root)


def test_nothing_there_is_an_answer_and_no_registry_is_an_error(tmp_path):
    layout = Layout.create(tmp_path / "store")
    load = Cargo("a", "image", cargo.image(layout), (cargo.REFERENCE,))
    with httpd.Server() as closed:
        port = closed.port
    with pytest.raises(AirgapError) as caught:
        target(f"127.0.0.1:{port}").present(layout, load)
    assert isinstance(caught.value, NetworkError)


def test_installed_moved_on_and_uninstalled_by_the_store(place, tmp_path):
    host, prefix = place
    first, signed = cargo.signed(tmp_path / "bundle-1", signature=b"one")
    tree = cargo.tree(first)
    second, newer = cargo.signed(tmp_path / "bundle-2", root=cargo.image(Layout.create(tmp_path / "bundle-2"), layers=(b"two",)))
    desk = installs.Desk(tmp_path, bundles.site(tmp_path / "keys"))
    one = target(host, prefix)
    desk.install(serving.ship(first.root, desk.who, signed.cargo, tree), checks=(), targets=(one,))
    assert one.present(Layout(desk.store), signed.cargo).id == str(signed.root.digest)
    desk.install(serving.ship(second.root, desk.who, newer.cargo, serial=2), checks=(), targets=(one,))
    assert tags(host, f"{prefix}/team/tool") >= {"1.0", f"sha256-{signed.root.digest.hex}.sig", f"sha256-{newer.root.digest.hex}.sig"}
    assert one.present(Layout(desk.store), newer.cargo).tags[0] == f"{host}/{prefix}/team/tool:1.0"
    pruned = undo.prune(desk.store, keep=0, now=bundles.NOW, targets=(one,))
    assert pruned.images_left == ()
    assert {tag for tag in tags(host, f"{prefix}/team/tool") if signed.root.digest.hex in tag} == set()
    assert tags(host, f"{prefix}/trees/docs") == set()
    assert one.present(Layout(desk.store), newer.cargo).tags[0] == f"{host}/{prefix}/team/tool:1.0"
    gone = undo.uninstall(desk.store, now=bundles.NOW, targets=(one,))
    assert gone.images_left == ()
    assert tags(host, f"{prefix}/team/tool") == set()
