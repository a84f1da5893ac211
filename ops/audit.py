"""The independent second opinion of `tidebook verify`: the log's commands through the core again.

Works from the commands alone; what the log, the ledger and the history say is only compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from google.protobuf.message import DecodeError
from tidebook.engine.v1 import log_pb2

from kernel.shards import ids_before
from ops.audit_positions import At, PositionTrail
from services.engine import logcodec
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain.exchange import Exchange

# What an order asks for that no account placed: it ends a position, or what the fund carries.
_ENGINES_OWN = c.PlaceOrder(
    type=k.ORDER_TYPE_LIMIT, time_in_force=k.TIME_IN_FORCE_IOC, reduce_only=True
)


@dataclass(slots=True)
class OrderOutcome:
    """What became of an order, by the events of the replay: columns of `orders`; and what was asked
    for.
    """

    request: c.PlaceOrder
    account_id: int
    market_id: int
    side: int
    status: int
    price_ticks: int
    quantity_lots: int
    trigger_price_ticks: int
    oco_order_id: int
    created_ns: int
    updated_ns: int
    log_seq: int
    filled_lots: int = 0
    filled_notional_units: int = 0
    fees_units: int = 0
    close_reason: int = 0


class FillOutcome(NamedTuple):
    """One side of a trade of the replay: columns of `fills`."""

    account_id: int
    order_id: int
    side: int
    price_ticks: int
    quantity_lots: int
    notional_units: int
    fee_units: int
    time_ns: int
    log_seq: int


@dataclass
class Audit:
    """A replay of a shard's log under way; `apply` names everything that is not as it must be."""

    shard: int = 0
    exchange: Exchange = field(default_factory=Exchange)
    seq: int = 0
    commands: int = 0
    orders: dict[int, OrderOutcome] = field(default_factory=dict)
    # (market id, trade id, maker)
    fills: dict[tuple[int, int, bool], FillOutcome] = field(default_factory=dict)
    # Transfer id -> (account id, asset id, units)
    transfers: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    trades: dict[int, int] = field(default_factory=dict)
    positions: PositionTrail = field(default_factory=PositionTrail)
    # Once the replay gives something else than the log has, nothing after it means anything.
    failed: bool = False

    def apply(self, seq: int, payload: bytes) -> Iterator[str]:
        """Replay one entry; yields what differs from the record."""
        if self.failed:
            return
        try:
            for difference in self._apply(seq, payload):
                self.failed = True
                yield difference
        except (DecodeError, ValueError, KeyError) as error:
            self.failed = True
            yield f"entry {seq}: cannot be replayed: {error}"
        self.seq = seq

    def _apply(self, seq: int, payload: bytes) -> Iterator[str]:
        entry = log_pb2.LogEntry.FromString(payload)
        if entry.seq != seq:
            yield f"entry {seq}: says that it is entry {entry.seq}"
        events_before = 0
        for logged in entry.commands:
            command = logcodec.decode_command(logged)
            events = self.exchange.apply(command, entry.time_ns)
            self.commands += 1
            if logged.command_seq != self.exchange.last_command_seq:
                yield (
                    f"entry {seq}: command {logged.command_seq} is number"
                    f" {self.exchange.last_command_seq}"
                )
            again = log_pb2.LoggedCommand()
            logcodec.add_events(again, events)
            if list(again.events) != list(logged.events):
                yield f"entry {seq}: command {logged.command_seq} replays to other events"
            asked = _asked(command)
            for index, event in enumerate(events, start=events_before):
                at = At(seq, index, entry.time_ns)
                yield from self._follow(at, event, asked)
                self.positions.follow(at, event)
            events_before += len(events)

    def _follow(self, at: At, event: e.Event, asked: Iterator[c.PlaceOrder]) -> Iterator[str]:
        seq = at.log_seq
        if isinstance(event, e.OrderPlaced):
            expected = ids_before(self.shard) + len(self.orders) + 1
            if event.order_id != expected:
                yield f"entry {seq}: order id {event.order_id} in place of {expected}"
            waits = event.trigger_price_ticks > 0
            self.orders[event.order_id] = OrderOutcome(
                next(asked, _ENGINES_OWN),
                event.account_id,
                event.market_id,
                event.side,
                k.ORDER_STATUS_UNTRIGGERED if waits else k.ORDER_STATUS_OPEN,
                event.price_ticks,
                event.quantity_lots,
                event.trigger_price_ticks,
                event.oco_order_id,
                at.time_ns,
                at.time_ns,
                seq,
            )
        elif isinstance(event, e.Trade):
            expected = self.trades.get(event.market_id, 0) + 1
            if event.trade_id != expected:
                yield (
                    f"entry {seq}: trade id {event.trade_id} in place of {expected}"
                    f" in market {event.market_id}"
                )
            self.trades[event.market_id] = event.trade_id
            self._fill(at, event, True, event.maker_order_id, event.maker_fee_units)
            self._fill(at, event, False, event.taker_order_id, event.taker_fee_units)
        elif isinstance(event, e.OrderClosed):
            order = self._changed(at, event.order_id)
            order.status, order.close_reason = event.status, event.reason
        elif isinstance(event, e.OrderTriggered):
            self._changed(at, event.order_id).status = k.ORDER_STATUS_OPEN
        elif isinstance(event, e.OrderAmended):
            order = self._changed(at, event.order_id)
            order.price_ticks, order.quantity_lots = event.price_ticks, event.quantity_lots
            order.trigger_price_ticks = event.trigger_price_ticks or order.trigger_price_ticks
        elif isinstance(event, e.TransferApplied):
            if event.transfer_id in self.transfers:
                yield f"entry {seq}: transfer {event.transfer_id} is applied twice"
            self.transfers[event.transfer_id] = (
                event.account_id,
                event.asset_id,
                event.amount_units,
            )

    def _changed(self, at: At, order_id: int) -> OrderOutcome:
        order = self.orders[order_id]
        order.updated_ns = at.time_ns
        return order

    def _fill(self, at: At, event: e.Trade, maker: bool, order_id: int, fee_units: int) -> None:
        order = self._changed(at, order_id)
        order.status = k.ORDER_STATUS_PARTIALLY_FILLED
        order.filled_lots += event.quantity_lots
        order.filled_notional_units += event.notional_units
        order.fees_units += fee_units
        self.fills[event.market_id, event.trade_id, maker] = FillOutcome(
            order.account_id,
            order_id,
            order.side,
            event.price_ticks,
            event.quantity_lots,
            event.notional_units,
            fee_units,
            at.time_ns,
            at.log_seq,
        )

    def balances(self) -> dict[tuple[int, int, bool], int]:
        """(account id, asset id, held) -> units of the core, zeros left out."""
        found = {}
        for account_id in self.exchange.accounts():
            for asset_id, balance in self.exchange.account(account_id).items():
                found[account_id, asset_id, False] = balance.free_units
                found[account_id, asset_id, True] = balance.held_units
        return {key: units for key, units in found.items() if units}

    def conservation(self) -> Iterator[str]:
        """Per asset of the core: free + held + fees + house + clearing = what came in and stayed.

        The insurance fund is one of the accounts.
        """
        inside: dict[int, int] = defaultdict(int)
        core = self.exchange
        for totals in (core.fees(), core.house(), core.clearing()):
            for asset_id, units in totals.items():
                inside[asset_id] += units
        for (_, asset_id, _), units in self.balances().items():
            inside[asset_id] += units
        external = self.exchange.external()
        for asset_id in sorted(inside.keys() | external.keys()):
            have, came = inside.get(asset_id, 0), external.get(asset_id, 0)
            if have != came:
                yield f"asset {asset_id}: the core has {have} units, but {came} came in"


def _asked(command: c.Command) -> Iterator[c.PlaceOrder]:
    """The orders that a command asks for; they are placed first, in this order."""
    if isinstance(command, c.PlaceOrder):
        yield command
    elif isinstance(command, c.PlaceOco):
        yield command.first
        yield command.second
