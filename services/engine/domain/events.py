"""What happened: the events of log.proto as plain records.

Fields, units and zero meanings are those of the messages of the same name in
`proto/tidebook/engine/v1/log.proto`. Balances follow from events alone; the comment of each message
there says how.
"""

# ruff: noqa: RUF023 - fields stand in the order of their numbers in the proto

from __future__ import annotations

from services.engine.domain.record import Record


class Event(Record):
    """One fact."""

    __slots__ = ()


class CommandRefused(Event):
    """Why a command was refused."""

    __slots__ = ("reason", "field")

    def __init__(self, reason: int, field: str) -> None:
        self.reason = reason
        self.field = field


class CommandRepeated(Event):
    """The command was a repetition: same key, same payload. The original answer stands."""

    __slots__ = ("order_id", "transfer_id", "cfd_id")

    def __init__(self, order_id: int, transfer_id: int, cfd_id: int = 0) -> None:
        self.order_id = order_id
        self.transfer_id = transfer_id
        self.cfd_id = cfd_id


class Configured(Event):
    """How many assets and markets are known now."""

    __slots__ = ("assets", "markets")

    def __init__(self, assets: int, markets: int) -> None:
        self.assets = assets
        self.markets = markets


class EpochBegan(Event):
    """A writer took over."""

    __slots__ = ("epoch",)

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch


class TransferApplied(Event):
    """free += amount_units; the other side is the external account of the asset."""

    __slots__ = ("transfer_id", "account_id", "asset_id", "amount_units", "kind")

    def __init__(
        self, transfer_id: int, account_id: int, asset_id: int, amount_units: int, kind: int
    ) -> None:
        self.transfer_id = transfer_id
        self.account_id = account_id
        self.asset_id = asset_id
        self.amount_units = amount_units
        self.kind = kind


class OrderPlaced(Event):
    """free -= hold_units, held += hold_units."""

    __slots__ = (
        "order_id",
        "account_id",
        "market_id",
        "hold_asset_id",
        "hold_units",
        "rested_lots",
        "price_ticks",
        "side",
        "quantity_lots",
        "trigger_price_ticks",
        "oco_order_id",
    )

    def __init__(
        self,
        order_id: int,
        account_id: int,
        market_id: int,
        hold_asset_id: int,
        hold_units: int,
        rested_lots: int,
        price_ticks: int,
        side: int,
        quantity_lots: int,
        trigger_price_ticks: int = 0,
        oco_order_id: int = 0,
    ) -> None:
        self.order_id = order_id
        self.account_id = account_id
        self.market_id = market_id
        self.hold_asset_id = hold_asset_id
        self.hold_units = hold_units
        self.rested_lots = rested_lots
        self.price_ticks = price_ticks
        self.side = side
        self.quantity_lots = quantity_lots
        self.trigger_price_ticks = trigger_price_ticks
        self.oco_order_id = oco_order_id


class Trade(Event):
    """Maker and taker traded at the maker's price.

    Buyer: held -= quote_hold_taken, free quote += quote_hold_taken - notional - buyer fee, free
    base += base_units. Seller: held base -= base_units, free quote += notional - seller fee.
    """

    __slots__ = (
        "trade_id",
        "market_id",
        "price_ticks",
        "quantity_lots",
        "taker_side",
        "maker_order_id",
        "maker_account_id",
        "taker_order_id",
        "taker_account_id",
        "maker_fee_units",
        "taker_fee_units",
        "quote_hold_taken",
        "notional_units",
        "base_units",
    )

    def __init__(
        self,
        trade_id: int,
        market_id: int,
        price_ticks: int,
        quantity_lots: int,
        taker_side: int,
        maker_order_id: int,
        maker_account_id: int,
        taker_order_id: int,
        taker_account_id: int,
        maker_fee_units: int,
        taker_fee_units: int,
        quote_hold_taken: int,
        notional_units: int,
        base_units: int,
    ) -> None:
        self.trade_id = trade_id
        self.market_id = market_id
        self.price_ticks = price_ticks
        self.quantity_lots = quantity_lots
        self.taker_side = taker_side
        self.maker_order_id = maker_order_id
        self.maker_account_id = maker_account_id
        self.taker_order_id = taker_order_id
        self.taker_account_id = taker_account_id
        self.maker_fee_units = maker_fee_units
        self.taker_fee_units = taker_fee_units
        self.quote_hold_taken = quote_hold_taken
        self.notional_units = notional_units
        self.base_units = base_units


