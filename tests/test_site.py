"""site.yaml: where things go, or an error that says on which line what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from parts.expect import refused
from pydantic import ValidationError

from manifests import site
from manifests.errors import InvalidFileError
from manifests.site import Site


def written(folder: Path, text: str) -> Path:
    path = folder / "site.yaml"
    path.write_text(text)
    return path


def test_a_site_nobody_wrote_about_shares_bytes_and_has_no_engine():
    here = Site()
    assert (str(here.store), here.engine, here.docker_socket, here.copy_files) == ("/srv/airgap", "none", None, False)


def test_every_field_is_read(tmp_path):
    here = site.load(written(tmp_path, "store: /data/store\nengine: docker\ndocker_socket: /run/user/1/docker.sock\ncopy: true\n"))
    assert here == Site(store=Path("/data/store"), engine="docker", docker_socket=Path("/run/user/1/docker.sock"), copy=True)


def test_a_relative_store_is_relative_to_the_file_and_not_to_the_caller(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    written(tmp_path / "deep", "store: ./store\n")
    monkeypatch.chdir(tmp_path)
    assert site.load(Path("deep/site.yaml")).store == tmp_path / "deep" / "store"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("store: /s\nengine: podman\n", ("site.yaml:2", "engine", "'none' or 'docker'", "'podman'")),
        ("engine: containerd\n", ("site.yaml:1", "'none' or 'docker'", "'containerd'")),
        ("stroe: /s\n", ("site.yaml:1", "stroe", "not permitted")),
        ("store: 3\n", ("site.yaml:1", "store", "3")),
        ("copy: 'yes'\n", ("site.yaml:1", "copy", "boolean")),
        ("store: [/s]\n", ("site.yaml:1", "store")),
    ],
)
def test_what_is_not_a_site_is_refused_with_line_field_and_what_was_got(tmp_path, text, words):
    with refused(InvalidFileError, *words):
        site.load(written(tmp_path, text))


def test_the_hint_names_the_fields_as_they_are_written(tmp_path):
    with pytest.raises(InvalidFileError) as caught:
        site.load(written(tmp_path, "stroe: /s\n"))
    assert caught.value.hint == "fields here: store, engine, docker_socket, copy"


def test_a_site_never_changes():
    with pytest.raises(ValidationError):
        Site().store = Path("/elsewhere")  # type: ignore[misc]
