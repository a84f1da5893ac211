"""Spot, margin and CFDs together: whatever happens, money is conserved and everything adds up."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import astuple
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.log import LogRecord
from ops.audit import Audit
from services.settlement.codec import fold
from services.settlement.domain import ledger
from services.settlement.domain.batch import Batch
from services.settlement.domain.ledger import LedgerKind
from services.settlement.domain.positions import ClosedPosition, Key, OpenPosition, follow
from services.settlement.domain.rows import CfdOpening, MarketRow
from tests.engine_core.margin_world import FUND
from tests.engine_core.world import USD
from tests.settlement.mixed_log import MixedLog, Step, steps

# Of a margin trade the maker's rebate is paid before the taker's fee comes in.
_MAY_BE_NEGATIVE = (
    *(LedgerKind.HOUSE, LedgerKind.CLEARING, LedgerKind.DEPOSITS),
    LedgerKind.FEES,
)
_OUTSIDE = LedgerKind.DEPOSITS
_flows = st.lists(st.lists(steps, min_size=1, max_size=5), min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(_flows)
def test_money_is_conserved_at_every_transaction_and_is_what_the_core_has(
    flow: list[list[Step]],
) -> None:
    log = MixedLog()
    balances: dict[Any, int] = defaultdict(int)
    for batch in _batches([log.begin(), *(log.record(*entry) for entry in flow)]):
        for transaction in batch.transactions:
            ledger.check_zero_sum(transaction.postings)
            accounts = [account for account, _, _ in transaction.postings]
            for account, amount, _ in transaction.postings:
                balances[tuple(account)] += amount
            # Inside and outside together: nothing is ever made or lost.
            for asset_id in {account.asset_id for account in accounts}:
                assert not sum(n for (_, asset, _), n in balances.items() if asset == asset_id)
            assert all(balances[tuple(a)] >= 0 or a.kind in _MAY_BE_NEGATIVE for a in accounts)
    assert _with_one_outside(balances) == _of_core(log)
    _check_clearing(log, balances)


def _with_one_outside(balances: dict[Any, int]) -> dict[Any, int]:
    """The ledger has two doors to the outside world, the core one."""
    found: dict[Any, int] = defaultdict(int)
    for (account_id, asset_id, kind), units in balances.items():
        found[account_id, asset_id, _OUTSIDE if kind == LedgerKind.WITHDRAWALS else kind] += units
    return {key: units for key, units in found.items() if units}


def _batches(records: list[LogRecord]) -> list[Batch]:
    """In several, because what begins in one is only changed in the next."""
    batches: list[Batch] = []
    last = 0
    markets: dict[int, MarketRow] = {}
    for start in range(0, len(records), 7):
        batch, last = fold(
            records[start : start + 7], shard=0, last_command_seq=last, markets=markets
        )
        markets = batch.known
        batches.append(batch)
    return batches


def _of_core(log: MixedLog) -> dict[Any, int]:
    """The core's own totals, by ledger account."""
    core = log.exchange
    found: dict[Any, int] = defaultdict(int)
    for (account_id, asset_id, kind), units in log.balances().items():
        if account_id == FUND:
            found[0, asset_id, LedgerKind.INSURANCE] += units
        else:
            found[account_id, asset_id, kind] = units
    for kind, totals in (
        (LedgerKind.FEES, core.fees()),
        (LedgerKind.HOUSE, core.house()),
        (LedgerKind.CLEARING, core.clearing()),
        (_OUTSIDE, {asset_id: -units for asset_id, units in core.external().items()}),
    ):
        for asset_id, units in totals.items():
            found[0, asset_id, kind] = units
    return {key: units for key, units in found.items() if units}


def _check_clearing(log: MixedLog, balances: dict[Any, int]) -> None:
    """What margin positions paid is what the open longs cost less what the open shorts got."""
    core = log.exchange
    longs = shorts = 0
    for account_id in core.accounts():
        for position in core.positions(account_id):
            if position.quantity_lots > 0:
                longs += position.entry_notional_units
            else:
                shorts += position.entry_notional_units
    assert -balances[0, USD, LedgerKind.CLEARING] == longs - shorts


@settings(max_examples=100, deadline=None)
@given(_flows)
def test_the_rows_of_positions_cfds_and_liquidations_are_those_of_the_audit(
    flow: list[list[Step]],
) -> None:
    """The same history worked out twice: by settlement from the log, by the audit from the core."""
    log, audit = MixedLog(), Audit()
    records = [log.begin(), *(log.record(*entry) for entry in flow)]
    for record in records:
        assert not list(audit.apply(record.seq, record.payload))
    assert not list(audit.positions.against_core(audit.exchange))
    open_positions: dict[Key, OpenPosition] = {}
    ended: list[ClosedPosition] = []
    cfds: dict[int, CfdOpening] = {}
    receipts: dict[int, tuple[object, ...]] = {}
    for batch in _batches(records):
        ended += follow(open_positions, batch.position_changes, batch.liquidated)
        receipts |= {row.liquidation_id: tuple(row)[1:] for row in batch.liquidations}
        cfds |= {one.cfd_id: one for one in batch.cfds if isinstance(one, CfdOpening)}
    trail = audit.positions
    assert {(row.log_seq, row.event_index): row[:10] for row in ended} == {
        key: tuple(row) for key, row in trail.closed_positions.items()
    }
    assert {key: astuple(row)[2:] for key, row in open_positions.items()} == {
        key: tuple(row) for key, row in trail.open_positions.items()
    }
    assert receipts == {key: tuple(row) for key, row in trail.liquidations.items()}
    assert cfds.keys() == trail.open_cfds.keys() | trail.closed_cfds.keys()
    # A whole one that has ended made what was paid for it, exactly.
    for row in ended:
        sign = 1 if row.opened_lots > 0 else -1
        assert row.realised_pnl_units == sign * (
            row.closed_notional_units - row.opened_notional_units
        )
