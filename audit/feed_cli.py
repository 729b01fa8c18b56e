"""``airgap-audit feed``: newer vulnerability data for what is installed. Arguments in, one call, one report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.memory_cli import Now, SiteFile, StateFolder, StoreFolder, moment, site_of
from audit.terminal import Hashing, Json, Report, command, lazily

if TYPE_CHECKING:
    from audit import known_words as words
    from audit.install import feed
    from audit.install import store as stores
    from audit.verify import pinned
else:
    words, pinned = map(lazily, ("audit.known_words", "audit.verify.pinned"))
    feed, stores = map(lazily, ("audit.install.feed", "audit.install.store"))

feeds = typer.Typer(no_args_is_help=True, help="Newer vulnerability data for what is installed: bundles that hold nothing else.")


@feeds.command("import")
@command
def feed_import(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle that carries the data.")],
    policy: Annotated[Path, typer.Option("--policy", metavar="FILE", help="The policy this site pins for feeds, a stream of their own.")],
    copy: Annotated[bool, typer.Option("--copy", help="Copy bytes always, where else they would be shared with the bundle's.")] = False,
    site_file: SiteFile = None,
    store: StoreFolder = None,
    state: StateFolder = None,
    now: Now = None,
    as_json: Json = False,
) -> Report:
    """Prove a feed and keep it in place of the one before; `airgap-audit check` then compares what is installed with it."""
    presented, here = pinned.read(policy), site_of(site_file, store)
    place, link = stores.locate(bundle, stream=presented.policy.stream), not (copy or here.copy_files)
    with Hashing("proving") as watch:
        done = feed.import_(place, presented, here.store, now=moment(now), link=link, watch=watch, state_folder=state)
    return words.imported(done)


@feeds.command("list")
@command
def feed_list(site_file: SiteFile = None, store: StoreFolder = None, now: Now = None, as_json: Json = False) -> Report:
    """Show which vulnerability data this site has, from which bundle, and how old it is."""
    return words.listed(feed.held(stores.Store.existing(site_of(site_file, store).store)), moment(now))
