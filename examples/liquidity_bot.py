"""A market maker for the demo: quotes spot and margin markets around the external feed's price.

    python examples/liquidity_bot.py --http http://127.0.0.1:8080 --grpc 127.0.0.1:50050 \\
        --state liquidity.json

Two accounts: a maker that keeps a ladder of post-only orders on both sides, and a taker that trades
a little now and then, so that the tape moves. Everything goes through the public gRPC door. Once a
second at most, one message with all changes goes out on the order stream; orders vanish with the
stream (cancel on disconnect), and when the exchange comes back, so does the bot.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path

import aiohttp
import grpc
import structlog
from tidebook.engine.v1 import (
    market_pb2,
    market_pb2_grpc,
    order_pb2,
    order_pb2_grpc,
    position_pb2,
    position_pb2_grpc,
    types_pb2,
)
from tidebook.marketdata.v1 import marketdata_pb2, marketdata_pb2_grpc

from examples.client import (
    ApiError,
    ApiKey,
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
from examples.ladder import BUY, SELL, Ladder, Quote, Rules, Slot, cancel_command, place_command

# One faucet deposit of each asset, of about the same worth; more only when less than half is left.
FAUCET = {
    "USDC": Decimal(100_000),
    "BTC": Decimal(1),
    "ETH": Decimal(20),
    "SOL": Decimal(400),
    "DOGE": Decimal(400_000),
    "BNB": Decimal(100),
}
# Never more than this on one side of one market, and of USDC never more than this part.
MOST_PER_SIDE = Decimal(20_000)
SHARE = Decimal("0.8")
# Margin markets hold this part of the USDC, at this leverage.
MARGIN_SHARE = Decimal("0.1")
LEVERAGE = 10
TAKER_SMALLEST, TAKER_LARGEST = 20, 250
TAKER_EVERY_SECONDS = 2.5
RECONCILE_SECONDS = 15.0
REFILL_SECONDS = 60.0
ANSWER_SECONDS = 15.0
MOST_WAIT_SECONDS = 3.0

# The exchange or the way to it is at fault: begin again. Any other refusal concerns one order.
_BROKEN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
TradeCall = grpc.aio.StreamStreamCall[order_pb2.TradeStreamRequest, order_pb2.TradeStreamResponse]
log = structlog.get_logger("tidebook.bots")


class UnknownState(Exception):
    """The state file is something else's: it is left as it is."""


class StreamEnded(Exception):
    """A stream that should go on for ever did not."""


# Whatever a restart of the exchange, or a way to it that is cut, looks like from here.
_EXPECTED = (grpc.aio.AioRpcError, aiohttp.ClientError, ApiError, OSError, StreamEnded)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    endpoints: Endpoints
    state: Path
    markets: frozenset[str]
    interval_seconds: float
    seed: int


@dataclass(slots=True)
class Feed:
    """The newest external price of each market; stale ones are left out."""

    prices: dict[str, Decimal] = field(default_factory=dict)

    async def follow(self, channel: grpc.aio.Channel, markets: Sequence[str]) -> None:
        """Keep up to date until the stream breaks."""
        call = marketdata_pb2_grpc.MarketDataServiceStub(channel).WatchPrices(
            marketdata_pb2.WatchPricesRequest(markets=markets)
        )
        try:
            async for update in call:
                for price in update.prices:
                    if price.stale or not price.price:
                        self.prices.pop(price.market, None)
                    else:
                        self.prices[price.market] = Decimal(price.price)
        finally:
            call.cancel()
        raise StreamEnded("prices")


