"""The engine's part of each order's trace, recorded after the answers have gone out.

Each trace's commands of a submission are one span (`engine.place_order`, received to acknowledged)
with its stages below it: waiting, matching, the append. The log names the same span, so consumers
hang theirs under it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import structlog

from kernel.reasons import Refused
from mesh.telemetry import SpanRecorder, Stage, TraceContext
from services.engine.domain import events as e
from services.engine.submission import UNTRACED, CommandSpan, Outcome, Submission
from services.engine.writer import Committed

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
        commands = zip(submission.spans, submission.outcomes, strict=True)
        for span, group in groupby(commands, key=itemgetter(0)):
            if span is not UNTRACED:
                self._record_span(batch, submission, span, [outcome for _, outcome in group])

    def _record_span(
        self,
        batch: Committed,
        submission: Submission[Any],
        span: CommandSpan,
        outcomes: Sequence[Outcome],
    ) -> None:
        placed = [
            first
            for outcome in outcomes
            if not isinstance(outcome, Refused) and isinstance(first := outcome[0], e.OrderPlaced)
        ]
        for order in placed:
            self._recorder.link_order(order.order_id, order.account_id, span.trace_id)
        what = {"seq": batch.seq, "commands": len(outcomes), "accepted": len(placed)}
        if placed:
            what["first_order_id"] = placed[0].order_id
        log.debug("commands_durable", name=span.name, trace_id=span.trace_id.hex(), **what)
        self._recorder.record(
            span.name,
            TraceContext(span.trace_id, span.span_id),
            span.parent_span_id,
            submission.received_ns,
            batch.acked_ns,
            (
                Stage("engine.queue", submission.received_ns, batch.taken_ns),
                Stage("engine.match", batch.taken_ns, batch.applied_ns),
                Stage("log.append", batch.applied_ns, batch.acked_ns, {"seq": str(batch.seq)}),
            ),
            **what,
        )
