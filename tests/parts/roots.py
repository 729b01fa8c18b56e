"""Images whose insides are known: real Debian packages, real wheels, real rpms, jars, Go programs, and an Alpine database.

Databases are written by the tools that own them where these can be had (`rpm`, `uv`, `dpkg-deb` for the fields); an apk database is written
here, in the form apk-tools writes it. Layers are made by `tar`, images by `umoci`; what is made is kept under `parts-cache/`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from parts import images
from parts import syft as peer
from parts.images import CACHE, Image, tool

from airgap_images.layout import Layout
from airgap_images.oci import Descriptor, Manifest

RECIPE = 2  # count up when a recipe changes, so that nothing older is taken from the cache
DEBS = (
    "base-files", "base-passwd", "bash", "ca-certificates", "coreutils", "dpkg", "gcc-12-base", "libc6", "libcrypt1", "libexpat1",
    "libgcc-s1", "libpython3.11-minimal", "libpython3.11-stdlib", "libselinux1", "libssl3", "openssl", "perl-base", "python3",
    "python3-minimal", "python3-six", "python3.11", "python3.11-minimal", "tzdata", "zlib1g", "skopeo",
)  # fmt: skip
LARGE_DEBS = ("git", "perl-modules-5.36", "libperl5.36", "openjdk-17-jre-headless", "libicu72", "libllvm14", "containerd", "locales", "vim-runtime")
LARGE_WHEELS = ("numpy==2.2.1", "pandas==2.2.3", "scipy==1.15.0", "transformers==4.48.0", "lxml==5.3.0", "sqlalchemy==2.0.37")
WHEELS = ("requests==2.32.3", "cryptography==44.0.0", "pydantic==2.10.4", "PyYAML==6.0.2", "Jinja2==3.1.5", "zope.interface==7.2")
JARS = ("libcommons-lang3-java", "libjackson2-core-java", "libslf4j-java", "junit4", "libguava-java")
APKS = (
    {"P": "musl", "V": "1.2.4-r2", "L": "MIT", "o": "musl", "files": ("lib/ld-musl-x86_64.so.1",)},
    {"P": "busybox", "V": "1.36.1-r5", "L": "GPL-2.0-only", "o": "busybox", "files": ("bin/busybox",)},
    {"P": "ssl_client", "V": "1.36.1-r5", "L": "GPL-2.0-only", "o": "busybox", "files": ("usr/bin/ssl_client",)},
    {"P": "libcrypto3", "V": "3.1.4-r1", "L": "Apache-2.0", "o": "openssl", "files": ("lib/libcrypto.so.3",)},
    {"P": "alpine-baselayout", "V": "3.4.3-r1", "L": "GPL-2.0-only", "o": "alpine-baselayout", "files": ("etc/hosts",)},
)
RPMS = (("alpha", "1.2", "3.el9", 0, "MIT"), ("beta-libs", "0.9~rc1", "1.el9", 2, "GPLv2+ and BSD"), ("gamma", "2024.1", "7.el9_4", None, "ASL 2.0"))
ALPINE = 'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.19.1\nPRETTY_NAME="Alpine Linux v3.19"\n'
ROCKY = 'NAME="Rocky Linux"\nID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\nPRETTY_NAME="Rocky Linux 9.4"\n'


def opened(image: Image) -> tuple[Layout, Manifest]:
    """Open an image's layout and its manifest."""
    layout = Layout(image.layout)
    entry = json.loads((image.layout / "index.json").read_bytes())["manifests"][0]
    raw = layout.read(Descriptor.from_dict(entry, "index.json"), 1 << 22)
    return layout, Manifest.parse(raw, "manifest")


def write(layout: Path, *tars: Path) -> Image:
    """Make an image of layers that are tar archives."""
    name = f"{layout}:1.0"
    tool("umoci", "init", "--layout", layout)
    tool("umoci", "new", "--image", name)
    for tar in tars:
        tool("umoci", "raw", "add-layer", "--image", name, tar)
    tool("umoci", "gc", "--layout", layout)
    return Image(layout, "1.0")


def pack(folder: Path) -> Path:
    """Make a layer of a folder."""
    tar = folder.with_suffix(".tar")
    tool("tar", "--sort=name", "--mtime=@1700000000", "--owner=0", "--group=0", "--numeric-owner", "-C", folder, "-cf", tar, ".")
    return tar