class Account:
    """One of the bot's accounts: who it is, what it has, and the faucet when that runs low."""

    def __init__(self, name: str, channel: grpc.aio.Channel, key: ApiKey) -> None:
        self.name = name
        self.source = KeyHolder(channel, key)
        self.orders = order_pb2_grpc.OrderServiceStub(channel)
        self.positions = position_pb2_grpc.PositionServiceStub(channel)
        self.total: dict[str, Decimal] = {}
        # Market -> what its margin position was worth when it was looked at, negative for short.
        self.exposure: dict[str, Decimal] = {}
        self._channel = channel
        self._look_at = 0.0

    async def look(self, assets: set[str]) -> None:
        """Read the balances now and then, and ask the faucet for what is low."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + REFILL_SECONDS
        await self._read()
        low = sorted(a for a in assets if self.total.get(a, Decimal(0)) < FAUCET.get(a, 0) / 2)
        for asset in low:
            try:
                await faucet(self._channel, self.source, asset, format(FAUCET[asset], "f"))
            except grpc.aio.AioRpcError as error:
                if error.code() in _BROKEN:
                    raise
                log.warning("faucet_refused", account=self.name, asset=asset, why=reason_of(error))
        if low:
            log.info("refilled", account=self.name, assets=" ".join(low))
            await self._read()

    async def _read(self) -> None:
        answer = await self.orders.GetAccount(
            order_pb2.GetAccountRequest(),
            metadata=await bearer(self.source),
            timeout=ANSWER_SECONDS,
        )
        self.total = {b.asset: Decimal(b.free) + Decimal(b.held) for b in answer.balances}
        listed = await self.positions.ListPositions(
            position_pb2.ListPositionsRequest(),
            metadata=await bearer(self.source),
            timeout=ANSWER_SECONDS,
        )
        self.exposure = {
            p.market: Decimal(p.quantity) * Decimal(p.mark_price or 0) for p in listed.positions
        }

    async def set_leverage(self, market: str, leverage: int) -> None:
        """Choose it for the orders to come; no order may be open there."""
        await self.positions.SetLeverage(
            position_pb2.SetLeverageRequest(market=market, leverage=leverage),
            metadata=await bearer(self.source),
            timeout=ANSWER_SECONDS,
        )


class Maker:
    """Keeps the ladders."""

    def __init__(
        self, account: Account, rules: Sequence[Rules], feed: Feed, rng: random.Random
    ) -> None:
        self._account = account
        self._ladders = [Ladder(one) for one in rules]
        self._margin_markets = [one.market for one in rules if one.margin]
        self._assets = {one.base for one in rules} | {one.quote for one in rules}
        self._feed = feed
        self._rng = rng
        self._reconcile_at = time.monotonic() + RECONCILE_SECONDS
        self._token = ""

    async def run(self, stop: asyncio.Event, interval_seconds: float) -> None:
        """Quote until `stop`, then take everything back; raises when the stream breaks."""
        await self._account.look(self._assets)
        self._token = await self._account.source.token()
        call: TradeCall = self._account.orders.TradeStream(
            metadata=await bearer(self._account.source)
        )
        try:
            # What an earlier life may have left, and with it what this stream is to be like.
            await self._send(call, [_cancel_everything()], first=True)
            for market in self._margin_markets:
                await self._account.set_leverage(market, LEVERAGE)
            while not stop.is_set():
                await self._account.look(self._assets)
                await self._requote(call)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), interval_seconds)
            await self._send(call, [_cancel_everything()])
            await call.done_writing()
        finally:
            call.cancel()

    async def _requote(self, call: TradeCall) -> None:
        if time.monotonic() >= self._reconcile_at:
            self._reconcile_at = time.monotonic() + RECONCILE_SECONDS
            await self._reconcile(call)
        cancels: list[order_pb2.TradeCommand] = []
        places: list[order_pb2.TradeCommand] = []
        placed: dict[int, tuple[Ladder, Slot, Quote]] = {}
        for ladder in self._ladders:
            for slot in self._outdated(ladder, placed):
                cancels.append(cancel_command(0, ladder.quotes.pop(slot).order_id))
        for request_id, (ladder, slot, quote) in placed.items():
            places.append(place_command(request_id, ladder.rules, slot, quote))
        renewed = await self._account.source.token() != self._token
        if not (cancels or places or renewed):
            return
        # Cancels first: they free the funds that the new orders need.
        for result in await self._send(call, [*cancels, *places]):
            if result.request_id and result.WhichOneof("result") == "brief":
                ladder, slot, quote = placed[result.request_id]
                quote.order_id = result.brief.order_id
                ladder.quotes[slot] = quote

    def _outdated(
        self, ladder: Ladder, placed: dict[int, tuple[Ladder, Slot, Quote]]
    ) -> Sequence[Slot]:
        """What of a ladder is to be cancelled; what is to be placed is added to `placed`."""
        price = self._feed.prices.get(ladder.rules.pair)
        if price is None:
            return list(ladder.quotes)
        bid_funds, ask_funds = self._funds(ladder.rules, price)
        changes = ladder.changes(price, bid_funds=bid_funds, ask_funds=ask_funds, rng=self._rng)
        for slot, quote in changes.place.items():
            placed[len(placed) + 1] = (ladder, slot, quote)
        return changes.cancel

    def _funds(self, rules: Rules, price: Decimal) -> tuple[Decimal, Decimal]:
        """What the two sides of a market may come to, in its quote asset."""
        total = self._account.total
        money = total.get(rules.quote, Decimal(0))
        if not rules.margin:
            spot = len(self._ladders) - len(self._margin_markets)
            coins = total.get(rules.base, Decimal(0)) * price
            return min(MOST_PER_SIDE, money * SHARE / spot), min(MOST_PER_SIDE, coins * SHARE)
        side = min(MOST_PER_SIDE, money * MARGIN_SHARE * LEVERAGE / 2 / len(self._margin_markets))
        # The further a position has gone, the less is offered that would take it further.
        exposure = self._account.exposure.get(rules.market, Decimal(0))
        none = Decimal(0)
        return max(none, side - max(exposure, none)), max(none, side + min(exposure, none))

    async def _reconcile(self, call: TradeCall) -> None:
        """Forget quotes that were traded, and take back orders that belong to no slot."""
        answer = await self._account.orders.ListOpenOrders(
            order_pb2.ListOpenOrdersRequest(),
            metadata=await bearer(self._account.source),
            timeout=ANSWER_SECONDS,
        )
        whole = {
            order.order_id
            for order in answer.orders
            if Decimal(order.filled_quantity or 0) * 2 < Decimal(order.quantity)
        }
        kept = set()
        for ladder in self._ladders:
            ladder.quotes = {s: q for s, q in ladder.quotes.items() if q.order_id in whole}
            kept |= {quote.order_id for quote in ladder.quotes.values()}
        strays = [order.order_id for order in answer.orders if order.order_id not in kept]
        if strays:
            await self._send(call, [cancel_command(0, order_id) for order_id in strays])

    async def _send(
        self, call: TradeCall, commands: Sequence[order_pb2.TradeCommand], *, first: bool = False
    ) -> list[order_pb2.TradeResult]:
        """One message out, and its results."""
        message = order_pb2.TradeStreamRequest(
            commands=commands, cancel_on_disconnect=first, brief_results=first
        )
        token = await self._account.source.token()
        if token != self._token:
            # The stream would end with the token that it was opened with.
            message.access_token = self._token = token
        await call.write(message)
        results: list[order_pb2.TradeResult] = []
        while len(results) < len(commands):
            answer = await asyncio.wait_for(call.read(), ANSWER_SECONDS)
            if not isinstance(answer, order_pb2.TradeStreamResponse):
                raise StreamEnded("orders")
            results.extend(answer.results)
        return results


class Taker:
    """Buys or sells a little at the market, at random."""

    def __init__(
        self, account: Account, rules: Sequence[Rules], feed: Feed, rng: random.Random
    ) -> None:
        self._account = account
        self._rules = rules
        self._assets = {one.base for one in rules} | {one.quote for one in rules}
        self._feed = feed
        self._rng = rng

    async def run(self) -> None:
        """Trade until the exchange goes away."""
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / TAKER_EVERY_SECONDS))
            await self._account.look(self._assets)
            rules = self._rng.choice(self._rules)
            price = self._feed.prices.get(rules.pair)
            if price is not None:
                await self._trade(rules, price)

    async def _trade(self, rules: Rules, price: Decimal) -> None:
        notional = Decimal(self._rng.randint(TAKER_SMALLEST, TAKER_LARGEST))
        quantity = rules.quantity_for(notional, price)
        if not quantity:
            return
        request = order_pb2.PlaceOrderRequest(
            market=rules.market,
            side=self._rng.choice((BUY, SELL)),
            type=types_pb2.ORDER_TYPE_MARKET,
            quantity=format(quantity, "f"),
            max_slippage_bps=100,
        )
        try:
            await self._account.orders.PlaceOrder(
                request, metadata=await bearer(self._account.source), timeout=ANSWER_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            if error.code() in _BROKEN:
                raise
            log.debug("taker_refused", market=rules.market, why=reason_of(error))


async def keys_of(options: Options) -> dict[str, ApiKey]:
    """The two accounts' API keys: from the state file, or of two new users."""
    if options.state.exists():
        try:
            kept = json.loads(options.state.read_text())
            return {name: ApiKey(**kept[name]) for name in ("maker", "taker")}
        except (ValueError, KeyError, TypeError):
            raise UnknownState(f"{options.state} does not have this bot's API keys") from None
    keys = {}
    async with HttpApi(options.endpoints) as http:
        for name in ("maker", "taker"):
            person = await Person.sign_up(http, name=f"liquidity-{name}")
            keys[name] = await person.make_api_key("liquidity bot", ["SCOPE_READ", "SCOPE_TRADE"])
            log.info("signed_up", account=name, account_id=person.account_id)
    _write_private(options.state, json.dumps({n: asdict(k) for n, k in keys.items()}))
    return keys


