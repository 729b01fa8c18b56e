"""How many accelerators a load needs, and what a token costs: owned, reserved in a cloud, or bought by an API, at the user's own prices.

Arithmetic over figures that somebody else measured or charges: tokens per second are published or the user's, never ours. Where a published
result does not follow from its own figures, ``PUBLISHED`` has both and why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from manifests.lock import Frozen

HOURS = 8760  # of a year
SECONDS = 3600
HEADROOM = 0.3  # above the load at the 95th percentile


@dataclass(frozen=True, slots=True)
class Traffic:
    """What comes at the 95th percentile: requests per second, output tokens of each."""

    requests: float
    tokens: float = 400


def _price(default: float, words: str, *, least: float = 0) -> Any:
    return Field(default=default, ge=least, le=1e12, strict=False, description=words)


class Prices(Frozen):
    """What owning, reserving and buying cost, in one currency; the defaults are the published figures for two H200."""

    capital: float = _price(150_000, "all machines")
    years: float = _price(3, "over which they are written off", least=0.1)
    kilowatts: float = _price(2, "what they draw")
    kilowatt_hour: float = _price(0.12, "price of electricity")
    pue: float = _price(1.4, "power usage effectiveness: what the building draws for each kilowatt of machines", least=1)
    place: float = _price(11_500, "rack space a year")
    people: float = _price(0.2, "full-time people")
    person: float = _price(250_000, "one of them a year")
    reserved_low: float = _price(4.5, "an accelerator an hour, reserved in a cloud")
    reserved_high: float = _price(6.5, "the same, at most")
    api_low: float = _price(0.5, "a million output tokens by an API", least=0.001)
    api_high: float = _price(2.5, "the same, at most", least=0.001)

    @property
    def power(self) -> float:
        """Return what electricity costs a year."""
        return self.kilowatts * HOURS * self.kilowatt_hour * self.pue

    @property
    def owned(self) -> float:
        """Return what owning costs a year."""
        return self.capital / self.years + self.power + self.place + self.people * self.person


def requests_a_second(tokens_a_second: float, tokens: float) -> float:
    """Return how many requests of ``tokens`` output tokens an accelerator ends in a second."""
    return tokens_a_second / tokens


def needed(traffic: Traffic, tokens_a_second: float, headroom: float = HEADROOM) -> int:
    """Return how many accelerators (or groups of them, if one model needs several) the load needs, with headroom."""
    return max(1, math.ceil(round(traffic.requests * traffic.tokens * (1 + headroom) / tokens_a_second, 9)))


def tokens_a_year(tokens_a_second: float, use: float) -> float:
    """Return output tokens of a year at a share of time in use (0 to 1)."""
    return tokens_a_second * HOURS * SECONDS * use


def per_million(cost_a_year: float, tokens: float) -> float:
    """Return what a million tokens cost."""
    return cost_a_year / tokens * 1e6


def break_even(cost_a_year: float, api_price: float) -> float:
    """Return the output tokens a year above which owning is cheaper than an API at ``api_price`` a million."""
    return cost_a_year / api_price * 1e6


@dataclass(frozen=True, slots=True)
class Published:
    """A published figure: what it says, what its own figures give, and why they differ, where they do."""

    what: str
    says: str
    gives: str
    why: str = ""


def published() -> tuple[Published, ...]:
    """Return the figures of a guide to self-hosting (reviewed 2026-04-19) for two owned H200, beside what follows from them."""
    prices, both, each = Prices(), 4000.0, requests_a_second(2000, 400)
    low, high = tokens_a_year(both, 0.4), tokens_a_year(both, 0.6)
    reserved = tuple(2 * HOURS * price for price in (prices.reserved_low, prices.reserved_high))
    ends = tuple(break_even(120_000, price) for price in (prices.api_high, prices.api_low))
    return (
        Published("requests of one H200", "5 a second, 18,000 an hour", f"{each:g} a second, {each * SECONDS:,.0f} an hour"),
        Published(
            "power of a year", "about $2,100", f"${prices.power:,.0f}",
            f"the published figure leaves the PUE of {prices.pue} out: ${prices.power / prices.pue:,.0f} without it",
        ),
        Published("owning for a year", "about $120,000", f"${prices.owned:,.0f}", "with the middle of each published range"),
        Published("output tokens of a year", "50-75 billion at 40-60 % use", f"{low / 1e9:.0f}-{high / 1e9:.0f} billion"),
        Published(
            "a million output tokens, owned", "about $2.00", f"${per_million(prices.owned, high):.2f}-{per_million(prices.owned, low):.2f}"
        ),
        Published(
            "reserved for a year", "about $220,000", f"${reserved[0]:,.0f}-{reserved[1]:,.0f}",
            "two accelerators at $4.50-6.50 an hour; the published sum fits four or five of them, and nothing says so",
        ),
        Published(
            "break-even with an API", "10-30 billion tokens a year", f"{ends[0] / 1e9:.0f}-{ends[1] / 1e9:.0f} billion",
            "$120,000 at $0.50-2.50 a million; the published figure would need an API at $4-12 a million",
        ),
    )  # fmt: skip
