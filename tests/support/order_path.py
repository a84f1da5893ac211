"""What an order passes from an HTTP request to the log, and nothing beside it: an engine and one or
several gateways, each a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from tidebook.engine.v1 import log_pb2

from mesh.config import environment_of
from mesh.log import LogReader
from mesh.redis import open_redis
from tests.support.engine import EngineRig, engine_rig
from tests.support.ports import free_port

# The limits are on, and far away.
UNLIMITED = {
    "rate_limit_ip": "999999999/minute",
    "rate_limit_account": "999999999/minute",
    "rate_limit_auth": "999999999/minute",
    "ws_max_messages_per_second": 1_000_000,
}
ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 120.0


@dataclass
class OrderPath:
    """A running order path."""

    rig: EngineRig
    gateways: list[asyncio.subprocess.Process]

    @property
    def port(self) -> int:
        """Where the gateways listen for HTTP."""
        return self.rig.settings.http_port

    async def orders_in_log(self) -> Counter[tuple[int, str]]:
        """How often the log has each order: account and client order id."""
        redis = open_redis(self.rig.settings)
        reader, at = LogReader(redis, 0), 0
        found: Counter[tuple[int, str]] = Counter()
        try:
            while part := await reader.read(at, 500):
                at += len(part)
                for record in part:
                    for command in log_pb2.LogEntry.FromString(record.payload).commands:
                        if command.HasField("place_order"):
                            client_order_id = command.place_order.client_order_id
                            found[command.account_id, client_order_id] += 1
        finally:
            await redis.aclose()
        return found


@contextlib.asynccontextmanager
async def order_path(
    data_dir: Path, redis_url: str, *, gateways: int = 1, **settings: Any
) -> AsyncIterator[OrderPath]:
    """Start it, and end it after the block."""
    async with contextlib.AsyncExitStack() as stack:
        # Ports of services that are not there must not be somebody else's.
        ports = {f"{name}_port": free_port() for name in ("http", "grpc", "marketdata")}
        values = {"gateway_processes": gateways, **UNLIMITED, **ports, **settings}
        rig = await stack.enter_async_context(engine_rig(data_dir, redis_url, **values))
        await rig.spawn()
        processes = []
        for number in range(gateways):
            process = await spawn(
                *("-m", "gateway"),
                environment=environment_of(rig.settings, {"gateway_process": number}),
                output=data_dir / f"gateway-{number}.log",
            )
            stack.push_async_callback(end, process)
            processes.append(process)
        for port in rig.settings.gateway_ports().values() or [rig.settings.http_port]:
            await until_serving(port, "/healthz")
        yield OrderPath(rig, processes)


async def spawn(
    *command: str, environment: Mapping[str, str], output: Path, python: str = sys.executable
) -> asyncio.subprocess.Process:
    """A Python process without our settings but those in `environment`."""
    others = {name: text for name, text in os.environ.items() if not name.startswith("TIDEBOOK_")}
    with output.open("ab") as file:
        return await asyncio.create_subprocess_exec(
            *(python, *command),
            env=others | dict(environment),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )


async def end(process: asyncio.subprocess.Process) -> None:
    """End a process."""
    if process.returncode is None:
        process.terminate()
    await process.wait()


async def until_serving(port: int, path: str) -> None:
    """Until a server answers a GET with 200. Raises `TimeoutError`."""
    async with asyncio.timeout(_START_SECONDS), aiohttp.ClientSession() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.05)
