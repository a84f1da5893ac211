"""A whole system, started the way an operator starts it, for end-to-end tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ops import tether
from tests.support.ports import free_ports

START_SECONDS = 120.0
STOP_SECONDS = 60.0
# What `--port-base` takes: the public ports and the mailbox, the internal ones 100 higher.
PORT_OFFSETS = (*range(8), *range(102, 106))
# Two shards, and the engine and market data of the second one, public and internal.
SHARDS = "0=*;1=SOL_*"
SHARD_PORTS = (203, 204, 303, 304)
_READY = re.compile(r"ready in ([0-9.]+) s")

# A feed that needs no network and says the same every time, cheap password hashes, no patience
# for attackers that the tests are not, and all the patience there is with a slow machine.
DEFAULTS: Mapping[str, str] = {
    "TIDEBOOK_FEED": "synthetic:7",
    "TIDEBOOK_BCRYPT_COST": "4",
    "TIDEBOOK_RPC_TIMEOUT_MS": "60000",
    # Tests count balances from nothing.
    "TIDEBOOK_PLAY_BALANCE": "",
    "TIDEBOOK_RATE_LIMIT_IP": "1000000/minute",
    "TIDEBOOK_RATE_LIMIT_ACCOUNT": "1000000/minute",
    "TIDEBOOK_RATE_LIMIT_AUTH": "1000000/minute",
}


@dataclass
class Exchange:
    """A running system and where its parts are."""

    process: asyncio.subprocess.Process
    data_dir: Path
    port_base: int
    environment: Mapping[str, str]
    output: list[str]
    ready_seconds: float = 0.0

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.port_base}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port_base}/ws"

    @property
    def grpc_address(self) -> str:
        """The gateway's gRPC door."""
        return f"127.0.0.1:{self.port_base + 1}"

    def service_address(self, service: str) -> str:
        """A service's public listener."""
        number = ("auth", "engine", "marketdata", "settlement").index(service)
        return f"127.0.0.1:{self.port_base + 2 + number}"

    @property
    def mailbox_url(self) -> str:
        return f"http://127.0.0.1:{self.port_base + 6}"


def environment(**settings: str) -> dict[str, str]:
    """This process's environment without Tidebook's variables, then `DEFAULTS`, then `settings`."""
    others = {name: text for name, text in os.environ.items() if not name.startswith("TIDEBOOK_")}
    return others | dict(DEFAULTS) | settings


@contextlib.asynccontextmanager
async def running_exchange(
    data_dir: Path, *, port_base: int | None = None, **settings: str
) -> AsyncIterator[Exchange]:
    """`tidebook up` on `data_dir` and free ports; stopped with SIGTERM after the block.

    `settings` are further environment variables. Raises `AssertionError` with the whole output when
    it does not become ready.
    """
    base = port_base if port_base is not None else free_ports(PORT_OFFSETS)
    variables = environment(**settings)
    process = await start_up(data_dir, base, variables)
    exchange = Exchange(process, data_dir, base, variables, [])
    assert process.stdout is not None
    reader = process.stdout
    drained: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(START_SECONDS):
            while not exchange.ready_seconds:
                line = (await reader.readline()).decode()
                assert line, "it ended before it was ready:\n" + "".join(exchange.output)
                exchange.output.append(line)
                if found := _READY.search(line):
                    exchange.ready_seconds = float(found[1])
        drained = asyncio.create_task(_keep_reading(reader, exchange.output))
        yield exchange
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        finally:
            if drained is not None:
                await drained


@contextlib.asynccontextmanager
async def two_shards(**settings: str) -> AsyncIterator[Exchange]:
    """A system with two shards (`SHARDS`) in a directory of its own; see `running_exchange`."""
    with tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp") as path:
        port_base = free_ports((*PORT_OFFSETS, *SHARD_PORTS))
        async with running_exchange(
            Path(path), port_base=port_base, TIDEBOOK_SHARDS=SHARDS, **settings
        ) as running:
            yield running


async def start_up(
    data_dir: Path, port_base: int, variables: Mapping[str, str], *arguments: str
) -> asyncio.subprocess.Process:
    """The bare process of `tidebook up`, its output in one pipe."""
    return await asyncio.create_subprocess_exec(
        # Tethered: a test run that is killed leaves no exchange behind.
        *(*tether.prefix(signal.SIGTERM), sys.executable, "-u", "-m", "ops.cli", "up"),
        *("--data-dir", str(data_dir), "--port-base", str(port_base), *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(variables),
        start_new_session=True,
    )


async def _keep_reading(reader: asyncio.StreamReader, output: list[str]) -> None:
    # A full pipe would block the supervisor.
    async for line in reader:
        output.append(line.decode())
