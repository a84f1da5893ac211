"""Commands of the system itself: configuration, epochs, transfers, market status, time."""

from __future__ import annotations

from typing import Final

from kernel.money import INT64_MAX
from kernel.reasons import Reason, Refused
from kernel.shards import SHARDS_MAX, ids_before, shard_of
from services.engine.domain import cfds, liquidation
from services.engine.domain.book import Book
from services.engine.domain.commands import (
    AssetConfig,
    BeginEpoch,
    Command,
    Configure,
    MarketConfig,
    SetMarketStatus,
    SetPrices,
    Tick,
    Transfer,
)
from services.engine.domain.constants import (
    MARKET_KIND_CFD,
    MARKET_KIND_SPOT,
    MARKET_STATUS_HALTED,
    MARKET_STATUS_TRADING,
    ORDER_STATUS_CANCELLED,
    ORDER_STATUS_EXPIRED,
)
from services.engine.domain.events import (
    CancelAllAfterSet,
    CommandRepeated,
    Configured,
    EpochBegan,
    Event,
    MarketStatusChanged,
    PricesSet,
    TimePassed,
    TransferApplied,
)
from services.engine.domain.state import State

_EXPIRED: Final = int(Reason.EXPIRED)
# A switch that fires means that the client has gone silent.
_DISCONNECTED: Final = int(Reason.CANCELLED_ON_DISCONNECT)
# A hundredth of an int64: room for fees, and for the sum of an order's fills over its amendments.
_MAX_NOTIONAL_UNITS: Final = 10**17


def transfer(state: State, command: Transfer, now_ns: int) -> list[Event]:
    """Credit or debit an account, at most once per transfer id. Raises `Refused`.

    A refused transfer is not remembered: sent again, it is decided again.
    """
    amount = command.amount_units
    asset_id = command.asset_id
    if command.transfer_id <= 0:
        raise Refused(Reason.INVALID_ARGUMENT, field="transfer_id")
    if command.transfer_id in state.transfers:
        return [CommandRepeated(0, command.transfer_id)]
    if 0 < command.deadline_ns < now_ns:
        raise Refused(Reason.DEADLINE_PASSED, field="deadline_ns")
    if command.account_id <= 0:
        raise Refused(Reason.INVALID_ARGUMENT, field="account_id")
    if asset_id not in state.assets:
        raise Refused(Reason.ASSET_NOT_FOUND, field="asset_id")
    if amount == 0:
        raise Refused(Reason.AMOUNT_INVALID, field="amount_units")
    if amount < 0:
        account = state.accounts.get(command.account_id)
        balance = account.balances.get(asset_id) if account is not None else None
        if balance is None or balance.free < -amount:
            raise Refused(Reason.INSUFFICIENT_BALANCE, field="amount_units")
    elif state.external[asset_id] - state.house.balances.get(asset_id, 0) + amount > INT64_MAX:
        # All balances of an asset together never exceed what came in and what the house has lost,
        # so this one check keeps every balance and hold inside an int64.
        raise Refused(Reason.BALANCE_OVERFLOW, field="amount_units")

    state.transfers.add(command.transfer_id)
    state.external[asset_id] += amount
    state.account(command.account_id).balance(asset_id).free += amount
    return [
        TransferApplied(command.transfer_id, command.account_id, asset_id, amount, command.kind)
    ]


def begin_epoch(state: State, command: BeginEpoch) -> list[Event]:
    """A new writer. Raises `Refused`: FENCED unless its epoch is newer than all before, WRONG_SHARD
    unless the ids of this log are its shard's.
    """
    _check_system(command)
    if command.epoch <= state.epoch:
        raise Refused(Reason.FENCED, field="epoch")
    if not 0 <= command.shard < SHARDS_MAX:
        raise Refused(Reason.INVALID_ARGUMENT, field="shard")
    if shard_of(state.last_order_id) != command.shard:
        if state.epoch:
            raise Refused(Reason.WRONG_SHARD, field="shard")
        first = ids_before(command.shard)
        state.last_order_id = state.house.last_cfd_id = state.last_liquidation_id = first
    state.epoch = command.epoch
    return [EpochBegan(command.epoch)]


