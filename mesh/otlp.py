"""Spans to an OpenTelemetry collector, built from finished ones (a live SDK span costs 50 us)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanContext, TraceFlags

if TYPE_CHECKING:
    from mesh.telemetry import RecordedSpan

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class OtlpExporter:
    """Sends spans to `endpoint` (`http://host:4317`, `https://` with TLS) from a thread."""

    def __init__(self, service: str, endpoint: str) -> None:
        self._resource = Resource.create({SERVICE_NAME: service, "service.namespace": "tidebook"})
        self._processor = BatchSpanProcessor(
            OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"))
        )

    def export(self, spans: Iterable[RecordedSpan]) -> None:
        """Queue spans; the processor drops what a slow collector does not take."""
        for span in spans:
            self._processor.on_end(self._readable(span))

    def close(self) -> None:
        """Send the rest. Blocks for up to the exporter's timeout: call it from a thread."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def _readable(self, span: RecordedSpan) -> ReadableSpan:
        parent = span.parent_span_id
        return ReadableSpan(
            name=span.name,
            context=_context(span.trace_id, span.span_id),
            parent=_context(span.trace_id, parent) if parent else None,
            resource=self._resource,
            attributes=span.attributes,
            start_time=span.start_ns,
            end_time=span.end_ns,
        )


def _context(trace_id: bytes, span_id: bytes) -> SpanContext:
    return SpanContext(
        int.from_bytes(trace_id), int.from_bytes(span_id), is_remote=False, trace_flags=_SAMPLED
    )
