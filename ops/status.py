"""`tidebook status`: each part of the running system, asked for its health; and its books."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ops import books, state
from ops.state import PartState

NOT_RUNNING = 3  # as systemctl says it


async def show(data_dir: Path, console: Console) -> int:
    """Print one row a part and one for the books of each shard; returns 0 when all is well, 1 when
    not, 3 when nothing runs.
    """
    running = state.read_state(data_dir)
    if running is None or not state.DataDirLock(data_dir).is_held():
        console.print(f"Tidebook is not running on {data_dir.resolve()}", soft_wrap=True)
        return NOT_RUNNING
    healthy, reconciled = await asyncio.gather(
        asyncio.gather(*(_is_healthy(part) for part in running.parts)),
        books.ask(running.running_settings()),
    )
    table = Table("part", "state", "pid", "address", box=None, padding=(0, 2, 0, 0))
    for part, good in zip(running.parts, healthy, strict=True):
        shown = "[green]healthy[/]" if good else "[bold red]not healthy[/]"
        table.add_row(part.name, shown, str(part.pid or "-"), part.address)
    console.print(f"up since {running.started_at}, supervisor process {running.supervisor_pid}")
    console.print(table)
    console.print(books.table_of(reconciled) if reconciled else "the books cannot be read now")
    console.print(f"logs are in {data_dir.resolve() / 'logs'}", soft_wrap=True)
    return 0 if all(healthy) and reconciled is not None and books.are_well(reconciled) else 1


async def _is_healthy(part: PartState) -> bool:
    """What its probe says; a part that cannot be asked is as healthy as its process is alive."""
    if part.probe is not None:
        return await part.probe.is_healthy()
    if part.pid is None:
        return False
    try:
        os.kill(part.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
