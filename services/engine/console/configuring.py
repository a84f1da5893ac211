"""`configure`: assets and markets in the words of public messages -> the whole configuration."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tidebook.engine.v1 import market_pb2, types_pb2

from kernel.markets import Asset, MarginTier, Market
from kernel.money import INT64_MAX
from kernel.reasons import Reason, Refused
from services.engine.console.fields import Fields
from services.engine.domain import commands as c
from services.engine.domain.configuration import configuration
from services.engine.projection import Projection

_NAME = re.compile(r"[A-Z0-9_]{1,32}", re.ASCII)
_DECIMALS_MAX = 18
_NEEDED = ("kind", "baseAsset", "quoteAsset", "tickSize", "lotSize")
# Of a market that is known already, these decide what its numbers mean and stay as they are.
_FIXED = ("kind", "baseAsset", "quoteAsset")
_PLAIN = {
    "makerFeeBps": "maker_fee_bps",
    "takerFeeBps": "taker_fee_bps",
    "maxOpenOrders": "max_open_orders",
    "maxLeverage": "max_leverage",
    "liquidationFeeBps": "liquidation_fee_bps",
    "priceBandBps": "price_band_bps",
}
_Parser = Callable[[Market, market_pb2.Market], object]
_PARSED: dict[str, tuple[str, _Parser]] = {
    "minQuantity": (
        "min_quantity_lots",
        lambda m, said: m.parse_quantity(said.min_quantity, field="min_quantity"),
    ),
    "maxQuantity": (
        "max_quantity_lots",
        lambda m, said: m.parse_quantity(said.max_quantity, field="max_quantity"),
    ),
    "minNotional": (
        "min_notional_units",
        lambda m, said: m.quote.parse(said.min_notional, field="min_notional"),
    ),
    "maxNotional": (
        "max_notional_units",
        lambda m, said: m.quote.parse(said.max_notional, field="max_notional"),
    ),
    "maxPrice": (
        "max_price_ticks",
        lambda m, said: m.parse_price(said.max_price, field="max_price"),
    ),
    "marginTiers": (
        "margin_tiers",
        lambda m, said: tuple(
            MarginTier(
                m.quote.parse(tier.from_notional or "0", field="margin_tiers"),
                tier.maintenance_bps,
                tier.max_leverage,
            )
            for tier in said.margin_tiers
        ),
    ),
    "priceStaleMs": ("price_stale_ns", lambda m, said: said.price_stale_ms * 1_000_000),
    "maxExposure": (
        "max_exposure_units",
        lambda m, said: m.quote.parse(said.max_exposure or "0", field="max_exposure"),
    ),
}


def configure_command(
    projection: Projection, assets: list[dict[str, Any]], markets: list[dict[str, Any]]
) -> c.Configure:
    """What there is, with these assets and markets added or changed. Raises `Refused`."""
    known_assets = {asset.code: asset for asset in projection.assets.values()}
    for data in assets:
        asset = _asset(data, known_assets)
        known_assets[asset.code] = asset
    by_id = {asset.asset_id: asset for asset in known_assets.values()}
    known_markets = {
        # An asset may just have got a new transfer precision.
        m.name: replace(m, base=by_id[m.base.asset_id], quote=by_id[m.quote.asset_id])
        for m in projection.markets.values()
    }
    for data in markets:
        market = _market(data, known_markets, known_assets)
        known_markets[market.name] = market
    return configuration(known_assets.values(), known_markets.values())


def _asset(data: dict[str, Any], known: dict[str, Asset]) -> Asset:
    fields = Fields(data)
    given = fields.names()
    said = fields.message(market_pb2.Asset())
    if not _NAME.fullmatch(said.code):
        raise _invalid("code", "must be 1 to 32 of A-Z, 0-9 and _")
    old = known.get(said.code)
    if old is None:
        old = Asset(max((a.asset_id for a in known.values()), default=0) + 1, said.code)
    decimals = said.decimals if "decimals" in given else old.decimals
    if decimals > _DECIMALS_MAX:
        raise _invalid("decimals", f"must be at most {_DECIMALS_MAX}")
    transfer = said.transfer_decimals if "transferDecimals" in given else old.transfer_decimals
    return replace(old, decimals=decimals, transfer_decimals=min(transfer, decimals))


def _market(data: dict[str, Any], known: dict[str, Market], assets: dict[str, Asset]) -> Market:
    fields = Fields(data)
    given = fields.names()
    said = fields.message(market_pb2.Market())
    for name in sorted(given - {"market", *_NEEDED, *_PLAIN, *_PARSED}):
        raise Refused(Reason.UNSUPPORTED, "cannot be configured here", field=name)
    old = known.get(said.market)
    # Any: mypy takes the names in it for those of every field.
    plain: dict[str, Any] = {_PLAIN[n]: getattr(said, _PLAIN[n]) for n in given & {*_PLAIN}}
    try:
        if old is None:
            market_id = max((m.market_id for m in known.values()), default=0) + 1
            market = _new(said, given, market_id, assets)
        else:
            market = _resized(said, given, old)
        market = replace(market, **plain)
    except ValueError as error:
        raise _invalid("tick_size", str(error)) from error
    if market.units_per_tick_lot > INT64_MAX:
        raise _invalid("tick_size", "tick_size x lot_size is too large")
    # Only now that its ticks and lots are known can the rest be read.
    limits: dict[str, Any] = {
        _PARSED[n][0]: _PARSED[n][1](market, said) for n in given & {*_PARSED}
    }
    return replace(market, **limits)


def _new(
    said: market_pb2.Market, given: set[str], market_id: int, assets: dict[str, Asset]
) -> Market:
    if not _NAME.fullmatch(said.market):
        raise _invalid("market", "must be 1 to 32 of A-Z, 0-9 and _")
    for name in _NEEDED:
        if name not in given:
            raise _invalid(name, "is needed for a new market")
    for field, code in (("base_asset", said.base_asset), ("quote_asset", said.quote_asset)):
        if code not in assets:
            raise Refused(Reason.ASSET_NOT_FOUND, "no such asset", field=field)
    base, quote = assets[said.base_asset], assets[said.quote_asset]
    if said.kind not in types_pb2.MarketKind.values() or not said.kind:
        raise _invalid("kind", "is not a known value")
    return Market(
        market_id=market_id,
        name=said.market,
        kind=types_pb2.MarketKind.Name(said.kind).removeprefix("MARKET_KIND_"),
        base=base,
        quote=quote,
        tick_size_units=quote.parse(said.tick_size, field="tick_size"),
        lot_size_units=base.parse(said.lot_size, field="lot_size"),
    )


def _resized(said: market_pb2.Market, given: set[str], old: Market) -> Market:
    for name in _FIXED:
        if name in given:
            raise Refused(Reason.UNSUPPORTED, "of a known market cannot be changed", field=name)
    sizes: dict[str, Any] = {}
    if "tickSize" in given:
        sizes["tick_size_units"] = old.quote.parse(said.tick_size, field="tick_size")
    if "lotSize" in given:
        sizes["lot_size_units"] = old.base.parse(said.lot_size, field="lot_size")
    return replace(old, **sizes)


def _invalid(field: str, message: str) -> Refused:
    return Refused(Reason.INVALID_ARGUMENT, message, field=field)
