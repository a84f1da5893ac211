"""After the trading: the streams, the ledger, the books and the trace must all tell one story."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from tidebook.engine.v1 import order_pb2, types_pb2
from tidebook.gateway.v1 import gateway_pb2
from tidebook.marketdata.v1 import marketdata_pb2
from tidebook.settlement.v1 import history_pb2, ledger_pb2

from examples.client import ApiError, TokenSource
from examples.proving.checks import eventually, funds_in, waterfall
from examples.proving.listeners import GrpcListener, SocketListener
from examples.proving.stage import MARKET, Stage, parse

# The parts that must have worked on an order for its trace to be whole.
TRACED = frozenset({"gateway", "engine", "settlement", "marketdata"})
FILLED, CANCELLED = types_pb2.ORDER_STATUS_FILLED, types_pb2.ORDER_STATUS_CANCELLED


async def streams_agree(stage: Stage) -> None:
    """Every stream, mirrored, leads to what the calls say."""
    stage.report.step("The streams, message by message without a gap, lead to the same state")
    for listener, name in ((stage.socket, "WebSocket"), (stage.streams, "gRPC")):

        async def same_book(listener: SocketListener | GrpcListener = listener) -> bool | None:
            # Asked for until both speak of one moment: the book moves all the time.
            answer = await stage.public(
                marketdata_pb2.GetBookResponse, f"/v1/marketdata/{MARKET}/book", depth="20"
            )
            levels = tuple(
                [(level.price, level.quantity) for level in side]
                for side in (answer.book.bids, answer.book.asks)
            )
            return levels == listener.book.levels(20) or None

        await eventually(f"{name}: the mirrored book is the book", same_book)
        stage.report.true(
            f"{name}: book ({listener.book.messages} updates, {listener.book.checksums}"
            f" checksums), prices ({listener.prices.messages}), account"
            f" ({listener.account.messages}), {len(listener.trades.trades)} trades",
            True,
        )
    mirrored = {key[1]: fill for key, fill in stage.streams.account.fills.items()}
    stage.report.equal(
        "Bob's stream tells of the fills that his calls told of",
        mirrored,
        {fill.trade_id: fill for fill in stage.bob_fills},
    )
    await _candles_have(stage, stage.bob_fills)
    await _tape_has(stage, [*stage.bob_fills, *stage.socket.account.fills.values()])


async def _tape_has(stage: Stage, fills: Sequence[order_pb2.Fill]) -> None:
    wanted = {fill.trade_id: (fill.price, fill.quantity) for fill in fills}
    for listener, name in ((stage.socket, "WebSocket"), (stage.streams, "gRPC")):

        async def told(listener: SocketListener | GrpcListener = listener) -> bool | None:
            tape = listener.trades.trades
            return wanted.keys() <= tape.keys() or None

        await eventually(f"{name}: the tape has the trades", told)
        tape = listener.trades.trades
        stage.report.equal(
            f"{name}: the public tape has their trades",
            {trade_id: (tape[trade_id].price, tape[trade_id].quantity) for trade_id in wanted},
            wanted,
        )


async def _candles_have(stage: Stage, fills: Sequence[order_pb2.Fill]) -> None:
    """The minute candles since the first fill span all prices, and hold what was traded."""
    minute = min(fill.time.seconds for fill in fills) // 60 * 60
    prices = [Decimal(fill.price) for fill in fills]
    traded = sum((Decimal(fill.quantity) for fill in fills), Decimal(0))

    async def made() -> bool | None:
        answer = await stage.public(
            marketdata_pb2.ListCandlesResponse, f"/v1/marketdata/{MARKET}/candles"
        )
        candles = [candle for candle in answer.candles if candle.open_time.seconds >= minute]
        return (
            bool(candles)
            and min(Decimal(candle.low) for candle in candles) <= min(prices)
            and max(Decimal(candle.high) for candle in candles) >= max(prices)
            and sum((Decimal(candle.volume) for candle in candles), Decimal(0)) >= traded
        ) or None

    await eventually("the one-minute candles have the trades", made)
    stage.report.true(f"the one-minute candles have the {len(fills)} trades", True)


async def ledger_agrees(stage: Stage) -> None:
    """Settlement's ledger and history say what the engine and the streams said."""
    stage.report.step("Settlement has written the same into the ledger and the history")
    account = await stage.as_ann(order_pb2.GetAccountResponse, "GET", "/v1/account")

    async def settled() -> ledger_pb2.ListBalancesResponse | None:
        answer = await stage.as_ann(ledger_pb2.ListBalancesResponse, "GET", "/v1/balances")
        return answer if answer.log_seq >= stage.socket.account.seq else None

    balances = await eventually("settlement catches up", settled)
    stage.report.equal(
        "Ann's balances in the ledger", funds_in(balances.balances), funds_in(account.balances)
    )
    sums: dict[str, Decimal] = {}
    page = ""
    while True:
        entries = await stage.as_ann(
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
    stage.report.equal(
        "her ledger entries, added up",
        sums,
        {asset: free + held for asset, (free, held) in funds_in(balances.balances).items()},
    )
    history = await stage.as_ann(history_pb2.ListFillsResponse, "GET", "/v1/history/fills")
    stage.report.equal(
        "her fills in the history are those of the stream",
        {fill.trade_id: _gist(fill) for fill in history.fills},
        {fill.trade_id: _gist(fill) for fill in stage.socket.account.fills.values()},
    )
    orders = await stage.as_ann(history_pb2.ListOrdersResponse, "GET", "/v1/history/orders")
    stage.report.true(
        f"none of her {len(orders.orders)} orders in the history is open",
        all(order.status in (FILLED, CANCELLED) for order in orders.orders),
    )


async def reconciliation_is_zero(stage: Stage) -> None:
    """Per asset, what all own is what came in."""
    stage.report.step("The books of the whole exchange")
    books = await stage.public(ledger_pb2.GetReconciliationResponse, "/v1/reconciliation")
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
        stage.report.equal(
            f"{asset.asset}: clients + held + fees + insurance + house",
            owned,
            Decimal(asset.deposits) - Decimal(asset.withdrawals),
        )
        stage.report.equal(f"{asset.asset}: difference", asset.difference, "0")
    stage.report.true(f"balanced at log position {books.log_seq}", books.balanced)


async def trace_is_whole(stage: Stage, order_id: int, owner: TokenSource, whose: str) -> None:
    """One order's spans, from the gateway to the ledger and the market data."""
    stage.report.step(f"The trace of {whose} order {order_id}")

    async def whole() -> gateway_pb2.GetOrderTraceResponse | None:
        try:
            found = await stage.http.call(
                "GET", f"/v1/traces/{order_id}", token=await owner.token()
            )
        except ApiError as error:
            if error.reason != "ORDER_NOT_FOUND":
                raise
            return None
        answer = parse(gateway_pb2.GetOrderTraceResponse, found)
        return answer if {span.service for span in answer.spans} >= TRACED else None

    trace = await eventually(f"spans of {', '.join(sorted(TRACED))}", whole)
    for line in waterfall(trace):
        stage.report.say(line)
    ids = {span.span_id for span in trace.spans}
    roots = [span for span in trace.spans if span.parent_span_id not in ids]
    stage.report.equal(
        "one root, and it is the gateway's", [span.service for span in roots], ["gateway"]
    )
    stage.report.true(
        "no span ends before it begins", all(span.duration_ns >= 0 for span in trace.spans)
    )


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
