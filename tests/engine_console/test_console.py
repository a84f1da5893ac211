"""What a script sees: the documented session byte for byte, and each command's corners."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.engine.console.__main__ import run

DOCS = Path(__file__).resolve().parents[2] / "docs" / "console.md"
LIMIT = {"market": "BTC_USDC", "type": "ORDER_TYPE_LIMIT"}
MONEY = [
    {"command": "deposit", "account": "alice", "asset": "BTC", "amount": "10"},
    {"command": "deposit", "account": "bob", "asset": "USDC", "amount": "100000"},
]
SELL = {"command": "place", "account": "alice", **LIMIT, "side": "SIDE_SELL"}
BUY = {"command": "place", "account": "bob", **LIMIT, "side": "SIDE_BUY"}


def answers(*commands: dict[str, Any] | str) -> list[dict[str, Any]]:
    """The answers to a script."""
    lines = [c if isinstance(c, str) else json.dumps(c) for c in commands]
    return [json.loads(answer) for answer in run(line.encode() for line in lines)]


def last(*commands: dict[str, Any] | str) -> dict[str, Any]:
    """The last answer to a script that begins with money."""
    return answers(*MONEY, *commands)[-1]


def kinds(answer: dict[str, Any]) -> list[str]:
    assert answer["ok"], answer
    return [event["event"] for event in answer["events"]]


def test_the_session_in_the_documentation_is_what_the_program_says() -> None:
    blocks = re.findall(r"```console\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    shown = "".join(blocks).splitlines()
    script = "".join(line[2:] + "\n" for line in shown if line.startswith("> "))
    console = subprocess.run(
        (sys.executable, "-m", "services.engine.console"),
        input=script.encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert console.returncode == 0
    assert console.stderr == b""
    # A new version of the snapshot has other hashes, and that is no change of this format.
    said = re.sub(r'"stateHash":"[0-9a-f]{64}"', '"stateHash":"..."', console.stdout.decode())
    assert said.splitlines() == [x for x in shown if not x.startswith("> ")]


def test_the_documentation_has_every_command_in_its_table() -> None:
    table = DOCS.read_text(encoding="utf-8").split("## Commands")[1].split("###")[0]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE)))
    assert named == answers({"command": "help"})[0]["commands"]


def test_blank_lines_and_comments_have_no_answer_but_are_counted() -> None:
    assert [a["line"] for a in answers("", "# a comment", "   ", "{", "[]", '"x"')] == [4, 5, 6]


@pytest.mark.parametrize(
    "line",
    [b"\xff\xfe", b"{", b"[]", b"1", b"[" * 100_000, b"1" * 10_000, b'{"command":NaN}', b"{}"],
)
def test_a_line_that_is_not_a_command_is_refused_and_the_script_goes_on(line: bytes) -> None:
    first, second = run([line, b'{"command":"help"}'])
    refused = json.loads(first)
    assert (refused["ok"], refused["reason"], refused["line"]) == (False, "INVALID_ARGUMENT", 1)
    assert json.loads(second)["ok"]


def test_both_spellings_of_names_are_understood() -> None:
    order = {**SELL, "price": "50000", "quantity": "1", "client_order_id": "c1"}
    assert kinds(last(order)) == ["orderPlaced"]
    assert len(answers({"command": "state_hash"})[0]["stateHash"]) == 64


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"price": "50000.001"}, "PRICE_NOT_ON_TICK", "price"),
        ({"price": 50000}, "INVALID_ARGUMENT", None),
        ({"price": "5e4"}, "INVALID_ARGUMENT", "price"),
        ({"quantity": "11"}, "INSUFFICIENT_BALANCE", "quantity"),
        ({"market": "XXX"}, "MARKET_NOT_FOUND", "market"),
        ({"side": "BUY"}, "INVALID_ARGUMENT", None),
        ({"colour": "red"}, "INVALID_ARGUMENT", None),
        ({"account": ""}, "INVALID_ARGUMENT", "account"),
        ({"account": "nobody"}, "INSUFFICIENT_BALANCE", "account"),
        ({"clientOrderId": "a b"}, "INVALID_ARGUMENT", "clientOrderId"),
        ({"expireTime": "yesterday"}, "INVALID_ARGUMENT", None),
    ],
)
def test_a_bad_order_is_refused_as_the_rpc_refuses_it(
    change: dict[str, Any], reason: str, field: str | None
) -> None:
    answer = last({**SELL, "price": "50000", "quantity": "1", **change})
    assert (answer["ok"], answer["reason"], answer.get("field")) == (False, reason, field)


def test_a_name_means_the_newest_order_it_was_given_to() -> None:
    order = {**SELL, "quantity": "1", "order": "a"}
    closed = last(
        {**order, "price": "50000"},
        {**order, "price": "51000"},
        {"command": "cancel", "account": "alice", "order": "a"},
    )
    assert closed["events"][0]["price"] == "51000"


def test_a_name_nobody_gave_is_a_client_order_id() -> None:
    order = {**SELL, "price": "50000", "quantity": "1", "clientOrderId": "c1"}
    assert kinds(last(order, {"command": "cancel", "account": "alice", "order": "c1"}))
    refused = last({"command": "cancel", "account": "alice", "order": "c1"})
    assert refused["reason"] == "ORDER_NOT_FOUND"


def test_nobody_reaches_the_orders_of_another() -> None:
    order = {**SELL, "price": "50000", "quantity": "1", "order": "a"}
    for command in ("cancel", "amend", "order"):
        refused = last(order, {"command": command, "account": "bob", "order": "a"})
        assert refused["reason"] == "ORDER_NOT_FOUND"


def test_a_repeated_client_order_id_answers_with_the_first_order() -> None:
    order = {**SELL, "price": "50000", "quantity": "1", "clientOrderId": "c1", "order": "a"}
    assert last(order, {**order, "order": "again"})["events"] == [
        {"event": "commandRepeated", "orderId": "1", "order": "again"}
    ]


def test_a_transfer_id_moves_money_once() -> None:
    again = {**MONEY[0], "transferId": "1"}
    assert kinds(last(again)) == ["commandRepeated"]
    account = last(again, {"command": "account", "account": "alice"})
    assert account["balances"] == [{"asset": "BTC", "free": "10", "held": "0"}]


def test_money_that_is_not_there_cannot_be_withdrawn() -> None:
    taken = {**MONEY[0], "command": "withdraw"}
    assert last(taken)["events"][0]["amount"] == "-10"
    refused = last(taken, taken)
    assert (refused["reason"], refused["field"]) == ("INSUFFICIENT_BALANCE", "amount")


def test_time_moves_by_command_only_and_never_back() -> None:
    assert answers({"command": "advance", "by": "1.5s"})[0]["time"] == "2026-01-01T00:00:01.500Z"
    for back in ({"to": "2025-01-01T00:00:00Z"}, {"by": "-1s"}, {"by": "315576000000s"}, {}):
        refused = answers({"command": "advance", **back})[0]
        assert refused["reason"] == "INVALID_ARGUMENT", back


def test_a_command_after_its_deadline_is_refused() -> None:
    order = {**SELL, "price": "50000", "quantity": "1", "deadline": "2026-01-01T00:00:01Z"}
    assert last({"command": "advance", "by": "2s"}, order)["reason"] == "DEADLINE_PASSED"


def test_a_preview_changes_nothing() -> None:
    order = {**BUY, "price": "50000", "quantity": "1"}
    asked = {**order, "command": "preview"}
    before, shown, after = answers(
        *MONEY, {"command": "stateHash"}, asked, {"command": "stateHash"}
    )[-3:]
    assert shown["preview"]["restedQuantity"] == "1"
    assert shown["preview"]["hold"] == "50100"
    assert before == after


def test_a_market_can_be_added_changed_and_traded() -> None:
    added = {
        "market": "TIDE_USDC",
        "kind": "MARKET_KIND_SPOT",
        "baseAsset": "TIDE",
        "quoteAsset": "USDC",
        "tickSize": "0.5",
        "lotSize": "1",
        "makerFeeBps": 0,
    }
    configure = {"command": "configure", "assets": [{"code": "TIDE"}], "markets": [added]}
    cheaper = {"command": "configure", "markets": [{"market": "TIDE_USDC", "maxQuantity": "5"}]}
    order = {**BUY, "market": "TIDE_USDC", "price": "1.5", "quantity": "6"}
    assert kinds(last(configure, order)) == ["orderPlaced"]
    refused = last(configure, cheaper, order)
    assert refused["reason"] == "QUANTITY_TOO_LARGE"
    assert refused["details"] == {"max_quantity": "5"}
    changed = {"command": "configure", "markets": [{"market": "BTC_USDC", "tickSize": "1"}]}
    assert last(changed)["reason"] == "UNSUPPORTED"
    inexact = {**configure, "markets": [{**added, "tickSize": "0.00000001", "lotSize": "0.1"}]}
    assert last(inexact)["field"] == "tickSize"


def test_accounts_can_have_fixed_ids_all_or_none() -> None:
    def give(**ids: str) -> dict[str, Any]:
        accounts = [{"account": name, "accountId": number} for name, number in ids.items()]
        return {"command": "configure", "accounts": accounts}

    carol = {"command": "account", "account": "carol"}
    assert last(give(carol="7"), carol)["accountId"] == "7"
    assert last(give(alice="7"))["reason"] == "ALREADY_EXISTS"
    assert last(give(carol="7", alice="9"), carol)["accountId"] == "0"


def test_a_snapshot_brings_everything_back_in_another_session() -> None:
    script = [
        *MONEY,
        {**SELL, "price": "50000", "quantity": "1", "order": "a"},
        {"command": "advance", "by": "60s"},
        {"command": "snapshot"},
        {"command": "stateHash"},
        {"command": "orders", "account": "alice"},
    ]
    taken, state, orders = answers(*script)[-3:]
    restored, again, now, cancelled = answers(
        {"command": "restore", "data": taken["data"]},
        {"command": "orders", "account": "alice"},
        {"command": "advance", "by": "0s"},
        {"command": "cancel", "account": "alice", "order": "a"},
    )
    assert restored == state
    assert again == orders
    assert now["time"] == "2026-01-01T00:01:00Z"
    assert kinds(cancelled) == ["orderClosed"]


@pytest.mark.parametrize("data", ["x", "e30=", "eyJ2ZXJzaW9uIjoxfQ=="])
def test_what_is_not_a_snapshot_is_refused(data: str) -> None:
    refused = answers({"command": "restore", "data": data})[0]
    assert (refused["reason"], refused["field"]) == ("INVALID_ARGUMENT", "data")


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"help": {}},
        {"place": 1},
        {"cancel": {}, "amend": {}},
        {"place": {"command": "tick", "by": "1s"}},
        {"cancelAll": {"account": "alice"}},
    ],
)
def test_an_item_of_a_batch_is_an_order_operation_of_its_account(item: dict[str, Any]) -> None:
    order = {**BUY, "price": "50000", "quantity": "1"}
    del order["command"], order["account"]
    batch = {"command": "batch", "account": "bob", "commands": [item, {"place": order}]}
    refused, placed = last(batch)["results"]
    assert refused["reason"] == "INVALID_ARGUMENT"
    assert kinds(placed) == ["orderPlaced"]


def test_a_cfd_opens_moves_its_stop_and_is_fired_by_a_price() -> None:
    price = {"command": "setPrice", "market": "SOL_USDC_CFD", "price": "150"}
    cfd = {"command": "openCfd", "account": "bob", "market": "SOL_USDC_CFD", "side": "SIDE_BUY"}
    move = {"command": "updateCfdTriggers", "account": "bob", "cfdId": "1", "stopLoss": "149"}
    opened, moved, shown, fired = answers(
        *MONEY,
        price,
        cfd | {"margin": "100", "leverage": 10},
        move,
        {"command": "cfds", "account": "bob"},
        price | {"price": "148.5"},
    )[3:]
    assert kinds(opened) == ["cfdOpened"] and opened["events"][0]["entry"] == "150"
    assert moved["events"][0]["stopLoss"] == "149"
    assert shown["cfds"][0]["liquidationPrice"] == "135.54216867"
    assert kinds(fired) == ["pricesSet", "cfdClosed"]
    assert fired["events"][1]["returned"] == "90"
    assert fired["events"][1]["reason"] == "CFD_CLOSE_REASON_STOP_LOSS"


def test_a_margin_position_goes_round_and_leaves_nothing() -> None:
    def order(account: str, side: str, price: str) -> dict[str, Any]:
        return {
            "command": "place",
            "account": account,
            "market": "BTC_USDC_MARGIN",
            "side": f"SIDE_{side}",
            "type": "ORDER_TYPE_LIMIT",
            "price": price,
            "quantity": "1",
        }

    money: list[dict[str, Any]] = [
        {"command": "deposit", "account": name, "asset": "USDC", "amount": "100000"}
        for name in ("alice", "bob")
    ]
    leverage: list[dict[str, Any]] = [
        {"command": "setLeverage", "account": name, "market": "BTC_USDC_MARGIN", "leverage": 10}
        for name in ("alice", "bob")
    ]
    opened = [*money, *leverage, order("bob", "SELL", "50000"), order("alice", "BUY", "50000")]
    asked = {"command": "positions", "account": "alice"}
    [position] = last(*opened, asked)["positions"]
    assert (position["quantity"], position["margin"], position["leverage"]) == ("1", "5000", 10)
    more = {
        "command": "addMargin",
        "account": "alice",
        "market": "BTC_USDC_MARGIN",
        "amount": "500",
    }
    assert last(*opened, more, asked)["positions"][0]["margin"] == "5500"
    close = {"command": "closePosition", "account": "alice", "market": "BTC_USDC_MARGIN"}
    closed = last(*opened, more, order("bob", "BUY", "51000"), close, asked)
    assert closed["positions"] == []
