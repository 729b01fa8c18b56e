"""The files of an image are those that an engine would unpack; a hostile layer costs little and ends in one refusal."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import sys
import tarfile
import threading
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from parts import layers
from parts.images import need, tool
from parts.layers import entry, folder, hard, joined, link

from airgap_images.contents import layer, rootfs, tree, unpack
from airgap_images.contents import tar as tars
from airgap_images.contents.layer import clean
from airgap_images.contents.tar import Tar
from manifests.errors import AirgapError, IntegrityError, InvalidFileError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=120).filter(lambda name: name not in {".", ".."})
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
FORMS = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])


# --- the archive ----------------------------------------------------------------------------------------------------


def pieces(data: bytes, size: int):
    return iter([data[at : at + size] for at in range(0, len(data), size)])


def ours(data: bytes, size: int = 1 << 20) -> list[tuple]:
    archive = Tar(pieces(data, size))
    return [(e.kind, e.name.rstrip("/"), e.target, b"".join(map(bytes, archive.body()))) for e in archive if e.name]


def theirs(data: bytes) -> list[tuple]:
    names = {tarfile.DIRTYPE: "folder", tarfile.SYMTYPE: "link", tarfile.LNKTYPE: "hard", tarfile.FIFOTYPE: "other"}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [(names.get(m.type, "file"), m.name.rstrip("/"), m.linkname, archive.extractfile(m).read() if m.isreg() else b"") for m in archive]


@settings(max_examples=150)
@given(st.lists(st.tuples(PATHS, KINDS, st.binary(max_size=1500), PATHS), max_size=6), FORMS, st.integers(1, 3000))
@example([("a/" * 60 + "b", tarfile.REGTYPE, b"x" * 513, "")], tarfile.USTAR_FORMAT, 7)
@example([("n" * 101, tarfile.SYMTYPE, b"", "t" * 300)], tarfile.GNU_FORMAT, 512)
def test_it_reads_what_tarfile_wrote_whatever_the_pieces(members, form, size):
    made = [entry(name, data if kind == tarfile.REGTYPE else b"", kind=kind, link=target if kind in {tarfile.SYMTYPE, tarfile.LNKTYPE} else "")
            for name, kind, data, target in members]  # fmt: skip
    data = layers.tar(*made, form=form)
    assert ours(data, size) == theirs(data)


@settings(max_examples=200)
@given(st.data())
def test_no_damage_does_more_than_refuse(data):
    archive = bytearray(layers.tar(entry("a" * 120, b"x" * 600), link("b", "a"), entry("c/d", b"y"), form=data.draw(FORMS)))
    for _ in range(data.draw(st.integers(1, 4))):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(archive[: data.draw(st.integers(0, len(archive)))])
    try:
        ours(cut, 1000)
    except IntegrityError as error:
        assert error.message.startswith("the layer")


def header(name: str, size: bytes, kind: bytes = b"0", magic: bytes = b"ustar\x0000", prefix: bytes = b"") -> bytes:
    block = bytearray(512)
    block[: len(name)] = name.encode()
    block[100:108], block[124 : 124 + len(size)], block[156:157], block[257:265] = b"0000644\0", size, kind, magic
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(1024)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (header("a", b"\x80" + bytes(10) + b"\x03") + b"abc".ljust(512, b"\0"), [("file", "a", "", b"abc")]),  # base 256
        (header("d/", b"00000000000\0", b"\0"), [("folder", "d", "", b"")]),  # before ustar a slash made the folder
        (header("d", b"00000001000\0", b"5"), [("folder", "d", "", b"")]),  # a folder with a size has no body
        (header("n", b"0", b"0", b"ustar\x0000", b"p/q"), [("file", "p/q/n", "", b"")]),
        (header("n", b"0", b"0", b"ustar  \0", b"p/q"), [("file", "p/q/n", "", b"")]),  # golang issue 12594
        (header("n", b"0", b"0", b"ustar  \0", b"00000000001\x0000000000002\0"), [("file", "n", "", b"")]),  # GNU's two times
        (header("n", b"0", b"7"), [("file", "n", "", b"")]),
        (header("g", b"11", b"g") + b"9 path=x\n".ljust(512, b"\0") + header("n", b"0"), [("file", "n", "", b"")]),  # global: not of the entry
    ],
)
def test_old_and_odd_headers(block, expected):
    assert ours(block + END) == expected


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"x" * 512, "checksum"),
        (header("a", b"9"), "number in a header"),
        (header("a", b"1_0"), "number in a header"),
        (header("a", b"\xff" * 12), "size that cannot be"),
        (header("a", b"\x80\x7f" + b"\xff" * 10), "size that cannot be"),
        (header("x", b"00010000000\0", b"x"), "header of 2097152 bytes"),
        (header("x", b"00010000000\0", b"L"), "header of 2097152 bytes"),
        (header("x", b"3", b"x") + b"abc".ljust(512, b"\0"), "PAX header that cannot be read"),
        (header("x", b"13", b"x") + b"11 path=\0b\n".ljust(512, b"\0"), "PAX header with a zero byte|cannot be read"),
        (header("x", b"13", b"x") + b"11 size=-5\n".ljust(512, b"\0") + header("a", b"0"), "number that is none"),
        (header("a", b"00000001001\0") + b"x" * 512, "ends in the middle"),
        (header("a", b"0") + bytes(512) + header("b", b"0"), "one block of zeros"),
        (header("s", b"0", b"S", b"ustar  \0"), None),
    ],
)
def test_headers_that_lie_are_refused(block, reason):
    if reason is None:
        assert ours(block + END) == [("file", "s", "", b"")]
        return
    with pytest.raises(IntegrityError, match=reason):
        ours(block if "middle" in reason else block + END)


@pytest.mark.parametrize("options", [["gnu"], ["posix", "--sparse-version=0.0"], ["posix", "--sparse-version=0.1"], ["posix", "--sparse-version=1.0"]])
def test_sparse_files_are_whole_in_every_form_of_gnu_tar(tmp_path, options):
    source = tmp_path / "source"
    source.mkdir()
    with (source / "sparse").open("wb") as out:
        for at in range(30):
            out.seek(at * (1 << 17))
            out.write(bytes([at + 1]) * 4096)
        out.truncate(5 << 20)
    (source / "z-after").write_bytes(b"after")
    made = tmp_path / "layer.tar"
    tool("tar", "-S", f"--format={options[0]}", *options[1:], "-C", source, "-cf", made, "sparse", "z-after")
    data = made.read_bytes()
    assert len(data) < 1 << 20
    assert joined(tmp_path / "oci", data) == {name: (source / name).read_bytes() for name in ("sparse", "z-after")}


@pytest.mark.parametrize(
    "records",
    [
        {"GNU.sparse.size": "10", "GNU.sparse.map": "0,5,3,2"},  # overlaps
        {"GNU.sparse.size": "4", "GNU.sparse.map": "0,7"},  # beyond the end
        {"GNU.sparse.size": "99", "GNU.sparse.map": "0,6"},  # not the body
        {"GNU.sparse.size": "99", "GNU.sparse.map": "0,x"},
        {"GNU.sparse.size": "99", "GNU.sparse.map": "0"},
        {"GNU.sparse.size": str(1 << 70), "GNU.sparse.map": "0,7"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"},  # the body has no map
    ],
)
def test_sparse_maps_that_lie_are_refused(records):
    info, data = entry("a", b"1234567")
    info.pax_headers = records
    with pytest.raises(IntegrityError, match="sparse file whose map is wrong"):
        ours(layers.tar((info, data)))


def test_a_hole_of_exbytes_costs_nothing(tmp_path):
    info, data = entry("a", b"1234567")
    info.pax_headers = {"GNU.sparse.size": str(1 << 61), "GNU.sparse.map": f"{(1 << 61) - 7},7"}
    assert joined(tmp_path, layers.tar((info, data))) == {}


# --- layers over one another ----------------------------------------------------------------------------------------

LOWER = layers.tar(folder("d"), entry("d/a", b"1"), entry("d/b", b"2"), folder("d/e"), entry("d/e/f", b"3"), link("l", "d"), entry("x", b"x"))
JOINS = {
    "a whiteout hides a file": ([entry("d/.wh.a")], {"d/b": b"2", "d/e/f": b"3", "x": b"x"}),
    "a whiteout hides a folder": ([entry(".wh.d")], {"x": b"x"}),
    "whiteouts do not hide what their own layer adds": ([entry("d/a", b"new"), entry("d/.wh.a")], {"d/a": b"new", "d/b": b"2", "d/e/f": b"3", "x": b"x"}),
    "an opaque folder hides only what was there": ([entry("d/a", b"new"), entry("d/.wh..wh..opq")], {"d/a": b"new", "x": b"x"}),
    "the order in the layer does not matter": ([entry("d/.wh..wh..opq"), entry("d/e/g", b"g")], {"d/e/g": b"g", "x": b"x"}),
    "a folder keeps what is in it": ([folder("d"), entry("d/c", b"c")], {"d/a": b"1", "d/b": b"2", "d/c": b"c", "d/e/f": b"3", "x": b"x"}),
    "a file replaces a folder": ([entry("d", b"file")], {"d": b"file", "x": b"x"}),
    "a link replaces a folder": ([link("d", "x")], {"x": b"x"}),
    "a folder replaces a link": ([folder("l"), entry("l/n", b"n")], {"d/a": b"1", "d/b": b"2", "d/e/f": b"3", "l/n": b"n", "x": b"x"}),
    "a name below a link lands where it leads": ([entry("l/n", b"n")], {"d/a": b"1", "d/b": b"2", "d/e/f": b"3", "d/n": b"n", "x": b"x"}),
    "a whiteout below a link as well": ([entry("l/.wh.a")], {"d/b": b"2", "d/e/f": b"3", "x": b"x"}),
    "a hard link is the file": ([hard("h", "d/a")], {"d/a": b"1", "d/b": b"2", "d/e/f": b"3", "h": b"1", "x": b"x"}),
    "a hard link outlives its first name": ([hard("h", "x"), entry("x", b"new")], {"d/a": b"1", "d/b": b"2", "d/e/f": b"3", "h": b"x", "x": b"new"}),
    "names are cleaned": ([entry("./d/../d//a", b"9"), entry("/y", b"y")], {"d/a": b"9", "d/b": b"2", "d/e/f": b"3", "x": b"x", "y": b"y"}),
    "names of aufs are its own": ([entry(".wh..wh.plnk"), entry(".wh.")], {"d/a": b"1", "d/b": b"2", "d/e/f": b"3", "x": b"x"}),
}


@pytest.mark.parametrize("case", JOINS)
def test_a_layer_over_another(tmp_path, case):
    upper, expected = JOINS[case]
    assert joined(tmp_path, LOWER, layers.tar(*upper)) == expected


def test_whiteouts_reach_two_layers_down_and_a_third_can_add_again(tmp_path):
    third = layers.tar(entry("d/a", b"again"))
    assert joined(tmp_path, LOWER, layers.tar(entry("d/.wh.a")), third)["d/a"] == b"again"
    assert "d/a" not in joined(tmp_path / "2", LOWER, third, layers.tar(entry(".wh.d")))


def test_links_that_go_round_or_out_hold_nobody(tmp_path):
    upper = layers.tar(link("r", "r"), link("s", "t"), link("t", "s"), entry("r/a", b"1"), entry("s/b", b"2"), link("up", "../../../.."), entry("up/c", b"3"))
    made = rootfs.read(*layers.image(tmp_path, upper), layers.everything)
    assert layers.files(made) == {"c": b"3"}
    assert dict(made.left_out) == {tree.BELOW_FILE: 2}
    assert made.tree.lookup("s", follow=True) is None


def test_hard_links_to_nothing_to_folders_and_to_themselves(tmp_path):
    made = rootfs.read(*layers.image(tmp_path, layers.tar(folder("d"), hard("a", "a"), hard("b", "d"), hard("c", "../x"))), layers.everything)
    assert layers.files(made) == {}
    assert dict(made.left_out) == {tree.NO_TARGET: 3}


def test_a_file_passed_over_under_its_first_name_is_read_under_the_one_that_counts(tmp_path):
    def search(path: str, size: int, head: bytes):
        return layers.everything(path, size, head) if path.endswith("package.json") else None

    lower = layers.tar(entry("store/00/abc", b"{}"), entry("store/00/def", b"no"), hard("store/01", "store/00/abc"))
    upper = layers.tar(hard("app/package.json", "store/01"), hard("app/other", "store/00/def"))
    made = rootfs.read(*layers.image(tmp_path, lower, upper), search)
    found = {path: (node.found, node.layer) for path, node in made.tree.walk()}
    assert found == {"app/package.json": (b"{}", 0)}


def test_random_layers_are_what_umoci_unpacks(tmp_path):
    """An engine's own unpacking is the oracle, on layers that add, replace and hide at random."""
    need("umoci")
    chance = random.Random(7)
    for round_ in range(6):
        made = [layers.tar(*_random(chance, first=at == 0)) for at in range(4)]
        stored = tmp_path / f"oci-{round_}"
        tool("umoci", "init", "--layout", stored)
        tool("umoci", "new", "--image", f"{stored}:1")
        for data in made:
            (tmp_path / "layer.tar").write_bytes(data)
            tool("umoci", "raw", "add-layer", "--image", f"{stored}:1", tmp_path / "layer.tar")
        unpacked = tmp_path / f"root-{round_}"
        tool("umoci", "raw", "unpack", "--image", f"{stored}:1", unpacked)
        expected = {str(p.relative_to(unpacked)): p.read_bytes() for p in unpacked.rglob("*") if p.is_file() and not p.is_symlink()}
        assert joined(tmp_path / f"ours-{round_}", *made) == expected


