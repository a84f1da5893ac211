"""The built-in store of spans: rows by time in Redis, found again through orders and their times.

A trace has no place of its own, for a few commands to the log's store cost more than an order. What
a process finished in a quarter of a second goes out in one: into the hash of its ten seconds
(`spans:<slot>`), in fields of some rows each. The last byte of the trace id says which field a row
is in, so a reader takes a small part of these ten seconds. The slot is that of the work: of its log
entry, however late a consumer gets there, and for the rest of the start. An order's link names the
time of its entry, so its spans are in that slot and those next to it. A span longer than a slot
began where nobody would look (a stream of orders, when it ends): it is kept by its trace.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import itemgetter
from struct import Struct
from typing import Any, NamedTuple

import orjson
from redis.asyncio import Redis

from kernel.clock import NS_PER_SECOND
from kernel.reasons import Reason, Refused
from kernel.shards import shard_of
from mesh.aio import in_steps
from mesh.trace_context import TraceContext, derived_id, random_id

SLOT_NS = 10 * NS_PER_SECOND
# Of one trace a reader gets this many spans, and in one slot one process writes no more: a whole
# stream of orders may be one trace.
SPANS_PER_TRACE_MAX = 1000
# So many rows of a bucket are kept whatever traces they are of; only then are these counted.
_UNCOUNTED = SPANS_PER_TRACE_MAX // 2
LONG_SPANS_MAX = 100
_BUCKETS = 64
# A flush of fewer rows is one field; of more, four, then sixteen, then one for each bucket.
_ROWS_IN_ONE = 32
# Orders whose links are in one hash, and in one field of it.
_ORDERS_PER_KEY, _ORDERS_PER_FIELD = 1000, 100
# Slots whose rows are counted; consumers that lag write to old ones.
_SLOTS_COUNTED = 4
# About as many rows take a millisecond.
_STEP_ROWS = 250
_SCAN_COUNT = 1000

# A part of a span's time, a span below it: name, start and end in Unix nanoseconds, attributes.
# (A named tuple would cost the engine half a microsecond, three times an order.)
Stage = tuple[str, int, int, dict[str, object]]
# A finished span: context, parent's span id or zeros, name, start, end, time of its log entry or 0,
# stages, attributes. What is no JSON among these is stored as its text; all are read as texts.
Finished = tuple[TraceContext, bytes, str, int, int, int, tuple[Stage, ...], dict[str, object]]
NO_PARENT = bytes(8)
# Order, account, the span that placed it, time of its log entry.
Link = tuple[int, int, TraceContext, int]
# A field has the service and the spans in JSON but for their ids, a newline, the trace and span id
# of each, and the parent of each.
_Row = tuple[str, int, int, int, tuple[Stage, ...], dict[str, object]]
_ROW = slice(2, None)
_context_of, _parent_of = itemgetter(0), itemgetter(1)
# Order, account, trace, span, time: a link as its field has them.
_LINK = Struct(">QQ16s8sQ")
_CONTEXT = Struct("16s8s")


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

    @classmethod
    def of(cls, service: str, finished: Finished) -> RecordedSpan:
        """The span that was recorded as this."""
        (trace_id, span_id), parent, name, start_ns, end_ns, _, stages, attributes = finished
        ids = trace_id, span_id, b"" if parent == NO_PARENT else parent
        return cls(*ids, service, name, start_ns, end_ns, _texts(attributes), stages)

    def expanded(self) -> Iterator[RecordedSpan]:
        """The span, and a span for each of its stages."""
        yield replace(self, stages=())
        for number, (name, start_ns, end_ns, attributes) in enumerate(self.stages):
            yield RecordedSpan(
                self.trace_id,
                derived_id(self.span_id, name, number),
                self.span_id,
                self.service,
                name,
                start_ns,
                end_ns,
                _texts(attributes),
            )


class _Written:
    """What went into one slot so far: rows by bucket, and of full buckets by trace."""

    __slots__ = ("by_trace", "rows")

    def __init__(self) -> None:
        self.rows = [0] * _BUCKETS
        self.by_trace: dict[bytes, int] = {}

    def admit(self, bucket: int, rows: list[Finished]) -> list[Finished]:
        """Those of the rows that may be written."""
        self.rows[bucket] += len(rows)
        if self.rows[bucket] <= _UNCOUNTED:
            return rows
        admitted = []
        for row in rows:
            trace = row[0].trace_id
            count = self.by_trace.get(trace, 0)
            if count < SPANS_PER_TRACE_MAX - _UNCOUNTED:
                self.by_trace[trace] = count + 1
                admitted.append(row)
        return admitted


class SpanWriter:
    """Writes the spans of one process of a service."""

    def __init__(self, redis: Redis, service: str, keep_seconds: int) -> None:
        self._redis = redis
        self._service = service
        self._keep_seconds = keep_seconds
        # Two flushes never write the same field, not even of two processes.
        self._process = random_id(6).hex()
        self._flushes = 0
        self._written: dict[int, _Written] = {}

    async def write(self, spans: Sequence[Finished], links: Iterable[Link]) -> int:
        """Write these in one go; how many spans were left out because their traces have too many.

        Raises `RedisError` or `OSError` when the store is away, and `orjson.JSONEncodeError` when
        they hold a text that is none or a number beyond 64 bits.
        """
        self._flushes += 1
        pipeline = self._redis.pipeline()
        dropped = await in_steps(self._add_spans(pipeline, spans))
        for key, fields in _link_fields(links, f"{self._process}{self._flushes}").items():
            pipeline.hset(key, items=fields)
            pipeline.expire(key, self._keep_seconds)
        await pipeline.execute()
        return dropped

    def _add_spans(self, pipeline: Any, spans: Sequence[Finished]) -> Generator[None, None, int]:
        slots: dict[int, list[list[Finished]]] = {}
        long: list[Finished] = []
        begins = ends = 0
        for first in range(0, len(spans), _STEP_ROWS):
            for span in spans[first : first + _STEP_ROWS]:
                context, _, _, start_ns, end_ns, at_ns, _, _ = span
                if not at_ns:
                    at_ns = start_ns
                    if end_ns - start_ns > SLOT_NS:
                        long.append(span)
                        continue
                if not begins <= at_ns < ends:
                    slot = at_ns // SLOT_NS
                    begins, ends = slot * SLOT_NS, (slot + 1) * SLOT_NS
                    buckets = slots.setdefault(slot, [])
                    if not buckets:
                        buckets += ([] for _ in range(_BUCKETS))
                buckets[context[0][-1] % _BUCKETS].append(span)
            yield
        dropped = 0
        for slot, buckets in slots.items():
            dropped += self._admit(slot, buckets)
            fields: list[str | bytes] = []
            rows_since = 0
            for place, rows in _places(buckets):
                fields.append(f"{place}{self._process}{self._flushes}")
                fields.append(self._field(rows))
                rows_since += len(rows)
                if rows_since >= _STEP_ROWS:
                    rows_since = 0
                    yield
            if fields:
                pipeline.hset(_slot_key(slot), items=fields)
                pipeline.expire(_slot_key(slot), self._keep_seconds)
        for span in long:
            key = _long_key(span[0].trace_id)
            pipeline.rpush(key, self._field([span]))
            pipeline.ltrim(key, -LONG_SPANS_MAX, -1)
            pipeline.expire(key, self._keep_seconds)
        return dropped

    def _field(self, spans: list[Finished]) -> bytes:
        rows = [span[_ROW] for span in spans]
        text = orjson.dumps((self._service, rows), default=str)
        contexts = b"".join(chain.from_iterable(map(_context_of, spans)))
        return b"%b\n%b%b" % (text, contexts, b"".join(map(_parent_of, spans)))

    def _admit(self, slot: int, buckets: list[list[Finished]]) -> int:
        """Take out of the buckets what is too much, and say how many rows these are."""
        written = self._written.get(slot)
        if written is None:
            if len(self._written) == _SLOTS_COUNTED:
                del self._written[next(iter(self._written))]
            written = self._written[slot] = _Written()
        dropped = 0
        for bucket, rows in enumerate(buckets):
            if rows:
                buckets[bucket] = admitted = written.admit(bucket, rows)
                dropped += len(rows) - len(admitted)
        return dropped


class _Link(NamedTuple):
    order_id: int
    account_id: int
    trace_id: bytes
    span_id: bytes
    time_ns: int


class _Found(NamedTuple):
    """A row of the trace that is read."""

    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes
    service: str
    row: _Row


async def read_order_trace(redis: Redis, order_id: int) -> tuple[int, list[RecordedSpan]]:
    """(account id, spans by start time) of an order; each span once.

    The spans are those of its trace at about its time: within the slots next to its own, and those
    longer than a slot. When there are more than `SPANS_PER_TRACE_MAX` (stages not counted), the
    spans around and below its own come first, then the nearest in time. Raises
    `Refused(ORDER_NOT_FOUND)` when the order is not known or its trace no longer kept. The caller
    compares the account with the one that asks.
    """
    link = await _read_link(redis, order_id)
    trace_id = link.trace_id
    # A consumer that reads a log entry again after a crash makes the same (derived) spans again.
    rows = {row.span_id: row for row in await _read_long(redis, trace_id)}
    slot = link.time_ns // SLOT_NS
    for near in (slot - 1, slot, slot + 1):
        rows |= {row.span_id: row for row in await _read_slot(redis, near, trace_id)}
    spans = [part for row in _nearest(rows, link) for part in _span(row).expanded()]
    return link.account_id, sorted(spans, key=lambda span: (span.start_ns, -span.end_ns))


async def _read_link(redis: Redis, order_id: int) -> _Link:
    found = None
    pattern = f"{order_id // _ORDERS_PER_FIELD}:*"
    async for _, value in redis.hscan_iter(_links_key(order_id), pattern, _SCAN_COUNT):
        for link in map(_Link._make, _LINK.iter_unpack(value)):
            if link.order_id == order_id:
                found = link
    if found is None:
        raise Refused(Reason.ORDER_NOT_FOUND, "no trace is kept for this order")
    return found


async def _read_slot(redis: Redis, slot: int, trace_id: bytes) -> list[_Found]:
    key, pattern = _slot_key(slot), _PATTERNS[trace_id[-1] % _BUCKETS]
    return [
        found
        # In parts, and only the fields that may hold it: the log's store has others to serve.
        async for _, value in redis.hscan_iter(key, pattern, _SCAN_COUNT)
        for found in _rows_of(trace_id, value)
    ]


async def _read_long(redis: Redis, trace_id: bytes) -> list[_Found]:
    # redis-py types this as sync or async at once.
    answer: Any = redis.lrange(_long_key(trace_id), 0, -1)
    return [found for value in await answer for found in _rows_of(trace_id, value)]


def _rows_of(trace_id: bytes, value: bytes) -> Iterator[_Found]:
    """The rows of this trace in a field."""
    text, _, ids = value.partition(b"\n")
    # Most fields hold none.
    if trace_id not in ids:
        return
    service, rows = orjson.loads(text)
    parents = len(rows) * _CONTEXT.size
    for at, row in enumerate(rows):
        of_trace, span_id = _CONTEXT.unpack_from(ids, at * _CONTEXT.size)
        if of_trace == trace_id:
            parent_at = parents + at * len(NO_PARENT)
            parent = ids[parent_at : parent_at + len(NO_PARENT)]
            yield _Found(of_trace, span_id, parent, service, row)


def _nearest(rows: dict[bytes, _Found], link: _Link) -> Iterable[_Found]:
    """At most `SPANS_PER_TRACE_MAX` of the rows by span id: those nearest to the order."""
    if len(rows) <= SPANS_PER_TRACE_MAX:
        return rows.values()
    around, span_id = set[bytes](), link.span_id
    while span_id in rows and span_id not in around:
        around.add(span_id)
        span_id = rows[span_id].parent_span_id

    def distance(found: _Found) -> tuple[bool, bool, int]:
        _, start_ns, _, at_ns, *_ = found.row
        away = abs((at_ns or start_ns) - link.time_ns)
        return found.span_id not in around, found.parent_span_id != link.span_id, away

    return sorted(rows.values(), key=distance)[:SPANS_PER_TRACE_MAX]


def _span(found: _Found) -> RecordedSpan:
    trace_id, span_id, parent, service, (name, start_ns, end_ns, _, stages, attributes) = found
    return RecordedSpan(
        trace_id,
        span_id,
        b"" if parent == NO_PARENT else parent,
        service,
        name,
        start_ns,
        end_ns,
        _texts(attributes),
        tuple(stages),
    )


def _texts(attributes: dict[str, object]) -> dict[str, str]:
    return {key: str(value) for key, value in attributes.items()}


def _slot_key(slot: int) -> str:
    return f"spans:{slot}"


def _long_key(trace_id: bytes) -> str:
    return f"spans:long:{trace_id.hex()}"


def _links_key(order_id: int) -> str:
    return f"order-links:{shard_of(order_id)}:{order_id // _ORDERS_PER_KEY}"


def _link_fields(links: Iterable[Link], flush: str) -> dict[str, list[str | bytes]]:
    """Key -> field, value, field, value, ..."""
    blocks: dict[int, list[bytes]] = {}
    last, block = -1, list[bytes]()
    for order_id, account_id, (trace_id, span_id), time_ns in links:
        number = order_id // _ORDERS_PER_FIELD
        if number != last:
            last, block = number, blocks.setdefault(number, [])
        block.append(_LINK.pack(order_id, account_id, trace_id, span_id, time_ns))
    fields: dict[str, list[str | bytes]] = {}
    for number, block in blocks.items():
        of_key = fields.setdefault(_links_key(number * _ORDERS_PER_FIELD), [])
        of_key += f"{number}:{flush}", b"".join(block)
    return fields


def _places(buckets: list[list[Finished]]) -> Iterator[tuple[str, list[Finished]]]:
    """The buckets, or several in one when they hold little, and how their fields begin."""
    count = sum(map(len, buckets))
    digits = 0
    while digits < 3 and count > _ROWS_IN_ONE << 2 * digits:
        digits += 1
    width = _BUCKETS >> 2 * digits
    for first in range(0, _BUCKETS, width):
        rows = list(chain.from_iterable(buckets[first : first + width]))
        if rows:
            yield _place(first, digits), rows


def _place(bucket: int, digits: int) -> str:
    """The bucket's number to base 4; an `x` for each digit that may be any."""
    return "".join(
        str(bucket >> 4 - 2 * digit & 3) if digit < digits else "x" for digit in range(3)
    )


# Of each bucket, the fields that may hold its rows.
_PATTERNS = [
    "".join(f"[{digit}x]" for digit in _place(bucket, 3)) + "*" for bucket in range(_BUCKETS)
]
