"""Whatever a script says, the console answers, and what it refuses changes nothing."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.engine.console.__main__ import run

HASH = b'{"command":"stateHash"}'
COMMANDS = json.loads(next(run([b'{"command":"help"}'])))["commands"]

names = st.sampled_from(["alice", "bob", "carol"])
words = st.text(max_size=8)
numbers = st.sampled_from(
    ["0", "1", "0.1", "1.5", "49999.99", "50000", "1e5", "-1", "0.000000001", "9" * 20, "9" * 30]
)
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | numbers,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
values: dict[str, st.SearchStrategy[Any]] = {
    "account": names,
    "order": st.sampled_from(["a", "b", "c"]),
    "orderId": st.integers(0, 5) | st.integers() | numbers,
    "clientOrderId": st.sampled_from(["c1", "c2", ""]),
    "market": st.sampled_from(["BTC_USDC", "DOGE_USDC", "X"]),
    "asset": st.sampled_from(["BTC", "USDC", "X"]),
    "amount": numbers,
    "side": st.sampled_from(["SIDE_BUY", "SIDE_SELL", 1, 9]),
    "type": st.sampled_from(["ORDER_TYPE_LIMIT", "ORDER_TYPE_MARKET", 3, 4, 5, 6, 7, 8]),
    "timeInForce": st.integers(-1, 5),
    "price": numbers,
    "quantity": numbers,
    "quoteAmount": numbers,
    "postOnly": st.booleans(),
    "displayQuantity": numbers,
    "triggerPrice": numbers,
    "selfTradePrevention": st.integers(-1, 5),
    "maxSlippageBps": st.integers(-1, 20_000),
    "expireTime": st.sampled_from(["2026-01-01T00:01:00Z", "0001-01-01T00:00:00Z", "x"]),
    "transferId": st.integers(-1, 5) | st.sampled_from([2**63 - 1, 2**63, "7", ""]),
    "status": st.integers(-1, 6),
    "by": st.sampled_from(["1s", "60s", "-1s", "99999999999s", "x"]),
    "to": st.sampled_from(["2026-01-01T00:02:00Z", "9999-12-31T23:59:59Z"]),
    "name": st.sampled_from(["s", "t"]),
    "data": words,
    "code": st.sampled_from(["BTC", "NEW"]),
    "decimals": st.integers(-1, 40) | st.just(2**32 - 1),
    "kind": st.integers(-1, 4),
    "baseAsset": st.sampled_from(["BTC", "NEW"]),
    "quoteAsset": st.sampled_from(["USDC", "NEW"]),
    "tickSize": numbers,
    "lotSize": numbers,
    "makerFeeBps": st.integers(-20_000, 20_000),
    "maxOpenOrders": st.integers(-1, 5),
    "maxPrice": numbers,
    "accountId": st.integers(-1, 5) | st.just(2**64),
}


def fields(*wanted: str) -> st.SearchStrategy[dict[str, Any]]:
    """A few of the fields of a command, any of which may be missing."""
    return st.fixed_dictionaries({}, optional={name: values[name] for name in wanted})


orders = fields(*[name for name in values if name not in ("data", "code", "decimals")])
shaped = {
    "place": fields(
        *("order", "clientOrderId", "market", "side", "type", "timeInForce", "price"),
        *("quantity", "postOnly", "selfTradePrevention", "expireTime"),
    ),
    "amend": fields("order", "orderId", "clientOrderId", "price", "quantity"),
    "cancel": fields("order", "orderId", "clientOrderId"),
    "cancelAll": fields("market", "side"),
}
items = st.sampled_from(sorted(shaped)).flatmap(
    lambda kind: st.fixed_dictionaries({kind: shaped[kind]})
)
configure: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "assets": st.lists(fields("code", "decimals"), max_size=2),
        "markets": st.lists(
            fields(
                *("market", "kind", "baseAsset", "quoteAsset", "tickSize", "lotSize"),
                *("makerFeeBps", "maxOpenOrders", "maxPrice"),
            ),
            max_size=2,
        ),
        "accounts": st.lists(fields("account", "accountId"), max_size=2),
    },
)


def command(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """A command of a kind that has a chance, or one with fields of every sort."""
    body: st.SearchStrategy[dict[str, Any]]
    if kind == "configure":
        body = configure
    elif kind == "batch":
        body = st.fixed_dictionaries(
            {"account": names, "commands": st.lists(items | anything, max_size=3)}
        )
    elif kind in shaped:
        body = st.tuples(names, shaped[kind]).map(lambda pair: {"account": pair[0], **pair[1]})
    elif kind in ("deposit", "withdraw"):
        body = fields("account", "asset", "amount", "transferId")
    elif kind in ("snapshot", "restore"):
        body = fields("name", "data")
    elif kind in ("tick", "advance"):
        body = fields("by", "to")
    else:
        body = fields("account", "market", "status", "order")
    return (body | orders).map(lambda data: {"command": kind, **data})


commands = st.sampled_from(COMMANDS).flatmap(command)
lines = commands.map(lambda data: json.dumps(data).encode())
junk = st.binary(max_size=40) | anything.map(lambda data: json.dumps(data).encode())
odd = st.dictionaries(st.sampled_from(["command", *values]) | words, anything).map(
    lambda data: json.dumps({"command": "place", **data}).encode()
)
RICH = [
    json.dumps(
        {"command": "deposit", "account": account, "asset": asset, "amount": "1000000"}
    ).encode()
    for account in ("alice", "bob")
    for asset in ("BTC", "USDC", "DOGE")
]


@settings(max_examples=150, deadline=None)
@given(st.lists(lines | junk | odd, max_size=25))
def test_every_line_is_answered_and_a_refusal_changes_nothing(script: list[bytes]) -> None:
    script = [line for line in script if line.strip() and not line.strip().startswith(b"#")]
    spread = [*RICH, HASH, *[line for wanted in script for line in (wanted, HASH)]]
    said = [json.loads(answer) for answer in run(spread)][len(RICH) :]
    assert len(said) == 1 + 2 * len(script)
    for line, before, answer, after in zip(script, said[::2], said[1::2], said[2::2], strict=False):
        assert answer["ok"] or answer["reason"] != "INTERNAL", line
        assert answer["ok"] or before == after, (line, answer)
        assert not any(
            result.get("reason") == "INTERNAL" for result in answer.get("results", ())
        ), line
