"""What nobody would write, given to every parser: it is read or refused with one of its errors, never anything else.

Two ways: hypothesis mutates valid inputs, and a coverage-guided fuzzer looks for new paths for a bounded time. Set
AIRGAP_FUZZ_SECONDS to give each parser longer than the few seconds of a normal run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import platform
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts.targets import TARGETS


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name or "x"), content)
    return out.getvalue().replace(b"x\0", b"\0\0") if "" in members else out.getvalue()


SECONDS = os.environ.get("AIRGAP_FUZZ_SECONDS", "2")
TOKENS = (b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\u0000", b"\\ud800", b"\0", b"\n", b"\xff", b"1e999", b"-1", b"NaN", b"null", b"../", b"/", b"99999999999999999999")


@st.composite
def mutated(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """Return a seed with some bytes changed, taken out, doubled or put in."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 12)))
        how = draw(st.sampled_from(("set", "cut", "double", "put", "token")))
        if how == "set" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif how == "cut":
            del data[at:end]
        elif how == "double":
            data[at:at] = data[at:end]
        elif how == "put":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            data[at:end] = draw(st.sampled_from(TOKENS))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_in_is_read_or_refused(name):
    target = TARGETS[name]

    @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.one_of(mutated(target.seeds), st.binary(max_size=200)))
    def fed(data: bytes) -> None:
        try:
            target.parse(data)
        except target.refusals:
            return

    fed()


# What the fuzzers found once


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("npm", b'{"name":" "}'),
        ("python metadata", b"Name:/\nV\nVersion:\xebx\n"),
        ("apk", b"P:/\nV:1\nA:x\n\n"),
        ("pax", b"8 a=bcd\n" + b"?" * 8),  # a record of no length after a good one: was read again for ever
        ("pickle search", zipped({"": b"", "a": b"b"})),
    ],
)
def test_what_was_found_stays_mended(name, data):
    with contextlib.suppress(*TARGETS[name].refusals):
        TARGETS[name].parse(data)


def fuzzed(name: str, folder: Path) -> tuple[str, int, str]:
    folder.mkdir()
    options = (f"-max_total_time={SECONDS}", "-timeout=20", "-rss_limit_mb=3000", "-max_len=8192", "-print_final_stats=1", "-verbosity=1")
    command = [sys.executable, "-m", "parts.fuzzer", name, str(folder), *options]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True, timeout=600, check=False)
    return name, done.returncode, done.stderr


def told(err: str) -> str:
    """Return what a fuzzer found: from the exception on, without the long tale before it."""
    return err[max(err.find("Uncaught Python exception"), err.find("ERROR: libFuzzer"), 0) :][:2500]


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason=f"no wheel of atheris for {sys.version_info[:2]} on {platform.machine()}")
def test_a_coverage_guided_fuzzer_finds_nothing_else(tmp_path):
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        ended = list(pool.map(lambda entry: fuzzed(entry[1], tmp_path / str(entry[0])), enumerate(TARGETS)))
    failed = [f"{name}: {told(err)}" for name, code, err in ended if code != 0]
    assert not failed, "\n".join(failed)
    for name, _, err in ended:
        runs = next(line for line in err.splitlines() if "stat::number_of_executed_units" in line)
        assert int(runs.split()[-1]) > 20, (name, runs)