def set_market_status(state: State, command: SetMarketStatus) -> list[Event]:
    """Halt, restrict or resume a market. Live orders stay as they are."""
    _check_system(command)
    book = state.tradable_book(command.market_id)
    if not MARKET_STATUS_TRADING <= command.status <= MARKET_STATUS_HALTED:
        raise Refused(Reason.INVALID_ARGUMENT, field="status")
    book.status = command.status
    return [MarketStatusChanged(command.market_id, command.status)]


def set_prices(state: State, command: SetPrices, now_ns: int) -> list[Event]:
    """Take external prices, all or none, then fire what they reach, in the order of the prices.

    A market's own time never goes back, and no price is of later than now.

    Raises `Refused`: MARKET_NOT_FOUND, INVALID_ARGUMENT (no index, crossed, out of range, a market
    twice).
    """
    _check_system(command)
    seen: set[int] = set()
    for price in command.prices:
        book = state.tradable_book(price.market_id)
        most = book.config.max_price_ticks
        if (
            price.market_id in seen
            or not 0 < price.index_ticks <= most
            or not 0 <= price.bid_ticks <= most
            or not 0 <= price.ask_ticks <= most
            or 0 < price.ask_ticks < price.bid_ticks
            or price.time_ns <= 0
        ):
            raise Refused(Reason.INVALID_ARGUMENT, field="prices")
        seen.add(price.market_id)
    moved: list[Book] = []
    for price in command.prices:
        book = state.books[price.market_id]
        time_ns = min(price.time_ns, now_ns)
        if time_ns < book.external_ns:
            continue
        book.external_bid_ticks = price.bid_ticks
        book.external_ask_ticks = price.ask_ticks
        book.index_ticks = price.index_ticks
        book.external_ns = time_ns
        moved.append(book)
    events: list[Event] = [PricesSet(len(moved))]
    for book in moved:
        cfds.fire(state, book, now_ns, events)
        if book.is_margin:
            liquidation.sweep(state, book, now_ns, events)
            liquidation.unwind_fund(state, book, now_ns, events)
    return events


def tick(state: State, command: Tick, now_ns: int) -> list[Event]:
    """Expire every GTD order whose time has come, by time, then id; in halted markets too.

    Then fire the dead man's switches that are due, by time, then account: like a cancel-all, which
    passes over halted markets. An order that is due in both ways has expired.
    """
    _check_system(command)
    events: list[Event] = []
    expired = 0
    while True:
        order = state.take_due(now_ns)
        if order is None:
            break
        state.close(order, ORDER_STATUS_EXPIRED, _EXPIRED, now_ns, events)
        expired += 1
    while True:
        account_id = state.take_due_switch(now_ns)
        if account_id == 0:
            break
        account = state.accounts.get(account_id)
        for order in account.live_orders() if account is not None else ():
            # Its pair may have ended it.
            if order.book.status != MARKET_STATUS_HALTED and order.order_id in state.orders:
                state.close(order, ORDER_STATUS_CANCELLED, _DISCONNECTED, now_ns, events)
        events.append(CancelAllAfterSet(account_id, 0))
    events.append(TimePassed(expired))
    return events


def configure(state: State, command: Configure) -> list[Event]:
    """Take a complete configuration: it may add assets and markets and change fees and limits.

    Raises `Refused`: INVALID_ARGUMENT for what is wrong in itself, UNSUPPORTED for what would
    change the meaning of numbers in the log (removing, renaming, other decimals, ticks or lots).
    """
    _check_system(command)
    assets = {asset.asset_id: asset for asset in command.assets}
    markets = {market.market_id: market for market in command.markets}
    _check_assets(command.assets, assets)
    for market in command.markets:
        _check_market(market, assets)
    if len(markets) != len(command.markets) or len({m.name for m in command.markets}) != len(
        markets
    ):
        raise Refused(Reason.INVALID_ARGUMENT, "has a market twice", field="markets")
    for asset_id, old_asset in state.assets.items():
        asset = assets.get(asset_id)
        if asset is None or asset.code != old_asset.code or asset.decimals != old_asset.decimals:
            raise Refused(Reason.UNSUPPORTED, "changes a known asset", field="assets")
    for market_id, book in state.books.items():
        if market_id not in markets or not _same_meaning(markets[market_id], book.config):
            raise Refused(Reason.UNSUPPORTED, "changes a known market", field="markets")

    for asset_id, asset in assets.items():
        state.assets[asset_id] = asset
        state.fees.setdefault(asset_id, 0)
        state.clearing.setdefault(asset_id, 0)
        state.external.setdefault(asset_id, 0)
    for market_id, market in markets.items():
        known = state.books.get(market_id)
        if known is None:
            state.books[market_id] = Book(market)
        else:
            known.configure(market)
    return [Configured(len(assets), len(markets))]


