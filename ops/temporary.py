"""Stores for a command that needs them: the running ones, or started for as long as it takes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

import asyncpg
from redis.exceptions import ConnectionError as RedisConnectionError

from mesh.config import Settings
from ops import preflight, state
from ops.embedded import has_database, remove_runtime_dir
from ops.errors import OpsError
from ops.plan import Store, embedded_stores


@contextlib.asynccontextmanager
async def running_or_temporary(
    settings: Settings, *, from_nothing: bool = False
) -> AsyncIterator[Settings]:
    """Settings with store URLs that work inside the block.

    The settings of a running system are its own, whatever the environment says here. Without one,
    the embedded stores run until the block ends; in a directory where none ever ran only
    `from_nothing`. Raises `OpsError`, also for a store that the block finds away or empty.
    """
    settings = settings.model_copy(update={"data_dir": settings.data_dir.resolve()})
    lock = state.DataDirLock(settings.data_dir)
    running = state.read_state(settings.data_dir)
    if running is not None and lock.is_held():
        with _told_plainly():
            yield running.running_settings()
        return
    if not (from_nothing or settings.postgres_url or has_database(settings.data_dir)):
        raise OpsError(f"no exchange has ever run in {settings.data_dir}: is --data-dir right?")
    preflight.prepare_data_dir(settings.data_dir)
    lock.acquire()
    stores, urls = embedded_stores(settings)
    started: list[Store] = []
    try:
        for store in stores:
            started.append(store)
            await store.start()
        with _told_plainly():
            yield settings.model_copy(update=urls)
    finally:
        for store in started:
            await store.stop()
        remove_runtime_dir(settings.data_dir)
        lock.release()


@contextlib.contextmanager
def _told_plainly() -> Iterator[None]:
    try:
        yield
    except asyncpg.UndefinedTableError as error:
        raise OpsError(
            f"the database has no exchange in it ({error}): `tidebook migrate` prepares it"
        ) from error
    except (ConnectionError, RedisConnectionError) as error:
        raise OpsError(f"a store cannot be reached: {error}") from error
