"""Kind ``python``: real uv against a real index on this machine, with wheels made for the case."""

from __future__ import annotations

import dataclasses
import hashlib
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from packaging.pylock import Pylock
from parts import pyindex
from parts.pydesk import Desk, base, text

from bundler.sources import python
from manifests.errors import AirgapError, IntegrityError, InvalidFileError, NetworkError, UsageError
from manifests.lock import Target


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with pyindex.Index() as index:
        yield Desk(tmp_path, index, environment=base(tmp_path) | {"UV_DEFAULT_INDEX": index.url})


def test_the_whole_closure_is_pinned_by_address_size_and_hash(desk: Desk) -> None:
    desk.add("app", "1.0", requires=["lib>=2", "extra; sys_platform == 'win32'", "old; python_version < '3.12'"])
    desk.add("lib", "2.5")
    desk.add("lib", "1.0")
    locked = desk.lock("app")
    assert desk.index
    assert [pin.path for pin in locked.files] == ["wheels/app-1.0-py3-none-any.whl", "wheels/lib-2.5-py3-none-any.whl"]
    for pin in locked.files:
        data = bytes(desk.index.server.routes[f"/files/{pin.path.removeprefix('wheels/')}"].body[:])
        assert (pin.size, pin.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert pin.url == f"{desk.index.server.origin}/files/{pin.path.removeprefix('wheels/')}"
        assert pin.evidence == {"index": desk.index.url, "upload_time": pyindex.UPLOADED}
    assert locked.identity == {"packages": "2", "python": "3.12", "platform": "manylinux_2_28_x86_64"}
    assert locked.facts["requirements"] == "app==1.0"
    assert (locked.kind, locked.form, locked.role) == ("python", "tree", "gateway")
    assert desk.warnings == []


def test_requirements_and_pylock_name_exactly_the_files_carried(desk: Desk) -> None:
    desk.add("zeta", "1.0+local.1")
    desk.add("App_Name", "1.0", requires=["zeta"])
    locked = desk.lock("app-name")
    hashes = {pin.path: pin.sha256 for pin in locked.files}
    assert text(locked) == (
        f"app-name==1.0 --hash=sha256:{hashes['wheels/App_Name-1.0-py3-none-any.whl']}\n"
        f"zeta==1.0+local.1 --hash=sha256:{hashes['wheels/zeta-1.0+local.1-py3-none-any.whl']}\n"
    )
    standard = Pylock.from_dict(tomllib.loads(text(locked, "pylock.toml")))
    standard.validate()
    listed = [(package.name, str(package.version), package.wheels[0]) for package in standard.packages if package.wheels]
    assert [(name, version) for name, version, _ in listed] == [("app-name", "1.0"), ("zeta", "1.0+local.1")]
    assert {wheel.path: wheel.hashes["sha256"] for _, _, wheel in listed} == hashes
    assert [wheel.size for _, _, wheel in listed] == [pin.size for pin in locked.files]


@pytest.mark.parametrize(
    ("target", "tag"),
    [
        (Target(python="3.12", manylinux="2_34"), "cp312-cp312-manylinux_2_34_x86_64"),
        (Target(python="3.12", manylinux="2_28"), "cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64"),
        (Target(python="3.12"), "cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64"),
        (Target(python="3.13", manylinux="2_36"), "cp310-abi3-manylinux_2_28_x86_64"),
        (Target(python="3.10", manylinux="2_28"), "cp310-abi3-manylinux_2_28_x86_64"),
        (Target(python="3.9", manylinux="2_28"), "py3-none-any"),
        (Target(python="3.12", platform="linux/arm64", manylinux="2_28"), "cp312-cp312-manylinux_2_17_aarch64"),
        (Target(python="3.13", platform="linux/arm64"), "py3-none-any"),
    ],
)
def test_the_targets_python_decides_and_takes_the_wheel_pip_would(desk: Desk, target: Target, tag: str) -> None:
    tags = (
        "py3-none-any",
        "cp310-abi3-manylinux_2_28_x86_64",
        "cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64",
        "cp312-cp312-manylinux_2_34_x86_64",
        "cp312-cp312-manylinux_2_17_aarch64",
        "cp312-cp312-musllinux_1_2_x86_64",
        "cp312-cp312-win_amd64",
    )
    desk.add("app", "1.0", tags=tags)
    desk.target = target
    assert [pin.path for pin in desk.lock("app").files] == [f"wheels/app-1.0-{tag}.whl"]


def test_locking_again_gives_the_same_bytes_until_something_is_released(desk: Desk) -> None:
    desk.add("app", "1.0", requires=["lib"])
    desk.add("lib", "1.0")
    first = desk.lock("app")
    assert desk.lock("app", previous=first).model_dump_json() == first.model_dump_json()
    desk.add("lib", "1.1")
    assert "lib==1.1" in text(desk.lock("app", previous=first))


def test_no_byte_of_a_wheel_is_fetched_while_locking(desk: Desk) -> None:
    desk.add("app", "1.0", tags=("cp312-cp312-manylinux_2_17_x86_64",))
    desk.lock("app")
    assert desk.index
    assert desk.index.server.sent("/files/app-1.0-cp312-cp312-manylinux_2_17_x86_64.whl") == 0


def test_without_a_python_the_message_says_what_to_add(desk: Desk) -> None:
    desk.target = Target()
    with pytest.raises(UsageError, match="gw: for which Python is not said") as caught:
        desk.lock("app")
    assert caught.value.hint == 'add `python: "3.12"` to `target:`, or to this component'
    desk.add("app", "1.0", tags=("cp313-cp313-manylinux_2_31_x86_64",))
    assert desk.lock("app", python="3.13", manylinux="2_31").identity["platform"] == "manylinux_2_31_x86_64"


def test_a_glibc_older_than_any_wheel_is_refused(desk: Desk) -> None:
    with pytest.raises(UsageError, match="manylinux 2_12 is older than 2_17"):
        desk.lock("app", manylinux="2_12")


def test_a_project_with_only_a_source_is_refused_and_none_of_its_code_runs(desk: Desk) -> None:
    desk.add("app", "1.0", requires=["native>=2"])
    desk.add("native", "2.0", tags=("cp312-cp312-manylinux_2_34_x86_64",), sdist=True, static=False)
    ran = desk.folder / "ran"
    desk.environment |= {"RAN": str(ran)}
    with pytest.raises(UsageError) as caught:
        desk.lock("app")
    assert str(caught.value).startswith("gw: no usable wheel of native for CPython 3.12 on manylinux_2_28_x86_64: ")
    assert "native==2.0 has no usable wheels" in str(caught.value)
    assert "you require app" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint.endswith("or `allow_sdist: [native]`")
    assert "raise `target.manylinux`" in caught.value.hint
    assert not ran.exists()


def test_an_allowed_source_travels_as_source_and_is_said(desk: Desk) -> None:
    desk.add("app", "1.0", requires=["native"])
    desk.add("native", "1.0")
    desk.add("native", "2.0", tags=(), sdist=True)
    locked = desk.lock("app", allow_sdist=["Native", "app"])
    assert [pin.path for pin in locked.files] == ["wheels/app-1.0-py3-none-any.whl", "wheels/native-2.0.tar.gz"]
    assert locked.facts["sources"] == "native==2.0"
    assert [warning for warning in desk.warnings if "native==2.0 travel as source" in warning]
    packages = {package["name"]: package for package in tomllib.loads(text(locked, "pylock.toml"))["packages"]}
    assert packages["native"]["sdist"]["path"] == "wheels/native-2.0.tar.gz"
    assert "wheels" in packages["app"]


def test_an_allowed_source_is_not_taken_where_a_newer_release_has_a_wheel(desk: Desk) -> None:
    desk.add("app", "1.0", requires=["native"])
    desk.add("native", "1.0", tags=(), sdist=True)
    desk.add("native", "2.0")
    assert [pin.path for pin in desk.lock("app", allow_sdist=["native"]).files][1] == "wheels/native-2.0-py3-none-any.whl"
    assert desk.warnings == []


def test_the_only_release_there_is_as_source_is_not_passed_over_for_an_older_dependent(desk: Desk) -> None:
    desk.add("app", "1.0")
    desk.add("app", "2.0", requires=["one", "two"])
    for name in ("one", "two"):
        desk.add(name, "1.0", tags=(), sdist=True)
    assert desk.versions("app", allow_sdist=["one", "two"]) == {"app": "2.0", "one": "1.0", "two": "1.0"}


def test_without_leave_an_old_wheel_is_taken_and_the_fall_back_is_said(desk: Desk) -> None:
    desk.add("native", "1.0")
    desk.add("native", "2.0", tags=("cp312-cp312-manylinux_2_34_x86_64",), sdist=True)
    assert desk.versions("native") == {"native": "1.0"}
    said = "gw: native: resolved 1.0 though 2.0 exists: no wheel of it for CPython 3.12 on manylinux_2_28_x86_64"
    assert desk.warnings == [said]


def test_a_newest_version_for_another_python_is_said(desk: Desk) -> None:
    desk.add("app", "1.0")
    desk.add("app", "2.0", python=">=3.13")
    assert desk.versions("app>=0.5") == {"app": "1.0"}
    assert desk.warnings == ["gw: app: resolved 1.0 though 2.0 exists: it wants Python >=3.13, the target is 3.12"]


def test_a_newest_version_that_something_holds_back_is_said(desk: Desk) -> None:
    desk.add("app", "1.0")
    desk.add("app", "2.0", requires=["not-there"])
    assert desk.versions("app") == {"app": "1.0"}
    assert "app: resolved 1.0 though 2.0 exists: something it requires cannot be met" in desk.warnings[0]
    with pytest.raises(UsageError, match="not-there was not found in the package registry"):
        desk.lock("app==2.0")


@pytest.mark.parametrize(
    ("requirement", "options"),
    [("app==1.0", {}), ("app<2", {}), ("app", {"constraints": ["app<2"]}), ("app", {"overrides": ["app==1.0"]}), ("app==1.*", {})],
)
def test_a_version_that_was_not_wanted_is_no_fall_back(desk: Desk, requirement: str, options: dict[str, object]) -> None:
    desk.add("app", "1.0")
    desk.add("app", "2.0")
    assert desk.versions(requirement, **options) == {"app": "1.0"}
    assert desk.warnings == []


def test_neither_a_preview_nor_a_yanked_release_is_missed(desk: Desk) -> None:
    desk.add("app", "1.0")
    desk.add("app", "2.0rc1")
    desk.add("app", "3.0", yanked="broken")
    assert desk.versions("app") == {"app": "1.0"}
    assert desk.warnings == []


def test_a_yanked_release_that_was_asked_for_is_said(desk: Desk) -> None:
    desk.add("app", "1.0", yanked="leaks memory")
    desk.lock("app==1.0")
    assert desk.warnings == ['gw: `app==1.0` is yanked (reason: "leaks memory")']


def test_contradicting_requirements_are_explained_in_one_line(desk: Desk) -> None:
    desk.add("app", "1.0", requires=["lib<2"])
    desk.add("lib", "1.0")
    desk.add("lib", "2.0")
    with pytest.raises(UsageError) as caught:
        desk.lock("app", "lib>=2")
    message = str(caught.value)
    assert message.startswith("gw: no set of versions for CPython 3.12 on manylinux_2_28_x86_64 satisfies the requirements: ")
    assert "app depend on lib<2" in message
    assert "lib>=2" in message
    assert "\n" not in message


def test_an_unknown_project_is_named(desk: Desk) -> None:
    with pytest.raises(UsageError, match="no-such-project was not found in the package registry"):
        desk.lock("no-such-project")


def test_overrides_replace_what_a_package_asks_for(desk: Desk) -> None:
    desk.add("app", "1.0", requires=["lib>=9"])
    desk.add("lib", "1.0")
    assert desk.versions("app", overrides=["lib>=1"]) == {"app": "1.0", "lib": "1.0"}


def test_the_quarantine_holds_new_releases_back(desk: Desk) -> None:
    desk.add("app", "1.0", uploaded="2026-01-01T00:00:00Z")
    desk.add("app", "2.0", uploaded="2026-11-20T00:00:00Z")
    desk.uploaded_before = datetime(2026, 11, 17, tzinfo=UTC)
    assert desk.versions("app") == {"app": "1.0"}
    assert desk.warnings == []
    desk.uploaded_before = datetime(2026, 11, 21, tzinfo=UTC)
    assert desk.versions("app") == {"app": "2.0"}


def test_an_index_that_is_away_is_a_network_error(desk: Desk) -> None:
    desk.environment["UV_DEFAULT_INDEX"] = "http://127.0.0.1:9/simple"
    with pytest.raises(NetworkError, match="gw: the package index does not answer: .*http://127.0.0.1:9/simple/app/"):
        desk.lock("app")


def test_a_password_in_pips_configuration_reaches_the_index_and_nothing_else(tmp_path: Path) -> None:
    with pyindex.Index(user="bob:s3cret") as index:
        index.add("app", "1.0")
        address = index.url.replace("http://", "http://bob:s3cret@")
        config = tmp_path / "pip.conf"
        config.write_text(f"[global]\nindex-url = {address}\n")
        desk = Desk(tmp_path, index, environment=base(tmp_path) | {"PIP_CONFIG_FILE": str(config)})
        locked = desk.lock("app==1.0")
    assert "s3cret" not in locked.model_dump_json()
    assert "bob" not in locked.model_dump_json()
    assert desk.warnings == [
        "gw: pip's index address holds a password, which no lock may hold: put it into ~/.netrc, the build needs it there"
    ]


def test_a_password_is_not_in_an_error_either(tmp_path: Path) -> None:
    desk = Desk(tmp_path, environment=base(tmp_path) | {"PIP_INDEX_URL": "http://bob:s3cret@127.0.0.1:9/simple"})
    with pytest.raises(NetworkError) as caught:
        desk.lock("app")
    assert "s3cret" not in f"{caught.value} {caught.value.hint}"


def test_an_older_index_in_html_gives_the_same_but_for_what_it_does_not_say(tmp_path: Path) -> None:
    with pyindex.Index(html=True) as index:
        index.add("app", "1.0", requires=["lib"])
        index.add("lib", "1.0")
        index.add("app", "2.0", python=">=3.13")
        desk = Desk(tmp_path, index, environment=base(tmp_path) | {"UV_DEFAULT_INDEX": index.url})
        locked = desk.lock("app")
        assert {pin.path: pin.size for pin in locked.files} == {
            f"wheels/{name}-1.0-py3-none-any.whl": len(index.server.routes[f"/files/{name}-1.0-py3-none-any.whl"].body) for name in ("app", "lib")
        }
        assert locked.files[0].evidence == {"index": index.url}
        assert desk.warnings == ["gw: app: resolved 1.0 though 2.0 exists: it wants Python >=3.13, the target is 3.12"]
        asked = len(_sizes_asked(index))
        assert asked == 2
        assert desk.lock("app", previous=locked) == locked
        assert len(_sizes_asked(index)) == asked


def _sizes_asked(index: pyindex.Index) -> list[str]:
    ours = [request for request in index.server.requests if request.headers.get("user-agent", "").startswith("airgap-bundler/")]
    return [request.path for request in ours if request.method == "HEAD"]


def test_of_an_index_without_hashes_the_files_own_are_pinned(tmp_path: Path) -> None:
    with pyindex.Index(html=True, hashes=False) as index:
        index.add("app", "1.0")
        desk = Desk(tmp_path, index, environment=base(tmp_path) | {"UV_DEFAULT_INDEX": index.url})
        data = bytes(index.server.routes["/files/app-1.0-py3-none-any.whl"].body[:])
        assert [pin.sha256 for pin in desk.lock("app").files] == [hashlib.sha256(data).hexdigest()]


def test_an_index_in_a_folder_gives_file_pins_that_build(tmp_path: Path) -> None:
    with pyindex.Index() as made:
        made.add("app", "1.0")
        data = bytes(made.server.routes["/files/app-1.0-py3-none-any.whl"].body[:])
    folder = tmp_path / "simple" / "app"
    folder.mkdir(parents=True)
    (folder / "app-1.0-py3-none-any.whl").write_bytes(data)
    page = f'<a href="app-1.0-py3-none-any.whl#sha256={hashlib.sha256(data).hexdigest()}">app-1.0-py3-none-any.whl</a>'
    (folder / "index.html").write_text(page)
    desk = Desk(tmp_path, environment=base(tmp_path) | {"UV_DEFAULT_INDEX": (tmp_path / "simple").as_uri()})
    locked = desk.lock("app")
    assert (locked.files[0].url, locked.files[0].size) == (f"file:{folder}/app-1.0-py3-none-any.whl", len(data))
    assert (desk.placed(locked) / locked.files[0].path).read_bytes() == data


def test_a_requirements_file_is_read_and_its_hashes_hold(desk: Desk) -> None:
    desk.add("app", "1.0")
    desk.add("lib", "1.0")
    pins = {pin.path.split("/")[1].split("-")[0]: pin.sha256 for pin in desk.lock("app", "lib").files}
    file = desk.folder / "requirements.txt"
    file.write_text(f"# ours\napp==1.0 \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{pins['app']}\n\nlib  # any\n")
    assert desk.versions(requirements_file="requirements.txt") == {"app": "1.0", "lib": "1.0"}
    file.write_text(f"app==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(IntegrityError, match="which the requirements file does not list for app"):
        desk.lock(requirements_file="requirements.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("-r other.txt", "option '-r other.txt' is not taken"),
        ("--index-url http://evil/simple\napp", "option '--index-url"),
        ("-e .", "option '-e .' is not taken"),
        ("app @ https://evil/app.whl", "names an address"),
        ("app==", "is no requirement"),
        ("# nothing", "holds no requirement"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_a_requirements_file_holds_requirements_only(desk: Desk, content: str, message: str) -> None:
    (desk.folder / "r.txt").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidFileError, match=message):
        desk.lock(requirements_file="r.txt")


def test_a_requirements_file_outside_is_refused(desk: Desk) -> None:
    (desk.folder.parent / "outside.txt").write_text("app")
    with pytest.raises(InvalidFileError, match="leads out of the folder"):
        desk.lock(requirements_file="../outside.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs `requirements` or `requirements_file`"),
        ({"requirements": ["a b"]}, "is no requirement"),
        ({"requirements": ["--pre"]}, "is no requirement"),
        ({"requirements": ["app @ git+https://x/y"]}, "names an address"),
        ({"requirements": ["app"], "constraints": ["-c x"]}, "is no requirement"),
        ({"requirements": ["app"], "allow_sdist": ["--all"]}, "allow_sdist"),
        ({"requirements": ["app"], "allow_sdist": [":all:"]}, "allow_sdist"),
        ({"requirements": ["app"], "python": "3"}, "python"),
        ({"requirements": ["app"], "index": "http://x"}, "index"),
    ],
)
def test_options_are_checked_before_anyone_is_asked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        python.Options.model_validate(options)


def test_what_is_raised_is_always_one_of_ours(desk: Desk) -> None:
    """A uv that cannot run is the machine's fault and said as that."""
    broken = dataclasses.replace(desk, environment=desk.environment | {"UV_CONFIG_FILE": "/nonexistent/uv.toml"})
    with pytest.raises(AirgapError, match="gw: uv cannot resolve this"):
        broken.lock("app")
