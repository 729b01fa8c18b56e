"""Write ``docs/commands.md``: the help text of every command of both command lines, as the commands print it.

    python docs/generate.py           # write the page
    python docs/generate.py --check   # write nothing; exit 1 if the page would change

Rules: the text comes from the commands themselves; width, colour and order depend on nothing outside this file.
"""

# ruff: noqa: INP001
from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

WIDTH = 100  # characters in a line of help
PAGE = Path(__file__).resolve().parent / "commands.md"
EXIT_CODES = {
    0: "fine",
    1: "could not finish: disk, network, permissions, an engine that does not answer; run again when it is mended",
    2: "the command line, or a file the user wrote, is wrong",
    3: "refused: bytes, signatures, freshness or policy; or what is installed is not what was installed",
    4: "a check found something that the gate refuses",
    5: "something could not be assessed, which is never the same as fine",
}
INTRODUCTION = """# Commands

Written by `docs/generate.py` from the commands themselves; do not edit. `make docs` writes it anew.

`airgap-bundle` is for the connected side, `airgap-audit` for the isolated side. For both:

- stdout carries the result and nothing else. Notes, warnings, progress and errors go to stderr.
- With `--json` the result is one JSON document, and so is an error, if the command line itself can be read. `schema` prints
  JSON in any case.
- Progress bars appear after one second of work, and only where stderr is a terminal.
- No question is asked where stdin is no terminal.
- A command that was interrupted, or killed, goes on when it is run again.

## Exit codes

| code | meaning |
| --- | --- |
"""
VARIABLES = (
    ("`AIRGAP_CACHE`, else `XDG_CACHE_HOME`", "`airgap-bundle`", "where bytes read while locking are kept; `--cache` names another folder"),
    ("`SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE`", "`airgap-bundle`", "certificates to trust: the first that is set"),
    ("`NETRC`", "`airgap-bundle`", "passwords for hosts; `~/.netrc` when not set"),
    ("`HTTPS_PROXY`, `NO_PROXY` and their like", "libcurl, uv, the hub's client", "proxies"),
    ("`HF_ENDPOINT`, `HF_TOKEN` and the client's others", "the hub's client", "which Hugging Face hub, and the token for it and no other"),
    ("`UV_*`, `PIP_*` and both tools' configuration files", "uv", "which package index"),
    ("`REGISTRY_AUTH_FILE`, `XDG_RUNTIME_DIR`, `DOCKER_CONFIG`", "both", "where logins of image registries stand"),
    ("`CONTAINERS_REGISTRIES_CONF`", "`airgap-bundle`", "mirrors of image registries"),
    ("`DOCKER_HOST`, `DOCKER_CERT_PATH`, `DOCKER_TLS_VERIFY`", "both", "which engine: `docker-daemon:`, the site's engine `docker`"),
)
ENVIRONMENT = """
## Environment

Logins, certificates and mirrors of image registries are looked for where docker, podman and skopeo do; see
[images](images.md#whom-a-registry-sees).

| variable | read by | for |
| --- | --- | --- |
"""


def page() -> str:
    """Return the whole page."""
    from audit.cli import app as audit  # noqa: PLC0415 - a test of this file's rendering needs neither side
    from bundler.cli import app as bundle  # noqa: PLC0415

    codes = "".join(f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES.items())
    variables = "".join(f"| {' | '.join(row)} |\n" for row in VARIABLES)
    return INTRODUCTION + codes + ENVIRONMENT + variables + section(bundle, "airgap-bundle") + section(audit, "airgap-audit")


def section(app: typer.Typer, name: str) -> str:
    """Return the part of the page about one command line: its own help, then that of each command below it."""
    texts = []
    for at, (path, text) in enumerate(helps(get_command(app), name, None)):
        texts.append(f"\n{'###' if at else '##'} {path}\n\n```text\n{text}\n```\n")
    return "".join(texts)


def helps(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    """Yield the full name and the plain help text of ``command`` and of every command below it, in the order of their names."""
    command.rich_markup_mode = None  # plain text; boxes and colours depend on the terminal
    context = typer.Context(command, info_name=name, parent=parent, terminal_width=WIDTH)
    yield context.command_path, "\n".join(line.rstrip() for line in command.get_help(context).strip().splitlines())
    below = getattr(command, "commands", {})
    for key in sorted(below):
        if not below[key].hidden:
            yield from helps(below[key], key, context)


def main(arguments: list[str]) -> int:
    """Write the page, or with ``--check`` only say whether it is up to date."""
    text = page()
    if "--check" not in arguments:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write("docs/commands.md: not what the commands say today; run `make docs`\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
