"""The log becomes ledger and history: all of it, once, in order, or not at all."""

from __future__ import annotations

from services.engine.domain import commands as c
from tests.settlement.support import LogMaker, Settlement, Wire, buy, sell
from tests.support import eventually


async def test_a_trade_settles_as_the_core_says(
    settlement: Settlement, maker: LogMaker, wire: Wire
) -> None:
    await wire.append(
        maker.begin(7, 8),
        maker.entry(sell(7, "50000", "0.5"), sell(7, "50010", "0.5", client_order_id="mine")),
        maker.entry(buy(8, "50020", "0.75"), c.CancelOrder(7, client_order_id="mine")),
    )
    async with settlement.following():
        await eventually(lambda: _at(settlement, maker.seq))
    await settlement.check_books(maker)
    orders = await settlement.pool.fetch("select * from orders order by order_id")
    assert [row["status"] for row in orders] == [4, 5, 4]
    assert [row["filled_lots"] for row in orders] == [50_000, 25_000, 75_000]
    assert orders[2]["filled_notional_units"] == 25_000 * 10**8 + 12_502_50000000
    assert await settlement.count("fills") == 4
    kinds = await settlement.pool.fetch("select kind, count(*) from ledger_transactions group by 1")
    # Four deposits, three holds, two trades, and the release of what the cancelled order held.
    assert {row[0]: row[1] for row in kinds} == {1: 4, 5: 3, 8: 2, 6: 1}


async def _at(settlement: Settlement, seq: int) -> bool:
    return await settlement.applied_seq() == seq
