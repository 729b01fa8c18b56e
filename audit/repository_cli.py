"""``airgap-audit repository``: package repositories among what is installed. Arguments in, one call, one report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.memory_cli import SiteFile, StoreFolder, site_of
from audit.terminal import Json, Report, command, lazily

if TYPE_CHECKING:
    from audit import repository
    from audit.install import store as stores
    from manifests.repository import About
else:
    repository, stores = map(lazily, ("audit.repository", "audit.install.store"))

repositories = typer.Typer(no_args_is_help=True, help="Package repositories among what is installed.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The component, of kind apt.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write, instead of apt's own folder.")]


@repositories.command("add")
@command
def repository_add(name: Name, out: Out = None, site_file: SiteFile = None, store: StoreFolder = None, as_json: Json = False) -> Report:
    """Tell this machine's apt of an installed repository; `apt update` and `apt install` then work from it without a network."""
    done = repository.add(stores.Store.existing(site_of(site_file, store).store), name, out)
    lines = [f"{done.file}: {'written' if done.changed else 'unchanged'}; {done.folder}"]
    if done.about.expires:
        lines.append("its Release states an end, which apt is told not to check: how old it is, the bundle's statement says")
    option = "" if done.about.recommends else " --no-install-recommends"
    lines.append(f"now: apt-get update && apt-get install{option} PACKAGE")
    data = {"name": name, "file": str(done.file), "folder": str(done.folder), "changed": done.changed, **_about(done.about)}
    return Report(data, "\n".join(lines))


@repositories.command("show")
@command
def repository_show(name: Name, site_file: SiteFile = None, store: StoreFolder = None, as_json: Json = False) -> Report:
    """Print the sources file of an installed repository, and write nothing."""
    text, about = repository.sources(stores.Store.existing(site_of(site_file, store).store), name)
    return Report({"name": name, "sources": text, **_about(about)}, text.rstrip())


def _about(about: About) -> dict[str, bool]:
    return {"recommends": about.recommends, "expires": about.expires}
