"""Which trace a piece of work belongs to, and how that is said between processes (W3C)."""

from __future__ import annotations

import functools
import hashlib
import re
from contextvars import ContextVar, Token
from random import Random
from typing import NamedTuple

TRACEPARENT = "traceparent"
# W3C Trace Context, version 00; later versions may append fields after the flags. No id is all
# zero, and there is no version ff.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?"
).fullmatch
_ID_BITS = (1 << 64) - 1
# Odd, so that no two spans or numbers become the same one (the constants of SplitMix64).
_SPAN_FACTOR, _NUMBER_FACTOR = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

_random_bits = Random().getrandbits
_from_hex = bytes.fromhex


class TraceContext(NamedTuple):
    """Which trace a piece of work belongs to: 16-byte trace id, 8-byte id of the current span."""

    trace_id: bytes
    span_id: bytes

    def child(self) -> TraceContext:
        """The same trace with a new span id, for work done under this one."""
        return _context(TraceContext, (self.trace_id, _random_bits(64).to_bytes(8, "big")))

    def derived(self, name: str, number: int = 0) -> TraceContext:
        """Like `child`, but always the same id for the same name and number.

        For spans made from the log: an entry that is read twice gives the same span, not two.
        """
        return _context(TraceContext, (self.trace_id, derived_id(self.span_id, name, number)))


# What the generated constructor calls in the end; it costs half as much.
_context = tuple.__new__
_current: ContextVar[TraceContext | None] = ContextVar("tidebook_trace", default=None)


def new_trace() -> TraceContext:
    """A new trace with its root span id."""
    ids = _random_bits(192).to_bytes(24, "big")
    return _context(TraceContext, (ids[:16], ids[16:]))


def random_id(size: int) -> bytes:
    """So many random bytes, for ids alone: somebody might guess them."""
    return _random_bits(8 * size).to_bytes(size, "big")


def derived_id(span_id: bytes, name: str, number: int = 0) -> bytes:
    """Span id of what `TraceContext.derived` makes."""
    mixed = int.from_bytes(span_id, "big") * _SPAN_FACTOR + number * _NUMBER_FACTOR + _seed(name)
    return (mixed & _ID_BITS).to_bytes(8, "big")


@functools.lru_cache(maxsize=1000)
def _seed(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


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
    match = _TRACEPARENT(header)
    if match is None:
        return None
    trace_id, span_id = match.groups()
    return _context(TraceContext, (_from_hex(trace_id), _from_hex(span_id)))


def format_traceparent(context: TraceContext) -> str:
    """Context -> W3C `traceparent`, always sampled."""
    return f"00-{context.trace_id.hex()}-{context.span_id.hex()}-01"
