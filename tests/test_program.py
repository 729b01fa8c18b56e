"""Running an engine's program: what it is given and what is taken from it, and that it never hangs or floods us."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts.expect import refused

from airgap_images.placing import program
from airgap_images.placing.program import Program
from manifests.errors import IntegrityError, SiteError


def script(folder: Path, body: str, *arguments: str, **environment: str) -> Program:
    path = folder / "tool"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return Program.of("tool", arguments, {"PATH": str(folder), **environment})


def test_arguments_are_passed_as_they_are_and_no_shell_sees_them(tmp_path: Path) -> None:
    answer = script(tmp_path, r'''printf '<%s>' "$@"''', "--first").run("$(id)", "a b", "*", ";true")
    assert (answer.code, answer.output) == (0, "<--first><$(id)><a b><*><;true>")


def test_of_the_environment_it_gets_a_few_variables_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "own")
    said = script(tmp_path, "env; pwd", HOME="/h", SECRET="given", CONTAINER_HOST="tcp://elsewhere", LD_PRELOAD="x").run().output
    names = {line.partition("=")[0] for line in said.splitlines() if "=" in line}
    assert names <= {"HOME", "PATH", "LC_ALL", "PWD", "SHLVL", "_", "OLDPWD"}
    assert said.splitlines()[-1] == "/"


def test_a_stream_goes_through_whole_however_slowly_it_is_read(tmp_path: Path) -> None:
    data = [os.urandom(1 << 20) for _ in range(8)]
    answer = script(tmp_path, f"sleep 0.2; cat >{tmp_path}/in").run(stream=data)
    assert answer.code == 0
    assert (tmp_path / "in").read_bytes() == b"".join(data)


def test_a_program_that_ends_early_says_why(tmp_path: Path) -> None:
    answer = script(tmp_path, "echo no room >&2; exit 3").run(stream=(bytes(1 << 20) for _ in range(50)))
    assert (answer.code, answer.said) == (3, "no room")
    assert script(tmp_path, "exit 4").run().said == "exit status 4"


def test_what_it_prints_on_both_sides_at_once_is_kept_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MAX_WORDS", 1000)
    flood = "i=0; while [ $i -lt 3000 ]; do echo 0123456789; echo 0123456789 >&2; i=$((i+1)); done"
    answer = script(tmp_path, flood).run(stream=[b"x" * (1 << 20)])
    assert (len(answer.output), len(answer.words)) == (33000, 1000)
    monkeypatch.setattr(program, "MAX_OUTPUT", 1000)
    with refused(SiteError, "tool prints more than 1000 bytes"):
        script(tmp_path, flood).run()


def test_a_failing_stream_ends_the_program_which_may_clear_up(tmp_path: Path) -> None:
    def stream() -> Iterator[bytes]:
        yield b"half"
        raise IntegrityError("wrong byte", hint="-")

    with refused(IntegrityError, "wrong byte"):
        script(tmp_path, f"cat >{tmp_path}/in; sleep 0.2; echo cleared >{tmp_path}/end").run(stream=stream())
    assert (tmp_path / "in").read_bytes() == b"half", "it saw its input end"
    assert (tmp_path / "end").read_text() == "cleared\n", "and was waited for"


@pytest.mark.parametrize("body", ["exec sleep 60", "exec sleep 60 </dev/null"])
def test_one_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    monkeypatch.setattr(program, "TIMEOUT", 0.3)
    began = time.monotonic()
    with refused(SiteError, "was ended"):
        script(tmp_path, body).run(stream=[bytes(1 << 20)] if "null" not in body else ())
    assert time.monotonic() - began < 5


def test_one_that_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "USUAL_PATH", str(tmp_path))
    with refused(SiteError, "nosuch is not installed"):
        Program.of("nosuch", (), {}).run()
    (tmp_path / "nosuch").write_text("#!/no/interpreter\n")
    (tmp_path / "nosuch").chmod(0o755)
    with refused(SiteError, "nosuch cannot be run"):
        Program.of("nosuch", (), {}).run()
