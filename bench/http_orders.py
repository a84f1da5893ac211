"""Durable orders per second over HTTP and over a WebSocket: `python -m bench.http_orders`.

Gateway, engine, log store (`appendfsync always`) and a lean client share the machine; nothing else
of the exchange runs. Each of 64 keep-alive connections belongs to an account of its own, one half
buys and the other sells at one price, so that every order rests or fills; it counts when it is
answered, and afterwards the log must have exactly those that were answered. Stated references, in
the same run and from the same client: the bare HTTP server of the gateway answering a constant, and
the gateway of PyPI's `matching-engine` (one process, a local file log with fsync) with the same
orders. Then the whole exchange runs: orders beside settlement and market data, the time of a
sign-in against bcrypt alone, and `GetMe`. CPU is in microseconds per answer. Progress goes to
stderr, one JSON object per line to stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import bcrypt

from bench.support.order_load import Plan
from bench.support.order_path import send
from bench.support.peers import GATEWAY_PEER, NotAvailable, interpreter
from bench.support.report import emit, milliseconds, say
from examples.client import Endpoints, HttpApi, Person
from mesh.config import load_settings
from mesh.logging import setup_logging
from mesh.scheduling import run_in_turns
from ops.embedded import EmbeddedValkey
from ops.state import read_state
from services.engine import compiled
from tests.support.exchange import Exchange, running_exchange
from tests.support.order_path import (
    UNLIMITED,
    OrderPath,
    end,
    order_path,
    spawn,
    until_serving,
)
from tests.support.ports import free_port

CONNECTIONS = 64
# Commands under way on the one WebSocket.
WINDOW = 64
PEOPLE = 8
BCRYPT_COST = 12
IDLE = ("auth", "mailbox")
RICH = "USDC=100000000,BTC=1000000"
SIDES = ("SIDE_BUY", "SIDE_SELL")


def order(number: int, run: str) -> str:
    """The orders of a connection, as `Plan` takes them."""
    return (
        f'{{"market":"BTC_USDC","side":"{SIDES[number % 2]}","type":"ORDER_TYPE_LIMIT",'
        f'"price":"100","quantity":"0.1","clientOrderId":"{run}.{number}.%d"}}'
    )


def orders_plan(port: int, tokens: list[str], options: argparse.Namespace, run: str) -> Plan:
    """Orders over `CONNECTIONS` connections, which share the accounts of `tokens`."""
    who = [tokens[number % len(tokens)] for number in range(CONNECTIONS)]
    return Plan(
        port=port,
        headers=[f"Authorization: Bearer {token}\r\n" for token in who],
        bodies=[order(number, run) for number in range(CONNECTIONS)],
        warm_seconds=options.warm,
        seconds=options.seconds,
    )


async def measure_bare(options: argparse.Namespace, folder: Path) -> float:
    """Requests a second that the bare server answers."""
    say("the bare server")
    port = free_port()
    process = await spawn(
        "-m", "bench.support.bare_http", str(port), environment={}, output=folder / "bare.log"
    )
    try:
        await until_serving(port, "/")
        plan = orders_plan(port, ["x" * 500], options, "bare")
        _, report = await send(plan, {"server": [process.pid]})
    finally:
        await end(process)
    emit(bench="http_orders/bare_server", connections=CONNECTIONS, **report)
    return float(report["per_second"])


async def measure_peer(options: argparse.Namespace, folder: Path) -> float:
    """Orders a second of the published gateway; 0 where it cannot be had."""
    name = "http_orders/matching_engine_gateway"
    try:
        python = str(interpreter(GATEWAY_PEER))
    except NotAvailable as reason:
        emit(bench=name, not_available=str(reason))
        return 0.0
    say("the gateway of matching-engine")
    port = free_port()
    process = await spawn(
        *("-m", "matching_engine", "serve", "--port", str(port)),
        environment={"ME_DATA_DIR": str(folder / "peer"), "ME_MARKETS": "BTC-USDC:0.01:0.00001"},
        output=folder / "peer.log",
        python=python,
    )
    try:
        await until_serving(port, "/healthz")
        plan = Plan(
            port=port,
            headers=[""] * CONNECTIONS,
            bodies=[
                f'{{"account":{number + 1},"side":"{("buy", "sell")[number % 2]}",'
                '"price":"100","quantity":"0.1"}'
                for number in range(CONNECTIONS)
            ],
            request="POST /markets/BTC-USDC/orders",
            warm_seconds=options.warm,
            seconds=options.seconds,
        )
        _, report = await send(plan, {"server": [process.pid]})
    finally:
        await end(process)
    emit(bench=name, connections=CONNECTIONS, **report)
    return float(report["per_second"])


@contextlib.asynccontextmanager
async def durable_path(gateways: int) -> AsyncIterator[tuple[OrderPath, dict[str, list[int]]]]:
    """An order path on a log store of its own, with the process ids by part."""
    with tempfile.TemporaryDirectory(prefix="tb") as name:
        valkey = EmbeddedValkey(Path(name))
        await valkey.start()
        try:
            async with order_path(
                Path(name), valkey.url, gateways=gateways, log_level="warning"
            ) as path:
                assert path.rig.process is not None
                yield (
                    path,
                    {
                        "gateway": [process.pid for process in path.gateways],
                        "engine": [path.rig.process.pid],
                        "log": [] if valkey.pid is None else [valkey.pid],
                    },
                )
        finally:
            await valkey.stop()


async def fund(path: OrderPath) -> list[str]:
    """Tokens of rich accounts, one for each connection."""
    tokens = []
    for account_id in range(1, CONNECTIONS + 1):
        for asset in ("USDC", "BTC"):
            await path.rig.deposit(account_id, asset, "100000000")
        tokens.append(path.rig.trader(account_id).token)
    return tokens


async def measure_orders(
    options: argparse.Namespace, gateways: int, bare: float, peer: float
) -> None:
    """Over 64 connections and over one WebSocket."""
    say(f"starting engine and gateways: {gateways}")
    async with durable_path(gateways) as (path, pids):
        tokens = await fund(path)
        seq = (await path.rig.state()).log_seq
        say(f"orders over {CONNECTIONS} connections")
        over_http, report = await send(orders_plan(path.port, tokens, options, "h"), pids)
        entries = (await path.rig.state()).log_seq - seq
        ratios = {"of_bare_server": round(report["per_second"] / bare, 2)}
        if peer:
            ratios["of_matching_engine_gateway"] = round(report["per_second"] / peer, 2)
        emit(
            bench="http_orders/http",
            connections=CONNECTIONS,
            gateways=gateways,
            **report,
            orders_per_log_entry=round(over_http.total / max(1, entries), 1),
            **ratios,
            core_compiled=compiled.is_compiled(),
            fsync="always",
        )
        answered = over_http.outcomes.get("200", 0)
        if gateways == 1:
            answered += await measure_websocket(options, path, pids, tokens[0], bare)
        logged = (await path.orders_in_log()).total()
        emit(bench="http_orders/durable", answered=answered, in_log=logged)
        if logged != answered:
            raise SystemExit("the log does not have just the orders that were answered")


async def measure_websocket(
    options: argparse.Namespace,
    path: OrderPath,
    pids: dict[str, list[int]],
    token: str,
    bare: float,
) -> int:
    """Over one WebSocket; how many orders were placed."""
    say("orders over one WebSocket")
    # One account cannot trade with itself, so each order is resting or IOC.
    far = order(0, "w").replace('"100"', '"1000"')
    plan = Plan(
        port=path.port,
        headers=[token],
        bodies=[far[:-1] + ',"timeInForce":"TIME_IN_FORCE_IOC"}'],
        warm_seconds=options.warm,
        seconds=options.seconds,
        window=WINDOW,
    )
    result, report = await send(plan, pids)
    emit(
        bench="http_orders/websocket",
        window=WINDOW,
        **report,
        of_bare_server=round(report["per_second"] / bare, 2),
    )
    return result.outcomes.get("placed", 0)


def pids_of(exchange: Exchange) -> dict[str, list[int]]:
    """The processes that run, by what they are."""
    state = read_state(exchange.data_dir)
    assert state is not None
    return {part.name: [part.pid] for part in state.parts if part.pid is not None}


async def measure_exchange(options: argparse.Namespace, folder: Path) -> None:
    """With everything running."""
    say("starting an exchange")
    limits = {f"TIDEBOOK_{name.upper()}": str(value) for name, value in UNLIMITED.items()}
    async with contextlib.AsyncExitStack() as stack:
        exchange = await stack.enter_async_context(
            running_exchange(
                folder / "data",
                port_base=None,
                TIDEBOOK_BOTS="false",
                TIDEBOOK_LOG_LEVEL="warning",
                TIDEBOOK_BCRYPT_COST=str(BCRYPT_COST),
                TIDEBOOK_PLAY_BALANCE=RICH,
                TIDEBOOK_FAUCET_MAX_PER_DEPOSIT=RICH,
                TIDEBOOK_FAUCET_MAX_PER_DAY=RICH,
                **limits,
            )
        )
        endpoints = Endpoints(exchange.http_url, exchange.grpc_address)
        api = await stack.enter_async_context(HttpApi(endpoints))
        people = await asyncio.gather(
            *(Person.sign_up(api, name=f"p{number}") for number in range(PEOPLE))
        )
        tokens = [await person.token() for person in people]
        await measure_sign_in(api, people[0], options.sign_ins)
        await measure_me(exchange, tokens[0], options)
        for token in tokens:
            await until_rich(api, token)
        say("orders with the whole exchange running")
        plan = orders_plan(exchange.port_base, tokens, options, "e")
        # Nobody signs in or reads mails meanwhile.
        parts = {part: pids for part, pids in pids_of(exchange).items() if part not in IDLE}
        _, report = await send(plan, parts)
        emit(bench="http_orders/whole_exchange", connections=CONNECTIONS, **report)


async def until_rich(api: HttpApi, token: str) -> None:
    """Until the money that an account begins with is there."""
    async with asyncio.timeout(60):
        while len((await api.call("GET", "/v1/account", token=token)).get("balances", ())) < 2:
            await asyncio.sleep(0.1)


async def measure_sign_in(api: HttpApi, person: Person, rounds: int) -> None:
    """Seconds of a sign-in beside those of the hash alone, in turns."""
    say("sign-in")
    password = person.password.encode()
    kept = bcrypt.hashpw(password, bcrypt.gensalt(BCRYPT_COST))
    took: dict[str, list[float]] = {"sign_in": [], "bcrypt": []}
    for _ in range(rounds):
        began = time.perf_counter()
        body = {"email": person.email, "password": person.password}
        await api.call("POST", "/v1/auth/signin", body)
        took["sign_in"].append(time.perf_counter() - began)
        began = time.perf_counter()
        await asyncio.to_thread(bcrypt.checkpw, password, kept)
        took["bcrypt"].append(time.perf_counter() - began)
    best = {name: min(seconds) for name, seconds in took.items()}
    emit(
        bench="http_orders/sign_in",
        bcrypt_cost=BCRYPT_COST,
        sign_in_ms_p50=milliseconds(took["sign_in"], 50),
        bcrypt_ms_p50=milliseconds(took["bcrypt"], 50),
        # The least of each: what a busy machine adds is left out.
        sign_in_ms_least=round(best["sign_in"] * 1000, 1),
        bcrypt_ms_least=round(best["bcrypt"] * 1000, 1),
        of_bcrypt=round(best["sign_in"] / best["bcrypt"], 3),
        rounds=rounds,
        load_average=os.getloadavg()[0],
    )


async def measure_me(exchange: Exchange, token: str, options: argparse.Namespace) -> None:
    """One who asks again and again, and 64 at once."""
    for connections in (1, CONNECTIONS):
        say(f"GetMe over {connections} connections")
        plan = Plan(
            port=exchange.port_base,
            headers=[f"Authorization: Bearer {token}\r\n"] * connections,
            bodies=[""] * connections,
            request="GET /v1/auth/me",
            warm_seconds=options.warm,
            seconds=options.seconds,
        )
        parts: dict[str, Any] = {
            name: pids for name, pids in pids_of(exchange).items() if name in ("gateway", "auth")
        }
        _, report = await send(plan, parts)
        emit(bench="http_orders/get_me", connections=connections, **report)


async def run(options: argparse.Namespace) -> None:
    """All of it."""
    with tempfile.TemporaryDirectory(prefix="tb") as name:
        folder = Path(name)
        bare = await measure_bare(options, folder)
        peer = await measure_peer(options, folder)
        for gateways in options.gateways:
            await measure_orders(options, gateways, bare, peer)
        if not options.orders_only:
            await measure_exchange(options, folder)


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of measuring, each")
    parser.add_argument("--warm", type=float, default=2.0, help="seconds before that")
    parser.add_argument("--sign-ins", type=int, default=10)
    parser.add_argument(
        "--gateways", type=int, nargs="+", default=[1, 2], help="rounds with so many"
    )
    parser.add_argument("--orders-only", action="store_true", help="not the whole exchange")
    setup_logging("bench", load_settings(log_level="warning"))
    # What is measured does so anyway; clients, stores and references do so too.
    run_in_turns()
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
