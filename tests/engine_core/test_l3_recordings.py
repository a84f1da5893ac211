"""Real order flow through the core, against the books that were recorded with it."""

from __future__ import annotations

import csv
import itertools
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain.views import BookView, LevelView
from tests.support.recordings import Replay, recording, text_lines

_SEEN = 20  # levels of a side in a Bitstamp snapshot

# ---------------------------------------------------------------- Nasdaq, Databento MBO -> MBP-10


def _shown(levels: tuple[LevelView, ...]) -> list[tuple[int, int, int]]:
    """(price, quantity, orders) of ten levels, zeros where there are none."""
    shown = [(level.price_ticks, level.quantity_lots, len(level.orders)) for level in levels[:10]]
    return shown + [(0, 0, 0)] * (10 - len(shown))


def _expected(row: dict[str, str], side: str, replay: Replay) -> list[tuple[int, int, int]]:
    return [
        (
            replay.ticks(row[f"{side}_px_{n:02}"]),
            int(row[f"{side}_sz_{n:02}"]),
            int(row[f"{side}_ct_{n:02}"]),
        )
        for n in range(10)
    ]


def _key(row: dict[str, str]) -> tuple[str, str, str]:
    return row["ts_event"], row["sequence"], row["order_id"]


def _trades(events: Sequence[e.Event]) -> list[tuple[int, int, int]]:
    return [
        (event.maker_order_id, event.price_ticks, event.quantity_lots)
        for event in events
        if isinstance(event, e.Trade)
    ]


def _apply_nasdaq(replay: Replay, row: dict[str, str], fill: dict[str, str]) -> None:
    """One row; `fill` is the row after it, which for a trade names the order that was hit."""
    action, order = row["action"], int(row["order_id"])
    if action == "R":
        replay.cancel_everything()
    elif action == "A":
        added = replay.add(order, row["side"] == "B", _plain(row["price"]), row["size"])
        assert not _trades(added), "an order that was recorded as resting traded"
    elif action == "T" and row["side"] != "N":
        assert fill["action"] == "F"
        taken = replay.add(
            -1,
            row["side"] == "B",
            _plain(row["price"]),
            row["size"],
            time_in_force=k.TIME_IN_FORCE_IOC,
        )
        maker = replay.ids[int(fill["order_id"])][1]
        assert _trades(taken) == [(maker, replay.ticks(fill["price"]), int(fill["size"]))]
    elif action == "C":
        # Behind its fill the recording takes an order down; matching has done so already.
        replay.reduce_to(order, replay.open_lots(order) - int(row["size"]))


def _plain(price: str) -> str:
    return price.rstrip("0").rstrip(".")


def test_a_day_of_nasdaq_gives_the_recorded_book_after_every_row() -> None:
    rows = list(csv.DictReader(text_lines(recording("l3/arl_xnas_20250717_mbo.csv.gz"))))
    expected: dict[tuple[str, str, str], list[dict[str, str]]] = defaultdict(list)
    for row in csv.DictReader(text_lines(recording("l3/arl_xnas_20250717_mbp10.csv.gz"))):
        expected[_key(row)].append(row)
    replay = Replay("0.0001", "1", quote_decimals=8, base_decimals=0)
    compared = fills = 0
    filled = ""
    for row, after in itertools.pairwise([*rows, {"action": ""}]):
        if row["action"] == "F":
            filled = row["order_id"]
            fills += 1
        elif row["action"] == "C" and row["order_id"] == filled:
            filled = ""
        else:
            _apply_nasdaq(replay, row, after)
        wanted = expected.get(_key(row))
        if wanted:
            book = replay.book()
            want = wanted.pop(0)
            assert _shown(book.bids) == _expected(want, "bid", replay), row
            assert _shown(book.asks) == _expected(want, "ask", replay), row
            compared += 1
    assert (compared, fills) == (3_928, 11)
    assert not any(expected.values()), "rows of the expected book were never reached"
    replay.exchange.check_invariants()


# ---------------------------------------------------------------- Bitstamp


