"""Assets and markets by id and name, as the log has configured them."""

from __future__ import annotations

import asyncpg

from kernel.markets import Asset, Market
from kernel.reasons import Reason, Refused
from services.settlement.store.sessions import for_a_call

_KINDS = {1: "SPOT", 2: "MARGIN", 3: "CFD"}


class Catalog:
    """Reads what is configured once, and again when something unknown is asked for."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._assets: dict[int, Asset] = {}
        self._markets: dict[int, Market] = {}

    async def asset(self, asset_id: int) -> Asset:
        """The asset with this id. Raises `KeyError` when the log never had it."""
        if asset_id not in self._assets:
            await self._load()
        return self._assets[asset_id]

    async def market(self, market_id: int) -> Market:
        """The market with this id. Raises `KeyError` when the log never had it."""
        if market_id not in self._markets:
            await self._load()
        return self._markets[market_id]

    async def asset_named(self, code: str) -> Asset:
        """The asset with this code. Raises `Refused(ASSET_NOT_FOUND)`."""
        for _ in range(2):
            for asset in self._assets.values():
                if asset.code == code:
                    return asset
            await self._load()
        raise Refused(Reason.ASSET_NOT_FOUND, f"there is no asset {code}", field="asset")

    async def market_named(self, name: str) -> Market:
        """The market with this name. Raises `Refused(MARKET_NOT_FOUND)`."""
        for _ in range(2):
            for market in self._markets.values():
                if market.name == name:
                    return market
            await self._load()
        raise Refused(Reason.MARKET_NOT_FOUND, f"there is no market {name}", field="market")

    async def _load(self) -> None:
        async with for_a_call(self._pool) as connection:
            assets = await connection.fetch("select * from assets")
            markets = await connection.fetch("select * from markets")
        self._assets = {
            row["asset_id"]: Asset(
                row["asset_id"], row["code"], row["decimals"], row["transfer_decimals"]
            )
            for row in assets
        }
        self._markets = {
            row["market_id"]: Market(
                market_id=row["market_id"],
                name=row["name"],
                kind=_KINDS[row["kind"]],
                base=self._assets[row["base_asset_id"]],
                quote=self._assets[row["quote_asset_id"]],
                tick_size_units=row["tick_size_units"],
                lot_size_units=row["lot_size_units"],
            )
            for row in markets
        }
