"""Kind ``huggingface`` against a server that speaks the hub's protocol, locked by the real client and loaded by it again, offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from parts import cli, hub
from parts.hubdesk import FILES, FOLDER, REPO, SMALL, Desk, connected

from bundler.sources import huggingface
from manifests.errors import InvalidFileError, NetworkError, UsageError


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with connected(tmp_path, monkeypatch) as made:
        yield made


def offline(cache: Path, program: str) -> str:
    """Run ``program`` with the real client, told to stay offline, on the cache at ``cache``."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_weights_are_pinned_without_a_download_and_small_files_by_their_content(desk: Desk) -> None:
    commit = desk.server.publish(REPO, FILES, card={"license": "apache-2.0"})
    locked = desk.lock()
    content = desk.server.repos[REPO].commits[commit]
    assert locked.identity == {"repo": REPO, "revision": "main", "commit": commit}
    assert locked.model
    assert {pin.path: (pin.sha256, pin.size) for pin in locked.files} == {
        f"{FOLDER}/snapshots/{commit}/{path}": (file.sha256, len(file.data)) for path, file in content.items()
    }
    for pin in locked.files:
        path = pin.path.rsplit("/", 1)[-1]
        assert pin.url == hub.file_url(desk.server.endpoint, REPO, commit, path)
        assert pin.evidence == ({"git_blob": content[path].blob} if path in SMALL else {"lfs_sha256": content[path].sha256})
    assert len(desk.server.files_sent()) == len(SMALL)
    assert desk.server.storage.requests == []


def test_facts_are_what_card_configuration_and_hub_say(desk: Desk) -> None:
    desk.server.publish(REPO, FILES)
    facts = desk.lock().facts
    said = {"license": "apache-2.0", "license_name": "test-licence", "architectures": "LlamaForCausalLM", "model_type": "llama"}
    said |= {"torch_dtype": "float32", "pipeline": "text-generation", "library": "transformers"}
    said["host"] = desk.server.endpoint.removeprefix("http://")
    assert facts == said | {"files": str(len(FILES)), "bytes": str(sum(map(len, FILES.values())))}
    assert desk.warnings == []


def test_locking_again_gives_the_same_bytes_and_fetches_no_file(desk: Desk) -> None:
    desk.server.publish(REPO, FILES)
    first = desk.lock()
    asked = len(desk.server.files_sent())
    second = desk.lock(previous=first)
    assert second.model_dump_json() == first.model_dump_json()
    assert len(desk.server.files_sent()) == asked


def test_a_new_commit_moves_the_lock_and_only_changed_files_are_fetched(desk: Desk) -> None:
    desk.server.publish(REPO, FILES)
    first = desk.lock()
    commit = desk.server.publish(REPO, FILES | {"generation_config.json": b"{}"})
    asked = len(desk.server.files_sent())
    second = desk.lock(previous=first)
    assert second.identity["commit"] == commit != first.identity["commit"]
    assert len(desk.server.files_sent()) == asked + 1
    assert desk.lock().model_dump_json() == second.model_dump_json()


def test_with_the_cache_emptied_the_old_lock_still_gives_the_same(desk: Desk) -> None:
    desk.server.publish(REPO, FILES)
    first = desk.lock()
    desk.cache_name = "other-cache"
    assert desk.lock(previous=first) == first


def test_the_real_client_loads_the_placed_tree_offline(desk: Desk) -> None:
    commit = desk.server.publish(REPO, FILES)
    tree = desk.placed(desk.lock())
    assert not [path for path in tree.rglob("*") if path.is_symlink()]
    program = f"""
import json, os, huggingface_hub as hub
from safetensors.numpy import load_file
folder = hub.snapshot_download({REPO!r}, local_files_only=True)
index = json.load(open(hub.hf_hub_download({REPO!r}, "model.safetensors.index.json", local_files_only=True)))
tensors = {{name for shard in set(index["weight_map"].values()) for name in load_file(os.path.join(folder, shard))}}
listed = hub.get_cached_repo_tree({REPO!r})
print(os.path.basename(folder), sorted(os.listdir(folder)) == {sorted(FILES)!r}, tensors == set(index["weight_map"]), len(listed))
"""
    assert offline(tree, program) == f"{commit} True True {len(FILES)}"


def test_the_real_client_notices_a_missing_file(desk: Desk) -> None:
    commit = desk.server.publish(REPO, FILES)
    tree = desk.placed(desk.lock())
    (tree / FOLDER / "snapshots" / commit / "model-00002-of-00003.safetensors").unlink()
    said = offline(tree, f"import huggingface_hub as hub; hub.snapshot_download({REPO!r}, local_files_only=True)")
    assert "IncompleteSnapshotError" in said
    assert "model-00002-of-00003.safetensors" in said


