"""One first trade, in full: from signing up to the ledger, over HTTP, gRPC and WebSocket.

    python examples/first_trade.py --http http://127.0.0.1:8080 --grpc 127.0.0.1:50050

Ann trades over HTTP and listens on the WebSocket, Bob over gRPC with an API key. Every balance,
fill, fee, stream and ledger sum is compared with what the rules say it must be, to the last unit.
The run ends with exit code 1 at the first difference. It needs nothing but a running Tidebook in
demo or development mode, minds no other traders, and can be repeated as often as one likes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping
from decimal import Decimal

import aiohttp
import grpc
from tidebook.common.v1 import reason_pb2
from tidebook.engine.v1 import market_pb2, order_pb2, types_pb2
from tidebook.marketdata.v1 import marketdata_pb2
from tidebook.settlement.v1 import ledger_pb2

from examples.client import (
    ApiError,
    Endpoints,
    HttpApi,
    KeyHolder,
    Person,
    bearer,
    endpoint_arguments,
    endpoints_of,
    faucet,
    grpc_channel,
    reason_of,
)
from examples.proving import proofs
from examples.proving.checks import (
    CheckFailed,
    Report,
    check_fill,
    eventually,
)
from examples.proving.stage import (
    ANN_DEPOSITS,
    BOB_DEPOSITS,
    MARKET,
    TIMEOUT_SECONDS,
    Stage,
    parse,
    plain,
)

BUY, SELL = types_pb2.SIDE_BUY, types_pb2.SIDE_SELL
LIMIT, AT_MARKET = types_pb2.ORDER_TYPE_LIMIT, types_pb2.ORDER_TYPE_MARKET
GTC, IOC = types_pb2.TIME_IN_FORCE_GTC, types_pb2.TIME_IN_FORCE_IOC
FILLED, CANCELLED = types_pb2.ORDER_STATUS_FILLED, types_pb2.ORDER_STATUS_CANCELLED
# Other traders may be quicker; then the two meet again.
MEETINGS = 5


class FirstTrade(Stage):
    """The story, from the first order to the last cancel."""

    async def run(self) -> None:
        """The whole story; raises `CheckFailed`."""
        async with asyncio.TaskGroup() as group:
            listening = [
                group.create_task(self.socket.run()),
                group.create_task(self.streams.run()),
            ]
            await self.begin()
            await self.deposit()
            anns_order, bobs_order = await self.meet()
            await self.market_orders()
            await self.what_is_refused()
            await self.batch_on_a_stream()
            await self.orders_on_the_socket()
            await self.cancel_what_rests()
            await proofs.streams_agree(self)
            await proofs.ledger_agrees(self)
            await proofs.reconciliation_is_zero(self)
            await proofs.trace_is_whole(self, anns_order, self.ann, "Ann's")
            await proofs.trace_is_whole(self, bobs_order, self.bob, "Bob's")
            for task in listening:
                task.cancel()

    async def begin(self) -> None:
        self.report.step("The market, the feed and the streams")
        answer = await self.public(market_pb2.GetMarketResponse, f"/v1/markets/{MARKET}")
        self.market.CopyFrom(answer.market)
        self.report.equal("its status", self.market.status, types_pb2.MARKET_STATUS_TRADING)

        async def begun() -> bool | None:
            return (
                self.socket.has_begun
                and self.streams.has_begun
                and MARKET in self.streams.prices.newest
            ) or None

        await eventually("all streams begin", begun)
        price = self.streams.prices.newest[MARKET]
        kind = " (simulated)" if price.simulated else ""
        self.report.say(
            f"{MARKET} is at {price.price}, from {marketdata_pb2.FeedKind.Name(price.source)}{kind}"
        )

    async def deposit(self) -> None:
        self.report.step("Deposits from the faucet: Ann over HTTP, Bob over gRPC")
        for asset, amount in ANN_DEPOSITS.items():
            missing = amount - _free(self.socket.account.balances, asset)
            body = {"asset": asset, "amount": str(missing), "requestId": f"first-{asset}"}
            made = [
                await self.as_ann(ledger_pb2.CreateDepositResponse, "POST", "/v1/deposits", body)
                for _ in range(2)
            ]
            self.report.equal(
                f"{missing} {asset} asked for twice with one request id is one transfer",
                made[1].transfer.transfer_id,
                made[0].transfer.transfer_id,
            )
        for asset, amount in BOB_DEPOSITS.items():
            missing = amount - _free(self.streams.account.balances, asset)
            transfer = await faucet(self.channel, self.bob, asset, str(missing))
            self.report.equal(f"Bob's {asset}", Decimal(transfer.amount), missing)

        async def arrived() -> bool | None:
            there = (len(self.socket.account.balances), len(self.streams.account.balances))
            return there == (len(ANN_DEPOSITS), len(BOB_DEPOSITS)) or None

        await eventually("the deposits arrive", arrived)
        await self.check_balances("after the deposits")

    async def meet(self) -> tuple[int, int]:
        """Ann offers, Bob takes some of it; returns her order and his."""
        self.report.step("Ann rests LIMIT GTC orders over HTTP, Bob takes some with LIMIT IOC")
        for meeting in range(MEETINGS):
            price = _mid(self.streams.prices.newest[MARKET], self.market)
            offer = {
                "side": "SIDE_SELL",
                "type": "ORDER_TYPE_LIMIT",
                "price": price,
                "quantity": "0.02",
                "clientOrderId": f"offer-{meeting}",
            }
            placed, again = await self.place_as_ann(**offer), await self.place_as_ann(**offer)
            order_id = placed.order.order_id
            self.report.equal(
                f"Ann's order to sell 0.02 at {price}, sent twice with one client id, is one order",
                (again.order.order_id, again.repeated),
                (order_id, True),
            )
            taken = await self.place_as_bob(
                order_pb2.PlaceOrderRequest(
                    side=BUY, type=LIMIT, time_in_force=IOC, price=price, quantity="0.008"
                )
            )
            if await self.both_saw_a_trade(taken, order_id, Decimal(price)):
                await self.check_balances("after the trade")
                return order_id, taken.order.order_id
            self.report.say("somebody else was quicker; once more")
        raise CheckFailed(f"Bob never met Ann's order in {MEETINGS} meetings")

    async def both_saw_a_trade(
        self, taken: order_pb2.PlaceOrderResponse, order_id: int, limit: Decimal
    ) -> bool:
        """Whether Bob traded with Ann; if so, both must have been told the same."""
        self.report.true(
            f"no fill of Bob's is above his limit of {limit}",
            all(Decimal(fill.price) <= limit for fill in taken.fills),
        )
        order = (
            await self.as_ann(order_pb2.GetOrderResponse, "GET", f"/v1/orders/{order_id}")
        ).order

        async def told() -> dict[int, order_pb2.Fill] | None:
            fills = {
                trade_id: fill
                for (_, trade_id), fill in self.socket.account.fills.items()
                if fill.order_id == order_id
            }
            quantity = sum((Decimal(fill.quantity) for fill in fills.values()), Decimal(0))
            return fills if quantity >= Decimal(order.filled_quantity or 0) else None

        anns = await eventually("the WebSocket tells Ann of her fills", told)
        for fill in anns.values():
            check_fill(self.market, fill)
        shared = [(fill, anns[fill.trade_id]) for fill in taken.fills if fill.trade_id in anns]
        for bobs, other in shared:
            self.report.equal(
                f"both see trade {bobs.trade_id} alike, at the maker's price",
                (other.price, other.quantity, other.notional, other.maker, bobs.maker),
                (bobs.price, bobs.quantity, bobs.notional, True, False),
            )
            self.report.equal("the price is Ann's", Decimal(bobs.price), limit)
        return bool(shared)

    async def market_orders(self) -> None:
        self.report.step("MARKET orders by base and by quote amount, over gRPC and over HTTP")
        # Below her own offers however the price moved, or it would meet them and be cancelled.
        offers = [Decimal(order.price) for order in self.socket.account.open_orders.values()]
        mid = Decimal(_mid(self.streams.prices.newest[MARKET], self.market))
        await self.place_as_ann(
            side="SIDE_BUY",
            type="ORDER_TYPE_LIMIT",
            price=plain(min([mid, *offers]) - 5),
            quantity="0.01",
        )
        by_base = await self.place_as_bob(
            order_pb2.PlaceOrderRequest(side=BUY, type=AT_MARKET, quantity="0.003")
        )
        self.report.equal("bought 0.003", by_base.order.status, FILLED)

        amount = Decimal(100)
        token = await self.bob.token()
        body = {"market": MARKET, "type": "ORDER_TYPE_MARKET", "quoteAmount": "100"}
        by_quote = parse(
            order_pb2.PlaceOrderResponse,
            await self.http.call("POST", "/v1/orders", body | {"side": "SIDE_BUY"}, token=token),
        )
        self.bob_traded(by_quote)
        rest = amount - _spent(by_quote)
        lot = Decimal(self.market.lot_size) * Decimal(by_quote.fills[-1].price)
        self.report.true(
            f"100 USDC are spent with fees but for {rest}, less than one more lot",
            rest >= 0 and rest * 10_000 < lot * (10_000 + self.market.taker_fee_bps),
            rest,
        )
        sold = await self.place_as_bob(
            order_pb2.PlaceOrderRequest(side=SELL, type=AT_MARKET, quantity="0.002")
        )
        self.report.equal("sold 0.002", sold.order.status, FILLED)
        sold = await self.place_as_bob(
            order_pb2.PlaceOrderRequest(side=SELL, type=AT_MARKET, quote_amount="50")
        )
        rest = 50 - Decimal(sold.order.filled_notional)
        lot = Decimal(self.market.lot_size) * Decimal(sold.fills[-1].price)
        self.report.true(f"50 USDC are earned but for {rest}, less than a lot", 0 <= rest < lot)
        await self.check_balances("after the market orders")

    async def what_is_refused(self) -> None:
        self.report.step("What must be refused, or traded not at all, changes nothing")
        remainder = await self.place_as_bob(
            order_pb2.PlaceOrderRequest(
                side=BUY, type=LIMIT, time_in_force=IOC, price="1", quantity="2"
            )
        )
        self.report.equal(
            "an IOC order that meets nobody is cancelled",
            (remainder.order.status, remainder.order.close_reason, len(remainder.fills)),
            (CANCELLED, reason_pb2.REASON_IOC_REMAINDER, 0),
        )
        offer = next(
            o for o in self.socket.account.open_orders.values() if o.client_order_id
        ).order_id
        for what, reason, order in (
            ("between two ticks", "PRICE_NOT_ON_TICK", {"price": "1.001", "quantity": "2"}),
            ("between two lots", "QUANTITY_NOT_ON_LOT", {"price": "1", "quantity": "2.000001"}),
            ("too small", "NOTIONAL_TOO_SMALL", {"price": "1", "quantity": "0.5"}),
            ("beyond her money", "INSUFFICIENT_BALANCE", {"price": "100", "quantity": "1000"}),
        ):
            try:
                await self.place_as_ann(side="SIDE_BUY", type="ORDER_TYPE_LIMIT", **order)
                raise CheckFailed(f"an order {what} was taken")
            except ApiError as error:
                self.report.equal(f"an order {what}", error.reason, reason)
        try:
            await self.orders.CancelOrder(
                order_pb2.CancelOrderRequest(order_id=offer),
                metadata=await bearer(self.bob),
                timeout=TIMEOUT_SECONDS,
            )
            raise CheckFailed("Bob cancelled Ann's order")
        except grpc.aio.AioRpcError as error:
            self.report.equal("Ann's order, to Bob", reason_of(error), "ORDER_NOT_FOUND")
        await self.check_balances("after the refusals")

    async def batch_on_a_stream(self) -> None:
        self.report.step("A batch on the order stream, with cancel on disconnect")
        call: grpc.aio.StreamStreamCall[
            order_pb2.TradeStreamRequest, order_pb2.TradeStreamResponse
        ] = self.orders.TradeStream(metadata=await bearer(self.bob))
        commands = [
            order_pb2.TradeCommand(
                request_id=number,
                place=order_pb2.PlaceOrderRequest(
                    market=MARKET, side=BUY, type=LIMIT, price=price, quantity="1"
                ),
            )
            for number, price in enumerate(("100", "100.005", "101"), start=1)
        ]
        try:
            await call.write(
                order_pb2.TradeStreamRequest(commands=commands, cancel_on_disconnect=True)
            )
            answer = await asyncio.wait_for(call.read(), TIMEOUT_SECONDS)
            assert isinstance(answer, order_pb2.TradeStreamResponse)
            self.report.equal(
                "one result per command, in order; one refused does not stop the others",
                [(r.request_id, r.WhichOneof("result")) for r in answer.results],
                [(1, "placed"), (2, "error"), (3, "placed")],
            )
            await self.bob_has_open(2)
        finally:
            call.cancel()
        await self.bob_has_open(0)
        self.report.true("the stream is gone, and so are its orders", True)
        await self.check_balances("after the disconnect")

    async def bob_has_open(self, count: int) -> None:
        async def looks() -> bool | None:
            answer = await self.orders.ListOpenOrders(
                order_pb2.ListOpenOrdersRequest(),
                metadata=await bearer(self.bob),
                timeout=TIMEOUT_SECONDS,
            )
            return len(answer.orders) == count or None

        await eventually(f"Bob has {count} open orders", looks)

    async def orders_on_the_socket(self) -> None:
        self.report.step("An order placed, amended and cancelled on the WebSocket")
        placed = await self.socket.ask(
            place=order_pb2.PlaceOrderRequest(
                market=MARKET, side=BUY, type=LIMIT, price="100", quantity="1"
            )
        )
        order_id = placed.placed.order.order_id
        amended = await self.socket.ask(
            amend=order_pb2.AmendOrderRequest(order_id=order_id, quantity="0.5")
        )
        self.report.equal("its quantity now", amended.amended.order.quantity, "0.5")
        await self.check_balances("with the amended order")
        cancelled = await self.socket.ask(cancel=order_pb2.CancelOrderRequest(order_id=order_id))
        self.report.equal("its end", cancelled.cancelled.order.status, CANCELLED)

    async def cancel_what_rests(self) -> None:
        self.report.step("Ann cancels what rests")
        listed = await self.as_ann(order_pb2.ListOpenOrdersResponse, "GET", "/v1/orders")
        for order in listed.orders:
            path = f"/v1/orders/{order.order_id}"
            await self.as_ann(order_pb2.CancelOrderResponse, "DELETE", path)
            try:
                await self.as_ann(order_pb2.CancelOrderResponse, "DELETE", path)
                raise CheckFailed("an order was cancelled twice")
            except ApiError as error:
                self.report.equal("cancelled once more", error.reason, "ORDER_ALREADY_CLOSED")
        await self.check_balances("with nothing held")


def _mid(price: marketdata_pb2.Price, market: market_pb2.Market) -> str:
    """The feed's price on the market's tick."""
    tick = Decimal(market.tick_size)
    return plain((Decimal(price.price) / tick).to_integral_value() * tick)


def _free(balances: Mapping[str, order_pb2.Balance], asset: str) -> Decimal:
    """What there is already: a new account may begin with play money."""
    return Decimal(balances[asset].free) if asset in balances else Decimal(0)


def _spent(answer: order_pb2.PlaceOrderResponse) -> Decimal:
    return Decimal(answer.order.filled_notional) + Decimal(answer.order.fees)


async def sign_up(http: HttpApi, report: Report) -> tuple[Person, Person]:
    """Ann and Bob, each with an account of its own."""
    report.step("Two people sign up over HTTP, with the codes that are mailed to them")
    ann, bob = [await Person.sign_up(http, name=name) for name in ("ann", "bob")]
    for person in (ann, bob):
        me = await http.call("GET", "/v1/auth/me", token=await person.token())
        report.equal(
            f"{person.email}: the account", int(me["user"]["accountId"]), person.account_id
        )
    report.true("their accounts differ", ann.account_id != bob.account_id)
    return ann, bob


async def first_trade(endpoints: Endpoints) -> int:
    """The whole run; returns how many checks held, raises `CheckFailed` at one that did not."""
    report = Report()
    async with HttpApi(endpoints) as http, grpc_channel(endpoints.grpc) as channel:
        ann, bob = await sign_up(http, report)
        report.step("Bob makes an API key, and exchanges it for a token over gRPC")
        key = await bob.make_api_key("first trade", ["SCOPE_READ", "SCOPE_TRADE"])
        holder = KeyHolder(channel, key)
        report.true("there is a token", bool(await holder.token()))
        await FirstTrade(http, channel, ann, holder, report).run()
    return report.checks


def main() -> None:
    """Exit code 0 when everything held, 1 when something did not, with what and why."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    endpoint_arguments(parser)
    given = parser.parse_args()
    endpoints = endpoints_of(given)
    began = time.monotonic()
    try:
        checks = asyncio.run(first_trade(endpoints))
    except* (CheckFailed, ApiError, grpc.aio.AioRpcError, aiohttp.ClientError, OSError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        print(f"\nFAILED: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(f"\nAll {checks} checks held, in {time.monotonic() - began:.1f} s.")


if __name__ == "__main__":
    main()
