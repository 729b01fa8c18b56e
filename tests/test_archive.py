"""Archives of images: read once, every file a blob, and nothing in them a place on this machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts.expect import refused

from airgap_images.contents import archive
from airgap_images.contents.archive import Stored, contents, diff_id, unpack
from airgap_images.contents.tar import MAX_SPECIAL
from airgap_images.layout import PARTIAL, Layout
from airgap_images.oci import Digest
from manifests.errors import AirgapError, IntegrityError, InvalidFileError, SiteError

reuse = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.create(tmp_path / "layout")


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(data)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as made:
        for info, data in members:
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


def pieces(raw: bytes, size: int = 1000) -> Iterator[bytes]:
    return (raw[at : at + size] for at in range(0, len(raw), size))


def taken(layout: Layout, *members: tuple[tarfile.TarInfo, bytes]) -> archive.Unpacked:
    return unpack(pieces(tar(*members)), layout, "app.tar")


def names(layout: Layout) -> set[str]:
    return {name for name, _ in layout.blobs()}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_file_becomes_a_blob_by_its_name(layout: Layout, form: int) -> None:
    long = f"{'n' * 90}/{'m' * 90}/layer.tar"
    raw = tar(member("./", kind=tarfile.DIRTYPE), member("d", kind=tarfile.DIRTYPE), member("./d/a", b"one"), member(long, b"two"), form=form)
    found = unpack(pieces(raw), layout, "app.tar")
    assert found.find("d/a") == Stored(Digest.of(b"one"), 3)
    assert found.find(long) == Stored(Digest.of(b"two"), 3)
    assert found.find("d") is found.find("nowhere") is None
    assert found.read(layout, "d/a", 10) == b"one"
    assert names(layout) == {Digest.of(b"one").hex, Digest.of(b"two").hex}
    assert not list((layout.root / PARTIAL).iterdir())
    with refused(InvalidFileError, "app.tar: the archive has no 'nowhere'"):
        found.read(layout, "nowhere", 10)
    with refused(IntegrityError, "at most 2"):
        found.read(layout, "d/a", 2)


@reuse
@given(data=st.dictionaries(st.sampled_from("abcdef"), st.binary(max_size=3000), max_size=6), size=st.integers(1, 5000))
def test_whatever_the_pieces_the_files_are_the_same(tmp_path_factory: pytest.TempPathFactory, data: dict[str, bytes], size: int) -> None:
    layout = Layout.create(tmp_path_factory.mktemp("l"))
    found = unpack(pieces(tar(*(member(name, text) for name, text in data.items())), size), layout, "x")
    assert {name: found.read(layout, name, 5000) for name in data} == data


def test_a_file_named_by_its_digest_must_have_it_and_is_written_once(layout: Layout) -> None:
    name = f"blobs/sha256/{Digest.of(b'one').hex}"
    taken(layout, member(name, b"one"))
    before = layout.path(Digest.of(b"one")).stat().st_ino
    assert taken(layout, member(name, b"one")).find(name) == Stored(Digest.of(b"one"), 3)
    assert layout.path(Digest.of(b"one")).stat().st_ino == before
    for data in (b"two", b"three"):  # of the same size as what is there, and of another
        with refused(IntegrityError, f"app.tar: {name}: content is sha256 {Digest.of(data).hex}"):
            taken(layout, member(name, data))
    assert names(layout) == {Digest.of(b"one").hex}


def test_links_within_the_archive_are_followed(layout: Layout) -> None:
    found = taken(
        layout,
        member("one/layer.tar", b"layer"),
        member("two/layer.tar", kind=tarfile.SYMTYPE, target="../one/layer.tar"),
        member("three/layer.tar", kind=tarfile.LNKTYPE, target="two/layer.tar"),
        member("before", kind=tarfile.SYMTYPE, target="after"),
        member("after", b"x"),
        member("gone", kind=tarfile.SYMTYPE, target="nowhere"),
    )
    assert {found.find(f"{name}/layer.tar") for name in ("one", "two", "three")} == {Stored(Digest.of(b"layer"), 5)}
    assert found.find("before") == Stored(Digest.of(b"x"), 1)
    assert found.find("gone") is None


@pytest.mark.parametrize("target", ["/etc/passwd", "../../etc/passwd", "..", "d/../../x", ".", ""])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_out_of_the_archive_is_refused(layout: Layout, target: str, kind: bytes) -> None:
    with refused(IntegrityError, "app.tar: 'layer.tar' is a link out of the archive"):
        taken(layout, member("layer.tar", kind=kind, target=target))


def test_links_in_a_circle_end(layout: Layout) -> None:
    found = taken(layout, member("a", kind=tarfile.SYMTYPE, target="b"), member("b", kind=tarfile.SYMTYPE, target="a"))
    with refused(IntegrityError, "app.tar: ", "is a link to a link, without end"):
        found.find("a")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a//b", "a\\b", "a\nb", "..", "a/\x1b[2J", "x" * 300, "a/./b"])
def test_a_name_that_is_no_plain_path_is_refused(layout: Layout, name: str) -> None:
    with pytest.raises(InvalidFileError, match=r"^app\.tar: path "):
        taken(layout, member(name, b"x"))
    assert names(layout) == set()
    assert sorted(os.listdir(layout.root.parent)) == ["layout"]


@pytest.mark.parametrize("second", [member("a", b"two"), member("./a", b"two"), member("a", kind=tarfile.SYMTYPE, target="b")])
def test_a_name_that_stands_twice_is_refused(layout: Layout, second: tuple[tarfile.TarInfo, bytes]) -> None:
    with refused(IntegrityError, "app.tar: 'a' stands twice in the archive"):
        taken(layout, member("a", b"one"), second)


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"])
def test_what_is_no_file_folder_or_link_is_refused(layout: Layout, kind: bytes) -> None:
    with refused(IntegrityError, "app.tar: 'a' is no plain file, folder or link"):
        taken(layout, member("a", kind=kind))


def test_a_sparse_file_is_refused(layout: Layout) -> None:
    info, data = member("a", b"x" * 10)
    info.pax_headers = {"GNU.sparse.map": "0,10", "GNU.sparse.size": "1000000000000", "GNU.sparse.numblocks": "1"}
    with refused(IntegrityError, "app.tar: 'a' is no plain file, folder or link"):
        taken(layout, (info, data))


def test_an_archive_cut_anywhere_never_gives_a_file_that_is_not_whole(layout: Layout) -> None:
    raw = tar(member("a", b"1" * 700), member("b", b"2" * 700))
    for end in range(0, len(raw) - 10240 + 4096, 100):
        try:
            found = unpack(pieces(raw[:end]), layout, "app.tar")
        except IntegrityError as error:
            assert error.message.startswith("app.tar: the archive ")
        else:
            assert {name: found.read(layout, name, 1000) for name in "ab" if found.find(name)}.items() <= {"a": b"1" * 700, "b": b"2" * 700}.items()


def test_sizes_are_bounded_by_the_disk_before_anything_is_written(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    free = os.statvfs(layout.root).f_bavail * os.statvfs(layout.root).f_frsize
    info, _ = member("huge")
    info.size = free
    with refused(SiteError, f"{free} bytes to store", "are free"):
        unpack(iter([info.tobuf(tarfile.GNU_FORMAT)]), layout, "app.tar")
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=archive.MARGIN + 2, f_frsize=1))
    taken(layout, member("fits", b"12"))
    with refused(SiteError, "3 bytes to store and 67108864 to spare, but 67108866 are free"):
        taken(layout, member("does-not", b"123"))
    assert names(layout) == {Digest.of(b"12").hex}


def test_headers_that_claim_too_much_are_refused(layout: Layout) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        info, _ = member("x", kind=kind)
        info.size = MAX_SPECIAL + 1
        with refused(IntegrityError, "app.tar: the archive has a tar header of"):
            unpack(iter([info.tobuf(tarfile.GNU_FORMAT)]), layout, "app.tar")


def test_too_many_files_are_refused(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    taken(layout, *(member(name) for name in "abc"))
    with refused(IntegrityError, "more than 3 files in the archive"):
        taken(layout, *(member(name) for name in "abcd"))


@pytest.mark.parametrize("raw", [b"not a tar" * 100, b"\0" * 100, b"x" * 512, bytes(512) + b"x" * 512])
def test_what_is_no_archive_is_refused(layout: Layout, raw: bytes) -> None:
    with refused(IntegrityError, "app.tar: the archive"):
        unpack(pieces(raw), layout, "app.tar")


@reuse
@given(at=st.integers(0, 3000), byte=st.integers(0, 255))
def test_a_changed_byte_gives_other_bytes_or_a_refusal_and_nothing_else(tmp_path_factory: pytest.TempPathFactory, at: int, byte: int) -> None:
    layout = Layout.create(tmp_path_factory.mktemp("l"))
    name = f"blobs/sha256/{Digest.of(b'2' * 600).hex}"
    raw = bytearray(tar(member("a", b"1" * 600), member(name, b"2" * 600), member("l", kind=tarfile.SYMTYPE, target="a")))
    raw[at] = byte
    try:
        found = unpack(pieces(bytes(raw)), layout, "app.tar")
    except AirgapError:
        return
    stored = found.find(name)
    assert stored is None or found.read(layout, name, 600) == b"2" * 600


def test_compressed_archives_are_read_and_others_are_said_to_be_none(layout: Layout, tmp_path: Path) -> None:
    raw = tar(member("a", b"one" * 1000))
    for packed in (raw, gzip.compress(raw), gzip.compress(raw[:700]) + gzip.compress(raw[700:])):
        assert unpack(contents(io.BytesIO(packed), len(packed)), layout, "app.tar").find("a") == Stored(Digest.of(b"one" * 1000), 3000)
    with refused(IntegrityError, "app.tar: the archive"):
        packed = gzip.compress(tar(member("a", random.Random(1).randbytes(3000))))[:1500]
        unpack(contents(io.BytesIO(packed), len(packed)), layout, "app.tar")
    with refused(IntegrityError, "app.tar: the archive is damaged"):  # the sum at its end
        unpack(contents(io.BytesIO(gzip.compress(raw)[:-3]), 1000), layout, "app.tar")
    with refused(IntegrityError, "app.tar: the archive is compressed with xz"):
        unpack(contents(io.BytesIO(b"\xfd7zXZ\0 and so on"), 20), layout, "app.tar")


def test_an_archive_that_unpacks_to_far_more_than_it_is_ends(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airgap_images.contents.unpack.FREE", 1 << 20)
    packed = gzip.compress(tar(member("bomb", bytes(8 << 20))))
    with refused(IntegrityError, "app.tar: the archive unpacks to more than 250 times its size"):
        unpack(contents(io.BytesIO(packed), len(packed)), layout, "app.tar")
    assert names(layout) == set()
    assert not list((layout.root / PARTIAL).iterdir())


def test_the_diff_id_of_a_layer_is_that_of_its_tar(layout: Layout) -> None:
    raw = tar(member("etc/os-release", b"x"))
    expected = Digest(hashlib.sha256(raw).hexdigest())
    for data, packed in ((raw, ""), (gzip.compress(raw), "gzip")):
        assert diff_id(layout, Stored(layout.put(data), len(data)), "layer") == (expected, packed)
    broken = gzip.compress(raw)[:-9]
    with refused(IntegrityError, "layer: the archive is damaged"):
        diff_id(layout, Stored(layout.put(broken), len(broken)), "layer")
