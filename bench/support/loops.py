"""The event loop that the services run on, for the servers and clients of benchmarks."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Coroutine
from typing import Any


def run_on_fast_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run it on uvloop where there is one."""
    factory = None
    with contextlib.suppress(ImportError):
        factory = importlib.import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)
