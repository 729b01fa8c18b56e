"""Pickles in models: found by content and by name, through archives and compression; never loaded, never missed in silence."""

from __future__ import annotations

import bz2
import collections
import gzip
import io
import json
import lzma
import os
import pickle
import pickletools
import random
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import trees

from audit.checks import _containers, _programs, gate
from audit.checks._programs import follow

TORCH_MAGIC = 0x1950A86A20F9469CFC6C


class Evil:
    def __reduce__(self):
        return os.system, ("echo loaded > /tmp/airgap-pickle-was-loaded",)


def evil(protocol: int) -> bytes:
    return pickle.dumps(Evil(), protocol)


def data(protocol: int) -> bytes:
    return pickle.dumps({"weight": [1.5, 2], "name": "x" * 300, "b": b"\0\1"}, protocol)


def torch_zip(payload: bytes, *, name: str = "archive/data.pkl", method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("archive/data/0", b"\0" * 64)
        archive.writestr(name, payload)
        archive.writestr("archive/version", b"3\n")
    return out.getvalue()


def tar(members: dict[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def old_torch() -> bytes:
    """torch.save of before 1.6: magic, protocol and system as three pickles, then the object, then the raw storages."""
    head = [pickle.dumps(value, 2) for value in (TORCH_MAGIC, 1001, {"little_endian": True})]
    return b"".join(head) + pickle.dumps(collections.OrderedDict(a=1), 2) + pickle.dumps(["0"], 2) + b"\x07" * 100


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def npz(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez(out, first=np.arange(3), second=array)
    return out.getvalue()


def nested(depth: int, payload: bytes) -> bytes:
    for _ in range(depth):
        payload = torch_zip(payload, name="inner")
    return payload


OBJECTS = np.array([{"a": 1}, None], dtype=object)
STRUCTURED = np.array([(1, None)], dtype=[("ONE", "<i4"), ("two", object)])
BAD = {
    **{f"evil protocol {n}": evil(n) for n in range(6)},
    **{f"data protocol {n}": data(n) for n in range(2, 6)},
    "import only": b"cos\nsystem\n.",
    "second program": pickle.dumps(1, 0) + evil(0),
    "undecodable string before the call": b"S'\\xff'\n0" + evil(0),
    "missing memo entry does not hide": b"h\x07" + evil(2)[2:],
    "mark popped as a value": b"(0" + evil(1),
    "cut off after the call": evil(4)[:-1],
    "cut off": data(4)[:40],
    "stack global": pickletools.optimize(evil(4)),
    "torch zip": torch_zip(data(2)),
    "torch zip, upper case": torch_zip(data(2), name="ARCHIVE/DATA.PKL"),
    "torch zip, odd member name": torch_zip(evil(2), name="archive/notes.txt"),
    "torch zip, compressed member": torch_zip(evil(0), name="x", method=zipfile.ZIP_DEFLATED),
    "zip behind other bytes": b"\x89 some picture" * 10 + torch_zip(data(2)),
    "torch before 1.6": old_torch(),
    "torch tar": tar({"sys_info": pickle.dumps({}, 2), "pickle": evil(2), "storages": b"", "tensors": b""}),
    "tar, odd member name": tar({"a": b"text", "weights": evil(3)}),
    "nemo: tar.gz with a checkpoint": tar({"model_weights.ckpt": torch_zip(data(2)), "model_config.yaml": b"a: 1"}, "w:gz"),
    "gzip": gzip.compress(evil(4)),
    "gzip, empty first member": gzip.compress(b"") + gzip.compress(evil(4)),
    "bzip2": bz2.compress(evil(4)),
    "xz": lzma.compress(evil(4)),
    "lzma": lzma.compress(evil(4), lzma.FORMAT_ALONE),
    "zlib": zlib.compress(evil(4)),
    "zlib, fast": zlib.compress(evil(0), 1),
    "zlib, two streams": zlib.compress(b"") + zlib.compress(evil(4)),
    "gzip in zip in tar": tar({"a": torch_zip(gzip.compress(evil(4)), name="b")}),
    "joblib of old": b"ZF0x00000000000000010x" + zlib.compress(data(2)),
    "numpy objects": npy(OBJECTS),
    "numpy structure with objects": npy(STRUCTURED),
    "numpy archive with objects": npz(OBJECTS),
    "numpy type in words": npy(OBJECTS).replace(b"'|O'", b"'i4,O'"),
}
HARMLESS = {
    "empty": b"",
    "sentence": b"N. B. this is text\n",
    "import-like text": b"config\nfile\nbar\n",
    "prose": b"In the beginning\nwas the word.\n",
    "markdown": b"# Model\n\nUse it (well).\n",
    "license": b"Permission is hereby granted, free of charge\n" * 40,
    "json": b'{"architectures": ["X"]}',
    "marks": b"(" * 1000,
    "numbers": bytes(range(256)) * 8,
    "plain data of protocol 0": pickle.dumps([1, "a"], 0),
    "numpy": npy(np.arange(12.0).reshape(3, 4)),
    "numpy structure": npy(np.array([(1, 2.0)], dtype=[("O", "<i4"), ("object", "<f8")])),
    "numpy archive": npz(np.arange(4)),
    "zip of text": torch_zip(b"hello", name="a.txt"),
    "tar of text": tar({"a.txt": b"hello", "b": b""}),
    "gzip of text": gzip.compress(b"hello world, this is text"),
    "like zlib": b"hC is how this text begins",
    "like lzma": b"]\0 a bracket and a zero",
    "gguf": b"GGUF" + struct.pack("<IQQ", 3, 0, 0),
    "safetensors": struct.pack("<Q", 2) + b"{}",
    "safetensors of a length that looks like a version": struct.pack("<Q", 0x280480) + b"{" + b" " * 100,
    "end of a zip only": b"text " * 100 + b"PK\x05\x06" + b"\xff" * 18,
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_pickle_is_refused_whatever_it_hides_in(tmp_path, content):
    result = trees.run("pickles", tmp_path, {"notes.txt": content, "model.safetensors": b"x"})
    assert [(f.severity, f.path) for f in result.findings] == [("high", "notes.txt")]
    assert result.gate == "pickle"
    assert gate([result], {}).exit_code == 4
    assert gate([result], {"pickle": "refuse"}).exit_code == 4
    decided = gate([result], {"pickle": "warn"})
    assert (decided.exit_code, len(decided.warned)) == (0, 1)
    assert not os.path.exists("/tmp/airgap-pickle-was-loaded")


@pytest.mark.parametrize("content", HARMLESS.values(), ids=HARMLESS)
def test_what_is_no_pickle_is_not_reported(tmp_path, content):
    result = trees.run("pickles", tmp_path, {"notes.txt": content})
    assert (result.findings, result.not_assessed, result.examined) == ((), (), 1)


@pytest.mark.parametrize("name", ["a.pkl", "a.PICKLE", "d/a.pt", "a.pth", "a.ckpt", "a.joblib", "a.dill", "a.pkl.gz", "a.joblib.z"])
def test_a_name_alone_is_enough(tmp_path, name):
    result = trees.run("pickles", tmp_path, {name: b"nothing special"})
    assert [severity for severity, _, _ in trees.said(result)] == ["high"]


def test_names_of_raw_numbers_count_only_when_nothing_is_known_of_the_content(tmp_path):
    files = {
        "unknown.bin": b"\1\2\3\4raw numbers",
        "model.bin": b"GGUF" + b"\0" * 20,
        "weights.bin": struct.pack("<Q", 2) + b"{}",
        "positions.npy": npy(np.arange(3)),
        "not.npy": b"text",
    }
    result = trees.run("pickles", tmp_path, files)
    assert [(severity, path) for severity, path, _ in trees.said(result)] == [("medium", "not.npy"), ("medium", "unknown.bin")]
    assert gate([result], {}).exit_code == 0


def test_only_models_are_searched_and_the_report_says_so(tmp_path):
    result = trees.run("pickles", tmp_path, {"a.pkl": evil(4)}, kind="path", model=False)
    assert result.outcome == "nothing to examine"
    assert any("wheels" in limit for limit in result.limits)
    weights = trees.run("pickles", tmp_path, {"a.pkl": evil(4), "w.gguf": b"GGUF"}, kind="path", model=False)
    assert weights.outcome == "findings"


def test_the_place_inside_an_archive_is_named_and_cannot_forge_a_line(tmp_path):
    result = trees.run("pickles", tmp_path, {"a.txt": tar({"x\n[0;31m": gzip.compress(evil(2))})})
    (message,) = [message for _, _, message in trees.said(result)]
    assert "unpacked" in message
    assert message.isprintable()


BROKEN = {
    "zip without its end": torch_zip(b"x", name="a")[:-30],
    "zip with a damaged member": torch_zip(b"y" * 5000, name="a", method=zipfile.ZIP_DEFLATED).replace(b"\xed\xc1", b"\xff\xff", 1),
    "encrypted member": b"",
    "gzip cut off": gzip.compress(os.urandom(5000))[:3000],
    "gzip of nothing": b"\x1f\x8b\x08\x00",
    "bzip2 cut off": bz2.compress(b"(" * 90000)[:30],
    "numpy header that is code": b"\x93NUMPY\x01\x00\x10\x00__import__('os')",
    "numpy header cut off": b"\x93NUMPY\x01\x00\xff\x00{",
    "numpy header too long": b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31) + b"{}",
    "lz4": b"\x04\x22\x4d\x18" + b"\0" * 30,
    "zstd": b"\x28\xb5\x2f\xfd" + b"\0" * 30,
    "too many levels": nested(7, evil(4)),
    "zip bomb": torch_zip(b"((((" * (1 << 18) * 20, name="a", method=zipfile.ZIP_DEFLATED),
    "gzip bomb": gzip.compress(b"V" + b"a" * (20 << 20)),
}


def encrypted() -> bytes:
    raw = bytearray(torch_zip(b"y" * 50, name="a"))
    at = raw.find(b"PK\x01\x02", raw.find(b"PK\x01\x02") + 4)
    raw[at + 8] |= 1
    return bytes(raw)


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_not_assessed(tmp_path, name):
    content = BROKEN[name] or encrypted()
    result = trees.run("pickles", tmp_path, {"notes.txt": content, "fine.txt": b"# text"})
    assert result.outcome == "not assessed", trees.said(result)
    assert {note.path for note in result.not_assessed} == {"notes.txt"}
    assert result.examined == 1
    assert all(note.reason.isprintable() for note in result.not_assessed)
    assert gate([result], {"pickle": "warn"}).exit_code == 5


def test_members_and_bytes_of_one_file_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(_containers, "MAX_MEMBERS", 10)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(12):
            archive.writestr(f"{number}.txt", b"text")
    result = trees.run("pickles", tmp_path, {"a.zip": out.getvalue()})
    assert [note.reason for note in result.not_assessed] == ["more than 10 members; the rest was not searched"]


def test_what_all_members_together_may_cost_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(_containers, "MAX_UNPACKED", 20_000)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(10):
            archive.writestr(f"{number}.txt", b"# text" * 1000)
    result = trees.run("pickles", tmp_path, {"a.zip": out.getvalue()})
    assert [note.reason for note in result.not_assessed] == ["more than 20000 bytes to unpack; the rest was not searched"]


def test_a_zip_that_lies_about_its_directory_costs_no_memory(tmp_path):
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, (64 << 20), 0, 0)
    content = b"PK\x03\x04\n" + b"\0" * (64 << 20) + end
    result = trees.run("pickles", tmp_path, {"a.zip": content})
    assert [note.reason for note in result.not_assessed] == [f"a directory of more than {_containers.MAX_DIRECTORY} bytes"]


def test_endless_programs_are_given_up(monkeypatch):
    monkeypatch.setattr(_programs, "MAX_OPCODES", 1000)
    assert follow(io.BytesIO(b"N0" * 5000)) == "undecided"
    assert follow(io.BytesIO(b"N." * 5000)) == "undecided"


def test_a_large_argument_is_stepped_over_not_read():
    class Counting(io.BytesIO):
        most = 0

        def read(self, size=-1, /):
            self.most = max(self.most, size)
            return super().read(size)

    big = b"\x80\x04\x8e" + struct.pack("<Q", 10 << 20) + b"\0" * (10 << 20) + b"0" + evil(4)[2:]
    reader = Counting(big)
    assert follow(reader) == "pickle"
    assert reader.most < 1 << 17


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(VALUES, st.integers(0, 5))
def test_every_pickle_of_python_is_followed_to_its_end(value, protocol):
    if protocol >= 2:
        assert follow(io.BytesIO(pickle.dumps(value, protocol))) == "pickle"
    assert follow(io.BytesIO(pickle.dumps([value, os.system], protocol))) == "pickle"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_verdict(content):
    sights = list(_containers.search(io.BytesIO(content)))
    assert all(isinstance(sight, (_containers.Found, _containers.Unread, _containers.Known)) for sight in sights)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([value for name, value in BAD.items() if name != "torch zip"]), st.data())
def test_damaged_pickles_and_archives_end_in_a_verdict(content, data):
    raw = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    list(_containers.search(io.BytesIO(bytes(raw))))


class Recorder:
    """Stands for everything that a program imports, and takes note when it is called."""

    called = False

    def __new__(cls, *_args, **_more):
        Recorder.called = True
        return object.__new__(cls)

    def __setstate__(self, _state):
        Recorder.called = True


class PythonUnpickler(pickle._Unpickler):
    imported = False

    def find_class(self, module, name):
        self.imported = True
        return Recorder


class NativeUnpickler(pickle.Unpickler):
    imported = False

    def find_class(self, module, name):
        self.imported = True
        return Recorder


PIECES = [b"cos\nsystem\n", b"S'a'\n", b"I1\n", b"K\1", b"ios\nsystem\n", b"q\0", b"h\0", b"g0\n", b"\x8c\1a", b"\x8c\1b"]
PIECES += [bytes([code]) for code in b"NNN(()t]}.0122RbodlaseuR\x81\x85\x86\x87\x93\x94\x92\x8f\x90\x91"]


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14))
@pytest.mark.parametrize("unpickler", [PythonUnpickler, NativeUnpickler])
def test_whatever_pythons_unpicklers_call_is_found(unpickler, pieces):
    raw = b"".join(pieces)
    Recorder.called = False
    real = unpickler(io.BytesIO(raw))
    try:
        real.load()
        whole = True
    except Exception:  # noqa: BLE001 - whatever the unpickler raises on nonsense
        whole = False
    if Recorder.called or (whole and real.imported):
        assert follow(io.BytesIO(raw)) == "pickle", raw
    if real.imported or whole:
        assert follow(io.BytesIO(b"\x80\x02" + raw)) == "pickle", raw


