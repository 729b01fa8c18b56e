"""The lock: one encoding, a golden file, strict reading, and a diff that shows whatever moved."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from manifests.diff import diff
from manifests.errors import InvalidFileError
from manifests.lock import MAX_LOCK, Inline, Lock, LockedComponent, Pin, Target

GOLDEN = Path(__file__).parent / "golden" / "bundle.lock.json"
A, B, C = "a" * 64, "b" * 64, "c" * 64


def image() -> LockedComponent:
    files = (
        Pin(path=f"blobs/sha256/{A}", url="https://registry.example/v2/x/manifests/latest", size=500, sha256=A, media_type="application/x+json"),
        Pin(path=f"blobs/sha256/{B}", url="https://registry.example/v2/x/blobs/b", size=7, sha256=B),
    )
    return LockedComponent(name="img", kind="image", form="image", role="inference", root=A, files=files, identity={"ref": "x:latest"})


def tree() -> LockedComponent:
    return LockedComponent(
        name="docs",
        kind="path",
        form="tree",
        identity={"path": "./docs", "tree": f"sha256:{C}"},
        facts={"files": "2"},
        files=(Pin(path="a/ä.md", url="file:docs/a/ä.md", size=3, sha256=C, evidence={"git": "x"}),),
        inline=(Inline(path="requirements.txt", text="a==1\n"),),
    )


def lock(*components: LockedComponent, **more: object) -> Lock:
    return Lock(name="b", stream="s", intentSha256=A, components=components or (tree(), image()), **more)


def test_the_encoding_is_the_golden_one():
    whole = lock(target=Target(python="3.12", gpu={"model": "h200", "count": 2}), checks={"pickle": "warn"}, deploy={"server": "vllm"})
    assert whole.to_bytes() == GOLDEN.read_bytes()
    assert Lock.load(GOLDEN) == whole
    assert Lock.load(GOLDEN).to_bytes() == GOLDEN.read_bytes()


def test_two_images_of_one_name_must_be_one_image():
    named = image().model_copy(update={"identity": {"reference": "docker.io/team/x:1"}})
    twin = named.model_copy(update={"name": "img2"})
    assert len(lock(named, twin).components) == 2
    other = twin.model_copy(update={"root": B})
    raw = lock(named, twin).to_bytes().replace(f'"root": "{A}"'.encode(), f'"root": "{B}"'.encode(), 1)
    with pytest.raises(InvalidFileError, match="images img and img2 would both be called docker.io/team/x:1"):
        Lock.parse(raw, "x")
    with pytest.raises(ValueError, match="are not the same"):
        lock(named, other)


def test_sizes_count_each_blob_once():
    whole = lock(tree(), image())
    assert (tree().size, image().size, whole.size) == (3 + 5, 507, 515)
    twin = tree().model_copy(update={"name": "zdocs"})
    assert lock(tree(), image(), twin).size == 515 + 5  # texts are counted by component
    assert lock(tree(), image(), twin).components[2].size == 8


FAULTS = {
    "not JSON": (lambda v: b"{", "not valid JSON"),
    "no version": (lambda v: v | {"lockVersion": 2}, "lockVersion"),
    "unknown field": (lambda v: v | {"extra": 1}, "extra: Extra inputs"),
    "upper-case digest": (lambda v: v | {"intentSha256": "A" * 64}, "intentSha256"),
    "digest with newline": (lambda v: v | {"intentSha256": "a" * 64 + "\n"}, "intentSha256"),
    "unsorted": (lambda v: v | {"components": v["components"][::-1]}, "sorted by name"),
    "twice": (lambda v: v | {"components": [v["components"][0]] * 2}, "sorted by name"),
    "path": (lambda v: pin(v, path="../x"), "path '../x'"),
    "absolute path": (lambda v: pin(v, path="/x"), "path '/x'"),
    "url": (lambda v: pin(v, url="ftp://x"), "url"),
    "url of a program": (lambda v: pin(v, url="javascript:x"), "url"),
    "negative size": (lambda v: pin(v, size=-1), "size"),
    "fractional size": (lambda v: pin(v, size=1.0), "size"),
    "size as text": (lambda v: pin(v, size="3"), "size"),
    "huge size": (lambda v: pin(v, size=(1 << 42) + 1), "size"),
    "paths clash": (lambda v: pin(v, path="REQUIREMENTS.txt"), "one path on some systems"),
    "path below a file": (lambda v: pin(v, path="requirements.txt/x"), "a file and a folder at once"),
    "form": (lambda v: component(v, form="chart"), "form"),
    "image without root": (lambda v: component(v, form="image"), "an image needs `root`"),
    "image with texts": (lambda v: component(v, form="image", root=C), "no inline files"),
    "python": (lambda v: v | {"target": {"python": "2.7"}}, "target.python"),
    "number in deploy": (lambda v: json.dumps(v | {"deploy": {"x": 1}}).replace("1}", "1e999}").encode(), "too large"),
}  # fmt: skip


def component(value: dict, **changes: object) -> dict:
    return value | {"components": [value["components"][0] | changes, *value["components"][1:]]}


def pin(value: dict, **changes: object) -> dict:
    files = [value["components"][0]["files"][0] | changes]
    return component(value, files=files)


@pytest.mark.parametrize("name", FAULTS)
def test_a_lock_that_is_not_one_is_refused_with_the_field(name):
    change, message = FAULTS[name]
    value = change(json.loads(lock().to_bytes()))
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(InvalidFileError) as caught:
        Lock.parse(raw, "bundle.lock.json")
    assert caught.value.message.startswith("bundle.lock.json: ")
    assert message in caught.value.message
    assert "airgap-bundle lock" in caught.value.hint or "restore" in caught.value.hint


def test_a_file_that_is_too_large_or_missing(tmp_path):
    with pytest.raises(InvalidFileError, match="cannot read"):
        Lock.load(tmp_path / "none")
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(MAX_LOCK + 1)
    with pytest.raises(InvalidFileError, match="larger than"):
        Lock.load(path)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
TEXTS = st.dictionaries(TEXT, TEXT, max_size=2)
HEX = st.sampled_from([A, B, C])
PIN = st.builds(
    Pin,
    path=st.sampled_from(["p/1", "p/2", "q"]),
    url=st.sampled_from(["https://x/1", "file:y"]),
    size=st.integers(0, 3),
    sha256=HEX,
    media_type=st.none() | st.just("a/b"),
    evidence=TEXTS,
)
INLINE = st.builds(Inline, path=st.sampled_from(["i/1", "i/2"]), text=st.sampled_from(["", "one", "two"]))
TREE = st.builds(
    LockedComponent,
    name=st.sampled_from(["a", "b", "c"]),
    kind=st.sampled_from(["path", "url"]),
    form=st.just("tree"),
    role=st.none() | st.just("gateway"),
    model=st.booleans(),
    identity=TEXTS,
    facts=TEXTS,
    files=st.lists(PIN, max_size=3, unique_by=lambda pin: pin.path).map(tuple),
    inline=st.lists(INLINE, max_size=2, unique_by=lambda text: text.path).map(tuple),
)
LOCK = st.builds(
    Lock,
    name=st.just("n"),
    stream=st.sampled_from(["s", "t"]),
    target=st.builds(Target, os=st.none() | st.just("debian-12")),
    checks=st.dictionaries(st.just("pickle"), st.just("warn")),
    deploy=st.dictionaries(TEXT, TEXT, max_size=1),
    intentSha256=st.just(A),
    components=st.lists(TREE, max_size=3, unique_by=lambda c: c.name).map(lambda found: tuple(sorted(found, key=lambda c: c.name))),
)


@settings(max_examples=150, deadline=None)
@given(LOCK)
def test_every_lock_reads_back_as_it_was(whole):
    raw = whole.to_bytes()
    again = Lock.parse(raw, "x")
    assert again == whole
    assert again.to_bytes() == raw
    assert diff(whole, again) == ()


def same_but_for_order(one: Lock, two: Lock) -> bool:
    def plain(whole: Lock) -> list:
        return [(c.model_dump(exclude={"files", "inline"}), sorted(c.files, key=str), sorted(c.inline, key=str)) for c in whole.components]

    return plain(one) == plain(two)


@settings(max_examples=400, deadline=None)
@given(LOCK, LOCK)
def test_whatever_moves_is_shown(old, new):
    assume(old != new)
    found = diff(old, new)
    head = old.model_dump(exclude={"components"}) != new.model_dump(exclude={"components"})
    assert bool(found) == (head or not same_but_for_order(old, new))
    assert all(str(line).isprintable() for line in found)


@settings(max_examples=150, deadline=None)
@given(LOCK, st.data())
def test_a_single_change_anywhere_is_shown(old, data):
    assume(old.components)
    at = data.draw(st.integers(0, len(old.components) - 1))
    new_one = data.draw(TREE).model_copy(update={"name": old.components[at].name})
    new = old.model_copy(update={"components": (*old.components[:at], new_one, *old.components[at + 1 :])})
    assume(not same_but_for_order(old, new))
    assert {line.component for line in diff(old, new)} == {new_one.name}


def digest(line: str) -> str:
    return hashlib.sha256(f"{line}\n".encode()).hexdigest()


def test_a_diff_reads_well():
    old = lock()
    docs = tree()
    changed = docs.model_copy(
        update={
            "identity": {"path": "./docs", "tree": f"sha256:{B}"},
            "files": (Pin(path="a/ä.md", url="file:docs/a/ä.md", size=4, sha256=B), Pin(path="new.md", url="file:x", size=1, sha256=C)),
            "inline": (Inline(path="requirements.txt", text="a==2\n"),),
        }
    )
    added = LockedComponent(name="extra", kind="url", form="tree", files=(Pin(path="f", url="https://x/f", size=9, sha256=A),))
    new = lock(changed, added, checks={"pickle": "warn"})
    lines = [str(line) for line in diff(old, new)]
    assert lines == [
        "~ b: checks {} -> {'pickle': 'warn'}",
        f"~ docs: identity tree sha256:{C} -> sha256:{B}",
        f"~ docs: file a/ä.md 3 bytes sha256:{C} -> 4 bytes sha256:{B}",
        f"+ docs: file new.md 1 bytes sha256:{C}",
        (f"~ docs: file requirements.txt 5 bytes sha256:{digest('a==1')}, written while locking -> "
        f"5 bytes sha256:{digest('a==2')}, written while locking"),
        "+ extra: component of kind url, 1 files, 9 bytes",
        "- img: component of kind image",
    ]


def test_a_moved_address_of_the_same_bytes_is_shown():
    old = lock(image())
    moved = image().model_copy(update={"files": (image().files[0], image().files[1].model_copy(update={"url": "https://mirror.example/b"}))})
    (line,) = diff(old, lock(moved))
    assert str(line) == f"~ img: url of blobs/sha256/{B} https://registry.example/v2/x/blobs/b -> https://mirror.example/b"


def test_hostile_texts_do_not_reach_the_terminal():
    evil = tree().model_copy(update={"facts": {"a\x1b[2J": "\u202e"}})
    assert all(str(line).isprintable() for line in diff(lock(tree()), lock(evil)))
