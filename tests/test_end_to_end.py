"""The main job with real parts on both sides: a hub, a registry, a web server, a package index, an engine, and no network inside."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from parts import engine as engines
from parts import httpd, hub, images, models
from parts.cli import NO_NETWORK, Desk, need_namespaces
from parts.registry import registry
from parts.signed import Pushed, Repository
from parts.upstream import VENDOR

from airgap_images.oci import IMAGE_MANIFEST

pytestmark = [pytest.mark.parts, pytest.mark.network]
DRIVER = bytes(range(256)) * 40_000
TARGET = 'target: {platform: linux/amd64, python: "3.11", manylinux: "2_28"}'


@dataclass(frozen=True)
class Journey:
    """A signed bundle of every kind, the desk it was made on, and what the registry said of the image."""

    desk: Desk
    commit: str
    image: str
    digest: str

    @property
    def bundle(self) -> Path:
        return self.desk.folder / "bundle"


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    folder = tmp_path_factory.mktemp("journey")
    models.write(folder / "mini", models.llama(seed=1))
    (folder / "docs").mkdir()
    (folder / "docs" / "read me.txt").write_text("hello\n")
    with hub.Hub() as server, httpd.Server() as web, registry(folder / "registry") as upstream:
        desk = Desk(folder, (("HF_ENDPOINT", server.endpoint), ("HF_HUB_DISABLE_TELEMETRY", "1")))
        commit = server.publish("acme/tiny", models.llama())
        images.busybox().push(upstream.host, "team/busybox:1.0")
        image = f"{upstream.host}/team/busybox:1.0"
        manifest = images.tool("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{image}").encode()
        Repository(upstream, "team/busybox").tag_signature(Pushed(manifest, IMAGE_MANIFEST), VENDOR)
        digest = json.loads(images.tool("skopeo", "inspect", "--tls-verify=false", f"docker://{image}"))["Digest"]
        url = web.serve("/driver.run", DRIVER)
        desk.write_intent(
            "name: docs, kind: path, path: ./docs",
            "name: mini, kind: model, path: ./mini",
            "name: tiny, kind: huggingface, repo: acme/tiny",
            f"name: server, kind: image, ref: '{image}', role: inference",
            f"name: driver, kind: url, url: '{url}', sha256: '{hashlib.sha256(DRIVER).hexdigest()}'",
            'name: tools, kind: python, requirements: ["rich>=13", "idna"]',
            extra=TARGET,
        )
        desk.trust()
        (folder / "vendor.pub").write_text(VENDOR.pem)
        desk.bundle("policy", "upstream-key", "policy.json", "--identity", "vendor=vendor.pub")
        desk.bundle("policy", "upstream-image", "policy.json", "--match", "127.0.0.1:*/team/*", "--signed-by", "vendor")
        desk.bundle("lock", "bundle.yaml")
        first = (folder / "bundle.lock.json").read_bytes()
        desk.bundle("lock", "bundle.yaml", "--check")
        shutil.rmtree(folder / "cache")
        desk.bundle("lock", "bundle.yaml")
        assert (folder / "bundle.lock.json").read_bytes() == first
        desk.bundle("build", "bundle.lock.json", "--out", "bundle", "--policy", "policy.json")
        desk.bundle("build", "bundle.lock.json", "--out", "again", "--cache", "other-cache", code=5)  # without a policy the image is not assessed
        again = desk.bundle("build", "bundle.lock.json", "--out", "bundle", "--policy", "policy.json", "--json").json
        assert (again["changed"], again["fetched"]["bytes"]) == (False, 0)
        desk.sign("bundle")
        yield Journey(desk, commit, image, digest)


def test_two_folders_hold_the_same_bundle(journey: Journey) -> None:
    for name in ("index.json", "SHA256SUMS"):
        assert (journey.bundle / name).read_bytes() == (journey.desk.folder / "again" / name).read_bytes()


def test_stock_tools_read_the_bundle(journey: Journey) -> None:
    subprocess.run(["sha256sum", "-c", "--strict", "--quiet", "SHA256SUMS"], cwd=journey.bundle, check=True)
    inspected = json.loads(images.tool("skopeo", "inspect", f"oci:{journey.bundle}:server"))
    assert inspected["Digest"] == journey.digest
    target = journey.desk.folder / "copied"
    images.tool("skopeo", "copy", "--preserve-digests", f"oci:{journey.bundle}:server", f"oci:{target}:server")
    assert json.loads(images.tool("skopeo", "inspect", f"oci:{target}:server"))["Digest"] == journey.digest


def test_everything_on_the_isolated_side_runs_without_a_network(journey: Journey) -> None:
    desk, policy, store = journey.desk, "policy.json", "store-isolated"
    verified = desk.audit("verify", "bundle", "--policy", policy, "--json", isolated=True).json
    assert (verified["verdict"], [(found["component"], found["result"]) for found in verified["upstream"] if found["seen"]]) == (
        "proved", [("server", "good")],
    )  # fmt: skip
    desk.audit("inspect", "bundle", isolated=True)
    installed = desk.audit("install", "bundle", "--policy", policy, "--store", store, "--json", isolated=True, code=5).json
    assert installed["changed"] is True
    (image,) = installed["receipt"]["images"]
    assert image["placements"] == []
    assert image["reason"]
    desk.audit("check", "--store", store, isolated=True, code=5)
    desk.audit("evidence", "--store", store, "--out", "evidence", isolated=True, code=5)
    report = json.loads((desk.folder / "evidence" / "verification.json").read_text())
    assert (report["verdict"], report["drift"]["outcome"]) == ("proved", "as installed")
    purls = {item["purl"] for item in report["inventory"]["items"]}
    assert any(purl and purl.startswith("pkg:pypi/rich@") for purl in purls)
    assert f"pkg:huggingface/acme/tiny@{journey.commit}" in purls
    assert any(purl and purl.startswith("pkg:oci/busybox@sha256") for purl in purls)
    subprocess.run(["sha256sum", "-c", "--strict", "--quiet", "SHA256SUMS"], cwd=desk.folder / "evidence", check=True)
    again = desk.audit("install", "bundle", "--policy", policy, "--store", store, "--json", isolated=True, code=5).json
    assert again["changed"] is False
    desk.audit("journal", "verify", "--store", store, isolated=True)


def test_what_is_installed_works_without_a_network(journey: Journey) -> None:
    need_namespaces()
    desk = journey.desk
    desk.audit("install", "bundle", "--policy", "policy.json", "--store", "store-used", code=5)
    current = desk.folder / "store-used" / "current"
    code = "import huggingface_hub as h; print(h.snapshot_download('acme/tiny', local_files_only=True))"
    environment = desk.env() | {"HF_HUB_CACHE": str(current / "tiny"), "HF_HUB_OFFLINE": "1"}
    python = [*NO_NETWORK, shutil.which("python3") or "python3"]
    import sys

    python[-1] = sys.executable
    done = subprocess.run([*python, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert (Path(done.stdout.strip()) / "config.json").is_file()
    target = desk.folder / "site"
    command = ["-m", "pip", "install", "--quiet", "--no-index", "--target", target, "--require-hashes", "--find-links"]
    tools = current / "tools"
    subprocess.run([*python, *command, tools / "wheels", "-r", tools / "requirements.txt"], env=desk.env(), check=True)
    assert (target / "rich").is_dir()
    assert (current / "driver" / "driver.run").read_bytes() == DRIVER
    assert (current / "docs" / "read me.txt").read_text() == "hello\n"


def test_the_image_runs_in_a_real_engine_under_the_registrys_digest(journey: Journey) -> None:
    with engines.engine() as running:
        desk = Desk(journey.desk.folder, tuple(running.environment.items()))
        (desk.folder / "site.yaml").write_text("store: ./store-engine\nengine: docker\n")
        site = ("--site", "site.yaml")
        installed = desk.audit("install", "bundle", "--policy", "policy.json", *site, "--json", code=5).json
        (image,) = installed["receipt"]["images"]
        raw = (journey.bundle / "blobs" / "sha256" / journey.digest.removeprefix("sha256:")).read_bytes()
        assert image["placements"][0]["id"] == json.loads(raw)["config"]["digest"]
        assert running.run(journey.image) == f"{images.GREETING}\n"
        desk.audit("check", *site, code=5)
        running.docker("image", "rm", "--force", journey.image)
        assert "server" in desk.audit("check", *site, code=3).out
        desk.audit("install", "bundle", "--policy", "policy.json", *site, code=5)
        desk.audit("check", *site, code=5)
        desk.audit("uninstall", *site)
        assert running.images() == set()


def test_any_changed_byte_is_refused_and_named(journey: Journey, tmp_path: Path) -> None:
    copied = tmp_path / "bundle"
    shutil.copytree(journey.bundle, copied)
    files = sorted(path for path in copied.rglob("*") if path.is_file())
    largest = sorted(files, key=lambda path: -path.stat().st_size)[:3]
    chosen = {*largest, *files[:: max(1, len(files) // 12)], copied / "index.json", copied / "SHA256SUMS", copied / "oci-layout"}
    for path in sorted(chosen):
        good, mode = path.read_bytes(), path.stat().st_mode
        path.chmod(0o644)
        at = len(good) // 2
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        refused = journey.desk.audit("verify", copied, "--policy", "policy.json", code=3)
        assert path.relative_to(copied).as_posix() in refused.err, path
        path.write_bytes(good)
        path.chmod(mode)
    journey.desk.audit("verify", copied, "--policy", "policy.json")


def test_the_newer_serial_is_installed_and_the_older_then_refused_but_rollback_works(journey: Journey) -> None:
    desk, store = journey.desk, ("--store", "store-serials")
    desk.audit("install", "bundle", "--policy", "policy.json", *store, code=5)
    shutil.copytree(journey.bundle, desk.folder / "next", ignore=shutil.ignore_patterns("signatures"))
    (desk.folder / "docs-only").mkdir(exist_ok=True)
    intent = "apiVersion: airgap/v1\nname: t\nstream: s\ncomponents:\n  - {name: docs, kind: path, path: ./docs}\n"
    (desk.folder / "small.yaml").write_text(intent)
    desk.bundle("lock", "small.yaml")
    desk.bundle("build", "small.lock.json", "--out", "small")
    desk.sign("small", serial=2)
    desk.audit("install", "small", "--policy", "policy.json", *store)
    refused = desk.audit("install", "bundle", "--policy", "policy.json", *store, code=3)
    assert "already accepted 2" in refused.err
    assert "already accepted 2" in desk.audit("verify", "bundle", "--policy", "policy.json", "--state", "store-serials", code=3).err
    assert desk.audit("rollback", *store, "--json").json["generation"] == 1
    desk.audit("check", *store, code=5)
    assert "already accepted 2" in desk.audit("install", "bundle", "--policy", "policy.json", *store, code=3).err


def test_kill_9_during_install_then_again_ends_the_same(journey: Journey) -> None:
    desk = journey.desk
    for at, delay in enumerate((0.15, 0.3, 0.4, 0.5, 0.6, 0.7)):
        store = f"store-killed-{at}"
        process = desk.start("audit", "install", "bundle", "--policy", "policy.json", "--store", store)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        desk.audit("install", "bundle", "--policy", "policy.json", "--store", store, code=5)
        desk.audit("check", "--store", store, code=5)
        desk.audit("journal", "verify", "--store", store)
        generations = [name for name in os.listdir(desk.folder / store / "generations") if not name.startswith(".")]
        assert len(generations) == 1
