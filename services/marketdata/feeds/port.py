"""What a source of external prices is. What it gives is in `domain.prices`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kernel.money import parse_units
from kernel.reasons import Refused
from services.marketdata.domain.prices import FEED_DECIMALS, FeedEvent, FeedKind


class FeedSink(Protocol):
    """Who takes what a source gives."""

    def on_events(self, feed: Feed, events: Sequence[FeedEvent]) -> None:
        """Events in the order of the source."""
        ...


@dataclass(slots=True)
class FeedHealth:
    """How a source is doing; the source itself keeps it up to date."""

    connected: bool = False
    # For people: what it does or waits for.
    detail: str = "starting"
    bad_frames: int = 0
    reconnects: int = 0


class Feed(Protocol):
    """A source of external prices. `name` tells it from the others that run.

    `simulated` says that its prices are not a live market's. `late_ns` is how long after a moment
    (in source time) events of before it may still come.
    """

    kind: FeedKind
    name: str
    simulated: bool
    late_ns: int
    health: FeedHealth

    async def run(self, sink: FeedSink) -> None:
        """Give events until cancelled; returns only when the source has an end."""
        ...


class BadFrame(Exception):
    """Something a source sent that is not what its format says; it is dropped."""


def positive(text: object, field: str) -> int:
    """A decimal string above zero -> integer of 10**-8. Raises `BadFrame`."""
    if not isinstance(text, str):
        raise BadFrame(f"{field} is not a decimal")
    try:
        units = parse_units(text, FEED_DECIMALS, field=field)
    except Refused as refused:
        raise BadFrame(f"{field} {refused.message}") from None
    if units == 0:
        raise BadFrame(f"{field} is zero")
    return units
