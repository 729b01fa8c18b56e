"""The threat table of SECURITY.md and the tests it names: every row is tested, and every test that is named is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`(?:tests/)?(test_\w+\.py)(?:::(Test\w+))?(?:::(test_\w+))?`")
# The threats to trust that the design names, each by words of its row.
DESIGN = (
    "any blob changed, cut or missing", "a file smuggled in", "a link or device", "a path that leaves its folder", "`index.json` or `SHA256SUMS` replaced",
    "one stolen key, one insider", "signatures of two bundles mixed", "the bundle chooses algorithm, key or kind of signer",
    "another workflow, or a fork", "a signature made for something else", "an older bundle, or two with one serial", "a clock turned back",
    "a revoked signer", "a policy swapped", "made to confuse the verifier", "one algorithm broken later", "a log, timestamp authority", "a file swapped between proof",
    "poisoned at the source", "the verifier itself replaced",
)  # fmt: skip


def rows() -> list[tuple[str, str, str]]:
    table = (ROOT / "SECURITY.md").read_text().partition("\n## Threats\n")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines() if line.startswith("| ")]
    assert cells[0] == ["threat", "defence", "tested in"]
    return [(threat, defence, tested) for threat, defence, tested in cells[2:]]


@cache
def named_in(file: str) -> frozenset[tuple[str, str]]:
    """Return every test of a file as (class or nothing, function)."""
    found: set[tuple[str, str]] = set()
    for node in ast.parse((ROOT / "tests" / file).read_text()).body:
        parts = node.body if isinstance(node, ast.ClassDef) else [node]
        owner = node.name if isinstance(node, ast.ClassDef) else ""
        found |= {(owner, part.name) for part in parts if isinstance(part, ast.FunctionDef)}
    return frozenset(found)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_every_row_names_tests_that_are_there(row):
    _, defence, tested = row
    assert defence
    assert NAMED.sub("", tested).strip(", ") == ""
    for file, owner, name in NAMED.findall(tested):
        assert (ROOT / "tests" / file).is_file()
        assert not name or (owner, name) in named_in(file), f"{file}: no {owner} {name}"
    assert NAMED.search(tested)


@pytest.mark.parametrize("words", DESIGN)
def test_every_threat_to_trust_has_one_row_that_names_its_tests_one_by_one(words):
    (found,) = [tested for threat, _, tested in rows() if words in threat]
    assert all(name for _, _, name in NAMED.findall(found))
