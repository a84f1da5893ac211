"""The page in two tabs of one browser, which share a session."""

from __future__ import annotations

import asyncio

from playwright.async_api import Page, Route, expect

from tests.support import Exchange
from tests.support.page import PAGE_TESTS, enter

pytestmark = [*PAGE_TESTS]


async def test_two_tabs_whose_access_ends_at_once_stay_signed_in(
    page: Page, exchange: Exchange
) -> None:
    """Both refresh; a refresh token that two of them spent would end the session."""
    refreshes = 0

    async def slowly(route: Route) -> None:
        nonlocal refreshes
        refreshes += 1
        # Long enough for the other tab to ask as well, if it may.
        await asyncio.sleep(1.0)
        await route.continue_()

    other = await page.context.new_page()
    # A view that is drawn quickly, four times.
    email = await enter(page, exchange, view="/wallet")
    await other.goto("/wallet")
    await expect(other.get_by_role("banner")).to_contain_text(email)
    await page.context.route("**/v1/auth/refresh", slowly)
    await page.context.clear_cookies(name="tidebook_access")
    await asyncio.gather(page.reload(), other.reload())
    for tab in (page, other):
        await expect(tab.get_by_role("banner")).to_contain_text(email)
    assert refreshes >= 1
    # Not for a moment only.
    await asyncio.gather(page.reload(), other.reload())
    for tab in (page, other):
        await expect(tab.get_by_role("banner")).to_contain_text(email)
