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

import time
from collections.abc import Generator, Iterable, Sequence
from typing import Any

from redis.asyncio import Redis

from kernel.reasons import Reason, Refused
from mesh.aio import in_steps
from mesh.span_format import (
    BUCKETS,
    SLOT_NS,
    Finished,
    Link,
    OrderLink,
    RecordedSpan,
    bucket_pattern,
    links_key,
    links_pattern,
    long_key,
    pack_links,
    pack_spans,
    places,
    slot_key,
    unpack_links,
    unpack_spans,
)
from mesh.trace_context import random_id

# Of one trace a reader gets this many spans, and in one slot one process writes no more: a whole
# stream of orders may be one trace.
SPANS_PER_TRACE_MAX = 1000
# So many rows of a bucket are kept whatever traces they are of; only then are these counted.
_UNCOUNTED = SPANS_PER_TRACE_MAX // 2
LONG_SPANS_MAX = 100
# Slots whose rows are counted; consumers that lag write to old ones.
_SLOTS_COUNTED = 4
# About as many rows take a millisecond.
_STEP_ROWS = 250
_SCAN_COUNT = 1000
# About what a field takes besides its name and value.
_FIELD_BYTES = 80


class _Written:
    """What went into one slot so far: rows by bucket, and of full buckets by trace."""

    __slots__ = ("by_trace", "rows")

    def __init__(self) -> None:
        self.rows = [0] * BUCKETS
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


class _Kept:
    """What one process has in the store: bytes of each key, that was longest not written first."""

    def __init__(self, seconds: int, bytes_max: int) -> None:
        self._seconds = seconds
        self._bytes_max = bytes_max
        self._bytes = 0
        self._keys: dict[str, tuple[int, float]] = {}

    def note(self, key: str, size: int) -> None:
        """So many bytes went into a key, which expires anew."""
        before, _ = self._keys.pop(key, (0, 0.0))
        self._keys[key] = before + size, time.monotonic() + self._seconds
        self._bytes += size

    def too_much(self) -> list[str]:
        """Keys that have to go; those and the expired ones are not counted any more."""
        now, found = time.monotonic(), []
        while self._keys:
            key = next(iter(self._keys))
            size, expires = self._keys[key]
            if self._bytes > self._bytes_max:
                found.append(key)
            elif expires > now:
                break
            del self._keys[key]
            self._bytes -= size
        return found


class SpanWriter:
    """Writes the spans of one process of a service. They are kept so long, and at most so many
    bytes of them: beyond that the oldest go early, for the log's store has no memory to spare.
    """

    def __init__(self, redis: Redis, service: str, keep_seconds: int, keep_bytes: int) -> None:
        self._redis = redis
        self._service = service
        self._keep_seconds = keep_seconds
        self._kept = _Kept(keep_seconds, keep_bytes)
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
        too_much = self._kept.too_much()
        if too_much:
            pipeline.unlink(*too_much)
        dropped = await in_steps(self._add_spans(pipeline, spans))
        for key, fields in pack_links(links, f"{self._process}{self._flushes}").items():
            self._add_fields(pipeline, key, fields)
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
                        buckets += ([] for _ in range(BUCKETS))
                buckets[context[0][-1] % BUCKETS].append(span)
            yield
        dropped = 0
        for slot, buckets in slots.items():
            dropped += self._admit(slot, buckets)
            fields: list[str | bytes] = []
            rows_since = 0
            for place, rows in places(buckets):
                fields.append(f"{place}{self._process}{self._flushes}")
                fields.append(pack_spans(self._service, rows))
                rows_since += len(rows)
                if rows_since >= _STEP_ROWS:
                    rows_since = 0
                    yield
            if fields:
                self._add_fields(pipeline, slot_key(slot), fields)
        for span in long:
            key, element = long_key(span[0].trace_id), pack_spans(self._service, [span])
            pipeline.rpush(key, element)
            pipeline.ltrim(key, -LONG_SPANS_MAX, -1)
            pipeline.expire(key, self._keep_seconds)
            self._kept.note(key, len(element) + _FIELD_BYTES)
        return dropped

    def _add_fields(self, pipeline: Any, key: str, fields: list[str | bytes]) -> None:
        pipeline.hset(key, items=fields)
        pipeline.expire(key, self._keep_seconds)
        self._kept.note(key, sum(map(len, fields)) + len(fields) // 2 * _FIELD_BYTES)

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


# Of which service, and the span.
_Found = tuple[str, Finished]


async def read_order_trace(redis: Redis, order_id: int) -> tuple[int, list[RecordedSpan]]:
    """(account id, spans by start time) of an order; each span once.

    The spans are those of its trace at about its time: within the slots next to its own, and those
    longer than a slot. When there are more than `SPANS_PER_TRACE_MAX` (stages not counted), the
    spans around and below its own come first, then the nearest in time. Raises
    `Refused(ORDER_NOT_FOUND)` when the order is not known or its trace no longer kept. The caller
    compares the account with the one that asks.
    """
    link = await _read_link(redis, order_id)
    trace_id, slot = link.trace_id, link.time_ns // SLOT_NS
    found = await _read_long(redis, trace_id)
    for near in (slot - 1, slot, slot + 1):
        found += await _read_slot(redis, near, trace_id)
    spans = [part for span in _nearest(found, link) for part in RecordedSpan.of(*span).expanded()]
    return link.account_id, sorted(spans, key=lambda span: (span.start_ns, -span.end_ns))


async def _read_link(redis: Redis, order_id: int) -> OrderLink:
    found = None
    pages = redis.hscan_iter(links_key(order_id), links_pattern(order_id), _SCAN_COUNT)
    async for _, value in pages:
        for link in unpack_links(value):
            if link.order_id == order_id:
                found = link
    if found is None:
        raise Refused(Reason.ORDER_NOT_FOUND, "no trace is kept for this order")
    return found


async def _read_slot(redis: Redis, slot: int, trace_id: bytes) -> list[_Found]:
    # In parts, and only the fields that may hold it: the log's store has others to serve.
    pages = redis.hscan_iter(slot_key(slot), bucket_pattern(trace_id), _SCAN_COUNT)
    return [found async for _, value in pages for found in unpack_spans(value, trace_id)]


async def _read_long(redis: Redis, trace_id: bytes) -> list[_Found]:
    # redis-py types this as sync or async at once.
    answer: Any = redis.lrange(long_key(trace_id), 0, -1)
    return [found for value in await answer for found in unpack_spans(value, trace_id)]


def _nearest(found: Iterable[_Found], link: OrderLink) -> Iterable[_Found]:
    """Each span once, at most `SPANS_PER_TRACE_MAX` of them: those nearest to the order."""
    # A consumer that reads a log entry again after a crash makes the same (derived) spans again.
    spans = {span[0].span_id: (service, span) for service, span in found}
    if len(spans) <= SPANS_PER_TRACE_MAX:
        return spans.values()
    around, span_id = set[bytes](), link.span_id
    while span_id in spans and span_id not in around:
        around.add(span_id)
        span_id = spans[span_id][1][1]

    def distance(found: _Found) -> tuple[bool, bool, int]:
        _, ((_, span_id), parent, _, start_ns, _, at_ns, *_) = found
        away = abs((at_ns or start_ns) - link.time_ns)
        return span_id not in around, parent != link.span_id, away

    return sorted(spans.values(), key=distance)[:SPANS_PER_TRACE_MAX]
