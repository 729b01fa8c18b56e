"""What stands between an index and a lock: targets and their wheels, pylock.toml, listings, and where packages come from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.tags import platform_tags
from packaging.version import Version

from bundler import pipconf, pylock, simple, uvtool
from bundler.wheels import PythonTarget
from manifests.errors import AirgapError, InvalidFileError, UsageError

TARGET = PythonTarget("3.12", "2_28", "x86_64")
SHA = "0" * 64


def locked(*packages: str) -> bytes:
    return "\n".join(['lock-version = "1.0"', 'created-by = "uv"', *packages]).encode()


def package(name: str = "app", version: str = "1.0", **fields: str) -> str:
    given = {"wheels": f'[{{ url = "https://i/app-1.0-py3-none-any.whl", size = 3, hashes = {{ sha256 = "{SHA}" }} }}]'} | fields
    return f'[[packages]]\nname = "{name}"\nversion = "{version}"\n' + "".join(f"{key} = {value}\n" for key, value in given.items() if value)


def wheel(url: str = "https://i/app-1.0-py3-none-any.whl", more: str = "size = 3", sha256: str = SHA) -> str:
    return f'[{{ url = "{url}", {more}, hashes = {{ sha256 = "{sha256}" }} }}]'


def test_an_address_is_kept_without_password_and_fragment() -> None:
    raw = locked(package(wheels=wheel("https://bob:s3cret@i:8443/a/app-1.0-py3-none-any.whl?x=1#sha256=00")))
    assert pylock.parse(raw, "gw")[0].wheels[0].url == "https://i:8443/a/app-1.0-py3-none-any.whl?x=1"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\xff", "not TOML"),
        (b"= 3", "not TOML"),
        (b"", "lock-version 'None' is not 1.x"),
        (b'lock-version = "2.0"', "lock-version '2.0' is not 1.x"),
        (b'lock-version = "1.0"\npackages = 3', "packages is no list"),
        (b'lock-version = "1.0"\npackages = [3]', "without a normalised name"),
        (locked(package("App")), "without a normalised name"),
        (locked(package("../app")), "without a normalised name"),
        (locked(package(version="one")), "app has no version"),
        (locked(package(wheels="3")), "wheels is no list"),
        (locked(package(wheels="[3]")), "a file that is no table"),
        (locked(package(marker="3")), "or marker no text"),
        (locked(package(wheels=wheel("ftp://i/app-1.0-py3-none-any.whl"))), "without an address"),
        (locked(package(wheels=wheel("https://[/app-1.0-py3-none-any.whl"))), "without an address"),
        (locked(package(wheels=wheel("https://i/lib-1.0-py3-none-any.whl"))), "of another project or version"),
        (locked(package(wheels=wheel("https://i/app-1.1-py3-none-any.whl"))), "of another project or version"),
        (locked(package(wheels=wheel("https://i/%2e%2e%2fapp-1.0-py3-none-any.whl"))), "of another project or version"),
        (locked(package(wheels=wheel("https://i/app-1.0-py3-none-any.exe"))), "of another project or version"),
        (locked(package(wheels=wheel(more='name = "../app-1.0-py3-none-any.whl"'))), "of another project or version"),
        (locked(package(wheels=wheel(more="size = -3"))), "is no number of bytes"),
        (locked(package(wheels=wheel(more='size = "3"'))), "is no number of bytes"),
        (locked(package(wheels=wheel(sha256="abc"))), "states no sha256 for app-1.0"),
        (locked(package(wheels="", vcs='{ type = "git" }')), "app comes from a version control system"),
        (locked(package(wheels="", directory='{ path = "." }')), "app comes from a local folder"),
        (locked(package(wheels="", archive='{ url = "https://i/app.whl" }')), "app comes from a bare address"),
    ],
)
def test_what_is_no_list_of_index_files_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises((InvalidFileError, UsageError), match=message.replace("(", r"\(").replace("[", r"\[")):
        pylock.parse(raw, "gw")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | st.text(max_size=80).map(lambda t: locked(package(marker=repr(t)))))
def test_any_bytes_parse_or_are_refused(raw: bytes) -> None:
    try:
        pylock.parse(raw, "gw")
    except AirgapError:
        return


def test_markers_choose_and_two_versions_at_once_are_refused() -> None:
    here, there = "\"sys_platform == 'linux'\"", "\"sys_platform == 'win32'\""
    packages = pylock.parse(locked(package(marker=here), package(marker=there)), "gw")
    assert len(pylock.for_target(packages, TARGET, "gw")) == 1
    with pytest.raises(InvalidFileError, match="app stands there twice"):
        pylock.for_target(pylock.parse(locked(package(), package(marker=here)), "gw"), TARGET, "gw")


def test_platforms_are_those_of_the_library_for_this_machine() -> None:
    """The tags the library finds on a glibc machine, ours for the same glibc must be, in the same order; `linux` last."""
    bare, *theirs = platform_tags()
    if bare != "linux_x86_64" or not theirs[0].startswith("manylinux_2_"):
        pytest.skip("not a glibc machine of x86-64")
    target = PythonTarget("3.12", f"2_{theirs[0].split('_')[2]}", "x86_64")
    assert list(target._platforms()) == [*theirs, bare]


@pytest.mark.parametrize(("manylinux", "name"), [("2_17", "2_17"), ("2_30", "2_28"), ("2_34", "2_34"), ("2_99", "2_40")])
def test_uv_is_never_told_of_a_newer_glibc(manylinux: str, name: str) -> None:
    assert PythonTarget("3.12", manylinux, "aarch64").uv_platform == f"aarch64-manylinux_{name}"


def test_a_wheel_counts_as_the_best_of_its_tags() -> None:
    old, both = "app-1.0-cp312-cp312-manylinux_2_27_x86_64.whl", "app-1.0-cp312-cp312-manylinux2014_x86_64.manylinux_2_28_x86_64.whl"
    assert TARGET.best([old, both]) == both
    assert PythonTarget("3.12", "2_27", "x86_64").best([old, both]) == old


@pytest.mark.parametrize(
    ("marker", "holds"),
    [
        (None, True),
        ("python_full_version >= '3.12'", True),
        ("python_full_version >= '3.12.1'", False),
        ("platform_machine == 'aarch64'", False),
        ("implementation_name == 'pypy'", False),
        ("not a marker", True),
    ],
)
def test_markers_are_judged_for_the_target(marker: str | None, holds: bool) -> None:
    assert TARGET.holds(marker) is holds


def listed(*names: str, python: str | None = None) -> list[simple.Listed]:
    files = [simple._listed(name, python, False, None) for name in names]
    return [file for file in files if file]


def test_names_that_are_no_releases_are_left_out() -> None:
    assert listed("app-1.0.exe", "app.whl", "app-1.0-py3-none-any.whl", "app-x.tar.gz") == listed("app-1.0-py3-none-any.whl")


def test_a_source_counts_only_where_it_is_allowed() -> None:
    files = listed("app-1.0-py3-none-any.whl", "app-2.0.tar.gz")
    wish = simple.Wish(SpecifierSet(">=1"), Version("1.0"), TARGET)
    found = simple.held_back(files, wish)
    assert found == (Version("2.0"), "no wheel of it for CPython 3.12 on manylinux_2_28_x86_64")
    allowed = simple.held_back(files, simple.Wish(SpecifierSet(">=1"), Version("1.0"), TARGET, sdist=True))
    assert allowed
    assert "something it requires" in allowed[1]
    assert simple.held_back(files, simple.Wish(SpecifierSet("<2"), Version("1.0"), TARGET)) is None


def test_the_newest_of_what_was_not_taken_is_named() -> None:
    files = listed("app-1.0-py3-none-any.whl", "app-1.5.tar.gz", "app-1.10.tar.gz", "app-1.9.tar.gz")
    found = simple.held_back(files, simple.Wish(SpecifierSet(), Version("1.0"), TARGET))
    assert found
    assert found[0] == Version("1.10")


def test_what_uv_says_becomes_one_line_without_passwords_and_markers() -> None:
    said = "Failed to fetch: `https://bob:s3cret@i/simple/`\n  cause: app{sys_platform == 'linux'}>=1\n\x1b[1m needs lib"
    assert uvtool._line(said) == "Failed to fetch: `https://i/simple/` cause: app>=1 \N{REPLACEMENT CHARACTER}[1m needs lib"


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """An environment whose configuration is all below ``tmp_path``."""
    return {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "xdg"), "PIP_CONFIG_FILE": os.devnull}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_pips_index_is_told_to_uv(machine: dict[str, str], tmp_path: Path) -> None:
    pip = {"PIP_INDEX_URL": "https://main/simple", "PIP_EXTRA_INDEX_URL": "https://a/simple https://b/simple", "PIP_CERT": "/ca.pem"}
    told = dict(pipconf.indexes(machine | pip, tmp_path).variables)
    assert told == {"UV_DEFAULT_INDEX": "https://main/simple", "UV_INDEX": "https://a/simple https://b/simple", "SSL_CERT_FILE": "/ca.pem"}
    assert "SSL_CERT_FILE" not in dict(pipconf.indexes(machine | pip | {"SSL_CERT_FILE": "/other.pem"}, tmp_path).variables)


def test_the_later_of_pips_files_wins_and_the_environment_over_all(machine: dict[str, str], tmp_path: Path) -> None:
    del machine["PIP_CONFIG_FILE"]
    write(tmp_path / "xdg" / "pip" / "pip.conf", "[global]\nindex-url = https://system/simple\n")
    assert dict(pipconf.indexes(machine, tmp_path).variables)["UV_DEFAULT_INDEX"] == "https://system/simple"
    write(tmp_path / ".config" / "pip" / "pip.conf", "[global]\nindex_url = https://user/simple\n")
    assert dict(pipconf.indexes(machine, tmp_path).variables)["UV_DEFAULT_INDEX"] == "https://user/simple"
    named = write(tmp_path / "named.conf", "[global]\nindex-url = https://no/simple\n[install]\nindex-url = https://named/simple\n")
    machine["PIP_CONFIG_FILE"] = str(named)
    assert dict(pipconf.indexes(machine, tmp_path).variables)["UV_DEFAULT_INDEX"] == "https://named/simple"
    machine["PIP_INDEX_URL"] = "https://environment/simple"
    assert dict(pipconf.indexes(machine, tmp_path).variables)["UV_DEFAULT_INDEX"] == "https://environment/simple"


def test_local_extra_folders_are_left_out_and_said_without_passwords(machine: dict[str, str], tmp_path: Path) -> None:
    pip = {"PIP_EXTRA_INDEX_URL": "file:///srv/simple", "PIP_FIND_LINKS": "/wheels https://bob:s3cret@h/links"}
    found = pipconf.indexes(machine | pip, tmp_path)
    assert found.variables == ()
    assert "file:///srv/simple, /wheels" in found.notes[0]
    assert "s3cret" not in found.notes[0]


@pytest.mark.parametrize("variable", pipconf.UV_INDEX_VARIABLES)
def test_uvs_own_variables_are_never_overruled(machine: dict[str, str], tmp_path: Path, variable: str) -> None:
    assert pipconf.indexes(machine | {"PIP_INDEX_URL": "https://p/simple", variable: "https://u/simple"}, tmp_path) == pipconf.Indexes()


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("work/uv.toml", '[[index]]\nurl = "https://u/simple"'),
        ("uv.toml", '[pip]\nindex-url = "https://u/simple"'),
        ("work/pyproject.toml", '[tool.uv]\nextra-index-url = ["https://u/simple"]'),
        (".config/uv/uv.toml", 'index-url = "https://u/simple"'),
        ("xdg/uv/uv.toml", 'index-url = "https://u/simple"'),
    ],
)
def test_uvs_own_files_are_never_overruled(machine: dict[str, str], tmp_path: Path, where: str, text: str) -> None:
    machine["PIP_INDEX_URL"] = "https://p/simple"
    folder = tmp_path / "work"
    folder.mkdir()
    assert pipconf.indexes(machine, folder).variables
    write(tmp_path / where, text)
    assert pipconf.indexes(machine, folder) == pipconf.Indexes()
    assert pipconf.indexes(machine | {"UV_NO_CONFIG": "1"}, folder).variables


@pytest.mark.parametrize("text", ["tool = 3", "[tool]\nuv = 3", "= broken", 'pip = "x"', "index = []"])
def test_a_configuration_of_another_form_says_nothing(machine: dict[str, str], tmp_path: Path, text: str) -> None:
    write(tmp_path / "pyproject.toml", text)
    write(tmp_path / "uv.toml", text)
    write(tmp_path / ".config" / "pip" / "pip.conf", "[global\nbroken")
    del machine["PIP_CONFIG_FILE"]
    assert pipconf.indexes(machine | {"PIP_INDEX_URL": "https://p/simple"}, tmp_path).variables


def test_the_running_python_has_a_configuration_too(machine: dict[str, str]) -> None:
    assert Path(sys.prefix) / "pip.conf" in list(pipconf._pip_files(machine | {"PIP_CONFIG_FILE": ""}))
