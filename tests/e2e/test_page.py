"""The page in a real browser: prices, books, orders of every kind, sessions and keys."""

from __future__ import annotations

import json
import re

from playwright.async_api import Page, Route, expect

from tests.support.exchange import Exchange
from tests.support.page import (
    CHANCE_MS,
    PAGE_TESTS,
    account,
    balance,
    choose_tab,
    enter,
    get_play_money,
    has_traded,
    order_form,
    sign_in,
    sign_up,
)
from tests.support.waiting import eventually

pytestmark = [*PAGE_TESTS]


async def test_a_visitor_sees_live_prices_marked_as_simulated(page: Page) -> None:
    await page.goto("/")
    await expect(page.get_by_role("banner")).to_contain_text("simulated")
    bitcoin = page.get_by_role("button", name="BTC/USDC")
    await expect(bitcoin).to_contain_text(re.compile(r"index [\d,]+\.\d\d \(simulated\)"))
    before = await bitcoin.text_content()

    async def moved() -> bool:
        return await bitcoin.text_content() != before

    assert await eventually(moved)


async def test_a_new_user_rests_an_order_amends_it_and_cancels_it(
    page: Page, exchange: Exchange
) -> None:
    await sign_up(page, exchange)
    await get_play_money(page, "1000")
    await expect(balance(page, "USDC")).to_have_text("1,000")

    form = order_form(page)
    await form.get_by_label(re.compile("^Price")).fill("60000.00")
    await form.get_by_label(re.compile("^Quantity")).fill("0.001")
    await form.get_by_text("More options").click()
    await form.get_by_label(re.compile("^Iceberg")).fill("0.0004")
    await form.get_by_label("Time in force").select_option("TIME_IN_FORCE_GTD")
    await form.get_by_label("Expires").fill("2099-12-31T12:00")
    await expect(form.get_by_label("Preview")).to_contain_text("60.12 USDC")
    await form.get_by_role("button", name="Buy BTC").click()
    await expect(form.get_by_role("status")).to_contain_text("is open")
    # 60 for the order and 0.12 for its worst fee are held, exactly.
    await expect(balance(page, "USDC")).to_have_text("939.88")
    await expect(balance(page, "USDC", 2)).to_have_text("60.12")

    desk = account(page)
    await expect(desk).to_contain_text(re.compile(r"Limit iceberg, shows 0\.0004 · until .*99"))
    await desk.get_by_role("button", name=re.compile("Amend order")).click()
    await page.get_by_label("New price").fill("59000.00")
    await page.get_by_role("button", name="Change the order").click()
    await expect(balance(page, "USDC", 2)).to_have_text("59.118")
    await desk.get_by_role("button", name=re.compile("Trace order")).click()
    await expect(page.get_by_role("dialog")).to_contain_text("engine.match")
    await page.keyboard.press("Escape")

    await desk.get_by_role("button", name=re.compile("Cancel order")).click()
    await expect(desk).to_contain_text("No open orders.")
    await expect(balance(page, "USDC")).to_have_text("1,000")


async def test_a_market_order_fills_and_is_in_the_history(page: Page, exchange: Exchange) -> None:
    await enter(page, exchange, "5000")
    await page.get_by_role("button", name="SOL/USDC").click()
    book = page.get_by_role("region", name="Order book")
    await expect(book.get_by_role("listitem").nth(5)).to_be_visible()
    form = order_form(page)
    await form.get_by_role("button", name="Market", exact=True).click()
    await form.get_by_label(re.compile("^Quantity")).fill("0.5")
    await form.get_by_role("button", name="Buy SOL").click()
    await expect(form.get_by_role("status")).to_contain_text("is filled")
    await expect(balance(page, "SOL")).to_have_text("0.5")
    await page.get_by_role("link", name="History").click()
    row = page.get_by_role("row", name=re.compile("SOL.USDC"))
    await expect(row).to_contain_text("filled")
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Download CSV").click()
    lines = (await (await download.value).path()).read_text().splitlines()
    assert len(lines) == 2, "a header and the order"
    assert "SOL_USDC" in lines[1]


