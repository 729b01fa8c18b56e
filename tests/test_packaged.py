"""Files of a tree that are packages: real Debian packages in every packing, charts in archives and registries, licence texts in wheels."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts import evidence, images, layers, made, stored, trees

from airgap_images.bundle import TreeFile
from airgap_images.layout import Layout
from airgap_images.oci import Descriptor
from audit.evidence import charts, debs, describe, licence_texts
from audit.evidence.item import Content, Item

CONTROL = """Package: tool
Source: tools (1.1)
Version: 1:1.2-3
Architecture: amd64
Maintainer: Ada L. <ada@example.org>
Homepage: https://tool.example.org/
Depends: libtool (>= 1), sh | dash
Description: a tool
"""
LIBRARY = "Package: libtool\nVersion: 1\nArchitecture: amd64\nMaintainer: B <b@example.org>\nDescription: a library\n"
CHART = """apiVersion: v2
name: gateway
version: 1.10.0
appVersion: "2.40"
home: https://user:secret@gateway.example.org/?token=secret
maintainers: [{name: Gateway people, email: people@example.org}]
annotations: {artifacthub.io/license: Apache-2.0}
"""
MIT = (Path(__file__).parent / "data" / "licences" / "MIT.txt").read_bytes()


def items(folder: Path, files: dict[str, bytes], kind: str = "path") -> list[Item]:
    subject = trees.subject(folder, files, kind=kind, model=False)
    component = subject.components[0]
    listed = tuple(TreeFile(path, subject.layout.put(data), len(data)) for path, data in files.items())
    return list(describe.items(subject.layout, Content(component, listed, (), "", None)))


def deb(folder: Path, control: str = CONTROL, packing: str = "xz") -> bytes:
    """Return a package that `dpkg-deb` builds."""
    images.need("dpkg-deb")
    root = folder / f"root-{packing}"
    (root / "DEBIAN").mkdir(parents=True, exist_ok=True)
    (root / "DEBIAN" / "control").write_text(control)
    (root / "usr").mkdir(exist_ok=True)
    (root / "usr" / "tool").write_text("x")
    options = ("--root-owner-group", f"-Z{packing}", "--uniform-compression")
    subprocess.run(["dpkg-deb", *options, "--build", root, folder / "made.deb"], check=True, capture_output=True)
    return (folder / "made.deb").read_bytes()


def chart(text: str, name: str = "gateway/Chart.yaml", *, before: int = 0) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, data in [*((f"gateway/templates/{at}.yaml", b"x") for at in range(before)), (name, text.encode())]:
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return gzip.compress(out.getvalue())


@pytest.mark.parametrize("packing", ["xz", "gzip", "zstd", "none"])
def test_a_debian_package_says_what_it_is(tmp_path, packing):
    whole, package = items(tmp_path / "store", {"debs/tool.deb": deb(tmp_path, packing=packing), "README": b"x"})
    assert (package.what, package.name, package.version, package.path) == ("package", "tool", "1:1.2-3", "debs/tool.deb")
    assert package.purl == "pkg:deb/tool@1:1.2-3?arch=amd64&upstream=tools%401.1"
    assert (package.producer, package.contact, package.revision) == ("Ada L.", "https://tool.example.org/", "tools@1.1")
    assert package.coverage.reading == "read"
    assert [file.path for file in whole.files] == ["README"]
    assert whole.coverage.reason == "1 of them are packages, listed one by one"


def test_debian_packages_need_each_other(tmp_path):
    found = items(tmp_path / "store", {"a.deb": deb(tmp_path), "b.deb": deb(tmp_path, LIBRARY)})
    assert {item.name: item.requires for item in found if item.path} == {"tool": ("component:m/b.deb",), "libtool": ()}


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "no control", "no name", "huge"])
def test_a_debian_package_that_cannot_be_read_says_why(tmp_path, damage):
    raw = deb(tmp_path)
    broken = {
        "empty": b"",
        "text": b"!<arch>\nhello",
        "cut": raw[:200],
        "no control": raw.replace(b"control.tar.xz", b"another.tar.xz"),
        "no name": ar({"debian-binary": b"2.0\n", "control.tar": layers.of({"control": b"Version: 1\n"})}),
        "huge": raw[:120] + b"9" * 10 + raw[130:],
    }[damage]
    (whole, package) = items(tmp_path / "store", {"a.deb": broken, "b": b""})
    assert (package.name, package.coverage.reading) == ("a.deb", "unreadable")
    assert package.coverage.reason
    assert whole.what == "files"


def ar(members: dict[str, bytes]) -> bytes:
    heads = {name: b"%-16s%-12d%-6d%-6d%-8o%-10d`\n" % (name.encode(), 0, 0, 0, 0o644, len(data)) for name, data in members.items()}
    return debs.MAGIC + b"".join(heads[name] + data + b"\n" * (len(data) % 2) for name, data in members.items())


def test_a_control_archive_that_unpacks_to_too_much_is_not_read(tmp_path):
    bomb = lzma.compress(layers.of({"x": bytes(debs.MAX_UNPACKED + (2 << 20))}), preset=0)
    (_, package) = items(tmp_path, {"a.deb": ar({"debian-binary": b"2.0\n", "control.tar.xz": bomb}), "b": b""})
    assert "more than" in package.coverage.reason


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 2000), patch=st.binary(min_size=1, max_size=12))
def test_no_damage_of_a_package_or_chart_stops_it(tmp_path_factory, at, patch):
    layout = Layout.create(tmp_path_factory.mktemp("store"))
    package = ar({"debian-binary": b"2.0\n", "control.tar": layers.of({"control": CONTROL.encode()})})
    for raw, reader in ((package, debs), (chart(CHART), charts)):
        data = bytearray(raw)
        data[at % len(data) : at % len(data) + len(patch)] = patch
        try:
            reader.read(layout, TreeFile("x", layout.put(bytes(data)), len(data)))
        except (debs.UnreadableError, charts.UnreadableError) as error:
            assert str(error)


@pytest.mark.parametrize("before", [0, 300])
def test_a_chart_says_what_it_is(tmp_path, before):
    (whole, package) = items(tmp_path, {"gateway-1.10.0.tgz": chart(CHART, before=before), "x": b""})
    assert (package.what, package.name, package.version) == ("package", "gateway", "1.10.0")
    assert package.purl.startswith("pkg:generic/gateway@1.10.0?checksum=sha256:")
    assert (package.producer, package.contact) == ("Gateway people", "people@example.org")
    assert [licence.text for licence in package.licences] == ["Apache-2.0"]
    assert dict(package.facts) == {"type": "helm", "appVersion": "2.40", "home": "https://gateway.example.org/"}
    assert "secret" not in repr(package)
    assert whole.what == "files"


def test_an_archive_without_a_chart_is_a_file(tmp_path):
    (only,) = items(tmp_path, {"data.tgz": chart("a", "data/Chart.yaml/x")})
    assert (only.what, only.name) == ("file", "data.tgz")


TEXTS = ("- a", "name: x", "name: x\nversion: 1.10", "a: &a [*a]", "\t", "name: x\nname: y\nversion: 1.0.0", "!!python/object:os.system {}")


@pytest.mark.parametrize("text", TEXTS)
def test_a_chart_that_cannot_be_read_says_why(tmp_path, text):
    (_, package) = items(tmp_path, {"c.tgz": chart(text), "x": b""})
    assert (package.name, package.coverage.reading) == ("c.tgz", "unreadable")
    assert package.coverage.reason


def test_what_is_no_archive_is_not_called_one(tmp_path):
    (_, package) = items(tmp_path, {"c.tgz": b"hello" * 200, "x": b""})
    assert package.coverage.reason.startswith("not a readable archive: ")


def test_a_chart_in_a_registry_is_a_package(tmp_path):
    """Helm pushes charts as OCI artifacts whose configuration is their Chart.yaml as JSON."""
    layout = Layout.create(tmp_path)
    raw = json.dumps({"name": "gateway", "version": "1.10.0", "maintainers": [{"name": "Gateway people"}]}).encode()
    root = stored.put_manifest(layout, Descriptor("application/vnd.cncf.helm.config.v1+json", layout.put(raw), len(raw)), [])
    (item,) = describe.items(layout, Content(made.image(root), (), (), "", None))
    assert (item.what, item.name, item.version, item.producer) == ("package", "gateway", "1.10.0", "Gateway people")


def carrying(texts: dict[str, bytes], *headers: str) -> bytes:
    out = io.BytesIO(evidence.wheel("app", "1", *headers))
    with zipfile.ZipFile(out, "a") as archive:
        for name, data in texts.items():
            archive.writestr(f"app-1.dist-info/{name}", data)
    return out.getvalue()


def concluded(folder: Path, texts: dict[str, bytes]) -> tuple[list[str], str]:
    (_, item) = items(folder, {"app-1-py3-none-any.whl": carrying(texts)}, kind="python")
    return [licence.text for licence in item.concluded], dict(item.facts)[licence_texts.TEXTS]


def test_licence_texts_in_wheels_are_named_and_told(tmp_path):
    assert concluded(tmp_path / "1", {}) == ([], "none")
    assert concluded(tmp_path / "2", {"licenses/LICENSE": MIT}) == (["MIT"], "app-1.dist-info/licenses/LICENSE")
    assert concluded(tmp_path / "3", {"LICENSE": MIT, "COPYING.other": b"all mine"})[0] == []
    assert concluded(tmp_path / "4", {"AUTHORS": MIT, "top_level.txt": b"x"}) == ([], "none")
    many = {f"licenses/LICENSE.{at}": MIT for at in range(8)}
    assert concluded(tmp_path / "5", many) == (["MIT"], ", ".join(f"app-1.dist-info/licenses/LICENSE.{at}" for at in range(5)) + ", and 3 more")


def test_licence_texts_beside_a_model_are_told(tmp_path):
    subject = trees.subject(tmp_path, {"LICENSE": MIT, "config.json": b"{}"})
    listed = (TreeFile("LICENSE", subject.layout.put(MIT), len(MIT)),)
    (item,) = describe.items(subject.layout, Content(subject.components[0], listed, (), "", None))
    assert [licence.text for licence in item.concluded] == ["MIT"]
    assert dict(item.facts)[licence_texts.TEXTS] == "LICENSE"


COMMON = Path("/usr/share/common-licenses")


@pytest.mark.skipif(not COMMON.is_dir(), reason="not a Debian system: no /usr/share/common-licenses")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Apache-2.0", "Apache-2.0"), ("GPL-1", "GPL-1.0-only"), ("GPL-2", "GPL-2.0-only"), ("GPL-3", "GPL-3.0-only"),
        ("LGPL-2", "LGPL-2.0-only"), ("LGPL-2.1", "LGPL-2.1-only"), ("LGPL-3", "LGPL-3.0-only"), ("MPL-2.0", "MPL-2.0"),
        ("BSD", "BSD-3-Clause"), ("Artistic", None), ("GFDL-1.3", None), ("MPL-1.1", None),
    ],
)  # fmt: skip
def test_the_texts_debian_carries_are_told(name, expected):
    assert licence_texts.identify((COMMON / name).read_bytes()) == expected


def test_nothing_is_told_by_resemblance():
    assert licence_texts.identify(MIT) == "MIT"
    assert licence_texts.identify(MIT.upper().replace(b"\n", b"\r\n   * ")) == "MIT"
    assert licence_texts.identify(MIT.replace(b"without restriction", b"with restriction")) is None
    assert licence_texts.identify(MIT.replace(b"to deal", b"to deal, except on Sundays,")) is None
    assert licence_texts.identify(MIT + b"\nFurther terms: " + b"no commercial use. " * 100) is None
    assert licence_texts.identify(MIT[: len(MIT) // 2]) is None
    if COMMON.is_dir():
        assert licence_texts.identify(MIT + (COMMON / "BSD").read_bytes()) is None


@given(st.binary(max_size=300))
def test_no_text_stops_it(raw):
    assert licence_texts.identify(raw) is None


def test_a_text_that_is_too_long_to_read_concludes_nothing(tmp_path):
    assert concluded(tmp_path, {"LICENSE": MIT + b" " * licence_texts.MAX_TEXT})[0] == []
