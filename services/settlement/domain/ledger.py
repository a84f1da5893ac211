"""Double entry: which ledger accounts there are, and postings that sum to zero by construction."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from kernel.money import INT64_MAX


class LedgerKind(IntEnum):
    """What a ledger account is for. The numbers are stored; never use one again."""

    CLIENT_FREE = 1
    CLIENT_HELD = 2
    FEES = 3
    INSURANCE = 4
    HOUSE = 5
    # The outside world, by direction, so that both totals can be read from the books: what came in
    # is the negative balance of DEPOSITS, what left is the balance of WITHDRAWALS.
    DEPOSITS = 6
    WITHDRAWALS = 7
    # Between the winners and the losers of margin positions: what the first were paid and the
    # second have still to pay. Zero when no position is open.
    CLEARING = 8


class TransactionKind(IntEnum):
    """Why money moved. The numbers are stored, the names are public; never use either again."""

    DEPOSIT = 1
    WITHDRAWAL = 2
    WITHDRAWAL_CANCELLED = 3
    SHARD_TRANSFER = 4
    HOLD = 5
    RELEASE = 6
    AMEND = 7
    TRADE = 8
    POSITION = 9
    TRIGGER = 10
    CFD_OPEN = 11
    CFD_CLOSE = 12
    LIQUIDATION = 13


# Accounts of the exchange that events name like any client's. Each has one ledger account an asset,
# for what is free and what is held.
_OWN = {1: LedgerKind.INSURANCE, 2: LedgerKind.HOUSE}


# Ledger accounts are made for every posting, and mostly the same ones.
_REMEMBERED = 1 << 16


class PoisonEntry(Exception):
    """A log entry that cannot be applied: it breaks the books, or nobody taught us what it means.

    It is never skipped: whoever applies the log stops here and says so.
    """

    def __init__(self, log_seq: int, problem: str) -> None:
        self.log_seq = log_seq
        self.problem = problem
        super().__init__(f"log entry {log_seq}: {problem}")


class LedgerAccount(NamedTuple):
    """A ledger account; `account_id` is 0 for those of the exchange itself."""

    account_id: int
    asset_id: int
    kind: LedgerKind


class Move(NamedTuple):
    """`units` go from one ledger account to another of the same asset; negative goes back.

    The order ids say whose order each side belongs to; 0 for none.
    """

    source: LedgerAccount
    target: LedgerAccount
    units: int
    source_order_id: int = 0
    target_order_id: int = 0


# One side of a transaction: account, what is added to its balance (never zero), whose order it is
# for. A bare tuple, because a busy second makes a hundred thousand.
Posting = tuple[LedgerAccount, int, int]


def postings(moves: Iterable[Move]) -> list[Posting]:
    """Moves -> one posting per ledger account and order; sums to zero per asset by construction.

    Raises `ValueError` for a move between assets or an amount beyond 64 bits.
    """
    sums: dict[tuple[LedgerAccount, int], int] = {}
    for source, target, units, source_order_id, target_order_id in moves:
        if source.asset_id != target.asset_id:
            raise ValueError(f"a move from {source} to {target} would turn one asset into another")
        out, into = (source, source_order_id), (target, target_order_id)
        sums[out] = sums.get(out, 0) - units
        sums[into] = sums.get(into, 0) + units
    result = [(account, amount, order) for (account, order), amount in sums.items() if amount]
    check_zero_sum(result)
    return result


def transfer(
    source: LedgerAccount, target: LedgerAccount, units: int, order_id: int
) -> list[Posting]:
    """The postings of one move within an order, which is what most transactions are.

    Raises as `postings` does.
    """
    if source.asset_id != target.asset_id:
        raise ValueError(f"a move from {source} to {target} would turn one asset into another")
    if not -INT64_MAX <= units <= INT64_MAX:
        raise ValueError(f"posting of {units} units is beyond 64 bits")
    if not units or source == target:
        return []
    return [(source, -units, order_id), (target, units, order_id)]


def check_zero_sum(entries: Iterable[Posting]) -> None:
    """Raise `ValueError` unless the postings sum to zero per asset and fit 64 bits."""
    totals: dict[int, int] = {}
    for account, amount, _ in entries:
        if not -INT64_MAX <= amount <= INT64_MAX:
            raise ValueError(f"posting of {amount} units is beyond 64 bits")
        totals[account.asset_id] = totals.get(account.asset_id, 0) + amount
    if any(totals.values()):
        raise ValueError(f"postings do not sum to zero: {totals}")


@lru_cache(_REMEMBERED)
def free(account_id: int, asset_id: int) -> LedgerAccount:
    """What a client can use; of the insurance fund and the house, what they have."""
    own = _OWN.get(account_id)
    if own is not None:
        return LedgerAccount(0, asset_id, own)
    return LedgerAccount(account_id, asset_id, LedgerKind.CLIENT_FREE)


@lru_cache(_REMEMBERED)
def held(account_id: int, asset_id: int) -> LedgerAccount:
    """What a client's open orders, positions and CFDs hold."""
    own = _OWN.get(account_id)
    if own is not None:
        return LedgerAccount(0, asset_id, own)
    return LedgerAccount(account_id, asset_id, LedgerKind.CLIENT_HELD)


@lru_cache(_REMEMBERED)
def fees(asset_id: int) -> LedgerAccount:
    """Fees taken."""
    return LedgerAccount(0, asset_id, LedgerKind.FEES)


@lru_cache(_REMEMBERED)
def house(asset_id: int) -> LedgerAccount:
    """The other side of every CFD."""
    return LedgerAccount(0, asset_id, LedgerKind.HOUSE)


@lru_cache(_REMEMBERED)
def clearing(asset_id: int) -> LedgerAccount:
    """The other side of realised margin profit and loss."""
    return LedgerAccount(0, asset_id, LedgerKind.CLEARING)


@lru_cache(_REMEMBERED)
def deposits(asset_id: int) -> LedgerAccount:
    """The outside world that money comes from."""
    return LedgerAccount(0, asset_id, LedgerKind.DEPOSITS)


@lru_cache(_REMEMBERED)
def withdrawals(asset_id: int) -> LedgerAccount:
    """The outside world that money goes to."""
    return LedgerAccount(0, asset_id, LedgerKind.WITHDRAWALS)
