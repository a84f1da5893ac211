"""How the kernel shares the cores among our processes."""

from __future__ import annotations

import os

import structlog

log = structlog.get_logger()


def run_in_turns() -> None:
    """Let no process of ours interrupt another: this one, and those it starts from now on.

    An order passes through several processes, each of which wakes the next. By default whoever is
    woken may interrupt who is at work, on whose core the caches are warm; that made each of them a
    quarter to a third more expensive under load. With `SCHED_BATCH` the woken one takes a free core
    or waits for its turn, a few milliseconds at most. Only Linux has it; elsewhere, and where it is
    forbidden, nothing changes.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:
        log.info("scheduling_unchanged", error=str(error))
