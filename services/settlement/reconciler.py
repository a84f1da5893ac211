"""Compares engine, ledger and archive with one another, all the time, and raises the alarm.

The engine says what it has at a log position; what the ledger said at that same position is worked
out from the ledger as it is and the entries since. Accounts are taken a slice at a time, so that
the engine never stops for it; fees, the insurance fund and the house are compared every time.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Coroutine
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import asyncpg
import structlog

from kernel.clock import Clock
from kernel.reasons import Reason, Refused
from mesh.config import Settings
from services.settlement.domain.ledger import LedgerAccount, LedgerKind, free, held
from services.settlement.store.comparing import AccountRange, Balances, LedgerView, ledger_at
from services.settlement.store.database import is_passing, text_of
from services.settlement.store.sessions import for_a_call

_SLICE_ACCOUNTS = 1000
# How long the ledger is waited for to come to where the engine was.
_PATIENCE_SECONDS = 20.0
_LOOK_SECONDS = 0.05
# More lines say nothing new.
_SAID = 20

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class EngineView:
    """What the engine says of some accounts at a log position.

    `balances` has (account id, asset id) -> (free, held), the totals asset id -> units;
    `last_account_id` is 0 when no account comes after them.
    """

    log_seq: int
    log_hash: bytes
    balances: dict[tuple[int, int], tuple[int, int]]
    fees: dict[int, int]
    house: dict[int, int]
    clearing: dict[int, int]
    last_account_id: int


class EngineStatePort(Protocol):
    """The engine, as far as comparing goes. Both raise `Refused`."""

    async def accounts_after(self, account_id: int, count: int) -> EngineView:
        """Up to `count` accounts with a larger id."""
        ...

    def account(self, account_id: int) -> Coroutine[Any, Any, EngineView]:
        """One account."""
        ...


class Difference(NamedTuple):
    """A balance that is not the same everywhere. Account 0 is the exchange itself."""

    account_id: int
    asset_id: int
    kind: LedgerKind
    engine: int
    ledger: int
    entries: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a comparison; `engine_more` is per asset what the engine has more in all."""

    log_seq: int
    time_ns: int
    compared: int
    differences: tuple[Difference, ...]
    same_log: bool
    engine_more: dict[int, int]

    @property
    def matched(self) -> bool:
        return self.same_log and not self.differences


@dataclass(slots=True)
class Pass:
    """What is known of the accounts compared since the first of them was."""

    compared: int = 0
    differing: int = 0
    engine_more: dict[int, int] = field(default_factory=lambda: defaultdict(int))


