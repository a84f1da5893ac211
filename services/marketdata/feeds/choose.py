"""From the setting `TIDEBOOK_FEED` to sources of prices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs

from kernel.clock import Clock
from kernel.markets import Market
from services.marketdata.domain.prices import FeedKind, one_per_pair
from services.marketdata.feeds.backpack import REST_URL, WS_URL, BackpackFeed
from services.marketdata.feeds.port import Feed
from services.marketdata.feeds.replay import ReplayFeed
from services.marketdata.feeds.synthetic import DEFAULT_SEED, SyntheticFeed

_OPTIONS = {"backpack": {"ws", "rest"}, "replay": {"speed"}, "synthetic": set[str]()}


def make_feeds(spec: str, markets: Sequence[Market], clock: Clock) -> list[Feed]:
    """The feeds that `spec` names, divided by semicolons; the first is believed before the others.

    Raises `ValueError` with one line for people.
    """
    feeds: list[Feed] = []
    for one in spec.split(";"):
        feed = make_feed(one.strip(), markets, clock)
        number = sum(other.kind is feed.kind for other in feeds)
        if number:
            feed.name = f"{feed.name}-{number + 1}"
        feeds.append(feed)
    if len(feeds) > 1 and any(feed.kind is FeedKind.REPLAY for feed in feeds):
        raise ValueError("TIDEBOOK_FEED: a recording has a time of its own and must be alone")
    return feeds


def make_feed(spec: str, markets: Sequence[Market], clock: Clock) -> Feed:
    """The feed that `spec` names, for the pairs of these markets.

    `backpack[?ws=URL&rest=URL]`, `replay:FILE[,FILE...][?speed=N]` (1 is real time, 0 as fast as
    it can) or `synthetic[:SEED]`. Raises `ValueError` with one line for people.
    """
    what, _, query = spec.partition("?")
    kind, _, argument = what.partition(":")
    if kind not in _OPTIONS:
        raise ValueError(f"TIDEBOOK_FEED: there is no feed {kind!r}")
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    if unknown := options.keys() - _OPTIONS[kind]:
        raise ValueError(f"TIDEBOOK_FEED: {kind} has no option {', '.join(sorted(unknown))}")
    pairs = list(one_per_pair(markets))
    if kind == "backpack":
        return BackpackFeed(
            pairs, ws_url=options.get("ws", WS_URL), rest_url=options.get("rest", REST_URL)
        )
    if kind == "replay":
        paths = [Path(text) for text in argument.split(",") if text]
        if not paths:
            raise ValueError("TIDEBOOK_FEED: replay needs a file, replay:FILE.csv.gz")
        return ReplayFeed(paths, pairs, _speed(options.get("speed", "1")))
    if argument and not argument.isdecimal():
        raise ValueError("TIDEBOOK_FEED: the seed must be a whole number, synthetic:7")
    return SyntheticFeed(markets, clock, int(argument or DEFAULT_SEED))


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = -1.0
    if not 0 <= speed < float("inf"):
        raise ValueError("TIDEBOOK_FEED: speed must be 0 or a positive number")
    return speed
