"""A new user's whole way through the page: money, spot, margin, a contract, a restart."""

from __future__ import annotations

import re

from playwright.async_api import Page, expect

from tests.support.exchange import Exchange
from tests.support.killing import kill
from tests.support.page import (
    PAGE_TESTS,
    account,
    balance,
    choose_kind,
    choose_tab,
    get_play_money,
    market_order,
    order_form,
    sign_up,
)

pytestmark = [*PAGE_TESTS]


async def test_spot_margin_and_a_contract_through_a_restart(page: Page, exchange: Exchange) -> None:
    await sign_up(page, exchange)
    await get_play_money(page, "5000")
    await expect(balance(page, "USDC")).to_have_text("5,000")
    book = page.get_by_role("region", name="Order book")
    await expect(book.get_by_role("listitem").nth(5)).to_be_visible()
    await market_order(page, "Buy BTC", "0.001")
    await expect(balance(page, "BTC")).to_have_text("0.001")

    await margin_round_trip(page)
    await contract_opened(page)

    # The page finds the new gateway by itself, with the account and the prices.
    await kill(exchange, "gateway")
    badge = page.get_by_role("banner").get_by_role("status")
    await expect(badge).to_have_text("Live")
    before = await page.get_by_role("region", name="Market", exact=True).text_content()
    await expect(page.get_by_role("region", name="Market", exact=True)).not_to_have_text(
        before or ""
    )
    await account(page).get_by_role("button", name=re.compile("^Close CFD")).click()
    await expect(account(page)).to_contain_text("No open CFDs.")
    await expect(balance(page, "USDC", 2)).to_have_text("0")
    await choose_kind(page, "Spot")
    book = page.get_by_role("region", name="Order book")
    await expect(book.get_by_role("listitem").nth(5)).to_be_visible()
    seq = await book.locator("h2 small").text_content()
    await expect(book.locator("h2 small")).not_to_have_text(seq or "")
    sides = order_form(page).get_by_role("group", name="Side", exact=True)
    await sides.get_by_role("button", name="Sell").click()
    await market_order(page, "Sell BTC", "0.001")
    await expect(balance(page, "BTC")).to_have_text("0")


async def margin_round_trip(page: Page) -> None:
    await choose_kind(page, "Margin")
    form = order_form(page)
    book = page.get_by_role("region", name="Order book")
    await expect(book.get_by_role("listitem").nth(5)).to_be_visible()
    await form.get_by_label("Leverage").select_option("5")
    await form.get_by_role("button", name="Market", exact=True).click()
    await form.get_by_label(re.compile("^Quantity")).fill("0.001")
    await expect(form.get_by_label("Preview")).to_contain_text("Liquidation price")
    await market_order(page, "Buy / long BTC", "0.001")
    await choose_tab(page, "Positions")
    row = account(page).get_by_role("row", name=re.compile("BTC.USDC Margin"))
    await expect(row).to_contain_text("Long")
    await expect(row).to_contain_text("5x")
    await expect(balance(page, "USDC", 2)).not_to_have_text("0")
    await row.get_by_role("button", name="Close position BTC_USDC_MARGIN").click()
    await expect(account(page)).to_contain_text("No open positions.")
    await expect(balance(page, "USDC", 2)).to_have_text("0")


async def contract_opened(page: Page) -> None:
    await choose_kind(page, "CFD")
    form = page.get_by_role("region", name="Open a CFD")
    await form.get_by_label("Margin").fill("100")
    await form.get_by_label(re.compile("^Stop loss")).fill("59000")
    await form.get_by_role("button", name="Open long").click()
    await expect(form.get_by_role("status")).to_contain_text("is open at")
    await choose_tab(page, "CFDs")
    row = account(page).get_by_role("row", name=re.compile("BTC.USDC CFD"))
    await expect(row).to_contain_text("59,000.00")
    await expect(balance(page, "USDC", 2)).to_have_text("100")
