"""The documents: what they link to exists, the commands they show exist, and the generated page is what the commands say."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from audit import checks
from audit.cli import app as audit_app
from bundler.cli import app as bundle_app
from manifests.errors import AirgapError

ROOT = Path(__file__).resolve().parents[1]
MADE_HERE = {"quickstart", "build", "dist", "parts-cache"}  # folders in .gitignore that may hold others' documents
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in MADE_HERE or part.endswith(".egg-info") for part in path.relative_to(ROOT).parts[:-1])
)
# Written in two halves, because no file of this repository names one.
_HALVES = (("py", "pi.org"), ("python", "hosted"), ("npm", "js.org"), ("deb.deb", "ian.org"), ("crates", ".io"))
REGISTRIES = tuple("".join(halves) for halves in _HALVES)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
CALL = re.compile(r"airgap-(?:bundle|audit)((?: [a-z][a-z-]*)*)([^\n]*)")
PLACE = re.compile(r"(?:manifests|airgap_images|audit|bundler|tests|docs|examples|benchmarks|requirements)/[\w./-]*(?:::\w+)?")

ids = {"ids": lambda path: str(path.relative_to(ROOT))}


def load_generator() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as code hosts make them."""
    found: set[str] = set()
    for line in prose(path).splitlines():
        if match := re.match(r"#{1,6} +(.*)", line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1]).strip().lower()
            slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            found.add(next(name for name in (slug, *(f"{slug}-{n}" for n in range(1, 99))) if name not in found))
    return found


def options(app: Any, name: str) -> dict[str, set[str]]:
    """Every command of a command line by its full name, with its options."""
    found: dict[str, set[str]] = {}

    def walk(command: Any, path: str) -> None:
        found[path] = {"--help", *(opt for param in command.params for opt in (*param.opts, *param.secondary_opts))}
        for key, below in getattr(command, "commands", {}).items():
            walk(below, f"{path} {key}")

    walk(get_command(app), name)
    return found


COMMANDS = options(bundle_app, "airgap-bundle") | options(audit_app, "airgap-audit")


def calls(text: str) -> list[tuple[str, list[str]]]:
    """The commands shown in the code of a document: the longest known name, the words after it that name no command, the options."""
    code = "\n".join([*(match[0] for match in FENCE.finditer(text)), *(match[1] for match in CODE.finditer(FENCE.sub("", text)))])
    found = []
    for match in CALL.finditer(code.replace("\\\n", " ")):
        name, words = match[0].split(" ", 1)[0], match[1].split()
        while words and any(f"{name} {words[0]}" == known for known in COMMANDS):
            name = f"{name} {words.pop(0)}"
        is_group = any(known.startswith(f"{name} ") for known in COMMANDS)
        wrong = words[:1] if is_group else []
        rest = re.split(r"#|&&|\||;| airgap-", match[2])[0]
        wrong += [option for option in re.findall(r"(?<=\s)--[a-z][a-z-]*", rest) if option not in COMMANDS[name]]
        found.append((name, wrong))
    return found


def test_there_are_documents() -> None:
    names = {str(path.relative_to(ROOT)) for path in DOCUMENTS}
    assert {"README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/trust.md", "docs/adr/README.md"} <= names


@pytest.mark.parametrize("path", DOCUMENTS, **ids)
def test_every_relative_link_leads_to_a_file_or_heading(path: Path) -> None:
    broken = []
    for target in LINK.findall(prose(path)):
        if re.match(r"[a-z][a-z+.-]*:", target):
            continue
        name, _, fragment = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (fragment and fragment not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("path", DOCUMENTS, **ids)
def test_no_document_names_a_package_registry(path: Path) -> None:
    text = path.read_text(encoding="utf-8").lower()
    assert [name for name in REGISTRIES if name in text] == []


@pytest.mark.parametrize("path", DOCUMENTS, **ids)
def test_every_command_shown_exists_with_its_options(path: Path) -> None:
    assert [(name, wrong) for name, wrong in calls(path.read_text(encoding="utf-8")) if wrong] == []


@pytest.mark.parametrize("path", DOCUMENTS, **ids)
def test_every_file_named_in_code_exists(path: Path) -> None:
    absent = []
    for text in CODE.findall(prose(path)):
        if PLACE.fullmatch(text):
            name, _, test = text.partition("::")
            file = ROOT / name
            if not file.exists() or (test and f"def {test}(" not in file.read_text(encoding="utf-8")):
                absent.append(text)
    assert absent == []


def test_the_readers_of_documents_find_what_is_wrong(tmp_path: Path) -> None:
    text = "`airgap-bundle nothing` `airgap-bundle lock x.yaml --chek`\n```sh\nairgap-audit verify b --policy p --no-such  # --other\n```\n"
    assert [wrong for _, wrong in calls(text)] == [["--no-such"], ["nothing"], ["--chek"]]
    page = tmp_path / "page.md"
    page.write_text("# A `b`, c\n## A b c\n```\n# not one\n```\n")
    assert anchors(page) == {"a-b-c", "a-b-c-1"}
    assert PLACE.fullmatch("tests/test_docs.py::test_x")
    assert LINK.findall("[a](b.md#c) ![image](d.png)") == ["b.md#c"]


@pytest.mark.parametrize("name", checks.names())
def test_every_check_is_explained_where_its_findings_point(name: str) -> None:
    file, _, anchor = str(vars(sys.modules[checks.load(name).__name__])["DOC"]).partition("#")
    assert anchor in anchors(ROOT / file)


def test_the_commands_page_is_what_the_commands_say() -> None:
    generator = load_generator()
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == generator.page(), "run `make docs`"


def test_every_command_is_on_the_page_and_nothing_twice() -> None:
    headings = re.findall(r"^#{2,3} (airgap-.*)$", load_generator().page(), re.MULTILINE)
    assert sorted(headings) == sorted(COMMANDS)


def test_the_page_does_not_depend_on_terminal_or_environment() -> None:
    def made(**extra: str) -> bytes:
        code = "import sys; sys.path.insert(0, 'docs'); import generate; sys.stdout.write(generate.page())"
        kept = {key: value for key, value in os.environ.items() if key in {"PATH", "HOME", "LANG"}}
        return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**kept, **extra}, check=True, capture_output=True).stdout

    assert made() == made(COLUMNS="40", TERMINAL_WIDTH="40", FORCE_COLOR="1", TERM="xterm-256color", _TYPER_FORCE_DISABLE_TERMINAL="0")


def test_check_mode_writes_nothing_and_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    generator = load_generator()
    page = tmp_path / "commands.md"
    monkeypatch.setattr(generator, "PAGE", page)
    assert generator.main(["--check"]) == 1
    assert "make docs" in capsys.readouterr().err
    assert not page.exists()
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0
    page.write_text(page.read_text() + " ")
    assert generator.main(["--check"]) == 1


def test_the_exit_codes_on_the_page_are_those_of_the_errors() -> None:
    def codes(error: type[AirgapError]) -> set[int]:
        return {error.exit_code}.union(*(codes(below) for below in error.__subclasses__()))

    assert codes(AirgapError) | {0} == set(load_generator().EXIT_CODES)
