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
from typing import Any, Generic, Protocol, TypeVar

import structlog
from tidebook.engine.v1 import log_pb2

from kernel.clock import Clock
from kernel.reasons import Reason, Refused
from mesh.log import Fenced, LogRecord
from mesh.telemetry import TraceContext
from services.engine import logcodec
from services.engine.domain import commands as c
from services.engine.domain import events as e
from services.engine.domain import position_commands as pc
from services.engine.domain.exchange import Exchange
from services.engine.projection import Change, Projection

T = TypeVar("T")
# What a command came to: its events, or why it was not even applied.
Outcome = Sequence[e.Event] | Refused
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

log = structlog.get_logger()


class Late(Protocol):
    """A command that can only be decoded when its turn comes: it names an order, whose market says
    what its numbers mean, and the order may still be in the queue before it.
    """

    def resolve(self, exchange: Exchange) -> c.Command | Refused:
        """The command against the state right before it is applied."""
        ...


Item = c.Command | Late | Refused


class Submission(Generic[T]):
    """Commands of one request, applied in order within one log entry and answered together.

    `answer(index, command, outcome)` is called for each item right after the read model has
    followed it, so it sees the state that its command left. An item that is `Refused` already only
    keeps its place. `trace` is the caller's span, None for work of the engine itself; the
    submission is a span below it, under which its commands are logged.
    """

    __slots__ = (
        "answer",
        "answers",
        "failure",
        "future",
        "items",
        "name",
        "outcomes",
        "received_ns",
        "span",
        "trace",
    )

    def __init__(
        self,
        name: str,
        items: list[Item],
        answer: Callable[[int, c.Command | None, Outcome], T],
        *,
        received_ns: int,
        trace: TraceContext | None,
    ) -> None:
        self.name = name
        self.items = items
        self.answer = answer
        self.received_ns = received_ns
        self.trace = trace
        self.span = trace.child() if trace is not None else None
        # Events of each command that was applied.
        self.outcomes: list[Sequence[e.Event]] = []
        self.answers: list[T] = []
        self.failure: Exception | None = None
        self.future: asyncio.Future[list[T]] = asyncio.get_running_loop().create_future()

    def note(self, index: int, command: c.Command | None, outcome: Outcome) -> None:
        """Work out the answer to one item."""
        try:
            self.answers.append(self.answer(index, command, outcome))
        except Exception as error:
            # It is in the log whether or not it can be told, and the others want their answers.
            log.error("answer_failed", submission=self.name, exc_info=error)
            self.failure = error

    def resolve(self) -> None:
        """Let the caller have the answers."""
        # A caller that is gone has cancelled its future.
        if self.future.done():
            return
        if self.failure is not None:
            self.future.set_exception(self.failure)
        else:
            self.future.set_result(self.answers)

    @property
    def reducing(self) -> bool:
        """Whether it only takes away or stops, and adds nothing."""
        return all(isinstance(item, _REDUCING) for item in self.items)


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
            # Its caller is gone and nothing was promised: an order that nobody waits for any more
            # must not trade. A cancel does what its sender last wanted.
            if submission.future.cancelled() and not submission.reducing:
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
            span = submission.span
            trace_id, span_id = (span.trace_id, span.span_id) if span is not None else (b"", b"")
            for index, item in enumerate(items):
                if isinstance(item, c.Command):
                    command = item
                elif isinstance(item, Refused):
                    continue
                else:
                    resolved = item.resolve(exchange)
                    items[index] = resolved
                    if isinstance(resolved, Refused):
                        continue
                    command = resolved
                events = exchange.apply(command, time_ns)
                outcomes.append(events)
                add(
                    command,
                    events,
                    exchange.last_command_seq,
                    submission.received_ns,
                    trace_id,
                    span_id,
                )

    def _follow(
        self, batch: list[Submission[Any]], record: LogRecord, time_ns: int
    ) -> dict[int, Change]:
        """Move the read model over the durable entry, and work out every answer on the way."""
        projection = self._projection
        projection.begin_entry(record.seq, time_ns)
        for submission in batch:
            outcomes = iter(submission.outcomes)
            for index, item in enumerate(submission.items):
                if isinstance(item, c.Command):
                    events = next(outcomes)
                    projection.apply(item, events)
                    submission.note(index, item, events)
                elif isinstance(item, Refused):
                    submission.note(index, None, item)
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
