"""The engine's part of each order's trace, recorded after the answers have gone out.

Each trace's commands of a submission are one span (`engine.place_order`, received to acknowledged)
with its stages below it: waiting, matching, the append. The log names the same span, so consumers
hang theirs under it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter

import structlog

from kernel.reasons import Refused
from mesh.telemetry import SpanRecorder, Stage, TraceContext
from services.engine.domain import events as e
from services.engine.submission import UNTRACED, CommandSpan, Outcome
from services.engine.writer import Committed

log = structlog.get_logger()
# Batches that may wait to be recorded; a trace is worth less than an order.
_WAITING_MAX = 100
_NOTHING: dict[str, object] = {}
_span_of = itemgetter(0)


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
                self._record(self._waiting.popleft())
                # Recording is never urgent: let those who wait for answers go first.
                await asyncio.sleep(0)

    def _record(self, batch: Committed) -> None:
        match: Stage = ("engine.match", batch.taken_ns, batch.applied_ns, _NOTHING)
        append: Stage = ("log.append", batch.applied_ns, batch.acked_ns, {"seq": batch.seq})
        debug = log.is_enabled_for(logging.DEBUG)
        for submission in batch.submissions:
            received_ns = submission.received_ns
            stages = (("engine.queue", received_ns, batch.taken_ns, _NOTHING), match, append)
            commands = zip(submission.spans, submission.outcomes, strict=True)
            for span, group in groupby(commands, key=_span_of):
                if span is UNTRACED:
                    continue
                context = TraceContext(span.trace_id, span.span_id)
                what = self._link_orders(batch, context, group)
                if debug:
                    trace_id = span.trace_id.hex()
                    log.debug("commands_durable", name=span.name, trace_id=trace_id, **what)
                self._recorder.record(
                    span.name,
                    context,
                    span.parent_span_id,
                    received_ns,
                    batch.acked_ns,
                    stages,
                    batch.taken_ns,
                    **what,
                )

    def _link_orders(
        self,
        batch: Committed,
        context: TraceContext,
        commands: Iterable[tuple[CommandSpan, Outcome]],
    ) -> dict[str, int]:
        """Link the orders that the commands of a span placed; what there is to say of the span."""
        count = accepted = first_order_id = 0
        for _, outcome in commands:
            count += 1
            if isinstance(outcome, Refused):
                continue
            order = outcome[0]
            if isinstance(order, e.OrderPlaced):
                accepted += 1
                first_order_id = first_order_id or order.order_id
                self._recorder.link_order(order.order_id, order.account_id, context, batch.taken_ns)
        what = {"seq": batch.seq, "commands": count, "accepted": accepted}
        if accepted:
            what["first_order_id"] = first_order_id
        return what
