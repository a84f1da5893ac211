"""Choosing leverage and adding margin."""

from __future__ import annotations

from typing import Final

from kernel.reasons import Reason, Refused
from services.engine.domain.book import Book
from services.engine.domain.events import CommandRepeated, Event
from services.engine.domain.placing import MAX_CLIENT_ID_LENGTH
from services.engine.domain.position_commands import AddMargin, SetLeverage
from services.engine.domain.position_events import LeverageChanged
from services.engine.domain.positions import (
    CAUSE_MARGIN_ADDED,
    Change,
    apply_change,
    leverage_of,
)
from services.engine.domain.state import State

# How many of an account's requests to add margin are remembered.
REQUESTS_REMEMBERED: Final = 100


def set_leverage(state: State, command: SetLeverage) -> list[Event]:
    """Choose the leverage of later orders. An open position keeps the margin it has.

    Raises `Refused`: MARKET_NOT_FOUND, UNSUPPORTED (not a MARGIN market), LEVERAGE_OUT_OF_RANGE,
    LEVERAGE_LOCKED while orders are open there, whose holds were worked out with the old one.
    """
    book = _margin_book(state, command.market_id)
    if command.account_id <= 0:
        raise Refused(Reason.INVALID_ARGUMENT, field="account_id")
    leverage = command.leverage
    if not 1 <= leverage <= book.config.max_leverage:
        raise Refused(Reason.LEVERAGE_OUT_OF_RANGE, field="leverage")
    account = state.account(command.account_id)
    if leverage != leverage_of(account, book.market_id):
        if account.orders.get(book.market_id):
            raise Refused(Reason.LEVERAGE_LOCKED, field="leverage")
        account.leverages[book.market_id] = leverage
        if leverage == 1:
            del account.leverages[book.market_id]
    return [LeverageChanged(command.account_id, book.market_id, leverage)]


def add_margin(state: State, command: AddMargin) -> list[Event]:
    """Move free balance into a position's margin, once per request id.

    Raises `Refused`: MARKET_NOT_FOUND, UNSUPPORTED, POSITION_NOT_FOUND, AMOUNT_INVALID,
    INSUFFICIENT_BALANCE, IDEMPOTENCY_CONFLICT.
    """
    book = _margin_book(state, command.market_id)
    amount = command.amount_units
    account = state.accounts.get(command.account_id)
    request_id = command.request_id
    if account is not None and request_id:
        known = account.margin_requests.get(request_id)
        if known == (book.market_id, amount):
            return [CommandRepeated(0, 0)]
        if known is not None:
            raise Refused(Reason.IDEMPOTENCY_CONFLICT, field="request_id")
    if len(request_id) > MAX_CLIENT_ID_LENGTH:
        raise Refused(Reason.INVALID_ARGUMENT, "is too long", field="request_id")
    position = account.positions.get(book.market_id) if account is not None else None
    if account is None or position is None:
        raise Refused(Reason.POSITION_NOT_FOUND, field="market_id")
    if amount <= 0:
        raise Refused(Reason.AMOUNT_INVALID, field="amount_units")
    if account.balance(book.quote_asset_id).free < amount:
        raise Refused(Reason.INSUFFICIENT_BALANCE, field="amount_units")

    if request_id:
        requests = account.margin_requests
        requests[request_id] = (book.market_id, amount)
        if len(requests) > REQUESTS_REMEMBERED:
            del requests[next(iter(requests))]
    events: list[Event] = []
    change = Change(
        position.quantity, position.entry_notional, position.margin + amount, amount, 0, 0
    )
    apply_change(state, position, change, 0, CAUSE_MARGIN_ADDED, events)
    return events


def _margin_book(state: State, market_id: int) -> Book:
    book = state.tradable_book(market_id)
    if not book.is_margin:
        raise Refused(Reason.UNSUPPORTED, "is for MARGIN markets", field="market_id")
    return book
