"""Published books on the rows of `bench.support.workload`, under a Python of their own.

`python peer_loops.py NAME ROWS.pickle` prints one JSON object. It needs the standard library and
the peer only; what a peer takes as its input is made before the clock starts.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from collections.abc import Callable
from typing import Any

Result = tuple[float, int, int]


def lumina(rows: list[tuple[int, ...]]) -> Result:
    """lumina-lob: C++ behind Python. Its fills are read at once, at the end, as it offers them."""
    from lumina_lob import _core  # type: ignore[import-not-found,unused-ignore]

    sides = {0: None, 1: _core.Side.BID, 2: _core.Side.ASK}
    limit, market = _core.OrderType.LIMIT, _core.OrderType.MARKET
    calls = [
        (kind, order_id, sides[side], price or None, lots, limit if kind == 1 else market)
        for kind, order_id, _, side, price, lots in rows
    ]
    book = _core.OrderBook()
    process, cancel = _core.MatchingEngine(book).process, book.cancel
    began = time.process_time()
    for kind, order_id, side, price, lots, order_type in calls:
        if kind:
            process(order_id, side, price, lots, order_type)
        else:
            cancel(order_id)
    fills = len(book.trades())
    return time.process_time() - began, fills, len(book.orders())


def matching_engine(rows: list[tuple[int, ...]]) -> Result:
    """matching-engine: pure Python. Every command gives its events."""
    from matching_engine import domain as d  # type: ignore[import-not-found,unused-ignore]
    from matching_engine.engine import (  # type: ignore[import-not-found,unused-ignore]
        MatchingEngine,
    )

    sides = {1: d.Side.BUY, 2: d.Side.SELL}
    commands = []
    for seq, (kind, order_id, account_id, side, price, lots) in enumerate(rows, 1):
        if kind == 0:
            command = d.CancelOrder(order_id, account_id)
        elif kind == 1:
            command = d.NewOrder(order_id, account_id, sides[side], price, lots)
        else:
            command = d.NewOrder(
                *(order_id, account_id, sides[side], 0, lots),
                d.OrderType.MARKET,
                d.TimeInForce.IOC,
            )
        commands.append(d.SequencedCommand(seq, 0, command))
    engine = MatchingEngine()
    process = engine.process
    reported = 0
    began = time.process_time()
    for command in commands:
        reported += len(process(command))
    seconds = time.process_time() - began
    return seconds, engine.next_trade_id - 1, len(engine.book)


PEERS: dict[str, Callable[[list[tuple[int, ...]]], Result]] = {
    "lumina-lob": lumina,
    "matching-engine": matching_engine,
}


def main(name: str, path: str) -> None:
    """Run one peer."""
    with open(path, "rb") as file:
        rows: Any = pickle.load(file)
    seconds, trades, open_orders = PEERS[name](rows)
    result = {"seconds": seconds, "trades": trades, "open_orders": open_orders}
    print(json.dumps({**result, "python": sys.version.split()[0]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
