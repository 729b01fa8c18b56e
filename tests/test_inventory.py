"""The inventory says what is in a bundle, what it could not read, and where lock and index disagree; wheels are hostile."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import evidence
from parts.evidence import COMMIT, HOSTILE, contents, lock, locked

from airgap_images.bundle import TreeFile
from airgap_images.contents.packages import core_metadata
from airgap_images.layout import Layout
from audit.evidence import addresses, licences, wheels
from audit.evidence.inventory import Inventory, take
from manifests.lock import Inline, Lock


def of(folder: Path, stated: Lock | None = None, data: dict | None = None, **extra) -> Inventory:
    built = evidence.build(folder, stated or lock(*locked()), data or contents(), **extra)
    return take(evidence.verified(evidence.signed(built)))


@pytest.fixture(scope="module")
def rich(tmp_path_factory) -> Inventory:
    return of(tmp_path_factory.mktemp("rich"))


def by_name(found: Inventory, name: str):
    return next(item for item in found.items if item.name == name)


def test_every_component_and_every_wheel_is_an_item(rich):
    assert [(item.component, item.what, item.name, item.version) for item in rich.items] == [
        ("airgap-lock", "file", "bundle.lock.json", None),
        ("docs", "files", "docs", None),
        ("driver", "file", "driver.run", None),
        ("gateway", "files", "gateway", None),
        ("gateway", "package", "classy", "0.1"),
        ("gateway", "package", "evil", "1"),
        ("gateway", "package", "foo-bar-x", "1.2.0"),
        ("gateway", "package", "plain", "2.0+cpu"),
        ("gateway", "package", "silent", "3"),
        ("mini", "model", "acme/Mini-1B", COMMIT),
        ("server", "image", "registry.example.org:5000/team/server", "v1.0"),
        ("server", "package", "libz", "1:1.3-1+b2"),
        ("server", "package", "tiny", "0.1"),
        ("server", "package", "left", "1.0"),
    ]
    assert len({item.ref for item in rich.items}) == len(rich.items)
    assert (rich.name, rich.platform, rich.disagreements, rich.gaps) == ("test", "linux/amd64", (), ())


def test_purls_name_what_upstream_names(rich):
    root = by_name(rich, "registry.example.org:5000/team/server").sha256
    driver = "checksum=sha256:7256401aec9417fd5069cf10c172e953c0efff61b6bd229c4eeba06264c79c44&download_url=https://dl.example.org:8443/v1/"
    assert [item.purl for item in rich.items if item.purl] == [
        f"pkg:generic/driver.run?{driver}",
        "pkg:pypi/classy@0.1",
        "pkg:pypi/evil@1",
        "pkg:pypi/foo-bar-x@1.2.0",
        "pkg:pypi/plain@2.0%2Bcpu",
        "pkg:pypi/silent@3",
        f"pkg:huggingface/acme/Mini-1B@{COMMIT}",
        f"pkg:oci/server@sha256:{root}?repository_url=registry.example.org:5000/team/server&tag=v1.0",
        "pkg:deb/debian/libz@1:1.3-1%2Bb2?arch=amd64&distro=debian-12&upstream=zlib%401:1.3",
        "pkg:deb/debian/tiny@0.1?arch=all&distro=debian-12",
        "pkg:npm/left@1.0",
    ]


def test_licences_are_as_stated_with_their_place_and_unknown_when_nobody_did(rich):
    assert {item.name: [(licence.text, licence.source) for licence in item.licences] for item in rich.items if item.licences} == {
        "classy": [("MIT License", "METADATA, Classifier")],
        "evil": [(HOSTILE, "METADATA, License")],
        "foo-bar-x": [("MIT AND Apache-2.0", "METADATA, License-Expression")],
        "plain": [("bsd-3-clause", "METADATA, License")],
        "acme/Mini-1B": [("apache-2.0", "model card, recorded when it was locked")],
        "libz": [("Zlib", "copyright file")],
        "left": [('<script>alert("x")</script>\N{REPLACEMENT CHARACTER}{{ 7*7 }}', "package.json")],
    }
    assert by_name(rich, "silent").licences == ()
    assert by_name(rich, "silent").producer is None
    assert by_name(rich, "plain").producer == "B"
    assert by_name(rich, "acme/Mini-1B").producer == "acme"


def test_coverage_says_what_was_read(rich):
    assert {item.name: item.coverage.reading for item in rich.items if item.path is None} == {
        "bundle.lock.json": "listed",
        "docs": "listed",
        "driver.run": "listed",
        "gateway": "listed",
        "acme/Mini-1B": "listed",
        "registry.example.org:5000/team/server": "read",
    }
    assert {item.coverage.reading for item in rich.items if item.path} == {"read"}


def test_files_digests_and_sizes_are_those_of_the_bundle(rich):
    assert [file.path for file in by_name(rich, "acme/Mini-1B").files] == ["README.md", "config.json", "model.safetensors"]
    assert [file.path for file in by_name(rich, "gateway").files] == ["requirements.txt"]  # wheels are items of their own
    assert by_name(rich, "driver.run").sha256 == by_name(rich, "driver.run").files[0].sha256
    assert by_name(rich, "gateway").size == sum(len(data) for data in contents()["gateway"].values())
    assert by_name(rich, "registry.example.org:5000/team/server").size == sum(len(data) for data in evidence.image_blobs().values())


def test_origins_keep_the_host_and_lose_every_secret(rich):
    assert {item.name: item.origin for item in rich.items if item.path is None} == {
        "bundle.lock.json": "local",
        "docs": "local",
        "driver.run": "https://dl.example.org:8443/v1/",
        "gateway": "https://index.example.org",
        "acme/Mini-1B": "https://hub.example.org",
        "registry.example.org:5000/team/server": "https://registry.example.org:5000",
    }
    assert by_name(rich, "silent").origin == "https://index.example.org/files/silent-3-py3-none-any.whl"
    assert "secret" not in repr(replace(rich, locked={}))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example.org/x/y.whl", "https://a.example.org/x/y.whl"),
        ("https://user:pw@a.example.org:444/x?sig=1#f", "https://a.example.org:444/x"),
        ("http://[2001:db8::1]:80/x", "http://[2001:db8::1]:80/x"),
        ("https://a.example.org/a b\u202e", "https://a.example.org/a%20b%E2%80%AE"),
        ("file:models/x", "local"),
        ("https://", None),
        ("https://[::1", None),
        ("https://a:99999999/x", None),
        ("https://a\u0000b/x", None),
        ("ftp://a/x", None),
    ],
)
def test_origin(url, expected):
    assert addresses.origin(url) == expected


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_no_address_carries_a_query_or_a_user(user, path, query):
    found = addresses.origin(f"https://{user}@host.example/{path}?{query}")
    assert found is None or ("?" not in found and found.isascii() and "#" not in found)
    assert found is None or "@" not in found.split("/")[2]


def test_facts_that_are_addresses_are_cleaned_too(tmp_path):
    stated = [replace_facts(component, {"source": "https://u:secret@x.example/a?secret=1"}) for component in locked()]
    assert "secret" not in repr(replace(of(tmp_path, lock(*stated)), locked={}))


def replace_facts(component, facts):
    return component.model_copy(update={"facts": {**component.facts, **facts}})


# --- the lock against the index -------------------------------------------------------------------------------------


def change(name: str, **update):
    return tuple(component.model_copy(update=update) if component.name == name else component for component in locked())


MINI = next(component for component in locked() if component.name == "mini")
OTHER = tuple(pin.model_copy(update={"sha256": "0" * 64}) if pin.path == "config.json" else pin for pin in MINI.files)
DISAGREEING = [
    (lambda made: lock(*locked()[1:]), "docs", "is in the bundle and does not stand in the lock"),
    (lambda made: lock(*locked(), locked()[0].model_copy(update={"name": "zzz"})), "zzz", "stands in the lock and is not in the bundle"),
    (lambda made: lock(*change("mini", kind="model")), "mini", "kind is 'huggingface' in the index, 'model' in the lock"),
    (lambda made: lock(*change("mini", role=None)), "mini", "role is 'inference' in the index, 'None' in the lock"),
    (lambda made: lock(*change("mini", facts={**MINI.facts, "license": "mit"})), "mini", "'license' is 'apache-2.0' in the index, 'mit'"),
    (lambda made: lock(*change("mini", files=OTHER)), "mini", "config.json: of another digest or size than in the lock"),
    (lambda made: lock(*change("mini", files=MINI.files[1:])), "mini", "README.md: in the bundle and not in the lock"),
    (lambda made: lock(*change("mini", inline=(Inline(path="x", text="y"),))), "mini", "x: in the lock and not in the bundle"),
    (lambda made: made.model_copy(update={"name": "other"}), "", "index names the bundle 'test', the lock 'other'"),
    (lambda made: made.model_copy(update={"stream": "other"}), "", "signers name the stream 'test-stream', the lock 'other'"),
]


@pytest.mark.parametrize(("stated", "component", "message"), DISAGREEING, ids=range(len(DISAGREEING)))
def test_a_lock_that_says_something_else_is_named(tmp_path, stated, component, message):
    found = of(tmp_path, own={"bundle.lock.json": stated(lock(*locked())).to_bytes()})
    assert any(entry.component == component and message in entry.message for entry in found.disagreements), found.disagreements


def test_an_image_that_differs_from_its_lock_is_named(tmp_path):
    server = locked()[-1]
    pins = tuple(pin.model_copy(update={"sha256": "1" * 64}) if pin.path == "layer" else pin for pin in server.files)
    found = of(tmp_path, own={"bundle.lock.json": lock(*change("server", files=pins)).to_bytes()})
    messages = [entry.message for entry in found.disagreements]
    assert any("not pinned by the lock" in text for text in messages)
    assert any(f"{'1' * 64}: pinned by the lock and not carried" in text for text in messages)


@pytest.mark.parametrize(
    ("own", "reason"),
    [({}, "component airgap-lock: missing"), ({"other.json": b"{}"}, "has no file"), ({"bundle.lock.json": b"{"}, "not valid JSON")],
)
def test_without_a_readable_lock_origins_are_unknown_and_that_is_said(tmp_path, own, reason):
    found = of(tmp_path, own=own)
    assert len(found.gaps) == 1
    assert reason in found.gaps[0]
    assert found.lock_sha256 is None
    assert {item.origin for item in found.items if item.component == "mini"} == {None}
    assert by_name(found, "acme/Mini-1B").version == COMMIT  # the signed index says it too


# --- wheels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wheels/Foo_Bar.Baz-1.0-py3-none-any.whl", ("foo-bar-baz", "1.0")),
        ("a-1!2.0rc1+cu12-2build-cp312-cp312-manylinux_2_28_x86_64.whl", ("a", "1!2.0rc1+cu12")),
        ("a-1.0.whl", None),
        ("a-1-2-3-4-5-6.whl", None),
        ("-1.0-py3-none-any.whl", None),
        ("a-1.0-py3-none-any.zip", None),
        ("a\u202eb-1.0-py3-none-any.whl", None),
    ],
)
def test_file_names(name, expected):
    assert wheels.from_filename(name) == expected


def read(folder: Path, data: bytes) -> core_metadata.Metadata:
    layout = Layout.create(folder)
    return wheels.read(layout, TreeFile("x.whl", layout.put(data), len(data))).metadata


def archive(*members: tuple[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as made:
        for name, data in members:
            made.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data, how)
    return out.getvalue()


GOOD = b"Metadata-Version: 2.1\nName: a\nVersion: 1\n\n"
INFO = "a-1.dist-info/METADATA"
HUGE = GOOD + b"x" * (wheels.MAX_METADATA + 1)


def encrypted() -> bytes:
    data = bytearray(archive((INFO, GOOD)))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + at] |= 1
    return bytes(data)


def greedy() -> bytes:
    """Return a zip whose end claims a directory of 200 MB, and has it."""
    data = archive((INFO, GOOD))
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    size = 200_000_000
    tail = bytearray(data[end:])
    tail[12:16] = size.to_bytes(4, "little")
    return data[:start] + data[start:end].ljust(size, b"\0") + bytes(tail)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a readable zip"),
        (b"no zip at all", "not a readable zip"),
        (archive((INFO, GOOD))[:-30], "not a readable zip"),
        (archive(("a.py", b"")), "0 files named"),
        (archive((INFO, GOOD), ("b-1.dist-info/METADATA", GOOD)), "2 files named"),
        (archive((INFO, HUGE)), "larger than"),
        (archive((INFO, GOOD), how=zipfile.ZIP_LZMA), "packed in an unusual way"),
        (encrypted(), "encrypted"),
        (archive((INFO, b"Name: a\n\n")), "no Name or no Version"),
        (archive((INFO, b"\xff\xfe\n")), "no Name or no Version"),
        (archive((f"deep/{INFO}", GOOD)), "0 files named"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(tmp_path, data, reason):
    with pytest.raises(wheels.UnreadableError, match=reason):
        read(tmp_path, data)


def test_a_directory_that_claims_too_much_is_not_read(tmp_path):
    with pytest.raises(wheels.UnreadableError, match="claims 200000000 bytes"):
        read(tmp_path, greedy())


def test_a_bomb_is_unpacked_no_further_than_the_limit(tmp_path):
    with pytest.raises(wheels.UnreadableError, match="larger than"):
        read(tmp_path, archive((INFO, GOOD + b"\0" * (64 << 20))))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damaged_wheel_does_more_than_refuse(tmp_path_factory, data):
    raw = bytearray(archive((INFO, GOOD), ("a.py", b"print()")))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("fuzz", numbered=True)
    try:
        found = read(folder, bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    except wheels.UnreadableError:
        return
    assert found.name


@pytest.mark.parametrize(
    ("header", "producer"),
    [
        ("Author: Ada\nAuthor-email: x@example.org", "Ada"),
        ("Author-email: Ada <a@example.org>, Bo <b@example.org>", "Ada, Bo"),
        ("Author-email: a@example.org", "a@example.org"),
        ("Author: UNKNOWN\nMaintainer: Bo", "Bo"),
        ("Home-page: x", None),
    ],
)
def test_producers(tmp_path, header, producer):
    assert read(tmp_path, archive((INFO, f"Name: a\nVersion: 1\n{header}\n".encode()))).author == producer


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ("License-Expression: MIT\nLicense: Other", (("MIT", "License-Expression"),)),
        ("License: Apache 2.0", (("Apache 2.0", "License"),)),
        ("License: UNKNOWN", ()),
        ("License: Line one\n  line two", (("Line one", "License, first line of a text"),)),
        (
            "License: Long\n  text\nClassifier: License :: OSI Approved :: BSD License\nClassifier: Topic :: X",
            (("BSD License", "Classifier"),),
        ),
        ("Classifier: License :: OSI Approved", ()),
        ("", ()),
    ],
)
def test_licence_statements(tmp_path, headers, expected):
    assert read(tmp_path, archive((INFO, f"Name: a\r\nVersion: 1\r\n{headers}\n\nLicense: body".encode()))).licences == expected


def test_a_wheel_that_is_not_what_its_name_says_is_unreadable_and_keeps_no_statement(tmp_path):
    bad = {
        "a-1-py3-none-any.whl": evidence.wheel("b", "1", "License: MIT"),
        "odd.whl": evidence.wheel("odd", "1"),
        "z-1-py3-none-any.whl": b"x",
    }
    found = of(tmp_path, lock(*locked(bad)), contents(bad))
    assert {item.name: item.coverage.reason.split(":")[0] for item in found.unreadable} == {
        "a": "its METADATA says b 1, its file name a 1",
        "odd.whl": "its file name is not that of a wheel",
        "z": "not a readable zip",
    }
    assert all(not item.licences for item in found.unreadable)
    assert by_name(found, "odd.whl").purl is None


def test_a_damaged_tree_becomes_a_coverage_not_an_error(tmp_path):
    bundle = evidence.verified(evidence.rich(tmp_path))
    mini = next(component for component in bundle.components if component.name == "mini")
    bundle.layout.path(mini.root.digest).unlink()  # after verification, as if the disk had failed
    found = take(replace(bundle))
    assert [item.component for item in found.unreadable] == ["mini"]
    assert any(entry.component == "mini" and "cannot be compared" in entry.message for entry in found.disagreements)


# --- licence texts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "identifier", "expression"),
    [
        ("MIT", "MIT", None),
        ("apache-2.0", "Apache-2.0", None),
        ("mit and (apache-2.0 OR bsd-3-clause)", None, "MIT AND (Apache-2.0 OR BSD-3-Clause)"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", None, "GPL-2.0-only WITH Classpath-exception-2.0"),
        ("LicenseRef-x OR MIT", None, "LicenseRef-x OR MIT"),
        ("bsd", None, None),
        ("llama3.1", None, None),
        ("MIT AND", None, None),
        ("AND MIT", None, None),
        ("MIT Apache-2.0", None, None),
        ("(MIT", None, None),
        ("MIT)", None, None),
        (")MIT AND MIT(", None, None),
        ("()", None, None),
        ("(MIT AND MIT", None, None),
        ("MIT AND MIT)", None, None),
        ("MIT) AND (MIT", None, None),
        ("MIT MIT AND", None, None),
        ("MIT AND () AND MIT", None, None),
        ("MIT AND NoSuch-1.0", None, None),
        ("MIT; DROP", None, None),
        ("MIT AND " * 200 + "MIT", None, None),
    ],
)
def test_spdx(text, identifier, expression):
    assert (licences.identifier(text), licences.expression(text)) == (identifier, expression)
