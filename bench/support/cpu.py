"""CPU time of other processes, for where wall-clock time is mostly waiting."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """What a process and its children that still run have used so far; 0 where /proc cannot say."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return _own(pid) + sum(_own(int(child)) for child in children)
    return 0.0


def _own(pid: int) -> float:
    with contextlib.suppress(OSError):
        # The name, in brackets, may have anything in it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
