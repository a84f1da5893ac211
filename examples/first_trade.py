"""One first trade, in full: from signing up to the ledger, over HTTP, gRPC and WebSocket.

    python examples/first_trade.py --http http://127.0.0.1:8080 --grpc 127.0.0.1:50050 \\
        --mailbox http://127.0.0.1:8025

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
from collections.abc import Sequence
from decimal import Decimal
from typing import TypeVar

import aiohttp
import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from tidebook.common.v1 import reason_pb2
from tidebook.engine.v1 import market_pb2, order_pb2, order_pb2_grpc, types_pb2
from tidebook.gateway.v1 import gateway_pb2
from tidebook.marketdata.v1 import marketdata_pb2
from tidebook.settlement.v1 import history_pb2, ledger_pb2

from examples.checks import (
    CheckFailed,
    Report,
    check_fill,
    eventually,
    expected_funds,
    funds_in,
    waterfall,
)
from examples.client import (
    ApiError,
    Endpoints,
    HttpApi,
    Json,
    KeyHolder,
    Person,
    bearer,
    faucet,
    grpc_channel,
    reason_of,
)
from examples.listeners import GrpcListener, SocketListener

M = TypeVar("M", bound=Message)

MARKET = "BTC_USDC"
BUY, SELL = types_pb2.SIDE_BUY, types_pb2.SIDE_SELL
LIMIT, AT_MARKET = types_pb2.ORDER_TYPE_LIMIT, types_pb2.ORDER_TYPE_MARKET
GTC, IOC = types_pb2.TIME_IN_FORCE_GTC, types_pb2.TIME_IN_FORCE_IOC
FILLED, CANCELLED = types_pb2.ORDER_STATUS_FILLED, types_pb2.ORDER_STATUS_CANCELLED
ANN_DEPOSITS = {"BTC": Decimal("0.5"), "USDC": Decimal(20_000)}
BOB_DEPOSITS = {"USDC": Decimal(50_000)}
# The parts that must have worked on an order for its trace to be whole.
TRACED = frozenset({"gateway", "engine", "settlement", "marketdata"})
# Other traders may be quicker; then the two meet again.
MEETINGS = 5
_TIMEOUT = 30.0


def parse(message: type[M], answer: Json) -> M:
    """An answer of the HTTP API as the message it is; unknown fields are an error."""
    return json_format.ParseDict(answer, message())


class FirstTrade:
    """Ann, Bob, what they hear, and what they do."""

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

    async def run(self) -> None:
        """The whole story; raises `CheckFailed`."""
        async with asyncio.TaskGroup() as group:
            listening = [
                group.create_task(self.socket.run()),
                group.create_task(self.streams.run()),
            ]
            await self.begin()
            await self.deposit()
            order_id = await self.meet()
            await self.market_orders()
            await self.what_is_refused()
            await self.batch_on_a_stream()
            await self.orders_on_the_socket()
            await self.cancel_what_rests()
            await self.streams_agree()
            await self.ledger_agrees()
            await self.reconciliation_is_zero()
            await self.trace(order_id)
            for task in listening:
                task.cancel()

    # Ways to call.

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
            order, metadata=await bearer(self.bob), timeout=_TIMEOUT
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
                _text(sum((Decimal(getattr(fill, name)) for fill in fills), Decimal(0)))
                for name in ("quantity", "notional", "fee")
            ),
        )
        self.bob_fills += fills

    async def check_balances(self, when: str) -> None:
        """What both own, to the last unit, once their streams have told them of every fill."""

        async def anns() -> bool | None:
            account = await self.as_ann(order_pb2.GetAccountResponse, "GET", "/v1/account")
            mirror = self.socket.account
            expected = expected_funds(
                self.market, ANN_DEPOSITS, mirror.fills.values(), mirror.open_orders.values()
            )
            # The stream may be a moment behind, and others may trade with her meanwhile.
            return funds_in(account.balances) == expected or None

        try:
            await eventually("", anns, seconds=10)
        except CheckFailed:
            account = await self.as_ann(order_pb2.GetAccountResponse, "GET", "/v1/account")
            mirror = self.socket.account
            self.report.equal(
                f"Ann's (free, held) {when}",
                funds_in(account.balances),
                expected_funds(
                    self.market, ANN_DEPOSITS, mirror.fills.values(), mirror.open_orders.values()
                ),
            )
        self.report.true(f"Ann has exactly what her deposits and fills leave, {when}", True)
        account = await self.orders.GetAccount(
            order_pb2.GetAccountRequest(), metadata=await bearer(self.bob), timeout=_TIMEOUT
        )
        self.report.equal(
            f"Bob's (free, held) {when}",
            funds_in(account.balances),
            expected_funds(self.market, BOB_DEPOSITS, self.bob_fills, ()),
        )

    # The story.

    async def begin(self) -> None:
        self.report.step("The market, the feed and the streams")
        answer = await self.public(market_pb2.GetMarketResponse, f"/v1/markets/{MARKET}")
        self.market.CopyFrom(answer.market)
        self.report.equal("its status", self.market.status, types_pb2.MARKET_STATUS_TRADING)

        async def begun() -> bool | None:
            return (self.socket.has_begun and self.streams.has_begun) or None

        await eventually("all streams begin", begun)
        price = self.streams.prices.newest[MARKET]
        kind = " (simulated)" if price.simulated else ""
        self.report.say(
            f"{MARKET} is at {price.price}, from {marketdata_pb2.FeedKind.Name(price.source)}{kind}"
        )

    async def deposit(self) -> None:
        self.report.step("Deposits from the faucet: Ann over HTTP, Bob over gRPC")
        for asset, amount in ANN_DEPOSITS.items():
            body = {"asset": asset, "amount": str(amount), "requestId": f"first-{asset}"}
            made = [
                await self.as_ann(ledger_pb2.CreateDepositResponse, "POST", "/v1/deposits", body)
                for _ in range(2)
            ]
            self.report.equal(
                f"{amount} {asset} asked for twice with one request id is one transfer",
                made[1].transfer.transfer_id,
                made[0].transfer.transfer_id,
            )
        for asset, amount in BOB_DEPOSITS.items():
            transfer = await faucet(self.channel, self.bob, asset, str(amount))
            self.report.equal(f"Bob's {asset}", Decimal(transfer.amount), amount)

        async def arrived() -> bool | None:
            there = (len(self.socket.account.balances), len(self.streams.account.balances))
            return there == (len(ANN_DEPOSITS), len(BOB_DEPOSITS)) or None

        await eventually("the deposits arrive", arrived)
        await self.check_balances("after the deposits")

    async def meet(self) -> int:
        """Ann offers, Bob takes some of it; returns Ann's order."""
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
                return order_id
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
        bid = _text(Decimal(_mid(self.streams.prices.newest[MARKET], self.market)) - 5)
        await self.place_as_ann(
            side="SIDE_BUY", type="ORDER_TYPE_LIMIT", price=bid, quantity="0.01"
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
                timeout=_TIMEOUT,
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
            answer = await asyncio.wait_for(call.read(), _TIMEOUT)
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
                timeout=_TIMEOUT,
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

    async def streams_agree(self) -> None:
        self.report.step("The streams, message by message without a gap, lead to the same state")
        for listener, name in ((self.socket, "WebSocket"), (self.streams, "gRPC")):

            async def same_book(listener: SocketListener | GrpcListener = listener) -> bool | None:
                # Asked for until both speak of one moment: the book moves all the time.
                answer = await self.public(
                    marketdata_pb2.GetBookResponse, f"/v1/marketdata/{MARKET}/book", depth="20"
                )
                levels = tuple(
                    [(level.price, level.quantity) for level in side]
                    for side in (answer.book.bids, answer.book.asks)
                )
                return levels == listener.book.levels(20) or None

            await eventually(f"{name}: the mirrored book is the book", same_book)
            self.report.true(
                f"{name}: book ({listener.book.messages} updates, {listener.book.checksums}"
                f" checksums), prices ({listener.prices.messages}), account"
                f" ({listener.account.messages}), {len(listener.trades.trades)} trades",
                True,
            )
        mirrored = {key[1]: fill for key, fill in self.streams.account.fills.items()}
        self.report.equal(
            "Bob's stream tells of the fills that his calls told of",
            mirrored,
            {fill.trade_id: fill for fill in self.bob_fills},
        )
        await self.tape_has([*self.bob_fills, *self.socket.account.fills.values()])

    async def tape_has(self, fills: Sequence[order_pb2.Fill]) -> None:
        wanted = {fill.trade_id: (fill.price, fill.quantity) for fill in fills}
        for listener, name in ((self.socket, "WebSocket"), (self.streams, "gRPC")):

            async def told(listener: SocketListener | GrpcListener = listener) -> bool | None:
                tape = listener.trades.trades
                return wanted.keys() <= tape.keys() or None

            await eventually(f"{name}: the tape has the trades", told)
            tape = listener.trades.trades
            self.report.equal(
                f"{name}: the public tape has their trades",
                {trade_id: (tape[trade_id].price, tape[trade_id].quantity) for trade_id in wanted},
                wanted,
            )

    async def ledger_agrees(self) -> None:
        self.report.step("Settlement has written the same into the ledger and the history")
        account = await self.as_ann(order_pb2.GetAccountResponse, "GET", "/v1/account")

        async def settled() -> ledger_pb2.ListBalancesResponse | None:
            answer = await self.as_ann(ledger_pb2.ListBalancesResponse, "GET", "/v1/balances")
            return answer if answer.log_seq >= self.socket.account.seq else None

        balances = await eventually("settlement catches up", settled)
        self.report.equal(
            "Ann's balances in the ledger", funds_in(balances.balances), funds_in(account.balances)
        )
        sums: dict[str, Decimal] = {}
        page = ""
        while True:
            entries = await self.as_ann(
                ledger_pb2.ListLedgerEntriesResponse,
                "GET",
                "/v1/ledger",
                pageSize="7",
                pageToken=page,
            )
            for entry in entries.entries:
                sums[entry.asset] = sums.get(entry.asset, Decimal(0)) + Decimal(entry.amount)
            page = entries.next_page_token
            if not page:
                break
        self.report.equal(
            "her ledger entries, added up",
            sums,
            {asset: free + held for asset, (free, held) in funds_in(balances.balances).items()},
        )
        history = await self.as_ann(history_pb2.ListFillsResponse, "GET", "/v1/history/fills")
        self.report.equal(
            "her fills in the history are those of the stream",
            {fill.trade_id: _gist(fill) for fill in history.fills},
            {fill.trade_id: _gist(fill) for fill in self.socket.account.fills.values()},
        )
        orders = await self.as_ann(history_pb2.ListOrdersResponse, "GET", "/v1/history/orders")
        self.report.true(
            f"none of her {len(orders.orders)} orders in the history is open",
            all(order.status in (FILLED, CANCELLED) for order in orders.orders),
        )

    async def reconciliation_is_zero(self) -> None:
        self.report.step("The books of the whole exchange")
        books = await self.public(ledger_pb2.GetReconciliationResponse, "/v1/reconciliation")
        for asset in books.assets:
            owned = sum(
                Decimal(part)
                for part in (
                    asset.clients_free,
                    asset.clients_held,
                    asset.fees,
                    asset.insurance,
                    asset.house,
                )
            )
            self.report.equal(
                f"{asset.asset}: clients + held + fees + insurance + house",
                owned,
                Decimal(asset.deposits) - Decimal(asset.withdrawals),
            )
            self.report.equal(f"{asset.asset}: difference", asset.difference, "0")
        self.report.true(f"balanced at log position {books.log_seq}", books.balanced)

    async def trace(self, order_id: int) -> None:
        self.report.step(f"The trace of Ann's order {order_id}")

        async def whole() -> gateway_pb2.GetOrderTraceResponse | None:
            try:
                answer = await self.as_ann(
                    gateway_pb2.GetOrderTraceResponse, "GET", f"/v1/traces/{order_id}"
                )
            except ApiError as error:
                if error.reason != "ORDER_NOT_FOUND":
                    raise
                return None
            return answer if {span.service for span in answer.spans} >= TRACED else None

        trace = await eventually(f"spans of {', '.join(sorted(TRACED))}", whole)
        for line in waterfall(trace):
            self.report.say(line)
        ids = {span.span_id for span in trace.spans}
        roots = [span for span in trace.spans if span.parent_span_id not in ids]
        self.report.equal(
            "one root, and it is the gateway's", [span.service for span in roots], ["gateway"]
        )
        self.report.true(
            "no span ends before it begins", all(span.duration_ns >= 0 for span in trace.spans)
        )


def _mid(price: marketdata_pb2.Price, market: market_pb2.Market) -> str:
    """The feed's price on the market's tick."""
    tick = Decimal(market.tick_size)
    return _text((Decimal(price.price) / tick).to_integral_value() * tick)


def _spent(answer: order_pb2.PlaceOrderResponse) -> Decimal:
    return Decimal(answer.order.filled_notional) + Decimal(answer.order.fees)


def _text(number: Decimal) -> str:
    """A number as the exchange writes it: plain, without trailing zeros."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _gist(fill: order_pb2.Fill) -> tuple[object, ...]:
    return (
        fill.order_id,
        fill.side,
        fill.price,
        fill.quantity,
        fill.notional,
        fill.fee,
        fill.maker,
    )


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
    parser.add_argument("--http", default="http://127.0.0.1:8080", help="the gateway's HTTP")
    parser.add_argument("--grpc", default="127.0.0.1:50050", help="the gateway's gRPC door")
    parser.add_argument("--mailbox", default="http://127.0.0.1:8025", help="the dev mailbox")
    given = parser.parse_args()
    endpoints = Endpoints(given.http.rstrip("/"), given.grpc, given.mailbox.rstrip("/"))
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
