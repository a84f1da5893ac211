"""Margin positions, CFDs and liquidations: the books balance, and tell what happened."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from tidebook.engine.v1 import types_pb2

from mesh.log import LogRecord
from services.settlement import history
from services.settlement.catalog import Catalog
from services.settlement.codec import fold
from services.settlement.domain import ledger
from services.settlement.domain.ledger import LedgerKind
from services.settlement.domain.rows import MarketKind
from services.settlement.store import reading
from services.settlement.store.pages import Span
from tests.settlement.margin_log import CFD, MARGIN, MarginLog
from tests.settlement.support import Settlement, Wire

_ACCOUNTS = (11, 12, 13)
_steps = st.lists(
    st.tuples(
        st.sampled_from(["trade", "trade", "trade", "margin", "liquidate", "open", "close", "set"]),
        st.integers(0, 2),
        st.integers(1, 2),
        st.integers(90, 110),
        st.integers(1, 40),
    ),
    max_size=40,
)


def _record(log: MarginLog, step: tuple[str, int, int, int, int]) -> LogRecord | None:
    """What a step makes of the log; None when it makes no sense where the log is."""
    what, one, other, price, size = step
    account_id = _ACCOUNTS[one]
    cfd_id = min(log.cfds, default=0)
    if what == "trade":
        return log.trade(account_id, _ACCOUNTS[(one + other) % 3], price, size)
    if what == "margin":
        return log.add_margin(account_id, size) if log.positions[account_id].lots else None
    if what == "liquidate":
        return log.liquidate(account_id, price, size) if log.positions[account_id].lots else None
    if what == "open":
        return log.open_cfd(account_id, 1000 * size, size)
    if not cfd_id:
        return None
    if what == "set":
        return log.set_triggers(cfd_id, price)
    return log.close_cfd(cfd_id, (price - 100) * 2000, size)


def _flatten(log: MarginLog) -> list[LogRecord]:
    """Trades at one price until nobody has a position."""
    records = []
    while any(position.lots for position in log.positions.values()):
        by_lots = sorted(log.positions.items(), key=lambda item: item[1].lots)
        (short, low), (long, high) = by_lots[0], by_lots[-1]
        records.append(log.trade(short, long, 100, min(-low.lots, high.lots)))
    return records


@settings(max_examples=100, deadline=None)
@given(_steps)
def test_any_flow_of_margin_events_posts_zero_sums_and_clears(
    steps: list[tuple[str, int, int, int, int]],
) -> None:
    log = MarginLog()
    records = [log.begin(*_ACCOUNTS)]
    records += [record for step in steps if (record := _record(log, step)) is not None]
    split = len(records)
    balances = _posted(records)
    assert balances == log.balances()
    flat = _flatten(log)
    last, _ = fold(records[:1], shard=0, last_command_seq=0, markets={})
    after, _ = fold(flat, shard=0, last_command_seq=split, markets=last.known)
    for account, units in after.balance_deltas().items():
        balances[tuple(account)] = balances.get(tuple(account), 0) + units
    assert {key: units for key, units in balances.items() if units} == log.balances()
    assert not any(units for key, units in balances.items() if key[2] == LedgerKind.CLEARING)


def _posted(records: list[LogRecord]) -> dict[Any, int]:
    """Balances by the postings alone, each transaction checked; nothing is ever below zero that
    must not be, and inside and outside are the same at every transaction.
    """
    batch, _ = fold(records, shard=0, last_command_seq=0, markets={})
    balances: dict[Any, int] = defaultdict(int)
    for transaction in batch.transactions:
        ledger.check_zero_sum(transaction.postings)
        for account, amount, _ in transaction.postings:
            balances[tuple(account)] += amount
        for key, units in balances.items():
            assert units >= 0 or key[2] in (
                LedgerKind.HOUSE,
                LedgerKind.CLEARING,
                LedgerKind.DEPOSITS,
            )
    return {key: units for key, units in balances.items() if units}


async def test_positions_cfds_and_liquidations_are_kept_with_what_they_paid(
    settlement: Settlement, wire: Wire, redis: Redis
) -> None:
    log, chance = MarginLog(), random.Random(5)
    records = [log.begin(*_ACCOUNTS)]
    kinds = ["trade"] * 6 + ["margin", "liquidate", "open", "open", "set", "close"]
    while len(records) < 150:
        step = (
            chance.choice(kinds),
            chance.randrange(3),
            chance.randint(1, 2),
            chance.randint(90, 110),
            chance.randint(1, 40),
        )
        if (record := _record(log, step)) is not None:
            records.append(record)
    records += _flatten(log)
    await wire.append(*records)
    await settlement.settle(log)
    rows = await settlement.pool.fetch(
        "select account_id, asset_id, kind, balance from ledger_accounts where balance <> 0"
    )
    assert {tuple(row)[:3]: int(row["balance"]) for row in rows} == log.balances()
    rows = await settlement.pool.fetch(
        "select account_id, realised_pnl_units, fees_units, liquidated from closed_positions"
        " order by log_seq, event_index"
    )
    assert [tuple(row) for row in rows] == log.closed
    assert await settlement.count("open_positions") == 0
    assert await settlement.count("open_cfds") == len(log.cfds)
    assert await settlement.count("closed_cfds") == log.cfd_id - len(log.cfds)
    assert await settlement.count("liquidations") == log.liquidation_id
    wrong = await settlement.pool.fetch(
        "select * from closed_positions where realised_pnl_units <>"
        " sign(opened_lots) * (closed_notional_units - opened_notional_units)"
    )
    assert not wrong


async def test_a_position_and_a_cfd_read_as_a_trader_would_tell_them(
    settlement: Settlement, wire: Wire
) -> None:
    log = MarginLog()
    await wire.append(
        log.begin(11, 12),
        log.trade(11, 12, 100, 10),
        log.trade(11, 12, 110, 10),
        # Both turn round at once: the long of twenty ends, a short of five begins.
        log.trade(12, 11, 120, 25),
        log.open_cfd(11, 5000 * 10**6, 5),
        log.set_triggers(1, 23_650),
        log.close_cfd(1, 445 * 10**6, 3),
        log.liquidate(12, 121, 4),
    )
    await settlement.settle(log)
    catalog = Catalog(settlement.pool)
    page: Any = {"market_id": None, "span": Span(), "before": None, "limit": 10}
    async with settlement.pool.acquire() as connection:
        (row,) = await reading.list_positions(connection, 11, **page)
        (cfd_row,) = await reading.list_cfds(connection, 11, **page | {"market_id": CFD})
        assert not await reading.list_cfds(connection, 11, **page | {"market_id": MARGIN})
        (receipt_row,) = await reading.list_liquidations(connection, 12, **page)
    position = await history.position_to_proto(catalog, row)
    assert (position.market, position.opened_quantity) == ("BTC_USDC_MARGIN", "0.0002")
    assert (position.entry_notional, position.exit_notional) == ("0.000021", "0.000024")
    assert (position.realised_pnl, position.fees) == ("0.000003", "0.00000021")
    assert position.log_seq == 4 and not position.liquidated
    cfd = await history.cfd_to_proto(catalog, cfd_row)
    assert (cfd.side, cfd.stop_loss, cfd.margin) == (types_pb2.SIDE_SELL, "236.5", "50")
    assert (cfd.realised_pnl, cfd.fees) == ("4.45", "0.00000008")
    assert cfd.returned == "54.44999997"
    assert cfd.close_reason == types_pb2.CFD_CLOSE_REASON_USER
    receipt = await history.liquidation_to_proto(catalog, receipt_row)
    assert (receipt.quantity, receipt.fund_quantity) == ("0.00005", "0.00005")
    assert (receipt.fund_change, receipt.deleveraged_quantity) == ("0.00000004", "0.00002")


def test_the_market_kinds_are_those_of_the_contract() -> None:
    assert {kind.name: kind.value for kind in MarketKind} == {
        name.removeprefix("MARKET_KIND_"): number
        for name, number in types_pb2.MarketKind.items()
        if number
    }
