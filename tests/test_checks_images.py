"""Configurations of images, in real layouts: who runs it, which secrets it tells, for which platform it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from parts import layers, made, stored

from airgap_images.layout import Layout
from airgap_images.oci import IMAGE_MANIFEST, Descriptor
from audit.checks import CheckResult, Subject, gate, load, run_one
from manifests import canonical

CHECK = load("images")
TOKEN = "hf_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cE1gH3j"


def checked(folder: Path, config: dict, *, platform: str | None = "linux/amd64") -> CheckResult:
    said = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}} | config
    layout, manifest = layers.image(folder, config=said)
    raw = canonical.compact({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": manifest.config.to_dict(), "layers": []})
    return checked_root(layout, Descriptor(IMAGE_MANIFEST, layout.put(raw), len(raw)), platform=platform)


def checked_root(layout: Layout, root: Descriptor, *, platform: str | None = "linux/amd64") -> CheckResult:
    return run_one(CHECK, Subject(layout, (made.image(root),), platform=platform))


def about(result: CheckResult) -> list[tuple[str, str]]:
    return [(finding.severity, finding.about) for finding in result.findings]


@pytest.mark.parametrize("user", [None, "", "root", "0", "0:0", "root:wheel", ":100", 0, ["nobody"]])
def test_root_is_told_of(tmp_path, user):
    found = checked(tmp_path, {"config": {} if user is None else {"User": user}})
    assert about(found) == [("medium", "root")]
    assert found.findings[0].message == "linux/amd64: runs as root, unless the site says otherwise"
    assert gate([found], {}).exit_code == 0


@pytest.mark.parametrize("user", ["nobody", "65534", "1000:0", "rooted", "00001"])
def test_a_user_of_its_own_passes(tmp_path, user):
    found = checked(tmp_path, {"config": {"User": user}})
    assert (found.findings, found.not_assessed, found.examined) == ((), (), 1)


def test_a_configuration_without_its_part_for_the_process_runs_as_root(tmp_path):
    assert about(checked(tmp_path, {})) == [("medium", "root")]


def test_a_secret_in_the_environment_is_refused_and_not_shown(tmp_path):
    config = {"User": "1000", "Env": ["PATH=/bin", f"HF_TOKEN={TOKEN}", 4, None], "ExposedPorts": []}
    found = checked(tmp_path, {"config": config})
    assert about(found) == [("critical", "secret")]
    assert "HF_TOKEN" in found.findings[0].message
    assert TOKEN not in str(found)
    assert gate([found], {}).exit_code == 4


def test_low_ports_are_told_of(tmp_path):
    ports = {"80/tcp": {}, "8080/tcp": {}, "0/tcp": {}, "1023/udp": {}, "9" * 5000: {}, "x": {}}
    found = checked(tmp_path, {"config": {"User": "1000", "ExposedPorts": ports}})
    assert about(found) == [("info", "port")]
    assert "listens on 1023/udp, 80/tcp," in found.findings[0].message


def test_an_image_for_another_platform_is_told_of(tmp_path):
    found = checked(tmp_path, {"architecture": "arm64", "config": {"User": "1000"}})
    assert about(found) == [("medium", "platform")]
    assert found.findings[0].message == "is for linux/arm64, the bundle for linux/amd64"
    assert gate([found], {}).exit_code == 0


def test_an_index_that_says_another_platform_than_the_image_is_refused(tmp_path):
    layout = Layout.create(tmp_path)
    listed = [stored.stored(layout, architecture="arm64").to_dict() | {"platform": {"os": "linux", "architecture": "amd64"}}]
    found = checked_root(layout, stored.put_index(layout, listed))
    assert about(found) == [("high", "mislabelled"), ("medium", "platform")]
    assert found.findings[0].message == "its index lists it as linux/amd64, its configuration says linux/arm64"
    assert gate([found], {}).exit_code == 4


@pytest.mark.parametrize(("wanted", "told"), [("linux/arm64", 0), ("linux/amd64", 0), ("linux/s390x", 1), (None, 0), ("linux/arm64/v8", 0)])
def test_an_index_is_there_for_what_it_lists(tmp_path, wanted, told):
    layout = Layout.create(tmp_path)
    root, _ = stored.indexed(layout)
    found = checked_root(layout, root, platform=wanted)
    assert [finding.about for finding in found.findings].count("platform") == told
    assert found.examined == 2


def test_a_real_image_of_a_user_passes(tmp_path):
    layout = Layout.create(tmp_path)
    found = checked_root(layout, stored.stored(layout))
    assert (found.findings, found.not_assessed, found.examined) == ((), (), 1)


@pytest.mark.parametrize("raw", [b"{", b"[]" * 3, b'{"a":1,"a":2}', b"\xff"])
def test_a_configuration_that_cannot_be_read_is_not_assessed(tmp_path, raw):
    layout = Layout.create(tmp_path)
    config = Descriptor(stored.CONFIG, layout.put(raw), len(raw))
    found = checked_root(layout, stored.put_manifest(layout, config, []))
    assert found.findings == ()
    assert len(found.not_assessed) == 1
    assert gate([found], {}).exit_code == 5


def test_what_is_no_container_image_is_left_alone(tmp_path):
    layout = Layout.create(tmp_path)
    raw = json.dumps({"name": "chart"}).encode()
    found = checked_root(layout, stored.put_manifest(layout, Descriptor("application/vnd.cncf.helm.config.v1+json", layout.put(raw), len(raw)), []))
    assert (found.findings, found.not_assessed, found.examined) == ((), (), 0)


def test_trees_are_not_looked_at(tmp_path):
    layout = Layout.create(tmp_path)
    assert run_one(CHECK, Subject(layout, (made.tree(layout, "docs"),))).examined == 0


def test_a_manifest_that_is_gone_is_not_assessed(tmp_path):
    layout = Layout.create(tmp_path)
    root = stored.stored(layout)
    stored.damage(layout, root, 3)
    assert len(checked_root(layout, root).not_assessed) == 1
