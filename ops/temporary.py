"""Stores for a command that needs them: the running ones, or started for as long as it takes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from mesh.config import Settings
from ops import preflight, state
from ops.embedded import remove_runtime_dir
from ops.plan import Store, embedded_stores


@contextlib.asynccontextmanager
async def running_or_temporary(settings: Settings) -> AsyncIterator[Settings]:
    """Settings with store URLs that work inside the block.

    The settings of a running system are its own, whatever the environment says here. Without one,
    the embedded stores run until the block ends. Raises `OpsError`.
    """
    settings = settings.model_copy(update={"data_dir": settings.data_dir.resolve()})
    lock = state.DataDirLock(settings.data_dir)
    running = state.read_state(settings.data_dir)
    if running is not None and lock.is_held():
        yield running.running_settings()
        return
    preflight.prepare_data_dir(settings.data_dir)
    lock.acquire()
    stores, urls = embedded_stores(settings)
    started: list[Store] = []
    try:
        for store in stores:
            started.append(store)
            await store.start()
        yield settings.model_copy(update=urls)
    finally:
        for store in started:
            await store.stop()
        remove_runtime_dir(settings.data_dir)
        lock.release()
