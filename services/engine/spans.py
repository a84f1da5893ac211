"""The engine's part of each order's trace, recorded after the answers have gone out.

A submission is one span (`engine.place_order`, received to acknowledged) with its stages below it:
waiting, matching, the append. The log names the same span, so consumers hang theirs under it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import structlog

from mesh.telemetry import SpanRecorder, Stage
from services.engine.domain import events as e
from services.engine.writer import Committed, Submission

log = structlog.get_logger()
# Batches that may wait to be recorded; a trace is worth less than an order.
_WAITING_MAX = 100


class Tracer:
    """Records the spans of durable batches in the background."""

    def __init__(self, recorder: SpanRecorder) -> None:
        self._recorder = recorder
        self._waiting: deque[Committed] = deque(maxlen=_WAITING_MAX)
        self._wake = asyncio.Event()

    def committed(self, batch: Committed) -> None:
        """Remember to record a batch."""
        self._waiting.append(batch)
        self._wake.set()

    async def run(self) -> None:
        """Record for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch = self._waiting.popleft()
                for submission in batch.submissions:
                    self._record(batch, submission)
                # Recording is never urgent: let those who wait for answers go first.
                await asyncio.sleep(0)

    def _record(self, batch: Committed, submission: Submission[Any]) -> None:
        span, caller = submission.span, submission.trace
        if span is None or caller is None:
            return
        placed = [
            events[0] for events in submission.outcomes if isinstance(events[0], e.OrderPlaced)
        ]
        for order in placed:
            self._recorder.link_order(order.order_id, order.account_id, span.trace_id)
        what = {"seq": batch.seq, "commands": len(submission.items), "accepted": len(placed)}
        if placed:
            what["first_order_id"] = placed[0].order_id
        log.debug("commands_durable", name=submission.name, trace_id=span.trace_id.hex(), **what)
        self._recorder.record(
            submission.name,
            span,
            caller.span_id,
            submission.received_ns,
            batch.acked_ns,
            (
                Stage("engine.queue", submission.received_ns, batch.taken_ns),
                Stage("engine.match", batch.taken_ns, batch.applied_ns),
                Stage("log.append", batch.applied_ns, batch.acked_ns, {"seq": str(batch.seq)}),
            ),
            **what,
        )
