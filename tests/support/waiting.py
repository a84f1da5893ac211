"""Waiting for something to become true, without fixed sleeps."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(
    check: Callable[[], Awaitable[T]], *, timeout_s: float = ..., interval_s: float = ...
) -> T: ...


@overload
async def eventually(
    check: Callable[[], T], *, timeout_s: float = ..., interval_s: float = ...
) -> T: ...


async def eventually(
    check: Callable[[], Any], *, timeout_s: float = 60.0, interval_s: float = 0.02
) -> Any:
    """Call `check` until it is content, and return what it returned.

    Content means: it raised nothing, and returned either None (a function that only asserts) or
    something truthy. Any exception counts as "not yet"; after `timeout_s` seconds the last one is
    raised (`AssertionError` when there was none), so a failure shows what was still wrong.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            result = check()
            if inspect.isawaitable(result):
                result = await asyncio.wait_for(result, max(0.1, deadline - time.monotonic()))
            if result is None or result:
                return result
            failure: Exception = AssertionError(f"still {result!r} after {timeout_s} s")
        except Exception as error:
            failure = error
        if time.monotonic() >= deadline:
            raise failure
        await asyncio.sleep(interval_s)
