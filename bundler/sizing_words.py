"""What `plan` says of models and hardware: as data for programs and as text for people. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from audit.terminal import table
from bundler.sizing import Row, Sized, Unsized
from manifests import hardware
from manifests.costs import HOURS, Prices, Traffic, break_even, needed, per_million, published, requests_a_second, tokens_a_year
from manifests.hardware import Unservable
from manifests.intent import Serving
from manifests.sizing import Fit
from manifests.sizing import weights as weights_of

NOTHING_MEASURED = "how fast it will be: sizes are arithmetic, and throughput is what somebody published or you measured"
OUTPUT_TOKENS = 400
LOW_USE, HIGH_USE = 0.4, 0.6  # shares of a year in which output is written


def told(found: Iterable[Sized | Unsized], *, every: bool) -> tuple[list[str], list[dict[str, Any]], list[str]]:
    """Return lines, data, and what was not assessed; with ``every`` a row for all hardware, else for what was asked."""
    lines: list[str] = []
    unknown: list[str] = []
    listed: list[dict[str, Any]] = []
    for one in found:
        if isinstance(one, Unsized):
            unknown.append(f"whether {one.name} fits any accelerator: {one.reason}")
            listed.append({"name": one.name, "notAssessed": one.reason})
            continue
        lines += ["", *_lines(one, every=every or one.asked is None)]
        listed.append(_data(one))
        if one.stateful:
            unknown.append(f"the state that {one.stateful} layers of {one.body.name} keep for each request: of fixed size, and not counted")
    return lines, listed, unknown


def fits(found: Iterable[Sized | Unsized]) -> bool:
    """Say whether every model that could be sized fits what it was asked to fit."""
    return all(one.asked is None or one.asked.fits for one in found if isinstance(one, Sized))


@dataclass(frozen=True, slots=True)
class Costs:
    """What a load needs and costs: lines, data, and what was not assessed."""

    lines: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


NO_COSTS = Costs()


def costs(serving: Serving, prices: Prices, found: Iterable[Sized | Unsized]) -> Costs:
    """Return what a load needs and costs at prices, and published figures beside what follows from them."""
    names = [one.body.name for one in found if isinstance(one, Sized)]
    guessed = f"how fast {' and '.join(names)} is on this hardware: `tokens_per_second` of `serving` is what you measured"
    speed = serving.tokens_per_second or 2000.0
    of = "you measured" if serving.tokens_per_second else "published for one H200, a 70B dense model in bf16"
    tokens = serving.output_tokens or OUTPUT_TOKENS
    each = requests_a_second(speed, tokens)
    rate = f"{each:g} requests a second, {each * 3600:,.0f} an hour"
    lines = ["", f"load: {speed:g} tokens a second ({of}) at {tokens} tokens a request are {rate}"]
    data: dict[str, Any] = {"tokensPerSecond": speed, "requestsPerSecond": each}
    if serving.requests_per_second:
        count = needed(Traffic(serving.requests_per_second, tokens), speed)
        lines.append(f"      {serving.requests_per_second:g} requests a second at the 95th percentile, with 30 % headroom: {count} of them")
        data["needed"] = count
    low, high = (tokens_a_year(2 * speed, use) for use in (LOW_USE, HIGH_USE))
    ends = tuple(break_even(prices.owned, price) for price in (prices.api_high, prices.api_low))
    rented = [2 * HOURS * price for price in (prices.reserved_low, prices.reserved_high)]
    ways = {"owned": [prices.owned, prices.owned], "reserved in a cloud": rented}
    for way, (least, most) in ways.items():
        million = f"${per_million(least, high):.2f} to ${per_million(most, low):.2f} for a million output tokens"
        year = f"${least:,.0f}" if least == most else f"${least:,.0f} to ${most:,.0f}"
        lines.append(f"{way}: {year} a year, {million}, by two of them in use 40 to 60 % of the year")
    billions = f"{ends[0] / 1e9:.0f} to {ends[1] / 1e9:.0f} billion output tokens a year"
    lines.append(f"bought by an API: ${prices.api_low:g} to ${prices.api_high:g} for a million; owning costs less above {billions}")
    lines += ["", "published figures, beside what follows from their own numbers:"]
    lines.append(table([("what", "says", "follows", "why they differ"), *((p.what, p.says, p.gives, p.why) for p in published())]))
    data |= {"ownedPerYear": round(prices.owned), "powerPerYear": round(prices.power), "reservedPerYear": [round(cost) for cost in rented]}
    data |= {"breakEvenTokens": [round(end) for end in ends]}
    return Costs(tuple(lines), {"costs": data}, () if serving.tokens_per_second else (guessed,))


def _lines(one: Sized, *, every: bool) -> Iterator[str]:
    body, load = one.body, one.load
    weights = f"{body.parameters / 1e9:.1f} billion parameters, weights {_gb(body.size)} ({body.kind})"
    served = f"{load.concurrency} requests of {load.context:,} tokens at {8 * load.cache_bytes} bit"
    yield f"{body.name}: {weights}, KV cache {_gb(one.cache)} for {served}"
    if body.kind in {"bf16", "fp16"}:
        yield f"  quantised: weights {_gb(weights_of(body.parameters, 'fp8'))} at 8 bit, {_gb(weights_of(body.parameters, 'fp4'))} at 4 bit"
    if one.asked:
        yield f"  on {one.asked.count} x {one.asked.accelerator.name}: {_verdict(one.asked)}"
    if every:
        rows = [_row(row) for row in one.rows if not isinstance(row.hardware, Unservable)]
        yield table([("hardware", "one request", "the load", "on each", "layout"), *rows])
        yield from (f"  {row.hardware.name}: {row.hardware.reason}" for row in one.rows if isinstance(row.hardware, Unservable))
        yield f"  by the table of {hardware.as_of()}; 90 % of the memory is taken for the load, 2 GiB and activations are kept free on each"


def _verdict(fit: Fit) -> str:
    if fit.fits:
        return f"fits: {_gb(fit.needed)} of {_gb(fit.room)} on each, {_layout(fit)}"
    parts = f"weights {_gb(fit.weights)}, KV cache {_gb(fit.cache)}, reserve {_gb(fit.reserve)}"
    return f"WILL NOT RUN, because it needs {_gb(fit.needed)} on each ({parts}) and has {_gb(fit.room)}"


def _row(row: Row) -> tuple[str, ...]:
    floor = str(row.floor.count) if row.floor else "more than 64"
    if row.least is None:
        return row.hardware.name, floor, "more than 64", "", ""
    return row.hardware.name, floor, str(row.least.count), f"{_gb(row.least.needed)} of {_gb(row.least.room)}", _layout(row.least)


def _layout(fit: Fit) -> str:
    return f"tensor parallel {fit.tensor}" + (f", pipeline parallel {fit.pipeline}" if fit.pipeline > 1 else "")


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _data(one: Sized) -> dict[str, Any]:
    body, load = one.body, one.load
    return {
        "name": body.name,
        "parameters": body.parameters,
        "quantization": body.kind,
        "weightsBytes": body.size,
        "cacheBytes": one.cache,
        "context": load.context,
        "concurrency": load.concurrency,
        "asked": _fit(one.asked) if one.asked else None,
        "hardware": [_row_data(row) for row in one.rows],
    }


def _row_data(row: Row) -> dict[str, Any]:
    if isinstance(row.hardware, Unservable):
        return {"id": row.hardware.id, "servable": False, "reason": row.hardware.reason}
    return {
        "id": row.hardware.id,
        "servable": True,
        "floor": row.floor.count if row.floor else None,
        "load": _fit(row.least) if row.least else None,
        "servers": list(row.hardware.servers),
        "note": row.hardware.note,
    }


def _fit(fit: Fit) -> dict[str, Any]:
    return {
        "hardware": fit.accelerator.id,
        "count": fit.count,
        "tensorParallel": fit.tensor,
        "pipelineParallel": fit.pipeline,
        "neededBytes": fit.needed,
        "roomBytes": fit.room,
        "fits": fit.fits,
    }
