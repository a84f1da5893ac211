"""Traces without spans on the hot path.

A call carries only a `TraceContext`; stages are timestamps. Spans are made from both afterwards
(an SDK span costs about 50 us): `SpanRecorder.record` appends to a bounded list, and every 250 ms
what has gathered is written at once (`mesh.span_store`), and to OTLP when that is configured. Spans
are lost rather than waited for: when the queue is full or the store away, they are counted.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from mesh.aio import cancel_and_wait, supervise
from mesh.config import Settings
from mesh.span_format import NO_PARENT, Finished, Link, RecordedSpan, Stage
from mesh.span_store import SpanWriter, read_order_trace
from mesh.trace_context import (
    TRACEPARENT,
    TraceContext,
    current_trace,
    derived_id,
    format_traceparent,
    new_trace,
    parse_traceparent,
    random_id,
    reset_trace,
    set_trace,
)

if TYPE_CHECKING:
    from mesh.otlp import OtlpExporter

__all__ = [
    "TRACEPARENT",
    "RecordedSpan",
    "SpanRecorder",
    "Stage",
    "TraceContext",
    "current_trace",
    "derived_id",
    "format_traceparent",
    "new_trace",
    "parse_traceparent",
    "random_id",
    "read_order_trace",
    "reset_trace",
    "set_trace",
]

FLUSH_SECONDS = 0.25
QUEUE_MAX = 20_000
_COMPLAIN_EVERY_SECONDS = 10.0

log = structlog.get_logger()


class SpanRecorder:
    """Takes the spans of one service. The first span starts the flushing; `close` ends it."""

    def __init__(self, service: str, redis: Redis, settings: Settings) -> None:
        self.dropped = 0
        self._service = service
        self._writer = SpanWriter(
            redis, service, settings.trace_keep_seconds, settings.trace_keep_mb << 20
        )
        self._spans: list[Finished] = []
        self._links: list[Link] = []
        self._writing = asyncio.Lock()
        self._flusher: asyncio.Task[Any] | None = None
        self._complained = 0.0
        self._otlp: OtlpExporter | None = None
        if settings.otlp_endpoint is not None:
            # The SDK takes a while to import; without a collector nobody waits for it.
            from mesh.otlp import OtlpExporter

            self._otlp = OtlpExporter(service, settings.otlp_endpoint)

    def record(
        self,
        name: str,
        context: TraceContext,
        parent_span_id: bytes | None,
        start_ns: int,
        end_ns: int,
        stages: tuple[Stage, ...] = (),
        at_ns: int = 0,
        **attributes: object,
    ) -> None:
        """Keep a finished span: `context` holds its own ids, times are Unix nanoseconds.

        A span that is about a log entry names the time at which the engine took that up (`at_ns`),
        or it would not be found with the entry's orders when its consumer lags.
        """
        if len(self._spans) >= QUEUE_MAX:
            self.dropped += 1
            return
        self._spans.append(
            (
                context,
                parent_span_id or NO_PARENT,
                name,
                start_ns,
                end_ns,
                at_ns,
                stages,
                attributes,
            )
        )
        if self._flusher is None:
            self._start()

    def link_order(self, order_id: int, account_id: int, span: TraceContext, at_ns: int) -> None:
        """Let `read_order_trace` find the trace that this order of this account belongs to: the
        span that placed it, and the time at which the engine took up its log entry.
        """
        if len(self._links) >= QUEUE_MAX:
            self.dropped += 1
            return
        self._links.append((order_id, account_id, span, at_ns))
        if self._flusher is None:
            self._start()

    async def flush(self) -> None:
        """Write out what has gathered."""
        async with self._writing:
            spans, self._spans = self._spans, []
            links, self._links = self._links, []
            if not spans and not links:
                return
            if self._otlp is not None:
                recorded = (RecordedSpan.of(self._service, span) for span in spans)
                self._otlp.export(part for span in recorded for part in span.expanded())
            try:
                self.dropped += await self._writer.write(spans, links)
            except (RedisError, OSError, orjson.JSONEncodeError) as error:
                self.dropped += len(spans) + len(links)
                self._complain(str(error))

    async def close(self) -> None:
        """Write out the rest and stop."""
        # What is being written is written to its end.
        async with self._writing:
            await cancel_and_wait(self._flusher)
        self._flusher = None
        await self.flush()
        if self._otlp is not None:
            await asyncio.to_thread(self._otlp.close)

    def _start(self) -> None:
        self._flusher = supervise(self._flush_for_ever(), "span flusher")

    async def _flush_for_ever(self) -> None:
        reported = 0
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()
            if self.dropped > reported:
                self._complain("")
                reported = self.dropped

    def _complain(self, error: str) -> None:
        now = time.monotonic()
        if now - self._complained >= _COMPLAIN_EVERY_SECONDS:
            self._complained = now
            log.warning("spans_dropped", total=self.dropped, error=error)
