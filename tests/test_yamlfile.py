"""YAML that people write: bounded, plain, and every error says on which line."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field

from manifests import yamlfile
from manifests.errors import InvalidFileError
from manifests.lock import Frozen
from manifests.yamlfile import MAX_DEPTH, MAX_YAML, Document


class Inner(Frozen):
    size: int = Field(ge=1)
    mode: Literal["a", "b"] = "a"


class Outer(Frozen):
    name: str
    inner: tuple[Inner, ...] = Field(strict=False)


def doc(text: str | bytes) -> Document:
    return Document(text.encode() if isinstance(text, str) else text, "f.yaml")


def test_plain_values_and_their_lines():
    text = "# c\nname: x\ninner:\n  - {size: 1}\n  - size: 2\n    mode: b\n"
    document = doc(text)
    assert document.value == {"name": "x", "inner": [{"size": 1}, {"size": 2, "mode": "b"}]}
    assert document.lines[("inner", 1, "mode")] == 6
    assert document.validate(Outer).inner[1].mode == "b"


@pytest.mark.parametrize(("text", "value"), [("2026-11-24", "2026-11-24"), ("'3.12'", "3.12"), ("3.5", 3.5), ("~", None), ("yes", True), ("0x10", 16)])
def test_scalars(text, value):
    assert doc(f"a: {text}").value == {"a": value}


FAULTS = {
    "missing field": ("name: x\n", 1, "field inner: field required, got nothing"),
    "wrong type": ("name: 3\ninner: []\n", 1, "field name: input should be a valid string, got 3"),
    "third line": ("name: x\ninner:\n  - size: 0\n", 3, "field inner.0.size: input should be greater than or equal to 1, got 0"),
    "choice": ("name: x\ninner:\n- size: 1\n  mode: c\n", 4, "field inner.0.mode: input should be 'a' or 'b', got 'c'"),
    "unknown field": ("name: x\nmore: 1\ninner: []\n", 2, "field more: extra inputs are not permitted, got 1"),
    "number for text": ("name: 3.10\ninner: []\n", 1, "got 3.1"),
    "hostile value": ('name: x\ninner: "\\e[2J\\u202e"\n', 2, "got"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_name_file_line_field_expected_and_got(name):
    text, line, message = FAULTS[name]
    with pytest.raises(InvalidFileError) as caught:
        doc(text).validate(Outer)
    assert caught.value.message.startswith(f"f.yaml:{line}: ")
    assert message in caught.value.message
    assert caught.value.message.isprintable()


def test_an_unknown_field_hints_at_the_known_ones_and_more_faults_are_counted():
    with pytest.raises(InvalidFileError) as caught:
        doc("name: x\nmroe: 1\ninner: [{size: 0}, {size: 0}]\n").validate(Outer)
    assert "and 2 more" in caught.value.message
    with pytest.raises(InvalidFileError) as caught:
        doc("name: x\nmroe: 1\ninner: []\n").validate(Outer)
    assert caught.value.hint == "fields here: name, inner"


def test_a_part_of_a_document_is_validated_with_its_own_lines():
    document = doc("a:\n  b:\n    size: 0\n")
    with pytest.raises(InvalidFileError, match=r"^f\.yaml:3: field a\.b\.size"):
        document.validate(Inner, document.value["a"]["b"], ("a", "b"))


REFUSED = {
    "empty": (b"", r"^f\.yaml: empty"),
    "comments only": (b"# x\n", r"^f\.yaml: empty"),
    "not UTF-8": (b"a: \xff", r"not UTF-8"),
    "control character": (b"a: \x01", r"^f\.yaml"),
    "syntax": (b"a: 1\nb: [1\n", r"^f\.yaml:3: "),
    "tab": (b"a:\n\tb: 1\n", r"^f\.yaml:2: "),
    "two documents": (b"a: 1\n---\nb: 2\n", r"^f\.yaml:2: "),
    "alias": (b"a: &x [1]\nb: *x\n", r"aliases are not accepted"),
    "billion laughs": (b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", r"aliases are not accepted"),
    "merge": (b"a: {<<: {b: 1}}\n", r"^f\.yaml:1: key '<<' is not text"),
    "key twice": (b"a: 1\nb: 2\na: 3\n", r"^f\.yaml:3: key 'a' stands twice"),
    "key twice, quoted": (b"a: 1\n'a': 3\n", r"^f\.yaml:2: key 'a' stands twice"),
    "number as key": (b"a: 1\n1: 2\n", r"^f\.yaml:2: key '1' is not text"),
    "truth as key": (b"on: 1\n", r"key 'on' is not text"),
    "list as key": (b"? [a]\n: 1\n", r"is not text"),
    "python object": (b"a: !!python/object/apply:os.system ['true']\n", r"^f\.yaml:1: "),
    "python name": (b"a: !!python/name:os.system x\n", r"tag .* is not accepted"),
    "own tag": (b"a: !str x\n", r"is not accepted|cannot read"),
    "own tag that ends like one of ours": (b"a: !x:str y\n", r"cannot read"),
    "binary": (b"a: !!binary aGk=\n", r"tag .* is not accepted"),
    "set": (b"a: !!set {b}\n", r"tag .* is not accepted"),
    "not a number": (b"a: .nan\n", r"cannot read '.nan'"),
    "infinite": (b"a: -.inf\n", r"cannot read '-.inf'"),
    "half a character": (b'a: "\\ud800"\n', r"cannot read"),
    "number of 5000 digits": (b"a: " + b"1" * 5000, r"cannot read"),
    "too deep": (b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2), r"nested too deeply"),
    "far too deep": (b"[" * 3000 + b"]" * 3000, r"nested too deeply"),
    "too many values": (b"[" + b"a," * 100_001 + b"]", r"too large"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_plain_is_refused(name):
    raw, reason = REFUSED[name]
    with pytest.raises(InvalidFileError, match=reason) as caught:
        doc(raw)
    assert caught.value.message.isprintable()


def test_reading_a_file(tmp_path):
    path = tmp_path / "b.yaml"
    path.write_text("a: 1\n")
    assert yamlfile.load(path).value == {"a": 1}
    with pytest.raises(InvalidFileError, match="cannot read: No such file"):
        yamlfile.load(tmp_path / "none.yaml")
    with pytest.raises(InvalidFileError, match="cannot read: Is a directory"):
        yamlfile.load(tmp_path)
    path.write_bytes(b"#" * (MAX_YAML + 1))
    with pytest.raises(InvalidFileError, match="larger than"):
        yamlfile.load(path)


@given(st.text(alphabet="ab:-[]{}&*!?|>'\"%@#\n\t 01.,~<=\\x\u0085\u2028\ud800", max_size=30).map(lambda t: t.encode("utf-8", "surrogatepass")))
@example(b"? ? a")
@example(b"!<> a")
@example(b"%YAML 9.9\n---\na")
def test_any_text_is_a_value_or_a_typed_error(raw):
    try:
        document = doc(raw)
        document.validate(Outer)
    except InvalidFileError as error:
        assert error.message.startswith("f.yaml")
        assert error.message.isprintable()
