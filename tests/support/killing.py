"""`kill -9` for parts of a running system."""

from __future__ import annotations

import os
import signal

from ops.state import read_state
from tests.support.exchange import Exchange
from tests.support.waiting import eventually


def pid_of(exchange: Exchange, part: str) -> int | None:
    """Process id of a part, by its name in `run/state.json`; None while it does not run."""
    state = read_state(exchange.data_dir)
    assert state is not None
    return next(p.pid for p in state.parts if p.name == part)


async def kill(exchange: Exchange, part: str) -> None:
    """`kill -9`, and wait until the supervisor has started it again."""
    old = pid_of(exchange, part)
    assert old is not None
    os.kill(old, signal.SIGKILL)

    def another() -> bool:
        return pid_of(exchange, part) not in (None, old)

    await eventually(another)
