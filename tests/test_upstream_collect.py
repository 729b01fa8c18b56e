"""Upstream evidence of an image: everything there is, in both shapes, goes from the registry through the lock into the bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from parts import bundles, images, signed
from parts import registry as registries
from parts.collecting import Desk, beside, kinds, listing
from parts.cosign import cosign
from parts.expect import refused
from parts.upstream import BUNDLE, OTHER, VENDOR, policy, site_policy

from airgap_images.bundle import components, parse_index
from airgap_images.layout import Layout
from airgap_images.oci import IMAGE_INDEX, Digest, Index
from airgap_images.remote.http import Client, Retry
from audit.verify.trust import Memory
from audit.verify.upstream import assess
from audit.verify.walk import Place, verify
from bundler import resolve, sign
from manifests import intent as intents
from manifests.diff import diff
from manifests.errors import InvalidFileError
from manifests.lock import Lock
from manifests.upstream import key_entry

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[registries.Registry]:
    with registries.registry(tmp_path_factory.mktemp("registry")) as started:
        yield started


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("HOME", str(tmp_path))  # no login of whoever runs the tests
    return Desk(tmp_path)


class Everything:
    """An index of two platforms with everything tools leave beside it; `amd64` is what is carried."""

    def __init__(self, repository: signed.Repository) -> None:
        self.repository = repository
        self.amd64, self.arm64 = repository.image(), repository.image(platform="linux/arm64")
        self.index = repository.index(self.amd64, self.arm64, tags=("1",), statements=True)
        repository.signature(self.arm64, VENDOR)  # about what is not carried: not asked for
        repository.tag_signature(self.arm64, VENDOR)
        self.sbom = repository.sbom(self.amd64)
        self.expected = sorted(
            (kind, shape, pushed.digest.hex[:12])
            for kind, shape, pushed in (
                ("signature", "tag", repository.tag_signature(self.index, VENDOR)),
                ("signature", "tag", repository.tag_signature(self.amd64, OTHER, VENDOR)),
                ("attestation", "tag", repository.tag_attestation(self.amd64, VENDOR)),
                ("sbom", "tag", repository.tag_sbom(self.amd64)),
                ("signature", "referrer", repository.signature(self.index, VENDOR)),
                ("signature", "referrer", repository.signature(self.amd64, VENDOR)),
                ("signature", "referrer", repository.notation(self.amd64)),
                ("attestation", "referrer", repository.attestation(self.amd64, VENDOR, "https://example.test/review/v1")),
                ("provenance", "referrer", repository.attestation(self.amd64, VENDOR)),
                ("sbom", "referrer", self.sbom),
                ("signature", "referrer", repository.signature(self.sbom, VENDOR)),  # of the SBOM, not of the image
            )
        )
        self.ref = f"{repository.registry.host}/{repository.name}:1"
        self.statement = next(entry for entry in json.loads(self.index.raw)["manifests"] if "annotations" in entry)

    @property
    def with_statement(self) -> list[tuple[str, str, str]]:
        return sorted([*self.expected, ("provenance", "index", self.statement["digest"][7:19])])


@pytest.mark.parts
def test_everything_there_is_travels(running: registries.Registry, desk: Desk) -> None:
    upstream = Everything(signed.Repository(running, "team/everything", wrong_type=True))
    lock = desk.lock(upstream.ref)
    assert kinds(lock) == upstream.with_statement
    assert desk.warnings == []
    found = listing(lock)
    assert found.repository == f"{running.host}/team/everything"
    assert [(s.role, s.digest, s.platform) for s in found.subjects] == [
        ("index", upstream.index.digest, ""),
        ("image", upstream.amd64.digest, "linux/amd64"),
    ]
    assert found.not_collected == ()
    assert found.completed == ()
    assert {one.subject for one in found.found} == {upstream.index.digest, upstream.amd64.digest, upstream.sbom.digest}
    made = beside(lock)
    assert (made.kind, made.form, made.role) == ("image", "tree", None)
    assert made.identity == {"of": "tool", "ref": upstream.ref, "digest": upstream.amd64.name}
    assert made.facts == {
        "upstream-signatures": "2 by tag, 4 by referrer",
        "upstream-attestations": "1 by tag, 1 by referrer",
        "upstream-sboms": "1 by tag, 1 by referrer",
        "upstream-provenance": "1 by referrer, 1 in the index",
    }

    tree = desk.build(lock)
    assert tree.manifest(upstream.index.digest) == upstream.index.raw, "the index itself travels, though only one platform of it does"
    for one in found.found:
        raw = tree.manifest(one.manifest.digest)
        assert raw == running.blob_file(str(one.manifest.digest)).read_bytes()
        for layer in json.loads(raw)["layers"]:
            assert tree.blob(Digest.parse(layer["digest"]), layer["size"]) == running.blob_file(layer["digest"]).read_bytes()
    (verdict,) = assess(tree.layout, components(_index(tree.layout)), policy(VENDOR, match="127.0.0.1:*/team/*"))
    assert verdict.result == "good"


@pytest.mark.parts
def test_a_registry_with_the_api_is_asked_page_by_page_and_leads_to_the_same(running: registries.Registry, desk: Desk) -> None:
    upstream = Everything(signed.Repository(running, "team/api", api=True))
    with signed.front(running, page=1) as front:
        lock = desk.lock(upstream.ref.replace(running.host, front.host))
    assert kinds(lock) == upstream.with_statement
    assert desk.warnings == []
    pages = [path for path in front.asked if path.startswith(f"/v2/team/api/referrers/{upstream.amd64.name}")]
    assert len(pages) == 5
    assert not [path for path in front.asked if path.endswith(f"manifests/sha256-{upstream.amd64.digest.hex}")], "the API is there: no tag is asked"


@pytest.mark.parts
@pytest.mark.network
def test_what_the_real_cosign_leaves_travels(running: registries.Registry, desk: Desk) -> None:
    tool, repository = cosign(desk.folder / "cosign"), signed.Repository(running, "team/cosign")
    key, image = tool.key("vendor"), repository.image("1")
    name = f"{running.host}/team/cosign@{image.name}"
    tool.sign("vendor", name)
    for more in ((), ("--new-bundle-format",)):
        tool.attest("vendor", name, "slsaprovenance1", {"buildDefinition": {}, "runDetails": {}}, *more)
    (tool.folder / "sbom.json").write_text('{"spdxVersion":"SPDX-2.3"}')
    tool.run("attach", "sbom", "--sbom", "sbom.json", "--allow-http-registry", name)
    tool.sign("vendor", f"{running.host}/team/cosign:sha256-{image.digest.hex}.sbom")
    lock = desk.lock(f"{running.host}/team/cosign:1")
    assert [(kind, shape) for kind, shape, _ in kinds(lock)] == [
        ("provenance", "referrer"), ("provenance", "tag"), ("sbom", "tag"), ("signature", "tag"), ("signature", "tag"),
    ]  # fmt: skip
    assert desk.warnings == []
    (referrer,) = [one for one in listing(lock).found if one.shape == "referrer"]
    assert referrer.manifest.artifact_type == BUNDLE, "its own, whatever the list under the fallback tag says"
    tree = desk.build(lock)
    vendor = {"identities": {"vendor": key_entry(key)}, "images": [{"match": "**", "signed_by": ["vendor"]}]}
    (verdict,) = assess(tree.layout, components(_index(tree.layout)), site_policy(vendor))
    assert verdict.result == "good"


@pytest.mark.parts
def test_two_locks_of_one_state_are_the_same_bytes_and_a_new_signature_is_a_difference(running: registries.Registry, desk: Desk) -> None:
    repository = signed.Repository(running, "team/moving")
    image = repository.image("1")
    ref = f"{running.host}/team/moving:1"
    repository.sbom(image, "first")
    repository.sbom(image, "second")
    first = desk.lock(ref)
    assert desk.lock(ref, first).to_bytes() == desk.lock(ref, cache=Layout.create(desk.folder / "other")).to_bytes() == first.to_bytes()
    pushed = repository.tag_signature(image, VENDOR)
    second = desk.lock(ref, first)
    lines = [str(change) for change in diff(first, second)]
    assert "~ tool.upstream: facts upstream-signatures none found -> 1 by tag" in lines
    assert any(line.startswith(f"+ tool.upstream: file manifests/{pushed.digest.hex}") for line in lines)
    assert any(line.startswith("~ tool.upstream: file upstream.json") for line in lines)
    assert not any(line.partition(" ")[2].startswith("tool:") for line in lines), "the image itself did not move"
    assert len(listing(second).found) == 3


@pytest.mark.parts
def test_where_nothing_is_said_that_is_carried_too(running: registries.Registry, desk: Desk) -> None:
    repository = signed.Repository(running, "team/silent")
    image = repository.image("1")
    lock = desk.lock(f"{running.host}/team/silent:1")
    found = listing(lock)
    assert found.asked == (*(f"tag sha256-{image.digest.hex}.{suffix}" for suffix in ("sig", "att", "sbom")), f"referrers {image.name}")
    assert (found.found, found.not_collected) == ((), ())
    assert beside(lock).facts == {"upstream-signatures": "none found"}
    assert desk.warnings == []
    assert desk.build(lock).evidence == found


@pytest.mark.parts
def test_what_is_not_to_be_asked_for_is_said_not_to_have_been(running: registries.Registry, desk: Desk) -> None:
    signed.Repository(running, "team/skipped").image("1")
    lock = desk.lock(f"{running.host}/team/skipped:1", upstream="skip")
    assert [component.name for component in lock.components] == ["tool"]
    assert lock.components[0].facts["upstream-signatures"] == "not asked for"
    assert desk.warnings == ["tool: upstream signatures of the image were not asked for: `upstream: skip`"]


@pytest.mark.parts
def test_the_signed_bundle_is_proven_whole(running: registries.Registry, desk: Desk) -> None:
    upstream = Everything(signed.Repository(running, "team/whole"))
    lock, who = desk.lock(upstream.ref), bundles.site(desk.folder / "keys")
    desk.build(lock)
    for at, name in enumerate(("alice", "bob")):
        sign.sign(desk.folder / "bundle", who.key(name), bundles.terms(1 if at == 0 else None))
    bundle = verify(Place.of(desk.folder / "bundle"), who.policy_raw, memory=Memory(), now=bundles.NOW, into=Layout.create(desk.folder / "store"))
    assert {"tool", "tool.upstream"} <= {component.name for component in bundle.components}


@pytest.mark.parts
def test_from_the_users_file_both_are_locked_and_the_old_lock_is_used(running: registries.Registry, desk: Desk) -> None:
    repository = signed.Repository(running, "team/file")
    repository.signature(repository.image("1"), VENDOR)
    path = desk.folder / "bundle.yaml"
    path.write_text(f"apiVersion: airgap/v1\nname: x\nstream: s\ncomponents:\n  - {{name: tool, kind: image, ref: '{running.host}/team/file:1'}}\n")
    intent, document = intents.load(path)
    around = resolve.Surroundings(desk.folder, desk.cache, Client(retry=Retry(attempts=1)), NOW, desk.warnings.append, lambda _: None)
    first = resolve.resolve(intent, document, None, around)
    assert [component.name for component in first.components] == ["tool", "tool.upstream"]
    assert resolve.resolve(intent, document, first, around).to_bytes() == first.to_bytes()
    assert Lock.parse(first.to_bytes(), "test") == first


def test_names_that_are_taken_or_leave_no_room(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "bundle.yaml"
    path.write_text("apiVersion: airgap/v1\nname: x\nstream: s\ncomponents:\n  - {name: tool.upstream, kind: url, url: 'https://a.test/x'}\n")
    with pytest.raises(InvalidFileError, match=r"names ending in `\.upstream` are for what upstream says of an image"):
        intents.load(path)
    from bundler.upstream.component import checked_name

    assert checked_name("a" * 55) == "a" * 55 + ".upstream"
    with refused(InvalidFileError, "a" * 56, "too long"):
        checked_name("a" * 56)


# --- of the index, and of several platforms


@pytest.mark.parts
def test_statements_in_the_index_travel_for_the_platforms_that_do(running: registries.Registry, desk: Desk) -> None:
    repository = signed.Repository(running, "team/buildkit")
    index = repository.index(repository.image(), repository.image(platform="linux/arm64"), tags=("1",), statements=True)
    statements = {entry["annotations"]["vnd.docker.reference.digest"]: entry["digest"] for entry in json.loads(index.raw)["manifests"][2:]}
    lock = desk.lock(f"{running.host}/team/buildkit:1")
    (found,) = listing(lock).found
    assert (found.kind, found.shape, found.tag) == ("provenance", "index", None)
    assert statements[str(found.subject)] == str(found.manifest.digest)
    assert found.subject == listing(lock).subjects[1].digest
    assert beside(lock).facts["upstream-provenance"] == "1 in the index"
    assert desk.build(lock).evidence.found == (found,)


@pytest.mark.parts
@pytest.mark.parametrize("docker", [False, True])
def test_of_an_image_carried_whole_every_manifest_is_asked_about(running: registries.Registry, desk: Desk, docker: bool) -> None:
    repository = signed.Repository(running, f"team/several{int(docker)}")
    made = (repository.image(), repository.image(platform="linux/arm64/v8"))
    inner = () if docker else (repository.index(made[1]),)
    index = repository.index(*made, *inner, tags=("1",), statements=True, docker=docker)
    signatures = [repository.signature(subject, VENDOR) for subject in (index, *inner, *made)]
    lock = desk.lock(f"{running.host}/{repository.name}:1", platforms="all")
    found = listing(lock)
    indexes = [("index", one.digest) for one in (index, *inner)]
    assert sorted((s.role, s.digest) for s in found.subjects) == sorted([*indexes, *(("image", image.digest) for image in made)])
    assert {one.manifest.digest for one in found.found if one.shape == "referrer"} == {pushed.digest for pushed in signatures}
    assert len([one for one in found.found if one.shape == "index"]) == len(made) + len(inner)
    assert desk.warnings == []
    assert desk.build(lock).evidence == found


@pytest.mark.parts
def test_of_some_platforms_each_is_asked_about(running: registries.Registry, desk: Desk) -> None:
    repository = signed.Repository(running, "team/some")
    made = [repository.image(platform=f"linux/{name}") for name in ("amd64", "arm64", "s390x")]
    index = repository.index(*made, tags=("1",))
    signatures = [repository.tag_signature(subject, VENDOR) for subject in (index, *made)]
    lock = desk.lock(f"{running.host}/team/some:1", platforms=("linux/amd64", "linux/arm64"))
    assert [s.digest for s in listing(lock).subjects if s.role == "index"] == [index.digest]
    assert {s.platform for s in listing(lock).subjects if s.role == "image"} == {"linux/amd64", "linux/arm64"}
    assert {one.manifest.digest for one in listing(lock).found} == {pushed.digest for pushed in signatures[:3]}
    tree = desk.build(lock)
    (verdict,) = assess(tree.layout, components(_index(tree.layout)), policy(VENDOR, match="127.0.0.1:*/team/*"))
    assert verdict.result == "good"


@pytest.mark.parts
def test_an_image_that_its_index_also_calls_a_statement_is_asked_about(running: registries.Registry, desk: Desk) -> None:
    repository = signed.Repository(running, "team/both")
    image = repository.image()
    marks = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image.name}
    entries = [image.entry, image.entry | {"annotations": marks}]
    repository.push({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": entries}, "1")
    found = listing(desk.lock(f"{running.host}/team/both:1"))
    assert image.digest in {subject.digest for subject in found.subjects}
    assert (found.found, found.not_collected) == ((), ())


@pytest.mark.parts
def test_evidence_on_evidence_is_asked_for_once_and_not_further(running: registries.Registry, desk: Desk) -> None:
    repository = signed.Repository(running, "team/deep")
    first = repository.sbom(repository.image("1"))
    second = repository.sbom(first, "of the first")
    third = repository.sbom(second, "of the second")
    found = {one.manifest.digest for one in listing(desk.lock(f"{running.host}/team/deep:1")).found}
    assert found == {first.digest, second.digest}
    assert third.digest not in found


@pytest.mark.parts
def test_what_lies_under_a_tag_and_is_no_evidence_is_said(running: registries.Registry, desk: Desk) -> None:
    repository = signed.Repository(running, "team/tags")
    image = repository.image("1")
    running.put_manifest(repository.name, f"sha256-{image.digest.hex}.sig", image.raw, image.media_type)
    repository.index(image, tags=(f"sha256-{image.digest.hex}.att",))
    lock = desk.lock(f"{running.host}/team/tags:1")
    assert listing(lock).found == ()
    assert {what.rpartition(".")[2] for what, _ in listing(lock).not_collected} == {"sig", "att"}
    assert all("no evidence" in line for line in desk.warnings)
    assert len(desk.warnings) == 2


@pytest.mark.parts
def test_a_blob_the_registry_lost_is_said(running: registries.Registry, desk: Desk) -> None:
    repository = signed.Repository(running, "team/lost")
    image = repository.image("1")
    kept, lost = repository.sbom(image, "kept"), repository.sbom(image, "lost")
    layer = json.loads(lost.raw)["layers"][0]["digest"]
    repository.delete_blob(layer)
    lock = desk.lock(f"{running.host}/team/lost:1")
    assert [one.manifest.digest for one in listing(lock).found] == [kept.digest]
    assert any(what == f"blob {layer} of {lost.name}" and "answered 404" in why for what, why in listing(lock).not_collected)
    assert any(layer in line for line in desk.warnings)
    desk.build(lock)


@pytest.mark.parts
def test_from_a_layout_on_this_machine_what_lies_in_it_travels(running: registries.Registry, desk: Desk) -> None:
    repository = signed.Repository(running, "team/layout")
    image = repository.image("1")
    signature, sbom = repository.tag_signature(image, VENDOR), repository.sbom(image)
    elsewhere = repository.sbom(repository.image("2", note="another"))
    layout = Layout.create(desk.folder / "layout")
    for digest in (*(pushed.name for pushed in (image, signature, sbom, elsewhere)), *_blobs(image, signature, sbom, elsewhere)):
        layout.put(running.blob_file(digest).read_bytes())
    names = {image.name: f"{repository.name}:1", signature.name: f"sha256-{image.digest.hex}.sig"}
    entries = [
        pushed.entry | ({"annotations": {"org.opencontainers.image.ref.name": names[pushed.name]}} if pushed.name in names else {})
        for pushed in (image, signature, sbom, elsewhere)
    ]
    (layout.root / "index.json").write_bytes(signed.compact({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": entries}))
    lock = desk.lock(f"oci:layout:{repository.name}:1")
    assert kinds(lock) == sorted([("signature", "tag", signature.digest.hex[:12]), ("sbom", "referrer", sbom.digest.hex[:12])])
    assert listing(lock).repository == ""
    assert {pin.url.partition(":")[0] for pin in beside(lock).files} == {"file"}
    assert desk.build(lock).manifest(sbom.digest) == sbom.raw


@pytest.mark.parts
def test_an_archive_keeps_nothing_beside_an_image_and_that_is_said(running: registries.Registry, desk: Desk) -> None:
    repository = signed.Repository(running, "team/archive")
    repository.tag_signature(repository.image("1"), VENDOR)
    archive = f"docker-archive:{desk.folder / 'archive.tar'}:team/archive:1"
    images.tool("skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{running.host}/team/archive:1", archive)
    lock = desk.lock(archive)
    assert [component.name for component in lock.components] == ["tool"]
    assert lock.components[0].facts["upstream-signatures"] == "not asked for"


def _blobs(*pushed: signed.Pushed) -> set[str]:
    values = [json.loads(one.raw) for one in pushed]
    return {part["digest"] for value in values for part in (value["config"], *value["layers"])}


def _index(layout: Layout) -> Index:
    index = parse_index((layout.root / "index.json").read_bytes())
    assert index.media_type == IMAGE_INDEX
    return index
