"""The page in a real browser, as its tests drive it."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Browser, BrowserContext, Locator, Page, async_playwright, expect

from tests.support.exchange import Exchange
from tests.support.waiting import eventually

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
# The marks of a module whose tests open pages.
PAGE_TESTS = (
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.timeout(900),
)
PASSWORD = "a long enough pass phrase"
# What a machine may need that is several times slower than an idle one.
PATIENCE_MS = 90_000
# What comes by chance: a bot's first trade in a market, a made-up price that gets somewhere.
CHANCE_MS = 240_000
_AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser for several pages."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-background-networking", "--disable-sync"],
        )
        expect.set_options(timeout=PATIENCE_MS)
        yield browser
        await browser.close()


@asynccontextmanager
async def page_in(browser: Browser, exchange: Exchange) -> AsyncIterator[Page]:
    """An empty tab with cookies of its own, whose "/" is the page of the running system.

    What the page complains about there fails the test.
    """
    complaints: list[str] = []
    context = await browser.new_context(
        base_url=exchange.http_url, viewport={"width": 1400, "height": 900}, color_scheme="dark"
    )
    context.set_default_timeout(PATIENCE_MS)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    yield await context.new_page()
    await context.close()
    assert complaints == []


async def code_for(exchange: Exchange, email: str) -> str:
    """The one-time code of the newest mail."""
    async with aiohttp.ClientSession() as session:

        async def newest() -> str:
            url = f"{exchange.http_url}/dev/mailbox"
            async with session.get(url, params={"to": email}) as response:
                mails = (await response.json())["mails"]
            found = re.search(r"\b\d{6}\b", mails[0]["text"])
            assert found, "the mail has no code"
            return found[0]

        return await eventually(newest)


async def sign_up(page: Page, exchange: Exchange) -> str:
    """Open an account through the page as a visitor does; its address."""
    email = _new_address()
    await page.goto("/")
    await page.get_by_role("button", name="New here? Create an account").click()
    await page.get_by_label("E-mail").fill(email)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Create account").click()
    await page.get_by_role("textbox", name="Code").fill(await code_for(exchange, email))
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await expect(order_form(page)).to_be_visible()
    return email


async def enter(page: Page, exchange: Exchange, money: str = "", *, view: str = "/") -> str:
    """Open an account with so much USDC without the forms, then the page for it; its address."""
    email = await _open_account(page.context, exchange, money)
    await page.goto(view)
    await expect(page.get_by_role("banner")).to_contain_text(email)
    return email


async def has_traded(page: Page, exchange: Exchange) -> None:
    """See to it that BTC/USDC has traded: before, no order can follow its last price."""
    trades = page.get_by_role("region", name="Trades")
    await expect(trades).to_have_attribute("aria-busy", "false")
    if not await trades.get_by_role("listitem").count():
        assert page.context.browser is not None
        somebody = await page.context.browser.new_context(base_url=exchange.http_url)
        await _open_account(somebody, exchange, "100")

        async def bought() -> bool:
            order = {"market": "BTC_USDC", "side": "SIDE_BUY", "type": "ORDER_TYPE_MARKET"}
            answer = await _post(somebody, "/v1/orders", **order, quantity="0.0001")
            return bool(answer.get("fills"))

        await eventually(bought, timeout_s=CHANCE_MS / 1000, interval_s=0.2)
        await somebody.close()
    await expect(trades.get_by_role("listitem").first).to_be_visible()


def _new_address() -> str:
    return f"page-{uuid.uuid4().hex[:12]}@example.com"


async def _open_account(context: BrowserContext, exchange: Exchange, money: str) -> str:
    email = _new_address()
    await _post(context, "/v1/auth/signup", email=email, password=PASSWORD)
    code = await code_for(exchange, email)
    await _post(context, "/v1/auth/verify-otp", email=email, code=code)
    if money:
        request = uuid.uuid4().hex
        await _post(context, "/v1/deposits", asset="USDC", amount=money, requestId=request)
    return email


async def _post(context: BrowserContext, path: str, **body: str) -> dict[str, Any]:
    """Call the gateway with the cookies of a tab, as the page does."""
    headers = {"X-Tidebook-Session": "cookie"}
    for cookie in await context.cookies():
        if cookie["name"].endswith("tidebook_csrf"):
            headers["X-CSRF-Token"] = cookie["value"]
    response = await context.request.post(path, data=body, headers=headers)
    assert response.ok, await response.text()
    answer: dict[str, Any] = await response.json()
    return answer


async def get_play_money(page: Page, amount: str) -> None:
    """Deposit USDC from the faucet, and come back to the order form."""
    await page.get_by_role("link", name="Wallet").click()
    faucet = page.get_by_role("form", name="Faucet")
    await faucet.get_by_label("Amount").fill(amount)
    await faucet.get_by_role("button", name="Get play money").click()
    await expect(faucet.get_by_role("status")).to_contain_text("completed")
    await page.get_by_role("link", name="Trade").click()


def order_form(page: Page) -> Locator:
    return page.get_by_role("region", name="Place an order")


def account(page: Page) -> Locator:
    """Orders, positions, contracts and fills."""
    return page.get_by_role("region", name="Account", exact=True)


def balance(page: Page, asset: str, column: int = 1) -> Locator:
    """A cell of the balances beside the form: column 1 is available, 2 in use."""
    balances = page.get_by_role("region", name="Balances", exact=True)
    return (
        balances.get_by_role("row", name=re.compile(f"^{asset} ")).get_by_role("cell").nth(column)
    )


async def choose_kind(page: Page, kind: str) -> None:
    """Spot, Margin or CFD."""
    kinds = page.get_by_role("group", name="Kind of market")
    await kinds.get_by_role("button", name=kind).click()


async def choose_tab(page: Page, name: str) -> None:
    """One of the account's tabs."""
    tabs = page.get_by_role("group", name="Account", exact=True)
    await tabs.get_by_role("button", name=re.compile(f"^{name}")).click()


async def accessibility_problems(page: Page) -> list[str]:
    """What axe finds serious or worse, in one line each."""
    if not await page.evaluate("'axe' in window"):
        # The page's own policy forbids scripts in its text, so axe comes the way the debugger does.
        await page.evaluate(_AXE.read_text())
    found = await page.evaluate(
        "axe.run({ resultTypes: ['violations'] }).then(({ violations }) => violations.map("
        "({ id, impact, nodes }) => ({ id, impact, html: nodes[0].html.slice(0, 200) })))"
    )
    return [
        f"{problem['id']}: {problem['html']}"
        for problem in found
        if problem["impact"] in ("serious", "critical")
    ]


def happened(page: Page) -> Locator:
    """What the page tells by itself."""
    return page.get_by_role("log", name="What happened")


async def sign_in(page: Page, email: str, password: str = PASSWORD) -> None:
    """Give address and password; what comes then depends on the account."""
    await page.get_by_label("E-mail").fill(email)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Sign in", exact=True).click()


async def market_order(page: Page, button: str, quantity: str) -> None:
    """Send one from the form and see it filled."""
    form = order_form(page)
    await form.get_by_role("button", name="Market", exact=True).click()
    await form.get_by_label(re.compile("^Quantity")).fill(quantity)
    await form.get_by_role("button", name=button).click()
    await expect(form.get_by_role("status")).to_contain_text("is filled")
