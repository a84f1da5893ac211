"""Connections for the service's two ways of working: jobs that must run alone, and calls."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import asyncpg
import structlog

from kernel.reasons import Reason, Refused
from mesh.aio import Backoff
from mesh.config import Settings
from mesh.postgres import open_pool
from services.settlement.store.database import Connection, is_passing, text_of

T = TypeVar("T")
# What a job runs: it gets the connection that holds its lock, and what to call after each success.
Work = Callable[[Connection, Callable[[], None]], Awaitable[None]]

_STANDBY_SECONDS = 1.0
log = structlog.get_logger()


async def open_store(settings: Settings) -> asyncpg.Pool:
    """Settlement's connections; raises as `open_pool` does.

    Calls have their plans made anew, knowing the months that are asked for: that takes a
    millisecond or two, whatever the number of months. One plan for all months takes ten times as
    long to make, and is made again on each connection whenever a month's statistics change.
    """
    return await open_pool(
        settings, "settlement", server_settings={"plan_cache_mode": "force_custom_plan"}
    )


@contextlib.asynccontextmanager
async def for_a_call(pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    """A connection to answer a call with. A database that is away is `Refused(UNAVAILABLE)`."""
    try:
        async with pool.acquire() as connection:
            yield connection
    except Exception as error:
        if is_passing(error):
            log.warning("database_unavailable", error=text_of(error))
            raise Refused(Reason.UNAVAILABLE, "the ledger cannot be reached right now") from error
        raise


async def run_alone(
    pool: asyncpg.Pool, *, job: str, lock: tuple[int, int], work: Work, standby: Callable[[], None]
) -> None:
    """Run `work` for ever, in one process at a time: the one that holds the advisory lock.

    The lock lives as long as the connection that `work` gets, so a process whose connection is gone
    has lost both. What passes by itself (see `is_passing`) is waited out with backoff and said;
    anything else is raised. `standby` is called when another process turns out to be at work.
    """
    backoff = Backoff(first_seconds=0.1, most_seconds=5.0)
    waits_for_lock = False
    while True:
        try:
            async with pool.acquire() as connection:
                try:
                    # A job does the same again and again, and knows its rows by their ids.
                    await connection.execute("set plan_cache_mode = force_generic_plan")
                    if await connection.fetchval("select pg_try_advisory_lock($1, $2)", *lock):
                        waits_for_lock = False
                        await work(connection, backoff.reset)
                except Exception:
                    # In whatever state it is, do not use it again. The lock goes with it.
                    with contextlib.suppress(asyncpg.InterfaceError):
                        connection.terminate()
                    raise
            if not waits_for_lock:
                log.info("settlement_standby", job=job)
                waits_for_lock = True
                standby()
            await asyncio.sleep(_STANDBY_SECONDS)
        except Exception as error:
            if not is_passing(error):
                raise
            log.warning("settlement_waits_for_database", job=job, error=text_of(error))
            await backoff.wait()


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end even when cancelled meanwhile: a stop does not tear a batch apart."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            with contextlib.suppress(Exception):
                await task
        raise
