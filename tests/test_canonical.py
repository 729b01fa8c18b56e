"""One encoding out, one strict reader in."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests import canonical
from manifests.errors import InvalidFileError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 63) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.sampled_from([canonical.compact, canonical.readable]))
def test_what_is_written_reads_back_as_it_was_and_is_written_the_same_again(value, write):
    raw = write(value)
    again = canonical.parse(raw, "x", limit=1 << 20)
    assert again == value
    assert write(again) == raw


@given(st.dictionaries(TEXT, VALUES, min_size=2, max_size=5))
def test_the_order_of_keys_does_not_matter(value):
    assert canonical.compact(dict(reversed(value.items()))) == canonical.compact(value)


def test_the_two_encodings():
    value = {"b": [1, "ä"], "a": None}
    assert canonical.compact(value) == '{"a":null,"b":[1,"ä"]}'.encode()
    assert canonical.readable(value) == '{\n "a": null,\n "b": [\n  1,\n  "ä"\n ]\n}\n'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_json_cannot_say_is_not_written(value):
    with pytest.raises(ValueError):  # noqa: PT011 - JSON's or UTF-8's own
        canonical.compact({"a": value})


REFUSED = {
    "empty": (b"", "not valid JSON"),
    "cut off": (b'{"a":', "not valid JSON"),
    "two documents": (b"{} {}", "not valid JSON"),
    "comment": (b"{} // x", "not valid JSON"),
    "single quotes": (b"{'a': 1}", "not valid JSON"),
    "trailing comma": (b"[1,]", "not valid JSON"),
    "duplicate key": (b'{"a": 1, "b": 2, "a": 3}', "duplicate key 'a'"),
    "duplicate key by escape": (b'{"a": 1, "\\u0061": 3}', "duplicate key 'a'"),
    "duplicate key deep down": (b'[{"x": {"k": 1, "k": 1}}]', "duplicate key 'k'"),
    "not UTF-8": (b'"\xff"', "not valid JSON"),
    "overlong UTF-8": (b'"\xc0\xaf"', "not valid JSON"),
    "byte order mark": (b"\xef\xbb\xbf{}", "not valid JSON"),
    "UTF-16": ("{}".encode("utf-16"), "not valid JSON"),
    "NaN": (b"[NaN]", "NaN is not JSON"),
    "Infinity": (b"[-Infinity]", "-Infinity is not JSON"),
    "number beyond a float": (b"[1e999]", "1e999 is too large"),
    "number of 5000 digits": (b"1" * 5000, "not valid JSON"),
    "control character": (b'"a\nb"', "not valid JSON"),
    "half a character": (b'{"a": "\\ud800"}', "not valid JSON"),
    "half a character as key": (b'{"\\udfff": 1}', "not valid JSON"),
    "too deep": (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
    "too deep by objects": (b'{"a":' * 70 + b"1" + b"}" * 70, "nested deeper than 64"),
    "far too deep": (b"[" * 200_000, "nested too deeply"),
    "too large": (b'"' + b"x" * 1024 + b'"', "1026 bytes, at most 1024"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_json_is_refused_with_the_name_of_the_file_and_the_reason(name):
    raw, reason = REFUSED[name]
    with pytest.raises(InvalidFileError) as caught:
        canonical.parse(raw, "dir/some.json", limit=1024 if name == "too large" else 1 << 20)
    assert caught.value.message.startswith("dir/some.json: ")
    assert reason in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_limits_are_exact():
    assert canonical.parse(b"[" * 64 + b"]" * 64, "x", limit=128)
    assert canonical.parse(b'"ab"', "x", limit=4) == "ab"
    with pytest.raises(InvalidFileError):
        canonical.parse(b'"abc"', "x", limit=4)


def test_a_whole_pair_of_halves_is_one_character():
    assert canonical.parse(b'"\\ud83d\\ude00"', "x", limit=99) == "\U0001f600"


def test_constants_are_read_only_where_asked_for():
    assert canonical.parse(b"[Infinity, 1e999]", "x", limit=99, constants=True) == [float("inf"), float("inf")]
    with pytest.raises(InvalidFileError, match="duplicate"):
        canonical.parse(b'{"a": NaN, "a": 1}', "x", limit=99, constants=True)


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_read_as_json_does_or_refused(raw):
    try:
        value = canonical.parse(raw, "x", limit=1 << 20)
    except InvalidFileError:
        return
    assert value == json.loads(raw)
    canonical.compact(value)


@given(st.datetimes(min_value=datetime(1000, 1, 1), max_value=datetime(9999, 12, 30)), st.integers(-12, 14))  # noqa: DTZ001
def test_times_are_utc_and_whole_seconds(naive, hours):
    moment = naive.replace(tzinfo=timezone(timedelta(hours=hours)))
    try:
        text = canonical.stamp(moment)
    except OverflowError:
        return
    assert canonical.moment(text) == moment.replace(microsecond=0)
    assert canonical.stamp(canonical.moment(text)) == text


def test_the_form_of_a_time():
    assert canonical.stamp(datetime(2026, 11, 24, 18, 0, 0, 999, tzinfo=timezone(timedelta(hours=1)))) == "2026-11-24T17:00:00Z"
    assert canonical.moment("2026-11-24T17:00:00Z") == datetime(2026, 11, 24, 17, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    ["", "2026-11-24", "2026-11-24T17:00:00", "2026-11-24T17:00:00+00:00", "2026-11-24t17:00:00z", "2026-02-30T00:00:00Z",
     "2026-11-24T24:00:01Z", "2026-11-24T17:00:00Z\n", " 2026-11-24T17:00:00Z", "２０２６-11-24T17:00:00Z", "2026-11-24T17:00:00.0Z"],
)  # fmt: skip
def test_other_forms_of_a_time_are_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011
        canonical.moment(text)
