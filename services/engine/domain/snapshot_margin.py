"""The margin part of a snapshot: positions, leverages, requests to add margin, clearing.

Liquidation prices follow from the positions and are not written.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from services.engine.domain.accounts import Account
from services.engine.domain.positions import Position, watch
from services.engine.domain.state import State

_COUNTS: Final = Struct("<QQQQ")
_UNITS: Final = Struct("<Iq")
_POSITION: Final = Struct("<QIqqqqqq")
_LEVERAGE: Final = Struct("<QII")
_REQUEST: Final = Struct("<QIqB")


def dump(state: State, accounts: dict[int, Account], parts: list[bytes]) -> None:
    """Append that of these accounts; positions and leverages by account, then market, requests as
    they came."""
    clearing = [entry for entry in sorted(state.clearing.items()) if entry[1]]
    positions = bytearray()
    leverages = bytearray()
    requests = bytearray()
    counts = [0, 0, 0]
    for account_id, account in sorted(accounts.items()):
        for market_id, position in sorted(account.positions.items()):
            counts[0] += 1
            positions += _POSITION.pack(
                account_id,
                market_id,
                position.quantity,
                position.entry_notional,
                position.margin,
                position.realised_pnl,
                position.fees,
                position.opened_ns,
            )
        for market_id, leverage in sorted(account.leverages.items()):
            counts[1] += 1
            leverages += _LEVERAGE.pack(account_id, market_id, leverage)
        for request_id, (market_id, units) in account.margin_requests.items():
            counts[2] += 1
            text = request_id.encode()
            requests += _REQUEST.pack(account_id, market_id, units, len(text)) + text
    parts.append(_COUNTS.pack(len(clearing), *counts))
    parts.extend([_UNITS.pack(asset_id, units) for asset_id, units in clearing])
    parts.append(bytes(positions + leverages + requests))


def load(state: State, body: bytes, at: int) -> int:
    """Take back what `dump` wrote at `at`; returns where it ends."""
    clearing, positions, leverages, requests = _COUNTS.unpack_from(body, at)
    at += _COUNTS.size
    for _ in range(clearing):
        asset_id, units = _UNITS.unpack_from(body, at)
        at += _UNITS.size
        state.clearing[asset_id] = units
    for _ in range(positions):
        account_id, market_id, quantity, entry, margin, pnl, fees, opened_ns = (
            _POSITION.unpack_from(body, at)
        )
        at += _POSITION.size
        position = Position(state.account(account_id), state.books[market_id], opened_ns)
        position.quantity = quantity
        position.entry_notional = entry
        position.margin = margin
        position.realised_pnl = pnl
        position.fees = fees
        position.account.positions[market_id] = position
        position.book.positions[account_id] = position
        watch(position)
    for _ in range(leverages):
        account_id, market_id, leverage = _LEVERAGE.unpack_from(body, at)
        at += _LEVERAGE.size
        state.account(account_id).leverages[market_id] = leverage
    for _ in range(requests):
        account_id, market_id, units, size = _REQUEST.unpack_from(body, at)
        at += _REQUEST.size
        request_id = body[at : at + size].decode()
        at += size
        state.account(account_id).margin_requests[request_id] = (market_id, units)
    return at
