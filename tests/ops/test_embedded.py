"""The embedded PostgreSQL and Valkey: real, durable, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio

from ops.embedded import (
    EmbeddedPostgres,
    EmbeddedValkey,
    is_running,
    remove_runtime_dir,
    runtime_dir,
)
from tests.support import eventually


async def test_each_test_gets_an_empty_database(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        version = await connection.fetchval("show server_version_num")
        tables = await connection.fetchval(
            "select count(*) from pg_tables where schemaname = 'public'"
        )
    finally:
        await connection.close()
    assert int(version) >= 180000
    assert tables == 0


async def test_each_test_gets_an_empty_valkey(valkey_url: str) -> None:
    client = redis.asyncio.from_url(valkey_url)
    try:
        assert await client.dbsize() == 0
        await client.set("left", "behind")
    finally:
        await client.aclose()


async def test_postgres_keeps_its_rows_over_a_kill(short_dir: Path) -> None:
    server = EmbeddedPostgres(short_dir)
    await server.start()
    connection = await asyncpg.connect(server.url)
    await connection.execute("create table kept (n int); insert into kept values (7)")
    await connection.close()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await eventually(lambda: server.pid is None)

    again = EmbeddedPostgres(short_dir)
    await again.start()
    try:
        connection = await asyncpg.connect(again.url)
        assert await connection.fetchval("select n from kept") == 7
        await connection.close()
    finally:
        await again.stop()
    assert again.pid is None


async def test_valkey_keeps_every_acknowledged_write_over_a_kill(
    valkey_server: EmbeddedValkey, short_dir: Path
) -> None:
    client = redis.asyncio.from_url(valkey_server.url)
    await client.set("kept", "yes")
    await client.aclose()
    assert valkey_server.pid is not None
    os.kill(valkey_server.pid, signal.SIGKILL)
    await eventually(lambda: valkey_server.pid is None)

    again = EmbeddedValkey(short_dir)
    await again.start()
    try:
        client = redis.asyncio.from_url(again.url)
        assert await client.get("kept") == b"yes"
        await client.aclose()
    finally:
        await again.stop()


async def test_a_deep_data_directory_gets_its_sockets_elsewhere(short_dir: Path) -> None:
    deep = short_dir.joinpath(*["deep" * 5] * 6)
    deep.mkdir(parents=True)
    assert deep not in runtime_dir(deep).parents
    server = EmbeddedValkey(deep)
    await server.start()
    await server.stop()
    remove_runtime_dir(deep)
    assert not runtime_dir(deep).exists()


_STARTER = """
import asyncio, sys
from pathlib import Path
from ops.embedded import EmbeddedPostgres, EmbeddedValkey

async def main() -> None:
    servers = EmbeddedPostgres(Path(sys.argv[1])), EmbeddedValkey(Path(sys.argv[1]))
    for server in servers:
        await server.start()
    print(*(server.pid for server in servers), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="the kernel's parent death signal is Linux only"
)
async def test_nothing_is_left_when_the_starter_is_killed(short_dir: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", _STARTER, str(short_dir)], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    with starter.stdout as output:
        pids = [int(word) for word in output.readline().split()]
    assert len(pids) == 2 and all(is_running(pid, str(short_dir)) for pid in pids)

    starter.kill()
    starter.wait()
    await eventually(lambda: not any(is_running(pid, str(short_dir)) for pid in pids))


async def test_a_pid_file_that_names_an_innocent_process_is_no_obstacle(short_dir: Path) -> None:
    server = EmbeddedPostgres(short_dir)
    await server.start()
    await server.stop()
    pid_file = short_dir / "postgres" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{short_dir / 'postgres'}\n0\n5432\n\n\n\nready\n")

    await server.start()
    await server.stop()
