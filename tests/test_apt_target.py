"""A clean Debian with no network installs from the bundle what real Debian signed, by its own apt."""

from __future__ import annotations

import pytest
from parts import debroot
from parts.cli import Desk

pytestmark = [pytest.mark.parts, pytest.mark.network]


def test_a_clean_machine_installs_from_the_bundle(tmp_path_factory):
    desk = Desk(tmp_path_factory.mktemp("desk"))
    desk.write_intent(f"name: tools, kind: apt, suite: {debroot.SUITE}, packages: [jq]")
    desk.bundle("lock", "bundle.yaml")
    desk.trust()
    desk.bundle("build", "bundle.lock.json", "--out", "bundle")
    desk.sign("bundle")
    store = desk.folder / "store"
    desk.audit("install", "bundle", "--policy", "policy.json", "--store", store, code=5, isolated=True)
    with debroot.copy(desk.folder, store) as root:
        assert root.run("apt-get", "install", "--yes", "jq").returncode != 0, "nothing is there before"
        desk.audit("repository", "add", "tools", "--store", store, "--out", root.folder / "etc/apt/sources.list.d/airgap-tools.sources")
        updated = root.run("apt-get", "-o", "APT::Update::Error-Mode=any", "update")
        assert updated.returncode == 0, updated.stdout + updated.stderr
        done = root.run("apt-get", "install", "--yes", "--no-install-recommends", "jq")
        assert done.returncode == 0, done.stdout + done.stderr
        assert root.run("jq", "-n", "1 + 1").stdout == "2\n"
        assert root.run("getent", "hosts", "deb.example").returncode != 0