def test_the_listing_is_the_one_the_real_client_writes(desk: Desk) -> None:
    commit = desk.server.publish(REPO, FILES | {"sub/folder/notes.txt": b"x"})
    locked = desk.lock()
    theirs = desk.folder / "theirs"
    huggingface_hub.snapshot_download(REPO, cache_dir=theirs, endpoint=desk.server.endpoint, token=False)
    ours = {inline.path: inline.text for inline in locked.inline}
    assert ours == {path: (theirs / path).read_text() for path in (f"{FOLDER}/refs/main", f"{FOLDER}/trees/{commit}.json")}


def test_a_selection_counts_as_whole_offline(desk: Desk) -> None:
    desk.server.publish(REPO, FILES | {"pytorch_model.bin": b"\x80\x04N.", "original/params.json": b"{}"})
    locked = desk.lock(include=["*.json", "*.safetensors"], exclude=["original/"])
    assert {pin.path.split("/", 3)[-1] for pin in locked.files} == set(FILES) - {"README.md"}
    assert locked.facts["upstream_files"] == str(len(FILES) + 2)
    tree = desk.placed(locked)
    program = f"import os, huggingface_hub as hub; print(len(os.listdir(hub.snapshot_download({REPO!r}, local_files_only=True))))"
    assert offline(tree, program) == str(len(FILES) - 1)


def test_a_card_that_is_not_carried_still_gives_the_licence_the_hub_states(desk: Desk) -> None:
    desk.server.publish(REPO, FILES, card={"license": ["mit", "other"]})
    assert desk.lock(exclude=["README.md"]).facts["license"] == "mit, other"


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/1", "feature/x"])
def test_only_the_revision_asked_for_gets_a_name(desk: Desk, revision: str) -> None:
    commit = desk.server.publish(REPO, FILES, branch=revision)
    desk.server.publish(REPO, {"config.json": b"{}"})
    locked = desk.lock(revision=revision)
    assert locked.identity["commit"] == commit
    assert {inline.path: inline.text for inline in locked.inline if "/refs/" in inline.path} == {f"{FOLDER}/refs/{revision}": commit}
    tree = desk.placed(locked)
    program = f"import os, huggingface_hub as hub; print(hub.snapshot_download({REPO!r}, revision={revision!r}, local_files_only=True))"
    assert offline(tree, program).endswith(commit)


def test_a_commit_needs_no_name(desk: Desk) -> None:
    commit = desk.server.publish(REPO, FILES)
    desk.server.publish(REPO, {"config.json": b"{}"})
    locked = desk.lock(revision=commit)
    assert [inline.path for inline in locked.inline] == [f"{FOLDER}/trees/{commit}.json"]
    assert len(locked.files) == len(FILES)


