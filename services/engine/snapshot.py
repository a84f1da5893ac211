"""Snapshots are taken beside the engine: `python -m services.engine.snapshot` does it once.

That process restores the snapshot before, replays the log after it with every check of a recovery,
and writes the new one. The engine never stops for it, nothing is copied out of its memory, and no
process with threads of gRPC is ever forked. What is snapshotted is proven to be what the log says.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Coroutine
from typing import Any

import structlog

from mesh.channel import open_channel
from mesh.config import Settings, environment_of, load_settings
from mesh.log import LogReader
from mesh.logging import setup_logging
from mesh.redis import open_redis
from mesh.settings_common import ENV_PREFIX
from services.engine import snapshots
from services.engine.archive import Archive
from services.engine.codec import MarketTexts
from services.engine.domain.exchange import Exchange
from services.engine.encode import Encoder
from services.engine.projection import Projection
from services.engine.recovery import Replayer
from services.engine.snapshots import SnapshotStore
from services.engine.watch import AccountFeeds

# Whoever waits for an order goes first.
_NICE = 10
_PARENT_SECONDS = 1.0

log = structlog.get_logger()


class Snapshotter:
    """Has a snapshot taken whenever the newest is `snapshot_every_entries` behind the log.

    Engines may share the folder: whoever is first, the others see it.
    """

    def __init__(self, settings: Settings, store: SnapshotStore) -> None:
        self._settings = settings
        self._store = store
        self._every = settings.snapshot_every_entries
        self._patience = 0
        self._seq = 0
        self._next_seq = self._newest() + self._every
        self._due = asyncio.Event()

    def leave_to_followers(self) -> None:
        """This engine leads from now on: where there are followers, they are to come first."""
        if self._settings.engine_followers:
            self._patience = self._every

    def committed(self, seq: int) -> None:
        """The log has grown to `seq`."""
        self._seq = seq
        if seq >= self._next_seq + self._patience:
            self._due.set()

    async def run(self) -> None:
        """Take snapshots, one at a time, for ever."""
        while True:
            await self._due.wait()
            self._due.clear()
            newest = self._newest()
            if newest + self._every + self._patience > self._seq:
                self._next_seq = newest + self._every
                continue
            # Failing is no reason to try again at every entry.
            self._next_seq = self._seq + self._every
            process = self._launch()
            try:
                code = await asyncio.to_thread(process.wait)
            finally:
                process.kill()
            if code:
                log.error("snapshot_failed", exit_code=code)

    def _newest(self) -> int:
        return max(self._store.positions(), default=0)

    def _launch(self) -> subprocess.Popen[bytes]:
        others = {k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX)}
        # Without a function to run in the child this is a vfork: no copy of our memory map, no
        # pause that grows with it.
        return subprocess.Popen(
            (sys.executable, "-m", "services.engine.snapshot", str(os.getpid())),
            env=others | environment_of(self._settings, {}),
            stdin=subprocess.DEVNULL,
        )


async def take_one(settings: Settings) -> None:
    """Bring the newest snapshot to the end of the log and write that down.

    Raises what recovery raises, and `OSError`; then the snapshots are as they were.
    """
    store = SnapshotStore.of(settings)
    projection = Projection()
    feeds = AccountFeeds(projection, Encoder(projection, MarketTexts()), remembered_items=0)
    replayer = Replayer(Exchange(), projection, feeds)
    redis = open_redis(settings)
    settlement = open_channel(settings, "settlement", caller="engine")
    try:
        recovered = await replayer.replay(
            LogReader(redis, settings.shard),
            store,
            archive=Archive(settlement, settings.shard),
            stop_at_tail=True,
        )
    finally:
        await settlement.close()
        await redis.aclose()
    if recovered.seq > recovered.snapshot_seq:
        path = store.write(snapshots.take(replayer.exchange, projection, feeds))
        log.info("snapshot_written", seq=recovered.seq, bytes=path.stat().st_size)


async def _while_parent_lives(work: Coroutine[Any, Any, None], parent: int) -> None:
    """Do `work`, but not for an engine that was killed: its log store may never come back."""
    task = asyncio.create_task(work)
    while not (await asyncio.wait([task], timeout=_PARENT_SECONDS))[0]:
        if os.getppid() != parent:
            log.warning("snapshot_given_up")
            task.cancel()
    await task


def main() -> None:
    """`python -m services.engine.snapshot ENGINE_PID`; the settings are the engine's."""
    settings = load_settings()
    setup_logging("engine.snapshot", settings)
    os.nice(_NICE)
    # Said by the engine itself: one that is gone already has left us to another parent.
    asyncio.run(_while_parent_lives(take_one(settings), int(sys.argv[1])))


if __name__ == "__main__":
    main()