class OrderClosed(Event):
    """held -= hold_released, free += hold_released."""

    __slots__ = (
        "order_id",
        "account_id",
        "market_id",
        "status",
        "reason",
        "hold_released",
        "remaining_lots",
        "removed_lots",
        "price_ticks",
        "side",
        "hold_asset_id",
    )

    def __init__(
        self,
        order_id: int,
        account_id: int,
        market_id: int,
        status: int,
        reason: int,
        hold_released: int,
        remaining_lots: int,
        removed_lots: int,
        price_ticks: int,
        side: int,
        hold_asset_id: int,
    ) -> None:
        self.order_id = order_id
        self.account_id = account_id
        self.market_id = market_id
        self.status = status
        self.reason = reason
        self.hold_released = hold_released
        self.remaining_lots = remaining_lots
        self.removed_lots = removed_lots
        self.price_ticks = price_ticks
        self.side = side
        self.hold_asset_id = hold_asset_id


class OrderAmended(Event):
    """free -= hold_delta, held += hold_delta (either sign)."""

    __slots__ = (
        "order_id",
        "account_id",
        "market_id",
        "side",
        "old_price_ticks",
        "old_rested_lots",
        "price_ticks",
        "quantity_lots",
        "rested_lots",
        "hold_delta",
        "hold_asset_id",
        "lost_priority",
        "trigger_price_ticks",
    )

    def __init__(
        self,
        order_id: int,
        account_id: int,
        market_id: int,
        side: int,
        old_price_ticks: int,
        old_rested_lots: int,
        price_ticks: int,
        quantity_lots: int,
        rested_lots: int,
        hold_delta: int,
        hold_asset_id: int,
        lost_priority: bool,
        trigger_price_ticks: int = 0,
    ) -> None:
        self.order_id = order_id
        self.account_id = account_id
        self.market_id = market_id
        self.side = side
        self.old_price_ticks = old_price_ticks
        self.old_rested_lots = old_rested_lots
        self.price_ticks = price_ticks
        self.quantity_lots = quantity_lots
        self.rested_lots = rested_lots
        self.hold_delta = hold_delta
        self.hold_asset_id = hold_asset_id
        self.lost_priority = lost_priority
        self.trigger_price_ticks = trigger_price_ticks


class MarketStatusChanged(Event):
    """A market's new status."""

    __slots__ = ("market_id", "status")

    def __init__(self, market_id: int, status: int) -> None:
        self.market_id = market_id
        self.status = status


class OrdersCancelled(Event):
    """How many orders a cancel-all ended; each has its own OrderClosed before this."""

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count


class CancelAllAfterSet(Event):
    """The dead man's switch was armed, moved or disarmed (`at_ns` 0, also after it fired)."""

    __slots__ = ("account_id", "at_ns")

    def __init__(self, account_id: int, at_ns: int) -> None:
        self.account_id = account_id
        self.at_ns = at_ns


class TimePassed(Event):
    """A tick was applied."""

    __slots__ = ("expired",)

    def __init__(self, expired: int) -> None:
        self.expired = expired


class OrderReplenished(Event):
    """The next slice of an iceberg, at the back of its level."""

    __slots__ = ("order_id", "market_id", "displayed_lots", "price_ticks", "side", "account_id")

    def __init__(
        self,
        order_id: int,
        market_id: int,
        displayed_lots: int,
        price_ticks: int,
        side: int,
        account_id: int,
    ) -> None:
        self.order_id = order_id
        self.market_id = market_id
        self.displayed_lots = displayed_lots
        self.price_ticks = price_ticks
        self.side = side
        self.account_id = account_id


class OrderTriggered(Event):
    """A stop became an ordinary order. free -= hold_delta, held += hold_delta."""

    __slots__ = (
        "order_id",
        "account_id",
        "market_id",
        "trigger_price_ticks",
        "side",
        "price_ticks",
        "rested_lots",
        "hold_delta",
        "hold_asset_id",
    )

    def __init__(
        self,
        order_id: int,
        account_id: int,
        market_id: int,
        trigger_price_ticks: int,
        side: int,
        price_ticks: int,
        rested_lots: int,
        hold_delta: int,
        hold_asset_id: int,
    ) -> None:
        self.order_id = order_id
        self.account_id = account_id
        self.market_id = market_id
        self.trigger_price_ticks = trigger_price_ticks
        self.side = side
        self.price_ticks = price_ticks
        self.rested_lots = rested_lots
        self.hold_delta = hold_delta
        self.hold_asset_id = hold_asset_id


class PricesSet(Event):
    """External prices in force; counts the markets that moved."""

    __slots__ = ("count",)

    def __init__(
        self,
        count: int,
    ) -> None:
        self.count = count