def test_a_private_model_is_built_with_a_token_that_no_other_host_sees(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.server.tokens = {"hf_reader"}
    desk.server.publish(REPO, FILES, private=True, readers={"hf_reader"})
    with pytest.raises(UsageError, match="has no model acme/tiny, or does not show it to strangers") as caught:
        desk.lock()
    assert "HF_TOKEN" in caught.value.hint
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    locked = desk.lock()
    desk.placed(locked)
    assert len(desk.server.storage.requests) == len(FILES) - len(SMALL)
    assert {request.headers.get("authorization") for request in desk.server.storage.requests} == {None}
    resolved = [request for request in desk.server.api.requests if "/resolve/" in request.path]
    assert {request.headers.get("authorization") for request in resolved} == {"Bearer hf_reader"}
    assert "hf_reader" not in locked.model_dump_json()


def test_a_private_model_says_that_the_token_may_not_read_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.server.tokens = {"hf_stranger"}
    desk.server.publish(REPO, FILES, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(UsageError, match="or does not show it to this token"):
        desk.lock()


def test_a_token_nobody_knows_is_said(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.server.publish(REPO, FILES)
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(NetworkError) as caught:
        desk.lock()
    assert "the token is not accepted" in caught.value.hint
    assert "hf_old" not in str(caught.value)


def test_a_gated_model_says_whose_consent_is_missing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.server.tokens = {"hf_reader", "hf_waiting"}
    desk.server.publish(REPO, FILES, gated="manual", readers={"hf_reader"})
    with pytest.raises(NetworkError, match="acme/tiny is gated, and there is no token") as caught:
        desk.lock()
    assert caught.value.hint == f"accept the terms at {desk.server.endpoint}/acme/tiny, then `hf auth login` or set HF_TOKEN"
    monkeypatch.setenv("HF_TOKEN", "hf_waiting")
    with pytest.raises(NetworkError, match="the account of this token has no access"):
        desk.lock(include=["*.safetensors"])  # none of them is downloaded while locking
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert desk.lock().facts["gated"] == "manual"
    assert [warning for warning in desk.warnings if "must have accepted the terms" in warning]


def test_a_gate_that_closes_under_way_is_said_too(desk: Desk) -> None:
    desk.server.publish(REPO, FILES, gated="auto")
    desk.server.tamper = lambda kind, value: value | {"gated": False} if kind == "info" else value
    with pytest.raises(NetworkError, match="is gated, and there is no token"):
        desk.lock()


def test_an_intent_cannot_send_the_token_to_a_hub_of_its_choice(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.server.tokens = {"hf_reader"}
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    with hub.Hub() as other:
        commit = other.publish(REPO, FILES)
        locked = desk.lock(endpoint=f"{other.endpoint}/")
        desk.placed(locked)
        assert {request.headers.get("authorization") for request in (*other.api.requests, *other.storage.requests)} == {None}
        assert locked.files[0].url.startswith(f"{other.endpoint}/acme/tiny/resolve/{commit}/")


def test_an_endpoint_with_a_password_is_refused(desk: Desk) -> None:
    with pytest.raises(InvalidFileError, match="endpoint carries a user name"):
        desk.lock(endpoint="https://user:secret@hub.example")


def test_a_revision_that_is_not_there_comes_with_those_that_are(desk: Desk) -> None:
    desk.server.publish(REPO, FILES)
    desk.server.publish(REPO, FILES, branch="fp8")
    with pytest.raises(UsageError, match="acme/tiny has no revision 'nightly'") as caught:
        desk.lock(revision="nightly")
    assert caught.value.hint == "branches and tags: main, fp8"


def test_nothing_selected_is_an_error(desk: Desk) -> None:
    desk.server.publish(REPO, FILES)
    with pytest.raises(UsageError, match=f"none of the {len(FILES)} files of acme/tiny is selected"):
        desk.lock(include=["*.gguf"])


def test_pickles_beside_safetensors_and_a_missing_licence_are_said(desk: Desk) -> None:
    desk.server.publish(REPO, FILES | {"pytorch_model.bin": b"x", "README.md": b"no front matter"})
    desk.lock()
    assert desk.warnings == [
        "llm: no licence is stated",
        'llm: pickled files beside safetensors (pytorch_model.bin); `exclude: ["*.bin"]` leaves them out',
    ]


def test_a_renamed_model_is_said(desk: Desk) -> None:
    desk.server.publish(REPO, FILES)
    desk.server.tamper = lambda kind, value: value | {"id": "other/name"} if kind == "info" else value
    desk.lock()
    assert desk.warnings == ["llm: the hub answers for acme/tiny with other/name; the model may have been renamed"]


def test_a_hub_that_is_away_is_a_network_error(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NetworkError, match=r"llm: http://127\.0\.0\.1:9: "):
        desk.lock()


def test_a_client_told_to_stay_offline_says_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):
        desk.lock()


def test_a_lock_killed_half_way_ends_the_same_when_run_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = desk.server.publish(REPO, FILES)
    monkeypatch.setenv("HF_ENDPOINT", desk.server.endpoint)
    here = cli.Desk(desk.folder)
    here.write_intent(f"name: llm, kind: huggingface, repo: {REPO}")
    slow = f"/{REPO}/resolve/{commit}/tokenizer.json"
    desk.server.api.serve(slow, FILES["tokenizer.json"], stall_after=1000)
    killed = here.start("bundle", "lock", "bundle.yaml")
    until = time.monotonic() + 30
    while desk.server.api.sent(slow) < 1000 and time.monotonic() < until:
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    assert not (desk.folder / "bundle.lock.json").exists()
    del desk.server.api.routes[slow]
    here.bundle("lock", "bundle.yaml")
    other = cli.Desk(desk.folder / "other")
    other.folder.mkdir()
    other.write_intent(f"name: llm, kind: huggingface, repo: {REPO}")
    other.bundle("lock", "bundle.yaml")
    assert (desk.folder / "bundle.lock.json").read_bytes() == (other.folder / "bundle.lock.json").read_bytes()


def test_git_blob_ids_are_gits(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"hello\n" * 1000)
    theirs = subprocess.run(["git", "hash-object", str(file)], capture_output=True, text=True, check=True).stdout.strip()
    assert huggingface.blob_id([file.read_bytes()[:5], file.read_bytes()[5:]], 6000) == theirs


@pytest.mark.parametrize("repo", ["", "a/b/c", "../x", "a/..", "-x/y", "a b", "https://hub/x"])
def test_repo_names_are_names(repo: str) -> None:
    with pytest.raises(ValueError, match="repo"):
        huggingface.Options.model_validate({"repo": repo})


def test_the_listing_is_json_of_the_known_form(desk: Desk) -> None:
    commit = desk.server.publish(REPO, FILES)
    text = next(inline.text for inline in desk.lock().inline if inline.path.endswith(".json"))
    value = json.loads(text)
    weights = desk.server.repos[REPO].commits[commit]["model-00001-of-00003.safetensors"]
    assert value["format_version"] == 1
    assert value["files"]["model-00001-of-00003.safetensors"] == {
        "size": len(weights.data),
        "blob_id": weights.blob,
        "lfs_sha256": weights.sha256,
        "lfs_size": len(weights.data),
    }
