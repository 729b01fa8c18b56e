"""What ``airgap-audit inspect`` draws in a terminal. Text of strangers is printed as it is, without control characters or markup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit.terminal import human
from manifests.paths import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from audit.inspect import Contents

MAX_FACTS = 12  # of one component


def view(found: Contents) -> RenderableType:
    """Return what a bundle says of itself: a warning that nothing of it is proved, its components, and what its signatures claim."""
    from rich.console import Group  # noqa: PLC0415 - only where somebody watches
    from rich.panel import Panel  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    warning = Text("NOT PROVED", style="bold yellow")
    warning.append(": this is what the bundle says of itself. `airgap-audit verify` proves it.", style="default")
    return Group(Panel(warning, title=Text(str(found.digest)), border_style="yellow"), _components(found), _claims(found))


def _components(found: Contents) -> RenderableType:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    total = sum(dict(found.sizes).values())
    made = Table(title=f"{len(found.components)} components, {human(total)}", title_justify="left", expand=True)
    for name in ("component", "kind", "role", "files", "size", "says"):
        made.add_column(name, justify="right" if name in {"files", "size"} else "left", overflow="fold")
    counts, sizes = dict(found.files), dict(found.sizes)
    for part in found.components:
        facts = [f"{printable(key, 40)}: {printable(value, 120)}" for key, value in list(part.facts.items())[:MAX_FACTS]]
        cells = (part.kind, printable(part.role or ""), str(counts.get(part.name, "")), human(sizes[part.name]))
        made.add_row(Text(part.name, style="bold"), *map(Text, cells), Text("\n".join(facts), style="dim"))
    return made


def _claims(found: Contents) -> RenderableType:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    made = Table(title=f"{len(found.claims)} signature files, none of them checked", title_justify="left", expand=True)
    for name in ("file", "stream", "serial", "expires", "problem"):
        made.add_column(name, overflow="fold")
    for claim in found.claims:
        said = claim.predicate
        told = (said.stream, str(said.serial), said.expires) if said else ("", "", "")
        made.add_row(*map(Text, (printable(claim.file), *map(printable, told), printable(claim.problem))))
    return made