class Reconciler:
    """Compares slice after slice. `newest` is the last outcome, `waiting` why there is no newer,
    `whole_ns` when a pass over all accounts was finished (0 before the first).
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        engine: EngineStatePort,
        settings: Settings,
        clock: Clock,
        shard: int = 0,
    ) -> None:
        self.newest: Outcome | None = None
        self.waiting = "not compared yet"
        self.totals = Pass()
        self.whole_ns = 0
        self._pool = pool
        self._engine = engine
        self._shard = shard
        self._every_seconds = settings.reconcile_seconds
        self._clock = clock
        self._after = 0
        self._running = Pass()

    async def run(self) -> None:
        """For ever, through any failure of the database or the engine."""
        while True:
            try:
                await self.run_once()
            except Exception as error:
                if not is_passing(error) and not isinstance(error, Refused):
                    raise
                self._wait(text_of(error))
            await asyncio.sleep(self._every_seconds)

    async def run_once(self) -> None:
        """Compare the next slice of accounts."""
        if not self._after:
            self._running = Pass()
        view = await self._engine.accounts_after(self._after, _SLICE_ACCOUNTS)
        accounts = AccountRange(self._after)
        if view.last_account_id:
            accounts = AccountRange(self._after, view.last_account_id)
        ledger = await self._ledger_at(view.log_seq, accounts)
        if ledger is None:
            self._wait(f"the ledger has not come to log entry {view.log_seq} yet")
            return
        outcome = _compare(
            view, ledger, _FIRST if not self._after else _EVERY, self._clock.now_ns()
        )
        self._after = view.last_account_id
        running = self._running
        running.compared += outcome.compared
        running.differing += len(outcome.differences)
        for asset_id, units in outcome.engine_more.items():
            running.engine_more[asset_id] += units
        # What differed is told until a whole pass over all accounts has found nothing.
        if not self._after or running.differing or self.totals.compared <= running.compared:
            self.totals = running
        if not self._after:
            self.whole_ns = outcome.time_ns
        self.newest, self.waiting = outcome, ""
        _tell(outcome)

    async def account(self, account_id: int) -> tuple[Outcome, EngineView, LedgerView]:
        """Compare one account now. Raises `Refused`."""
        # Settlement asks for itself: the caller's token is no business of the engine's.
        view = await asyncio.create_task(self._engine.account(account_id), context=Context())
        ledger = await self._ledger_at(view.log_seq, AccountRange(account_id - 1, account_id))
        if ledger is None:
            raise Refused(Reason.UNAVAILABLE, "the ledger is behind the engine")
        outcome = _compare(view, ledger, _EVERY, self._clock.now_ns())
        _tell(outcome)
        return outcome, view, ledger

    async def _ledger_at(self, log_seq: int, accounts: AccountRange) -> LedgerView | None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            async with (
                for_a_call(self._pool) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                view = await ledger_at(connection, self._shard, log_seq, accounts)
            if view is not None or time.monotonic() > deadline:
                return view
            await asyncio.sleep(_LOOK_SECONDS)

    def _wait(self, why: str) -> None:
        if why != self.waiting:
            log.warning("reconciliation_waits", why=why)
        self.waiting = why


# Of the exchange's own ledger accounts, those that the engine tells of in every slice; the
# insurance fund it has as the account with the smallest id. Nobody else knows the outside world.
_EVERY = frozenset({LedgerKind.FEES, LedgerKind.HOUSE, LedgerKind.CLEARING})
_FIRST = _EVERY | {LedgerKind.INSURANCE}


def _compare(
    view: EngineView, ledger: LedgerView, kinds: frozenset[LedgerKind], now_ns: int
) -> Outcome:
    engine = _as_ledger(view)
    wanted = {key for key in ledger.balances if key[0] or key[2] in kinds} | engine.keys()
    differences = []
    more: dict[int, int] = defaultdict(int)
    for key in sorted(wanted):
        account_id, asset_id, kind = key
        says, has = engine.get(key, 0), ledger.balances.get(key, 0)
        # The exchange's own entries carry no balance.
        entries = ledger.entries.get(key, 0) if account_id else has
        if not says == has == entries:
            differences.append(
                Difference(account_id, asset_id, LedgerKind(kind), says, has, entries)
            )
            more[asset_id] += says - has
    return Outcome(
        log_seq=view.log_seq,
        time_ns=now_ns,
        compared=len(wanted),
        differences=tuple(differences),
        same_log=view.log_hash == ledger.archive_hash,
        engine_more=dict(more),
    )


def _as_ledger(view: EngineView) -> Balances:
    """The engine's balances by ledger account."""
    found: Balances = defaultdict(int)
    for (account_id, asset_id), (free_units, held_units) in view.balances.items():
        found[_key(free(account_id, asset_id))] += free_units
        found[_key(held(account_id, asset_id))] += held_units
    for kind, totals in (
        (LedgerKind.FEES, view.fees),
        (LedgerKind.HOUSE, view.house),
        (LedgerKind.CLEARING, view.clearing),
    ):
        for asset_id, units in totals.items():
            found[0, asset_id, kind] += units
    return {key: units for key, units in found.items() if units}


def _key(account: LedgerAccount) -> tuple[int, int, int]:
    return account.account_id, account.asset_id, account.kind


def _tell(outcome: Outcome) -> None:
    if not outcome.same_log:
        log.critical("reconciliation_other_log", log_seq=outcome.log_seq)
    for one in outcome.differences[:_SAID]:
        log.critical(
            "reconciliation_differs",
            log_seq=outcome.log_seq,
            account_id=one.account_id,
            asset_id=one.asset_id,
            ledger_account=one.kind.name,
            engine=one.engine,
            ledger=one.ledger,
            entries=one.entries,
        )
