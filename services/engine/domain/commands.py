"""What the exchange can be asked to do: the commands of log.proto as plain records.

Fields, units and zero meanings are those of the messages of the same name (with `Command` added) in
`proto/tidebook/engine/v1/log.proto`. `account_id` is who acts (0 for the system itself);
`deadline_ns` the latest time at which the command may still be applied, 0 for none.
"""

# ruff: noqa: RUF023 - fields stand in the order of their numbers in the proto

from __future__ import annotations

from services.engine.domain.record import Record


class Command(Record):
    """A command, who sends it, and until when it is worth applying."""

    __slots__ = ("account_id", "deadline_ns")

    account_id: int
    deadline_ns: int


class AssetConfig(Record):
    """An asset in integers."""

    __slots__ = ("asset_id", "code", "decimals", "transfer_decimals")

    def __init__(
        self, asset_id: int = 0, code: str = "", decimals: int = 0, transfer_decimals: int = 0
    ) -> None:
        self.asset_id = asset_id
        self.code = code
        self.decimals = decimals
        self.transfer_decimals = transfer_decimals


class MarginTierConfig(Record):
    """Maintenance margin from an entry notional on."""

    __slots__ = ("from_notional_units", "maintenance_bps", "max_leverage")

    def __init__(
        self,
        from_notional_units: int = 0,
        maintenance_bps: int = 0,
        max_leverage: int = 0,
    ) -> None:
        self.from_notional_units = from_notional_units
        self.maintenance_bps = maintenance_bps
        self.max_leverage = max_leverage


class MarketConfig(Record):
    """A market in integers."""

    __slots__ = (
        "market_id",
        "name",
        "kind",
        "base_asset_id",
        "quote_asset_id",
        "tick_size_units",
        "lot_size_units",
        "units_per_tick_lot",
        "min_quantity_lots",
        "max_quantity_lots",
        "min_notional_units",
        "max_notional_units",
        "max_price_ticks",
        "maker_fee_bps",
        "taker_fee_bps",
        "max_open_orders",
        "max_leverage",
        "margin_tiers",
        "liquidation_fee_bps",
        "price_stale_ns",
        "price_band_bps",
        "max_exposure_units",
    )

    def __init__(
        self,
        market_id: int = 0,
        name: str = "",
        kind: int = 0,
        base_asset_id: int = 0,
        quote_asset_id: int = 0,
        tick_size_units: int = 0,
        lot_size_units: int = 0,
        units_per_tick_lot: int = 0,
        min_quantity_lots: int = 0,
        max_quantity_lots: int = 0,
        min_notional_units: int = 0,
        max_notional_units: int = 0,
        max_price_ticks: int = 0,
        maker_fee_bps: int = 0,
        taker_fee_bps: int = 0,
        max_open_orders: int = 0,
        max_leverage: int = 0,
        margin_tiers: tuple[MarginTierConfig, ...] = (),
        liquidation_fee_bps: int = 0,
        price_stale_ns: int = 0,
        price_band_bps: int = 0,
        max_exposure_units: int = 0,
    ) -> None:
        self.market_id = market_id
        self.name = name
        self.kind = kind
        self.base_asset_id = base_asset_id
        self.quote_asset_id = quote_asset_id
        self.tick_size_units = tick_size_units
        self.lot_size_units = lot_size_units
        self.units_per_tick_lot = units_per_tick_lot
        self.min_quantity_lots = min_quantity_lots
        self.max_quantity_lots = max_quantity_lots
        self.min_notional_units = min_notional_units
        self.max_notional_units = max_notional_units
        self.max_price_ticks = max_price_ticks
        self.maker_fee_bps = maker_fee_bps
        self.taker_fee_bps = taker_fee_bps
        self.max_open_orders = max_open_orders
        self.max_leverage = max_leverage
        self.margin_tiers = margin_tiers
        self.liquidation_fee_bps = liquidation_fee_bps
        self.price_stale_ns = price_stale_ns
        self.price_band_bps = price_band_bps
        self.max_exposure_units = max_exposure_units


class Configure(Command):
    """Assets and markets, complete; written when the configuration differs from the log's."""

    __slots__ = ("assets", "markets")

    def __init__(
        self,
        account_id: int = 0,
        assets: tuple[AssetConfig, ...] = (),
        markets: tuple[MarketConfig, ...] = (),
        deadline_ns: int = 0,
    ) -> None:
        self.account_id = account_id
        self.deadline_ns = deadline_ns
        self.assets = assets
        self.markets = markets


class BeginEpoch(Command):
    """The first command of a writer."""

    __slots__ = ("epoch", "writer", "shard")

    def __init__(
        self,
        account_id: int = 0,
        epoch: int = 0,
        writer: str = "",
        deadline_ns: int = 0,
        shard: int = 0,
    ) -> None:
        self.account_id = account_id
        self.deadline_ns = deadline_ns
        self.epoch = epoch
        self.writer = writer
        self.shard = shard


class Transfer(Command):
    """Money enters or leaves the trading balance."""

    __slots__ = ("transfer_id", "asset_id", "amount_units", "kind")

    def __init__(
        self,
        account_id: int = 0,
        transfer_id: int = 0,
        asset_id: int = 0,
        amount_units: int = 0,
        kind: int = 0,
        deadline_ns: int = 0,
    ) -> None:
        self.account_id = account_id
        self.deadline_ns = deadline_ns
        self.transfer_id = transfer_id
        self.asset_id = asset_id
        self.amount_units = amount_units
        self.kind = kind


