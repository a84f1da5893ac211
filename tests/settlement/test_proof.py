"""The stand-alone checker of the public chain finds what was changed."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from examples import check_proof
from mesh.log import GENESIS_HASH, LogRecord
from services.settlement.store.archive import archive_rows
from tests.settlement.support import LogMaker, buy

SEQ, SHA, HASH, LINK = 1, 4, 5, 6


class Exchange:
    """`GET /v1/proof` over rows as the archive has them."""

    def __init__(self) -> None:
        maker = LogMaker()
        self.records = [maker.begin(11)]
        self.records += [maker.entry(buy(11, str(50_000 - n), "0.1")) for n in range(30)]
        self.rows = self.archived(self.records)
        self.url = ""

    @staticmethod
    def archived(records: list[LogRecord]) -> list[list[Any]]:
        rows, _ = archive_rows(0, records, GENESIS_HASH)
        return [list(row) for row in rows]

    def page(self, first: int, count: int) -> dict[str, Any] | None:
        """The answer in the JSON form of the API."""
        found = [row for row in self.rows if first <= row[SEQ] < first + count]
        if not found:
            return None
        before = next((row[LINK] for row in self.rows if row[SEQ] == first - 1), GENESIS_HASH)
        return {
            "previousLink": _text(before),
            "newestSeq": str(self.rows[-1][SEQ]),
            "links": [
                {
                    "seq": str(row[SEQ]),
                    "payloadSha256": _text(row[SHA]),
                    "hash": _text(row[HASH]),
                    "link": _text(row[LINK]),
                }
                for row in found
            ],
        }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exchange]:
    """Served on a real socket, ten links a page."""
    monkeypatch.setattr(check_proof, "PAGE", 10)
    served = Exchange()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            assert query["shard"] == ["0"]
            page = served.page(int(query["fromSeq"][0]), int(query["count"][0]))
            body = json.dumps(page or {"code": 5}).encode()
            self.send_response(200 if page else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


def _run(exchange: Exchange, state: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["check_proof", exchange.url, "--state", str(state)])
    return check_proof.main()


def test_an_honest_chain_fits_and_is_gone_on_from(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, rows = tmp_path / "links.json", exchange.rows
    exchange.rows = rows[:17]
    assert _run(exchange, state, monkeypatch) == 0
    assert json.loads(state.read_text()) == {
        "seq": 17,
        "link": rows[16][LINK].hex(),
        "shard": 0,
    }
    exchange.rows = rows
    assert _run(exchange, state, monkeypatch) == 0
    assert json.loads(state.read_text())["seq"] == 31


def test_a_changed_link_is_found(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange.rows[12][SHA] = bytes(32)
    assert _run(exchange, tmp_path / "links.json", monkeypatch) == 1


def test_a_missing_entry_is_found(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del exchange.rows[12]
    assert _run(exchange, tmp_path / "links.json", monkeypatch) == 1


def test_a_past_that_was_made_again_from_the_start_is_found_by_who_kept_a_link(
    exchange: Exchange,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = tmp_path / "links.json"
    assert _run(exchange, state, monkeypatch) == 0
    # A whole new chain that fits in itself, with one order left out.
    maker = LogMaker()
    records = [maker.begin(11)]
    records += [maker.entry(buy(11, str(49_000 - n), "0.1")) for n in range(40)]
    exchange.rows = exchange.archived(records)
    assert _run(exchange, state, monkeypatch) == 1
    assert "was rewritten" in capsys.readouterr().out