def cached(name: str, make: Callable[[Path], tuple[Path, ...]]) -> Image:
    """Give the image `make` makes the layer folders of, from the cache when it is there."""
    images.need("umoci", "tar")
    made = CACHE / f"root-{name}-{RECIPE}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f".{made.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_dir():
            work = CACHE / f".{made.name}.work"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            write(work / "layout", *(pack(folder) for folder in make(work)))
            (work / "layout").rename(made)
            shutil.rmtree(work)
    return Image(made, "1.0")


def debian() -> Image:
    """Debian with a Python, a Go program, and pip packages in a second layer that removes one package's files."""
    images.need("apt-get", "dpkg-deb")
    return cached("debian", _debian)


def _debian(work: Path) -> tuple[Path, ...]:
    lower, upper = work / "lower", work / "upper"
    install_debs(lower, images._download(work, DEBS))
    install_wheels(upper / "opt/app/lib/python3.11/site-packages", *WHEELS)
    return lower, upper


def large() -> Image:
    """A few hundred MiB for the benchmark: Debian with Java and git, and wheels with many files."""
    images.need("apt-get", "dpkg-deb")
    return cached("large", _large)


def _large(work: Path) -> tuple[Path, ...]:
    lower, upper = work / "lower", work / "upper"
    install_debs(lower, images._download(work, (*DEBS, *LARGE_DEBS)))
    install_wheels(upper / "opt/app/lib/python3.11/site-packages", *WHEELS, *LARGE_WHEELS)
    return lower, upper


def install_debs(root: Path, debs: list[Path]) -> None:
    """Unpack packages and write the database as dpkg does; no script of a package is run."""
    info = root / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    status = []
    for deb in debs:
        tool("dpkg-deb", "-x", deb, root)
        lines = tool("dpkg-deb", "-f", deb).rstrip("\n").split("\n")
        status.append("\n".join((lines[0], "Status: install ok installed", *lines[1:])) + "\n")
        fields = dict(line.split(": ", 1) for line in lines if ": " in line and line[0] != " ")
        name = fields["Package"] + (f":{fields['Architecture']}" if fields.get("Multi-Arch") == "same" else "")
        names = [line.split(None, 5)[5].split(" -> ")[0] for line in tool("dpkg-deb", "-c", deb).splitlines()]
        sums = subprocess.run(["dpkg-deb", "-I", deb, "md5sums"], capture_output=True, check=False)
        if sums.returncode == 0:
            (info / f"{name}.md5sums").write_bytes(sums.stdout)
        (info / f"{name}.list").write_text("".join("/.\n" if path == "./" else f"{path[1:].rstrip('/')}\n" for path in names))
    (root / "var/lib/dpkg/status").write_text("\n".join(status))


def install_wheels(target: Path, *requirements: str) -> None:
    """Install real wheels, and all they need, from the package index that this machine is set up for."""
    uv = Path(sys.executable).parent / "uv"
    options = ("--quiet", "--python", sys.executable, "--only-binary", ":all:", "--link-mode", "copy")
    done = subprocess.run([uv, "pip", "install", *options, "--target", target, *requirements], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def alpine() -> Image:
    """A root with the database that apk writes; the programs are this machine's busybox."""
    return cached("alpine", _alpine)


def _alpine(work: Path) -> tuple[Path, ...]:
    root = work / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").write_text(ALPINE)
    database = root / "lib/apk/db/installed"
    database.parent.mkdir(parents=True)
    database.write_text("".join(map(apk_entry, APKS)))
    for entry in APKS:
        for path in entry["files"]:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy("/bin/busybox", root / path)
    (root / "usr/local/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "usr/local/bin/stray")
    return (root,)


def apk_entry(entry: dict) -> str:
    """Write one entry of an installed database as apk-tools does."""
    lines = [f"C:Q1{'A' * 26}=", f"P:{entry['P']}", f"V:{entry['V']}", "A:x86_64", "S:1024", "I:4096", f"T:the package {entry['P']}"]
    lines += ["U:https://example.org/", f"L:{entry['L']}", f"o:{entry['o']}", "m:Nobody <nobody@example.org>", "t:1700000000", "c:0123456789abcdef"]
    lines += ["D:so:libc.musl-x86_64.so.1", f"p:cmd:{entry['P']}={entry['V']}"]
    for path in entry["files"]:
        folder, _, name = path.rpartition("/")
        lines += [f"F:{folder}", f"R:{name}", "a:0:0:755", f"Z:Q1{'B' * 26}="]
    return "\n".join(lines) + "\n\n"


def rpms() -> Image:
    """A root whose rpm database `rpm` wrote, of packages that `rpmbuild` built."""
    images.need("rpmbuild", "rpm")
    return cached("rpm", _rpms)


def _rpms(work: Path) -> tuple[Path, ...]:
    root = work / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").write_text(ROCKY)
    built = [rpm(work, *package) for package in RPMS]
    database = ("--root", root, "--dbpath", "/var/lib/rpm", "--define", "_db_backend sqlite")
    tool("rpm", *database, "--initdb")
    tool("rpm", *database, "-i", "--nodeps", "--justdb", "--ignorearch", "--nosignature", *built)
    for name in os.listdir(root / "var/lib/rpm"):
        if name != "rpmdb.sqlite":
            (root / "var/lib/rpm" / name).unlink()
    for name, *_ in RPMS[:2]:
        (root / "opt" / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", root / "opt" / name / "tool")
    return (root,)


def rpm(work: Path, *said: str | int | None) -> Path:
    """Build an rpm of name, version, release, epoch and licence that owns `/opt/<name>/tool`."""
    name, version, release, epoch, licence = said
    top = work / f"build-{name}"
    top.mkdir()
    spec = top / f"{name}.spec"
    head = f"Name: {name}\nVersion: {version}\nRelease: {release}\nSummary: s\nLicense: {licence}\n" + (f"Epoch: {epoch}\n" if epoch is not None else "")
    rest = f"%description\nd\n%install\nmkdir -p %{{buildroot}}/opt/{name}\ntouch %{{buildroot}}/opt/{name}/tool\n%files\n/opt/{name}\n"
    spec.write_text(head + rest)
    tool("rpmbuild", "--quiet", "-bb", "--define", f"_topdir {top}", "--define", "__brp_strip %{nil}", spec)
    return next((top / "RPMS").rglob("*.rpm"))


def mixed() -> Image:
    """Node packages, jars of Debian packages and one of our own, Go programs, eggs."""
    images.need("apt-get", "dpkg-deb", "skopeo", "umoci")
    return cached("mixed", _mixed)


def _mixed(work: Path) -> tuple[Path, ...]:
    root = work / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").write_text(ROCKY)
    _node(root / "srv/web")
    for deb in images._download(work, JARS):
        tool("dpkg-deb", "-x", deb, root)
    _jars(root / "srv/java")
    (root / "usr/local/bin").mkdir(parents=True)
    for program in ("umoci", "skopeo"):
        shutil.copy(images.find(program), root / "usr/local/bin")
    _eggs(root / "usr/lib/python3/dist-packages")
    return (root,)


def syft() -> Image:
    """A Go program of many modules: the peer's own."""
    return cached("syft", _syft)


def _syft(work: Path) -> tuple[Path, ...]:
    target = work / "root/usr/local/bin/syft"
    target.parent.mkdir(parents=True)
    shutil.copy(peer.program(), target)
    return (work / "root",)


def _node(folder: Path) -> None:
    stated = {
        "package.json": {"name": "web", "version": "1.0.0", "license": "MIT"},
        "node_modules/left/package.json": {"name": "left", "version": "1.3.0", "license": {"type": "WTFPL"}},
        "node_modules/left/node_modules/left/package.json": {"name": "left", "version": "1.2.0", "licenses": [{"type": "MIT"}, {"type": "BSD"}]},
        "node_modules/@acme/tool/package.json": {"name": "@acme/tool", "version": "0.1.0-rc.1", "license": "Apache-2.0"},
        "node_modules/left/test/package.json": {"name": "fixture"},
    }
    for path, value in stated.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(value))
    (folder / "node_modules/left/build").mkdir()
    shutil.copy("/bin/busybox", folder / "node_modules/left/build/addon.node")


def _jars(folder: Path) -> None:
    folder.mkdir(parents=True)
    pom = "#Generated\nversion={version}\ngroupId={group}\nartifactId={artifact}\n"
    inner = folder / "inner-1.0.jar"
    for path, group, artifact, version in ((inner, "org.acme", "inner", "1.0"), (folder / "outer-2.1.jar", "org.acme", "outer", "2.1")):
        with zipfile.ZipFile(path, "w") as jar:
            jar.writestr("META-INF/MANIFEST.MF", f"Manifest-Version: 1.0\r\nImplementation-Title: {artifact}\r\n\r\n")
            jar.writestr(f"META-INF/maven/{group}/{artifact}/pom.properties", pom.format(group=group, artifact=artifact, version=version))
            if path != inner:
                jar.write(inner, "BOOT-INF/lib/inner-1.0.jar")
    inner.unlink()


def _eggs(folder: Path) -> None:
    (folder / "old_style-1.5.egg-info").mkdir(parents=True)
    (folder / "old_style-1.5.egg-info/PKG-INFO").write_text("Metadata-Version: 1.0\nName: old-style\nVersion: 1.5\nLicense: BSD\n")
    (folder / "older-0.2.egg-info").write_text("Metadata-Version: 1.0\nName: Older.Thing_x\nVersion: 0.2\n")
