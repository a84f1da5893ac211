"""What is kept of each request when it has been answered: a metric, a span, a line in the log."""

from __future__ import annotations

import logging
import time

import structlog

from gateway.metrics import Metrics
from mesh.telemetry import SpanRecorder, TraceContext

log = structlog.get_logger()


class Requests:
    """Counts those under way, and records those that are done."""

    def __init__(self, metrics: Metrics, recorder: SpanRecorder) -> None:
        self._metrics = metrics
        self._recorder = recorder
        self.open = 0
        # Even what is not written costs something to say.
        self._tells = structlog.get_logger().is_enabled_for(logging.DEBUG)

    def begin(self) -> None:
        """One more is under way."""
        self.open += 1

    def finish(
        self,
        name: str,
        status: int,
        request_id: str,
        trace: TraceContext,
        parent_span_id: bytes,
        start_ns: int,
        started: float,
    ) -> None:
        """It is answered. `name` is its route's, empty for a path that means nothing; it began at
        `start_ns` (Unix nanoseconds) and `started` (monotonic seconds).
        """
        self.open -= 1
        seconds = time.monotonic() - started
        # Paths that mean nothing share one name, or anybody could fill the metrics.
        self._metrics.observe(name or "none", status, seconds)
        if " " not in name:
            return
        self._recorder.record(
            f"gateway {name}",
            trace,
            parent_span_id,
            start_ns,
            start_ns + int(seconds * 1e9),
            status=status,
            request_id=request_id,
        )
        if self._tells:
            log.debug("request", route=name, status=status, ms=round(seconds * 1000, 1))
