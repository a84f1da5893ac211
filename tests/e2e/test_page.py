"""The page in a real browser: a new user signs up, deposits, trades and cancels."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Page, async_playwright, expect

from tests.support.exchange import Exchange
from tests.support.waiting import eventually

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
PASSWORD = "a long enough pass phrase"
pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest_asyncio.fixture(loop_scope="session")
async def page(exchange: Exchange) -> AsyncIterator[Page]:
    """The page of the running system in a fresh browser; what it complains about fails the test."""
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-background-networking", "--disable-sync"],
        )
        page = await browser.new_page(viewport={"width": 1400, "height": 900})
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.set_default_timeout(20_000)
        await page.goto(exchange.http_url)
        yield page
        await browser.close()
    assert complaints == []


async def code_for(exchange: Exchange, email: str) -> str:
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
    email = f"page-{uuid.uuid4().hex[:12]}@example.com"
    await page.get_by_role("button", name="New here? Create an account").click()
    await page.get_by_label("E-mail").fill(email)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Create account").click()
    await page.get_by_role("textbox", name="Code").fill(await code_for(exchange, email))
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await expect(page.get_by_role("region", name="Place an order")).to_be_visible()
    return email


async def get_play_money(page: Page, amount: str) -> None:
    faucet = page.get_by_role("form", name="Faucet")
    await faucet.get_by_label("Amount").fill(amount)
    await faucet.get_by_role("button", name="Get play money").click()


async def test_a_visitor_sees_live_prices_marked_as_simulated(page: Page) -> None:
    await expect(page.get_by_role("banner")).to_contain_text("simulated")
    bitcoin = page.get_by_role("button", name="BTC/USDC")
    await expect(bitcoin).to_contain_text(re.compile(r"index [\d,]+\.\d\d \(simulated\)"))
    before = await bitcoin.text_content()

    async def moved() -> bool:
        return await bitcoin.text_content() != before

    assert await eventually(moved)


async def test_a_visitor_sees_book_and_trades_of_the_bots_move(page: Page) -> None:
    book = page.get_by_role("region", name="Order book")
    await expect(book.get_by_role("listitem").nth(5)).to_be_visible()
    seq = await book.locator("h2 small").text_content()
    await expect(book.locator("h2 small")).not_to_have_text(seq or "")
    await expect(
        page.get_by_role("region", name="Trades").get_by_role("listitem").first
    ).to_be_visible(timeout=60_000)


async def test_a_new_user_deposits_rests_an_order_and_cancels_it(
    page: Page, exchange: Exchange
) -> None:
    await sign_up(page, exchange)
    await get_play_money(page, "1000")
    account = page.get_by_role("region", name="Account")
    await expect(account.get_by_role("row", name=re.compile("USDC"))).to_contain_text("1,000")

    form = page.get_by_role("region", name="Place an order")
    await form.get_by_label(re.compile("^Price")).fill("1000.00")
    await form.get_by_label(re.compile("^Quantity")).fill("0.1")
    await form.get_by_role("button", name="Buy BTC").click()
    await expect(form.get_by_role("status")).to_contain_text("is open")
    # 100 for the order and 0.2 for its worst fee are held, exactly.
    usdc = account.get_by_role("row", name=re.compile("USDC"))
    await expect(usdc.get_by_role("cell").nth(1)).to_have_text("899.8")
    await expect(usdc.get_by_role("cell").nth(2)).to_have_text("100.2")

    await account.get_by_role("button", name=re.compile("Cancel order")).click()
    await expect(account).to_contain_text("No open orders.")
    await expect(usdc.get_by_role("cell").nth(1)).to_have_text("1,000")


async def test_a_market_order_fills_against_the_bots(page: Page, exchange: Exchange) -> None:
    await sign_up(page, exchange)
    await get_play_money(page, "5000")
    await page.get_by_role("button", name="SOL/USDC").click()
    book = page.get_by_role("region", name="Order book")
    await expect(book.get_by_role("listitem").nth(5)).to_be_visible()
    form = page.get_by_role("region", name="Place an order")
    await form.get_by_role("button", name="Market").click()
    await form.get_by_label(re.compile("^Quantity")).fill("0.5")
    await form.get_by_role("button", name="Buy SOL").click()
    await expect(form.get_by_role("status")).to_contain_text("is filled")
    account = page.get_by_role("region", name="Account")
    solana = account.get_by_role("row", name=re.compile("^SOL "))
    await expect(solana.get_by_role("cell").nth(1)).to_have_text("0.5")


async def test_a_refusal_is_shown_with_its_reason(page: Page, exchange: Exchange) -> None:
    await sign_up(page, exchange)
    form = page.get_by_role("region", name="Place an order")
    await form.get_by_label(re.compile("^Price")).fill("1000.00")
    await form.get_by_label(re.compile("^Quantity")).fill("0.1")
    await form.get_by_role("button", name="Buy BTC").click()
    await expect(form.get_by_role("alert")).to_contain_text("INSUFFICIENT_BALANCE")


async def test_a_session_survives_a_reload_and_ends_with_sign_out(
    page: Page, exchange: Exchange
) -> None:
    email = await sign_up(page, exchange)
    await page.reload()
    await expect(page.get_by_role("banner")).to_contain_text(email)
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("region", name="Sign in")).to_be_visible()
    await page.reload()
    await expect(page.get_by_role("region", name="Sign in")).to_be_visible()
