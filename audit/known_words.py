"""What the commands about vulnerability data say: every result as data for programs and as text for people. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from audit.terminal import Report, counted, table
from audit.vulnerabilities import feeds
from audit.vulnerabilities.projection import as_json
from manifests import canonical
from manifests.errors import AirgapError
from manifests.paths import printable

if TYPE_CHECKING:
    from audit.install.feed import Imported
    from audit.vulnerabilities.feeds import Data
    from audit.vulnerabilities.result import Source, Vulnerabilities

NEXT = "`airgap-audit check` compares what is installed with it, `airgap-audit evidence` writes it down"
NO_FEED = "no vulnerability data: nothing that is installed here is compared with any; `airgap-audit feed import` brings some"
NOT_ASSESSED = "vulnerabilities: NOT ASSESSED, no vulnerability data came with the bundle or was imported at this site"


def imported(done: Imported) -> Report:
    """Tell which feed is kept now and what it replaced."""
    said = done.bundle.statement
    signers = ", ".join(signature.signer for signature in done.bundle.signatures)
    lines = [
        f"{'imported' if done.changed else 'unchanged'}: {', '.join(done.components)} of bundle {done.bundle.digest}",
        f"stream {said.stream}, serial {said.serial}, created {canonical.stamp(said.created)}, signed by {signers}",
        *(f"replaced {digest}" for digest in done.replaced),
        f"journal: {counted(done.journal.count, 'entry', many='entries')}, head {done.journal.sha256}",
        f"next: {NEXT}",
    ]
    data = {
        "bundle": str(done.bundle.digest),
        "changed": done.changed,
        "components": list(done.components),
        "journal": {"entries": done.journal.count, "head": done.journal.sha256},
        "replaced": list(done.replaced),
        "serial": said.serial,
        "stream": said.stream,
    }
    return Report(data, "\n".join(lines))


def listed(found: Iterable[Data], now: datetime) -> Report:
    """Tell which data there is and how old it is; 5 if there is none."""
    rows = [("feed", "covers", "data of", "age", "component", "bundle")]
    entries: list[dict[str, Any]] = []
    for data in found:
        try:
            described = feeds.listed(data)
        except AirgapError as error:
            entries.append({"bundle": data.bundle, "component": data.component.name, "problem": error.message})
            rows.append(("?", printable(error.message, 80), "", "", data.component.name, data.bundle[:19]))
            continue
        for feed in described:
            day = feed.as_of.date().isoformat() if feed.as_of else "unknown"
            age = counted((now - feed.as_of) // timedelta(days=1), "day") if feed.as_of else ""
            rows.append((feed.feed, feed.name, day, age, data.component.name, data.bundle[:19]))
            entries.append(
                {
                    "asOf": canonical.stamp(feed.as_of) if feed.as_of else None,
                    "bundle": data.bundle,
                    "component": data.component.name,
                    "feed": feed.feed,
                    "name": feed.name,
                }
            )
    return Report({"feeds": entries}, table(rows) if entries else NO_FEED, 0 if entries else 5)


def lines(found: Vulnerabilities) -> Iterator[str]:
    """Yield how a comparison ended, and how old the data is that it was made with."""
    if not found.consulted:
        yield NOT_ASSESSED
        return
    counts = found.counts
    open_ = [match for match in found.matches if match.stands]
    judged = len(found.matches) - len(open_)
    ruled = f", {judged} ruled out by VEX" if judged else ""
    yield (
        f"vulnerabilities: {counted(len(open_), 'match', many='matches')} in {counts['affected']} of {len(found.items)} packages{ruled}; "
        f"none known in {counts['none known']}; not assessed {counts['not assessed']}"
    )
    yield from (_source(source) for source in found.sources)


def data(found: Vulnerabilities) -> dict[str, Any]:
    """Return a comparison for ``--json``."""
    return as_json(found)


def _source(source: Source) -> str:
    day = source.as_of.date().isoformat() if source.as_of else "an unknown day"
    skipped = f", {source.skipped} NOT READ" if source.skipped else ""
    return f"  data: {source.feed} {source.name} of {day}, {counted(source.records, 'record')}{skipped}, from {source.bundle[:19]}"
