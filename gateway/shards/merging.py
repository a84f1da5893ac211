"""The answers of several shards, as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.message import Message
from tidebook.engine.v1 import market_pb2, order_pb2, position_pb2

from kernel.money import format_units
from kernel.reasons import Reason

# More than any asset has.
_DECIMALS = 18


def merge(answers: Mapping[int, Any]) -> Message:
    """The answer that one shard with everything would have given; `answers` are by shard."""
    first: Any = answers[min(answers)]
    if isinstance(first, order_pb2.GetAccountResponse):
        return _account(answers)
    if isinstance(first, order_pb2.CancelAllOrdersResponse):
        total = sum(answer.cancelled for answer in answers.values())
        return order_pb2.CancelAllOrdersResponse(cancelled=total)
    if isinstance(first, order_pb2.CancelAllAfterResponse):
        # All were told the same; the first to fire is when it begins.
        earliest: Message = min(answers.values(), key=lambda one: one.cancel_time.ToNanoseconds())
        return earliest
    if isinstance(first, position_pb2.GetRiskResponse):
        return _risk(answers)
    merged: Any = type(first)()
    for shard in sorted(answers):
        merged.MergeFrom(answers[shard])
    if isinstance(merged, market_pb2.ListMarketsResponse):
        merged.markets.sort(key=lambda market: market.market_id)
        assets = {asset.code: asset for asset in merged.assets}
        del merged.assets[:]
        merged.assets.extend(assets.values())
    elif isinstance(merged, order_pb2.ListOpenOrdersResponse):
        merged.orders.sort(key=lambda order: order.create_time.ToNanoseconds())
    elif isinstance(merged, position_pb2.ListLiquidationsResponse):
        merged.liquidations.sort(key=lambda one: one.time.ToNanoseconds(), reverse=True)
    whole: Message = merged
    return whole


def result_of_all(results: Mapping[int, order_pb2.TradeResult]) -> order_pb2.TradeResult:
    """The result of a command that went to several shards."""
    merged = order_pb2.TradeResult()
    merged.CopyFrom(results[min(results)])
    if any(result.HasField("all_cancelled") for result in results.values()):
        merged.all_cancelled.cancelled = sum(r.all_cancelled.cancelled for r in results.values())
        return merged
    # It named an order by the client's id: the shard that knows it says what became of it.
    for shard in sorted(results):
        result = results[shard]
        if not result.HasField("error") or int(result.error.reason) != Reason.ORDER_NOT_FOUND:
            merged.CopyFrom(result)
            if not result.HasField("error"):
                break
    return merged


def _account(answers: Mapping[int, order_pb2.GetAccountResponse]) -> order_pb2.GetAccountResponse:
    first = answers[min(answers)]
    merged = order_pb2.GetAccountResponse(account_id=first.account_id, log_seq=first.log_seq)
    sums: dict[str, tuple[list[str], list[str]]] = {}
    for shard in sorted(answers):
        answer = answers[shard]
        merged.shards.add(shard=shard, balances=answer.balances, log_seq=answer.log_seq)
        for balance in answer.balances:
            free, held = sums.setdefault(balance.asset, ([], []))
            free.append(balance.free)
            held.append(balance.held)
    for asset, (free, held) in sums.items():
        merged.balances.add(asset=asset, free=_sum(free), held=_sum(held))
    return merged


def _risk(answers: Mapping[int, position_pb2.GetRiskResponse]) -> position_pb2.GetRiskResponse:
    merged = position_pb2.GetRiskResponse()
    for shard in sorted(answers):
        merged.MergeFrom(answers[shard])
    for name in ("equity", "margin", "maintenance_margin", "unrealised_pnl"):
        setattr(merged, name, _sum(getattr(answer, name) for answer in answers.values()))
    # Margin is isolated: the worst is the account's.
    merged.margin_ratio_bps = max(answer.margin_ratio_bps for answer in answers.values())
    return merged


def _sum(amounts: Iterable[str]) -> str:
    """Decimal strings, negative ones too, added exactly."""
    total = 0
    for text in amounts:
        if text:
            units = _units(text.removeprefix("-"))
            total += -units if text.startswith("-") else units
    return format_units(total, _DECIMALS)


def _units(text: str) -> int:
    whole, _, fraction = text.partition(".")
    return int(whole + fraction.ljust(_DECIMALS, "0"))
