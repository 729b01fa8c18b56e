"""What is inside an image: each kind of package from its own files, real where they can be had, hostile where it hurts."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import sqlite3
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import layers, roots
from parts.images import busybox, find, need
from parts.layers import entry, hard, link

from airgap_images.contents import packages
from airgap_images.contents.packages import apk, core_metadata, dpkg, golang, java, npm, os_release, python, rpm, sieve
from airgap_images.contents.packages.package import Gap, Package, Release, Text
from manifests.errors import IntegrityError

ELF = b"\x7fELF\2\1\1" + bytes(93)
DEBIAN = b'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n'
STATUS = b"Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n\nPackage: b\nVersion: 2\nSource: bb (1.9)\n"


def inside(where: Path, *tars: bytes) -> packages.Contents:
    return packages.read(*layers.image(where, *tars))


def of(where: Path, files: dict[str, bytes]) -> packages.Contents:
    return inside(where, layers.of(files))


def brief(found: packages.Contents) -> list[tuple[str, str, str]]:
    return [(package.type, package.name, package.version) for package in found.packages]


def text(path: str, data: bytes) -> dict[str, Text]:
    return {path: Text(path, data, "0" * 64)}


# --- real roots -----------------------------------------------------------------------------------------------------


@pytest.mark.parts
def test_the_real_image_of_busybox():
    found = packages.read(*roots.opened(busybox()))
    assert [package.name for package in found.packages] == ["base-files", "busybox-static"]
    assert found.packages[1].purl.startswith("pkg:deb/debian/busybox-static@1")
    assert found.release.id == "debian"
    assert (found.programs.total, found.programs.owned) == (1, 0)  # no list of files travels in this image
    assert found.programs.largest[0][0] == "bin/busybox"
    assert found.gaps == ()


@pytest.mark.parts
@pytest.mark.network
def test_a_real_debian_with_python_and_wheels():
    found = packages.read(*roots.opened(roots.debian()))
    by_name = {(package.type, package.name): package for package in found.packages}
    assert {name for kind, name in by_name if kind == "deb"} == set(roots.DEBS)
    assert by_name["deb", "perl-base"].source == "perl"
    assert by_name["deb", "libssl3"].licences
    assert any(path.endswith("libssl.so.3") for path in by_name["deb", "libssl3"].files)
    assert "Apache-2.0" in " ".join(by_name["pypi", "requests"].licences)
    assert by_name["pypi", "zope.interface"].purl == "pkg:pypi/zope-interface@7.2"
    layer = {by_name["deb", "bash"].layer, by_name["pypi", "requests"].layer}
    assert len(layer) == 2
    assert found.programs.total == found.programs.owned > 300
    assert ("golang", "stdlib") in by_name


@pytest.mark.parts
def test_a_real_rpm_database():
    found = packages.read(*roots.opened(roots.rpms()))
    assert [(package.name, package.version, package.licences, package.files[-1]) for package in found.packages] == [
        ("alpha", "1.2-3.el9", ("MIT",), "opt/alpha/tool"),
        ("beta-libs", "0.9~rc1-1.el9", ("GPLv2+ and BSD",), "opt/beta-libs/tool"),
        ("gamma", "2024.1-7.el9_4", ("ASL 2.0",), "opt/gamma/tool"),
    ]
    assert "epoch=2" in found.packages[1].purl
    assert (found.programs.total, found.programs.owned, found.gaps) == (2, 2, ())


@pytest.mark.parts
def test_an_alpine_root():
    found = packages.read(*roots.opened(roots.alpine()))
    assert [(package.name, package.source) for package in found.packages][-1] == ("ssl_client", "busybox")
    assert found.packages[-1].purl == "pkg:apk/alpine/ssl_client@1.36.1-r5?arch=x86_64&distro=alpine-3.19.1&upstream=busybox"
    assert (found.programs.total, found.programs.owned) == (6, 5)
    assert [path for path, _ in found.programs.largest] == ["usr/local/bin/stray"]


@pytest.mark.parts
def test_node_java_go_and_eggs():
    found = packages.read(*roots.opened(roots.mixed()))
    names = {(package.type, package.name, package.version) for package in found.packages}
    assert {("npm", "@acme/tool", "0.1.0-rc.1"), ("npm", "left", "1.3.0"), ("npm", "left", "1.2.0"), ("npm", "web", "1.0.0")} <= names
    assert {("maven", "outer", "2.1"), ("maven", "inner", "1.0"), ("pypi", "old-style", "1.5"), ("pypi", "Older.Thing_x", "0.2")} <= names
    assert {package.path for package in found.packages if package.name == "inner"} == {"srv/java/outer-2.1.jar!/BOOT-INF/lib/inner-1.0.jar"}
    assert {package.licences for package in found.packages if package.name == "left"} == {("WTFPL",), ("MIT", "BSD")}
    assert (found.programs.total, found.programs.owned, found.programs.named) == (3, 1, 2)


# --- the figure -----------------------------------------------------------------------------------------------------


def test_the_share_of_programs_a_package_owns(tmp_path):
    lists = b"/.\n/lib\n/lib/libz.so\n/usr/bin/tool\n"
    made = layers.tar(
        link("lib", "usr/lib"),
        entry("usr/lib/libz.so", ELF),  # owned by its name before the folders were merged
        hard("usr/bin/tool2", "usr/lib/libz.so"),
        entry("usr/bin/tool", ELF + b"x" * 10),
        entry("opt/stray", ELF + b"x" * 20),
        entry("opt/larger", ELF + b"x" * 30),
        entry("srv/node_modules/n/package.json", b'{"name":"n","version":"1"}'),
        entry("srv/node_modules/n/build/n.node", ELF),
        entry("usr/lib/no-elf.so", b"INPUT ( libz.so )"),
        entry("var/lib/dpkg/status", STATUS),
        entry("var/lib/dpkg/info/a.list", lists),
    )
    found = inside(tmp_path, made).programs
    assert (found.total, found.owned, found.named) == (6, 4, 0)
    assert found.largest == (("opt/larger", 130), ("opt/stray", 120))


def test_a_program_hidden_by_an_upper_layer_is_no_program(tmp_path):
    upper = layers.tar(entry("opt/.wh.stray"), entry("var/lib/dpkg/status", STATUS.replace(b"Package: b\n", b"Package: c\n")))
    found = inside(tmp_path, layers.of({"opt/stray": ELF, "var/lib/dpkg/status": STATUS, "etc/os-release": DEBIAN}), upper)
    assert found.programs.total == 0
    assert [package.name for package in found.packages] == ["a", "c"]


# --- Debian, Alpine, os-release ---------------------------------------------------------------------------------------


def test_dpkg_fields_and_what_is_not_installed(tmp_path):
    status = STATUS + b"\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 3\n\n\nVersion: 4\n\nPackage: half\nStatus: install ok unpacked\nVersion: 5"
    lower = {"var/lib/dpkg/status": b"", "var/lib/dpkg/info/a.list": b"/.\n/x\n", "etc/os-release": DEBIAN}
    found = inside(tmp_path, layers.of(lower), layers.of({"var/lib/dpkg/status": status}))
    assert [package.purl for package in found.packages] == [
        "pkg:deb/debian/a@1?arch=amd64&distro=debian-12",
        "pkg:deb/debian/b@2?distro=debian-12&upstream=bb%401.9",
        "pkg:deb/debian/half@5?distro=debian-12",
    ]
    first, second = found.packages[0].layer, found.packages[1].layer
    assert first != second  # `a` came with the layer that brought its list, `b` is known from the status only


def test_distroless_names_files_in_its_sums(tmp_path):
    sums = b"0" * 32 + b"  usr/lib/tz.so\n"
    files = {"var/lib/dpkg/status.d/tz": b"Package: tz\nVersion: 1\n", "var/lib/dpkg/status.d/tz.md5sums": sums, "usr/lib/tz.so": ELF}
    found = of(tmp_path, files)
    assert [(package.name, package.files) for package in found.packages] == [("tz", ("usr/lib/tz.so",))]
    assert found.programs.owned == 1


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (DEBIAN, Release("debian", "12", "Debian GNU/Linux 12 (bookworm)")),
        (b"ID='x'\nVERSION_ID=1 # no comment\n#ID=y\nid=z\n", Release("x", "1 # no comment", "")),
        (b'ID="a\\"b"\n', Release('a"b', "", "")),
        (b"\xff\xfe=", Release()),
    ],
)
def test_os_release(data, expected):
    assert os_release.release(Text("etc/os-release", data, "")) == expected


def test_os_release_is_found_through_its_usual_link(tmp_path):
    made = layers.tar(entry("usr/lib/os-release", DEBIAN), link("etc/os-release", "../usr/lib/os-release"))
    assert inside(tmp_path, made).release.id == "debian"
    assert inside(tmp_path / "2", layers.tar(link("etc/os-release", "os-release"))).release == Release()


def test_without_os_release_no_vendor_is_claimed(tmp_path):
    assert of(tmp_path, {"var/lib/dpkg/status": STATUS}).packages[0].purl == "pkg:deb/a@1?arch=amd64"


def test_apk_owns_what_its_folders_say(tmp_path):
    data = b"P:x\nV:1\nA:x86_64\nF:\nR:init\nF:bin\nR:sh\nR:ls\nF:etc\n\nP:y\nV:2\n"
    found = of(tmp_path, {"lib/apk/db/installed": data})
    assert [(package.name, package.files) for package in found.packages] == [("x", ("init", "bin/sh", "bin/ls")), ("y", ())]


# --- Python, Node ---------------------------------------------------------------------------------------------------


def test_record_owns_relative_to_its_folder_and_never_outside(tmp_path):
    record = b'mod/_x.so,sha256=a,1\n"mod/a,b.so",,\n../../../bin/run,,\n../../../../../../etc/passwd,,\n/abs/y.so,,\n\n'
    files = {
        "usr/lib/python3/site-packages/mod-1.dist-info/METADATA": b"Metadata-Version: 2.1\nName: Mod\nVersion: 1\n",
        "usr/lib/python3/site-packages/mod-1.dist-info/RECORD": record,
    }
    owned = of(tmp_path, files).packages[0].files
    at = "usr/lib/python3/site-packages/"
    assert owned == (f"{at}mod/_x.so", f"{at}mod/a,b.so", "usr/bin/run", "abs/y.so")


def test_what_python_forgot_is_a_gap(tmp_path):
    found = of(tmp_path, {"x/a-1.dist-info/METADATA": b"Name: a\n", "x/b.dist-info/RECORD": b"\0\n"})
    assert found.gaps == (Gap("x/a-1.dist-info/METADATA", "states no name or no version"),)


def test_a_package_json_is_a_gap_only_where_npm_installs(tmp_path):
    files = {
        "a/node_modules/x/package.json": b"{",
        "a/node_modules/@s/y/package.json": b"\xff",
        "a/node_modules/x/test/package.json": b"{",
        "b/package.json": b"[" * 100_000,
        "c/package.json": b"[]",
        "d/package.json": b'{"name":"d"}',
        "e/package.json": b'{"name":5,"version":{}}',
        "f/package.json": json.dumps({"name": "f", "version": "1", "license": ["MIT", {"type": 3}, None]}).encode(),
    }
    found = of(tmp_path, files)
    assert {gap.path for gap in found.gaps} == {"a/node_modules/x/package.json", "a/node_modules/@s/y/package.json"}
    assert brief(found) == [("npm", "d", ""), ("npm", "f", "1")]
    assert found.packages[1].licences == ("MIT",)


# --- rpm ------------------------------------------------------------------------------------------------------------


def rpm_header(*values: tuple[int, int, bytes, int]) -> bytes:
    store, index = b"", b""
    for tag, kind, data, count in values:
        index += struct.pack(">IIiI", tag, kind, len(store), count)
        store += data
    return struct.pack(">II", len(values), len(store)) + index + store


NEVRA = ((1000, 6, b"n\0", 1), (1001, 6, b"1\0", 1), (1002, 6, b"2\0", 1), (1022, 6, b"noarch\0", 1))


def rpm_database(where: Path, *blobs: bytes, schema: str = "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)", wal: bool = False) -> bytes:
    with sqlite3.connect(where) as opened:
        opened.execute("PRAGMA journal_mode=WAL" if wal else "PRAGMA journal_mode=DELETE")
        opened.execute(schema)
        for blob in blobs:
            opened.execute("INSERT INTO Packages (blob) VALUES (?)", (blob,))
    opened.close()
    return where.read_bytes()


@pytest.mark.parametrize("wal", [False, True])
def test_an_rpm_database_with_or_without_a_log(tmp_path, wal):
    key = rpm_header((1000, 6, b"gpg-pubkey\0", 1), *NEVRA[1:])
    owned = rpm_header(*NEVRA, (1117, 8, b"a\0b\0", 2), (1118, 8, b"/x/\0/y/\0", 2), (1116, 4, struct.pack(">II", 1, 0), 2), (1003, 4, struct.pack(">I", 7), 1))
    found = of(tmp_path / "oci", {"usr/lib/sysimage/rpm/rpmdb.sqlite": rpm_database(tmp_path / "db", key, owned, wal=wal)})
    assert [(package.purl, package.files) for package in found.packages] == [("pkg:rpm/n@1-2?arch=noarch&epoch=7", ("y/a", "x/b"))]


@pytest.mark.parametrize("name", ["Packages", "Packages.db"])
def test_older_rpm_databases_are_named_and_not_read(tmp_path, name):
    found = of(tmp_path, {f"var/lib/rpm/{name}": b"x"})
    assert found.gaps[0].path == f"var/lib/rpm/{name}"
    assert "which is not read" in found.gaps[0].why
    assert of(tmp_path / "2", {f"srv/{name}": b"x"}).gaps == ()


HOSTILE_HEADERS = [
    b"",
    b"text",
    struct.pack(">II", 1 << 31, 4),
    struct.pack(">II", 0, 4),
    rpm_header((1000, 6, b"n\0", 1))[:-1],
    rpm_header((1000, 8, b"n\0", 1 << 31)),
    rpm_header(*NEVRA, (1003, 4, b"\0", 1 << 30)),
    rpm_header(*NEVRA, (1117, 8, b"a\0", 1), (1118, 8, b"/\0", 1), (1116, 4, struct.pack(">I", 9), 1)),
]


@pytest.mark.parametrize("blob", HOSTILE_HEADERS, ids=range(len(HOSTILE_HEADERS)))
def test_a_hostile_rpm_header_is_a_gap(tmp_path, blob):
    found = of(tmp_path / "oci", {"var/lib/rpm/rpmdb.sqlite": rpm_database(tmp_path / "db", blob)})
    assert found.packages == ()
    assert "no readable rpm database" in found.gaps[0].why


def test_a_database_that_asks_for_endless_work_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(rpm, "MAX_STEPS", 3)
    loop = "CREATE VIEW Packages AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n) SELECT x AS hnum, x AS blob FROM n WHERE x<0"
    start = time.perf_counter()
    found = of(tmp_path / "oci", {"var/lib/rpm/rpmdb.sqlite": rpm_database(tmp_path / "db", schema=loop)})
    assert "interrupted" in found.gaps[0].why
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("data", [b"", b"SQLite format 3\0", b"x" * 5000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_what_is_no_database_is_a_gap(tmp_path, data):
    assert of(tmp_path, {"var/lib/rpm/rpmdb.sqlite": data}).gaps


@given(st.binary(max_size=300))
def test_no_header_does_more_than_refuse(data):
    with contextlib.suppress(ValueError, struct.error):
        rpm.header(data)


# --- Go -------------------------------------------------------------------------------------------------------------

INFO = "path\texample.org/cmd\nmod\texample.org/m\t(devel)\t\ndep\texample.org/a/v2\tv2.0.1\th1:x=\ndep\tb.org/x/y/z/w\tv0.1.0\t\n=>\tc.org/fork\tv9.9.9\t\n"


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def build_info(go: str = "go1.22.1", info: str = INFO, *, flag: int = 2, size: int | None = None) -> bytes:
    framed = b"\x30" * 16 + info.encode() + b"\x31" * 16
    head = (golang.MARKER + bytes([8, flag])).ljust(32, b"\0")
    return head + varint(len(go)) + go.encode() + varint(len(framed) if size is None else size) + framed


def elf(data: bytes, *, writable: int = 0) -> bytes:
    """Return an ELF file whose header says that what is written to begins at `writable`, with `data` behind 8 KiB of code."""
    head = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    code = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 8192, 8192, 4096)
    written = struct.pack("<IIQQQQQQ", 1, 6, writable, 0, 0, 8192, 8192, 4096)
    return (head + code + written).ljust(8192, b"\xcc") + data


def go_purls(where: Path, data: bytes, pieces: int = 1 << 20) -> list[str]:
    search = golang.program(len(data), data[:64])
    for at in range(0, len(data), pieces):
        if not search.take(memoryview(data)[at : at + pieces]):
            break
    return [package.purl for package in golang.packages(search.found(), "x", "0" * 64)]


@pytest.mark.parametrize("pieces", [100, 1000, 4097, 1 << 20])
def test_go_modules_whatever_the_pieces(tmp_path, pieces):
    assert go_purls(tmp_path, elf(build_info()), pieces) == [
        "pkg:golang/example.org/m@%28devel%29", "pkg:golang/example.org/a/v2@v2.0.1", "pkg:golang/c.org/fork@v9.9.9", "pkg:golang/stdlib@1.22.1"
    ]  # fmt: skip


def test_a_program_in_a_program_is_not_taken_for_it(tmp_path):
    inner = build_info("go1.5", "path\tinner\n")
    data = elf(inner.ljust(4096, b"\0") + build_info(info="path\touter\n"), writable=8192 + 4096)
    assert go_purls(tmp_path, data) == ["pkg:golang/outer@%28devel%29", "pkg:golang/stdlib@1.22.1"]
    assert go_purls(tmp_path, elf(inner, writable=1 << 40)) == ["pkg:golang/inner@%28devel%29", "pkg:golang/stdlib@1.5"]  # better than nothing


@pytest.mark.parametrize(
    "data",
    [
        golang.MARKER,
        golang.MARKER + b"\x08\x02" + bytes(100),
        build_info("no1.2"),
        build_info()[:60],
        b"x" + build_info(),  # not where a linker puts it
        golang.MARKER + b"\x08\x02".ljust(18, b"\0") + b"\xff" * 40,
    ],
)
def test_markers_that_are_none(tmp_path, data):
    assert go_purls(tmp_path, elf(data)) == []
    assert go_purls(tmp_path, elf(data.ljust(512, b"\0") + build_info(info="")), 999) == ["pkg:golang/stdlib@1.22.1"]


def test_the_form_before_go_1_18_is_named(tmp_path):
    found = of(tmp_path, {"bin/old": elf(build_info(flag=0)), "bin/new": elf(build_info())})
    assert found.seen == (("Go programs built before Go 1.18", 1),)
    assert {package.path for package in found.packages} == {"bin/new"}


@pytest.mark.parametrize(
    ("settings_", "version"),
    [
        ('build\t-ldflags="-s -X main.version=1.2.3-rc.1+x -w"\n', "v1.2.3-rc.1+x"),
        ("build\t-ldflags=\"-X 'example.org/m/pkg.gitVersion=v4.5.6'\"\n", "v4.5.6"),
        ('build\t-ldflags="-X main.gitTag=0.2.56"\n', "v0.2.56"),
        ('build\t-ldflags="-X main.versionist=x"\nbuild\tvcs.revision=0123456789abcdef\nbuild\tvcs.time=2026-01-02T03:04:05Z\n', "v0.0.0-20260102030405-0123456789ab"),
        ("build\tvcs.revision=0123456789abcdef\nbuild\tvcs.time=never\n", "0123456789abcdef"),
        ("", "(devel)"),
    ],
)
def test_the_version_of_a_main_module(tmp_path, settings_, version):
    found = golang.packages(golang.Program(1, "go1.22", f"path\tx\nmod\texample.org/m\t(devel)\t\n{settings_}"), "x", "")
    assert next(iter(found)).version == version


def test_many_markers_cost_no_more_than_their_bytes(tmp_path):
    """Every sixteen bytes a marker: once each that claims the most, once each that is whole."""
    claims = (golang.MARKER + b"\x08\x02").ljust(32, b"\0") + b"\x05go1.1" + varint(golang.MAX_INFO)
    for unit in (golang.MARKER + b"\x08\x02", claims.ljust(48, b"\0"), build_info("go1.1", "").ljust(112, b"\0")):
        data = elf(unit * ((8 << 20) // len(unit)), writable=1 << 40)
        start = time.perf_counter()
        go_purls(tmp_path, data)
        assert time.perf_counter() - start < 5


@pytest.mark.parts
@pytest.mark.parametrize("name", ["skopeo", "umoci", "docker-registry"])
def test_real_go_programs(tmp_path, name):
    need(name)
    data = Path(find(name)).read_bytes()
    purls = go_purls(tmp_path, data)
    assert purls[-1].startswith("pkg:golang/stdlib@1.")
    assert purls == go_purls(tmp_path, data, 9999)
    assert len(purls) >= 2


@settings(max_examples=200)
@given(st.binary(max_size=300), st.integers(1, 200))
def test_no_program_does_more_than_say_nothing(data, pieces):
    go_purls(Path(), b"\x7fELF" + golang.MARKER + data, pieces)
    golang.writable(b"\x7fELF" + data)


# --- Java -----------------------------------------------------------------------------------------------------------


def jar(files: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def manifest(*lines: str) -> dict[str, bytes]:
    return {"META-INF/MANIFEST.MF": "\r\n".join(("Manifest-Version: 1.0", *lines, "", "Name: x/", "Implementation-Version: no", "")).encode()}


def pom(group: str, artifact: str, version: str) -> dict[str, bytes]:
    return {f"META-INF/maven/{group}/{artifact}/pom.properties": f"#c\n!c\nversion = {version}\ngroupId:{group}\nartifactId={artifact}\n".encode()}


JARS = {
    "lib/plain-1.0.jar": (manifest(), ["pkg:maven/plain/plain@1.0"]),
    "lib/a-2.0.jar": (manifest() | pom("org.acme", "a", "2.0") | pom("org.other", "shaded", "9"), ["pkg:maven/org.acme/a@2.0", "pkg:maven/org.other/shaded@9"]),
    "lib/b.jar": (manifest("Implementation-Version: 3.1", "Implementation-Vendor-Id: com.ex", " ample"), ["pkg:maven/com.example/b@3.1"]),
    "lib/c_1.2.3.jar": (manifest("Bundle-SymbolicName: org.c.core;singleton:=true"), ["pkg:maven/org.c.core/c@1.2.3"]),
    "lib/no.jar": ({"a.class": b""}, []),
    "lib/n-1.jar": (pom("org.n", "n", "1"), ["pkg:maven/org.n/n@1"]),
}


@pytest.mark.parametrize("path", JARS)
def test_jars(tmp_path, path):
    files, expected = JARS[path]
    assert sorted(package.purl for package in of(tmp_path, {path: jar(files)}).packages) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a-b-1.2.jar", ("a-b", "1.2")), ("http2-x-r09.jar", ("http2-x", "r09")), ("x.jar", ("x", "")), ("a_1.jar", ("a", "1")), ("1.jar", ("1", ""))],
)
def test_names_of_archives(name, expected):
    assert java.split(name) == expected


def test_archives_in_archives_up_to_a_depth(tmp_path):
    inner = jar(manifest())
    for level in range(6):
        inner = jar({**manifest(), f"in/l{level}-{level}.jar": inner})
    found = of(tmp_path, {"app-9.war": inner})
    assert [package.name for package in found.packages] == ["app", "l3", "l4", "l5"]
    assert found.packages[-1].path == "app-9.war!/in/l5-5.jar"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no zip", "no readable zip"),
        (jar(manifest())[:-10], "no readable zip"),
        (jar({"META-INF/MANIFEST.MF": bytes(2 << 20)}), "unpacks to more than"),
        (jar({"in/x.jar": bytes(80 << 20)}), "unpacks to more than"),
        (jar({f"in/{at}.jar": bytes(60 << 20) for at in range(10)}), "unpacks to more than"),
        (jar({str(at): b"" for at in range(3000)}), "members"),
    ],
)
def test_hostile_archives_are_gaps(tmp_path, monkeypatch, data, reason):
    monkeypatch.setattr(java, "MAX_MEMBERS", 2000)
    tracemalloc.start()
    found = of(tmp_path, {"x.jar": data})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reason in found.gaps[0].why
    assert peak < 300 << 20


@settings(max_examples=100)
@given(st.data())
def test_no_archive_does_more_than_say_so(data):
    raw = bytearray(jar(manifest() | pom("g", "a", "1"), zipfile.ZIP_STORED))
    for _ in range(data.draw(st.integers(1, 5))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    java.read(bytes(raw), "x.jar")


# --- bounds, and what is only seen ----------------------------------------------------------------------------------


def test_a_database_larger_than_is_read_is_a_gap(tmp_path, monkeypatch):
    monkeypatch.setattr(dpkg, "MAX_STATUS", 10)
    assert of(tmp_path, {"var/lib/dpkg/status": STATUS}).gaps == (Gap("var/lib/dpkg/status", f"has {len(STATUS)} bytes, at most 10 are read"),)


def test_what_is_kept_of_an_image_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(sieve.Room.__init__, "__defaults__", (100,))
    found = of(tmp_path, {f"a/{at}/package.json": b'{"name":"x","version":"1"}'.ljust(60) for at in range(3)})
    assert len(found.packages) == 1
    assert all("more than" in gap.why for gap in found.gaps)


def test_an_archive_takes_room_only_while_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sieve.Room.__init__, "__defaults__", (500,))
    found = of(tmp_path, {f"{name}-1.jar": jar(manifest()) for name in "abcdef"})
    assert (len(found.packages), found.gaps) == (6, ())


def test_more_packages_than_are_listed_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "MAX_PACKAGES", 1)
    assert "the rest is not listed" in of(tmp_path, {"var/lib/dpkg/status": STATUS}).gaps[0].why


def test_entries_left_out_are_gaps(tmp_path):
    assert inside(tmp_path, layers.tar(entry("../x"))).gaps == (Gap("", "1 files and folders are left out: a name that leads out of the image"),)


SEEN = {
    "opt/conda/conda-meta/numpy-1.26-py311_0.json": "conda packages",
    "usr/lib/ruby/gems/3.1.0/specifications/rack-2.2.gemspec": "Ruby gems",
    "app/vendor/composer/installed.json": "PHP packages (Composer)",
    "usr/local/lib/luarocks/rocks-5.1/kong/3.0-1/kong-3.0-1.rockspec": "Lua rocks",
    "app/App.deps.json": ".NET packages",
    "var/lib/pacman/local/x-1-1/desc": "Arch Linux packages",
    "usr/lib/R/library/stats/DESCRIPTION": "R packages",
}


@pytest.mark.parametrize("path", SEEN)
def test_what_is_not_read_is_named(tmp_path, path):
    assert of(tmp_path, {path: b"{}"}).seen == ((SEEN[path], 1),)
    assert of(tmp_path / "2", {f"x{path.rpartition('.')[2]}": b"{}"}).seen == ()


def test_a_name_of_any_size_makes_no_purl_but_stays_a_package(tmp_path):
    name = "n" * 5000
    found = of(tmp_path, {"var/lib/dpkg/status": f"Package: {name}\nVersion: 1\n".encode()})
    assert [(len(package.name), package.purl) for package in found.packages] == [(5000, None)]


READERS = {"var/lib/dpkg/status": dpkg, "lib/apk/db/installed": apk, "x.dist-info/METADATA": python, "package.json": npm}


@settings(max_examples=100)
@given(st.sampled_from(sorted(READERS)), st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda s: s.encode("utf-8", "replace"))))
def test_no_database_does_more_than_yield_packages_and_gaps(path, data):
    assert READERS[path].limit(path, path.rpartition("/")[2])
    for one in READERS[path].packages(text(path, data), Release("a", "b", "c")):
        assert isinstance(one, (Package, Gap))


def test_a_layer_that_cannot_be_read_makes_no_list(tmp_path):
    layout, stated = layers.image(tmp_path, layers.of({"var/lib/dpkg/status": STATUS}), b"", packed=(gzip.compress(layers.of({})), b"\x1f\x8bbroken"))
    with pytest.raises(IntegrityError):
        packages.read(layout, stated)


def test_metadata_of_no_distribution():
    assert core_metadata.parse("Name: x\n\nVersion: 1\n") is None
