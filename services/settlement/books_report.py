"""What `GetReconciliation` answers: the books, how far they are, and what comparing them found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tidebook.settlement.v1 import ledger_pb2

from services.settlement.catalog import Catalog
from services.settlement.follower import APPLY
from services.settlement.history import timestamp
from services.settlement.reconciler import Reconciler
from services.settlement.reconciliation import Books, ShardPosition
from services.settlement.shards import ShardBooks

_WORST_FIRST = (
    ledger_pb2.RECONCILIATION_STATE_DIFFERS,
    ledger_pb2.RECONCILIATION_STATE_WAITING,
    ledger_pb2.RECONCILIATION_STATE_MATCHED,
)


async def reconciliation_to_proto(
    catalog: Catalog, books: Books, shards: Iterable[ShardBooks], overdue: int
) -> ledger_pb2.GetReconciliationResponse:
    """The books of all shards, and of each what is known."""
    response = ledger_pb2.GetReconciliationResponse(
        balanced=books.balanced, time=timestamp(books.time_ns), overdue=overdue
    )
    engine_more: Counter[int] = Counter()
    for shard in shards:
        response.shards.append(_shard(shard, books.positions[shard.shard]))
        engine_more.update(shard.reconciler.totals.engine_more)
    _sum_up(response)
    for sums in books.assets:
        asset = await catalog.asset(sums.asset_id)
        response.assets.add(
            asset=asset.code,
            clients_free=asset.format(sums.clients_free),
            clients_held=asset.format(sums.clients_held),
            fees=asset.format(sums.fees),
            insurance=asset.format(sums.insurance),
            house=asset.format(sums.house),
            clearing=asset.format(sums.clearing),
            deposits=asset.format(sums.deposits),
            withdrawals=asset.format(sums.withdrawals),
            difference=asset.format(sums.difference),
            engine_difference=asset.format(engine_more.get(sums.asset_id, 0)),
        )
    return response


def _shard(books: ShardBooks, position: ShardPosition) -> ledger_pb2.ShardPosition:
    reconciler = books.reconciler
    shard = ledger_pb2.ShardPosition(
        shard=books.shard,
        log_seq=position.log_seq,
        newest_log_seq=position.newest_seq,
        archived_log_seq=position.archived_seq,
        behind_ms=position.behind_ns // 10**6,
        state=_state(reconciler),
        compared=reconciler.totals.compared,
        differing=reconciler.totals.differing,
    )
    for halt in books.halts:
        reached = position.log_seq if halt.job == APPLY else position.archived_seq
        shard.halted.add(job=halt.job, log_seq=halt.log_seq or reached + 1)
    if reconciler.newest is not None:
        shard.compared_log_seq = reconciler.newest.log_seq
        shard.compared_time.CopyFrom(timestamp(reconciler.newest.time_ns))
    if reconciler.whole_ns:
        shard.whole_pass_time.CopyFrom(timestamp(reconciler.whole_ns))
    return shard


def _sum_up(response: ledger_pb2.GetReconciliationResponse) -> None:
    """What is true of all shards together; positions are those of shard 0."""
    shards = response.shards
    first = next(shard for shard in shards if not shard.shard)
    response.log_seq = first.log_seq
    response.newest_log_seq = first.newest_log_seq
    response.compared_log_seq = first.compared_log_seq
    response.compared = sum(shard.compared for shard in shards)
    response.differing = sum(shard.differing for shard in shards)
    response.halted = any(shard.halted for shard in shards)
    stopped = [halt.log_seq for shard in shards for halt in shard.halted if halt.job == APPLY]
    response.stopped_log_seq = next(iter(stopped), 0)
    states = [shard.state for shard in shards]
    response.state = next(state for state in _WORST_FIRST if state in states)
    if all(shard.HasField("compared_time") for shard in shards):
        oldest = min(shards, key=lambda shard: shard.compared_time.ToNanoseconds())
        response.compared_time.CopyFrom(oldest.compared_time)


def _state(reconciler: Reconciler) -> ledger_pb2.ReconciliationState.ValueType:
    outcome = reconciler.newest
    if outcome is not None and (reconciler.totals.differing or not outcome.matched):
        return ledger_pb2.RECONCILIATION_STATE_DIFFERS
    if outcome is None or reconciler.waiting:
        return ledger_pb2.RECONCILIATION_STATE_WAITING
    return ledger_pb2.RECONCILIATION_STATE_MATCHED