async def test_every_kind_of_order_that_waits_can_be_placed(page: Page, exchange: Exchange) -> None:
    await enter(page, exchange, "5000")
    await has_traded(page, exchange)
    form = order_form(page)
    kinds = {
        "ORDER_TYPE_STOP_LIMIT": {"Trigger price": "69000", "Price": "69000"},
        "ORDER_TYPE_TAKE_PROFIT_MARKET": {"Trigger price": "60000"},
        "ORDER_TYPE_TRAILING_STOP": {"Trailing distance": "5"},
        "OCO": {"Stop trigger price": "69000", "Price": "60000"},
    }
    await expect(balance(page, "USDC")).to_have_text("5,000")
    for kind, fields in kinds.items():
        await form.get_by_label("Conditional order").select_option(kind)
        for label, value in fields.items():
            await form.get_by_label(re.compile(f"^{label}")).fill(value)
        await form.get_by_label(re.compile("^Quantity")).fill("0.001")
        await form.get_by_role("button", name="Buy BTC").click()
        # An order that went out leaves nothing to send again.
        await expect(form.get_by_label(re.compile("^Quantity"))).to_have_value("")
        await expect(form.get_by_role("status")).to_be_visible()
        await expect(form.get_by_role("alert")).to_have_count(0)
    # The pair is two orders.
    rows = account(page).get_by_role("button", name=re.compile("Cancel order"))
    await expect(rows).to_have_count(len(kinds) + 1)
    await account(page).get_by_role("button", name="Cancel all").click()
    await expect(account(page)).to_contain_text("No open orders.")
    await expect(balance(page, "USDC")).to_have_text("5,000")


async def test_a_refusal_is_shown_with_its_reason(page: Page, exchange: Exchange) -> None:
    await enter(page, exchange)
    form = order_form(page)
    await form.get_by_label(re.compile("^Price")).fill("60000.00")
    await form.get_by_label(re.compile("^Quantity")).fill("10")
    why = "More than you have available, fees included."
    await expect(form.get_by_label("Preview")).to_contain_text(f"Would be refused: {why}")
    await form.get_by_role("button", name="Buy BTC").click()
    await expect(form.get_by_role("alert")).to_contain_text(f"{why} INSUFFICIENT_BALANCE")


async def test_a_session_survives_a_reload_and_ends_with_sign_out(
    page: Page, exchange: Exchange
) -> None:
    email = await enter(page, exchange)
    await page.reload()
    await expect(page.get_by_role("banner")).to_contain_text(email)
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("region", name="Sign in")).to_be_visible()
    await page.reload()
    await expect(page.get_by_role("region", name="Sign in")).to_be_visible()


async def test_a_sign_in_that_wants_a_mailed_code_asks_for_it(
    page: Page, exchange: Exchange
) -> None:
    email = await enter(page, exchange)
    await page.get_by_role("button", name="Sign out").click()
    sent: list[str | None] = []

    async def asks(route: Route) -> None:
        sent.append(json.loads(route.request.post_data or "").get("emailCode"))
        if sent[-1] == "042917":
            await route.continue_()
            return
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo"}
        details = [info | {"reason": "EMAIL_CODE_REQUIRED", "domain": "tidebook"}]
        body = {"code": 16, "message": "a code was sent to the address", "details": details}
        await route.fulfill(status=401, json=body)

    await page.route("**/v1/auth/signin", asks)
    await sign_in(page, email)
    code = page.get_by_label("Code from the mail")
    await expect(code).to_be_focused()
    await expect(page.get_by_role("status").filter(has_text="on its way")).to_be_visible()
    await page.get_by_role("button", name="Send another code").click()
    await expect(page.get_by_text("Another code is on its way.")).to_be_visible()
    await code.fill("042 917")
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await expect(page.get_by_role("banner")).to_contain_text(email)
    assert sent == [None, None, "042917"]


