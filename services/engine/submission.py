"""What goes through the queue: commands that are applied together, and how each is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import structlog

from kernel.reasons import Refused
from mesh.telemetry import TraceContext, random_id
from services.engine.domain import commands as c
from services.engine.domain import events as e
from services.engine.domain.exchange import Exchange

T = TypeVar("T")
# What a command came to: its events, or why it was not even applied.
Outcome = Sequence[e.Event] | Refused

log = structlog.get_logger()


class Late(Protocol):
    """A command that can only be decoded when its turn comes: it names an order, whose market says
    what its numbers mean, and the order may still be in the queue before it.
    """

    def resolve(self, exchange: Exchange) -> c.Command | Refused:
        """The command against the state right before it is applied."""
        ...


Item = c.Command | Late | Refused


class CommandSpan(NamedTuple):
    """The span under which commands are logged; its parent is the caller's. Ids are raw bytes."""

    name: str
    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes


# Of the engine's own work, which is part of no trace.
UNTRACED: Final = CommandSpan("", b"", b"", b"")


def span_below(name: str, trace: TraceContext) -> CommandSpan:
    """A new span of a caller's trace."""
    return CommandSpan(name, trace.trace_id, random_id(8), trace.span_id)


class Submission(Generic[T]):
    """Commands of one message, applied in order within one log entry and answered together.

    They may be of many callers: each item has its span, which neighbours of one trace share, and
    `answer(index, command, outcome)` is called for each right after the read model has followed it,
    so it sees the state that its command left. An item that is `Refused` already only keeps its
    place.
    """

    __slots__ = (
        "answer",
        "answers",
        "failure",
        "future",
        "items",
        "outcomes",
        "received_ns",
        "spans",
    )

    def __init__(
        self,
        items: list[Item],
        spans: Sequence[CommandSpan],
        answer: Callable[[int, c.Command | None, Outcome], T],
        *,
        received_ns: int,
    ) -> None:
        self.items = items
        self.spans = spans
        self.answer = answer
        self.received_ns = received_ns
        # Of each item, once the batch was applied.
        self.outcomes: list[Outcome] = []
        self.answers: list[T] = []
        self.failure: Exception | None = None
        self.future: asyncio.Future[list[T]] = asyncio.get_running_loop().create_future()

    def note(self, index: int, command: c.Command | None, outcome: Outcome) -> None:
        """Work out the answer to one item."""
        try:
            self.answers.append(self.answer(index, command, outcome))
        except Exception as error:
            # It is in the log whether or not it can be told, and the others want their answers.
            log.error("answer_failed", span=self.spans[index].name, exc_info=error)
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
