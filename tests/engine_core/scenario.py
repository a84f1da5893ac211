"""Runs scenarios a trader can read: one step a line, what must come of it behind `->`.

Steps:
    alice has 1000 USD [free, 1005 held]      check a balance (everything, if nothing is held)
    alice buy 2 @ 1000 [words] [as A]         LIMIT; words: ioc fok gtd:SECONDS post_only
                                              cancel_maker cancel_both decrement id:CLIENT_ID
                                              show:LOTS (iceberg)
    alice sell 2 market [slippage:BPS] [as A] MARKET by quantity
    alice buy market for 5000 [as A]          MARKET by quote amount
    alice sell 2 stop 990 [mark] [as A]       STOP_MARKET; sell 2 @ 985 stop 990: STOP_LIMIT; with
                                              `take` for `stop` TAKE_PROFIT_*; watches LAST, or MARK
    alice sell 2 trail 100 [mark] [as A]      TRAILING_STOP, 100 basis points away
    alice pair sell 2 @ 1010 or stop 990 as A B        the first may be `take` too
    index 1000                                the external price of now
    rules price_band_bps=500                  other rules of the market
    alice cancel A | alice cancel id:X | alice cancel all [buy|sell]
    alice amend A to 3 @ 1010 trigger 990     new quantity in all, price, trigger; or some of it
    alice deposits 5 BTC | alice withdraws 5 BTC
    market halted|cancel_only|post_only|trading
    alice cancel after 60                     dead man's switch, in seconds; 0 disarms
    wait 60                                   seconds go by, due orders expire
    restart                                   snapshot, restore, go on
    book 990x2(A) 980x1 | 1010x3(B)           check all of the book: bids | asks, best first
    fees 3 USD

What must come of it, comma-separated; all trades and all orders that end unfilled must be named:
    open, waits, filled, cancelled REASON, expired REASON      the order of this step
    refused REASON, repeated A
    trades 2 @ 1000 with A
    A filled, A cancelled REASON, A is 3 left          another order
    A shows 2                                          an iceberg's next slice
    A fires, A follows to 995                          a stop
    keeps place, loses place                           an amended order
"""

from __future__ import annotations

import re
from pathlib import Path

from kernel.reasons import Reason
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from tests.engine_core.world import (
    ALICE,
    BOB,
    BTC,
    CAROL,
    MARKET,
    SECOND,
    USD,
    World,
    configure,
    place,
)

PEOPLE = {"alice": ALICE, "bob": BOB, "carol": CAROL}
ASSETS = {"USD": USD, "BTC": BTC}
STATUSES = {
    "filled": k.ORDER_STATUS_FILLED,
    "cancelled": k.ORDER_STATUS_CANCELLED,
    "expired": k.ORDER_STATUS_EXPIRED,
}
MARKET_STATUSES = {
    "trading": k.MARKET_STATUS_TRADING,
    "cancel_only": k.MARKET_STATUS_CANCEL_ONLY,
    "post_only": k.MARKET_STATUS_POST_ONLY,
    "halted": k.MARKET_STATUS_HALTED,
}
# Types without and with a limit price.
STOPS = {
    "stop": (k.ORDER_TYPE_STOP_MARKET, k.ORDER_TYPE_STOP_LIMIT),
    "take": (k.ORDER_TYPE_TAKE_PROFIT_MARKET, k.ORDER_TYPE_TAKE_PROFIT_LIMIT),
    "trail": (k.ORDER_TYPE_TRAILING_STOP, k.ORDER_TYPE_TRAILING_STOP),
}
WORDS: dict[str, dict[str, int]] = {
    "gtc": {"time_in_force": k.TIME_IN_FORCE_GTC},
    "ioc": {"time_in_force": k.TIME_IN_FORCE_IOC},
    "fok": {"time_in_force": k.TIME_IN_FORCE_FOK},
    "post_only": {"post_only": True},
    "cancel_maker": {"self_trade_prevention": k.SELF_TRADE_PREVENTION_CANCEL_MAKER},
    "cancel_both": {"self_trade_prevention": k.SELF_TRADE_PREVENTION_CANCEL_BOTH},
    "mark": {"trigger_source": k.TRIGGER_SOURCE_MARK},
    "decrement": {"self_trade_prevention": k.SELF_TRADE_PREVENTION_DECREMENT_AND_CANCEL},
}


