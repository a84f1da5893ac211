"""Postings sum to zero whatever the orders are, and give the balances that the core has."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidebook.engine.v1 import types_pb2
from tidebook.settlement.v1 import ledger_pb2

from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.settlement.codec import fold
from services.settlement.domain import facts, ledger
from services.settlement.domain.ledger import LedgerKind, Move
from services.settlement.store.transfers import Direction, TransferStatus
from tests.settlement.support import BTC, BTC_USDC, USDC, LogMaker

_ACCOUNTS = st.integers(11, 13)
_LOTS = st.integers(1, 400)
_PRICES = st.integers(4_999_950, 5_000_050)
_SIDES = st.sampled_from([k.SIDE_BUY, k.SIDE_SELL])

_limits = st.builds(
    lambda account, side, price, lots, tif, stp, post_only, shown: c.PlaceOrder(
        account,
        BTC_USDC,
        side=side,
        type=k.ORDER_TYPE_LIMIT,
        price_ticks=price,
        quantity_lots=lots,
        time_in_force=tif,
        self_trade_prevention=stp,
        post_only=post_only and tif == k.TIME_IN_FORCE_GTC,
        display_quantity_lots=min(shown, lots),
    ),
    _ACCOUNTS,
    _SIDES,
    _PRICES,
    _LOTS,
    st.sampled_from([k.TIME_IN_FORCE_GTC, k.TIME_IN_FORCE_IOC, k.TIME_IN_FORCE_FOK]),
    st.integers(0, 4),
    st.booleans(),
    st.just(0),
)
_markets = st.builds(
    lambda account, side, lots, amount: c.PlaceOrder(
        account,
        BTC_USDC,
        side=side,
        type=k.ORDER_TYPE_MARKET,
        quantity_lots=0 if amount else lots,
        quote_amount_units=amount,
        max_slippage_bps=500,
    ),
    _ACCOUNTS,
    _SIDES,
    _LOTS,
    st.sampled_from([0, 0, 37 * 10**8 + 1, 900 * 10**8]),
)
_cancels = st.builds(c.CancelOrder, _ACCOUNTS, st.integers(1, 40))
_amends = st.builds(
    lambda account, order, price, lots: c.AmendOrder(
        account, order, price_ticks=price, quantity_lots=lots
    ),
    _ACCOUNTS,
    st.integers(1, 40),
    st.one_of(st.just(0), _PRICES),
    st.one_of(st.just(0), _LOTS),
)
_transfers = st.builds(
    lambda account, asset, units: (account, asset, units),
    _ACCOUNTS,
    st.sampled_from([USDC, BTC]),
    st.integers(-(10**12), 10**12).filter(bool),
)
_flows = st.lists(
    st.lists(st.one_of(_limits, _limits, _markets, _cancels, _amends, _transfers), max_size=6),
    min_size=1,
    max_size=25,
)


@settings(max_examples=120, deadline=None)
@given(_flows)
def test_any_flow_of_orders_posts_zero_sums_and_the_balances_of_the_core(
    flow: list[list[c.Command | tuple[int, int, int]]],
) -> None:
    maker = LogMaker()
    records = [maker.begin(11, 12, 13)]
    for commands in flow:
        made = [maker.transfer(*x) if isinstance(x, tuple) else x for x in commands]
        if made:
            records.append(maker.entry(*made))
    # In two batches, because orders of the first are only changes to the second.
    half = len(records) // 2
    first, last = fold(records[:half], shard=0, last_command_seq=0, markets={})
    second, _ = fold(records[half:], shard=0, last_command_seq=last, markets=first.known)
    balances: dict[ledger.LedgerAccount, int] = defaultdict(int)
    filled: dict[int, int] = defaultdict(int)
    for batch in (first, second):
        for transaction in batch.transactions:
            ledger.check_zero_sum(transaction.postings)
            for account, amount, _ in transaction.postings:
                balances[account] += amount
                assert account.account_id == 0 or balances[account] >= 0
        for order_id, change in batch.order_changes.items():
            filled[order_id] += change.filled_lots
    clients = {key: units for key, units in balances.items() if key.account_id and units}
    assert clients == maker.balances()
    fees = {key.asset_id: n for key, n in balances.items() if key.kind is LedgerKind.FEES and n}
    assert fees == {asset: units for asset, units in maker.exchange.fees().items() if units}
    for account_id in (11, 12, 13):
        for order in maker.exchange.open_orders(account_id):
            assert filled[order.order_id] == order.filled_lots


def test_a_move_between_assets_is_refused() -> None:
    with pytest.raises(ValueError, match="one asset into another"):
        ledger.postings([Move(ledger.free(1, USDC), ledger.free(1, BTC), 5)])


def test_moves_that_cancel_out_post_nothing() -> None:
    there, back = ledger.free(1, USDC), ledger.held(1, USDC)
    assert ledger.postings([Move(there, back, 5), Move(back, there, 5)]) == []


@pytest.mark.parametrize(
    ("ours", "theirs", "prefix"),
    [
        (facts.Side, types_pb2.Side, "SIDE_"),
        (facts.OrderStatus, types_pb2.OrderStatus, "ORDER_STATUS_"),
        (facts.TransferKind, types_pb2.TransferKind, "TRANSFER_KIND_"),
        (TransferStatus, ledger_pb2.TransferStatus, "TRANSFER_STATUS_"),
        (Direction, ledger_pb2.TransferDirection, "TRANSFER_DIRECTION_"),
    ],
)
def test_stored_numbers_are_those_of_the_contracts(ours: type, theirs: type, prefix: str) -> None:
    for member in list(ours):  # type: ignore[call-overload]
        assert theirs.Value(prefix + member.name) == member  # type: ignore[attr-defined]
