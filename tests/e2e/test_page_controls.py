"""Every control of the page in a real browser, on a system with two shards."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from decimal import Decimal

import pyotp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect

from tests.support.exchange import Exchange, two_shards
from tests.support.page import (
    CHANCE_MS,
    PAGE_TESTS,
    PASSWORD,
    accessibility_problems,
    account,
    balance,
    choose_kind,
    choose_tab,
    code_for,
    enter,
    happened,
    market_order,
    order_form,
    page_in,
    sign_in,
)
from tests.support.waiting import eventually

pytestmark = [*PAGE_TESTS, pytest.mark.xdist_group("page")]
LONG_WAY = Decimal(500)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def sharded() -> AsyncIterator[Exchange]:
    """Two shards, and withdrawals that can be called back for as long as a slow machine takes."""
    async with two_shards(TIDEBOOK_PAYOUT_DELAY_MS="600000") as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, sharded: Exchange) -> AsyncIterator[Page]:
    async with page_in(browser, sharded) as page:
        yield page


async def figure(page: Page, name: str) -> Decimal:
    """One of the figures of the market at the top."""
    bar = page.get_by_role("region", name="Market", exact=True)
    text = await bar.locator(f"dt:text-is('{name}') + dd").inner_text()
    return Decimal(text.replace(",", ""))


async def test_money_is_withdrawn_called_back_and_moved_between_shards(
    page: Page, sharded: Exchange
) -> None:
    await enter(page, sharded, "1000")
    await page.get_by_role("link", name="Wallet").click()
    withdraw = page.get_by_role("form", name="Withdraw")
    await withdraw.get_by_label("Amount").fill("2000")
    await withdraw.get_by_label("To address").fill("somewhere else")
    await withdraw.get_by_role("button", name="Withdraw").click()
    moves = page.get_by_role("region", name="Deposits and withdrawals")
    await expect(moves.get_by_role("row", name=re.compile("withdrawal"))).to_contain_text("failed")
    await withdraw.get_by_label("Amount").fill("250,5")
    await withdraw.get_by_role("button", name="Withdraw").click()
    await expect(withdraw.get_by_role("status")).to_contain_text("250.5 USDC")
    await expect(balance(page, "USDC")).to_have_text("749.5")
    await moves.get_by_role("button", name=re.compile("^Call back withdrawal")).click()
    await expect(moves).to_contain_text("cancelled")
    await expect(balance(page, "USDC")).to_have_text("1,000")

    move = page.get_by_role("form", name="Move between shards")
    await move.get_by_label("Amount").fill("400")
    await move.get_by_label("From shard").select_option("1")
    await expect(move).to_contain_text("the same shard")
    await expect(move.get_by_role("button", name="Move")).to_be_disabled()
    await move.get_by_label("From shard").select_option("0")
    await move.get_by_role("button", name="Move").click()
    await expect(move.get_by_role("status")).to_contain_text("400 USDC")
    shards = page.get_by_role("region", name="Balances by shard")
    await expect(shards.get_by_role("row", name=re.compile("1: SOL"))).to_contain_text("400")
    await expect(balance(page, "USDC")).to_have_text("1,000")
    # An order in a market of the other shard has what is there, and no more.
    await page.get_by_role("link", name="Trade").click()
    await expect(order_form(page)).to_contain_text("600 USDC")
    await page.get_by_role("button", name="SOL/USDC").click()
    await expect(order_form(page)).to_contain_text("400 USDC")


async def test_the_stop_or_the_take_profit_of_a_contract_fires(
    page: Page, sharded: Exchange
) -> None:
    await enter(page, sharded, "1000")
    await choose_kind(page, "CFD")
    form = page.get_by_role("region", name="Open a CFD")

    async def opened() -> None:
        # As near as can be on both sides, so that the feed's next moves end it. Gone past one of
        # them meanwhile, it is refused.
        bid = await figure(page, "Sell at (bid)")
        await form.get_by_label("Margin").fill("100")
        await form.get_by_label(re.compile("^Stop loss")).fill(str(bid - 20))
        await form.get_by_label(re.compile("^Take profit")).fill(str(bid + 20))
        await form.get_by_role("button", name="Open long").click()
        await expect(form.get_by_role("status").or_(form.get_by_role("alert"))).to_be_visible()
        assert await form.get_by_role("status").is_visible()

    await eventually(opened, timeout_s=CHANCE_MS / 1000)
    by_itself = re.compile("closed by (stop loss|take profit) at")
    await expect(happened(page)).to_contain_text(by_itself, timeout=CHANCE_MS)
    await choose_tab(page, "CFDs")
    await expect(account(page)).to_contain_text("No open CFDs.")
    await expect(balance(page, "USDC", 2)).to_have_text("0")
    await page.get_by_role("link", name="History").click()
    await (
        page.get_by_role("group", name="Kind of history").get_by_role("button", name="CFDs").click()
    )
    row = page.get_by_role("row", name=re.compile("BTC.USDC CFD"))
    await expect(row).to_contain_text(re.compile("stop loss|take profit"))


async def test_a_position_gets_margin_and_exits_of_which_one_fires(
    page: Page, sharded: Exchange
) -> None:
    await enter(page, sharded, "1000")
    await choose_kind(page, "Margin")
    book = page.get_by_role("region", name="Order book")
    await expect(book.get_by_role("listitem").nth(5)).to_be_visible()
    await market_order(page, "Buy / long BTC", "0.002")
    await choose_tab(page, "Positions")
    row = account(page).get_by_role("row", name=re.compile("BTC.USDC Margin"))
    dialog = page.get_by_role("dialog")

    before = await row.inner_text()
    await row.get_by_role("button", name="Add margin").click()
    await dialog.get_by_label("Amount").fill("5000")
    await dialog.get_by_role("button", name="Add").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("INSUFFICIENT_BALANCE")
    await dialog.get_by_label("Amount").fill("50")
    await dialog.get_by_role("button", name="Add").click()
    await expect(dialog).to_have_count(0)
    await expect(row).not_to_have_text(before)
    await row.get_by_role("button", name="Close part").click()
    await dialog.get_by_label("Quantity").fill("0.001")
    await dialog.get_by_role("button", name="Close it").click()
    await expect(row.get_by_role("cell").nth(1)).to_have_text("0.001")

    open_dialog = row.get_by_role("button", name=re.compile("^Stop loss and take profit"))

    async def save(stop: str, profit: str) -> None:
        await dialog.get_by_label(re.compile("^Stop loss")).fill(stop)
        await dialog.get_by_label(re.compile("^Take profit")).fill(profit)
        await dialog.get_by_role("button", name="Save").click()

    async def exits(stop: str, profit: str) -> None:
        await open_dialog.click()
        await save(stop, profit)
        await expect(dialog).to_have_count(0)

    mark = round(await figure(page, "Mark"))
    await open_dialog.click()
    await save(str(mark + LONG_WAY), str(mark + 2 * LONG_WAY))
    stop = dialog.get_by_label(re.compile("^Stop loss"))
    await expect(stop).to_have_attribute("aria-invalid", "true")
    await expect(dialog.get_by_role("alert")).to_contain_text("TRIGGER_ON_WRONG_SIDE")
    assert await dialog.get_by_role("alert").get_attribute("id") == await stop.get_attribute(
        "aria-describedby"
    )
    await page.keyboard.press("Escape")
    low, high, higher = (f"{mark + way:,}.00" for way in (-LONG_WAY, LONG_WAY, 2 * LONG_WAY))
    await exits(low, high)
    await expect(row).to_contain_text(low)
    await expect(row).to_contain_text(high)
    await exits(low, higher)
    await expect(row).to_contain_text(higher)
    await exits(low, "")
    await expect(row).to_contain_text("no profit")
    await expect(row).to_contain_text(low)
    tabs = page.get_by_role("group", name="Account", exact=True)
    await expect(tabs.get_by_role("button", name="Open orders 1")).to_be_visible()

    async def near() -> None:
        # Gone past one of them meanwhile, it is refused.
        if await dialog.count():
            mark = round(await figure(page, "Mark"))
            await save(str(mark - 40), str(mark + 40))
            closed = page.locator("body:not(:has(dialog))")
            await expect(closed.or_(dialog.get_by_role("alert"))).to_be_visible()
        assert await dialog.count() == 0

    await open_dialog.click()
    await eventually(near, timeout_s=CHANCE_MS / 1000)
    await expect(happened(page)).to_contain_text("was triggered", timeout=CHANCE_MS)
    await expect(account(page)).to_contain_text("No open positions.")
    await expect(tabs.get_by_role("button", name="Open orders 0")).to_be_visible()
    await expect(balance(page, "USDC", 2)).to_have_text("0")


async def recovery_codes(factor: Locator) -> list[str]:
    """Those that are shown now."""
    shown = factor.get_by_role("list", name="Recovery codes").get_by_role("listitem")
    await expect(shown).to_have_count(10)
    return await shown.all_inner_texts()


async def test_the_account_is_secured_and_its_sessions_end(
    browser: Browser, page: Page, sharded: Exchange
) -> None:
    email = await enter(page, sharded)
    async with page_in(browser, sharded) as elsewhere:
        await elsewhere.goto("/")
        await sign_in(elsewhere, email)
        await expect(order_form(elsewhere)).to_be_visible()
        await page.get_by_role("link", name="Security").click()
        sessions = page.get_by_role("region", name="Sessions", exact=True)
        await sessions.get_by_role("button", name=re.compile("^End the session")).click()
        await expect(sessions.get_by_role("row")).to_have_count(2)
        await elsewhere.reload()
        await expect(elsewhere.get_by_role("region", name="Sign in")).to_be_visible()

    factor = page.get_by_role("region", name="Second factor")
    await factor.get_by_label("Your password").fill(PASSWORD)
    await factor.get_by_role("button", name="Set up").click()
    secret = await factor.locator("code").inner_text()
    await factor.get_by_label("Code of the app").fill("000000")
    await factor.get_by_role("button", name="Turn on").click()
    await expect(factor.get_by_role("alert")).to_be_visible()
    await factor.get_by_label("Code of the app").fill(pyotp.TOTP(secret).now())
    await factor.get_by_role("button", name="Turn on").click()
    await expect(factor.get_by_role("status")).to_be_focused()
    assert await accessibility_problems(page) == []
    codes = await recovery_codes(factor)
    saved = factor.get_by_role("link", name="Save them as a file")
    async with page.expect_download() as download:
        await saved.click()
    path = await (await download.value).path()
    assert path.read_text().split() == codes
    await factor.get_by_role("button", name="I have kept them").click()
    await expect(factor.get_by_role("button", name="Turn off")).to_be_visible()
    await expect(factor).to_contain_text("Recovery codes left: 10")
    await expect(factor).not_to_contain_text(codes[0])

    await factor.get_by_label("Your password").fill(PASSWORD)
    await factor.get_by_role("button", name="Use a recovery code instead").click()
    await factor.get_by_label("Recovery code", exact=True).fill(codes[0])
    await factor.get_by_role("button", name="Make new recovery codes").click()
    new = await recovery_codes(factor)
    assert not set(new) & set(codes)
    await factor.get_by_role("button", name="I have kept them").click()

    changed = "another long pass phrase"
    password = page.get_by_role("region", name="Password")
    await password.get_by_label("Current password").fill(PASSWORD)
    await password.get_by_label(re.compile("^New password")).fill("short")
    await password.get_by_role("button", name="Change password").click()
    await expect(password.get_by_role("alert")).to_contain_text("PASSWORD_TOO_WEAK")
    await password.get_by_label(re.compile("^New password")).fill(changed)
    await password.get_by_role("button", name="Change password").click()
    await expect(password.get_by_role("status")).to_contain_text("Changed")

    await page.get_by_role("button", name="Sign out", exact=True).click()
    await sign_in(page, email, changed)
    code = page.get_by_label("Code of your authenticator app")
    await expect(code).to_be_focused()
    # A code is good for once; that of the next half minute is taken already.
    await code.fill(pyotp.TOTP(secret).at(int(time.time()) + 30))
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await expect(page.get_by_role("banner")).to_contain_text(email)
    await page.get_by_role("button", name="Sign out", exact=True).click()
    await sign_in(page, email, changed)
    await page.get_by_role("button", name="Use a recovery code instead").click()
    lost = page.get_by_label("Recovery code", exact=True)
    await expect(lost).to_be_focused()
    await lost.fill(codes[1])
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await expect(page.get_by_role("alert")).to_contain_text("OTP_INVALID")
    await lost.fill(new[1].upper())
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await expect(page.get_by_role("banner")).to_contain_text(email)
    await expect(factor).to_contain_text("Recovery codes left: 9")
    await page.get_by_role("button", name="Sign out everywhere").click()
    await expect(page.get_by_role("region", name="Sign in")).to_be_visible()


async def test_a_forgotten_password_is_set_anew(page: Page, sharded: Exchange) -> None:
    email = await enter(page, sharded)
    await page.get_by_role("button", name="Sign out").click()
    await page.get_by_role("button", name="Forgotten your password?").click()
    await page.get_by_label("E-mail").fill(email)
    first = await code_for(sharded, email)
    await page.get_by_role("button", name="Send a code").click()
    await expect(page.get_by_role("textbox", name="Code")).to_be_focused()

    async def another() -> str:
        code = await code_for(sharded, email)
        assert code != first
        return code

    await page.get_by_role("textbox", name="Code").fill(await eventually(another))
    await page.get_by_label(re.compile("^New password")).fill("a pass phrase once more")
    await page.get_by_role("button", name="Set the password").click()
    await expect(page.get_by_role("region", name="Sign in").get_by_role("status")).to_be_visible()
    await sign_in(page, email, "a pass phrase once more")
    await expect(page.get_by_role("banner")).to_contain_text(email)
