"""The mirrors of the first trade notice what is wrong with a stream."""

from __future__ import annotations

from decimal import Decimal

import pytest
from tidebook.engine.v1 import market_pb2, order_pb2, types_pb2
from tidebook.marketdata.v1 import marketdata_pb2 as pb

from examples.proving.checks import (
    AccountMirror,
    BookMirror,
    CheckFailed,
    Pair,
    PriceMirror,
    TradeMirror,
    check_fill,
    expected_funds,
    fee_of,
)

RULES = market_pb2.Market(
    base_asset="BTC",
    quote_asset="USDC",
    tick_size="0.01",
    lot_size="0.00001",
    maker_fee_bps=10,
    taker_fee_bps=20,
)


def book(
    seq: int, prev_seq: int, bids: dict[str, str], asks: dict[str, str], *, snapshot: bool = False
) -> pb.BookUpdate:
    return pb.BookUpdate(
        seq=seq,
        prev_seq=prev_seq,
        snapshot=snapshot,
        bids=[pb.Level(price=p, quantity=q) for p, q in bids.items()],
        asks=[pb.Level(price=p, quantity=q) for p, q in asks.items()],
    )


def begun() -> BookMirror:
    mirror = BookMirror("book")
    mirror.take(book(5, 0, {"99": "1"}, {"101": "2"}, snapshot=True))
    return mirror


def test_a_book_follows_its_deltas() -> None:
    mirror = begun()
    mirror.take(book(7, 5, {"99": "0", "98": "3"}, {"100.5": "1"}))
    assert mirror.levels(10) == ([("98", "3")], [("100.5", "1"), ("101", "2")])


@pytest.mark.parametrize(
    ("update", "why"),
    [
        (book(8, 6, {}, {}), "6 -> 8 after 5"),
        (book(5, 5, {}, {}), "5 -> 5 after 5"),
        (book(6, 5, {"101": "1"}, {}), "crossed"),
    ],
)
def test_a_book_that_missed_something_or_is_crossed_fails(update: pb.BookUpdate, why: str) -> None:
    with pytest.raises(CheckFailed, match=why):
        begun().take(update)


def test_a_wrong_checksum_fails() -> None:
    mirror = begun()
    update = book(6, 5, {"98": "1"}, {})
    update.checksum = 12345
    with pytest.raises(CheckFailed, match="checksum"):
        mirror.take(update)


def test_a_stream_without_a_snapshot_fails() -> None:
    with pytest.raises(CheckFailed, match="snapshot"):
        BookMirror("book").take(book(6, 5, {}, {}))
    with pytest.raises(CheckFailed, match="snapshot"):
        AccountMirror("account").take(order_pb2.WatchAccountResponse(seq=2, prev_seq=1))


def test_gaps_in_prices_trades_and_account_and_fills_told_twice_fail() -> None:
    prices = PriceMirror("prices")
    prices.take(pb.Price(market="A", seq=4))
    with pytest.raises(CheckFailed, match="A 5 -> 6 after 4"):
        prices.take(pb.Price(market="A", seq=6, prev_seq=5))
    trades = TradeMirror("trades")
    trades.take(pb.Trade(trade_id=3))
    with pytest.raises(CheckFailed, match="trade 5 after 3"):
        trades.take(pb.Trade(trade_id=5))
    account = AccountMirror("account")
    fill = order_pb2.Fill(market="A", trade_id=1)
    account.take(order_pb2.WatchAccountResponse(seq=2, snapshot=True))
    account.take(order_pb2.WatchAccountResponse(seq=4, prev_seq=2, fills=[fill]))
    with pytest.raises(CheckFailed, match="came twice"):
        account.take(order_pb2.WatchAccountResponse(seq=6, prev_seq=4, fills=[fill]))
    with pytest.raises(CheckFailed, match="4 -> 8 after 6"):
        account.take(order_pb2.WatchAccountResponse(seq=8, prev_seq=4))


def test_fees_are_rounded_up_to_the_next_unit() -> None:
    assert fee_of(Decimal("0.00000001"), 20) == Decimal("0.00000001")
    assert fee_of(Decimal(1000), 20) == Decimal(2)
    assert fee_of(Decimal(1000), -1) == Decimal("-0.1")


def test_a_fill_with_a_wrong_fee_fails() -> None:
    fill = order_pb2.Fill(price="100", quantity="2", notional="200", fee="0.4")
    check_fill(RULES, fill)
    fill.fee = "0.40000001"
    with pytest.raises(CheckFailed, match="a fee of 0"):
        check_fill(RULES, fill)


def test_funds_follow_from_deposits_fills_and_open_orders() -> None:
    bought = order_pb2.Fill(
        side=types_pb2.SIDE_BUY, price="100", quantity="1", notional="100", fee="0.2"
    )
    rests = order_pb2.Order(
        side=types_pb2.SIDE_BUY, price="100", quantity="1.5", filled_quantity="1"
    )
    offers = order_pb2.Order(side=types_pb2.SIDE_SELL, price="120", quantity="0.25")
    funds = expected_funds(RULES, {"USDC": Decimal(1000)}, [bought], [rests, offers])
    # 0.5 BTC at 100 and the taker's fee, which is exact for whole lots here.
    held = Decimal("50.1")
    assert funds == {
        "USDC": Pair(Decimal("899.8") - held, held),
        "BTC": Pair(Decimal("0.75"), Decimal("0.25")),
    }
