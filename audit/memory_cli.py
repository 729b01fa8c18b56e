"""``airgap-audit policy`` and ``airgap-audit state``: what this site trusts and remembers. Arguments in, one call, one report out."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.terminal import Json, Report, command, lazily
from manifests import canonical
from manifests.errors import UsageError

if TYPE_CHECKING:
    from audit import memory_words as words
    from audit.install import memory
    from audit.install import store as stores
    from audit.verify import pinned
    from manifests import site
else:
    words, pinned, site = map(lazily, ("audit.memory_words", "audit.verify.pinned", "manifests.site"))
    memory, stores = map(lazily, ("audit.install.memory", "audit.install.store"))

policies = typer.Typer(no_args_is_help=True, help="The policy this site trusts, and the ways to the next one.")
memories = typer.Typer(
    no_args_is_help=True,
    help="What this site remembers of serials, times and policies, and the ways on where that was lost or a clock was wrong.",
)

SiteFile = Annotated[Path | None, typer.Option("--site", metavar="FILE", help="site.yaml: where things go here.")]
StoreFolder = Annotated[Path | None, typer.Option("--store", metavar="DIR", help="The store, instead of the site's.")]
StateFolder = Annotated[Path | None, typer.Option("--state", metavar="DIR", help="Where this site remembers serials; else the store.")]
Now = Annotated[str | None, typer.Option("--now", metavar="TIME", help="Take this as the time, for tests: 2026-11-24T17:00:00Z.")]


@policies.command("accept")
@command
def policy_accept(
    path: Annotated[Path, typer.Argument(metavar="POLICY.JSON", help="The policy, with the folder of its signatures beside it.")],
    previous: Annotated[
        Path | None, typer.Option("--previous", metavar="OLD.JSON", help="The policy in force, where its file was not kept here.")
    ] = None,
    pin: Annotated[
        str | None, typer.Option("--pin", metavar="SHA256", help="Typed from paper: accept exactly this file, whoever signed it.")
    ] = None,
    site_file: SiteFile = None,
    store: StoreFolder = None,
    state: StateFolder = None,
    now: Now = None,
    as_json: Json = False,
) -> Report:
    """Make a policy the one in force: signed as the one before and itself ask, or pinned by a hash on paper."""
    if pin and previous:
        raise UsageError("--pin and --previous exclude each other", hint="a pinned policy follows nothing; leave --previous out")
    presented, here = pinned.read(path), stores.Store.create(site_of(site_file, store).store)
    folder = state or here.root
    if pin:
        return words.accepted(memory.pin(here, folder, presented, pin, now=moment(now)))
    old = pinned.read(previous).raw if previous else None
    return words.accepted(memory.accept(here, folder, presented, now=moment(now), previous=old))


@policies.command("show")
@command
def policy_show(
    stream: Annotated[str | None, typer.Argument(metavar="STREAM", help="Of which stream; of all when absent.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the file of that policy there.")] = None,
    site_file: SiteFile = None,
    store: StoreFolder = None,
    state: StateFolder = None,
    as_json: Json = False,
) -> Report:
    """Say in sentences what the policy in force here accepts."""
    here = stores.Store.existing(site_of(site_file, store).store)
    found = memory.policies(here, state or here.root, stream)
    if out:
        memory.export(found, out)
    return words.policies(found, moment(None), out)


@memories.command("show")
@command
def state_show(site_file: SiteFile = None, store: StoreFolder = None, state: StateFolder = None, as_json: Json = False) -> Report:
    """Show what is remembered of each stream, and whether the journal shows more."""
    here = stores.Store.existing(site_of(site_file, store).store)
    return words.remembered(state or here.root, memory.compared(here, state or here.root))


@memories.command("recover")
@command
def state_recover(
    site_file: SiteFile = None, store: StoreFolder = None, state: StateFolder = None, now: Now = None, as_json: Json = False
) -> Report:
    """Rebuild what was lost from the journal, whose chain is checked, and the receipts; says what it cannot know."""
    here = stores.Store.writable(site_of(site_file, store).store)
    return words.recovered(memory.recover(here, state or here.root, now=moment(now)))


@memories.command("forget")
@command
def state_forget(
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="The stream to forget.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; the journal keeps it.")],
    only_time: Annotated[
        bool, typer.Option("--only-time", help="Forget only the last time seen, for a clock that was wrong; serial and policy stay.")
    ] = False,
    site_file: SiteFile = None,
    store: StoreFolder = None,
    state: StateFolder = None,
    now: Now = None,
    as_json: Json = False,
) -> Report:
    """Forget a stream on purpose: its next bundle and policy are taken as the first ever."""
    here = stores.Store.writable(site_of(site_file, store).store)
    was, head = memory.forget(here, state or here.root, stream, reason, now=moment(now), only_time=only_time)
    return words.forgotten(stream, was, head, only_time=only_time)


def site_of(file: Path | None, store: Path | None) -> site.Site:
    """Return the site that the options name; ``store`` goes before what its file says."""
    here = site.load(file) if file else site.Site()
    return here.model_copy(update={"store": store.absolute()}) if store else here


def moment(text: str | None) -> datetime:
    """Return the time that ``--now`` names, else the time it is; raises UsageError."""
    if text is None:
        return datetime.now(UTC)
    try:
        return canonical.moment(text)
    except ValueError as error:
        raise UsageError(f"--now {text!r}: {error}", hint="write it in UTC") from None