def _random(chance: random.Random, *, first: bool):
    names, seen = ("a", "b", "c", "a/b", "a/c", "b/a", "b/b/c", "a/b/c", "d"), set()
    made = []
    for name in sorted(chance.sample(names, 5)):
        parents = [name[:at] for at in range(len(name)) if name[at] == "/"]
        if seen & set(parents):
            continue
        made += [folder(parent) for parent in parents]  # as those who write layers do
        what = chance.choice(("file", "file", "folder", "link", "hide", "opaque"))
        base, _, last = name.rpartition("/")
        before = f"{base}/" if base else ""
        if what == "folder" or (what == "opaque" and first):
            made.append(folder(name))
        elif what == "hide" and not first:
            made.append(entry(f"{before}.wh.{last}"))
            seen.add(name)
        elif what == "opaque":
            made += [folder(name), entry(f"{name}/.wh..wh..opq")]
        elif what == "link":
            made.append(link(name, "nowhere"))
            seen.add(name)
        else:
            made.append(entry(name, chance.randbytes(3)))
            seen.add(name)
    return made


# --- compression ----------------------------------------------------------------------------------------------------

PLAIN = layers.of({"a": os.urandom(3000), "b": b"b" * 200_000})
FRAMES = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"12345"
PACKED = {
    "plain": PLAIN,
    "gzip": gzip.compress(PLAIN),
    "gzip of many members": b"".join(gzip.compress(PLAIN[at : at + 1000]) for at in range(0, len(PLAIN), 1000)) + gzip.compress(b""),
    "gzip, stored": gzip.compress(PLAIN, 0),
    "zstd": zstd.compress(PLAIN),
    "zstd of many frames": b"".join(zstd.compress(PLAIN[at : at + 50_000]) for at in range(0, len(PLAIN), 50_000)),
    "zstd with frames to skip": FRAMES + zstd.compress(PLAIN) + FRAMES,
}


