"""Durable orders per second through gRPC: `python -m bench.durable`.

A real engine process on a real Valkey with `appendfsync always`; this process is the client. Each
stream sends messages of 100 commands (45 resting orders, 45 cancels of earlier ones, 10 IOC orders
that cross) and keeps a window of them in flight; a result counts when it has arrived, so every one
of them is in the log on disk. Afterwards the log of the run is replayed to see what each stage
costs. Progress goes to stderr, one JSON object per line to stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from tidebook.engine.v1 import log_pb2, order_pb2
from tidebook.engine.v1 import types_pb2 as t

from bench.support.report import emit, milliseconds, say
from mesh.log import LogReader, LogRecord
from mesh.redis import open_redis
from ops.embedded import EmbeddedValkey
from services.engine import compiled, logcodec
from services.engine.codec import MarketTexts, trade_items
from services.engine.domain.commands import CancelOrder, PlaceOrder
from services.engine.domain.exchange import Exchange
from services.engine.encode import Encoder
from services.engine.projection import Projection
from services.engine.recovery import Replayer
from services.engine.watch import AccountFeeds
from tests.support.engine import EngineRig, Trader, engine_rig

MARKETS = ("BTC_USDC", "ETH_USDC", "SOL_USDC", "BNB_USDC")
BATCH = 100
RESTING, CANCELS = 45, 45


def build_messages(stream: int, count: int) -> list[order_pb2.TradeStreamRequest]:
    """The messages of one stream. Even streams bid and odd ones offer, so they trade."""
    market = MARKETS[stream // 2 % len(MARKETS)]
    buys = stream % 2 == 0
    live: deque[str] = deque()
    messages = []
    for number in range(count):
        message = order_pb2.TradeStreamRequest(brief_results=True)
        for n in range(RESTING):
            name = f"{number}.{n}"
            live.append(name)
            # Bids from 99.99 down, offers from 100.01 up.
            message.commands.add(request_id=n).place.CopyFrom(
                _order(market, buys, 10_000 + (1 + n % 20) * (-1 if buys else 1), name)
            )
        for n in range(CANCELS if number else 0):
            cancel = message.commands.add(request_id=RESTING + n).cancel
            cancel.client_order_id = live.popleft()
        for n in range(BATCH - RESTING - CANCELS):
            order = _order(market, buys, 10_000 + (5 if buys else -5), "")
            order.time_in_force = t.TIME_IN_FORCE_IOC
            message.commands.add(request_id=RESTING + CANCELS + n).place.CopyFrom(order)
        messages.append(message)
    return messages


def _order(market: str, buys: bool, cents: int, name: str) -> order_pb2.PlaceOrderRequest:
    return order_pb2.PlaceOrderRequest(
        market=market,
        side=t.SIDE_BUY if buys else t.SIDE_SELL,
        type=t.ORDER_TYPE_LIMIT,
        price=f"{cents // 100}.{cents % 100:02}",
        quantity="0.1",
        client_order_id=name,
    )


async def drive(
    trader: Trader, messages: list[order_pb2.TradeStreamRequest], window: int
) -> tuple[list[float], int]:
    """(seconds from sending to the answer of each message, refused commands)."""
    call = trader.stream()
    room = asyncio.Semaphore(window)
    sent: deque[float] = deque()
    took: list[float] = []
    refused = 0

    async def send() -> None:
        for message in messages:
            await room.acquire()
            sent.append(time.perf_counter())
            await call.write(message)
        await call.done_writing()

    sending = asyncio.create_task(send())
    async for response in call:
        took.append(time.perf_counter() - sent.popleft())
        room.release()
        refused += sum(1 for result in response.results if result.HasField("error"))
    await sending
    assert len(took) == len(messages)
    return took, refused


async def fund(rig: EngineRig, account_id: int) -> Trader:
    """A rich account."""
    for asset in ("USDC", "BTC", "ETH", "SOL", "BNB"):
        await rig.deposit(account_id, asset, "100000000")
    return rig.trader(account_id)


async def measure_streams(rig: EngineRig, streams: int, commands: int, window: int) -> None:
    """Orders per second and time to acknowledgement through TradeStream."""
    traders = [await fund(rig, stream + 1) for stream in range(streams)]
    per_stream = max(1, commands // BATCH // streams)
    say(f"building {streams} x {per_stream} messages")
    messages = [build_messages(stream, per_stream) for stream in range(streams)]
    warm = [part[: per_stream // 10] for part in messages]
    rest = [part[per_stream // 10 :] for part in messages]
    await asyncio.gather(*(drive(tr, part, window) for tr, part in zip(traders, warm, strict=True)))
    skip = len(append_times(rig))
    say("measuring")
    cpu = engine_cpu_seconds(rig)
    began = time.perf_counter()
    answers = await asyncio.gather(
        *(drive(tr, part, window) for tr, part in zip(traders, rest, strict=True))
    )
    seconds = time.perf_counter() - began
    cpu = engine_cpu_seconds(rig) - cpu
    took = [one for part, _ in answers for one in part]
    appends = append_times(rig)[skip:]
    total = len(took) * BATCH
    emit(
        bench="durable_stream",
        commands_per_second=round(total / seconds),
        commands=total,
        refused=sum(refused for _, refused in answers),
        streams=streams,
        window_messages=window,
        ack_ms_p50=milliseconds(took, 50),
        ack_ms_p99=milliseconds(took, 99),
        log_append_ms_p50=milliseconds(appends, 50),
        log_append_ms_p99=milliseconds(appends, 99),
        log_append_share=round(sum(appends) / seconds, 3),
        engine_cpu_us_per_command=round(cpu / total * 1e6, 1),
        load_average=os.getloadavg()[0],
        entries=len(appends),
        commands_per_entry=round(total / max(1, len(appends)), 1),
        core_compiled=compiled.is_compiled(),
        fsync="always",
        python=platform.python_version(),
    )


async def measure_paced(rig: EngineRig, per_second: int, seconds: float) -> None:
    """Time to acknowledgement of single-order messages at a steady pace, beside the log's own."""
    say(f"{per_second} orders a second for {seconds} s, one a message")
    trader = await fund(rig, 900)
    count = int(per_second * seconds)
    skip = len(append_times(rig))
    call = trader.stream()
    due: deque[float] = deque()
    took: list[float] = []

    async def send() -> None:
        began = time.perf_counter()
        live: deque[str] = deque()
        for number in range(count):
            message = order_pb2.TradeStreamRequest(brief_results=True)
            if number % 2:
                message.commands.add().cancel.client_order_id = live.popleft()
            else:
                live.append(f"p{number}")
                order = _order(MARKETS[0], True, 9_000, live[-1])
                message.commands.add().place.CopyFrom(order)
            at = began + number / per_second
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            # From when it was due: a client that falls behind must not hide it.
            due.append(at)
            await call.write(message)
        await call.done_writing()

    first = time.perf_counter()
    sending = asyncio.create_task(send())
    async for _ in call:
        took.append(time.perf_counter() - due.popleft())
    await sending
    lasted = time.perf_counter() - first
    appends = append_times(rig)[skip:]
    ack, append = milliseconds(took, 50), milliseconds(appends, 50)
    emit(
        bench="durable_paced",
        orders_per_second=per_second,
        # Less than that: this machine was too busy for the client or the engine to keep up.
        achieved_per_second=round(len(took) / lasted),
        ack_ms_p50=ack,
        ack_ms_p99=milliseconds(took, 99),
        log_append_ms_p50=append,
        log_append_ms_p99=milliseconds(appends, 99),
        ack_over_append_p50=round(ack / append, 2),
        entries=len(appends),
        load_average=os.getloadavg()[0],
    )


