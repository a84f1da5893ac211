"""Operations per second of the engine's core, beside published books: `python -m bench.core`.

One workload (`bench.support.workload`) runs on the whole core (checks, holds, fees, ids, events),
on our book alone (`bench.support.bare_book`), each compiled and uncompiled, on two published books,
and on the naive second book of the tests. Each has a process of its own, one after the other, in
rounds; the best round counts. Seconds are of CPU, so that a busy machine changes less. Every fill
is reported by each, and all must come to the same trades. Ratios are the last line; progress goes
to stderr.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import support
from bench.support.peers import PEERS, NotAvailable, interpreter
from bench.support.report import emit, say
from bench.support.workload import (
    CANCEL,
    LIMIT,
    MARKET_ID,
    SEED,
    START_NS,
    build_rows,
    command_of,
    open_exchange,
)
from mesh.garbage import collect_rarely
from services.engine import compiled
from services.engine.domain.constants import SIDE_BUY
from tests.engine_core.naive import NaiveBook, NaiveOrder

ROOT = Path(__file__).resolve().parent.parent
BUILDS = ROOT / ".build" / "core"
FAR = 10**12
Rows = list[tuple[int, int, int, int, int, int]]
Result = tuple[float, int, int]


def run_core(rows: Rows) -> Result:
    """The whole core: CPU seconds, trades, orders left open."""
    commands = [command_of(row) for row in rows]
    exchange = open_exchange()
    apply = exchange.apply
    reported = 0
    _settle()
    began = time.process_time()
    for command in commands:
        reported += len(apply(command, START_NS))
    seconds = time.process_time() - began
    exchange.check_invariants()
    trades = exchange.markets()[MARKET_ID - 1].last_trade_id
    return seconds, trades, exchange.open_order_count()


def run_book(rows: Rows) -> Result:
    """The book alone."""
    build = compiled.build_in_use()
    if build is not None:
        support.__path__.insert(0, str(build / "bench" / "support"))
    from bench.support.bare_book import BareBook

    calls = [
        (kind, order_id, side, price or (FAR if side == SIDE_BUY else 1), lots, kind == LIMIT)
        for kind, order_id, _, side, price, lots in rows
    ]
    book = BareBook()
    place, cancel = book.place, book.cancel
    reported = 0
    _settle()
    began = time.process_time()
    for kind, order_id, side, price, lots, rests in calls:
        if kind:
            reported += len(place(order_id, side, price, lots, rests))
        else:
            cancel(order_id)
    return time.process_time() - began, reported, len(book.orders)


def run_naive(rows: Rows) -> Result:
    """The naive book of the tests."""
    book = NaiveBook()
    trades = 0
    began = time.process_time()
    for kind, order_id, account_id, side, price, lots in rows:
        if kind == CANCEL:
            book.cancel(order_id)
            continue
        far = FAR if side == SIDE_BUY else 0
        order = NaiveOrder(order_id, account_id, side, price or far, lots)
        trades += len(book.trade(order)[0])
        if order.remaining and kind == LIMIT:
            book.rest(order)
    return time.process_time() - began, trades, len(book.orders)


RUNS: dict[str, Callable[[Rows], Result]] = {
    "core": run_core,
    "book": run_book,
    "naive": run_naive,
}


def _settle() -> None:
    """As the engine does: what lives long is not looked through again and again."""
    gc.collect()
    collect_rarely()


def run_one(name: str, path: str) -> None:
    """One run in this process."""
    with open(path, "rb") as file:
        seconds, trades, open_orders = RUNS[name](pickle.load(file))
    result = {"seconds": seconds, "trades": trades, "open_orders": open_orders}
    print(json.dumps({**result, "python": platform.python_version()}))


def contestants(rounds: int) -> dict[str, tuple[list[str], dict[str, str], int]]:
    """Name -> command, environment, rounds."""
    bare = {name: text for name, text in os.environ.items() if name != compiled.VARIABLE}
    ours = [sys.executable, "-m", "bench.core", "--one"]
    found = {
        "core": ([*ours, "core"], bare, rounds),
        "book": ([*ours, "book"], bare, rounds),
        "naive": ([*ours, "naive"], bare, 1),
    }
    if (BUILDS / compiled.build_name()).is_dir():
        fast = {**bare, compiled.VARIABLE: str(BUILDS)}
        found["core compiled"] = ([*ours, "core"], fast, rounds)
        found["book compiled"] = ([*ours, "book"], fast, rounds)
    else:
        emit(bench="core", name="compiled", not_available="the core is not compiled: `make core`")
    for peer in PEERS:
        try:
            python = str(interpreter(peer))
        except NotAvailable as reason:
            emit(bench="core", name=peer.name, not_available=str(reason))
            continue
        loops = str(ROOT / "bench" / "support" / "peer_loops.py")
        found[peer.name] = ([python, loops, peer.name], bare, rounds)
    return found


def compare(operations: int, naive_operations: int, rounds: int) -> None:
    """Run everything and report."""
    with tempfile.TemporaryDirectory() as scratch:
        say("building the workload")
        rows = [tuple(row) for row in build_rows(operations)]
        paths = {"": Path(scratch) / "rows", "naive": Path(scratch) / "few"}
        paths[""].write_bytes(pickle.dumps(rows, protocol=4))
        paths["naive"].write_bytes(pickle.dumps(rows[:naive_operations], protocol=4))
        best: dict[str, dict[str, Any]] = {}
        everyone = contestants(rounds)
        for number in range(rounds):
            for name, (command, environment, its_rounds) in everyone.items():
                if number >= its_rounds:
                    continue
                say(f"round {number + 1} of {its_rounds}: {name}")
                path = paths.get(name, paths[""])
                done = subprocess.run(
                    [*command, str(path)], env=environment, cwd=ROOT, capture_output=True, text=True
                )
                if done.returncode:
                    emit(bench="core", name=name, not_available=done.stderr.splitlines()[-1])
                    continue
                result = json.loads(done.stdout)
                if name not in best or result["seconds"] < best[name]["seconds"]:
                    best[name] = result
    rates: dict[str, float] = {}
    for name, result in best.items():
        count = naive_operations if name == "naive" else operations
        rates[name] = count / result.pop("seconds")
        emit(
            bench="core",
            name=name,
            operations_per_cpu_second=round(rates[name]),
            operations=count,
            **result,
        )
    if len({result["trades"] for name, result in best.items() if name != "naive"}) != 1:
        raise SystemExit("the books do not agree on the trades")
    ratios = {
        f"{ours} / {theirs}": round(rates[ours] / rates[theirs], 2)
        for ours in ("book compiled", "core compiled", "book", "core")
        for theirs in ("lumina-lob", "matching-engine", "naive")
        if ours in rates and theirs in rates
    }
    emit(bench="core ratios", seed=SEED, load_average=os.getloadavg()[0], **ratios)


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=200_000)
    parser.add_argument("--naive-operations", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("NAME", "ROWS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_one(*options.one)
    else:
        compare(options.operations, options.naive_operations, options.rounds)


if __name__ == "__main__":
    main()
