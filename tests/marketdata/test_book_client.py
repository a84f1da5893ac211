"""The book client of the examples: on recorded feeds of other exchanges with their own checks, and
on connections that lose, repeat and reorder.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidebook.marketdata.v1 import marketdata_pb2 as pb

from examples.book import BookClient, OutOfStep
from services.marketdata.book_streams import BookStreams
from services.marketdata.domain.depth import checksum
from tests.marketdata.test_book import NAME, Flow, drain, flows, open_book, texts
from tests.support.recordings import recording, text_lines

DOCS = Path(__file__).resolve().parents[2] / "docs" / "market-data.md"


@pytest.mark.parametrize(("symbol", "checks"), [("btcusdt", 560), ("ethusdt", 550)])
def test_a_recorded_binance_book_has_the_best_prices_that_its_ticker_says(
    symbol: str, checks: int
) -> None:
    path = recording(f"depth/binance_spot_{symbol}_20240808.jsonl.gz")
    book, early, passed = BookClient(), list[dict[str, Any]](), 0
    # By the number of the diff that brings the book there, which comes later than the ticker.
    tickers: dict[int, dict[str, Any]] = {}
    for line in text_lines(path):
        frame = json.loads(line.partition(" ")[2])
        if "lastUpdateId" in frame:
            book.load(frame["lastUpdateId"], frame["bids"], frame["asks"])
            for update in early:
                take_binance(book, update)
            continue
        data = frame["data"]
        if data.get("e") == "depthUpdate":
            if book.seq is None:
                early.append(data)
            else:
                take_binance(book, data)
                ticker = tickers.pop(data["u"], None)
                if ticker is not None:
                    (bid,), (ask,) = book.levels(1)
                    assert numbers(bid) == numbers((ticker["b"], ticker["B"]))
                    assert numbers(ask) == numbers((ticker["a"], ticker["A"]))
                    passed += 1
        elif "A" in data:
            tickers[data["u"]] = data
    # As many as the recording is known to have, and those whose ticker came long before.
    assert passed >= checks


def take_binance(book: BookClient, update: dict[str, Any]) -> None:
    """A depthUpdate covers U to u. The first after a snapshot may begin before it: then what it
    repeats is the same, for its quantities are absolute.
    """
    assert book.seq is not None
    first = update["U"] <= book.seq + 1 <= update["u"]
    book.change(book.seq if first else update["U"] - 1, update["u"], update["b"], update["a"])


def numbers(level: tuple[str, str]) -> tuple[Decimal, Decimal]:
    return Decimal(level[0]), Decimal(level[1])


def test_recorded_okx_books_have_the_checksums_that_came_with_them() -> None:
    books: dict[str, BookClient] = {}
    passed = 0
    for line in text_lines(recording("depth/okx_ws_v5_20220513.jsonl.gz")):
        message = json.loads(line)["msg"]
        if message.get("arg", {}).get("channel") != "books" or "data" not in message:
            continue
        book = books.setdefault(message["arg"]["instId"], BookClient())
        for data in message["data"]:
            # Price, quantity and two figures that do not count. These frames have no number.
            bids, asks = ([(row[0], row[1]) for row in data[side]] for side in ("bids", "asks"))
            if message["action"] == "snapshot":
                book.load(0, bids, asks)
            else:
                assert book.seq is not None
                book.change(book.seq, book.seq + 1, bids, asks)
            book.check(data["checksum"])
            passed += 1
    assert (len(books), passed) == (3, 290)


# What a bad connection does with the next message.
FAULTS = st.lists(st.sampled_from(["", "", "", "drop", "twice", "swap", "again"]), max_size=40)


@settings(max_examples=150, deadline=None)
@given(flows, FAULTS, st.booleans())
def test_a_client_that_loses_repeats_or_reorders_always_notices_and_recovers(
    flow: list[list[Any]], faults: list[str], with_checksum: bool
) -> None:
    world = Flow()
    streams = BookStreams(world.projection)
    reader = open_book(world, streams, checksum=with_checksum)
    state = world.projection.markets[NAME]
    sent: list[pb.BookUpdate] = []
    # What the server's book was at each position that it told of.
    truth: dict[int, Any] = {}

    def collect() -> None:
        for update in drain(reader):
            sent.append(update)
            truth[update.seq] = tuple(texts(s.top(3)) for s in (state.book.bids, state.book.asks))

    collect()
    for batch in flow:
        if (applied := world.step(batch)) is not None:
            streams.publish(applied)
        collect()

    client, noticed = BookClient(), 0
    for update in disturbed(sent, faults):
        try:
            client.take(update)
        except OutOfStep:
            noticed += 1
            # It asks anew and gets the book as it is then.
            fresh = drain(open_book(world, streams, checksum=with_checksum))
            assert client.seq is None
            for snapshot in fresh:
                client.take(snapshot)
        if client.seq is not None:
            assert client.levels(3) == truth[client.seq]
    # Whatever was lost last shows with the next update, or the newest snapshot brings it.
    for snapshot in drain(open_book(world, streams, checksum=with_checksum)):
        client.take(snapshot)
    assert client.levels(3) == truth[sent[-1].seq]


def disturbed(sent: list[pb.BookUpdate], faults: list[str]) -> list[pb.BookUpdate]:
    """The messages as a bad connection brings them."""
    arrived: list[pb.BookUpdate] = []
    held: list[pb.BookUpdate] = []
    for number, update in enumerate(sent):
        fault = faults[number] if number < len(faults) else ""
        if fault == "swap":
            held.append(update)
            continue
        if fault != "drop":
            arrived.append(update)
        if fault == "twice":
            arrived.append(update)
        if fault == "again":
            arrived.append(sent[number // 2])
        arrived += held
        held.clear()
    return arrived + held


def test_a_delta_that_was_changed_on_its_way_fails_its_checksum() -> None:
    book = BookClient()
    book.load(1, [("99", "1")], [("101", "2")])
    good = checksum([("99", "1.5")], [("101", "2")])
    update = pb.BookUpdate(
        seq=2, prev_seq=1, bids=[pb.Level(price="99", quantity="1.6")], checksum=good
    )
    with pytest.raises(OutOfStep, match="checksum"):
        book.take(update)
    assert book.seq is None


VECTOR = re.compile(r"^\| `(\[.*\])` \| `(\[.*\])` \| `(.*)` \| `(-?\d+)` \|$", re.MULTILINE)


def test_the_published_checksum_vectors_hold_on_both_sides() -> None:
    vectors = VECTOR.findall(DOCS.read_text())
    assert len(vectors) >= 4
    for bids_json, asks_json, text, expected in vectors:
        bids, asks = ([tuple(level) for level in json.loads(x)] for x in (bids_json, asks_json))
        assert checksum(bids, asks) == int(expected)
        book = BookClient()
        book.load(1, bids, asks)
        assert book.checksum() == int(expected)
        joined = ":".join(
            part
            for number in range(25)
            for side in (bids, asks)
            if number < len(side)
            for part in side[number]
        )
        assert joined == text
