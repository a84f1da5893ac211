"""How the page behaves: keyboard, wrong input, a lost connection, and that all can use it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from playwright.async_api import Page, WebSocketRoute, expect

from tests.support.exchange import Exchange
from tests.support.page import (
    PAGE_TESTS,
    accessibility_problems,
    account,
    balance,
    choose_kind,
    choose_tab,
    enter,
    happened,
    has_traded,
    market_order,
    order_form,
)
from tests.support.waiting import eventually

pytestmark = [*PAGE_TESTS]


async def test_the_keyboard_is_enough(page: Page, exchange: Exchange) -> None:
    await enter(page, exchange, "1000")
    await page.get_by_role("button", name="Keyboard").focus()
    await page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard")
    await expect(dialog).to_contain_text("search the markets")
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(page.get_by_role("button", name="Keyboard")).to_be_focused()

    form = order_form(page)
    await page.keyboard.press("s")
    await expect(form.get_by_role("button", name="Sell BTC")).to_be_visible()
    await page.keyboard.press("b")
    await page.keyboard.press("m")
    await expect(form.get_by_label(re.compile("^Price"))).to_have_count(0)
    await page.keyboard.press("l")
    await form.get_by_label(re.compile("^Price")).fill("60000")
    await page.keyboard.press("Tab")
    await expect(form.get_by_label(re.compile("^Quantity"))).to_be_focused()
    await page.keyboard.type("0,001")
    await expect(form.get_by_label(re.compile("^Quantity"))).to_have_value("0.001")
    await page.keyboard.press("Enter")
    await expect(form.get_by_role("status")).to_contain_text("is open")
    # Sent again by one key too many, there is nothing to send.
    await expect(form.get_by_label(re.compile("^Quantity"))).to_have_value("")

    amend = account(page).get_by_role("button", name=re.compile("^Amend order"))
    await amend.press("Enter")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await expect(page.get_by_role("dialog").get_by_label("New price")).to_be_focused()
    await page.get_by_role("dialog").get_by_role("button", name="Close").click()
    await expect(amend).to_be_focused()
    await page.keyboard.press("/")
    await page.keyboard.type("sol")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile("/markets/SOL_USDC$"))


async def test_what_is_wrong_is_said_where_it_was_typed(page: Page, exchange: Exchange) -> None:
    await enter(page, exchange, "1000")
    form = order_form(page)
    price = form.get_by_label(re.compile("^Price"))
    quantity = form.get_by_label(re.compile("^Quantity"))

    async def told(locator: str, text: str) -> None:
        described = form.locator(f"input[aria-describedby='{await problem_of(locator)}']")
        await expect(described).to_have_attribute("aria-invalid", "true")
        await expect(form.locator(f"[id='{await problem_of(locator)}']")).to_contain_text(text)

    async def problem_of(name: str) -> str:
        box = form.get_by_label(re.compile(f"^{name}"))
        await expect(box).to_have_attribute("aria-describedby", re.compile("problem"))
        return await box.get_attribute("aria-describedby") or ""

    buy = form.get_by_role("button", name="Buy BTC")
    for wrong, text in {
        "1e3": "Not a plain number",
        "64,123": "write 64123 or 64.123",
        "60000.001": "multiple of 0.01",
        "-5": "Not a plain number",
    }.items():
        await price.fill(wrong)
        await told("Price", text)
        await expect(buy).to_be_disabled()
    await price.fill("60,000.50")
    await expect(price).to_have_value("60000.50")
    await quantity.fill("0.000001")
    await told("Quantity", "multiple of 0.00001")
    # What only the exchange can know is said at the field too, and goes away with the next key.
    await quantity.fill("1")
    await buy.click()
    await told("Quantity", "INSUFFICIENT_BALANCE")
    await quantity.fill("0.001")
    await expect(form.get_by_role("alert")).to_have_count(0)
    # Which side is wrong is known once something was traded.
    await has_traded(page, exchange)
    await form.get_by_label("Conditional order").select_option("ORDER_TYPE_STOP_LIMIT")
    await form.get_by_label(re.compile("^Trigger price")).fill("1000")
    await buy.click()
    await told("Trigger price", "TRIGGER_ON_WRONG_SIDE")
    trade = form
    await form.get_by_label(re.compile("^Trigger price")).fill("69000")
    await price.fill("69000")
    await buy.click()
    await expect(form.get_by_role("status")).to_contain_text("is untriggered")
    await account(page).get_by_role("button", name=re.compile("^Amend order")).click()
    form = page.get_by_role("dialog")
    change = form.get_by_role("button", name="Change the order")
    for box, wrong, text in (
        ("New price", "69000.001", "multiple of 0.01"),
        ("New quantity", "0.000001", "multiple of 0.00001"),
    ):
        good = await form.get_by_label(box).input_value()
        await form.get_by_label(box).fill(wrong)
        await told(box, text)
        await expect(change).to_be_disabled()
        await form.get_by_label(box).fill(good)
    await form.get_by_label("New trigger price").fill("1000")
    await change.click()
    await told("New trigger price", "TRIGGER_ON_WRONG_SIDE")
    await form.get_by_label("New trigger price").fill("69000")
    await expect(form.get_by_role("alert")).to_have_count(0)
    await form.get_by_label("New quantity").fill("1")
    await change.click()
    await told("New quantity", "INSUFFICIENT_BALANCE")
    await page.keyboard.press("Escape")
    await account(page).get_by_role("button", name=re.compile("^Cancel order")).click()
    await expect(trade).to_contain_text("1,000 USDC")

    await choose_kind(page, "CFD")
    form = page.get_by_role("region", name="Open a CFD")
    await form.get_by_label("Margin").fill("100")
    await form.get_by_label(re.compile("^Stop loss")).fill("99999")
    await expect(form.get_by_label("Preview")).to_contain_text("Would be refused")
    await form.get_by_role("button", name="Open long").click()
    await told("Stop loss", "TRIGGER_ON_WRONG_SIDE")
    await expect(balance(page, "USDC", 2)).to_have_text("0")


@dataclass
class Wire:
    """The page's WebSocket, with somebody's hand on it."""

    away: bool = False
    lose_deltas: int = 0
    subscribed: int = 0
    lost: list[str] = field(default_factory=list)
    open: list[WebSocketRoute] = field(default_factory=list)

    async def connect(self, page_side: WebSocketRoute) -> None:
        if self.away:
            await page_side.close()
            return
        self.open.append(page_side)
        server = page_side.connect_to_server()

        def from_page(message: str | bytes) -> None:
            frame = json.loads(message)
            self.subscribed += frame.get("subscribe", {}).get("channel") == "CHANNEL_BOOK"
            server.send(message)

        def from_server(message: str | bytes) -> None:
            books = json.loads(message).get("book", {}).get("books", [])
            if self.lose_deltas and books and not books[0].get("snapshot"):
                self.lose_deltas -= 1
                self.lost.append(books[0]["seq"])
                return
            page_side.send(message)

        page_side.on_message(from_page)
        server.on_message(from_server)

    async def cut(self) -> None:
        self.away = True
        for page_side in self.open:
            await page_side.close()
        self.open.clear()


async def test_a_lost_delta_or_connection_begins_the_book_anew(
    page: Page, exchange: Exchange
) -> None:
    wire = Wire()
    await page.route_web_socket("**/ws", wire.connect)
    await page.goto("/")
    await has_traded(page, exchange)
    book = page.get_by_role("region", name="Order book")
    seq = book.locator("h2 small")
    await expect(book.get_by_role("listitem").nth(5)).to_be_visible()
    assert wire.subscribed == 1

    wire.lose_deltas = 1

    async def lost() -> None:
        assert wire.lost and wire.subscribed > 1

    await eventually(lost)
    # One gap, one fresh picture, and the deltas that follow fit it.
    await moves_on(seq.inner_text)
    assert wire.subscribed == 2

    await page.route("**/v1/marketdata/*/trades?*", lambda route: route.abort())
    await wire.cut()
    banner = page.get_by_role("alert").filter(has_text="cannot be reached")
    await expect(banner).to_be_visible()
    await expect(page.get_by_role("banner").get_by_role("status")).to_have_text("Reconnecting…")
    # What was known stays.
    trades = page.get_by_role("region", name="Trades").get_by_role("listitem")
    assert await trades.count() > 0
    await page.unroute("**/v1/marketdata/*/trades?*")
    wire.away = False
    await expect(banner).to_have_count(0)
    await expect(page.get_by_role("banner").get_by_role("status")).to_have_text("Live")
    assert wire.subscribed == 3
    await moves_on(seq.inner_text)


async def test_a_market_that_nobody_quotes_says_so(page: Page) -> None:
    async def emptied(page_side: WebSocketRoute) -> None:
        def from_server(message: str | bytes) -> None:
            frame = json.loads(message)
            for book in frame.get("book", {}).get("books", []):
                book["bids"] = book["asks"] = []
            page_side.send(json.dumps(frame))

        page_side.connect_to_server().on_message(from_server)

    await page.route_web_socket("**/ws", emptied)
    await page.goto("/")
    book = page.get_by_role("region", name="Order book")
    await expect(book).to_contain_text("Nobody quotes in this market now. A limit order can wait")


async def moves_on(text: object) -> None:
    """A text of the page changes twice."""
    assert callable(text)
    for _ in range(2):
        before = await text()

        async def changed(before: str = before) -> None:
            assert await text() not in (before, "")

        await eventually(changed)


async def test_a_liquidation_is_told_with_its_price_and_amount(
    page: Page, exchange: Exchange
) -> None:
    seqs: list[str] = []
    wires: list[WebSocketRoute] = []

    async def connect(page_side: WebSocketRoute) -> None:
        def from_server(message: str | bytes) -> None:
            if account := json.loads(message).get("account"):
                seqs.append(account.get("seq", "0"))
            page_side.send(message)

        wires.append(page_side)
        page_side.connect_to_server().on_message(from_server)

    await page.route_web_socket("**/ws", connect)
    await enter(page, exchange, "10", view="/wallet")
    await expect(page.get_by_role("region", name="Balances by asset")).to_contain_text("10")
    # What the engine's tests see it send.
    receipt = {
        "market": "BTC_USDC_MARGIN",
        "quantity": "0.002",
        "markPrice": "59000.5",
        "margin": "12",
        "returned": "0.25",
    }
    news = {
        "seq": str(int(seqs[-1]) + 1),
        "prevSeq": seqs[-1],
        "positions": [{"market": "BTC_USDC_MARGIN", "quantity": "0", "realisedPnl": "-11.75"}],
        "liquidations": [receipt],
    }
    wires[-1].send(json.dumps({"account": news}))
    told = happened(page)
    await expect(told).to_contain_text(
        "BTC/USDC Margin: your long position of 0.002 was liquidated at a mark price of 59,000.5."
        " Of its margin of 12, 0.25 came back."
    )
    await expect(told).not_to_contain_text("closed")
    await told.get_by_role("button", name="Dismiss").click()
    await expect(told).to_have_text("")


async def test_axe_finds_nothing_serious_anywhere(page: Page, exchange: Exchange) -> None:
    """Every view in dark, in light and on a phone, with rows in its tables and with its dialogs."""
    await page.goto("/")
    for theme in ("dark", "light"):
        await page.emulate_media(color_scheme=theme)
        assert await accessibility_problems(page) == [], f"a visitor, {theme}"
    await enter(page, exchange, "1000")
    form = order_form(page)
    await form.get_by_label(re.compile("^Price")).fill("60000")
    await form.get_by_label(re.compile("^Quantity")).fill("0.001")
    await form.get_by_role("button", name="Buy BTC").click()
    await expect(form.get_by_role("status")).to_contain_text("is open")
    await choose_kind(page, "CFD")
    contract = page.get_by_role("region", name="Open a CFD")
    await contract.get_by_label("Margin").fill("10")
    await contract.get_by_role("button", name="Open long").click()
    await expect(contract.get_by_role("status")).to_contain_text("is open at")
    await choose_kind(page, "Margin")
    book = page.get_by_role("region", name="Order book")
    await expect(book.get_by_role("listitem").nth(5)).to_be_visible()
    await market_order(page, "Buy / long BTC", "0.001")
    found: list[str] = []

    async def look(what: str) -> None:
        found.extend(f"{what}: {problem}" for problem in await accessibility_problems(page))

    async def everywhere(how: str) -> None:
        for view in ("Wallet", "History", "Security", "Status", "Trade"):
            await page.get_by_role("link", name=view, exact=True).click()
            await expect(page.get_by_role("main")).to_be_visible()
            if view == "Status":
                books = page.get_by_role("region", name="Reconciliation")
                await expect(books).to_contain_text("books balance")
            await look(f"{view}, {how}")
            width = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert width <= 0, f"{view}, {how}, is wider than the screen"
        for kind, tab in (("CFD", "CFDs"), ("Margin", "Positions")):
            await choose_kind(page, kind)
            await choose_tab(page, tab)
            await look(f"{kind}, {how}")
        await page.get_by_role("button", name=re.compile("^Stop loss and take profit")).click()
        await look(f"a dialog, {how}")
        await page.keyboard.press("Escape")

    await everywhere("light")
    await page.emulate_media(color_scheme="dark")
    await everywhere("dark")
    await page.set_viewport_size({"width": 390, "height": 844})
    await everywhere("on a phone")
    assert found == []