def _check_system(command: Command) -> None:
    if command.account_id != 0:
        raise Refused(Reason.CALLER_NOT_ALLOWED, field="account_id")


def _check_assets(listed: tuple[AssetConfig, ...], assets: dict[int, AssetConfig]) -> None:
    if len(assets) != len(listed) or len({asset.code for asset in listed}) != len(assets):
        raise Refused(Reason.INVALID_ARGUMENT, "has an asset twice", field="assets")
    for asset in listed:
        if (
            asset.asset_id <= 0
            or not asset.code
            or not 0 <= asset.transfer_decimals <= asset.decimals <= 18
        ):
            raise Refused(Reason.INVALID_ARGUMENT, "has an invalid asset", field="assets")


def _check_market(market: MarketConfig, assets: dict[int, AssetConfig]) -> None:
    base = assets.get(market.base_asset_id)
    sizes = market.tick_size_units * market.lot_size_units
    if (
        market.market_id <= 0
        or not market.name
        or not MARKET_KIND_SPOT <= market.kind <= MARKET_KIND_CFD
        or base is None
        or market.quote_asset_id not in assets
        or market.base_asset_id == market.quote_asset_id
        or not 0 < market.tick_size_units <= INT64_MAX
        or not 0 < market.lot_size_units <= INT64_MAX
        or not 0 < market.units_per_tick_lot <= INT64_MAX
        # Exact, or notionals would have to be rounded.
        or sizes != market.units_per_tick_lot * 10**base.decimals
        or not 0 < market.min_quantity_lots <= market.max_quantity_lots
        or not 0 <= market.min_notional_units <= market.max_notional_units <= _MAX_NOTIONAL_UNITS
        or not 0 < market.max_price_ticks <= INT64_MAX
        or not 0 <= market.taker_fee_bps <= 10_000
        # The two fees of a trade together never cost the exchange anything.
        or not -market.taker_fee_bps <= market.maker_fee_bps <= 10_000
        or market.max_open_orders <= 0
        or not _has_valid_margin(market)
        or not 0 <= market.liquidation_fee_bps <= 10_000
        or not 0 <= market.price_stale_ns <= INT64_MAX
        or not 0 <= market.price_band_bps <= 10_000
        or not 0 <= market.max_exposure_units <= _MAX_NOTIONAL_UNITS
    ):
        raise Refused(Reason.INVALID_ARGUMENT, "has an invalid market", field="markets")


def _has_valid_margin(market: MarketConfig) -> bool:
    """Spot has no leverage. Elsewhere tiers rise from zero, and in each of them the maintenance
    stays below the least margin."""
    tiers = market.margin_tiers
    if market.kind == MARKET_KIND_SPOT:
        return market.max_leverage == 0 and not tiers
    if not 0 < market.max_leverage <= 1000 or not tiers or tiers[0].from_notional_units != 0:
        return False
    before = -1
    for tier in tiers:
        if (
            tier.from_notional_units <= before
            or tier.from_notional_units > _MAX_NOTIONAL_UNITS
            or not 0 < tier.max_leverage <= market.max_leverage
            or tier.maintenance_bps < 0
            or (tier.maintenance_bps + market.taker_fee_bps) * tier.max_leverage >= 10_000
        ):
            return False
        before = tier.from_notional_units
    return True


def _same_meaning(new: MarketConfig, old: MarketConfig) -> bool:
    return (
        new.name == old.name
        and new.kind == old.kind
        and new.base_asset_id == old.base_asset_id
        and new.quote_asset_id == old.quote_asset_id
        and new.tick_size_units == old.tick_size_units
        and new.lot_size_units == old.lot_size_units
        and new.units_per_tick_lot == old.units_per_tick_lot
    )
