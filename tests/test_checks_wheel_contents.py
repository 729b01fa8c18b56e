"""Wheels that hold what they do not list, lists that say what is not there, and what runs without being imported: with real zip files."""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import trees

from audit.checks import CheckResult, Subject, gate, load, run_one
from audit.checks._record import UnreadableError, examine

CHECK = load("wheels")
INFO = "app-1.dist-info"
FILES = {"app/__init__.py": b"x = 1\n", f"{INFO}/METADATA": b"Metadata-Version: 2.1\nName: app\nVersion: 1\n"}
NAMESPACE = (
    b"import sys, types, os;has_mfs = sys.version_info > (3, 5);p = os.path.join(sys._getframe(1).f_locals['sitedir'], *('google',));"
    b"importlib = has_mfs and __import__('importlib.util');m = sys.modules.setdefault('google', types.ModuleType('google'))\n"
)
SETUPTOOLS = (
    b"import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, 'local') == 'local'; "
    b"enabled and __import__('_distutils_hack').add_shim(); "
)


def row(name: str, data: bytes, *, algorithm: str = "sha256", size: int | None = None) -> str:
    digest = base64.urlsafe_b64encode(hashlib.new(algorithm, data).digest()).rstrip(b"=").decode()
    return f"{name},{algorithm}={digest},{len(data) if size is None else size}"


def wheel(files: dict[str, bytes], record: list[str] | None = None, *, again: dict[str, bytes] | None = None) -> bytes:
    """Return a wheel of `files`, with the RECORD they should have or `record`; `again` are members that stand a second time."""
    lines = [row(name, data) for name, data in files.items()] if record is None else record
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{INFO}/RECORD", "\n".join([*lines, f"{INFO}/RECORD,,", ""]))
        for name, data in (again or {}).items():
            archive.writestr(name, data)
    return out.getvalue()


def examined(folder: Path, *wheels: bytes, building: bool = True, kind: str = "python", **others: bytes) -> CheckResult:
    files = {f"app-{at}-py3-none-any.whl": raw for at, raw in enumerate(wheels)} | others
    made = trees.subject(folder, files, kind=kind, model=False)
    return run_one(CHECK, Subject(made.layout, made.components, building=building))


def only(result: CheckResult) -> tuple[str, str, str]:
    (finding,) = result.findings
    assert finding.remedy
    return finding.severity, finding.about, finding.message


def test_a_wheel_as_it_should_be_passes(tmp_path):
    found = examined(tmp_path, wheel(FILES))
    assert (found.findings, found.not_assessed, found.examined) == ((), (), 1)


