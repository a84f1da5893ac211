"""Orders and fills of a batch: those that live in one table, those that ended by month."""

from __future__ import annotations

from services.settlement.domain.batch import Batch
from services.settlement.domain.facts import OrderStatus
from services.settlement.domain.ledger import PoisonEntry
from services.settlement.domain.rows import NewOrder, OrderChange
from services.settlement.store.database import Connection

_FILL_COLUMNS = (
    "shard",
    "market_id",
    "trade_id",
    "maker",
    "account_id",
    "order_id",
    "side",
    "price_ticks",
    "quantity_lots",
    "notional_units",
    "fee_units",
    "time_ns",
    "log_seq",
)
_ORDER_COLUMNS = (
    "shard",
    "order_id",
    "account_id",
    "market_id",
    "client_order_id",
    "side",
    "type",
    "time_in_force",
    "status",
    "price_ticks",
    "quantity_lots",
    "quote_amount_units",
    "filled_lots",
    "filled_notional_units",
    "fees_units",
    "post_only",
    "reduce_only",
    "display_quantity_lots",
    "trigger_price_ticks",
    "trigger_source",
    "self_trade_prevention",
    "expire_ns",
    "close_reason",
    "created_ns",
    "updated_ns",
    "log_seq",
    "trailing_bps",
    "oco_order_id",
)
_ENDED = frozenset({OrderStatus.FILLED, OrderStatus.CANCELLED, OrderStatus.EXPIRED})
_CHANGES = (
    "unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],"
    " $8::bigint[], $9::smallint[], $10::smallint[], $11::bigint[])"
    " as c(id, filled, notional, fees, price, quantity, trigger, status, reason, updated)"
)
# What a change makes of the columns of an order `o`. A fill makes a live order partly filled, a
# trigger a waiting one open.
_CHANGED = {
    "filled_lots": "o.filled_lots + c.filled",
    "filled_notional_units": "o.filled_notional_units + c.notional",
    "fees_units": "o.fees_units + c.fees",
    "price_ticks": "coalesce(c.price, o.price_ticks)",
    "quantity_lots": "coalesce(c.quantity, o.quantity_lots)",
    "trigger_price_ticks": "coalesce(c.trigger, o.trigger_price_ticks)",
    "status": f"case when c.status in ({', '.join(str(int(s)) for s in sorted(_ENDED))})"
    f" then c.status when o.filled_lots + c.filled > 0 then {int(OrderStatus.PARTIALLY_FILLED)}"
    " else coalesce(c.status, o.status) end",
    "close_reason": "coalesce(c.reason, o.close_reason)",
    "updated_ns": "c.updated",
}
_UPDATE = (
    f"update open_orders o set {', '.join(f'{k} = {v}' for k, v in _CHANGED.items())}"
    f" from {_CHANGES} where o.shard = $1 and o.order_id = c.id"
)
_END = (
    f"with ended as (delete from open_orders o using {_CHANGES}"
    " where o.shard = $1 and o.order_id = c.id"
    f" returning {', '.join(_CHANGED.get(name, 'o.' + name) for name in _ORDER_COLUMNS)})"
    f" insert into closed_orders ({', '.join(_ORDER_COLUMNS)}) select * from ended"
)


async def write_history(connection: Connection, shard: int, batch: Batch) -> None:
    """Write the orders and fills of a batch; call it inside the transaction.

    Raises `PoisonEntry` when an order changes that is not open.
    """
    opened: list[tuple[object, ...]] = []
    closed: list[tuple[object, ...]] = []
    for order_id, order in batch.new_orders.items():
        change = batch.order_changes[order_id]
        rows = closed if change.status in _ENDED else opened
        rows.append(_order_row(shard, order, change))
    for table, rows in (("open_orders", opened), ("closed_orders", closed)):
        if rows:
            await connection.copy_records_to_table(table, records=rows, columns=_ORDER_COLUMNS)
    changed: dict[int, OrderChange] = {}
    ended: dict[int, OrderChange] = {}
    for order_id, change in batch.order_changes.items():
        if order_id not in batch.new_orders:
            (ended if change.status in _ENDED else changed)[order_id] = change
    await _change(connection, _UPDATE, shard, batch.log_seq, changed)
    await _change(connection, _END, shard, batch.log_seq, ended)
    if batch.fills:
        await connection.copy_records_to_table(
            "fills", records=[(shard, *fill) for fill in batch.fills], columns=_FILL_COLUMNS
        )


def _order_row(shard: int, order: NewOrder, change: OrderChange) -> tuple[object, ...]:
    placed, request, created_ns, log_seq = order
    trigger_ticks = placed.trigger_price_ticks
    status = change.status
    if status is None or status is OrderStatus.OPEN:
        waits = trigger_ticks > 0 and status is None
        live = OrderStatus.UNTRIGGERED if waits else OrderStatus.OPEN
        status = OrderStatus.PARTIALLY_FILLED if change.filled_lots else live
    return (
        shard,
        placed.order_id,
        placed.account_id,
        placed.market_id,
        request.client_order_id,
        placed.side,
        request.type,
        request.time_in_force,
        status,
        placed.price_ticks if change.price_ticks is None else change.price_ticks,
        placed.quantity_lots if change.quantity_lots is None else change.quantity_lots,
        request.quote_amount_units,
        change.filled_lots,
        change.filled_notional_units,
        change.fees_units,
        request.post_only,
        request.reduce_only,
        request.display_quantity_lots,
        trigger_ticks if change.trigger_price_ticks is None else change.trigger_price_ticks,
        request.trigger_source,
        request.self_trade_prevention,
        request.expire_ns,
        change.close_reason or 0,
        created_ns,
        change.updated_ns,
        log_seq,
        request.trailing_bps,
        placed.oco_order_id,
    )


async def _change(
    connection: Connection,
    statement: str,
    shard: int,
    log_seq: int,
    changes: dict[int, OrderChange],
) -> None:
    if not changes:
        return
    answer = await connection.execute(
        statement,
        shard,
        list(changes),
        [change.filled_lots for change in changes.values()],
        [change.filled_notional_units for change in changes.values()],
        [change.fees_units for change in changes.values()],
        [change.price_ticks for change in changes.values()],
        [change.quantity_lots for change in changes.values()],
        [change.trigger_price_ticks for change in changes.values()],
        [change.status for change in changes.values()],
        [change.close_reason for change in changes.values()],
        [change.updated_ns for change in changes.values()],
    )
    found = int(answer.rpartition(" ")[2])
    if found != len(changes):
        raise PoisonEntry(log_seq, f"{len(changes)} orders change, but only {found} are open")
