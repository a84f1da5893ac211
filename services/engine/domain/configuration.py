"""The configuration command, built from the kernel's assets and markets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kernel.markets import Asset, Market
from services.engine.domain.commands import (
    AssetConfig,
    Configure,
    MarginTierConfig,
    MarketConfig,
)
from services.engine.domain.constants import MARKET_KIND_CFD, MARKET_KIND_MARGIN, MARKET_KIND_SPOT

_KINDS: Final = {"SPOT": MARKET_KIND_SPOT, "MARGIN": MARKET_KIND_MARGIN, "CFD": MARKET_KIND_CFD}


def configuration(assets: Iterable[Asset], markets: Iterable[Market]) -> Configure:
    """The command that puts these assets and markets into force."""
    return Configure(
        assets=tuple(
            AssetConfig(asset.asset_id, asset.code, asset.decimals, asset.transfer_decimals)
            for asset in assets
        ),
        markets=tuple(_market(market) for market in markets),
    )


def _market(market: Market) -> MarketConfig:
    return MarketConfig(
        market_id=market.market_id,
        name=market.name,
        kind=_KINDS[market.kind],
        base_asset_id=market.base.asset_id,
        quote_asset_id=market.quote.asset_id,
        tick_size_units=market.tick_size_units,
        lot_size_units=market.lot_size_units,
        units_per_tick_lot=market.units_per_tick_lot,
        min_quantity_lots=market.min_quantity_lots,
        max_quantity_lots=market.max_quantity_lots,
        min_notional_units=market.min_notional_units,
        max_notional_units=market.max_notional_units,
        max_price_ticks=market.max_price_ticks,
        maker_fee_bps=market.maker_fee_bps,
        taker_fee_bps=market.taker_fee_bps,
        max_open_orders=market.max_open_orders,
        max_leverage=market.max_leverage,
        margin_tiers=tuple(
            MarginTierConfig(tier.from_notional_units, tier.maintenance_bps, tier.max_leverage)
            for tier in market.margin_tiers
        ),
        liquidation_fee_bps=market.liquidation_fee_bps,
        price_stale_ns=market.price_stale_ns,
        price_band_bps=market.price_band_bps,
        max_exposure_units=market.max_exposure_units,
    )
