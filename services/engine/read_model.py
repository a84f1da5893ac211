"""The read model as bytes, beside the core's own snapshot.

Layout: the length of a JSON header, the header, then rows of little-endian integers: balances,
recently closed orders (each followed by its request as the log has it), live orders. What a live
order asked for is in the core's snapshot and shared with it. The header names the columns of the
rows, so bytes of a program with other columns are refused and never misread.
"""

from __future__ import annotations

import json
from operator import attrgetter
from struct import Struct
from typing import Final

from tidebook.engine.v1 import log_pb2

from services.engine import cfd_rows, logcodec, margin_rows
from services.engine.domain import commands as c
from services.engine.domain.exchange import Exchange
from services.engine.domain.record import field_names
from services.engine.projection import OrderState, Projection

_SIZE: Final = Struct("<Q")
_BALANCE: Final = Struct("<QIqq")
# By name, as `OrderState` takes them.
_COLUMNS: Final = tuple(sorted(name for name in field_names(OrderState) if name != "request"))
_ORDER: Final = Struct(f"<{len(_COLUMNS)}q")
_values: Final = attrgetter(*_COLUMNS)


def dump(projection: Projection, account_seqs: dict[int, int]) -> bytes:
    """All that readers may see; `account_seqs` are the positions of the private streams."""
    balances = [
        _BALANCE.pack(account_id, asset_id, balance.free_units, balance.held_units)
        for account_id, account in projection.accounts.items()
        for asset_id, balance in account.balances.items()
    ]
    closed: list[bytes] = []
    for order in projection.closed_orders():
        request = logcodec.encode_command(order.request).SerializeToString(deterministic=True)
        closed += [_row(order), _SIZE.pack(len(request)), request]
    live = [
        _row(order) for account in projection.accounts.values() for order in account.orders.values()
    ]
    header = {
        "columns": _COLUMNS,
        "seq": projection.seq,
        "time_ns": projection.time_ns,
        "log_hash": projection.log_hash.hex(),
        "market_status": list(projection.market_status.items()),
        "fees": list(projection.fees.items()),
        "account_seqs": list(account_seqs.items()),
        "contracts": cfd_rows.dump(projection.cfds),
        "margin": margin_rows.dump(projection.margin),
        "balances": len(balances),
        "closed": len(closed) // 3,
        "live": len(live),
    }
    text = json.dumps(header).encode()
    return b"".join([_SIZE.pack(len(text)), text, *balances, *closed, *live])


def load(data: bytes, exchange: Exchange, projection: Projection) -> dict[int, int]:
    """Fill an empty read model with what `dump` wrote beside a snapshot of `exchange`.

    Returns the positions of the private streams. Raises `ValueError`, before anything is filled,
    for bytes that another version wrote.
    """
    (size,) = _SIZE.unpack_from(data)
    at = _SIZE.size + size
    header = json.loads(data[_SIZE.size : at])
    if tuple(header["columns"]) != _COLUMNS or "margin" not in header:
        raise ValueError("the read model was written by another version of this program")
    projection.configure(
        c.Configure(
            assets=tuple(exchange.assets()),
            markets=tuple(view.config for view in exchange.markets()),
        )
    )
    projection.seq = header["seq"]
    projection.time_ns = header["time_ns"]
    projection.log_hash = bytes.fromhex(header["log_hash"])
    projection.market_status.update(header["market_status"])
    projection.fees.update(header["fees"])
    cfd_rows.load(header["contracts"], exchange, projection.cfds)
    margin_rows.load(header["margin"], projection.margin)
    end = at + header["balances"] * _BALANCE.size
    for account_id, asset_id, free, held in _BALANCE.iter_unpack(memoryview(data)[at:end]):
        balance = projection.account(account_id).balance(asset_id)
        balance.free_units = free
        balance.held_units = held
    at = end
    for _ in range(header["closed"]):
        row = _ORDER.unpack_from(data, at)
        at += _ORDER.size
        (size,) = _SIZE.unpack_from(data, at)
        at += _SIZE.size
        logged = log_pb2.LoggedCommand.FromString(data[at : at + size])
        at += size
        request = logcodec.decode_command(logged)
        assert isinstance(request, c.PlaceOrder)
        projection.add_closed(OrderState(*(*row, request)))
    end = at + header["live"] * _ORDER.size
    order_id_at = _COLUMNS.index("order_id")
    requests = exchange.live_requests()
    for row in _ORDER.iter_unpack(memoryview(data)[at:end]):
        projection.add_live(OrderState(*(*row, requests[row[order_id_at]])))
    if end != len(data):
        raise ValueError("the read model has bytes left over")
    return dict(header["account_seqs"])


def _row(order: OrderState) -> bytes:
    return _ORDER.pack(*_values(order))
