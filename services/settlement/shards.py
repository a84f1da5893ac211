"""What settlement has of each engine shard: its log, and the jobs that follow it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import asyncpg
from redis.asyncio import Redis

from kernel.clock import Clock
from mesh.config import Settings
from mesh.log import LogReader
from mesh.telemetry import SpanRecorder
from services.settlement.follower import Applier, Archiver
from services.settlement.halts import Halts
from services.settlement.reconciler import EngineStatePort, Reconciler


@dataclass(frozen=True, slots=True)
class ShardBooks:
    """One shard: who reads its log, writes its books, and compares them."""

    shard: int
    reader: LogReader
    halts: Halts
    archiver: Archiver
    applier: Applier
    reconciler: Reconciler

    @classmethod
    def build(
        cls,
        shard: int,
        pool: asyncpg.Pool,
        redis: Redis,
        engine: EngineStatePort,
        settings: Settings,
        recorder: SpanRecorder,
        clock: Clock,
        halted: Callable[[], None],
    ) -> ShardBooks:
        """The jobs of a shard, none of them running yet; `halted` is called when one ends."""
        reader, halts = LogReader(redis, shard), Halts(halted)
        return cls(
            shard,
            reader,
            halts,
            Archiver(pool, reader, shard, halts),
            Applier(pool, reader, shard, halts, recorder=recorder, clock=clock),
            Reconciler(pool, engine, settings, clock, shard),
        )

    def jobs(self) -> dict[str, Coroutine[Any, Any, None]]:
        """Name -> what has to run for ever."""
        of = f" of shard {self.shard}" if self.shard else ""
        return {
            f"archiver{of}": self.archiver.run(),
            f"applier{of}": self.applier.run(),
            f"reconciler{of}": self.reconciler.run(),
        }