@pytest.mark.parametrize("first", [first for first in range(256) if first >= 2])
def test_weights_are_no_pickle_whatever_the_length_of_their_header_is(tmp_path, first):
    """The first byte of a safetensors file is the low byte of a length, and so any opcode; random weights follow."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [60_000], "data_offsets": [0, 60_000]}}).encode()
    for seed in range(3):
        padded = header + b" " * ((first - len(header)) % 256)
        begin = b"\nNR." if seed == 0 else b""  # what would be a call, had the length been a value
        data = len(padded).to_bytes(8, "little") + padded + begin + random.Random(seed * 256 + first).randbytes(60_000 - len(begin))
        assert data[0] == first
        for check in ("pickles", "pickle_imports"):
            assert trees.run(check, tmp_path / f"{check}{seed}", {"model.safetensors": data}).findings == ()


def test_a_pickle_with_the_first_bytes_of_weights_is_found(tmp_path):
    """`V` takes any text to the end of its line: the length of a header, its beginning, and then a program follows."""
    body = b"V\0\0\0\0\0\0\0{" + b'"a"' + b"\n0cos\nsystem\n(S'id'\ntR."
    assert [finding.severity for finding in trees.run("pickles", tmp_path / "1", {"pytorch_model.bin": body}).findings] == ["high"]
    assert trees.run("pickle_imports", tmp_path / "2", {"pytorch_model.bin": body}).findings
