"""The single writer: commands queue up, one batch at a time is applied, made durable and answered.

    queue -> take what waits -> core -> one log entry -> append -> read model -> answers, streams

Nothing is answered or published before its entry is in the log, and nothing is applied while an
append is under way: the next batch gathers meanwhile, so one append pays for many orders.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog
from tidebook.engine.v1 import log_pb2

from kernel.clock import Clock
from kernel.reasons import Reason, Refused
from mesh.log import Fenced, LogRecord
from services.engine import logcodec
from services.engine.domain import commands as c
from services.engine.domain import position_commands as pc
from services.engine.domain.exchange import Exchange
from services.engine.projection import Change, Projection
from services.engine.submission import Submission

T = TypeVar("T")
# What still passes when new orders do not: it takes orders away, or stops a market.
# Prices among them: stops and liquidations hang on them, also while nothing new is taken.
_REDUCING = (
    c.CancelOrder,
    c.CancelAll,
    c.CancelAllAfter,
    c.Tick,
    c.SetPrices,
    c.SetMarketStatus,
    pc.CloseCfd,
)

# In place of what was not begun when its sender left.
_ABANDONED = Refused(Reason.DEADLINE_PASSED, "nobody waits for it any more")

log = structlog.get_logger()


class Log(Protocol):
    """Where entries go; `mesh.log.LogWriter`."""

    next_seq: int

    async def append(self, payload: bytes) -> LogRecord:
        """Make one entry durable, or raise."""
        ...


@dataclass(frozen=True, slots=True)
class WriterLimits:
    """When the writer says no. The queue is counted in commands, the archive in log entries."""

    batch_max: int
    queue_max: int
    append_slow_ns: int
    unarchived_max: int

    @property
    def queue_max_reducing(self) -> int:
        """Cancels have a quarter of the queue more, for themselves."""
        return self.queue_max + self.queue_max // 4


@dataclass(frozen=True, slots=True)
class Committed:
    """A durable batch, for those who watch. Times in Unix nanoseconds."""

    seq: int
    time_ns: int
    taken_ns: int
    applied_ns: int
    acked_ns: int
    submissions: Sequence[Submission[Any]]
    changes: dict[int, Change]


class Writer:
    """Owns the core and the log; everything that changes state goes through `submit`."""

    def __init__(
        self,
        exchange: Exchange,
        projection: Projection,
        log_writer: Log,
        clock: Clock,
        limits: WriterLimits,
        *,
        shard: int,
        epoch: int,
        publish: Callable[[Committed], None],
    ) -> None:
        self._exchange = exchange
        self._projection = projection
        self._log = log_writer
        self._clock = clock
        self._limits = limits
        self._shard = shard
        self._epoch = epoch
        self._publish = publish
        self._queue: deque[Submission[Any]] = deque()
        self._queued = 0
        self._wake = asyncio.Event()
        # Held while the core is ahead of the log.
        self._committing = asyncio.Lock()
        self._in_flight: Sequence[Submission[Any]] = ()
        self._append_began_ns = 0
        self._archived_seq: int | None = None
        self._closing = False
        self._failure: Refused | None = None

    @property
    def queued(self) -> int:
        """Commands that wait."""
        return self._queued

    def refusal(self) -> Refused | None:
        """Why new orders are refused now; None when they are taken. Always retryable."""
        if self._failure is not None:
            return self._failure
        if self._closing:
            return Refused(Reason.DRAINING, "the engine is stopping; try again")
        if self._append_is_slow():
            return Refused(Reason.LOG_UNAVAILABLE, "the log cannot be written right now; try again")
        if self._queued >= self._limits.queue_max:
            return Refused(Reason.OVERLOADED, "too many commands wait; try again")
        archived_seq = self._archived_seq
        if (
            archived_seq is not None
            and self._log.next_seq - 1 - archived_seq > self._limits.unarchived_max
        ):
            return Refused(Reason.OVERLOADED, "the archive is too far behind; try again")
        return None

    def note_archived(self, seq: int) -> None:
        """The archive has every entry up to `seq`; before the first note nothing is held back."""
        self._archived_seq = seq

    def submit(self, submission: Submission[T]) -> asyncio.Future[list[T]]:
        """Queue commands; the future has one answer per item once they are in the log.

        While new orders are refused, each item that is not a cancel becomes a refusal, and cancels
        still pass until their own reserve is used up. The future raises `Refused` only when the
        writer fails while it has the commands in hand.
        """
        refusal = self.refusal()
        if refusal is not None:
            final = self._failure is not None or self._closing
            passing = not final and self._queued < self._limits.queue_max_reducing
            if not _refuse(submission, refusal, passing=passing):
                return submission.future
        self._queue.append(submission)
        self._queued += len(submission.items)
        self._wake.set()
        return submission.future

    async def run(self) -> None:
        """Write until `close`; raises `Fenced` and whatever else ends this writer's authority."""
        try:
            while True:
                batch = self._take()
                if batch:
                    await self._commit(batch)
                elif self._closing:
                    return
                else:
                    self._wake.clear()
                    await self._wake.wait()
        except Fenced:
            log.critical("writer_fenced", seq=self._log.next_seq, epoch=self._epoch)
            self._fail(Refused(Reason.FENCED, "another engine has taken over; try again"))
            raise
        except asyncio.CancelledError:
            self._fail(Refused(Reason.UNAVAILABLE, "the engine has stopped; ask what happened"))
            raise
        except Exception:
            self._fail(Refused(Reason.UNAVAILABLE, "the engine has failed; ask what happened"))
            raise

    async def watch_append(self) -> None:
        """Answer what waits behind an append that takes too long; runs beside `run`."""
        while True:
            await asyncio.sleep(min(0.25, self._limits.append_slow_ns / 4e9))
            if self._append_is_slow():
                self._refuse_waiting()

    def close(self) -> None:
        """Take nothing more; `run` ends when the queue is written."""
        self._closing = True
        self._wake.set()

    async def at_rest(self, read: Callable[[Exchange], T]) -> T:
        """Call `read` while the core and the log are at the same position."""
        async with self._committing:
            return read(self._exchange)

    def _take(self) -> list[Submission[Any]]:
        """The oldest submissions up to the batch limit; a larger one goes alone."""
        batch: list[Submission[Any]] = []
        size = 0
        while self._queue:
            submission = self._queue[0]
            size += len(submission.items)
            if batch and size > self._limits.batch_max:
                break
            self._queue.popleft()
            self._queued -= len(submission.items)
            # Its sender is gone and nothing was promised: an order that nobody waits for any more
            # must not trade. A cancel does what its sender last wanted.
            if submission.future.cancelled() and not _refuse(submission, _ABANDONED, passing=True):
                continue
            batch.append(submission)
        return batch

    async def _commit(self, batch: list[Submission[Any]]) -> None:
        self._in_flight = batch
        async with self._committing:
            taken_ns = self._clock.now_ns()
            # The core's time never goes back, whatever the machine's clock does.
            time_ns = max(taken_ns, self._projection.time_ns)
            entry = log_pb2.LogEntry(
                seq=self._log.next_seq,
                shard=self._shard,
                epoch=self._epoch,
                time_ns=time_ns,
                taken_ns=taken_ns,
            )
            commands = logcodec.open_commands()
            self._apply(batch, commands, time_ns)
            if not len(commands):
                for submission in batch:
                    _answer_refused(submission)
                return
            entry.applied_ns = applied_ns = self._clock.now_ns()
            payload = entry.SerializeToString(deterministic=True) + commands.getvalue()
            self._append_began_ns = applied_ns
            try:
                record = await self._log.append(payload)
            finally:
                self._append_began_ns = 0
            acked_ns = self._clock.now_ns()
            changes = self._follow(batch, record, time_ns)
        self._publish(
            Committed(record.seq, time_ns, taken_ns, applied_ns, acked_ns, batch, changes)
        )
        for submission in batch:
            submission.resolve()
        self._in_flight = ()

    def _apply(
        self, batch: list[Submission[Any]], commands: logcodec.Commands, time_ns: int
    ) -> None:
        """Run the batch through the core and write commands and events into `commands`."""
        exchange, add = self._exchange, commands.add
        for submission in batch:
            items, outcomes = submission.items, submission.outcomes
            received_ns = submission.received_ns
            for index, (item, span) in enumerate(zip(items, submission.spans, strict=True)):
                if not isinstance(item, c.Command | Refused):
                    items[index] = item = item.resolve(exchange)
                if isinstance(item, Refused):
                    outcomes.append(item)
                    continue
                events = exchange.apply(item, time_ns)
                outcomes.append(events)
                add(
                    item,
                    events,
                    exchange.last_command_seq,
                    received_ns,
                    span.trace_id,
                    span.span_id,
                )

    def _follow(
        self, batch: list[Submission[Any]], record: LogRecord, time_ns: int
    ) -> dict[int, Change]:
        """Move the read model over the durable entry, and work out every answer on the way."""
        projection = self._projection
        projection.begin_entry(record.seq, time_ns)
        for submission in batch:
            for index, outcome in enumerate(submission.outcomes):
                if isinstance(outcome, Refused):
                    submission.note(index, None, outcome)
                    continue
                command = submission.items[index]
                assert isinstance(command, c.Command), "what has events was applied"
                projection.apply(command, outcome)
                submission.note(index, command, outcome)
        return projection.end_entry(record.hash)

    def _append_is_slow(self) -> bool:
        began = self._append_began_ns
        return began != 0 and self._clock.now_ns() - began > self._limits.append_slow_ns

    def _refuse_waiting(self) -> None:
        """Refuse what waits, cancels excepted; answers of one caller keep their order."""
        refusal = self.refusal()
        assert refusal is not None
        waiting, self._queue = self._queue, deque()
        self._queued = 0
        for submission in waiting:
            if _refuse(submission, refusal, passing=True):
                self._queue.append(submission)
                self._queued += len(submission.items)

    def _fail(self, refusal: Refused) -> None:
        """Nothing can be acknowledged any more: say so to everybody."""
        self._failure = refusal
        waiting, self._queue = self._queue, deque()
        self._queued = 0
        for submission in (*self._in_flight, *waiting):
            future = submission.future
            if not future.done():
                future.set_exception(refusal)
                # Some callers are gone; nobody needs to hear that they did not listen.
                future.exception()


def _refuse(submission: Submission[Any], refusal: Refused, *, passing: bool) -> bool:
    """Put `refusal` in place of every item but, when `passing`, the reducing ones.

    Returns whether anything is left to apply; answers the submission when nothing is.
    """
    items = submission.items
    left = False
    for index, item in enumerate(items):
        if passing and isinstance(item, _REDUCING):
            left = True
        elif not isinstance(item, Refused):
            items[index] = refusal
    if not left:
        _answer_refused(submission)
    return left


def _answer_refused(submission: Submission[Any]) -> None:
    """Answer a submission of which nothing is applied."""
    for index, item in enumerate(submission.items):
        assert isinstance(item, Refused), "what was applied is answered with its entry"
        submission.note(index, None, item)
    submission.resolve()