async def test_an_account_is_secured_with_keys_and_a_second_factor(
    page: Page, exchange: Exchange
) -> None:
    await enter(page, exchange)
    await page.get_by_role("link", name="Security").click()
    keys = page.get_by_role("region", name="API keys", exact=True).first
    await keys.get_by_label("Name").fill("my bot")
    await keys.get_by_role("checkbox", name="trade").check()
    await keys.get_by_role("button", name="Create key").click()
    await expect(keys.get_by_role("status")).to_contain_text("secret")
    await keys.get_by_role("button", name="Revoke my bot").click()
    await expect(keys).to_contain_text("No API keys.")
    events = page.get_by_role("region", name="Security events", exact=True).first
    await expect(events).to_contain_text("API key revoked")
    factor = page.get_by_role("region", name="Second factor")
    await factor.get_by_label("Your password").fill("a long enough pass phrase")
    await factor.get_by_role("button", name="Set up").click()
    await expect(factor.get_by_role("img", name=re.compile("QR code"))).to_be_visible()
    await expect(page.get_by_role("region", name="Sessions", exact=True)).to_contain_text(
        "this one"
    )


async def test_a_contract_is_opened_with_a_stop_and_closed(page: Page, exchange: Exchange) -> None:
    await enter(page, exchange, "1000")
    await page.get_by_role("group", name="Kind of market").get_by_role("button", name="CFD").click()
    form = page.get_by_role("region", name="Open a CFD")
    await form.get_by_label("Margin").fill("100")
    await form.get_by_label("Leverage").select_option("5")
    await form.get_by_label(re.compile("^Stop loss")).fill("55000")
    await expect(form.get_by_label("Preview")).to_contain_text("Liquidation price")
    await form.get_by_role("button", name="Open long").click()
    await expect(form.get_by_role("status")).to_contain_text("is open at")
    await expect(balance(page, "USDC", 2)).to_have_text("100")
    await choose_tab(page, "CFDs")
    row = account(page).get_by_role("row", name=re.compile("BTC.USDC CFD"))
    await expect(row).to_contain_text("55,000.00")
    await row.get_by_role("button", name=re.compile("Stop loss and take profit")).click()
    await page.get_by_role("dialog").get_by_label(re.compile("^Take profit")).fill("90000")
    await page.get_by_role("dialog").get_by_role("button", name="Save").click()
    await expect(row).to_contain_text("90,000.00")
    await row.get_by_role("button", name=re.compile("^Close CFD")).click()
    await expect(account(page)).to_contain_text("No open CFDs.")
    await expect(balance(page, "USDC", 2)).to_have_text("0")


async def test_a_visitor_sees_book_depth_and_trades_of_the_bots_move(page: Page) -> None:
    await page.goto("/")
    book = page.get_by_role("region", name="Order book")
    await expect(book.get_by_role("listitem").nth(5)).to_be_visible()
    seq = await book.locator("h2 small").text_content()
    await expect(book.locator("h2 small")).not_to_have_text(seq or "")
    trades = page.get_by_role("region", name="Trades").get_by_role("listitem")
    await expect(trades.first).to_be_visible(timeout=CHANCE_MS)
    await book.get_by_label("Group prices by").select_option("10")
    prices = await book.get_by_role("list", name="Bids").get_by_role("button").all_inner_texts()
    assert prices
    for text in prices:
        assert re.match(r"\D*[\d,]+\.\d\b", text), f"{text!r} is no multiple of 10"
    await book.get_by_role("button", name="Depth").click()
    await expect(book.get_by_role("img", name="Depth of the book")).to_be_visible()
    chart = page.get_by_role("region", name="Chart")
    await chart.get_by_role("button", name="Index").click()
    await expect(chart).to_contain_text(re.compile(r"O [\d,]+\.\d\d H"))
