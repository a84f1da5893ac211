"""Lists that come in pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any


async def pages(ask: Callable[[Any], Awaitable[Any]], request: Any) -> AsyncIterator[Any]:
    """Each answer to `request`, to the last page; `request` is moved on."""
    while True:
        answer = await ask(request)
        yield answer
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token