class PlaceOrder(Command):
    """An order as the account asked for it."""

    __slots__ = (
        "market_id",
        "client_order_id",
        "side",
        "type",
        "time_in_force",
        "price_ticks",
        "quantity_lots",
        "quote_amount_units",
        "post_only",
        "reduce_only",
        "display_quantity_lots",
        "self_trade_prevention",
        "max_slippage_bps",
        "expire_ns",
        "trigger_price_ticks",
        "trigger_source",
        "trailing_bps",
        "stream_id",
    )

    def __init__(
        self,
        account_id: int = 0,
        market_id: int = 0,
        client_order_id: str = "",
        side: int = 0,
        type: int = 0,
        time_in_force: int = 0,
        price_ticks: int = 0,
        quantity_lots: int = 0,
        quote_amount_units: int = 0,
        post_only: bool = False,
        reduce_only: bool = False,
        display_quantity_lots: int = 0,
        self_trade_prevention: int = 0,
        max_slippage_bps: int = 0,
        expire_ns: int = 0,
        trigger_price_ticks: int = 0,
        trigger_source: int = 0,
        trailing_bps: int = 0,
        stream_id: int = 0,
        deadline_ns: int = 0,
    ) -> None:
        self.account_id = account_id
        self.deadline_ns = deadline_ns
        self.market_id = market_id
        self.client_order_id = client_order_id
        self.side = side
        self.type = type
        self.time_in_force = time_in_force
        self.price_ticks = price_ticks
        self.quantity_lots = quantity_lots
        self.quote_amount_units = quote_amount_units
        self.post_only = post_only
        self.reduce_only = reduce_only
        self.display_quantity_lots = display_quantity_lots
        self.self_trade_prevention = self_trade_prevention
        self.max_slippage_bps = max_slippage_bps
        self.expire_ns = expire_ns
        self.trigger_price_ticks = trigger_price_ticks
        self.trigger_source = trigger_source
        self.trailing_bps = trailing_bps
        self.stream_id = stream_id


class PlaceOco(Command):
    """Two orders of which one cancels the other. Who acts, and until when, is said here only."""

    __slots__ = ("first", "second")

    def __init__(
        self,
        account_id: int,
        first: PlaceOrder,
        second: PlaceOrder,
        deadline_ns: int = 0,
    ) -> None:
        self.account_id = account_id
        self.deadline_ns = deadline_ns
        self.first = first
        self.second = second


class CancelOrder(Command):
    """Which order to cancel; by id or by client id."""

    __slots__ = ("order_id", "client_order_id")

    def __init__(
        self,
        account_id: int = 0,
        order_id: int = 0,
        client_order_id: str = "",
        deadline_ns: int = 0,
    ) -> None:
        self.account_id = account_id
        self.deadline_ns = deadline_ns
        self.order_id = order_id
        self.client_order_id = client_order_id


class CancelAll(Command):
    """Which orders to cancel."""

    __slots__ = ("market_id", "side", "stream_id", "reason")

    def __init__(
        self,
        account_id: int = 0,
        market_id: int = 0,
        side: int = 0,
        stream_id: int = 0,
        reason: int = 0,
        deadline_ns: int = 0,
    ) -> None:
        self.account_id = account_id
        self.deadline_ns = deadline_ns
        self.market_id = market_id
        self.side = side
        self.stream_id = stream_id
        self.reason = reason


class CancelAllAfter(Command):
    """The dead man's switch: cancel everything at a time; 0 disarms."""

    __slots__ = ("at_ns",)

    def __init__(self, account_id: int = 0, at_ns: int = 0, deadline_ns: int = 0) -> None:
        self.account_id = account_id
        self.deadline_ns = deadline_ns
        self.at_ns = at_ns


class AmendOrder(Command):
    """New price or quantity of a live order."""

    __slots__ = (
        "order_id",
        "client_order_id",
        "price_ticks",
        "quantity_lots",
        "trigger_price_ticks",
    )

    def __init__(
        self,
        account_id: int = 0,
        order_id: int = 0,
        client_order_id: str = "",
        price_ticks: int = 0,
        quantity_lots: int = 0,
        trigger_price_ticks: int = 0,
        deadline_ns: int = 0,
    ) -> None:
        self.account_id = account_id
        self.deadline_ns = deadline_ns
        self.order_id = order_id
        self.client_order_id = client_order_id
        self.price_ticks = price_ticks
        self.quantity_lots = quantity_lots
        self.trigger_price_ticks = trigger_price_ticks


class SetMarketStatus(Command):
    """New status of a market."""

    __slots__ = ("market_id", "status")

    def __init__(
        self, account_id: int = 0, market_id: int = 0, status: int = 0, deadline_ns: int = 0
    ) -> None:
        self.account_id = account_id
        self.deadline_ns = deadline_ns
        self.market_id = market_id
        self.status = status


class Tick(Command):
    """Nothing but time."""

    __slots__ = ()

    def __init__(self, account_id: int = 0, deadline_ns: int = 0) -> None:
        self.account_id = account_id
        self.deadline_ns = deadline_ns


class PriceUpdate(Record):
    """One market's external price."""

    __slots__ = ("market_id", "bid_ticks", "ask_ticks", "index_ticks", "time_ns")

    def __init__(
        self,
        market_id: int = 0,
        bid_ticks: int = 0,
        ask_ticks: int = 0,
        index_ticks: int = 0,
        time_ns: int = 0,
    ) -> None:
        self.market_id = market_id
        self.bid_ticks = bid_ticks
        self.ask_ticks = ask_ticks
        self.index_ticks = index_ticks
        self.time_ns = time_ns


class SetPrices(Command):
    """External prices; at most one per market."""

    __slots__ = ("prices",)

    def __init__(
        self,
        account_id: int = 0,
        prices: tuple[PriceUpdate, ...] = (),
        deadline_ns: int = 0,
    ) -> None:
        self.account_id = account_id
        self.deadline_ns = deadline_ns
        self.prices = prices
