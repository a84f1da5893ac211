"""Traces without spans on the hot path.

A call carries only a `TraceContext`; stages are timestamps. Spans are made from both afterwards
(an SDK span costs about 50 us): `SpanRecorder.record` appends to a bounded deque, and every 250 ms
what has gathered is written in one pipeline, and to OTLP when that is configured. Spans are lost
rather than waited for: when the queue is full or the store away, they are counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextvars import ContextVar, Token
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from kernel.reasons import Reason, Refused
from kernel.shards import shard_of
from mesh.aio import cancel_and_wait, supervise
from mesh.config import Settings

if TYPE_CHECKING:
    from mesh.otlp import OtlpExporter

TRACEPARENT = "traceparent"
# W3C Trace Context, version 00; later versions may append fields after the flags.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
FLUSH_SECONDS = 0.25
QUEUE_MAX = 20_000
# One trace may be a whole stream of orders: its newest spans are kept.
SPANS_PER_TRACE_MAX = 1000
# Orders whose traces are found through one key of the store.
ORDERS_PER_BUCKET = 1000
_COMPLAIN_EVERY_SECONDS = 10.0

log = structlog.get_logger()
_random = Random()


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Which trace a piece of work belongs to: 16-byte trace id, 8-byte id of the current span."""

    trace_id: bytes
    span_id: bytes

    def child(self) -> TraceContext:
        """The same trace with a new span id, for work done under this one."""
        return TraceContext(self.trace_id, random_id(8))

    def derived(self, name: str, number: int = 0) -> TraceContext:
        """Like `child`, but always the same id for the same name and number.

        For spans made from the log: an entry that is read twice gives the same span, not two.
        """
        seed = b"%b%b%d" % (self.span_id, name.encode(), number)
        return TraceContext(self.trace_id, hashlib.blake2b(seed, digest_size=8).digest())


_current: ContextVar[TraceContext | None] = ContextVar("tidebook_trace", default=None)


def new_trace() -> TraceContext:
    """A new trace with its root span id."""
    return TraceContext(random_id(16), random_id(8))


def random_id(size: int) -> bytes:
    """So many random bytes, for ids alone: somebody might guess them."""
    return _random.getrandbits(8 * size).to_bytes(size, "big")


def current_trace() -> TraceContext | None:
    """The trace context of the call being served, if any."""
    return _current.get()


def set_trace(context: TraceContext | None) -> Token[TraceContext | None]:
    """Make `context` the current one; give the token to `reset_trace` when done."""
    return _current.set(context)


def reset_trace(token: Token[TraceContext | None]) -> None:
    """Undo `set_trace`."""
    _current.reset(token)


def parse_traceparent(header: str | None) -> TraceContext | None:
    """W3C `traceparent` -> context; None when it is missing, malformed or all zero."""
    if not header:
        return None
    match = _TRACEPARENT.fullmatch(header)
    if match is None or header.startswith("ff"):
        return None
    trace_id, span_id = bytes.fromhex(match[1]), bytes.fromhex(match[2])
    if not any(trace_id) or not any(span_id):
        return None
    return TraceContext(trace_id, span_id)


def format_traceparent(context: TraceContext) -> str:
    """Context -> W3C `traceparent`, always sampled."""
    return f"00-{context.trace_id.hex()}-{context.span_id.hex()}-01"


# A command of its own for each trace, let alone three, costs more than the order it is about. So
# many traces at once, because nobody else is served meanwhile.
_TRACES_PER_CALL = 100
_APPEND = """
local at, most = 3, tonumber(ARGV[1])
for _, key in ipairs(KEYS) do
    local rows = tonumber(ARGV[at])
    local length
    for row = at + 1, at + rows do length = redis.call('rpush', key, ARGV[row]) end
    if length > most then redis.call('ltrim', key, -most, -1) end
    redis.call('expire', key, ARGV[2])
    at = at + rows + 1
end
"""


class Stage(NamedTuple):
    """A part of a span's time: a span below it, kept with it. Times in Unix nanoseconds."""

    name: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str] = {}  # noqa: RUF012 - never changed


@dataclass(frozen=True, slots=True)
class RecordedSpan:
    """A finished span. Ids are raw bytes, `parent_span_id` is empty at a root; times Unix ns."""

    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes
    service: str
    name: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()

    def expanded(self) -> Iterator[RecordedSpan]:
        """The span, and a span for each of its stages."""
        own = TraceContext(self.trace_id, self.span_id)
        yield replace(self, stages=())
        for number, (name, start_ns, end_ns, attributes) in enumerate(self.stages):
            yield RecordedSpan(
                self.trace_id,
                own.derived(name, number).span_id,
                self.span_id,
                self.service,
                name,
                start_ns,
                end_ns,
                attributes,
            )

    def to_json(self) -> bytes:
        """As the built-in store keeps it."""
        return orjson.dumps(
            {
                "trace_id": self.trace_id.hex(),
                "span_id": self.span_id.hex(),
                "parent_span_id": self.parent_span_id.hex(),
                "service": self.service,
                "name": self.name,
                "start_ns": self.start_ns,
                "end_ns": self.end_ns,
                "attributes": self.attributes,
                "stages": [tuple(stage) for stage in self.stages],
            }
        )

    @classmethod
    def from_json(cls, text: bytes) -> RecordedSpan:
        """The reverse of `to_json`."""
        row = orjson.loads(text)
        return cls(
            trace_id=bytes.fromhex(row["trace_id"]),
            span_id=bytes.fromhex(row["span_id"]),
            parent_span_id=bytes.fromhex(row["parent_span_id"]),
            service=row["service"],
            name=row["name"],
            start_ns=row["start_ns"],
            end_ns=row["end_ns"],
            attributes=row["attributes"],
            # What an earlier version wrote has none.
            stages=tuple(Stage(*stage) for stage in row.get("stages", ())),
        )


