"""What an order passes from an HTTP request to the disk, and nothing beside it: the log store with
`appendfsync always`, an engine, and one or several gateways, each a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from tidebook.engine.v1 import log_pb2

from bench.support.order_load import Plan, Result
from mesh.config import environment_of
from mesh.log import LogReader
from mesh.redis import open_redis
from ops.embedded import EmbeddedValkey
from tests.support.engine import EngineRig, engine_rig
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
# The limits are on, and far away.
UNLIMITED = {
    "rate_limit_ip": "999999999/minute",
    "rate_limit_account": "999999999/minute",
    "rate_limit_auth": "999999999/minute",
    "ws_max_messages_per_second": 1_000_000,
}
_START_SECONDS = 60.0
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class OrderPath:
    """A running order path; `pids` by part."""

    rig: EngineRig
    port: int
    pids: dict[str, list[int]]

    async def orders_in_log(self) -> int:
        """How many orders the log has."""
        redis = open_redis(self.rig.settings)
        reader, count, at = LogReader(redis, 0), 0, 0
        try:
            while part := await reader.read(at, 500):
                at += len(part)
                for record in part:
                    entry = log_pb2.LogEntry.FromString(record.payload)
                    count += sum(command.HasField("place_order") for command in entry.commands)
        finally:
            await redis.aclose()
        return count


@contextlib.asynccontextmanager
async def order_path(gateways: int) -> AsyncIterator[OrderPath]:
    """Start it in a folder that is removed afterwards."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tb")))
        valkey = EmbeddedValkey(folder)
        await valkey.start()
        stack.push_async_callback(valkey.stop)
        rig = await stack.enter_async_context(
            engine_rig(
                folder,
                valkey.url,
                log_level="warning",
                http_port=free_port(),
                grpc_port=free_port(),
                marketdata_port=free_port(),
                gateway_processes=gateways,
                **UNLIMITED,
            )
        )
        await rig.spawn()
        processes = []
        for number in range(gateways):
            environment = environment_of(rig.settings, {"gateway_process": number})
            process = await spawn(
                "-m", "gateway", environment=environment, output=folder / f"gateway-{number}.log"
            )
            stack.push_async_callback(end, process)
            processes.append(process)
        own = rig.settings.gateway_ports().values() or [rig.settings.http_port]
        for port in own:
            await until_serving(port, "/healthz")
        assert rig.process is not None
        pids = {
            "gateway": [process.pid for process in processes],
            "engine": [rig.process.pid],
            "log": [] if valkey.pid is None else [valkey.pid],
        }
        yield OrderPath(rig, rig.settings.http_port, pids)


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


async def send(
    plan: Plan, pids: Mapping[str, Sequence[int]] | None = None
) -> tuple[Result, dict[str, Any]]:
    """Run a load: what was answered, and that with the CPU it cost, as a benchmark reports it."""
    before = {part: sum(map(cpu_seconds, numbers)) for part, numbers in (pids or {}).items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.support.order_load"),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    started = time.perf_counter()
    output, _ = await process.communicate(json.dumps(dataclasses.asdict(plan)).encode() + b"\n")
    if process.returncode:
        raise SystemExit("the clients have failed")
    result = Result(**json.loads(output))
    lasted = time.perf_counter() - started
    report: dict[str, Any] = {
        "per_second": round(result.answers / result.seconds),
        "p50_ms": result.p50_ms,
        "p99_ms": result.p99_ms,
        "answers": result.answers,
        "outcomes": result.outcomes,
    }
    if result.first_failure:
        report["first_failure"] = result.first_failure
    costs = {"client": result.client_cpu_us}
    busiest = result.client_cpu_us
    for part, numbers in (pids or {}).items():
        spent = sum(map(cpu_seconds, numbers)) - before[part]
        costs[part] = spent / max(1, result.total) * 1e6
        busiest = max(busiest, costs[part] / max(1, len(numbers)))
        report[f"{part}_cpu_share"] = round(spent / lasted, 2)
    report |= {f"{part}_cpu_us": round(cost) for part, cost in costs.items()}
    # What two cores that do nothing else could do: all of it on both, or its busiest process alone.
    report["two_cores_per_second"] = round(1e6 / max(busiest, sum(costs.values()) / 2, 1e-3))
    report["load_average"] = os.getloadavg()[0]
    return result, report


def cpu_seconds(pid: int) -> float:
    """CPU that a process and its children have used; 0 where /proc does not say."""
    process = Path(f"/proc/{pid}")
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        children = (process / f"task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    own = (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS
    return own + sum(cpu_seconds(int(child)) for child in children)
