"""`kill -9` for parts of a running system."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from ops.embedded import EmbeddedPostgres
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


async def kill_postgres(postgres: EmbeddedPostgres) -> None:
    """`kill -9` for all processes of a server at once: whatever it has not written to a file yet is
    lost, and the next start recovers from its log. (Linux)
    """
    pid = postgres.pid
    assert pid is not None
    # Stopped first: it would start new ones, and let them recover what is still in memory.
    os.kill(pid, signal.SIGSTOP)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for process in (*map(int, children), pid):
        os.kill(process, signal.SIGKILL)
    await eventually(lambda: postgres.pid is None)
