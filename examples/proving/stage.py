"""Ann, Bob, the ways they call, and what they must own at every moment."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TypeVar

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from tidebook.engine.v1 import market_pb2, order_pb2, order_pb2_grpc

from examples.client import HttpApi, Json, KeyHolder, Person, bearer
from examples.proving.checks import (
    Pair,
    Report,
    check_fill,
    expected_funds,
    funds_in,
)
from examples.proving.listeners import GrpcListener, SocketListener

M = TypeVar("M", bound=Message)

MARKET = "BTC_USDC"
ANN_DEPOSITS = {"BTC": Decimal("0.5"), "USDC": Decimal(20_000)}
BOB_DEPOSITS = {"USDC": Decimal(50_000)}
TIMEOUT_SECONDS = 30.0


def parse(message: type[M], answer: Json) -> M:
    """An answer of the HTTP API as the message it is; unknown fields are an error."""
    return json_format.ParseDict(answer, message())


def plain(number: Decimal) -> str:
    """A number as the exchange writes it: plain, without trailing zeros."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


class Stage:
    """Ann over HTTP and WebSocket, Bob over gRPC, and everything they hear."""

    def __init__(
        self, http: HttpApi, channel: grpc.aio.Channel, ann: Person, bob: KeyHolder, report: Report
    ) -> None:
        self.http = http
        self.channel = channel
        self.ann = ann
        self.bob = bob
        self.report = report
        self.orders = order_pb2_grpc.OrderServiceStub(channel)
        self.socket = SocketListener(http, ann, MARKET)
        self.streams = GrpcListener(channel, bob, MARKET)
        self.market = market_pb2.Market()
        self.bob_fills: list[order_pb2.Fill] = []

    async def as_ann(
        self, answer: type[M], method: str, path: str, body: Json | None = None, **query: str
    ) -> M:
        """A call of Ann's over HTTP."""
        token = await self.ann.token()
        return parse(answer, await self.http.call(method, path, body, token=token, query=query))

    async def public(self, answer: type[M], path: str, **query: str) -> M:
        """A GET that needs no token."""
        return parse(answer, await self.http.call("GET", path, query=query))

    async def place_as_ann(self, **order: str) -> order_pb2.PlaceOrderResponse:
        body: Json = {"market": MARKET, **order}
        return await self.as_ann(order_pb2.PlaceOrderResponse, "POST", "/v1/orders", body)

    async def place_as_bob(
        self, order: order_pb2.PlaceOrderRequest
    ) -> order_pb2.PlaceOrderResponse:
        order.market = MARKET
        answer = await self.orders.PlaceOrder(
            order, metadata=await bearer(self.bob), timeout=TIMEOUT_SECONDS
        )
        self.bob_traded(answer)
        return answer

    def bob_traded(self, answer: order_pb2.PlaceOrderResponse) -> None:
        """Check an order of Bob's against its own fills, and remember those."""
        order, fills = answer.order, answer.fills
        for fill in fills:
            check_fill(self.market, fill)
        self.report.equal(
            f"order {order.order_id} says what its {len(fills)} fills add up to",
            (order.filled_quantity, order.filled_notional, order.fees),
            tuple(
                plain(sum((Decimal(getattr(fill, name)) for fill in fills), Decimal(0)))
                for name in ("quantity", "notional", "fee")
            ),
        )
        self.bob_fills += fills

    async def check_balances(self, when: str) -> None:
        """What both own, to the last unit."""
        actual, expected = await self._anns_funds()
        for _ in range(100):
            if actual == expected:
                break
            # Her stream may be a moment behind, and others may trade with her meanwhile.
            await asyncio.sleep(0.1)
            actual, expected = await self._anns_funds()
        self.report.equal(f"Ann's balances {when}", actual, expected)
        account = await self.orders.GetAccount(
            order_pb2.GetAccountRequest(), metadata=await bearer(self.bob), timeout=TIMEOUT_SECONDS
        )
        self.report.equal(
            f"Bob's balances {when}",
            funds_in(account.balances),
            expected_funds(self.market, BOB_DEPOSITS, self.bob_fills, ()),
        )

    async def _anns_funds(self) -> tuple[dict[str, Pair], dict[str, Pair]]:
        """What she has, and what she must have by what her stream told of fills and orders."""
        account = await self.as_ann(order_pb2.GetAccountResponse, "GET", "/v1/account")
        heard = self.socket.account
        expected = expected_funds(
            self.market, ANN_DEPOSITS, heard.fills.values(), heard.open_orders.values()
        )
        return funds_in(account.balances), expected
