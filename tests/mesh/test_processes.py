"""Background work, and whole service processes that start, stop and crash."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from mesh import aio
from mesh.aio import Backoff, cancel_and_wait, supervise
from mesh.calls import CallContext, current_call, reset_call, set_call
from mesh.config import load_settings
from mesh.postgres import open_pool, plain_url, sqlalchemy_url
from mesh.redis import open_redis

SERVICE = """
import asyncio
import os
if hasattr(os, "SCHED_BATCH"):
    # Whatever the tests run as.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
from mesh.aio import supervise
from mesh.server import run_service

async def crash():
    raise ValueError("lost the thread")

async def main(settings, stop):
    print("running on", type(asyncio.get_running_loop()).__module__, flush=True)
    print("scheduled as", os.sched_getscheduler(0), flush=True)
    if settings.shard == 9:
        supervise(crash(), "worker")
    await stop.wait()
    print("drained", flush=True)

run_service(main, "sample")
"""


async def start(tmp_path: Path, **environment: str) -> asyncio.subprocess.Process:
    script = tmp_path / "service.py"
    script.write_text(SERVICE)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_a_service(tmp_path: Path, number: int) -> None:
    process = await start(tmp_path)
    assert process.stdout is not None
    assert b"uvloop" in await process.stdout.readline()
    assert b"scheduled" in await process.stdout.readline()
    process.send_signal(number)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert out == b"drained\n"
    assert process.returncode == 0


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux can")
@pytest.mark.parametrize("batch", [True, False])
async def test_services_do_not_interrupt_each_other_unless_told_to(
    tmp_path: Path, batch: bool
) -> None:
    process = await start(tmp_path, TIDEBOOK_BATCH_SCHEDULING=str(batch).lower())
    process_out = process.stdout
    assert process_out is not None
    await process_out.readline()
    policy = os.SCHED_BATCH if batch else os.SCHED_OTHER
    assert await process_out.readline() == b"scheduled as %d\n" % policy
    process.terminate()
    await process.communicate()


async def test_a_crashed_background_task_stops_the_process_loudly(tmp_path: Path) -> None:
    process = await start(tmp_path, TIDEBOOK_SHARD="9", TIDEBOOK_LOG_FORMAT="json")
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert b"drained" in out
    assert b"background_task_crashed" in err and b"lost the thread" in err
    assert b'"service":"sample"' in err
    assert process.returncode == 1


async def test_a_wrong_setting_is_one_clear_line(tmp_path: Path) -> None:
    process = await start(tmp_path, TIDEBOOK_HTTP_PORT="eighty")
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert err.startswith(b"TIDEBOOK_HTTP_PORT: ")
    assert b"Traceback" not in err
    assert process.returncode == 1


async def test_background_work_does_not_inherit_the_call_that_started_it() -> None:
    seen: list[CallContext] = []

    async def work() -> None:
        seen.append(current_call())

    token = set_call(CallContext(authorization="Bearer of a user", deadline=1.0))
    try:
        await supervise(work(), "work")
    finally:
        reset_call(token)
    assert seen == [CallContext()]


async def test_cancelling_waits_until_the_work_has_cleaned_up() -> None:
    cleaned: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("up")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await cancel_and_wait(task, None)
    assert cleaned == ["up"]


async def test_a_cancellation_that_got_lost_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "_CANCEL_AGAIN_SECONDS", 0.01)

    async def work() -> None:
        for _ in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue
        await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await asyncio.wait_for(cancel_and_wait(task), 60)
    assert task.cancelled()


def test_waits_double_up_to_the_longest_and_start_over() -> None:
    backoff = Backoff(first_seconds=1.0, most_seconds=4.0)
    waits = [backoff.next_seconds() for _ in range(5)]
    for seconds, middle in zip(waits, (1, 2, 4, 4, 4), strict=True):
        assert 0.5 * middle <= seconds <= 1.5 * middle
    backoff.reset()
    assert backoff.next_seconds() <= 1.5


async def test_a_pool_sees_its_own_schema_first(postgres_url: str) -> None:
    async with await open_pool(load_settings(postgres_url=postgres_url), "settlement") as pool:
        await pool.execute("create schema settlement")
        await pool.execute("create table entry (id int)")
        found = await pool.fetchval(
            "select table_schema from information_schema.tables where table_name = 'entry'"
        )
    assert found == "settlement"


@pytest.mark.parametrize("stateless", [True, False])
async def test_a_connection_is_cleared_after_use_unless_it_needs_none(
    postgres_url: str, stateless: bool
) -> None:
    settings = load_settings(postgres_url=postgres_url, postgres_pool_max=1)
    async with await open_pool(settings, "auth", stateless=stateless) as pool:
        said: list[str] = []
        async with pool.acquire() as connection:
            connection.add_query_logger(lambda record: said.append(record.query))
            await connection.execute("begin; create temp table left_open (n int)")
        # Half a transaction never outlives its use.
        assert not await pool.fetchval("select to_regclass('left_open')")
    assert any("RESET ALL" in query for query in said) is not stateless


async def test_stores_without_a_url_say_which_setting_is_missing() -> None:
    with pytest.raises(ValueError, match="TIDEBOOK_REDIS_URL"):
        open_redis(load_settings(redis_url=None))
    with pytest.raises(ValueError, match="TIDEBOOK_POSTGRES_URL"):
        await open_pool(load_settings(postgres_url=None), "auth")
    with pytest.raises(ValueError, match="schema"):
        await open_pool(load_settings(postgres_url="postgresql://x"), "auth; drop")


def test_database_urls_have_a_form_for_each_library() -> None:
    plain = "postgresql://tidebook@/tidebook?host=/run"
    assert sqlalchemy_url(plain) == "postgresql+asyncpg://tidebook@/tidebook?host=/run"
    assert plain_url(sqlalchemy_url(plain)) == plain