async def quote_until_stopped(options: Options, stop: asyncio.Event) -> None:
    """One life: from signing in until something breaks or `stop` is set."""
    keys = await keys_of(options)
    async with grpc_channel(options.endpoints.grpc) as channel:
        answer = await market_pb2_grpc.MarketServiceStub(channel).ListMarkets(
            market_pb2.ListMarketsRequest(), timeout=ANSWER_SECONDS
        )
        rules = [
            Rules.of(market)
            for market in answer.markets
            if market.kind in (types_pb2.MARKET_KIND_SPOT, types_pb2.MARKET_KIND_MARGIN)
            and (not options.markets or market.market in options.markets)
        ]
        feed, rng = Feed(), random.Random(options.seed)
        maker = Maker(Account("maker", channel, keys["maker"]), rules, feed, rng)
        taker = Taker(Account("taker", channel, keys["taker"]), rules, feed, rng)
        log.info("quoting", markets=" ".join(one.market for one in rules))
        async with asyncio.TaskGroup() as group:
            others = [
                group.create_task(feed.follow(channel, sorted({one.pair for one in rules}))),
                group.create_task(taker.run()),
            ]
            await maker.run(stop, options.interval_seconds)
            for task in others:
                task.cancel()


async def run(options: Options, stop: asyncio.Event) -> None:
    """Live again and again until `stop` is set."""
    wait_seconds = 0.5
    while not stop.is_set():
        began = time.monotonic()
        life = asyncio.create_task(quote_until_stopped(options, stop))
        stopped = asyncio.create_task(stop.wait())
        # A maker that hangs in a dead call must not hold up the end.
        await asyncio.wait({life, stopped}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({life}, timeout=5.0)
        stopped.cancel()
        why = await _end_of(life, options)
        if why is None or stop.is_set():
            continue
        if time.monotonic() - began > 30:
            wait_seconds = 0.5
        log.warning("interrupted", why=why, again_in_s=wait_seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), wait_seconds * random.uniform(0.7, 1.3))
        wait_seconds = min(wait_seconds * 2, MOST_WAIT_SECONDS)