async def measure_unary(rig: EngineRig, orders: int, clients: int) -> None:
    """Orders per second through single calls."""
    say(f"{orders} single calls of {clients} clients")
    traders = [await fund(rig, 1000 + number) for number in range(clients)]
    took: list[float] = []

    async def place(trader: Trader) -> None:
        for number in range(orders // clients):
            began = time.perf_counter()
            await trader.place(price=f"{1 + number % 150}", quantity="1")
            took.append(time.perf_counter() - began)
            if number % 150 == 149:
                await trader.stub.CancelAllOrders(
                    order_pb2.CancelAllOrdersRequest(), metadata=trader.metadata
                )

    began = time.perf_counter()
    await asyncio.gather(*map(place, traders))
    emit(
        bench="durable_unary",
        orders_per_second=round(len(took) / (time.perf_counter() - began)),
        clients=clients,
        ack_ms_p50=milliseconds(took, 50),
        ack_ms_p99=milliseconds(took, 99),
    )


def engine_cpu_seconds(rig: EngineRig) -> float:
    """CPU that the engine's process has used; 0 where /proc does not say."""
    assert rig.process is not None
    try:
        fields = Path(f"/proc/{rig.process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def append_times(rig: EngineRig) -> list[float]:
    """Seconds of every append so far, from the engine's own log lines."""
    return [
        json.loads(line)["append_ms"] / 1000
        for line in rig.log_path.read_text().splitlines()
        if '"entry_committed"' in line
    ]


async def measure_replay(records: list[LogRecord]) -> None:
    """Commands per second of recovery, and what each stage of a command costs."""
    exchange, projection = Exchange(), Projection()
    feeds = AccountFeeds(projection, Encoder(projection, MarketTexts()))
    replayer = Replayer(exchange, projection, feeds)
    began = time.perf_counter()
    for record in records:
        replayer.apply(record)
    seconds = time.perf_counter() - began
    commands = exchange.last_command_seq
    emit(
        bench="replay",
        commands_per_second=round(commands / seconds),
        commands=commands,
        open_orders=exchange.open_order_count(),
    )
    emit(bench="stages_us_per_command", **stage_costs(records))


class Stages:
    """CPU seconds spent in each named stage."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add what the block takes to `stage`."""
        began = time.process_time()
        yield
        self.spent[stage] = self.spent.get(stage, 0.0) + time.process_time() - began


def stage_costs(records: list[LogRecord]) -> dict[str, float]:
    """CPU microseconds per command of each stage, one after the other on the same commands."""
    exchange, projection, texts = Exchange(), Projection(), MarketTexts()
    encoder = Encoder(projection, texts)
    stage = Stages()
    count = 0
    for record in records:
        with stage("log_parse"):
            entry = log_pb2.LogEntry.FromString(record.payload)
        with stage("log_decode"):
            commands = [logcodec.decode_command(logged) for logged in entry.commands]
        count += len(commands)
        with stage("core"):
            outcomes = [exchange.apply(command, entry.time_ns) for command in commands]
        pairs = list(zip(commands, outcomes, strict=True))
        again = logcodec.open_commands()
        with stage("log_encode"):
            for command, events in pairs:
                again.add(command, events, 1, entry.time_ns, b"t" * 16, b"s" * 8)
            again.getvalue()
        projection.begin_entry(record.seq, entry.time_ns)
        with stage("read_model"):
            for command, events in pairs:
                projection.apply(command, events)
        if len(texts.by_id) != len(projection.markets):
            texts.replace(projection.markets)
        if isinstance(commands[0], PlaceOrder | CancelOrder):
            response = order_pb2.TradeStreamResponse()
            with stage("answer"):
                for command, events in pairs:
                    encoder.write_brief(response.results.add(), 1, command, events)
    stage.spent["request_decode"] = _request_decode_seconds(texts, count)
    costs = {name: round(seconds / count * 1e6, 2) for name, seconds in stage.spent.items()}
    # Of a live order; the other two are recovery's.
    live = {name: us for name, us in costs.items() if name not in ("log_parse", "log_decode")}
    shares = {f"{name}_share": round(us / sum(live.values()), 2) for name, us in live.items()}
    return costs | shares


def _request_decode_seconds(texts: MarketTexts, count: int) -> float:
    """Seconds that decoding `count` commands of the workload would take."""
    payloads = [message.SerializeToString() for message in build_messages(0, 50)]
    began = time.process_time()
    for payload in payloads:
        trade_items(order_pb2.TradeStreamRequest.FromString(payload).commands, texts, 1)
    return (time.process_time() - began) / (len(payloads) * BATCH) * count


async def run(arguments: argparse.Namespace) -> None:
    """All measurements on one engine."""
    data_dir = Path(tempfile.mkdtemp(prefix="tb-bench-", dir="/tmp"))
    valkey = EmbeddedValkey(data_dir)
    await valkey.start()
    try:
        async with engine_rig(data_dir, valkey.url, log_level="debug", log_format="json") as rig:
            say("starting the engine")
            await rig.spawn()
            await measure_streams(rig, arguments.streams, arguments.commands, arguments.window)
            await measure_paced(rig, 1000, arguments.paced_seconds)
            await measure_unary(rig, arguments.orders, 32)
        redis = open_redis(rig.settings)
        records: list[LogRecord] = []
        reader = LogReader(redis, 0)
        while part := await reader.read(len(records), 500):
            records += part
        await redis.aclose()
        say(f"replaying {len(records)} entries")
        await measure_replay(records)
    finally:
        await valkey.stop()
        shutil.rmtree(data_dir, ignore_errors=True)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=100_000, help="through streams")
    parser.add_argument("--orders", type=int, default=3000, help="through single calls")
    parser.add_argument("--paced-seconds", type=float, default=5.0, help="at 1,000 orders/s")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--window", type=int, default=4, help="messages in flight per stream")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
