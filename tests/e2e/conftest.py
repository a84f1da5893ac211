"""A browser for all tests, and a tab for the page of the running system in it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.support import Exchange
from tests.support.page import chromium, page_in


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, exchange: Exchange) -> AsyncIterator[Page]:
    async with page_in(browser, exchange) as page:
        yield page
