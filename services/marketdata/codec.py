"""From what the domain knows to the public messages, and the few things the other way."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from tidebook.marketdata.v1 import marketdata_pb2 as pb

from kernel.money import format_units
from services.marketdata.domain.prices import FEED_DECIMALS, ExternalPrice
from services.marketdata.feeds.desk import FeedSnapshot

_SECOND = 1_000_000_000


def timestamp(time_ns: int) -> Timestamp:
    """Unix nanoseconds -> Timestamp."""
    seconds, nanos = divmod(time_ns, _SECOND)
    return Timestamp(seconds=seconds, nanos=nanos)


def nanoseconds(time: Timestamp) -> int:
    """Timestamp -> Unix nanoseconds."""
    return time.seconds * _SECOND + time.nanos


def feed_decimal(units: int) -> str:
    """A feed's price -> decimal string; 0 (unknown) -> empty."""
    return format_units(units, FEED_DECIMALS) if units else ""


def price_to_proto(price: ExternalPrice, prev_seq: int) -> pb.Price:
    """`prev_seq` is the seq before it on the stream it is for."""
    return pb.Price(
        market=price.market,
        price=feed_decimal(price.price),
        bid=feed_decimal(price.bid),
        ask=feed_decimal(price.ask),
        last=feed_decimal(price.last),
        source=pb.FeedKind.ValueType(price.kind),
        simulated=price.simulated,
        source_time=timestamp(price.source_time_ns),
        receive_time=timestamp(price.receive_time_ns),
        stale=price.stale,
        seq=price.seq,
        prev_seq=prev_seq,
    )


def feed_to_proto(feed: FeedSnapshot) -> pb.FeedStatus:
    """How the external feed is."""
    return pb.FeedStatus(
        source=pb.FeedKind.ValueType(feed.kind),
        simulated=feed.simulated,
        healthy=feed.healthy,
        detail=feed.detail,
        bad_frames=feed.bad_frames,
        reconnects=feed.reconnects,
    )