@pytest.mark.parametrize("form", PACKED)
@pytest.mark.parametrize("step", [64, 700, 1 << 16])
def test_every_form_unpacks_to_the_same(tmp_path, monkeypatch, form, step):
    monkeypatch.setattr(unpack, "STEP", step)
    monkeypatch.setattr(unpack, "PIECE", max(step, 1000))
    assert {name: len(data) for name, data in joined(tmp_path, PLAIN, packed=(PACKED[form],)).items()} == {"a": 3000, "b": 200_000}


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (PACKED["gzip"][:-9], "ends early"),
        (PACKED["gzip"] + b"garbage", "damaged"),
        (PACKED["gzip"][:50] + b"\0" * 40 + PACKED["gzip"][90:], "damaged|ends early"),
        (PACKED["zstd"][:-5], "ends early"),
        (PACKED["zstd"][:20] + b"\xff" * 20 + PACKED["zstd"][40:], "damaged|ends early|sha256|no tar"),
        (b"BZh91AY&SY" + bytes(20), "bzip2"),
        (b"\xfd7zXZ\0" + bytes(20), "xz"),
        (gzip.compress(b"no archive" * 100), "no tar archive"),
        (gzip.compress(PLAIN[:-700] + b"!" + PLAIN[-699:]), "no tar|sha256|zeros"),
        (gzip.compress(PLAIN + bytes(512)), "unpacks to sha256"),  # the same files, other bytes
    ],
)
def test_what_does_not_unpack_to_what_its_image_says_is_refused(tmp_path, stored, reason):
    with pytest.raises(IntegrityError, match=reason):
        joined(tmp_path, PLAIN, packed=(stored,))