class Scenario:
    """One scenario file and the world it plays in."""

    def __init__(self) -> None:
        self.world = World()
        self.names: dict[str, int] = {}

    def run(self, path: Path) -> None:
        """Play a file. Raises `AssertionError` naming the line that went wrong."""
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            text = line.split("#")[0].strip()
            if not text:
                continue
            step, _, expected = (part.strip() for part in text.partition("->"))
            try:
                self.step(step, [item.strip() for item in expected.split(",") if item.strip()])
            except AssertionError as error:
                raise AssertionError(f"{path.name}:{number}: {line.strip()}\n{error}") from error

    def step(self, step: str, expected: list[str]) -> None:
        words = step.split()
        if words[0] == "book":
            assert self.book() == step[4:].strip(), f"the book is {self.book()}"
        elif words[0] == "restart":
            self.world.restart()
        elif words[0] == "fees":
            fees = self.world.exchange.fees()[ASSETS[words[2]]]
            assert fees == int(words[1]), f"fees are {fees}"
        elif words[1] == "has":
            self.check_balance(words)
        else:
            command, given = self.command(words)
            events = self.world.do(command)
            if isinstance(events[0], e.CommandRefused):
                given = ""
            for name, event in zip(given.split(), events, strict=False):
                assert isinstance(event, e.OrderPlaced), f"not placed: {events}"
                self.names[name] = event.order_id
            self.compare(events, expected)

    def command(self, words: list[str]) -> tuple[c.Command, str]:
        """The command of a step, and the names its orders are given."""
        if words[0] == "market":
            return c.SetMarketStatus(0, MARKET, MARKET_STATUSES[words[1]]), ""
        if words[0] == "rules":
            rules = dict(word.split("=") for word in words[1:])
            return configure(**{name: int(value) for name, value in rules.items()}), ""
        if words[0] == "index":
            index = c.PriceUpdate(MARKET, 0, 0, int(words[1]), self.world.now_ns)
            return c.SetPrices(prices=(index,)), ""
        if words[0] == "wait":
            self.world.now_ns += int(words[1]) * SECOND
            return c.Tick(), ""
        account_id, verb, rest = PEOPLE[words[0]], words[1], words[2:]
        if verb in ("buy", "sell"):
            return self.place(account_id, verb, rest)
        if verb == "pair":
            at, named = rest.index("or"), rest.index("as")
            one, _ = self.place(account_id, rest[0], rest[1:at])
            two, _ = self.place(account_id, rest[0], [rest[1], *rest[at + 1 : named]])
            one.account_id = two.account_id = 0
            return c.PlaceOco(account_id, one, two), " ".join(rest[named + 1 :])
        if verb in ("deposits", "withdraws"):
            self.world.transfers += 1
            units = int(rest[0]) if verb == "deposits" else -int(rest[0])
            return c.Transfer(account_id, self.world.transfers, ASSETS[rest[1]], units, 1), ""
        if rest[0] == "after":
            seconds = int(rest[1])
            at_ns = seconds and self.world.now_ns + seconds * SECOND
            return c.CancelAllAfter(account_id, at_ns), ""
        if rest[0] == "all":
            side = {"buy": k.SIDE_BUY, "sell": k.SIDE_SELL}[rest[1]] if rest[1:] else 0
            return c.CancelAll(account_id, side=side), ""
        client_id = rest[0].removeprefix("id:") if rest[0].startswith("id:") else ""
        order_id = 0 if client_id else self.names[rest[0]]
        if verb == "cancel":
            return c.CancelOrder(account_id, order_id, client_id), ""
        assert verb == "amend", f"unknown verb {verb}"
        price = int(rest[rest.index("@") + 1]) if "@" in rest else 0
        lots = int(rest[rest.index("to") + 1]) if "to" in rest else 0
        trigger = int(rest[rest.index("trigger") + 1]) if "trigger" in rest else 0
        return c.AmendOrder(account_id, order_id, client_id, price, lots, trigger), ""

    def place(self, account_id: int, side: str, rest: list[str]) -> tuple[c.PlaceOrder, str]:
        rest = list(rest)
        name = ""
        if "as" in rest:
            name = rest[rest.index("as") + 1]
            rest = rest[: rest.index("as")]
        fields: dict[str, int | str] = {}
        lots = price = 0
        if rest[0] == "market":  # market for AMOUNT
            fields["quote_amount_units"] = int(rest[2])
            rest = rest[3:]
        elif rest[1] == "market":  # LOTS market
            lots, rest = int(rest[0]), rest[2:]
        elif rest[1] == "@":  # LOTS @ PRICE
            lots, price, rest = int(rest[0]), int(rest[2]), rest[3:]
        else:
            lots, rest = int(rest[0]), rest[1:]
        if rest and rest[0] in STOPS:
            fields["type"] = STOPS[rest[0]][1 if price else 0]
            fields["trailing_bps" if rest[0] == "trail" else "trigger_price_ticks"] = int(rest[1])
            rest = rest[2:]
        for word in rest:
            kind, _, value = word.partition(":")
            if kind == "gtd":
                fields["time_in_force"] = k.TIME_IN_FORCE_GTD
                fields["expire_ns"] = self.world.now_ns + int(value) * SECOND
            elif kind == "id":
                fields["client_order_id"] = value
            elif kind == "show":
                fields["display_quantity_lots"] = int(value)
            elif kind == "slippage":
                fields["max_slippage_bps"] = int(value)
            else:
                fields.update(WORDS[word])
        return place(account_id, side, lots, price, **fields), name

    def check_balance(self, words: list[str]) -> None:
        free = int(words[2])
        held = int(words[5]) if words[5:] else 0
        found = self.world.money(PEOPLE[words[0]], ASSETS[words[3].rstrip(",")])
        assert found == (free, held), f"free {found[0]}, held {found[1]}"

    def book(self) -> str:
        names = {order_id: name for name, order_id in self.names.items()}
        view = self.world.exchange.book(MARKET)
        sides = []
        for levels in (view.bids, view.asks):
            shown = []
            for level in levels:
                queue = " ".join(names[o.order_id] for o in level.orders if o.order_id in names)
                shown.append(f"{level.price_ticks}x{level.quantity_lots}({queue})")
            sides.append(" ".join(shown))
        return " | ".join(sides).strip()

    def compare(self, events: list[e.Event], expected: list[str]) -> None:
        names = {order_id: name for name, order_id in self.names.items()}
        first = events[0]
        acting = first.order_id if isinstance(first, (e.OrderPlaced, e.OrderAmended)) else 0
        happened: list[str] = []
        optional: list[str] = []
        for event in events:
            if isinstance(event, e.CommandRefused):
                happened.append(f"refused {Reason(event.reason).name}")
            elif isinstance(event, e.CommandRepeated):
                happened.append(f"repeated {names[event.order_id]}")
            elif isinstance(event, e.Trade):
                maker = names.get(event.maker_order_id, "?")
                happened.append(f"trades {event.quantity_lots} @ {event.price_ticks} with {maker}")
            elif isinstance(event, e.OrderClosed):
                status = next(word for word, value in STATUSES.items() if value == event.status)
                reason = f" {Reason(event.reason).name}" if event.reason else ""
                who = "" if event.order_id == acting else names[event.order_id] + " "
                where = optional if status == "filled" and who else happened
                where.append(f"{who}{status}{reason}")
            elif isinstance(event, e.OrderTriggered):
                happened.append(f"{names[event.order_id]} fires")
            elif isinstance(event, e.OrderAmended) and event.order_id != acting:
                name = names.get(event.order_id, "?")
                if event.trigger_price_ticks:
                    happened.append(f"{name} follows to {event.trigger_price_ticks}")
                elif event.old_rested_lots == event.rested_lots:
                    optional.append(f"{name} holds {-event.hold_delta} less")
                else:
                    happened.append(f"{name} is {event.rested_lots} left")
            elif isinstance(event, e.OrderReplenished):
                optional.append(f"{names[event.order_id]} shows {event.displayed_lots}")
        view = self.world.exchange.order(acting)
        if view is not None:
            happened.append("waits" if view.status == k.ORDER_STATUS_UNTRIGGERED else "open")
        if isinstance(first, e.OrderAmended):
            optional.append("loses place" if first.lost_priority else "keeps place")
        for item in expected:
            assert item in happened + optional, f"expected {item}; {happened + optional}"
        missing = [item for item in happened if item not in expected]
        assert not missing or not expected, f"not said: {missing}"
        traded = [item for item in expected if re.match("trades ", item)]
        assert traded == [item for item in happened if re.match("trades ", item)], (
            f"happened: {happened}"
        )
