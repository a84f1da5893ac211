"""How spans are written down: what goes into which key and field, and back.

A hash holds the spans of ten seconds (a slot). Its fields hold those of one flush of one process
each, of one or more of 64 buckets, by the last byte of the trace id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import itemgetter
from struct import Struct
from typing import NamedTuple

import orjson

from kernel.clock import NS_PER_SECOND
from kernel.shards import shard_of
from mesh.trace_context import TraceContext, derived_id

SLOT_NS = 10 * NS_PER_SECOND
BUCKETS = 64
# A flush of fewer rows is one field; of more, four, then sixteen, then one for each bucket.
_ROWS_IN_ONE = 32
# Orders whose links are in one hash, and in one field of it.
_ORDERS_PER_KEY, _ORDERS_PER_FIELD = 1000, 100

# A part of a span's time, a span below it: name, start and end in Unix nanoseconds, attributes.
# (A named tuple would cost the engine half a microsecond, three times an order.)
Stage = tuple[str, int, int, dict[str, object]]
# A finished span: context, parent's span id or zeros, name, start, end, time of its log entry or 0,
# stages, attributes. What is no JSON among these is stored as its text; all are read as texts.
Finished = tuple[TraceContext, bytes, str, int, int, int, tuple[Stage, ...], dict[str, object]]
NO_PARENT = bytes(8)
# What of it is stored as JSON. The ids come after that: the trace and span id of each span, then
# the parent of each.
_ROW = slice(2, None)
_CONTEXT = Struct("16s8s")
_context_of, _parent_of = itemgetter(0), itemgetter(1)
# Order, account, the span that placed it, time of its log entry.
Link = tuple[int, int, TraceContext, int]
_LINK = Struct(">QQ16s8sQ")


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
        return cls(*ids, service, name, start_ns, end_ns, _texts(attributes), tuple(stages))

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


class OrderLink(NamedTuple):
    """Where the trace of an order is: its own span, and the time of its log entry."""

    order_id: int
    account_id: int
    trace_id: bytes
    span_id: bytes
    time_ns: int


def pack_spans(service: str, spans: list[Finished]) -> bytes:
    """The value of a field. Raises `orjson.JSONEncodeError`."""
    text = orjson.dumps((service, [span[_ROW] for span in spans]), default=str)
    contexts = b"".join(chain.from_iterable(map(_context_of, spans)))
    return b"%b\n%b%b" % (text, contexts, b"".join(map(_parent_of, spans)))


def unpack_spans(value: bytes, trace_id: bytes) -> Iterator[tuple[str, Finished]]:
    """(service, span) of the spans of this trace in a field."""
    text, _, ids = value.partition(b"\n")
    # Most fields hold none.
    if trace_id not in ids:
        return
    service, rows = orjson.loads(text)
    parents = len(rows) * _CONTEXT.size
    for at, row in enumerate(rows):
        context = TraceContext(*_CONTEXT.unpack_from(ids, at * _CONTEXT.size))
        if context.trace_id == trace_id:
            parent_at = parents + at * len(NO_PARENT)
            yield service, (context, ids[parent_at : parent_at + len(NO_PARENT)], *row)


def pack_links(links: Iterable[Link], flush: str) -> dict[str, list[str | bytes]]:
    """Key -> field, value, field, value, ...; `flush` is what no other flush is called."""
    blocks: dict[int, list[bytes]] = {}
    last, block = -1, list[bytes]()
    for order_id, account_id, (trace_id, span_id), time_ns in links:
        number = order_id // _ORDERS_PER_FIELD
        if number != last:
            last, block = number, blocks.setdefault(number, [])
        block.append(_LINK.pack(order_id, account_id, trace_id, span_id, time_ns))
    fields: dict[str, list[str | bytes]] = {}
    for number, block in blocks.items():
        of_key = fields.setdefault(links_key(number * _ORDERS_PER_FIELD), [])
        of_key += f"{number}:{flush}", b"".join(block)
    return fields


def unpack_links(value: bytes) -> Iterator[OrderLink]:
    """The links in a field."""
    return map(OrderLink._make, _LINK.iter_unpack(value))


def slot_key(slot: int) -> str:
    """The hash of the spans of so many slots after 1970."""
    return f"spans:{slot}"


def long_key(trace_id: bytes) -> str:
    """The list of the spans of this trace that are longer than a slot."""
    return f"spans:long:{trace_id.hex()}"


def links_key(order_id: int) -> str:
    """The hash with this order's link."""
    return f"order-links:{shard_of(order_id)}:{order_id // _ORDERS_PER_KEY}"


def links_pattern(order_id: int) -> str:
    """What the names of the fields with this order's link match."""
    return f"{order_id // _ORDERS_PER_FIELD}:*"


def bucket_pattern(trace_id: bytes) -> str:
    """What the names of the fields with this trace's spans match."""
    return _PATTERNS[trace_id[-1] % BUCKETS]


def places(buckets: list[list[Finished]]) -> Iterator[tuple[str, list[Finished]]]:
    """The buckets, or several in one when they hold little, and how their fields begin."""
    count = sum(map(len, buckets))
    digits = 0
    while digits < 3 and count > _ROWS_IN_ONE << 2 * digits:
        digits += 1
    width = BUCKETS >> 2 * digits
    for first in range(0, BUCKETS, width):
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
    "".join(f"[{digit}x]" for digit in _place(bucket, 3)) + "*" for bucket in range(BUCKETS)
]


def _texts(attributes: dict[str, object]) -> dict[str, str]:
    return {key: str(value) for key, value in attributes.items()}
