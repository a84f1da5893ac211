"""What has outlived its deadline: expired where that is safe, reported where it is not.

A transfer that was never sent can be given up here, because the engine cannot have it. Once it was
sent only the log says what became of it: then it is sent again for as long as it takes, and
somebody is told. Orders end by the engine's word alone; one that should have ended is reported.
"""

from __future__ import annotations

import asyncio

import asyncpg
import structlog

from kernel.clock import NS_PER_SECOND, Clock
from mesh.config import Settings
from services.settlement.store import overdue
from services.settlement.store.database import is_passing, text_of
from services.settlement.store.sessions import finish

_LOOK_SECONDS = 5.0
# The same is said again after this long.
_AGAIN_SECONDS = 600

log = structlog.get_logger()


class LifecycleWorker:
    """Looks for what is overdue. `overdue` is how many things were when it looked last."""

    def __init__(self, pool: asyncpg.Pool, settings: Settings, clock: Clock) -> None:
        self.overdue = 0
        self._pool = pool
        self._shards = settings.shard_map.numbers
        self._transfer_ns = settings.transfer_deadline_seconds * NS_PER_SECOND
        self._order_ns = settings.order_overdue_seconds * NS_PER_SECOND
        self._payout_ns = settings.payout_delay_ms * NS_PER_SECOND // 1000
        self._clock = clock
        self._said: dict[tuple[str, int], int] = {}

    async def run(self) -> None:
        """For ever, through any failure of the database."""
        while True:
            try:
                await self.run_once()
            except Exception as error:
                if not is_passing(error):
                    raise
                log.warning("lifecycle_waits_for_database", error=text_of(error))
            await asyncio.sleep(_LOOK_SECONDS)

    async def run_once(self) -> None:
        """Expire and report once."""
        now_ns = self._clock.now_ns()
        async with self._pool.acquire() as connection:
            expired = await finish(
                overdue.expire_unsent(connection, now_ns - self._transfer_ns, now_ns)
            )
            transfers = await overdue.transfers(
                connection, now_ns - self._transfer_ns, now_ns - self._transfer_ns - self._payout_ns
            )
            orders = [
                row
                for shard in self._shards
                for row in await overdue.orders(connection, shard, now_ns - self._order_ns)
            ]
        for row in expired:
            log.warning("transfer_expired", **dict(row))
        found = {("transfer", row["transfer_id"]): dict(row) for row in transfers}
        found |= {("order", row["order_id"]): dict(row) for row in orders}
        self.overdue = len(found)
        for key, facts in found.items():
            if now_ns - self._said.get(key, 0) >= _AGAIN_SECONDS * NS_PER_SECOND:
                log.error(f"{key[0]}_overdue", **facts)
                self._said[key] = now_ns
        self._said = {key: at for key, at in self._said.items() if key in found}