class SpanRecorder:
    """Takes the spans of one service. The first span starts the flushing; `close` ends it."""

    def __init__(self, service: str, redis: Redis, settings: Settings) -> None:
        self.dropped = 0
        self._service = service
        self._redis = redis
        self._script = redis.register_script(_APPEND)
        self._keep_seconds = settings.trace_keep_seconds
        self._spans: deque[RecordedSpan] = deque()
        self._links: deque[tuple[int, int, bytes]] = deque()
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
        **attributes: object,
    ) -> None:
        """Keep a finished span: `context` holds its own ids, times are Unix nanoseconds."""
        if len(self._spans) >= QUEUE_MAX:
            self.dropped += 1
            return
        self._spans.append(
            RecordedSpan(
                context.trace_id,
                context.span_id,
                parent_span_id or b"",
                self._service,
                name,
                start_ns,
                end_ns,
                {key: str(value) for key, value in attributes.items()},
                stages,
            )
        )
        self._start()

    def link_order(self, order_id: int, account_id: int, trace_id: bytes) -> None:
        """Let `read_order_trace` find the trace that this order of this account belongs to."""
        if len(self._links) >= QUEUE_MAX:
            self.dropped += 1
            return
        self._links.append((order_id, account_id, trace_id))
        self._start()

    async def flush(self) -> None:
        """Write out what has gathered."""
        spans, links = _take(self._spans), _take(self._links)
        if not spans and not links:
            return
        if self._otlp is not None:
            self._otlp.export(part for span in spans for part in span.expanded())
        traces = list(_by_trace(spans).items())
        try:
            for start in range(0, len(traces), _TRACES_PER_CALL):
                await self._append(traces[start : start + _TRACES_PER_CALL])
            await self._write_links(links)
        except (RedisError, OSError) as error:
            self.dropped += len(spans) + len(links)
            self._complain(str(error))

    async def _append(self, traces: list[tuple[bytes, list[bytes]]]) -> None:
        arguments: list[bytes | int] = [SPANS_PER_TRACE_MAX, self._keep_seconds]
        for _, rows in traces:
            arguments.append(len(rows))
            arguments += rows
        await self._script(keys=[_trace_key(trace_id) for trace_id, _ in traces], args=arguments)

    async def _write_links(self, links: list[tuple[int, int, bytes]]) -> None:
        if not links:
            return
        pipeline = self._redis.pipeline(transaction=False)
        # One hash takes a thousand orders: a key each would cost more than placing them.
        for key, fields in _by_bucket(links).items():
            pipeline.hset(key, items=fields)
            pipeline.expire(key, self._keep_seconds)
        await pipeline.execute()

    async def close(self) -> None:
        """Write out the rest and stop."""
        await cancel_and_wait(self._flusher)
        self._flusher = None
        await self.flush()
        if self._otlp is not None:
            await asyncio.to_thread(self._otlp.close)

    def _start(self) -> None:
        if self._flusher is None:
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


async def read_order_trace(redis: Redis, order_id: int) -> tuple[int, list[RecordedSpan]]:
    """(account id, spans by start time) of an order; each span once.

    Raises `Refused(ORDER_NOT_FOUND)` when the order is not known or its trace no longer kept. The
    caller compares the account with the one that asks.
    """
    key = _links_key(order_id)
    # redis-py types this as sync or async at once.
    answer: Any = redis.hget(key, str(order_id))
    link: bytes | None = await answer
    if link is None:
        raise Refused(Reason.ORDER_NOT_FOUND, "no trace is kept for this order")
    account, _, trace_hex = link.decode().partition(":")
    rows: Any = await redis.lrange(_trace_key(bytes.fromhex(trace_hex)), 0, -1)
    # A consumer that reads a log entry again after a crash makes the same (derived) spans again.
    spans = {span.span_id: span for row in rows for span in RecordedSpan.from_json(row).expanded()}
    return int(account), sorted(spans.values(), key=lambda span: (span.start_ns, -span.end_ns))


def _take(queue: deque[Any]) -> list[Any]:
    taken = list(queue)
    queue.clear()
    return taken


def _by_trace(spans: Iterable[RecordedSpan]) -> dict[bytes, list[bytes]]:
    rows: dict[bytes, list[bytes]] = {}
    for span in spans:
        rows.setdefault(span.trace_id, []).append(span.to_json())
    return rows


def _trace_key(trace_id: bytes) -> str:
    return f"trace:{trace_id.hex()}"


def _by_bucket(links: Iterable[tuple[int, int, bytes]]) -> dict[str, list[str]]:
    """Key -> field, value, field, value, ..."""
    buckets: dict[str, list[str]] = {}
    for order_id, account_id, trace_id in links:
        fields = buckets.setdefault(_links_key(order_id), [])
        fields.append(str(order_id))
        fields.append(f"{account_id}:{trace_id.hex()}")
    return buckets


def _links_key(order_id: int) -> str:
    return f"order-traces:{shard_of(order_id)}:{order_id // ORDERS_PER_BUCKET}"
