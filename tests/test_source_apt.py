"""Kind `apt`: packages with all they need, from archives that real apt proves; inside, a repository that real apt proves again."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from parts import debarchive
from parts.cli import Desk
from parts.debarchive import SUITE, Archive

from audit import repository
from audit.install.store import Store
from bundler import apttool
from manifests.errors import AirgapError, IntegrityError, NetworkError, SiteError, UsageError
from manifests.lock import Lock

pytestmark = pytest.mark.parts


@pytest.fixture
def made(tmp_path: Path):
    with debarchive.archive(tmp_path / "archive") as found:
        found.package("app", "1:1.0+x", depends="lib (>= 2), tool | other", recommends="extra")
        found.package("lib", "1.9")
        found.package("lib", "2.0")
        found.package("tool", "1")
        found.package("extra", "1")
        found.package("broken", "1", depends="nowhere")
        found.publish()
        yield found


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def intent(desk: Desk, made: Archive, packages: str = "[app]", **more: str) -> Path:
    extra = "".join(f", {key}: {value}" for key, value in more.items())
    return desk.write_intent(f"name: debs, kind: apt, suite: {SUITE}, mirror: '{made.mirror}', keyring: '{made.keyring}', packages: {packages}{extra}")


def locked(desk: Desk, made: Archive, packages: str = "[app]", **more: str):
    desk.bundle("lock", intent(desk, made, packages, **more))
    return Lock.load(desk.folder / "bundle.lock.json").components[0]


def names(component) -> list[str]:
    return [pin.path.rsplit("/", 1)[-1] for pin in component.files if pin.path.endswith(".deb")]


def test_a_package_comes_with_all_it_needs_and_what_signed_it(desk, made):
    component = locked(desk, made)
    assert names(component) == ["app_1.0+x_amd64.deb", "lib_2.0_amd64.deb", "tool_1_amd64.deb"]
    assert [pin.path for pin in component.files if not pin.path.endswith(".deb")] == [f"dists/{SUITE}/main/binary-amd64/Packages.xz", "keyring.gpg"]
    texts = {inline.path: inline.text for inline in component.inline}
    assert texts[f"dists/{SUITE}/InRelease"].startswith("-----BEGIN PGP SIGNED MESSAGE-----")
    assert json.loads(texts["repository.json"]) == {
        "format": "airgap.apt/v1", "suites": [SUITE], "components": ["main"], "architecture": "amd64", "recommends": False, "expires": False,
    }  # fmt: skip
    assert component.identity["distro"] == "debian-12"
    assert component.identity["packages"] == "3"
    app = next(pin for pin in component.files if "app_" in pin.path)
    assert app.evidence == {"package": "app", "version": "1:1.0+x", "architecture": "amd64"}
    first = (desk.folder / "bundle.lock.json").read_bytes()
    desk.bundle("lock", "bundle.yaml")
    assert (desk.folder / "bundle.lock.json").read_bytes() == first


def test_versions_recommendations_and_what_the_target_has(desk, made, tmp_path):
    assert "extra_1_amd64.deb" in names(locked(desk, made, recommends="true"))
    assert names(locked(desk, made, "[lib=1.9]")) == ["lib_1.9_amd64.deb"]
    status = "Package: lib\nStatus: install ok installed\nVersion: 2.0\nArchitecture: amd64\nMaintainer: A <a@b.c>\nDescription: lib\n\n"
    (tmp_path / "status").write_text(status)
    component = locked(desk, made, status="./status")
    assert names(component) == ["app_1.0+x_amd64.deb", "tool_1_amd64.deb"]
    assert component.facts["target"] == "as its dpkg status says"


@pytest.mark.parametrize(
    ("packages", "says"),
    [("[nothing]", "Unable to locate package nothing"), ("[lib=9]", "was not found"), ("[broken]", "no set of packages satisfies this"), ("['-x']", "bundle.yaml:"), ("[A]", "bundle.yaml:")],
)
def test_what_is_not_there_is_said(desk, made, packages, says):
    done = desk.bundle("lock", intent(desk, made, packages), code=2)
    assert says in done.err
    assert not (desk.folder / "bundle.lock.json").exists()


@pytest.mark.parametrize("mirror", ["http://user:secret@a.example/debian", "ftp://a.example/debian", "http://a.example/debian?token=secret", "http://a.example/x y"])
def test_a_mirror_is_a_plain_address_without_secrets(desk, mirror):
    path = desk.write_intent(f"name: debs, kind: apt, suite: {SUITE}, mirror: '{mirror}', packages: [app]")
    done = desk.bundle("lock", path, code=2)
    assert "components.0.mirror" in done.err


def test_an_archive_signed_by_a_stranger_is_refused(desk, made):
    made.publish(user="stranger@example.org")
    refused(desk, made, "is not what the keyring vouches for")


def test_a_changed_release_is_refused(desk, made):
    made.serve(f"dists/{SUITE}/InRelease", made.publish().replace(b"Components: main", b"Components: evil"))
    refused(desk, made, "is not what the keyring vouches for")


def test_an_unsigned_release_is_refused(desk, made):
    made.serve(f"dists/{SUITE}/InRelease", made.release())
    refused(desk, made, "")


def test_an_expired_release_is_refused(desk, made):
    made.publish(days=-3)
    refused(desk, made, "has expired")


def test_a_confused_index_is_refused(desk, made):
    for ending in ("", ".xz"):
        made.serve(f"dists/{SUITE}/main/binary-amd64/Packages{ending}", b"Package: app\nVersion: 9\n")
    refused(desk, made, "")


def refused(desk: Desk, made: Archive, says: str) -> None:
    done = desk.bundle("lock", intent(desk, made), code=None)
    assert done.code in {1, 3}
    assert says in done.err
    assert done.err.count("\nerror: ") + done.err.startswith("error: ") == 1
    assert not (desk.folder / "bundle.lock.json").exists()


def test_a_package_that_was_swapped_after_locking_cannot_get_in(desk, made):
    component = locked(desk, made)
    pin = next(pin for pin in component.files if "tool_" in pin.path)
    made.serve(pin.path, made.packages[pin.path][1][:-1] + b"x")
    done = desk.bundle("build", "bundle.lock.json", "--out", "bundle", code=3)
    assert "tool_1_amd64.deb" in done.err


def test_a_machine_without_apt_says_so(desk, made, monkeypatch):
    monkeypatch.setattr(apttool.shutil, "which", lambda _name: None)
    with pytest.raises(SiteError, match="apt-get is not on this machine"):
        apttool.configured("bookworm")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("E: The repository 'x' is not signed.", IntegrityError),
        ("W: GPG error: x InRelease: The following signatures couldn't be verified because the public key is not available: NO_PUBKEY 1", IntegrityError),
        ("E: Release file for x is expired (invalid since 3d).", IntegrityError),
        ("E: Failed to fetch x  Hash Sum mismatch", IntegrityError),
        ("E: Failed to fetch x  Could not connect", NetworkError),
        ("E: Unable to locate package x", UsageError),
        ("The following packages have unmet dependencies:\n x : Depends: y but it is not installable\nE: Unable to correct problems", UsageError),
        ("", NetworkError),
        ("E: \x1b[31mred\u202e", AirgapError),
    ],
)
def test_what_apt_says_becomes_one_line(words, kind):
    error = apttool._failure("debs", words)
    assert isinstance(error, kind)
    assert error.message.startswith("debs: ")
    assert error.message.isprintable()


# ------------------------------------------------------------------------------------------------------------------------- inside


@pytest.fixture
def installed(desk, made):
    """A store in which the repository is installed."""
    locked(desk, made)
    desk.trust()
    desk.bundle("build", "bundle.lock.json", "--out", "bundle")
    desk.sign("bundle")
    desk.audit("install", "bundle", "--policy", "policy.json", "--store", "store", code=5)
    return desk.folder / "store"


def test_apt_accepts_it_without_a_network(desk, installed, tmp_path):
    """The machine's own apt, in a root of its own and a namespace without any network, proves the archive's signature once more."""
    done = desk.audit("repository", "add", "debs", "--store", installed, "--out", tmp_path / "airgap-debs.sources")
    assert "written" in done.out
    assert "now: apt-get update && apt-get install --no-install-recommends PACKAGE" in done.out
    assert "unchanged" in desk.audit("repository", "add", "debs", "--store", installed, "--out", tmp_path / "airgap-debs.sources").out
    assert asked(tmp_path, "update").returncode == 0
    found = asked(tmp_path, "--yes", "--no-install-recommends", "--download-only", "install", "app")
    assert found.returncode == 0, found.stderr
    for name in ("app", "lib", "tool"):
        assert asked(tmp_path, "--print-uris", "--yes", "install", name).stdout
    release = installed / "current" / "debs" / "dists" / SUITE / "InRelease"
    text = release.read_bytes()
    release.unlink()
    release.write_bytes(text.replace(b"Origin: Debian", b"Origin: Nobody"))
    assert asked(tmp_path, "update").returncode != 0, "apt proves the signature of the archive itself"
    release.write_bytes(text)
    (deb,) = (installed / "current" / "debs" / "pool").rglob("tool_1_amd64.deb")
    deb.unlink()
    deb.write_bytes(b"!<arch>\nswapped")
    assert asked(tmp_path, "--yes", "--download-only", "install", "tool").returncode != 0


def asked(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    root = folder / "apt"
    for part in ("lists/partial", "archives/partial"):
        (root / part).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    options = {
        "Dir::State": root, "Dir::State::status": root / "status", "Dir::Cache": root, "Dir::Cache::archives": root / "archives",
        "Dir::Etc::sourcelist": folder / "airgap-debs.sources", "Dir::Etc::sourceparts": "/dev/null", "Dir::Etc::trusted": "/dev/null",
        "Dir::Etc::trustedparts": "/dev/null", "APT::Sandbox::User": "root", "APT::Update::Error-Mode": "any", "Acquire::Languages": "none",
    }  # fmt: skip
    listed = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    return subprocess.run(["unshare", "-n", "apt-get", *listed, *arguments], capture_output=True, text=True, check=False)


def test_a_flat_repository_is_carried_and_accepted_too(desk, made, tmp_path):
    """As NVIDIA publishes CUDA: no `dists`, the index beside the packages."""
    made.publish_flat()
    path = desk.write_intent(f"name: debs, kind: apt, suite: /, mirror: '{made.mirror}/flat', keyring: '{made.keyring}', packages: [app]")
    desk.bundle("lock", path)
    component = Lock.load(desk.folder / "bundle.lock.json").components[0]
    assert [pin.path for pin in component.files if not pin.path.endswith(".deb")] == ["Packages.xz", "keyring.gpg"]
    assert {inline.path for inline in component.inline} == {"InRelease", "repository.json"}
    desk.trust()
    desk.bundle("build", "bundle.lock.json", "--out", "bundle")
    desk.sign("bundle")
    desk.audit("install", "bundle", "--policy", "policy.json", "--store", "store", code=5)
    desk.audit("repository", "add", "debs", "--store", "store", "--out", tmp_path / "airgap-debs.sources")
    updated = asked(tmp_path, "update")
    assert updated.returncode == 0, updated.stderr
    found = asked(tmp_path, "--yes", "--no-install-recommends", "--download-only", "install", "app")
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("days", [None, 3])
def test_apt_is_told_not_to_check_an_end_that_passes_inside(desk, made, tmp_path, days):
    made.publish(days=days)
    locked(desk, made)
    desk.trust()
    desk.bundle("build", "bundle.lock.json", "--out", "bundle")
    desk.sign("bundle")
    desk.audit("install", "bundle", "--policy", "policy.json", "--store", "store", code=5)
    shown = desk.audit("repository", "show", "debs", "--store", "store", "--json").json
    assert ("Check-Valid-Until: no" in shown["sources"]) == shown["expires"] == (days is not None)
    assert f"Signed-By: {desk.folder}/store/current/debs/keyring.gpg" in shown["sources"]
    assert "Trusted" not in shown["sources"]


def test_the_evidence_lists_every_package_with_its_system(desk, made, installed):
    desk.audit("evidence", "--store", installed, "--out", "evidence", code=5)
    items = json.loads((desk.folder / "evidence" / "verification.json").read_text())["inventory"]["items"]
    found = {item["name"]: item for item in items if item["component"] == "debs" and item["what"] == "package"}
    assert found["app"]["purl"] == "pkg:deb/debian/app@1:1.0%2Bx?arch=amd64&distro=debian-12"
    assert found["app"]["requires"] == [found["lib"]["ref"], found["tool"]["ref"]]
    assert found["app"]["origin"] == f"{made.mirror}/pool/main/a/app/app_1.0%2bx_amd64.deb"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"{}", "repository.json"),
        (b'{"architecture":"amd64","components":["main"],"expires":false,"format":"airgap.apt/v1","recommends":false,"suites":["a b"]}', "suites"),
        (b'{"architecture":"amd64","components":["main\\nTrusted: yes"],"expires":false,"format":"airgap.apt/v1","recommends":false,"suites":["a"]}', "components"),
        (b'{"architecture":"amd64","components":["main"],"expires":false,"format":"airgap.apt/v2","recommends":false,"suites":["a"]}', "format"),
    ],
)
def test_a_repository_that_says_more_than_it_may_is_refused(installed, raw, says):
    about = installed / "current" / "debs" / "repository.json"
    about.unlink()
    about.write_bytes(raw)
    with pytest.raises(AirgapError, match=says):
        repository.sources(Store.existing(installed), "debs")


def test_names_that_are_no_repository_are_refused(desk, installed):
    assert "there are: debs" in desk.audit("repository", "show", "airgap-lock", "--store", installed, code=2).err
    assert "no name of a component" in desk.audit("repository", "show", "../debs", "--store", installed, code=2).err
    assert f"URIs: file:{installed}/current/debs" in desk.audit("repository", "show", "debs", "--store", installed).out
