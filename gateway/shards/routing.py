"""Which shard a request is for: by its market, by the id it names, or every one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message
from tidebook.engine.v1 import order_pb2

from kernel.reasons import Reason, Refused
from kernel.shards import shard_of
from mesh.shards import ShardMap

# What is asked of every shard when no market is named.
_OF_ALL = frozenset(
    {
        "CancelAllAfter",
        "CancelAllOrders",
        "GetAccount",
        "GetRisk",
        "ListCfds",
        "ListLiquidations",
        "ListMarkets",
        "ListOpenOrders",
        "ListPositions",
        "ListTickers",
        "WatchAccount",
        "WatchTickers",
    }
)
_IDS = ("order_id", "cfd_id")
_OWN_IDS = ("client_order_id", "client_cfd_id")


class ShardRouter:
    """Finds the shards of requests. `numbers` are all of them."""

    def __init__(self, shards: ShardMap) -> None:
        self.numbers = shards.numbers
        self._shards = shards

    def parts(self, method: str, request: Message) -> dict[int, Message]:
        """Shard -> what to ask it, for a method (its bare name). Raises `Refused`."""
        if isinstance(request, order_pb2.WatchAccountRequest):
            return self._watches(request)
        if "markets" in request.DESCRIPTOR.fields_by_name:
            return self._by_markets(method, request)
        shard = self.one(request)
        if shard is not None:
            return {shard: request}
        if method in _OF_ALL or self.is_searched(request):
            return dict.fromkeys(self.numbers, request)
        return {0: request}

    def one(self, request: Message) -> int | None:
        """The one shard that a request names by its market or an id; None if it names none."""
        market = _market_of(request)
        if market:
            return self._shards.of_market(market)
        for name in _IDS:
            number = getattr(request, name, 0)
            if number:
                # An id of no shard is unknown, which any of them says.
                shard = shard_of(number)
                return shard if shard in self.numbers else 0
        return None

    def is_searched(self, request: Message) -> bool:
        """Whether it names something by the client's own id, which may be on any shard."""
        fields = request.DESCRIPTOR.fields_by_name
        return any(getattr(request, name, "") for name in _OWN_IDS) and (
            any(name in fields for name in _IDS) and not _market_of(request)
        )

    def of_command(self, command: order_pb2.TradeCommand) -> tuple[int, ...]:
        """The shards that a command of a batch or stream is for."""
        kind = command.WhichOneof("command")
        if kind is None:
            # Refused, by whichever is asked.
            return (0,)
        shard = self.one(getattr(command, kind))
        return self.numbers if shard is None else (shard,)

    def _by_markets(self, method: str, request: Any) -> dict[int, Message]:
        if not request.markets:
            return dict.fromkeys(self.numbers if method in _OF_ALL else (0,), request)
        named: dict[int, list[str]] = {}
        for market in request.markets:
            named.setdefault(self._shards.of_market(market), []).append(market)
        resumed = "resume_from_seq" in request.DESCRIPTOR.fields_by_name
        if len(named) > 1 and resumed and request.resume_from_seq:
            raise Refused(
                Reason.INVALID_ARGUMENT,
                "sequences are of a shard: resume markets of one shard at a time",
                field="resume_from_seq",
            )
        return {shard: _with_markets(request, markets) for shard, markets in named.items()}

    def _watches(self, request: order_pb2.WatchAccountRequest) -> dict[int, Message]:
        positions = [request.resume_from_seq, *request.resume_from_shards]
        positions += [0] * (len(self.numbers) - len(positions))
        return {
            shard: order_pb2.WatchAccountRequest(resume_from_seq=positions[shard])
            for shard in self.numbers
        }


def _market_of(request: Any) -> str:
    """The market of a request, or of the first order in it that has one; empty for none."""
    fields = request.DESCRIPTOR.fields_by_name
    if "market" in fields:
        return str(request.market)
    for field in request.DESCRIPTOR.fields:
        inner = field.message_type
        if inner is not None and not field.is_repeated and "market" in inner.fields_by_name:
            return str(getattr(request, field.name).market)
    return ""


def _with_markets(request: Any, markets: list[str]) -> Message:
    part: Any = type(request)()
    part.CopyFrom(request)
    del part.markets[:]
    part.markets.extend(markets)
    whole: Message = part
    return whole


def order_of_search(reasons: Mapping[int, Reason]) -> int:
    """Of shards that all refused, the one whose refusal says most: it knew what was named."""
    for shard, reason in reasons.items():
        if reason not in (Reason.ORDER_NOT_FOUND, Reason.CFD_NOT_FOUND):
            return shard
    return min(reasons)
