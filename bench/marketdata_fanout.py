"""From a tick of the feed to every WebSocket client: `python -m bench.marketdata_fanout`.

A whole exchange runs; its feed is a local server that speaks Backpack's protocol and stamps each
tick with the moment it is sent. One price ticks 20 times a second (4 for 5,000 clients), and a
process of its own holds all clients. What is measured is what a trader sees: from the tick leaving
the feed's server until the client has the frame, with feed, market data, gateway, engine, stores
and the load on the same cores. Stated reference: what one frame costs when the WebSocket library
writes it for one client (header made and task woken each time), measured in the same run. Progress
goes to stderr, one JSON object per line to stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.marketdata.backpack import FakeBackpack, fake_backpack
from tests.support.exchange import Exchange, running_exchange

# Clients -> ticks a second: 100,000 frames a second are more than one process can write.
ROUNDS = {1000: 20, 5000: 4}
CONNECT_SECONDS = 90
_ROOT = Path(__file__).resolve().parent.parent
_TICKS_OF_CPU = os.sysconf("SC_CLK_TCK")


def say(text: str) -> None:
    """A line for the person who waits."""
    print(text, file=sys.stderr, flush=True)


class Pace:
    """How often it ticks; seldom while clients connect."""

    per_second = 1


async def tick(server: FakeBackpack, pace: Pace) -> None:
    """Send ticks, each stamped with now, until cancelled."""
    number, due = 0, time.monotonic()
    while True:
        number += 1
        due = max(due, time.monotonic() - 1) + 1 / pace.per_second
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        cents = 6_500_000 + number % 1000
        bid, ask = f"{cents // 100}.{cents % 100:02}", f"{cents // 100 + 1}.{cents % 100:02}"
        now_us = time.time_ns() // 1000
        await server.send(server.quote("BTC_USDC", bid, ask, T=now_us, E=now_us))


def gateway_pid(exchange: Exchange) -> int:
    """The gateway's process, by what it was started as."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            here = f"TIDEBOOK_DATA_DIR={exchange.data_dir}".encode()
            if here in environment and b"gateway" in command:
                return int(entry.name)
    raise SystemExit("the gateway's process was not found")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_OF_CPU


def resident_kb(pid: int) -> int:
    """Memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


async def measure(
    exchange: Exchange, pace: Pace, clients: int, ticks_per_second: int, seconds: float
) -> dict[str, Any]:
    """One round with so many clients."""
    pid = gateway_pid(exchange)
    before_kb = resident_kb(pid)
    say(f"connecting {clients} clients")
    load = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.support.ws_load", "127.0.0.1"),
        *(str(exchange.port_base), str(clients)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=_ROOT,
    )
    assert load.stdin is not None and load.stdout is not None
    try:
        if await asyncio.wait_for(load.stdout.readline(), CONNECT_SECONDS) != b"ready\n":
            raise SystemExit("the clients could not connect")
        pace.per_second = ticks_per_second
        await asyncio.sleep(1.5)
        memory_kb = resident_kb(pid) - before_kb
        cpu = cpu_seconds(pid)
        load.stdin.write(b"go\n")
        await load.stdin.drain()
        await asyncio.sleep(seconds)
        cpu = cpu_seconds(pid) - cpu
        load.stdin.write(b"stop\n")
        await load.stdin.drain()
        result: dict[str, Any] = json.loads(await load.stdout.readline())
    finally:
        pace.per_second = 1
        if load.returncode is None:
            load.kill()
        await load.wait()
    return {
        "bench": "marketdata/ws_fanout",
        "clients": clients,
        "ticks_per_second": ticks_per_second,
        **result,
        "frames_per_second": round(result["frames"] / result["seconds"]),
        "gateway_cpu_us_per_frame": round(cpu * 1e6 / max(1, result["frames"]), 1),
        "gateway_cpu_percent": round(100 * cpu / seconds),
        "kb_per_connection": round(memory_kb / clients, 1),
    }


async def library_cost(frames: int = 20_000) -> float:
    """CPU microseconds of a frame that the library writes for one client; the stated reference."""
    spent = asyncio.get_running_loop().create_future()

    async def handle(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse(compress=False)
        await response.prepare(request)
        await response.receive()
        text = "x" * 400
        started = time.process_time()
        for _ in range(frames):
            await response.send_str(text)
            # As with many clients: each has its turn of the loop.
            await asyncio.sleep(0)
        spent.set_result((time.process_time() - started) * 1e6 / frames)
        return response

    app = web.Application()
    app.router.add_get("/ws", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        b"\x81\x80\x00\x00\x00\x00"
    )
    try:
        while not spent.done():
            await reader.read(1 << 20)
    finally:
        writer.close()
        await runner.cleanup()
    return float(spent.result())


async def run(options: argparse.Namespace) -> None:
    reference = round(await library_cost(), 1)
    print(json.dumps({"bench": "marketdata/ws_library_frame", "cpu_us": reference}), flush=True)
    say("starting an exchange")
    with tempfile.TemporaryDirectory(prefix="tb") as folder:
        async with fake_backpack() as server:
            feed = f"backpack?ws={server.ws_url}&rest={server.rest_url}"
            async with running_exchange(
                Path(folder),
                TIDEBOOK_FEED=feed,
                TIDEBOOK_BOTS="false",
                TIDEBOOK_LOG_LEVEL="warning",
            ) as exchange:
                while not server.subscriptions:
                    await asyncio.sleep(0.05)
                pace = Pace()
                ticking = asyncio.create_task(tick(server, pace))
                try:
                    await until_live(exchange)
                    for clients, ticks in options.rounds.items():
                        result = await measure(exchange, pace, clients, ticks, options.seconds)
                        ratio = result["gateway_cpu_us_per_frame"] / reference
                        print(json.dumps({**result, "of_library": round(ratio, 2)}), flush=True)
                finally:
                    ticking.cancel()


async def until_live(exchange: Exchange) -> None:
    """Wait until our ticks are the price."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{exchange.http_url}/v1/prices") as answer:
                if not (await answer.json()).get("feed", {}).get("simulated", True):
                    return
            await asyncio.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, help="so many, in place of 1,000 and 5,000")
    parser.add_argument("--ticks", type=int, default=20, help="a second, for --clients")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--quick", action="store_true", help="200 clients for two seconds")
    options = parser.parse_args()
    options.rounds = {options.clients: options.ticks} if options.clients else ROUNDS
    if options.quick:
        options.rounds, options.seconds = {200: 20}, 2.0
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
