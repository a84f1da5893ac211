"""The whole real system, started and stopped the way an operator does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import asyncpg

from ops import state
from ops.embedded import is_running
from tests.support import Exchange, eventually, running_exchange

SERVICES = ("auth", "settlement", "engine", "marketdata", "gateway", "mailbox")
KILLED = ("auth", "settlement", "engine", "marketdata", "gateway")


def running_state(exchange: Exchange) -> state.RunState:
    found = state.read_state(exchange.data_dir)
    assert found is not None
    return found


def pids(exchange: Exchange) -> dict[str, int]:
    return {part.name: part.pid for part in running_state(exchange).parts if part.pid}


def tidebook(exchange: Exchange, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ops.cli", command, "--data-dir", str(exchange.data_dir)],
        env=dict(exchange.environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def is_ready(exchange: Exchange) -> bool:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{exchange.http_url}/readyz") as answer,
    ):
        return answer.status == 200


async def test_every_part_is_healthy_once_it_says_ready(exchange: Exchange) -> None:
    assert await is_ready(exchange)
    assert set(SERVICES) <= set(pids(exchange))
    told = tidebook(exchange, "status")
    assert told.returncode == 0, told.stdout
    assert "not healthy" not in told.stdout


async def test_an_operator_sees_how_the_books_are(exchange: Exchange) -> None:
    async def compared() -> None:
        row = next(
            line.split()
            for line in tidebook(exchange, "status").stdout.splitlines()
            if line.startswith("shard 0")
        )
        assert "matched" in row and row[-2:] == ["0", "no"], row

    await eventually(compared, timeout_s=120)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{exchange.http_url}/metrics") as answer,
    ):
        found = await answer.text()
    assert "tidebook_settlement_up 1\n" in found
    assert 'tidebook_reconciliation_matched{shard="0"} 1\n' in found
    assert 'tidebook_ledger_halted{shard="0"} 0\n' in found


async def test_a_start_after_a_stop_keeps_the_data_and_a_stop_leaves_nothing(
    short_dir: Path,
) -> None:
    async with running_exchange(short_dir, TIDEBOOK_BOTS="false") as first:
        settings = running_state(first).running_settings()
        assert settings.postgres_url is not None
        connection = await asyncpg.connect(settings.postgres_url)
        await connection.execute("create table kept (n int); insert into kept values (7)")
        await connection.close()
        started = pids(first)
        first.process.send_signal(signal.SIGINT)
    assert first.process.returncode == 0
    assert first.output[-1].endswith("everything has stopped\n")
    assert not any(is_running(pid) for pid in started.values())
    assert tidebook(first, "status").returncode == 3

    async with running_exchange(short_dir, TIDEBOOK_BOTS="false") as second:
        assert await is_ready(second)
        connection = await asyncpg.connect(settings.postgres_url)
        assert await connection.fetchval("select n from kept") == 7
        await connection.close()


async def test_every_killed_service_comes_back(exchange: Exchange) -> None:
    # On the shared system: the tests after this one find it healthy again.
    before = pids(exchange)
    for name in KILLED:
        os.kill(before[name], signal.SIGKILL)
    await eventually(lambda: all(pids(exchange).get(name) != before[name] for name in KILLED))
    await eventually(lambda: tidebook(exchange, "status").returncode == 0, timeout_s=60)
    assert await is_ready(exchange)
