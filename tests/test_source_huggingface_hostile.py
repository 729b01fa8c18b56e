"""Kind ``huggingface`` and a hub that lies: about names, sizes, digests, content and form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from parts.hubdesk import FILES, FOLDER, REPO, Desk, connected

from bundler import hub as hub_client
from bundler.sources import huggingface
from manifests.errors import IntegrityError, InvalidFileError, NetworkError, UsageError


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with connected(tmp_path, monkeypatch) as made:
        yield made


def test_other_bytes_than_the_git_blob_are_refused(desk: Desk) -> None:
    desk.server.publish(REPO, FILES)
    desk.server.swapped["config.json"] = FILES["config.json"].replace(b"llama", b"lIama")
    with pytest.raises(IntegrityError, match=r"llm: config\.json: came as git blob [0-9a-f]{40} of"):
        desk.lock()


def test_more_bytes_than_listed_are_not_taken(desk: Desk) -> None:
    desk.server.publish(REPO, FILES)
    desk.server.swapped["config.json"] = b" " * 5_000_000
    with pytest.raises(IntegrityError, match="larger than"):
        desk.lock()


def test_a_configuration_that_cannot_be_read_is_carried_and_said(desk: Desk) -> None:
    desk.server.publish(REPO, FILES | {"config.json": b"{not json"})
    assert "architectures" not in desk.lock().facts
    assert desk.warnings[0].startswith("llm: what config.json says is not recorded: llm: config.json: not valid JSON")


def _entry(**changes: object) -> object:
    def tamper(kind: str, value: list[dict[str, object]]) -> object:
        return [entry | changes if entry["path"] == "config.json" else entry for entry in value] if kind == "tree" else value

    return tamper


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"path": "../../etc/passwd"}, InvalidFileError, "path '../../etc/passwd' is absolute or has"),
        ({"path": "/etc/passwd"}, InvalidFileError, "is absolute or has"),
        ({"path": "a\x1b[2Jb"}, InvalidFileError, "control character"),
        ({"path": "README.MD"}, InvalidFileError, "are one path on some systems"),
        ({"path": 7}, NetworkError, "lacks a size or a digest"),
        ({"size": -1}, NetworkError, "lacks a size or a digest"),
        ({"size": "12"}, NetworkError, "lacks a size or a digest"),
        ({"size": 1 << 60}, NetworkError, "lacks a size or a digest"),
        ({"size": 2 << 30}, UsageError, "bytes in git, at most"),
        ({"oid": "../x"}, NetworkError, "lacks a size or a digest"),
        ({"lfs": {"oid": "zz", "size": 3, "pointerSize": 1}}, NetworkError, "lacks a size or a digest"),
        ({"lfs": 3}, NetworkError, "does not answer as a hub does"),
    ],
)
def test_what_the_hub_lists_is_not_believed(desk: Desk, changes: dict[str, object], error: type[Exception], message: str) -> None:
    desk.server.publish(REPO, FILES)
    desk.server.tamper = _entry(**changes)  # type: ignore[assignment]
    with pytest.raises(error, match=message):
        desk.lock()


@pytest.mark.parametrize(
    "value", [{"id": REPO}, {"id": REPO, "sha": "../../x"}, {"id": REPO, "sha": None}, [], "x", {"sha": "0" * 40}, {"id": 1, "siblings": 3}]
)
def test_an_answer_of_another_form_is_one_clear_message(desk: Desk, value: object) -> None:
    desk.server.publish(REPO, FILES)
    desk.server.tamper = lambda _kind, _value: value
    with pytest.raises(NetworkError, match="does not answer as a hub does"):
        desk.lock()


def test_a_listing_without_end_is_cut_off(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "MAX_FILES", 20)
    desk.server.publish(REPO, {f"{at}.txt": b"x" for at in range(40)})
    with pytest.raises(UsageError, match="holds more than 20 files"):
        desk.lock()


def test_a_listing_too_long_for_one_inline_file_is_left_out_and_said(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "MAX_INLINE", 300)
    desk.server.publish(REPO, FILES)
    assert [inline.path for inline in desk.lock().inline] == [f"{FOLDER}/refs/main"]
    assert "will not notice missing ones" in desk.warnings[0]