async def _end_of(life: asyncio.Task[None], options: Options) -> str | None:
    """Why a life ended, None for no reason to worry; raises what is not the exchange's doing."""
    life.cancel()
    await asyncio.wait({life})
    if life.cancelled() or (error := life.exception()) is None:
        return None
    first = _first(error)
    if not isinstance(first, _EXPECTED):
        raise error
    if not isinstance(first, grpc.aio.AioRpcError):
        return f"{type(first).__name__} {first}"
    why = reason_of(first)
    if why == "API_KEY_INVALID":
        # Another exchange than the one this key was made on.
        options.state.unlink(missing_ok=True)
    return why


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _cancel_everything() -> order_pb2.TradeCommand:
    return order_pb2.TradeCommand(cancel_all=order_pb2.CancelAllOrdersRequest())


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    endpoint_arguments(parser)
    parser.add_argument("--state", type=Path, default=Path("liquidity.json"), help="kept API keys")
    parser.add_argument("--markets", default="", help="comma list; default: every spot market")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between requotes")
    parser.add_argument("--seed", type=int, default=7, help="of sizes and random trades")
    given = parser.parse_args(arguments)
    return Options(
        endpoints=endpoints_of(given),
        state=given.state,
        markets=frozenset(filter(None, given.markets.split(","))),
        interval_seconds=given.interval,
        seed=given.seed,
    )


async def main() -> None:
    """Run until SIGTERM or Ctrl-C."""
    options, stop = parse_options(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await run(options, stop)
    except UnknownState as error:
        raise SystemExit(str(error)) from None
    log.info("stopped")


if __name__ == "__main__":
    asyncio.run(main())