@pytest.mark.parametrize(
    "config",
    [{}, {"rootfs": None}, {"rootfs": {"diff_ids": []}}, {"rootfs": {"diff_ids": "sha256:" + "0" * 64}}],
)
def test_what_is_no_image_is_told_apart(tmp_path, config):
    with pytest.raises(InvalidFileError, match="not the configuration of a container image"):
        joined(tmp_path, PLAIN, config=config)


def test_a_layer_that_is_not_there_is_refused(tmp_path):
    layout, manifest = layers.image(tmp_path, PLAIN)
    layout.path(manifest.layers[0].digest).unlink()
    with pytest.raises(IntegrityError, match="missing"):
        rootfs.read(layout, manifest, layers.everything)


# --- hostile layers -------------------------------------------------------------------------------------------------


def zeros(count: int) -> bytes:
    """Return gzip of `count` MiB of zeros in an archive of one file."""
    state = zlib.compressobj(9, zlib.DEFLATED, 31)
    out = [state.compress(header("zeros", b"%011o\0" % (count << 20)))]
    out += [state.compress(bytes(1 << 20)) for _ in range(count)]
    return b"".join((*out, state.compress(END), state.flush()))


@pytest.mark.parametrize("make", [zeros, lambda count: zstd.compress(header("zeros", b"%011o\0" % (count << 20)) + bytes(count << 20) + END)])
def test_a_bomb_ends_at_its_ratio_in_little_memory(tmp_path, make):
    packed = make(600)
    assert len(packed) < 1 << 20
    start = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(IntegrityError, match="more than 250 times its size"):
        rootfs.read(*layers.image(tmp_path, b"", packed=(packed,)), lambda *_: None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
    assert time.perf_counter() - start < 20


def test_an_image_has_one_budget_for_all_its_layers(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "MAX_UNPACKED", 300_000)
    monkeypatch.setattr(unpack.Budget.__init__, "__defaults__", (300_000,))
    assert joined(tmp_path / "1", PLAIN)
    with pytest.raises(IntegrityError, match="the image unpacks to more than 300000 bytes"):
        joined(tmp_path / "2", PLAIN, PLAIN)


BOUNDS = {
    "entries": ("MAX_ENTRIES", 50, layers.tar(*(entry(f"f{at}") for at in range(51))), "more than 50 files and folders"),
    "entries that say nothing": ("MAX_ENTRIES", 50, (header("x", b"0", b"x")) * 51 + END, "more than 50 files and folders"),
    "implied folders": ("MAX_ENTRIES", 50, layers.tar(*(entry(f"{at}/" + "d/" * 15 + "f") for at in range(5))), "more than 50 files and folders"),
    "names": ("MAX_NAMES", 1000, layers.tar(*(entry("n" * 90 + str(at)) for at in range(20))), "more than 1000 characters of names"),
    "link targets": ("MAX_NAMES", 1000, layers.tar(*(link(str(at), "t" * 90) for at in range(20))), "more than 1000 characters of names"),
}


@pytest.mark.parametrize("case", BOUNDS)
def test_what_an_image_brings_is_bounded(tmp_path, monkeypatch, case):
    bound, value, data, reason = BOUNDS[case]
    monkeypatch.setattr(layer, bound, value)
    with pytest.raises(IntegrityError, match=reason):
        joined(tmp_path, data)


def test_links_through_links_are_bounded_for_the_image(tmp_path, monkeypatch):
    monkeypatch.setattr(tree, "MAX_STEPS", 20_000)
    chain = [folder("d")] + [link(f"d/l{at}", f"./././l{at + 1}") for at in range(39)] + [folder("d/l39")]
    names = [entry(f"d/l0/x{at}/y") for at in range(300)]
    with pytest.raises(IntegrityError, match="through too many links"):
        joined(tmp_path, layers.tar(*chain, *(part for at, name in enumerate(names) for part in (link(f"d/r{at}", "n"), name, entry(f"d/r{at}")))))


@pytest.mark.parametrize(
    ("name", "why"),
    [("../../etc/passwd", layer.OUTSIDE), ("a/../../b", layer.OUTSIDE), ("n" * 4097, layer.TOO_LONG), ("d/" * 256 + "f", layer.TOO_DEEP), ("..", layer.OUTSIDE)],
)
def test_names_no_engine_would_unpack_are_left_out_and_counted(tmp_path, name, why):
    made = rootfs.read(*layers.image(tmp_path, layers.tar(entry(name, b"1"), entry("good", b"2"))), layers.everything)
    assert layers.files(made) == {"good": b"2"}
    assert made.left_out == ((why, 1),)


@given(st.text(st.sampled_from("./ab"), max_size=12))
def test_clean_names_stay_inside(name):
    path = clean(name)
    assert path is None or (not path.startswith("/") and ".." not in path.split("/") and "//" not in path)


def test_too_many_entries_end_soon(tmp_path, monkeypatch):
    """A tenth of the real bound, to be fast; a million take ten times as long."""
    monkeypatch.setattr(layer, "MAX_ENTRIES", 100_000)
    blocks = [header(f"usr/lib/python3/dist-packages/package/module{at:07}.py", b"0") for at in range(1000)]
    one = zlib.compressobj(1, zlib.DEFLATED, 31)
    packed = b"".join((*(one.compress(b"".join(blocks)) for _ in range(101)), one.compress(END), one.flush()))
    start = time.perf_counter()
    with pytest.raises(IntegrityError, match="more than 100000 files and folders"):
        rootfs.read(*layers.image(tmp_path, b"", packed=(packed,)), lambda *_: None)
    assert time.perf_counter() - start < 20


def test_a_failure_stops_the_other_layers(tmp_path):
    """One thread finds damage; those that read beside it do not go on to the end of what they read."""

    begun = threading.Event()

    class Slow:
        def take(self, _piece):
            begun.set()
            time.sleep(0.1)
            return True

    def search(path: str, _size: int, _head: bytes):
        return Slow() if path == "zeros" else begun.wait(10) and None

    damaged = gzip.compress(header("first", b"0") + b"x" * 512)
    threads, start = threading.active_count(), time.perf_counter()
    with pytest.raises(IntegrityError, match="no tar archive"):
        rootfs.read(*layers.image(tmp_path, b"", b"", packed=(damaged, zeros(100))), search)
    assert begun.is_set()
    assert time.perf_counter() - start < 5
    assert threading.active_count() == threads


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_do_more_than_refuse(tmp_path_factory, data, packed):
    where = tmp_path_factory.mktemp("x")
    try:
        joined(where, data, packed=(gzip.compress(data) if packed else data,) if data else ())
    except AirgapError:
        pass
    finally:
        shutil.rmtree(where)


def test_reading_an_image_writes_nothing(tmp_path, monkeypatch):
    where, scratch = tmp_path / "oci", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    made = layers.image(where, PLAIN)
    before = sorted((path, path.stat().st_mtime_ns) for path in where.rglob("*"))
    rootfs.read(*made, layers.everything)
    assert sorted((path, path.stat().st_mtime_ns) for path in where.rglob("*")) == before
    assert os.listdir(scratch) == []


def test_bounds_are_those_of_the_page():
    """The page `docs/image-packages.md` names these numbers."""
    page = (Path(__file__).parents[1] / "docs/image-packages.md").read_text()
    for value in (f"{layer.MAX_ENTRIES:,}", f"{layer.MAX_NAME:,} bytes", str(layer.MAX_DEPTH), str(unpack.MAX_RATIO), str(tree.MAX_LINKS), f"{tars.MAX_SPECIAL >> 20} MiB"):
        assert value in page
