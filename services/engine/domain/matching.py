"""Matching: a taker meets the other side of the book, best price first, oldest first.

Of an iceberg it meets the slice that is shown; the next slice waits at the back of the level, so a
taker that goes on comes to it after everybody who stood there.
"""

from __future__ import annotations

from services.engine.domain.book import Book, Order
from services.engine.domain.constants import SELF_TRADE_PREVENTION_CANCEL_MAKER, SIDE_BUY
from services.engine.domain.events import Event
from services.engine.domain.margin_matching import match_margin
from services.engine.domain.state import State
from services.engine.domain.trading import (
    AMOUNT_USED,
    EXHAUSTED,
    PREVENTED,
    count_fill,
    end_fill,
    prevent,
)


def match(state: State, taker: Order, now_ns: int, events: list[Event]) -> int:
    """Trade `taker` as far as its price allows; returns why it stopped. It does not rest here."""
    book = taker.book
    if book.is_margin:
        return match_margin(state, taker, now_ns, events)
    makers = book.opposite(taker.side)
    keys = makers.keys
    limit_key = taker.price_ticks * makers.sign
    by_amount = taker.request.quote_amount_units > 0
    while taker.remaining and keys and keys[-1] >= limit_key:
        maker = makers.levels[keys[-1]].head
        assert maker is not None
        wanted = taker.remaining
        if by_amount:
            wanted = min(wanted, lots_for_amount(book, taker, maker.price_ticks))
            if wanted == 0:
                return AMOUNT_USED
        quantity = maker.remaining - maker.hidden
        if quantity > wanted:
            quantity = wanted
        if maker.account is taker.account:
            if prevent(state, maker, taker, quantity, quantity == wanted, now_ns, events):
                return PREVENTED
            continue
        _trade(state, maker, taker, quantity, now_ns, events)
        if by_amount and quantity == wanted:
            return AMOUNT_USED
    return EXHAUSTED


def lots_for_amount(book: Book, taker: Order, price_ticks: int) -> int:
    """Lots at this price that what is left of a quote amount pays for (buy) or earns (sell).

    A buy pays the fee as well: n + ceil(n * bps / 10_000) <= amount, for whole numbers, is
    n * (10_000 + bps) <= amount * 10_000. A sell counts its proceeds before the fee.
    """
    lot_notional = price_ticks * book.units_per_tick_lot
    if taker.side == SIDE_BUY:
        return taker.amount_left * 10_000 // (lot_notional * (10_000 + book.taker_fee_bps))
    return taker.amount_left // lot_notional


def can_fill(
    book: Book, taker_side: int, price_ticks: int, lots: int, owner: int, mode: int
) -> bool:
    """Whether a FOK order would fill whole.

    Makers of the same account never count; unless they alone are cancelled, meeting one ends the
    taker. Hidden slices count, but are met only after all that the level shows.
    """
    makers = book.opposite(taker_side)
    limit_key = price_ticks * makers.sign
    for key in reversed(makers.keys):
        if key < limit_key:
            return False
        hidden = 0
        maker = makers.levels[key].head
        while maker is not None:
            if maker.account.account_id != owner:
                lots -= maker.remaining - maker.hidden
                hidden += maker.hidden
                if lots <= 0:
                    return True
            elif mode != SELF_TRADE_PREVENTION_CANCEL_MAKER:
                return False
            maker = maker.next
        lots -= hidden
        if lots <= 0:
            return True
    return False


def _trade(
    state: State, maker: Order, taker: Order, quantity: int, now_ns: int, events: list[Event]
) -> None:
    """One fill at the maker's price: money, quantities, the event; a filled maker is closed."""
    book = taker.book
    price_ticks = maker.price_ticks
    notional = price_ticks * quantity * book.units_per_tick_lot
    base_units = quantity * book.lot_size_units
    # Rounded up: a fee against its payer, a rebate (negative) towards zero.
    maker_fee = -(-notional * maker.maker_fee_bps // 10_000)
    taker_fee = -(-notional * book.taker_fee_bps // 10_000)
    if taker.side == SIDE_BUY:
        buyer = taker
        seller = maker
        buyer_fee = taker_fee
        seller_fee = maker_fee
    else:
        buyer = maker
        seller = taker
        buyer_fee = maker_fee
        seller_fee = taker_fee
    quote_taken = quantity * buyer.hold_per_lot
    if taker.request.quote_amount_units:
        if buyer is taker:
            quote_taken = notional + buyer_fee
            taker.amount_left -= quote_taken
        else:
            taker.amount_left -= notional
    balance = buyer.hold_balance
    balance.held -= quote_taken
    balance.free += quote_taken - notional - buyer_fee
    buyer.account.balance(book.base_asset_id).free += base_units
    seller.hold_balance.held -= base_units
    seller.account.balance(book.quote_asset_id).free += notional - seller_fee
    state.fees[book.quote_asset_id] += maker_fee + taker_fee
    count_fill(
        maker,
        taker,
        quantity,
        notional,
        maker_fee,
        taker_fee,
        quote_taken,
        base_units,
        now_ns,
        events,
    )
    end_fill(state, maker, taker, now_ns, events)
