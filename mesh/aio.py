"""Small asyncio helpers: background work that cannot die in silence, and waiting between tries."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar

import structlog

_CANCEL_AGAIN_SECONDS = 0.5
log = structlog.get_logger()
T = TypeVar("T")


class Backoff:
    """Waits that double from `first_seconds` to `most_seconds`, each spread by +-50 % (jitter)."""

    def __init__(self, *, first_seconds: float = 0.1, most_seconds: float = 10.0) -> None:
        self._first = first_seconds
        self._most = most_seconds
        self._next = first_seconds

    def next_seconds(self) -> float:
        """How long to wait this time."""
        seconds = self._next * random.uniform(0.5, 1.5)
        self._next = min(self._next * 2, self._most)
        return seconds

    def reset(self) -> None:
        """Start again from the shortest wait: the last try worked."""
        self._next = self._first

    async def wait(self) -> None:
        """Sleep for the next wait."""
        await asyncio.sleep(self.next_seconds())


async def in_steps(steps: Generator[None, None, T]) -> T:
    """Run a long computation to its end; between its steps the loop does what else is due."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await asyncio.sleep(0)


_crashed: list[BaseException] = []
_on_crash: list[Callable[[], None]] = []


def supervise(work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    """Run `work` in the background; if it ever raises, say so and stop this process.

    A service whose follower or flusher is dead looks alive and serves stale answers: better to be
    restarted. The stop goes the road of an operator's (`run_service`), so calls are drained. Keep
    the task and end it with `cancel_and_wait`. The work starts with no call, caller or trace of its
    own, whatever started it: it must not inherit a request's deadline or token.
    """
    task = asyncio.get_running_loop().create_task(work, name=name, context=Context())
    task.add_done_callback(_note_crash)
    return task


def stop_on_crash(stop: Callable[[], None]) -> None:
    """What a crash of supervised work calls; `run_service` sets it for its process."""
    _on_crash[:] = [stop]


def first_crash() -> BaseException | None:
    """What the first crashed background task of this process raised."""
    return _crashed[0] if _crashed else None


def _note_crash(task: asyncio.Task[Any]) -> None:
    if task.cancelled() or (error := task.exception()) is None:
        return
    log.critical("background_task_crashed", task=task.get_name(), exc_info=error)
    _crashed.append(error)
    for stop in _on_crash:
        stop()


async def cancel_and_wait(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait until they have ended; what they raise is not raised again."""
    running = {task for task in tasks if task is not None}
    while running:
        for task in running:
            task.cancel()
        # A cancellation can get lost: before Python 3.12 `asyncio.wait_for` drops one that comes
        # just as the inner work is done, and the Redis client sends through it.
        ended, running = await asyncio.wait(running, timeout=_CANCEL_AGAIN_SECONDS)
        for task in ended:
            if not task.cancelled():
                task.exception()


def raise_if_cancelled() -> None:
    """Raise the cancellation that was asked of the current task and may have got lost.

    For loops without an end around calls that go through `asyncio.wait_for`, see above.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