def test_real_wheels_pass(tmp_path, wheelhouse):
    found = examined(tmp_path, *(path.read_bytes() for path in wheelhouse))
    assert [f for f in found.findings if f.severity != "low"] == []
    assert (found.not_assessed, found.examined) == ((), len(wheelhouse))


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real wheels of the index that this machine names: setuptools has a path file of its own."""
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*command, "setuptools==80.9.0", "packaging==25.0", "markupsafe==3.0.2"], check=True)
    return sorted(folder.iterdir())


HOSTILE = {
    "a line that runs": {"evil.pth": b"import os; os.system('id')\n"},
    "a tab behind it": {"evil.pth": b"import\tos\n"},
    "behind harmless lines": {"evil.pth": b"/opt/app\n\nimport os\n"},
    "behind a carriage return alone": {"evil.pth": b"/opt/app\rimport os\n"},
    "behind a separator of lines": {"evil.pth": "/opt/app\u2028import os\n".encode()},
    "behind a form feed": {"evil.pth": b"/opt/app\x0cimport os\n"},
    "behind a mark of byte order": {"evil.pth": b"\xef\xbb\xbfimport os\n"},
    "in a text of no encoding": {"evil.pth": b"\xff\xfe\nimport os\n"},
    "by way of purelib": {"app-1.data/purelib/evil.pth": b"import os\n"},
    "by way of platlib": {"app-1.data/platlib/evil.pth": b"import os\n"},
    "by way of the prefix": {"app-1.data/data/lib/python3.12/site-packages/evil.pth": b"import os\n"},
    "by way of Debian's folder": {"app-1.data/data/lib/python3/dist-packages/evil.pth": b"import os\n"},
    "with a dot before it": {"./evil.pth": b"import os\n"},
    "almost what setuptools has": {"distutils-precedence.pth": SETUPTOOLS + b"\nimport os\n"},
    "almost a namespace": {"ns.pth": NAMESPACE + b"import os\n"},
    "larger than is read": {"evil.pth": b"#" * (1 << 20) + b"\nimport os\n"},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_path_file_that_runs_is_refused(tmp_path, name):
    found = examined(tmp_path, wheel(FILES | HOSTILE[name]))
    severity, about, message = only(found)
    assert (severity, about) == ("high", "pth")
    assert "evil.pth" in message or ".pth has lines that run" in message
    assert gate([found], {}).exit_code == 4
    assert gate([found], {"wheels": "warn"}).exit_code == 0


@pytest.mark.parametrize("text", [b"/opt/app\n", b"# import os\n", b" import os\n", b"importlib\n", b"", SETUPTOOLS])
def test_a_path_file_that_runs_nothing_passes(tmp_path, text):
    assert examined(tmp_path, wheel(FILES | {"app.pth": text})).findings == ()


def test_a_path_file_elsewhere_is_not_read_by_python(tmp_path):
    assert examined(tmp_path, wheel(FILES | {"app/data/model.pth": b"import os\n"})).findings == ()


def test_the_old_way_of_namespaces_is_told_of(tmp_path):
    severity, about, message = only(examined(tmp_path, wheel(FILES | {"google-nspkg.pth": NAMESPACE})))
    assert (severity, about) == ("low", "pth")
    assert "namespace in the old way" in message


@pytest.mark.parametrize(
    "name",
    ["sitecustomize.py", "usercustomize.py", "sitecustomize/__init__.py", "app-1.data/purelib/sitecustomize.py", "sitecustomize.abi3.so",
     "usercustomize.pyc", "./sitecustomize.py"],
)  # fmt: skip
def test_what_python_imports_by_itself_is_refused(tmp_path, name):
    severity, about, _ = only(examined(tmp_path, wheel(FILES | {name: b"print()\n"})))
    assert (severity, about) == ("high", "customize")


def test_what_the_list_does_not_name_is_refused(tmp_path):
    raw = wheel(FILES | {"app/more.py": b"import os\n"}, [row(name, data) for name, data in FILES.items()])
    severity, about, message = only(examined(tmp_path, raw))
    assert (severity, about, message) == ("high", "unlisted", "holds 1 files its RECORD does not list: app/more.py")


def test_what_is_not_there_is_told_of(tmp_path):
    raw = wheel(FILES, [*(row(name, data) for name, data in FILES.items()), row("app/gone.py", b"x")])
    assert only(examined(tmp_path, raw)) == ("medium", "absent", "lists 1 files it does not hold: app/gone.py")


def test_other_bytes_than_the_list_says_are_found_at_build_and_other_sizes_always(tmp_path):
    changed = [row("app/__init__.py", b"y = 1\n"), row(f"{INFO}/METADATA", FILES[f"{INFO}/METADATA"])]
    longer = [row("app/__init__.py", FILES["app/__init__.py"], size=99), row(f"{INFO}/METADATA", FILES[f"{INFO}/METADATA"])]
    expected = ("medium", "differs", "holds 1 files that are not what its RECORD says: app/__init__.py")
    assert only(examined(tmp_path / "1", wheel(FILES, changed))) == expected
    assert examined(tmp_path / "2", wheel(FILES, changed), building=False).findings == ()
    assert only(examined(tmp_path / "3", wheel(FILES, longer), building=False)) == expected


@pytest.mark.parametrize("algorithm", ["md5", "sha1"])
def test_weak_digests_are_told_of(tmp_path, algorithm):
    raw = wheel(FILES, [row(name, data, algorithm=algorithm) for name, data in FILES.items()])
    severity, about, message = only(examined(tmp_path, raw))
    assert (severity, about) == ("medium", "weak")
    assert message.startswith("lists 2 files without a digest of SHA-256 or better: app-1.dist-info/METADATA")


def test_members_that_stand_twice_are_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        raw = wheel(FILES, again={"app/__init__.py": b"import os\n"})
    assert [finding.about for finding in examined(tmp_path, raw).findings if finding.severity == "high"] == ["twice"]


def test_the_same_place_by_two_names_is_refused(tmp_path):
    raw = wheel(FILES | {"app/./__init__.py": b"import os\n"})
    assert only(examined(tmp_path, raw))[:2] == ("high", "twice")


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil", "app/../../evil", "..\\evil.py"])
def test_names_outside_are_refused(tmp_path, name):
    assert ("high", "outside") in [(f.severity, f.about) for f in examined(tmp_path, wheel(FILES | {name: b""})).findings]


def test_a_wheel_without_a_list_is_refused(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("app.py", b"")
    assert only(examined(tmp_path, out.getvalue())) == ("high", "record", "has 0 files named RECORD, expected 1")


@pytest.mark.parametrize("damage", ["no zip", "cut", "crc", "record"])
def test_what_cannot_be_read_is_not_assessed(tmp_path, damage):
    raw = bytearray(wheel(FILES))
    if damage == "no zip":
        raw = bytearray(b"PK\x03\x04 nothing")
    elif damage == "cut":
        del raw[-30:]
    elif damage == "crc":
        raw[raw.index(b"app/__init__.py") + 16] ^= 0xFF
    else:
        raw = bytearray(wheel(FILES, ["\xff" * 3]))
        raw = bytearray(bytes(raw))
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr(f"{INFO}/RECORD", b"\xff\xfe\x00")
        raw = bytearray(out.getvalue())
    found = examined(tmp_path, bytes(raw))
    assert found.findings == ()
    (note,) = found.not_assessed
    assert note.path.endswith(".whl")
    assert gate([found], {}).exit_code == 5


def test_a_source_distribution_is_refused_among_packages_and_is_a_file_elsewhere(tmp_path):
    severity, about, message = only(examined(tmp_path / "1", **{"app-1.tar.gz": b"x"}))
    assert (severity, about, message) == ("high", "sdist", "is a source distribution")
    assert examined(tmp_path / "2", kind="path", **{"app-1.tar.gz": b"x"}).findings == ()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 4000), st.binary(max_size=8), st.booleans())
def test_no_damage_stops_it(at, patch, deep):
    raw = bytearray(wheel(FILES | {"app.pth": b"/opt\n"}))
    raw[at % len(raw) : at % len(raw) + len(patch)] = patch
    try:
        assert all(sign.message for sign in examine(io.BytesIO(bytes(raw)), deep=deep))
    except UnreadableError as error:
        assert "\n" not in str(error)
