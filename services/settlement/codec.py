"""Protobuf <-> what settlement works with."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable

from google.protobuf.message import DecodeError
from tidebook.engine.v1 import log_pb2, types_pb2

from mesh.log import LogRecord
from services.settlement.domain import margin
from services.settlement.domain.batch import Batch
from services.settlement.domain.ledger import PoisonEntry
from services.settlement.domain.rows import AssetRow, MarketRow, TracedCommand

# Events without money or history in them. An event that is neither here nor handled below is not
# passed over: it may move money in a way that this version knows nothing of.
_WITHOUT_EFFECT = frozenset(
    {
        "command_repeated",
        "epoch_began",
        "market_status_changed",
        "orders_cancelled",
        "order_replenished",
        "leverage_changed",
        "prices_set",
        "cancel_all_after_set",
        "time_passed",
    }
)

# Events that are folded at once.
_STEP_EVENTS = 100
_PLACING = frozenset({"place_order", "place_oco"})

# What an order asks for that no account placed.
_ENGINES_OWN = log_pb2.PlaceOrderCommand(
    type=types_pb2.ORDER_TYPE_LIMIT,
    time_in_force=types_pb2.TIME_IN_FORCE_IOC,
    reduce_only=True,
)


def decode_entry(record: LogRecord, shard: int) -> log_pb2.LogEntry:
    """The entry in a log record. Raises `PoisonEntry` when it is not one, or of another place."""
    try:
        entry = log_pb2.LogEntry.FromString(record.payload)
    except DecodeError as error:
        raise PoisonEntry(record.seq, "is not a LogEntry") from error
    if (entry.seq, entry.shard) != (record.seq, shard):
        raise PoisonEntry(record.seq, f"says it is entry {entry.seq} of shard {entry.shard}")
    return entry


def fold(
    records: Iterable[LogRecord],
    *,
    shard: int,
    last_command_seq: int,
    markets: dict[int, MarketRow],
) -> tuple[Batch, int]:
    """Log records -> the batch of their effects, and the last command number in them.

    `markets` are those configured before, by id. Raises `PoisonEntry`; nothing of such a batch may
    be kept.
    """
    steps = folding(records, shard=shard, last_command_seq=last_command_seq, markets=markets)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: tuple[Batch, int] = end.value
            return result


def folding(
    records: Iterable[LogRecord],
    *,
    shard: int,
    last_command_seq: int,
    markets: dict[int, MarketRow],
) -> Generator[None, None, tuple[Batch, int]]:
    """`fold` in steps of about a millisecond, for one who has other things to do."""
    batch = Batch(dict(markets))
    for record in records:
        entry = decode_entry(record, shard)
        batch.begin_entry(entry.seq, entry.time_ns)
        step_ends = _STEP_EVENTS
        last_span_id = b""
        for command in entry.commands:
            last_command_seq += 1
            if command.command_seq != last_command_seq:
                raise PoisonEntry(
                    entry.seq, f"command {command.command_seq} in place of {last_command_seq}"
                )
            order_id = 0
            kind = command.WhichOneof("command") or ""
            try:
                for event in command.events:
                    order_id = _apply(batch, kind, command, event) or order_id
                    batch.event_index += 1
                    if batch.event_index == step_ends:
                        step_ends += _STEP_EVENTS
                        yield
            except ValueError as error:
                raise PoisonEntry(entry.seq, f"command {last_command_seq}: {error}") from error
            span_id = command.span_id
            # Those of one message have one span, and all that is said of it is the same.
            if span_id and span_id != last_span_id and command.trace_id:
                last_span_id = span_id
                batch.traced.append(
                    TracedCommand(command.trace_id, span_id, entry.seq, order_id, entry.taken_ns)
                )
        yield
    return batch, last_command_seq


def _apply(batch: Batch, kind: str, command: log_pb2.LoggedCommand, event: log_pb2.Event) -> int:
    """Apply one event of a command of that kind; the order that the command is about, 0 if the
    event names none.
    """
    name = event.WhichOneof("event")
    if name == "order_placed":
        return _order_placed(batch, kind, command, event.order_placed)
    if name == "trade":
        batch.trade(event.trade)
        return 0
    if name == "order_closed":
        closed = event.order_closed
        batch.order_closed(closed)
        # Of a placed order, its own end comes last; a maker it closed must not take its name.
        return 0 if kind in _PLACING else closed.order_id
    if name == "command_refused":
        if kind == "transfer":
            batch.transfer_refused(command.transfer.transfer_id, event.command_refused.reason)
        return 0
    if name in _WITHOUT_EFFECT:
        return 0
    handler = _RARE.get(name or "")
    if handler is None:
        raise ValueError(f"event {name or 'without content'} is not known here")
    return handler(batch, command, event)


def _order_placed(
    batch: Batch, kind: str, command: log_pb2.LoggedCommand, placed: log_pb2.OrderPlaced
) -> int:
    if kind == "place_oco" and placed.oco_order_id:
        # The first order is placed first, and the second names it.
        pair = command.place_oco
        of_second = placed.oco_order_id < placed.order_id
        batch.order_placed(placed, pair.second if of_second else pair.first)
    elif kind == "place_order" and command.events[0].order_placed.order_id == placed.order_id:
        batch.order_placed(placed, command.place_order)
    else:
        # The engine's own: it liquidates a position, or offers what the insurance fund carries.
        batch.order_placed(placed, _ENGINES_OWN)
        return 0
    return placed.order_id


def _configured(batch: Batch, command: log_pb2.LoggedCommand, _: log_pb2.Event) -> int:
    batch.configured(
        (
            AssetRow(asset.asset_id, asset.code, asset.decimals, asset.transfer_decimals)
            for asset in command.configure.assets
        ),
        (
            MarketRow(
                market_id=market.market_id,
                name=market.name,
                kind=market.kind,
                base_asset_id=market.base_asset_id,
                quote_asset_id=market.quote_asset_id,
                tick_size_units=market.tick_size_units,
                lot_size_units=market.lot_size_units,
            )
            for market in command.configure.markets
        ),
    )
    return 0


def _transfer_applied(batch: Batch, _: log_pb2.LoggedCommand, event: log_pb2.Event) -> int:
    batch.transfer_applied(event.transfer_applied)
    return 0


def _order_amended(batch: Batch, command: log_pb2.LoggedCommand, event: log_pb2.Event) -> int:
    batch.order_amended(event.order_amended)
    # Prevention and pairs change orders that the command is not about.
    return event.order_amended.order_id if command.HasField("amend_order") else 0


def _order_triggered(batch: Batch, _: log_pb2.LoggedCommand, event: log_pb2.Event) -> int:
    batch.order_triggered(event.order_triggered)
    return 0


def _position_changed(batch: Batch, _: log_pb2.LoggedCommand, event: log_pb2.Event) -> int:
    margin.position_changed(batch, event.position_changed)
    return 0


def _cfd_opened(batch: Batch, _: log_pb2.LoggedCommand, event: log_pb2.Event) -> int:
    margin.cfd_opened(batch, event.cfd_opened)
    return 0


def _cfd_closed(batch: Batch, _: log_pb2.LoggedCommand, event: log_pb2.Event) -> int:
    margin.cfd_closed(batch, event.cfd_closed)
    return 0


def _cfd_triggers(batch: Batch, _: log_pb2.LoggedCommand, event: log_pb2.Event) -> int:
    margin.cfd_triggers_changed(batch, event.cfd_triggers_changed)
    return 0


def _liquidated(batch: Batch, _: log_pb2.LoggedCommand, event: log_pb2.Event) -> int:
    margin.liquidated(batch, event.liquidated)
    return 0


_RARE: dict[str, Callable[[Batch, log_pb2.LoggedCommand, log_pb2.Event], int]] = {
    "configured": _configured,
    "transfer_applied": _transfer_applied,
    "order_amended": _order_amended,
    "order_triggered": _order_triggered,
    "position_changed": _position_changed,
    "cfd_opened": _cfd_opened,
    "cfd_closed": _cfd_closed,
    "cfd_triggers_changed": _cfd_triggers,
    "liquidated": _liquidated,
}
