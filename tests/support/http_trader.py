"""A user who trades over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from examples.client import HttpApi, Person


@dataclass
class HttpTrader:
    """Calls as one person."""

    http: HttpApi
    person: Person

    async def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """See `HttpApi.call`."""
        return await self.http.call(method, path, body, token=await self.person.token())

    async def deposit(self, asset: str, amount: str, shard: int, request_id: str) -> str:
        """Get play money; the status of the transfer."""
        body = {"asset": asset, "amount": amount, "shard": shard, "requestId": request_id}
        status: str = (await self.call("POST", "/v1/deposits", body))["transfer"]["status"]
        return status

    async def place(self, market: str, side: str, price: str, quantity: str, **more: Any) -> int:
        """A limit order, to BUY or to SELL; its id."""
        body = {
            "market": market,
            "side": f"SIDE_{side}",
            "type": "ORDER_TYPE_LIMIT",
            "price": price,
            "quantity": quantity,
            **more,
        }
        return int((await self.call("POST", "/v1/orders", body))["order"]["orderId"])
