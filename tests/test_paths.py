"""Paths that are safe to create, names that are safe to show."""

from __future__ import annotations

import os
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from manifests.errors import InvalidFileError
from manifests.paths import MAX_PATH, MAX_SEGMENT, NAME, check_disjoint, check_relative, printable

SAFE = ["a", "a/b/c.txt", ".hidden", "..a", "a..", "a b", "ü/日本/文", "-", "a:b", "x" * MAX_SEGMENT, "/".join(["ab"] * 341), "CON", "a." * 10]
UNSAFE = [
    "", "/", "/etc/passwd", "..", "../a", "a/..", "a/../b", ".", "./a", "a/.", "a//b", "a/", "a\\b", "..\\a", "a\0b", "a\nb", "a\tb", "\x7f",
    "a\u202eb", "a\u200bb", "a\u2028b", "\ufeffa", "\ud800", "x" * (MAX_SEGMENT + 1), "é" * 128, "/".join(["abc"] * 257), "a\x9bb",
]  # fmt: skip


@pytest.mark.parametrize("path", SAFE)
def test_plain_relative_paths_are_taken_as_they_are(path):
    assert check_relative(path, "x") == path


@pytest.mark.parametrize("path", UNSAFE, ids=repr)
def test_every_other_path_is_refused_and_shown_safely(path):
    with pytest.raises(InvalidFileError) as caught:
        check_relative(path, "component c")
    assert caught.value.message.startswith("component c: path ")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


PARTS = st.sampled_from(["a", "B", "..", ".", "", "ü", "\\", "\n", "\u202e", "x" * 300])


@given(st.lists(PARTS, max_size=5).map("/".join) | st.text(max_size=30))
@example("a/" * 600)
def test_an_accepted_path_stays_below_its_root_and_can_be_created(path):
    try:
        check_relative(path, "x")
    except InvalidFileError:
        return
    assert os.path.normpath(os.path.join("/root", path)) == f"/root/{path}"
    assert len(path.encode()) <= MAX_PATH
    assert "\0" not in path
    assert not any(unicodedata.category(c) in {"Cc", "Cf"} for c in path)


def test_distinct_paths_are_accepted():
    check_disjoint((), "x")
    check_disjoint(("a", "b/a", "b/c", "ab", "a.b", "B2"), "x")


TWICE = "same"
CLASHES = [
    ("a", "A"), ("dir/a", "DIR/a"), ("straße", "STRASSE"), ("caf\u00e9", "cafe\u0301"), ("CAF\u00c9", "cafe\u0301"), ("\u212a", "k"),
    (TWICE, TWICE), ("a", "a/b"), ("x/y", "X/Y/z"), ("a/b/c/d", "a/b"), ("caf\u00e9", "cafe\u0301/x"),
]  # fmt: skip


@pytest.mark.parametrize("paths", CLASHES, ids=repr)
def test_paths_that_are_one_somewhere_are_refused(paths):
    for order in (paths, paths[::-1]):
        with pytest.raises(InvalidFileError, match=r"^tree: "):
            check_disjoint((*order, "other"), "tree")


@given(st.lists(st.sampled_from(["a", "b", "a/b", "a/B", "b/a/c", "A"]), max_size=5))
def test_disjoint_means_that_all_can_stand_beside_each_other(paths):
    folded = [path.lower() for path in paths]
    clash = len(set(folded)) < len(folded) or any(one != two and two.startswith(f"{one}/") for one in folded for two in folded)
    if clash:
        with pytest.raises(InvalidFileError):
            check_disjoint(tuple(paths), "x")
    else:
        check_disjoint(tuple(paths), "x")


@given(st.text(max_size=300), st.integers(1, 250))
def test_shown_text_is_printable_and_short(text, limit):
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    if text.isprintable() and len(text) <= limit:
        assert shown == text


def test_shown_text_says_that_it_was_cut_and_what_was_hidden():
    assert printable("x" * 300) == "x" * 199 + "…"
    assert printable("a\x1b[2J\u202eb\n") == "a�[2J�b�"


@pytest.mark.parametrize("name", ["a", "a1", "llm-prod", "a.b_c-d", "0", "x" * 64])
def test_names(name):
    assert NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", ".a", "A", "a b", "a/b", "a\n", "ü", "x" * 65, "a" * 63 + "-", "..", "a:b"])
def test_no_names(name):
    assert not NAME.fullmatch(name)
