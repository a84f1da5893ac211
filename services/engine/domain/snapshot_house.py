"""The house's part of a snapshot: its balances, open contracts, remembered client ids.

Triggers, counts and exposures follow from the open contracts and are not written.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from services.engine.domain.house import Cfd, RememberedCfd
from services.engine.domain.position_commands import OpenCfd
from services.engine.domain.state import State

_COUNTS: Final = Struct("<QQQQQ")
_BALANCE: Final = Struct("<Iq")
_CFD: Final = Struct("<QQIBqqIqqqIIqB")
_REMEMBERED: Final = Struct("<QqQIBqIqqB")


def dump(state: State, parts: list[bytes]) -> None:
    """Append the house; contracts by id, client ids of closed ones as they closed."""
    house = state.house
    balances = [entry for entry in sorted(house.balances.items()) if entry[1]]
    parts.append(
        _COUNTS.pack(
            house.last_cfd_id,
            state.last_liquidation_id,
            len(balances),
            len(house.cfds),
            len(house.window),
        )
    )
    parts.extend([_BALANCE.pack(asset_id, units) for asset_id, units in balances])
    for cfd_id, cfd in sorted(house.cfds.items()):
        remembered = cfd.remembered
        parts.append(
            _CFD.pack(
                cfd_id,
                cfd.account.account_id,
                cfd.book.market_id,
                cfd.side,
                cfd.entry_ticks,
                cfd.margin_units,
                cfd.leverage,
                cfd.liquidation_ticks,
                cfd.stop_loss_ticks,
                cfd.take_profit_ticks,
                cfd.maintenance_bps,
                cfd.fee_bps,
                cfd.opened_ns,
                remembered is not None,
            )
        )
        if remembered is not None:
            _dump_remembered(remembered, parts)
    for known in house.window:
        _dump_remembered(known, parts)


def load(state: State, body: bytes, at: int) -> int:
    """Take back what `dump` wrote at `at`; returns where it ends."""
    house = state.house
    house.last_cfd_id, state.last_liquidation_id, balances, cfds, window = _COUNTS.unpack_from(
        body, at
    )
    at += _COUNTS.size
    for _ in range(balances):
        asset_id, units = _BALANCE.unpack_from(body, at)
        at += _BALANCE.size
        house.balances[asset_id] = units
    for _ in range(cfds):
        fields = _CFD.unpack_from(body, at)
        at += _CFD.size
        cfd_id, account_id, market_id, side, entry, margin, leverage, liquidation = fields[:8]
        stop_loss, take_profit, maintenance_bps, fee_bps, opened_ns, remembered = fields[8:]
        cfd = Cfd(
            cfd_id,
            state.account(account_id),
            state.books[market_id],
            side,
            entry,
            margin,
            leverage,
            liquidation,
            stop_loss,
            take_profit,
            maintenance_bps,
            fee_bps,
            opened_ns,
        )
        house.add(cfd)
        if remembered:
            cfd.remembered, at = _load_remembered(body, at)
            house.remember(cfd.remembered)
    for _ in range(window):
        known, at = _load_remembered(body, at)
        house.window.append(known)
        house.remember(known)
    return at


def _dump_remembered(known: RememberedCfd, parts: list[bytes]) -> None:
    request = known.request
    client_cfd_id = request.client_cfd_id.encode()
    parts.append(
        _REMEMBERED.pack(
            known.cfd_id,
            known.closed_ns,
            request.account_id,
            request.market_id,
            request.side,
            request.margin_units,
            request.leverage,
            request.stop_loss_ticks,
            request.take_profit_ticks,
            len(client_cfd_id),
        )
    )
    parts.append(client_cfd_id)


def _load_remembered(body: bytes, at: int) -> tuple[RememberedCfd, int]:
    fields = _REMEMBERED.unpack_from(body, at)
    cfd_id, closed_ns, account_id, market_id, side, margin, leverage = fields[:7]
    stop_loss, take_profit, size = fields[7:]
    at += _REMEMBERED.size
    request = OpenCfd(
        account_id,
        market_id,
        body[at : at + size].decode(),
        side,
        margin,
        leverage,
        stop_loss,
        take_profit,
    )
    known = RememberedCfd(cfd_id, request)
    known.closed_ns = closed_ns
    return known, at + size