class _Bitstamp:
    """Events race the snapshots by some milliseconds, and orders older than the recording are only
    known as part of a level: those are one order a level, the seed.
    """

    def __init__(self) -> None:
        self.replay = Replay("0.01", "0.00000001", quote_decimals=10, base_decimals=8)

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Created, changed or deleted; `amount` is what remains."""
        replay = self.replay
        order, buys = data["id"], data["order_type"] == 0
        if kind == "order_created":
            replay.add(order, buys, data["price"], data["amount"])
            return
        open_lots = replay.open_lots(order)
        lots = replay.market.parse_quantity(data["amount"])
        if kind == "order_changed":
            if open_lots:
                replay.reduce_to(order, lots)
        elif open_lots:
            replay.reduce_to(order, 0)
        elif order not in replay.ids and lots:
            seed = self._seed(buys, data["price"])
            if replay.open_lots(seed):
                replay.reduce_to(seed, max(replay.open_lots(seed) - lots, 0))

    def seed(self, snapshot: dict[str, list[list[str]]], book: BookView) -> None:
        """Make the book, which is `book` now, what the snapshot says, as far as that goes."""
        replay = self.replay
        missing: list[tuple[bool, str, str]] = []
        for buys in (True, False):
            wanted = snapshot["bids" if buys else "asks"]
            by_ticks = {replay.ticks(price): (price, amount) for price, amount in wanted}
            last = replay.ticks(wanted[-1][0])
            for level in book.bids if buys else book.asks:
                price, amount = by_ticks.get(level.price_ticks, ("", "0"))
                if level.quantity_lots == replay.market.parse_quantity(amount):
                    del by_ticks[level.price_ticks]
                elif price or (level.price_ticks > last if buys else level.price_ticks < last):
                    self._empty(level)
            missing += [(buys, price, amount) for price, amount in by_ticks.values()]
        for buys, price, amount in missing:
            replay.add(self._seed(buys, price), buys, price, amount)

    def _empty(self, level: LevelView) -> None:
        for resting in level.orders:
            order = self.replay.recorded[resting.order_id]
            self.replay.reduce_to(order, 0)
            # What the feed still says of it is about a part of the seed from now on.
            del self.replay.ids[order]

    def _seed(self, buys: bool, price: str) -> int:
        """An id the recording does not use."""
        return -2 * self.replay.ticks(price) - int(buys)

    def agrees(self, snapshot: dict[str, list[list[str]]], depth: int, book: BookView) -> bool:
        """Whether the best levels of both sides are those of the snapshot."""
        replay = self.replay
        return all(
            [(level.price_ticks, level.quantity_lots) for level in levels[:depth]]
            == [(replay.ticks(p), replay.market.parse_quantity(a)) for p, a in wanted[:depth]]
            for levels, wanted in (
                (book.bids, snapshot["bids"]),
                (book.asks, snapshot["asks"]),
            )
        )


def test_five_hours_of_bitstamp_give_the_recorded_books() -> None:
    bitstamp = _Bitstamp()
    agreed = {1: 0, 5: 0, 10: 0}
    snapshots = 0
    for line in text_lines(recording("l3/bitstamp_btcusd_20150501_events.log.gz")):
        _, kind, text = line.split(" ", 2)
        data = json.loads(text)
        if kind == "order_book":
            assert len(data["bids"]) == len(data["asks"]) == _SEEN
            book = bitstamp.replay.book()
            if snapshots:
                for depth in agreed:
                    agreed[depth] += bitstamp.agrees(data, depth, book)
            snapshots += 1
            bitstamp.seed(data, book)
        elif kind != "trade" and snapshots:
            bitstamp.event(kind, data)
    bitstamp.replay.exchange.check_invariants()
    compared = snapshots - 1
    assert compared == 5_010
    shares = {depth: round(100 * count / compared, 1) for depth, count in agreed.items()}
    assert shares[1] >= 99.5
    assert shares[5] >= 99.0
    assert shares[10] >= 98.5
